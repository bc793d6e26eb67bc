//! A log in memory, the rows in it, and a reader on a thread.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{TimestampMicrosecondType, UInt8Type, UInt32Type};
use arrow::util::display::array_value_to_string;
use syncline_capture::postgres::{self, PostgresConfig};
use syncline_capture::{CaptureError, Class, LogSink, Outcome, Progress, Requests, Resume, StopSignal};
use syncline_schemas::frame::{Frame, LogEntry, Op};
use syncline_schemas::ident::LogOffset;
use syncline_schemas::table::TableSchema;

use crate::server::{Database, PATIENCE, Server};

#[derive(Default)]
struct Inner {
    entries: Vec<LogEntry>,
    /// Nothing beyond it is durable.
    durable_limit: Option<u64>,
    /// The append with this number fails.
    fails_at: Option<usize>,
    /// Appends fail once so many frames end inside a transaction.
    fails_after_cuts: Option<usize>,
}

/// A log that keeps everything in memory, through the log's own bytes.
#[derive(Default)]
pub(crate) struct MemoryLog {
    inner: Mutex<Inner>,
    changed: Condvar,
}

impl LogSink for MemoryLog {
    fn append(&self, entry: LogEntry) -> Result<LogOffset, CaptureError> {
        let entry = LogEntry::decode(&entry.encode().unwrap()).unwrap();
        let mut inner = self.inner.lock().unwrap();
        let copy = |entry: &&LogEntry| !matches!(entry, LogEntry::Frame(frame) if frame.txn_end);
        let cuts = || inner.entries.iter().skip_while(copy).filter(|entry| is_cut(entry)).count();
        if inner.fails_at.is_some_and(|at| inner.entries.len() >= at)
            || inner.fails_after_cuts.is_some_and(|limit| cuts() >= limit)
        {
            return Err(CaptureError::Log { reason: "the test ends the log here".to_owned() });
        }
        inner.entries.push(entry);
        self.changed.notify_all();
        Ok(LogOffset(inner.entries.len() as u64))
    }

    fn durable(&self) -> Result<LogOffset, CaptureError> {
        let inner = self.inner.lock().unwrap();
        Ok(LogOffset((inner.entries.len() as u64).min(inner.durable_limit.unwrap_or(u64::MAX))))
    }

    fn wait_durable(&self, offset: LogOffset, timeout: Duration) -> Result<LogOffset, CaptureError> {
        let inner = self.inner.lock().unwrap();
        let waits = |inner: &mut Inner| inner.durable_limit.is_some_and(|limit| limit < offset.0);
        drop(self.changed.wait_timeout_while(inner, timeout, waits).unwrap());
        self.durable()
    }
}

/// One row of the log.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) table: String,
    pub(crate) op: Op,
    pub(crate) key: Vec<Option<String>>,
    pub(crate) values: BTreeMap<String, Option<String>>,
    pub(crate) absent: Vec<String>,
    pub(crate) commit_us: i64,
}

/// Rows by table and key.
pub(crate) type State = BTreeMap<(String, Vec<Option<String>>), BTreeMap<String, Option<String>>>;

impl Row {
    /// As [`Self::value`], of a column that the row may not have.
    pub(crate) fn value_of(&self, column: &str) -> Option<&str> {
        self.values.get(column)?.as_deref()
    }

    pub(crate) fn value(&self, column: &str) -> Option<&str> {
        self.values.get(column).unwrap_or_else(|| panic!("no column {column}")).as_deref()
    }
}

impl MemoryLog {
    pub(crate) fn frames(&self) -> Vec<Frame> {
        let inner = self.inner.lock().unwrap();
        inner
            .entries
            .iter()
            .filter_map(|entry| if let LogEntry::Frame(frame) = entry { Some(frame.clone()) } else { None })
            .collect()
    }

    pub(crate) fn schemas(&self) -> Vec<TableSchema> {
        let inner = self.inner.lock().unwrap();
        inner
            .entries
            .iter()
            .filter_map(|entry| if let LogEntry::Schema(schema) = entry { Some(schema.clone()) } else { None })
            .collect()
    }

