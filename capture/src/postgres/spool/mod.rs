//! Transactions in progress: the server streams large ones before it knows how they end.
//!
//! ```text
//! S xid first    messages up to E belong to it, each with the number of its part, a (sub)transaction
//! E              others go on
//! A xid part     a part of it is void, or all where both are the same; without meaning where nothing of xid came
//! c xid          it is committed: now it counts, as if it had come in one from B to C
//! ```
//! (PostgreSQL, "Logical Replication Message Formats", protocol 2.)
//!
//! Without this the server keeps such a transaction on its own disk and sends nothing before it ends, so that an hour's work comes
//! an hour late and then at once. What is streamed lies in a file per transaction until it ends; nothing of it is decoded before.
//! The files are of one session: another one is streamed everything again that was not confirmed, so none is ever synced. What is
//! read back has to be what was written: each record has a checksum, and the last one has to be there.
//!
//! The server does not tell of every part that is void: of one that it had written to its disk before it streamed it no A is sent
//! (`ReorderBufferTruncateTXN` marks only what has entries in memory). So whoever takes a transaction asks the server about each of
//! its [parts](Committed::parts) first.

mod replayed;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use rustix::fs::statvfs;
use xxhash_rust::xxh3::xxh3_64_with_seed;

pub(crate) use self::replayed::Replayed;
use super::lsn::Lsn;

/// What is collected in memory before it is written.
const BUFFER: usize = 64 << 10;
/// Number of the part, place in the log, length, checksum of all that and of the message.
const HEADER: usize = 4 + 8 + 4 + 8;

/// After so many bytes more it is looked whether there is room for them in the log, too.
const LOOK_EVERY: u64 = 8 << 20;
/// What is left to everybody else on the disk then.
const RESERVE: u64 = 256 << 20;

