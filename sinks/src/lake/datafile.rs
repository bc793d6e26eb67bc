//! One Parquet file of a table: written as a stream, described to Delta by its own statistics.
//!
//! Files of current tables carry their key range in the footer (`syncline.key_min`, `syncline.key_max`: hex of the
//! keycode bytes, and `syncline.key`: the key's columns), which makes them leaves of the table's tree. The footer and
//! not the log holds it, because a file is then self-contained whatever another writer does to the log.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use deltalake_core::kernel::Add;
use object_store::ObjectStore;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use parquet::arrow::AsyncArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::{KeyValue, ParquetMetaData};
use parquet::file::properties::WriterProperties;
use uuid::Uuid;

use super::{fault, stats};
use crate::SinkError;

/// Bytes of one part of an upload: above the 5 MiB that S3 demands, small enough to hold two.
const PART_BYTES: usize = 6 * 1024 * 1024;

/// Rows given to the writer at once: it makes an object on the heap of each decimal of what it is given.
const WRITE_ROWS: usize = 4 * 1024;

const KEY: &str = "syncline.key";
const KEY_MIN: &str = "syncline.key_min";
const KEY_MAX: &str = "syncline.key_max";

/// The first and last key of a file, as keycode bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyRange {
    pub(super) min: Vec<u8>,
    pub(super) max: Vec<u8>,
}

impl KeyRange {
    /// Reads the range from a footer; `None` in a file of another writer or with another key.
    pub(super) fn from_footer(metadata: &ParquetMetaData, schema: &SchemaRef, key_len: usize) -> Option<Self> {
        let entries = metadata.file_metadata().key_value_metadata()?;
        let value = |name: &str| entries.iter().find(|entry| entry.key == name)?.value.as_deref();
        if value(KEY)? != key_names(schema, key_len) {
            return None;
        }
        Some(Self { min: unhex(value(KEY_MIN)?)?, max: unhex(value(KEY_MAX)?)? })
    }

    fn to_footer(&self, schema: &SchemaRef, key_len: usize) -> [KeyValue; 3] {
        [
            KeyValue::new(KEY.to_owned(), key_names(schema, key_len)),
            KeyValue::new(KEY_MIN.to_owned(), hex(&self.min)),
            KeyValue::new(KEY_MAX.to_owned(), hex(&self.max)),
        ]
    }
}

fn key_names(schema: &SchemaRef, key_len: usize) -> String {
    let names: Vec<_> = schema.fields()[..key_len].iter().map(|field| field.name().as_str()).collect();
    names.join(",")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

/// A finished file, not yet part of its table.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) add: Add,
    pub(super) range: Option<KeyRange>,
}

/// A file being written.
pub(super) struct DataFile {
    target: String,
    path: String,
    schema: SchemaRef,
    writer: AsyncArrowWriter<BufWriter>,
    rows: usize,
}

impl DataFile {
    /// Begins a file in a table's folder; `target` is the table's URL, for messages.
    pub(super) fn create(
        target: &str,
        files: &Arc<dyn ObjectStore>,
        schema: &SchemaRef,
        group_rows: usize,
    ) -> Result<Self, SinkError> {
        Self::create_as("part", target, files, schema, group_rows)
    }

    /// The same with a word that its name begins with.
    pub(super) fn create_as(
        word: &str,
        target: &str,
        files: &Arc<dyn ObjectStore>,
        schema: &SchemaRef,
        group_rows: usize,
    ) -> Result<Self, SinkError> {
        let path = format!("{word}-{}.zstd.parquet", Uuid::new_v4());
        let level = ZstdLevel::try_new(1).map_err(|error| fault::parquet(target, "set up zstd", &error))?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(level))
            .set_max_row_group_row_count(Some(group_rows))
            .set_created_by(concat!("syncline ", env!("CARGO_PKG_VERSION")).to_owned())
            .build();
        let upload =
            BufWriter::with_capacity(Arc::clone(files), Path::from(path.as_str()), PART_BYTES).with_max_concurrency(2);
        let writer = AsyncArrowWriter::try_new(upload, Arc::clone(schema), Some(properties))
            .map_err(|error| fault::parquet(target, &format!("begin {path}"), &error))?;
        Ok(Self { target: target.to_owned(), path, schema: Arc::clone(schema), writer, rows: 0 })
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes held in memory.
    pub(super) fn bytes(&self) -> usize {
        self.writer.memory_size()
    }

    pub(super) async fn write(&mut self, batch: &RecordBatch) -> Result<(), SinkError> {
        let rows = batch.num_rows();
        for from in (0..rows).step_by(WRITE_ROWS) {
            let part = batch.slice(from, WRITE_ROWS.min(rows - from));
            let written = self.writer.write(&part).await;
            written.map_err(|error| fault::parquet(&self.target, &format!("write {}", self.path), &error))?;
        }
        self.rows += rows;
        Ok(())
    }

    /// Ends the row group, which frees its memory.
    pub(super) async fn end_group(&mut self) -> Result<(), SinkError> {
        let ended = self.writer.flush().await;
        ended.map_err(|error| fault::parquet(&self.target, &format!("write {}", self.path), &error))
    }

    /// Makes the file durable; with a key range it is a leaf.
    pub(super) async fn finish(mut self, leaf: Option<(KeyRange, usize)>) -> Result<Written, SinkError> {
        if let Some((range, key_len)) = &leaf {
            for entry in range.to_footer(&self.schema, *key_len) {
                self.writer.append_key_value_metadata(entry);
            }
        }
        let footer = self.writer.finish().await;
        let footer = footer.map_err(|error| fault::parquet(&self.target, &format!("finish {}", self.path), &error))?;
        let size = i64::try_from(self.writer.bytes_written()).expect("files are far below 8 EiB");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let add = Add {
            path: self.path,
            partition_values: HashMap::new(),
            size,
            modification_time: i64::try_from(now.as_millis()).unwrap_or(i64::MAX),
            data_change: true,
            stats: Some(stats::json(&footer, &self.schema)),
            tags: None,
            deletion_vector: None,
            base_row_id: None,
            default_row_commit_version: None,
            clustering_provider: None,
        };
        Ok(Written { add, range: leaf.map(|(range, _)| range) })
    }
}
