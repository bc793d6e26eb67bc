//! The store: state of the transform, outbox and cursors, changed in atomic commits.
//!
//! It is fjall, an LSM, because the state is larger than memory. What is ours is the choice of spaces, the budget of
//! memory, and what its failures mean:
//!
//! - a commit is one batch in fjall's own write-ahead journal, with one checksum: after a kill it is there or not;
//! - that journal is synced before any table is written from memory, so a [`Durability::Buffered`] commit that a power
//!   failure takes away is gone from every space;
//! - a torn end of that journal is cut without a word. That is harmless here, as the state follows from the log; the
//!   comparison in [`crate::OpenLog::open_store`] proves that the log still holds what is needed;
//! - values in that journal are not compressed, although fjall could: recovery compresses again to verify the checksum,
//!   so a new version of the compressor would take every journal for damaged;
//! - after an error of the disk fjall refuses all writes until the store is opened anew.
//!
//! What the transform computes can be computed again beside what is there, into spaces of the next generation; the commit
//! that makes it count is like any other. Outbox, cursors and what is known of targets are of no generation.

mod commit;
mod snapshot;
mod space;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::ops::RangeBounds;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use fjall::{AbstractTree, CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};
use tracing::warn;

pub use self::commit::{Commit, Durability};
pub use self::snapshot::Snapshot;
pub use self::space::Space;
use crate::error::JournalError;
use crate::limits::{KEY_BYTES, Limits, STORE_JOURNAL_BYTES, STORE_OPEN_FILES};

/// Bytes of a key or a value: cheap to clone, read as `[u8]`.
pub use fjall::Slice as Bytes;

/// Background threads that flush and merge. Of two, fjall keeps one free, so that a long merge does not hold up a flush, but
/// while the other merges it asks again and again what to do: on two processors a drain took 30 CPU seconds instead of 23.
const WORKERS: usize = 1;

/// From so many full buffers on, those of all spaces together, commits wait for the disk: more would be memory without end
/// where it is slow. Each holds up to its limit and one commit. A merge that is under way then stops commits sooner than with
/// two; a drain was no quicker with two, and at a steady thousand changes a second none waits. With two, a power failure could also
/// leave a buffer of a later commit on the disk without the commit itself: fjall syncs its journal before it writes the buffers that
/// are full by then, not those that fill up meanwhile.
const FULL_BUFFERS: usize = 1;

/// How often a commit that waits for the disk looks again; fjall gives no signal.
const POLL: Duration = Duration::from_millis(1);

/// Cursor that says which generation counts.
const GENERATION: &str = "generation";

/// A cursor that there never is.
const NOBODY: [u8; 1] = [0];

/// The open store, in one generation; clones are the same store.
#[derive(Clone)]
pub struct Store {
    /// Before the database, which ends with its last space.
    spaces: Arc<Spaces>,
    inner: Arc<Inner>,
    /// Kept until the last clone has gone, so that nobody else opens what this one may still write to.
    lock: Option<Arc<File>>,
}

struct Inner {
    path: PathBuf,
    /// Those of the generation that counts.
    current: RwLock<Arc<Spaces>>,
    database: Database,
    /// Held by whoever closes full buffers, so that nobody closes the new one of a space as well.
    closing: Mutex<()>,
}

struct Spaces {
    generation: u64,
    /// In the order of [`Space::ALL`].
    all: [Keyspace; Space::ALL.len()],
}

impl Spaces {
    fn open(database: &Database, generation: u64) -> Result<Self, fjall::Error> {
        let keyspace = |space: Space| database.keyspace(&space.name_in(generation), || space.options());
        let [contributions, entities, tables, held, outbox, cursors, rows, index, sinks] = Space::ALL.map(keyspace);
        let all = [contributions?, entities?, tables?, held?, outbox?, cursors?, rows?, index?, sinks?];
        Ok(Self { generation, all })
    }
}

impl Store {
    /// Opens the store in a folder, creating both where missing.
    ///
    /// # Errors
    /// [`JournalError::StateCorrupt`] where its files are damaged, [`JournalError::StateFailed`] where the disk refuses.
    pub fn open(dir: &Path, limits: Limits) -> Result<Self, JournalError> {
        let failed = |error| classify(dir, error);
        let database = Database::builder(dir)
            .cache_size(limits.cache_bytes)
            .max_journaling_size(STORE_JOURNAL_BYTES)
            .max_cached_files(Some(STORE_OPEN_FILES))
            .journal_compression(CompressionType::None)
            .worker_threads(WORKERS)
            .open()
            .map_err(failed)?;
        // Cursors are of no generation, so the first one finds out which counts.
        let cursors = database.keyspace(&Space::Cursors.name_in(0), || Space::Cursors.options()).map_err(failed)?;
        let generation = cursors.get(GENERATION).map_err(failed)?;
        let generation = generation.map_or(Ok(0), |value| parse_cursor(GENERATION, &value))?;
        let spaces = Arc::new(Spaces::open(&database, generation).map_err(failed)?);
        let inner = Inner {
            path: dir.to_owned(),
            database,
            current: RwLock::new(Arc::clone(&spaces)),
            closing: Mutex::new(()),
        };
        Ok(Self { inner: Arc::new(inner), spaces, lock: None })
    }

