//! Changes that are lost to the server's log: what came of them is found in the tables.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use syncline_capture::postgres::{DrainTo, Finding, LogGap, Severity, TablePatterns, check};
use syncline_capture::{Class, Outcome};
use syncline_schemas::frame::Op;

use crate::log::{MemoryLog, Reader};
use crate::server::{Database, Server, eventually, run};

const TABLES: &str =
    "CREATE TABLE orders (id int PRIMARY KEY, note text); CREATE TABLE lines (id int PRIMARY KEY, note text);
     INSERT INTO orders SELECT i, 'old' FROM generate_series(1, 3000) i;
     INSERT INTO lines SELECT i, repeat('x', i % 90) FROM generate_series(1, 3000) i";

/// What nobody tells of.
const UNSEEN: &str = "DELETE FROM orders WHERE id % 7 = 0; UPDATE orders SET note = 'new' WHERE id % 5 = 0;
     INSERT INTO orders SELECT i, 'come' FROM generate_series(5001, 5100) i; TRUNCATE lines; INSERT INTO lines VALUES (1, 'only')";

fn drain(database: &Database, log: &Arc<MemoryLog>) {
    assert_eq!(Reader::start(&database.config, log).end().unwrap(), Outcome::Drained);
}

/// A source whose tables were copied.
fn copied(server: &Arc<Server>) -> (Database, Arc<MemoryLog>) {
    let mut database = server.database(TABLES);
    database.config.drain_to = Some(DrainTo::CurrentEnd);
    let log = Arc::new(MemoryLog::default());
    drain(&database, &log);
    (database, log)
}

fn drop_slot(database: &Database) {
    database.sql(&format!("SELECT pg_drop_replication_slot('{}')", database.config.slot));
}

/// Shapes that each session tells of first.
const SHAPES: usize = 2;

/// Of some table the reading has begun and not ended.
fn assert_is_being_closed(log: &MemoryLog) {
    let rows = log.rows();
    let count = |op: Op| rows.iter().filter(|row| row.op == op).count();
    assert!(count(Op::SweepBegin) > 0, "it has not begun");
    assert_eq!(count(Op::SweepEnd), 0, "it has ended");
}

fn assert_holds_what_the_source_has(database: &Database, log: &MemoryLog) {
    let state = log.state_beside();
    for table in ["orders", "lines"] {
        let wanted = database.sql(&format!("SELECT id || '=' || note FROM {table} ORDER BY id"));
        let held = state.iter().filter(|((name, _), _)| *name == format!("public.{table}"));
        let mut held: Vec<(i32, String)> = held
            .map(|((_, key), row)| (key[0].clone().unwrap().parse().unwrap(), row["note"].clone().unwrap_or_default()))
            .collect();
        held.sort();
        let held: Vec<String> = held.into_iter().map(|(id, note)| format!("{id}={note}")).collect();
        assert_eq!(held, wanted.lines().collect::<Vec<_>>(), "{table}");
    }
}

/// Behind so many frames the log has one unit that closes the gap, and then whole transactions.
fn assert_is_one_unit(log: &MemoryLog, before: usize) {
    let frames = log.rows_by_frame().split_off(before);
    let mut open = false;
    for (ends, rows) in frames {
        open |= rows.iter().any(|row| row.op == Op::SweepBegin);
        assert!(!(open && ends) || rows.iter().any(|row| row.op == Op::SweepEnd), "targets would see half of it");
        open &= !ends;
    }
    assert!(!open, "it has ended");
}

#[test]
fn a_slot_that_somebody_dropped_loses_nothing_that_the_tables_still_say() {
    let (database, log) = copied(&Server::shared());
    drop_slot(&database);
    database.sql(UNSEEN);
    let before = log.frames().len();
    drain(&database, &log);
    assert_holds_what_the_source_has(&database, &log);
    assert_is_one_unit(&log, before);
    // It goes on as if nothing had been.
    database.sql("UPDATE orders SET note = 'later' WHERE id = 5001; DELETE FROM lines");
    drain(&database, &log);
    assert_holds_what_the_source_has(&database, &log);
    let sweeps = log.rows().iter().filter(|row| row.op == Op::SweepBegin).count();
    assert_eq!(sweeps, 2, "each table was read anew once");
}

