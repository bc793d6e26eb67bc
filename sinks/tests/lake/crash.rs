//! A crash at a chosen step: the future is dropped after so many polls; what it left to other threads still happens.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

/// The result, or `None` where the future was dropped first.
pub(crate) async fn after<F: Future>(polls: u64, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(context).map(Some)
    })
    .await
}
