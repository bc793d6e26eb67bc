//! A current table as a B-tree whose leaves are its Parquet files.
//!
//! Files hold disjoint key ranges in key order, so a changed key concerns exactly one of them. Files that other writers
//! left, or whose ranges overlap, are gathered into one leaf and sorted again when a change falls into it: correct,
//! and from then on fast.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, new_null_array};
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path;
use parquet::arrow::ProjectionMask;
use parquet::arrow::async_reader::ParquetRecordBatchStreamBuilder;

use super::datafile::KeyRange;
use super::fault;
use super::reader::StoredFile;
use super::runs::{BATCH_ROWS, Keyed};
use super::table::{Table, TableFile};
use crate::SinkError;

/// How many footers are read at once after a start.
const FOOTERS_AT_ONCE: usize = 16;

/// The files of one stretch of keys.
#[derive(Debug, Clone)]
pub(super) struct Leaf {
    pub(super) range: KeyRange,
    pub(super) files: Vec<TableFile>,
    /// True where there is one file and it is sorted.
    pub(super) sorted: bool,
}

impl Leaf {
    pub(super) fn rows(&self) -> usize {
        self.files.iter().filter_map(|file| file.rows).sum()
    }
}

type Reader = ParquetRecordBatchStreamBuilder<StoredFile>;

async fn open(table: &Table, file: &TableFile) -> Result<Reader, SinkError> {
    let path = Path::parse(&file.path).map_err(|error| SinkError::Refused {
        target: table.url.clone(),
        reason: format!("{:?} is no path: {error}", file.path),
        remedy: "remove the file from the table".to_owned(),
    })?;
    let reader = StoredFile { files: table.files_store(), path, size: file.size };
    ParquetRecordBatchStreamBuilder::new(reader)
        .await
        .map_err(|error| fault::parquet(&table.url, &format!("read {}", file.path), &error))
}

/// The rows of a file, with null for columns that it was written without.
pub(super) async fn rows<'t>(
    table: &'t Table,
    file: &'t TableFile,
) -> Result<BoxStream<'t, Result<RecordBatch, SinkError>>, SinkError> {
    let stream = open(table, file).await?.with_batch_size(BATCH_ROWS).build();
    let stream = stream.map_err(|error| fault::parquet(&table.url, &format!("read {}", file.path), &error))?;
    Ok(stream
        .map(move |batch| {
            let batch = batch.map_err(|error| fault::parquet(&table.url, &format!("read {}", file.path), &error))?;
            conform(table, file, &batch)
        })
        .boxed())
}

fn conform(table: &Table, file: &TableFile, batch: &RecordBatch) -> Result<RecordBatch, SinkError> {
    let schema = &table.shape.schema;
    let columns: Vec<ArrayRef> = schema
        .fields()
        .iter()
        .map(|field| match batch.column_by_name(field.name()) {
            Some(column) if column.data_type() == field.data_type() => Ok(Arc::clone(column)),
            Some(column) => arrow::compute::cast(column, field.data_type()).map_err(SinkError::from),
            None => Ok(new_null_array(field.data_type(), batch.num_rows())),
        })
        .collect::<Result<_, SinkError>>()?;
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(|error| SinkError::Refused {
        target: table.url.clone(),
        reason: format!("{} does not have the table's columns: {error}", file.path),
        remedy: "rewrite the file, or move the table elsewhere and replay".to_owned(),
    })
}

