//! Logs that do not tell what follows, and what is found in the tables.

use std::sync::Arc;

use syncline_capture::mysql::{LogGap, MySqlConfig, SnapshotMode, check};
use syncline_capture::{CaptureError, Class, Outcome, Severity};
use syncline_schemas::frame::Op;

use crate::copying::{assert_same, content, copying};
use crate::log::{MemoryLog, Reader, State, drain_with};
use crate::server::{Database, Server, eventually, mysql};

const TABLES: &str = "CREATE TABLE stock (id int PRIMARY KEY, note varchar(60));
     CREATE TABLE moves (id int PRIMARY KEY, note varchar(60));
     INSERT INTO stock SELECT seq, 'old' FROM seq_1_to_3000; INSERT INTO moves SELECT seq, 'old' FROM seq_1_to_3000";

/// What nobody tells of.
const UNSEEN: &str = "DELETE FROM stock WHERE id % 7 = 0; UPDATE stock SET note = 'new' WHERE id % 5 = 0;
     INSERT INTO stock SELECT 5000 + seq, 'come' FROM seq_1_to_100; TRUNCATE TABLE moves; INSERT INTO moves VALUES (1, 'only')";

fn both(database: &Database) -> State {
    let mut state = content(database, "stock", &["id"], &["id", "note"]);
    state.extend(content(database, "moves", &["id"], &["id", "note"]));
    state
}

/// A source whose tables were copied, on a server of its own.
fn copied(settings: &[&str]) -> (Database, MySqlConfig, Arc<MemoryLog>) {
    let database = Arc::new(Server::start(settings)).database(TABLES);
    let config = copying(&database);
    let log = Arc::new(MemoryLog::default());
    assert_eq!(drain_with(&config, &log).unwrap(), Outcome::Drained);
    (database, config, log)
}

fn files(database: &Database) -> Vec<String> {
    let rows = database.sql("SHOW BINARY LOGS");
    rows.lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect()
}

/// Has the server forget all that it has logged but for its newest file.
fn purge(database: &Database) {
    database.sql("FLUSH BINARY LOGS");
    database.sql("INSERT INTO moves VALUES (9000, 'of the file before the last'); FLUSH BINARY LOGS");
    let newest = files(database).pop().unwrap();
    // A file that a session of the last reader still holds is not purged.
    eventually("the log to be purged", || {
        database.sql(&format!("PURGE BINARY LOGS TO '{newest}'"));
        files(database).len() == 1
    });
}

/// Has the server forget all that it has logged, and that it has.
fn reset(database: &Database) {
    let reset = if mysql().is_some() { "RESET BINARY LOGS AND GTIDS" } else { "RESET MASTER" };
    // The last reader's session may still hold a file.
    eventually("the log to be reset", || database.server.try_sql("mysql", reset).is_ok());
}

/// Transactions that the server has executed.
fn executed(database: &Database) -> String {
    database.sql(if mysql().is_some() { "SELECT @@GLOBAL.gtid_executed" } else { "SELECT @@GLOBAL.gtid_binlog_pos" })
}

/// Makes a server one that knows of no more than these.
fn set_back(database: &Database, to: &str) {
    reset(database);
    let variable = if mysql().is_some() { "gtid_purged" } else { "gtid_binlog_state" };
    database.sql(&format!("SET GLOBAL {variable} = '{to}'"));
}

/// Behind so many frames there is one unit that begins with taking both tables back, and then whole transactions.
fn assert_is_one_unit(log: &MemoryLog, before: usize) {
    let frames = log.frames().split_off(before);
    assert_eq!(frames[0].batches.len(), 2, "it begins with taking both tables back");
    assert!(frames.last().unwrap().txn_end, "it has ended");
    let end = frames.iter().position(|frame| frame.txn_end).unwrap();
    assert!(end > 1 && frames[end..].iter().all(|frame| frame.txn_end), "nobody sees a half of it");
}

fn voids(log: &MemoryLog) -> usize {
    log.fold().0.iter().filter(|op| **op == Op::Truncate).count()
}

