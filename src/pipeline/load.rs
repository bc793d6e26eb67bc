//! Whole entities loaded into a target beside its deltas: a target that begins where deltas are gone, one that takes more
//! entities than before, and whatever an operator asks for.
//!
//! ```text
//! sinks  <sink> 0 f <order>  ->  what is still to be sent, JSON
//! sinks  <sink> 0 h <time>   ->  what was sent so, for whoever asks later
//! ```
//!
//! An order is done when the target has confirmed the load; a daemon that is killed before begins it again. The rows are
//! those of the state between two source transactions, under a version behind all deltas up to there: deltas go on
//! meanwhile, and whatever comes first, the newer version wins. So no lane waits and nothing is told twice.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use syncline_capture::State;
use syncline_journal::{Commit, Durability, Log, Space, Store, TRANSFORM_CURSOR};
use syncline_schemas::delta::DeltaBatch;
use syncline_schemas::entity::{self, Entity};
use syncline_schemas::ident::{LogOffset, SourceId};
use syncline_sinks::{Class, DeltaSource, Filler, Image, OutboxEntry, OutboxIter, Reject, SinkError, Span};
use syncline_transform::TransformError;
use syncline_transform::fold::{self, Cut, Whole};
use tracing::{info, warn};

use super::backoff::Backoff;
use super::lag;
use super::memory::place;
use super::outbox::unreadable;
use super::refused::{Pass, Refused};
use super::state::FrozenState;
use super::status::{SinkStatus, SourceStatus, Status};
use super::transform::{EPOCH, STEP};

const ORDER: u8 = b'f';
const CARRIED: u8 = b'h';
/// Orders that are remembered after they were carried out.
const CARRIED_MAX: usize = 1_000;
/// Rows read and sent at a time.
const PAGE: usize = 4_096;
/// How often it is looked whether a moment has come.
const LOOKED_AT: Duration = Duration::from_millis(500);

/// Something that a target is to be sent beside its deltas.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    /// One entity only; of a load it is always one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) entity: Option<String>,
    /// One row only: the values of its key, with commas between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    /// Whether what the target has beyond that is taken away.
    #[serde(default)]
    pub(crate) sweep: bool,
    /// Whether the target lacks rows without it, so that nothing else may be delivered where it cannot be done.
    #[serde(default)]
    pub(crate) needed: bool,
    /// Deltas instead of rows: those behind one offset up to another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) span: Option<(u64, u64)>,
    /// When it was given, milliseconds since 1970; 0 where nobody gave it.
    #[serde(default)]
    pub(crate) at_ms: u64,
    /// The words of whoever gave it.
    #[serde(default)]
    pub(crate) note: String,
}

/// An order that was carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Carried {
    pub(crate) order: Order,
    pub(crate) done_ms: u64,
    /// Rows that were sent.
    pub(crate) rows: u64,
    /// Those of them that the target refused.
    pub(crate) refused: u64,
    /// Why it could not be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failed: Option<String>,
}

/// Nobody gives an order while another one is struck out.
pub(crate) static ORDERS: Mutex<()> = Mutex::new(());

impl Order {
    /// All of an entity, and nothing else.
    pub(crate) fn whole(entity: &str) -> Self {
        let entity = Some(entity.to_owned());
        Self { entity, key: None, sweep: true, needed: true, span: None, at_ms: 0, note: String::new() }
    }

    /// Why it cannot be done; none where it can.
    pub(crate) fn fault(&self) -> Option<String> {
        let Some(name) = &self.entity else {
            return self.key.as_ref().map(|_| "a key is one of an entity: name that as well".to_owned());
        };
        let Some(entity) = entity::get(name) else {
            return Some(format!("there is no entity {name}; see docs/entities.md"));
        };
        self.key.as_ref().and_then(|key| fold::key_of(entity, key).err())
    }

    /// Two orders of the same rows are one.
    fn place(&self, sink: &str) -> Vec<u8> {
        let Self { entity, key, span, .. } = self;
        let name = serde_json::to_vec(&(entity, key, span)).expect("plain data");
        place(sink, ORDER, &name)
    }

