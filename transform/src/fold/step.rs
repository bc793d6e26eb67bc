//! One step: what a frame changes, or a chunk of tasks, becomes writes and deltas.

use std::collections::HashSet;

use syncline_schemas::delta::DeltaBatch;
use syncline_schemas::entity::{self, Kind};
use syncline_schemas::frame::Frame;
use syncline_schemas::ident::LogOffset;

use super::catalog::Table;
use super::changes::Changes;
use super::contribute::Contributor;
use super::drivers::Drivers;
use super::emit::{Cause, Lineage, Origin, delta_batch};
use super::join::Joins;
use super::joined::{Affected, Joined};
use super::overlay::Overlay;
use super::roster::Member;
use super::tasks::{self, Chunk, Found, Task, What, Why};
use super::unit::Progress;
use super::{ContributionChange, Fold, FoldStats, Work, Writes, index, plain, row_count, summed};
use crate::TransformError;
use crate::mapping::compile::Compiled;
use crate::state::{Space, State};

/// Which rows of a frame a step takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The frame is all there is.
    Whole,
    /// Rows of joined tables; what they affect is left as tasks.
    Joined,
    /// Driving rows.
    Driving,
}

impl Part {
    /// The part, and what is done before it where it is a frame's. A frame that changed nothing left no mark of its own, but
    /// it must not be taken again over what a later one did.
    fn before(self, at: LogOffset) -> (Self, Progress) {
        let done = LogOffset(at.0 - 1);
        (self, if self == Self::Driving { Progress::Driving(done) } else { Progress::Joined(done) })
    }
}

/// What a step writes and emits.
pub(super) struct Outcome {
    pub(super) writes: Writes,
    pub(super) deltas: Vec<DeltaBatch>,
    /// True where its writes hold tasks.
    pub(super) leaves_tasks: bool,
}

/// The contribution changes of a step, by entity.
type ByEntity = Vec<Vec<ContributionChange>>;

impl Fold {
    /// Takes a frame's rows, or a part of them. `at` is the frame's own offset.
    pub(super) fn step(
        &mut self,
        at: LogOffset,
        frame: &Frame,
        part: Part,
        work: &mut Work<'_, '_>,
    ) -> Result<Outcome, TransformError> {
        let (joined, driving) = (part != Part::Driving, part != Part::Joined);
        let tables = self.collect(at, frame, joined, driving)?;
        let causes = tables.iter().map(|(table, changes)| Cause::Batch {
            source: frame.source.as_str(),
            table: table.1.to_string(),
            captured_at: frame.captured_at,
            batch: changes.batch,
        });
        let origin = Origin { epoch: self.epoch, offset: work.offset, causes: causes.collect() };
        self.take_back(&tables, &origin, part.before(at), work)?;
        let (mut overlay, mut tasks) = (Overlay::new(work.state), Vec::new());
        if joined {
            for (cause, (table, changes)) in tables.iter().enumerate() {
                if let Some(kept) = self.roster.tables.get(table) {
                    let affected = kept.apply(changes, &self.roster.layouts, &mut overlay)?;
                    tasks.extend(self.tasks_for(kept, affected, cause));
                }
            }
        }
        let mut writes = Writes::new();
        let mut by_entity: ByEntity = entity::all().iter().map(|_| Vec::new()).collect();
        if driving {
            let changed = self.changed(&tables, work.state)?;
            if part == Part::Whole && !tasks.is_empty() {
                let known = changed.iter().flat_map(|(_, drivers)| drivers.keys.iter().cloned()).collect();
                let chunk = Chunk::take(tasks, self.chunk, &known, origin.causes.len(), work.state)?;
                tasks = chunk.left;
                self.evaluate_found(chunk.found, &overlay, &mut writes, &mut by_entity, work)?;
            }
            for (member, drivers) in changed {
                self.contribute(member, drivers, &overlay, &mut writes, &mut by_entity, work)?;
            }
        }
        let leaves_tasks = !tasks.is_empty();
        for task in tasks {
            task.put(&|lineage| origin.text(lineage), &mut writes)?;
        }
        let deltas = self.emit(by_entity, &origin, work.state, &mut writes, &mut work.stats)?;
        writes.extend(overlay.into_writes());
        Ok(Outcome { writes, deltas, leaves_tasks })
    }

