//! The store as it is at one moment, while commits go on.

use std::ops::RangeBounds;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use fjall::Readable;

use super::{Bytes, GENERATION, Scan, Space, Spaces, Store, classify, parse_cursor};
use crate::error::JournalError;

/// A switch puts its spaces in place within microseconds of its commit, unless the disk failed in between.
const SWITCH_LOOK: Duration = Duration::from_micros(100);
const SWITCH_LOOKS_MAX: u32 = 10_000;

/// A moment of the store; clones are the same one. Drop it soon: what it sees is kept on disk.
#[derive(Clone)]
pub struct Snapshot {
    moment: fjall::Snapshot,
    spaces: Arc<Spaces>,
    path: PathBuf,
}

impl Store {
    /// This moment, of the generation that counts.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let mut looks = 0;
        loop {
            // Held, so that no switch falls between the two.
            let current = self.inner.current.read().unwrap_or_else(PoisonError::into_inner);
            let moment = self.inner.database.snapshot();
            let snapshot = Snapshot { moment, spaces: Arc::clone(&current), path: self.inner.path.clone() };
            drop(current);
            // One whose commit is visible and that has not put its spaces in place yet is waited for.
            let counts = snapshot.cursor(GENERATION).ok().flatten().unwrap_or_default();
            looks += 1;
            if counts <= snapshot.spaces.generation || looks > SWITCH_LOOKS_MAX {
                return snapshot;
            }
            std::thread::sleep(SWITCH_LOOK);
        }
    }
}

impl Snapshot {
    /// The value of a key.
    ///
    /// # Errors
    /// [`JournalError::StateFailed`] and [`JournalError::StateCorrupt`].
    pub fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, JournalError> {
        let space = &self.spaces.all[space as usize];
        self.moment.get(space, key).map_err(|error| classify(&self.path, error))
    }

    /// The entries of a range of keys, in key order from either end.
    #[must_use]
    pub fn scan<'a>(&self, space: Space, range: impl RangeBounds<&'a [u8]>) -> Scan {
        Scan { iter: self.moment.range(&self.spaces.all[space as usize], range), path: self.path.clone() }
    }

    /// The entries whose keys begin with some bytes.
    #[must_use]
    pub fn scan_prefix(&self, space: Space, prefix: &[u8]) -> Scan {
        Scan { iter: self.moment.prefix(&self.spaces.all[space as usize], prefix), path: self.path.clone() }
    }

    /// Where a cursor was; `None` before it was first moved.
    ///
    /// # Errors
    /// [`JournalError::StateMalformed`] where the value is no cursor, and those of [`Snapshot::get`].
    pub fn cursor(&self, name: &str) -> Result<Option<u64>, JournalError> {
        self.get(Space::Cursors, name.as_bytes())?.map(|value| parse_cursor(name, &value)).transpose()
    }
}
