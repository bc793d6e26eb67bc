//! What applications put into the log themselves.

use std::sync::Arc;

use syncline_capture::postgres::{DrainTo, Prefixes};
use syncline_capture::{Class, Outcome};

use crate::log::{MemoryLog, Reader, Row};
use crate::server::{Database, Server};

fn following(tables: &str) -> (Database, Arc<MemoryLog>, Reader) {
    let mut database = Server::shared().database(tables);
    database.config.messages = Some(Prefixes::parse(&["erp.*", "!erp.debug"]).unwrap());
    let log = Arc::new(MemoryLog::default());
    let reader = Reader::start(&database.config, &log);
    log.wait_for_copy();
    (database, log, reader)
}

fn messages(rows: &[Row]) -> Vec<(String, String)> {
    let messages = rows.iter().filter(|row| row.table == "pg_logical.messages");
    messages
        .map(|row| (row.value("prefix").unwrap().to_owned(), row.value("content").unwrap_or("-").to_owned()))
        .collect()
}

fn pair(prefix: &str, content: &str) -> (String, String) {
    (prefix.to_owned(), content.to_owned())
}

#[test]
fn a_message_comes_with_its_transaction_or_not_at_all() {
    let (database, log, reader) = following("CREATE TABLE t (id int PRIMARY KEY)");
    database.sql("SELECT pg_logical_emit_message(true, 'other', 'not wanted'), pg_logical_emit_message(false, 'erp.debug', 'nor this')");
    database
        .sql("BEGIN; SELECT pg_logical_emit_message(true, 'erp.order', 'void'); INSERT INTO t VALUES (9); ROLLBACK");
    database.sql("BEGIN; INSERT INTO t VALUES (1); SELECT pg_logical_emit_message(true, 'erp.order', '{\"id\": 1}'); INSERT INTO t VALUES (2); COMMIT");
    database.sql("SELECT pg_logical_emit_message(true, 'erp.bytes', '\\xff00'::bytea)");
    log.wait_for_rows(4);
    reader.stop();
    let rows = log.rows();
    assert_eq!(messages(&rows), [pair("erp.order", "{\"id\": 1}"), pair("erp.bytes", "-")]);
    assert_eq!(
        rows.iter().map(|row| row.table.as_str()).collect::<Vec<_>>()[..3],
        ["public.t", "pg_logical.messages", "public.t"]
    );
    assert_eq!((rows[0].commit_us, rows[1].commit_us), (rows[2].commit_us, rows[2].commit_us));
    assert_eq!(rows[3].value("bytes"), Some("ff00"));
    let cuts = log.followed().iter().filter(|frame| !frame.txn_end).count();
    assert_eq!(cuts, 0, "a message does not cut its transaction");
}

#[test]
fn a_message_outside_of_transactions_comes_although_the_one_around_it_was_rolled_back() {
    let (database, log, reader) = following("CREATE TABLE t (id int PRIMARY KEY)");
    database.sql(
        "BEGIN; INSERT INTO t VALUES (9); SELECT pg_logical_emit_message(false, 'erp.closed', '2026-11'); ROLLBACK",
    );
    database.sql("INSERT INTO t VALUES (1)");
    log.wait_for_rows(2);
    reader.stop();
    let rows = log.rows();
    assert_eq!(messages(&rows), [pair("erp.closed", "2026-11")]);
    assert!(rows[0].commit_us > rows[1].commit_us - 60_000_000 && rows[0].commit_us < rows[1].commit_us + 60_000_000);
}

#[test]
fn a_message_that_is_sent_again_is_the_same_row() {
    let (mut database, log, reader) = following("CREATE TABLE t (id int PRIMARY KEY)");
    let before = log.len();
    log.hold(true);
    database.sql("SELECT pg_logical_emit_message(false, 'erp.a', 'one')");
    database.sql("BEGIN; SELECT pg_logical_emit_message(true, 'erp.b', 'two'); INSERT INTO t VALUES (1); COMMIT");
    log.wait_for_rows(3);
    reader.stop();
    // Nothing of it was durable: the next session begins before.
    let again = Arc::new(log.upto(before));
    database.config.drain_to = Some(DrainTo::CurrentEnd);
    assert_eq!(Reader::start(&database.config, &again).end().unwrap(), Outcome::Drained);
    assert_eq!(again.state(), log.state());
    assert_eq!(again.state().len(), 3);
}

#[test]
fn a_message_of_a_part_that_was_rolled_back_never_comes_however_large_the_transaction() {
    let (database, log, reader) = following("CREATE TABLE t (id int PRIMARY KEY, note text)");
    let large = "SET logical_decoding_work_mem = '64kB'; BEGIN; SELECT pg_logical_emit_message(true, 'erp.a', 'first'); \
                 INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(1, 2000) i; \
                 SAVEPOINT s; SELECT pg_logical_emit_message(true, 'erp.a', 'void'); \
                 INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(3001, 5000) i; ROLLBACK TO s; \
                 SELECT pg_logical_emit_message(true, 'erp.a', 'last'); COMMIT";
    database.sql(large);
    log.wait_for_rows(2002);
    reader.stop();
    assert_eq!(messages(&log.rows()), [pair("erp.a", "first"), pair("erp.a", "last")]);
}

#[test]
fn a_truncated_table_stops_the_source_where_that_is_wanted() {
    let mut database = Server::shared().database("CREATE TABLE t (id int PRIMARY KEY)");
    database.config.truncate = syncline_capture::postgres::Truncates::Stop;
    let log = Arc::new(MemoryLog::default());
    let reader = Reader::start(&database.config, &log);
    log.wait_for_copy();
    database.sql("INSERT INTO t VALUES (1)");
    log.wait_for_rows(1);
    database.sql("BEGIN; INSERT INTO t VALUES (5); TRUNCATE t; COMMIT");
    let error = reader.end().unwrap_err();
    assert_eq!(error.class(), Class::Definite);
    let error = error.to_string();
    assert!(error.contains("table public.t: was truncated at") && error.contains("truncate = \"apply\""), "{error}");
    assert_eq!(log.state().len(), 2, "its rows stay, and what came before is not lost");
    // Once that is allowed it goes on right there.
    database.config.truncate = syncline_capture::postgres::Truncates::Apply;
    let reader = Reader::start(&database.config, &log);
    database.sql("INSERT INTO t VALUES (2)");
    log.wait_for_rows(4);
    reader.stop();
    assert_eq!((log.row_count(), log.state().len()), (4, 1));
}
