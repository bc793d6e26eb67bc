//! What the daemon did and met, written into its lakes from time to time, so that it can be charted beside the data.
//!
//! It is looked at as `/status` shows it and as the commands list it. Lists are written only where they changed since the last
//! look of this process. Nothing waits for this: a look that fails is logged, and the next one has everything again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arrow::array::RecordBatch;
use arrow::json::ReaderBuilder;
use serde::Serialize;
use syncline_journal::Store;
use syncline_schemas::entity;
use syncline_sinks::EntityPatterns;
use syncline_sinks::lake::{Hidden, Operations, OperationsTable};
use tokio::time::MissedTickBehavior;
use tracing::{error, warn};

use super::lag::{Quantiles, now_us};
use super::load::{self, Carried};
use super::memory;
use super::refused::{self, RefusedRow};
use super::rows::{self, Filter, Noted, Question};
use super::status::{SinkStatus, SourceStatus, Status};

/// Rows of a list: with more of them nobody looks at single ones.
const LISTED: usize = 10_000;

/// A lake, and how often it is told.
#[derive(Debug)]
pub(super) struct Recorder {
    /// The sink's name.
    pub(super) sink: String,
    pub(super) operations: Operations,
    pub(super) every: Duration,
    /// Only rows of these are listed.
    pub(super) entities: EntityPatterns,
    /// Of entities with hidden columns neither keys nor reasons are told, which may hold what is hidden.
    pub(super) hidden: Arc<Hidden>,
}

/// Runs until aborted.
pub(super) async fn run(recorder: Recorder, store: Store, status: Arc<Status>) {
    let recorder = Arc::new(recorder);
    let every = recorder.every;
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Lists::default();
    loop {
        ticks.tick().await;
        // Where its sink may not write, it is not ours.
        if status.sinks.iter().any(|sink| sink.name == recorder.sink && sink.parked.is_parked()) {
            continue;
        }
        let (store, status, looker) = (store.clone(), Arc::clone(&status), Arc::clone(&recorder));
        let looked = tokio::task::spawn_blocking(move || {
            let epoch = memory::epoch(&store).map_err(|error| error.to_string())?;
            Ok::<_, String>((epoch, lag(&status), Lists::look(&store, &status, &looker)?))
        });
        let (epoch, lag, lists) = match looked.await {
            Ok(Ok(looked)) => looked,
            Ok(Err(error)) => {
                warn!(error, "cannot see what is to be written under operations/ in a lake, trying again");
                continue;
            }
            Err(error) => {
                error!(%error, "looking at the daemon met a defect in Syncline: please report it");
                continue;
            }
        };
        match record((&recorder.operations, epoch), &lag, &lists, &last).await {
            Ok(true) => last = lists,
            Ok(false) => {}
            Err(error) => warn!(error, "cannot write what the daemon met under operations/ in a lake, trying again"),
        }
    }
}

/// False where the lake is not ours to write yet.
async fn record(
    (operations, epoch): (&Operations, u32),
    lag: &[LagRow],
    lists: &Lists,
    last: &Lists,
) -> Result<bool, String> {
    let now = SystemTime::now();
    let at = now_us();
    let put = async |table: OperationsTable, rows: Result<RecordBatch, String>| {
        operations.record(table, &rows?, epoch, now).await.map_err(|error| error.to_string())
    };
    if !put(OperationsTable::Lag, batch(OperationsTable::Lag, at, lag)).await? {
        return Ok(false);
    }
    if lists.exceptions != last.exceptions || !last.is_told {
        put(OperationsTable::Exceptions, batch(OperationsTable::Exceptions, at, &lists.exceptions)).await?;
    }
    if lists.letters != last.letters || !last.is_told {
        put(OperationsTable::DeadLetters, batch(OperationsTable::DeadLetters, at, &lists.letters)).await?;
    }
    if lists.orders != last.orders || !last.is_told {
        put(OperationsTable::Orders, batch(OperationsTable::Orders, at, &lists.orders)).await?;
    }
    Ok(true)
}

