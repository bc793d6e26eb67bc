//! What a newer state says otherwise than an older one has had delivered, key by key.
//!
//! A change of mappings is applied by folding the log again into a state of its own. What it emits on the way is dropped:
//! sinks are told, as deltas of one entry, exactly what differs at its end.
//!
//! ```text
//! older    newer        delta
//! row      the same     none
//! any      another row  upsert
//! row      nothing      delete; of a sum an upsert of zeros, which the newer state keeps (domain 0.4)
//! any      held         none: what was delivered last stays
//! ```
//!
//! Of an entity whose definition changed in between every row differs: what was delivered of it cannot be computed any more.

use std::collections::{BTreeMap, HashMap};

use syncline_schemas::delta::DeltaBatch;
use syncline_schemas::entity::{self, Entity, Kind};
use syncline_schemas::ident::LogOffset;
use syncline_schemas::rowcode;

use super::catalog;
use super::emit::{Cause, CauseText, Emitted, Lineage, Origin, delta_batch, field_types, null_row};
use super::logic::Logic;
use super::unit::Progress;
use super::{Writes, deferred, plain, summed};
use crate::TransformError;
use crate::state::{Pair, Space, State};

/// What sinks have of a key, as far as a state knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Published {
    Nothing,
    /// Something older than the state can say.
    Held,
    /// The fields behind the key.
    Row(Vec<u8>),
}

/// One of the two states, or one that is read whole.
pub(super) struct Side<'a> {
    state: &'a dyn State,
    /// What begins the keys of each entity.
    prefixes: HashMap<String, [u8; 4]>,
    /// It has not done an entry, and sinks may not have what it says.
    pub(super) is_amidst: bool,
}

impl<'a> Side<'a> {
    pub(super) fn new(state: &'a dyn State) -> Result<Self, TransformError> {
        catalog::refuse_other_format(state, &mut Writes::new())?;
        let known = catalog::numbered(state, catalog::ENTITY)?;
        let prefixes = known.into_iter().map(|known| (known.name, known.id)).collect();
        Ok(Self { state, prefixes, is_amidst: Progress::read(state)?.is_some() })
    }

    /// Keys of an entity behind `after`, without what begins them, with what is stored.
    pub(super) fn scan(&self, entity: &Entity, after: &[u8], limit: usize) -> Result<Vec<Pair>, TransformError> {
        let Some(prefix) = self.prefixes.get(&entity.name) else { return Ok(Vec::new()) };
        let from = if after.is_empty() { Vec::new() } else { [prefix.as_slice(), after].concat() };
        let mut pairs = self.state.scan(Space::Entities, prefix, &from, limit)?;
        pairs.iter_mut().for_each(|(key, _)| drop(key.drain(..prefix.len())));
        if entity.kind == Kind::Summed || !self.is_amidst {
            return Ok(pairs);
        }
        // Sinks may have rows that state has no more.
        let gone = deferred::keys_aside(self.state, prefix, after, limit)?;
        if !gone.is_empty() {
            let mut all: BTreeMap<Vec<u8>, Vec<u8>> = gone.into_iter().map(|key| (key, Vec::new())).collect();
            all.extend(pairs);
            pairs = all.into_iter().take(limit).collect();
        }
        Ok(pairs)
    }

    /// What is stored of a key.
    pub(super) fn get(&self, entity: &Entity, key: &[u8]) -> Result<Option<Vec<u8>>, TransformError> {
        let Some(prefix) = self.prefixes.get(&entity.name) else { return Ok(None) };
        self.state.get(Space::Entities, &[prefix.as_slice(), key].concat())
    }

    pub(super) fn published(
        &self,
        entity: &Entity,
        logic: &Logic,
        keys: &[Vec<u8>],
        stored: &[Option<Vec<u8>>],
    ) -> Result<Vec<Published>, TransformError> {
        match entity.kind {
            Kind::Summed => summed::published(entity, logic, keys, stored),
            Kind::Plain | Kind::Event => plain::published(stored, self.state),
        }
    }
}

/// Two states at work.
pub struct Difference<'a> {
    older: Side<'a>,
    newer: Side<'a>,
    logic: Vec<Logic>,
}

