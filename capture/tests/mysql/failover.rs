//! A primary that dies, and a replica that takes its place.

use std::sync::Arc;

use rustix::process::Signal;
use syncline_capture::mysql::{LogGap, MySqlConfig, SnapshotMode, check};
use syncline_capture::{CaptureError, Class, Outcome, Progress, Severity};
use syncline_schemas::frame::Op;

use crate::log::{MemoryLog, Reader, State, drain_on, drain_with};
use crate::server::{Database, Server, eventually, mysql};

const STOCK: &str = "CREATE TABLE stock (id int PRIMARY KEY, qty int, note varchar(200))";

/// Two servers, of which one replicates from the other, and a source that may be read from either.
struct Pair {
    /// On the primary.
    database: Database,
    replica: Arc<Server>,
    config: MySqlConfig,
}

impl Pair {
    fn start() -> Self {
        let of_mariadb: &[&str] = if mysql().is_some() { &[] } else { &["--log-slave-updates=ON"] };
        let (primary, port) = Server::listening(of_mariadb);
        let (replica, _) = Server::listening(&[of_mariadb, &["--server-id=8"]].concat());
        primary
            .try_sql("mysql", "CREATE USER repl@'%' IDENTIFIED BY 'x'; GRANT REPLICATION SLAVE ON *.* TO repl@'%'")
            .unwrap();
        let at = |word: &str| {
            format!("{word}_HOST = '127.0.0.1', {word}_PORT = {port}, {word}_USER = 'repl', {word}_PASSWORD = 'x'")
        };
        let follows = if mysql().is_some() {
            format!(
                "CHANGE REPLICATION SOURCE TO {}, SOURCE_AUTO_POSITION = 1, GET_SOURCE_PUBLIC_KEY = 1; START REPLICA",
                at("SOURCE")
            )
        } else {
            format!("CHANGE MASTER TO {}, MASTER_USE_GTID = slave_pos; START SLAVE", at("MASTER"))
        };
        replica.try_sql("mysql", &follows).unwrap();
        let database = Arc::new(primary).database(STOCK);
        let hosts = vec![database.server.address(), replica.address()];
        let config = MySqlConfig { hosts, snapshot: SnapshotMode::Initial, ..database.config.clone() };
        let pair = Self { database, replica: Arc::new(replica), config };
        pair.settle();
        pair
    }

    /// The source without the primary.
    fn of_replica(&self) -> MySqlConfig {
        MySqlConfig { hosts: vec![self.replica.address()], ..self.config.clone() }
    }

    fn replica_sql(&self, sql: &str) -> String {
        self.replica.try_sql(&self.database.name, sql).unwrap_or_else(|error| panic!("{sql}\n{error}"))
    }

    /// Waits until the replica has all that the primary has.
    fn settle(&self) {
        let set = if mysql().is_some() { "SELECT @@GLOBAL.gtid_executed" } else { "SELECT @@GLOBAL.gtid_binlog_pos" };
        let wanted = self.database.sql(set);
        eventually("the replica to have all", || self.replica.try_sql("mysql", set).is_ok_and(|set| set == wanted));
    }

    /// Ends the primary for good, and has the replica take its place.
    fn fail_over(&self) {
        self.database.server.end(Signal::KILL);
        self.replica_sql(if mysql().is_some() {
            "STOP REPLICA; RESET REPLICA ALL"
        } else {
            "STOP SLAVE; RESET SLAVE ALL"
        });
    }

    /// Whether the replica hears of what is new.
    fn listens(&self, listens: bool) {
        let (verb, word) =
            (if listens { "START" } else { "STOP" }, if mysql().is_some() { "REPLICA" } else { "SLAVE" });
        self.replica_sql(&format!("{verb} {word} IO_THREAD"));
    }

    /// The table as the replica has it.
    fn content(&self) -> State {
        let rows = self.replica_sql("SELECT id, qty, note FROM stock");
        let row = |line: &str| {
            let values: Vec<&str> = line.split('\t').collect();
            let named = ["id", "qty", "note"].iter().zip(&values);
            let named = named.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            (("stock".to_owned(), values[0].to_owned()), named.collect())
        };
        rows.lines().map(row).collect()
    }

