//! Cycles in the receiver's file. A cycle becomes visible as a whole, in the transaction that publishes it.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Transaction, TransactionBehavior, params};
use serde_json::value::RawValue;
use syncline_schemas::outputs::OutputPage;

/// Beside the tables of flows. `place` orders cycles by when they were published.
pub(in crate::planner) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS output_cycles (
    id           INTEGER PRIMARY KEY,
    output       TEXT NOT NULL,
    cycle        TEXT NOT NULL,
    place        INTEGER,
    published_at TEXT,
    row_count    INTEGER NOT NULL DEFAULT 0,
    UNIQUE (output, cycle)
);
CREATE TABLE IF NOT EXISTS output_rows (
    cycle INTEGER NOT NULL,
    n     INTEGER NOT NULL,
    key   TEXT,
    row   TEXT NOT NULL,
    PRIMARY KEY (cycle, n)
) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS output_rows_by_key ON output_rows (cycle, key);";

/// Published cycles of an output that are kept: a reader that is slow by some of them can still end its pull.
const CYCLES_KEPT: i64 = 8;
/// A page is cut once it has so much: far under what readers bear of an answer.
const PAGE_BYTES: usize = 1 << 20;

/// A row on its way into a cycle.
pub(super) struct Row {
    /// None where nobody has looked.
    pub(super) key: Option<String>,
    pub(super) json: String,
}

/// A cycle as it is now.
pub(super) struct Cycle {
    pub(super) row_count: u64,
    /// None before it is published.
    pub(super) published_at: Option<String>,
}

/// Why rows were not taken.
pub(super) enum Unpublished {
    IsPublished,
    /// Counted from 1 within the request.
    KeyTwice {
        row: usize,
    },
}

/// Adds rows to a cycle and, unless more are to come, publishes it.
pub(super) fn publish(
    db: &Path,
    output: &str,
    cycle: &str,
    rows: &[Row],
    more: bool,
) -> rusqlite::Result<Result<Cycle, Unpublished>> {
    let mut connection = Connection::open(db)?;
    // The writer of batches commits meanwhile.
    connection.busy_timeout(Duration::from_secs(10))?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute("INSERT OR IGNORE INTO output_cycles (output, cycle) VALUES (?1, ?2)", [output, cycle])?;
    let (id, row_count, is_published): (i64, i64, bool) = transaction.query_row(
        "SELECT id, row_count, place IS NOT NULL FROM output_cycles WHERE output = ?1 AND cycle = ?2",
        [output, cycle],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )?;
    if is_published {
        return Ok(Err(Unpublished::IsPublished));
    }
    if let Some(row) = insert(&transaction, id, row_count, rows)? {
        return Ok(Err(Unpublished::KeyTwice { row }));
    }
    let row_count = row_count + i64::try_from(rows.len()).unwrap_or(i64::MAX);
    transaction.execute("UPDATE output_cycles SET row_count = ?2 WHERE id = ?1", params![id, row_count])?;
    let published_at = if more { None } else { Some(make_newest(&transaction, output, id)?) };
    transaction.commit()?;
    Ok(Ok(Cycle { row_count: row_count.cast_unsigned(), published_at }))
}

/// The first row whose key was there already.
fn insert(transaction: &Transaction<'_>, id: i64, before: i64, rows: &[Row]) -> rusqlite::Result<Option<usize>> {
    let mut statement = transaction.prepare("INSERT INTO output_rows (cycle, n, key, row) VALUES (?1, ?2, ?3, ?4)")?;
    for ((place, row), n) in rows.iter().enumerate().zip(before + 1..) {
        match statement.execute(params![id, n, row.key, row.json]) {
            Err(rusqlite::Error::SqliteFailure(failure, _)) if failure.code == ErrorCode::ConstraintViolation => {
                return Ok(Some(place + 1));
            }
            inserted => inserted?,
        };
    }
    Ok(None)
}

/// Publishes a cycle and lets go of the oldest; says when that was.
fn make_newest(transaction: &Transaction<'_>, output: &str, id: i64) -> rusqlite::Result<String> {
    let place: i64 = transaction.query_row(
        "SELECT coalesce(max(place), 0) + 1 FROM output_cycles WHERE output = ?1",
        [output],
        |row| row.get(0),
    )?;
    let published_at = transaction.query_row(
        "UPDATE output_cycles SET place = ?2, published_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now') WHERE id = ?1
         RETURNING published_at",
        [id, place],
        |row| row.get(0),
    )?;
    let oldest = params![output, place - CYCLES_KEPT];
    transaction.execute(
        "DELETE FROM output_rows WHERE cycle IN (SELECT id FROM output_cycles WHERE output = ?1 AND place <= ?2)",
        oldest,
    )?;
    transaction.execute("DELETE FROM output_cycles WHERE output = ?1 AND place <= ?2", oldest)?;
    Ok(published_at)
}

/// Rows behind the `after`th of a cycle, or of the newest; none where there is no such cycle.
pub(super) fn page(
    connection: &Connection,
    output: &str,
    cycle: Option<&str>,
    after: i64,
    limit: u32,
) -> rusqlite::Result<Option<OutputPage<Box<RawValue>>>> {
    let found = connection
        .query_row(
            "SELECT id, cycle, published_at, row_count FROM output_cycles
             WHERE output = ?1 AND place IS NOT NULL AND (?2 IS NULL OR cycle = ?2) ORDER BY place DESC LIMIT 1",
            params![output, cycle],
            |row| Ok((row.get::<_, i64>(0)?, row.get(1)?, row.get(2)?, row.get::<_, i64>(3)?)),
        )
        .optional()?;
    let Some((id, cycle_id, published_at, row_count)) = found else { return Ok(None) };
    let mut statement =
        connection.prepare("SELECT n, row FROM output_rows WHERE cycle = ?1 AND n > ?2 ORDER BY n LIMIT ?3")?;
    let mut found = statement.query(params![id, after, limit])?;
    let (mut rows, mut bytes, mut last) = (Vec::new(), 0, after);
    while bytes < PAGE_BYTES
        && let Some(row) = found.next()?
    {
        last = row.get(0)?;
        let json: String = row.get(1)?;
        bytes += json.len();
        let json = RawValue::from_string(json);
        rows.push(json.map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?);
    }
    Ok(Some(OutputPage {
        output: output.to_owned(),
        cycle_id: Some(cycle_id),
        published_at: Some(published_at),
        row_count: Some(row_count.cast_unsigned()),
        rows,
        next: (last < row_count).then(|| last.to_string()),
    }))
}
