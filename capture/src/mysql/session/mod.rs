//! One session: connect, look at the server, check the position, copy the tables, follow the log.
//!
//! ```text
//! journal holds   what happens
//! nothing         start behind all that the server has logged, and copy the tables there, unless snapshot is "never"
//! position        the first server that has executed all of it and still has what follows: go on right behind it; else see opening
//! ... in a copy   go on with what its ledger says
//! ... to be again as with nothing, whatever snapshot is
//! ```
//! One loop: decode everything that has arrived, then read again; a thread beside it [puts](written) what comes of it into the
//! log. While nothing arrives the frame is cut and handed over at once. Nothing is told to the server: it keeps its log by its
//! own rule. While tables are copied the loop stands still for a round of pieces wherever it has come as far as these may have
//! seen, between two transactions. Where somebody wants a table read anew, it ends there and another session begins, which copies
//! it as one that came.

mod copying;
mod gap;
mod headroom;
mod opening;
mod proof;
mod written;

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use syncline_schemas::frame::{Frame, LogEntry, TableBatch};
use syncline_schemas::ident::TableId;

use self::copying::Standing;
use self::headroom::Headroom;
use self::opening::Opened;
use self::proof::Proof;
use self::written::{Written, beside};
use crate::limits::FRAME_GAP;
use crate::mysql::catalog;
use crate::mysql::config::MySqlConfig;
use crate::mysql::copy::Copying;
use crate::mysql::decoder::{Decoder, Policies, Step};
use crate::mysql::gtid::GtidSet;
use crate::mysql::position::MyPosition;
use crate::mysql::row::Shape;
use crate::mysql::site::Site;
use crate::mysql::wire::{Dump, Fill};
use crate::progress::now_us;
use crate::{CaptureError, LogSink, Outcome, Progress, Requests, Resume, State, StopSignal};

/// A wait never lasts longer, so that the stop signal is seen.
const WAIT_MAX: Duration = Duration::from_millis(100);
/// The server says every second that it is alive; after this silence the connection counts as lost.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How often the position moves in the journal while nothing comes that is read.
const ADVANCE_EVERY: Duration = Duration::from_secs(1);
const KEEP_DATA: &str = "run the Syncline that wrote it; keep the data_dir";

/// Follows the log of a MySQL or MariaDB source for one session, until it is stopped, has drained or fails.
///
/// Blocks; give it a thread. After an error of class `Transient` the caller starts it again with the newest position that
/// was appended for the source, and not before that is durable.
///
/// # Errors
/// [`CaptureError`]; its class says whether another session can help.
pub fn follow(
    config: &MySqlConfig,
    resume: Option<&Resume>,
    log: &dyn LogSink,
    progress: &Progress,
    requests: &Requests,
    stop: &StopSignal,
) -> Result<Outcome, CaptureError> {
    progress.enter(State::Connecting);
    let mut resume = resume.cloned();
    let outcome = loop {
        let ended = Opened::first(config, resume.as_ref(), progress, requests, stop).and_then(|opened| {
            beside(log, &config.source, |log| {
                Stream::start(config, opened, log, progress, requests, stop).and_then(|(stream, dump)| stream.run(dump))
            })
        });
        match ended {
            Ok(Ended::ToBeginAgain(stands)) => resume = Some(stands),
            Ok(Ended::For(outcome)) => break Ok(outcome),
            Err(error) => break Err(error),
        }
    };
    progress.enter(State::Idle);
    match outcome {
        Err(CaptureError::Lost { error, .. }) if stop.is_stopped() && error.kind() == io::ErrorKind::Interrupted => {
            Ok(Outcome::Stopped)
        }
        outcome => outcome,
    }
}

/// How following the log ended.
enum Ended {
    /// For good.
    For(Outcome),
    /// To be begun again from here, with tables that are to be read anew.
    ToBeginAgain(Resume),
}

