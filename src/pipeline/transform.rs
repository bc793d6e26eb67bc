//! The transform's thread: log entries in order, each folded and committed before the next.
//!
//! State, outbox and cursor of a step are one atomic commit, durable before sinks may see the deltas; one without deltas
//! survives the process, and the next one with some makes it durable. A crash anywhere leaves a cursor from which the
//! fold, being deterministic, writes the same again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, Sender};
use syncline_capture::StopSignal;
use syncline_journal::{Commit, Durability, Log, Store, TRANSFORM_CURSOR};
use syncline_schemas::frame::LogEntry;
use syncline_schemas::ident::{LogOffset, SourceId, TableId};
use syncline_schemas::table::TableSchema;
use syncline_transform::TransformError;
use syncline_transform::fold::{self, Fold, HeldNow, ShapePolicy};
use syncline_transform::mapping::Mapping;
use syncline_transform::state::{Cursor, Step};
use tracing::{debug, error, info};

use super::replay::Replay;
use super::state::{self, FoldState, LogReplay, unusable};
use super::status::{Status, TransformStatus};
use super::{defect, outbox};

/// Entries that are decoded while one is folded. One suffices to keep the fold busy, and each is a frame's memory.
const READ_AHEAD: usize = 1;
/// How long one wait for new entries lasts before the thread looks whether it should stop.
const WAIT: Duration = Duration::from_millis(100);
pub(super) const STEP: &str = "transform.step";
pub(super) const ROWS: &str = "transform.rows";
/// Cursor that tells this state from every other.
pub(super) const EPOCH: &str = "epoch";

/// What to do about a mapping that is put aside.
const MISFIT_REMEDY: &str = "what it delivered stays as it was, and the others go on: mend it, or the table, and have \
                             `syncline replay` apply it, with --reread where it does not fit the table as it was";
/// What may be wrong with mappings that fit the tables as they are now.
pub(super) const OLDER_SHAPE: &str = "where the table has that column by now, the log holds it without: `syncline replay --reread` \
                                      reads the sources again instead";

type Decoded = Result<(LogOffset, LogEntry), TransformError>;

/// Why the mappings could not go on with a shape, were it in the log; nothing where they can.
pub(super) fn foresee(
    store: &Store,
    mappings: Vec<Mapping>,
    before: Option<&TableSchema>,
    shape: &TableSchema,
) -> Option<String> {
    Some(match fold::foresee(mappings, before, shape, &FoldState::new(store)).err()? {
        TransformError::KeyChanged { reason, .. } => {
            format!("{reason}, and its rows are kept by their key: set it back, or start over")
        }
        fault => format!("a mapping could not take it: {fault}"),
    })
}

/// The fold of a daemon, ready to go on where the store says.
pub(super) struct Transform {
    fold: Fold,
    store: Store,
    /// Changed mappings, which the fold folds the log again with.
    replay: Option<Replay>,
    /// So far the log was folded before it is folded again: what changed up to there was let pass.
    passed: LogOffset,
    /// What becomes of tables that change, while the log is not folded again.
    policy: ShapePolicy,
    /// So many mappings that do not fit any more are known to the status.
    misfits: usize,
    mappings: Arc<[Mapping]>,
}

impl Transform {
    /// Reads the cursor and checks the mappings against the state.
    pub(super) fn open(
        store: Store,
        mappings: Vec<Mapping>,
        policy: ShapePolicy,
        sources: &[SourceId],
    ) -> Result<Self, TransformError> {
        let read: Arc<[Mapping]> = mappings.clone().into();
        let cursor = |name| store.cursor(name).map_err(|error| unusable(&error));
        let narrow = |value: u64| u32::try_from(value).map_err(|error| TransformError::State(error.to_string()));
        let epoch = match cursor(EPOCH)? {
            Some(epoch) => narrow(epoch)?,
            None => first_epoch(&store)?,
        };
        if let Some(mut replay) = Replay::pending(&store, &mappings)? {
            replay.await_only(sources);
            let newer = FoldState::new(&replay.store);
            let mut fold = match replay.cursor()? {
                Some(at) => Fold::open(epoch, mappings, at, &newer)?,
                None => Fold::begin(epoch, mappings, replay.after(), &newer)?,
            };
            let folded = LogOffset(cursor(TRANSFORM_CURSOR)?.unwrap_or_default());
            fold.inherit(Box::new(FoldState::new(&store)), folded)?;
            return Ok(Self { fold, store, replay: Some(replay), passed: folded, policy, misfits: 0, mappings: read });
        }
        // Of a process that ended between its switch and the removal.
        store.remove_other_generations().map_err(|error| unusable(&error))?;
        let at = Cursor {
            folded: LogOffset(cursor(TRANSFORM_CURSOR)?.unwrap_or_default()),
            step: narrow(cursor(STEP)?.unwrap_or_default())?,
            rows: narrow(cursor(ROWS)?.unwrap_or_default())?,
        };
        let fold = Fold::open(epoch, mappings, at, &FoldState::new(&store))?.with_policy(policy.clone());
        Ok(Self { fold, store, replay: None, passed: LogOffset::START, policy, misfits: 0, mappings: read })
    }

