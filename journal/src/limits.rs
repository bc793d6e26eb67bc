//! Every limit of the journal, with its reason; relations are checked at compile time.
//!
//! The daemon must stay under [`MEMORY_MIN`] resident, or what it is given, so what the journal may hold in memory is a budget, not a
//! hope. With more only the block cache grows:
//!
//! ```text
//! queue of the log             8 MiB   QUEUE_BYTES, and once more while a group is being written
//! block cache of the store    12 MiB   CACHE_BYTES
//! write buffers of the store  16 MiB   sum of Space::write_buffer_bytes, twice that while they are flushed, and the step at hand
//! ```
//!
//! [`Limits`] holds those that a test shrinks so that roll-over and back-pressure happen within a few records.

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// 64 MiB: small enough that opening (which reads the last segment only) takes tens of milliseconds and that retention
/// is fine-grained; large enough that creating a segment, which costs three syncs, is rare.
pub const SEGMENT_BYTES: u64 = 64 * MIB;

/// 8 MiB: more than ten frames of the largest usual size; a group of that size is one write of about 10 ms.
pub const QUEUE_BYTES: u64 = 8 * MIB;

/// 256 MiB: the largest single entry. PostgreSQL sends values of up to 1 GiB, which would not fit the daemon's memory
/// twice; such a column is to be left out of the publication.
pub const ENTRY_BYTES: u64 = 256 * MIB;

/// 1 KiB: a source's name is written by hand in the configuration.
pub const SOURCE_NAME_BYTES: usize = 1024;

/// 120 KiB: PostgreSQL's with five thousand tables that are still to be copied, a MySQL GTID set of more than two thousand servers.
pub const POSITION_BYTES: usize = 120 * 1024;

/// 256 names, over all time: what a segment's checkpoint repeats. A daemon that serves more is several daemons.
pub const SOURCES: usize = 256;

/// 32 MiB: the checkpoint at the head of a segment with the largest positions of all sources; also bounds what a damaged
/// head can make us allocate.
pub const CHECKPOINT_BYTES: u64 = 32 * MIB;

/// 256 MiB: what the daemon needs with everything at its largest.
pub const MEMORY_MIN: u64 = 256 * MIB;

/// 12 MiB of blocks: the hot part of the state's keys; more would come out of the daemon's [`MEMORY_MIN`].
pub const CACHE_BYTES: u64 = 12 * MIB;

/// 128 MiB: how far the store's own write-ahead files may run ahead of its tables; bounds both the disk and the time
/// to open after a crash.
pub const STORE_JOURNAL_BYTES: u64 = 128 * MIB;

/// 128 open table files: far below the usual limit of 1024 descriptors per process.
pub const STORE_OPEN_FILES: usize = 128;

/// 65535: the store writes the length of a key as 16 bits.
pub const KEY_BYTES: usize = u16::MAX as usize;

/// 256 MiB: the deltas of the largest entry.
pub const VALUE_BYTES: usize = 256 * 1024 * 1024;

const _: () = assert!(QUEUE_BYTES < SEGMENT_BYTES, "a segment holds more than one full group");
const _: () =
    assert!(ENTRY_BYTES + (POSITION_BYTES + SOURCE_NAME_BYTES) as u64 <= u32::MAX as u64, "a length is 32 bits");
const _: () = assert!(
    SOURCES as u64 * (POSITION_BYTES + SOURCE_NAME_BYTES + 64) as u64 <= CHECKPOINT_BYTES,
    "the checkpoint of all sources fits the head of a segment"
);
const _: () = assert!(SOURCE_NAME_BYTES <= u16::MAX as usize, "a record writes the length of a name as 16 bits");
const _: () = assert!(VALUE_BYTES as u64 <= u32::MAX as u64, "the store writes the length of a value as 32 bits");
const _: () = assert!(STORE_JOURNAL_BYTES >= 64 * MIB, "the store refuses less");

/// The limits that depend on the machine or shrink in tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes after which a segment of the log is closed; a larger entry has a segment of its own.
    pub segment_bytes: u64,
    /// Bytes of entries that may wait for the writer before [`crate::Log::append`] blocks.
    pub queue_bytes: u64,
    /// Bytes of the largest payload.
    pub entry_bytes: u64,
    /// Bytes of the store's block cache.
    pub cache_bytes: u64,
}

impl Limits {
    /// Those of a daemon that may use so many bytes of memory. Of what is more than it needs three quarters are cache; the allocator keeps
    /// some of the rest.
    #[must_use]
    pub fn within(memory: u64) -> Self {
        let more = memory.saturating_sub(MEMORY_MIN);
        Self { cache_bytes: CACHE_BYTES + more / 4 * 3, ..Self::default() }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            segment_bytes: SEGMENT_BYTES,
            queue_bytes: QUEUE_BYTES,
            entry_bytes: ENTRY_BYTES,
            cache_bytes: CACHE_BYTES,
        }
    }
}
