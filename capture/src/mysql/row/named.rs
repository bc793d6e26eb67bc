//! Types of MariaDB of which the log says no more than how many bytes their values have.
//!
//! The log has the bytes of a `uuid` or an address in the order in which they are read, whatever the order is that the server keeps
//! them in (tried on 10.11 and 11.8, with every version and variant of a `uuid` that they take), so what the catalog adds is how they
//! are written: no value becomes another one by it.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::mysql::event::table_map::{MapColumn, code};
use crate::value::ValueFault;

/// A type by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Named {
    Uuid,
    Inet4,
    Inet6,
    Vector,
}

const FAULT: ValueFault = ValueFault::Malformed("a value has another length than its type");

impl Named {
    /// By the name that the catalog has.
    pub(crate) fn of(data_type: &str) -> Option<Self> {
        [Self::Uuid, Self::Inet4, Self::Inet6, Self::Vector].into_iter().find(|named| named.name() == data_type)
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Uuid => "uuid",
            Self::Inet4 => "inet4",
            Self::Inet6 => "inet6",
            Self::Vector => "vector",
        }
    }

    /// The code and the length that the log has for it; a vector is as long as its column says.
    pub(crate) const fn code(self, octets: u16) -> (u8, u16) {
        match self {
            Self::Uuid | Self::Inet6 => (code::STRING, 16),
            Self::Inet4 => (code::STRING, 4),
            Self::Vector => (code::VARCHAR, octets),
        }
    }

    /// Whether a column of the log can be of this type.
    pub(crate) fn fits(self, column: &MapColumn) -> bool {
        const BINARY: u32 = 63;
        (column.code, column.meta) == self.code(column.meta) && column.collation == Some(BINARY)
    }

    /// Writes the bytes of the log, of which the zeros at the end are missing.
    pub(super) fn put(self, bytes: &[u8], out: &mut String) -> Result<(), ValueFault> {
        let written = match self {
            Self::Uuid => {
                let number = u128::from_be_bytes(padded(bytes)?);
                let part = |from: u32, digits: u32| number >> (128 - 4 * (from + digits)) & ((1 << (4 * digits)) - 1);
                let [a, b, c, d, e] = [part(0, 8), part(8, 4), part(12, 4), part(16, 4), part(20, 12)];
                write!(out, "{a:08x}-{b:04x}-{c:04x}-{d:04x}-{e:012x}")
            }
            Self::Inet4 => write!(out, "{}", Ipv4Addr::from(padded::<4>(bytes)?)),
            Self::Inet6 => write!(out, "{}", Ipv6Addr::from(padded::<16>(bytes)?)),
            Self::Vector => return super::column::put_vector(bytes, out),
        };
        written.expect("a String takes every text");
        Ok(())
    }

    /// Writes what a query says; servers have ways of their own to write an address of version 6.
    pub(super) fn put_written(self, bytes: &[u8], out: &mut String) -> Result<(), ValueFault> {
        let text = std::str::from_utf8(bytes).map_err(|_| FAULT);
        match self {
            Self::Uuid | Self::Inet4 => out.push_str(text?),
            Self::Inet6 => {
                let address: Ipv6Addr = text?.parse().map_err(|_| ValueFault::Malformed("an address is none"))?;
                write!(out, "{address}").expect("a String takes every text");
            }
            Self::Vector => self.put(bytes, out)?,
        }
        Ok(())
    }
}

fn padded<const N: usize>(bytes: &[u8]) -> Result<[u8; N], ValueFault> {
    let mut all = [0; N];
    all.get_mut(..bytes.len()).ok_or(FAULT)?.copy_from_slice(bytes);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn logged(named: Named, bytes: &[u8]) -> String {
        let mut out = String::new();
        named.put(bytes, &mut out).unwrap();
        out
    }

    fn written(named: Named, text: &str) -> String {
        let mut out = String::new();
        named.put_written(text.as_bytes(), &mut out).unwrap();
        out
    }

    #[test]
    fn a_value_is_written_in_one_way_whoever_says_it() {
        let uuid = *b"\x12\x3e\x45\x67\xe8\x9b\x12\xd3\xa4\x56\x42\x66\x55\x44";
        assert_eq!(
            logged(Named::Uuid, &uuid),
            "123e4567-e89b-12d3-a456-426655440000",
            "zeros at the end are not logged"
        );
        assert_eq!(logged(Named::Inet4, &[10]), "10.0.0.0");
        let long = [0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 0, 0, 7, 0, 8];
        assert_eq!(logged(Named::Inet6, &long), written(Named::Inet6, "1:2:3:4:5::7:8"));
        assert_eq!(logged(Named::Inet6, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 1, 2, 3, 4]), "::ffff:1.2.3.4");
        assert_eq!(
            logged(Named::Inet6, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]),
            written(Named::Inet6, "::1.2.3.4")
        );
        assert_eq!(logged(Named::Vector, &1.5_f32.to_le_bytes()), "[1.5]");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            for named in [Named::Uuid, Named::Inet4, Named::Inet6, Named::Vector] {
                let _ = (named.put(&bytes, &mut String::new()), named.put_written(&bytes, &mut String::new()));
            }
        }
    }
}
