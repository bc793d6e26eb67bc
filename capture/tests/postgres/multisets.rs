//! Tables without a key: each of several equal rows counts, whether it was copied, told, read anew or all of that.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use arrow::array::AsArray;
use arrow::datatypes::{Int32Type, UInt8Type};
use syncline_capture::postgres::PostgresConfig;
use syncline_schemas::frame::{LogEntry, Op, TableBatch};
use syncline_schemas::ident::TableId;

use crate::log::{MemoryLog, Reader, following};
use crate::server::{Database, PATIENCE, Server, eventually};

const MOVES: &str = "CREATE TABLE move (item text, qty int, place text); ALTER TABLE move REPLICA IDENTITY FULL;
    CREATE TABLE other (id int PRIMARY KEY)";

/// How often each row is in the table.
fn there(database: &Database) -> BTreeMap<String, usize> {
    let text = |column: &str| format!("coalesce({column}::text, 'NULL')");
    let row = ["item", "place", "qty"].map(text).join(" || '|' || ");
    let rows = database.sql(&format!("SELECT count(*) || ' ' || ({row}) FROM move GROUP BY ({row})"));
    let split = |line: &str| line.split_once(' ').map(|(count, row)| (row.to_owned(), count.parse().unwrap()));
    rows.lines().filter_map(split).collect()
}

/// Waits until the log has all that was committed.
fn wait_for_all(database: &Database, log: &MemoryLog) {
    static NEXT: AtomicI32 = AtomicI32::new(1);
    let (id, before) = (NEXT.fetch_add(1, Ordering::Relaxed), log.len());
    database.sql(&format!("INSERT INTO other VALUES ({id})"));
    let holds = |batch: &TableBatch| {
        &*batch.table.name == "other" && batch.rows.column(0).as_primitive::<Int32Type>().values().contains(&id)
    };
    let is_last = |entry: &LogEntry| matches!(entry, LogEntry::Frame(frame) if frame.batches.iter().any(holds));
    log.wait_for_one_behind(before, "the last row", is_last);
    log.wait_for(
        "the end of every transaction",
        |entries| matches!(entries.last(), Some(LogEntry::Frame(frame)) if frame.txn_end),
    );
}

fn assert_same(database: &Database, log: &MemoryLog) {
    wait_for_all(database, log);
    assert_eq!(log.counted("public.move").0, there(database));
}

#[test]
fn equal_rows_that_are_inserted_updated_and_deleted_one_by_one_are_counted() {
    let (database, log, reader) = following(&format!(
        "{MOVES}; INSERT INTO move SELECT 'A', 1, NULL FROM generate_series(1, 3); INSERT INTO move VALUES (NULL, NULL, NULL), (NULL, NULL, NULL)"
    ));
    let one = |condition: &str| format!("ctid = (SELECT min(ctid) FROM move WHERE {condition})");
    for sql in [
        "INSERT INTO move VALUES ('A', 1, NULL), ('A', 1, 'X')".to_owned(),
        format!("UPDATE move SET qty = 2 WHERE {}", one("item = 'A' AND place IS NULL")),
        format!("DELETE FROM move WHERE {}", one("item IS NULL")),
        format!("DELETE FROM move WHERE {}", one("item = 'A' AND qty = 1")),
        "UPDATE move SET qty = qty".to_owned(),
        "INSERT INTO move VALUES ('B', 1, ''); DELETE FROM move WHERE item = 'B'; INSERT INTO move VALUES ('B', 1, '')".to_owned(),
        "INSERT INTO move SELECT 'C', i % 2, repeat('x', i % 3 * 4000) FROM generate_series(1, 60) i".to_owned(),
        // What lies outside of its row and stays as it is comes from the old row.
        "ALTER TABLE move ALTER place SET STORAGE EXTERNAL; UPDATE move SET place = repeat('y', 9000) WHERE item = 'C'; \
         UPDATE move SET qty = qty + 1 WHERE item = 'C'"
            .to_owned(),
        "TRUNCATE move; INSERT INTO move VALUES ('D', 1, NULL), ('D', 1, NULL)".to_owned(),
    ] {
        database.sql(&sql);
        assert_same(&database, &log);
    }
    reader.stop();
    let reader = Reader::start(&database.config, &log);
    database.sql("DELETE FROM move WHERE ctid = (SELECT min(ctid) FROM move)");
    assert_same(&database, &log);
    reader.stop();
    assert_eq!(log.counted("public.move").0.len(), 1);
}

