//! Rows as an operator or a data engineer asks for them: what is held and why, what a mapping gives, what a canonical row
//! is made of.
//!
//! ```text
//! GET  /exceptions?mapping=&entity=&rule=&all=&limit=   what is held
//! GET  /exceptions/FINGERPRINT                          one of them
//! POST /exceptions/FINGERPRINT  {"state": "waived" | "resolved", "note": "..."}    puts one aside
//! GET  /preview/SOURCE/MAPPING?key=&limit=              what the rows of a mapping give now
//! GET  /explain/ENTITY?key=&limit=                      the source rows that a canonical row is made of
//! ```
//!
//! A note changes nothing of what is delivered: the row stays held until the source, or the master that it waits for, mends
//! it. A body must be `application/json`, which no page of another site can send without being asked first.
//!
//! A row that waits for a master is listed once it has waited for `park_ttl`, or with `all=true`.
//!
//! `limit` is 100 where it is not given, and 10,000 at most.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::{Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use syncline_journal::Store;
use syncline_transform::fold::{Found, Lookup, SourceRow, Texts, Whereabouts};
use tokio::sync::Semaphore;

use super::{Facts, fresh};
use crate::pipeline::explain::{self, Explanation, Share};
use crate::pipeline::rows::{self, Filter, Note, Question, Refusal, Verdict};

/// Rows of an answer where the question names no number.
const LIMIT: usize = 100;

/// What is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exceptions {
    pub(crate) exceptions: Vec<Exception>,
    /// False where there are more.
    pub(crate) complete: bool,
    /// Rows that wait for a master, not yet so long that they are listed.
    pub(crate) waiting: usize,
}

/// A row or a sum that is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exception {
    pub(crate) fingerprint: String,
    /// None for a sum, to which several mappings may add.
    pub(crate) mapping: Option<String>,
    pub(crate) entity: String,
    pub(crate) table: String,
    pub(crate) key: BTreeMap<String, Option<String>>,
    pub(crate) rule: String,
    pub(crate) field: String,
    pub(crate) reason: String,
    pub(crate) first: Moment,
    pub(crate) last: Moment,
    /// Where in the source's own log it was last found wanting.
    pub(crate) position: String,
    pub(crate) note: Option<Note>,
}

/// An entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Moment {
    pub(crate) offset: u64,
    /// When it was captured, as in RFC 3339.
    pub(crate) at: String,
}

/// What source rows give.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GivenRows {
    pub(crate) rows: Vec<GivenRow>,
    /// False where there are more.
    pub(crate) complete: bool,
}

/// What a source row gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GivenRow {
    pub(crate) mapping: String,
    pub(crate) table: String,
    pub(crate) source_key: BTreeMap<String, Option<String>>,
    #[serde(flatten)]
    pub(crate) place: Place,
    /// Rows that its mapping joined to it; only told where a canonical row is explained.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) joined: Vec<JoinedRow>,
    /// The canonical row; the last good one where it is held, none where it never was good.
    pub(crate) row: Option<BTreeMap<String, Option<String>>>,
    /// The rule that it breaks.
    pub(crate) rule: Option<String>,
    pub(crate) reason: Option<String>,
}

/// Where a source row is from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// The log entry that made it what it is; of a row that is held, the one of the image that is held.
    pub(crate) entry: u64,
    /// Its position in the source's own log; only told where a canonical row is explained, and the log still holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) position: Option<String>,
    /// When it was committed there, as in RFC 3339; as the position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) committed_at: Option<String>,
}

/// What was looked for in a joined table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JoinedRow {
    pub(crate) table: String,
    /// The columns that were compared.
    pub(crate) wanted: BTreeMap<String, Option<String>>,
    /// True where more than one row has these values, so that none is joined.
    pub(crate) ambiguous: bool,
    /// The row that was found.
    pub(crate) found: Option<FoundRow>,
}

