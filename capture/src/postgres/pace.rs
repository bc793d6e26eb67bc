//! Whether the server is sending a backlog or single changes: what decides between throughput and latency.
//!
//! Measured by what arrived in the last window of time, and not by whether the socket was ever empty: on a busy machine
//! the server falls silent for a moment in the middle of a backlog, and a frame cut there would be tiny.

use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_millis(20);
/// Some 20,000 rows a second. Below that, waking up for each row costs nothing that anybody needs.
const BURST_BYTES_MIN: usize = 128 << 10;

/// How fast bytes arrive.
pub(crate) struct Pace {
    since: Instant,
    bytes: usize,
    burst: bool,
}

impl Pace {
    pub(crate) const fn new(now: Instant) -> Self {
        Self { since: now, bytes: 0, burst: false }
    }

    /// So many bytes arrived, or none.
    pub(crate) fn observe(&mut self, bytes: usize, now: Instant) {
        self.bytes += bytes;
        if now.duration_since(self.since) >= WINDOW {
            self.burst = self.bytes >= BURST_BYTES_MIN;
            (self.since, self.bytes) = (now, 0);
        }
    }

    /// True while a backlog drains.
    pub(crate) const fn is_burst(&self) -> bool {
        self.burst
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_trickle_is_never_held_up_and_a_backlog_is_collected() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        for ms in 0..2_000 {
            pace.observe(300, start + Duration::from_millis(ms));
            assert!(!pace.is_burst(), "one change a millisecond");
        }
        for ms in 2_000..2_100 {
            pace.observe(30_000, start + Duration::from_millis(ms));
        }
        assert!(pace.is_burst());
        pace.observe(0, start + Duration::from_millis(2_125));
        pace.observe(0, start + Duration::from_millis(2_150));
        assert!(!pace.is_burst(), "it ended");
    }
}
