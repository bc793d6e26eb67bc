//! Keys as bytes whose byte order is the order of the values, stable across releases.
//!
//! A key is a place in the state store and in the files of the lake, so its bytes are a format: Arrow's own row format
//! promises no stability between its versions and therefore cannot be it.
//!
//! ```text
//! per column: 00 null | 01 value
//! integers, dates, instants, decimals  big-endian with the sign bit flipped (decimals 16 bytes)
//! text, binary                         bytes with 00 written as 00 FF, closed by 00 00
//! fixed binary, Boolean                the bytes
//! floats                               IEEE 754 total order
//! ```

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
    Time64MicrosecondType, TimeUnit, TimestampMicrosecondType, UInt8Type, UInt32Type, UInt64Type,
};

use crate::SchemaError;
use crate::rowcode::Rows;

const NULL: u8 = 0;
const VALUE: u8 = 1;

/// Encodes the keys of equally long columns, in key order.
///
/// # Errors
/// [`SchemaError::UnsupportedType`] for a column type that keys cannot hold.
pub fn encode(columns: &[ArrayRef]) -> Result<Rows, SchemaError> {
    let row_count = columns.first().map_or(0, |column| column.len());
    let writers = columns.iter().map(writer).collect::<Result<Vec<_>, _>>()?;
    let mut rows = Rows::with_capacity(row_count, row_count * columns.len() * 12);
    for i in 0..row_count {
        let out = rows.buffer();
        for (column, write) in columns.iter().zip(&writers) {
            if column.is_null(i) {
                out.push(NULL);
            } else {
                out.push(VALUE);
                write(i, out);
            }
        }
        rows.end_row();
    }
    Ok(rows)
}

type Writer<'a> = Box<dyn Fn(usize, &mut Vec<u8>) + 'a>;

fn writer(array: &ArrayRef) -> Result<Writer<'_>, SchemaError> {
    /// Big-endian with the sign bit flipped.
    macro_rules! signed {
        ($arrow:ty, $unsigned:ty) => {{
            let values = array.as_primitive::<$arrow>().values();
            Box::new(move |i: usize, out: &mut Vec<u8>| {
                let flipped = values[i].cast_unsigned() ^ (1 << (<$unsigned>::BITS - 1));
                out.extend_from_slice(&flipped.to_be_bytes());
            })
        }};
    }
    macro_rules! unsigned {
        ($arrow:ty) => {{
            let values = array.as_primitive::<$arrow>().values();
            Box::new(move |i: usize, out: &mut Vec<u8>| out.extend_from_slice(&values[i].to_be_bytes()))
        }};
    }
    macro_rules! float {
        ($arrow:ty, $unsigned:ty) => {{
            let values = array.as_primitive::<$arrow>().values();
            Box::new(move |i: usize, out: &mut Vec<u8>| {
                let bits = values[i].to_bits();
                let sign = 1 << (<$unsigned>::BITS - 1);
                let ordered = if bits & sign == 0 { bits | sign } else { !bits };
                out.extend_from_slice(&ordered.to_be_bytes());
            })
        }};
    }
    Ok(match array.data_type() {
        DataType::Boolean => {
            let values = array.as_boolean();
            Box::new(move |i, out| out.push(u8::from(values.value(i))))
        }
        DataType::Int16 => signed!(Int16Type, u16),
        DataType::Int32 => signed!(Int32Type, u32),
        DataType::Date32 => signed!(Date32Type, u32),
        DataType::Int64 => signed!(Int64Type, u64),
        DataType::Timestamp(TimeUnit::Microsecond, _) => signed!(TimestampMicrosecondType, u64),
        DataType::Time64(TimeUnit::Microsecond) => signed!(Time64MicrosecondType, u64),
        DataType::Decimal128(_, _) => signed!(Decimal128Type, u128),
        DataType::UInt8 => unsigned!(UInt8Type),
        DataType::UInt32 => unsigned!(UInt32Type),
        DataType::UInt64 => unsigned!(UInt64Type),
        DataType::Float32 => float!(Float32Type, u32),
        DataType::Float64 => float!(Float64Type, u64),
        DataType::Utf8 => {
            let values = array.as_string::<i32>();
            Box::new(move |i, out| put_escaped(out, values.value(i).as_bytes()))
        }
        DataType::Binary => {
            let values = array.as_binary::<i32>();
            Box::new(move |i, out| put_escaped(out, values.value(i)))
        }
        DataType::FixedSizeBinary(_) => {
            let values = array.as_fixed_size_binary();
            Box::new(move |i, out| out.extend_from_slice(values.value(i)))
        }
        other => return Err(SchemaError::UnsupportedType { what: "a key", data_type: other.to_string() }),
    })
}

fn put_escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    for &byte in bytes {
        out.push(byte);
        if byte == 0 {
            out.push(0xff);
        }
    }
    out.extend_from_slice(&[0, 0]);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Decimal128Array, Int64Array, StringArray};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn key_bytes_order_like_the_values(
            left in (any::<i64>(), ".*", any::<Option<i128>>()), right in (any::<i64>(), ".*", any::<Option<i128>>()),
        ) {
            let columns: Vec<ArrayRef> = vec![
                Arc::new(Int64Array::from(vec![left.0, right.0])),
                Arc::new(StringArray::from(vec![left.1.clone(), right.1.clone()])),
                Arc::new(Decimal128Array::from(vec![left.2, right.2])),
            ];
            for first in 0..3 {
                let order: Vec<ArrayRef> = (0..3).map(|i| Arc::clone(&columns[(first + i) % 3])).collect();
                let keys = encode(&order).expect("supported types");
                let wanted = match first {
                    0 => left.cmp(&right),
                    1 => (&left.1, left.2, left.0).cmp(&(&right.1, right.2, right.0)),
                    _ => (left.2, left.0, &left.1).cmp(&(right.2, right.0, &right.1)),
                };
                prop_assert_eq!(keys.row(0).cmp(keys.row(1)), wanted);
            }
        }
    }
}
