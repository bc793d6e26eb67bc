//! The targets: each reads the outbox at its own pace and makes what it delivers durable at its own place.
//!
//! The seam is [`Sink`] and [`DeltaSource`]: the pump (outside this crate) cuts the outbox into [`Span`]s and hands each
//! to the sink together with a way to read it; the sink never sees the journal, and one sink never sees another.
//!
//! - [`planning`]: batches of row images with versions over HTTP (the PDX/1 contract);
//! - [`profile`]: the same rows for platforms that speak other dialects, as a file says;
//! - [`planner`]: the reference receiver of that contract, with a SQLite file inside and fault knobs;
//! - [`conformance`]: checks for whoever builds a receiver of that contract;
//! - [`lake`]: Delta tables of the current rows and of every version, on disk or in object storage;
//! - [`discard`]: counts and drops, to measure everything before it.

pub mod conformance;
pub mod discard;
mod entities;
mod error;
pub mod lake;
pub mod planner;
pub mod planning;
pub mod profile;
mod random;
mod seam;

pub use entities::EntityPatterns;
pub use error::{Class, SinkError};
pub use seam::{
    Batching, DeltaSource, Filler, Identity, Image, Known, OutboxEntry, OutboxIter, Recalled, Reject, Sink, Span,
    Written,
};
