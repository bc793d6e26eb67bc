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
use syncline_sinks::SinkError;
use thiserror::Error;
use tracing::info;
use xxhash_rust::xxh3::xxh3_64;

use super::{Refused, RefusedRow, State, compose, malformed, parse};
use crate::pipeline::outbox::unreadable;

/// A refused row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Letter {
    /// What it is called, the same as long as this version is refused.
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
    #[error(
        "there is no dead letter {0}; it may have got through since, or another version of the row stands in its place"
    )]
    Unknown(String),
    /// It cannot be sent.
    #[error("it is larger than what is kept, so it cannot be sent again: mend it at the source, or give it up")]
    NotKept,
    /// Nothing is sent by a sink that is parked.
    #[error("the sink is parked: {0}")]
    Parked(String),
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
    State(#[from] SinkError),
}

impl Refused {
    fn letter(&self, entity: &str, key: &[u8], row: &RefusedRow) -> Letter {
        let name = [self.sink.as_bytes(), &[0], entity.as_bytes(), &[0], row.version.as_bytes(), key].concat();
        Letter { id: format!("{:016x}", xxh3_64(&name)), sink: self.sink.clone(), row: row.clone(), fields: None }
    }

    /// Those that somebody wants to see, by entity and age.
    pub(crate) fn letters(&self, wants: impl Fn(&Letter) -> bool) -> Vec<Letter> {
        let mut letters: Vec<Letter> = self.wanted(&self.lock(), wants).into_iter().map(|(letter, _)| letter).collect();
        letters.sort_by(|a, b| (&a.row.entity, a.row.since_ms, &a.id).cmp(&(&b.row.entity, b.row.since_ms, &b.id)));
        letters
    }

    /// The same with their keys, in no order.
    fn wanted(&self, state: &State, wants: impl Fn(&Letter) -> bool) -> Vec<(Letter, Vec<u8>)> {
        let rows = state.rows.iter().flat_map(|(entity, rows)| rows.iter().map(move |(key, row)| (entity, key, row)));
        let letters = rows.map(|(entity, key, row)| (self.letter(entity, key, row), key.clone()));
        letters.filter(|(letter, _)| wants(letter)).collect()
    }

    /// One of them, with its key.
    fn one(&self, state: &State, id: &str) -> Result<(Letter, Vec<u8>), LetterError> {
        self.wanted(state, |letter| letter.id == id).pop().ok_or_else(|| LetterError::Unknown(id.to_owned()))
    }

    /// Refused rows that found no place and can only be told of.
    pub(crate) fn unlisted(&self) -> u64 {
        self.lock().unlisted
    }

    /// Takes it that those were mended; how many there were.
    pub(crate) fn forget_unlisted(&self, note: &str) -> Result<u64, LetterError> {
        let mut state = self.lock();
        let mut commit = Commit::new();
        commit.put_cursor(&self.unlisted_name(), 0);
        self.store.commit(commit, Durability::Synced).map_err(|error| unreadable(&error))?;
        let rows = std::mem::take(&mut state.unlisted);
        info!(sink = self.sink, rows, note, "refused rows that were not kept are taken to be mended");
        Ok(rows)
    }

    /// The encoded row of a letter; empty where it was not kept.
    fn stored(&self, letter: &Letter, key: &[u8]) -> Result<Vec<u8>, LetterError> {
        let place = self.place(&letter.row.entity, key);
        let stored = self.store.get(Space::Sinks, &place).map_err(|error| unreadable(&error))?;
        let stored = stored.ok_or_else(|| LetterError::Unknown(letter.id.clone()))?;
        let (_, row) = parse(&stored).ok_or_else(|| malformed(&self.sink))?;
        Ok(row.to_vec())
    }

    /// The row of a letter, where it was kept.
    fn row(&self, letter: &Letter, key: &[u8]) -> Result<Option<DeltaBatch>, LetterError> {
        let row = self.stored(letter, key)?;
        if row.is_empty() {
            return Ok(None);
        }
        Ok(delta::decode(&row).map_err(SinkError::from)?.into_iter().next())
    }

    /// One with its values.
    pub(crate) fn show(&self, id: &str) -> Result<Letter, LetterError> {
        let (letter, key) = self.one(&self.lock(), id)?;
        let fields = self.row(&letter, &key)?.map(|batch| fields(&batch.rows)).transpose();
        Ok(Letter { fields: fields.map_err(SinkError::from)?, ..letter })
    }

    /// Has one sent again at once, whatever the target said of later attempts.
    pub(crate) fn send_again(&self, id: &str, note: &str) -> Result<(), LetterError> {
        if self.one(&self.lock(), id)?.0.row.kept && self.send_all_again(|letter| letter.id == id, note)? > 0 {
            return Ok(());
        }
        Err(LetterError::NotKept)
    }

