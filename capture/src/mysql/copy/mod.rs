//! The tables, copied piece by piece while the stream waits: the rule of [`crate::postgres`]'s copy, in the numbers of
//! transactions.
//!
//! ```text
//! stream at P        waits
//! workers 1..n       read pieces, each as of one moment that sees all that was told       Op::Read
//! stream             goes on to H, which holds all that these reads may have seen
//! ... until every piece is read and the stream has reached H                             txn_end = true
//! ```
//! What the log says of a change between P and H comes behind what a read saw of it, and says at its last what the row is at
//! H: so there the tables are what they were in the source, whatever was read when. The whole copy is one unit.
//!
//! The [`Ledger`] of what is left travels in every position: after a crash only pieces under way are read again. Nothing is
//! locked but a table's definition, and that no longer than one piece is read; nothing is written to the source.

mod ledger;
mod plan;
mod view;
mod worker;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::Sender;
use syncline_schemas::frame::{Op, TableBatch};
use syncline_schemas::ident::TableId;
use tracing::info;

#[cfg(test)]
pub(crate) use self::ledger::tests;
pub(crate) use self::ledger::{Ledger, Piece};
use self::plan::Table;
use self::worker::Worker;
use super::catalog::CatalogTable;
use super::config::MySqlConfig;
use super::gtid::GtidSet;
use super::row::{Shape, Stamp, TableBuilder};
use super::site::Site;
use super::wire::Connection;
use crate::progress::now_us;
use crate::round::Round;
use crate::{CaptureError, StopSignal};

const DURING: &str = "copying the tables";
/// How long the stream waits for one round of pieces at most, but for those that are under way then.
const ROUND: Duration = Duration::from_secs(10);

/// Rows of one table that were read.
pub(crate) struct Copied {
    pub(crate) batch: TableBatch,
    pub(crate) rows: u32,
}

/// What a worker has to tell; in this order per worker.
enum Message {
    Rows(Copied),
    /// A piece was read, up to what is left of it; it has seen nothing that is not in the set.
    Read {
        table: TableId,
        piece: Piece,
        rest: Option<Piece>,
        reached: GtidSet,
    },
}

struct State {
    ledger: Ledger,
    /// Pieces in the hands of workers.
    busy: Vec<(TableId, Piece)>,
    /// Tables of which what the log holds is void, and of which nobody was told.
    void: Vec<TableId>,
}

/// A copy under way.
pub(crate) struct Copying {
    config: MySqlConfig,
    /// Where the stream comes from.
    site: Site,
    is_mariadb: bool,
    /// Largest first, so that the last worker does not end long after the others.
    tables: Vec<Table>,
    state: Mutex<State>,
}

/// What the workers of a round share.
struct Reading<'a> {
    /// Where the stream waits.
    at: &'a GtidSet,
    is_mariadb: bool,
    round: Round<'a>,
}

impl Copying {
    /// Takes a copy up where its ledger stands; `newcomers` are read from now on.
    pub(crate) fn new(
        connection: &mut Connection,
        config: &MySqlConfig,
        site: &Site,
        tables: Vec<CatalogTable>,
        mut ledger: Ledger,
        newcomers: Vec<TableId>,
    ) -> Result<Self, CaptureError> {
        let is_mariadb = matches!(ledger.target, GtidSet::MariaDb(_));
        let mut tables: Vec<Table> = tables.into_iter().map(Table::of).collect();
        tables.sort_by_key(|table| std::cmp::Reverse(table.rows));
        let is_all = std::mem::take(&mut ledger.anew);
        let void = if is_all { tables.iter().map(|table| table.id.clone()).collect() } else { newcomers };
        void.iter().for_each(|table| ledger.begin(table, vec![Piece::default()]));
        ledger.keep(|id| tables.iter().any(|table| table.id == *id));
        for table in &tables {
            if let Some(sql) = table.bounds_sql().filter(|_| ledger.is_fresh(&table.id)) {
                let rows = connection.query(DURING, &sql)?;
                let bound = |i| rows.first().and_then(|row| row.get(i)?.parse().ok());
                if let Some((min, max)) = bound(0).zip(bound(1)) {
                    ledger.begin(&table.id, table.ranges(min, max));
                }
            }
        }
        info!(source = %config.source, tables = tables.len(), left = ledger.left(), "copying tables");
        let state = Mutex::new(State { ledger, busy: Vec::new(), void });
        Ok(Self { config: config.clone(), site: site.clone(), is_mariadb, tables, state })
    }

