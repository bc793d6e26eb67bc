//! Deliver canonical deltas to platforms that speak other dialects than PDX/1, as a profile says.
//!
//! ```text
//! span -> chunk -> per entity, masters first -> values by the profile's expressions -> deal by the key there -> dialect
//! ```
//!
//! Such a platform keeps no versions, so what PDX/1 leaves to it is done here:
//! - only the newest row of a key is sent, of events every one;
//! - per key there is one lane, and the next chunk begins when everything of the last one is durable there;
//! - rows up to what a lane has delivered are not sent again by this process. After a crash the span that was not confirmed
//!   is: a key that changed several times in it can show an older row until the span is through;
//! - a row that the platform or the profile refuses is told to [`DeltaSource::refused`]; the others go on.

mod accept_errors;
mod cloudevents;
mod definition;
mod dialect;
mod document;
mod drop_file;
mod expr;
mod file_drop;
mod flow;
mod frepple;
mod known;
mod odata_tx;
mod sheet;
mod wire;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use syncline_schemas::entity::Entity;
use syncline_schemas::ident::{LogOffset, Version};

use crate::lake::StoreOptions;
use crate::lake::store::Place;
use crate::planning::chunk::Chunk;
use crate::planning::deal::join;
use crate::planning::{PlanningConfig, PlanningStats};
use crate::{Batching, DeltaSource, EntityPatterns, Identity, Known, Recalled, Sink, SinkError, Span, Written};
use accept_errors::AcceptErrors;
use cloudevents::CloudEvents;
use definition::Flow;
pub use definition::Profile;
use dialect::{Speech, Voice};
pub use document::ProfileFaults;
use file_drop::FileDrop;
use frepple::Frepple;
use odata_tx::ODataTx;
use sheet::Sheet;
use wire::Wire;

/// Rows that end the wait for more. The lanes of a platform that is polled for each batch would otherwise idle.
const MAX_ROWS: usize = 65_536;

/// Rows that end the wait for a file early, and how long that is where the profile does not say.
const FILE_ROWS: usize = 500_000;
const FILE_EVERY: Duration = Duration::from_secs(60);

/// What stands before the name of a constant field in the note of its value.
const CONSTANT: &str = "constant/";

/// Settings of a profile sink.
#[derive(Debug, Clone)]
pub struct ProfileConfig {
    /// How to reach the platform and which entities to deliver; how many rows travel together is the profile's.
    pub target: PlanningConfig,
    /// What to say to it.
    pub profile: Arc<Profile>,
    /// How the store is reached, where the profile writes files.
    pub store: StoreOptions,
}

impl ProfileConfig {
    /// Everything that a profile has a place for, to a URL.
    ///
    /// # Errors
    /// [`SinkError::Setting`] where `entities` and the profile have nothing in common.
    pub fn new(mut target: PlanningConfig, profile: Profile) -> Result<Self, SinkError> {
        target.rate = target.rate.or(profile.rate);
        let both: Vec<String> = profile.entities().into_iter().filter(|name| target.entities.contains(name)).collect();
        if both.is_empty() {
            let known = profile.entities().join(", ");
            let reason = format!("has nothing that {} has a flow for; there are {known}", profile.file);
            return Err(SinkError::Setting { setting: "entities", reason });
        }
        target.entities = EntityPatterns::new(both)?;
        if profile.writes_files() {
            // One file after the other, and rows of each in version order.
            target.partitions = 1;
        }
        Ok(Self { target, profile: Arc::new(profile), store: StoreOptions::default() })
    }

    /// Checks what types cannot.
    ///
    /// # Errors
    /// [`SinkError::Setting`] with the setting's name and what it should be.
    pub fn check(&self) -> Result<(), SinkError> {
        if self.profile.writes_files() {
            return self.place().map(drop);
        }
        self.target.check()
    }

    fn place(&self) -> Result<Place, SinkError> {
        Place::open(&self.target.url, &self.store)
    }

    /// The dialect at work, and what it counts.
    fn build(&self) -> Result<(Box<dyn Voice>, Arc<PlanningStats>), SinkError> {
        let (pipeline, stats) = (self.target.pipeline.clone(), Arc::<PlanningStats>::default());
        let wire = || Wire::new(self.target.clone(), Arc::clone(&stats));
        let voice: Box<dyn Voice> = match &self.profile.speech {
            Speech::Frepple => Box::new(Frepple::new(wire()?)),
            Speech::AcceptErrors(confirm) => Box::new(AcceptErrors::new(wire()?, confirm.clone(), pipeline)),
            Speech::ODataTx(says) => Box::new(ODataTx::new(wire()?, says.clone(), pipeline)),
            Speech::CloudEvents(events) => Box::new(CloudEvents::new(wire()?, events.clone(), pipeline)),
            Speech::FileDrop(files) => Box::new(FileDrop::new(self.place()?, files.clone(), pipeline)),
        };
        Ok((voice, stats))
    }
}

/// Delivers to one platform.
pub struct ProfileSink {
    config: ProfileConfig,
    voice: Box<dyn Voice>,
    stats: Arc<PlanningStats>,
    /// How far each lane of a flow is, by this process.
    reached: HashMap<&'static str, Vec<Option<Version>>>,
    /// Values of the fields that the profile says to be constant, and how many of them are remembered.
    constants: HashMap<String, String>,
    remembered: usize,
}

