//! Transactions, moves, absent values and cuts: events of the log in, rows in builders out.
//!
//! The decoder does no I/O. Where it meets a table it hands its shape to the caller ([`Step::Shape`]), and where a frame
//! may be cut it says so; the caller decides when and writes the log.
//!
//! Invariants: rows of one table in one frame have one shape; `end` only grows, at a commit; `changes` counts every event
//! of rows of the open transaction, also those of tables that are not read, so that a cut transaction can be continued
//! exactly; a transaction that `end` holds already is never taken again, nor passed over: the log would not be in order.

mod statements;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use syncline_schemas::frame::{Op, TableBatch};
use syncline_schemas::ident::{SourceId, TableId};
use tracing::trace;

use super::catalog::Besides;
use super::event::code::{Change, Part, RowsForm, Treatment, known};
use super::event::gtid::{Begin, Xa, mariadb, mysql, tagged};
use super::event::rows::{Rows, rows};
use super::event::table_map::table_map;
use super::event::{Framed, Framing, Payload};
use super::gtid::{Gtid, GtidSet};
use super::place::Place;
use super::row::{Cell, Fault, Layout, RowView, Shape, Stamp, TableBuilder};
use super::scope::Scope;
use crate::CaptureError;
use crate::limits::{FRAME_BYTES_MAX, FRAME_ROWS_MAX};
use crate::policy::{SpecialValues, Truncates};
use crate::progress::OpCounts;

/// From this part of the limits on a commit ends the frame, so that few transactions are cut in the middle.
const COMMIT_ROWS_MIN: u32 = FRAME_ROWS_MAX / 4 * 3;
const COMMIT_BYTES_MIN: usize = FRAME_BYTES_MAX / 4 * 3;

/// What the caller has to do after an event.
pub(crate) enum Step<'e> {
    /// Go on.
    Continue,
    /// Put the table's shape into the log, then [`Decoder::define`] it.
    Shape(Arc<Shape>),
    /// Look up what the catalog says of the table besides the log, then [`Decoder::say`] it.
    Unsaid(TableId),
    /// Decode what is in it, each event with [`Decoder::decode_inner`].
    Payload(Payload<'e>),
    /// The frame is large enough: [`Decoder::take`] it.
    Full,
    /// This is not followed: take what came before it, then end.
    Refused(Box<CaptureError>),
    /// Tables are others now, of whose rows nothing is said: refuse that, or [`Decoder::pass`] it and have them copied anew.
    Replaced(Replaced),
}

/// Tables that are others now.
pub(crate) struct Replaced {
    pub(crate) tables: Vec<TableId>,
    /// What to refuse it with.
    pub(crate) error: Box<CaptureError>,
}

/// The part of a large transaction that is in the log already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) gtid: Gtid,
    /// How many of its changes are in the log.
    pub(crate) changes: u64,
}

/// What a frame is made of, apart from the source and the clock.
pub(crate) struct Piece {
    pub(crate) batches: Vec<TableBatch>,
    pub(crate) counts: OpCounts,
    /// All whole transactions.
    pub(crate) end: GtidSet,
    /// What of the next transaction is in it or before it.
    pub(crate) cut: Option<Cut>,
}

/// What is done with the values and statements that policies are about.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Policies {
    pub(crate) special_values: SpecialValues,
    pub(crate) truncates: Truncates,
}

struct Transaction {
    gtid: Gtid,
    commit_us: i64,
    changes: u64,
    /// Changes that are in the log already.
    skip: u64,
    /// Something ends it; without, its first statement does.
    is_open: bool,
    /// Its rows count only once another transaction says so.
    is_xa: bool,
}

/// A table as the log numbers it.
struct Numbered {
    /// The description that the number was last given with.
    described: Vec<u8>,
    /// The place of its builder; none where it is not read.
    table: Option<usize>,
}

