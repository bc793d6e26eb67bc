//! What is read of a server, in a form that a position can carry.
//!
//! ```text
//! publication u32 | patterns u32 | tables u16, each: number u32, name u32, terms u32
//!                 | partitioned u16, each: number u32, last u32, leaves u32
//!                 | where there are any: multisets u16, each: number u32, shape u32, 0
//! ```
//! Big-endian; what is no number or count is a hash. Terms are how a table is published and what its key is. Leaves are
//! the partitions numbered up to the last one, with what made them partitions; those behind it came later and began empty. Multisets are
//! tables without a key, with the version of the shape in which their rows were counted.

/// Three numbers for a table.
pub(crate) type Entry = [u32; 3];

/// A [`Scope`](super::scope::Scope) as a position holds it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Mark {
    pub(crate) publication: u32,
    pub(crate) patterns: u32,
    /// Number, name and terms of each table.
    pub(crate) tables: Vec<Entry>,
    /// Number, last leaf and leaves of each that is partitioned.
    pub(crate) partitioned: Vec<Entry>,
    /// Number and shape of each that has no key.
    pub(crate) multisets: Vec<Entry>,
}

impl Mark {
    /// A mark of so many entries fits a position of 64 KiB; a table that is partitioned or has no key takes two.
    pub(crate) const ENTRIES_MAX: usize = 5_000;

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = [self.publication.to_be_bytes(), self.patterns.to_be_bytes()].concat();
        let multisets = (!self.multisets.is_empty()).then_some(&self.multisets);
        for part in [&self.tables, &self.partitioned].into_iter().chain(multisets) {
            let count = u16::try_from(part.len()).expect("ENTRIES_MAX is less");
            out.extend_from_slice(&count.to_be_bytes());
            part.iter().flatten().for_each(|number| out.extend_from_slice(&number.to_be_bytes()));
        }
        out
    }

    /// Reads what [`Mark::encode`] wrote; the error says what is wrong.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let mut rest = bytes;
        let mark = Self {
            publication: take(&mut rest)?,
            patterns: take(&mut rest)?,
            tables: entries(&mut rest)?,
            partitioned: entries(&mut rest)?,
            multisets: if rest.is_empty() { Vec::new() } else { entries(&mut rest)? },
        };
        if rest.is_empty() { Ok(mark) } else { Err("its mark of the tables has bytes left over") }
    }
}

fn take(rest: &mut &[u8]) -> Result<u32, &'static str> {
    let (head, tail) = rest.split_first_chunk().ok_or("its mark of the tables is cut short")?;
    *rest = tail;
    Ok(u32::from_be_bytes(*head))
}

fn entries(rest: &mut &[u8]) -> Result<Vec<Entry>, &'static str> {
    let (count, tail) = rest.split_first_chunk().ok_or("its mark of the tables is cut short")?;
    *rest = tail;
    (0..u16::from_be_bytes(*count)).map(|_| Ok([take(rest)?, take(rest)?, take(rest)?])).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn marks_read_back_and_cut_ones_are_refused(
            hashes in any::<(u32, u32)>(), tables in any::<Vec<Entry>>(), partitioned in any::<Vec<Entry>>(),
            multisets in any::<Vec<Entry>>(),
        ) {
            let mark = Mark { publication: hashes.0, patterns: hashes.1, tables, partitioned, multisets };
            let encoded = mark.encode();
            // The end of one that was written before there were multisets.
            let before = Mark { multisets: Vec::new(), ..mark.clone() }.encode().len();
            prop_assert_eq!(Mark::decode(&encoded), Ok(mark));
            for len in (0..encoded.len()).filter(|len| *len != before) {
                prop_assert!(Mark::decode(&encoded[..len]).is_err());
            }
        }
    }
}
