//! Reads a batch: records that are sound become [`Change`]s, the others rejects with their place and reason.
//!
//! A record is judged by the entity's definition: unknown fields are ignored (minors only add), a missing or null field
//! that is required and a value of another type are refused. `data` is kept as the very text that was sent.

use std::borrow::Cow;
use std::fmt;

use axum::http::StatusCode;
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;
use syncline_schemas::entity::{Entity, Field};
use syncline_schemas::ident::Version;

use super::faults::{Faults, Poison};
use super::problem::Refusal;
use super::value;
use crate::planning::contract::Rejected;

/// A batch as sent.
#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    batch: Head<'a>,
    #[serde(borrow)]
    records: Vec<Record<'a>>,
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    source: Option<Cow<'a, str>>,
    count: Option<usize>,
    partitions: Option<u32>,
}

#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow)]
    op: Option<Cow<'a, str>>,
    #[serde(borrow)]
    key: Option<&'a RawValue>,
    #[serde(borrow)]
    version: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

impl Record<'_> {
    fn version(&self) -> Option<Version> {
        self.version.as_ref()?.parse().ok()
    }
}

/// A batch that was read.
pub(super) struct Batch {
    pub(super) id: String,
    pub(super) source: Option<String>,
    pub(super) partitions: Option<u32>,
    pub(super) received: u64,
    pub(super) changes: Vec<Change>,
    pub(super) rejects: Vec<Rejected>,
    /// The highest version that came, also of a record that is refused: it has arrived.
    pub(super) newest: Option<Version>,
    /// Keys of a load whose rows stay whatever they are: those that are kept on purpose, and those that are refused.
    pub(super) kept: Vec<String>,
    /// Sound records that are not kept on purpose.
    pub(super) forgotten: u64,
}

/// What a batch may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Records {
    /// Upserts and deletes.
    Deltas,
    /// Upserts, and keys to be kept.
    Whole,
    /// None here; they are counted where they are.
    Uncounted,
}

/// A record that is sound.
pub(super) struct Change {
    /// Its place in the batch.
    index: usize,
    /// The key's values as a JSON array, in the order of the definition.
    pub(super) key: String,
    pub(super) version: Version,
    /// `None` is a tombstone.
    pub(super) data: Option<String>,
}

/// Reads a body.
///
/// # Errors
/// Why it is no batch at all.
pub(super) fn read(entity: &Entity, body: &[u8], records: Records) -> Result<Batch, String> {
    let body: Body<'_> = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let counted = body.batch.count.filter(|_| records != Records::Uncounted);
    if let Some(count) = counted.filter(|count| *count != body.records.len()) {
        return Err(format!("batch.count is {count}, there are {} records", body.records.len()));
    }
    let mut batch = Batch {
        id: body.batch.id.into_owned(),
        source: body.batch.source.map(Cow::into_owned),
        partitions: body.batch.partitions,
        received: body.records.len() as u64,
        changes: Vec::with_capacity(body.records.len()),
        rejects: Vec::new(),
        newest: body.records.iter().filter_map(Record::version).max(),
        kept: Vec::new(),
        forgotten: 0,
    };
    for (index, record) in body.records.iter().enumerate() {
        let key = || key_of(entity, record);
        if records == Records::Whole && record.op.as_deref() == Some("keep") {
            match key() {
                Ok(key) => batch.kept.push(key),
                Err(fault) => return Err(format!("record {index}: {}", fault.detail)),
            }
            continue;
        }
        match change(entity, index, record, records) {
            Ok(change) => batch.changes.push(change),
            Err(fault) => {
                batch.kept.extend(key().ok());
                batch.rejects.push(Rejected {
                    index,
                    key: record.key.map(ToOwned::to_owned),
                    code: fault.code.to_owned(),
                    retryable: false,
                    field: fault.field,
                    detail: fault.detail,
                });
            }
        }
    }
    Ok(batch)
}

