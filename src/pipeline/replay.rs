//! Changed mappings at work: the log folded again into a state of its own, and sinks told what it says otherwise.
//!
//! `syncline replay` accepts a change while no daemon runs ([`accept`]); the daemon then does the work beside capture and
//! delivery. Until it is done the older state counts, and its deltas are delivered as before. Where the log no longer
//! reaches back to the first row, the sources are read again first, behind its end, and the fold begins there.
//!
//! ```text
//! log     1 ............ folded ........ marker ........ told        all sources read again whole, if they had to be
//! older   ------------------|                               |
//! newer   --------------------------------------------------|-------->  the generation that counts from here on
//!         its deltas are dropped          what differs --> outbox, as deltas of the entry "told"
//!
//! cursor replay.after            the log is folded again from behind it
//! cursor replay.marker           was appended when the change was accepted, so it lies behind all that was delivered
//! cursor replay.mappings         fingerprint of the accepted set
//! cursor replay.at               when, microseconds since 1970
//! cursor replay.awaits/<source>  until a copy of it has been folded whole
//! cursor replay.folded/.step/.rows   how far
//! cursor replay.told/.told_rows  steps and rows of what differs that are in the outbox
//! cursor replay.place            the key that the comparison has reached; bytes
//! cursor origin                  the state that counts is a fold of the log behind it; where there is none, of all
//! cursor reread                  where sources were last read again from; where the fold may begin as well
//! ```
//!
//! Each commit of the newer state moves its cursors with it, the last one also makes it the one that counts. So a crash
//! anywhere goes on where it was, and what it writes is the same.

use std::collections::BTreeSet;

use syncline_journal::{Commit, Durability, JournalError, Space, Store, TRANSFORM_CURSOR};
use syncline_schemas::delta;
use syncline_schemas::frame::{Frame, LogEntry};
use syncline_schemas::ident::{LogOffset, SourceId};
use syncline_transform::TransformError;
use syncline_transform::fold::{Difference, Stamp, fingerprint};
use syncline_transform::mapping::Mapping;
use syncline_transform::state::{Cursor, OutboxStep, Step};

use super::outbox::{self, Outbox};
use super::rows;
use super::state::{self, FoldState, unusable};
use super::transform::{ROWS, STEP};

/// What begins the cursors of a replay.
const REPLAY: &str = "replay.";
const AFTER: &str = "replay.after";
const MARKER: &str = "replay.marker";
const MAPPINGS: &str = "replay.mappings";
const AT: &str = "replay.at";
const AWAITS: &str = "replay.awaits/";
const FOLDED: &str = "replay.folded";
const FOLDED_STEP: &str = "replay.step";
const FOLDED_ROWS: &str = "replay.rows";
const TOLD: &str = "replay.told";
const TOLD_ROWS: &str = "replay.told_rows";
const PLACE: &str = "replay.place";
/// Where the fold of the state that counts began.
pub(super) const ORIGIN: &str = "origin";
/// Where sources were last read again from.
pub(super) const REREAD: &str = "reread";
/// Keys compared at a time.
const PAGE: usize = 4096;

/// A change that was accepted and is not told yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// The log is folded from behind it.
    pub(super) after: LogOffset,
    pub(super) marker: LogOffset,
    /// Microseconds since 1970.
    pub(super) at: i64,
    pub(super) awaits: BTreeSet<SourceId>,
}

impl Plan {
    /// Writes it down, with a state of nothing for what comes.
    pub(super) fn write(&self, mappings: &[Mapping], store: &Store) -> Result<(), JournalError> {
        let mut commit = Commit::new();
        forget(store, &mut commit)?;
        commit.put_cursor(AFTER, self.after.0);
        commit.put_cursor(MARKER, self.marker.0);
        commit.put_cursor(MAPPINGS, fingerprint(mappings));
        commit.put_cursor(AT, u64::try_from(self.at).unwrap_or_default());
        for source in &self.awaits {
            commit.put_cursor(&format!("{AWAITS}{source}"), 0);
        }
        store.remove_other_generations()?;
        store.commit(commit, Durability::Synced)
    }
}

/// True where a change was accepted and is not told yet.
pub(super) fn is_pending(store: &Store) -> Result<bool, JournalError> {
    Ok(store.cursor(MARKER)?.is_some())
}

