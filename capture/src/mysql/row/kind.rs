//! How a column's values are read, and which Arrow type holds them exactly.
//!
//! Types are named as in SQL without what only says how a column is shown or how much fits into it, so that a name
//! follows from what the log says as from `information_schema`.

use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use syncline_schemas::table::instant;

use super::charset::{self, Charset};
use super::decimal;
use super::named::Named;
use crate::mysql::event::table_map::{MapColumn, code};

/// Digits that Arrow's decimals hold; those with more keep their text.
const DIGITS_MAX: u8 = 38;

/// How to read a column's values.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// 1 to 4 or 8 bytes.
    Int {
        bytes: u8,
        is_unsigned: bool,
    },
    Float,
    Double,
    Decimal {
        precision: u8,
        scale: u8,
    },
    Bit {
        bits: u8,
    },
    Year,
    Date,
    Time {
        digits: u8,
    },
    DateTime {
        digits: u8,
    },
    Timestamp {
        digits: u8,
    },
    /// Text with its length in so many bytes.
    Text {
        charset: Charset,
        prefix: u8,
        is_large: bool,
    },
    /// Bytes likewise; those of a fixed length come without the zeros at their end.
    Bytes {
        prefix: u8,
        padded: u16,
        is_large: bool,
    },
    /// Text or bytes that are compressed, with their length in so many bytes.
    Compressed {
        charset: Charset,
        prefix: u8,
        is_large: bool,
    },
    /// A type of which the log says no more than its bytes, with their length in so many.
    Named {
        named: Named,
        prefix: u8,
    },
    Enum {
        bytes: u8,
        labels: Arc<[String]>,
    },
    Set {
        bytes: u8,
        labels: Arc<[String]>,
    },
    Json,
    Geometry,
    Vector,
}

/// A column that is not read, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unread {
    pub(crate) reason: String,
    pub(crate) remedy: &'static str,
}

fn unread(reason: impl Into<String>, remedy: &'static str) -> Unread {
    Unread { reason: reason.into(), remedy }
}

const CONVERT: &str = "convert the column to utf8mb4, or exclude the table";
const REBUILD: &str =
    "rebuild the table with ALTER TABLE ... FORCE, which brings the column into today's form, or exclude the table";
const EXCLUDE: &str = "exclude the table, and report the type";
const FULL: &str = "SET GLOBAL binlog_row_metadata = 'FULL'";

impl Kind {
    /// How to read a column that the log describes.
    pub(crate) fn of(column: &MapColumn) -> Result<Self, Unread> {
        let [low, high] = column.meta.to_le_bytes();
        let int = |bytes| Self::Int { bytes, is_unsigned: column.is_unsigned };
        if let Some(named) = column.named {
            return Ok(Self::Named { named, prefix: length_prefix(column.meta) });
        }
        Ok(match column.code {
            code::TINY => int(1),
            code::SHORT => int(2),
            code::INT24 => int(3),
            code::LONG => int(4),
            code::LONGLONG => int(8),
            code::FLOAT if low == 4 => Self::Float,
            code::FLOAT | code::DOUBLE if low == 8 => Self::Double,
            code::NEWDECIMAL if decimal::len(low, high).is_some() => Self::Decimal { precision: low, scale: high },
            code::BIT if low < 8 && high <= 8 && (1..=64).contains(&(high * 8 + low)) => {
                Self::Bit { bits: high * 8 + low }
            }
            code::YEAR => Self::Year,
            code::DATE => Self::Date,
            code::TIME2 if low <= 6 => Self::Time { digits: low },
            code::DATETIME2 if low <= 6 => Self::DateTime { digits: low },
            code::TIMESTAMP2 if low <= 6 => Self::Timestamp { digits: low },
            code::VARCHAR | code::VAR_STRING => text(column, length_prefix(column.meta), 0, false)?,
            code::STRING => text(column, length_prefix(column.meta), column.meta, false)?,
            code::BLOB if (1..=4).contains(&low) => text(column, low, 0, true)?,
            code::VARCHAR_COMPRESSED => {
                Self::Compressed { charset: charset_of(column)?, prefix: length_prefix(column.meta), is_large: false }
            }
            code::BLOB_COMPRESSED if (1..=4).contains(&low) => {
                Self::Compressed { charset: charset_of(column)?, prefix: low, is_large: true }
            }
            code::ENUM if matches!(low, 1 | 2) => Self::Enum { bytes: low, labels: labels(column)? },
            code::SET if (1..=8).contains(&low) => Self::Set { bytes: low, labels: labels(column)? },
            code::JSON if low == 4 => Self::Json,
            code::GEOMETRY if low == 4 => Self::Geometry,
            code::VECTOR if low == 4 => Self::Vector,
            7 | 11 | 12 => return Err(unread("has a time in the form of servers before MySQL 5.6", REBUILD)),
            other => {
                let reason = format!("is of a type that is not known (code {other}, {})", column.meta);
                return Err(unread(reason, EXCLUDE));
            }
        })
    }

