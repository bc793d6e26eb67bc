//! One column's Arrow builder, fed with the bytes of the log.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float32Builder, Float64Builder,
    Int16Builder, Int32Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder, UInt64Builder,
};
use arrow::datatypes::DataType;

use super::charset::{self, Charset};
use super::kind::Kind;
use super::named::Named;
use super::packed::unpacked;
use super::{decimal, json, moment};
use crate::mysql::bytes::{big_endian, little_endian};
use crate::value::ValueFault;

const WIDTH: ValueFault = ValueFault::Malformed("a number has another width than its type");
const LABEL: ValueFault = ValueFault::Malformed("a label has a number that the column lacks");

/// Bytes of one column that were compressed, in one frame: a value has at most half of it.
const UNPACKED_MAX: usize = i32::MAX as usize;
const UNPACKED: ValueFault = ValueFault::Malformed("an event holds more compressed values than can be taken at once");

/// A builder with what reading its values needs.
pub(super) enum Column {
    Int2 { builder: Int16Builder, is_unsigned: bool },
    Int4 { builder: Int32Builder, is_unsigned: bool },
    Int8 { builder: Int64Builder, is_unsigned: bool },
    UInt8(UInt64Builder),
    Float4(Float32Builder),
    Float8(Float64Builder),
    Decimal { builder: Decimal128Builder, precision: u8, scale: u8 },
    LongDecimal { builder: StringBuilder, precision: u8, scale: u8, text: String },
    Bool(BooleanBuilder),
    Bit(UInt64Builder),
    Year(Int16Builder),
    Date(Date32Builder),
    Time { builder: StringBuilder, digits: u8, text: String },
    DateTime(TimestampMicrosecondBuilder),
    Timestamp(TimestampMicrosecondBuilder),
    Text { builder: StringBuilder, charset: Charset },
    Bytes { builder: BinaryBuilder, padded: usize, bytes: Vec<u8> },
    PackedText { builder: StringBuilder, charset: Charset, unpacked: Vec<u8> },
    PackedBytes { builder: BinaryBuilder, unpacked: Vec<u8> },
    Named { builder: StringBuilder, named: Named, text: String },
    Enum { builder: StringBuilder, labels: Arc<[String]> },
    Set { builder: StringBuilder, labels: Arc<[String]>, text: String },
    Json { builder: StringBuilder, text: String },
    Vector { builder: StringBuilder, text: String },
}

/// Calls one method on whichever builder it is.
macro_rules! each {
    ($column:expr, $inner:ident => $call:expr) => {
        match $column {
            Column::Int2 { builder: $inner, .. } | Column::Year($inner) => $call,
            Column::Int4 { builder: $inner, .. } => $call,
            Column::Int8 { builder: $inner, .. } => $call,
            Column::UInt8($inner) | Column::Bit($inner) => $call,
            Column::Float4($inner) => $call,
            Column::Float8($inner) => $call,
            Column::Decimal { builder: $inner, .. } => $call,
            Column::Bool($inner) => $call,
            Column::Date($inner) => $call,
            Column::DateTime($inner) | Column::Timestamp($inner) => $call,
            Column::Bytes { builder: $inner, .. } | Column::PackedBytes { builder: $inner, .. } => $call,
            Column::LongDecimal { builder: $inner, .. }
            | Column::Time { builder: $inner, .. }
            | Column::Text { builder: $inner, .. }
            | Column::PackedText { builder: $inner, .. }
            | Column::Named { builder: $inner, .. }
            | Column::Enum { builder: $inner, .. }
            | Column::Set { builder: $inner, .. }
            | Column::Json { builder: $inner, .. }
            | Column::Vector { builder: $inner, .. } => $call,
        }
    };
}