/// Rows as a table has them. Each has the time at which it was looked at.
fn batch<T: Serialize>(table: OperationsTable, observed_at: i64, rows: &[T]) -> Result<RecordBatch, String> {
    #[derive(Serialize)]
    struct Observed<'r, T> {
        observed_at: i64,
        #[serde(flatten)]
        row: &'r T,
    }
    let rows: Vec<_> = rows.iter().map(|row| Observed { observed_at, row }).collect();
    let schema = table.schema();
    let decoded = ReaderBuilder::new(Arc::clone(&schema)).with_strict_mode(true).with_batch_size(rows.len().max(1));
    let decoded = decoded.build_decoder().and_then(|mut decoder| {
        decoder.serialize(&rows)?;
        decoder.flush()
    });
    Ok(decoded.map_err(|error| format!("{}: {error}", table.name()))?.unwrap_or_else(|| RecordBatch::new_empty(schema)))
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct LagRow {
    part: &'static str,
    name: String,
    state: String,
    rows: u64,
    behind_bytes: Option<u64>,
    behind_entries: Option<u64>,
    waiting_ms: Option<u64>,
    p50_us: u64,
    p99_us: u64,
    max_us: u64,
    retries: u64,
    refused: Option<u64>,
}

fn count(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn lag(status: &Status) -> Vec<LagRow> {
    let folded = status.folded().0;
    let sinks = status.sinks.iter().map(|sink| sink_lag(sink, folded));
    sinks.chain(status.sources.iter().map(source_lag)).collect()
}

fn sink_lag(sink: &SinkStatus, folded: u64) -> LagRow {
    let Quantiles { p50_us, p99_us, max_us, .. } = sink.lag.quantiles();
    let state = if sink.parked.is_parked() { "parked" } else { "delivering" };
    LagRow {
        part: "sink",
        name: sink.name.clone(),
        state: state.to_owned(),
        rows: count(&sink.rows),
        behind_bytes: None,
        behind_entries: Some(folded.saturating_sub(sink.cursor.load(Ordering::Acquire))),
        waiting_ms: Some(u64::try_from(sink.waiting().as_millis()).unwrap_or(u64::MAX)),
        p50_us,
        p99_us,
        max_us,
        retries: count(&sink.retries),
        refused: Some(count(&sink.refused)),
    }
}

fn source_lag(source: &SourceStatus) -> LagRow {
    let progress = &source.progress;
    let Quantiles { p50_us, p99_us, max_us, .. } = source.lag.quantiles();
    LagRow {
        part: "source",
        name: source.name.clone(),
        state: source.state().to_owned(),
        rows: count(&progress.rows),
        behind_bytes: progress.behind_bytes(),
        behind_entries: None,
        waiting_ms: None,
        p50_us,
        p99_us,
        max_us,
        retries: count(&source.retries),
        refused: None,
    }
}

/// What is listed.
#[derive(Debug, Default, PartialEq)]
struct Lists {
    /// False before the first look that was written.
    is_told: bool,
    exceptions: Vec<ExceptionRow>,
    letters: Vec<LetterRow>,
    orders: Vec<OrderRow>,
}

#[derive(Debug, PartialEq, Serialize)]
struct ExceptionRow {
    fingerprint: String,
    mapping: Option<String>,
    entity: String,
    rule: String,
    field: String,
    reason: Option<String>,
    /// JSON.
    key: Option<String>,
    source_table: String,
    first_at: i64,
    last_at: i64,
    verdict: Option<String>,
    note: Option<String>,
}

#[derive(Debug, PartialEq, Serialize)]
struct LetterRow {
    sink: String,
    entity: String,
    key: Option<String>,
    version: String,
    code: String,
    field: Option<String>,
    retryable: bool,
    attempts: u32,
    since_at: i64,
}

#[derive(Debug, PartialEq, Serialize)]
struct OrderRow {
    sink: String,
    entity: Option<String>,
    key: Option<String>,
    full: bool,
    after_entry: Option<u64>,
    upto_entry: Option<u64>,
    note: String,
    ordered_at: Option<i64>,
    done_at: i64,
    rows: u64,
    refused: u64,
    failed: Option<String>,
}

/// A row that may tell what is hidden from readers of a lake.
trait Telling {
    fn hide(self) -> Self;
}

impl Telling for ExceptionRow {
    fn hide(self) -> Self {
        Self { reason: None, key: None, ..self }
    }
}

impl Telling for LetterRow {
    fn hide(self) -> Self {
        Self { key: None, ..self }
    }
}

impl Telling for OrderRow {
    fn hide(self) -> Self {
        Self { key: None, ..self }
    }
}

impl Recorder {
    fn shown<T: Telling>(&self, name: &str, row: T) -> T {
        if entity::get(name).is_some_and(|entity| self.hidden.hides(entity)) { row.hide() } else { row }
    }
}

fn micros(ms: u64) -> i64 {
    i64::try_from(ms.saturating_mul(1_000)).unwrap_or(i64::MAX)
}

impl Lists {
    fn look(store: &Store, status: &Status, recorder: &Recorder) -> Result<Self, String> {
        let all = Filter { mapping: None, entity: None, rule: None, all: true, patience: Duration::ZERO };
        let question = Question { limit: LISTED, wanted: &|| true };
        let held = rows::exceptions(&store.current(), &all, &question).map_err(|error| error.to_string())?;
        let (mut letters, mut orders) = (Vec::new(), Vec::new());
        for sink in &status.sinks {
            let rows = refused::list(store, &sink.name, LISTED).into_iter();
            let rows = rows.filter(|row| recorder.entities.contains(&row.entity));
            letters.extend(rows.map(|row| recorder.shown(&row.entity, letter(&sink.name, &row))));
            let carried = load::carried(store, &sink.name).map_err(|error| error.to_string())?;
            let named = |carried: &Carried| carried.order.entity.clone().unwrap_or_default();
            let carried = carried.into_iter().filter(|carried| {
                carried.order.entity.as_ref().is_none_or(|entity| recorder.entities.contains(entity))
            });
            orders.extend(carried.map(|carried| recorder.shown(&named(&carried), order(&sink.name, carried))));
        }
        let held = held.rows.into_iter().filter(|(held, _)| recorder.entities.contains(&held.entity));
        let exceptions = held.map(|noted| recorder.shown(&noted.0.entity.clone(), exception(noted))).collect();
        Ok(Self { is_told: true, exceptions, letters, orders })
    }
}

fn exception(noted: Noted) -> ExceptionRow {
    let (exception, note) = noted;
    let verdict = note.as_ref().and_then(|note| serde_json::to_value(note.state).ok()?.as_str().map(str::to_owned));
    let key: serde_json::Map<_, _> = exception.key.into_iter().map(|(name, value)| (name, value.into())).collect();
    ExceptionRow {
        fingerprint: exception.fingerprint,
        mapping: exception.mapping,
        entity: exception.entity,
        rule: exception.rule,
        field: exception.field,
        reason: Some(exception.reason),
        key: Some(serde_json::Value::Object(key).to_string()),
        source_table: exception.table,
        first_at: exception.first.at,
        last_at: exception.last.at,
        verdict,
        note: note.map(|note| note.note),
    }
}

fn letter(sink: &str, row: &RefusedRow) -> LetterRow {
    LetterRow {
        sink: sink.to_owned(),
        entity: row.entity.clone(),
        key: Some(row.key.clone()),
        version: row.version.clone(),
        code: row.code.clone(),
        field: row.field.clone(),
        retryable: row.retryable,
        attempts: row.attempts,
        since_at: micros(row.since_ms),
    }
}

fn order(sink: &str, carried: Carried) -> OrderRow {
    let Carried { order, done_ms, rows, refused, failed } = carried;
    let (after_entry, upto_entry) = order.span.unzip();
    OrderRow {
        sink: sink.to_owned(),
        entity: order.entity,
        key: order.key,
        full: order.sweep,
        after_entry,
        upto_entry,
        note: order.note,
        // One that nobody gave has no time.
        ordered_at: (order.at_ms > 0).then(|| micros(order.at_ms)),
        done_at: micros(done_ms),
        rows,
        refused,
        failed,
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
    use syncline_schemas::ident::LogOffset;
    use syncline_sinks::lake::{LakeConfig, LakeSink};
    use syncline_transform::fold::{Exception, Seen};

    use super::*;

    #[test]
    fn every_column_of_every_table_has_its_value_and_none_is_misspelt() {
        let lag = LagRow {
            part: "sink",
            name: "lake".to_owned(),
            state: "delivering".to_owned(),
            rows: 7,
            behind_bytes: Some(1),
            behind_entries: Some(2),
            waiting_ms: Some(3),
            p50_us: 4,
            p99_us: 5,
            max_us: 6,
            retries: 8,
            refused: Some(9),
        };
        let exception = ExceptionRow {
            fingerprint: "f".to_owned(),
            mapping: Some("erp/item".to_owned()),
            entity: "item".to_owned(),
            rule: "DQ_REQUIRED".to_owned(),
            field: "name".to_owned(),
            reason: Some("why".to_owned()),
            key: Some("{}".to_owned()),
            source_table: "erp.public.item".to_owned(),
            first_at: 1_790_000_000_000_001,
            last_at: 1_790_000_000_000_002,
            verdict: Some("waived".to_owned()),
            note: Some("known".to_owned()),
        };
        let letter = LetterRow {
            sink: "planning".to_owned(),
            entity: "item".to_owned(),
            key: Some("[]".to_owned()),
            version: "0".to_owned(),
            code: "unknown_item".to_owned(),
            field: Some("item_id".to_owned()),
            retryable: true,
            attempts: 2,
            since_at: 3,
        };
        let order = OrderRow {
            sink: "planning".to_owned(),
            entity: Some("item".to_owned()),
            key: Some("1".to_owned()),
            full: true,
            after_entry: Some(1),
            upto_entry: Some(2),
            note: "why".to_owned(),
            ordered_at: Some(3),
            done_at: 4,
            rows: 5,
            refused: 6,
            failed: Some("no".to_owned()),
        };
        let at = 1_790_000_000_123_456;
        for (table, batch) in [
            (OperationsTable::Lag, batch(OperationsTable::Lag, at, &[lag])),
            (OperationsTable::Exceptions, batch(OperationsTable::Exceptions, at, &[exception])),
            (OperationsTable::DeadLetters, batch(OperationsTable::DeadLetters, at, &[letter])),
            (OperationsTable::Orders, batch(OperationsTable::Orders, at, &[order])),
        ] {
            let batch = batch.expect("fits its table");
            assert_eq!(batch.schema(), table.schema());
            assert!(batch.columns().iter().all(|column| column.len() == 1 && column.null_count() == 0), "{batch:?}");
            assert_eq!(batch.column(0).as_primitive::<TimestampMicrosecondType>().value(0), at);
            if table == OperationsTable::Lag {
                assert_eq!(batch.column_by_name("rows").expect("there").as_primitive::<Int64Type>().value(0), 7);
            }
        }
        let empty = batch::<LetterRow>(OperationsTable::DeadLetters, at, &[]).expect("no rows");
        assert_eq!((empty.num_rows(), empty.schema()), (0, OperationsTable::DeadLetters.schema()));
    }
    #[test]
    fn rows_of_an_entity_with_hidden_columns_tell_neither_its_key_nor_a_reason() {
        let folder = tempfile::tempdir().expect("a folder");
        let url = reqwest::Url::from_directory_path(folder.path()).expect("absolute");
        let hidden = Hidden::new(vec!["customer.name".to_owned()], Vec::new(), None).expect("names a column");
        let config = LakeConfig { hidden: Arc::new(hidden), ..LakeConfig::new(url, "test", folder.path().to_owned()) };
        let lake = LakeSink::new(config.clone()).expect("opens");
        let recorder = Recorder {
            sink: "lake".to_owned(),
            operations: lake.operations(),
            every: Duration::from_secs(300),
            entities: EntityPatterns::all(),
            hidden: config.hidden,
        };
        let letter = || LetterRow {
            sink: "planning".to_owned(),
            entity: "customer".to_owned(),
            key: Some("[\"0100\",\"ada@example.com\"]".to_owned()),
            version: "0".to_owned(),
            code: "unknown".to_owned(),
            field: None,
            retryable: false,
            attempts: 1,
            since_at: 1,
        };
        assert_eq!(recorder.shown("customer", letter()), LetterRow { key: None, ..letter() });
        assert_eq!(recorder.shown("item", letter()), letter());
        let seen = Seen { offset: LogOffset(1), at: 1 };
        let exception = Exception {
            fingerprint: "f".to_owned(),
            mapping: None,
            entity: "customer".to_owned(),
            rule: "DQ_REQUIRED".to_owned(),
            field: "name".to_owned(),
            reason: "ada@example.com is too long".to_owned(),
            key: vec![("email".to_owned(), Some("ada@example.com".to_owned()))],
            table: "erp.public.customer".to_owned(),
            first: seen,
            last: seen,
            position: String::new(),
        };
        let row = recorder.shown("customer", self::exception((exception, None)));
        assert!(!format!("{row:?}").contains("ada@example.com"), "{row:?}");
    }
}
