//! The publication as the server shows it: which tables it holds, and what of them.

use std::collections::HashMap;

use syncline_schemas::ident::TableId;

use super::catalog::{CatalogColumn, CatalogTable};
use super::wire::{Connection, Row, quote_literal};
use crate::CaptureError;

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
    /// Published columns and row filter by table; no columns listed before PostgreSQL 15, where all are.
    pub(crate) tables: HashMap<TableId, PublishedTable>,
}

/// What of a table is published.
#[derive(Debug)]
pub(crate) struct PublishedTable {
    columns: Option<Vec<String>>,
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

impl Publication {
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
        name: &str,
        server_version: u32,
    ) -> Result<Option<Self>, CaptureError> {
        const DURING: &str = "reading the publication";
        let name = quote_literal(name);
        let rows = connection.query(
            DURING,
            &format!(
                "SELECT pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot, \
                 pg_catalog.pg_has_role(pubowner, 'USAGE') FROM pg_catalog.pg_publication WHERE pubname = {name}"
            ),
        )?;
        let Some(row) = rows.first() else { return Ok(None) };
        let kinds = ["insert", "update", "delete", "truncate"];
        let by_flag = |wanted: bool| {
            kinds.into_iter().enumerate().filter(|(i, _)| row.is_true(*i) == wanted).map(|(_, kind)| kind).collect()
        };
        let (left_out, published) = (by_flag(false), by_flag(true));
        // A column list is only told apart from "all columns" by its content, which is what counts.
        let details = if server_version >= 150_000 {
            "pg_catalog.array_to_string(attnames, E'\\x01'), rowfilter"
        } else {
            "NULL, NULL"
        };
        let tables = connection.query(
            DURING,
            &format!(
                "SELECT schemaname, tablename, {details} \
                 FROM pg_catalog.pg_publication_tables WHERE pubname = {name}"
            ),
        )?;
        let table = |row: &Row| {
            let columns = row.get(2).map(|names| names.split('\u{1}').map(str::to_owned).collect());
            let with_generated = server_version >= 180_000;
            let table = PublishedTable { columns, with_generated, row_filter: row.get(3).map(str::to_owned) };
            (TableId::new(row.text(0), row.text(1)), table)
        };
        let tables = tables.iter().map(table).collect();
        Ok(Some(Self { left_out, published, via_root: row.is_true(4), is_owned: row.is_true(5), tables }))
    }
}
