//! The daemon's parts put together: sources, transform and sinks around one journal.
//!
//! ```text
//! capture-<source> threads -> log -> transform thread -> outbox -> sink-<name> threads
//! ```
//!
//! Nothing but the journal connects the stages, so each can stop, fail or be slow alone. Supervision is by part: what a
//! retry can mend is retried with a growing pause, what it cannot mend is parked with its reason while the others go on.

pub(crate) mod accept;
mod backoff;
mod capture;
mod claim;
mod defect;
mod deliver;
pub(crate) mod explain;
mod fit;
pub(crate) mod held;
mod housekeeping;
pub(crate) mod lag;
pub(crate) mod load;
pub(crate) mod memory;
mod observed;
mod operations;
pub(crate) mod outbox;
pub(crate) mod outputs;
pub(crate) mod pressure;
mod reached;
pub(crate) mod redeliver;
pub(crate) mod refused;
pub(crate) mod rehearse;
mod replay;
pub(crate) mod rows;
pub(crate) mod snapshots;
mod state;
pub(crate) mod status;
mod transform;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use syncline_capture::StopSignal;
use syncline_journal::{Journal, JournalError, Limits, Log, OpenLog, Store};
use syncline_schemas::ident::SourceId;
use syncline_sinks::discard::Discard;
use syncline_sinks::lake::LakeSink;
use syncline_sinks::planning::{self, PlanningSink, PlanningStats};
use syncline_sinks::profile::ProfileSink;
use syncline_sinks::{EntityPatterns, Sink, SinkError};
use syncline_transform::TransformError;
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinHandle as Task;

use self::capture::Sources;
use self::deliver::{Mode, Pump};
use self::housekeeping::{Folder, Kept};
use self::operations::Recorder;
use self::snapshots::{Desk, Worker};
use self::status::Status;
use self::transform::Transform;
use crate::config::{Config, SinkConfig, SinkKind, SourceConfig, SourceKind};

/// How long a stopping daemon waits for writes under way; what is not confirmed by then is written again next time.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// Why the daemon did not start or ended.
#[derive(Debug, Error)]
pub(crate) enum PipelineError {
    /// The data folder cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The mappings cannot go on from the state.
    #[error(transparent)]
    Transform(#[from] TransformError),
    /// A sink cannot be set up.
    #[error("sink {name}: {error}")]
    Sink {
        /// Its configured name.
        name: String,
        /// What is wrong.
        #[source]
        error: SinkError,
    },
    /// The system gives no thread.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
    /// Parts stopped for good.
    #[error("stopped: {0}")]
    Parked(String),
}

/// A running daemon.
pub(crate) struct Pipeline {
    pub(crate) status: Arc<Status>,
    pub(crate) log: Log,
    pub(crate) store: Store,
    stop_sources: StopSignal,
    stop_transform: StopSignal,
    threads: Vec<JoinHandle<()>>,
    mode: watch::Sender<Mode>,
    /// What ends with the process wherever it is.
    beside: Vec<Task<()>>,
}

impl Pipeline {
    /// Opens the journal and starts every part. Databases that go on where the log stands are read from the moment that it
    /// is open; what begins does so once log, state and mappings are known to be fit, because it changes its server.
    pub(crate) fn start(mut config: Config, status: Arc<Status>) -> Result<Self, PipelineError> {
        let opening = OpenLog::open(&config.data_dir, Limits::within(config.memory_limit))?;
        let urgent = urgent(&config.sinks);
        let sinks = std::mem::take(&mut config.sinks)
            .into_iter()
            .map(|sink| build_sink(sink, &status))
            .collect::<Result<Vec<_>, _>>()?;
        opening.log.on_durable({
            let status = Arc::clone(&status);
            move |durable| status.sources.iter().for_each(|source| source.on_the_way.arrived(durable, &source.lag))
        });
        // Before anything is read: it may be full already.
        status.pressure.look(&config.data_dir, config.disk_budget);
        let mut sources = Sources::new(opening.log.clone(), config.mappings.clone(), urgent, Arc::clone(&status));
        let known: Vec<_> = config.sources.iter().map(SourceConfig::known).collect();
        let ids: Vec<SourceId> = known.iter().map(|(id, _)| id.clone()).collect();
        let (at_once, later): (Vec<_>, Vec<_>) = std::mem::take(&mut config.sources)
            .into_iter()
            .enumerate()
            .partition(|(_, source)| sources.goes_on(source));
        let opened = sources.start(at_once, None).map_err(PipelineError::from).and_then(|()| {
            let journal = opening.open_store()?;
            let transform =
                Transform::open(journal.store.clone(), config.mappings.clone(), config.shapes.clone(), &ids)?;
            sources.start(later, Some(&journal.store))?;
            Ok((journal, transform))
        });
        match opened {
            Ok((journal, transform)) => Self::start_rest(journal, transform, (sources, known), sinks, &config, status),
            Err(error) => {
                sources.end();
                Err(error)
            }
        }
    }