impl Column {
    /// An empty builder with room for `rows`.
    pub(super) fn new(kind: &Kind, rows: usize) -> Self {
        /// Text is short more often than not; the builder doubles where it is not.
        const TEXT_BYTES: usize = 12;
        let builder = StringBuilder::with_capacity(rows, rows * TEXT_BYTES);
        let text = String::new();
        let moments = || TimestampMicrosecondBuilder::with_capacity(rows).with_data_type(kind.data_type());
        match kind {
            Kind::Int { is_unsigned, .. } => {
                let is_unsigned = *is_unsigned;
                match kind.data_type() {
                    DataType::Int16 => Self::Int2 { builder: Int16Builder::with_capacity(rows), is_unsigned },
                    DataType::Int32 => Self::Int4 { builder: Int32Builder::with_capacity(rows), is_unsigned },
                    DataType::UInt64 => Self::UInt8(UInt64Builder::with_capacity(rows)),
                    _ => Self::Int8 { builder: Int64Builder::with_capacity(rows), is_unsigned },
                }
            }
            Kind::Float => Self::Float4(Float32Builder::with_capacity(rows)),
            Kind::Double => Self::Float8(Float64Builder::with_capacity(rows)),
            Kind::Decimal { precision, scale } => match kind.data_type() {
                DataType::Utf8 => Self::LongDecimal { builder, precision: *precision, scale: *scale, text },
                exact => Self::Decimal {
                    builder: Decimal128Builder::with_capacity(rows).with_data_type(exact),
                    precision: *precision,
                    scale: *scale,
                },
            },
            Kind::Bit { bits: 1 } => Self::Bool(BooleanBuilder::with_capacity(rows)),
            Kind::Bit { .. } => Self::Bit(UInt64Builder::with_capacity(rows)),
            Kind::Year => Self::Year(Int16Builder::with_capacity(rows)),
            Kind::Date => Self::Date(Date32Builder::with_capacity(rows)),
            Kind::Time { digits } => Self::Time { builder, digits: *digits, text },
            Kind::DateTime { .. } => Self::DateTime(moments()),
            Kind::Timestamp { .. } => Self::Timestamp(moments()),
            Kind::Text { charset, .. } => Self::Text { builder, charset: *charset },
            Kind::Bytes { padded, .. } => Self::Bytes {
                builder: BinaryBuilder::with_capacity(rows, rows * TEXT_BYTES),
                padded: usize::from(*padded),
                bytes: Vec::new(),
            },
            Kind::Geometry => Self::Bytes { builder: BinaryBuilder::new(), padded: 0, bytes: Vec::new() },
            Kind::Compressed { charset: Charset::Binary, .. } => {
                Self::PackedBytes { builder: BinaryBuilder::new(), unpacked: Vec::new() }
            }
            Kind::Compressed { charset, .. } => Self::PackedText { builder, charset: *charset, unpacked: Vec::new() },
            Kind::Named { named, .. } => Self::Named { builder, named: *named, text },
            Kind::Enum { labels, .. } => Self::Enum { builder, labels: Arc::clone(labels) },
            Kind::Set { labels, .. } => Self::Set { builder, labels: Arc::clone(labels), text },
            Kind::Json => Self::Json { builder, text },
            Kind::Vector => Self::Vector { builder, text },
        }
    }

    /// Appends a value.
    #[inline]
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), ValueFault> {
        match self {
            Self::Int2 { builder, is_unsigned } => builder.append_value(narrow(bytes, *is_unsigned)?),
            Self::Int4 { builder, is_unsigned } => builder.append_value(narrow(bytes, *is_unsigned)?),
            Self::Int8 { builder, is_unsigned } => builder.append_value(narrow(bytes, *is_unsigned)?),
            Self::UInt8(builder) => builder.append_value(little_endian(bytes)),
            Self::Float4(builder) => builder.append_value(f32::from_le_bytes(bytes.try_into().map_err(|_| WIDTH)?)),
            Self::Float8(builder) => builder.append_value(f64::from_le_bytes(bytes.try_into().map_err(|_| WIDTH)?)),
            Self::Decimal { builder, precision, scale } => {
                builder.append_value(decimal::unscaled(bytes, *precision, *scale)?);
            }
            Self::LongDecimal { builder, precision, scale, text } => {
                written(builder, text, |text| decimal::put_text(bytes, *precision, *scale, text))?;
            }
            Self::Bool(builder) => builder.append_value(big_endian(bytes) != 0),
            Self::Bit(builder) => builder.append_value(big_endian(bytes)),
            Self::Year(builder) => builder.append_value(moment::year(bytes)?),
            Self::Date(builder) => builder.append_value(moment::date(bytes)?),
            Self::Time { builder, digits, text } => {
                written(builder, text, |text| moment::put_time(bytes, *digits, text))?;
            }
            Self::DateTime(builder) => builder.append_value(moment::datetime(bytes)?),
            Self::Timestamp(builder) => builder.append_value(moment::timestamp(bytes)?),
            // As it is and without a detour: most text is.
            Self::Text { builder, charset: Charset::Utf8 } => match std::str::from_utf8(bytes) {
                Ok(text) => builder.append_value(text),
                Err(_) => return Err(charset::NOT_TEXT),
            },
            Self::Text { builder, charset } => builder.append_value(charset.decode(bytes)?),
            Self::Bytes { builder, padded, bytes: room } => match padded.checked_sub(bytes.len()) {
                Some(1..) => {
                    room.clear();
                    room.extend_from_slice(bytes);
                    room.resize(*padded, 0);
                    builder.append_value(room.as_slice());
                }
                _ => builder.append_value(bytes),
            },
            Self::PackedText { builder, charset, unpacked: room } => {
                let text = charset.decode(unpacked(bytes, room)?)?;
                ensure_room(builder.values_slice().len(), text.len())?;
                builder.append_value(text);
            }
            Self::PackedBytes { builder, unpacked: room } => {
                let bytes = unpacked(bytes, room)?;
                ensure_room(builder.values_slice().len(), bytes.len())?;
                builder.append_value(bytes);
            }
            Self::Named { builder, named, text } => written(builder, text, |text| named.put(bytes, text))?,
            Self::Enum { builder, labels } => builder.append_value(label(bytes, labels)?),
            Self::Set { builder, labels, text } => written(builder, text, |text| put_labels(bytes, labels, text))?,
            Self::Json { builder, text } => written(builder, text, |text| json::put_text(bytes, text))?,
            Self::Vector { builder, text } => written(builder, text, |text| put_vector(bytes, text))?,
        }
        Ok(())
    }

    /// Bytes of the values that were compressed.
    pub(super) fn unpacked_len(&self) -> usize {
        match self {
            Self::PackedText { builder, .. } => builder.values_slice().len(),
            Self::PackedBytes { builder, .. } => builder.values_slice().len(),
            _ => 0,
        }
    }

    /// Appends a value of which the log says what it was before, and what was changed in it.
    pub(super) fn append_changed(&mut self, before: &[u8], changes: &[u8]) -> Result<(), ValueFault> {
        match self {
            Self::Json { builder, text } => written(builder, text, |text| json::put_changed(before, changes, text)),
            _ => Err(ValueFault::Malformed("a value that is no JSON is said to be changed in parts")),
        }
    }

    pub(super) fn append_null(&mut self) {
        each!(self, builder => builder.append_null());
    }

    pub(super) fn finish(mut self) -> ArrayRef {
        each!(&mut self, builder => Arc::new(builder.finish()))
    }
}

