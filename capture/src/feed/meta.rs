//! The meta columns of rows that no database logged.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, DictionaryArray, StringArray, TimestampMicrosecondArray, UInt8Array, UInt32Array,
};
use arrow::datatypes::UInt32Type;
use arrow::error::ArrowError;
use syncline_schemas::frame::{META_COLUMNS, Op};

/// What all rows of a change carry.
pub(super) struct Stamp<'a> {
    pub(super) commit_us: i64,
    /// For lineage.
    pub(super) position: &'a str,
}

/// The meta columns of rows with these operations, in a frame from the place `ord` on. Nothing of them is absent.
pub(super) fn columns(ops: Vec<u8>, ord: u32, stamp: &Stamp<'_>) -> Result<[ArrayRef; META_COLUMNS], ArrowError> {
    let rows = ops.len();
    let ords: UInt32Array = (ord..).take(rows).collect::<Vec<_>>().into();
    let commits = TimestampMicrosecondArray::from(vec![stamp.commit_us; rows]).with_timezone("UTC");
    let position = Arc::new(StringArray::from(vec![stamp.position]));
    let positions = DictionaryArray::<UInt32Type>::try_new(UInt32Array::from(vec![0; rows]), position)?;
    let absent = BinaryArray::new_null(rows);
    let ops: UInt8Array = ops.into();
    Ok([Arc::new(ops), Arc::new(ords), Arc::new(commits), Arc::new(positions), Arc::new(absent)])
}

/// As [`columns`], of rows that all underwent the same.
pub(super) fn same(op: Op, rows: usize, ord: u32, stamp: &Stamp<'_>) -> Result<[ArrayRef; META_COLUMNS], ArrowError> {
    columns(vec![op as u8; rows], ord, stamp)
}
