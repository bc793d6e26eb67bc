//! Log and store of one data folder, opened together under one lock and checked against each other.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use syncline_schemas::ident::LogOffset;
use tracing::warn;

use crate::disk::{Disk, RealDisk};
use crate::error::JournalError;
use crate::limits::Limits;
use crate::log::Log;
use crate::store::Store;

/// Name of the cursor that says which log offset the state has applied. Commits that change the state move it.
pub const TRANSFORM_CURSOR: &str = "transform";

const LOCK_FILE: &str = "lock";
/// Where a process keeps what it needs no longer than it lives: transactions in progress, below the name of their source.
pub const SPOOL_DIR: &str = "spool";

const LOG_DIR: &str = "log";
const STATE_DIR: &str = "state";
/// Where the log ended, from its opening until the state was compared with it.
const END_FILE: &str = "log-end";

/// The log of a data folder, while its store is not open yet: opening a store with much in its write-ahead files takes
/// most of a second, in which sources can be read already.
///
/// What is appended meanwhile must not hide that log and state are not of one history. So where the log ended is kept in
/// a file until the two were compared: a process that dies in between leaves it for the next one.
pub struct OpenLog {
    /// Raw entries and the positions of their sources.
    pub log: Log,
    /// Where the log ended when it was last known to be alone.
    end: LogOffset,
    data_dir: PathBuf,
    limits: Limits,
    lock: Arc<File>,
}

impl OpenLog {
    /// Opens the log of a data folder, creating both where missing. What a process that died left in [`SPOOL_DIR`] goes first: the
    /// disk may be full of it.
    ///
    /// # Errors
    /// [`JournalError::Locked`] while another process has it open; those of [`Log::open`].
    pub fn open(data_dir: &Path, limits: Limits) -> Result<Self, JournalError> {
        fs::create_dir_all(data_dir).map_err(JournalError::io("create", data_dir))?;
        let lock = Arc::new(lock(data_dir)?);
        empty(&data_dir.join(SPOOL_DIR));
        let log = Log::open(&data_dir.join(LOG_DIR), limits)?.locked_by(&lock);
        let end = note_end(data_dir, log.durable())?;
        Ok(Self { log, end, data_dir: data_dir.to_owned(), limits, lock })
    }

    /// Opens the store, creating it where missing, and compares the two.
    ///
    /// # Errors
    /// [`JournalError::StateBehindLog`] and [`JournalError::StateAheadOfLog`] where log and state are not of one history;
    /// those of [`Store::open`].
    pub fn open_store(self) -> Result<Journal, JournalError> {
        let Self { log, end, data_dir, limits, lock } = self;
        let store = Store::open(&data_dir.join(STATE_DIR), limits)?.locked_by(&lock);
        let checked = check_history(&log, end, &store);
        // Where nothing was appended meanwhile, the log itself says it as well the next time, once somebody has mended it.
        if checked.is_ok() || log.durable() == end {
            forget_end(&data_dir)?;
        }
        checked?;
        Ok(Journal { log, store, end })
    }
}

/// The open journal of a data folder. Its parts and all their clones hold the lock.
pub struct Journal {
    /// Raw entries and the positions of their sources.
    pub log: Log,
    /// State, outbox and cursors.
    pub store: Store,
    /// Where the log ended before this process appended anything.
    pub end: LogOffset,
}

impl Journal {
    /// Opens a data folder, creating it where missing.
    ///
    /// # Errors
    /// Those of [`OpenLog::open`] and [`OpenLog::open_store`].
    pub fn open(data_dir: &Path, limits: Limits) -> Result<Self, JournalError> {
        OpenLog::open(data_dir, limits)?.open_store()
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

/// Writes down where the log ends, and gives the smaller of that and what is written there already.
fn note_end(data_dir: &Path, end: LogOffset) -> Result<LogOffset, JournalError> {
    let path = data_dir.join(END_FILE);
    let noted = match fs::read_to_string(&path) {
        Ok(text) => text.strip_suffix('\n').and_then(|text| text.parse().ok()).map(LogOffset),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(JournalError::io("read", path)(error)),
    };
    // One without its end was torn while it was written, before anything was appended.
    if let Some(noted) = noted {
        return Ok(noted.min(end));
    }
    let mut file = File::create(&path).map_err(JournalError::io("create", &path))?;
    writeln!(file, "{end}").and_then(|()| file.sync_data()).map_err(JournalError::io("write", &path))?;
    sync_dir(data_dir)?;
    Ok(end)
}

/// Takes away what is in a folder, but not the folder, which may lead to another disk.
fn empty(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if let Err(error) = fs::remove_dir_all(entry.path()) {
            warn!(path = %entry.path().display(), %error, "cannot remove what is no longer needed");
        }
    }
}

/// Takes it away for good, before the state applies anything that lies behind it.
fn forget_end(data_dir: &Path) -> Result<(), JournalError> {
    let path = data_dir.join(END_FILE);
    fs::remove_file(&path).map_err(JournalError::io("remove", path))?;
    sync_dir(data_dir)
}

fn sync_dir(dir: &Path) -> Result<(), JournalError> {
    RealDisk.sync_dir(dir).map_err(JournalError::io("sync", dir))
}

/// The state must be a fold of a prefix of this log as it ended before anything was appended, and the log must hold what
/// follows that prefix.
fn check_history(log: &Log, end: LogOffset, store: &Store) -> Result<(), JournalError> {
    let path = || store.path().to_owned();
    let applied = applied(store)?;
    let first = log.first();
    if applied > end {
        let grown = log.durable() > end;
        return Err(JournalError::StateAheadOfLog { path: path(), applied, last: end, grown });
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
