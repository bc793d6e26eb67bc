//! The transform alone, on its real state store: rows a second, CPU seconds per million rows, peak memory, size of the state, by what
//! a mapping does.
//!
//! `benches/transform 1000000` folds so many rows in each phase, in frames as a reader cuts them under load; a second number is the
//! `memory_limit` in MiB, 256 by default. Of that the store's cache is 12 MiB and three quarters of what is above 256, so a state larger
//! than it shows where rows change in no order. The store lies in a temporary folder and syncs every step; TMPDIR chooses the disk.
//! Each kind of mapping begins with an empty store. The size of the state is that of its tables, without the write-ahead journal.

#![allow(dead_code, unused_imports, reason = "parts of the daemon are compiled here; not all of them is used")]

#[path = "../src/pipeline/state.rs"]
mod state;
#[path = "../src/usage.rs"]
mod usage;

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{
    ArrayRef, BinaryArray, Decimal128Array, DictionaryArray, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray, UInt8Array, UInt32Array,
};
use arrow::datatypes::DataType;
use syncline_journal::{Commit, Durability, Limits, Store};
use syncline_schemas::frame::{Frame, LogEntry, Op, TableBatch};
use syncline_schemas::ident::{LogOffset, Position, SourceId, TableId};
use syncline_schemas::table::{Column, TableSchema, instant};
use syncline_transform::TransformError;
use syncline_transform::fold::Fold;
use syncline_transform::mapping::Mapping;
use syncline_transform::state::{Cursor, Replay, Step, Visit};

use self::state::FoldState;

/// The daemon's own, so that memory is comparable.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Rows of a frame that a reader cuts under load.
const FRAME: usize = 16 * 1024;
/// Articles that the rows cite.
const ARTICLES: i64 = 20_000;

const PASS: &str = "SELECT company AS company_id, item AS item_id, place AS location_id, qty AS on_hand FROM line";
const EXPRESSIONS: &str = "SELECT upper(company) AS company_id, item || '-' || CAST(id AS VARCHAR) AS item_id, trim(item) AS item_no, \
    concat(item, ' at ', place) AS description, CASE WHEN qty > 5 THEN 'stock' ELSE 'service' END AS item_type, \
    CASE WHEN ord % 2 = 0 THEN 'active' ELSE 'planned' END AS status, coalesce(unit, 'EA') AS base_uom, \
    CAST(ord % 9 AS INT) AS base_uom_decimals, lower(unit) AS planning_uom, qty * 1.2 AS weight_kg, qty / 4 AS volume_m3, \
    price * 1.19 AS unit_cost, 'EUR' AS cost_currency, price + 1.5 AS price_list, ord % 3 = 0 AS lot_tracked, \
    ord % 5 = 0 AS serial_tracked, CAST(ord % 365 AS INT) AS shelf_life_days, substr(item, 1, 1) AS abc_class, \
    substr(place, 1, 2) AS primary_hierarchy_node, qty <> 7 AS catch_weight FROM line";
const ONE_JOIN: &str = "SELECT l.company AS company_id, a.code AS item_id, l.place AS location_id, \
    l.qty * a.factor AS on_hand FROM line l JOIN article a ON a.id = l.article";
const THREE_JOINS: &str = "SELECT l.company AS company_id, a.code AS item_id, coalesce(c.code, l.place) AS location_id, \
    l.qty * a.factor AS on_hand FROM line l JOIN article a ON a.id = l.article JOIN head h ON h.id = l.ord \
    LEFT JOIN customer c ON c.id = h.article";
const ONE_ARTICLE: &str = "SELECT l.company AS company_id, a.code AS item_id, l.place AS location_id, \
    l.qty * a.factor AS on_hand FROM line l JOIN article a ON a.id = l.one";

/// A column: its name and what its value is in the row of a number.
enum Values {
    Number(fn(i64) -> i64),
    Amount(fn(i64) -> i64),
    Text(fn(i64) -> String),
}

type Columns = &'static [(&'static str, Values)];

static LINE: Columns = &[
    ("id", Values::Number(|id| id)),
    ("ord", Values::Number(|id| id / 5)),
    ("article", Values::Number(|id| id * 7 % ARTICLES)),
    ("one", Values::Number(|_| 0)),
    ("company", Values::Text(|_| "0100".to_owned())),
    ("item", Values::Text(|id| format!("A{:07}", id % ARTICLES))),
    ("place", Values::Text(|id| format!("W{:02}", id % 40))),
    ("unit", Values::Text(|_| "PCE".to_owned())),
    ("qty", Values::Amount(|id| id % 900 + 100)),
    ("price", Values::Amount(|id| id % 70_000)),
];
static MASTER: Columns = &[
    ("id", Values::Number(|id| id)),
    ("article", Values::Number(|id| id % 3_000)),
    ("code", Values::Text(|id| format!("C{:07}", id % ARTICLES))),
    ("factor", Values::Amount(|id| id % 4 * 1_000 + 1_000)),
];

