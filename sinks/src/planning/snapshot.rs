//! A full load: every row of an entity as of one cut, so that a target that holds nothing, too little or too much ends with
//! exactly what we have, while deltas go on.
//!
//! ```text
//! POST /flows/{flow}/snapshots             {"cut", "source", "sweep"}          -> {"id"}
//! PUT  /flows/{flow}/snapshots/{id}/parts/{n}   rows as in a batch of deltas   -> what became of them
//! POST /flows/{flow}/snapshots/{id}:commit {"parts", "records", "digest"}      -> {"swept"}
//! ```
//!
//! All rows carry the version of the cut. Deltas behind the cut have higher versions and win whenever they come, those
//! before it lose: so no order between the two is needed, and no pause. At the commit the target deletes what it holds in
//! versions up to the cut and was not sent. A row that we hold back, because its source row is at fault, is sent as its key
//! alone (`"op": "keep"`): what the target has of it stays.
//!
//! Parts are independent of each other and repeated with the same bytes; a snapshot that is interrupted is begun anew.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{AsArray, RecordBatch, UInt8Array, UInt64Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::UInt8Type;
use async_trait::async_trait;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use reqwest::Url;
use serde::{Deserialize, Serialize};
use syncline_schemas::delta::{KEEP, SYSTEM_COLUMNS, UPSERT};
use syncline_schemas::entity;
use syncline_schemas::ident::{LogOffset, Version};
use uuid::Uuid;

use super::bisect::Bisect;
use super::body::{Correlation, RecordWriter};
use super::client::{Answer, Client, Stop, not_pdx};
use super::config::PlanningConfig;
use super::contract::{self, Rejected};
use super::deal::{self, RowRef};
use super::digest::{Digest, Hasher};
use super::fill::fill;
use super::lane::{Flow, Load, account_alone, account_too_large, foreign, reject};
use super::stats::PlanningStats;
use super::verdict::NOT_PDX;
use crate::{DeltaSource, Filler, Image, Known, SinkError, Span, Written};

/// Parts under way at once: enough to keep a target busy, few enough to leave most of its connections to deltas.
const PARTS_AT_ONCE: usize = 2;
/// How often a snapshot is begun again that the target no longer knows, or that did not arrive whole.
const ATTEMPTS_MAX: u32 = 3;

/// Asks for a snapshot to be begun.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Begin {
    /// The version of its rows, 32 hex digits.
    pub(crate) cut: String,
    /// The pipeline.
    pub(crate) source: String,
    /// Whether what was not sent is deleted at the end.
    #[serde(default = "yes")]
    pub(crate) sweep: bool,
    /// Where that is limited to some rows: values of key fields.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub(crate) scope: serde_json::Map<String, serde_json::Value>,
}

const fn yes() -> bool {
    true
}

/// A snapshot that is open.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Open {
    pub(crate) id: String,
}

/// What became of a part.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PartReceipt {
    pub(crate) part: u64,
    pub(crate) received: u64,
    pub(crate) applied: u64,
    pub(crate) unchanged: u64,
    pub(crate) stale: u64,
    pub(crate) rejected: u64,
    #[serde(default)]
    pub(crate) rejects: Vec<Rejected>,
}

/// Asks for a snapshot to be ended.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Commit {
    /// Parts that were sent, numbered from 1.
    pub(crate) parts: u64,
    /// Upserts in them that were not refused.
    pub(crate) records: u64,
    /// Their digest, 32 hex digits.
    pub(crate) digest: String,
}

/// A snapshot that has ended.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Committed {
    pub(crate) records: u64,
    /// Rows that were deleted because they were not sent.
    pub(crate) swept: u64,
}

/// Fills targets beside the deltas.
pub(super) struct PlanningFiller {
    pub(super) client: Arc<Client>,
    pub(super) config: PlanningConfig,
    pub(super) stats: Arc<PlanningStats>,
}

