//! Values as a query writes them, for a copy: the same ones as those of the log, in the same builders.
//!
//! The session has text come in its column's own character set, moments in UTC, and what has a number besides its text by
//! its number (see `copy::plan`), so text, labels and bytes are read by the very code that reads those of the log.

use std::str::FromStr;

use super::column::{self, Column};
use super::{decimal, moment};
use crate::value::ValueFault;

const FAULT: ValueFault = ValueFault::Malformed("a value is written in another form than its type has");

impl Column {
    /// Appends a value as a query writes it.
    #[inline]
    pub(super) fn append_written(&mut self, bytes: &[u8]) -> Result<(), ValueFault> {
        match self {
            Self::Int2 { builder, .. } | Self::Year(builder) => builder.append_value(parsed(bytes)?),
            Self::Int4 { builder, .. } => builder.append_value(parsed(bytes)?),
            Self::Int8 { builder, .. } => builder.append_value(parsed(bytes)?),
            Self::UInt8(builder) | Self::Bit(builder) => builder.append_value(parsed(bytes)?),
            Self::Float4(builder) => builder.append_value(parsed(bytes)?),
            Self::Float8(builder) => builder.append_value(parsed(bytes)?),
            Self::Decimal { builder, scale, .. } => builder.append_value(decimal::unscaled_of_text(bytes, *scale)?),
            Self::Bool(builder) => builder.append_value(parsed::<u8>(bytes)? != 0),
            Self::Date(builder) => builder.append_value(moment::date_of_text(bytes)?),
            Self::DateTime(builder) | Self::Timestamp(builder) => {
                builder.append_value(moment::datetime_of_text(bytes)?);
            }
            Self::LongDecimal { builder, .. }
            | Self::Time { builder, .. }
            | Self::Json { builder, .. }
            | Self::Enum { builder, .. }
            | Self::Set { builder, .. } => builder.append_value(text(bytes)?),
            Self::PackedText { builder, charset, .. } => builder.append_value(charset.decode(bytes)?),
            Self::PackedBytes { builder, .. } => builder.append_value(bytes),
            Self::Named { builder, named, text } => {
                column::written(builder, text, |text| named.put_written(bytes, text))?
            }
            Self::Text { .. } | Self::Bytes { .. } | Self::Vector { .. } => self.append(bytes)?,
        }
        Ok(())
    }
}

fn text(bytes: &[u8]) -> Result<&str, ValueFault> {
    std::str::from_utf8(bytes).map_err(|_| FAULT)
}

#[inline]
fn parsed<T: FromStr>(bytes: &[u8]) -> Result<T, ValueFault> {
    text(bytes)?.parse().map_err(|_| FAULT)
}

#[cfg(test)]
mod tests {
    use arrow::array::ArrayRef;
    use proptest::prelude::*;

    use super::super::charset::Charset;
    use super::super::kind::Kind;
    use super::super::named::Named;
    use super::*;

    fn of(kind: &Kind, append: impl Fn(&mut Column) -> Result<(), ValueFault>) -> Result<ArrayRef, ValueFault> {
        let mut column = Column::new(kind, 1);
        append(&mut column).map(|()| column.finish())
    }

    fn written_as(kind: &Kind, text: &str) -> Result<ArrayRef, ValueFault> {
        of(kind, |column| column.append_written(text.as_bytes()))
    }

    fn logged_as(kind: &Kind, bytes: &[u8]) -> Result<ArrayRef, ValueFault> {
        of(kind, |column| column.append(bytes))
    }

    #[test]
    fn a_row_that_is_copied_is_the_one_that_is_logged() {
        let int = |bytes, is_unsigned| Kind::Int { bytes, is_unsigned };
        let packed = |charset| Kind::Compressed { charset, prefix: 2, is_large: false };
        let labels = || ["a", "b", "c"].map(str::to_owned).to_vec().into();
        for (kind, text, bytes) in [
            (int(1, false), "-128", &[0x80][..]),
            (int(4, true), "0000000042", &[42, 0, 0, 0]),
            (int(8, true), "18446744073709551615", &[255; 8]),
            (Kind::Float, "0.10000000149011612", &0.1_f32.to_le_bytes()),
            (Kind::Double, "-1.7976931348623157e308", &f64::MIN.to_le_bytes()),
            (Kind::Decimal { precision: 4, scale: 2 }, "-12.34", &[0x7f ^ 12, !34]),
            (Kind::Decimal { precision: 4, scale: 2 }, "0.00", &[0x80, 0]),
            (Kind::Bit { bits: 1 }, "1", &[1]),
            (Kind::Bit { bits: 20 }, "258", &[0, 1, 2]),
            (Kind::Year, "0000", &[0]),
            (Kind::Year, "2155", &[255]),
            (Kind::Date, "0000-00-00", &[0, 0, 0]),
            (Kind::Date, "2024-02-29", &(2024_u32 << 9 | 2 << 5 | 29).to_le_bytes()[..3]),
            (Kind::Time { digits: 2 }, "-00:00:00.01", &[0x7f, 0xff, 0xff, 0xff]),
            (Kind::Timestamp { digits: 4 }, "1970-01-01 00:00:01.9999", &[0, 0, 0, 1, 0x27, 0x0f]),
            (Kind::Timestamp { digits: 0 }, "0000-00-00 00:00:00", &[0, 0, 0, 0]),
            (
                Kind::DateTime { digits: 0 },
                "1969-12-31 23:59:59",
                &moment::tests::pack_datetime(1969, 12, 31, (23, 59, 59)),
            ),
            (Kind::Enum { bytes: 1, labels: labels() }, "c", &[3]),
            (Kind::Enum { bytes: 1, labels: labels() }, "", &[0]),
            (Kind::Set { bytes: 1, labels: labels() }, "a,c", &[5]),
            (Kind::Bytes { prefix: 1, padded: 4, is_large: false }, "ab\0\0", b"ab"),
            (packed(Charset::Utf8), "aä", "\0aä".as_bytes()),
            (packed(Charset::Binary), "", b""),
            (Kind::Named { named: Named::Inet4, prefix: 1 }, "1.2.0.0", &[1, 2]),
            (Kind::Vector, "\0\0\0\0", &[0; 4]),
        ] {
            assert_eq!(written_as(&kind, text), logged_as(&kind, bytes), "{kind:?} {text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_text_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..30), near in "[-+]?[0-9: .-]{0,30}") {
            for kind in [
                Kind::Int { bytes: 3, is_unsigned: false }, Kind::Double, Kind::Year, Kind::Date, Kind::Json,
                Kind::Decimal { precision: 38, scale: 30 }, Kind::DateTime { digits: 6 }, Kind::Bit { bits: 64 },
            ] {
                for bytes in [bytes.as_slice(), near.as_bytes()] {
                    let _ = of(&kind, |column| column.append_written(bytes));
                }
            }
        }
    }
}