    /// The order with what an earlier one of the same rows wants.
    pub(crate) fn added_to(mut self, store: &Store, sink: &str) -> Result<Self, SinkError> {
        let before = store.get(Space::Sinks, &self.place(sink)).map_err(|error| unreadable(&error))?;
        if let Some(before) = before.and_then(|before| serde_json::from_slice::<Self>(&before).ok()) {
            self.sweep |= before.sweep;
            self.needed |= before.needed;
        }
        Ok(self)
    }

    /// Writes it down.
    pub(crate) fn put(&self, sink: &str, commit: &mut Commit) {
        commit.put(Space::Sinks, self.place(sink), self.encode());
    }

    fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an order is plain data")
    }

    /// Says what became of it, and strikes it out unless it was given once more meanwhile.
    pub(super) fn carried(
        self,
        sink: &str,
        outcome: Result<(u64, u64), String>,
        store: &Store,
    ) -> Result<(), SinkError> {
        let _one_at_a_time = ORDERS.lock().unwrap_or_else(PoisonError::into_inner);
        let mut commit = Commit::new();
        let place = self.place(sink);
        let standing = store.get(Space::Sinks, &place).map_err(|error| unreadable(&error))?;
        let standing = standing.and_then(|standing| serde_json::from_slice::<Self>(&standing).ok());
        if standing.as_ref() == Some(&self) {
            commit.delete(Space::Sinks, place.clone());
        }
        let done_ms = u64::try_from(lag::now_us() / 1_000).unwrap_or_default();
        let (entity, sweep) = (self.entity.clone(), self.sweep);
        let (rows, refused, failed) = match outcome {
            Ok((rows, refused)) => {
                info!(sink, entity, rows, refused, sweep, note = self.note, "sent again as ordered");
                (rows, refused, None)
            }
            Err(reason) => {
                warn!(sink, entity, reason, note = self.note, "cannot be sent again as ordered");
                (0, 0, Some(reason))
            }
        };
        let carried = Carried { order: self, done_ms, rows, refused, failed };
        let key = super::memory::place(sink, CARRIED, &[&done_ms.to_be_bytes(), place.as_slice()].concat());
        commit.put(Space::Sinks, key, serde_json::to_vec(&carried).expect("plain data"));
        let all = all(store, sink, CARRIED)?;
        for (key, _) in all.iter().take((all.len() + 1).saturating_sub(CARRIED_MAX)) {
            commit.delete(Space::Sinks, key.clone());
        }
        store.commit(commit, Durability::Synced).map_err(|error| unreadable(&error))
    }
}

/// A key and its value.
type Pair = (Vec<u8>, Vec<u8>);

/// What lies under a kind of keys of a sink.
fn all(store: &Store, sink: &str, kind: u8) -> Result<Vec<Pair>, SinkError> {
    let pairs = store.scan_prefix(Space::Sinks, &place(sink, kind, b""));
    pairs.map(|pair| pair.map(|(key, value)| (key.to_vec(), value.to_vec())).map_err(|it| unreadable(&it))).collect()
}

fn read<T: serde::de::DeserializeOwned>(store: &Store, sink: &str, kind: u8) -> Result<Vec<T>, SinkError> {
    let malformed = |error| SinkError::Outbox { reason: format!("what sink {sink} was ordered to send: {error}") };
    all(store, sink, kind)?.iter().map(|(_, value)| serde_json::from_slice(value).map_err(malformed)).collect()
}

/// The orders that were carried out last.
pub(crate) fn carried(store: &Store, sink: &str) -> Result<Vec<Carried>, SinkError> {
    read(store, sink, CARRIED)
}

/// Entities that are ordered to be loaded whole, with nothing else left beside them.
pub(super) fn ordered_whole(store: &Store, sink: &str) -> Result<BTreeSet<String>, SinkError> {
    let whole = |order: Order| order.entity.filter(|_| order.span.is_none() && order.key.is_none() && order.sweep);
    Ok(orders(store, sink)?.into_iter().filter_map(whole).collect())
}

