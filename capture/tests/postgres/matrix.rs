//! Every type of a stock server, by all ways: the table in docs/postgres.md is what this test saw.

use std::fmt::Write as _;
use std::sync::Arc;

use crate::log::{MemoryLog, Reader};
use crate::server::{Database, Server};

const BEGIN: &str = "<!-- types: written by the tests -->\n";
const END: &str = "<!-- end of types -->\n";

/// What some of the types are made of; each of these statements may be beyond a server.
const SETUP: [&str; 9] = [
    "CREATE TYPE mood AS ENUM ('happy', 'sad as \"can\" be')",
    "CREATE DOMAIN price AS numeric(12,4) CHECK (VALUE >= 0)",
    "CREATE DOMAIN codes AS text[]",
    "CREATE TYPE place AS (street text, number int)",
    "CREATE TYPE span_of_text AS RANGE (subtype = text)",
    "CREATE EXTENSION citext",
    "CREATE EXTENSION hstore",
    "CREATE EXTENSION ltree",
    "CREATE EXTENSION cube",
];

/// A type and values of it, as literals; the last is shown.
const TYPES: &[(&str, &[&str])] = &[
    ("boolean", &["f", "t"]),
    ("smallint", &["-32768", "32767"]),
    ("integer", &["-2147483648", "2147483647"]),
    ("bigint", &["-9223372036854775808", "9223372036854775807"]),
    ("real", &["NaN", "-Infinity", "1e-45", "3.4028235e38", "0.1"]),
    ("double precision", &["NaN", "Infinity", "5e-324", "1.7976931348623157e308", "0.1"]),
    ("numeric(12,2)", &["0", "9999999999.99", "-1234567890.12"]),
    ("numeric(38,10)", &["-0.0000000001", "1234567890123456789012345678.0123456789"]),
    ("numeric(40,2)", &["99999999999999999999999999999999999999.99", "NaN"]),
    ("numeric", &["1e-30", "-1e50", "Infinity", "NaN", "3.14159265358979323846"]),
    ("money", &["-92233720368547758.08", "12.34"]),
    ("text", &["", "\\N", "tab\tline\nquote\" é €", "words"]),
    ("character varying(20)", &["", "v"]),
    ("character(6)", &["", "ab"]),
    ("\"char\"", &["", "x"]),
    ("name", &["a name"]),
    ("citext", &["Code"]),
    ("bytea", &["", "\\x00ff10"]),
    ("date", &["0001-01-01", "1969-12-31", "9999-12-31", "2024-02-29"]),
    ("time", &["00:00:00", "23:59:59.999999"]),
    ("time with time zone", &["24:00:00-15:59", "02:30:00+02"]),
    ("timestamp", &["0001-01-01 00:00:00", "9999-12-31 23:59:59.999999", "1969-12-31 23:59:59.5"]),
    ("timestamp with time zone", &["0001-01-01 00:00:00+00", "2024-03-31 02:30:00+02"]),
    ("interval", &["-178000000 years", "1 mon -2 days 03:04:05.000001"]),
    ("uuid", &["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]),
    ("json", &["null", "{\"a\": [1,  2]}"]),
    ("jsonb", &["null", "{\"b\": \"x\\ty\", \"a\": 1.50}"]),
    ("jsonpath", &["$.a[*] ? (@ > 1)"]),
    ("xml", &["<a>1 &lt; 2</a>"]),
    ("bit(4)", &["1010"]),
    ("bit varying(8)", &["", "101"]),
    ("inet", &["::1", "10.0.0.1/8"]),
    ("cidr", &["10.0.0.0/8"]),
    ("macaddr", &["08:00:2b:01:02:03"]),
    ("macaddr8", &["08:00:2b:01:02:03:04:05"]),
    ("point", &["(1.5,-2)"]),
    ("line", &["{1,2,3}"]),
    ("lseg", &["[(0,0),(1,1)]"]),
    ("box", &["(1,1),(0,0)"]),
    ("path", &["((0,0),(1,1))", "[(0,0),(1,1)]"]),
    ("polygon", &["((0,0),(1,1),(1,0))"]),
    ("circle", &["<(0,0),1.5>"]),
    ("tsvector", &["'a':1A 'fat':2"]),
    ("tsquery", &["'fat' & !'rat'"]),
    ("int4range", &["empty", "[1,5]"]),
    ("int8range", &["(,5)"]),
    ("numrange", &["[1.50,2)"]),
    ("daterange", &["[2024-01-01,2024-02-01)"]),
    ("tsrange", &["[2024-01-01 00:00:00,)"]),
    ("tstzrange", &["[2024-01-01 00:00:00+02,2024-01-02 00:00:00+02)"]),
    ("int4multirange", &["{}", "{[1,3),[5,9)}"]),
    ("datemultirange", &["{[2024-01-01,2024-02-01)}"]),
    ("span_of_text", &["[\"a,b\",c)"]),
    ("mood", &["happy", "sad as \"can\" be"]),
    ("price", &["12.5"]),
    ("codes", &["{x,y}"]),
    ("place", &["(,)", "(\"Main St, \"\"A\"\"\",7)"]),
    ("integer[]", &["{}", "{1,NULL,3}", "[0:1]={7,8}", "{{1,2},{3,4}}"]),
    ("numeric(5,2)[]", &["{NaN}", "{1.5,-2}"]),
    ("double precision[]", &["{Infinity}", "{0.1}"]),
    ("boolean[]", &["{t,NULL,f}"]),
    ("text[]", &["{\"NULL\",NULL}", "{a,\"b,c\",\"q\\\"x\"}"]),
    ("timestamp with time zone[]", &["{\"2024-03-31 02:30:00+02\"}"]),
    ("jsonb[]", &["{\"{\\\"a\\\": 1}\"}"]),
    ("place[]", &["{\"(a,1)\"}"]),
    ("box[]", &["{(1,1),(0,0);(2,2),(1,1)}"]),
    ("hstore", &["", "\"a\"=>\"1\", \"b\"=>NULL"]),
    ("ltree", &["Top.Science"]),
    ("cube", &["(1, 2),(3, 4)"]),
    ("oid", &["4294967295"]),
    ("regclass", &["pg_class"]),
    ("xid8", &["18446744073709551615"]),
    ("pg_lsn", &["16/B374D848"]),
    ("pg_snapshot", &["10:20:10,14,15"]),
    ("int2vector", &["1 2"]),
    ("oidvector", &["1 2"]),
];

/// The types that this server has.
fn known(database: &Database) -> Vec<(&'static str, &'static [&'static str])> {
    for statement in SETUP {
        let _ = database.try_sql(statement);
    }
    let has = |name: &str, values: &[&str]| {
        let literal = values[0].replace('\'', "''");
        database.try_sql(&format!("SELECT '{literal}'::{name}")).is_ok()
    };
    TYPES.iter().copied().filter(|(name, values)| has(name, values)).collect()
}

fn insert(table: &str, types: &[(&str, &[&str])], first_id: usize) -> String {
    let rows = types.iter().map(|(_, values)| values.len()).max().expect("types");
    let mut sql = String::new();
    for row in 0..rows {
        let value = |values: &[&str]| match values.get(row) {
            Some(value) => format!("'{}'", value.replace('\'', "''")),
            None => "NULL".to_owned(),
        };
        let values: Vec<String> = types.iter().map(|(_, values)| value(values)).collect();
        let _ = write!(sql, "INSERT INTO {table} VALUES ({}, {});", first_id + row, values.join(", "));
    }
    sql
}

#[test]
fn no_type_of_a_stock_server_arrives_otherwise_than_documented() {
    let database = Server::shared().database("");
    let types = known(&database);
    let columns: Vec<String> = types.iter().enumerate().map(|(i, (name, _))| format!("c{i} {name}")).collect();
    // Copied in text form, as most of it is text; in binary form, as most of it is not; and by key.
    let numbers: String = (0..200).map(|i| format!(", n{i} int")).collect();
    for (table, more) in [("every_type", ""), ("in_binary", &numbers), ("by_key", ", outside text")] {
        let columns = columns.join(", ");
        database.sql(&format!("CREATE TABLE {table} (id int PRIMARY KEY, {columns}{more})"));
        database.sql(&insert(table, &types, 0));
    }
    database
        .sql("ALTER TABLE by_key ALTER outside SET STORAGE EXTERNAL; UPDATE by_key SET outside = repeat('x', 9000)");
    let log = Arc::new(MemoryLog::default());
    let reader = Reader::start(&database.config, &log);
    log.wait_for_copy();
    let copied = log.row_count();
    database.sql(&insert("every_type", &types, 100));
    log.wait_for_rows(copied + copied / 3);
    reader.stop();

    let rows = log.rows();
    let of = |table: &str| rows.iter().filter(|row| row.table == format!("public.{table}")).collect::<Vec<_>>();
    let [every_type, in_binary, by_key] = ["every_type", "in_binary", "by_key"].map(of);
    let shapes = log.schemas();
    let shape = shapes.iter().find(|shape| *shape.table.name == *"every_type").expect("a shape");
    let mut table = String::from("| PostgreSQL | Arrow | a value | arrives as |\n|---|---|---|---|\n");
    for (i, (name, values)) in types.iter().enumerate() {
        let column = format!("c{i}");
        for (place, literal) in values.iter().enumerate() {
            let streamed = every_type[copied / 3 + place].value(&column);
            assert!(streamed.is_some(), "{name} {literal}");
            for (way, rows) in [("as text", &every_type), ("in binary form", &in_binary), ("by key", &by_key)] {
                assert_eq!(rows[place].value(&column), streamed, "{name} {literal}: copied {way}, and by the stream");
            }
        }
        let last = values.len() - 1;
        let arrives = every_type[last].value(&column).expect("a value");
        let arrow = &shape.columns.iter().find(|it| it.name == column).expect("a column").data_type;
        let code = |text: &str| format!("`{}`", text.replace('|', "\\|"));
        let _ = writeln!(table, "| {} | {arrow} | {} | {} |", code(name), code(values[last]), code(arrives));
    }
    compare_with_docs(&table, types.len() == TYPES.len());
}

/// Those with a binary form that is read.
const BINARY: [&str; 22] = [
    "boolean",
    "smallint",
    "integer",
    "bigint",
    "real",
    "double precision",
    "numeric(12,2)",
    "numeric(38,10)",
    "numeric(40,2)",
    "numeric",
    "text",
    "character varying(20)",
    "character(6)",
    "name",
    "citext",
    "bytea",
    "date",
    "time",
    "timestamp",
    "timestamp with time zone",
    "uuid",
    "mood",
];

#[test]
fn a_value_that_the_stream_brings_in_binary_form_is_the_one_that_was_copied() {
    let database = Server::shared().database("");
    let mut types = known(&database);
    types.retain(|(name, _)| BINARY.contains(name) || ["json", "jsonb", "price"].contains(name));
    assert!(types.len() >= BINARY.len() + 2, "{types:?}");
    let columns: Vec<String> = types.iter().enumerate().map(|(i, (name, _))| format!("c{i} {name}")).collect();
    database.sql(&format!("CREATE TABLE t (id int PRIMARY KEY, {})", columns.join(", ")));
    database.sql(&insert("t", &types, 0));
    let log = Arc::new(MemoryLog::default());
    let reader = Reader::start(&database.config, &log);
    log.wait_for_copy();
    let copied = log.row_count();
    database.wait_for_binary();
    database.sql(&insert("t", &types, 100));
    log.wait_for_rows(copied * 2);
    reader.stop();
    let rows = log.rows();
    for (i, (name, values)) in types.iter().enumerate() {
        for (place, literal) in values.iter().enumerate() {
            let (before, after) = (rows[place].value(&format!("c{i}")), rows[copied + place].value(&format!("c{i}")));
            assert!(before.is_some() && before == after, "{name} {literal}: {before:?} copied, {after:?} streamed");
        }
    }
}

/// Each line is in the published table; a server that has all types writes it where `UPDATE_GENERATED` is set.
fn compare_with_docs(table: &str, is_whole: bool) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/postgres.md");
    let text = std::fs::read_to_string(&path).expect("docs/postgres.md");
    let (before, rest) = text.split_once(BEGIN).expect("the beginning of the types");
    let (published, after) = rest.split_once(END).expect("the end of the types");
    if is_whole && std::env::var_os("UPDATE_GENERATED").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}")).expect("written");
        return;
    }
    let missing: Vec<&str> = table.lines().filter(|line| !published.lines().any(|known| known == *line)).collect();
    assert!(missing.is_empty(), "docs/postgres.md lacks, or UPDATE_GENERATED=1 adds:\n{}", missing.join("\n"));
    assert!(!is_whole || table == published, "docs/postgres.md has types that are not tested");
}