    /// A primary that may come back is waited for before what it began is done again.
    fn assert_waits(&self, log: &MemoryLog) {
        let had = log.len();
        let error = drain_with(&self.config, log).unwrap_err();
        assert!(error.class() == Class::Transient && error.to_string().contains("came from another server"), "{error}");
        assert_eq!(log.len(), had);
    }

    fn assert_whole(&self, log: &MemoryLog) {
        let (held, wanted) = (log.fold().1, self.content());
        let differs = held.iter().find(|(key, row)| wanted.get(*key) != Some(*row));
        assert!(held.len() == wanted.len() && differs.is_none(), "{} of {}, {differs:?}", held.len(), wanted.len());
    }
}

fn count(log: &MemoryLog, wanted: Op) -> usize {
    log.fold().0.iter().filter(|op| **op == wanted).count()
}

/// Rows of many frames, in one transaction.
fn insert(from: u32, to: u32) -> String {
    format!("INSERT INTO stock SELECT seq, seq, REPEAT('x', 60) FROM seq_{from}_to_{to}")
}

#[test]
fn a_primary_that_is_killed_and_a_replica_that_takes_its_place_lose_no_row_and_bring_none_twice() {
    let pair = Pair::start();
    let log = Arc::new(MemoryLog::default());
    let reader = Reader::start(&pair.config, &log);
    eventually("the copy of nothing", || log.frames().iter().any(|frame| frame.txn_end));
    for id in 0..30 {
        pair.database.sql(&format!("INSERT INTO stock VALUES ({id}, 1, 'before'); UPDATE stock SET qty = qty + 1"));
    }
    let at = |reader: &Reader| reader.progress.server();
    let is_at_primary = at(&reader).is_some_and(|at| pair.database.config.address() == at);
    assert!(is_at_primary, "{:?}", at(&reader));
    pair.settle();
    pair.fail_over();
    for id in 30..60 {
        pair.replica_sql(&format!(
            "INSERT INTO stock VALUES ({id}, 1, 'after'); DELETE FROM stock WHERE id = {id} - 30"
        ));
    }
    eventually("the last row", || log.fold().1.keys().any(|(_, key)| key == "59") && count(&log, Op::Delete) == 30);
    assert_eq!(at(&reader), Some(pair.of_replica().address()));
    reader.stop();
    pair.assert_whole(&log);
    assert_eq!(count(&log, Op::Insert), 60);
}

#[test]
fn a_copy_whose_server_dies_begins_anew_on_another_and_shows_nothing_before_it_is_whole() {
    let pair = Pair::start();
    pair.database.sql(&insert(1, 230_000));
    let log = MemoryLog::default();
    *log.fails_at.lock().unwrap() = Some(9);
    assert!(matches!(drain_with(&pair.config, &log), Err(CaptureError::Log { .. })));
    *log.fails_at.lock().unwrap() = None;
    assert!((1..230_000).contains(&count(&log, Op::Read)), "it breaks off in the middle");
    pair.database.sql("DELETE FROM stock WHERE id % 1000 = 7; UPDATE stock SET note = 'late' WHERE id < 9");
    pair.settle();
    pair.fail_over();
    pair.replica_sql("INSERT INTO stock VALUES (0, 0, 'promoted'); DELETE FROM stock WHERE id = 1");
    pair.assert_waits(&log);
    assert_eq!(drain_with(&pair.of_replica(), &log).unwrap(), Outcome::Drained);
    pair.assert_whole(&log);
    let frames = log.frames();
    assert_eq!(count(&log, Op::Truncate), 2, "what the first server gave is taken back");
    let whole = frames.iter().position(|frame| frame.txn_end).unwrap();
    let after = frames[whole + 1..].iter().flat_map(|frame| &frame.batches).count();
    assert_eq!(after, 0, "the whole copy is one unit");
    // And goes on as ever, on the only one that is left.
    pair.replica_sql("INSERT INTO stock VALUES (-1, 0, 'next')");
    drain_with(&pair.config, &log).unwrap();
    pair.assert_whole(&log);
}

