//! What must hold before a source can be read, found out without changing anything.
//!
//! `check` shows the findings; a reader's session starts with the same inspection and refuses to go on while one of
//! them is an error. One code path, so that a check that passes is worth something.

use syncline_schemas::ident::TableId;

use super::catalog::{Catalog, CatalogTable};
use super::config::{Columns, LogGap, PostgresConfig, SnapshotMode};
use super::finding::{COPY_AGAIN, Finding, Remedy, Severity};
use super::lsn::Lsn;
use super::mark::Mark;
use super::publication::Publication;
use super::publish;
use super::scope::{self, Scope};
use super::wire::{Connection, quote_identifier, quote_literal};
use crate::CaptureError;

const DURING: &str = "checking the server";
const RESTART: &str = "then restart the server";

/// A slot as found.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    plugin: String,
    database: String,
    wal_status: String,
    active_pid: Option<i32>,
    pub(crate) confirmed: Lsn,
}

impl Slot {
    /// True before it has a position: whoever makes it waits for the transactions that are open, or gave up waiting.
    pub(crate) fn is_being_made(&self) -> bool {
        self.confirmed == Lsn::default() && !self.is_lost()
    }

    /// True where the server has removed log that it still needed.
    pub(crate) fn is_lost(&self) -> bool {
        self.wal_status == "lost"
    }
}

/// The server as found.
pub(crate) struct Inspection {
    pub(crate) findings: Vec<Finding>,
    pub(crate) catalog: Catalog,
    pub(crate) publication: Option<Publication>,
    pub(crate) slot: Option<Slot>,
    /// What will be read; nothing where there is no publication yet.
    pub(crate) scope: Scope,
}

