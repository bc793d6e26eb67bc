//! `syncline check`: everything that a run depends on, looked at without changing it, each with place and remedy.
//!
//! It calls what the parts themselves call when they start, so that a check that passes is worth something.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Access, access, statvfs};
use syncline_capture::feed::outputs::{self as planning_outputs, Newest};
use syncline_capture::feed::seeds::{self, SeedFile, SeedsConfig};
use syncline_capture::{CaptureError, Finding, Remedy, Severity, StopSignal};
use syncline_schemas::ident::SourceId;
use syncline_schemas::table::TableSchema;
use syncline_sinks::lake::LakeSink;
use syncline_sinks::planning::PlanningSink;
use syncline_sinks::profile::ProfileSink;
use syncline_sinks::{Class as SinkClass, SinkError};
use syncline_transform::MappingFault;
use syncline_transform::mapping::{Mapping, left_out};

use super::CommandError;
use crate::cli::CheckArgs;
use crate::config::{self, Config, OutputsSource, SinkConfig, SinkKind, SourceConfig};
use crate::figures::bytes_text;
use crate::pipeline::outputs;

/// Prints the findings, or the scripts for the DBA.
pub(crate) async fn run(config: Config, args: &CheckArgs) -> Result<(), CommandError> {
    if args.sql { print_scripts(&config).await } else { print_findings(config).await }
}

/// How a line of the check begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Grade {
    Ok,
    Info,
    Warning,
    Error,
}

impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

impl From<Severity> for Grade {
    fn from(severity: Severity) -> Self {
        match severity {
            Severity::Info => Self::Info,
            Severity::Warning => Self::Warning,
            Severity::Error => Self::Error,
        }
    }
}

/// Prints lines as they are found and counts the errors.
#[derive(Default)]
struct Findings {
    errors: usize,
}

impl Findings {
    fn say(&mut self, grade: Grade, part: &str, text: impl fmt::Display) {
        self.errors += usize::from(grade == Grade::Error);
        // Further lines of a text stand under its first.
        println!("{grade:<8} {part}: {}", text.to_string().replace('\n', "\n         "));
    }

    /// `ok` with what holds, or the error.
    fn judge(&mut self, part: &str, outcome: Result<impl fmt::Display, impl fmt::Display>) {
        match outcome {
            Ok(text) => self.say(Grade::Ok, part, text),
            Err(error) => self.say(Grade::Error, part, error),
        }
    }
}

async fn print_findings(config: Config) -> Result<(), CommandError> {
    let mut findings = Findings::default();
    findings.judge("data_dir", data_dir(&config.data_dir));
    let mut tables = Tables::default();
    let begins = config::is_new(&config.data_dir);
    for source in &config.sources {
        check_source(source, begins, &mut tables, &mut findings).await;
    }
    for mapping in &config.mappings {
        let part = format!("mapping {}", mapping.name);
        match tables.check(mapping) {
            Some(Ok(fits)) => {
                findings.say(Grade::Ok, &part, &fits.text);
                fits.warning().into_iter().for_each(|warning| findings.say(Grade::Warning, &part, warning));
            }
            Some(Err(fault)) => findings.say(Grade::Error, &part, fault),
            None => findings.say(Grade::Info, &part, "is checked when its sources can be read"),
        }
    }
    for sink in config.sinks {
        let part = format!("sink {}", sink.name);
        let outcome = check_sink(sink).await.map_err(|error| match error.class() {
            SinkClass::Transient => format!("{error}; check that it runs and that the sink's url is right"),
            SinkClass::Definite => error.to_string(),
        });
        findings.judge(&part, outcome);
    }
    match findings.errors {
        0 => {
            println!("\nready for `syncline run`");
            Ok(())
        }
        1 => Err(CommandError::Unfit("1 error; follow its remedy and check again".to_owned())),
        errors => Err(CommandError::Unfit(format!("{errors} errors; follow their remedies and check again"))),
    }
}

/// The shapes of the tables that sources capture, as far as they can be seen.
#[derive(Default)]
struct Tables {
    known: Vec<TableSchema>,
    /// Databases of PostgreSQL whose rows are not copied at the start.
    uncopied: BTreeSet<SourceId>,
    /// True where some source could not be read.
    incomplete: bool,
}

