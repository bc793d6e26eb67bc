//! What becomes of the tables themselves: keys, names, publication and partitions change under a running source.

use std::sync::Arc;

use syncline_capture::postgres::{
    DrainTo, Finding, LogGap, Mapped, PostgresConfig, Severity, SnapshotMode, TablePatterns, check,
};
use syncline_capture::{Class, Outcome};
use syncline_schemas::frame::{Frame, LogEntry, Op};
use syncline_schemas::ident::TableId;

use crate::log::{MemoryLog, Reader, following};
use crate::server::{Database, Server, eventually};

const TWO: &str = "CREATE TABLE t (id int PRIMARY KEY, code text NOT NULL DEFAULT 'c'); CREATE TABLE u (id int PRIMARY KEY); \
                   INSERT INTO t VALUES (1)";

/// A database whose tables have been read by a daemon that does not run now.
fn read(sql: &str) -> (Database, Arc<MemoryLog>) {
    let mut database = Server::shared().database(sql);
    database.config.snapshot = SnapshotMode::Never;
    database.config.drain_to = Some(DrainTo::CurrentEnd);
    let log = Arc::new(MemoryLog::default());
    assert_eq!(Reader::start(&database.config, &log).end().unwrap(), Outcome::Drained);
    (database, log)
}

/// The reader ends by itself with an error that nobody can wait out and that says all of this.
fn assert_stops(reader: Reader, wanted: &[&str]) {
    let error = reader.end().unwrap_err();
    assert_eq!(error.class(), Class::Definite, "{error}");
    let text = error.to_string();
    assert!(wanted.iter().all(|part| text.contains(part)), "{wanted:?} not in {text}");
}

#[test]
fn a_changed_key_stops_the_source_before_a_row_is_read_under_it() {
    let another = "ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (code)";
    let index = "CREATE UNIQUE INDEX i ON t (code); ALTER TABLE t REPLICA IDENTITY USING INDEX i";
    let wider_type = "ALTER TABLE t ALTER id TYPE bigint";
    let full = "ALTER TABLE t REPLICA IDENTITY FULL";
    let wider = "ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id, code)";
    for (before, change) in [("", another), ("", index), ("", wider_type), (full, wider)] {
        let (database, log, reader) = following(TWO);
        database.sql(before);
        database.sql("INSERT INTO t VALUES (2, 'd')");
        log.wait_for_rows(2);
        database.sql(change);
        database.sql("INSERT INTO t VALUES (3, 'e')");
        assert_stops(reader, &["table public.t", "(id Int32)", "syncline replay --reread"]);
        assert_eq!(log.row_count(), 2);
        // Nor does it go on after a restart.
        assert_stops(Reader::start(&database.config, &log), &["table public.t", "key"]);
    }
}

#[test]
fn a_renamed_table_and_one_that_takes_its_name_stop_the_source() {
    let (database, log, reader) = following(TWO);
    database.sql("ALTER TABLE t RENAME TO t_old; INSERT INTO t_old VALUES (2)");
    assert_stops(reader, &["table public.t", "renamed to public.t_old"]);
    assert_stops(Reader::start(&database.config, &log), &["table public.t_old", "another name"]);

    for change in [
        "DROP TABLE t; CREATE TABLE t (other int PRIMARY KEY); INSERT INTO t VALUES (9)",
        "CREATE TABLE new (other int PRIMARY KEY); INSERT INTO new VALUES (9); ALTER TABLE t RENAME TO t_old; \
         ALTER TABLE new RENAME TO t; INSERT INTO t VALUES (10)",
    ] {
        let database = Server::shared().database(TWO);
        database.sql("CREATE PUBLICATION syncline FOR ALL TABLES");
        let log = Arc::new(MemoryLog::default());
        let reader = Reader::start(&database.config, &log);
        log.wait_for_copy();
        database.sql(&format!("INSERT INTO t VALUES (2); {change}"));
        assert_stops(reader, &["table public.t", "another table", "!public.orders"]);
        assert!(log.rows().iter().all(|row| row.values.contains_key("id")), "no row of the new one");
        assert_stops(Reader::start(&database.config, &log), &["table public.t"]);
    }
}

