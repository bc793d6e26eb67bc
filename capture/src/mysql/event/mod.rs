//! Events of the binary log: bytes to what they say; pure, without I/O, safe against any bytes.
//!
//! ```text
//! timestamp u32 | code u8 | server id u32 | size u32 | next position u32 | flags u16 | body | CRC32 u32 where there is one
//! ```
//! Little-endian. `size` counts everything. The next position is 0 for what the server makes up for a reader, and inside
//! transactions of some versions of MariaDB, so nothing here depends on it: a place in the log is its GTID.
//!
//! ```text
//! code       every event and what is done with it
//! framing    head, size, checksum; the format that a file begins with
//! gtid       which transaction begins
//! query      statements, also compressed ones
//! statement  what a statement does to tables
//! table_map  what the columns of a table are
//! rows       rows of a table, also compressed ones
//! payload    a whole transaction, compressed
//! inflate    what MariaDB compresses
//! ```

pub(crate) mod code;
mod framing;
pub(crate) mod gtid;
pub(crate) mod inflate;
mod payload;
pub(crate) mod query;
pub(crate) mod rows;
pub(crate) mod statement;
pub(crate) mod table_map;

pub(crate) use framing::{Framed, Framing};
pub(crate) use payload::Payload;

/// Events put together for tests of what reads them.
#[cfg(test)]
pub(crate) mod tests_of_events {
    pub(crate) use super::framing::tests::{event, format_event};
    pub(crate) use super::payload::tests::compressed;
    pub(crate) use super::table_map::tests::body as map_body;
}
