//! Rows while an entry takes several steps: they change in state, and are told once, when no step will change them any more.
//!
//! A row that sinks see must be that of a source transaction's end. Where one step adds and a later one takes back, the row
//! in between may be of a key that never was, or the last sum that fits its field. So each changed key is set aside with what
//! sinks were told of it; the end of the entry compares the two. A row that a hundred frames change is one delta.
//!
//! ```text
//! S | entity u32 | key -> cause of its last change, as in tasks.rs
//!                         | of a sum, fields that are not summed u8, each: varint length + key of the last record that gave it
//!                         | 0, or 1 and what was before the entry: a sum's state row; claims and row, see plain.rs
//! ```

use syncline_schemas::entity::{self, Entity, Kind};

use super::citation::{Known, Present};
use super::contribution::{Contribution, put_run, take_run};
use super::difference::Published;
use super::emit::{Cause, CauseText, Lineage, Origin};
use super::plain::{self, Told, Unsaid};
use super::summed::{self, Givers, Sums};
use super::touched::Touched;
use super::unit::Progress;
use super::{ContributionChange, Fold, Seen, Work, Writes, index};
use crate::TransformError;
use crate::state::{Space, State, get_all};

const WAS_NOT: u8 = 0;
const WAS: u8 = 1;

/// Adds the changes of a step up, and sets the sums aside. What the entry sets aside all lies behind `lowest`.
pub(super) fn add(
    entity: &Entity,
    prefix: &[u8],
    changes: &[ContributionChange],
    origin: &Origin<'_>,
    lowest: &mut Option<Vec<u8>>,
    state: &dyn State,
    writes: &mut Writes,
) -> Result<(), TransformError> {
    let (touched, givers) = summed::add(entity, prefix, changes, state, writes)?;
    let before = touched.stored.clone().into_iter().map(Some).collect();
    put(prefix, &touched, before, givers, origin, lowest, state, writes)
}

/// Takes the changes of a step into the claims on plain rows, and sets those aside; gives the keys that have come or gone.
pub(super) fn set_aside(
    prefix: &[u8],
    now: Seen,
    changes: &[ContributionChange],
    origin: &Origin<'_>,
    lowest: &mut Option<Vec<u8>>,
    state: &dyn State,
    writes: &mut Writes,
) -> Result<Vec<(Vec<u8>, bool, Lineage)>, TransformError> {
    let Unsaid { touched, told, presence } = plain::add(prefix, now, changes, state, writes)?;
    let givers = vec![Givers::new(); touched.keys.len()];
    put(prefix, &touched, told, givers, origin, lowest, state, writes)?;
    Ok(presence)
}

/// Notes keys as changed; of those without a `before` there is nothing to note.
#[expect(clippy::too_many_arguments, reason = "what both kinds of rows do last")]
fn put(
    prefix: &[u8],
    touched: &Touched<'_>,
    before: Vec<Option<Option<Vec<u8>>>>,
    givers: Vec<Givers>,
    origin: &Origin<'_>,
    lowest: &mut Option<Vec<u8>>,
    state: &dyn State,
    writes: &mut Writes,
) -> Result<(), TransformError> {
    let places: Vec<Vec<u8>> = touched.keys.iter().map(|key| index::deferred(&[prefix, key].concat())).collect();
    if let Some(place) = places.iter().min() {
        // Right before it, for what is asked for behind a key.
        let before = &place[..place.len() - 1];
        if lowest.as_deref().is_none_or(|lowest| before < lowest) {
            *lowest = Some(before.to_vec());
        }
    }
    let aside = get_all(state, Space::Index, &places)?;
    let slots = places.into_iter().zip(aside).zip(givers.into_iter().zip(before));
    for (slot, ((place, aside), (mut givers, before))) in slots.enumerate() {
        let Some(mut before) = before else { continue };
        if let Some(aside) = aside {
            let known = Aside::decode(&aside)?;
            before = known.before;
            for (giver, known) in givers.iter_mut().zip(known.givers) {
                *giver = giver.take().or(known);
            }
        }
        let aside = Aside { cause: origin.text(touched.lineage[slot])?, givers, before };
        writes.push((Space::Index, place, Some(aside.encode())));
    }
    Ok(())
}

/// A key that was set aside.
struct Aside {
    cause: CauseText,
    givers: Givers,
    before: Option<Vec<u8>>,
}

impl Aside {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.cause.put(&mut out);
        out.push(u8::try_from(self.givers.len()).expect("an entity has few fields"));
        self.givers.iter().for_each(|giver| put_run(&mut out, giver.as_deref().unwrap_or_default()));
        out.push(if self.before.is_some() { WAS } else { WAS_NOT });
        out.extend(self.before.iter().flatten());
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, TransformError> {
        let read = || {
            let (cause, rest) = CauseText::take(bytes)?;
            let (&fields, mut rest) = rest.split_first()?;
            let mut givers = Givers::new();
            for _ in 0..fields {
                let (giver, left) = take_run(rest)?;
                rest = left;
                givers.push((!giver.is_empty()).then(|| giver.to_vec()));
            }
            let (&was, row) = rest.split_first()?;
            Some(Self { cause, givers, before: (was == WAS).then(|| row.to_vec()) })
        };
        read().ok_or_else(damaged)
    }
}

