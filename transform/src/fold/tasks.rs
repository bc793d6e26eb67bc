//! Re-evaluations that are still to be done: a changed joined row concerns every driving row that looked for it.
//!
//! One product may be in a million order lines. So the dependants are taken a bounded number at a time, each chunk one
//! atomic step, and what is left lies in state as a task that says how far it has got. Sinks see nothing before the last
//! one is done, because the entry that caused them is not finished before.
//!
//! ```text
//! T | 0 | table u32 | index u32               fill an index with the rows that were there before it
//! T | 1 | mapping u32                         evaluate all rows of a mapping
//! T | 2 | mapping u32 | join u8 | values      evaluate the rows that looked for these values
//! T | 3 | entity u32 | key                    evaluate the rows that wait for this row of an entity
//! T | 4 | table u32 | log entry u64           take back joined rows of which nothing has come since, see sweep.rs
//! T | 5 | mapping u32 | log entry u64         take back driving rows of which nothing has come since
//! T | 6 | entity u32 | first key fields       look at the rows that share them, see group
//! T | 7                                       forget rows that only a transaction of several frames needed
//!   -> source | table | position, each with a varint length | commit time i64 | captured i64 | how far: a key, or nothing
//! ```

use std::collections::{BTreeMap, HashSet};

use syncline_schemas::ident::LogOffset;

use super::catalog::Table;
use super::contribution::Contribution;
use super::drivers::{mapping_of, record_key};
use super::emit::{CauseText, Lineage, UNTIMED};
use super::{Writes, index};
use crate::TransformError;
use crate::state::{Space, State, get_all};

/// Driving rows in one step unless told otherwise: some 4 MiB of state.
pub(super) const CHUNK: usize = 16 * 1024;
/// Tasks that are looked at for one step.
const TASKS: usize = 4 * 1024;
const TASK: u8 = b'T';
const FILL: u8 = 0;
const ALL: u8 = 1;
const VALUES: u8 = 2;
const PARKED: u8 = 3;
const STALE_JOINED: u8 = 4;
const STALE_DRIVING: u8 = 5;
const GROUP: u8 = 6;
const MARKS: u8 = 7;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    Fill {
        table: u32,
        index: u32,
    },
    All {
        mapping: u32,
    },
    Values {
        mapping: u32,
        join: usize,
        values: Vec<u8>,
    },
    /// The key is one in the entities' space.
    Parked {
        key: Vec<u8>,
    },
    StaleJoined {
        table: u32,
        before: LogOffset,
    },
    StaleDriving {
        mapping: u32,
        before: LogOffset,
    },
    /// The prefix is the entity's in state.
    Group {
        prefix: [u8; 4],
        group: Vec<u8>,
    },
    Marks,
}

impl What {
    /// True where driving rows are evaluated, so that sums may still change.
    pub(super) const fn evaluates(&self) -> bool {
        !matches!(self, Self::Group { .. } | Self::Marks)
    }
}

/// Why, for the lineage of what comes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Why {
    /// A row of the frame at hand.
    Row(Lineage),
    /// A row of a frame that is gone.
    Text(CauseText),
}

/// Something to be done, and how far it has got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) what: What,
    pub(super) why: Why,
    /// The last key that is done; empty before the first.
    pub(super) after: Vec<u8>,
}

impl Task {
    pub(super) fn new(what: What, why: Why) -> Self {
        Self { what, why, after: Vec::new() }
    }

    fn key(&self) -> Vec<u8> {
        match &self.what {
            What::Fill { table, index } => [&[TASK, FILL], &table.to_be_bytes()[..], &index.to_be_bytes()].concat(),
            What::All { mapping } => [&[TASK, ALL], &mapping.to_be_bytes()[..]].concat(),
            What::Values { mapping, join, values } => {
                let join = u8::try_from(*join).expect("the number of joins is limited");
                [&[TASK, VALUES], &mapping.to_be_bytes()[..], &[join], values].concat()
            }
            What::Parked { key } => [&[TASK, PARKED], key.as_slice()].concat(),
            What::StaleJoined { table, before } => stale(STALE_JOINED, *table, *before),
            What::StaleDriving { mapping, before } => stale(STALE_DRIVING, *mapping, *before),
            What::Group { prefix, group } => [&[TASK, GROUP], prefix.as_slice(), group].concat(),
            What::Marks => vec![TASK, MARKS],
        }
    }

