//! What the operator says about seeds.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use syncline_schemas::ident::{SEEDS, SourceId};
use syncline_schemas::table::TableSchema;
use thiserror::Error;

/// What Arrow's decimals of 128 bits hold.
const DIGITS_MAX: u8 = 38;

/// The type of a column's cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CellType {
    /// The cell as it is.
    Text,
    /// 32 bits.
    Integer,
    /// 64 bits.
    Bigint,
    /// An exact decimal.
    Decimal {
        /// Digits in all, 1 to 38.
        precision: u8,
        /// Digits behind the point, at most `precision`.
        scale: u8,
    },
    /// `true`, `t`, `1` or `false`, `f`, `0`.
    Boolean,
    /// `2024-02-29`.
    Date,
    /// `2024-02-29 13:05:00`, with up to six digits of a second's fraction.
    Timestamp,
}

/// A type that nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CellTypeError {
    /// Another word.
    #[error("it is one of text, integer, bigint, decimal(p,s), boolean, date, timestamp")]
    Unknown,
    /// A decimal without digits that fit.
    #[error("write decimal(p,s) with 1 to 38 digits in all and at most as many behind the point, as in decimal(28,9)")]
    Digits,
}

impl FromStr for CellType {
    type Err = CellTypeError;

    fn from_str(text: &str) -> Result<Self, CellTypeError> {
        let text = text.trim();
        if let Some(digits) = text.strip_prefix("decimal") {
            let digits = digits.trim().strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
            let digits = digits.and_then(|digits| digits.split_once(',')).ok_or(CellTypeError::Digits)?;
            let number = |text: &str| text.trim().parse::<u8>().map_err(|_| CellTypeError::Digits);
            return Self::decimal(number(digits.0)?, number(digits.1)?).ok_or(CellTypeError::Digits);
        }
        Ok(match text {
            "text" => Self::Text,
            "integer" => Self::Integer,
            "bigint" => Self::Bigint,
            "boolean" => Self::Boolean,
            "date" => Self::Date,
            "timestamp" => Self::Timestamp,
            _ => return Err(CellTypeError::Unknown),
        })
    }
}

impl fmt::Display for CellType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text => f.write_str("text"),
            Self::Integer => f.write_str("integer"),
            Self::Bigint => f.write_str("bigint"),
            Self::Decimal { precision, scale } => write!(f, "decimal({precision},{scale})"),
            Self::Boolean => f.write_str("boolean"),
            Self::Date => f.write_str("date"),
            Self::Timestamp => f.write_str("timestamp"),
        }
    }
}

impl CellType {
    /// A decimal whose digits Arrow can hold.
    pub(super) const fn decimal(precision: u8, scale: u8) -> Option<Self> {
        if precision >= 1 && precision <= DIGITS_MAX && scale <= precision {
            Some(Self::Decimal { precision, scale })
        } else {
            None
        }
    }

    /// The Arrow type that holds its values exactly.
    pub(super) fn data_type(self) -> DataType {
        match self {
            Self::Text => DataType::Utf8,
            Self::Integer => DataType::Int32,
            Self::Bigint => DataType::Int64,
            Self::Decimal { precision, scale } => DataType::Decimal128(precision, scale.cast_signed()),
            Self::Boolean => DataType::Boolean,
            Self::Date => DataType::Date32,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
        }
    }

    /// What a cell of the type looks like.
    pub(super) fn form(self) -> String {
        match self {
            Self::Text => "any text".to_owned(),
            Self::Integer => "write a whole number from -2147483648 to 2147483647 in digits alone".to_owned(),
            Self::Bigint => "write a whole number of 64 bits in digits alone".to_owned(),
            Self::Decimal { precision, scale } => format!(
                "write digits with a point, as in 12.5, at most {} before and {scale} behind it",
                precision - scale
            ),
            Self::Boolean => "write true or false".to_owned(),
            Self::Date => "write year-month-day, as in 2024-02-29".to_owned(),
            Self::Timestamp => "write year-month-day and the time, as in 2024-02-29 13:05:00".to_owned(),
        }
    }
}

/// What is said about one file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableSpec {
    /// The columns that tell rows apart, in order; the first column where it is empty.
    pub key: Vec<String>,
    /// Types of columns by name; every other is text.
    pub types: BTreeMap<String, CellType>,
}

/// Whether those who read the log can take a shape; a shape that they cannot is a fault of its file.
///
/// A shape in the log cannot be taken back, and a mapping that does not fit it stops every delivery. A server's tables
/// change without asking; a file is asked before.
#[derive(Clone)]
pub struct ShapeJudge(Arc<Judge>);

/// Given the table's shape in the log, if it has one, and the one to come: what is wrong with that and what to do.
type Judge = dyn Fn(Option<&TableSchema>, &TableSchema) -> Option<String> + Send + Sync;

impl ShapeJudge {
    /// Asks a function.
    pub fn new(judge: impl Fn(Option<&TableSchema>, &TableSchema) -> Option<String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(judge))
    }

    pub(super) fn fault(&self, before: Option<&TableSchema>, shape: &TableSchema) -> Option<String> {
        (self.0)(before, shape)
    }
}

/// Takes every shape.
impl Default for ShapeJudge {
    fn default() -> Self {
        Self::new(|_, _| None)
    }
}

impl fmt::Debug for ShapeJudge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ShapeJudge")
    }
}

/// The seeds.
#[derive(Debug, Clone)]
pub struct SeedsConfig {
    /// [`SEEDS`].
    pub source: SourceId,
    /// The folder of the CSV files.
    pub dir: PathBuf,
    /// Where loaded content is kept, in the data folder.
    pub kept: PathBuf,
    /// What is said about files, by file name without `.csv`. Such a file must be there.
    pub tables: BTreeMap<String, TableSpec>,
    /// Who has to be able to read the tables.
    pub judge: ShapeJudge,
    /// End by itself once everything is loaded and durable.
    pub drain: bool,
}

impl SeedsConfig {
    /// Seeds in a folder, about whose files nothing is said.
    #[must_use]
    pub fn new(dir: PathBuf, kept: PathBuf) -> Self {
        let (tables, judge) = (BTreeMap::new(), ShapeJudge::default());
        Self { source: SourceId::new(SEEDS), dir, kept, tables, judge, drain: false }
    }

    /// The file of a table.
    pub(super) fn file(&self, table: &str) -> PathBuf {
        self.dir.join(format!("{table}.csv"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_read_back_and_others_are_refused_with_what_there_is() {
        for text in [
            "text",
            "integer",
            "bigint",
            "decimal(28,9)",
            "decimal(38,38)",
            "decimal(1,0)",
            "boolean",
            "date",
            "timestamp",
        ] {
            assert_eq!(text.parse::<CellType>().expect("a type").to_string(), text);
        }
        assert_eq!(" decimal ( 28 , 9 ) ".parse(), Ok(CellType::Decimal { precision: 28, scale: 9 }));
        for text in ["decimal", "decimal(0,0)", "decimal(39,2)", "decimal(5,6)", "decimal(5)", "decimal(5,-1)"] {
            assert_eq!(text.parse::<CellType>(), Err(CellTypeError::Digits), "{text}");
        }
        for text in ["", "int", "Text", "numeric(5,2)"] {
            assert_eq!(text.parse::<CellType>(), Err(CellTypeError::Unknown), "{text}");
        }
    }
}
