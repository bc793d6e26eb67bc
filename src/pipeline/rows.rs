//! Rows of the state as somebody asks for them, and what an operator says of those that are held.
//!
//! Beside the fold, which goes on meanwhile. Notes lie in the space of held rows under a byte that no held row begins with:
//!
//! ```text
//! held  N <fingerprint>   what was said, JSON
//! ```

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use syncline_journal::{Commit, Durability, JournalError, Space, Store};
use syncline_transform::TransformError;
use syncline_transform::fold::{self, Exception, Given};
use thiserror::Error;

use super::state::FoldState;

/// First byte of the keys of notes; [`fold`] numbers its own kinds from zero.
const NOTE: u8 = b'N';

/// Why there is no answer.
#[derive(Debug, Error)]
pub(crate) enum Refusal {
    /// What was asked for is not there.
    #[error("{0}")]
    Unknown(String),
    /// The state cannot be read or written.
    #[error(transparent)]
    State(#[from] TransformError),
}

impl From<JournalError> for Refusal {
    fn from(error: JournalError) -> Self {
        Self::State(super::state::unusable(&error))
    }
}

/// What an operator makes of a held row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// Seen to: it is listed again only if the row is found wanting once more.
    Resolved,
    /// Known and borne: it is not listed any more.
    Waived,
}

/// What was said of a held row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    pub(crate) state: Verdict,
    pub(crate) note: String,
    /// When, as in RFC 3339.
    pub(crate) at: String,
    /// The log entry at which the row had last been found wanting.
    offset: u64,
}

impl Note {
    fn hides(&self, exception: &Exception) -> bool {
        self.state == Verdict::Waived || exception.last.offset.0 <= self.offset
    }
}

/// A held row with what was said of it.
pub(crate) type Noted = (Exception, Option<Note>);

/// Which held rows are asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    pub(crate) mapping: Option<String>,
    pub(crate) entity: Option<String>,
    pub(crate) rule: Option<String>,
    /// Those that were put aside as well.
    pub(crate) all: bool,
}

impl Filter {
    fn takes(&self, exception: &Exception) -> bool {
        let is = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
        is(&self.mapping, exception.mapping.as_deref().unwrap_or_default())
            && is(&self.entity, &exception.entity)
            && is(&self.rule, &exception.rule)
    }
}

/// How many rows are held now, all of them.
pub(crate) fn held_count(store: &Store) -> usize {
    store.scan_prefix(Space::Held, &[]).filter(|pair| pair.as_ref().is_ok_and(|(key, _)| key[0] != NOTE)).count()
}

/// Held rows with what was said of them; false where there are more than asked for.
pub(crate) fn exceptions(store: &Store, filter: &Filter, limit: usize) -> Result<(Vec<Noted>, bool), Refusal> {
    let notes = notes(store)?;
    let (mut found, mut complete) = (Vec::new(), true);
    fold::exceptions(&FoldState(store), &mut |exception| {
        let note = notes.get(&exception.fingerprint);
        if filter.takes(&exception) && (filter.all || note.is_none_or(|note| !note.hides(&exception))) {
            complete = found.len() < limit;
            if complete {
                found.push((exception, note.cloned()));
            }
        }
        complete
    })?;
    Ok((found, complete))
}

/// The held row with a fingerprint.
pub(crate) fn exception(store: &Store, fingerprint: &str) -> Result<Noted, Refusal> {
    let mut found = None;
    fold::exceptions(&FoldState(store), &mut |exception| {
        if exception.fingerprint == fingerprint {
            found = Some(exception);
        }
        found.is_none()
    })?;
    let unknown =
        || Refusal::Unknown(format!("nothing with the fingerprint {fingerprint} is held; it may have mended"));
    let exception = found.ok_or_else(unknown)?;
    let note = notes(store)?.remove(fingerprint);
    Ok((exception, note))
}

