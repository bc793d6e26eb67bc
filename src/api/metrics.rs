//! The report as Prometheus text 0.0.4.
//!
//! Names are an API: `syncline_<part>_<what>_<unit>`, `_total` for what only rises while the process lives. A family
//! whose value is not known yet has no sample, since a zero would be a claim.

use std::fmt::Write as _;

use syncline_sinks::planning::PlanningCounts;

use super::report::{Journal, Sink, Snapshots, Source, Transform};
use super::{Report, ready};
use crate::pipeline::lag::{BUCKETS_MS, Lag};
use crate::pipeline::status::Status;

/// One family with one sample per part.
struct Family<T> {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: fn(&T) -> Option<f64>,
}

const fn counter<T>(name: &'static str, help: &'static str, value: fn(&T) -> Option<f64>) -> Family<T> {
    Family { name, kind: "counter", help, value }
}

const fn gauge<T>(name: &'static str, help: &'static str, value: fn(&T) -> Option<f64>) -> Family<T> {
    Family { name, kind: "gauge", help, value }
}

/// Prometheus knows floating point numbers only; exact up to 2^53.
#[allow(clippy::unnecessary_wraps, reason = "the shape of every other value")]
const fn number(value: u64) -> Option<f64> {
    Some(value as f64)
}

const fn truth(holds: bool) -> Option<f64> {
    Some(if holds { 1.0 } else { 0.0 })
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

const DAEMON: [Family<Report>; 5] = [
    gauge("syncline_uptime_seconds", "Since the process started.", |it| number(it.uptime_s)),
    gauge("syncline_healthy", "1 while no part has stopped for good.", |it| truth(it.parked.is_empty())),
    gauge("syncline_disk_used_bytes", "What the files of the data folder take.", |it| number(it.disk.used)),
    gauge("syncline_disk_budget_bytes", "What they may take.", |it| number(it.disk.budget)),
    gauge("syncline_disk_stage", "0 with room, 1 from 70 %, 2 from 85 %, 3 from 95 % of the budget on.", |it| {
        number(it.disk.stage as u64)
    }),
];

const SOURCE: [Family<Source>; 16] = [
    counter("syncline_source_frames_total", "Runs of whole transactions handed to the log.", |it| number(it.frames)),
    counter("syncline_source_received_bytes_total", "Bytes received from the server.", |it| number(it.bytes)),
    counter("syncline_source_retries_total", "Sessions started again after an interruption.", |it| number(it.retries)),
    gauge("syncline_source_behind_bytes", "Bytes of the server's log that are not read yet.", |it| {
        it.behind_bytes.and_then(number)
    }),
    gauge(
        "syncline_source_log_headroom_seconds",
        "How long the server still keeps what is not read of its log, where that goes by its age.",
        |it| it.log_headroom_s.and_then(number),
    ),
    gauge("syncline_source_kept_bytes", "Bytes of log that the server keeps for the slot.", |it| number(it.kept_bytes)),
    gauge("syncline_source_spooled_bytes", "Bytes of transactions in progress that are kept until they end.", |it| {
        number(it.spooled_bytes)
    }),
    gauge("syncline_source_last_message_age_seconds", "Since the server last said anything, or the start.", |it| {
        it.last_message_age_ms.map(seconds)
    }),
    gauge("syncline_source_idle", "1 between two attempts to reach the server.", |it| truth(it.state == "idle")),
    gauge("syncline_source_connecting", "1 while the server is being reached.", |it| truth(it.state == "connecting")),
    gauge("syncline_source_copying", "1 while tables are copied.", |it| truth(it.state == "snapshot")),
    gauge("syncline_source_streaming", "1 while the log is followed.", |it| truth(it.state == "streaming")),
    gauge("syncline_source_paused", "1 while the data folder has no room for what it says.", |it| {
        truth(it.state == "paused")
    }),
    gauge("syncline_source_ended", "1 after a drain has ended the source.", |it| truth(it.state == "ended")),
    gauge(
        "syncline_source_refused",
        "1 while what the source says now is not taken and older rows stay in force.",
        |it| truth(it.problem.is_some()),
    ),
    gauge("syncline_source_parked", "1 after the source has stopped for good.", |it| truth(it.parked.is_some())),
];

const LOG: [Family<Journal>; 4] = [
    gauge("syncline_log_durable_offset", "The last entry that is safe on disk.", |it| number(it.durable)),
    gauge("syncline_log_first_offset", "The oldest entry held.", |it| number(it.first)),
    gauge("syncline_log_bytes", "Size of the log on disk.", |it| number(it.log_bytes)),
    gauge("syncline_state_bytes", "Size of state, outbox and cursors on disk.", |it| it.state_bytes.and_then(number)),
];

const TRANSFORM: [Family<Transform>; 10] = [
    gauge("syncline_transform_folded_offset", "The last entry folded into the state.", |it| number(it.folded)),
    gauge("syncline_transform_behind_entries", "Durable entries that are not folded yet.", |it| number(it.behind)),
    counter("syncline_transform_deltas_total", "Canonical changes emitted.", |it| number(it.deltas)),
    counter("syncline_transform_unchanged_rows_total", "Source rows that changed nothing canonical.", |it| {
        number(it.unchanged)
    }),
    counter("syncline_transform_faulty_rows_total", "Source rows found faulty and held.", |it| number(it.faulty)),
    counter("syncline_transform_warning_rows_total", "Delivered rows that break a warning rule.", |it| {
        number(it.warnings)
    }),
    gauge("syncline_transform_replaying", "1 while changed mappings are being applied.", |it| {
        truth(it.replay.is_some())
    }),
    gauge(
        "syncline_transform_replayed_entries",
        "Log entries folded again under changed mappings; 0 while none are.",
        |it| number(it.replay.as_ref().map_or(0, |replay| replay.folded)),
    ),
    gauge("syncline_transform_parked_mappings", "Mappings that no longer fit their tables and stand still.", |it| {
        number(it.parked_mappings.len() as u64)
    }),
    gauge("syncline_transform_parked", "1 after the transform has stopped for good.", |it| truth(it.parked.is_some())),
];

const SINK: [Family<Sink>; 13] = [
    gauge("syncline_sink_cursor_offset", "The last entry confirmed.", |it| number(it.cursor)),
    gauge("syncline_sink_behind_entries", "Folded entries that are not confirmed yet.", |it| number(it.behind)),
    counter("syncline_sink_rows_total", "Rows delivered.", |it| number(it.rows)),
    counter("syncline_sink_written_bytes_total", "Bytes delivered.", |it| number(it.bytes)),
    counter("syncline_sink_rejected_rows_total", "Refusals of single rows by the target.", |it| number(it.rejected)),
    gauge("syncline_sink_refused_rows", "Rows that the target lacks because it refused them.", |it| number(it.refused)),
    gauge("syncline_sink_expired_rows", "Refused rows that are no longer sent again by themselves.", |it| {
        number(it.expired)
    }),
    counter("syncline_sink_writes_total", "Spans delivered.", |it| number(it.writes)),
    counter("syncline_sink_retries_total", "Deliveries started again after a failure.", |it| number(it.retries)),
    gauge(
        "syncline_sink_waiting_seconds",
        "Age of the oldest row that waits to be confirmed; 0 where none waits.",
        |it| Some(seconds(it.lag_ms)),
    ),
    gauge(
        "syncline_sink_last_lag_seconds",
        "Commit at the source to confirmed, of the oldest row in the last write.",
        |it| Some(seconds(it.last_lag_ms)),
    ),
    gauge("syncline_sink_pending_loads", "Entities that are still to be sent whole or once more.", |it| {
        number(it.loads)
    }),
    gauge("syncline_sink_parked", "1 after the sink has stopped for good.", |it| truth(it.parked.is_some())),
];

const SNAPSHOTS: [Family<Snapshots>; 4] = [
    counter("syncline_lake_snapshots_total", "Snapshots taken.", |it| number(it.taken)),
    counter("syncline_lake_snapshot_failures_total", "Attempts to take one that failed.", |it| number(it.failed)),
    gauge("syncline_lake_last_snapshot_seconds", "When this process took the last snapshot, since 1970.", |it| {
        Some(it.last_ms).filter(|ms| *ms > 0).map(seconds)
    }),
    gauge("syncline_lake_snapshot_overdue", "1 while the schedule wants a snapshot and cannot have it.", |it| {
        truth(it.problem.is_some())
    }),
];

const PLANNING: [Family<PlanningCounts>; 11] = [
    counter("syncline_planning_requests_total", "Attempts to ask or to deliver.", |it| number(it.requests)),
    counter("syncline_planning_throttled_total", "Times that the target asked to wait.", |it| number(it.throttled)),
    counter("syncline_planning_rewinds_total", "Writes begun again from the target's watermark.", |it| {
        number(it.rewinds)
    }),
    counter("syncline_planning_coalesced_rows_total", "Rows not sent because a newer version was waiting.", |it| {
        number(it.coalesced)
    }),
    counter(
        "syncline_planning_ahead_rows_total",
        "Critical rows delivered before others that lay before them.",
        |it| number(it.ahead),
    ),
    counter("syncline_planning_duplicate_rows_total", "Rows that the target held already, or newer ones.", |it| {
        number(it.unchanged + it.stale)
    }),
    counter("syncline_planning_loaded_rows_total", "Rows delivered by full loads.", |it| number(it.loaded)),
    counter("syncline_planning_swept_rows_total", "Rows that full loads took away.", |it| number(it.swept)),
    gauge("syncline_planning_in_flight_limit", "Requests that may be side by side now.", |it| {
        Some(it.in_flight_limit).filter(|limit| *limit > 0).and_then(number)
    }),
    gauge("syncline_planning_circuit_open", "1 while one request at a time asks whether the target is back.", |it| {
        truth(it.circuit_open)
    }),
    gauge("syncline_planning_in_maintenance", "1 while deliveries wait for a maintenance window to end.", |it| {
        truth(it.in_maintenance)
    }),
];

const COMPLETE: &str = "syncline_complete_through_seconds";
const HELD: &str = "syncline_transform_held_rows";
const DURABLE_LAG: &str = "syncline_durable_lag_seconds";
const DELIVERY_LAG: &str = "syncline_delivery_lag_seconds";

/// The whole page. The histograms are read from the parts themselves: they are of use to Prometheus only.
pub(super) fn render(report: &Report, status: &Status) -> String {
    let mut page = Page(String::with_capacity(16 * 1024));
    page.head("syncline_info", "gauge", "Always 1; what runs, in the labels.");
    page.sample("syncline_info", &[("version", &report.version), ("pipeline", &report.name)], 1.0);
    page.families(&DAEMON, None, [("", report)]);
    page.head("syncline_source_rows_total", "counter", "Source rows handed to the log.");
    for (name, source) in &report.sources {
        let Source { reads, inserts, updates, deletes, truncates, .. } = source;
        let rows =
            [("read", reads), ("insert", inserts), ("update", updates), ("delete", deletes), ("truncate", truncates)];
        for (op, &rows) in rows {
            page.sample("syncline_source_rows_total", &[("source", name), ("op", op)], rows as f64);
        }
    }
    page.families(&SOURCE, Some("source"), report.sources.iter().map(|(name, it)| (name.as_str(), it)));
    page.families(&LOG, None, [("", &report.journal)]);
    page.families(&TRANSFORM, None, [("", &report.transform)]);
    page.head(
        HELD,
        "gauge",
        "Rows held now by a mapping, or by the sums of an entity; up to 10000 of each are counted.",
    );
    for held in report.transform.held.iter().flat_map(|held| &held.by) {
        let mapping = held.mapping.as_deref().unwrap_or("");
        let labels = [("mapping", mapping), ("entity", held.entity.as_str()), ("rule", held.rule.as_str())];
        page.sample(HELD, &labels, held.rows as f64);
    }
    page.families(&SINK, Some("sink"), report.sinks.iter().map(|(name, it)| (name.as_str(), it)));
    let snapshots = report.sinks.iter().filter_map(|(name, it)| Some((name.as_str(), it.snapshots.as_ref()?)));
    page.families(&SNAPSHOTS, Some("sink"), snapshots);
    let planning: Vec<(&str, PlanningCounts)> =
        status.sinks.iter().filter_map(|sink| Some((sink.name.as_str(), sink.planning.get()?.read()))).collect();
    page.families(&PLANNING, Some("sink"), planning.iter().map(|(name, it)| (*name, it)));
    page.head(COMPLETE, "gauge", "Since 1970: every target has all that was committed at the source before it.");
    for (source, at_us) in ready::complete_through(status) {
        let Some(at_us) = at_us else { continue };
        page.sample(COMPLETE, &[("source", source)], at_us as f64 / 1_000_000.0);
    }
    page.head(DURABLE_LAG, "histogram", "Commit at the source to durable in the log, by streamed row.");
    for source in &status.sources {
        page.histogram(DURABLE_LAG, ("source", &source.name), &source.lag);
    }
    page.head(DELIVERY_LAG, "histogram", "Commit at the source to confirmed at the target, by row.");
    for sink in &status.sinks {
        page.histogram(DELIVERY_LAG, ("sink", &sink.name), &sink.lag);
    }
    page.0
}

struct Page(String);

impl Page {
    fn families<'r, T: 'r>(
        &mut self,
        families: &[Family<T>],
        label: Option<&str>,
        parts: impl IntoIterator<Item = (&'r str, &'r T)> + Clone,
    ) {
        for family in families {
            self.head(family.name, family.kind, family.help);
            for (part, it) in parts.clone() {
                let Some(value) = (family.value)(it) else { continue };
                match label {
                    Some(label) => self.sample(family.name, &[(label, part)], value),
                    None => self.sample(family.name, &[], value),
                }
            }
        }
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.0.push_str(name);
        for (i, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"{}\"", if i == 0 { '{' } else { ',' }, escaped(text));
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    fn histogram(&mut self, name: &str, (label, part): (&str, &str), lag: &Lag) {
        let (buckets, count, sum) = lag.buckets();
        let bucket = format!("{name}_bucket");
        for (bound_ms, below) in BUCKETS_MS.into_iter().zip(buckets) {
            self.sample(&bucket, &[(label, part), ("le", &seconds(bound_ms).to_string())], below as f64);
        }
        self.sample(&bucket, &[(label, part), ("le", "+Inf")], count as f64);
        self.sample(&format!("{name}_sum"), &[(label, part)], sum);
        self.sample(&format!("{name}_count"), &[(label, part)], count as f64);
    }
}

/// A label's value as the format wants it.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