#[test]
fn half_a_transaction_of_a_server_that_died_is_not_put_together_with_another_ones() {
    let pair = Pair::start();
    pair.database.sql("INSERT INTO stock VALUES (0, 0, 'first')");
    let never = MySqlConfig { snapshot: SnapshotMode::Never, ..pair.config.clone() };
    let logs = [MemoryLog::default(), MemoryLog::default()];
    for (log, config) in logs.iter().zip([&pair.config, &never]) {
        drain_with(config, log).unwrap();
    }
    pair.database.sql(&insert(1, 60_000));
    for (log, config) in logs.iter().zip([&pair.config, &never]) {
        let whole = log.frames().len();
        *log.fails_at.lock().unwrap() = Some(log.len() + 4);
        assert!(matches!(drain_with(config, log), Err(CaptureError::Log { .. })));
        *log.fails_at.lock().unwrap() = None;
        let frames = log.frames();
        assert!(frames.len() > whole && !frames.last().unwrap().txn_end, "it breaks off within the transaction");
    }
    pair.settle();
    pair.fail_over();
    pair.replica_sql("DELETE FROM stock WHERE id % 3 = 0");
    let [log, uncopied] = logs;
    let whole = log.frames().iter().rposition(|frame| frame.txn_end).unwrap();
    pair.assert_waits(&log);
    assert_eq!(drain_with(&pair.of_replica(), &log).unwrap(), Outcome::Drained);
    pair.assert_whole(&log);
    let frames = log.frames();
    let next = frames.iter().skip(whole + 1).position(|frame| frame.txn_end).unwrap();
    let after = frames[whole + 1 + next + 1..].iter().flat_map(|frame| &frame.batches).count();
    assert_eq!(after, 0, "the half and the copy that replaces it are one unit");

    let error = drain_with(&MySqlConfig { snapshot: SnapshotMode::Never, ..pair.of_replica() }, &uncopied).unwrap_err();
    assert!(error.class() == Class::Definite && error.to_string().contains("--reread"), "{error}");
    assert!(error.to_string().contains("another server"), "{error}");
}

#[test]
fn a_replica_that_lacks_what_was_read_is_waited_for_while_it_applies_and_refused_once_it_never_will() {
    let pair = Pair::start();
    let log = MemoryLog::default();
    drain_with(&pair.config, &log).unwrap();
    pair.listens(false);
    pair.database.sql("INSERT INTO stock VALUES (1, 1, 'late')");
    drain_with(&pair.config, &log).unwrap();
    let error = drain_with(&pair.of_replica(), &log).unwrap_err();
    assert!(matches!(error, CaptureError::Behind { .. }) && error.class() == Class::Transient, "{error}");
    pair.listens(true);
    eventually("the replica to be fit", || drain_with(&pair.of_replica(), &log).is_ok());

    pair.listens(false);
    pair.database.sql("INSERT INTO stock VALUES (2, 1, 'lost')");
    let set = if mysql().is_some() { "SELECT @@GLOBAL.gtid_executed" } else { "SELECT @@GLOBAL.gtid_binlog_pos" };
    let had = pair.database.sql(set);
    // The number that the lost transaction has.
    let lost = had.rsplit([':', '-']).next().unwrap().to_owned();
    drain_with(&pair.config, &log).unwrap();
    pair.fail_over();
    if mysql().is_some() {
        // As a member of a group is, which replicates from nobody.
        pair.replica_sql("SET GLOBAL read_only = ON");
        let error = drain_with(&pair.of_replica(), &log).unwrap_err();
        assert!(matches!(error, CaptureError::Behind { .. }), "{error}");
        pair.replica_sql("SET GLOBAL read_only = OFF");
    }
    // Promoted, and with transactions of its own, which on a MariaDB have the numbers of those that are lost.
    let stopping = MySqlConfig { log_gap: LogGap::Stop, ..pair.of_replica() };
    for own in ["SELECT 1", "INSERT INTO stock VALUES (3, 1, 'own'), (4, 1, 'own'); UPDATE stock SET qty = 2"] {
        pair.replica_sql(own);
        let error = drain_with(&stopping, &log).unwrap_err();
        assert!(matches!(error, CaptureError::Position { .. }) && error.class() == Class::Definite, "{error}");
        let text = error.to_string();
        let (_, missing) = text.split_once("lacks ").unwrap();
        let (missing, _) = missing.split_once(',').unwrap();
        assert!(missing.ends_with(&lost) && text.contains("--reread"), "{lost}: {text}");
    }
    // As long as the one that has all may come back, it is waited for.
    let error = drain_with(&pair.config, &log).unwrap_err();
    assert!(matches!(error, CaptureError::NoServer { .. }) && error.class() == Class::Transient, "{error}");
    let text = error.to_string();
    assert!(text.contains("cannot reach") && text.contains(&format!("{}: ", pair.of_replica().address())), "{text}");
    pair.database.server.start_again();
    assert_eq!(drain_with(&pair.config, &log).unwrap(), Outcome::Drained);
    assert!(log.fold().1.keys().all(|(_, key)| ["1", "2"].contains(&key.as_str())), "nothing of the other history");
}

