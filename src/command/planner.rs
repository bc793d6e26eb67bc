//! `syncline planner`: the reference receiver until a signal.

use syncline_sinks::planner::{Access, Faults, PlannerConfig, serve};
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
        forgets: args.forget,
        seed: args.seed,
        ..Faults::default()
    };
    let config = PlannerConfig { listen: args.listen, db: args.db.clone(), faults, access: Access::default() };
    let mut signals = Signals::listen()?;
    let mut running = serve(config).await?;
    let base = format!("http://{}/pdx/v1", running.addr);
    info!(%base, page = %format!("http://{}/", running.addr), "planner listens");
    tokio::select! {
        ended = running.wait() => return Ok(ended?),
        _ = signals.received() => {}
    }
    Ok(running.shutdown().await?)
}
