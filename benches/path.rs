//! The whole path against its floor: one backlog, drained by `pg_recvlogical`, by capture and journal, by everything.
//!
//! Run it through `benches/path`. All read the same bytes: each round drains copies of one slot, from copies of one data
//! folder, lake and planner. Rounds are interleaved, so that a slow minute of the machine falls on everybody.

#![allow(unused_imports, reason = "the demo's unit tests are compiled here, and run elsewhere")]

#[path = "../tests/daemon/demo.rs"]
mod demo;

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::process::Command;

use demo::erp::{self, Scale};
use demo::process::Process;
use demo::server::{self, Server};
use demo::setup::{self, Setup};

type Outcome<T> = Result<T, Box<dyn Error>>;

const SQL: &str = include_str!("backlog.sql");
/// Connections that commit the steady load.
const WRITERS: u32 = 4;
/// Transactions per second of the steady load.
const STEADY: u32 = 1_000;
/// Changes in each of them: one load after the other.
const CHANGES: [u32; 2] = [1, 20];

/// What one drain took.
#[derive(Debug, Clone, Copy)]
struct Drain {
    rows: f64,
    seconds: f64,
    cpu: f64,
    peak_mib: Option<f64>,
    first_event_ms: Option<f64>,
}

/// The server, the ERP, and the state from which every round starts.
struct Bench {
    setup: Setup,
    server: Server,
    password: String,
    template: PathBuf,
    _dir: tempfile::TempDir,
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let (numbers, parts) = arguments.split_at(arguments.len().min(3));
    let [rows, rounds, seconds] = match numbers {
        [] => [1_000_000, 3, 30],
        [rows, rounds, seconds] => [rows.parse()?, rounds.parse()?, seconds.parse()?],
        _ => return Err("usage: benches/path [ROWS ROUNDS LATENCY_SECONDS [PARTS, as in ace]]".into()),
    };
    let parts = parts.first().map_or("abcde", String::as_str);
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(measure(rows, rounds, Duration::from_secs(seconds), parts))
}

async fn measure(rows: u64, rounds: u64, latency: Duration, parts: &str) -> Outcome<()> {
    let bench = Bench::prepare(rows).await?;
    let mut drains: BTreeMap<&str, Vec<Drain>> = BTreeMap::new();
    for round in 1..=rounds {
        for part in parts.chars() {
            let (name, drain) = match part {
                'a' => ("a pg_recvlogical to /dev/null", bench.floor(rows).await?),
                'b' => ("b capture and journal", bench.capture().await?),
                'c' => ("c mappings, planning and lake", bench.whole(&["planning", "lake"]).await?),
                'd' => ("d mappings and planning", bench.whole(&["planning"]).await?),
                'e' => ("e mappings and lake", bench.whole(&["lake"]).await?),
                other => return Err(format!("there is no part {other}").into()),
            };
            eprintln!("round {round}: {name}: {drain:?}");
            drains.entry(name).or_default().push(drain);
        }
    }
    report(&drains);
    if !latency.is_zero() {
        for changes in CHANGES {
            bench.latency(latency, changes, false).await?;
            bench.latency(latency, changes, true).await?;
        }
    }
    bench.server.stop().await?;
    Ok(())
}

