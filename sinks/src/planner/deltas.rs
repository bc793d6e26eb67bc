//! `POST /flows/{flow}/deltas`: the headers of a batch, then its body, then the writer.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use syncline_schemas::entity::{self, Entity};
use tokio::sync::{mpsc, oneshot};

use super::batch::Records;
use super::faults::Faults;
use super::http::BODY_BYTES_MAX;
use super::problem::Refusal;
use super::stats::{Counters, PlannerCounts};
use super::store::{Job, Outcome, Work};
use super::{batch, encoding};
use crate::planning::Format;
use crate::planning::contract::{
    self, CONTENT_DIGEST, DIGEST_MISMATCH, IDEMPOTENCY_KEY, PARTITION, REQUEST_IN_PROGRESS, SCHEMA, SEQUENCE,
};

/// Takes batches in.
pub(super) struct Intake {
    pub(super) writer: mpsc::Sender<Work>,
    pub(super) counters: Counters,
    pub(super) in_progress: InProgress,
}

impl Intake {
    /// Processes a batch and returns its receipt.
    pub(super) async fn receive(
        &self,
        flow: &str,
        headers: &HeaderMap,
        body: &Bytes,
        faults: &Faults,
    ) -> Result<String, Refusal> {
        let (place, entity) = find(flow)?;
        let head = Head::read(entity, headers)?;
        let digest = contract::sha256(body);
        if head.digest != contract::content_digest(&digest) {
            let detail = "the body is not the one that Content-Digest names";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, DIGEST_MISMATCH, detail));
        }
        let _claim = self.in_progress.claim(&head.idempotency_key)?;
        let plain = encoding::decompressed(headers, body, BODY_BYTES_MAX)?;
        let malformed = |reason| Refusal::new(StatusCode::BAD_REQUEST, "malformed-batch", reason);
        let mut batch = match head.format {
            Format::Arrow if faults.forgets => encoding::counted(entity, &plain).map_err(malformed)?,
            format => encoding::as_json(entity, format, plain)
                .and_then(|body| batch::read(entity, &body, Records::Deltas))
                .map_err(malformed)?,
        };
        batch.refuse(entity, faults)?;
        if faults.forgets {
            batch.forget();
        }
        let (reply, outcome) = oneshot::channel();
        let job = Job {
            flow: place,
            partition: head.partition,
            epoch: head.epoch,
            number: head.number,
            idempotency_key: head.idempotency_key,
            digest,
            batch,
            reply,
        };
        self.write(Work::Batch(job), outcome).await
    }

    /// Has the writer do something.
    pub(super) async fn write(&self, work: Work, outcome: oneshot::Receiver<Outcome>) -> Result<String, Refusal> {
        let stopped = || Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "the planner is stopping");
        self.writer.send(work).await.map_err(|_| stopped())?;
        match outcome.await.map_err(|_| stopped())? {
            Outcome::Receipt(receipt, counts) => {
                self.counters.add(&PlannerCounts { requests: 1, ..counts });
                Ok(receipt)
            }
            Outcome::Problem(problem) => Err(Refusal(problem)),
            Outcome::Storage(reason) => Err(Refusal::storage(reason)),
        }
    }
}

/// The entity of a flow and its place in the list.
pub(super) fn find(flow: &str) -> Result<(usize, &'static Entity), Refusal> {
    entity::all().iter().enumerate().find(|(_, entity)| entity.name == flow).ok_or_else(|| {
        Refusal::new(StatusCode::NOT_FOUND, "unknown-flow", format!("there is no flow {flow:?}; see /capabilities"))
    })
}

/// What the headers say.
struct Head {
    format: Format,
    idempotency_key: String,
    digest: String,
    partition: u32,
    epoch: u32,
    number: u64,
}

impl Head {
    fn read(entity: &Entity, headers: &HeaderMap) -> Result<Self, Refusal> {
        let bad = |detail: String| Refusal::new(StatusCode::BAD_REQUEST, "bad-header", detail);
        let text = |name: &'static str| {
            let value = headers.get(name).ok_or_else(|| bad(format!("{name} is missing")))?;
            value.to_str().map_err(|_| bad(format!("{name} is not ASCII")))
        };
        let format = encoding::format(headers)?;
        check_schema(entity, text(SCHEMA)?)?;
        let key = text(IDEMPOTENCY_KEY)?;
        let quoted = key.strip_prefix('"').and_then(|key| key.strip_suffix('"')).filter(|key| !key.is_empty());
        let (epoch, number) = contract::parse_sequence(text(SEQUENCE)?)
            .filter(|(_, batch)| *batch > 0 && i64::try_from(*batch).is_ok())
            .ok_or_else(|| bad(format!("{SEQUENCE}: wanted as in epoch=3; batch=5512")))?;
        Ok(Self {
            format,
            idempotency_key: quoted
                .ok_or_else(|| bad(format!("{IDEMPOTENCY_KEY}: wanted a quoted string")))?
                .to_owned(),
            digest: text(CONTENT_DIGEST)?.to_owned(),
            partition: text(PARTITION)?.parse().map_err(|_| bad(format!("{PARTITION}: wanted a number")))?,
            epoch,
            number,
        })
    }
}

/// Refuses rows of another edition of an entity.
pub(super) fn check_schema(entity: &Entity, schema: &str) -> Result<(), Refusal> {
    let major = schema.strip_prefix(&entity.name).and_then(|rest| rest.strip_prefix('/')?.split_once('.'));
    if major.is_some_and(|(major, _)| major.parse() == Ok(entity.version.0)) {
        return Ok(());
    }
    let detail = format!("got {schema}, this side has {}", entity.schema_id());
    Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "unsupported-schema", detail))
}

/// The keys of requests that are being worked on.
#[derive(Default)]
pub(super) struct InProgress(Mutex<HashSet<String>>);

impl InProgress {
    /// Claims a key until the claim is dropped.
    pub(super) fn claim(&self, key: &str) -> Result<Claim<'_>, Refusal> {
        if !self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned()) {
            let detail = "the first request with this key is not answered yet";
            return Err(Refusal::new(StatusCode::CONFLICT, REQUEST_IN_PROGRESS, detail));
        }
        Ok(Claim { all: self, key: key.to_owned() })
    }
}

/// A claimed key.
pub(super) struct Claim<'a> {
    all: &'a InProgress,
    key: String,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.all.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}
