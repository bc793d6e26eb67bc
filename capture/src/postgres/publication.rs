//! The publication as the server shows it: which tables it holds, and what of them.

use std::collections::HashMap;

use syncline_schemas::ident::TableId;

use super::catalog::{CatalogColumn, CatalogTable};
use super::config::{Columns, PostgresConfig};
use super::wire::{Connection, Row, quote_identifier, quote_literal};
use crate::CaptureError;

/// The comment on a publication that a reader made: what is in it is nobody else's wish, nor another reader's.
pub(crate) fn kept_for(slot: &str) -> String {
    format!("kept by Syncline for the slot {slot}")
}

/// A publication as found.
#[derive(Debug)]
pub(crate) struct Publication {
    /// Of the four kinds of change, those that it leaves out.
    pub(crate) left_out: Vec<&'static str>,
    /// And those that it holds.
    pub(crate) published: Vec<&'static str>,
    pub(crate) via_root: bool,
    /// The role owns it, and may add tables that it owns as well.
    pub(crate) is_owned: bool,
    /// The reader of this slot made it, table by table, and says what it holds of them.
    pub(crate) is_kept: bool,
    /// Published columns and row filter by table; no columns listed before PostgreSQL 15, where all are.
    pub(crate) tables: HashMap<TableId, PublishedTable>,
}

/// What of a table is published.
#[derive(Debug)]
pub(crate) struct PublishedTable {
    columns: Option<Vec<String>>,
    /// These are listed; else columns that come are published, too.
    is_listed: bool,
    with_generated: bool,
    pub(crate) row_filter: Option<String>,
}

impl PublishedTable {
    /// Whether the stream holds the column. Generated columns only when listed, which needs PostgreSQL 18.
    pub(crate) fn holds(&self, column: &CatalogColumn) -> bool {
        let listed = self.columns.as_ref().is_none_or(|columns| columns.contains(&column.name));
        listed && (self.with_generated || !column.is_generated)
    }
}

/// What of a table the reader publishes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Whatever it has, now and later.
    Whole,
    /// These columns, in the order of the table.
    Listed(Vec<String>),
}

impl Wanted {
    /// Columns are listed where that is asked for and the server can, and where no update can fail at the source because its
    /// identity is not published: a full one is all columns, each partition has one of its own, and computed columns are never
    /// published unless somebody lists them.
    pub(crate) fn of(table: &CatalogTable, config: &PostgresConfig, server_version: u32) -> Self {
        let is_key = |column: &CatalogColumn| table.key.contains(&column.name);
        let can_list = server_version >= 150_000
            && table.key_fault().is_none()
            && table.replica_identity != b'f'
            && !table.is_partitioned
            && !table.columns.iter().any(|column| is_key(column) && column.is_generated);
        if config.columns == Columns::All || !can_list {
            return Self::Whole;
        }
        let is_wanted = |column: &&CatalogColumn| {
            is_key(column) || (!column.is_generated && config.mapped.reads_column(&table.id, &column.name))
        };
        let listed: Vec<String> = table.columns.iter().filter(is_wanted).map(|column| column.name.clone()).collect();
        let is_whole = table.columns.iter().all(|column| column.is_generated || listed.contains(&column.name));
        if is_whole { Self::Whole } else { Self::Listed(listed) }
    }

    /// A table without those that inherit from it, which are tables of their own, as a publication lists it.
    pub(crate) fn sql(&self, table: &CatalogTable) -> String {
        let columns = match self {
            Self::Whole => String::new(),
            Self::Listed(columns) => {
                let columns: Vec<String> = columns.iter().map(|column| quote_identifier(column)).collect();
                format!(" ({})", columns.join(", "))
            }
        };
        format!("ONLY {}{columns}", table.quoted())
    }
}

impl Publication {
    /// True where it is ours to say what of a table it holds.
    pub(crate) fn follows(&self, table: &CatalogTable) -> bool {
        let published = self.tables.get(&table.id);
        self.is_kept && table.is_owned && published.is_some_and(|published| published.row_filter.is_none())
    }

