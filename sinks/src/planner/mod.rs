//! The reference receiver of PDX/1: a planning platform in one process and one SQLite file.
//!
//! For the demo, for tests and for integrators who want to see what a receiver must do: per key the highest version
//! wins, tombstones included; a repeated request gets its first answer; a gap, a reused key and an old epoch are refused
//! by name. It counts what must never happen (`went_backwards`) and misbehaves on demand ([`Faults`]).
//!
//! ```text
//! /pdx/v1/outputs/{output}?cycle=&cursor=
//! /pdx/v1/capabilities   /pdx/v1/flows/{flow}/deltas   /pdx/v1/flows/{flow}/watermark?partition=
//! /pdx/v1/jobs/{id}   /pdx/v1/jobs/{id}/rejects?cursor=
//! /pdx/v1/flows/{flow}/snapshots   .../{id}/parts/{n}   .../{id}:commit   .../{id}:abort
//! /pdx/v1/flows/{flow}/digest?level=&bucket=
//! /                      a page for people
//! /entities              [{entity, rows, tombstones, max_version}]
//! /entities/{flow}       ?after=&limit=&tombstones=true  ->  {rows: [{key, version, deleted, data}], next}
//! /entities/{flow}/{key values, one segment each}  ->  one row, or its tombstone
//! /outputs/{output}      POST ?cycle=  {rows: [...]}  publishes a cycle
//! /stats                 counters since the start
//! /faults                GET and POST
//! /oauth2/token          a token for client credentials
//! ```

mod access;
mod batch;
mod deltas;
mod encoding;
mod faults;
mod http;
mod jobs;
mod loads;
mod outputs;
mod problem;
mod read;
mod snapshots;
mod stats;
mod store;
mod value;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::serve::ListenerExt as _;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::SinkError;
pub use access::Access;
use access::Guard;
pub use faults::{Faults, Poison};
pub use outputs::OutputsHook;
pub use stats::PlannerCounts;

/// Batches that wait for the writer before requests wait at the door.
const QUEUE: usize = 64;

/// Settings of a receiver.
#[derive(Debug, Clone)]
pub struct PlannerConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The SQLite file, made where there is none.
    pub db: PathBuf,
    /// Faults from the start.
    pub faults: Faults,
    /// What senders must prove.
    pub access: Access,
}

/// A running receiver; dropping it stops it without waiting.
#[derive(Debug)]
pub struct Running {
    /// Where it listens.
    pub addr: SocketAddr,
    guard: Arc<Guard>,
    hooks: Arc<outputs::Hooks>,
    stop: oneshot::Sender<()>,
    server: JoinHandle<Result<(), SinkError>>,
}

/// Starts a receiver on the current tokio runtime.
///
/// # Errors
/// [`SinkError::Local`] where the file cannot be opened or the address is taken, [`SinkError::Setting`] for a bad fault.
pub async fn serve(config: PlannerConfig) -> Result<Running, SinkError> {
    config.faults.check()?;
    let connection = store::open(&config.db)?;
    let (writer, jobs) = mpsc::channel(QUEUE);
    let place = config.db.display().to_string();
    let spawned = std::thread::Builder::new().name("planner-writer".into()).spawn({
        let place = place.clone();
        move || {
            if let Err(error) = store::run(&connection, jobs) {
                tracing::error!(place = %place, error = %error, "the planner's database failed");
            }
        }
    });
    let thread =
        spawned.map_err(|error| SinkError::Local { place, reason: format!("cannot start a thread: {error}") })?;
    let fault = |error: std::io::Error| SinkError::Local {
        place: config.listen.to_string(),
        reason: format!("cannot listen: {error}; choose another address"),
    };
    let listener = TcpListener::bind(config.listen).await.map_err(fault)?;
    let addr = listener.local_addr().map_err(fault)?;
    let guard = Arc::new(Guard::new(config.access));
    let hooks = outputs::Hooks::new(addr);
    let planner = Arc::new(http::Planner {
        db: config.db,
        guard: Arc::clone(&guard),
        jobs: jobs::Jobs::default(),
        intake: deltas::Intake {
            writer,
            counters: stats::Counters::default(),
            in_progress: deltas::InProgress::default(),
        },
        dice: faults::Dice::new(config.faults),
        hooks: Arc::clone(&hooks),
    });
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(async move {
        let listener = listener.tap_io(|stream| {
            // A reply must not wait for more to send; where that cannot be set it is merely slower.
            let _ = stream.set_nodelay(true);
        });
        let served = axum::serve(listener, http::router(planner))
            .with_graceful_shutdown(async {
                let _ = stopped.await;
            })
            .await;
        // The router held the last sender, so the writer ends once it has done what was queued.
        let ended = tokio::task::spawn_blocking(move || thread.join()).await;
        let fault = |reason: &str| SinkError::Local { place: addr.to_string(), reason: reason.to_owned() };
        served.map_err(|error| fault(&format!("cannot serve: {error}")))?;
        match ended {
            Ok(Ok(())) => Ok(()),
            _ => Err(fault("the writer panicked")),
        }
    });
    Ok(Running { addr, guard, hooks, stop, server })
}

impl Running {
    /// Asks senders for something else from now on.
    pub fn require(&self, access: Access) {
        self.guard.replace(access);
    }

    /// Tells these from now on of every cycle that is published.
    pub fn announce_outputs_to(&self, hooks: Vec<OutputsHook>) {
        self.hooks.replace(hooks);
    }

    /// Stops: no new requests, those under way are answered, the file is closed.
    ///
    /// # Errors
    /// What kept it from stopping cleanly.
    pub async fn shutdown(self) -> Result<(), SinkError> {
        // An error means that it has stopped already.
        let _ = self.stop.send(());
        self.server
            .await
            .map_err(|error| SinkError::Local { place: self.addr.to_string(), reason: format!("panicked: {error}") })?
    }

    /// Waits until it stops by itself, which it does only on an error.
    ///
    /// # Errors
    /// Why it stopped.
    pub async fn wait(&mut self) -> Result<(), SinkError> {
        (&mut self.server)
            .await
            .map_err(|error| SinkError::Local { place: self.addr.to_string(), reason: format!("panicked: {error}") })?
    }
}
