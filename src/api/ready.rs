//! `GET /ready?asof=T`: whether the targets have everything that was committed at the sources before a moment.
//!
//! ```text
//! 200 {"ready": true,  "asof": T, "complete_through": {"erp": ...}, "behind": []}
//! 503 {"ready": false, ...,       "behind": [{"rung": "source erp", "reason": "..."}]}
//! ```
//!
//! A planner that starts its nightly run on it plans with the books as they were at T. It is a proof and no estimate: a source
//! counts up to the last moment of its own clock of which it is known that all before it is in the log, and that counts once
//! every sink has confirmed the log up to there. An idle source gives such a moment every minute, and soon when it is asked for; one that does
//! not answer gives none. Rows of critical entities that are held, or that a target refused, are missing there whatever the
//! moment is.
//!
//! `asof` is an instant as in RFC 3339; without one the question is only whether anything is missing up to what is proved. With
//! `held=ignore` rows that are held or were refused do not count: somebody knows of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use syncline_schemas::entity::{self, Criticality};
use syncline_schemas::ident::LogOffset;

use super::rows::refused;
use super::{Facts, fresh};
use crate::pipeline::held;
use crate::pipeline::rows::instant;
use crate::pipeline::status::Status;

/// The answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Readiness {
    pub(crate) ready: bool,
    /// As asked.
    pub(crate) asof: Option<String>,
    /// By source: every target has all that was committed before it. None where that is not known.
    pub(crate) complete_through: BTreeMap<String, Option<String>>,
    /// What is missing.
    pub(crate) behind: Vec<Behind>,
}

/// A rung of the way that is behind.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Behind {
    /// Which one, as in `source erp`.
    pub(crate) rung: String,
    pub(crate) reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    asof: Option<String>,
    #[serde(default)]
    held: HeldCount,
}

/// Whether rows that a target lacks count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum HeldCount {
    #[default]
    Count,
    /// Somebody knows of them and goes on.
    Ignore,
}

pub(super) fn routes() -> Router<Arc<Facts>> {
    Router::new().route("/ready", get(ready))
}

async fn ready(State(facts): State<Arc<Facts>>, Query(asked): Query<Asked>) -> Response {
    let asof = match asked.asof.as_deref().map(str::parse::<DateTime<Utc>>).transpose() {
        Ok(asof) => asof.map(|at| at.timestamp_micros()),
        Err(error) => {
            let reason = format!("asof is an instant as in 2026-05-26T22:00:00Z, a + in it written as %2B: {error}");
            return refused(StatusCode::BAD_REQUEST, &reason);
        }
    };
    let found = tokio::task::spawn_blocking(move || {
        // First what is complete, and then what of it is held: it is in the state by then.
        let complete = complete_through(&facts.status).map(|(name, at)| (name.to_owned(), at)).collect();
        if asked.held == HeldCount::Count {
            held::look(&facts.store.current(), &facts.status);
        }
        Readiness::find(&facts.status, complete, asof, asked.held)
    });
    let readiness = match found.await {
        Ok(readiness) => readiness,
        Err(error) => return refused(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    };
    let code = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, fresh([], Json(readiness))).into_response()
}

/// By source, the moment up to which every target has everything.
pub(super) fn complete_through(status: &Status) -> impl Iterator<Item = (&str, Option<i64>)> {
    let sinks = status.sinks.iter().map(|sink| sink.cursor.load(Ordering::Acquire));
    let confirmed = LogOffset(sinks.chain([status.folded().0]).min().unwrap_or_default());
    status.sources.iter().map(move |source| (source.name.as_str(), source.progress.complete_through(confirmed)))
}

