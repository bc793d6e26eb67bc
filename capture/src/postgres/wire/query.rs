//! Simple queries and `COPY ... TO STDOUT`.

use std::ops::Range;
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use postgres_protocol::message::frontend;

use super::connection::{Connection, Fill};
use crate::CaptureError;

/// A server sends a copy in pieces of 8 KiB, and to be woken for each costs both sides more than to take many at a time.
const COALESCE: Duration = Duration::from_micros(200);
/// How long the server may take for a query: all of ours are small, and a lock that a change of a table holds goes by.
const QUERY_TIMEOUT: Duration = Duration::from_secs(60);

/// A row of a query: every column as the server's text.
#[derive(Debug, Clone)]
pub(crate) struct Row(pub(in crate::postgres) Vec<Option<String>>);

impl Row {
    /// Column `i`; empty where it is NULL or not there.
    pub(crate) fn text(&self, i: usize) -> &str {
        self.get(i).unwrap_or_default()
    }

    /// Column `i`, if it is not NULL.
    pub(crate) fn get(&self, i: usize) -> Option<&str> {
        self.0.get(i)?.as_deref()
    }

    /// Column `i` as a number or another type with a text form.
    pub(crate) fn parsed<T: FromStr>(&self, i: usize) -> Option<T> {
        self.get(i)?.parse().ok()
    }

    /// Column `i` as a Boolean.
    pub(crate) fn is_true(&self, i: usize) -> bool {
        self.get(i) == Some("t")
    }
}

/// A name as it stands in SQL.
pub(crate) fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as it stands in SQL, for any setting of `standard_conforming_strings`.
pub(crate) fn quote_literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!(" E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

impl Connection {
    /// Runs statements and gives the rows of all of them.
    pub(crate) fn query(&mut self, during: &'static str, sql: &str) -> Result<Vec<Row>, CaptureError> {
        self.within(QUERY_TIMEOUT, |connection| connection.command(during, sql))
    }

    /// As [`Connection::query`], for what may take any time: a new slot waits for every transaction that is open.
    pub(crate) fn command(&mut self, during: &'static str, sql: &str) -> Result<Vec<Row>, CaptureError> {
        self.ask(during, sql)?;
        let mut rows = Vec::new();
        loop {
            let packet = self.receive_in_command(during)?;
            match packet.tag {
                b'D' => {
                    let row = data_row(self.body(packet.body));
                    rows.push(row.ok_or_else(|| self.protocol(during, "a data row is cut short"))?);
                }
                b'T' | b'C' | b'I' => {}
                b'Z' => return Ok(rows),
                other => return Err(self.protocol(during, format!("message {:?} in a query", char::from(other)))),
            }
        }
    }

    /// Copies out; `take` gets the data as they come: whole rows.
    pub(crate) fn copy_out(
        &mut self,
        during: &'static str,
        sql: &str,
        mut take: impl FnMut(&[u8]) -> Result<(), CaptureError>,
    ) -> Result<(), CaptureError> {
        self.ask(during, sql)?;
        let mut has_begun = false;
        loop {
            if has_begun && !self.has_message() {
                thread::sleep(COALESCE);
            }
            let packet = self.receive_in_command(during)?;
            has_begun = true;
            match packet.tag {
                b'd' => take(self.body(packet.body))?,
                b'H' | b'c' | b'C' => {}
                b'Z' => return Ok(()),
                other => return Err(self.protocol(during, format!("message {:?} in a copy", char::from(other)))),
            }
        }
    }

    /// Starts a command that turns the session into a stream.
    pub(crate) fn start_stream(&mut self, during: &'static str, sql: &str) -> Result<(), CaptureError> {
        self.ask(during, sql)?;
        let packet = self.receive(during)?;
        if packet.tag == b'W' {
            return Ok(());
        }
        Err(self.protocol(during, format!("message {:?} where the stream should start", char::from(packet.tag))))
    }

    /// The next message of the stream that has arrived; its range is valid until the next read.
    pub(crate) fn next_of_stream(&mut self, during: &'static str) -> Result<Option<Range<usize>>, CaptureError> {
        match self.next(during)? {
            None => Ok(None),
            Some(packet) if packet.tag == b'd' => Ok(Some(packet.body)),
            // The server ends the stream when it shuts down.
            Some(packet) if matches!(packet.tag, b'c' | b'C' | b'Z') => {
                Err(self.lost(during, std::io::Error::other("the server ended the stream")))
            }
            Some(packet) => Err(self.protocol(during, format!("message {:?} in the stream", char::from(packet.tag)))),
        }
    }

    /// Ends the stream: says goodbye and reads until the server has said the same, so that it has taken every status
    /// update that was sent before.
    pub(crate) fn end_stream(&mut self, timeout: Duration) -> Result<(), CaptureError> {
        const DURING: &str = "ending the stream";
        let deadline = Instant::now() + timeout;
        frontend::copy_done(&mut self.out);
        self.send(DURING)?;
        loop {
            match self.next(DURING)? {
                Some(packet) if packet.tag == b'Z' => return Ok(()),
                Some(_) => {}
                None if Instant::now() > deadline => {
                    return Err(self.lost(DURING, std::io::ErrorKind::TimedOut.into()));
                }
                None if self.fill(DURING)? == Fill::Nothing => {
                    self.wait(DURING, Duration::from_millis(100))?;
                }
                None => {}
            }
        }
    }

    fn ask(&mut self, during: &'static str, sql: &str) -> Result<(), CaptureError> {
        frontend::query(sql, &mut self.out)
            .map_err(|_| self.protocol(during, "a name from the server or the configuration holds a zero byte"))?;
        self.send(during)
    }

    /// As [`Connection::receive`], but after an error of the server the session is ready for the next command.
    fn receive_in_command(&mut self, during: &'static str) -> Result<super::inbox::Packet, CaptureError> {
        let received = self.receive(during);
        if let Err(CaptureError::Server { .. }) = &received {
            // Where the session ended with the error, this read fails and the first error is the one that counts.
            while self.receive(during).is_ok_and(|packet| packet.tag != b'Z') {}
        }
        received
    }
}

/// Column count, then each column's length (-1 = NULL) and text.
fn data_row(body: &[u8]) -> Option<Row> {
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    let mut columns = Vec::with_capacity(usize::from(u16::from_be_bytes(*count)));
    for _ in 0..u16::from_be_bytes(*count) {
        let (len, tail) = rest.split_first_chunk::<4>()?;
        let Ok(len) = usize::try_from(i32::from_be_bytes(*len)) else {
            columns.push(None);
            rest = tail;
            continue;
        };
        let (text, tail) = tail.split_at_checked(len)?;
        columns.push(Some(String::from_utf8_lossy(text).into_owned()));
        rest = tail;
    }
    Some(Row(columns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_quotes_cannot_leave_their_quotes() {
        assert_eq!(quote_identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(quote_literal("o'hara"), "'o''hara'");
        assert_eq!(quote_literal("a\\'b"), " E'a\\\\''b'");
    }

    #[test]
    fn a_data_row_that_is_cut_short_is_no_row() {
        let whole = [0, 2, 0, 0, 0, 1, b'x', 0xff, 0xff, 0xff, 0xff];
        let row = data_row(&whole).expect("whole");
        assert_eq!((row.get(0), row.get(1)), (Some("x"), None));
        assert!((0..whole.len()).all(|len| data_row(&whole[..len]).is_none()));
    }
}
