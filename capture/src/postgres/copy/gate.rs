//! When reading may begin: once every transaction that the stream has told of can be seen.
//!
//! A commit is in the server's log, and may be streamed, a moment before other sessions see it, and as long before as a
//! synchronous standby takes to answer (`RecordTransactionCommit`, `SyncRepWaitForLSN`, then `ProcArrayEndTransaction`). A read
//! in between would bring back what it deleted. Of those that an earlier session told of nothing is known, nor of what a
//! transaction did before its table was published: so the first read waits for all that were open when the session began.

use super::super::wire::Row;

/// Asks for what a read would see.
pub(crate) const SNAPSHOT: &str = "SELECT pg_catalog.pg_snapshot_xmin(s), pg_catalog.pg_snapshot_xmax(s), \
     array_to_string(ARRAY(SELECT pg_catalog.pg_snapshot_xip(s)), ' ') FROM pg_catalog.pg_current_snapshot() AS s";

/// What a session's reads wait for.
#[derive(Default)]
pub(crate) struct Gate {
    /// The first transaction that had not begun when the session did.
    first: Option<u64>,
}

impl Gate {
    /// Whether a read sees all that was told of; `row` answers [`SNAPSHOT`]. None where it does not read.
    pub(crate) fn opens(&mut self, row: &Row, told: &[u32]) -> Option<bool> {
        let (oldest, next): (u64, u64) = (row.parsed(0)?, row.parsed(1)?);
        let first = *self.first.get_or_insert(next);
        let open = row.text(2).split_whitespace().map(|xid| xid.parse::<u64>().ok()).collect::<Option<Vec<_>>>()?;
        // The stream says no epoch.
        let is_told = |xid: &u64| told.iter().any(|told| u64::from(*told) == xid & u64::from(u32::MAX));
        Some(oldest >= first && !open.iter().any(is_told))
    }
}
