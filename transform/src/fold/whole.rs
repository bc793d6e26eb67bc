//! Every row of an entity as state has it, for targets that are filled anew.
//!
//! All rows carry one version, that of the cut: behind whatever was emitted for the entries up to there, before whatever is
//! emitted for later ones. A sum that is held back is its key alone: what was delivered of it last stays.

use std::sync::Arc;

use arrow::array::{ArrayRef, FixedSizeBinaryArray, RecordBatch, StringArray, UInt8Array};
use arrow::compute::{CastOptions, cast_with_options};
use syncline_schemas::delta::{self, DeltaBatch};
use syncline_schemas::entity::Entity;
use syncline_schemas::ident::{LogOffset, Version};
use syncline_schemas::rowcode;

use super::difference::{Published, Side};
use super::emit::{Cause, CauseText, Emitted, Lineage, Origin, delta_batch, field_types, null_row};
use super::logic::Logic;
use super::unit::Progress;
use crate::TransformError;
use crate::state::State;

/// An entity in a state that does not change.
pub struct Whole<'a> {
    side: Side<'a>,
    entity: &'static Entity,
    logic: Logic,
    cut: Cut,
}

/// The moment of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Of the state.
    pub epoch: u32,
    /// The last entry that is folded.
    pub folded: LogOffset,
    /// When the state was looked at, microseconds since 1970.
    pub at: i64,
}

impl Cut {
    /// The version of every row.
    #[must_use]
    pub fn version(&self) -> Version {
        Version::new(self.epoch, self.folded, u32::MAX)
    }
}

/// True while an entry is at work that takes several steps.
///
/// # Errors
/// [`TransformError::State`] where the state cannot be read.
pub fn is_amidst(state: &dyn State) -> Result<bool, TransformError> {
    Ok(Progress::read(state)?.is_some())
}

/// The key of an entity from the values of its fields as text, with commas between; a backslash takes the comma or backslash
/// behind it for a part of the value.
///
/// # Errors
/// Which field is at fault.
pub fn key_of(entity: &Entity, text: &str) -> Result<Vec<u8>, String> {
    let fields = &entity.fields[..entity.key_len()];
    let names = || fields.iter().map(|field| field.name.as_str()).collect::<Vec<_>>().join(",");
    let values = split(text);
    if values.len() > fields.len() {
        return Err(format!("the key of {} is {}", entity.name, names()));
    }
    // As where rows are shown, empty values at the end may be left out.
    let columns = fields.iter().enumerate().map(|(place, field)| {
        let value: ArrayRef = Arc::new(StringArray::from(vec![values.get(place).map_or("", String::as_str)]));
        let options = CastOptions { safe: false, ..CastOptions::default() };
        cast_with_options(&value, &field.field_type.arrow(), &options)
            .map_err(|_| format!("{} of the key is no {}", field.name, field.field_type.arrow()))
    });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let rows = rowcode::encode(&columns).map_err(|error| error.to_string())?;
    Ok(rows.row(0).to_vec())
}

fn split(text: &str) -> Vec<String> {
    let (mut values, mut chars) = (vec![String::new()], text.chars().peekable());
    while let Some(char) = chars.next() {
        let escaped = if char == '\\' { chars.next_if(|next| matches!(next, ',' | '\\')) } else { None };
        match (escaped, char) {
            (None, ',') => values.push(String::new()),
            (escaped, char) => values.last_mut().expect("one value at least").push(escaped.unwrap_or(char)),
        }
    }
    values
}

/// Some rows in key order.
pub struct WholePage {
    /// Upserts, and keys to be kept.
    pub rows: DeltaBatch,
    /// Where the next page begins.
    pub place: Vec<u8>,
}

impl<'a> Whole<'a> {
    /// None while an entry is at work that takes several steps: its rows are those of no moment.
    ///
    /// # Errors
    /// [`TransformError::State`] where the state cannot be read.
    pub fn new(state: &'a dyn State, entity: &'static Entity, cut: Cut) -> Result<Option<Self>, TransformError> {
        let side = Side::new(state)?;
        if side.is_amidst {
            return Ok(None);
        }
        Ok(Some(Self { side, entity, logic: Logic::new(entity, Vec::new())?, cut }))
    }

