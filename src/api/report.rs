//! Every fact about the daemon at one moment, in the words of the control API.
//!
//! Invariant: parts are read against the flow of data, sinks first and the log last, so that what is behind is never
//! shown as ahead. Counters start at zero with the process.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use syncline_capture::postgres::Lsn;
use syncline_journal::{Log, Store};
use syncline_schemas::ident::SourceId;
use syncline_transform::fold::{self, HeldNow};

use super::Facts;
use crate::pipeline::lag::Quantiles;
use crate::pipeline::pressure::{Pressure, Stage};
use crate::pipeline::refused::{self, RefusedRow};
use crate::pipeline::snapshots::Desk;
use crate::pipeline::status::{ReplayStatus, SinkStatus, SourceStatus, TransformStatus};

/// Refused rows that are shown of a sink: enough to see the cause.
const REFUSED_ROWS: usize = 100;

/// The daemon. Names end in their unit: `_s` seconds, `_ms` milliseconds; offsets count log entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) version: String,
    /// The pipeline's name at the targets.
    pub(crate) name: String,
    pub(crate) uptime_s: u64,
    /// Source rows, copied ones included.
    pub(crate) rows_in: u64,
    /// Canonical deltas.
    pub(crate) deltas_out: u64,
    /// Every part that has stopped for good, with its reason; a mapping is one.
    pub(crate) parked: Vec<String>,
    pub(crate) sources: BTreeMap<String, Source>,
    pub(crate) journal: Journal,
    pub(crate) disk: Disk,
    pub(crate) transform: Transform,
    pub(crate) sinks: BTreeMap<String, Sink>,
}

/// A source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Source {
    /// `idle`, `connecting`, `snapshot`, `streaming`, `paused`, `ended` or `parked`.
    pub(crate) state: String,
    /// Rows of every operation.
    pub(crate) rows: u64,
    /// Rows copied by the snapshot.
    pub(crate) reads: u64,
    pub(crate) inserts: u64,
    pub(crate) updates: u64,
    pub(crate) deletes: u64,
    /// Truncated tables.
    pub(crate) truncates: u64,
    pub(crate) frames: u64,
    /// Bytes received from the server.
    pub(crate) bytes: u64,
    /// How far it is in our log, as the server writes it: an LSN, or a set of GTIDs; none of what has no log of its own.
    #[serde(default)]
    pub(crate) position: Option<String>,
    /// Of the servers of a MySQL or MariaDB source the one that is read, or was last.
    #[serde(default)]
    pub(crate) server: Option<String>,
    /// Positions of PostgreSQL, as in `16/B374D848`; none before they are known.
    pub(crate) received_lsn: Option<String>,
    pub(crate) confirmed_lsn: Option<String>,
    pub(crate) server_end_lsn: Option<String>,
    /// Bytes of the server's log that are not read yet.
    pub(crate) behind_bytes: Option<u64>,
    /// How long the server still keeps that, where it goes by its age; it runs down while the server cannot be reached.
    #[serde(default)]
    pub(crate) log_headroom_s: Option<u64>,
    /// Bytes of log that the server keeps for the slot; looked at once a minute.
    pub(crate) kept_bytes: u64,
    pub(crate) spooled_bytes: u64,
    /// Since the server last said anything; since the start where it has not yet.
    pub(crate) last_message_age_ms: Option<u64>,
    pub(crate) retries: u64,
    /// Commit at the source to durable here, of streamed rows.
    pub(crate) lag: Quantiles,
    /// Why what the source says now is not taken, while what was taken before stays in force.
    pub(crate) problem: Option<String>,
    pub(crate) parked: Option<String>,
}

/// The journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Journal {
    /// The last offset that is safe on disk.
    pub(crate) durable: u64,
    /// The oldest offset held.
    pub(crate) first: u64,
    pub(crate) log_bytes: u64,
    /// State, outbox and cursors; none where the store cannot be read.
    pub(crate) state_bytes: Option<u64>,
}

/// The data folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Disk {
    /// Bytes that its files take.
    pub(crate) used: u64,
    /// Bytes that they may take.
    pub(crate) budget: u64,
    /// What is done about it.
    pub(crate) stage: Stage,
}

