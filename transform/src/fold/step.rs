//! One step: what a frame changes, or a chunk of tasks, becomes writes and deltas.

use std::collections::{BTreeMap, HashSet};

use syncline_schemas::delta::DeltaBatch;
use syncline_schemas::entity;
use syncline_schemas::frame::Frame;
use syncline_schemas::ident::LogOffset;

use super::catalog::Table;
use super::changes::Changes;
use super::citation::Present;
use super::contribute::Contributor;
use super::drivers::Drivers;
use super::emit::{Cause, Lineage, Origin};
use super::join::Joins;
use super::joined::{Affected, Joined};
use super::overlay::Overlay;
use super::roster::Member;
use super::tasks::{self, Chunk, Found, Task, What, Why};
use super::unit::Progress;
use super::{ContributionChange, Fold, Work, Writes, index, row_count, sweep};
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
    /// Driving rows of the entities of a level, see [`super::roster::Roster::level`].
    Driving { level: u8 },
}

impl Part {
    /// The part, and what is done before it where it is a frame's. A frame that changed nothing left no mark of its own, but
    /// it must not be taken again over what a later one did.
    fn before(self, at: LogOffset) -> (Self, Progress) {
        (self, self.progress(LogOffset(at.0 - 1)))
    }

    /// What is done with it of a frame.
    pub(super) const fn progress(self, done: LogOffset) -> Progress {
        match self {
            Self::Driving { level } => Progress::Driving { level, done },
            Self::Whole | Self::Joined => Progress::Joined(done),
        }
    }

    /// True where it takes the driving rows of an entity of this level.
    pub(super) fn drives(self, level: u8) -> bool {
        match self {
            Self::Whole => true,
            Self::Joined => false,
            Self::Driving { level: own } => own == level,
        }
    }
}

/// What a step writes and emits.
pub(super) struct Outcome {
    pub(super) writes: Writes,
    pub(super) emitted: Deltas,
}

/// What was emitted.
#[derive(Default)]
pub(super) struct Deltas {
    pub(super) deltas: Vec<DeltaBatch>,
    /// True where the writes beside it hold tasks.
    pub(super) leaves_tasks: bool,
}

/// Driving rows to evaluate: by entity, masters first, with the number of their mapping.
type ByEntity = BTreeMap<usize, Vec<(u32, Drivers)>>;

impl Fold {
    /// Takes a frame's rows, or a part of them. `at` is the frame's own offset.
    pub(super) fn step(
        &mut self,
        at: LogOffset,
        frame: &Frame,
        part: Part,
        work: &mut Work<'_, '_>,
    ) -> Result<Outcome, TransformError> {
        let joined = matches!(part, Part::Whole | Part::Joined);
        let driving = part != Part::Joined;
        let tables = self.collect(at, frame, part)?;
        work.several |= self.roster.calls();
        let causes = tables.iter().map(|(table, changes)| Cause::Batch {
            source: frame.source.as_str(),
            table: table.1.to_string(),
            captured_at: frame.captured_at,
            batch: changes.batch,
        });
        let origin = Origin { epoch: self.epoch, offset: work.offset, causes: causes.collect() };
        self.take_back(&tables, &origin, part.before(at), work)?;
        let mut writes = Writes::new();
        let stale = self.look_for_sweeps(at, &tables, part, &mut writes, work)?;
        let (mut overlay, mut tasks) = (Overlay::new(work.state), Vec::new());
        if joined {
            for (cause, (table, changes)) in tables.iter().enumerate() {
                if let Some(kept) = self.roster.tables.get(table) {
                    let renews = self.sweeps && sweep::covers(table, changes, at, work.state)?;
                    let affected = kept.apply(at, changes, renews, &self.roster.layouts, &mut overlay)?;
                    tasks.extend(self.tasks_for(kept, affected, cause));
                }
            }
        }
        let mut drivers = ByEntity::new();
        if driving {
            let changed = self.changed(at, &tables, part, work.state, &mut writes)?;
            if part == Part::Whole && !tasks.is_empty() {
                let known = changed.iter().flat_map(|(_, drivers)| drivers.keys.iter().cloned()).collect();
                let chunk = Chunk::take(tasks, self.chunk, &known, origin.causes.len(), work.state)?;
                tasks = chunk.left;
                self.found(chunk.found, work.state, &mut drivers)?;
            }
            for (member, changed) in changed {
                drivers.entry(member.entity).or_default().push((member.id, changed));
            }
        }
        tasks.extend(stale);
        work.several |= !tasks.is_empty();
        let mut emitted = self.fold_drivers(drivers, &overlay, &origin, &mut writes, work)?;
        emitted.leaves_tasks |= !tasks.is_empty();
        for task in tasks {
            task.put(&|lineage| origin.text(lineage), &mut writes)?;
        }
        writes.extend(overlay.into_writes());
        Ok(Outcome { writes, emitted })
    }

