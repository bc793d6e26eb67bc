//! Requests of a profile: the planning sink's client (turn, proof, retries, verdicts), and what batches of rows share.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode, Url};
use uuid::Uuid;

use super::sheet::{Row, Sheet};
use crate::SinkError;
use crate::planning::client::{Client, Reply, Stop, Takes};
use crate::planning::contract::sha256;
use crate::planning::{PlanningConfig, PlanningStats};

/// Our word for a row that the target answers with 413 although it travels alone.
pub(super) const TOO_LARGE: &str = "payload_too_large";

/// Rows of a flow that are refused alone, one after the other and without one that is taken, until that is a fault of all.
const ALONE_MAX: usize = 20;

/// What to do about an answer that the profile does not expect.
const REMEDY: &str = "check the sink's url, and the dialect and the paths of its profile";

/// A row ready to be sent.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) row: Row,
    pub(super) json: Vec<u8>,
}

/// The way to one target.
pub(super) struct Wire {
    client: Client,
    /// As it is set, which is where a webhook listens; paths go below it.
    whole: Url,
    base: String,
    stats: Arc<PlanningStats>,
    /// By flow: keys of rows that were refused alone and without a word on why, since rows of it were last taken.
    alone: Mutex<HashMap<&'static str, HashSet<String>>>,
}

impl Wire {
    pub(super) fn new(config: PlanningConfig, stats: Arc<PlanningStats>) -> Result<Self, SinkError> {
        let base = config.url.as_str().trim_end_matches('/').to_owned();
        let whole = config.url.clone();
        Ok(Self { client: Client::new(config)?, whole, base, stats, alone: Mutex::default() })
    }

    /// The URL of a path of the profile, which begins with `/`.
    ///
    /// # Errors
    /// [`SinkError::Setting`] where they make no URL.
    pub(super) fn url(&self, path: &str) -> Result<Url, SinkError> {
        if path.is_empty() {
            return Ok(self.whole.clone());
        }
        Url::parse(&format!("{}{path}", self.base)).map_err(|error| SinkError::Setting {
            setting: "url",
            reason: format!("{path} below it is no url: {error}"),
        })
    }

    /// Sends a request until it is answered for good; the answer has one of the statuses that are taken.
    ///
    /// # Errors
    /// [`Stop::TooLarge`] where less has to be sent, otherwise [`Stop::Failed`].
    pub(super) async fn send(
        &self,
        method: Method,
        url: &Url,
        headers: &HeaderMap,
        body: Option<Bytes>,
        takes: Takes,
    ) -> Result<Reply, Stop> {
        self.exchange(method, (url, &without_query(url)), headers, body, takes).await
    }

    /// As [`Self::send`], of one row whose URL holds its key: errors and log lines have the label in its place.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub(super) async fn ask_row(&self, method: Method, url: &Url, label: &Url, takes: Takes) -> Result<Reply, Stop> {
        self.exchange(method, (url, label), &json_headers(), None, takes).await
    }

    async fn exchange(
        &self,
        method: Method,
        (url, label): (&Url, &Url),
        headers: &HeaderMap,
        body: Option<Bytes>,
        takes: Takes,
    ) -> Result<Reply, Stop> {
        let request = || {
            let request = self.client.http().request(method.clone(), url.clone()).headers(headers.clone());
            match &body {
                Some(body) => request.body(body.clone()),
                None => request,
            }
        };
        self.client.call(label, &self.stats, request, takes).await.map_err(|stop| match stop {
            Stop::TooLarge(error) => Stop::TooLarge(error),
            Stop::Failed(error) | Stop::Gone(error) | Stop::Refused(error, _) => Stop::Failed(reworded(error)),
            Stop::Rewind => Stop::Failed(unexpected(label, StatusCode::CONFLICT)),
        })
    }

    /// Books rows that the target has taken.
    pub(super) fn book(&self, sheet: &Sheet<'_>, rows: usize, bytes: usize) -> crate::Written {
        if rows > 0 {
            self.alone().remove(sheet.entity.name.as_str());
        }
        let (rows, bytes) = (rows as u64, bytes as u64);
        self.stats.rows(rows);
        self.stats.bytes(bytes);
        crate::Written { rows, bytes, ..crate::Written::default() }
    }

    fn alone(&self) -> MutexGuard<'_, HashMap<&'static str, HashSet<String>>> {
        self.alone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells one row as refused that the target does not take by itself and does not say why.
    ///
    /// # Errors
    /// [`SinkError::Refused`] after too many of them, and none that was taken: then it is not about single rows.
    pub(super) fn refuse_alone(&self, sheet: &Sheet<'_>, row: &Row, code: &str) -> Result<crate::Written, SinkError> {
        let mut alone = self.alone();
        let keys = alone.entry(sheet.entity.name.as_str()).or_default();
        if keys.len() >= ALONE_MAX && !keys.contains(&row.key) {
            return Err(SinkError::Refused {
                target: bare(&self.url(&sheet.flow.path)?),
                reason: format!("refused {ALONE_MAX} rows of {} one by one, {code}, and took none", sheet.entity.name),
                remedy: "compare the flow in the profile with what the platform takes there, and look into its own log"
                    .to_owned(),
            });
        }
        keys.insert(row.key.clone());
        drop(alone);
        self.refuse(sheet, row, code, None, false)
    }

    /// Tells one row as refused.
    ///
    /// # Errors
    /// [`SinkError::Outbox`] where it cannot be written down.
    pub(super) fn refuse(
        &self,
        sheet: &Sheet<'_>,
        row: &Row,
        code: &str,
        member: Option<usize>,
        retryable: bool,
    ) -> Result<crate::Written, SinkError> {
        sheet.told.refused(vec![sheet.reject(row, code, member, retryable)])?;
        self.stats.rejected(1);
        Ok(crate::Written { rejected: 1, ..crate::Written::default() })
    }
}