/// The transform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Transform {
    /// The last offset folded into the state; sinks see deltas up to here.
    pub(crate) folded: u64,
    /// Durable log entries that are not folded yet.
    pub(crate) behind: u64,
    pub(crate) deltas: u64,
    /// Source rows that changed nothing canonical.
    pub(crate) unchanged: u64,
    /// Source rows that were found faulty and are held.
    pub(crate) faulty: u64,
    /// Delivered rows that break a warning rule.
    pub(crate) warnings: u64,
    /// Changed mappings that are being applied.
    pub(crate) replay: Option<Replay>,
    /// Rows that are held now; none before the state was first looked at.
    pub(crate) held: Option<Held>,
    /// Mappings that no longer fit their tables, with why; the others go on.
    pub(crate) parked_mappings: Vec<String>,
    pub(crate) parked: Option<String>,
}

/// The log folded again under changed mappings, beside what counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Replay {
    /// Log entries folded again.
    pub(crate) folded: u64,
    /// Log entries that there are to fold; more come while sources are read.
    pub(crate) entries: u64,
}

/// Rows that are held, as of the last few seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Held {
    pub(crate) rows: u64,
    /// False where a mapping holds more rows than were counted.
    pub(crate) complete: bool,
    pub(crate) by: Vec<HeldRows>,
}

/// Rows that one mapping holds for one rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HeldRows {
    /// None for the sums of an entity, to which several mappings may add.
    pub(crate) mapping: Option<String>,
    pub(crate) entity: String,
    pub(crate) rule: String,
    pub(crate) rows: u64,
}

/// A sink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sink {
    /// The last offset confirmed.
    pub(crate) cursor: u64,
    /// Folded log entries that are not confirmed yet.
    pub(crate) behind: u64,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    /// Refusals of single rows.
    pub(crate) rejected: u64,
    /// Rows that the target lacks because it refused them and no newer version of them.
    pub(crate) refused: u64,
    /// Those of them that were sent again for as long as rows are.
    pub(crate) expired: u64,
    /// The first of them.
    pub(crate) refused_rows: Vec<RefusedRow>,
    pub(crate) writes: u64,
    pub(crate) retries: u64,
    /// What is still to be sent beside the deltas; see `syncline replay SINK --list`.
    #[serde(default)]
    pub(crate) loads: u64,
    /// Age of the oldest row that waits to be confirmed; 0 where none waits.
    pub(crate) lag_ms: u64,
    /// Commit at the source to confirmed, of the oldest row in the last write.
    pub(crate) last_lag_ms: u64,
    /// Commit at the source to confirmed, of all rows.
    pub(crate) lag: Quantiles,
    pub(crate) parked: Option<String>,
    /// Snapshots of a lake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) snapshots: Option<Snapshots>,
}

/// Snapshots that this process took of a lake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Snapshots {
    pub(crate) taken: u64,
    pub(crate) failed: u64,
    /// When the last one was taken, in milliseconds since 1970; 0 where none was.
    pub(crate) last_ms: u64,
    /// Why the schedule has none taken now.
    pub(crate) problem: Option<String>,
}

impl Report {
    /// Reads the facts.
    pub(crate) fn take(facts: &Facts) -> Self {
        let status = &facts.status;
        // Against the flow of data: see the invariant above.
        let cursors: Vec<u64> = status.sinks.iter().map(|sink| sink.cursor.load(Ordering::Acquire)).collect();
        let folded = status.folded().0;
        let durable = facts.log.durable().0;
        let sinks = status.sinks.iter().zip(cursors);
        let sources: BTreeMap<_, _> =
            status.sources.iter().map(|it| (it.name.clone(), Source::take(it, &facts.log, status.started))).collect();
        let transform = Transform::take(&status.transform, folded, durable);
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            name: facts.name.clone(),
            uptime_s: status.started.elapsed().as_secs(),
            rows_in: sources.values().map(|source| source.rows).sum(),
            deltas_out: transform.deltas,
            parked: status.parked(),
            sources,
            journal: Journal {
                durable,
                first: facts.log.first().0,
                log_bytes: facts.log.bytes_on_disk(),
                state_bytes: facts.store.bytes_on_disk().ok(),
            },
            disk: Disk::take(&facts.status.pressure),
            transform,
            sinks: sinks
                .map(|(sink, cursor)| (sink.name.clone(), Sink::take(sink, cursor, folded, &facts.store)))
                .collect(),
        }
    }
}

