//! What an operator sets for a lake.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use syncline_schemas::secret::Secret;
use url::Url;

use super::hidden::Hidden;
use super::store::Place;
use crate::{EntityPatterns, SinkError};

/// Settings of one lake sink.
#[derive(Debug, Clone)]
pub struct LakeConfig {
    /// Where the tables are: `file:///…`, `s3://bucket/path`, `az://container/path`,
    /// `abfss://container@account.dfs.core.windows.net/path` or `gs://bucket/path`.
    pub url: Url,
    /// Names this daemon's pipeline in the tables' transaction identifiers; must never change for a lake.
    pub pipeline: String,
    /// A local folder for sorted runs that outgrow memory; they vanish with the process.
    pub scratch: PathBuf,
    /// Which entities have tables.
    pub entities: EntityPatterns,
    /// How long a flush waits for more rows after the first.
    pub flush_every: Duration,
    /// Rows that end the wait early.
    pub flush_rows: usize,
    /// How often a snapshot without a tag is taken; never where it is not set.
    pub snapshot_every: Option<Duration>,
    /// How long those are kept; the last one stays in any case.
    pub snapshot_retention: Duration,
    /// How often what the daemon met is written beside the data.
    pub operations_every: Duration,
    /// What its readers must not see.
    pub hidden: Arc<Hidden>,
    /// How large files and buffers may grow.
    pub limits: LakeLimits,
    /// How the store of the URL is reached.
    pub store: StoreOptions,
}

impl LakeConfig {
    /// 10 s: seen by analysts as "now", yet only 8,640 commits a day.
    pub const FLUSH_EVERY: Duration = Duration::from_secs(10);
    /// 500,000 rows: a larger flush gains nothing, as its cost per row is already that of Parquet itself.
    pub const FLUSH_ROWS: usize = 500_000;
    /// 30 days: four planning cycles of a week, and somebody's holiday.
    pub const SNAPSHOT_RETENTION: Duration = Duration::from_secs(30 * 86_400);

    /// 5 minutes: a few hundred small commits a day.
    pub const OPERATIONS_EVERY: Duration = Duration::from_secs(300);

    /// A lake of every entity with the default settings.
    #[must_use]
    pub fn new(url: Url, pipeline: &str, scratch: PathBuf) -> Self {
        Self {
            url,
            pipeline: pipeline.to_owned(),
            scratch,
            entities: EntityPatterns::all(),
            flush_every: Self::FLUSH_EVERY,
            flush_rows: Self::FLUSH_ROWS,
            snapshot_every: None,
            snapshot_retention: Self::SNAPSHOT_RETENTION,
            operations_every: Self::OPERATIONS_EVERY,
            hidden: Arc::default(),
            limits: LakeLimits::default(),
            store: StoreOptions::default(),
        }
    }

    /// Checks what types cannot; nothing is contacted.
    ///
    /// # Errors
    /// [`SinkError::Setting`] for a URL that is not a lake's place, for settings of its store that cannot be used with it,
    /// and for a limit of zero.
    pub fn check(&self) -> Result<(), SinkError> {
        self.limits.check()?;
        Place::open(&self.url, &self.store).map(drop)
    }
}

/// Every bound of the lake in one place; tests shrink them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LakeLimits {
    /// Rows that a file of a current table aims at; it is split above one and a half times as many.
    /// A changed row costs the rewriting of its file, and a file costs a request: 500,000 rows are about 20 MB.
    pub file_rows: usize,
    /// Rows of a Parquet row group, the unit that writing and reading hold in memory.
    pub group_rows: usize,
    /// Bytes of rows that a flush holds in memory before it spills or ends a row group.
    pub buffer_bytes: usize,
    /// So many history files of about one size are folded into one.
    pub fold_files: usize,
    /// A table is vacuumed every so many of its versions.
    pub vacuum_versions: u64,
}

impl LakeLimits {
    pub(super) fn check(&self) -> Result<(), SinkError> {
        let limits = [
            ("limits.file_rows", self.file_rows),
            ("limits.group_rows", self.group_rows),
            ("limits.buffer_bytes", self.buffer_bytes),
        ];
        match limits.into_iter().find(|(_, limit)| *limit == 0) {
            Some((setting, _)) => Err(SinkError::Setting { setting, reason: "must be above zero".to_owned() }),
            None => Ok(()),
        }
    }
}

impl Default for LakeLimits {
    fn default() -> Self {
        Self {
            file_rows: 500_000,
            group_rows: 64 * 1024,
            buffer_bytes: 16 * 1024 * 1024,
            fold_files: 16,
            vacuum_versions: 100,
        }
    }
}

/// How a store is reached. What is left out comes from the usual variables of the environment (`AWS_*`, `AZURE_*`,
/// `GOOGLE_*`), and credentials that stand nowhere from the machine's own identity.
#[derive(Debug, Clone, Default)]
pub struct StoreOptions {
    /// The service, where it is not the provider's own.
    pub endpoint: Option<Url>,
    /// True to permit an endpoint without TLS.
    pub allow_http: bool,
    /// A PEM file of authorities that are trusted beside the system's.
    pub ca: Option<PathBuf>,
    /// How long one request may take; 30 seconds where it is not set.
    pub timeout: Option<Duration>,
    /// S3: the region, as in `eu-central-1`.
    pub region: Option<String>,
    /// S3: the access key's id.
    pub access_key_id: Option<Secret>,
    /// S3: the access key's secret half.
    pub secret_access_key: Option<Secret>,
    /// S3: the token of temporary credentials.
    pub session_token: Option<Secret>,
    /// Azure: the storage account, where the URL does not name it.
    pub account: Option<String>,
    /// Azure: a key of the account, in base64.
    pub account_key: Option<Secret>,
    /// Azure: a shared access signature, as in `sv=…&sig=…`.
    pub sas_token: Option<Secret>,
    /// Google: the key file of a service account, in JSON.
    pub service_account: Option<Secret>,
}

impl StoreOptions {
    /// Refuses what the store of a URL's scheme has no place for, so that no setting silently has no effect.
    pub(super) fn check(&self, scheme: &str) -> Result<(), SinkError> {
        const REMOTE: &[&str] = &["s3", "az", "abfss", "gs"];
        const AZURE: &[&str] = &["az", "abfss"];
        let takes: [(&'static str, bool, &[&str]); 12] = [
            ("endpoint", self.endpoint.is_some(), REMOTE),
            ("allow_http", self.allow_http, REMOTE),
            ("tls", self.ca.is_some(), REMOTE),
            ("timeout", self.timeout.is_some(), REMOTE),
            ("region", self.region.is_some(), &["s3"]),
            ("access_key_id", self.access_key_id.is_some(), &["s3"]),
            ("secret_access_key", self.secret_access_key.is_some(), &["s3"]),
            ("session_token", self.session_token.is_some(), &["s3"]),
            ("account", self.account.is_some(), AZURE),
            ("account_key", self.account_key.is_some(), AZURE),
            ("sas_token", self.sas_token.is_some(), AZURE),
            ("service_account", self.service_account.is_some(), &["gs"]),
        ];
        match takes.into_iter().find(|(_, is_set, schemes)| *is_set && !schemes.contains(&scheme)) {
            Some((setting, _, schemes)) => {
                let schemes: Vec<String> = schemes.iter().map(|scheme| format!("{scheme}://")).collect();
                let reason = format!("is for {}, and the url begins with {scheme}://", schemes.join(", "));
                Err(SinkError::Setting { setting, reason })
            }
            None => Ok(()),
        }
    }
}