/// The client speaks of PDX/1 where an answer makes no sense to it.
fn reworded(error: SinkError) -> SinkError {
    match error {
        SinkError::Refused { target, reason, remedy } if remedy.contains("PDX/1") => {
            SinkError::Refused { target, reason, remedy: REMEDY.to_owned() }
        }
        other => other,
    }
}

/// The error of an answer that the profile does not expect.
pub(super) fn unexpected(url: &Url, status: StatusCode) -> SinkError {
    SinkError::Refused {
        target: bare(url),
        reason: format!("answered {status}, which this dialect does not know"),
        remedy: REMEDY.to_owned(),
    }
}

/// The error of an answer that lacks what the profile looks for in it.
pub(super) fn lacks(url: &Url, what: &str) -> SinkError {
    SinkError::Refused {
        target: bare(url),
        reason: format!("gave an answer without {what}"),
        remedy: REMEDY.to_owned(),
    }
}

/// A URL without what a query may hold of a row.
pub(super) fn bare(url: &Url) -> String {
    without_query(url).to_string()
}

fn without_query(url: &Url) -> Url {
    let mut url = url.clone();
    url.set_query(None);
    url
}

/// What parts of a delivery did together.
pub(super) fn sum(parts: Vec<crate::Written>) -> crate::Written {
    parts.into_iter().fold(crate::Written::default(), |mut sum, part| {
        sum.absorb(part);
        sum
    })
}

/// The headers of a JSON body.
pub(super) fn json_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    let json = reqwest::header::HeaderValue::from_static("application/json");
    headers.insert(reqwest::header::CONTENT_TYPE, json.clone());
    headers.insert(reqwest::header::ACCEPT, json);
    headers
}

/// Cuts rows into batches: in their order, within the limits, at least one row each, and no key twice in one.
pub(super) fn cut<'i>(items: &'i [&'i Item], max_records: usize, max_bytes: usize) -> Vec<&'i [&'i Item]> {
    let (mut batches, mut begin, mut bytes) = (Vec::new(), 0, 0);
    let mut keys: HashSet<&str> = HashSet::new();
    for (at, item) in items.iter().enumerate() {
        let is_full = at - begin >= max_records || bytes + item.json.len() > max_bytes;
        if at > begin && (is_full || keys.contains(item.row.key.as_str())) {
            batches.push(&items[begin..at]);
            (begin, bytes) = (at, 0);
            keys.clear();
        }
        keys.insert(&item.row.key);
        // And a comma.
        bytes += item.json.len() + 1;
    }
    if begin < items.len() {
        batches.push(&items[begin..]);
    }
    batches
}

/// The id of rows that travel together: the same for the same rows in the same versions, whoever sends them again. Without the
/// versions a value that comes back to what it was would look like a repeat of the first time.
pub(super) fn batch_id(pipeline: &str, sheet: &Sheet<'_>, items: &[&Item]) -> Uuid {
    let mut name = format!("{pipeline}\n{}\n", sheet.entity.name).into_bytes();
    for item in items {
        name.extend_from_slice(item.row.version.as_bytes());
        name.extend_from_slice(&item.json);
    }
    Uuid::new_v5(&Uuid::NAMESPACE_OID, &sha256(&name))
}

/// Tells a later attempt with refused rows from the one that was refused: it is no repeat.
pub(super) fn salt() -> String {
    format!("\nagain {}", Uuid::new_v4())
}

/// `[row, row]`.
pub(super) fn array(items: &[&Item]) -> Vec<u8> {
    let mut out = Vec::with_capacity(items.iter().map(|item| item.json.len() + 1).sum::<usize>() + 2);
    out.push(b'[');
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend_from_slice(&item.json);
    }
    out.push(b']');
    out
}
