//! pgoutput messages become Arrow batches: pure, without I/O, safe against any bytes.
//!
//! ```text
//! message  bytes -> borrowed messages, cells as ranges into the bytes
//! array    the server's text of an array -> JSON text
//! key_text a row's key as SQL names it
//! kind     how a column's values are read and which Arrow type holds them
//! column   one column's Arrow builder
//! binary   values in the server's binary form, which copies have
//! table    one table's builders: rows of cells -> a record batch with the meta columns
//! counted  tables without a key: which of their changes count
//! decoder  transactions and cuts; what a change does to the rows: moves, absent values
//! fault    why a change cannot be taken
//! copy     rows of COPY as cells
//! ```

mod array;
mod binary;
mod column;
mod copy;
mod counted;
mod decoder;
#[cfg(test)]
mod decoder_tests;
mod fault;
mod key_text;
mod kind;
mod message;
mod table;

pub(crate) use copy::{CopyForm, CopyReader};
pub(crate) use decoder::{Decoder, Step};
pub(crate) use kind::{ArrayElement, Kind};
pub(crate) use message::{Cell, Relation, RelationColumn};
pub(crate) use table::{RowView, Shape, Stamp, TableBuilder};