    /// Writes the task down; `text` gives the cause of a row of the frame at hand.
    pub(super) fn put(
        &self,
        text: &dyn Fn(Lineage) -> Result<CauseText, TransformError>,
        writes: &mut Writes,
    ) -> Result<(), TransformError> {
        let cause = match &self.why {
            Why::Row(lineage) => text(*lineage)?,
            Why::Text(cause) => cause.clone(),
        };
        let mut value = Vec::new();
        cause.put(&mut value);
        value.extend_from_slice(&self.after);
        writes.push((Space::Index, self.key(), Some(value)));
        Ok(())
    }

    pub(super) fn remove(&self, writes: &mut Writes) {
        writes.push((Space::Index, self.key(), None));
    }

    fn decode(key: &[u8], value: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u32::from_be_bytes(key.get(at..at + 4)?.try_into().ok()?));
        let offset = |at: usize| Some(LogOffset(u64::from_be_bytes(key.get(at..at + 8)?.try_into().ok()?)));
        let what = match *key.get(1)? {
            FILL => What::Fill { table: number(2)?, index: number(6)? },
            ALL => What::All { mapping: number(2)? },
            VALUES => {
                What::Values { mapping: number(2)?, join: usize::from(*key.get(6)?), values: key.get(7..)?.to_vec() }
            }
            PARKED => What::Parked { key: key.get(2..)?.to_vec() },
            STALE_JOINED => What::StaleJoined { table: number(2)?, before: offset(6)? },
            STALE_DRIVING => What::StaleDriving { mapping: number(2)?, before: offset(6)? },
            GROUP => {
                let (prefix, group) = key.get(2..)?.split_first_chunk()?;
                What::Group { prefix: *prefix, group: group.to_vec() }
            }
            MARKS => What::Marks,
            _ => return None,
        };
        let (cause, after) = CauseText::take(value)?;
        Some(Self { what, why: Why::Text(cause), after: after.to_vec() })
    }
}

fn stale(kind: u8, of: u32, before: LogOffset) -> Vec<u8> {
    [&[TASK, kind], &of.to_be_bytes()[..], &before.0.to_be_bytes()].concat()
}

/// True where something is to be done.
pub(super) fn any(state: &dyn State) -> Result<bool, TransformError> {
    Ok(!state.scan(Space::Index, &[TASK], &[], 1)?.is_empty())
}

/// The first tasks in state.
pub(super) fn first(state: &dyn State) -> Result<Vec<Task>, TransformError> {
    let damaged = || TransformError::State("a task does not decode".to_owned());
    let tasks = state.scan(Space::Index, &[TASK], &[], TASKS)?;
    tasks.into_iter().map(|(key, value)| Task::decode(&key, &value).ok_or_else(damaged)).collect()
}

/// Driving rows to be evaluated, by mapping, each once with the first cause.
pub(super) type Found = BTreeMap<u32, Vec<(Vec<u8>, Lineage)>>;

/// What one step can do of some tasks.
pub(super) struct Chunk {
    pub(super) found: Found,
    /// Causes that [`Lineage::cause`] of the found rows names from `first_cause` on.
    pub(super) causes: Vec<CauseText>,
    /// Tasks that the step finishes.
    done: Vec<Task>,
    /// The first task that it does not finish, and those it does not reach.
    pub(super) left: Vec<Task>,
}

