//! What the receiver holds, for people, tests and watermarks: reads beside the writer, each of the last commit.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension as _, params};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use syncline_schemas::entity::{self, Entity};
use syncline_schemas::ident::Version;

use super::store::{WATERMARK, read_watermark};
use crate::planning::contract::Watermark;
use crate::planning::digest::{Digest, bucket_of_json, hash_of_json};

/// How much of an entity is held.
#[derive(Debug, Serialize)]
pub(super) struct EntityCount {
    entity: String,
    rows: i64,
    tombstones: i64,
    max_version: Option<String>,
}

/// A held row.
#[derive(Serialize)]
pub(super) struct HeldRow {
    key: Box<RawValue>,
    version: String,
    deleted: bool,
    data: Option<Box<RawValue>>,
}

/// A run of rows in key order.
#[derive(Serialize)]
pub(super) struct Page {
    rows: Vec<HeldRow>,
    /// `after` of the next page; none at the end.
    next: Option<String>,
}

/// Counts of every entity.
pub(super) fn counts(connection: &Connection) -> rusqlite::Result<Vec<EntityCount>> {
    let mut statement = connection.prepare("SELECT live, tombstones, version FROM flows WHERE name = ?1")?;
    entity::all()
        .iter()
        .map(|entity| {
            statement.query_row([&entity.name], |row| {
                Ok(EntityCount {
                    entity: entity.name.clone(),
                    rows: row.get(0)?,
                    tombstones: row.get(1)?,
                    max_version: row.get::<_, Option<[u8; 16]>>(2)?.map(|bytes| Version::from_bytes(bytes).to_string()),
                })
            })
        })
        .collect()
}

/// How far a partition is.
pub(super) fn watermark(connection: &Connection, entity: &Entity, partition: u32) -> rusqlite::Result<Watermark> {
    let flow = flow_id(connection, entity)?;
    let found = connection.query_row(WATERMARK, params![flow, partition], read_watermark).optional()?;
    Ok(found.unwrap_or(Watermark { partition, ..Watermark::default() }))
}

/// Rows behind a key, in key order.
pub(super) fn page(
    connection: &Connection,
    entity: &Entity,
    after: &str,
    limit: u32,
    tombstones: bool,
) -> rusqlite::Result<Page> {
    let flow = flow_id(connection, entity)?;
    let mut statement = connection.prepare(
        "SELECT key, version, data FROM records
         WHERE flow = ?1 AND key > ?2 AND (?4 OR data IS NOT NULL) ORDER BY key LIMIT ?3",
    )?;
    let mut next = None;
    let rows = statement
        .query_map(params![flow, after, limit, tombstones], |row| {
            let key: String = row.get(0)?;
            let held = held_row(entity, &key, row.get(1)?, row.get(2)?);
            next = Some(key);
            held
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let full = rows.len() == limit as usize;
    Ok(Page { rows, next: next.filter(|_| full) })
}

/// The row of a key, tombstones included.
pub(super) fn row(connection: &Connection, entity: &Entity, key: &str) -> rusqlite::Result<Option<HeldRow>> {
    let flow = flow_id(connection, entity)?;
    connection
        .query_row("SELECT version, data FROM records WHERE flow = ?1 AND key = ?2", params![flow, key], |row| {
            held_row(entity, key, row.get(0)?, row.get(1)?)
        })
        .optional()
}

fn flow_id(connection: &Connection, entity: &Entity) -> rusqlite::Result<i64> {
    connection.query_row("SELECT id FROM flows WHERE name = ?1", [&entity.name], |row| row.get(0))
}

/// Names the key's values again.
fn held_row(entity: &Entity, key: &str, version: [u8; 16], data: Option<String>) -> rusqlite::Result<HeldRow> {
    let broken = |error: serde_json::Error| rusqlite::Error::ToSqlConversionFailure(Box::new(error));
    let values: Vec<&RawValue> = serde_json::from_str(key).map_err(broken)?;
    let members: Vec<String> =
        entity.fields.iter().zip(values).map(|(field, value)| format!("\"{}\":{}", field.name, value.get())).collect();
    Ok(HeldRow {
        key: RawValue::from_string(format!("{{{}}}", members.join(","))).map_err(broken)?,
        version: Version::from_bytes(version).to_string(),
        deleted: data.is_none(),
        data: data.map(RawValue::from_string).transpose().map_err(broken)?,
    })
}

/// A row as digests tell it.
#[derive(Debug, Serialize)]
pub(super) struct DigestRow {
    /// The key's values in order.
    key: Box<RawValue>,
    version: String,
    /// 32 hex digits.
    hash: String,
}

/// Calls `visit` with every row that is not deleted.
fn hashed(
    connection: &Connection,
    entity: &Entity,
    mut visit: impl FnMut(&str, u64, u128, [u8; 16]) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let flow = flow_id(connection, entity)?;
    let mut statement =
        connection.prepare("SELECT key, data, version FROM records WHERE flow = ?1 AND data IS NOT NULL")?;
    let mut rows = statement.query([flow])?;
    let broken = |error: serde_json::Error| rusqlite::Error::ToSqlConversionFailure(Box::new(error));
    while let Some(row) = rows.next()? {
        let (key, data): (String, String) = (row.get(0)?, row.get(1)?);
        let values: Vec<Value> = serde_json::from_str(&key).map_err(broken)?;
        let data: Value = serde_json::from_str(&data).map_err(broken)?;
        visit(&key, bucket_of_json(entity, &values), hash_of_json(entity, &values, &data), row.get(2)?)?;
    }
    Ok(())
}

/// The digest of all rows.
pub(super) fn digest(connection: &Connection, entity: &Entity) -> rusqlite::Result<Digest> {
    let mut all = Digest::default();
    hashed(connection, entity, |_, _, hash, _| {
        all += Digest::of(hash);
        Ok(())
    })?;
    Ok(all)
}

/// The digests of the buckets that have rows.
pub(super) fn buckets(connection: &Connection, entity: &Entity) -> rusqlite::Result<BTreeMap<u64, Digest>> {
    let mut buckets: BTreeMap<u64, Digest> = BTreeMap::new();
    hashed(connection, entity, |_, bucket, hash, _| {
        *buckets.entry(bucket).or_default() += Digest::of(hash);
        Ok(())
    })?;
    Ok(buckets)
}

/// The rows of a bucket.
pub(super) fn bucket(connection: &Connection, entity: &Entity, wanted: u64) -> rusqlite::Result<Vec<DigestRow>> {
    let mut found = Vec::new();
    hashed(connection, entity, |key, bucket, hash, version| {
        if bucket == wanted {
            let key = RawValue::from_string(key.to_owned());
            let key = key.map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
            let version = Version::from_bytes(version).to_string();
            found.push(DigestRow { key, version, hash: format!("{hash:032x}") });
        }
        Ok(())
    })?;
    Ok(found)
}
