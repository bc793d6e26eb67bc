//! One connection that reads pieces.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;
use syncline_schemas::frame::{Op, TableBatch};
use tracing::warn;

use super::gate::Snapshot;
use super::ledger::{Key, Piece};
use super::plan::{DURING, KEYS, SIGNATURE, Table};
use super::state::Message;
use super::{Copied, Copying, Reading, take};
use crate::limits::{FRAME_BYTES_MAX, FRAME_ROWS_MAX};
use crate::postgres::decode::{CopyReader, Stamp, TableBuilder};
use crate::postgres::log_end::{LOG_END, log_end};
use crate::postgres::lsn::Lsn;
use crate::postgres::scope::WITHOUT_IT;
use crate::postgres::wire::{Connection, Purpose};
use crate::round::Round;
use crate::{CaptureError, Class};

/// SQLSTATEs of a table that changed since it was looked at: undefined column, table, schema.
const CHANGED: [&str; 3] = ["42703", "42P01", "3F000"];
/// That of a lock that was not given in time.
const NOT_LOCKED: &str = "55P03";
/// How long a read waits for a table that somebody has locked, or waits to lock: the stream stands meanwhile.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// What a statement read.
struct Extent {
    rows: usize,
    /// The key of the last row, where there may be more behind it.
    last: Option<Key>,
}

pub(super) struct Worker<'a> {
    copying: &'a Copying,
    reading: &'a Reading<'a>,
    sender: &'a Sender<Message>,
    connection: Connection,
    /// It has had a piece, or tried to: none comes back from a round without, however long the connection took.
    has_tried: bool,
}

impl<'a> Worker<'a> {
    /// Reads pieces until there is none left or the round is over.
    pub(super) fn run(
        copying: &'a Copying,
        reading: &'a Reading<'a>,
        sender: &'a Sender<Message>,
    ) -> Result<(), CaptureError> {
        let session = reading.session;
        let mut connection = Connection::open(session.config, Purpose::Query, session.stop)?;
        // With row security a policy would hide rows without a word; now it is an error.
        let settings = format!("SET row_security = off; SET lock_timeout = {}", LOCK_TIMEOUT.as_millis());
        connection.query(DURING, &settings)?;
        let mut worker = Self { copying, reading, sender, connection, has_tried: false };
        while let Some((table, piece)) = worker.next()? {
            let mut next = Some(piece);
            while let Some(piece) = next.take() {
                let rest = match worker.read(table, piece.clone()) {
                    Err(error) if is_not_locked(&error) => {
                        worker.put_off(table, Some(piece))?;
                        break;
                    }
                    Err(error) if error.class() == Class::Definite && copying.can_be_given_up(table.oid) => {
                        // The connection may be in the middle of it.
                        return worker.send(Message::GivenUp { table: table.oid, error });
                    }
                    read => read?,
                };
                worker.has_tried = true;
                next = rest.filter(|_| !reading.round.is_over());
            }
        }
        Ok(())
    }

    /// A piece that nobody else reads.
    fn next(&mut self) -> Result<Option<(&'a Table, Piece)>, CaptureError> {
        let copying = self.copying;
        loop {
            if self.reading.round.is_given_up() || self.has_tried && self.reading.round.is_over() {
                return Ok(None);
            }
            let fresh = {
                let mut state = copying.state();
                let state = &mut *state;
                for table in &copying.tables {
                    if state.is_put_off(table.oid) {
                        continue;
                    }
                    if let Some(piece) = state.ledger.next(table.oid, &state.busy) {
                        state.busy.push((table.oid, piece.clone()));
                        return Ok(Some((table, piece)));
                    }
                }
                copying.tables.iter().find(|table| state.is_free(table.oid))
            };
            let Some(table) = fresh else { return Ok(None) };
            let (pieces, reached) = match self.pieces(table) {
                Err(error) if is_not_locked(&error) => {
                    self.put_off(table, None)?;
                    continue;
                }
                pieces => pieces?,
            };
            let mut state = copying.state();
            // Another may have been quicker, or found that it moved, or could not lock it.
            if state.is_free(table.oid) {
                state.ledger.begin(table.oid, pieces);
                state.ledger.target = state.ledger.target.max(reached);
            }
        }
    }

    /// Somebody has locked a table, or waits to: it is tried again later, and nobody queues behind us meanwhile.
    fn put_off(&mut self, table: &Table, piece: Option<Piece>) -> Result<(), CaptureError> {
        self.copying.state().put_off(table.oid, piece);
        self.has_tried = true;
        let (source, seconds) = (self.connection.source(), LOCK_TIMEOUT.as_secs());
        let table = &table.shape.schema.table;
        warn!(%source, %table, "a table is locked, and was not given free within {seconds} s: it is copied later");
        self.connection.query(DURING, "ROLLBACK").map(drop)
    }

