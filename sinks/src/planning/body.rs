//! The JSON body of a batch, as PDX/1 has it.
//!
//! ```text
//! {"batch":{"id":..,"source":..,"produced_at":..,"count":2,"partitions":8},
//!  "records":[
//!   {"op":"upsert","key":{..},"version":"32 hex","commit_ts":"..","correlation_id":"..","data":{..}},
//!   {"op":"delete","key":{..},"version":"32 hex","commit_ts":"..","correlation_id":".."}]}
//! ```
//!
//! A full load has upserts, and `keep` for keys whose row is to stay as it is.
//!
//! In the form of lines (NDJSON) the first one holds `batch` and each further one a record.
//!
//! `correlation_id` is the same for all rows of one source transaction. Golden bytes are in the tests: a change of the
//! body is a change of the contract.

use std::ops::Range;

use arrow::array::{AsArray, FixedSizeBinaryArray, RecordBatch, StringArray};
use arrow::datatypes::{TimestampMicrosecondType, UInt8Type};
use syncline_schemas::delta::{DELETE, KEEP, SYSTEM_COLUMNS};
use syncline_schemas::entity::Entity;
use uuid::Uuid;

use super::config::Format;
use super::json::{JsonColumn, put_hex, put_instant, put_text};
use crate::SinkError;

/// Writes the records of a batch of one entity.
pub(crate) struct RecordWriter<'a> {
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
pub(crate) struct Correlation {
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
    pub(crate) fn new(entity: &Entity, rows: &'a RecordBatch) -> Result<Self, SinkError> {
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
    pub(crate) fn put(&self, row: usize, correlation: &mut Correlation, out: &mut Vec<u8>) {
        let op = self.ops[row];
        let start: &[u8] = match op {
            DELETE => br#"{"op":"delete","key":"#,
            KEEP => br#"{"op":"keep","key":"#,
            _ => br#"{"op":"upsert","key":"#,
        };
        out.extend_from_slice(start);
        put_members(&self.key, row, out);
        out.extend_from_slice(br#","version":""#);
        put_hex(self.versions.value(row), out);
        out.extend_from_slice(br#"","commit_ts":"#);
        put_instant(self.commits[row], out);
        out.extend_from_slice(br#","correlation_id":""#);
        out.extend_from_slice(correlation.of(self.systems.value(row), self.positions.value(row)).as_bytes());
        if matches!(op, DELETE | KEEP) {
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

impl Head<'_> {
    /// The member `batch`.
    pub(super) fn to_json(&self) -> String {
        let mut out = br#"{"id":"#.to_vec();
        put_text(self.id, &mut out);
        out.extend_from_slice(br#","source":"#);
        put_text(self.source, &mut out);
        out.extend_from_slice(br#","produced_at":"#);
        put_instant(self.produced_at, &mut out);
        out.extend_from_slice(format!(r#","count":{},"partitions":{}}}"#, self.count, self.partitions).as_bytes());
        String::from_utf8(out).expect("JSON is UTF-8")
    }
}

/// Puts a body together from records with the format's separator between them.
pub(super) fn assemble(head: &Head<'_>, records: &[u8], format: Format) -> Vec<u8> {
    let head = head.to_json();
    let (before, after): (_, &[u8]) = match format {
        Format::Ndjson => (format!("{{\"batch\":{head}}}\n"), b"\n"),
        Format::Json | Format::Arrow => (format!("{{\"batch\":{head},\"records\":["), b"]}"),
    };
    [before.as_bytes(), records, after].concat()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use arrow::array::{
        ArrayRef, Decimal128Array, FixedSizeBinaryArray, TimestampMicrosecondArray, UInt8Array, new_null_array,
    };
    use syncline_schemas::delta::UPSERT;
    use syncline_schemas::entity;

    use super::*;

    /// An upsert and a delete of the same key.
    pub(crate) fn two_rows(entity: &Entity) -> RecordBatch {
        let text = |text: &str| Arc::new(StringArray::from(vec![text; 2])) as ArrayRef;
        let instant =
            |micros: i64| Arc::new(TimestampMicrosecondArray::from(vec![micros; 2]).with_timezone("UTC")) as ArrayRef;
        let versions = [[0_u8; 15].as_slice(), &[1]].concat();
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(UInt8Array::from(vec![UPSERT, DELETE])),
            Arc::new(FixedSizeBinaryArray::try_from_iter([versions.clone(), versions].into_iter()).expect("16 bytes")),
            text("erp"),
            text("public.stock"),
            text("0/16B3748"),
            instant(1_779_789_601_120_000),
            instant(1_779_789_601_121_000),
        ];
        for field in &entity.fields {
            columns.push(match field.name.as_str() {
                "on_hand" => Arc::new(
                    Decimal128Array::from(vec![Some(110_500_000_000), None])
                        .with_precision_and_scale(28, 9)
                        .expect("canonical decimal"),
                ),
                "as_of" => instant(1_779_789_601_120_000),
                name if field.key => text(&format!("<{name}>")),
                _ => new_null_array(&field.field_type.arrow(), 2),
            });
        }
        RecordBatch::try_new(entity.delta_schema(), columns).expect("canonical shape")
    }

    #[test]
    fn a_change_of_the_body_is_a_change_of_the_contract() {
        let entity = entity::get("inventory_balance").expect("canonical");
        let rows = two_rows(entity);
        let writer = RecordWriter::new(entity, &rows).expect("JSON has a form for every field");
        let (mut records, mut correlation) = (Vec::new(), Correlation::default());
        writer.put(0, &mut correlation, &mut records);
        records.push(b',');
        writer.put(1, &mut correlation, &mut records);
        let head = Head { id: "b1", source: "erp-eu", produced_at: 1_779_789_601_120_000, count: 2, partitions: 8 };
        let body = String::from_utf8(assemble(&head, &records, Format::Json)).expect("UTF-8");
        let key = concat!(
            r#"{"company_id":"<company_id>","item_id":"<item_id>","location_id":"<location_id>","#,
            r#""owner_id":"<owner_id>","stock_class":"<stock_class>"}"#
        );
        let golden = [
            r#"{"batch":{"id":"b1","source":"erp-eu","produced_at":"2026-05-26T10:00:01.120000Z","count":2,"partitions":8},"records":["#,
            r#"{"op":"upsert","key":"#,
            key,
            r#","version":"00000000000000000000000000000001","commit_ts":"2026-05-26T10:00:01.120000Z","#,
            r#""correlation_id":"CORRELATION","data":{"on_hand":"110.5","reserved":null,"picked":null,"#,
            r#""quality_hold":null,"blocked":null,"in_transit_in":null,"on_order":null,"available":null,"#,
            r#""stock_value":null,"unit_cost":null,"currency":null,"as_of":"2026-05-26T10:00:01.120000Z"}},"#,
            r#"{"op":"delete","key":"#,
            key,
            r#","version":"00000000000000000000000000000001","commit_ts":"2026-05-26T10:00:01.120000Z","#,
            r#""correlation_id":"CORRELATION"}]}"#,
        ]
        .concat()
        .replace("CORRELATION", Correlation::default().of("erp", "0/16B3748"));
        assert_eq!(body, golden);
        assert_eq!(writer.key(0), key);
    }
}
