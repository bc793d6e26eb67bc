//! What a change does to a table: its rows, old and new, into the table's builder.
//!
//! Of a table with a key an update is one row, unless its key changes: then it is one that leaves and one that comes. Of a table
//! without a key it is a delete and an insert, and only changes that count are taken (`counted`).

use syncline_schemas::frame::Op;

use super::Decoder;
use crate::postgres::config::Truncates;
use crate::postgres::decode::counted::Verdict;
use crate::postgres::decode::fault::RowFault;
use crate::postgres::decode::key_text::key_text;
use crate::postgres::decode::message::{Cell, Cursor};
use crate::postgres::decode::table::{RowView, Stamp};

impl Decoder {
    fn table(&self, relation: u32) -> Result<Option<usize>, RowFault> {
        self.relations.get(&relation).copied().ok_or(RowFault::UnknownRelation(relation))
    }

    /// The table of a change of a row that counts.
    fn table_of_row(&mut self, relation: u32) -> Result<Option<usize>, RowFault> {
        let Some(table) = self.table(relation)? else { return Ok(None) };
        let shape = self.tables[table].shape();
        if !shape.keys.is_empty() {
            return Ok(Some(table));
        }
        let xid = self.transaction.as_ref().map_or(0, |open| open.xid);
        match self.counted.judge(relation, xid, Some(shape.schema.version)) {
            Verdict::Counts => Ok(Some(table)),
            Verdict::PassedOver => Ok(None),
            Verdict::Outdated => Err(RowFault::Outdated(relation)),
        }
    }

    pub(super) fn insert(&mut self, relation: u32, tuples: &[u8], stamp: Stamp) -> Result<(), RowFault> {
        let Some(table) = self.table_of_row(relation)? else { return Ok(()) };
        let mut cursor = Cursor::new(tuples);
        if cursor.u8()? != b'N' {
            return Err(RowFault::Malformed("an insert has no new row"));
        }
        cursor.tuple(&mut self.new)?;
        ensure_end(&cursor)?;
        self.append(table, Op::Insert, stamp, tuples, Use::New)
    }

    pub(super) fn update(&mut self, relation: u32, tuples: &[u8], stamp: Stamp) -> Result<(), RowFault> {
        let Some(table) = self.table_of_row(relation)? else { return Ok(()) };
        let mut cursor = Cursor::new(tuples);
        let tag = cursor.u8()?;
        let old = match tag {
            b'N' => false,
            b'K' | b'O' => {
                cursor.tuple(&mut self.old)?;
                if cursor.u8()? != b'N' {
                    return Err(RowFault::Malformed("an update has no new row"));
                }
                true
            }
            _ => return Err(RowFault::Malformed("an update has an unknown part")),
        };
        cursor.tuple(&mut self.new)?;
        ensure_end(&cursor)?;
        if self.tables[table].shape().keys.is_empty() {
            self.ensure_whole(tag, tuples)?;
            self.append(table, Op::Delete, stamp, tuples, Use::Old)?;
            return self.append(table, Op::Insert, Stamp { ord: stamp.ord + 1, ..stamp }, tuples, Use::NewOverOld);
        }
        if !old {
            return self.append(table, Op::Update, stamp, tuples, Use::New);
        }
        if !self.key_changed(table, tuples) {
            return self.append(table, Op::Update, stamp, tuples, Use::NewOverOld);
        }
        self.note_move(relation, table, tuples);
        self.append(table, Op::MoveOut, stamp, tuples, Use::Old)?;
        self.append(table, Op::MoveIn, Stamp { ord: stamp.ord + 1, ..stamp }, tuples, Use::NewOverOld)
    }

    /// A row of a table without a key is known by all that it says.
    fn ensure_whole(&self, tag: u8, bytes: &[u8]) -> Result<(), RowFault> {
        let old = RowView { cells: &self.old, bytes };
        let is_there = |column: usize| self.new.get(column) != Some(&Cell::Unchanged) || old.value(column).is_some();
        if tag == b'O' && !self.old.contains(&Cell::Unchanged) && (0..self.new.len()).all(is_there) {
            return Ok(());
        }
        Err(RowFault::Malformed("a change of a table without a key does not bring the old row along"))
    }

    fn note_move(&mut self, relation: u32, table: usize, bytes: &[u8]) {
        let (old, new) = (RowView { cells: &self.old, bytes }, RowView { cells: &self.new, bytes });
        let lacks = |column: usize| new.cells[column] == Cell::Unchanged && old.value(column).is_none();
        if self.told.is_some() && (0..new.cells.len()).any(lacks) {
            self.moved.push((relation, key_text(self.tables[table].shape(), [new, old])));
        }
    }

    pub(super) fn delete(&mut self, relation: u32, tuples: &[u8], stamp: Stamp) -> Result<(), RowFault> {
        let Some(table) = self.table_of_row(relation)? else { return Ok(()) };
        let mut cursor = Cursor::new(tuples);
        let tag = cursor.u8()?;
        if !matches!(tag, b'K' | b'O') {
            return Err(RowFault::Malformed("a delete has no old row"));
        }
        cursor.tuple(&mut self.old)?;
        ensure_end(&cursor)?;
        if self.tables[table].shape().keys.is_empty() {
            self.new.clear();
            self.ensure_whole(tag, tuples)?;
        }
        self.append(table, Op::Delete, stamp, tuples, Use::Old)
    }

    pub(super) fn truncate(&mut self, relation: u32, stamp: Stamp) -> Result<(), RowFault> {
        let Some(table) = self.table(relation)? else { return Ok(()) };
        if self.truncates == Truncates::Stop {
            return Err(RowFault::Truncated { table });
        }
        let xid = self.transaction.as_ref().map_or(0, |open| open.xid);
        let is_multiset = self.tables[table].shape().keys.is_empty();
        if is_multiset && self.counted.judge(relation, xid, None) == Verdict::PassedOver {
            return Ok(());
        }
        self.tables[table].append_whole(Op::Truncate, Stamp { ord: self.rows, ..stamp });
        self.counts.add(Op::Truncate);
        self.rows += 1;
        Ok(())
    }

    /// Compares the key columns of the old and the new row; an unchanged TOAST value is the same.
    fn key_changed(&self, table: usize, bytes: &[u8]) -> bool {
        let (old, new) = (RowView { cells: &self.old, bytes }, RowView { cells: &self.new, bytes });
        self.tables[table]
            .shape()
            .keys
            .iter()
            .any(|&key| new.cells.get(key) != Some(&Cell::Unchanged) && old.value(key) != new.value(key))
    }

    #[inline]
    fn append(&mut self, table: usize, op: Op, stamp: Stamp, bytes: &[u8], rows: Use) -> Result<(), RowFault> {
        let (old, new) = (RowView { cells: &self.old, bytes }, RowView { cells: &self.new, bytes });
        let (row, under) = match rows {
            Use::New => (new, None),
            Use::NewOverOld => (new, Some(old)),
            Use::Old => (old, None),
        };
        self.tables[table].append(op, stamp, row, under).map_err(|fault| RowFault::Row { table, fault })?;
        self.bytes += self.tables[table].take_swollen();
        self.counts.add(op);
        self.rows += 1;
        Ok(())
    }
}

/// Which of the two rows of a message is appended.
#[derive(Clone, Copy)]
enum Use {
    New,
    /// The new row, with values that the log left out taken from the old one.
    NewOverOld,
    Old,
}

fn ensure_end(cursor: &Cursor<'_>) -> Result<(), RowFault> {
    if cursor.is_at_end() { Ok(()) } else { Err(RowFault::Malformed("a change has bytes left over")) }
}
