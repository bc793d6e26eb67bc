//! How many rows a second the fold takes, alone: state is a hash map, commits cost nothing.
//!
//! `cargo bench -p syncline-transform` prints one line per entity kind and per what the rows do: come for the first
//! time, change, are touched without a change, or change a few at a time. CPU time is what counts on a busy machine.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{
    ArrayRef, BinaryArray, Decimal128Array, DictionaryArray, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray, UInt8Array, UInt32Array,
};
use arrow::datatypes::DataType;
use syncline_schemas::frame::{Frame, LogEntry, Op, TableBatch};
use syncline_schemas::ident::{LogOffset, Position, SourceId, TableId};
use syncline_schemas::table::{Column, TableSchema, instant};
use syncline_transform::TransformError;
use syncline_transform::fold::Fold;
use syncline_transform::mapping::Mapping;
use syncline_transform::state::{Cursor, Pair, Replay, Space, State, Step, Visit};

const ROWS: i64 = 1_000_000;
/// What a reader cuts under load.
const FRAME: i64 = 65_536;
/// A transaction of the usual size, cut when the connection has nothing more to give.
const SMALL: i64 = 13;

const PLAIN: &str = "SELECT mandant AS company_id, artnr AS item_id, artnr AS item_no, bez1 AS description, me AS base_uom, \
     me AS planning_uom, gewicht AS weight_kg, volumen AS volume_m3, ek AS unit_cost, waehrung AS cost_currency, \
     vk AS price_list, mhd AS shelf_life_days, abc AS abc_class, warengruppe AS primary_hierarchy_node, \
     CASE WHEN aktiv = 1 THEN 'active' ELSE 'discontinued' END AS status FROM artikel";
const SUMMED: &str = "SELECT mandant AS company_id, warengruppe AS item_id, abc AS location_id, gewicht AS on_hand, \
     volumen AS reserved, ek AS stock_value FROM artikel WHERE aktiv = 1";

/// A space by key.
type Pairs = HashMap<Vec<u8>, Vec<u8>>;

#[derive(Default)]
struct Memory(RefCell<HashMap<Space, Pairs>>);

impl State for Memory {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, TransformError> {
        Ok(self.0.borrow().get(&space).and_then(|pairs| pairs.get(key).cloned()))
    }

