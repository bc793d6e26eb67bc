//! The lake alone: from deltas to committed tables, in rows a second, bytes written for each byte that changed, peak memory; then
//! Python's deltalake on the same rows.
//!
//! `benches/lake 1000000` fills `inventory_balance` with so many keys in one flush, which is an append, and then has flushes touch
//! 1 % and 10 % of them: spread over all keys, which is the worst that a table of sorted files can meet, and side by side, as one
//! branch or one supplier touches them. `history/` is filled on the way, as always, and counts. The deltas are made while they are
//! read; the first line says what that takes by itself. A byte that changed is one of the changed rows as compressed Arrow stream.
//!
//! The tables lie in a temporary folder; TMPDIR chooses the disk.

#![allow(unused_imports, reason = "a part of the daemon is compiled here, its tests without what marks them")]

#[path = "../src/usage.rs"]
mod usage;

use std::error::Error;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{
    ArrayRef, Decimal128Array, FixedSizeBinaryArray, RecordBatch, StringArray, TimestampMicrosecondArray, UInt8Array,
    new_null_array,
};
use arrow::datatypes::{DataType, Schema};
use arrow::ipc::CompressionType;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use syncline_schemas::delta::{self, DeltaBatch};
use syncline_schemas::entity;
use syncline_schemas::ident::{LogOffset, Version};
use syncline_sinks::lake::{LakeConfig, LakeSink};
use syncline_sinks::{DeltaSource, EntityPatterns, OutboxEntry, OutboxIter, Reject, Sink, SinkError, Span};

/// The daemon's own, so that memory is comparable.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

type Outcome<T> = Result<T, Box<dyn Error>>;

const ENTITY: &str = "inventory_balance";
/// Rows of an entry of the outbox.
const BATCH: u64 = 8_192;
const INSTANT: i64 = 1_790_000_000_000_000;

/// Some of the keys, in order.
#[derive(Clone, Copy)]
struct Keys {
    rows: u64,
    /// Every so many keys one.
    step: u64,
}

/// Keys as deltas; entry `n` behind the first offset holds one batch.
struct Source(Keys);

fn deltas(offset: LogOffset, keys: &[u64]) -> RecordBatch {
    let entity = entity::get(ENTITY).expect("a canonical entity");
    let versions = (0_u32..).zip(keys).map(|(row, _)| *Version::new(1, offset, row).as_bytes());
    let text = |value: &str| Arc::new(StringArray::from(vec![value; keys.len()])) as ArrayRef;
    let instant = |value: i64| {
        Arc::new(TimestampMicrosecondArray::from(vec![value; keys.len()]).with_timezone("UTC")) as ArrayRef
    };
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(UInt8Array::from(vec![delta::UPSERT; keys.len()])),
        Arc::new(FixedSizeBinaryArray::try_from_iter(versions).expect("16 bytes")),
        text("erp"),
        text("public.stock_quant"),
        text("0/16B3748"),
        instant(INSTANT),
        instant(INSTANT + 100_000),
    ];
    for (i, field) in entity.fields.iter().enumerate() {
        let data_type = field.field_type.arrow();
        columns.push(match (&data_type, i) {
            (_, 1) => Arc::new(StringArray::from_iter_values(keys.iter().map(|key| format!("SKU-{:07}", key / 40)))),
            (_, 2) => Arc::new(StringArray::from_iter_values(keys.iter().map(|key| format!("WH{:02}", key % 40)))),
            (DataType::Utf8, _) => text(if field.key { "" } else { "EUR" }),
            (DataType::Decimal128(precision, scale), _) => {
                let mixed = |key: &u64| i128::from(key.wrapping_mul(0x9e37_79b9).wrapping_add(offset.0) % 100_000);
                let values = Decimal128Array::from_iter_values(keys.iter().map(|key| mixed(key) * 1_000_000_000));
                Arc::new(values.with_precision_and_scale(*precision, *scale).expect("28 digits"))
            }
            (DataType::Timestamp(_, _), _) => instant(INSTANT),
            (other, _) => new_null_array(other, keys.len()),
        });
    }
    RecordBatch::try_new(entity.delta_schema(), columns).expect("the entity's columns")
}

