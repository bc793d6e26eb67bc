//! The tables as of one moment, copied by several connections at once, into frames of `Op::Read`.
//!
//! ```text
//! replication connection   temporary slot -> snapshot name, consistent point P      (idle while the copy runs)
//! worker 1..n              REPEATABLE READ, that snapshot: COPY table after table, largest first
//! log                      schema | rows .. | schema | rows ..                      txn_end = false, position "snapshot"
//! at the end               one empty frame                                          txn_end = true, position P
//! ```
//!
//! The whole copy is one unit: sinks see nothing of it before its last frame. If it breaks off, the next attempt begins
//! with a truncate row for every table, which takes back what the log holds of the last one. Frames of different tables
//! interleave as the workers deliver them; within a table they are in order. Memory: one frame per worker.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use syncline_schemas::frame::{Frame, LogEntry, Op, TableBatch};
use tracing::info;

use super::check::relations;
use super::decode::{CopyLine, Shape, Stamp, TableBuilder};
use super::lsn::Lsn;
use super::position::{PgPosition, Unfinished};
use super::preflight::Inspection;
use super::session::{Identity, Session};
use super::wire::{Connection, Purpose, quote_identifier, quote_literal};
use crate::limits::{FRAME_BYTES_MAX, FRAME_ROWS_MAX};
use crate::progress::{OpCounts, now_us};
use crate::{CaptureError, StopSignal};

const DURING: &str = "copying the tables";

/// One table's copy.
struct Plan {
    shape: Arc<Shape>,
    sql: String,
    pages: u64,
}

/// What all workers share.
struct Copy<'a> {
    session: &'a Session<'a>,
    identity: Identity,
    mark: Arc<[u8]>,
    snapshot: String,
    consistent_point: Lsn,
    at_us: i64,
    plans: Vec<Plan>,
    next: AtomicUsize,
    failed: AtomicBool,
}

/// Copies the tables; gives the point from which the stream goes on, or `None` when it was stopped.
pub(crate) fn copy(
    session: &Session<'_>,
    stream: &mut Connection,
    identity: Identity,
    inspection: &Inspection,
    again: bool,
) -> Result<Option<Lsn>, CaptureError> {
    let slot = temporary_slot_name(stream, &session.config.slot)?;
    let plans = plans(session, inspection)?;
    let (consistent_point, snapshot, at_us) = export_snapshot(stream, &slot)?;
    let copy = Copy {
        session,
        identity,
        mark: Arc::from(inspection.scope.mark().encode()),
        snapshot,
        consistent_point,
        at_us,
        plans,
        next: AtomicUsize::new(0),
        failed: AtomicBool::new(false),
    };
    info!(source = %session.config.source, tables = copy.plans.len(), at = %consistent_point, "copying the tables");
    if again {
        copy.take_back()?;
    }
    copy.run_workers()?;
    if session.stop.is_stopped() {
        return Ok(None);
    }
    copy.hand_over(Vec::new(), &OpCounts::default(), Unfinished::Nothing)?;
    stream.query("ending the copy", &format!("DROP_REPLICATION_SLOT {}", quote_identifier(&slot)))?;
    info!(source = %session.config.source, at = %consistent_point, "copied the tables");
    Ok(Some(consistent_point))
}

/// Unique on the server while this connection lives, so that a dying predecessor's slot is never in the way.
fn temporary_slot_name(stream: &mut Connection, slot: &str) -> Result<String, CaptureError> {
    let rows = stream.query(DURING, "SELECT pg_catalog.pg_backend_pid()")?;
    let pid = rows.first().map(|row| row.text(0).to_owned()).unwrap_or_default();
    let stem: String = slot.chars().take(45).collect();
    Ok(format!("{stem}_copy_{pid}"))
}

