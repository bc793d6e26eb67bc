//! Targets that accept a batch now and process it later: the job is followed until it has ended, and only then is the batch
//! delivered.
//!
//! `202` says that somebody took the bytes and no more. The lane waits, so nothing of a partition overtakes what is being
//! processed; a job that the target no longer knows is a lost reply, and the same bytes are sent again.

use std::time::{Duration, Instant};

use reqwest::Url;
use tracing::warn;

use super::client::{Answer, Client, Stop, not_pdx};
use super::contract::{JobReport, Receipt, RejectPage, word};
use super::stats::PlanningStats;
use super::verdict::{RETRY_AFTER_MAX, Verdict, judge};
use crate::SinkError;

/// The first pause between two questions, and the longest, where the target names none.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);
/// A job that takes longer is told of, and again after twice the time.
const WARN_AFTER: Duration = Duration::from_secs(60);
/// Pages of refused rows: more than any batch has rows.
const PAGES_MAX: usize = 100_000;

impl Client {
    /// Follows a job to its end; none where the target does not know it any more.
    ///
    /// # Errors
    /// [`Stop`] where the batch failed as a whole or the target cannot be reached for too long.
    pub(super) async fn follow(
        &self,
        from: &Url,
        location: &str,
        batch_id: &str,
        stats: &PlanningStats,
    ) -> Result<Option<Receipt>, Stop> {
        let refuse = |reason: String, remedy: &str| {
            let (target, remedy) = (from.to_string(), remedy.to_owned());
            Stop::Failed(SinkError::Refused { target, reason, remedy })
        };
        let job = from.join(location).ok().filter(|job| job.origin() == from.origin()).ok_or_else(|| {
            // Whoever is there would be shown who we are.
            refuse("accepted a batch with a job elsewhere".to_owned(), "have its Location lead to the target itself")
        })?;
        let (began, mut warn_after, mut pause) = (Instant::now(), WARN_AFTER, FIRST);
        loop {
            let report = match self.persist(&job, stats, || self.http().get(job.clone())).await {
                Ok(Answer::Body(body)) => body,
                Ok(Answer::Job(_)) | Err(Stop::Gone(_)) => return Ok(None),
                Err(stop) => return Err(stop),
            };
            let report: JobReport =
                serde_json::from_slice(&report).map_err(|error| Stop::Failed(not_pdx(&job, "a job", &error)))?;
            match report.state.as_str() {
                "queued" | "running" => {
                    if began.elapsed() >= warn_after {
                        warn_after *= 2;
                        warn!(job = %job, seconds = began.elapsed().as_secs(), "the target still works on a batch");
                    }
                    let asked = report.retry_after_s.map(Duration::from_secs).unwrap_or_default();
                    self.pause(asked.clamp(pause, RETRY_AFTER_MAX)).await;
                    pause = (pause * 2).min(LONGEST);
                }
                "succeeded" | "succeeded_with_rejects" => {
                    return self.settle(&job, report, batch_id, stats).await;
                }
                "failed" => {
                    let problem = report.problem.unwrap_or_default();
                    match judge(problem.status, problem.name(), None) {
                        Verdict::Rewind => return Err(Stop::Rewind),
                        Verdict::TooLarge => {
                            let target = job.to_string();
                            let remedy = "lower max_records or max_bytes of the sink".to_owned();
                            let reason = "failed to process a batch that is too large for it".to_owned();
                            return Err(Stop::TooLarge(SinkError::Refused { target, reason, remedy }));
                        }
                        Verdict::BatchRefused => {
                            let (target, code) = (job.to_string(), word(problem.name()));
                            let reason = format!("failed to process a batch: {code}");
                            let remedy = "compare the target's schema of this entity with ours".to_owned();
                            return Err(Stop::Refused(SinkError::Refused { target, reason, remedy }, code));
                        }
                        Verdict::RetryTransient | Verdict::Throttle | Verdict::Wait => return Ok(None),
                        _ => {}
                    }
                    let name = word(problem.name());
                    let remedy = "look there for the reason; the same rows are sent again after a restart";
                    return Err(refuse(format!("accepted a batch and failed to process it: {name}"), remedy));
                }
                other => {
                    let reason = format!("answered with a job in the state {}", word(other));
                    return Err(refuse(reason, "check that the sink's url is the base of a PDX/1 service"));
                }
            }
        }
    }

    /// The receipt of a job that has ended, with all of its refused rows.
    async fn settle(
        &self,
        job: &Url,
        report: JobReport,
        batch_id: &str,
        stats: &PlanningStats,
    ) -> Result<Option<Receipt>, Stop> {
        let JobReport { counts, watermark, .. } = report;
        let mut rejects = Vec::new();
        let mut cursor = (counts.rejected > 0).then(String::new);
        for _ in 0..PAGES_MAX {
            let Some(at) = cursor.take() else { break };
            let mut url = job.clone();
            if let Ok(mut path) = url.path_segments_mut() {
                path.pop_if_empty().push("rejects");
            }
            if !at.is_empty() {
                url.query_pairs_mut().append_pair("cursor", &at);
            }
            let page = match self.persist(&url, stats, || self.http().get(url.clone())).await {
                Ok(Answer::Body(body)) => body,
                Ok(Answer::Job(_)) | Err(Stop::Gone(_)) => return Ok(None),
                Err(stop) => return Err(stop),
            };
            let page: RejectPage = serde_json::from_slice(&page)
                .map_err(|error| Stop::Failed(not_pdx(&url, "a page of refused rows", &error)))?;
            rejects.extend(page.rejects);
            cursor = page.next.filter(|next| !next.is_empty() && *next != at);
        }
        Ok(Some(Receipt {
            batch_id: batch_id.to_owned(),
            received: counts.received,
            applied: counts.applied,
            unchanged: counts.unchanged,
            stale: counts.stale,
            rejected: counts.rejected,
            watermark,
            rejects,
        }))
    }
}
