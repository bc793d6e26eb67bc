//! What tables there are and what their columns are called, as the server says it now.
//!
//! The same description as a table has in the log ([`TableMap`]) is made of it, so a shape is one shape wherever it comes
//! from. `information_schema` says of a column what the log says of it, but for labels, which come in UTF-8.

use std::collections::{BTreeMap, BTreeSet};

use syncline_schemas::ident::TableId;
use syncline_schemas::table::TableSchema;

use super::config::MySqlConfig;
use super::event::table_map::{MapColumn, TableMap, code};
use super::row::{Kind, Named, Shape, number_of};
use super::scope::Scope;
use super::server::Server;
use super::site;
use super::wire::{Connection, Row};
use crate::finding::ensure_fit;
use crate::{CaptureError, StopSignal};

const DURING: &str = "looking at the tables";
const WITHOUT_IT: &str = "exclude the table, or change it";
/// How MariaDB ends the type of a column that is compressed.
const COMPRESSED: &str = "/*M!100301 COMPRESSED*/";

/// What the log does not say of a table's columns, by their names.
pub(crate) type Besides = BTreeMap<String, Beside>;

/// What the log of a MariaDB does not say of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Beside {
    /// Its type, where the log has no word for that.
    pub(crate) named: Option<Named>,
    /// The server computes it out of others.
    pub(crate) is_computed: bool,
}

/// A table that is read, as the server has it.
#[derive(Debug)]
pub(super) struct CatalogTable {
    pub(super) shape: Shape,
    /// Its key is the server's own, so an index has its rows in their order and no two of them have one key.
    pub(super) is_ordered: bool,
    /// Character sets of its columns as the server names them; empty of those that are no text.
    pub(super) charsets: Vec<String>,
    /// The server's estimate.
    pub(super) rows: u64,
    /// The columns in the server's words, to find out whether they are still the same.
    pub(super) signature: String,
}

/// The tables that are read, or `only` some of them, in the order of their names. A database that a pattern names but nobody may see
/// has none.
pub(super) fn look_up(
    connection: &mut Connection,
    config: &MySqlConfig,
    scope: &Scope,
    only: Option<&BTreeSet<TableId>>,
) -> Result<Vec<CatalogTable>, CaptureError> {
    let is_mariadb = connection.version().contains("MariaDB");
    let all_columns = format!("{SELECT_COLUMNS} ORDER BY TABLE_SCHEMA, TABLE_NAME, ORDINAL_POSITION");
    let columns = described(&connection.query(DURING, &all_columns)?, scope);
    let keys = named(&connection.query(DURING, KEYS)?);
    let mut tables = Vec::new();
    for row in connection.query(DURING, TABLES)? {
        let id = TableId::new(row.text(0), row.text(1));
        if !scope.reads(&id) || only.is_some_and(|only| !only.contains(&id)) {
            continue;
        }
        // One that was made since the columns were asked for is found by the next session.
        let Some(described) = columns.get(&id) else { continue };
        ensure_can_be_copied(config, &id, &row)?;
        let map = table_map(config, &id, described, keys.get(&id).map_or(&[], Vec::as_slice), is_mariadb)?;
        tables.push(CatalogTable {
            shape: Shape::of(&config.source, &map, scope.declared(&id))?,
            is_ordered: scope.declared(&id).is_none(),
            charsets: described.iter().map(|column| column.charset.clone()).collect(),
            rows: row.text(4).parse().unwrap_or(0),
            signature: signature(described),
        });
    }
    Ok(tables)
}

/// Whether the server has a table and shows it.
pub(super) fn is_there(connection: &mut Connection, table: &TableId) -> Result<bool, CaptureError> {
    let sql = format!(
        "SELECT 1 FROM information_schema.TABLES WHERE TABLE_SCHEMA = {} AND TABLE_NAME = {} \
         AND TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED')",
        quote(&table.schema),
        quote(&table.name)
    );
    Ok(!connection.query(DURING, &sql)?.is_empty())
}

/// Whether all of a table can be read.
pub(super) fn may_read(connection: &mut Connection, table: &TableId) -> Result<bool, CaptureError> {
    let sql = format!("SELECT * FROM {}.{} LIMIT 0", quote_name(&table.schema), quote_name(&table.name));
    is_allowed(connection, &sql)
}

/// Whether a copy is told where the log of a MariaDB ends; MySQL says in another way what a read sees.
pub(super) fn may_copy(connection: &mut Connection) -> Result<bool, CaptureError> {
    Ok(!connection.version().contains("MariaDB") || is_allowed(connection, "SHOW MASTER STATUS")?)
}

