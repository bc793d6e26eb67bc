//! Requests to the target under test: one at a time, with the waits that it asks for, and jobs followed to their end.
//!
//! What is seen on the way (pauses, jobs) is kept for the checks that only observe. Nothing here sends a body twice with
//! other bytes under one key, so a lost reply may be repeated as a sink repeats it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::LOCATION;
use serde::de::DeserializeOwned;
use url::Url;

use super::report::{Failure, Stop, fail};
use crate::SinkError;
use crate::planning::PlanningConfig;
use crate::planning::contract::{JobReport, PROBLEM_JSON, Problem, Receipt, RejectPage};
use crate::planning::probe::{Answer, Probe};

/// How often a request is sent again that met an accident or a pause.
const ATTEMPTS_MAX: u32 = 8;
/// The longest pause that is waited for: somebody sits in front of this.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Between two attempts where the target names no pause.
const PAUSE: Duration = Duration::from_millis(200);
/// How long a job is followed.
const JOB_MAX: Duration = Duration::from_secs(120);
/// Pages of refused rows of one job: more than a batch of ours has rows.
const PAGES_MAX: usize = 1_000;
/// So much of an answer is shown.
const SHOWN_CHARS: usize = 300;

/// Pauses that the target asked for.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    pub(super) asked: u64,
    /// Without saying for how long.
    pub(super) unnamed: u64,
    /// Refused again although the pause was kept.
    pub(super) broken: u64,
}

/// The way to the target.
pub(super) struct Wire {
    probe: Probe,
    pub(super) pauses: Pauses,
    /// Batches that were accepted for later.
    pub(super) jobs: u64,
    /// What was wrong with the first of them where something was.
    pub(super) job_fault: Option<Failure>,
}

/// What became of a batch, at once or by a job.
#[derive(Debug)]
pub(super) enum Reply {
    Receipt(Receipt),
    /// Refused whole, with the status.
    Refused(u16, Problem, String),
}

impl Wire {
    pub(super) fn new(config: PlanningConfig) -> Result<Self, SinkError> {
        Ok(Self { probe: Probe::new(config)?, pauses: Pauses::default(), jobs: 0, job_fault: None })
    }

