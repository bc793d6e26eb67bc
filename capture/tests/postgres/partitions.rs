//! Partitions that come and go with rows, of which the log says nothing.

use std::sync::Arc;

use syncline_capture::Outcome;
use syncline_capture::postgres::{DrainTo, LogGap, TablePatterns, Truncates};
use syncline_schemas::frame::Op;

use crate::log::{MemoryLog, Reader};
use crate::server::{Database, Server, eventually};

const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY, note text) PARTITION BY RANGE (id);
     CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (0) TO (1000);
     CREATE TABLE t_2 PARTITION OF t FOR VALUES FROM (1000) TO (2000);
     CREATE TABLE older (id int PRIMARY KEY, note text);
     CREATE TABLE other (id int PRIMARY KEY);
     INSERT INTO t SELECT i, 'first' FROM generate_series(500, 1500) i;
     INSERT INTO older SELECT i, 'older' FROM generate_series(2000, 2100) i;
     INSERT INTO other SELECT generate_series(1, 50)";
const ATTACH: &str = "ALTER TABLE t ATTACH PARTITION older FOR VALUES FROM (2000) TO (3000)";

fn source() -> (Database, Arc<MemoryLog>) {
    let mut database = Server::shared().database(TABLES);
    database.config.tables = TablePatterns::parse(&["public.t", "public.other"]).unwrap();
    database.config.drain_to = Some(DrainTo::CurrentEnd);
    let log = Arc::new(MemoryLog::default());
    drain(&database, &log);
    (database, log)
}

fn drain(database: &Database, log: &Arc<MemoryLog>) {
    assert_eq!(Reader::start(&database.config, log).end().unwrap(), Outcome::Drained);
}

fn sweeps(log: &MemoryLog, op: Op) -> usize {
    log.rows().iter().filter(|row| row.table == "public.t" && row.op == op).count()
}

/// What is held of the partitioned table and what it holds, as text.
fn compare(database: &Database, log: &MemoryLog) -> (String, String) {
    let state = log.state_beside();
    let held = state.iter().filter(|((name, _), _)| name == "public.t");
    let mut held: Vec<(i32, String)> = held
        .map(|((_, key), row)| (key[0].clone().unwrap().parse().unwrap(), row["note"].clone().unwrap_or_default()))
        .collect();
    held.sort();
    let held: Vec<String> = held.into_iter().map(|(id, note)| format!("{id}={note}")).collect();
    (held.join("\n"), database.sql("SELECT id || '=' || note FROM t ORDER BY id"))
}

fn assert_equal(database: &Database, log: &MemoryLog) {
    let (held, wanted) = compare(database, log);
    assert_eq!(held, wanted);
}

#[test]
fn rows_of_partitions_that_come_and_go_are_made_up_for_beside_the_stream() {
    let (database, log) = source();
    let mut running = database.config.clone();
    running.drain_to = None;
    let reader = Reader::start(&running, &log);
    for (round, change) in ["ALTER TABLE t DETACH PARTITION t_2", ATTACH, "DROP TABLE t_1"].into_iter().enumerate() {
        database.sql("UPDATE t SET note = 'before' WHERE id % 3 = 0");
        database.sql(change);
        // A change of the root makes the server describe it again, which is the hint.
        database.sql(&format!("ALTER TABLE other ALTER id SET STATISTICS {round}"));
        let mut id = 100 + 100 * i32::try_from(round).unwrap();
        eventually("the table to be read anew", || {
            id += 1;
            database.sql(&format!("INSERT INTO other VALUES ({id}); DELETE FROM other WHERE id = {id}"));
            sweeps(&log, Op::SweepEnd) == round + 1
        });
        database.sql("UPDATE t SET note = 'after' WHERE id % 5 = 0");
        eventually("the last change", || {
            let (held, wanted) = compare(&database, &log);
            held == wanted
        });
    }
    reader.stop();
    assert_eq!(sweeps(&log, Op::SweepBegin), 3);
}

