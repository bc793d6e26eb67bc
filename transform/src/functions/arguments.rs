//! The arguments of one call over a batch: columns and constants behind the same readers.
//!
//! Null in gives null out: rows with a null argument are never asked for, so a reader may take every value as given.
//! A constant is read once, not once per row. A call with nothing but constants has one row.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, UInt32Array, new_null_array};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::compute::take;
use arrow::datatypes::{
    DataType, Date32Type, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType,
};
use datafusion_common::Result as DataFusionResult;
use datafusion_expr::ColumnarValue;

use super::fault::Fault;
use crate::mapping::decimal::{self, Exact};

const DAY_SECONDS: i64 = 86_400;

/// Arguments in the types that their positions compute in.
pub(super) struct Arguments {
    columns: Vec<Column>,
    rows: usize,
    nulls: Option<NullBuffer>,
    gives: DataType,
}

struct Column {
    values: ArrayRef,
    is_constant: bool,
}

impl Column {
    fn index(&self, row: usize) -> usize {
        if self.is_constant { 0 } else { row }
    }
}

impl Arguments {
    pub(super) fn new(values: &[ColumnarValue], rows: usize, gives: &DataType) -> DataFusionResult<Self> {
        let columns = values
            .iter()
            .map(|value| {
                Ok(match value {
                    ColumnarValue::Array(array) => Column { values: Arc::clone(array), is_constant: false },
                    ColumnarValue::Scalar(scalar) => Column { values: scalar.to_array()?, is_constant: true },
                })
            })
            .collect::<DataFusionResult<Vec<_>>>()?;
        let rows = if columns.iter().all(|column| column.is_constant) { 1 } else { rows };
        let nulls = columns.iter().fold(None, |nulls: Option<NullBuffer>, column| {
            let missing = column.is_constant && column.values.is_null(0);
            let own = if missing { Some(NullBuffer::new_null(rows)) } else { column.values.nulls().cloned() };
            let own = own.filter(|own| own.len() == rows);
            NullBuffer::union(nulls.as_ref(), own.as_ref())
        });
        Ok(Self { columns, rows, nulls, gives: gives.clone() })
    }

    /// True where no row has a value.
    pub(super) fn is_all_null(&self) -> bool {
        self.nulls.as_ref().is_some_and(|nulls| nulls.null_count() == self.rows)
    }

    /// Null for every row.
    pub(super) fn nothing(&self) -> ArrayRef {
        new_null_array(&self.gives, self.rows)
    }

    pub(super) fn len(&self) -> usize {
        self.columns.len()
    }

    /// The decimals of the result.
    pub(super) fn scale(&self) -> i32 {
        i32::from(self.decimal_scale())
    }

    fn decimal_scale(&self) -> i8 {
        if let DataType::Decimal128(_, scale) = self.gives { scale } else { unreachable!("only decimals have a scale") }
    }

    /// Reads numbers.
    pub(super) fn number(&self, index: usize) -> impl Fn(usize) -> Result<Exact, Fault> {
        let column = &self.columns[index];
        let read = decimal::reader(&column.values);
        let constant = column.is_constant.then(|| read(0));
        move |row| Ok(constant.unwrap_or_else(|| read(row))?)
    }

    /// Reads text.
    pub(super) fn text<'a>(&'a self, index: usize) -> impl Fn(usize) -> &'a str {
        let column = &self.columns[index];
        let values = column.values.as_string::<i32>();
        move |row| values.value(column.index(row))
    }

    /// Reads text as what it names.
    pub(super) fn named<T: Copy>(
        &self,
        index: usize,
        parse: fn(&str) -> Result<T, Fault>,
    ) -> impl Fn(usize) -> Result<T, Fault> {
        let text = self.text(index);
        let constant = self.columns[index].is_constant.then(|| parse(text(0)));
        move |row| constant.unwrap_or_else(|| parse(text(row)))
    }

    /// Reads timestamps as microseconds since 1970; what is smaller is cut off.
    pub(super) fn micros(&self, index: usize) -> impl Fn(usize) -> Result<i64, Fault> {
        let column = &self.columns[index];
        let (values, per_second) = ticks(&column.values);
        move |row| {
            let value = values[column.index(row)];
            if per_second > 1_000_000 {
                return Ok(value.div_euclid(per_second / 1_000_000));
            }
            value.checked_mul(1_000_000 / per_second).ok_or(Fault::TimeOutOfRange)
        }
    }

    /// Reads dates and timestamps as days since 1970.
    pub(super) fn day(&self, index: usize) -> Box<dyn Fn(usize) -> i64 + '_> {
        let column = &self.columns[index];
        if *column.values.data_type() == DataType::Date32 {
            let values = column.values.as_primitive::<Date32Type>().values();
            return Box::new(move |row| i64::from(values[column.index(row)]));
        }
        let (values, per_second) = ticks(&column.values);
        Box::new(move |row| values[column.index(row)].div_euclid(per_second * DAY_SECONDS))
    }

    /// An argument with a value for every row.
    pub(super) fn column(&self, index: usize) -> Result<ArrayRef, Fault> {
        let column = &self.columns[index];
        if !column.is_constant {
            return Ok(Arc::clone(&column.values));
        }
        let repeated = take(&column.values, &UInt32Array::from(vec![0; self.rows]), None);
        Ok(repeated.expect("index 0 is inside a constant"))
    }

    /// Computes row by row; a row with a null argument is null.
    pub(super) fn rows<T, A: FromIterator<Option<T>>>(
        &self,
        mut value: impl FnMut(usize) -> Result<Option<T>, Fault>,
    ) -> Result<A, Fault> {
        let is_null = |row: usize| self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
        (0..self.rows).map(|row| if is_null(row) { Ok(None) } else { value(row) }).collect()
    }

    /// Computes decimals of the result's scale.
    pub(super) fn decimals(&self, mut value: impl FnMut(usize) -> Result<i128, Fault>) -> Result<ArrayRef, Fault> {
        let values: Decimal128Array = self.rows(|row| value(row).map(Some))?;
        Ok(Arc::new(decimal::sized(values, self.decimal_scale())))
    }

    /// Computes truth values.
    pub(super) fn booleans(&self, mut value: impl FnMut(usize) -> Result<bool, Fault>) -> Result<ArrayRef, Fault> {
        let values: BooleanArray = self.rows(|row| value(row).map(Some))?;
        Ok(Arc::new(values))
    }
}

/// Timestamps as they are stored, and how many of their units a second has.
fn ticks(array: &ArrayRef) -> (&ScalarBuffer<i64>, i64) {
    match array.data_type() {
        DataType::Timestamp(TimeUnit::Second, _) => (array.as_primitive::<TimestampSecondType>().values(), 1),
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            (array.as_primitive::<TimestampMillisecondType>().values(), 1_000)
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            (array.as_primitive::<TimestampMicrosecondType>().values(), 1_000_000)
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            (array.as_primitive::<TimestampNanosecondType>().values(), 1_000_000_000)
        }
        other => unreachable!("{other} was refused when the mapping was compiled"),
    }
}
