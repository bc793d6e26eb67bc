//! What of the tables is still to be copied, as a position carries it.
//!
//! ```text
//! flags u8: 1 begins anew, 2 beside the stream, 4 reading, 8 sweeps, 16 void | target LSN u64 | with sweeps: table u32, each
//! with void: table u32, each
//! wanted u32, each: table u32 | open u32, each: table u32, pieces u32, each:
//!   0 | relation u32 | file u32 | from u32 | to u32        blocks of a table or a partition
//!   1 | after | upto                                       rows by key; each: 255, or a count u8 and u32-length texts
//!   2 | key                                                one row
//!   3                                                      a whole table that has no key
//! ```
//! Big-endian; tables and partitions by their number in the catalog. Of a wanted table nothing is read yet; of a table that is
//! in neither list nothing is left to read.

use std::collections::{BTreeMap, BTreeSet};

use crate::postgres::lsn::Lsn;

/// Blocks that one statement reads: 32 MiB of 8 KiB blocks. Only what is under way is read again after a crash.
const BLOCKS: u32 = 4096;

/// Rows that are read by themselves at a time, and bytes of the key of one.
const ROWS: usize = 100;
const ROW_BYTES: usize = 100;

/// The values of the key's columns as text, in the key's order.
pub(crate) type Key = Vec<String>;

/// A part of a table that is still to be copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Blocks of a table or a partition, as long as its rows lie in this file.
    Blocks { relation: u32, file: u32, from: u32, to: u32 },
    /// Rows behind a key, up to and with another.
    Keys { after: Option<Key>, upto: Option<Key> },
    /// The row with a key, if there is one.
    Row { key: Key },
    /// All rows of a table without a key, as of one moment.
    Whole,
}

/// What of the tables is still to be copied.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Ledger {
    /// What the log holds of the tables is to be taken back before, and all of them are to be read.
    pub(crate) anew: bool,
    /// Tables that came later: what the log holds is whole after each round, but for what is left of these.
    pub(crate) is_beside: bool,
    /// A round is under way, or broke off: the log holds rows of a later moment than its position.
    pub(crate) is_reading: bool,
    /// All that the reads so far have seen was committed before it: from there on the tables are whole.
    pub(crate) target: Lsn,
    /// Tables that are read anew: what the log holds of them is compared with what comes.
    pub(crate) sweeps: BTreeSet<u32>,
    /// Tables without a key of which what the log holds does not count: not before they were read, and the stream has told all that the
    /// reads have seen.
    void: BTreeSet<u32>,
    wanted: BTreeSet<u32>,
    open: BTreeMap<u32, Vec<Piece>>,
}

impl Ledger {
    /// That of a copy which is to begin with taking back what there is.
    pub(crate) fn anew() -> Self {
        Self { anew: true, ..Self::default() }
    }

    /// That of tables which are copied beside the stream of others.
    pub(crate) fn beside() -> Self {
        Self { is_beside: true, ..Self::default() }
    }

    /// Has tables read.
    pub(crate) fn want(&mut self, tables: impl IntoIterator<Item = u32>) {
        self.wanted.extend(tables);
    }

    /// Tables without a key of which rows came that do not count.
    pub(crate) fn void(&self) -> impl Iterator<Item = u32> {
        self.void.iter().copied()
    }

    /// Gives tables up that are read no more.
    pub(crate) fn keep(&mut self, is_read: impl Fn(u32) -> bool) {
        self.sweeps.retain(|table| is_read(*table));
        self.void.retain(|table| is_read(*table));
        self.wanted.retain(|table| is_read(*table));
        self.open.retain(|table, _| is_read(*table));
    }

    /// Has nothing more read of a table, nor what is held of it compared.
    pub(crate) fn give_up(&mut self, table: u32) {
        self.keep(|known| known != table);
    }

    /// Rows of a table without a key do not count any more, until it is read.
    pub(crate) fn make_void(&mut self, table: u32) {
        self.open.remove(&table);
        self.wanted.insert(table);
        self.pour(table);
    }

    /// The rows of a table without a key begin to come.
    pub(crate) fn pour(&mut self, table: u32) {
        self.sweeps.insert(table);
        self.void.insert(table);
    }

