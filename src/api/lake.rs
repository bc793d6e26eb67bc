//! What there is in the lakes, and snapshots of them.
//!
//! ```text
//! GET  /tables                   per lake its tables, its cut and its snapshots
//! POST /sinks/SINK/snapshots     {"tag": "cycle-31", "order": "..."} -> the manifest, or 202 while it is being taken
//!                                {"tag": "cycle-31", "drop": true}   -> the snapshot is given up
//! ```
//!
//! The same order twice is one order, so whoever is told 202 asks again until it is done. What is given up cannot be brought
//! back, so only this machine may order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use syncline_sinks::lake::{Catalog, Manifest, Order};

use super::letters::changed_from_here;
use super::rows::{known_host, refused};
use super::{Facts, fresh};
use crate::pipeline::snapshots::Desk;

/// How long an answer waits for a snapshot.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What is wanted.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    pub(crate) tag: String,
    /// The same for every repeat.
    #[serde(default)]
    pub(crate) order: Option<String>,
    #[serde(default)]
    pub(crate) drop: bool,
}

/// What became of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "state")]
pub(crate) enum Outcome {
    /// It is being taken.
    Begun,
    /// It is there.
    Taken {
        /// What it is.
        snapshot: Box<Manifest>,
    },
    /// It is there no more.
    Dropped,
}

/// The lakes by their sinks' names.
pub(crate) type Lakes = BTreeMap<String, Catalog>;

pub(super) fn routes() -> Router<Arc<Facts>> {
    Router::new()
        .route("/tables", get(tables))
        .route("/sinks/{sink}/snapshots", post(snapshot))
        .layer(axum::middleware::from_fn(changed_from_here))
        .layer(axum::middleware::from_fn(known_host))
}

async fn tables(State(facts): State<Arc<Facts>>) -> Response {
    let mut lakes = Lakes::new();
    for sink in &facts.status.sinks {
        let Some(desk) = sink.snapshots.get() else { continue };
        match desk.snapshots.catalog().await {
            Ok(catalog) => lakes.insert(sink.name.clone(), catalog),
            Err(error) => return refused(StatusCode::BAD_GATEWAY, &format!("sink {}: {error}", sink.name)),
        };
    }
    fresh([], Json(lakes))
}

async fn snapshot(State(facts): State<Arc<Facts>>, Path(name): Path<String>, Json(asked): Json<Asked>) -> Response {
    let Some(sink) = facts.status.sinks.iter().find(|sink| sink.name == name) else {
        return refused(StatusCode::NOT_FOUND, &format!("there is no sink {name}"));
    };
    let Some(desk) = sink.snapshots.get().map(Arc::clone) else {
        return refused(StatusCode::CONFLICT, &format!("sink {name} is no lake, and only lakes have snapshots"));
    };
    let outcome = if asked.drop { drop(&desk, &asked.tag).await } else { take(desk, &asked).await };
    match outcome {
        Ok(Outcome::Begun) => (StatusCode::ACCEPTED, fresh([], Json(Outcome::Begun))).into_response(),
        Ok(outcome) => fresh([], Json(outcome)),
        Err(reason) => refused(StatusCode::CONFLICT, &reason),
    }
}

async fn take(desk: Arc<Desk>, asked: &Asked) -> Result<Outcome, String> {
    let order = Order::tagged(&asked.tag, asked.order.as_deref());
    match tokio::time::timeout(PATIENCE, desk.order(order)).await {
        Ok(taken) => Ok(Outcome::Taken { snapshot: Box::new(taken?) }),
        Err(_) => Ok(Outcome::Begun),
    }
}

async fn drop(desk: &Desk, tag: &str) -> Result<Outcome, String> {
    match desk.snapshots.give_up_tag(tag).await {
        Ok(true) => Ok(Outcome::Dropped),
        Ok(false) => Err(format!("there is no snapshot {tag}")),
        Err(error) => Err(error.to_string()),
    }
}
