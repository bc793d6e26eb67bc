//! The journal as the fold sees it: the store as its state, the log as what it asks back.

use std::ops::Bound;

use syncline_journal::{Bytes, Commit, JournalError, Log, Scan, Snapshot, Space as StoreSpace, Store};
use syncline_schemas::frame::LogEntry;
use syncline_schemas::ident::{LogOffset, SourceId, TableId};
use syncline_transform::TransformError;
use syncline_transform::state::{Pair, Replay, Space, State, Visit};

/// The store as the fold sees it.
pub(super) struct FoldState(Store);

impl FoldState {
    pub(super) fn new(store: &Store) -> Self {
        Self(store.clone())
    }
}

pub(super) fn unusable(error: &JournalError) -> TransformError {
    TransformError::State(error.to_string())
}

const fn space_of(space: Space) -> StoreSpace {
    match space {
        Space::Contributions => StoreSpace::Contributions,
        Space::Entities => StoreSpace::Entities,
        Space::Catalog => StoreSpace::Tables,
        Space::Held => StoreSpace::Held,
        Space::Rows => StoreSpace::Rows,
        Space::Index => StoreSpace::Index,
    }
}

/// A moment of the store as the fold sees it.
pub(super) struct FrozenState(pub(super) Snapshot);

impl State for FoldState {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, TransformError> {
        owned(self.0.get(space_of(space), key))
    }

    fn scan(&self, space: Space, prefix: &[u8], after: &[u8], limit: usize) -> Result<Vec<Pair>, TransformError> {
        let space = space_of(space);
        let pairs =
            if after.is_empty() { self.0.scan_prefix(space, prefix) } else { self.0.scan(space, behind(after)) };
        page(pairs, prefix, limit)
    }
}

impl State for FrozenState {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, TransformError> {
        owned(self.0.get(space_of(space), key))
    }

    fn scan(&self, space: Space, prefix: &[u8], after: &[u8], limit: usize) -> Result<Vec<Pair>, TransformError> {
        let space = space_of(space);
        let pairs =
            if after.is_empty() { self.0.scan_prefix(space, prefix) } else { self.0.scan(space, behind(after)) };
        page(pairs, prefix, limit)
    }
}

fn owned(value: Result<Option<Bytes>, JournalError>) -> Result<Option<Vec<u8>>, TransformError> {
    Ok(value.map_err(|error| unusable(&error))?.map(|value| value.to_vec()))
}

const fn behind(after: &[u8]) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (Bound::Excluded(after), Bound::Unbounded)
}

/// The first of some pairs, as long as their keys begin with a prefix.
fn page(pairs: Scan, prefix: &[u8], limit: usize) -> Result<Vec<Pair>, TransformError> {
    let within =
        |pair: &Result<(Bytes, Bytes), JournalError>| pair.as_ref().map_or(true, |(key, _)| key.starts_with(prefix));
    let owned = |pair: Result<(Bytes, Bytes), JournalError>| {
        pair.map(|(key, value)| (key.to_vec(), value.to_vec())).map_err(|error| unusable(&error))
    };
    pairs.take_while(within).take(limit).map(owned).collect()
}

/// The log as the fold asks it back.
pub(super) struct LogReplay<'l>(pub(super) &'l Log);

impl Replay for LogReplay<'_> {
    fn frames(
        &self,
        source: &SourceId,
        from: LogOffset,
        to: LogOffset,
        wants: &dyn Fn(&TableId) -> bool,
        visit: &mut Visit<'_>,
    ) -> Result<(), TransformError> {
        let mut reader = self.0.reader(LogOffset(from.0 - 1)).map_err(|error| unusable(&error))?;
        while reader.after().next() < to {
            let missing = || TransformError::State(format!("the log ends before {to}, which it held before"));
            let record = reader.next().map_err(|error| unusable(&error))?.ok_or_else(missing)?;
            if record.source == *source
                && let LogEntry::Frame(frame) = LogEntry::decode_of(&record.payload, &|_, table| wants(table))?
            {
                visit(record.offset, &frame)?;
            }
        }
        Ok(())
    }
}

/// Adds what a step writes to a commit.
pub(super) fn put(commit: &mut Commit, writes: Vec<(Space, Vec<u8>, Option<Vec<u8>>)>) {
    for (space, key, value) in writes {
        match value {
            Some(value) => commit.put(space_of(space), key, value),
            None => commit.delete(space_of(space), key),
        }
    }
}
