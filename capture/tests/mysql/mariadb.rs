//! Types that only MariaDB has.

use std::sync::Arc;

use syncline_schemas::frame::Op;

use crate::copying::{assert_same, copying};
use crate::log::{MemoryLog, Reader, State, drain, drain_with};
use crate::server::{Database, Server, eventually, mysql, newer_mariadb};

/// A column of the only row with this key.
fn value(state: &State, table: &str, key: &str, column: &str) -> String {
    state[&(table.to_owned(), key.to_owned())][column].clone()
}

/// Runs statements between two sessions that follow the log, and then copies: both have to see the same.
fn logged_and_copied(database: &Database, statements: &str) -> State {
    let (logged, copied) = (MemoryLog::default(), MemoryLog::default());
    drain(database, &logged).unwrap();
    database.sql(statements);
    drain(database, &logged).unwrap();
    drain_with(&copying(database), &copied).unwrap();
    let copied = copied.fold().1;
    assert_same(&logged.fold().1, &copied);
    copied
}

#[test]
fn a_value_of_a_compressed_column_is_the_one_that_was_written() {
    if mysql().is_some() {
        return;
    }
    let database = Server::shared().database(
        "CREATE TABLE packed (id int PRIMARY KEY, t varchar(255) COMPRESSED CHARACTER SET latin1, n varchar(9) CHARACTER SET latin2,
             u mediumtext COMPRESSED CHARACTER SET utf8mb4, b blob COMPRESSED, v varbinary(400) COMPRESSED, s tinytext COMPRESSED)",
    );
    let state = logged_and_copied(
        &database,
        "SET NAMES utf8mb4; SET column_compression_threshold = 20;
         INSERT INTO packed VALUES (1, REPEAT('ä', 255), 'ž', REPEAT('Ω', 100000), REPEAT('z', 30000), REPEAT('v', 300), REPEAT('s', 250));
         INSERT INTO packed VALUES (2, 'short', 'x', '', '', NULL, NULL), (3, NULL, NULL, REPEAT('x', 70000), 'b', '', 'y');
         SET column_compression_zlib_wrap = ON;
         INSERT INTO packed SELECT id + 10, t, n, u, b, v, s FROM packed;
         SET column_compression_zlib_level = 0;
         INSERT INTO packed SELECT id + 20, t, n, u, b, v, s FROM packed WHERE id < 10;
         UPDATE packed SET t = REPEAT('ö', 100) WHERE id = 3; UPDATE packed SET n = 'č' WHERE id = 1",
    );
    assert_eq!(state.len(), 9);
    for (key, n) in [("1", "č"), ("11", "ž"), ("21", "ž")] {
        let value = |column| value(&state, "packed", key, column);
        assert_eq!((value("t"), value("n")), ("ä".repeat(255), n.to_owned()), "{key}");
        assert_eq!((value("u"), value("b")), ("Ω".repeat(100_000), "7a".repeat(30_000)), "{key}");
        assert_eq!((value("v"), value("s")), ("76".repeat(300), "s".repeat(250)), "{key}");
    }
    assert_eq!(value(&state, "packed", "3", "t"), "ö".repeat(100));
    assert_eq!(
        (value(&state, "packed", "2", "u"), value(&state, "packed", "2", "v")),
        (String::new(), "NULL".to_owned())
    );
}

const NAMED: &str =
    "CREATE TABLE named (u uuid PRIMARY KEY, four inet4, six inet6, t varchar(9) CHARACTER SET latin2, b binary(16))";
const FIRST: &str = "00112233-4455-1677-8899-aabbccddee00";
const SECOND: &str = "f0112233-4455-7677-b899-aabbccddeeff";

fn insert(u: &str, six: &str) -> String {
    format!("SET NAMES utf8mb4; INSERT INTO named VALUES ('{u}', '10.1.2.0', '{six}', 'ž', 'b')")
}

fn assert_named(state: &State, key: &str, six: &str) {
    let value = |column| value(state, "named", key, column);
    assert_eq!([value("four"), value("six"), value("t")], ["10.1.2.0", six, "ž"]);
    assert_eq!(value("b"), format!("62{}", "00".repeat(15)), "bytes stay bytes");
}

