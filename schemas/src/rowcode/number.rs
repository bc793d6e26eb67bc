//! Integers as bytes that order like them: small ones in one byte, others in as many as they need.
//!
//! ```text
//! 10..EF  the value and 80, from -112 to 111
//! EF+n    n bytes follow, big-endian, of a larger one
//! 10-n    n bytes follow, big-endian in two's complement, of a smaller one
//! ```

/// What takes no byte but the first.
const SHORT: std::ops::RangeInclusive<i128> = -112..=111;
/// The first byte of zero.
const ZERO: u8 = 0x80;
/// The first byte of the least of [`SHORT`].
const SHORT_MIN: u8 = 0x10;
/// That of the greatest.
const SHORT_MAX: u8 = 0xef;

/// Appends a number.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "what is cut off is zero, or the sign that the first byte has"
)]
pub(super) fn put(out: &mut Vec<u8>, value: i128) {
    if SHORT.contains(&value) {
        out.push((value as u8).wrapping_add(ZERO));
        return;
    }
    let magnitude = if value < 0 { !value } else { value };
    let skipped = magnitude.leading_zeros() as usize / 8;
    let len = (size_of::<i128>() - skipped) as u8;
    out.push(if value < 0 { SHORT_MIN - len } else { SHORT_MAX + len });
    out.extend_from_slice(&value.to_be_bytes()[skipped..]);
}

/// How many bytes follow the first.
pub(super) const fn len(first: u8) -> usize {
    match first {
        ..SHORT_MIN => (SHORT_MIN - first) as usize,
        SHORT_MIN..=SHORT_MAX => 0,
        _ => (first - SHORT_MAX) as usize,
    }
}

/// The number of a first byte and the [`len`] bytes that follow it.
pub(super) fn get(first: u8, rest: &[u8]) -> i128 {
    if rest.is_empty() {
        return i128::from(first) - i128::from(ZERO);
    }
    let mut bytes = [if first < SHORT_MIN { 0xff } else { 0 }; size_of::<i128>()];
    let skipped = bytes.len() - rest.len();
    bytes[skipped..].copy_from_slice(rest);
    i128::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(value: i128) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, value);
        out
    }

    /// Of every length.
    fn number() -> impl Strategy<Value = i128> {
        (any::<i128>(), 0..128_u32).prop_map(|(value, bits)| value >> bits)
    }

    proptest! {
        #[test]
        fn numbers_read_back_and_order_like_their_bytes(one in number(), near in -300..300_i128, other in number()) {
            for value in [one, one.saturating_add(near), other] {
                let written = bytes(value);
                prop_assert_eq!(len(written[0]), written.len() - 1);
                prop_assert_eq!(get(written[0], &written[1..]), value);
                prop_assert_eq!(bytes(one).cmp(&written), one.cmp(&value));
            }
        }
    }

    #[test]
    fn numbers_take_the_bytes_that_they_need() {
        let lens = [0, 111, -112, 112, -113, 255, -256, 256, -257, 110_000_000_000, i128::MAX, i128::MIN];
        assert_eq!(lens.map(|value| bytes(value).len()), [1, 1, 1, 2, 2, 2, 2, 3, 3, 6, 17, 17]);
    }
}