    /// The same, holding the lock of its data folder.
    pub(crate) fn locked_by(self, lock: &Arc<File>) -> Self {
        Self { lock: Some(Arc::clone(lock)), ..self }
    }

    fn with(&self, spaces: Arc<Spaces>) -> Self {
        Self { inner: Arc::clone(&self.inner), spaces, lock: self.lock.clone() }
    }

    /// The store in the generation that counts now.
    #[must_use]
    pub fn current(&self) -> Self {
        self.with(Arc::clone(&self.inner.current.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// The store in the generation after this one: what was computed into it so far, or nothing.
    ///
    /// # Errors
    /// [`JournalError::StateFailed`].
    pub fn rebuilt(&self) -> Result<Self, JournalError> {
        let spaces = Spaces::open(&self.inner.database, self.spaces.generation + 1);
        Ok(self.with(Arc::new(spaces.map_err(|error| self.failed(error))?)))
    }

    /// Makes this generation the one that counts, in one commit with other changes, and removes the others. Their disk
    /// is given back at the next opening at the latest.
    ///
    /// # Errors
    /// Those of [`Store::commit`].
    pub fn switch(&self, mut commit: Commit) -> Result<(), JournalError> {
        commit.put_cursor(GENERATION, self.spaces.generation);
        self.commit(commit, Durability::Synced)?;
        *self.inner.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&self.spaces);
        self.remove_other_generations()
    }

    /// Removes the spaces of every generation but this one. Whoever still reads one reads on.
    ///
    /// # Errors
    /// [`JournalError::StateFailed`].
    pub fn remove_other_generations(&self) -> Result<(), JournalError> {
        let own: Vec<String> = Space::ALL.map(|space| space.name_in(self.spaces.generation)).into();
        let names = self.inner.database.list_keyspace_names();
        for name in names.iter().filter(|name| own.iter().all(|own| own.as_str() != &***name)) {
            let space = self.inner.database.keyspace(name, KeyspaceCreateOptions::default);
            let removed = space.and_then(|space| self.inner.database.delete_keyspace(space));
            removed.map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    /// Applies all changes as one. Readers see all of them or none.
    ///
    /// May wait while the disk is slower than the commits.
    ///
    /// # Errors
    /// [`JournalError::StateTooLarge`], with nothing applied; [`JournalError::StateFailed`] after an error of the disk,
    /// with the commit applied or not as the next opening will tell.
    pub fn commit(&self, mut commit: Commit, durability: Durability) -> Result<(), JournalError> {
        commit.check()?;
        // Neighbours go to the same place in memory; stable, as the last change to a key counts.
        commit.changes.sort_by(|a, b| (a.space as usize, &a.key).cmp(&(b.space as usize, &b.key)));
        self.wait_for_buffers()?;
        let mode = match durability {
            Durability::Synced => PersistMode::SyncData,
            Durability::Buffered => PersistMode::Buffer,
        };
        let mut batch = self.inner.database.batch().durability(Some(mode));
        for change in commit.changes {
            let space = self.space(change.space);
            match change.value {
                Some(value) => batch.insert(space, change.key, value),
                None => batch.remove(space, change.key),
            }
        }
        batch.commit().map_err(|error| self.failed(error))?;
        self.close_full_buffers();
        Ok(())
    }

    /// Makes every commit so far survive a power failure.
    ///
    /// # Errors
    /// [`JournalError::StateFailed`].
    pub fn sync(&self) -> Result<(), JournalError> {
        self.inner.database.persist(PersistMode::SyncData).map_err(|error| self.failed(error))
    }

    /// The value of a key; none of one that is too long to be there.
    ///
    /// # Errors
    /// [`JournalError::StateFailed`] and [`JournalError::StateCorrupt`].
    pub fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, JournalError> {
        if key.len() > KEY_BYTES {
            return Ok(None);
        }
        self.space(space).get(key).map_err(|error| self.failed(error))
    }

    /// The entries of a range of keys, in key order from either end, as they are at this moment. Drop it soon: what it
    /// sees is kept on disk.
    #[must_use]
    pub fn scan<'a>(&self, space: Space, range: impl RangeBounds<&'a [u8]>) -> Scan {
        let iter = self.inner.database.snapshot().range(self.space(space), range);
        Scan { iter, path: self.inner.path.clone() }
    }

    /// The entries whose keys begin with some bytes, as [`Store::scan`] gives them.
    #[must_use]
    pub fn scan_prefix(&self, space: Space, prefix: &[u8]) -> Scan {
        let iter = self.inner.database.snapshot().prefix(self.space(space), prefix);
        Scan { iter, path: self.inner.path.clone() }
    }

    /// Where a cursor is; `None` before it was first moved.
    ///
    /// # Errors
    /// [`JournalError::StateMalformed`] where the value is no cursor, and those of [`Store::get`].
    pub fn cursor(&self, name: &str) -> Result<Option<u64>, JournalError> {
        self.get(Space::Cursors, name.as_bytes())?.map(|value| parse_cursor(name, &value)).transpose()
    }

    /// Has a space give back the disk of what was removed from it, which would happen at some later merge. Blocks until then.
    ///
    /// # Errors
    /// [`JournalError::StateFailed`].
    pub fn give_back(&self, space: Space) -> Result<(), JournalError> {
        let keyspace = self.space(space);
        {
            let _closing = self.inner.closing.lock().unwrap_or_else(PoisonError::into_inner);
            keyspace.rotate_memtable().map_err(|error| self.failed(error))?;
        }
        // What was removed is known to the files once the buffer is written. As in `wait_for_buffers`, errors are seen here.
        while keyspace.sealed_memtable_count() > 0 {
            self.inner.database.persist(PersistMode::Buffer).map_err(|error| self.failed(error))?;
            std::thread::sleep(POLL);
        }
        // The first finds out which values nobody names any more, the second removes the files that hold no others.
        keyspace.major_compact().and_then(|()| keyspace.major_compact()).map_err(|error| self.failed(error))?;
        // Files go when some buffer is closed after a later commit: one that changes nothing, as nobody has that name.
        let mut commit = Commit::new();
        commit.delete(Space::Cursors, NOBODY);
        self.commit(commit, Durability::Buffered)?;
        let _closing = self.inner.closing.lock().unwrap_or_else(PoisonError::into_inner);
        self.space(Space::Cursors).rotate_memtable().map(drop).map_err(|error| self.failed(error))
    }

    /// Bytes of all its files.
    ///
    /// # Errors
    /// [`JournalError::StateFailed`].
    pub fn bytes_on_disk(&self) -> Result<u64, JournalError> {
        self.inner.database.disk_space().map_err(|error| self.failed(error))
    }

    /// The folder that it lies in.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    fn space(&self, space: Space) -> &Keyspace {
        &self.spaces.all[space as usize]
    }

    /// Waits until the disk has taken enough of the full buffers.
    ///
    /// fjall waits by itself, at four, but for ever where its background thread has died of a full disk. So we wait
    /// before, where that error can be seen.
    fn wait_for_buffers(&self) -> Result<(), JournalError> {
        while self.spaces.all.iter().map(Keyspace::sealed_memtable_count).sum::<usize>() >= FULL_BUFFERS {
            self.inner.database.persist(PersistMode::Buffer).map_err(|error| self.failed(error))?;
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Hands the full buffers to the background thread.
    ///
    /// fjall leaves this to that thread too, so that a buffer grows without end while it is at a long merge, and no full
    /// buffer is counted meanwhile. The commit before is done whether this works or not: where the disk refuses, that thread
    /// meets the same, and the next commit is refused.
    fn close_full_buffers(&self) {
        let _closing = self.inner.closing.lock().unwrap_or_else(PoisonError::into_inner);
        for space in Space::ALL {
            let keyspace = self.space(space);
            if keyspace.tree.active_memtable().size() > space.write_buffer_bytes()
                && let Err(error) = keyspace.rotate_memtable()
            {
                warn!(path = %self.inner.path.display(), ?space, %error, "a full buffer of the store was not closed");
            }
        }
    }

    fn failed(&self, error: fjall::Error) -> JournalError {
        classify(&self.inner.path, error)
    }
}

fn parse_cursor(name: &str, value: &[u8]) -> Result<u64, JournalError> {
    let bytes = <[u8; 8]>::try_from(value).map_err(|_| JournalError::StateMalformed {
        space: Space::Cursors,
        key: name.to_owned(),
        bytes: value.len(),
        wanted: 8,
    })?;
    Ok(u64::from_be_bytes(bytes))
}

/// Entries in key order; yields keys and values.
pub struct Scan {
    iter: fjall::Iter,
    path: PathBuf,
}

impl Scan {
    fn read(&self, guard: fjall::Guard) -> Result<(Bytes, Bytes), JournalError> {
        guard.into_inner().map_err(|error| classify(&self.path, error))
    }
}

impl Iterator for Scan {
    type Item = Result<(Bytes, Bytes), JournalError>;

    fn next(&mut self) -> Option<Self::Item> {
        let guard = self.iter.next()?;
        Some(self.read(guard))
    }
}

impl DoubleEndedIterator for Scan {
    fn next_back(&mut self) -> Option<Self::Item> {
        let guard = self.iter.next_back()?;
        Some(self.read(guard))
    }
}

/// Damage, or a disk that refuses?
fn classify(path: &Path, source: fjall::Error) -> JournalError {
    use fjall::Error;
    let path = path.to_owned();
    let corrupt = match &source {
        Error::Io(_) | Error::Poisoned | Error::Locked | Error::KeyspaceDeleted => false,
        Error::Storage(error) => !matches!(error, fjall::LsmError::Io(_)),
        _ => true,
    };
    if corrupt { JournalError::StateCorrupt { path, source } } else { JournalError::StateFailed { path, source } }
}
