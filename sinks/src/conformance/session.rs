//! What the checks of one entity share: where our partition is, what we have written, and how to look at it.
//!
//! Nothing here can disturb a pipeline. All batches go into [`PARTITION`], which no sink can be set to use. Their epoch is
//! [`EPOCH`], and so is that of all versions: a pipeline's epoch is the time at which its state began, in seconds, so ours
//! is below any of them, can fence none, and a sweep up to a cut of ours reaches no row of theirs.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use reqwest::Method;
use serde::Deserialize;
use serde_json::Value;
use syncline_schemas::entity::Entity;
use syncline_schemas::ident::{LogOffset, Version};
use uuid::Uuid;

use super::report::{Stop, fail, skip};
use super::rows::{self, Head, Maker, Op, Row};
use super::wire::{Reply, Wire, read, told};
use crate::SinkError;
use crate::planning::contract::{self, FlowLimits, Receipt, Watermark};
use crate::planning::digest::bucket_of_json;
use crate::planning::{Compression, Format};

/// Our partition: sinks have at most 1,024.
pub(super) const PARTITION: u32 = 65_535;
/// Our epoch; the one below it is there to be refused.
pub(super) const EPOCH: u32 = 1;
/// Who we say we are.
pub(super) const SOURCE: &str = "syncline-verify";

/// A batch, ready to be sent as often as wanted.
#[derive(Clone)]
pub(super) struct Delivery {
    pub(super) key: String,
    pub(super) id: String,
    pub(super) epoch: u32,
    pub(super) batch: u64,
    pub(super) media_type: String,
    pub(super) schema: String,
    pub(super) encoding: Option<&'static str>,
    /// Of other bytes where the digest is to be wrong.
    pub(super) digest: String,
    pub(super) body: Bytes,
    /// What it is, for messages.
    pub(super) told: String,
}

/// The checks of one entity under way.
pub(super) struct Session<'w> {
    pub(super) wire: &'w mut Wire,
    pub(super) maker: Maker,
    pub(super) limits: FlowLimits,
    pub(super) content_types: Option<Vec<String>>,
    pub(super) encodings: Option<Vec<String>>,
    /// Whether credentials were given.
    pub(super) has_credentials: bool,
    /// The highest epoch that others have brought to the flow.
    pub(super) others_epoch: u32,
    /// Our batch that is next.
    pub(super) next: u64,
    /// The offset of all our versions, and the next row of it.
    offset: u64,
    row: u32,
    /// Keys that may have a row now.
    pub(super) written: BTreeMap<String, Row>,
    /// Whatever it may ever have held of ours, and was not seen to delete at the end.
    pub(super) ever: BTreeMap<String, Row>,
    /// None until it was tried.
    pub(super) digests: Option<bool>,
    pub(super) loads: Option<bool>,
    /// Whether a scope that cannot be understood is refused; none until it was tried.
    pub(super) scopes: Option<bool>,
}

/// A row as level 2 of a digest tells it.
#[derive(Debug, Deserialize)]
pub(super) struct HeldRow {
    pub(super) key: Vec<Value>,
    pub(super) version: String,
    pub(super) hash: String,
}

#[derive(Deserialize)]
pub(super) struct HeldRows {
    pub(super) rows: Vec<HeldRow>,
}

