//! The tables of a source as the server's catalog describes them now, and the shapes that follow.
//!
//! The stream describes a table by names and type numbers as of the change; what it does not say (the order of the
//! key's columns, which columns may be stored apart, how domains and arrays are made) comes from here. Where the log is
//! older than the catalog, the stream's own description wins and the catalog only fills in.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use syncline_schemas::ident::{SourceId, TableId};
use syncline_schemas::table::{Column, TableSchema};
use xxhash_rust::xxh3::xxh3_64;

use super::config::PostgresConfig;
use super::decode::{Kind, Relation, RelationColumn, Shape};
use super::finding::Remedy;
use super::pattern::TablePatterns;
use super::types::Types;
use super::wire::{Connection, quote_identifier};
use crate::CaptureError;

const DURING: &str = "reading the catalog";

/// A table that the patterns select.
#[derive(Debug, Clone)]
pub(crate) struct CatalogTable {
    pub(crate) id: TableId,
    pub(crate) oid: u32,
    pub(crate) is_partitioned: bool,
    /// `d` default, `n` nothing, `f` full, `i` index.
    pub(crate) replica_identity: u8,
    /// The server's estimate; orders the copy.
    pub(crate) pages: u64,
    /// Whether the role may read it, schema included.
    pub(crate) is_readable: bool,
    /// Whether the role may add it to a publication.
    pub(crate) is_owned: bool,
    pub(crate) columns: Vec<CatalogColumn>,
    /// The key's columns in key order: of the replica identity, or of the primary key where that is full.
    pub(crate) key: Vec<String>,
    /// Whether there is a primary key that a replica identity can use.
    pub(crate) has_primary_key: bool,
    /// Why the key that the operator declares cannot be it, and what would help.
    declared: Option<(String, Remedy)>,
}

/// A column of a [`CatalogTable`].
#[derive(Debug, Clone)]
pub(crate) struct CatalogColumn {
    pub(crate) name: String,
    type_oid: u32,
    type_modifier: i32,
    type_name: String,
    /// Never stored apart from its row.
    is_plain: bool,
    is_not_null: bool,
    pub(crate) is_generated: bool,
}

/// The selected tables of a source.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    pub(crate) tables: Vec<CatalogTable>,
    types: Types,
    /// Names of types that only older log uses.
    type_names: HashMap<(u32, i32), String>,
    server_version: u32,
}

impl Catalog {
    /// Reads the tables that the patterns select. Partitions are read through their root.
    pub(crate) fn load(
        connection: &mut Connection,
        config: &PostgresConfig,
        server_version: u32,
    ) -> Result<Self, CaptureError> {
        let mut tables = load_tables(connection, &config.tables)?;
        if !tables.is_empty() {
            let oids = tables.iter().map(|table| table.oid.to_string()).collect::<Vec<_>>().join(",");
            load_columns(connection, &mut tables, &oids)?;
            load_keys(connection, &mut tables, &oids, &config.keys)?;
        }
        Ok(Self { tables, types: Types::load(connection)?, type_names: HashMap::new(), server_version })
    }

    /// As in `server_version_num`: 150004 is 15.4.
    pub(crate) const fn server_version(&self) -> u32 {
        self.server_version
    }

    /// The table of this number. A name can lead to another table than it did at the log's place.
    pub(crate) fn table(&self, oid: u32) -> Option<&CatalogTable> {
        self.tables.iter().find(|table| table.oid == oid)
    }

    /// The numbers of the partitioned tables.
    pub(crate) fn partitioned(&self) -> impl Iterator<Item = u32> {
        self.tables.iter().filter(|table| table.is_partitioned).map(|table| table.oid)
    }

    /// A table's key as [`Shape::key`] says it; empty where it has none.
    pub(crate) fn key(&self, source: &SourceId, table: &CatalogTable) -> String {
        self.shape(source, &table.as_relation(|_| true)).map(|shape| shape.key()).unwrap_or_default()
    }

    /// True where the stream describes the table as the catalog does.
    pub(crate) fn agrees_with(&self, relation: &Relation) -> bool {
        self.table(relation.id).is_some_and(|table| {
            table.replica_identity == relation.replica_identity
                && relation.columns.iter().all(|column| table.column_like(column).is_some())
        })
    }

    /// Reads a table's key anew.
    pub(crate) fn reload_key(
        &mut self,
        connection: &mut Connection,
        oid: u32,
        declared: &DeclaredKeys,
    ) -> Result<(), CaptureError> {
        let Some(table) = self.tables.iter_mut().find(|table| table.oid == oid) else { return Ok(()) };
        table.key.clear();
        load_keys(connection, std::slice::from_mut(table), &oid.to_string(), declared)
    }

