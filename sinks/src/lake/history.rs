//! The append-only table of every version: rows go straight from the outbox into Parquet.
//!
//! Not partitioned: a flush then makes one file, and the commit times in the file statistics let readers skip files just
//! as partitions would. Small files are folded: as soon as `fold_files` files have about one size they
//! become one, so that a row is rewritten a few times in its life, like in a log-structured merge tree.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use arrow::compute::BatchCoalescer;
use deltalake_core::kernel::Action;
use futures::TryStreamExt;

use super::config::LakeLimits;
use super::datafile::{DataFile, Written};
use super::leaf;
use super::merge::Prepared;
use super::runs::BATCH_ROWS;
use super::table::{Committed, Table, TableFile};
use crate::SinkError;

/// Rows on their way into a history table.
pub(super) struct Appender {
    coalescer: BatchCoalescer,
    file: Option<DataFile>,
    done: Vec<Written>,
}

impl Appender {
    pub(super) fn new(table: &Table) -> Self {
        let coalescer = BatchCoalescer::new(table.shape.delta_schema(), BATCH_ROWS)
            .with_biggest_coalesce_batch_size(Some(BATCH_ROWS / 2));
        Self { coalescer, file: None, done: Vec::new() }
    }

    /// Bytes held in memory.
    pub(super) fn bytes(&self) -> usize {
        self.coalescer.size() + self.file.as_ref().map_or(0, DataFile::bytes)
    }

    pub(super) async fn push(
        &mut self,
        table: &Table,
        deltas: RecordBatch,
        limits: &LakeLimits,
    ) -> Result<(), SinkError> {
        self.coalescer.push_batch(deltas)?;
        self.write_completed(table, limits).await
    }

    async fn write_completed(&mut self, table: &Table, limits: &LakeLimits) -> Result<(), SinkError> {
        while let Some(deltas) = self.coalescer.next_completed_batch() {
            let file = match &mut self.file {
                Some(file) => file,
                none => none.insert(DataFile::create(
                    &table.url,
                    &table.files_store(),
                    &table.shape.schema,
                    limits.group_rows,
                )?),
            };
            file.write(&table.shape.rows(&deltas)?).await?;
            if file.rows() >= limits.file_rows
                && let Some(full) = self.file.take()
            {
                self.done.push(full.finish(None).await?);
            }
        }
        Ok(())
    }

    /// Frees memory by ending the row group.
    pub(super) async fn relieve(&mut self) -> Result<(), SinkError> {
        match &mut self.file {
            Some(file) => file.end_group().await,
            None => Ok(()),
        }
    }

    pub(super) async fn finish(mut self, table: &Table, limits: &LakeLimits) -> Result<Prepared, SinkError> {
        self.coalescer.finish_buffered_batch()?;
        self.write_completed(table, limits).await?;
        if let Some(file) = self.file {
            self.done.push(file.finish(None).await?);
        }
        let mut prepared = Prepared::default();
        self.done.into_iter().for_each(|written| prepared.add(written));
        Ok(prepared)
    }
}

/// Files of about one size that are due to become one.
fn due(files: Vec<TableFile>, limits: &LakeLimits) -> Option<Vec<TableFile>> {
    let mut sizes: BTreeMap<u32, Vec<TableFile>> = BTreeMap::new();
    for file in files {
        let Some(rows) = file.rows.filter(|rows| (1..limits.file_rows).contains(rows)) else { continue };
        let size = rows.ilog(limits.fold_files.max(2));
        sizes.entry(size).or_default().push(file);
    }
    let mut due = sizes.into_values().find(|files| files.len() >= limits.fold_files)?;
    due.sort_by_key(|file| file.modified);
    let mut rows = 0;
    due.retain(|file| {
        rows += file.rows.unwrap_or(0);
        rows <= limits.file_rows.saturating_mul(2)
    });
    (due.len() > 1).then_some(due)
}

/// Folds small files, if enough of one size have gathered. Rows stay as they are.
pub(super) async fn fold(table: &mut Table, limits: &LakeLimits) -> Result<(), SinkError> {
    let Some(files) = due(table.files()?, limits) else { return Ok(()) };
    let mut folded = DataFile::create(&table.url, &table.files_store(), &table.shape.schema, limits.group_rows)?;
    for file in &files {
        let mut rows = leaf::rows(table, file).await?;
        while let Some(batch) = rows.try_next().await? {
            folded.write(&batch).await?;
        }
    }
    let mut written = folded.finish(None).await?;
    written.add.data_change = false;
    let size = written.add.size;
    let mut actions = vec![Action::Add(written.add)];
    actions.extend(files.into_iter().map(|file| {
        let mut remove = file.remove;
        remove.data_change = false;
        Action::Remove(remove)
    }));
    match table.replace(actions, size).await? {
        // In a conflict somebody else changed the table; the next flush looks again.
        Committed::Done | Committed::Conflict => Ok(()),
    }
}
