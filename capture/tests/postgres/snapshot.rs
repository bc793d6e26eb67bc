//! The copy and its seam to the stream.

use std::sync::Arc;

use syncline_capture::postgres::{DrainTo, SnapshotMode};
use syncline_capture::{CaptureError, Outcome};
use syncline_schemas::frame::Op;

use crate::log::{MemoryLog, Reader};
use crate::server::{Database, Server};

const TABLES: &str = "CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (id int PRIMARY KEY, v text);
    CREATE TABLE empty (id int PRIMARY KEY);
    INSERT INTO a SELECT i, repeat('v', 20) FROM generate_series(1, 100000) i;
    INSERT INTO b SELECT i, 'w' FROM generate_series(1, 1000) i";

#[test]
fn nothing_is_lost_or_doubled_between_the_copy_and_the_stream() {
    let database = Server::shared().database(TABLES);
    let log = Arc::new(MemoryLog::default());
    let reader = Reader::start(&database.config, &log);
    // Writes go on all the time, whatever the reader does meanwhile.
    for i in 0..40 {
        database.sql(&format!("UPDATE a SET v = 'n{i}' WHERE id = {i} + 1; DELETE FROM b WHERE id = {i} + 1; INSERT INTO b VALUES (5000 + {i}, 'new')"));
    }
    crate::server::eventually("the last row", || {
        log.rows().iter().any(|row| row.table == "public.b" && row.value("id") == Some("5039"))
    });
    // Where a transaction of somebody else was open, the stream may have told it before the copy began.
    log.wait_for_copy();
    reader.stop();
    let state = log.state();
    assert_eq!(state.len(), 101_000);
    let updated =
        state.values().filter(|row| row["v"].as_deref().is_some_and(|v| v.starts_with('n') && v != "new")).count();
    assert_eq!(updated, 40);
    assert_eq!(log.schemas().iter().filter(|schema| &*schema.table.name == "empty").count(), 1);
    assert_eq!(
        database.sql("SELECT count(*) FROM pg_replication_slots WHERE temporary AND database = current_database()"),
        "0"
    );
}

#[test]
fn a_copy_that_broke_off_goes_on_and_doubles_nothing() {
    let database = Server::shared().database(TABLES);
    let log = Arc::new(MemoryLog::default());
    // Behind the shapes of the three tables and the first frames.
    log.fail_at(Some(5));
    let error = Reader::start(&database.config, &log).end().unwrap_err();
    assert!(matches!(error, CaptureError::Log { .. }), "{error}");
    assert!(log.frames().iter().all(|frame| !frame.txn_end), "nothing of it may become visible");
    database.sql("DELETE FROM a WHERE id <= 10");
    log.fail_at(None);
    let mut config = database.config.clone();
    config.drain_to = Some(DrainTo::CurrentEnd);
    assert_eq!(Reader::start(&config, &log).end().unwrap(), Outcome::Drained);
    assert_eq!(log.state().len(), 100_990);
    assert_eq!(log.rows().iter().filter(|row| row.op == Op::Truncate).count(), 0, "nothing is taken back");
}

/// Reads in all, of a table of 90,000 rows in some ten thousand blocks, whose copy breaks off again and again.
fn reads_of_a_copy_that_breaks_off(between: impl Fn(&Database)) -> usize {
    let mut database = Server::shared().database(
        "CREATE TABLE wide (id int PRIMARY KEY, v text, n int NOT NULL DEFAULT 0);
         ALTER TABLE wide ALTER v SET STORAGE PLAIN;
         INSERT INTO wide SELECT i, repeat('v', 1000) FROM generate_series(1, 90000) i",
    );
    database.config.copy_workers = 1;
    database.config.drain_to = Some(DrainTo::CurrentEnd);
    let log = Arc::new(MemoryLog::default());
    for turn in 1..=3 {
        log.fail_at(Some(turn * 20));
        let error = Reader::start(&database.config, &log).end().unwrap_err();
        assert!(matches!(error, CaptureError::Log { .. }), "{error}");
        between(&database);
    }
    log.fail_at(None);
    assert_eq!(Reader::start(&database.config, &log).end().unwrap(), Outcome::Drained);
    let state = log.state();
    let ids: Vec<String> = state.keys().map(|(_, key)| key[0].clone().expect("a key")).collect();
    assert_eq!(ids.len().to_string(), database.sql("SELECT count(*) FROM wide"));
    let sum: i64 =
        state.values().map(|row| row["n"].as_deref().expect("not null").parse::<i64>().expect("a number")).sum();
    assert_eq!(sum.to_string(), database.sql("SELECT sum(n) FROM wide"));
    log.rows().iter().filter(|row| row.op == Op::Read).count()
}

