//! The dialect of platforms that accept a batch and tell later what was wrong with it (RELEX).
//!
//! `POST` is an idempotent upsert that is answered before anything was looked at. So a batch is followed: its errors are read,
//! all pages, until they have not changed for some polls, and only then it counts as delivered. What such a platform finds
//! even later nobody can know; that is why the number of polls is the profile's.
//!
//! The id of a batch follows from its rows and their versions, so that a repeat is known as one. Its timestamp follows from their versions: it
//! never falls, also not after the state was rebuilt.
//!
//! An error that names no row has its batch halved and sent again, which an upsert allows, until the row is alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::try_join_all;
use reqwest::{Method, StatusCode, Url};
use serde_json::Value;
use syncline_schemas::entity::{Entity, Kind};
use syncline_schemas::ident::Version;
use uuid::Uuid;

use super::definition::Flow;
use super::dialect::{self, Voice};
use super::document::{Faults, Table};
use super::sheet::{Row, Sheet};
use super::wire::{self, Item, TOO_LARGE, Wire};
use crate::planning::client::{Stop, Takes};
use crate::planning::contract::word;
use crate::{Known, Recalled, SinkError, Span, Written};

/// Polls without a change after which a batch is settled, where the profile does not say.
const SETTLE_POLLS: usize = 3;
/// From one poll to the next.
const EVERY: Duration = Duration::from_secs(15);
/// After so long a batch whose errors still change, or are more than pages can show, is given back to the pump.
const SETTLE_MAX: Duration = Duration::from_secs(1_800);
/// Batches that are asked for at the same time.
const SETTLE_AT_ONCE: usize = 4;
/// Polls in which a request that was accepted may not be known yet.
const UNKNOWN_MAX: u32 = 20;
/// Pages of errors that a batch has at most where it is small, and errors of each row of a larger one, were each a page.
const PAGES_MIN: usize = 1_000;
const ERRORS_OF_ROW: usize = 4;
/// Steps of a timestamp from one epoch to the next.
const EPOCH_STEP: u64 = 1_000_000;
/// The highest whole number that every reader of JSON keeps.
const STAMP_MAX: u64 = (1 << 53) - 1;
/// Our word for a row that is refused without one.
const REFUSED: &str = "refused";

/// How a profile says that a batch is confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Confirm {
    /// Where errors are read.
    path: String,
    /// The query parameter that takes the id of the request, and where the answer to a batch holds it.
    parameter: String,
    request_id: String,
    /// JSON pointers: to the errors in a page, to the next page, and in an error to the place of its row, its word, its field.
    items: String,
    next: String,
    index: String,
    code: String,
    field: String,
    /// Words of errors that a later attempt can be without.
    retryable: BTreeSet<String>,
    settle_polls: usize,
    every: Duration,
}

impl Confirm {
    pub(super) fn read(root: &mut Table<'_>, faults: &mut Faults) -> Option<Self> {
        let Some(mut table) = root.table("confirm", faults) else {
            root.fault(faults, "needs [confirm]: where the platform tells what became of a batch");
            return None;
        };
        let mut pointer = |name: &str, default: &str, faults: &mut Faults| {
            let Some(text) = table.text(name, faults) else { return default.to_owned() };
            if !text.value.starts_with('/') {
                text.fault(faults, "is no JSON pointer, as /errors/0 is one");
            }
            text.value
        };
        let [request_id, items, next, index, code, field] = [
            ("request_id", "/request_id"),
            ("items", "/errors"),
            ("next", "/next"),
            ("index", "/index"),
            ("code", "/code"),
            ("field", "/field"),
        ]
        .map(|(name, default)| pointer(name, default, faults));
        let path = dialect::path(&mut table, faults);
        let confirm = Self {
            path: path.unwrap_or_default(),
            parameter: table.text("parameter", faults).map_or_else(|| "request_id".to_owned(), |text| text.value),
            request_id,
            items,
            next,
            index,
            code,
            field,
            retryable: table.texts("retryable", faults).map(|words| words.value).into_iter().flatten().collect(),
            settle_polls: table.count("settle_polls", faults).unwrap_or(SETTLE_POLLS),
            every: table.duration("every", faults).unwrap_or(EVERY),
        };
        table.finish(faults);
        Some(confirm)
    }
}

