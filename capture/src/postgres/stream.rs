//! Following the log: bytes to frames, and what is durable back to the server.
//!
//! One thread, one loop: decode everything that has arrived, then read again. What makes it fast and what keeps it
//! prompt are the same decision, taken between two reads:
//!
//! - nothing has arrived: the frame is cut and handed over at once, durable positions are confirmed, and the thread
//!   waits on the socket. Latency is the socket's.
//! - a backlog drains (see [`Pace`]): the server sends one packet per row, and reading each at once makes it pay a
//!   wake-up per row. A pause of half a millisecond after a short read collects many, which halves our own processor
//!   time, and a moment of silence does not end the frame yet.
//!
//! Invariants: `unconfirmed` rises in both parts; only whole transactions enter it; the server is never told a position
//! before the log says that the frame which carries it is durable.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use syncline_schemas::frame::{Frame, LogEntry, TableBatch};
use syncline_schemas::ident::LogOffset;
use tracing::info;

use super::copy::{Copied, Copying, Gate, SNAPSHOT};
use super::decode::{Decoder, Relation, Step};
use super::lsn::Lsn;
use super::pace::Pace;
use super::position::{Cut, PgPosition};
use super::session::{Identity, Session};
use super::watch::Watch;
use super::wire::{Connection, Fill, StreamMessage, quote_identifier, quote_literal, status_update};
use crate::progress::now_us;
use crate::{CaptureError, Outcome, Progress, Resume, State};

const DURING: &str = "following the log";

/// The server must hear from us well within its `wal_sender_timeout` (60 s by default).
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// Durable positions are told sooner than that, but not more often than this.
const CONFIRM_EVERY: Duration = Duration::from_millis(20);
/// How often an idle source's position moves in the journal.
const ADVANCE_EVERY: Duration = Duration::from_secs(1);
/// A wait never lasts longer, so that the stop signal is seen.
const WAIT_MAX: Duration = Duration::from_millis(100);
/// While something waits to become durable: about the time of a few fsyncs.
const WAIT_UNCONFIRMED: Duration = Duration::from_millis(5);
/// After this silence a sign of life is asked for.
const SILENCE: Duration = Duration::from_secs(10);
/// After this one the connection counts as lost, or later where the server is that patient.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// A read below this is short: while a backlog drains, more is on its way.
const SHORT_READ: usize = 64 << 10;
/// How long a short read is followed by a pause then.
const COALESCE: Duration = Duration::from_micros(500);
/// How long a silence must last then before the frame is cut.
const LINGER: Duration = Duration::from_millis(10);
/// How long an orderly end may take.
const FAREWELL: Duration = Duration::from_secs(5);

/// Where and what to follow.
pub(crate) struct StreamStart {
    pub(crate) identity: Identity,
    pub(crate) drain_to: Option<Lsn>,
    pub(crate) start: Lsn,
    pub(crate) cut: Option<Cut>,
    /// The copy that is not finished.
    pub(crate) copying: Option<Copying>,
}

/// How following the log ended.
pub(crate) enum Ended {
    /// For good.
    For(Outcome),
    /// To be begun again from here, with tables that came or are to be read anew.
    ToBeginAgain(Resume),
}

/// How long the server may be silent. It answers only between two pieces of work, and decoding a large transaction that
/// holds nothing for us is one: its own patience with us says how long it thinks that this may take. Without such a
/// limit the silence has none either; a machine that is gone is found out by the keepalives of TCP.
fn silence_max(wal_sender_timeout: Duration) -> Option<Duration> {
    (!wal_sender_timeout.is_zero()).then(|| SILENCE_MAX.max(wal_sender_timeout * 2))
}

pub(crate) struct Stream<'a> {
    session: &'a Session<'a>,
    connection: Connection,
    decoder: Decoder,
    watch: Watch<'a>,
    identity: Identity,
    drain_to: Option<Lsn>,
    copying: Option<Arc<Copying>>,
    gate: Gate,
    asked_at: Option<Instant>,
    /// The server sent everything before it.
    sent: Lsn,
    /// End of the last frame that was handed over.
    appended: Lsn,
    last_offset: LogOffset,
    /// What the last frame says of the source.
    stands: Option<Resume>,
    unconfirmed: VecDeque<(LogOffset, Lsn)>,
    confirmed: Lsn,
    told: Lsn,
    status_at: Instant,
    heard_at: Instant,
    advanced_at: Instant,
    pace: Pace,
    last_read: usize,
}

