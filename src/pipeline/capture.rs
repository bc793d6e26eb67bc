//! A source: its reader on a thread of its own, its entries into the log, its failures into a retry or a park.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use syncline_capture::feed::{outputs, seeds};
use syncline_capture::{CaptureError, Class, LogSink, Outcome, Resume, StopSignal, mysql, postgres};
use syncline_journal::{JournalError, Log, Store};
use syncline_schemas::frame::LogEntry;
use syncline_schemas::ident::{LogOffset, Position, SourceId};
use syncline_transform::mapping::Mapping;
use tracing::{error, info, warn};

use super::backoff::Backoff;
use super::defect;
use super::fit::{self, Fit};
use super::lag::streamed_runs;
use super::pressure::Pressure;
use super::status::{SourceStatus, Status};
use crate::config::SourceConfig;

/// How long a source that is parked waits for its slot to be let go, where a limit may have it dropped.
const GUARD_FIRST: Duration = Duration::from_secs(5);
/// How often the slot of a paused source is looked at.
const GUARD_EVERY: Duration = Duration::from_secs(60);
/// How often a paused reader looks whether it should stop instead.
const STOP_POLL: Duration = Duration::from_millis(50);

/// The journal's log as the reader of one source sees it, in all its sessions.
struct JournalLog<'s> {
    log: Log,
    status: &'s SourceStatus,
    room: Room<'s>,
    stands: Mutex<Stands>,
}

/// Whether there is room for what a source says.
#[derive(Clone, Copy)]
struct Room<'s> {
    pressure: &'s Pressure,
    feeds_critical: bool,
}

impl Room<'_> {
    fn is_lacking(&self) -> bool {
        self.pressure.holds(self.feeds_critical)
    }
}

/// Where the last appended frame took the source, durable or not, and the last entry of the source.
struct Stands {
    position: Position,
    txn_end: bool,
    last: LogOffset,
}

impl<'s> JournalLog<'s> {
    fn new(log: Log, source: &SourceId, status: &'s SourceStatus, room: Room<'s>) -> Self {
        let (position, txn_end) =
            log.resume(source).map_or((Position::default(), true), |last| (last.position, last.txn_end));
        Self { log, status, room, stands: Mutex::new(Stands { position, txn_end, last: LogOffset::START }) }
    }

