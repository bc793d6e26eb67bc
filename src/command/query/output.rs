//! An answer as a table for people, or as a file for programs: row by row, whatever its size.
//!
//! A file is there once it is whole: it is written beside its place and then put there.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::util::display::FormatOptions;
use arrow::util::pretty::pretty_format_batches_with_options;
use arrow::{csv, json};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::basic::{Compression, ZstdLevel};
use datafusion::parquet::file::properties::WriterProperties;
use futures::StreamExt;

use crate::cli::QueryFormat;
use crate::command::CommandError;
use crate::command::rows::printable;
use crate::figures::grouped;

/// Rows of a table for people.
const SHOWN: usize = 1_000;

/// How an answer looks.
pub(super) type Format = QueryFormat;

impl Format {
    /// As asked for, or as the file's name says; for people where neither does.
    pub(super) fn wanted(format: Option<Self>, file: Option<&Path>) -> Result<Self, CommandError> {
        let ending = file.and_then(Path::extension).and_then(|ending| ending.to_str());
        match (format, file, ending) {
            (Some(Self::Parquet), None, _) => {
                Err(CommandError::Usage("Parquet is written into a file: say which with --output".to_owned()))
            }
            (Some(format), ..) => Ok(format),
            (None, None, _) => Ok(Self::Table),
            (None, _, Some("csv")) => Ok(Self::Csv),
            (None, _, Some("json")) => Ok(Self::Json),
            (None, _, Some("ndjson" | "jsonl")) => Ok(Self::Ndjson),
            (None, _, Some("parquet")) => Ok(Self::Parquet),
            (None, Some(file), _) => {
                let file = file.display();
                Err(CommandError::Usage(format!("the name {file} does not say what to write: say it with --format")))
            }
        }
    }
}

/// Writes an answer to standard output, or into a file.
pub(super) async fn write(
    rows: SendableRecordBatchStream,
    format: Format,
    file: Option<&Path>,
) -> Result<(), CommandError> {
    let gone = AtomicBool::new(false);
    let Some(file) = file else { return drain(rows, format, Reader { gone: &gone }, &gone).await.map(drop) };
    let part = beside(file);
    let cannot = |error: io::Error| CommandError::Usage(format!("cannot write {}: {error}", file.display()));
    let written = match File::create(&part) {
        Ok(made) => drain(rows, format, made, &gone).await,
        Err(error) => return Err(cannot(error)),
    };
    let placed = written.and_then(|made| made.sync_all().and_then(|()| fs::rename(&part, file)).map_err(cannot));
    if placed.is_err() {
        // What is left of it is of no use to anyone.
        let _ = fs::remove_file(&part);
    }
    placed
}

fn beside(file: &Path) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    file.with_file_name(name)
}

/// Standard output, until whoever reads has seen enough.
struct Reader<'g> {
    gone: &'g AtomicBool,
}

impl Reader<'_> {
    /// What nobody takes any more is not an error.
    fn seen<T>(&self, done: io::Result<T>, otherwise: T) -> io::Result<T> {
        match done {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.gone.store(true, Ordering::Relaxed);
                Ok(otherwise)
            }
            done => done,
        }
    }
}

impl Write for Reader<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.gone.load(Ordering::Relaxed) {
            return Ok(bytes.len());
        }
        self.seen(io::stdout().write(bytes), bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.seen(io::stdout().flush(), ())
    }
}

/// Takes batches one after the other.
enum Writer<W: Write + Send> {
    Table { out: W, schema: SchemaRef, batches: Vec<RecordBatch>, rows: usize },
    Csv(Box<csv::Writer<W>>),
    Json(json::ArrayWriter<W>),
    Ndjson(json::LineDelimitedWriter<W>),
    Parquet(Box<ArrowWriter<W>>),
}

