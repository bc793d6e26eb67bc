//! The columns of the lake's tables and how deltas become their rows.
//!
//! Both tables hold the entity's fields first, then lineage. Only key fields and lineage refuse null: a delete in
//! `history` carries nothing but its key, and one rule for both tables lets an entity add fields without rewriting files.
//!
//! ```text
//! current   fields  _version  _source_system  _source_table  _source_pos  _commit_ts
//! history   fields  _op  _version  _valid_from  _source_system  _source_table  _source_pos  _captured_ts
//! ```
//!
//! `_version` is 32 hex digits, which order as the versions do; `_valid_from` is the commit time at the source.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt8Type};
use syncline_schemas::delta;
use syncline_schemas::entity::{self, Entity};
use syncline_schemas::table::instant;

use super::hidden::{Fate, Hidden};
use crate::SinkError;

/// Which of an entity's two tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One row per living key.
    Current,
    /// Every version ever.
    History,
    /// What the daemon met, of no entity.
    Operations,
}

/// Columns after the fields: name here, name in a delta.
const CURRENT: [(&str, &str); 5] = [
    (delta::VERSION, delta::VERSION),
    (delta::SOURCE_SYSTEM, delta::SOURCE_SYSTEM),
    (delta::SOURCE_TABLE, delta::SOURCE_TABLE),
    (delta::SOURCE_POS, delta::SOURCE_POS),
    (delta::COMMIT_TS, delta::COMMIT_TS),
];
const HISTORY: [(&str, &str); 7] = [
    (delta::OP, delta::OP),
    (delta::VERSION, delta::VERSION),
    ("_valid_from", delta::COMMIT_TS),
    (delta::SOURCE_SYSTEM, delta::SOURCE_SYSTEM),
    (delta::SOURCE_TABLE, delta::SOURCE_TABLE),
    (delta::SOURCE_POS, delta::SOURCE_POS),
    (delta::CAPTURED_TS, delta::CAPTURED_TS),
];

/// One table's columns.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub(super) entity: String,
    pub(super) kind: Kind,
    pub(super) schema: SchemaRef,
    /// How many of the first columns are the key.
    pub(super) key_len: usize,
    /// What is said of hidden columns in the table's properties.
    pub(super) hidden_mark: Option<String>,
    hidden: Arc<Hidden>,
    delta_schema: SchemaRef,
    /// Per column.
    sources: Vec<Source>,
}

/// Where a column comes from.
#[derive(Debug, Clone, Copy)]
struct Source {
    /// Index into a delta's columns.
    column: usize,
    masked: bool,
}

impl Shape {
    pub(super) fn new(entity: &Entity, kind: Kind, hidden: &Arc<Hidden>) -> Self {
        let delta_schema = entity.delta_schema();
        let (mut fields, mut sources): (Vec<Field>, Vec<Source>) = (Vec::new(), Vec::new());
        for (column, field) in delta_schema.fields().iter().enumerate().skip(delta::SYSTEM_COLUMNS) {
            let fate = hidden.fate(&entity.name, field.name());
            if fate != Fate::LeftOut {
                fields.push(field.as_ref().clone());
                sources.push(Source { column, masked: fate == Fate::Masked });
            }
        }
        let lineage: &[(&str, &str)] = match kind {
            Kind::Current => &CURRENT,
            Kind::History => &HISTORY,
            Kind::Operations => &[],
        };
        for (name, from) in lineage {
            let source = delta::system_fields()
                .iter()
                .position(|field| field.name() == from)
                .expect("lineage columns are system columns of a delta");
            let data_type = match *from {
                delta::COMMIT_TS | delta::CAPTURED_TS => instant(),
                _ => DataType::Utf8,
            };
            fields.push(Field::new(*name, data_type, false));
            sources.push(Source { column: source, masked: false });
        }
        Self {
            entity: entity.name.clone(),
            kind,
            schema: Arc::new(Schema::new(fields)),
            key_len: entity.key_len(),
            hidden_mark: hidden.mark(entity),
            hidden: Arc::clone(hidden),
            delta_schema,
            sources,
        }
    }