/// Keys of one entity with what both states say, in key order.
pub struct Page {
    pub(super) entity: &'static Entity,
    pub(super) keys: Vec<Vec<u8>>,
    pub(super) was: Vec<Published>,
    pub(super) is: Vec<Published>,
    /// What the newer state is to hold instead: rows of zeros that it lacks, counts that go on.
    amends: Writes,
    place: Vec<u8>,
}

/// How deltas of a page are stamped.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    /// Of the state.
    pub epoch: u32,
    /// Of the entry that they are deltas of.
    pub offset: LogOffset,
    /// When that was captured, microseconds since 1970.
    pub at: i64,
    /// Rows that this entry emitted before.
    pub rows: u32,
}

impl<'a> Difference<'a> {
    /// Between two states, of which neither changes meanwhile but by [`Page::deltas`].
    ///
    /// # Errors
    /// [`TransformError::State`] where one cannot be read.
    pub fn new(older: &'a dyn State, newer: &'a dyn State) -> Result<Self, TransformError> {
        let logic = entity::all().iter().map(|entity| Logic::new(entity, Vec::new()));
        Ok(Self { older: Side::new(older)?, newer: Side::new(newer)?, logic: logic.collect::<Result<_, _>>()? })
    }

    /// The page behind a place, with at most so many keys of each state; empty stands for the beginning. None at the end.
    ///
    /// # Errors
    /// [`TransformError::State`] where a state cannot be read.
    pub fn page(&self, place: &[u8], limit: usize) -> Result<Option<Page>, TransformError> {
        let (mut index, mut after) = parse(place)?;
        while let Some(entity) = entity::all().get(index) {
            let was = self.older.scan(entity, after, limit)?;
            let is = self.newer.scan(entity, after, limit)?;
            if was.is_empty() && is.is_empty() {
                (index, after) = (index + 1, &[]);
                continue;
            }
            return self.compare(index, entity, Merged::of(was, is, limit)).map(Some);
        }
        Ok(None)
    }

    fn compare(&self, index: usize, entity: &'static Entity, merged: Merged) -> Result<Page, TransformError> {
        let Merged { keys, was: mut stored_was, is: mut stored_is } = merged;
        if let (Kind::Summed, Some(prefix)) = (entity.kind, self.older.prefixes.get(&entity.name)) {
            deferred::told(self.older.state, prefix, &keys, &mut stored_was)?;
        }
        let mut amends = Writes::new();
        if let (Kind::Summed, Some(prefix)) = (entity.kind, self.newer.prefixes.get(&entity.name)) {
            for ((key, was), is) in keys.iter().zip(&stored_was).zip(&mut stored_is) {
                let zeros = if let (Some(was), None) = (was, &is) { Some(summed::emptied(entity, was)?) } else { None };
                let now = zeros.as_deref().or(is.as_deref());
                let counted = now.map(|now| summed::counting_on(entity, was.as_deref(), now)).transpose()?.flatten();
                if let Some(amended) = counted.or(zeros) {
                    amends.push((Space::Entities, [prefix.as_slice(), key].concat(), Some(amended.clone())));
                    *is = Some(amended);
                }
            }
        }
        let mut was = self.older.published(entity, &self.logic[index], &keys, &stored_was)?;
        if let (true, Some(prefix)) =
            (self.older.is_amidst && entity.kind != Kind::Summed, self.older.prefixes.get(&entity.name))
        {
            deferred::told_rows(self.older.state, prefix, &keys, &mut was)?;
        }
        if catalog::meant_otherwise(self.older.state, entity)? {
            // What was delivered was computed by other rules than those of today.
            let delivered = was.iter_mut().filter(|was| matches!(was, Published::Row(_)));
            delivered.for_each(|was| *was = Published::Held);
        }
        let is = self.newer.published(entity, &self.logic[index], &keys, &stored_is)?;
        let last = keys.last().expect("a page has keys");
        let place = [&u32::try_from(index).expect("entities are few").to_be_bytes()[..], last].concat();
        Ok(Page { entity, keys, was, is, amends, place })
    }
}