fn is_allowed(connection: &mut Connection, sql: &str) -> Result<bool, CaptureError> {
    match connection.query(DURING, sql) {
        Err(CaptureError::Server { .. }) => Ok(false),
        answered => answered.map(|_| true),
    }
}

/// The signature of one table now.
pub(super) fn signature_of(connection: &mut Connection, table: &TableId) -> Result<String, CaptureError> {
    Ok(signature(&columns_of(connection, table)?))
}

fn columns_of(connection: &mut Connection, table: &TableId) -> Result<Vec<Described>, CaptureError> {
    let sql = format!(
        "{SELECT_COLUMNS} WHERE TABLE_SCHEMA = {} AND TABLE_NAME = {} ORDER BY ORDINAL_POSITION",
        quote(&table.schema),
        quote(&table.name)
    );
    let rows = connection.query(DURING, &sql)?;
    Ok(rows.iter().map(Described::of).collect())
}

/// What the log does not say of the columns of one table, as they are now; nothing where it is gone.
pub(super) fn besides(connection: &mut Connection, table: &TableId) -> Result<Besides, CaptureError> {
    let columns = columns_of(connection, table)?.into_iter();
    Ok(columns.map(|column| (column.name.clone(), column.beside(true))).collect())
}

/// The shapes of all tables that a source reads, as the server has them now.
///
/// Blocks for some round trips.
///
/// # Errors
/// [`CaptureError`] where the server cannot be reached, is not fit, or has a table that cannot be read.
pub fn tables(config: &MySqlConfig, stop: &StopSignal) -> Result<Vec<TableSchema>, CaptureError> {
    site::first(config, None, stop, |address| {
        let mut connection = Connection::open(&config.login(address), stop)?;
        let server = Server::look(&mut connection)?;
        ensure_fit(&config.source, &server.findings)?;
        let found = look_up(&mut connection, config, &config.scope(server.ignores_case), None)?;
        Ok(found.into_iter().map(|table| table.shape.schema).collect())
    })
}

const TABLES: &str = "SELECT t.TABLE_SCHEMA, t.TABLE_NAME, t.TABLE_TYPE, IFNULL(e.TRANSACTIONS, ''), t.TABLE_ROWS, t.ENGINE \
     FROM information_schema.TABLES t LEFT JOIN information_schema.ENGINES e ON e.ENGINE = t.ENGINE \
     WHERE t.TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED') ORDER BY t.TABLE_SCHEMA, t.TABLE_NAME";
const SELECT_COLUMNS: &str = "SELECT TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, CHARACTER_SET_NAME, \
     CHARACTER_OCTET_LENGTH, NUMERIC_PRECISION, NUMERIC_SCALE, DATETIME_PRECISION, GENERATION_EXPRESSION \
     FROM information_schema.COLUMNS";
const KEYS: &str = "SELECT TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME FROM information_schema.STATISTICS \
     WHERE INDEX_NAME = 'PRIMARY' ORDER BY TABLE_SCHEMA, TABLE_NAME, SEQ_IN_INDEX";

/// A column in the server's words.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Described {
    name: String,
    data_type: String,
    column_type: String,
    charset: String,
    /// Bytes of text at most.
    octets: u64,
    precision: u16,
    scale: u16,
    /// Of a second.
    digits: u16,
    is_computed: bool,
}

impl Described {
    fn of(row: &Row) -> Self {
        let number = |i: usize| row.text(i).parse().unwrap_or(0);
        Self {
            name: row.text(2).to_owned(),
            data_type: row.text(3).to_lowercase(),
            column_type: row.text(4).to_owned(),
            charset: row.text(5).to_owned(),
            octets: row.text(6).parse().unwrap_or(0),
            precision: number(7),
            scale: number(8),
            digits: number(9),
            is_computed: !row.text(10).is_empty(),
        }
    }

    fn beside(&self, is_mariadb: bool) -> Beside {
        let named = Named::of(&self.data_type).filter(|_| is_mariadb);
        Beside { named, is_computed: self.is_computed && is_mariadb }
    }

