//! What a shape would do to the mappings, were it in the log.
//!
//! An entry of the log cannot be taken back, so a shape that they cannot go on with stops the fold for good. A server's
//! tables change without asking; whoever makes the entries himself can ask first.

use syncline_schemas::table::TableSchema;

use super::roster::Roster;
use crate::TransformError;
use crate::mapping::Mapping;
use crate::state::State;

/// Whether the mappings go on with a shape, as far as the other tables that they read are known. `before` is the last
/// shape of the table in the log, which may not be folded yet. Changes nothing.
///
/// # Errors
/// What folding it would say: [`TransformError::KeyChanged`], [`TransformError::Mapping`].
pub fn foresee(
    mappings: Vec<Mapping>,
    before: Option<&TableSchema>,
    shape: &TableSchema,
    state: &dyn State,
) -> Result<(), TransformError> {
    // Whether these are the mappings of the state is asked when the fold is opened.
    let mut roster = Roster::open(mappings, state)?;
    before.map_or(Ok(()), |before| roster.observe_shape(before))?;
    roster.observe_shape(shape)
}
