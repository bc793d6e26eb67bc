//! State in memory with crashes at its commits, and a daemon's loop around the fold.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};

use syncline_schemas::frame::LogEntry;
use syncline_schemas::ident::{LogOffset, SourceId, TableId};
use syncline_schemas::table::TableSchema;
use syncline_transform::TransformError;
use syncline_transform::fold::{Fold, FoldStats, ShapePolicy, is_held};
use syncline_transform::mapping::Mapping;
use syncline_transform::state::{Cursor, OutboxStep, Pair, Replay, Space, State, Step, Visit};

use crate::frames::{Change, frame};
use crate::outbox::{Delta, deltas};

/// The epoch of all tests.
pub(crate) const EPOCH: u32 = 7;

/// Where the process dies around a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crash {
    Before,
    After,
}

/// A space by key.
type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

/// What survives a crash.
#[derive(Default, Clone)]
pub(crate) struct Memory {
    spaces: RefCell<HashMap<Space, Pairs>>,
    cursor: RefCell<Cursor>,
    pub(crate) outbox: RefCell<Vec<OutboxStep>>,
    /// What the next commits do; `None` or nothing left: they succeed.
    pub(crate) crashes: RefCell<VecDeque<Option<Crash>>>,
}

impl State for Memory {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, TransformError> {
        Ok(self.spaces.borrow().get(&space).and_then(|pairs| pairs.get(key).cloned()))
    }

    fn scan(&self, space: Space, prefix: &[u8], after: &[u8], limit: usize) -> Result<Vec<Pair>, TransformError> {
        let spaces = self.spaces.borrow();
        let from = prefix.max(after).to_vec();
        let pairs = spaces.get(&space).into_iter().flat_map(|pairs| pairs.range(from.clone()..));
        let pairs = pairs.skip_while(|(key, _)| key.as_slice() == after);
        let pairs = pairs.take_while(|(key, _)| key.starts_with(prefix)).take(limit);
        Ok(pairs.map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}

impl Memory {
    pub(crate) fn pairs(&self, space: Space) -> Vec<Pair> {
        let spaces = self.spaces.borrow();
        spaces.get(&space).into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    pub(crate) fn cursor(&self) -> Cursor {
        *self.cursor.borrow()
    }

    pub(crate) fn write(&self, writes: Vec<(Space, Vec<u8>, Option<Vec<u8>>)>) {
        self.apply(Step { writes, outbox: None, cursor: self.cursor() });
    }

    fn commit(&self, step: Step) -> Result<(), TransformError> {
        let crash = self.crashes.borrow_mut().pop_front().flatten();
        if crash != Some(Crash::Before) {
            self.apply(step);
        }
        crash.map_or(Ok(()), |_| Err(TransformError::State("crash".to_owned())))
    }

    fn apply(&self, step: Step) {
        let mut spaces = self.spaces.borrow_mut();
        for (space, key, value) in step.writes {
            let pairs = spaces.entry(space).or_default();
            match value {
                Some(value) => pairs.insert(key, value),
                None => pairs.remove(&key),
            };
        }
        self.outbox.borrow_mut().extend(step.outbox);
        *self.cursor.borrow_mut() = step.cursor;
    }
}

/// A log in memory.
struct Logged<'l>(&'l [LogEntry]);

impl Replay for Logged<'_> {
    fn frames(
        &self,
        source: &SourceId,
        from: LogOffset,
        to: LogOffset,
        wants: &dyn Fn(&TableId) -> bool,
        visit: &mut Visit<'_>,
    ) -> Result<(), TransformError> {
        for (entry, offset) in self.0.iter().zip(1..).filter(|(entry, _)| entry.source() == source) {
            if let LogEntry::Frame(frame) = entry
                && (from.0..to.0).contains(&offset)
            {
                let mut frame = frame.clone();
                frame.batches.retain(|batch| wants(&batch.table));
                visit(LogOffset(offset), &frame)?;
            }
        }
        Ok(())
    }
}

/// A daemon with its log: mappings as path and text.
pub(crate) struct Daemon {
    pub(crate) memory: Memory,
    pub(crate) log: Vec<LogEntry>,
    mappings: Vec<(String, String)>,
    fold: Option<Fold>,
    read: usize,
    chunk: usize,
    /// What rows inherit from, where the mappings were changed.
    older: Option<Memory>,
    policy: ShapePolicy,
}

pub(crate) fn parse(mappings: &[(String, String)]) -> Vec<Mapping> {
    let parsed = mappings.iter().map(|(path, text)| Mapping::parse(path, &format!("mappings/{path}"), text));
    parsed.collect::<Result<_, _>>().expect("the test's mappings are sound")
}

impl Daemon {
    pub(crate) fn new(mappings: &[(&str, &str)]) -> Self {
        let mappings = mappings.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        Self {
            memory: Memory::default(),
            log: Vec::new(),
            mappings,
            fold: None,
            read: 0,
            chunk: 16 * 1024,
            older: None,
            policy: ShapePolicy::default(),
        }
    }

