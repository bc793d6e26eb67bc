//! The tables, copied piece by piece while the stream waits, so that the log is never behind a row that it holds.
//!
//! ```text
//! stream at P        waits
//! workers 1..n       read pieces, each in one statement that sees all that was committed before it     Op::Read
//! stream             goes on to H, where the newest of these reads was
//! ... until every piece is read and the stream has reached H                                     txn_end = true
//! ```
//!
//! Why this is exact: reads begin once they see all that the stream has told of ([`gate`]). So a piece is in the log before
//! every change that only it has seen, and all changes after P come behind it. A change that was seen comes a second time and
//! says what the row says; the last change up to H says what the row is at H. So at H the tables are what they were in the
//! source at H, whatever was read when, and whatever was read twice. The whole copy is one unit (`txn_end` is false up to its
//! last frame): what lies between is no state that was.
//!
//! A piece that was read is noted in the [`Ledger`], which every position carries: after a crash only pieces under way are
//! read again. Tables that come later, and those that an operator has read anew, are copied in the same way beside the stream
//! of the others: then each round is a unit, up to where its reads were. Nothing is written to the source, and no snapshot is
//! held longer than one statement.
//!
//! A table without a key is counted, so a change that was seen must not come a second time: the read says which transactions it
//! sees ([`Snapshot`]), and up to H what these did to the table is passed over. What the log holds of it up to there does not
//! count: its rows come behind a word that it is read anew, in one piece, and if that breaks off they come again behind another.
//!
//! One thing the stream does not repeat: values outside their rows that a change left as they were. [`plan`] sees to it that
//! they are read; a row whose key changes meanwhile, maybe from a piece that was not read to one that was, is read once more.

mod gate;
mod ledger;
mod plan;
mod state;
mod worker;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::Sender;
use syncline_schemas::frame::{Op, TableBatch};
use tracing::{info, warn};

pub(crate) use self::gate::{Gate, Snapshot, with_epoch};
pub(crate) use self::ledger::{Key, Ledger};
use self::plan::Table;
use self::state::{Message, State};
use self::worker::Worker;
use super::check::relations;
use super::decode::{Stamp, TableBuilder};
use super::lsn::Lsn;
use super::preflight::Inspection;
use super::session::Session;
use crate::CaptureError;
use crate::progress::{OpCounts, now_us};
use crate::round::Round;

/// How long the stream waits for one round of pieces at most, but for those that are under way then: the server keeps its log
/// for it meanwhile.
const ROUND: Duration = Duration::from_secs(10);
/// As [`ROUND`], beside a stream that targets wait for.
const ROUND_BESIDE: Duration = Duration::from_secs(1);

/// Rows of one table that were read.
pub(crate) struct Copied {
    pub(crate) batch: TableBatch,
    pub(crate) counts: OpCounts,
    pub(crate) bytes: usize,
}

/// A copy under way.
pub(crate) struct Copying {
    /// Largest first, so that the last worker does not end long after the others.
    tables: Vec<Table>,
    /// Numbers of those that are read from now on; they may have been read before.
    newcomers: Vec<u32>,
    /// Numbers of those that are read anew and of which nothing is read yet.
    swept: Vec<u32>,
    state: Mutex<State>,
}

/// What the workers of a round share.
struct Reading<'a> {
    session: &'a Session<'a>,
    /// Where the stream waits.
    at: Lsn,
    round: Round<'a>,
}