    /// The shapes in which tables are read.
    pub(crate) fn shapes(&self) -> impl Iterator<Item = &Arc<Shape>> {
        self.tables.iter().map(|table| &table.shape)
    }

    /// What of the copy is done, for a position.
    pub(crate) fn ledger(&self) -> Ledger {
        self.state().ledger.clone()
    }

    /// True once every piece was read.
    pub(crate) fn is_read(&self) -> bool {
        self.state().ledger.is_read()
    }

    /// Whether the tables are whole at a place, as far as they were read.
    pub(crate) fn is_reached(&self, end: &GtidSet) -> bool {
        end.contains(&self.state().ledger.target)
    }

    /// Has a table read from its beginning, where it is read at all.
    pub(crate) fn begin_again(&self, table: &TableId) {
        if self.tables.iter().any(|known| known.id == *table) {
            self.state().ledger.begin(table, vec![Piece::default()]);
        }
    }

    /// What the first frame says: of which tables what the log holds is void. A batch for each.
    pub(crate) fn beginning(&self, at: &GtidSet) -> Result<Vec<TableBatch>, CaptureError> {
        let void = std::mem::take(&mut self.state().void);
        let at = Arc::<str>::from(at.to_string());
        let mut batches = Vec::new();
        for (table, ord) in self.tables.iter().filter(|table| void.contains(&table.id)).zip(0..) {
            let mut builder = TableBuilder::new(Arc::clone(&table.shape), false);
            builder.append_whole(Op::Truncate, Stamp { ord, commit_us: now_us(), at: &at });
            batches.push(take(&mut builder)?);
        }
        Ok(batches)
    }

    /// A piece that nobody else reads.
    fn next(&self) -> Option<(&Table, Piece)> {
        let mut state = self.state();
        let state = &mut *state;
        for table in &self.tables {
            if let Some(piece) = state.ledger.next(&table.id, &state.busy) {
                state.busy.push((table.id.clone(), piece.clone()));
                return Some((table, piece));
            }
        }
        None
    }

    /// Takes a message into the ledger: after the rows before it.
    fn note(&self, message: Message) -> Result<Option<Copied>, CaptureError> {
        let (table, piece, rest, reached) = match message {
            Message::Rows(copied) => return Ok(Some(copied)),
            Message::Read { table, piece, rest, reached } => (table, piece, rest, reached),
        };
        let mut state = self.state();
        state.busy.retain(|(other, taken)| !(*other == table && *taken == piece));
        // Whoever read the piece goes on with the rest.
        state.busy.extend(rest.clone().map(|rest| (table.clone(), rest)));
        state.ledger.finish(&table, &piece, rest);
        state.ledger.target.unite(&reached).map_err(|reason| CaptureError::Protocol {
            source_id: self.config.source.clone(),
            at: DURING.to_owned(),
            reason: reason.to_owned(),
        })?;
        Ok(None)
    }

    /// Reads pieces for a while; `each` gets what was read.
    pub(crate) fn round(
        &self,
        at: &GtidSet,
        stop: &StopSignal,
        each: &mut dyn FnMut(Copied) -> Result<(), CaptureError>,
    ) -> Result<(), CaptureError> {
        let workers = self.config.copy_workers.max(1);
        let round = Round::new(&self.config.source, stop, ROUND);
        let reading = Reading { at, is_mariadb: self.is_mariadb, round };
        let work = |sender: &Sender<Message>| Worker::run(self, &reading, sender);
        let ended = reading.round.run(workers, work, |message| {
            let copied = message.map_or(Ok(None), |message| self.note(message))?;
            copied.map_or(Ok(()), &mut *each)
        });
        self.state().busy.clear();
        ended
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The builder's rows, of which there are some, as a batch.
fn take(builder: &mut TableBuilder<Arc<str>>) -> Result<TableBatch, CaptureError> {
    let schema = &builder.shape().schema;
    let (source_id, table) = (schema.source.clone(), schema.table.clone());
    match builder.take() {
        Ok(Some(batch)) => Ok(batch),
        Ok(None) => unreachable!("a builder without rows is not asked for them"),
        Err(error) => Err(CaptureError::Batch { source_id, table, error }),
    }
}