#[test]
fn changes_that_somebody_else_read_from_the_slot_are_made_up_for() {
    let (database, log) = copied(&Server::shared());
    database.sql(UNSEEN);
    database.sql(&format!("SELECT pg_replication_slot_advance('{}', pg_current_wal_lsn())", database.config.slot));
    drain(&database, &log);
    assert_holds_what_the_source_has(&database, &log);
}

#[test]
fn a_slot_that_the_server_invalidated_is_made_again() {
    let server = Arc::new(Server::start(
        &[
            ("wal_level", "logical"),
            ("max_slot_wal_keep_size", "4MB"),
            ("min_wal_size", "8MB"),
            ("max_wal_size", "8MB"),
        ],
        |_| {},
    ));
    let (database, log) = copied(&server);
    database.sql(UNSEEN);
    let status = format!("SELECT wal_status FROM pg_replication_slots WHERE slot_name = '{}'", database.config.slot);
    eventually("the slot to be lost", || {
        database.sql("INSERT INTO lines SELECT i, repeat('z', 900) FROM generate_series(10000, 16000) i");
        database.sql("DELETE FROM lines WHERE id >= 10000");
        database.sql("CHECKPOINT");
        database.sql(&status) == "lost"
    });
    // Whoever begins copies everything, and needs nothing of it; for the other one that is a gap.
    assert!(check(&database.config).iter().all(|finding| finding.severity != Severity::Error));
    let mut careful = database.config.clone();
    careful.log_gap = LogGap::Stop;
    let fault = |finding: &Finding| finding.severity == Severity::Error && finding.message.contains("was invalidated");
    assert!(check(&careful).iter().any(fault), "a gap is to stop the source");
    for log in [Arc::new(MemoryLog::default()), log] {
        drain(&database, &log);
        assert_holds_what_the_source_has(&database, &log);
    }
}

#[test]
fn a_gap_that_is_half_closed_when_we_are_killed_is_closed_by_the_next_start() {
    let (database, log) = copied(&Server::shared());
    drop_slot(&database);
    database.sql(UNSEEN);
    for more in [1, 2, 3] {
        log.fail_at(Some(log.len() + SHAPES + more));
        Reader::start(&database.config, &log).end().unwrap_err();
        assert_is_being_closed(&log);
        database.sql(&format!(
            "UPDATE orders SET note = 'meanwhile' WHERE id = {more}; DELETE FROM orders WHERE id = 1{more}"
        ));
    }
    log.fail_at(None);
    drain(&database, &log);
    assert_holds_what_the_source_has(&database, &log);
}

#[test]
fn a_slot_that_is_lost_again_while_the_gap_is_closed_is_made_again() {
    let (database, log) = copied(&Server::shared());
    for more in [1, 2] {
        drop_slot(&database);
        database.sql(UNSEEN);
        database.sql("TRUNCATE orders; INSERT INTO orders SELECT i, 'again' FROM generate_series(1, 40) i");
        log.fail_at(Some(log.len() + SHAPES + more));
        Reader::start(&database.config, &log).end().unwrap_err();
        log.fail_at(None);
        assert_is_being_closed(&log);
    }
    drop_slot(&database);
    drain(&database, &log);
    assert_holds_what_the_source_has(&database, &log);
}

#[test]
fn a_slot_that_is_lost_before_the_first_copy_is_done_has_it_begin_again() {
    let mut database = Server::shared().database(TABLES);
    database.config.drain_to = Some(DrainTo::CurrentEnd);
    let log = Arc::new(MemoryLog::default());
    // Behind two shapes and the frame that begins.
    log.fail_at(Some(4));
    Reader::start(&database.config, &log).end().unwrap_err();
    assert!(log.resume().is_some_and(|resume| !resume.txn_end), "it broke off in the middle");
    log.fail_at(None);
    drop_slot(&database);
    database.sql(UNSEEN);
    drain(&database, &log);
    assert_holds_what_the_source_has(&database, &log);
    assert!(!log.rows().iter().any(|row| row.op == Op::SweepBegin), "nothing was told that could be compared");
}