impl<'a> Stream<'a> {
    /// Starts the stream; its first frame marks the session's start in the journal and carries no rows.
    pub(crate) fn start(
        session: &'a Session<'a>,
        mut connection: Connection,
        watch: Watch<'a>,
        start: StreamStart,
    ) -> Result<Self, CaptureError> {
        let config = session.config;
        let sql = format!(
            "START_REPLICATION SLOT {} LOGICAL {} (proto_version '1', publication_names {})",
            quote_identifier(&config.slot),
            start.start,
            quote_literal(&quote_identifier(&config.publication)),
        );
        connection.start_stream("starting the stream", &sql)?;
        session.progress.server_end_lsn.store(start.identity.log_end.0, std::sync::atomic::Ordering::Relaxed);
        let now = Instant::now();
        let mut decoder = Decoder::new(config.source.clone(), config.special_values, start.start, start.cut);
        if start.copying.is_some() {
            decoder.forget_told();
        }
        let mut stream = Self {
            session,
            connection,
            decoder,
            watch,
            identity: start.identity,
            drain_to: start.drain_to,
            copying: start.copying.map(Arc::new),
            gate: Gate::default(),
            asked_at: None,
            sent: start.start,
            appended: start.start,
            last_offset: LogOffset::START,
            stands: None,
            unconfirmed: VecDeque::new(),
            confirmed: Lsn(0),
            told: Lsn(0),
            status_at: now,
            heard_at: now,
            advanced_at: now,
            pace: Pace::new(now),
            last_read: 0,
        };
        let beginning = match &stream.copying {
            Some(copying) => copying.beginning(session, start.start)?,
            None => Vec::new(),
        };
        if start.cut.is_none() || !beginning.is_empty() {
            stream.hand_over_with(beginning)?;
        }
        Ok(stream)
    }

    /// Between the look at the slot and the start somebody may have moved it; from now on nobody can.
    pub(crate) fn ensure_starts_at(&mut self, start: Lsn) -> Result<(), CaptureError> {
        let slot = quote_literal(&self.session.config.slot);
        let sql = format!("SELECT confirmed_flush_lsn FROM pg_catalog.pg_replication_slots WHERE slot_name = {slot}");
        let rows = self.watch.ask("looking where the stream starts", &sql)?;
        let confirmed: Lsn = rows.first().and_then(|row| row.parsed(0)).unwrap_or_default();
        if confirmed <= start {
            return Ok(());
        }
        let error = io::Error::other("the slot was moved on while the stream was started");
        Err(self.connection.lost(DURING, error))
    }

    /// Follows the log until it is stopped or has drained.
    pub(crate) fn follow(mut self) -> Result<Ended, CaptureError> {
        loop {
            while let Some(range) = self.connection.next_of_stream(DURING)? {
                self.take_message(range)?;
            }
            if self.session.stop.is_stopped() {
                return self.end(Outcome::Stopped).map(Ended::For);
            }
            self.copy()?;
            if self.has_drained() {
                return self.end(Outcome::Drained).map(Ended::For);
            }
            if self.copying.is_none() && !self.decoder.is_in_transaction() {
                self.watch.ask_for_doubted(self.decoder.end());
            }
            // What broke off would have to be gone through again.
            let begins = self.watch.has_newcomers() || self.session.requests.is_waiting();
            if begins && !self.decoder.is_in_transaction() && !self.decoder.is_resuming() {
                let stands = self.leave()?;
                return Ok(stands.map_or(Ended::For(Outcome::Stopped), Ended::ToBeginAgain));
            }
            self.keep_in_touch()?;
            self.read()?;
        }
    }

