//! Synthetic rows of any entity, and batches of them in every form. Written apart from the sink's own writer: a fault that
//! both had would be seen by neither.

use std::io::Write as _;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray, Int32Array, RecordBatch, StringArray,
    TimestampMicrosecondArray, UInt8Array,
};
use arrow::datatypes::{DataType, Schema};
use arrow::ipc::writer::StreamWriter;
use serde_json::{Map, Value, json};
use syncline_schemas::delta::{DELETE, KEEP, UPSERT};
use syncline_schemas::entity::{Entity, Field, FieldType};
use syncline_schemas::ident::Version;

use crate::SinkError;
use crate::planning::contract::BATCH_METADATA;
use crate::planning::{Compression, Format};

/// The day and the moment of all rows; their values in Arrow beside them.
const DAY: (&str, i32) = ("2026-05-26", 20_599);
const MOMENT: (&str, i64) = ("2026-05-26T10:00:01.120000Z", 1_779_789_601_120_000);

/// What is done with a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Upsert,
    Delete,
    Keep,
}

/// A row as it is sent.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) op: Op,
    /// In the order of the definition.
    pub(super) key: Vec<Value>,
    pub(super) version: Version,
    pub(super) data: Map<String, Value>,
}

/// Makes rows of one entity under one company.
#[derive(Debug, Clone)]
pub(super) struct Maker {
    pub(super) entity: &'static Entity,
    pub(super) company: String,
}

/// The place of the key field that tells our rows apart; none where an entity has no company or no such field.
pub(super) fn told_by(entity: &Entity) -> Option<usize> {
    let key = &entity.fields[..entity.key_len()];
    let own = key.first().is_some_and(|field| field.name == "company_id");
    let free = |field: &Field| field.field_type == FieldType::String && field.default.is_none();
    own.then(|| (1..key.len()).find(|place| free(&key[*place]))).flatten()
}

/// The first field that holds a decimal with nine places.
pub(super) fn decimal(entity: &Entity) -> Option<&Field> {
    let fields = &entity.fields[entity.key_len()..];
    fields.iter().find(|field| matches!(field.field_type, FieldType::Quantity | FieldType::UnitPrice))
}

fn plain(field: &Field) -> Value {
    match field.field_type {
        FieldType::String | FieldType::Code => {
            let text = field.values.first().or(field.default.as_ref()).map_or("X", String::as_str);
            Value::from(text)
        }
        FieldType::Quantity | FieldType::Money | FieldType::UnitPrice | FieldType::Rate => Value::from("1.5"),
        FieldType::Date => Value::from(DAY.0),
        FieldType::Instant => Value::from(MOMENT.0),
        FieldType::Boolean => Value::from(false),
        FieldType::Integer => Value::from(1),
    }
}

impl Maker {
    /// A row that tells itself from others by a name.
    pub(super) fn upsert(&self, name: &str, version: Version) -> Row {
        let (keys, others) = self.entity.fields.split_at(self.entity.key_len());
        let told = told_by(self.entity);
        let key = keys.iter().enumerate().map(|(place, field)| match place {
            0 => Value::from(self.company.as_str()),
            place if Some(place) == told => Value::from(name),
            _ => plain(field),
        });
        let wanted = others.iter().filter(|field| field.required);
        let data = wanted.map(|field| (field.name.clone(), plain(field))).collect();
        Row { op: Op::Upsert, key: key.collect(), version, data }
    }

    /// The end of that row.
    pub(super) fn delete(&self, name: &str, version: Version) -> Row {
        Row { op: Op::Delete, data: Map::new(), ..self.upsert(name, version) }
    }

    /// A key of a load whose row stays.
    pub(super) fn keep(&self, name: &str, version: Version) -> Row {
        Row { op: Op::Keep, data: Map::new(), ..self.upsert(name, version) }
    }
}

impl Row {
    /// With another value in a field that is no key.
    pub(super) fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.data.insert(field.to_owned(), value.into());
        self
    }

    /// The key as one text.
    pub(super) fn key_text(&self) -> String {
        Value::from(self.key.clone()).to_string()
    }

    /// The record as JSON.
    pub(super) fn to_json(&self, entity: &Entity) -> Value {
        let names = entity.fields.iter().map(|field| field.name.clone());
        let key: Map<String, Value> = names.zip(self.key.iter().cloned()).collect();
        let op = match self.op {
            Op::Upsert => "upsert",
            Op::Delete => "delete",
            Op::Keep => "keep",
        };
        let mut record = json!({ "op": op, "key": key, "version": self.version.to_string(), "commit_ts": MOMENT.0 });
        if self.op == Op::Upsert {
            record["data"] = Value::Object(self.data.clone());
        }
        record
    }
}

/// A batch's head.
pub(super) struct Head<'a> {
    pub(super) id: &'a str,
    pub(super) source: &'a str,
    pub(super) partitions: u32,
}

