//! What MariaDB compresses inside events: `1 aaa 0 lll` (algorithm, bytes of the length), the length, a zlib stream.

use std::io::Read;

use flate2::read::ZlibDecoder;

use crate::mysql::bytes::{Cursor, big_endian};

/// The server's own limit of an event (`max_allowed_packet` is at most this).
pub(crate) const EVENT_LEN_MAX: usize = 1 << 30;

const IS_COMPRESSED: u8 = 0x80;
const ALGORITHM: u8 = 0x70;
const LENGTH_LEN: u8 = 0x07;

/// Inflates what remains into a buffer, which is emptied before. What a length promises is not believed beforehand: room
/// is made as bytes come.
pub(crate) fn inflate(cursor: &mut Cursor<'_>, out: &mut Vec<u8>) -> Result<(), &'static str> {
    let head = cursor.u8()?;
    let len = usize::from(head & LENGTH_LEN);
    if head & IS_COMPRESSED == 0 || head & ALGORITHM != 0 || !(1..=4).contains(&len) {
        return Err("it is compressed in a way that is not known");
    }
    let wanted = usize::try_from(big_endian(cursor.take(len)?)).map_err(|_| "it is too large")?;
    if wanted > EVENT_LEN_MAX {
        return Err("it is larger than an event can be");
    }
    read_exactly(ZlibDecoder::new(cursor.rest()), wanted, out)
}

/// Reads so many bytes, and no more than one beyond them, into a buffer, which is emptied before.
pub(crate) fn read_exactly(packed: impl Read, wanted: usize, out: &mut Vec<u8>) -> Result<(), &'static str> {
    out.clear();
    let limit = u64::try_from(wanted).map_err(|_| "it is too large")? + 1;
    match packed.take(limit).read_to_end(out) {
        Ok(len) if len == wanted => Ok(()),
        Ok(_) => Err("it has another size inside than it says"),
        Err(_) => Err("what is compressed in it is damaged"),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::ZlibEncoder;
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn deflate(bytes: &[u8]) -> Vec<u8> {
        let len = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        let skip = len.iter().position(|byte| *byte != 0).unwrap_or(3);
        let mut out = vec![IS_COMPRESSED | u8::try_from(4 - skip).unwrap()];
        out.extend_from_slice(&len[skip..]);
        let mut encoder = ZlibEncoder::new(out, Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_was_compressed_reads_back_and_damage_is_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 1_usize..9) {
            let packed = deflate(&bytes);
            let mut out = Vec::new();
            inflate(&mut Cursor::new(&packed), &mut out).unwrap();
            prop_assert_eq!(&out, &bytes);
            prop_assert!(inflate(&mut Cursor::new(&packed[..packed.len().saturating_sub(cut)]), &mut out).is_err());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = inflate(&mut Cursor::new(&bytes), &mut Vec::new());
        }
    }
}
