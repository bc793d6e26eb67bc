//! The fold: log entries in, atomic steps of state and deltas out.
//!
//! The unit of evaluation is a source transaction, or as many whole ones as came in one frame. All its row changes are
//! taken together, each touched driving row is evaluated once in its final image against the joined rows as they are
//! then, and what it contributes now is compared with what it contributed before. So sinks only see states that existed at
//! a source transaction boundary, and a row that an ERP touched without changing anything that planning cares about costs
//! one look-up and emits nothing.
//!
//! ```text
//! frame -> changes (last image per key) -> joined rows ----------------------------------> overlay, affected
//!                                       -> driving rows, and those that joined rows affect -> contribute
//!          contribute (evaluate, compare) -> plain | summed -> emit -> Step
//! ```
//!
//! A transaction that took several frames is set aside until its last one comes ([`unit`]); so one source's long copy
//! never holds back what another one delivers. What concerns more rows than fit into a step goes on in further steps
//! ([`tasks`]), and a crash between them goes on with what is left.
//!
//! Deterministic: no clock, no hash order reaches a delta; the same log gives the same outbox, byte for byte.

mod catalog;
mod changes;
mod citation;
mod contribute;
mod contribution;
mod deferred;
mod difference;
mod drivers;
mod editions;
mod emit;
mod evaluate;
mod exceptions;
mod group;
mod held;
mod index;
mod inherit;
mod inspect;
mod join;
mod joined;
mod logic;
mod misfit;
mod multiset;
mod outlook;
mod overlay;
mod plain;
mod policy;
mod roster;
mod sources;
mod step;
mod stored;
mod summed;
mod sweep;
mod tables;
mod tally;
mod tasks;
mod totals;
mod touched;
mod truncate;
mod unit;
mod whole;

use std::collections::{BTreeMap, BTreeSet};

use syncline_schemas::delta::{self, DeltaBatch};
use syncline_schemas::frame::{LogEntry, TableBatch};
use syncline_schemas::ident::{LogOffset, SourceId, TableId};
use syncline_schemas::table::{TableSchema, column_of_field};

use self::citation::Known;
use self::contribution::Contributed;
pub use self::difference::{Difference, Page, Stamp};
pub use self::editions::{MappingChange, changes, fingerprint};
use self::emit::Lineage;
pub use self::exceptions::{Exception, Texts, exceptions};
pub use self::held::{HeldNow, HeldRows, Seen, held_now, is_held};
use self::inherit::Inheritance;
pub use self::inspect::{Given, given, mappings_of};
pub use self::outlook::foresee;
pub use self::policy::{ShapeChange, ShapePolicy};
use self::roster::Roster;
pub use self::sources::{Found, Lookup, SourceRow, Sources, Whereabouts, positions};
pub use self::tally::{RowDifference, Tally, Total};
use self::unit::{Open, Progress, Unit};
pub use self::whole::{Cut, Whole, WholePage, is_amidst, key_of};
use crate::mapping::Mapping;
use crate::state::{Cursor, OutboxStep, Replay, Space, State, Step};
use crate::{MappingFault, TransformError};

type Writes = Vec<(Space, Vec<u8>, Option<Vec<u8>>)>;

/// What one driving row contributed before and contributes now.
struct ContributionChange {
    key: Vec<u8>,
    old: Option<Contributed>,
    new: Option<Contributed>,
    lineage: Lineage,
}

impl Work<'_, '_> {
    /// The transaction at work, for rows of a source, where it takes several steps.
    fn unit(&self, source: &SourceId) -> Option<Unit> {
        let first = (self.source == Some(source)).then_some(self.first);
        self.several.then_some(Unit { entry: self.offset, first })
    }

    /// What is found out at this entry.
    const fn seen(&self) -> Seen {
        Seen { offset: self.offset, at: self.at }
    }
}

/// Counts of what folding did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FoldStats {
    /// Delta rows emitted.
    pub deltas: u64,
    /// Driving rows whose contribution stayed the same.
    pub unchanged: u64,
    /// Driving rows found faulty; each is held.
    pub faulty: u64,
    /// Delivered rows that break a warning rule.
    pub warnings: u64,
}

/// The transform of one daemon: its mappings and how far they have folded.
pub struct Fold {
    epoch: u32,
    roster: Roster,
    cursor: Cursor,
    /// Sources whose last transaction is still open.
    open: BTreeMap<SourceId, Open>,
    /// How far the entry after the cursor has got, where some of its steps are committed.
    progress: Option<Progress>,
    /// True where state holds re-evaluations that are still to be done.
    tasks: bool,
    /// Driving rows that one step takes beside those that its frame changed.
    chunk: usize,
    /// Cited rows that are there.
    known: Known,
    inheritance: Option<Inheritance>,
    /// A table was ever read anew: mostly none, and nothing is to be looked up then.
    sweeps: bool,
    /// An entry failed: what is remembered may be of a step that was never committed.
    is_torn: bool,
}