    /// True where it holds more or less of a table than is wanted.
    pub(crate) fn differs(&self, table: &CatalogTable, wanted: &Wanted) -> bool {
        self.tables.get(&table.id).is_some_and(|published| match wanted {
            Wanted::Whole => published.is_listed,
            Wanted::Listed(listed) => {
                let is_listed = |column: &CatalogColumn| listed.contains(&column.name);
                !published.is_listed || table.columns.iter().any(|it| published.holds(it) != is_listed(it))
            }
        })
    }

    /// True where a table is to be put into it that is not there: one with a key, which the role owns, as it does the publication,
    /// and which it publishes under its own name. Partitions have a key of their own only by the primary key of their table.
    pub(crate) fn takes(&self, table: &CatalogTable) -> bool {
        let is_whole = self.via_root || !table.is_partitioned;
        self.is_owned
            && table.is_owned
            && is_whole
            && (table.has_primary_key || !table.is_partitioned)
            && !self.tables.contains_key(&table.id)
            && table.key_fault().is_none()
    }

    /// Reads a publication, if it exists.
    pub(crate) fn load(
        connection: &mut Connection,
        config: &PostgresConfig,
        server_version: u32,
    ) -> Result<Option<Self>, CaptureError> {
        const DURING: &str = "reading the publication";
        let name = quote_literal(&config.publication);
        let rows = connection.query(
            DURING,
            &format!(
                "SELECT pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot, \
                 pg_catalog.pg_has_role(pubowner, 'USAGE'), \
                 NOT puballtables AND pg_catalog.obj_description(oid, 'pg_publication') = {} \
                 FROM pg_catalog.pg_publication WHERE pubname = {name}",
                quote_literal(&kept_for(&config.slot))
            ),
        )?;
        let Some(row) = rows.first() else { return Ok(None) };
        let kinds = ["insert", "update", "delete", "truncate"];
        let by_flag = |wanted: bool| {
            kinds.into_iter().enumerate().filter(|(i, _)| row.is_true(*i) == wanted).map(|(_, kind)| kind).collect()
        };
        let (left_out, published) = (by_flag(false), by_flag(true));
        // The view gives all columns where none are listed.
        let details = if server_version >= 150_000 {
            "pg_catalog.array_to_string(t.attnames, E'\\x01'), t.rowfilter, r.prattrs IS NOT NULL, r.prrelid IS NULL"
        } else {
            "NULL, NULL, false, r.prrelid IS NULL"
        };
        let tables = connection.query(
            DURING,
            &format!(
                "SELECT t.schemaname, t.tablename, {details} FROM pg_catalog.pg_publication_tables t \
                 JOIN pg_catalog.pg_publication p ON p.pubname = t.pubname \
                 LEFT JOIN (pg_catalog.pg_publication_rel r \
                     JOIN pg_catalog.pg_class c ON c.oid = r.prrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace) \
                   ON r.prpubid = p.oid AND n.nspname = t.schemaname AND c.relname = t.tablename \
                 WHERE t.pubname = {name}"
            ),
        )?;
        let table = |row: &Row| {
            let columns = row.get(2).map(|names| names.split('\u{1}').map(str::to_owned).collect());
            let with_generated = server_version >= 180_000;
            let (row_filter, is_listed) = (row.get(3).map(str::to_owned), row.is_true(4));
            let table = PublishedTable { columns, is_listed, with_generated, row_filter };
            (TableId::new(row.text(0), row.text(1)), table)
        };
        let (via_root, is_owned) = (row.is_true(4), row.is_true(5));
        // Of a schema that somebody added no table can be taken out, or have its columns listed.
        let is_kept = is_owned && row.is_true(6) && tables.iter().all(|table| !table.is_true(5));
        let tables = tables.iter().map(table).collect();
        Ok(Some(Self { left_out, published, via_root, is_owned, is_kept, tables }))
    }
}
