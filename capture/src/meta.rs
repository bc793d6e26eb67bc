//! The meta columns of rows that a database logged, under construction beside the columns of their table.

use std::fmt::{Display, Write};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, DictionaryArray, StringBuilder, TimestampMicrosecondArray, UInt8Array, UInt32Array,
};
use arrow::datatypes::UInt32Type;
use arrow::error::ArrowError;
use syncline_schemas::frame::Op;

/// Operation, order, time, position and what is absent of each row. `P` is a position, which is written as the source's own
/// tools print it, once for all rows in a row that have it.
pub(crate) struct MetaColumns<P> {
    ops: Vec<u8>,
    ords: Vec<u32>,
    commits_us: Vec<i64>,
    position_keys: Vec<u32>,
    positions: StringBuilder,
    position_count: u32,
    position: Option<P>,
    absent: BinaryBuilder,
}

impl<P> Default for MetaColumns<P> {
    fn default() -> Self {
        Self {
            ops: Vec::new(),
            ords: Vec::new(),
            commits_us: Vec::new(),
            position_keys: Vec::new(),
            positions: StringBuilder::new(),
            position_count: 0,
            position: None,
            absent: BinaryBuilder::new(),
        }
    }
}

impl<P: Clone + PartialEq + Display> MetaColumns<P> {
    /// How many rows there are.
    pub(crate) fn rows(&self) -> usize {
        self.ops.len()
    }

    /// Appends a row; `absent` has a bit set for each column that was not sent, where there is one.
    #[inline]
    pub(crate) fn append(&mut self, op: Op, ord: u32, commit_us: i64, position: &P, absent: Option<&[u8]>) {
        if self.position.as_ref() != Some(position) {
            self.position = Some(position.clone());
            write!(self.positions, "{position}").expect("a builder takes every text");
            self.positions.append_value("");
            self.position_count += 1;
        }
        self.ops.push(op as u8);
        self.ords.push(ord);
        self.commits_us.push(commit_us);
        self.position_keys.push(self.position_count - 1);
        self.absent.append_option(absent);
    }

    /// Appends the columns behind those of the table.
    pub(crate) fn finish(mut self, arrays: &mut Vec<ArrayRef>) -> Result<(), ArrowError> {
        let positions = Arc::new(self.positions.finish());
        let position_keys = UInt32Array::from(self.position_keys);
        arrays.push(Arc::new(UInt8Array::from(self.ops)));
        arrays.push(Arc::new(UInt32Array::from(self.ords)));
        arrays.push(Arc::new(TimestampMicrosecondArray::from(self.commits_us).with_timezone("UTC")));
        arrays.push(Arc::new(DictionaryArray::<UInt32Type>::try_new(position_keys, positions)?));
        arrays.push(Arc::new(self.absent.finish()));
        Ok(())
    }
}