fn count(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Source {
    fn take(source: &SourceStatus, log: &Log, started: Instant) -> Self {
        let progress = &source.progress;
        // A server that was down when we started has been silent since then: silence without an age alarms nobody.
        let silent_ms = || u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let position = |lsn: &AtomicU64| Some(count(lsn)).filter(|&lsn| lsn > 0);
        let text = |lsn: Option<u64>| lsn.map(|lsn| Lsn(lsn).to_string());
        let received = position(&progress.received_lsn);
        let server_end = position(&progress.server_end_lsn);
        let parked = source.parked.reason();
        let resume = log.resume(&SourceId::new(&source.name)).filter(|at| !at.position.is_start());
        Self {
            state: source.state().to_owned(),
            rows: count(&progress.rows),
            reads: count(&progress.reads),
            inserts: count(&progress.inserts),
            updates: count(&progress.updates),
            deletes: count(&progress.deletes),
            truncates: count(&progress.truncates),
            frames: count(&progress.frames),
            bytes: count(&progress.bytes),
            position: resume.and_then(|at| source.kind.describe(&at.position)),
            server: progress.server(),
            received_lsn: text(received),
            confirmed_lsn: text(position(&progress.confirmed_lsn)),
            server_end_lsn: text(server_end),
            behind_bytes: progress.behind_bytes(),
            log_headroom_s: progress.log_headroom().map(|left| left.as_secs()),
            kept_bytes: count(&progress.kept_bytes),
            spooled_bytes: count(&progress.spooled_bytes),
            last_message_age_ms: Some(position(&progress.last_message_us).map_or_else(silent_ms, age_ms)),
            retries: count(&source.retries),
            lag: source.lag.quantiles(),
            problem: progress.problem(),
            parked,
        }
    }
}

/// Since a moment in microseconds since 1970.
fn age_ms(at_us: u64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX).saturating_sub(at_us) / 1_000
}

impl Disk {
    fn take(pressure: &Pressure) -> Self {
        let (used, budget) = pressure.room();
        Self { used, budget, stage: pressure.stage() }
    }
}

impl Transform {
    fn take(transform: &TransformStatus, folded: u64, durable: u64) -> Self {
        Self {
            folded,
            behind: durable.saturating_sub(folded),
            deltas: count(&transform.deltas),
            unchanged: count(&transform.unchanged),
            faulty: count(&transform.faulty),
            warnings: count(&transform.warnings),
            replay: Replay::take(&transform.replay, durable),
            held: transform.held.now().map(Held::of),
            parked_mappings: transform.misfits.all(),
            parked: transform.parked.reason(),
        }
    }
}

impl Replay {
    fn take(replay: &ReplayStatus, durable: u64) -> Option<Self> {
        let after = count(&replay.after);
        let behind = |offset: u64| offset.saturating_sub(after);
        let runs = replay.runs.load(Ordering::Acquire);
        runs.then(|| Self { folded: behind(count(&replay.folded)), entries: behind(count(&replay.upto).max(durable)) })
    }
}

impl Held {
    fn of(now: HeldNow) -> Self {
        let rows = now.by.iter().map(|held| held.rows).sum();
        let by = now.by.into_iter().map(|held| {
            let fold::HeldRows { mapping, entity, rule, rows } = held;
            HeldRows { mapping, entity, rule, rows }
        });
        Self { rows, complete: now.complete, by: by.collect() }
    }
}

impl Sink {
    fn take(sink: &SinkStatus, cursor: u64, folded: u64, store: &Store) -> Self {
        let refused = count(&sink.refused);
        Self {
            cursor,
            behind: folded.saturating_sub(cursor),
            rows: count(&sink.rows),
            bytes: count(&sink.bytes),
            rejected: count(&sink.rejected),
            refused,
            expired: sink.letters.get().map_or(0, |letters| letters.expired()),
            refused_rows: if refused == 0 { Vec::new() } else { refused::list(store, &sink.name, REFUSED_ROWS) },
            writes: count(&sink.writes),
            retries: count(&sink.retries),
            loads: count(&sink.loads),
            lag_ms: u64::try_from(sink.waiting().as_millis()).unwrap_or(u64::MAX),
            last_lag_ms: count(&sink.last_lag_ms),
            lag: sink.lag.quantiles(),
            parked: sink.parked.reason(),
            snapshots: sink.snapshots.get().map(|desk| Snapshots::take(desk)),
        }
    }
}

impl Snapshots {
    fn take(desk: &Desk) -> Self {
        Self {
            taken: count(&desk.taken),
            failed: count(&desk.failed),
            last_ms: count(&desk.last_ms),
            problem: desk.problem(),
        }
    }
}
