//! `syncline dead-letters`: rows that targets refused, at the running daemon.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use super::CommandError;
use super::client::Daemon;
use super::rows::print;
use crate::api::letters::{Action, Asked, Done, Letters, Said};
use crate::cli::{DeadLettersArgs, DeadLettersCommand, LettersWanted};
use crate::figures::align;
use crate::pipeline::refused::Letter;

const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Lists dead letters, shows one, or handles some.
pub(crate) async fn run(config: &Path, args: &DeadLettersArgs) -> Result<(), CommandError> {
    let daemon = Daemon::of(config)?;
    let path = |id: &str| ["dead-letters".to_owned(), id.to_owned()];
    let act = async |id: &str, action: Action, note: &str| -> Result<(), CommandError> {
        let said = Said { action, note: note.to_owned() };
        let path = path(id);
        let done: Done = daemon.post(&[&path[0], &path[1]], &said, ANSWER_MAX).await?;
        print(&done, args.json, done_text)
    };
    match &args.command {
        DeadLettersCommand::List { wanted, limit } => {
            let mut query = vec![("limit", limit.to_string())];
            for (name, value) in [("sink", &wanted.sink), ("entity", &wanted.entity), ("code", &wanted.code)] {
                query.extend(value.clone().map(|value| (name, value)));
            }
            let found: Letters = daemon.get(&["dead-letters"], &query, ANSWER_MAX).await?;
            print(&found, args.json, list)
        }
        DeadLettersCommand::Show { id } => {
            let found: Letter = daemon.get(&["dead-letters", id], &[], ANSWER_MAX).await?;
            print(&found, args.json, one)
        }
        DeadLettersCommand::Retry { id: Some(id), note, .. } => act(id, Action::Retry, note).await,
        DeadLettersCommand::Retry { id: None, wanted, note } => {
            let LettersWanted { sink, entity, code } = wanted.clone();
            let asked = Asked { sink, entity, code, note: note.clone(), ..Asked::default() };
            let done: Done = daemon.post(&["dead-letters"], &asked, ANSWER_MAX).await?;
            print(&done, args.json, done_text)
        }
        DeadLettersCommand::Edit { id, set, note } => {
            let field = |text: &String| {
                let (name, value) = text.split_once('=')?;
                Some((name.to_owned(), value.to_owned()))
            };
            let fields: Option<BTreeMap<String, String>> = set.iter().map(field).collect();
            let usage = || CommandError::Usage("--set takes FIELD=VALUE, as in uom=EA; FIELD= for none".to_owned());
            act(id, Action::Edit { fields: fields.ok_or_else(usage)? }, note).await
        }
        DeadLettersCommand::Drop { id: Some(id), note, .. } => act(id, Action::Drop, note).await,
        DeadLettersCommand::Drop { id: None, sink, note, .. } => {
            let asked = Asked { sink: sink.clone(), forget_unlisted: true, note: note.clone(), ..Asked::default() };
            let done: Done = daemon.post(&["dead-letters"], &asked, ANSWER_MAX).await?;
            print(&done, args.json, done_text)
        }
    }
}

fn list(found: &Letters) -> String {
    let mut out = String::new();
    if found.letters.is_empty() {
        out.push_str("no dead letters\n");
    } else {
        let rows = found.letters.iter().map(|it| {
            let field = it.row.field.as_ref().map(|field| format!(" ({field})")).unwrap_or_default();
            let again = match (it.row.retryable, it.row.expired) {
                (true, _) => "by itself",
                (false, true) => "when asked, too old to go by itself",
                (false, false) => "when asked",
            };
            let reason = format!("{}{field}", it.row.code);
            vec![it.id.clone(), it.sink.clone(), it.row.entity.clone(), reason, again.to_owned(), it.row.key.clone()]
        });
        align(&mut out, &["ID", "SINK", "ENTITY", "REASON", "SENT AGAIN", "KEY"], rows);
    }
    if found.count > found.letters.len() {
        let _ = writeln!(out, "{} in all; ask with --limit, or for one --sink, --entity or --code", found.count);
    }
    if found.unlisted > 0 {
        let _ = writeln!(out, "refused and not kept: {}", found.unlisted);
    }
    out
}

fn one(it: &Letter) -> String {
    let mut out = String::new();
    let attempts = it.row.attempts.to_string();
    let lines = [
        ("id", it.id.as_str()),
        ("sink", &it.sink),
        ("entity", &it.row.entity),
        ("key", &it.row.key),
        ("version", &it.row.version),
        ("code", &it.row.code),
        ("field", it.row.field.as_deref().unwrap_or_default()),
        ("attempts", &attempts),
    ];
    for (name, value) in lines.into_iter().filter(|(_, value)| !value.is_empty()) {
        let _ = writeln!(out, "{name:<12} {value}");
    }
    match &it.fields {
        Some(fields) => {
            for (name, value) in fields {
                let _ = writeln!(out, "  {name} = {}", value.as_deref().unwrap_or("(none)"));
            }
        }
        None => out.push_str("its values are not kept: it is too large\n"),
    }
    out
}

fn done_text(done: &Done) -> String {
    format!("{} handled; see `syncline dead-letters list` for what is left\n", done.letters)
}
