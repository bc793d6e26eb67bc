//! Where the server's log ends, as a stream reaches it.

use super::lsn::Lsn;
use super::wire::Row;

/// What to select for [`log_end`]. Not where the log is flushed: what a transaction with `synchronous_commit = off` did can be
/// seen before.
pub(crate) const LOG_END: &str = "pg_catalog.pg_current_wal_insert_lsn(), pg_catalog.current_setting('wal_block_size'), \
     pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size'))";

/// The end of the log, from a row that begins with [`LOG_END`].
pub(crate) fn log_end(row: &Row) -> Option<Lsn> {
    Some(reached(row.parsed(0)?, row.parsed(1)?, row.parsed(2)?))
}

/// A position as a stream reaches it: one right behind the header of an empty page is that page's begin.
///
/// `pg_current_wal_insert_lsn` gives where the next record will begin (`XLogBytePosToRecPtr` in `xlog.c`), and what is sent
/// ends where the last one did. Headers have 24 bytes, the first of a segment 40.
fn reached(lsn: Lsn, page: u64, segment: u64) -> Lsn {
    const SHORT: u64 = 24;
    const LONG: u64 = 40;
    match lsn.0 {
        at if segment > 0 && at % segment == LONG => Lsn(at - LONG),
        at if page > 0 && at % page == SHORT => Lsn(at - SHORT),
        _ => lsn,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_page_is_not_waited_for() {
        let (page, segment) = (8192, 16 << 20);
        assert_eq!(reached(Lsn(3 * page + 24), page, segment), Lsn(3 * page));
        assert_eq!(reached(Lsn(2 * segment + 40), page, segment), Lsn(2 * segment));
        assert_eq!(reached(Lsn(3 * page + 40), page, segment), Lsn(3 * page + 40), "a record may end there");
        assert_eq!(reached(Lsn(3 * page + 100), page, segment), Lsn(3 * page + 100));
    }
}
