//! A record of the log as bytes.
//!
//! ```text
//!  0 magic         u32    "SYNr"
//!  4 body_bytes    u32
//!  8 checksum      u64    xxh3 over 16.. and the body
//! 16 offset        u64    contiguous
//! 24 group         u64    first offset of the group it was written with
//! 32 position_len  u32
//! 36 source_len    u16
//! 38 txn_end       u8     0 or 1
//! 39 zero          u8
//! 40 body: payload | position | source
//! ```
//!
//! Little-endian. The payload comes first so that a reader hands it on by cutting the buffer, without a copy.
//!
//! Invariant: a record of group `g` was written after everything before offset `g` was durable. This is what tells a
//! torn tail from damage, see [`super::recovery`].

use std::io;

use syncline_schemas::ident::{LogOffset, Position, SourceId};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::disk::DiskFile;

/// Bytes before the body.
pub(super) const HEAD_BYTES: usize = 40;
/// First bytes of a record.
pub(super) const MAGIC: [u8; 4] = *b"SYNr";

/// An entry on its way into the log.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub(super) offset: LogOffset,
    pub(super) source: SourceId,
    pub(super) position: Position,
    pub(super) txn_end: bool,
    pub(super) payload: Vec<u8>,
}

impl Pending {
    /// Its size as a record.
    pub(super) fn record_bytes(&self) -> u64 {
        (HEAD_BYTES + self.body_bytes()) as u64
    }

    fn body_bytes(&self) -> usize {
        self.payload.len() + self.position.as_bytes().len() + self.source.as_str().len()
    }

    /// Appends the record to the bytes of its group.
    ///
    /// # Panics
    /// On parts beyond the limits, which [`super::Log::append`] has refused.
    pub(super) fn encode(&self, group: LogOffset, out: &mut Vec<u8>) {
        const LIMITED: &str = "the parts of an entry were checked against the limits when it was appended";
        let start = out.len();
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&u32::try_from(self.body_bytes()).expect(LIMITED).to_le_bytes());
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&self.offset.0.to_le_bytes());
        out.extend_from_slice(&group.0.to_le_bytes());
        out.extend_from_slice(&u32::try_from(self.position.as_bytes().len()).expect(LIMITED).to_le_bytes());
        out.extend_from_slice(&u16::try_from(self.source.as_str().len()).expect(LIMITED).to_le_bytes());
        out.extend_from_slice(&[u8::from(self.txn_end), 0]);
        out.extend_from_slice(&self.payload);
        out.extend_from_slice(self.position.as_bytes());
        out.extend_from_slice(self.source.as_str().as_bytes());
        let checksum = checksum(&out[start + 16..start + HEAD_BYTES], &out[start + HEAD_BYTES..]);
        out[start + 8..start + 16].copy_from_slice(&checksum.to_le_bytes());
    }
}

/// The fields of the head are the seed of the body's hash: one value covers both without joining them in memory.
fn checksum(fields: &[u8], body: &[u8]) -> u64 {
    xxh3_64_with_seed(body, xxh3_64(fields))
}

/// The head of a record, not yet proven by its checksum.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    bytes: [u8; HEAD_BYTES],
}

impl Head {
    /// Takes the first bytes of a record.
    pub(super) fn parse(bytes: [u8; HEAD_BYTES]) -> Result<Self, &'static str> {
        let head = Self { bytes };
        if bytes[..4] != MAGIC {
            return Err("no record begins here");
        }
        if head.position_bytes() + head.source_bytes() > head.body_bytes() {
            return Err("its parts are longer than the record");
        }
        Ok(head)
    }

    fn field<const N: usize>(&self, at: usize) -> [u8; N] {
        std::array::from_fn(|i| self.bytes[at + i])
    }

    pub(super) fn body_bytes(&self) -> usize {
        u32::from_le_bytes(self.field(4)) as usize
    }

    /// Bytes of head and body.
    pub(super) fn record_bytes(&self) -> u64 {
        (HEAD_BYTES + self.body_bytes()) as u64
    }

    pub(super) fn offset(&self) -> LogOffset {
        LogOffset(u64::from_le_bytes(self.field(16)))
    }

    pub(super) fn group(&self) -> LogOffset {
        LogOffset(u64::from_le_bytes(self.field(24)))
    }

    fn position_bytes(&self) -> usize {
        u32::from_le_bytes(self.field(32)) as usize
    }

    fn source_bytes(&self) -> usize {
        usize::from(u16::from_le_bytes(self.field(36)))
    }

    pub(super) fn txn_end(&self) -> bool {
        self.bytes[38] != 0
    }

    /// True where head and body are what was written.
    pub(super) fn proves(&self, body: &[u8]) -> bool {
        body.len() == self.body_bytes() && u64::from_le_bytes(self.field(8)) == checksum(&self.bytes[16..], body)
    }

    /// Source and position of a proven body.
    pub(super) fn origin<'a>(&self, body: &'a [u8]) -> Result<(&'a str, &'a [u8]), &'static str> {
        let source_at = body.len() - self.source_bytes();
        let position_at = source_at - self.position_bytes();
        let source = std::str::from_utf8(&body[source_at..]).map_err(|_| "the name of its source is not UTF-8")?;
        Ok((source, &body[position_at..source_at]))
    }

    /// Bytes of the payload, from the start of the body.
    pub(super) fn payload_bytes(&self) -> usize {
        self.body_bytes() - self.position_bytes() - self.source_bytes()
    }
}

