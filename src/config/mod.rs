//! `syncline.toml`, read so that every fault in it is reported at once, each with its line and a remedy.
//!
//! serde stops at the first fault, so sections are read by hand through [`section::Section`], which also refuses every
//! key that nobody asked for: a mistyped setting must never be a setting that silently has no effect.

mod mysql;
mod outputs;
mod postgres;
mod section;
mod seeds;
mod sinks;
mod sources;

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use syncline_journal::MEMORY_MIN;
use syncline_schemas::ident::SEEDS;
use syncline_transform::fold::{ShapeChange, ShapePolicy};
use syncline_transform::mapping::Mapping;

pub(crate) use self::outputs::OutputsSource;
use self::section::{Document, Found, Section};
pub(crate) use self::sinks::{SinkConfig, SinkKind};
pub(crate) use self::sources::{SourceConfig, SourceKind};

/// Where the control API listens unless told otherwise.
const LISTEN: &str = "127.0.0.1:7070";
/// Raw log entries are kept this long for replay, beyond what the transform still needs.
const LOG_RETENTION: Duration = Duration::from_secs(24 * 3600);
/// Of less the state's own journal, log segments and tables being merged would be a large part.
const DISK_MIN: u64 = 1 << 30;
/// A master that comes in the same load as what cites it needs no one's attention.
const PARK_TTL: Duration = Duration::from_secs(15 * 60);

/// A checked configuration.
#[derive(Debug)]
pub(crate) struct Config {
    /// Names this pipeline at the targets; must not change once they have seen it.
    pub(crate) name: String,
    pub(crate) data_dir: PathBuf,
    pub(crate) listen: SocketAddr,
    pub(crate) log_retention: Duration,
    /// How long deltas are kept that every sink has.
    pub(crate) delta_retention: Duration,
    /// How long a row may wait for a master before it is listed as an exception.
    pub(crate) park_ttl: Duration,
    /// Bytes that the daemon may use.
    pub(crate) memory_limit: u64,
    /// Bytes of disk that the data folder may use, before sources are paused.
    pub(crate) disk_budget: Option<u64>,
    pub(crate) sources: Vec<SourceConfig>,
    pub(crate) mappings: Vec<Mapping>,
    /// What becomes of tables that change.
    pub(crate) shapes: ShapePolicy,
    pub(crate) sinks: Vec<SinkConfig>,
}

/// Everything that is wrong with a configuration.
#[derive(Debug)]
pub(crate) struct ConfigFaults {
    pub(crate) file: PathBuf,
    pub(crate) faults: Vec<Fault>,
}

/// One thing that is wrong.
#[derive(Debug)]
pub(crate) struct Fault {
    /// Line in the configuration file, from 1; 0 where another file is meant.
    pub(crate) line: usize,
    /// What is wrong and what would be right.
    pub(crate) text: String,
}

