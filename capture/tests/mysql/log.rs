//! A log in memory, the rows in it, and sessions of the reader.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, UInt8Type, UInt32Type};
use arrow::util::display::array_value_to_string;
use syncline_capture::mysql::{MySqlConfig, follow};
use syncline_capture::{CaptureError, Class, LogSink, Outcome, Progress, Requests, Resume, StopSignal};
use syncline_schemas::frame::{ABSENT, Frame, LogEntry, META_COLUMNS, OP, ORD, Op};
use syncline_schemas::ident::LogOffset;
use syncline_schemas::table::TableSchema;

use crate::server::{Database, PATIENCE};

/// How long a session that failed is left alone, as a supervisor would, unless it is to stop.
const RETRY_AFTER: Duration = Duration::from_millis(20);

/// A log that keeps everything in memory, through the log's own bytes.
#[derive(Default)]
pub(crate) struct MemoryLog {
    entries: Mutex<Vec<LogEntry>>,
    changed: Condvar,
    /// Appends fail from this one on.
    pub(crate) fails_at: Mutex<Option<usize>>,
}

impl LogSink for MemoryLog {
    fn append(&self, entry: LogEntry) -> Result<LogOffset, CaptureError> {
        let entry = LogEntry::decode(&entry.encode().unwrap()).unwrap();
        let mut entries = self.entries.lock().unwrap();
        if self.fails_at.lock().unwrap().is_some_and(|at| entries.len() >= at) {
            return Err(CaptureError::Log { reason: "the test ends the log here".to_owned() });
        }
        entries.push(entry);
        self.changed.notify_all();
        Ok(LogOffset(entries.len() as u64))
    }

    fn durable(&self) -> Result<LogOffset, CaptureError> {
        Ok(LogOffset(self.entries.lock().unwrap().len() as u64))
    }

    fn wait_durable(&self, _: LogOffset, _: Duration) -> Result<LogOffset, CaptureError> {
        self.durable()
    }
}

/// Rows as text by table and key.
pub(crate) type State = BTreeMap<(String, String), BTreeMap<String, String>>;

impl MemoryLog {
    pub(crate) fn frames(&self) -> Vec<Frame> {
        let entries = self.entries.lock().unwrap();
        let frame = |entry: &LogEntry| if let LogEntry::Frame(frame) = entry { Some(frame.clone()) } else { None };
        entries.iter().filter_map(frame).collect()
    }

    /// Shapes of tables, each time that one was logged.
    pub(crate) fn shapes(&self) -> Vec<TableSchema> {
        let entries = self.entries.lock().unwrap();
        let shape = |entry: &LogEntry| if let LogEntry::Schema(shape) = entry { Some(shape.clone()) } else { None };
        entries.iter().filter_map(shape).collect()
    }

    /// What a supervisor would give the next session.
    pub(crate) fn resume(&self) -> Option<Resume> {
        let frame = self.frames().pop()?;
        Some(Resume { position: frame.position, txn_end: frame.txn_end })
    }

    /// How many entries there are, shapes among them.
    pub(crate) fn len(&self) -> usize {
        self.entries.lock().unwrap().len()
    }

    /// Waits until there are so many frames.
    pub(crate) fn wait_for_frames(&self, count: usize) {
        let entries = self.entries.lock().unwrap();
        let lacks = |entries: &mut Vec<LogEntry>| {
            entries.iter().filter(|entry| matches!(entry, LogEntry::Frame(_))).count() < count
        };
        let waited = self.changed.wait_timeout_while(entries, PATIENCE, lacks).unwrap().1;
        assert!(!waited.timed_out(), "waited in vain for {count} frames");
    }