impl Tables {
    /// The tables that a mapping fits; none where that cannot be said yet.
    fn check(&self, mapping: &Mapping) -> Option<Result<Fits, MappingFault>> {
        match mapping.check(&self.known) {
            Ok(tables) => {
                let names: Vec<String> = tables.iter().map(|table| table.table.to_string()).collect();
                let unseen =
                    left_out(mapping, &tables).into_iter().filter(|(table, _)| self.uncopied.contains(&table.source));
                let unseen = unseen.map(|(table, column)| format!("{}.{column}", table.table)).collect();
                Some(Ok(Fits { text: format!("fits {}", names.join(", ")), unseen }))
            }
            // What is missing may be in the source that cannot be read.
            Err(_) if self.incomplete => None,
            Err(fault) => Some(Err(fault)),
        }
    }
}

/// What fits, and which columns of it may never have been seen.
#[derive(Debug, PartialEq, Eq)]
struct Fits {
    text: String,
    unseen: Vec<String>,
}

impl Fits {
    fn warning(&self) -> Option<String> {
        let columns = self.unseen.join(", ");
        (!self.unseen.is_empty()).then(|| {
            format!(
                "PostgreSQL leaves long values of {columns} out of an update that does not change them, and with snapshot = \
                 \"never\" they were never seen: such rows are held as DQ_ABSENT; remedy: snapshot = \"initial\", or REPLICA \
                 IDENTITY FULL on the table where the publication lists no columns of it"
            )
        })
    }
}

async fn check_source(source: &SourceConfig, begins: bool, tables: &mut Tables, findings: &mut Findings) {
    let part = format!("source {}", source.id());
    let errors_before = findings.errors;
    match source {
        SourceConfig::Postgres(config) => {
            if !source.copies() {
                tables.uncopied.insert(config.source.clone());
            }
            let place = format!("{}, database {}", config.address(), config.database);
            check_server(source, &place, &part, findings).await;
        }
        SourceConfig::MySql(config) => check_server(source, &config.address(), &part, findings).await,
        SourceConfig::Seeds(config) => check_files(config, &part, findings).await,
        SourceConfig::Outputs(source) => check_outputs(source, &part, findings).await,
    }
    let is_fit = findings.errors == errors_before;
    match table_schemas(source, begins).await {
        Ok(found) => tables.known.extend(found),
        Err(error) => {
            tables.incomplete = true;
            if is_fit {
                findings.say(Grade::Error, &part, error);
            }
        }
    }
}

async fn check_server(source: &SourceConfig, place: &str, part: &str, findings: &mut Findings) {
    let found = inspect(source).await;
    let errors_before = findings.errors;
    for Finding { severity, object, message, remedy } in &found {
        let remedy = if *remedy == Remedy::None { String::new() } else { format!("; remedy: {remedy}") };
        // An error of the reader names the source itself.
        let message = message.strip_prefix(&format!("{part}: ")).unwrap_or(message);
        findings.say(Grade::from(*severity), part, format_args!("{object} {message}{remedy}"));
    }
    if findings.errors == errors_before {
        findings.say(Grade::Ok, part, format_args!("{place}: can be read"));
    }
}

/// Each seed file with its rows and key, and every fault.
async fn check_files(source: &SeedsConfig, part: &str, findings: &mut Findings) {
    let source = source.clone();
    let (files, faults) = joined(tokio::task::spawn_blocking(move || seeds::check(&source)).await);
    for SeedFile { file, schema, rows } in &files {
        let key: Vec<&str> = schema.key_indexes().into_iter().map(|i| schema.columns[i].name.as_str()).collect();
        let key = key.join(", ");
        let text =
            format!("{}: {}, {rows} row{}, key {key}", file.display(), schema.table, if *rows == 1 { "" } else { "s" });
        findings.say(Grade::Ok, part, text);
    }
    if files.is_empty() && faults.is_empty() {
        findings.say(Grade::Warning, part, "the folder holds no .csv file");
    }
    for fault in faults {
        findings.say(Grade::Error, part, fault);
    }
}

