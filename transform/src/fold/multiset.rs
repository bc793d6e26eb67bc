//! Rows of a table without a key: equal ones cannot be told apart and need not be, so they are counted.
//!
//! A row is known by a hash of all that it says, and by which of the equal ones it is: the first, the second and so on. An insert
//! makes them one more, a delete takes the last of them away, an update is both. Which of several equal rows a change meant is of
//! no account: they say the same, so they give the same. Where the table is emptied, or read anew, counting begins at nothing; what
//! is not counted again until the reading ends is older than its beginning, and is taken back as in any other table
//! ([`super::sweep`]).
//!
//! Entities go through the frames of a large transaction level by level, so each mapping counts for itself:
//!
//! ```text
//! Rows: u32 0 | mapping u32 | hash, 16 bytes -> u64 how many
//! ```
//!
//! A delete of what was never there says that the log and the source do not agree, which a reader rules out: folding stops.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BinaryArray, Int64Array, UInt8Array};
use arrow::datatypes::{DataType, Float32Type, Float64Type, UInt8Type};
use syncline_schemas::frame::{ABSENT, META_COLUMNS, OP, Op, TableBatch};
use syncline_schemas::ident::LogOffset;
use syncline_schemas::rowcode::{self, Rows};
use syncline_schemas::table::TableSchema;
use xxhash_rust::xxh3::xxh3_128;

use super::changes::{Change, Changes, column};
use super::unit::Progress;
use super::{Fold, Work, Writes};
use crate::TransformError;
use crate::state::{Space, State, get_all};

/// Numbers of joined tables, which begin the other keys of the space, begin at 1.
const NO_TABLE: u32 = 0;

/// What a row says, in short.
pub(super) type Hash = [u8; 16];

/// What a frame does to rows that are equal.
#[derive(Debug)]
pub(crate) struct Equals {
    hash: Hash,
    /// How many more there are after it.
    net: i64,
    /// Where one came last, and where one went.
    came: Option<usize>,
    went: Option<usize>,
}

/// Names and types of what tells the rows of a table apart.
pub(super) fn key_of(shape: &TableSchema) -> Vec<(String, DataType)> {
    let keys = shape.key_indexes();
    if keys.is_empty() {
        return vec![("row".to_owned(), DataType::Binary), ("nth".to_owned(), DataType::Int64)];
    }
    keys.into_iter().map(|at| (shape.columns[at].name.clone(), shape.columns[at].data_type.clone())).collect()
}

/// The hash in the key of a row.
pub(super) fn hash_in(key: &[u8]) -> Option<Hash> {
    let types: Vec<DataType> = vec![DataType::Binary, DataType::Int64];
    let columns = rowcode::decode(&types, [key]).ok()?;
    columns.first()?.as_binary::<i32>().value(0).try_into().ok()
}

/// The hash of each row of a batch.
pub(super) fn hashes(batch: &TableBatch) -> Result<Vec<Hash>, TransformError> {
    let rows = batch.rows.num_rows();
    let own = batch.rows.num_columns() - META_COLUMNS;
    if own == 0 {
        return Ok(vec![xxh3_128(&[]).to_be_bytes(); rows]);
    }
    let columns: Vec<ArrayRef> = batch.rows.columns()[..own].iter().map(one_nan).collect();
    let bytes = rowcode::encode(&columns)?;
    Ok((0..rows).map(|row| xxh3_128(bytes.row(row)).to_be_bytes()).collect())
}

/// Of what is not a number there are many, which say the same and depend on the way that they came.
fn one_nan(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Float32 => {
            let one = |value: f32| if value.is_nan() { f32::NAN } else { value };
            Arc::new(column.as_primitive::<Float32Type>().unary::<_, Float32Type>(one))
        }
        DataType::Float64 => {
            let one = |value: f64| if value.is_nan() { f64::NAN } else { value };
            Arc::new(column.as_primitive::<Float64Type>().unary::<_, Float64Type>(one))
        }
        _ => Arc::clone(column),
    }
}