/// Decodes one session's stream.
pub(crate) struct Decoder {
    source: SourceId,
    scope: Scope,
    policies: Policies,
    framing: Framing,
    numbered: HashMap<u64, Numbered>,
    /// One that waits for [`Decoder::define`].
    pending: Option<(u64, Vec<u8>, Arc<Shape>)>,
    tables: Vec<TableBuilder<Gtid>>,
    transaction: Option<Transaction>,
    /// The transaction that has to come first, because a part of it is in the log.
    resume: Option<Cut>,
    end: GtidSet,
    /// What the catalog says of tables besides the log, of which rows came and that were not altered since.
    besides: HashMap<TableId, Besides>,
    /// A description that waits for [`Decoder::say`].
    unsaid: Option<Vec<u8>>,
    /// Where in the server's files it is, once that was told.
    place: Option<Place>,
    /// When the last event was written, seconds since 1970 by the clock of whoever wrote it; 0 before the first.
    written_at: u32,
    /// Tables whose columns a statement changed since somebody asked.
    altered: Vec<TableId>,
    rows: u32,
    bytes: usize,
    counts: OpCounts,
    old: Vec<Cell>,
    new: Vec<Cell>,
    /// What was compressed.
    room: Vec<u8>,
}

/// Why an event cannot be taken.
enum Stop {
    Malformed(&'static str),
    Row(usize, Fault),
    Error(Box<CaptureError>),
}

impl From<&'static str> for Stop {
    fn from(reason: &'static str) -> Self {
        Self::Malformed(reason)
    }
}

impl Decoder {
    /// Starts behind `end`, in the middle of a transaction where one was cut.
    pub(crate) fn new(source: SourceId, scope: Scope, policies: Policies, end: GtidSet, resume: Option<Cut>) -> Self {
        Self {
            source,
            scope,
            policies,
            framing: Framing::default(),
            numbered: HashMap::new(),
            pending: None,
            tables: Vec::new(),
            transaction: None,
            resume,
            end,
            besides: HashMap::new(),
            unsaid: None,
            place: None,
            written_at: 0,
            altered: Vec::new(),
            rows: 0,
            bytes: 0,
            counts: OpCounts::default(),
            old: Vec::new(),
            new: Vec::new(),
            room: Vec::new(),
        }
    }

    /// True inside a transaction.
    pub(crate) const fn is_in_transaction(&self) -> bool {
        self.transaction.is_some()
    }

    /// True where the rest of a transaction has to come first.
    pub(crate) const fn is_resuming(&self) -> bool {
        self.resume.is_some()
    }

    /// True while rows wait for a frame.
    pub(crate) const fn has_rows(&self) -> bool {
        self.rows > 0
    }

    /// All whole transactions.
    pub(crate) const fn end(&self) -> &GtidSet {
        &self.end
    }

    /// Where in the server's files the log has been read, and when what stands there was written, seconds since 1970; none before that
    /// was told: a server that skips what was read says at first only in which file it begins to.
    pub(crate) fn place(&self) -> Option<(&Place, u32)> {
        self.place.as_ref().filter(|place| place.at > FIRST_PLACE).zip(Some(self.written_at))
    }

    /// Tables whose columns a statement changed since this was asked last: what it made of the rows is not logged.
    pub(crate) fn take_altered(&mut self) -> Vec<TableId> {
        std::mem::take(&mut self.altered)
    }

