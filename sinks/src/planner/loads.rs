//! Full loads in the receiver's file: open ones with the parts that came and the keys in them, and the sweep at their end.
//!
//! Rows count from when their part is taken, each by its version, as rows of deltas do. What the sweep takes away is what
//! was not sent, is in the load's scope and is no younger than its cut: a row that deltas brought meanwhile stays.

use rusqlite::{OptionalExtension as _, params, params_from_iter};
use serde_json::{Map, Value};
use syncline_schemas::entity::{self, Entity};
use syncline_schemas::ident::Version;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::batch::Batch;
use super::stats::PlannerCounts;
use super::store::{Outcome, Writer, refuse};
use crate::planning::contract::{FENCED_EPOCH, KEY_REUSED, SNAPSHOT_INCOMPLETE, UNKNOWN_SNAPSHOT};
use crate::planning::digest::{Digest, hash_of_json};
use crate::planning::snapshot::{Begin, Commit, Committed, Open, PartReceipt};

/// Missing parts that a refusal names.
const NAMED_MAX: usize = 20;

/// A step of a load, for the writer.
pub(super) struct Load {
    pub(super) step: Step,
    pub(super) reply: oneshot::Sender<Outcome>,
}

/// What is done; `flow` is its place in the list of entities.
pub(super) enum Step {
    Begin { flow: usize, idempotency_key: String, cut: Version, begin: Begin },
    Part { flow: usize, id: String, number: u64, sha256: [u8; 32], batch: Batch },
    Commit { flow: usize, id: String, commit: Commit },
    Abort { flow: usize, id: String },
}

/// An open load.
struct Opened {
    cut: [u8; 16],
    sweep: bool,
    scope: Map<String, Value>,
    /// Its receipt, once it has ended.
    receipt: Option<String>,
}

fn receipt(answer: &impl serde::Serialize, counts: PlannerCounts) -> Outcome {
    Outcome::Receipt(serde_json::to_string(answer).expect("plain data"), counts)
}

