//! Decorrelated jitter: each pause is random between the shortest and three times the last one, so that senders that
//! failed together do not come back together.

use std::time::Duration;

use crate::random::Random;

/// The first pause: a receiver that restarts is back in less than a second, and a person is watching.
const FIRST: Duration = Duration::from_millis(50);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(60);

/// The pauses between the attempts of one request.
pub(super) struct Backoff {
    last: Duration,
    random: Random,
}

impl Backoff {
    /// Starts short.
    pub(super) fn new() -> Self {
        Self { last: FIRST, random: Random::from_entropy() }
    }

    /// The next pause.
    pub(super) fn pause(&mut self) -> Duration {
        let spread = (self.last * 3).saturating_sub(FIRST).as_micros();
        let extra = self.random.below(u64::try_from(spread).unwrap_or(u64::MAX));
        self.last = (FIRST + Duration::from_micros(extra)).min(LONGEST);
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_stay_in_bounds_and_grow_to_the_longest() {
        let mut backoff = Backoff::new();
        let pauses: Vec<Duration> = (0..200).map(|_| backoff.pause()).collect();
        assert!(pauses.iter().all(|pause| (FIRST..=LONGEST).contains(pause)));
        assert!(pauses.iter().max().expect("some") > &Duration::from_secs(10));
    }
}
