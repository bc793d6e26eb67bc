//! Servers and positions that cannot be read, and what is said of them.

use std::sync::Arc;

use syncline_capture::mysql::{Address, Host, MySqlConfig, check, follow};
use syncline_capture::{CaptureError, Class, Progress, Requests, Resume, StopSignal};
use syncline_schemas::ident::Position;

use crate::log::{MemoryLog, drain, drain_with};
use crate::server::{Server, eventually, mysql};

const TABLE: &str = "CREATE TABLE stock (id int PRIMARY KEY)";

#[test]
fn a_log_that_was_purged_stops_the_source_with_what_to_do() {
    let server = Arc::new(Server::start(&[]));
    let database = server.database(TABLE);
    let log = MemoryLog::default();
    drain(&database, &log).unwrap();
    database.sql("INSERT INTO stock VALUES (1); FLUSH BINARY LOGS; INSERT INTO stock VALUES (2); FLUSH BINARY LOGS");
    let newest = database.sql("SHOW BINARY LOGS").lines().last().unwrap().split('\t').next().unwrap().to_owned();
    // A file that a session of the last reader still holds is not purged.
    eventually("the log to be purged", || {
        database.sql(&format!("PURGE BINARY LOGS TO '{newest}'"));
        database.sql("SHOW BINARY LOGS").lines().count() == 1
    });
    let error = drain(&database, &log).unwrap_err();
    assert_eq!(error.class(), Class::Definite, "{error}");
    // MySQL says what it has purged, MariaDB that it no longer has what was asked for.
    let said = if mysql().is_some() { "has purged its log up to" } else { "1236" };
    assert!(error.to_string().contains(said) && error.to_string().contains("--reread"), "{error}");
}

#[test]
fn another_server_is_not_taken_for_the_one_that_was_read() {
    let database = Server::shared().database(TABLE);
    let log = MemoryLog::default();
    drain(&database, &log).unwrap();
    // A MySQL is another one by its number, a MariaDB by its domain.
    let other = Arc::new(Server::start(if mysql().is_some() { &[] } else { &["--gtid-domain-id=9"] }));
    let elsewhere = other.database(TABLE);
    let config = MySqlConfig { hosts: elsewhere.config.hosts.clone(), ..database.config.clone() };
    let error = drain_with(&config, &log).unwrap_err();
    assert!(matches!(error, CaptureError::Position { .. }) && error.class() == Class::Definite, "{error}");
}

#[test]
fn what_was_read_of_a_mysql_is_not_looked_for_on_a_mariadb_nor_the_other_way_round() {
    let database = Server::shared().database(TABLE);
    let is_mariadb = mysql().is_none();
    // Of no transactions, no tables and no server: those that have the rest behind their kind.
    let position = [&[2, u8::from(!is_mariadb)][..], &[0; 24]].concat();
    let resume = Resume { position: Position::new(position), txn_end: true };
    let log = MemoryLog::default();
    let (progress, requests, stop) = (Progress::default(), Requests::default(), StopSignal::default());
    let error = follow(&database.config, Some(&resume), &log, &progress, &requests, &stop).unwrap_err();
    let wanted = if is_mariadb { "it is a MariaDB" } else { "it is a MySQL" };
    assert!(error.class() == Class::Definite && error.to_string().contains(wanted), "{error}");
}

#[test]
fn a_reader_whose_number_somebody_else_has_taken_says_so_and_not_that_the_log_is_gone() {
    let database = Server::shared().database(TABLE);
    let reader = std::thread::spawn({
        let config = database.config.clone();
        move || {
            let (log, progress, stop) = (MemoryLog::default(), Progress::default(), StopSignal::default());
            follow(&config, None, &log, &progress, &Requests::default(), &stop)
        }
    });
    let log = MemoryLog::default();
    // A session that comes before the server knows of the first one does it no harm, and may be the one that is ended.
    eventually("the first session to be ended", || drain(&database, &log).is_ok() && reader.is_finished());
    let error = reader.join().unwrap().unwrap_err();
    assert!(error.to_string().contains("set server_id") && error.class() == Class::Definite, "{error}");
}

