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
//! before the log says that the frame which carries it is durable; behind a transaction in progress that is committed nothing is
//! read before it is decoded.

mod copying;
mod in_progress;
mod touch;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use syncline_schemas::frame::{Frame, LogEntry, TableBatch};
use syncline_schemas::ident::LogOffset;

use super::copy::{Copying, Gate, Ledger};
use super::decode::{Decoder, Relation, Step};
use super::lsn::Lsn;
use super::pace::Pace;
use super::position::{Cut, PgPosition};
use super::session::{Identity, Session};
use super::spool::{Replayed, Spool, Taken};
use super::watch::Watch;
use super::wire::{Connection, Fill, StreamMessage, quote_identifier, quote_literal};
use crate::limits::FRAME_GAP;
use crate::progress::now_us;
use crate::{CaptureError, Outcome, Progress, Resume};

const DURING: &str = "following the log";
const STARTING: &str = "starting the stream";

/// The server must hear from us well within its `wal_sender_timeout` (60 s by default).
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// Durable positions are told sooner than that, but not more often than this.
const CONFIRM_EVERY: Duration = Duration::from_millis(20);
/// A read below this is short: while a backlog drains, more is on its way.
const SHORT_READ: usize = 64 << 10;
/// How long a short read is followed by a pause then.
const COALESCE: Duration = Duration::from_micros(500);
/// How long a silence must last then before the frame is cut.
const LINGER: Duration = Duration::from_millis(10);

/// Where and what to follow.
pub(crate) struct StreamStart {
    pub(crate) identity: Identity,
    pub(crate) drain_to: Option<Lsn>,
    pub(crate) start: Lsn,
    pub(crate) cut: Option<Cut>,
    /// The copy that is not finished.
    pub(crate) copying: Option<Copying>,
    /// Every value of the tables has a binary form that is read.
    pub(crate) fits_binary: bool,
}

/// How following the log ended.
pub(crate) enum Ended {
    /// For good.
    For(Outcome),
    /// To be begun again from here, with tables that came or are to be read anew.
    ToBeginAgain(Resume),
}

pub(crate) struct Stream<'a> {
    session: &'a Session<'a>,
    connection: Connection,
    decoder: Decoder,
    /// Transactions in progress, where they are streamed.
    spool: Option<Spool>,
    /// One of them that is committed, as far as it is not decoded yet.
    replayed: Option<Replayed>,
    watch: Watch<'a>,
    identity: Identity,
    drain_to: Option<Lsn>,
    copying: Option<Arc<Copying>>,
    /// Tables without a key have another shape than when they were counted: the next session reads them anew.
    is_outdated: bool,
    /// What there is to read of them, where nothing else is copied.
    outdated: Option<Ledger>,
    /// Values come in binary form.
    is_binary: bool,
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
    /// A moment of the server's clock, and where its log ended then.
    proof: Option<(i64, Lsn)>,
    /// The last frame that ends a transaction: what is in the log up to there counts.
    whole: Option<(Lsn, LogOffset)>,
    pace: Pace,
    last_read: usize,
    /// When the last frame was cut.
    handed_at: Instant,
}

