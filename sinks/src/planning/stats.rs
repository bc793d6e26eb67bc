//! What a planning sink has done since it started and how it stands with its target, for metrics: read while it works.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counters that only rise, and how many requests go out now.
#[derive(Debug, Default)]
pub struct PlanningStats {
    requests: AtomicU64,
    retries: AtomicU64,
    throttled: AtomicU64,
    rewinds: AtomicU64,
    rows: AtomicU64,
    bytes: AtomicU64,
    unchanged: AtomicU64,
    stale: AtomicU64,
    rejected: AtomicU64,
    coalesced: AtomicU64,
    already_there: AtomicU64,
    ahead: AtomicU64,
    loaded: AtomicU64,
    swept: AtomicU64,
    in_flight_limit: AtomicU64,
    circuit_open: AtomicBool,
    in_maintenance: AtomicBool,
}

/// One reading of [`PlanningStats`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PlanningCounts {
    /// Attempts to deliver a batch.
    pub requests: u64,
    /// Attempts after a failed one.
    pub retries: u64,
    /// Times that the target asked to wait.
    pub throttled: u64,
    /// Times that a write began again from the target's watermark.
    pub rewinds: u64,
    /// Rows acknowledged and not refused.
    pub rows: u64,
    /// Bytes of acknowledged batches.
    pub bytes: u64,
    /// Rows whose version the target held already.
    pub unchanged: u64,
    /// Rows older than what the target held.
    pub stale: u64,
    /// Rows refused.
    pub rejected: u64,
    /// Rows not sent because a newer version of the key was waiting behind them.
    pub coalesced: u64,
    /// Rows not sent because the target's watermark covers them.
    pub already_there: u64,
    /// Critical rows delivered before others that lay before them.
    pub ahead: u64,
    /// Rows acknowledged of full loads.
    pub loaded: u64,
    /// Rows that full loads took away.
    pub swept: u64,
    /// Requests that may be side by side now; 0 before the first.
    pub in_flight_limit: u64,
    /// True while the target has failed so often that one request at a time asks for it.
    pub circuit_open: bool,
    /// True while requests wait for the end of a maintenance window.
    pub in_maintenance: bool,
}

macro_rules! adders {
    ($($name:ident),*) => {
        impl PlanningStats {
            $(pub(crate) fn $name(&self, count: u64) {
                self.$name.fetch_add(count, Ordering::Relaxed);
            })*

            /// Notes how the target is spoken to from now on.
            pub(super) fn observe_gate(&self, in_flight_limit: usize, circuit_open: bool) {
                self.in_flight_limit.store(in_flight_limit as u64, Ordering::Relaxed);
                self.circuit_open.store(circuit_open, Ordering::Relaxed);
            }

            /// Notes whether requests wait for the end of a maintenance window.
            pub(super) fn observe_maintenance(&self, waits: bool) {
                self.in_maintenance.store(waits, Ordering::Relaxed);
            }

            /// Reads all counters.
            #[must_use]
            pub fn read(&self) -> PlanningCounts {
                PlanningCounts {
                    $($name: self.$name.load(Ordering::Relaxed),)*
                    in_flight_limit: self.in_flight_limit.load(Ordering::Relaxed),
                    circuit_open: self.circuit_open.load(Ordering::Relaxed),
                    in_maintenance: self.in_maintenance.load(Ordering::Relaxed),
                }
            }
        }
    };
}

adders!(
    requests,
    retries,
    throttled,
    rewinds,
    rows,
    bytes,
    unchanged,
    stale,
    rejected,
    coalesced,
    already_there,
    ahead,
    loaded,
    swept
);
