//! The JSON body of a batch, as PDX/1 has it.
//!
//! ```text
//! {"batch":{"id":..,"source":..,"produced_at":..,"count":2,"partitions":8},
//!  "records":[
//!   {"op":"upsert","key":{..},"version":"32 hex","commit_ts":"..","correlation_id":"..","data":{..}},
//!   {"op":"delete","key":{..},"version":"32 hex","commit_ts":"..","correlation_id":".."}]}
//! ```
//!
//! `correlation_id` is the same for all rows of one source transaction. Golden bytes are in the tests: a change of the
//! body is a change of the contract.

use std::ops::Range;

use arrow::array::{AsArray, FixedSizeBinaryArray, RecordBatch, StringArray};
use arrow::datatypes::{TimestampMicrosecondType, UInt8Type};
use syncline_schemas::delta::{DELETE, SYSTEM_COLUMNS};
use syncline_schemas::entity::Entity;
use uuid::Uuid;

use super::json::{JsonColumn, put_hex, put_instant, put_text};
use crate::SinkError;

/// Writes the records of a batch of one entity.
pub(super) struct RecordWriter<'a> {
    ops: &'a [u8],
    versions: &'a FixedSizeBinaryArray,
    systems: &'a StringArray,
    positions: &'a StringArray,
    commits: &'a [i64],
    key: Vec<Member<'a>>,
    data: Vec<Member<'a>>,
}

/// A JSON member: `"name":` and the column of its values.
struct Member<'a> {
    label: Vec<u8>,
    column: JsonColumn<'a>,
}

/// The transaction whose correlation id was computed last: its rows lie side by side.
#[derive(Default)]
pub(super) struct Correlation {
    system: String,
    position: String,
    id: String,
}

impl Correlation {
    /// The id of a source transaction.
    fn of(&mut self, system: &str, position: &str) -> &str {
        if self.id.is_empty() || self.position != position || self.system != system {
            let namespace = Uuid::new_v5(&Uuid::NAMESPACE_OID, system.as_bytes());
            self.id = Uuid::new_v5(&namespace, position.as_bytes()).to_string();
            position.clone_into(&mut self.position);
            system.clone_into(&mut self.system);
        }
        &self.id
    }
}

impl<'a> RecordWriter<'a> {
    /// Resolves the columns of a batch that [`super::deal::join`] made.
    ///
    /// # Errors
    /// [`SinkError::Shape`] for a field of a type that JSON has no form for.
    pub(super) fn new(entity: &Entity, rows: &'a RecordBatch) -> Result<Self, SinkError> {
        let columns = rows.columns();
        let members = |range: Range<usize>| {
            range
                .map(|i| {
                    let field = &entity.fields[i];
                    let column = JsonColumn::resolve(&columns[SYSTEM_COLUMNS + i]).ok_or_else(|| SinkError::Shape {
                        entity: entity.name.clone(),
                        reason: format!("field {} has a type that JSON has no form for", field.name),
                    })?;
                    Ok(Member { label: format!("\"{}\":", field.name).into_bytes(), column })
                })
                .collect::<Result<Vec<_>, SinkError>>()
        };
        let key_len = entity.key_len();
        Ok(Self {
            ops: columns[0].as_primitive::<UInt8Type>().values(),
            versions: columns[1].as_fixed_size_binary(),
            systems: columns[2].as_string(),
            positions: columns[4].as_string(),
            commits: columns[5].as_primitive::<TimestampMicrosecondType>().values(),
            key: members(0..key_len)?,
            data: members(key_len..entity.fields.len())?,
        })
    }

    /// Appends the record of a row.
    pub(super) fn put(&self, row: usize, correlation: &mut Correlation, out: &mut Vec<u8>) {
        let deleted = self.ops[row] == DELETE;
        out.extend_from_slice(if deleted { br#"{"op":"delete","key":"# } else { br#"{"op":"upsert","key":"# });
        put_members(&self.key, row, out);
        out.extend_from_slice(br#","version":""#);
        put_hex(self.versions.value(row), out);
        out.extend_from_slice(br#"","commit_ts":"#);
        put_instant(self.commits[row], out);
        out.extend_from_slice(br#","correlation_id":""#);
        out.extend_from_slice(correlation.of(self.systems.value(row), self.positions.value(row)).as_bytes());
        if deleted {
            out.extend_from_slice(br#""}"#);
        } else {
            out.extend_from_slice(br#"","data":"#);
            put_members(&self.data, row, out);
            out.push(b'}');
        }
    }

    /// The key of a row as its record has it.
    pub(super) fn key(&self, row: usize) -> String {
        let mut out = Vec::new();
        put_members(&self.key, row, &mut out);
        String::from_utf8(out).expect("JSON is UTF-8")
    }
}

fn put_members(members: &[Member<'_>], row: usize, out: &mut Vec<u8>) {
    out.push(b'{');
    for (i, member) in members.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend_from_slice(&member.label);
        member.column.put(row, out);
    }
    out.push(b'}');
}

/// What a body says about its batch.
pub(super) struct Head<'a> {
    pub(super) id: &'a str,
    pub(super) source: &'a str,
    /// Microseconds since 1970.
    pub(super) produced_at: i64,
    pub(super) count: usize,
    pub(super) partitions: u32,
}

/// Puts a body together from records that are separated by commas.
pub(super) fn assemble(head: &Head<'_>, records: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(records.len() + 256);
    out.extend_from_slice(br#"{"batch":{"id":"#);
    put_text(head.id, &mut out);
    out.extend_from_slice(br#","source":"#);
    put_text(head.source, &mut out);
    out.extend_from_slice(br#","produced_at":"#);
    put_instant(head.produced_at, &mut out);
    out.extend_from_slice(format!(r#","count":{},"partitions":{}"#, head.count, head.partitions).as_bytes());
    out.extend_from_slice(br#"},"records":["#);
    out.extend_from_slice(records);
    out.extend_from_slice(b"]}");
    out
}
