//! A sink that reads, counts and drops: it measures everything before it.

use std::time::Duration;

use async_trait::async_trait;

use crate::{Batching, DeltaSource, EntityPatterns, Identity, Known, Recalled, Sink, SinkError, Span, Written};

/// Reads every delta and keeps none.
#[derive(Debug, Default)]
pub struct Discard;

#[async_trait]
impl Sink for Discard {
    fn identity(&self) -> Identity {
        Identity { kind: "discard", target: String::new(), entities: EntityPatterns::all().names() }
    }

    async fn recall(&mut self, _: &Known) -> Result<Recalled, SinkError> {
        Ok(Recalled::Unknown)
    }

    async fn write(&mut self, span: Span, deltas: &dyn DeltaSource) -> Result<Written, SinkError> {
        let mut written = Written::default();
        for entry in deltas.read(span)? {
            for delta in entry?.deltas {
                written.rows += delta.rows.num_rows() as u64;
                written.bytes += delta.rows.get_array_memory_size() as u64;
            }
        }
        Ok(written)
    }

    fn batching(&self) -> Batching {
        Batching { max_rows: 65_536, linger: Duration::ZERO }
    }
}
