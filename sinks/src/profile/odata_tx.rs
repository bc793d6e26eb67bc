//! The dialect of SAP IBP: rows are collected in a transaction over OData v2 and written when it is committed.
//!
//! ```text
//! GET  <service>/                      x-csrf-token: fetch -> token and cookies, kept for a while
//! POST <service>/<set>                 a part: Transactionid, DoCommit false, rows; true with the last
//! GET  <service>/getExportResult       until the transaction has ended
//! GET  <service>/<messages>            where it has not ended well: which rows, and why
//! ```
//!
//! The id of a transaction follows from its rows and their versions. A repeat after a lost answer or a crash is the same
//! transaction, and one that is committed already is not sent again but asked for.
//!
//! A transaction that fails because of rows that its messages name is made again without them; where they name none, it is
//! halved down to the row.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::header::{COOKIE, HeaderMap, HeaderName, HeaderValue, SET_COOKIE};
use reqwest::{Method, StatusCode, Url};
use serde_json::Value;
use syncline_schemas::entity::{Entity, Kind};
use tokio::sync::Mutex;

use super::definition::Flow;
use super::dialect::{self, Voice};
use super::document::{Faults, Table};
use super::sheet::{Row, Sheet};
use super::wire::{self, Item, TOO_LARGE, Wire};
use crate::planning::client::{Reply, Stop};
use crate::planning::contract::word;
use crate::{Known, Recalled, SinkError, Span, Written};

const TOKEN: HeaderName = HeaderName::from_static("x-csrf-token");
/// SAP ends a session after 30 minutes.
const TOKEN_TTL: Duration = Duration::from_secs(1_500);
const EVERY: Duration = Duration::from_secs(10);
const MAX_WAIT: Duration = Duration::from_secs(1_800);
/// Tokens that a request is refused with one after the other.
const TOKENS_MAX: usize = 3;
/// How often it is looked for a transaction whose commit was refused: it may be the repeat of one that was not.
const LOOKS: usize = 3;
/// Messages of a transaction, and pages of them, that are read: more would be of something else.
const MESSAGES_OF_ROW: usize = 4;
const MESSAGES_MIN: usize = 1_000;
const PAGES_MAX: usize = 10_000;
const REFUSED: &str = "refused";

/// Words of a flow.
const ROWS: &str = "rows";
const FIELDS: &str = "fields";
const MESSAGES: &str = "messages";

/// What a profile says about transactions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Transactions {
    service: String,
    token_ttl: Duration,
    /// The function that tells how a transaction stands, and where its answer says so.
    result: String,
    state: String,
    /// States in which it is still worked on, in which all rows are there, and in which those are that no message names.
    running: Vec<String>,
    done: Vec<String>,
    partial: Vec<String>,
    /// States in which nothing of it is there; one that is in none of these lists stops the sink.
    failed: Vec<String>,
    /// JSON pointers: to the messages, to the next page of them, and in one to its word.
    items: String,
    next: String,
    code: String,
    every: Duration,
    max_wait: Duration,
}

impl Transactions {
    pub(super) fn read(root: &mut Table<'_>, faults: &mut Faults) -> Option<Self> {
        let Some(mut table) = root.table("odata", faults) else {
            root.fault(faults, "needs [odata]: the service, and how a transaction is followed");
            return None;
        };
        let service = table.required("service", faults);
        if let Some(text) = service.as_ref().filter(|it| !it.value.starts_with('/') || it.value.ends_with('/')) {
            text.fault(faults, "is no path of a service; it begins with / and does not end with one");
        }
        let mut text = |name: &str, default: &str, faults: &mut Faults| {
            table.text(name, faults).map_or_else(|| default.to_owned(), |text| text.value)
        };
        let [result, state, items, next, code] = [
            ("result", "getExportResult"),
            ("state", "/d/results/0/Value"),
            ("items", "/d/results"),
            ("next", "/d/__next"),
            ("code", "/Message"),
        ]
        .map(|(name, default)| text(name, default, faults));
        let mut words = |name: &str, default: &[&str], faults: &mut Faults| {
            let found = table.texts(name, faults).map(|words| words.value);
            found.unwrap_or_else(|| default.iter().map(|word| (*word).to_owned()).collect())
        };
        let transactions = Self {
            service: service.map(|text| text.value).unwrap_or_default(),
            result,
            state,
            items,
            next,
            code,
            running: words("running", &["PROCESSING", ""], faults),
            done: words("done", &["PROCESSED"], faults),
            partial: words("partial", &["PROCESSED_WITH_ERRORS"], faults),
            failed: words("failed", &["ERROR", "FAILED"], faults),
            token_ttl: table.duration("token_ttl", faults).unwrap_or(TOKEN_TTL),
            every: table.duration("every", faults).unwrap_or(EVERY),
            max_wait: table.duration("max_wait", faults).unwrap_or(MAX_WAIT),
        };
        table.finish(faults);
        Some(transactions)
    }
}