    /// Has those read again of which rows have come that do not count.
    pub(crate) fn take_up(&mut self) {
        self.void.clone().into_iter().for_each(|table| self.make_void(table));
    }

    /// Of tables without a key: those that were read, and count now that the stream has come this far.
    pub(crate) fn settle(&mut self) -> Vec<u32> {
        let settled: Vec<u32> = self.void.iter().copied().filter(|table| !self.is_left(*table)).collect();
        self.void.retain(|table| !settled.contains(table));
        self.sweeps.retain(|table| !settled.contains(table));
        settled
    }

    /// True where what the log holds of a table without a key does not count.
    pub(crate) fn is_void(&self, table: u32) -> bool {
        self.void.contains(&table)
    }

    /// True where tables without a key were read and do not count yet.
    pub(crate) fn is_settling(&self) -> bool {
        self.void.iter().any(|table| !self.is_left(*table))
    }

    /// True where changes of a table without a key are of no account, because it will be read and nothing is held of it.
    pub(crate) fn passes_over(&self, table: u32) -> bool {
        self.is_void(table) || !self.sweeps.contains(&table) && self.is_left(table)
    }

    /// True where nothing is read of a table yet.
    pub(crate) fn is_wanted(&self, table: u32) -> bool {
        self.wanted.contains(&table)
    }

    /// True where there is something left to read of a table.
    pub(crate) fn is_left(&self, table: u32) -> bool {
        self.is_wanted(table) || self.open.contains_key(&table)
    }

    /// True where nothing is left to read.
    pub(crate) fn is_read(&self) -> bool {
        self.wanted.is_empty() && self.open.is_empty()
    }

    /// How many tables there is something left to read of.
    pub(crate) fn left(&self) -> usize {
        self.wanted.len() + self.open.len()
    }

    /// True where a position says of all that is in the log what it was there.
    pub(crate) fn is_whole_at(&self, end: Lsn) -> bool {
        self.is_beside && !self.is_reading && self.void.is_empty() && end >= self.target
    }

    /// Sets what is to be read of a table.
    pub(crate) fn begin(&mut self, table: u32, pieces: Vec<Piece>) {
        self.wanted.remove(&table);
        if pieces.is_empty() {
            self.open.remove(&table);
        } else {
            self.open.insert(table, pieces);
        }
    }

    /// Has a row read that may have been missed; with many of them, or where its key cannot be named, their whole table, as a
    /// position has no room for more.
    pub(crate) fn read_also(&mut self, table: u32, key: Option<Key>) {
        const WHOLE: Piece = Piece::Keys { after: None, upto: None };
        if self.is_wanted(table) || self.open.get(&table).is_some_and(|pieces| pieces.contains(&WHOLE)) {
            return;
        }
        let is_row = |piece: &&Piece| matches!(piece, Piece::Row { .. });
        let rows = self.open.values().flatten().filter(is_row).count();
        let fits = |key: &Key| rows < ROWS && key.iter().map(String::len).sum::<usize>() <= ROW_BYTES;
        match key.filter(fits) {
            Some(key) => self.open.entry(table).or_default().push(Piece::Row { key }),
            None => drop(self.open.insert(table, vec![WHOLE])),
        }
    }

    /// The next piece of a table that is not in other hands, cut to what one statement reads.
    pub(crate) fn next(&mut self, table: u32, busy: &[(u32, Piece)]) -> Option<Piece> {
        let pieces = self.open.get_mut(&table)?;
        let free = |piece: &Piece| !busy.iter().any(|(other, taken)| *other == table && taken == piece);
        let place = pieces.iter().position(free)?;
        if let Piece::Blocks { relation, file, from, to } = pieces[place]
            && to - from > BLOCKS
        {
            pieces[place] = Piece::Blocks { relation, file, from, to: from + BLOCKS };
            pieces.insert(place + 1, Piece::Blocks { relation, file, from: from + BLOCKS, to });
        }
        Some(pieces[place].clone())
    }

