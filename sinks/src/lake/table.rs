//! One Delta table: made, opened, checked, committed to.
//!
//! Exactly once: every commit carries the application transaction `syncline-<pipeline>` with the log offset reached, in
//! the same atomic log entry as the files. What a table says there is the truth about it; nothing else is asked. Beside it
//! stands `syncline-<pipeline>-epoch`: an offset of another data folder's log would mean other rows.
//!
//! Optimistic: a commit names the version it was prepared on. If anybody committed meanwhile, even ourselves through a
//! request whose reply was lost, nothing is written and the caller starts again from the new snapshot.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::Field;
use deltalake_core::kernel::transaction::{CommitBuilder, CommitProperties, TransactionError};
use deltalake_core::kernel::{Action, Remove, Transaction};
use deltalake_core::logstore::LogStoreRef;
use deltalake_core::operations::vacuum::VacuumMode;
use deltalake_core::protocol::{DeltaOperation, OutputMode, SaveMode};
use deltalake_core::table::state::DeltaTableState;
use deltalake_core::{DeltaTable, DeltaTableError};
use object_store::ObjectStore;
use syncline_schemas::ident::LogOffset;
use tracing::{info, warn};

use super::datafile::KeyRange;
use super::shape::Shape;
use super::store::{Place, Readers};
use super::{columns, fault};
use crate::SinkError;

/// What to do about a lake or a table that another data folder filled.
pub(super) const ANOTHER_FOLDER: &str = "go on with the data_dir that filled it, or give this one an empty lake";

/// A checkpoint every so many versions: readers then open at most so many small files, writers pay 30 ms.
const CHECKPOINT_VERSIONS: u64 = 20;

/// Set at creation; an operator may change them on the table. Removed files stay an hour, longer than any query runs,
/// because each flush rewrites the files that it touches. Log entries stay a week.
const PROPERTIES: [(&str, &str); 3] = [
    ("delta.checkpointInterval", "20"),
    ("delta.deletedFileRetentionDuration", "interval 1 hour"),
    ("delta.logRetentionDuration", "interval 7 days"),
];

/// Which columns are hidden from readers, in words of our own.
const HIDDEN: &str = "syncline.hidden";

/// A file of the newest snapshot.
#[derive(Debug, Clone)]
pub(super) struct TableFile {
    pub(super) path: String,
    pub(super) size: u64,
    pub(super) modified: i64,
    pub(super) rows: Option<usize>,
    pub(super) remove: Remove,
}

/// What became of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Committed {
    /// It is durable.
    Done,
    /// Somebody was faster; nothing of it is visible. The table must be opened again.
    Conflict,
}

struct Snapshot {
    state: DeltaTableState,
    applied: LogOffset,
    /// True after the columns were compared with the entity's.
    checked: bool,
}

/// A table of the lake.
pub(super) struct Table {
    pub(super) shape: Shape,
    pub(super) url: String,
    app_id: String,
    /// Of the state whose rows it takes.
    pub(super) epoch: u32,
    epoch_id: String,
    log: LogStoreRef,
    readers: Readers,
    /// True after a table was found there.
    exists: bool,
    snapshot: Option<Snapshot>,
    /// Key ranges by path; a file never changes.
    pub(super) ranges: HashMap<String, KeyRange>,
}

impl Table {
    pub(super) fn new(place: &Place, shape: Shape, pipeline: &str) -> Self {
        let path = shape.path();
        Self {
            url: place.url_of(&path).to_string(),
            log: place.log_store(&path),
            readers: place.readers(),
            shape,
            app_id: format!("syncline-{pipeline}"),
            epoch: 0,
            epoch_id: format!("syncline-{pipeline}-epoch"),
            exists: false,
            snapshot: None,
            ranges: HashMap::new(),
        }
    }

    pub(super) fn files_store(&self) -> Arc<dyn ObjectStore> {
        self.log.object_store(None)
    }

    /// Forgets what is known, so that [`Table::open`] looks again.
    pub(super) fn forget(&mut self) {
        self.snapshot = None;
    }

    fn snapshot(&self) -> &Snapshot {
        self.snapshot.as_ref().expect("a table is opened before it is used")
    }

