//! What can go wrong with the journal; every message names the place, the system's reason and what an operator does
//! about it. The reason is part of the text, as a log line or an exit shows the text alone.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use syncline_schemas::ident::LogOffset;
use thiserror::Error;

use crate::store::Space;

/// A fault of the journal.
#[derive(Debug, Error)]
pub enum JournalError {
    /// Another process holds the data folder.
    #[error("{path} is locked: another daemon runs on this data folder; stop it or give this one another data_dir")]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The file system refused an operation outside the writing of the log.
    #[error("could not {action} {path}: {source}; check the disk and the folder's permissions, then restart")]
    Io {
        /// What was tried, as in `open`.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
    /// Writing or syncing the log failed; nothing is accepted until a restart.
    #[error(
        "writing the log failed at {path}, durable up to offset {durable}: {source}; free space or repair the disk, then \
         restart"
    )]
    LogFailed {
        /// The segment that was being written.
        path: PathBuf,
        /// The last offset that is safe.
        durable: LogOffset,
        /// The refusal.
        source: Arc<io::Error>,
    },
    /// The log was closed.
    #[error("the log is closed")]
    LogClosed,
    /// Bytes of the log are not what was written, and what follows them was once safe.
    #[error(
        "{path} is damaged at byte {byte}, in the record of offset {offset}: {reason}; restore the data folder from a \
         backup, or start with an empty one and copy the sources again"
    )]
    Corrupt {
        /// The segment.
        path: PathBuf,
        /// Where in it, in bytes.
        byte: u64,
        /// The record that should be there.
        offset: LogOffset,
        /// What is wrong.
        reason: &'static str,
    },
    /// A segment was written by a version with another format.
    #[error("{path} has log format {found}, this version reads {known}; start the version that wrote it")]
    Format {
        /// The segment.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// A part of an entry is larger than the log takes.
    #[error(
        "{what} of source {origin} has {bytes} bytes, the log takes {max}; leave the largest column out of the publication"
    )]
    EntryTooLarge {
        /// `the payload`, `the position` or `the name`.
        what: &'static str,
        /// The source's name.
        origin: String,
        /// Its size.
        bytes: usize,
        /// The limit.
        max: u64,
    },
    /// More sources than the log keeps positions of.
    #[error(
        "source {origin} is one more than the {max} that a log takes; move it to another daemon with its own data_dir"
    )]
    TooManySources {
        /// The source's name.
        origin: String,
        /// The limit.
        max: usize,
    },
    /// What a reader wants is no longer held.
    #[error(
        "the log begins at offset {first}, wanted {wanted}; restore its consumer from a newer backup or rebuild it"
    )]
    Trimmed {
        /// The offset asked for.
        wanted: LogOffset,
        /// The oldest held.
        first: LogOffset,
    },
    /// What a reader has seen is not there yet.
    #[error("the log ends at offset {last}, asked for what follows {after}; log and reader are not of one data folder")]
    BeyondEnd {
        /// Where the reader claims to be.
        after: LogOffset,
        /// The last durable offset.
        last: LogOffset,
    },
    /// The state is older than the oldest entry that could bring it forward.
    #[error(
        "the state in {path} has applied offset {applied}, but the log begins at {first}; restore the whole data \
         folder from one backup, or start with an empty one and copy the sources again"
    )]
    StateBehindLog {
        /// The store.
        path: PathBuf,
        /// The last offset in the state.
        applied: LogOffset,
        /// The oldest offset in the log.
        first: LogOffset,
    },
    /// The state has applied entries that the log does not hold: the log was lost or is of an older backup.
    #[error(
        "the state in {path} has applied offset {applied}, but the log ended at {last} when it was opened{}; restore the \
         whole data folder from one backup, or start with an empty one and copy the sources again",
        if *grown { " (it has grown since; where the log was restored meanwhile, remove log-end beside it)" } else { "" }
    )]
    StateAheadOfLog {
        /// The store.
        path: PathBuf,
        /// The last offset in the state.
        applied: LogOffset,
        /// The last offset in the log, before anything was appended.
        last: LogOffset,
        /// True where the log holds more by now.
        grown: bool,
    },
    /// The store does not open because its files are damaged.
    #[error(
        "the state in {path} is damaged: {}; restore the whole data folder from one backup, or, while the log still \
         begins at offset 1, move this folder away and restart to rebuild it",
        root(source)
    )]
    StateCorrupt {
        /// The store.
        path: PathBuf,
        /// What the store says.
        source: fjall::Error,
    },
    /// The store could not read or write.
    #[error("the state in {path} cannot be used: {}; free space or repair the disk, then restart", root(source))]
    StateFailed {
        /// The store.
        path: PathBuf,
        /// What the store says.
        source: fjall::Error,
    },
    /// A value in the store has not the shape that its key promises.
    #[error("the value of {key:?} in {space:?} has {bytes} bytes, wanted {wanted}; the state is of another version")]
    StateMalformed {
        /// The space.
        space: Space,
        /// The key's name.
        key: String,
        /// The value's size.
        bytes: usize,
        /// The expected size.
        wanted: usize,
    },
    /// A key or a value that the store cannot hold.
    #[error(
        "{what} for {space:?} has {bytes} bytes, the store takes 1 to {max}; shorten the key fields in the mapping"
    )]
    StateTooLarge {
        /// `a key` or `a value`.
        what: &'static str,
        /// The space.
        space: Space,
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
}

/// What the system said, below what the store's library says about itself.
fn root(error: &fjall::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

impl JournalError {
    /// Wraps a refusal of the file system.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_of_the_system_is_told_with_its_reason() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let reason = full().to_string();
        let path = || PathBuf::from("data/log");
        let errors = [
            JournalError::io("open", path())(full()),
            JournalError::LogFailed { path: path(), durable: LogOffset(7), source: Arc::new(full()) },
            JournalError::StateFailed { path: path(), source: fjall::Error::Io(full()) },
            JournalError::StateCorrupt { path: path(), source: fjall::Error::Io(full()) },
        ];
        for error in errors {
            let text = error.to_string();
            assert!(text.contains(&format!(": {reason}; ")) && text.contains("data/log"), "{text}");
            assert!(!text.contains("Fjall"), "{text}");
        }
    }
}
