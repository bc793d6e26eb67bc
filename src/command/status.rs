//! `syncline status`: asks the running daemon and shows its answer, as a table for people or as it came.
//!
//! Only the daemon's address is read from the configuration: whoever looks needs none of its secrets.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use super::CommandError;
use crate::api::{Held, Report, Sink, Source};
use crate::cli::StatusArgs;
use crate::config::Config;
use crate::figures::{bytes_text, duration_text, grouped, ms_text};

/// The daemon answers from memory; what takes longer is not well.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Refused rows of a sink that get a line; `--json` has more.
const REFUSED_LINES: usize = 5;

/// Prints what the daemon says.
pub(crate) async fn run(config: &Path, args: &StatusArgs) -> Result<(), CommandError> {
    let base = base(Config::read_listen(config)?);
    let text = ask(&base).await?;
    let foreign = |error: serde_json::Error| CommandError::NotADaemon { url: base.clone(), reason: error.to_string() };
    if args.json {
        let answer: serde_json::Value = serde_json::from_str(&text).map_err(foreign)?;
        println!("{answer:#}");
    } else {
        let report: Report = serde_json::from_str(&text).map_err(foreign)?;
        print!("{}", table(&report, &base));
    }
    Ok(())
}

/// Where to ask a daemon that listens at an address, which may be "everywhere".
fn base(listen: SocketAddr) -> String {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, listen.port()))
}

async fn ask(base: &str) -> Result<String, CommandError> {
    let silent = |error: reqwest::Error| {
        let mut cause: &dyn std::error::Error = &error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        CommandError::NoDaemon { url: base.to_owned(), reason: cause.to_string() }
    };
    // The daemon's address is of this network: a proxy of the environment is for others.
    let client = reqwest::Client::builder().no_proxy().timeout(ANSWER_MAX).build().map_err(silent)?;
    let answer = client.get(format!("{base}/status")).send().await.map_err(silent)?;
    if !answer.status().is_success() {
        let reason = format!("it answers {}", answer.status());
        return Err(CommandError::NotADaemon { url: base.to_owned(), reason });
    }
    answer.text().await.map_err(silent)
}

fn table(report: &Report, base: &str) -> String {
    let Report { version, name, uptime_s, journal, transform, .. } = report;
    let mut out =
        format!("{name}  up {}  syncline {version}  {base}\n\n", duration_text(Duration::from_secs(*uptime_s)));
    let header = ["SOURCE", "STATE", "ROWS", "BEHIND", "HEARD", "POSITION", "RETRIES"];
    align(&mut out, &header, report.sources.iter().map(|(name, source)| source_row(name, source)));
    let header = ["LOG", "DURABLE", "FIRST", "ON DISK", "STATE"];
    let state = journal.state_bytes.map_or_else(|| "?".to_owned(), bytes_text);
    let row = [grouped(journal.durable), grouped(journal.first), bytes_text(journal.log_bytes), state];
    align(&mut out, &header, [std::iter::once(String::new()).chain(row).collect()]);
    let header = ["TRANSFORM", "FOLDED", "BEHIND", "DELTAS", "UNCHANGED", "FAULTY", "WARNINGS", "HELD NOW"];
    let row = [transform.folded, transform.behind, transform.deltas, transform.unchanged, transform.faulty];
    let row = row.into_iter().chain([transform.warnings]).map(grouped).chain([held_text(transform.held.as_ref())]);
    let state = if transform.parked.is_some() { "parked" } else { "" };
    align(&mut out, &header, [std::iter::once(state.to_owned()).chain(row).collect()]);
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
    for reason in &report.parked {
        let _ = writeln!(out, "parked: {}", reason.replace('\n', "\n        "));
    }
    if report.parked.is_empty() {
        out.push_str("nothing is parked\n");
    }
    out
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
        source.confirmed_lsn.clone().unwrap_or_else(unknown),
        grouped(source.retries),
    ]
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

/// Columns as wide as they must be; the first to the left, the others to the right, then an empty line.
fn align(out: &mut String, header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
    let mut lines = vec![header.iter().map(|&text| text.to_owned()).collect::<Vec<_>>()];
    lines.extend(rows);
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    for line in &lines {
        for (column, (cell, &width)) in line.iter().zip(&widths).enumerate() {
            let _ = match column {
                0 => write!(out, "{cell:<width$}"),
                _ => write!(out, "  {cell:>width$}"),
            };
        }
        out.push('\n');
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_listens_everywhere_is_asked_here() {
        assert_eq!(base("0.0.0.0:7070".parse().expect("address")), "http://127.0.0.1:7070");
        assert_eq!(base("[::]:7070".parse().expect("address")), "http://[::1]:7070");
        assert_eq!(base("10.0.0.1:80".parse().expect("address")), "http://10.0.0.1:80");
    }

    #[tokio::test]
    async fn a_daemon_that_is_not_there_is_said_to_be_so_with_the_remedy() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        // A port that was just given back: nobody listens there.
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port").port();
        let error = ask(&format!("http://127.0.0.1:{port}")).await.expect_err("nobody").to_string();
        assert!(error.starts_with(&format!("no daemon answers at http://127.0.0.1:{port}: ")), "{error}");
        assert!(error.ends_with("start it with `syncline run`"), "{error}");
    }
}
