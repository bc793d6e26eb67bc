//! A lane: one partition of one flow, in which batches follow each other strictly.
//!
//! What a lane knows comes from the target: before the first batch, and again after anything went wrong, it asks for the
//! watermark. Versions rise within a lane, so rows up to the watermark's version have arrived and are not sent again: a
//! killed sender or a lost reply repeats nothing. One request is under way at a time.
//!
//! What the target acknowledged is remembered, also over restarts: a watermark behind it means that rows were lost there.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arrow::array::RecordBatch;
use syncline_schemas::entity::Entity;
use syncline_schemas::ident::Version;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use super::bisect::Bisect;
use super::body::{Correlation, RecordWriter};
use super::client::{Batch, Client, Stop};
use super::config::PlanningConfig;
use super::contract::{self, Receipt, Rejected, Watermark};
use super::deal::RowRef;
use super::fill::{Body, fill};
use super::reached::Reached;
use super::stats::PlanningStats;
use crate::{DeltaSource, Known, Reject, SinkError, Written};

/// Our word for a row that the target answers with 413 although it travels alone.
const TOO_LARGE: &str = "payload_too_large";

/// Our word for a reason that the target does not name.
const UNSPECIFIED: &str = "unspecified";

/// Rows of a lane that are refused alone, one after the other and with nothing of the flow taken in between, until that is
/// a fault of all.
const ALONE_MAX: usize = 20;

/// One partition of one flow.
pub(super) struct Lane {
    partition: u32,
    /// Where the target is; unknown before it was asked and after a failure.
    reached: Option<Reached>,
    /// What the target acknowledged, in its own words: it must never fall behind it.
    acknowledged: Reached,
    /// True while that is not remembered yet.
    unremembered: bool,
    /// True after this process found nothing there that it cannot know.
    trusted: bool,
    /// The rows of the batch under way, and whether the target has accepted it for later.
    sent: Vec<Version>,
    accepted: AtomicBool,
    /// Rows of batches that were accepted and of which nobody was told which the target refused: they are sent again.
    unsettled: BTreeSet<Version>,
    /// Rows that the target takes at once, as far as it has shown; grows again with every batch that passes.
    most: usize,
    bisect: Bisect,
}

/// What all lanes of a flow share.
#[derive(Clone, Copy)]
pub(super) struct Flow<'a> {
    pub(super) entity: &'static Entity,
    pub(super) client: &'a Client,
    pub(super) config: &'a PlanningConfig,
    pub(super) stats: &'a PlanningStats,
    pub(super) known: &'a Known,
    /// Rows of the flow that the target has taken since the start.
    pub(super) taken: &'a AtomicU64,
}

/// Rows on their way: where they lie, and which of them are a lane's.
#[derive(Clone, Copy)]
pub(super) struct Load<'a> {
    pub(super) batch: &'a RecordBatch,
    pub(super) records: &'a RecordWriter<'a>,
    pub(super) rows: &'a [RowRef],
    /// Where refused rows are told.
    pub(super) told: &'a dyn DeltaSource,
    /// True where rows are sent although the target has later ones.
    pub(super) again: bool,
}

/// The name under which a lane is remembered.
fn note_name(entity: &Entity, partition: u32) -> String {
    format!("{}/{partition}", entity.name)
}

/// Reads back what [`note_name`] wrote.
pub(super) fn parse_note_name(name: &str) -> Option<(&str, usize)> {
    let (entity, partition) = name.split_once('/')?;
    Some((entity, partition.parse().ok()?))
}

impl Lane {
    /// A lane about which nothing is known.
    pub(super) const fn new(partition: u32) -> Self {
        let acknowledged = Reached { epoch: 0, batch: 0, version: None };
        Self {
            partition,
            reached: None,
            acknowledged,
            unremembered: false,
            trusted: false,
            sent: Vec::new(),
            accepted: AtomicBool::new(false),
            unsettled: BTreeSet::new(),
            most: usize::MAX,
            bisect: Bisect::new(),
        }
    }

    /// Takes up what an earlier process was told.
    pub(super) const fn remember(&mut self, acknowledged: Reached) {
        // What this process was told since is newer.
        if !self.unremembered {
            self.acknowledged = acknowledged;
        }
    }

    /// True where the target has ever taken a batch of ours in this lane.
    pub(super) const fn is_acknowledged(&self) -> bool {
        self.acknowledged.batch > 0
    }