    /// The offset up to which deltas are in the table.
    pub(super) fn applied(&self) -> LogOffset {
        self.snapshot().applied
    }

    pub(super) fn version(&self) -> u64 {
        self.snapshot().state.version()
    }

    pub(super) fn is_open(&self) -> bool {
        self.snapshot.is_some()
    }

    /// Loads the newest snapshot; false where there is no table.
    pub(super) async fn load(&mut self) -> Result<bool, SinkError> {
        self.load_at(None).await
    }

    /// Loads the snapshot of a version, or the newest one; false where there is no table.
    ///
    /// Whether there is one is asked before it is loaded for the first time: the library logs an error where there is none.
    pub(super) async fn load_at(&mut self, version: Option<u64>) -> Result<bool, SinkError> {
        if !self.exists {
            let exists = self.log.is_delta_table_location().await;
            self.exists = exists.map_err(|error| fault::delta(&self.url, "look for the table", &error))?;
            if !self.exists {
                return Ok(false);
            }
        }
        let mut table = DeltaTable::new(Arc::clone(&self.log));
        let loaded = match version {
            None => table.load().await,
            Some(version) => table.load_version(version).await,
        };
        if let Err(error) = loaded {
            self.exists = !matches!(self.log.is_delta_table_location().await, Ok(false));
            return if self.exists { Err(fault::delta(&self.url, "open the table", &error)) } else { Ok(false) };
        }
        let state = table.state.take().ok_or_else(|| self.refused("has no state", "restore its _delta_log"))?;
        let applied = self.transaction(&state, &self.app_id).await?;
        if let Some(applied) = applied {
            let epoch = self.transaction(&state, &self.epoch_id).await?;
            if epoch != Some(u64::from(self.epoch)) {
                let reason = format!(
                    "it holds rows up to {applied} of the data_dir of epoch {}, ours is of epoch {}",
                    epoch.map_or_else(|| "?".to_owned(), |epoch| epoch.to_string()),
                    self.epoch
                );
                return Err(self.refused(&reason, ANOTHER_FOLDER));
            }
        }
        let applied = LogOffset(applied.unwrap_or(0));
        self.check_protocol(&state)?;
        self.check_hidden(&state)?;
        self.snapshot = Some(Snapshot { state, applied, checked: false });
        Ok(true)
    }

    /// Loads the snapshot of a version that a cut names.
    pub(super) async fn load_cut(&mut self, version: u64) -> Result<(), SinkError> {
        let found = self.load_at(Some(version)).await?.then(|| self.version());
        if found == Some(version) {
            return Ok(());
        }
        let found = found.map_or("there is no table".to_owned(), |found| format!("the table is at {found}"));
        let reason = format!("the last flush left it at version {version}, but {found}");
        Err(self.refused(&reason, "restore the table, or delete the whole lake folder and start over"))
    }

    /// What an application transaction stands at.
    async fn transaction(&self, state: &DeltaTableState, id: &str) -> Result<Option<u64>, SinkError> {
        let found = state.snapshot().transaction_version(self.log.as_ref(), id).await;
        let found = found.map_err(|error| fault::delta(&self.url, "read the table's transaction", &error))?;
        Ok(found.and_then(|version| u64::try_from(version).ok()))
    }

    /// Loads or makes the table and brings its columns up to date.
    pub(super) async fn open(&mut self) -> Result<(), SinkError> {
        if self.snapshot.as_ref().is_some_and(|snapshot| snapshot.checked) {
            return Ok(());
        }
        if !self.is_open() && !self.load().await? {
            self.create().await?;
            if !self.load().await? {
                return Err(self.unavailable("the table is not visible after its creation"));
            }
        }
        let missing = self.missing_columns()?;
        if !missing.is_empty() {
            self.add_columns(missing).await?;
        }
        if let Some(snapshot) = &mut self.snapshot {
            snapshot.checked = true;
        }
        Ok(())
    }

    fn refused(&self, reason: &str, remedy: &str) -> SinkError {
        SinkError::Refused { target: self.url.clone(), reason: reason.to_owned(), remedy: remedy.to_owned() }
    }