#[test]
fn partitions_that_went_while_nobody_looked_leave_no_row_behind() {
    let (database, log) = source();
    // Of this partition the log tells at first, and then it is gone.
    database.sql("UPDATE t SET note = 'late' WHERE id > 990; INSERT INTO t VALUES (1600, 'later')");
    database.sql("DROP TABLE t_2");
    database.sql(ATTACH);
    database.sql("UPDATE t SET note = 'seen' WHERE id = 2050");
    drain(&database, &log);
    assert_equal(&database, &log);
    assert_eq!(sweeps(&log, Op::SweepEnd), 1);
    drain(&database, &log);
    assert_eq!(sweeps(&log, Op::SweepBegin), 1, "nothing is doubted any more");
}

#[test]
fn a_reading_that_is_killed_is_not_forgotten() {
    let (database, log) = source();
    database.sql("ALTER TABLE t DETACH PARTITION t_2");
    for more in 1..4 {
        // Behind two shapes.
        log.fail_at(Some(log.len() + 2 + more));
        Reader::start(&database.config, &log).end().unwrap_err();
    }
    log.fail_at(None);
    assert!(sweeps(&log, Op::SweepBegin) > 0 && sweeps(&log, Op::SweepEnd) == 0, "it was killed while it read");
    drain(&database, &log);
    assert_equal(&database, &log);
}

#[test]
fn a_partition_that_the_role_may_not_read_stops_nothing_and_is_read_once_it_may() {
    let (mut database, log) = source();
    let role = format!("reader_{}", database.config.database);
    database.sql(&format!("CREATE ROLE {role} LOGIN REPLICATION; GRANT SELECT ON t, t_1, t_2, other TO {role}"));
    database.config.user = role.clone();
    database.sql(ATTACH);
    database.sql("INSERT INTO other VALUES (99)");
    drain(&database, &log);
    assert_eq!(sweeps(&log, Op::SweepBegin), 0);
    let others = || log.state_beside().keys().filter(|(table, _)| table == "public.other").count();
    assert_eq!(others(), 51, "the others go on");
    database.sql(&format!("GRANT SELECT ON older TO {role}"));
    drain(&database, &log);
    assert_equal(&database, &log);
}

#[test]
fn a_partition_that_holds_what_cannot_be_taken_is_read_once_that_is_mended() {
    let mut database = Server::shared().database(
        "CREATE TABLE t (id int PRIMARY KEY, note text, day date) PARTITION BY RANGE (id);
         CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (0) TO (1000);
         CREATE TABLE older (id int PRIMARY KEY, note text, day date);
         INSERT INTO t SELECT i, 'first', '2026-01-01' FROM generate_series(1, 100) i;
         INSERT INTO older VALUES (2000, 'older', 'infinity'), (2001, 'older', '2026-02-02')",
    );
    database.config.tables = TablePatterns::parse(&["public.t"]).unwrap();
    database.config.drain_to = Some(DrainTo::CurrentEnd);
    let log = Arc::new(MemoryLog::default());
    drain(&database, &log);
    database.sql("ALTER TABLE t ATTACH PARTITION older FOR VALUES FROM (2000) TO (3000)");
    for _ in 0..2 {
        drain(&database, &log);
        assert_eq!(sweeps(&log, Op::SweepEnd), 0, "it is not read");
    }
    // The source itself may not tell such a value either.
    database.sql("ALTER TABLE t DETACH PARTITION older");
    database.sql("UPDATE older SET day = '2026-03-03' WHERE id = 2000");
    database.sql("ALTER TABLE t ATTACH PARTITION older FOR VALUES FROM (2000) TO (3000)");
    drain(&database, &log);
    assert_equal(&database, &log);
}

#[test]
fn a_table_that_was_filled_and_attached_by_the_transaction_that_made_it_is_read() {
    let (database, log) = source();
    database.sql(
        "BEGIN; CREATE TABLE load (LIKE t INCLUDING ALL); INSERT INTO load SELECT i, 'load' FROM generate_series(4000, 4010) i;
         ALTER TABLE t ATTACH PARTITION load FOR VALUES FROM (4000) TO (5000); COMMIT",
    );
    drain(&database, &log);
    assert_equal(&database, &log);
    database
        .sql("CREATE TABLE t_5 PARTITION OF t FOR VALUES FROM (5000) TO (6000); INSERT INTO t VALUES (5000, 'new')");
    drain(&database, &log);
    assert_equal(&database, &log);
    assert_eq!(sweeps(&log, Op::SweepBegin), 1, "one that was made as a partition is in the log");
}