/// A snapshot at the target.
struct Snapshot<'a> {
    flow: Flow<'a>,
    /// Its resource.
    url: Url,
    id: String,
    rows: &'a dyn DeltaSource,
    /// Whether what is not sent is deleted at the end.
    sweeps: bool,
    /// The last part that the target has taken, or will.
    parts: AtomicU64,
}

/// What was sent of a snapshot.
#[derive(Default)]
struct Sent {
    digest: Digest,
    written: Written,
}

impl Sent {
    fn absorb(&mut self, other: Self) {
        self.digest += other.digest;
        self.written.absorb(other.written);
    }
}

#[async_trait]
impl Filler for PlanningFiller {
    async fn fill(&mut self, image: &Image, rows: &dyn DeltaSource) -> Result<Written, SinkError> {
        let Some(entity) = entity::get(&image.entity) else {
            let reason = "is not canonical; a newer Syncline wrote it".to_owned();
            return Err(SinkError::Shape { entity: image.entity.clone(), reason });
        };
        let (known, taken) = (Known::default(), AtomicU64::new(0));
        let client = self.client.of(self.config.criticality(entity));
        let flow =
            Flow { entity, client: &client, config: &self.config, stats: &self.stats, known: &known, taken: &taken };
        let mut gone = None;
        for _ in 0..ATTEMPTS_MAX {
            match load(flow, image, rows).await {
                Ok(written) => return Ok(written),
                Err(Stop::Gone(error)) => gone = Some(error),
                Err(stop) => return Err(stop.into_error()),
            }
        }
        Err(gone.unwrap_or_else(|| refused(&self.config.endpoint(&["flows", &entity.name]), "ended no snapshot")))
    }
}

fn refused(url: &Url, reason: &str) -> SinkError {
    SinkError::Refused { target: url.to_string(), reason: reason.to_owned(), remedy: NOT_PDX.to_owned() }
}

fn row_refs(page: &RecordBatch) -> Vec<RowRef> {
    let versions = page.column(1).as_fixed_size_binary();
    let of = |row: usize| Version::from_bytes(versions.value(row).try_into().expect("check_image() saw 16 bytes"));
    (0..page.num_rows()).map(|row| RowRef { version: of(row), row }).collect()
}

/// Rows of a page as keys that are to be kept.
fn as_kept(page: &RecordBatch, rows: &[usize]) -> Result<RecordBatch, SinkError> {
    let taken = take_record_batch(page, &UInt64Array::from_iter_values(rows.iter().map(|row| *row as u64)))?;
    let mut columns = taken.columns().to_vec();
    columns[0] = Arc::new(UInt8Array::from(vec![KEEP; rows.len()]));
    Ok(RecordBatch::try_new(taken.schema(), columns)?)
}

/// Refuses to fill a flow that somebody else writes: our rows would replace his, and the sweep take the others.
async fn ensure_ours(flow: Flow<'_>) -> Result<(), Stop> {
    for partition in 0..flow.config.partitions {
        let watermark = flow.client.watermark(flow.entity, partition, flow.stats).await?;
        foreign(&flow, &watermark)?;
    }
    Ok(())
}