/// Creates the temporary slot: its consistent point, the name of its snapshot, and the server's time.
fn export_snapshot(stream: &mut Connection, slot: &str) -> Result<(Lsn, String, i64), CaptureError> {
    const DURING: &str = "exporting a snapshot";
    let clock = stream.query(DURING, "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")?;
    // The snapshot lives until the next command on this connection.
    let sql = format!("CREATE_REPLICATION_SLOT {} TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT", quote_identifier(slot));
    let created = stream.command(DURING, &sql)?;
    let parts = created
        .first()
        .zip(clock.first())
        .and_then(|(created, clock)| Some((created.parsed(1)?, created.get(2)?.to_owned(), clock.parsed(0)?)));
    parts.ok_or_else(|| stream.protocol(DURING, "the answer names no snapshot"))
}

/// What to copy, largest first so that the last worker does not end long after the others.
fn plans(session: &Session<'_>, inspection: &Inspection) -> Result<Vec<Plan>, CaptureError> {
    let publication = inspection.publication.as_ref();
    let mut plans = Vec::new();
    for (table, relation) in inspection.catalog.tables.iter().zip(relations(&inspection.catalog, publication)) {
        let names: Vec<String> = relation.columns.iter().map(|column| quote_identifier(&column.name)).collect();
        // A table's children by inheritance are tables of their own; a partitioned table's rows are in its partitions.
        let only = if table.is_partitioned { "" } else { "ONLY " };
        let published = publication.and_then(|publication| publication.tables.get(&table.id));
        let filter = published.and_then(|published| published.row_filter.as_ref());
        let filter = filter.map(|filter| format!(" WHERE {filter}")).unwrap_or_default();
        plans.push(Plan {
            shape: Arc::new(inspection.catalog.shape(&session.config.source, &relation)?),
            sql: format!("COPY (SELECT {} FROM {only}{}{filter}) TO STDOUT", names.join(", "), table.quoted()),
            pages: table.pages,
        });
    }
    plans.sort_by_key(|plan| std::cmp::Reverse(plan.pages));
    Ok(plans)
}

