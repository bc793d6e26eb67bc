//! Rows of the binary log to Arrow builders: no value of a row is made on the way that is not the builder's own.
//!
//! ```text
//! charset  numbers of collations to character sets, text of any of them to UTF-8
//! kind     how a column's values are read, and which Arrow type holds them exactly
//! image    where the values of a row lie
//! packed   values of compressed columns
//! named    types of which the log does not say what they are called
//! column   one column's builder
//! written  values as a query writes them, for the same builders
//! decimal, moment, json   values that are packed
//! table    one table's builders: rows -> a record batch with the meta columns
//! ```

mod charset;
mod column;
mod decimal;
mod image;
mod json;
mod kind;
mod moment;
mod named;
mod packed;
mod table;
mod written;

pub(crate) use charset::number_of;
pub(crate) use image::{Cell, Layout};
pub(crate) use kind::Kind;
pub(crate) use named::Named;
pub(crate) use table::{Fault, RowView, Shape, Stamp, TableBuilder};
