//! What the operator says about a PostgreSQL source.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use syncline_schemas::ident::{SourceId, TableId};
use syncline_schemas::secret::Secret;

pub use crate::endpoint::{Host, Tls};
pub use crate::policy::{LogGap, SnapshotMode, SpecialValues, Truncates};

use super::lsn::Lsn;
use super::pattern::{Prefixes, TablePatterns};
use crate::endpoint::Endpoint;

/// Where a drain ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainTo {
    /// The server's log end when the session starts.
    CurrentEnd,
    /// A given position.
    Lsn(Lsn),
}

/// Which columns the publication has, where the reader makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Columns {
    /// All of them.
    #[default]
    All,
    /// Those of the key, and those that a mapping reads.
    Mapped,
}

/// Which tables and columns mappings read: all, where nobody says.
#[derive(Clone, Default)]
pub struct Mapped(Option<Arc<Reads>>);

/// Whether a table is read, or a column of it.
type Reads = dyn Fn(&TableId, Option<&str>) -> bool + Send + Sync;

impl Mapped {
    /// Those of which this is true.
    pub fn by(reads: impl Fn(&TableId, Option<&str>) -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(reads)))
    }

    pub(crate) fn reads(&self, table: &TableId) -> bool {
        self.0.as_ref().is_none_or(|reads| reads(table, None))
    }

    pub(crate) fn reads_column(&self, table: &TableId, column: &str) -> bool {
        self.0.as_ref().is_none_or(|reads| reads(table, Some(column)))
    }
}

impl fmt::Debug for Mapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Mapped(..)" } else { "Mapped(all)" })
    }
}

/// Where transactions in progress are kept.
#[derive(Debug, Clone)]
pub struct SpoolConfig {
    /// Emptied by each session.
    pub folder: PathBuf,
    /// Bytes that all of them may have; with more they are received whole, when they are committed.
    pub max: u64,
}

/// A PostgreSQL source.
#[derive(Debug, Clone)]
pub struct PostgresConfig {
    /// The configured name.
    pub source: SourceId,
    /// Where the server listens.
    pub host: Host,
    /// TCP port, or the number in the Unix socket's name.
    pub port: u16,
    /// The database; a slot belongs to one.
    pub database: String,
    /// The role that connects.
    pub user: String,
    /// Its password, where the server asks for one.
    pub password: Option<Secret>,
    /// How the connection is protected.
    pub tls: Tls,
    /// Which tables are read.
    pub tables: TablePatterns,
    /// Which of them a mapping reads.
    pub mapped: Mapped,
    /// Which of their columns are published.
    pub columns: Columns,
    /// Columns that tell the rows of a table apart, where the server knows no key of it.
    pub keys: BTreeMap<TableId, Vec<String>>,
    /// Name of the replication slot; an existing one is used as found.
    pub slot: String,
    /// Name of the publication; an existing one is used as found.
    pub publication: String,
    /// Whether the tables are copied first.
    pub snapshot: SnapshotMode,
    /// Tables copied at the same time, each over a connection of its own; at least 1.
    pub copy_workers: usize,
    /// Where to end by itself, if at all.
    pub drain_to: Option<DrainTo>,
    /// What to do with values that exact types cannot hold.
    pub special_values: SpecialValues,
    /// What to do where a table is emptied.
    pub truncate: Truncates,
    /// Which messages of applications are rows of `pg_logical.messages`; none without it.
    pub messages: Option<Prefixes>,
    /// What to do where the server's log has a gap.
    pub log_gap: LogGap,
    /// Where transactions in progress are kept; without it they are not asked for.
    pub spool: Option<SpoolConfig>,
    /// From so many bytes of log on that the server keeps for the slot somebody is warned.
    pub slot_warn: u64,
    /// With more of them the slot is dropped, and the source has to be read again.
    pub slot_max: Option<u64>,
}

impl PostgresConfig {
    /// The address for messages.
    #[must_use]
    pub fn address(&self) -> String {
        self.endpoint().address()
    }

    /// Where and how to connect.
    pub(crate) fn endpoint(&self) -> Endpoint<'_> {
        Endpoint { source: &self.source, host: &self.host, port: self.port, socket: self.socket_path(), tls: &self.tls }
    }

    /// True where a source goes on by itself over a gap of the log.
    pub(crate) fn closes_gaps(&self) -> bool {
        self.log_gap == LogGap::Repair && self.snapshot == SnapshotMode::Initial
    }

    /// Where transactions in progress are kept, if they are to be received. Not with messages of applications: the server does not say
    /// which part of a transaction they are of, so those of a part that is rolled back could not be told from the others
    /// (`ReorderBufferApplyMessage`).
    pub(crate) fn spool(&self) -> Option<&SpoolConfig> {
        self.spool.as_ref().filter(|_| self.messages.is_none())
    }

    /// The path of the Unix socket as the server names it.
    pub(crate) fn socket_path(&self) -> PathBuf {
        match &self.host {
            Host::Tcp(_) => PathBuf::new(),
            Host::Unix(directory) => directory.join(format!(".s.PGSQL.{}", self.port)),
        }
    }
}
