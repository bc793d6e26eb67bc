//! What of the seeds is in the log, as bytes in a frame.
//!
//! ```text
//! version u8 = 1 | kind u8
//! kind 1  whole: manifest                     the log's rows are those of these contents
//! kind 2  cut: manifest, manifest, u64, i64   on the way from the first to the second: so many rows of the change are in
//!                                             the log; it was loaded at (microseconds since 1970)
//!
//! manifest  count u16, then by rising name:
//!           name length u8, name | hash u128 | keys u16, each u16 | types u16, each: column u16, type u8 [digits u8, scale u8]
//! ```
//! Big-endian. How a content was read is part of what it is: the same bytes with another key or other types are other rows.

use std::collections::BTreeMap;

use syncline_schemas::ident::Position;

use super::config::CellType;
use super::table::Layout;

const VERSION: u8 = 1;
const WHOLE: u8 = 1;
const CUT: u8 = 2;
const DECIMAL: u8 = 4;

/// A manifest may not be longer: two of them must fit a position, for which the journal has 64 KiB. Some 500 files.
pub(super) const MANIFEST_BYTES_MAX: usize = 28 << 10;

/// A content and how it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Of the file's bytes.
    pub(super) hash: u128,
    pub(super) layout: Layout,
}

/// Tables by name. Empty before anything was loaded.
pub(super) type Manifest = BTreeMap<String, Entry>;

/// What the log holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SeedsPosition {
    /// Exactly these contents.
    Whole(Manifest),
    /// A part of a change.
    Cut(Cut),
}

/// A change that is not finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) from: Manifest,
    pub(super) to: Manifest,
    /// Rows of the change that are in the log.
    pub(super) rows: u64,
    /// When the new contents were loaded, microseconds since 1970.
    pub(super) loaded_us: i64,
}

/// The position of seeds whose rows are to be put into the log again, all of them as at `now_us`: as if none were there.
///
/// # Errors
/// What is wrong with the position.
pub fn begin_again(position: &Position, now_us: i64) -> Result<Position, String> {
    match SeedsPosition::decode(position)? {
        SeedsPosition::Whole(to) => {
            Ok(SeedsPosition::Cut(Cut { from: Manifest::new(), to, rows: 0, loaded_us: now_us }).encode())
        }
        SeedsPosition::Cut(_) => {
            Err("a change of the files is half in the log; let the daemon finish it first".to_owned())
        }
    }
}

/// Bytes of a manifest.
pub(super) fn encode_manifest(manifest: &Manifest) -> Vec<u8> {
    let mut out = Vec::new();
    put_count(&mut out, manifest.len());
    for (name, entry) in manifest {
        out.push(u8::try_from(name.len()).expect("file systems limit names to 255 bytes"));
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(&entry.hash.to_be_bytes());
        put_count(&mut out, entry.layout.keys.len());
        entry.layout.keys.iter().for_each(|key| out.extend_from_slice(&key.to_be_bytes()));
        put_count(&mut out, entry.layout.types.len());
        for (column, cell_type) in &entry.layout.types {
            out.extend_from_slice(&column.to_be_bytes());
            put_type(&mut out, *cell_type);
        }
    }
    out
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u16::try_from(count).expect("a file has at most 1,000 columns, and far fewer files fit a manifest");
    out.extend_from_slice(&count.to_be_bytes());
}

fn put_type(out: &mut Vec<u8>, cell_type: CellType) {
    match cell_type {
        CellType::Text => out.push(1),
        CellType::Integer => out.push(2),
        CellType::Bigint => out.push(3),
        CellType::Decimal { precision, scale } => out.extend_from_slice(&[DECIMAL, precision, scale]),
        CellType::Boolean => out.push(5),
        CellType::Date => out.push(6),
        CellType::Timestamp => out.push(7),
    }
}

impl SeedsPosition {
    pub(super) fn encode(&self) -> Position {
        let mut out = vec![VERSION];
        match self {
            Self::Whole(manifest) => {
                out.push(WHOLE);
                out.extend_from_slice(&encode_manifest(manifest));
            }
            Self::Cut(cut) => {
                out.push(CUT);
                out.extend_from_slice(&encode_manifest(&cut.from));
                out.extend_from_slice(&encode_manifest(&cut.to));
                out.extend_from_slice(&cut.rows.to_be_bytes());
                out.extend_from_slice(&cut.loaded_us.to_be_bytes());
            }
        }
        Position::new(out)
    }

    /// Reads what [`SeedsPosition::encode`] wrote; the error says what is wrong.
    pub(super) fn decode(position: &Position) -> Result<Self, String> {
        let mut rest = position.as_bytes();
        let [version, kind] = take(&mut rest)?;
        if version != VERSION {
            return Err(format!("its format {version} is not {VERSION}; a newer Syncline wrote it"));
        }
        let first = manifest(&mut rest)?;
        let decoded = match kind {
            WHOLE => Self::Whole(first),
            CUT => Self::Cut(Cut {
                from: first,
                to: manifest(&mut rest)?,
                rows: u64::from_be_bytes(take(&mut rest)?),
                loaded_us: i64::from_be_bytes(take(&mut rest)?),
            }),
            other => return Err(format!("its kind {other} is not known")),
        };
        if rest.is_empty() { Ok(decoded) } else { Err("bytes are left over".to_owned()) }
    }
}

