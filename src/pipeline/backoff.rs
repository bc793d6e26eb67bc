//! How long to wait before a failed part is started again.

use std::time::{Duration, Instant};

/// A dropped connection is usually back at once; more than ten tries a second help nobody.
const FIRST: Duration = Duration::from_millis(100);
/// An outage of hours must end within seconds of the server's return.
const LONGEST: Duration = Duration::from_secs(10);
/// A part that ran this long has recovered: its next failure is a new one.
const RECOVERED: Duration = Duration::from_secs(30);

/// Doubles from [`FIRST`] to [`LONGEST`].
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    started: Instant,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { next: FIRST, started: Instant::now() }
    }

    /// The pause after a failure of an attempt that began at the last call.
    pub(crate) fn pause(&mut self) -> Duration {
        if self.started.elapsed() >= RECOVERED {
            self.next = FIRST;
        }
        let pause = self.next;
        self.next = (self.next * 2).min(LONGEST);
        self.started = Instant::now() + pause;
        pause
    }

    /// Something went well: the next failure is a new one.
    pub(crate) fn reset(&mut self) {
        self.next = FIRST;
    }
}
