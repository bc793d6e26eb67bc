//! What the planner should hold, as the sources' own servers compute it.
//!
//! A mapping of the ERP is SQL that PostgreSQL runs as well. What another source adds to an entity was computed by its own
//! server, by a statement that is not its mapping, and is copied beside the ERP; there all that feeds a summed entity is
//! added up.

use std::io::Cursor;

use futures::SinkExt;
use syncline_schemas::entity::{Entity, Field, FieldType};
use tokio_postgres::Client;

use super::erp;
use super::error::DemoError;

/// What a source beside the ERP adds to an entity, as its own server computed it.
#[derive(Debug)]
pub(crate) struct Foreign {
    /// The entity.
    pub(crate) entity: &'static str,
    /// The fields it gives, its keys among them.
    pub(crate) fields: &'static [&'static str],
    /// A line for each row: the fields' values, with tabs between, in the text format of `COPY`.
    pub(crate) rows: String,
}

/// What is compared with the planner: the ERP's mappings (file names and texts), and what others add.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected<'a> {
    /// The ERP's mappings.
    pub(crate) mappings: &'a [(&'static str, &'static str)],
    /// What others add.
    pub(crate) foreign: &'a [Foreign],
}

#[cfg(test)]
impl Expected<'_> {
    /// The ERP alone, as most tests have it.
    pub(crate) const ERP: Expected<'static> = Expected { mappings: erp::MAPPINGS, foreign: &[] };
}

/// Copies what another source adds into a table that [`parts`] reads.
pub(super) async fn take(client: &Client, nth: usize, foreign: &Foreign) -> Result<(), DemoError> {
    let refused = || DemoError::database(format!("take what others add to {}", foreign.entity));
    // The values get their types where they are added up.
    let columns: Vec<String> = foreign.fields.iter().map(|field| format!("{} text", quoted(field))).collect();
    let create = format!("CREATE TEMPORARY TABLE {} ({})", foreign_table(nth), columns.join(", "));
    client.batch_execute(&create).await.map_err(refused())?;
    let copy = format!("COPY {} FROM STDIN", foreign_table(nth));
    let copy = client.copy_in::<_, Cursor<Vec<u8>>>(&copy).await.map_err(refused())?;
    futures::pin_mut!(copy);
    copy.send(Cursor::new(foreign.rows.clone().into_bytes())).await.map_err(refused())?;
    copy.finish().await.map_err(refused())?;
    Ok(())
}

fn foreign_table(nth: usize) -> String {
    format!("foreign_{nth}")
}

/// The mappings of an entity and the fields they give, as the server sees them; then what others add.
pub(super) async fn parts(client: &Client, entity: &Entity, expected: Expected<'_>) -> Result<Vec<Part>, DemoError> {
    let mut parts = Vec::new();
    for (file, text) in expected.mappings.iter().filter(|(file, _)| erp::entity_of(file) == entity.name) {
        let statement = client.prepare(text).await.map_err(DemoError::database(format!("run the mapping {file}")))?;
        let given = statement.columns().iter().map(|column| column.name().to_owned()).collect();
        parts.push(Part { text: (*text).to_owned(), given });
    }
    for (nth, foreign) in expected.foreign.iter().enumerate().filter(|(_, foreign)| foreign.entity == entity.name) {
        let given = foreign.fields.iter().map(|&field| field.to_owned()).collect();
        parts.push(Part { text: format!("SELECT * FROM {}", foreign_table(nth)), given });
    }
    Ok(parts)
}

/// One mapping of an entity, or what another source adds to it.
pub(super) struct Part {
    text: String,
    /// The fields it gives.
    given: Vec<String>,
}

impl Part {
    pub(super) fn gives(&self, field: &Field) -> bool {
        self.given.contains(&field.name)
    }
}

/// The mappings' rows with the canonical types; those of a summed entity added up.
pub(super) fn source_sql(keys: &[Field], values: &[&Field], parts: &[Part], summed: bool) -> String {
    let selects: Vec<String> = parts
        .iter()
        .map(|part| {
            let columns: Vec<String> = keys
                .iter()
                .chain(values.iter().copied())
                .map(|field| {
                    let name = quoted(&field.name);
                    let default = field.default.as_deref().map(|text| format!("'{}'", text.replace('\'', "''")));
                    let value = if part.gives(field) { Some(format!("m.{name}")) } else { default };
                    format!("CAST({} AS {}) AS {name}", value.as_deref().unwrap_or("NULL"), sql_type(field.field_type))
                })
                .collect();
            format!("SELECT {} FROM ({}) AS m", columns.join(", "), part.text)
        })
        .collect();
    let union = selects.join(" UNION ALL ");
    if !summed {
        return format!("SELECT *, true AS given FROM ({union}) AS parts");
    }
    let keys = keys.iter().map(|field| quoted(&field.name)).collect::<Vec<_>>().join(", ");
    let sums = values.iter().map(|field| format!("sum({0}) AS {0}", quoted(&field.name))).collect::<Vec<_>>();
    format!("SELECT {keys}, {}, true AS given FROM ({union}) AS parts GROUP BY {keys}", sums.join(", "))
}

pub(super) fn sql_type(field_type: FieldType) -> &'static str {
    match field_type {
        FieldType::String | FieldType::Code => "text",
        FieldType::Quantity | FieldType::UnitPrice => "numeric(28,9)",
        FieldType::Money => "numeric(28,6)",
        FieldType::Rate => "numeric(28,12)",
        FieldType::Date => "date",
        FieldType::Instant => "timestamptz",
        FieldType::Boolean => "boolean",
        FieldType::Integer => "integer",
    }
}

/// Names of fields are snake_case, so quoting needs no escapes; it is for `type` and its like.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{name}\"")
}
