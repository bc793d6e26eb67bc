//! A set of changes that becomes visible and durable as one, or not at all.

use super::Space;
use crate::error::JournalError;
use crate::limits::{KEY_BYTES, VALUE_BYTES};

/// When [`super::Store::commit`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// When the commit and all before it survive a power failure.
    Synced,
    /// When it survives the process. A power failure may take the last such commits, newest first and each as a whole;
    /// the transform then folds the log from an older cursor.
    Buffered,
}

/// One change.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) space: Space,
    pub(super) key: Vec<u8>,
    /// `None` deletes.
    pub(super) value: Option<Vec<u8>>,
}

/// Changes in order; the last one to a key counts.
#[derive(Debug, Clone, Default)]
pub struct Commit {
    pub(super) changes: Vec<Change>,
}

impl Commit {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the value of a key.
    pub fn put(&mut self, space: Space, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.changes.push(Change { space, key: key.into(), value: Some(value.into()) });
    }

    /// Removes a key; one that is not there is no error.
    pub fn delete(&mut self, space: Space, key: impl Into<Vec<u8>>) {
        self.changes.push(Change { space, key: key.into(), value: None });
    }

    /// Moves a cursor.
    pub fn put_cursor(&mut self, name: &str, at: u64) {
        self.put(Space::Cursors, name, at.to_be_bytes());
    }

    /// Number of changes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// True without changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The store panics beyond these sizes, so they are checked here.
    pub(super) fn check(&self) -> Result<(), JournalError> {
        let refused = |what, space, bytes, max| Err(JournalError::StateTooLarge { what, space, bytes, max });
        for Change { space, key, value } in &self.changes {
            if key.is_empty() || key.len() > KEY_BYTES {
                return refused("a key", *space, key.len(), KEY_BYTES);
            }
            if let Some(value) = value.as_ref().filter(|value| value.len() > VALUE_BYTES) {
                return refused("a value", *space, value.len(), VALUE_BYTES);
            }
        }
        Ok(())
    }
}
