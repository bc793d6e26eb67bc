//! `syncline planner`: the reference receiver until a signal.

use syncline_schemas::secret::SecretRef;
use syncline_sinks::planner::{Access, Faults, OutputsHook, PlannerConfig, serve};
use syncline_sinks::planning::webhook;
use tracing::info;

use super::CommandError;
use super::signals::Signals;
use crate::cli::PlannerArgs;

/// Serves until SIGTERM or SIGINT.
pub(crate) async fn run(args: &PlannerArgs) -> Result<(), CommandError> {
    let faults = Faults {
        error_rate: args.error_rate,
        latency_ms: args.latency_ms,
        throttle_rate: args.throttle_rate,
        drop_reply_rate: args.drop_reply_rate,
        seed: args.seed,
        ..Faults::default()
    };
    let config = PlannerConfig { listen: args.listen, db: args.db.clone(), faults, access: Access::default() };
    let hooks = hooks(args)?;
    let mut signals = Signals::listen()?;
    let mut running = serve(config).await?;
    running.announce_outputs_to(hooks);
    let base = format!("http://{}/pdx/v1", running.addr);
    info!(%base, page = %format!("http://{}/", running.addr), "planner listens");
    tokio::select! {
        ended = running.wait() => return Ok(ended?),
        _ = signals.received() => {}
    }
    Ok(running.shutdown().await?)
}

fn hooks(args: &PlannerArgs) -> Result<Vec<OutputsHook>, CommandError> {
    let Some(file) = &args.outputs_hook_key else { return Ok(Vec::new()) };
    let usage = |reason: String| CommandError::Usage(format!("--outputs-hook-key {}: {reason}", file.display()));
    let key = SecretRef::File(file.clone()).read().map_err(|error| usage(error.to_string()))?;
    if !webhook::is_key(key.reveal()) {
        return Err(usage("holds no key; it is whsec_ followed by base64".to_owned()));
    }
    Ok(args.outputs_hook.iter().map(|url| OutputsHook { url: url.clone(), key: key.clone() }).collect())
}
