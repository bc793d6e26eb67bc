//! Sessions that break, and what the next one makes of it.

use std::sync::Arc;

use syncline_capture::postgres::{DrainTo, SnapshotMode, TablePatterns};
use syncline_capture::{CaptureError, Class, Outcome, Resume};

use crate::log::{MemoryLog, Reader};
use crate::server::Server;

#[test]
fn a_killed_connection_loses_and_repeats_nothing() {
    let database = Server::shared().database("CREATE TABLE t (id int PRIMARY KEY, n int)");
    let log = Arc::new(MemoryLog::default());
    let reader = Reader::start(&database.config, &log);
    log.wait_for_copy();
    for round in 0..10 {
        database.sql(&format!("INSERT INTO t SELECT i, 0 FROM generate_series({round}00, {round}99) i"));
        database.sql(&format!("UPDATE t SET n = n + 1 WHERE id >= {round}50"));
        database.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_replication WHERE application_name = 'syncline' AND pid IN (SELECT active_pid FROM pg_replication_slots WHERE database = current_database())");
    }
    log.wait_for_rows(1_500);
    reader.stop();
    assert_eq!(log.row_count(), 1_500);
    assert_eq!(log.state().len(), 1_000);
}

#[test]
fn a_transaction_cut_in_the_middle_goes_on_exactly_there() {
    let mut database =
        Server::shared().database("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY)");
    let log = Arc::new(MemoryLog::default());
    database.config.drain_to = Some(DrainTo::CurrentEnd);
    Reader::start(&database.config, &log).end().unwrap();
    database.sql("INSERT INTO u VALUES (1)");
    database.sql("BEGIN; INSERT INTO t SELECT i, 'v' FROM generate_series(1, 150000) i; UPDATE t SET v = 'w' WHERE id <= 1000; COMMIT");
    database.sql("INSERT INTO u VALUES (2)");
    // The journal dies after the first part of the large transaction, and again after the second.
    for cuts in 1..=2 {
        log.fail_after_cuts(Some(cuts));
        let error = Reader::start(&database.config, &log).end().unwrap_err();
        assert!(matches!(error, CaptureError::Log { .. }), "{error}");
        assert!(!log.resume().unwrap().txn_end, "it broke off in the middle");
    }
    log.fail_after_cuts(None);
    assert_eq!(Reader::start(&database.config, &log).end().unwrap(), Outcome::Drained);
    assert_eq!(log.row_count(), 151_002);
    assert_eq!(log.state().len(), 150_002);
    assert!(log.frames().last().unwrap().txn_end);
}

#[test]
fn a_drain_delivers_the_end_of_a_transaction_whose_rows_fill_the_frame() {
    let mut database = Server::shared().database("CREATE TABLE t (id int PRIMARY KEY)");
    let log = Arc::new(MemoryLog::default());
    database.config.drain_to = Some(DrainTo::CurrentEnd);
    Reader::start(&database.config, &log).end().unwrap();
    database.sql("INSERT INTO t SELECT generate_series(1, 40000)");
    assert_eq!(Reader::start(&database.config, &log).end().unwrap(), Outcome::Drained);
    // As many rows as a frame takes.
    let full = log.followed().iter().find(|frame| !frame.txn_end).expect("more rows than a frame takes").row_count();
    let before = log.frames().len();
    database.sql(&format!("INSERT INTO t SELECT generate_series(50001, 50000 + {full})"));
    assert_eq!(Reader::start(&database.config, &log).end().unwrap(), Outcome::Drained);
    let frames = log.frames().split_off(before);
    assert!(frames.iter().any(|frame| frame.row_count() == full && !frame.txn_end), "the rows fill a frame");
    assert!(frames.last().unwrap().txn_end, "nothing of it is visible before its end");
}

#[test]
fn a_position_of_another_slot_is_refused_and_a_strange_one_too() {
    let mut database = Server::shared().database("CREATE TABLE t (id int PRIMARY KEY)");
    let log = Arc::new(MemoryLog::default());
    database.config.drain_to = Some(DrainTo::CurrentEnd);
    Reader::start(&database.config, &log).end().unwrap();
    let other_slot = syncline_capture::postgres::PostgresConfig { slot: "other".to_owned(), ..database.config.clone() };
    let error = Reader::start(&other_slot, &log).end().unwrap_err();
    assert!(error.to_string().contains("belongs to the slot"), "{error}");

    let position = syncline_schemas::ident::Position::new(vec![9, 9, 9]);
    let stop = syncline_capture::StopSignal::default();
    let strange = Some(Resume { position, txn_end: true });
    let error = syncline_capture::postgres::run(
        &database.config,
        strange,
        &*log,
        &Default::default(),
        &Default::default(),
        &stop,
    )
    .unwrap_err();
    assert_eq!(error.class(), Class::Definite, "{error}");
}