/// The newest cycle of each output, as the platform says.
async fn check_outputs(source: &OutputsSource, part: &str, findings: &mut Findings) {
    let reader = outputs::reader(source);
    let url = reader.url.clone();
    let asked = tokio::task::spawn_blocking(move || planning_outputs::check(&reader, &StopSignal::default()));
    match joined(asked.await) {
        Ok(found) => {
            for Newest { output, cycle } in found {
                let text = cycle
                    .map_or("nothing is published yet".to_owned(), |(id, rows)| format!("cycle {id}, {rows} rows"));
                findings.say(Grade::Ok, part, format_args!("{url}, output {output}: {text}"));
            }
        }
        Err(error) => {
            let text = error.to_string();
            findings.say(Grade::Error, part, text.strip_prefix(&format!("{part}: ")).unwrap_or(&text));
        }
    }
}

async fn inspect(source: &SourceConfig) -> Vec<Finding> {
    let source = source.clone();
    joined(tokio::task::spawn_blocking(move || source.findings()).await)
}

async fn table_schemas(source: &SourceConfig, begins: bool) -> Result<Vec<TableSchema>, CaptureError> {
    let source = source.clone();
    joined(tokio::task::spawn_blocking(move || source.table_schemas(begins, &StopSignal::default())).await)
}

/// Mappings that do not fit the tables as they are read now, or will be where sources begin, as far as these can be seen.
pub(super) async fn misfits(config: &Config, begins: bool) -> Vec<MappingFault> {
    let mut tables = Tables::default();
    for source in &config.sources {
        match table_schemas(source, begins).await {
            Ok(found) => tables.known.extend(found),
            Err(_) => tables.incomplete = true,
        }
    }
    config.mappings.iter().filter_map(|mapping| tables.check(mapping)?.err()).collect()
}

fn joined<T>(outcome: Result<T, tokio::task::JoinError>) -> T {
    outcome.expect("nobody aborts it, and capture does not panic")
}