impl Copy<'_> {
    /// Empties every table of what an unfinished copy left in the log.
    fn take_back(&self) -> Result<(), CaptureError> {
        let mut batches = Vec::new();
        let mut counts = OpCounts::default();
        for (plan, ord) in self.plans.iter().zip(0..) {
            self.session.log_shape(&plan.shape.schema)?;
            let mut builder = self.builder(plan);
            builder.append_truncate(self.stamp(ord));
            counts.add(Op::Truncate);
            batches.extend(take(&mut builder)?);
        }
        self.hand_over(batches, &counts, Unfinished::Snapshot)
    }

    fn run_workers(&self) -> Result<(), CaptureError> {
        let workers = self.session.config.copy_workers.clamp(1, self.plans.len().max(1));
        thread::scope(|scope| {
            let started: Vec<_> = (0..workers).map(|_| scope.spawn(|| self.work())).collect();
            let ended = started
                .into_iter()
                .map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            let mut first = Ok(());
            for result in ended {
                // A worker that was only told to give up is not the reason.
                if first.is_ok() || matches!(&first, Err(error) if is_interrupt(error)) && result.is_err() {
                    first = result;
                }
            }
            match first {
                Err(error) if is_interrupt(&error) && self.session.stop.is_stopped() => Ok(()),
                first => first,
            }
        })
    }

    fn work(&self) -> Result<(), CaptureError> {
        let worked = self.copy_tables();
        if worked.is_err() {
            self.failed.store(true, Ordering::Release);
        }
        worked
    }

    fn copy_tables(&self) -> Result<(), CaptureError> {
        let mut connection = Connection::open(self.session.config, Purpose::Query, self.session.stop)?;
        connection.query(DURING, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
        connection.query(DURING, &format!("SET TRANSACTION SNAPSHOT {}", quote_literal(&self.snapshot)))?;
        // With row security a policy would hide rows without a word; now it is an error.
        connection.query(DURING, "SET LOCAL row_security = off")?;
        while let Some(plan) = self.plans.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            self.copy_table(&mut connection, plan)?;
        }
        Ok(())
    }

    fn copy_table(&self, connection: &mut Connection, plan: &Plan) -> Result<(), CaptureError> {
        self.session.log_shape(&plan.shape.schema)?;
        let source = connection.source().clone();
        let mut builder = self.builder(plan);
        let mut line_reader = CopyLine::default();
        let (mut ord, mut bytes) = (0, 0);
        let mut counts = OpCounts::default();
        connection.copy_out(DURING, &plan.sql, |line| {
            let at = || format!("the copy at {}", self.consistent_point);
            let row = line_reader.split(line, plan.shape.kinds.len()).map_err(|reason| CaptureError::Protocol {
                source_id: source.clone(),
                at: at(),
                reason: format!("table {}: {reason}", plan.shape.schema.table),
            })?;
            builder.append(Op::Read, self.stamp(ord), row, None).map_err(|fault| plan.shape.error(&at(), fault))?;
            counts.add(Op::Read);
            ord += 1;
            bytes += line.len();
            if ord >= FRAME_ROWS_MAX || bytes >= FRAME_BYTES_MAX {
                self.hand_over(
                    take(&mut builder)?.into_iter().collect(),
                    &std::mem::take(&mut counts),
                    Unfinished::Snapshot,
                )?;
                self.session.progress.observe_message(bytes);
                (ord, bytes) = (0, 0);
                self.ensure_wanted(&source)?;
            }
            Ok(())
        })?;
        if ord > 0 {
            self.hand_over(take(&mut builder)?.into_iter().collect(), &counts, Unfinished::Snapshot)?;
            self.session.progress.observe_message(bytes);
        }
        Ok(())
    }

    /// Gives up where the source is to stop or another worker failed.
    fn ensure_wanted(&self, source: &syncline_schemas::ident::SourceId) -> Result<(), CaptureError> {
        let stop: &StopSignal = self.session.stop;
        if stop.is_stopped() || self.failed.load(Ordering::Acquire) {
            let error = io::Error::new(io::ErrorKind::Interrupted, "the copy was given up");
            return Err(CaptureError::Lost { source_id: source.clone(), during: DURING, error });
        }
        Ok(())
    }

    fn builder(&self, plan: &Plan) -> TableBuilder {
        TableBuilder::new(Arc::clone(&plan.shape), self.session.config.special_values)
    }

    const fn stamp(&self, ord: u32) -> Stamp {
        Stamp { ord, commit_us: self.at_us, position: self.consistent_point }
    }

    fn hand_over(
        &self,
        batches: Vec<TableBatch>,
        counts: &OpCounts,
        unfinished: Unfinished,
    ) -> Result<(), CaptureError> {
        let position = PgPosition {
            system_id: self.identity.system_id,
            timeline: self.identity.timeline,
            slot: self.session.config.slot.clone(),
            mark: Arc::clone(&self.mark),
            end: self.consistent_point,
            unfinished,
        };
        let frame = Frame {
            source: self.session.config.source.clone(),
            position: position.encode(),
            captured_at: now_us(),
            txn_end: unfinished == Unfinished::Nothing,
            batches,
        };
        self.session.log.append(LogEntry::Frame(frame))?;
        self.session.progress.observe_frame(counts);
        Ok(())
    }
}

fn is_interrupt(error: &CaptureError) -> bool {
    matches!(error, CaptureError::Lost { error, .. } if error.kind() == io::ErrorKind::Interrupted)
}

/// The builder's rows as a batch.
fn take(builder: &mut TableBuilder) -> Result<Option<TableBatch>, CaptureError> {
    let schema = &builder.shape().schema;
    let (source_id, table) = (schema.source.clone(), schema.table.clone());
    builder.take().map_err(|error| CaptureError::Batch { source_id, table, error })
}
