//! `syncline replay`: changed mappings shown beforehand, and accepted. With a sink it is about that: [`orders`].
//!
//! Both work on the data folder of a stopped daemon; beforehand is also answered by a running one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use syncline_journal::{Journal, JournalError, Limits};
use syncline_schemas::ident::{LogOffset, SourceId};

use super::CommandError;
use super::check::misfits;
use super::client::Daemon;
use super::orders;
use super::rows::{key_text, one_line, print};
use crate::api::replay::{Asked, Difference, MappingText, Row, Sums};
use crate::cli::ReplayArgs;
use crate::config::{Config, SourceConfig};
use crate::figures::{align, grouped};
use crate::pipeline::accept::{Accepted, accept};
use crate::pipeline::rehearse::rehearse;

/// A log of days may take hours to fold.
const ANSWER_MAX: Duration = Duration::from_secs(24 * 3600);
/// Differing rows of each entity that are shown with `--diff`.
const ROWS: usize = 20;

/// Shows what the mappings as they are now would change, or accepts them.
pub(crate) async fn run(path: &Path, config: Config, args: &ReplayArgs) -> Result<(), CommandError> {
    if let Some(sink) = &args.sink {
        return orders::run(path, config, sink, args).await;
    }
    if args.dry_run {
        let rows = if args.diff { args.limit.unwrap_or(ROWS) } else { 0 };
        return print(&difference(path, config, rows).await?, args.json, text);
    }
    let misfits = misfits(&config, args.reread).await;
    if !misfits.is_empty() {
        let faults: Vec<String> = misfits.iter().map(ToString::to_string).collect();
        return Err(CommandError::Unfit(format!(
            "the mappings do not fit the tables, nothing is accepted:\n{}",
            faults.join("\n")
        )));
    }
    let journal = match Journal::open(&config.data_dir, Limits::default()) {
        Err(JournalError::Locked { .. }) => {
            let reason = "a daemon runs on this data folder: stop it, accept the change, and start it again";
            return Err(CommandError::Usage(format!("{reason}; `syncline replay --dry-run` can be asked meanwhile")));
        }
        journal => journal?,
    };
    let accepted = accept(&journal, &config.mappings, &config.sources, args.reread)?;
    let takes_messages =
        |source: &&SourceConfig| matches!(source, SourceConfig::Postgres(config) if config.messages.is_some());
    let messages: Vec<&SourceId> = config.sources.iter().filter(takes_messages).map(SourceConfig::id).collect();
    print!("{}", told(&accepted, &messages));
    Ok(())
}

/// Asks the data folder, or the daemon that has it.
async fn difference(path: &Path, config: Config, rows: usize) -> Result<Difference, CommandError> {
    let Config { data_dir, mappings, .. } = config;
    let asked = Asked { mappings: mappings.iter().map(MappingText::of).collect(), rows };
    let opened = tokio::task::spawn_blocking(move || {
        let journal = Journal::open(&data_dir, Limits::default())?;
        Ok::<_, CommandError>(Difference::of(rehearse(&journal.log, &journal.store, mappings, rows, &|| true)?))
    });
    match opened.await.map_err(|error| CommandError::Usage(error.to_string()))? {
        Err(CommandError::Journal(JournalError::Locked { .. })) => {
            Daemon::of(path)?.post(&["replay"], &asked, ANSWER_MAX).await
        }
        difference => difference,
    }
}

/// What is said of a change; `messages` are the sources that take messages of applications.
fn told(accepted: &Accepted, messages: &[&SourceId]) -> String {
    let mut out = String::new();
    let changes = match accepted {
        Accepted::Nothing => return "nothing to do: all rows were computed with these mappings\n".to_owned(),
        Accepted::GivenUp => {
            return "given up what was accepted before: all rows were computed with these mappings\n".to_owned();
        }
        Accepted::Already => return "accepted before; start the daemon with `syncline run`\n".to_owned(),
        Accepted::Log { changes, .. } | Accepted::Sources { changes, .. } => changes,
    };
    for change in changes {
        let _ = writeln!(out, "{:<8} {}", change.how, change.mapping);
    }
    let _ = match accepted {
        Accepted::Log { after: LogOffset(after), upto: LogOffset(upto), .. } => writeln!(
            out,
            "accepted: the daemon folds {} log entries again after its next start, and then delivers what differs",
            grouped(upto.saturating_sub(*after))
        ),
        Accepted::Sources { sources, .. } => {
            let sources: Vec<String> = sources.iter().map(ToString::to_string).collect();
            writeln!(
                out,
                "accepted: the daemon reads all of {} again after its next start, and then delivers what differs",
                sources.join(", ")
            )
        }
        Accepted::Nothing | Accepted::GivenUp | Accepted::Already => Ok(()),
    };
    if let Accepted::Sources { sources, .. } = accepted {
        for source in messages.iter().filter(|source| sources.contains(source)) {
            let _ = writeln!(out, "messages of {source} are in no table: what came of those before is taken back");
        }
    }
    out.push_str("until then the targets stand as they are; start it with `syncline run`\n");
    out
}

fn text(difference: &Difference) -> String {
    let mut out = String::new();
    for change in &difference.mappings {
        let _ = writeln!(out, "{:<8} {}", change.how, change.mapping);
    }
    let _ = writeln!(out, "{} log entries folded again, nothing changed\n", grouped(difference.entries));
    let rows = difference.entities.iter().map(|(name, it)| {
        let counts = [it.before, it.after, it.added, it.changed, it.removed].map(grouped);
        std::iter::once(name.clone()).chain(counts).collect()
    });
    align(&mut out, &["ENTITY", "ROWS", "WOULD BE", "ADDED", "CHANGED", "REMOVED"], rows);
    let held = difference.held.iter().map(|it| {
        let owner = it.mapping.clone().unwrap_or_else(|| it.entity.clone());
        vec![format!("{owner} {}", it.rule), grouped(it.before), grouped(it.after)]
    });
    if held.len() > 0 {
        align(&mut out, &["HELD BY", "ARE", "WOULD BE"], held);
    }
    let totals = difference.entities.iter().flat_map(|(name, it)| it.totals.iter().map(move |total| (name, total)));
    let moved: Vec<Vec<String>> = totals
        .filter(|(_, (_, Sums { before, after }))| before != after)
        .map(|(name, (field, Sums { before, after }))| vec![format!("{name}.{field}"), before.clone(), after.clone()])
        .collect();
    if !moved.is_empty() {
        align(&mut out, &["TOTAL OF", "IS", "WOULD BE"], moved);
    }
    difference.rows.iter().for_each(|row| show(&mut out, row));
    out
}

fn show(out: &mut String, row: &Row) {
    let Row { entity, key, before, after } = row;
    let word = match (before, after) {
        (None, _) => "added",
        (_, None) => "removed",
        _ => "changed",
    };
    let _ = writeln!(out, "{word} {entity} {}", key_text(key));
    let (before, after) = (before.clone().unwrap_or_default(), after.clone().unwrap_or_default());
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for name in names {
        let value = |side: &BTreeMap<String, Option<String>>| {
            side.get(name).cloned().flatten().map_or_else(|| "-".to_owned(), |value| one_line(&value))
        };
        let (was, is) = (value(&before), value(&after));
        if was != is {
            let _ = writeln!(out, "  {name:<24} {was} -> {is}");
        }
    }
}
