//! `POST /replay`: what other mappings would make of the log, with nothing changed.
//!
//! ```text
//! {"mappings": [{"path": "erp/item.sql", "file": "mappings/erp/item.sql", "text": "SELECT ..."}], "rows": 20}
//! ```
//!
//! All of them, because what one of them gives another may wait for. The answer takes as long as the log takes to fold.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::post;
use serde::{Deserialize, Serialize};
use syncline_transform::MappingFault;
use syncline_transform::fold::{HeldRows, RowDifference, Tally, Total};
use syncline_transform::mapping::Mapping;
use tokio::sync::Semaphore;

use super::rows::{Asker, known_host, named, refused};
use super::{Facts, fresh};
use crate::pipeline::rehearse::{Rehearsal, RehearsalError, rehearse};

/// Each has a state of its own on disk, at one place.
static REHEARSALS: Semaphore = Semaphore::const_new(1);
/// Rows of each entity that are shown at most.
const ROWS_MAX: usize = 1_000;

/// Which mappings.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Asked {
    pub(crate) mappings: Vec<MappingText>,
    /// Differing rows of each entity to show.
    #[serde(default)]
    pub(crate) rows: usize,
}

/// A mapping as it stands in its file.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MappingText {
    /// Relative to the mapping folder.
    pub(crate) path: String,
    /// What messages call it.
    pub(crate) file: String,
    pub(crate) text: String,
}

impl MappingText {
    pub(crate) fn of(mapping: &Mapping) -> Self {
        Self { path: format!("{}.sql", mapping.name), file: mapping.file.clone(), text: mapping.text.to_string() }
    }
}

/// What would change.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Difference {
    pub(crate) mappings: Vec<Change>,
    /// Log entries that were folded again.
    pub(crate) entries: u64,
    pub(crate) entities: BTreeMap<String, Entity>,
    /// Rows that are held, where their number would be another.
    pub(crate) held: Vec<Held>,
    /// Some of the rows that differ.
    pub(crate) rows: Vec<Row>,
}

/// A mapping that is not what it was.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Change {
    pub(crate) mapping: String,
    /// `added`, `changed` or `removed`.
    pub(crate) how: String,
}

/// Rows that one mapping holds for one rule.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Held {
    /// None for the sums of an entity.
    pub(crate) mapping: Option<String>,
    pub(crate) entity: String,
    pub(crate) rule: String,
    pub(crate) before: u64,
    pub(crate) after: u64,
}

/// What becomes of an entity.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Entity {
    pub(crate) before: u64,
    pub(crate) after: u64,
    pub(crate) added: u64,
    pub(crate) changed: u64,
    pub(crate) removed: u64,
    /// Totals of numeric fields over all rows.
    pub(crate) totals: BTreeMap<String, Sums>,
}

/// Decimal numbers as text.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Sums {
    pub(crate) before: String,
    pub(crate) after: String,
}

/// A row that differs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) entity: String,
    pub(crate) key: BTreeMap<String, Option<String>>,
    /// The fields that differ; none where the row was not there.
    pub(crate) before: Option<BTreeMap<String, Option<String>>>,
    /// None where it is taken back.
    pub(crate) after: Option<BTreeMap<String, Option<String>>>,
}

pub(super) fn routes() -> Router<Arc<Facts>> {
    Router::new().route("/replay", post(replay)).layer(axum::middleware::from_fn(known_host))
}

async fn replay(State(facts): State<Arc<Facts>>, Json(asked): Json<Asked>) -> Response {
    let mappings: Result<Vec<Mapping>, MappingFault> =
        asked.mappings.iter().map(|it| Mapping::parse(&it.path, &it.file, &it.text)).collect();
    let mappings = match mappings {
        Ok(mappings) => mappings,
        Err(fault) => return refused(StatusCode::BAD_REQUEST, &fault.to_string()),
    };
    let Ok(permit) = REHEARSALS.try_acquire() else {
        return refused(StatusCode::CONFLICT, "another one is under way; ask again when it is through");
    };
    let (asker, wanted) = Asker::new();
    let rehearsed = tokio::task::spawn_blocking(move || {
        let rehearsed = rehearse(&facts.log, &facts.store, mappings, asked.rows.min(ROWS_MAX), &wanted);
        drop(permit);
        rehearsed
    })
    .await;
    drop(asker);
    match rehearsed {
        Ok(Ok(rehearsal)) => fresh([], Json(Difference::of(rehearsal))),
        Ok(Err(error @ (RehearsalError::Trimmed(_) | RehearsalError::Inside(_) | RehearsalError::Misfit(_)))) => {
            refused(StatusCode::CONFLICT, &error.to_string())
        }
        Ok(Err(error)) => refused(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        Err(error) => refused(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

impl Difference {
    pub(crate) fn of(rehearsal: Rehearsal) -> Self {
        let Rehearsal { changes, entries, entities, held, rows } = rehearsal;
        let held = held.into_iter().map(|(HeldRows { mapping, entity, rule, rows }, after)| Held {
            mapping,
            entity,
            rule,
            before: rows,
            after,
        });
        Self {
            mappings: changes.into_iter().map(|it| Change { mapping: it.mapping, how: it.how.to_owned() }).collect(),
            entries,
            entities: entities.into_iter().map(|(name, tally)| (name.to_owned(), Entity::of(tally))).collect(),
            held: held.collect(),
            rows: rows.into_iter().map(|(entity, row)| Row::of(entity, row)).collect(),
        }
    }
}

impl Entity {
    fn of(tally: Tally) -> Self {
        let Tally { before, after, added, changed, removed, totals } = tally;
        let sums = |Total { field, scale, before, after }| {
            (field, Sums { before: decimal(before, scale), after: decimal(after, scale) })
        };
        Self { before, after, added, changed, removed, totals: totals.into_iter().map(sums).collect() }
    }
}

impl Row {
    fn of(entity: &str, row: RowDifference) -> Self {
        let RowDifference { key, before, after } = row;
        Self { entity: entity.to_owned(), key: named(key), before: before.map(named), after: after.map(named) }
    }
}

/// A number in units of its last digit as text, without zeros at its end.
fn decimal(units: i128, scale: i8) -> String {
    let scale = usize::try_from(scale).unwrap_or_default();
    let digits = format!("{:0>width$}", units.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let (sign, fraction) = (if units < 0 { "-" } else { "" }, fraction.trim_end_matches('0'));
    if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

#[cfg(test)]
mod tests {
    use super::decimal;

    #[test]
    fn totals_read_as_decimal_numbers() {
        for (units, scale, wanted) in
            [(1_500_000_000, 9, "1.5"), (-1, 2, "-0.01"), (0, 9, "0"), (12, 0, "12"), (-300, 2, "-3")]
        {
            assert_eq!(decimal(units, scale), wanted);
        }
    }
}