    fn start_rest(
        journal: Journal,
        mut transform: Transform,
        (sources, known): (Sources, Vec<(SourceId, SourceKind)>),
        sinks: Vec<BuiltSink>,
        config: &Config,
        status: Arc<Status>,
    ) -> Result<Self, PipelineError> {
        let (log, store) = (journal.log.clone(), journal.store.clone());
        let mapped = Arc::new(config.mappings.iter().map(|mapping| mapping.entity.name.clone()).collect());
        transform.report(&status.transform)?;
        let mode = watch::Sender::new(Mode::Steady);
        let (stop_sources, mut threads) = sources.into_parts();
        let mut recorders = Vec::new();
        for (index, BuiltSink { name, retry_for, sink, recorder }) in sinks.into_iter().enumerate() {
            recorders.extend(recorder);
            let pump = Pump {
                sink,
                log: log.clone(),
                store: store.clone(),
                log_end: journal.end,
                status: Arc::clone(&status),
                mapped: Arc::clone(&mapped),
                index,
                mode: mode.subscribe(),
                counted: Default::default(),
                retry_for,
            };
            threads.push(pump.start(&name)?);
        }
        for sink in &status.sinks {
            let Some(desk) = sink.snapshots.get().map(Arc::clone) else { continue };
            let (log, store, sources) = (log.clone(), store.clone(), known.clone());
            let worker = Worker { desk, log, store, sources, status: Arc::clone(&status), mode: mode.subscribe() };
            threads.push(worker.start(&sink.name)?);
        }
        let stop_transform = StopSignal::default();
        threads.push(transform.start(log.clone(), Arc::clone(&status), stop_transform.clone())?);
        let kept = Kept { log: config.log_retention, deltas: config.delta_retention };
        let folder = Folder { path: config.data_dir.clone(), budget: config.disk_budget };
        let housekeeping = housekeeping::run(log.clone(), store.clone(), Arc::clone(&status), kept, folder);
        let mut beside = vec![tokio::spawn(housekeeping)];
        for recorder in recorders {
            beside.push(tokio::spawn(operations::run(recorder, store.clone(), Arc::clone(&status))));
        }
        Ok(Self { status, log, store, stop_sources, stop_transform, threads, mode, beside })
    }

    /// Waits until every source has ended by itself and everything they gave is confirmed by every sink.
    pub(crate) async fn drained(&self) -> Result<(), PipelineError> {
        self.status
            .wait_for(|status| status.sources.iter().all(|source| source.finished.load(Ordering::Acquire)))
            .await;
        refuse(&self.status.parked_parts())?;
        let end = self.log.durable();
        self.status.wait_for(|status| status.is_folded(end)).await;
        refuse(&self.status.parked_parts())?;
        self.flush().await;
        refuse(&self.status.parked())
    }

    /// Waits until every sink has confirmed what is folded, or is parked.
    async fn flush(&self) {
        self.mode.send_replace(Mode::Flush);
        self.status.wait_for(Status::is_delivered).await;
    }

    /// Waits until nothing is left that could go on: all sources parked and what they gave delivered as far as it can
    /// be, or the state store failed.
    ///
    /// A transform that is parked by a mapping does not count: capture goes on, so that nothing is lost meanwhile. Nor
    /// does a target that is down: it will be back, and what waits for it is worth a process.
    pub(crate) async fn hopeless(&self) -> PipelineError {
        self.status.wait_for(|status| status.is_hopeless(self.log.durable())).await;
        refuse(&self.status.parked()).err().unwrap_or_else(|| PipelineError::Parked("nothing is left to do".to_owned()))
    }

