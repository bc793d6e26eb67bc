//! What the receiver has seen since it started.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// Counters of a receiver since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PlannerCounts {
    /// Requests that brought a batch.
    pub requests: u64,
    /// Records in batches that were processed, without replays.
    pub records: u64,
    /// Records that are now held.
    pub applied: u64,
    /// Records whose version was held already.
    pub unchanged: u64,
    /// Records older than the one held.
    pub stale: u64,
    /// Records refused.
    pub rejected: u64,
    /// Batches answered again, or sent again under another key.
    pub replays: u64,
    /// Records of a new batch that were older than the one held: the sender broke the order of a key. Must stay 0, but for
    /// what is sent once more on purpose; rows that a full load overtook are not among them.
    pub went_backwards: u64,
    /// Rows that full loads took away.
    pub swept: u64,
    /// Batches that were accepted to be processed later.
    pub deferred: u64,
    /// Requests for pages of planning outputs that named a cycle: what was pulled, without what was only asked after.
    pub output_pages: u64,
    /// Requests answered with an injected fault, lost replies included.
    pub faults: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    requests: AtomicU64,
    records: AtomicU64,
    applied: AtomicU64,
    unchanged: AtomicU64,
    stale: AtomicU64,
    rejected: AtomicU64,
    replays: AtomicU64,
    went_backwards: AtomicU64,
    swept: AtomicU64,
    deferred: AtomicU64,
    output_pages: AtomicU64,
    faults: AtomicU64,
}

macro_rules! counters {
    ($($name:ident),*) => {
        impl Counters {
            /// Adds counts that belong together.
            pub(super) fn add(&self, counts: &PlannerCounts) {
                $(self.$name.fetch_add(counts.$name, Ordering::Relaxed);)*
            }

            /// Reads all counters.
            pub(super) fn read(&self) -> PlannerCounts {
                PlannerCounts { $($name: self.$name.load(Ordering::Relaxed)),* }
            }
        }
    };
}

counters!(
    requests,
    records,
    applied,
    unchanged,
    stale,
    rejected,
    replays,
    went_backwards,
    swept,
    deferred,
    output_pages,
    faults
);
