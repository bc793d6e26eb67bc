//! What a reader has done so far, readable by metrics at any moment without touching the reader.
//!
//! The counters only rise while the process lives; a session that starts again continues them. What sessions hand on to each
//! other is here, too: which shapes the log has of this process, and which server was read last.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use syncline_schemas::frame::Op;
use syncline_schemas::ident::{LogOffset, TableId};
use syncline_schemas::table::TableSchema;

/// Proofs that wait for a target to confirm their entries at most: some hours of them.
const PROOFS_MAX: usize = 1_024;

/// What a reader is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Not running, or between two sessions.
    Idle = 0,
    /// Reaching the server and checking its settings.
    Connecting = 1,
    /// Copying the tables; loading the seeds for the first time.
    Snapshot = 2,
    /// Following the log, or the folder.
    Streaming = 3,
}

impl State {
    /// One word for status pages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Connecting => "connecting",
            Self::Snapshot => "snapshot",
            Self::Streaming => "streaming",
        }
    }
}

/// Counters and marks of one source.
#[derive(Debug, Default)]
pub struct Progress {
    /// Rows handed to the log, of every operation.
    pub rows: AtomicU64,
    /// Rows copied by the snapshot.
    pub reads: AtomicU64,
    /// Inserted rows.
    pub inserts: AtomicU64,
    /// Updated rows; a changed key counts once.
    pub updates: AtomicU64,
    /// Deleted rows.
    pub deletes: AtomicU64,
    /// Truncated tables.
    pub truncates: AtomicU64,
    /// Frames handed to the log.
    pub frames: AtomicU64,
    /// Bytes received from the server.
    pub bytes: AtomicU64,
    /// Position (LSN as a number) up to which everything was handed to the log.
    pub received_lsn: AtomicU64,
    /// Position (LSN as a number) that was confirmed to the server: durable in the log.
    pub confirmed_lsn: AtomicU64,
    /// The server's log end (LSN as a number) as it last told.
    pub server_end_lsn: AtomicU64,
    /// Bytes of log that the server keeps for the source, as it last told.
    pub kept_bytes: AtomicU64,
    /// Bytes of transactions in progress that are kept until they end.
    pub spooled_bytes: AtomicU64,
    /// When the server last said anything, microseconds since 1970; 0 before.
    pub last_message_us: AtomicU64,
    /// When the first row of this process was handed to the log.
    pub first_event: OnceLock<Instant>,
    problem: Mutex<Option<String>>,
    server: Mutex<Option<String>>,
    /// Since when the server is missed that was read.
    without_server: Mutex<Option<Instant>>,
    state: AtomicU8,
    server_log: Mutex<ServerLog>,
    /// The version of each table's shape that was handed to the log last.
    shapes: Mutex<HashMap<TableId, u32>>,
    proofs: Mutex<Proofs>,
    /// Somebody waits for one.
    proof_wanted: AtomicBool,
}

/// What the server has in its log behind what was read, where it does not say so in LSNs.
#[derive(Debug, Clone, Copy, Default)]
struct ServerLog {
    behind: Option<u64>,
    /// When it may remove that, microseconds since 1970.
    goes_at_us: Option<i64>,
}

/// What is known of how late it is in the log.
#[derive(Debug, Default)]
struct Proofs {
    /// Moments, microseconds since 1970 by the source's clock, with the entry up to which the log has all that was committed before.
    open: VecDeque<(i64, LogOffset)>,
    /// The latest of them whose entries are confirmed.
    complete: Option<(i64, LogOffset)>,
    /// The latest of all.
    latest: i64,
}

impl Proofs {
    fn push(&mut self, at_us: i64, upto: LogOffset) {
        if at_us < self.latest {
            // Another clock, as after a failover, or one that was set back: what was known of the other one says nothing of it.
            *self = Self::default();
        }
        self.latest = at_us;
        let is_full = self.open.len() >= PROOFS_MAX;
        match self.open.back_mut() {
            // Nothing came in between, or a target is down for so long that one stands for all that come.
            Some(last) if is_full || last.1 == upto => *last = (at_us, upto),
            _ => self.open.push_back((at_us, upto)),
        }
    }
}

