//! Reading numbers and texts from bytes of the server, each read within bounds.

/// What is wrong with bytes that end too early.
pub(crate) const SHORT: &str = "it is cut short";

/// The rest of some bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// What has not been read yet.
    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub(crate) const fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }

    #[inline]
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(SHORT)?;
        self.0 = rest;
        Ok(taken)
    }

    #[inline]
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(SHORT)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, &'static str> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, &'static str> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, &'static str> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, &'static str> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A number of up to eight bytes.
    #[inline]
    pub(crate) fn number(&mut self, len: usize) -> Result<u64, &'static str> {
        Ok(little_endian(self.take(len)?))
    }

    /// A number that says its own length.
    pub(crate) fn lenenc(&mut self) -> Result<u64, &'static str> {
        match self.u8()? {
            252 => self.number(2),
            253 => self.number(3),
            254 => self.number(8),
            251 | 255 => Err("a length has another form"),
            small => Ok(u64::from(small)),
        }
    }

    /// A number that says its own length, of something that is in memory.
    pub(crate) fn count(&mut self) -> Result<usize, &'static str> {
        usize::try_from(self.lenenc()?).map_err(|_| SHORT)
    }

    /// Bytes with their length in front.
    pub(crate) fn lenenc_bytes(&mut self) -> Result<&'a [u8], &'static str> {
        let len = self.count()?;
        self.take(len)
    }
}

/// At most eight bytes as a number, the lowest first.
#[inline]
pub(crate) fn little_endian(bytes: &[u8]) -> u64 {
    // A length that is known is one load, and these are what nearly all numbers have.
    match *bytes {
        [low] => u64::from(low),
        [low, high] => u64::from(u16::from_le_bytes([low, high])),
        [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)),
    }
}

/// At most eight bytes as a number, the highest first.
#[inline]
pub(crate) fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// A bit of a map whose bytes begin with their lowest bit; one behind its end is not set.
#[inline]
pub(crate) fn bit(map: &[u8], index: usize) -> bool {
    map.get(index / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_say_their_length_read_back_and_no_byte_behind_the_end_is_read() {
        let mut cursor = Cursor::new(&[250, 252, 1, 2, 253, 1, 2, 3, 254, 1, 0, 0, 0, 0, 0, 0, 0x80, 251]);
        let numbers = [250, 0x0201, 0x03_0201, 0x8000_0000_0000_0001];
        numbers.iter().for_each(|number| assert_eq!(cursor.lenenc(), Ok(*number)));
        assert!(cursor.lenenc().is_err(), "NULL is no length");
        assert_eq!(Cursor::new(&[2, 1]).lenenc_bytes(), Err(SHORT));
        assert_eq!(Cursor::new(&[254, 255, 255, 255, 255, 255, 255, 255, 255]).lenenc_bytes(), Err(SHORT));
        assert!(bit(&[0b10, 1], 1) && bit(&[0, 1], 8) && !bit(&[0b10], 0) && !bit(&[255], 8));
    }
}