#[test]
fn a_publication_that_changed_while_nobody_looked_is_not_read_on() {
    for (change, wanted) in [
        ("ALTER PUBLICATION syncline DROP TABLE t", "public.t: is no longer in the publication"),
        ("ALTER PUBLICATION syncline DROP TABLE t; ALTER PUBLICATION syncline ADD TABLE t", "entry in the publication"),
        ("ALTER PUBLICATION syncline SET TABLE t WHERE (id > 5), u", "row filter"),
        (
            "ALTER PUBLICATION syncline SET (publish = 'insert'); \
             ALTER PUBLICATION syncline SET (publish = 'insert, update, delete, truncate')",
            "publication syncline: was made anew, or its options",
        ),
        ("DROP PUBLICATION syncline", "publication syncline: is gone"),
        ("DROP TABLE t", "was dropped"),
    ] {
        let (database, log) = read(TWO);
        if wanted == "row filter" && !database.has_row_filters() {
            continue;
        }
        database.sql(change);
        assert_stops(Reader::start(&database.config, &log), &[wanted, "syncline replay --reread"]);
    }
}

#[test]
fn a_table_that_is_excluded_by_its_name_does_not_hold_the_others_up() {
    for change in ["DROP TABLE t", "ALTER TABLE t RENAME TO t_old", "ALTER PUBLICATION syncline DROP TABLE t", ""] {
        let (database, log) = read(TWO);
        database.sql(&format!("INSERT INTO u VALUES (1); {change}"));
        let tables = TablePatterns::parse(&["public.*", "!public.t", "!public.t_old"]).unwrap();
        let without = PostgresConfig { tables, ..database.config.clone() };
        assert_eq!(Reader::start(&without, &log).end().unwrap(), Outcome::Drained, "{change}");
        assert_eq!(log.row_count(), 1);
        if change.is_empty() {
            // It missed what happened meanwhile, so it does not simply come back.
            assert_eq!(Reader::start(&database.config, &log).end().unwrap(), Outcome::Drained);
            assert_eq!(log.row_count(), 1);
            let again = PostgresConfig { snapshot: SnapshotMode::Initial, ..database.config.clone() };
            assert_eq!(Reader::start(&again, &log).end().unwrap(), Outcome::Drained);
            let ops: Vec<Op> = log.rows().iter().filter(|row| row.table == "public.t").map(|row| row.op).collect();
            assert_eq!(ops, [Op::Truncate, Op::Read], "what is known of it may have gone");
        }
    }
}

#[test]
fn a_publication_that_changes_while_it_is_read_is_noticed() {
    let (database, log, reader) = following(TWO);
    database.sql("INSERT INTO u VALUES (1)");
    log.wait_for_rows(2);
    database.sql("ALTER PUBLICATION syncline DROP TABLE t");
    // The server describes the table again, which is the hint.
    database.sql("INSERT INTO u VALUES (2)");
    assert_stops(reader, &["table public.t", "no longer in the publication"]);
}

#[test]
fn a_table_that_comes_later_is_copied_beside_the_stream_and_one_without_a_key_stops_nothing() {
    let mut database = Server::shared().database(TWO);
    database.sql("CREATE PUBLICATION syncline FOR ALL TABLES");
    let log = Arc::new(MemoryLog::default());
    let reader = Reader::start(&database.config, &log);
    log.wait_for_copy();
    database.sql("CREATE TABLE later (id int PRIMARY KEY, n int NOT NULL DEFAULT 0); INSERT INTO later SELECT generate_series(1, 50000)");
    database.sql("CREATE TABLE keyless (a int); INSERT INTO keyless VALUES (1)");
    // What is written meanwhile belongs to it as much as what was there.
    for turn in 1..40 {
        database
            .sql(&format!("UPDATE later SET n = n + 1 WHERE id % 40 = {turn}; DELETE FROM later WHERE id = {turn}"));
        database.sql(&format!("INSERT INTO u VALUES ({turn}); INSERT INTO later VALUES (100000 + {turn})"));
    }
    eventually("the last row", || {
        log.rows().iter().any(|row| row.table == "public.later" && row.value("id") == Some("100039"))
    });
    reader.stop();
    database.config.drain_to = Some(DrainTo::CurrentEnd);
    assert_eq!(Reader::start(&database.config, &log).end().unwrap(), Outcome::Drained);
    assert!(log.frames().last().unwrap().txn_end, "it is whole in the end");
    let state = log.state_beside();
    assert!(state.keys().all(|(table, _)| table != "public.keyless"));
    let later: Vec<_> = state.iter().filter(|((table, _), _)| table == "public.later").collect();
    assert_eq!(later.len().to_string(), database.sql("SELECT count(*) FROM later"));
    let sum: i64 = later.iter().map(|(_, row)| row["n"].as_deref().unwrap().parse::<i64>().unwrap()).sum();
    assert_eq!(sum.to_string(), database.sql("SELECT sum(n) FROM later"));
    assert_eq!(state.keys().filter(|(table, _)| table == "public.u").count(), 39);
    // Rows of a moment that is still to come are never shown as if they were of their position; the stream may have reached the moment
    // of the last ones.
    let reads =
        |frame: &&Frame| frame.batches.iter().any(|batch| &*batch.table.name == "later") && frame.row_count() > 5_000;
    let followed = log.followed();
    let mut copied = followed.iter().filter(reads);
    copied.next_back().expect("a copied frame");
    assert!(copied.all(|frame| !frame.txn_end), "a copied frame is not whole");
}