    fn unavailable(&self, reason: &str) -> SinkError {
        SinkError::Unavailable { target: self.url.clone(), reason: reason.to_owned() }
    }

    async fn create(&self) -> Result<(), SinkError> {
        let fields = columns::kernel(&self.shape, self.shape.schema.fields().iter().map(AsRef::as_ref))?;
        let mut builder = DeltaTable::new(Arc::clone(&self.log))
            .create()
            .with_columns(fields)
            .with_table_name(self.shape.path().replace('/', "_"));
        for (key, value) in PROPERTIES {
            builder = builder.with_configuration_property(
                key.parse().map_err(|error| fault::delta(&self.url, "create the table", &error))?,
                Some(value),
            );
        }
        if let Some(mark) = &self.shape.hidden_mark {
            builder = builder.with_raise_if_key_not_exists(false).with_configuration([(HIDDEN, Some(mark))]);
        }
        match builder.await {
            Ok(_) => {
                info!(table = %self.url, "created table");
                Ok(())
            }
            // Somebody, or we before a lost reply, was faster: what is there is checked like any other table.
            Err(DeltaTableError::VersionAlreadyExists(_)) => Ok(()),
            Err(error) => Err(fault::delta(&self.url, "create the table", &error)),
        }
    }

    fn check_protocol(&self, state: &DeltaTableState) -> Result<(), SinkError> {
        let protocol = serde_json::to_value(state.protocol()).unwrap_or_default();
        let version = |name: &str| protocol.get(name).and_then(serde_json::Value::as_i64).unwrap_or(i64::MAX);
        let (reader, writer) = (version("minReaderVersion"), version("minWriterVersion"));
        if reader > 1 || writer > 2 {
            let reason = format!("the table was upgraded to protocol {reader},{writer}, Syncline writes 1,2");
            return Err(self.refused(&reason, "copy the table elsewhere, delete its folder and replay"));
        }
        if !state.metadata().partition_columns().is_empty() {
            return Err(self.refused("the table is partitioned", "move it elsewhere and replay"));
        }
        Ok(())
    }

    /// A table that was made with other columns hidden has files with values as they were.
    fn check_hidden(&self, state: &DeltaTableState) -> Result<(), SinkError> {
        let found = state.metadata().configuration().get(HIDDEN);
        if found == self.shape.hidden_mark.as_ref() {
            return Ok(());
        }
        let said = |mark: Option<&String>| mark.map_or_else(|| "nothing".to_owned(), |mark| format!("{mark:?}"));
        let reason = format!(
            "it was made with {} hidden, and leave_out, mask and mask_key say {}",
            said(found),
            said(self.shape.hidden_mark.as_ref())
        );
        Err(self.refused(
            &reason,
            "set them as they were, or give this pipeline a new lake: files that are there stay as they are",
        ))
    }

    /// Columns that the table lacks; anything else that differs is refused.
    fn missing_columns(&self) -> Result<Vec<Field>, SinkError> {
        let remedy = "move the table elsewhere and replay, or run the Syncline release that wrote it";
        columns::missing(&self.shape, &self.snapshot().state.schema()).map_err(|reason| self.refused(&reason, remedy))
    }

    async fn add_columns(&mut self, missing: Vec<Field>) -> Result<(), SinkError> {
        let names: Vec<_> = missing.iter().map(|field| field.name().as_str()).collect();
        info!(table = %self.url, columns = names.join(", "), "adding columns");
        let fields = columns::kernel(&self.shape, missing.iter())?;
        let mut table = DeltaTable::new(Arc::clone(&self.log));
        let doing = "add columns";
        table.load().await.map_err(|error| fault::delta(&self.url, doing, &error))?;
        table.add_columns().with_fields(fields).await.map_err(|error| fault::delta(&self.url, doing, &error))?;
        self.load().await.map(drop)
    }