impl ProfileSink {
    /// Prepares a sink; the target is first asked when there are rows for it.
    ///
    /// # Errors
    /// [`SinkError::Setting`] for a setting that cannot be used.
    pub fn new(config: ProfileConfig) -> Result<Self, SinkError> {
        config.check()?;
        let (voice, stats) = config.build()?;
        Ok(Self { config, voice, stats, reached: HashMap::new(), constants: HashMap::new(), remembered: 0 })
    }

    /// The counters, to be read while it works.
    #[must_use]
    pub fn stats(&self) -> Arc<PlanningStats> {
        Arc::clone(&self.stats)
    }

    /// Asks the target once whether it takes what is configured; delivers nothing.
    ///
    /// # Errors
    /// [`SinkError::Unavailable`] where it does not answer, [`SinkError::Refused`] with the remedy where it does not let us in
    /// or has no place for a flow.
    pub async fn check(&self) -> Result<(), SinkError> {
        let wanted = |flow: &&Flow| self.config.target.entities.contains(&flow.entity.name);
        let flows: Vec<Flow> = self.config.profile.flows.iter().filter(wanted).cloned().collect();
        self.voice.check(&flows).await
    }

    async fn persist(&mut self, span: Span, deltas: &dyn DeltaSource, again: bool) -> Result<Written, SinkError> {
        self.voice.begin(span, again).await?;
        let mut written = Written::default();
        let mut entries = deltas.read(span)?;
        while let Some(chunk) = Chunk::read(&mut entries, &self.config.target.entities).await? {
            for (entity, batches) in chunk.flows() {
                // A flow is done before the next begins, so that a fact never overtakes the master it cites.
                written.absorb(self.deliver(entity, batches, deltas, again).await?);
            }
        }
        written.absorb(self.voice.end().await?);
        if !again && self.constants.len() > self.remembered {
            let note = |(name, value): (&String, &String)| (format!("{CONSTANT}{name}"), value.clone().into_bytes());
            written.notes.extend(self.constants.iter().map(note));
            self.remembered = self.constants.len();
        }
        Ok(written)
    }

    /// Delivers the rows of one entity.
    async fn deliver(
        &mut self,
        entity: &'static Entity,
        batches: &[RecordBatch],
        told: &dyn DeltaSource,
        again: bool,
    ) -> Result<Written, SinkError> {
        let profile = Arc::clone(&self.config.profile);
        let Some(flow) = profile.flow(entity) else { return Ok(Written::default()) };
        let batch = join(entity, batches)?;
        let sheet = Sheet::compute(flow, &batch, profile.decimals, told);
        let count = self.config.target.partitions as usize;
        let mut dealt = sheet.deal(count, &mut self.constants)?;
        self.stats.coalesced(dealt.coalesced);
        let reached = self.reached.entry(&entity.name).or_insert_with(|| vec![None; count]);
        let mut written = Written { rows: dealt.settled, ..Written::default() };
        let mut ends = Vec::with_capacity(count);
        for (lane, reached) in dealt.lanes.iter_mut().zip(reached.iter()) {
            ends.push(lane.last().map(|row| row.version).max(*reached));
            // Files hold a span as a whole or nothing of it.
            if !again && !profile.writes_files() {
                let known = lane.partition_point(|row| Some(row.version) <= *reached);
                self.stats.already_there(known as u64);
                written.rows += known as u64;
                lane.drain(..known);
            }
            let refused = sheet.refuse_faulty(lane)?;
            self.stats.rejected(refused);
            written.rejected += refused;
        }
        written.absorb(self.voice.deliver(&sheet, dealt.lanes).await?);
        *reached = ends;
        Ok(written)
    }
}

#[async_trait]
impl Sink for ProfileSink {
    fn identity(&self) -> Identity {
        let target = self.config.target.url.as_str().trim_end_matches('/').to_owned();
        Identity { kind: "profile", target, entities: self.config.target.entities.names() }
    }

    async fn recall(&mut self, known: &Known) -> Result<Recalled, SinkError> {
        for (name, value) in &known.notes {
            if let (Some(name), Ok(value)) = (name.strip_prefix(CONSTANT), std::str::from_utf8(value)) {
                self.constants.insert(name.to_owned(), value.to_owned());
            }
        }
        self.remembered = self.constants.len();
        self.voice.recall(known).await
    }

    async fn write(&mut self, span: Span, deltas: &dyn DeltaSource) -> Result<Written, SinkError> {
        self.persist(span, deltas, false).await
    }

    async fn retry(&mut self, rows: &dyn DeltaSource) -> Result<Written, SinkError> {
        let every = Span { after: LogOffset::START, upto: LogOffset(u64::MAX) };
        self.persist(every, rows, true).await
    }

    fn batching(&self) -> Batching {
        match &self.config.profile.speech {
            Speech::FileDrop(files) => Batching { max_rows: FILE_ROWS, linger: files.every.unwrap_or(FILE_EVERY) },
            _ => Batching { max_rows: MAX_ROWS, linger: Duration::ZERO },
        }
    }
}
