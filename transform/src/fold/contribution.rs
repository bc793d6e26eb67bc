//! What one driving row contributes to an entity, as bytes in state.
//!
//! Beside the contribution itself the record keeps the source values that a later change may leave out (PostgreSQL does
//! not send unchanged TOAST values): only those long enough to be stored out of line, so mostly none. Under a mapping with
//! joins it keeps all columns that the mapping reads, because the row is evaluated again when a joined row changes, and what
//! the row looked for in each join. So it does for a row that waits for another entity's row, with what it waits for.
//!
//! The log entry in front is that of the driving row's change which made the record what it is. It is the row's whereabouts
//! for whoever asks, and no part of what the record says: where only the entry is another, the record stays as it was written.
//!
//! Where a transaction takes several steps, the record also keeps what the row contributed before it: a row whose last image
//! turns out faulty goes back to that, not to what an earlier step said. It counts as long as that transaction is at work,
//! which the record names by the entry that ends it.
//!
//! ```text
//! at      u64           log entry of the row
//! flags   u8            1 contributes | 2 held | 4 joined | 8 parked | 16 has a before | 32 contributed before
//! key     varint length + rowcode of the entity's key fields       (when it contributes)
//! row     varint length + rowcode of the entity's other fields     (when it contributes)
//! source  varint length + stored row, see stored.rs                (when joined)
//! looked  varint length + { varint length + rowcode of what it looked for; empty for nothing } per join   (when joined)
//! awaits  varint length + key in the entities' space               (when parked)
//! before  varint length + log entry; key and row, as above, when it contributed   (when it has one)
//! carried { u8-length name | varint length + rowcode of the value } ...
//! ```

use std::ops::Range;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Decimal128Type};
use syncline_schemas::ident::LogOffset;
use syncline_schemas::rowcode;
use syncline_schemas::table::Column;

use super::unit::Unit;
use crate::TransformError;

const CONTRIBUTES: u8 = 1;
const HELD: u8 = 2;
const JOINED: u8 = 4;
const PARKED: u8 = 8;
const BEFORE: u8 = 16;
const CONTRIBUTED: u8 = 32;

/// Bytes of the log entry.
const AT_LEN: usize = size_of::<u64>();

/// PostgreSQL moves a value out of line only when it takes more than a TOAST pointer: MAXALIGN(18) = 24 bytes with its
/// header (`toast_tuple_find_biggest_attribute`).
const TEXT_ALWAYS_INLINE: usize = 20;
/// A numeric below this takes at most 8 + 2 + 8 * 2 bytes: always inline.
const DECIMAL_ALWAYS_INLINE: i128 = 10_i128.pow(32);
/// Types whose stored form is never longer than the text that we hold.
const STORED_AS_TEXT: [&str; 7] = ["text", "character varying", "varchar", "character", "bpchar", "name", "numeric"];

/// An entity key and the entity's other fields.
pub(crate) type Value<'a> = (&'a [u8], &'a [u8]);

/// What a row contributed before a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Before<'a> {
    /// The log entry that ends the transaction.
    pub(crate) unit: LogOffset,
    pub(crate) value: Option<Value<'a>>,
}

/// The record of one driving row under one mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Contribution<'a> {
    /// The log entry that made it what it is.
    pub(crate) at: LogOffset,
    /// The entity key and the other fields; none where the row is filtered out or was never good.
    pub(crate) value: Option<Value<'a>>,
    /// The row as it stands in the source is held; `value` is its last good contribution.
    pub(crate) held: bool,
    /// The source row and what it looked for: under a mapping with joins, and where the row waits.
    pub(crate) joined: Option<JoinedRow<'a>>,
    /// The row of another entity that it waits for: a key in the entities' space.
    pub(crate) awaits: Option<&'a [u8]>,
    /// What it contributed before the transaction that made it what it is, where that took several steps.
    pub(crate) before: Option<Before<'a>>,
    /// Source values by column name.
    pub(crate) carried: Vec<(String, Vec<u8>)>,
}

