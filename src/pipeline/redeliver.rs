//! Deltas delivered once more: a run of the outbox that every sink has confirmed, or some keys of it, as far as it is kept.
//!
//! A target keeps the highest version per key, so what it has is left as it is, and what it lost comes back; deltas that
//! were refused are told as in any write. The outbox is kept behind its delivery for `delta_retention`.

use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::BooleanArray;
use arrow::compute::filter_record_batch;
use syncline_journal::{JournalError, Log, Store};
use syncline_schemas::delta::{DeltaBatch, SYSTEM_COLUMNS};
use syncline_schemas::entity;
use syncline_schemas::frame::LogEntry;
use syncline_schemas::ident::LogOffset;
use syncline_schemas::rowcode;
use syncline_sinks::{DeltaSource, OutboxEntry, OutboxIter, Reject, SinkError, Span};
use syncline_transform::fold;

use super::load::Order;
use super::outbox::{Outbox, unreadable};
use super::refused::Refused;

/// The deltas that an order names.
pub(super) struct Redelivery<'r> {
    outbox: Outbox,
    refused: &'r Refused,
    span: Span,
    order: &'r Order,
    /// The key that is wanted, encoded.
    key: Option<Vec<u8>>,
    pub(super) rows: AtomicU64,
}

impl<'r> Redelivery<'r> {
    /// None where it is no order of deltas.
    pub(super) fn of(order: &'r Order, store: &Store, refused: &'r Refused) -> Option<Self> {
        let (after, upto) = order.span?;
        let known = order.entity.as_ref().and_then(|name| entity::get(name));
        let key = known.zip(order.key.as_ref()).and_then(|(entity, key)| fold::key_of(entity, key).ok());
        let outbox = Outbox::new(store.clone());
        Some(Self {
            outbox,
            refused,
            span: Span { after: LogOffset(after), upto: LogOffset(upto) },
            order,
            key,
            rows: AtomicU64::new(0),
        })
    }

    /// True where the outbox no longer holds all of them.
    pub(super) fn is_gone(&self) -> Result<bool, SinkError> {
        Ok(self.outbox.trimmed().map_err(|error| unreadable(&error))? > self.span.after)
    }

    fn narrowed(&self, batch: DeltaBatch) -> Result<Option<DeltaBatch>, SinkError> {
        if self.order.entity.as_ref().is_some_and(|wanted| *wanted != batch.entity) {
            return Ok(None);
        }
        let Some((wanted, entity)) = self.key.as_ref().zip(entity::get(&batch.entity)) else { return Ok(Some(batch)) };
        let keys = rowcode::encode(&batch.rows.columns()[SYSTEM_COLUMNS..SYSTEM_COLUMNS + entity.key_len()])?;
        let same: BooleanArray = (0..batch.rows.num_rows()).map(|row| Some(keys.row(row) == wanted)).collect();
        let rows = filter_record_batch(&batch.rows, &same)?;
        Ok((rows.num_rows() > 0).then_some(DeltaBatch { entity: batch.entity, rows }))
    }
}

impl DeltaSource for Redelivery<'_> {
    fn read(&self, _: Span) -> Result<OutboxIter<'_>, SinkError> {
        // A write that begins again counts anew.
        self.rows.store(0, Ordering::Relaxed);
        let entries = self.outbox.read(self.span)?;
        Ok(Box::new(entries.map(|entry| {
            let OutboxEntry { offset, deltas } = entry?;
            let deltas = deltas.into_iter().filter_map(|batch| self.narrowed(batch).transpose());
            let deltas = deltas.collect::<Result<Vec<_>, _>>()?;
            for batch in &deltas {
                self.rows.fetch_add(batch.rows.num_rows() as u64, Ordering::Relaxed);
                self.refused.observe(batch)?;
            }
            Ok(OutboxEntry { offset, deltas })
        })))
    }

    fn refused(&self, rejects: Vec<Reject>) -> Result<(), SinkError> {
        self.refused.keep(rejects)
    }
}

/// The entry before the first one that was captured at a time or later: entries are captured in order, but for sources
/// beside each other.
pub(crate) fn before(log: &Log, at_us: i64) -> Result<LogOffset, JournalError> {
    let (mut low, mut high) = (log.first().0.saturating_sub(1), log.durable().0);
    while low < high {
        let middle = low + (high - low) / 2;
        // The first frame behind the middle stands for it.
        let mut reader = log.reader(LogOffset(middle))?;
        let mut captured = None;
        while captured.is_none()
            && reader.after().0 < high
            && let Some(record) = reader.next()?
        {
            if let Ok(LogEntry::Frame(frame)) = LogEntry::decode_of(&record.payload, &|_, _| false) {
                captured = Some((record.offset.0, frame.captured_at));
            }
        }
        match captured {
            Some((offset, at)) if at < at_us => low = offset,
            _ => high = middle,
        }
    }
    Ok(LogOffset(low))
}