/// Reads what a flow says to this dialect; gives where its rows go.
pub(super) fn read_flow(
    table: &mut Table<'_>,
    entity: &Entity,
    _: &mut BTreeMap<&'static str, String>,
    faults: &mut Faults,
) -> Option<String> {
    if entity.kind == Kind::Event {
        table.fault(faults, "is a flow of events; this dialect has rows that replace each other");
    }
    dialect::path(table, faults)
}

/// An error that the platform tells.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Told {
    /// The place of its row in the batch.
    index: Option<usize>,
    code: String,
    field: Option<String>,
}

enum Posted {
    Accepted(String),
    /// Not in this size or not with all of these rows.
    Refused {
        code: String,
        retryable: bool,
    },
}

/// The dialect at work.
pub(super) struct AcceptErrors {
    wire: Wire,
    confirm: Confirm,
    pipeline: String,
    /// Tells a later attempt with refused rows from the first one.
    salt: String,
}

impl AcceptErrors {
    pub(super) const fn new(wire: Wire, confirm: Confirm, pipeline: String) -> Self {
        Self { wire, confirm, pipeline, salt: String::new() }
    }

    async fn converge(&self, sheet: &Sheet<'_>, items: &[Item]) -> Result<Written, Stop> {
        let all: Vec<&Item> = items.iter().collect();
        let batches = wire::cut(&all, sheet.flow.max_records, sheet.flow.max_bytes);
        let mut open: Vec<Vec<&Item>> = batches.into_iter().map(<[&Item]>::to_vec).collect();
        let mut written = Written::default();
        while !open.is_empty() {
            let (mut accepted, mut next) = (Vec::new(), Vec::new());
            for batch in open {
                match self.post(sheet, &batch).await? {
                    Posted::Accepted(id) => accepted.push((batch, id)),
                    Posted::Refused { code, retryable } => {
                        written.absorb(self.halve(sheet, batch, &code, retryable, &mut next)?);
                    }
                }
            }
            let pages = PAGES_MIN.max(sheet.flow.max_records.saturating_mul(ERRORS_OF_ROW));
            let mut settled = Vec::with_capacity(accepted.len());
            for few in accepted.chunks(SETTLE_AT_ONCE) {
                settled.extend(try_join_all(few.iter().map(|(_, id)| self.settle(id, pages))).await?);
            }
            for ((batch, _), errors) in accepted.into_iter().zip(settled) {
                written.absorb(self.account(sheet, batch, &errors, &mut next)?);
            }
            open = next;
        }
        Ok(written)
    }

    async fn post(&self, sheet: &Sheet<'_>, batch: &[&Item]) -> Result<Posted, Stop> {
        let url = self.wire.url(&sheet.flow.path)?;
        let data = wire::array(batch);
        let id = wire::batch_id(&format!("{}{}", self.pipeline, self.salt), sheet, batch);
        let head = format!("{{\"meta\":{{\"batch_id\":\"{id}\",\"timestamp\":{}}},\"data\":", timestamp(batch));
        let body = Bytes::from([head.as_bytes(), &data, b"}"].concat());
        let takes = |status: StatusCode| status.is_success() || matches!(status.as_u16(), 400 | 422);
        let reply = match self.wire.send(Method::POST, &url, &wire::json_headers(), Some(body), takes).await {
            Err(Stop::TooLarge(_)) => return Ok(Posted::Refused { code: TOO_LARGE.to_owned(), retryable: true }),
            reply => reply?,
        };
        if !reply.status.is_success() {
            return Ok(Posted::Refused { code: REFUSED.to_owned(), retryable: false });
        }
        let answer = serde_json::from_slice::<Value>(&reply.body).unwrap_or_default();
        match answer.pointer(&self.confirm.request_id) {
            Some(Value::String(id)) => Ok(Posted::Accepted(id.clone())),
            Some(Value::Number(id)) => Ok(Posted::Accepted(id.to_string())),
            _ => Err(Stop::Failed(wire::lacks(&url, &format!("an id at {}", self.confirm.request_id)))),
        }
    }