impl<'w> Session<'w> {
    pub(super) fn new(wire: &'w mut Wire, maker: Maker, limits: FlowLimits) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            wire,
            maker,
            limits,
            content_types: None,
            encodings: None,
            has_credentials: false,
            others_epoch: 0,
            next: 1,
            offset: u64::try_from(now.as_micros()).unwrap_or(u64::MAX),
            row: 0,
            written: BTreeMap::new(),
            ever: BTreeMap::new(),
            digests: None,
            loads: None,
            scopes: None,
        }
    }

    pub(super) fn entity(&self) -> &'static Entity {
        self.maker.entity
    }

    /// A version above all before it.
    pub(super) fn version(&mut self) -> Version {
        self.row += 1;
        Version::new(EPOCH, LogOffset(self.offset), self.row)
    }

    /// A new row of ours.
    pub(super) fn upsert(&mut self, name: &str) -> Row {
        let version = self.version();
        self.maker.upsert(name, version)
    }

    /// The URL's segments of something of the flow.
    pub(super) fn path<'a>(&self, rest: &[&'a str]) -> Vec<&'a str> {
        ["flows", self.maker.entity.name.as_str()].into_iter().chain(rest.iter().copied()).collect()
    }

    /// Asks for a partition.
    pub(super) async fn watermark(&mut self, partition: u32) -> Result<Watermark, Stop> {
        let (path, partition) = (self.path(&["watermark"]), partition.to_string());
        let sent = format!("GET /{}?partition={partition}", path.join("/"));
        let answer = self.wire.get(&path, &[("partition", &partition)]).await?;
        if answer.status != 200 {
            return fail(sent, told(&answer));
        }
        read(&answer, &sent, "a watermark")
    }

    /// Goes on where the target is, whatever a check has left.
    pub(super) async fn resume(&mut self) -> Result<(), Stop> {
        let watermark = self.watermark(PARTITION).await?;
        self.next = if watermark.epoch == EPOCH { watermark.last_batch.saturating_add(1) } else { 1 };
        let seen = watermark.last_version.and_then(|version| version.parse::<Version>().ok());
        if let Some(seen) = seen.filter(|seen| seen.epoch() == EPOCH && seen.offset().0 > self.offset) {
            // The clock was set back since; versions must still rise.
            self.offset = seen.offset().0.saturating_add(1);
        }
        Ok(())
    }

    /// The next batch, in a form.
    pub(super) fn batch_in(&self, rows: &[Row], format: Format, compression: Compression) -> Result<Delivery, Stop> {
        let id = Uuid::new_v4().to_string();
        let head = Head { id: &id, source: SOURCE, partitions: PARTITION + 1 };
        let made = rows::body(self.entity(), &head, rows, format);
        let body = made.and_then(|body| rows::compressed(body, compression)).or_else(|error| unmade(&error))?;
        let ops: Vec<String> = rows.iter().take(4).map(|row| shown(self.entity(), row)).collect();
        let more = rows.len().checked_sub(4).map(|more| format!(" and {more} more")).unwrap_or_default();
        Ok(Delivery {
            key: Uuid::new_v4().to_string(),
            epoch: EPOCH,
            batch: self.next,
            media_type: format.media_type().to_owned(),
            schema: self.entity().schema_id(),
            encoding: compression.encoding(),
            digest: contract::content_digest(&contract::sha256(&body)),
            body: body.into(),
            told: format!("batch of {} records: {}{more}", rows.len(), ops.join(", ")),
            id,
        })
    }

    /// The next batch as JSON.
    pub(super) fn batch(&self, rows: &[Row]) -> Result<Delivery, Stop> {
        self.batch_in(rows, Format::Json, Compression::None)
    }

    /// The next batch as JSON, changed by hand.
    pub(super) fn batch_changed(&self, rows: &[Row], change: impl FnOnce(&mut Value)) -> Result<Delivery, Stop> {
        let mut delivery = self.batch(rows)?;
        let mut body: Value = serde_json::from_slice(&delivery.body).unwrap_or_default();
        change(&mut body);
        delivery.set_body(body.to_string().into());
        Ok(delivery)
    }

    /// Sends a batch.
    pub(super) async fn deliver(&mut self, delivery: &Delivery) -> Result<Reply, Stop> {
        self.deliver_with(delivery, &[]).await
    }

    /// Sends a batch with headers beyond the usual ones.
    pub(super) async fn deliver_with(
        &mut self,
        delivery: &Delivery,
        more: &[(&'static str, String)],
    ) -> Result<Reply, Stop> {
        let path = self.path(&["deltas"]);
        let headers: Vec<_> = delivery.headers().into_iter().chain(more.iter().cloned()).collect();
        let answer = self.wire.put(Method::POST, &path, &headers, &delivery.body, true).await?;
        let reply = self.wire.settle(answer, &path, &delivery.told()).await?;
        if matches!(reply, Reply::Receipt(_)) && delivery.batch == self.next {
            self.next += 1;
        }
        Ok(reply)
    }

    /// Notes rows that the target may hold from now on.
    pub(super) fn note(&mut self, rows: &[Row]) {
        for row in rows {
            match row.op {
                Op::Upsert => {
                    self.written.insert(row.key_text(), row.clone());
                    self.ever.insert(row.key_text(), row.clone());
                }
                Op::Delete => drop(self.written.remove(&row.key_text())),
                Op::Keep => {}
            }
        }
    }

    /// Delivers rows as the next batch, all of which should be taken.
    pub(super) async fn apply(&mut self, rows: &[Row]) -> Result<Receipt, Stop> {
        let delivery = self.batch(rows)?;
        self.note(rows);
        let receipt = self.deliver(&delivery).await?.receipt(&delivery.told())?;
        let rejects: Vec<String> =
            receipt.rejects.iter().take(3).map(|it| format!("{}: {}", it.code, it.detail)).collect();
        if receipt.rejected > 0 {
            return fail(delivery.told(), format!("{} records rejected ({})", receipt.rejected, rejects.join(", ")));
        }
        Ok(receipt)
    }

    /// The rows of the bucket of a key.
    pub(super) async fn bucket(&mut self, key: &[Value]) -> Result<Vec<HeldRow>, Stop> {
        let bucket = bucket_of_json(self.entity(), key).to_string();
        let path = self.path(&["digest"]);
        let answer = self.wire.get(&path, &[("level", "2"), ("bucket", &bucket)]).await?;
        let offered = !matches!(answer.status, 404 | 405 | 501);
        self.digests = Some(offered);
        if !offered {
            return skip("the target offers no digest");
        }
        let sent = format!("GET /{}?level=2&bucket={bucket}", path.join("/"));
        if answer.status != 200 {
            return fail(sent, told(&answer));
        }
        Ok(read::<HeldRows>(&answer, &sent, "a digest of level 2")?.rows)
    }

    /// What the target holds of a key; for checks that can say more by looking, so nothing where it cannot be seen.
    pub(super) async fn look(&mut self, row: &Row) -> Result<Option<Option<HeldRow>>, Stop> {
        if self.digests == Some(false) {
            return Ok(None);
        }
        match self.bucket(&row.key).await {
            Ok(rows) => Ok(Some(rows.into_iter().find(|held| held.key == row.key))),
            Err(Stop::Skipped(_)) => Ok(None),
            Err(stop) => Err(stop),
        }
    }
}

fn shown(entity: &Entity, row: &Row) -> String {
    const CHARS_MAX: usize = 60;
    let key: String = row.key_text().chars().take(CHARS_MAX).collect();
    let op = row.to_json(entity)["op"].as_str().unwrap_or_default().to_owned();
    format!("{op} {key} version {}", row.version)
}

fn unmade<T>(error: &SinkError) -> Result<T, Stop> {
    skip(format!("no such batch can be made: {error}"))
}

impl Delivery {
    /// Other bytes with their own digest.
    pub(super) fn set_body(&mut self, body: Bytes) {
        self.digest = contract::content_digest(&contract::sha256(&body));
        self.body = body;
    }

    pub(super) fn headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = vec![
            ("content-type", self.media_type.clone()),
            (contract::IDEMPOTENCY_KEY, format!("\"{}\"", self.key)),
            (contract::CONTENT_DIGEST, self.digest.clone()),
            (contract::PARTITION, PARTITION.to_string()),
            (contract::SEQUENCE, contract::sequence(self.epoch, self.batch)),
            (contract::SCHEMA, self.schema.clone()),
            (contract::CRITICALITY, "noncritical".to_owned()),
            (contract::CORRELATION_ID, self.id.clone()),
        ];
        headers.extend(self.encoding.map(|encoding| ("content-encoding", encoding.to_owned())));
        headers
    }

    /// What was sent, in a line.
    pub(super) fn told(&self) -> String {
        format!(
            "{} of partition {PARTITION}, epoch={}; batch={}, {}",
            self.told, self.epoch, self.batch, self.media_type
        )
    }
}

