//! Batches that are accepted now and processed later, for senders that must bear with that.
//!
//! Jobs are in memory only: a receiver that was started again knows none, as a platform may lose its queue, and a sender has
//! to send again what it has no receipt of.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::http::StatusCode;

use super::problem::Refusal;
use crate::planning::contract::{JobCounts, JobReport, Problem, Receipt, RejectPage, Watermark};

/// Jobs that are remembered.
const JOBS_MAX: usize = 10_000;
/// Refused records of a page.
const PAGE_REJECTS: usize = 20;

enum Job {
    Running,
    Processed(Box<Receipt>),
    Failed(Box<Problem>),
}

/// The jobs since the start, the latest of them.
#[derive(Default)]
pub(super) struct Jobs(Mutex<(VecDeque<String>, HashMap<String, Job>)>);

impl Jobs {
    fn lock(&self) -> MutexGuard<'_, (VecDeque<String>, HashMap<String, Job>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins one; its name.
    pub(super) fn begin(&self) -> String {
        let id = uuid::Uuid::new_v4().to_string();
        let (order, jobs) = &mut *self.lock();
        order.push_back(id.clone());
        jobs.insert(id.clone(), Job::Running);
        if order.len() > JOBS_MAX
            && let Some(oldest) = order.pop_front()
        {
            jobs.remove(&oldest);
        }
        id
    }

    /// One has ended.
    pub(super) fn end(&self, id: &str, answered: Result<String, Refusal>) {
        let job = match answered {
            Err(Refusal(problem)) => Job::Failed(Box::new(problem)),
            Ok(receipt) => match serde_json::from_str(&receipt) {
                Ok(receipt) => Job::Processed(Box::new(receipt)),
                Err(error) => Job::Failed(Box::new(Refusal::storage(error).0)),
            },
        };
        if let Some(known) = self.lock().1.get_mut(id) {
            *known = job;
        }
    }

    /// How one stands.
    pub(super) fn report(&self, id: &str) -> Result<JobReport, Refusal> {
        let jobs = self.lock();
        let report = |state: &str, counts, watermark, problem| JobReport {
            state: state.to_owned(),
            retry_after_s: None,
            counts,
            watermark,
            problem,
        };
        Ok(match jobs.1.get(id).ok_or_else(unknown)? {
            Job::Running => report("running", JobCounts::default(), Watermark::default(), None),
            Job::Failed(problem) => {
                report("failed", JobCounts::default(), Watermark::default(), Some((**problem).clone()))
            }
            Job::Processed(receipt) => {
                let Receipt { received, applied, unchanged, stale, rejected, watermark, .. } = &**receipt;
                let (received, applied, unchanged) = (*received, *applied, *unchanged);
                let counts = JobCounts { received, applied, unchanged, stale: *stale, rejected: *rejected };
                let state = if *rejected > 0 { "succeeded_with_rejects" } else { "succeeded" };
                report(state, counts, watermark.clone(), None)
            }
        })
    }

    /// Refused records of one, from a place on.
    pub(super) fn rejects(&self, id: &str, cursor: usize) -> Result<RejectPage, Refusal> {
        let jobs = self.lock();
        let Job::Processed(receipt) = jobs.1.get(id).ok_or_else(unknown)? else {
            return Ok(RejectPage { rejects: Vec::new(), next: None });
        };
        let end = (cursor + PAGE_REJECTS).min(receipt.rejects.len());
        let rejects = receipt.rejects.get(cursor..end).unwrap_or_default().to_vec();
        Ok(RejectPage { rejects, next: (end < receipt.rejects.len()).then(|| end.to_string()) })
    }
}

fn unknown() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "unknown-job", "there is no job of this name, or no longer")
}
