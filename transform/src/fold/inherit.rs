//! What a new state takes over from an older one: the last good contributions of rows that are held.
//!
//! When mappings change, the log is folded again into a new state. A row that is held there, and was never good under the
//! mappings as they are now, keeps what it contributed before: otherwise one typing error would delete a whole entity at the
//! targets, where a held row otherwise never takes anything back.

use std::collections::HashMap;

use syncline_schemas::ident::LogOffset;

use super::catalog;
use super::contribution::{Contribution, Value};
use super::unit::{Progress, Unit};
use crate::TransformError;
use crate::state::{Space, State};

/// An older state, which does not change any more.
pub(super) struct Inheritance {
    older: Box<dyn State + Send>,
    /// Its mappings by name.
    ids: HashMap<String, [u8; 4]>,
    /// The entry that it has not done, of which its records may be in the midst.
    unit: Option<Unit>,
}

impl Inheritance {
    pub(super) fn of(older: Box<dyn State + Send>, folded: LogOffset) -> Result<Self, TransformError> {
        catalog::refuse_other_format(older.as_ref(), &mut Vec::new())?;
        let known = catalog::numbered(older.as_ref(), catalog::MAPPING)?;
        let unit = Progress::read(older.as_ref())?.map(|_| Unit { entry: folded.next(), first: None });
        Ok(Self { unit, ids: known.into_iter().map(|known| (known.name, known.id)).collect(), older })
    }

    /// The record that it holds of a driving row under a mapping.
    pub(super) fn record(&self, mapping: &str, driving_key: &[u8]) -> Result<Option<Vec<u8>>, TransformError> {
        let Some(id) = self.ids.get(mapping) else { return Ok(None) };
        self.older.get(Space::Contributions, &[id.as_slice(), driving_key].concat())
    }

    /// What a record says that its row contributed, at the end of a transaction.
    pub(super) fn settled<'r>(&self, record: &'r [u8]) -> Result<Option<Value<'r>>, TransformError> {
        Ok(Contribution::decode(record)?.settled(self.unit))
    }
}