fn schema(name: &str, columns: Columns) -> TableSchema {
    let column = |(i, (name, values)): (usize, &(&str, Values))| Column {
        name: (*name).to_owned(),
        data_type: match values {
            Values::Number(_) => DataType::Int64,
            Values::Amount(_) => DataType::Decimal128(14, 3),
            Values::Text(_) => DataType::Utf8,
        },
        source_type: "bench".to_owned(),
        key_ordinal: (i == 0).then_some(0),
        can_be_absent: false,
    };
    let columns = columns.iter().enumerate().map(column).collect();
    TableSchema { source: SourceId::new("erp"), table: TableId::new("public", name), version: 1, columns }
}

/// Rows of a table; their amounts are those of rows `shift` further on.
fn frame(schema: &TableSchema, columns: Columns, ids: &[i64], op: Op, shift: i64) -> LogEntry {
    let len = ids.len();
    let rows = || ids.iter().copied();
    let mut arrays: Vec<ArrayRef> = Vec::new();
    for (_, values) in columns {
        arrays.push(match values {
            Values::Number(of) => Arc::new(Int64Array::from_iter_values(rows().map(of))),
            Values::Amount(of) => Arc::new(
                Decimal128Array::from_iter_values(rows().map(|id| i128::from(of(id + shift))))
                    .with_data_type(DataType::Decimal128(14, 3)),
            ),
            Values::Text(of) => Arc::new(StringArray::from_iter_values(rows().map(of))),
        });
    }
    arrays.push(Arc::new(UInt8Array::from(vec![op as u8; len])));
    arrays.push(Arc::new(UInt32Array::from_iter_values(0..u32::try_from(len).expect("small"))));
    arrays.push(Arc::new(TimestampMicrosecondArray::from(vec![1_700_000_000_000_000; len]).with_data_type(instant())));
    let positions = StringArray::from(vec!["0/1A2B3C"]);
    arrays.push(Arc::new(DictionaryArray::new(UInt32Array::from(vec![0; len]), Arc::new(positions))));
    arrays.push(Arc::new(BinaryArray::from(vec![None; len])));
    let rows = RecordBatch::try_new(schema.batch_schema(), arrays).expect("columns fit the schema");
    LogEntry::Frame(Frame {
        source: schema.source.clone(),
        position: Position::new(vec![1]),
        captured_at: 1_700_000_000_000_000,
        txn_end: true,
        batches: vec![TableBatch { table: schema.table.clone(), schema_version: 1, rows }],
    })
}

/// Transactions of one frame are never asked for again.
struct NoReplay;

impl Replay for NoReplay {
    fn frames(
        &self,
        _: &SourceId,
        _: LogOffset,
        _: LogOffset,
        _: &dyn Fn(&TableId) -> bool,
        _: &mut Visit<'_>,
    ) -> Result<(), TransformError> {
        Ok(())
    }
}

/// A fold over a store of its own.
struct World {
    store: Store,
    fold: Fold,
    offset: LogOffset,
    folder: tempfile::TempDir,
}

impl World {
    fn new(memory: u64, sql: &str, entity: &str) -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        let store = Store::open(folder.path(), Limits::within(memory << 20))?;
        let path = format!("erp/{entity}.sql");
        let mapping = Mapping::parse(&path, &path, sql)?;
        let fold = Fold::open(1, vec![mapping], Cursor::default(), &FoldState::new(&store))?;
        let mut world = Self { store, fold, offset: LogOffset::START, folder };
        for (name, columns) in [("line", LINE), ("article", MASTER), ("head", MASTER), ("customer", MASTER)] {
            world.fold(&LogEntry::Schema(schema(name, columns)))?;
        }
        Ok(world)
    }

    fn fold(&mut self, entry: &LogEntry) -> Outcome<u64> {
        self.offset = self.offset.next();
        let store = self.store.clone();
        let mut commit = |step: Step| {
            let mut commit = Commit::new();
            state::put(&mut commit, step.writes);
            store.commit(commit, Durability::Synced).map_err(|error| state::unusable(&error))
        };
        Ok(self.fold.fold(self.offset, entry, &NoReplay, &FoldState::new(&self.store), &mut commit)?.deltas)
    }

    /// Folds rows of a table; says what it took where that is asked.
    fn rows(
        &mut self,
        what: Option<&str>,
        name: &str,
        columns: Columns,
        rows: Rows,
        op: Op,
        shift: i64,
    ) -> Outcome<()> {
        let schema = schema(name, columns);
        let (mut seconds, mut cpu, mut deltas) = (0.0, 0.0, 0);
        for ids in rows.ids().chunks(FRAME) {
            let entry = frame(&schema, columns, ids, op, shift);
            let (began, used) = (Instant::now(), usage::cpu_seconds().unwrap_or_default());
            deltas += self.fold(&entry)?;
            seconds += began.elapsed().as_secs_f64();
            cpu += usage::cpu_seconds().unwrap_or_default() - used;
        }
        if let Some(what) = what {
            report(what, rows.len(), seconds, cpu, deltas, table_bytes(self.folder.path())?);
        }
        Ok(())
    }
}