    /// Goes on with a table that was handed out as [`Step::Unsaid`].
    pub(crate) fn say(&mut self, table: TableId, besides: Besides) -> Result<Step<'static>, CaptureError> {
        self.besides.insert(table, besides);
        let described = self.unsaid.take().unwrap_or_default();
        self.describe(&described).map_err(|stop| self.error(TABLE_MAP, stop))
    }

    /// Decodes one event.
    pub(crate) fn decode<'e>(&mut self, event: &'e [u8]) -> Result<Step<'e>, CaptureError> {
        let framed = self.framing.open(event).map_err(|reason| self.protocol(event.get(4).copied(), reason))?;
        if let Some(place) = &mut self.place {
            place.reach(framed.ends_at);
        }
        // What is made up on the way was never written.
        if framed.timestamp > 0 {
            self.written_at = framed.timestamp;
        }
        self.take_event(&framed, event.len(), false)
    }

    /// Decodes one event of a transaction that was compressed.
    pub(crate) fn decode_inner<'e>(&mut self, event: &'e [u8]) -> Result<Step<'e>, CaptureError> {
        let mut framing = Framing::PLAIN;
        let framed = framing.open(event).map_err(|reason| self.protocol(event.get(4).copied(), reason))?;
        self.take_event(&framed, event.len(), true)
    }

    fn take_event<'e>(&mut self, event: &Framed<'e>, len: usize, is_inner: bool) -> Result<Step<'e>, CaptureError> {
        let Some((name, treatment)) = known(event.code) else {
            return Err(self.protocol(Some(event.code), "it is of a kind that is not known"));
        };
        let part = match treatment {
            Treatment::Applied(part) => part,
            Treatment::Harmless(why) => {
                trace!(source = %self.source, event = name, why, "passed over");
                return Ok(Step::Continue);
            }
            Treatment::Refused(reason) => return Err(self.protocol(Some(event.code), reason)),
        };
        let step = match part {
            Part::Format | Part::Heartbeat => Ok(Step::Continue),
            Part::Rotate => {
                self.numbered.clear();
                rotated(event.body).map_err(Stop::from).map(|place| {
                    self.place = Some(place);
                    Step::Continue
                })
            }
            Part::MySqlGtid => mysql(event).map_err(Stop::from).and_then(|begin| self.begin(begin)),
            Part::TaggedGtid => tagged(event).map_err(Stop::from).and_then(|begin| self.begin(begin)),
            Part::MariaDbGtid => mariadb(event).map_err(Stop::from).and_then(|begin| self.begin(begin)),
            Part::Query => self.statement(event.body, false),
            Part::CompressedQuery => self.statement(event.body, true),
            Part::Xid => self.commit(),
            Part::XaPrepare => self.commit(),
            Part::TableMap => self.describe(event.body),
            Part::Rows(form) => self.change(event.body, form, len),
            Part::Payload if is_inner => Err(Stop::Malformed("a compressed transaction lies in another")),
            Part::Payload => Payload::open(event.body).map(Step::Payload).map_err(Stop::from),
        };
        step.map_err(|stop| self.error(event.code, stop))
    }

    /// Whether rows of another shape of this table wait: the caller takes them before it defines the new one.
    pub(crate) fn must_cut_for(&self, shape: &Shape) -> bool {
        let known = self.place_of(&shape.schema.table).map(|place| &self.tables[place]);
        known.is_some_and(|table| table.rows() > 0)
    }

    fn place_of(&self, table: &TableId) -> Option<usize> {
        self.tables.iter().position(|known| known.shape().schema.table == *table)
    }

    /// Gives a table the shape that was handed out last, or one that is known beforehand.
    pub(crate) fn define(&mut self, shape: Arc<Shape>) {
        let place = self.place_of(&shape.schema.table);
        let builder = TableBuilder::new(Arc::clone(&shape), self.policies.special_values == SpecialValues::Null);
        let place = match place {
            Some(place) => {
                self.tables[place] = builder;
                place
            }
            None => {
                self.tables.push(builder);
                self.tables.len() - 1
            }
        };
        if let Some((number, described, _)) = self.pending.take_if(|(_, _, pending)| Arc::ptr_eq(pending, &shape)) {
            self.numbered.insert(number, Numbered { described, table: Some(place) });
        }
    }

    /// Passes over a statement that was handed out as [`Step::Replaced`].
    pub(crate) fn pass(&mut self) -> Result<(), CaptureError> {
        self.end_statement().map(drop).map_err(|stop| self.error(QUERY, stop))
    }

    /// Takes what waits as a frame; without rows it only carries the position.
    pub(crate) fn take(&mut self) -> Result<Piece, CaptureError> {
        let mut batches = Vec::new();
        for table in &mut self.tables {
            let batch = table.take().map_err(|error| CaptureError::Batch {
                source_id: self.source.clone(),
                table: table.shape().schema.table.clone(),
                error,
            })?;
            batches.extend(batch);
        }
        (self.rows, self.bytes) = (0, 0);
        let cut = match &self.transaction {
            Some(open) if open.changes > 0 => {
                Some(Cut { gtid: open.gtid.clone(), changes: open.changes.max(open.skip) })
            }
            _ => self.resume.clone(),
        };
        Ok(Piece { batches, counts: std::mem::take(&mut self.counts), end: self.end.clone(), cut })
    }

    fn begin(&mut self, begin: Begin) -> Result<Step<'static>, Stop> {
        if self.transaction.is_some() {
            return Err("a transaction begins inside another".into());
        }
        if self.end.holds(&begin.gtid) {
            return Err(self.out_of_order(&begin.gtid));
        }
        let skip = match &self.resume {
            Some(cut) if cut.gtid == begin.gtid => cut.changes,
            Some(cut) => return Err(self.other_transaction(cut, &begin.gtid)),
            None => 0,
        };
        self.transaction = Some(Transaction {
            is_open: matches!(begin.gtid, Gtid::MariaDb(_)) && !begin.is_standalone,
            gtid: begin.gtid,
            commit_us: begin.commit_us,
            changes: 0,
            skip,
            is_xa: begin.xa == Xa::Prepared,
        });
        Ok(Step::Continue)
    }

    fn commit(&mut self) -> Result<Step<'static>, Stop> {
        let done = self.transaction.take().ok_or("a commit without a transaction")?;
        if let Some(cut) = self.resume.take_if(|_| done.changes < done.skip) {
            return Err(self.other_transaction(&cut, &done.gtid));
        }
        self.resume = None;
        self.end.add(&done.gtid)?;
        let large = self.rows >= COMMIT_ROWS_MIN || self.bytes >= COMMIT_BYTES_MIN;
        Ok(if large { Step::Full } else { Step::Continue })
    }

    fn describe(&mut self, body: &[u8]) -> Result<Step<'static>, Stop> {
        let number = super::bytes::Cursor::new(body).number(6)?;
        // It comes again with every statement.
        if self.numbered.get(&number).is_some_and(|known| known.described == body) {
            return Ok(Step::Continue);
        }
        let mut map = table_map(body, matches!(self.end, GtidSet::MariaDb(_)))?;
        let table = TableId::new(&map.database, &map.table);
        if !self.scope.reads(&table) {
            self.numbered.insert(number, Numbered { described: body.to_vec(), table: None });
            return Ok(Step::Continue);
        }
        if matches!(self.end, GtidSet::MariaDb(_)) {
            let Some(besides) = self.besides.get(&table) else {
                self.unsaid = Some(body.to_vec());
                return Ok(Step::Unsaid(table));
            };
            for column in &mut map.columns {
                let beside = besides.get(&column.name).copied().unwrap_or_default();
                column.named = beside.named.filter(|named| named.fits(column));
                column.is_computed = beside.is_computed;
            }
        }
        let shape =
            Shape::of(&self.source, &map, self.scope.declared(&table)).map_err(|error| Stop::Error(Box::new(error)))?;
        let known = self.place_of(&table).filter(|place| self.tables[*place].shape().reads_as(&shape));
        if known.is_some() {
            self.numbered.insert(number, Numbered { described: body.to_vec(), table: known });
            return Ok(Step::Continue);
        }
        let shape = Arc::new(shape);
        self.pending = Some((number, body.to_vec(), Arc::clone(&shape)));
        Ok(Step::Shape(shape))
    }

    /// Counts a change, passes over those that are in the log already, and appends the rows of the others.
    fn change(&mut self, body: &[u8], form: RowsForm, len: usize) -> Result<Step<'static>, Stop> {
        let mut open = self.transaction.take().ok_or("rows without a transaction")?;
        open.changes += 1;
        let mut room = std::mem::take(&mut self.room);
        let applied = rows(body, form, &mut room).map_err(Stop::from).and_then(|rows| {
            let numbered = self.numbered.get(&rows.table_id).ok_or("rows of a table that was not described")?;
            match numbered.table.filter(|_| open.changes > open.skip) {
                Some(_) if open.is_xa => Err(TWO_PHASE.into()),
                Some(table) => self.append_all(table, &rows, &open),
                None => Ok(()),
            }
        });
        self.room = room;
        self.transaction = Some(open);
        applied?;
        self.bytes += len;
        let full = self.rows >= FRAME_ROWS_MAX || self.bytes >= FRAME_BYTES_MAX;
        Ok(if full && self.has_rows() { Step::Full } else { Step::Continue })
    }

    fn append_all(&mut self, table: usize, rows: &Rows<'_>, open: &Transaction) -> Result<(), Stop> {
        let shape = Arc::clone(self.tables[table].shape());
        if rows.columns != shape.kinds.len() {
            return Err(Stop::Row(
                table,
                Fault::Row("it has another number of columns than the table was described with"),
            ));
        }
        let layout = &shape.layout;
        let (present, present_after) = (layout.present(rows.came), layout.present(rows.came_after));
        let malformed = |reason| Stop::Row(table, Fault::Row(reason));
        let unpacked = self.tables[table].unpacked_len();
        let mut at = 0;
        while at < rows.rows.len() {
            let before = at;
            let first = if rows.change == Change::Insert { &mut self.new } else { &mut self.old };
            layout.read(rows.rows, &mut at, rows.came, present, first).map_err(malformed)?;
            if rows.change == Change::Update {
                let read = if rows.is_partial { Layout::read_changed } else { Layout::read };
                read(layout, rows.rows, &mut at, rows.came_after, present_after, &mut self.new).map_err(malformed)?;
            }
            if at == before {
                return Err(malformed("it has no columns"));
            }
            self.append_row(table, rows, open, &shape.keys)?;
        }
        self.bytes += self.tables[table].unpacked_len() - unpacked;
        Ok(())
    }

    #[inline]
    fn append_row(&mut self, table: usize, rows: &Rows<'_>, open: &Transaction, keys: &[usize]) -> Result<(), Stop> {
        let (old, new) =
            (RowView { cells: &self.old, bytes: rows.rows }, RowView { cells: &self.new, bytes: rows.rows });
        let is_moved = |key: &usize| new.cell(*key) != Cell::Absent && old.value(*key) != new.value(*key);
        let builder = &mut self.tables[table];
        let mut stamp = Stamp { ord: self.rows, commit_us: open.commit_us, at: &open.gtid };
        let mut append = |op, row, under| {
            builder.append(op, stamp, row, under).map_err(|fault| Stop::Row(table, fault))?;
            self.counts.add(op);
            stamp.ord += 1;
            Ok::<_, Stop>(())
        };
        match rows.change {
            Change::Insert => append(Op::Insert, new, None)?,
            Change::Delete => append(Op::Delete, old, None)?,
            Change::Update if keys.iter().any(is_moved) => {
                append(Op::MoveOut, old, None)?;
                append(Op::MoveIn, new, Some(old))?;
            }
            Change::Update => append(Op::Update, new, Some(old))?,
        }
        self.rows = stamp.ord;
        Ok(())
    }

    /// Where in the log, for messages.
    fn at(&self) -> String {
        match &self.transaction {
            Some(open) => format!("transaction {}", open.gtid),
            None => format!("behind {}", self.end),
        }
    }

    fn protocol(&self, code: Option<u8>, reason: &str) -> CaptureError {
        let name = code.and_then(known).map(|(name, _)| name);
        let event = match (name, code) {
            (Some(name), _) => name.to_owned(),
            (None, Some(code)) => format!("event number {code}"),
            (None, None) => "an event".to_owned(),
        };
        CaptureError::Protocol { source_id: self.source.clone(), at: self.at(), reason: format!("{event}: {reason}") }
    }

    fn error(&self, code: u8, stop: Stop) -> CaptureError {
        match stop {
            Stop::Malformed(reason) => self.protocol(Some(code), reason),
            Stop::Row(table, fault) => self.tables[table].shape().error(&self.at(), fault),
            Stop::Error(error) => *error,
        }
    }

    fn position(&self, reason: String, remedy: &'static str) -> Stop {
        Stop::Error(Box::new(CaptureError::Position { source_id: self.source.clone(), reason, remedy }))
    }

    fn out_of_order(&self, gtid: &Gtid) -> Stop {
        let reason = format!("the server sends transaction {gtid}, and the journal has all up to {}", self.end);
        let remedy = "transactions come out of order: set gtid_strict_mode on a MariaDB, give each writer a domain of \
                      its own, and have `syncline replay --reread` copy the tables again";
        self.position(reason, remedy)
    }

    fn other_transaction(&self, cut: &Cut, gtid: &Gtid) -> Stop {
        let reason = format!("the journal holds {} changes of {}, and the server sends {gtid}", cut.changes, cut.gtid);
        let remedy = "the server's history is another one; have `syncline replay --reread` copy the tables again";
        self.position(reason, remedy)
    }
}

/// Where the log goes on: `place u64 | name of the file`.
fn rotated(body: &[u8]) -> Result<Place, &'static str> {
    let mut cursor = super::bytes::Cursor::new(body);
    let at = cursor.u64()?;
    Ok(Place { file: String::from_utf8_lossy(cursor.rest()).into_owned(), at })
}

/// Where the first event of a file begins.
const FIRST_PLACE: u64 = 4;

/// The event that statements come in.
const QUERY: u8 = 2;
const TABLE_MAP: u8 = 19;

const TWO_PHASE: &str = "rows are changed in a two-phase commit (XA), which this version does not follow; exclude the \
     table, or have `syncline replay --reread` copy the tables again once it is committed";
