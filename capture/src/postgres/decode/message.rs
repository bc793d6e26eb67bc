//! The messages of pgoutput, protocol 1, borrowed from the bytes that they arrived in.
//!
//! Rows stay unparsed behind a relation's number: [`read_tuple`] walks one into reusable cells, so that no row costs an
//! allocation. Every read is checked; bytes from outside never panic.

use crate::postgres::lsn::Lsn;

/// 2000-01-01, PostgreSQL's epoch, in microseconds since 1970.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// A message of the output plugin.
#[derive(Debug)]
pub(crate) enum Message<'a> {
    Begin {
        final_lsn: Lsn,
        commit_us: i64,
        xid: u32,
    },
    Commit {
        end: Lsn,
    },
    Relation(Relation),
    Insert {
        relation: u32,
        tuples: &'a [u8],
    },
    Update {
        relation: u32,
        tuples: &'a [u8],
    },
    Delete {
        relation: u32,
        tuples: &'a [u8],
    },
    Truncate {
        relations: Vec<u32>,
    },
    /// What an application put into the log itself.
    Application {
        is_transactional: bool,
        lsn: Lsn,
        prefix: &'a str,
        content: &'a [u8],
    },
    /// Known and without meaning for the data: the origin of a replicated transaction, a type's name (types are
    /// resolved by number). And the end of what was never sent: PostgreSQL 18 says of parts of
    /// transactions that they were rolled back also where none of them came, even without streaming.
    Ignored,
}

/// A table as the log describes it before its first change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Relation {
    pub(crate) id: u32,
    pub(crate) schema: String,
    pub(crate) name: String,
    /// `d` default, `n` nothing, `f` full, `i` index.
    pub(crate) replica_identity: u8,
    pub(crate) columns: Vec<RelationColumn>,
}

/// A column of a [`Relation`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RelationColumn {
    pub(crate) name: String,
    pub(crate) is_key: bool,
    pub(crate) type_oid: u32,
    pub(crate) type_modifier: i32,
}

/// One value of a row, as a place in the message's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cell {
    Null,
    /// An unchanged TOAST value, which the log does not hold.
    Unchanged,
    Text {
        start: usize,
        end: usize,
    },
    /// In the form that the type's `send` function writes.
    Binary {
        start: usize,
        end: usize,
    },
}

/// A checked walk over bytes.
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

const SHORT: &str = "a message is cut short";

impl<'a> Cursor<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        let (head, _) = self.bytes.get(self.at..).and_then(|rest| rest.split_first_chunk::<N>()).ok_or(SHORT)?;
        self.at += N;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, &'static str> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, &'static str> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, &'static str> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    fn i32(&mut self) -> Result<i32, &'static str> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    fn lsn(&mut self) -> Result<Lsn, &'static str> {
        Ok(Lsn(u64::from_be_bytes(self.array()?)))
    }

    fn instant_us(&mut self) -> Result<i64, &'static str> {
        i64::from_be_bytes(self.array()?).checked_add(POSTGRES_EPOCH_US).ok_or("a commit time is out of range")
    }

    fn text(&mut self) -> Result<&'a str, &'static str> {
        let rest = &self.bytes[self.at..];
        let len = rest.iter().position(|&byte| byte == 0).ok_or(SHORT)?;
        self.at += len + 1;
        std::str::from_utf8(&rest[..len]).map_err(|_| "a name is not UTF-8")
    }

    fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    pub(crate) const fn is_at_end(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// Reads a row into `cells`, whose places are within this cursor's bytes.
    #[inline]
    pub(crate) fn tuple(&mut self, cells: &mut Vec<Cell>) -> Result<(), &'static str> {
        cells.clear();
        for _ in 0..self.u16()? {
            let cell = match self.u8()? {
                form @ (b't' | b'b') => {
                    let len = self.u32()? as usize;
                    let start = self.at;
                    let end = start.checked_add(len).filter(|end| *end <= self.bytes.len()).ok_or(SHORT)?;
                    self.at = end;
                    if form == b't' { Cell::Text { start, end } } else { Cell::Binary { start, end } }
                }
                b'n' => Cell::Null,
                b'u' => Cell::Unchanged,
                _ => return Err("a value has an unknown form"),
            };
            cells.push(cell);
        }
        Ok(())
    }
}

impl<'a> Message<'a> {
    /// Reads a message; the error says what is wrong with it.
    #[inline]
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, String> {
        let mut cursor = Cursor::new(bytes);
        Ok(match cursor.u8()? {
            b'I' => Self::Insert { relation: cursor.u32()?, tuples: cursor.rest() },
            b'U' => Self::Update { relation: cursor.u32()?, tuples: cursor.rest() },
            b'D' => Self::Delete { relation: cursor.u32()?, tuples: cursor.rest() },
            b'B' => {
                let final_lsn = cursor.lsn()?;
                Self::Begin { final_lsn, commit_us: cursor.instant_us()?, xid: cursor.u32()? }
            }
            b'C' => {
                let _flags = cursor.u8()?;
                let _commit = cursor.lsn()?;
                Self::Commit { end: cursor.lsn()? }
            }
            b'R' => Self::Relation(relation(&mut cursor)?),
            b'T' => {
                let count = cursor.u32()?;
                let _cascade_and_restart = cursor.u8()?;
                Self::Truncate { relations: (0..count).map(|_| cursor.u32()).collect::<Result<_, _>>()? }
            }
            b'M' => {
                let is_transactional = cursor.u8()? & 1 == 1;
                let (lsn, prefix, len) = (cursor.lsn()?, cursor.text()?, cursor.u32()? as usize);
                let content = cursor.rest();
                if content.len() != len {
                    return Err("a message of an application has another length than it says".to_owned());
                }
                Self::Application { is_transactional, lsn, prefix, content }
            }
            b'O' | b'Y' | b'A' => Self::Ignored,
            other => return Err(format!("message {:?} of pgoutput is not known", char::from(other))),
        })
    }
}

fn relation(cursor: &mut Cursor<'_>) -> Result<Relation, &'static str> {
    let id = cursor.u32()?;
    // An empty namespace stands for pg_catalog.
    let schema = Some(cursor.text()?).filter(|schema| !schema.is_empty()).unwrap_or("pg_catalog").to_owned();
    let name = cursor.text()?.to_owned();
    let replica_identity = cursor.u8()?;
    let columns = (0..cursor.u16()?)
        .map(|_| {
            let is_key = cursor.u8()? & 1 == 1;
            let name = cursor.text()?.to_owned();
            Ok(RelationColumn { name, is_key, type_oid: cursor.u32()?, type_modifier: cursor.i32()? })
        })
        .collect::<Result<_, &'static str>>()?;
    Ok(Relation { id, schema, name, replica_identity, columns })
}
