//! Sources: `[sources.<name>]`, each a database or a planning platform, and the one of `[seeds]`.

use std::collections::BTreeMap;
use std::path::Path;

use syncline_capture::feed::outputs;
use syncline_capture::feed::seeds::{self, SeedsConfig};
use syncline_capture::mysql::{self, MySqlConfig};
use syncline_capture::postgres::{
    self, DrainTo, LogGap, Mapped, PostgresConfig, SnapshotMode, SpecialValues, TablePatterns, Tls, Truncates,
};
use syncline_capture::{CaptureError, Finding, Script, StopSignal};
use syncline_schemas::ident::{Position, SEEDS, SourceId, TableId};
use syncline_schemas::secret::Secret;
use syncline_schemas::table::TableSchema;
use syncline_transform::mapping::Mapping;

use super::section::{Found, Section};
use super::{Faults, OutputsSource};

/// Tables copied at the same time unless told otherwise: enough to keep a small server's cores busy, not more.
const COPY_WORKERS: usize = 4;

/// What is read, each kind with its own settings.
#[derive(Debug, Clone)]
pub(crate) enum SourceConfig {
    Postgres(Box<PostgresConfig>),
    MySql(Box<MySqlConfig>),
    Seeds(SeedsConfig),
    Outputs(Box<OutputsSource>),
}

/// The kinds alone, for whoever has to do with what a source said and not with how it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SourceKind {
    Postgres,
    MySql,
    Seeds,
    Outputs,
}

impl SourceKind {
    /// A position as the server writes it: an LSN, or a set of GTIDs; none of what has no log of its own.
    pub(crate) fn describe(self, position: &Position) -> Option<String> {
        match self {
            Self::Postgres => postgres::end_of(position).map(|lsn| lsn.to_string()),
            Self::MySql => Some(mysql::describe_position(position)),
            Self::Seeds | Self::Outputs => None,
        }
    }

    /// Why a single table is not read anew beside the stream, where it is not.
    pub(crate) const fn refuses_reading_anew(self) -> Option<&'static str> {
        match self {
            Self::Postgres | Self::MySql | Self::Outputs => None,
            Self::Seeds => Some("seeds are compared with their files whenever those change"),
        }
    }
}

impl SourceConfig {
    /// Its name in the log, in mappings and in messages.
    pub(crate) const fn id(&self) -> &SourceId {
        match self {
            Self::Postgres(config) => &config.source,
            Self::MySql(config) => &config.source,
            Self::Seeds(config) => &config.source,
            Self::Outputs(source) => &source.id,
        }
    }

    pub(crate) const fn kind(&self) -> SourceKind {
        match self {
            Self::Postgres(_) => SourceKind::Postgres,
            Self::MySql(_) => SourceKind::MySql,
            Self::Seeds(_) => SourceKind::Seeds,
            Self::Outputs(_) => SourceKind::Outputs,
        }
    }

    /// Its name and kind.
    pub(crate) fn known(&self) -> (SourceId, SourceKind) {
        (self.id().clone(), self.kind())
    }

    /// The shapes of its tables, as they are read or will be where it `begins`. Blocks for some round trips, or while files are
    /// read.
    pub(crate) fn table_schemas(&self, begins: bool, stop: &StopSignal) -> Result<Vec<TableSchema>, CaptureError> {
        match self {
            Self::Postgres(config) => postgres::table_schemas(config, begins, stop),
            Self::MySql(config) => mysql::tables(config, stop),
            Self::Seeds(config) => seeds::table_schemas(config),
            Self::Outputs(source) => Ok(outputs::table_schemas(&source.id, &source.outputs)),
        }
    }