    /// As the log would describe it; the error says what is in the way.
    fn map(&self, is_mariadb: bool) -> Result<MapColumn, String> {
        let column = |code: u8, meta: u16| MapColumn {
            name: self.name.clone(),
            code,
            meta,
            is_unsigned: self.column_type.contains("unsigned"),
            collation: number_of(if self.charset.is_empty() { "binary" } else { &self.charset }),
            labels: Vec::new(),
            named: None,
            is_computed: self.is_computed && is_mariadb,
        };
        let length = u16::try_from(self.octets).unwrap_or(u16::MAX);
        if let Some(named) = self.beside(is_mariadb).named {
            let (code, meta) = named.code(length);
            return Ok(MapColumn { named: Some(named), ..column(code, meta) });
        }
        // Its first byte says how it is compressed.
        let is_compressed = self.column_type.ends_with(COMPRESSED);
        let of_text = |code: u8, meta: u16| match code {
            code::VARCHAR if is_compressed => column(code::VARCHAR_COMPRESSED, meta.saturating_add(1)),
            code::BLOB if is_compressed => column(code::BLOB_COMPRESSED, meta),
            _ => column(code, meta),
        };
        Ok(match self.data_type.as_str() {
            "tinyint" => column(code::TINY, 0),
            "smallint" => column(code::SHORT, 0),
            "mediumint" => column(code::INT24, 0),
            "int" => column(code::LONG, 0),
            "bigint" => column(code::LONGLONG, 0),
            "float" => column(code::FLOAT, 4),
            "double" => column(code::DOUBLE, 8),
            "decimal" => column(code::NEWDECIMAL, self.scale * 256 + self.precision),
            "bit" => column(code::BIT, (self.precision / 8) * 256 + self.precision % 8),
            "year" => column(code::YEAR, 0),
            "date" => column(code::DATE, 0),
            "time" => column(code::TIME2, self.digits),
            "datetime" => column(code::DATETIME2, self.digits),
            "timestamp" => column(code::TIMESTAMP2, self.digits),
            "char" | "binary" => column(code::STRING, length),
            "varchar" | "varbinary" => of_text(code::VARCHAR, length),
            "tinytext" | "tinyblob" => of_text(code::BLOB, 1),
            "text" | "blob" => of_text(code::BLOB, 2),
            "mediumtext" | "mediumblob" => of_text(code::BLOB, 3),
            "longtext" | "longblob" => of_text(code::BLOB, 4),
            "enum" | "set" => {
                let labels = labels(&self.column_type);
                let bytes = match (self.data_type.as_str(), labels.len()) {
                    ("enum", 0..=255) => 1,
                    ("enum", _) => 2,
                    (_, 33..) => 8,
                    (_, count) => u16::try_from(count.div_ceil(8)).unwrap_or(8),
                };
                let code = if self.data_type == "enum" { code::ENUM } else { code::SET };
                // Here labels are in UTF-8, whatever the column is in.
                MapColumn { labels, collation: number_of("utf8mb4"), ..column(code, bytes) }
            }
            "json" => column(code::JSON, 4),
            "vector" => column(code::VECTOR, 4),
            "geometry" | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring" | "multipolygon"
            | "geometrycollection" | "geomcollection" => column(code::GEOMETRY, 4),
            other => return Err(format!("is of the type {other}, which this version does not copy")),
        })
    }
}

/// Columns by table, of those that are read.
fn described(rows: &[Row], scope: &Scope) -> BTreeMap<TableId, Vec<Described>> {
    let mut tables: BTreeMap<TableId, Vec<Described>> = BTreeMap::new();
    for row in rows {
        let id = TableId::new(row.text(0), row.text(1));
        if scope.reads(&id) {
            tables.entry(id).or_default().push(Described::of(row));
        }
    }
    tables
}

/// The third column by the table that the first two name.
fn named(rows: &[Row]) -> BTreeMap<TableId, Vec<String>> {
    let mut tables: BTreeMap<TableId, Vec<String>> = BTreeMap::new();
    for row in rows {
        tables.entry(TableId::new(row.text(0), row.text(1))).or_default().push(row.text(2).to_owned());
    }
    tables
}

fn signature(columns: &[Described]) -> String {
    let column = |column: &Described| format!("{} {} {}", column.name, column.column_type, column.charset);
    columns.iter().map(column).collect::<Vec<_>>().join(", ")
}

fn unfit(config: &MySqlConfig, table: &TableId, reason: String, remedy: String) -> CaptureError {
    CaptureError::Unfit { source_id: config.source.clone(), object: format!("table {table}"), reason, remedy }
}

/// A table is copied as of one moment, which only an engine with transactions can show, and has no rows of the past among
/// those of the present.
fn ensure_can_be_copied(config: &MySqlConfig, table: &TableId, row: &Row) -> Result<(), CaptureError> {
    if row.text(2) == "SYSTEM VERSIONED" {
        let reason = "is system-versioned: its log has rows of the past among those of the present".to_owned();
        return Err(unfit(config, table, reason, WITHOUT_IT.to_owned()));
    }
    if row.text(3) != "YES" {
        let reason = format!("is kept by the engine {}, which has no transactions to copy it in", row.text(5));
        let remedy = format!("ALTER TABLE {table} ENGINE = InnoDB; or exclude it with \"!{table}\" in tables");
        return Err(unfit(config, table, reason, remedy));
    }
    Ok(())
}

