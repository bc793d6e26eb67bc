//! Checking a source from outside a session: reachability, settings, rights, tables; and what the DBA has to run.

use syncline_schemas::table::TableSchema;

use super::catalog::{Catalog, CatalogTable};
use super::config::PostgresConfig;
use super::decode::Relation;
use super::finding::{Finding, Remedy, Script, Severity};
use super::messages;
use super::preflight::{self, Inspection, Intent};
use super::publication::Publication;
use super::wire::{Connection, Purpose, quote_identifier, quote_literal};
use crate::{CaptureError, StopSignal};

/// Looks at everything that reading the source depends on, changing nothing. Blocks for some round trips.
///
/// A server that cannot be reached is a finding, too. Without an error among the findings a reader can start.
#[must_use]
pub fn check(config: &PostgresConfig) -> Vec<Finding> {
    let unreachable = |error: CaptureError| Finding {
        severity: Severity::Error,
        object: format!("server {}", config.address()),
        message: error.to_string(),
        remedy: Remedy::None,
    };
    let stop = StopSignal::default();
    let inspected = Connection::open(config, Purpose::Query, &stop)
        .and_then(|mut connection| preflight::inspect(&mut connection, config, Intent::Begin));
    let mut findings = match inspected {
        Ok(inspection) => inspection.findings,
        Err(error) => return vec![unreachable(error)],
    };
    // Without the right the server refuses a replication connection for a reason that is known already.
    if !findings.iter().any(|finding| finding.severity == Severity::Error) {
        findings.extend(Connection::open(config, Purpose::Replication, &stop).err().map(unreachable));
    }
    findings
}

/// The shapes of the selected tables, as the stream describes them, or will where the source `begins` and copies them: then a
/// publication of ours lists what mappings read. Gives up at the stop signal.
///
/// # Errors
/// [`CaptureError`] where the server cannot be reached or a table has no usable key.
pub fn table_schemas(
    config: &PostgresConfig,
    begins: bool,
    stop: &StopSignal,
) -> Result<Vec<TableSchema>, CaptureError> {
    let mut connection = Connection::open(config, Purpose::Query, stop)?;
    let Inspection { catalog, publication, .. } = preflight::inspect(&mut connection, config, Intent::Begin)?;
    // A table without a key that appeared later is not read and stops nothing.
    let is_read = |table: &CatalogTable| {
        let is_published = publication.as_ref().is_none_or(|publication| publication.tables.contains_key(&table.id));
        is_published || table.key_fault().is_none()
    };
    let is_free = |table: &CatalogTable| begins && publication.as_ref().is_some_and(|it| it.follows(table));
    let described = |table: &CatalogTable| {
        let relation = describe(table, publication.as_ref().filter(|_| !is_free(table)));
        Ok(catalog.shape(&config.source, &relation)?.schema)
    };
    let mut schemas =
        catalog.tables.iter().filter(|table| is_read(table)).map(described).collect::<Result<Vec<_>, _>>()?;
    schemas.extend(config.messages.iter().map(|_| messages::shape(&config.source).schema.clone()));
    Ok(schemas)
}

/// The selected tables as the stream will describe them.
pub(crate) fn relations<'a>(
    catalog: &'a Catalog,
    publication: Option<&'a Publication>,
) -> impl Iterator<Item = Relation> + 'a {
    catalog.tables.iter().map(move |table| describe(table, publication))
}

fn describe(table: &CatalogTable, publication: Option<&Publication>) -> Relation {
    let published = publication.and_then(|publication| publication.tables.get(&table.id));
    table.as_relation(|column| published.map_or(!column.is_generated, |published| published.holds(column)))
}

/// The DBA's script for what a check found. Its undo also removes the slot, which would otherwise keep the server's log for ever.
#[must_use]
pub fn dba_script(config: &PostgresConfig, findings: &[Finding]) -> Script {
    let place = format!("run as a superuser in the database {}", config.database);
    let mut script = Script::of(&config.source, &place, findings);
    script.undo.push_str(&format!(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = {};\n",
        quote_literal(&config.slot)
    ));
    let publication = format!("DROP PUBLICATION IF EXISTS {};\n", quote_identifier(&config.publication));
    if !script.undo.contains(&publication) {
        script.undo.push_str(&publication);
    }
    script
}
