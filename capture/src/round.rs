//! Some workers read pieces of tables for a while, and one thread takes what they read: how a copy goes on, of whichever server.
//!
//! The rule of a copy (see [`crate::postgres`]'s and [`crate::mysql`]'s) has the stream wait meanwhile, so a round is bounded in time:
//! nothing is begun after its end, and what is under way is finished. The first worker that fails has all others give up.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use syncline_schemas::ident::SourceId;

use crate::{CaptureError, StopSignal};

/// How often whoever waits for pieces looks up meanwhile.
const TICK: Duration = Duration::from_millis(100);

/// What the workers of a round share.
pub(crate) struct Round<'a> {
    source: &'a SourceId,
    stop: &'a StopSignal,
    until: Instant,
    failed: AtomicBool,
}

impl<'a> Round<'a> {
    pub(crate) fn new(source: &'a SourceId, stop: &'a StopSignal, length: Duration) -> Self {
        Self { source, stop, until: Instant::now() + length, failed: AtomicBool::new(false) }
    }

    pub(crate) const fn stop(&self) -> &'a StopSignal {
        self.stop
    }

    /// True where nothing more is to be begun.
    pub(crate) fn is_over(&self) -> bool {
        self.is_given_up() || Instant::now() >= self.until
    }

    /// True where the source is to stop or another worker failed.
    pub(crate) fn is_given_up(&self) -> bool {
        self.stop.is_stopped() || self.failed.load(Ordering::Acquire)
    }

    /// The error of a worker that gives up because others do.
    pub(crate) fn given_up(&self, during: &'static str) -> CaptureError {
        let error = io::Error::new(io::ErrorKind::Interrupted, "the copy was given up");
        CaptureError::Lost { source_id: self.source.clone(), during, error }
    }

    /// Has so many workers work until each returns. `take` gets what they say, in the order of each, and at least every [`TICK`]
    /// nothing.
    ///
    /// # Errors
    /// The first of a worker or of `take`, after all workers have ended.
    pub(crate) fn run<M: Send>(
        &self,
        workers: usize,
        work: impl Fn(&Sender<M>) -> Result<(), CaptureError> + Sync,
        mut take: impl FnMut(Option<M>) -> Result<(), CaptureError>,
    ) -> Result<(), CaptureError> {
        let (sender, receiver) = crossbeam_channel::bounded(workers);
        let ended = thread::scope(|scope| {
            let work = &work;
            let start = |_| {
                let sender = sender.clone();
                scope.spawn(move || self.watched(work(&sender)))
            };
            let started: Vec<_> = (0..workers).map(start).collect();
            drop(sender);
            let taken = self.watched(drain(&receiver, &mut take));
            // Workers that still have something to say must not wait for somebody to hear it.
            drop(receiver);
            let join = |worker: ScopedJoinHandle<'_, _>| {
                worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            let ends: Vec<_> = started.into_iter().map(join).collect();
            std::iter::once(taken).chain(ends).collect::<Vec<_>>()
        });
        // Somebody who was only told to give up is not the reason.
        let mut failed: Vec<_> = ended.into_iter().filter_map(Result::err).collect();
        failed.sort_by_key(is_interrupt);
        failed.into_iter().next().map_or(Ok(()), Err)
    }

    fn watched(&self, ended: Result<(), CaptureError>) -> Result<(), CaptureError> {
        if ended.is_err() {
            self.failed.store(true, Ordering::Release);
        }
        ended
    }
}

/// Hears the workers until all of them have ended.
fn drain<M>(
    receiver: &Receiver<M>,
    take: &mut dyn FnMut(Option<M>) -> Result<(), CaptureError>,
) -> Result<(), CaptureError> {
    loop {
        match receiver.recv_timeout(TICK) {
            Ok(message) => take(Some(message))?,
            Err(RecvTimeoutError::Timeout) => take(None)?,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

fn is_interrupt(error: &CaptureError) -> bool {
    matches!(error, CaptureError::Lost { error, .. } if error.kind() == io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    fn failure() -> CaptureError {
        CaptureError::Log { reason: "broken".to_owned() }
    }

    #[test]
    fn one_worker_that_fails_has_the_others_give_up_and_is_the_reason() {
        let (source, stop) = (SourceId::new("erp"), StopSignal::default());
        let round = Round::new(&source, &stop, LONG);
        let next = AtomicUsize::new(0);
        let work = |sender: &Sender<usize>| {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n == 1 {
                return Err(failure());
            }
            while !round.is_given_up() {
                let _ = sender.send(n);
            }
            Err(round.given_up("a test"))
        };
        let error = round.run(3, work, |_| Ok(())).unwrap_err();
        assert!(matches!(error, CaptureError::Log { .. }), "{error}");
    }

    #[test]
    fn workers_end_where_nobody_takes_what_they_read() {
        let (source, stop) = (SourceId::new("erp"), StopSignal::default());
        let round = Round::new(&source, &stop, LONG);
        let work = |sender: &Sender<()>| {
            while !round.is_over() && sender.send(()).is_ok() {}
            if round.is_given_up() { Err(round.given_up("a test")) } else { Ok(()) }
        };
        assert!(matches!(round.run(2, work, |_| Err(failure())), Err(CaptureError::Log { .. })));
    }

    #[test]
    fn all_that_was_read_is_taken_when_the_time_is_over() {
        let (source, stop) = (SourceId::new("erp"), StopSignal::default());
        let round = Round::new(&source, &stop, Duration::ZERO);
        let mut taken = Vec::new();
        let work = |sender: &Sender<u8>| {
            assert!(round.is_over() && !round.is_given_up());
            sender.send(1).map_err(|_| failure())
        };
        round
            .run(2, work, |message| {
                taken.extend(message);
                Ok(())
            })
            .unwrap();
        assert_eq!(taken, [1, 1]);
    }
}
