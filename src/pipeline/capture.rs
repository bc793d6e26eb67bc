//! A source: its reader on a thread of its own, its entries into the log, its failures into a retry or a park.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use syncline_capture::postgres::{self, PostgresConfig};
use syncline_capture::{CaptureError, Class, LogSink, Resume, StopSignal};
use syncline_journal::{JournalError, Log};
use syncline_schemas::frame::LogEntry;
use syncline_schemas::ident::{LogOffset, Position, SourceId};
use tracing::{error, info, warn};

use super::backoff::Backoff;
use super::defect;
use super::fit::Fit;
use super::lag::streamed_runs;
use super::status::{SourceStatus, Status};

/// How often a paused reader looks whether it should stop instead.
const STOP_POLL: Duration = Duration::from_millis(50);
/// How long a source that is parked waits for its last entries; a disk that takes longer is a fault of its own.
const SETTLE: Duration = Duration::from_secs(10);

/// The journal's log as the reader of one source sees it.
struct JournalLog<'s> {
    log: Log,
    status: &'s SourceStatus,
    /// Where the last appended frame took the source, durable or not.
    stands: Mutex<(Position, bool)>,
    /// The last offset given.
    appended: AtomicU64,
}

impl<'s> JournalLog<'s> {
    fn new(log: Log, source: &SourceId, status: &'s SourceStatus) -> Self {
        let stands = log.resume(source).map_or((Position::default(), true), |last| (last.position, last.txn_end));
        Self { log, status, stands: Mutex::new(stands), appended: AtomicU64::new(0) }
    }

    /// Waits until what was appended is durable, so that whoever sees the source at its end sees all that it gave.
    fn settle(&self) {
        // A log that failed says so itself.
        let _ = self.log.wait_durable(LogOffset(self.appended.load(Ordering::Relaxed)), SETTLE);
    }
}

fn refused(error: &JournalError) -> CaptureError {
    CaptureError::Log { reason: error.to_string() }
}

impl LogSink for JournalLog<'_> {
    fn append(&self, entry: LogEntry) -> Result<LogOffset, CaptureError> {
        let payload = entry.encode().map_err(|error| CaptureError::Log { reason: error.to_string() })?;
        let mut stands = self.stands.lock().unwrap_or_else(PoisonError::into_inner);
        let mut runs = Vec::new();
        // A shape does not move the source: it repeats where the source stands.
        if let LogEntry::Frame(frame) = &entry {
            *stands = (frame.position.clone(), frame.txn_end);
            runs = streamed_runs(frame);
        }
        let offset = self.log.append(entry.source(), &stands.0, stands.1, payload).map_err(|error| refused(&error))?;
        self.appended.store(offset.0, Ordering::Relaxed);
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

/// Starts the thread of a source; `index` is its place in the status.
pub(super) fn start(
    config: PostgresConfig,
    fit: Fit,
    log: Log,
    status: Arc<Status>,
    index: usize,
    stop: StopSignal,
) -> std::io::Result<JoinHandle<()>> {
    let name = format!("capture-{}", config.source);
    std::thread::Builder::new().name(name).spawn(move || {
        let source = &status.sources[index];
        let park = |why| source.park_finished(format!("source {}: {why}", source.name));
        defect::watched(&status, park, || {
            supervise(&config, fit, &log, source, &status, &stop);
            source.finish();
        });
    })
}

fn supervise(
    config: &PostgresConfig,
    mut fit: Fit,
    log: &Log,
    source: &SourceStatus,
    status: &Status,
    stop: &StopSignal,
) {
    let mut backoff = Backoff::new();
    while !stop.is_stopped() {
        let log = JournalLog::new(log.clone(), &config.source, source);
        let resume = resume(&log.log, &config.source);
        let fits = fit.check(config, resume.is_none());
        match fits.and_then(|()| postgres::run(config, resume, &log, &source.progress, stop)) {
            Ok(outcome) => {
                info!(source = %config.source, ?outcome, "source ended");
                return;
            }
            Err(error) if error.class() == Class::Transient => {
                let pause = backoff.pause();
                source.retries.fetch_add(1, Ordering::Relaxed);
                let pause_ms = pause.as_millis();
                warn!(source = %config.source, %error, pause_ms, "source interrupted, trying again");
                status.pulse();
                wait(pause, stop);
            }
            Err(error) => {
                error!(source = %config.source, %error, "source parked");
                log.settle();
                source.parked.park(error.to_string());
                return;
            }
        }
    }
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