/// The key range of a file: from its footer, or else from its keys. The flag tells which: only our own files are sorted.
async fn range(table: &Table, file: &TableFile) -> Result<Option<(KeyRange, bool)>, SinkError> {
    let reader = open(table, file).await?;
    let key_len = table.shape.key_len;
    if let Some(range) = KeyRange::from_footer(reader.metadata(), &table.shape.schema, key_len) {
        return Ok(Some((range, true)));
    }
    let key = table.shape.schema.fields()[..key_len].iter().map(|field| field.name().as_str());
    let mask = ProjectionMask::columns(reader.parquet_schema(), key);
    let stream = reader.with_projection(mask).with_batch_size(BATCH_ROWS).build();
    let failed = |error| fault::parquet(&table.url, &format!("read the keys of {}", file.path), &error);
    let mut stream = stream.map_err(failed)?;
    let mut range: Option<KeyRange> = None;
    let columns: Vec<usize> = (0..key_len).collect();
    while let Some(batch) = stream.try_next().await.map_err(failed)? {
        let keys = Keyed::new(conform_key(table, &batch)?, &columns)?.keys;
        for row in 0..keys.len() {
            let key = keys.row(row);
            let range = range.get_or_insert_with(|| KeyRange { min: key.to_vec(), max: key.to_vec() });
            if key < range.min.as_slice() {
                range.min = key.to_vec();
            } else if key > range.max.as_slice() {
                range.max = key.to_vec();
            }
        }
    }
    Ok(range.map(|range| (range, false)))
}

fn conform_key(table: &Table, batch: &RecordBatch) -> Result<RecordBatch, SinkError> {
    let schema = Arc::new(table.shape.schema.project(&(0..table.shape.key_len).collect::<Vec<_>>())?);
    let columns = schema
        .fields()
        .iter()
        .map(|field| {
            let column = batch.column_by_name(field.name()).ok_or_else(|| SinkError::Refused {
                target: table.url.clone(),
                reason: format!("a file has no column {}", field.name()),
                remedy: "remove the file from the table".to_owned(),
            })?;
            arrow::compute::cast(column, field.data_type()).map_err(SinkError::from)
        })
        .collect::<Result<_, SinkError>>()?;
    RecordBatch::try_new(schema, columns).map_err(SinkError::from)
}

/// A file's path and, where it has rows, their range and whether the file is ours.
type Known = (String, Option<(KeyRange, bool)>);

/// The leaves of a table in key order. Files without rows are left where they are.
pub(super) async fn leaves(table: &mut Table) -> Result<Vec<Leaf>, SinkError> {
    let files = table.files()?;
    let shared = &*table;
    let unknown: Vec<&TableFile> = files.iter().filter(|file| !shared.ranges.contains_key(&file.path)).collect();
    let reads: Vec<BoxFuture<'_, Result<Known, SinkError>>> = unknown
        .into_iter()
        .map(|file| async move { Ok((file.path.clone(), range(shared, file).await?)) }.boxed())
        .collect();
    let found: Vec<Known> = futures::stream::iter(reads).buffer_unordered(FOOTERS_AT_ONCE).try_collect().await?;
    let mut foreign = Vec::new();
    let mut ours = Vec::new();
    for (path, range) in found {
        match range {
            Some((range, true)) => ours.push((path, range)),
            Some((range, false)) => foreign.push((path, range)),
            None => {}
        }
    }
    table.ranges.extend(ours);
    let living: HashSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    table.ranges.retain(|path, _| living.contains(path.as_str()));
    let mut leaves: Vec<Leaf> = Vec::with_capacity(files.len());
    for file in files {
        if let Some(range) = table.ranges.get(&file.path) {
            leaves.push(Leaf { range: range.clone(), files: vec![file], sorted: true });
        } else if let Some((_, range)) = foreign.iter().find(|(path, _)| *path == file.path) {
            leaves.push(Leaf { range: range.clone(), files: vec![file], sorted: false });
        }
    }
    Ok(gather(leaves))
}

/// Joins leaves whose ranges overlap.
fn gather(mut leaves: Vec<Leaf>) -> Vec<Leaf> {
    leaves.sort_by(|left, right| left.range.min.cmp(&right.range.min));
    let mut gathered: Vec<Leaf> = Vec::with_capacity(leaves.len());
    for leaf in leaves {
        match gathered.last_mut() {
            Some(last) if leaf.range.min <= last.range.max => {
                last.sorted = false;
                last.files.extend(leaf.files);
                if leaf.range.max > last.range.max {
                    last.range.max = leaf.range.max;
                }
            }
            _ => gathered.push(leaf),
        }
    }
    for leaf in &mut gathered {
        // Of one key in two files the newer file wins.
        leaf.files.sort_by_key(|file| file.modified);
    }
    gathered
}