/// Puts what sinks were last told of some sums in place of what is stored, where an entry is not done.
pub(super) fn told(
    state: &dyn State,
    prefix: &[u8],
    keys: &[Vec<u8>],
    stored: &mut [Option<Vec<u8>>],
) -> Result<(), TransformError> {
    let of_entity = [&index::deferred_prefix(), prefix].concat();
    if state.scan(Space::Index, &of_entity, &[], 1)?.is_empty() {
        return Ok(());
    }
    let places: Vec<Vec<u8>> = keys.iter().map(|key| index::deferred(&[prefix, key].concat())).collect();
    for (aside, stored) in get_all(state, Space::Index, &places)?.into_iter().zip(stored) {
        let Some(aside) = aside else { continue };
        *stored = Aside::decode(&aside)?.before;
    }
    Ok(())
}

fn damaged() -> TransformError {
    TransformError::State("a row that was set aside does not decode".to_owned())
}

/// Puts what sinks were last told of some plain rows in place of what state says, where an entry is not done.
pub(super) fn told_rows(
    state: &dyn State,
    prefix: &[u8],
    keys: &[Vec<u8>],
    published: &mut [Published],
) -> Result<(), TransformError> {
    let places: Vec<Vec<u8>> = keys.iter().map(|key| index::deferred(&[prefix, key].concat())).collect();
    for (aside, published) in get_all(state, Space::Index, &places)?.into_iter().zip(published) {
        let Some(aside) = aside else { continue };
        let before = Aside::decode(&aside)?.before;
        let row =
            before.as_deref().map(|before| Ok::<_, TransformError>(Told::decode(before)?.row.to_vec())).transpose()?;
        *published = row.map_or(Published::Nothing, Published::Row);
    }
    Ok(())
}

/// Keys of an entity that were set aside, behind `after`; none but where an entry is not done.
pub(super) fn keys_aside(
    state: &dyn State,
    prefix: &[u8],
    after: &[u8],
    limit: usize,
) -> Result<Vec<Vec<u8>>, TransformError> {
    let of_entity = [&index::deferred_prefix(), prefix].concat();
    let after = if after.is_empty() { Vec::new() } else { [of_entity.as_slice(), after].concat() };
    let found = state.scan(Space::Index, &of_entity, &after, limit)?;
    Ok(found.into_iter().map(|(key, _)| key[of_entity.len()..].to_vec()).collect())
}

/// What records say of a key that they gave a field; none where they do not any more.
fn said(givers: Givers, key: &[u8], state: &dyn State) -> Result<Givers, TransformError> {
    let said = |giver: Option<Vec<u8>>| {
        let Some(giver) = giver else { return Ok(None) };
        let Some(record) = state.get(Space::Contributions, &giver)? else { return Ok(None) };
        let value = Contribution::decode(&record)?.value;
        Ok(value.filter(|(of, _)| *of == key).map(|(_, row)| row.to_vec()))
    };
    givers.into_iter().map(said).collect()
}

impl Fold {
    /// Tells sinks of rows that were set aside, in a step of its own; false where there are none. `now` is when what has no
    /// other time happened.
    pub(super) fn tell(&mut self, now: i64, work: &mut Work<'_, '_>) -> Result<bool, TransformError> {
        // What was told before lies there removed, and would be gone over again.
        let Some(after) = &work.aside else { return Ok(false) };
        let aside = work.state.scan(Space::Index, &index::deferred_prefix(), after, self.chunk)?;
        let place = |entry: &[u8]| entry[index::deferred_prefix().len()..].to_vec();
        let Some((first, _)) = aside.first() else {
            work.aside = None;
            return Ok(false);
        };
        let prefix: [u8; 4] = *place(first).first_chunk().ok_or_else(damaged)?;
        let (mut writes, mut places, mut causes) = (Writes::new(), Vec::new(), Vec::new());
        let (mut told, mut given) = (Vec::new(), Vec::new());
        for (entry, value) in aside {
            let place = place(&entry);
            // Of one entity at a time.
            if !place.starts_with(&prefix) {
                break;
            }
            let Aside { cause, givers, before } = Aside::decode(&value)?;
            causes.push(Cause::Text(cause.timed(now)));
            told.push(before);
            given.push(said(givers, &place[prefix.len()..], work.state)?);
            places.push(place);
            work.aside = Some(entry.clone());
            writes.push((Space::Index, entry, None));
        }
        let stored = get_all(work.state, Space::Entities, &places)?;
        let entity_index = self.roster.entity_of(prefix).ok_or_else(damaged)?;
        let keys: Vec<&[u8]> = places.iter().map(|place| &place[prefix.len()..]).collect();
        let lineage: Vec<Lineage> = (0..causes.len()).map(|cause| Lineage { cause, row: 0 }).collect();
        let entity = &entity::all()[entity_index];
        let (now_seen, state) = (work.seen(), work.state);
        let emitted = if entity.kind == Kind::Summed {
            let logic = self.roster.logic(entity_index);
            let (prefix, keys, lineage, told) =
                (prefix.as_slice(), keys.as_slice(), lineage.as_slice(), told.as_slice());
            let sums = Sums { entity, logic, prefix, keys, lineage, told, stored: &stored, given: &given };
            sums.fold(now_seen, state, &mut writes)?
        } else {
            plain::tell(entity, &prefix, now_seen, &keys, &lineage, &told, &stored, state, &mut writes)?
        };
        let origin = Origin { epoch: self.epoch, offset: work.offset, causes };
        let mut present = Present::new(work.state, Known::default());
        let delivered = self.deliver(0, entity_index, emitted, &origin, &mut present, &mut writes, work)?;
        self.go_on(writes, delivered.deltas, Progress::Tasks, work)?;
        self.tasks |= delivered.leaves_tasks;
        Ok(true)
    }
}
