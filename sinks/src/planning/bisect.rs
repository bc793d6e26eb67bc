//! The search for rows that make a target refuse the whole batch they are in, without a word on which.
//!
//! Rows are tried in order, so that keys keep theirs. Of a refused batch the first half comes next; where that is taken, the
//! other half is known to hold a bad row and is not tried whole again. One bad row among n costs some log2 n requests.

/// How the rows from the next one on stand.
#[derive(Debug)]
pub(super) struct Bisect {
    /// So many of them are known to hold a bad one; none where nothing is known.
    bad: usize,
    /// Rows found bad since a batch was taken, also in earlier runs of rows.
    in_a_row: usize,
    /// What the flow had taken when they began, and the last of them.
    since: u64,
    last: u64,
}

impl Bisect {
    pub(super) const fn new() -> Self {
        Self { bad: 0, in_a_row: 0, since: 0, last: 0 }
    }

    /// Another run of rows begins, of which nothing is known.
    pub(super) const fn begin(&mut self) {
        self.bad = 0;
    }

    /// How many rows to try at most.
    pub(super) const fn most(&self) -> usize {
        match self.bad {
            0 => usize::MAX,
            1 => 1,
            bad => bad / 2,
        }
    }

    /// So many rows were refused together; true where that is one alone, which is then passed over.
    pub(super) const fn refused(&mut self, count: usize) -> bool {
        self.bad = if count == 1 { 0 } else { count };
        count == 1
    }

    /// A row was found bad; `taken` is what the target has taken of the flow, in any lane. One row in many versions is one.
    pub(super) const fn found(&mut self, key: u64, taken: u64) {
        if self.since != taken {
            (self.since, self.in_a_row, self.last) = (taken, 0, 0);
        }
        if self.in_a_row == 0 || self.last != key {
            self.in_a_row += 1;
        }
        self.last = key;
    }

    /// So many rows were taken.
    pub(super) const fn taken(&mut self, count: usize) {
        self.bad = self.bad.saturating_sub(count);
    }

    /// Different rows found bad one after the other, with nothing of the flow taken in between.
    pub(super) const fn in_a_row(&self) -> usize {
        self.in_a_row
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Sends rows in batches to a target that refuses what holds a bad one; gives the requests and what was passed over.
    fn search(rows: usize, batch: usize, bad: &BTreeSet<usize>) -> (usize, BTreeSet<usize>) {
        let (mut at, mut requests, mut found, mut bisect) = (0, 0, BTreeSet::new(), Bisect::new());
        while at < rows {
            let count = bisect.most().min(batch).min(rows - at);
            requests += 1;
            if bad.range(at..at + count).next().is_none() {
                bisect.taken(count);
            } else if bisect.refused(count) {
                found.insert(at);
            } else {
                continue;
            }
            at += count;
        }
        (requests, found)
    }

    #[test]
    fn a_hot_row_and_a_flow_that_goes_on_elsewhere_are_no_fault_of_all() {
        let mut bisect = Bisect::new();
        (0..50).for_each(|_| bisect.found(7, 0));
        assert_eq!(bisect.in_a_row(), 1);
        (0..5).for_each(|key| bisect.found(key, 0));
        assert_eq!(bisect.in_a_row(), 6);
        bisect.found(9, 1);
        assert_eq!(bisect.in_a_row(), 1, "another lane was let through");
    }

    proptest! {
        #[test]
        fn every_bad_row_is_found_and_no_other_is_passed_over(
            rows in 1_usize..3_000, batch in 1_usize..600, bad in prop::collection::btree_set(0_usize..3_000, 0..9)
        ) {
            let bad: BTreeSet<usize> = bad.into_iter().filter(|row| *row < rows).collect();
            let (requests, found) = search(rows, batch, &bad);
            prop_assert_eq!(&found, &bad);
            let log2 = batch.next_power_of_two().trailing_zeros() as usize;
            prop_assert!(requests <= rows.div_ceil(batch) + bad.len() * (2 * log2 + 2), "{} requests", requests);
        }
    }
}