fn table_map(
    config: &MySqlConfig,
    id: &TableId,
    described: &[Described],
    key: &[String],
    is_mariadb: bool,
) -> Result<TableMap, CaptureError> {
    let mut columns = Vec::with_capacity(described.len());
    for column in described {
        let map = column.map(is_mariadb).map_err(|reason| {
            unfit(config, id, format!("cannot be read: column {} {reason}", column.name), WITHOUT_IT.to_owned())
        })?;
        columns.push(map);
    }
    let place = |name: &String| described.iter().position(|column| column.name == *name);
    Ok(TableMap {
        database: id.schema.to_string(),
        table: id.name.to_string(),
        columns,
        key: key.iter().filter_map(place).collect(),
        is_full: true,
    })
}

/// A text as SQL writes it; the session takes backslashes for what they are.
pub(super) fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A name as SQL writes it.
pub(super) fn quote_name(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// The labels in `enum('a','b''c')`.
fn labels(column_type: &str) -> Vec<Vec<u8>> {
    let mut labels = Vec::new();
    let mut rest = column_type;
    while let Some(begin) = rest.find('\'') {
        let (mut label, mut text) = (String::new(), &rest[begin + 1..]);
        // A quote within is doubled.
        loop {
            let Some(end) = text.find('\'') else { return labels };
            label.push_str(&text[..end]);
            text = &text[end + 1..];
            match text.strip_prefix('\'') {
                Some(more) => {
                    label.push('\'');
                    text = more;
                }
                None => break,
            }
        }
        labels.push(label.into_bytes());
        rest = text;
    }
    labels
}

impl CatalogTable {
    pub(super) fn kind(&self, column: usize) -> &Kind {
        &self.shape.kinds[column]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_with_quotes_commas_and_nothing_in_them_are_told_apart() {
        let text = |column_type: &str| -> Vec<String> {
            labels(column_type).into_iter().map(|label| String::from_utf8(label).unwrap()).collect()
        };
        assert_eq!(text("enum('a','it''s','x,y','')"), ["a", "it's", "x,y", ""]);
        assert_eq!(text("set('''')"), ["'"]);
        assert!(text("int").is_empty());
        assert_eq!(text("enum('a','b"), ["a"], "cut short");
    }

    #[test]
    fn a_column_is_the_one_of_the_log() {
        let described =
            |data_type: &str, column_type: &str, charset: &str, octets, precision, scale, digits| Described {
                name: "c".to_owned(),
                data_type: data_type.to_owned(),
                column_type: column_type.to_owned(),
                charset: charset.to_owned(),
                octets,
                precision,
                scale,
                digits,
                is_computed: false,
            };
        let kind = |described: Described| Kind::of(&described.map(false).unwrap()).unwrap();
        assert_eq!(kind(described("bigint", "bigint(20) unsigned", "", 0, 20, 0, 0)).type_name(), "bigint unsigned");
        assert_eq!(kind(described("decimal", "decimal(65,30)", "", 0, 65, 30, 0)).type_name(), "decimal(65,30)");
        assert_eq!(kind(described("bit", "bit(20)", "", 0, 20, 0, 0)), Kind::Bit { bits: 20 });
        assert_eq!(kind(described("bit", "bit(64)", "", 0, 64, 0, 0)), Kind::Bit { bits: 64 });
        assert_eq!(kind(described("binary", "binary(6)", "", 6, 0, 0, 0)).type_name(), "binary(6)");
        assert_eq!(kind(described("timestamp", "timestamp(4)", "", 0, 0, 0, 4)), Kind::Timestamp { digits: 4 });
        assert_eq!(kind(described("set", "set('x','ž')", "latin2", 0, 0, 0, 0)).type_name(), "set");
        let named = |data_type: &str, octets| {
            let column = described(data_type, data_type, "", octets, 0, 0, 0).map(true).unwrap();
            (Kind::of(&column).unwrap().type_name(), column.code, column.meta)
        };
        assert_eq!(named("uuid", 0), ("uuid".to_owned(), code::STRING, 16));
        assert_eq!(named("vector", 12), ("vector".to_owned(), code::VARCHAR, 12));
        let compressed = described("varchar", "varchar(255) /*M!100301 COMPRESSED*/", "latin1", 255, 0, 0, 0).map(true);
        assert_eq!(compressed.map(|column| (column.code, column.meta)), Ok((code::VARCHAR_COMPRESSED, 256)));
        let refused = described("xmltype", "xmltype", "", 0, 0, 0, 0).map(true).unwrap_err();
        assert!(refused.contains("xmltype"), "{refused}");
    }
}