/// Commits a step atomically and durably.
pub type Commit<'a> = dyn FnMut(Step) -> Result<(), TransformError> + 'a;

/// One entry at work.
struct Work<'w, 'c> {
    offset: LogOffset,
    /// When the entry was captured.
    at: i64,
    log: &'w dyn Replay,
    state: &'w dyn State,
    commit: &'w mut Commit<'c>,
    stats: FoldStats,
    /// The source and the first frame of the transaction that the entry ends.
    source: Option<&'w SourceId>,
    first: LogOffset,
    /// True where the entry takes several steps: what it does to rows is told at its end.
    several: bool,
    /// The rows that were set aside and are not told yet lie behind this key of the index; none where there are none.
    aside: Option<Vec<u8>>,
}

impl Fold {
    /// Takes up folding where `cursor` stands.
    ///
    /// # Errors
    /// [`TransformError::MappingsChanged`] where the mappings are not those that the state was computed with, and
    /// [`TransformError::Mapping`] for a fault in an entity's own expressions.
    pub fn open(epoch: u32, mappings: Vec<Mapping>, cursor: Cursor, state: &dyn State) -> Result<Self, TransformError> {
        if cursor.folded > LogOffset::START || cursor.step > 0 {
            editions::refuse_changes(&mappings, state)?;
        }
        Self::at(epoch, mappings, cursor, state)
    }

    /// Begins behind a log entry, with a state that holds nothing.
    ///
    /// # Errors
    /// [`TransformError::Mapping`] for a fault in an entity's own expressions.
    pub fn begin(
        epoch: u32,
        mappings: Vec<Mapping>,
        after: LogOffset,
        state: &dyn State,
    ) -> Result<Self, TransformError> {
        Self::at(epoch, mappings, Cursor { folded: after, step: 0, rows: 0 }, state)
    }

    fn at(epoch: u32, mappings: Vec<Mapping>, cursor: Cursor, state: &dyn State) -> Result<Self, TransformError> {
        Ok(Self {
            epoch,
            roster: Roster::open(mappings, state)?,
            cursor,
            open: unit::open_transactions(state)?,
            progress: Progress::read(state)?,
            tasks: tasks::any(state)?,
            chunk: tasks::CHUNK,
            known: Known::default(),
            inheritance: None,
            sweeps: sweep::any(state)?,
            is_torn: false,
        })
    }

    /// Remembers what state says, and nothing else.
    fn take_up_again(&mut self, state: &dyn State) -> Result<(), TransformError> {
        let mappings = self.roster.members.iter().map(|member| member.mapping.clone()).collect();
        let fresh = Self::at(self.epoch, mappings, self.cursor, state)?;
        let policy = std::mem::take(&mut self.roster.policy);
        *self = Self { chunk: self.chunk, inheritance: self.inheritance.take(), is_torn: true, ..fresh };
        self.roster.policy = policy;
        Ok(())
    }

    /// Has rows that are held and were never good keep what they contributed in an older state, which does not change and stands
    /// behind a log entry.
    ///
    /// # Errors
    /// [`TransformError::State`] where that cannot be read.
    pub fn inherit(&mut self, older: Box<dyn State + Send>, folded: LogOffset) -> Result<(), TransformError> {
        self.inheritance = Some(Inheritance::of(older, folded)?);
        Ok(())
    }

    /// Why a mapping gives nothing yet: one of its tables has not been seen. None where all have been.
    #[must_use]
    pub fn unfed(&self) -> Option<MappingFault> {
        self.roster.unfed()
    }

    /// Says what becomes of tables that change.
    #[must_use]
    pub fn with_policy(mut self, policy: ShapePolicy) -> Self {
        self.roster.policy = policy;
        self
    }

    /// The mappings that are put aside, with why.
    pub fn misfits(&self) -> impl Iterator<Item = &MappingFault> {
        self.roster.members.iter().filter_map(|member| member.misfit.as_ref())
    }

    /// Has it stop at some changes of tables from here on, while it folds the log again.
    pub fn set_stop_at(&mut self, stop_at: &BTreeSet<ShapeChange>) {
        self.roster.policy.stop_at.clone_from(stop_at);
    }

    /// The state stands for itself from here on; what then becomes of tables that change is as in [`Self::with_policy`].
    pub fn come_of_age(&mut self, policy: ShapePolicy) {
        self.inheritance = None;
        self.roster.policy = policy;
    }

    /// Bounds a step to fewer rows. The outbox is the same only where the bound is.
    #[must_use]
    pub const fn with_chunk(mut self, rows: usize) -> Self {
        self.chunk = rows;
        self
    }

    /// What begins the versions of its deltas.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// How far it has got.
    #[must_use]
    pub const fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// The log is needed behind this offset: what is above is not folded, or is asked for again when its transaction ends.
    #[must_use]
    pub fn needs_after(&self) -> LogOffset {
        unit::needs_after(&self.open, self.cursor.folded)
    }

