//! A difference in numbers, for whoever decides whether changed mappings are right before they are applied.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Decimal128Type};
use syncline_schemas::rowcode;

use super::difference::{Page, Published};
use super::emit::field_types;
use super::exceptions::{Texts, texts};
use crate::TransformError;

/// What becomes of the rows of an entity.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tally {
    /// Rows that were delivered.
    pub before: u64,
    /// Rows that will stand at the targets.
    pub after: u64,
    /// Rows that were not there.
    pub added: u64,
    /// Rows with other values.
    pub changed: u64,
    /// Rows that are taken back.
    pub removed: u64,
    /// Totals of the numeric fields.
    pub totals: Vec<Total>,
}

/// A numeric field over all rows, in units of its last digit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Total {
    /// The field.
    pub field: String,
    /// Digits behind the point.
    pub scale: i8,
    /// Over the rows that were delivered.
    pub before: i128,
    /// Over the rows that will stand.
    pub after: i128,
}

/// A row that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowDifference {
    /// Its key, field by field.
    pub key: Texts,
    /// The other fields before; none where it was not there.
    pub before: Option<Texts>,
    /// The other fields now; none where it is taken back.
    pub after: Option<Texts>,
}

impl Page {
    /// The entity whose rows it holds.
    #[must_use]
    pub fn entity(&self) -> &'static str {
        &self.entity.name
    }

    /// Adds the page to the numbers of its entity.
    ///
    /// # Errors
    /// [`TransformError::Arrow`] where a row does not decode.
    pub fn count(&self, tally: &mut Tally) -> Result<(), TransformError> {
        for (row, after) in self.differing() {
            match (&self.was[row], after) {
                (Published::Nothing, _) => tally.added += 1,
                (_, Some(_)) => tally.changed += 1,
                (_, None) => tally.removed += 1,
            }
        }
        let stands = self.was.iter().zip(&self.is).map(|(was, is)| if *is == Published::Held { was } else { is });
        let sides = [rows(self.was.iter()), rows(stands)];
        tally.before += sides[0].len() as u64;
        tally.after += sides[1].len() as u64;
        let (_, types) = field_types(self.entity);
        let columns =
            [rowcode::decode(&types, sides[0].iter().copied())?, rowcode::decode(&types, sides[1].iter().copied())?];
        let fields = self.entity.fields[self.entity.key_len()..].iter().enumerate();
        let numeric = fields.filter_map(|(at, field)| match types[at] {
            DataType::Decimal128(_, scale) => Some((at, field.name.as_str(), scale)),
            _ => None,
        });
        for (number, (at, field, scale)) in numeric.enumerate() {
            if tally.totals.len() == number {
                tally.totals.push(Total { field: field.to_owned(), scale, before: 0, after: 0 });
            }
            let total = |column: &dyn Array| -> i128 { column.as_primitive::<Decimal128Type>().iter().flatten().sum() };
            tally.totals[number].before += total(&columns[0][at]);
            tally.totals[number].after += total(&columns[1][at]);
        }
        Ok(())
    }

    /// The first rows that differ, with the fields that do.
    ///
    /// # Errors
    /// [`TransformError::Arrow`] where a row does not decode.
    pub fn samples(&self, limit: usize) -> Result<Vec<RowDifference>, TransformError> {
        let (key_types, row_types) = field_types(self.entity);
        let names: Vec<&str> = self.entity.fields.iter().map(|field| field.name.as_str()).collect();
        let (key_names, row_names) = names.split_at(self.entity.key_len());
        let fields = |types: &[DataType], names: &[&str], bytes: &[u8]| -> Result<Texts, TransformError> {
            Ok(texts(names, &rowcode::decode(types, [bytes])?))
        };
        let sample = |(row, after): (usize, Option<&[u8]>)| {
            let before = if let Published::Row(before) = &self.was[row] { Some(before.as_slice()) } else { None };
            let before = before.map(|bytes| fields(&row_types, row_names, bytes)).transpose()?;
            let after = after.map(|bytes| fields(&row_types, row_names, bytes)).transpose()?;
            let key = fields(&key_types, key_names, &self.keys[row])?;
            Ok(match (before, after) {
                (Some(before), Some(after)) => {
                    let (before, after) = before.into_iter().zip(after).filter(|(one, other)| one != other).unzip();
                    RowDifference { key, before: Some(before), after: Some(after) }
                }
                (before, after) => RowDifference { key, before, after },
            })
        };
        self.differing().take(limit).map(sample).collect()
    }
}

fn rows<'p>(published: impl Iterator<Item = &'p Published>) -> Vec<&'p [u8]> {
    published.filter_map(|row| if let Published::Row(row) = row { Some(row.as_slice()) } else { None }).collect()
}