    /// What a look at its server finds; nothing of what has none. Blocks for some round trips.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        match self {
            Self::Postgres(config) => postgres::check(config),
            Self::MySql(config) => mysql::check(config),
            // Their shapes are read from the very files, or follow from the contract.
            Self::Seeds(_) | Self::Outputs(_) => Vec::new(),
        }
    }

    /// What its DBA has to run for what was found; nobody has to grant anything on files.
    pub(crate) fn dba_script(&self, findings: &[Finding]) -> Option<Script> {
        match self {
            Self::Postgres(config) => Some(postgres::dba_script(config, findings)),
            Self::MySql(config) => Some(mysql::dba_script(config, findings)),
            Self::Seeds(_) | Self::Outputs(_) => None,
        }
    }

    /// True where all that it has is read before what changes.
    pub(crate) fn copies(&self) -> bool {
        let snapshot = match self {
            Self::Postgres(config) => config.snapshot,
            Self::MySql(config) => config.snapshot,
            Self::Seeds(_) | Self::Outputs(_) => SnapshotMode::Initial,
        };
        snapshot == SnapshotMode::Initial
    }

    /// Where it stands once all its rows are to be read again.
    pub(crate) fn begin_again(&self, position: &Position, now_us: i64) -> Result<Position, String> {
        match self {
            Self::Postgres(_) => postgres::begin_again(position),
            Self::MySql(_) => mysql::begin_again(position),
            Self::Seeds(_) => seeds::begin_again(position, now_us),
            Self::Outputs(_) => outputs::begin_again(position),
        }
    }

    /// Has it know which of its tables are of use.
    pub(super) fn serve(&mut self, mappings: &[Mapping]) {
        if let Self::Postgres(config) = self {
            let (mappings, source) = (mappings.to_vec(), config.source.clone());
            config.mapped = Mapped::by(move |table, column| {
                mappings.iter().any(|mapping| match column {
                    Some(column) => mapping.reads_column(&source, table, column),
                    None => mapping.reads(&source, table),
                })
            });
        }
    }

    /// Has it end by itself once everything that it holds at its start is durable.
    pub(crate) fn drain(&mut self) {
        match self {
            Self::Postgres(config) => config.drain_to = Some(DrainTo::CurrentEnd),
            Self::MySql(config) => config.drain = true,
            Self::Seeds(config) => config.drain = true,
            Self::Outputs(source) => source.drain = true,
        }
    }

    /// Has it end by itself at a position, as the server writes it.
    pub(crate) fn drain_to(&mut self, position: &str) -> Result<(), String> {
        let reason = match self {
            Self::Postgres(config) => {
                let lsn = position.parse().map_err(|_| "write a position as in 16/B374D848".to_owned())?;
                config.drain_to = Some(DrainTo::Lsn(lsn));
                return Ok(());
            }
            Self::MySql(_) => {
                "MySQL and MariaDB have no position to wait for; any drain reads what they had executed at its start"
            }
            Self::Seeds(_) => "seeds have no position to wait for; any drain loads what is in their folder",
            Self::Outputs(_) => "planning outputs have no position to wait for; any drain pulls the newest cycles",
        };
        Err(reason.to_owned())
    }
}

/// Settings that databases have in common.
pub(super) struct Database {
    pub(super) password: Option<Secret>,
    pub(super) keys: BTreeMap<TableId, Vec<String>>,
    pub(super) snapshot: SnapshotMode,
    pub(super) copy_workers: usize,
    pub(super) special_values: SpecialValues,
    pub(super) truncate: Truncates,
    pub(super) log_gap: LogGap,
}

impl Database {
    pub(super) fn read(section: &mut Section<'_>, folder: &Path, faults: &mut Faults) -> Self {
        let modes = [("initial", SnapshotMode::Initial), ("never", SnapshotMode::Never)];
        let values = [("stop", SpecialValues::Stop), ("null", SpecialValues::Null)];
        let gaps = [("repair", LogGap::Repair), ("stop", LogGap::Stop)];
        let truncates = [("apply", Truncates::Apply), ("stop", Truncates::Stop)];
        Self {
            password: section.secret("password", folder, faults).map(Secret::new),
            keys: keys(section, faults),
            snapshot: section.choice("snapshot", &modes, faults).unwrap_or_default(),
            copy_workers: section.count("copy_workers", faults).unwrap_or(COPY_WORKERS),
            special_values: section.choice("special_values", &values, faults).unwrap_or_default(),
            truncate: section.choice("truncate", &truncates, faults).unwrap_or_default(),
            log_gap: section.choice("log_gap", &gaps, faults).unwrap_or_default(),
        }
    }
}

