//! Rows that a target refused: kept until a newer version of their key gets through, and sent again where the target says
//! that a later attempt can succeed.
//!
//! ```text
//! sinks  <sink> 0 r <entity> 0 <key>   ->  u32 length of the head | head, JSON | the row, an encoded delta
//! cursor sink.unlisted/<sink>          ->  refused rows that found no place
//! ```
//!
//! What can succeed later is sent again for a time, counted from the refusal of that version; then it is a dead letter like any other.
//!
//! A row is written down as soon as its refusal is known, not with the cursor: a killed daemon would otherwise skip it as
//! arrived. It is bounded in rows and in bytes, and what finds no place is counted. Keys are shown, never logged.

mod again;
mod letters;
mod row;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arrow::array::AsArray;
use arrow::datatypes::UInt8Type;
use syncline_journal::{Commit, Durability, Space, Store};
use syncline_schemas::delta::{self, DeltaBatch, SYSTEM_COLUMNS};
use syncline_schemas::entity;
use syncline_schemas::ident::{LogOffset, Version};
use syncline_schemas::keycode;
use syncline_schemas::rowcode::Rows;
use syncline_sinks::{Reject, SinkError};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::warn;

pub(in crate::pipeline) use self::again::Again;
pub(crate) use self::letters::{Letter, LetterError};
pub(crate) use self::row::RefusedRow;
use self::row::{compose, parse};
use super::memory::place;
use super::outbox::unreadable;

/// Rows kept of a sink: enough to see every cause, and a bound for a target that refuses everything.
const ROWS_MAX: usize = 10_000;
/// A larger row is listed and not kept, so that all of them stay below 640 MiB.
const ROW_BYTES_MAX: usize = 64 * 1024;
/// Refused rows of one write that get a log line.
const LINES_MAX: u64 = 1_000;
/// The first pause before retryable rows are sent again: what they miss is often on its way.
const FIRST: Duration = if cfg!(test) { Duration::from_millis(20) } else { Duration::from_secs(10) };
/// The longest.
const LONGEST: Duration = Duration::from_secs(600);

const ROW: u8 = b'r';

/// The refused rows of one sink.
pub(crate) struct Refused {
    store: Store,
    sink: String,
    /// How long retryable rows are sent again, from their first refusal on.
    retry_for: Duration,
    state: Mutex<State>,
    /// Somebody wants rows to be sent again.
    wake: Notify,
}

#[derive(Default)]
struct State {
    /// By entity and encoded key.
    rows: HashMap<String, HashMap<Vec<u8>, RefusedRow>>,
    unlisted: u64,
    /// The sink's cursor.
    confirmed: LogOffset,
    /// When retryable rows are sent again, and the pause before.
    due: Option<Instant>,
    pause: Duration,
    pass: Pass,
}

/// What happens during one write.
#[derive(Default)]
pub(super) struct Pass {
    /// True where refused rows are sent again.
    again: bool,
    /// True where that is because it is time, so that all retryable ones are.
    timed: bool,
    /// Rows that an operator changed or gave up meanwhile, in these versions: what becomes of those says nothing of it.
    touched: HashMap<(String, Vec<u8>), String>,
    told: u64,
    /// Newest version of each listed key that was read.
    read: HashMap<(String, Vec<u8>), Version>,
    refused: HashSet<(String, Vec<u8>)>,
    /// Keys of a load whose rows stay as they are.
    kept: HashSet<Vec<u8>>,
}

impl State {
    fn len(&self) -> usize {
        self.rows.values().map(HashMap::len).sum()
    }

    fn any_retryable(&self) -> bool {
        self.rows.values().flat_map(HashMap::values).any(|row| row.retryable)
    }

    /// True where all deltas up to the row's version are confirmed. Sent before them, a row of a load would have its lane
    /// look as if they had arrived.
    fn may_go(&self, row: &RefusedRow) -> bool {
        row.version.parse::<Version>().is_ok_and(|version| version.offset() <= self.confirmed)
    }

    fn any_asked(&self) -> bool {
        self.rows.values().flat_map(HashMap::values).any(|row| row.asked && self.may_go(row))
    }

    fn schedule(&mut self, pause: Duration) {
        self.pause = pause.min(LONGEST);
        self.due = self.any_retryable().then(|| Instant::now() + self.pause);
    }
}

fn malformed(sink: &str) -> SinkError {
    SinkError::Outbox { reason: format!("a refused row of sink {sink} does not decode") }
}