/// Loads once, from the first part to the commit.
async fn load(flow: Flow<'_>, image: &Image, rows: &dyn DeltaSource) -> Result<Written, Stop> {
    ensure_ours(flow).await?;
    let collection = flow.config.endpoint(&["flows", &flow.entity.name, "snapshots"]);
    let (cut, source) = (image.cut.to_string(), flow.config.pipeline.clone());
    let begin = Begin { cut, source, sweep: image.sweep, scope: serde_json::Map::new() };
    let open: Open = post(flow, &collection, &begin, "an open snapshot").await.map_err(|stop| match stop {
        // Nobody who takes deltas lacks this by accident.
        Stop::Gone(_) => Stop::Failed(SinkError::Refused {
            target: collection.to_string(),
            reason: "does not take snapshots".to_owned(),
            remedy: "deliver to an empty target from an empty data_dir, or have the target take them (docs/targets.md)"
                .to_owned(),
        }),
        stop => stop,
    })?;
    let mut url = collection.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.push(&open.id);
    }
    let snapshot = Snapshot { flow, url, id: open.id, rows, sweeps: image.sweep, parts: AtomicU64::new(0) };
    let every = Span { after: LogOffset::START, upto: LogOffset(u64::MAX) };
    let pages = rows.read(every)?.flat_map(|entry| match entry {
        Ok(entry) => entry.deltas.into_iter().map(|delta| Ok(delta.rows)).collect(),
        Err(error) => vec![Err(Stop::Failed(error))],
    });
    let mut sent = stream::iter(pages)
        .map(|page| {
            let snapshot = &snapshot;
            async move { snapshot.send(page?).await }
        })
        .buffer_unordered(PARTS_AT_ONCE)
        .try_fold(Sent::default(), |mut all, part| async move {
            all.absorb(part);
            Ok(all)
        })
        .await?;
    let commit = Commit {
        parts: snapshot.parts.load(Ordering::Relaxed),
        records: sent.digest.count,
        digest: sent.digest.to_hex(),
    };
    let mut ends = collection;
    if let Ok(mut path) = ends.path_segments_mut() {
        path.push(&format!("{}:commit", snapshot.id));
    }
    let ended: Committed = post(flow, &ends, &commit, "an ended snapshot").await?;
    flow.stats.swept(ended.swept);
    sent.written.notes.clear();
    Ok(sent.written)
}

/// Asks with a small object, the same at every attempt.
async fn post<T: serde::de::DeserializeOwned>(
    flow: Flow<'_>,
    url: &Url,
    body: &impl Serialize,
    what: &'static str,
) -> Result<T, Stop> {
    let body = serde_json::to_vec(body).expect("plain data");
    let key = Uuid::new_v4();
    let request = || {
        flow.client
            .http()
            .post(url.clone())
            .header("content-type", "application/json")
            .header(contract::IDEMPOTENCY_KEY, format!("\"{key}\""))
            .header(contract::SCHEMA, flow.entity.schema_id())
            .body(body.clone())
    };
    answer(url, flow.client.persist(url, flow.stats, request).await?, what)
}

fn answer<T: serde::de::DeserializeOwned>(url: &Url, answer: Answer, what: &'static str) -> Result<T, Stop> {
    match answer {
        Answer::Body(body) => serde_json::from_slice(&body).map_err(|error| not_pdx(url, what, &error).into()),
        Answer::Job(_) => Err(refused(url, "answered with a job, which PDX/1 has for deltas alone").into()),
    }
}

