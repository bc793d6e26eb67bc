//! Tables without a key: which of their changes count.
//!
//! Equal rows are counted, so each change has to count once. What is void is read first; what a read has seen comes a second time
//! through the stream and is passed over; and rows of another shape cannot be compared with those that were counted.

use std::collections::HashMap;

use crate::postgres::copy::Snapshot;

/// What becomes of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Counts,
    /// The table is or will be read as it is behind the change.
    PassedOver,
    /// It came in another shape than the rows that were counted: from here on the table is void.
    Outdated,
}

/// How much of a table counts.
enum Table {
    Void,
    /// Rows of this shape, but for what a read has seen.
    Counted {
        version: u32,
        seen: Option<Snapshot>,
    },
}

/// The tables by the relation's number.
#[derive(Default)]
pub(crate) struct Counted(HashMap<u32, Table>);

impl Counted {
    /// Passes over changes of a table until it is read.
    pub(crate) fn make_void(&mut self, relation: u32) {
        self.0.insert(relation, Table::Void);
    }

    /// Counts changes of a table that was read in this shape, but for what a read has seen.
    pub(crate) fn count(&mut self, relation: u32, version: u32, seen: Option<Snapshot>) {
        self.0.insert(relation, Table::Counted { version, seen });
    }

    /// Judges a change by a transaction, in some shape; one that empties the table has none.
    pub(super) fn judge(&mut self, relation: u32, xid: u32, version: Option<u32>) -> Verdict {
        match self.0.get(&relation) {
            Some(Table::Void) => Verdict::PassedOver,
            Some(Table::Counted { seen: Some(seen), .. }) if seen.sees(xid) => Verdict::PassedOver,
            Some(Table::Counted { version: held, .. }) if version == Some(*held) => Verdict::Counts,
            _ if version.is_none() => Verdict::Counts,
            _ => {
                self.make_void(relation);
                Verdict::Outdated
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::wire::Row;

    #[test]
    fn a_change_counts_once_whether_it_was_read_or_told() {
        let mut counted = Counted::default();
        counted.make_void(7);
        assert_eq!(counted.judge(7, 5, Some(1)), Verdict::PassedOver, "nothing is read yet");
        // Number 5 is complete, 6 was open, 8 had not begun.
        let seen = Snapshot::of(&Row(vec![Some("8".to_owned()), Some("6".to_owned())]));
        counted.count(7, 1, seen);
        let judged = [5, 6, 7, 8].map(|xid| counted.judge(7, xid, Some(1)));
        assert_eq!(judged, [Verdict::PassedOver, Verdict::Counts, Verdict::PassedOver, Verdict::Counts]);
        assert_eq!(counted.judge(7, 5, Some(2)), Verdict::PassedOver, "it was read in whatever shape it had then");
        assert_eq!(counted.judge(7, 8, None), Verdict::Counts);
        assert_eq!(counted.judge(7, 8, Some(2)), Verdict::Outdated);
        assert_eq!(counted.judge(7, 8, Some(1)), Verdict::PassedOver, "void from there on");
        counted.count(7, 2, None);
        assert_eq!(counted.judge(7, 5, Some(2)), Verdict::Counts, "what was seen is behind the stream");
        assert_eq!(counted.judge(8, 5, Some(1)), Verdict::Outdated, "a table of which nothing was counted");
    }
}
