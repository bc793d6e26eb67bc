//! The writer: one thread, one connection, one transaction for all batches that wait.
//!
//! Batches of parallel partitions arrive together, so a commit, and the sync of the WAL that makes it durable, is shared by
//! whoever came while the last one ran. A receipt is a promise: it goes out when the machine may lose power. Statements are prepared once and live as long as the thread.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Row, Statement, params};
use syncline_schemas::entity;
use syncline_schemas::ident::Version;
use tokio::sync::{mpsc, oneshot};

use super::batch::Batch;
use super::loads::Load;
use super::stats::PlannerCounts;
use crate::SinkError;
use crate::planning::contract::{FENCED_EPOCH, KEY_REUSED, Problem, Receipt, SEQUENCE_GAP, Watermark};

const SCHEMA: &str = include_str!("schema.sql");
/// Batches in one transaction: as many as senders have under way at once, and a bound for a waiting reader.
const GROUP_MAX: usize = 64;
/// Receipts kept per partition for repeated requests; a sender has one request under way, so a few would do.
const ANSWERS_KEPT: u64 = 64;

/// What the writer is asked to do.
pub(super) enum Work {
    Batch(Job),
    Load(Load),
}

/// A batch for the writer.
pub(super) struct Job {
    /// The flow's place in the list of entities.
    pub(super) flow: usize,
    pub(super) partition: u32,
    pub(super) epoch: u32,
    pub(super) number: u64,
    pub(super) idempotency_key: String,
    pub(super) digest: [u8; 32],
    pub(super) batch: Batch,
    pub(super) reply: oneshot::Sender<Outcome>,
}

impl Work {
    /// Tells what became of it; a sender that went away asks again.
    fn end(self, outcome: Outcome) {
        let (Self::Batch(Job { reply, .. }) | Self::Load(Load { reply, .. })) = self;
        let _ = reply.send(outcome);
    }
}

/// What became of a batch.
pub(super) enum Outcome {
    /// Processed: the receipt, and what to count.
    Receipt(String, PlannerCounts),
    /// Refused whole.
    Problem(Problem),
    /// The file failed; nothing of the batch is kept.
    Storage(String),
}

/// Opens the file, or makes it.
///
/// # Errors
/// [`SinkError::Local`] with the file's name.
pub(super) fn open(path: &Path) -> Result<Connection, SinkError> {
    let fault = |error: rusqlite::Error| SinkError::Local {
        place: path.display().to_string(),
        reason: format!("cannot open the planner's database: {error}"),
    };
    let connection = Connection::open(path).map_err(fault)?;
    connection
        .execute_batch(
            "PRAGMA page_size = 8192; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             PRAGMA cache_size = -65536; PRAGMA busy_timeout = 10000; PRAGMA wal_autocheckpoint = 4000;",
        )
        .map_err(fault)?;
    connection.execute_batch(SCHEMA).map_err(fault)?;
    connection.execute_batch(super::outputs::SCHEMA).map_err(fault)?;
    for entity in entity::all() {
        connection.execute("INSERT OR IGNORE INTO flows (name) VALUES (?1)", [&entity.name]).map_err(fault)?;
    }
    Ok(connection)
}

/// Opens the file for one question.
pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    Ok(connection)
}

/// Works on jobs until no sender is left.
pub(super) fn run(connection: &Connection, mut jobs: mpsc::Receiver<Work>) -> rusqlite::Result<()> {
    let mut writer = Writer::prepare(connection)?;
    while let Some(first) = jobs.blocking_recv() {
        let mut group = vec![first];
        while group.len() < GROUP_MAX
            && let Ok(job) = jobs.try_recv()
        {
            group.push(job);
        }
        let outcomes = writer.commit(&mut group);
        for (job, outcome) in group.into_iter().zip(outcomes) {
            job.end(outcome);
        }
    }
    Ok(())
}

/// The statements of the writer.
pub(super) struct Writer<'c> {
    pub(super) connection: &'c Connection,
    /// Ids of the flows, by their place in the list of entities.
    pub(super) flows: Vec<i64>,
    answer: Statement<'c>,
    keep_answer: Statement<'c>,
    drop_answers: Statement<'c>,
    watermark: Statement<'c>,
    keep_watermark: Statement<'c>,
    held: Statement<'c>,
    insert: Statement<'c>,
    update: Statement<'c>,
    totals: Statement<'c>,
}

