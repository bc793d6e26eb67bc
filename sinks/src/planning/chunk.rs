//! A chunk: as many outbox entries as fit in memory, sorted by entity.
//!
//! Entries are never cut, so a chunk ends where the outbox has a whole commit; a single entry can be larger than
//! [`CHUNK_ROWS`], as large as the transform made it.

use arrow::array::RecordBatch;
use syncline_schemas::entity::{self, Entity};
use syncline_schemas::ident::LogOffset;

use crate::{EntityPatterns, OutboxEntry, OutboxIter, SinkError};

/// Rows after which a chunk is delivered: some 10 MB of canonical rows, and deep enough to coalesce hot keys.
const CHUNK_ROWS: usize = 20_000;

/// Entries that are read without a look at anything else. Of some entities there may be few rows among very many entries, and
/// answers of the target are waited for meanwhile.
const ENTRIES_AT_ONCE: usize = 64;

/// The deltas of a run of entries.
pub(crate) struct Chunk {
    /// The last entry that was read for it; the next chunk may have more of its rows.
    pub(crate) last: LogOffset,
    /// Per canonical entity, in the order of delivery: masters before the facts that cite them.
    flows: Vec<Vec<RecordBatch>>,
}

impl Chunk {
    /// Reads the next chunk; `None` at the end.
    ///
    /// # Errors
    /// What the outbox says, and [`SinkError::Shape`] for an entity that is not canonical.
    pub(crate) async fn read(entries: &mut OutboxIter<'_>, wanted: &EntityPatterns) -> Result<Option<Self>, SinkError> {
        let mut chunk = Self { last: LogOffset::START, flows: vec![Vec::new(); entity::all().len()] };
        let mut rows = 0;
        for count in 1.. {
            if rows >= CHUNK_ROWS {
                break;
            }
            let Some(entry) = entries.next() else { break };
            let OutboxEntry { offset, deltas } = entry?;
            chunk.last = offset;
            if count % ENTRIES_AT_ONCE == 0 {
                tokio::task::yield_now().await;
            }
            for delta in deltas {
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
