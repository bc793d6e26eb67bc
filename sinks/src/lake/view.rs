//! A lake as a reader needs it: which files hold the rows of its tables at one moment.
//!
//! The moment is a cut, so tables that are read together belong together; what a later flush replaces stays readable for as long
//! as the tables keep removed files.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use object_store::ObjectStore;
use object_store::path::Path;
use syncline_schemas::entity;

use super::config::LakeConfig;
use super::cut::Cut;
use super::hidden::Hidden;
use super::operations::OperationsTable;
use super::shape::{Kind, Shape};
use super::snapshots::{Manifest, snapshot_named};
use super::store::Place;
use super::table::Table;
use crate::SinkError;

/// A lake at its last cut.
#[derive(Debug)]
pub struct View {
    place: Place,
    pipeline: String,
    epoch: u32,
    hidden: Arc<Hidden>,
    versions: BTreeMap<String, u64>,
}

/// A table at one moment.
#[derive(Debug, Clone)]
pub struct TableView {
    /// All columns; a file may lack some of those that need no value.
    pub schema: SchemaRef,
    /// How many of the first columns are the key.
    pub key_len: usize,
    /// Where its rows are.
    pub files: Vec<FileView>,
}

/// A Parquet file.
#[derive(Debug, Clone)]
pub struct FileView {
    /// Below the lake.
    pub path: Path,
    /// Bytes.
    pub size: u64,
    /// Rows in it, where whoever wrote it said so.
    pub rows: Option<usize>,
}

impl View {
    /// Looks at a lake; none where nothing was flushed yet.
    ///
    /// # Errors
    /// [`SinkError::Setting`] for a URL that is not a lake's place, [`SinkError::Refused`] and [`SinkError::Unavailable`] where it
    /// cannot be read.
    pub async fn open(config: &LakeConfig) -> Result<Option<Self>, SinkError> {
        let place = Place::open(&config.url, &config.store)?;
        let cut = Cut::read(&place).await?;
        Ok(cut.map(|cut| Self {
            place,
            pipeline: cut.pipeline,
            epoch: cut.epoch,
            hidden: Arc::clone(&config.hidden),
            versions: cut.tables,
        }))
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> &str {
        self.place.target()
    }

    /// The store of all its files; their paths begin at the lake.
    #[must_use]
    pub fn files(&self) -> Arc<dyn ObjectStore> {
        self.place.files()
    }

    /// The paths of its tables, as in `current/item`.
    pub fn tables(&self) -> impl Iterator<Item = &str> {
        self.versions.keys().map(String::as_str)
    }

    /// A table by its path; none where the cut has none.
    ///
    /// # Errors
    /// [`SinkError::Refused`] for a table that is not as the cut says, [`SinkError::Unavailable`] where it cannot be read.
    pub async fn table(&self, path: &str) -> Result<Option<TableView>, SinkError> {
        let Some(version) = self.versions.get(path) else { return Ok(None) };
        let shape = Shape::of_path(path, &self.hidden).ok_or_else(|| SinkError::Refused {
            target: self.place.url_of(path).to_string(),
            reason: "it is a table of no entity of this release".to_owned(),
            remedy: "ask with the release that wrote it".to_owned(),
        })?;
        let mut table = Table::new(&self.place, shape, &self.pipeline);
        table.epoch = self.epoch;
        table.load_cut(*version).await?;
        view(&table).map(Some)
    }

    /// What the daemon did and met, as of the last look; none where it was never written.
    ///
    /// # Errors
    /// As [`View::table`].
    pub async fn operations(&self, which: OperationsTable) -> Result<Option<TableView>, SinkError> {
        let mut table = Table::new(&self.place, which.shape(), &self.pipeline);
        if table.load().await? { view(&table).map(Some) } else { Ok(None) }
    }

    /// A snapshot by its tag, or by the time that its folders are called by.
    ///
    /// # Errors
    /// [`SinkError::Refused`] for one that cannot be understood, [`SinkError::Unavailable`] where it cannot be read.
    pub async fn snapshot(&self, name: &str) -> Result<Option<Manifest>, SinkError> {
        snapshot_named(&self.place, name).await
    }

    /// The copy of an entity's current table in a snapshot; none where it has none.
    ///
    /// # Errors
    /// [`SinkError::Refused`] where the snapshot names a file that none can have, or an entity of another release.
    pub fn copy_in(&self, snapshot: &Manifest, entity: &str) -> Result<Option<TableView>, SinkError> {
        let Some(part) = snapshot.entities.get(entity) else { return Ok(None) };
        let refused = |reason: String| SinkError::Refused {
            target: self.place.target().to_owned(),
            reason,
            remedy: "ask with the release that took the snapshot".to_owned(),
        };
        let known = entity::get(entity).ok_or_else(|| refused(format!("{entity} is no entity of this release")))?;
        let files = part.files.iter().map(|file| {
            let path =
                Path::parse(&file.path).map_err(|error| refused(format!("{:?} is no path: {error}", file.path)))?;
            Ok(FileView { path, size: file.bytes, rows: usize::try_from(file.rows).ok() })
        });
        let files = files.collect::<Result<_, SinkError>>()?;
        let Shape { schema, key_len, .. } = Shape::new(known, Kind::Current, &self.hidden);
        Ok(Some(TableView { schema, key_len, files }))
    }
}

fn view(table: &Table) -> Result<TableView, SinkError> {
    let below = table.shape.path();
    let files = table.files()?.into_iter().map(|file| {
        let path = Path::parse(format!("{below}/{}", file.path)).map_err(|error| SinkError::Refused {
            target: table.url.clone(),
            reason: format!("{:?} is no path: {error}", file.path),
            remedy: "remove the file from the table".to_owned(),
        })?;
        Ok(FileView { path, size: file.size, rows: file.rows })
    });
    let files = files.collect::<Result<_, SinkError>>()?;
    Ok(TableView { schema: Arc::clone(&table.shape.schema), key_len: table.shape.key_len, files })
}
