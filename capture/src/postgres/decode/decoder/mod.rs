//! Transactions and cuts: pgoutput messages in, rows in builders out ([`changes`]).
//!
//! The decoder does no I/O. Where it meets a table it asks its caller ([`Step::Relation`]) for the shape, and where a
//! frame may be cut it says so; the caller decides when and writes the log.
//!
//! Invariants: rows of one table in one frame have one shape version; `end` only moves at a commit or, between
//! transactions, by a keepalive; `changes` counts every change message of the open transaction, also those of tables
//! that are not read, so that a cut transaction can be continued exactly.

mod changes;

use std::collections::HashMap;
use std::sync::Arc;

use syncline_schemas::frame::{Op, TableBatch};
use syncline_schemas::ident::SourceId;

use super::counted::Counted;
use super::fault::RowFault;
use super::message::{Cell, Message, Relation};
use super::table::{Shape, Stamp, TableBuilder};
use crate::CaptureError;
use crate::limits::{FRAME_BYTES_MAX, FRAME_ROWS_MAX};
use crate::postgres::config::{SpecialValues, Truncates};
use crate::postgres::copy::Key;
use crate::postgres::lsn::Lsn;
use crate::postgres::messages::{self, Messages};
use crate::postgres::pattern::Prefixes;
use crate::postgres::position::Cut;
use crate::progress::OpCounts;

/// From this part of the limits on a commit ends the frame, so that few transactions are cut in the middle.
const COMMIT_ROWS_MIN: u32 = FRAME_ROWS_MAX / 4 * 3;
const COMMIT_BYTES_MIN: usize = FRAME_BYTES_MAX / 4 * 3;

/// What the caller has to do after a message.
#[derive(Debug)]
pub(crate) enum Step {
    /// Go on.
    Continue,
    /// Find the table's shape, then [`Decoder::define`] it.
    Relation(Relation),
    /// The frame is large enough: [`Decoder::take`] it.
    Full,
    /// The rows of a table without a key, of which this is the number, have another shape than when they were counted: changes of it
    /// are passed over until it is read, and nothing that is taken from here on counts before that.
    Outdated(u32),
    /// The operator does not want this to be followed: take what came before it, then end.
    Refused(Box<CaptureError>),
}

/// What a frame is made of, apart from the source and the clock.
pub(crate) struct Piece {
    pub(crate) batches: Vec<TableBatch>,
    pub(crate) counts: OpCounts,
    /// End of the last whole transaction.
    pub(crate) end: Lsn,
    /// What of the next transaction is in it or before it.
    pub(crate) cut: Option<Cut>,
}

struct Transaction {
    xid: u32,
    final_lsn: Lsn,
    commit_us: i64,
    changes: u64,
    /// Change messages that are in the log already.
    skip: u64,
    has_messages: bool,
}

/// Decodes one session's stream.
pub(crate) struct Decoder {
    source: SourceId,
    special_values: SpecialValues,
    /// By the relation's number; `None` for tables that are not read.
    relations: HashMap<u32, Option<usize>>,
    tables: Vec<TableBuilder>,
    transaction: Option<Transaction>,
    /// The transaction that has to come first, because a part of it is in the log.
    resume: Option<Cut>,
    end: Lsn,
    rows: u32,
    bytes: usize,
    counts: OpCounts,
    old: Vec<Cell>,
    new: Vec<Cell>,
    moved: Vec<(u32, Option<Key>)>,
    counted: Counted,
    /// Transactions since this was asked last, while tables are copied.
    told: Option<Vec<u32>>,
    truncates: Truncates,
    /// Which of the applications' own messages are taken, with the place of their table.
    messages: Option<(Messages, usize)>,
    /// When what arrives now was read, microseconds since 1970.
    clock_us: i64,
}

