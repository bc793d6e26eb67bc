//! Drains a source into nothing and says how fast: `drain URL SLOT PUBLICATION TABLES`.
//!
//! What it measures is capture alone: the stream, the decoder and the Arrow batches, without a log behind them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use syncline_capture::postgres::{
    Columns, DrainTo, LogGap, Mapped, PostgresConfig, SnapshotMode, SpecialValues, TablePatterns, Truncates, run, url,
};
use syncline_capture::{CaptureError, LogSink, Progress, Requests, StopSignal};
use syncline_schemas::frame::LogEntry;
use syncline_schemas::ident::{LogOffset, SourceId};

#[derive(Default)]
struct Nothing(AtomicU64);

impl LogSink for Nothing {
    fn append(&self, _entry: LogEntry) -> Result<LogOffset, CaptureError> {
        Ok(LogOffset(self.0.fetch_add(1, Ordering::Relaxed) + 1))
    }

    fn durable(&self) -> Result<LogOffset, CaptureError> {
        Ok(LogOffset(self.0.load(Ordering::Relaxed)))
    }

    fn wait_durable(&self, _offset: LogOffset, _timeout: Duration) -> Result<LogOffset, CaptureError> {
        self.durable()
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, slot, publication, tables] = arguments.as_slice() else {
        return Err("usage: drain URL SLOT PUBLICATION TABLES".into());
    };
    let url::Server { host, port, database, user, password, tls } = url::parse(address)?;
    let config = PostgresConfig {
        source: SourceId::new("drain"),
        host,
        port,
        database,
        user,
        password,
        tls,
        tables: TablePatterns::parse(&[tables])?,
        mapped: Mapped::default(),
        columns: Columns::All,
        slot: slot.clone(),
        publication: publication.clone(),
        snapshot: SnapshotMode::Never,
        copy_workers: 1,
        drain_to: Some(DrainTo::CurrentEnd),
        special_values: SpecialValues::Stop,
        truncate: Truncates::Apply,
        messages: None,
        keys: std::collections::BTreeMap::new(),
        slot_warn: u64::MAX,
        slot_max: None,
        log_gap: LogGap::Repair,
        spool: None,
    };
    let (log, progress, started) = (Nothing::default(), Progress::default(), Instant::now());
    run(&config, None, &log, &progress, &Requests::default(), &StopSignal::default())?;
    let seconds = started.elapsed().as_secs_f64();
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let first = progress.first_event.get().map_or(0, |first| first.duration_since(started).as_millis());
    println!(
        "rows {} frames {} bytes {} seconds {seconds:.2} first_event_ms {first}",
        read(&progress.rows),
        read(&progress.frames),
        read(&progress.bytes)
    );
    Ok(())
}