    /// Asks for something to be shown.
    pub(super) async fn get(&mut self, path: &[&str], query: &[(&str, &str)]) -> Result<Answer, Stop> {
        let mut url = self.probe.endpoint(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.send(Method::GET, url, &[], &Bytes::new(), true).await
    }

    /// Sends a body.
    pub(super) async fn put(
        &mut self,
        method: Method,
        path: &[&str],
        headers: &[(&str, String)],
        body: &Bytes,
        proved: bool,
    ) -> Result<Answer, Stop> {
        let url = self.probe.endpoint(path);
        self.send(method, url, headers, body, proved).await
    }

    /// Asks without proof.
    pub(super) async fn get_unproved(&mut self, path: &[&str], query: &[(&str, &str)]) -> Result<Answer, Stop> {
        let mut url = self.probe.endpoint(path);
        url.query_pairs_mut().extend_pairs(query);
        self.send(Method::GET, url, &[], &Bytes::new(), false).await
    }

    async fn send(
        &mut self,
        method: Method,
        url: Url,
        headers: &[(&str, String)],
        body: &Bytes,
        proved: bool,
    ) -> Result<Answer, Stop> {
        let sent = format!("{method} {url}");
        // Whether the pause that was asked for last was kept.
        let mut was_kept = false;
        for attempt in 1.. {
            let mut request = self.probe.request(method.clone(), url.clone());
            for (name, value) in headers {
                request = request.header(*name, value);
            }
            if method != Method::GET {
                request = request.body(body.clone());
            }
            let answered = self.probe.ask(request, proved).await;
            let last = attempt == ATTEMPTS_MAX;
            let pause = match answered {
                Ok(answer) if matches!(answer.status, 429 | 503) && !last => {
                    let asked = answer.retry_after();
                    self.pauses.asked += 1;
                    self.pauses.broken += u64::from(was_kept);
                    self.pauses.unnamed += u64::from(answer.status == 429 && asked.is_none());
                    was_kept = asked.is_some_and(|asked| asked <= PAUSE_MAX);
                    asked.unwrap_or(PAUSE)
                }
                Ok(answer) if matches!(answer.status, 500 | 502 | 504) && !last => PAUSE,
                Ok(answer) => return Ok(answer),
                Err(reason) if last => return fail(sent, reason),
                Err(_) => PAUSE,
            };
            tokio::time::sleep(pause.clamp(PAUSE, PAUSE_MAX)).await;
        }
        fail(sent, "no answer")
    }

    /// What became of a batch, however it is answered; `sent` says what it was.
    pub(super) async fn settle(&mut self, answer: Answer, from: &[&str], sent: &str) -> Result<Reply, Stop> {
        match answer.status {
            200 => Ok(Reply::Receipt(read(&answer, sent, "the receipt of a batch")?)),
            202 => {
                self.jobs += 1;
                let followed = self.follow(&answer, from, sent).await;
                if let Err(Stop::Failed(failure)) = &followed {
                    self.job_fault.get_or_insert_with(|| failure.clone());
                }
                followed
            }
            status => Ok(Reply::Refused(status, problem(&answer), told(&answer))),
        }
    }

    async fn follow(&mut self, accepted: &Answer, from: &[&str], sent: &str) -> Result<Reply, Stop> {
        let base = self.probe.endpoint(from);
        let location = accepted.headers.get(LOCATION).and_then(|it| it.to_str().ok());
        let job = location.and_then(|it| base.join(it).ok()).filter(|job| job.origin() == base.origin());
        let Some(job) = job else { return fail(sent, "202 without a Location at the target itself") };
        let began = Instant::now();
        let report = loop {
            let asked = format!("GET {job}");
            let answer = self.send(Method::GET, job.clone(), &[], &Bytes::new(), true).await?;
            if answer.status != 200 {
                return fail(asked, told(&answer));
            }
            let report: JobReport = read(&answer, &asked, "a job")?;
            match report.state.as_str() {
                "queued" | "running" if began.elapsed() > JOB_MAX => {
                    return fail(asked, format!("still {} after {} s", report.state, JOB_MAX.as_secs()));
                }
                "queued" | "running" => {
                    let asked = report.retry_after_s.map(Duration::from_secs).unwrap_or_default();
                    tokio::time::sleep(asked.clamp(PAUSE / 4, PAUSE_MAX)).await;
                }
                "succeeded" | "succeeded_with_rejects" | "failed" => break report,
                other => return fail(asked, format!("a job in the state {other}")),
            }
        };
        if report.state == "failed" {
            let problem = report.problem.unwrap_or_default();
            let shown = format!("a failed job with {} {}", problem.status, problem.name());
            return Ok(Reply::Refused(problem.status, problem, shown));
        }
        let rejects = if report.counts.rejected > 0 { self.rejects(&job).await? } else { Vec::new() };
        let counts = report.counts;
        Ok(Reply::Receipt(Receipt {
            batch_id: String::new(),
            received: counts.received,
            applied: counts.applied,
            unchanged: counts.unchanged,
            stale: counts.stale,
            rejected: counts.rejected,
            watermark: report.watermark,
            rejects,
        }))
    }

    async fn rejects(&mut self, job: &Url) -> Result<Vec<crate::planning::contract::Rejected>, Stop> {
        let (mut rejects, mut cursor) = (Vec::new(), Some(String::new()));
        for _ in 0..PAGES_MAX {
            let Some(at) = cursor.take() else { break };
            let mut url = job.clone();
            if let Ok(mut path) = url.path_segments_mut() {
                path.pop_if_empty().push("rejects");
            }
            if !at.is_empty() {
                url.query_pairs_mut().append_pair("cursor", &at);
            }
            let asked = format!("GET {url}");
            let answer = self.send(Method::GET, url, &[], &Bytes::new(), true).await?;
            if answer.status != 200 {
                return fail(asked, told(&answer));
            }
            let page: RejectPage = read(&answer, &asked, "a page of refused rows")?;
            rejects.extend(page.rejects);
            cursor = page.next.filter(|next| !next.is_empty() && *next != at);
        }
        Ok(rejects)
    }
}

/// Reads the body of a good answer.
pub(super) fn read<T: DeserializeOwned>(answer: &Answer, sent: &str, what: &str) -> Result<T, Stop> {
    match serde_json::from_slice(&answer.body) {
        Ok(it) => Ok(it),
        Err(error) => fail(sent, format!("{}, which is not {what}: {error}", told(answer))),
    }
}

/// The problem of an answer; an empty one where it holds none.
pub(super) fn problem(answer: &Answer) -> Problem {
    serde_json::from_slice(&answer.body).unwrap_or_default()
}

/// True for the media type of problems.
pub(super) fn is_problem(answer: &Answer) -> bool {
    let media = answer.headers.get("content-type").and_then(|media| media.to_str().ok()).unwrap_or_default();
    media.split(';').next().is_some_and(|media| media.trim() == PROBLEM_JSON)
}

/// An answer in a line.
pub(super) fn told(answer: &Answer) -> String {
    let text = String::from_utf8_lossy(&answer.body);
    let shown: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN_CHARS).collect();
    let more = if text.chars().count() > SHOWN_CHARS { " ..." } else { "" };
    format!("{} {shown}{more}", answer.status)
}
