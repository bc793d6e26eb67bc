//! Reading the tables back through their Delta logs.

use std::collections::BTreeSet;
use std::fs::File;

use deltalake_core::{DeltaTable, DeltaTableError};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use syncline_schemas::ident::LogOffset;
use url::Url;

use super::model::{self, ENTITIES, Model, Row};

async fn open(lake: &Url, path: &str) -> Option<DeltaTable> {
    let url = Url::parse(&format!("{lake}/{path}/")).expect("a URL");
    if !url.to_file_path().expect("a local lake").exists() {
        return None;
    }
    match DeltaTable::try_from_url(url).await {
        Ok(table) => Some(table),
        Err(DeltaTableError::NotATable(_)) => None,
        Err(error) => panic!("{path} does not open: {error}"),
    }
}

/// The files of a table's newest snapshot.
pub(crate) async fn files(lake: &Url, path: &str) -> BTreeSet<String> {
    let Some(table) = open(lake, path).await else { return BTreeSet::new() };
    table.get_file_uris().expect("a snapshot").collect()
}

async fn rows(lake: &Url, path: &str) -> Vec<Row> {
    rows_of(path, files(lake, path).await)
}

pub(crate) fn rows_of(path: &str, files: BTreeSet<String>) -> Vec<Row> {
    let mut rows = Vec::new();
    for file in files {
        let file = File::open(&file).unwrap_or_else(|error| panic!("{path} names {file}: {error}"));
        for batch in ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet").build().expect("Parquet") {
            let batch = batch.expect("Parquet");
            rows.extend((0..batch.num_rows()).map(|row| model::describe(&batch, row)));
        }
    }
    rows.sort_by(|left, right| left["_version"].cmp(&right["_version"]));
    rows
}

/// Every table opens, no version is there twice, and nothing is there that the outbox never said.
pub(crate) async fn check_readable(lake: &Url, model: &Model) {
    for entity in ENTITIES {
        let known: BTreeSet<&str> =
            model.history.get(entity).into_iter().flatten().map(|row| row["_version"].as_str()).collect();
        for kind in ["current", "history"] {
            let rows = rows(lake, &format!("{kind}/{entity}")).await;
            let versions: BTreeSet<&str> = rows.iter().map(|row| row["_version"].as_str()).collect();
            assert_eq!(versions.len(), rows.len(), "{kind}/{entity} holds a version twice");
            assert!(versions.is_subset(&known), "{kind}/{entity} holds versions that never were");
        }
    }
}

/// Whoever reads the versions that the cut names reads all tables as they were at its offset.
pub(crate) async fn check_cut(lake: &Url, model: &Model) {
    let place = lake.to_file_path().expect("a local lake").join("_syncline/cut.json");
    let Ok(text) = std::fs::read(place) else { return };
    let cut: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    let offset = LogOffset(cut["offset"].as_u64().expect("an offset"));
    for entity in ENTITIES {
        for (kind, wanted) in
            [("current", model.current_at(entity, offset)), ("history", model.history_at(entity, offset))]
        {
            let path = format!("{kind}/{entity}");
            let found = match cut["tables"][&path].as_u64() {
                None => Vec::new(),
                Some(version) => {
                    let mut table = open(lake, &path).await.expect("the cut names it");
                    table.load_version(version).await.expect("the cut names its version");
                    rows_of(&path, table.get_file_uris().expect("a snapshot").collect())
                }
            };
            assert_eq!(found, wanted, "{path} as of {offset}");
        }
    }
}

/// The tables are what the model says, value by value.
pub(crate) async fn check_equal(lake: &Url, model: &Model) {
    for (path, wanted) in wanted(model) {
        let found = rows(lake, &path).await;
        assert_eq!(found.len(), wanted.len(), "rows of {path}");
        for (found, wanted) in found.iter().zip(&wanted) {
            assert_eq!(found, wanted, "{path}");
        }
    }
}

/// Table path and rows in version order.
pub(crate) fn wanted(model: &Model) -> Vec<(String, Vec<Row>)> {
    let mut tables = Vec::new();
    for entity in ENTITIES {
        let Some(history) = model.history.get(entity) else { continue };
        let mut current: Vec<Row> =
            model.current.iter().filter(|((of, _), _)| of == entity).map(|(_, row)| row.clone()).collect();
        current.sort_by(|left, right| left["_version"].cmp(&right["_version"]));
        tables.push((format!("current/{entity}"), current));
        tables.push((format!("history/{entity}"), history.clone()));
    }
    tables
}
