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

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use syncline_journal::{Commit, Durability, Space, Store, TRANSFORM_CURSOR};
use syncline_schemas::delta::DeltaBatch;
use syncline_schemas::entity::{self, Entity};
use syncline_schemas::ident::LogOffset;
use syncline_sinks::{DeltaSource, Filler, Image, OutboxEntry, OutboxIter, Reject, SinkError, Span};
use syncline_transform::TransformError;
use syncline_transform::fold::{self, Cut, Whole};
use tracing::info;

use super::lag;
use super::memory::place;
use super::outbox::unreadable;
use super::refused::{Pass, Refused};
use super::state::FrozenState;
use super::status::{SinkStatus, Status};
use super::transform::{EPOCH, STEP};

const ORDER: u8 = b'f';
const CARRIED: u8 = b'h';
/// Orders that are remembered after they were carried out.
const CARRIED_MAX: usize = 1_000;
/// Rows read and sent at a time.
const PAGE: usize = 4_096;

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
}

impl Order {
    /// All of an entity, and nothing else.
    pub(crate) fn whole(entity: &str) -> Self {
        let entity = Some(entity.to_owned());
        Self { entity, key: None, sweep: true, span: None, at_ms: 0, note: String::new() }
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

    /// Writes it down.
    pub(crate) fn put(&self, sink: &str, commit: &mut Commit) {
        commit.put(Space::Sinks, self.place(sink), serde_json::to_vec(self).expect("an order is plain data"));
    }

    /// Says that it was carried out.
    pub(super) fn carried(self, sink: &str, rows: u64, refused: u64, store: &Store) -> Result<(), SinkError> {
        let mut commit = Commit::new();
        commit.delete(Space::Sinks, self.place(sink));
        let done_ms = u64::try_from(lag::now_us() / 1_000).unwrap_or_default();
        info!(sink, entity = self.entity, rows, refused, sweep = self.sweep, note = self.note, "sent again as ordered");
        let name = self.place(sink);
        let carried = Carried { order: self, done_ms, rows, refused };
        let key = place(sink, CARRIED, &[&done_ms.to_be_bytes(), name.as_slice()].concat());
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

/// What a sink's target is still to be sent: masters before the facts that cite them.
pub(crate) fn orders(store: &Store, sink: &str) -> Result<Vec<Order>, SinkError> {
    let mut orders: Vec<Order> = read(store, sink, ORDER)?;
    orders.sort_by_key(|order| entity::all().iter().position(|entity| Some(&entity.name) == order.entity.as_ref()));
    Ok(orders)
}

/// Loads what is ordered, one order after the other.
pub(super) struct Loader {
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

    /// Works until the target fails.
    pub(super) async fn run(mut self) -> SinkError {
        loop {
            match self.load_next().await {
                Ok(true) => {}
                Ok(false) => self.sink().ordered.notified().await,
                Err(error) => return error,
            }
        }
    }

    /// Loads one order; false where there is none.
    async fn load_next(&mut self) -> Result<bool, SinkError> {
        let orders = orders(&self.store, &self.sink().name)?;
        self.sink().loads.store(orders.len() as u64, Ordering::Release);
        self.status.pulse();
        let Some(order) = orders.into_iter().find(|order| order.span.is_none()) else { return Ok(false) };
        let name = order.entity.clone().unwrap_or_default();
        let Some(entity) = entity::get(&name) else {
            let reason = "is not canonical; a newer Syncline ordered it".to_owned();
            return Err(SinkError::Shape { entity: name, reason });
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
        info!(sink = self.status.sinks[self.index].name, entity = entity.name, at = %cut.folded, "loading all rows");
        let written = self.filler.fill(&image, &rows).await?;
        let pass = rows.pass.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut commit = Commit::new();
        self.refused.settle_pass(pass, written.rejected, &mut commit);
        self.store.commit(commit, Durability::Buffered).map_err(|error| unreadable(&error))?;
        let sink = self.sink();
        sink.refused.store(self.refused.count(), Ordering::Relaxed);
        sink.rejected.fetch_add(written.rejected, Ordering::Relaxed);
        sink.bytes.fetch_add(written.bytes, Ordering::Relaxed);
        order.carried(&sink.name, written.rows, written.rejected, &self.store)?;
        Ok(true)
    }

    /// A moment between two source transactions, and the state of that moment.
    async fn moment(&self) -> Result<(FrozenState, Cut), SinkError> {
        let mut pulses = self.status.subscribe();
        loop {
            let frozen = FrozenState(self.store.current().snapshot());
            let cursor =
                |name| frozen.0.cursor(name).map_err(|error| unreadable(&error)).map(Option::unwrap_or_default);
            let cut = Cut {
                epoch: u32::try_from(cursor(EPOCH)?).unwrap_or(u32::MAX),
                folded: LogOffset(cursor(TRANSFORM_CURSOR)?),
                at: lag::now_us(),
            };
            if cursor(STEP)? == 0 && !fold::is_amidst(&frozen).map_err(unusable)? {
                return Ok((frozen, cut));
            }
            // The sender lives as long as the daemon.
            let _ = pulses.changed().await;
        }
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
