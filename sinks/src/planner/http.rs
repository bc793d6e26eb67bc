//! The routes: PDX/1 under `/pdx/v1`, and beside it what people and tests ask.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use rusqlite::Connection;
use serde::Deserialize;
use serde_json::json;
use syncline_schemas::entity::{self, Entity, FieldType};

use super::access::Guard;
use super::deltas::{Intake, find};
use super::encoding::{COMPRESSIONS, FORMATS};
use super::faults::{Dice, Fate, Faults};
use super::jobs::Jobs;
use super::outputs;
use super::problem::Refusal;
use super::stats::PlannerCounts;
use super::{read, snapshots, store};
use crate::planning::{Compression, Format};

/// Largest body taken; ten times what a careful sender sends.
pub(super) const BODY_BYTES_MAX: usize = 10 * 1024 * 1024;
/// Rows of a page where the request does not say, and the most it can ask.
const PAGE_ROWS: u32 = 1_000;
const PAGE_ROWS_MAX: u32 = 10_000;

/// What the handlers share.
pub(super) struct Planner {
    pub(super) db: PathBuf,
    pub(super) guard: Arc<Guard>,
    pub(super) jobs: Jobs,
    pub(super) intake: Intake,
    pub(super) dice: Dice,
    pub(super) hooks: Arc<outputs::Hooks>,
}

type Shared = State<Arc<Planner>>;

/// All routes.
pub(super) fn router(planner: Arc<Planner>) -> Router {
    let pdx = Router::new()
        .route("/capabilities", get(capabilities))
        .route("/flows/{flow}/deltas", post(deltas))
        .route("/flows/{flow}/watermark", get(watermark))
        .route("/jobs/{id}", get(job))
        .route("/jobs/{id}/rejects", get(rejects))
        .merge(snapshots::routes())
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX));
    Router::new()
        .nest("/pdx/v1", pdx.merge(outputs::contract()))
        .merge(outputs::routes())
        .route("/oauth2/token", post(token))
        .route("/", get(|| async { Html(include_str!("page.html")) }))
        .route("/entities", get(entities))
        .route("/entities/{flow}", get(rows))
        .route("/entities/{flow}/{*key}", get(row))
        .route("/stats", get(|State(planner): Shared| async move { Json(planner.intake.counters.read()) }))
        .route("/faults", get(|State(planner): Shared| async move { Json(planner.dice.faults()) }).post(set_faults))
        .with_state(planner)
}

async fn deltas(
    State(planner): Shared,
    Path(flow): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Response> {
    planner.guard.admit(&headers, &body).map_err(IntoResponse::into_response)?;
    planner.fate().await?;
    if let Some(wait) = planner.dice.defers() {
        let id = planner.jobs.begin();
        let location = format!("/pdx/v1/jobs/{id}");
        planner.intake.counters.add(&PlannerCounts { deferred: 1, ..PlannerCounts::default() });
        // A receiver that is stopped does not wait for what it accepted.
        let planner = Arc::downgrade(&planner);
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            let Some(planner) = planner.upgrade() else { return };
            let faults = planner.dice.faults();
            planner.jobs.end(&id, planner.intake.receive(&flow, &headers, &body, &faults).await);
        });
        return Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)]).into_response());
    }
    let answered = planner.intake.receive(&flow, &headers, &body, &planner.dice.faults()).await;
    if planner.dice.loses_reply() {
        return Ok(planner.lose_reply());
    }
    match answered {
        Ok(receipt) => Ok(json_text(receipt)),
        Err(refusal) => Err(refusal.into_response()),
    }
}

async fn job(State(planner): Shared, Path(id): Path<String>, headers: HeaderMap) -> Result<Response, Response> {
    planner.guard.admit(&headers, &[]).map_err(IntoResponse::into_response)?;
    planner.fate().await?;
    planner.jobs.report(&id).map(|report| Json(report).into_response()).map_err(IntoResponse::into_response)
}

#[derive(Deserialize)]
struct FromCursor {
    #[serde(default)]
    cursor: usize,
}

async fn rejects(
    State(planner): Shared,
    Path(id): Path<String>,
    Query(from): Query<FromCursor>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    planner.guard.admit(&headers, &[]).map_err(IntoResponse::into_response)?;
    planner.fate().await?;
    let page = planner.jobs.rejects(&id, from.cursor);
    page.map(|page| Json(page).into_response()).map_err(IntoResponse::into_response)
}

#[derive(Deserialize)]
struct OfPartition {
    partition: u32,
}

async fn watermark(
    State(planner): Shared,
    Path(flow): Path<String>,
    Query(of): Query<OfPartition>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    planner.guard.admit(&headers, &[]).map_err(IntoResponse::into_response)?;
    planner.fate().await?;
    let (_, entity) = find(&flow).map_err(IntoResponse::into_response)?;
    let found = planner.read(move |connection| read::watermark(connection, entity, of.partition)).await;
    found.map(|watermark| Json(watermark).into_response()).map_err(IntoResponse::into_response)
}

