//! JSON of which the log says no more than what was changed in it.

use syncline_capture::Class;

use crate::log::{MemoryLog, drain};
use crate::server::{Database, Server, mysql};

const TABLE: &str = "(id int PRIMARY KEY, j json, other json, v int)";
const PARTS: &str = "SET NAMES utf8mb4, binlog_row_value_options = 'PARTIAL_JSON'";

const ROWS: &str = r#"
    INSERT INTO t VALUES (1, '{"a": {"b": [1, 2, {"c": "x"}], "ключ": 1}, "n": 1.5, "bb": null, "keep": "some text so that the whole is longer than its parts, and more of it"}', '[1, 2]', 0);
    INSERT INTO t VALUES (2, JSON_OBJECT('long', REPEAT('x', 70000), 'arr', JSON_ARRAY(1, 2, 3), 'in', JSON_OBJECT('k', JSON_ARRAY())), NULL, 0);
    INSERT INTO t VALUES (3, JSON_ARRAY(JSON_ARRAY(1, REPEAT('y', 100)), REPEAT('z', 300), 3), '{"a": {"long": "0123456789012345678901234567890123456789"}}', 0);
    INSERT INTO t SELECT 10 + seq, JSON_OBJECT('n', seq, 'text', REPEAT('w', seq * 3), 'list', JSON_ARRAY(seq)), NULL, 0 FROM seq_1_to_300"#;

/// Every way to change a part.
const CHANGES: &str = r#"
    UPDATE t SET j = JSON_SET(j, '$.a.b[2].c', 'longer than it was');
    UPDATE t SET j = JSON_SET(j, '$.a."ключ"', JSON_OBJECT('é "q"\\', CAST(1.45 AS DECIMAL(10,2)), 'at', CAST('2015-01-15 23:24:25.12' AS DATETIME(6))));
    UPDATE t SET j = JSON_SET(j, '$.a."ключ"."é \\"q\\"\\\\"', X'0102', '$.a."ключ"."with space"', 1e20, '$.a."ключ".""', true) WHERE id = 1;
    UPDATE t SET j = JSON_REPLACE(j, '$.n', CAST('null' AS JSON), '$.nothing', 1), v = v + 1;
    UPDATE t SET j = JSON_REMOVE(j, '$.a.b[0]', '$.bb') WHERE id = 1;
    UPDATE t SET j = JSON_SET(j, '$.a.b[9]', 18446744073709551615, '$.a.b[99]', -1) WHERE id = 1;
    UPDATE t SET j = JSON_SET(j, '$.z', CAST('[1, {"deep": [[]]}]' AS JSON), '$.zz', 1, '$.aaa', 2) WHERE id < 200;
    UPDATE t SET j = JSON_REMOVE(JSON_SET(j, '$.z[1].deep[0][0]', 'in', '$.z[0]', 70000), '$.zz') WHERE id < 200;
    UPDATE t SET j = JSON_SET(j, '$.arr[1]', JSON_ARRAY(REPEAT('ü', 300)), '$.in.k[0]', 2147483648, '$.in.k[1]', 5) WHERE id = 2;
    UPDATE t SET j = JSON_SET(j, '$[0][1]', 'y', '$[3]', 4, '$[4]', 5), other = JSON_SET(other, '$.a.x', 1.0) WHERE id = 3;
    UPDATE t SET j = JSON_ARRAY_INSERT(j, '$[1]', 'between'), other = JSON_REMOVE(other, '$.a.long') WHERE id = 3;
    UPDATE t SET j = JSON_ARRAY_APPEND(j, '$[0]', 'end') WHERE id = 3;
    UPDATE t SET j = JSON_SET(j, '$.keep', JSON_EXTRACT(j, '$.keep')), v = v + 1 WHERE id = 1;
    UPDATE t SET j = JSON_SET(j, '$.n', 3), id = id + 1000 WHERE id BETWEEN 20 AND 30;
    UPDATE t SET j = JSON_SET(j, '$.text', JSON_OBJECT('now', JSON_ARRAY('an', 'object'))), other = JSON_OBJECT('w', 1) WHERE id > 1000;
    UPDATE t SET other = JSON_SET(other, '$.w', 2) WHERE id > 1000;
    UPDATE t SET j = JSON_SET(j, '$.k0', 1, '$.k10', 1, '$.k2', 1, '$.ä', 1) WHERE id BETWEEN 40 AND 60;
    UPDATE t SET j = NULL WHERE id = 40"#;

