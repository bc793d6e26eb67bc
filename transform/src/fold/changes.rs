//! What a frame leaves of each row of a table: of all changes to one key, the last, with values that it did not carry
//! found where they last were.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, UInt8Array, new_null_array};
use arrow::compute::interleave;
use arrow::datatypes::UInt8Type;
use syncline_schemas::frame::{ABSENT, OP, Op, TableBatch};
use syncline_schemas::rowcode::{self, Rows};

use super::multiset::{self, Equals};
use crate::TransformError;

/// One driving row that the frame changed.
#[derive(Debug)]
pub(crate) struct Change {
    /// Where its key stands.
    pub(crate) key: usize,
    /// Its last image.
    pub(crate) last: usize,
    pub(crate) removed: bool,
    /// Earlier images in this frame, oldest first, kept only while the last lacks values.
    history: Vec<usize>,
    /// The change whose key the row had when the frame began: its own, or the one it moved from. A row that is deleted and
    /// inserted again is the same one; one that comes where another moved away has none.
    pub(crate) origin: Option<usize>,
}

impl Change {
    /// The only change to a row.
    pub(super) const fn of_one(place: usize, last: usize, removed: bool) -> Self {
        Self { key: place, last, removed, history: Vec::new(), origin: Some(place) }
    }
}

/// Where the value of a column of a row is to be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// In that row of the batch.
    Here(usize),
    /// With the contribution that this change left in state.
    Before(Option<usize>),
}

/// The changes of one table in a frame, in the order in which their keys were first touched.
pub(crate) struct Changes<'a> {
    pub(crate) batch: &'a TableBatch,
    pub(super) keys: Rows,
    pub(super) absent: &'a BinaryArray,
    pub(crate) changes: Vec<Change>,
    /// Of a table without a key, whose changes are found when it is known how many equal rows there are.
    pub(super) equals: Option<Vec<Equals>>,
    /// The row of the last truncate; everything before it is gone.
    pub(crate) truncated: Option<usize>,
    /// The rows that say that the table begins to be read anew, and that it has been.
    pub(crate) sweep_begins: Option<usize>,
    pub(crate) sweep_ends: Option<usize>,
}

/// A named column of a batch whose schema we made ourselves.
pub(crate) fn column<'a>(batch: &'a TableBatch, name: &str) -> Result<&'a ArrayRef, TransformError> {
    let missing = || TransformError::State(format!("a batch of {} has no column {name}", batch.table));
    batch.rows.column_by_name(name).ok_or_else(missing)
}

impl<'a> Changes<'a> {
    /// `key_indexes` are the key columns in key order; none where the table has no key.
    pub(crate) fn collect(batch: &'a TableBatch, key_indexes: &[usize]) -> Result<Self, TransformError> {
        if key_indexes.is_empty() {
            return multiset::collect(batch);
        }
        let key_columns: Vec<ArrayRef> = key_indexes.iter().map(|&i| Arc::clone(batch.rows.column(i))).collect();
        let keys = rowcode::encode(&key_columns)?;
        let absent = column(batch, ABSENT)?.as_binary();
        let operations: &UInt8Array = column(batch, OP)?.as_primitive::<UInt8Type>();
        let mut by_key: HashMap<&[u8], usize> = HashMap::new();
        let mut changes: Vec<Change> = Vec::new();
        let (mut truncated, mut moved_out) = (None, None);
        let (mut sweep_begins, mut sweep_ends) = (None, None);
        for row in 0..operations.len() {
            let op = Op::from_u8(operations.value(row))?;
            if op == Op::Truncate {
                by_key.clear();
                changes.clear();
                truncated = Some(row);
                moved_out = None;
                continue;
            }
            let sweep = match op {
                Op::SweepBegin => Some(&mut sweep_begins),
                Op::SweepEnd => Some(&mut sweep_ends),
                _ => None,
            };
            if let Some(sweep) = sweep {
                *sweep = Some(row);
                continue;
            }
            let next = changes.len();
            let index = *by_key.entry(keys.row(row)).or_insert(next);
            if index == next {
                changes.push(Change { key: row, last: row, removed: true, history: Vec::new(), origin: Some(next) });
            }
            let lacks = !op.removes() && !absent.is_null(row);
            // The row keeps its values under its new key, so their whereabouts move with it.
            let inherited = moved_out.filter(|_| op == Op::MoveIn).map(|(old, origin): (usize, _)| {
                let history = if lacks { changes[old].history.clone() } else { Vec::new() };
                (history, origin)
            });
            let change = &mut changes[index];
            if let Some((history, origin)) = inherited {
                (change.history, change.origin) = (history, origin);
            } else if op == Op::MoveOut || (lacks && op == Op::Update) {
                if index != next {
                    change.history.push(change.last);
                }
            } else {
                change.history.clear();
            }
            change.last = row;
            change.removed = op.removes();
            moved_out = (op == Op::MoveOut).then(|| (index, change.origin.take()));
        }
        drop(by_key);
        Ok(Self { batch, keys, absent, changes, equals: None, truncated, sweep_begins, sweep_ends })
    }

    /// The driving key's bytes.
    pub(crate) fn key(&self, change: usize) -> &[u8] {
        self.keys.row(self.changes[change].key)
    }

    /// True where the last image of a change lacks the value of some column.
    pub(crate) fn is_partial(&self, change: usize) -> bool {
        !self.absent.is_null(self.changes[change].last)
    }

    fn lacks(&self, row: usize, column: usize) -> bool {
        let mask = self.absent;
        !mask.is_null(row) && mask.value(row).get(column / 8).is_some_and(|byte| byte & (1 << (column % 8)) != 0)
    }

    /// A column of the live changes, each value from where it was last seen: in this frame, or `before` it with the row
    /// that the change's origin had. Rows whose value was never seen go to `lacking` and are null.
    pub(crate) fn gather(
        &self,
        column: usize,
        live: &[usize],
        before: &dyn Fn(usize) -> Result<Option<ArrayRef>, TransformError>,
        lacking: &mut Vec<usize>,
    ) -> Result<ArrayRef, TransformError> {
        let here = Arc::clone(self.batch.rows.column(column));
        let nothing = new_null_array(here.data_type(), 1);
        let mut arrays: Vec<ArrayRef> = vec![here];
        let mut picks = Vec::with_capacity(live.len());
        for (row, &change) in live.iter().enumerate() {
            match self.find(change, column) {
                Found::Here(image) => picks.push((0, image)),
                Found::Before(origin) => {
                    let value = origin.map(before).transpose()?.flatten();
                    if value.is_none() {
                        lacking.push(row);
                    }
                    picks.push((arrays.len(), 0));
                    arrays.push(value.unwrap_or_else(|| Arc::clone(&nothing)));
                }
            }
        }
        let views: Vec<&dyn Array> = arrays.iter().map(AsRef::as_ref).collect();
        Ok(interleave(&views, &picks)?)
    }

    /// Finds the value of a column in the newest image that carries it.
    fn find(&self, change: usize, column: usize) -> Found {
        let Change { last, history, origin, .. } = &self.changes[change];
        let newest = std::iter::once(last).chain(history.iter().rev()).find(|&&row| !self.lacks(row, column));
        newest.map_or(Found::Before(*origin), |&row| Found::Here(row))
    }
}
