//! `syncline exceptions`, `preview` and `explain`: rows of the running daemon, as tables for people or as they came.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::CommandError;
use super::client::Daemon;
use crate::api::rows::{Exception, Exceptions, GivenRow, GivenRows, JoinedRow, Place, Said};
use crate::cli::{ExceptionsArgs, ExceptionsCommand, ExplainArgs, PreviewArgs, SayArgs};
use crate::figures::align;
use crate::pipeline::rows::Verdict;

/// The daemon may have to look through all of its state.
const ANSWER_MAX: Duration = Duration::from_secs(120);

/// Lists held rows, shows one, or puts one aside.
pub(crate) async fn exceptions(config: &Path, args: &ExceptionsArgs) -> Result<(), CommandError> {
    let daemon = Daemon::of(config)?;
    match &args.command {
        ExceptionsCommand::List { mapping, entity, rule, all, limit } => {
            let mut query = vec![("all", all.to_string()), ("limit", limit.to_string())];
            for (name, value) in [("mapping", mapping), ("entity", entity), ("rule", rule)] {
                query.extend(value.clone().map(|value| (name, value)));
            }
            show(&daemon, &["exceptions"], &query, args.json, list).await
        }
        ExceptionsCommand::Show { fingerprint } => {
            show(&daemon, &["exceptions", fingerprint], &[], args.json, one).await
        }
        ExceptionsCommand::Resolve(said) => say(&daemon, said, Verdict::Resolved, args.json).await,
        ExceptionsCommand::Waive(said) => say(&daemon, said, Verdict::Waived, args.json).await,
    }
}

/// Shows what the rows of a mapping give now.
pub(crate) async fn preview(config: &Path, args: &PreviewArgs) -> Result<(), CommandError> {
    let mut query = vec![("limit", args.limit.to_string())];
    query.extend(args.key.clone().map(|key| ("key", key)));
    let Some((source, mapping)) = args.mapping.split_once('/') else {
        let reason = format!("{} is no mapping: its name is SOURCE/FILE, as in erp/item", args.mapping);
        return Err(CommandError::Usage(reason));
    };
    show(&Daemon::of(config)?, &["preview", source, mapping], &query, args.json, given).await
}

/// Shows the source rows that a canonical row is made of.
pub(crate) async fn explain(config: &Path, args: &ExplainArgs) -> Result<(), CommandError> {
    let query = [("limit", args.limit.to_string()), ("key", args.key.clone())];
    show(&Daemon::of(config)?, &["explain", &args.entity], &query, args.json, given).await
}

async fn show<T: DeserializeOwned + Serialize>(
    daemon: &Daemon,
    path: &[&str],
    query: &[(&str, String)],
    json: bool,
    text: impl Fn(&T) -> String,
) -> Result<(), CommandError> {
    print(&daemon.get::<T>(path, query, ANSWER_MAX).await?, json, text)
}

async fn say(daemon: &Daemon, args: &SayArgs, state: Verdict, json: bool) -> Result<(), CommandError> {
    let said = Said { state, note: args.note.clone() };
    let exception = daemon.post(&["exceptions", &args.fingerprint], &said, ANSWER_MAX).await?;
    print(&exception, json, one)
}

pub(super) fn print<T: Serialize>(answer: &T, json: bool, text: impl Fn(&T) -> String) -> Result<(), CommandError> {
    let text = if json {
        format!("{}\n", serde_json::to_string_pretty(answer).map_err(std::io::Error::from)?)
    } else {
        printable(&text(answer))
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

/// Values come from other systems, and what a terminal obeys must not.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

fn list(answer: &Exceptions) -> String {
    let mut out = String::new();
    let rows = answer.exceptions.iter().map(|it| {
        let owner = it.mapping.clone().unwrap_or_else(|| it.entity.clone());
        vec![it.fingerprint.clone(), owner, it.rule.clone(), it.first.at.clone(), key_text(&it.key)]
    });
    if answer.exceptions.is_empty() {
        out.push_str("nothing to list\n");
    } else {
        align(&mut out, &["FINGERPRINT", "HELD BY", "RULE", "SINCE", "KEY"], rows);
    }
    if answer.waiting > 0 {
        let least = if answer.complete { "" } else { "at least " };
        let waiting = answer.waiting;
        let _ = writeln!(out, "waiting for a master for less than park_ttl: {least}{waiting}; see them with --all");
    }
    if !answer.complete {
        out.push_str("there are more; ask with --limit, or for one --mapping, --entity or --rule\n");
    }
    out
}

fn one(it: &Exception) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(out, "{name:<12} {value}");
        }
    };
    line("fingerprint", &it.fingerprint);
    line("mapping", it.mapping.as_deref().unwrap_or_default());
    line("entity", &it.entity);
    line("table", &it.table);
    line("key", &key_text(&it.key));
    line("rule", &it.rule);
    line("field", &it.field);
    line("reason", &it.reason);
    line("first seen", &format!("{} at log entry {}", it.first.at, it.first.offset));
    line("last seen", &format!("{} at log entry {}", it.last.at, it.last.offset));
    line("position", &it.position);
    if let Some(note) = &it.note {
        let word = if note.state == Verdict::Waived { "waived" } else { "resolved" };
        line(word, &format!("{} {}", note.at, note.note));
    }
    out
}

fn given(answer: &GivenRows) -> String {
    if answer.rows.is_empty() {
        return "no row\n".to_owned();
    }
    let mut out = String::new();
    for GivenRow { mapping, table, source_key, place, joined, row, rule, reason } in &answer.rows {
        let _ = writeln!(out, "{table} {}  by {mapping}", key_text(source_key));
        let _ = writeln!(out, "  from {}", place_text(place));
        for JoinedRow { table, wanted, ambiguous, found } in joined {
            let found = match found {
                Some(row) => format!("is {}, from {}", key_text(&row.key), place_text(&row.place)),
                None if *ambiguous => "is more than one row, none is joined".to_owned(),
                None => "is no row".to_owned(),
            };
            let _ = writeln!(out, "  joined {table} with {}: {found}", key_text(wanted));
        }
        if let (Some(rule), Some(reason)) = (rule, reason) {
            let stands = if row.is_some() { "; the last good row stands" } else { "" };
            let _ = writeln!(out, "  held: {rule}: {reason}{stands}");
        }
        for (name, value) in row.iter().flatten() {
            if let Some(value) = value {
                let _ = writeln!(out, "  {name:<24} {}", one_line(value));
            }
        }
    }
    if !answer.complete {
        out.push_str("there are more; ask with --limit or for one --key\n");
    }
    out
}

/// Where a source row is from.
fn place_text(Place { entry, position, committed_at }: &Place) -> String {
    match (position, committed_at) {
        (Some(position), Some(at)) => format!("{position}, committed {at} (log entry {entry})"),
        _ => format!("log entry {entry}"),
    }
}

/// A value must not look like the next line.
pub(super) fn one_line(value: &str) -> String {
    value.replace('\n', "\u{fffd}")
}

pub(super) fn key_text(key: &BTreeMap<String, Option<String>>) -> String {
    let parts: Vec<String> = key
        .iter()
        .map(|(name, value)| format!("{name}={}", value.as_deref().map_or_else(|| "null".to_owned(), one_line)))
        .collect();
    parts.join(" ")
}
