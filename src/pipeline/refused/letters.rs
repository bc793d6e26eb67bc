//! Refused rows as operators handle them, dead letters: seen with their values, sent again, changed, or given up.
//!
//! Each of these is of one version of a row. A newer version that gets through settles the matter by itself, whatever was
//! done, and one that is refused stands in its place. What was done is logged, with the operator's words and without the key.

use std::collections::BTreeMap;

use arrow::array::{ArrayRef, RecordBatch, StringArray, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde::{Deserialize, Serialize};
use syncline_journal::{Commit, Durability, Space};
use syncline_schemas::delta::{self, DeltaBatch, SYSTEM_COLUMNS};
use syncline_schemas::entity::{self, Entity};
use thiserror::Error;
use tracing::info;
use xxhash_rust::xxh3::xxh3_64;

use super::{Refused, RefusedRow, compose, malformed, parse};
use crate::pipeline::outbox::unreadable;

/// A refused row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Letter {
    /// What it is called, the same as long as the key is refused.
    pub(crate) id: String,
    pub(crate) sink: String,
    #[serde(flatten)]
    pub(crate) row: RefusedRow,
    /// The values of its fields, where it is shown by itself and was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fields: Option<BTreeMap<String, Option<String>>>,
}

/// Why a letter is not handled.
#[derive(Debug, Error)]
pub(crate) enum LetterError {
    /// There is none of that name any more, or never was.
    #[error("there is no dead letter {0}; it may have got through since")]
    Unknown(String),
    /// It cannot be sent.
    #[error("it is larger than what is kept, so it cannot be sent again: mend it at the source, or give it up")]
    NotKept,
    /// A field cannot be set so.
    #[error("{field}: {reason}")]
    Field {
        /// Its name.
        field: String,
        /// What is wrong.
        reason: String,
    },
    /// The store failed.
    #[error(transparent)]
    State(#[from] syncline_sinks::SinkError),
}

impl Refused {
    fn letter(&self, entity: &str, key: &[u8], row: &RefusedRow) -> Letter {
        let id = xxh3_64(&[self.sink.as_bytes(), &[0], entity.as_bytes(), &[0], key].concat());
        Letter { id: format!("{id:016x}"), sink: self.sink.clone(), row: row.clone(), fields: None }
    }

    /// Those that somebody wants to see, by entity and age.
    pub(crate) fn letters(&self, wants: impl Fn(&Letter) -> bool) -> Vec<Letter> {
        let state = self.lock();
        let rows = state.rows.iter().flat_map(|(entity, rows)| rows.iter().map(move |(key, row)| (entity, key, row)));
        let mut letters: Vec<Letter> =
            rows.map(|(entity, key, row)| self.letter(entity, key, row)).filter(wants).collect();
        drop(state);
        letters.sort_by(|a, b| (&a.row.entity, a.row.since_ms, &a.id).cmp(&(&b.row.entity, b.row.since_ms, &b.id)));
        letters
    }

    /// Refused rows that found no place and can only be told of.
    pub(crate) fn unlisted(&self) -> u64 {
        self.lock().unlisted
    }

    /// Entity and key of a letter.
    fn find(&self, id: &str) -> Result<(String, Vec<u8>), LetterError> {
        let state = self.lock();
        let mut rows =
            state.rows.iter().flat_map(|(entity, rows)| rows.iter().map(move |(key, row)| (entity, key, row)));
        let found = rows.find(|(entity, key, row)| self.letter(entity, key, row).id == id);
        found.map(|(entity, key, _)| (entity.clone(), key.clone())).ok_or_else(|| LetterError::Unknown(id.to_owned()))
    }

    /// What is stored of a letter: its head, and its row where that was kept.
    fn stored(&self, id: &str, entity: &str, key: &[u8]) -> Result<(RefusedRow, Option<DeltaBatch>), LetterError> {
        let stored = self.store.get(Space::Sinks, &self.place(entity, key)).map_err(|error| unreadable(&error))?;
        let stored = stored.ok_or_else(|| LetterError::Unknown(id.to_owned()))?;
        let (head, row) = parse(&stored).ok_or_else(|| malformed(&self.sink))?;
        let rows =
            if row.is_empty() { Vec::new() } else { delta::decode(row).map_err(syncline_sinks::SinkError::from)? };
        Ok((head, rows.into_iter().next()))
    }

    /// One with its values.
    pub(crate) fn show(&self, id: &str) -> Result<Letter, LetterError> {
        let (entity, key) = self.find(id)?;
        let (head, batch) = self.stored(id, &entity, &key)?;
        let fields = batch.map(|batch| fields(&batch.rows)).transpose().map_err(syncline_sinks::SinkError::from)?;
        Ok(Letter { fields, ..self.letter(&entity, &key, &head) })
    }

