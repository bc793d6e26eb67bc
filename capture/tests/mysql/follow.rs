//! Following the log of a server that is at work.

use std::sync::Arc;

use syncline_capture::mysql::{MySqlConfig, follow};
use syncline_capture::{CaptureError, Class, LogSink, Outcome, Progress, Requests, StopSignal};
use syncline_schemas::frame::Op;

use crate::log::{MemoryLog, State, drain};
use crate::server::{Database, Server, eventually};

/// The table `stock` as the server has it.
fn content(database: &Database) -> State {
    let rows = database.sql("SELECT id, qty, IFNULL(note, 'NULL') FROM stock ORDER BY id");
    let row = |line: &str| {
        let values: Vec<&str> = line.split('\t').collect();
        let named =
            ["id", "qty", "note"].iter().zip(&values).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        (("stock".to_owned(), values[0].to_owned()), named.collect())
    };
    rows.lines().map(row).collect()
}

const STOCK: &str = "CREATE TABLE stock (id int PRIMARY KEY, qty decimal(12,3), note varchar(60))";

/// Changes of every kind, several transactions; `from` keeps the keys of several runs apart.
fn work(database: &Database, from: i32) {
    database.sql(&format!(
        "BEGIN; INSERT INTO stock SELECT seq, seq / 8, 'new' FROM seq_{from}_to_{}; UPDATE stock SET qty = qty + 1; COMMIT;
         UPDATE stock SET id = id + 100000 WHERE id = {from}; DELETE FROM stock WHERE id = {};
         SET SESSION binlog_row_image = 'MINIMAL'; UPDATE stock SET note = NULL WHERE id = {};",
        from + 99,
        from + 1,
        from + 2,
    ));
}

#[test]
fn rows_of_every_kind_of_change_arrive_once_and_in_order() {
    let database = Server::shared().database(STOCK);
    let log = MemoryLog::default();
    assert_eq!(drain(&database, &log).unwrap(), Outcome::Drained);
    work(&database, 1);
    assert_eq!(drain(&database, &log).unwrap(), Outcome::Drained);
    let (ops, state) = log.fold();
    assert_eq!(state, content(&database));
    let count = |wanted: Op| ops.iter().filter(|op| **op == wanted).count();
    assert_eq!([Op::Insert, Op::Update, Op::Delete, Op::MoveOut, Op::MoveIn].map(count), [100, 101, 1, 1, 1]);
    // Nothing new: a session brings no row again.
    assert_eq!(drain(&database, &log).unwrap(), Outcome::Drained);
    assert_eq!(log.fold().0.len(), ops.len());
}

#[test]
fn a_log_that_fails_anywhere_loses_no_row_and_repeats_none() {
    let database = Server::shared().database(STOCK);
    let log = MemoryLog::default();
    drain(&database, &log).unwrap();
    // One transaction of several frames, and small ones behind it.
    database.sql("INSERT INTO stock SELECT seq, 1, REPEAT('x', 50) FROM seq_1_to_50000");
    work(&database, 60_000);
    let mut sessions = 0;
    loop {
        let entries = log.frames().len() + 2 + sessions;
        *log.fails_at.lock().unwrap() = (sessions < 20).then_some(entries);
        sessions += 1;
        match drain(&database, &log) {
            Ok(outcome) => break assert_eq!(outcome, Outcome::Drained),
            Err(error) => assert!(matches!(error, CaptureError::Log { .. }), "{error}"),
        }
    }
    assert!(sessions > 2 && log.frames().iter().any(|frame| !frame.txn_end), "{sessions} sessions");
    let (ops, state) = log.fold();
    assert_eq!(state, content(&database));
    assert_eq!(ops.iter().filter(|op| **op == Op::Insert).count(), 50_100);
}

