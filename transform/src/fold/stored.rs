//! Source rows in state: the columns that mappings read, in whatever shape the table had when the row was written.
//!
//! A database does not send its rows again when a column changes its type, so old rows stay in their old layout and are
//! read into the shape that is wanted now. A value that was never sent is not null: it is marked as lacking, and whoever
//! needs it learns that.
//!
//! ```text
//! layout u32 | lacks varint run, bit i set = column i was never sent | rowcode of the layout's columns
//! ```
//!
//! Rows of joined tables are dated: the log entry that made them what they are stands in front, u64. It tells where a row is
//! from and is no part of it.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, UInt32Array, new_null_array};
use arrow::compute::{CastOptions, cast_with_options, interleave, take};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use syncline_schemas::frame::LogEntry;
use syncline_schemas::ident::{LogOffset, SourceId, TableId};
use syncline_schemas::rowcode;
use syncline_schemas::table::{TableSchema, column_of_field};

use super::Writes;
use super::contribution::{put_run, take_run};
use crate::TransformError;
use crate::state::{Space, State};

const LAYOUT: &str = "layout/";

/// A row as it lies in state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StoredRow<'a> {
    layout: u32,
    lacks: &'a [u8],
    row: &'a [u8],
}

impl<'a> StoredRow<'a> {
    fn decode(bytes: &'a [u8]) -> Result<Self, TransformError> {
        let damaged = || TransformError::State("a stored row does not decode".to_owned());
        let (layout, rest) = bytes.split_first_chunk().ok_or_else(damaged)?;
        let (lacks, row) = take_run(rest).ok_or_else(damaged)?;
        Ok(Self { layout: u32::from_be_bytes(*layout), lacks, row })
    }

    fn lacks(&self, column: usize) -> bool {
        self.lacks.get(column / 8).is_some_and(|byte| byte & (1 << (column % 8)) != 0)
    }
}

/// Appends a row's bytes; `lacking` are the columns whose values were never sent.
pub(super) fn put_row(out: &mut Vec<u8>, layout: u32, lacking: &[usize], row: &[u8]) {
    out.extend_from_slice(&layout.to_be_bytes());
    let mut mask = vec![0_u8; lacking.iter().max().map_or(0, |column| column / 8 + 1)];
    for column in lacking {
        mask[column / 8] |= 1 << (column % 8);
    }
    put_run(out, &mask);
    out.extend_from_slice(row);
}

/// The beginning of a dated row.
pub(super) fn dated(at: LogOffset) -> Vec<u8> {
    at.0.to_be_bytes().to_vec()
}

/// The log entry of a dated row and the row.
pub(super) fn undated(bytes: &[u8]) -> Result<(LogOffset, &[u8]), TransformError> {
    let damaged = || TransformError::State("a row of a joined table does not decode".to_owned());
    let (at, row) = bytes.split_first_chunk().ok_or_else(damaged)?;
    Ok((LogOffset(u64::from_be_bytes(*at)), row))
}

/// Columns read from stored rows.
pub(super) struct Columns {
    pub(super) columns: Vec<ArrayRef>,
    /// Row and column of each value that was never sent; null in the column.
    pub(super) lacking: Vec<(usize, usize)>,
}

/// Every layout in which state holds rows, by number.
#[derive(Default)]
pub(super) struct Layouts {
    known: HashMap<u32, (SchemaRef, Vec<DataType>)>,
}

impl Layouts {
    pub(super) fn open(state: &dyn State) -> Result<Self, TransformError> {
        let mut this = Self::default();
        for (key, value) in state.scan(Space::Catalog, LAYOUT.as_bytes(), &[], usize::MAX)? {
            let id = key[LAYOUT.len()..].try_into().map(u32::from_be_bytes);
            let id = id.map_err(|_| TransformError::State("the catalogue of layouts does not decode".to_owned()))?;
            this.insert(id, decode_schema(&value)?);
        }
        Ok(this)
    }