    /// Has one sent again at once, whatever the target said of later attempts.
    pub(crate) fn send_again(&self, id: &str, note: &str) -> Result<(), LetterError> {
        let (entity, key) = self.find(id)?;
        if self.stored(id, &entity, &key)?.1.is_none() {
            return Err(LetterError::NotKept);
        }
        self.said("sent again", &entity, note);
        let place = self.place(&entity, &key);
        self.lock().asked.insert(place);
        self.wake.notify_one();
        Ok(())
    }

    /// Gives one up: the target goes without this version of the row.
    pub(crate) fn give_up(&self, id: &str, note: &str) -> Result<(), LetterError> {
        let (entity, key) = self.find(id)?;
        let mut state = self.lock();
        let mut commit = Commit::new();
        commit.delete(Space::Sinks, self.place(&entity, &key));
        self.store.commit(commit, Durability::Synced).map_err(|error| unreadable(&error))?;
        state.rows.get_mut(&entity).and_then(|rows| rows.remove(&key));
        state.asked.remove(&self.place(&entity, &key));
        drop(state);
        self.said("given up", &entity, note);
        Ok(())
    }

    /// Changes fields of one and has it sent again. The text that a field is given is read as the entity's type.
    pub(crate) fn edit(&self, id: &str, changes: &BTreeMap<String, String>, note: &str) -> Result<(), LetterError> {
        let (entity, key) = self.find(id)?;
        let (head, batch) = self.stored(id, &entity, &key)?;
        let batch = batch.ok_or(LetterError::NotKept)?;
        let canonical = entity::get(&entity).ok_or_else(|| LetterError::Unknown(id.to_owned()))?;
        let rows = changed(canonical, &batch.rows, changes)?;
        let row =
            delta::encode(&[DeltaBatch { entity: entity.clone(), rows }]).map_err(syncline_sinks::SinkError::from)?;
        let mut state = self.lock();
        // A newer version may have come, or this one may have got through meanwhile.
        let is_there =
            state.rows.get(&entity).and_then(|rows| rows.get(&key)).is_some_and(|now| now.version == head.version);
        if !is_there {
            return Err(LetterError::Unknown(id.to_owned()));
        }
        let mut commit = Commit::new();
        commit.put(Space::Sinks, self.place(&entity, &key), compose(&head, &row));
        self.store.commit(commit, Durability::Synced).map_err(|error| unreadable(&error))?;
        self.said("changed and sent again", &entity, note);
        state.asked.insert(self.place(&entity, &key));
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    fn said(&self, what: &str, entity: &str, note: &str) {
        info!(sink = self.sink, entity, note, "a dead letter is {what}");
    }
}

/// The fields of a row as text.
fn fields(row: &RecordBatch) -> Result<BTreeMap<String, Option<String>>, arrow::error::ArrowError> {
    let options = FormatOptions::default().with_display_error(false);
    let columns = row.schema_ref().fields().iter().zip(row.columns()).skip(SYSTEM_COLUMNS);
    columns
        .map(|(field, column)| {
            let text = ArrayFormatter::try_new(column, &options)?.value(0).try_to_string()?;
            Ok((field.name().clone(), column.is_valid(0).then_some(text)))
        })
        .collect()
}

/// The row with other values; an empty text is none.
fn changed(entity: &Entity, row: &RecordBatch, changes: &BTreeMap<String, String>) -> Result<RecordBatch, LetterError> {
    let mut columns = row.columns().to_vec();
    for (name, text) in changes {
        let fault = |reason: String| LetterError::Field { field: name.clone(), reason };
        let place = entity.fields.iter().position(|field| field.name == *name);
        let place = place.ok_or_else(|| fault(format!("{} has no such field", entity.name)))?;
        if place < entity.key_len() {
            return Err(fault("is a part of the key, and another key is another row".to_owned()));
        }
        let field = &entity.fields[place];
        let column = &mut columns[SYSTEM_COLUMNS + place];
        *column = match text.as_str() {
            "" if field.required => return Err(fault("is required".to_owned())),
            "" => new_null_array(column.data_type(), 1),
            text if !field.values.is_empty() && !field.values.iter().any(|value| value == text) => {
                return Err(fault(format!("is one of {}", field.values.join(", "))));
            }
            text => read(text, column.data_type()).map_err(|error| fault(error.to_string()))?,
        };
    }
    RecordBatch::try_new(row.schema(), columns)
        .map_err(|error| LetterError::State(syncline_sinks::SinkError::from(error)))
}

fn read(text: &str, data_type: &DataType) -> Result<ArrayRef, arrow::error::ArrowError> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(&StringArray::from(vec![text]), data_type, &options)
}