/// Why a transaction in progress cannot be received.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error("the server's messages make no sense ({0})")]
    Protocol(&'static str),
    #[error("cannot {0} {path}: {2}", path = _1.display())]
    File(&'static str, PathBuf, #[source] io::Error),
    #[error("more is in progress than spool_max allows")]
    Full,
    #[error("the server sent what was rolled back")]
    Void,
    #[error("it cannot be asked what was rolled back: {0}")]
    Unanswered(String),
    #[error("the disk of {} has too little room for it here and in the log", _0.display())]
    NoRoom(PathBuf),
}

/// What became of a message.
pub(crate) enum Taken {
    /// It belongs to no transaction in progress.
    Not,
    /// It lies in a file, or said what to do with one.
    Kept,
    /// It ends a transaction, which is to be replayed now.
    Committed(Box<Committed>),
}

/// A transaction that was streamed and is committed.
pub(crate) struct Committed {
    /// Numbers of its subtransactions, without those that are known to be void.
    pub(crate) parts: Vec<u32>,
    pub(crate) replayed: Replayed,
}

/// Transactions in progress of one session.
pub(crate) struct Spool {
    folder: PathBuf,
    /// Bytes that all files may have.
    max: u64,
    bytes: u64,
    /// How many they were when the room was looked at.
    looked_at: u64,
    open: BTreeMap<u32, Streamed>,
    /// The one whose messages come.
    current: Option<(u32, BufWriter<File>)>,
}

#[derive(Debug, Default)]
struct Streamed {
    path: PathBuf,
    records: u64,
    bytes: u64,
    /// Subtransactions that have done something.
    parts: BTreeSet<u32>,
    /// Those that were rolled back.
    void: BTreeSet<u32>,
}

impl Spool {
    /// Begins with an empty folder.
    pub(crate) fn open(folder: &Path, max: u64) -> Result<Self, Fault> {
        match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Fault::File("empty", folder.to_owned(), error));
            }
            _ => {}
        }
        std::fs::create_dir_all(folder).map_err(|error| Fault::File("make", folder.to_owned(), error))?;
        Ok(Self { folder: folder.to_owned(), max, bytes: 0, looked_at: 0, open: BTreeMap::new(), current: None })
    }

    /// Bytes that lie in the files.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes a message of the output plugin that starts at `at`.
    #[inline]
    pub(crate) fn take(&mut self, at: Lsn, payload: &[u8]) -> Result<Taken, Fault> {
        match (payload.first(), &self.current) {
            (Some(b'S' | b'E' | b'c' | b'A'), _) => self.control(payload),
            // The origin of a transaction that was replicated from elsewhere has no number.
            (Some(b'O'), Some(_)) => Ok(Taken::Kept),
            (Some(_), Some(_)) => self.keep(at, payload).map(|()| Taken::Kept),
            _ => Ok(Taken::Not),
        }
    }

    fn control(&mut self, payload: &[u8]) -> Result<Taken, Fault> {
        let mut message = payload;
        let [tag] = head(&mut message)?;
        match (tag, self.current.take()) {
            (b'E', Some((xid, file))) => self.pause(xid, file)?,
            (b'S', None) => {
                let xid = u32::from_be_bytes(head(&mut message)?);
                let [first] = head(&mut message)?;
                self.go_on(xid, first == 1)?;
            }
            (b'A', None) => {
                let (xid, part) = (u32::from_be_bytes(head(&mut message)?), u32::from_be_bytes(head(&mut message)?));
                // Nothing came of one that was not streamed: PostgreSQL 18 says so of what it found rolled back before it sent it.
                if let Some(streamed) = self.open.get_mut(&xid) {
                    streamed.void.insert(part);
                    if part == xid {
                        let gone = self.end(xid)?;
                        std::fs::remove_file(&gone.path).map_err(|error| Fault::File("remove", gone.path, error))?;
                    }
                }
            }
            (b'c', None) => {
                let xid: [u8; 4] = head(&mut message)?;
                let [flags] = head(&mut message)?;
                let (commit, end, at): ([u8; 8], [u8; 8], [u8; 8]) =
                    (head(&mut message)?, head(&mut message)?, head(&mut message)?);
                let streamed = self.end(u32::from_be_bytes(xid))?;
                let begin = [&b"B"[..], &commit, &at, &xid].concat();
                let last = [&[b'C', flags][..], &commit, &end, &at].concat();
                let parts = streamed.parts.difference(&streamed.void).copied();
                let parts = parts.filter(|part| *part != u32::from_be_bytes(xid)).collect();
                let replayed = Replayed::open(streamed, Lsn(u64::from_be_bytes(commit)), begin, last)?;
                return Ok(Taken::Committed(Box::new(Committed { parts, replayed })));
            }
            _ => return Err(Fault::Protocol("a transaction in progress begins or ends inside another")),
        }
        Ok(Taken::Kept)
    }

    /// Its messages come, from the first on or behind those that came before.
    fn go_on(&mut self, xid: u32, is_first: bool) -> Result<(), Fault> {
        if is_first == self.open.contains_key(&xid) {
            return Err(Fault::Protocol("a transaction in progress begins twice, or in the middle"));
        }
        let streamed = self
            .open
            .entry(xid)
            .or_insert_with(|| Streamed { path: self.folder.join(xid.to_string()), ..Streamed::default() });
        // One file is open at a time: a thousand transactions may be.
        let file = OpenOptions::new().create(is_first).append(true).open(&streamed.path);
        let file = file.map_err(|error| Fault::File("open", streamed.path.clone(), error))?;
        self.current = Some((xid, BufWriter::with_capacity(BUFFER, file)));
        Ok(())
    }

    /// Others go on.
    fn pause(&self, xid: u32, file: BufWriter<File>) -> Result<(), Fault> {
        let streamed = self.open.get(&xid).ok_or(UNKNOWN)?;
        let written = file.into_inner();
        written.map(drop).map_err(|error| Fault::File("write", streamed.path.clone(), error.into_error()))
    }

    /// It is over, one way or the other.
    fn end(&mut self, xid: u32) -> Result<Streamed, Fault> {
        let streamed = self.open.remove(&xid).ok_or(UNKNOWN)?;
        self.bytes -= streamed.bytes;
        self.looked_at = self.looked_at.min(self.bytes);
        Ok(streamed)
    }

    /// Puts a message into a file, without the number of its part.
    fn keep(&mut self, at: Lsn, payload: &[u8]) -> Result<(), Fault> {
        let (&[tag, a, b, c, d], rest) = payload.split_first_chunk().ok_or(SHORT)?;
        let (xid, file) = self.current.as_mut().ok_or(UNKNOWN)?;
        let streamed = self.open.get_mut(xid).ok_or(UNKNOWN)?;
        let len = u32::try_from(rest.len() + 1).map_err(|_| Fault::Protocol("a message is too long"))?;
        let bytes = HEADER as u64 + u64::from(len);
        if self.bytes + bytes > self.max {
            return Err(Fault::Full);
        }
        self.bytes += bytes;
        if self.bytes >= self.looked_at + LOOK_EVERY {
            self.looked_at = self.bytes;
            ensure_room(&self.folder, self.bytes + RESERVE)?;
        }
        streamed.bytes += bytes;
        streamed.records += 1;
        streamed.parts.insert(u32::from_be_bytes([a, b, c, d]));
        let header = header([a, b, c, d], at, len, checksum([a, b, c, d], at, tag, rest));
        let mut write = || {
            file.write_all(&header)?;
            file.write_all(&[tag])?;
            file.write_all(rest)
        };
        write().map_err(|error| Fault::File("write", streamed.path.clone(), error))
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        // The next session empties it in any case.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A full disk would stop the log, and every source with it.
fn ensure_room(folder: &Path, bytes: u64) -> Result<(), Fault> {
    let space = statvfs(folder).map_err(|error| Fault::File("look at", folder.to_owned(), error.into()))?;
    if space.f_bavail.saturating_mul(space.f_frsize) < bytes { Err(Fault::NoRoom(folder.to_owned())) } else { Ok(()) }
}

const SHORT: Fault = Fault::Protocol("a message is cut short");
const UNKNOWN: Fault = Fault::Protocol("a transaction ends or goes on that was not streamed");

fn head<const N: usize>(message: &mut &[u8]) -> Result<[u8; N], Fault> {
    let (head, rest) = message.split_first_chunk().ok_or(SHORT)?;
    *message = rest;
    Ok(*head)
}

fn header(part: [u8; 4], at: Lsn, len: u32, checksum: u64) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&part);
    header[4..12].copy_from_slice(&at.0.to_be_bytes());
    header[12..16].copy_from_slice(&len.to_be_bytes());
    header[16..].copy_from_slice(&checksum.to_be_bytes());
    header
}

fn checksum(part: [u8; 4], at: Lsn, tag: u8, rest: &[u8]) -> u64 {
    let seed = at.0 ^ u64::from(u32::from_be_bytes(part)) << 32 ^ u64::from(tag);
    xxh3_64_with_seed(rest, seed)
}
