//! One mapping over driving rows: old contributions taken from state, new ones evaluated, the difference.

use std::collections::{HashMap, HashSet};

use arrow::array::BooleanArray;
use syncline_schemas::entity::Entity;
use syncline_schemas::rowcode::{self, Rows};

use super::citation::{self, Missing, Present};
use super::contribution::{
    Before, Contributed, Contribution, JoinedRow, Value, must_carry, put_looked_for, redate, says_the_same,
};
use super::drivers::{Drivers, driving_key};
use super::emit::Origin;
use super::evaluate::{Evaluated, evaluate};
use super::inherit::Inheritance;
use super::join::Joins;
use super::logic::Logic;
use super::roster::{Driving, Member};
use super::stored::put_row;
use super::unit::Unit;
use super::{ContributionChange, FoldStats, Seen, Writes, held, index};
use crate::TransformError;
use crate::mapping::RowFault;
use crate::mapping::compile::Compiled;
use crate::mapping::rules::Action;
use crate::state::{Space, State};

/// A mapping at work on the driving rows of a step.
pub(super) struct Contributor<'a> {
    pub(super) member: &'a Member,
    pub(super) entity: &'a Entity,
    pub(super) logic: &'a Logic,
    pub(super) driving: &'a Driving,
    /// None while a table that it joins is not known: rows are kept and contribute nothing.
    pub(super) compiled: Option<(&'a Compiled, Joins<'a>)>,
    pub(super) origin: &'a Origin<'a>,
    pub(super) now: Seen,
    pub(super) unit: Option<Unit>,
    pub(super) state: &'a dyn State,
    /// Where the state is computed anew beside an older one.
    pub(super) inheritance: Option<&'a Inheritance>,
}

/// Values that a later change may leave out, by column name.
type Carried = Vec<(String, Vec<u8>)>;

/// What evaluation said of one row.
enum Outcome {
    /// It is gone, or the filter excludes it.
    Nothing,
    /// It contributes: row of the evaluated fields.
    Good(usize),
    Faulty(RowFault),
}

/// What is kept of live driving rows beside what they contribute, by row of the batch.
struct Kept {
    /// Under a mapping with joins, and where a row waits: the stored row, and what it looked for.
    joined: Vec<Option<(Vec<u8>, Vec<u8>)>>,
    carried: HashMap<usize, Carried>,
}

