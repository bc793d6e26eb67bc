//! A segment file: its name and its head.
//!
//! ```text
//! <first offset, 20 digits>.seg
//!
//!  0 magic             8 bytes  "SYNCLOG\n"
//!  8 format            u32
//! 12 checkpoint_bytes  u32
//! 16 checksum          u64      xxh3 over 24.. and the checkpoint
//! 24 first             u64      offset of the first record
//! 32 checkpoint: per source  offset u64 | txn_end u8 | source_len u16 | position_len u32 | source | position
//! then records
//! ```
//!
//! The checkpoint says how far each source was before the first record, so that opening a log reads one segment, however
//! long the log and however quiet a source.
//!
//! Invariant: a file named `.seg` has a whole head. It is written and synced as `.new` and then renamed; an unfinished
//! `.new` holds nothing and is removed when the log is opened.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use syncline_schemas::ident::{LogOffset, Position, SourceId};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::Resume;
use crate::disk::{Disk, DiskFile};
use crate::error::JournalError;
use crate::limits::CHECKPOINT_BYTES;

/// How far each source is.
pub(super) type Checkpoint = BTreeMap<SourceId, Resume>;

/// Bytes of a head without its checkpoint.
const FIXED_BYTES: usize = 32;
const MAGIC: [u8; 8] = *b"SYNCLOG\n";
/// A change of the head or of the records takes the next number.
const FORMAT: u32 = 1;
const SUFFIX: &str = ".seg";
/// Ending of a segment whose head is not durable yet.
pub(super) const UNFINISHED_SUFFIX: &str = ".new";

/// The file of the segment that begins at an offset.
pub(super) fn path(dir: &Path, first: LogOffset) -> PathBuf {
    dir.join(format!("{:020}{SUFFIX}", first.0))
}

/// The first offset of a segment by its file name; `None` where it is no segment.
pub(super) fn first_of_name(name: &str) -> Option<LogOffset> {
    let digits = name.strip_suffix(SUFFIX)?;
    (digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit())).then_some(())?;
    digits.parse().ok().map(LogOffset)
}

/// A segment whose head has been read.
pub(super) struct Segment {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) path: PathBuf,
    /// Where its records begin, in bytes.
    pub(super) records_at: u64,
}

/// Creates a segment: durable, with its name, before the first record.
pub(super) fn create(
    disk: &dyn Disk,
    dir: &Path,
    first: LogOffset,
    checkpoint: &Checkpoint,
) -> Result<Segment, (PathBuf, std::io::Error)> {
    let path = path(dir, first);
    let unfinished = path.with_extension("seg.new");
    let head = encode(first, checkpoint);
    let write = || {
        let file = disk.create(&unfinished)?;
        file.write_at(&head, 0)?;
        file.sync()?;
        disk.rename(&unfinished, &path)?;
        disk.sync_dir(dir)?;
        Ok(file)
    };
    let file = write().map_err(|error| (path.clone(), error))?;
    Ok(Segment { file, path, records_at: head.len() as u64 })
}

/// Opens a segment and reads its head.
pub(super) fn open(disk: &dyn Disk, dir: &Path, first: LogOffset) -> Result<(Segment, Checkpoint), JournalError> {
    let path = path(dir, first);
    let file = disk.open(&path).map_err(JournalError::io("open", &path))?;
    let len = file.len().map_err(JournalError::io("measure", &path))?;
    let corrupt = |reason| JournalError::Corrupt { path: path.clone(), byte: 0, offset: first, reason };
    if len < FIXED_BYTES as u64 {
        return Err(corrupt("the head of the segment is cut short"));
    }
    let mut fixed = [0; FIXED_BYTES];
    file.read_at(&mut fixed, 0).map_err(JournalError::io("read", &path))?;
    let mut fields = Fields(&fixed);
    if fields.array::<8>() != Some(MAGIC) {
        return Err(corrupt("it does not begin like a segment"));
    }
    let format = fields.u32().unwrap_or_default();
    if format != FORMAT {
        return Err(JournalError::Format { path, found: format, known: FORMAT });
    }
    let checkpoint_bytes = u64::from(fields.u32().unwrap_or_default());
    let records_at = FIXED_BYTES as u64 + checkpoint_bytes;
    if records_at > len || checkpoint_bytes > CHECKPOINT_BYTES {
        return Err(corrupt("the head of the segment is longer than the file"));
    }
    let mut body = vec![0; usize::try_from(checkpoint_bytes).unwrap_or_default()];
    file.read_at(&mut body, FIXED_BYTES as u64).map_err(JournalError::io("read", &path))?;
    if fields.u64() != Some(checksum(&fixed[24..], &body)) {
        return Err(corrupt("the checksum of the segment's head does not match"));
    }
    if fields.u64() != Some(first.0) {
        return Err(corrupt("the segment was renamed: its head has another first offset"));
    }
    let checkpoint = decode(&body).ok_or_else(|| corrupt("the checkpoint does not decode"))?;
    Ok((Segment { file, path, records_at }, checkpoint))
}

fn encode(first: LogOffset, checkpoint: &Checkpoint) -> Vec<u8> {
    const LIMITED: &str = "names and positions were checked against the limits when they were appended";
    let mut body = Vec::new();
    for (source, resume) in checkpoint {
        let (name, position) = (source.as_str().as_bytes(), resume.position.as_bytes());
        body.extend_from_slice(&resume.offset.0.to_le_bytes());
        body.push(u8::from(resume.txn_end));
        body.extend_from_slice(&u16::try_from(name.len()).expect(LIMITED).to_le_bytes());
        body.extend_from_slice(&u32::try_from(position.len()).expect(LIMITED).to_le_bytes());
        body.extend_from_slice(name);
        body.extend_from_slice(position);
    }
    let mut out = Vec::with_capacity(FIXED_BYTES + body.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&FORMAT.to_le_bytes());
    out.extend_from_slice(&u32::try_from(body.len()).expect(LIMITED).to_le_bytes());
    out.extend_from_slice(&checksum(&first.0.to_le_bytes(), &body).to_le_bytes());
    out.extend_from_slice(&first.0.to_le_bytes());
    out.extend_from_slice(&body);
    out
}

fn decode(body: &[u8]) -> Option<Checkpoint> {
    let mut checkpoint = Checkpoint::new();
    let mut fields = Fields(body);
    while !fields.0.is_empty() {
        let offset = LogOffset(fields.u64()?);
        let txn_end = fields.array::<1>()? != [0];
        let name_bytes = usize::from(u16::from_le_bytes(fields.array()?));
        let position_bytes = fields.u32()? as usize;
        let source = SourceId::new(std::str::from_utf8(fields.take(name_bytes)?).ok()?);
        let position = Position::new(fields.take(position_bytes)?.to_vec());
        checkpoint.insert(source, Resume { position, txn_end, offset });
    }
    Some(checkpoint)
}

fn checksum(fields: &[u8], body: &[u8]) -> u64 {
    xxh3_64_with_seed(body, xxh3_64(fields))
}

/// Bytes from outside, taken from the front; `None` where they end.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}
