//! Deals the rows of one entity to partitions: newest version per key, in version order, by the hash of the key prefix.
//!
//! A partition is a lane in which one batch follows the other, so all rows of a key must be in the same lane and in
//! version order. Rows that a newer one of the same chunk replaces are left out, except of events, which are history.

use std::collections::HashMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{SchemaRef, UInt8Type};
use syncline_schemas::delta::{self, SYSTEM_COLUMNS};
use syncline_schemas::entity::{Entity, Kind};
use syncline_schemas::ident::Version;
use syncline_schemas::keycode;
use syncline_schemas::rowcode::Rows;
use xxhash_rust::xxh3::{Xxh3DefaultBuilder, xxh3_64};

use crate::SinkError;

/// A row of a chunk by its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RowRef {
    pub(super) version: Version,
    pub(super) row: usize,
}

/// The rows of a chunk, per partition and in version order.
pub(super) struct Dealt {
    pub(super) partitions: Vec<Vec<RowRef>>,
    /// Rows left out because a newer version of their key is here too.
    pub(super) coalesced: u64,
}

/// Makes one batch of the batches of an entity: many small ones would cost more to resolve than to copy.
///
/// # Errors
/// [`SinkError::Shape`] where a batch is not shaped as the entity says.
pub(crate) fn join(entity: &Entity, batches: &[RecordBatch]) -> Result<RecordBatch, SinkError> {
    let wanted = entity.delta_schema();
    for rows in batches {
        check(entity, &wanted, rows, &[delta::UPSERT, delta::DELETE])?;
    }
    match batches {
        [single] => Ok(single.clone()),
        several => Ok(concat_batches(&wanted, several)?),
    }
}

/// Deals the rows of a batch that [`join`] made.
///
/// # Errors
/// [`SinkError::Schema`] for a key of a type that keys cannot hold.
pub(super) fn deal(entity: &Entity, rows: &RecordBatch, partitions: u32) -> Result<Dealt, SinkError> {
    let mut dealt = Dealt { partitions: vec![Vec::new(); partitions as usize], coalesced: 0 };
    let columns = &rows.columns()[SYSTEM_COLUMNS..];
    let prefixes = keycode::encode(&columns[..entity.partition_fields])?;
    let versions = rows.column(1).as_fixed_size_binary();
    for row in 0..rows.num_rows() {
        let version = versions.value(row).try_into().expect("join() saw 16 bytes");
        let lane = usize::try_from(xxh3_64(prefixes.row(row)) % u64::from(partitions)).expect("below partitions");
        dealt.partitions[lane].push(RowRef { version: Version::from_bytes(version), row });
    }
    for lane in &mut dealt.partitions {
        lane.sort_unstable();
    }
    if entity.kind != Kind::Event {
        let keys = keycode::encode(&columns[..entity.key_len()])?;
        for lane in &mut dealt.partitions {
            dealt.coalesced += coalesce(lane, &keys);
        }
    }
    Ok(dealt)
}

/// Leaves the newest row per key, and says how many went.
fn coalesce(lane: &mut Vec<RowRef>, keys: &Rows) -> u64 {
    let before = lane.len();
    let mut newest = HashMap::with_capacity_and_hasher(before, Xxh3DefaultBuilder::new());
    for row in lane.iter() {
        newest.insert(keys.row(row.row), row.row);
    }
    if newest.len() < before {
        lane.retain(|row| newest[keys.row(row.row)] == row.row);
    }
    (before - lane.len()) as u64
}

/// Checks the rows of a full load.
///
/// # Errors
/// [`SinkError::Shape`] as for those of [`join`].
pub(super) fn check_image(entity: &Entity, rows: &RecordBatch) -> Result<(), SinkError> {
    check(entity, &entity.delta_schema(), rows, &[delta::UPSERT, delta::KEEP])
}

/// Refuses rows of another shape before anything indexes into them.
fn check(entity: &Entity, wanted: &SchemaRef, rows: &RecordBatch, operations: &[u8]) -> Result<(), SinkError> {
    let found = rows.schema_ref();
    let fault = |reason| Err(SinkError::Shape { entity: entity.name.clone(), reason });
    if wanted.fields().len() != found.fields().len() {
        return fault(format!("wanted {} columns, found {}", wanted.fields().len(), found.fields().len()));
    }
    for (wanted, found) in wanted.fields().iter().zip(found.fields()) {
        if wanted.name() != found.name() || wanted.data_type() != found.data_type() {
            return fault(format!(
                "wanted column {} {}, found {} {}",
                wanted.name(),
                wanted.data_type(),
                found.name(),
                found.data_type()
            ));
        }
    }
    let never_null = SYSTEM_COLUMNS + entity.key_len();
    if let Some(at) = rows.columns()[..never_null].iter().position(|column| column.null_count() > 0) {
        return fault(format!("column {} holds a null", found.field(at).name()));
    }
    let ops = rows.column(0).as_primitive::<UInt8Type>().values();
    match ops.iter().find(|op| !operations.contains(op)) {
        Some(op) => fault(format!("no operation is {op}")),
        None => Ok(()),
    }
}
