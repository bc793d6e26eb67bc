//! Many rows as bytes, one run of bytes per row: how state keeps a row on disk.
//!
//! Compact because state is the largest thing the daemon keeps: a null bitmap, then each value that is not null;
//! integers, decimals and instants in as many bytes as they need, so `110.000000000` takes 6 bytes and not 16.
//!
//! ```text
//! bitmap  (fields + 7) / 8 bytes, bit i set = field i is null
//! values  Boolean 1 | floats 4/8 LE | integers, decimals, dates, instants see number.rs | text, binary varint length + bytes
//! ```
//!
//! Invariant: equal rows have equal bytes, so comparing bytes compares rows (no-op suppression stands on it).
//!
//! The byte order of numbers is their order. Nothing relies on it but speed: keys that a source counts up, and those that lie
//! side by side in its table, do so in state, where a table of the store that holds keys above all others is never merged.

mod number;

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BinaryBuilder, BooleanBuilder, FixedSizeBinaryBuilder,
    PrimitiveBuilder, StringBuilder,
};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
    Time64MicrosecondType, TimeUnit, TimestampMicrosecondType, UInt8Type, UInt32Type, UInt64Type,
};

use crate::SchemaError;

/// Rows of bytes in one buffer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    data: Vec<u8>,
    ends: Vec<usize>,
}

impl Rows {
    /// How many rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True without rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The bytes of row `i`.
    ///
    /// # Panics
    /// Where there is no row `i`.
    #[must_use]
    pub fn row(&self, i: usize) -> &[u8] {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.data[start..self.ends[i]]
    }

    /// How much memory the rows take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.data.capacity() + self.ends.capacity() * size_of::<usize>()
    }

    pub(crate) fn with_capacity(rows: usize, bytes: usize) -> Self {
        Self { data: Vec::with_capacity(bytes), ends: Vec::with_capacity(rows) }
    }

    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.data
    }

    pub(crate) fn end_row(&mut self) {
        self.ends.push(self.data.len());
    }
}