    /// What the frame leaves of each row of the tables that matter for the step.
    fn collect<'f>(
        &mut self,
        at: LogOffset,
        frame: &'f Frame,
        joined: bool,
        driving: bool,
    ) -> Result<Vec<(Table, Changes<'f>)>, TransformError> {
        let mut tables: Vec<(Table, Changes<'f>)> = Vec::new();
        for batch in &frame.batches {
            let Some(keys) = self.roster.observe(&frame.source, batch)? else { continue };
            let table: Table = (frame.source.clone(), batch.table.clone());
            let is_driving = self.roster.members.iter().any(|member| member.is_driven_by(&table));
            if !(joined && self.roster.tables.get(&table).is_some() || driving && is_driving) {
                continue;
            }
            if tables.iter().any(|(other, _)| *other == table) {
                let reason = format!("two batches of {}; a reader cuts the frame where a shape changes", table.1);
                return Err(TransformError::Entry { offset: at.0, reason });
            }
            tables.push((table, Changes::collect(batch, &keys)?));
        }
        Ok(tables)
    }

    /// Takes back what truncated tables held.
    fn take_back(
        &mut self,
        tables: &[(Table, Changes<'_>)],
        origin: &Origin<'_>,
        (part, progress): (Part, Progress),
        work: &mut Work<'_, '_>,
    ) -> Result<(), TransformError> {
        for (cause, (table, changes)) in tables.iter().enumerate() {
            let Some(row) = changes.truncated else { continue };
            let lineage = Lineage { cause, row };
            if part != Part::Driving
                && let Some(id) = self.roster.tables.get(table).map(|joined| joined.id)
            {
                self.truncate_joined(id, lineage, origin, progress, work)?;
            }
            if part != Part::Joined {
                for member in 0..self.roster.members.len() {
                    if self.roster.members[member].is_driven_by(table) {
                        self.truncate_driving(member, lineage, origin, progress, work)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The driving rows that the frame changed, by mapping.
    fn changed(
        &self,
        tables: &[(Table, Changes<'_>)],
        state: &dyn State,
    ) -> Result<Vec<(&Member, Drivers)>, TransformError> {
        let mut changed = Vec::new();
        for (cause, (table, changes)) in tables.iter().enumerate() {
            for member in self.roster.members.iter().filter(|member| member.is_driven_by(table)) {
                let Some(driving) = &member.driving else { continue };
                let layouts = &self.roster.layouts;
                changed.push((member, Drivers::changed(member.id, driving, changes, cause, state, layouts)?));
            }
        }
        Ok(changed)
    }

    /// What changed rows of a joined table ask for, without looking whether anything depends on them.
    pub(super) fn tasks_for(&self, joined: &Joined, affected: Vec<Affected>, cause: usize) -> Vec<Task> {
        let table: Table = (joined.source.clone(), joined.table.clone());
        let mut roles = Vec::new();
        for member in &self.roster.members {
            let Some((compiled, _)) = member.compiled() else { continue };
            for join in member.joins_of(&table) {
                roles.push((member.id, join, self.index_of(joined, &compiled.edges[join])));
            }
        }
        let mut tasks = Vec::new();
        for Affected { index, values, row } in affected {
            for &(mapping, join, _) in roles.iter().filter(|(.., found_by)| *found_by == index) {
                let what = What::Values { mapping, join, values: values.clone() };
                tasks.push(Task::new(what, Why::Row(Lineage { cause, row })));
            }
        }
        tasks
    }

    fn index_of(&self, joined: &Joined, edge: &crate::mapping::edge::Edge) -> Option<u32> {
        if edge.by_key { None } else { self.roster.tables.index_of(joined, &edge.on) }
    }

    /// One chunk of tasks. `now` is when what has no other time happened.
    pub(super) fn task_step(
        &mut self,
        mut tasks: Vec<Task>,
        now: i64,
        work: &mut Work<'_, '_>,
    ) -> Result<(Writes, Vec<DeltaBatch>), TransformError> {
        let mut writes = Writes::new();
        if let What::Fill { table, index } = tasks[0].what {
            let task = tasks.swap_remove(0);
            self.fill(task, table, index, &mut writes, work)?;
            return Ok((writes, Vec::new()));
        }
        let mut chunk = Chunk::take(tasks, self.chunk, &HashSet::new(), 0, work.state)?;
        chunk.record_progress(&mut writes)?;
        let causes = chunk.causes.drain(..).map(|cause| Cause::Text(cause.timed(now))).collect();
        let origin = Origin { epoch: self.epoch, offset: work.offset, causes };
        let mut by_entity: ByEntity = entity::all().iter().map(|_| Vec::new()).collect();
        let overlay = Overlay::new(work.state);
        self.evaluate_found(chunk.found, &overlay, &mut writes, &mut by_entity, work)?;
        let deltas = self.emit(by_entity, &origin, work.state, &mut writes, &mut work.stats)?;
        Ok((writes, deltas))
    }

    /// Puts rows that were there before an index into it.
    fn fill(
        &self,
        task: Task,
        table: u32,
        join_index: u32,
        writes: &mut Writes,
        work: &Work<'_, '_>,
    ) -> Result<(), TransformError> {
        let missing = || TransformError::State("an index to be filled is not known".to_owned());
        let joined = self.roster.tables.by_id(table).ok_or_else(missing)?;
        let join_index = joined.indexes.iter().find(|known| known.id == join_index).ok_or_else(missing)?;
        let rows = work.state.scan(Space::Rows, &table.to_be_bytes(), &task.after, self.chunk)?;
        let values = joined.indexed(join_index, rows.iter().map(|(_, row)| row.as_slice()), &self.roster.layouts)?;
        for ((key, _), values) in rows.iter().zip(values) {
            if let Some(values) = values {
                let entry = index::joined(join_index.id, &values, &key[size_of::<u32>()..]);
                writes.push((Space::Index, entry, Some(Vec::new())));
            }
        }
        let last = if rows.len() == self.chunk { rows.into_iter().next_back().map(|(key, _)| key) } else { None };
        tasks::record_filled(task, last, writes)
    }

    /// Evaluates driving rows that are in state.
    fn evaluate_found(
        &self,
        found: Found,
        overlay: &Overlay<'_>,
        writes: &mut Writes,
        by_entity: &mut ByEntity,
        work: &mut Work<'_, '_>,
    ) -> Result<(), TransformError> {
        for (mapping, rows) in found {
            let Some(member) = self.roster.member(mapping) else { continue };
            let Some(driving) = &member.driving else { continue };
            let drivers = Drivers::stored(driving, rows, work.state, &self.roster.layouts)?;
            self.contribute(member, drivers, overlay, writes, by_entity, work)?;
        }
        Ok(())
    }

    fn contribute(
        &self,
        member: &Member,
        drivers: Drivers,
        overlay: &Overlay<'_>,
        writes: &mut Writes,
        by_entity: &mut ByEntity,
        work: &mut Work<'_, '_>,
    ) -> Result<(), TransformError> {
        let Some(driving) = &member.driving else { return Ok(()) };
        let contributor = Contributor {
            id: member.id,
            entity: &entity::all()[member.entity],
            logic: self.roster.logic(member.entity),
            driving,
            compiled: self.compiled(member, overlay)?,
            offset: work.offset,
        };
        contributor.run(drivers, writes, &mut by_entity[member.entity], &mut work.stats)
    }

    /// A mapping's expressions and the rows it joins; none while one of its tables is not known.
    fn compiled<'a>(
        &'a self,
        member: &'a Member,
        overlay: &'a Overlay<'a>,
    ) -> Result<Option<(&'a Compiled, Joins<'a>)>, TransformError> {
        let Some((compiled, tables)) = member.compiled() else { return Ok(None) };
        let missing = || TransformError::State("a joined table is not kept".to_owned());
        let tables = tables.zip(&compiled.edges).map(|(table, edge)| {
            let joined = self.roster.tables.get(table).ok_or_else(missing)?;
            Ok((joined, self.index_of(joined, edge)))
        });
        let tables = tables.collect::<Result<_, TransformError>>()?;
        Ok(Some((compiled, Joins { overlay, layouts: &self.roster.layouts, tables })))
    }

    /// Folds contribution changes into entity rows, masters first.
    pub(super) fn emit(
        &self,
        by_entity: ByEntity,
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
}
