//! On which line something stands. A line ends with LF, CR or CR LF, and a quoted cell may go over several.

/// Counts lines forwards, each byte once.
pub(super) struct Lines<'b> {
    bytes: &'b [u8],
    at: usize,
    line: usize,
}

impl<'b> Lines<'b> {
    pub(super) const fn new(bytes: &'b [u8]) -> Self {
        Self { bytes, at: 0, line: 1 }
    }

    /// The line of the record that begins at a byte or behind line ends that the byte begins; bytes only rise.
    pub(super) fn of(&mut self, byte: usize) -> usize {
        let ends = self.bytes[byte..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let start = byte + ends;
        for at in self.at..start {
            let next = self.bytes.get(at + 1);
            let ends = self.bytes[at] == b'\n' || (self.bytes[at] == b'\r' && next != Some(&b'\n'));
            self.line += usize::from(ends);
        }
        self.at = start.max(self.at);
        self.line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_line_end_counts_once() {
        let bytes = b"a\nb\r\nc\rd\n\n\"x\ny\"\nz";
        let mut lines = Lines::new(bytes);
        let places = [(0, 1), (1, 2), (3, 3), (6, 4), (8, 6), (15, 8)];
        for (byte, line) in places {
            assert_eq!(lines.of(byte), line, "at {byte}");
        }
    }
}
