//! From contribution changes to the delta batch of an outbox entry: entity rows, versions, lineage, stamps.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, DictionaryArray, FixedSizeBinaryBuilder, RecordBatch, StringArray, StringBuilder,
    TimestampMicrosecondArray, UInt8Array, new_null_array,
};
use arrow::datatypes::{DataType, TimestampMicrosecondType, UInt32Type};
use syncline_schemas::delta::{self, DeltaBatch};
use syncline_schemas::entity::{self, Entity, Kind};
use syncline_schemas::frame::{COMMIT_TS, POS, TableBatch};
use syncline_schemas::ident::{LogOffset, Version};
use syncline_schemas::rowcode;
use syncline_schemas::table::instant;

use super::changes::column;
use super::citation::Present;
use super::contribution::{put_run, take_run};
use super::step::Deltas;
use super::tasks::{Task, What, Why};
use super::{ContributionChange, Fold, Work, Writes, deferred, group, index, plain, summed};
use crate::TransformError;
use crate::state::{Space, State};

/// The source row whose change caused a version: cause of the step, row of its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lineage {
    pub(super) cause: usize,
    pub(super) row: usize,
}

/// A source row as lineage names it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct CauseText {
    pub(super) source: String,
    pub(super) table: String,
    pub(super) position: String,
    /// Microseconds since 1970.
    pub(super) committed_at: i64,
    pub(super) captured_at: i64,
}

/// The time of what no source row caused: it happened when it was done.
pub(super) const UNTIMED: i64 = 0;

impl CauseText {
    /// Appends its bytes.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        for part in [&self.source, &self.table, &self.position] {
            put_run(out, part.as_bytes());
        }
        out.extend_from_slice(&self.committed_at.to_be_bytes());
        out.extend_from_slice(&self.captured_at.to_be_bytes());
    }

    /// Splits off what [`CauseText::put`] appended.
    pub(super) fn take(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let mut rest = bytes;
        let mut text = || {
            let (run, left) = take_run(rest)?;
            rest = left;
            String::from_utf8(run.to_vec()).ok()
        };
        let (source, table, position) = (text()?, text()?, text()?);
        let (committed_at, rest) = rest.split_first_chunk()?;
        let (captured_at, rest) = rest.split_first_chunk()?;
        let (committed_at, captured_at) = (i64::from_be_bytes(*committed_at), i64::from_be_bytes(*captured_at));
        Some((Self { source, table, position, committed_at, captured_at }, rest))
    }

    /// The cause with a time.
    pub(super) fn timed(mut self, now: i64) -> Self {
        if self.committed_at == UNTIMED {
            (self.committed_at, self.captured_at) = (now, now);
        }
        self
    }
}

/// Rows that cause changes in a step.
pub(super) enum Cause<'a> {
    /// Those of one table in the frame at hand.
    Batch { source: &'a str, table: String, captured_at: i64, batch: &'a TableBatch },
    /// One of a frame that is gone.
    Text(CauseText),
}

impl Cause<'_> {
    fn rows(&self) -> Result<CauseRows<'_>, TransformError> {
        let (source, table, captured_at, batch) = match self {
            Self::Text(cause) => return Ok(CauseRows::One(cause)),
            Self::Batch { source, table, captured_at, batch } => (*source, table.as_str(), *captured_at, *batch),
        };
        let positions = column(batch, POS)?.as_dictionary::<UInt32Type>();
        let texts = positions.values().as_string::<i32>();
        let commits = column(batch, COMMIT_TS)?.as_primitive::<TimestampMicrosecondType>();
        Ok(CauseRows::Batch { source, table, captured_at, positions, texts, commits })
    }
}

/// The meta columns of a cause, looked up once.
enum CauseRows<'a> {
    Batch {
        source: &'a str,
        table: &'a str,
        captured_at: i64,
        positions: &'a DictionaryArray<UInt32Type>,
        texts: &'a StringArray,
        commits: &'a TimestampMicrosecondArray,
    },
    One(&'a CauseText),
}

impl<'a> CauseRows<'a> {
    /// Source, table, position, commit and receipt of a row.
    fn at(&self, row: usize) -> (&'a str, &'a str, &'a str, i64, i64) {
        match self {
            Self::One(cause) => (&cause.source, &cause.table, &cause.position, cause.committed_at, cause.captured_at),
            Self::Batch { source, table, captured_at, positions, texts, commits } => {
                let position = texts.value(positions.key(row).unwrap_or_default());
                (source, table, position, commits.value(row), *captured_at)
            }
        }
    }
}

