//! Bodies in every form and compression in which batches may come, as the one that is read.

use std::io::Read;

use arrow::array::AsArray;
use arrow::ipc::reader::StreamReader;
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use syncline_schemas::entity::Entity;
use syncline_schemas::ident::Version;

use super::batch::{self, Batch, Records};
use super::problem::Refusal;
use crate::SinkError;
use crate::planning::body::{Correlation, RecordWriter};
use crate::planning::contract::BATCH_METADATA;
use crate::planning::{Compression, Format};

/// Forms that are taken.
pub(super) const FORMATS: [Format; 3] = [Format::Json, Format::Ndjson, Format::Arrow];
/// Compressions that are taken.
pub(super) const COMPRESSIONS: [Compression; 2] = [Compression::Gzip, Compression::Zstd];

/// The form that a request says it has.
pub(super) fn format(headers: &HeaderMap) -> Result<Format, Refusal> {
    let media = headers.get("content-type").and_then(|media| media.to_str().ok()).unwrap_or_default();
    let same = |format: &Format| format.media_type().replace(' ', "") == media.replace(' ', "");
    FORMATS.into_iter().find(same).ok_or_else(|| {
        let known = FORMATS.map(Format::media_type).join(", ");
        let detail = format!("wanted one of {known}; got {media}");
        Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", detail)
    })
}

/// The body without its compression; what grows beyond `bytes_max` is refused before it takes memory.
pub(super) fn decompressed(headers: &HeaderMap, body: &Bytes, bytes_max: usize) -> Result<Bytes, Refusal> {
    let encoding = headers.get("content-encoding").and_then(|encoding| encoding.to_str().ok());
    let malformed = |error: std::io::Error| {
        Refusal::new(StatusCode::BAD_REQUEST, "malformed-batch", format!("does not decompress: {error}"))
    };
    let mut plain = Vec::new();
    let limit = bytes_max as u64 + 1;
    let read = match encoding {
        None => return Ok(body.clone()),
        Some("gzip") => flate2::read::GzDecoder::new(&body[..]).take(limit).read_to_end(&mut plain),
        Some("zstd") => zstd::Decoder::new(&body[..]).and_then(|decoder| decoder.take(limit).read_to_end(&mut plain)),
        Some(other) => {
            let detail = format!("{other} is not known; gzip and zstd are");
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-encoding", detail));
        }
    };
    read.map_err(malformed)?;
    if plain.len() > bytes_max {
        let detail = format!("the batch has more than {bytes_max} bytes");
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "batch-too-large", detail));
    }
    Ok(plain.into())
}

/// Any form as the one JSON object.
///
/// # Errors
/// Why it is no batch.
pub(super) fn as_json(entity: &Entity, format: Format, body: Bytes) -> Result<Bytes, String> {
    match format {
        Format::Json => Ok(body),
        Format::Ndjson => {
            let text = std::str::from_utf8(&body).map_err(|error| error.to_string())?;
            let mut lines = text.lines().filter(|line| !line.is_empty());
            let head = lines
                .next()
                .and_then(|line| line.trim_end().strip_suffix('}'))
                .ok_or("there is no first line with the batch")?;
            let records: Vec<&str> = lines.collect();
            Ok(format!("{head},\"records\":[{}]}}", records.join(",")).into())
        }
        Format::Arrow => rows(entity, &body).map(Bytes::from),
    }
}

/// An Arrow stream of which the rows are counted and nothing else is looked at.
pub(super) fn counted(entity: &Entity, body: &[u8]) -> Result<Batch, String> {
    let (reader, head) = open(entity, body)?;
    let described = format!("{{\"batch\":{head},\"records\":[]}}");
    let mut batch = batch::read(entity, described.as_bytes(), Records::Uncounted)?;
    for rows in reader {
        let rows = rows.map_err(|error| error.to_string())?;
        batch.received += rows.num_rows() as u64;
        let newest = rows.num_rows().checked_sub(1).map(|last| rows.column(1).as_fixed_size_binary().value(last));
        let newest = newest.and_then(|newest| newest.try_into().ok()).map(Version::from_bytes);
        batch.newest = batch.newest.max(newest);
    }
    batch.forgotten = batch.received;
    Ok(batch)
}

/// The stream, and the batch that its schema tells of.
fn open<'b>(entity: &Entity, body: &'b [u8]) -> Result<(StreamReader<&'b [u8]>, String), String> {
    let reader = StreamReader::try_new(body, None).map_err(|error| error.to_string())?;
    let schema = reader.schema();
    let head = schema.metadata().get(BATCH_METADATA).ok_or("the schema has no metadata batch")?;
    let wanted = entity.delta_schema();
    let columns = |schema: &arrow::datatypes::Schema| -> Vec<_> {
        schema.fields().iter().map(|field| (field.name().clone(), field.data_type().clone())).collect()
    };
    if columns(&schema) != columns(&wanted) {
        return Err("the columns are not those of the entity".to_owned());
    }
    let head = head.clone();
    Ok((reader, head))
}

fn rows(entity: &Entity, body: &[u8]) -> Result<Vec<u8>, String> {
    let (reader, head) = open(entity, body)?;
    let mut out = format!("{{\"batch\":{head},\"records\":[").into_bytes();
    let mut is_first = true;
    for batch in reader {
        let batch = batch.map_err(|error| error.to_string())?;
        let writer = RecordWriter::new(entity, &batch).map_err(|error: SinkError| error.to_string())?;
        let mut correlation = Correlation::default();
        for row in 0..batch.num_rows() {
            if !std::mem::take(&mut is_first) {
                out.push(b',');
            }
            writer.put(row, &mut correlation, &mut out);
        }
    }
    out.extend_from_slice(b"]}");
    Ok(out)
}
