//! The copy of a large table into the journal, against the server's own COPY by as many processes.
//!
//! Run it through `benches/copy`. The floor reads the same table in the server's binary form and writes it to nowhere: psql
//! processes that divide it by key. Ours decodes it, writes it with its checksums and syncs it.

#![allow(unused_imports, reason = "the demo's unit tests are compiled here, and run elsewhere")]

#[path = "../tests/daemon/demo.rs"]
mod demo;

use std::error::Error;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Instant;

use serde_json::Value;
use tokio::process::Command;

use demo::server::{self, Server};
use demo::setup::Setup;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Processes of the floor, and connections of ours.
const WORKERS: u64 = 2;
const DATABASE: &str = "bench";
/// Twelve columns of an order line, some 130 bytes in the server's text form.
const TABLE: &str =
    "CREATE TABLE line (id bigint PRIMARY KEY, ord bigint NOT NULL, pos int NOT NULL, item text NOT NULL,
    site char(4) NOT NULL, qty numeric(15,3) NOT NULL, price numeric(13,4), cur char(3), due date, made timestamptz,
    state smallint, note varchar(60))";

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [rows, rounds] = match arguments.as_slice() {
        [] => [5_000_000, 3],
        [rows, rounds] => [rows.parse()?, rounds.parse()?],
        _ => return Err("usage: benches/copy [ROWS ROUNDS]".into()),
    };
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(measure(rows, rounds))
}

async fn measure(rows: u64, rounds: u64) -> Outcome<()> {
    let dir = tempfile::tempdir()?;
    // The server's user must be able to enter it.
    std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755))?;
    let setup = Setup::new(Some(dir.path().join("bench")), PathBuf::from(env!("CARGO_BIN_EXE_syncline")))?;
    let settings = [("max_wal_size", "16GB"), ("autovacuum", "off"), ("shared_buffers", "2GB")];
    let server = Server::start(&setup.dir.join("postgres"), &settings).await?;
    execute(&server, "postgres", &format!("CREATE DATABASE {DATABASE}")).await?;
    let fill = format!(
        "INSERT INTO line SELECT i, i / 5, i % 5, 'A' || i % 20000, 'W0' || i % 40, (i % 900)::numeric / 3, i % 70000, 'EUR', \
         date '2026-01-01' + (i % 400)::int, timestamptz '2026-01-01' + i * interval '1 s', i % 9, 'order line ' || i \
         FROM generate_series(1, {rows}) AS i"
    );
    for statement in [TABLE, fill.as_str(), "VACUUM ANALYZE line", "CHECKPOINT"] {
        execute(&server, DATABASE, statement).await?;
    }
    let connection = server.connection(DATABASE);
    let password = connection.split_whitespace().find_map(|part| part.strip_prefix("password="));
    let password = password.ok_or("the connection has no password")?.to_owned();
    println!("| | thousand rows/s | CPU s per million | peak MiB |\n|---|---|---|---|");
    for _ in 0..rounds {
        let (seconds, cpu) = floor(&server, rows).await?;
        report(&format!("COPY (FORMAT binary) to /dev/null by {WORKERS} psql"), rows, seconds, cpu, None);
        std::fs::write(setup.config(), config(&setup, &server))?;
        let began = Instant::now();
        let output = setup.drain(&password).output().await?;
        let seconds = began.elapsed().as_secs_f64();
        let summary: Value = serde_json::from_str(output.lines().last().unwrap_or_default())?;
        let number = |name: &str| summary[name].as_f64().ok_or_else(|| format!("no {name} in {summary}"));
        let peak = number("peak_rss_bytes")? / 1_048_576.0;
        report("snapshot into the journal", rows, seconds, number("cpu_seconds")?, Some(peak));
        std::fs::remove_dir_all(setup.dir.join("data"))?;
        execute(&server, DATABASE, "SELECT pg_drop_replication_slot('bench'); DROP PUBLICATION bench").await?;
    }
    server.stop().await?;
    Ok(())
}

async fn execute(server: &Server, database: &str, sql: &str) -> Outcome<()> {
    Ok(server::connect(&server.connection(database)).await?.client.batch_execute(sql).await?)
}

fn config(setup: &Setup, server: &Server) -> String {
    let (data, listen, port) = (setup.dir.join("data"), setup.listen(), server.port());
    format!(
        "[daemon]\ndata_dir = {data:?}\nlisten = \"{listen}\"\n[sources.erp]\ntype = \"postgres\"\n\
         url = \"postgres://{}@127.0.0.1:{port}/{DATABASE}\"\npassword = {{ env = \"ERP_PASSWORD\" }}\n\
         tables = [\"public.*\"]\nslot = \"bench\"\npublication = \"bench\"\ncopy_workers = {WORKERS}\n\
         [sinks.null]\ntype = \"discard\"\n",
        server::OWNER
    )
}

/// What the server and its client can do: seconds and CPU seconds of the clients.
async fn floor(server: &Server, rows: u64) -> Outcome<(f64, f64)> {
    let psql = server::find_programs()?.join("psql");
    let share = rows.div_ceil(WORKERS);
    let copies = (0..WORKERS).map(|worker| {
        let (from, to) = (worker * share, (worker + 1) * share);
        format!(
            "{} -qX '{}' -c \"COPY (SELECT * FROM line WHERE id > {from} AND id <= {to}) TO STDOUT (FORMAT binary)\" >/dev/null &",
            psql.display(),
            server.connection(DATABASE)
        )
    });
    let command = format!("TIMEFORMAT='%U %S'; time {{ {} wait; }}", copies.collect::<Vec<_>>().join(" "));
    let began = Instant::now();
    let output = Command::new("bash").arg("-c").arg(command).stdin(Stdio::null()).output().await?;
    let seconds = began.elapsed().as_secs_f64();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let cpu = said.lines().last().unwrap_or_default().split(' ').filter_map(|part| part.parse::<f64>().ok()).sum();
    if !output.status.success() || said.lines().count() > 1 {
        return Err(format!("psql failed: {said}").into());
    }
    Ok((seconds, cpu))
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn report(what: &str, rows: u64, seconds: f64, cpu: f64, peak: Option<f64>) {
    let peak = peak.map_or_else(|| "-".to_owned(), |peak| format!("{peak:.0}"));
    println!("| {what} | {:.0} | {:.2} | {peak} |", rows as f64 / seconds / 1e3, cpu * 1e6 / rows as f64);
}