    /// What a supervisor would give the next session.
    pub(crate) fn resume(&self) -> Option<Resume> {
        let frame = self.frames().pop()?;
        Some(Resume { position: frame.position, txn_end: frame.txn_end })
    }

    /// One that has only its first entries.
    pub(crate) fn upto(&self, entries: usize) -> Self {
        let kept = self.inner.lock().unwrap().entries[..entries].to_vec();
        Self { inner: Mutex::new(Inner { entries: kept, ..Inner::default() }), changed: Condvar::new() }
    }

    /// How many entries it holds.
    pub(crate) fn len(&self) -> usize {
        self.inner.lock().unwrap().entries.len()
    }

    pub(crate) fn fail_after_cuts(&self, cuts: Option<usize>) {
        self.inner.lock().unwrap().fails_after_cuts = cuts;
    }

    pub(crate) fn fail_at(&self, appends: Option<usize>) {
        self.inner.lock().unwrap().fails_at = appends;
    }

    /// Withholds durability of everything that is appended from now on, or gives it.
    pub(crate) fn hold(&self, hold: bool) {
        let mut inner = self.inner.lock().unwrap();
        inner.durable_limit = hold.then_some(inner.entries.len() as u64);
        self.changed.notify_all();
    }

    pub(crate) fn row_count(&self) -> usize {
        self.frames().iter().map(Frame::row_count).sum()
    }

    /// Waits until the log holds so many rows.
    pub(crate) fn wait_for_rows(&self, count: usize) {
        self.wait_for("rows", |entries| {
            let rows = |entry: &LogEntry| if let LogEntry::Frame(frame) = entry { frame.row_count() } else { 0 };
            entries.iter().map(rows).sum::<usize>() >= count
        });
    }

    /// Waits until the tables are copied, or the stream has started without a copy.
    pub(crate) fn wait_for_copy(&self) {
        self.wait_for("the end of the copy", |entries| {
            entries.iter().any(|entry| matches!(entry, LogEntry::Frame(frame) if frame.txn_end))
        });
    }

    /// Waits until some entry behind so many is as wanted; each is looked at once.
    pub(crate) fn wait_for_one_behind(&self, entries: usize, what: &str, is_it: impl Fn(&LogEntry) -> bool) {
        let seen = std::cell::Cell::new(entries);
        self.wait_for(what, |entries| entries[seen.replace(entries.len())..].iter().any(&is_it));
    }

    pub(crate) fn wait_for(&self, what: &str, holds: impl Fn(&[LogEntry]) -> bool) {
        let inner = self.inner.lock().unwrap();
        let (inner, timeout) =
            self.changed.wait_timeout_while(inner, PATIENCE, |inner| !holds(&inner.entries)).unwrap();
        assert!(!timeout.timed_out(), "waited for {what}, the log has {} entries", inner.entries.len());
    }

    /// All rows in log order, each read with the schema entry that stands before it.
    pub(crate) fn rows(&self) -> Vec<Row> {
        self.rows_by_frame().into_iter().flat_map(|(_, rows)| rows).collect()
    }

    /// As [`Self::rows`], by frame, with whether the frame ends a transaction.
    pub(crate) fn rows_by_frame(&self) -> Vec<(bool, Vec<Row>)> {
        let inner = self.inner.lock().unwrap();
        let mut schemas: BTreeMap<(String, u32), TableSchema> = BTreeMap::new();
        let mut frames = Vec::new();
        for entry in &inner.entries {
            match entry {
                LogEntry::Schema(schema) => {
                    schemas.insert((schema.table.to_string(), schema.version), schema.clone());
                }
                LogEntry::Frame(frame) => frames.push((frame.txn_end, frame_rows(frame, &schemas))),
            }
        }
        frames
    }

    /// Frames behind the copy.
    pub(crate) fn followed(&self) -> Vec<Frame> {
        let frames = self.frames().into_iter();
        frames.skip_while(|frame| !frame.txn_end).skip(1).collect()
    }

