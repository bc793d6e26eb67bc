//! The vocabulary of Syncline: what travels between its stages, and the canonical entities.
//!
//! `schemas` is the only crate that every stage imports; no stage imports another. Two families live here:
//!
//! - what travels: [`frame::Frame`] (source rows on their way into the log), [`table::TableSchema`] (how to read
//!   them) and [`delta::DeltaBatch`] (canonical changes on their way to the sinks), with their stable bytes;
//! - what they mean: [`entity::Entity`], read from `canonical/*.toml`, from which the Arrow schema, the JSON Schema
//!   and the documentation table are derived.
//!
//! Beside them stand the planning [`outputs`], which come the other way.
//!
//! Everything here is pure: no files beyond the embedded definitions, no clock, no I/O.

mod bytes;
pub mod delta;
pub mod entity;
mod error;
pub mod frame;
pub mod ident;
mod ipc;
pub mod keycode;
pub mod outputs;
pub mod rowcode;
pub mod secret;
pub mod table;

pub use error::SchemaError;