impl Decoder {
    /// Starts behind `end`, in the middle of a transaction where one was cut.
    pub(crate) fn new(source: SourceId, special_values: SpecialValues, end: Lsn, resume: Option<Cut>) -> Self {
        Self {
            source,
            special_values,
            relations: HashMap::new(),
            tables: Vec::new(),
            transaction: None,
            resume,
            end,
            rows: 0,
            bytes: 0,
            counts: OpCounts::default(),
            old: Vec::new(),
            new: Vec::new(),
            moved: Vec::new(),
            counted: Counted::default(),
            told: None,
            truncates: Truncates::Apply,
            messages: None,
            clock_us: 0,
        }
    }

    /// Stops where a table is emptied, or follows that.
    pub(crate) const fn with_truncates(mut self, truncates: Truncates) -> Self {
        self.truncates = truncates;
        self
    }

    /// Takes messages of applications, too.
    pub(crate) fn with_messages(mut self, prefixes: Option<&Prefixes>) -> Self {
        if let Some(prefixes) = prefixes {
            self.tables.push(TableBuilder::new(messages::shape(&self.source), self.special_values));
            self.messages = Some((Messages::new(prefixes.clone()), self.tables.len() - 1));
        }
        self
    }

    /// Says what time it is, for what has no other.
    pub(crate) const fn observe_time(&mut self, now_us: i64) {
        self.clock_us = now_us;
    }

    /// The transactions that were told of since [`Self::forget_told`].
    pub(crate) const fn told(&mut self) -> Option<&mut Vec<u32>> {
        self.told.as_mut()
    }

    /// Begins to note transactions, and rows that changed their key, from here on.
    pub(crate) fn forget_told(&mut self) {
        self.told = Some(Vec::new());
    }

    /// Notes none any more.
    pub(crate) fn note_none(&mut self) {
        self.told = None;
    }

    /// Rows that changed their key and did not bring all values along, since this was asked last: number of the table and key,
    /// as far as SQL can name it.
    pub(crate) fn take_moved(&mut self) -> Vec<(u32, Option<Key>)> {
        std::mem::take(&mut self.moved)
    }

    /// Which changes of tables without a key count.
    pub(crate) const fn counted(&mut self) -> &mut Counted {
        &mut self.counted
    }

    /// True inside a transaction.
    pub(crate) const fn is_in_transaction(&self) -> bool {
        self.transaction.is_some()
    }

    /// True before the rest of a transaction of which a part is in the log.
    pub(crate) const fn is_resuming(&self) -> bool {
        self.resume.is_some()
    }

    /// True while rows wait for a frame.
    pub(crate) const fn has_rows(&self) -> bool {
        self.rows > 0
    }

    /// End of the last whole transaction.
    pub(crate) const fn end(&self) -> Lsn {
        self.end
    }

    /// Everything before `end` has been sent; moves the position where no transaction is open.
    pub(crate) fn advance(&mut self, end: Lsn) {
        if self.transaction.is_none() && self.resume.is_none_or(|cut| cut.is_empty_before(end)) {
            self.resume = None;
            self.end = self.end.max(end);
        }
    }

    /// Decodes one message that starts at `at` in the log.
    #[inline]
    pub(crate) fn decode(&mut self, at: Lsn, payload: &[u8]) -> Result<Step, CaptureError> {
        match Message::parse(payload).map_err(|reason| self.protocol(at, reason))? {
            Message::Insert { relation, tuples } => {
                self.change(at, payload.len(), |this, stamp| this.insert(relation, tuples, stamp))
            }
            Message::Update { relation, tuples } => {
                self.change(at, payload.len(), |this, stamp| this.update(relation, tuples, stamp))
            }
            Message::Delete { relation, tuples } => {
                self.change(at, payload.len(), |this, stamp| this.delete(relation, tuples, stamp))
            }
            Message::Truncate { relations } => self.change(at, payload.len(), |this, stamp| {
                relations.iter().try_for_each(|relation| this.truncate(*relation, stamp))
            }),
            Message::Begin { final_lsn, commit_us, xid } => self.begin(at, final_lsn, commit_us, xid),
            Message::Commit { end } => self.commit(at, end),
            Message::Relation(relation) => Ok(Step::Relation(relation)),
            Message::Application { is_transactional, lsn, prefix, content } => {
                self.message(at, is_transactional, lsn, prefix, content)
            }
            Message::Ignored => Ok(Step::Continue),
        }
    }