/// Reads what a flow says to this dialect; gives the entity set that takes its parts.
pub(super) fn read_flow(
    table: &mut Table<'_>,
    entity: &Entity,
    words: &mut BTreeMap<&'static str, String>,
    faults: &mut Faults,
) -> Option<String> {
    if entity.kind == Kind::Event {
        table.fault(faults, "is a flow of events; this dialect has rows that replace each other");
    }
    for name in [ROWS, MESSAGES] {
        if let Some(text) = table.required(name, faults) {
            words.insert(name, text.value);
        }
    }
    let fields = table.text(FIELDS, faults).map_or_else(|| "AggregationLevelFieldsString".to_owned(), |it| it.value);
    words.insert(FIELDS, fields);
    dialect::path(table, faults)
}

/// Leave to change something, and who we are to it.
#[derive(Clone)]
struct Session {
    headers: HeaderMap,
    since: Instant,
}

/// How a transaction ended.
enum Ended {
    Done,
    /// Rows that messages name, by their place; whether the others are there; and the word for those of which nothing is known.
    Refused {
        named: BTreeMap<usize, String>,
        others_are_there: bool,
        code: String,
    },
    TooLarge,
}

/// The dialect at work.
pub(super) struct ODataTx {
    wire: Wire,
    says: Transactions,
    pipeline: String,
    session: Mutex<Option<Session>>,
    /// Tells a later attempt with refused rows from the first one.
    salt: String,
}

impl ODataTx {
    pub(super) fn new(wire: Wire, says: Transactions, pipeline: String) -> Self {
        Self { wire, says, pipeline, session: Mutex::new(None), salt: String::new() }
    }

    fn url(&self, below: &str, query: &str) -> Result<Url, SinkError> {
        let mut url = self.wire.url(&format!("{}/{}", self.says.service, below.trim_start_matches('/')))?;
        if !query.is_empty() {
            url.set_query(Some(query));
        }
        Ok(url)
    }

    /// Asks for a token, unless one is at hand.
    async fn session(&self) -> Result<Session, Stop> {
        let mut held = self.session.lock().await;
        if let Some(session) = held.as_ref().filter(|session| session.since.elapsed() < self.says.token_ttl) {
            return Ok(session.clone());
        }
        let url = self.url("", "")?;
        let mut headers = wire::json_headers();
        headers.insert(TOKEN, HeaderValue::from_static("fetch"));
        let reply = self.wire.send(Method::GET, &url, &headers, None, |status| status.is_success()).await?;
        let Some(token) = reply.headers.get(TOKEN).cloned() else {
            return Err(Stop::Failed(wire::lacks(&url, "an x-csrf-token")));
        };
        let cookies: Vec<&str> = reply
            .headers
            .get_all(SET_COOKIE)
            .iter()
            .filter_map(|cookie| cookie.to_str().ok()?.split(';').next())
            .collect();
        let mut headers = wire::json_headers();
        headers.insert(TOKEN, token);
        if let Ok(mut cookies) = HeaderValue::from_str(&cookies.join("; ")) {
            cookies.set_sensitive(true);
            headers.insert(COOKIE, cookies);
        }
        let session = Session { headers, since: Instant::now() };
        *held = Some(session.clone());
        Ok(session)
    }

    /// Posts with a token, and with another where that one has ended.
    async fn post(&self, url: &Url, body: &Bytes) -> Result<Reply, Stop> {
        let takes = |status: StatusCode| status.is_success() || matches!(status.as_u16(), 400 | 403 | 409 | 422);
        for _ in 0..TOKENS_MAX {
            let session = self.session().await?;
            let reply = self.wire.send(Method::POST, url, &session.headers, Some(body.clone()), takes).await?;
            if reply.status != StatusCode::FORBIDDEN {
                return Ok(reply);
            }
            let says = reply.headers.get(TOKEN).and_then(|says| says.to_str().ok());
            if !says.is_some_and(|says| says.eq_ignore_ascii_case("required")) {
                break;
            }
            *self.session.lock().await = None;
        }
        Err(Stop::Failed(SinkError::Refused {
            target: wire::bare(url),
            reason: "answered 403 Forbidden".to_owned(),
            remedy: "check the sink's credentials and what they may write".to_owned(),
        }))
    }