/// Whether files can be made in the data folder, or where it will be made.
fn data_dir(dir: &Path) -> Result<String, String> {
    let dir = std::path::absolute(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let place = dir.display();
    let Some(nearest) = dir.ancestors().find(|folder| folder.exists()) else {
        return Err(format!("{place}: no folder above it exists; set data_dir in [daemon] to one that can be made"));
    };
    if !nearest.is_dir() {
        return Err(format!("{place}: {} is no folder; set data_dir in [daemon] to another", nearest.display()));
    }
    access(nearest, Access::WRITE_OK | Access::EXEC_OK).map_err(|error| {
        format!("{}: {error}; give this user the right to write there, or set data_dir in [daemon]", nearest.display())
    })?;
    let space = statvfs(nearest).map_err(|error| format!("{}: {error}", nearest.display()))?;
    let free = bytes_text(space.f_bavail.saturating_mul(space.f_frsize));
    let verb = if nearest == dir { "can be written" } else { "will be created" };
    Ok(format!("{place} {verb}, {free} free"))
}

async fn check_sink(sink: SinkConfig) -> Result<String, SinkError> {
    match sink.kind {
        SinkKind::Planning(config) => {
            let url = config.url.to_string();
            PlanningSink::new(*config)?.check().await?;
            Ok(format!("{url} answers and takes what is configured"))
        }
        SinkKind::Profile(config) => {
            let mut config = *config;
            let url = config.target.url.to_string();
            // Whoever checks wants to know how it is now.
            config.target.patience = Duration::ZERO;
            ProfileSink::new(config)?.check().await?;
            Ok(format!("{url} answers and has a place for what is configured"))
        }
        SinkKind::Lake(config) => {
            let url = config.url.to_string();
            LakeSink::new(*config)?.check().await?;
            Ok(format!("{url} can be written and keeps two writers apart"))
        }
        SinkKind::Discard => Ok("delivers nowhere, as configured".to_owned()),
    }
}

/// The scripts on standard output, so that they can be piped into the server's shell; the undo is commented out for that reason.
async fn print_scripts(config: &Config) -> Result<(), CommandError> {
    let mut incomplete = Vec::new();
    for source in &config.sources {
        let found = inspect(source).await;
        let Some(script) = source.dba_script(&found) else { continue };
        println!("{}\n{}", script.apply.trim_end(), commented(&script.undo));
        let open = found.iter().filter(|it| it.severity == Severity::Error && it.remedy == Remedy::None);
        incomplete.extend(open.map(|finding| finding.message.clone()));
    }
    if incomplete.is_empty() {
        return Ok(());
    }
    Err(CommandError::Unfit(format!("the script lacks what could not be seen: {}", incomplete.join("\n"))))
}

fn commented(undo: &str) -> String {
    let lines = undo.lines().map(|line| match line.strip_prefix("--") {
        Some(_) => format!("{line}\n"),
        None => format!("--   {line}\n"),
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use syncline_schemas::ident::{SourceId, TableId};
    use syncline_schemas::table::Column;

    use super::*;

    #[test]
    fn a_mapping_is_judged_by_the_tables_of_all_sources() {
        let parse = |sql: &str| Mapping::parse("erp/supplier.sql", "mappings/erp/supplier.sql", sql).expect("parses");
        let column = |name: &str| Column {
            name: name.to_owned(),
            data_type: arrow::datatypes::DataType::Utf8,
            source_type: "text".to_owned(),
            key_ordinal: (name == "nr").then_some(0),
            can_be_absent: name == "name",
        };
        let table = |source: &str, name: &str| TableSchema {
            source: SourceId::new(source),
            table: TableId::new("m", name),
            version: 1,
            columns: vec![column("nr"), column("name")],
        };
        let tables = Tables {
            known: vec![table("erp", "lieferant"), table("wms", "kurz")],
            uncopied: BTreeSet::new(),
            incomplete: false,
        };
        let check = |mapping: &Mapping, tables: &Tables| tables.check(mapping).expect("all sources were read");
        let fits = parse(
            "SELECT 'C1' AS company_id, l.nr AS supplier_id, k.name FROM lieferant l LEFT JOIN wms.kurz k ON k.nr = l.nr",
        );
        let found = check(&fits, &tables).expect("fits");
        assert_eq!((found.text.as_str(), found.warning()), ("fits m.lieferant, m.kurz", None));
        let uncopied = Tables { uncopied: BTreeSet::from([SourceId::new("wms")]), ..Tables::default() };
        let uncopied = Tables { known: tables.known.clone(), ..uncopied };
        let warning = check(&fits, &uncopied).expect("fits").warning().expect("its name may never have been seen");
        assert!(warning.contains("long values of m.kurz.name out of an update"), "{warning}");
        let unknown = parse("SELECT 'C1' AS company_id,\n  nummer AS supplier_id, name FROM m.lieferant");
        let fault = check(&unknown, &tables).expect_err("no such column").to_string();
        assert!(fault.starts_with("mappings/erp/supplier.sql:2:3: ") && fault.contains("nummer"), "{fault}");
        let other = parse("SELECT 'C1' AS company_id, nr AS supplier_id, name FROM m.lieferanten");
        let fault = check(&other, &tables).expect_err("no such table").to_string();
        assert!(fault.contains("lieferanten") && fault.contains("[sources.erp]"), "{fault}");
        let blind = Tables { incomplete: true, ..tables };
        assert!(blind.check(&other).is_none(), "it may be in a source that cannot be read");
    }

    #[test]
    fn a_data_folder_is_judged_without_being_made() {
        let dir = tempfile::tempdir().expect("a folder");
        let wanted = dir.path().join("a/b");
        assert!(data_dir(&wanted).expect("can be made").contains("will be created"));
        assert!(!dir.path().join("a").exists());
        assert!(data_dir(dir.path()).expect("there").contains("can be written"));
        std::fs::write(dir.path().join("a"), "in the way").expect("written");
        assert!(data_dir(&wanted).expect_err("a file is in the way").contains("is no folder"));
    }

    #[test]
    fn a_script_piped_into_psql_does_not_undo_itself() {
        let text = commented("-- takes it back\nALTER ROLE a NOREPLICATION;\nDROP PUBLICATION p;\n");
        assert!(text.lines().all(|line| line.starts_with("--")), "{text}");
        assert!(text.contains("--   DROP PUBLICATION p;"));
    }
}
