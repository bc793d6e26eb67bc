//! The state store as the fold sees it, and what the fold wants written.
//!
//! One entry of the log becomes one or more [`Step`]s. Each is committed atomically by the caller: state, outbox and the
//! cursor in it move together or not at all. That is the whole crash story of the transform: after any crash the fold
//! goes on at the cursor and, being deterministic, writes the same bytes again.

use syncline_schemas::frame::Frame;
use syncline_schemas::ident::{LogOffset, SourceId, TableId};

use crate::TransformError;

/// Kinds of state, each a key space of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Space {
    /// Mapping and driving key -> what that row contributes.
    Contributions,
    /// Entity and its key -> claimants or sums.
    Entities,
    /// Table schemas, mapping fingerprints, numbers given to names.
    Catalog,
    /// Mapping and driving key -> why the row is held.
    Held,
    /// Joined table and its key -> the columns that mappings read.
    Rows,
    /// Join key -> the rows on either side of the join; and the re-evaluations that are still to be done.
    Index,
}

impl Space {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Contributions, Self::Entities, Self::Catalog, Self::Held, Self::Rows, Self::Index];
}

/// A key with its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// Committed state.
pub trait State {
    /// The value of a key.
    ///
    /// # Errors
    /// [`TransformError::State`] where the store cannot be read.
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, TransformError>;

    /// The first `limit` pairs whose key starts with `prefix` and is above `after`, in key order.
    ///
    /// # Errors
    /// [`TransformError::State`] where the store cannot be read.
    fn scan(&self, space: Space, prefix: &[u8], after: &[u8], limit: usize) -> Result<Vec<Pair>, TransformError>;
}

/// The values of many keys, in the order of the keys.
///
/// They are read in key order: neighbours lie in one block of the store, so most of them are met in the processor's cache.
pub(crate) fn get_all<K: AsRef<[u8]>>(
    state: &dyn State,
    space: Space,
    keys: &[K],
) -> Result<Vec<Option<Vec<u8>>>, TransformError> {
    let mut order: Vec<usize> = (0..keys.len()).collect();
    order.sort_unstable_by_key(|&i| keys[i].as_ref());
    let mut values = vec![None; keys.len()];
    for i in order {
        values[i] = state.get(space, keys[i].as_ref())?;
    }
    Ok(values)
}

/// What is done with each frame of a transaction that took several.
pub type Visit<'v> = dyn FnMut(LogOffset, &Frame) -> Result<(), TransformError> + 'v;

/// The log, asked back for the frames of a transaction that took several: none of them is folded before the last.
pub trait Replay {
    /// Gives the frames of a source at `from` and above, below `to`, in log order; what they hold of other tables than those
    /// that are wanted may be left out.
    ///
    /// # Errors
    /// [`TransformError::State`] where the log cannot be read, and what `visit` returns.
    fn frames(
        &self,
        source: &SourceId,
        from: LogOffset,
        to: LogOffset,
        wants: &dyn Fn(&TableId) -> bool,
        visit: &mut Visit<'_>,
    ) -> Result<(), TransformError>;
}

/// How far the fold has got.
///
/// `folded` is done, and is a state that was: a transaction is folded as a whole when its last frame comes, so sinks may
/// read the outbox up to there. Of the entry after it, `step` steps are committed that together emitted `rows` delta rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cursor {
    /// The last entry folded whole.
    pub folded: LogOffset,
    /// Steps of the next entry that are committed.
    pub step: u32,
    /// Delta rows in those steps.
    pub rows: u32,
}

/// Deltas of one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxStep {
    /// The log entry that caused them.
    pub offset: LogOffset,
    /// The step within that entry.
    pub step: u32,
    /// Delta rows in `bytes`.
    pub rows: u32,
    /// [`syncline_schemas::delta::encode`]d batches.
    pub bytes: Vec<u8>,
}

/// What one atomic commit of the transform holds.
#[derive(Debug)]
pub struct Step {
    /// State to set (`Some`) or remove (`None`).
    pub writes: Vec<(Space, Vec<u8>, Option<Vec<u8>>)>,
    /// What sinks are to deliver; none where no canonical row changed.
    pub outbox: Option<OutboxStep>,
    /// Where the fold stands with it.
    pub cursor: Cursor,
}