#[test]
fn a_promoted_replica_that_purged_what_follows_is_passed_over_or_stops_the_source() {
    let pair = Pair::start();
    let log = MemoryLog::default();
    drain_with(&pair.config, &log).unwrap();
    pair.database.sql("INSERT INTO stock VALUES (1, 1, 'x')");
    pair.settle();
    pair.replica_sql("FLUSH BINARY LOGS");
    let newest = pair.replica_sql("SHOW BINARY LOGS").lines().last().unwrap().split('\t').next().unwrap().to_owned();
    eventually("the log to be purged", || {
        pair.replica_sql(&format!("PURGE BINARY LOGS TO '{newest}'"));
        pair.replica_sql("SHOW BINARY LOGS").lines().count() == 1
    });
    let stopping = MySqlConfig { log_gap: LogGap::Stop, ..pair.of_replica() };
    let error = drain_with(&stopping, &log).unwrap_err();
    assert!(error.class() == Class::Definite && error.to_string().contains("--reread"), "{error}");
    let hosts = [pair.of_replica().hosts, pair.database.config.hosts.clone()].concat();
    let progress = Progress::default();
    let replica_first = MySqlConfig { hosts, ..pair.config.clone() };
    assert_eq!(drain_on(&replica_first, &log, &progress).unwrap(), Outcome::Drained);
    assert_eq!(progress.server(), Some(pair.database.config.address()), "the one that has it");
    assert_eq!(count(&log, Op::Truncate), 1, "nothing is copied anew that another server can tell");
    pair.assert_whole(&log);
    pair.fail_over();
    pair.replica_sql("INSERT INTO stock VALUES (2, 1, 'x')");
    drain_with(&replica_first, &log).unwrap();
    pair.assert_whole(&log);
}

#[test]
fn a_server_of_the_list_that_is_down_is_told_and_keeps_nobody_from_reading_the_other() {
    let database = Server::shared().database(STOCK);
    let mut nowhere = database.config.hosts.clone();
    nowhere[0].host = syncline_capture::mysql::Host::Unix("/nonexistent/a".into());
    let both =
        MySqlConfig { hosts: [nowhere.clone(), database.config.hosts.clone()].concat(), ..database.config.clone() };
    let log = MemoryLog::default();
    assert_eq!(drain_with(&both, &log).unwrap(), Outcome::Drained);
    let found = check(&both);
    assert!(found.iter().all(|finding| finding.severity < Severity::Error), "{found:?}");
    assert!(found.iter().any(|finding| finding.object.starts_with("/nonexistent/a: ")), "{found:?}");
    let mut other = nowhere.clone();
    other[0].host = syncline_capture::mysql::Host::Unix("/nonexistent/b".into());
    let none = MySqlConfig { hosts: [nowhere, other].concat(), ..database.config.clone() };
    let error = drain_with(&none, &log).unwrap_err();
    assert_eq!(error.class(), Class::Transient);
    let text = error.to_string();
    assert!(text.contains("none of its 2 servers") && text.contains("\n  /nonexistent/b: "), "{text}");
    assert!(check(&none).iter().any(|finding| finding.severity == Severity::Error));
}
