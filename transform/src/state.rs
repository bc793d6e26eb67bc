//! The state store as the fold sees it, and what the fold wants written.
//!
//! One entry of the log becomes one or more [`Step`]s. Each is committed atomically by the caller: state, outbox and the
//! cursor in it move together or not at all. That is the whole crash story of the transform: after any crash the fold
//! goes on at the cursor and, being deterministic, writes the same bytes again.

use syncline_schemas::ident::LogOffset;

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

    /// The first `limit` pairs whose key starts with `prefix`, in key order.
    ///
    /// # Errors
    /// [`TransformError::State`] where the store cannot be read.
    fn scan(&self, space: Space, prefix: &[u8], limit: usize) -> Result<Vec<Pair>, TransformError>;
}

/// How far the fold has got.
///
/// `folded` is done. Of the entry after it, `step` steps are committed that together emitted `rows` delta rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cursor {
    /// The last entry folded whole.
    pub folded: LogOffset,
    /// Steps of the next entry that are committed.
    pub step: u32,
    /// Delta rows in those steps.
    pub rows: u32,
    /// Sinks may read the outbox up to here: no source transaction is cut in two.
    pub visible: LogOffset,
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
