//! The outbox as a sink's pump hands it to the sink: what is read through it is looked at on the way, for refused rows and for
//! the age of rows, which counts from their commit to their arrival.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use syncline_schemas::delta;
use syncline_schemas::ident::LogOffset;
use syncline_sinks::{DeltaSource, EntityPatterns, OutboxEntry, OutboxIter, Reject, SinkError, Span};

use super::lag::{self, Run};
use super::outbox::Outbox;
use super::refused::Refused;
use super::status::{SinkStatus, Status};

/// Up to where the age of delivered rows was counted, by entity. A write that is begun again reads rows once more that have
/// arrived.
pub(super) type Counted = Mutex<HashMap<String, LogOffset>>;

/// The outbox, with the commit times of the rows that were read through it: their age counts from their arrival.
pub(super) struct Observed<'r> {
    outbox: Outbox,
    refused: &'r Refused,
    status: &'r Status,
    sink: &'r SinkStatus,
    counted: &'r Counted,
    /// By entity, of rows that have not arrived.
    commits: Mutex<HashMap<String, Vec<(LogOffset, Run)>>>,
}

impl<'r> Observed<'r> {
    pub(super) fn new(
        outbox: Outbox,
        refused: &'r Refused,
        status: &'r Status,
        sink: &'r SinkStatus,
        counted: &'r Counted,
    ) -> Self {
        Self { outbox, refused, status, sink, counted, commits: Mutex::default() }
    }

    fn observe(&self, entry: &OutboxEntry) -> Result<(), SinkError> {
        for batch in &entry.deltas {
            let runs = lag::runs(&batch.rows, delta::COMMIT_TS).into_iter().map(|run| (entry.offset, run));
            let mut commits = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
            commits.entry(batch.entity.clone()).or_default().extend(runs);
            drop(commits);
            self.refused.observe(batch)?;
        }
        Ok(())
    }

    /// Counts the age of all rows that were read and not counted before: the write is done.
    pub(super) fn record_all(&self) {
        self.record(|_| true);
    }

    /// Counts the age of the rows of some entities that were read.
    fn record(&self, wanted: impl Fn(&str) -> bool) {
        let mut commits = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let mut arrived: Vec<Run> = Vec::new();
        for (entity, runs) in commits.iter_mut().filter(|(entity, runs)| !runs.is_empty() && wanted(entity)) {
            let before = counted.entry(entity.clone()).or_default();
            let last = runs.last().map_or(*before, |(offset, _)| *offset);
            arrived.extend(runs.drain(..).filter(|(offset, _)| *offset > *before).map(|(_, run)| run));
            // There may be more rows of the last entry.
            *before = LogOffset(last.0.saturating_sub(1)).max(*before);
        }
        if let Some((oldest, _)) = arrived.iter().min() {
            self.sink.last_lag_ms.store(lag::age_us(lag::now_us(), *oldest) / 1_000, Ordering::Relaxed);
        }
        self.sink.lag.observe_runs(&arrived);
    }

    fn observed<'i>(&'i self, entries: OutboxIter<'i>) -> OutboxIter<'i> {
        Box::new(entries.map(|entry| {
            let entry = entry?;
            self.observe(&entry)?;
            Ok(entry)
        }))
    }
}

#[async_trait]
impl DeltaSource for Observed<'_> {
    fn read(&self, span: Span) -> Result<OutboxIter<'_>, SinkError> {
        Ok(self.observed(self.outbox.read(span)?))
    }

    fn read_of<'s>(&'s self, span: Span, wanted: &'s EntityPatterns) -> Result<OutboxIter<'s>, SinkError> {
        Ok(self.observed(self.outbox.read_of(span, move |entity| wanted.contains(entity))?))
    }

    fn visible(&self) -> Option<LogOffset> {
        Some(self.status.folded())
    }

    async fn visible_behind(&self, offset: LogOffset) {
        self.status.wait_for(|status| status.folded() > offset).await;
    }

    fn arrived(&self, entities: &EntityPatterns) {
        self.record(|entity| entities.contains(entity));
    }

    fn refused(&self, rejects: Vec<Reject>) -> Result<(), SinkError> {
        self.refused.keep(rejects)
    }
}