/// What a sink's target is still to be sent: masters before the facts that cite them.
pub(crate) fn orders(store: &Store, sink: &str) -> Result<Vec<Order>, SinkError> {
    let mut orders: Vec<Order> = read(store, sink, ORDER)?;
    orders.sort_by_key(|order| entity::all().iter().position(|entity| Some(&entity.name) == order.entity.as_ref()));
    Ok(orders)
}

/// Loads what is ordered, one order after the other.
pub(super) struct Loader {
    pub(super) log: Log,
    pub(super) store: Store,
    pub(super) status: Arc<Status>,
    /// Place of the sink in the status.
    pub(super) index: usize,
    pub(super) refused: Arc<Refused>,
    pub(super) filler: Box<dyn Filler>,
}

impl Loader {
    fn sink(&self) -> &SinkStatus {
        &self.status.sinks[self.index]
    }

    /// Works until something cannot be done that the target needs.
    pub(super) async fn run(mut self) -> SinkError {
        let mut backoff = Backoff::new();
        loop {
            let order = match self.next() {
                Ok(Some(order)) => order,
                Ok(None) => {
                    self.sink().ordered.notified().await;
                    continue;
                }
                Err(error) => return error,
            };
            let outcome = match self.carry_out(&order).await {
                Ok(outcome) => Ok(outcome),
                Err(error) if error.class() == Class::Transient => {
                    let pause = backoff.pause();
                    warn!(sink = self.sink().name, %error, pause_ms = pause.as_millis(), "loading interrupted, beginning again");
                    tokio::time::sleep(pause).await;
                    continue;
                }
                Err(error) if order.needed => return error,
                Err(error) => Err(error.to_string()),
            };
            backoff.reset();
            if let Err(error) = order.carried(&self.sink().name, outcome, &self.store) {
                return error;
            }
        }
    }

    /// The next order, if there is one.
    fn next(&self) -> Result<Option<Order>, SinkError> {
        let orders = orders(&self.store, &self.sink().name)?;
        self.sink().loads.store(orders.len() as u64, Ordering::Release);
        self.status.pulse();
        Ok(orders.into_iter().find(|order| order.span.is_none()))
    }

    /// Sends what is ordered; rows, and how many of them were refused.
    async fn carry_out(&mut self, order: &Order) -> Result<(u64, u64), SinkError> {
        let name = order.entity.clone().unwrap_or_default();
        let delivered = self.sink().loadable.get().is_some_and(|delivered| delivered.contains(&name));
        let Some(entity) = entity::get(&name).filter(|_| delivered) else {
            // Left out since, or not mapped any more: nobody waits for it.
            return Ok((0, 0));
        };
        let (frozen, cut) = self.moment().await?;
        let rows = Rows {
            frozen,
            cut,
            entity,
            key: order.key.clone(),
            refused: &self.refused,
            pass: Mutex::new(Pass::default()),
        };
        let image = Image { entity: name, cut: cut.version(), sweep: order.sweep };
        let listed = self.refused.listed(&entity.name, cut.version());
        info!(sink = self.status.sinks[self.index].name, entity = entity.name, at = %cut.folded, "loading all rows");
        let written = self.filler.fill(&image, &rows).await?;
        let pass = rows.pass.into_inner().unwrap_or_else(PoisonError::into_inner);
        if order.sweep {
            self.refused.give_up_swept(&entity.name, &listed, &pass)?;
        }
        let mut commit = Commit::new();
        self.refused.settle_pass(pass, written.rejected, &mut commit);
        self.store.commit(commit, Durability::Buffered).map_err(|error| unreadable(&error))?;
        let sink = self.sink();
        sink.refused.store(self.refused.count(), Ordering::Relaxed);
        sink.rejected.fetch_add(written.rejected, Ordering::Relaxed);
        sink.bytes.fetch_add(written.bytes, Ordering::Relaxed);
        Ok((written.rows, written.rejected))
    }

