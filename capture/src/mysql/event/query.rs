//! A statement in the log: what it was run in, and its text.
//!
//! ```text
//! thread u32 | seconds u32 | length of the database u8 | error u16 | length of variables u16 | variables | database 0 | text
//! ```

use super::inflate::inflate;
use crate::mysql::bytes::Cursor;

/// A statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Query<'a> {
    /// The database that names without one are in.
    pub(crate) database: &'a [u8],
    /// In the client's character set, of which ASCII is a part wherever keywords are read.
    pub(crate) text: &'a [u8],
}

/// Reads a statement; `room` keeps the text of one that is compressed.
pub(crate) fn query<'a>(body: &'a [u8], is_compressed: bool, room: &'a mut Vec<u8>) -> Result<Query<'a>, &'static str> {
    let mut cursor = Cursor::new(body);
    cursor.take(8)?;
    let database_len = usize::from(cursor.u8()?);
    cursor.u16()?;
    let variables_len = usize::from(cursor.u16()?);
    cursor.take(variables_len)?;
    let database = cursor.take(database_len)?;
    if cursor.u8()? != 0 {
        return Err("the name of its database goes on");
    }
    let text = if is_compressed {
        inflate(&mut cursor, room)?;
        &*room
    } else {
        cursor.rest()
    };
    Ok(Query { database, text })
}

#[cfg(test)]
mod tests {
    use super::super::inflate::tests::deflate;
    use super::*;

    #[test]
    fn a_compressed_statement_is_the_same_as_one_that_is_not() {
        let head = b"\x01\0\0\0\x02\0\0\0\x04\0\0\x03\0abcshop\0";
        let text = b"TRUNCATE TABLE stock";
        let wanted = Query { database: b"shop", text };
        let mut room = Vec::new();
        let plain = [head.as_slice(), text].concat();
        assert_eq!(query(&plain, false, &mut room), Ok(wanted));
        let mut room = Vec::new();
        let packed = [head.as_slice(), &deflate(text)].concat();
        assert_eq!(query(&packed, true, &mut room), Ok(wanted));
        assert!(query(&plain[..15], false, &mut Vec::new()).is_err());
    }
}