    /// What is to be remembered and is not yet: the note's name and value.
    pub(super) fn note(&mut self, entity: &Entity) -> Option<(String, Vec<u8>)> {
        let note = std::mem::take(&mut self.unremembered).then(|| self.acknowledged.to_note());
        note.map(|note| (note_name(entity, self.partition), note))
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
    pub(super) async fn send(&mut self, flow: &Flow<'_>, load: Load<'_>) -> Result<Written, Stop> {
        let _busy = flow.client.busy();
        let mut reached = self.recall(flow).await?;
        if std::mem::take(self.accepted.get_mut()) {
            self.unsettled.extend(self.sent.drain(..));
        }
        let known = match reached.version.filter(|_| !load.again) {
            Some(version) => load.rows.partition_point(|row| row.version <= version),
            None => 0,
        };
        let (arrived, rest) = load.rows.split_at(known);
        let again = arrived.iter().filter(|row| self.unsettled.contains(&row.version));
        let rows: Vec<RowRef> = again.chain(rest).copied().collect();
        let known = load.rows.len() - rows.len();
        flow.stats.already_there(known as u64);
        let mut written = Written { rows: known as u64, ..Written::default() };
        let mut rest = rows.as_slice();
        self.bisect.begin();
        let mut correlation = Correlation::default();
        while let Some(first) = rest.first() {
            let epoch = first.version.epoch();
            // A new epoch counts its batches from 1 again.
            let number = if epoch > reached.epoch { 1 } else { reached.batch + 1 };
            let id = batch_id(flow, self.partition, epoch, number);
            let (filled, count) =
                fill(flow, Load { rows: rest, ..load }, &id, self.most.min(self.bisect.most()), &mut correlation)?;
            let Body { body, size } = filled;
            let batch = Batch { partition: self.partition, epoch, number, id, body };
            let sent = &rest[..count];
            self.sent.clear();
            self.sent.extend(sent.iter().map(|row| row.version));
            let receipt = match flow.client.deliver(flow.entity, &batch, &self.accepted, flow.stats).await {
                Ok(receipt) => receipt,
                Err(Stop::TooLarge(_)) if count > 1 => {
                    self.most = count / 2;
                    continue;
                }
                Err(Stop::TooLarge(_)) => {
                    written.absorb(account_too_large(flow, load, *first)?);
                    rest = &rest[1..];
                    continue;
                }
                Err(Stop::Refused(error, code)) => {
                    *self.accepted.get_mut() = false;
                    if self.bisect.refused(count) {
                        let alone = Load { rows: sent, ..load };
                        written.absorb(account_alone(flow, alone, &mut self.bisect, error, code)?);
                        rest = &rest[1..];
                    }
                    continue;
                }
                Err(stop) => return Err(stop),
            };
            written.absorb(account(flow, &receipt, Load { rows: sent, ..load }, size)?);
            let version = reached.version.max(sent.last().map(|row| row.version));
            reached = Reached { epoch, batch: number, version };
            self.acknowledge(reached, sent, &receipt);
            rest = &rest[count..];
        }
        // What is not among these rows was replaced by a newer version of its key.
        if let Some(last) = load.rows.last() {
            self.unsettled.retain(|version| *version > last.version);
        }
        Ok(written)
    }

    /// The target has taken a batch.
    fn acknowledge(&mut self, reached: Reached, sent: &[RowRef], receipt: &Receipt) {
        self.bisect.taken(sent.len());
        self.most = self.most.saturating_mul(2);
        *self.accepted.get_mut() = false;
        for row in sent {
            self.unsettled.remove(&row.version);
        }
        self.reached = Some(reached);
        // In the target's own words: it is compared with what it says later.
        let version = receipt.watermark.last_version.as_ref().and_then(|text| text.parse().ok());
        self.acknowledged = Reached { version, ..reached };
        self.unremembered = true;
    }

    /// Asks the target where it is, if that is not known.
    pub(super) async fn recall(&mut self, flow: &Flow<'_>) -> Result<Reached, Stop> {
        if let Some(reached) = self.reached {
            return Ok(reached);
        }
        let watermark = flow.client.watermark(flow.entity, self.partition, flow.stats).await?;
        let reached = self.judge(flow, &watermark)?;
        self.reached = Some(reached);
        Ok(reached)
    }

    /// Refuses a watermark that is not ours to continue.
    fn judge(&mut self, flow: &Flow<'_>, watermark: &Watermark) -> Result<Reached, SinkError> {
        let refuse = |reason: String, remedy: &str| SinkError::Refused {
            target: flow.config.endpoint(&["flows", &flow.entity.name]).to_string(),
            reason: format!("partition {}: {reason}", self.partition),
            remedy: remedy.to_owned(),
        };
        foreign(flow, watermark)?;
        let reached = Reached::read(watermark)?;
        if reached.is_behind(&self.acknowledged) {
            return Err(refuse(
                format!("has lost rows that it acknowledged: it is at {reached}, was at {}", self.acknowledged),
                "it was probably restored from a backup or emptied; have `syncline replay SINK --full` send it everything while the daemon is stopped, or restore it to what it was",
            ));
        }
        let ours = reached.version.filter(|version| !self.trusted && version.epoch() == flow.known.epoch);
        if let Some(version) = ours {
            let target = flow.config.endpoint(&["flows", &flow.entity.name]);
            flow.known.refuse_beyond(target.as_str(), version.offset())?;
        }
        self.trusted = true;
        Ok(reached)
    }
}

/// Refuses a partition that somebody else writes, or that was dealt otherwise.
pub(super) fn foreign(flow: &Flow<'_>, watermark: &Watermark) -> Result<(), SinkError> {
    let refuse = |reason: String, remedy: &str| {
        let target = flow.config.endpoint(&["flows", &flow.entity.name]).to_string();
        let (reason, remedy) = (format!("partition {}: {reason}", watermark.partition), remedy.to_owned());
        Err(SinkError::Refused { target, reason, remedy })
    };
    if let Some(other) = watermark.source.as_ref().filter(|source| **source != flow.config.pipeline) {
        return refuse(
            format!("is written by pipeline {other:?}, this one is {:?}", flow.config.pipeline),
            "keep the pipeline's name over restarts, and let one pipeline write a flow",
        );
    }
    if let Some(other) = watermark.partitions.filter(|partitions| *partitions != flow.config.partitions) {
        return refuse(
            format!("was dealt over {other} partitions, the sink is set to {}", flow.config.partitions),
            "set the sink's partitions back, or deliver to an empty target",
        );
    }
    Ok(())
}

/// The same for every attempt, also of another process.
fn batch_id(flow: &Flow<'_>, partition: u32, epoch: u32, number: u64) -> String {
    let name = format!("{}\n{}\n{partition}\n{epoch}\n{number}", flow.config.pipeline, flow.entity.name);
    Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).to_string()
}

