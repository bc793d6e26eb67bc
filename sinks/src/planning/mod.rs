//! Deliver canonical deltas to a planning platform over HTTP: the PDX/1 contract.
//!
//! ```text
//! span -> chunk (~20,000 rows) -> per entity, masters first -> deal to lanes by key prefix -> batches -> POST
//!                                                               (newest version per key, in version order)
//! ```
//!
//! Rows are absolute images with versions, so a target that keeps the highest version per key ends right whatever
//! happens on the way. More is promised than that:
//! - per key, versions arrive in rising order: a key has one lane, a lane one request under way;
//! - nothing is sent twice after a crash: a lane resumes behind the version in the target's watermark;
//! - a lost reply is repeated with the same bytes and the same `Idempotency-Key`;
//! - of a batch that the target refuses as a whole the bad rows are searched for;
//! - a row that the target refuses is told to [`DeltaSource::refused`]; the others go on;
//! - a batch that is too large for the target is halved, down to the one row that does not fit by itself;
//! - critical rows [overtake](overtake) the others, which never starve;
//! - a daemon whose state is older than what the target has seen (a lower epoch) is stopped, never ignored.
//!
//! Dropping the future of a write is a crash: lanes forget what they knew and ask the target again.
//!
//! What each lane was acknowledged is remembered with the cursor. A start asks every such lane where it is, so that a
//! target that was set back or emptied is noticed at once and not when a row happens to come.

mod auth;
mod backoff;
mod bisect;
pub(crate) mod body;
pub(crate) mod chunk;
pub(crate) mod client;
mod config;
mod connect;
pub(crate) mod contract;
pub(crate) mod deal;
pub(crate) mod digest;
mod fill;
mod gate;
mod jobs;
pub(crate) mod json;
mod lane;
mod outputs;
mod overtake;
pub(crate) mod probe;
mod reached;
mod share;
pub(crate) mod snapshot;
mod stats;
mod track;
mod verdict;
pub mod webhook;
mod windows;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{StreamExt as _, TryStreamExt as _};
use syncline_schemas::entity::{Criticality, Entity};
use syncline_schemas::ident::LogOffset;

use crate::{Batching, DeltaSource, EntityPatterns, Filler, Identity, Known, Recalled, Sink, SinkError, Span, Written};
pub use auth::Auth;
use chunk::Chunk;
use client::{Client, Stop};
pub use config::{
    Compression, Format, MAX_BYTES, MAX_RECORDS, NONCRITICAL_SHARE, PARTITIONS, PATIENCE, PlanningConfig, TIMEOUT,
    urgent,
};
pub use connect::TlsFiles;
pub use gate::Rate;
use lane::parse_note_name;
pub use outputs::{NoPage, OutputsClient};
use overtake::Write;
use reached::Reached;
use snapshot::PlanningFiller;
pub use stats::{PlanningCounts, PlanningStats};
use track::{Epochs, Shared, Track};
pub use windows::Windows;

/// How often a write begins again because the target expects another batch, before that is a fault.
const REWINDS_MAX: u32 = 5;

/// Lanes that are asked side by side at a start.
const RECALLED_AT_ONCE: usize = 16;

/// Delivers to one planning platform.
pub struct PlanningSink {
    config: PlanningConfig,
    client: Arc<Client>,
    stats: Arc<PlanningStats>,
    urgent: Track,
    others: Track,
    /// Everything urgent has arrived up to here; of no meaning below the span.
    ahead: LogOffset,
    /// As it was when this process began.
    known: Option<Known>,
    /// True from the start of a write to its good end: what lanes know is not to be trusted otherwise.
    unfinished: bool,
}

impl PlanningSink {
    /// Prepares a sink; the target is first asked when there are rows for it.
    ///
    /// # Errors
    /// [`SinkError::Setting`] for a setting that cannot be used.
    pub fn new(config: PlanningConfig) -> Result<Self, SinkError> {
        config.check()?;
        let (client, first) = (Client::new(config.clone())?, config.urgent());
        // What nobody knows is read with the others, and refused.
        let rest = EntityPatterns::all().without(first.clone());
        Ok(Self {
            urgent: Track::new(EntityPatterns::exactly(first), &client, Criticality::Critical),
            others: Track::new(rest, &client, Criticality::Noncritical),
            ahead: LogOffset::START,
            client: Arc::new(client),
            config,
            stats: Arc::default(),
            known: None,
            unfinished: false,
        })
    }

