//! The Delta lake: per entity a table with one row per living key, and one with every version.
//!
//! ```text
//! <url>/current/<entity>     one row per key: a tree whose leaves are Parquet files          leaf, merge
//! <url>/history/<entity>     every version, appended                                         history
//! <url>/snapshots/<entity>   copies of the current tables of one cut, plain Parquet          snapshots
//! <url>/operations/<name>     what the daemon did and met, for charts                         operations
//! <url>/_syncline/cut.json   the versions of all tables that belong together, and the offset  cut
//! ```
//!
//! Plain Delta tables of protocol 1,2 without deletion vectors, so that every reader opens them. Guarantees:
//!
//! - exactly once: files and the offset reached enter a table in one atomic commit (`table`); writing a span again,
//!   whole, in part or with other bounds, changes nothing;
//! - durable: on local disks files, names and folders are fsynced in that order (`durable`); object stores (`cloud`,
//!   `remote`) are tried for conditional puts before anything is written (`store`);
//! - cancel-safe: a crash at any step leaves files that no table refers to; a vacuum, and for half-written ones the next
//!   start, removes them once they are an hour old;
//! - bounded: rows beyond [`LakeLimits::buffer_bytes`] wait in sorted runs on local disk (`runs`).
//!
//! Another writer may commit to the tables (a compaction, a repair): its commit is never overwritten, its files are
//! merged correctly. A change that we cannot honour, such as a higher protocol, stops the sink with a remedy.

mod catalog;
mod cloud;
mod columns;
mod config;
mod cut;
mod datafile;
mod durable;
pub(crate) mod fault;
mod flush;
mod hidden;
mod history;
mod leaf;
mod merge;
mod operations;
mod reader;
mod remote;
mod runs;
mod shape;
mod snapshots;
mod stats;
pub(crate) mod store;
mod table;
mod view;

use std::collections::BTreeMap;

use async_trait::async_trait;
use futures::FutureExt;
use syncline_schemas::ident::LogOffset;

pub use self::catalog::{Catalog, CutFacts, SnapshotFacts, TableFacts};
pub use self::config::{LakeConfig, LakeLimits, StoreOptions};
use self::cut::Cut;
use self::flush::Tables;
pub use self::hidden::Hidden;
pub use self::operations::{Operations, OperationsTable};
use self::shape::{Kind, Shape};
pub use self::snapshots::{File, Manifest, Order, Part, Reached, Snapshots, Sources};
use self::store::Place;
use self::table::{ANOTHER_FOLDER, Table};
pub use self::view::{FileView, TableView, View};
use crate::{Batching, DeltaSource, Identity, Known, Recalled, Sink, SinkError, Span, Written};

/// How often a flush starts over because of other writers before the pump is told to wait.
const STARTS_MAX: usize = 5;

/// The sink that keeps a Delta lake.
pub struct LakeSink {
    config: LakeConfig,
    place: Place,
    tables: Tables,
    /// Delta version by table path, as the last cut says.
    versions: BTreeMap<String, u64>,
    /// Of the state whose rows it takes.
    epoch: u32,
    /// True where there is a cut, which says that the lake is ours.
    claimed: bool,
    /// The offset that some table had reached when the tables were looked at.
    ahead: LogOffset,
    /// True after the store was tried and cut and tables were read.
    ready: bool,
    /// True from the start of a write to its good end: what is known of the tables is not to be trusted otherwise.
    writing: bool,
}

impl LakeSink {
    /// Opens a lake; nothing is contacted yet.
    ///
    /// # Errors
    /// [`SinkError::Setting`] for a URL that is not a lake's place, and for a limit of zero.
    pub fn new(config: LakeConfig) -> Result<Self, SinkError> {
        config.limits.check()?;
        let place = Place::open(&config.url, &config.store)?;
        let tables = Tables::new(config.entities.entities().flat_map(|entity| {
            [Kind::Current, Kind::History]
                .map(|kind| Table::new(&place, Shape::new(entity, kind, &config.hidden), &config.pipeline))
        }));
        Ok(Self {
            config,
            place,
            tables,
            versions: BTreeMap::new(),
            epoch: 0,
            claimed: false,
            ahead: LogOffset::START,
            ready: false,
            writing: false,
        })
    }

    /// The lake's snapshots, which are taken beside the flushes: vacuums of this sink wait for them.
    #[must_use]
    pub fn snapshots(&self) -> Snapshots {
        Snapshots::beside(self.config.clone(), self.place.clone())
    }

    /// Where what the daemon meets is written down beside the data.
    #[must_use]
    pub fn operations(&self) -> Operations {
        Operations::beside(&self.config, self.place.clone())
    }

