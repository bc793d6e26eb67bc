//! Rows of the state as somebody asks for them, and what an operator says of those that are held.
//!
//! Beside the fold, which goes on meanwhile. Notes lie in the space of held rows under a byte that no held row begins with:
//!
//! ```text
//! held  N <fingerprint>   what was said, JSON
//! ```

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use syncline_journal::{Commit, Durability, JournalError, Space, Store};
use syncline_transform::TransformError;
use syncline_transform::fold::{self, Exception, Given};
use syncline_transform::state::State;
use thiserror::Error;

use super::state::FoldState;

/// Begin of the rules under which a row waits for a master that is not there.
const WAITING: &str = "DQ_REF_";
/// First byte of the keys of notes; [`fold`] numbers its own kinds from zero.
const NOTE: u8 = b'N';
/// Characters of a note.
const NOTE_MAX: usize = 2_000;
/// Rows of one answer, which is put together in memory.
const LIMIT_MAX: usize = 10_000;

/// Why there is no answer.
#[derive(Debug, Error)]
pub(crate) enum Refusal {
    /// What was asked for is not there.
    #[error("{0}")]
    Unknown(String),
    /// Nobody can be asked for that.
    #[error("{0}")]
    Asked(String),
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
    /// Known and borne: it is not listed for as long as it is held.
    Waived,
}

/// What was said of a held row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    pub(crate) state: Verdict,
    pub(crate) note: String,
    /// When, as in RFC 3339.
    pub(crate) at: String,
    /// The log entries at which the row had been found wanting first and last.
    first: u64,
    offset: u64,
}

impl Note {
    fn hides(&self, exception: &Exception) -> bool {
        match self.state {
            Verdict::Waived => exception.first.offset.0 == self.first,
            Verdict::Resolved => exception.last.offset.0 <= self.offset,
        }
    }
}

/// How much somebody wants to know, and whether he still does.
pub(crate) struct Question<'a> {
    pub(crate) limit: usize,
    pub(crate) wanted: &'a dyn Fn() -> bool,
}

/// What is found, up to what was asked for.
struct Answer<'q, T> {
    question: &'q Question<'q>,
    rows: Vec<T>,
    /// False where there are more.
    complete: bool,
}

impl<'q, T> Answer<'q, T> {
    fn to(question: &'q Question<'q>) -> Result<Self, Refusal> {
        if question.limit > LIMIT_MAX {
            return Err(Refusal::Asked(format!("limit is {LIMIT_MAX} at most, {} was asked for", question.limit)));
        }
        Ok(Self { question, rows: Vec::new(), complete: true })
    }

    /// Takes one more; false once there is no room for it.
    fn push(&mut self, row: T) -> bool {
        self.complete = self.rows.len() < self.question.limit;
        if self.complete {
            self.rows.push(row);
        }
        self.complete
    }

    fn wanted(&self) -> bool {
        self.complete && (self.question.wanted)()
    }

    fn finish(self) -> (Vec<T>, bool) {
        (self.rows, self.complete)
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
    /// Those that were put aside, and those that wait for a master, as well.
    pub(crate) all: bool,
    /// How long a row may wait for a master before somebody should look.
    pub(crate) patience: Duration,
}

impl Filter {
    fn takes(&self, exception: &Exception) -> bool {
        let is = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
        is(&self.mapping, exception.mapping.as_deref().unwrap_or_default())
            && is(&self.entity, &exception.entity)
            && is(&self.rule, &exception.rule)
    }