#[test]
fn settings_under_which_rows_cannot_be_followed_are_named_with_their_remedy() {
    let server = Arc::new(Server::start(&[
        "--binlog-row-metadata=MINIMAL",
        "--binlog-format=MIXED",
        "--binlog-row-image=MINIMAL",
    ]));
    let database = server.database(TABLE);
    let findings: Vec<String> =
        check(&database.config).iter().map(|finding| format!("{}: {}", finding.object, finding.remedy)).collect();
    for wanted in ["binlog_row_metadata = 'FULL'", "binlog_format = 'ROW'", "binlog_row_image = 'FULL'"] {
        assert!(findings.iter().any(|finding| finding.contains(wanted)), "{wanted}: {findings:?}");
    }
    let error = drain(&database, &MemoryLog::default()).unwrap_err();
    assert!(matches!(error, CaptureError::Unfit { .. }), "{error}");
    let nowhere = Address { host: Host::Unix("/nonexistent".into()), port: 3306 };
    let nowhere = MySqlConfig { hosts: vec![nowhere], ..database.config.clone() };
    assert!(check(&nowhere)[0].message.contains("cannot reach"));
    let stranger = MySqlConfig { user: "nobody_at_all".to_owned(), ..database.config.clone() };
    // A MySQL does not let on that a user is not there.
    assert!(check(&stranger)[0].message.contains("check the user name"), "{:?}", check(&stranger));
}

#[test]
fn a_session_that_logs_statements_or_leaves_names_out_stops_the_source() {
    // Its own server: a statement stops every reader.
    let database = Arc::new(Server::start(&[])).database(TABLE);
    let log = MemoryLog::default();
    drain(&database, &log).unwrap();
    database.sql("INSERT INTO stock VALUES (1)");
    database.sql("SET SESSION binlog_format = 'STATEMENT'; INSERT INTO stock VALUES (2)");
    let error = drain(&database, &log).unwrap_err();
    assert!(error.to_string().contains("logged as a statement"), "{error}");
    assert_eq!(error.class(), Class::Definite);
}

#[test]
fn changes_that_a_server_keeps_out_of_its_log_are_not_missed_without_a_word() {
    let server = Arc::new(Server::start(&["--binlog-ignore-db=other"]));
    let error = drain(&server.database(TABLE), &MemoryLog::default()).unwrap_err();
    assert!(matches!(error, CaptureError::Unfit { .. }) && error.to_string().contains("binlog_ignore_db"), "{error}");
    let settings: &[&str] =
        if mysql().is_some() { &["--log-replica-updates=OFF"] } else { &["--log-slave-updates=OFF"] };
    let database = Arc::new(Server::start(settings)).database(TABLE);
    if mysql().is_none() {
        // What makes a MariaDB a replica.
        database.sql("SET GLOBAL gtid_slave_pos = CONCAT(@@GLOBAL.gtid_binlog_pos, ',5-9-3')");
    }
    let error = drain(&database, &MemoryLog::default()).unwrap_err();
    assert!(matches!(error, CaptureError::Unfit { .. }) && error.to_string().contains("as a replica"), "{error}");
}

#[test]
fn a_table_that_a_statement_writes_in_capitals_is_the_one_that_is_read() {
    let database = Arc::new(Server::start(&["--lower-case-table-names=1"])).database(TABLE);
    let log = MemoryLog::default();
    drain(&database, &log).unwrap();
    database.sql("INSERT INTO Stock VALUES (1), (2); TRUNCATE TABLE STOCK; INSERT INTO stock VALUES (3)");
    drain(&database, &log).unwrap();
    let keys: Vec<String> = log.fold().1.into_keys().map(|(_, key)| key).collect();
    assert_eq!(keys, ["3"]);
}