    /// What the frame leaves of each row of the tables that matter for the step.
    fn collect<'f>(
        &mut self,
        at: LogOffset,
        frame: &'f Frame,
        part: Part,
    ) -> Result<Vec<(Table, Changes<'f>)>, TransformError> {
        let mut tables: Vec<(Table, Changes<'f>)> = Vec::new();
        for batch in &frame.batches {
            let Some(keys) = self.roster.observe(&frame.source, batch)? else { continue };
            let table: Table = (frame.source.clone(), batch.table.clone());
            let members = self.roster.members.iter().filter(|member| member.is_driven_by(&table));
            let drives = members.map(|member| member.entity).any(|entity| part.drives(self.roster.level(entity)));
            let joins = !matches!(part, Part::Driving { .. }) && self.roster.tables.get(&table).is_some();
            if !(joins || drives) {
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

    /// Takes back what truncated tables held, and what was counted of rows that are counted anew.
    fn take_back(
        &mut self,
        tables: &[(Table, Changes<'_>)],
        origin: &Origin<'_>,
        (part, progress): (Part, Progress),
        work: &mut Work<'_, '_>,
    ) -> Result<(), TransformError> {
        for (cause, (table, changes)) in tables.iter().enumerate() {
            if changes.begins_to_count() {
                for member in 0..self.roster.members.len() {
                    let Member { entity, id, .. } = self.roster.members[member];
                    if self.roster.members[member].is_driven_by(table) && part.drives(self.roster.level(entity)) {
                        self.forget_counts(id, progress, work)?;
                    }
                }
            }
            let Some(row) = changes.truncated else { continue };
            let lineage = Lineage { cause, row };
            if matches!(part, Part::Whole | Part::Joined)
                && let Some(id) = self.roster.tables.get(table).map(|joined| joined.id)
            {
                self.truncate_joined(id, lineage, origin, progress, work)?;
            }
            for member in 0..self.roster.members.len() {
                let Member { entity, .. } = &self.roster.members[member];
                if self.roster.members[member].is_driven_by(table) && part.drives(self.roster.level(*entity)) {
                    self.truncate_driving(member, lineage, origin, progress, work)?;
                }
            }
        }
        Ok(())
    }

    /// The driving rows that the frame changed, by mapping.
    fn changed(
        &self,
        at: LogOffset,
        tables: &[(Table, Changes<'_>)],
        part: Part,
        state: &dyn State,
        writes: &mut Writes,
    ) -> Result<Vec<(&Member, Drivers)>, TransformError> {
        let mut changed = Vec::new();
        for (cause, (table, changes)) in tables.iter().enumerate() {
            let members = self.roster.members.iter().filter(|member| member.is_driven_by(table));
            let renews = self.sweeps && sweep::covers(table, changes, at, state)?;
            for member in members.filter(|member| part.drives(self.roster.level(member.entity))) {
                let Some(driving) = &member.driving else { continue };
                let layouts = &self.roster.layouts;
                let numbered = changes.numbered(member.id, at, state, writes)?;
                let changes = numbered.as_ref().unwrap_or(changes);
                let mut drivers = Drivers::changed(at, member.id, driving, changes, cause, state, layouts)?;
                drivers.renews = renews;
                changed.push((member, drivers));
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
        if let What::StaleJoined { .. } | What::StaleDriving { .. } = tasks[0].what {
            return self.take_back_stale(tasks.swap_remove(0), now, work);
        }
        if let What::Group { .. } = tasks[0].what {
            return Ok((self.look_at_groups(tasks, work)?, Vec::new()));
        }
        if tasks[0].what == What::Marks {
            return Ok((tasks::forget_marked(tasks.swap_remove(0), self.chunk, work.state)?, Vec::new()));
        }
        let mut chunk = Chunk::take(tasks, self.chunk, &HashSet::new(), 0, work.state)?;
        chunk.record_progress(&mut writes)?;
        let causes = chunk.causes.drain(..).map(|cause| Cause::Text(cause.timed(now))).collect();
        let origin = Origin { epoch: self.epoch, offset: work.offset, causes };
        let (overlay, mut drivers) = (Overlay::new(work.state), ByEntity::new());
        self.found(chunk.found, work.state, &mut drivers)?;
        let emitted = self.fold_drivers(drivers, &overlay, &origin, &mut writes, work)?;
        Ok((writes, emitted.deltas))
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
        let joined = self.roster.tables.by_id(table);
        let of = |joined: &'_ Joined| joined.indexes.iter().find(|known| known.id == join_index).cloned();
        let Some((joined, join_index)) = joined.and_then(|joined| Some((joined, of(joined)?))) else {
            // The mappings that wanted it were put aside.
            return tasks::record_reached(task, None, writes);
        };
        let rows = work.state.scan(Space::Rows, &table.to_be_bytes(), &task.after, self.chunk)?;
        let values = joined.indexed(&join_index, rows.iter().map(|(_, row)| row.as_slice()), &self.roster.layouts)?;
        for ((key, _), values) in rows.iter().zip(values) {
            if let Some(values) = values {
                let entry = index::joined(join_index.id, &values, &key[size_of::<u32>()..]);
                writes.push((Space::Index, entry, Some(Vec::new())));
            }
        }
        let last = if rows.len() == self.chunk { rows.into_iter().next_back().map(|(key, _)| key) } else { None };
        tasks::record_reached(task, last, writes)
    }

    /// Driving rows that are in state.
    fn found(&self, found: Found, state: &dyn State, drivers: &mut ByEntity) -> Result<(), TransformError> {
        for (mapping, rows) in found {
            let Some(member) = self.roster.member(mapping) else { continue };
            let Some(driving) = &member.driving else { continue };
            let stored = Drivers::stored(driving, rows, state, &self.roster.layouts)?;
            drivers.entry(member.entity).or_default().push((mapping, stored));
        }
        Ok(())
    }

    /// Evaluates driving rows and folds what they contribute, one entity after the other, so that a fact finds the master
    /// that came with it.
    fn fold_drivers(
        &mut self,
        drivers: ByEntity,
        overlay: &Overlay<'_>,
        origin: &Origin<'_>,
        writes: &mut Writes,
        work: &mut Work<'_, '_>,
    ) -> Result<Deltas, TransformError> {
        let mut present = Present::new(work.state, std::mem::take(&mut self.known));
        let mut all = Deltas::default();
        for (entity_index, drivers) in drivers {
            let mut changes = Vec::new();
            for (mapping, drivers) in drivers {
                let Some(member) = self.roster.member(mapping) else { continue };
                self.contribute(member, drivers, overlay, origin, &mut present, writes, &mut changes, work)?;
            }
            let first_row = row_count(&all.deltas);
            let emitted = self.emit(first_row, entity_index, changes, origin, &mut present, writes, work)?;
            all.deltas.extend(emitted.deltas);
            all.leaves_tasks |= emitted.leaves_tasks;
            work.several |= emitted.leaves_tasks;
        }
        self.known = present.into_known();
        Ok(all)
    }

    #[expect(clippy::too_many_arguments, reason = "one turn of fold_drivers, apart so that each fits on a page")]
    fn contribute(
        &self,
        member: &Member,
        drivers: Drivers,
        overlay: &Overlay<'_>,
        origin: &Origin<'_>,
        present: &mut Present<'_>,
        writes: &mut Writes,
        changes: &mut Vec<ContributionChange>,
        work: &mut Work<'_, '_>,
    ) -> Result<(), TransformError> {
        let Some(driving) = &member.driving else { return Ok(()) };
        let contributor = Contributor {
            member,
            entity: &entity::all()[member.entity],
            logic: self.roster.logic(member.entity),
            driving,
            compiled: self.compiled(member, overlay)?,
            origin,
            now: work.seen(),
            unit: work.unit(&member.mapping.source),
            state: work.state,
            inheritance: self.inheritance.as_ref(),
        };
        contributor.run(drivers, present, writes, changes, &mut work.stats)
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
}
