//! What the server is told, and what it is not.

use std::sync::Arc;

use syncline_capture::postgres::Lsn;

use crate::log::{MemoryLog, Reader};
use crate::server::{Server, eventually};

#[test]
fn nothing_is_confirmed_before_it_is_durable() {
    let database = Server::shared().database("CREATE TABLE t (id int PRIMARY KEY)");
    let log = Arc::new(MemoryLog::default());
    let reader = Reader::start(&database.config, &log);
    database.sql("INSERT INTO t VALUES (1)");
    log.wait_for_rows(1);
    let after_first: Lsn = database.sql("SELECT pg_current_wal_insert_lsn()").parse().unwrap();
    eventually("the first row's confirmation", || database.confirmed() >= after_first);
    log.hold(true);
    let limit: Lsn = database.sql("SELECT pg_current_wal_insert_lsn()").parse().unwrap();
    database.sql("INSERT INTO t VALUES (2)");
    log.wait_for_rows(2);
    // Two status updates after the row was handed over, it is still not confirmed.
    let reply = || {
        database.sql("SELECT reply_time FROM pg_stat_replication WHERE pid = (SELECT active_pid FROM pg_replication_slots WHERE database = current_database())")
    };
    for _ in 0..2 {
        let before = reply();
        eventually("a status update", || reply() != before);
    }
    assert!(database.confirmed() <= limit, "{} > {limit}", database.confirmed());
    log.hold(false);
    eventually("the second row's confirmation", || database.confirmed() > limit);
    reader.stop();
}

#[test]
fn an_idle_source_does_not_keep_the_servers_log() {
    let database =
        Server::shared().database("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE busy (id int PRIMARY KEY)");
    let mut config = database.config.clone();
    config.tables = syncline_capture::postgres::TablePatterns::parse(&["public.t"]).unwrap();
    let log = Arc::new(MemoryLog::default());
    let reader = Reader::start(&config, &log);
    log.wait_for_copy();
    database.sql("INSERT INTO busy SELECT generate_series(1, 10000)");
    let end: Lsn = database.sql("SELECT pg_current_wal_lsn()").parse().unwrap();
    eventually("the slot to move without traffic on its table", || database.confirmed() >= end);
    reader.stop();
    assert_eq!(log.row_count(), 0);
    assert!(log.frames().len() < 60, "at most one position a second: {}", log.frames().len());
}

#[test]
fn a_stop_confirms_everything_that_was_read() {
    let database = Server::shared().database("CREATE TABLE t (id int PRIMARY KEY)");
    let log = Arc::new(MemoryLog::default());
    let reader = Reader::start(&database.config, &log);
    log.wait_for_copy();
    database.sql("INSERT INTO t VALUES (1)");
    log.wait_for_rows(1);
    let progress = Arc::clone(&reader.progress);
    reader.stop();
    let received = Lsn(progress.received_lsn.load(std::sync::atomic::Ordering::Relaxed));
    assert_eq!(database.confirmed(), received);
    assert_eq!(progress.inserts.load(std::sync::atomic::Ordering::Relaxed), 1);
}
