//! A whole transaction, compressed (`binlog_transaction_compression` of MySQL 8.0.20 and later).
//!
//! ```text
//! (field | length | value)* 0       1 size of the payload, 2 algorithm (0 zstd, 255 none), 3 size when it is not compressed
//! payload: events without checksums, one behind the other
//! ```
//! It is inflated event by event: a transaction of gigabytes takes the memory of its largest event, and a window of the
//! compression. The buffer of an event grows as its bytes come, whatever its head promises.

use std::io::{self, BufReader, Read};

use super::framing::HEAD_LEN;
use super::inflate::EVENT_LEN_MAX;
use crate::mysql::bytes::{Cursor, SHORT};

/// The largest window: `binlog_transaction_compression_level_zstd` 22 has 128 MiB, and the server's default 8 MiB.
const WINDOW_LOG_MAX: u32 = 27;
const SIZE_AT: usize = 9;

/// A compressed transaction, as far as it was read.
pub(crate) struct Payload<'a> {
    bytes: Bytes<'a>,
    event: Vec<u8>,
}

enum Bytes<'a> {
    Plain(&'a [u8]),
    Zstd(Box<zstd::stream::read::Decoder<'static, BufReader<&'a [u8]>>>),
}

impl<'a> Payload<'a> {
    /// Reads its head.
    pub(crate) fn open(body: &'a [u8]) -> Result<Self, &'static str> {
        let mut cursor = Cursor::new(body);
        let (mut size, mut algorithm) = (None, None);
        loop {
            match cursor.lenenc()? {
                0 => break,
                1 => size = Some(Cursor::new(cursor.lenenc_bytes()?).count()?),
                2 => algorithm = Some(Cursor::new(cursor.lenenc_bytes()?).lenenc()?),
                3 => drop(cursor.lenenc_bytes()?),
                _ => return Err("the head of a compressed transaction has a part that is not known"),
            }
        }
        let payload = cursor.rest();
        if size != Some(payload.len()) {
            return Err("a compressed transaction has another size than it says");
        }
        let bytes = match algorithm {
            Some(0) => Bytes::Zstd(Box::new(decoder(payload).map_err(|_| "zstd has no memory for its window")?)),
            Some(255) => Bytes::Plain(payload),
            _ => return Err("a transaction is compressed in a way that is not known"),
        };
        Ok(Self { bytes, event: Vec::new() })
    }

    /// The next event with its head; none behind the last.
    pub(crate) fn next(&mut self) -> Result<Option<&[u8]>, &'static str> {
        self.event.clear();
        let head_len = u64::try_from(HEAD_LEN).map_err(|_| SHORT)?;
        match self.bytes.append(&mut self.event, head_len) {
            Ok(0) => return Ok(None),
            Ok(HEAD_LEN) => {}
            Ok(_) => return Err("a compressed transaction is cut short"),
            Err(_) => return Err(DAMAGED),
        }
        let size = Cursor::new(&self.event[SIZE_AT..]).u32()?;
        let size = usize::try_from(size).map_err(|_| SHORT)?;
        let body = size.checked_sub(HEAD_LEN).filter(|_| size <= EVENT_LEN_MAX);
        let body = body.ok_or("an event of a compressed transaction has a size that is none")?;
        match self.bytes.append(&mut self.event, u64::try_from(body).map_err(|_| SHORT)?) {
            Ok(len) if len == body => Ok(Some(&self.event)),
            Ok(_) => Err("a compressed transaction is cut short"),
            Err(_) => Err(DAMAGED),
        }
    }
}

const DAMAGED: &str = "a compressed transaction is damaged";

fn decoder(payload: &[u8]) -> io::Result<zstd::stream::read::Decoder<'static, BufReader<&[u8]>>> {
    let mut decoder = zstd::stream::read::Decoder::new(payload)?;
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    Ok(decoder)
}

impl Bytes<'_> {
    /// Reads at most `len` bytes, fewer only at the end.
    fn append(&mut self, out: &mut Vec<u8>, len: u64) -> io::Result<usize> {
        match self {
            Self::Plain(bytes) => bytes.take(len).read_to_end(out),
            Self::Zstd(decoder) => decoder.take(len).read_to_end(out),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::super::framing::tests::event;
    use super::*;

    fn body(payload: &[u8], algorithm: &[u8]) -> Vec<u8> {
        let size = u32::try_from(payload.len()).unwrap();
        let mut body = vec![2, u8::try_from(algorithm.len()).unwrap()];
        body.extend_from_slice(algorithm);
        body.extend_from_slice(&[3, 1, 7, 1, 9, 254]);
        body.extend_from_slice(&u64::from(size).to_le_bytes());
        body.push(0);
        body.extend_from_slice(payload);
        body
    }

    /// A transaction of events as the server compresses it.
    pub(crate) fn compressed(events: &[u8]) -> Vec<u8> {
        body(&zstd::bulk::compress(events, 3).unwrap(), &[0])
    }

    fn all(body: &[u8]) -> Result<Vec<Vec<u8>>, &'static str> {
        let mut payload = Payload::open(body)?;
        let mut events = Vec::new();
        while let Some(event) = payload.next()? {
            events.push(event.to_vec());
        }
        Ok(events)
    }

    #[test]
    fn a_transaction_that_is_cut_short_or_damaged_is_no_shorter_transaction() {
        let events = [event(2, b"BEGIN", false), event(19, &[7; 300], false), event(16, &[1; 8], false)];
        let packed = compressed(&events.concat());
        assert_eq!(all(&packed).unwrap(), events);
        assert_eq!(all(&body(&events.concat(), &[252, 255, 0])).unwrap(), events);
        let whole = events.concat();
        for cut in [1, 9, 20, 40] {
            assert!(all(&compressed(&whole[..whole.len() - cut])).is_err(), "{cut}");
            let zstd = zstd::bulk::compress(&whole, 3).unwrap();
            assert!(all(&body(&zstd[..zstd.len() - cut], &[0])).is_err(), "{cut}");
        }
        assert!(all(&body(&[], &[1])).is_err(), "another algorithm");
        assert!(all(&packed[..packed.len() - 1]).is_err(), "another size");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), is_payload in any::<bool>()) {
            let _ = if is_payload { all(&compressed(&bytes)) } else { all(&bytes) };
        }
    }
}
