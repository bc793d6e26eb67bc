//! `syncline planner`: the reference receiver until a signal.

use syncline_schemas::secret::SecretRef;
use syncline_sinks::planner::{Access, Faults, OutputsHook, PlannerConfig, serve};
use syncline_sinks::planning::webhook;
use tracing::info;

use super::CommandError;
use super::signals::Signals;
use crate::cli::PlannerArgs;

/// Who is told of published planning outputs, with the key that signs what they are told.
fn hooks(urls: &[reqwest::Url], file: Option<&std::path::Path>) -> Result<Vec<OutputsHook>, CommandError> {
    let Some(file) = file else { return Ok(Vec::new()) };
    let usage = |reason: String| CommandError::Usage(format!("--outputs-hook-key {}: {reason}", file.display()));
    let key = SecretRef::File(file.to_owned()).read().map_err(|error| usage(error.to_string()))?;
    if !webhook::is_key(key.reveal()) {
        return Err(usage("holds no key; it is whsec_ followed by base64".to_owned()));
    }
    Ok(urls.iter().map(|url| OutputsHook { url: url.clone(), key: key.clone() }).collect())
}

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
    let mut signals = Signals::listen()?;
    let hooks = hooks(&args.outputs_hook, args.outputs_hook_key.as_deref())?;
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