    /// With steps of so few rows.
    pub(crate) fn with_chunk(self, chunk: usize) -> Self {
        Self { chunk, ..self }
    }

    /// With mappings put aside that no longer fit.
    pub(crate) fn with_misfits_aside(self) -> Self {
        self.with_policy(ShapePolicy { misfits_aside: true, ..ShapePolicy::default() })
    }

    pub(crate) fn with_policy(self, policy: ShapePolicy) -> Self {
        Self { policy, ..self }
    }

    /// Those that are, with why.
    pub(crate) fn misfits(&self) -> Vec<String> {
        self.fold.iter().flat_map(Fold::misfits).map(ToString::to_string).collect()
    }

    /// Starts again from state.
    pub(crate) fn restart(&mut self) {
        self.fold = None;
        self.run();
    }

    /// With mappings in the place of another daemon's.
    pub(crate) fn beside(self, older: &Self) -> Self {
        Self { older: Some(older.memory.clone()), ..self }
    }

    /// Folds the rest of the log, starting again from state after every crash; counts the commits that were tried.
    ///
    /// A fold whose commit failed is asked again before it is dropped: its error must not have changed it.
    pub(crate) fn try_run(&mut self) -> Result<FoldStats, TransformError> {
        let mut last = FoldStats::default();
        loop {
            let mut fold = match self.fold.take() {
                Some(fold) => fold,
                None => {
                    let fold = Fold::open(EPOCH, parse(&self.mappings), self.memory.cursor(), &self.memory)?;
                    let mut fold = fold.with_chunk(self.chunk).with_policy(self.policy.clone());
                    self.older
                        .iter()
                        .try_for_each(|older| fold.inherit(Box::new(older.clone()), older.cursor().folded))?;
                    fold
                }
            };
            let offset = fold.cursor().folded.next();
            let Some(entry) = self.log.get(usize::try_from(offset.0).expect("short") - 1) else {
                self.fold = Some(fold);
                return Ok(last);
            };
            match fold.fold(offset, entry, &Logged(&self.log), &self.memory, &mut |step| self.memory.commit(step)) {
                Ok(stats) => {
                    last = stats;
                    self.fold = Some(fold);
                }
                Err(TransformError::State(reason)) if reason == "crash" => {
                    // Every other time the same fold is tried again, as after a full disk.
                    let same =
                        fold.cursor() == self.memory.cursor() && self.memory.crashes.borrow().len().is_multiple_of(2);
                    self.fold = same.then_some(fold);
                }
                Err(error) => return Err(error),
            }
        }
    }

    pub(crate) fn run(&mut self) -> FoldStats {
        self.try_run().expect("the log folds")
    }

    /// One whole transaction in one frame: the deltas it causes.
    pub(crate) fn commit(&mut self, changes: &[(&TableSchema, Change)]) -> Vec<Delta> {
        self.push(frame(changes, true))
    }

    pub(crate) fn push(&mut self, entry: LogEntry) -> Vec<Delta> {
        self.log.push(entry);
        self.run();
        let outbox = self.memory.outbox.borrow();
        let fresh = outbox[self.read..].iter().flat_map(deltas).collect();
        self.read = outbox.len();
        fresh
    }

    /// Records of rows and sums that are held.
    pub(crate) fn held(&self) -> Vec<String> {
        let records = self.memory.pairs(Space::Held).into_iter().filter(|(key, _)| is_held(key));
        records.map(|(_, record)| String::from_utf8(record).expect("records are text")).collect()
    }

    pub(crate) fn visible(&self) -> LogOffset {
        self.memory.cursor().folded
    }
}
