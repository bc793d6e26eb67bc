//! `syncline replay SINK`: a target is sent again what it should have.
//!
//! The running daemon is asked. Where none runs, the order is written into its data folder and carried out after the next
//! start; that is also the way out for a sink that is parked because its target lost rows.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use syncline_journal::{Commit, Journal, JournalError, Limits};
use syncline_schemas::ident::LogOffset;

use super::CommandError;
use super::client::Daemon;
use super::rows::print;
use crate::api::orders::{Asked, Orders, give};
use crate::cli::ReplayArgs;
use crate::config::{Config, SinkKind};
use crate::figures::{align, grouped};
use crate::pipeline::load::{Carried, Order};
use crate::pipeline::memory;

const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Gives an order, or lists those there are.
pub(crate) async fn run(path: &Path, config: Config, sink: &str, args: &ReplayArgs) -> Result<(), CommandError> {
    let daemon = Daemon::of(path)?;
    if args.list {
        let orders: Orders = daemon.get(&["sinks", sink, "orders"], &[], ANSWER_MAX).await?;
        return print(&orders, args.json, listed);
    }
    let asked = Asked {
        entities: args.entity.clone(),
        key: args.key.clone(),
        full: args.full,
        from: args.from.clone(),
        note: args.note.clone(),
    };
    match daemon.post(&["sinks", sink, "orders"], &asked, ANSWER_MAX).await {
        Err(CommandError::NoDaemon { .. }) => {
            let orders = write_down(&config, sink, &asked)?;
            print(&orders, args.json, |orders| {
                format!("{}no daemon runs: it is carried out after the next start\n", given(orders))
            })
        }
        answer => print(&answer?, args.json, |orders| {
            format!("{}follow it with `syncline replay {sink} --list`\n", given(orders))
        }),
    }
}

/// Writes an order into the data folder of a daemon that does not run.
fn write_down(config: &Config, sink: &str, asked: &Asked) -> Result<Orders, CommandError> {
    let Some(known) = config.sinks.iter().find(|known| known.name == sink) else {
        return Err(CommandError::Usage(format!("there is no sink {sink}")));
    };
    let SinkKind::Planning(target) = &known.kind else {
        return Err(CommandError::Usage(format!("sink {sink} takes deltas alone")));
    };
    let mapped: BTreeSet<&String> = config.mappings.iter().map(|mapping| &mapping.entity.name).collect();
    let delivered: Vec<String> = target.entities.names().into_iter().filter(|name| mapped.contains(name)).collect();
    let journal = match Journal::open(&config.data_dir, Limits::default()) {
        Err(JournalError::Locked { .. }) => {
            let reason = "a daemon has this data folder and does not answer: check listen in [daemon]";
            return Err(CommandError::Usage(reason.to_owned()));
        }
        journal => journal?,
    };
    let confirmed = memory::cursor(&journal.store, sink)?.unwrap_or(LogOffset::START);
    let orders = asked.orders(&delivered, &journal.log, &journal.store, confirmed).map_err(CommandError::Usage)?;
    let mut commit = Commit::new();
    let mut orders = orders;
    if asked.full && asked.entities.is_empty() {
        // What the target was thought to hold counts no more.
        memory::forget(&journal.store, sink, &mut commit)?;
        orders.iter_mut().for_each(|order| order.needed = true);
    }
    give(&journal.store, sink, &orders, commit).map_err(CommandError::Usage)?;
    Ok(Orders { pending: orders, carried_out: Vec::new() })
}

fn given(orders: &Orders) -> String {
    let mut out = String::new();
    for order in &orders.pending {
        let _ = writeln!(out, "ordered  {}", told(order));
    }
    out
}

fn told(order: &Order) -> String {
    let entity = order.entity.as_deref().unwrap_or("every entity");
    let key = order.key.as_ref().map(|key| format!(" {key}")).unwrap_or_default();
    match order.span {
        Some((after, upto)) => format!("deltas of {entity}{key} behind {after} up to {upto}"),
        None if order.sweep => format!("all rows of {entity}, and nothing else"),
        None => format!("rows of {entity}{key}"),
    }
}

fn listed(orders: &Orders) -> String {
    let mut out = String::new();
    if orders.pending.is_empty() && orders.carried_out.is_empty() {
        out.push_str("nothing was sent beside the deltas\n");
        return out;
    }
    let pending = orders.pending.iter().map(|order| ["pending".to_owned(), told(order), String::new(), String::new()]);
    let carried = orders.carried_out.iter().map(|Carried { order, rows, refused, failed, .. }| {
        let state = failed.as_ref().map_or_else(|| "done".to_owned(), |why| format!("failed: {why}"));
        [state, told(order), grouped(*rows), grouped(*refused)]
    });
    align(&mut out, &["STATE", "WHAT", "ROWS", "REFUSED"], carried.chain(pending).map(Vec::from));
    out
}