    /// The counters, to be read while it works.
    #[must_use]
    pub fn stats(&self) -> Arc<PlanningStats> {
        Arc::clone(&self.stats)
    }

    /// Asks the target once whether it takes what is configured; delivers nothing.
    ///
    /// # Errors
    /// [`SinkError::Unavailable`] where it does not answer, [`SinkError::Refused`] with the remedy where it does not let
    /// us in, does not know an entity or takes smaller batches only.
    pub async fn check(&self) -> Result<(), SinkError> {
        let capabilities = self.client.capabilities().await?;
        let refused = |reason: String, remedy: &str| {
            Err(SinkError::Refused { target: self.config.url.to_string(), reason, remedy: remedy.to_owned() })
        };
        let lacks = |known: &Option<Vec<String>>, wanted: &str| {
            let same = |text: &str| text.replace(' ', "") == wanted.replace(' ', "");
            known.as_ref().is_some_and(|known| !known.iter().any(|known| same(known)))
        };
        let media_type = self.config.format.media_type();
        if lacks(&capabilities.content_types, media_type) {
            return refused(format!("does not take {media_type}"), "set format to one that it takes");
        }
        if let Some(encoding) = self.config.compression.encoding()
            && lacks(&capabilities.content_encodings, encoding)
        {
            return refused(format!("does not take {encoding}"), "set compression to one that it takes");
        }
        for Entity { name, .. } in self.config.entities.entities() {
            let Some(limits) = capabilities.flows.get(name) else {
                return refused(format!("does not take the entity {name}"), "leave it out in the sink's entities");
            };
            let ours_and_theirs = [
                ("max_records", self.config.max_records, limits.max_records),
                ("max_bytes", self.config.max_bytes, limits.max_bytes),
            ];
            for (setting, ours, theirs) in ours_and_theirs {
                if let Some(theirs) = theirs.filter(|&theirs| theirs < ours) {
                    let reason = format!("takes {setting} of {theirs} for {name}, the sink sends up to {ours}");
                    return refused(reason, &format!("set {setting} = {theirs} in the sink"));
                }
            }
        }
        Ok(())
    }

    /// Delivers a span, beginning again where the target wants another batch.
    async fn persist(&mut self, span: Span, deltas: &dyn DeltaSource, again: bool) -> Result<Written, SinkError> {
        for _ in 0..REWINDS_MAX {
            match self.attempt(span, deltas, again).await {
                Ok(written) => return Ok(written),
                Err(Stop::Rewind) => self.stats.rewinds(1),
                Err(stop) => return Err(stop.into_error()),
            }
        }
        Err(SinkError::Refused {
            target: self.config.url.to_string(),
            reason: format!("expected other batch numbers than it had announced, {REWINDS_MAX} times in a row"),
            remedy: "look for a second daemon that writes to this target under the same pipeline name".into(),
        })
    }

    /// Delivers a span once, as far as it gets.
    async fn attempt(&mut self, span: Span, deltas: &dyn DeltaSource, again: bool) -> Result<Written, Stop> {
        if std::mem::replace(&mut self.unfinished, true) {
            self.forget();
        }
        let Self { config, stats, urgent, others, ahead, known, .. } = self;
        let shared = Shared { config, stats, known: known.get_or_insert_default() };
        let (mut written, epochs) = if again {
            in_order(shared, urgent, others, span, deltas).await?
        } else {
            let (written, epochs, reached) = Write::new(shared, span, deltas, *ahead).run(urgent, others).await?;
            *ahead = reached;
            (written, epochs)
        };
        epochs.check(config)?;
        self.unfinished = false;
        written.notes.extend(self.urgent.notes());
        written.notes.extend(self.others.notes());
        Ok(written)
    }

