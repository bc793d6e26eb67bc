//! The fold: log entries in, atomic steps of state and deltas out.
//!
//! The unit of evaluation is a frame. All its row changes are taken together, each touched driving row is evaluated once
//! in its final image, and what it contributes now is compared with what it contributed before. So sinks only see
//! states that existed at a source transaction boundary, and a row that an ERP touched without changing anything that
//! planning cares about costs one look-up and emits nothing.
//!
//! ```text
//! frame -> changes (last image per driving key) -> contribute (evaluate, compare) -> plain | summed -> emit -> Step
//! ```
//!
//! Deterministic: no clock, no hash order reaches a delta; the same log gives the same outbox, byte for byte. A
//! truncate of a large table is folded in several steps so that memory stays bounded; a crash between them goes on with
//! what is left.

mod changes;
mod contribute;
mod contribution;
mod emit;
mod evaluate;
mod held;
mod logic;
mod plain;
mod roster;
mod summed;
mod touched;

use std::collections::BTreeSet;

use syncline_schemas::delta::{self, DeltaBatch};
use syncline_schemas::entity::{self, Kind};
use syncline_schemas::frame::{Frame, LogEntry, TableBatch};
use syncline_schemas::ident::{LogOffset, SourceId, TableId};
use syncline_schemas::table::{TableSchema, column_of_field};

use self::changes::Changes;
use self::contribute::Contributor;
use self::contribution::{Contributed, Contribution};
use self::emit::{Lineage, Origin, delta_batch};
pub use self::held::{HeldNow, HeldRows, held_now};
use self::roster::Roster;
use crate::TransformError;
use crate::mapping::Mapping;
use crate::state::{Cursor, OutboxStep, Space, State, Step};

/// Contributions taken back in one step of a truncate: about 4 MiB of state.
const TRUNCATE_STEP: usize = 16 * 1024;
/// Catalog key of the sources whose last transaction is still open.
const OPEN: &[u8] = b"open";

type Writes = Vec<(Space, Vec<u8>, Option<Vec<u8>>)>;

/// What one driving row contributed before and contributes now.
struct ContributionChange {
    key: Vec<u8>,
    old: Option<Contributed>,
    new: Option<Contributed>,
    lineage: Lineage,
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
    open: BTreeSet<SourceId>,
}

/// Commits a step atomically and durably.
pub type Commit<'a> = dyn FnMut(Step) -> Result<(), TransformError> + 'a;

impl Fold {
    /// Takes up folding where `cursor` stands.
    ///
    /// # Errors
    /// [`TransformError::MappingsChanged`] where the mappings are not those that the state was computed with, and
    /// [`TransformError::Mapping`] for a fault in an entity's own expressions.
    pub fn open(epoch: u32, mappings: Vec<Mapping>, cursor: Cursor, state: &dyn State) -> Result<Self, TransformError> {
        let open = state.get(Space::Catalog, OPEN)?.unwrap_or_default();
        let open = String::from_utf8(open).map_err(|error| TransformError::State(error.to_string()))?;
        Ok(Self {
            epoch,
            roster: Roster::open(mappings, cursor, state)?,
            cursor,
            open: open.lines().map(SourceId::new).collect(),
        })
    }

    /// How far it has got.
    #[must_use]
    pub const fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Folds the entry after the cursor.
    ///
    /// # Errors
    /// Nothing of the failing step is committed; the cursor stays before it.
    pub fn fold(
        &mut self,
        offset: LogOffset,
        entry: &LogEntry,
        state: &dyn State,
        commit: &mut Commit<'_>,
    ) -> Result<FoldStats, TransformError> {
        if offset != self.cursor.folded.next() {
            let reason = format!("the fold stands at {} and wants the next entry", self.cursor.folded);
            return Err(TransformError::Entry { offset: offset.0, reason });
        }
        let mut stats = FoldStats::default();
        match entry {
            LogEntry::Schema(schema) => {
                self.roster.check(schema)?;
                self.finish(offset, Writes::new(), Vec::new(), self.open.clone(), commit)?;
            }
            LogEntry::Frame(frame) => self.fold_frame(offset, frame, state, commit, &mut stats)?,
        }
        Ok(stats)
    }

    fn fold_frame(
        &mut self,
        offset: LogOffset,
        frame: &Frame,
        state: &dyn State,
        commit: &mut Commit<'_>,
        stats: &mut FoldStats,
    ) -> Result<(), TransformError> {
        let mapped: Vec<(TableSchema, Vec<usize>, &TableBatch)> = frame
            .batches
            .iter()
            .map(|batch| (shape(&frame.source, batch), batch))
            .map(|(schema, batch)| self.roster.mappings_of(&schema).map(|mappings| (schema, mappings, batch)))
            .filter(|table| table.as_ref().map_or(true, |(_, mappings, _)| !mappings.is_empty()))
            .collect::<Result<_, _>>()?;
        for (i, (schema, ..)) in mapped.iter().enumerate() {
            if mapped[..i].iter().any(|(other, ..)| other.table == schema.table) {
                let reason = format!("two batches of {}; a reader cuts the frame where a shape changes", schema.table);
                return Err(TransformError::Entry { offset: offset.0, reason });
            }
        }
        let tables: Vec<Changes<'_>> = mapped
            .iter()
            .map(|(schema, _, batch)| Changes::collect(batch, &schema.key_indexes()))
            .collect::<Result<_, _>>()?;
        let source = frame.source.as_str();
        let origin = Origin { epoch: self.epoch, offset, source, captured_at: frame.captured_at, tables: &tables };
        for (table, (_, mappings, _)) in mapped.iter().enumerate() {
            if let Some(row) = tables[table].truncated {
                for &mapping in mappings {
                    self.truncate(mapping, Lineage { table, row }, &origin, state, commit, stats)?;
                }
            }
        }
        let mut writes = Writes::new();
        let mut by_entity: Vec<Vec<ContributionChange>> = entity::all().iter().map(|_| Vec::new()).collect();
        for (table, (_, mappings, _)) in mapped.iter().enumerate() {
            for &mapping in mappings {
                let (entity_index, id, compiled) = self.roster.compiled(mapping);
                let entity = &entity::all()[entity_index];
                let logic = self.roster.logic(entity_index);
                let changes = &tables[table];
                let contributor = Contributor { id, entity, logic, compiled, changes, table, offset };
                contributor.run(state, &mut writes, &mut by_entity[entity_index], stats)?;
            }
        }
        let deltas = self.emit(by_entity, &origin, state, &mut writes, stats)?;
        let open = self.open_after(frame, &mut writes);
        self.finish(offset, writes, deltas, open, commit)
    }

