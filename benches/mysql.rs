//! A backlog of MariaDB's log, and a table that is copied, into the journal: against what the server's own programs take.
//!
//! Run it through `benches/mysql`. The floor of the backlog is `mariadb-binlog`, which writes the same events to a RAM disk as they
//! come; that of the copy is `SELECT *` by as many clients as ours has connections, written to nowhere. Rounds are interleaved.

#![allow(unused_imports, reason = "the demo's unit tests are compiled here, and run elsewhere")]

#[path = "../tests/daemon/demo.rs"]
mod demo;
#[path = "../capture/tests/mysql/server.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "the server of tests, which look at more of it")]
mod server;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;
use syncline_capture::mysql::{Address, Host};
use tokio::process::Command;

use demo::setup::Setup;
use server::{Database, Server};

type Outcome<T> = Result<T, Box<dyn Error>>;

const SQL: &str = include_str!("mysql.sql");
/// Clients of the floor, and connections of ours.
const WORKERS: u64 = 2;
/// Memory with a name: what is written there costs no disk.
const RAM_DISK: &str = "/dev/shm";
const SETTINGS: [&str; 3] = ["--innodb-buffer-pool-size=2G", "--innodb-log-file-size=1G", "--max-binlog-size=1G"];

/// What one run took.
#[derive(Debug, Clone, Copy)]
struct Run {
    rows: f64,
    seconds: f64,
    cpu: f64,
    peak_mib: Option<f64>,
}

struct Bench {
    setup: Setup,
    database: Database,
    socket: PathBuf,
    /// A data folder that stands right before the backlog.
    template: PathBuf,
    _dir: tempfile::TempDir,
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [rows, changes, rounds] = match arguments.as_slice() {
        [] => [3_000_000, 1_000_000, 3],
        [rows, changes, rounds] => [rows.parse()?, changes.parse()?, rounds.parse()?],
        _ => return Err("usage: benches/mysql [ROWS CHANGES ROUNDS]".into()),
    };
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(measure(rows, changes, rounds))
}

async fn measure(rows: u64, changes: u64, rounds: u64) -> Outcome<()> {
    let bench = Bench::prepare(rows)?;
    let mut copies: BTreeMap<&str, Vec<Run>> = BTreeMap::new();
    for _ in 0..rounds {
        copies.entry("a SELECT * to /dev/null").or_default().push(bench.select(rows).await?);
        copies.entry("b copy into the journal").or_default().push(bench.drain("initial").await?);
    }
    report(&copies);
    let file = bench.backlog(changes).await?;
    let mut drains: BTreeMap<&str, Vec<Run>> = BTreeMap::new();
    for _ in 0..rounds {
        drains.entry("a mariadb-binlog --raw to a RAM disk").or_default().push(bench.dump(&file, changes).await?);
        bench.rewind().await?;
        drains.entry("b capture and journal").or_default().push(bench.drain("never").await?);
    }
    report(&drains);
    Ok(())
}

