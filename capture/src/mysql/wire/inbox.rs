//! The receive buffer: packets are decoded in place, as borrowed slices.
//!
//! ```text
//! length u24 | sequence u8 | body        a body of 2^24 - 1 bytes goes on in the next packet
//! ```
//! Invariant: `start <= end <= buffer.len()`; `buffer[start..end]` is what has arrived and was not taken. A body's range
//! stays valid until the next call that makes room.

use std::ops::Range;

/// Large enough that a backlog arrives in few reads, small enough to stay in the cache of most processors.
const BUFFER_BYTES: usize = 1 << 20;
/// Room below which a read is not worth a system call.
const ROOM_BYTES_MIN: usize = 64 << 10;
/// The largest body that is taken: an event, or a row with values of this size altogether.
const BODY_BYTES_MAX: usize = 256 << 20;
const HEAD: usize = 4;
/// A body of this length goes on.
const FULL: usize = 0xff_ffff;

/// A body, and the number of its last packet.
#[derive(Debug, Clone)]
pub(super) struct Packet {
    pub(super) sequence: u8,
    pub(super) body: Range<usize>,
}

pub(super) struct Inbox {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

/// What is known of the packets of one body.
struct Found {
    /// Bytes with all heads, as far as heads have arrived.
    wire: usize,
    body: usize,
    sequence: u8,
    /// All of it has arrived.
    is_whole: bool,
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self { buffer: vec![0; BUFFER_BYTES], start: 0, end: 0 }
    }

    fn find(&self) -> Result<Option<Found>, String> {
        let arrived = &self.buffer[self.start..self.end];
        let mut found = Found { wire: 0, body: 0, sequence: 0, is_whole: false };
        while let Some([low, middle, high, sequence]) = arrived.get(found.wire..).and_then(|rest| rest.first_chunk()) {
            let len = usize::from(*low) | usize::from(*middle) << 8 | usize::from(*high) << 16;
            found.wire += HEAD + len;
            found.body += len;
            found.sequence = *sequence;
            if found.body > BODY_BYTES_MAX {
                return Err(format!(
                    "a message exceeds the limit of {BODY_BYTES_MAX} bytes; exclude the table that holds such rows"
                ));
            }
            if len < FULL {
                found.is_whole = arrived.len() >= found.wire;
                return Ok(Some(found));
            }
        }
        Ok((found.wire > 0).then_some(found))
    }

    /// Takes the next whole body; the error says why the bytes are none.
    pub(super) fn next(&mut self) -> Result<Option<Packet>, String> {
        let Some(found) = self.find()?.filter(|found| found.is_whole) else { return Ok(None) };
        let first = self.start + HEAD;
        // Heads in the middle are closed up.
        let mut at = FULL.min(found.body);
        while at < found.body {
            let len = FULL.min(found.body - at);
            let from = first + at + HEAD * (at / FULL);
            self.buffer.copy_within(from..from + len, first + at);
            at += len;
        }
        self.start += found.wire;
        Ok(Some(Packet { sequence: found.sequence, body: first..first + found.body }))
    }

    pub(super) fn body(&self, range: Range<usize>) -> &[u8] {
        &self.buffer[range]
    }

    /// Where the next bytes go, with room for the rest of the body that has begun.
    pub(super) fn room(&mut self) -> Result<&mut [u8], String> {
        let arrived = self.end - self.start;
        let begun = self.find()?.map_or(0, |found| found.wire + HEAD);
        if arrived == 0 && self.buffer.len() > BUFFER_BYTES {
            self.buffer = vec![0; BUFFER_BYTES];
            (self.start, self.end) = (0, 0);
        }
        let wanted = begun.max(arrived + ROOM_BYTES_MIN);
        if self.start + wanted > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, arrived);
            if wanted > self.buffer.len() {
                self.buffer.resize(wanted, 0);
            }
        }
        Ok(&mut self.buffer[self.end..])
    }

    /// Marks bytes in the room as arrived.
    pub(super) fn arrived(&mut self, len: usize) {
        self.end += len;
        assert!(self.end <= self.buffer.len(), "a read cannot exceed the room it was given");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(inbox: &mut Inbox, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = inbox.room().unwrap();
            let len = room.len().min(bytes.len());
            room[..len].copy_from_slice(&bytes[..len]);
            inbox.arrived(len);
            bytes = &bytes[len..];
        }
    }

    fn sent(body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut parts: Vec<&[u8]> = body.chunks(FULL).collect();
        if body.len().is_multiple_of(FULL) {
            parts.push(&[]);
        }
        for (sequence, part) in parts.iter().enumerate() {
            out.extend_from_slice(&u32::try_from(part.len()).unwrap().to_le_bytes()[..3]);
            out.push(u8::try_from(sequence).unwrap());
            out.extend_from_slice(part);
        }
        out
    }

    #[test]
    fn bodies_come_out_whole_however_they_arrive() {
        let mut inbox = Inbox::new();
        let bodies: Vec<Vec<u8>> = (0..200_u8).map(|i| vec![i; (usize::from(i) * 97) % 20_000]).collect();
        let all: Vec<u8> = bodies.iter().flat_map(|body| sent(body)).collect();
        let mut seen = 0;
        for piece in all.chunks(7_919) {
            put(&mut inbox, piece);
            while let Some(packet) = inbox.next().unwrap() {
                assert_eq!(inbox.body(packet.body), bodies[seen]);
                seen += 1;
            }
        }
        assert_eq!(seen, bodies.len());
    }

    #[test]
    fn a_body_of_several_packets_is_one() {
        for len in [FULL - 1, FULL, FULL + 1, 2 * FULL + 5] {
            let body: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
            let mut inbox = Inbox::new();
            let bytes = sent(&body);
            put(&mut inbox, &bytes[..bytes.len() - 1]);
            assert!(inbox.next().unwrap().is_none());
            put(&mut inbox, &bytes[bytes.len() - 1..]);
            put(&mut inbox, &sent(b"next"));
            let packet = inbox.next().unwrap().unwrap();
            assert_eq!(usize::from(packet.sequence), len / FULL);
            assert!(inbox.body(packet.body) == body, "{len}");
            let packet = inbox.next().unwrap().unwrap();
            assert_eq!(inbox.body(packet.body), b"next");
        }
    }
}
