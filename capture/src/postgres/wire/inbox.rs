//! The receive buffer: messages are decoded in place, as borrowed slices.
//!
//! Invariant: `start <= end <= buffer.len()`; `buffer[start..end]` is what has arrived and was not taken. A packet's
//! range stays valid until the next call that makes room.

use std::ops::Range;

use postgres_protocol::message::backend::Header;

/// Large enough that a backlog arrives in few reads, small enough to stay in the cache of most processors.
const BUFFER_BYTES: usize = 1 << 20;
/// Room below which a read is not worth a system call.
const ROOM_BYTES_MIN: usize = 64 << 10;
/// The largest message that is taken: a row with values of this size altogether.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// A message's tag and where its body lies.
#[derive(Debug, Clone)]
pub(super) struct Packet {
    pub(super) tag: u8,
    pub(super) body: Range<usize>,
}

pub(super) struct Inbox {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self { buffer: vec![0; BUFFER_BYTES], start: 0, end: 0 }
    }

    /// Takes the next whole message; the error says why the bytes are none.
    pub(super) fn next(&mut self) -> Result<Option<Packet>, String> {
        let arrived = &self.buffer[self.start..self.end];
        let Some(header) = Header::parse(arrived).map_err(|error| error.to_string())? else { return Ok(None) };
        let len = message_len(header)?;
        if arrived.len() < len {
            return Ok(None);
        }
        let packet = Packet { tag: header.tag(), body: self.start + 5..self.start + len };
        self.start += len;
        Ok(Some(packet))
    }

    /// Whether a whole message, or what is none, waits to be taken.
    pub(super) fn has_message(&self) -> bool {
        let arrived = &self.buffer[self.start..self.end];
        match Header::parse(arrived) {
            Ok(Some(header)) => message_len(header).is_ok_and(|len| arrived.len() >= len),
            Ok(None) => false,
            Err(_) => true,
        }
    }

    pub(super) fn body(&self, range: Range<usize>) -> &[u8] {
        &self.buffer[range]
    }

    /// Where the next bytes go, with room for the rest of the message that has begun.
    pub(super) fn room(&mut self) -> Result<&mut [u8], String> {
        let arrived = self.end - self.start;
        let begun = match Header::parse(&self.buffer[self.start..self.end]).map_err(|error| error.to_string())? {
            Some(header) => message_len(header)?,
            None => 0,
        };
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

fn message_len(header: Header) -> Result<usize, String> {
    let len = usize::try_from(header.len()).map_or(usize::MAX, |len| len + 1);
    if len > MESSAGE_BYTES_MAX {
        return Err(format!(
            "a message of {} bytes exceeds the limit of {MESSAGE_BYTES_MAX}; exclude the table that holds such rows",
            header.len()
        ));
    }
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(inbox: &mut Inbox, bytes: &[u8]) {
        let room = inbox.room().expect("room");
        room[..bytes.len()].copy_from_slice(bytes);
        inbox.arrived(bytes.len());
    }

    #[test]
    fn messages_come_out_whole_however_they_arrive() {
        let mut inbox = Inbox::new();
        let mut sent = Vec::new();
        for i in 0..200_u8 {
            let body = vec![i; (usize::from(i) * 97) % 20_000];
            sent.push(b'd');
            sent.extend_from_slice(&(u32::try_from(body.len()).expect("small") + 4).to_be_bytes());
            sent.extend_from_slice(&body);
        }
        let mut seen = 0_u8;
        for piece in sent.chunks(7_919) {
            put(&mut inbox, piece);
            while let Some(packet) = inbox.next().expect("well formed") {
                assert_eq!(inbox.body(packet.body), vec![seen; (usize::from(seen) * 97) % 20_000]);
                seen += 1;
            }
        }
        assert_eq!(seen, 200);
    }

    #[test]
    fn a_large_message_grows_the_buffer_once_and_a_huge_one_is_refused() {
        let mut inbox = Inbox::new();
        put(&mut inbox, &[b'd', 0, 0x40, 0, 0]);
        assert!(inbox.room().expect("4 MiB is allowed").len() >= (4 << 20) - 4);
        let mut inbox = Inbox::new();
        put(&mut inbox, &[b'd', 0x7f, 0xff, 0xff, 0xff]);
        assert!(inbox.next().is_err());
        let mut inbox = Inbox::new();
        put(&mut inbox, &[b'd', 0, 0, 0, 3]);
        assert!(inbox.next().is_err(), "a length below its own size");
    }
}