    /// Forgets where the target is, and that anything urgent is there already: what is read once more settles what is known of
    /// rows that it refused.
    fn forget(&mut self) {
        self.urgent.forget();
        self.others.forget();
        self.ahead = LogOffset::START;
    }

    /// Asks every lane that was ever acknowledged whether the target still holds that.
    async fn recall_lanes(&mut self, known: &Known) -> Result<(), Stop> {
        self.forget();
        self.unfinished = false;
        let Self { config, stats, urgent, others, known: began, .. } = self;
        let taken = AtomicU64::new(0);
        let began = &*began.get_or_insert_with(|| known.clone());
        for (name, note) in &known.notes {
            let Some((entity, partition)) = parse_note_name(name) else { continue };
            // An entity that is no longer delivered is not asked for; one lane less is refused by those that remain.
            let Some(entity) = config.entities.entities().find(|it| it.name == entity) else { continue };
            let track = if urgent.reads.contains(&entity.name) { &mut *urgent } else { &mut *others };
            let lane = track.lanes_of(entity, config).get_mut(partition);
            if let Some((lane, acknowledged)) = lane.zip(Reached::from_note(note)) {
                lane.remember(acknowledged);
            }
        }
        let shared = Shared { config, stats, known: began };
        let recalls: Vec<_> = [urgent, others].into_iter().flat_map(|track| track.recalls(shared, &taken)).collect();
        futures::stream::iter(recalls).buffer_unordered(RECALLED_AT_ONCE).try_collect().await
    }
}

/// Delivers rows that the target has later ones of, without haste.
async fn in_order(
    shared: Shared<'_>,
    urgent: &mut Track,
    others: &mut Track,
    span: Span,
    deltas: &dyn DeltaSource,
) -> Result<(Written, Epochs), Stop> {
    let (mut written, mut epochs) = (Written::default(), Epochs::default());
    let mut entries = deltas.read(span)?;
    while let Some(chunk) = Chunk::read(&mut entries, &shared.config.entities).await? {
        for (entity, batches) in chunk.flows() {
            let track = if urgent.reads.contains(&entity.name) { &mut *urgent } else { &mut *others };
            written.absorb(track.deliver_flow(shared, entity, batches, deltas, true, &mut epochs).await?);
        }
    }
    Ok((written, epochs))
}

#[async_trait]
impl Sink for PlanningSink {
    fn identity(&self) -> Identity {
        let target = self.config.url.as_str().trim_end_matches('/').to_owned();
        Identity { kind: "planning", target, entities: self.config.entities.names() }
    }

    async fn recall(&mut self, known: &Known) -> Result<Recalled, SinkError> {
        match self.recall_lanes(known).await {
            // A watermark is per lane and speaks of versions; no single offset follows from it.
            Ok(()) if known.notes.is_empty() => Ok(Recalled::Unknown),
            Ok(()) => Ok(Recalled::Everything),
            Err(Stop::Rewind) => Err(SinkError::Refused {
                target: self.config.url.to_string(),
                reason: "answered the question for a watermark as if it were a batch".to_owned(),
                remedy: "check that the sink's url is the base of a PDX/1 service, ending in /pdx/v1".to_owned(),
            }),
            Err(stop) => Err(stop.into_error()),
        }
    }

    async fn write(&mut self, span: Span, deltas: &dyn DeltaSource) -> Result<Written, SinkError> {
        self.persist(span, deltas, false).await
    }

    async fn retry(&mut self, rows: &dyn DeltaSource) -> Result<Written, SinkError> {
        let every = Span { after: LogOffset::START, upto: LogOffset(u64::MAX) };
        self.persist(every, rows, true).await
    }

    fn filler(&self) -> Option<Box<dyn Filler>> {
        let (client, config, stats) = (Arc::clone(&self.client), self.config.clone(), Arc::clone(&self.stats));
        Some(Box::new(PlanningFiller { client, config, stats }))
    }

    fn batching(&self) -> Batching {
        Batching { max_rows: 65_536, linger: Duration::ZERO }
    }
}
