//! A table read anew beside the stream, because somebody doubts what we hold of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use syncline_capture::Requests;
use syncline_capture::mysql::MySqlConfig;
use syncline_schemas::frame::Op;
use syncline_schemas::ident::TableId;

use crate::copying::{assert_same, content, copying};
use crate::log::{MemoryLog, Reader, State, drain_with};
use crate::server::{Database, PATIENCE, Server, eventually, mysql};

const TABLES: &str = "CREATE TABLE stock (id int PRIMARY KEY, note varchar(60));
     CREATE TABLE moves (id int PRIMARY KEY, note varchar(60));
     INSERT INTO stock SELECT seq, REPEAT('x', 1 + seq % 50) FROM seq_1_to_5000;
     INSERT INTO moves VALUES (1, 'old')";

fn both(database: &Database) -> State {
    let mut state = content(database, "stock", &["id"], &["id", "note"]);
    state.extend(content(database, "moves", &["id"], &["id", "note"]));
    state
}

fn named(database: &Database, table: &str) -> TableId {
    TableId::new(&database.name, table)
}

fn wait_until_whole(log: &MemoryLog) {
    eventually("all that has begun to end", || log.frames().last().is_some_and(|frame| frame.txn_end));
}

/// What nobody tells of.
fn in_silence(database: &Database, sql: &str) {
    database.sql(&format!("SET sql_log_bin = 0; {sql}"));
}

#[test]
fn rows_that_left_without_a_word_are_gone_once_their_table_was_read_anew() {
    let database = Server::shared().database(TABLES);
    let log = Arc::new(MemoryLog::default());
    let reader = Reader::start(&copying(&database), &log);
    wait_until_whole(&log);
    let before = log.frames().len();
    in_silence(
        &database,
        "DELETE FROM stock WHERE id <= 100; UPDATE stock SET note = 'other' WHERE id % 50 = 0; INSERT INTO stock VALUES (9000, 'come')",
    );
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for turn in 0..1_500 {
                if is_over.load(Ordering::Acquire) {
                    break;
                }
                database.sql(&format!(
                    "UPDATE stock SET note = 'turn {turn}' WHERE id = {}; DELETE FROM stock WHERE id = {};
                     INSERT INTO stock VALUES ({}, 'new'); INSERT INTO moves VALUES ({}, 'beside')",
                    200 + turn,
                    3000 + turn,
                    10_000 + turn,
                    2 + turn
                ));
            }
        });
        let asked = reader.requests.read_anew(named(&database, "stock"), PATIENCE);
        let begun = log.frames().len();
        eventually("the table to be read", || log.frames()[begun..].iter().any(|frame| frame.txn_end));
        is_over.store(true, Ordering::Release);
        asked.unwrap();
    });
    reader.stop();
    drain_with(&copying(&database), &log).unwrap();
    let (ops, state) = log.fold();
    assert_same(&state, &both(&database));
    let count = |wanted: Op| ops.iter().filter(|op| **op == wanted).count();
    assert_eq!(count(Op::Truncate), 3, "the two of the first copy, and the one that was asked for");
    // Of what is taken back and given again nobody sees a half.
    let mut is_open = false;
    for frame in &log.frames()[before..] {
        let voids = frame.batches.iter().any(|batch| batch.rows.num_rows() == 1 && is_void(batch));
        is_open |= voids;
        assert!(!(voids && frame.txn_end), "targets would see an empty table");
        is_open &= !frame.txn_end;
    }
    assert!(!is_open, "it has ended");
}

fn is_void(batch: &syncline_schemas::frame::TableBatch) -> bool {
    use arrow::array::AsArray;
    let ops = batch.rows.column_by_name(syncline_schemas::frame::OP).unwrap();
    ops.as_primitive::<arrow::datatypes::UInt8Type>().value(0) == Op::Truncate as u8
}

