//! A private receiver in a temporary folder, and what it holds.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use syncline_sinks::planner::{Access, Faults, PlannerConfig, Running, serve};
use syncline_sinks::planning::{PlanningConfig, PlanningSink};

use crate::outbox::{Outbox, canonical, key_text, quantity};

/// A receiver with its folder.
pub(crate) struct Target {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) running: Running,
    http: reqwest::Client,
}

impl Target {
    pub(crate) async fn start(faults: Faults) -> Self {
        // Fails where another test of this binary was first.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir().expect("a folder");
        let db = folder.path().join("planner.db");
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let running =
            serve(PlannerConfig { listen, db, faults, access: Access::default() }).await.expect("a free port");
        Self { folder, running, http: reqwest::Client::builder().no_proxy().build().expect("a client") }
    }

    pub(crate) fn db(&self) -> PathBuf {
        self.folder.path().join("planner.db")
    }

    /// Stops the receiver and starts it again at the same address; what happens in between is up to the caller.
    pub(crate) async fn restart(self, between: impl AsyncFnOnce()) -> Self {
        let (listen, db) = (self.running.addr, self.db());
        self.running.shutdown().await.expect("a clean stop");
        between().await;
        let running = serve(PlannerConfig { listen, db, faults: Faults::default(), access: Access::default() })
            .await
            .expect("the same port");
        Self { running, ..self }
    }

    /// Settings that are quick to fail.
    pub(crate) fn config(&self) -> PlanningConfig {
        let url = format!("http://{}/pdx/v1", self.running.addr).parse().expect("a URL");
        let mut config = PlanningConfig::new(url, "test");
        config.partitions = 4;
        config.max_records = 50;
        config.patience = Duration::from_secs(60);
        config
    }

    pub(crate) fn sink(&self) -> PlanningSink {
        PlanningSink::new(self.config()).expect("a sink")
    }

    pub(crate) fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("http://{}{path}", self.running.addr))
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let response = self.request(reqwest::Method::GET, path).send().await.expect("an answer");
        let body = response.bytes().await.expect("a body");
        serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub(crate) async fn stat(&self, name: &str) -> u64 {
        self.get("/stats").await[name].as_u64().unwrap_or_else(|| panic!("a counter {name}"))
    }

    pub(crate) async fn set_faults(&self, faults: &Faults) {
        let request = self.request(reqwest::Method::POST, "/faults").json(faults);
        assert!(request.send().await.expect("an answer").status().is_success());
    }

    /// Compares everything held with what the outbox says, key by key and value by value.
    pub(crate) async fn assert_holds(&self, outbox: &Outbox) {
        let mut wanted: BTreeMap<String, usize> = BTreeMap::new();
        for ((name, key), change) in &outbox.newest {
            *wanted.entry(name.clone()).or_default() += 1;
            let entity = canonical(name);
            let segments: Vec<String> =
                (0..entity.key_len()).map(|i| key_text(entity, i, *key).replace('"', "%22")).collect();
            let held = self.get(&format!("/entities/{name}/{}", segments.join("/"))).await;
            assert_eq!(held["version"], change.version.to_string(), "{name} {key}");
            assert_eq!(held["deleted"], change.value.is_none(), "{name} {key}");
            if let Some(value) = change.value {
                let field = entity.fields.iter().find(|field| field.unit.as_deref() == Some("base unit of the item"));
                let field = &field.expect("a quantity").name;
                let text = held["data"][field].as_str().expect("a decimal string");
                let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
                let digits: i128 = format!("{whole}{fraction:0<9}").parse().expect("digits");
                assert_eq!(digits, quantity(value), "{name} {key} {field}");
            }
        }
        for count in self.get("/entities").await.as_array().expect("a list") {
            let held = count["rows"].as_u64().expect("rows") + count["tombstones"].as_u64().expect("tombstones");
            let name = count["entity"].as_str().expect("a name");
            assert_eq!(held, wanted.get(name).copied().unwrap_or_default() as u64, "rows of {name}");
        }
        assert_eq!(self.stat("went_backwards").await, 0);
    }
}

/// Waits for a condition, for at most a minute.
pub(crate) async fn eventually<F: Future<Output = bool>>(holds: impl Fn() -> F) {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    let mut beats = tokio::time::interval(Duration::from_millis(5));
    while !holds().await {
        assert!(std::time::Instant::now() < deadline, "not within a minute");
        beats.tick().await;
    }
}