/// What was compressed has no end that the log's own size would set: it has to stay within what a batch can hold.
fn ensure_room(held: usize, more: usize) -> Result<(), ValueFault> {
    if held + more <= UNPACKED_MAX { Ok(()) } else { Err(UNPACKED) }
}

pub(super) fn written(
    builder: &mut StringBuilder,
    text: &mut String,
    put: impl FnOnce(&mut String) -> Result<(), ValueFault>,
) -> Result<(), ValueFault> {
    text.clear();
    put(text)?;
    builder.append_value(text.as_str());
    Ok(())
}

/// An integer of up to eight bytes in its type.
#[inline]
fn narrow<T: TryFrom<i64>>(bytes: &[u8], is_unsigned: bool) -> Result<T, ValueFault> {
    let value = little_endian(bytes).cast_signed();
    let value = if is_unsigned {
        value
    } else {
        // The sign bit goes to the top and back.
        let unused = 64_usize.saturating_sub(8 * bytes.len()).min(63);
        value << unused >> unused
    };
    T::try_from(value).map_err(|_| WIDTH)
}

/// The label of an enumeration; number 0 is what the server makes of one that is none.
fn label<'l>(bytes: &[u8], labels: &'l [String]) -> Result<&'l str, ValueFault> {
    match usize::try_from(little_endian(bytes)).map_err(|_| LABEL)? {
        0 => Ok(""),
        number => labels.get(number - 1).map(String::as_str).ok_or(LABEL),
    }
}

/// The labels of a set as the server writes them, with commas between them.
fn put_labels(bytes: &[u8], labels: &[String], out: &mut String) -> Result<(), ValueFault> {
    let mut left = little_endian(bytes);
    while left != 0 {
        let number = usize::try_from(left.trailing_zeros()).map_err(|_| LABEL)?;
        if !out.is_empty() {
            out.push(',');
        }
        out.push_str(labels.get(number).ok_or(LABEL)?);
        left &= left - 1;
    }
    Ok(())
}