    /// Operations in their order, and the rows as they leave them.
    pub(crate) fn fold(&self) -> (Vec<Op>, State) {
        let (mut ops, mut state) = (Vec::new(), State::new());
        for frame in self.frames() {
            let mut rows = Vec::new();
            for batch in &frame.batches {
                let ords = batch.rows.column_by_name(ORD).unwrap().as_primitive::<UInt32Type>();
                rows.extend((0..batch.rows.num_rows()).map(|row| (ords.value(row), batch, row)));
            }
            rows.sort_by_key(|(ord, _, _)| *ord);
            for (_, batch, row) in rows {
                let op = batch.rows.column_by_name(OP).unwrap().as_primitive::<UInt8Type>().value(row);
                let op = Op::from_u8(op).unwrap();
                ops.push(op);
                let table = batch.table.name.to_string();
                if op == Op::Truncate {
                    state.retain(|(other, _), _| *other != table);
                    continue;
                }
                let absent = batch.rows.column_by_name(ABSENT).unwrap();
                let mask = if absent.is_valid(row) { absent.as_binary::<i32>().value(row) } else { &[] };
                let (mut key, mut values) = (String::new(), BTreeMap::new());
                let schema = batch.rows.schema();
                for (i, field) in schema.fields().iter().take(batch.rows.num_columns() - META_COLUMNS).enumerate() {
                    let column = without_zone(batch.rows.column(i));
                    let is_null = column.is_null(row);
                    let text = if is_null { "NULL".to_owned() } else { array_value_to_string(&column, row).unwrap() };
                    if field.metadata().contains_key(syncline_schemas::table::KEY_ORDINAL) {
                        key.push_str(&text);
                    }
                    if mask.get(i / 8).is_none_or(|byte| byte >> (i % 8) & 1 == 0) {
                        values.insert(field.name().clone(), text);
                    }
                }
                if op.removes() {
                    state.remove(&(table, key));
                } else {
                    state.entry((table, key)).or_default().extend(values);
                }
            }
        }
        (ops, state)
    }
}

/// Arrow prints moments of a zone only with the zones of the world in it.
fn without_zone(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Timestamp(unit, Some(_)) => cast(column, &DataType::Timestamp(*unit, None)).unwrap(),
        _ => Arc::clone(column),
    }
}

/// A session of the reader up to what the server has at its start.
pub(crate) fn drain(database: &Database, log: &MemoryLog) -> Result<Outcome, CaptureError> {
    drain_with(&database.config, log)
}

pub(crate) fn drain_with(config: &MySqlConfig, log: &MemoryLog) -> Result<Outcome, CaptureError> {
    drain_on(config, log, &Progress::default())
}

pub(crate) fn drain_on(config: &MySqlConfig, log: &MemoryLog, progress: &Progress) -> Result<Outcome, CaptureError> {
    let config = MySqlConfig { drain: true, ..config.clone() };
    follow(&config, log.resume().as_ref(), log, progress, &Requests::default(), &StopSignal::default())
}

/// Sessions of the reader one after the other, on a thread of their own, as long as another one can help.
pub(crate) struct Reader {
    stop: StopSignal,
    pub(crate) progress: Arc<Progress>,
    pub(crate) requests: Requests,
    thread: Option<JoinHandle<Result<Outcome, CaptureError>>>,
}

impl Reader {
    pub(crate) fn start(config: &MySqlConfig, log: &Arc<MemoryLog>) -> Self {
        Self::start_with(config, log, Requests::default())
    }

    /// With what was asked before.
    pub(crate) fn start_with(config: &MySqlConfig, log: &Arc<MemoryLog>, requests: Requests) -> Self {
        let (stop, progress) = (StopSignal::default(), Arc::new(Progress::default()));
        let (config, log, own_requests) = (config.clone(), Arc::clone(log), requests.clone());
        let (own_stop, own_progress) = (stop.clone(), Arc::clone(&progress));
        let thread = std::thread::spawn(move || {
            loop {
                match follow(&config, log.resume().as_ref(), &*log, &own_progress, &own_requests, &own_stop) {
                    Err(error) if error.class() == Class::Transient && !own_stop.is_stopped() => {
                        std::thread::park_timeout(RETRY_AFTER);
                    }
                    ended => break ended,
                }
            }
        });
        Self { stop, progress, requests, thread: Some(thread) }
    }

    /// Stops it and expects an orderly end.
    pub(crate) fn stop(mut self) {
        assert_eq!(self.halt().unwrap().unwrap(), Outcome::Stopped);
    }

    /// Waits for its end by itself.
    pub(crate) fn end(mut self) -> Result<Outcome, CaptureError> {
        self.thread.take().unwrap().join().unwrap()
    }

    fn halt(&mut self) -> Option<Result<Outcome, CaptureError>> {
        self.stop.stop();
        let thread = self.thread.take()?;
        thread.thread().unpark();
        thread.join().ok()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.halt();
    }
}