    /// Whether rows of another shape of this table wait: the caller takes them before it defines the new one.
    pub(crate) fn must_cut_for(&self, shape: &Shape) -> bool {
        let known = self.place_of(shape).map(|index| &self.tables[index]);
        known.is_some_and(|table| table.rows() > 0 && shape.schema != table.shape().schema)
    }

    /// A table's builder goes by its name, as its rows do: a relation of another number can take it over.
    fn place_of(&self, shape: &Shape) -> Option<usize> {
        self.tables.iter().position(|table| table.shape().schema.table == shape.schema.table)
    }

    /// Gives a table its shape, or `None` where it is not read.
    pub(crate) fn define(&mut self, relation: u32, shape: Option<Arc<Shape>>) {
        let index = shape.map(|shape| {
            let builder = TableBuilder::new(Arc::clone(&shape), self.special_values);
            match self.place_of(&shape) {
                Some(index) if self.tables[index].shape().schema == shape.schema => index,
                Some(index) => {
                    self.tables[index] = builder;
                    index
                }
                None => {
                    self.tables.push(builder);
                    self.tables.len() - 1
                }
            }
        });
        self.relations.insert(relation, index);
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
            Some(open) if open.changes > 0 || open.has_messages && self.resume.is_none() => {
                Some(Cut { xid: open.xid, final_lsn: open.final_lsn, changes: open.changes.max(open.skip) })
            }
            _ => self.resume,
        };
        Ok(Piece { batches, counts: std::mem::take(&mut self.counts), end: self.end, cut })
    }

    fn begin(&mut self, at: Lsn, final_lsn: Lsn, commit_us: i64, xid: u32) -> Result<Step, CaptureError> {
        if self.transaction.is_some() {
            return Err(self.protocol(at, "a transaction begins inside another"));
        }
        let skip = match self.resume {
            Some(cut) if cut.final_lsn == final_lsn && cut.xid == xid => cut.changes,
            Some(cut) if cut.is_empty_before(final_lsn) => {
                self.resume = None;
                0
            }
            Some(cut) if cut.final_lsn <= final_lsn => return Err(self.other_transaction(cut, final_lsn, xid)),
            // Before the cut one there can only be transactions without changes; `change` sees to that.
            _ => 0,
        };
        if let Some(told) = &mut self.told {
            told.push(xid);
        }
        self.transaction = Some(Transaction { xid, final_lsn, commit_us, changes: 0, skip, has_messages: false });
        Ok(Step::Continue)
    }

    fn commit(&mut self, at: Lsn, end: Lsn) -> Result<Step, CaptureError> {
        let Some(done) = self.transaction.take() else {
            return Err(self.protocol(at, "a commit without a transaction"));
        };
        if let Some(cut) = self.resume.filter(|cut| cut.final_lsn == done.final_lsn) {
            if done.changes < done.skip {
                return Err(self.other_transaction(cut, done.final_lsn, done.xid));
            }
            self.resume = None;
        }
        self.end = self.end.max(end);
        let large = self.rows >= COMMIT_ROWS_MIN || self.bytes >= COMMIT_BYTES_MIN;
        Ok(if large { Step::Full } else { Step::Continue })
    }

    /// Counts a change, passes over those that are in the log already, and appends the others.
    #[inline]
    fn change(
        &mut self,
        at: Lsn,
        bytes: usize,
        apply: impl FnOnce(&mut Self, Stamp) -> Result<(), RowFault>,
    ) -> Result<Step, CaptureError> {
        let Some(open) = &mut self.transaction else {
            return Err(self.protocol(at, "a change without a transaction"));
        };
        open.changes += 1;
        if open.changes <= open.skip {
            return Ok(Step::Continue);
        }
        let stamp = Stamp { ord: self.rows, commit_us: open.commit_us, position: open.final_lsn };
        if let Some(cut) = self.resume.filter(|cut| cut.final_lsn != open.final_lsn) {
            let (final_lsn, xid) = (open.final_lsn, open.xid);
            return Err(self.other_transaction(cut, final_lsn, xid));
        }
        match apply(self, stamp) {
            Err(RowFault::Truncated { table }) => {
                // It is told again to whoever is to follow it.
                self.transaction.iter_mut().for_each(|open| open.changes -= 1);
                return Ok(Step::Refused(Box::new(self.tables[table].shape().truncated(&at.to_string()))));
            }
            Err(RowFault::Outdated(relation)) => return Ok(Step::Outdated(relation)),
            applied => applied.map_err(|fault| self.row_error(at, fault))?,
        }
        self.bytes += bytes;
        let full = self.rows >= FRAME_ROWS_MAX || self.bytes >= FRAME_BYTES_MAX;
        Ok(if full { Step::Full } else { Step::Continue })
    }

    /// Takes a message of an application. It is no change of the transaction's: whoever goes on in the middle of one takes it again, as the
    /// row that it was.
    fn message(
        &mut self,
        at: Lsn,
        is_transactional: bool,
        lsn: Lsn,
        prefix: &str,
        content: &[u8],
    ) -> Result<Step, CaptureError> {
        let (commit_us, position) = match &mut self.transaction {
            Some(open) if is_transactional => {
                open.has_messages = true;
                (open.commit_us, open.final_lsn)
            }
            None if !is_transactional => (self.clock_us, lsn),
            _ => return Err(self.protocol(at, "a message of an application is not where it belongs")),
        };
        let Some((messages, table)) = self.messages.as_mut().filter(|(messages, _)| messages.takes(prefix)) else {
            return Ok(Step::Continue);
        };
        let (table, stamp) = (*table, Stamp { ord: self.rows, commit_us, position });
        let appended = self.tables[table].append(Op::Insert, stamp, messages.row(lsn, prefix, content), None);
        appended.map_err(|fault| self.row_error(at, RowFault::Row { table, fault }))?;
        self.counts.add(Op::Insert);
        self.rows += 1;
        self.bytes += content.len();
        let full = self.rows >= FRAME_ROWS_MAX || self.bytes >= FRAME_BYTES_MAX;
        Ok(if full { Step::Full } else { Step::Continue })
    }

    fn protocol(&self, at: Lsn, reason: impl Into<String>) -> CaptureError {
        CaptureError::Protocol { source_id: self.source.clone(), at: at.to_string(), reason: reason.into() }
    }

    fn other_transaction(&self, cut: Cut, final_lsn: Lsn, xid: u32) -> CaptureError {
        CaptureError::Position {
            source_id: self.source.clone(),
            reason: format!(
                "the journal holds {} changes of transaction {} at {}, the server sends transaction {xid} at {final_lsn}",
                cut.changes, cut.xid, cut.final_lsn
            ),
            remedy: "the server's history is another one; have `syncline replay --reread` copy the tables again",
        }
    }

    fn row_error(&self, at: Lsn, fault: RowFault) -> CaptureError {
        match fault {
            RowFault::Malformed(reason) => self.protocol(at, reason),
            RowFault::UnknownRelation(id) => self.protocol(at, format!("a change of the undescribed relation {id}")),
            RowFault::Row { table, fault } => self.tables[table].shape().error(&at.to_string(), fault),
            RowFault::Truncated { table } => self.tables[table].shape().truncated(&at.to_string()),
            RowFault::Outdated(id) => self.protocol(at, format!("rows of relation {id} have another shape now")),
        }
    }
}
