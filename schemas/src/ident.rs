//! Names and numbers that cross seams, each a type of its own so that none is taken for another.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::SchemaError;

/// The source of the CSV files of `[seeds]`, and the schema of their tables. No `[sources.<name>]` may be called so.
pub const SEEDS: &str = "seeds";

/// The configured name of a source, as in `[sources.erp]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceId(Arc<str>);

impl SourceId {
    /// Wraps a configured name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(Arc::from(name))
    }

    /// The name as configured.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A table of a source by its database name, `schema.name`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableId {
    /// The namespace (PostgreSQL and SQL Server: schema, MySQL: database).
    pub schema: Arc<str>,
    /// The table's own name, unquoted.
    pub name: Arc<str>,
}

impl TableId {
    /// Joins a namespace and a name.
    #[must_use]
    pub fn new(schema: &str, name: &str) -> Self {
        Self { schema: Arc::from(schema), name: Arc::from(name) }
    }
}

impl fmt::Display for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// How far a source has been read, opaque outside its reader.
///
/// A reader that is given a position back continues right after it: no gap, and repeats only of what it marked as
/// repeatable inside the position itself (a transaction that was cut into several frames). An empty position is the
/// state before anything was read.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Position(Vec<u8>);

impl Position {
    /// Wraps a reader's own bytes.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The reader's own bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// True before anything was read.
    #[must_use]
    pub fn is_start(&self) -> bool {
        self.0.is_empty()
    }
}

/// The number of an entry in the log: contiguous from 1, never reused; 0 is "before the first".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct LogOffset(pub u64);

impl LogOffset {
    /// The place before the first entry.
    pub const START: Self = Self(0);

    /// The next entry's number.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for LogOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The version of a canonical row: `epoch u32 . log offset u64 . row u32`, big-endian.
///
/// Its byte order is its apply order (domain 2.1). The epoch rises when state is rebuilt or restored from a backup,
/// so a number is never given twice to different content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version([u8; 16]);

impl Version {
    /// Composes a version from its parts.
    #[must_use]
    pub fn new(epoch: u32, offset: LogOffset, row: u32) -> Self {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&epoch.to_be_bytes());
        bytes[4..12].copy_from_slice(&offset.0.to_be_bytes());
        bytes[12..].copy_from_slice(&row.to_be_bytes());
        Self(bytes)
    }

    /// Reads back what [`Version::as_bytes`] gave.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes; comparing them compares versions.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The epoch part.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        u32::from_be_bytes([self.0[0], self.0[1], self.0[2], self.0[3]])
    }

    /// The log offset part.
    #[must_use]
    pub fn offset(&self) -> LogOffset {
        let mut part = [0; 8];
        part.copy_from_slice(&self.0[4..12]);
        LogOffset(u64::from_be_bytes(part))
    }
}

/// 32 lower-case hex digits: orders like the bytes, which is what the wire needs.
impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Version {
    type Err = SchemaError;

    fn from_str(text: &str) -> Result<Self, SchemaError> {
        let malformed = |at| SchemaError::Malformed { what: "a version", at, reason: "wanted 32 hex digits".into() };
        if text.len() != 32 || !text.is_ascii() {
            return Err(malformed(text.len()));
        }
        let mut bytes = [0; 16];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[i * 2..i * 2 + 2], 16).map_err(|_| malformed(i * 2))?;
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_text_orders_like_its_bytes_and_reads_back() {
        let older = Version::new(3, LogOffset(255), u32::MAX);
        let newer = Version::new(3, LogOffset(256), 0);
        assert!(older < newer && older.to_string() < newer.to_string());
        assert_eq!(newer.to_string().parse::<Version>().expect("own text"), newer);
        assert_eq!((newer.epoch(), newer.offset()), (3, LogOffset(256)));
        assert!("zz".parse::<Version>().is_err());
    }
}