/// A joined row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FoundRow {
    pub(crate) key: BTreeMap<String, Option<String>>,
    #[serde(flatten)]
    pub(crate) place: Place,
    /// Those of its columns that mappings read.
    pub(crate) row: BTreeMap<String, Option<String>>,
}

#[derive(Debug, Deserialize)]
struct Wanted {
    key: Option<String>,
    limit: Option<usize>,
}

#[derive(Debug, Deserialize)]
struct Asked {
    mapping: Option<String>,
    entity: Option<String>,
    rule: Option<String>,
    #[serde(default)]
    all: bool,
    limit: Option<usize>,
}

/// What is said of an exception.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Said {
    pub(crate) state: Verdict,
    #[serde(default)]
    pub(crate) note: String,
}

pub(super) fn routes() -> Router<Arc<Facts>> {
    Router::new()
        .route("/exceptions", get(list))
        .route("/exceptions/{fingerprint}", get(show).post(say))
        .route("/preview/{source}/{mapping}", get(preview))
        .route("/explain/{entity}", get(explain))
        .layer(middleware::from_fn(known_host))
}

/// Scans of state at a time: each may read all of it, beside the fold.
static SCANS: Semaphore = Semaphore::const_new(2);

/// Tells a scan that whoever asked for it has gone.
pub(super) struct Asker(Arc<AtomicBool>);

