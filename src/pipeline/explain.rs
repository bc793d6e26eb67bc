//! Which source rows make up a canonical row, and at which positions of their sources.
//!
//! State keeps of each source row the log entry that it is from; the position stands in the log. An entry that was trimmed
//! meanwhile is named by its number alone.

use std::collections::BTreeMap;

use syncline_journal::{JournalError, Log, Store};
use syncline_schemas::frame::LogEntry;
use syncline_schemas::ident::LogOffset;
use syncline_transform::TransformError;
use syncline_transform::fold::{self, Given, Lookup, SourceRow, Whereabouts};

use super::rows::{self, Question, Refusal};
use super::state::FoldState;

/// What a canonical row has from one source row.
pub(crate) struct Share {
    pub(crate) given: Given,
    /// What its mapping looked for in other tables.
    pub(crate) lookups: Vec<Lookup>,
}

/// A canonical row, taken apart.
pub(crate) struct Explanation {
    pub(crate) shares: Vec<Share>,
    /// False where there are more.
    pub(crate) complete: bool,
    places: BTreeMap<LogOffset, Vec<(SourceRow, Whereabouts)>>,
}

impl Explanation {
    /// Where a source row is from; none where the log no longer holds it.
    pub(crate) fn place(&self, row: &SourceRow) -> Option<&Whereabouts> {
        self.places.get(&row.at)?.iter().find(|(known, _)| known == row).map(|(_, place)| place)
    }
}

/// The source rows that a canonical row is made of; `key` are the values of its key, with commas between.
pub(crate) fn explain(
    log: &Log,
    store: &Store,
    entity: &str,
    key: &str,
    question: &Question<'_>,
) -> Result<Explanation, Refusal> {
    let state = FoldState::new(store);
    let (given, complete) = rows::made_of(store, entity, key, question)?;
    let mut shares = Vec::new();
    let mut wanted: BTreeMap<LogOffset, Vec<SourceRow>> = BTreeMap::new();
    for given in given {
        let lookups = fold::lookups(&state, &given.mapping, &given.source_row)?;
        let found = lookups.iter().filter_map(|lookup| lookup.found.as_ref()).map(|(row, _)| row);
        for row in found.chain([&given.source_row]) {
            wanted.entry(row.at).or_default().push(row.clone());
        }
        shares.push(Share { given, lookups });
    }
    let mut places = BTreeMap::new();
    for (at, rows) in wanted {
        if !(question.wanted)() {
            break;
        }
        places.insert(at, positions(log, at, rows)?);
    }
    Ok(Explanation { shares, complete, places })
}

/// Where rows of one log entry are in their source; without those that it does not hold, and all where it was trimmed.
fn positions(log: &Log, at: LogOffset, rows: Vec<SourceRow>) -> Result<Vec<(SourceRow, Whereabouts)>, Refusal> {
    let Some(before) = at.0.checked_sub(1) else { return Ok(Vec::new()) };
    let entry = match log.reader(LogOffset(before)).and_then(|mut reader| reader.next()) {
        Ok(entry) => entry,
        Err(JournalError::Trimmed { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let Some(entry) = entry else { return Ok(Vec::new()) };
    let LogEntry::Frame(frame) = LogEntry::decode(&entry.payload).map_err(TransformError::from)? else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for row in rows {
        if let Some(place) = row.position(&frame)? {
            found.push((row, place));
        }
    }
    Ok(found)
}
