//! One distributor with everything around it, in a temporary folder.

use std::future::Future;
use std::path::PathBuf;
use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::demo::compare::compare;
use super::demo::erp::{self, Scale};
use super::demo::expected::Expected;
use super::demo::process::{Process, Program};
use super::demo::server::{self, Server};
use super::demo::setup::{self, Setup};

/// The daemon under test.
pub(crate) const SYNCLINE: &str = env!("CARGO_BIN_EXE_syncline");

/// A private server with the ERP, the planner, and what it takes to run the daemon.
pub(crate) struct World {
    pub(crate) setup: Setup,
    pub(crate) server: Server,
    pub(crate) password: String,
    pub(crate) planner: Option<Process>,
    _dir: TempDir,
}

impl World {
    /// Loads the ERP and writes the configuration; the planner runs, the daemon does not.
    pub(crate) async fn new(scale: Scale, settings: &[(&str, &str)]) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let dir = server::tests::open_folder();
        let setup = Setup::new(Some(dir.path().join("demo")), PathBuf::from(SYNCLINE)).expect("an empty folder");
        let server = Server::start(&setup.dir.join("postgres"), settings).await.expect("a private server");
        let password = server::random_password().expect("a password");
        erp::load(|database| server.connection(database), scale, &password).await.expect("the ERP loads");
        setup.write_files(server.port()).expect("the configuration is written");
        let planner = Some(setup.planner().start().expect("the planner starts"));
        let world = Self { setup, server, password, planner, _dir: dir };
        world.planner_answers().await;
        world
    }

    pub(crate) fn connection(&self) -> String {
        self.server.connection(erp::DATABASE)
    }

    /// Waits until the planner answers.
    pub(crate) async fn planner_answers(&self) {
        eventually("the planner answers", || async { self.planner_json("/stats").await.is_some() }).await;
    }

    pub(crate) fn daemon(&self) -> Process {
        self.setup.daemon(&self.password).start().expect("the daemon starts")
    }

    /// Runs the daemon until everything is delivered; its summary.
    pub(crate) async fn drain(&self) -> Value {
        let output = self.setup.drain(&self.password).output().await.unwrap_or_else(|error| panic!("{error}"));
        let last = output.lines().last().expect("a summary");
        serde_json::from_str(last).expect("the summary is JSON")
    }

    /// Runs a command to its end with the password in the environment.
    pub(crate) async fn command(&self, arguments: &[&str]) -> Output {
        let config = self.setup.config().display().to_string();
        tokio::process::Command::new(SYNCLINE)
            .args(arguments)
            .args(["--config", &config])
            .env("ERP_PASSWORD", &self.password)
            .kill_on_drop(true)
            .output()
            .await
            .expect("the command runs")
    }

    /// The answer of a command that must go well.
    pub(crate) async fn said(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// Has a command refused with a reason.
    pub(crate) async fn assert_refused(&self, arguments: &[&str], wanted: &str) {
        let output = self.command(arguments).await;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(wanted), "{error}");
    }

    pub(crate) async fn planner_json(&self, path: &str) -> Option<Value> {
        get(&format!("{}{path}", self.setup.planner_url())).await.ok()?.json().await.ok()
    }

    /// What the daemon says of itself, while it answers.
    pub(crate) async fn status(&self) -> Option<Value> {
        get(&format!("http://{}/status", self.setup.listen())).await.ok()?.json().await.ok()
    }

    /// A number on the first column of the first row.
    pub(crate) async fn query_number(&self, sql: &str) -> i64 {
        let session = server::connect(&self.connection()).await.expect("log in");
        session.client.query_one(sql, &[]).await.expect("the query runs").get(0)
    }

    pub(crate) async fn execute(&self, sql: &str) {
        let session = server::connect(&self.connection()).await.expect("log in");
        session.client.batch_execute(sql).await.expect("the statement runs");
    }

    /// Source and planner agree key by key and value by value.
    pub(crate) async fn assert_planner_equals_source(&self) {
        let compared = compare(&self.connection(), &self.setup.planner_url(), Expected::ERP).await;
        let compared = compared.expect("both answer");
        for comparison in &compared {
            assert!(comparison.agrees(), "{comparison}");
        }
    }

    /// Stops what still runs.
    pub(crate) async fn end(self) {
        if let Some(planner) = self.planner {
            planner.stop().await.expect("the planner stops");
        }
        self.server.stop().await.expect("the server stops");
    }

    /// A program with one text of the configuration replaced.
    pub(crate) fn reconfigure(&self, from: &str, to: &str) {
        let path = self.setup.config();
        let text = std::fs::read_to_string(&path).expect("read the configuration");
        assert!(text.contains(from), "the configuration has no {from:?}");
        std::fs::write(&path, text.replace(from, to)).expect("write the configuration");
    }

    pub(crate) fn planner_program(&self) -> Program {
        self.setup.planner()
    }
}

/// Asks somebody on this machine.
pub(crate) async fn get(url: &str) -> reqwest::Result<reqwest::Response> {
    setup::http().get(url).send().await
}

/// Waits for a condition, for at most two minutes.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut beats = tokio::time::interval(Duration::from_millis(20));
    while !holds().await {
        assert!(Instant::now() < deadline, "not within two minutes: {what}");
        beats.tick().await;
    }
}