    /// What is to be read of a table, and where the newest change was committed that this may follow from.
    fn pieces(&mut self, table: &Table) -> Result<(Vec<Piece>, Lsn), CaptureError> {
        let gone = || CaptureError::Unfit {
            source_id: self.reading.session.config.source.clone(),
            object: format!("table {}", table.shape.schema.table),
            reason: "was dropped while it was copied".to_owned(),
            remedy: WITHOUT_IT.to_owned(),
        };
        let pieces = table.pieces(&mut self.connection)?.ok_or_else(gone)?;
        let (reached, _) = self.now(0)?;
        Ok((pieces, reached))
    }

    /// Reads all rows of a table without a key, as of a moment that is known to the last transaction: what the stream tells of
    /// those that were seen is passed over. Nobody writes the table anew between that moment and the reading, as it is locked before.
    fn read_whole(&mut self, table: &Table) -> Result<(), CaptureError> {
        self.connection.query(DURING, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
        let lock = format!("LOCK TABLE ONLY {} IN ACCESS SHARE MODE", table.quoted);
        self.connection.query(DURING, &lock).map_err(|error| self.judged(table, error))?;
        let (_, copied_at) = self.look_up(table, &Piece::Whole)?;
        let rows = self.connection.query(DURING, Snapshot::SQL)?;
        let snapshot = rows.first().and_then(Snapshot::of);
        let snapshot = snapshot.ok_or_else(|| self.connection.protocol(DURING, "the server has no snapshot"))?;
        self.copy(table, &Piece::Whole, "", copied_at)?;
        let (reached, _) = self.now(0)?;
        self.connection.query(DURING, "COMMIT")?;
        self.send(Message::Seen { table: table.oid, snapshot })?;
        self.send(Message::Read { table: table.oid, piece: Piece::Whole, rest: None, reached })
    }

    /// Reads a piece; gives what is left of it.
    fn read(&mut self, table: &Table, piece: Piece) -> Result<Option<Piece>, CaptureError> {
        if piece == Piece::Whole {
            return self.read_whole(table).map(|()| None);
        }
        // The lock that the statement takes lasts as long as the transaction, and keeps the rows where they are.
        self.connection.query(DURING, "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY")?;
        let (part, copied_at) = self.look_up(table, &piece)?;
        let read = match part {
            Some(part) => Some(self.copy(table, &piece, &part, copied_at)?),
            None => None,
        };
        let stands = self.stands(&piece)?;
        self.connection.query(DURING, "COMMIT")?;
        let (rest, message) = match (read, stands) {
            (Some(Extent { rows, last }), Some(reached)) => {
                let rest = match &piece {
                    Piece::Keys { upto, .. } if rows == KEYS => Some(Piece::Keys { after: last, upto: upto.clone() }),
                    _ => None,
                };
                (rest.clone(), Message::Read { table: table.oid, piece, rest, reached })
            }
            _ => {
                let (pieces, reached) = self.pieces(table)?;
                (None, Message::Moved { table: table.oid, pieces, reached })
            }
        };
        self.send(message)?;
        Ok(rest)
    }

    /// The table or partition that holds the piece as SQL names it, none where it is gone; and the server's time.
    fn look_up(&mut self, table: &Table, piece: &Piece) -> Result<(Option<String>, i64), CaptureError> {
        let oid = match piece {
            Piece::Blocks { relation, .. } => *relation,
            Piece::Keys { .. } | Piece::Row { .. } | Piece::Whole => 0,
        };
        let rows = self.connection.query(
            DURING,
            &format!(
                "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, \
                 (SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_class c \
                  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = {oid}), ({SIGNATURE} {})",
                table.oid
            ),
        )?;
        if rows.first().is_some_and(|row| row.text(2) != table.columns) {
            return Err(self.changed(table));
        }
        let row = rows.first().and_then(|row| Some((row.get(1).map(str::to_owned), row.parsed(0)?)));
        let (part, at) = row.ok_or_else(|| self.connection.protocol(DURING, "the server has no time"))?;
        Ok((if oid == 0 { Some(String::new()) } else { part }, at))
    }

    /// An error of what was read, unless the table was changed between the look at it and the statement.
    fn judged(&mut self, table: &Table, error: CaptureError) -> CaptureError {
        match error {
            CaptureError::Server { sqlstate, .. } if CHANGED.contains(&sqlstate.as_str()) => self.changed(table),
            error if error.class() == Class::Transient => error,
            error => {
                let columns = self.connection.query(DURING, &format!("{SIGNATURE} {}", table.oid));
                let is_other = columns.is_ok_and(|rows| rows.first().is_some_and(|row| row.text(0) != table.columns));
                if is_other { self.changed(table) } else { error }
            }
        }
    }

    /// The session begins again with the table as it is now.
    fn changed(&self, table: &Table) -> CaptureError {
        let reason = format!("table {} was changed; looking at it again", table.shape.schema.table);
        self.connection.lost(DURING, io::Error::other(reason))
    }

    /// Copies a piece out.
    fn copy(&mut self, table: &Table, piece: &Piece, part: &str, copied_at: i64) -> Result<Extent, CaptureError> {
        let Reading { session, at, ref round } = *self.reading;
        let source = &session.config.source;
        let sender = self.sender;
        let (shape, special_values) = (Arc::clone(&table.shape), session.config.special_values);
        let form = table.form(piece);
        let mut builder = TableBuilder::new(shape, special_values);
        let mut reader = CopyReader::new(form);
        let (mut ord, mut bytes, mut total, mut last) = (0_u32, 0, 0, None);
        let mut pours = matches!(piece, Piece::Whole).then_some(table.oid);
        if pours.is_some() {
            // What came before of it is not counted any more.
            builder.append_whole(Op::SweepBegin, Stamp { ord, commit_us: copied_at, position: at });
            ord = 1;
        }
        let place = || format!("the copy at {at}");
        let by_key = matches!(piece, Piece::Keys { .. });
        let malformed = |reason: &str| CaptureError::Protocol {
            source_id: source.clone(),
            at: place(),
            reason: format!("table {}: {reason}", table.shape.schema.table),
        };
        let copied = self.connection.copy_out(DURING, &table.sql(piece, part), |data| {
            reader.turn_to(data).map_err(malformed)?;
            bytes += data.len();
            while let Some(row) = reader.row(data, table.shape.kinds.len()).map_err(malformed)? {
                let stamp = Stamp { ord, commit_us: copied_at, position: at };
                builder.append(Op::Read, stamp, row, None).map_err(|fault| table.shape.error(&place(), fault))?;
                bytes += builder.take_swollen();
                (ord, total) = (ord + 1, total + 1);
                if by_key && total == KEYS {
                    let texts = table.shape.keys.iter().map(|&key| row.value(key).map(String::from_utf8_lossy));
                    last = texts.map(|text| Some(text?.into_owned())).collect::<Option<Vec<_>>>();
                    if last.is_none() {
                        return Err(malformed("a key has no value"));
                    }
                }
                if ord >= FRAME_ROWS_MAX || bytes >= FRAME_BYTES_MAX {
                    let batch = take(&mut builder)?;
                    send(round, sender, rows(batch, ord, bytes, pours.take()))?;
                    (ord, bytes) = (0, 0);
                }
            }
            Ok(())
        });
        copied.map_err(|error| self.judged(table, error))?;
        let batch = take(&mut builder)?;
        self.send_some(rows(batch, ord, bytes, pours))?;
        Ok(Extent { rows: total, last })
    }

    /// Where the newest change that the piece may have seen was committed; none where its rows do not lie where they lay.
    fn stands(&mut self, piece: &Piece) -> Result<Option<Lsn>, CaptureError> {
        let (oid, known) = match piece {
            Piece::Blocks { relation, file, .. } => (*relation, Some(*file)),
            Piece::Keys { .. } | Piece::Row { .. } | Piece::Whole => (0, None),
        };
        let (reached, file) = self.now(oid)?;
        Ok((file == known).then_some(reached))
    }

    /// Where the server's log ends, and the file of a table.
    fn now(&mut self, oid: u32) -> Result<(Lsn, Option<u32>), CaptureError> {
        let rows =
            self.connection.query(DURING, &format!("SELECT {LOG_END}, pg_catalog.pg_relation_filenode({oid})"))?;
        let found = rows.first().and_then(|row| Some((log_end(row)?, row.parsed(3))));
        found.ok_or_else(|| self.connection.protocol(DURING, "the server has no position"))
    }

    fn send(&self, message: Message) -> Result<(), CaptureError> {
        self.send_some(Some(message))
    }

    fn send_some(&self, message: Option<Message>) -> Result<(), CaptureError> {
        send(&self.reading.round, self.sender, message)
    }
}

/// Rows that were read; those of a table without a key begin with a word about it.
fn rows(batch: Option<TableBatch>, len: u32, bytes: usize, pours: Option<u32>) -> Option<Message> {
    let read = len - u32::from(pours.is_some());
    batch.map(|batch| Message::Rows { copied: Copied::of(read.into(), batch, bytes), pours })
}

/// Tells what was read; an error where the copy is given up.
fn send(round: &Round<'_>, sender: &Sender<Message>, message: Option<Message>) -> Result<(), CaptureError> {
    let Some(message) = message else { return Ok(()) };
    if round.is_given_up() || sender.send(message).is_err() {
        return Err(round.given_up(DURING));
    }
    Ok(())
}

fn is_not_locked(error: &CaptureError) -> bool {
    matches!(error, CaptureError::Server { sqlstate, .. } if sqlstate == NOT_LOCKED)
}