    /// Applies all rows; behind the copy it panics on a repeat or a gap that a table would show. The copy is one unit, in
    /// which the stream may tell what the tables said already.
    pub(crate) fn state(&self) -> State {
        self.apply(self.row_count() - self.followed().iter().map(Frame::row_count).sum::<usize>())
    }

    /// As [`Self::state`], where tables are copied beside the stream.
    pub(crate) fn state_beside(&self) -> State {
        self.apply(usize::MAX)
    }

    /// How often each row of a table without a key is there, by its values in the order of their columns' names; at the end, and
    /// how many rows there were at the end of each frame that ends a transaction. Panics where one goes that was not there.
    pub(crate) fn counted(&self, table: &str) -> (BTreeMap<String, usize>, Vec<usize>) {
        let (mut counts, mut sums): (BTreeMap<String, usize>, _) = (BTreeMap::new(), Vec::new());
        for (whole, rows) in self.rows_by_frame() {
            for row in rows.into_iter().filter(|row| row.table == table) {
                let values: Vec<&str> = row.values.values().map(|value| value.as_deref().unwrap_or("NULL")).collect();
                match row.op {
                    Op::Truncate | Op::SweepBegin => counts.clear(),
                    Op::SweepEnd => {}
                    Op::Read | Op::Insert => *counts.entry(values.join("|")).or_default() += 1,
                    Op::Delete => {
                        let count = counts.get_mut(&values.join("|"));
                        let count = count.unwrap_or_else(|| panic!("{values:?} goes and is not there"));
                        *count -= 1;
                        counts.retain(|_, count| *count > 0);
                    }
                    Op::Update | Op::MoveOut | Op::MoveIn => panic!("{:?} of a table without a key", row.op),
                }
            }
            if whole {
                sums.push(counts.values().sum());
            }
        }
        (counts, sums)
    }

    fn apply(&self, copied: usize) -> State {
        let mut state: State = BTreeMap::new();
        // A row keeps the values under its new key that the log did not send again.
        let mut left = BTreeMap::new();
        // Of tables that are read anew, the rows that have come since.
        let mut come: BTreeMap<String, BTreeSet<Vec<Option<String>>>> = BTreeMap::new();
        for (i, mut row) in self.rows().into_iter().enumerate() {
            if row.op == Op::MoveOut {
                left = state.get(&(row.table.clone(), row.key.clone())).cloned().unwrap_or_default();
            }
            if row.op == Op::MoveIn {
                for column in &row.absent {
                    row.values.insert(column.clone(), left.get(column).cloned().flatten());
                }
            }
            let place = (row.table.clone(), row.key.clone());
            let is_swept = come.get_mut(&row.table).map(|come| come.insert(row.key.clone())).is_some();
            let copied = if is_swept { usize::MAX } else { copied };
            match row.op {
                Op::Read | Op::Insert | Op::MoveIn if i < copied => drop(state.insert(place, row.values)),
                Op::Update if i < copied => {
                    let sent = row.values.into_iter().filter(|(column, _)| !row.absent.contains(column));
                    state.entry(place).or_default().extend(sent);
                }
                Op::Delete | Op::MoveOut if i < copied => drop(state.remove(&place)),
                Op::Read | Op::Insert | Op::MoveIn => {
                    assert!(state.insert(place, row.values).is_none(), "{} twice: {:?}", row.table, row.key);
                }
                Op::Update => {
                    let known = state.get_mut(&place).unwrap_or_else(|| panic!("update of nothing: {:?}", row.key));
                    let sent = row.values.into_iter().filter(|(column, _)| !row.absent.contains(column));
                    known.extend(sent);
                }
                Op::Delete | Op::MoveOut => assert!(state.remove(&place).is_some(), "delete of nothing: {:?}", row.key),
                Op::SweepBegin => drop(come.insert(row.table, BTreeSet::new())),
                Op::SweepEnd => {
                    let come = come.remove(&row.table).expect("it has begun");
                    state.retain(|(table, key), _| *table != row.table || come.contains(key));
                }
                Op::Truncate => state.retain(|(table, _), _| *table != row.table),
            }
        }
        state
    }
}

