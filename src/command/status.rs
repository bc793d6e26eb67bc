//! `syncline status`: asks the running daemon and shows its answer, as a table for people or as it came.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use super::CommandError;
use super::client::Daemon;
use crate::api::{Held, Report, Sink, Source};
use crate::cli::StatusArgs;
use crate::figures::{align, bytes_text, duration_text, grouped, ms_text};
use crate::pipeline::pressure::Stage;

/// The daemon answers from memory; what takes longer is not well.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Refused rows of a sink that get a line; `--json` has more.
const REFUSED_LINES: usize = 5;

/// Characters of a position that get a place: a GTID of MySQL has some forty.
const POSITION_CHARS: usize = 60;

/// Prints what the daemon says.
pub(crate) async fn run(config: &Path, args: &StatusArgs) -> Result<(), CommandError> {
    let daemon = Daemon::of(config)?;
    if args.json {
        let answer: serde_json::Value = daemon.get(&["status"], &[], ANSWER_MAX).await?;
        println!("{answer:#}");
    } else {
        let report: Report = daemon.get(&["status"], &[], ANSWER_MAX).await?;
        print!("{}", table(&report, daemon.base()));
    }
    Ok(())
}

fn table(report: &Report, base: &str) -> String {
    let Report { version, name, uptime_s, journal, disk, transform, .. } = report;
    let mut out =
        format!("{name}  up {}  syncline {version}  {base}\n\n", duration_text(Duration::from_secs(*uptime_s)));
    let header = ["SOURCE", "STATE", "ROWS", "BEHIND", "HEARD", "POSITION", "RETRIES"];
    align(&mut out, &header, report.sources.iter().map(|(name, source)| source_row(name, source)));
    let header = ["LOG", "DURABLE", "FIRST", "ON DISK", "STATE"];
    let state = journal.state_bytes.map_or_else(|| "?".to_owned(), bytes_text);
    let row = [grouped(journal.durable), grouped(journal.first), bytes_text(journal.log_bytes), state];
    align(&mut out, &header, [std::iter::once(String::new()).chain(row).collect()]);
    if let Some(what) = told(disk.stage) {
        let (used, budget) = (bytes_text(disk.used), bytes_text(disk.budget));
        let _ = writeln!(out, "the data folder takes {used} of {budget}: {what}\n");
    }
    let header = ["TRANSFORM", "FOLDED", "BEHIND", "DELTAS", "UNCHANGED", "FAULTY", "WARNINGS", "HELD NOW"];
    let row = [transform.folded, transform.behind, transform.deltas, transform.unchanged, transform.faulty];
    let row = row.into_iter().chain([transform.warnings]).map(grouped).chain([held_text(transform.held.as_ref())]);
    let state = if transform.parked.is_some() { "parked" } else { "" };
    align(&mut out, &header, [std::iter::once(state.to_owned()).chain(row).collect()]);
    if let Some(replay) = &transform.replay {
        let (folded, entries) = (grouped(replay.folded), grouped(replay.entries));
        let _ = writeln!(out, "the log is being folded again: {folded} of {entries} entries\n");
    }
    let header = ["SINK", "CURSOR", "BEHIND", "ROWS", "WAITING", "LAST LAG", "REFUSED", "RETRIES"];
    align(&mut out, &header, report.sinks.iter().map(|(name, sink)| sink_row(name, sink)));
    for (name, problem) in report.sources.iter().filter_map(|(name, it)| Some((name, it.problem.as_ref()?))) {
        let _ = writeln!(out, "source {name}: older rows stay in force: {}", problem.replace('\n', "\n        "));
    }
    for (name, sink) in &report.sinks {
        for row in sink.refused_rows.iter().take(REFUSED_LINES) {
            let field = row.field.as_ref().map(|field| format!(" of {field}")).unwrap_or_default();
            let _ = writeln!(
                out,
                "refused by {name}: {} {}: {}{field}, {} times",
                row.entity, row.key, row.code, row.attempts
            );
        }
    }
    for (name, problem) in
        report.sinks.iter().filter_map(|(name, it)| Some((name, it.snapshots.as_ref()?.problem.as_ref()?)))
    {
        let _ = writeln!(out, "sink {name}: no snapshot is taken: {}", problem.replace('\n', "\n        "));
    }
    for reason in &report.parked {
        let _ = writeln!(out, "parked: {}", reason.replace('\n', "\n        "));
    }
    if report.parked.is_empty() {
        out.push_str("nothing is parked\n");
    }
    out
}

/// What is done where room is short.
const fn told(stage: Stage) -> Option<&'static str> {
    match stage {
        Stage::Roomy => None,
        Stage::Tight => Some("what is done with is kept for a shorter time"),
        Stage::Scarce => Some("sources that feed nothing critical are paused"),
        Stage::Full => Some("all sources are paused, deliveries go on"),
    }
}

fn held_text(held: Option<&Held>) -> String {
    match held {
        Some(held) if held.complete => grouped(held.rows),
        Some(held) => grouped(held.rows) + " or more",
        None => "-".to_owned(),
    }
}

fn source_row(name: &str, source: &Source) -> Vec<String> {
    let unknown = || "-".to_owned();
    let heard = match source.last_message_age_ms {
        Some(ms) if source.bytes > 0 => ms_text(ms) + " ago",
        Some(_) => "never".to_owned(),
        None => unknown(),
    };
    vec![
        name.to_owned(),
        source.state.clone(),
        grouped(source.rows),
        source.behind_bytes.map_or_else(unknown, bytes_text),
        heard,
        source.position.as_deref().map_or_else(unknown, shortened),
        grouped(source.retries),
    ]
}

/// The beginning of a position: a set of GTIDs may be long, and `--json` has all of it.
fn shortened(position: &str) -> String {
    match position.char_indices().nth(POSITION_CHARS) {
        Some((at, _)) => format!("{}...", &position[..at]),
        None => position.to_owned(),
    }
}

fn sink_row(name: &str, sink: &Sink) -> Vec<String> {
    let name = if sink.parked.is_some() { format!("{name} (parked)") } else { name.to_owned() };
    vec![
        name,
        grouped(sink.cursor),
        grouped(sink.behind),
        grouped(sink.rows),
        ms_text(sink.lag_ms),
        ms_text(sink.last_lag_ms),
        grouped(sink.refused),
        grouped(sink.retries),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_set_of_gtids_does_not_push_the_table_apart() {
        let set = "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5,".repeat(9);
        assert_eq!(shortened(&set).len(), POSITION_CHARS + "...".len());
        assert_eq!(shortened("16/B374D848"), "16/B374D848");
    }
}
