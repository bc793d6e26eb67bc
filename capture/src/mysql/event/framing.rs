//! Head, size and checksum of an event, and the format that a file begins with.
//!
//! Every checksum is verified: it costs a tenth of decoding, and a flipped bit would become a wrong quantity. Whether
//! events have one is said by each file's format; before the first one only their own bytes can tell, and they do: four
//! bytes that happen to be the checksum of the others are as unlikely as an error that a checksum does not find.

use crate::mysql::bytes::{Cursor, SHORT};

/// Bytes in front of every body.
pub(crate) const HEAD_LEN: usize = 19;
const CRC_LEN: usize = 4;
/// The file is still being written; not set when its checksum was computed.
const IN_USE: u16 = 1;
/// Where the flags stand in the head.
const FLAGS_AT: usize = 17;
/// The only version of a log since MySQL 5.0.
const LOG_VERSION: u16 = 4;
const SERVER_VERSION_LEN: usize = 50;
const FORMAT: u8 = 15;

/// An event without its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Framed<'a> {
    /// Seconds since 1970, when its statement began.
    pub(crate) timestamp: u32,
    pub(crate) code: u8,
    /// Who wrote it first.
    pub(crate) server_id: u32,
    /// Where in its file it ends, the lower 32 bits of that; 0 where it is in none.
    pub(crate) ends_at: u32,
    /// Without the checksum.
    pub(crate) body: &'a [u8],
}

/// What is known of how events are framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Framing(Checksums);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Checksums {
    /// No file has begun yet.
    #[default]
    Unknown,
    None,
    Crc32,
}

impl Framing {
    /// That of events inside a compressed transaction, which have no checksums of their own.
    pub(crate) const PLAIN: Self = Self(Checksums::None);

    /// Takes an event out of its frame. One that says how those behind it are framed is followed.
    pub(crate) fn open<'a>(&mut self, event: &'a [u8]) -> Result<Framed<'a>, &'static str> {
        let mut cursor = Cursor::new(event);
        let (timestamp, code, server_id) = (cursor.u32()?, cursor.u8()?, cursor.u32()?);
        let size = cursor.u32()?;
        let ends_at = cursor.u32()?;
        // Flags.
        cursor.take(2)?;
        if usize::try_from(size).ok() != Some(event.len()) {
            return Err("it has another size than it says");
        }
        let framed = |body| Framed { timestamp, code, server_id, ends_at, body };
        if code == FORMAT {
            let (checksums, body) = format(event, cursor.rest())?;
            // Inside a compressed transaction no file begins.
            if self.0 != Checksums::None {
                self.0 = checksums;
            }
            return Ok(framed(body));
        }
        let has_checksum = match self.0 {
            Checksums::None => false,
            Checksums::Unknown => is_sound(event),
            Checksums::Crc32 if is_sound(event) => true,
            Checksums::Crc32 => return Err("its checksum says that bytes of it are not what they were"),
        };
        let body = if has_checksum { without_checksum(cursor.rest())? } else { cursor.rest() };
        Ok(framed(body))
    }
}

fn without_checksum(bytes: &[u8]) -> Result<&[u8], &'static str> {
    let len = bytes.len().checked_sub(CRC_LEN).ok_or(SHORT)?;
    Ok(&bytes[..len])
}

/// Whether an event's last four bytes are the checksum of those before.
fn is_sound(event: &[u8]) -> bool {
    let Some((covered, crc)) = event.split_last_chunk::<CRC_LEN>() else { return false };
    covered.len() >= HEAD_LEN && crc32(covered) == u32::from_le_bytes(*crc)
}

/// The checksum of an event that is whole but for it.
pub(crate) fn crc32(event: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    match event.split_at_checked(FLAGS_AT) {
        Some((head, rest)) if event.get(4) == Some(&FORMAT) && rest.first().is_some_and(|low| low & 1 == 1) => {
            crc.update(head);
            crc.update(&[rest[0] & !IN_USE.to_le_bytes()[0]]);
            crc.update(&rest[1..]);
        }
        _ => crc.update(event),
    }
    crc.sum()
}

