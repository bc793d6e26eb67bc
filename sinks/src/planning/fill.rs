//! Batches filled with rows, in the form and the compression that the sink is set to.
//!
//! The limit in bytes is that of the body before compression: what a target has to take apart, whatever its size on the wire.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arrow::array::{RecordBatch, UInt64Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::Schema;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;

use super::body::{Correlation, Head, assemble};
use super::config::{Compression, Format};
use super::contract::BATCH_METADATA;
use super::deal::RowRef;
use super::lane::{Flow, Load};
use crate::SinkError;

/// A body as it is sent.
pub(super) struct Body {
    pub(super) body: Bytes,
    /// Its bytes before compression.
    pub(super) size: usize,
}

/// Fills a batch: as many rows of one epoch as the limits and `most` allow, at least one; says how many.
pub(super) fn fill(
    flow: &Flow<'_>,
    load: Load<'_>,
    id: &str,
    most: usize,
    correlation: &mut Correlation,
) -> Result<(Body, usize), SinkError> {
    let epoch = load.rows.first().map(|row| row.version.epoch());
    let of_epoch = load.rows.iter().take_while(|row| Some(row.version.epoch()) == epoch);
    let rows: Vec<RowRef> = of_epoch.take(flow.config.max_records.min(most)).copied().collect();
    let head = Head {
        id,
        source: &flow.config.pipeline,
        produced_at: now_micros(),
        count: rows.len(),
        partitions: flow.config.partitions,
    };
    let (body, count) = match flow.config.format {
        Format::Arrow => fill_arrow(flow, load.batch, &rows, head)?,
        lines @ (Format::Json | Format::Ndjson) => fill_records(flow, load, &rows, head, lines, correlation),
    };
    let size = body.len();
    let body = compress(body, flow.config.compression)?;
    Ok((Body { body, size }, count))
}

fn fill_records(
    flow: &Flow<'_>,
    load: Load<'_>,
    rows: &[RowRef],
    mut head: Head<'_>,
    format: Format,
    correlation: &mut Correlation,
) -> (Vec<u8>, usize) {
    // Of the most records, whose number takes the most digits.
    let bytes_max = flow.config.max_bytes.saturating_sub(assemble(&head, &[], format).len());
    let mut records = Vec::with_capacity(bytes_max.min(rows.len() * 512));
    let mut count = 0;
    for row in rows {
        let before = records.len();
        if count > 0 {
            records.push(format.separator());
        }
        load.records.put(row.row, correlation, &mut records);
        if count > 0 && records.len() > bytes_max {
            records.truncate(before);
            break;
        }
        count += 1;
    }
    head.count = count;
    (assemble(&head, &records, format), count)
}

/// Rows as they are, and the head in the schema's metadata.
fn fill_arrow(
    flow: &Flow<'_>,
    batch: &RecordBatch,
    rows: &[RowRef],
    mut head: Head<'_>,
) -> Result<(Vec<u8>, usize), SinkError> {
    let mut count = rows.len();
    loop {
        head.count = count;
        let indices = UInt64Array::from_iter_values(rows[..count].iter().map(|row| row.row as u64));
        let taken = take_record_batch(batch, &indices)?;
        let metadata = [(BATCH_METADATA.to_owned(), head.to_json())].into();
        let schema = Arc::new(Schema::new_with_metadata(taken.schema_ref().fields().clone(), metadata));
        let mut writer = StreamWriter::try_new(Vec::new(), &schema)?;
        writer.write(&taken.with_schema(schema)?)?;
        let body = writer.into_inner()?;
        if body.len() <= flow.config.max_bytes || count == 1 {
            return Ok((body, count));
        }
        // As many as fit where all are alike, and fewer in any case.
        count = (count * flow.config.max_bytes / body.len()).clamp(1, count - 1);
    }
}

fn compress(body: Vec<u8>, compression: Compression) -> Result<Bytes, SinkError> {
    let fault = |error: std::io::Error| SinkError::Local { place: "compression".to_owned(), reason: error.to_string() };
    Ok(match compression {
        Compression::None => body.into(),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&body).and_then(|()| encoder.finish()).map_err(fault)?.into()
        }
        Compression::Zstd => zstd::bulk::compress(&body, 1).map_err(fault)?.into(),
    })
}

fn now_micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