async fn capabilities(State(planner): Shared, headers: HeaderMap) -> Result<Response, Refusal> {
    planner.guard.admit(&headers, &[])?;
    let flows: serde_json::Map<String, serde_json::Value> = entity::all()
        .iter()
        .map(|entity| {
            let schema = format!("{}.{}", entity.version.0, entity.version.1);
            let flow = json!({ "schemas": [schema], "delete": true, "ordering": "partition",
                               "max_records": 10_000, "max_bytes": BODY_BYTES_MAX });
            (entity.name.clone(), flow)
        })
        .collect();
    let answer = json!({ "contract_versions": ["1"], "flows": flows, "content_types": FORMATS.map(Format::media_type),
                "content_encodings": COMPRESSIONS.map(Compression::encoding) });
    Ok(Json(answer).into_response())
}

async fn token(State(planner): Shared, headers: HeaderMap, body: Bytes) -> Result<Response, StatusCode> {
    Ok(Json(planner.guard.token(&headers, &body)?).into_response())
}

async fn entities(State(planner): Shared) -> Result<Response, Refusal> {
    Ok(Json(planner.read(read::counts).await?).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PageOf {
    #[serde(default)]
    after: String,
    limit: Option<u32>,
    #[serde(default)]
    tombstones: bool,
}

async fn rows(
    State(planner): Shared,
    Path(flow): Path<String>,
    Query(page): Query<PageOf>,
) -> Result<Response, Refusal> {
    let (_, entity) = find(&flow)?;
    let limit = page.limit.unwrap_or(PAGE_ROWS).clamp(1, PAGE_ROWS_MAX);
    let found =
        planner.read(move |connection| read::page(connection, entity, &page.after, limit, page.tombstones)).await?;
    Ok(Json(found).into_response())
}

async fn row(State(planner): Shared, Path((flow, _)): Path<(String, String)>, uri: Uri) -> Result<Response, Refusal> {
    let (_, entity) = find(&flow)?;
    // The raw path, as a value may hold an encoded slash.
    let raw: Vec<&str> = uri.path().splitn(4, '/').nth(3).unwrap_or_default().split('/').collect();
    let key = key_of(entity, &raw)?;
    let found = planner.read(move |connection| read::row(connection, entity, &key)).await?;
    found.map(|row| Json(row).into_response()).ok_or_else(|| {
        Refusal::new(StatusCode::NOT_FOUND, "unknown-key", format!("{} holds no row of this key", entity.name))
    })
}

/// The stored form of a key given as path segments; trailing empty values may be left out.
fn key_of(entity: &Entity, segments: &[&str]) -> Result<String, Refusal> {
    let fields = &entity.fields[..entity.key_len()];
    let bad = || {
        let names: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
        Refusal::new(StatusCode::BAD_REQUEST, "bad-key", format!("wanted the key as /{}", names.join("/")))
    };
    if segments.len() > fields.len() {
        return Err(bad());
    }
    let values = fields.iter().enumerate().map(|(i, field)| {
        let text = percent_decoded(segments.get(i).copied().unwrap_or_default()).ok_or_else(bad)?;
        Ok(match field.field_type {
            FieldType::Boolean | FieldType::Integer => text,
            _ => serde_json::Value::String(text).to_string(),
        })
    });
    Ok(format!("[{}]", values.collect::<Result<Vec<_>, Refusal>>()?.join(",")))
}

fn percent_decoded(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

async fn set_faults(State(planner): Shared, Json(faults): Json<Faults>) -> Result<Response, Refusal> {
    faults.check().map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, "bad-fault", error.to_string()))?;
    planner.dice.set(faults.clone());
    Ok(Json(faults).into_response())
}

impl Planner {
    /// Lets a request meet its fate.
    pub(super) async fn fate(&self) -> Result<(), Response> {
        let (latency, fate) = self.dice.roll();
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        let mut response = match fate {
            Fate::Spared => return Ok(()),
            Fate::Error(status) => Refusal::new(status, "injected-fault", "a fault on purpose").into_response(),
            Fate::Throttled { .. } => {
                Refusal::new(StatusCode::TOO_MANY_REQUESTS, "injected-fault", "a pause on purpose").into_response()
            }
        };
        if let Fate::Throttled { retry_after_s } = fate {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry_after_s));
        }
        self.intake.counters.add(&PlannerCounts { faults: 1, ..PlannerCounts::default() });
        Err(response)
    }

    /// An answer that breaks off.
    pub(super) fn lose_reply(&self) -> Response {
        self.intake.counters.add(&PlannerCounts { faults: 1, ..PlannerCounts::default() });
        // The connection breaks where the body should be.
        let lost = futures::stream::once(async { Err::<Bytes, _>(io::Error::other("reply lost on purpose")) });
        Body::from_stream(lost).into_response()
    }

    /// Reads on a connection of its own, beside the writer.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Refusal> {
        let path = self.db.clone();
        let work = move || {
            let connection = store::open_reader(&path)?;
            question(&connection)
        };
        let answer = tokio::task::spawn_blocking(work).await.map_err(Refusal::storage)?;
        answer.map_err(Refusal::storage)
    }
}

pub(super) fn json_text(text: String) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_a_path_may_hold_slashes_and_leave_out_empty_values() {
        let entity = entity::get("inventory_balance").expect("canonical");
        let key = |segments: &[&str]| key_of(entity, segments).ok();
        assert_eq!(key(&["DE01", "4%2F7%22", "BER"]).as_deref(), Some(r#"["DE01","4/7\"","BER","",""]"#));
        assert_eq!(key(&["a", "b", "c", "", "", "f"]), None);
        assert_eq!(key(&["%F"]), None);
    }
}