impl Asker {
    /// With what the scan asks.
    pub(super) fn new() -> (Self, impl Fn() -> bool + Send + 'static) {
        let gone = Arc::new(AtomicBool::new(false));
        (Self(Arc::clone(&gone)), move || !gone.load(Ordering::Acquire))
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Reads state on a thread that may wait for the disk.
async fn answer<T: Serialize + Send + 'static>(
    facts: Arc<Facts>,
    limit: Option<usize>,
    read: impl FnOnce(&Store, &Question<'_>) -> Result<T, Refusal> + Send + 'static,
) -> Response {
    let (asker, wanted) = Asker::new();
    let permit = SCANS.acquire().await;
    let read = tokio::task::spawn_blocking(move || {
        let question = Question { limit: limit.unwrap_or(LIMIT), wanted: &wanted };
        // Held until the scan has ended, also where nobody waits for it any longer.
        let found = read(&facts.store.current(), &question);
        drop(permit);
        found
    })
    .await;
    drop(asker);
    match read {
        Ok(Ok(found)) => fresh([], Json(found)),
        Ok(Err(Refusal::Unknown(reason))) => refused(StatusCode::NOT_FOUND, &reason),
        Ok(Err(Refusal::Asked(reason))) => refused(StatusCode::BAD_REQUEST, &reason),
        Ok(Err(Refusal::State(error))) => refused(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        Err(error) => refused(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

pub(super) fn refused(code: StatusCode, reason: &str) -> Response {
    (code, fresh([], Json(serde_json::json!({ "error": reason })))).into_response()
}

/// Refuses whom a name of his own led here: a page of another site whose name was made to mean this machine would pass for
/// one of ours, and could read rows.
pub(super) async fn known_host(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
    let name = name.map_or(host, |(name, _)| name).trim_start_matches('[').trim_end_matches(']');
    if name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok() {
        return next.run(request).await;
    }
    refused(StatusCode::FORBIDDEN, "rows are shown by address only: ask for this machine's IP or localhost")
}

async fn list(State(facts): State<Arc<Facts>>, Query(asked): Query<Asked>) -> Response {
    let Asked { mapping, entity, rule, all, limit } = asked;
    let filter = Filter { mapping, entity, rule, all, patience: facts.park_ttl };
    answer(facts, limit, move |store, question| {
        let found = rows::exceptions(store, &filter, question)?;
        let exceptions = found.rows.into_iter().map(|(exception, note)| Exception::of(exception, note)).collect();
        Ok(Exceptions { exceptions, complete: found.complete, waiting: found.waiting })
    })
    .await
}

async fn show(State(facts): State<Arc<Facts>>, Path(fingerprint): Path<String>) -> Response {
    answer(facts, None, move |store, _| {
        let (exception, note) = rows::exception(store, &fingerprint)?;
        Ok(Exception::of(exception, note))
    })
    .await
}

async fn say(State(facts): State<Arc<Facts>>, Path(fingerprint): Path<String>, Json(said): Json<Said>) -> Response {
    answer(facts, None, move |store, _| {
        let (exception, note) = rows::note(store, &fingerprint, said.state, said.note)?;
        Ok(Exception::of(exception, Some(note)))
    })
    .await
}

async fn preview(
    State(facts): State<Arc<Facts>>,
    Path((source, mapping)): Path<(String, String)>,
    Query(wanted): Query<Wanted>,
) -> Response {
    answer(facts, wanted.limit, move |store, question| {
        let mapping = format!("{source}/{mapping}");
        let (given, complete) = rows::preview(store, &mapping, wanted.key.as_deref(), question)?;
        Ok(GivenRows { rows: given.into_iter().map(GivenRow::of).collect(), complete })
    })
    .await
}

async fn explain(
    State(facts): State<Arc<Facts>>,
    Path(entity): Path<String>,
    Query(wanted): Query<Wanted>,
) -> Response {
    let log = facts.log.clone();
    answer(facts, wanted.limit, move |store, question| {
        let explained = explain::explain(&log, store, &entity, &wanted.key.unwrap_or_default(), question)?;
        Ok(GivenRows {
            rows: explained.shares.iter().map(|share| explained_row(&explained, share)).collect(),
            complete: explained.complete,
        })
    })
    .await
}

pub(super) fn named(texts: Texts) -> BTreeMap<String, Option<String>> {
    texts.into_iter().collect()
}

impl Exception {
    fn of(held: syncline_transform::fold::Exception, note: Option<Note>) -> Self {
        let moment =
            |seen: syncline_transform::fold::Seen| Moment { offset: seen.offset.0, at: rows::instant(seen.at) };
        let syncline_transform::fold::Exception {
            fingerprint, mapping, entity, rule, field, reason, key, table, ..
        } = held;
        Self {
            fingerprint,
            mapping,
            entity,
            table,
            key: named(key),
            rule,
            field,
            reason,
            first: moment(held.first),
            last: moment(held.last),
            position: held.position,
            note,
        }
    }
}

/// A source row with its position, and with what was joined to it.
fn explained_row(explained: &Explanation, share: &Share) -> GivenRow {
    let joined = share.lookups.iter().map(|Lookup { table, wanted, found }| JoinedRow {
        table: table.clone(),
        wanted: named(wanted.clone()),
        ambiguous: *found == Found::Several,
        found: match found {
            Found::Nothing | Found::Several => None,
            Found::Row(row, values) => Some(FoundRow {
                key: named(row.key.clone()),
                place: Place::of(row, explained.place(row)),
                row: named(values.clone()),
            }),
        },
    });
    let place = Place::of(&share.given.source_row, explained.place(&share.given.source_row));
    GivenRow { place, joined: joined.collect(), ..GivenRow::of(share.given.clone()) }
}

impl Place {
    fn of(row: &SourceRow, known: Option<&Whereabouts>) -> Self {
        let (position, committed_at) =
            known.map(|known| (known.position.clone(), rows::instant(known.committed_at))).unzip();
        Self { entry: row.at.0, position, committed_at }
    }
}

impl GivenRow {
    fn of(given: syncline_transform::fold::Given) -> Self {
        let (rule, reason) = given.held.unzip();
        let SourceRow { source, table, .. } = &given.source_row;
        Self {
            mapping: given.mapping,
            table: format!("{source}.{table}"),
            place: Place::of(&given.source_row, None),
            joined: Vec::new(),
            source_key: named(given.source_row.key),
            row: given.row.map(named),
            rule,
            reason,
        }
    }
}