#[test]
fn values_that_are_equal_to_the_eye_are_counted_by_what_they_are() {
    let (database, log, reader) = following(
        "CREATE TABLE move (f float8, r real, n numeric, d numeric(10, 2), at timestamptz, j jsonb, a int[], b bytea); ALTER TABLE move REPLICA IDENTITY FULL;
         CREATE TABLE other (id int PRIMARY KEY);
         INSERT INTO move SELECT v.* FROM generate_series(1, 2), (VALUES
           ('NaN'::float8, 'NaN'::real, 1.0, 1.0, '2024-03-31 02:30+02'::timestamptz, '{\"b\": 1, \"a\": 2}'::jsonb, '{1,NULL}'::int[], '\\x00'::bytea),
           ('-0', '-0', 1.00, 1.00, '2024-03-31 00:30+00', '{\"a\": 2, \"b\": 1}', '{}', ''),
           ('0', 'Infinity', 'NaN', NULL, '1999-01-01', 'null', NULL, NULL)) AS v",
    );
    assert_eq!(log.counted("public.move").0.values().copied().collect::<Vec<_>>(), [2, 2, 2]);
    // What was copied in binary form goes as text.
    database.sql("DELETE FROM move WHERE ctid IN (SELECT min(ctid) FROM move GROUP BY move::text)");
    wait_for_all(&database, &log);
    assert_eq!(log.counted("public.move").0.values().copied().collect::<Vec<_>>(), [1, 1, 1]);
    database.sql("DELETE FROM move");
    wait_for_all(&database, &log);
    reader.stop();
    assert_eq!(log.counted("public.move").0.len(), 0);
}

/// True where a table begins to be read.
fn begins(entry: &LogEntry) -> bool {
    let LogEntry::Frame(frame) = entry else { return false };
    let op = |batch: &TableBatch| batch.rows.column_by_name("_op").unwrap().as_primitive::<UInt8Type>().value(0);
    frame.batches.iter().any(|batch| op(batch) == Op::SweepBegin as u8)
}

/// Changes that many sessions commit all the time, until they are told to stop.
fn busily<T>(database: &Database, act: impl FnOnce() -> T) -> T {
    let stops = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..3 {
            let stops = &stops;
            scope.spawn(move || {
                while !stops.load(Ordering::Acquire) {
                    let sql = format!(
                        "DO $$ BEGIN FOR i IN 1..40 LOOP \
                           INSERT INTO move SELECT 'N' || (random() * 5)::int, {writer}, 'p' FROM generate_series(1, 3); \
                           UPDATE move SET qty = qty + 1 WHERE ctid = (SELECT min(ctid) FROM move WHERE qty = {writer}); \
                           DELETE FROM move WHERE ctid IN (SELECT ctid FROM move WHERE qty >= {writer} LIMIT 3); \
                           IF i % 7 = 0 THEN ROLLBACK; ELSE COMMIT; END IF; END LOOP; END $$"
                    );
                    // Two may meet at a row, of which one has to give way.
                    let _ = database.try_sql(&sql);
                }
            });
        }
        let done = act();
        stops.store(true, Ordering::Release);
        done
    })
}

#[test]
fn a_change_that_the_copy_saw_and_the_stream_tells_again_counts_once() {
    let server = Arc::new(Server::start(&[("wal_level", "logical")], |_| {}));
    let database = server.database(MOVES);
    database.sql("INSERT INTO move SELECT 'N' || i % 7, i % 3, 'p' FROM generate_series(1, 5000) i");
    let log = Arc::new(MemoryLog::default());
    busily(&database, || {
        let mut reader = Reader::start(&database.config, &log);
        log.wait_for_copy();
        for killed in 0..6 {
            let before = log.len();
            // It may be read still since it was asked for last, which is said at once.
            let ask = || reader.requests.read_anew(TableId::new("public", "move"), PATIENCE);
            eventually("another reading", || ask().is_ok());
            log.wait_for_one_behind(before, "its rows", begins);
            if killed % 2 == 0 {
                log.fail_at(Some(log.len() + killed));
                let error = reader.end().unwrap_err().to_string();
                assert!(error.contains("the test ends the log here"), "{error}");
                log.fail_at(None);
                reader = Reader::start(&database.config, &log);
            }
        }
        reader.stop();
    });
    let reader = Reader::start(&database.config, &log);
    assert_same(&database, &log);
    reader.stop();
}

