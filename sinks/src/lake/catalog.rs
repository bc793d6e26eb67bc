//! What there is in a lake, for people: tables with their sizes, the cut, the snapshots.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use super::cut::Cut;
use super::hidden::Hidden;
use super::operations::OperationsTable;
use super::shape::Shape;
use super::snapshots::{Manifest, all_snapshots};
use super::store::Place;
use super::table::Table;
use crate::SinkError;

/// Tables looked at side by side: over S3 each costs a few round trips.
const READ_AT_ONCE: usize = 8;

/// A lake as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalog {
    /// Where it is.
    pub url: String,
    /// The last flush that is complete in every table; none in a new lake.
    pub cut: Option<CutFacts>,
    /// Tables by path, as in `current/item`.
    pub tables: BTreeMap<String, TableFacts>,
    /// The oldest first.
    pub snapshots: Vec<SnapshotFacts>,
}

/// The last flush that is complete in every table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutFacts {
    /// Who writes the lake.
    pub pipeline: String,
    /// The log offset that all tables have reached.
    pub offset: u64,
    /// When it was made.
    pub at: String,
}

/// A table in its newest version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableFacts {
    /// Its newest version.
    pub version: u64,
    /// The version of the cut; none of a table that is no part of it.
    pub cut: Option<u64>,
    /// Rows in its files.
    pub rows: u64,
    /// Size of its files.
    pub bytes: u64,
    /// How many files.
    pub files: u64,
}

/// A snapshot in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotFacts {
    /// None of one that the schedule asked for.
    pub tag: Option<String>,
    /// What its folders are called.
    pub at: String,
    /// When it was taken.
    pub taken_at: String,
    /// The log offset of its cut.
    pub offset: u64,
    /// Rows of all entities.
    pub rows: u64,
    /// Size of all files.
    pub bytes: u64,
    /// How many entities.
    pub entities: u64,
}

impl From<Manifest> for SnapshotFacts {
    fn from(manifest: Manifest) -> Self {
        Self {
            rows: manifest.entities.values().map(|part| part.rows).sum(),
            bytes: manifest.entities.values().map(|part| part.bytes).sum(),
            entities: manifest.entities.len() as u64,
            tag: manifest.tag,
            at: manifest.at,
            taken_at: manifest.taken_at,
            offset: manifest.offset,
        }
    }
}

/// Looks at a lake.
pub(super) async fn read(place: &Place, hidden: &Arc<Hidden>) -> Result<Catalog, SinkError> {
    let cut = Cut::read(place).await?;
    let mut tables = BTreeMap::new();
    if let Some(cut) = &cut {
        let looks: Vec<BoxFuture<'_, Result<(String, TableFacts), SinkError>>> =
            cut.tables.iter().map(|(path, version)| table((place, hidden), cut, path, *version).boxed()).collect();
        let looked = futures::stream::iter(looks).buffer_unordered(READ_AT_ONCE);
        tables = looked.try_collect().await?;
        for which in OperationsTable::ALL {
            let mut table = Table::new(place, which.shape(), &cut.pipeline);
            if table.load().await? {
                tables.insert(table.shape.path(), facts(&table, None)?);
            }
        }
    }
    let snapshots = all_snapshots(place).await?.into_iter().map(SnapshotFacts::from).collect();
    let cut = cut.map(|cut| CutFacts { pipeline: cut.pipeline, offset: cut.offset, at: cut.at });
    Ok(Catalog { url: place.target().to_owned(), cut, tables, snapshots })
}

async fn table(
    (place, hidden): (&Place, &Arc<Hidden>),
    cut: &Cut,
    path: &str,
    version: u64,
) -> Result<(String, TableFacts), SinkError> {
    let shape = Shape::of_path(path, hidden).ok_or_else(|| SinkError::Refused {
        target: place.url_of(path).to_string(),
        reason: "it is a table of no entity of this release".to_owned(),
        remedy: "ask with the release that wrote it".to_owned(),
    })?;
    let mut table = Table::new(place, shape, &cut.pipeline);
    table.epoch = cut.epoch;
    if !table.load().await? {
        return Err(SinkError::Refused {
            target: table.url.clone(),
            reason: format!("the last flush left it at version {version}, but there is no table"),
            remedy: "restore the table, or delete the whole lake folder and start over".to_owned(),
        });
    }
    Ok((path.to_owned(), facts(&table, Some(version))?))
}

fn facts(table: &Table, cut: Option<u64>) -> Result<TableFacts, SinkError> {
    let files = table.files()?;
    let rows = files.iter().filter_map(|file| file.rows).sum::<usize>() as u64;
    let bytes = files.iter().map(|file| file.size).sum();
    Ok(TableFacts { version: table.version(), cut, rows, bytes, files: files.len() as u64 })
}