impl Snapshot<'_> {
    /// Sends the rows of a page; those that are refused alone by their keys, since what the target has of them is to stay.
    async fn send(&self, page: RecordBatch) -> Result<Sent, Stop> {
        deal::check_image(self.flow.entity, &page)?;
        let mut number = None;
        let mut alone = Vec::new();
        let mut sent = self.send_rows(&page, &mut number, &mut alone).await?;
        // Without a sweep nothing happens to what is not sent, and a number that was taken goes to nobody.
        if !alone.is_empty() && (self.sweeps || number.is_some()) {
            let kept = as_kept(&page, &alone)?;
            sent.absorb(self.keep(&kept, &mut number).await?);
        }
        Ok(sent)
    }

    /// Sends keys that are to be kept: together, or one by one where that is refused.
    async fn keep(&self, kept: &RecordBatch, number: &mut Option<u64>) -> Result<Sent, Stop> {
        let mut refused = Vec::new();
        let sent = self.send_rows(kept, number, &mut refused).await?;
        if refused.is_empty() && number.is_none() {
            return Ok(sent);
        }
        let (target, reason) = (self.url.to_string(), "refuses a key, and that it is to be kept as well".to_owned());
        let remedy =
            "mend the row whose refusal is listed last in `syncline dead-letters`, or order the rows without --full";
        Err(SinkError::Refused { target, reason, remedy: remedy.to_owned() }.into())
    }

    /// Sends rows in as many parts as the limits want. A number that was taken and did not go out is left for the next.
    async fn send_rows(
        &self,
        page: &RecordBatch,
        number: &mut Option<u64>,
        alone: &mut Vec<usize>,
    ) -> Result<Sent, Stop> {
        let records = RecordWriter::new(self.flow.entity, page)?;
        let mut hasher = Hasher::new(self.flow.entity, &page.columns()[SYSTEM_COLUMNS..])?;
        let ops = page.column(0).as_primitive::<UInt8Type>();
        let rows = row_refs(page);
        let (mut rest, mut most, mut sent) = (rows.as_slice(), usize::MAX, Sent::default());
        let mut bisect = Bisect::new();
        while let Some(first) = rest.first() {
            let load = Load { batch: page, records: &records, rows: rest, told: self.rows, again: true };
            let of = *number.get_or_insert_with(|| self.parts.fetch_add(1, Ordering::Relaxed) + 1);
            let id = format!("{}-{of}", self.id);
            let (body, count) = fill(&self.flow, load, &id, most.min(bisect.most()), &mut Correlation::default())?;
            let receipt = match self.put(of, &body.body).await {
                Ok(receipt) => receipt,
                Err(Stop::TooLarge(_)) if count > 1 => {
                    most = count / 2;
                    continue;
                }
                Err(Stop::TooLarge(_)) => {
                    sent.written.absorb(account_too_large(&self.flow, load, *first)?);
                    alone.push(first.row);
                    rest = &rest[1..];
                    continue;
                }
                Err(Stop::Refused(error, code)) => {
                    if bisect.refused(count) {
                        if ops.value(first.row) == KEEP {
                            alone.push(first.row);
                            rest = &rest[1..];
                            continue;
                        }
                        sent.written.absorb(account_alone(&self.flow, load, &mut bisect, error, code)?);
                        alone.push(first.row);
                        rest = &rest[1..];
                    }
                    continue;
                }
                Err(stop) => return Err(stop),
            };
            bisect.taken(count);
            *number = None;
            let (these, others) = rest.split_at(count);
            let refused: HashSet<usize> = receipt.rejects.iter().map(|rejected| rejected.index).collect();
            let before = sent.digest.count;
            for (_, row) in these.iter().enumerate().filter(|(at, _)| !refused.contains(at)) {
                if ops.value(row.row) == UPSERT {
                    sent.digest += Digest::of(hasher.hash(row.row));
                }
            }
            sent.written.absorb(self.account(
                &receipt,
                Load { rows: these, ..load },
                body.size,
                sent.digest.count - before,
            )?);
            rest = others;
        }
        Ok(sent)
    }

    async fn put(&self, number: u64, body: &bytes::Bytes) -> Result<PartReceipt, Stop> {
        let Flow { entity, client, config, stats, .. } = self.flow;
        let mut url = self.url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.extend(["parts", &number.to_string()]);
        }
        let digest = contract::content_digest(&contract::sha256(body));
        let request = || {
            let mut request = client.http().put(url.clone());
            if let Some(encoding) = config.compression.encoding() {
                request = request.header("content-encoding", encoding);
            }
            request
                .header("content-type", config.format.media_type())
                .header(contract::CONTENT_DIGEST, &digest)
                .header(contract::SCHEMA, entity.schema_id())
                .header(contract::CORRELATION_ID, &self.id)
                .body(body.clone())
        };
        answer(&url, client.persist(&url, stats, request).await?, "the receipt of a part")
    }

    /// Books a part with so many rows, and tells those that were refused.
    fn account(&self, receipt: &PartReceipt, sent: Load<'_>, bytes: usize, rows: u64) -> Result<Written, SinkError> {
        let rejects: Vec<_> =
            receipt.rejects.iter().filter_map(|rejected| reject(&self.flow, rejected, sent)).collect();
        let rejected = rejects.len() as u64;
        if rejected > 0 {
            self.rows.refused(rejects)?;
        }
        self.flow.taken.fetch_add(rows, Ordering::Relaxed);
        self.flow.stats.loaded(rows);
        self.flow.stats.bytes(bytes as u64);
        self.flow.stats.rejected(rejected);
        Ok(Written { rows, bytes: bytes as u64, rejected, ..Written::default() })
    }
}