impl Progress {
    /// What the reader is doing.
    #[must_use]
    pub fn state(&self) -> State {
        match self.state.load(Ordering::Relaxed) {
            1 => State::Connecting,
            2 => State::Snapshot,
            3 => State::Streaming,
            _ => State::Idle,
        }
    }

    /// Why what the source says now is not taken, while the reader waits for it to be mended and what was taken before
    /// stays in force; none where all is well.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_problem(&self, problem: Option<String>) {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }

    /// Of the servers that a source may be read from the one that is, or was last: host and port, or its socket; none before, and none of
    /// sources that have but one.
    #[must_use]
    pub fn server(&self) -> Option<String> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How long the server has been missed that was read, from the first time on that this is asked.
    pub(crate) fn without_server(&self) -> Duration {
        let mut since = self.without_server.lock().unwrap_or_else(PoisonError::into_inner);
        since.get_or_insert_with(Instant::now).elapsed()
    }

    #[cfg(test)]
    pub(crate) fn set_without_server_since(&self, since: Instant) {
        *self.without_server.lock().unwrap_or_else(PoisonError::into_inner) = Some(since);
    }

    pub(crate) fn set_server(&self, address: String) {
        *self.without_server.lock().unwrap_or_else(PoisonError::into_inner) = None;
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = Some(address);
    }

    /// Bytes of the server's log that are not read yet; none before that is known.
    #[must_use]
    pub fn behind_bytes(&self) -> Option<u64> {
        let known = |lsn: &AtomicU64| Some(lsn.load(Ordering::Relaxed)).filter(|lsn| *lsn > 0);
        let lsns = known(&self.received_lsn).zip(known(&self.server_end_lsn));
        lsns.map(|(received, end)| end.saturating_sub(received)).or_else(|| self.server_log().behind)
    }

    /// How long the server still keeps what was not read of its log; none where that is not known, or goes by something else than its
    /// age. It runs down while the server cannot be reached.
    #[must_use]
    pub fn log_headroom(&self) -> Option<Duration> {
        let goes_at_us = self.server_log().goes_at_us?;
        Some(Duration::from_micros(u64::try_from(goes_at_us.saturating_sub(now_us())).unwrap_or_default()))
    }

    pub(crate) fn observe_log(&self, behind: u64, goes_at_us: Option<i64>) {
        *self.server_log() = ServerLog { behind: Some(behind), goes_at_us };
    }

    fn server_log(&self) -> MutexGuard<'_, ServerLog> {
        self.server_log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn enter(&self, state: State) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    /// Whether this is the shape of its table that the log has had last from this process.
    pub(crate) fn has_logged(&self, shape: &TableSchema) -> bool {
        let shapes = self.shapes.lock().unwrap_or_else(PoisonError::into_inner);
        shapes.get(&shape.table) == Some(&shape.version)
    }

    pub(crate) fn observe_shape(&self, shape: &TableSchema) {
        let mut shapes = self.shapes.lock().unwrap_or_else(PoisonError::into_inner);
        shapes.insert(shape.table.clone(), shape.version);
    }

    /// All that the source committed before a moment lies in the log up to an entry.
    pub(crate) fn prove(&self, at_us: i64, upto: LogOffset) {
        let mut proofs = self.proofs.lock().unwrap_or_else(PoisonError::into_inner);
        proofs.push(at_us, upto);
    }

    /// Changes were lost, or the source is another one: nothing is known any more.
    pub(crate) fn forget_proofs(&self) {
        *self.proofs.lock().unwrap_or_else(PoisonError::into_inner) = Proofs::default();
    }

    /// Has the reader find out soon how late it is in the log.
    pub fn want_proof(&self) {
        self.proof_wanted.store(true, Ordering::Relaxed);
    }

    /// Whether somebody wanted that since this was asked last.
    pub(crate) fn take_wish(&self) -> bool {
        self.proof_wanted.swap(false, Ordering::Relaxed)
    }

