//! A source: its reader on a thread of its own, its entries into the log, its failures into a retry or a park.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use syncline_capture::feed::seeds::{self, ShapeJudge};
use syncline_capture::{CaptureError, Class, LogSink, Outcome, Resume, StopSignal, postgres};
use syncline_journal::{JournalError, Log};
use syncline_schemas::frame::LogEntry;
use syncline_schemas::ident::{LogOffset, Position, SourceId};
use syncline_transform::mapping::Mapping;
use tracing::{error, info, warn};

use super::backoff::Backoff;
use super::lag::streamed_runs;
use super::status::{SourceStatus, Status};
use crate::config::SourceConfig;

/// How often a paused reader looks whether it should stop instead.
const STOP_POLL: Duration = Duration::from_millis(50);

/// The journal's log as the reader of one source sees it.
struct JournalLog<'s> {
    log: Log,
    status: &'s SourceStatus,
    /// Where the last appended frame took the source, durable or not.
    stands: Mutex<(Position, bool)>,
}

impl<'s> JournalLog<'s> {
    fn new(log: Log, source: &SourceId, status: &'s SourceStatus) -> Self {
        let stands = log.resume(source).map_or((Position::default(), true), |last| (last.position, last.txn_end));
        Self { log, status, stands: Mutex::new(stands) }
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
    config: SourceConfig,
    log: Log,
    status: Arc<Status>,
    index: usize,
    stop: StopSignal,
) -> std::io::Result<JoinHandle<()>> {
    let name = format!("capture-{}", config.id());
    std::thread::Builder::new().name(name).spawn(move || {
        let source = &status.sources[index];
        supervise(&config, &log, source, &status, &stop);
        source.finished.store(true, Ordering::Release);
        status.pulse();
    })
}

/// Has seeds refused in a shape that a mapping cannot take: in the log it would stop the transform for good.
pub(super) fn guard(config: &mut SourceConfig, mappings: &[Mapping]) {
    let SourceConfig::Seeds(seeds) = config else { return };
    let mappings: Vec<Mapping> = mappings.iter().filter(|mapping| mapping.source == seeds.source).cloned().collect();
    seeds.judge = ShapeJudge::new(move |table| {
        let driven = mappings.iter().filter(|mapping| mapping.drives(&table.table));
        let faults = driven.filter_map(|mapping| mapping.check(table).err());
        faults.map(|fault| format!("a mapping could not take it: {fault}")).collect()
    });
}

/// One session of whichever reader the source needs.
fn run(
    config: &SourceConfig,
    log: &JournalLog<'_>,
    source: &SourceStatus,
    stop: &StopSignal,
) -> Result<Outcome, CaptureError> {
    let resume = resume(&log.log, config.id());
    match config {
        SourceConfig::Postgres(config) => postgres::run(config, resume, log, &source.progress, stop),
        SourceConfig::Seeds(config) => seeds::run(config, resume, log, &source.progress, stop),
    }
}

fn supervise(config: &SourceConfig, log: &Log, source: &SourceStatus, status: &Status, stop: &StopSignal) {
    let id = config.id();
    let mut backoff = Backoff::new();
    while !stop.is_stopped() {
        let log = JournalLog::new(log.clone(), id, source);
        match run(config, &log, source, stop) {
            Ok(outcome) => {
                info!(source = %id, ?outcome, "source ended");
                return;
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

#[cfg(test)]
mod tests {
    use syncline_capture::feed::seeds::SeedsConfig;
    use syncline_capture::{Outcome, Progress};

    use super::*;

    /// A log that takes everything.
    struct Nowhere;

    impl LogSink for Nowhere {
        fn append(&self, _entry: LogEntry) -> Result<LogOffset, CaptureError> {
            Ok(LogOffset(1))
        }

        fn durable(&self) -> Result<LogOffset, CaptureError> {
            Ok(LogOffset(1))
        }

        fn wait_durable(&self, _offset: LogOffset, _timeout: Duration) -> Result<LogOffset, CaptureError> {
            Ok(LogOffset(1))
        }
    }

    #[test]
    fn a_file_that_a_mapping_cannot_take_never_reaches_the_log() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(dir.path().join("seeds")).expect("make");
        let mut seeds = SeedsConfig::new(dir.path().join("seeds"), dir.path().join("data/seeds"));
        seeds.drain = true;
        let sql = "SELECT 'C1' AS company_id, nr AS supplier_id, name FROM lieferant";
        let mapping = Mapping::parse("seeds/supplier.sql", "mappings/seeds/supplier.sql", sql).expect("parses");
        let mut config = SourceConfig::Seeds(seeds);
        guard(&mut config, &[mapping]);
        let SourceConfig::Seeds(seeds) = config else { panic!("they stay seeds") };
        let run = |text: &str| {
            std::fs::write(dir.path().join("seeds/lieferant.csv"), text).expect("write");
            seeds::run(&seeds, None, &Nowhere, &Progress::default(), &StopSignal::default())
        };
        let fault = run("nr,nam\n1,A\n").expect_err("no such column").to_string();
        let wanted = "lieferant.csv: a mapping could not take it: mappings/seeds/supplier.sql:1:";
        assert!(fault.contains(wanted) && fault.contains("name"), "{fault}");
        assert_eq!(run("nr,name\n1,A\n").expect("fits"), Outcome::Drained);
    }
}