/// A database with tables that are copied and followed.
pub(crate) fn following(tables: &str) -> (Database, Arc<MemoryLog>, Reader) {
    let database = Server::shared().database(tables);
    let log = Arc::new(MemoryLog::default());
    let reader = Reader::start(&database.config, &log);
    log.wait_for_copy();
    (database, log, reader)
}

/// The text of a value; instants without their zone, which Arrow only prints with a table of zones.
fn display(array: &dyn Array, i: usize) -> String {
    match array.as_primitive_opt::<TimestampMicrosecondType>() {
        Some(instants) => array_value_to_string(&instants.clone().with_timezone_opt(None::<&str>), i).unwrap(),
        None => array_value_to_string(array, i).unwrap(),
    }
}

fn is_cut(entry: &LogEntry) -> bool {
    matches!(entry, LogEntry::Frame(frame) if !frame.txn_end)
}

fn frame_rows(frame: &Frame, schemas: &BTreeMap<(String, u32), TableSchema>) -> Vec<Row> {
    let mut rows = Vec::new();
    for batch in &frame.batches {
        let schema =
            schemas.get(&(batch.table.to_string(), batch.schema_version)).expect("a schema entry before its rows");
        assert_eq!(batch.rows.schema(), schema.batch_schema());
        let width = schema.columns.len();
        let column = |i: usize| batch.rows.column(i);
        for i in 0..batch.rows.num_rows() {
            let text = |c: usize| (!column(c).is_null(i)).then(|| display(column(c), i));
            let mask = column(width + 4).as_binary::<i32>();
            let is_absent = |c: usize| mask.is_valid(i) && mask.value(i)[c / 8] & (1 << (c % 8)) != 0;
            let ord = column(width + 1).as_primitive::<UInt32Type>().value(i);
            rows.push((
                ord,
                Row {
                    table: batch.table.to_string(),
                    op: Op::from_u8(column(width).as_primitive::<UInt8Type>().value(i)).unwrap(),
                    key: schema.key_indexes().into_iter().map(text).collect(),
                    values: schema
                        .columns
                        .iter()
                        .enumerate()
                        .map(|(c, column)| (column.name.clone(), text(c)))
                        .collect(),
                    absent: (0..width).filter(|c| is_absent(*c)).map(|c| schema.columns[c].name.clone()).collect(),
                    commit_us: column(width + 2).as_primitive::<TimestampMicrosecondType>().value(i),
                },
            ));
        }
    }
    rows.sort_by_key(|(ord, _)| *ord);
    assert!(rows.windows(2).all(|pair| pair[0].0 < pair[1].0), "_ord is unique in a frame");
    rows.into_iter().map(|(_, row)| row).collect()
}

/// A reader on its thread, started again after transient errors as a supervisor would.
pub(crate) struct Reader {
    stop: StopSignal,
    pub(crate) progress: Arc<Progress>,
    pub(crate) requests: Requests,
    thread: Option<JoinHandle<Result<Outcome, CaptureError>>>,
}

impl Reader {
    pub(crate) fn start(config: &PostgresConfig, log: &Arc<MemoryLog>) -> Self {
        let (stop, progress) = (StopSignal::default(), Arc::new(Progress::default()));
        let requests = Requests::default();
        let own_requests = requests.clone();
        let (config, log) = (config.clone(), Arc::clone(log));
        let (own_stop, own_progress) = (stop.clone(), Arc::clone(&progress));
        let thread = std::thread::spawn(move || {
            loop {
                match postgres::run(&config, log.resume(), &*log, &own_progress, &own_requests, &own_stop) {
                    Err(error) if error.class() == Class::Transient => std::thread::yield_now(),
                    ended => return ended,
                }
            }
        });
        Self { stop, progress, requests, thread: Some(thread) }
    }

    /// Stops it and expects an orderly end.
    pub(crate) fn stop(mut self) {
        self.stop.stop();
        assert_eq!(self.thread.take().unwrap().join().unwrap().unwrap(), Outcome::Stopped);
    }

    /// True once it has ended by itself.
    pub(crate) fn has_ended(&self) -> bool {
        self.thread.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Waits for its end by itself.
    pub(crate) fn end(mut self) -> Result<Outcome, CaptureError> {
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