#[test]
fn a_table_that_is_not_read_is_not_read_anew_and_the_reason_is_told() {
    let database = Server::shared().database(TABLES);
    let log = Arc::new(MemoryLog::default());
    // Nothing was copied; what somebody doubts is.
    let reader = Reader::start(&database.config, &log);
    eventually("the log to be followed", || !log.frames().is_empty());
    let error = reader.requests.read_anew(named(&database, "nothing"), PATIENCE).unwrap_err();
    assert!(error.contains("nothing is not read: tables are named with their schema"), "{error}");
    let error = reader.requests.read_anew(TableId::new("mysql", "user"), PATIENCE).unwrap_err();
    assert!(error.contains("mysql.user is not read"), "{error}");
    database.sql("CREATE TABLE odd (id int PRIMARY KEY) ENGINE = MyISAM; CREATE TABLE loose (id int)");
    for (table, wanted) in [("odd", "has no transactions to copy it in"), ("loose", "has no primary key")] {
        let error = reader.requests.read_anew(named(&database, table), PATIENCE).unwrap_err();
        assert!(error.contains(wanted), "{error}");
    }
    reader.requests.read_anew(named(&database, "stock"), PATIENCE).unwrap();
    wait_until_whole(&log);
    database.sql("UPDATE stock SET note = 'later' WHERE id = 7; INSERT INTO moves VALUES (2, 'logged')");
    eventually("the row of the log", || log.fold().1.keys().any(|(table, _)| table == "moves"));
    reader.stop();
    let state = log.fold().1;
    let held = |table: &str| -> State {
        state.iter().filter(|((held, _), _)| held == table).map(|(key, row)| (key.clone(), row.clone())).collect()
    };
    assert_same(&held("stock"), &content(&database, "stock", &["id"], &["id", "note"]));
    assert_eq!(held("moves").len(), 1, "nobody asked for it");
}

#[test]
fn a_reading_that_is_killed_goes_on_where_it_was_and_begins_once() {
    // Its own server, so that nobody else moves the position.
    let database = Arc::new(Server::start(&[])).database(
        "CREATE TABLE big (id int PRIMARY KEY, note varchar(200));
         INSERT INTO big SELECT seq, REPEAT('y', 150) FROM seq_1_to_250000",
    );
    let config = copying(&database);
    let log = Arc::new(MemoryLog::default());
    drain_with(&config, &log).unwrap();
    in_silence(&database, "DELETE FROM big WHERE id % 10 = 3");
    let reader = Reader::start(&config, &log);
    // Behind what marks the session's start.
    let before = log.frames().len() + 1;
    log.wait_for_frames(before);
    *log.fails_at.lock().unwrap() = Some(log.len() + 6);
    reader.requests.read_anew(named(&database, "big"), PATIENCE).unwrap();
    assert!(reader.end().is_err(), "the log refused");
    assert!(!log.frames().last().unwrap().txn_end, "it was under way");
    *log.fails_at.lock().unwrap() = None;
    // It is in the position alone that it goes on.
    drain_with(&config, &log).unwrap();
    let (ops, state) = log.fold();
    assert_eq!(ops.iter().filter(|op| **op == Op::Truncate).count(), 2, "the first copy, and one beginning");
    assert_same(&state, &content(&database, "big", &["id"], &["id", "note"]));
}

#[test]
fn whoever_asks_while_the_tables_are_copied_is_told_so() {
    let database = Server::shared().database(TABLES);
    let (log, requests) = (Arc::new(MemoryLog::default()), Requests::default());
    let asked = std::thread::spawn({
        let (requests, table) = (requests.clone(), named(&database, "stock"));
        move || requests.read_anew(table, PATIENCE)
    });
    eventually("somebody to wait", || format!("{requests:?}").contains("stock"));
    let reader = Reader::start_with(&copying(&database), &log, requests);
    let error = asked.join().unwrap().unwrap_err();
    assert_eq!(error, "the tables of the source are being copied already");
    wait_until_whole(&log);
    reader.stop();
    assert_same(&log.fold().1, &both(&database));
}

#[test]
fn a_user_without_the_rights_is_told_which_and_the_source_goes_on() {
    if mysql().is_some() {
        // It tells everybody where its log ends.
        return;
    }
    let server = Arc::new(Server::start(&[]));
    let database = server.database(TABLES);
    database.sql(&format!(
        "CREATE USER poor@localhost; GRANT REPLICATION SLAVE ON *.* TO poor@localhost; GRANT SELECT ON {}.* TO poor@localhost",
        database.name
    ));
    let config = MySqlConfig { user: "poor".to_owned(), ..database.config.clone() };
    let log = Arc::new(MemoryLog::default());
    let reader = Reader::start(&config, &log);
    eventually("the log to be followed", || !log.frames().is_empty());
    let error = reader.requests.read_anew(named(&database, "stock"), PATIENCE).unwrap_err();
    assert!(error.contains("GRANT BINLOG MONITOR"), "{error}");
    database.sql("INSERT INTO moves VALUES (2, 'logged')");
    eventually("the row of the log", || log.fold().1.keys().any(|(table, _)| table == "moves"));
    database.sql("GRANT BINLOG MONITOR ON *.* TO poor@localhost");
    reader.requests.read_anew(named(&database, "stock"), PATIENCE).unwrap();
    wait_until_whole(&log);
    reader.stop();
}
