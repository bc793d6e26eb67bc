//! Values of `COMPRESSED` columns of MariaDB.
//!
//! ```text
//! 0                | the value as it is
//! 1000 r lll       | its length, in so many bytes, the highest first | what zlib makes of it; r: without zlib's head and sum
//! ```
//! An empty value has not even the first byte. What a length promises is not believed: room is made as bytes come.

use flate2::read::{DeflateDecoder, ZlibDecoder};

use crate::mysql::bytes::big_endian;
use crate::mysql::event::inflate::{EVENT_LEN_MAX, read_exactly};
use crate::value::ValueFault;

const ZLIB: u8 = 0x80;
const ALGORITHM: u8 = 0xf0;
const IS_RAW: u8 = 0x08;
const LENGTH_LEN: u8 = 0x07;

const UNKNOWN: ValueFault = ValueFault::Malformed("it is compressed in a way that is not known");

/// The value in what the log has of it; `room` may be used for it.
pub(super) fn unpacked<'v>(bytes: &'v [u8], room: &'v mut Vec<u8>) -> Result<&'v [u8], ValueFault> {
    let Some((&head, rest)) = bytes.split_first() else { return Ok(bytes) };
    if head == 0 {
        return Ok(rest);
    }
    let len = usize::from(head & LENGTH_LEN);
    if head & ALGORITHM != ZLIB || !(1..=4).contains(&len) {
        return Err(UNKNOWN);
    }
    let (wanted, packed) = rest.split_at_checked(len).ok_or(UNKNOWN)?;
    let wanted = usize::try_from(big_endian(wanted)).map_err(|_| UNKNOWN)?;
    if wanted > EVENT_LEN_MAX {
        return Err(ValueFault::Malformed("a compressed value is larger than one can be"));
    }
    let read = if head & IS_RAW == 0 {
        read_exactly(ZlibDecoder::new(packed), wanted, room)
    } else {
        read_exactly(DeflateDecoder::new(packed), wanted, room)
    };
    read.map_err(ValueFault::Malformed)?;
    Ok(room)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, ZlibEncoder};
    use proptest::prelude::*;

    use super::*;

    fn packed(bytes: &[u8], is_raw: bool, len: u32) -> Vec<u8> {
        let mut out = vec![ZLIB | 4 | if is_raw { IS_RAW } else { 0 }];
        out.extend_from_slice(&len.to_be_bytes());
        if is_raw {
            let mut encoder = DeflateEncoder::new(out, Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        } else {
            let mut encoder = ZlibEncoder::new(out, Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
    }

    #[test]
    fn a_length_that_lies_is_an_error_and_takes_no_room() {
        for len in [u32::MAX, 1 << 30, 4, 2, 0] {
            for is_raw in [false, true] {
                let mut room = Vec::new();
                assert!(unpacked(&packed(b"abc", is_raw, len), &mut room).is_err(), "{len}");
                assert!(room.capacity() < 1 << 20, "{len}: {}", room.capacity());
            }
        }
        assert!(unpacked(&[0x90, 1, 1], &mut Vec::new()).is_err(), "another algorithm");
        assert!(unpacked(&[0x80, 1, 1], &mut Vec::new()).is_err(), "no length");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_was_packed_comes_out(bytes in proptest::collection::vec(0_u8..4, 0..300), is_raw in any::<bool>()) {
            let mut room = Vec::new();
            let len = u32::try_from(bytes.len()).unwrap();
            let packed = packed(&bytes, is_raw, len);
            prop_assert_eq!(unpacked(&packed, &mut room).unwrap(), &bytes);
            let plain = [[0].as_slice(), &bytes].concat();
            prop_assert_eq!(unpacked(&plain, &mut room).unwrap(), &bytes);
            prop_assert_eq!(unpacked(&[], &mut room).unwrap(), b"");
        }

        #[test]
        fn no_bytes_make_it_panic(head in any::<u8>(), bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = unpacked(&[[head].as_slice(), &bytes].concat(), &mut Vec::new());
        }
    }
}