#[test]
fn a_log_that_was_purged_loses_nothing_that_the_tables_still_say() {
    let (database, config, log) = copied(&[]);
    database.sql(UNSEEN);
    purge(&database);
    let before = log.frames().len();
    assert_eq!(drain_with(&config, &log).unwrap(), Outcome::Drained);
    assert_same(&log.fold().1, &both(&database));
    assert_is_one_unit(&log, before);
    // It goes on as if nothing had been.
    let voids_before = voids(&log);
    database.sql("UPDATE stock SET note = 'later' WHERE id = 5001; DELETE FROM moves");
    drain_with(&config, &log).unwrap();
    assert_same(&log.fold().1, &both(&database));
    assert_eq!(voids(&log), voids_before, "each table was read anew once");
}

#[test]
fn a_source_that_is_to_stop_at_a_gap_stops_and_says_what_is_lost() {
    let (database, config, log) = copied(&[]);
    database.sql(UNSEEN);
    purge(&database);
    let careful = MySqlConfig { log_gap: LogGap::Stop, ..config.clone() };
    let uncopied = MySqlConfig { snapshot: SnapshotMode::Never, ..config.clone() };
    let before = log.len();
    for config in [careful, uncopied] {
        let error = drain_with(&config, &log).unwrap_err();
        let said = if mysql().is_some() { "has purged its log up to" } else { "1236" };
        assert!(error.class() == Class::Definite && error.to_string().contains(said), "{error}");
        assert!(error.to_string().contains("--reread"), "{error}");
    }
    assert_eq!(log.len(), before, "nothing was taken back");
    drain_with(&config, &log).unwrap();
    assert_same(&log.fold().1, &both(&database));
}

#[test]
fn a_server_whose_log_was_reset_is_read_anew() {
    let (database, config, log) = copied(&[]);
    database.sql(UNSEEN);
    reset(&database);
    // Without a transaction since, and then with some.
    drain_with(&config, &log).unwrap();
    assert_same(&log.fold().1, &both(&database));
    database.sql("UPDATE stock SET note = 'behind it' WHERE id < 9");
    drain_with(&config, &log).unwrap();
    assert_same(&log.fold().1, &both(&database));
    let error = {
        reset(&database);
        drain_with(&MySqlConfig { log_gap: LogGap::Stop, ..config }, &log).unwrap_err()
    };
    assert!(matches!(error, CaptureError::Position { .. }) && error.to_string().contains("the server lacks"));
}

#[test]
fn what_a_new_primary_lacks_is_taken_back() {
    let (database, config, log) = copied(&[]);
    let common = executed(&database);
    database.sql("UPDATE stock SET note = 'of the old primary' WHERE id < 100; INSERT INTO stock VALUES (7000, 'of the old primary')");
    drain_with(&config, &log).unwrap();
    // A replica that had not got it, and went on without it.
    set_back(&database, &common);
    database
        .sql("SET sql_log_bin = 0; UPDATE stock SET note = 'old' WHERE id < 100; DELETE FROM stock WHERE id = 7000");
    if mysql().is_none() {
        // With a number of its own.
        database.sql("SET GLOBAL server_id = 8");
    }
    database.sql("INSERT INTO stock VALUES (8000, 'of the new primary')");
    drain_with(&config, &log).unwrap();
    assert_same(&log.fold().1, &both(&database));
}

#[test]
fn a_replica_that_is_late_takes_nothing_back() {
    let (database, config, log) = copied(&[]);
    let common = executed(&database);
    database.sql("UPDATE stock SET note = 'of the primary'");
    drain_with(&config, &log).unwrap();
    set_back(&database, &common);
    database.sql("SET GLOBAL read_only = 1");
    let before = log.len();
    let error = drain_with(&config, &log).unwrap_err();
    assert!(error.to_string().contains("was read"), "{error}");
    assert_eq!(log.len(), before, "nothing was taken back");
}

