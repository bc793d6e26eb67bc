//! What of the tables is still to be copied, as a position carries it.
//!
//! ```text
//! kind u8: 1 begins anew, 2 all tables | target: text | tables u32, each: schema: text, name: text | pieces u32, each: after, upto
//! text: length u32 | bytes        key: 0, or 1 + values u8 | texts
//! ```
//! Of a table that is not listed nothing is left to read. Values of keys are kept as SQL writes them.

use std::collections::BTreeMap;

use syncline_schemas::ident::TableId;

use crate::mysql::gtid::GtidSet;
use crate::mysql::position::{array, put, text};

/// The values of a key's first columns as SQL writes them.
pub(crate) type Key = Vec<String>;

/// Rows behind a key, up to and with another.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Piece {
    pub(crate) after: Option<Key>,
    pub(crate) upto: Option<Key>,
}

/// What of the tables is still to be copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ledger {
    /// What the log holds of the tables is void, and all of them are to be read.
    pub(crate) anew: bool,
    /// It is a copy of all tables, and not of some that came or are read anew beside the others.
    pub(crate) is_all: bool,
    /// All that the reads so far may have seen: once the stream has come so far, the tables are whole.
    pub(crate) target: GtidSet,
    open: BTreeMap<TableId, Vec<Piece>>,
}

impl Ledger {
    /// That of a copy which is to begin with taking back what there is.
    pub(crate) const fn anew(target: GtidSet) -> Self {
        Self { anew: true, is_all: true, target, open: BTreeMap::new() }
    }

    /// That of tables which come to those that are read already.
    pub(crate) const fn of_newcomers(target: GtidSet) -> Self {
        Self { anew: false, is_all: false, target, open: BTreeMap::new() }
    }

    /// Sets what is to be read of a table.
    pub(crate) fn begin(&mut self, table: &TableId, pieces: Vec<Piece>) {
        if pieces.is_empty() {
            self.open.remove(table);
        } else {
            self.open.insert(table.clone(), pieces);
        }
    }

    /// True where nothing was read of a table yet.
    pub(crate) fn is_fresh(&self, table: &TableId) -> bool {
        self.open.get(table).is_some_and(|pieces| *pieces == [Piece::default()])
    }

    /// Why a table is not to be read anew now: it is being read.
    pub(crate) fn under_way(&self, table: &TableId) -> Option<String> {
        if self.is_all {
            return Some("the tables of the source are being copied already".to_owned());
        }
        self.open.contains_key(table).then(|| format!("{table} is being read already"))
    }

    /// Gives tables up that are read no more.
    pub(crate) fn keep(&mut self, is_read: impl Fn(&TableId) -> bool) {
        self.open.retain(|table, _| is_read(table));
    }

    /// True where nothing is left to read.
    pub(crate) fn is_read(&self) -> bool {
        self.open.is_empty()
    }

    /// Of how many tables there is something left to read.
    pub(crate) fn left(&self) -> usize {
        self.open.len()
    }

    /// The next piece of a table that is not in other hands.
    pub(crate) fn next(&self, table: &TableId, busy: &[(TableId, Piece)]) -> Option<Piece> {
        let is_free = |piece: &&Piece| !busy.iter().any(|(other, taken)| other == table && taken == *piece);
        self.open.get(table)?.iter().find(is_free).cloned()
    }