fn report(drains: &BTreeMap<&str, Vec<Drain>>) {
    println!("| | rows/s median | best | of (a) | CPU s per million | peak MiB | first event ms |");
    println!("|---|---|---|---|---|---|---|");
    let rates = |drains: &[Drain]| sorted(drains.iter().map(|drain| drain.rows / drain.seconds));
    let floor = drains.values().next().map(|drains| median(&rates(drains)));
    for (name, drains) in drains {
        let (rates, cpu) = (rates(drains), sorted(drains.iter().map(|drain| drain.cpu * 1e6 / drain.rows)));
        let show =
            |values: Vec<f64>| if values.is_empty() { "-".to_owned() } else { format!("{:.0}", median(&values)) };
        println!(
            "| {name} | {:.0} | {:.0} | {:.2} | {:.2} | {} | {} |",
            median(&rates),
            rates.last().copied().unwrap_or_default(),
            median(&rates) / floor.unwrap_or(1.0),
            median(&cpu),
            show(sorted(drains.iter().filter_map(|drain| drain.peak_mib))),
            show(sorted(drains.iter().filter_map(|drain| drain.first_event_ms))),
        );
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
    /// The ERP copied once, then the backlog behind a slot that nobody reads.
    async fn prepare(rows: u64) -> Outcome<Self> {
        let dir = tempfile::tempdir()?;
        // The server's user must be able to enter it.
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755))?;
        let setup = Setup::new(Some(dir.path().join("bench")), PathBuf::from(env!("CARGO_BIN_EXE_syncline")))?;
        let settings = [("max_wal_size", "16GB"), ("checkpoint_timeout", "1h"), ("autovacuum", "off")];
        let server = Server::start(&setup.dir.join("postgres"), &settings).await?;
        let password = server::random_password()?;
        erp::load(|database| server.connection(database), Scale::DISTRIBUTOR, &password).await?;
        setup.write_files(server.port())?;
        let template = dir.path().join("template");
        let bench = Self { setup, server, password, template, _dir: dir };
        let began = Instant::now();
        let planner = bench.planner().await?;
        let copied = bench.drain(&bench.setup.drain(&bench.password)).await?;
        planner.stop().await?;
        eprintln!("the opening books: {copied:?}");
        std::fs::create_dir(&bench.template)?;
        for name in ["data", "lake", "planner.sqlite"] {
            copy(&bench.setup.dir.join(name), &bench.template.join(name)).await?;
        }
        bench.sql(&[&format!("SELECT pg_copy_logical_replication_slot('{}', 'bench_base')", erp::SLOT)]).await?;
        bench.sql(&[SQL]).await?;
        let call = format!("CALL bench.backlog({rows})");
        // What is loaded is on disk, so that no round pays for it.
        let by_index = "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off";
        bench.sql(&["ANALYZE", by_index, "SET synchronous_commit = off", &call, "CHECKPOINT"]).await?;
        eprintln!("prepared in {:.0?}", began.elapsed());
        Ok(bench)
    }

    async fn sql(&self, statements: &[&str]) -> Outcome<()> {
        let session = server::connect(&self.server.connection(erp::DATABASE)).await?;
        for statement in statements {
            session.client.batch_execute(statement).await?;
        }
        Ok(())
    }

    async fn text(&self, sql: &str) -> Outcome<String> {
        let session = server::connect(&self.server.connection(erp::DATABASE)).await?;
        Ok(session.client.query_one(sql, &[]).await?.get(0))
    }

    async fn planner(&self) -> Outcome<Process> {
        self.planner_with(&[]).await
    }

    async fn planner_with(&self, options: &[&str]) -> Outcome<Process> {
        let mut planner = self.setup.planner();
        planner.arguments.extend(options.iter().map(|&option| option.to_owned()));
        let planner = planner.start()?;
        let client = reqwest::Client::builder().no_proxy().build()?;
        let mut beats = tokio::time::interval(Duration::from_millis(20));
        while client.get(format!("{}/stats", self.setup.planner_url())).send().await.is_err() {
            beats.tick().await;
        }
        Ok(planner)
    }

    /// Everything as it was before the backlog, and the slot in front of it.
    async fn rewind(&self) -> Outcome<()> {
        for name in ["data", "lake", "planner.sqlite", "planner.sqlite-wal", "planner.sqlite-shm"] {
            let (from, to) = (self.template.join(name), self.setup.dir.join(name));
            if to.is_dir() {
                std::fs::remove_dir_all(&to)?;
            } else if to.exists() {
                std::fs::remove_file(&to)?;
            }
            if from.exists() {
                copy(&from, &to).await?;
            }
        }
        let (slot, base) = (erp::SLOT, "bench_base");
        self.sql(&[
            &format!("SELECT pg_drop_replication_slot('{slot}')"),
            &format!("SELECT pg_copy_logical_replication_slot('{base}', '{slot}')"),
        ])
        .await?;
        Command::new("sync").status().await?;
        Ok(())
    }

    async fn drain(&self, program: &demo::process::Program) -> Outcome<Drain> {
        let output = program.output().await?;
        let summary: Value = serde_json::from_str(output.lines().last().unwrap_or_default())?;
        let number = |name: &str| summary[name].as_f64();
        // What is held is not delivered, and would cost nothing.
        if number("held").is_some_and(|held| held > 0.0) {
            return Err(format!("rows are held, so this measures something else: {summary}").into());
        }
        let needed = |name: &str| number(name).ok_or_else(|| format!("the summary has no {name}: {summary}"));
        Ok(Drain {
            rows: needed("rows")?,
            seconds: needed("seconds")?,
            cpu: needed("cpu_seconds")?,
            peak_mib: number("peak_rss_bytes").map(|bytes| bytes / 1_048_576.0),
            first_event_ms: number("first_event_ms"),
        })
    }

    /// What the same machine can do at all: the stream, written to nowhere.
    async fn floor(&self, rows: u64) -> Outcome<Drain> {
        self.rewind().await?;
        let end = self.text("SELECT pg_current_wal_lsn()::text").await?;
        let command = format!(
            "TIMEFORMAT='%U %S'; time {} --dbname='{}' --slot={slot} --start --file=/dev/null --no-loop --endpos={end} \
             --option=proto_version=1 --option=publication_names={slot}",
            server::find_programs()?.join("pg_recvlogical").display(),
            self.server.connection(erp::DATABASE),
            slot = erp::SLOT,
        );
        let began = Instant::now();
        let output = Command::new("bash").arg("-c").arg(command).stdin(Stdio::null()).output().await?;
        let seconds = began.elapsed().as_secs_f64();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() {
            return Err(format!("pg_recvlogical failed: {said}").into());
        }
        let cpu = said.lines().last().unwrap_or_default().split(' ').filter_map(|part| part.parse::<f64>().ok()).sum();
        Ok(Drain { rows: rows as f64, seconds, cpu, peak_mib: None, first_event_ms: None })
    }

    /// A discard sink and no mappings, from an empty data folder.
    async fn capture(&self) -> Outcome<Drain> {
        self.rewind().await?;
        std::fs::remove_dir_all(self.setup.dir.join("data"))?;
        let full = std::fs::read_to_string(self.setup.config())?;
        let source = section(&full, "[daemon]", "[mappings]").replace("tables =", "snapshot = \"never\"\ntables =");
        self.with_config(&format!("{source}\n[sinks.null]\ntype = \"discard\"\n")).await
    }

    /// The demo's mappings and the named sinks, on top of what the copy left.
    async fn whole(&self, sinks: &[&str]) -> Outcome<Drain> {
        self.rewind().await?;
        let full = std::fs::read_to_string(self.setup.config())?;
        let mut text = section(&full, "# ", "[sinks.").to_owned();
        for sink in sinks {
            text.push_str(section(&full, &format!("[sinks.{sink}]"), "\n\n"));
            text.push('\n');
        }
        let planner = self.planner().await?;
        let drained = self.with_config(&text).await;
        planner.stop().await?;
        drained
    }

    async fn with_config(&self, text: &str) -> Outcome<Drain> {
        let full = std::fs::read_to_string(self.setup.config())?;
        std::fs::write(self.setup.config(), text)?;
        let drained = self.drain(&self.setup.drain(&self.password)).await;
        std::fs::write(self.setup.config(), full)?;
        drained
    }

    /// A steady load on a daemon that has nothing else to do; `alone` without a lake, and with a planner that keeps nothing.
    async fn latency(&self, length: Duration, changes: u32, alone: bool) -> Outcome<()> {
        self.rewind().await?;
        let full = std::fs::read_to_string(self.setup.config())?;
        let planner = if alone {
            // It holds nothing of what was delivered before.
            std::fs::remove_dir_all(self.setup.dir.join("data"))?;
            let planning = section(&full, "[sinks.planning]", "\n\n");
            std::fs::write(self.setup.config(), format!("{}{planning}\n", section(&full, "# ", "[sinks.")))?;
            self.planner_with(&["--forget"]).await?
        } else {
            self.planner().await?
        };
        self.drain(&self.setup.drain(&self.password)).await?;
        let daemon = self.setup.daemon(&self.password).start()?;
        self.first_applied().await?;
        let writers = (0..WRITERS).map(|writer| self.write(writer, length, changes));
        futures::future::try_join_all(writers).await?;
        let status = self.status().await?;
        let rate = STEADY * changes;
        let who = if alone { ", planning alone" } else { "" };
        println!(
            "\n| at {rate} changes/s for {length:?}{who} | rows | p50 ms | p99 ms | max ms |\n|---|---|---|---|---|"
        );
        for (what, lag) in [
            ("commit to durable", &status["sources"]["erp"]["lag"]),
            ("commit to applied at the planner", &status["sinks"]["planning"]["lag"]),
        ] {
            let ms = |name: &str| lag[name].as_f64().unwrap_or_default() / 1_000.0;
            println!("| {what} | {} | {:.1} | {:.1} | {:.1} |", lag["rows"], ms("p50_us"), ms("p99_us"), ms("max_us"));
        }
        daemon.stop().await?;
        planner.stop().await?;
        std::fs::write(self.setup.config(), full)?;
        Ok(())
    }

    async fn status(&self) -> Outcome<Value> {
        let url = format!("http://{}/status", self.setup.listen());
        Ok(setup::http().get(url).send().await?.json().await?)
    }

    /// Changes rows until one is seen to arrive: from here on the daemon has started.
    async fn first_applied(&self) -> Outcome<()> {
        let mut beats = tokio::time::interval(Duration::from_millis(50));
        loop {
            beats.tick().await;
            let arrived =
                self.status().await.ok().and_then(|status| status["sinks"]["planning"]["lag"]["rows"].as_u64());
            if arrived.unwrap_or_default() > 0 {
                return Ok(());
            }
            self.write(0, Duration::from_millis(4), 1).await?;
        }
    }

    /// One connection that commits some changes at each beat.
    async fn write(&self, writer: u32, length: Duration, changes: u32) -> Outcome<()> {
        let session = server::connect(&self.server.connection(erp::DATABASE)).await?;
        let update = session
            .client
            .prepare(
                "UPDATE meridian.stk_lot_level AS s SET qty_phys = s.qty_phys + 1 FROM bench.stock AS b WHERE b.n BETWEEN $1 AND $2 \
                 AND (s.comp_cd, s.site_no, s.art_no, s.lot_no) = (b.comp_cd, b.site_no, b.art_no, b.lot_no)",
            )
            .await?;
        let mut beats = tokio::time::interval(Duration::from_secs(1) * WRITERS / STEADY);
        let began = Instant::now();
        let mut n = i64::from(writer);
        while began.elapsed() < length {
            beats.tick().await;
            n += i64::from(WRITERS);
            let first = 1 + n % 5_000 * i64::from(changes);
            session.client.execute(&update, &[&first, &(first + i64::from(changes) - 1)]).await?;
        }
        Ok(())
    }
}

/// The text from one mark up to another, or to the end.
fn section<'t>(text: &'t str, from: &str, to: &str) -> &'t str {
    let start = text.find(from).unwrap_or_default();
    let end = text[start..].find(to).map_or(text.len(), |end| start + end);
    &text[start..end]
}

async fn copy(from: &Path, to: &Path) -> Outcome<()> {
    let copied = Command::new("cp").arg("-a").args([from, to]).status().await?;
    if copied.success() { Ok(()) } else { Err(format!("cannot copy {}", from.display()).into()) }
}
