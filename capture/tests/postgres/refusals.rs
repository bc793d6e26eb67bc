//! What cannot work is said at once, with the place and the remedy.

use std::sync::Arc;

use syncline_capture::Class;
use syncline_capture::postgres::{
    Finding, Host, PostgresConfig, Severity, SnapshotMode, TablePatterns, check, dba_script,
};

use crate::log::{MemoryLog, Reader};
use crate::server::Server;

/// A session's error and the check's findings must both name all of this.
fn refused(config: &PostgresConfig, wanted: &[&str]) {
    let error = Reader::start(config, &Arc::new(MemoryLog::default())).end().unwrap_err();
    assert_eq!(error.class(), Class::Definite, "{error}");
    let found = check(config);
    let found: Vec<String> = found
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .map(|finding| format!("{} {} {}", finding.object, finding.message, finding.remedy))
        .collect();
    for part in wanted {
        assert!(error.to_string().contains(part), "{part:?} is not in {error}");
        assert!(found.iter().any(|finding| finding.contains(part)), "{part:?} is not in {found:?}");
    }
}

#[test]
fn a_server_without_logical_wal_is_named() {
    let server = Arc::new(Server::start(&[("wal_level", "replica")], |_| {}));
    let database = server.database("CREATE TABLE t (id int PRIMARY KEY)");
    refused(&database.config, &["wal_level", "\"replica\"", "ALTER SYSTEM SET wal_level = 'logical';", "restart"]);
}

#[test]
fn a_missing_table_is_named() {
    let mut database = Server::shared().database("CREATE TABLE t (id int PRIMARY KEY)");
    database.config.tables = TablePatterns::parse(&["public.*", "public.Orders"]).unwrap();
    refused(&database.config, &["public.Orders", "does not exist"]);
    database.config.tables = TablePatterns::parse(&["nowhere.*"]).unwrap();
    refused(&database.config, &["no table"]);
}

#[test]
fn a_table_whose_rows_cannot_be_told_apart_is_named() {
    let database = Server::shared().database("CREATE TABLE t (id int)");
    refused(&database.config, &["public.t", "no primary key", "REPLICA IDENTITY USING INDEX"]);
    let script = dba_script(&database.config, &check(&database.config));
    assert!(script.apply.contains("\nALTER TABLE \"public\".\"t\" REPLICA IDENTITY FULL;"), "{}", script.apply);
    database.sql(&script.apply);
    let found = check(&database.config);
    let told = |it: &Finding| it.severity == Severity::Info && it.message.contains("equal rows are counted");
    assert!(found.iter().any(told), "{found:?}");
    let never = PostgresConfig { snapshot: SnapshotMode::Never, ..database.config.clone() };
    refused(&never, &["public.t", "how many equal rows", "snapshot = \"initial\""]);
    database.sql("ALTER TABLE t ADD PRIMARY KEY (id); ALTER TABLE t REPLICA IDENTITY NOTHING");
    refused(&database.config, &["public.t", "REPLICA IDENTITY DEFAULT"]);
}

#[test]
fn missing_rights_are_named_and_the_script_grants_and_takes_them_back() {
    let database = Server::shared().database(
        "CREATE TABLE t (id int PRIMARY KEY); DROP ROLE IF EXISTS poor; CREATE ROLE poor LOGIN; REVOKE ALL ON SCHEMA public FROM PUBLIC",
    );
    let poor = PostgresConfig { user: "poor".to_owned(), ..database.config.clone() };
    refused(&poor, &["role poor", "REPLICATION"]);
    let script = dba_script(&poor, &check(&poor));
    for part in
        ["ALTER ROLE \"poor\" REPLICATION;", "GRANT SELECT ON \"public\".\"t\"", "CREATE PUBLICATION \"syncline\""]
    {
        assert!(script.apply.contains(part), "{part}\n{}", script.apply);
    }
    database.sql(&script.apply);
    assert!(check(&poor).iter().all(|finding| finding.severity < Severity::Error), "{:?}", check(&poor));
    let log = Arc::new(MemoryLog::default());
    let reader = Reader::start(&poor, &log);
    database.sql("INSERT INTO t VALUES (1)");
    log.wait_for_rows(1);
    reader.stop();
    database.sql(&script.undo);
    assert_eq!(database.sql("SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"), "0");
    refused(&poor, &["REPLICATION"]);
}

#[test]
fn a_publication_that_leaves_something_out_is_named() {
    let database =
        Server::shared().database("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY)");
    database.sql("CREATE PUBLICATION syncline FOR TABLE t WITH (publish = 'insert, update')");
    refused(&database.config, &["publication syncline", "delete, truncate", "ALTER PUBLICATION"]);
    database.sql("ALTER PUBLICATION syncline SET (publish = 'insert, update, delete, truncate')");
    // One that the role does not own is no affair of ours.
    let role = format!("reader_{}", database.config.database);
    database.sql(&format!("CREATE ROLE {role} LOGIN REPLICATION; GRANT SELECT ON t, u TO {role}"));
    let poor = PostgresConfig { user: role, ..database.config.clone() };
    refused(&poor, &["public.u", "not in the publication", "ADD TABLE"]);
    let log = Arc::new(MemoryLog::default());
    let reader = Reader::start(&database.config, &log);
    log.wait_for_copy();
    reader.stop();
    assert_eq!(database.sql("SELECT count(*) FROM pg_publication_tables WHERE pubname = 'syncline'"), "2");
}

#[test]
fn a_foreign_slot_is_not_touched() {
    let database = Server::shared().database("CREATE TABLE t (id int PRIMARY KEY)");
    database.sql(&format!("SELECT pg_create_logical_replication_slot('{}', 'test_decoding')", database.config.slot));
    refused(&database.config, &["test_decoding", "another slot"]);
}

#[test]
fn a_server_that_is_not_there_is_tried_again() {
    let database = Server::shared().database("CREATE TABLE t (id int PRIMARY KEY)");
    let nowhere = PostgresConfig { host: Host::Unix("/nonexistent".into()), ..database.config.clone() };
    let stop = syncline_capture::StopSignal::default();
    let error = syncline_capture::postgres::run(
        &nowhere,
        None,
        &MemoryLog::default(),
        &Default::default(),
        &Default::default(),
        &stop,
    )
    .unwrap_err();
    assert_eq!(error.class(), Class::Transient, "{error}");
    assert!(check(&nowhere)[0].message.contains("/nonexistent"));
    let nobody = PostgresConfig { database: "no_such".to_owned(), ..database.config.clone() };
    refused(&nobody, &["no_such"]);
}
