//! A part that panics is parked like one that met a fault it cannot mend.
//!
//! A thread that ends without a word looks like one that has nothing to do: nothing is parked, `/health` stays green,
//! and a drain waits for ever. A panic is a defect of ours and no reason for any other part to stop, so the process lives.

use tracing::error;

use super::status::Status;

/// Runs a part on the thread that is its own; should it panic, `park` is told why. Whoever waits is woken either way.
pub(super) fn watched(status: &Status, park: impl Fn(String), work: impl FnOnce()) {
    let _watch = Watch { status, park };
    work();
}

struct Watch<'s, F: Fn(String)> {
    status: &'s Status,
    park: F,
}

impl<F: Fn(String)> Drop for Watch<'_, F> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let thread = std::thread::current();
            let reason = format!(
                "stopped by a defect in Syncline: please report it (thread {})",
                thread.name().unwrap_or("without a name")
            );
            error!("{reason}");
            (self.park)(reason);
        }
        self.status.pulse();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;
    use std::time::Instant;

    use super::*;
    use crate::pipeline::status::one_source;

    #[test]
    fn a_part_that_panics_is_parked_with_its_thread_and_whoever_waits_is_woken() {
        let status = Arc::new(Status::new(Instant::now(), &one_source(), &[]));
        let pulses = status.subscribe();
        let panicking = std::thread::Builder::new().name("capture-erp".to_owned()).spawn({
            let status = Arc::clone(&status);
            move || {
                let source = &status.sources[0];
                // Like a panic, but without its message among those of the tests.
                watched(&status, |why| source.park_finished(why), || std::panic::resume_unwind(Box::new(())));
            }
        });
        panicking.expect("a thread").join().expect_err("it panicked");
        let source = &status.sources[0];
        let reason = source.parked.reason().expect("parked");
        assert!(reason.ends_with("please report it (thread capture-erp)"), "{reason}");
        assert!(source.finished.load(Ordering::Acquire) && pulses.has_changed().expect("the status lives"));
        watched(&status, |why| panic!("{why}"), || ());
    }
}