    /// Two halves of a batch, or the row that it is.
    fn halve<'i>(
        &self,
        sheet: &Sheet<'_>,
        batch: Vec<&'i Item>,
        code: &str,
        retryable: bool,
        next: &mut Vec<Vec<&'i Item>>,
    ) -> Result<Written, SinkError> {
        if let [only] = batch[..] {
            return match retryable {
                true => self.wire.refuse(sheet, &only.row, code, None, true),
                false => self.wire.refuse_alone(sheet, &only.row, code),
            };
        }
        let (left, right) = batch.split_at(batch.len() / 2);
        next.extend([left.to_vec(), right.to_vec()]);
        Ok(Written::default())
    }

    /// Reads the errors of a request until they rest.
    async fn settle(&self, id: &str, pages: usize) -> Result<Vec<Told>, Stop> {
        let mut url = self.wire.url(&self.confirm.path)?;
        url.query_pairs_mut().append_pair(&self.confirm.parameter, id);
        let mut last = self.first_errors(&url, pages).await?;
        let mut changing_since = Instant::now();
        let mut unchanged = 0;
        while unchanged < self.confirm.settle_polls {
            if changing_since.elapsed() >= SETTLE_MAX.max(self.confirm.every * 20) {
                let reason = "the errors of a batch still change".to_owned();
                return Err(SinkError::Unavailable { target: wire::bare(&url), reason }.into());
            }
            tokio::time::sleep(self.confirm.every).await;
            let errors = self.errors(&url, pages, |it| it.is_success()).await?.unwrap_or_default();
            if errors == last {
                unchanged += 1;
                changing_since = Instant::now();
            } else {
                unchanged = 0;
            }
            last = errors;
        }
        Ok(last)
    }

    /// The errors of a request as soon as it is known, which can be later than it was accepted.
    async fn first_errors(&self, url: &Url, pages: usize) -> Result<Vec<Told>, Stop> {
        let takes = |status: StatusCode| status.is_success() || matches!(status.as_u16(), 400 | 404);
        for _ in 0..UNKNOWN_MAX {
            if let Some(errors) = self.errors(url, pages, takes).await? {
                return Ok(errors);
            }
            tokio::time::sleep(self.confirm.every).await;
        }
        let reason = "does not know of a batch that it accepted; see that the path of confirm is right".to_owned();
        Err(SinkError::Unavailable { target: wire::bare(url), reason }.into())
    }

    /// All pages of the errors of a request, in an order of their own; none of one that is not known.
    async fn errors(&self, first: &Url, pages: usize, takes: Takes) -> Result<Option<Vec<Told>>, Stop> {
        let mut told = BTreeSet::new();
        let mut url = first.clone();
        for _ in 0..pages {
            let reply = self.wire.send(Method::GET, &url, &wire::json_headers(), None, takes).await?;
            if !reply.status.is_success() {
                return Ok(None);
            }
            let page = serde_json::from_slice::<Value>(&reply.body).unwrap_or_default();
            let Some(items) = page.pointer(&self.confirm.items).and_then(Value::as_array) else {
                return Err(Stop::Failed(wire::lacks(&url, &format!("a list at {}", self.confirm.items))));
            };
            told.extend(items.iter().map(|item| self.told(item)));
            let next = page.pointer(&self.confirm.next).and_then(Value::as_str).filter(|next| !next.is_empty());
            let Some(next) = next else { return Ok(Some(told.into_iter().collect())) };
            // Whoever is elsewhere would be shown who we are.
            let next = first.join(next).ok().filter(|next| next.origin() == first.origin() && *next != url);
            url = next.ok_or_else(|| Stop::Failed(wire::lacks(first, "a next page of its own")))?;
        }
        Err(Stop::Failed(wire::lacks(first, "an end to its pages")))
    }

    fn told(&self, item: &Value) -> Told {
        let text = |pointer: &str| item.pointer(pointer).and_then(Value::as_str).map(word).filter(|it| !it.is_empty());
        let index = item.pointer(&self.confirm.index);
        Told {
            index: index.and_then(Value::as_u64).and_then(|index| usize::try_from(index).ok()),
            code: text(&self.confirm.code).unwrap_or_else(|| REFUSED.to_owned()),
            field: text(&self.confirm.field),
        }
    }

    /// Books a settled batch: rows with errors are refused, errors without a row have it halved.
    fn account<'i>(
        &self,
        sheet: &Sheet<'_>,
        batch: Vec<&'i Item>,
        errors: &[Told],
        next: &mut Vec<Vec<&'i Item>>,
    ) -> Result<Written, SinkError> {
        let mut bad: BTreeMap<usize, &Told> = BTreeMap::new();
        for error in errors {
            match error.index.filter(|index| *index < batch.len()) {
                Some(index) => {
                    bad.entry(index).or_insert(error);
                }
                None => {
                    let retryable = self.confirm.retryable.contains(&error.code);
                    return self.halve(sheet, batch, &error.code, retryable, next);
                }
            }
        }
        let bytes = batch.iter().map(|item| item.json.len()).sum();
        let mut written = self.wire.book(sheet, batch.len() - bad.len(), bytes);
        for (index, error) in bad {
            let member = error.field.as_ref().and_then(|field| sheet.member(field));
            let retryable = self.confirm.retryable.contains(&error.code);
            written.absorb(self.wire.refuse(sheet, &batch[index].row, &error.code, member, retryable)?);
        }
        Ok(written)
    }
}