/// What is kept of a driving row whose mapping joins other tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct JoinedRow<'a> {
    /// The columns that the mapping reads.
    pub(crate) source: &'a [u8],
    /// What it looked for in each join, behind one another.
    looked: &'a [u8],
}

impl<'a> JoinedRow<'a> {
    /// `looked` is made of [`put_looked_for`].
    pub(crate) const fn new(source: &'a [u8], looked: &'a [u8]) -> Self {
        Self { source, looked }
    }

    /// What it looked for, by join; without those where it looked for nothing.
    pub(crate) fn looked(&self) -> impl Iterator<Item = (usize, &'a [u8])> {
        let mut rest = self.looked;
        let runs = std::iter::from_fn(move || {
            let (run, left) = take_run(rest)?;
            rest = left;
            Some(run)
        });
        runs.enumerate().filter(|(_, values)| !values.is_empty())
    }
}

/// Appends what a row looked for in the next join.
pub(crate) fn put_looked_for(out: &mut Vec<u8>, values: Option<&[u8]>) {
    put_run(out, values.unwrap_or_default());
}

/// True where two records say the same, wherever they are from; an absent one has no bytes.
pub(crate) fn says_the_same(one: &[u8], other: &[u8]) -> bool {
    one.get(AT_LEN..) == other.get(AT_LEN..)
}

/// Gives a record another log entry.
pub(crate) fn redate(record: &mut [u8], at: LogOffset) {
    if let Some(place) = record.first_chunk_mut() {
        *place = at.0.to_be_bytes();
    }
}

impl<'a> Contribution<'a> {
    /// The record of a row that contributes nothing and is not held.
    pub(crate) const fn of_nothing(at: LogOffset) -> Self {
        Self { at, value: None, held: false, joined: None, awaits: None, before: None, carried: Vec::new() }
    }

    /// True where there is nothing worth keeping.
    pub(crate) fn is_empty(&self) -> bool {
        self.before.is_none() && self.says_nothing()
    }

    /// True where all it keeps is what the row contributed before the transaction.
    pub(crate) fn is_mark(&self) -> bool {
        self.before.is_some() && self.says_nothing()
    }

    fn says_nothing(&self) -> bool {
        self.value.is_none() && !self.held && self.joined.is_none() && self.awaits.is_none() && self.carried.is_empty()
    }