    /// A piece was read, up to `rest`. One that is no longer known was given up meanwhile.
    pub(crate) fn finish(&mut self, table: u32, piece: &Piece, rest: Option<Piece>) {
        let Some(pieces) = self.open.get_mut(&table) else { return };
        let Some(place) = pieces.iter().position(|known| known == piece) else { return };
        match rest {
            Some(rest) => pieces[place] = rest,
            None => drop(pieces.remove(place)),
        }
        if pieces.is_empty() {
            self.begin(table, Vec::new());
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let flags = [self.anew, self.is_beside, self.is_reading, !self.sweeps.is_empty(), !self.void.is_empty()];
        let mut out = vec![flags.iter().rev().fold(0, |flags, flag| flags << 1 | u8::from(*flag))];
        out.extend_from_slice(&self.target.0.to_be_bytes());
        for tables in [&self.sweeps, &self.void].into_iter().filter(|tables| !tables.is_empty()) {
            put_count(&mut out, tables.len());
            tables.iter().for_each(|table| out.extend_from_slice(&table.to_be_bytes()));
        }
        put_count(&mut out, self.wanted.len());
        self.wanted.iter().for_each(|table| out.extend_from_slice(&table.to_be_bytes()));
        put_count(&mut out, self.open.len());
        for (table, pieces) in &self.open {
            out.extend_from_slice(&table.to_be_bytes());
            put_count(&mut out, pieces.len());
            for piece in pieces {
                match piece {
                    Piece::Blocks { relation, file, from, to } => {
                        out.push(0);
                        [relation, file, from, to].iter().for_each(|part| out.extend_from_slice(&part.to_be_bytes()));
                    }
                    Piece::Keys { after, upto } => {
                        out.push(1);
                        put_key(&mut out, after.as_deref());
                        put_key(&mut out, upto.as_deref());
                    }
                    Piece::Row { key } => {
                        out.push(2);
                        put_key(&mut out, Some(key));
                    }
                    Piece::Whole => out.push(3),
                }
            }
        }
        out
    }

    /// Reads what [`Ledger::encode`] wrote; the error says what is wrong.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let mut rest = bytes;
        let read = || {
            let [flags] = take(&mut rest)?;
            let target = Lsn(u64::from_be_bytes(take(&mut rest)?));
            let mut tables = || (0..number(&mut rest)?).map(|_| number(&mut rest)).collect::<Option<_>>();
            let sweeps = if flags & 8 == 0 { BTreeSet::new() } else { tables()? };
            let void = if flags & 16 == 0 { BTreeSet::new() } else { tables()? };
            let wanted = tables()?;
            let mut open = BTreeMap::new();
            for _ in 0..number(&mut rest)? {
                let table = number(&mut rest)?;
                let pieces = (0..number(&mut rest)?).map(|_| piece(&mut rest)).collect::<Option<_>>()?;
                open.insert(table, pieces);
            }
            let [anew, is_beside, is_reading] = [1, 2, 4].map(|flag| flags & flag != 0);
            (flags < 32 && rest.is_empty()).then_some(Self {
                anew,
                is_beside,
                is_reading,
                target,
                sweeps,
                void,
                wanted,
                open,
            })
        };
        let mut read = read;
        read().ok_or("its ledger of the copy does not decode")
    }
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&u32::try_from(count).expect("a copy has fewer parts than u32").to_be_bytes());
}

fn put_key(out: &mut Vec<u8>, key: Option<&[String]>) {
    let Some(values) = key else { return out.push(u8::MAX) };
    out.push(u8::try_from(values.len()).expect("the server limits a key to 32 columns"));
    for value in values {
        put_count(out, value.len());
        out.extend_from_slice(value.as_bytes());
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*head)
}

fn number(rest: &mut &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(take(rest)?))
}

fn piece(rest: &mut &[u8]) -> Option<Piece> {
    Some(match take(rest)? {
        [0] => Piece::Blocks { relation: number(rest)?, file: number(rest)?, from: number(rest)?, to: number(rest)? },
        [1] => Piece::Keys { after: key(rest)?, upto: key(rest)? },
        [2] => Piece::Row { key: key(rest)?? },
        [3] => Piece::Whole,
        _ => return None,
    })
}