    /// The Arrow type.
    pub(crate) fn data_type(&self) -> DataType {
        match self {
            Self::Int { bytes: 1, .. } | Self::Int { bytes: 2, is_unsigned: false } | Self::Year => DataType::Int16,
            Self::Int { bytes: 2 | 3, .. } | Self::Int { bytes: 4, is_unsigned: false } => DataType::Int32,
            Self::Int { bytes: 8, is_unsigned: true } => DataType::UInt64,
            Self::Int { .. } => DataType::Int64,
            Self::Float => DataType::Float32,
            Self::Double => DataType::Float64,
            Self::Decimal { precision, scale } if *precision <= DIGITS_MAX => {
                DataType::Decimal128(*precision, i8::try_from(*scale).unwrap_or_default())
            }
            Self::Bit { bits: 1 } => DataType::Boolean,
            Self::Bit { .. } => DataType::UInt64,
            Self::Date => DataType::Date32,
            Self::DateTime { .. } => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::Timestamp { .. } => instant(),
            Self::Bytes { .. } | Self::Geometry | Self::Compressed { charset: Charset::Binary, .. } => DataType::Binary,
            Self::Decimal { .. } | Self::Time { .. } | Self::Text { .. } | Self::Vector => DataType::Utf8,
            Self::Enum { .. } | Self::Set { .. } | Self::Json => DataType::Utf8,
            Self::Compressed { .. } | Self::Named { .. } => DataType::Utf8,
        }
    }

    /// The type's name.
    pub(crate) fn type_name(&self) -> String {
        let sign = |is_unsigned: bool| if is_unsigned { " unsigned" } else { "" };
        match self {
            Self::Int { bytes, is_unsigned } => {
                let name = match bytes {
                    1 => "tinyint",
                    2 => "smallint",
                    3 => "mediumint",
                    4 => "int",
                    _ => "bigint",
                };
                format!("{name}{}", sign(*is_unsigned))
            }
            Self::Float => "float".to_owned(),
            Self::Double => "double".to_owned(),
            Self::Decimal { precision, scale } => format!("decimal({precision},{scale})"),
            Self::Bit { bits } => format!("bit({bits})"),
            Self::Year => "year".to_owned(),
            Self::Date => "date".to_owned(),
            Self::Time { digits } => format!("time({digits})"),
            Self::DateTime { digits } => format!("datetime({digits})"),
            Self::Timestamp { digits } => format!("timestamp({digits})"),
            Self::Text { is_large: true, .. } => "text".to_owned(),
            Self::Text { .. } => "varchar".to_owned(),
            Self::Bytes { is_large: true, .. } => "blob".to_owned(),
            Self::Bytes { padded: 0, .. } => "varbinary".to_owned(),
            Self::Bytes { padded, .. } => format!("binary({padded})"),
            Self::Compressed { charset, is_large, .. } => match (charset, is_large) {
                (Charset::Binary, true) => "blob".to_owned(),
                (Charset::Binary, false) => "varbinary".to_owned(),
                (_, true) => "text".to_owned(),
                (_, false) => "varchar".to_owned(),
            },
            Self::Named { named, .. } => named.name().to_owned(),
            Self::Enum { .. } => "enum".to_owned(),
            Self::Set { .. } => "set".to_owned(),
            Self::Json => "json".to_owned(),
            Self::Geometry => "geometry".to_owned(),
            Self::Vector => "vector".to_owned(),
        }
    }

    /// How long a value is in a row.
    pub(super) fn extent(&self) -> Extent {
        let bytes = match self {
            Self::Text { prefix, .. }
            | Self::Bytes { prefix, .. }
            | Self::Compressed { prefix, .. }
            | Self::Named { prefix, .. } => return Extent::Prefix(*prefix),
            Self::Json | Self::Geometry | Self::Vector => return Extent::Prefix(4),
            Self::Int { bytes, .. } | Self::Enum { bytes, .. } | Self::Set { bytes, .. } => usize::from(*bytes),
            Self::Float => 4,
            Self::Double => 8,
            Self::Decimal { precision, scale } => decimal::len(*precision, *scale).unwrap_or_default(),
            Self::Bit { bits } => usize::from(bits.div_ceil(8)),
            Self::Year => 1,
            Self::Date => 3,
            Self::Time { digits } => 3 + super::moment::fraction_len(*digits),
            Self::DateTime { digits } => 5 + super::moment::fraction_len(*digits),
            Self::Timestamp { digits } => 4 + super::moment::fraction_len(*digits),
        };
        Extent::Fixed(bytes)
    }
}