impl<'a> Stream<'a> {
    /// Starts the stream; its first frame marks the session's start in the journal and carries no rows.
    pub(crate) fn start(
        session: &'a Session<'a>,
        mut connection: Connection,
        mut watch: Watch<'a>,
        start: StreamStart,
    ) -> Result<Self, CaptureError> {
        let config = session.config;
        let spool = session.open_spool()?;
        let is_binary = start.fits_binary && session.requests.may_receive_binary();
        let sql = format!(
            "START_REPLICATION SLOT {} LOGICAL {} ({}, publication_names {}{}{})",
            quote_identifier(&config.slot),
            start.start,
            if spool.is_some() { "proto_version '2', streaming 'on'" } else { "proto_version '1'" },
            quote_literal(&quote_identifier(&config.publication)),
            if config.messages.is_some() { ", messages 'true'" } else { "" },
            if is_binary { ", binary 'true'" } else { "" },
        );
        connection.start_stream(STARTING, &sql).map_err(|error| watch.judged(STARTING, error))?;
        session.progress.server_end_lsn.store(start.identity.log_end.0, std::sync::atomic::Ordering::Relaxed);
        let now = Instant::now();
        let mut decoder = Decoder::new(config.source.clone(), config.special_values, start.start, start.cut)
            .with_truncates(config.truncate)
            .with_messages(config.messages.as_ref());
        if start.copying.is_some() {
            decoder.forget_told();
        }
        let mut stream = Self {
            session,
            connection,
            decoder,
            spool,
            replayed: None,
            watch,
            identity: start.identity,
            drain_to: start.drain_to,
            copying: start.copying.map(Arc::new),
            is_outdated: false,
            outdated: None,
            is_binary,
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
            proof: None,
            whole: None,
            pace: Pace::new(now),
            handed_at: now,
            last_read: 0,
        };
        stream.begin_to_count();
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
            self.take_messages()?;
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
            if self.begins_again() {
                let stands = self.leave()?;
                return Ok(stands.map_or(Ended::For(Outcome::Stopped), Ended::ToBeginAgain));
            }
            self.keep_in_touch()?;
            if self.replayed.is_none() {
                self.read()?;
            }
        }
    }

    /// True where another session is wanted, and nothing breaks off that would have to be gone through again.
    fn begins_again(&self) -> bool {
        self.refuse_requests();
        let is_wanted = self.is_outdated
            || self.watch.has_newcomers()
            || self.session.requests.is_waiting()
            || self.may_stream_again();
        let is_settling = self.copying.as_ref().is_some_and(|copying| copying.is_settling());
        is_wanted && !is_settling && !self.decoder.is_in_transaction() && !self.decoder.is_resuming()
    }

    /// Takes what has arrived.
    fn take_messages(&mut self) -> Result<(), CaptureError> {
        loop {
            self.replay()?;
            if self.replayed.is_some() {
                return Ok(());
            }
            let Some(range) = self.connection.next_of_stream(DURING)? else { return Ok(()) };
            self.take_message(range)?;
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
                let wait = if self.pace.is_burst() { LINGER } else { self.until_next_frame() };
                let goes_on = !wait.is_zero() && self.connection.wait(DURING, wait)?;
                self.pace.observe(0, Instant::now());
                if goes_on { Ok(()) } else { self.idle() }
            }
        }
    }

    /// How long rows wait for others that belong into the same frame.
    fn until_next_frame(&self) -> Duration {
        if self.decoder.has_rows() { FRAME_GAP.saturating_sub(self.handed_at.elapsed()) } else { Duration::ZERO }
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
                let taken = self.spool.as_mut().map_or(Ok(Taken::Not), |spool| spool.take(start, payload));
                match taken.map_err(|fault| self.session.receive_whole(&fault))? {
                    Taken::Not => {
                        if payload.first() == Some(&b'M') {
                            self.decoder.observe_time(now_us());
                        }
                        let step = self.decoder.decode(start, payload)?;
                        self.take_step(step)
                    }
                    Taken::Kept => Ok(()),
                    Taken::Committed(committed) => self.begin_replay(*committed),
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

    fn take_step(&mut self, step: Step) -> Result<(), CaptureError> {
        match step {
            Step::Continue => Ok(()),
            Step::Full => self.hand_over(),
            Step::Outdated(table) => {
                self.outdate(table);
                Ok(())
            }
            Step::Refused(error) => {
                if self.has_news() {
                    self.hand_over()?;
                }
                Err(*error)
            }
            Step::Relation(relation) => self.describe(&relation),
        }
    }

    /// Finds the shape of a table and puts it into the log before the rows that need it.
    fn describe(&mut self, relation: &Relation) -> Result<(), CaptureError> {
        // Each transaction that was in progress brings its descriptions along.
        let is_news = self.replayed.is_none();
        let Some(shape) = self.watch.shape(relation, is_news)? else {
            self.decoder.define(relation.id, None);
            return Ok(());
        };
        if self.is_binary && !shape.has_binary() {
            self.session.requests.receive_text();
            let reason = format!("table {} has a column now that is received as text", shape.schema.table);
            return Err(self.connection.lost(DURING, io::Error::other(reason)));
        }
        if self.decoder.must_cut_for(&shape) {
            self.hand_over()?;
        }
        self.session.log_shape(&shape.schema)?;
        self.decoder.define(relation.id, Some(Arc::new(shape)));
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
            copy: copying.map(Copying::ledger).or_else(|| self.outdated.clone()),
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
        self.handed_at = Instant::now();
        if self.stands.as_ref().is_some_and(|stands| stands.txn_end) {
            self.whole = Some((piece.end, self.last_offset));
        }
        if piece.cut.is_none() {
            self.unconfirmed.push_back((self.last_offset, piece.end));
        }
        Ok(())
    }
}