    /// Reads what has arrived, or does what is due when nothing has.
    fn read(&mut self) -> Result<(), CaptureError> {
        if self.pace.is_burst() && self.last_read < SHORT_READ {
            thread::sleep(COALESCE);
        }
        match self.connection.fill(DURING)? {
            Fill::Bytes(len) => {
                let now = Instant::now();
                self.pace.observe(len, now);
                self.last_read = len;
                self.heard_at = now;
                self.progress().observe_message(len);
                Ok(())
            }
            Fill::Nothing => {
                let goes_on = self.pace.is_burst() && self.connection.wait(DURING, LINGER)?;
                self.pace.observe(0, Instant::now());
                if goes_on { Ok(()) } else { self.idle() }
            }
        }
    }

    /// Whether there is something that no frame holds: rows, or the end of a transaction whose last row filled one.
    fn has_news(&self) -> bool {
        self.decoder.has_rows() || self.decoder.end() > self.appended
    }

    const fn progress(&self) -> &Progress {
        self.session.progress
    }

    fn take_message(&mut self, range: std::ops::Range<usize>) -> Result<(), CaptureError> {
        let message = StreamMessage::parse(self.connection.body(range))
            .map_err(|reason| self.connection.protocol(self.sent.to_string(), reason))?;
        match message {
            StreamMessage::Data { start, end, payload } => {
                self.progress().server_end_lsn.fetch_max(end.0, std::sync::atomic::Ordering::Relaxed);
                match self.decoder.decode(start, payload)? {
                    Step::Continue => Ok(()),
                    Step::Full => self.hand_over(),
                    Step::Relation(relation) => self.describe(&relation),
                }
            }
            StreamMessage::Keepalive { end, reply } => {
                self.progress().server_end_lsn.fetch_max(end.0, std::sync::atomic::Ordering::Relaxed);
                if !self.decoder.is_in_transaction() {
                    self.sent = self.sent.max(end);
                }
                if reply {
                    self.learn_durable()?;
                    self.tell(false)?;
                }
                Ok(())
            }
        }
    }

    /// Finds the shape of a table and puts it into the log before the rows that need it.
    fn describe(&mut self, relation: &Relation) -> Result<(), CaptureError> {
        let Some(shape) = self.watch.shape(relation)? else {
            self.decoder.define(relation.id, None);
            return Ok(());
        };
        if self.decoder.must_cut_for(&shape) {
            self.hand_over()?;
        }
        self.session.log_shape(&shape.schema)?;
        self.decoder.define(relation.id, Some(Arc::new(shape)));
        Ok(())
    }

    /// Goes on with the copy where the stream has come as far as what was copied, or ends it.
    fn copy(&mut self) -> Result<(), CaptureError> {
        let Some(copying) = self.copying.clone() else { return Ok(()) };
        let is_between = !self.decoder.is_in_transaction() && !self.decoder.is_resuming();
        if !is_between || self.decoder.end() < copying.target() {
            return Ok(());
        }
        if self.has_news() {
            // Among it may be rows that are to be read once more.
            self.hand_over()?;
        }
        if copying.is_read() {
            let end = copying.end(self.session, self.decoder.end())?;
            self.copying = None;
            self.decoder.note_none();
            self.hand_over_with(end)?;
            info!(source = %self.session.config.source, at = %self.appended, "copied the tables");
            self.progress().enter(State::Streaming);
            return Ok(());
        }
        if !self.may_copy()? {
            return Ok(());
        }
        let again = copying.beginning_again(self.session, self.decoder.end())?;
        if !again.is_empty() {
            self.hand_over_with(again)?;
        }
        copying.round(self.session, self.decoder.end(), &mut |copied| {
            if let Some(copied) = copied {
                self.append_copied(&copying, copied)?;
            }
            if self.status_at.elapsed() >= STATUS_EVERY {
                self.learn_durable()?;
                self.tell(false)?;
            }
            Ok(())
        })?;
        // The server may have waited for us to read.
        self.heard_at = Instant::now();
        self.hand_over()
    }

    /// Whether a read sees all that the stream has told of.
    fn may_copy(&mut self) -> Result<bool, CaptureError> {
        if self.asked_at.is_some_and(|asked| asked.elapsed() < CONFIRM_EVERY) {
            return Ok(false);
        }
        self.asked_at = Some(Instant::now());
        let rows = self.watch.ask("looking which transactions are open", SNAPSHOT)?;
        let opens = rows.first().and_then(|row| self.gate.opens(row, self.decoder.told()));
        let opens = opens.ok_or_else(|| self.connection.protocol(DURING, "the server has no snapshot"))?;
        if opens {
            self.decoder.forget_told();
            self.asked_at = None;
        }
        Ok(opens)
    }