fn report(runs: &BTreeMap<&str, Vec<Run>>) {
    println!(
        "\n| | thousand rows/s median | best | of (a) | CPU s per million | peak MiB |\n|---|---|---|---|---|---|"
    );
    let rates = |runs: &[Run]| sorted(runs.iter().map(|run| run.rows / run.seconds / 1e3));
    let floor = runs.values().next().map_or(1.0, |runs| median(&rates(runs)));
    for (name, runs) in runs {
        let (rates, cpu) = (rates(runs), sorted(runs.iter().map(|run| run.cpu * 1e6 / run.rows)));
        let peaks = sorted(runs.iter().filter_map(|run| run.peak_mib));
        let peak = peaks.last().map_or_else(|| "-".to_owned(), |peak| format!("{peak:.0}"));
        let (middle, best) = (median(&rates), rates.last().copied().unwrap_or_default());
        println!("| {name} | {middle:.0} | {best:.0} | {:.2} | {:.2} | {peak} |", middle / floor, median(&cpu));
    }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

fn median(sorted: &[f64]) -> f64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

impl Bench {
    /// A server with a table of so many rows.
    fn prepare(rows: u64) -> Outcome<Self> {
        let dir = tempfile::tempdir()?;
        let setup = Setup::new(Some(dir.path().join("bench")), PathBuf::from(env!("CARGO_BIN_EXE_syncline")))?;
        let database = Arc::new(Server::start(&SETTINGS)).database(SQL);
        database.sql(&format!("CALL put(1, {rows}); ANALYZE TABLE line"));
        let [Address { host: Host::Unix(socket), .. }] = &database.config.hosts[..] else {
            return Err("it listens on a socket".into());
        };
        let socket = socket.clone();
        Ok(Self { setup, database, socket, template: dir.path().join("template"), _dir: dir })
    }

    /// Makes the backlog, in a file of its own, behind a daemon that stands right before it.
    async fn backlog(&self, changes: u64) -> Outcome<String> {
        self.clear()?;
        self.drain("never").await?;
        std::fs::rename(self.setup.dir.join("data"), &self.template)?;
        self.database.sql("FLUSH BINARY LOGS");
        let status = self.database.sql("SHOW MASTER STATUS");
        let file = status.split_whitespace().next().ok_or("the server has no log")?;
        self.database.sql(&format!("CALL backlog({changes})"));
        Ok(file.to_owned())
    }

    fn clear(&self) -> Outcome<()> {
        let data = self.setup.dir.join("data");
        if data.exists() { Ok(std::fs::remove_dir_all(data)?) } else { Ok(()) }
    }

    /// Has the next drain begin right before the backlog.
    async fn rewind(&self) -> Outcome<()> {
        self.clear()?;
        let data = self.setup.dir.join("data");
        let copied = Command::new("cp").arg("-a").args([&self.template, &data]).status().await?;
        if copied.success() { Ok(()) } else { Err(format!("cannot copy {}", self.template.display()).into()) }
    }

    /// One drain of the daemon, into nothing behind its journal; of a copy from an empty folder.
    async fn drain(&self, snapshot: &str) -> Outcome<Run> {
        if snapshot == "initial" {
            self.clear()?;
        }
        std::fs::write(self.setup.config(), self.config(snapshot))?;
        Command::new("sync").status().await?;
        let output = self.setup.drain("").output().await?;
        let summary: Value = serde_json::from_str(output.lines().last().unwrap_or_default())?;
        let number = |name: &str| summary[name].as_f64().ok_or_else(|| format!("no {name} in {summary}"));
        let peak_mib = Some(number("peak_rss_bytes")? / 1_048_576.0);
        Ok(Run { rows: number("rows")?, seconds: number("seconds")?, cpu: number("cpu_seconds")?, peak_mib })
    }

    fn config(&self, snapshot: &str) -> String {
        let (data, listen) = (self.setup.dir.join("data"), self.setup.listen());
        let (socket, name) = (self.socket.display(), &self.database.name);
        format!(
            "[daemon]\ndata_dir = {data:?}\nlisten = \"{listen}\"\n[sources.erp]\ntype = \"mariadb\"\n\
             url = \"mariadb://root@localhost/?socket={socket}\"\ntables = [\"{name}.*\"]\nsnapshot = \"{snapshot}\"\n\
             copy_workers = {WORKERS}\n[sinks.null]\ntype = \"discard\"\n"
        )
    }

    /// What the server and its reader of logs can do.
    async fn dump(&self, file: &str, changes: u64) -> Outcome<Run> {
        let folder = tempfile::tempdir_in(RAM_DISK)?;
        let place = folder.path().join("log.");
        self.floor(
            changes,
            &format!(
                "{} --raw --to-last-log --result-file='{}' {file};",
                self.client("mariadb-binlog -R"),
                place.display()
            ),
        )
        .await
    }

    /// What the server and its client can do with the whole table.
    async fn select(&self, rows: u64) -> Outcome<Run> {
        let (share, name) = (rows.div_ceil(WORKERS), &self.database.name);
        let select = |worker| {
            let (from, to) = (worker * share, (worker + 1) * share);
            let client = self.client("mariadb");
            format!("{client} --quick -B -e 'SELECT * FROM line WHERE id > {from} AND id <= {to}' {name} >/dev/null &")
        };
        let selects: Vec<String> = (0..WORKERS).map(select).collect();
        self.floor(rows, &format!("{} wait;", selects.join(" "))).await
    }

    /// A program of the server with how it connects.
    fn client(&self, program: &str) -> String {
        let (name, rest) = program.split_once(' ').unwrap_or((program, ""));
        format!("{name} --no-defaults {rest} -uroot --socket='{}'", self.socket.display())
    }

    /// Runs commands of a shell, of which the clients' time is counted.
    async fn floor(&self, rows: u64, commands: &str) -> Outcome<Run> {
        let script = format!("TIMEFORMAT='%U %S'; time {{ {commands} }}");
        let began = Instant::now();
        let output = Command::new("bash").arg("-c").arg(script).stdin(Stdio::null()).output().await?;
        let seconds = began.elapsed().as_secs_f64();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() || said.lines().count() > 1 {
            return Err(format!("{commands} failed: {said}").into());
        }
        let cpu = said.split_whitespace().filter_map(|part| part.parse::<f64>().ok()).sum();
        Ok(Run { rows: rows as f64, seconds, cpu, peak_mib: None })
    }
}