/// A vector as a list of its numbers, each as short as it says which one it is.
pub(super) fn put_vector(bytes: &[u8], out: &mut String) -> Result<(), ValueFault> {
    use std::fmt::Write;
    let (numbers, []) = bytes.as_chunks::<4>() else {
        return Err(ValueFault::Malformed("a vector has another form"));
    };
    out.push('[');
    for (i, number) in numbers.iter().enumerate() {
        let comma = if i > 0 { "," } else { "" };
        write!(out, "{comma}{}", f32::from_le_bytes(*number)).expect("a String takes every text");
    }
    out.push(']');
    Ok(())
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Decimal128Type, Int16Type, Int32Type, Int64Type, UInt64Type};
    use proptest::prelude::*;

    use super::super::kind::tests::column;
    use super::*;
    use crate::mysql::event::table_map::{MapColumn, code};

    fn array(kind: &Kind, values: &[&[u8]]) -> ArrayRef {
        let mut column = Column::new(kind, values.len());
        values.iter().for_each(|value| column.append(value).unwrap());
        let array = column.finish();
        assert_eq!(array.data_type(), &kind.data_type(), "{kind:?}");
        array
    }

    fn of(column: &MapColumn) -> Kind {
        Kind::of(column).unwrap()
    }

    #[test]
    fn the_largest_and_the_smallest_integers_are_kept() {
        let unsigned = |code| of(&MapColumn { is_unsigned: true, ..column(code, 0) });
        let kept = array(&unsigned(code::LONGLONG), &[&[255; 8], &[0; 8]]);
        assert_eq!(kept.as_primitive::<UInt64Type>().values(), &[u64::MAX, 0]);
        let kept = array(&unsigned(code::LONG), &[&[255; 4]]);
        assert_eq!(kept.as_primitive::<Int64Type>().values(), &[4_294_967_295]);
        let kept = array(&unsigned(code::INT24), &[&[255; 3]]);
        assert_eq!(kept.as_primitive::<Int32Type>().values(), &[16_777_215]);
        let kept = array(&of(&column(code::INT24, 0)), &[&[0, 0, 0x80], &[255, 255, 0x7f]]);
        assert_eq!(kept.as_primitive::<Int32Type>().values(), &[-8_388_608, 8_388_607]);
        let kept = array(&of(&column(code::TINY, 0)), &[&[0x80], &[0x7f]]);
        assert_eq!(kept.as_primitive::<Int16Type>().values(), &[-128, 127]);
        let kept = array(&of(&column(code::LONGLONG, 0)), &[&[0, 0, 0, 0, 0, 0, 0, 0x80]]);
        assert_eq!(kept.as_primitive::<Int64Type>().values(), &[i64::MIN]);
    }

    #[test]
    fn bytes_of_a_fixed_length_have_their_zeros_back() {
        let binary = MapColumn { collation: Some(63), ..column(code::STRING, 4) };
        let kept = array(&of(&binary), &[b"ab", b"", b"abcd"]);
        assert_eq!(kept.as_binary::<i32>().iter().flatten().collect::<Vec<_>>(), [b"ab\0\0", b"\0\0\0\0", b"abcd"]);
        let varying = MapColumn { collation: Some(63), ..column(code::VARCHAR, 4) };
        assert_eq!(array(&of(&varying), &[b"ab"]).as_binary::<i32>().value(0), b"ab");
    }

    #[test]
    fn labels_stand_for_their_numbers_and_an_unknown_number_is_an_error() {
        let labels = vec![b"a".to_vec(), b"b".to_vec(), b"c".to_vec()];
        let set = of(&MapColumn { labels: labels.clone(), ..column(code::SET, 1) });
        assert_eq!(array(&set, &[&[0b101], &[0]]).as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["a,c", ""]);
        let list = of(&MapColumn { labels, ..column(code::ENUM, 1) });
        assert_eq!(array(&list, &[&[3], &[0]]).as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["c", ""]);
        assert_eq!(Column::new(&list, 0).append(&[4]), Err(LABEL));
        assert_eq!(Column::new(&set, 0).append(&[0b1000]), Err(LABEL));
    }

    #[test]
    fn bits_decimals_and_vectors_are_what_the_server_says() {
        assert!(array(&of(&column(code::BIT, 1)), &[&[1]]).as_boolean().value(0));
        let bits = array(&of(&column(code::BIT, 8 << 8)), &[&[255; 8], &[0, 0, 0, 0, 0, 0, 1, 2]]);
        assert_eq!(bits.as_primitive::<UInt64Type>().values(), &[u64::MAX, 258]);
        let decimal = array(&of(&column(code::NEWDECIMAL, 2 << 8 | 4)), &[&[0x80 | 12, 34], &[0x7f ^ 12, !34]]);
        assert_eq!(decimal.as_primitive::<Decimal128Type>().values(), &[1234, -1234]);
        let vector = array(&of(&column(code::VECTOR, 4)), &[&[0, 0, 0xc0, 0x3f, 0xcd, 0xcc, 0xcc, 0x3d]]);
        assert_eq!(vector.as_string::<i32>().value(0), "[1.5,0.1]");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_make_a_column_panic(code in any::<u8>(), meta in any::<u16>(), collation in 0_u32..400, is_unsigned in any::<bool>(), bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let described = MapColumn { collation: Some(collation), is_unsigned, labels: vec![b"a".to_vec()], ..column(code, meta) };
            if let Ok(kind) = Kind::of(&described) {
                let mut column = Column::new(&kind, 1);
                if column.append(&bytes).is_err() {
                    column.append_null();
                }
                let array = column.finish();
                prop_assert_eq!(array.data_type(), &kind.data_type());
            }
        }
    }
}
