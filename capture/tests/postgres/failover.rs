//! A standby that is promoted goes on where the primary was.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use syncline_capture::Outcome;
use syncline_capture::postgres::{DrainTo, Host, PostgresConfig};
use syncline_schemas::frame::Op;

use crate::log::{MemoryLog, Reader};
use crate::server::{Server, eventually, run};

#[test]
fn a_promoted_standby_has_the_slot_and_nothing_is_read_anew() {
    let primary = Arc::new(Server::start(&[("wal_level", "logical")], |_| {}));
    let mut database =
        primary.database("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 1000)");
    if database.sql("SELECT current_setting('server_version_num')::int < 170000") == "t" {
        // Slots of standbys came with PostgreSQL 17.
        return;
    }
    database.config.drain_to = Some(DrainTo::CurrentEnd);
    let log = Arc::new(MemoryLog::default());
    let drain = |config: &PostgresConfig| assert_eq!(Reader::start(config, &log).end().unwrap(), Outcome::Drained);
    drain(&database.config);
    database.sql("SELECT pg_create_physical_replication_slot('standby', true)");

    let base = PathBuf::from(format!("{}/base", primary.folder().display()));
    primary.restart(|data| copy(data, &base));
    let reaches_primary =
        format!("host={} port={} user=postgres dbname=postgres", primary.folder().display(), primary.port());
    let settings = [
        ("wal_level", "logical"),
        ("primary_conninfo", reaches_primary.as_str()),
        ("primary_slot_name", "standby"),
        ("hot_standby_feedback", "on"),
        ("sync_replication_slots", "on"),
    ];
    let standby = Server::start(&settings, |data| {
        std::fs::remove_dir_all(data).unwrap();
        copy(&base, data);
        std::fs::write(data.join("standby.signal"), "").unwrap();
        // As pg_basebackup does it.
        let slots = std::fs::read_dir(data.join("pg_replslot")).unwrap();
        slots.for_each(|slot| std::fs::remove_dir_all(slot.unwrap().path()).unwrap());
    });
    let there = |sql: &str| standby.psql("postgres", sql);
    let mut id = 1000;
    eventually("the standby to have the slot", || {
        id += 1;
        // A slot moves where the log says what is running.
        database.sql(&format!("INSERT INTO t VALUES ({id}); SELECT pg_log_standby_snapshot()"));
        drain(&database.config);
        there("SELECT count(*) FROM pg_replication_slots WHERE synced AND NOT temporary").unwrap() == "1"
    });
    database.sql("INSERT INTO t SELECT generate_series(5001, 5100); DELETE FROM t WHERE id <= 10");
    let end = database.sql("SELECT pg_current_wal_lsn()");
    eventually("the standby to have what was done", || {
        there(&format!("SELECT pg_last_wal_replay_lsn() >= '{end}'")).unwrap() == "t"
    });
    // From here on nobody reaches the primary any more.
    there("SELECT pg_promote()").unwrap();
    let promoted = PostgresConfig {
        host: Host::Unix(standby.folder().to_owned()),
        port: standby.port(),
        ..database.config.clone()
    };
    standby.psql(&promoted.database, "INSERT INTO t VALUES (9000)").unwrap();
    drain(&promoted);
    let keys = standby.psql(&promoted.database, "SELECT count(*) FROM t").unwrap();
    assert_eq!(log.state().len().to_string(), keys);
    assert!(!log.rows().iter().any(|row| row.op == Op::SweepBegin), "there was no gap");
}

fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-a").arg(from).arg(to));
}