    /// A moment between two source transactions at which every source has been read whole, and the state of it. Rows that
    /// have only not been copied yet would be swept away.
    async fn moment(&self) -> Result<(FrozenState, Cut), SinkError> {
        let mut pulses = self.status.subscribe();
        let mut whole_at = None;
        loop {
            if whole_at.is_none() && self.status.sources.iter().all(|source| self.is_whole(source)) {
                whole_at = Some(self.log.durable());
            }
            if whole_at.is_some_and(|at| self.status.folded() >= at)
                && let Some(found) = self.between_transactions()?
            {
                return Ok(found);
            }
            // Not every change of a source is told by a pulse.
            let _ = tokio::time::timeout(LOOKED_AT, pulses.changed()).await;
        }
    }

    /// True where the log ends at a transaction's end of a source that is beyond its first copy, or that has had nothing.
    fn is_whole(&self, source: &SourceStatus) -> bool {
        match self.log.resume(&SourceId::new(&source.name)) {
            Some(last) => last.txn_end && !last.position.is_start(),
            None => source.progress.state() == State::Streaming,
        }
    }

    fn between_transactions(&self) -> Result<Option<(FrozenState, Cut)>, SinkError> {
        let frozen = FrozenState(self.store.snapshot());
        let cursor = |name| frozen.0.cursor(name).map_err(|error| unreadable(&error)).map(Option::unwrap_or_default);
        let cut = Cut {
            epoch: u32::try_from(cursor(EPOCH)?).unwrap_or(u32::MAX),
            folded: LogOffset(cursor(TRANSFORM_CURSOR)?),
            at: lag::now_us(),
        };
        let is_between = cursor(STEP)? == 0 && !fold::is_amidst(&frozen).map_err(unusable)?;
        Ok(is_between.then_some((frozen, cut)))
    }
}

fn unusable(error: TransformError) -> SinkError {
    SinkError::Outbox { reason: error.to_string() }
}

/// The rows of an entity at a moment.
struct Rows<'r> {
    frozen: FrozenState,
    cut: Cut,
    entity: &'static Entity,
    key: Option<String>,
    refused: &'r Refused,
    pass: Mutex<Pass>,
}

impl Rows<'_> {
    fn pass(&self) -> std::sync::MutexGuard<'_, Pass> {
        self.pass.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn page(&self, place: &mut Option<Vec<u8>>) -> Result<Option<DeltaBatch>, SinkError> {
        let Some(after) = place.take() else { return Ok(None) };
        let missing = || SinkError::Outbox { reason: "a moment between two transactions is none".to_owned() };
        let whole = Whole::new(&self.frozen, self.entity, self.cut).map_err(unusable)?.ok_or_else(missing)?;
        if let Some(key) = &self.key {
            let reason = |reason| SinkError::Shape { entity: self.entity.name.clone(), reason };
            return whole.row(&fold::key_of(self.entity, key).map_err(reason)?).map_err(unusable);
        }
        let Some(page) = whole.page(&after, PAGE).map_err(unusable)? else { return Ok(None) };
        *place = Some(page.place);
        Ok(Some(page.rows))
    }
}

impl DeltaSource for Rows<'_> {
    fn read(&self, _: Span) -> Result<OutboxIter<'_>, SinkError> {
        let mut place = Some(Vec::new());
        Ok(Box::new(std::iter::from_fn(move || {
            let batch = self.page(&mut place).transpose()?;
            Some(batch.and_then(|batch| {
                self.refused.observe_pass(&batch, &mut self.pass())?;
                Ok(OutboxEntry { offset: self.cut.folded, deltas: vec![batch] })
            }))
        })))
    }

    fn refused(&self, rejects: Vec<Reject>) -> Result<(), SinkError> {
        self.refused.keep_pass(rejects, &mut self.pass())
    }
}