#[test]
fn a_partition_that_came_and_left_between_two_looks_leaves_no_row_behind() {
    let (database, log) = source();
    let come = "CREATE TABLE gone PARTITION OF t FOR VALUES FROM (4000) TO (5000);
         INSERT INTO t SELECT i, 'gone' FROM generate_series(4000, 4010) i";
    for leave in ["DROP TABLE gone", "ALTER TABLE t DETACH PARTITION gone; ALTER TABLE gone RENAME TO kept"] {
        database.sql(come);
        database.sql(leave);
        drain(&database, &log);
        drain(&database, &log);
        assert_equal(&database, &log);
    }
    let mut running = database.config.clone();
    running.drain_to = None;
    let reader = Reader::start(&running, &log);
    database.sql(come);
    eventually("it to be told of", || log.rows().iter().filter(|row| row.value("id") == Some("4010")).count() == 3);
    database.sql("DROP TABLE gone; INSERT INTO t VALUES (1999, 'after')");
    eventually("the rows to be gone", || {
        let (held, wanted) = compare(&database, &log);
        // The server describes it again, which is the hint.
        database.sql("ALTER TABLE other ALTER id SET STATISTICS 7; DELETE FROM other; INSERT INTO other VALUES (1)");
        held == wanted
    });
    reader.stop();
}

#[test]
fn a_partition_that_is_truncated_alone_leaves_no_row_behind() {
    let (database, log) = source();
    database.sql("TRUNCATE t_2; INSERT INTO t VALUES (1200, 'after')");
    drain(&database, &log);
    assert_equal(&database, &log);
    drain(&database, &log);
    assert_eq!(sweeps(&log, Op::SweepBegin), 1);
    // One that came since, too.
    database.sql("CREATE TABLE t_4 PARTITION OF t FOR VALUES FROM (4000) TO (5000); INSERT INTO t SELECT i, 'load' FROM generate_series(4000, 4010) i");
    database.sql("TRUNCATE t_4; INSERT INTO t VALUES (4005, 'again')");
    drain(&database, &log);
    assert_equal(&database, &log);
}

#[test]
fn a_partition_that_is_truncated_alone_stops_nothing_and_its_rows_go_unless_gaps_are_to_stop_the_source() {
    for (log_gap, left) in [(LogGap::Repair, false), (LogGap::Stop, true)] {
        let (mut database, log) = source();
        (database.config.truncate, database.config.log_gap) = (Truncates::Stop, log_gap);
        drain(&database, &log);
        database.sql("TRUNCATE t_2; INSERT INTO t VALUES (1200, 'after')");
        drain(&database, &log);
        let (held, wanted) = compare(&database, &log);
        assert_eq!(held != wanted, left, "{log_gap:?}: the log does not tell of it");
        assert_eq!(sweeps(&log, Op::SweepBegin), usize::from(!left));
        database.sql("TRUNCATE t");
        let error = Reader::start(&database.config, &log).end().unwrap_err().to_string();
        assert!(error.contains("was truncated at") && error.contains("truncate is \"stop\""), "{error}");
    }
}

#[test]
fn a_doubt_does_not_go_with_the_partition_that_raised_it() {
    let (mut database, log) = source();
    let role = format!("reader_{}", database.config.database);
    database.sql(&format!("CREATE ROLE {role} LOGIN REPLICATION; GRANT SELECT ON t, t_1, t_2, other TO {role}"));
    database.config.user = role;
    database.sql(ATTACH);
    database.sql("INSERT INTO t VALUES (2500, 'told of')");
    drain(&database, &log);
    assert_eq!(sweeps(&log, Op::SweepBegin), 0, "it may not be read");
    database.sql("ALTER TABLE t DETACH PARTITION older");
    drain(&database, &log);
    assert_equal(&database, &log);
}

#[test]
fn a_partition_that_left_changed_and_came_back_is_read_anew() {
    let (database, log) = source();
    database.sql("ALTER TABLE t DETACH PARTITION t_2");
    database.sql("DELETE FROM t_2 WHERE id % 2 = 0");
    database.sql("ALTER TABLE t ATTACH PARTITION t_2 FOR VALUES FROM (1000) TO (2000)");
    drain(&database, &log);
    assert_equal(&database, &log);
}
