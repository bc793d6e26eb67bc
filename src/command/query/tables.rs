//! The tables that a question names, found in the lake.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};
use datafusion::catalog::{
    CatalogProvider, MemoryCatalogProvider, MemorySchemaProvider, SchemaProvider, TableProvider,
};
use datafusion::common::{ResolvedTableReference, TableReference};
use datafusion::prelude::SessionContext;
use syncline_sinks::lake::{Manifest, OperationsTable, View};

use super::scan::LakeTable;
use crate::command::CommandError;

/// The catalog of the lake's tables.
pub(super) const LAKE: &str = "lake";
/// Its schemas, which are the folders of the lake.
pub(super) const CURRENT: &str = "current";
const HISTORY: &str = "history";
const OPERATIONS: &str = "operations";
/// The catalog of snapshots, with a schema each.
const SNAPSHOTS: &str = "snapshots";
const INFORMATION: &str = "information_schema";

/// What current tables are to hold.
#[derive(Debug, Clone)]
pub(super) enum Moment {
    /// The rows of the last flush.
    Cut,
    /// What the sources had committed by then.
    Time(DateTime<Utc>),
    /// What was kept.
    Snapshot(Arc<Manifest>),
}

/// Makes the tables known that are asked for.
pub(super) async fn register(
    context: &SessionContext,
    view: &View,
    moment: &Moment,
    asked: Vec<TableReference>,
) -> Result<(), CommandError> {
    let asked: BTreeSet<_> = asked.into_iter().map(|asked| asked.resolve(LAKE, CURRENT)).map(parts).collect();
    let names = |schema: &str| asked.iter().any(|(catalog, named, _)| catalog == LAKE && named == schema);
    if names(INFORMATION) {
        for path in view.tables() {
            if let Some((schema, table)) = path.split_once('/') {
                let found = find(context, view, moment, [LAKE, schema, table]).await?;
                register_one(context, [LAKE, schema, table], found)?;
            }
        }
        for which in OperationsTable::ALL {
            let found = view.operations(which).await?.map(scanned);
            register_one(context, [LAKE, OPERATIONS, which.name()], found)?;
        }
    }
    for (catalog, schema, table) in asked.iter().filter(|(_, schema, _)| schema != INFORMATION) {
        let found = find(context, view, moment, [catalog, schema, table]).await?;
        if found.is_none() {
            return Err(no_table(view, [catalog, schema, table]));
        }
        register_one(context, [catalog, schema, table], found)?;
    }
    Ok(())
}

fn parts(name: ResolvedTableReference) -> (String, String, String) {
    (name.catalog.to_string(), name.schema.to_string(), name.table.to_string())
}

async fn find(
    context: &SessionContext,
    view: &View,
    moment: &Moment,
    [catalog, schema, table]: [&str; 3],
) -> Result<Option<Arc<dyn TableProvider>>, CommandError> {
    Ok(match (catalog, schema, moment) {
        (LAKE, CURRENT, Moment::Snapshot(snapshot)) => copy(view, snapshot, table)?,
        (LAKE, CURRENT, Moment::Time(time)) => as_of(context, view, table, *time).await?,
        (LAKE, CURRENT | HISTORY, _) => view.table(&format!("{schema}/{table}")).await?.map(scanned),
        (LAKE, OPERATIONS, _) => match OperationsTable::of(table) {
            Some(which) => view.operations(which).await?.map(scanned),
            None => None,
        },
        (SNAPSHOTS, name, _) => {
            let snapshot = view.snapshot(name).await?.ok_or_else(|| no_snapshot(view, name))?;
            copy(view, &snapshot, table)?
        }
        _ => None,
    })
}

fn register_one(
    context: &SessionContext,
    [catalog, schema, table]: [&str; 3],
    found: Option<Arc<dyn TableProvider>>,
) -> Result<(), CommandError> {
    let Some(found) = found else { return Ok(()) };
    let tables = schema_of(context, catalog, schema)?;
    if !tables.table_exist(table) {
        tables.register_table(table.to_owned(), found)?;
    }
    Ok(())
}

fn scanned(view: syncline_sinks::lake::TableView) -> Arc<dyn TableProvider> {
    Arc::new(LakeTable(view))
}

fn copy(view: &View, snapshot: &Manifest, entity: &str) -> Result<Option<Arc<dyn TableProvider>>, CommandError> {
    Ok(view.copy_in(snapshot, entity)?.map(scanned))
}

/// Of each key the last version that was committed by a time, unless it was a delete, with the columns of the current table.
async fn as_of(
    context: &SessionContext,
    view: &View,
    entity: &str,
    time: DateTime<Utc>,
) -> Result<Option<Arc<dyn TableProvider>>, CommandError> {
    let history = view.table(&format!("{HISTORY}/{entity}")).await?;
    let current = view.table(&format!("{CURRENT}/{entity}")).await?;
    let (Some(history), Some(current)) = (history, current) else { return Ok(None) };
    let quoted = |name: &str| format!("\"{name}\"");
    let names: Vec<_> = current.schema.fields().iter().map(|field| field.name().as_str()).collect();
    let key = names.iter().take(current.key_len).map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
    let columns = names.iter().map(|name| match *name {
        "_commit_ts" => "_valid_from AS _commit_ts".to_owned(),
        name => quoted(name),
    });
    let columns = columns.collect::<Vec<_>>().join(", ");
    let tables = schema_of(context, LAKE, HISTORY)?;
    if !tables.table_exist(entity) {
        tables.register_table(entity.to_owned(), scanned(history))?;
    }
    let time = time.to_rfc3339_opts(SecondsFormat::Micros, true);
    let sql = format!(
        "SELECT {columns} FROM (
             SELECT *, row_number() OVER (PARTITION BY {key} ORDER BY _version DESC) AS _newest
             FROM {LAKE}.{HISTORY}.{} WHERE _valid_from <= '{time}')
         WHERE _newest = 1 AND _op = 'upsert'",
        quoted(entity)
    );
    Ok(Some(context.sql(&sql).await?.into_view()))
}

/// A schema of the session, made where it is new.
fn schema_of(context: &SessionContext, catalog: &str, schema: &str) -> Result<Arc<dyn SchemaProvider>, CommandError> {
    let catalog = context.catalog(catalog).unwrap_or_else(|| {
        let made: Arc<dyn CatalogProvider> = Arc::new(MemoryCatalogProvider::new());
        context.register_catalog(catalog, Arc::clone(&made));
        made
    });
    if let Some(found) = catalog.schema(schema) {
        return Ok(found);
    }
    let made: Arc<dyn SchemaProvider> = Arc::new(MemorySchemaProvider::new());
    catalog.register_schema(schema, Arc::clone(&made))?;
    Ok(made)
}

fn no_table(view: &View, [catalog, schema, table]: [&str; 3]) -> CommandError {
    let catalog = if catalog == LAKE { String::new() } else { format!("{catalog}.") };
    let there = view.tables().map(|path| path.replace('/', ".")).collect::<Vec<_>>().join(", ");
    let there = if there.is_empty() { "no tables".to_owned() } else { there };
    CommandError::Usage(format!(
        "there is no table {catalog}{schema}.{table} at {}; there is {there}; a snapshot's is written snapshots.\"TAG\".item",
        view.url()
    ))
}

/// There is none of that name.
pub(super) fn no_snapshot(view: &View, name: &str) -> CommandError {
    CommandError::Usage(format!("there is no snapshot {name} at {}; `syncline tables` lists them", view.url()))
}