impl Batch {
    /// Refuses the rows that are to be, or the batch.
    pub(super) fn refuse(&mut self, entity: &Entity, faults: &Faults) -> Result<(), Refusal> {
        let before = self.rejects.len();
        self.refuse_rows(entity, &faults.poison);
        if faults.all_or_nothing && self.rejects.len() > before {
            let detail = "some row is refused on purpose, and the others with it";
            return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "batch-refused", detail));
        }
        Ok(())
    }

    /// Counts the records that are sound, and keeps none.
    pub(super) fn forget(&mut self) {
        self.forgotten += std::mem::take(&mut self.changes).len() as u64;
    }

    fn refuse_rows(&mut self, entity: &Entity, poison: &[Poison]) {
        if poison.is_empty() {
            return;
        }
        for change in std::mem::take(&mut self.changes) {
            match poison.iter().find(|poison| change.has(entity, &poison.field, &poison.value)) {
                None => self.changes.push(change),
                Some(Poison { field, code, retryable, .. }) => {
                    self.kept.push(change.key);
                    self.rejects.push(Rejected {
                        index: change.index,
                        key: None,
                        code: code.clone(),
                        retryable: *retryable,
                        field: Some(field.clone()),
                        detail: "refused on purpose".to_owned(),
                    });
                }
            }
        }
    }
}

impl Change {
    fn has(&self, entity: &Entity, field: &str, value: &str) -> bool {
        let key: Vec<serde_json::Value> = serde_json::from_str(&self.key).unwrap_or_default();
        let of_key = entity.fields.iter().zip(&key).find(|(known, _)| known.name == field).map(|(_, value)| value);
        let data: Option<serde_json::Value> = self.data.as_ref().and_then(|data| serde_json::from_str(data).ok());
        let found = of_key.or_else(|| data.as_ref()?.get(field));
        found.and_then(serde_json::Value::as_str) == Some(value)
    }
}

/// Why a record is refused.
struct Fault {
    code: &'static str,
    field: Option<String>,
    detail: String,
}

impl Fault {
    fn schema(field: &str, detail: impl Into<String>) -> Self {
        Self { code: "schema_violation", field: Some(field.to_owned()), detail: detail.into() }
    }
}

/// The key of a record, as it is stored.
fn key_of(entity: &Entity, record: &Record<'_>) -> Result<String, Fault> {
    let key = record.key.ok_or_else(|| Fault::schema("key", "is missing"))?;
    members(&entity.fields[..entity.key_len()], key, "key", true)
}

fn change(entity: &Entity, index: usize, record: &Record<'_>, records: Records) -> Result<Change, Fault> {
    let version = record.version().ok_or_else(|| Fault::schema("version", "wanted 32 hex digits"))?;
    let data = match (record.op.as_deref(), record.data) {
        (Some("delete"), _) if records == Records::Deltas => None,
        (Some("upsert"), Some(data)) => Some(data),
        (Some("upsert"), None) => return Err(Fault::schema("data", "is missing")),
        _ if records == Records::Whole => return Err(Fault::schema("op", "wanted upsert or keep")),
        _ => return Err(Fault::schema("op", "wanted upsert or delete")),
    };
    let key = key_of(entity, record)?;
    if let Some(data) = data {
        members(&entity.fields[entity.key_len()..], data, "data", false)?;
    }
    Ok(Change { index, key, version, data: data.map(|data| data.get().to_owned()) })
}

/// Checks the members of an object against fields. Returns the values as a JSON array where `collect` is set.
fn members(fields: &[Field], object: &RawValue, name: &str, collect: bool) -> Result<String, Fault> {
    let mut reader = serde_json::Deserializer::from_str(object.get());
    let mut checker = Checker { fields, values: vec![None; fields.len()], fault: None };
    if serde::Deserializer::deserialize_map(&mut reader, &mut checker).is_err() {
        return Err(Fault::schema(name, "wanted an object"));
    }
    if let Some(fault) = checker.fault {
        return Err(fault);
    }
    if let Some((field, _)) =
        fields.iter().zip(&checker.values).find(|(field, value)| field.required && value.is_none())
    {
        return Err(Fault::schema(&field.name, "is required"));
    }
    if !collect {
        return Ok(String::new());
    }
    let mut key = String::with_capacity(object.get().len());
    for value in checker.values.into_iter().flatten() {
        key.push(if key.is_empty() { '[' } else { ',' });
        key.push_str(&canonical(value));
    }
    key.push(']');
    Ok(key)
}

/// One spelling per value: a string that was sent with escapes is written again.
fn canonical(json: &str) -> Cow<'_, str> {
    if !json.contains('\\') {
        return Cow::Borrowed(json);
    }
    match serde_json::from_str::<String>(json).and_then(|text| serde_json::to_string(&text)) {
        Ok(text) => Cow::Owned(text),
        Err(_) => Cow::Borrowed(json),
    }
}