    fn stands(&self) -> MutexGuard<'_, Stands> {
        self.stands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until everything of the source is durable; false where the stop came first.
    ///
    /// A session begins at the durable position: beginning while entries of the last one are on their way would read
    /// their rows a second time.
    fn settle(&self, stop: &StopSignal) -> Result<bool, CaptureError> {
        let last = self.stands().last;
        while self.wait_durable(last, STOP_POLL)? < last {
            if stop.is_stopped() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn refused(error: &JournalError) -> CaptureError {
    CaptureError::Log { reason: error.to_string() }
}

impl LogSink for JournalLog<'_> {
    fn append(&self, entry: LogEntry) -> Result<LogOffset, CaptureError> {
        if self.room.is_lacking() {
            return Err(CaptureError::NoRoom { source_id: entry.source().clone() });
        }
        let payload = entry.encode().map_err(|error| CaptureError::Log { reason: error.to_string() })?;
        let mut stands = self.stands();
        let mut runs = Vec::new();
        // A shape does not move the source: it repeats where the source stands.
        if let LogEntry::Frame(frame) = &entry {
            (stands.position, stands.txn_end) = (frame.position.clone(), frame.txn_end);
            runs = streamed_runs(frame);
        }
        let appended = self.log.append(entry.source(), &stands.position, stands.txn_end, payload);
        let offset = appended.map_err(|error| refused(&error))?;
        stands.last = offset;
        self.status.on_the_way.note(offset, runs);
        // It may have become durable before it was noted.
        self.status.on_the_way.arrived(self.log.durable(), &self.status.lag);
        Ok(offset)
    }

    fn durable(&self) -> Result<LogOffset, CaptureError> {
        self.log.wait_durable(LogOffset::START, Duration::ZERO).map_err(|error| refused(&error))
    }

    fn wait_durable(&self, offset: LogOffset, timeout: Duration) -> Result<LogOffset, CaptureError> {
        self.log.wait_durable(offset, timeout).map_err(|error| refused(&error))
    }
}

/// The sources at work, each on a thread of its own.
pub(super) struct Sources {
    log: Log,
    mappings: Vec<Mapping>,
    /// Entities of which rows are wanted also where room is scarce.
    urgent: BTreeSet<String>,
    status: Arc<Status>,
    stop: StopSignal,
    threads: Vec<JoinHandle<()>>,
}

impl Sources {
    pub(super) fn new(log: Log, mappings: Vec<Mapping>, urgent: BTreeSet<String>, status: Arc<Status>) -> Self {
        Self { log, mappings, urgent, status, stop: StopSignal::default(), threads: Vec::new() }
    }

    /// True for a source that goes on between two transactions: it asks for nothing but what follows.
    pub(super) fn goes_on(&self, source: &SourceConfig) -> bool {
        let stands = resume(&self.log, source.id());
        !matches!(source, SourceConfig::Seeds(_)) && stands.is_some_and(|stands| stands.txn_end)
    }

    /// Starts sources, each with its place among all of them. Seeds are checked against the state, so they need it.
    pub(super) fn start(&mut self, sources: Vec<(usize, SourceConfig)>, store: Option<&Store>) -> std::io::Result<()> {
        for (index, mut source) in sources {
            let feeds_critical = self.feeds_critical(source.id());
            let fit = Fit::new(self.mappings.iter().filter(|it| it.source == *source.id()).cloned().collect());
            if let Some(store) = store {
                fit::guard(&mut source, &self.mappings, store);
            }
            self.threads.push(start(
                source,
                fit,
                self.log.clone(),
                Arc::clone(&self.status),
                (index, feeds_critical),
                self.stop.clone(),
            )?);
        }
        Ok(())
    }

    /// Whether a critical entity, or one that such a one cites, is computed from tables of a source.
    fn feeds_critical(&self, source: &SourceId) -> bool {
        self.mappings.iter().any(|mapping| self.urgent.contains(&mapping.entity.name) && mapping.reads_of(source))
    }

    /// What stops them, and what to wait for then.
    pub(super) fn into_parts(self) -> (StopSignal, Vec<JoinHandle<()>>) {
        (self.stop, self.threads)
    }

    /// Stops them and waits until they have ended.
    pub(super) fn end(self) {
        self.stop.stop();
        self.threads.into_iter().for_each(|thread| drop(thread.join()));
    }
}

fn start(
    config: SourceConfig,
    fit: Fit,
    log: Log,
    status: Arc<Status>,
    (index, feeds_critical): (usize, bool),
    stop: StopSignal,
) -> std::io::Result<JoinHandle<()>> {
    let name = format!("capture-{}", config.id());
    std::thread::Builder::new().name(name).spawn(move || {
        let source = &status.sources[index];
        let park = |why| source.park_finished(format!("source {}: {why}", source.name));
        defect::watched(&status, park, || {
            let room = Room { pressure: &status.pressure, feeds_critical };
            let journal = JournalLog::new(log.clone(), config.id(), source, room);
            let ended = supervise(&config, fit, &journal, &status, &stop);
            look_after(&config, ended, &log, source, &status, &stop);
        });
    })
}

/// Says that a source has ended. The slot of one that is parked goes on being looked at; one that keeps more than it may is
/// dropped before, because the daemon may end once all of its sources have.
fn look_after(
    config: &SourceConfig,
    parked: Option<CaptureError>,
    log: &Log,
    source: &SourceStatus,
    status: &Status,
    stop: &StopSignal,
) {
    let finish = || {
        source.finish();
        status.pulse();
    };
    let (SourceConfig::Postgres(config), Some(error)) = (config, parked) else { return finish() };
    let is_own = resume(log, &config.source).is_some_and(|held| postgres::reads_slot(config, &held.position));
    if !is_own || matches!(error, CaptureError::Position { .. }) {
        return finish();
    }
    if config.slot_max.is_some() {
        postgres::guard(config, &source.progress, stop, Some(Instant::now() + GUARD_FIRST));
    }
    finish();
    postgres::guard(config, &source.progress, stop, None);
}

/// One session of whichever reader the source needs.
fn run(
    config: &SourceConfig,
    resume: Option<Resume>,
    log: &JournalLog<'_>,
    source: &SourceStatus,
    stop: &StopSignal,
) -> Result<Outcome, CaptureError> {
    match config {
        SourceConfig::Postgres(config) => postgres::run(config, resume, log, &source.progress, &source.requests, stop),
        SourceConfig::MySql(config) => {
            mysql::follow(config, resume.as_ref(), log, &source.progress, &source.requests, stop)
        }
        SourceConfig::Seeds(config) => seeds::run(config, resume, log, &source.progress, stop),
        SourceConfig::Outputs(config) => {
            let config = super::outputs::reader(config);
            outputs::run(&config, resume, log, &source.progress, &source.requests, stop)
        }
    }
}

fn supervise(
    config: &SourceConfig,
    mut fit: Fit,
    log: &JournalLog<'_>,
    status: &Status,
    stop: &StopSignal,
) -> Option<CaptureError> {
    let (id, source) = (config.id(), log.status);
    let mut backoff = Backoff::new();
    let mut session = || {
        if log.room.is_lacking() {
            return Err(CaptureError::NoRoom { source_id: id.clone() });
        }
        if !log.settle(stop)? {
            return Ok(Outcome::Stopped);
        }
        let resume = resume(&log.log, id);
        fit.check(config, resume.is_none(), stop)?;
        run(config, resume, log, source, stop)
    };
    while !stop.is_stopped() {
        match session() {
            Ok(outcome) => {
                info!(source = %id, ?outcome, "source ended");
                return None;
            }
            Err(error @ CaptureError::NoRoom { .. }) => {
                warn!(source = %id, %error, "source paused until there is room");
                wait_for_room(config, log, status, stop);
            }
            Err(error) if error.class() == Class::Transient => {
                let pause = backoff.pause();
                source.retries.fetch_add(1, Ordering::Relaxed);
                let pause_ms = pause.as_millis();
                warn!(source = %id, %error, pause_ms, "source interrupted, trying again");
                status.pulse();
                wait(pause, stop);
            }
            Err(error) => {
                error!(source = %id, %error, "source parked");
                // Whoever sees the source at its end sees all that it gave; a log that failed says so itself.
                let _ = log.settle(stop);
                source.parked.park(error.to_string());
                return Some(error);
            }
        }
    }
    None
}

/// Waits until there is room. The database keeps its log meanwhile, so its slot is looked after as that of a parked source.
fn wait_for_room(config: &SourceConfig, log: &JournalLog<'_>, status: &Status, stop: &StopSignal) {
    log.status.paused.store(true, Ordering::Release);
    status.pulse();
    let mut look = Instant::now();
    while log.room.is_lacking() && !stop.is_stopped() {
        if let SourceConfig::Postgres(config) = config
            && Instant::now() >= look
        {
            let is_own = resume(&log.log, &config.source);
            if is_own.is_some_and(|held| postgres::reads_slot(config, &held.position)) {
                postgres::guard(config, &log.status.progress, stop, Some(Instant::now() + GUARD_FIRST));
            }
            look = Instant::now() + GUARD_EVERY;
        }
        wait(STOP_POLL, stop);
    }
    log.status.paused.store(false, Ordering::Release);
    status.pulse();
    info!(source = %config.id(), "source goes on");
}

/// Where the journal says the source stands; shapes alone are no progress.
fn resume(log: &Log, source: &SourceId) -> Option<Resume> {
    let last = log.resume(source)?;
    (!last.position.is_start()).then_some(Resume { position: last.position, txn_end: last.txn_end })
}

fn wait(pause: Duration, stop: &StopSignal) {
    let until = Instant::now() + pause;
    while !stop.is_stopped() && Instant::now() < until {
        std::thread::sleep(STOP_POLL.min(pause));
    }
}

#[cfg(test)]
mod tests {
    use syncline_journal::Limits;
    use syncline_schemas::frame::Frame;

    use super::*;
    use crate::pipeline::status::one_source;

    #[test]
    fn a_session_after_a_lost_connection_begins_behind_everything_that_was_appended() {
        let dir = tempfile::tempdir().expect("a folder");
        let log = Log::open(dir.path(), Limits::default()).expect("a log");
        let status = Status::new(Instant::now(), &one_source(), &[]);
        let (source, stop) = (SourceId::new("erp"), StopSignal::default());
        let room = Room { pressure: &status.pressure, feeds_critical: true };
        let journal = JournalLog::new(log.clone(), &source, &status.sources[0], room);
        for n in 0..200_u8 {
            let position = Position::new(vec![n]);
            let frame = Frame {
                source: source.clone(),
                position: position.clone(),
                captured_at: 0,
                txn_end: true,
                batches: Vec::new(),
            };
            journal.append(LogEntry::Frame(frame)).expect("appended");
            // As a session that breaks off right after its frame.
            assert!(journal.settle(&stop).expect("the log works"));
            assert_eq!(resume(&log, &source), Some(Resume { position, txn_end: true }));
        }
    }
}