    fn insert(&mut self, id: u32, schema: SchemaRef) {
        let types = schema.fields().iter().map(|field| field.data_type().clone()).collect();
        self.known.insert(id, (schema, types));
    }

    /// The number of a layout, which it gets where it has none.
    pub(super) fn id_of(&mut self, schema: &SchemaRef, registrations: &mut Writes) -> Result<u32, TransformError> {
        if let Some((id, _)) = self.known.iter().find(|(_, (known, _))| known == schema) {
            return Ok(*id);
        }
        let id = self.known.keys().max().map_or(1, |id| id + 1);
        let key = [LAYOUT.as_bytes(), &id.to_be_bytes()].concat();
        registrations.push((Space::Catalog, key, Some(encode_schema(schema)?)));
        self.insert(id, Arc::clone(schema));
        Ok(id)
    }

    /// The columns of a row as it was written.
    pub(super) fn schema_of(&self, row: &[u8]) -> Result<SchemaRef, TransformError> {
        let layout = StoredRow::decode(row)?.layout;
        Ok(Arc::clone(&self.known.get(&layout).ok_or_else(|| unknown(layout))?.0))
    }

    /// Reads columns of rows, by name and in the types that are wanted now.
    pub(super) fn read<'r>(
        &self,
        rows: impl IntoIterator<Item = &'r [u8]>,
        wanted: &Schema,
    ) -> Result<Columns, TransformError> {
        let rows: Vec<StoredRow<'_>> = rows.into_iter().map(StoredRow::decode).collect::<Result<_, _>>()?;
        let mut groups: Vec<(u32, Vec<usize>)> = Vec::new();
        for (i, row) in rows.iter().enumerate() {
            match groups.iter_mut().find(|(layout, _)| *layout == row.layout) {
                Some((_, members)) => members.push(i),
                None => groups.push((row.layout, vec![i])),
            }
        }
        let mut lacking = Vec::new();
        let mut parts: Vec<Vec<ArrayRef>> = Vec::new();
        for (layout, members) in &groups {
            parts.push(self.read_layout(*layout, &rows, members, wanted, &mut lacking)?);
        }
        lacking.sort_unstable();
        let columns = match parts.len() {
            0 => wanted.fields().iter().map(|field| new_null_array(field.data_type(), 0)).collect(),
            1 => parts.pop().unwrap_or_default(),
            _ => assemble(&groups, &parts, rows.len())?,
        };
        Ok(Columns { columns, lacking })
    }

    fn read_layout(
        &self,
        layout: u32,
        rows: &[StoredRow<'_>],
        members: &[usize],
        wanted: &Schema,
        lacking: &mut Vec<(usize, usize)>,
    ) -> Result<Vec<ArrayRef>, TransformError> {
        let (schema, types) = self.known.get(&layout).ok_or_else(|| unknown(layout))?;
        let stored = rowcode::decode(types, members.iter().map(|&i| rows[i].row))?;
        let mut columns = Vec::with_capacity(wanted.fields().len());
        for (c, field) in wanted.fields().iter().enumerate() {
            let Some((at, _)) = schema.column_with_name(field.name()) else {
                // The column is younger than the row.
                lacking.extend(members.iter().map(|&i| (i, c)));
                columns.push(new_null_array(field.data_type(), members.len()));
                continue;
            };
            lacking.extend(members.iter().filter(|&&i| rows[i].lacks(at)).map(|&i| (i, c)));
            let column = &stored[at];
            let converted = convert(column, field.data_type());
            let lost = (0..converted.len()).filter(|&row| converted.is_null(row) && !column.is_null(row));
            lacking.extend(lost.map(|row| (members[row], c)));
            columns.push(converted);
        }
        Ok(columns)
    }
}

fn unknown(layout: u32) -> TransformError {
    TransformError::State(format!("a stored row has layout {layout}, which is not known"))
}

/// A layout as the log writes the shape of a table; the table has no name.
fn encode_schema(schema: &Schema) -> Result<Vec<u8>, TransformError> {
    let columns = schema.fields().iter().map(|field| column_of_field(field)).collect();
    let shape = TableSchema { source: SourceId::new(""), table: TableId::new("", ""), version: 0, columns };
    Ok(LogEntry::Schema(shape).encode()?)
}