    /// Stops intake, lets what is in the log reach the sinks for a while, and ends every part.
    pub(crate) async fn stop(self) {
        self.stop_sources.stop();
        let drained = async {
            let sources = |status: &Status| status.sources.iter().all(|source| source.finished.load(Ordering::Acquire));
            self.status.wait_for(sources).await;
            let end = self.log.durable();
            // A replay may take hours, and goes on after the next start.
            let replays = |status: &Status| status.transform.replay.runs.load(Ordering::Acquire);
            self.status.wait_for(|status| status.is_folded(end) || replays(status)).await;
            self.flush().await;
        };
        // What is not confirmed by then is durable here and is delivered after the next start.
        let _ = tokio::time::timeout(STOP_DEADLINE, drained).await;
        self.stop_transform.stop();
        self.log.wake();
        self.mode.send_replace(Mode::Stop);
        self.beside.iter().for_each(Task::abort);
        let threads = self.threads;
        let mut joined =
            tokio::task::spawn_blocking(move || threads.into_iter().for_each(|thread| drop(thread.join())));
        if tokio::time::timeout(STOP_DEADLINE, &mut joined).await.is_err() {
            self.mode.send_replace(Mode::Abandon);
            let _ = tokio::time::timeout(STOP_DEADLINE, joined).await;
        }
        held::look(&self.store.current(), &self.status);
    }
}

/// The entities whose rows are wanted first by some sink, and what they cite.
fn urgent(sinks: &[SinkConfig]) -> BTreeSet<String> {
    let all = || planning::urgent(&EntityPatterns::all(), |entity| entity.criticality);
    let of = |sink: &SinkConfig| match &sink.kind {
        SinkKind::Planning(config) => config.urgent(),
        SinkKind::Profile(config) => config.target.urgent(),
        SinkKind::Lake(_) | SinkKind::Discard => all(),
    };
    sinks.iter().flat_map(of).collect()
}

/// A sink that is not at work yet.
struct BuiltSink {
    name: String,
    /// How long rows that it refused are sent again.
    retry_for: Duration,
    sink: Box<dyn Sink>,
    /// Of a lake.
    recorder: Option<Recorder>,
}

fn build_sink(sink: SinkConfig, status: &Status) -> Result<BuiltSink, PipelineError> {
    let count = |stats: Arc<PlanningStats>| {
        for known in status.sinks.iter().filter(|known| known.name == sink.name) {
            // Each sink is built once.
            let _ = known.planning.set(Arc::clone(&stats));
        }
    };
    let mut recorder = None;
    let built: Result<Box<dyn Sink>, SinkError> = match sink.kind {
        SinkKind::Planning(config) => PlanningSink::new(*config).map(|sink| {
            count(sink.stats());
            Box::new(sink) as _
        }),
        SinkKind::Profile(config) => ProfileSink::new(*config).map(|sink| {
            count(sink.stats());
            Box::new(sink) as _
        }),
        SinkKind::Lake(config) => LakeSink::new((*config).clone()).map(|lake| {
            for known in status.sinks.iter().filter(|known| known.name == sink.name) {
                let _ = known.snapshots.set(Arc::new(Desk::new(&config, lake.snapshots())));
            }
            recorder = config.operations_every.map(|every| Recorder {
                sink: sink.name.clone(),
                operations: lake.operations(),
                every,
                entities: config.entities.clone(),
                hidden: Arc::clone(&config.hidden),
            });
            Box::new(lake) as _
        }),
        SinkKind::Discard => Ok(Box::new(Discard)),
    };
    match built {
        Ok(built) => Ok(BuiltSink { name: sink.name, retry_for: sink.retry_rows_for, sink: built, recorder }),
        Err(error) => Err(PipelineError::Sink { name: sink.name, error }),
    }
}

fn refuse(parked: &[String]) -> Result<(), PipelineError> {
    if parked.is_empty() { Ok(()) } else { Err(PipelineError::Parked(parked.join("\n"))) }
}
