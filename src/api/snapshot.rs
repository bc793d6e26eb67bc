//! `POST /snapshot/SOURCE`: a table is read anew beside the stream, and what the source has no more is taken back.
//!
//! ```text
//! {"table": "public.orders"} -> {"source": "erp", "table": "public.orders"} once that has begun
//! ```
//!
//! It delivers only what differs, so that asking for it in vain harms nobody.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::post;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use syncline_schemas::ident::TableId;

use super::rows::{known_host, refused};
use super::{Facts, fresh};

/// How long a source may take to come to the end of a transaction.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Which table.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Asked {
    /// With its schema.
    pub(crate) table: String,
}

/// What has begun.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Begun {
    pub(crate) source: String,
    pub(crate) table: String,
}

pub(super) fn routes() -> Router<Arc<Facts>> {
    Router::new().route("/snapshot/{source}", post(snapshot)).layer(axum::middleware::from_fn(known_host))
}

async fn snapshot(State(facts): State<Arc<Facts>>, Path(name): Path<String>, Json(asked): Json<Asked>) -> Response {
    let Some(source) = facts.status.sources.iter().position(|source| source.name == name) else {
        return refused(StatusCode::NOT_FOUND, &format!("there is no source {name}"));
    };
    if let Some(reason) = facts.status.sources[source].kind.refuses_reading_anew() {
        return refused(StatusCode::CONFLICT, reason);
    }
    let Some((schema, table)) = asked.table.split_once('.') else {
        return refused(StatusCode::BAD_REQUEST, "a table is named with its schema, as in public.orders");
    };
    let table = TableId::new(schema, table);
    let begun = tokio::task::spawn_blocking(move || {
        let source = &facts.status.sources[source];
        match source.parked.reason() {
            Some(reason) => Err(format!("the source is parked: {reason}")),
            None => source.requests.read_anew(table, PATIENCE),
        }
    });
    match begun.await {
        Ok(Ok(())) => fresh([], Json(Begun { source: name, table: asked.table })),
        Ok(Err(reason)) => refused(StatusCode::CONFLICT, &reason),
        Err(error) => refused(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}