/// Why no record could be read.
pub(super) enum Fault {
    /// The bytes are none.
    Invalid(&'static str),
    /// The disk refused.
    Io(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Invalid("the file ends in the middle of the record"),
            _ => Self::Io(error),
        }
    }
}

/// Reads the head of the record of an offset, which lies in `at..end`.
pub(super) fn read_head(file: &dyn DiskFile, at: u64, end: u64, offset: LogOffset) -> Result<Head, Fault> {
    let mut bytes = [0; HEAD_BYTES];
    file.read_at(&mut bytes, at)?;
    let head = Head::parse(bytes).map_err(Fault::Invalid)?;
    if at.saturating_add(head.record_bytes()) > end {
        return Err(Fault::Invalid("the record is longer than what follows"));
    }
    if head.offset() != offset {
        return Err(Fault::Invalid("the record has another offset"));
    }
    Ok(head)
}

/// Reads and proves the record of an offset, which lies in `at..end`.
pub(super) fn read(file: &dyn DiskFile, at: u64, end: u64, offset: LogOffset) -> Result<(Head, Vec<u8>), Fault> {
    let head = read_head(file, at, end, offset)?;
    let mut body = vec![0; head.body_bytes()];
    file.read_at(&mut body, at + HEAD_BYTES as u64)?;
    if !head.proves(&body) {
        return Err(Fault::Invalid("the checksum does not match"));
    }
    Ok((head, body))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pending(payload: Vec<u8>, position: Vec<u8>, source: &str) -> Pending {
        Pending {
            offset: LogOffset(7),
            source: SourceId::new(source),
            position: Position::new(position),
            txn_end: true,
            payload,
        }
    }

    fn split(bytes: &[u8]) -> ([u8; HEAD_BYTES], &[u8]) {
        (bytes[..HEAD_BYTES].try_into().unwrap(), &bytes[HEAD_BYTES..])
    }

    proptest! {
        #[test]
        fn a_record_reads_back_as_it_was_written(
            payload in any::<Vec<u8>>(), position in any::<Vec<u8>>(), source in "\\PC{0,20}",
        ) {
            let mut bytes = Vec::new();
            let pending = pending(payload.clone(), position.clone(), &source);
            pending.encode(LogOffset(5), &mut bytes);
            prop_assert_eq!(bytes.len() as u64, pending.record_bytes());
            let (head, body) = split(&bytes);
            let head = Head::parse(head).unwrap();
            prop_assert!(head.proves(body) && head.txn_end());
            prop_assert_eq!((head.offset(), head.group()), (LogOffset(7), LogOffset(5)));
            prop_assert_eq!(head.origin(body).unwrap(), (source.as_str(), position.as_slice()));
            prop_assert_eq!(&body[..head.payload_bytes()], payload.as_slice());
        }

        #[test]
        fn a_flipped_bit_anywhere_is_noticed(payload in any::<Vec<u8>>(), at in any::<prop::sample::Index>(), bit in 0_u32..8) {
            let mut bytes = Vec::new();
            pending(payload, vec![1, 2, 3], "erp").encode(LogOffset(5), &mut bytes);
            let at = at.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
            let (head, body) = split(&bytes);
            prop_assert!(!Head::parse(head).is_ok_and(|head| head.proves(body)));
        }

        #[test]
        fn bytes_from_outside_never_panic(head in any::<[u8; HEAD_BYTES - 4]>(), body in any::<Vec<u8>>()) {
            let mut bytes = [0; HEAD_BYTES];
            bytes[..4].copy_from_slice(&MAGIC);
            bytes[4..].copy_from_slice(&head);
            if let Ok(head) = Head::parse(bytes) {
                prop_assert!(!head.proves(&body) || head.origin(&body).is_ok());
            }
        }
    }

    #[test]
    fn a_log_of_the_first_release_still_reads() {
        let mut bytes = Vec::new();
        pending(b"payload".to_vec(), vec![1, 2], "erp").encode(LogOffset(5), &mut bytes);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN);
    }

    const GOLDEN: &str = "53594e720c000000675cd6cb54e71b30070000000000000005000000000000000200000003000100\
                          7061796c6f61640102657270";
}