    /// Whether it waits for a master that may well come by itself.
    fn waits(&self, exception: &Exception, now: Duration) -> bool {
        let since = Duration::from_micros(u64::try_from(exception.first.at).unwrap_or_default());
        exception.rule.starts_with(WAITING) && now < since + self.patience
    }
}

/// How many rows are held now, all of them.
pub(crate) fn held_count(store: &Store) -> usize {
    store.scan_prefix(Space::Held, &[]).filter(|pair| pair.as_ref().is_ok_and(|(key, _)| fold::is_held(key))).count()
}

/// Held rows that were asked for.
pub(crate) struct Listed {
    pub(crate) rows: Vec<Noted>,
    /// False where there are more.
    pub(crate) complete: bool,
    /// Others that wait for a master, among those looked at.
    pub(crate) waiting: usize,
}

/// Held rows with what was said of them.
pub(crate) fn exceptions(store: &Store, filter: &Filter, question: &Question<'_>) -> Result<Listed, Refusal> {
    let notes = notes(store)?;
    let mut answer = Answer::to(question)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut waiting = 0;
    fold::exceptions(&FoldState::new(store), &mut |exception| {
        let note = notes.get(&exception.fingerprint);
        let open = note.is_none_or(|note| !note.hides(&exception));
        if filter.takes(&exception) && (filter.all || open) {
            if !filter.all && filter.waits(&exception, now) {
                waiting += 1;
            } else {
                answer.push((exception, note.cloned()));
            }
        }
        answer.wanted()
    })?;
    let (rows, complete) = answer.finish();
    Ok(Listed { rows, complete, waiting })
}

/// The held row with a fingerprint.
pub(crate) fn exception(store: &Store, fingerprint: &str) -> Result<Noted, Refusal> {
    let mut found = None;
    fold::exceptions(&FoldState::new(store), &mut |exception| {
        if exception.fingerprint == fingerprint {
            found = Some(exception);
        }
        found.is_none()
    })?;
    let unknown =
        || Refusal::Unknown(format!("nothing with the fingerprint {fingerprint} is held; it may have mended"));
    let exception = found.ok_or_else(unknown)?;
    let note = store.get(Space::Held, &note_key(fingerprint))?;
    Ok((exception, note.and_then(|note| serde_json::from_slice(&note).ok())))
}

fn note_key(fingerprint: &str) -> Vec<u8> {
    [&[NOTE], fingerprint.as_bytes()].concat()
}

/// Puts a held row aside. Notes on rows that are held no longer go on the way.
pub(crate) fn note(
    store: &Store,
    fingerprint: &str,
    state: Verdict,
    note: String,
) -> Result<(Exception, Note), Refusal> {
    if note.chars().count() > NOTE_MAX {
        return Err(Refusal::Asked(format!("a note has {NOTE_MAX} characters at most")));
    }
    let (exception, _) = exception(store, fingerprint)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = instant(i64::try_from(now.as_micros()).unwrap_or_default());
    let note = Note { state, note, at, first: exception.first.offset.0, offset: exception.last.offset.0 };
    let mut commit = Commit::new();
    for gone in orphans(store)? {
        commit.delete(Space::Held, note_key(&gone));
    }
    let value = serde_json::to_vec(&note).map_err(|error| TransformError::State(error.to_string()))?;
    commit.put(Space::Held, note_key(fingerprint), value);
    store.commit(commit, Durability::Synced)?;
    Ok((exception, note))
}

/// Copies what was said of held rows into a commit of another generation.
pub(super) fn keep_notes(older: &Store, commit: &mut Commit) -> Result<(), JournalError> {
    for pair in older.scan_prefix(Space::Held, &[NOTE]) {
        let (key, note) = pair?;
        commit.put(Space::Held, key.to_vec(), note.to_vec());
    }
    Ok(())
}

/// Notes whose row is held no longer.
fn orphans(store: &Store) -> Result<HashSet<String>, Refusal> {
    let mut orphans: HashSet<String> = notes(store)?.into_keys().collect();
    if !orphans.is_empty() {
        fold::exceptions(&FoldState::new(store), &mut |exception| {
            orphans.remove(&exception.fingerprint);
            !orphans.is_empty()
        })?;
    }
    Ok(orphans)
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
    question: &Question<'_>,
) -> Result<(Vec<Given>, bool), Refusal> {
    let mut answer = Answer::to(question)?;
    let known = given(&FoldState::new(store), mapping, &mut answer, &|given| {
        key.is_none_or(|key| joined_key(&given.source_row.key) == key || is_row(given, key))
    })?;
    if known {
        return Ok(answer.finish());
    }
    Err(Refusal::Unknown(format!("no mapping {mapping} has folded anything; its name is SOURCE/FILE without .sql")))
}

/// The driving rows that a canonical row is made of; `key` are the values of its key, with commas between.
pub(super) fn made_of(
    state: &dyn State,
    entity: &str,
    key: &str,
    question: &Question<'_>,
) -> Result<(Vec<Given>, bool), Refusal> {
    let mappings = fold::mappings_of(state, entity)?;
    if mappings.is_empty() {
        return Err(Refusal::Unknown(format!("no mapping fills an entity {entity}")));
    }
    let mut answer = Answer::to(question)?;
    for mapping in mappings {
        if answer.wanted() {
            given(state, &mapping, &mut answer, &|given| is_row(given, key))?;
        }
    }
    if answer.rows.is_empty() {
        let fields = syncline_schemas::entity::get(entity).map(|it| it.fields[..it.key_len()].iter());
        let fields: Vec<&str> = fields.into_iter().flatten().map(|field| field.name.as_str()).collect();
        let reason = format!(
            "no source row gives {entity} {key}; its key is {}, written with commas between; rows that are held are in \
             `syncline exceptions list`, and a sum of zeros has no rows left",
            fields.join(", ")
        );
        return Err(Refusal::Unknown(reason));
    }
    Ok(answer.finish())
}

fn given(
    state: &dyn State,
    mapping: &str,
    answer: &mut Answer<'_, Given>,
    takes: &dyn Fn(&Given) -> bool,
) -> Result<bool, TransformError> {
    fold::given(state, mapping, &mut |given| {
        if takes(&given) {
            answer.push(given);
        }
        answer.wanted()
    })
}

fn joined_key(texts: &[(String, Option<String>)]) -> String {
    let values: Vec<&str> = texts.iter().map(|(_, value)| value.as_deref().unwrap_or_default()).collect();
    values.join(",")
}

/// True where a key, which comes first in a canonical row, has these values; empty values at its end may be left out.
fn is_row(given: &Given, key: &str) -> bool {
    let Some(row) = &given.row else { return false };
    let own = row.get(..given.entity.key_len()).map(joined_key).unwrap_or_default();
    own.trim_end_matches(',') == key.trim_end_matches(',')
}

/// Microseconds since 1970 as in RFC 3339.
pub(crate) fn instant(at: i64) -> String {
    chrono::DateTime::from_timestamp_micros(at)
        .map(|at| at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use syncline_schemas::ident::LogOffset;
    use syncline_transform::fold::Seen;

    use super::*;

    #[test]
    fn a_row_without_its_master_is_shown_to_somebody_once_it_has_waited_long_enough() {
        let seen = Seen { offset: LogOffset(7), at: 1_000_000_000 };
        let held = |rule: &str| Exception {
            fingerprint: String::new(),
            mapping: None,
            entity: "item".to_owned(),
            rule: rule.to_owned(),
            field: String::new(),
            reason: String::new(),
            key: Default::default(),
            table: String::new(),
            first: seen,
            last: seen,
            position: String::new(),
        };
        let filter = Filter { patience: Duration::from_secs(900), ..Filter::default() };
        let after = |seconds: u64| Duration::from_secs(1_000 + seconds);
        assert!(filter.waits(&held("DQ_REF_ITEM"), after(899)));
        assert!(!filter.waits(&held("DQ_REF_ITEM"), after(900)), "long enough");
        assert!(!filter.waits(&held("DQ_REQUIRED"), after(0)), "waits for nobody");
    }
}
