//! `syncline run`: the daemon from start to exit code.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tracing::info;

use super::CommandError;
use super::signals::Signals;
use crate::api::{self, Facts, hooks};
use crate::cli::{RunArgs, SummaryFormat};
use crate::config::{Config, SourceConfig};
use crate::pipeline::status::Status;
use crate::pipeline::{Pipeline, rows};
use crate::usage;

/// Runs until a signal, the end of a drain, or until nothing can go on.
pub(crate) async fn run(mut config: Config, args: &RunArgs, started: Instant) -> Result<(), CommandError> {
    // First of all, so that whoever asks us to stop is heard from here on.
    let mut signals = Signals::listen()?;
    let draining = set_drain(&mut config, args)?;
    // Before anything touches the data folder: a daemon that nobody could ask does not start.
    let listener = api::bind(config.listen).await?;
    let sources: Vec<_> = config.sources.iter().map(SourceConfig::known).collect();
    let sinks: Vec<String> = config.sinks.iter().map(|sink| sink.name.clone()).collect();
    let status = Arc::new(Status::new(started, &sources, &sinks));
    let (name, listen, park_ttl) = (config.name.clone(), config.listen, config.park_ttl);
    let hooks = hooks::of(&config);
    let pipeline = Pipeline::start(config, Arc::clone(&status))?;
    let store = pipeline.store.clone();
    let log = pipeline.log.clone();
    let facts = Facts { name, status: Arc::clone(&status), log, store: store.clone(), park_ttl, hooks };
    let api = tokio::spawn(api::serve(listener, Arc::new(facts)));
    let sources: Vec<&str> = sources.iter().map(|(id, _)| id.as_str()).collect();
    info!(version = env!("CARGO_PKG_VERSION"), %listen, ?sources, ?sinks, "syncline runs");
    let outcome = tokio::select! {
        outcome = pipeline.drained(), if draining => outcome.map_err(CommandError::from),
        error = pipeline.hopeless() => Err(error.into()),
        signal = signals.received() => {
            info!("stopping on {signal}");
            // Whoever drains goes on to what needs everything to be there.
            if draining { Err(CommandError::Interrupted) } else { Ok(()) }
        }
    };
    pipeline.stop().await;
    api.abort();
    outcome?;
    if args.summary == Some(SummaryFormat::Json) {
        println!("{}", summary(&status, rows::held_count(&store.current())));
    }
    Ok(())
}

/// Tells the sources where to end; true where the daemon is to end by itself.
fn set_drain(config: &mut Config, args: &RunArgs) -> Result<bool, CommandError> {
    let draining = args.drain || !args.until.is_empty();
    if draining {
        config.sources.iter_mut().for_each(SourceConfig::drain);
    }
    for text in &args.until {
        let usage = || CommandError::Usage(format!("--until {text}: write SOURCE=POSITION, as in erp=16/B374D848"));
        let (name, position) = text.split_once('=').ok_or_else(usage)?;
        let Some(source) = config.sources.iter_mut().find(|source| source.id().as_str() == name) else {
            return Err(CommandError::Usage(format!("--until {text}: there is no [sources.{name}] section")));
        };
        source.drain_to(position).map_err(|reason| CommandError::Usage(format!("--until {text}: {reason}")))?;
    }
    Ok(draining)
}

fn summary(status: &Status, held: usize) -> serde_json::Value {
    let sum = |pick: fn(&syncline_capture::Progress) -> u64| -> u64 {
        status.sources.iter().map(|source| pick(&source.progress)).sum()
    };
    let first_event = status.sources.iter().filter_map(|source| source.progress.first_event.get()).min();
    let first_event_ms = first_event.map(|at| at.duration_since(status.started).as_secs_f64() * 1_000.0);
    serde_json::json!({
        "rows": sum(|progress| progress.rows.load(Ordering::Relaxed)),
        "reads": sum(|progress| progress.reads.load(Ordering::Relaxed)),
        "inserts": sum(|progress| progress.inserts.load(Ordering::Relaxed)),
        "updates": sum(|progress| progress.updates.load(Ordering::Relaxed)),
        "deletes": sum(|progress| progress.deletes.load(Ordering::Relaxed)),
        "deltas": status.transform.deltas.load(Ordering::Relaxed),
        "faulty": status.transform.faulty.load(Ordering::Relaxed),
        "held": held,
        "rejected": status.sinks.iter().map(|sink| sink.rejected.load(Ordering::Relaxed)).sum::<u64>(),
        "first_event_ms": first_event_ms,
        "cpu_seconds": usage::cpu_seconds(),
        "peak_rss_bytes": usage::peak_rss_bytes(),
        "seconds": status.started.elapsed().as_secs_f64(),
    })
}
