//! `syncline tables`: what there is in the lakes, as tables for people or as JSON.
//!
//! The running daemon is asked. Where none runs, the lakes themselves are looked at; nothing of them is changed.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use syncline_sinks::lake::{Catalog, SnapshotFacts, Snapshots, TableFacts};

use super::CommandError;
use super::client::Daemon;
use super::rows::print;
use crate::api::lake::Lakes;
use crate::cli::TablesArgs;
use crate::config::{Config, SinkKind};
use crate::figures::{align, bytes_text, grouped};

/// Every table is looked at, which on S3 takes some round trips each.
const ANSWER_MAX: Duration = Duration::from_secs(120);

/// Lists them.
pub(crate) async fn run(path: &Path, args: &TablesArgs) -> Result<(), CommandError> {
    let mut lakes: Lakes = match Daemon::of(path)?.get(&["tables"], &[], ANSWER_MAX).await {
        Err(CommandError::NoDaemon { .. }) => look(Config::read(path)?).await?,
        lakes => lakes?,
    };
    if let Some(sink) = &args.sink {
        lakes.retain(|name, _| name == sink);
        if lakes.is_empty() {
            return Err(CommandError::Usage(format!("there is no lake {sink}")));
        }
    }
    if lakes.is_empty() {
        return Err(CommandError::Usage("no sink is a lake".to_owned()));
    }
    print(&lakes, args.json, |lakes| lakes.iter().map(|(name, lake)| text(name, lake)).collect())
}

async fn look(config: Config) -> Result<Lakes, CommandError> {
    let mut lakes = Lakes::new();
    for sink in config.sinks {
        if let SinkKind::Lake(lake) = sink.kind {
            lakes.insert(sink.name, Snapshots::new(*lake)?.catalog().await?);
        }
    }
    Ok(lakes)
}

fn text(name: &str, lake: &Catalog) -> String {
    let mut out = match &lake.cut {
        Some(cut) => {
            format!("{name}  {}  whole up to log offset {} of {}\n\n", lake.url, grouped(cut.offset), cut.at)
        }
        None => format!("{name}  {}  nothing was flushed yet\n", lake.url),
    };
    if !lake.tables.is_empty() {
        let header = ["TABLE", "VERSION", "OF CUT", "ROWS", "FILES", "SIZE"];
        align(&mut out, &header, lake.tables.iter().map(|(path, table)| table_row(path, table)));
    }
    if lake.snapshots.is_empty() {
        let _ = writeln!(out, "no snapshots");
    } else {
        let header = ["SNAPSHOT", "TAKEN", "LOG OFFSET", "ENTITIES", "ROWS", "SIZE"];
        align(&mut out, &header, lake.snapshots.iter().map(snapshot_row));
    }
    out
}

fn table_row(path: &str, table: &TableFacts) -> Vec<String> {
    vec![
        path.to_owned(),
        table.version.to_string(),
        table.cut.map_or_else(|| "-".to_owned(), |cut| cut.to_string()),
        grouped(table.rows),
        grouped(table.files),
        bytes_text(table.bytes),
    ]
}

fn snapshot_row(snapshot: &SnapshotFacts) -> Vec<String> {
    vec![
        snapshot.tag.clone().unwrap_or_else(|| format!("at={}", snapshot.at)),
        snapshot.taken_at.clone(),
        grouped(snapshot.offset),
        grouped(snapshot.entities),
        grouped(snapshot.rows),
        bytes_text(snapshot.bytes),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use syncline_sinks::lake::CutFacts;

    use super::*;

    #[test]
    fn a_lake_is_listed_with_its_cut_its_tables_and_its_tags() {
        let cut = CutFacts { pipeline: "syncline".to_owned(), offset: 1_234, at: "2026-05-26T10:00:00Z".to_owned() };
        let table = TableFacts { version: 12, cut: Some(11), rows: 1_000_000, bytes: 20_971_520, files: 3 };
        let snapshot = SnapshotFacts {
            tag: Some("cycle-31".to_owned()),
            at: "20260526T100001.000Z".to_owned(),
            taken_at: "2026-05-26T10:00:01.000Z".to_owned(),
            offset: 1_234,
            rows: 1_000_000,
            bytes: 20_971_520,
            entities: 1,
        };
        let scheduled = SnapshotFacts { tag: None, ..snapshot.clone() };
        let lake = Catalog {
            url: "s3://warehouse/erp".to_owned(),
            cut: Some(cut),
            tables: BTreeMap::from([("current/item".to_owned(), table)]),
            snapshots: vec![snapshot, scheduled],
        };
        let text = text("lake", &lake);
        for part in ["whole up to log offset 1,234", "current/item", "1,000,000", "cycle-31", "at=20260526T100001.000Z"]
        {
            assert!(text.contains(part), "{text}");
        }
        let empty = Catalog { cut: None, tables: BTreeMap::new(), snapshots: Vec::new(), ..lake };
        assert!(super::text("lake", &empty).contains("nothing was flushed yet\nno snapshots\n"));
    }
}
