//! One dropped file: written as it comes, put into its place when it is whole, with the totals of what it holds.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use object_store::buffered::BufWriter;
use object_store::path::Path;
use parquet::arrow::AsyncArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::definition::Member;
use super::expr::{Column, Kind};
use super::file_drop::Format;
use super::sheet::{Row, Sheet};
use crate::SinkError;
use crate::lake::fault;
use crate::lake::store::Place;

/// Bytes of one part of an upload: above the 5 MiB that S3 demands.
const PART_BYTES: usize = 6 << 20;
/// Rows of a Parquet row group: what writing and reading hold in memory.
const GROUP_ROWS: usize = 64 << 10;
/// Bytes of text that are gathered before they are written.
const TEXT_BYTES: usize = 256 << 10;
/// Digits of a total.
const SUM_DIGITS: u8 = 38;

/// What a file holds, for its manifest.
#[derive(Debug, Default, Serialize)]
pub(super) struct Totals {
    pub(super) flow: String,
    pub(super) path: String,
    /// Rows that are there, and rows that are gone.
    pub(super) upserts: u64,
    pub(super) deletes: u64,
    pub(super) bytes: u64,
    pub(super) sha256: String,
    pub(super) first_version: String,
    pub(super) last_version: String,
    /// The sum of each number over all rows that are there, exact; without those that have more than 38 digits.
    pub(super) sums: BTreeMap<String, String>,
}

/// What went into a file.
#[derive(Default)]
struct Count {
    sha256: Sha256,
    bytes: u64,
}

/// A file on its way that counts what goes into it.
struct Counted {
    file: BufWriter,
    count: Arc<Mutex<Count>>,
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.file).poll_write(context, bytes);
        if let Poll::Ready(Ok(length)) = written {
            let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
            count.sha256.update(&bytes[..length]);
            count.bytes += length as u64;
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.file).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.file).poll_shutdown(context)
    }
}

enum Output {
    Csv(Box<Counted>),
    Parquet(Box<AsyncArrowWriter<Counted>>, SchemaRef),
}

/// A file that is being written.
pub(super) struct DropFile {
    target: String,
    output: Output,
    count: Arc<Mutex<Count>>,
    totals: Totals,
    /// By member: the sum so far, none after it has become too large.
    sums: BTreeMap<String, (Option<i128>, u8)>,
    begun: bool,
}

impl DropFile {
    pub(super) fn create(place: &Place, path: String, sheet: &Sheet<'_>, format: Format) -> Result<Self, SinkError> {
        let count = Arc::<Mutex<Count>>::default();
        let file = BufWriter::with_capacity(place.files(), Path::from(path.as_str()), PART_BYTES);
        let counted = Counted { file, count: Arc::clone(&count) };
        let output = match format {
            Format::Csv => Output::Csv(Box::new(counted)),
            Format::Parquet => {
                let schema = schema(&sheet.flow.members);
                let properties = WriterProperties::builder()
                    .set_compression(Compression::SNAPPY)
                    .set_max_row_group_row_count(Some(GROUP_ROWS))
                    .build();
                let writer = AsyncArrowWriter::try_new(counted, Arc::clone(&schema), Some(properties))
                    .map_err(|error| fault::parquet(place.target(), &format!("begin {path}"), &error))?;
                Output::Parquet(Box::new(writer), schema)
            }
        };
        let totals = Totals { flow: sheet.entity.name.clone(), path, ..Totals::default() };
        let target = place.target().to_owned();
        Ok(Self { target, output, count, totals, sums: BTreeMap::new(), begun: false })
    }

    /// Appends rows, which are in version order.
    pub(super) async fn write(&mut self, sheet: &Sheet<'_>, rows: &[Row]) -> Result<(), SinkError> {
        self.add_up(sheet, rows);
        let doing = format!("write {}", self.totals.path);
        match &mut self.output {
            Output::Csv(file) => {
                let mut text = String::new();
                if !std::mem::replace(&mut self.begun, true) {
                    put_names(&sheet.flow.members, &mut text);
                }
                for row in rows {
                    put_line(sheet, row, &mut text);
                    if text.len() >= TEXT_BYTES {
                        file.write_all(text.as_bytes()).await.map_err(|error| failed(&self.target, &doing, error))?;
                        text.clear();
                    }
                }
                file.write_all(text.as_bytes()).await.map_err(|error| failed(&self.target, &doing, error))
            }
            Output::Parquet(writer, schema) => {
                let batch = arrays(sheet, rows, schema)?;
                writer.write(&batch).await.map_err(|error| fault::parquet(&self.target, &doing, &error))
            }
        }
    }

    fn add_up(&mut self, sheet: &Sheet<'_>, rows: &[Row]) {
        let totals = &mut self.totals;
        if let (Some(first), Some(last)) = (rows.first(), rows.last()) {
            if totals.first_version.is_empty() {
                totals.first_version = first.version.to_string();
            }
            totals.last_version = last.version.to_string();
        }
        let there: Vec<&Row> = rows.iter().filter(|row| !row.deleted).collect();
        totals.upserts += there.len() as u64;
        totals.deletes += (rows.len() - there.len()) as u64;
        for (member, column) in sheet.flow.members.iter().zip(&sheet.columns) {
            let (scale, value): (u8, Box<dyn Fn(usize) -> Option<i128>>) = match column {
                Column::Decimal(cells, scale) => (*scale, Box::new(|at| cells[at].ok().flatten())),
                Column::Integer(cells) => (0, Box::new(|at| cells[at].ok().flatten().map(i128::from))),
                _ => continue,
            };
            let (sum, _) = self.sums.entry(member.name.clone()).or_insert((Some(0), scale));
            for value in there.iter().filter_map(|row| value(row.at)) {
                *sum = sum.and_then(|sum| sum.checked_add(value));
            }
        }
    }