    /// Columns that are of no entity and come as they are.
    pub(super) fn operations(name: &str, schema: &SchemaRef) -> Self {
        Self {
            entity: name.to_owned(),
            kind: Kind::Operations,
            schema: Arc::clone(schema),
            key_len: 0,
            hidden_mark: None,
            hidden: Arc::default(),
            delta_schema: Arc::clone(schema),
            sources: Vec::new(),
        }
    }

    /// The table of a path below the lake; none where no entity has it.
    pub(super) fn of_path(path: &str, hidden: &Arc<Hidden>) -> Option<Self> {
        let of = |kind: Kind, name: &str| Some(Self::new(entity::get(name)?, kind, hidden));
        let (folder, name) = path.split_once('/')?;
        match folder {
            "current" => of(Kind::Current, name),
            "history" => of(Kind::History, name),
            _ => None,
        }
    }

    /// The table's path below the lake, as in `current/item`.
    pub(super) fn path(&self) -> String {
        match self.kind {
            Kind::Current => format!("current/{}", self.entity),
            Kind::History => format!("history/{}", self.entity),
            Kind::Operations => format!("operations/{}", self.entity),
        }
    }

    /// Where the key lies in a delta.
    pub(super) fn delta_key(&self) -> Vec<usize> {
        (delta::SYSTEM_COLUMNS..delta::SYSTEM_COLUMNS + self.key_len).collect()
    }

    pub(super) fn delta_schema(&self) -> SchemaRef {
        Arc::clone(&self.delta_schema)
    }

    /// Refuses deltas that are not shaped as the entity says.
    pub(super) fn check(&self, rows: &RecordBatch) -> Result<(), SinkError> {
        let found = rows.schema();
        let same = found.fields().len() == self.delta_schema.fields().len()
            && found
                .fields()
                .iter()
                .zip(self.delta_schema.fields())
                .all(|(found, wanted)| found.name() == wanted.name() && found.data_type() == wanted.data_type());
        if same {
            return Ok(());
        }
        let describe = |schema: &Schema| {
            let columns: Vec<_> =
                schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect();
            columns.join(", ")
        };
        Err(SinkError::Shape {
            entity: self.entity.clone(),
            reason: format!("wanted the columns {}, found {}", describe(&self.delta_schema), describe(&found)),
        })
    }

    /// The table's rows for rows of deltas that [`Shape::check`] let pass.
    pub(super) fn rows(&self, deltas: &RecordBatch) -> Result<RecordBatch, SinkError> {
        let columns = self
            .sources
            .iter()
            .map(|&source| {
                let column = deltas.column(source.column);
                match self.delta_schema.field(source.column).name().as_str() {
                    _ if source.masked => self.hidden.masks(column),
                    delta::VERSION => hex(column),
                    delta::OP => words(column),
                    _ => Arc::clone(column),
                }
            })
            .collect();
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
            .map_err(|error| SinkError::Shape { entity: self.entity.clone(), reason: error.to_string() })
    }
}

/// True for each delta that leaves a row behind.
pub(super) fn is_upsert(deltas: &RecordBatch, row: usize) -> bool {
    deltas.column(0).as_primitive::<UInt8Type>().value(row) == delta::UPSERT
}

fn hex(column: &ArrayRef) -> ArrayRef {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let versions = column.as_fixed_size_binary();
    let mut text = StringBuilder::with_capacity(versions.len(), versions.len() * 32);
    let mut digits = String::with_capacity(32);
    for i in 0..versions.len() {
        digits.clear();
        for byte in versions.value(i) {
            digits.push(char::from(DIGITS[usize::from(byte >> 4)]));
            digits.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        text.append_value(&digits);
    }
    Arc::new(text.finish())
}

fn words(column: &ArrayRef) -> ArrayRef {
    let ops = column.as_primitive::<UInt8Type>();
    let mut text = StringBuilder::with_capacity(ops.len(), ops.len() * 6);
    for &op in ops.values() {
        text.append_value(if op == delta::DELETE { "delete" } else { "upsert" });
    }
    Arc::new(text.finish())
}
