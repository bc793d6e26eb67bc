//! The event that a transaction begins with: which one it is, and when it was committed.
//!
//! ```text
//! MySQL         flags u8 | source 16 | number i64 | 2 u8 | 2 x i64 | committed us u56, bit 55: another u56 follows | ...
//! MySQL, tag    version | size | last field that must be known | (field | value)*      numbers of variable length
//! MariaDB       sequence u64 | domain u32 | flags u8 | commit id u64 or nothing | xid of XA or nothing | ...
//! ```

use std::sync::Arc;

use super::framing::Framed;
use crate::mysql::bytes::{Cursor, SHORT};
use crate::mysql::gtid::{Gtid, MariaDbGtid, MySqlGtid};

/// What a transaction begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Begin {
    pub(crate) gtid: Gtid,
    /// Microseconds since 1970: the commit, where the server says it, or the second in which its statement began.
    pub(crate) commit_us: i64,
    /// It is one statement, which ends it, too.
    pub(crate) is_standalone: bool,
    /// What two-phase commit has to do with it.
    pub(crate) xa: Xa,
}

/// A transaction's part in a two-phase commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Xa {
    #[default]
    None,
    /// Its rows count only once another transaction commits them.
    Prepared,
    /// It commits the rows of another one, or rolls them back.
    Completed,
}

/// The commit's time in the seven bytes, of which the highest bit says that the original's follows.
const HAS_ORIGINAL: u64 = 1 << 55;

fn seconds_as_us(event: &Framed<'_>) -> i64 {
    i64::from(event.timestamp) * 1_000_000
}

fn microseconds(us: u64) -> Result<i64, &'static str> {
    i64::try_from(us).map_err(|_| "a commit has a time that is none")
}

pub(crate) fn mysql(event: &Framed<'_>) -> Result<Begin, &'static str> {
    let mut cursor = Cursor::new(event.body);
    cursor.u8()?;
    let source = cursor.array()?;
    let number = number(cursor.u64()?)?;
    // What orders transactions for parallel appliers; 5.7 and later write it with a 2 in front.
    let commit_us = if cursor.is_at_end() || cursor.u8()? != 2 {
        seconds_as_us(event)
    } else {
        cursor.take(16)?;
        if cursor.is_at_end() { seconds_as_us(event) } else { microseconds(cursor.number(7)? & !HAS_ORIGINAL)? }
    };
    let gtid = Gtid::MySql(MySqlGtid { source, tag: Arc::from(""), number });
    Ok(Begin { gtid, commit_us, is_standalone: false, xa: Xa::None })
}

fn number(number: u64) -> Result<u64, &'static str> {
    if (1..i64::MAX.unsigned_abs()).contains(&number) { Ok(number) } else { Err("a transaction's number is none") }
}

/// Fields of a tagged one, by their numbers. Only those up to the time are needed, and they come in order.
mod field {
    pub(super) const FLAGS: u64 = 0;
    pub(super) const SOURCE: u64 = 1;
    pub(super) const NUMBER: u64 = 2;
    pub(super) const TAG: u64 = 3;
    pub(super) const LAST_COMMITTED: u64 = 4;
    pub(super) const SEQUENCE: u64 = 5;
    pub(super) const COMMITTED: u64 = 6;
    /// Of those that are known and need not be.
    pub(super) const LAST_KNOWN: u64 = 11;
}