/// Books a receipt, and tells the rows that were refused by our own key and version.
fn account(flow: &Flow<'_>, receipt: &Receipt, sent: Load<'_>, bytes: usize) -> Result<Written, SinkError> {
    let rejects: Vec<Reject> = receipt.rejects.iter().filter_map(|rejected| reject(flow, rejected, sent)).collect();
    let rejected = receipt.rejected.max(receipt.rejects.len() as u64);
    if !rejects.is_empty() {
        sent.told.refused(rejects)?;
    }
    let rows = (sent.rows.len() as u64).saturating_sub(rejected);
    flow.taken.fetch_add(rows, Ordering::Relaxed);
    flow.stats.rows(rows);
    flow.stats.bytes(bytes as u64);
    flow.stats.rejected(rejected);
    flow.stats.unchanged(receipt.unchanged);
    flow.stats.stale(receipt.stale);
    Ok(Written { rows, bytes: bytes as u64, rejected, ..Written::default() })
}

/// A refused row by our own key and version; none where the target means a row that was not sent.
pub(super) fn reject(flow: &Flow<'_>, rejected: &Rejected, sent: Load<'_>) -> Option<Reject> {
    let code = Some(contract::word(&rejected.code)).filter(|code| !code.is_empty());
    let field = rejected.field.clone().filter(|name| flow.entity.field(name).is_some());
    let code = code.unwrap_or_else(|| UNSPECIFIED.to_owned());
    Some(compose(flow, sent, *sent.rows.get(rejected.index)?, code, field, rejected.retryable))
}

/// Books a row that the target cannot take even alone; somebody may raise its limit.
pub(super) fn account_too_large(flow: &Flow<'_>, load: Load<'_>, row: RowRef) -> Result<Written, SinkError> {
    load.told.refused(vec![compose(flow, load, row, TOO_LARGE.to_owned(), None, true)])?;
    flow.stats.rejected(1);
    Ok(Written { rejected: 1, ..Written::default() })
}

/// Books a row that the target refuses although it travels alone.
///
/// # Errors
/// The refusal, after too many of them in a row: then it is not about single rows.
pub(super) fn account_alone(
    flow: &Flow<'_>,
    load: Load<'_>,
    bisect: &mut Bisect,
    error: SinkError,
    code: String,
) -> Result<Written, SinkError> {
    let Some(row) = load.rows.first() else { return Err(error) };
    bisect.found(xxh3_64(load.records.key(row.row).as_bytes()), flow.taken.load(Ordering::Relaxed));
    if bisect.in_a_row() > ALONE_MAX {
        return Err(error);
    }
    let code = if code.is_empty() { UNSPECIFIED.to_owned() } else { code };
    load.told.refused(vec![compose(flow, load, *row, code, None, false)])?;
    flow.stats.rejected(1);
    Ok(Written { rejected: 1, ..Written::default() })
}

fn compose(
    flow: &Flow<'_>,
    load: Load<'_>,
    row: RowRef,
    code: String,
    field: Option<String>,
    retryable: bool,
) -> Reject {
    Reject {
        entity: flow.entity.name.clone(),
        row: load.batch.slice(row.row, 1),
        key: load.records.key(row.row),
        version: row.version.to_string(),
        code,
        field,
        retryable,
    }
}
