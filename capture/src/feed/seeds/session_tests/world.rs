//! A log that forgets what was not durable, and a folder of seeds beside a data folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use arrow::array::{Array, AsArray};
use arrow::datatypes::{UInt8Type, UInt32Type};
use arrow::util::display::array_value_to_string;
use syncline_schemas::frame::{Frame, LogEntry, Op};
use syncline_schemas::ident::LogOffset;
use syncline_schemas::table::TableSchema;
use tempfile::TempDir;

use super::super::append::FrameLimits;
use super::super::config::{SeedsConfig, TableSpec};
use super::super::content::{self, Read};
use super::super::session::{Session, Step};
use crate::{CaptureError, LogSink, Progress, Resume, StopSignal};

/// Far more than a test has rows.
pub(super) const WIDE: FrameLimits = FrameLimits { rows: 1_000, bytes: 1 << 20 };
pub(super) const NARROW: FrameLimits = FrameLimits { rows: 3, bytes: 1 << 20 };

#[derive(Default)]
struct Inner {
    entries: Vec<LogEntry>,
    durable: usize,
    /// So many calls go well, then the process is dead.
    calls_left: Option<u32>,
}

/// A log whose process can die at every call, before or after it took effect.
#[derive(Default)]
pub(super) struct FakeLog(Mutex<Inner>);

fn dead() -> CaptureError {
    CaptureError::Log { reason: "the process died".to_owned() }
}

impl Inner {
    /// Counts a call; false where the process dies at it.
    fn lives(&mut self) -> bool {
        match &mut self.calls_left {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }
}

impl LogSink for FakeLog {
    fn append(&self, entry: LogEntry) -> Result<LogOffset, CaptureError> {
        let mut inner = self.0.lock().unwrap();
        if !inner.lives() {
            return Err(dead());
        }
        let entry = LogEntry::decode(&entry.encode().unwrap()).unwrap();
        inner.entries.push(entry);
        Ok(LogOffset(inner.entries.len() as u64))
    }

    fn durable(&self) -> Result<LogOffset, CaptureError> {
        Ok(LogOffset(self.0.lock().unwrap().durable as u64))
    }

    fn wait_durable(&self, _offset: LogOffset, _timeout: Duration) -> Result<LogOffset, CaptureError> {
        let mut inner = self.0.lock().unwrap();
        let before = inner.lives();
        if before {
            inner.durable = inner.entries.len();
        }
        // Between the fsync and whoever waits for it is a moment to die, too.
        if !before || !inner.lives() {
            return Err(dead());
        }
        Ok(LogOffset(inner.durable as u64))
    }
}

/// Rows by table and key, each with its columns' names.
pub(super) type State = BTreeMap<(String, Vec<String>), Vec<(String, Option<String>)>>;

impl FakeLog {
    /// The process is gone, and with it some of what was not durable.
    pub(super) fn crash(&self, survivors: usize) {
        let mut inner = self.0.lock().unwrap();
        let kept = (inner.durable + survivors).min(inner.entries.len());
        inner.entries.truncate(kept);
        inner.durable = kept;
        inner.calls_left = None;
    }

    pub(super) fn die_after(&self, calls: u32) {
        self.0.lock().unwrap().calls_left = Some(calls);
    }

    pub(super) fn entries(&self) -> Vec<LogEntry> {
        self.0.lock().unwrap().entries.clone()
    }

    pub(super) fn len(&self) -> usize {
        self.0.lock().unwrap().entries.len()
    }

    pub(super) fn frames(&self) -> Vec<Frame> {
        let frame = |entry| if let LogEntry::Frame(frame) = entry { Some(frame) } else { None };
        self.entries().into_iter().filter_map(frame).collect()
    }

    pub(super) fn resume(&self) -> Option<Resume> {
        let last = self.frames().pop()?;
        Some(Resume { position: last.position, txn_end: last.txn_end })
    }

    /// Every row since an entry as `op table key`, in order.
    pub(super) fn rows_since(&self, entry: usize) -> Vec<String> {
        let entries = self.entries();
        let mut schemas = BTreeMap::new();
        let mut out = Vec::new();
        for (i, entry_at) in entries.iter().enumerate() {
            for row in rows(entry_at, &mut schemas).into_iter().filter(|_| i >= entry) {
                out.push(format!("{:?} {} {}", row.op, row.table, row.key.join("/")));
            }
        }
        out
    }

