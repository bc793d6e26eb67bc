//! Networks that break and servers that go away for a while, in the middle of whatever there is.

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::process::Signal;
use syncline_capture::mysql::{Address, Host, MySqlConfig, SnapshotMode, describe_position};
use syncline_capture::{CaptureError, Class, Outcome, Resume};
use syncline_schemas::frame::Op;
use syncline_schemas::secret::Secret;

use crate::log::{MemoryLog, Reader, drain_with};
use crate::proxy::Proxy;
use crate::server::{Database, Server, eventually, mysql};

const STOCK: &str = "CREATE TABLE stock (id int PRIMARY KEY, note varchar(200))";

fn filled(server: Server, rows: u32) -> Database {
    let database = Arc::new(server).database(STOCK);
    database.sql(&format!("INSERT INTO stock SELECT seq, REPEAT('x', 100) FROM seq_1_to_{rows}"));
    database
}

fn assert_whole(database: &Database, log: &MemoryLog) {
    let held = log.fold().1;
    let wanted = database.sql("SELECT id, note FROM stock");
    assert_eq!(held.len(), wanted.lines().count());
    for line in wanted.lines() {
        let (id, note) = line.split_once('\t').unwrap();
        assert_eq!(held[&("stock".to_owned(), id.to_owned())]["note"], note, "{id}");
    }
}

fn count(log: &MemoryLog, wanted: Op) -> usize {
    log.fold().0.iter().filter(|op| **op == wanted).count()
}

/// Waits until the reader has all that the server has.
fn wait_for_all(database: &Database, log: &MemoryLog) {
    let set = if mysql().is_some() { "SELECT @@GLOBAL.gtid_executed" } else { "SELECT @@GLOBAL.gtid_binlog_pos" };
    let set = database.sql(set);
    let has_all = |at: Resume| at.txn_end && describe_position(&at.position) == set;
    eventually("all to come", || log.resume().is_some_and(has_all));
}

/// Work on rows that no other round adds.
fn work(database: &Database, round: u32) {
    let (from, to) = (1_000_001 + round * 30_000, 1_030_000 + round * 30_000);
    database.sql(&format!(
        "INSERT INTO stock SELECT seq, REPEAT('y', 100) FROM seq_{from}_to_{to};
         UPDATE stock SET note = 'round {round}' WHERE id % 97 = {round}; DELETE FROM stock WHERE id % 1009 = {round}"
    ));
}

#[test]
fn a_network_that_is_cut_in_the_middle_of_copies_and_transactions_loses_and_doubles_nothing() {
    let (server, port) = Server::listening(&[]);
    let database = filled(server, 120_000);
    database.sql("CREATE USER far@'%' IDENTIFIED BY 'x'; GRANT ALL ON *.* TO far@'%'");
    let proxy = Proxy::to(port);
    let config = MySqlConfig {
        hosts: vec![Address { host: Host::Tcp("127.0.0.1".to_owned()), port: proxy.port }],
        user: "far".to_owned(),
        password: Some(Secret::new("x")),
        snapshot: SnapshotMode::Initial,
        ..database.config.clone()
    };
    let log = Arc::new(MemoryLog::default());
    let reader = Reader::start(&config, &log);
    for round in 0..6 {
        let had = log.len();
        eventually("something to come", || log.len() > had);
        proxy.cut();
        work(&database, round);
        proxy.mend();
    }
    wait_for_all(&database, &log);
    reader.stop();
    assert_whole(&database, &log);
    assert_eq!(count(&log, Op::Truncate), 1, "the copy goes on where it was");
}

#[test]
fn a_server_that_is_killed_or_restarted_while_its_log_is_followed_goes_on_where_it_was() {
    let (server, _) = Server::listening(&[]);
    let database = filled(server, 100);
    let log = Arc::new(MemoryLog::default());
    let reader = Reader::start(&database.config, &log);
    eventually("the session to begin", || log.len() > 0);
    for (round, signal) in (0_u32..).zip([Signal::KILL, Signal::TERM, Signal::KILL]) {
        let had = log.len();
        work(&database, round);
        eventually("some of it to come", || log.len() > had);
        database.server.end(signal);
        database.server.start_again();
    }
    wait_for_all(&database, &log);
    reader.stop();
    assert_eq!(count(&log, Op::Insert), 90_000, "each row came once");
    database.sql("DELETE FROM stock WHERE id BETWEEN 1 AND 100");
    drain_with(&database.config, &log).unwrap();
    assert_whole(&database, &log);
}

#[test]
fn a_copy_goes_on_where_it_was_on_the_server_that_was_killed_and_came_back() {
    let (server, _) = Server::listening(&[]);
    let database = filled(server, 230_000);
    let config = MySqlConfig { snapshot: SnapshotMode::Initial, ..database.config.clone() };
    let log = MemoryLog::default();
    *log.fails_at.lock().unwrap() = Some(12);
    assert!(matches!(drain_with(&config, &log), Err(CaptureError::Log { .. })));
    *log.fails_at.lock().unwrap() = None;
    database.server.end(Signal::KILL);
    let error = drain_with(&config, &log).unwrap_err();
    assert!(matches!(error, CaptureError::Unreachable { .. }) && error.class() == Class::Transient, "{error}");
    database.server.start_again();
    work(&database, 1);
    assert_eq!(drain_with(&config, &log).unwrap(), Outcome::Drained);
    assert_whole(&database, &log);
    assert_eq!(count(&log, Op::Truncate), 1, "it did not begin anew");
}

#[test]
fn a_server_that_has_no_room_for_another_session_is_asked_again_and_one_that_refuses_the_user_is_not() {
    let database = Arc::new(Server::start(&["--max-connections=10"])).database(STOCK);
    database.sql("CREATE USER reader@localhost IDENTIFIED BY 'x'; GRANT SELECT, REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO reader@localhost");
    let config = |password: &str| MySqlConfig {
        user: "reader".to_owned(),
        password: Some(Secret::new(password)),
        ..database.config.clone()
    };
    let log = MemoryLog::default();
    let wrong = drain_with(&config("wrong"), &log).unwrap_err();
    assert_eq!(wrong.class(), Class::Definite, "{wrong}");
    let Host::Unix(socket) = &database.config.hosts[0].host else { panic!("a socket") };
    // Whoever has connected and says nothing takes a place.
    let others: Vec<_> = (0..12).map(|_| UnixStream::connect(socket).unwrap()).collect();
    eventually("the server to be full", || {
        let full = drain_with(&config("x"), &log);
        full.is_err_and(|error| {
            assert!(error.class() == Class::Transient && error.to_string().contains("1040"), "{error}");
            true
        })
    });
    drop(others);
    eventually("room", || drain_with(&config("x"), &log).is_ok());
}