/// Reads the format: version of the log, of the server, when it began, lengths of heads, then whether events have
/// checksums. It has room for a checksum itself, whatever it says.
fn format<'a>(event: &[u8], body: &'a [u8]) -> Result<(Checksums, &'a [u8]), &'static str> {
    let mut cursor = Cursor::new(body);
    if cursor.u16()? != LOG_VERSION {
        return Err("the log has a version that is not 4");
    }
    cursor.take(SERVER_VERSION_LEN)?;
    cursor.u32()?;
    if usize::from(cursor.u8()?) != HEAD_LEN {
        return Err("events have heads of another length than 19");
    }
    let body = without_checksum(body)?;
    let checksums = match body.last() {
        Some(0) => Checksums::None,
        Some(1) if is_sound(event) => Checksums::Crc32,
        Some(1) => return Err("its checksum says that bytes of it are not what they were"),
        _ => return Err("events have checksums of a kind that is not known"),
    };
    Ok((checksums, body))
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An event around a body, with a checksum where one is asked for.
    pub(crate) fn event(code: u8, body: &[u8], has_checksum: bool) -> Vec<u8> {
        let crc_len = if has_checksum { CRC_LEN } else { 0 };
        let size = u32::try_from(HEAD_LEN + body.len() + crc_len).unwrap();
        let mut event = 1_700_000_000_u32.to_le_bytes().to_vec();
        event.push(code);
        event.extend_from_slice(&7_u32.to_le_bytes());
        event.extend_from_slice(&size.to_le_bytes());
        event.extend_from_slice(&[0; 6]);
        event.extend_from_slice(body);
        if has_checksum {
            let crc = crc32(&event);
            event.extend_from_slice(&crc.to_le_bytes());
        }
        event
    }

    /// The format of a file whose events have checksums or do not.
    pub(crate) fn format_event(has_checksums: bool) -> Vec<u8> {
        let mut body = vec![4, 0];
        body.extend_from_slice(&[b'x'; SERVER_VERSION_LEN]);
        body.extend_from_slice(&[0; 4]);
        body.push(19);
        body.extend_from_slice(&[1, 2, 3]);
        body.push(u8::from(has_checksums));
        event(FORMAT, &body, true)
    }

    #[test]
    fn a_flipped_bit_is_found_out_and_the_mark_of_an_open_file_is_none() {
        let mut framing = Framing::default();
        let mut format = format_event(true);
        format[FLAGS_AT] |= 1;
        framing.open(&format).expect("as it stands in a file that is open");
        let mut xid = event(16, &[1, 2, 3, 4, 5, 6, 7, 8], true);
        assert_eq!(framing.open(&xid).map(|it| it.body), Ok(&[1, 2, 3, 4, 5, 6, 7, 8][..]));
        xid[22] ^= 4;
        assert!(framing.open(&xid).unwrap_err().contains("checksum"));
    }

    #[test]
    fn what_comes_before_the_format_is_read_with_and_without_a_checksum() {
        for has_checksum in [false, true] {
            let mut framing = Framing::default();
            let rotate = event(4, b"\x04\0\0\0\0\0\0\0bin.000001", has_checksum);
            assert_eq!(framing.open(&rotate).map(|it| it.body), Ok(&b"\x04\0\0\0\0\0\0\0bin.000001"[..]));
            framing.open(&format_event(has_checksum)).unwrap();
            assert_eq!(framing.open(&event(16, b"12345678", has_checksum)).map(|it| it.body), Ok(&b"12345678"[..]));
        }
    }

    #[test]
    fn inside_a_compressed_transaction_nothing_has_a_checksum() {
        let mut framing = Framing::PLAIN;
        assert_eq!(framing.open(&event(16, b"12345678", false)).map(|it| it.body), Ok(&b"12345678"[..]));
        framing.open(&format_event(true)).unwrap();
        assert_eq!(framing, Framing::PLAIN);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_make_a_frame_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120), is_format in any::<bool>()) {
            let mut bytes = bytes;
            if let Some(code) = bytes.get_mut(4).filter(|_| is_format) {
                *code = FORMAT;
            }
            if let (Some(place), Ok(size)) = (bytes.get(9..13).map(|_| 9..13), u32::try_from(bytes.len())) {
                bytes[place].copy_from_slice(&size.to_le_bytes());
            }
            let _ = Framing::default().open(&bytes);
            let mut plain = Framing::PLAIN;
            let _ = plain.open(&bytes);
        }
    }
}