    /// Tries that the store can be read and written, and that it keeps two writers apart.
    ///
    /// # Errors
    /// [`SinkError::Refused`] with the remedy where it does not; [`SinkError::Unavailable`] where it does not answer.
    pub async fn check(&self) -> Result<(), SinkError> {
        self.place.try_conditional_put().await
    }

    /// Tries the store, reads the cut and looks at every table.
    async fn prepare(&mut self) -> Result<Option<LogOffset>, SinkError> {
        self.check().await?;
        if !self.ready {
            self.place.sweep().await;
        }
        let cut = Cut::read(&self.place).await?;
        if let Some(cut) = &cut {
            self.check_owner(cut)?;
        }
        self.tables.load(self.epoch).boxed().await?;
        self.versions = self.check_versions(cut.as_ref())?;
        self.ahead = self.tables.open().map(Table::applied).max().unwrap_or_default();
        self.claimed = cut.is_some();
        self.ready = true;
        self.writing = false;
        Ok(cut.map(|cut| LogOffset(cut.offset)))
    }

    fn cut(&self, offset: LogOffset, versions: BTreeMap<String, u64>) -> Cut {
        Cut::new(&self.config.pipeline, self.epoch, offset.0, versions)
    }

    /// A lake of another pipeline or of another data folder has rows that we know nothing of.
    fn check_owner(&self, cut: &Cut) -> Result<(), SinkError> {
        let refused = |reason: String, remedy: &str| SinkError::Refused {
            target: self.place.target().to_owned(),
            reason,
            remedy: remedy.to_owned(),
        };
        if cut.pipeline != self.config.pipeline {
            return Err(refused(
                format!("the lake belongs to the pipeline {:?}, this one is {:?}", cut.pipeline, self.config.pipeline),
                "give this pipeline a lake of its own, or its old name",
            ));
        }
        if cut.epoch != self.epoch {
            return Err(refused(
                format!(
                    "the lake was filled from the data_dir of epoch {}, ours is of epoch {}",
                    cut.epoch, self.epoch
                ),
                ANOTHER_FOLDER,
            ));
        }
        Ok(())
    }

    /// The cut's versions of our tables. One that is older than the cut, or gone, was tampered with: going on would leave
    /// a hole in it.
    fn check_versions(&self, cut: Option<&Cut>) -> Result<BTreeMap<String, u64>, SinkError> {
        let mut versions = BTreeMap::new();
        for table in self.tables.iter() {
            let path = table.shape.path();
            let Some(&wanted) = cut.and_then(|cut| cut.tables.get(&path)) else { continue };
            let found = table.is_open().then(|| table.version());
            if found.is_none_or(|found| found < wanted) {
                let found = found.map_or("there is no table".to_owned(), |found| format!("the table is at {found}"));
                return Err(SinkError::Refused {
                    target: table.url.clone(),
                    reason: format!("the last flush left it at version {wanted}, but {found}"),
                    remedy: "restore the table, or delete the whole lake folder and start over".to_owned(),
                });
            }
            versions.insert(path, wanted);
        }
        Ok(versions)
    }
}

#[async_trait]
impl Sink for LakeSink {
    fn identity(&self) -> Identity {
        let target = self.place.target().trim_end_matches('/').to_owned();
        Identity { kind: "lake", target, entities: self.config.entities.names() }
    }

    async fn recall(&mut self, known: &Known) -> Result<Recalled, SinkError> {
        self.epoch = known.epoch;
        let at = self.prepare().await?;
        known.refuse_beyond(self.place.target(), self.ahead.max(at.unwrap_or_default()))?;
        Ok(at.map_or(Recalled::Nothing, Recalled::Upto))
    }

    async fn write(&mut self, span: Span, deltas: &dyn DeltaSource) -> Result<Written, SinkError> {
        if !self.ready || self.writing {
            self.prepare().boxed().await?;
        }
        self.writing = true;
        if !self.claimed {
            self.cut(LogOffset::START, BTreeMap::new()).create(self.place.clone()).await?;
            self.claimed = true;
        }
        // Where a broken flush left some tables ahead, the others have to reach the same offset before a cut can be made.
        let span = Span { upto: span.upto.max(self.ahead), ..span };
        for _ in 0..STARTS_MAX {
            let Some(written) = self.tables.flush(span, deltas, &self.config).boxed().await? else { continue };
            let versions = self.tables.versions(span.upto, &self.versions)?;
            self.cut(span.upto, versions.clone()).write(self.place.clone()).await?;
            self.versions = versions;
            self.writing = false;
            return Ok(written);
        }
        Err(SinkError::Unavailable {
            target: self.place.target().to_owned(),
            reason: format!("other writers committed in between {STARTS_MAX} times in a row"),
        })
    }

    fn batching(&self) -> Batching {
        Batching { max_rows: self.config.flush_rows, linger: self.config.flush_every }
    }
}