    fn scan(&self, space: Space, prefix: &[u8], _after: &[u8], limit: usize) -> Result<Vec<Pair>, TransformError> {
        let spaces = self.0.borrow();
        let pairs = spaces.get(&space).into_iter().flatten().filter(|(key, _)| key.starts_with(prefix));
        Ok(pairs.take(limit).map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}

/// Transactions of one frame are never asked for again.
impl Replay for Memory {
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

impl Memory {
    fn commit(&self, step: Step) {
        let mut spaces = self.0.borrow_mut();
        for (space, key, value) in step.writes {
            let pairs = spaces.entry(space).or_default();
            match value {
                Some(value) => pairs.insert(key, value),
                None => pairs.remove(&key),
            };
        }
    }
}

fn article() -> TableSchema {
    let decimal = DataType::Decimal128(14, 4);
    let columns = [
        ("id", DataType::Int64, "bigint"),
        ("mandant", DataType::Utf8, "text"),
        ("artnr", DataType::Utf8, "character varying(20)"),
        ("bez1", DataType::Utf8, "text"),
        ("me", DataType::Utf8, "text"),
        ("gewicht", decimal.clone(), "numeric(14,4)"),
        ("volumen", decimal.clone(), "numeric(14,4)"),
        ("ek", decimal.clone(), "numeric(14,4)"),
        ("waehrung", DataType::Utf8, "text"),
        ("vk", decimal, "numeric(14,4)"),
        ("mhd", DataType::Int32, "integer"),
        ("abc", DataType::Utf8, "text"),
        ("warengruppe", DataType::Utf8, "text"),
        ("aktiv", DataType::Int32, "integer"),
    ];
    let columns = columns
        .into_iter()
        .enumerate()
        .map(|(i, (name, data_type, source_type))| Column {
            name: name.to_owned(),
            can_be_absent: matches!(data_type, DataType::Utf8 | DataType::Decimal128(_, _)),
            data_type,
            source_type: source_type.to_owned(),
            key_ordinal: (i == 0).then_some(0),
        })
        .collect();
    TableSchema { source: SourceId::new("erp"), table: TableId::new("public", "artikel"), version: 1, columns }
}

/// Rows `from..to` as they are in round `round`.
fn frame(schema: &TableSchema, from: i64, to: i64, op: Op, round: i64) -> LogEntry {
    let len = usize::try_from(to - from).expect("forward");
    let text =
        |value: fn(i64) -> String| -> ArrayRef { Arc::new(StringArray::from_iter_values((from..to).map(value))) };
    let decimal = |factor: i64| -> ArrayRef {
        let values = (from..to).map(|id| i128::from(id * factor % 1_000_000 + round));
        Arc::new(Decimal128Array::from_iter_values(values).with_data_type(DataType::Decimal128(14, 4)))
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(from..to)),
        text(|_| "1000".to_owned()),
        text(|id| format!("A{id:08}")),
        text(|id| format!("Hex bolt M{} x {} zinc", id % 40, id % 300)),
        text(|_| "PCE".to_owned()),
        decimal(7),
        decimal(11),
        decimal(13),
        text(|_| "EUR".to_owned()),
        decimal(17),
        Arc::new(Int32Array::from_iter_values((0..len).map(|i| i32::try_from(i % 365).expect("small")))),
        text(|id| char::from(b'A' + u8::try_from(id % 5).expect("small")).to_string()),
        text(|id| format!("G{:05}", id % 20_000)),
        Arc::new(Int32Array::from(vec![1; len])),
        Arc::new(UInt8Array::from(vec![op as u8; len])),
        Arc::new(UInt32Array::from_iter_values(0..u32::try_from(len).expect("small"))),
        Arc::new(TimestampMicrosecondArray::from(vec![1_700_000_000_000_000; len]).with_data_type(instant())),
        Arc::new(DictionaryArray::new(UInt32Array::from(vec![0; len]), Arc::new(StringArray::from(vec!["0/1A2B3C"])))),
        Arc::new(BinaryArray::from(vec![None; len])),
    ];
    let rows = RecordBatch::try_new(schema.batch_schema(), columns).expect("columns fit the schema");
    let batch = TableBatch { table: schema.table.clone(), schema_version: schema.version, rows };
    LogEntry::Frame(Frame {
        source: schema.source.clone(),
        position: Position::new(vec![1]),
        captured_at: 1_700_000_000_000_000,
        txn_end: true,
        batches: vec![batch],
    })
}

fn measure(path: &str, sql: &str) {
    let (schema, memory) = (article(), Memory::default());
    let mapping = Mapping::parse(path, path, sql).expect("the mapping is sound");
    let mut fold = Fold::open(1, vec![mapping], Cursor::default(), &memory).expect("state is empty");
    let mut offset = LogOffset::START;
    let phases = [
        ("first", Op::Read, 0, ROWS, FRAME),
        ("changed", Op::Update, 1, ROWS, FRAME),
        ("touched", Op::Update, 1, ROWS, FRAME),
        ("small", Op::Update, 2, ROWS / 5, SMALL),
    ];
    for (what, op, round, rows, size) in phases {
        let entries: Vec<LogEntry> = (0..rows)
            .step_by(usize::try_from(size).expect("small"))
            .map(|from| frame(&schema, from, rows.min(from + size), op, round))
            .collect();
        let (start, cpu) = (Instant::now(), cpu_seconds());
        let (mut deltas, mut bytes) = (0, 0);
        for entry in &entries {
            offset = offset.next();
            let mut commit = |step: Step| {
                bytes += step.outbox.as_ref().map_or(0, |outbox| outbox.bytes.len());
                memory.commit(step);
                Ok(())
            };
            deltas += fold.fold(offset, entry, &memory, &memory, &mut commit).expect("folds").deltas;
        }
        let seconds = start.elapsed().as_secs_f64();
        let cpu = cpu_seconds() - cpu;
        #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
        let thousands = rows as f64 / 1_000.0;
        let (rate, cost) = (thousands / seconds, cpu * 1_000.0 / thousands);
        println!(
            "{path:<26} {what:<8} {rate:>6.0} thousand rows/s {cost:>6.2} CPU s/million {deltas:>8} deltas {bytes:>9} bytes"
        );
    }
}

/// CPU seconds of this thread so far; 0 where the system does not say.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok()).unwrap_or_default() / 1e9
}

fn main() {
    measure("erp/item.sql", PLAIN);
    measure("erp/inventory_balance.sql", SUMMED);
}
