//! Little-endian reading and writing of our own small headers, with errors instead of panics.

use crate::SchemaError;

/// A length as our formats write it.
///
/// # Panics
/// On more than 4 GiB, which the limits of frames and rows rule out long before.
pub(crate) fn length(len: usize) -> u32 {
    u32::try_from(len).expect("frames and rows are limited far below 4 GiB")
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&length(bytes.len()).to_le_bytes());
    out.extend_from_slice(bytes);
}

pub(crate) fn put_str(out: &mut Vec<u8>, text: &str) {
    put_bytes(out, text.as_bytes());
}

/// A cursor over bytes from outside; every read is checked.
pub(crate) struct Reader<'a> {
    what: &'static str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, bytes, at: 0 }
    }

    pub(crate) fn malformed(&self, reason: String) -> SchemaError {
        SchemaError::Malformed { what: self.what, at: self.at, reason }
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], SchemaError> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let Some(end) = end else {
            return Err(self.malformed(format!("wanted {len} more bytes, {} are left", self.bytes.len() - self.at)));
        };
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], SchemaError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, SchemaError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u32(&mut self) -> Result<u32, SchemaError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, SchemaError> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], SchemaError> {
        let len = self.u32()? as usize;
        self.take(len)
    }

    pub(crate) fn str(&mut self) -> Result<&'a str, SchemaError> {
        let bytes = self.bytes()?;
        std::str::from_utf8(bytes).map_err(|error| self.malformed(error.to_string()))
    }
}
