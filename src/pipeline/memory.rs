//! What is remembered of a sink between two processes, and where the sink goes on.
//!
//! ```text
//! cursor sink/<name>           everything up to here is confirmed
//! cursor sink.rows/<name>      the end of the last confirmed span that had rows
//! sinks  <name> 0 n <note>     what the sink wants to be told again, as it was at the cursor
//! ```
//!
//! The cursors differ because a target is not told of spans without rows: it stands at the second, we at the first.

use std::collections::BTreeMap;

use syncline_journal::{Commit, Durability, Space, Store};
use syncline_schemas::ident::LogOffset;
use syncline_sinks::{Known, SinkError, Written};

use super::outbox::unreadable;
use super::transform::EPOCH;

/// The memory of one sink.
pub(super) struct Memory {
    store: Store,
    sink: String,
}

/// What it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remembered {
    /// Everything up to here is confirmed; none before the sink began for the first time.
    pub(super) cursor: Option<LogOffset>,
    /// The end of the last confirmed span that had rows.
    pub(super) delivered: LogOffset,
    pub(super) known: Known,
}

/// Kinds of keys in [`Space::Sinks`].
const NOTE: u8 = b'n';

impl Memory {
    pub(super) fn new(store: &Store, sink: &str) -> Self {
        Self { store: store.clone(), sink: sink.to_owned() }
    }

    fn cursor_name(&self) -> String {
        format!("sink/{}", self.sink)
    }

    fn delivered_name(&self) -> String {
        format!("sink.rows/{}", self.sink)
    }

    /// A place in [`Space::Sinks`].
    fn key(&self, kind: u8, name: &[u8]) -> Vec<u8> {
        [self.sink.as_bytes(), &[0, kind], name].concat()
    }

    fn notes(&self) -> Result<BTreeMap<String, Vec<u8>>, SinkError> {
        let prefix = self.key(NOTE, b"");
        let pairs = self.store.scan_prefix(Space::Sinks, &prefix);
        let notes = pairs.map(|pair| {
            let (key, value) = pair.map_err(|error| unreadable(&error))?;
            Ok((String::from_utf8_lossy(&key[prefix.len()..]).into_owned(), value.to_vec()))
        });
        notes.collect()
    }

    pub(super) fn read(&self) -> Result<Remembered, SinkError> {
        let cursor = |name: &str| self.store.cursor(name).map_err(|error| unreadable(&error));
        Ok(Remembered {
            cursor: cursor(&self.cursor_name())?.map(LogOffset),
            delivered: LogOffset(cursor(&self.delivered_name())?.unwrap_or_default()),
            known: Known {
                epoch: cursor(EPOCH)?.and_then(|epoch| u32::try_from(epoch).ok()).unwrap_or_default(),
                notes: self.notes()?,
            },
        })
    }

    /// Remembers that the sink has begun, so that a target which somebody else filled is told from one of ours.
    pub(super) fn begin(&self) -> Result<(), SinkError> {
        let mut commit = Commit::new();
        commit.put_cursor(&self.cursor_name(), LogOffset::START.0);
        self.store.commit(commit, Durability::Synced).map_err(|error| unreadable(&error))
    }

    /// Remembers a confirmed span, and what its write said where it had rows.
    pub(super) fn confirm(&self, upto: LogOffset, written: Option<Written>) -> Result<(), SinkError> {
        let mut commit = Commit::new();
        commit.put_cursor(&self.cursor_name(), upto.0);
        if let Some(written) = written {
            commit.put_cursor(&self.delivered_name(), upto.0);
            for (name, note) in written.notes {
                commit.put(Space::Sinks, self.key(NOTE, name.as_bytes()), note);
            }
        }
        // A power failure may take it back; the span is then written again, which changes nothing.
        self.store.commit(commit, Durability::Buffered).map_err(|error| unreadable(&error))
    }
}

impl Remembered {
    /// Where to go on: what the target says outranks what we remember. One that has all rows also has the spans without
    /// any that we confirmed since.
    pub(super) fn resume(&self, theirs: Option<LogOffset>) -> LogOffset {
        let ours = self.cursor.unwrap_or_default();
        match theirs {
            None => ours,
            Some(theirs) if theirs >= self.delivered => theirs.max(ours),
            Some(theirs) => theirs,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_with_all_rows_goes_on_where_we_are_and_one_that_lost_some_where_it_is() {
        let remembered =
            Remembered { cursor: Some(LogOffset(5_000)), delivered: LogOffset(100), known: Known::default() };
        assert_eq!(remembered.resume(None), LogOffset(5_000));
        assert_eq!(remembered.resume(Some(LogOffset(100))), LogOffset(5_000));
        assert_eq!(remembered.resume(Some(LogOffset(6_000))), LogOffset(6_000), "confirmed there, not yet here");
        assert_eq!(remembered.resume(Some(LogOffset(99))), LogOffset(99));
        assert_eq!(Remembered { cursor: None, ..remembered }.resume(None), LogOffset::START);
    }
}