/// What a frame does to a table without a key; which of equal rows is meant each mapping finds ([`Changes::numbered`]).
pub(super) fn collect(batch: &TableBatch) -> Result<Changes<'_>, TransformError> {
    let absent = column(batch, ABSENT)?.as_binary();
    let operations: &UInt8Array = column(batch, OP)?.as_primitive::<UInt8Type>();
    let hashes = hashes(batch)?;
    let mut places: HashMap<Hash, usize> = HashMap::new();
    let mut equals: Vec<Equals> = Vec::new();
    let (mut truncated, mut sweep_begins, mut sweep_ends) = (None, None, None);
    for (row, hash) in hashes.into_iter().enumerate() {
        let op = Op::from_u8(operations.value(row))?;
        match op {
            Op::Truncate | Op::SweepBegin => {
                places.clear();
                equals.clear();
                *(if op == Op::Truncate { &mut truncated } else { &mut sweep_begins }) = Some(row);
                continue;
            }
            Op::SweepEnd => {
                sweep_ends = Some(row);
                continue;
            }
            Op::Read | Op::Insert | Op::Delete => {}
            Op::Update | Op::MoveOut | Op::MoveIn => {
                let reason = format!("{} has no key, and a row of it is said to be updated", batch.table);
                return Err(TransformError::State(reason));
            }
        }
        let next = equals.len();
        let place = *places.entry(hash).or_insert(next);
        if place == next {
            equals.push(Equals { hash, net: 0, came: None, went: None });
        }
        let equal = &mut equals[place];
        if op.removes() {
            (equal.net, equal.went) = (equal.net - 1, Some(row));
        } else {
            (equal.net, equal.came) = (equal.net + 1, Some(row));
        }
    }
    let equals = Some(equals);
    Ok(Changes {
        batch,
        keys: Rows::default(),
        absent,
        changes: Vec::new(),
        equals,
        truncated,
        sweep_begins,
        sweep_ends,
    })
}

impl<'a> Changes<'a> {
    /// The same with each row as one of those that a mapping has counted; none of a table with a key.
    pub(super) fn numbered(
        &self,
        mapping: u32,
        at: LogOffset,
        state: &dyn State,
        writes: &mut Writes,
    ) -> Result<Option<Self>, TransformError> {
        let Some(equals) = &self.equals else { return Ok(None) };
        let equals: Vec<&Equals> = equals.iter().filter(|equal| equal.net != 0).collect();
        let places: Vec<Vec<u8>> = equals.iter().map(|equal| place(mapping, &equal.hash)).collect();
        let counts = get_all(state, Space::Rows, &places)?;
        let (mut hashes, mut numbers, mut changes) = (Vec::new(), Vec::new(), Vec::new());
        for ((equal, place), count) in equals.into_iter().zip(places).zip(counts) {
            let before = count.as_deref().map_or(Ok(0), count_of)?;
            let after = before + equal.net;
            if after < 0 {
                return Err(self.never_there(at, -after));
            }
            let removed = after < before;
            let last = if removed { equal.went } else { equal.came };
            for number in before.min(after) + 1..=before.max(after) {
                hashes.push(equal.hash);
                numbers.push(number);
                changes.push(Change::of_one(changes.len(), last.unwrap_or_default(), removed));
            }
            writes.push((Space::Rows, place, (after > 0).then(|| after.to_be_bytes().to_vec())));
        }
        let hashes: BinaryArray = hashes.iter().map(|hash| Some(hash.as_slice())).collect();
        let keys = rowcode::encode(&[Arc::new(hashes) as ArrayRef, Arc::new(Int64Array::from(numbers))])?;
        let Self { batch, absent, truncated, sweep_begins, sweep_ends, .. } = *self;
        Ok(Some(Self { batch, keys, absent, changes, equals: None, truncated, sweep_begins, sweep_ends }))
    }

    /// True where rows that a mapping has counted do not count any more.
    pub(super) const fn begins_to_count(&self) -> bool {
        self.equals.is_some() && (self.truncated.is_some() || self.sweep_begins.is_some())
    }

    fn never_there(&self, at: LogOffset, missing: i64) -> TransformError {
        let reason = format!(
            "{} has no key, and {missing} more of its rows that say the same are deleted than there were: the log and the table do \
             not agree; have `syncline replay --reread` read the tables again",
            self.batch.table
        );
        TransformError::Entry { offset: at.0, reason }
    }
}

impl Fold {
    /// Has a mapping count the rows of its table from nothing.
    pub(super) fn forget_counts(
        &mut self,
        mapping: u32,
        progress: Progress,
        work: &mut Work<'_, '_>,
    ) -> Result<(), TransformError> {
        let prefix = place(mapping, &[]);
        loop {
            let counts = work.state.scan(Space::Rows, &prefix, &[], self.chunk)?;
            if counts.is_empty() {
                return Ok(());
            }
            work.several = true;
            let writes = counts.into_iter().map(|(key, _)| (Space::Rows, key, None)).collect();
            self.go_on(writes, Vec::new(), progress, work)?;
        }
    }
}

/// Where a mapping keeps its counts, or one of them.
fn place(mapping: u32, hash: &[u8]) -> Vec<u8> {
    [&NO_TABLE.to_be_bytes()[..], &mapping.to_be_bytes(), hash].concat()
}

fn count_of(record: &[u8]) -> Result<i64, TransformError> {
    let damaged = |_| TransformError::State("a count of equal rows does not decode".to_owned());
    Ok(i64::from_be_bytes(record.try_into().map_err(damaged)?))
}
