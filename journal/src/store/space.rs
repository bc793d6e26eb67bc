//! The spaces of the store and how each is laid out on disk.
//!
//! One space is one LSM tree. All share a block cache, a write-ahead journal and therefore one atomic commit. Write
//! buffers are small because the daemon is: a space may hold its buffer once more while it is flushed.

use fjall::compaction::Leveled;
use fjall::config::{BloomConstructionPolicy, CompressionPolicy, FilterPolicy, FilterPolicyEntry, HashRatioPolicy};
use fjall::{CompressionType, KeyspaceCreateOptions, KvSeparationOptions};
use std::sync::Arc;

const MIB: u64 = 1024 * 1024;

/// 8 MiB. A table's filter and index are one block each, and a block of more than a share of the cache is read from disk at
/// every look-up: with tables of 64 MiB a drain of a million changes took 190 CPU seconds instead of 24.
const TABLE_BYTES: u64 = 8 * MIB;

/// A key space of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Space {
    /// What each driving row contributes: driving key to entity key and values.
    Contributions,
    /// The canonical rows.
    Entities,
    /// Shapes of the source tables, and the numbers of what state names.
    Tables,
    /// Rows that failed a rule and wait.
    Held,
    /// Deltas on their way to the sinks.
    Outbox,
    /// How far the transform and each sink are.
    Cursors,
    /// Rows of joined tables.
    Rows,
    /// Which rows look for which joined row.
    Index,
    /// What is remembered of each sink's target.
    Sinks,
}

impl Space {
    /// Every space.
    pub const ALL: [Self; 9] = [
        Self::Contributions,
        Self::Entities,
        Self::Tables,
        Self::Held,
        Self::Outbox,
        Self::Cursors,
        Self::Rows,
        Self::Index,
        Self::Sinks,
    ];

    /// True where the transform computes it from the log: such a space exists once per [generation](super::Store::rebuilt).
    pub(super) const fn is_computed(self) -> bool {
        !matches!(self, Self::Outbox | Self::Cursors | Self::Sinks)
    }

    /// Its name on disk in a generation; never changes.
    pub(super) fn name_in(self, generation: u64) -> String {
        match generation {
            0 => self.name().to_owned(),
            _ if !self.is_computed() => self.name().to_owned(),
            _ => format!("{}.{generation}", self.name()),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Contributions => "contributions",
            Self::Entities => "entities",
            Self::Tables => "tables",
            Self::Held => "held",
            Self::Outbox => "outbox",
            Self::Cursors => "cursors",
            Self::Rows => "rows",
            Self::Index => "index",
            Self::Sinks => "sinks",
        }
    }

    /// Bytes of new values kept in memory before they become a table on disk.
    pub(super) const fn write_buffer_bytes(self) -> u64 {
        match self {
            // Written by every change; fewer, larger tables cost fewer merges.
            Self::Contributions | Self::Entities => 3 * MIB,
            // Its values are moved once, whatever the number of tables.
            Self::Outbox => 2 * MIB,
            // Masters change seldom, and keys without values are small.
            Self::Rows => 2 * MIB,
            Self::Index => 3 * MIB / 2,
            // Schemas and exceptions are rare; cursors are a few keys, overwritten by every commit.
            Self::Tables | Self::Held | Self::Cursors | Self::Sinks => 3 * MIB / 8,
        }
    }

    /// Layout of the space.
    pub(super) fn options(self) -> KeyspaceCreateOptions {
        let options = KeyspaceCreateOptions::default()
            .max_memtable_size(self.write_buffer_bytes())
            .compaction_strategy(Arc::new(Leveled::default().with_table_target_size(TABLE_BYTES)));
        match self {
            // Point reads of keys that are mostly, but not always, there (a first copy inserts them all): filters on
            // every level, and a hash index in the blocks.
            Self::Contributions | Self::Entities | Self::Tables | Self::Rows => options
                .filter_policy(FilterPolicy::all(FilterPolicyEntry::Bloom(BloomConstructionPolicy::BitsPerKey(10.0))))
                .data_block_hash_ratio_policy(HashRatioPolicy::all(8.0)),
            // Values of up to megabytes that live for seconds: kept beside the tree, so that merges move only keys.
            // They hold compressed Arrow batches already.
            Self::Outbox => {
                options.data_block_compression_policy(CompressionPolicy::all(CompressionType::None)).with_kv_separation(
                    Some(KvSeparationOptions::default().compression(CompressionType::None).file_target_size(16 * MIB)),
                )
            }
            Self::Held | Self::Cursors | Self::Index | Self::Sinks => options,
        }
    }
}

/// Budget: buffers of all spaces, which may exist twice while they are flushed, stay within 32 MiB.
const _: () = {
    let (mut sum, mut i) = (0, 0);
    while i < Space::ALL.len() {
        sum += Space::ALL[i].write_buffer_bytes();
        i += 1;
    }
    assert!(2 * sum <= 34 * MIB, "the write buffers exceed the daemon's memory budget");
};