/// The keys of rows of an entity; none where it is not canonical.
fn keys(batch: &DeltaBatch) -> Result<Option<Rows>, SinkError> {
    let Some(entity) = entity::get(&batch.entity) else { return Ok(None) };
    let columns = batch.rows.columns().get(SYSTEM_COLUMNS..SYSTEM_COLUMNS + entity.key_len());
    Ok(columns.map(keycode::encode).transpose()?)
}

fn version(batch: &DeltaBatch, row: usize) -> Option<Version> {
    let bytes = batch.rows.column(1).as_fixed_size_binary_opt()?.value(row);
    Some(Version::from_bytes(bytes.try_into().ok()?))
}

/// Looks at what is read: a listed key among it is about to be delivered.
fn observe(
    rows: &HashMap<String, HashMap<Vec<u8>, RefusedRow>>,
    batch: &DeltaBatch,
    pass: &mut Pass,
) -> Result<(), SinkError> {
    let Some(listed) = rows.get(&batch.entity).filter(|listed| !listed.is_empty()) else { return Ok(()) };
    let Some(keys) = keys(batch)? else { return Ok(()) };
    let operations = batch.rows.column(0).as_primitive_opt::<UInt8Type>();
    for row in 0..keys.len() {
        // Nothing is delivered of a key that is kept.
        if operations.is_some_and(|operations| operations.value(row) == delta::KEEP) {
            pass.kept.extend(listed.get_key_value(keys.row(row)).map(|(key, _)| key.clone()));
            continue;
        }
        if let Some((key, version)) = listed.get_key_value(keys.row(row)).zip(version(batch, row)) {
            let newest = pass.read.entry((batch.entity.clone(), key.0.clone())).or_insert(version);
            *newest = version.max(*newest);
        }
    }
    Ok(())
}

/// The first rows of a sink's list.
pub(crate) fn list(store: &Store, sink: &str, rows_max: usize) -> Vec<RefusedRow> {
    let pairs = store.scan_prefix(Space::Sinks, &place(sink, ROW, b"")).take(rows_max);
    pairs.filter_map(|pair| Some(parse(&pair.ok()?.1)?.0)).collect()
}

impl fmt::Debug for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refused").field("sink", &self.sink).finish_non_exhaustive()
    }
}

