//! The flows of one class with their lanes: what is delivered in outbox order, masters before the facts that cite them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arrow::array::RecordBatch;
use futures::FutureExt;
use futures::future::{BoxFuture, try_join_all};
use syncline_schemas::entity::{self, Criticality, Entity};

use super::body::RecordWriter;
use super::chunk::Chunk;
use super::client::{Client, Stop};
use super::config::PlanningConfig;
use super::deal;
use super::lane::{Flow, Lane, Load};
use super::stats::PlanningStats;
use crate::{DeltaSource, EntityPatterns, Known, SinkError, Written};

/// What all tracks of a sink share.
#[derive(Clone, Copy)]
pub(super) struct Shared<'a> {
    pub(super) config: &'a PlanningConfig,
    pub(super) stats: &'a PlanningStats,
    /// As it was when this process began.
    pub(super) known: &'a Known,
}

/// The flows of one class.
pub(super) struct Track {
    /// The entities that are read for it, which may be more than it delivers.
    pub(super) reads: EntityPatterns,
    pub(super) client: Arc<Client>,
    lanes: HashMap<&'static str, Vec<Lane>>,
    /// Rows that the target has taken of each flow.
    taken: HashMap<&'static str, AtomicU64>,
}

impl Track {
    pub(super) fn new(reads: EntityPatterns, client: &Client, class: Criticality) -> Self {
        let client = Arc::new(client.of(class));
        Self { reads, client, lanes: HashMap::new(), taken: HashMap::new() }
    }

    /// Forgets where the target is: something went wrong, and only the target knows.
    pub(super) fn forget(&mut self) {
        self.lanes.values_mut().flatten().for_each(Lane::forget);
    }

    /// The lanes of an entity.
    pub(super) fn lanes_of(&mut self, entity: &'static Entity, config: &PlanningConfig) -> &mut Vec<Lane> {
        lanes_of(&mut self.lanes, entity, config)
    }

    /// What is to be remembered of its lanes and is not yet.
    pub(super) fn notes(&mut self) -> Vec<(String, Vec<u8>)> {
        let of = |(name, lanes): (&&'static str, &mut Vec<Lane>)| {
            let entity = entity::get(name);
            entity.map(|entity| lanes.iter_mut().filter_map(|lane| lane.note(entity)).collect::<Vec<_>>())
        };
        self.lanes.iter_mut().filter_map(of).flatten().collect()
    }

    /// Asks every lane that was ever acknowledged whether the target still holds that.
    pub(super) fn recalls<'t>(
        &'t mut self,
        shared: Shared<'t>,
        taken: &'t AtomicU64,
    ) -> Vec<BoxFuture<'t, Result<(), Stop>>> {
        let Shared { config, stats, known } = shared;
        let client = &*self.client;
        let mut recalls: Vec<BoxFuture<'t, Result<(), Stop>>> = Vec::new();
        for (name, lanes) in &mut self.lanes {
            let Some(entity) = entity::get(name) else { continue };
            let flow = Flow { entity, client, config, stats, known, taken };
            for lane in lanes.iter_mut().filter(|lane| lane.is_acknowledged()) {
                recalls.push(async move { lane.recall(&flow).await.map(drop) }.boxed());
            }
        }
        recalls
    }

    /// Delivers a chunk. A flow is done before the next begins, so that a fact never overtakes the master it cites.
    pub(super) async fn deliver(
        &mut self,
        shared: Shared<'_>,
        chunk: &Chunk,
        told: &dyn DeltaSource,
        epochs: &mut Epochs,
    ) -> Result<Written, Stop> {
        let mut written = Written::default();
        for (entity, batches) in chunk.flows() {
            written.absorb(self.deliver_flow(shared, entity, batches, told, false, epochs).await?);
        }
        Ok(written)
    }

    /// Delivers the rows of one entity, all lanes at once; `again` where the target has later ones.
    pub(super) async fn deliver_flow(
        &mut self,
        shared: Shared<'_>,
        entity: &'static Entity,
        batches: &[RecordBatch],
        told: &dyn DeltaSource,
        again: bool,
        epochs: &mut Epochs,
    ) -> Result<Written, Stop> {
        let Shared { config, stats, known } = shared;
        let rows = deal::join(entity, batches)?;
        let dealt = deal::deal(entity, &rows, config.partitions)?;
        stats.coalesced(dealt.coalesced);
        let records = RecordWriter::new(entity, &rows)?;
        let client = &*self.client;
        let taken = self.taken.entry(&entity.name).or_default();
        let flow = Flow { entity, client, config, stats, known, taken };
        let lanes = lanes_of(&mut self.lanes, entity, config);
        let busy = lanes.iter_mut().zip(&dealt.partitions).filter(|(_, rows)| !rows.is_empty());
        let parts = try_join_all(busy.map(|(lane, of_lane)| {
            lane.send(&flow, Load { batch: &rows, records: &records, rows: of_lane, told, again })
        }))
        .await?;
        let newest = dealt.partitions.iter().flatten().map(|row| row.version.epoch()).max();
        epochs.sent = epochs.sent.max(newest);
        epochs.seen = epochs.seen.max(lanes.iter().map(Lane::epoch).max());
        Ok(parts.into_iter().fold(Written::default(), |mut sum, part| {
            sum.absorb(part);
            sum
        }))
    }
}

fn lanes_of<'l>(
    lanes: &'l mut HashMap<&'static str, Vec<Lane>>,
    entity: &'static Entity,
    config: &PlanningConfig,
) -> &'l mut Vec<Lane> {
    lanes.entry(&entity.name).or_insert_with(|| (0..config.partitions).map(Lane::new).collect())
}

/// Epochs met during a write: ours, and the target's.
#[derive(Default)]
pub(super) struct Epochs {
    sent: Option<u32>,
    seen: Option<u32>,
}

impl Epochs {
    /// Those of two parts of a write.
    pub(super) fn and(self, other: Self) -> Self {
        Self { sent: self.sent.max(other.sent), seen: self.seen.max(other.seen) }
    }

    /// Stops a daemon all of whose rows are older than what the target has seen: they were passed over as known, but
    /// another daemon's state made those versions. Old rows before newer ones of our own are a resumed write.
    pub(super) fn check(&self, config: &PlanningConfig) -> Result<(), SinkError> {
        if self.sent.is_none() || self.sent >= self.seen {
            return Ok(());
        }
        Err(SinkError::Refused {
            target: config.url.to_string(),
            reason: format!(
                "has seen epoch {}, ours is {}",
                self.seen.unwrap_or_default(),
                self.sent.unwrap_or_default()
            ),
            remedy: "a daemon with a newer state writes to this target; stop this one, or rebuild its state".into(),
        })
    }
}
