//! `syncline snapshot`: a source's table is read anew, or a lake's tables are kept as they are.
//!
//! The running daemon is asked. A snapshot of a lake can be taken without one, too: the command then has the daemon's data
//! folder for itself. A table can be read by the daemon alone.

use std::path::Path;
use std::time::Duration;

use syncline_journal::{Journal, JournalError, Limits};
use syncline_sinks::lake::{LakeConfig, Manifest, Order, Snapshots};

use super::CommandError;
use super::client::Daemon;
use super::rows::print;
use crate::api::lake::{self, Outcome};
use crate::api::snapshot::{Asked, Begun, PATIENCE};
use crate::cli::SnapshotArgs;
use crate::config::{Config, SinkKind, SourceConfig};
use crate::figures::{bytes_text, grouped};
use crate::pipeline::snapshots;

/// Beyond the daemon's own.
const MARGIN: Duration = Duration::from_secs(5);
/// Another snapshot may have to be finished before one is given up.
const DROP_MAX: Duration = Duration::from_secs(600);

/// Asks for it, and says what became of it.
pub(crate) async fn run(config: &Path, args: &SnapshotArgs) -> Result<(), CommandError> {
    let name = &args.name;
    match (&args.table, &args.tag, &args.drop) {
        (Some(table), _, _) => read_anew(config, name, table).await,
        (None, Some(tag), _) => {
            let order = Order::tagged(tag, args.order.as_deref());
            let manifest = take(config, name, &order).await?;
            print(&manifest, args.json, |manifest| told(name, manifest))
        }
        (None, None, Some(tag)) => {
            give_up(config, name, tag).await?;
            println!("snapshot {tag} of {name} is given up");
            Ok(())
        }
        (None, None, None) => Err(CommandError::Usage(format!(
            "say what of {name}: a table to read anew, as in `syncline snapshot erp public.orders`, or --tag for a snapshot \
             of a lake, as in `syncline snapshot lake --tag cycle-31`"
        ))),
    }
}

async fn read_anew(config: &Path, source: &str, table: &str) -> Result<(), CommandError> {
    let asked = Asked { table: table.to_owned() };
    let daemon = Daemon::of(config)?;
    let begun: Begun = daemon.post(&["snapshot", source], &asked, PATIENCE + MARGIN).await?;
    println!(
        "reading {} of {} anew beside its changes; the source shows as \"snapshot\" in `syncline status` until it is through",
        begun.table, begun.source
    );
    Ok(())
}

async fn take(path: &Path, sink: &str, order: &Order) -> Result<Manifest, CommandError> {
    let daemon = Daemon::of(path)?;
    let tag = order.tag.clone().unwrap_or_default();
    let asked = lake::Asked { tag, order: Some(order.id.clone()), drop: false };
    loop {
        match daemon.post(&["sinks", sink, "snapshots"], &asked, lake::PATIENCE + MARGIN).await {
            Ok(Outcome::Taken { snapshot }) => return Ok(*snapshot),
            // The same order again waits for the same snapshot.
            Ok(Outcome::Begun) => {}
            Ok(Outcome::Dropped) => return Err(CommandError::Usage(format!("snapshot {} was given up", asked.tag))),
            Err(CommandError::NoDaemon { .. }) => return take_alone(Config::read(path)?, sink, order).await,
            Err(error) => return Err(error),
        }
    }
}

async fn take_alone(config: Config, sink: &str, order: &Order) -> Result<Manifest, CommandError> {
    let lake = Snapshots::new(lake_of(&config, sink)?)?;
    let journal = alone(&config)?;
    let sources: Vec<_> = config.sources.iter().map(SourceConfig::known).collect();
    Ok(snapshots::take(&lake, order, &journal.log, &journal.store, &sources).await?)
}

async fn give_up(path: &Path, sink: &str, tag: &str) -> Result<(), CommandError> {
    let asked = lake::Asked { tag: tag.to_owned(), order: None, drop: true };
    match Daemon::of(path)?.post::<Outcome>(&["sinks", sink, "snapshots"], &asked, DROP_MAX).await {
        Err(CommandError::NoDaemon { .. }) => {
            let config = Config::read(path)?;
            let lake = Snapshots::new(lake_of(&config, sink)?)?;
            let _journal = alone(&config)?;
            if lake.give_up_tag(tag).await? { Ok(()) } else { Err(no_snapshot(tag)) }
        }
        answer => answer.map(drop),
    }
}

fn no_snapshot(tag: &str) -> CommandError {
    CommandError::Usage(format!("there is no snapshot {tag}"))
}

/// The data folder, as no daemon has it: whoever has it is the only one who takes snapshots.
fn alone(config: &Config) -> Result<Journal, CommandError> {
    match Journal::open(&config.data_dir, Limits::default()) {
        Err(JournalError::Locked { .. }) => {
            let reason = "a daemon has this data folder and does not answer: check listen in [daemon]";
            Err(CommandError::Usage(reason.to_owned()))
        }
        journal => Ok(journal?),
    }
}

/// The lake of a sink.
fn lake_of(config: &Config, sink: &str) -> Result<LakeConfig, CommandError> {
    let Some(known) = config.sinks.iter().find(|known| known.name == sink) else {
        return Err(CommandError::Usage(format!("there is no sink {sink}")));
    };
    match &known.kind {
        SinkKind::Lake(lake) => Ok((**lake).clone()),
        _ => Err(CommandError::Usage(format!("sink {sink} is no lake, and only lakes have snapshots"))),
    }
}

fn told(sink: &str, manifest: &Manifest) -> String {
    let (rows, bytes) =
        manifest.entities.values().fold((0, 0), |(rows, bytes), part| (rows + part.rows, bytes + part.bytes));
    let name = manifest.tag.as_deref().unwrap_or(&manifest.at);
    format!(
        "snapshot {name} of {sink}, taken {}: {} rows of {} entities as of log offset {}, {}\nsnapshots/<entity>/at={}\n",
        manifest.taken_at,
        grouped(rows),
        manifest.entities.len(),
        manifest.offset,
        bytes_text(bytes),
        manifest.at
    )
}
