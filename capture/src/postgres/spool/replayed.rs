//! What was kept of a transaction, read back once it is committed.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::PathBuf;

use super::{BUFFER, Fault, HEADER, Streamed, checksum};
use crate::postgres::lsn::Lsn;

/// The messages of a transaction that was streamed, as they would have come in one.
pub(crate) struct Replayed {
    path: PathBuf,
    file: BufReader<File>,
    pub(super) void: BTreeSet<u32>,
    /// Records that are still to come.
    left: u64,
    commit: Lsn,
    begin: Option<Vec<u8>>,
    end: Option<Vec<u8>>,
}

impl Replayed {
    pub(super) fn open(streamed: Streamed, commit: Lsn, begin: Vec<u8>, end: Vec<u8>) -> Result<Self, Fault> {
        let Streamed { path, records: left, void, .. } = streamed;
        let file = File::open(&path).map_err(|error| Fault::File("open", path.clone(), error))?;
        let file = BufReader::with_capacity(BUFFER, file);
        Ok(Self { path, file, void, left, commit, begin: Some(begin), end: Some(end) })
    }

    /// The next message, in place of what `payload` holds, and where it starts in the log; none at the end.
    pub(crate) fn next(&mut self, payload: &mut Vec<u8>) -> Result<Option<Lsn>, Fault> {
        if let Some(begin) = self.begin.take() {
            *payload = begin;
            return Ok(Some(self.commit));
        }
        while self.left > 0 {
            self.left -= 1;
            let (part, at) = self.record(payload).map_err(|error| Fault::File("read", self.path.clone(), error))?;
            if !self.void.contains(&part) {
                return Ok(Some(at));
            }
        }
        Ok(self.end.take().map(|end| {
            *payload = end;
            self.commit
        }))
    }

    fn record(&mut self, payload: &mut Vec<u8>) -> io::Result<(u32, Lsn)> {
        let mut read = [0; HEADER];
        self.file.read_exact(&mut read)?;
        let number = |range: std::ops::Range<usize>| read[range].iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
        let (part, at) = ([read[0], read[1], read[2], read[3]], Lsn(number(4..12)));
        let len = usize::try_from(number(12..16)).map_err(io::Error::other)?;
        payload.clear();
        // Whatever the length says, no more is there than is there.
        (&mut self.file).take(len as u64).read_to_end(payload)?;
        let is_whole = payload.len() == len
            && payload.split_first().is_some_and(|(tag, rest)| checksum(part, at, *tag, rest) == number(16..24));
        if !is_whole {
            let reason = "what is read is not what was written; the disk or somebody changed it";
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        Ok((u32::from_be_bytes(part), at))
    }
}

impl Drop for Replayed {
    fn drop(&mut self) {
        // It is in the log or comes again; a file that stays goes with the session.
        let _ = std::fs::remove_file(&self.path);
    }
}
