//! Transactions that the server streams before it knows how they end.

use std::sync::Arc;

use syncline_capture::Outcome;
use syncline_capture::postgres::DrainTo;
use syncline_schemas::frame::Frame;

use crate::log::{MemoryLog, Reader, following};
use crate::other::Other;
use crate::server::{Database, Server, eventually};

const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY, note text); CREATE TABLE other (id int PRIMARY KEY)";

/// Bytes of transactions in progress.
fn spooled(database: &Database) -> u64 {
    let folder = &database.config.spool.as_ref().unwrap().folder;
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
}

#[test]
fn what_a_transaction_in_progress_did_is_here_before_it_ends_and_seen_by_nobody() {
    let (database, log, reader) = following(TABLES);
    let mut first = Other::begin(&database);
    first.say("INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 30000) i;");
    eventually("it to be streamed", || spooled(&database) > 1 << 20);
    let mut second = Other::begin(&database);
    second.say("INSERT INTO t SELECT i, repeat('y', 100) FROM generate_series(100001, 105000) i;");
    database.sql("INSERT INTO other VALUES (1)");
    eventually("the other one", || log.row_count() == 1);
    second.end("COMMIT;");
    eventually("the second, which ended first", || log.row_count() == 5_001);
    first.say("UPDATE t SET note = 'changed' WHERE id <= 10;");
    first.end("COMMIT;");
    eventually("the first", || log.row_count() == 35_011);
    eventually("nothing to be left", || spooled(&database) == 0);
    reader.stop();
    assert_eq!(log.state().len(), 35_001);
    assert!(log.frames().last().unwrap().txn_end);
}

#[test]
fn what_was_rolled_back_is_never_told_and_leaves_no_file() {
    let (database, log, reader) = following(TABLES);
    let mut gone = Other::begin(&database);
    gone.say("INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 30000) i;");
    eventually("it to be streamed", || spooled(&database) > 1 << 20);
    gone.end("ROLLBACK;");
    let mut partly = Other::begin(&database);
    partly.say("INSERT INTO t SELECT i, repeat('a', 100) FROM generate_series(1, 5000) i; SAVEPOINT one;");
    partly.say(
        "UPDATE t SET note = 'void'; SAVEPOINT two; INSERT INTO t SELECT i, 'void' FROM generate_series(5001, 9000) i;",
    );
    partly.say(
        "RELEASE two; ROLLBACK TO one; INSERT INTO t SELECT i, repeat('b', 100) FROM generate_series(9001, 9100) i;",
    );
    partly.end("COMMIT;");
    eventually("what stayed", || log.row_count() == 5_100);
    database.sql("INSERT INTO other VALUES (1)");
    eventually("the last one", || log.row_count() == 5_101);
    eventually("nothing to be left", || spooled(&database) == 0);
    reader.stop();
    let notes: std::collections::BTreeSet<_> = log
        .state()
        .into_iter()
        .filter(|((table, _), _)| table == "public.t")
        .map(|(_, row)| row["note"].clone())
        .collect();
    assert_eq!(notes.len(), 2, "{notes:?}");
}

#[test]
fn a_table_that_only_a_part_which_is_void_describes_is_known_nevertheless() {
    let (database, log, reader) = following(TABLES);
    let mut partly = Other::begin(&database);
    partly.say("SAVEPOINT one; INSERT INTO t SELECT i, 'void' FROM generate_series(1, 3000) i;");
    eventually("it to be streamed", || spooled(&database) > 1 << 16);
    partly.say("ROLLBACK TO one; INSERT INTO t SELECT i, 'stays' FROM generate_series(3001, 3200) i;");
    partly.end("COMMIT;");
    eventually("what stayed", || log.row_count() == 200);
    reader.stop();
    assert!(log.rows().iter().all(|row| row.value_of("note") == Some("stays")));
}

#[test]
fn a_server_that_takes_back_what_it_never_sent_stops_nobody() {
    for is_streamed in [true, false] {
        let mut database = Server::shared().database(TABLES);
        if !is_streamed {
            database.config.spool = None;
        }
        let log = Arc::new(MemoryLog::default());
        let reader = Reader::start(&database.config, &log);
        log.wait_for_copy();
        reader.stop();
        // PostgreSQL 18 finds the whole rolled back when it comes to it, and calls its parts streamed from then on.
        database.sql("BEGIN; SAVEPOINT s; INSERT INTO other VALUES (2); RELEASE s; INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 3000) i; ROLLBACK");
        database.sql("INSERT INTO other VALUES (1)");
        let reader = Reader::start(&database.config, &log);
        eventually("what counts", || log.row_count() == 1);
        reader.stop();
    }
}

#[test]
fn more_in_progress_than_there_is_room_for_is_received_when_it_is_committed() {
    let mut database = Server::shared().database(TABLES);
    database.config.spool.as_mut().unwrap().max = 1 << 20;
    let log = Arc::new(MemoryLog::default());
    let reader = Reader::start(&database.config, &log);
    log.wait_for_copy();
    let mut large = Other::begin(&database);
    large.say("INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 30000) i;");
    eventually("that to be refused", || !database.config.spool.as_ref().unwrap().folder.exists());
    large.end("COMMIT;");
    eventually("all of it", || log.row_count() == 30_000);
    reader.stop();
}