    /// Hands rows that were copied to the log, at the place where the stream waits.
    fn append_copied(&mut self, copying: &Copying, copied: Copied) -> Result<(), CaptureError> {
        let Copied { batch, counts, bytes } = copied;
        copying.take_given_up().into_iter().for_each(|table| self.watch.distrust(table));
        let frame = self.frame(self.decoder.end(), None, Some(copying), vec![batch]);
        self.last_offset = self.session.log.append(LogEntry::Frame(frame))?;
        self.progress().observe_frame(&counts);
        self.progress().observe_message(bytes);
        Ok(())
    }

    /// A frame up to a place in the server's log.
    fn frame(&self, end: Lsn, cut: Option<Cut>, copying: Option<&Copying>, batches: Vec<TableBatch>) -> Frame {
        let position = PgPosition {
            system_id: self.identity.system_id,
            timeline: self.identity.timeline,
            slot: self.session.config.slot.clone(),
            mark: self.watch.mark(),
            end,
            cut,
            copy: copying.map(Copying::ledger),
        };
        Frame {
            source: self.session.config.source.clone(),
            position: position.encode(),
            captured_at: now_us(),
            txn_end: position.is_whole(),
            batches,
        }
    }

    /// Cuts the frame and hands it to the log.
    fn hand_over(&mut self) -> Result<(), CaptureError> {
        self.hand_over_with(Vec::new())
    }

    /// As [`Self::hand_over`], behind batches of another origin.
    fn hand_over_with(&mut self, mut batches: Vec<TableBatch>) -> Result<(), CaptureError> {
        let moved = self.decoder.take_moved();
        if let Some(copying) = &self.copying {
            copying.take_given_up().into_iter().for_each(|table| self.watch.distrust(table));
            moved.into_iter().for_each(|(table, key)| copying.read_also(table, key));
        }
        let piece = self.decoder.take()?;
        batches.extend(piece.batches);
        let frame = self.frame(piece.end, piece.cut, self.copying.as_deref(), batches);
        self.stands = Some(Resume { position: frame.position.clone(), txn_end: frame.txn_end });
        self.last_offset = self.session.log.append(LogEntry::Frame(frame))?;
        self.progress().observe_frame(&piece.counts);
        self.progress().received_lsn.store(piece.end.0, std::sync::atomic::Ordering::Relaxed);
        self.appended = piece.end;
        if piece.cut.is_none() {
            self.unconfirmed.push_back((self.last_offset, piece.end));
        }
        Ok(())
    }

    /// Nothing has arrived: hands over what is whole, then waits.
    fn idle(&mut self) -> Result<(), CaptureError> {
        if !self.decoder.is_in_transaction() {
            if self.wanted().is_some_and(|target| self.decoder.end() < target && self.sent >= target) {
                self.decoder.advance(self.sent);
            }
            if self.has_news() {
                self.hand_over()?;
            }
        }
        if self.wanted().is_some_and(|target| self.decoder.end() < target) && self.status_at.elapsed() >= WAIT_MAX {
            self.tell(true)?;
        }
        self.ensure_alive()?;
        let wait = if self.unconfirmed.is_empty() { WAIT_MAX } else { WAIT_UNCONFIRMED };
        self.connection.wait(DURING, wait)?;
        Ok(())
    }

    fn ensure_alive(&mut self) -> Result<(), CaptureError> {
        let silence = self.heard_at.elapsed();
        if silence_max(self.identity.wal_sender_timeout).is_some_and(|most| silence > most) {
            let reason = format!("the server has been silent for {} s", silence.as_secs());
            return Err(self.connection.lost(DURING, io::Error::new(io::ErrorKind::TimedOut, reason)));
        }
        if silence > SILENCE && self.status_at.elapsed() >= STATUS_EVERY {
            self.tell(true)?;
        }
        Ok(())
    }

