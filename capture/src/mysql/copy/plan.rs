//! Which statements read a table.
//!
//! In the order of its primary key, which is the order in which InnoDB keeps its rows. A table whose key starts with an integer
//! is cut into ranges of it that several workers share; whatever the rows are, each lies in exactly one. Where the order of the
//! key's values is not that of what SQL writes for them (labels, numbers with a floating point), and where the key is only declared,
//! one statement reads it all.
//!
//! Text comes as the bytes of its column's character set (`character_set_results` is NULL), and goes back as such into the
//! conditions, so that no conversion stands between a key and itself.

use std::fmt::Write;
use std::sync::Arc;

use syncline_schemas::ident::TableId;

use super::ledger::{Key, Piece};
use crate::mysql::catalog::{CatalogTable, quote_name};
use crate::mysql::row::{Kind, Named, RowView, Shape};

/// Rows that one statement reads.
pub(super) const ROWS: usize = 100_000;
/// Into how many ranges a table is cut at most: a position carries the ends of each.
const RANGES_MAX: u64 = 16;
/// Rows for which a range is worth a statement of its own.
const RANGE_ROWS_MIN: u64 = 50_000;

/// A table that is read.
pub(super) struct Table {
    pub(super) id: TableId,
    pub(super) shape: Arc<Shape>,
    /// The server's estimate.
    pub(super) rows: u64,
    /// What its columns were when the shape was made.
    pub(super) signature: String,
    /// How the values of its key are written; none where one statement reads it all.
    literals: Option<Vec<Literal>>,
}

/// How a condition says a value of a key.
enum Literal {
    /// A number, as it came.
    Number,
    /// A moment or a name, as it came and in quotes.
    Quoted,
    /// Bytes, as those of a character set.
    Bytes(String),
}

impl Literal {
    fn of(kind: &Kind, charset: &str) -> Option<Self> {
        Some(match kind {
            Kind::Int { .. } | Kind::Decimal { .. } | Kind::Year => Self::Number,
            Kind::Date | Kind::DateTime { .. } | Kind::Timestamp { .. } => Self::Quoted,
            // Compared as what it is, in whatever order the server has for it.
            Kind::Named { named: Named::Uuid | Named::Inet4 | Named::Inet6, .. } => Self::Quoted,
            Kind::Text { .. } => Self::Bytes(format!("_{charset} ")),
            Kind::Bytes { .. } => Self::Bytes(String::new()),
            _ => return None,
        })
    }

    fn put(&self, value: &[u8]) -> String {
        match self {
            Self::Number => String::from_utf8_lossy(value).into_owned(),
            Self::Quoted => format!("'{}'", String::from_utf8_lossy(value)),
            Self::Bytes(charset) => {
                let mut text = format!("{charset}x'");
                value.iter().for_each(|byte| write!(text, "{byte:02x}").expect("a String takes every text"));
                text.push('\'');
                text
            }
        }
    }
}

impl Table {
    pub(super) fn of(table: CatalogTable) -> Self {
        let keys = &table.shape.keys;
        let literals = keys.iter().map(|&key| Literal::of(table.kind(key), &table.charsets[key]));
        let literals = literals.collect::<Option<_>>().filter(|_| table.is_ordered);
        Self {
            id: table.shape.schema.table.clone(),
            rows: table.rows,
            signature: table.signature,
            literals,
            shape: Arc::new(table.shape),
        }
    }

    /// True where it is read piece by piece.
    pub(super) const fn has_order(&self) -> bool {
        self.literals.is_some()
    }

    /// The table as SQL names it.
    pub(super) fn quoted(&self) -> String {
        format!("{}.{}", quote_name(&self.id.schema), quote_name(&self.id.name))
    }

    fn keys(&self) -> impl DoubleEndedIterator<Item = String> {
        self.shape.keys.iter().map(|&key| quote_name(&self.shape.schema.columns[key].name))
    }