    /// Puts where it stands into the status.
    pub(super) fn report(&mut self, status: &TransformStatus) -> Result<(), TransformError> {
        self.report_misfits(status);
        let folded = self.store.cursor(TRANSFORM_CURSOR).map_err(|error| unusable(&error))?.unwrap_or_default();
        let (mut folded, mut needs) = (LogOffset(folded), self.fold.needs_after());
        match &self.replay {
            Some(replay) => {
                // The older state must be able to go on, should the change be given up.
                let older = fold::needs_after(&FoldState::new(&self.store), folded)?;
                needs = needs.min(older).min(replay.after());
                status.replay.folded.store(self.fold.cursor().folded.0, Ordering::Release);
                status.replay.upto.store(replay.marker().0, Ordering::Release);
                status.replay.after.store(replay.after().0, Ordering::Release);
            }
            None => folded = self.fold.cursor().folded,
        }
        status.replay.runs.store(self.replay.is_some(), Ordering::Release);
        status.needs.store(needs.0, Ordering::Release);
        status.folded.store(folded.0, Ordering::Release);
        Ok(())
    }

    /// Says of mappings that were put aside since it was said last.
    fn report_misfits(&mut self, status: &TransformStatus) {
        let count = self.fold.misfits().count();
        if std::mem::replace(&mut self.misfits, count) != count {
            status.misfits.set(self.fold.misfits().map(|fault| format!("{fault}; {MISFIT_REMEDY}")).collect());
        }
    }

    /// Starts the thread.
    pub(super) fn start(self, log: Log, status: Arc<Status>, stop: StopSignal) -> std::io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("transform".to_owned()).spawn(move || {
            let mut this = self;
            // Not broken: its commits are atomic, so the state is as good as before, and capture goes on.
            let park = |why| status.transform.parked.park(why);
            defect::watched(&status, park, || {
                if let Err(error) = this.run(&log, &status, &stop) {
                    let reason = match (&this.replay, &error) {
                        (Some(_), TransformError::Mapping(_)) => {
                            format!("while the log is folded again: {error}; {OLDER_SHAPE}")
                        }
                        (Some(_), _) => format!("while the log is folded again: {error}"),
                        (None, _) => error.to_string(),
                    };
                    error!(error = reason, folded = %status.folded(), "transform parked");
                    status.transform.parked.park(reason);
                    status.transform.broken.store(matches!(error, TransformError::State(_)), Ordering::Release);
                }
            });
        })
    }

    /// Folds entry after entry, while another thread reads and decodes the next one.
    fn run(&mut self, log: &Log, status: &Status, stop: &StopSignal) -> Result<(), TransformError> {
        self.conclude(status, &|| !stop.is_stopped())?;
        let after = self.fold.cursor().folded;
        let (sender, entries) = crossbeam_channel::bounded(READ_AHEAD);
        // A reader that waits for the log does not see that nobody takes what it reads any longer.
        let ended = AtomicBool::new(false);
        let mappings = Arc::clone(&self.mappings);
        std::thread::scope(|scope| {
            let (reader, ended_for_reader) = (std::thread::Builder::new().name("transform-read".to_owned()), &ended);
            let spawned = reader.spawn_scoped(scope, move || {
                let wanted = || !stop.is_stopped() && !ended_for_reader.load(Ordering::Acquire);
                let wants =
                    |source: &SourceId, table: &TableId| mappings.iter().any(|mapping| mapping.reads(source, table));
                if let Err(error) = read(log, after, &wanted, &wants, &sender) {
                    // Nobody is there to be told where the fold has failed itself.
                    let _ = sender.send(Err(error));
                }
            });
            spawned.map_err(|error| TransformError::State(format!("cannot start a thread: {error}")))?;
            let folded = self.fold_all(entries, log, status, stop);
            ended.store(true, Ordering::Release);
            folded
        })
    }

    /// Ends when the reader stops or the fold fails.
    fn fold_all(
        &mut self,
        entries: Receiver<Decoded>,
        log: &Log,
        status: &Status,
        stop: &StopSignal,
    ) -> Result<(), TransformError> {
        for entry in entries {
            let (offset, entry) = entry?;
            match &self.replay {
                None => self.fold(offset, &entry, log, status)?,
                Some(_) => self.fold_again(offset, &entry, log, status, stop)?,
            }
            if stop.is_stopped() {
                break;
            }
        }
        Ok(())
    }

    /// Folds an entry into the newer state, and makes that the one that counts once everything is in it.
    fn fold_again(
        &mut self,
        offset: LogOffset,
        entry: &LogEntry,
        log: &Log,
        status: &Status,
        stop: &StopSignal,
    ) -> Result<(), TransformError> {
        let Some(replay) = &mut self.replay else { return Ok(()) };
        if offset > self.passed {
            self.fold.set_stop_at(&self.policy.stop_at);
        }
        let state = FoldState::new(&replay.store);
        self.fold.fold(offset, entry, &LogReplay(log), &state, &mut |step| replay.commit(step, entry))?;
        replay.folded(entry);
        self.report(&status.transform)?;
        self.conclude(status, &|| !stop.is_stopped())
    }

    /// Tells what a finished replay says otherwise.
    fn conclude(&mut self, status: &Status, wanted: &dyn Fn() -> bool) -> Result<(), TransformError> {
        let at = self.fold.cursor().folded;
        if self.replay.as_ref().is_some_and(|replay| replay.is_due(at))
            && let Some(fault) = self.fold.unfed()
        {
            // All sources are read: it would take back whatever the mapping gave before.
            return Err(fault.into());
        }
        let Some(replay) = self.replay.take_if(|replay| replay.is_due(at)) else { return Ok(()) };
        let Some(deltas) = replay.tell(self.fold.epoch(), at, wanted)? else {
            self.replay = Some(replay);
            return Ok(());
        };
        info!(%at, deltas, "folded again; what differs is on its way");
        self.fold.come_of_age(self.policy.clone());
        self.store = replay.store;
        status.transform.deltas.fetch_add(deltas, Ordering::Relaxed);
        self.report(&status.transform)?;
        status.pulse();
        Ok(())
    }

    fn fold(&mut self, offset: LogOffset, entry: &LogEntry, log: &Log, status: &Status) -> Result<(), TransformError> {
        let store = &self.store;
        let mut write = |step: Step| commit(store, step);
        let stats = self.fold.fold(offset, entry, &LogReplay(log), &FoldState::new(store), &mut write)?;
        debug!(%offset, deltas = stats.deltas, unchanged = stats.unchanged, faulty = stats.faulty, "folded");
        status.transform.add(stats);
        status.transform.needs.store(self.fold.needs_after().0, Ordering::Release);
        status.transform.folded.store(self.fold.cursor().folded.0, Ordering::Release);
        self.report_misfits(&status.transform);
        status.pulse();
        Ok(())
    }
}

