//! Syncline: keeps a distributor's ERP, warehouses and demand planning in line.
//!
//! The binary is thin: [`config`] says what is wanted, [`pipeline`] does it, [`api`] shows it, [`command`] is the way in.

mod api;
mod cli;
mod command;
mod config;
mod demo;
mod figures;
mod pipeline;
mod usage;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Command, LogFormat};
use crate::command::CommandError;
use crate::config::Config;
use crate::demo::DemoOptions;

/// Most allocations here are small, short-lived and of another thread than the one that frees them.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How long the end waits for what is in the hands of other threads.
const END_WAIT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let started = Instant::now();
    let cli = Cli::parse();
    if let Err(error) = demo::end_with_parent() {
        eprintln!("syncline: cannot start: {error}");
        return ExitCode::FAILURE;
    }
    start_logging(cli.log_format);
    // Two providers are linked (object_store brings ring); whichever asks first must find one chosen.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        eprintln!("syncline: another TLS provider was installed first");
        return ExitCode::FAILURE;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("syncline: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let executed = runtime.block_on(execute(cli, started));
    // Whoever still scans the state for an answer is not waited for.
    runtime.shutdown_timeout(END_WAIT);
    match executed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("syncline: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn execute(cli: Cli, started: Instant) -> Result<(), CommandError> {
    match cli.command {
        Command::Run(args) => command::run::run(Config::read(&cli.config)?, &args, started).await,
        Command::Check(args) => command::check::run(Config::read(&cli.config)?, &args).await,
        Command::Status(args) => command::status::run(&cli.config, &args).await,
        Command::DeadLetters(args) => command::letters::run(&cli.config, &args).await,
        Command::Schemas(args) => command::schemas::run(&args),
        Command::Exceptions(args) => command::rows::exceptions(&cli.config, &args).await,
        Command::Preview(args) => command::rows::preview(&cli.config, &args).await,
        Command::Explain(args) => command::rows::explain(&cli.config, &args).await,
        Command::Replay(args) => command::replay::run(&cli.config, Config::read(&cli.config)?, &args).await,
        Command::Snapshot(args) => command::snapshot::run(&cli.config, &args).await,
        Command::Tables(args) => command::tables::run(&cli.config, &args).await,
        Command::Query(args) => command::query::run(&cli.config, &args).await,
        Command::Planner(args) => command::planner::run(&args).await,
        Command::Demo(args) => {
            let options = DemoOptions { drain: args.drain, dir: args.dir, small: args.small, ..DemoOptions::default() };
            Ok(demo::run(options).await?)
        }
    }
}

/// What libraries say of their own affairs matters only when it is a warning.
const LOG_FILTER: &str = "warn,syncline=info,syncline_capture=info,syncline_journal=info,syncline_transform=info,\
                          syncline_sinks=info";

/// Log lines go to standard error, so that standard output holds only what was asked for.
fn start_logging(format: LogFormat) {
    let filter = EnvFilter::try_from_env("SYNCLINE_LOG").unwrap_or_else(|_| EnvFilter::new(LOG_FILTER));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.with_target(false).with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => lines.json().init(),
    }
}
