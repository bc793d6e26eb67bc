//! How far a source has been read, as bytes in a frame.
//!
//! ```text
//! version u8 = 2 | kind u8: 0 MySQL, 1 MariaDB | length u32, set of transactions | length u32, cut | changes u64
//! | known tables u32, each: schema, name | length u32, server | while tables are copied: ledger of the copy
//! ```
//! Big-endian; sets and GTIDs as the servers write them, so that an operator can read them. All transactions of the set
//! are in the log, and of the cut one, which is empty where there is none, so many changes. Of a known table all rows are in the
//! log, or will be once the copy has ended; the server's others have to be copied. The server is named where a transaction is cut or
//! tables are copied, as another one may cut in another way, and lack what a read saw; version 1 did not say.

use std::collections::BTreeSet;

use syncline_schemas::ident::{Position, TableId};

use super::copy::Ledger;
use super::decoder::Cut;
use super::gtid::{Gtid, GtidSet, MySqlGtid};

const VERSION: u8 = 2;
/// Before there was a server in it.
const WITHOUT_SERVER: u8 = 1;

/// A decoded position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MyPosition {
    pub(crate) end: GtidSet,
    pub(crate) cut: Option<Cut>,
    /// Tables that are read.
    pub(crate) known: BTreeSet<TableId>,
    /// Which server it is of, where it is good on that one only.
    pub(crate) server: Option<String>,
    /// What of the tables is still to be copied.
    pub(crate) copy: Option<Ledger>,
}

/// The position of a source whose tables are to be copied again, after what there is of them was taken back.
///
/// # Errors
/// What is wrong with the position.
pub fn begin_again(position: &Position) -> Result<Position, String> {
    let MyPosition { end, .. } = MyPosition::decode(position)?;
    let copy = Some(Ledger::anew(end.clone()));
    Ok(MyPosition { end, cut: None, known: BTreeSet::new(), server: None, copy }.encode())
}

/// A position as the servers write it: the set of transactions, and of one that is cut how much of it.
#[must_use]
pub fn describe_position(position: &Position) -> String {
    match MyPosition::decode(position) {
        Ok(MyPosition { end, cut: None, .. }) => end.to_string(),
        Ok(MyPosition { end, cut: Some(Cut { gtid, changes }), .. }) => {
            format!("{end} and {changes} changes of {gtid}")
        }
        Err(reason) => format!("no position: {reason}"),
    }
}

impl MyPosition {
    /// True where nothing before it counts any more, as all tables are to be copied.
    pub(crate) fn begins_again(&self) -> bool {
        self.copy.as_ref().is_some_and(|copy| copy.anew)
    }

    /// True where it is good on one server only.
    pub(crate) const fn is_bound(&self) -> bool {
        self.cut.is_some() || self.copy.is_some()
    }

    pub(crate) fn encode(&self) -> Position {
        let mut out = vec![VERSION, u8::from(matches!(self.end, GtidSet::MariaDb(_)))];
        put(&mut out, &self.end.to_string());
        put(&mut out, &self.cut.as_ref().map(|cut| cut.gtid.to_string()).unwrap_or_default());
        out.extend_from_slice(&self.cut.as_ref().map_or(0, |cut| cut.changes).to_be_bytes());
        out.extend_from_slice(&u32::try_from(self.known.len()).expect("fewer tables than u32").to_be_bytes());
        for table in &self.known {
            put(&mut out, &table.schema);
            put(&mut out, &table.name);
        }
        put(&mut out, self.server.as_deref().unwrap_or_default());
        if let Some(copy) = &self.copy {
            copy.encode(&mut out);
        }
        Position::new(out)
    }

    /// Reads what [`MyPosition::encode`] wrote; the error says what is wrong.
    pub(crate) fn decode(position: &Position) -> Result<Self, String> {
        let mut rest = position.as_bytes();
        let [version, kind] = array(&mut rest)?;
        if ![VERSION, WITHOUT_SERVER].contains(&version) {
            return Err(format!("its format {version} is not {VERSION}, the one of this version"));
        }
        let (end, cut) = (text(&mut rest)?, text(&mut rest)?);
        let changes = u64::from_be_bytes(array(&mut rest)?);
        if kind > 1 {
            return Err("it is of another kind of source".to_owned());
        }
        let set =
            |text: &str| if kind == 1 { text.parse().map(GtidSet::MariaDb) } else { text.parse().map(GtidSet::MySql) };
        let count = u32::from_be_bytes(array(&mut rest)?);
        let mut table = || Ok::<_, String>(TableId::new(text(&mut rest)?, text(&mut rest)?));
        let known = (0..count).map(|_| table()).collect::<Result<_, _>>()?;
        let server = if version == WITHOUT_SERVER { "" } else { text(&mut rest)? };
        let server = Some(server.to_owned()).filter(|server| !server.is_empty());
        let copy = if rest.is_empty() { None } else { Some(Ledger::decode(&mut rest, set)?) };
        if !rest.is_empty() {
            return Err("it goes on behind its end".to_owned());
        }
        let cut = match (cut, kind) {
            ("", _) => None,
            (cut, 1) => Some(Gtid::MariaDb(cut.parse()?)),
            (cut, _) => Some(Gtid::MySql(cut.parse::<MySqlGtid>()?)),
        };
        Ok(Self { end: set(end)?, cut: cut.map(|gtid| Cut { gtid, changes }), known, server, copy })
    }
}