impl Refused {
    /// Reads what earlier processes kept.
    pub(super) fn open(store: &Store, sink: &str, retry_for: Duration) -> Result<Self, SinkError> {
        let (store, sink) = (store.clone(), sink.to_owned());
        let this = Self { store, sink, retry_for, state: Mutex::default(), wake: Notify::new() };
        let unlisted = this.store.cursor(&this.unlisted_name()).map_err(|error| unreadable(&error))?;
        let mut state = this.lock();
        state.unlisted = unlisted.unwrap_or_default();
        let prefix = this.prefix();
        for pair in this.store.scan_prefix(Space::Sinks, &prefix) {
            let (key, value) = pair.map_err(|error| unreadable(&error))?;
            let (row, _) = parse(&value).ok_or_else(|| malformed(&this.sink))?;
            let key = key.get(prefix.len() + row.entity.len() + 1..).ok_or_else(|| malformed(&this.sink))?.to_vec();
            state.rows.entry(row.entity.clone()).or_default().insert(key, row);
        }
        state.schedule(FIRST);
        drop(state);
        Ok(this)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn prefix(&self) -> Vec<u8> {
        place(&self.sink, ROW, b"")
    }

    fn unlisted_name(&self) -> String {
        format!("sink.unlisted/{}", self.sink)
    }

    fn place(&self, entity: &str, key: &[u8]) -> Vec<u8> {
        place(&self.sink, ROW, &[entity.as_bytes(), &[0], key].concat())
    }

    /// How many rows the target lacks.
    pub(crate) fn count(&self) -> u64 {
        let state = self.lock();
        state.len() as u64 + state.unlisted
    }

    /// How many of them were sent again for as long as rows are.
    pub(crate) fn expired(&self) -> u64 {
        self.lock().rows.values().flat_map(HashMap::values).filter(|row| row.expired).count() as u64
    }

    /// Makes those permanent that have been refused for long enough. Their age counts by the clock on the wall, over restarts.
    pub(super) fn expire(&self) -> Result<(), SinkError> {
        let mut state = self.lock();
        let (mut commit, mut expired, now) = (Commit::new(), 0_u64, now_ms());
        for (entity, rows) in &mut state.rows {
            let is_over = |row: &RefusedRow| Duration::from_millis(now.saturating_sub(row.since_ms)) >= self.retry_for;
            for (key, head) in rows.iter_mut().filter(|(_, row)| row.retryable && is_over(row)) {
                let place = self.place(entity, key);
                let stored = self.store.get(Space::Sinks, &place).map_err(|error| unreadable(&error))?;
                let (_, row) = stored.as_deref().and_then(parse).ok_or_else(|| malformed(&self.sink))?;
                (head.retryable, head.expired) = (false, true);
                commit.put(Space::Sinks, place, compose(head, row));
                expired += 1;
            }
        }
        if expired == 0 {
            return Ok(());
        }
        let (sink, hours) = (&self.sink, self.retry_for.as_secs() / 3600);
        warn!(
            sink,
            rows = expired,
            hours,
            "refused rows are not sent again by themselves any longer; see `syncline dead-letters list`"
        );
        self.store.commit(commit, Durability::Buffered).map_err(|error| unreadable(&error))
    }

    /// Waits until refused rows are to be sent again, because it is time or because somebody wants it.
    pub(super) async fn due(&self) {
        loop {
            let woken = self.wake.notified();
            let due = {
                let state = self.lock();
                if state.any_asked() { Some(Instant::now()) } else { state.due }
            };
            match due {
                Some(due) if due <= Instant::now() => return,
                Some(due) => drop(tokio::time::timeout_at(due, woken).await),
                None => woken.await,
            }
        }
    }

    /// Deltas up to there have arrived.
    pub(super) fn confirm(&self, upto: LogOffset) {
        let mut state = self.lock();
        state.confirmed = upto;
        if state.any_asked() {
            self.wake.notify_one();
        }
    }

    /// A write begins; `again` where it sends refused rows.
    pub(super) fn begin(&self, again: bool) {
        let mut state = self.lock();
        let timed = again && state.due.is_some_and(|due| due <= Instant::now());
        state.pass = Pass { again, timed, ..Pass::default() };
    }

    /// Deltas are sent once more, whatever the target knows of their versions.
    pub(super) fn begin_once_more(&self) {
        self.lock().pass = Pass { again: true, ..Pass::default() };
    }

    /// Looks at what is read for the write under way: a listed key among it is about to be delivered.
    pub(super) fn observe(&self, batch: &DeltaBatch) -> Result<(), SinkError> {
        let mut state = self.lock();
        let State { rows, pass, .. } = &mut *state;
        observe(rows, batch, pass)
    }

    /// The same for a load, which goes on beside the writes.
    pub(super) fn observe_pass(&self, batch: &DeltaBatch, pass: &mut Pass) -> Result<(), SinkError> {
        observe(&self.lock().rows, batch, pass)
    }

    /// Writes refused rows down.
    pub(super) fn keep(&self, rejects: Vec<Reject>) -> Result<(), SinkError> {
        let mut state = self.lock();
        let mut pass = std::mem::take(&mut state.pass);
        let kept = self.keep_in(&mut state, rejects, &mut pass);
        state.pass = pass;
        kept
    }

    /// The same for a load.
    pub(super) fn keep_pass(&self, rejects: Vec<Reject>, pass: &mut Pass) -> Result<(), SinkError> {
        self.keep_in(&mut self.lock(), rejects, pass)
    }

    fn keep_in(&self, state: &mut State, rejects: Vec<Reject>, pass: &mut Pass) -> Result<(), SinkError> {
        let mut commit = Commit::new();
        for reject in rejects {
            self.log(&reject, pass);
            let batch = DeltaBatch { entity: reject.entity, rows: reject.row };
            let Some(key) = keys(&batch)?.filter(|keys| !keys.is_empty()).map(|keys| keys.row(0).to_vec()) else {
                state.unlisted += 1;
                continue;
            };
            let name = (batch.entity.clone(), key);
            if pass.touched.get(&name) == Some(&reject.version) {
                pass.refused.insert(name);
                continue;
            }
            // A write that is begun again refuses the row as it was before somebody changed it, or asked for it.
            let listed = state.rows.get(&name.0).and_then(|rows| rows.get(&name.1));
            if !pass.again && listed.is_some_and(|row| row.asked && row.version == reject.version) {
                pass.refused.insert(name);
                continue;
            }
            // A load refuses rows in the version of its cut; what is known of a later one counts.
            if listed.is_some_and(|row| row.version > reject.version) {
                pass.refused.insert(name);
                continue;
            }
            let key = name.1;
            let full = state.len() >= ROWS_MAX;
            let before = state.rows.get(&batch.entity).and_then(|rows| rows.get(&key));
            if full && before.is_none() {
                state.unlisted += 1;
                continue;
            }
            let mut row = delta::encode(std::slice::from_ref(&batch))?;
            let kept = row.len() <= ROW_BYTES_MAX;
            if !kept {
                row.clear();
            }
            let same = before.filter(|before| before.version == reject.version);
            let expired = same.is_some_and(|same| same.expired);
            let head = RefusedRow {
                entity: batch.entity.clone(),
                key: reject.key,
                version: reject.version,
                code: reject.code,
                field: reject.field,
                retryable: reject.retryable && kept && !expired,
                attempts: same.map_or(1, |same| same.attempts.saturating_add(1)),
                since_ms: same.map_or_else(now_ms, |same| same.since_ms),
                asked: false,
                expired,
                kept,
            };
            commit.put(Space::Sinks, self.place(&batch.entity, &key), compose(&head, &row));
            pass.refused.insert((batch.entity.clone(), key.clone()));
            let retryable = head.retryable;
            state.rows.entry(batch.entity).or_default().insert(key, head);
            if retryable && state.due.is_none() {
                state.schedule(FIRST);
            }
        }
        commit.put_cursor(&self.unlisted_name(), state.unlisted);
        self.store.commit(commit, Durability::Buffered).map_err(|error| unreadable(&error))
    }

    fn log(&self, reject: &Reject, pass: &mut Pass) {
        pass.told += 1;
        if pass.again || pass.told > LINES_MAX {
            return;
        }
        let Reject { entity, version, code, field, .. } = reject;
        let field = field.as_deref().unwrap_or("");
        warn!(sink = self.sink, entity, version, code, field, "row refused by the target");
    }

    /// The write is done, with so many refused rows: what was read and not refused has been delivered.
    pub(super) fn settle(&self, rejected: u64, commit: &mut Commit) {
        let mut state = self.lock();
        let pass = std::mem::take(&mut state.pass);
        self.settle_in(&mut state, pass, rejected, commit);
    }

    /// The same of a load.
    pub(super) fn settle_pass(&self, pass: Pass, rejected: u64, commit: &mut Commit) {
        self.settle_in(&mut self.lock(), pass, rejected, commit);
    }

    /// Rows of an entity that are refused in versions up to one.
    pub(super) fn listed(&self, entity: &str, upto: Version) -> Vec<(Vec<u8>, String)> {
        let upto = upto.to_string();
        let state = self.lock();
        let rows = state.rows.get(entity).into_iter().flatten().filter(|(_, row)| row.version <= upto);
        rows.map(|(key, row)| (key.clone(), row.version.clone())).collect()
    }

    /// Gives those of some rows up that a full load has not met: the source has them no more, and sent again they would be
    /// back.
    pub(super) fn give_up_swept(
        &self,
        entity: &str,
        listed: &[(Vec<u8>, String)],
        pass: &Pass,
    ) -> Result<(), SinkError> {
        let mut state = self.lock();
        let Some(rows) = state.rows.get_mut(entity) else { return Ok(()) };
        let mut commit = Commit::new();
        for (key, version) in listed {
            let name = (entity.to_owned(), key.clone());
            let is_met = pass.read.contains_key(&name) || pass.refused.contains(&name) || pass.kept.contains(key);
            if !is_met && rows.get(key).is_some_and(|row| row.version == *version) {
                commit.delete(Space::Sinks, self.place(entity, key));
                rows.remove(key);
            }
        }
        self.store.commit(commit, Durability::Buffered).map_err(|error| unreadable(&error))
    }

    fn settle_in(&self, state: &mut State, pass: Pass, rejected: u64, commit: &mut Commit) {
        let Pass { again, timed, touched, told, read, refused, kept: _ } = pass;
        let mut settled = 0;
        for ((entity, key), version) in read {
            let place = self.place(&entity, &key);
            let Some(rows) = state.rows.get_mut(&entity) else { continue };
            let version = version.to_string();
            // A refused version that is read once more is known to the target and passed over, except when it is sent again.
            let newer = rows.get(&key).is_some_and(|row| row.version < version || (again && row.version == version));
            let name = (entity, key);
            if newer && !refused.contains(&name) {
                if touched.get(&name) == Some(&version) {
                    let (sink, entity) = (&self.sink, &name.0);
                    warn!(
                        sink,
                        entity,
                        version,
                        "the target took a dead letter while it was changed: what it took may be the old values"
                    );
                }
                let key = name.1;
                rows.remove(&key);
                commit.delete(Space::Sinks, place);
                settled += 1;
            }
        }
        if rejected > told {
            state.unlisted += rejected - told;
            commit.put_cursor(&self.unlisted_name(), state.unlisted);
        }
        if !again && rejected > LINES_MAX {
            warn!(sink = self.sink, rows = rejected - LINES_MAX, "more rows refused by the target; see /status");
        }
        if timed {
            let pause = if settled > 0 { FIRST } else { state.pause * 2 };
            state.schedule(pause);
        }
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
