//! The live line: what the daemon says about itself, once a second, beside what the traffic has done.
//!
//! The daemon may be dead at any moment, as the demo invites people to kill it; a question without an answer is shown as
//! such and asked again.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::figures::{grouped, ms_text};
use super::traffic::Counts;

/// A status that takes longer is as good as none.
const ANSWER_MAX: Duration = Duration::from_millis(800);

/// What the daemon said at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Status {
    rows_in: u64,
    deltas_out: u64,
    /// Sinks and their lag in milliseconds, as far as they say.
    lags: Vec<(String, Option<u64>)>,
}

impl Status {
    fn read(answer: &Value) -> Self {
        let number = |name: &str| answer.get(name).and_then(Value::as_u64).unwrap_or(0);
        let sinks = answer.get("sinks").and_then(Value::as_object);
        let lags = sinks
            .into_iter()
            .flatten()
            .map(|(name, sink)| (name.clone(), sink.get("lag_ms").and_then(Value::as_u64)))
            .collect();
        Self { rows_in: number("rows_in"), deltas_out: number("deltas_out"), lags }
    }
}

/// Asks the daemon and prints.
#[derive(Debug)]
pub(crate) struct Live {
    http: reqwest::Client,
    url: String,
    terminal: bool,
    last: Option<(Instant, Counts, Option<Status>)>,
}

impl Live {
    /// Watches the daemon that listens at `address`.
    pub(crate) fn new(http: reqwest::Client, address: &str) -> Self {
        Self { http, url: format!("http://{address}/status"), terminal: io::stdout().is_terminal(), last: None }
    }

    /// Asks once; `None` where there is no answer in time.
    pub(crate) async fn ask(&self) -> Option<Status> {
        let answer = self.http.get(&self.url).timeout(ANSWER_MAX).send().await.ok()?.error_for_status().ok()?;
        Some(Status::read(&answer.json().await.ok()?))
    }

    /// Prints one line over the last one, or under it where standard output is no terminal.
    ///
    /// # Errors
    /// Where standard output is gone.
    pub(crate) async fn show(&mut self, traffic: Counts, daemon: Option<u32>) -> io::Result<()> {
        let status = self.ask().await;
        let now = Instant::now();
        let (elapsed, before, last) = match &self.last {
            Some((at, counts, last)) => (now - *at, *counts, last.clone()),
            None => (Duration::from_secs(1), Counts::default(), None),
        };
        let line = line(elapsed, before, traffic, last.as_ref(), status.as_ref(), daemon);
        self.last = Some((now, traffic, status.or(last)));
        let mut out = io::stdout().lock();
        if self.terminal {
            write!(out, "\r\x1b[2K{line}")?;
        } else {
            writeln!(out, "{line}")?;
        }
        out.flush()
    }

    /// Prints a line of its own, which stays.
    ///
    /// # Errors
    /// Where standard output is gone.
    pub(crate) fn say(&self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.terminal {
            write!(out, "\r\x1b[2K")?;
        }
        writeln!(out, "{text}")?;
        out.flush()
    }
}

fn line(
    elapsed: Duration,
    before: Counts,
    traffic: Counts,
    last: Option<&Status>,
    status: Option<&Status>,
    daemon: Option<u32>,
) -> String {
    let steps = per_second(before.steps, traffic.steps, elapsed);
    let mut out = format!("traffic {steps}/s  ");
    let Some(status) = status else {
        out.push_str("daemon does not answer");
        return out;
    };
    let (rows, deltas) = last.map_or((0, 0), |last| {
        (per_second(last.rows_in, status.rows_in, elapsed), per_second(last.deltas_out, status.deltas_out, elapsed))
    });
    let _ = write!(
        out,
        "rows in {} (+{}/s)  deltas out {} (+{}/s)  lag",
        grouped(status.rows_in),
        grouped(rows),
        grouped(status.deltas_out),
        grouped(deltas)
    );
    for (name, lag) in &status.lags {
        let lag = lag.map_or_else(|| "?".to_owned(), ms_text);
        let _ = write!(out, " {name} {lag}");
    }
    if let Some(pid) = daemon {
        let _ = write!(out, "  pid {pid}");
    }
    out
}

/// A restarted daemon counts from zero again, which is no negative rate.
fn per_second(before: u64, after: u64, elapsed: Duration) -> u64 {
    let elapsed_ms = elapsed.as_millis().max(1);
    let per_second = u128::from(after.saturating_sub(before)) * 1000 / elapsed_ms;
    u64::try_from(per_second).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(text: &str) -> Status {
        Status::read(&serde_json::from_str(text).expect("test JSON"))
    }

    #[test]
    fn a_status_with_fields_missing_is_still_shown() {
        let bare = status("{}");
        let counts = Counts { steps: 300, rows: 0, conflicts: 0 };
        let shown = line(Duration::from_secs(1), Counts::default(), counts, None, Some(&bare), Some(7));
        assert_eq!(shown, "traffic 300/s  rows in 0 (+0/s)  deltas out 0 (+0/s)  lag  pid 7");
        let full = status(r#"{"rows_in":1234567,"deltas_out":20,"sinks":{"lake":{"lag_ms":4210},"planning":{}}}"#);
        let shown = line(Duration::from_secs(2), counts, counts, Some(&bare), Some(&full), None);
        assert_eq!(
            shown,
            "traffic 0/s  rows in 1,234,567 (+617,283/s)  deltas out 20 (+10/s)  lag lake 4.2 s planning ?"
        );
    }

    #[test]
    fn a_killed_daemon_is_said_to_be_silent_and_never_counts_backwards() {
        let counts = Counts::default();
        let shown = line(Duration::from_secs(1), counts, counts, None, None, None);
        assert!(shown.ends_with("daemon does not answer"));
        assert_eq!(per_second(100, 5, Duration::from_secs(1)), 0);
    }
}