    /// How a transaction stands; nothing of one that is not known.
    async fn state(&self, id: &str) -> Result<Option<String>, Stop> {
        let url = self.url(&self.says.result, &format!("P_TransactionID=%27{id}%27&$format=json"))?;
        let takes = |status: StatusCode| status.is_success() || matches!(status.as_u16(), 400 | 404);
        let reply = self.wire.send(Method::GET, &url, &wire::json_headers(), None, takes).await?;
        if !reply.status.is_success() {
            return Ok(None);
        }
        let answer = serde_json::from_slice::<Value>(&reply.body).unwrap_or_default();
        Ok(answer.pointer(&self.says.state).and_then(Value::as_str).map(str::to_owned))
    }

    /// Sends a transaction and waits for its end.
    async fn transact(&self, sheet: &Sheet<'_>, items: &[&Item]) -> Result<Ended, Stop> {
        let id = wire::batch_id(&format!("{}{}", self.pipeline, self.salt), sheet, items);
        let id = id.simple().to_string().to_uppercase();
        let url = self.url(&sheet.flow.path, "")?;
        let parts = wire::cut(items, sheet.flow.max_records, sheet.flow.max_bytes);
        let names: Vec<&str> = sheet.flow.members.iter().map(|member| member.name.as_str()).collect();
        let word = |name: &str| sheet.flow.words.get(name).map_or("", String::as_str);
        for (part, rows) in (1..).zip(&parts) {
            let head = serde_json::json!({
                "Transactionid": id,
                word(FIELDS): names.join(","),
                "DoCommit": part == parts.len(),
            });
            let head = head.to_string();
            let rows = [format!(",\"{}\":", word(ROWS)).into_bytes(), wire::array(rows), b"}".to_vec()].concat();
            let body = Bytes::from([&head.as_bytes()[..head.len() - 1], &rows].concat());
            let reply = match self.post(&url, &body).await {
                Err(Stop::TooLarge(_)) => return Ok(Ended::TooLarge),
                reply => reply?,
            };
            if !reply.status.is_success() {
                // What an earlier attempt has committed takes no more parts, and need not.
                if self.is_known(&id, part == parts.len()).await? {
                    break;
                }
                let code = REFUSED.to_owned();
                return Ok(Ended::Refused { named: BTreeMap::new(), others_are_there: false, code });
            }
        }
        self.follow(sheet, &id, items).await
    }