fn decode_schema(bytes: &[u8]) -> Result<SchemaRef, TransformError> {
    let LogEntry::Schema(shape) = LogEntry::decode(bytes)? else {
        return Err(TransformError::State("a layout is no shape".to_owned()));
    };
    let fields = shape.columns.iter().map(|column| Field::new(&column.name, column.data_type.clone(), true));
    Ok(Arc::new(Schema::new(fields.collect::<Vec<_>>())))
}

/// The values in another type; null where one does not fit it.
fn convert(column: &ArrayRef, wanted: &DataType) -> ArrayRef {
    if column.data_type() == wanted {
        return Arc::clone(column);
    }
    let options = CastOptions { safe: true, ..CastOptions::default() };
    cast_with_options(column, wanted, &options).unwrap_or_else(|_| new_null_array(wanted, column.len()))
}

/// Puts the rows of several layouts back into their order.
fn assemble(
    groups: &[(u32, Vec<usize>)],
    parts: &[Vec<ArrayRef>],
    len: usize,
) -> Result<Vec<ArrayRef>, TransformError> {
    let mut picks = vec![(0, 0); len];
    for (group, (_, members)) in groups.iter().enumerate() {
        for (row, &i) in members.iter().enumerate() {
            picks[i] = (group, row);
        }
    }
    let columns = (0..parts[0].len()).map(|c| {
        let arrays: Vec<&dyn Array> = parts.iter().map(|part| part[c].as_ref()).collect();
        interleave(&arrays, &picks)
    });
    Ok(columns.collect::<Result<_, _>>()?)
}

/// Rows of columns by index, null where there is none.
pub(super) fn spread(columns: &[ArrayRef], picks: &UInt32Array) -> Result<Vec<ArrayRef>, TransformError> {
    Ok(columns.iter().map(|column| take(column, picks, None)).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int32Array, Int64Array, StringArray};
    use arrow::datatypes::{Field, Int64Type};

    use super::*;

    fn schema(fields: &[(&str, DataType)]) -> SchemaRef {
        let fields = fields.iter().map(|(name, data_type)| Field::new(*name, data_type.clone(), true));
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    fn row(layout: u32, lacking: &[usize], columns: &[ArrayRef]) -> Vec<u8> {
        let mut out = Vec::new();
        put_row(&mut out, layout, lacking, rowcode::encode(columns).expect("rows").row(0));
        out
    }

    #[test]
    fn rows_of_older_layouts_are_read_into_the_shape_of_today() {
        let (mut layouts, mut registrations) = (Layouts::default(), Writes::new());
        let old = schema(&[("id", DataType::Int32), ("gone", DataType::Utf8)]);
        let new = schema(&[("name", DataType::Utf8), ("id", DataType::Int64)]);
        let first = layouts.id_of(&old, &mut registrations).expect("a number");
        let second = layouts.id_of(&new, &mut registrations).expect("a number");
        assert_eq!(layouts.id_of(&old, &mut registrations).expect("known"), first);
        assert_eq!(registrations.len(), 2);
        let text = |value: &str| -> ArrayRef { Arc::new(StringArray::from(vec![value])) };
        let rows = [
            row(second, &[], &[text("a"), Arc::new(Int64Array::from(vec![5]))]),
            row(first, &[], &[Arc::new(Int32Array::from(vec![6])), text("x")]),
            row(second, &[0], &[new_null_array(&DataType::Utf8, 1), Arc::new(Int64Array::from(vec![7]))]),
        ];
        let read = layouts.read(rows.iter().map(Vec::as_slice), &new).expect("read");
        assert_eq!(read.columns[1].as_primitive::<Int64Type>().values(), &[5, 6, 7]);
        assert_eq!(read.columns[0].as_string::<i32>().value(0), "a");
        assert_eq!(read.lacking, vec![(1, 0), (2, 0)]);
    }
}