impl<'c> Writer<'c> {
    fn prepare(connection: &'c Connection) -> rusqlite::Result<Self> {
        let id = |name: &str| connection.query_row("SELECT id FROM flows WHERE name = ?1", [name], |row| row.get(0));
        Ok(Self {
            connection,
            flows: entity::all().iter().map(|entity| id(&entity.name)).collect::<Result<_, _>>()?,
            answer: connection.prepare("SELECT digest, receipt FROM answers WHERE idempotency_key = ?1")?,
            keep_answer: connection.prepare("INSERT INTO answers VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?,
            drop_answers: connection
                .prepare("DELETE FROM answers WHERE flow = ?1 AND partition = ?2 AND batch <= ?3")?,
            watermark: connection.prepare(WATERMARK)?,
            keep_watermark: connection.prepare("INSERT OR REPLACE INTO watermarks VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?,
            held: connection.prepare("SELECT version, data IS NULL FROM records WHERE flow = ?1 AND key = ?2")?,
            insert: connection.prepare("INSERT INTO records VALUES (?1, ?2, ?3, ?4)")?,
            update: connection.prepare("UPDATE records SET version = ?3, data = ?4 WHERE flow = ?1 AND key = ?2")?,
            totals: connection.prepare(
                "UPDATE flows SET live = live + ?2, tombstones = tombstones + ?3, version = max(coalesce(version, ?4), ?4)
                 WHERE id = ?1",
            )?,
        })
    }

    /// One transaction; where it fails, nothing of the group is kept and everyone hears of it.
    fn commit(&mut self, group: &mut [Work]) -> Vec<Outcome> {
        let mut work = || {
            let transaction = self.connection.unchecked_transaction()?;
            let outcomes = group.iter_mut().map(|work| self.work(work)).collect::<rusqlite::Result<Vec<_>>>()?;
            transaction.commit()?;
            Ok(outcomes)
        };
        work().unwrap_or_else(|error: rusqlite::Error| {
            group.iter().map(|_| Outcome::Storage(error.to_string())).collect()
        })
    }

    fn work(&mut self, work: &mut Work) -> rusqlite::Result<Outcome> {
        match work {
            Work::Batch(job) => self.process(job),
            Work::Load(load) => self.load(&mut load.step),
        }
    }

    fn process(&mut self, job: &mut Job) -> rusqlite::Result<Outcome> {
        let answered = self
            .answer
            .query_row([&job.idempotency_key], |row| Ok((row.get::<_, [u8; 32]>(0)?, row.get::<_, String>(1)?)))
            .optional()?;
        if let Some((digest, receipt)) = answered {
            if digest != job.digest {
                return Ok(refuse(422, KEY_REUSED, "the key came before with another body".into(), None));
            }
            return Ok(Outcome::Receipt(receipt, PlannerCounts { replays: 1, ..PlannerCounts::default() }));
        }
        let flow = self.flows[job.flow];
        let mut watermark = self
            .watermark
            .query_row(params![flow, job.partition], read_watermark)
            .optional()?
            .unwrap_or(Watermark { partition: job.partition, ..Watermark::default() });
        if job.epoch < watermark.epoch {
            let detail = format!("epoch {} is over, the partition is in {}", job.epoch, watermark.epoch);
            return Ok(refuse(409, FENCED_EPOCH, detail, None));
        }
        let last = if job.epoch > watermark.epoch { 0 } else { watermark.last_batch };
        if job.number > last + 1 {
            let detail = format!("batch {} came, {} is next", job.number, last + 1);
            return Ok(refuse(409, SEQUENCE_GAP, detail, Some(last + 1)));
        }
        let fresh = job.number > last;
        let mut counts = self.apply(flow, &job.batch, fresh)?;
        if fresh {
            watermark.epoch = job.epoch;
            watermark.last_batch = job.number;
            watermark.source = job.batch.source.take();
            watermark.partitions = job.batch.partitions;
        } else {
            counts.replays = 1;
        }
        // Hex of a fixed width orders like the versions.
        watermark.last_version = watermark.last_version.max(job.batch.newest.map(|version| version.to_string()));
        self.keep(flow, &watermark)?;
        let receipt = self.answer(flow, job, &counts, watermark)?;
        Ok(Outcome::Receipt(receipt, counts))
    }

    /// Applies changes by version: higher replaces, equal and lower change nothing.
    pub(super) fn apply(&mut self, flow: i64, batch: &Batch, fresh: bool) -> rusqlite::Result<PlannerCounts> {
        let mut counts = PlannerCounts {
            records: batch.received,
            applied: batch.forgotten,
            rejected: batch.rejects.len() as u64,
            ..PlannerCounts::default()
        };
        let (mut live, mut tombstones) = (0_i64, 0_i64);
        let mut newest: Option<Version> = None;
        for change in &batch.changes {
            let held = self
                .held
                .query_row(params![flow, change.key], |row| Ok((row.get::<_, [u8; 16]>(0)?, row.get::<_, bool>(1)?)))
                .optional()?;
            let version = change.version.as_bytes();
            let new = params![flow, change.key, version, change.data];
            match held {
                Some((held, _)) if held == *version => {
                    counts.unchanged += 1;
                    continue;
                }
                Some((held, _)) if held > *version => {
                    counts.stale += 1;
                    // Rows of a load are ahead of the deltas that it overtook.
                    let of_load = held[12..] == u32::MAX.to_be_bytes();
                    counts.went_backwards += u64::from(fresh && !of_load);
                    continue;
                }
                Some((_, was_tombstone)) => {
                    self.update.execute(new)?;
                    tombstones -= i64::from(was_tombstone);
                    live -= i64::from(!was_tombstone);
                }
                None => {
                    self.insert.execute(new)?;
                }
            }
            counts.applied += 1;
            tombstones += i64::from(change.data.is_none());
            live += i64::from(change.data.is_some());
            newest = newest.max(Some(change.version));
        }
        if let Some(newest) = newest {
            self.totals.execute(params![flow, live, tombstones, newest.as_bytes()])?;
        }
        Ok(counts)
    }

    fn keep(&mut self, flow: i64, watermark: &Watermark) -> rusqlite::Result<()> {
        self.keep_watermark.execute(params![
            flow,
            watermark.partition,
            watermark.epoch,
            watermark.last_batch.cast_signed(),
            watermark.source,
            watermark.partitions,
            watermark
                .last_version
                .as_ref()
                .and_then(|text| text.parse().ok())
                .map(|version: Version| *version.as_bytes())
        ])?;
        Ok(())
    }

    /// Writes the receipt and keeps it for a repeated request.
    fn answer(
        &mut self,
        flow: i64,
        job: &mut Job,
        counts: &PlannerCounts,
        watermark: Watermark,
    ) -> rusqlite::Result<String> {
        let receipt = Receipt {
            batch_id: std::mem::take(&mut job.batch.id),
            received: counts.records,
            applied: counts.applied,
            unchanged: counts.unchanged,
            stale: counts.stale,
            rejected: counts.rejected,
            watermark,
            rejects: std::mem::take(&mut job.batch.rejects),
        };
        let text = serde_json::to_string(&receipt).expect("a receipt has no map with other than string keys");
        let number = job.number.cast_signed();
        self.keep_answer.execute(params![job.idempotency_key, flow, job.partition, number, job.digest, text])?;
        if let Some(old) = job.number.checked_sub(ANSWERS_KEPT) {
            self.drop_answers.execute(params![flow, job.partition, old.cast_signed()])?;
        }
        Ok(text)
    }
}

/// Reads by flow id and partition; see [`read_watermark`].
pub(super) const WATERMARK: &str =
    "SELECT partition, epoch, batch, source, partitions, version FROM watermarks WHERE flow = ?1 AND partition = ?2";

/// Reads a row of [`WATERMARK`].
pub(super) fn read_watermark(row: &Row<'_>) -> rusqlite::Result<Watermark> {
    let version: Option<[u8; 16]> = row.get(5)?;
    Ok(Watermark {
        partition: row.get(0)?,
        epoch: row.get(1)?,
        last_batch: row.get::<_, i64>(2)?.cast_unsigned(),
        source: row.get(3)?,
        partitions: row.get(4)?,
        last_version: version.map(|bytes| Version::from_bytes(bytes).to_string()),
    })
}

pub(super) fn refuse(status: u16, name: &str, detail: String, expected: Option<u64>) -> Outcome {
    Outcome::Problem(super::problem::problem(status, name, detail, expected))
}