    /// The rows behind a place, at most so many; empty stands for the beginning. None at the end.
    ///
    /// # Errors
    /// [`TransformError::State`] where the state cannot be read.
    pub fn page(&self, after: &[u8], limit: usize) -> Result<Option<WholePage>, TransformError> {
        let mut place = after.to_vec();
        loop {
            let (keys, stored): (Vec<_>, Vec<_>) =
                self.side.scan(self.entity, &place, limit)?.into_iter().map(|(key, value)| (key, Some(value))).unzip();
            let Some(last) = keys.last() else { return Ok(None) };
            place.clone_from(last);
            if let Some(rows) = self.rows(&keys, &stored)? {
                return Ok(Some(WholePage { rows, place }));
            }
        }
    }

    /// The row of one key, if there is one.
    ///
    /// # Errors
    /// [`TransformError::State`] where the state cannot be read.
    pub fn row(&self, key: &[u8]) -> Result<Option<DeltaBatch>, TransformError> {
        let Some(stored) = self.side.get(self.entity, key)? else { return Ok(None) };
        self.rows(&[key.to_vec()], &[Some(stored)])
    }

    fn rows(&self, keys: &[Vec<u8>], stored: &[Option<Vec<u8>>]) -> Result<Option<DeltaBatch>, TransformError> {
        let published = self.side.published(self.entity, &self.logic, keys, stored)?;
        let nothing = null_row(self.entity)?;
        let (mut there, mut rows, mut upserts) = (Vec::new(), Vec::new(), Vec::new());
        for (key, published) in keys.iter().zip(&published) {
            let row = match published {
                Published::Nothing => continue,
                Published::Held => None,
                Published::Row(row) => Some(row.as_slice()),
            };
            there.push(key.as_slice());
            rows.push(row.unwrap_or(&nothing));
            upserts.push(row.is_some());
        }
        if there.is_empty() {
            return Ok(None);
        }
        let (key_types, row_types) = field_types(self.entity);
        let mut fields = rowcode::decode(&key_types, there)?;
        fields.extend(rowcode::decode(&row_types, rows)?);
        let cause = CauseText {
            source: "syncline".to_owned(),
            table: "snapshot".to_owned(),
            position: self.cut.folded.to_string(),
            committed_at: self.cut.at,
            captured_at: self.cut.at,
        };
        let origin = Origin { epoch: self.cut.epoch, offset: self.cut.folded, causes: vec![Cause::Text(cause)] };
        let operations: UInt8Array =
            upserts.iter().map(|&upsert| Some(if upsert { delta::UPSERT } else { delta::KEEP })).collect();
        let lineage = vec![Lineage { cause: 0, row: 0 }; upserts.len()];
        let count = upserts.len();
        let DeltaBatch { entity, rows } =
            delta_batch(self.entity, Emitted { fields, upserts, lineage, presence: Vec::new() }, &origin, 0)?;
        let version = self.cut.version();
        let versions = FixedSizeBinaryArray::try_from_iter(std::iter::repeat_n(version.as_bytes(), count))?;
        let mut columns: Vec<ArrayRef> = rows.columns().to_vec();
        (columns[0], columns[1]) = (Arc::new(operations), Arc::new(versions));
        Ok(Some(DeltaBatch { entity, rows: RecordBatch::try_new(rows.schema(), columns)? }))
    }
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn a_key_with_a_comma_in_it_names_its_own_row() {
        for (text, values) in [
            ("", vec![""]),
            ("0100,A-1", vec!["0100", "A-1"]),
            (r"0100,A\,1,", vec!["0100", "A,1", ""]),
            (r"C:\\,B\2\", vec![r"C:\", r"B\2\"]),
        ] {
            assert_eq!(split(text), values, "{text}");
        }
    }
}
