//! Dead letters: rows that a target refused, and what an operator does about them.
//!
//! ```text
//! GET  /dead-letters?sink=&entity=&code=&limit=     which there are
//! GET  /dead-letters/ID                             one of them with its values
//! POST /dead-letters/ID  {"action": "retry" | "drop" | "edit", "fields": {...}, "note": "..."}
//! POST /dead-letters     {"sink": ..., "entity": ..., "code": ..., "note": "..."}   sends all that fit again
//! POST /dead-letters     {"forget_unlisted": true, "sink": ...}                    those that were not kept are mended
//! ```
//!
//! Nothing is decided here about later versions of a row: they are delivered as ever, and settle a letter by themselves. Of this
//! version it is, so only this machine is let do it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::{ConnectInfo, Path, Query, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use super::rows::{known_host, refused};
use super::{Ends, Facts, fresh};
use crate::pipeline::refused::{Letter, LetterError, Refused};
use crate::pipeline::status::SinkStatus;

/// Letters of an answer where the question names no number.
const LIMIT: usize = 100;

/// Some of what there is.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Letters {
    pub(crate) letters: Vec<Letter>,
    /// How many fit the question.
    pub(crate) count: usize,
    /// Refused rows beyond those that are kept; only the counter knows of them.
    pub(crate) unlisted: u64,
}

/// Which letters.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Asked {
    pub(crate) sink: Option<String>,
    pub(crate) entity: Option<String>,
    pub(crate) code: Option<String>,
    pub(crate) limit: Option<usize>,
    pub(crate) forget_unlisted: bool,
    pub(crate) note: String,
}

/// What is done about one.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "action")]
pub(crate) enum Action {
    /// It is sent again at once.
    Retry,
    /// The target goes without it.
    Drop,
    /// Fields are set, and it is sent again.
    Edit {
        /// Their values as text; an empty one is none.
        fields: BTreeMap<String, String>,
    },
}

/// An action with the operator's words.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Said {
    #[serde(flatten)]
    pub(crate) action: Action,
    #[serde(default)]
    pub(crate) note: String,
}

/// How many letters an action was for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Done {
    pub(crate) letters: usize,
}

pub(super) fn routes() -> Router<Arc<Facts>> {
    Router::new()
        .route("/dead-letters", get(list).post(send_again))
        .route("/dead-letters/{id}", get(show).post(act))
        .layer(axum::middleware::from_fn(changed_from_here))
        .layer(axum::middleware::from_fn(known_host))
}

impl Asked {
    fn wants(&self, letter: &Letter) -> bool {
        let fits = |wanted: &Option<String>, is: &str| wanted.as_ref().is_none_or(|wanted| wanted == is);
        fits(&self.entity, &letter.row.entity) && fits(&self.code, &letter.row.code)
    }

    /// The sinks of the question that are at work or were, each with its refused rows.
    fn sinks<'f>(&self, facts: &'f Facts) -> impl Iterator<Item = (&'f SinkStatus, &'f Refused)> + use<'f> {
        let wanted = self.sink.clone();
        let sinks = facts.status.sinks.iter();
        let sinks = sinks.filter(move |sink| wanted.as_ref().is_none_or(|it| *it == sink.name));
        sinks.filter_map(|sink| Some((sink, &**sink.letters.get()?)))
    }
}

/// What changes something comes from this machine, whatever else may look.
pub(super) async fn changed_from_here(request: Request, next: Next) -> Response {
    let ends = request.extensions().get::<ConnectInfo<Ends>>();
    if request.method() == Method::GET || ends.is_none_or(|ends| ends.0.are_here()) {
        return next.run(request).await;
    }
    refused(StatusCode::FORBIDDEN, "what targets are sent is decided on the daemon's own machine only")
}

async fn list(State(facts): State<Arc<Facts>>, Query(asked): Query<Asked>) -> Response {
    let mut letters: Vec<Letter> =
        asked.sinks(&facts).flat_map(|(_, sink)| sink.letters(|letter| asked.wants(letter))).collect();
    let unlisted = asked.sinks(&facts).map(|(_, sink)| sink.unlisted()).sum();
    let count = letters.len();
    letters.truncate(asked.limit.unwrap_or(LIMIT));
    fresh([], Json(Letters { letters, count, unlisted }))
}

async fn send_again(State(facts): State<Arc<Facts>>, Json(asked): Json<Asked>) -> Response {
    on_disk(move || {
        let mut letters = 0;
        if !asked.forget_unlisted {
            let wanted = asked.sinks(&facts).filter(|(_, sink)| !sink.letters(|it| asked.wants(it)).is_empty());
            wanted.into_iter().try_for_each(|(status, _)| at_work(status))?;
        }
        for (status, sink) in asked.sinks(&facts) {
            if asked.forget_unlisted {
                letters += usize::try_from(sink.forget_unlisted(&asked.note)?).unwrap_or(usize::MAX);
            } else {
                letters += sink.send_all_again(|letter| asked.wants(letter), &asked.note)?;
            }
            status.refused.store(sink.count(), Ordering::Relaxed);
        }
        Ok(Done { letters })
    })
    .await
}

async fn show(State(facts): State<Arc<Facts>>, Path(id): Path<String>) -> Response {
    on_disk(move || of(&facts, &id, |_, sink| sink.show(&id))).await
}

async fn act(State(facts): State<Arc<Facts>>, Path(id): Path<String>, Json(said): Json<Said>) -> Response {
    on_disk(move || {
        of(&facts, &id, |status, sink| {
            sink.show(&id)?;
            match &said.action {
                Action::Retry => at_work(status).and_then(|()| sink.send_again(&id, &said.note)),
                Action::Drop => sink.give_up(&id, &said.note),
                Action::Edit { fields } => at_work(status).and_then(|()| sink.edit(&id, fields, &said.note)),
            }?;
            status.refused.store(sink.count(), Ordering::Relaxed);
            Ok(())
        })?;
        Ok(Done { letters: 1 })
    })
    .await
}

/// Refuses to have a sink that is parked send anything.
fn at_work(status: &SinkStatus) -> Result<(), LetterError> {
    status.parked.reason().map_or(Ok(()), |reason| Err(LetterError::Parked(reason)))
}

/// Asks the sink that has a letter.
fn of<T>(
    facts: &Facts,
    id: &str,
    ask: impl Fn(&SinkStatus, &Refused) -> Result<T, LetterError>,
) -> Result<T, LetterError> {
    for (status, sink) in Asked::default().sinks(facts) {
        match ask(status, sink) {
            Err(LetterError::Unknown(_)) => {}
            answered => return answered,
        }
    }
    Err(LetterError::Unknown(id.to_owned()))
}

async fn on_disk<T: Serialize + Send + 'static>(
    ask: impl FnOnce() -> Result<T, LetterError> + Send + 'static,
) -> Response {
    match tokio::task::spawn_blocking(ask).await {
        Ok(Ok(answer)) => fresh([], Json(answer)),
        Ok(Err(error)) => {
            let code = match error {
                LetterError::Unknown(_) => StatusCode::NOT_FOUND,
                LetterError::NotKept | LetterError::Parked(_) => StatusCode::CONFLICT,
                LetterError::Field { .. } => StatusCode::BAD_REQUEST,
                LetterError::State(_) => StatusCode::INTERNAL_SERVER_ERROR,
            };
            refused(code, &error.to_string())
        }
        Err(error) => refused(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}
