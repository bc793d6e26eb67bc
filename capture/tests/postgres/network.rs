//! A network that breaks: connections that are cut in the middle of whatever they carry.

use std::sync::Arc;

use syncline_capture::Class;
use syncline_capture::postgres::{LogGap, PostgresConfig};
use syncline_schemas::frame::Op;

use crate::log::{MemoryLog, Reader};
use crate::proxy::Proxy;
use crate::server::{Server, eventually};

#[test]
fn a_network_that_is_cut_in_the_middle_of_copies_and_transactions_loses_and_doubles_nothing() {
    let database = Server::shared().database(
        "CREATE TABLE t (id int PRIMARY KEY, fill text);
         INSERT INTO t SELECT i, repeat(md5(i::text), 20) FROM generate_series(1, 20000) i",
    );
    let mut config = database.over_tcp("127.0.0.1");
    let proxy = Proxy::to(config.port);
    config.port = proxy.port;
    let log = Arc::new(MemoryLog::default());
    let reader = Reader::start(&config, &log);
    for round in 0..8 {
        let had = log.len();
        log.wait_for("something to come", |entries| entries.len() > had);
        proxy.cut();
        let (from, to) = (20_001 + round * 1_000, 21_000 + round * 1_000);
        database.sql(&format!(
            "INSERT INTO t SELECT i, repeat(md5(i::text), 20) FROM generate_series({from}, {to}) i; \
             UPDATE t SET fill = 'round {round}' WHERE id % 97 = {round}; DELETE FROM t WHERE id % 1009 = {round}"
        ));
        proxy.mend();
    }
    log.wait_for_copy();
    database.sql("INSERT INTO t VALUES (0, 'last')");
    eventually("the last row", || log.rows().iter().any(|row| row.value("id") == Some("0")));
    reader.stop();

    let state = log.state();
    let wanted = database.sql("SELECT id || '=' || fill FROM t ORDER BY id");
    assert_eq!(state.len(), wanted.lines().count());
    for line in wanted.lines() {
        let (id, fill) = line.split_once('=').unwrap();
        let row = &state[&("public.t".to_owned(), vec![Some(id.to_owned())])];
        assert_eq!(row["fill"].as_deref(), Some(fill), "{id}");
    }
}

#[test]
fn a_slot_that_is_dropped_between_the_look_at_it_and_the_start_of_the_stream_is_a_gap_like_any_other() {
    for (log_gap, is_closed) in [(LogGap::Repair, true), (LogGap::Stop, false)] {
        let database = Server::shared().database("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)");
        let log = Arc::new(MemoryLog::default());
        let reader = Reader::start(&database.config, &log);
        log.wait_for_copy();
        reader.stop();
        database.sql("INSERT INTO t VALUES (2); DELETE FROM t WHERE id = 1");

        let mut config = PostgresConfig { log_gap, ..database.over_tcp("127.0.0.1") };
        let (server, name, slot) = (Arc::clone(&database.server), config.database.clone(), config.slot.clone());
        let proxy = Proxy::before(config.port, b"START_REPLICATION", move || {
            server.psql(&name, &format!("SELECT pg_drop_replication_slot('{slot}')")).unwrap();
        });
        config.port = proxy.port;
        let reader = Reader::start(&config, &log);
        if is_closed {
            eventually("the table to be read anew", || log.rows().iter().any(|row| row.op == Op::SweepEnd));
            reader.stop();
            assert_eq!(log.state_beside().keys().map(|(_, key)| key[0].as_deref()).collect::<Vec<_>>(), [Some("2")]);
        } else {
            let error = reader.end().unwrap_err();
            assert!(error.to_string().contains("is gone") && error.class() == Class::Definite, "{error}");
        }
    }
}
