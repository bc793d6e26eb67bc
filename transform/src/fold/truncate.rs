//! Rows of a table that are gone without a word of each: those of a truncated table, and after a table was read anew
//! those of which nothing came ([`super::sweep`]). They are taken back a bounded number at a time: each chunk is a step of its
//! own, and after a crash only what is left is taken back.

use super::citation::Present;
use super::contribution::{Contributed, Contribution};
use super::drivers::driving_key;
use super::emit::{Lineage, Origin};
use super::joined::Affected;
use super::step::Deltas;
use super::unit::Progress;
use super::{ContributionChange, Fold, Work, Writes, held, index};
use crate::TransformError;
use crate::state::{Pair, Space};

impl Fold {
    /// Takes back everything that a mapping's table contributed.
    pub(super) fn truncate_driving(
        &mut self,
        member: usize,
        lineage: Lineage,
        origin: &Origin<'_>,
        progress: Progress,
        work: &mut Work<'_, '_>,
    ) -> Result<(), TransformError> {
        let (entity_index, id) = (self.roster.members[member].entity, self.roster.members[member].id);
        loop {
            let records = work.state.scan(Space::Contributions, &id.to_be_bytes(), &[], self.chunk)?;
            if records.is_empty() {
                return Ok(());
            }
            work.several = true;
            let mut writes = Writes::new();
            let emitted = self.withdraw(entity_index, id, records, lineage, origin, &mut writes, work)?;
            self.go_on(writes, emitted.deltas, progress, work)?;
            self.tasks |= emitted.leaves_tasks;
        }
    }

    /// Takes back what some driving rows of a mapping contributed.
    #[expect(clippy::too_many_arguments, reason = "what a truncate and a sweep have in common")]
    pub(super) fn withdraw(
        &mut self,
        entity_index: usize,
        mapping: u32,
        records: Vec<Pair>,
        lineage: Lineage,
        origin: &Origin<'_>,
        writes: &mut Writes,
        work: &mut Work<'_, '_>,
    ) -> Result<Deltas, TransformError> {
        let mut changes: Vec<ContributionChange> = Vec::new();
        for (key, bytes) in records {
            writes.push((Space::Contributions, key.clone(), None));
            let record = Contribution::decode(&bytes)?;
            if record.held {
                writes.push((Space::Held, held::fault_key(&key), None));
            }
            for (join, values) in record.joined.iter().flat_map(|joined| joined.looked()) {
                writes.push((Space::Index, index::driving(mapping, join, values, driving_key(&key)), None));
            }
            if let Some(awaits) = record.awaits {
                writes.push((Space::Index, index::parked(awaits, &key), None));
            }
            if let Some(old) = Contributed::of(bytes)? {
                changes.push(ContributionChange { key, old: Some(old), new: None, lineage });
            }
        }
        let mut present = Present::new(work.state, std::mem::take(&mut self.known));
        let emitted = self.emit(0, entity_index, changes, origin, &mut present, writes, work)?;
        self.known = present.into_known();
        Ok(emitted)
    }

    /// Removes the rows of a joined table; what looked for them is evaluated again.
    pub(super) fn truncate_joined(
        &mut self,
        table: u32,
        lineage: Lineage,
        origin: &Origin<'_>,
        progress: Progress,
        work: &mut Work<'_, '_>,
    ) -> Result<(), TransformError> {
        loop {
            let records = work.state.scan(Space::Rows, &table.to_be_bytes(), &[], self.chunk)?;
            if records.is_empty() {
                return Ok(());
            }
            let mut writes = Writes::new();
            self.remove_joined(table, records, lineage, origin, &mut writes)?;
            self.go_on(writes, Vec::new(), progress, work)?;
        }
    }

    /// Removes some rows of a joined table, and leaves as tasks what that affects.
    pub(super) fn remove_joined(
        &mut self,
        table: u32,
        records: Vec<Pair>,
        lineage: Lineage,
        origin: &Origin<'_>,
        writes: &mut Writes,
    ) -> Result<(), TransformError> {
        let missing = || TransformError::State("a table whose rows are gone is not kept".to_owned());
        let joined = self.roster.tables.by_id(table).ok_or_else(missing)?;
        let keys = || records.iter().map(|(key, _)| &key[size_of::<u32>()..]);
        let mut affected: Vec<Affected> =
            keys().map(|key| Affected { index: None, values: key.to_vec(), row: lineage.row }).collect();
        for join_index in &joined.indexes {
            let rows = records.iter().map(|(_, row)| row.as_slice());
            let values = joined.indexed(join_index, rows, &self.roster.layouts)?;
            for (key, values) in keys().zip(values).filter_map(|(key, values)| Some((key, values?))) {
                writes.push((Space::Index, index::joined(join_index.id, &values, key), None));
                affected.push(Affected { index: Some(join_index.id), values, row: lineage.row });
            }
        }
        for task in self.tasks_for(joined, affected, lineage.cause) {
            task.put(&|lineage| origin.text(lineage), writes)?;
            self.tasks = true;
        }
        writes.extend(records.into_iter().map(|(key, _)| (Space::Rows, key, None)));
        Ok(())
    }
}
