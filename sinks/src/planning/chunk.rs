//! A chunk: as many outbox entries as fit in memory, sorted by entity.
//!
//! Entries are never cut, so a chunk ends where the outbox has a whole commit; a single entry can be larger than
//! [`CHUNK_ROWS`], as large as the transform made it.

use arrow::array::RecordBatch;
use syncline_schemas::entity::{self, Entity};

use crate::{EntityPatterns, OutboxIter, SinkError};

/// Rows after which a chunk is delivered: some 10 MB of canonical rows, and deep enough to coalesce hot keys.
const CHUNK_ROWS: usize = 20_000;

/// The deltas of a run of entries.
pub(crate) struct Chunk {
    /// Per canonical entity, in the order of delivery: masters before the facts that cite them.
    flows: Vec<Vec<RecordBatch>>,
}

impl Chunk {
    /// Reads the next chunk; `None` at the end.
    ///
    /// # Errors
    /// What the outbox says, and [`SinkError::Shape`] for an entity that is not canonical.
    pub(crate) fn read(entries: &mut OutboxIter<'_>, wanted: &EntityPatterns) -> Result<Option<Self>, SinkError> {
        let mut chunk = Self { flows: vec![Vec::new(); entity::all().len()] };
        let mut rows = 0;
        while rows < CHUNK_ROWS {
            let Some(entry) = entries.next() else { break };
            for delta in entry?.deltas {
                let place = entity::all().iter().position(|entity| entity.name == delta.entity).ok_or_else(|| {
                    let reason = "is not canonical; a newer Syncline wrote it".to_owned();
                    SinkError::Shape { entity: delta.entity.clone(), reason }
                })?;
                if wanted.contains(&delta.entity) && delta.rows.num_rows() > 0 {
                    rows += delta.rows.num_rows();
                    chunk.flows[place].push(delta.rows);
                }
            }
        }
        Ok((rows > 0).then_some(chunk))
    }

    /// The batches of each entity that has some.
    pub(crate) fn flows(&self) -> impl Iterator<Item = (&'static Entity, &[RecordBatch])> {
        entity::all()
            .iter()
            .zip(&self.flows)
            .filter(|(_, batches)| !batches.is_empty())
            .map(|(entity, batches)| (entity, batches.as_slice()))
    }
}
