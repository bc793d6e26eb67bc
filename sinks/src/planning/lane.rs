//! A lane: one partition of one flow, in which batches follow each other strictly.
//!
//! What a lane knows comes from the target: before the first batch, and again after anything went wrong, it asks for the
//! watermark. Versions rise within a lane, so rows up to the watermark's version have arrived and are not sent again: a
//! killed sender or a lost reply repeats nothing. One request is under way at a time.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use syncline_schemas::entity::Entity;
use syncline_schemas::ident::Version;
use uuid::Uuid;

use super::body::{Correlation, Head, RecordWriter, assemble};
use super::client::{Batch, Client, Stop};
use super::config::PlanningConfig;
use super::contract::{self, Receipt, Rejected, Watermark};
use super::deal::RowRef;
use super::stats::PlanningStats;
use crate::{Reject, SinkError, Written};

/// Our word for a row that the target answers with 413 although it travels alone.
const TOO_LARGE: &str = "payload_too_large";

/// One partition of one flow.
pub(super) struct Lane {
    partition: u32,
    /// Where the target is; unknown before it was asked and after a failure.
    reached: Option<Reached>,
    /// The highest version that the target acknowledged to this process: it must never fall behind it.
    acknowledged: Option<Version>,
    /// Rows that the target takes at once, as far as it has shown; grows again with every batch that passes.
    most: usize,
}

/// Where the target is in a lane.
#[derive(Clone, Copy)]
struct Reached {
    epoch: u32,
    batch: u64,
    version: Option<Version>,
}

/// What all lanes of a flow share while they send.
pub(super) struct Flow<'a> {
    pub(super) entity: &'static Entity,
    pub(super) client: &'a Client,
    pub(super) config: &'a PlanningConfig,
    pub(super) stats: &'a PlanningStats,
    pub(super) records: &'a RecordWriter<'a>,
}

impl Lane {
    /// A lane about which nothing is known.
    pub(super) const fn new(partition: u32) -> Self {
        Self { partition, reached: None, acknowledged: None, most: usize::MAX }
    }

    /// Forgets where the target is: something went wrong, and only the target knows.
    pub(super) const fn forget(&mut self) {
        self.reached = None;
    }

    /// The epoch that the target has seen.
    pub(super) fn epoch(&self) -> u32 {
        self.reached.map_or(0, |reached| reached.epoch)
    }

    /// Sends rows, which are in version order, one batch after the other.
    pub(super) async fn send(&mut self, flow: &Flow<'_>, rows: &[RowRef]) -> Result<Written, Stop> {
        let mut reached = match self.reached {
            Some(reached) => reached,
            None => self.recall(flow).await?,
        };
        let known = rows.partition_point(|row| reached.version.is_some_and(|version| row.version <= version));
        flow.stats.already_there(known as u64);
        let mut written = Written { rows: known as u64, ..Written::default() };
        let mut rest = &rows[known..];
        let mut correlation = Correlation::default();
        while let Some(first) = rest.first() {
            let epoch = first.version.epoch();
            // A new epoch counts its batches from 1 again.
            let number = if epoch > reached.epoch { 1 } else { reached.batch + 1 };
            let (batch, count) = self.next_batch(flow, rest, epoch, number, &mut correlation);
            let sent = &rest[..count];
            let receipt = match flow.client.deliver(flow.entity, &batch, flow.stats).await {
                Ok(receipt) => receipt,
                Err(Stop::TooLarge(_)) if count > 1 => {
                    self.most = count / 2;
                    continue;
                }
                Err(Stop::TooLarge(_)) => {
                    written.absorb(account_too_large(flow, *first));
                    rest = &rest[1..];
                    continue;
                }
                Err(stop) => return Err(stop),
            };
            self.most = self.most.saturating_mul(2);
            written.absorb(account(flow, &receipt, sent, batch.body.len()));
            let version = sent.last().map(|row| row.version);
            reached = Reached { epoch, batch: number, version };
            self.reached = Some(reached);
            // What the target itself says it received: it is compared with what it says later.
            self.acknowledged = receipt.watermark.last_version.as_ref().and_then(|text| text.parse().ok());
            rest = &rest[count..];
        }
        Ok(written)
    }

    /// Asks the target where it is.
    async fn recall(&mut self, flow: &Flow<'_>) -> Result<Reached, Stop> {
        let watermark = flow.client.watermark(flow.entity, self.partition, flow.stats).await?;
        let reached = self.judge(flow, &watermark)?;
        self.reached = Some(reached);
        Ok(reached)
    }

