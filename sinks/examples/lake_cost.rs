//! What the lake costs: appends a million rows, then changes one in a hundred, and says rows/s, bytes and peak memory.
//!
//! usage: `lake_cost FOLDER [ROWS]`; the folder must be empty.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::{
    ArrayRef, Decimal128Array, FixedSizeBinaryArray, RecordBatch, StringArray, TimestampMicrosecondArray, UInt8Array,
    new_null_array,
};
use arrow::datatypes::DataType;
use syncline_schemas::delta::{self, DeltaBatch};
use syncline_schemas::entity;
use syncline_schemas::ident::{LogOffset, Version};
use syncline_sinks::lake::{LakeConfig, LakeSink};
use syncline_sinks::{DeltaSource, OutboxEntry, OutboxIter, Reject, Sink, SinkError, Span};
use url::Url;

const ENTITY: &str = "inventory_balance";
const BATCH: u64 = 8_192;

/// Entry `n` holds the keys of one batch; `step` skips keys.
struct Source {
    rows: u64,
    step: u64,
}

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
        instant(1_790_000_000_000_000),
        instant(1_790_000_000_100_000),
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
            (DataType::Timestamp(_, _), _) => instant(1_790_000_000_000_000),
            (other, _) => new_null_array(other, keys.len()),
        });
    }
    RecordBatch::try_new(entity.delta_schema(), columns).expect("the entity's columns")
}

impl DeltaSource for Source {
    fn read(&self, span: Span) -> Result<OutboxIter<'_>, SinkError> {
        let entries = (span.after.0..span.upto.0).map(move |at| {
            let first = (at - span.after.0) * BATCH;
            let keys: Vec<u64> = (first..(first + BATCH).min(self.rows)).map(|i| i * self.step).collect();
            let offset = LogOffset(at + 1);
            Ok(OutboxEntry { offset, deltas: vec![DeltaBatch { entity: ENTITY.into(), rows: deltas(offset, &keys) }] })
        });
        Ok(Box::new(entries))
    }

    fn refused(&self, rejects: Vec<Reject>) -> Result<(), SinkError> {
        panic!("nothing here is to be refused: {rejects:?}");
    }
}

fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1_024
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let folder = std::path::PathBuf::from(args.next().ok_or("usage: lake_cost FOLDER [ROWS]")?);
    let rows: u64 = args.next().map_or(Ok(1_000_000), |rows| rows.parse())?;
    let url = Url::from_directory_path(std::path::absolute(&folder)?).map_err(|()| "the folder has no URL")?;
    let mut sink = LakeSink::new(LakeConfig::new(url.join("lake")?, "cost", folder.join("scratch")))?;
    let mut after = LogOffset::START;
    for (what, source) in [
        ("append", Source { rows, step: 1 }),
        ("merge 1 % spread over all keys", Source { rows: rows / 100, step: 100 }),
        ("merge 1 % of neighbouring keys", Source { rows: rows / 100, step: 1 }),
    ] {
        let upto = LogOffset(after.0 + source.rows.div_ceil(BATCH));
        let begun = Instant::now();
        let written = sink.write(Span { after, upto }, &source).await?;
        let seconds = begun.elapsed().as_secs_f64();
        println!(
            "{what}: {} rows in {seconds:.2} s, {:.0} rows/s, {} bytes written, peak {} MiB",
            written.rows,
            f64::from(u32::try_from(written.rows)?) / seconds,
            written.bytes,
            peak_mib()
        );
        after = upto;
    }
    Ok(())
}