impl Copying {
    /// Takes a copy up where its ledger stands.
    pub(crate) fn new(
        session: &Session<'_>,
        inspection: &Inspection,
        mut ledger: Ledger,
    ) -> Result<Self, CaptureError> {
        let Inspection { catalog, publication, scope, .. } = inspection;
        let mut tables = Vec::new();
        for (table, relation) in catalog.tables.iter().zip(relations(catalog, publication.as_ref())) {
            if scope.table(table.oid).is_none() {
                continue;
            }
            let published = publication.as_ref().and_then(|publication| publication.tables.get(&table.id));
            tables.push(Table {
                oid: table.oid,
                shape: Arc::new(catalog.shape(&session.config.source, &relation)?),
                quoted: table.quoted(),
                is_partitioned: table.is_partitioned,
                filter: published.and_then(|published| published.row_filter.clone()),
                pages: table.pages,
                columns: table.signature(),
            });
        }
        tables.sort_by_key(|table| std::cmp::Reverse(table.pages));
        if ledger.anew {
            ledger.want(tables.iter().map(|table| table.oid));
        }
        let is_read = |oid| tables.iter().any(|table| table.oid == oid);
        for left in ledger.void().filter(|oid| !is_read(*oid)) {
            let source = &session.config.source;
            warn!(%source, number = left, "a table is excluded while it was being read anew, and has no key: targets may keep rows that are gone");
        }
        ledger.keep(is_read);
        ledger.take_up();
        info!(source = %session.config.source, tables = tables.len(), left = ledger.left(), "copying tables");
        let newcomers = scope.newcomers().to_vec();
        let swept = tables.iter().filter(|table| !table.is_multiset()).map(|table| table.oid);
        let swept = swept.filter(|table| ledger.sweeps.contains(table) && ledger.is_wanted(*table)).collect();
        Ok(Self { tables, newcomers, swept, state: Mutex::new(State::new(ledger)) })
    }

    /// What of the copy is done, for a position.
    pub(crate) fn ledger(&self) -> Ledger {
        self.state().ledger.clone()
    }

    /// Has a row read once more, whose key has changed.
    pub(crate) fn read_also(&self, table: u32, key: Option<Key>) {
        self.state().ledger.read_also(table, key);
    }

    /// True where a table that cannot be read is no reason to stop: it is compared with what is held, which is whole without.
    fn can_be_given_up(&self, table: u32) -> bool {
        let state = self.state();
        state.ledger.is_beside && state.ledger.sweeps.contains(&table) && !state.ledger.is_void(table)
    }

    /// Changes of a table without a key are of no account from here on, until it is read.
    pub(crate) fn make_void(&self, table: u32) {
        self.state().ledger.make_void(table);
    }

    /// True where changes of a table without a key are of no account.
    pub(crate) fn passes_over(&self, table: u32) -> bool {
        self.state().ledger.passes_over(table)
    }

    /// Tables without a key that were read since this was asked last: number, shape, and which transactions that has seen.
    pub(crate) fn take_seen(&self) -> Vec<(u32, u32, Snapshot)> {
        let seen = std::mem::take(&mut self.state().seen);
        let shaped = seen.into_iter().filter_map(|(table, snapshot)| Some((table, self.shape_of(table)?, snapshot)));
        shaped.collect()
    }

    /// Tables without a key that count now that the stream has come to where they were read, with their shapes.
    pub(crate) fn settle(&self) -> Vec<(u32, u32)> {
        let settled = self.state().ledger.settle();
        settled.into_iter().filter_map(|table| Some((table, self.shape_of(table)?))).collect()
    }

    /// The version of the shape in which a table is read.
    fn shape_of(&self, table: u32) -> Option<u32> {
        self.tables.iter().find(|known| known.oid == table).map(|table| table.shape.schema.version)
    }

    /// What is said of tables that have been read anew before the others.
    pub(crate) fn ends_of(
        &self,
        session: &Session<'_>,
        at: Lsn,
        tables: &[(u32, u32)],
    ) -> Result<Vec<TableBatch>, CaptureError> {
        self.say(session, at, |table| tables.iter().any(|(oid, _)| *oid == table.oid).then_some(Op::SweepEnd))
    }

    /// Tables that were given up since this was asked last.
    pub(crate) fn take_given_up(&self) -> Vec<u32> {
        std::mem::take(&mut self.state().given_up)
    }

    /// True once every piece was read.
    pub(crate) fn is_read(&self) -> bool {
        self.state().ledger.is_read()
    }

    /// True where all that is left to read is of tables that somebody has locked, and is tried later.
    pub(crate) fn waits_for_locks(&self) -> bool {
        let state = self.state();
        let mut left = self.tables.iter().filter(|table| state.ledger.is_left(table.oid));
        left.all(|table| state.is_put_off(table.oid))
    }

    /// True where tables without a key were read and do not count yet: they would have to be read again.
    pub(crate) fn is_settling(&self) -> bool {
        self.state().ledger.is_settling()
    }