/// What is held now, looking at so many rows of each mapping at most.
pub(super) fn held_now(store: &Store, limit: usize) -> Result<HeldNow, TransformError> {
    fold::held_now(&FoldState::new(store), limit)
}

/// Reads on while that is wanted, of the tables that are.
fn read(
    log: &Log,
    mut after: LogOffset,
    wanted: &dyn Fn() -> bool,
    wants: &dyn Fn(&SourceId, &TableId) -> bool,
    entries: &Sender<Decoded>,
) -> Result<(), TransformError> {
    let mut reader = log.reader(after).map_err(|error| unusable(&error))?;
    while wanted() {
        let Some(record) = reader.next().map_err(|error| unusable(&error))? else {
            log.wait_durable(after.next(), WAIT).map_err(|error| unusable(&error))?;
            continue;
        };
        after = record.offset;
        let entry = LogEntry::decode_of(&record.payload, wants)?;
        if entries.send(Ok((after, entry))).is_err() {
            break;
        }
    }
    Ok(())
}

/// Gives a new state its epoch: the time, so that what an older state delivered to the same targets is older.
fn first_epoch(store: &Store) -> Result<u32, TransformError> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let epoch = u32::try_from(since.as_secs()).unwrap_or(u32::MAX);
    let mut commit = Commit::new();
    commit.put_cursor(EPOCH, u64::from(epoch));
    store.commit(commit, Durability::Synced).map_err(|error| unusable(&error))?;
    Ok(epoch)
}

fn commit(store: &Store, step: Step) -> Result<(), TransformError> {
    let Step { writes, outbox, cursor } = step;
    // Of what no sink is told a power failure may take the last of: the log is folded from an older cursor then.
    let durability = if outbox.is_some() { Durability::Synced } else { Durability::Buffered };
    let mut commit = Commit::new();
    state::put(&mut commit, writes);
    if let Some(deltas) = outbox {
        // A step that finishes its entry ends a span.
        let boundary = cursor.folded == deltas.offset;
        outbox::put(&mut commit, deltas, boundary);
    }
    commit.put_cursor(TRANSFORM_CURSOR, cursor.folded.0);
    commit.put_cursor(STEP, u64::from(cursor.step));
    commit.put_cursor(ROWS, u64::from(cursor.rows));
    store.commit(commit, durability).map_err(|error| unusable(&error))
}