    /// Takes back everything that a mapping's table contributed, a bounded number of rows at a time.
    fn truncate(
        &mut self,
        mapping: usize,
        lineage: Lineage,
        origin: &Origin<'_>,
        state: &dyn State,
        commit: &mut Commit<'_>,
        stats: &mut FoldStats,
    ) -> Result<(), TransformError> {
        let (entity_index, id) = self.roster.identity(mapping);
        loop {
            let records = state.scan(Space::Contributions, &id.to_be_bytes(), TRUNCATE_STEP)?;
            if records.is_empty() {
                return Ok(());
            }
            let mut writes = Writes::new();
            let mut by_entity: Vec<Vec<ContributionChange>> = entity::all().iter().map(|_| Vec::new()).collect();
            for (key, bytes) in records {
                writes.push((Space::Contributions, key.clone(), None));
                if Contribution::decode(&bytes)?.held {
                    writes.push((Space::Held, held::fault_key(&key), None));
                }
                if let Some(old) = Contributed::of(bytes)? {
                    by_entity[entity_index].push(ContributionChange { key, old: Some(old), new: None, lineage });
                }
            }
            let deltas = self.emit(by_entity, origin, state, &mut writes, stats)?;
            let rows = self.cursor.rows + row_count(&deltas);
            let cursor = Cursor { step: self.cursor.step + 1, rows, ..self.cursor };
            self.commit(origin.offset, writes, deltas, cursor, commit)?;
        }
    }

    /// Folds contribution changes into entity rows, masters first.
    fn emit(
        &self,
        by_entity: Vec<Vec<ContributionChange>>,
        origin: &Origin<'_>,
        state: &dyn State,
        writes: &mut Writes,
        stats: &mut FoldStats,
    ) -> Result<Vec<DeltaBatch>, TransformError> {
        let mut deltas = Vec::new();
        let mut first_row = self.cursor.rows;
        for (entity_index, changes) in by_entity.into_iter().enumerate().filter(|(_, changes)| !changes.is_empty()) {
            let entity = &entity::all()[entity_index];
            let prefix = self.roster.entity_prefix(entity_index);
            let logic = self.roster.logic(entity_index);
            let emitted = match entity.kind {
                Kind::Summed => summed::fold(entity, logic, &prefix, origin.offset, &changes, state, writes)?,
                Kind::Plain | Kind::Event => plain::fold(entity, &prefix, &changes, state, writes)?,
            };
            if emitted.upserts.is_empty() {
                continue;
            }
            stats.warnings += logic.warnings(entity, &emitted.fields)?;
            let batch = delta_batch(entity, emitted, origin, first_row)?;
            stats.deltas += batch.rows.num_rows() as u64;
            first_row += row_count(std::slice::from_ref(&batch));
            deltas.push(batch);
        }
        Ok(deltas)
    }

    /// The sources whose transaction is open when the frame is done.
    fn open_after(&self, frame: &Frame, writes: &mut Writes) -> BTreeSet<SourceId> {
        let mut open = self.open.clone();
        let changed = if frame.txn_end { open.remove(&frame.source) } else { open.insert(frame.source.clone()) };
        if changed {
            let names: Vec<&str> = open.iter().map(SourceId::as_str).collect();
            writes.push((Space::Catalog, OPEN.to_vec(), Some(names.join("\n").into_bytes())));
        }
        open
    }

    /// Commits the last step of an entry; what the fold itself remembers changes only with it.
    fn finish(
        &mut self,
        offset: LogOffset,
        mut writes: Writes,
        deltas: Vec<DeltaBatch>,
        open: BTreeSet<SourceId>,
        commit: &mut Commit<'_>,
    ) -> Result<(), TransformError> {
        writes.extend_from_slice(self.roster.registrations());
        // While any source's transaction is open, what lies in the outbox is no state that ever was.
        let visible = if open.is_empty() { offset } else { self.cursor.visible };
        let cursor = Cursor { folded: offset, step: 0, rows: 0, visible };
        self.commit(offset, writes, deltas, cursor, commit)?;
        self.roster.registered();
        self.open = open;
        Ok(())
    }

    fn commit(
        &mut self,
        offset: LogOffset,
        writes: Writes,
        deltas: Vec<DeltaBatch>,
        cursor: Cursor,
        commit: &mut Commit<'_>,
    ) -> Result<(), TransformError> {
        let outbox = if deltas.is_empty() {
            None
        } else {
            let bytes = delta::encode(&deltas)?;
            Some(OutboxStep { offset, step: self.cursor.step, rows: row_count(&deltas), bytes })
        };
        commit(Step { writes, outbox, cursor })?;
        self.cursor = cursor;
        Ok(())
    }
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