    /// The moment, microseconds since 1970 by the source's clock, before which everything is in the entries up to `confirmed`;
    /// none where that is not known.
    pub fn complete_through(&self, confirmed: LogOffset) -> Option<i64> {
        let mut proofs = self.proofs.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(proof) = proofs.open.pop_front_if(|(_, upto)| *upto <= confirmed) {
            proofs.complete = Some(proof);
        }
        // A target that was set back has less.
        proofs.complete.filter(|(_, upto)| *upto <= confirmed).map(|(at_us, _)| at_us)
    }

    pub(crate) fn observe_message(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.last_message_us.store(now_us().unsigned_abs(), Ordering::Relaxed);
    }

    /// Counts a frame on its way into the log by the rows of each operation, indexed by the operation's byte.
    pub(crate) fn observe_frame(&self, rows: &OpCounts) {
        let of = |op: Op| rows.0[op as usize];
        let total = rows.0.iter().sum::<u64>();
        if total > 0 {
            self.first_event.get_or_init(Instant::now);
        }
        self.frames.fetch_add(1, Ordering::Relaxed);
        self.rows.fetch_add(total, Ordering::Relaxed);
        self.reads.fetch_add(of(Op::Read), Ordering::Relaxed);
        self.inserts.fetch_add(of(Op::Insert), Ordering::Relaxed);
        self.updates.fetch_add(of(Op::Update) + of(Op::MoveIn), Ordering::Relaxed);
        self.deletes.fetch_add(of(Op::Delete), Ordering::Relaxed);
        self.truncates.fetch_add(of(Op::Truncate), Ordering::Relaxed);
    }
}

/// Rows by operation. A move's two rows count where the new one does, so the old one is not counted.
#[derive(Debug, Clone, Default)]
pub(crate) struct OpCounts([u64; 8]);

impl OpCounts {
    pub(crate) const fn add(&mut self, op: Op) {
        if !matches!(op, Op::MoveOut) {
            self.0[op as usize] += 1;
        }
    }
}

/// Microseconds since 1970 by the daemon's clock.
pub(crate) fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_that_a_server_keeps_its_log_runs_down_by_itself_and_is_over_at_its_end() {
        let progress = Progress::default();
        assert_eq!((progress.behind_bytes(), progress.log_headroom()), (None, None));
        progress.observe_log(7, Some(now_us() + 60_000_000));
        let left = progress.log_headroom().expect("known");
        assert!(left <= Duration::from_secs(60) && left > Duration::from_secs(30), "{left:?}");
        progress.observe_log(0, Some(now_us() - 1));
        assert_eq!((progress.behind_bytes(), progress.log_headroom()), (Some(0), Some(Duration::ZERO)));
        progress.observe_log(0, None);
        assert_eq!(progress.log_headroom(), None, "it is kept for ever");
    }

    #[test]
    fn a_moment_counts_once_all_before_it_is_confirmed_however_long_that_takes() {
        let progress = Progress::default();
        let confirmed = |upto| progress.complete_through(LogOffset(upto));
        assert_eq!(confirmed(9), None, "nothing is known yet");
        for (at_us, upto) in [(10, 1), (20, 3), (30, 3), (40, 7)] {
            progress.prove(at_us, LogOffset(upto));
        }
        assert_eq!(confirmed(0), None);
        assert_eq!(confirmed(2), Some(10));
        assert_eq!(confirmed(3), Some(30), "an idle source goes on");
        assert_eq!(confirmed(6), Some(30));
        for second in 0..100_000 {
            progress.prove(100 + second, LogOffset(8 + second.unsigned_abs()));
        }
        assert_eq!(confirmed(7), Some(40));
        let late = confirmed(99_000).expect("known");
        assert_eq!(late, 100 + 1_021, "the last of those that are kept one by one");
        assert_eq!(confirmed(2), None, "a target that was set back lacks some of it");
        assert_eq!(confirmed(100_007), Some(100_099), "and then all");
        progress.prove(50, LogOffset(200_000));
        assert_eq!(confirmed(100_000), None, "another clock");
        assert_eq!(confirmed(200_000), Some(50));
    }
}