fn manifest(rest: &mut &[u8]) -> Result<Manifest, String> {
    let mut manifest = Manifest::new();
    for _ in 0..count(rest)? {
        let [len] = take(rest)?;
        let (name, tail) = rest.split_at_checked(usize::from(len)).ok_or("it is cut short")?;
        let name = std::str::from_utf8(name).map_err(|_| "a table's name is not UTF-8")?.to_owned();
        *rest = tail;
        if manifest.last_key_value().is_some_and(|(last, _)| *last >= name) {
            return Err("its tables are not in order".to_owned());
        }
        let hash = u128::from_be_bytes(take(rest)?);
        manifest.insert(name, Entry { hash, layout: layout(rest)? });
    }
    Ok(manifest)
}

fn layout(rest: &mut &[u8]) -> Result<Layout, String> {
    let mut layout = Layout::default();
    for _ in 0..count(rest)? {
        let key = u16::from_be_bytes(take(rest)?);
        if layout.keys.contains(&key) {
            return Err("a key names a column twice".to_owned());
        }
        layout.keys.push(key);
    }
    for _ in 0..count(rest)? {
        let column = u16::from_be_bytes(take(rest)?);
        if layout.types.last_key_value().is_some_and(|(last, _)| *last >= column) {
            return Err("its types are not in order".to_owned());
        }
        layout.types.insert(column, cell_type(rest)?);
    }
    Ok(layout)
}

fn cell_type(rest: &mut &[u8]) -> Result<CellType, String> {
    let [kind] = take(rest)?;
    Ok(match kind {
        1 => CellType::Text,
        2 => CellType::Integer,
        3 => CellType::Bigint,
        DECIMAL => {
            let [precision, scale] = take(rest)?;
            CellType::decimal(precision, scale).ok_or("a decimal has digits that do not fit")?
        }
        5 => CellType::Boolean,
        6 => CellType::Date,
        7 => CellType::Timestamp,
        other => return Err(format!("no type is {other}")),
    })
}

fn count(rest: &mut &[u8]) -> Result<u16, String> {
    Ok(u16::from_be_bytes(take(rest)?))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], String> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or("it is cut short")?;
    *rest = tail;
    Ok(*head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cell_types() -> impl Strategy<Value = CellType> {
        prop_oneof![
            Just(CellType::Text),
            Just(CellType::Integer),
            Just(CellType::Bigint),
            (1..=38_u8, 0..=38_u8).prop_filter_map("digits", |(precision, scale)| CellType::decimal(precision, scale)),
            Just(CellType::Boolean),
            Just(CellType::Date),
            Just(CellType::Timestamp),
        ]
    }

    fn manifests() -> impl Strategy<Value = Manifest> {
        let keys = proptest::collection::btree_set(any::<u16>(), 0..4);
        let types = proptest::collection::btree_map(any::<u16>(), cell_types(), 0..4);
        let entry = (any::<u128>(), keys, types).prop_map(|(hash, keys, types)| Entry {
            hash,
            layout: Layout { keys: keys.into_iter().rev().collect(), types },
        });
        proptest::collection::btree_map("[a-zé _]{1,12}", entry, 0..4)
    }

    fn positions() -> impl Strategy<Value = SeedsPosition> {
        let cut = (manifests(), manifests(), any::<u64>(), any::<i64>())
            .prop_map(|(from, to, rows, loaded_us)| SeedsPosition::Cut(Cut { from, to, rows, loaded_us }));
        prop_oneof![manifests().prop_map(SeedsPosition::Whole), cut]
    }

    proptest! {
        #[test]
        fn positions_read_back_and_cut_or_longer_ones_are_refused(position in positions()) {
            let encoded = position.encode();
            prop_assert_eq!(SeedsPosition::decode(&encoded), Ok(position));
            for len in 0..encoded.as_bytes().len() {
                prop_assert!(SeedsPosition::decode(&Position::new(encoded.as_bytes()[..len].to_vec())).is_err());
            }
            let longer = [encoded.as_bytes(), &[0]].concat();
            prop_assert!(SeedsPosition::decode(&Position::new(longer)).is_err());
        }

        #[test]
        fn damaged_bytes_are_an_error_or_another_position_and_never_a_panic(
            position in positions(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
        ) {
            let mut bytes = position.encode().as_bytes().to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            // What decodes at all is written back as the same bytes: no two encodings mean the same.
            if let Ok(decoded) = SeedsPosition::decode(&Position::new(bytes.clone())) {
                prop_assert_eq!(decoded.encode(), Position::new(bytes));
            }
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = SeedsPosition::decode(&Position::new(bytes));
        }
    }

    #[test]
    fn the_bytes_of_this_release_stay_readable() {
        let layout =
            Layout { keys: vec![0], types: BTreeMap::from([(1, CellType::Decimal { precision: 28, scale: 9 })]) };
        let manifest = Manifest::from([("uom".to_owned(), Entry { hash: 0x0102, layout })]);
        let mut golden = vec![1, 1, 0, 1, 3];
        golden.extend_from_slice(b"uom");
        golden.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
        golden.extend_from_slice(&[0, 1, 0, 0, 0, 1, 0, 1, 4, 28, 9]);
        assert_eq!(SeedsPosition::Whole(manifest.clone()).encode().as_bytes(), golden);
        assert_eq!(SeedsPosition::decode(&Position::new(golden)), Ok(SeedsPosition::Whole(manifest)));
    }
}
