//! A crash at a chosen step: the future is dropped after so many polls; what it left to other threads still happens.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use super::model::Random;

/// Chooses where writes are killed: spread over as many steps as the last whole write had.
pub(crate) struct Killer {
    steps: u64,
    pub(crate) kills: u64,
    pub(crate) whole: u64,
}

impl Killer {
    pub(crate) fn new() -> Self {
        Self { steps: 100, kills: 0, whole: 0 }
    }

    /// The result, or `None` where the future was dropped first.
    pub(crate) async fn run<F: Future>(&mut self, random: &mut Random, future: F) -> Option<F::Output> {
        let last = if random.below(3) > 0 { random.below(self.steps) } else { u64::MAX };
        let mut future = pin!(future);
        let mut steps = 0;
        let result = poll_fn(|context| {
            if steps == last {
                return Poll::Ready(None);
            }
            steps += 1;
            future.as_mut().poll(context).map(Some)
        })
        .await;
        if result.is_some() {
            self.steps = steps;
            self.whole += 1;
        } else {
            self.kills += 1;
        }
        result
    }
}