    /// The state after each transaction; panics where a row is doubled or missing.
    pub(super) fn states(&self) -> Vec<State> {
        let mut schemas = BTreeMap::new();
        let (mut state, mut states) = (State::new(), Vec::new());
        for entry in self.entries() {
            for row in rows(&entry, &mut schemas) {
                let place = (row.table, row.key);
                match row.op {
                    Op::Read | Op::Insert => {
                        assert_eq!(state.insert(place.clone(), row.values), None, "twice: {place:?}")
                    }
                    Op::Update => assert!(state.insert(place.clone(), row.values).is_some(), "not there: {place:?}"),
                    Op::Delete => assert!(state.remove(&place).is_some(), "not there: {place:?}"),
                    other => panic!("seeds know no {other:?}"),
                }
            }
            if matches!(entry, LogEntry::Frame(Frame { txn_end: true, .. })) {
                states.push(state.clone());
            }
        }
        states
    }
}

struct Row {
    op: Op,
    table: String,
    key: Vec<String>,
    values: Vec<(String, Option<String>)>,
}

/// The rows of an entry in their order, each read with the schema entry before it.
fn rows(entry: &LogEntry, schemas: &mut BTreeMap<(String, u32), TableSchema>) -> Vec<Row> {
    let frame = match entry {
        LogEntry::Schema(schema) => {
            schemas.insert((schema.table.to_string(), schema.version), schema.clone());
            return Vec::new();
        }
        LogEntry::Frame(frame) => frame,
    };
    let tables: BTreeSet<String> = frame.batches.iter().map(|batch| batch.table.to_string()).collect();
    assert_eq!(tables.len(), frame.batches.len(), "one batch per table");
    let mut out = BTreeMap::new();
    for batch in &frame.batches {
        let schema = &schemas[&(batch.table.to_string(), batch.schema_version)];
        assert_eq!(batch.rows.schema(), schema.batch_schema());
        let width = schema.columns.len();
        for i in 0..batch.rows.num_rows() {
            let text = |c: usize| {
                let column = batch.rows.column(c);
                (!column.is_null(i)).then(|| array_value_to_string(column, i).unwrap())
            };
            let op = Op::from_u8(batch.rows.column(width).as_primitive::<UInt8Type>().value(i)).unwrap();
            let ord = batch.rows.column(width + 1).as_primitive::<UInt32Type>().value(i);
            assert!(batch.rows.column(width + 4).is_null(i), "nothing is absent");
            let row = Row {
                op,
                table: batch.table.to_string(),
                key: schema.key_indexes().into_iter().map(|c| text(c).expect("a key")).collect(),
                values: (0..width).map(|c| (schema.columns[c].name.clone(), text(c))).collect(),
            };
            assert!(out.insert(ord, row).is_none(), "_ord is unique in a frame");
        }
    }
    out.into_values().collect()
}

/// A folder of seeds beside a data folder.
pub(super) struct World {
    _dir: TempDir,
    pub(super) config: SeedsConfig,
    pub(super) log: FakeLog,
}

impl World {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = SeedsConfig::new(dir.path().join("seeds"), dir.path().join("data/seeds"));
        fs::create_dir(&config.dir).unwrap();
        Self { _dir: dir, config, log: FakeLog::default() }
    }

    pub(super) fn write(&self, table: &str, text: &str) {
        fs::write(self.config.file(table), text).unwrap();
    }

    pub(super) fn declare(&mut self, table: &str, key: &[&str], types: &[(&str, &str)]) {
        let spec = TableSpec {
            key: key.iter().map(|&name| name.to_owned()).collect(),
            types: types.iter().map(|(name, text)| ((*name).to_owned(), text.parse().unwrap())).collect(),
        };
        self.config.tables.insert(table.to_owned(), spec);
    }

    /// One life of the reader: what the log holds half, then one look at the folder.
    pub(super) fn live(&self, limits: FrameLimits) -> Result<Step, CaptureError> {
        let (progress, stop) = (Progress::default(), StopSignal::default());
        let mut session = Session::new(&self.config, &self.log, &progress, &stop, limits);
        session.resume(self.log.resume().as_ref())?;
        session.look(later())
    }

    pub(super) fn load(&self) {
        assert_eq!(self.live(WIDE).unwrap(), Step::Loaded);
    }

    /// What the folder says.
    pub(super) fn folder(&self) -> State {
        let mut state = State::new();
        for entry in fs::read_dir(&self.config.dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap();
            let nothing = TableSpec::default();
            let spec = self.config.tables.get(name).unwrap_or(&nothing);
            let bytes = fs::read(&path).unwrap();
            let (table, _) = content::table(&path, name, &bytes, Read::Declared(spec)).unwrap();
            for i in 0..table.len() {
                let text = |c: usize| {
                    let column = &table.columns[c];
                    (!column.is_null(i)).then(|| array_value_to_string(column, i).unwrap())
                };
                let key = table.schema.key_indexes().into_iter().map(|c| text(c).unwrap()).collect();
                let values =
                    table.schema.columns.iter().enumerate().map(|(c, it)| (it.name.clone(), text(c))).collect();
                state.insert((table.schema.table.to_string(), key), values);
            }
        }
        state
    }

    pub(super) fn kept_files(&self) -> usize {
        fs::read_dir(&self.config.kept).map_or(0, Iterator::count)
    }
}

/// Looks until the folder has come to rest.
pub(super) fn rested(session: &mut Session<'_>) -> Step {
    assert_eq!(session.look(later()).unwrap(), Step::Waiting, "it has just changed");
    session.look(later()).unwrap()
}

/// When every file has come to rest.
pub(super) fn later() -> SystemTime {
    SystemTime::now() + Duration::from_secs(10)
}
