//! What happens to rows arrives as what happened.

use std::sync::Arc;

use syncline_schemas::frame::Op;

use crate::log::{MemoryLog, Reader, following};
use crate::server::Server;

#[test]
fn an_unchanged_large_value_is_absent_and_never_null() {
    let (database, log, reader) = following("CREATE TABLE t (id int PRIMARY KEY, n int, big text)");
    database.sql("ALTER TABLE t ALTER big SET STORAGE EXTERNAL");
    database.sql("INSERT INTO t SELECT 1, 1, repeat('x', 100000)");
    database.sql("UPDATE t SET n = 2");
    database.sql("UPDATE t SET big = NULL");
    log.wait_for_rows(3);
    reader.stop();
    let rows = log.rows();
    assert_eq!((rows[1].op, rows[1].absent.as_slice()), (Op::Update, ["big".to_owned()].as_slice()));
    assert_eq!((rows[2].value("big"), rows[2].absent.len()), (None, 0));
}

#[test]
fn a_full_replica_identity_fills_what_the_log_left_out() {
    let (database, log, reader) = following(
        "CREATE TABLE t (id int PRIMARY KEY, n int, big text); ALTER TABLE t REPLICA IDENTITY FULL; ALTER TABLE t ALTER big SET STORAGE EXTERNAL",
    );
    database.sql("INSERT INTO t SELECT 1, 1, repeat('x', 100000)");
    database.sql("UPDATE t SET n = 2");
    database.sql("UPDATE t SET id = 7");
    database.sql("DELETE FROM t");
    log.wait_for_rows(5);
    reader.stop();
    let rows = log.rows();
    assert_eq!(
        rows.iter().map(|row| row.op).collect::<Vec<_>>(),
        [Op::Insert, Op::Update, Op::MoveOut, Op::MoveIn, Op::Delete]
    );
    assert!(rows.iter().all(|row| row.absent.is_empty()));
    assert_eq!(rows[1].value("big").map(str::len), Some(100_000));
    assert_eq!(rows[3].value("big").map(str::len), Some(100_000));
    assert!(log.state().is_empty());
}

#[test]
fn a_changed_key_leaves_no_ghost_behind() {
    let (database, log, reader) = following("CREATE TABLE t (a int, b text, c int, PRIMARY KEY (b, a))");
    database.sql("INSERT INTO t VALUES (1, 'x', 0), (2, 'y', 0)");
    database.sql("UPDATE t SET b = 'z' WHERE a = 1");
    database.sql("UPDATE t SET c = 5 WHERE a = 2");
    log.wait_for_rows(5);
    reader.stop();
    let rows = log.rows();
    assert_eq!(
        rows.iter().map(|row| row.op).collect::<Vec<_>>(),
        [Op::Insert, Op::Insert, Op::MoveOut, Op::MoveIn, Op::Update]
    );
    assert_eq!(rows[2].key, [Some("x".to_owned()), Some("1".to_owned())], "the key is in the index's order");
    assert_eq!(rows[2].commit_us, rows[3].commit_us);
    assert_eq!(log.state().len(), 2);
}

#[test]
fn a_truncated_table_is_emptied_and_no_other() {
    let (database, log, reader) = following("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY)");
    database.sql("INSERT INTO t VALUES (1), (2); INSERT INTO u VALUES (1)");
    database.sql("TRUNCATE t");
    database.sql("INSERT INTO t VALUES (3)");
    log.wait_for_rows(5);
    reader.stop();
    assert_eq!(log.state().len(), 2);
    assert_eq!(log.rows()[3].op, Op::Truncate);
}

#[test]
fn a_table_that_changes_its_shape_is_read_with_the_shape_of_the_moment() {
    let (database, log, reader) = following("CREATE TABLE t (id int PRIMARY KEY, a text)");
    database.sql("BEGIN; INSERT INTO t VALUES (1, 'one'); ALTER TABLE t ADD b numeric(6,2) DEFAULT 1.5; INSERT INTO t VALUES (2, 'two', 2); COMMIT");
    database.sql("ALTER TABLE t DROP a");
    database.sql("INSERT INTO t VALUES (3, 3)");
    log.wait_for_rows(3);
    reader.stop();
    let rows = log.rows();
    assert_eq!(rows[0].values.keys().collect::<Vec<_>>(), ["a", "id"]);
    assert_eq!(rows[1].value("b"), Some("2.00"));
    assert_eq!(rows[2].values.keys().collect::<Vec<_>>(), ["b", "id"]);
    let frames = log.followed();
    assert_eq!(frames.iter().filter(|frame| !frame.txn_end).count(), 1, "the transaction is cut at the new shape");
}

#[test]
fn partitions_are_read_as_their_root() {
    let (database, log, reader) = following(
        "CREATE TABLE t (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
         CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
         CREATE TABLE t_2 PARTITION OF t FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')",
    );
    database.sql("INSERT INTO t VALUES (1, '2024-05-05'), (2, '2025-05-05')");
    database.sql("UPDATE t SET day = '2025-06-06' WHERE id = 1");
    log.wait_for_rows(4);
    reader.stop();
    assert!(log.rows().iter().all(|row| row.table == "public.t"));
    assert_eq!(log.state().len(), 2);
}

#[test]
fn an_excluded_table_in_the_publication_is_not_read() {
    let mut database =
        Server::shared().database("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE secret (id int PRIMARY KEY)");
    database.sql("CREATE PUBLICATION syncline FOR ALL TABLES");
    database.config.tables = syncline_capture::postgres::TablePatterns::parse(&["public.*", "!public.secret"]).unwrap();
    database.sql("INSERT INTO secret VALUES (1)");
    let log = Arc::new(MemoryLog::default());
    let reader = Reader::start(&database.config, &log);
    log.wait_for_copy();
    database.sql("INSERT INTO secret VALUES (2)");
    database.sql("INSERT INTO t VALUES (2)");
    log.wait_for_rows(1);
    reader.stop();
    assert!(log.rows().iter().all(|row| row.table == "public.t"));
}
