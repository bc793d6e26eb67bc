//! The dialect of platforms that are fed with files: one file per flow and span, in a folder or a bucket.
//!
//! ```text
//! <flow>/<after>-<upto>.csv          the rows                                          1.
//! _syncline/state.json               how far we are, and what is still to be told      2.
//! manifests/<after>-<upto>.json      what is in them, with totals                      3.
//! <after>-<upto>.trigger             go and load them                                  4., and noted in the state
//! ```
//!
//! - A file is put into its place when it is whole and durable; nobody sees half of one.
//! - The trigger comes last: who waits for it finds everything that the manifest names.
//! - The state decides, and outranks our cursor: what it covers is told whatever breaks off behind it, under the same name, and what it does not
//!   cover has no manifest. So a span is never told again with other bounds. Data files without a manifest are what a crash left.
//! - Rows that are sent again are called `<upto>-<upto>-again-<n>`, behind what is confirmed: a consumer loads them in their turn.
//! - The same span gives the same names and the same bytes, so writing it twice equals once.
//!
//! Rows carry `_op` and `_version`; of a deleted one only the key has values. Files are deltas, in version order.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use object_store::path::Path;
use object_store::{ObjectStoreExt as _, PutPayload};
use serde::{Deserialize, Serialize};
use syncline_schemas::entity::Entity;
use syncline_schemas::ident::LogOffset;

use super::definition::Flow;
use super::dialect::Voice;
use super::document::{Faults, Table};
use super::drop_file::{DropFile, Totals};
use super::sheet::{Row, Sheet};
use crate::lake::fault;
use crate::lake::store::Place;
use crate::{Known, Recalled, SinkError, Span, Written};

const STATE: &str = "_syncline/state.json";
/// 1 MiB: the manifest of a span of every entity, with all their totals, has a tenth of it.
const STATE_MAX: u64 = 1 << 20;
/// The word of a flow for its folder.
const FOLDER: &str = "folder";

/// In which form rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Format {
    /// RFC 4180 in UTF-8, with a line of names.
    #[default]
    Csv,
    Parquet,
}

impl Format {
    const fn extension(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Parquet => "parquet",
        }
    }
}

/// What a profile says about its files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Files {
    pub(super) format: Format,
    /// The trigger's name, where it is always the same.
    trigger: Option<String>,
    /// How long rows gather for a span.
    pub(super) every: Option<std::time::Duration>,
}

impl Files {
    pub(super) fn read(root: &mut Table<'_>, faults: &mut Faults) -> Self {
        let format = root.choice("format", &[("csv", Format::Csv), ("parquet", Format::Parquet)], faults);
        let trigger = root.text("trigger", faults);
        if let Some(text) = trigger.as_ref().filter(|text| !is_name(&text.value)) {
            text.fault(faults, "is no name of a file: letters, digits, - _ and . and no folder");
        }
        let every = root.duration("every", faults);
        Self { format: format.unwrap_or_default(), trigger: trigger.map(|text| text.value), every }
    }
}

fn is_name(text: &str) -> bool {
    let is_plain = text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    is_plain && text.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// Reads what a flow says to this dialect; its folder is called as its entity unless it says otherwise.
pub(super) fn read_flow(
    table: &mut Table<'_>,
    entity: &Entity,
    _: &mut BTreeMap<&'static str, String>,
    faults: &mut Faults,
) -> Option<String> {
    let folder = table.text(FOLDER, faults);
    if let Some(text) = folder.as_ref().filter(|text| !is_name(&text.value) || text.value == "manifests") {
        text.fault(faults, "is no name of a folder: letters, digits, - _ and ., and not manifests");
    }
    Some(folder.map_or_else(|| entity.name.clone(), |text| text.value))
}

/// How far the target is.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    pipeline: String,
    epoch: u32,
    upto: u64,
    /// How often rows were sent again.
    #[serde(default)]
    again: u64,
    /// What the last span that had rows is told by, until that is known to be there.
    #[serde(default)]
    pending: Option<Pending>,
}

