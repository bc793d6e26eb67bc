//! `/flows/{flow}/snapshots` and `/flows/{flow}/digest`: full loads, and what is held in a form that can be compared.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use syncline_schemas::entity::Entity;
use syncline_schemas::ident::Version;
use tokio::sync::oneshot;

use super::batch::{self, Records};
use super::deltas::{check_schema, find};
use super::http::{BODY_BYTES_MAX, Planner, json_text};
use super::loads::{Load, Step};
use super::problem::Refusal;
use super::store::Work;
use super::{encoding, read};
use crate::planning::contract::{self, CONTENT_DIGEST, DIGEST_MISMATCH, IDEMPOTENCY_KEY, SCHEMA};
use crate::planning::digest::BUCKETS;
use crate::planning::snapshot::{Begin, Commit};

type Shared = State<Arc<Planner>>;

pub(super) fn routes() -> Router<Arc<Planner>> {
    Router::new()
        .route("/flows/{flow}/snapshots", post(begin))
        .route("/flows/{flow}/snapshots/{id}", post(end))
        .route("/flows/{flow}/snapshots/{id}/parts/{number}", put(part))
        .route("/flows/{flow}/digest", get(digest))
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn bad(name: &str, detail: impl Into<String>) -> Response {
    Refusal::new(StatusCode::BAD_REQUEST, name, detail).into_response()
}

impl Planner {
    /// Lets a request in and meet its fate.
    async fn admit(&self, headers: &HeaderMap, body: &[u8]) -> Result<(), Response> {
        self.guard.admit(headers, body).map_err(IntoResponse::into_response)?;
        self.fate().await
    }

    async fn step(&self, step: Step) -> Result<Response, Response> {
        let (reply, outcome) = oneshot::channel();
        let done = self.intake.write(Work::Load(Load { step, reply }), outcome).await;
        if self.dice.loses_reply() {
            return Ok(self.lose_reply());
        }
        done.map(json_text).map_err(IntoResponse::into_response)
    }
}

async fn begin(
    State(planner): Shared,
    Path(flow): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Response> {
    planner.admit(&headers, &body).await?;
    let (place, entity) = find(&flow).map_err(IntoResponse::into_response)?;
    check_schema(entity, text(&headers, SCHEMA)).map_err(IntoResponse::into_response)?;
    let begin: Begin = serde_json::from_slice(&body).map_err(|error| bad("malformed-snapshot", error.to_string()))?;
    let cut: Version = begin.cut.parse().map_err(|_| bad("malformed-snapshot", "cut: wanted 32 hex digits"))?;
    if let Some(fault) = scope_fault(entity, &begin) {
        return Err(bad("malformed-snapshot", fault));
    }
    let key = text(&headers, IDEMPOTENCY_KEY);
    let key = key.strip_prefix('"').and_then(|key| key.strip_suffix('"')).filter(|key| !key.is_empty());
    let idempotency_key =
        key.ok_or_else(|| bad("bad-header", format!("{IDEMPOTENCY_KEY}: wanted a quoted string")))?.to_owned();
    planner.step(Step::Begin { flow: place, idempotency_key, cut, begin }).await
}

/// What is wrong with a scope: one that is not understood would sweep too much.
fn scope_fault(entity: &Entity, begin: &Begin) -> Option<String> {
    let key = &entity.fields[..entity.key_len()];
    let is_wrong = |(name, value): &(&String, &Value)| {
        !key.iter().any(|field| field.name == **name) || value.is_object() || value.is_array() || value.is_null()
    };
    begin.scope.iter().find(is_wrong).map(|(name, _)| format!("scope: {name} is no key field with one value"))
}

async fn part(
    State(planner): Shared,
    Path((flow, id, number)): Path<(String, String, u64)>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Response> {
    planner.admit(&headers, &body).await?;
    let (place, entity) = find(&flow).map_err(IntoResponse::into_response)?;
    check_schema(entity, text(&headers, SCHEMA)).map_err(IntoResponse::into_response)?;
    let sha256 = contract::sha256(&body);
    if text(&headers, CONTENT_DIGEST) != contract::content_digest(&sha256) {
        return Err(bad(DIGEST_MISMATCH, "the body is not the one that Content-Digest names"));
    }
    if number == 0 || i64::try_from(number).is_err() {
        return Err(bad("malformed-snapshot", "parts are numbered from 1"));
    }
    let _claim = planner.intake.in_progress.claim(&format!("{id}/{number}")).map_err(IntoResponse::into_response)?;
    let format = encoding::format(&headers).map_err(IntoResponse::into_response)?;
    let plain = encoding::decompressed(&headers, &body, BODY_BYTES_MAX).map_err(IntoResponse::into_response)?;
    let mut batch = encoding::as_json(entity, format, plain)
        .and_then(|body| batch::read(entity, &body, Records::Whole))
        .map_err(|reason| bad("malformed-batch", reason))?;
    batch.refuse(entity, &planner.dice.faults()).map_err(IntoResponse::into_response)?;
    planner.step(Step::Part { flow: place, id, number, sha256, batch }).await
}

async fn end(
    State(planner): Shared,
    Path((flow, ending)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Response> {
    planner.admit(&headers, &body).await?;
    let (place, _) = find(&flow).map_err(IntoResponse::into_response)?;
    let step = match ending.rsplit_once(':') {
        Some((id, "commit")) => {
            let commit: Commit =
                serde_json::from_slice(&body).map_err(|error| bad("malformed-snapshot", error.to_string()))?;
            Step::Commit { flow: place, id: id.to_owned(), commit }
        }
        Some((id, "abort")) => Step::Abort { flow: place, id: id.to_owned() },
        _ => return Err(bad("malformed-snapshot", "wanted the id followed by :commit or :abort")),
    };
    planner.step(step).await
}

#[derive(Deserialize)]
struct Wanted {
    #[serde(default)]
    level: u8,
    bucket: Option<u64>,
    as_of: Option<String>,
}

async fn digest(
    State(planner): Shared,
    Path(flow): Path<String>,
    Query(wanted): Query<Wanted>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    planner.admit(&headers, &[]).await?;
    let (_, entity) = find(&flow).map_err(IntoResponse::into_response)?;
    if wanted.as_of.is_some() {
        return Err(bad("as-of-unsupported", "this side keeps no older rows: ask without as_of"));
    }
    let answer: Value = match (wanted.level, wanted.bucket) {
        (0, None) => planner
            .read(move |connection| read::digest(connection, entity))
            .await
            .map(|all| json!({ "flow": entity.name, "level": 0, "count": all.count, "digest": all.to_hex() })),
        (1, None) => planner.read(move |connection| read::buckets(connection, entity)).await.map(|buckets| {
            let buckets: Vec<Value> = buckets
                .into_iter()
                .map(|(bucket, it)| json!({ "bucket": bucket, "count": it.count, "digest": it.to_hex() }))
                .collect();
            json!({ "flow": entity.name, "level": 1, "buckets": buckets })
        }),
        (2, Some(bucket)) if bucket < BUCKETS => planner
            .read(move |connection| read::bucket(connection, entity, bucket))
            .await
            .map(|rows| json!({ "flow": entity.name, "level": 2, "bucket": bucket, "rows": rows })),
        _ => return Err(bad("bad-digest", format!("wanted level 0 or 1, or level 2 with a bucket below {BUCKETS}"))),
    }
    .map_err(IntoResponse::into_response)?;
    Ok(axum::Json(answer).into_response())
}
