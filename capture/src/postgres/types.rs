//! From PostgreSQL's type numbers to kinds of columns.
//!
//! Built-in types are known by number; domains and arrays are looked up in the server's catalog and followed to what
//! they are made of. Every type that is not listed keeps the server's text.

use std::collections::HashMap;

use super::decode::{ArrayElement, Kind};
use super::wire::Connection;
use crate::CaptureError;

/// Domains can be stacked; a loop among them would be a damaged catalog.
const DOMAIN_DEPTH_MAX: usize = 32;

const NUMERIC: u32 = 1700;
const OID: u32 = 26;

/// What a type is made of.
#[derive(Debug, Clone, Copy)]
enum Made {
    Domain {
        base: u32,
        modifier: i32,
    },
    /// Its binary form is its text.
    Text,
    Array {
        element: u32,
        delimiter: u8,
    },
}

/// The domains and arrays of a database.
#[derive(Debug, Default)]
pub(crate) struct Types(HashMap<u32, Made>);

impl Types {
    /// Reads the catalog. `int2vector` and `oidvector` call themselves arrays but are not written like them.
    pub(crate) fn load(connection: &mut Connection) -> Result<Self, CaptureError> {
        let rows = connection.query(
            "reading the types",
            "SELECT t.oid, t.typtype = 'd', t.typbasetype, t.typtypmod, t.typelem, ascii(e.typdelim::text), \
             t.typsend::text IN ('enum_send', 'citextsend') \
             FROM pg_catalog.pg_type t LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem \
             WHERE t.typtype = 'd' OR (t.typcategory = 'A' AND t.typelem <> 0 AND t.oid NOT IN (22, 30)) \
             OR t.typsend::text IN ('enum_send', 'citextsend')",
        )?;
        let made = rows.iter().filter_map(|row| {
            let made = if row.is_true(1) {
                Made::Domain { base: row.parsed(2)?, modifier: row.parsed(3)? }
            } else if row.is_true(6) {
                Made::Text
            } else {
                Made::Array { element: row.parsed(4)?, delimiter: row.parsed(5)? }
            };
            Some((row.parsed(0)?, made))
        });
        Ok(Self(made.collect()))
    }

    /// Follows domains down to the type below them, with its modifier.
    fn base(&self, mut oid: u32, mut modifier: i32) -> (u32, i32) {
        for _ in 0..DOMAIN_DEPTH_MAX {
            let Some(Made::Domain { base, modifier: own }) = self.0.get(&oid) else { break };
            oid = *base;
            modifier = if *own >= 0 { *own } else { modifier };
        }
        (oid, modifier)
    }

    /// How a column of this type is read.
    pub(crate) fn kind(&self, oid: u32, modifier: i32) -> Kind {
        let (oid, modifier) = self.base(oid, modifier);
        if let Some(Made::Text) = self.0.get(&oid) {
            return Kind::Text;
        }
        if let Some(Made::Array { element, delimiter }) = self.0.get(&oid) {
            let element = match self.base(*element, -1).0 {
                20 | 21 | 23 | OID | 700 | 701 | NUMERIC => ArrayElement::Number,
                16 => ArrayElement::Bool,
                _ => ArrayElement::Text,
            };
            return Kind::Array { element, delimiter: *delimiter };
        }
        match oid {
            16 => Kind::Bool,
            17 => Kind::Bytea,
            20 => Kind::Int8,
            21 => Kind::Int2,
            23 => Kind::Int4,
            700 => Kind::Float4,
            701 => Kind::Float8,
            1082 => Kind::Date,
            1083 => Kind::Time,
            1114 => Kind::Timestamp,
            1184 => Kind::TimestampTz,
            2950 => Kind::Uuid,
            3802 => Kind::Jsonb,
            // name, text, json, character, character varying: their binary form is their text.
            19 | 25 | 114 | 1042 | 1043 => Kind::Text,
            NUMERIC => numeric(modifier),
            _ => Kind::Written,
        }
    }
}

/// `numeric(precision, scale)` as a decimal where Arrow's 38 digits hold it, else as its exact text.
fn numeric(modifier: i32) -> Kind {
    let Some(packed) = modifier.checked_sub(4).filter(|packed| *packed >= 0) else { return Kind::Numeric };
    let precision = (packed >> 16) & 0xffff;
    // Eleven bits, signed since PostgreSQL 15.
    let scale = ((packed & 0x7ff) ^ 0x400) - 0x400;
    match (u8::try_from(precision), i8::try_from(scale)) {
        (Ok(precision @ 1..=38), Ok(scale @ 0..)) if i32::from(scale) <= i32::from(precision) => {
            Kind::Decimal { precision, scale }
        }
        _ => Kind::Numeric,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn modifier(precision: i32, scale: i32) -> i32 {
        (precision << 16 | (scale & 0x7ff)) + 4
    }

    #[test]
    fn numerics_are_decimals_only_where_they_stay_exact() {
        assert_eq!(numeric(modifier(12, 2)), Kind::Decimal { precision: 12, scale: 2 });
        assert_eq!(numeric(modifier(38, 38)), Kind::Decimal { precision: 38, scale: 38 });
        assert_eq!(numeric(modifier(39, 0)), Kind::Numeric);
        assert_eq!(numeric(modifier(5, -2)), Kind::Numeric);
        assert_eq!(numeric(modifier(3, 5)), Kind::Numeric);
        assert_eq!(numeric(-1), Kind::Numeric);
    }

    #[test]
    fn a_domain_over_an_array_of_domains_is_followed_to_its_numbers() {
        let types = Types(HashMap::from([
            (90_001, Made::Domain { base: 1231, modifier: -1 }),
            (1231, Made::Array { element: 90_002, delimiter: b',' }),
            (90_002, Made::Domain { base: NUMERIC, modifier: modifier(9, 3) }),
        ]));
        assert_eq!(types.kind(90_001, -1), Kind::Array { element: ArrayElement::Number, delimiter: b',' });
        assert_eq!(types.kind(90_002, -1), Kind::Decimal { precision: 9, scale: 3 });
    }
}
