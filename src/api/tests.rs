//! The control API over a real journal: what Prometheus and scripts rely on must not change by accident.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::json;
use syncline_journal::{Journal, Limits};
use syncline_transform::fold::{HeldNow, HeldRows};

use super::*;
use crate::pipeline::lag::Quantiles;
use crate::pipeline::status::one_source;

/// A daemon that has done some things; the journal and its folder live as long as the facts are asked.
struct Daemon {
    facts: Arc<Facts>,
    _journal: Journal,
    _folder: tempfile::TempDir,
}

impl Daemon {
    fn new(sink: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let journal = Journal::open(folder.path(), Limits::default()).expect("opens");
        let status = Arc::new(Status::new(Instant::now(), &one_source(), &[sink.to_owned()]));
        let (log, store) = (journal.log.clone(), journal.store.clone());
        let facts = Arc::new(Facts {
            name: "north".to_owned(),
            status,
            log,
            store,
            park_ttl: Duration::ZERO,
            hooks: Vec::new(),
        });
        Self { facts, _journal: journal, _folder: folder }
    }

    fn busy() -> Self {
        let this = Self::new("planning");
        let status = &this.facts.status;
        let progress = &status.sources[0].progress;
        let counters = [
            (&progress.rows, 10),
            (&progress.reads, 4),
            (&progress.inserts, 3),
            (&progress.updates, 2),
            (&progress.deletes, 1),
            (&progress.frames, 5),
            (&progress.bytes, 2_048),
            (&progress.received_lsn, 0x16_0000_0100),
            (&progress.confirmed_lsn, 0x16_0000_0080),
            (&progress.server_end_lsn, 0x16_0000_0180),
            (&progress.kept_bytes, 4_096),
            (&progress.spooled_bytes, 512),
            (&status.transform.folded, 9),
            (&status.transform.deltas, 7),
            (&status.transform.unchanged, 2),
            (&status.sinks[0].cursor, 6),
            (&status.sinks[0].rows, 5),
            (&status.sinks[0].bytes, 640),
            (&status.sinks[0].writes, 2),
            (&status.sinks[0].last_lag_ms, 14),
        ];
        for (counter, value) in counters {
            counter.store(value, Ordering::Relaxed);
        }
        for ms in [7, 14, 600, 1_000_000] {
            status.sinks[0].lag.observe(ms * 1_000, 2);
        }
        status.sources[0].lag.observe(1_500, 6);
        let held = |mapping: Option<&str>, entity: &str, rule: &str, rows| {
            let mapping = mapping.map(str::to_owned);
            HeldRows { mapping, entity: entity.to_owned(), rule: rule.to_owned(), rows }
        };
        let by =
            vec![held(Some("erp/item"), "item", "DQ_REQUIRED", 3), held(None, "inventory_balance", "DQ_OVERFLOW", 1)];
        status.transform.held.replace(HeldNow { by, complete: true });
        this
    }

    /// Serves on a free port and gives the base of its URLs.
    async fn serve(&self) -> String {
        let listener = bind("127.0.0.1:0".parse().expect("an address")).await.expect("a free port");
        let base = format!("http://{}", listener.local_addr().expect("bound"));
        tokio::spawn(serve(listener, Arc::clone(&self.facts)));
        base
    }
}

fn client() -> reqwest::Client {
    // Fails where another test of this binary was first.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().expect("a client")
}

