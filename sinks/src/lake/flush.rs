//! One flush: a span of the outbox into all tables that it touches.
//!
//! ```text
//! 1 read      the span once; each delta goes to its two tables' inputs unless their transaction is past it
//! 2 prepare   history: finish the files · current: merge into leaves       nothing is visible yet
//! 3 commit    table by table, files and transaction in one log entry       a crash leaves some tables ahead ...
//! 4 maintain  fold and vacuum where due
//! 5 cut       _syncline/cut.json                                           ... and the next flush catches up
//! ```
//!
//! Invariant: a cut is written only where no table is past its offset, and it names the version that each table has
//! then, also of those that this flush passed over because an earlier, broken one had committed to them.

use std::collections::{BTreeMap, HashMap};

use arrow::array::RecordBatch;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{StreamExt, TryStreamExt};
use syncline_schemas::delta::DeltaBatch;
use syncline_schemas::ident::LogOffset;
use tracing::warn;

use super::config::LakeConfig;
use super::history::{self, Appender};
use super::leaf;
use super::merge::{self, Prepared};
use super::runs::{BATCH_ROWS, Sorter};
use super::shape::Kind;
use super::table::{Committed, Table};
use crate::{DeltaSource, SinkError, Span, Written};

/// How many tables are prepared side by side: one reads or uploads while another computes.
const PREPARED_AT_ONCE: usize = 2;

/// How many tables are looked at side by side: over S3 each costs a few round trips.
const LOADED_AT_ONCE: usize = 8;

/// Where a table's rows gather while the span is read.
enum Input {
    Sort(Box<Sorter>),
    Append(Box<Appender>),
}

impl Input {
    fn new(table: &Table, config: &LakeConfig) -> Self {
        match table.shape.kind {
            Kind::Current => {
                Self::Sort(Box::new(Sorter::new(table.shape.delta_schema(), table.shape.delta_key(), &config.scratch)))
            }
            Kind::History | Kind::Operations => Self::Append(Box::new(Appender::new(table))),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Sort(sorter) => sorter.bytes(),
            Self::Append(appender) => appender.bytes(),
        }
    }

    async fn push(&mut self, table: &Table, deltas: RecordBatch, config: &LakeConfig) -> Result<(), SinkError> {
        match self {
            Self::Sort(sorter) => sorter.push(deltas),
            Self::Append(appender) => appender.push(table, deltas, &config.limits).await,
        }
    }

    async fn relieve(&mut self) -> Result<(), SinkError> {
        match self {
            Self::Sort(sorter) => sorter.spill(),
            Self::Append(appender) => appender.relieve().await,
        }
    }

    async fn prepare(self, table: &mut Table, config: &LakeConfig) -> Result<Prepared, SinkError> {
        match self {
            Self::Sort(sorter) => {
                let leaves = leaf::leaves(table).await?;
                merge::merge(table, &leaves, *sorter, &config.limits, &config.scratch).await
            }
            Self::Append(appender) => appender.finish(table, &config.limits).await,
        }
    }
}

/// All tables of a lake.
pub(super) struct Tables {
    tables: Vec<Table>,
    /// Current and history of an entity.
    by_entity: HashMap<String, [usize; 2]>,
}

impl Tables {
    pub(super) fn new(tables: impl IntoIterator<Item = Table>) -> Self {
        let tables: Vec<Table> = tables.into_iter().collect();
        let mut by_entity: HashMap<String, Vec<usize>> = HashMap::new();
        for (i, table) in tables.iter().enumerate() {
            by_entity.entry(table.shape.entity.clone()).or_default().push(i);
        }
        let pair = |of: Vec<usize>| [of[0], of[1]];
        Self { tables, by_entity: by_entity.into_iter().map(|(entity, of)| (entity, pair(of))).collect() }
    }

    fn forget(&mut self) {
        self.tables.iter_mut().for_each(Table::forget);
    }