pub(crate) fn tagged(event: &Framed<'_>) -> Result<Begin, &'static str> {
    /// The only form of messages so far, as a number of variable length.
    const FORM: u64 = 1;
    let mut cursor = Cursor::new(event.body);
    if varlen(&mut cursor)? != FORM {
        return Err("it is written in a form that is not known");
    }
    varlen(&mut cursor)?;
    if varlen(&mut cursor)? > field::LAST_KNOWN {
        return Err("it has a field that must be known and is not");
    }
    let (mut source, mut tag, mut found) = ([0; 16], "", None);
    let mut commit_us = seconds_as_us(event);
    while !cursor.is_at_end() {
        match varlen(&mut cursor)? {
            field::SOURCE => {
                for byte in &mut source {
                    *byte = u8::try_from(varlen(&mut cursor)?).map_err(|_| "a source is no uuid")?;
                }
            }
            field::NUMBER => found = Some(number(unsigned_of(varlen(&mut cursor)?)?)?),
            field::TAG => {
                let len = usize::try_from(varlen(&mut cursor)?).map_err(|_| SHORT)?;
                tag = std::str::from_utf8(cursor.take(len)?).map_err(|_| "a tag is no text")?;
            }
            field::COMMITTED => commit_us = microseconds(varlen(&mut cursor)?)?,
            field::FLAGS | field::LAST_COMMITTED | field::SEQUENCE => drop(varlen(&mut cursor)?),
            // Behind the time nothing is needed.
            _ => break,
        }
    }
    let number = found.ok_or("it has no number")?;
    if !tag.is_empty() && !crate::mysql::gtid::is_tag(tag) {
        return Err("a tag has another form");
    }
    let gtid = Gtid::MySql(MySqlGtid { source, tag: Arc::from(tag), number });
    Ok(Begin { gtid, commit_us, is_standalone: false, xa: Xa::None })
}

/// A number of one to nine bytes: as many ones as the first byte ends in, so many more follow.
fn varlen(cursor: &mut Cursor<'_>) -> Result<u64, &'static str> {
    let first = *cursor.rest().first().ok_or(SHORT)?;
    let more = first.trailing_ones();
    if more == 8 {
        cursor.u8()?;
        return cursor.u64();
    }
    let len = more + 1;
    let bytes = cursor.number(usize::try_from(len).map_err(|_| SHORT)?)?;
    Ok(bytes >> len)
}

/// A number with a sign, which stands in its lowest bit.
fn unsigned_of(number: u64) -> Result<u64, &'static str> {
    if number & 1 == 1 { Err("a transaction's number is negative") } else { Ok(number >> 1) }
}

mod flag {
    pub(super) const STANDALONE: u8 = 1;
    pub(super) const PREPARED_XA: u8 = 64;
    pub(super) const COMPLETED_XA: u8 = 128;
}

pub(crate) fn mariadb(event: &Framed<'_>) -> Result<Begin, &'static str> {
    let mut cursor = Cursor::new(event.body);
    let (sequence, domain, flags) = (cursor.u64()?, cursor.u32()?, cursor.u8()?);
    let xa = match flags {
        _ if flags & flag::PREPARED_XA != 0 => Xa::Prepared,
        _ if flags & flag::COMPLETED_XA != 0 => Xa::Completed,
        _ => Xa::None,
    };
    Ok(Begin {
        gtid: Gtid::MariaDb(MariaDbGtid { domain, server: event.server_id, sequence }),
        commit_us: seconds_as_us(event),
        is_standalone: flags & flag::STANDALONE != 0,
        xa,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(body: &[u8]) -> Framed<'_> {
        Framed { timestamp: 7, code: 0, server_id: 9, ends_at: 0, body }
    }

    /// Written independently: bits of a number of variable length, counted by hand.
    fn put_varlen(out: &mut Vec<u8>, number: u64) {
        let len = (1..=8).find(|len| number < 1 << (7 * len));
        match len {
            Some(len) => {
                let word = number << len | ((1 << (len - 1)) - 1);
                out.extend_from_slice(&word.to_le_bytes()[..usize::try_from(len).unwrap()]);
            }
            None => {
                out.push(255);
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
    }

    #[test]
    fn numbers_of_variable_length_read_back() {
        for number in (0..64).flat_map(|bits| [(1_u64 << bits) - 1, 1 << bits]).chain([u64::MAX]) {
            let mut bytes = Vec::new();
            put_varlen(&mut bytes, number);
            let mut cursor = Cursor::new(&bytes);
            assert_eq!(varlen(&mut cursor), Ok(number));
            assert!(cursor.is_at_end());
        }
    }

    #[test]
    fn a_transaction_of_mysql_says_when_it_was_committed() {
        let mut body = vec![1];
        body.extend_from_slice(&[0xab; 16]);
        body.extend_from_slice(&42_u64.to_le_bytes());
        body.push(2);
        body.extend_from_slice(&[0; 16]);
        let committed = 1_700_000_000_123_456_u64;
        body.extend_from_slice(&(committed | HAS_ORIGINAL).to_le_bytes()[..7]);
        body.extend_from_slice(&[0; 7]);
        let begin = mysql(&framed(&body)).unwrap();
        assert_eq!(begin.commit_us, 1_700_000_000_123_456);
        assert_eq!(begin.gtid.to_string(), "abababab-abab-abab-abab-abababababab:42");
        assert_eq!(mysql(&framed(&body[..25])).unwrap().commit_us, 7_000_000);
        assert!(mysql(&framed(&body[..24])).is_err());
    }

    #[test]
    fn a_tagged_transaction_is_another_than_one_without_a_tag() {
        let mut body = Vec::new();
        [1, 99, 10, 0, 1, 1].iter().for_each(|number| put_varlen(&mut body, *number));
        (0..16).for_each(|_| put_varlen(&mut body, 0xab));
        [2, 42 << 1, 3, 4].iter().for_each(|number| put_varlen(&mut body, *number));
        body.extend_from_slice(b"load");
        [4, 0, 5, 2, 6, 1_700_000_000_123_456, 8, 77].iter().for_each(|number| put_varlen(&mut body, *number));
        let begin = tagged(&framed(&body)).unwrap();
        assert_eq!(begin.gtid.to_string(), "abababab-abab-abab-abab-abababababab:load:42");
        assert_eq!(begin.commit_us, 1_700_000_000_123_456);
    }

    #[test]
    fn a_transaction_of_mariadb_says_whether_it_is_prepared_only() {
        let mut body = 5_u64.to_le_bytes().to_vec();
        body.extend_from_slice(&3_u32.to_le_bytes());
        body.push(flag::PREPARED_XA);
        let begin = mariadb(&framed(&body)).unwrap();
        assert_eq!((begin.gtid.to_string().as_str(), begin.xa), ("3-9-5", Xa::Prepared));
        assert!(!begin.is_standalone);
    }
}