    /// Refuses a watermark that is not ours to continue.
    fn judge(&self, flow: &Flow<'_>, watermark: &Watermark) -> Result<Reached, SinkError> {
        let refuse = |reason: String, remedy: &str| SinkError::Refused {
            target: flow.config.endpoint(&["flows", &flow.entity.name]).to_string(),
            reason: format!("partition {}: {reason}", self.partition),
            remedy: remedy.to_owned(),
        };
        if let Some(other) = watermark.source.as_ref().filter(|source| **source != flow.config.pipeline) {
            return Err(refuse(
                format!("is written by pipeline {other:?}, this one is {:?}", flow.config.pipeline),
                "keep the pipeline's name over restarts, and let one pipeline write a flow",
            ));
        }
        if let Some(other) = watermark.partitions.filter(|partitions| *partitions != flow.config.partitions) {
            return Err(refuse(
                format!("was dealt over {other} partitions, the sink is set to {}", flow.config.partitions),
                "set the sink's partitions back, or deliver to an empty target",
            ));
        }
        let version = match &watermark.last_version {
            Some(text) => Some(text.parse::<Version>()?),
            None => None,
        };
        // A target without versions in its watermark cannot be checked, and is sent the span again instead.
        let can_tell = watermark.last_batch == 0 || version.is_some();
        if can_tell && self.acknowledged > version {
            return Err(refuse(
                format!(
                    "has lost rows that it acknowledged: it is at {}, was at {}",
                    version.map_or_else(|| "the start".to_owned(), |version| version.to_string()),
                    self.acknowledged.map(|version| version.to_string()).unwrap_or_default()
                ),
                "it was probably restored from a backup; replay the sink from before that",
            ));
        }
        Ok(Reached { epoch: watermark.epoch, batch: watermark.last_batch, version })
    }

    /// Fills a batch: as many rows of one epoch as the limits allow, at least one. The limit in bytes is that of the body.
    fn next_batch(
        &self,
        flow: &Flow<'_>,
        rows: &[RowRef],
        epoch: u32,
        number: u64,
        correlation: &mut Correlation,
    ) -> (Batch, usize) {
        let name = format!("{}\n{}\n{}\n{epoch}\n{number}", flow.config.pipeline, flow.entity.name, self.partition);
        let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).to_string();
        let mut head = Head {
            id: &id,
            source: &flow.config.pipeline,
            produced_at: now_micros(),
            count: flow.config.max_records,
            partitions: flow.config.partitions,
        };
        let bytes_max = flow.config.max_bytes.saturating_sub(assemble(&head, &[]).len());
        let mut records = Vec::with_capacity(bytes_max.min(rows.len() * 512));
        let mut count = 0;
        for row in rows.iter().take(flow.config.max_records.min(self.most)).take_while(|row| row.version.epoch() == epoch) {
            let before = records.len();
            if count > 0 {
                records.push(b',');
            }
            flow.records.put(row.row, correlation, &mut records);
            if count > 0 && records.len() > bytes_max {
                records.truncate(before);
                break;
            }
            count += 1;
        }
        head.count = count;
        let body = assemble(&head, &records);
        (Batch { partition: self.partition, epoch, number, id, body: Bytes::from(body) }, count)
    }
}

/// Books a receipt, and names the rows that were refused by our own key and version.
fn account(flow: &Flow<'_>, receipt: &Receipt, sent: &[RowRef], bytes: usize) -> Written {
    let mut written = Written { bytes: bytes as u64, ..Written::default() };
    for rejected in &receipt.rejects {
        written.reject(reject(flow, rejected, sent));
    }
    written.rejected = receipt.rejected.max(written.rejected);
    written.rows = (sent.len() as u64).saturating_sub(written.rejected);
    flow.stats.rows(written.rows);
    flow.stats.bytes(written.bytes);
    flow.stats.rejected(written.rejected);
    flow.stats.unchanged(receipt.unchanged);
    flow.stats.stale(receipt.stale);
    written
}

/// Books a row that the target cannot take even alone; somebody may raise its limit.
fn account_too_large(flow: &Flow<'_>, row: RowRef) -> Written {
    let mut written = Written::default();
    written.reject(Reject {
        entity: flow.entity.name.clone(),
        key: flow.records.key(row.row),
        version: row.version.to_string(),
        code: TOO_LARGE.to_owned(),
        field: None,
        detail: String::new(),
        retryable: true,
    });
    flow.stats.rejected(1);
    written
}

fn reject(flow: &Flow<'_>, rejected: &Rejected, sent: &[RowRef]) -> Reject {
    let row = sent.get(rejected.index);
    let code = Some(contract::word(&rejected.code)).filter(|code| !code.is_empty());
    let field = rejected.field.clone().filter(|name| flow.entity.field(name).is_some());
    Reject {
        entity: flow.entity.name.clone(),
        key: row.map(|row| flow.records.key(row.row)).unwrap_or_default(),
        version: row.map(|row| row.version.to_string()).unwrap_or_default(),
        code: code.unwrap_or_else(|| "unspecified".to_owned()),
        field,
        detail: rejected.detail.clone(),
        retryable: rejected.retryable,
    }
}

fn now_micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