impl Reply {
    /// The receipt; a refusal fails the check.
    pub(super) fn receipt(self, sent: &str) -> Result<Receipt, Stop> {
        match self {
            Self::Receipt(receipt) => Ok(receipt),
            Self::Refused(_, _, told) => fail(sent, told),
        }
    }

    /// Fails the check unless it is this refusal.
    pub(super) fn refused(self, sent: &str, status: u16, name: &str) -> Result<contract::Problem, Stop> {
        match self {
            Self::Refused(got, problem, _) if got == status && problem.name() == name => Ok(problem),
            Self::Refused(_, _, told) => fail(sent, format!("{told}; wanted {status} {name}")),
            Self::Receipt(receipt) => fail(sent, format!("{}; wanted {status} {name}", counts(&receipt))),
        }
    }
}

/// What a receipt says, in a line.
pub(super) fn counts(receipt: &Receipt) -> String {
    let Receipt { received, applied, unchanged, stale, rejected, .. } = receipt;
    format!("received {received}, applied {applied}, unchanged {unchanged}, stale {stale}, rejected {rejected}")
}

/// Fails the check unless a receipt counts this: applied, unchanged, stale, rejected.
pub(super) fn expect(receipt: &Receipt, wanted: [u64; 4], sent: &str) -> Result<(), Stop> {
    let [applied, unchanged, stale, rejected] = wanted;
    let got = [receipt.applied, receipt.unchanged, receipt.stale, receipt.rejected];
    if got == wanted && receipt.received == wanted.iter().sum::<u64>() {
        return Ok(());
    }
    let wanted = format!("applied {applied}, unchanged {unchanged}, stale {stale}, rejected {rejected}");
    fail(sent, format!("{}; wanted {wanted}", counts(receipt)))
}
