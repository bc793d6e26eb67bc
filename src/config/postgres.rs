//! `[sources.<name>]` with `type = "postgres"`.

use std::path::Path;

use syncline_capture::postgres::{
    Columns, Mapped, PostgresConfig, Prefixes, SpoolConfig, TablePatterns, url as server_url,
};
use syncline_journal::SPOOL_DIR;
use syncline_schemas::ident::SourceId;

use super::Faults;
use super::section::Section;
use super::sources::{Database, parsed_url, patterns, rooted};

/// Log that a server keeps for us without anybody being warned.
const SLOT_WARN: u64 = 10 << 30;

/// Transactions in progress that are kept on our disk unless told otherwise.
const SPOOL_MAX: u64 = 10 << 30;

pub(super) fn read(
    name: &str,
    section: &mut Section<'_>,
    folder: &Path,
    data_dir: &Path,
    faults: &mut Faults,
) -> Option<PostgresConfig> {
    let server = parsed_url(section, server_url::parse, faults);
    let tables = match section.texts("tables", faults) {
        Some(tables) => patterns(&tables, faults),
        None => TablePatterns::parse(&["public.*"]).ok(),
    };
    let database = Database::read(section, folder, faults);
    let slot = section.text("slot", faults).map_or_else(|| format!("syncline_{name}"), |slot| slot.value);
    let publication =
        section.text("publication", faults).map_or_else(|| format!("syncline_{name}"), |found| found.value);
    let kinds = [("all", Columns::All), ("mapped", Columns::Mapped)];
    let columns = section.choice("columns", &kinds, faults).unwrap_or_default();
    let slot_warn = section.size("slot_warn", faults).unwrap_or(SLOT_WARN);
    let slot_max = section.size("slot_max", faults);
    let spool_max = section.size("spool_max", faults).unwrap_or(SPOOL_MAX);
    let messages = messages(section, faults);
    section.refuse("server_id", faults, "is for MySQL and MariaDB: a PostgreSQL server knows its readers by slot");
    let (server, tables) = (server?, tables?);
    Some(PostgresConfig {
        source: SourceId::new(name),
        host: server.host,
        port: server.port,
        database: server.database,
        user: server.user,
        password: database.password.or(server.password),
        tls: rooted(server.tls, folder),
        tables,
        mapped: Mapped::default(),
        columns,
        keys: database.keys,
        slot,
        publication,
        snapshot: database.snapshot,
        copy_workers: database.copy_workers,
        drain_to: None,
        special_values: database.special_values,
        truncate: database.truncate,
        messages,
        slot_warn,
        slot_max,
        log_gap: database.log_gap,
        spool: (spool_max > 0).then(|| SpoolConfig { folder: data_dir.join(SPOOL_DIR).join(name), max: spool_max }),
    })
}

/// Which messages of applications are taken.
fn messages(section: &mut Section<'_>, faults: &mut Faults) -> Option<Prefixes> {
    let messages = section.texts("messages", faults)?;
    Prefixes::parse(&messages.value).map_err(|error| messages.fault(faults, format!(": {error}"))).ok()
}
