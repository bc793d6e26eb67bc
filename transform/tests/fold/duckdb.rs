//! A sample of random mappings and histories, given to DuckDB: another engine must say the same of the same SQL.

use std::path::Path;
use std::process::Command;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use serde_json::{Value as Json, json};

use crate::frames::Value;
use crate::joins::{COLUMNS, NAMES, check, log, moves, plans};
use crate::outbox::Current;

/// Cases, the same ones in each run.
const SAMPLE: usize = 200;

fn cell(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Int(value) => json!(value),
        Value::Text(value) => json!(value),
        Value::Decimal(_) => panic!("no decimals here"),
    }
}

/// What the fold made of a random history, beside the tables that it ended with.
fn case(runner: &mut TestRunner) -> Json {
    let plan = plans().new_tree(runner).expect("a mapping").current();
    let moves = moves().new_tree(runner).expect("a history").current();
    let (log, boundaries) = log(&moves);
    let daemon = check(&plan, &log, &boundaries, &[]);
    let mut current = Current::default();
    daemon.memory.outbox.borrow().iter().for_each(|step| current.apply(step));
    let tables = boundaries.values().next_back().expect("a boundary");
    let tables: Vec<Json> = (0..NAMES.len())
        .map(|table| {
            let columns: Vec<_> =
                COLUMNS[table].iter().map(|(name, kind)| [*name, kind.trim_end_matches('?')]).collect();
            let rows: Vec<Vec<Json>> = tables.rows(table).map(|row| row.iter().map(cell).collect()).collect();
            json!({ "name": NAMES[table], "columns": columns, "rows": rows })
        })
        .collect();
    let inner = plan.sql("unit", &format!("{} AS on_hand", plan.quantity()));
    let sums: Vec<[&str; 3]> = current
        .rows
        .iter()
        .map(|((_, key), row)| [key[1].as_str(), key[2].as_str(), row["on_hand"].as_deref().expect("a sum")])
        .collect();
    json!({ "tables": tables, "sql": inner, "sums": sums })
}

#[test]
fn duckdb_makes_the_same_of_a_sample_of_mappings() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let environment = Command::new(root.join("../deploy/python-env")).output().expect("deploy/python-env starts");
    assert!(environment.status.success(), "{}", String::from_utf8_lossy(&environment.stderr));
    let python = Path::new(String::from_utf8_lossy(&environment.stdout).trim()).join("bin/python");
    let mut runner = TestRunner::deterministic();
    let cases: Vec<Json> = (0..SAMPLE).map(|_| case(&mut runner)).collect();
    let file = std::env::temp_dir().join(format!("syncline-duckdb-{}.json", std::process::id()));
    std::fs::write(&file, Json::Array(cases).to_string()).expect("written");
    let output =
        Command::new(python).arg(root.join("tests/fold/compare_duckdb.py")).arg(&file).output().expect("python starts");
    std::fs::remove_file(&file).expect("removed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains(&format!("{SAMPLE} mappings, ")), "{text}");
}