impl Contributor<'_> {
    /// Appends what changed to `out` and the records to `writes`.
    pub(super) fn run(
        &self,
        mut drivers: Drivers,
        present: &mut Present<'_>,
        writes: &mut Writes,
        out: &mut Vec<ContributionChange>,
        stats: &mut FoldStats,
    ) -> Result<(), TransformError> {
        let mut evaluated = match &self.compiled {
            Some((compiled, joins)) => evaluate(compiled, &self.member.mapping, self.logic, &drivers.batch, joins)?,
            None => Evaluated::nothing(self.entity, drivers.live.len()),
        };
        let waits = self.park(&mut evaluated, present, stats)?;
        stats.warnings += evaluated.warnings;
        self.halt(&evaluated, &drivers)?;
        let mut kept = self.kept(&drivers, &evaluated, &waits)?;
        let (key_fields, other_fields) = evaluated.fields.split_at(self.entity.key_len());
        let (entity_keys, rows) = (rowcode::encode(key_fields)?, rowcode::encode(other_fields)?);
        let outcomes = outcomes(&drivers, evaluated);
        let mut place = 0;
        let first = out.len();
        let mut changed = Vec::with_capacity(drivers.len());
        out.reserve(drivers.len());
        writes.reserve(drivers.len());
        for (i, outcome) in outcomes.into_iter().enumerate() {
            let row = (drivers.live.get(place) == Some(&i)).then_some(place);
            place += usize::from(row.is_some());
            let (joined, carried) = row.map_or((None, Vec::new()), |row| {
                (kept.joined[row].take(), kept.carried.remove(&row).unwrap_or_default())
            });
            let joined = joined.as_ref().map(|(source, looked)| JoinedRow::new(source, looked));
            let awaits = row.and_then(|row| waits.get(&row)).map(Vec::as_slice);
            let mut new = Contribution { joined, awaits, carried, ..Contribution::of_nothing(drivers.at[i]) };
            let mut settled = self.settled(drivers.origins[i].and_then(|origin| drivers.old[origin].as_deref()))?;
            let inherited = self.inherited(&outcome, settled, driving_key(&drivers.keys[i]))?;
            if let (Some(record), Some(inheritance)) = (&inherited, self.inheritance) {
                settled = inheritance.settled(record)?;
            }
            let fault = apply(outcome, &mut new, [&entity_keys, &rows], settled);
            if let Some(change) = self.difference(&drivers, i, new, settled, fault, writes, stats)? {
                changed.push(i);
                out.push(change);
            }
        }
        for (i, change) in changed.into_iter().zip(&mut out[first..]) {
            change.old = drivers.old[i].take().map(Contributed::of).transpose()?.flatten();
        }
        Ok(())
    }

    /// What a row last contributed at the end of a transaction.
    fn settled<'r>(&self, record: Option<&'r [u8]>) -> Result<Option<Value<'r>>, TransformError> {
        let record = record.map(Contribution::decode).transpose()?;
        Ok(record.and_then(|record| record.settled(self.unit)))
    }

    /// What a faulty row that was never good takes over.
    fn inherited(
        &self,
        outcome: &Outcome,
        settled: Option<Value<'_>>,
        driving_key: &[u8],
    ) -> Result<Option<Vec<u8>>, TransformError> {
        let Some(inheritance) = self.inheritance else { return Ok(None) };
        if !matches!(outcome, Outcome::Faulty(_)) || settled.is_some() {
            return Ok(None);
        }
        inheritance.record(&self.member.mapping.name, driving_key)
    }

    /// Compares a driver's record with what it is now, and writes what differs; gives what entities see of the change, its
    /// `old` left to the caller, who owns it.
    #[expect(clippy::too_many_arguments, reason = "one turn of run, apart so that each fits on a page")]
    fn difference<'r>(
        &self,
        drivers: &Drivers,
        i: usize,
        mut new: Contribution<'r>,
        settled: Option<Value<'r>>,
        fault: Option<RowFault>,
        writes: &mut Writes,
        stats: &mut FoldStats,
    ) -> Result<Option<ContributionChange>, TransformError> {
        let mut bytes = if new.is_empty() { Vec::new() } else { new.encode() };
        let old = drivers.old[i].as_deref();
        let is_own = drivers.origins[i] == Some(i);
        let same = says_the_same(old.unwrap_or_default(), &bytes) && (is_own || self.settled(old)? == settled);
        if same && drivers.renews && !bytes.is_empty() {
            new.before = self.unit.map(|unit| Before { unit: unit.entry, value: settled });
            writes.push((Space::Contributions, drivers.keys[i].clone(), Some(new.encode())));
        }
        if fault.is_none() && same {
            stats.unchanged += 1;
            return Ok(None);
        }
        let old = decode(&drivers.old[i])?.unwrap_or_else(|| Contribution::of_nothing(new.at));
        let key = drivers.keys[i].clone();
        if let Some(fault) = &fault {
            let place = held::fault_key(&key);
            let position = self.origin.text(drivers.lineage[i])?.position;
            let record = if old.held { self.state.get(Space::Held, &place)? } else { None };
            writes.push((Space::Held, place, Some(held::record(fault, position, self.now, record)?)));
            stats.faulty += 1;
        } else if old.held {
            writes.push((Space::Held, held::fault_key(&key), None));
        }
        if !same {
            self.reindex(&key, &old, &new, writes);
            if let Some(unit) = self.unit
                && (settled.is_some() || drivers.old[i].is_some() && !new.is_empty())
            {
                new.before = Some(Before { unit: unit.entry, value: settled });
                bytes = new.encode();
            }
            if let (Some(was), Some(is)) = (&old.joined, &new.joined)
                && was.source == is.source
                && !drivers.renews
            {
                // What is joined to the row has changed, the row has not.
                redate(&mut bytes, old.at);
            }
            writes.push((Space::Contributions, key.clone(), (!bytes.is_empty()).then(|| bytes.clone())));
            if new.is_mark() {
                writes.push((Space::Index, index::mark(&key), Some(Vec::new())));
            }
        }
        if new.value == old.value {
            stats.unchanged += 1;
            return Ok(None);
        }
        let new = if new.value.is_some() { Contributed::of(bytes)? } else { None };
        Ok(Some(ContributionChange { key, old: None, new, lineage: drivers.lineage[i] }))
    }

    /// Stops at a fault that the mapping wants to stop at.
    fn halt(&self, evaluated: &Evaluated, drivers: &Drivers) -> Result<(), TransformError> {
        let mapping = &self.member.mapping;
        let stops = |fault: &RowFault| mapping.rules.of(&fault.rule) == Some(Action::Halt);
        let lacking = drivers.lacking.values().next().map(|columns| lacking_fault(drivers.name(columns[0])));
        // What is wrong with values that the log left out is no fault of the row's.
        let known = evaluated.faults.iter().filter(|(row, _)| !drivers.lacking.contains_key(&(*row as usize)));
        lacking.iter().chain(known.map(|(_, fault)| fault)).find(|fault| stops(fault)).map_or(Ok(()), |fault| {
            Err(TransformError::Halted {
                mapping: mapping.file.clone(),
                rule: fault.rule.clone(),
                offset: self.now.offset.0,
                reason: fault.reason.clone(),
            })
        })
    }

    /// Takes rows out that cite what is not there; gives what each waits for, by row of the batch.
    fn park(
        &self,
        evaluated: &mut Evaluated,
        present: &mut Present<'_>,
        stats: &mut FoldStats,
    ) -> Result<HashMap<usize, Vec<u8>>, TransformError> {
        let citations = &self.member.citations;
        if citations.is_empty() || evaluated.rows.is_empty() {
            return Ok(HashMap::new());
        }
        let missing = citation::missing(self.entity, citations, &evaluated.fields, present)?;
        let (mut waits, mut stays) = (HashMap::new(), vec![true; evaluated.rows.len()]);
        for Missing { row, citation, key } in missing {
            if !citations[citation].parks {
                stats.warnings += 1;
                continue;
            }
            let input = evaluated.rows[row];
            let reference = &self.entity.references[citations[citation].reference];
            evaluated.faults.push((input, citation::fault(self.entity, reference)));
            waits.insert(input as usize, key);
            stays[row] = false;
        }
        if !waits.is_empty() {
            evaluated.retain(&BooleanArray::from(stays))?;
        }
        Ok(waits)
    }

    /// Lets joined rows find this driver under what it looks for now, and the row that it waits for.
    fn reindex(&self, key: &[u8], old: &Contribution<'_>, new: &Contribution<'_>, writes: &mut Writes) {
        if old.awaits != new.awaits {
            writes.extend(old.awaits.map(|awaits| (Space::Index, index::parked(awaits, key), None)));
            writes.extend(new.awaits.map(|awaits| (Space::Index, index::parked(awaits, key), Some(Vec::new()))));
        }
        let (old, new) = (old.joined, new.joined);
        if old == new {
            return;
        }
        let entry = |(join, values): (usize, &[u8])| index::driving(self.member.id, join, values, driving_key(key));
        let (old, new): (Vec<_>, Vec<_>) =
            (old.iter().flat_map(JoinedRow::looked).collect(), new.iter().flat_map(JoinedRow::looked).collect());
        let gone = old.iter().filter(|looked| !new.contains(looked)).copied();
        writes.extend(gone.map(|looked| (Space::Index, entry(looked), None)));
        let fresh = new.iter().filter(|looked| !old.contains(looked)).copied();
        writes.extend(fresh.map(|looked| (Space::Index, entry(looked), Some(Vec::new()))));
    }

    fn kept(
        &self,
        drivers: &Drivers,
        evaluated: &Evaluated,
        waits: &HashMap<usize, Vec<u8>>,
    ) -> Result<Kept, TransformError> {
        let carried = self.carried(drivers)?;
        let mut joined = vec![None; drivers.live.len()];
        let joins = self.member.joins();
        let Some(layout) = self.driving.layout.filter(|_| joins || !waits.is_empty()) else {
            return Ok(Kept { joined, carried });
        };
        let rows =
            if drivers.batch.num_columns() == 0 { Rows::default() } else { rowcode::encode(drivers.batch.columns())? };
        let faulty: HashSet<usize> = evaluated.faults.iter().map(|(row, _)| *row as usize).collect();
        for (row, kept) in joined.iter_mut().enumerate() {
            let lacking = drivers.lacking.get(&row).map_or(&[][..], Vec::as_slice);
            // A row that the filter excludes whatever is joined to it is of no further interest.
            let wanted = evaluated.joined[row] || faulty.contains(&row) || !lacking.is_empty();
            if waits.contains_key(&row) || joins && (wanted || carried.contains_key(&row)) {
                let (mut source, mut looked) = (Vec::new(), Vec::new());
                put_row(&mut source, layout, lacking, if rows.is_empty() { &[] } else { rows.row(row) });
                for join in &evaluated.looked {
                    put_looked_for(&mut looked, join.values(row));
                }
                *kept = Some((source, looked));
            }
        }
        // The stored row has them.
        Ok(Kept { joined, carried: if joins { HashMap::new() } else { carried } })
    }

    /// Values that later changes may leave out, by row of the batch.
    fn carried(&self, drivers: &Drivers) -> Result<HashMap<usize, Carried>, TransformError> {
        let mut carried: HashMap<usize, Carried> = HashMap::new();
        for (at, column) in self.driving.carried() {
            let values = drivers.batch.column(at);
            let rows = must_carry(column, values);
            if rows.is_empty() {
                continue;
            }
            let encoded = rowcode::encode(std::slice::from_ref(values))?;
            for row in rows {
                carried.entry(row).or_default().push((column.name.clone(), encoded.row(row).to_vec()));
            }
        }
        Ok(carried)
    }
}

