//! What both sides of PDX/1 must compute alike to tell whether they hold the same rows: a hash per row, and their sum.
//!
//! A row is written as its fields in the order of the entity, each as one byte 0 where it is null and otherwise as a byte 1,
//! its length in bytes (u32, little-endian) and its text: strings as they are, decimals in their shortest exact form,
//! dates as `2026-05-26`, instants as `2026-05-26T10:00:01.120000Z`, the rest as JSON has it. Fields that say when a row
//! was sent (`stamp` of the definition) are left out. The hash is XXH3 with 128 bits and no seed; hashes are summed modulo
//! 2^128, so that order does not matter, parts can be added up, and two equal mistakes do not cancel.
//!
//! Keys fall into 4,096 buckets by XXH3 with 64 bits over the key fields, written the same way.

use std::borrow::Cow;
use std::ops::AddAssign;

use arrow::array::ArrayRef;
use serde_json::Value;
use syncline_schemas::entity::{Entity, Field, FieldType};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::json::JsonColumn;
use crate::SinkError;

/// Into how many buckets the keys of an entity fall.
pub(crate) const BUCKETS: u64 = 4_096;

/// Rows that were counted and summed up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Digest {
    pub(crate) count: u64,
    pub(crate) sum: u128,
}

impl Digest {
    /// The digest of one row.
    pub(crate) const fn of(hash: u128) -> Self {
        Self { count: 1, sum: hash }
    }

    /// The sum as 32 hex digits.
    pub(crate) fn to_hex(self) -> String {
        format!("{:032x}", self.sum)
    }
}

impl AddAssign for Digest {
    fn add_assign(&mut self, other: Self) {
        self.count += other.count;
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

/// Appends a field.
fn put(text: Option<&[u8]>, out: &mut Vec<u8>) {
    let Some(text) = text else { return out.push(0) };
    out.push(1);
    // A value of 4 GiB fits no batch.
    out.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(text);
}

/// Hashes the rows of columns that begin with the entity's fields, in their order.
pub(crate) struct Hasher<'a> {
    columns: Vec<JsonColumn<'a>>,
    text: Vec<u8>,
    out: Vec<u8>,
}

impl<'a> Hasher<'a> {
    /// # Errors
    /// [`SinkError::Shape`] for a field of a type that JSON has no form for.
    pub(crate) fn new(entity: &Entity, fields: &'a [ArrayRef]) -> Result<Self, SinkError> {
        let columns = entity.fields.iter().zip(fields).filter(|(field, _)| !field.stamp);
        let columns = columns.map(|(field, column)| {
            JsonColumn::resolve(column).ok_or_else(|| SinkError::Shape {
                entity: entity.name.clone(),
                reason: format!("field {} has a type that JSON has no form for", field.name),
            })
        });
        Ok(Self { columns: columns.collect::<Result<_, _>>()?, text: Vec::new(), out: Vec::new() })
    }

    pub(crate) fn hash(&mut self, row: usize) -> u128 {
        self.out.clear();
        for column in &self.columns {
            self.text.clear();
            let is_there = column.put_plain(row, &mut self.text);
            put(is_there.then_some(&self.text), &mut self.out);
        }
        xxh3_128(&self.out)
    }
}

/// The hash of a row as it was sent: the values of its key in order, and the object with the others.
pub(crate) fn hash_of_json(entity: &Entity, key: &[Value], data: &Value) -> u128 {
    let mut out = Vec::new();
    for (place, field) in entity.fields.iter().enumerate().filter(|(_, field)| !field.stamp) {
        let value = if place < entity.key_len() { key.get(place) } else { data.get(&field.name) };
        put_json(field, value.unwrap_or(&Value::Null), &mut out);
    }
    xxh3_128(&out)
}

/// The bucket of a key.
pub(crate) fn bucket_of_json(entity: &Entity, key: &[Value]) -> u64 {
    let mut out = Vec::new();
    for (field, value) in entity.fields.iter().zip(key) {
        put_json(field, value, &mut out);
    }
    xxh3_64(&out) % BUCKETS
}

fn put_json(field: &Field, value: &Value, out: &mut Vec<u8>) {
    let text: Cow<'_, str> = match value {
        Value::Null => return put(None, out),
        Value::String(text) => match field.field_type {
            FieldType::Quantity | FieldType::UnitPrice | FieldType::Money | FieldType::Rate => shortest(text),
            FieldType::Instant => with_micros(text),
            _ => Cow::Borrowed(text),
        },
        other => Cow::Owned(other.to_string()),
    };
    put(Some(text.as_bytes()), out);
}