impl fmt::Display for ConfigFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.faults.len();
        write!(f, "{count} fault{} in the configuration:", if count == 1 { "" } else { "s" })?;
        for fault in &self.faults {
            match fault.line {
                0 => write!(f, "\n  {}", fault.text)?,
                line => write!(f, "\n  {}:{line}: {}", self.file.display(), fault.text)?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigFaults {}

/// Faults as they are found.
#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<Fault>);

impl Faults {
    pub(crate) fn add(&mut self, line: usize, text: impl Into<String>) {
        self.0.push(Fault { line, text: text.into() });
    }
}

impl Config {
    /// Reads a file and the mapping files that it names.
    pub(crate) fn read(file: &Path) -> Result<Self, ConfigFaults> {
        read_with(file, |text, faults| Self::parse(text, folder_of(file), faults))
    }

    /// Reads only where the control API listens: whoever asks a running daemon needs none of its secrets.
    pub(crate) fn read_listen(file: &Path) -> Result<SocketAddr, ConfigFaults> {
        read_with(file, |text, faults| {
            let document = Document::parse(text, faults)?;
            let section = document.root().section("daemon", faults);
            let daemon = section.map(|section| Daemon::read(section, folder_of(file), faults));
            Some(daemon.unwrap_or_else(|| Daemon::defaults(folder_of(file))).listen)
        })
    }

    fn parse(text: &str, folder: &Path, faults: &mut Faults) -> Option<Self> {
        let document = Document::parse(text, faults)?;
        let mut root = document.root();
        let daemon = root.section("daemon", faults).map(|section| Daemon::read(section, folder, faults));
        let daemon = daemon.unwrap_or_else(|| Daemon::defaults(folder));
        let mut sources: Vec<_> = root
            .sections("sources", faults)
            .into_iter()
            .map(|(name, section)| sources::read(&name, section, folder, &daemon.data_dir, faults))
            .collect();
        if let Some(section) = root.section("seeds", faults) {
            let config = seeds::read(section, folder, &daemon.data_dir, faults);
            // Later the rows that were loaded last stay in force, and the source says what is wrong.
            if is_new(&daemon.data_dir) {
                seeds::read_files(&config, faults);
            }
            sources.push(Some(SourceConfig::Seeds(config)));
        }
        if sources.is_empty() {
            faults.add(1, "no [sources.<name>] or [seeds] section: there is nothing to read");
        }
        let (mappings, shapes) = root
            .section("mappings", faults)
            .map(|section| read_mappings(section, folder, &document, faults))
            .unwrap_or_default();
        for source in sources.iter_mut().flatten() {
            source.serve(&mappings);
        }
        let sinks: Vec<_> = root
            .sections("sinks", faults)
            .into_iter()
            .map(|(name, section)| sinks::read(&name, section, folder, &daemon.data_dir, &daemon.name, faults))
            .collect();
        if sinks.is_empty() {
            faults.add(
                1,
                "no [sinks.<name>] section: there is nowhere to deliver to; type = \"discard\" delivers nowhere",
            );
        }
        if !root.has("mappings") {
            refuse_unmapped(sinks.iter().flatten(), faults);
        }
        root.finish(faults);
        for mapping in &mappings {
            if !sources.iter().flatten().any(|source: &SourceConfig| *source.id() == mapping.source) {
                let section = match mapping.source.as_str() {
                    SEEDS => "[seeds]".to_owned(),
                    name => format!("[sources.{name}]"),
                };
                faults.add(0, format!("{}: there is no {section} section", mapping.file));
            }
        }
        Some(Self {
            name: daemon.name,
            data_dir: daemon.data_dir,
            listen: daemon.listen,
            log_retention: daemon.log_retention,
            delta_retention: daemon.delta_retention,
            park_ttl: daemon.park_ttl,
            memory_limit: daemon.memory_limit,
            disk_budget: daemon.disk_budget,
            sources: sources.into_iter().collect::<Option<_>>()?,
            mappings,
            shapes,
            sinks: sinks.into_iter().collect::<Option<_>>()?,
        })
    }
}

/// Without a mapping nothing ever reaches a target.
fn refuse_unmapped<'s>(sinks: impl Iterator<Item = &'s SinkConfig>, faults: &mut Faults) {
    let fed = sinks.filter(|sink| !matches!(sink.kind, SinkKind::Discard));
    let names: Vec<String> = fed.map(|sink| format!("sinks.{}", sink.name)).collect();
    if !names.is_empty() {
        let names = names.join(" and ");
        faults
            .add(1, format!("no [mappings] section: {names} would never get a row; write one with dir = \"mappings\""));
    }
}

/// Reads a file as a whole; what was read counts only without a fault.
fn read_with<T>(file: &Path, parse: impl FnOnce(&str, &mut Faults) -> Option<T>) -> Result<T, ConfigFaults> {
    let mut faults = Faults::default();
    let read = match std::fs::read_to_string(file) {
        Ok(text) => parse(&text, &mut faults),
        Err(error) => {
            let remedy = "name the file with --config, or write one as README shows";
            faults.add(0, format!("{}: {error}; {remedy}", file.display()));
            None
        }
    };
    match read {
        Some(read) if faults.0.is_empty() => Ok(read),
        _ => {
            faults.0.sort_by_key(|fault| fault.line);
            Err(ConfigFaults { file: file.to_owned(), faults: faults.0 })
        }
    }
}

/// True where a data folder holds nothing or is not there.
pub(crate) fn is_new(data_dir: &Path) -> bool {
    std::fs::read_dir(data_dir).map_or(true, |mut entries| entries.next().is_none())
}

/// The folder that relative paths in a file are relative to.
fn folder_of(file: &Path) -> &Path {
    file.parent().unwrap_or(Path::new(""))
}

struct Daemon {
    name: String,
    data_dir: PathBuf,
    listen: SocketAddr,
    log_retention: Duration,
    delta_retention: Duration,
    park_ttl: Duration,
    memory_limit: u64,
    disk_budget: Option<u64>,
}

impl Daemon {
    fn defaults(folder: &Path) -> Self {
        Self {
            name: "syncline".to_owned(),
            data_dir: folder.join("data"),
            listen: LISTEN.parse().expect("a constant address"),
            log_retention: LOG_RETENTION,
            delta_retention: Duration::ZERO,
            park_ttl: PARK_TTL,
            memory_limit: MEMORY_MIN,
            disk_budget: None,
        }
    }

    fn read(mut section: Section<'_>, folder: &Path, faults: &mut Faults) -> Self {
        let defaults = Self::defaults(folder);
        let listen = section.text("listen", faults).and_then(|listen| match listen.value.parse() {
            Ok(address) => Some(address),
            Err(_) => {
                listen.fault(faults, "is no address; write host:port as numbers, as in \"127.0.0.1:7070\"");
                None
            }
        });
        let name = section.text("name", faults).map_or(defaults.name, |name| {
            if name.value.is_empty() {
                name.fault(faults, "is empty; targets know this pipeline by it");
            }
            name.value
        });
        let memory_limit = section.size("memory_limit", faults).unwrap_or(defaults.memory_limit);
        if memory_limit < MEMORY_MIN {
            section.fault(faults, "has a memory_limit of less than 256MiB, which the daemon needs");
        }
        let disk_budget = section.size("disk_budget", faults);
        if disk_budget.is_some_and(|budget| budget < DISK_MIN) {
            section
                .fault(faults, "has a disk_budget of less than 1GiB, most of which the journal of the state may take");
        }
        let daemon = Self {
            name,
            data_dir: section.text("data_dir", faults).map_or(defaults.data_dir, |dir| folder.join(dir.value)),
            listen: listen.unwrap_or(defaults.listen),
            log_retention: section.duration("log_retention", faults).unwrap_or(defaults.log_retention),
            delta_retention: section.duration("delta_retention", faults).unwrap_or(defaults.delta_retention),
            park_ttl: section.duration("park_ttl", faults).unwrap_or(defaults.park_ttl),
            memory_limit,
            disk_budget,
        };
        section.finish(faults);
        daemon
    }
}

/// The section, and what lies in `<dir>/<source>/*.sql`.
fn read_mappings(
    mut section: Section<'_>,
    folder: &Path,
    document: &Document,
    faults: &mut Faults,
) -> (Vec<Mapping>, ShapePolicy) {
    let misfits_aside = section.choice("misfit", &[("park", true), ("stop", false)], faults).unwrap_or(true);
    let shapes = ShapePolicy { misfits_aside, stop_at: read_stop_at(&mut section, faults) };
    let dir = section.required_text("dir", faults);
    section.finish(faults);
    (dir.map(|dir| read_files(&dir, folder, document, faults)).unwrap_or_default(), shapes)
}

/// `stop_at = ["dropped_column"]`.
fn read_stop_at(section: &mut Section<'_>, faults: &mut Faults) -> BTreeSet<ShapeChange> {
    let Some(words) = section.texts("stop_at", faults) else { return BTreeSet::new() };
    let change = |word: &String| ShapeChange::ALL.into_iter().find(|change| change.as_str() == word);
    if let Some(unknown) = words.value.iter().find(|word| change(word).is_none()) {
        let known = ShapeChange::ALL.map(ShapeChange::as_str).join(", ");
        words.fault(faults, format!("has \"{unknown}\"; it may have {known}"));
    }
    words.value.iter().filter_map(change).collect()
}

fn read_files(dir: &Found<String>, folder: &Path, document: &Document, faults: &mut Faults) -> Vec<Mapping> {
    let root = folder.join(&dir.value);
    let mut mappings = Vec::new();
    let SqlFiles { files, stray } = match sql_files(&root) {
        Ok(files) => files,
        Err(error) => {
            faults.add(document.line(dir.at), format!("mappings.dir: {}: {error}", root.display()));
            return mappings;
        }
    };
    for name in stray {
        let right = root.join("<source>").join(&name);
        let remedy = format!("a mapping lies in the folder of its source: move it to {}", right.display());
        faults.add(0, format!("{}: {remedy}", root.join(&name).display()));
    }
    for (path, file) in files {
        match std::fs::read_to_string(&file) {
            Ok(text) => match Mapping::parse(&path, &file.display().to_string(), &text) {
                Ok(mapping) => mappings.push(mapping),
                Err(fault) => faults.add(0, fault.to_string()),
            },
            Err(error) => faults.add(0, format!("{}: {error}", file.display())),
        }
    }
    if mappings.is_empty() {
        let reason = format!("mappings.dir: {} holds no usable <source>/<entity>.sql", root.display());
        faults.add(document.line(dir.at), reason);
    }
    mappings
}

/// What lies in a mapping folder, sorted.
struct SqlFiles {
    /// Mapping files by their name relative to the folder.
    files: Vec<(String, PathBuf)>,
    /// Names of those that lie beside the sources' folders.
    stray: Vec<PathBuf>,
}

/// A source's folder may be a link to one that several daemons share.
fn sql_files(root: &Path) -> std::io::Result<SqlFiles> {
    let is_sql = |file: &Path| file.extension().is_some_and(|extension| extension == "sql");
    let (mut files, mut stray) = (Vec::new(), Vec::new());
    for source in std::fs::read_dir(root)? {
        let source = source?;
        if !source.path().is_dir() {
            stray.extend(Some(PathBuf::from(source.file_name())).filter(|name| is_sql(name)));
            continue;
        }
        for entry in std::fs::read_dir(source.path())? {
            let file = entry?.path();
            if is_sql(&file) {
                let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
                files.push((format!("{}/{name}", source.file_name().to_string_lossy()), file));
            }
        }
    }
    files.sort();
    stray.sort();
    Ok(SqlFiles { files, stray })
}

#[cfg(test)]
mod tests;
