//! What the daemon is doing, for `/status`, `/metrics` and for whoever waits on it.
//!
//! Parts write their own facts, anyone reads them at any moment. Every change that somebody could wait for is followed
//! by a pulse; waiting is re-reading the facts at each pulse.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use syncline_capture::{Progress, Requests};
use syncline_schemas::ident::{LogOffset, SourceId};
use syncline_sinks::planning::PlanningStats;
use syncline_transform::fold::FoldStats;
use tokio::sync::{Notify, watch};
use tracing::error;

use super::held::Held;
use super::lag::{Lag, OnTheWay};
use super::pressure::Pressure;
use super::refused::Refused;
use super::snapshots::Desk;
use crate::config::SourceKind;

/// Why a part has stopped for good, if it has.
#[derive(Debug, Default)]
pub(crate) struct Parked(Mutex<Option<String>>);

impl Parked {
    pub(crate) fn park(&self, reason: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
    }

    pub(crate) fn reason(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn is_parked(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

/// Mappings that no longer fit their tables and are put aside, with why.
#[derive(Debug, Default)]
pub(crate) struct Misfits(Mutex<Vec<String>>);

impl Misfits {
    /// Sets them; those that are new are logged.
    pub(crate) fn set(&self, misfits: Vec<String>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for fault in misfits.iter().filter(|fault| !known.contains(fault)) {
            error!(fault, "mapping parked");
        }
        *known = misfits;
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One source.
#[derive(Debug)]
pub(crate) struct SourceStatus {
    pub(crate) name: String,
    pub(crate) kind: SourceKind,
    pub(crate) progress: Progress,
    pub(crate) requests: Requests,
    pub(crate) retries: AtomicU64,
    /// Commit at the source to durable in the log, of streamed rows.
    pub(crate) lag: Lag,
    pub(crate) on_the_way: OnTheWay,
    pub(crate) parked: Parked,
    /// It is not read because the data folder is nearly full.
    pub(crate) paused: AtomicBool,
    /// Its reader has returned and will not be started again.
    pub(crate) finished: AtomicBool,
}

impl SourceStatus {
    /// What it is doing, in one word.
    pub(crate) fn state(&self) -> &'static str {
        match () {
            () if self.parked.is_parked() => "parked",
            () if self.finished.load(Ordering::Acquire) => "ended",
            () if self.paused.load(Ordering::Acquire) => "paused",
            () => self.progress.state().as_str(),
        }
    }

    /// Its reader has ended for good.
    pub(crate) fn finish(&self) {
        self.finished.store(true, Ordering::Release);
    }

    /// Its reader has ended for good and for a reason.
    pub(crate) fn park_finished(&self, reason: String) {
        self.parked.park(reason);
        self.finish();
    }
}

/// The log folded again under changed mappings.
#[derive(Debug, Default)]
pub(crate) struct ReplayStatus {
    /// True until what differs has been told.
    pub(crate) runs: AtomicBool,
    /// The log is folded from behind this entry.
    pub(crate) after: AtomicU64,
    /// The last entry folded again.
    pub(crate) folded: AtomicU64,
    /// The first entry at which it may end.
    pub(crate) upto: AtomicU64,
}

/// The transform.
#[derive(Debug, Default)]
pub(crate) struct TransformStatus {
    pub(crate) folded: AtomicU64,
    /// The log is needed behind this entry: the fold asks for a transaction's frames again when its last one comes.
    pub(crate) needs: AtomicU64,
    pub(crate) deltas: AtomicU64,
    pub(crate) unchanged: AtomicU64,
    pub(crate) faulty: AtomicU64,
    pub(crate) warnings: AtomicU64,
    /// Changed mappings at work beside it.
    pub(crate) replay: ReplayStatus,
    pub(crate) held: Held,
    pub(crate) misfits: Misfits,
    pub(crate) parked: Parked,
    /// The state store itself failed: nothing can go on without it.
    pub(crate) broken: AtomicBool,
}

impl TransformStatus {
    pub(crate) fn add(&self, stats: FoldStats) {
        self.deltas.fetch_add(stats.deltas, Ordering::Relaxed);
        self.unchanged.fetch_add(stats.unchanged, Ordering::Relaxed);
        self.faulty.fetch_add(stats.faulty, Ordering::Relaxed);
        self.warnings.fetch_add(stats.warnings, Ordering::Relaxed);
    }
}

/// One sink.
#[derive(Debug)]
pub(crate) struct SinkStatus {
    pub(crate) name: String,
    pub(crate) cursor: AtomicU64,
    pub(crate) rows: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) rejected: AtomicU64,
    /// Rows that the target lacks because it refused them.
    pub(crate) refused: AtomicU64,
    /// Those rows themselves, from when the sink is at work.
    pub(crate) letters: OnceLock<Arc<Refused>>,
    /// What a sink counts that asks over HTTP.
    pub(crate) planning: OnceLock<Arc<PlanningStats>>,
    /// Where snapshots are ordered, of a lake.
    pub(crate) snapshots: OnceLock<Arc<Desk>>,
    pub(crate) writes: AtomicU64,
    pub(crate) retries: AtomicU64,
    /// Orders of what is to be sent beside the deltas that are not carried out.
    pub(crate) loads: AtomicU64,
    /// The entities that can be loaded whole, once its thread runs; never of one that takes deltas alone.
    pub(crate) loadable: OnceLock<Vec<String>>,
    /// Somebody has ordered one.
    pub(crate) ordered: Notify,
    /// Somebody has ordered deltas to be sent once more.
    pub(crate) once_more: Notify,
    /// Commit at the source to confirmed here, of the oldest row of the last write.
    pub(crate) last_lag_ms: AtomicU64,
    /// When the oldest row that is not confirmed became visible; none while nothing waits.
    behind_since: Mutex<Option<Instant>>,
    /// Commit at the source to confirmed here.
    pub(crate) lag: Lag,
    pub(crate) parked: Parked,
}

impl SinkStatus {
    pub(crate) fn set_behind(&self, behind: bool) {
        let mut since = self.behind_since.lock().unwrap_or_else(PoisonError::into_inner);
        *since = if behind { since.or_else(|| Some(Instant::now())) } else { None };
    }

    /// Starts the clock of what waits anew, after a write confirmed all that waited before it.
    pub(crate) fn reset_behind(&self, behind: bool) {
        *self.behind_since.lock().unwrap_or_else(PoisonError::into_inner) = behind.then(Instant::now);
    }

    /// Age of the oldest unconfirmed row, 0 where everything is confirmed.
    pub(crate) fn waiting(&self) -> Duration {
        let since = self.behind_since.lock().unwrap_or_else(PoisonError::into_inner);
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// The whole daemon.
#[derive(Debug)]
pub(crate) struct Status {
    pub(crate) started: Instant,
    pub(crate) sources: Vec<SourceStatus>,
    pub(crate) transform: TransformStatus,
    pub(crate) sinks: Vec<SinkStatus>,
    /// How full the data folder is.
    pub(crate) pressure: Pressure,
    pulse: watch::Sender<()>,
}

impl Status {
    pub(crate) fn new(started: Instant, sources: &[(SourceId, SourceKind)], sinks: &[String]) -> Self {
        let source = |(id, kind): &(SourceId, SourceKind)| SourceStatus {
            name: id.to_string(),
            kind: *kind,
            progress: Progress::default(),
            requests: Requests::default(),
            retries: AtomicU64::new(0),
            lag: Lag::default(),
            on_the_way: OnTheWay::default(),
            parked: Parked::default(),
            paused: AtomicBool::new(false),
            finished: AtomicBool::new(false),
        };
        let sink = |name: &String| SinkStatus {
            name: name.clone(),
            cursor: AtomicU64::new(0),
            rows: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            letters: OnceLock::new(),
            planning: OnceLock::new(),
            snapshots: OnceLock::new(),
            writes: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            loads: AtomicU64::new(0),
            loadable: OnceLock::new(),
            ordered: Notify::new(),
            once_more: Notify::new(),
            last_lag_ms: AtomicU64::new(0),
            behind_since: Mutex::default(),
            lag: Lag::default(),
            parked: Parked::default(),
        };
        Self {
            started,
            sources: sources.iter().map(source).collect(),
            transform: TransformStatus::default(),
            sinks: sinks.iter().map(sink).collect(),
            pressure: Pressure::default(),
            pulse: watch::Sender::new(()),
        }
    }

    /// Tells whoever waits that a fact has changed.
    pub(crate) fn pulse(&self) {
        self.pulse.send_replace(());
    }

    /// Every part that has stopped for good, with its reason; a mapping is one.
    pub(crate) fn parked(&self) -> Vec<String> {
        let mappings = self.transform.misfits.all().into_iter().map(|fault| format!("mapping {fault}"));
        self.parked_parts().into_iter().chain(mappings).collect()
    }

    /// Those of them that others wait for.
    pub(crate) fn parked_parts(&self) -> Vec<String> {
        let sources = self.sources.iter().filter_map(|source| source.parked.reason());
        let transform = self.transform.parked.reason().map(|reason| format!("transform: {reason}"));
        let sinks =
            self.sinks.iter().filter_map(|sink| sink.parked.reason().map(|why| format!("sink {}: {why}", sink.name)));
        sources.chain(transform).chain(sinks).collect()
    }

    /// A receiver of pulses.
    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.pulse.subscribe()
    }

    /// Waits until a condition on the facts holds.
    pub(crate) async fn wait_for(&self, holds: impl Fn(&Self) -> bool + Send) {
        let mut pulses = self.pulse.subscribe();
        while !holds(self) {
            // The sender lives in self, so it cannot be gone.
            let _ = pulses.changed().await;
        }
    }

    /// The last entry that is folded; sinks see deltas up to here.
    pub(crate) fn folded(&self) -> LogOffset {
        LogOffset(self.transform.folded.load(Ordering::Acquire))
    }

    /// The transform has folded up to an offset, or will not.
    pub(super) fn is_folded(&self, upto: LogOffset) -> bool {
        self.folded() >= upto || self.transform.parked.is_parked()
    }

    /// Every sink has confirmed what is folded, or will not.
    pub(super) fn is_delivered(&self) -> bool {
        let folded = self.folded().0;
        let has_all = |sink: &SinkStatus| {
            sink.cursor.load(Ordering::Acquire) >= folded && sink.loads.load(Ordering::Acquire) == 0
        };
        self.sinks.iter().all(|sink| has_all(sink) || sink.parked.is_parked())
    }

    /// Nothing is left to do for anyone, of a log that ends at an offset.
    pub(super) fn is_hopeless(&self, durable: LogOffset) -> bool {
        let is_silent = self.sources.iter().all(|source| source.parked.is_parked());
        (is_silent && self.is_folded(durable) && self.is_delivered()) || self.transform.broken.load(Ordering::Acquire)
    }
}

/// What tests look at.
#[cfg(test)]
pub(crate) fn one_source() -> [(SourceId, SourceKind); 1] {
    [(SourceId::new("erp"), SourceKind::Postgres)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_parked_source_gave_is_delivered_before_the_daemon_gives_up() {
        let status = Status::new(Instant::now(), &one_source(), &["planning".to_owned(), "lake".to_owned()]);
        let (durable, transform) = (LogOffset(9), &status.transform);
        let set = |fact: &AtomicU64, value| fact.store(value, Ordering::Release);
        assert!(!status.is_hopeless(LogOffset::START), "an idle source is not a parked one");
        status.sources[0].parked.park("slot gone".to_owned());
        assert!(!status.is_hopeless(durable), "nine entries wait to be folded");
        set(&transform.folded, 9);
        set(&status.sinks[0].cursor, 9);
        assert!(!status.is_hopeless(durable), "the lake lacks nine entries");
        status.sinks[1].parked.park("401".to_owned());
        assert!(status.is_hopeless(durable));
        assert!(!status.is_hopeless(LogOffset(10)), "one more became durable");
        transform.parked.park("a mapping does not fit".to_owned());
        assert!(status.is_hopeless(LogOffset(10)), "it will never be folded");
    }

    #[test]
    fn a_failed_state_store_ends_the_daemon_whatever_the_sources_do() {
        let status = Status::new(Instant::now(), &one_source(), &[]);
        status.transform.broken.store(true, Ordering::Release);
        assert!(status.is_hopeless(LogOffset(9)));
    }
}