/// True where the change that was accepted last is to these mappings.
pub(super) fn accepts(store: &Store, mappings: &[Mapping]) -> Result<bool, JournalError> {
    Ok(store.cursor(MAPPINGS)? == Some(fingerprint(mappings)))
}

/// Gives a change up that is not told yet: the older state goes on.
pub(super) fn give_up(store: &Store) -> Result<(), JournalError> {
    let mut commit = Commit::new();
    let folded = LogOffset(store.cursor(TRANSFORM_CURSOR)?.unwrap_or_default());
    let steps = u32::try_from(store.cursor(STEP)?.unwrap_or_default()).unwrap_or(u32::MAX);
    Outbox::new(store.clone()).take_back(folded.next(), steps, &mut commit)?;
    forget(store, &mut commit)?;
    store.commit(commit, Durability::Synced)?;
    store.remove_other_generations()
}

fn forget(store: &Store, commit: &mut Commit) -> Result<(), JournalError> {
    for pair in store.scan_prefix(Space::Cursors, REPLAY.as_bytes()) {
        commit.delete(Space::Cursors, pair?.0.to_vec());
    }
    Ok(())
}

/// A replay at work.
pub(super) struct Replay {
    plan: Plan,
    /// The newer state.
    pub(super) store: Store,
    older: Store,
}

impl Replay {
    /// Takes up the change that was accepted, if there is one.
    pub(super) fn pending(store: &Store, mappings: &[Mapping]) -> Result<Option<Self>, TransformError> {
        let cursor = |name| store.cursor(name).map_err(|error| unusable(&error));
        let Some(marker) = cursor(MARKER)? else { return Ok(None) };
        if !accepts(store, mappings).map_err(|error| unusable(&error))? {
            let reason = "the mappings are not those that `syncline replay` accepted last; run it again".to_owned();
            return Err(TransformError::MappingsChanged { mapping: "mappings".to_owned(), reason });
        }
        let mut awaits = BTreeSet::new();
        for pair in store.scan_prefix(Space::Cursors, AWAITS.as_bytes()) {
            let (key, _) = pair.map_err(|error| unusable(&error))?;
            awaits.insert(SourceId::new(&String::from_utf8_lossy(&key[AWAITS.len()..])));
        }
        let plan = Plan {
            after: LogOffset(cursor(AFTER)?.unwrap_or_default()),
            marker: LogOffset(marker),
            at: i64::try_from(cursor(AT)?.unwrap_or_default()).unwrap_or_default(),
            awaits,
        };
        let newer = store.rebuilt().map_err(|error| unusable(&error))?;
        Ok(Some(Self { plan, store: newer, older: store.clone() }))
    }

    /// The log is needed behind this offset until it is done.
    pub(super) const fn after(&self) -> LogOffset {
        self.plan.after
    }

    /// The entry from which on it can be told.
    pub(super) const fn marker(&self) -> LogOffset {
        self.plan.marker
    }

    /// How far the newer state is; none where it holds nothing yet.
    pub(super) fn cursor(&self) -> Result<Option<Cursor>, TransformError> {
        let Some(folded) = self.number(FOLDED)? else { return Ok(None) };
        Ok(Some(Cursor {
            folded: LogOffset(folded),
            step: self.number(FOLDED_STEP)?.and_then(|step| u32::try_from(step).ok()).unwrap_or_default(),
            rows: self.number(FOLDED_ROWS)?.and_then(|rows| u32::try_from(rows).ok()).unwrap_or_default(),
        }))
    }

    fn number(&self, name: &str) -> Result<Option<u64>, TransformError> {
        self.store.cursor(name).map_err(|error| unusable(&error))
    }

    /// Commits a step of the newer state without its deltas.
    pub(super) fn commit(&self, step: Step, entry: &LogEntry) -> Result<(), TransformError> {
        let Step { writes, outbox: _, cursor } = step;
        let mut commit = Commit::new();
        state::put(&mut commit, writes);
        commit.put_cursor(FOLDED, cursor.folded.0);
        commit.put_cursor(FOLDED_STEP, u64::from(cursor.step));
        commit.put_cursor(FOLDED_ROWS, u64::from(cursor.rows));
        if let Some(source) = whole(entry).filter(|source| cursor.step == 0 && self.plan.awaits.contains(*source)) {
            commit.delete(Space::Cursors, format!("{AWAITS}{source}").into_bytes());
        }
        // Folded again after a power failure.
        self.store.commit(commit, Durability::Buffered).map_err(|error| unusable(&error))
    }

