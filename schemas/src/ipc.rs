//! One record batch as one self-contained Arrow IPC stream with a length in front.
//!
//! zstd from [`COMPRESS_ROWS`] rows on: 37 bytes a row where plain is 164, and faster to read than lz4. Below that the
//! set-up of a compressor costs more than the bytes.

use arrow::array::RecordBatch;
use arrow::ipc::CompressionType;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};

use crate::SchemaError;
use crate::bytes::{Reader, length};

/// From this many rows on a batch is compressed.
const COMPRESS_ROWS: usize = 128;

pub(crate) fn put_batch(out: &mut Vec<u8>, batch: &RecordBatch) -> Result<(), SchemaError> {
    let compression = (batch.num_rows() >= COMPRESS_ROWS).then_some(CompressionType::ZSTD);
    let options = IpcWriteOptions::default().try_with_compression(compression)?;
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    {
        let mut writer = StreamWriter::try_new_with_options(&mut *out, &batch.schema(), options)?;
        writer.write(batch)?;
        writer.finish()?;
    }
    let written = length(out.len() - start - 4);
    out[start..start + 4].copy_from_slice(&written.to_le_bytes());
    Ok(())
}

pub(crate) fn get_batch(reader: &mut Reader<'_>) -> Result<RecordBatch, SchemaError> {
    let mut stream = StreamReader::try_new(reader.bytes()?, None)?;
    stream.next().ok_or_else(|| reader.malformed("the stream holds no batch".into()))?.map_err(SchemaError::from)
}
