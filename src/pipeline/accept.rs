//! Changed mappings accepted, while no daemon runs: what `syncline replay` does.

use std::time::Duration;

use syncline_journal::{Commit, Durability, Journal, JournalError, Log, Store, TRANSFORM_CURSOR};
use syncline_schemas::SchemaError;
use syncline_schemas::frame::{Frame, LogEntry};
use syncline_schemas::ident::{LogOffset, Position, SourceId};
use syncline_transform::TransformError;
use syncline_transform::fold::{self, MappingChange};
use syncline_transform::mapping::Mapping;
use thiserror::Error;

use super::lag;
use super::replay::{self, ORIGIN, Plan, REREAD};
use super::state::FoldState;
use crate::config::SourceConfig;

/// How long one wait for the disk lasts.
const WAIT: Duration = Duration::from_secs(1);

/// Why a change cannot be accepted.
#[derive(Debug, Error)]
pub(crate) enum AcceptError {
    /// The data folder cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The state cannot be used.
    #[error(transparent)]
    Transform(#[from] TransformError),
    /// An entry cannot be written.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// A source cannot be read again.
    #[error("source {id}: it cannot be read again: {reason}")]
    Source {
        /// The source.
        id: SourceId,
        /// What is in the way.
        reason: String,
    },
}

/// What will be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Accepted {
    /// Nothing has been folded yet, or with these very mappings.
    Nothing,
    /// A change that was accepted before is given up: the mappings are again those that rows were computed with.
    GivenUp,
    /// These very mappings were accepted before, and the daemon has not been through with them yet.
    Already,
    /// The log is folded again, from behind an entry.
    Log { changes: Vec<MappingChange>, after: LogOffset, upto: LogOffset },
    /// All sources are read again.
    Sources { changes: Vec<MappingChange>, sources: Vec<SourceId> },
}

/// Behind which entry the log holds every row of the state that counts, if it still does.
pub(crate) fn reaches_back(log: &Log, store: &Store) -> Result<Option<LogOffset>, JournalError> {
    let origins = [Some(store.cursor(ORIGIN)?.unwrap_or_default()), store.cursor(REREAD)?];
    Ok(origins.into_iter().flatten().map(LogOffset).find(|origin| log.first() <= origin.next()))
}

/// Accepts the mappings as they are, for the daemon to apply at its next start. With `reread`, all sources are read again
/// even where nothing changed and the log would do.
pub(crate) fn accept(
    journal: &Journal,
    mappings: &[Mapping],
    sources: &[SourceConfig],
    reread: bool,
) -> Result<Accepted, AcceptError> {
    let (log, store) = (&journal.log, &journal.store);
    let changes = fold::changes(mappings, &FoldState::new(store))?;
    let pending = replay::is_pending(store)?;
    if pending && !reread && replay::accepts(store, mappings)? {
        return Ok(Accepted::Already);
    }
    if pending {
        replay::give_up(store)?;
    }
    let folded = store.cursor(TRANSFORM_CURSOR)?;
    // What is read again empties tables before it fills them: no state may fold that as changes, so the next one begins there.
    let begun = store.cursor(REREAD)?.filter(|begun| Some(*begun) >= folded).map(LogOffset);
    if folded.is_none() || (changes.is_empty() && !reread && begun.is_none()) {
        return Ok(if pending { Accepted::GivenUp } else { Accepted::Nothing });
    }
    let now_us = lag::now_us();
    let read: Vec<(&SourceConfig, Position, bool)> = sources
        .iter()
        .filter_map(|source| log.resume(source.id()).map(|at| (source, at.position, at.txn_end)))
        .collect();
    let awaits = sources.iter().map(|source| source.id().clone()).collect();
    let after = if begun.is_some() { begun } else { reaches_back(log, store)? };
    if let Some(after) = after.filter(|_| !reread) {
        let upto = log.durable();
        // One entry of anybody, so that what differs has a place behind everything that was delivered.
        let Some((source, position, txn_end)) = read.into_iter().next() else { return Ok(Accepted::Nothing) };
        let marker = mark(log, source.id(), position, txn_end, now_us)?;
        Plan { after, marker, at: now_us, awaits }.write(mappings, store)?;
        return Ok(Accepted::Log { changes, after, upto });
    }
    let after = log.durable();
    let mut starts = Vec::new();
    for (source, position, _) in read {
        let refused = |reason| AcceptError::Source { id: source.id().clone(), reason };
        starts.push((source.id().clone(), source.begin_again(&position, now_us).map_err(refused)?));
    }
    let mut marker = after;
    let sources = starts.iter().map(|(source, _)| source.clone()).collect();
    for (source, position) in starts {
        marker = mark(log, &source, position, false, now_us)?;
    }
    let mut commit = Commit::new();
    commit.put_cursor(REREAD, after.0);
    store.commit(commit, Durability::Buffered)?;
    Plan { after, marker, at: now_us, awaits }.write(mappings, store)?;
    Ok(Accepted::Sources { changes, sources })
}

/// Puts an entry without rows into the log and waits until it is durable.
fn mark(
    log: &Log,
    source: &SourceId,
    position: Position,
    txn_end: bool,
    now_us: i64,
) -> Result<LogOffset, AcceptError> {
    let frame = Frame { source: source.clone(), position, captured_at: now_us, txn_end, batches: Vec::new() };
    let (position, payload) = (frame.position.clone(), LogEntry::Frame(frame).encode()?);
    let offset = log.append(source, &position, txn_end, payload)?;
    while log.wait_durable(offset, WAIT)? < offset {}
    Ok(offset)
}