    /// The position from which on the tables are whole, as far as they were read.
    pub(crate) fn target(&self) -> Lsn {
        self.state().ledger.target
    }

    /// What the first frame says of tables: what the log holds of them is void, of all where the copy begins anew, or of those
    /// that came; and which begin to be read anew. A batch for each.
    pub(crate) fn beginning(&self, session: &Session<'_>, at: Lsn) -> Result<Vec<TableBatch>, CaptureError> {
        let all = std::mem::take(&mut self.state().ledger.anew);
        let op = |table: &Table| {
            let is_void = all || self.newcomers.contains(&table.oid);
            if is_void { Some(Op::Truncate) } else { self.swept.contains(&table.oid).then_some(Op::SweepBegin) }
        };
        self.say(session, at, op)
    }

    /// What is said of tables before they are read anew once more, between two rounds.
    pub(crate) fn beginning_again(&self, session: &Session<'_>, at: Lsn) -> Result<Vec<TableBatch>, CaptureError> {
        let again = std::mem::take(&mut self.state().again);
        self.say(session, at, |table| again.contains(&table.oid).then_some(Op::SweepBegin))
    }

    /// What the last frame says of tables: which have been read anew.
    pub(crate) fn end(&self, session: &Session<'_>, at: Lsn) -> Result<Vec<TableBatch>, CaptureError> {
        let sweeps = std::mem::take(&mut self.state().ledger.sweeps);
        self.say(session, at, |table| sweeps.contains(&table.oid).then_some(Op::SweepEnd))
    }

    fn say(
        &self,
        session: &Session<'_>,
        at: Lsn,
        op: impl Fn(&Table) -> Option<Op>,
    ) -> Result<Vec<TableBatch>, CaptureError> {
        let mut batches = Vec::new();
        for ((table, op), ord) in self.tables.iter().filter_map(|table| Some((table, op(table)?))).zip(0..) {
            let mut builder = TableBuilder::new(Arc::clone(&table.shape), session.config.special_values);
            builder.append_whole(op, Stamp { ord, commit_us: now_us(), position: at });
            batches.extend(take(&mut builder)?);
        }
        Ok(batches)
    }

    /// Reads pieces for a while. `each` gets what was read and, ten times a second at least, nothing.
    pub(crate) fn round(
        &self,
        session: &Session<'_>,
        at: Lsn,
        each: &mut dyn FnMut(Option<Copied>) -> Result<(), CaptureError>,
    ) -> Result<(), CaptureError> {
        let workers = session.config.copy_workers.max(1);
        let (length, was_reading) = {
            let mut state = self.state();
            (state.has_read, state.has_rows) = (false, false);
            let length = if state.ledger.is_beside { ROUND_BESIDE } else { ROUND };
            (length, std::mem::replace(&mut state.ledger.is_reading, true))
        };
        let round = Round::new(&session.config.source, session.stop, length);
        let reading = Reading { session, at, round };
        let work = |sender: &Sender<Message>| Worker::run(self, &reading, sender);
        let ended = reading.round.run(workers, work, |message| {
            match message.map(|message| self.state().note(session, message)) {
                None => each(None),
                Some(None) => Ok(()),
                Some(copied) => each(copied),
            }
        });
        self.state().busy.clear();
        ended?;
        // Rows of a round that broke off are made up for only by what is read after them.
        let mut state = self.state();
        state.ledger.is_reading = (was_reading || state.has_rows) && !state.has_read && !state.ledger.is_read();
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Copied {
    /// How many rows were read.
    fn of(rows: u64, batch: TableBatch, bytes: usize) -> Self {
        let mut counts = OpCounts::default();
        (0..rows).for_each(|_| counts.add(Op::Read));
        Self { batch, counts, bytes }
    }
}

/// The builder's rows as a batch.
fn take(builder: &mut TableBuilder) -> Result<Option<TableBatch>, CaptureError> {
    let schema = &builder.shape().schema;
    let (source_id, table) = (schema.source.clone(), schema.table.clone());
    builder.take().map_err(|error| CaptureError::Batch { source_id, table, error })
}