    /// What the row last contributed at the end of a transaction; `unit` is the one at work where that takes several steps.
    pub(crate) fn settled(&self, unit: Option<Unit>) -> Option<Value<'a>> {
        let Some(unit) = unit else { return self.value };
        match self.before {
            Some(before) if before.unit == unit.entry => before.value,
            // It came with the transaction.
            _ if unit.first.is_some_and(|first| self.at >= first) => None,
            _ => self.value,
        }
    }

    /// The record's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len_at_most());
        let flag = |flag: u8, is_set: bool| if is_set { flag } else { 0 };
        let contributes = flag(CONTRIBUTES, self.value.is_some());
        let kept = flag(JOINED, self.joined.is_some()) | flag(PARKED, self.awaits.is_some());
        let contributed = self.before.is_some_and(|before| before.value.is_some());
        let before = flag(BEFORE, self.before.is_some()) | flag(CONTRIBUTED, contributed);
        out.extend_from_slice(&self.at.0.to_be_bytes());
        out.push(contributes | flag(HELD, self.held) | kept | before);
        if let Some((key, row)) = &self.value {
            put_run(&mut out, key);
            put_run(&mut out, row);
        }
        if let Some(joined) = &self.joined {
            put_run(&mut out, joined.source);
            put_run(&mut out, joined.looked);
        }
        if let Some(awaits) = self.awaits {
            put_run(&mut out, awaits);
        }
        if let Some(before) = &self.before {
            put_run(&mut out, &before.unit.0.to_be_bytes());
            if let Some((key, row)) = before.value {
                put_run(&mut out, key);
                put_run(&mut out, row);
            }
        }
        for (name, value) in &self.carried {
            put_run(&mut out, name.as_bytes());
            put_run(&mut out, value);
        }
        out
    }

    fn len_at_most(&self) -> usize {
        let before = self.before.map(|before| before.unit.0.to_be_bytes());
        let values = self.value.into_iter().chain(self.before.and_then(|before| before.value));
        let joined = self.joined.map(|joined| [joined.source, joined.looked]);
        let carried = self.carried.iter().flat_map(|(name, value)| [name.as_bytes(), value.as_slice()]);
        let runs = values.flat_map(|(key, row)| [key, row]).chain(joined.into_iter().flatten()).chain(self.awaits);
        let runs = runs.chain(before.as_ref().map(|unit| unit.as_slice())).chain(carried);
        AT_LEN + 1 + runs.map(|run| LENGTH_LEN_MAX + run.len()).sum::<usize>()
    }

    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, TransformError> {
        let damaged = || TransformError::State("a contribution does not decode".to_owned());
        let (at, rest) = bytes.split_first_chunk().ok_or_else(damaged)?;
        let at = LogOffset(u64::from_be_bytes(*at));
        let (&flags, mut rest) = rest.split_first().ok_or_else(damaged)?;
        let mut run = || -> Option<&'a [u8]> {
            let (run, left) = take_run(rest)?;
            rest = left;
            Some(run)
        };
        let value = if flags & CONTRIBUTES == 0 {
            None
        } else {
            Some((run().ok_or_else(damaged)?, run().ok_or_else(damaged)?))
        };
        let joined = if flags & JOINED == 0 {
            None
        } else {
            Some(JoinedRow { source: run().ok_or_else(damaged)?, looked: run().ok_or_else(damaged)? })
        };
        let awaits = if flags & PARKED == 0 { None } else { Some(run().ok_or_else(damaged)?) };
        let mut before = None;
        if flags & BEFORE != 0 {
            let unit = run().and_then(|unit| unit.try_into().ok()).ok_or_else(damaged)?;
            let contributed = flags & CONTRIBUTED != 0;
            let value = if contributed { Some((run().ok_or_else(damaged)?, run().ok_or_else(damaged)?)) } else { None };
            before = Some(Before { unit: LogOffset(u64::from_be_bytes(unit)), value });
        }
        let mut carried = Vec::new();
        while let Some(name) = run() {
            let name = std::str::from_utf8(name).map_err(|_| damaged())?;
            carried.push((name.to_owned(), run().ok_or_else(damaged)?.to_vec()));
        }
        Ok(Self { at, value, held: flags & HELD != 0, joined, awaits, before, carried })
    }

    /// The carried value of a column as a one-row array; none where it was not kept or no longer has that type.
    pub(crate) fn carried(&self, column: &Column) -> Option<ArrayRef> {
        let (_, bytes) = self.carried.iter().find(|(name, _)| *name == column.name)?;
        let mut columns = rowcode::decode(std::slice::from_ref(&column.data_type), [bytes.as_slice()]).ok()?;
        columns.pop()
    }
}

/// What a record contributes, in the record's own bytes.
#[derive(Debug)]
pub(crate) struct Contributed {
    record: Vec<u8>,
    key: Range<usize>,
    row: Range<usize>,
}

impl Contributed {
    /// None where the record contributes nothing.
    pub(crate) fn of(record: Vec<u8>) -> Result<Option<Self>, TransformError> {
        let Some((key, row)) = Contribution::decode(&record)?.value else { return Ok(None) };
        // The parts lie behind one another, each behind its length.
        let key_at = AT_LEN + 1 + length_len(key.len());
        let key = key_at..key_at + key.len();
        let row_at = key.end + length_len(row.len());
        let row = row_at..row_at + row.len();
        Ok(Some(Self { record, key, row }))
    }

    /// The entity key.
    pub(crate) fn key(&self) -> &[u8] {
        &self.record[self.key.clone()]
    }

    /// The entity's other fields.
    pub(crate) fn row(&self) -> &[u8] {
        &self.record[self.row.clone()]
    }
}

/// More bytes than [`put_run`] takes for a length.
const LENGTH_LEN_MAX: usize = 10;

