//! Which source rows make up a canonical row, and at which positions of their sources.
//!
//! State keeps of each source row the log entry that it is from; the position stands in the log. An entry that was trimmed
//! meanwhile is named by its number alone.

use std::collections::{BTreeMap, HashMap, HashSet};

use syncline_journal::{JournalError, Log, Store};
use syncline_schemas::frame::LogEntry;
use syncline_schemas::ident::LogOffset;
use syncline_transform::TransformError;
use syncline_transform::fold::{self, Found, Given, Lookup, SourceRow, Sources, Whereabouts};

use super::rows::{self, Question, Refusal};
use super::state::FrozenState;

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
    places: HashMap<SourceRow, Whereabouts>,
}

impl Explanation {
    /// Where a source row is from; none where the log no longer holds it.
    pub(crate) fn place(&self, row: &SourceRow) -> Option<&Whereabouts> {
        self.places.get(row)
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
    let state = FrozenState(store.snapshot());
    let (given, complete) = rows::made_of(&state, entity, key, question)?;
    let sources = Sources::read(&state)?;
    let mut shares = Vec::new();
    let mut wanted: BTreeMap<LogOffset, HashSet<SourceRow>> = BTreeMap::new();
    for given in given {
        if !(question.wanted)() {
            break;
        }
        let lookups = sources.lookups(&given.mapping, &given.source_row)?;
        let found = lookups.iter().filter_map(|lookup| match &lookup.found {
            Found::Row(row, _) => Some(row),
            Found::Nothing | Found::Several => None,
        });
        for row in found.chain([&given.source_row]) {
            wanted.entry(row.at).or_default().insert(row.clone());
        }
        shares.push(Share { given, lookups });
    }
    let mut places = HashMap::new();
    for (at, rows) in wanted {
        if !(question.wanted)() {
            break;
        }
        places.extend(positions(log, at, rows)?);
    }
    Ok(Explanation { shares, complete, places })
}

/// Where rows of one log entry are in their source; without those that it does not hold, and all where it was trimmed.
fn positions(log: &Log, at: LogOffset, rows: HashSet<SourceRow>) -> Result<HashMap<SourceRow, Whereabouts>, Refusal> {
    let Some(before) = at.0.checked_sub(1) else { return Ok(HashMap::new()) };
    let entry = match log.reader(LogOffset(before)).and_then(|mut reader| reader.next()) {
        Ok(entry) => entry,
        Err(JournalError::Trimmed { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let Some(entry) = entry else { return Ok(HashMap::new()) };
    match LogEntry::decode(&entry.payload).map_err(TransformError::from)? {
        LogEntry::Frame(frame) => Ok(fold::positions(&frame, rows)?),
        LogEntry::Schema(_) => Ok(HashMap::new()),
    }
}
