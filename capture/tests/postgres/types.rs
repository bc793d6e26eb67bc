//! Every supported type, by both ways.

use std::sync::Arc;

use arrow::datatypes::DataType;
use syncline_capture::StopSignal;
use syncline_capture::postgres::{SpecialValues, table_schemas};

use crate::log::{MemoryLog, Reader};
use crate::server::Server;

const TABLE: &str = r#"
    CREATE TYPE mood AS ENUM ('happy', 'sad as "can" be');
    CREATE DOMAIN price AS numeric(12,4) CHECK (VALUE >= 0);
    CREATE DOMAIN codes AS text[];
    CREATE TABLE "All-Types" (
        id bigint PRIMARY KEY, flag bool, small int2, medium int4, "left" float4, double float8,
        exact numeric(12,2), wide numeric(38,10), loose numeric, fine price, words text, short varchar(20), padded char(6),
        raw bytea, day date, at time, moment timestamp, instant timestamptz, ident uuid, doc json, docb jsonb,
        feeling mood, numbers int[], grid numeric(5,2)[], texts text[], flags bool[], tags codes, span interval,
        money_ money, address inet, bits bit(4), name_ name, made int GENERATED ALWAYS AS (medium % 10) STORED)"#;

const ROWS: &str = r#"
    INSERT INTO "All-Types" VALUES
    (1, true, -32768, 2147483647, 0.1, 0.1, -1234567890.12, 1234567890123456789012345678.0123456789, 3.14159265358979323846,
     12.5, E'tab\tline\nback\\slash "quote" \\N é €', 'v', 'ab', '\x00ff10', '2024-02-29', '23:59:59.999999',
     '1969-12-31 23:59:59.5', '2024-03-31 02:30:00+02', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{"a": [1, 2]}',
     '{"b": "x\ty"}', 'sad as "can" be', '{1,NULL,3}', '{{1.5,2},{3,4}}', '{a,"b,c","NULL",NULL,"q\"x"}', '{t,f}',
     '{x,y}', '1 mon 2 days 03:04:05', '12.34', '10.0.0.1/8', '1010', 'a name'),
    (2, false, 32767, -2147483648, 1e30, -1e-300, 0, 0, -0.000000000000000000000000000001, 0, '', '', '', '', '0001-01-01',
     '00:00:00', '9999-12-31 23:59:59.999999', '0001-01-01 00:00:00+00', '00000000-0000-0000-0000-000000000000', 'null',
     'null', 'happy', '{}', '{}', '{}', '{}', '{}', '0', '0', '::1', '0000', ''),
    (3, NULL, NULL, NULL, 'NaN', '-Infinity', 99999.99, NULL, 'NaN', NULL, '\N', NULL, NULL, NULL, NULL, NULL, NULL, NULL,
     NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)"#;

#[test]
fn a_value_is_not_read_differently_by_the_copy_and_by_the_stream() {
    let database = Server::shared().database(TABLE);
    database.sql(ROWS);
    let log = Arc::new(MemoryLog::default());
    let reader = Reader::start(&database.config, &log);
    log.wait_for_rows(3);
    database.sql(&ROWS.replace("(1,", "(11,").replace("(2,", "(12,").replace("(3,", "(13,"));
    log.wait_for_rows(6);
    reader.stop();

    let mut rows = log.rows();
    for row in &mut rows {
        row.values.remove("id");
    }
    for i in 0..3 {
        assert_eq!(rows[i].values, rows[i + 3].values);
    }
    assert_eq!(log.schemas().first(), log.schemas().last(), "one shape has one version");
    assert_eq!(table_schemas(&database.config, true, &StopSignal::default()).unwrap(), log.schemas()[..1]);
}

#[test]
fn values_arrive_exactly_in_their_types() {
    let database = Server::shared().database(TABLE);
    database.sql(ROWS);
    let log = Arc::new(MemoryLog::default());
    let reader = Reader::start(&database.config, &log);
    log.wait_for_rows(3);
    reader.stop();

    let schema = &log.schemas()[0];
    let data_type = |name: &str| &schema.columns.iter().find(|column| column.name == name).expect(name).data_type;
    assert_eq!(data_type("fine"), &DataType::Decimal128(12, 4));
    assert_eq!(data_type("wide"), &DataType::Decimal128(38, 10));
    assert_eq!(data_type("loose"), &DataType::Utf8);
    assert!(schema.columns.iter().all(|column| column.name != "made"), "generated columns are not in the stream");
    let rows = log.rows();
    let first = rows.iter().find(|row| row.value("id") == Some("1")).unwrap();
    for (column, wanted) in [
        ("exact", "-1234567890.12"),
        ("wide", "1234567890123456789012345678.0123456789"),
        ("loose", "3.14159265358979323846"),
        ("words", "tab\tline\nback\\slash \"quote\" \\N é €"),
        ("padded", "ab    "),
        ("raw", "00ff10"),
        ("moment", "1969-12-31T23:59:59.500"),
        ("instant", "2024-03-31T00:30:00"),
        ("numbers", "[1,null,3]"),
        ("grid", "[[1.50,2.00],[3.00,4.00]]"),
        ("texts", r#"["a","b,c","NULL",null,"q\"x"]"#),
        ("flags", "[true,false]"),
        ("tags", r#"["x","y"]"#),
        ("span", "1 mon 2 days 03:04:05"),
        ("left", "0.1"),
    ] {
        assert_eq!(first.value(column), Some(wanted), "{column}");
    }
    let third = rows.iter().find(|row| row.value("id") == Some("3")).unwrap();
    assert_eq!((third.value("words"), third.value("loose")), (Some("\\N"), Some("NaN")));
}

#[test]
fn a_value_that_no_exact_type_holds_stops_the_source_or_is_null_as_configured() {
    let mut database = Server::shared().database("CREATE TABLE t (id int PRIMARY KEY, amount numeric(8,2), due date)");
    database.sql("INSERT INTO t VALUES (1, 'NaN', 'infinity')");
    let error = Reader::start(&database.config, &Arc::default()).end().unwrap_err().to_string();
    assert!(error.contains("public.t") && error.contains("amount") && error.contains("special_values"), "{error}");

    database.config.special_values = SpecialValues::Null;
    let log = Arc::new(MemoryLog::default());
    let reader = Reader::start(&database.config, &log);
    log.wait_for_rows(1);
    reader.stop();
    assert_eq!((log.rows()[0].value("amount"), log.rows()[0].value("due")), (None, None));
}

#[test]
fn a_key_is_never_taken_as_null() {
    let mut database =
        Server::shared().database("CREATE TABLE price (item int, until date, PRIMARY KEY (item, until))");
    database.sql("INSERT INTO price VALUES (1, 'infinity')");
    database.config.special_values = SpecialValues::Null;
    let error = Reader::start(&database.config, &Arc::default()).end().unwrap_err().to_string();
    assert!(error.contains("public.price") && error.contains("until") && error.contains("a key cannot"), "{error}");
}