    /// The statement that reads a piece.
    pub(super) fn sql(&self, piece: &Piece) -> String {
        let columns = self.shape.schema.columns.iter().zip(&self.shape.kinds);
        let columns: Vec<String> = columns
            .map(|(column, kind)| {
                let name = quote_name(&column.name);
                match kind {
                    // A float's text has six digits, a double's those of its declaration; those of a sum are exact.
                    Kind::Float | Kind::Double => format!("{name} + 0e0"),
                    Kind::Bit { .. } => format!("{name} + 0"),
                    // As the log has them, in UTF-8.
                    Kind::Enum { .. } | Kind::Set { .. } => format!("CONVERT({name} USING utf8mb4)"),
                    _ => name,
                }
            })
            .collect();
        let select = format!("SELECT {} FROM {}", columns.join(", "), self.quoted());
        if !self.has_order() {
            return select;
        }
        let keys: Vec<String> = self.keys().collect();
        let ends = [(piece.after.as_ref(), ">"), (piece.upto.as_ref(), "<=")];
        let conditions: Vec<String> =
            ends.iter().filter_map(|(end, sign)| Some(condition(&keys, end.as_ref()?, sign))).collect();
        let filter = if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
        format!("{select}{filter} ORDER BY {} LIMIT {ROWS}", keys.join(", "))
    }

    /// The key of a row as conditions say it.
    pub(super) fn key_of(&self, row: RowView<'_>) -> Option<Key> {
        let literals = self.literals.as_ref()?;
        let value = |(&key, literal): (&usize, &Literal)| Some(literal.put(row.value(key)?));
        self.shape.keys.iter().zip(literals).map(value).collect()
    }

    /// Asks between which values its rows lie, where it is worth to cut it into ranges.
    pub(super) fn bounds_sql(&self) -> Option<String> {
        let first = *self.shape.keys.first()?;
        let is_number = matches!(self.shape.kinds[first], Kind::Int { .. });
        let name = self.keys().next().filter(|_| is_number && self.has_order() && self.wanted() > 1)?;
        Some(format!("SELECT MIN({name}), MAX({name}) FROM {}", self.quoted()))
    }

    fn wanted(&self) -> u64 {
        (self.rows / RANGE_ROWS_MIN).min(RANGES_MAX)
    }

    /// Ranges of the first column of the key between two values.
    pub(super) fn ranges(&self, min: i128, max: i128) -> Vec<Piece> {
        let wanted = i128::from(self.wanted().max(1));
        let step = ((max - min) / wanted).max(1);
        let mut pieces = Vec::new();
        let mut after: Option<Key> = None;
        for end in (1..wanted).map(|i| min + step * i).filter(|end| *end < max) {
            let upto = Some(vec![end.to_string()]);
            pieces.push(Piece { after: std::mem::replace(&mut after, upto.clone()), upto });
        }
        pieces.push(Piece { after, upto: None });
        pieces
    }
}

/// Compares the first columns of a key with values, column by column, as the server uses an index only then.
///
/// `(a, b) > (1, 2)` is `a > 1 OR a = 1 AND b > 2`, and all of it lies behind `a >= 1`.
fn condition(keys: &[String], values: &[String], sign: &str) -> String {
    let mut text = String::new();
    for (i, (key, value)) in keys.iter().zip(values).enumerate().rev() {
        let is_last = i + 1 == values.len();
        let strict = &sign[..1];
        text = if is_last {
            format!("{key} {sign} {value}")
        } else {
            format!("{key} {strict}= {value} AND ({key} {strict} {value} OR {text})")
        };
    }
    format!("({text})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_several_columns_is_compared_from_its_first_to_its_last() {
        let (keys, values) = (["a", "b", "c"].map(str::to_owned), ["1", "x'00'", "3"].map(str::to_owned));
        assert_eq!(condition(&keys, &values[..1], "<="), "(a <= 1)");
        assert_eq!(condition(&keys, &values[..2], ">"), "(a >= 1 AND (a > 1 OR b > x'00'))");
        assert_eq!(condition(&keys, &values, ">"), "(a >= 1 AND (a > 1 OR b >= x'00' AND (b > x'00' OR c > 3)))");
    }

    #[test]
    fn a_name_or_a_value_never_ends_its_own_quotes() {
        assert_eq!(quote_name("a`b"), "`a``b`");
        assert_eq!(Literal::Bytes("_latin1 ".to_owned()).put(b"a'\xe4"), "_latin1 x'6127e4'");
        assert_eq!(Literal::Quoted.put(b"2024-01-01"), "'2024-01-01'");
    }
}