    /// Has all that fit sent again, but for those that are not kept; how many.
    pub(crate) fn send_all_again(&self, wants: impl Fn(&Letter) -> bool, note: &str) -> Result<usize, LetterError> {
        let mut state = self.lock();
        let wanted = self.wanted(&state, |letter| letter.row.kept && wants(letter));
        let (mut commit, mut heads) = (Commit::new(), Vec::new());
        for (letter, key) in wanted {
            let row = self.stored(&letter, &key)?;
            if row.is_empty() {
                continue;
            }
            let head = RefusedRow { asked: true, ..letter.row };
            commit.put(Space::Sinks, self.place(&head.entity, &key), compose(&head, &row));
            heads.push((key, head));
        }
        self.store.commit(commit, Durability::Synced).map_err(|error| unreadable(&error))?;
        let count = heads.len();
        for (key, head) in heads {
            state.rows.entry(head.entity.clone()).or_default().insert(key, head);
        }
        drop(state);
        info!(sink = self.sink, rows = count, note, "dead letters are sent again");
        self.wake.notify_one();
        Ok(count)
    }

    /// Gives one up: the target goes without this version of the row.
    pub(crate) fn give_up(&self, id: &str, note: &str) -> Result<(), LetterError> {
        let mut state = self.lock();
        let (Letter { row, .. }, key) = self.one(&state, id)?;
        let mut commit = Commit::new();
        commit.delete(Space::Sinks, self.place(&row.entity, &key));
        self.store.commit(commit, Durability::Synced).map_err(|error| unreadable(&error))?;
        state.rows.get_mut(&row.entity).and_then(|rows| rows.remove(&key));
        info!(sink = self.sink, entity = row.entity, version = row.version, note, "a dead letter is given up");
        state.pass.touched.insert((row.entity, key), row.version);
        Ok(())
    }

    /// Changes fields of one and has it sent again. The text that a field is given is read as the entity's type.
    pub(crate) fn edit(&self, id: &str, changes: &BTreeMap<String, String>, note: &str) -> Result<(), LetterError> {
        let mut state = self.lock();
        let (letter, key) = self.one(&state, id)?;
        let batch = self.row(&letter, &key)?.ok_or(LetterError::NotKept)?;
        let head = RefusedRow { asked: true, ..letter.row };
        let entity = entity::get(&head.entity).ok_or_else(|| LetterError::Unknown(id.to_owned()))?;
        let rows = changed(entity, &batch.rows, changes)?;
        let row = delta::encode(&[DeltaBatch { entity: head.entity.clone(), rows }]).map_err(SinkError::from)?;
        let mut commit = Commit::new();
        commit.put(Space::Sinks, self.place(&head.entity, &key), compose(&head, &row));
        self.store.commit(commit, Durability::Synced).map_err(|error| unreadable(&error))?;
        let (entity, version) = (head.entity.clone(), head.version.clone());
        info!(sink = self.sink, entity, version, note, "a dead letter is changed and sent again");
        state.rows.entry(entity.clone()).or_default().insert(key.clone(), head);
        state.pass.touched.insert((entity, key), version);
        drop(state);
        self.wake.notify_one();
        Ok(())
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
    RecordBatch::try_new(row.schema(), columns).map_err(|error| LetterError::State(SinkError::from(error)))
}

fn read(text: &str, data_type: &DataType) -> Result<ArrayRef, arrow::error::ArrowError> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(&StringArray::from(vec![text]), data_type, &options)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use arrow::array::AsArray as _;
    use syncline_journal::{Limits, Store};
    use syncline_schemas::ident::{LogOffset, Version};
    use syncline_sinks::{DeltaSource as _, Reject, Span};

    use super::*;
    use crate::pipeline::deliver::tests::items;
    use crate::pipeline::refused::Again;

    /// A refused item, as a target tells of it.
    fn reject(row: RecordBatch) -> Reject {
        let version = row.column(1).as_fixed_size_binary().value(0).try_into().expect("16 bytes");
        Reject {
            entity: "item".to_owned(),
            row,
            key: "{}".to_owned(),
            version: Version::from_bytes(version).to_string(),
            code: "unknown_uom".to_owned(),
            field: None,
            retryable: true,
        }
    }