/// The server's URL in parts.
pub(super) fn parsed_url<T, E: std::fmt::Display>(
    section: &mut Section<'_>,
    parse: impl FnOnce(&str) -> Result<T, E>,
    faults: &mut Faults,
) -> Option<T> {
    let url = section.required_text("url", faults)?;
    parse(&url.value).map_err(|error| url.fault(faults, format!(": {error}"))).ok()
}

pub(super) fn patterns(tables: &Found<Vec<String>>, faults: &mut Faults) -> Option<TablePatterns> {
    TablePatterns::parse(&tables.value).map_err(|error| tables.fault(faults, format!(": {error}"))).ok()
}

/// With the file of authorities beside the configuration.
pub(super) fn rooted(tls: Tls, folder: &Path) -> Tls {
    match tls {
        Tls::VerifyFull { ca_file } => Tls::VerifyFull { ca_file: ca_file.map(|file| folder.join(file)) },
        Tls::Disable => Tls::Disable,
    }
}

/// `[sources.<name>.keys]`: `"public.orders" = ["company", "number"]`.
fn keys(section: &mut Section<'_>, faults: &mut Faults) -> BTreeMap<TableId, Vec<String>> {
    let Some(mut declared) = section.section("keys", faults) else { return BTreeMap::new() };
    let mut keys = BTreeMap::new();
    for name in declared.keys() {
        let Some(columns) = declared.texts(&name, faults) else { continue };
        match name.split_once('.') {
            Some((schema, table)) if !columns.value.is_empty() => {
                keys.insert(TableId::new(schema, table), columns.value);
            }
            Some(_) => columns.fault(faults, "is empty; it names the columns that tell the table's rows apart"),
            None => columns.fault(faults, "is for no table; name it with its schema, as in \"public.orders\""),
        }
    }
    declared.finish(faults);
    keys
}

fn check_name(name: &str, section: &Section<'_>, faults: &mut Faults) {
    if name == SEEDS {
        section.fault(faults, "has the name of the CSV files of [seeds]; choose another");
    }
    // Folders have it.
    if !name.chars().all(|char| char.is_ascii_alphanumeric() || matches!(char, '_' | '-')) {
        section.fault(faults, "has a name that is no good for a folder; use letters, digits, _ and -");
    }
}

pub(super) fn read(
    name: &str,
    mut section: Section<'_>,
    folder: &Path,
    data_dir: &Path,
    faults: &mut Faults,
) -> Option<SourceConfig> {
    check_name(name, &section, faults);
    if !section.has("type") {
        section.fault(faults, "needs type: \"postgres\", \"mysql\", \"mariadb\" or \"planning_outputs\"");
        return None;
    }
    let kinds = [
        ("postgres", SourceKind::Postgres),
        ("mysql", SourceKind::MySql),
        ("mariadb", SourceKind::MySql),
        ("planning_outputs", SourceKind::Outputs),
    ];
    // Of an unknown kind nobody knows which settings it takes: none is called unknown or wrong then.
    let kind = section.choice("type", &kinds, faults)?;
    // Everything is asked for before anything is given up, so that one run shows every fault.
    let source = match kind {
        SourceKind::Postgres => super::postgres::read(name, &mut section, folder, data_dir, faults)
            .map(|config| SourceConfig::Postgres(Box::new(config))),
        SourceKind::MySql => super::mysql::read(name, &mut section, folder, data_dir, faults)
            .map(|config| SourceConfig::MySql(Box::new(config))),
        SourceKind::Outputs => super::outputs::read(name, &mut section, folder, faults)
            .map(|source| SourceConfig::Outputs(Box::new(source))),
        // They have a section of their own.
        SourceKind::Seeds => None,
    };
    section.finish(faults);
    source
}