#[test]
fn a_table_that_comes_later_is_put_into_a_publication_of_ours() {
    let mut database = Server::shared().database(TWO);
    database.config.mapped = Mapped::by(|table, _| *table.name != *"scratch");
    let log = Arc::new(MemoryLog::default());
    let reader = Reader::start(&database.config, &log);
    log.wait_for_copy();
    database.sql("CREATE TABLE later (id int PRIMARY KEY); INSERT INTO later SELECT generate_series(1, 100); CREATE TABLE keyless (a int)");
    // A table of its own, of which nobody asked anything; published, it could not be updated any more.
    database.sql("CREATE TABLE heir (more int) INHERITS (later); INSERT INTO heir VALUES (7, 7)");
    database.sql("CREATE TABLE scratch (id int PRIMARY KEY)");
    let mut id = 0;
    eventually("its rows", || {
        id += 1;
        // The server describes the table again, which is the hint.
        database.sql(&format!("ALTER TABLE u ALTER id SET STATISTICS {}; INSERT INTO u VALUES ({id})", id % 100));
        log.rows().iter().filter(|row| row.table == "public.later").count() == 101
    });
    database.sql("INSERT INTO later VALUES (1000); DELETE FROM later WHERE id = 7");
    eventually("what is written later", || {
        log.state_beside().keys().filter(|(table, _)| table == "public.later").count() == 100
            && log.rows().iter().any(|row| row.table == "public.later" && row.op == Op::Delete)
    });
    database.sql("UPDATE heir SET more = 8");
    reader.stop();
    let published =
        "SELECT string_agg(tablename, ',' ORDER BY tablename) FROM pg_publication_tables WHERE pubname = 'syncline'";
    assert_eq!(database.sql(published), "later,t,u");
}

