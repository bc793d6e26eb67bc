//! From changed rows to the delta batch of an outbox entry: versions, lineage, stamps.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, FixedSizeBinaryBuilder, Int64Array, RecordBatch, StringArray, StringBuilder,
    TimestampMicrosecondArray, UInt8Array, new_null_array,
};
use arrow::datatypes::{DataType, TimestampMicrosecondType, UInt32Type};
use syncline_schemas::delta::{self, DeltaBatch};
use syncline_schemas::entity::Entity;
use syncline_schemas::frame::{COMMIT_TS, POS};
use syncline_schemas::ident::{LogOffset, Version};
use syncline_schemas::rowcode;
use syncline_schemas::table::instant;

use super::changes::{Changes, column};
use crate::TransformError;

/// The source row whose change caused a version: table of the step, row of its batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lineage {
    pub(super) table: usize,
    pub(super) row: usize,
}

/// Changed rows of one entity.
pub(super) struct Emitted {
    /// All fields; of a deleted row only the key has values.
    pub(super) fields: Vec<ArrayRef>,
    /// True for an upsert, false for a delete.
    pub(super) upserts: Vec<bool>,
    pub(super) lineage: Vec<Lineage>,
}

/// What all deltas of a step share.
pub(super) struct Origin<'a> {
    pub(super) epoch: u32,
    pub(super) offset: LogOffset,
    pub(super) source: &'a str,
    pub(super) captured_at: i64,
    pub(super) tables: &'a [Changes<'a>],
}

/// Types of an entity's key fields and of its other fields.
pub(super) fn field_types(entity: &Entity) -> (Vec<DataType>, Vec<DataType>) {
    let mut keys: Vec<DataType> = entity.fields.iter().map(|field| field.field_type.arrow()).collect();
    let rest = keys.split_off(entity.key_len());
    (keys, rest)
}

/// The bytes of a row without values, beside a deleted key.
pub(super) fn null_row(entity: &Entity) -> Result<Vec<u8>, TransformError> {
    let (_, types) = field_types(entity);
    let nulls: Vec<ArrayRef> = types.iter().map(|data_type| new_null_array(data_type, 1)).collect();
    Ok(rowcode::encode(&nulls)?.row(0).to_vec())
}

/// Builds the delta batch; rows are numbered from `first_row`.
pub(super) fn delta_batch(
    entity: &Entity,
    emitted: Emitted,
    origin: &Origin<'_>,
    first_row: u32,
) -> Result<DeltaBatch, TransformError> {
    let Emitted { mut fields, upserts, lineage } = emitted;
    let len = upserts.len();
    let operations: UInt8Array =
        upserts.iter().map(|&upsert| Some(if upsert { delta::UPSERT } else { delta::DELETE })).collect();
    let mut versions = FixedSizeBinaryBuilder::with_capacity(len, 16);
    for row in 0..u32::try_from(len).expect("a step emits fewer rows than u32") {
        versions.append_value(Version::new(origin.epoch, origin.offset, first_row + row).as_bytes())?;
    }
    let tables: Vec<String> = origin.tables.iter().map(|table| table.batch.table.to_string()).collect();
    let source_tables: StringArray = lineage.iter().map(|from| Some(tables[from.table].as_str())).collect();
    let (positions, commits) = trace(&lineage, origin.tables)?;
    for (field, column) in entity.fields.iter().zip(&mut fields) {
        if field.stamp {
            let stamps: TimestampMicrosecondArray =
                commits.values().iter().zip(&upserts).map(|(&at, &upsert)| upsert.then_some(at)).collect();
            *column = Arc::new(stamps.with_data_type(instant()));
        }
    }
    let captured = Int64Array::from(vec![origin.captured_at; len]).reinterpret_cast::<TimestampMicrosecondType>();
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(operations),
        Arc::new(versions.finish()),
        Arc::new(StringArray::from_iter_values(std::iter::repeat_n(origin.source, len))),
        Arc::new(source_tables),
        Arc::new(positions),
        Arc::new(commits.with_data_type(instant())),
        Arc::new(captured.with_data_type(instant())),
    ];
    columns.extend(fields);
    let rows = RecordBatch::try_new(entity.delta_schema(), columns)?;
    Ok(DeltaBatch { entity: entity.name.clone(), rows })
}

/// Commit position and commit time of the rows that caused the deltas.
fn trace(
    lineage: &[Lineage],
    tables: &[Changes<'_>],
) -> Result<(StringArray, TimestampMicrosecondArray), TransformError> {
    let columns = tables
        .iter()
        .map(|table| {
            let dictionary = column(table.batch, POS)?.as_dictionary::<UInt32Type>();
            let commits = column(table.batch, COMMIT_TS)?.as_primitive::<TimestampMicrosecondType>();
            Ok((dictionary, dictionary.values().as_string::<i32>(), commits))
        })
        .collect::<Result<Vec<_>, TransformError>>()?;
    let mut positions = StringBuilder::new();
    let mut commits = Vec::with_capacity(lineage.len());
    for from in lineage {
        let (dictionary, texts, times) = &columns[from.table];
        positions.append_value(texts.value(dictionary.key(from.row).unwrap_or_default()));
        commits.push(times.value(from.row));
    }
    Ok((positions.finish(), TimestampMicrosecondArray::from(commits)))
}