/// Visits an object's members without building them.
struct Checker<'f, 'de> {
    fields: &'f [Field],
    /// Per field the value's text, where it is there and not null.
    values: Vec<Option<&'de str>>,
    fault: Option<Fault>,
}

impl<'de> Visitor<'de> for &mut Checker<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut next = 0;
        while let Some(Name(name)) = map.next_key::<Name<'de>>()? {
            let value: &'de RawValue = map.next_value()?;
            // Senders keep the order of the definition, so the next field is nearly always the right one.
            let place = match self.fields.get(next) {
                Some(field) if field.name == name => Some(next),
                _ => self.fields.iter().position(|field| field.name == name),
            };
            let Some(place) = place else { continue };
            next = place + 1;
            let (field, json) = (&self.fields[place], value.get());
            if json == "null" {
                self.values[place] = None;
                continue;
            }
            if let Err(detail) = value::check(field, json) {
                let fault = || Fault { code: "invalid_value", field: Some(field.name.clone()), detail };
                self.fault.get_or_insert_with(fault);
            }
            self.values[place] = Some(json);
        }
        Ok(())
    }
}

/// A member's name, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = r#"{"company_id":"DE01","item_id":"4711","location_id":"BER","owner_id":"","stock_class":""}"#;

    fn read_one(record: &str) -> Batch {
        let entity = syncline_schemas::entity::get("inventory_balance").expect("canonical");
        read(entity, format!(r#"{{"batch":{{"id":"b","count":1}},"records":[{record}]}}"#).as_bytes(), Records::Deltas)
            .expect("a batch")
    }

    #[test]
    fn a_faulty_record_is_refused_with_its_place_and_field() {
        let version = "0".repeat(32);
        for (record, code, field) in [
            (format!(r#"{{"op":"delete","key":{KEY},"version":"7"}}"#), "schema_violation", "version"),
            (format!(r#"{{"op":"merge","key":{KEY},"version":"{version}"}}"#), "schema_violation", "op"),
            (format!(r#"{{"op":"delete","version":"{version}"}}"#), "schema_violation", "key"),
            (
                format!(r#"{{"op":"delete","key":{{"item_id":"1"}},"version":"{version}"}}"#),
                "schema_violation",
                "company_id",
            ),
            (format!(r#"{{"op":"upsert","key":{KEY},"version":"{version}"}}"#), "schema_violation", "data"),
            (
                format!(r#"{{"op":"upsert","key":{KEY},"version":"{version}","data":{{}}}}"#),
                "schema_violation",
                "on_hand",
            ),
            (
                format!(r#"{{"op":"upsert","key":{KEY},"version":"{version}","data":{{"on_hand":"1,5"}}}}"#),
                "invalid_value",
                "on_hand",
            ),
            (format!(r#"{{"op":"upsert","key":{KEY},"version":"{version}","data":[]}}"#), "schema_violation", "data"),
        ] {
            let batch = read_one(&record);
            assert!(batch.changes.is_empty(), "{record}");
            let reject = &batch.rejects[0];
            assert_eq!(
                (reject.index, reject.code.as_str(), reject.field.as_deref()),
                (0, code, Some(field)),
                "{record}"
            );
        }
    }

    #[test]
    fn the_same_key_spelled_in_two_ways_is_one_key() {
        let version = "0".repeat(32);
        let plain = read_one(&format!(r#"{{"op":"delete","key":{KEY},"version":"{version}"}}"#));
        let spelled =
            KEY.replace("DE01", "\\u0044E01").replace(r#""item_id":"4711","#, "").replace('}', r#","item_id":"4711"}"#);
        let other = read_one(&format!(r#"{{"op":"delete","key":{spelled},"version":"{version}","new":1}}"#));
        assert_eq!(plain.changes[0].key, r#"["DE01","4711","BER","",""]"#);
        assert_eq!(plain.changes[0].key, other.changes[0].key);
    }

    #[test]
    fn bytes_that_are_no_batch_are_refused_whole() {
        let entity = syncline_schemas::entity::get("inventory_balance").expect("canonical");
        for body in
            ["", "[]", "{", r#"{"batch":{"id":"b","count":2},"records":[]}"#, r#"{"records":[]}"#, "\u{0}\u{ff}"]
        {
            assert!(read(entity, body.as_bytes(), Records::Deltas).is_err(), "{body}");
        }
    }
}