/// Puts a held row aside.
pub(crate) fn note(
    store: &Store,
    fingerprint: &str,
    state: Verdict,
    note: String,
) -> Result<(Exception, Note), Refusal> {
    let (exception, _) = exception(store, fingerprint)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = instant(i64::try_from(now.as_micros()).unwrap_or_default());
    let note = Note { state, note, at, offset: exception.last.offset.0 };
    let mut commit = Commit::new();
    let value = serde_json::to_vec(&note).map_err(|error| TransformError::State(error.to_string()))?;
    commit.put(Space::Held, [&[NOTE], fingerprint.as_bytes()].concat(), value);
    store.commit(commit, Durability::Synced)?;
    Ok((exception, note))
}

fn notes(store: &Store) -> Result<HashMap<String, Note>, Refusal> {
    let mut notes = HashMap::new();
    for pair in store.scan_prefix(Space::Held, &[NOTE]) {
        let (key, value) = pair?;
        if let Ok(note) = serde_json::from_slice(&value) {
            notes.insert(String::from_utf8_lossy(&key[1..]).into_owned(), note);
        }
    }
    Ok(notes)
}

/// What the rows of a mapping give now; `key` is looked for in the source key and in the canonical one.
pub(crate) fn preview(
    store: &Store,
    mapping: &str,
    key: Option<&str>,
    limit: usize,
) -> Result<(Vec<Given>, bool), Refusal> {
    let (mut found, mut complete) = (Vec::new(), true);
    let known = given(store, mapping, limit, &mut found, &mut complete, &|given| {
        key.is_none_or(|key| joined_key(&given.source_key) == key || is_row(given, key))
    })?;
    if known {
        return Ok((found, complete));
    }
    Err(Refusal::Unknown(format!("no mapping {mapping} has folded anything; its name is SOURCE/FILE without .sql")))
}

/// The source rows that a canonical row is made of; `key` are the values of its key, with commas between.
pub(crate) fn explain(store: &Store, entity: &str, key: &str, limit: usize) -> Result<(Vec<Given>, bool), Refusal> {
    let mappings = fold::mappings_of(&FoldState(store), entity)?;
    if mappings.is_empty() {
        return Err(Refusal::Unknown(format!("no mapping fills an entity {entity}")));
    }
    let (mut found, mut complete) = (Vec::new(), true);
    for mapping in mappings {
        given(store, &mapping, limit, &mut found, &mut complete, &|given| is_row(given, key))?;
    }
    if found.is_empty() {
        let reason = format!("no source row gives {entity} {key}; write the values of its key with commas between");
        return Err(Refusal::Unknown(reason));
    }
    Ok((found, complete))
}

fn given(
    store: &Store,
    mapping: &str,
    limit: usize,
    found: &mut Vec<Given>,
    complete: &mut bool,
    takes: &dyn Fn(&Given) -> bool,
) -> Result<bool, TransformError> {
    fold::given(&FoldState(store), mapping, &mut |given| {
        if takes(&given) {
            *complete &= found.len() < limit;
            if *complete {
                found.push(given);
            }
        }
        *complete
    })
}

fn joined_key(texts: &[(String, Option<String>)]) -> String {
    let values: Vec<&str> = texts.iter().map(|(_, value)| value.as_deref().unwrap_or_default()).collect();
    values.join(",")
}

/// True where a key, which comes first in a canonical row, has these values; empty values at its end may be left out.
fn is_row(given: &Given, key: &str) -> bool {
    let Some(row) = &given.row else { return false };
    let entity = given.mapping.rsplit('/').next().and_then(|stem| stem.split('.').next()).unwrap_or_default();
    let len = syncline_schemas::entity::get(entity).map_or(0, syncline_schemas::entity::Entity::key_len);
    let own = row.get(..len).map(joined_key).unwrap_or_default();
    own.trim_end_matches(',') == key.trim_end_matches(',')
}

/// Microseconds since 1970 as in RFC 3339.
pub(crate) fn instant(at: i64) -> String {
    chrono::DateTime::from_timestamp_micros(at)
        .map(|at| at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
        .unwrap_or_default()
}
