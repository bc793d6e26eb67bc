//! `syncline planner`: the reference receiver until a signal, and `planner verify` for receivers of others.

use std::path::Path;

use syncline_schemas::secret::{Secret, SecretRef};
use syncline_sinks::planner::{Access, Faults, OutputsHook, PlannerConfig, serve};
use syncline_sinks::planning::webhook;
use tracing::info;

use super::signals::Signals;
use super::{CommandError, verify};
use crate::cli::{PlannerArgs, PlannerCommand, ServeArgs};

/// Serves, or tries who serves.
pub(crate) async fn run(args: &PlannerArgs) -> Result<(), CommandError> {
    match &args.command {
        Some(PlannerCommand::Verify(args)) => verify::run(args).await,
        None => receive(&args.serve).await,
    }
}

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
async fn receive(args: &ServeArgs) -> Result<(), CommandError> {
    let faults = Faults {
        error_rate: args.error_rate,
        latency_ms: args.latency_ms,
        throttle_rate: args.throttle_rate,
        drop_reply_rate: args.drop_reply_rate,
        forgets: args.forget,
        seed: args.seed,
        ..Faults::default()
    };
    let access = access(args)?;
    let config = PlannerConfig { listen: args.listen, db: args.db.clone(), faults, access };
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

/// What senders must prove.
fn access(args: &ServeArgs) -> Result<Access, CommandError> {
    let read = |path: &Option<_>| path.as_deref().map(secret).transpose();
    Ok(Access {
        token: read(&args.token_file)?,
        basic: read(&args.basic_file)?,
        api_key: read(&args.api_key_file)?,
        client: read(&args.client_file)?,
        signing_key: read(&args.signing_key_file)?,
    })
}

/// Reads a secret that must not be empty: an empty one would let everybody in.
pub(super) fn secret(path: &Path) -> Result<Secret, CommandError> {
    let place = path.display();
    match SecretRef::File(path.to_owned()).read() {
        Ok(secret) if secret.reveal().is_empty() => {
            Err(CommandError::Usage(format!("{place} is empty; write the secret into it")))
        }
        Ok(secret) => Ok(secret),
        Err(error) => Err(CommandError::Usage(format!("{place}: {error}; name a file that holds the secret"))),
    }
}
