//! How far a PostgreSQL source has been read, as bytes in a frame.
//!
//! ```text
//! version u8 = 3 | parts u8 | system id u64 | timeline u32 | end LSN u64 | slot length u8, slot | mark length u16, mark
//! part 1  cut: of the next transaction (xid u32, final LSN u64) the first `changes u64` are in the log
//! part 2  copy: the tables are not whole yet; its ledger, length u32, says what is still to be read
//! ```
//! Big-endian. Every transaction that ends at or before the end LSN is in the log, none after it, but for the cut one. The
//! slot's name is there because an LSN only means "what is missing" together with its slot, and the
//! [`Mark`](super::mark::Mark) because that holds only for what was published all the time.

use std::sync::Arc;

use syncline_schemas::ident::Position;

use super::copy::Ledger;
use super::lsn::Lsn;

const VERSION: u8 = 3;
const CUT: u8 = 1;
const COPY: u8 = 2;

/// The part of a large transaction that is in the log already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    /// The transaction's number.
    pub(crate) xid: u32,
    /// Where its commit record starts.
    pub(crate) final_lsn: Lsn,
    /// How many of its change messages are in the log, of all tables that the stream holds.
    pub(crate) changes: u64,
}

impl Cut {
    /// True where nothing of it needs to come again, and the server is behind it: only messages were in it, and whoever does not ask for
    /// them is not told of it.
    pub(crate) fn is_empty_before(&self, lsn: Lsn) -> bool {
        self.changes == 0 && self.final_lsn < lsn
    }
}

/// A decoded position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PgPosition {
    /// Identifies the database cluster.
    pub(crate) system_id: u64,
    /// The timeline that was read.
    pub(crate) timeline: u32,
    /// The slot that was read.
    pub(crate) slot: String,
    /// What was read of it, as the mark's own bytes.
    pub(crate) mark: Arc<[u8]>,
    /// End of the last whole transaction.
    pub(crate) end: Lsn,
    /// The transaction that was too large for one frame.
    pub(crate) cut: Option<Cut>,
    /// The copy of the tables, where it is not finished.
    pub(crate) copy: Option<Ledger>,
}

impl PgPosition {
    /// Behind the last commit of which the log tells something.
    pub(crate) fn told(&self) -> Lsn {
        self.cut.map_or(self.end, |cut| self.end.max(Lsn(cut.final_lsn.0 + 1)))
    }
}

/// The position of a source whose tables are to be copied again, after what there is of them was taken back.
///
/// # Errors
/// What is wrong with the position.
pub fn begin_again(position: &Position) -> Result<Position, String> {
    let held = PgPosition::decode(position)?;
    Ok(PgPosition { cut: None, copy: Some(Ledger::anew()), ..held }.encode())
}

/// Where in the server's log a position is: the end of the last whole transaction; none of a position of another kind of source.
#[must_use]
pub fn end_of(position: &Position) -> Option<Lsn> {
    PgPosition::decode(position).ok().map(|position| position.end)
}

impl PgPosition {
    /// True where it lies between transactions and the tables are whole.
    pub(crate) fn is_whole(&self) -> bool {
        self.cut.is_none() && self.copy.as_ref().is_none_or(|ledger| ledger.is_whole_at(self.end))
    }

    pub(crate) fn encode(&self) -> Position {
        let part = |part: u8, is_there: bool| if is_there { part } else { 0 };
        let mut out = vec![VERSION, part(CUT, self.cut.is_some()) | part(COPY, self.copy.is_some())];
        out.extend_from_slice(&self.system_id.to_be_bytes());
        out.extend_from_slice(&self.timeline.to_be_bytes());
        out.extend_from_slice(&self.end.0.to_be_bytes());
        out.push(u8::try_from(self.slot.len()).expect("the server limits slot names to 63 bytes"));
        out.extend_from_slice(self.slot.as_bytes());
        out.extend_from_slice(&u16::try_from(self.mark.len()).expect("a mark is limited").to_be_bytes());
        out.extend_from_slice(&self.mark);
        if let Some(cut) = self.cut {
            out.extend_from_slice(&cut.xid.to_be_bytes());
            out.extend_from_slice(&cut.final_lsn.0.to_be_bytes());
            out.extend_from_slice(&cut.changes.to_be_bytes());
        }
        if let Some(ledger) = self.copy.as_ref().map(Ledger::encode) {
            out.extend_from_slice(&u32::try_from(ledger.len()).expect("a ledger is limited").to_be_bytes());
            out.extend_from_slice(&ledger);
        }
        Position::new(out)
    }

    /// Reads what [`PgPosition::encode`] wrote; the error says what is wrong.
    pub(crate) fn decode(position: &Position) -> Result<Self, String> {
        let mut rest = position.as_bytes();
        let [version, parts] = take(&mut rest)?;
        if version != VERSION {
            return Err(format!("its format {version} is not {VERSION}, the one of this version"));
        }
        let system_id = u64::from_be_bytes(take(&mut rest)?);
        let timeline = u32::from_be_bytes(take(&mut rest)?);
        let end = Lsn(u64::from_be_bytes(take(&mut rest)?));
        let [slot_len] = take(&mut rest)?;
        let (slot, tail) = rest.split_at_checked(usize::from(slot_len)).ok_or("it is cut short")?;
        let slot = std::str::from_utf8(slot).map_err(|_| "its slot name is not UTF-8")?.to_owned();
        rest = tail;
        let mark_len = u16::from_be_bytes(take(&mut rest)?);
        let (mark, tail) = rest.split_at_checked(usize::from(mark_len)).ok_or("it is cut short")?;
        let mark = Arc::from(mark);
        rest = tail;
        if parts & !(CUT | COPY) != 0 {
            return Err(format!("its parts {parts} are not known"));
        }
        let mut cut = None;
        if parts & CUT != 0 {
            cut = Some(Cut {
                xid: u32::from_be_bytes(take(&mut rest)?),
                final_lsn: Lsn(u64::from_be_bytes(take(&mut rest)?)),
                changes: u64::from_be_bytes(take(&mut rest)?),
            });
        }
        let mut copy = None;
        if parts & COPY != 0 {
            let len = usize::try_from(u32::from_be_bytes(take(&mut rest)?)).unwrap_or(usize::MAX);
            let (ledger, tail) = rest.split_at_checked(len).ok_or("it is cut short")?;
            copy = Some(Ledger::decode(ledger)?);
            rest = tail;
        }
        if !rest.is_empty() {
            return Err("bytes are left over".to_owned());
        }
        Ok(Self { system_id, timeline, slot, mark, end, cut, copy })
    }
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

    proptest! {
        #[test]
        fn positions_read_back_and_cut_ones_are_refused(
            numbers in any::<(u64, u32, u64, u32, u64, u64)>(), slot in "[a-z0-9_]{1,63}", kind in 0..4,
            mark in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let cut = (kind & 1 != 0).then_some(Cut { xid: numbers.3, final_lsn: Lsn(numbers.4), changes: numbers.5 });
            let copy = (kind & 2 != 0).then(Ledger::anew);
            let (system_id, timeline, end) = (numbers.0, numbers.1, Lsn(numbers.2));
            let position = PgPosition { system_id, timeline, slot, mark: Arc::from(mark), end, cut, copy };
            let encoded = position.encode();
            prop_assert_eq!(PgPosition::decode(&encoded), Ok(position));
            for len in 0..encoded.as_bytes().len() {
                prop_assert!(PgPosition::decode(&Position::new(encoded.as_bytes()[..len].to_vec())).is_err());
            }
        }
    }
}