#[test]
fn what_the_server_forgets_to_call_void_is_not_told() {
    let (database, log, reader) = following(TABLES);
    database.sql("ALTER TABLE t ALTER note SET STORAGE EXTERNAL");
    let mut partly = Other::begin(&database);
    // So much that it is spilled in the middle of a row before it is streamed.
    partly.say("SAVEPOINT one; INSERT INTO t SELECT i, repeat('x', 40000) FROM generate_series(1, 400) i;");
    partly.say("ROLLBACK TO one; INSERT INTO t VALUES (1, 'stays');");
    partly.end("COMMIT;");
    database.sql("INSERT INTO other VALUES (1)");
    eventually("what stayed", || log.rows().iter().any(|row| row.table == "public.other"));
    reader.stop();
    assert_eq!(log.row_count(), 2);
}

#[test]
fn what_was_begun_before_the_session_is_told_as_it_ended() {
    let mut database = Server::shared().database(TABLES);
    let log = Arc::new(MemoryLog::default());
    let reader = Reader::start(&database.config, &log);
    log.wait_for_copy();
    let mut partly = Other::begin(&database);
    partly.say("SAVEPOINT one; INSERT INTO t SELECT i, 'void' FROM generate_series(1, 6000) i;");
    eventually("it to be streamed", || spooled(&database) > 1 << 16);
    database.sql("INSERT INTO other VALUES (1)");
    eventually("the position to be behind its begin", || log.row_count() == 1);
    reader.stop();
    partly.say("SAVEPOINT two; INSERT INTO t SELECT i, 'void' FROM generate_series(6001, 12000) i; ROLLBACK TO one;");
    partly.say("INSERT INTO t SELECT i, 'stays' FROM generate_series(1, 40000) i;");
    partly.end("COMMIT;");
    database.config.drain_to = Some(DrainTo::CurrentEnd);
    for cuts in 1..=2 {
        log.fail_after_cuts(Some(cuts));
        Reader::start(&database.config, &log).end().unwrap_err();
        assert!(!log.resume().unwrap().txn_end, "it broke off in the middle");
    }
    log.fail_after_cuts(None);
    assert_eq!(Reader::start(&database.config, &log).end().unwrap(), Outcome::Drained);
    assert_eq!(log.row_count(), 40_001);
    assert!(log.rows().iter().all(|row| row.value_of("note") != Some("void")));
}

#[test]
fn a_shape_that_changes_within_a_transaction_in_progress_is_that_of_its_rows() {
    let (database, log, reader) = following(TABLES);
    let mut changes = Other::begin(&database);
    changes.say("INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 3000) i;");
    changes.say("ALTER TABLE t ADD COLUMN more int; INSERT INTO t SELECT i, repeat('x', 100), i FROM generate_series(3001, 6000) i;");
    changes.end("COMMIT;");
    database.sql("INSERT INTO t VALUES (9000, 'last', 1)");
    eventually("all", || log.row_count() == 6_001);
    reader.stop();
    let with = log.rows().iter().filter(|row| row.value_of("more").is_some()).count();
    assert_eq!(with, 3_001);
}

#[test]
fn a_transaction_that_is_replayed_when_we_are_killed_goes_on_exactly_there() {
    let mut database = Server::shared().database(TABLES);
    database.config.drain_to = Some(DrainTo::CurrentEnd);
    let log = Arc::new(MemoryLog::default());
    let drain = || Reader::start(&database.config, &log).end();
    assert_eq!(drain().unwrap(), Outcome::Drained);
    database.sql("BEGIN; INSERT INTO t SELECT i, repeat('x', 20) FROM generate_series(1, 60000) i; SAVEPOINT s; DELETE FROM t; ROLLBACK TO s; UPDATE t SET note = 'y' WHERE id <= 20000; COMMIT");
    for cuts in 1..=3 {
        log.fail_after_cuts(Some(cuts));
        drain().unwrap_err();
        assert!(!log.resume().unwrap().txn_end, "it broke off in the middle");
    }
    log.fail_after_cuts(None);
    assert_eq!(drain().unwrap(), Outcome::Drained);
    assert_eq!(log.row_count(), 80_000);
    assert_eq!(log.state().len(), 60_000);
    let frames: Vec<Frame> = log.frames().split_off(1);
    assert!(frames.iter().filter(|frame| frame.row_count() > 0).count() > 3, "it took several frames");
}

#[test]
fn an_older_reader_that_broke_off_within_a_transaction_is_gone_on_with() {
    let mut database = Server::shared().database(TABLES);
    database.config.drain_to = Some(DrainTo::CurrentEnd);
    let log = Arc::new(MemoryLog::default());
    let mut whole = database.config.clone();
    whole.spool = None;
    Reader::start(&whole, &log).end().unwrap();
    database.sql("INSERT INTO t SELECT i, repeat('x', 20) FROM generate_series(1, 100000) i");
    for (cuts, config) in (1..).zip([&whole, &database.config, &whole, &database.config]) {
        log.fail_after_cuts(Some(cuts));
        Reader::start(config, &log).end().unwrap_err();
        assert!(!log.resume().unwrap().txn_end, "it broke off in the middle");
    }
    log.fail_after_cuts(None);
    Reader::start(&database.config, &log).end().unwrap();
    assert_eq!(log.state().len(), 100_000);
    assert_eq!(log.row_count(), 100_000);
}