#[test]
fn a_script_that_reads_the_status_finds_every_field_where_it_was() {
    let daemon = Daemon::busy();
    daemon.facts.status.sources[0].parked.park("source erp: slot gone".to_owned());
    let mut report = Report::take(&daemon.facts);
    assert!(report.journal.log_bytes > 0 && report.journal.state_bytes.is_some());
    (report.uptime_s, report.journal.log_bytes, report.journal.state_bytes) = (60, 4_096, Some(8_192));
    let lag = Quantiles { rows: 6, p50_us: 1_500, p99_us: 1_600, max_us: 1_700 };
    for source in report.sources.values_mut() {
        source.lag = lag.clone();
        assert!(source.last_message_age_ms.replace(250).is_some(), "a silence since the start has an age, too");
    }
    report.sinks.values_mut().for_each(|sink| sink.lag = lag.clone());
    let golden = json!({
        "version": env!("CARGO_PKG_VERSION"), "name": "north", "uptime_s": 60, "rows_in": 10, "deltas_out": 7,
        "parked": ["source erp: slot gone"],
        "sources": { "erp": {
            "state": "parked", "rows": 10, "reads": 4, "inserts": 3, "updates": 2, "deletes": 1, "truncates": 0,
            "frames": 5, "bytes": 2048, "position": null, "server": null, "received_lsn": "16/100", "confirmed_lsn": "16/80",
            "server_end_lsn": "16/180", "behind_bytes": 128, "log_headroom_s": null, "kept_bytes": 4096, "spooled_bytes": 512, "last_message_age_ms": 250, "retries": 0,
            "lag": { "rows": 6, "p50_us": 1500, "p99_us": 1600, "max_us": 1700 }, "problem": null,
            "parked": "source erp: slot gone",
        } },
        "journal": { "durable": 0, "first": 1, "log_bytes": 4096, "state_bytes": 8192 },
        "disk": { "used": 0, "budget": 0, "stage": "roomy" },
        "transform": {
            "folded": 9, "behind": 0, "deltas": 7, "unchanged": 2, "faulty": 0, "warnings": 0, "replay": null,
            "held": { "rows": 4, "complete": true, "by": [
                { "mapping": "erp/item", "entity": "item", "rule": "DQ_REQUIRED", "rows": 3 },
                { "mapping": null, "entity": "inventory_balance", "rule": "DQ_OVERFLOW", "rows": 1 },
            ] },
            "parked_mappings": [], "parked": null,
        },
        "sinks": { "planning": {
            "cursor": 6, "behind": 3, "rows": 5, "bytes": 640, "rejected": 0, "refused": 0, "expired": 0, "refused_rows": [], "writes": 2, "retries": 0, "loads": 0,
            "lag_ms": 0, "last_lag_ms": 14, "lag": { "rows": 6, "p50_us": 1500, "p99_us": 1600, "max_us": 1700 }, "parked": null,
        } },
    });
    assert_eq!(serde_json::to_value(&report).expect("encodes"), golden);
    assert_eq!(serde_json::from_value::<Report>(golden).expect("decodes"), report);
}

/// The number of a sample line, after checking the whole line against the text format.
fn parse_sample(line: &str, families: &[&str]) -> (String, f64) {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
    let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
    let name = series.split('{').next().unwrap_or_default();
    let word = |text: &str| text.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    assert!(name.starts_with("syncline_") && word(name), "{line}");
    let of_family =
        |family: &&str| name.strip_prefix(family).is_some_and(|rest| ["", "_bucket", "_sum", "_count"].contains(&rest));
    assert!(families.last().is_some_and(of_family), "{line} outside its family");
    if let Some(labels) = series.strip_prefix(name).and_then(|rest| rest.strip_prefix('{')) {
        let labels = labels.strip_suffix("\"}").unwrap_or_else(|| panic!("open labels: {line}"));
        for label in labels.split("\",") {
            let (label, text) = label.split_once("=\"").unwrap_or_else(|| panic!("no label: {line}"));
            assert!(word(label), "{line}");
            let bare = text.replace("\\\\", "").replace("\\\"", "").replace("\\n", "");
            assert!(!bare.contains(['\\', '"', '\n']), "unescaped: {line}");
        }
    }
    (series.to_owned(), value)
}

#[test]
fn prometheus_can_read_every_line_of_the_metrics() {
    let daemon = Daemon::busy();
    let page = metrics::render(&Report::take(&daemon.facts), &daemon.facts.status);
    let (mut families, mut samples) = (Vec::new(), std::collections::BTreeMap::new());
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (family, text) = help.split_once(' ').expect("a help text");
            assert!(text.ends_with('.') && !families.contains(&family), "{line}");
            families.push(family);
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (family, kind) = kind.split_once(' ').expect("a type");
            assert_eq!(Some(&family), families.last());
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(family.ends_with("_total"), kind == "counter", "{line}");
        } else {
            let (series, value) = parse_sample(line, &families);
            assert!(samples.insert(series, value).is_none(), "twice: {line}");
        }
    }
    assert!(page.ends_with('\n'));
    let expect = [
        ("syncline_source_rows_total{source=\"erp\",op=\"read\"}", 4.0),
        ("syncline_source_behind_bytes{source=\"erp\"}", 128.0),
        ("syncline_source_kept_bytes{source=\"erp\"}", 4096.0),
        ("syncline_source_spooled_bytes{source=\"erp\"}", 512.0),
        ("syncline_source_refused{source=\"erp\"}", 0.0),
        ("syncline_source_idle{source=\"erp\"}", 1.0),
        ("syncline_transform_deltas_total", 7.0),
        ("syncline_transform_held_rows{mapping=\"erp/item\",entity=\"item\",rule=\"DQ_REQUIRED\"}", 3.0),
        ("syncline_transform_held_rows{mapping=\"\",entity=\"inventory_balance\",rule=\"DQ_OVERFLOW\"}", 1.0),
        ("syncline_sink_behind_entries{sink=\"planning\"}", 3.0),
        ("syncline_sink_last_lag_seconds{sink=\"planning\"}", 0.014),
        ("syncline_durable_lag_seconds_bucket{source=\"erp\",le=\"0.002\"}", 6.0),
        ("syncline_delivery_lag_seconds_bucket{sink=\"planning\",le=\"0.01\"}", 2.0),
        ("syncline_delivery_lag_seconds_bucket{sink=\"planning\",le=\"0.015\"}", 4.0),
        ("syncline_delivery_lag_seconds_bucket{sink=\"planning\",le=\"1\"}", 6.0),
        ("syncline_delivery_lag_seconds_bucket{sink=\"planning\",le=\"+Inf\"}", 8.0),
        ("syncline_delivery_lag_seconds_count{sink=\"planning\"}", 8.0),
    ];
    for (series, value) in expect {
        assert_eq!(samples.get(series), Some(&value), "{series}");
    }
    assert!(page.contains("last_message_age_seconds{"), "a server that never answered is an old silence");
}