    /// Looks at an entry that was folded.
    pub(super) fn folded(&mut self, entry: &LogEntry) {
        if let Some(source) = whole(entry) {
            self.plan.awaits.remove(source);
        }
    }

    /// True where what differs can be told at an entry.
    pub(super) fn is_due(&self, folded: LogOffset) -> bool {
        folded >= self.plan.marker && self.plan.awaits.is_empty()
    }

    /// Forgets sources that are no longer configured: nobody will read them again.
    pub(super) fn await_only(&mut self, configured: &[SourceId]) {
        self.plan.awaits.retain(|source| configured.contains(source));
    }

    /// Tells what differs as deltas of an entry, and makes the newer state the one that counts. Gives the number of deltas;
    /// none where it was stopped before.
    pub(super) fn tell(
        &self,
        epoch: u32,
        offset: LogOffset,
        wanted: &dyn Fn() -> bool,
    ) -> Result<Option<u64>, TransformError> {
        let (older, newer) = (FoldState::new(&self.older), FoldState::new(&self.store));
        let difference = Difference::new(&older, &newer)?;
        let mut place = self.place()?;
        let (mut step, mut rows) = self.told(offset)?;
        let mut deltas = 0;
        while let Some(page) = difference.page(&place, PAGE)? {
            if !wanted() {
                return Ok(None);
            }
            place = page.place().to_vec();
            let (batch, writes) = page.deltas(Stamp { epoch, offset, at: self.plan.at, rows })?;
            let mut commit = Commit::new();
            state::put(&mut commit, writes);
            if let Some(batch) = batch {
                let count = u32::try_from(batch.rows.num_rows()).expect("a page is small");
                let bytes = delta::encode(&[batch])?;
                outbox::put(&mut commit, OutboxStep { offset, step, rows: count, bytes }, false);
                (step, rows, deltas) = (step + 1, rows + count, deltas + u64::from(count));
            }
            commit.put_cursor(TOLD, u64::from(step));
            commit.put_cursor(TOLD_ROWS, u64::from(rows));
            commit.put(Space::Cursors, PLACE, place.clone());
            self.store.commit(commit, Durability::Buffered).map_err(|error| unusable(&error))?;
        }
        self.switch(offset, step).map_err(|error| unusable(&error))?;
        Ok(Some(deltas))
    }

    fn place(&self) -> Result<Vec<u8>, TransformError> {
        let place = self.store.get(Space::Cursors, PLACE.as_bytes()).map_err(|error| unusable(&error))?;
        Ok(place.map(|place| place.to_vec()).unwrap_or_default())
    }

    /// Steps and rows that an entry has in the outbox already: of what differs, or of the older state, which may stand inside it.
    fn told(&self, offset: LogOffset) -> Result<(u32, u32), TransformError> {
        let narrow = |value: Option<u64>| u32::try_from(value.unwrap_or_default()).unwrap_or(u32::MAX);
        if let Some(step) = self.number(TOLD)? {
            return Ok((narrow(Some(step)), narrow(self.number(TOLD_ROWS)?)));
        }
        let folded = LogOffset(self.number(TRANSFORM_CURSOR)?.unwrap_or_default());
        if offset == folded.next() {
            return Ok((narrow(self.number(STEP)?), narrow(self.number(ROWS)?)));
        }
        Ok((0, 0))
    }

    fn switch(&self, offset: LogOffset, steps: u32) -> Result<(), JournalError> {
        let mut commit = Commit::new();
        if let Some(last) = steps.checked_sub(1) {
            Outbox::new(self.store.clone()).bound(offset, last, &mut commit)?;
        }
        forget(&self.store, &mut commit)?;
        rows::keep_notes(&self.older, &mut commit)?;
        commit.put_cursor(TRANSFORM_CURSOR, offset.0);
        commit.put_cursor(STEP, 0);
        commit.put_cursor(ROWS, 0);
        commit.put_cursor(ORIGIN, self.plan.after.0);
        self.store.switch(commit)
    }
}

/// The source that an entry leaves between two transactions, all its tables read.
fn whole(entry: &LogEntry) -> Option<&SourceId> {
    match entry {
        LogEntry::Frame(Frame { source, position, txn_end: true, .. }) if !position.is_start() => Some(source),
        _ => None,
    }
}
