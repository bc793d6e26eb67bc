//! Tables that somebody has locked: the copy gives way, goes on with the others, and comes back.

use std::sync::{Arc, Mutex};

use syncline_capture::postgres::PostgresConfig;
use syncline_schemas::frame::{LogEntry, Op};
use syncline_schemas::ident::TableId;

use crate::log::{MemoryLog, Reader, Row};
use crate::other::Other;
use crate::proxy::Proxy;
use crate::server::{Database, PATIENCE, Server, eventually};

const TABLES: &str = "CREATE TABLE held (id int PRIMARY KEY, note text); CREATE TABLE free (id int PRIMARY KEY);
     CREATE TABLE counted (code text); ALTER TABLE counted REPLICA IDENTITY FULL;
     INSERT INTO held SELECT i, 'n' FROM generate_series(1, 500) i; INSERT INTO free VALUES (1);
     INSERT INTO counted SELECT 'c' || i % 3 FROM generate_series(1, 30) i";

/// How many reads of ours wait for a table.
fn waiting(database: &Database, table: &str) -> u32 {
    let sql = format!(
        "SELECT count(*) FROM pg_locks WHERE relation = '{table}'::regclass AND mode = 'AccessShareLock' AND NOT granted"
    );
    database.sql(&sql).parse().unwrap()
}

/// Waits until somebody holds a lock, or waits for it.
fn has_lock(database: &Database, table: &str, is_granted: bool) {
    let sql = format!(
        "SELECT count(*) FROM pg_locks WHERE relation = '{table}'::regclass AND mode = 'AccessExclusiveLock' AND granted = {is_granted}"
    );
    eventually("the lock", || database.sql(&sql) == "1");
}

fn has_read_lock(database: &Database, table: &str) -> bool {
    let sql = format!(
        "SELECT count(*) FROM pg_locks WHERE relation = '{table}'::regclass AND mode = 'AccessShareLock' AND granted"
    );
    database.sql(&sql) != "0"
}

fn rows_of(log: &MemoryLog, table: &str) -> usize {
    log.rows().iter().filter(|row| row.table == table && matches!(row.op, Op::Read | Op::Insert)).count()
}

fn is_end(row: &Row) -> bool {
    row.table == "public.held" && row.op == Op::SweepEnd
}

/// Waits until the log has a row of the free table, at the end of a unit.
fn wait_for_free(database: &Database, log: &MemoryLog, id: u32) {
    let before = log.len();
    database.sql(&format!("INSERT INTO free VALUES ({id})"));
    let is_it = |entry: &LogEntry| {
        let LogEntry::Frame(frame) = entry else { return false };
        frame.txn_end && frame.batches.iter().any(|batch| &*batch.table.name == "free")
    };
    log.wait_for_one_behind(before, "what is told of another table, for targets to see", is_it);
}

/// Sessions of others that hold locks, or wait for them.
type Others = Arc<Mutex<Vec<Other>>>;

/// The source over a proxy that lets others come first as soon as a copy has begun: transactions that were open before it waits for.
fn with_others(database: &Arc<Database>, others: &Others, come: fn(&Database) -> Vec<Other>) -> PostgresConfig {
    let mut config = database.over_tcp("127.0.0.1");
    let (database, others) = (Arc::clone(database), Arc::clone(others));
    let proxy = Proxy::before(config.port, b"SET row_security", move || *others.lock().unwrap() = come(&database));
    config.port = proxy.port;
    config
}

fn database() -> Arc<Database> {
    Arc::new(Arc::new(Server::start(&[("wal_level", "logical")], |_| {})).database(TABLES))
}

#[test]
fn a_copy_gives_way_to_whoever_has_locked_a_table_and_copies_the_others_meanwhile() {
    let (database, others) = (database(), Others::default());
    let config = with_others(&database, &others, |database| {
        let mut other = Other::begin(database);
        other.say("LOCK TABLE held, counted IN ACCESS EXCLUSIVE MODE; INSERT INTO held VALUES (501, 'n');");
        has_lock(database, "held", true);
        has_lock(database, "counted", true);
        vec![other]
    });
    let log = Arc::new(MemoryLog::default());
    let reader = Reader::start(&config, &log);
    eventually("the other table", || rows_of(&log, "public.free") == 1);
    for table in ["held", "counted"] {
        eventually("a read that waits", || waiting(&database, table) > 0);
        eventually("it to give way", || waiting(&database, table) == 0);
    }
    assert_eq!((rows_of(&log, "public.held"), rows_of(&log, "public.counted")), (0, 0));
    others.lock().unwrap().remove(0).end("COMMIT;");
    log.wait_for_copy();
    reader.stop();
    assert_eq!(log.counted("public.counted").0.values().sum::<usize>(), 30);
    assert_eq!(log.state().keys().filter(|(table, _)| table == "public.held").count(), 501);
}

#[test]
fn a_table_that_is_read_anew_and_wanted_by_somebody_else_holds_nobody_up() {
    let (database, others) = (database(), Others::default());
    let log = Arc::new(MemoryLog::default());
    let reader = Reader::start(&database.config, &log);
    log.wait_for_copy();
    reader.stop();
    let config = with_others(&database, &others, |database| {
        let mut reads = Other::begin(database);
        reads.say("SELECT count(*) FROM held;");
        eventually("somebody to read", || has_read_lock(database, "held"));
        // Waits for the one that reads; whoever comes later waits for both.
        let mut changes = Other::begin(database);
        changes.say("ALTER TABLE held ADD COLUMN more int DEFAULT 7;");
        has_lock(database, "held", false);
        vec![reads, changes]
    });
    let reader = Reader::start(&config, &log);
    reader.requests.read_anew(TableId::new("public", "held"), PATIENCE).unwrap();
    eventually("a read that waits", || waiting(&database, "held") > 0);
    eventually("it to give way", || waiting(&database, "held") == 0);
    has_lock(&database, "held", false);
    for id in 2..5 {
        wait_for_free(&database, &log, id);
    }
    let mut others = std::mem::take(&mut *others.lock().unwrap()).into_iter();
    others.next().unwrap().end("COMMIT;");
    has_lock(&database, "held", true);
    assert!(!log.rows().iter().any(is_end), "nobody can have read it");
    others.next().unwrap().end("UPDATE held SET note = 'later' WHERE id = 3; COMMIT;");
    eventually("the end of the reading", || log.rows().iter().any(is_end));
    wait_for_free(&database, &log, 9);
    reader.stop();
    let state = log.state_beside();
    let held: Vec<_> = state.iter().filter(|((table, _), _)| table == "public.held").map(|(_, row)| row).collect();
    assert_eq!(held.len(), 500);
    assert!(held.iter().all(|row| row["more"].as_deref() == Some("7")), "as the table is now");
}
