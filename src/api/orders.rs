//! What targets are sent beside their deltas, because an operator wants it.
//!
//! ```text
//! GET  /sinks/SINK/orders     what is still to be sent, and what was
//! POST /sinks/SINK/orders     {"entities": [...], "key": ..., "full": true}    current rows
//!                             {"from": "OFFSET or TIME", "entities": [...], "key": ...}   deltas once more
//! ```
//!
//! A target keeps the newest version of each key, so nothing that is sent twice does harm; what `full` takes away cannot be
//! brought back, so only this machine may order it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use syncline_journal::{Commit, Durability, Log, Store};
use syncline_schemas::ident::LogOffset;

use super::letters::changed_from_here;
use super::rows::{known_host, refused};
use super::{Facts, fresh};
use crate::pipeline::lag;
use crate::pipeline::load::{Carried, ORDERS, Order, carried, orders};
use crate::pipeline::outbox::Outbox;
use crate::pipeline::redeliver;

/// What is wanted.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Asked {
    /// All that the sink delivers where there are none.
    pub(crate) entities: Vec<String>,
    /// One row: the values of its key, with commas between.
    pub(crate) key: Option<String>,
    /// Current rows, and what the target has beyond them is taken away.
    pub(crate) full: bool,
    /// Deltas behind an offset, or of a time on, instead of current rows.
    pub(crate) from: Option<String>,
    pub(crate) note: String,
}

/// What there is.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Orders {
    pub(crate) pending: Vec<Order>,
    /// The oldest first.
    pub(crate) carried_out: Vec<Carried>,
}

pub(super) fn routes() -> Router<Arc<Facts>> {
    Router::new()
        .route("/sinks/{sink}/orders", get(list).post(order))
        .layer(axum::middleware::from_fn(changed_from_here))
        .layer(axum::middleware::from_fn(known_host))
}

impl Asked {
    /// The orders, of a sink that delivers some entities and has confirmed deltas up to an offset; or what is wrong.
    pub(crate) fn orders(
        &self,
        delivered: &[String],
        log: &Log,
        store: &Store,
        confirmed: LogOffset,
    ) -> Result<Vec<Order>, String> {
        if let Some(unknown) = self.entities.iter().find(|entity| !delivered.contains(entity)) {
            return Err(format!("the sink delivers no {unknown} that a mapping fills"));
        }
        let at_ms = u64::try_from(lag::now_us() / 1_000).unwrap_or_default();
        let span = self.from.as_ref().map(|from| span(from, log, store, confirmed)).transpose()?;
        let order = |entity: Option<&String>| Order {
            entity: entity.cloned(),
            key: self.key.clone(),
            sweep: self.full,
            needed: false,
            span,
            at_ms,
            note: self.note.clone(),
        };
        let orders: Vec<Order> = match (&self.entities[..], span) {
            ([], Some(_)) => vec![order(None)],
            ([], None) => delivered.iter().map(Some).map(order).collect(),
            (wanted, _) => wanted.iter().map(Some).map(order).collect(),
        };
        if self.key.is_some() && (self.full || self.entities.len() != 1) {
            return Err("a key is one row of one entity, and nothing is taken away for it".to_owned());
        }
        match orders.iter().find_map(Order::fault) {
            Some(fault) => Err(fault),
            None => Ok(orders),
        }
    }
}

/// The deltas that an offset or a time begins.
fn span(from: &str, log: &Log, store: &Store, confirmed: LogOffset) -> Result<(u64, u64), String> {
    let after = match (from.parse::<u64>(), from.parse::<DateTime<Utc>>()) {
        (Ok(offset), _) => LogOffset(offset),
        (_, Ok(time)) => redeliver::before(log, time.timestamp_micros()).map_err(|error| error.to_string())?,
        _ => return Err("from is a log offset, or an instant as in 2026-05-26T22:00:00Z".to_owned()),
    };
    let trimmed = Outbox::new(store.clone()).trimmed().map_err(|error| error.to_string())?;
    if after < trimmed {
        return Err(format!(
            "deltas up to {trimmed} are gone, and it is to begin behind {after}: send current rows instead (without \
             --from), and keep deltas for longer with delta_retention in [daemon]"
        ));
    }
    if after >= confirmed {
        return Err(format!("nothing behind {after} has been delivered yet: the sink has confirmed {confirmed}"));
    }
    Ok((after.0, confirmed.0))
}

async fn list(State(facts): State<Arc<Facts>>, Path(name): Path<String>) -> Response {
    if !facts.status.sinks.iter().any(|sink| sink.name == name) {
        return refused(StatusCode::NOT_FOUND, &format!("there is no sink {name}"));
    }
    let found = tokio::task::spawn_blocking(move || {
        Ok::<_, syncline_sinks::SinkError>(Orders {
            pending: orders(&facts.store, &name)?,
            carried_out: carried(&facts.store, &name)?,
        })
    });
    match found.await {
        Ok(Ok(orders)) => fresh([], Json(orders)),
        Ok(Err(error)) => refused(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        Err(error) => refused(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

async fn order(State(facts): State<Arc<Facts>>, Path(name): Path<String>, Json(asked): Json<Asked>) -> Response {
    let Some(sink) = facts.status.sinks.iter().position(|sink| sink.name == name) else {
        return refused(StatusCode::NOT_FOUND, &format!("there is no sink {name}"));
    };
    let ordered = tokio::task::spawn_blocking(move || {
        let sink = &facts.status.sinks[sink];
        if let Some(reason) = sink.parked.reason() {
            return Err(format!(
                "the sink is parked: {reason}; stop the daemon, order it with the daemon stopped, and start it again"
            ));
        }
        let Some(delivered) = sink.loadable.get() else {
            return Err(format!("sink {name} takes deltas alone"));
        };
        let confirmed = LogOffset(sink.cursor.load(Ordering::Acquire));
        let orders = asked.orders(delivered, &facts.log, &facts.store, confirmed)?;
        give(&facts.store, &name, &orders, Commit::new())?;
        let pending = orders.len() as u64;
        sink.loads.fetch_add(pending, Ordering::AcqRel);
        sink.ordered.notify_one();
        sink.once_more.notify_one();
        Ok(Orders { pending: orders, carried_out: Vec::new() })
    });
    match ordered.await {
        Ok(Ok(orders)) => fresh([], Json(orders)),
        Ok(Err(reason)) => refused(StatusCode::CONFLICT, &reason),
        Err(error) => refused(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

/// Writes orders down as part of a commit, for whoever carries them out.
pub(crate) fn give(store: &Store, sink: &str, orders: &[Order], mut commit: Commit) -> Result<(), String> {
    let _one_at_a_time = ORDERS.lock().unwrap_or_else(PoisonError::into_inner);
    for order in orders {
        order.clone().added_to(store, sink).map_err(|error| error.to_string())?.put(sink, &mut commit);
    }
    store.commit(commit, Durability::Synced).map_err(|error| error.to_string())
}
