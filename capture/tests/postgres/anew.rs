//! A table read anew beside the stream, because somebody doubts what we hold of it.

use std::sync::Arc;

use syncline_capture::postgres::SnapshotMode;
use syncline_schemas::frame::Op;
use syncline_schemas::ident::TableId;

use crate::log::{MemoryLog, Reader};
use crate::server::{PATIENCE, Server, eventually};

fn wait_for_end(log: &MemoryLog) {
    eventually("the end of the sweep", || log.rows().iter().any(|row| row.op == Op::SweepEnd));
}

#[test]
fn rows_that_left_without_a_word_are_gone_once_their_table_was_read_anew() {
    let database = Server::shared().database(
        "CREATE TABLE orders (id int PRIMARY KEY, note text) PARTITION BY RANGE (id);
         CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (0) TO (1000);
         CREATE TABLE orders_2 PARTITION OF orders FOR VALUES FROM (1000) TO (100000);
         CREATE TABLE other (id int PRIMARY KEY);
         INSERT INTO orders SELECT i, repeat('x', i % 50) FROM generate_series(1, 5000) i;
         INSERT INTO other VALUES (1)",
    );
    let log = Arc::new(MemoryLog::default());
    let reader = Reader::start(&database.config, &log);
    log.wait_for_copy();
    database.sql("TRUNCATE orders_1");
    database.sql("INSERT INTO other VALUES (2)");
    let orders = TableId::new("public", "orders");
    reader.requests.read_anew(orders.clone(), PATIENCE).unwrap();
    for id in 0..50 {
        database.sql(&format!("UPDATE orders SET note = 'new' WHERE id = {}; DELETE FROM orders WHERE id = {}; INSERT INTO orders VALUES ({id}, 'come')", 2000 + id, 3000 + id));
    }
    wait_for_end(&log);
    database.sql("INSERT INTO other VALUES (3)");
    let count = || log.rows().iter().filter(|row| row.table == "public.other").count();
    eventually("the last row", || count() == 3);
    reader.stop();

    let state = log.state_beside();
    let wanted = database.sql("SELECT id || '=' || note FROM orders ORDER BY id");
    let held = state.iter().filter(|((table, _), _)| table == "public.orders");
    let mut held: Vec<(i32, String)> = held
        .map(|((_, key), row)| (key[0].clone().unwrap().parse().unwrap(), row["note"].clone().unwrap_or_default()))
        .collect();
    held.sort();
    let held: Vec<String> = held.into_iter().map(|(id, note)| format!("{id}={note}")).collect();
    assert_eq!(held, wanted.lines().collect::<Vec<_>>());
    assert!(log.frames().last().unwrap().txn_end);
}

#[test]
fn a_table_that_is_not_read_is_not_read_anew_and_the_reason_is_told() {
    let mut database = Server::shared().database("CREATE TABLE t (id int PRIMARY KEY)");
    database.config.snapshot = SnapshotMode::Never;
    let log = Arc::new(MemoryLog::default());
    let reader = Reader::start(&database.config, &log);
    log.wait_for_copy();
    let error = reader.requests.read_anew(TableId::new("public", "u"), PATIENCE).unwrap_err();
    assert!(error.contains("public.u is not read"), "{error}");
    database.sql("INSERT INTO t VALUES (1)");
    log.wait_for_rows(1);
    reader.requests.read_anew(TableId::new("public", "t"), PATIENCE).unwrap();
    wait_for_end(&log);
    reader.stop();
}

#[test]
fn a_sweep_that_is_killed_goes_on_where_it_was_and_ends_once() {
    let database = Server::shared().database(
        "CREATE TABLE big (id int PRIMARY KEY, note text);
         INSERT INTO big SELECT i, repeat('y', 200) FROM generate_series(1, 300000) i",
    );
    let log = Arc::new(MemoryLog::default());
    let reader = Reader::start(&database.config, &log);
    log.wait_for_copy();
    log.fail_at(Some(log.len() + 4));
    let asked = reader.requests.read_anew(TableId::new("public", "big"), PATIENCE);
    assert!(asked.is_ok(), "{asked:?}");
    assert!(reader.end().is_err(), "the log refused");
    assert!(!log.rows().iter().any(|row| row.op == Op::SweepEnd));
    log.fail_at(None);
    let reader = Reader::start(&database.config, &log);
    wait_for_end(&log);
    reader.stop();
    let ends = log.rows().iter().filter(|row| matches!(row.op, Op::SweepBegin | Op::SweepEnd)).count();
    assert_eq!(ends, 2, "one beginning and one end");
    assert_eq!(log.state_beside().len(), 300_000);
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[test]
fn a_commit_that_was_told_of_and_that_nobody_can_see_yet_is_not_taken_back() {
    // Set before the server starts: a reload reaches its checkpointer, which has commits wait, at some later time.
    let settings = [("wal_level", "logical"), ("synchronous_commit", "local")];
    let server = Arc::new(Server::start(&settings, |data| {
        std::fs::write(data.join("postgresql.auto.conf"), "synchronous_standby_names = 'nobody'\n").unwrap();
    }));
    let database = server.database("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE other (id int PRIMARY KEY)");
    let log = Arc::new(MemoryLog::default());
    let reader = Reader::start(&database.config, &log);
    log.wait_for_copy();
    let told = |table: &str| log.rows().iter().filter(|row| row.table == table && row.op == Op::Insert).count();
    let free = || {
        database.sql("ALTER SYSTEM SET synchronous_standby_names = ''");
        database.sql("SELECT pg_reload_conf()");
    };
    // The checkpointer answers, so it has read its settings.
    database.sql("CHECKPOINT");
    std::thread::scope(|scope| {
        // Whatever fails, nobody waits for ever.
        let _freed = OnDrop(free);
        // Its commit is in the log, and waits for a standby that does not answer.
        let waiting = scope.spawn(|| database.sql("SET synchronous_commit = on; INSERT INTO t VALUES (1)"));
        eventually("the log to tell of it", || told("public.t") == 1);
        assert_eq!(database.sql("SELECT count(*) FROM t"), "0", "nobody sees it");
        reader.requests.read_anew(TableId::new("public", "t"), PATIENCE).unwrap();
        for id in 1..=50 {
            database.sql(&format!("INSERT INTO other VALUES ({id})"));
        }
        eventually("the others to go on", || told("public.other") == 50);
        assert!(!waiting.is_finished() && !log.rows().iter().any(|row| row.op == Op::SweepEnd), "the reading waits");
        free();
        waiting.join().unwrap();
    });
    wait_for_end(&log);
    reader.stop();
    assert_eq!(log.state_beside().keys().filter(|(table, _)| table == "public.t").count(), 1);
}
