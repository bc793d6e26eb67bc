//! Publications of ours that hold only the columns which mappings read.

use std::collections::BTreeSet;
use std::sync::Arc;

use syncline_capture::postgres::{Columns, DrainTo, Mapped, begin_again, check, dba_script};
use syncline_capture::{LogSink, Outcome};
use syncline_schemas::frame::{Frame, LogEntry};

use crate::log::{MemoryLog, Reader};
use crate::server::{Database, Server};

const TABLES: &str = "CREATE TABLE wide (id int PRIMARY KEY, name text, note text, more int, twice int GENERATED ALWAYS AS (more * 2) STORED);
     CREATE TABLE whole (id int PRIMARY KEY, name text, note text);
     ALTER TABLE whole REPLICA IDENTITY FULL;
     CREATE TABLE parted (id int PRIMARY KEY, name text, note text) PARTITION BY RANGE (id);
     CREATE TABLE part PARTITION OF parted FOR VALUES FROM (0) TO (10000);
     ALTER TABLE part REPLICA IDENTITY FULL;
     INSERT INTO parted SELECT i, 'name', 'note' FROM generate_series(1, 5) i;
     INSERT INTO wide SELECT i, 'name ' || i, repeat('x', 2000), i FROM generate_series(1, 500) i;
     INSERT INTO whole SELECT i, 'name', 'note' FROM generate_series(1, 5) i";

fn mapped(database: &mut Database, wanted: &'static [&'static str]) {
    database.config.columns = Columns::Mapped;
    database.config.mapped = Mapped::by(move |_, column| column.is_none_or(|column| wanted.contains(&column)));
}

fn drain(database: &Database, log: &Arc<MemoryLog>) {
    assert_eq!(Reader::start(&database.config, log).end().unwrap(), Outcome::Drained);
}