    /// Looks anew at every table that is there, as the state of an epoch.
    pub(super) async fn load(&mut self, epoch: u32) -> Result<(), SinkError> {
        self.forget();
        self.tables.iter_mut().for_each(|table| table.epoch = epoch);
        let loads: Vec<BoxFuture<'_, Result<bool, SinkError>>> =
            self.tables.iter_mut().map(|table| table.load().boxed()).collect();
        futures::stream::iter(loads).buffer_unordered(LOADED_AT_ONCE).try_for_each(|_| std::future::ready(Ok(()))).await
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Table> {
        self.tables.iter()
    }

    /// The tables that are open.
    pub(super) fn open(&self) -> impl Iterator<Item = &Table> {
        self.tables.iter().filter(|table| table.is_open())
    }

    /// The versions that belong to an offset: of open tables what they are at, of the others what the last cut said, as
    /// nothing was put into them since.
    ///
    /// # Errors
    /// [`SinkError::Unavailable`] where a table is past the offset, which takes a second daemon on the same lake.
    pub(super) fn versions(
        &self,
        offset: LogOffset,
        last: &BTreeMap<String, u64>,
    ) -> Result<BTreeMap<String, u64>, SinkError> {
        let mut versions = last.clone();
        for table in self.open() {
            if table.applied() > offset {
                return Err(SinkError::Unavailable {
                    target: table.url.clone(),
                    reason: format!("another writer has brought it to {}, past this flush's {offset}", table.applied()),
                });
            }
            versions.insert(table.shape.path(), table.version());
        }
        Ok(versions)
    }

    /// Steps 1 to 4. `None`: another writer committed meanwhile; what is in some tables stays, and the flush starts over.
    pub(super) async fn flush(
        &mut self,
        span: Span,
        deltas: &dyn DeltaSource,
        config: &LakeConfig,
    ) -> Result<Option<Written>, SinkError> {
        let (inputs, rows) = self.read(span, deltas, config).await?;
        let prepared = self.prepare(inputs, config).await?;
        let mut written = Written { rows, ..Written::default() };
        for (i, prepared) in prepared {
            let table = &mut self.tables[i];
            let before = table.version();
            written.bytes += prepared.bytes;
            let ranges = prepared.ranges;
            if table.commit(prepared.actions, span.upto).await? == Committed::Conflict {
                warn!(table = %table.url, "another writer committed, starting over from its version");
                // Whoever changed one table may have changed them all.
                self.forget();
                return Ok(None);
            }
            table.ranges.extend(ranges);
            maintain(table, before, config).await;
            if !table.is_open() {
                table.open().await?;
            }
        }
        Ok(Some(written))
    }

    async fn read(
        &mut self,
        span: Span,
        deltas: &dyn DeltaSource,
        config: &LakeConfig,
    ) -> Result<(HashMap<usize, Input>, u64), SinkError> {
        let mut inputs: HashMap<usize, Input> = HashMap::new();
        let (mut rows, mut unchecked) = (0, 0);
        for entry in deltas.read(span)? {
            let entry = entry?;
            for DeltaBatch { entity, rows: batch } in entry.deltas {
                let Some(of_entity) = self.by_entity.get(&entity).copied() else { continue };
                if batch.num_rows() == 0 {
                    continue;
                }
                let mut counted = false;
                for i in of_entity {
                    let table = &mut self.tables[i];
                    table.open().await?;
                    if table.applied() >= entry.offset {
                        continue;
                    }
                    table.shape.check(&batch)?;
                    let input = inputs.entry(i).or_insert_with(|| Input::new(table, config));
                    input.push(table, batch.clone(), config).await?;
                    counted = true;
                }
                if counted {
                    rows += batch.num_rows() as u64;
                    unchecked += batch.num_rows();
                }
            }
            if unchecked >= BATCH_ROWS {
                unchecked = 0;
                relieve(&mut inputs, config.limits.buffer_bytes).await?;
            }
        }
        Ok((inputs, rows))
    }

    async fn prepare(
        &mut self,
        mut inputs: HashMap<usize, Input>,
        config: &LakeConfig,
    ) -> Result<Vec<(usize, Prepared)>, SinkError> {
        // Boxed, as the compiler cannot see through a stream of futures that borrow.
        let jobs: Vec<BoxFuture<'_, Result<(usize, Prepared), SinkError>>> = self
            .tables
            .iter_mut()
            .enumerate()
            .filter_map(|(i, table)| inputs.remove(&i).map(|input| (i, table, input)))
            .map(|(i, table, input)| async move { Ok((i, input.prepare(table, config).await?)) }.boxed())
            .collect();
        futures::stream::iter(jobs).buffered(PREPARED_AT_ONCE).try_collect().await
    }
}

/// Keeps what is held in memory under the budget, the largest first.
async fn relieve(inputs: &mut HashMap<usize, Input>, budget: usize) -> Result<(), SinkError> {
    while inputs.values().map(Input::bytes).sum::<usize>() > budget {
        let Some(largest) = inputs.values_mut().max_by_key(|input| input.bytes()) else { break };
        let before = largest.bytes();
        largest.relieve().await?;
        if largest.bytes() >= before {
            break;
        }
    }
    Ok(())
}

/// Housekeeping of a table that was just committed to. It never fails a flush: the data is durable already.
async fn maintain(table: &mut Table, before: u64, config: &LakeConfig) {
    if table.shape.kind == Kind::History
        && let Err(error) = Box::pin(history::fold(table, &config.limits)).await
    {
        warn!(table = %table.url, error = %error, "folding small files failed, the next flush tries again");
    }
    let every = config.limits.vacuum_versions.max(1);
    if table.is_open() && table.version() / every > before / every {
        table.vacuum().await;
    }
}