    /// A piece was read, up to `rest`. One that is no longer known was given up meanwhile.
    pub(crate) fn finish(&mut self, table: &TableId, piece: &Piece, rest: Option<Piece>) {
        let Some(pieces) = self.open.get_mut(table) else { return };
        let Some(place) = pieces.iter().position(|known| known == piece) else { return };
        match rest {
            Some(rest) => pieces[place] = rest,
            None => drop(pieces.remove(place)),
        }
        if pieces.is_empty() {
            self.open.remove(table);
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.anew) | u8::from(self.is_all) << 1);
        put(out, &self.target.to_string());
        put_count(out, self.open.len());
        for (table, pieces) in &self.open {
            put(out, &table.schema);
            put(out, &table.name);
            put_count(out, pieces.len());
            for piece in pieces {
                put_key(out, piece.after.as_deref());
                put_key(out, piece.upto.as_deref());
            }
        }
    }

    /// Reads what [`Ledger::encode`] wrote; `set` reads the set of the target.
    pub(crate) fn decode(
        rest: &mut &[u8],
        set: impl Fn(&str) -> Result<GtidSet, &'static str>,
    ) -> Result<Self, String> {
        let [kind] = array(rest)?;
        let target = set(text(rest)?)?;
        let mut open = BTreeMap::new();
        for _ in 0..count(rest)? {
            let table = TableId::new(text(rest)?, text(rest)?);
            let piece = |rest: &mut &[u8]| Ok::<_, String>(Piece { after: key(rest)?, upto: key(rest)? });
            let pieces = (0..count(rest)?).map(|_| piece(rest)).collect::<Result<_, _>>()?;
            open.insert(table, pieces);
        }
        Ok(Self { anew: kind & 1 != 0, is_all: kind & 2 != 0, target, open })
    }
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&u32::try_from(count).expect("a copy has fewer parts than u32").to_be_bytes());
}

fn put_key(out: &mut Vec<u8>, key: Option<&[String]>) {
    let Some(values) = key else { return out.push(0) };
    out.push(u8::try_from(values.len() + 1).expect("the server limits a key to 32 columns"));
    values.iter().for_each(|value| put(out, value));
}

fn count(rest: &mut &[u8]) -> Result<u32, String> {
    Ok(u32::from_be_bytes(array(rest)?))
}

fn key(rest: &mut &[u8]) -> Result<Option<Key>, String> {
    let [count] = array(rest)?;
    if count == 0 {
        return Ok(None);
    }
    (1..count).map(|_| text(rest).map(str::to_owned)).collect::<Result<_, _>>().map(Some)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn ledgers() -> impl Strategy<Value = Ledger> {
        let key = || proptest::option::of(proptest::collection::vec(".{0,5}", 1..3));
        let piece = (key(), key()).prop_map(|(after, upto)| Piece { after, upto });
        let table = (".{1,4}", ".{1,4}").prop_map(|(schema, name)| TableId::new(&schema, &name));
        let open = proptest::collection::btree_map(table, proptest::collection::vec(piece, 1..3), 0..3);
        (any::<bool>(), any::<bool>(), open).prop_map(|(anew, is_all, open)| Ledger {
            anew,
            is_all,
            target: GtidSet::MariaDb("0-1-5,3-1-2".parse().unwrap()),
            open,
        })
    }

    #[test]
    fn a_table_that_is_being_read_is_not_read_anew_and_one_beside_it_is() {
        let (table, other) = (TableId::new("shop", "stock"), TableId::new("shop", "moves"));
        let mut ledger = Ledger::of_newcomers(GtidSet::MariaDb("0-1-5".parse().unwrap()));
        ledger.begin(&table, vec![Piece::default()]);
        assert_eq!(ledger.under_way(&table).unwrap(), "shop.stock is being read already");
        assert_eq!(ledger.under_way(&other), None);
        let all = Ledger::anew(ledger.target.clone());
        assert_eq!(all.under_way(&other).unwrap(), "the tables of the source are being copied already");
    }

    #[test]
    fn a_piece_is_read_once_whoever_takes_it() {
        let table = TableId::new("shop", "stock");
        let mut ledger = Ledger::anew(GtidSet::MariaDb("0-1-5".parse().unwrap()));
        ledger.begin(&table, vec![Piece::default()]);
        assert!(ledger.is_fresh(&table) && !ledger.is_read());
        let first = ledger.next(&table, &[]).unwrap();
        assert_eq!(ledger.next(&table, &[(table.clone(), first.clone())]), None);
        let rest = Piece { after: Some(vec!["7".to_owned()]), upto: None };
        ledger.finish(&table, &first, Some(rest.clone()));
        assert_eq!(ledger.next(&table, &[]), Some(rest.clone()));
        ledger.finish(&table, &first, None);
        assert!(!ledger.is_read(), "a piece that is no longer known");
        ledger.finish(&table, &rest, None);
        assert!(ledger.is_read());
    }
}