#[test]
fn another_reader_on_the_slot_is_waited_for() {
    let mut database = Server::shared().database("CREATE TABLE t (id int PRIMARY KEY)");
    database.config.snapshot = SnapshotMode::Never;
    let log = Arc::new(MemoryLog::default());
    let first = Reader::start(&database.config, &log);
    log.wait_for_copy();
    let stop = syncline_capture::StopSignal::default();
    let error = syncline_capture::postgres::run(
        &database.config,
        None,
        &MemoryLog::default(),
        &Default::default(),
        &Default::default(),
        &stop,
    )
    .unwrap_err();
    assert_eq!(error.class(), Class::Transient, "{error}");
    first.stop();
}

#[test]
fn a_server_whose_last_sender_is_taken_is_waited_for() {
    let server = Arc::new(Server::start(&[("wal_level", "logical"), ("max_wal_senders", "1")], |_| {}));
    let mut database = server.database("CREATE TABLE t (id int PRIMARY KEY)");
    let log = Arc::new(MemoryLog::default());
    let reader = Reader::start(&database.config, &log);
    log.wait_for_copy();
    // As a session of the same source whose connection broke and that the server has not noticed yet.
    database.config.drain_to = Some(DrainTo::CurrentEnd);
    let stop = syncline_capture::StopSignal::default();
    let error = syncline_capture::postgres::run(
        &database.config,
        log.resume(),
        &*log,
        &Default::default(),
        &Default::default(),
        &stop,
    );
    let error = error.unwrap_err();
    assert!(error.class() == Class::Transient && error.to_string().contains("53300"), "{error}");
    reader.stop();
    assert_eq!(Reader::start(&database.config, &log).end().unwrap(), Outcome::Drained);
}

#[test]
fn a_standby_is_waited_for_until_it_is_promoted() {
    let server = Arc::new(Server::start(&[("wal_level", "logical")], |_| {}));
    let mut database = server.database("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)");
    let log = Arc::new(MemoryLog::default());
    database.config.drain_to = Some(DrainTo::CurrentEnd);
    Reader::start(&database.config, &log).end().unwrap();
    server.restart(|data| std::fs::write(data.join("standby.signal"), "").unwrap());
    let stop = syncline_capture::StopSignal::default();
    let error = syncline_capture::postgres::run(
        &database.config,
        log.resume(),
        &*log,
        &Default::default(),
        &Default::default(),
        &stop,
    );
    let error = error.unwrap_err();
    assert!(matches!(error, CaptureError::Standby { .. }), "{error}");
    assert_eq!(error.class(), Class::Transient);
    database.sql("SELECT pg_promote()");
    database.sql("INSERT INTO t VALUES (2)");
    assert_eq!(Reader::start(&database.config, &log).end().unwrap(), Outcome::Drained);
    assert_eq!(log.state().len(), 2);
}

#[test]
fn a_server_that_is_shut_down_does_not_wait_for_its_reader_until_it_gives_it_up() {
    let server = Arc::new(Server::start(&[("wal_level", "logical")], |_| {}));
    let database = server.database("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE unread (id int)");
    let mut config = database.config.clone();
    config.tables = TablePatterns::parse(&["public.t"]).unwrap();
    let log = Arc::new(MemoryLog::default());
    let reader = Reader::start(&config, &log);
    log.wait_for_copy();
    for _ in 0..5 {
        // What it has not confirmed is of no interest to it.
        database.sql("INSERT INTO unread SELECT generate_series(1, 1000)");
        let began = std::time::Instant::now();
        server.restart(|_| {});
        // The server itself waits for wal_sender_timeout, a minute.
        assert!(began.elapsed() < std::time::Duration::from_secs(30), "{:?}", began.elapsed());
        database.sql("INSERT INTO t SELECT coalesce(max(id), 0) + 1 FROM t");
    }
    log.wait_for_rows(5);
    reader.stop();
}