#[test]
fn a_server_that_knows_nothing_of_what_was_read_takes_nothing_back() {
    let (database, config, log) = copied(&[]);
    let before = (log.len(), log.fold().1);
    // As it was just set up, with tables of the same names.
    let other = Arc::new(Server::start(&["--server-id=8"]));
    let elsewhere = other.database("SELECT 1");
    database.sql("SELECT 1");
    other.try_sql("mysql", &format!("CREATE DATABASE IF NOT EXISTS {}", database.name)).unwrap();
    other.try_sql(&database.name, "CREATE TABLE stock (id int PRIMARY KEY, note varchar(60))").unwrap();
    let config = MySqlConfig { hosts: elsewhere.config.hosts.clone(), ..config };
    let error = drain_with(&config, &log).unwrap_err();
    assert!(matches!(error, CaptureError::Position { .. }) && error.class() == Class::Definite, "{error}");
    // Empty, as after somebody wiped what it had logged.
    reset(&elsewhere);
    let error = drain_with(&config, &log).unwrap_err();
    assert!(matches!(error, CaptureError::Position { .. }) && error.class() == Class::Definite, "{error}");
    assert_eq!((log.len(), log.fold().1), before);
}

#[test]
fn a_gap_that_is_half_closed_when_we_are_killed_is_closed_by_the_next_start() {
    let (database, config, log) = copied(&[]);
    database.sql(UNSEEN);
    purge(&database);
    for more in 1..4 {
        *log.fails_at.lock().unwrap() = Some(log.len() + 2 + more);
        drain_with(&config, &log).unwrap_err();
        assert!(!log.frames().last().unwrap().txn_end, "it is under way");
        database.sql(&format!(
            "UPDATE stock SET note = 'meanwhile' WHERE id = {more}; DELETE FROM stock WHERE id = 1{more}"
        ));
    }
    // And once more behind what the repair began with.
    database.sql("DELETE FROM stock WHERE id % 11 = 0");
    purge_again(&database);
    *log.fails_at.lock().unwrap() = None;
    drain_with(&config, &log).unwrap();
    assert_same(&log.fold().1, &both(&database));
}

fn purge_again(database: &Database) {
    database.sql("DELETE FROM moves WHERE id = 9000");
    purge(database);
}

#[test]
fn a_table_that_went_while_nobody_told_is_not_left_behind_without_a_word() {
    let (database, config, log) = copied(&[]);
    database.sql("DROP TABLE moves; INSERT INTO stock VALUES (6000, 'come'); CREATE TABLE other (id int PRIMARY KEY)");
    database.sql("FLUSH BINARY LOGS; INSERT INTO other VALUES (1); FLUSH BINARY LOGS");
    let newest = files(&database).pop().unwrap();
    eventually("the log to be purged", || {
        database.sql(&format!("PURGE BINARY LOGS TO '{newest}'"));
        files(&database).len() == 1
    });
    let before = log.len();
    let error = drain_with(&config, &log).unwrap_err();
    assert!(error.class() == Class::Definite && error.to_string().contains("moves: was read before"), "{error}");
    assert_eq!(log.len(), before);
}

#[test]
fn how_much_is_not_read_and_how_long_that_is_there_is_known() {
    let (database, config, log) = copied(&["--binlog-expire-logs-seconds=3600"]);
    let found = check(&config);
    let finding = found.iter().find(|finding| finding.object == "setting binlog_expire_logs_seconds").unwrap();
    assert!(finding.severity == Severity::Warning && finding.message.contains("after 1 h 0 min"), "{finding:?}");
    let reader = Reader::start(&config, &log);
    eventually("all to be read", || reader.progress.behind_bytes() == Some(0));
    let left = reader.progress.log_headroom().unwrap().as_secs();
    assert!((3_000..=3_600).contains(&left), "whoever reads the newest file has all of the time: {left}");
    reader.stop();
    // More than is sent at once.
    database.sql("SET GLOBAL binlog_expire_logs_seconds = 0; UPDATE moves SET note = REPEAT('x', 60)");
    (0..20).for_each(|_| drop(database.sql("UPDATE stock SET note = REPEAT('y', 50); UPDATE stock SET note = 'z'")));
    let reader = Reader::start(&config, &log);
    eventually("it to be behind", || reader.progress.behind_bytes() > Some(0));
    eventually("it to be kept for ever", || {
        reader.progress.behind_bytes() == Some(0) && reader.progress.log_headroom().is_none()
    });
    reader.stop();
}