/// The columns of the last shape of a table.
fn columns_of(log: &MemoryLog, table: &str) -> BTreeSet<String> {
    let schemas = log.schemas();
    let last = schemas.iter().rfind(|schema| *schema.table.name == *table).unwrap();
    last.columns.iter().map(|column| column.name.to_string()).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn can_list(database: &Database) -> bool {
    database.sql("SELECT current_setting('server_version_num')::int >= 150000") == "t"
}

#[test]
fn columns_that_no_mapping_reads_do_not_travel_and_every_update_still_succeeds() {
    let mut database = Server::shared().database(TABLES);
    mapped(&mut database, &["name"]);
    database.config.drain_to = Some(DrainTo::CurrentEnd);
    let log = Arc::new(MemoryLog::default());
    drain(&database, &log);
    database.sql("UPDATE wide SET note = 'other' WHERE id = 1; UPDATE wide SET name = 'new' WHERE id = 2");
    database
        .sql("UPDATE whole SET note = 'other'; UPDATE parted SET note = 'other'; DELETE FROM wide WHERE id = 3; UPDATE wide SET id = 1000 WHERE id = 4");
    drain(&database, &log);
    assert_eq!(columns_of(&log, "whole"), set(&["id", "name", "note"]), "all of them tell its rows apart");
    assert_eq!(columns_of(&log, "parted"), set(&["id", "name", "note"]), "each partition has its own identity");
    if can_list(&database) {
        assert_eq!(columns_of(&log, "wide"), set(&["id", "name"]));
        assert!(log.rows().iter().all(|row| row.table != "public.wide" || row.value_of("note").is_none()));
    }
    let state = log.state();
    let wide = state.iter().filter(|((table, _), _)| table == "public.wide");
    let mut held: Vec<(i32, String)> =
        wide.map(|((_, key), row)| (key[0].clone().unwrap().parse().unwrap(), row["name"].clone().unwrap())).collect();
    held.sort();
    let held: Vec<String> = held.into_iter().map(|(id, name)| format!("{id}={name}")).collect();
    assert_eq!(held.join("\n"), database.sql("SELECT id || '=' || name FROM wide ORDER BY id"));
}

#[test]
fn a_column_that_a_mapping_reads_now_is_in_every_row_once_the_tables_are_copied_again() {
    let mut database = Server::shared().database(TABLES);
    mapped(&mut database, &["name"]);
    database.config.drain_to = Some(DrainTo::CurrentEnd);
    let log = Arc::new(MemoryLog::default());
    drain(&database, &log);
    mapped(&mut database, &["name", "more"]);
    // These come through the stream as they were published then.
    database.sql("UPDATE wide SET name = 'before' WHERE id <= 100; INSERT INTO wide VALUES (2000, 'before', '', 7)");
    let last = log.frames().last().unwrap().clone();
    let position = begin_again(&last.position).unwrap();
    log.append(LogEntry::Frame(Frame { position, txn_end: false, batches: Vec::new(), ..last })).unwrap();
    drain(&database, &log);
    database.sql("UPDATE wide SET more = -1 WHERE id = 50");
    drain(&database, &log);
    if can_list(&database) {
        assert_eq!(columns_of(&log, "wide"), set(&["id", "name", "more"]));
    }
    let state = log.state_beside();
    let wide: Vec<_> = state.iter().filter(|((table, _), _)| table == "public.wide").collect();
    assert_eq!(wide.len(), 501);
    let sum: i64 = wide.iter().map(|(_, row)| row["more"].as_deref().unwrap().parse::<i64>().unwrap()).sum();
    assert_eq!(sum.to_string(), database.sql("SELECT sum(more) FROM wide"));
    if can_list(&database) {
        let anew = log.rows().into_iter().skip_while(|row| row.value_of("more").is_none());
        let wide: Vec<_> = anew.filter(|row| row.table == "public.wide").collect();
        assert!(
            wide.iter().all(|row| row.value_of("more").is_some()),
            "what waited as it was published before is not told"
        );
    }
}

#[test]
fn a_publication_that_an_operator_made_is_not_rewritten_even_where_the_reader_may() {
    for columns in [Columns::All, Columns::Mapped] {
        let mut database = Server::shared().database(TABLES);
        mapped(&mut database, &["name"]);
        database.config.columns = columns;
        database.config.drain_to = Some(DrainTo::CurrentEnd);
        let list = if can_list(&database) { "(id, note)" } else { "" };
        database.sql(&format!(
            "CREATE PUBLICATION syncline FOR TABLE wide {list}, whole WITH (publish_via_partition_root = true)"
        ));
        let log = Arc::new(MemoryLog::default());
        drain(&database, &log);
        if can_list(&database) {
            assert_eq!(columns_of(&log, "wide"), set(&["id", "note"]));
        }
        assert_eq!(columns_of(&log, "parted"), set(&["id", "name", "note"]), "what is added is added whole");
    }
}

#[test]
fn what_another_reader_publishes_for_itself_is_not_rewritten() {
    let mut database = Server::shared().database(TABLES);
    mapped(&mut database, &["name"]);
    database.config.drain_to = Some(DrainTo::CurrentEnd);
    drain(&database, &Arc::new(MemoryLog::default()));
    let mut other = database.config.clone();
    other.slot = format!("{}_other", other.slot);
    other.columns = Columns::All;
    let log = Arc::new(MemoryLog::default());
    assert_eq!(Reader::start(&other, &log).end().unwrap(), Outcome::Drained);
    if can_list(&database) {
        assert_eq!(columns_of(&log, "wide"), set(&["id", "name"]), "as the first one wants it");
    }
    database.sql(&format!("SELECT pg_drop_replication_slot('{}')", other.slot));
}

#[test]
fn the_script_for_a_table_without_a_key_lists_none_of_its_columns() {
    let mut database = Server::shared().database("CREATE TABLE keyless (a int, b text, c text)");
    mapped(&mut database, &["b"]);
    let role = format!("reader_{}", database.config.database);
    database.sql(&format!("CREATE ROLE {role} LOGIN REPLICATION; GRANT SELECT ON keyless TO {role}"));
    database.config.user = role;
    let script = dba_script(&database.config, &check(&database.config)).apply;
    assert!(script.contains("FOR TABLE ONLY \"public\".\"keyless\" WITH"), "{script}");
}

#[test]
fn a_publication_of_somebody_else_is_read_as_it_is() {
    let mut database = Server::shared().database(TABLES);
    mapped(&mut database, &["name"]);
    database.config.drain_to = Some(DrainTo::CurrentEnd);
    let role = format!("reader_{}", database.config.database);
    database.sql("CREATE PUBLICATION syncline FOR TABLE wide, whole, parted WITH (publish_via_partition_root = true)");
    database.sql(&format!("CREATE ROLE {role} LOGIN REPLICATION; GRANT SELECT ON wide, whole, parted, part TO {role}"));
    database.config.user = role;
    let log = Arc::new(MemoryLog::default());
    drain(&database, &log);
    assert!(columns_of(&log, "wide").contains("note"));
}