/// What a session wants of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intent<'a> {
    /// Begin: with a copy of the tables, where configured.
    Begin,
    /// Begin again with the copy, because the last one was not finished.
    BeginAgain,
    /// Go on behind what the journal holds, of the tables that it holds.
    Continue(&'a Mark),
    /// The same over a gap of the log, with all tables read anew.
    Mend(&'a Mark),
}

struct Settings {
    version: u32,
    wal_level: String,
    slots: (u32, u32),
    senders: (u32, u32),
    can_replicate: bool,
    can_create: bool,
    in_recovery: bool,
}

/// Looks at everything that reading the source depends on.
pub(crate) fn inspect(
    connection: &mut Connection,
    config: &PostgresConfig,
    intent: Intent<'_>,
) -> Result<Inspection, CaptureError> {
    let settings = load_settings(connection)?;
    if settings.in_recovery {
        return Err(CaptureError::Standby { source_id: config.source.clone(), address: config.address() });
    }
    let catalog = Catalog::load(connection, config, settings.version)?;
    let publication = Publication::load(connection, config, settings.version)?;
    let slot = load_slot(connection, &config.slot)?;
    let copies = match intent {
        Intent::BeginAgain | Intent::Mend(_) => true,
        Intent::Begin => config.snapshot == SnapshotMode::Initial,
        Intent::Continue(_) => false,
    };

    let mut report = Report { findings: Vec::new() };
    report.server(config, &settings);
    if intent == Intent::Begin {
        // Later the last session may not be gone yet and still count; the server itself says when there is no room.
        report.headroom("max_replication_slots", settings.slots, u32::from(slot.is_none()));
        report.headroom("max_wal_senders", settings.senders, 1);
    }
    report.slot(config, slot.as_ref(), intent, copies);
    let held = match intent {
        Intent::Continue(held) | Intent::Mend(held) => Some(held),
        Intent::Begin | Intent::BeginAgain => None,
    };
    let (scope, findings) = scope::compare(connection, &catalog, config, held, None)?;
    report.findings.extend(findings);
    // Of a source that runs only the tables count that it reads: what else appears in the database must not stop it.
    let judged = catalog.tables.iter().filter(|table| held.is_none() || scope.table(table.oid).is_some());
    let judged: Vec<&CatalogTable> = judged.collect();
    report.selection(config, &catalog.tables);
    report.tables(config, &judged, copies);
    match &publication {
        Some(publication) => report.publication(config, publication, settings.version, &judged),
        // That it is gone has been found.
        None if held.is_some() => {}
        None => report.missing_publication(config, &settings, &catalog),
    }
    if intent == Intent::Begin {
        report.partitions(config, &judged);
    }
    Ok(Inspection { findings: report.findings, catalog, publication, slot, scope })
}

struct Report {
    findings: Vec<Finding>,
}

impl Report {
    fn add(&mut self, severity: Severity, object: String, message: impl Into<String>, remedy: Remedy) {
        self.findings.push(Finding { severity, object, message: message.into(), remedy });
    }

    fn error(&mut self, object: String, message: impl Into<String>, remedy: Remedy) {
        self.add(Severity::Error, object, message, remedy);
    }

    fn info(&mut self, object: String, message: impl Into<String>) {
        self.add(Severity::Info, object, message, Remedy::None);
    }

    fn server(&mut self, config: &PostgresConfig, settings: &Settings) {
        if settings.wal_level != "logical" {
            let message = format!("is {:?}, logical replication needs \"logical\"", settings.wal_level);
            self.error(
                "server setting wal_level".to_owned(),
                message,
                Remedy::Sql {
                    apply: "ALTER SYSTEM SET wal_level = 'logical';".to_owned(),
                    undo: "ALTER SYSTEM RESET wal_level;".to_owned(),
                    then: RESTART,
                },
            );
        }
        if settings.version < 140_000 {
            let message = format!("is {}, the oldest supported is 14", settings.version / 10_000);
            let remedy = Remedy::advice("plan an upgrade");
            self.add(Severity::Warning, "server version".to_owned(), message, remedy);
        }
        if !settings.can_replicate {
            let role = quote_identifier(&config.user);
            self.error(
                format!("role {}", config.user),
                "has no REPLICATION right",
                Remedy::sql(format!("ALTER ROLE {role} REPLICATION;"), format!("ALTER ROLE {role} NOREPLICATION;")),
            );
        }
    }

    fn headroom(&mut self, setting: &str, (used, allowed): (u32, u32), wanted: u32) {
        if used + wanted > allowed {
            self.error(
                format!("server setting {setting}"),
                format!("allows {allowed}, {used} are in use and {wanted} more are needed"),
                Remedy::Sql {
                    apply: format!("ALTER SYSTEM SET {setting} = {};", allowed + wanted.max(4)),
                    undo: format!("ALTER SYSTEM SET {setting} = {allowed};"),
                    then: RESTART,
                },
            );
        }
    }

    fn slot(&mut self, config: &PostgresConfig, slot: Option<&Slot>, intent: Intent<'_>, copies: bool) {
        let object = format!("slot {}", config.slot);
        let is_held = matches!(intent, Intent::Continue(_) | Intent::Mend(_));
        let Some(slot) = slot else {
            if is_held && !config.closes_gaps() {
                let message = "is gone, so changes after the journal's position are lost to it";
                return self.error(object, message, Remedy::advice(COPY_AGAIN));
            }
            return self.info(object, "will be created");
        };
        // Where a gap is to stop the source, the operator decides, unless he has asked for a copy from the beginning.
        let is_remade = if is_held {
            config.closes_gaps()
        } else {
            copies && (intent == Intent::BeginAgain || config.log_gap == LogGap::Repair)
        };
        let another_name = Remedy::advice("configure another slot name");
        if slot.plugin != "pgoutput" {
            let message = format!("belongs to the plugin {:?}, not pgoutput", slot.plugin);
            self.error(object, message, another_name);
        } else if slot.database != config.database {
            let message = format!("belongs to the database {:?}, not {:?}", slot.database, config.database);
            self.error(object, message, another_name);
        } else if slot.is_lost() && is_remade {
            self.info(object, "was invalidated and will be made again");
        } else if slot.is_lost() {
            let remedy = format!(
                "drop it with SELECT pg_drop_replication_slot({}); then {COPY_AGAIN}",
                quote_literal(&config.slot)
            );
            let message = "was invalidated: the server removed log that it still needed";
            self.error(object, message, Remedy::Advice(remedy));
        } else if let Some(pid) = slot.active_pid {
            self.info(object, format!("exists and is being read by the server process {pid}"));
        } else {
            self.info(object, format!("exists, confirmed up to {}", slot.confirmed));
        }
    }

    fn selection(&mut self, config: &PostgresConfig, tables: &[CatalogTable]) {
        let ids: Vec<TableId> = tables.iter().map(|table| table.id.clone()).collect();
        for pattern in config.tables.missing(&ids) {
            self.error(
                format!("table {pattern}"),
                format!("does not exist in the database {}", config.database),
                Remedy::advice("correct the name in tables (case counts), or remove it"),
            );
        }
        if tables.is_empty() {
            self.error(
                format!("database {}", config.database),
                format!("has no table that tables = {} selects", config.tables),
                Remedy::advice("correct the patterns in tables, as in \"public.*\""),
            );
        }
    }

    fn tables(&mut self, config: &PostgresConfig, tables: &[&CatalogTable], copies: bool) {
        for table in tables {
            if let Some((message, remedy)) = table.key_fault() {
                self.error(format!("table {}", table.id), message, remedy);
            } else if table.is_multiset() {
                self.multiset(config, table);
            }
            if copies && !table.is_readable {
                let (role, name) = (quote_identifier(&config.user), table.quoted());
                let schema = quote_identifier(&table.id.schema);
                self.error(
                    format!("table {}", table.id),
                    format!("cannot be read by the role {}", config.user),
                    Remedy::sql(
                        format!("GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT SELECT ON {name} TO {role};"),
                        format!("REVOKE SELECT ON {name} FROM {role}; REVOKE USAGE ON SCHEMA {schema} FROM {role};"),
                    ),
                );
            }
        }
    }

    fn multiset(&mut self, config: &PostgresConfig, table: &CatalogTable) {
        let object = format!("table {}", table.id);
        if config.snapshot == SnapshotMode::Initial {
            let message = "has no key: a row is known by all its values, as REPLICA IDENTITY FULL brings them along, and equal \
                           rows are counted";
            return self.info(object, message);
        }
        let advice = format!(
            "set snapshot = \"initial\"; or name the columns that tell its rows apart under keys; or exclude it with \"!{}\" in tables",
            table.id
        );
        let message = "has no key, and with snapshot = \"never\" nobody knows how many equal rows there are";
        self.error(object, message, Remedy::Advice(advice));
    }

    fn publication(
        &mut self,
        config: &PostgresConfig,
        publication: &Publication,
        version: u32,
        tables: &[&CatalogTable],
    ) {
        let object = format!("publication {}", config.publication);
        let name = quote_identifier(&config.publication);
        let set = |option: &str, old: &str| {
            Remedy::sql(
                format!("ALTER PUBLICATION {name} SET ({option});"),
                format!("ALTER PUBLICATION {name} SET ({old});"),
            )
        };
        if !publication.left_out.is_empty() {
            let message = format!("leaves out {}", publication.left_out.join(", "));
            let kept = format!("publish = '{}'", publication.published.join(", "));
            self.error(object.clone(), message, set("publish = 'insert, update, delete, truncate'", &kept));
        }
        if !publication.via_root && tables.iter().any(|table| table.is_partitioned) {
            let message = "publishes partitions under their own names";
            let option = "publish_via_partition_root";
            self.error(object, message, set(&format!("{option} = true"), &format!("{option} = false")));
        }
        if config.columns == Columns::Mapped && !publication.is_kept {
            let message = "was not made for this slot by Syncline: its columns are read as it lists them, whatever `columns` says";
            let advice = "have it list what mappings read, or drop it and run `syncline replay --reread`";
            let object = format!("publication {}", config.publication);
            self.add(Severity::Warning, object, message, Remedy::Advice(advice.to_owned()));
        }
        for table in tables.iter().filter(|table| !publication.tables.contains_key(&table.id)) {
            let object = format!("table {}", table.id);
            if publication.takes(table) {
                self.info(object, format!("will be added to the publication {}", config.publication));
                continue;
            }
            self.error(
                object,
                format!("is selected but not in the publication {}", config.publication),
                Remedy::sql(publish::add_table_sql(config, table, version), publish::drop_table_sql(config, table)),
            );
        }
    }

    fn partitions(&mut self, config: &PostgresConfig, tables: &[&CatalogTable]) {
        if config.closes_gaps() {
            return;
        }
        for table in tables.iter().filter(|table| table.is_partitioned) {
            self.add(
                Severity::Warning,
                format!("table {}", table.id),
                "is partitioned: TRUNCATE of a single partition is not in the log",
                Remedy::advice(
                    "empty a partition with DELETE or by dropping it, or have `syncline snapshot` read the table anew afterwards",
                ),
            );
        }
    }

    fn missing_publication(&mut self, config: &PostgresConfig, settings: &Settings, catalog: &Catalog) {
        let tables = &catalog.tables;
        let object = format!("publication {}", config.publication);
        if settings.can_create && tables.iter().all(|table| table.is_owned) {
            return self.info(object, "will be created");
        }
        if tables.is_empty() {
            return;
        }
        self.error(
            object,
            format!(
                "does not exist, and the role {} may not create it: that needs CREATE on the database and ownership of the tables",
                config.user
            ),
            Remedy::sql(
                publish::create_sql(config, catalog),
                format!("DROP PUBLICATION IF EXISTS {};", quote_identifier(&config.publication)),
            ),
        );
    }
}

fn load_settings(connection: &mut Connection) -> Result<Settings, CaptureError> {
    let rows = connection.query(
        DURING,
        "SELECT current_setting('server_version_num'), current_setting('wal_level'), \
         (SELECT count(*) FROM pg_catalog.pg_replication_slots), current_setting('max_replication_slots'), \
         (SELECT count(*) FROM pg_catalog.pg_stat_replication), current_setting('max_wal_senders'), \
         (SELECT rolreplication OR rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) \
         OR EXISTS (SELECT FROM pg_catalog.pg_roles \
                    WHERE rolname = 'rds_replication' AND pg_catalog.pg_has_role(oid, 'MEMBER')), \
         pg_catalog.has_database_privilege(current_database(), 'CREATE'), pg_catalog.pg_is_in_recovery()",
    )?;
    let settings = rows.first().and_then(|row| {
        Some(Settings {
            version: row.parsed(0)?,
            wal_level: row.text(1).to_owned(),
            slots: (row.parsed(2)?, row.parsed(3)?),
            senders: (row.parsed(4)?, row.parsed(5)?),
            can_replicate: row.is_true(6),
            can_create: row.is_true(7),
            in_recovery: row.is_true(8),
        })
    });
    settings.ok_or_else(|| connection.protocol(DURING, "the server's settings have another form"))
}

/// Reads the slot, if it exists.
pub(crate) fn load_slot(connection: &mut Connection, name: &str) -> Result<Option<Slot>, CaptureError> {
    let rows = connection.query(
        DURING,
        &format!(
            "SELECT plugin, database, coalesce(wal_status, ''), active_pid, coalesce(confirmed_flush_lsn, '0/0') \
             FROM pg_catalog.pg_replication_slots WHERE slot_name = {}",
            quote_literal(name)
        ),
    )?;
    Ok(rows.first().map(|row| Slot {
        plugin: row.text(0).to_owned(),
        database: row.text(1).to_owned(),
        wal_status: row.text(2).to_owned(),
        active_pid: row.parsed(3),
        confirmed: row.parsed(4).unwrap_or_default(),
    }))
}