/// What evaluation said, by driver.
fn outcomes(drivers: &Drivers, evaluated: Evaluated) -> Vec<Outcome> {
    let mut outcomes: Vec<Outcome> = (0..drivers.len()).map(|_| Outcome::Nothing).collect();
    for (row, &input) in evaluated.rows.iter().enumerate() {
        outcomes[drivers.live[input as usize]] = Outcome::Good(row);
    }
    for (input, fault) in evaluated.faults {
        outcomes[drivers.live[input as usize]] = Outcome::Faulty(fault);
    }
    for (input, columns) in &drivers.lacking {
        outcomes[drivers.live[*input]] = Outcome::Faulty(lacking_fault(drivers.name(columns[0])));
    }
    outcomes
}

/// Puts what a driver contributes into its record: where it is faulty, the last good one.
fn apply<'a>(
    outcome: Outcome,
    new: &mut Contribution<'a>,
    [entity_keys, rows]: [&'a Rows; 2],
    settled: Option<Value<'a>>,
) -> Option<RowFault> {
    match outcome {
        Outcome::Nothing => None,
        Outcome::Good(row) => {
            new.value = Some((entity_keys.row(row), rows.row(row)));
            None
        }
        Outcome::Faulty(fault) => {
            new.held = true;
            // It lies under the key that the row had when it was made.
            new.value = settled;
            Some(fault)
        }
    }
}

fn lacking_fault(column: String) -> RowFault {
    RowFault {
        rule: "DQ_ABSENT".to_owned(),
        reason: format!(
            "the log did not send column {column} and its value was never seen; have `syncline snapshot` read the table"
        ),
        field: column,
    }
}

fn decode(record: &Option<Vec<u8>>) -> Result<Option<Contribution<'_>>, TransformError> {
    record.as_deref().map(Contribution::decode).transpose()
}