impl Readiness {
    fn find(status: &Status, complete: BTreeMap<String, Option<i64>>, asof: Option<i64>, counts: HeldCount) -> Self {
        let mut behind = Vec::new();
        let mut lacks = |rung: String, reason: String| behind.push(Behind { rung, reason });
        for (source, complete) in &complete {
            let rung = format!("source {source}");
            match (complete, asof) {
                (None, _) => lacks(rung, "nothing of it is known to be complete yet".to_owned()),
                (Some(complete), Some(asof)) if *complete < asof => {
                    lacks(rung, format!("complete through {}", instant(*complete)));
                }
                _ => continue,
            }
            for source in status.sources.iter().filter(|it| it.name == *source) {
                source.progress.want_proof();
            }
        }
        for reason in status.parked() {
            lacks("parked".to_owned(), reason);
        }
        for source in &status.sources {
            if let Some(problem) = source.progress.problem() {
                lacks(format!("source {}", source.name), problem);
            }
        }
        if counts == HeldCount::Count {
            lacking_rows(status, &mut lacks);
        }
        let complete_through = complete.into_iter().map(|(source, at)| (source, at.map(instant))).collect();
        Self { ready: behind.is_empty(), asof: asof.map(instant), complete_through, behind }
    }
}

/// Rows that the targets lack whatever the moment is.
fn lacking_rows(status: &Status, lacks: &mut impl FnMut(String, String)) {
    match status.transform.held.now() {
        None => lacks("held".to_owned(), "what is held has not been looked at yet".to_owned()),
        Some(held) => {
            for held in held.by.iter().filter(|held| is_critical(&held.entity)) {
                lacks("held".to_owned(), format!("{} rows of {} under {}", held.rows, held.entity, held.rule));
            }
        }
    }
    for sink in &status.sinks {
        let loads = sink.loads.load(Ordering::Acquire);
        if loads > 0 {
            lacks(format!("sink {}", sink.name), format!("{loads} loads of whole entities are not done"));
        }
        let Some(letters) = sink.letters.get() else { continue };
        let rung = || format!("sink {}", sink.name);
        let dead = letters.letters(|letter| is_critical(&letter.row.entity)).len();
        if dead > 0 {
            let see = "see `syncline dead-letters list`";
            lacks(rung(), format!("the target refused {dead} rows of critical entities: {see}"));
        }
        let unlisted = letters.unlisted();
        if unlisted > 0 {
            let once = "once they are mended: `syncline dead-letters drop --unlisted`";
            lacks(rung(), format!("the target refused {unlisted} rows that are not kept; {once}"));
        }
    }
}

/// What is not known to be less counts.
fn is_critical(name: &str) -> bool {
    entity::get(name).is_none_or(|entity| entity.criticality == Criticality::Critical)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use syncline_transform::fold::{HeldNow, HeldRows};

    use super::*;
    use crate::pipeline::status::one_source;

    #[test]
    fn a_planner_is_told_to_wait_while_anything_critical_is_missing() {
        let status = Status::new(Instant::now(), &one_source(), &["planning".to_owned()]);
        let behind = |asof| {
            let complete = complete_through(&status).map(|(name, at)| (name.to_owned(), at)).collect();
            let found = Readiness::find(&status, complete, asof, HeldCount::Count);
            assert_eq!(found.ready, found.behind.is_empty());
            found.behind.into_iter().map(|behind| format!("{}: {}", behind.rung, behind.reason)).collect::<Vec<_>>()
        };
        assert_eq!(
            behind(None),
            ["source erp: nothing of it is known to be complete yet", "held: what is held has not been looked at yet"]
        );
        let held = |entity: &str| {
            let rule = "DQ_REQUIRED".to_owned();
            let by = vec![HeldRows { mapping: None, entity: entity.to_owned(), rule, rows: 3 }];
            status.transform.held.replace(HeldNow { by, complete: true });
        };
        held("exchange_rate");
        assert_eq!(behind(None).len(), 1, "nobody plans worse without a rate");
        held("inventory_balance");
        assert_eq!(behind(None)[1], "held: 3 rows of inventory_balance under DQ_REQUIRED");
        status.sinks[0].parked.park("401".to_owned());
        assert_eq!(behind(None)[1], "parked: sink planning: 401");
    }
}
