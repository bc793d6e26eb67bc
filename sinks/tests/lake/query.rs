//! The recipes of docs/query.md, run as they stand there.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

use serde_json::{Value, json};
use syncline_schemas::ident::LogOffset;
use syncline_sinks::Sink;
use syncline_sinks::Span;
use syncline_sinks::lake::{LakeSink, Order};

use super::model::{Model, Random, Row};
use super::{config, file_url, python};

/// 2026-09-22 02:00 UTC in microseconds, as the recipes have it.
const MOMENT: i64 = 1_790_042_400_000_000;

/// The last version of each key that was committed by a moment, unless it is a delete.
fn history(model: &Model) -> Vec<Row> {
    let mut last = BTreeMap::new();
    for row in &model.history["item"] {
        let committed: i64 = row["_valid_from"].parse().expect("microseconds");
        if committed <= MOMENT {
            last.insert((row["company_id"].clone(), row["item_id"].clone()), row.clone());
        }
    }
    last.into_values().filter(|row| row["_op"] == "upsert").collect()
}

fn by_key(rows: Vec<Row>) -> BTreeMap<(String, String), Row> {
    rows.into_iter().map(|row| ((row["company_id"].clone(), row["item_id"].clone()), row)).collect()
}

/// Some columns of a row; those that are null are left out.
fn picked<'n>(columns: impl IntoIterator<Item = (&'n str, Option<&'n String>)>) -> Row {
    let filled = columns.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.clone())));
    filled.collect()
}

fn difference(model: &Model, before: LogOffset, after: LogOffset) -> Vec<Row> {
    let [before, after] = [before, after].map(|offset| by_key(model.current_at("item", offset)));
    let keys: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let change = |(company, item): &(String, String)| {
        let key = (company.clone(), item.clone());
        let (a, b) = (before.get(&key), after.get(&key));
        if a.map(|row| &row["_version"]) == b.map(|row| &row["_version"]) {
            return None;
        }
        let word = match (a, b) {
            (None, _) => "added",
            (_, None) => "removed",
            _ => "changed",
        };
        let word = word.to_owned();
        Some(picked([
            ("change", Some(&word)),
            ("company_id", Some(company)),
            ("item_id", Some(item)),
            ("status_before", a.and_then(|row| row.get("status"))),
            ("status_after", b.and_then(|row| row.get("status"))),
        ]))
    };
    keys.into_iter().filter_map(change).collect()
}

fn joined(model: &Model) -> Vec<Row> {
    let items = by_key(model.current_at("item", model.last()));
    let balances = model.current_at("inventory_balance", model.last());
    let columns = ["company_id", "item_id", "location_id", "_version", "on_hand"];
    let row = |balance: &Row| {
        let item = items.get(&(balance["company_id"].clone(), balance["item_id"].clone()));
        let status = ("status", item.and_then(|item| item.get("status")));
        picked(columns.map(|name| (name, balance.get(name))).into_iter().chain([status]))
    };
    balances.iter().map(row).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_recipe_that_is_said_to_be_tested_answers_exactly() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = file_url(folder.path());
    let (mut model, mut random) = (Model::default(), Random::new(12));
    let mut sink = LakeSink::new(config(url.clone(), &folder.path().join("scratch"))).expect("opens");
    let sources = |_: u32, _: LogOffset| Ok(BTreeMap::new());
    let mut cuts = Vec::new();
    for tag in ["cycle-31", "cycle-32", "later"] {
        let after = model.last();
        (0..4).for_each(|_| model.entry(&mut random, 50));
        sink.write(Span { after, upto: model.last() }, &model).await.expect("write");
        let order = Order::tagged(tag, None);
        sink.snapshots().take(&order, SystemTime::now(), &sources).await.expect("taken");
        cuts.push(model.last());
    }
    let changes = difference(&model, cuts[0], cuts[1]);
    for word in ["added", "removed", "changed"] {
        assert!(changes.iter().any(|row| row["change"] == word), "nothing was {word}");
    }
    assert!(joined(&model).iter().any(|row| row.contains_key("status")), "nothing is joined");
    let wanted: serde_json::Map<String, Value> = ["duckdb", "polars", "pandas"]
        .into_iter()
        .flat_map(|reader| {
            [
                (format!("{reader}-current"), json!(model.current_at("item", model.last()))),
                (format!("{reader}-history"), json!(history(&model))),
                (format!("{reader}-snapshot"), json!(model.current_at("item", cuts[0]))),
                (format!("{reader}-difference"), json!(changes)),
                (format!("{reader}-cut"), json!(joined(&model))),
            ]
        })
        .collect();
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/query.md");
    python::ask(&page, &url.to_file_path().expect("a path"), &wanted.into());
}
