//! `syncline snapshot`: has the running daemon read a table anew.

use std::path::Path;
use std::time::Duration;

use super::CommandError;
use super::client::Daemon;
use crate::api::snapshot::{Asked, Begun, PATIENCE};
use crate::cli::SnapshotArgs;

/// Beyond the daemon's own.
const MARGIN: Duration = Duration::from_secs(5);

/// Asks for it, and says how to follow it.
pub(crate) async fn run(config: &Path, args: &SnapshotArgs) -> Result<(), CommandError> {
    let asked = Asked { table: args.table.clone() };
    let daemon = Daemon::of(config)?;
    let begun: Begun = daemon.post(&["snapshot", &args.source], &asked, PATIENCE + MARGIN).await?;
    println!(
        "reading {} of {} anew beside its changes; the source shows as \"snapshot\" in `syncline status` until it is through",
        begun.table, begun.source
    );
    Ok(())
}