#[test]
fn what_a_new_primary_lacks_is_taken_back() {
    let server = Arc::new(Server::start(&[("wal_level", "logical")], |_| {}));
    let (database, log) = copied(&server);
    server.restart(|data| copy(data, &data.with_file_name("standby")));
    database.sql(UNSEEN);
    drain(&database, &log);
    assert_holds_what_the_source_has(&database, &log);
    // The standby had not got that far.
    server.restart(|data| {
        copy(&data.with_file_name("standby"), data);
        std::fs::write(data.join("standby.signal"), "").unwrap();
    });
    database.sql("SELECT pg_promote()");
    database.sql("UPDATE orders SET note = 'of the new primary' WHERE id < 10");
    drain(&database, &log);
    assert_holds_what_the_source_has(&database, &log);
}

#[test]
fn what_a_new_primary_lacks_of_a_copy_that_was_under_way_is_not_kept() {
    let server = Arc::new(Server::start(&[("wal_level", "logical")], |_| {}));
    let mut database = server.database(TABLES);
    database.config.drain_to = Some(DrainTo::CurrentEnd);
    let log = Arc::new(MemoryLog::default());
    log.fail_at(Some(SHAPES + 1));
    Reader::start(&database.config, &log).end().unwrap_err();
    server.restart(|data| copy(data, &data.with_file_name("standby")));
    database.sql("INSERT INTO orders VALUES (0, 'of the old primary'); UPDATE lines SET note = 'of the old primary'");
    log.fail_at(Some(log.len() + SHAPES + 3));
    Reader::start(&database.config, &log).end().unwrap_err();
    log.fail_at(None);
    assert!(log.rows().iter().any(|row| row.value_of("note") == Some("of the old primary")), "it was read");
    server.restart(|data| {
        copy(&data.with_file_name("standby"), data);
        std::fs::write(data.join("standby.signal"), "").unwrap();
    });
    database.sql("SELECT pg_promote()");
    drain(&database, &log);
    assert_holds_what_the_source_has(&database, &log);
}

#[test]
fn an_old_primary_that_somebody_started_again_takes_nothing_back() {
    let server = Arc::new(Server::start(&[("wal_level", "logical")], |_| {}));
    let (database, log) = copied(&server);
    server.restart(|data| {
        copy(data, &data.with_file_name("old"));
        std::fs::write(data.join("standby.signal"), "").unwrap();
    });
    database.sql("SELECT pg_promote()");
    database.sql(UNSEEN);
    drain(&database, &log);
    assert_holds_what_the_source_has(&database, &log);
    let (held, rows) = (log.state(), log.row_count());
    server.restart(|data| copy(&data.with_file_name("old"), data));
    let error = Reader::start(&database.config, &log).end().unwrap_err();
    assert!(error.to_string().contains("point the url at the primary"), "{error}");
    assert_eq!((log.state(), log.row_count()), (held, rows));
}

#[test]
fn a_source_that_is_to_stop_at_a_gap_stops_and_says_what_is_lost() {
    let (mut database, log) = copied(&Server::shared());
    database.config.log_gap = LogGap::Stop;
    database.sql(UNSEEN);
    database.sql(&format!("SELECT pg_replication_slot_advance('{}', pg_current_wal_lsn())", database.config.slot));
    let error = Reader::start(&database.config, &log).end().unwrap_err();
    assert!(error.to_string().contains("was confirmed up to") && error.class() == Class::Definite, "{error}");
    drop_slot(&database);
    let error = Reader::start(&database.config, &log).end().unwrap_err();
    assert!(error.to_string().contains("is gone") && error.class() == Class::Definite, "{error}");
}