struct Stream<'a> {
    config: &'a MySqlConfig,
    /// Where all connections go.
    site: Site,
    log: &'a Written<'a>,
    progress: &'a Progress,
    requests: &'a Requests,
    stop: &'a StopSignal,
    decoder: Decoder,
    /// Of these tables all rows are in the log, or will be once the copy has ended.
    known: BTreeSet<TableId>,
    copying: Option<Copying>,
    /// Where a drain ends.
    target: Option<GtidSet>,
    /// What the last frame says.
    appended: GtidSet,
    /// Where the source stands with the last frame; none before the first.
    stands: Option<Resume>,
    proof: Proof,
    headroom: Headroom,
    appended_at: Instant,
    heard_at: Instant,
}

impl<'a> Stream<'a> {
    fn start(
        config: &'a MySqlConfig,
        opened: Opened,
        log: &'a Written<'a>,
        progress: &'a Progress,
        requests: &'a Requests,
        stop: &'a StopSignal,
    ) -> Result<(Self, Dump), CaptureError> {
        let Opened { connection, site, scope, executed, end, cut, standing, dump } = opened;
        let Standing { known, copying, taken } = standing;
        progress.enter(if copying.is_some() { State::Snapshot } else { State::Streaming });
        let policies = Policies { special_values: config.special_values, truncates: config.truncate };
        let now = Instant::now();
        let is_cut = cut.is_some();
        let mut stream = Self {
            config,
            site,
            log,
            progress,
            requests,
            stop,
            decoder: Decoder::new(config.source.clone(), scope, policies, end.clone(), cut),
            known,
            copying,
            target: config.drain.then_some(executed),
            appended: end,
            stands: None,
            proof: Proof::new(connection),
            headroom: Headroom::default(),
            appended_at: now,
            heard_at: now,
        };
        if stream.copying.is_some() {
            // Of tables that come nothing is known yet.
            progress.forget_proofs();
        }
        stream.begin_copy()?;
        if !is_cut {
            // Marks the session's start in the journal.
            stream.hand_over()?;
        }
        stream.answer(taken)?;
        Ok((stream, dump))
    }

    fn run(mut self, mut dump: Dump) -> Result<Ended, CaptureError> {
        loop {
            while let Some(range) = dump.next()? {
                let step = self.decoder.decode(dump.event(range))?;
                self.take(step)?;
                if self.is_asked() {
                    return self.leave();
                }
                self.copy()?;
            }
            if self.is_asked() {
                return self.leave();
            }
            self.prove()?;
            self.look_behind()?;
            if self.stop.is_stopped() {
                return self.end(Outcome::Stopped).map(Ended::For);
            }
            match dump.fill()? {
                Fill::Bytes(len) => {
                    self.heard_at = Instant::now();
                    self.progress.observe_message(len);
                }
                Fill::Nothing => {
                    let wait = self.until_next_frame();
                    if !wait.is_zero() && dump.wait(wait)? {
                        continue;
                    }
                    self.copy()?;
                    if let Some(outcome) = self.idle()? {
                        return self.end(outcome).map(Ended::For);
                    }
                    dump.wait(WAIT_MAX)?;
                }
            }
        }
    }

    /// How long rows wait for others that belong into the same frame.
    fn until_next_frame(&self) -> Duration {
        if self.decoder.has_rows() { FRAME_GAP.saturating_sub(self.appended_at.elapsed()) } else { Duration::ZERO }
    }

    fn take(&mut self, step: Step<'_>) -> Result<(), CaptureError> {
        match step {
            Step::Continue => Ok(()),
            Step::Full => self.hand_over(),
            Step::Refused(error) => self.refuse(*error),
            Step::Replaced(replaced) => self.replaced(replaced),
            Step::Unsaid(table) => {
                let mut connection = self.site.open(self.config, self.stop)?;
                let besides = catalog::besides(&mut connection, &table)?;
                let step = self.decoder.say(table, besides)?;
                self.take(step)
            }
            Step::Shape(shape) => {
                self.ensure_known(&shape.schema.table)?;
                if self.decoder.must_cut_for(&shape) {
                    self.hand_over()?;
                }
                self.define(shape)
            }
            Step::Payload(mut payload) => {
                let protocol = |reason: &str| CaptureError::Protocol {
                    source_id: self.config.source.clone(),
                    at: "a compressed transaction".to_owned(),
                    reason: reason.to_owned(),
                };
                while let Some(event) = payload.next().map_err(protocol)? {
                    let step = self.decoder.decode_inner(event)?;
                    self.take(step)?;
                }
                Ok(())
            }
        }
    }