/// Rises with the versions of rows: the epoch, which is the second in which the state was made, in millionths, and the log's offset.
/// No log grows by a million entries a second, so a later epoch is always higher. Below 2^53, which every reader of JSON keeps.
fn timestamp(batch: &[&Item]) -> u64 {
    batch.iter().map(|item| item.row.version).max().map_or(0, stamp)
}

fn stamp(version: Version) -> u64 {
    (u64::from(version.epoch()) * EPOCH_STEP).saturating_add(version.offset().0).min(STAMP_MAX)
}

#[async_trait]
impl Voice for AcceptErrors {
    async fn recall(&mut self, _: &Known) -> Result<Recalled, SinkError> {
        Ok(Recalled::Unknown)
    }

    async fn begin(&mut self, _: Span, again: bool) -> Result<(), SinkError> {
        self.salt = if again { wire::salt() } else { String::new() };
        Ok(())
    }

    async fn deliver(&mut self, sheet: &Sheet<'_>, lanes: Vec<Vec<Row>>) -> Result<Written, SinkError> {
        // One after the other: such platforms bear few requests, and full batches are fewer.
        let mut rows: Vec<Row> = lanes.into_iter().flatten().collect();
        rows.sort_by_key(|row| row.version);
        let items: Vec<Item> = rows.into_iter().map(|row| Item { json: sheet.json(&row), row }).collect();
        self.converge(sheet, &items).await.map_err(Stop::into_error)
    }

    async fn end(&mut self) -> Result<Written, SinkError> {
        Ok(Written::default())
    }

    async fn check(&self, _: &[Flow]) -> Result<(), SinkError> {
        let mut url = self.wire.url(&self.confirm.path)?;
        // Of a request that nobody made; that there is none may be told in several ways.
        url.query_pairs_mut().append_pair(&self.confirm.parameter, &Uuid::nil().to_string());
        let takes = |status: StatusCode| status.is_success() || matches!(status.as_u16(), 400 | 422);
        self.wire.send(Method::GET, &url, &wire::json_headers(), None, takes).await.map(drop).map_err(Stop::into_error)
    }
}

#[cfg(test)]
mod tests {
    use syncline_schemas::ident::LogOffset;

    use super::*;

    #[test]
    fn a_timestamp_never_falls_also_after_the_state_was_made_anew() {
        let stamp = |epoch, offset| stamp(Version::new(epoch, LogOffset(offset), 7));
        // Epochs are seconds: of 2026-05-26, and an hour later.
        assert_eq!(stamp(1_779_789_601, 42), 1_779_789_601_000_042);
        assert!(stamp(1_779_789_601, 43) > stamp(1_779_789_601, 42));
        assert!(stamp(1_779_793_201, 1) > stamp(1_779_789_601, 3_000_000_000));
        assert!(stamp(u32::MAX, 1 << 50) < 1 << 53);
    }
}
