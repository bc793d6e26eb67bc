//! Planning outputs: an operator publishes a cycle, readers are told by webhook and pull it page by page.
//!
//! ```text
//! POST /outputs/{output}?cycle=ID            {"rows": [...]}   publishes; &more=true adds rows and does not publish yet
//! GET  /pdx/v1/outputs/{output}?cycle=&cursor=&limit=          a page; see syncline_schemas::outputs
//! ```
//!
//! Rows are checked by the entity's definition before they are taken, and each key may come once. `&unchecked=true` takes
//! rows as they are, so that a reader can be tried against a platform that breaks the contract.

mod hooks;
mod store;

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use syncline_schemas::entity::{self, Entity};
use syncline_schemas::outputs::{OUTPUTS, OutputPage, is_cycle_id};

use super::http::{BODY_BYTES_MAX, Planner};
use super::problem::Refusal;
use super::stats::PlannerCounts;
use super::value;
pub(super) use hooks::Hooks;
pub use hooks::OutputsHook;
pub(super) use store::SCHEMA;
use store::{Row, Unpublished};

/// Rows of a page where the request does not say, and the most it can ask.
const PAGE_ROWS: u32 = 2_000;
const PAGE_ROWS_MAX: u32 = 10_000;

type Shared = State<Arc<Planner>>;

/// What is asked under `/pdx/v1`.
pub(super) fn contract() -> Router<Arc<Planner>> {
    Router::new().route("/outputs/{output}", get(page))
}

/// What operators ask.
pub(super) fn routes() -> Router<Arc<Planner>> {
    Router::new().route("/outputs/{output}", post(publish)).layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}

/// The entity of an output.
fn find(output: &str) -> Result<&'static Entity, Refusal> {
    let known = OUTPUTS.contains(&output).then(|| entity::get(output)).flatten();
    known.ok_or_else(|| {
        let detail = format!("outputs are {}", OUTPUTS.join(", "));
        Refusal::new(StatusCode::NOT_FOUND, "unknown-output", detail)
    })
}

#[derive(Deserialize)]
struct PageOf {
    cycle: Option<String>,
    cursor: Option<String>,
    limit: Option<u32>,
}

async fn page(
    State(planner): Shared,
    Path(output): Path<String>,
    Query(of): Query<PageOf>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    planner.guard.admit(&headers, &[]).map_err(IntoResponse::into_response)?;
    planner.fate().await?;
    let page = find_page(&planner, &output, of).await.map_err(IntoResponse::into_response)?;
    if planner.dice.loses_reply() {
        return Ok(planner.lose_reply());
    }
    Ok(Json(page).into_response())
}

async fn find_page(planner: &Planner, output: &str, of: PageOf) -> Result<OutputPage<Box<RawValue>>, Refusal> {
    let entity = find(output)?;
    let bad = |detail: &str| Refusal::new(StatusCode::BAD_REQUEST, "bad-cursor", detail);
    let after = match (&of.cycle, &of.cursor) {
        (_, None) => 0,
        (None, Some(_)) => return Err(bad("a cursor goes with its cycle")),
        (Some(_), Some(cursor)) => cursor.parse().map_err(|_| bad("the cursor is none of ours"))?,
    };
    if of.cycle.is_some() {
        planner.intake.counters.add(&PlannerCounts { output_pages: 1, ..PlannerCounts::default() });
    }
    let limit = of.limit.unwrap_or(PAGE_ROWS).clamp(1, PAGE_ROWS_MAX);
    let (named, asked) = (of.cycle.is_some(), of.cycle);
    let found =
        planner.read(move |connection| store::page(connection, &entity.name, asked.as_deref(), after, limit)).await?;
    match found {
        Some(page) => Ok(page),
        None if named => Err(Refusal::new(StatusCode::NOT_FOUND, "unknown-cycle", "it is not published, or not kept")),
        None => Ok(OutputPage {
            output: entity.name.clone(),
            cycle_id: None,
            published_at: None,
            row_count: Some(0),
            rows: Vec::new(),
            next: None,
        }),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Publication {
    cycle: String,
    /// More rows of it come.
    #[serde(default)]
    more: bool,
    /// Rows are taken as they are.
    #[serde(default)]
    unchecked: bool,
}

#[derive(Deserialize)]
struct Rows<'a> {
    #[serde(borrow)]
    rows: Vec<&'a RawValue>,
}

/// The answer to a publication.
#[derive(Serialize)]
struct Published {
    output: String,
    cycle_id: String,
    rows: u64,
    /// None while more rows are to come.
    published_at: Option<String>,
}

async fn publish(
    State(planner): Shared,
    Path(output): Path<String>,
    Query(of): Query<Publication>,
    body: Bytes,
) -> Result<Response, Refusal> {
    let entity = find(&output)?;
    if !is_cycle_id(&of.cycle) {
        let detail = "a cycle is named with at most 200 printable signs, without spaces";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "bad-cycle", detail));
    }
    let rows = read_rows(entity, &body, of.unchecked)?;
    let (db, cycle, more) = (planner.db.clone(), of.cycle.clone(), of.more);
    let stored = tokio::task::spawn_blocking(move || store::publish(&db, &entity.name, &cycle, &rows, more)).await;
    let cycle = match stored.map_err(Refusal::storage)?.map_err(Refusal::storage)? {
        Ok(cycle) => cycle,
        Err(Unpublished::IsPublished) => {
            let detail = "a published cycle never changes; publish another one";
            return Err(Refusal::new(StatusCode::CONFLICT, "cycle-published", detail));
        }
        Err(Unpublished::KeyTwice { row }) => {
            let detail = format!("row {row} has the key of another row of the cycle");
            return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "key-twice", detail));
        }
    };
    if let Some(published_at) = &cycle.published_at {
        planner.hooks.announce(&entity.name, &of.cycle, published_at);
    }
    let published = Published {
        output: entity.name.clone(),
        cycle_id: of.cycle,
        rows: cycle.row_count,
        published_at: cycle.published_at,
    };
    Ok(Json(published).into_response())
}

fn read_rows(entity: &Entity, body: &[u8], unchecked: bool) -> Result<Vec<Row>, Refusal> {
    let unsound = |detail: String| Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "unsound-row", detail);
    let body: Rows<'_> = serde_json::from_slice(body)
        .map_err(|error| unsound(format!("wanted {{\"rows\": [...]}}: line {}", error.line())))?;
    let rows = body.rows.into_iter().enumerate().map(|(place, row)| {
        let key = if unchecked {
            None
        } else {
            Some(checked(entity, row).map_err(|reason| unsound(format!("row {}: {reason}", place + 1)))?)
        };
        Ok(Row { key, json: row.get().to_owned() })
    });
    rows.collect()
}

/// The key of a sound row.
fn checked(entity: &Entity, row: &RawValue) -> Result<String, String> {
    let members: std::collections::HashMap<String, &RawValue> =
        serde_json::from_str(row.get()).map_err(|_| "is no object".to_owned())?;
    let mut key = Vec::new();
    for field in &entity.fields {
        let value = members.get(&field.name).map(|value| value.get()).filter(|json| *json != "null");
        match value {
            None if field.required => return Err(format!("{} is missing", field.name)),
            None => {}
            Some(json) => value::check(field, json).map_err(|reason| format!("{}: {reason}", field.name))?,
        }
        if field.key {
            key.extend(value);
        }
    }
    Ok(format!("[{}]", key.join(",")))
}
