//! Transactions that are streamed before they end: kept beside the stream, and decoded once they are committed.
//!
//! What cannot be kept is no loss: the next sessions receive such transactions when they are committed, as the server sends them
//! to whoever does not ask for more.

use std::time::{Duration, Instant};

use super::{STATUS_EVERY, Stream};
use crate::postgres::session::Session;
use crate::postgres::spool::{Committed, Fault, Spool};
use crate::{CaptureError, Class};

/// How long transactions are received whole after one that could not be received while it was in progress.
const WHOLE: Duration = Duration::from_secs(3600);
/// After so many messages of a transaction that was in progress the loop looks after everything else.
const REPLAYED_AT_ONCE: usize = 4096;
/// So many parts of a transaction are asked for at once.
const PARTS_AT_ONCE: usize = 20_000;

impl Session<'_> {
    /// Where transactions in progress are kept, if they are to be received.
    pub(super) fn open_spool(&self) -> Result<Option<Spool>, CaptureError> {
        let spool = self.config.spool().filter(|_| self.requests.may_stream());
        let opened = spool.map(|spool| Spool::open(&spool.folder, spool.max)).transpose();
        opened.map_err(|fault| self.receive_whole(&fault))
    }

    /// Has the next sessions receive transactions when they are committed.
    pub(super) fn receive_whole(&self, fault: &Fault) -> CaptureError {
        self.requests.receive_whole(WHOLE);
        let source_id = self.config.source.clone();
        CaptureError::InProgress { source_id, reason: fault.to_string() }
    }
}

impl Stream<'_> {
    /// True where the next session would receive transactions while they are in progress, and this one does not.
    pub(super) fn may_stream_again(&self) -> bool {
        self.spool.is_none() && self.session.config.spool().is_some() && self.session.requests.may_stream()
    }

    /// Takes a transaction that was in progress, where all that came of it counts.
    pub(super) fn begin_replay(&mut self, committed: Committed) -> Result<(), CaptureError> {
        let Committed { parts, replayed } = committed;
        for parts in parts.chunks(PARTS_AT_ONCE) {
            match self.watch.counts(parts) {
                Ok(true) => {}
                Ok(false) => return Err(self.session.receive_whole(&Fault::Void)),
                Err(error @ CaptureError::Server { .. }) if error.class() == Class::Definite => {
                    return Err(self.session.receive_whole(&Fault::Unanswered(error.to_string())));
                }
                Err(error) => return Err(error),
            }
            if self.status_at.elapsed() >= STATUS_EVERY {
                self.learn_durable()?;
                self.tell(false)?;
            }
        }
        self.replayed = Some(replayed);
        Ok(())
    }

    /// Goes on with a transaction that was in progress and is committed now; what comes behind it waits.
    pub(super) fn replay(&mut self) -> Result<(), CaptureError> {
        if self.replayed.is_some() {
            // It was heard of long ago, and is not silent.
            self.progress().observe_message(0);
        }
        let mut payload = Vec::new();
        for _ in 0..REPLAYED_AT_ONCE {
            let Some(replayed) = &mut self.replayed else { return Ok(()) };
            let next = replayed.next(&mut payload).map_err(|fault| self.session.receive_whole(&fault))?;
            let Some(start) = next else {
                self.replayed = None;
                // The server may have waited for us to read.
                self.heard_at = Instant::now();
                return Ok(());
            };
            let step = self.decoder.decode(start, &payload)?;
            self.take_step(step)?;
        }
        Ok(())
    }
}
