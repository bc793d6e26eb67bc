//! `operations/<name>`: what the daemon did and met, beside the data, for whoever charts it.
//!
//! ```text
//! operations/lag            every look: how far each source and sink was    one file a day, rewritten with each look
//! operations/exceptions     rows that are held                              as of the last look that found a change
//! operations/dead_letters   rows that targets refused                       likewise
//! operations/orders         what targets were sent beside deltas            likewise
//! ```
//!
//! They are no part of a cut: nothing that is delivered depends on them, and nobody waits for them. A look that is lost to a
//! crash or to another writer is made good by the next one.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use deltalake_core::kernel::Action;
use futures::TryStreamExt;
use syncline_schemas::table::instant;

use super::config::{LakeConfig, LakeLimits};
use super::cut::Cut;
use super::datafile::DataFile;
use super::leaf;
use super::shape::Shape;
use super::store::Place;
use super::table::{Committed, Table, TableFile};
use crate::SinkError;

const DAY_MS: i64 = 86_400_000;
/// How long looks are kept: a year can be laid over the one before.
const KEPT: Duration = Duration::from_secs(800 * 86_400);
/// How often a look begins again because of other writers.
const STARTS_MAX: usize = 3;

/// One of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperationsTable {
    /// How far each source and sink is.
    Lag,
    /// Rows that are held.
    Exceptions,
    /// Rows that targets refused.
    DeadLetters,
    /// What targets were sent beside their deltas.
    Orders,
}

const TEXT: DataType = DataType::Utf8;
const COUNT: DataType = DataType::Int64;

impl OperationsTable {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Lag, Self::Exceptions, Self::DeadLetters, Self::Orders];

    /// Its name below `operations/`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lag => "lag",
            Self::Exceptions => "exceptions",
            Self::DeadLetters => "dead_letters",
            Self::Orders => "orders",
        }
    }

    /// The table of a name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.name() == name)
    }

    /// Its columns. Names end in their unit; `_at` are instants.
    #[must_use]
    pub fn schema(self) -> SchemaRef {
        let columns: &[(&str, DataType)] = match self {
            Self::Lag => &[
                ("part", TEXT),
                ("name", TEXT),
                ("state", TEXT),
                ("rows", COUNT),
                ("behind_bytes", COUNT),
                ("behind_entries", COUNT),
                ("waiting_ms", COUNT),
                ("p50_us", COUNT),
                ("p99_us", COUNT),
                ("max_us", COUNT),
                ("retries", COUNT),
                ("refused", COUNT),
            ],
            Self::Exceptions => &[
                ("fingerprint", TEXT),
                ("mapping", TEXT),
                ("entity", TEXT),
                ("rule", TEXT),
                ("field", TEXT),
                ("reason", TEXT),
                ("key", TEXT),
                ("source_table", TEXT),
                ("first_at", instant()),
                ("last_at", instant()),
                ("verdict", TEXT),
                ("note", TEXT),
            ],
            Self::DeadLetters => &[
                ("sink", TEXT),
                ("entity", TEXT),
                ("key", TEXT),
                ("version", TEXT),
                ("code", TEXT),
                ("field", TEXT),
                ("retryable", DataType::Boolean),
                ("attempts", COUNT),
                ("since_at", instant()),
            ],
            Self::Orders => &[
                ("sink", TEXT),
                ("entity", TEXT),
                ("key", TEXT),
                ("full", DataType::Boolean),
                ("after_entry", COUNT),
                ("upto_entry", COUNT),
                ("note", TEXT),
                ("ordered_at", instant()),
                ("done_at", instant()),
                ("rows", COUNT),
                ("refused", COUNT),
                ("failed", TEXT),
            ],
        };
        let columns = columns.iter().map(|(name, data_type)| Field::new(*name, data_type.clone(), true));
        let observed = Field::new("observed_at", instant(), false);
        Arc::new(Schema::new(std::iter::once(observed).chain(columns).collect::<Vec<_>>()))
    }

    pub(super) fn shape(self) -> Shape {
        Shape::operations(self.name(), &self.schema())
    }

    /// True where a look adds to what was seen before; false where it takes its place.
    const fn gathers(self) -> bool {
        matches!(self, Self::Lag)
    }
}

/// Writes them.
#[derive(Debug)]
pub struct Operations {
    place: Place,
    pipeline: String,
    limits: LakeLimits,
}

impl Operations {
    pub(super) fn beside(config: &LakeConfig, place: Place) -> Self {
        Self { place, pipeline: config.pipeline.clone(), limits: config.limits }
    }

