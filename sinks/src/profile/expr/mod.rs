//! Expressions of a profile: how a field at the target comes from the fields of an entity.
//!
//! ```text
//! text --parse--> Node --compile (against an entity)--> Expr --eval (over a batch)--> Column
//! ```
//!
//! There are no loops, no state and no I/O, so a row gives the same bytes as often as it is sent. What can be known from the
//! text is refused when the profile is read: unknown fields, unknown functions, types that do not go together. What only a
//! value can tell (a code that no table has, a number with too many digits) is a fault of that one row. Decimals are whole
//! numbers with a scale all the way: no floating point anywhere.

mod compile;
mod decimal;
mod eval;
mod parse;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use chrono_tz::Tz;
pub(super) use compile::{Scope, compile};
pub(super) use decimal::Rounding;
pub(super) use eval::Column;
pub(super) use parse::parse;

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    /// With so many decimal places.
    Decimal(u8),
    Integer,
    Date,
    Instant,
    Boolean,
    /// Of `null` alone: goes with every other.
    Null,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text => f.write_str("text"),
            Self::Decimal(scale) => write!(f, "decimal with {scale} places"),
            Self::Integer => f.write_str("integer"),
            Self::Date => f.write_str("date"),
            Self::Instant => f.write_str("instant"),
            Self::Boolean => f.write_str("boolean"),
            Self::Null => f.write_str("null"),
        }
    }
}

/// A table of texts: what stands for what at the target.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct TextTable {
    pub(super) entries: BTreeMap<String, String>,
    /// For whatever has no entry.
    pub(super) otherwise: Option<String>,
}

/// An expression as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    Field(String),
    Text(String),
    Number { digits: i128, scale: u8 },
    Truth(bool),
    Null,
    Call { name: String, arguments: Vec<Node> },
    Compare { how: Comparison, left: Box<Node>, right: Box<Node> },
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    Not(Box<Node>),
}

/// How two values are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Comparison {
    const fn holds(self, order: std::cmp::Ordering) -> bool {
        match self {
            Self::Equal => order.is_eq(),
            Self::Unequal => order.is_ne(),
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
        }
    }
}

/// A checked expression: every column is a place in the batch, every type is known.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expr {
    /// The column at a place of the delta batch.
    Column {
        at: usize,
        kind: Kind,
    },
    Text(String),
    Decimal {
        digits: i128,
        scale: u8,
    },
    Integer(i64),
    Truth(bool),
    /// Nothing, as a value of a kind.
    Null(Kind),
    Coalesce(Vec<Expr>),
    Concat(Vec<Expr>),
    Map {
        table: Arc<TextTable>,
        of: Box<Expr>,
        missing: &'static str,
    },
    /// To a scale that is not smaller.
    Widen {
        of: Box<Expr>,
        scale: u8,
    },
    Round {
        of: Box<Expr>,
        scale: u8,
        rounding: Rounding,
    },
    Format {
        of: Box<Expr>,
        format: Arc<str>,
        zone: Tz,
    },
    If {
        when: Box<Expr>,
        then: Box<Expr>,
        otherwise: Box<Expr>,
    },
    Compare {
        how: Comparison,
        left: Box<Expr>,
        right: Box<Expr>,
    },
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    Not(Box<Expr>),
    IsNull(Box<Expr>),
}

/// Our words for what is wrong with the value of one row.
pub(super) mod fault {
    /// A code that no entry of the table stands for.
    pub(in super::super) const UNMAPPED: &str = "unmapped_value";
    /// An identifier that the scheme has no other for.
    pub(in super::super) const UNKNOWN_XREF: &str = "unknown_xref";
    /// More digits than 38, or than were allowed with rounding "exact".
    pub(in super::super) const OUT_OF_RANGE: &str = "out_of_range";
    pub(in super::super) const INEXACT: &str = "inexact";
}

#[cfg(test)]
mod tests;