    /// Reads the names of types that the stream uses and no column has any more.
    pub(crate) fn load_type_names(
        &mut self,
        connection: &mut Connection,
        relation: &Relation,
    ) -> Result<(), CaptureError> {
        for RelationColumn { type_oid, type_modifier, .. } in &relation.columns {
            let sql = format!("SELECT pg_catalog.format_type({type_oid}, {type_modifier})");
            let rows = connection.query(DURING, &sql)?;
            let name = rows.first().map(|row| row.text(0).to_owned()).unwrap_or_default();
            self.type_names.insert((*type_oid, *type_modifier), name);
        }
        Ok(())
    }

    /// The shape of a table as the stream describes it.
    pub(crate) fn shape(&self, source: &SourceId, relation: &Relation) -> Result<Shape, CaptureError> {
        let id = TableId::new(&relation.schema, &relation.name);
        let known = self.table(relation.id);
        let keys = key_indexes(source, &id, relation, known)?;
        let mut kinds = Vec::with_capacity(relation.columns.len());
        let mut columns = Vec::with_capacity(relation.columns.len());
        for (i, column) in relation.columns.iter().enumerate() {
            let kind = self.types.kind(column.type_oid, column.type_modifier);
            let key_ordinal = keys.iter().position(|key| *key == i).and_then(|place| u32::try_from(place).ok());
            let like = known.and_then(|table| table.column_like(column));
            let is_plain = like.map_or_else(|| is_fixed_width(kind), |like| like.is_plain);
            let old_name = || self.type_names.get(&(column.type_oid, column.type_modifier)).cloned();
            kinds.push(kind);
            columns.push(Column {
                name: column.name.clone(),
                data_type: kind.data_type(),
                source_type: like.map(|like| like.type_name.clone()).or_else(old_name).unwrap_or_default(),
                key_ordinal,
                can_be_absent: key_ordinal.is_none() && relation.replica_identity != b'f' && !is_plain,
            });
        }
        let version = version(&columns, &kinds);
        Ok(Shape::new(TableSchema { source: source.clone(), table: id, version, columns }, kinds))
    }
}

/// Keys by table, as the operator declares them.
type DeclaredKeys = BTreeMap<TableId, Vec<String>>;

impl CatalogTable {
    /// Takes the operator's word for what tells rows apart. Every change then has to bring these columns along, which only a
    /// full identity sees to, and NULL is equal to nothing.
    fn declare(&mut self, columns: &[String]) {
        let known = |name: &String| self.columns.iter().find(|column| column.name == *name && !column.is_generated);
        let table = self.quoted();
        self.declared = if self.is_partitioned {
            let fault =
                "has its key under keys and is partitioned, and each partition has a replica identity of its own";
            let advice =
                format!("ALTER TABLE {table} ADD PRIMARY KEY (...); or exclude it with \"!{}\" in tables", self.id);
            Some((fault.to_owned(), Remedy::Advice(advice)))
        } else if self.replica_identity != b'f' {
            let fault = "has its key under keys, and does not bring those columns along with every change".to_owned();
            Some((fault, self.full_identity()))
        } else if let Some(name) = columns.iter().find(|name| known(name).is_none()) {
            let advice = Remedy::advice("correct keys in the configuration");
            Some((format!("has no column {name:?}, which keys names"), advice))
        } else if let Some(name) = columns.iter().find(|name| known(name).is_some_and(|column| !column.is_not_null)) {
            let column = quote_identifier(name);
            let fault = format!("has the column {name:?} in its key under keys, which may be NULL");
            Some((fault, Remedy::Advice(format!("ALTER TABLE {table} ALTER COLUMN {column} SET NOT NULL;"))))
        } else {
            None
        };
        self.key = if self.declared.is_none() { columns.to_vec() } else { Vec::new() };
    }

    fn column_like(&self, column: &RelationColumn) -> Option<&CatalogColumn> {
        self.columns.iter().find(|own| {
            own.name == column.name && own.type_oid == column.type_oid && own.type_modifier == column.type_modifier
        })
    }

    /// What its columns are, as the server writes it for a copy that looks whether they still are.
    pub(crate) fn signature(&self) -> String {
        let column = |column: &CatalogColumn| format!("{} {} {}", column.name, column.type_oid, column.type_modifier);
        self.columns.iter().map(column).collect::<Vec<_>>().join(", ")
    }

    /// The table as SQL names it.
    pub(crate) fn quoted(&self) -> String {
        format!("{}.{}", quote_identifier(&self.id.schema), quote_identifier(&self.id.name))
    }

    /// Whether it has no key and is read nevertheless: each change brings all that its row said, and equal rows are counted.
    pub(crate) fn is_multiset(&self) -> bool {
        self.key.is_empty() && self.key_fault().is_none()
    }