    #[test]
    fn what_an_operator_did_while_the_old_row_was_on_its_way_outlives_the_answer_to_that() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(folder.path(), Limits::default()).expect("opens");
        let refused = Refused::open(&store, "planning", Duration::MAX).expect("opens");
        refused.confirm(LogOffset(1));
        let row = items(LogOffset(1), &[1]).rows;
        refused.keep(vec![reject(row.clone())]).expect("kept");
        let id = || refused.letters(|_| true)[0].id.clone();
        let name = || refused.show(&id()).expect("there").fields.expect("kept")["base_uom"].clone();
        let every = Span { after: LogOffset::START, upto: LogOffset(u64::MAX) };
        let pass = |meanwhile: &dyn Fn(), taken: bool| {
            refused.send_all_again(|_| true, "").expect("asked");
            refused.begin(true);
            let sent = Again(&refused).read(every).expect("reads").count();
            meanwhile();
            if !taken {
                refused.keep(vec![reject(row.clone())]).expect("told");
            }
            let mut commit = Commit::new();
            refused.settle(u64::from(!taken), &mut commit);
            store.commit(commit, Durability::Buffered).expect("commits");
            sent
        };
        let edit =
            |value: &str| refused.edit(&id(), &[("base_uom".to_owned(), value.to_owned())].into(), "").expect("edited");
        assert_eq!(pass(&|| edit("EA"), false), 1);
        assert_eq!(name().as_deref(), Some("EA"));
        // A write that is begun again refuses the old row once more.
        refused.begin(false);
        refused.keep(vec![reject(row.clone())]).expect("told");
        assert_eq!(name().as_deref(), Some("EA"));
        // It is to be sent once more, also by whoever comes after a restart.
        let again = Refused::open(&store, "planning", Duration::MAX).expect("opens");
        assert!(again.letters(|_| true)[0].row.asked);
        drop(again);
        let given_up = id();
        pass(&|| refused.give_up(&given_up, "").expect("given up"), false);
        assert_eq!((refused.count(), refused.letters(|_| true)), (0, Vec::new()), "and stays so");
        assert!(matches!(refused.show(&given_up), Err(LetterError::Unknown(_))));
        // What the target has taken it would not take once more in the same version.
        refused.begin(false);
        refused.keep(vec![reject(row.clone())]).expect("told");
        pass(&|| edit("KG"), true);
        assert_eq!(refused.count(), 0);
    }

    #[test]
    fn a_row_that_its_master_never_followed_is_given_to_people_after_its_time_also_over_restarts() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(folder.path(), Limits::default()).expect("opens");
        let open = |retry_for| {
            let refused = Refused::open(&store, "planning", retry_for).expect("opens");
            refused.confirm(LogOffset(2));
            refused
        };
        let tell = |refused: &Refused, offset, again| {
            refused.begin(again);
            refused.keep(vec![reject(items(LogOffset(offset), &[1]).rows)]).expect("told");
            refused.settle(1, &mut Commit::new());
        };
        let only = |refused: &Refused| refused.letters(|_| true)[0].row.clone();
        let refused = open(Duration::from_secs(3600));
        tell(&refused, 1, false);
        refused.expire().expect("looks");
        assert!(only(&refused).retryable && refused.expired() == 0, "it has an hour");
        let since = only(&refused).since_ms;
        drop(refused);
        // Another process, for which the time is over: it counts from the first refusal.
        let refused = open(Duration::ZERO);
        refused.expire().expect("written down");
        assert_eq!((only(&refused).since_ms, refused.expired(), refused.count()), (since, 1, 1));
        drop(refused);
        let refused = open(Duration::from_secs(3600));
        assert!(!only(&refused).retryable && only(&refused).expired, "a longer time does not bring it back");
        tell(&refused, 1, true);
        assert!(!only(&refused).retryable, "nor does another refusal, after somebody has asked");
        refused.send_all_again(|_| true, "").expect("asked");
        assert!(only(&refused).asked, "somebody may ask at any time");
        tell(&refused, 2, false);
        assert!(only(&refused).retryable && refused.expired() == 0, "a newer version is another row");
    }

    #[test]
    fn a_field_is_given_only_what_it_can_hold() {
        let item = entity::get("item").expect("canonical");
        let row = items(LogOffset(1), &[1]).rows;
        let set = |name: &str, text: &str| changed(item, &row, &[(name.to_owned(), text.to_owned())].into());
        let fault = |name, text| set(name, text).expect_err("refused").to_string();
        assert!(fault("item_id", "2").starts_with("item_id: is a part of the key"));
        assert!(fault("nonsense", "2").starts_with("nonsense: item has no such field"));
        let required = item.fields.iter().find(|field| field.required && !field.key).expect("some field");
        assert_eq!(fault(&required.name, ""), format!("{}: is required", required.name));
        set("base_uom", "EA").expect("a text");
    }
}