impl Chunk {
    /// Takes up to `room` driving rows, without those in `known`; causes are numbered from `first_cause`.
    pub(super) fn take(
        tasks: Vec<Task>,
        mut room: usize,
        known: &HashSet<Vec<u8>>,
        first_cause: usize,
        state: &dyn State,
    ) -> Result<Self, TransformError> {
        let mut chunk = Self { found: Found::new(), causes: Vec::new(), done: Vec::new(), left: Vec::new() };
        let mut seen = HashSet::new();
        for mut task in tasks {
            let (space, prefix) = match &task.what {
                What::All { mapping } => (Space::Contributions, mapping.to_be_bytes().to_vec()),
                What::Values { mapping, join, values } => {
                    (Space::Index, index::driving_prefix(*mapping, *join, values))
                }
                What::Parked { key } => (Space::Index, index::parked_prefix(key)),
                What::Fill { .. } => return Err(TransformError::State("an index is filled before it is used".into())),
                // Their turn comes when nothing else is left to be done.
                What::StaleJoined { .. } | What::StaleDriving { .. } | What::Group { .. } | What::Marks => continue,
            };
            if room == 0 {
                chunk.left.push(task);
                continue;
            }
            let pairs = state.scan(space, &prefix, &task.after, room)?;
            let lineage = match &task.why {
                Why::Row(lineage) => *lineage,
                Why::Text(cause) => {
                    chunk.causes.push(cause.clone());
                    Lineage { cause: first_cause + chunk.causes.len() - 1, row: 0 }
                }
            };
            let exhausted = pairs.len() < room;
            room -= pairs.len();
            if let Some((last, _)) = pairs.last() {
                task.after.clone_from(last);
            }
            for (key, _) in pairs {
                let key = match &task.what {
                    What::Values { mapping, .. } => record_key(*mapping, &key[prefix.len()..]),
                    What::Parked { .. } => key[prefix.len()..].to_vec(),
                    _ => key,
                };
                let rows = chunk.found.entry(mapping_of(&key)?).or_default();
                if !known.contains(&key) && seen.insert(key.clone()) {
                    rows.push((key, lineage));
                }
            }
            if exhausted { chunk.done.push(task) } else { chunk.left.push(task) }
        }
        chunk.found.retain(|_, rows| !rows.is_empty());
        Ok(chunk)
    }

    /// Writes down how far tasks in state have got.
    pub(super) fn record_progress(&self, writes: &mut Writes) -> Result<(), TransformError> {
        self.done.iter().for_each(|task| task.remove(writes));
        self.left.iter().filter(|task| !task.after.is_empty()).try_for_each(|task| task.put(&no_row, writes))
    }
}

/// Says that a task is done, or how far it has got.
pub(super) fn record_reached(mut task: Task, last: Option<Vec<u8>>, writes: &mut Writes) -> Result<(), TransformError> {
    let Some(last) = last else {
        task.remove(writes);
        return Ok(());
    };
    task.after = last;
    task.put(&no_row, writes)
}

/// Has the rows looked at that the frames of a transaction marked.
pub(super) fn put_marks(writes: &mut Writes) {
    let cause = CauseText::default();
    Task::new(What::Marks, Why::Text(cause)).put(&no_row, writes).expect("its cause is text");
}

/// Forgets marked rows that say nothing, up to `room`.
pub(super) fn forget_marked(task: Task, room: usize, state: &dyn State) -> Result<Writes, TransformError> {
    let mut writes = Writes::new();
    let marks: Vec<Vec<u8>> = state
        .scan(Space::Index, &index::marks_prefix(), &task.after, room)?
        .into_iter()
        .map(|(mark, _)| mark)
        .collect();
    let last = if marks.len() == room { marks.last().cloned() } else { None };
    record_reached(task, last, &mut writes)?;
    let keys: Vec<&[u8]> = marks.iter().map(|mark| &mark[index::marks_prefix().len()..]).collect();
    for (key, record) in keys.iter().zip(get_all(state, Space::Contributions, &keys)?) {
        let Some(record) = record else { continue };
        if Contribution::decode(&record)?.is_mark() {
            writes.push((Space::Contributions, key.to_vec(), None));
        }
    }
    writes.extend(marks.into_iter().map(|mark| (Space::Index, mark, None)));
    Ok(writes)
}

fn no_row(_: Lineage) -> Result<CauseText, TransformError> {
    Err(TransformError::State("a task in state names a row of a frame".to_owned()))
}

/// What is to be done because all tables of a mapping, or the columns of an index, became known with a table.
pub(super) fn put_call(what: What, table: &Table, writes: &mut Writes) {
    let cause = CauseText {
        source: table.0.to_string(),
        table: table.1.to_string(),
        position: String::new(),
        committed_at: UNTIMED,
        captured_at: UNTIMED,
    };
    Task::new(what, Why::Text(cause)).put(&no_row, writes).expect("its cause is text");
}