/// A decimal without zeros that say nothing.
fn shortest(text: &str) -> Cow<'_, str> {
    let (sign, magnitude) = text.strip_prefix('-').map_or(("", text), |magnitude| ("-", magnitude));
    let (whole, fraction) = magnitude.split_once('.').unwrap_or((magnitude, ""));
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    let whole = if whole.is_empty() { "0" } else { whole };
    let sign = if whole == "0" && fraction.is_empty() { "" } else { sign };
    let point = if fraction.is_empty() { "" } else { "." };
    Cow::Owned([sign, whole, point, fraction].concat())
}

/// An instant with six digits of its second.
fn with_micros(text: &str) -> Cow<'_, str> {
    let Some(bare) = text.strip_suffix('Z') else { return Cow::Borrowed(text) };
    let (seconds, fraction) = bare.split_once('.').unwrap_or((bare, ""));
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(6).collect();
    Cow::Owned(format!("{seconds}.{digits}Z"))
}

#[cfg(test)]
mod tests {
    use syncline_schemas::delta::SYSTEM_COLUMNS;
    use syncline_schemas::entity;

    use super::*;
    use crate::planning::body::tests::two_rows;

    #[test]
    fn both_sides_compute_the_same_of_a_row_however_its_numbers_are_written() {
        let entity = entity::get("inventory_balance").expect("canonical");
        let rows = two_rows(entity);
        let ours = Hasher::new(entity, &rows.columns()[SYSTEM_COLUMNS..]).expect("hashes").hash(0);
        let key: Vec<Value> =
            entity.fields[..entity.key_len()].iter().map(|field| Value::from(format!("<{}>", field.name))).collect();
        for (on_hand, as_of) in [("110.5", "2026-05-26T10:00:01.12Z"), ("0110.500000000", "whenever")] {
            let data = serde_json::json!({ "on_hand": on_hand, "as_of": as_of, "reserved": null, "unknown": 1 });
            assert_eq!(hash_of_json(entity, &key, &data), ours, "{on_hand}");
        }
        let other = serde_json::json!({ "on_hand": "110.51" });
        assert_ne!(hash_of_json(entity, &key, &other), ours);
        assert_ne!(hash_of_json(entity, &key, &serde_json::json!({ "reserved": "110.5" })), ours, "another field");
    }

    #[test]
    fn the_hash_of_a_row_is_part_of_the_contract() {
        let entity = entity::get("uom_conversion").expect("canonical");
        let key: Vec<Value> = (0..entity.key_len()).map(|i| Value::from(format!("k{i}"))).collect();
        let mut out = Vec::new();
        put(None, &mut out);
        put(Some(b"EA"), &mut out);
        assert_eq!(out, [0, 1, 2, 0, 0, 0, b'E', b'A']);
        assert!(bucket_of_json(entity, &key) < BUCKETS);
        let mut sum = Digest::of(u128::MAX);
        sum += Digest::of(2);
        assert_eq!((sum.count, sum.to_hex().as_str()), (2, "00000000000000000000000000000001"));
    }

    #[test]
    fn numbers_and_instants_have_one_spelling() {
        for (text, one) in [("007", "7"), ("-0.00", "0"), ("1.500", "1.5"), ("-0.5", "-0.5"), ("0", "0"), ("10", "10")]
        {
            assert_eq!(shortest(text), one);
        }
        assert_eq!(with_micros("2026-05-26T10:00:01Z"), "2026-05-26T10:00:01.000000Z");
        assert_eq!(with_micros("2026-05-26T10:00:01.1234567Z"), "2026-05-26T10:00:01.123456Z");
    }
}