    /// Ends with what came before.
    fn refuse(&mut self, error: CaptureError) -> Result<(), CaptureError> {
        if self.decoder.has_rows() {
            self.hand_over()?;
        }
        Err(error)
    }

    fn define(&mut self, shape: Arc<Shape>) -> Result<(), CaptureError> {
        if !self.progress.has_logged(&shape.schema) {
            self.log.append(LogEntry::Schema(shape.schema.clone()))?;
            self.log.settle()?;
            self.progress.observe_shape(&shape.schema);
        }
        self.decoder.define(shape);
        Ok(())
    }

    /// Nothing has arrived: hands over what is whole; gives how the session ends, if it does.
    fn idle(&mut self) -> Result<Option<Outcome>, CaptureError> {
        self.log.check()?;
        if !self.decoder.is_in_transaction() {
            let has_moved = *self.decoder.end() != self.appended;
            let has_drained = self.copying.is_none()
                && !self.requests.is_waiting()
                && self.target.as_ref().is_some_and(|target| self.decoder.end().contains(target));
            let is_due = has_drained || self.appended_at.elapsed() >= ADVANCE_EVERY;
            if self.decoder.has_rows() || (has_moved && is_due) {
                self.hand_over()?;
            }
            if has_drained {
                return Ok(Some(Outcome::Drained));
            }
        }
        if self.heard_at.elapsed() > SILENCE_MAX {
            let reason = format!("the server has been silent for {} s", self.heard_at.elapsed().as_secs());
            return Err(CaptureError::Lost {
                source_id: self.config.source.clone(),
                during: "following the log",
                error: io::Error::new(io::ErrorKind::TimedOut, reason),
            });
        }
        Ok(None)
    }

    /// Cuts the frame and hands it to the log.
    fn hand_over(&mut self) -> Result<(), CaptureError> {
        self.hand_over_with(Vec::new())
    }

    /// As [`Self::hand_over`], behind batches of another origin.
    fn hand_over_with(&mut self, mut batches: Vec<TableBatch>) -> Result<(), CaptureError> {
        let piece = self.decoder.take()?;
        batches.extend(piece.batches);
        self.appended = piece.end.clone();
        self.appended_at = Instant::now();
        let copy = self.copying.as_ref().map(Copying::ledger);
        let txn_end = piece.cut.is_none() && copy.is_none();
        let position = MyPosition { end: piece.end, cut: piece.cut, known: self.known.clone(), server: None, copy };
        self.append_frame(position, txn_end, batches)?;
        self.progress.observe_frame(&piece.counts);
        Ok(())
    }

    fn append_frame(
        &mut self,
        mut position: MyPosition,
        txn_end: bool,
        batches: Vec<TableBatch>,
    ) -> Result<(), CaptureError> {
        position.server = position.is_bound().then(|| self.site.identity.clone());
        let (source, position) = (self.config.source.clone(), position.encode());
        self.stands = Some(Resume { position: position.clone(), txn_end });
        let frame = Frame { source, position, captured_at: now_us(), txn_end, batches };
        self.log.append(LogEntry::Frame(frame))
    }

    /// Ends in order, to begin again from here.
    fn leave(mut self) -> Result<Ended, CaptureError> {
        self.hand_over()?;
        let (stands, stop) = (self.stands.take(), self.stop);
        let outcome = self.end(Outcome::Stopped)?;
        let stands = stands.filter(|_| !stop.is_stopped());
        Ok(stands.map_or(Ended::For(outcome), Ended::ToBeginAgain))
    }

    /// Ends once what was handed over is durable.
    fn end(mut self, outcome: Outcome) -> Result<Outcome, CaptureError> {
        if self.decoder.has_rows() && !self.decoder.is_in_transaction() {
            self.hand_over()?;
        }
        Ok(if self.settle()? { outcome } else { Outcome::Stopped })
    }

    /// Waits until what was handed over is durable; false where it is to stop before.
    fn settle(&self) -> Result<bool, CaptureError> {
        let last = self.log.settle()?;
        while self.log.log().wait_durable(last, WAIT_MAX)? < last {
            if self.stop.is_stopped() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