/// How many bytes [`put_run`] takes for a length.
fn length_len(len: usize) -> usize {
    (1..).find(|bytes| len >> (7 * bytes) == 0).expect("a length has at most 64 bits")
}

/// Appends bytes with a LEB128 length in front.
pub(crate) fn put_run(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut len = bytes.len();
    while len >= 0x80 {
        out.push(u8::try_from(len & 0x7f).expect("seven bits") | 0x80);
        len >>= 7;
    }
    out.push(u8::try_from(len).expect("seven bits"));
    out.extend_from_slice(bytes);
}

/// Splits off what [`put_run`] appended; `None` at the end or on other bytes.
pub(crate) fn take_run(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (mut len, mut shift, mut at) = (0_usize, 0_u32, 0_usize);
    loop {
        let byte = *bytes.get(at)?;
        len |= usize::from(byte & 0x7f).checked_shl(shift)?;
        at += 1;
        if byte & 0x80 == 0 {
            break;
        }
        shift += 7;
    }
    let end = at.checked_add(len)?;
    Some((bytes.get(at..end)?, &bytes[end..]))
}

/// The rows of a column whose value a later change may leave out, so that it must be kept.
pub(crate) fn must_carry(column: &Column, values: &ArrayRef) -> Vec<usize> {
    let base = column.source_type.split('(').next().unwrap_or_default();
    let stored_as_text = STORED_AS_TEXT.contains(&base);
    let may_lie_outside = |row: usize| match values.data_type() {
        DataType::Utf8 => !stored_as_text || values.as_string::<i32>().value(row).len() > TEXT_ALWAYS_INLINE,
        DataType::Binary => values.as_binary::<i32>().value(row).len() > TEXT_ALWAYS_INLINE,
        DataType::Decimal128(_, _) => {
            values.as_primitive::<Decimal128Type>().value(row).unsigned_abs() >= DECIMAL_ALWAYS_INLINE.unsigned_abs()
        }
        _ => true,
    };
    (0..values.len()).filter(|&row| !values.is_null(row) && may_lie_outside(row)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_contribution_reads_back_as_written(
            at: u64, value in any::<Option<(Vec<u8>, Vec<u8>)>>(), held: bool, carried in prop::collection::vec((".{0,9}", any::<Vec<u8>>()), 0..3),
            joined in any::<Option<(Vec<u8>, Vec<Vec<u8>>)>>(), awaits in any::<Option<Vec<u8>>>(), before in any::<Option<(u64, Option<(Vec<u8>, Vec<u8>)>)>>(),
        ) {
            let borrowed = value.as_ref().map(|(key, row)| (key.as_slice(), row.as_slice()));
            let (mut looked, mut wanted) = (Vec::new(), Vec::new());
            for (i, values) in joined.iter().flat_map(|(_, looked)| looked).enumerate() {
                put_looked_for(&mut looked, Some(values));
                if !values.is_empty() {
                    wanted.push((i, values.as_slice()));
                }
            }
            let before = before.as_ref().map(|(unit, value)| {
                let value = value.as_ref().map(|(key, row)| (key.as_slice(), row.as_slice()));
                Before { unit: LogOffset(*unit), value }
            });
            let joined = joined.as_ref().map(|(source, _)| JoinedRow::new(source, &looked));
            prop_assert_eq!(joined.iter().flat_map(JoinedRow::looked).collect::<Vec<_>>(), wanted);
            let awaits = awaits.as_deref();
            let contribution = Contribution { at: LogOffset(at), value: borrowed, held, joined, awaits, before, carried };
            let bytes = contribution.encode();
            prop_assert!(bytes.len() <= contribution.len_at_most());
            prop_assert_eq!(Contribution::decode(&bytes).expect("own bytes"), contribution);
            let contributed = Contributed::of(bytes).expect("own bytes");
            prop_assert_eq!(contributed.as_ref().map(|part| (part.key(), part.row())), borrowed);
        }

        #[test]
        fn damaged_bytes_are_an_error_and_never_a_panic(bytes: Vec<u8>) {
            let _ = Contribution::decode(&bytes);
        }
    }
}