fn run(database: &Database, table: &str, settings: &str) {
    let statements = format!("{ROWS};{CHANGES}").replace(" t SET", &format!(" {table} SET"));
    database.sql(&format!("{settings}; {}", statements.replace("INTO t ", &format!("INTO {table} "))));
}

/// Rows of a table as the journal has them, or as the server has.
fn held(log: &MemoryLog, wanted: &str) -> Vec<[String; 4]> {
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02X}")).collect::<String>();
    let json = |text: &str| if text == "NULL" { text.to_owned() } else { hex(text) };
    let state = log.fold().1.into_iter().filter(|((table, _), _)| table == wanted);
    let mut rows: Vec<_> =
        state.map(|(_, row)| [row["id"].clone(), json(&row["j"]), json(&row["other"]), row["v"].clone()]).collect();
    rows.sort_by_key(|row| row[0].parse::<u32>().unwrap());
    rows
}

fn content(database: &Database, table: &str) -> Vec<[String; 4]> {
    let hex = |column| format!("IFNULL(HEX(CAST({column} AS CHAR)), 'NULL')");
    let rows = database.sql(&format!("SELECT id, {}, {}, v FROM {table} ORDER BY id", hex("j"), hex("other")));
    let row = |line: &str| line.split('\t').map(str::to_owned).collect::<Vec<_>>().try_into().unwrap();
    rows.lines().map(row).collect()
}

fn ensure_same(ours: &[[String; 4]], theirs: &[[String; 4]]) {
    assert_eq!(ours.len(), theirs.len());
    for (ours, theirs) in ours.iter().zip(theirs) {
        assert!(ours == theirs, "{ours:.300?}\n{theirs:.300?}");
    }
}

#[test]
fn json_that_is_logged_in_parts_is_what_the_table_holds() {
    if mysql().is_none() {
        return; // MariaDB has no such thing.
    }
    let tables = format!("CREATE TABLE parts {TABLE}; CREATE TABLE packed {TABLE}; CREATE TABLE whole {TABLE}");
    let database = Server::shared().database(&tables);
    let log = MemoryLog::default();
    drain(&database, &log).unwrap();
    run(&database, "parts", PARTS);
    run(&database, "packed", &format!("{PARTS}, binlog_transaction_compression = ON"));
    run(&database, "whole", "SET NAMES utf8mb4, binlog_row_value_options = ''");
    drain(&database, &log).unwrap();
    let whole = content(&database, "whole");
    assert_eq!(whole.len(), 303);
    for table in ["whole", "parts", "packed"] {
        ensure_same(&content(&database, table), &whole);
        ensure_same(&held(&log, table), &whole);
    }
    let file = database.sql("SHOW BINARY LOG STATUS");
    let file = file.split('\t').next().unwrap();
    let events = database.sql(&format!("SHOW BINLOG EVENTS IN '{file}'"));
    assert!(events.matches("Update_rows_partial").count() > 10, "the server did not log in parts");
}

#[test]
fn a_part_of_a_value_that_nobody_knows_stops_the_source_instead_of_leaving_the_old_one() {
    if mysql().is_none() {
        return; // MariaDB has no such thing.
    }
    let database = Server::shared().database(&format!("CREATE TABLE t {TABLE}"));
    let log = MemoryLog::default();
    drain(&database, &log).unwrap();
    database.sql(ROWS);
    database.sql(&format!("{PARTS}, binlog_row_image = 'MINIMAL'; UPDATE t SET v = 5 WHERE id = 1"));
    drain(&database, &log).unwrap();
    assert_eq!(held(&log, "t"), content(&database, "t"), "what is not touched is as it was");
    database
        .sql(&format!("{PARTS}, binlog_row_image = 'MINIMAL'; UPDATE t SET j = JSON_SET(j, '$.n', 7) WHERE id = 1"));
    let error = drain(&database, &log).unwrap_err();
    assert!(error.class() == Class::Definite && error.to_string().contains("binlog_row_image"), "{error}");
}