#[test]
fn an_address_or_a_uuid_is_one_text_however_it_comes_and_whatever_becomes_of_the_table() {
    if mysql().is_some() {
        return;
    }
    let database = Server::shared().database(NAMED);
    database.sql(&insert(FIRST, "2001:db8::ff00:42:8329"));
    let config = copying(&database);
    let log = Arc::new(MemoryLog::default());
    drain_with(&config, &log).unwrap();
    database.sql(&insert(SECOND, "1:2:3:4:5:0:7:8"));
    drain_with(&config, &log).unwrap();
    let state = log.fold().1;
    assert_named(&state, FIRST, "2001:db8::ff00:42:8329");
    assert_named(&state, SECOND, "1:2:3:4:5:0:7:8");
    let shapes = log.shapes();
    assert!(shapes.windows(2).all(|pair| pair[0] == pair[1]), "{shapes:?}");
    // A column of such a type comes while the log is followed, and one becomes of it.
    let frames = log.frames().len();
    let reader = Reader::start(&config, &log);
    eventually("the log to be followed", || log.frames().len() > frames);
    let (add, set) =
        if newer_mariadb().is_some() { (", ADD v vector(2)", ", v = VEC_FromText('[1.5,-2]')") } else { ("", "") };
    database.sql(&format!(
        "ALTER TABLE named ADD w uuid, MODIFY b inet6{add}; UPDATE named SET w = u, b = '::1'{set} WHERE u = '{FIRST}'"
    ));
    let text = |column: &str| log.fold().1[&("named".to_owned(), FIRST.to_owned())].get(column).cloned();
    eventually("the change to arrive", || text("w").is_some());
    assert_eq!((text("w").as_deref(), text("b").as_deref()), (Some(FIRST), Some("::1")));
    if newer_mariadb().is_some() {
        assert_eq!(text("v").as_deref(), Some("[1.5,-2]"));
    }
    reader.stop();
    let again = MemoryLog::default();
    drain_with(&config, &again).unwrap();
    assert_eq!(
        again.fold().1[&("named".to_owned(), FIRST.to_owned())],
        log.fold().1[&("named".to_owned(), FIRST.to_owned())]
    );
}

#[test]
fn a_uuid_is_text_without_a_copy_too_and_bytes_where_nobody_can_say_what_it_was() {
    if mysql().is_some() {
        return;
    }
    let database = Server::shared().database(NAMED);
    let log = MemoryLog::default();
    drain(&database, &log).unwrap();
    database.sql(&insert(FIRST, "::1"));
    drain(&database, &log).unwrap();
    assert_named(&log.fold().1, FIRST, "::1");
    database.sql(&format!("{}; DROP TABLE named", insert(SECOND, "::1")));
    drain(&database, &log).unwrap_err();
    assert_eq!(value(&log.fold().1, "named", &SECOND.replace('-', ""), "four"), "0a010200");
}

#[test]
fn rows_behind_a_key_of_uuids_or_addresses_are_all_copied_once() {
    if mysql().is_some() {
        return;
    }
    let database = Server::shared().database(
        "CREATE TABLE by_uuid (k uuid PRIMARY KEY, v int); CREATE TABLE by_four (k inet4 PRIMARY KEY, v int);
         CREATE TABLE by_six (k inet6, n int, v int, PRIMARY KEY (k, n));
         INSERT INTO by_uuid SELECT IF(seq % 2, UUID(), INSERT(INSERT(MD5(seq), 13, 1, 1 + seq % 7), 17, 1, 'a')), seq FROM seq_1_to_110000;
         INSERT INTO by_four SELECT INET_NTOA(seq * 37199), seq FROM seq_1_to_110000;
         INSERT INTO by_six SELECT CONCAT(HEX(seq % 65521), '::', HEX(seq % 7)), seq, seq FROM seq_1_to_110000",
    );
    let log = MemoryLog::default();
    drain_with(&copying(&database), &log).unwrap();
    let (ops, state) = log.fold();
    let rows = ops.iter().filter(|op| **op != Op::Truncate).count();
    assert_eq!((rows, state.len()), (330_000, 330_000), "each row once");
    let sum: u64 = state.values().map(|row| row["v"].parse::<u64>().unwrap()).sum();
    assert_eq!(sum, 3 * 110_000 * 110_001 / 2);
}