/// A body in a form.
///
/// # Errors
/// Where a row has a value that Arrow cannot hold.
pub(super) fn body(entity: &Entity, head: &Head<'_>, rows: &[Row], format: Format) -> Result<Vec<u8>, SinkError> {
    let batch = json!({
        "id": head.id, "source": head.source, "produced_at": MOMENT.0, "count": rows.len(), "partitions": head.partitions,
    });
    let records = || rows.iter().map(|row| row.to_json(entity));
    Ok(match format {
        Format::Json => json!({ "batch": batch, "records": records().collect::<Vec<_>>() }).to_string().into_bytes(),
        Format::Ndjson => {
            let lines = std::iter::once(json!({ "batch": batch })).chain(records());
            lines.map(|line| format!("{line}\n")).collect::<String>().into_bytes()
        }
        Format::Arrow => {
            let metadata = [(BATCH_METADATA.to_owned(), batch.to_string())].into();
            let schema = Schema::new_with_metadata(entity.delta_schema().fields().clone(), metadata);
            let columns = columns(entity, rows)?;
            let schema = Arc::new(schema);
            let mut writer = StreamWriter::try_new(Vec::new(), &schema)?;
            writer.write(&RecordBatch::try_new(schema, columns)?)?;
            writer.into_inner()?
        }
    })
}

/// Compresses a body.
///
/// # Errors
/// Where there is no memory for it.
pub(super) fn compressed(body: Vec<u8>, compression: Compression) -> Result<Vec<u8>, SinkError> {
    let fault = |error: std::io::Error| SinkError::Local { place: "compression".to_owned(), reason: error.to_string() };
    match compression {
        Compression::None => Ok(body),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&body).and_then(|()| encoder.finish()).map_err(fault)
        }
        Compression::Zstd => zstd::bulk::compress(&body, 1).map_err(fault),
    }
}

fn columns(entity: &Entity, rows: &[Row]) -> Result<Vec<ArrayRef>, SinkError> {
    let ops = rows.iter().map(|row| match row.op {
        Op::Upsert => UPSERT,
        Op::Delete => DELETE,
        Op::Keep => KEEP,
    });
    let versions = FixedSizeBinaryArray::try_from_iter(rows.iter().map(|row| row.version.as_bytes()))?;
    let text = |text: &str| Arc::new(StringArray::from(vec![text; rows.len()])) as ArrayRef;
    let moment = || Arc::new(TimestampMicrosecondArray::from(vec![MOMENT.1; rows.len()]).with_timezone("UTC"));
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(ops.collect::<UInt8Array>()),
        Arc::new(versions),
        text("syncline-verify"),
        text("synthetic"),
        text("0"),
        moment(),
        moment(),
    ];
    for (place, field) in entity.fields.iter().enumerate() {
        let values = rows.iter().map(|row| if field.key { row.key.get(place) } else { row.data.get(&field.name) });
        columns.push(column(entity, field, &values.map(|it| it.filter(|it| !it.is_null())).collect::<Vec<_>>())?);
    }
    Ok(columns)
}

fn column(entity: &Entity, field: &Field, values: &[Option<&Value>]) -> Result<ArrayRef, SinkError> {
    let there = |value: &Option<&Value>| value.is_some();
    Ok(match field.field_type.arrow() {
        DataType::Decimal128(precision, scale) => {
            let scaled =
                values.iter().map(|value| value.and_then(Value::as_str).and_then(|text| unscaled(text, scale)));
            let array = scaled.collect::<Decimal128Array>().with_precision_and_scale(precision, scale)?;
            Arc::new(array)
        }
        DataType::Date32 => Arc::new(values.iter().map(|it| there(it).then_some(DAY.1)).collect::<Date32Array>()),
        DataType::Timestamp(..) => {
            let micros = values.iter().map(|it| there(it).then_some(MOMENT.1));
            Arc::new(micros.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
        }
        DataType::Boolean => Arc::new(values.iter().map(|it| (*it)?.as_bool()).collect::<BooleanArray>()),
        DataType::Int32 => {
            let integers = values.iter().map(|it| (*it)?.as_i64().and_then(|it| i32::try_from(it).ok()));
            Arc::new(integers.collect::<Int32Array>())
        }
        DataType::Utf8 => Arc::new(values.iter().map(|it| (*it)?.as_str()).collect::<StringArray>()),
        other => {
            let reason = format!("field {} has the type {other}, of which there are no synthetic values", field.name);
            return Err(SinkError::Shape { entity: entity.name.clone(), reason });
        }
    })
}

/// A decimal without its point.
fn unscaled(text: &str, scale: i8) -> Option<i128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let places = usize::try_from(scale).ok()?;
    format!("{whole}{fraction:0<places$}").parse().ok()
}