    /// Writes a look down; false where it was not, in a lake where nothing was flushed yet, or of another pipeline.
    ///
    /// # Errors
    /// [`SinkError::Refused`] for a table that is not ours to write, [`SinkError::Unavailable`] where the store fails.
    pub async fn record(&self, which: OperationsTable, rows: &RecordBatch, now: SystemTime) -> Result<bool, SinkError> {
        let cut = Cut::read(&self.place).await?;
        if cut.is_none_or(|cut| cut.pipeline != self.pipeline) {
            return Ok(false);
        }
        let mut table = Table::new(&self.place, which.shape(), &self.pipeline);
        for _ in 0..STARTS_MAX {
            table.open().await?;
            if self.write(which, &mut table, rows, now).await? == Committed::Done {
                if table.version().is_multiple_of(self.limits.vacuum_versions) {
                    table.vacuum().await;
                }
                return Ok(true);
            }
        }
        Err(SinkError::Unavailable {
            target: table.url.clone(),
            reason: format!("other writers committed in between {STARTS_MAX} times in a row"),
        })
    }

    async fn write(
        &self,
        which: OperationsTable,
        table: &mut Table,
        rows: &RecordBatch,
        now: SystemTime,
    ) -> Result<Committed, SinkError> {
        let now = i64::try_from(now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(i64::MAX);
        let day = |file: &TableFile| file.modified.div_euclid(DAY_MS);
        let today = |file: &TableFile| day(file) == now.div_euclid(DAY_MS);
        let expired = |file: &TableFile| i128::from(now) - i128::from(file.modified) > KEPT.as_millis().cast_signed();
        let mut file = DataFile::create(&table.url, &table.files_store(), &table.shape.schema, self.limits.group_rows)?;
        let mut actions = Vec::new();
        for old in table.files()? {
            if which.gathers() && !today(&old) && !expired(&old) {
                continue;
            }
            if which.gathers() && today(&old) {
                let mut kept = leaf::rows(table, &old).await?;
                while let Some(batch) = kept.try_next().await? {
                    file.write(&batch).await?;
                }
            }
            actions.push(Action::Remove(old.remove));
        }
        file.write(rows).await?;
        let written = file.finish(None).await?;
        actions.push(Action::Add(written.add));
        table.overwrite(actions).await
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, TimestampMicrosecondArray, new_null_array};
    use syncline_schemas::ident::LogOffset;
    use url::Url;

    use super::*;

    fn look(which: OperationsTable, at_ms: i64, rows: i64) -> RecordBatch {
        let schema = which.schema();
        let count = usize::try_from(rows).expect("few");
        let columns = schema.fields().iter().map(|field| match field.name().as_str() {
            "observed_at" => {
                Arc::new(TimestampMicrosecondArray::from(vec![at_ms * 1_000; count]).with_timezone("UTC")) as ArrayRef
            }
            "rows" => Arc::new(Int64Array::from_iter_values(0..rows)),
            _ => new_null_array(field.data_type(), count),
        });
        RecordBatch::try_new(Arc::clone(&schema), columns.collect()).expect("its columns")
    }

    async fn files(place: &Place, which: OperationsTable) -> Vec<usize> {
        let mut table = Table::new(place, which.shape(), "test");
        assert!(table.load().await.expect("opens"));
        let mut rows: Vec<_> = table.files().expect("files").iter().filter_map(|file| file.rows).collect();
        rows.sort_unstable();
        rows
    }

    #[tokio::test]
    async fn looks_of_a_day_never_become_many_files_and_lists_show_the_last_look_alone() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let url = Url::from_directory_path(folder.path()).expect("absolute");
        let config = LakeConfig::new(url.clone(), "test", folder.path().join("scratch"));
        let place = Place::open(&url, &config.store).expect("a place");
        let operations = Operations::beside(&config, place.clone());
        let now = SystemTime::now();
        let ms = i64::try_from(now.duration_since(UNIX_EPOCH).expect("after 1970").as_millis()).expect("small");
        let record = async |which: OperationsTable, rows, now| {
            operations.record(which, &look(which, ms, rows), now).await.expect("recorded");
        };
        record(OperationsTable::Lag, 1, now).await;
        assert!(!folder.path().join("operations").exists(), "nothing was flushed yet");
        Cut::new("test", 1, LogOffset::START.0, std::collections::BTreeMap::new())
            .create(place.clone())
            .await
            .expect("a cut");
        for which in OperationsTable::ALL {
            for rows in [3, 2, 0] {
                record(which, rows, now).await;
            }
        }
        assert_eq!(files(&place, OperationsTable::Lag).await, [5]);
        assert_eq!(files(&place, OperationsTable::Exceptions).await, [0]);
        record(OperationsTable::Lag, 4, now + Duration::from_secs(86_400)).await;
        assert_eq!(files(&place, OperationsTable::Lag).await, [4, 5], "another day has its own file");
        record(OperationsTable::Lag, 1, now + 2 * KEPT).await;
        assert_eq!(files(&place, OperationsTable::Lag).await, [1], "what is older than anybody asks for goes");
    }
}
