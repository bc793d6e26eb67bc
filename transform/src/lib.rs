//! Source frames to canonical deltas: the mapping compiler and the incremental fold.
//!
//! Pure: no tokio, no files, no clock. Mapping texts come in as strings, state through a trait, and every result goes out
//! as a [`state::Step`] that the caller commits atomically.
//!
//! - [`mapping`]: SQL text to expressions that run on whole batches;
//! - [`fold`]: changes of source rows to changes of canonical rows, by contributions;
//! - [`state`]: what the fold reads and what it wants written.

mod error;
pub mod fold;
mod functions;
pub mod mapping;
pub mod state;

pub use error::{MappingFault, Place, TransformError};
