//! The messages inside the log stream: data and keepalives from the server, status from us.

use bytes::{BufMut, BytesMut};

use crate::postgres::lsn::Lsn;

/// A message of the server in the log stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamMessage<'a> {
    /// One message of the output plugin.
    Data {
        /// Where in the log it stems from; zero for messages that have no place of their own.
        start: Lsn,
        /// The server's log end.
        end: Lsn,
        /// The plugin's message.
        payload: &'a [u8],
    },
    /// A sign of life.
    Keepalive {
        /// Everything before it has been sent.
        end: Lsn,
        /// Whether a status update is wanted at once.
        reply: bool,
    },
}

impl<'a> StreamMessage<'a> {
    /// Reads a message; the error says what is wrong with it.
    pub(crate) fn parse(body: &'a [u8]) -> Result<Self, String> {
        let (&tag, rest) = body.split_first().ok_or("an empty message")?;
        match tag {
            b'w' => {
                let (head, payload) = rest.split_first_chunk::<24>().ok_or("a data message is cut short")?;
                Ok(Self::Data { start: lsn(&head[..8]), end: lsn(&head[8..16]), payload })
            }
            b'k' => {
                let (head, _) = rest.split_first_chunk::<17>().ok_or("a keepalive is cut short")?;
                Ok(Self::Keepalive { end: lsn(&head[..8]), reply: head[16] == 1 })
            }
            other => Err(format!("stream message {:?} is not known", char::from(other))),
        }
    }
}

fn lsn(bytes: &[u8]) -> Lsn {
    Lsn(bytes.iter().fold(0, |value, &byte| value << 8 | u64::from(byte)))
}

/// Puts a status update: everything before `confirmed` is durable here and the server may forget it.
pub(crate) fn status_update(out: &mut BytesMut, confirmed: Lsn, now_us: i64, want_reply: bool) {
    /// 2000-01-01 in microseconds since 1970.
    const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;
    out.put_u8(b'd');
    out.put_i32(38);
    out.put_u8(b'r');
    for _written_flushed_applied in 0..3 {
        out.put_u64(confirmed.0);
    }
    out.put_i64(now_us - POSTGRES_EPOCH_US);
    out.put_u8(u8::from(want_reply));
}