/// What tells a consumer of a span.
#[derive(Debug, Serialize, Deserialize)]
struct Pending {
    /// The manifest's place, and itself.
    path: String,
    manifest: serde_json::Value,
    trigger: String,
}

/// What a consumer compares with what it has loaded.
#[derive(Serialize)]
struct Manifest<'m> {
    pipeline: &'m str,
    epoch: u32,
    /// `delta`: rows that changed, never all of them.
    load: &'static str,
    after: u64,
    upto: u64,
    files: Vec<&'m Totals>,
}

/// A write under way.
#[derive(Debug, Clone)]
struct Writing {
    /// What its files are called: names of later ones are greater.
    name: String,
    after: u64,
    upto: u64,
    /// How often rows were sent again, this time with them.
    again: u64,
    is_again: bool,
}

/// The dialect at work.
pub(super) struct FileDrop {
    place: Place,
    files: Files,
    pipeline: String,
    epoch: u32,
    writing: Option<Writing>,
    /// Files of the span under way, by flow. A writer cannot be shared, and nobody does; the lock is never waited for.
    open: Mutex<Vec<(&'static str, DropFile)>>,
}

impl FileDrop {
    pub(super) const fn new(place: Place, files: Files, pipeline: String) -> Self {
        Self { place, files, pipeline, epoch: 0, writing: None, open: Mutex::new(Vec::new()) }
    }