/// A column with its type resolved once, so that the loop over rows does no type look-up.
enum Column<'a> {
    Bool(&'a arrow::array::BooleanArray),
    U8(&'a [u8]),
    I16(&'a [i16]),
    I32(&'a [i32]),
    I64(&'a [i64]),
    U32(&'a [u32]),
    U64(&'a [u64]),
    I128(&'a [i128]),
    F32(&'a [f32]),
    F64(&'a [f64]),
    Text(&'a arrow::array::StringArray),
    Binary(&'a arrow::array::BinaryArray),
    Fixed(&'a arrow::array::FixedSizeBinaryArray),
}

impl<'a> Column<'a> {
    fn resolve(array: &'a ArrayRef) -> Result<Self, SchemaError> {
        fn values<T: ArrowPrimitiveType>(array: &ArrayRef) -> &[T::Native] {
            array.as_primitive::<T>().values()
        }
        Ok(match array.data_type() {
            DataType::Boolean => Self::Bool(array.as_boolean()),
            DataType::UInt8 => Self::U8(values::<UInt8Type>(array)),
            DataType::Int16 => Self::I16(values::<Int16Type>(array)),
            DataType::Int32 => Self::I32(values::<Int32Type>(array)),
            DataType::Date32 => Self::I32(values::<Date32Type>(array)),
            DataType::Int64 => Self::I64(values::<Int64Type>(array)),
            DataType::Timestamp(TimeUnit::Microsecond, _) => Self::I64(values::<TimestampMicrosecondType>(array)),
            DataType::Time64(TimeUnit::Microsecond) => Self::I64(values::<Time64MicrosecondType>(array)),
            DataType::UInt32 => Self::U32(values::<UInt32Type>(array)),
            DataType::UInt64 => Self::U64(values::<UInt64Type>(array)),
            DataType::Decimal128(_, _) => Self::I128(values::<Decimal128Type>(array)),
            DataType::Float32 => Self::F32(values::<Float32Type>(array)),
            DataType::Float64 => Self::F64(values::<Float64Type>(array)),
            DataType::Utf8 => Self::Text(array.as_string()),
            DataType::Binary => Self::Binary(array.as_binary()),
            DataType::FixedSizeBinary(_) => Self::Fixed(array.as_fixed_size_binary()),
            other => return Err(unsupported(other)),
        })
    }

    fn put(&self, i: usize, out: &mut Vec<u8>) {
        match self {
            Self::Bool(array) => out.push(u8::from(array.value(i))),
            Self::U8(values) => out.push(values[i]),
            Self::I16(values) => number::put(out, values[i].into()),
            Self::I32(values) => number::put(out, values[i].into()),
            Self::I64(values) => number::put(out, values[i].into()),
            Self::U32(values) => number::put(out, values[i].into()),
            Self::U64(values) => number::put(out, values[i].into()),
            Self::I128(values) => number::put(out, values[i]),
            Self::F32(values) => out.extend_from_slice(&values[i].to_le_bytes()),
            Self::F64(values) => out.extend_from_slice(&values[i].to_le_bytes()),
            Self::Text(array) => put_run(out, array.value(i).as_bytes()),
            Self::Binary(array) => put_run(out, array.value(i)),
            Self::Fixed(array) => out.extend_from_slice(array.value(i)),
        }
    }
}

fn unsupported(data_type: &DataType) -> SchemaError {
    SchemaError::UnsupportedType { what: "a row", data_type: data_type.to_string() }
}

#[allow(clippy::cast_possible_truncation, reason = "LEB128 takes the low seven bits at a time")]
fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_run(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Encodes the rows of equally long columns.
///
/// # Errors
/// [`SchemaError::UnsupportedType`] for a column type that rows cannot hold.
pub fn encode(columns: &[ArrayRef]) -> Result<Rows, SchemaError> {
    let row_count = columns.first().map_or(0, |column| column.len());
    let resolved = columns.iter().map(Column::resolve).collect::<Result<Vec<_>, _>>()?;
    let bitmap_len = columns.len().div_ceil(8);
    let mut rows = Rows::with_capacity(row_count, row_count * (bitmap_len + columns.len() * 6));
    for i in 0..row_count {
        let out = rows.buffer();
        let bitmap_at = out.len();
        out.resize(bitmap_at + bitmap_len, 0);
        for (c, column) in resolved.iter().enumerate() {
            if columns[c].is_null(i) {
                out[bitmap_at + c / 8] |= 1 << (c % 8);
            } else {
                column.put(i, out);
            }
        }
        rows.end_row();
    }
    Ok(rows)
}

/// Decodes rows back into columns of the given types.
///
/// # Errors
/// [`SchemaError::Malformed`] on bytes that [`encode`] did not write for these types.
pub fn decode<'a>(types: &[DataType], rows: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>, SchemaError> {
    let rows = rows.into_iter();
    let builder = |data_type| Builder::new(data_type, rows.size_hint().0);
    let mut builders = types.iter().map(builder).collect::<Result<Vec<_>, _>>()?;
    let bitmap_len = types.len().div_ceil(8);
    for row in rows {
        let mut cursor = Cursor { bytes: row, at: 0 };
        let bitmap = cursor.take(bitmap_len)?;
        for (c, builder) in builders.iter_mut().enumerate() {
            if bitmap[c / 8] & (1 << (c % 8)) == 0 {
                builder.take(&mut cursor)?;
            } else {
                builder.null();
            }
        }
        if cursor.at != row.len() {
            return Err(cursor.malformed("bytes are left over"));
        }
    }
    Ok(builders.into_iter().map(Builder::finish).collect())
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn malformed(&self, reason: &str) -> SchemaError {
        SchemaError::Malformed { what: "a row", at: self.at, reason: reason.to_owned() }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], SchemaError> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let taken = end.map(|end| &self.bytes[self.at..end]).ok_or_else(|| self.malformed("the row ends early"))?;
        self.at += len;
        Ok(taken)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], SchemaError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn number(&mut self) -> Result<i128, SchemaError> {
        let first = self.take(1)?[0];
        Ok(number::get(first, self.take(number::len(first))?))
    }

    fn narrow<T: TryFrom<i128>>(&mut self) -> Result<T, SchemaError> {
        T::try_from(self.number()?).map_err(|_| self.malformed("a number does not fit its column"))
    }

    fn length(&mut self) -> Result<usize, SchemaError> {
        let mut value = 0_usize;
        for shift in (0..usize::BITS).step_by(7) {
            let byte = self.take(1)?[0];
            value |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.malformed("a length has too many digits"))
    }

    fn run(&mut self) -> Result<&'a [u8], SchemaError> {
        let len = self.length()?;
        self.take(len)
    }
}

enum Builder {
    Bool(BooleanBuilder),
    U8(PrimitiveBuilder<UInt8Type>),
    I16(PrimitiveBuilder<Int16Type>),
    I32(PrimitiveBuilder<Int32Type>),
    Date(PrimitiveBuilder<Date32Type>),
    I64(PrimitiveBuilder<Int64Type>),
    Instant(PrimitiveBuilder<TimestampMicrosecondType>),
    Time(PrimitiveBuilder<Time64MicrosecondType>),
    U32(PrimitiveBuilder<UInt32Type>),
    U64(PrimitiveBuilder<UInt64Type>),
    I128(PrimitiveBuilder<Decimal128Type>),
    F32(PrimitiveBuilder<Float32Type>),
    F64(PrimitiveBuilder<Float64Type>),
    Text(StringBuilder),
    Binary(BinaryBuilder),
    Fixed(FixedSizeBinaryBuilder, usize),
}

/// Calls one method on whichever builder it is.
macro_rules! each_builder {
    ($builder:expr, $inner:ident => $call:expr) => {
        match $builder {
            Builder::Bool($inner) => $call,
            Builder::U8($inner) => $call,
            Builder::I16($inner) => $call,
            Builder::I32($inner) => $call,
            Builder::Date($inner) => $call,
            Builder::I64($inner) => $call,
            Builder::Instant($inner) => $call,
            Builder::Time($inner) => $call,
            Builder::U32($inner) => $call,
            Builder::U64($inner) => $call,
            Builder::I128($inner) => $call,
            Builder::F32($inner) => $call,
            Builder::F64($inner) => $call,
            Builder::Text($inner) => $call,
            Builder::Binary($inner) => $call,
            Builder::Fixed($inner, _) => $call,
        }
    };
}

impl Builder {
    fn new(data_type: &DataType, rows: usize) -> Result<Self, SchemaError> {
        Ok(match data_type {
            DataType::Boolean => Self::Bool(BooleanBuilder::with_capacity(rows)),
            DataType::UInt8 => Self::U8(PrimitiveBuilder::with_capacity(rows)),
            DataType::Int16 => Self::I16(PrimitiveBuilder::with_capacity(rows)),
            DataType::Int32 => Self::I32(PrimitiveBuilder::with_capacity(rows)),
            DataType::Date32 => Self::Date(PrimitiveBuilder::with_capacity(rows)),
            DataType::Int64 => Self::I64(PrimitiveBuilder::with_capacity(rows)),
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                Self::Instant(PrimitiveBuilder::with_capacity(rows).with_data_type(data_type.clone()))
            }
            DataType::Time64(TimeUnit::Microsecond) => Self::Time(PrimitiveBuilder::with_capacity(rows)),
            DataType::UInt32 => Self::U32(PrimitiveBuilder::with_capacity(rows)),
            DataType::UInt64 => Self::U64(PrimitiveBuilder::with_capacity(rows)),
            DataType::Decimal128(_, _) => {
                Self::I128(PrimitiveBuilder::with_capacity(rows).with_data_type(data_type.clone()))
            }
            DataType::Float32 => Self::F32(PrimitiveBuilder::with_capacity(rows)),
            DataType::Float64 => Self::F64(PrimitiveBuilder::with_capacity(rows)),
            DataType::Utf8 => Self::Text(StringBuilder::with_capacity(rows, 0)),
            DataType::Binary => Self::Binary(BinaryBuilder::with_capacity(rows, 0)),
            DataType::FixedSizeBinary(len) => {
                let width = usize::try_from(*len).map_err(|_| unsupported(data_type))?;
                Self::Fixed(FixedSizeBinaryBuilder::with_capacity(rows, *len), width)
            }
            other => return Err(unsupported(other)),
        })
    }

    fn null(&mut self) {
        each_builder!(self, builder => builder.append_null());
    }

    fn take(&mut self, cursor: &mut Cursor<'_>) -> Result<(), SchemaError> {
        match self {
            Self::Bool(builder) => builder.append_value(cursor.take(1)?[0] != 0),
            Self::U8(builder) => builder.append_value(cursor.take(1)?[0]),
            Self::I16(builder) => builder.append_value(cursor.narrow()?),
            Self::I32(builder) => builder.append_value(cursor.narrow()?),
            Self::Date(builder) => builder.append_value(cursor.narrow()?),
            Self::I64(builder) => builder.append_value(cursor.narrow()?),
            Self::Instant(builder) => builder.append_value(cursor.narrow()?),
            Self::Time(builder) => builder.append_value(cursor.narrow()?),
            Self::U32(builder) => builder.append_value(cursor.narrow()?),
            Self::U64(builder) => builder.append_value(cursor.narrow()?),
            Self::I128(builder) => builder.append_value(cursor.number()?),
            Self::F32(builder) => builder.append_value(f32::from_le_bytes(cursor.fixed()?)),
            Self::F64(builder) => builder.append_value(f64::from_le_bytes(cursor.fixed()?)),
            Self::Text(builder) => {
                let run = cursor.run()?;
                let text = std::str::from_utf8(run).map_err(|_| cursor.malformed("text is not UTF-8"))?;
                builder.append_value(text);
            }
            Self::Binary(builder) => builder.append_value(cursor.run()?),
            Self::Fixed(builder, width) => builder.append_value(cursor.take(*width)?)?,
        }
        Ok(())
    }

    fn finish(self) -> ArrayRef {
        each_builder!(self, builder => { let mut builder = builder; Arc::new(builder.finish()) })
    }
}