    /// Looks after the tables, moves an idle position, learns what is durable and tells the server, each where that is due.
    fn keep_in_touch(&mut self) -> Result<(), CaptureError> {
        self.watch.look()?;
        // A server that shuts down asks again as soon as it is answered, until all that it has sent is confirmed: it never falls
        // silent.
        if self.advanced_at.elapsed() >= ADVANCE_EVERY && !self.decoder.is_in_transaction() {
            self.advanced_at = Instant::now();
            self.decoder.advance(self.sent);
            if self.has_news() && !self.decoder.has_rows() {
                self.hand_over()?;
            }
        }
        let since = self.status_at.elapsed();
        if since >= STATUS_EVERY || (since >= CONFIRM_EVERY && !self.unconfirmed.is_empty()) {
            self.learn_durable()?;
            if since >= STATUS_EVERY || self.confirmed > self.told {
                self.tell(false)?;
            }
        }
        Ok(())
    }

    fn learn_durable(&mut self) -> Result<(), CaptureError> {
        let durable = self.session.log.durable()?;
        while let Some(&(offset, end)) = self.unconfirmed.front() {
            if offset > durable {
                break;
            }
            self.confirmed = self.confirmed.max(end);
            self.unconfirmed.pop_front();
        }
        Ok(())
    }

    fn tell(&mut self, want_reply: bool) -> Result<(), CaptureError> {
        status_update(self.connection.outbox(), self.confirmed, now_us(), want_reply);
        self.connection.send(DURING)?;
        self.status_at = Instant::now();
        self.told = self.confirmed;
        self.progress().confirmed_lsn.store(self.confirmed.0, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }

    /// The position that somebody waits for.
    fn wanted(&self) -> Option<Lsn> {
        self.copying.as_deref().map(Copying::target).max(self.drain_to).max(self.watch.doubts_upto())
    }

    fn has_drained(&self) -> bool {
        self.copying.is_none()
            && self.watch.doubts_upto().is_none()
            && !self.session.requests.is_waiting()
            && self.drain_to.is_some_and(|target| self.decoder.end() >= target && !self.decoder.is_in_transaction())
    }

    /// Ends in order; gives where the next session begins, where all is durable up to there.
    fn leave(mut self) -> Result<Option<Resume>, CaptureError> {
        if self.has_news() {
            self.hand_over()?;
        }
        let (log, stop, last) = (self.session.log, self.session.stop, self.last_offset);
        let stands = self.stands.take();
        let source = self.session.config.source.clone();
        self.end(Outcome::Stopped)?;
        if stop.is_stopped() {
            return Ok(None);
        }
        if stands.is_some() && log.durable()? >= last {
            return Ok(stands);
        }
        // Whoever begins a session waits for that.
        let error = io::Error::other(
            "there are tables to be read, and the log is not durable yet; the session begins again with them",
        );
        Err(CaptureError::Lost { source_id: source, during: DURING, error })
    }

    /// Ends in order: what is whole becomes durable and is confirmed, then the server is told goodbye.
    fn end(mut self, outcome: Outcome) -> Result<Outcome, CaptureError> {
        if self.has_news() && !self.decoder.is_in_transaction() {
            self.hand_over()?;
        }
        let deadline = Instant::now() + FAREWELL;
        loop {
            self.session.log.wait_durable(self.last_offset, STATUS_EVERY)?;
            self.learn_durable()?;
            self.tell(false)?;
            let may_leave =
                Instant::now() > deadline && (outcome == Outcome::Stopped || self.session.stop.is_stopped());
            if self.unconfirmed.is_empty() || may_leave {
                break;
            }
        }
        let all_confirmed = self.unconfirmed.is_empty();
        let farewell = self.connection.end_stream(FAREWELL);
        match farewell {
            Err(error) if outcome == Outcome::Drained => Err(error),
            _ if outcome == Outcome::Drained && all_confirmed => Ok(Outcome::Drained),
            _ => Ok(Outcome::Stopped),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_takes_its_time_is_not_given_up_sooner_than_it_gives_up_on_us() {
        assert_eq!(silence_max(Duration::from_secs(60)), Some(Duration::from_secs(120)));
        assert_eq!(silence_max(Duration::from_millis(500)), Some(Duration::from_secs(30)));
        assert_eq!(silence_max(Duration::ZERO), None);
    }
}