/// Changed rows of one entity.
pub(super) struct Emitted {
    /// All fields; of a deleted row only the key has values.
    pub(super) fields: Vec<ArrayRef>,
    /// True for an upsert, false for a delete.
    pub(super) upserts: Vec<bool>,
    pub(super) lineage: Vec<Lineage>,
    /// Keys in the entities' space that have come or gone.
    pub(super) presence: Vec<(Vec<u8>, bool, Lineage)>,
}

/// What all deltas of a step share.
pub(super) struct Origin<'a> {
    pub(super) epoch: u32,
    pub(super) offset: LogOffset,
    pub(super) causes: Vec<Cause<'a>>,
}

impl Origin<'_> {
    /// A row's change as text.
    pub(super) fn text(&self, lineage: Lineage) -> Result<CauseText, TransformError> {
        let (source, table, position, committed_at, captured_at) = self.causes[lineage.cause].rows()?.at(lineage.row);
        Ok(CauseText {
            source: source.to_owned(),
            table: table.to_owned(),
            position: position.to_owned(),
            committed_at,
            captured_at,
        })
    }
}

/// Types of an entity's key fields and of its other fields.
pub(super) fn field_types(entity: &Entity) -> (Vec<DataType>, Vec<DataType>) {
    let mut keys: Vec<DataType> = entity.fields.iter().map(|field| field.field_type.arrow()).collect();
    let rest = keys.split_off(entity.key_len());
    (keys, rest)
}

/// The bytes of a row without values, beside a deleted key.
pub(super) fn null_row(entity: &Entity) -> Result<Vec<u8>, TransformError> {
    let (_, types) = field_types(entity);
    let nulls: Vec<ArrayRef> = types.iter().map(|data_type| new_null_array(data_type, 1)).collect();
    Ok(rowcode::encode(&nulls)?.row(0).to_vec())
}

/// Builds the delta batch; rows are numbered from `first_row`.
pub(super) fn delta_batch(
    entity: &Entity,
    emitted: Emitted,
    origin: &Origin<'_>,
    first_row: u32,
) -> Result<DeltaBatch, TransformError> {
    let Emitted { mut fields, upserts, lineage, presence: _ } = emitted;
    let len = upserts.len();
    let operations: UInt8Array =
        upserts.iter().map(|&upsert| Some(if upsert { delta::UPSERT } else { delta::DELETE })).collect();
    let mut versions = FixedSizeBinaryBuilder::with_capacity(len, 16);
    for row in 0..u32::try_from(len).expect("a step emits fewer rows than u32") {
        versions.append_value(Version::new(origin.epoch, origin.offset, first_row + row).as_bytes())?;
    }
    let trace = Trace::new(&lineage, origin)?;
    for (field, column) in entity.fields.iter().zip(&mut fields) {
        if field.stamp {
            let commits = trace.commits.iter().zip(&upserts);
            let stamps: TimestampMicrosecondArray = commits.map(|(&at, &upsert)| upsert.then_some(at)).collect();
            *column = Arc::new(stamps.with_data_type(instant()));
        }
    }
    let instants =
        |times: Vec<i64>| -> ArrayRef { Arc::new(TimestampMicrosecondArray::from(times).with_data_type(instant())) };
    let Trace { mut sources, mut tables, mut positions, commits, captured } = trace;
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(operations),
        Arc::new(versions.finish()),
        Arc::new(sources.finish()),
        Arc::new(tables.finish()),
        Arc::new(positions.finish()),
        instants(commits),
        instants(captured),
    ];
    columns.extend(fields);
    let rows = RecordBatch::try_new(entity.delta_schema(), columns)?;
    Ok(DeltaBatch { entity: entity.name.clone(), rows })
}

/// Lineage as columns.
#[derive(Default)]
struct Trace {
    sources: StringBuilder,
    tables: StringBuilder,
    positions: StringBuilder,
    commits: Vec<i64>,
    captured: Vec<i64>,
}

impl Trace {
    fn new(lineage: &[Lineage], origin: &Origin<'_>) -> Result<Self, TransformError> {
        let causes = origin.causes.iter().map(Cause::rows).collect::<Result<Vec<_>, _>>()?;
        let mut trace = Self::default();
        for from in lineage {
            let (source, table, position, committed_at, captured_at) = causes[from.cause].at(from.row);
            trace.sources.append_value(source);
            trace.tables.append_value(table);
            trace.positions.append_value(position);
            trace.commits.push(committed_at);
            trace.captured.push(captured_at);
        }
        Ok(trace)
    }
}