impl Writer<'_> {
    pub(super) fn load(&mut self, step: &mut Step) -> rusqlite::Result<Outcome> {
        match step {
            Step::Begin { flow, idempotency_key, cut, begin } => self.begin(*flow, idempotency_key, *cut, begin),
            Step::Part { flow, id, number, sha256, batch } => self.part(*flow, id, *number, sha256, batch),
            Step::Commit { flow, id, commit } => self.commit_load(*flow, id, commit),
            Step::Abort { flow, id } => {
                self.forget(self.flows[*flow], id)?;
                Ok(receipt(&Value::Null, PlannerCounts::default()))
            }
        }
    }

    /// Opens a load; an older one of the same sender is given up.
    fn begin(&self, flow: usize, key: &str, cut: Version, begin: &Begin) -> rusqlite::Result<Outcome> {
        let flow = self.flows[flow];
        let connection = self.connection;
        let asked = "SELECT id FROM loads WHERE flow = ?1 AND idempotency_key = ?2";
        let before = connection.prepare(asked)?.query_row(params![flow, key], |row| row.get(0)).optional()?;
        if let Some(id) = before {
            return Ok(receipt(&Open { id }, PlannerCounts::default()));
        }
        let epoch = "SELECT coalesce(max(epoch), 0) FROM watermarks WHERE flow = ?1";
        let epoch: u32 = connection.prepare(epoch)?.query_row([flow], |row| row.get(0))?;
        if cut.epoch() < epoch {
            let detail = format!("epoch {} is over, the flow is in {epoch}", cut.epoch());
            return Ok(refuse(409, FENCED_EPOCH, detail, None));
        }
        let older = "SELECT id FROM loads WHERE flow = ?1 AND source = ?2";
        let older: Vec<String> = connection
            .prepare(older)?
            .query_map(params![flow, begin.source], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        for id in older {
            self.forget(flow, &id)?;
        }
        let id = Uuid::new_v4().to_string();
        let scope = serde_json::to_string(&begin.scope).expect("plain data");
        connection.prepare("INSERT INTO loads VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, NULL)")?.execute(params![
            id,
            flow,
            key,
            begin.source,
            cut.as_bytes(),
            begin.sweep,
            scope
        ])?;
        Ok(receipt(&Open { id }, PlannerCounts::default()))
    }

    fn forget(&self, flow: i64, id: &str) -> rusqlite::Result<()> {
        for statement in [
            "DELETE FROM load_keys WHERE load = ?1",
            "DELETE FROM load_parts WHERE load = ?1",
            "DELETE FROM loads WHERE id = ?1 AND flow = ?2",
        ] {
            let mut statement = self.connection.prepare(statement)?;
            let wanted: &[&dyn rusqlite::ToSql] = &[&id, &flow];
            statement.execute(&wanted[..statement.parameter_count()])?;
        }
        Ok(())
    }

    fn opened(&self, flow: i64, id: &str) -> rusqlite::Result<Option<Opened>> {
        self.connection
            .prepare("SELECT cut, sweep, scope, receipt FROM loads WHERE id = ?1 AND flow = ?2")?
            .query_row(params![id, flow], |row| {
                let scope: String = row.get(2)?;
                let scope = serde_json::from_str(&scope).unwrap_or_default();
                Ok(Opened { cut: row.get(0)?, sweep: row.get(1)?, scope, receipt: row.get(3)? })
            })
            .optional()
    }

    /// Takes the rows of a part; the same part is answered as before.
    fn part(
        &mut self,
        place: usize,
        id: &str,
        number: u64,
        sha256: &[u8; 32],
        batch: &mut Batch,
    ) -> rusqlite::Result<Outcome> {
        let flow = self.flows[place];
        if self.opened(flow, id)?.is_none_or(|opened| opened.receipt.is_some()) {
            return Ok(unknown(id));
        }
        let asked = "SELECT sha256, receipt FROM load_parts WHERE load = ?1 AND number = ?2";
        let before: Option<([u8; 32], String)> = self
            .connection
            .prepare(asked)?
            .query_row(params![id, number.cast_signed()], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        if let Some((digest, answered)) = before {
            if digest != *sha256 {
                return Ok(refuse(422, KEY_REUSED, "the part came before with another body".into(), None));
            }
            return Ok(Outcome::Receipt(answered, PlannerCounts { replays: 1, ..PlannerCounts::default() }));
        }
        let digest = digest(&entity::all()[place], batch);
        let counts = self.apply(flow, batch, false)?;
        {
            let mut seen = self.connection.prepare("INSERT OR IGNORE INTO load_keys VALUES (?1, ?2)")?;
            for key in batch.changes.iter().map(|change| &change.key).chain(&batch.kept) {
                seen.execute(params![id, key])?;
            }
        }
        let answer = PartReceipt {
            part: number,
            received: counts.records,
            applied: counts.applied,
            unchanged: counts.unchanged,
            stale: counts.stale,
            rejected: counts.rejected,
            rejects: std::mem::take(&mut batch.rejects),
        };
        let text = serde_json::to_string(&answer).expect("plain data");
        let (count, sum) = (digest.count.cast_signed(), digest.sum.to_be_bytes());
        self.connection.prepare("INSERT INTO load_parts VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?.execute(params![
            id,
            number.cast_signed(),
            sha256,
            count,
            sum,
            text
        ])?;
        Ok(Outcome::Receipt(text, counts))
    }

    fn commit_load(&self, place: usize, id: &str, commit: &Commit) -> rusqlite::Result<Outcome> {
        let flow = self.flows[place];
        let Some(opened) = self.opened(flow, id)? else { return Ok(unknown(id)) };
        if let Some(answered) = opened.receipt {
            return Ok(Outcome::Receipt(answered, PlannerCounts { replays: 1, ..PlannerCounts::default() }));
        }
        let parts = "SELECT number, records, digest FROM load_parts WHERE load = ?1 ORDER BY number";
        let mut parts = self.connection.prepare(parts)?;
        let (mut next, mut missing, mut digest) = (1_u64, Vec::new(), Digest::default());
        let mut rows = parts.query([id])?;
        while let Some(row) = rows.next()? {
            let number = row.get::<_, i64>(0)?.cast_unsigned();
            missing.extend((next..number).take(NAMED_MAX));
            next = number + 1;
            let sum = u128::from_be_bytes(row.get(2)?);
            digest += Digest { count: row.get::<_, i64>(1)?.cast_unsigned(), sum };
        }
        missing.extend((next..=commit.parts).take(NAMED_MAX));
        missing.truncate(NAMED_MAX);
        if !missing.is_empty() {
            let detail = format!("parts have not come: {missing:?}");
            return Ok(refuse(409, SNAPSHOT_INCOMPLETE, detail, missing.first().copied()));
        }
        if next > commit.parts + 1 || digest.count != commit.records || digest.to_hex() != commit.digest {
            let detail = format!("{} parts with {} records of digest {} came", next - 1, digest.count, digest.to_hex());
            return Ok(refuse(409, SNAPSHOT_INCOMPLETE, detail, None));
        }
        let swept = if opened.sweep { self.sweep(&entity::all()[place], flow, id, &opened)? } else { 0 };
        let answer = Committed { records: digest.count, swept };
        let text = serde_json::to_string(&answer).expect("plain data");
        self.connection.prepare("DELETE FROM load_keys WHERE load = ?1")?.execute([id])?;
        self.connection.prepare("UPDATE loads SET receipt = ?2 WHERE id = ?1")?.execute(params![id, text])?;
        Ok(Outcome::Receipt(text, PlannerCounts { swept, ..PlannerCounts::default() }))
    }

    /// Deletes what was not sent; the version of the tombstone is the cut.
    fn sweep(&self, entity: &Entity, flow: i64, id: &str, opened: &Opened) -> rusqlite::Result<u64> {
        let mut wanted: Vec<Box<dyn rusqlite::ToSql>> =
            vec![Box::new(flow), Box::new(opened.cut), Box::new(id.to_owned())];
        let mut within = String::new();
        for (name, value) in &opened.scope {
            // Its name was checked at the beginning.
            let Some(at) = entity.fields.iter().position(|field| field.name == *name) else { continue };
            wanted.push(Box::new(value.as_str().map_or_else(|| value.to_string(), str::to_owned)));
            within.push_str(&format!(" AND CAST(json_extract(key, '$[{at}]') AS TEXT) = ?{}", wanted.len()));
        }
        let sweep = format!(
            "UPDATE records SET data = NULL, version = ?2 WHERE flow = ?1 AND data IS NOT NULL AND version <= ?2
             AND NOT EXISTS (SELECT 1 FROM load_keys WHERE load = ?3 AND load_keys.key = records.key){within}"
        );
        let swept = self.connection.prepare(&sweep)?.execute(params_from_iter(wanted))?;
        let count = i64::try_from(swept).unwrap_or(i64::MAX);
        let totals = "UPDATE flows SET live = live - ?2, tombstones = tombstones + ?2 WHERE id = ?1";
        self.connection.prepare(totals)?.execute(params![flow, count])?;
        Ok(count.cast_unsigned())
    }
}

fn unknown(id: &str) -> Outcome {
    refuse(404, UNKNOWN_SNAPSHOT, format!("no snapshot {id} is open; begin it anew"), None)
}

/// The digest of the rows that are taken.
fn digest(entity: &Entity, batch: &Batch) -> Digest {
    let mut sum = Digest::default();
    for change in &batch.changes {
        let key: Vec<Value> = serde_json::from_str(&change.key).unwrap_or_default();
        let data = change.data.as_deref().and_then(|data| serde_json::from_str(data).ok()).unwrap_or_default();
        sum += Digest::of(hash_of_json(entity, &key, &data));
    }
    sum
}
