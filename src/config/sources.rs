//! Sources: `[sources.<name>]`, each a database or a planning platform, and the one of `[seeds]`.

use std::collections::BTreeMap;
use std::path::Path;

use syncline_capture::feed::outputs;
use syncline_capture::feed::seeds::{self, SeedsConfig};
use syncline_capture::postgres::{
    self, Columns, DrainTo, LogGap, Mapped, PostgresConfig, Prefixes, SnapshotMode, SpecialValues, SpoolConfig,
    TablePatterns, Tls, Truncates, url as server_url,
};
use syncline_capture::{CaptureError, StopSignal};
use syncline_journal::SPOOL_DIR;
use syncline_schemas::ident::{Position, SEEDS, SourceId, TableId};
use syncline_schemas::secret::Secret;
use syncline_schemas::table::TableSchema;
use syncline_transform::mapping::Mapping;

use super::section::Section;
use super::{Faults, OutputsSource};

/// Tables copied at the same time unless told otherwise: enough to keep a small server's cores busy, not more.
const COPY_WORKERS: usize = 4;

/// Log that a server keeps for us without anybody being warned.
const SLOT_WARN: u64 = 10 << 30;

/// Transactions in progress that are kept on our disk unless told otherwise.
const SPOOL_MAX: u64 = 10 << 30;

/// What is read, each kind with its own settings.
#[derive(Debug, Clone)]
pub(crate) enum SourceConfig {
    Postgres(Box<PostgresConfig>),
    Seeds(SeedsConfig),
    Outputs(Box<OutputsSource>),
}

impl SourceConfig {
    /// Its name in the log, in mappings and in messages.
    pub(crate) const fn id(&self) -> &SourceId {
        match self {
            Self::Postgres(config) => &config.source,
            Self::Seeds(config) => &config.source,
            Self::Outputs(source) => &source.id,
        }
    }

    /// The shapes of its tables, as they are read or will be where it `begins`. Blocks for some round trips, or while files are
    /// read.
    pub(crate) fn table_schemas(&self, begins: bool, stop: &StopSignal) -> Result<Vec<TableSchema>, CaptureError> {
        match self {
            Self::Postgres(config) => postgres::table_schemas(config, begins, stop),
            Self::Seeds(config) => seeds::table_schemas(config),
            Self::Outputs(source) => Ok(outputs::table_schemas(&source.id, &source.outputs)),
        }
    }

    /// Where it stands once all its rows are to be read again.
    pub(crate) fn begin_again(&self, position: &Position, now_us: i64) -> Result<Position, String> {
        match self {
            Self::Postgres(_) => postgres::begin_again(position),
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
            Self::Seeds(config) => config.drain = true,
            Self::Outputs(source) => source.drain = true,
        }
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

/// What to do about what is out of the ordinary.
struct Policies {
    special_values: SpecialValues,
    truncate: Truncates,
    log_gap: LogGap,
}

fn policies(section: &mut Section<'_>, faults: &mut Faults) -> Policies {
    let values = [("stop", SpecialValues::Stop), ("null", SpecialValues::Null)];
    let truncates = [("apply", Truncates::Apply), ("stop", Truncates::Stop)];
    let gaps = [("repair", LogGap::Repair), ("stop", LogGap::Stop)];
    Policies {
        special_values: section.choice("special_values", &values, faults).unwrap_or_default(),
        truncate: section.choice("truncate", &truncates, faults).unwrap_or_default(),
        log_gap: section.choice("log_gap", &gaps, faults).unwrap_or_default(),
    }
}

/// Which messages of applications are taken.
fn messages(section: &mut Section<'_>, faults: &mut Faults) -> Option<Prefixes> {
    let messages = section.texts("messages", faults)?;
    Prefixes::parse(&messages.value).map_err(|error| messages.fault(faults, format!(": {error}"))).ok()
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
    // Everything is asked for before anything is given up, so that one run shows every fault.
    let kind = section.required_text("type", faults);
    if kind.as_ref().is_some_and(|kind| kind.value == "planning_outputs") {
        let source = super::outputs::read(name, &mut section, folder, faults);
        section.finish(faults);
        return source.map(|source| SourceConfig::Outputs(Box::new(source)));
    }
    let url = section.required_text("url", faults);
    let password = section.secret("password", folder, faults);
    let tables = section.texts("tables", faults);
    let slot = section.text("slot", faults).map_or_else(|| format!("syncline_{name}"), |slot| slot.value);
    let publication =
        section.text("publication", faults).map_or_else(|| format!("syncline_{name}"), |found| found.value);
    let modes = [("initial", SnapshotMode::Initial), ("never", SnapshotMode::Never)];
    let snapshot = section.choice("snapshot", &modes, faults).unwrap_or_default();
    let kinds = [("all", Columns::All), ("mapped", Columns::Mapped)];
    let columns = section.choice("columns", &kinds, faults).unwrap_or_default();
    let copy_workers = section.count("copy_workers", faults).unwrap_or(COPY_WORKERS);
    let keys = keys(&mut section, faults);
    let slot_warn = section.size("slot_warn", faults).unwrap_or(SLOT_WARN);
    let slot_max = section.size("slot_max", faults);
    let spool_max = section.size("spool_max", faults).unwrap_or(SPOOL_MAX);
    let Policies { special_values, truncate, log_gap } = policies(&mut section, faults);
    let messages = messages(&mut section, faults);
    section.finish(faults);
    let kind = kind?;
    if kind.value != "postgres" {
        kind.fault(faults, format!("is \"{}\"; this version reads \"postgres\" and \"planning_outputs\"", kind.value));
        return None;
    }
    let url = url?;
    let server = server_url::parse(&url.value).map_err(|error| url.fault(faults, format!(": {error}"))).ok();
    let patterns = match &tables {
        Some(tables) => {
            TablePatterns::parse(&tables.value).map_err(|error| tables.fault(faults, format!(": {error}"))).ok()
        }
        None => TablePatterns::parse(&["public.*"]).ok(),
    };
    let (server, tables) = (server?, patterns?);
    let tls = match server.tls {
        Tls::VerifyFull { ca_file } => Tls::VerifyFull { ca_file: ca_file.map(|file| folder.join(file)) },
        Tls::Disable => Tls::Disable,
    };
    Some(SourceConfig::Postgres(Box::new(PostgresConfig {
        source: SourceId::new(name),
        host: server.host,
        port: server.port,
        database: server.database,
        user: server.user,
        password: password.map(Secret::new).or(server.password),
        tls,
        tables,
        mapped: Mapped::default(),
        columns,
        keys,
        slot,
        publication,
        snapshot,
        copy_workers,
        drain_to: None,
        special_values,
        truncate,
        messages,
        slot_warn,
        slot_max,
        log_gap,
        spool: (spool_max > 0).then(|| SpoolConfig { folder: data_dir.join(SPOOL_DIR).join(name), max: spool_max }),
    })))
}