/// How long a value is in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    Fixed(usize),
    /// It says so itself, in so many bytes.
    Prefix(u8),
}

const fn length_prefix(bytes_max: u16) -> u8 {
    if bytes_max < 256 { 1 } else { 2 }
}

fn text(column: &MapColumn, prefix: u8, padded: u16, is_large: bool) -> Result<Kind, Unread> {
    Ok(match charset_of(column)? {
        Charset::Binary => Kind::Bytes { prefix, padded, is_large },
        charset => Kind::Text { charset, prefix, is_large },
    })
}

fn charset_of(column: &MapColumn) -> Result<Charset, Unread> {
    let collation = column.collation.ok_or_else(|| unread("is described without its character set", FULL))?;
    match charset::of_collation(collation) {
        Some(Charset::Refused(name)) => {
            Err(unread(format!("has the character set {name}, which this version does not read"), CONVERT))
        }
        Some(charset) => Ok(charset),
        None => Err(unread(format!("has the collation number {collation}, which is not known"), CONVERT)),
    }
}

/// Labels as text; those of the log are in the column's character set.
fn labels(column: &MapColumn) -> Result<Arc<[String]>, Unread> {
    if column.labels.is_empty() {
        return Err(unread("is described without its labels", FULL));
    }
    let charset = charset_of(column)?;
    let label = |bytes: &Vec<u8>| charset.decode(bytes).map(|text| text.into_owned());
    let labels: Result<Vec<String>, _> = column.labels.iter().map(label).collect();
    labels.map(Arc::from).map_err(|_| unread("has a label that is no text in its character set", CONVERT))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn column(code: u8, meta: u16) -> MapColumn {
        MapColumn { name: "c".to_owned(), code, meta, collation: Some(45), ..MapColumn::default() }
    }

    fn kind(code: u8, meta: u16) -> Kind {
        Kind::of(&column(code, meta)).unwrap()
    }

    #[test]
    fn every_integer_fits_into_its_type_with_and_without_a_sign() {
        for (code, signed, unsigned) in [
            (code::TINY, DataType::Int16, DataType::Int16),
            (code::SHORT, DataType::Int16, DataType::Int32),
            (code::INT24, DataType::Int32, DataType::Int32),
            (code::LONG, DataType::Int32, DataType::Int64),
            (code::LONGLONG, DataType::Int64, DataType::UInt64),
        ] {
            assert_eq!(kind(code, 0).data_type(), signed);
            let unsigned_column = MapColumn { is_unsigned: true, ..column(code, 0) };
            assert_eq!(Kind::of(&unsigned_column).unwrap().data_type(), unsigned);
        }
    }

    #[test]
    fn a_decimal_that_arrow_does_not_hold_keeps_its_text() {
        assert_eq!(kind(code::NEWDECIMAL, 2 << 8 | 38).data_type(), DataType::Decimal128(38, 2));
        assert_eq!(kind(code::NEWDECIMAL, 30 << 8 | 65).data_type(), DataType::Utf8);
        assert_eq!(kind(code::NEWDECIMAL, 30 << 8 | 65).type_name(), "decimal(65,30)");
    }

    #[test]
    fn what_is_not_read_is_refused_by_name_with_a_remedy() {
        for (column, reason) in [
            (column(12, 0), "before MySQL 5.6"),
            (MapColumn { collation: Some(4), ..column(code::VARCHAR, 40) }, "cp850"),
            (MapColumn { collation: None, ..column(code::VARCHAR, 40) }, "without its character set"),
            (column(code::ENUM, 1), "without its labels"),
            (column(code::BLOB_COMPRESSED, 5), "not known"),
            (column(code::NEWDECIMAL, 70), "not known"),
            (column(code::BIT, 9 << 8), "not known"),
        ] {
            let unread = Kind::of(&column).unwrap_err();
            assert!(unread.reason.contains(reason) && !unread.remedy.is_empty(), "{unread:?}");
        }
    }
}