    /// What keeps the table from being read, with the remedy.
    pub(crate) fn key_fault(&self) -> Option<(String, Remedy)> {
        if let Some(fault) = &self.declared {
            return Some(fault.clone());
        }
        let table = self.quoted();
        let partitioned = "has no primary key and is partitioned, and each partition has a replica identity of its own";
        let fault = match self.replica_identity {
            _ if !self.key.is_empty() => return None,
            _ if self.is_partitioned && !self.has_primary_key => partitioned,
            b'f' => return None,
            b'n' => "has REPLICA IDENTITY NOTHING, so updates and deletes cannot be followed",
            _ => "has no primary key, so updates and deletes cannot be followed",
        };
        let remedy = if self.has_primary_key {
            Remedy::Advice(format!("ALTER TABLE {table} REPLICA IDENTITY DEFAULT;"))
        } else if self.is_partitioned {
            let id = &self.id;
            Remedy::Advice(format!("ALTER TABLE {table} ADD PRIMARY KEY (...); or exclude it with \"!{id}\" in tables"))
        } else {
            self.full_identity()
        };
        Some((fault.to_owned(), remedy))
    }

    /// Has every change bring all that its row said.
    fn full_identity(&self) -> Remedy {
        let (table, now) = (self.quoted(), if self.replica_identity == b'n' { "NOTHING" } else { "DEFAULT" });
        let set = |identity: &str| format!("ALTER TABLE {table} REPLICA IDENTITY {identity};");
        let then =
            "or give it a primary key, or REPLICA IDENTITY USING INDEX <unique index over columns that are NOT NULL>";
        Remedy::Sql { apply: set("FULL"), undo: set(now), then }
    }

    /// The table as the stream would describe it, restricted to published columns.
    pub(crate) fn as_relation(&self, published: impl Fn(&CatalogColumn) -> bool) -> Relation {
        let columns = self.columns.iter().filter(|column| published(column)).map(|column| RelationColumn {
            name: column.name.clone(),
            is_key: self.replica_identity == b'f' || self.key.contains(&column.name),
            type_oid: column.type_oid,
            type_modifier: column.type_modifier,
        });
        Relation {
            id: self.oid,
            schema: self.id.schema.to_string(),
            name: self.id.name.to_string(),
            replica_identity: self.replica_identity,
            columns: columns.collect(),
        }
    }
}

const fn is_fixed_width(kind: Kind) -> bool {
    match kind {
        Kind::Bool | Kind::Int2 | Kind::Int4 | Kind::Int8 | Kind::Float4 | Kind::Float8 | Kind::Uuid => true,
        Kind::Date | Kind::Time | Kind::Timestamp | Kind::TimestampTz => true,
        Kind::Decimal { .. } | Kind::Numeric | Kind::Text | Kind::Written | Kind::Jsonb => false,
        Kind::Bytea | Kind::Array { .. } => false,
    }
}

/// The key's columns in key order: the stream says which, the catalog in which order.
fn key_indexes(
    source: &SourceId,
    id: &TableId,
    relation: &Relation,
    known: Option<&CatalogTable>,
) -> Result<Vec<usize>, CaptureError> {
    let flagged = |i: &usize| relation.columns[*i].is_key;
    let flagged: Vec<usize> = (0..relation.columns.len()).filter(flagged).collect();
    let ordered: Option<Vec<usize>> = known.and_then(|table| {
        let place = |name: &String| relation.columns.iter().position(|column| column.name == *name);
        table.key.iter().map(place).collect()
    });
    let keys = match ordered {
        // With a full identity every column is flagged, and the key is the primary key.
        Some(ordered) if relation.replica_identity == b'f' => ordered,
        Some(ordered) if ordered.len() == flagged.len() && ordered.iter().all(|i| flagged.contains(i)) => ordered,
        _ if relation.replica_identity != b'f' => flagged,
        _ => Vec::new(),
    };
    if keys.is_empty() && !known.is_some_and(CatalogTable::is_multiset) {
        let (reason, remedy) = known.and_then(CatalogTable::key_fault).unwrap_or_else(|| {
            let remedy = Remedy::Advice(format!("exclude it with \"!{id}\" in tables"));
            ("had no primary key or replica identity at this place of the log".to_owned(), remedy)
        });
        let (object, remedy) = (format!("table {id}"), remedy.to_string());
        return Err(CaptureError::Unfit { source_id: source.clone(), object, reason, remedy });
    }
    Ok(keys)
}