    /// True where a transaction is worked on that takes no more parts. Behind a commit that may take a while to be seen.
    async fn is_known(&self, id: &str, was_commit: bool) -> Result<bool, Stop> {
        for attempt in 0..if was_commit { LOOKS } else { 1 } {
            if attempt > 0 {
                tokio::time::sleep(self.says.every).await;
            }
            if self.state(id).await?.is_some_and(|state| !state.is_empty()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn follow(&self, sheet: &Sheet<'_>, id: &str, items: &[&Item]) -> Result<Ended, Stop> {
        let began = Instant::now();
        let state = loop {
            match self.state(id).await? {
                Some(state) if !self.says.running.contains(&state) => break state,
                _ if began.elapsed() >= self.says.max_wait => {
                    let (target, reason) = (self.url(&self.says.result, "")?, "still works on a transaction");
                    let (target, reason) = (wire::bare(&target), reason.to_owned());
                    return Err(SinkError::Unavailable { target, reason }.into());
                }
                _ => tokio::time::sleep(self.says.every).await,
            }
        };
        if self.says.done.contains(&state) {
            return Ok(Ended::Done);
        }
        let is_partial = self.says.partial.contains(&state);
        if !is_partial && !self.says.failed.contains(&state) {
            return Err(Stop::Failed(SinkError::Refused {
                target: wire::bare(&self.url(&self.says.result, "")?),
                reason: format!("ended a transaction as {:?}, which the profile does not know", word(&state)),
                remedy: "say in [odata] of the profile whether that is done, partial, failed or running".to_owned(),
            }));
        }
        let (places, mut named, mut all_matched) = (places(items), BTreeMap::new(), true);
        for message in self.messages(sheet, id, items.len()).await? {
            let code = message.pointer(&self.says.code).and_then(Value::as_str).map(word);
            let code = code.filter(|code| !code.is_empty()).unwrap_or_else(|| REFUSED.to_owned());
            match key_of(&message, sheet).and_then(|key| places.get(&key)) {
                Some(at) => drop(named.insert(*at, code)),
                None => all_matched = false,
            }
        }
        Ok(Ended::Refused { named, others_are_there: is_partial && all_matched, code: word(&state) })
    }

    /// All messages of a transaction, page by page.
    async fn messages(&self, sheet: &Sheet<'_>, id: &str, rows: usize) -> Result<Vec<Value>, Stop> {
        let set = sheet.flow.words.get(MESSAGES).map_or("", String::as_str);
        let first = self.url(set, &format!("$filter=Transactionid%20eq%20%27{id}%27&$format=json"))?;
        let (headers, mut url, mut messages) = (wire::json_headers(), first.clone(), Vec::new());
        let most = rows.saturating_mul(MESSAGES_OF_ROW).saturating_add(MESSAGES_MIN);
        for _ in 0..PAGES_MAX {
            let reply = self.wire.send(Method::GET, &url, &headers, None, |status| status.is_success()).await?;
            let mut answer = serde_json::from_slice::<Value>(&reply.body).unwrap_or_default();
            if let Some(Value::Array(page)) = answer.pointer_mut(&self.says.items) {
                messages.append(page);
            }
            let next = answer.pointer(&self.says.next).and_then(Value::as_str).filter(|next| !next.is_empty());
            let Some(next) = next else { return Ok(messages) };
            if messages.len() > most {
                break;
            }
            // Whoever is elsewhere would be shown who we are.
            let next = url.join(next).ok().filter(|next| next.origin() == first.origin() && *next != url);
            url = next.ok_or_else(|| Stop::Failed(wire::lacks(&first, "a next page of its own")))?;
        }
        Err(Stop::Failed(wire::lacks(&first, "an end to its messages")))
    }

    async fn converge(&self, sheet: &Sheet<'_>, items: &[Item]) -> Result<Written, Stop> {
        let mut written = Written::default();
        let mut open: Vec<Vec<&Item>> = vec![items.iter().collect()];
        while let Some(items) = open.pop() {
            let [first, rest @ ..] = items.as_slice() else { continue };
            let bytes = |items: &[&Item]| items.iter().map(|item| item.json.len()).sum();
            match self.transact(sheet, &items).await? {
                Ended::Done => written.absorb(self.wire.book(sheet, items.len(), bytes(&items))),
                Ended::Refused { named, others_are_there, .. } if !named.is_empty() => {
                    let mut others = Vec::new();
                    for (at, item) in items.iter().enumerate() {
                        match named.get(&at) {
                            Some(code) => written.absorb(self.wire.refuse(sheet, &item.row, code, None, false)?),
                            None => others.push(*item),
                        }
                    }
                    if others_are_there {
                        written.absorb(self.wire.book(sheet, others.len(), bytes(&others)));
                    } else {
                        open.push(others);
                    }
                }
                Ended::Refused { code, .. } if rest.is_empty() => {
                    written.absorb(self.wire.refuse_alone(sheet, &first.row, &code)?);
                }
                Ended::TooLarge if rest.is_empty() => {
                    written.absorb(self.wire.refuse(sheet, &first.row, TOO_LARGE, None, true)?);
                }
                Ended::Refused { .. } | Ended::TooLarge => {
                    let (left, right) = items.split_at(items.len() / 2);
                    open.extend([right.to_vec(), left.to_vec()]);
                }
            }
        }
        Ok(written)
    }
}

/// The places of rows by their keys, in a form in which the key that a message repeats is looked up.
fn places(items: &[&Item]) -> HashMap<String, usize> {
    let key = |item: &&Item| serde_json::from_str::<Value>(&item.row.key).unwrap_or_default().to_string();
    items.iter().enumerate().map(|(at, item)| (key(item), at)).collect()
}

/// The key that a message repeats, where it does so as a whole.
fn key_of(message: &Value, sheet: &Sheet<'_>) -> Option<String> {
    let names = sheet.flow.key.iter().map(|member| &sheet.flow.members[*member].name);
    let members = names.map(|name| Some((name.clone(), message.get(name)?.clone())));
    Some(Value::Object(members.collect::<Option<_>>()?).to_string())
}

#[async_trait]
impl Voice for ODataTx {
    async fn recall(&mut self, _: &Known) -> Result<Recalled, SinkError> {
        Ok(Recalled::Unknown)
    }

    async fn begin(&mut self, _: Span, again: bool) -> Result<(), SinkError> {
        self.salt = if again { wire::salt() } else { String::new() };
        Ok(())
    }

    async fn deliver(&mut self, sheet: &Sheet<'_>, lanes: Vec<Vec<Row>>) -> Result<Written, SinkError> {
        let mut rows: Vec<Row> = lanes.into_iter().flatten().collect();
        rows.sort_by_key(|row| row.version);
        let items: Vec<Item> = rows.into_iter().map(|row| Item { json: sheet.json(&row), row }).collect();
        self.converge(sheet, &items).await.map_err(Stop::into_error)
    }

    async fn end(&mut self) -> Result<Written, SinkError> {
        Ok(Written::default())
    }

    async fn check(&self, _: &[Flow]) -> Result<(), SinkError> {
        self.session().await.map(drop).map_err(Stop::into_error)
    }
}