const PARTITIONED: &str = "
    CREATE TABLE t (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
    CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
    ALTER TABLE t_1 REPLICA IDENTITY FULL";
const NEXT_PARTITION: &str = "CREATE TABLE t_2 PARTITION OF t FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')";

#[test]
fn partitions_come_and_are_written_to_as_they_please() {
    let (database, log, reader) = following(PARTITIONED);
    database.sql("INSERT INTO t VALUES (1, '2024-05-05'); UPDATE t SET id = 2; DELETE FROM t");
    database.sql(NEXT_PARTITION);
    database.sql("ALTER TABLE t_2 REPLICA IDENTITY FULL; INSERT INTO t VALUES (3, '2025-05-05'); UPDATE t SET id = 4");
    log.wait_for_rows(7);
    reader.stop();
    assert!(log.rows().iter().all(|row| row.table == "public.t"));
    assert_eq!(log.state().len(), 1);
    assert!(log.schemas().iter().all(|schema| &*schema.table.name == "t"), "a partition has no shape of its own");
    for (log_gap, warnings) in [(LogGap::Repair, 0), (LogGap::Stop, 1)] {
        let found = check(&PostgresConfig { log_gap, ..database.config.clone() });
        let warned = |it: &&Finding| it.severity == Severity::Warning && it.message.contains("TRUNCATE");
        assert_eq!(found.iter().filter(warned).count(), warnings, "{found:?}");
    }
}

#[test]
fn a_partition_that_leaves_stops_a_source_that_may_not_copy_because_the_log_does_not_say_so() {
    let (database, log) = read(&format!("{PARTITIONED}; {NEXT_PARTITION}"));
    let mut running = database.config.clone();
    running.drain_to = None;
    let reader = Reader::start(&running, &log);
    database.sql("INSERT INTO t VALUES (1, '2024-05-05')");
    log.wait_for_rows(1);
    // A change of the partition that is written to makes the server describe it again, which is the hint.
    database.sql("ALTER TABLE t DETACH PARTITION t_2; ALTER TABLE t_1 SET (fillfactor = 90)");
    database.sql("INSERT INTO t VALUES (3, '2024-05-05')");
    assert_stops(reader, &["table public.t", "lost a partition"]);
    assert_stops(Reader::start(&database.config, &log), &["table public.t", "lost a partition"]);
    // Nobody knows what became of its rows meanwhile.
    database.sql("ALTER TABLE t ATTACH PARTITION t_2 FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')");
    assert_stops(Reader::start(&database.config, &log), &["table public.t", "lost a partition"]);
}

#[test]
fn every_shape_is_in_the_log_before_the_first_frame_and_once() {
    let mut database = Server::shared().database(TWO);
    database.config.snapshot = SnapshotMode::Never;
    let log = Arc::new(MemoryLog::default());
    let reader = Reader::start(&database.config, &log);
    log.wait_for("the first frame", |entries| entries.len() > 2);
    log.wait_for("shapes", |entries| entries.iter().take(2).all(|entry| matches!(entry, LogEntry::Schema(_))));
    let sender = "SELECT active_pid FROM pg_replication_slots WHERE database = current_database() AND active";
    let pid = database.sql(sender);
    database.sql(&format!("SELECT pg_terminate_backend({pid})"));
    eventually("another session", || ![pid.clone(), String::new()].contains(&database.sql(sender)));
    database.sql("INSERT INTO t VALUES (2)");
    log.wait_for_rows(1);
    reader.stop();
    let names: Vec<_> = log.schemas().iter().map(|schema| schema.table.to_string()).collect();
    assert_eq!(names, ["public.t", "public.u"]);
}

#[test]
fn a_table_without_a_key_is_read_by_the_one_that_is_declared_and_refused_where_changes_do_not_bring_it() {
    let mut database = Server::shared().database(
        "CREATE TABLE stock (company text NOT NULL, item text NOT NULL, qty int, note text);
         INSERT INTO stock SELECT 'C1', 'A' || i, i, repeat('n', 3000) FROM generate_series(1, 100) i",
    );
    let declare = |columns: &[&str]| {
        let columns = columns.iter().map(|column| (*column).to_owned()).collect();
        std::collections::BTreeMap::from([(TableId::new("public", "stock"), columns)])
    };
    let refused = |database: &Database| Reader::start(&database.config, &Arc::default()).end().unwrap_err().to_string();
    assert!(refused(&database).contains("no primary key"), "{}", refused(&database));
    database.sql("ALTER TABLE stock REPLICA IDENTITY FULL");
    for (columns, wanted) in [
        (&["company", "itm"], "has no column \"itm\", which keys names"),
        (&["company", "note"], "has the column \"note\" in its key under keys, which may be NULL"),
    ] {
        database.config.keys = declare(columns);
        assert!(refused(&database).contains(wanted), "{}", refused(&database));
    }
    database.config.keys = declare(&["company", "item"]);
    let log = Arc::new(MemoryLog::default());
    let reader = Reader::start(&database.config, &log);
    log.wait_for_copy();
    database.sql("UPDATE stock SET qty = 0 WHERE item = 'A1'; UPDATE stock SET item = 'B2' WHERE item = 'A2'; DELETE FROM stock WHERE item = 'A3'");
    database.sql("INSERT INTO stock VALUES ('C2', 'A1', 7, NULL)");
    eventually("the last row", || log.rows().iter().any(|row| row.value("company") == Some("C2")));
    reader.stop();
    let held = log.state();
    let mut held: Vec<String> = held
        .iter()
        .map(|((_, key), row)| {
            format!("{}|{}|{}", key[0].as_deref().unwrap(), key[1].as_deref().unwrap(), row["qty"].as_deref().unwrap())
        })
        .collect();
    held.sort();
    let wanted = database
        .sql("SELECT company, item, qty FROM stock ORDER BY (company || '|' || item || '|' || qty) COLLATE \"C\"");
    assert_eq!(held, wanted.lines().collect::<Vec<_>>());

    database.sql("ALTER TABLE stock REPLICA IDENTITY DEFAULT");
    let error = refused(&database);
    assert!(error.contains("has its key under keys") && error.contains("REPLICA IDENTITY FULL"), "{error}");
}
