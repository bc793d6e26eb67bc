//! A sink that reads, counts and drops: it measures everything before it.

use std::time::Duration;

use async_trait::async_trait;
use syncline_schemas::ident::LogOffset;

use crate::{Batching, DeltaSource, Known, Sink, SinkError, Span, Written};

/// Reads every delta and keeps none.
#[derive(Debug, Default)]
pub struct Discard;

#[async_trait]
impl Sink for Discard {
    async fn recall(&mut self, _: &Known) -> Result<Option<LogOffset>, SinkError> {
        Ok(None)
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