/// A key, which may be none.
#[expect(clippy::option_option, reason = "bytes that do not decode are not a key that is none")]
fn key(rest: &mut &[u8]) -> Option<Option<Key>> {
    let [count] = take(rest)?;
    if count == u8::MAX {
        return Some(None);
    }
    let mut values = Vec::new();
    for _ in 0..count {
        let len = usize::try_from(number(rest)?).ok()?;
        let (value, tail) = rest.split_at_checked(len)?;
        *rest = tail;
        values.push(std::str::from_utf8(value).ok()?.to_owned());
    }
    Some(Some(values))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pieces() -> impl Strategy<Value = Piece> {
        let blocks =
            any::<[u32; 4]>().prop_map(|[relation, file, from, to]| Piece::Blocks { relation, file, from, to });
        let key = || proptest::option::of(proptest::collection::vec(".{0,5}", 1..3));
        let row = proptest::collection::vec(".{0,5}", 1..3).prop_map(|key| Piece::Row { key });
        let keys = (key(), key()).prop_map(|(after, upto)| Piece::Keys { after, upto });
        prop_oneof![blocks, keys, row, Just(Piece::Whole)]
    }

    proptest! {
        #[test]
        fn ledgers_read_back_and_cut_ones_are_refused(
            flags: [bool; 3], target: u64, sweeps in proptest::collection::btree_set(any::<u32>(), 0..3),
            void in proptest::collection::btree_set(any::<u32>(), 0..3), wanted in proptest::collection::btree_set(0_u32..50, 0..4),
            open in proptest::collection::btree_map(50_u32.., proptest::collection::vec(pieces(), 1..3), 0..3),
        ) {
            let [anew, is_beside, is_reading] = flags;
            let ledger = Ledger { anew, is_beside, is_reading, target: Lsn(target), sweeps, void, wanted, open };
            let encoded = ledger.encode();
            prop_assert_eq!(Ledger::decode(&encoded), Ok(ledger));
            for len in 0..encoded.len() {
                prop_assert!(Ledger::decode(&encoded[..len]).is_err());
            }
        }

        #[test]
        fn however_many_rows_are_read_again_a_position_has_room_for_them(keys in proptest::collection::vec(".{0,200}", 0..400)) {
            let mut ledger = Ledger::default();
            for (table, key) in (0..3).cycle().zip(keys) {
                ledger.read_also(table, Some(vec![key]));
            }
            prop_assert!(ledger.encode().len() < 16 * 1024);
        }

        #[test]
        fn every_block_is_read_once_whoever_takes_it(to in 0_u32..40_000, order in proptest::collection::vec(any::<u8>(), 64)) {
            let whole = Piece::Blocks { relation: 1, file: 2, from: 0, to };
            let mut ledger = Ledger::default();
            ledger.begin(7, if to == 0 { Vec::new() } else { vec![whole] });
            let (mut busy, mut read) = (Vec::new(), Vec::new());
            for turn in order {
                if turn % 3 > 0 && let Some(piece) = ledger.next(7, &busy) {
                    busy.push((7, piece));
                } else if !busy.is_empty() {
                    let (_, piece) = busy.swap_remove(usize::from(turn) % busy.len());
                    ledger.finish(7, &piece, None);
                    read.push(piece);
                }
            }
            while let Some(piece) = busy.pop().map(|(_, piece)| piece).or_else(|| ledger.next(7, &[])) {
                ledger.finish(7, &piece, None);
                read.push(piece);
            }
            prop_assert!(ledger.is_read());
            let mut blocks: Vec<_> = read.iter().map(|piece| match piece {
                Piece::Blocks { from, to, .. } => (*from, *to),
                Piece::Keys { .. } | Piece::Row { .. } | Piece::Whole => unreachable!("of blocks only blocks are cut"),
            }).collect();
            blocks.sort_unstable();
            let mut end = 0;
            for (from, upto) in blocks {
                prop_assert_eq!(from, end);
                prop_assert!(upto - from <= BLOCKS);
                end = upto;
            }
            prop_assert_eq!(end, to);
        }
    }
}
