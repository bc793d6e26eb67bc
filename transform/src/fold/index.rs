//! Keys of the index space: rows of a joined table by the columns they are joined on, and driving rows by the joined row
//! that they looked for. So a changed row finds its dependants and a dependant its row, each by one range of keys.
//!
//! ```text
//! T | kind | ...                                  a task, see tasks.rs
//! J | index u32 | values of its columns | key     row of a joined table, where it is not joined on its key
//! D | mapping u32 | join u8 | values | key        driving row that looked for these values, found or not
//! N | kind | ...                                  numbers of items by node, see group/twins.rs
//! R | entity u32 | key | mapping u32 | key         driving row that waits for this row of an entity
//! S | entity u32 | key                             sum that the entry at work has changed, see deferred.rs
//! U | mapping u32 | key                           driving row that a transaction of several frames made say nothing
//! ```
//!
//! Values and keys are rowcode: for given types no row is the beginning of another, so a prefix finds exactly its own.

const JOINED: u8 = b'J';
const DRIVING: u8 = b'D';
const PARKED: u8 = b'R';
const DEFERRED: u8 = b'S';
const MARK: u8 = b'U';

/// The joined rows that hold some values.
pub(super) fn joined_prefix(index: u32, values: &[u8]) -> Vec<u8> {
    [&[JOINED], &index.to_be_bytes()[..], values].concat()
}

/// The entry of a joined row.
pub(super) fn joined(index: u32, values: &[u8], key: &[u8]) -> Vec<u8> {
    let mut entry = joined_prefix(index, values);
    entry.extend_from_slice(key);
    entry
}

/// The driving rows of a mapping that looked for some values in a join.
pub(super) fn driving_prefix(mapping: u32, join: usize, values: &[u8]) -> Vec<u8> {
    driving(mapping, join, values, &[])
}

/// The entry of a driving row.
pub(super) fn driving(mapping: u32, join: usize, values: &[u8], key: &[u8]) -> Vec<u8> {
    let join = u8::try_from(join).expect("the number of joins is limited");
    [&[DRIVING], &mapping.to_be_bytes()[..], &[join], values, key].concat()
}

/// The driving rows that wait for a row of an entity, or for any of it. `awaited` is its key in the entities' space, or
/// the beginning of it.
pub(super) fn parked_prefix(awaited: &[u8]) -> Vec<u8> {
    [&[PARKED], awaited].concat()
}

/// The entry of a driving row that waits; `record` is the key of its record.
pub(super) fn parked(awaited: &[u8], record: &[u8]) -> Vec<u8> {
    let mut entry = parked_prefix(awaited);
    entry.extend_from_slice(record);
    entry
}

/// The sums that the entry at work has changed.
pub(super) const fn deferred_prefix() -> [u8; 1] {
    [DEFERRED]
}

/// The entry of a changed sum; `sum` is its key in the entities' space.
pub(super) fn deferred(sum: &[u8]) -> Vec<u8> {
    [&[DEFERRED], sum].concat()
}

/// The entry of a driving row of which only what it contributed before the transaction is kept; `record` is the key of its
/// record.
pub(super) fn mark(record: &[u8]) -> Vec<u8> {
    [&[MARK], record].concat()
}

/// The rows of [`mark`].
pub(super) const fn marks_prefix() -> [u8; 1] {
    [MARK]
}

/// True for an entry of [`mark`].
pub(super) fn is_mark(entry: &[u8]) -> bool {
    entry.first() == Some(&MARK)
}