impl DeltaSource for Source {
    fn read(&self, span: Span) -> Result<OutboxIter<'_>, SinkError> {
        let Keys { rows, step } = self.0;
        let entries = (span.after.0..span.upto.0).map(move |at| {
            let first = (at - span.after.0) * BATCH;
            let keys: Vec<u64> = (first..(first + BATCH).min(rows)).map(|i| i * step).collect();
            let offset = LogOffset(at + 1);
            Ok(OutboxEntry { offset, deltas: vec![DeltaBatch { entity: ENTITY.into(), rows: deltas(offset, &keys) }] })
        });
        Ok(Box::new(entries))
    }

    fn refused(&self, rejects: Vec<Reject>) -> Result<(), SinkError> {
        panic!("nothing here is to be refused: {rejects:?}");
    }
}

/// Writes the rows of a span for others; its size and how long making them took.
fn export(source: &Source, span: Span, file: &Path) -> Outcome<(u64, Duration)> {
    let schema = entity::get(ENTITY).expect("a canonical entity").delta_schema();
    let fields: Vec<usize> = (delta::SYSTEM_COLUMNS..schema.fields().len()).collect();
    let schema = Arc::new(Schema::new(schema.project(&fields)?.fields));
    let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::ZSTD))?;
    let mut writer = StreamWriter::try_new_with_options(File::create(file)?, &schema, options)?;
    let mut making = Duration::ZERO;
    let mut entries = source.read(span)?;
    loop {
        let begun = Instant::now();
        let Some(entry) = entries.next() else { break };
        making += begun.elapsed();
        for batch in entry?.deltas {
            writer.write(&batch.rows.project(&fields)?)?;
        }
    }
    writer.finish()?;
    Ok((std::fs::metadata(file)?.len(), making))
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Outcome<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let rows: u64 =
        std::env::args().skip(1).find(|it| !it.starts_with("--")).map_or(Ok(1_000_000), |rows| rows.parse())?;
    let folder = tempfile::tempdir()?;
    let url = reqwest::Url::from_directory_path(folder.path()).map_err(|()| "the folder has no URL")?;
    let mut config = LakeConfig::new(url.join("lake")?, "bench", folder.path().join("scratch"));
    config.entities = EntityPatterns::new([ENTITY])?;
    let mut sink = LakeSink::new(config)?;
    let mut after = LogOffset::START;
    println!("phase,rows,rows/s,written bytes,written per changed byte,peak MiB");
    for (name, keys) in [
        ("append", Keys { rows, step: 1 }),
        ("merge-1-spread", Keys { rows: rows / 100, step: 100 }),
        ("merge-1-near", Keys { rows: rows / 100, step: 1 }),
        ("merge-10-spread", Keys { rows: rows / 10, step: 10 }),
        ("merge-10-near", Keys { rows: rows / 10, step: 1 }),
    ] {
        let source = Source(keys);
        let span = Span { after, upto: LogOffset(after.0 + keys.rows.div_ceil(BATCH)) };
        let (changed, making) = export(&source, span, &folder.path().join(format!("{name}.arrows")))?;
        if name == "append" {
            println!("(making the rows of the append alone takes {:.2} s)", making.as_secs_f64());
        }
        let begun = Instant::now();
        let written = sink.write(span, &source).await?;
        let seconds = begun.elapsed().as_secs_f64();
        let peak = usage::peak_rss_bytes().unwrap_or_default() / (1024 * 1024);
        println!(
            "{name},{},{:.0},{},{:.1},{peak}",
            written.rows,
            written.rows as f64 / seconds,
            written.bytes,
            written.bytes as f64 / changed as f64
        );
        after = span.upto;
    }
    println!("(processor seconds of all phases: {:.1})", usage::cpu_seconds().unwrap_or_default());
    drop(sink);
    python(folder.path())
}

/// The same rows through Python's deltalake.
fn python(folder: &Path) -> Outcome<()> {
    let entity = entity::get(ENTITY).expect("a canonical entity");
    let key = entity.fields[..entity.key_len()].iter().map(|field| &field.name);
    let root = env!("CARGO_MANIFEST_DIR");
    let made = std::process::Command::new(format!("{root}/deploy/python-env")).output()?;
    let environment = String::from_utf8(made.stdout)?;
    let status = std::process::Command::new(format!("{}/bin/python", environment.trim()))
        .arg(format!("{root}/benches/lake.py"))
        .arg(folder)
        .args(key)
        .status()?;
    if status.success() { Ok(()) } else { Err("Python's deltalake failed".into()) }
}
