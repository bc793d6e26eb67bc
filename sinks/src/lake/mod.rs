//! The Delta lake: per entity a table with one row per living key, and one with every version.
//!
//! ```text
//! <url>/current/<entity>     one row per key: a tree whose leaves are Parquet files          leaf, merge
//! <url>/history/<entity>     every version, appended                                         history
//! <url>/_syncline/cut.json   the versions of all tables that belong together, and the offset  cut
//! ```
//!
//! Plain Delta tables of protocol 1,2 without deletion vectors, so that every reader opens them. Guarantees:
//!
//! - exactly once: files and the offset reached enter a table in one atomic commit (`table`); writing a span again,
//!   whole, in part or with other bounds, changes nothing;
//! - durable: on local disks files, names and folders are fsynced in that order (`durable`); object stores are tried
//!   for conditional puts before anything is written (`store`);
//! - cancel-safe: a crash at any step leaves files that no table refers to; a vacuum, and for half-written ones the next
//!   start, removes them once they are an hour old;
//! - bounded: rows beyond [`LakeLimits::buffer_bytes`] wait in sorted runs on local disk (`runs`).
//!
//! Another writer may commit to the tables (a compaction, a repair): its commit is never overwritten, its files are
//! merged correctly. A change that we cannot honour, such as a higher protocol, stops the sink with a remedy.

mod config;
mod cut;
mod datafile;
mod durable;
mod fault;
mod flush;
mod history;
mod leaf;
mod merge;
mod reader;
mod runs;
mod shape;
mod stats;
mod store;
mod table;

use std::collections::BTreeMap;

use async_trait::async_trait;
use futures::FutureExt;
use syncline_schemas::ident::LogOffset;

pub use self::config::{LakeConfig, LakeLimits, S3Options};
use self::cut::Cut;
use self::flush::Tables;
use self::shape::{Kind, Shape};
use self::store::Place;
use self::table::Table;
use crate::{Batching, DeltaSource, Sink, SinkError, Span, Written};

/// How often a flush starts over because of other writers before the pump is told to wait.
const STARTS_MAX: usize = 5;

/// The sink that keeps a Delta lake.
pub struct LakeSink {
    config: LakeConfig,
    place: Place,
    tables: Tables,
    /// Delta version by table path, as the last cut says.
    versions: BTreeMap<String, u64>,
    /// True after the store was tried and the cut was read.
    ready: bool,
    /// True while a write runs, so that one which was cancelled is noticed.
    writing: bool,
}

impl LakeSink {
    /// Opens a lake; nothing is contacted yet.
    ///
    /// # Errors
    /// [`SinkError::Setting`] for a URL that is not a lake's place, and for a limit of zero.
    pub fn new(config: LakeConfig) -> Result<Self, SinkError> {
        config.limits.check()?;
        let place = Place::open(&config)?;
        let tables = Tables::new(config.entities.entities().flat_map(|entity| {
            [Kind::Current, Kind::History].map(|kind| Table::new(&place, Shape::new(entity, kind), &config.pipeline))
        }));
        Ok(Self { config, place, tables, versions: BTreeMap::new(), ready: false, writing: false })
    }

    /// Tries that the store can be read and written, and that it keeps two writers apart.
    ///
    /// # Errors
    /// [`SinkError::Refused`] with the remedy where it does not; [`SinkError::Unavailable`] where it does not answer.
    pub async fn check(&self) -> Result<(), SinkError> {
        self.place.try_conditional_put().await
    }

    /// Tries the store and reads the cut, once.
    async fn prepare(&mut self) -> Result<Option<LogOffset>, SinkError> {
        self.check().await?;
        if !self.ready {
            self.place.sweep().await;
        }
        let cut = Cut::read(&self.place).await?;
        if let Some(cut) = &cut {
            if cut.pipeline != self.config.pipeline {
                return Err(SinkError::Refused {
                    target: self.place.target().to_owned(),
                    reason: format!(
                        "the lake belongs to the pipeline {:?}, this one is {:?}",
                        cut.pipeline, self.config.pipeline
                    ),
                    remedy: "give this pipeline a lake of its own, or its old name".to_owned(),
                });
            }
            self.check_versions(cut).await?;
            self.versions.clone_from(&cut.tables);
        }
        self.ready = true;
        Ok(cut.map(|cut| LogOffset(cut.offset)))
    }

    /// A table that is older than the cut, or gone, was tampered with: going on would leave a hole in it.
    async fn check_versions(&mut self, cut: &Cut) -> Result<(), SinkError> {
        for table in self.tables.iter_mut() {
            let Some(wanted) = cut.tables.get(&table.shape.path()) else { continue };
            let found = table.load().await?.then(|| table.version());
            if found.is_none_or(|found| found < *wanted) {
                let found = found.map_or("there is no table".to_owned(), |found| format!("the table is at {found}"));
                return Err(SinkError::Refused {
                    target: table.url.clone(),
                    reason: format!("the last flush left it at version {wanted}, but {found}"),
                    remedy: "restore the table, or delete the whole lake folder and replay".to_owned(),
                });
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Sink for LakeSink {
    async fn recall(&mut self) -> Result<Option<LogOffset>, SinkError> {
        self.tables.forget();
        self.prepare().await
    }

    async fn write(&mut self, span: Span, deltas: &dyn DeltaSource) -> Result<Written, SinkError> {
        if !self.ready {
            self.prepare().boxed().await?;
        }
        if std::mem::replace(&mut self.writing, true) {
            self.tables.forget();
        }
        let mut written = Written::default();
        for _ in 0..STARTS_MAX {
            let mut versions = self.versions.clone();
            let flushed = self.tables.flush(span, deltas, &self.config, &mut versions).boxed().await?;
            self.versions = versions;
            if let Some(flushed) = flushed {
                let cut = Cut::new(&self.config.pipeline, span.upto.0, self.versions.clone());
                cut.write(self.place.clone()).await?;
                self.writing = false;
                written.absorb(flushed);
                return Ok(written);
            }
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