impl Fold {
    /// Folds contribution changes into the rows of an entity, numbered behind so many rows of the step.
    #[expect(clippy::too_many_arguments, reason = "one turn of fold_drivers, apart so that each fits on a page")]
    pub(super) fn emit(
        &self,
        behind: u32,
        entity_index: usize,
        changes: Vec<ContributionChange>,
        origin: &Origin<'_>,
        present: &mut Present<'_>,
        writes: &mut Writes,
        work: &mut Work<'_, '_>,
    ) -> Result<Deltas, TransformError> {
        if changes.is_empty() {
            return Ok(Deltas::default());
        }
        let entity = &entity::all()[entity_index];
        let prefix = self.roster.entity_prefix(entity_index);
        let logic = self.roster.logic(entity_index);
        let emitted = match entity.kind {
            Kind::Summed if work.several => {
                deferred::add(entity, &prefix, &changes, origin, &mut work.aside, work.state, writes)?;
                return Ok(Deltas::default());
            }
            Kind::Plain | Kind::Event if work.several => {
                let now = work.seen();
                let presence =
                    deferred::set_aside(&prefix, now, &changes, origin, &mut work.aside, work.state, writes)?;
                let leaves_tasks = self.meet(entity_index, presence, origin, present, writes, work)?;
                return Ok(Deltas { deltas: Vec::new(), leaves_tasks });
            }
            Kind::Summed => summed::fold(entity, logic, &prefix, work.seen(), &changes, work.state, writes)?,
            Kind::Plain | Kind::Event => plain::fold(entity, &prefix, work.seen(), &changes, work.state, writes)?,
        };
        self.deliver(behind, entity_index, emitted, origin, present, writes, work)
    }

    /// Makes deltas of an entity's changed rows, and leaves as tasks what they have to be done.
    #[expect(clippy::too_many_arguments, reason = "the other half of emit")]
    pub(super) fn deliver(
        &self,
        behind: u32,
        entity_index: usize,
        mut emitted: Emitted,
        origin: &Origin<'_>,
        present: &mut Present<'_>,
        writes: &mut Writes,
        work: &mut Work<'_, '_>,
    ) -> Result<Deltas, TransformError> {
        let mut out = Deltas::default();
        let entity = &entity::all()[entity_index];
        let prefix = self.roster.entity_prefix(entity_index);
        let presence = std::mem::take(&mut emitted.presence);
        out.leaves_tasks = self.meet(entity_index, presence, origin, present, writes, work)?;
        for task in group::touched(entity, prefix, &emitted)? {
            task.put(&|lineage| origin.text(lineage), writes)?;
            out.leaves_tasks = true;
        }
        if !emitted.upserts.is_empty() {
            work.stats.warnings += self.roster.logic(entity_index).warnings(entity, &emitted.fields)?;
            let batch = delta_batch(entity, emitted, origin, self.cursor.rows + behind)?;
            work.stats.deltas += batch.rows.num_rows() as u64;
            out.deltas.push(batch);
        }
        Ok(out)
    }
}

impl Fold {
    /// Keys of an entity have come or gone: has what waits for them evaluated again; true where that is left as tasks.
    fn meet(
        &self,
        entity_index: usize,
        presence: Vec<(Vec<u8>, bool, Lineage)>,
        origin: &Origin<'_>,
        present: &mut Present<'_>,
        writes: &mut Writes,
        work: &Work<'_, '_>,
    ) -> Result<bool, TransformError> {
        if !self.roster.is_cited(entity_index) {
            return Ok(false);
        }
        let tasks = awaited(presence, &self.roster.entity_prefix(entity_index), present, work.state)?;
        tasks.iter().try_for_each(|task| task.put(&|lineage| origin.text(lineage), writes))?;
        Ok(!tasks.is_empty())
    }
}

/// What is to be done because rows of an entity have come: those that wait for them are evaluated again.
fn awaited(
    presence: Vec<(Vec<u8>, bool, Lineage)>,
    prefix: &[u8],
    present: &mut Present<'_>,
    state: &dyn State,
) -> Result<Vec<Task>, TransformError> {
    let any = |awaited: &[u8]| -> Result<bool, TransformError> {
        Ok(!state.scan(Space::Index, &index::parked_prefix(awaited), &[], 1)?.is_empty())
    };
    let some_wait = presence.iter().any(|(_, there, _)| *there) && any(prefix)?;
    let mut tasks = Vec::new();
    for (key, there, lineage) in presence {
        if there && some_wait && any(&key)? {
            tasks.push(Task::new(What::Parked { key: key.clone() }, Why::Row(lineage)));
        }
        present.change(key, there);
    }
    Ok(tasks)
}
