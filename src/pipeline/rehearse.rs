//! What changed mappings would change, found out beside the state that counts and without touching it.
//!
//! The log is folded with them into a scratch state, up to the entry at which the real one stands, and the two are compared
//! row by row. So what is shown is what the mappings make of the same rows, and nothing that happened meanwhile.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use syncline_journal::{Commit, Durability, JournalError, Limits, Log, Snapshot, Store, TRANSFORM_CURSOR};
use syncline_schemas::frame::LogEntry;
use syncline_schemas::ident::{LogOffset, SourceId, TableId};
use syncline_transform::fold::{self, Difference, Fold, HeldNow, HeldRows, MappingChange, RowDifference, Tally};
use syncline_transform::mapping::Mapping;
use syncline_transform::state::Step;
use syncline_transform::{MappingFault, TransformError};
use thiserror::Error;

use super::accept::reaches_back;
use super::state::{self, FoldState, FrozenState, LogReplay, unusable};
use super::transform::{OLDER_SHAPE, STEP};

/// Keys compared at a time.
const PAGE: usize = 4096;
/// Held rows of one mapping that are counted.
const HELD_MAX: usize = 1_000_000;
/// The scratch state lies beside the real one, where there is room for it.
const SCRATCH: &str = "rehearsal";
/// It is a guest in the daemon's memory.
const SCRATCH_CACHE: u64 = 16 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, Error)]
pub(crate) enum RehearsalError {
    /// The data folder cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The mappings do not fit, or the state cannot be used.
    #[error(transparent)]
    Transform(#[from] TransformError),
    /// The scratch folder cannot be used.
    #[error("the scratch folder {path}: {error}")]
    Scratch {
        /// Where.
        path: PathBuf,
        /// What is in the way.
        #[source]
        error: std::io::Error,
    },
    /// A mapping does not fit what the log holds.
    #[error("{0}; {OLDER_SHAPE}")]
    Misfit(MappingFault),
    /// The first rows are in no log any more.
    #[error(
        "the log begins at entry {0}, so it does not hold every row any longer; nothing can be shown beforehand, but \
         `syncline replay` reads the sources again; log_retention says how long the log is kept"
    )]
    Trimmed(LogOffset),
    /// The state is not at a transaction's end.
    #[error("the state stands inside log entry {0}; start the daemon until it is through")]
    Inside(LogOffset),
    /// Nobody waits for the answer any longer.
    #[error("given up")]
    Unwanted,
}

/// What would change.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rehearsal {
    pub(crate) changes: Vec<MappingChange>,
    /// Log entries folded.
    pub(crate) entries: u64,
    /// By entity; those that any mapping fills or filled.
    pub(crate) entities: BTreeMap<&'static str, Tally>,
    /// What is held by mapping and rule, and how many rows would be, where that is another number.
    pub(crate) held: Vec<(HeldRows, u64)>,
    /// Some of the rows that differ, with their entity.
    pub(crate) rows: Vec<(&'static str, RowDifference)>,
}

/// Folds the log with other mappings and compares; with so many of the differing rows of each entity.
pub(crate) fn rehearse(
    log: &Log,
    now: &Store,
    mappings: Vec<Mapping>,
    samples: usize,
    wanted: &dyn Fn() -> bool,
) -> Result<Rehearsal, RehearsalError> {
    let moment = now.snapshot();
    let older = FrozenState(moment.clone());
    let changes = fold::changes(&mappings, &older)?;
    let upto = standing(&moment)?;
    let after = reaches_back(log, now)?.ok_or_else(|| RehearsalError::Trimmed(log.first()))?;
    let scratch = Scratch::new(now.path().parent().unwrap_or_else(|| now.path()))?;
    let store = Store::open(&scratch.0, Limits { cache_bytes: SCRATCH_CACHE, ..Limits::default() })?;
    let newer = FoldState::new(&store);
    let read = mappings.clone();
    let wants = |source: &SourceId, table: &TableId| read.iter().any(|mapping| mapping.reads(source, table));
    let mut fold = Fold::begin(0, mappings, after, &newer)?;
    fold.inherit(Box::new(FrozenState(moment)), upto)?;
    let mut reader = log.reader(after)?;
    while fold.cursor().folded < upto {
        if !wanted() {
            return Err(RehearsalError::Unwanted);
        }
        let missing = || TransformError::State(format!("the log ends before {upto}, which it held before"));
        let record = reader.next()?.ok_or_else(missing)?;
        let entry = LogEntry::decode_of(&record.payload, &wants).map_err(TransformError::from)?;
        let folded = fold.fold(record.offset, &entry, &LogReplay(log), &newer, &mut |step| keep(&store, step));
        folded.map_err(|error| match error {
            TransformError::Mapping(fault) => RehearsalError::Misfit(fault),
            error => error.into(),
        })?;
    }
    if let Some(fault) = fold.unfed() {
        return Err(TransformError::from(fault).into());
    }
    let held = moved(fold::held_now(&older, HELD_MAX)?, fold::held_now(&newer, HELD_MAX)?);
    let mut rehearsal = Rehearsal { changes, entries: upto.0 - after.0, held, ..Rehearsal::default() };
    let difference = Difference::new(&older, &newer)?;
    let mut place = Vec::new();
    while let Some(page) = difference.page(&place, PAGE)? {
        if !wanted() {
            return Err(RehearsalError::Unwanted);
        }
        place = page.place().to_vec();
        page.count(rehearsal.entities.entry(page.entity()).or_default())?;
        let shown = rehearsal.rows.iter().filter(|(entity, _)| *entity == page.entity()).count();
        let more = page.samples(samples.saturating_sub(shown))?;
        rehearsal.rows.extend(more.into_iter().map(|row| (page.entity(), row)));
    }
    Ok(rehearsal)
}

/// Where other numbers of rows are held.
fn moved(before: HeldNow, after: HeldNow) -> Vec<(HeldRows, u64)> {
    let mut held: BTreeMap<_, (u64, u64)> = BTreeMap::new();
    let owner = |it: &HeldRows| (it.mapping.clone(), it.entity.clone(), it.rule.clone());
    before.by.iter().for_each(|it| held.entry(owner(it)).or_default().0 = it.rows);
    after.by.iter().for_each(|it| held.entry(owner(it)).or_default().1 = it.rows);
    let other = held.into_iter().filter(|(_, (before, after))| before != after);
    other.map(|((mapping, entity, rule), (rows, after))| (HeldRows { mapping, entity, rule, rows }, after)).collect()
}

/// The entry up to which a state is folded, if it is at an end.
fn standing(moment: &Snapshot) -> Result<LogOffset, RehearsalError> {
    let folded = LogOffset(moment.cursor(TRANSFORM_CURSOR)?.unwrap_or_default());
    if moment.cursor(STEP)?.unwrap_or_default() > 0 {
        return Err(RehearsalError::Inside(folded.next()));
    }
    Ok(folded)
}

fn keep(store: &Store, step: Step) -> Result<(), TransformError> {
    let mut commit = Commit::new();
    state::put(&mut commit, step.writes);
    store.commit(commit, Durability::Buffered).map_err(|error| unusable(&error))
}

/// A folder for as long as it is needed; one that a killed process left is taken over.
struct Scratch(PathBuf);

impl Scratch {
    fn new(beside: &Path) -> Result<Self, RehearsalError> {
        let path = beside.join(SCRATCH);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(RehearsalError::Scratch { path, error }),
            _ => Ok(Self(path)),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
