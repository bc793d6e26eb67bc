//! Making our publication, and keeping it as the configuration wants it.
//!
//! A publication of somebody else is used as found, apart from tables that come, where the role owns both. One that a reader made
//! says in its comment for which slot, and lists columns as `columns` says. Lists are changed only where all tables are copied, and
//! behind that the slot is made anew: the log never holds rows with and without a column, of which nobody could tell which.

use std::time::Duration;

use tracing::{info, warn};

use super::catalog::{Catalog, CatalogTable};
use super::config::{PostgresConfig, SnapshotMode};
use super::preflight::{Inspection, Intent};
use super::publication::{Publication, Wanted, kept_for};
use super::session::Session;
use super::wire::{Connection, quote_identifier, quote_literal};
use crate::CaptureError;

/// What is published is in the server's log before anything that is read of it, also where commits do not wait for the disk.
const FLUSHED: &str = "SET LOCAL synchronous_commit = 'local';";
/// When a table is put into the publication again, after the server refused or somebody was writing to it.
const AGAIN: Duration = Duration::from_secs(60);

/// Makes the publication, or changes what it holds where it is ours; true where the server has to be looked at again.
pub(super) fn publish(
    session: &Session<'_>,
    queries: &mut Connection,
    inspection: &Inspection,
    intent: Intent<'_>,
) -> Result<bool, CaptureError> {
    let Session { config, requests, .. } = session;
    let Inspection { catalog, publication, slot, .. } = inspection;
    let begins = matches!(intent, Intent::Begin | Intent::BeginAgain);
    let copies = config.snapshot == SnapshotMode::Initial || intent == Intent::BeginAgain;
    let changes = publication.as_ref().map(|publication| changes(session, publication, catalog, begins, copies));
    // What the slot holds may lack what is published only now, and all of it is copied. A new one waits for open transactions.
    let is_other = intent == Intent::BeginAgain || changes.as_ref().is_none_or(|it| !it.is_empty());
    let drops = begins && copies && slot.as_ref().is_some_and(|slot| is_other || slot.is_lost());
    if drops {
        let sql = format!("SELECT pg_catalog.pg_drop_replication_slot({})", quote_literal(&config.slot));
        queries.command("dropping the slot", &sql)?;
        info!(source = %config.source, slot = config.slot, "dropped the slot: all tables are copied, behind a new one");
    }
    let Some(changes) = changes else {
        let (name, kept) = (quote_identifier(&config.publication), quote_literal(&kept_for(&config.slot)));
        let sql = format!("{FLUSHED} {} COMMENT ON PUBLICATION {name} IS {kept}", create_sql(config, catalog));
        queries.command("creating the publication", &sql)?;
        info!(source = %config.source, publication = config.publication, "created the publication");
        return Ok(true);
    };
    for (table, change) in &changes {
        match queries.command("changing the publication", &format!("{FLUSHED} {} {change}", lock_sql(table, begins))) {
            Ok(_) => {
                info!(source = %config.source, publication = config.publication, table = %table.id, "put a table into the publication");
            }
            Err(error @ CaptureError::Server { .. }) if !begins => {
                requests.hold_back(table.oid, AGAIN);
                warn!(source = %config.source, publication = config.publication, table = %table.id, %error, "a table is not added to the publication; trying again later");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(drops || !changes.is_empty())
}

/// What is to be changed in a publication, by table.
fn changes<'a>(
    session: &Session<'_>,
    publication: &Publication,
    catalog: &'a Catalog,
    begins: bool,
    copies: bool,
) -> Vec<(&'a CatalogTable, String)> {
    let Session { config, requests, .. } = session;
    // Tables that came are read only where they may be copied. One that nobody has use for may be somebody's scratch paper, and
    // gone tomorrow.
    let may_try =
        |table: &&CatalogTable| begins || copies && config.mapped.reads(&table.id) && requests.may_try(table.oid);
    let change = |table: &'a CatalogTable| {
        let wanted = || match publication.is_kept {
            true => Wanted::of(table, config, catalog.server_version()),
            false => Wanted::Whole,
        };
        if publication.takes(table) {
            Some((table, add_sql(config, table, &wanted())))
        } else if begins && copies && publication.follows(table) && publication.differs(table, &wanted()) {
            let add = add_sql(config, table, &wanted());
            Some((table, format!("{} {add}", drop_table_sql(config, table))))
        } else {
            None
        }
    };
    catalog.tables.iter().filter(may_try).filter_map(change).collect()
}

/// The SQL that creates the publication for the selected tables.
pub(super) fn create_sql(config: &PostgresConfig, catalog: &Catalog) -> String {
    let table = |table| Wanted::of(table, config, catalog.server_version()).sql(table);
    format!(
        "CREATE PUBLICATION {} FOR TABLE {} WITH (publish_via_partition_root = true);",
        quote_identifier(&config.publication),
        catalog.tables.iter().map(table).collect::<Vec<_>>().join(", ")
    )
}

/// The SQL that adds a table to the publication.
pub(super) fn add_table_sql(config: &PostgresConfig, table: &CatalogTable, server_version: u32) -> String {
    add_sql(config, table, &Wanted::of(table, config, server_version))
}

fn add_sql(config: &PostgresConfig, table: &CatalogTable, wanted: &Wanted) -> String {
    format!("ALTER PUBLICATION {} ADD TABLE {};", quote_identifier(&config.publication), wanted.sql(table))
}

/// The SQL that takes one out.
pub(super) fn drop_table_sql(config: &PostgresConfig, table: &CatalogTable) -> String {
    format!("ALTER PUBLICATION {} DROP TABLE ONLY {};", quote_identifier(&config.publication), table.quoted())
}

/// The lock under which a table's entry is changed, in one transaction of the simple protocol: nobody writes to it meanwhile.
///
/// A server without PostgreSQL's commit 4909b38af0 (April 2025, back to 14) does not tell transactions that are open then that
/// the table is published: what those write to it that have written to it before is lost, and perhaps more. Nobody has to wait
/// for us while a source goes on, so we do not wait. Where one begins we do, for longer than the server's `deadlock_timeout`, when
/// it has an autovacuum give way; but never for several partitions at once, where others would wait in a circle with us.
fn lock_sql(table: &CatalogTable, begins: bool) -> String {
    let only = if table.is_partitioned { "" } else { "ONLY " };
    let waits = begins && !table.is_partitioned;
    let (patience, no_wait) = if waits { ("SET LOCAL lock_timeout = '2s'; ", "") } else { ("", " NOWAIT") };
    format!("{patience}LOCK TABLE {only}{} IN SHARE ROW EXCLUSIVE MODE{no_wait};", table.quoted())
}