#[test]
fn a_role_that_may_not_read_the_tables_any_more_is_told_so_before_a_gap_is_closed() {
    let (mut database, log) = copied(&Server::shared());
    let role = format!("reader_{}", database.config.database);
    database.sql(&format!("CREATE ROLE {role} LOGIN REPLICATION; GRANT SELECT ON lines TO {role}"));
    database.config.user = role;
    drop_slot(&database);
    let error = Reader::start(&database.config, &log).end().unwrap_err();
    assert!(error.to_string().contains("cannot be read by the role"), "{error}");
    let slots = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{}'", database.config.slot);
    assert_eq!(database.sql(&slots), "0", "no slot is left to keep the log of a source that stands still");
}

const PARTITIONED: &str = "CREATE TABLE orders (id int PRIMARY KEY, note text) PARTITION BY RANGE (id);
     CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (0) TO (30000);
     CREATE TABLE orders_2 PARTITION OF orders FOR VALUES FROM (30000) TO (90000);
     CREATE TABLE lines (id int PRIMARY KEY, note text);
     INSERT INTO orders SELECT i, 'old' FROM generate_series(1, 60000) i";

fn partitioned() -> (Database, Arc<MemoryLog>) {
    let mut database = Server::shared().database(PARTITIONED);
    database.config.tables = TablePatterns::parse(&["public.orders", "public.lines"]).unwrap();
    database.config.drain_to = Some(DrainTo::CurrentEnd);
    let log = Arc::new(MemoryLog::default());
    drain(&database, &log);
    (database, log)
}

#[test]
fn a_gap_is_not_passed_over_because_of_a_table_that_cannot_be_read() {
    let (mut database, log) = partitioned();
    let role = format!("reader_{}", database.config.database);
    database.sql(&format!("CREATE ROLE {role} LOGIN REPLICATION; GRANT SELECT ON orders, orders_1, lines TO {role}"));
    database.config.user = role.clone();
    drop_slot(&database);
    database.sql("DELETE FROM orders WHERE id % 2 = 0");
    for _ in 0..2 {
        let error = Reader::start(&database.config, &log).end().unwrap_err();
        assert!(
            error.class() == Class::Definite && error.to_string().contains("cannot be read by the role"),
            "{error}"
        );
    }
    database.sql(&format!("GRANT SELECT ON orders_2 TO {role}"));
    drain(&database, &log);
    assert_holds_what_the_source_has(&database, &log);
}

#[test]
fn a_table_that_moves_while_a_gap_is_closed_is_read_from_the_beginning() {
    for change in ["VACUUM FULL orders_1", "DROP TABLE orders_1", "ALTER TABLE orders DETACH PARTITION orders_1"] {
        let (database, log) = partitioned();
        drop_slot(&database);
        database.sql("DELETE FROM orders WHERE id % 3 = 0");
        log.fail_at(Some(log.len() + SHAPES + 2));
        Reader::start(&database.config, &log).end().unwrap_err();
        log.fail_at(None);
        assert_is_being_closed(&log);
        assert!(log.rows_by_frame().last().unwrap().1.iter().any(|row| row.op == Op::Read), "something of it is read");
        database.sql(change);
        database.sql("DELETE FROM orders WHERE id % 7 = 0");
        drain(&database, &log);
        drain(&database, &log);
        assert_holds_what_the_source_has(&database, &log);
    }
}

#[test]
fn a_server_that_was_restored_to_before_what_was_read_is_noticed() {
    let server = Arc::new(Server::start(&[("wal_level", "logical")], |_| {}));
    let (database, log) = copied(&server);
    server.restart(|data| copy(data, &data.with_file_name("backup")));
    database.sql(UNSEEN);
    drain(&database, &log);
    // On the same timeline, with the slot as it was.
    server.restart(|data| copy(&data.with_file_name("backup"), data));
    drain(&database, &log);
    assert_holds_what_the_source_has(&database, &log);
}

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    run(Command::new("cp").arg("-a").arg(from).arg(to));
}
