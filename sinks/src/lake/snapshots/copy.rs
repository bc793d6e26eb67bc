//! One current table of a cut, written again as plain Parquet files with all columns of its entity.
//!
//! Written again and not copied file by file: a table's files may be of different releases and of other writers, and whoever
//! reads a snapshot in years knows nothing of that. The digest is taken from the rows on their way.

use futures::TryStreamExt;
use syncline_schemas::entity::Entity;

use super::manifest::{File, Part, folder};
use crate::SinkError;
use crate::lake::config::LakeLimits;
use crate::lake::cut::Cut;
use crate::lake::datafile::{DataFile, Written};
use crate::lake::leaf;
use crate::lake::shape::{Kind, Shape};
use crate::lake::store::Place;
use crate::lake::table::Table;
use crate::planning::digest::{Digest, Hasher};

/// Copies a version of an entity's table into its folder of a time.
pub(super) async fn copy(
    place: &Place,
    cut: &Cut,
    (entity, version): (&Entity, u64),
    at: &str,
    limits: &LakeLimits,
) -> Result<Part, SinkError> {
    let mut table = Table::new(place, Shape::new(entity, Kind::Current), &cut.pipeline);
    table.epoch = cut.epoch;
    let found = table.load_at(Some(version)).await?.then(|| table.version());
    if found != Some(version) {
        let found = found.map_or("there is no table".to_owned(), |found| format!("the table is at {found}"));
        return Err(SinkError::Refused {
            target: table.url.clone(),
            reason: format!("the last flush left it at version {version}, but {found}"),
            remedy: "restore the table, or delete the whole lake folder and start over".to_owned(),
        });
    }
    let leaves = leaf::leaves(&mut table).await?;
    let mut output = Output::new(place, &entity.name, at, &table, limits);
    let mut digest = Digest::default();
    for file in leaves.iter().flat_map(|leaf| &leaf.files) {
        let mut rows = leaf::rows(&table, file).await?;
        while let Some(batch) = rows.try_next().await? {
            let mut hasher = Hasher::new(entity, batch.columns())?;
            (0..batch.num_rows()).for_each(|row| digest += Digest::of(hasher.hash(row)));
            output.write(&batch).await?;
        }
    }
    let files = output.finish().await?;
    Ok(Part {
        schema: entity.schema_id(),
        version,
        rows: digest.count,
        digest: digest.to_hex(),
        bytes: files.iter().map(|file| file.bytes).sum(),
        files,
    })
}

/// Files of a size, one after the other.
struct Output<'a> {
    place: &'a Place,
    below: String,
    table: &'a Table,
    limits: &'a LakeLimits,
    file: Option<DataFile>,
    done: Vec<File>,
}

impl<'a> Output<'a> {
    fn new(place: &'a Place, entity: &str, at: &str, table: &'a Table, limits: &'a LakeLimits) -> Self {
        let below = format!("snapshots/{entity}/{}", folder(at));
        Self { place, below, table, limits, file: None, done: Vec::new() }
    }

    fn create(&self) -> Result<DataFile, SinkError> {
        let target = self.place.url_of(&self.below).to_string();
        let store = self.place.below(&self.below);
        DataFile::create(&target, &store, &self.table.shape.schema, self.limits.group_rows)
    }

    async fn write(&mut self, batch: &arrow::array::RecordBatch) -> Result<(), SinkError> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => self.create()?,
        };
        file.write(batch).await?;
        if file.bytes() > self.limits.buffer_bytes {
            file.end_group().await?;
        }
        if file.rows() >= self.limits.file_rows {
            return self.close(file).await;
        }
        self.file = Some(file);
        Ok(())
    }

    async fn close(&mut self, file: DataFile) -> Result<(), SinkError> {
        let rows = file.rows() as u64;
        let Written { add, .. } = file.finish(None).await?;
        let bytes = u64::try_from(add.size).unwrap_or_default();
        self.done.push(File { path: format!("{}/{}", self.below, add.path), rows, bytes });
        Ok(())
    }

    /// An entity without rows has a file all the same, so that every question about it has an answer.
    async fn finish(mut self) -> Result<Vec<File>, SinkError> {
        match self.file.take() {
            Some(file) => self.close(file).await?,
            None if self.done.is_empty() => {
                let empty = self.create()?;
                self.close(empty).await?;
            }
            None => {}
        }
        Ok(self.done)
    }
}