/// Bytes of the files of a store but for those of its write-ahead journal.
fn table_bytes(folder: &Path) -> Outcome<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        // The store may have removed it since it was listed.
        let (path, Ok(meta)) = (entry.path(), entry.metadata()) else { continue };
        bytes += match path.extension().is_some_and(|extension| extension == "jnl") {
            _ if meta.is_dir() => table_bytes(&path)?,
            true => 0,
            false => meta.len(),
        };
    }
    Ok(bytes)
}

/// Which rows of a table, and in which order.
#[derive(Clone, Copy)]
enum Rows {
    /// The first so many, as their keys count up.
    InOrder(i64),
    /// The same, each far from the one before.
    Scattered(i64),
}

impl Rows {
    const fn len(self) -> i64 {
        let (Self::InOrder(rows) | Self::Scattered(rows)) = self;
        rows
    }

    fn ids(self) -> Vec<i64> {
        /// A prime, so that no row comes twice, unless their number is a multiple of it.
        const STRIDE: i64 = 123_457;
        match self {
            Self::InOrder(rows) => (0..rows).collect(),
            Self::Scattered(rows) => (0..rows).map(|row| row * STRIDE % rows).collect(),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn report(what: &str, rows: i64, seconds: f64, cpu: f64, deltas: u64, state: u64) {
    let (peak, state) = (usage::peak_rss_bytes().unwrap_or_default() >> 20, state >> 20);
    let (rate, cost) = (rows as f64 / seconds / 1_000.0, cpu * 1e6 / rows as f64);
    println!("| {what} | {rows} | {rate:.0} | {cost:.2} | {deltas} | {peak} | {state} |");
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let rows: i64 = arguments.first().map_or(Ok(1_000_000), |rows| rows.parse())?;
    let memory: u64 = arguments.get(1).map_or(Ok(256), |memory| memory.parse())?;
    println!("| | rows | thousand rows/s | CPU s per million | deltas | peak MiB so far | state MiB |");
    println!("|---|---|---|---|---|---|---|");
    let all = Rows::InOrder(rows);
    let mut world = World::new(memory, PASS, "inventory_balance")?;
    world.rows(Some("sum of all rows, first seen"), "line", LINE, all, Op::Insert, 0)?;
    world.rows(Some("the same, changed"), "line", LINE, all, Op::Update, 1)?;
    world.rows(Some("the same, changed in no order"), "line", LINE, Rows::Scattered(rows), Op::Update, 2)?;
    world.rows(Some("the same, touched without a change"), "line", LINE, all, Op::Update, 2)?;
    drop(world);
    let mut world = World::new(memory, EXPRESSIONS, "item")?;
    world.rows(Some("projection of 20 expressions, first seen"), "line", LINE, all, Op::Insert, 0)?;
    world.rows(Some("the same, changed"), "line", LINE, all, Op::Update, 1)?;
    drop(world);
    let mut world = World::new(memory, ONE_JOIN, "inventory_balance")?;
    world.rows(None, "article", MASTER, Rows::InOrder(ARTICLES), Op::Insert, 0)?;
    world.rows(Some("one join, first seen"), "line", LINE, all, Op::Insert, 0)?;
    world.rows(Some("the same, changed"), "line", LINE, all, Op::Update, 1)?;
    world.rows(Some("the same, changed in no order"), "line", LINE, Rows::Scattered(rows), Op::Update, 2)?;
    let every = "every joined row changed: all rows again";
    world.rows(Some(every), "article", MASTER, Rows::InOrder(ARTICLES), Op::Update, 1)?;
    drop(world);
    let mut world = World::new(memory, THREE_JOINS, "inventory_balance")?;
    world.rows(None, "article", MASTER, Rows::InOrder(ARTICLES), Op::Insert, 0)?;
    world.rows(None, "customer", MASTER, Rows::InOrder(3_000), Op::Insert, 0)?;
    world.rows(None, "head", MASTER, Rows::InOrder(rows / 5 + 1), Op::Insert, 0)?;
    world.rows(Some("three joins, first seen"), "line", LINE, all, Op::Insert, 0)?;
    world.rows(Some("the same, changed"), "line", LINE, all, Op::Update, 1)?;
    drop(world);
    let mut world = World::new(memory, ONE_ARTICLE, "inventory_balance")?;
    world.rows(None, "article", MASTER, Rows::InOrder(1), Op::Insert, 0)?;
    world.rows(None, "line", LINE, all, Op::Insert, 0)?;
    let one = "one joined row changed that all rows cite";
    world.rows(Some(one), "article", MASTER, Rows::InOrder(1), Op::Update, 1)?;
    Ok(())
}