#[test]
fn a_session_that_the_server_ends_is_tried_again_and_a_stopped_one_ends() {
    // Its own server, so that no other test's session is ended.
    let database = Arc::new(Server::start(&[])).database(STOCK);
    let log = Arc::new(MemoryLog::default());
    let stop = StopSignal::default();
    let run = |config: &MySqlConfig| {
        let (config, log, stop) = (config.clone(), Arc::clone(&log), stop.clone());
        std::thread::spawn(move || {
            follow(&config, log.resume().as_ref(), &*log, &Progress::default(), &Requests::default(), &stop)
        })
    };
    let reader = run(&database.config);
    log.wait_for_frames(1);
    // The session that sends the log, which shows its reader's number.
    let mut dump = String::new();
    eventually("the server to send its log", || {
        dump =
            database.sql("SELECT ID FROM information_schema.PROCESSLIST WHERE COMMAND LIKE 'Binlog Dump%' ORDER BY ID");
        !dump.is_empty()
    });
    database.sql("INSERT INTO stock VALUES (1, 1, NULL)");
    log.wait_for_frames(2);
    for id in dump.lines() {
        let _ = database.server.try_sql("mysql", &format!("KILL {id}"));
    }
    let error = reader.join().unwrap().unwrap_err();
    assert_eq!(error.class(), Class::Transient, "{error}");
    let reader = run(&database.config);
    database.sql("INSERT INTO stock VALUES (2, 1, NULL)");
    eventually("the row", || log.fold().1.len() == 2);
    stop.stop();
    assert_eq!(reader.join().unwrap().unwrap(), Outcome::Stopped);
    assert_eq!(log.fold().1, content(&database));
}

#[test]
fn a_changed_table_is_followed_and_a_dropped_one_stops_the_source() {
    let database = Server::shared().database(STOCK);
    let log = MemoryLog::default();
    drain(&database, &log).unwrap();
    database.sql(
        "INSERT INTO stock VALUES (1, 1, 'a'); ALTER TABLE stock ADD COLUMN lot int FIRST, DROP COLUMN note;
                  INSERT INTO stock VALUES (7, 2, 3.5); TRUNCATE TABLE stock; INSERT INTO stock VALUES (8, 3, 4.5)",
    );
    drain(&database, &log).unwrap();
    let (ops, state) = log.fold();
    assert_eq!(ops, [Op::Insert, Op::Insert, Op::Truncate, Op::Insert]);
    let row = &state[&("stock".to_owned(), "3".to_owned())];
    assert_eq!((row["lot"].as_str(), row["qty"].as_str(), row.get("note")), ("8", "4.500", None));
    database.sql("INSERT INTO stock VALUES (9, 4, 1); DROP TABLE stock");
    let error = drain(&database, &log).unwrap_err();
    assert!(error.class() == Class::Definite && error.to_string().contains("dropped"), "{error}");
    assert_eq!(log.fold().1.len(), 2, "what came before is kept");
}

#[test]
fn a_planner_is_not_told_of_a_moment_whose_changes_have_not_come() {
    let database = Server::shared().database(STOCK);
    let (log, stop) = (Arc::new(MemoryLog::default()), StopSignal::default());
    let progress = Arc::new(Progress::default());
    let reader = {
        let (config, log, stop) = (database.config.clone(), Arc::clone(&log), stop.clone());
        let progress = Arc::clone(&progress);
        std::thread::spawn(move || follow(&config, None, &*log, &progress, &Requests::default(), &stop))
    };
    log.wait_for_frames(1);
    let moment = || -> i64 { database.sql("SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)").parse().unwrap() };
    for id in 1..=20 {
        database.sql(&format!("INSERT INTO stock VALUES ({id}, 1, 'x')"));
        let after = moment();
        let mut complete = None;
        eventually("the moment to be reached", || {
            progress.want_proof();
            complete = progress.complete_through(log.durable().unwrap());
            assert!(complete.is_none_or(|at| at < after || log.fold().1.len() >= id), "row {id} at {complete:?}");
            complete.is_some_and(|at| at > after)
        });
        assert!(complete.unwrap() <= moment(), "not beyond now");
    }
    stop.stop();
    reader.join().unwrap().unwrap();
}
