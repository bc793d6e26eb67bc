//! One current table of a cut, written again as plain Parquet files with all columns of its entity.
//!
//! Written again and not copied file by file: a table's files may be of different releases and of other writers, and whoever
//! reads a snapshot in years knows nothing of that. The digest is taken from the rows on their way.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use futures::TryStreamExt;
use syncline_schemas::entity::{Entity, Field};

use super::manifest::{File, Part, folder};
use crate::SinkError;
use crate::lake::config::{LakeConfig, LakeLimits};
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
    config: &LakeConfig,
) -> Result<Part, SinkError> {
    let mut table = Table::new(place, Shape::new(entity, Kind::Current, &config.hidden), &cut.pipeline);
    table.epoch = cut.epoch;
    table.load_cut(version).await?;
    let leaves = leaf::leaves(&mut table).await?;
    let mut output = Output::new(place, &entity.name, at, &table, &config.limits);
    let mut digest = Digest::default();
    for file in leaves.iter().flat_map(|leaf| &leaf.files) {
        let mut rows = leaf::rows(&table, file).await?;
        while let Some(batch) = rows.try_next().await? {
            let fields = fields(entity, &batch);
            let mut hasher = Hasher::new(entity, &fields)?;
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

/// The columns of an entity's fields in their order, null where one is left out.
fn fields(entity: &Entity, batch: &RecordBatch) -> Vec<ArrayRef> {
    let column = |field: &Field| match batch.column_by_name(&field.name) {
        Some(column) => Arc::clone(column),
        None => new_null_array(&field.field_type.arrow(), batch.num_rows()),
    };
    entity.fields.iter().map(column).collect()
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

    async fn write(&mut self, batch: &RecordBatch) -> Result<(), SinkError> {
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
