//! When reading may begin: once every transaction that the stream has told of can be seen.
//!
//! A commit is in the server's log, and may be streamed, a moment before other sessions see it, and as long before as a
//! synchronous standby takes to answer (`RecordTransactionCommit`, `SyncRepWaitForLSN`, then `ProcArrayEndTransaction`). A read
//! in between would bring back what it deleted. Of those that an earlier session told of nothing is known, nor of what a
//! transaction did before its table was published: so the first read waits for all that were open when the session began.
//!
//! A snapshot ends (`xmax`) behind the last transaction that is complete, not behind the last that began: from there on all are
//! open for it, and it lists none. Which of them have begun only their locks say.

use super::super::wire::Row;

/// Which transactions a read sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// All from here on are open for it.
    next: u64,
    open: Vec<u64>,
}

impl Snapshot {
    /// Asks for the one of the statement, or of its transaction where that has one.
    pub(crate) const SQL: &str = "SELECT pg_catalog.pg_snapshot_xmax(s), \
         array_to_string(ARRAY(SELECT pg_catalog.pg_snapshot_xip(s)), ' ') FROM pg_catalog.pg_current_snapshot() AS s";

    /// From a row that begins as [`Self::SQL`] has it.
    pub(crate) fn of(row: &Row) -> Option<Self> {
        Self::read(row, 0)
    }

    fn read(row: &Row, first: usize) -> Option<Self> {
        let open = row.text(first + 1).split_whitespace().map(|xid| xid.parse().ok()).collect::<Option<_>>()?;
        Some(Self { next: row.parsed(first)?, open })
    }

    /// Whether it sees what a transaction did, of which the stream says the number.
    pub(crate) fn sees(&self, xid: u32) -> bool {
        let xid = with_epoch(xid, self.next);
        xid < self.next && !self.open.contains(&xid)
    }
}

/// What a session's reads wait for.
#[derive(Default)]
pub(crate) struct Gate {
    /// The first transaction that had not begun when the session did.
    first: Option<u64>,
}

impl Gate {
    /// Asks for what a read would see.
    pub(crate) const fn sql(&self) -> &'static str {
        const SNAPSHOT: &str = "SELECT pg_catalog.pg_snapshot_xmin(s), pg_catalog.pg_snapshot_xmax(s), \
             array_to_string(ARRAY(SELECT pg_catalog.pg_snapshot_xip(s)), ' '), '' FROM pg_catalog.pg_current_snapshot() AS s";
        const WITH_LOCKS: &str = "SELECT pg_catalog.pg_snapshot_xmin(s), pg_catalog.pg_snapshot_xmax(s), \
             array_to_string(ARRAY(SELECT pg_catalog.pg_snapshot_xip(s)), ' '), \
             array_to_string(ARRAY(SELECT transactionid FROM pg_catalog.pg_locks \
             WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock' AND granted), ' ') \
             FROM pg_catalog.pg_current_snapshot() AS s";
        if self.first.is_some() { SNAPSHOT } else { WITH_LOCKS }
    }

    /// Whether a read sees all that was told of, of which what it sees is forgotten; `row` answers [`Self::sql`]. None where it does
    /// not read.
    pub(crate) fn opens(&mut self, row: &Row, told: &mut Vec<u32>) -> Option<bool> {
        let (oldest, snapshot): (u64, Snapshot) = (row.parsed(0)?, Snapshot::read(row, 1)?);
        let next = snapshot.next;
        let locked = row.text(3).split_whitespace().map(|xid| xid.parse().ok()).collect::<Option<Vec<u32>>>()?;
        let last = locked.into_iter().map(|xid| with_epoch(xid, next)).max();
        let first = *self.first.get_or_insert(last.map_or(next, |last| next.max(last + 1)));
        told.retain(|xid| !snapshot.sees(*xid));
        Some(oldest >= first && told.is_empty())
    }
}

/// A transaction's number with its epoch, which the stream and locks do not say: the nearest to one that has it.
pub(crate) fn with_epoch(xid: u32, near: u64) -> u64 {
    let base = near & !u64::from(u32::MAX) | u64::from(xid);
    const HALF: u64 = 1 << 31;
    const EPOCH: u64 = 1 << 32;
    match base {
        ahead if ahead > near + HALF => ahead.saturating_sub(EPOCH),
        behind if behind + HALF < near => behind + EPOCH,
        _ => base,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(columns: [&str; 4]) -> Row {
        Row(columns.into_iter().map(|column| Some(column.to_owned())).collect())
    }

    #[test]
    fn a_commit_behind_the_end_of_the_snapshot_is_waited_for() {
        let mut gate = Gate::default();
        assert!(gate.sql().contains("pg_locks"));
        // Number 727 has begun, and nothing is complete that began later.
        assert_eq!(gate.opens(&row(["727", "727", "", "727"]), &mut vec![]), Some(false));
        assert!(!gate.sql().contains("pg_locks"));
        assert_eq!(gate.opens(&row(["727", "727", "", ""]), &mut vec![]), Some(false));
        assert_eq!(gate.opens(&row(["727", "730", "727", ""]), &mut vec![]), Some(false));
        assert_eq!(gate.opens(&row(["728", "730", "728", ""]), &mut vec![]), Some(true));
        assert_eq!(gate.opens(&row(["728", "730", "728", ""]), &mut vec![727, 729]), Some(true));
        assert_eq!(gate.opens(&row(["728", "730", "728", ""]), &mut vec![728]), Some(false));
        assert_eq!(gate.opens(&row(["730", "730", "", ""]), &mut vec![730]), Some(false));
    }

    #[test]
    fn numbers_that_have_begun_anew_are_told_apart() {
        let epoch = 1 << 32;
        assert_eq!(with_epoch(5, epoch - 3), epoch + 5);
        assert_eq!(with_epoch(u32::MAX, epoch + 3), epoch - 1);
        assert_eq!(with_epoch(7, epoch + 3), epoch + 7);
        assert_eq!(with_epoch(7, 5), 7);
        let mut gate = Gate::default();
        let (next, behind) = ((epoch + 3).to_string(), (epoch - 1).to_string());
        assert_eq!(gate.opens(&row([&behind, &next, &behind, ""]), &mut vec![]), Some(false));
        assert_eq!(gate.opens(&row([&next, &next, "", ""]), &mut vec![u32::MAX, 2]), Some(true));
        assert_eq!(gate.opens(&row([&next, &next, "", ""]), &mut vec![3]), Some(false));
    }
}