impl<W: Write + Send> Writer<W> {
    fn new(format: Format, schema: SchemaRef, out: W) -> Result<Self, CommandError> {
        let nulls = json::WriterBuilder::new().with_explicit_nulls(true);
        Ok(match format {
            Format::Table => Self::Table { out, schema, batches: Vec::new(), rows: 0 },
            Format::Csv => {
                let mut writer = csv::WriterBuilder::new().with_header(true).build(out);
                // Without it an answer without rows would lack its header.
                writer.write(&RecordBatch::new_empty(schema)).map_err(failed)?;
                Self::Csv(Box::new(writer))
            }
            Format::Json => Self::Json(nulls.build(out)),
            Format::Ndjson => Self::Ndjson(nulls.build(out)),
            Format::Parquet => {
                let zstd = Compression::ZSTD(ZstdLevel::default());
                let properties = WriterProperties::builder().set_compression(zstd).build();
                Self::Parquet(Box::new(ArrowWriter::try_new(out, schema, Some(properties)).map_err(failed)?))
            }
        })
    }

    /// False once no more is wanted.
    fn write(&mut self, batch: &RecordBatch) -> Result<bool, CommandError> {
        match self {
            Self::Table { batches, rows, .. } => {
                let room = (SHOWN + 1).saturating_sub(*rows).min(batch.num_rows());
                batches.push(batch.slice(0, room));
                *rows += room;
                Ok(*rows <= SHOWN)
            }
            Self::Csv(writer) => writer.write(batch).map(|()| true).map_err(failed),
            Self::Json(writer) => writer.write(batch).map(|()| true).map_err(failed),
            Self::Ndjson(writer) => writer.write(batch).map(|()| true).map_err(failed),
            Self::Parquet(writer) => writer.write(batch).map(|()| true).map_err(failed),
        }
    }

    fn finish(self) -> Result<W, CommandError> {
        match self {
            Self::Table { mut out, schema, batches, rows } => {
                out.write_all(printable(&table(schema, batches, rows)?).as_bytes())?;
                Ok(out)
            }
            Self::Csv(writer) => Ok(writer.into_inner()),
            Self::Json(mut writer) => {
                writer.finish().map_err(failed)?;
                let mut out = writer.into_inner();
                out.write_all(b"\n")?;
                Ok(out)
            }
            Self::Ndjson(mut writer) => {
                writer.finish().map_err(failed)?;
                Ok(writer.into_inner())
            }
            Self::Parquet(writer) => writer.into_inner().map_err(failed),
        }
    }
}

fn failed(error: impl std::fmt::Display) -> CommandError {
    CommandError::Usage(format!("cannot write the answer: {error}"))
}

async fn drain<W: Write + Send>(
    mut rows: SendableRecordBatchStream,
    format: Format,
    out: W,
    gone: &AtomicBool,
) -> Result<W, CommandError> {
    let mut writer = Writer::new(format, rows.schema(), out)?;
    while let Some(batch) = rows.next().await {
        if !writer.write(&batch?)? || gone.load(Ordering::Relaxed) {
            break;
        }
    }
    let mut out = writer.finish()?;
    out.flush()?;
    Ok(out)
}

/// The first rows and how many there are.
fn table(schema: SchemaRef, mut batches: Vec<RecordBatch>, rows: usize) -> Result<String, CommandError> {
    if let Some(last) = batches.pop() {
        let beyond = rows.saturating_sub(SHOWN);
        batches.push(last.slice(0, last.num_rows() - beyond));
    }
    batches.insert(0, RecordBatch::new_empty(schema));
    let text = pretty_format_batches_with_options(&batches, &FormatOptions::new()).map_err(failed)?;
    let count = match rows {
        1 => "1 row".to_owned(),
        rows if rows > SHOWN => format!(
            "the first {} rows; --format csv, json or ndjson prints all of them, --output FILE writes them",
            grouped(SHOWN as u64)
        ),
        rows => format!("{} rows", grouped(rows as u64)),
    };
    Ok(format!("{text}\n({count})\n"))
}