/// Entity and key that a place stands behind.
fn parse(place: &[u8]) -> Result<(usize, &[u8]), TransformError> {
    if place.is_empty() {
        return Ok((0, place));
    }
    let damaged = || TransformError::State("the place of a comparison does not decode".to_owned());
    let (index, key) = place.split_first_chunk().ok_or_else(damaged)?;
    Ok((usize::try_from(u32::from_be_bytes(*index)).map_err(|_| damaged())?, key))
}

/// Two sorted runs of keys as one, as far as both are known.
struct Merged {
    keys: Vec<Vec<u8>>,
    was: Vec<Option<Vec<u8>>>,
    is: Vec<Option<Vec<u8>>>,
}

impl Merged {
    fn of(was: Vec<Pair>, is: Vec<Pair>, limit: usize) -> Self {
        // Behind the last key of a run that was cut off there may be more.
        let end = |run: &[Pair]| (run.len() >= limit).then(|| run.last().map(|(key, _)| key.clone())).flatten();
        let cut = [end(&was), end(&is)].into_iter().flatten().min();
        let within = |(key, _): &Pair| cut.as_ref().is_none_or(|cut| key <= cut);
        let (mut was, mut is) = (was.into_iter().filter(within).peekable(), is.into_iter().filter(within).peekable());
        let mut merged = Self { keys: Vec::new(), was: Vec::new(), is: Vec::new() };
        loop {
            let (left, right) = (was.peek().map(|(key, _)| key), is.peek().map(|(key, _)| key));
            let key = match (left, right) {
                (Some(left), Some(right)) => left.min(right).clone(),
                (Some(key), None) | (None, Some(key)) => key.clone(),
                (None, None) => return merged,
            };
            merged.was.push(was.next_if(|(other, _)| *other == key).map(|(_, value)| value));
            merged.is.push(is.next_if(|(other, _)| *other == key).map(|(_, value)| value));
            merged.keys.push(key);
        }
    }
}

impl Page {
    /// Where the next page begins.
    #[must_use]
    pub fn place(&self) -> &[u8] {
        &self.place
    }

    /// Rows that sinks are to be told of, with what they are now; none where they are to be deleted.
    pub(super) fn differing(&self) -> impl Iterator<Item = (usize, Option<&[u8]>)> {
        self.was.iter().zip(&self.is).enumerate().filter_map(|(row, (was, is))| match (was, is) {
            (_, Published::Held) | (Published::Nothing, Published::Nothing) => None,
            (was, is) if was == is => None,
            (_, Published::Row(now)) => Some((row, Some(now.as_slice()))),
            (_, Published::Nothing) => Some((row, None)),
        })
    }

    /// The deltas, and what is to be written into the newer state with them.
    ///
    /// # Errors
    /// [`TransformError::Arrow`] where a row does not decode.
    pub fn deltas(self, stamp: Stamp) -> Result<(Option<DeltaBatch>, Writes), TransformError> {
        let entity = self.entity;
        let gone = null_row(entity)?;
        let (mut keys, mut rows, mut upserts) = (Vec::new(), Vec::new(), Vec::new());
        for (row, now) in self.differing() {
            keys.push(self.keys[row].as_slice());
            rows.push(now.unwrap_or(&gone));
            upserts.push(now.is_some());
        }
        if keys.is_empty() {
            return Ok((None, self.amends));
        }
        let (key_types, row_types) = field_types(entity);
        let mut fields = rowcode::decode(&key_types, keys)?;
        fields.extend(rowcode::decode(&row_types, rows)?);
        let lineage = vec![Lineage { cause: 0, row: 0 }; upserts.len()];
        let cause = CauseText {
            source: "syncline".to_owned(),
            table: "mappings".to_owned(),
            position: stamp.offset.to_string(),
            committed_at: stamp.at,
            captured_at: stamp.at,
        };
        let origin = Origin { epoch: stamp.epoch, offset: stamp.offset, causes: vec![Cause::Text(cause)] };
        let emitted = Emitted { fields, upserts, lineage, presence: Vec::new() };
        Ok((Some(delta_batch(entity, emitted, &origin, stamp.rows)?), self.amends))
    }
}
