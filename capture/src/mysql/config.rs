//! What the operator says about a MySQL or MariaDB source.

use std::collections::BTreeMap;
use std::path::PathBuf;

use syncline_schemas::ident::{SourceId, TableId};
use syncline_schemas::secret::Secret;

use super::scope::Scope;
use super::wire::Login;
use crate::endpoint::Endpoint;
pub use crate::endpoint::{Address, Host, Tls};
pub use crate::pattern::TablePatterns;
pub use crate::policy::{LogGap, SnapshotMode, SpecialValues, Truncates};

/// A MySQL or MariaDB source.
#[derive(Debug, Clone)]
pub struct MySqlConfig {
    /// The configured name.
    pub source: SourceId,
    /// Where the server listens, or may after a failover: at least one, a Unix socket by its own path. They are tried in this order,
    /// beginning with the one that was read last.
    pub hosts: Vec<Address>,
    /// The user that connects.
    pub user: String,
    /// Its password, where it has one.
    pub password: Option<Secret>,
    /// How the connection is protected.
    pub tls: Tls,
    /// Which tables are read; their schemas are the server's databases.
    pub tables: TablePatterns,
    /// Columns that tell the rows of a table apart, where the server knows no key of it.
    pub keys: BTreeMap<TableId, Vec<String>>,
    /// The number that no other reader of the server, and no server of its group, has.
    pub server_id: u32,
    /// Whether the tables are copied before their changes are followed.
    pub snapshot: SnapshotMode,
    /// How many connections read at a time while tables are copied.
    pub copy_workers: usize,
    /// What to do with values that exact types cannot hold.
    pub special_values: SpecialValues,
    /// What to do where a table is emptied.
    pub truncate: Truncates,
    /// What to do where the server's log does not tell what follows.
    pub log_gap: LogGap,
    /// Whether to end once everything that the server had at the start is durable.
    pub drain: bool,
}

impl MySqlConfig {
    /// All addresses, for messages.
    #[must_use]
    pub fn address(&self) -> String {
        self.hosts.iter().map(|address| self.endpoint(address).address()).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn endpoint<'c>(&'c self, address: &'c Address) -> Endpoint<'c> {
        let socket = match &address.host {
            Host::Tcp(_) => PathBuf::new(),
            Host::Unix(path) => path.clone(),
        };
        Endpoint { source: &self.source, host: &address.host, port: address.port, socket, tls: &self.tls }
    }

    /// True where a source goes on by itself over a gap of the log.
    pub(super) fn closes_gaps(&self) -> bool {
        self.log_gap == LogGap::Repair && self.snapshot == SnapshotMode::Initial
    }

    pub(super) fn login<'c>(&'c self, address: &'c Address) -> Login<'c> {
        Login { endpoint: self.endpoint(address), user: &self.user, password: self.password.as_ref() }
    }

    pub(super) fn scope(&self, ignores_case: bool) -> Scope {
        Scope { patterns: self.tables.clone(), keys: self.keys.clone(), ignores_case }
    }
}