#[test]
fn a_name_with_quotes_does_not_break_the_metrics() {
    let daemon = Daemon::new("odd \"name\"\\");
    let page = metrics::render(&Report::take(&daemon.facts), &daemon.facts.status);
    assert!(page.contains(r#"syncline_sink_rows_total{sink="odd \"name\"\\"} 0"#), "{page}");
}

#[test]
fn the_console_works_without_the_internet() {
    let page = include_str!("console.html");
    let svg = "http://www.w3.org/2000/svg";
    let rest = page.replace(svg, "");
    for outside in ["http:", "https:", "//cdn", "src=\"", "@import", "url(", "<link", "<iframe", "integrity="] {
        assert!(!rest.contains(outside), "refers to {outside}");
    }
    assert!(!page.contains("innerHTML"), "names and reasons are text, never markup");
}

#[tokio::test]
async fn health_fails_with_the_reason_when_a_part_is_parked() {
    let daemon = Daemon::busy();
    let (base, http) = (daemon.serve().await, client());
    let answer = http.get(format!("{base}/health")).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.json::<serde_json::Value>().await.expect("JSON"), json!({ "status": "ok", "parked": [] }));
    daemon.facts.status.sinks[0].parked.park("401, check the token".to_owned());
    let answer = http.get(format!("{base}/health")).send().await.expect("an answer");
    assert_eq!(answer.status(), 503);
    let parked = json!({ "status": "parked", "parked": ["sink planning: 401, check the token"] });
    assert_eq!(answer.json::<serde_json::Value>().await.expect("JSON"), parked);
}

#[tokio::test]
async fn every_view_is_served_fresh_and_as_what_it_is() {
    let daemon = Daemon::busy();
    let (base, http) = (daemon.serve().await, client());
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/status", "application/json"),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
        ("/health", "application/json"),
    ] {
        let answer = http.get(format!("{base}{path}")).send().await.expect("an answer");
        assert_eq!(answer.status(), 200, "{path}");
        assert_eq!(answer.headers()["content-type"], kind, "{path}");
        assert_eq!(answer.headers()["cache-control"], "no-store", "{path}");
    }
    assert_eq!(http.get(format!("{base}/row")).send().await.expect("an answer").status(), 404);
}

#[tokio::test]
async fn an_address_that_is_taken_is_named_with_the_setting() {
    let taken = bind("127.0.0.1:0".parse().expect("an address")).await.expect("a free port");
    let address = taken.local_addr().expect("bound");
    let error = bind(address).await.expect_err("taken").to_string();
    assert!(error.contains(&address.to_string()) && error.contains("set listen in [daemon]"), "{error}");
}

#[tokio::test]
async fn rows_are_shown_to_nobody_who_came_by_a_name_of_his_own_and_never_without_end() {
    let daemon = Daemon::busy();
    let (base, http) = (daemon.serve().await, client());
    let ask = |path: &str, host: Option<&str>| {
        let asked = http.get(format!("{base}{path}"));
        if let Some(host) = host { asked.header("host", host) } else { asked }
    };
    for (path, host, status) in [
        ("/exceptions", None, 200),
        ("/exceptions", Some("localhost:7070"), 200),
        ("/exceptions", Some("[::1]:7070"), 200),
        ("/exceptions", Some("elsewhere.example:7070"), 403),
        ("/preview/erp/item", Some("elsewhere.example"), 403),
        ("/status", Some("metrics.internal:7070"), 200),
        ("/exceptions?limit=10001", None, 400),
        ("/preview/erp/item", None, 404),
    ] {
        let answer = ask(path, host).send().await.expect("an answer");
        assert_eq!(answer.status(), status, "{path} as {host:?}");
    }
    let broken = json!({ "mappings": [{ "path": "erp/item.sql", "file": "item.sql", "text": "SELEC 1" }] });
    let answer = http.post(format!("{base}/replay")).json(&broken).send().await.expect("an answer");
    assert_eq!(answer.status(), 400);
    assert!(answer.text().await.expect("text").contains("item.sql:1:"));
}