pub(super) fn put(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&u32::try_from(text.len()).expect("a set is far smaller than 4 GiB").to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

pub(super) fn array<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], String> {
    let (taken, tail) = rest.split_first_chunk().ok_or("it is cut short")?;
    *rest = tail;
    Ok(*taken)
}

pub(super) fn text<'a>(rest: &mut &'a [u8]) -> Result<&'a str, String> {
    let len = usize::try_from(u32::from_be_bytes(array(rest)?)).map_err(|error| error.to_string())?;
    let (taken, tail) = rest.split_at_checked(len).ok_or("it is cut short")?;
    *rest = tail;
    std::str::from_utf8(taken).map_err(|_| "a set in it is no text".to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mysql::copy::tests::ledgers;

    const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

    #[test]
    fn a_position_reads_back_with_and_without_a_cut() {
        let mysql = |text: String| GtidSet::MySql(text.parse().unwrap());
        let gtid: MySqlGtid = format!("{A}:load:9").parse().unwrap();
        for position in [
            MyPosition {
                end: mysql(format!("{A}:1-5:load:1-8")),
                cut: None,
                known: [TableId::new("shop", "stock"), TableId::new("shop", "ä")].into(),
                server: None,
                copy: None,
            },
            MyPosition {
                end: mysql(String::new()),
                cut: Some(Cut { gtid: Gtid::MySql(gtid), changes: 7 }),
                known: BTreeSet::new(),
                server: Some(A.to_owned()),
                copy: None,
            },
            MyPosition {
                end: GtidSet::MariaDb("0-1-5,3-1-2".parse().unwrap()),
                cut: Some(Cut { gtid: Gtid::MariaDb("0-1-6".parse().unwrap()), changes: 1 << 40 }),
                known: BTreeSet::new(),
                server: None,
                copy: None,
            },
        ] {
            assert_eq!(MyPosition::decode(&position.encode()), Ok(position));
        }
    }

    #[test]
    fn a_position_from_before_servers_were_named_reads_back_as_one_of_nobody_knows_which() {
        let gtid = Gtid::MariaDb("0-7-101".parse().unwrap());
        let end = GtidSet::MariaDb("0-7-100".parse().unwrap());
        let cut = Some(Cut { gtid, changes: 12 });
        let position = MyPosition { end, cut, known: BTreeSet::new(), server: None, copy: None };
        let mut bytes = position.encode().as_bytes().to_vec();
        // Without the length of what no server is called.
        bytes.truncate(bytes.len() - 4);
        bytes[0] = 1;
        assert_eq!(MyPosition::decode(&Position::new(bytes)), Ok(position));
        assert!(MyPosition::decode(&Position::new(vec![3, 0])).unwrap_err().contains("its format 3"));
    }

    #[test]
    fn an_operator_reads_a_position_as_the_server_writes_it() {
        let end = GtidSet::MariaDb("0-7-100,3-7-5".parse().unwrap());
        let whole = MyPosition {
            end: end.clone(),
            cut: None,
            known: [TableId::new("shop", "stock"), TableId::new("shop", "ä")].into(),
            server: None,
            copy: None,
        };
        assert_eq!(describe_position(&whole.encode()), "0-7-100,3-7-5");
        let gtid = Gtid::MariaDb("0-7-101".parse().unwrap());
        let cut =
            MyPosition { end, cut: Some(Cut { gtid, changes: 12 }), known: BTreeSet::new(), server: None, copy: None };
        assert_eq!(describe_position(&cut.encode()), "0-7-100,3-7-5 and 12 changes of 0-7-101");
        let again = begin_again(&cut.encode()).unwrap();
        assert_eq!(describe_position(&again), "0-7-100,3-7-5");
        assert!(MyPosition::decode(&again).unwrap().begins_again() && !whole.begins_again());
        assert_eq!(describe_position(&Position::new(vec![1])), "no position: it is cut short");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_copy_goes_on_where_it_was(copy in ledgers()) {
            let end = GtidSet::MariaDb("0-1-5".parse().unwrap());
            let position = MyPosition { end, cut: None, known: [TableId::new("shop", "stock")].into(), server: Some(A.to_owned()), copy: Some(copy) };
            let bytes = position.encode();
            prop_assert_eq!(MyPosition::decode(&bytes), Ok(position));
            let short = bytes.as_bytes().split_last().unwrap().1;
            prop_assert!(MyPosition::decode(&Position::new(short.to_vec())).is_err());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = MyPosition::decode(&Position::new(bytes.clone()));
            let _ = MyPosition::decode(&Position::new([&[1, 0][..], &bytes].concat()));
            let _ = MyPosition::decode(&Position::new([&[2, 0][..], &bytes].concat()));
        }
    }
}