/// A number that follows from the shape alone: equal shapes have equal versions in every session, so the reader needs
/// no memory of earlier ones.
fn version(columns: &[Column], kinds: &[Kind]) -> u32 {
    let mut text = String::new();
    for (column, kind) in columns.iter().zip(kinds) {
        let Column { name, source_type, key_ordinal, can_be_absent, .. } = column;
        let written =
            write!(text, "{}:{name}\0{kind:?}\0{source_type}\0{key_ordinal:?}\0{can_be_absent}\0", name.len());
        written.expect("a String takes every text");
    }
    let hash = xxh3_64(text.as_bytes());
    u32::try_from(hash >> 32).expect("32 bits are left").max(1)
}

fn load_tables(connection: &mut Connection, patterns: &TablePatterns) -> Result<Vec<CatalogTable>, CaptureError> {
    let rows = connection.query(
        DURING,
        "SELECT c.oid, n.nspname, c.relname, c.relkind = 'p', ascii(c.relreplident::text), c.relpages, \
         pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND (pg_catalog.has_table_privilege(c.oid, 'SELECT')), \
         pg_catalog.pg_has_role(c.relowner, 'USAGE') \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p' \
         ORDER BY n.nspname, c.relname",
    )?;
    let table = |row: &super::wire::Row| {
        let id = TableId::new(row.text(1), row.text(2));
        patterns.matches(&id).then(|| {
            Some(CatalogTable {
                id,
                oid: row.parsed(0)?,
                is_partitioned: row.is_true(3),
                replica_identity: row.parsed(4)?,
                pages: row.parsed::<i64>(5)?.unsigned_abs(),
                is_readable: row.is_true(6),
                is_owned: row.is_true(7),
                columns: Vec::new(),
                key: Vec::new(),
                has_primary_key: false,
                declared: None,
            })
        })
    };
    let tables: Option<Vec<_>> = rows.iter().filter_map(table).collect();
    tables.ok_or_else(|| connection.protocol(DURING, "pg_class holds a number that is none"))
}

fn load_columns(connection: &mut Connection, tables: &mut [CatalogTable], oids: &str) -> Result<(), CaptureError> {
    let rows = connection.query(
        DURING,
        &format!(
            "SELECT a.attrelid, a.attname, a.atttypid, a.atttypmod, \
             pg_catalog.format_type(a.atttypid, a.atttypmod), a.attstorage = 'p', a.attgenerated <> '', a.attnotnull \
             FROM pg_catalog.pg_attribute a \
             WHERE a.attrelid IN ({oids}) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attrelid, a.attnum"
        ),
    )?;
    let mut by_oid: HashMap<u32, &mut CatalogTable> = tables.iter_mut().map(|table| (table.oid, table)).collect();
    for row in &rows {
        let parts = (row.parsed::<u32>(0), row.parsed(2), row.parsed(3));
        let (Some(oid), Some(type_oid), Some(type_modifier)) = parts else {
            return Err(connection.protocol(DURING, "pg_attribute holds a number that is none"));
        };
        if let Some(table) = by_oid.get_mut(&oid) {
            table.columns.push(CatalogColumn {
                name: row.text(1).to_owned(),
                type_oid,
                type_modifier,
                type_name: row.text(4).to_owned(),
                is_plain: row.is_true(5),
                is_generated: row.is_true(6),
                is_not_null: row.is_true(7),
            });
        }
    }
    Ok(())
}

/// A deferrable primary key is none for replication, hence `indimmediate`.
fn load_keys(
    connection: &mut Connection,
    tables: &mut [CatalogTable],
    oids: &str,
    declared: &DeclaredKeys,
) -> Result<(), CaptureError> {
    let rows = connection.query(
        DURING,
        &format!(
            "SELECT i.indrelid, a.attname, i.indisprimary, i.indisreplident FROM pg_catalog.pg_index i \
             CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, place) \
             JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum \
             WHERE i.indrelid IN ({oids}) AND i.indisvalid AND i.indimmediate AND (i.indisprimary OR i.indisreplident) \
             AND k.place <= i.indnkeyatts ORDER BY i.indrelid, k.place"
        ),
    )?;
    let mut by_oid: HashMap<u32, &mut CatalogTable> = tables.iter_mut().map(|table| (table.oid, table)).collect();
    for row in &rows {
        let Some(table) = row.parsed::<u32>(0).and_then(|oid| by_oid.get_mut(&oid)) else { continue };
        let (is_primary, is_identity) = (row.is_true(2), row.is_true(3));
        table.has_primary_key |= is_primary;
        let belongs = match table.replica_identity {
            b'd' | b'f' => is_primary,
            b'i' => is_identity,
            _ => false,
        };
        if belongs {
            table.key.push(row.text(1).to_owned());
        }
    }
    for table in tables {
        if let Some(columns) = declared.get(&table.id) {
            table.declare(columns);
        }
    }
    Ok(())
}
