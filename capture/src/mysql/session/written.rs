//! Entries on their way into the log, which a thread of its own puts there: what that costs (an entry is written as Arrow's bytes
//! and compressed) goes on beside the decoding of the next one, and is as much work.
//!
//! Invariants: entries come into the log in the order in which they were given, and none behind one that failed; when
//! [`beside`] returns all of them are there, or its error says why not. What has to be in the log before something else
//! happens is waited for with [`Written::settle`].

use std::io;
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use syncline_schemas::frame::LogEntry;
use syncline_schemas::ident::{LogOffset, SourceId};

use crate::{CaptureError, LogSink};

/// Entries that wait, besides the one that is being written: a frame has megabytes.
const WAITING_MAX: usize = 1;
/// How soon whoever waits for the log finds out that it takes nothing.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const DURING: &str = "writing the log";

enum Message {
    Entry(LogEntry),
    /// Tell where the last entry came to.
    Where(Sender<LogOffset>),
}

/// The log as the session sees it.
pub(super) struct Written<'a> {
    log: &'a dyn LogSink,
    source: &'a SourceId,
    sender: Sender<Message>,
    writer: &'a ScopedJoinHandle<'a, Result<(), CaptureError>>,
}

/// Runs a session beside the thread that writes its entries. Where these fail, that is why the session ended.
pub(super) fn beside<T>(
    log: &dyn LogSink,
    source: &SourceId,
    session: impl FnOnce(&Written<'_>) -> Result<T, CaptureError>,
) -> Result<T, CaptureError> {
    let (sender, receiver) = bounded(WAITING_MAX);
    thread::scope(|scope| {
        let writer = scope.spawn(move || write(log, &receiver));
        let written = Written { log, source, sender, writer: &writer };
        let ended = session(&written);
        drop(written);
        writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        ended
    })
}

fn write(log: &dyn LogSink, receiver: &Receiver<Message>) -> Result<(), CaptureError> {
    let mut last = LogOffset::START;
    for message in receiver {
        match message {
            Message::Entry(entry) => last = log.append(entry)?,
            // Whoever asked and is gone needs no answer.
            Message::Where(answer) => drop(answer.send(last)),
        }
    }
    Ok(())
}

impl<'a> Written<'a> {
    /// The log itself.
    pub(super) const fn log(&self) -> &'a dyn LogSink {
        self.log
    }

    /// Gives an entry to the log; waits while others wait.
    pub(super) fn append(&self, entry: LogEntry) -> Result<(), CaptureError> {
        self.sender.send(Message::Entry(entry)).map_err(|_| self.failed())
    }

    /// An error where an entry was not taken, which otherwise the next one would find out.
    pub(super) fn check(&self) -> Result<(), CaptureError> {
        if self.writer.is_finished() { Err(self.failed()) } else { Ok(()) }
    }

    /// Waits until all that was given is in the log; where the last entry is, of those of this session.
    pub(super) fn settle(&self) -> Result<LogOffset, CaptureError> {
        let (answer, answered) = bounded(1);
        self.sender.send(Message::Where(answer)).map_err(|_| self.failed())?;
        loop {
            match answered.recv_timeout(LOOK_EVERY) {
                Ok(last) => return Ok(last),
                // A question that nobody takes any more stays where it is, and is not answered with a no.
                Err(RecvTimeoutError::Timeout) => self.check()?,
                Err(RecvTimeoutError::Disconnected) => return Err(self.failed()),
            }
        }
    }

    /// Ends the session; [`beside`] knows why.
    fn failed(&self) -> CaptureError {
        let error = io::Error::other("an entry was not taken");
        CaptureError::Lost { source_id: self.source.clone(), during: DURING, error }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use syncline_schemas::frame::Frame;
    use syncline_schemas::ident::Position;

    use super::*;

    /// A log with room for so many entries.
    struct Log {
        room: usize,
        taken: Mutex<Vec<u8>>,
    }

    impl LogSink for Log {
        fn append(&self, entry: LogEntry) -> Result<LogOffset, CaptureError> {
            let LogEntry::Frame(frame) = entry else { panic!("only frames are given") };
            let mut taken = self.taken.lock().unwrap();
            if taken.len() == self.room {
                thread::yield_now();
                return Err(CaptureError::NoRoom { source_id: frame.source });
            }
            taken.extend(frame.position.as_bytes());
            Ok(LogOffset(taken.len() as u64))
        }

        fn durable(&self) -> Result<LogOffset, CaptureError> {
            Ok(LogOffset(self.taken.lock().unwrap().len() as u64))
        }

        fn wait_durable(&self, _: LogOffset, _: Duration) -> Result<LogOffset, CaptureError> {
            self.durable()
        }
    }

    fn frame(number: u8) -> LogEntry {
        let (source, position) = (SourceId::new("erp"), Position::new(vec![number]));
        LogEntry::Frame(Frame { source, position, captured_at: 0, txn_end: true, batches: Vec::new() })
    }

    #[test]
    fn all_that_was_given_is_in_the_log_when_the_session_is_over_however_it_ends() {
        let log = Log { room: 100, taken: Mutex::default() };
        let ended: Result<(), _> = beside(&log, &SourceId::new("erp"), |written| {
            (0..50).try_for_each(|number| written.append(frame(number)))?;
            assert_eq!(written.settle()?, LogOffset(50));
            (50..60).try_for_each(|number| written.append(frame(number)))?;
            Err(written.failed())
        });
        assert!(matches!(ended, Err(CaptureError::Lost { .. })), "{ended:?}");
        assert_eq!(*log.taken.lock().unwrap(), (0..60).collect::<Vec<u8>>());
    }

    #[test]
    fn nothing_comes_into_the_log_behind_what_it_refused_and_the_session_ends_without_another_entry() {
        let log = Log { room: 1, taken: Mutex::default() };
        let ended: Result<(), _> = beside(&log, &SourceId::new("erp"), |written| {
            written.append(frame(0))?;
            written.append(frame(1))?;
            loop {
                written.check()?;
                thread::yield_now();
            }
        });
        assert!(matches!(ended, Err(CaptureError::NoRoom { .. })), "{ended:?}");
        let ended = beside(&log, &SourceId::new("erp"), |written| {
            (2..9).try_for_each(|number| written.append(frame(number)))?;
            written.settle()
        });
        assert!(matches!(ended, Err(CaptureError::NoRoom { .. })), "{ended:?}");
        assert_eq!(*log.taken.lock().unwrap(), [0]);
    }

    #[test]
    fn whoever_waits_for_a_log_that_has_failed_does_not_wait_for_ever() {
        let source = SourceId::new("erp");
        // The question may come before the failure, and behind it.
        for _ in 0..200 {
            let log = Log { room: 0, taken: Mutex::default() };
            let ended = beside(&log, &source, |written| {
                written.append(frame(1))?;
                written.settle()
            });
            assert!(matches!(ended, Err(CaptureError::NoRoom { .. })), "{ended:?}");
        }
    }
}
