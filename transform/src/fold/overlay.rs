//! State as it will be when the step at hand is committed: what the step writes of joined rows and their indexes lies over
//! what was committed, so that rows and the facts that join them may come in one transaction.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use super::Writes;
use crate::TransformError;
use crate::state::{Space, State};

/// Joined rows and index entries, committed or about to be.
pub(super) struct Overlay<'s> {
    state: &'s dyn State,
    rows: HashMap<Vec<u8>, Option<Vec<u8>>>,
    /// True for an entry that is there.
    index: BTreeMap<Vec<u8>, bool>,
}

impl<'s> Overlay<'s> {
    pub(super) fn new(state: &'s dyn State) -> Self {
        Self { state, rows: HashMap::new(), index: BTreeMap::new() }
    }

    /// A joined row, dated.
    pub(super) fn row(&self, key: &[u8]) -> Result<Option<Cow<'_, [u8]>>, TransformError> {
        if let Some(row) = self.rows.get(key) {
            return Ok(row.as_deref().map(Cow::Borrowed));
        }
        Ok(self.state.get(Space::Rows, key)?.map(Cow::Owned))
    }

    pub(super) fn put_row(&mut self, key: Vec<u8>, row: Option<Vec<u8>>) {
        self.rows.insert(key, row);
    }

    pub(super) fn put_index(&mut self, key: Vec<u8>, there: bool) {
        self.index.insert(key, there);
    }

    /// The first two index entries that begin with some bytes: enough to tell none, one and several apart.
    pub(super) fn first_two(&self, prefix: &[u8]) -> Result<Vec<Vec<u8>>, TransformError> {
        let mut found: Vec<Vec<u8>> = Vec::new();
        let mut after = Vec::new();
        // Committed entries that the step takes away do not count.
        while found.len() < 2 {
            let batch = self.state.scan(Space::Index, prefix, &after, 2)?;
            let Some((last, _)) = batch.last() else { break };
            after.clone_from(last);
            let stays = |key: &Vec<u8>| self.index.get(key) != Some(&false);
            found.extend(batch.into_iter().map(|(key, _)| key).filter(stays));
        }
        if !self.index.is_empty() {
            let fresh = self.index.range(prefix.to_vec()..).take_while(|(key, _)| key.starts_with(prefix));
            found.extend(fresh.filter(|(_, there)| **there).map(|(key, _)| key.clone()));
            found.sort_unstable();
            found.dedup();
        }
        found.truncate(2);
        Ok(found)
    }

    /// What the step has to write.
    pub(super) fn into_writes(self) -> Writes {
        let rows = self.rows.into_iter().map(|(key, row)| (Space::Rows, key, row));
        let index = self.index.into_iter().map(|(key, there)| (Space::Index, key, there.then(Vec::new)));
        rows.chain(index).collect()
    }
}
