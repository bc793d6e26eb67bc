//! One record batch as one self-contained Arrow IPC stream with a length in front.
//!
//! From [`COMPRESS_ROWS`] rows on the columns are compressed one by one with zstd, which is faster to read than lz4. Of a smaller batch nearly all is its schema, some 5 KB of repetitive text that every
//! transaction of a quiet hour would write again: the stream is compressed as a whole, by a compressor that its thread keeps.

use std::cell::RefCell;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::ipc::CompressionType;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use zstd::bulk::Compressor;

use crate::SchemaError;
use crate::bytes::{Reader, length, put_bytes};

/// From this many rows on a batch is compressed by column.
const COMPRESS_ROWS: usize = 128;
/// What follows the kind: an Arrow IPC stream.
const STREAM: u8 = 0;
/// What follows the kind: the length of an Arrow IPC stream, then one zstd frame with it.
const ZSTD_STREAM: u8 = 1;
/// 512 MiB: more than any value that can be in the log; what a damaged length can make us allocate.
const STREAM_BYTES_MAX: u32 = 512 << 20;
/// The fastest: what is repeated here is found by any.
const LEVEL: i32 = 1;

thread_local! {
    /// Making one costs more than compressing a small batch.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
}

fn compress(stream: &[u8]) -> std::io::Result<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|kept| {
        let mut compressor = match kept.take() {
            Some(compressor) => compressor,
            None => Compressor::new(LEVEL)?,
        };
        let compressed = compressor.compress(stream);
        *kept = Some(compressor);
        compressed
    })
}

pub(crate) fn put_batch(out: &mut Vec<u8>, batch: &RecordBatch) -> Result<(), SchemaError> {
    let large = batch.num_rows() >= COMPRESS_ROWS;
    let options = IpcWriteOptions::default()
        .try_with_compression(large.then_some(CompressionType::ZSTD))?
        .try_with_compression_level(large.then_some(LEVEL))?;
    let mut stream = Vec::new();
    let mut writer = StreamWriter::try_new_with_options(&mut stream, &batch.schema(), options)?;
    writer.write(batch)?;
    writer.finish()?;
    drop(writer);
    if large {
        out.push(STREAM);
        put_bytes(out, &stream);
    } else {
        out.push(ZSTD_STREAM);
        out.extend_from_slice(&length(stream.len()).to_le_bytes());
        put_bytes(out, &compress(&stream).map_err(ArrowError::from)?);
    }
    Ok(())
}

pub(crate) fn get_batch(reader: &mut Reader<'_>) -> Result<RecordBatch, SchemaError> {
    let kind = reader.u8()?;
    let held;
    let stream = match kind {
        STREAM => reader.bytes()?,
        ZSTD_STREAM => {
            let length = reader.u32()?;
            if length > STREAM_BYTES_MAX {
                return Err(reader.malformed(format!("a batch of {length} bytes")));
            }
            let bytes = reader.bytes()?;
            held =
                zstd::bulk::decompress(bytes, length as usize).map_err(|error| reader.malformed(error.to_string()))?;
            &held
        }
        other => return Err(reader.malformed(format!("no kind of batch is {other}"))),
    };
    let mut stream = StreamReader::try_new(stream, None)?;
    stream.next().ok_or_else(|| reader.malformed("the stream holds no batch".into()))?.map_err(SchemaError::from)
}

/// Passes over a batch.
pub(crate) fn skip_batch(reader: &mut Reader<'_>) -> Result<(), SchemaError> {
    match reader.u8()? {
        STREAM => {}
        ZSTD_STREAM => drop(reader.u32()?),
        other => return Err(reader.malformed(format!("no kind of batch is {other}"))),
    }
    reader.bytes().map(drop)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};

    use super::*;

    fn round_trip(rows: i64) -> usize {
        let column = Arc::new(Int64Array::from_iter_values(0..rows)) as ArrayRef;
        let names = (0..20).map(|i| (format!("a_column_with_a_long_name_{i}"), Arc::clone(&column)));
        let batch = RecordBatch::try_from_iter(names).expect("equal lengths");
        let mut bytes = Vec::new();
        put_batch(&mut bytes, &batch).expect("encodes");
        assert_eq!(get_batch(&mut Reader::new("a batch", &bytes)).expect("decodes"), batch);
        let mut reader = Reader::new("a batch", &bytes);
        skip_batch(&mut reader).expect("passes over");
        assert!(reader.u8().is_err(), "nothing is left");
        bytes.len()
    }

    #[test]
    fn a_row_at_a_time_does_not_write_its_schema_in_full() {
        assert!(round_trip(1) < 2_048, "{}", round_trip(1));
        round_trip(0);
        round_trip(1_000);
    }

    #[test]
    fn a_damaged_stream_is_refused() {
        let mut bytes = vec![ZSTD_STREAM];
        put_bytes(&mut bytes, &[0xff; 9]);
        get_batch(&mut Reader::new("a batch", &bytes)).expect_err("not a frame");
        bytes[1..5].fill(0xff);
        get_batch(&mut Reader::new("a batch", &bytes)).expect_err("refused");
    }
}
