//! The tables of the database and how they are published, from rows of the catalog alone: no lock on a table holds them up.

use std::collections::{HashMap, HashSet};

use syncline_schemas::ident::TableId;

use super::catalog::Catalog;
use super::config::PostgresConfig;
use super::scope::{DURING, Leaf, ReadTable, hash};
use super::wire::{Connection, Row, quote_literal};
use crate::CaptureError;

/// A table of the database, read or not.
pub(super) struct Candidate {
    pub(super) table: ReadTable,
    pub(super) is_selected: bool,
    pub(super) is_published: bool,
}

/// All tables of the database. Only rows of the catalog are read, none of which a lock on a table holds up.
pub(super) fn load(
    connection: &mut Connection,
    catalog: &Catalog,
    config: &PostgresConfig,
) -> Result<Vec<Candidate>, CaptureError> {
    let (details, of_schema) = if catalog.server_version() >= 150_000 {
        let of_schema = "LEFT JOIN pg_catalog.pg_publication_namespace s ON s.pnpubid = p.oid AND s.pnnspid = n.oid";
        ("s.oid, r.prqual::text, r.prattrs::text", of_schema)
    } else {
        ("NULL, NULL, NULL", "")
    };
    let rows = connection.query(
        DURING,
        &format!(
            "SELECT c.oid, n.nspname, c.relname, p.puballtables, r.oid, {details} \
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             JOIN pg_catalog.pg_publication p ON p.pubname = {} \
             LEFT JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = c.oid {of_schema} \
             WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p' ORDER BY c.oid",
            quote_literal(&config.publication)
        ),
    )?;
    let candidates: Option<Vec<_>> = rows.iter().map(|row| candidate(row, catalog, config)).collect();
    let mut candidates =
        candidates.ok_or_else(|| connection.protocol(DURING, "pg_class holds a number that is none"))?;
    load_leaves(connection, catalog, &mut candidates)?;
    Ok(candidates)
}

fn candidate(row: &Row, catalog: &Catalog, config: &PostgresConfig) -> Option<Candidate> {
    let oid = row.parsed(0)?;
    let id = TableId::new(row.text(1), row.text(2));
    let key = catalog.table(oid).map(|table| catalog.key(&config.source, table)).unwrap_or_default();
    let terms: Vec<&str> = (3..8).map(|i| row.text(i)).chain([key.as_str()]).collect();
    Some(Candidate {
        is_selected: config.tables.matches(&id),
        is_published: row.is_true(3) || row.get(4).is_some() || row.get(5).is_some(),
        table: ReadTable { oid, id, terms: hash(&terms.join("\0")), key, leaves: None, is_doubted: false },
    })
}

/// The partitions of the selected tables. One that was created as such is as old as its place among them; where both are of one
/// transaction, attaching is the command that wrote its columns anew.
fn load_leaves(
    connection: &mut Connection,
    catalog: &Catalog,
    candidates: &mut [Candidate],
) -> Result<(), CaptureError> {
    let roots: Vec<String> = catalog.partitioned().map(|oid| oid.to_string()).collect();
    if roots.is_empty() {
        return Ok(());
    }
    let rows = connection.query(
        DURING,
        &format!(
            "WITH RECURSIVE tree(root, oid, attached, links) AS (\
               SELECT c.oid, c.oid, false, '' FROM pg_catalog.pg_class c WHERE c.oid IN ({}) UNION ALL \
               SELECT t.root, i.inhrelid, t.attached OR i.xmin IS DISTINCT FROM a.xmin OR EXISTS (\
                 SELECT FROM pg_catalog.pg_attribute b \
                 WHERE b.attrelid = i.inhrelid AND b.attnum > 0 AND b.xmin = i.xmin AND b.cmin = i.cmin), \
               t.links || ' ' || i.xmin \
               FROM tree t JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid \
               LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = i.inhrelid AND a.attnum = -1) \
             SELECT t.root, t.oid, t.attached, t.links, c.relfilenode FROM tree t JOIN pg_catalog.pg_class c ON c.oid = t.oid \
             WHERE c.relkind <> 'p' ORDER BY t.oid",
            roots.join(", ")
        ),
    )?;
    let partitioned: HashSet<u32> = catalog.partitioned().collect();
    let partitioned = candidates.iter_mut().filter(|candidate| partitioned.contains(&candidate.table.oid));
    let mut leaves: HashMap<u32, &mut Vec<Leaf>> =
        partitioned.map(|it| (it.table.oid, it.table.leaves.insert(Vec::new()))).collect();
    for row in &rows {
        let (Some(root), Some(oid)) = (row.parsed(0), row.parsed(1)) else {
            return Err(connection.protocol(DURING, "pg_inherits holds a number that is none"));
        };
        if let Some(leaves) = leaves.get_mut(&root) {
            let (links, file) = (row.text(3).to_owned(), row.text(4).to_owned());
            leaves.push(Leaf { oid, was_attached: row.is_true(2), links, file });
        }
    }
    Ok(())
}