    /// Puts the file into its place, durably; says what is in it.
    pub(super) async fn finish(self) -> Result<Totals, SinkError> {
        let Self { target, output, count, mut totals, sums, .. } = self;
        let doing = format!("finish {}", totals.path);
        match output {
            Output::Csv(mut file) => file.shutdown().await.map_err(|error| failed(&target, &doing, error))?,
            Output::Parquet(writer, _) => {
                writer.close().await.map_err(|error| fault::parquet(&target, &doing, &error))?;
            }
        }
        let count = std::mem::take(&mut *count.lock().unwrap_or_else(PoisonError::into_inner));
        totals.bytes = count.bytes;
        totals.sha256 = count.sha256.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let limit = 10_u128.pow(u32::from(SUM_DIGITS));
        for (name, (sum, scale)) in sums {
            if let Some(sum) = sum.filter(|sum| sum.unsigned_abs() < limit) {
                let sum = Column::Decimal(vec![Ok(Some(sum))], scale);
                totals.sums.insert(name, sum.text(0).unwrap_or_default().into_owned());
            }
        }
        Ok(totals)
    }
}

fn failed(target: &str, doing: &str, error: io::Error) -> SinkError {
    // What a store says lies inside.
    match error.downcast::<object_store::Error>() {
        Ok(error) => fault::store(target, doing, &error),
        Err(error) => SinkError::Unavailable { target: target.to_owned(), reason: format!("{doing}: {error}") },
    }
}

fn put_names(members: &[Member], text: &mut String) {
    text.push_str("_op,_version");
    for member in members {
        text.push(',');
        put_cell(&member.name, text);
    }
    text.push_str("\r\n");
}

/// Nothing is empty, and a text that is empty is quoted: they stay apart.
fn put_line(sheet: &Sheet<'_>, row: &Row, text: &mut String) {
    text.push_str(if row.deleted { "delete," } else { "upsert," });
    text.push_str(&row.version.to_string());
    for (member, column) in sheet.columns.iter().enumerate() {
        text.push(',');
        if is_told(sheet, row, member)
            && let Some(value) = column.text(row.at)
        {
            put_cell(&value, text);
        }
    }
    text.push_str("\r\n");
}

fn put_cell(value: &str, text: &mut String) {
    if !value.is_empty() && !value.contains([',', '"', '\r', '\n']) {
        text.push_str(value);
        return;
    }
    text.push('"');
    text.push_str(&value.replace('"', "\"\""));
    text.push('"');
}

/// Of a deleted row only the key has values.
fn is_told(sheet: &Sheet<'_>, row: &Row, member: usize) -> bool {
    !row.deleted || sheet.flow.key.contains(&member)
}

fn schema(members: &[Member]) -> SchemaRef {
    let mut fields = vec![Field::new("_op", DataType::Utf8, false), Field::new("_version", DataType::Utf8, false)];
    fields.extend(members.iter().map(|member| {
        let kind = match member.kind {
            Kind::Text | Kind::Null => DataType::Utf8,
            Kind::Decimal(scale) => DataType::Decimal128(SUM_DIGITS, i8::try_from(scale).unwrap_or(i8::MAX)),
            Kind::Integer => DataType::Int64,
            Kind::Date => DataType::Date32,
            Kind::Instant => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Kind::Boolean => DataType::Boolean,
        };
        Field::new(&member.name, kind, true)
    }));
    Arc::new(Schema::new(fields))
}

fn arrays(sheet: &Sheet<'_>, rows: &[Row], schema: &SchemaRef) -> Result<RecordBatch, SinkError> {
    let ops = rows.iter().map(|row| if row.deleted { "delete" } else { "upsert" });
    let versions = rows.iter().map(|row| row.version.to_string());
    let mut columns: Vec<ArrayRef> =
        vec![Arc::new(StringArray::from_iter_values(ops)), Arc::new(StringArray::from_iter_values(versions))];
    for (member, column) in sheet.columns.iter().enumerate() {
        let told = || rows.iter().map(|row| is_told(sheet, row, member).then_some(row.at));
        columns.push(match column {
            Column::Text(cells) => {
                let text = |at: usize| cells[at].as_ref().ok()?.as_deref();
                Arc::new(StringArray::from_iter(told().map(|at| at.and_then(text))))
            }
            Column::Decimal(cells, scale) => {
                let values = Decimal128Array::from_iter(told().map(|at| cells[at?].ok()?));
                let scale = i8::try_from(*scale).unwrap_or(i8::MAX);
                Arc::new(values.with_precision_and_scale(SUM_DIGITS, scale)?)
            }
            Column::Integer(cells) => Arc::new(Int64Array::from_iter(told().map(|at| cells[at?].ok()?))),
            Column::Date(cells) => Arc::new(Date32Array::from_iter(told().map(|at| cells[at?].ok()?))),
            Column::Instant(cells) => {
                let values = TimestampMicrosecondArray::from_iter(told().map(|at| cells[at?].ok()?));
                Arc::new(values.with_timezone("UTC"))
            }
            Column::Boolean(cells) => Arc::new(BooleanArray::from_iter(told().map(|at| cells[at?].ok()?))),
        });
    }
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}