#[test]
fn rows_of_another_shape_are_not_compared_with_those_that_were_counted() {
    let (database, log, reader) =
        following(&format!("{MOVES}; INSERT INTO move SELECT 'A', i % 2, 'p' FROM generate_series(1, 100) i"));
    database.sql("ALTER TABLE move ADD COLUMN more int DEFAULT 5");
    database.sql("DELETE FROM move WHERE ctid IN (SELECT min(ctid) FROM move GROUP BY qty)");
    wait_for_all(&database, &log);
    let (counts, sums) = log.counted("public.move");
    assert_eq!(counts, BTreeMap::from([("A|5|p|0".to_owned(), 49), ("A|5|p|1".to_owned(), 49)]));
    let behind: Vec<_> = sums.iter().copied().skip_while(|sum| *sum == 0).collect();
    assert!(behind.iter().all(|sum| [100, 98].contains(sum)), "no state that never was: {behind:?}");

    // Within a transaction, of which the log holds a part, and killed before it is over.
    log.fail_at(Some(log.len() + 2));
    database.sql(
        "BEGIN; INSERT INTO move SELECT 'B', 1, repeat('p', 100), 1 FROM generate_series(1, 70000) i; ALTER TABLE move DROP COLUMN more; \
         DELETE FROM move WHERE item = 'B' AND ctid <> (SELECT max(ctid) FROM move); INSERT INTO move SELECT 'C', i % 2, 'p' FROM generate_series(1, 70000) i; COMMIT",
    );
    let error = reader.end().unwrap_err().to_string();
    assert!(error.contains("the test ends the log here"), "{error}");
    log.fail_at(None);
    let reader = Reader::start(&database.config, &log);
    assert_same(&database, &log);
    database.sql("ALTER TABLE move ALTER qty TYPE bigint USING qty + 1; INSERT INTO move VALUES ('D', 1, NULL)");
    assert_same(&database, &log);
    reader.stop();
}

#[test]
fn a_gap_of_the_log_is_closed_for_equal_rows_too() {
    let (database, log, reader) =
        following(&format!("{MOVES}; INSERT INTO move SELECT 'A', i % 2, 'p' FROM generate_series(1, 10) i"));
    reader.stop();
    database.sql(&format!("SELECT pg_drop_replication_slot('{}')", database.config.slot));
    database.sql("DELETE FROM move WHERE ctid = (SELECT min(ctid) FROM move); INSERT INTO move VALUES ('A', 1, 'p'), ('A', 1, 'p')");
    let reader = Reader::start(&database.config, &log);
    database.sql("DELETE FROM move WHERE ctid = (SELECT max(ctid) FROM move)");
    assert_same(&database, &log);
    reader.stop();
}

#[test]
fn a_table_without_a_key_that_comes_later_is_read_from_then_on() {
    let (database, log, reader) = following("CREATE TABLE other (id int PRIMARY KEY)");
    database.sql(
        "CREATE TABLE move (item text, qty int, place text); ALTER TABLE move REPLICA IDENTITY FULL; INSERT INTO move VALUES ('A', 1, 'p'), ('A', 1, 'p')",
    );
    let has = |op: Op| log.rows().iter().any(|row| row.table == "public.move" && row.op == op);
    eventually("the table", || {
        // The server describes the other one again, which is the hint. A table that somebody writes to is not published then.
        database.sql("ALTER TABLE other ALTER id SET STATISTICS 7; DELETE FROM other; INSERT INTO other VALUES (0)");
        has(Op::Read)
    });
    eventually("the end of the reading", || {
        database.sql("DELETE FROM move WHERE ctid = (SELECT min(ctid) FROM move); INSERT INTO move VALUES ('A', 1, 'p'), ('A', 2, 'p')");
        has(Op::SweepEnd)
    });
    database.sql("DELETE FROM move WHERE ctid = (SELECT min(ctid) FROM move)");
    assert_same(&database, &log);
    reader.stop();
}

#[test]
fn a_partitioned_table_without_a_key_is_refused_because_its_partitions_need_not_tell_what_their_rows_said() {
    let database = Server::shared().database(
        "CREATE TABLE t (id int, day date) PARTITION BY RANGE (day); ALTER TABLE t REPLICA IDENTITY FULL;
         CREATE TABLE t_1 PARTITION OF t DEFAULT",
    );
    let error = Reader::start(&database.config, &Arc::default()).end().unwrap_err().to_string();
    assert!(error.contains("no primary key and is partitioned"), "{error}");
    let left_out = PostgresConfig {
        tables: syncline_capture::postgres::TablePatterns::parse(&["public.*", "!public.t"]).unwrap(),
        ..database.config.clone()
    };
    assert!(Reader::start(&left_out, &Arc::default()).end().unwrap_err().to_string().contains("has no table"));
}

#[test]
fn a_partitioned_table_with_a_foreign_partition_cannot_have_a_key_and_is_refused() {
    let database = Server::shared().database(
        "CREATE TABLE t (id int NOT NULL) PARTITION BY RANGE (id); ALTER TABLE t REPLICA IDENTITY FULL;
         CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER elsewhere FOREIGN DATA WRAPPER nothing;
         CREATE FOREIGN TABLE t_1 PARTITION OF t FOR VALUES FROM (0) TO (10) SERVER elsewhere;
         CREATE TABLE t_2 PARTITION OF t DEFAULT",
    );
    let refused = database.try_sql("ALTER TABLE t ADD PRIMARY KEY (id)").unwrap_err();
    assert!(refused.contains("foreign"), "the server's own rule: {refused}");
    let error = Reader::start(&database.config, &Arc::default()).end().unwrap_err().to_string();
    assert!(error.contains("no primary key and is partitioned"), "{error}");
}