    /// Folds the entry after the cursor.
    ///
    /// # Errors
    /// Nothing of the failing step is committed; the cursor stays before it.
    pub fn fold(
        &mut self,
        offset: LogOffset,
        entry: &LogEntry,
        log: &dyn Replay,
        state: &dyn State,
        commit: &mut Commit<'_>,
    ) -> Result<FoldStats, TransformError> {
        if offset != self.cursor.folded.next() {
            let reason = format!("the fold stands at {} and wants the next entry", self.cursor.folded);
            return Err(TransformError::Entry { offset: offset.0, reason });
        }
        if std::mem::replace(&mut self.is_torn, true) {
            self.take_up_again(state)?;
        }
        let at = if let LogEntry::Frame(frame) = entry { frame.captured_at } else { 0 };
        let several = self.progress.is_some() || self.tasks;
        // What a crash has left may lie anywhere.
        let aside = self.progress.map(|_| Vec::new());
        let mut work = Work {
            offset,
            at,
            log,
            state,
            commit,
            stats: FoldStats::default(),
            source: None,
            first: offset,
            several,
            aside,
        };
        match entry {
            LogEntry::Schema(schema) => {
                self.roster.observe_shape(schema)?;
                self.finish(Writes::new(), Vec::new(), self.open.clone(), &mut work)?;
            }
            LogEntry::Frame(frame) => self.fold_frame(frame, &mut work)?,
        }
        self.is_torn = false;
        Ok(work.stats)
    }

    /// Commits a step after which the entry goes on.
    fn go_on(
        &mut self,
        mut writes: Writes,
        deltas: Vec<DeltaBatch>,
        progress: Progress,
        work: &mut Work<'_, '_>,
    ) -> Result<(), TransformError> {
        if writes.is_empty() && deltas.is_empty() && self.roster.registrations().is_empty() {
            return Ok(());
        }
        let marks = writes.iter().any(|(space, key, _)| *space == Space::Index && index::is_mark(key));
        if marks {
            tasks::put_marks(&mut writes);
        }
        progress.write(&mut writes);
        let rows = self.cursor.rows + row_count(&deltas);
        let cursor = Cursor { step: self.cursor.step + 1, rows, ..self.cursor };
        self.commit(writes, deltas, cursor, work)?;
        self.tasks |= marks;
        self.progress = Some(progress);
        work.several = true;
        Ok(())
    }

    /// Commits the last step of an entry; what the fold itself remembers changes only with it.
    fn finish(
        &mut self,
        mut writes: Writes,
        deltas: Vec<DeltaBatch>,
        open: BTreeMap<SourceId, Open>,
        work: &mut Work<'_, '_>,
    ) -> Result<(), TransformError> {
        if open != self.open {
            writes.push(unit::open_record(&open));
        }
        if self.progress.is_some() {
            writes.push(Progress::none());
        }
        self.commit(writes, deltas, Cursor { folded: work.offset, step: 0, rows: 0 }, work)?;
        self.open = open;
        self.progress = None;
        Ok(())
    }

    fn commit(
        &mut self,
        mut writes: Writes,
        deltas: Vec<DeltaBatch>,
        cursor: Cursor,
        work: &mut Work<'_, '_>,
    ) -> Result<(), TransformError> {
        writes.extend_from_slice(self.roster.registrations());
        let outbox = if deltas.is_empty() {
            None
        } else {
            let bytes = delta::encode(&deltas)?;
            Some(OutboxStep { offset: work.offset, step: self.cursor.step, rows: row_count(&deltas), bytes })
        };
        (work.commit)(Step { writes, outbox, cursor })?;
        self.tasks |= self.roster.registered();
        self.cursor = cursor;
        Ok(())
    }
}

/// What [`Fold::needs_after`] would say of a state.
///
/// # Errors
/// [`TransformError::State`] where that cannot be read.
pub fn needs_after(state: &dyn State, folded: LogOffset) -> Result<LogOffset, TransformError> {
    Ok(unit::needs_after(&unit::open_transactions(state)?, folded))
}

fn row_count(deltas: &[DeltaBatch]) -> u32 {
    let rows: usize = deltas.iter().map(|delta| delta.rows.num_rows()).sum();
    u32::try_from(rows).expect("a step emits fewer rows than u32")
}

/// The shape of a batch by its own field metadata: rows are readable without what came before them.
fn shape(source: &SourceId, batch: &TableBatch) -> TableSchema {
    let schema = batch.rows.schema();
    let own = schema.fields().len().saturating_sub(syncline_schemas::frame::META_COLUMNS);
    TableSchema {
        source: source.clone(),
        table: TableId::clone(&batch.table),
        version: batch.schema_version,
        columns: schema.fields()[..own].iter().map(|field| column_of_field(field)).collect(),
    }
}
