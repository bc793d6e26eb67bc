//! A mapping: one SELECT in `mappings/<source>/<entity>[.<part>].sql` that says how rows of a source table, with what other
//! tables say of them, become rows of a canonical entity.
//!
//! Reading it has two halves, because the shapes of the tables are known only to the log. [`Mapping::parse`] checks what
//! the text alone can say; [`compile::Compiled::new`] resolves names and types against one version of each table.

pub(crate) mod coerce;
pub(crate) mod compile;
pub(crate) mod decimal;
pub(crate) mod edge;
pub(crate) mod expression;
pub(crate) mod rules;
pub(crate) mod sql;

use std::sync::Arc;

use syncline_schemas::entity::{self, Entity};
use syncline_schemas::ident::{SEEDS, SourceId, TableId};
use syncline_schemas::table::TableSchema;
use xxhash_rust::xxh3::xxh3_64;

pub use self::coerce::RowFault;
use self::compile::Compiled;
use self::rules::Rules;
use self::sql::{Query, TableRef};
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
    /// Its text.
    pub text: Arc<str>,
    /// Fingerprint of its text and its entity: tells whether state was computed with this very mapping.
    pub fingerprint: u64,
    pub(crate) query: Query,
    /// What becomes of rules under it.
    pub(crate) rules: Rules,
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
            text: text.into(),
            fingerprint: xxh3_64(&[text.as_bytes(), entity.meaning().as_bytes()].join(&0)),
            query: Query::parse(file, text)?,
            rules: Rules::parse(file, text, entity)?,
        })
    }

    /// The tables that it reads, each role once: the driving table first, then the joined ones in their order.
    pub(crate) fn roles(&self) -> impl Iterator<Item = &TableRef> {
        std::iter::once(&self.query.table).chain(self.query.joins.iter().map(|join| &join.table))
    }

    /// True where a table takes part in the mapping in some role.
    #[must_use]
    pub fn reads(&self, source: &SourceId, table: &TableId) -> bool {
        self.roles().any(|role| role.means(&self.source, source, table))
    }

    /// True where it may read a table of a source.
    #[must_use]
    pub fn reads_of(&self, source: &SourceId) -> bool {
        self.source == *source || self.roles().any(|role| role.may_be_of(source))
    }

    /// True where a column of a table takes part, which may be any that is not qualified.
    #[must_use]
    pub fn reads_column(&self, source: &SourceId, table: &TableId, column: &str) -> bool {
        let joined = self.query.joins.iter().map(|join| (&join.table, &join.alias));
        std::iter::once((&self.query.table, &self.query.alias))
            .chain(joined)
            .any(|(role, alias)| role.means(&self.source, source, table) && self.query.reads(alias, column))
    }

    /// True where it reads a table that is not among these and may be another source's, because its name is qualified.
    #[must_use]
    pub fn reads_elsewhere(&self, tables: &[TableSchema]) -> bool {
        let is_here = |role: &TableRef| tables.iter().any(|it| role.means(&self.source, &it.source, &it.table));
        self.roles().any(|role| role.is_qualified() && !is_here(role))
    }

    /// The fault of a table that no source captures.
    pub(crate) fn table_missing(&self, role: &TableRef) -> MappingFault {
        let settings = match self.source.as_str() {
            SEEDS => "the files of [seeds]".to_owned(),
            source => format!("`tables` in [sources.{source}]"),
        };
        let reason = format!(
            "no source captures a table {role}; check the name, write source.schema.table for a table of another source, \
             and look at {settings}"
        );
        MappingFault { place: role.place(&self.file), reason }
    }

    /// The fault of a name that two captured tables answer to.
    pub(crate) fn table_ambiguous(&self, role: &TableRef, one: &TableId, other: &TableId) -> MappingFault {
        let reason = format!("{role} is both {one} and {other}; write source and schema before its name");
        MappingFault { place: role.place(&self.file), reason }
    }

    /// Resolves the mapping against the tables that there are, without keeping the result; gives the tables it reads.
    ///
    /// # Errors
    /// A [`MappingFault`]: unknown or ambiguous table, unknown column, type that does not fit the field, missing required
    /// field, join that is no equality on columns of the joined table.
    pub fn check<'t>(&self, tables: &'t [TableSchema]) -> Result<Vec<&'t TableSchema>, MappingFault> {
        let mut found = Vec::new();
        for role in self.roles() {
            let mut named = tables.iter().filter(|table| role.means(&self.source, &table.source, &table.table));
            let table = named.next().ok_or_else(|| self.table_missing(role))?;
            if let Some(other) = named.find(|other| other.source != table.source || other.table != table.table) {
                return Err(self.table_ambiguous(role, &table.table, &other.table));
            }
            found.push(table);
        }
        Compiled::new(self, found[0], &found[1..])?;
        Ok(found)
    }
}

/// The columns that a mapping reads and that a log may leave out of a change, with their tables; those are what
/// [`Mapping::check`] gave.
#[must_use]
pub fn left_out<'t>(mapping: &Mapping, tables: &[&'t TableSchema]) -> Vec<(&'t TableSchema, &'t str)> {
    let query = &mapping.query;
    let aliases = std::iter::once(&query.alias).chain(query.joins.iter().map(|join| &join.alias));
    let columns = aliases.zip(tables).flat_map(|(alias, table)| {
        let absent = table.columns.iter().filter(|column| column.can_be_absent);
        absent.filter(|column| query.reads(alias, &column.name)).map(|column| (*table, column.name.as_str()))
    });
    columns.collect()
}

fn unknown_entity(name: &str) -> String {
    let known: Vec<&str> = entity::all().iter().map(|entity| entity.name.as_str()).collect();
    format!("no canonical entity is called \"{name}\"; there are {}", known.join(", "))
}