    fn open(&mut self) -> &mut Vec<(&'static str, DropFile)> {
        self.open.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    async fn put(&self, path: &str, bytes: Vec<u8>) -> Result<(), SinkError> {
        let put = self.place.files().put(&Path::from(path), PutPayload::from(bytes)).await;
        put.map(drop).map_err(|error| fault::store(self.place.target(), &format!("write {path}"), &error))
    }

    async fn put_json(&self, path: &str, value: &(impl Serialize + Sync)) -> Result<(), SinkError> {
        self.put(path, serde_json::to_vec_pretty(value).expect("plain data")).await
    }

    async fn state(&self) -> Result<Option<State>, SinkError> {
        let failed = |error: object_store::Error| fault::store(self.place.target(), "read the state", &error);
        let found = match self.place.files().get(&Path::from(STATE)).await {
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            found => found.map_err(failed)?,
        };
        let bytes =
            if found.meta.size > STATE_MAX { Vec::new().into() } else { found.bytes().await.map_err(failed)? };
        let state: Result<State, _> = serde_json::from_slice(&bytes);
        state
            .map(Some)
            .map_err(|_| self.refuse(format!("holds a {STATE} that is not ours"), "give the sink a folder of its own"))
    }

    fn refuse(&self, reason: String, remedy: &str) -> SinkError {
        SinkError::Refused { target: self.place.target().to_owned(), reason, remedy: remedy.to_owned() }
    }

    fn trigger(&self, name: &str) -> String {
        self.files.trigger.clone().unwrap_or_else(|| format!("{name}.trigger"))
    }

    /// Tells of a span: the manifest, and behind it the trigger.
    async fn tell(&self, pending: &Pending) -> Result<(), SinkError> {
        self.put_json(&pending.path, &pending.manifest).await?;
        self.put(&pending.trigger, b"ready\n".to_vec()).await
    }

    /// Tells what a state says is still to be told, and notes that.
    async fn settle(&self, state: State) -> Result<(), SinkError> {
        if let Some(pending) = &state.pending {
            self.tell(pending).await?;
            self.put_json(STATE, &State { pending: None, ..state }).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Voice for FileDrop {
    async fn recall(&mut self, known: &Known) -> Result<Recalled, SinkError> {
        self.epoch = known.epoch;
        self.place.sweep().await;
        let Some(state) = self.state().await? else { return Ok(Recalled::Nothing) };
        if state.pipeline != self.pipeline {
            let reason = format!("is written by pipeline {:?}, this one is {:?}", state.pipeline, self.pipeline);
            return Err(self.refuse(reason, "give each pipeline a folder of its own, and keep its name over restarts"));
        }
        if state.epoch != self.epoch {
            let reason =
                format!("was filled from the data_dir of epoch {}, ours is of epoch {}", state.epoch, self.epoch);
            return Err(self.refuse(reason, "start over with an empty folder"));
        }
        let upto = LogOffset(state.upto);
        known.refuse_beyond(self.place.target(), upto)?;
        self.settle(state).await?;
        Ok(Recalled::Upto(upto))
    }

    async fn begin(&mut self, span: Span, again: bool) -> Result<(), SinkError> {
        // What a write that was broken off has begun is nobody's.
        self.open().clear();
        let state = self.state().await?;
        let (upto, count) = state.as_ref().map_or((0, 0), |state| (state.upto, state.again));
        if !again {
            let (after, upto) = (span.after.0, span.upto.0);
            let name = format!("{after:020}-{upto:020}");
            self.writing = Some(Writing { name, after, upto, again: count, is_again: false });
            return Ok(());
        }
        if let Some(state) = state {
            self.settle(state).await?;
        }
        // Behind everything that is confirmed, and before whatever comes next.
        let name = format!("{upto:020}-{upto:020}-again-{:010}", count + 1);
        self.writing = Some(Writing { name, after: upto, upto, again: count + 1, is_again: true });
        Ok(())
    }

    async fn deliver(&mut self, sheet: &Sheet<'_>, lanes: Vec<Vec<Row>>) -> Result<Written, SinkError> {
        let mut rows: Vec<Row> = lanes.into_iter().flatten().collect();
        rows.sort_by_key(|row| row.version);
        let Some(writing) = self.writing.as_ref().filter(|_| !rows.is_empty()) else { return Ok(Written::default()) };
        let name = writing.name.clone();
        let at = match self.open().iter().position(|(flow, _)| *flow == sheet.entity.name) {
            Some(at) => at,
            None => {
                let path = format!("{}/{name}.{}", sheet.flow.path, self.files.format.extension());
                let file = DropFile::create(&self.place, path, sheet, self.files.format)?;
                self.open().push((&sheet.entity.name, file));
                self.open().len() - 1
            }
        };
        self.open()[at].1.write(sheet, &rows).await?;
        Ok(Written { rows: rows.len() as u64, ..Written::default() })
    }

    async fn end(&mut self) -> Result<Written, SinkError> {
        let Some(Writing { name, after, upto, again, is_again }) = self.writing.take() else {
            return Ok(Written::default());
        };
        let mut totals = Vec::new();
        for (_, file) in std::mem::take(self.open()) {
            totals.push(file.finish().await?);
        }
        let pending = (!totals.is_empty()).then(|| {
            let (pipeline, epoch) = (self.pipeline.as_str(), self.epoch);
            let manifest = Manifest { pipeline, epoch, load: "delta", after, upto, files: totals.iter().collect() };
            let manifest = serde_json::to_value(&manifest).expect("plain data");
            Pending { path: format!("manifests/{name}.json"), manifest, trigger: self.trigger(&name) }
        });
        if pending.is_some() || !is_again {
            let state = State { pipeline: self.pipeline.clone(), epoch: self.epoch, upto, again, pending };
            self.put_json(STATE, &state).await?;
            self.settle(state).await?;
        }
        Ok(Written { bytes: totals.iter().map(|totals| totals.bytes).sum(), ..Written::default() })
    }

    async fn check(&self, _: &[Flow]) -> Result<(), SinkError> {
        let probe = format!("_syncline/probe-{}", uuid::Uuid::new_v4());
        self.put(&probe, b"probe".to_vec()).await?;
        let removed = self.place.files().delete(&Path::from(probe.as_str())).await;
        removed.map_err(|error| fault::store(self.place.target(), "delete a probe", &error))
    }
}