    /// The files of the newest snapshot.
    pub(super) fn files(&self) -> Result<Vec<TableFile>, SinkError> {
        let log_data = self.snapshot().state.log_data();
        log_data
            .iter()
            .map(|view| {
                if view.deletion_vector_descriptor().is_some() {
                    return Err(
                        self.refused("a file has a deletion vector", "rewrite the table without them and replay")
                    );
                }
                let (path, size) = (view.path().to_string(), view.size());
                let size =
                    u64::try_from(size).map_err(|_| self.refused("a file has a negative size", "run fsck on it"))?;
                Ok(TableFile {
                    path,
                    size,
                    modified: view.modification_time(),
                    rows: view.num_records(),
                    remove: view.remove_action(true),
                })
            })
            .collect()
    }

    /// Puts files into the table and others out of it, together with the offset reached.
    pub(super) async fn commit(&mut self, mut actions: Vec<Action>, upto: LogOffset) -> Result<Committed, SinkError> {
        let epoch_id = i64::try_from(upto.0).map_err(|_| self.refused("the log offset exceeds 2^63", "replay"))?;
        actions.push(Action::Txn(Transaction::new(&self.app_id, epoch_id)));
        actions.push(Action::Txn(Transaction::new(&self.epoch_id, i64::from(self.epoch))));
        let operation = DeltaOperation::StreamingUpdate {
            output_mode: OutputMode::Update,
            query_id: self.app_id.clone(),
            epoch_id,
        };
        let committed = self.commit_operation(actions, operation).await?;
        if committed == Committed::Done
            && let Some(snapshot) = &mut self.snapshot
        {
            snapshot.applied = upto;
        }
        Ok(committed)
    }

    /// Puts a rewritten file in the place of others with the same rows.
    pub(super) async fn replace(&mut self, actions: Vec<Action>, target_size: i64) -> Result<Committed, SinkError> {
        self.commit_operation(actions, DeltaOperation::Optimize { predicate: None, target_size }).await
    }

    /// Puts other rows in the place of some.
    pub(super) async fn overwrite(&mut self, actions: Vec<Action>) -> Result<Committed, SinkError> {
        let operation = DeltaOperation::Write { mode: SaveMode::Overwrite, partition_by: None, predicate: None };
        self.commit_operation(actions, operation).await
    }

    async fn commit_operation(
        &mut self,
        actions: Vec<Action>,
        operation: DeltaOperation,
    ) -> Result<Committed, SinkError> {
        let Some(Snapshot { state, applied, checked }) = self.snapshot.take() else {
            return Err(self.unavailable("the table was not open when it should commit"));
        };
        let checkpoint = (state.version() + 2).is_multiple_of(CHECKPOINT_VERSIONS);
        // Without retries a commit lands on the very version that follows its snapshot, or not at all.
        let properties = CommitProperties::default().with_max_retries(0).with_cleanup_expired_logs(Some(checkpoint));
        let commit = CommitBuilder::from(properties).with_actions(actions);
        match commit.build(Some(&state), Arc::clone(&self.log), operation).await {
            Ok(finalized) => {
                self.snapshot = Some(Snapshot { state: finalized.snapshot, applied, checked });
                Ok(Committed::Done)
            }
            Err(DeltaTableError::VersionAlreadyExists(_)) => Ok(Committed::Conflict),
            Err(DeltaTableError::Transaction {
                source: TransactionError::MaxCommitAttempts(_) | TransactionError::CommitConflict(_),
            }) => Ok(Committed::Conflict),
            Err(error) => Err(fault::delta(&self.url, "commit", &error)),
        }
    }

    /// Removes files that no recent snapshot refers to. A failure costs space only and the next vacuum repeats it, and so
    /// does one that is put off because files of an older version are being read.
    pub(super) async fn vacuum(&mut self) {
        let readers = Arc::clone(&self.readers);
        let Ok(_nobody_reads) = readers.try_write() else {
            info!(table = %self.url, "a snapshot is being taken, the next vacuum repeats this one");
            return;
        };
        let Some(Snapshot { state, .. }) = self.snapshot.take() else { return };
        let mut table = DeltaTable::new(Arc::clone(&self.log));
        table.state = Some(state);
        match table.vacuum().with_mode(VacuumMode::Full).with_enforce_retention_duration(false).await {
            Ok((_, metrics)) => info!(table = %self.url, files = metrics.files_deleted.len(), "vacuumed"),
            Err(error) => warn!(table = %self.url, error = %error, "vacuum failed, the next one repeats it"),
        }
    }
}
