//! A mapping: one SELECT in `mappings/<source>/<entity>[.<part>].sql` that says how rows of a source table become rows
//! of a canonical entity.
//!
//! Reading it has two halves, because the shape of the table is known only to the log. [`Mapping::parse`] checks what
//! the text alone can say; [`compile::Compiled::new`] resolves names and types against one version of the table.

pub(crate) mod coerce;
pub(crate) mod compile;
pub(crate) mod decimal;
pub(crate) mod expression;
mod sql;

use syncline_schemas::entity::{self, Entity};
use syncline_schemas::ident::{SEEDS, SourceId, TableId};
use syncline_schemas::table::TableSchema;
use xxhash_rust::xxh3::xxh3_64;

pub use self::coerce::RowFault;
use self::compile::Compiled;
use self::sql::Query;
use crate::error::{MappingFault, Place};

/// A parsed mapping.
#[derive(Debug, Clone)]
pub struct Mapping {
    /// `<source>/<entity>[.<part>]`: its name in state and in messages.
    pub name: String,
    /// The source whose table drives it.
    pub source: SourceId,
    /// What it contributes to.
    pub entity: &'static Entity,
    /// Where it was read.
    pub file: String,
    /// Fingerprint of the text: tells whether state was computed with this very mapping.
    pub fingerprint: u64,
    pub(crate) query: Query,
}

impl Mapping {
    /// Reads the text of a mapping.
    ///
    /// `path` is the file's path relative to the mapping folder, as in `erp/item.sql`; `file` is what messages call it.
    ///
    /// # Errors
    /// A [`MappingFault`] that names file, line and column.
    pub fn parse(path: &str, file: &str, text: &str) -> Result<Self, MappingFault> {
        let fault =
            |reason: String| MappingFault { place: Place { file: file.to_owned(), line: 0, column: 0 }, reason };
        let name = path.strip_suffix(".sql").ok_or_else(|| fault("a mapping's name ends in .sql".into()))?;
        let (source, stem) = name.rsplit_once('/').ok_or_else(|| {
            fault("a mapping lies in the folder of its source: <source>/<entity>[.<part>].sql".into())
        })?;
        let entity_name = stem.split('.').next().unwrap_or(stem);
        let entity = entity::get(entity_name).ok_or_else(|| fault(unknown_entity(entity_name)))?;
        Ok(Self {
            name: name.to_owned(),
            source: SourceId::new(source),
            entity,
            file: file.to_owned(),
            fingerprint: xxh3_64(text.as_bytes()),
            query: Query::parse(file, text)?,
        })
    }

    /// True where `table` is the driving table. An unqualified name means a table of any schema.
    #[must_use]
    pub fn drives(&self, table: &TableId) -> bool {
        let wanted = &self.query.table;
        *wanted.name == *table.name && wanted.schema.as_deref().is_none_or(|schema| *schema == *table.schema)
    }

    /// The driving table as written, for messages.
    #[must_use]
    pub fn table_text(&self) -> String {
        match &self.query.table.schema {
            Some(schema) => format!("{schema}.{}", self.query.table.name),
            None => self.query.table.name.clone(),
        }
    }

    /// The fault of a mapping whose table the source does not have or does not capture.
    #[must_use]
    pub fn table_missing(&self) -> MappingFault {
        let (source, table) = (&self.source, self.table_text());
        let reason = match source.as_str() {
            SEEDS => format!("there is no seed file {}.csv; check the name, or add the file", self.query.table.name),
            _ => format!(
                "source \"{source}\" captures no table {table}; check the name, or `tables` in [sources.{source}]"
            ),
        };
        MappingFault { place: self.query.table.place(&self.file), reason }
    }

    /// The fault of an unqualified name that two captured tables answer to.
    pub(crate) fn table_ambiguous(&self, one: &TableId, other: &TableId) -> MappingFault {
        let reason = format!("{} is both {one} and {other}; write the schema's name before it", self.table_text());
        MappingFault { place: self.query.table.place(&self.file), reason }
    }

    /// Resolves the mapping against a version of its table without keeping the result.
    ///
    /// # Errors
    /// A [`MappingFault`]: unknown column, type that does not fit the field, missing required field.
    pub fn check(&self, table: &TableSchema) -> Result<(), MappingFault> {
        Compiled::new(self, table).map(|_| ())
    }
}

fn unknown_entity(name: &str) -> String {
    let known: Vec<&str> = entity::all().iter().map(|entity| entity.name.as_str()).collect();
    format!("no canonical entity is called \"{name}\"; there are {}", known.join(", "))
}
