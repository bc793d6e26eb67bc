//! The control API: what the daemon is doing, for people, scripts and Prometheus.
//!
//! ```text
//! GET /         the console, one page without any outside reference
//! GET /status   every fact as JSON                          report
//! GET /metrics  the same facts as Prometheus text 0.0.4     metrics
//! GET /health   200 while nothing is parked, else 503 with the reasons
//! GET /ready    200 where every target has all of the sources up to a moment   ready
//! ```
//!
//! Whoever looks changes nothing of what the daemon delivers, so that it may be looked at from anywhere it is let listen; dead letters
//! are handled and orders given from its own machine only. The first four show
//! one [`Report`], and no secret and of rows no value is part of it, but for the keys of refused rows. Rows with their
//! values, and what operators say of them, are asked for by name: [`rows`], [`letters`] and [`orders`]; [`replay`] says what other mappings would change,
//! [`snapshot`] has a table read anew, [`lake`] shows what there is in lakes and has snapshots taken. Planning platforms say by [`hooks`] that they have published something.

pub(crate) mod hooks;
pub(crate) mod lake;
pub(crate) mod letters;
mod metrics;
pub(crate) mod orders;
mod ready;
pub(crate) mod replay;
mod report;
pub(crate) mod rows;
pub(crate) mod snapshot;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::extract::connect_info::Connected;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::serve::IncomingStream;
use axum::{Json, Router};
use syncline_journal::{Log, Store};
use thiserror::Error;
use tokio::net::TcpListener;

pub(crate) use self::report::{Held, Report, Sink, Source};
use crate::pipeline::status::Status;

/// The page may run what stands in it and talk to this daemon, and nothing else.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
                           img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
                           frame-ancestors 'none'";
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Why there is no control API.
#[derive(Debug, Error)]
#[error("cannot listen at {listen}: {error}; set listen in [daemon] to an address of this machine that is free")]
pub(crate) struct ListenError {
    listen: SocketAddr,
    #[source]
    error: std::io::Error,
}

/// Where the facts are.
pub(crate) struct Facts {
    /// The pipeline's name.
    pub(crate) name: String,
    pub(crate) status: Arc<Status>,
    pub(crate) log: Log,
    pub(crate) store: Store,
    /// How long a row may wait for a master before it is listed as an exception.
    pub(crate) park_ttl: Duration,
    /// Who may say that there is something to read.
    pub(crate) hooks: Vec<hooks::Hook>,
}

/// The ends of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends {
    peer: SocketAddr,
    local: Option<SocketAddr>,
}

impl Ends {
    /// True where both are of this machine.
    pub(crate) fn are_here(self) -> bool {
        let peer = self.peer.ip().to_canonical();
        peer.is_loopback() || self.local.is_some_and(|local| local.ip().to_canonical() == peer)
    }
}

impl Connected<IncomingStream<'_, TcpListener>> for Ends {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        Self { peer: *stream.remote_addr(), local: stream.io().local_addr().ok() }
    }
}

/// Takes the address, so that a daemon that nobody could ask does not start.
pub(crate) async fn bind(listen: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(listen).await.map_err(|error| ListenError { listen, error })
}

/// Answers until it is dropped.
pub(crate) async fn serve(listener: TcpListener, facts: Arc<Facts>) {
    let served = axum::serve(listener, router(facts).into_make_service_with_connect_info::<Ends>()).await;
    if let Err(error) = served {
        tracing::error!(%error, "control API ended");
    }
}

fn router(facts: Arc<Facts>) -> Router {
    Router::new()
        .route("/", get(console))
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .route("/health", get(health))
        .merge(rows::routes())
        .merge(letters::routes())
        .merge(orders::routes())
        .merge(hooks::routes())
        .merge(ready::routes())
        .merge(replay::routes())
        .merge(snapshot::routes())
        .merge(lake::routes())
        .with_state(facts)
}

/// An answer holds for its moment only.
fn fresh<const N: usize>(headers: [(HeaderName, &'static str); N], body: impl IntoResponse) -> Response {
    ([(header::CACHE_CONTROL, "no-store")], headers, body).into_response()
}

async fn console() -> Response {
    fresh([(header::CONTENT_SECURITY_POLICY, PAGE_POLICY)], Html(include_str!("console.html")))
}

async fn status(State(facts): State<Arc<Facts>>) -> Response {
    fresh([], Json(Report::take(&facts)))
}

async fn metrics(State(facts): State<Arc<Facts>>) -> Response {
    fresh([(header::CONTENT_TYPE, METRICS_TYPE)], metrics::render(&Report::take(&facts), &facts.status))
}

async fn health(State(facts): State<Arc<Facts>>) -> Response {
    let parked = facts.status.parked();
    let (code, word) =
        if parked.is_empty() { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "parked") };
    (code, fresh([], Json(serde_json::json!({ "status": word, "parked": parked })))).into_response()
}

#[cfg(test)]
mod tests;