#[test]
fn of_a_copy_that_breaks_off_only_what_was_under_way_is_read_again() {
    let reads = reads_of_a_copy_that_breaks_off(|_| {});
    assert!((90_000..180_000).contains(&reads), "{reads} reads of 90,000 rows");
}

#[test]
fn a_table_that_is_rewritten_or_changed_while_it_is_copied_is_copied_whole() {
    reads_of_a_copy_that_breaks_off(|database| {
        database.sql("UPDATE wide SET n = n + 1 WHERE id % 7 = 0");
        database.sql("DELETE FROM wide WHERE id % 1000 = 1; INSERT INTO wide SELECT max(id) + 1, 'new' FROM wide");
        database.sql("VACUUM FULL wide");
    });
}

#[test]
fn a_value_that_lies_outside_its_row_is_never_missing_when_the_row_moves_while_it_is_copied() {
    let mut database = Server::shared().database(
        "CREATE TABLE docs (id int PRIMARY KEY, doc text, n int NOT NULL DEFAULT 0);
         ALTER TABLE docs ALTER doc SET STORAGE EXTERNAL;
         INSERT INTO docs SELECT i, repeat(i::text || ' ', 800) FROM generate_series(1, 30000) i; ANALYZE docs",
    );
    database.config.drain_to = Some(DrainTo::CurrentEnd);
    let log = Arc::new(MemoryLog::default());
    for appends in [8, 20] {
        log.fail_at(Some(appends));
        Reader::start(&database.config, &log).end().unwrap_err();
        // Rows move to the end of the table, and the stream does not tell their documents.
        database.sql("UPDATE docs SET n = n + 1 WHERE id > 15000");
    }
    log.fail_at(None);
    assert_eq!(Reader::start(&database.config, &log).end().unwrap(), Outcome::Drained);
    let state = log.state();
    assert_eq!(state.len(), 30_000);
    for ((_, key), row) in &state {
        let id = key[0].as_deref().expect("a key");
        let doc = row.get("doc").and_then(|doc| doc.as_deref()).unwrap_or_default();
        assert!(doc.starts_with(&format!("{id} ")), "the document of {id}");
    }
}

#[test]
fn a_large_table_that_is_read_by_key_is_cut_into_ranges_that_hold_every_row_once() {
    let mut database = Server::shared().database(
        "CREATE TABLE docs (id int PRIMARY KEY, doc text);
         ALTER TABLE docs ALTER doc SET STORAGE EXTERNAL;
         INSERT INTO docs SELECT i, repeat('x', 2100) FROM generate_series(1, 30000) i; ANALYZE docs",
    );
    let scans = "SELECT coalesce(sum(seq_scan + idx_scan), 0) FROM pg_stat_user_tables WHERE relname = 'docs'";
    let before: u64 = database.sql(scans).parse().expect("a number");
    database.config.drain_to = Some(DrainTo::CurrentEnd);
    let log = Arc::new(MemoryLog::default());
    assert_eq!(Reader::start(&database.config, &log).end().unwrap(), Outcome::Drained);
    assert_eq!((log.rows().len(), log.state().len()), (30_000, 30_000));
    crate::server::eventually("one statement for each of several ranges", || {
        database.sql(scans).parse::<u64>().expect("a number") >= before + 3
    });
}

#[test]
fn without_a_snapshot_the_stream_starts_at_the_slot_as_found() {
    let mut database = Server::shared().database("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)");
    database.sql("CREATE PUBLICATION syncline FOR TABLE t");
    database.sql(&format!("SELECT pg_create_logical_replication_slot('{}', 'pgoutput')", database.config.slot));
    database.sql("INSERT INTO t VALUES (2)");
    database.config.snapshot = SnapshotMode::Never;
    database.config.drain_to = Some(DrainTo::CurrentEnd);
    let log = Arc::new(MemoryLog::default());
    assert_eq!(Reader::start(&database.config, &log).end().unwrap(), Outcome::Drained);
    assert_eq!(log.rows().iter().map(|row| row.value("id").unwrap().to_owned()).collect::<Vec<_>>(), ["2"]);
    // A second drain with nothing new ends at once, and confirms all the same.
    assert_eq!(Reader::start(&database.config, &log).end().unwrap(), Outcome::Drained);
    assert_eq!(log.row_count(), 1);
}
