//! Log and store of one data folder, opened together under one lock and checked against each other.

use std::fs::{self, File, TryLockError};
use std::path::Path;

use syncline_schemas::ident::LogOffset;

use crate::error::JournalError;
use crate::limits::Limits;
use crate::log::Log;
use crate::store::Store;

/// Name of the cursor that says which log offset the state has applied. Commits that change the state move it.
pub const TRANSFORM_CURSOR: &str = "transform";

const LOCK_FILE: &str = "lock";
const LOG_DIR: &str = "log";
const STATE_DIR: &str = "state";

/// The open journal of a data folder. Keep it as long as clones of its parts are in use: it holds the lock.
pub struct Journal {
    /// Raw entries and the positions of their sources.
    pub log: Log,
    /// State, outbox and cursors.
    pub store: Store,
    /// Last, so that it is released after the others are closed.
    _lock: File,
}

impl Journal {
    /// Opens a data folder, creating it where missing.
    ///
    /// # Errors
    /// [`JournalError::Locked`] while another process has it open; [`JournalError::StateBehindLog`] and
    /// [`JournalError::StateAheadOfLog`] where log and state are not of one history; those of [`Log::open`] and
    /// [`Store::open`].
    pub fn open(data_dir: &Path, limits: Limits) -> Result<Self, JournalError> {
        fs::create_dir_all(data_dir).map_err(JournalError::io("create", data_dir))?;
        let lock = lock(data_dir)?;
        let log = Log::open(&data_dir.join(LOG_DIR), limits)?;
        let store = Store::open(&data_dir.join(STATE_DIR), limits)?;
        check_history(&log, &store)?;
        Ok(Self { log, store, _lock: lock })
    }

    /// Removes what the log holds up to an offset, but nothing that the state, as it would be after a power failure,
    /// still needs.
    ///
    /// # Errors
    /// Those of [`Store::sync`] and [`Log::trim`].
    pub fn trim(&self, upto: LogOffset) -> Result<(), JournalError> {
        let applied = applied(&self.store)?;
        self.store.sync()?;
        self.log.trim(upto.min(applied))
    }
}

fn lock(data_dir: &Path) -> Result<File, JournalError> {
    let path = data_dir.join(LOCK_FILE);
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(JournalError::io("create", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(JournalError::Locked { path }),
        Err(TryLockError::Error(source)) => Err(JournalError::io("lock", path)(source)),
    }
}

/// The state must be a fold of a prefix of this log, and the log must hold what follows that prefix.
fn check_history(log: &Log, store: &Store) -> Result<(), JournalError> {
    let path = || store.path().to_owned();
    let applied = applied(store)?;
    let (first, last) = (log.first(), log.durable());
    if applied > last {
        return Err(JournalError::StateAheadOfLog { path: path(), applied, last });
    }
    if applied.next() < first {
        return Err(JournalError::StateBehindLog { path: path(), applied, first });
    }
    Ok(())
}

/// The last log offset in the state.
fn applied(store: &Store) -> Result<LogOffset, JournalError> {
    Ok(LogOffset(store.cursor(TRANSFORM_CURSOR)?.unwrap_or_default()))
}
