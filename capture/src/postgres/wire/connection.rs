//! One session with the server: start-up, then messages one at a time.
//!
//! Everything that shapes the text of a value is fixed at start-up, so that a query, a copy and the log stream print
//! one value the same way whatever the role's or the database's defaults are.

use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use syncline_schemas::ident::SourceId;

use super::auth;
use super::inbox::{Inbox, Packet};
use crate::error::remedy_of_sqlstate;
use crate::postgres::config::PostgresConfig;
use crate::transport::Transport;
use crate::{CaptureError, StopSignal};

/// How often a wait looks at the stop signal.
const STOP_CHECK: Duration = Duration::from_millis(100);
/// How long a connected server may take to open a session.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Settings of every session. The time-outs are off because a copy and an exported snapshot outlast them by design.
const SESSION: [(&str, &str); 10] = [
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, YMD"),
    ("TimeZone", "UTC"),
    ("IntervalStyle", "postgres"),
    ("extra_float_digits", "1"),
    ("bytea_output", "hex"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("application_name", "syncline"),
];

/// Time-outs of a session that older servers do not have, and refuse at the start.
const NEWER_TIMEOUTS: &str = "SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings \
                              WHERE name IN ('transaction_timeout', 'idle_session_timeout')";

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Queries and copies.
    Query,
    /// Replication commands and the log stream.
    Replication,
}

/// What a read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fill {
    /// So many bytes.
    Bytes(usize),
    /// Nothing has arrived.
    Nothing,
}

/// A session with the server.
pub(crate) struct Connection {
    pub(super) source: SourceId,
    pub(super) user: String,
    transport: Transport,
    inbox: Inbox,
    pub(super) out: BytesMut,
    stop: StopSignal,
    /// When the answer that is waited for comes too late.
    deadline: Option<Instant>,
}

impl Connection {
    /// Connects, protects and authenticates.
    pub(crate) fn open(config: &PostgresConfig, purpose: Purpose, stop: &StopSignal) -> Result<Self, CaptureError> {
        Self::open_within(START_TIMEOUT, config, purpose, stop)
    }

    fn open_within(
        timeout: Duration,
        config: &PostgresConfig,
        purpose: Purpose,
        stop: &StopSignal,
    ) -> Result<Self, CaptureError> {
        let transport = Transport::connect(&config.endpoint()).map_err(|error| CaptureError::Unreachable {
            source_id: config.source.clone(),
            address: config.address(),
            error,
        })?;
        let mut connection = Self {
            source: config.source.clone(),
            user: config.user.clone(),
            transport,
            inbox: Inbox::new(),
            out: BytesMut::new(),
            stop: stop.clone(),
            deadline: None,
        };
        connection.within(timeout, |connection| {
            if config.endpoint().wants_tls() {
                connection.request_tls(config, Instant::now() + timeout)?;
            }
            connection.start(config, purpose)?;
            auth::authenticate(connection, config.password.as_ref())?;
            while connection.receive("starting the session")?.tag != b'Z' {}
            connection.command("starting the session", NEWER_TIMEOUTS).map(drop)
        })?;
        Ok(connection)
    }

    /// Does something that has to be answered in time. Where it was not, the session is of no use any more.
    pub(crate) fn within<T>(
        &mut self,
        timeout: Duration,
        ask: impl FnOnce(&mut Self) -> Result<T, CaptureError>,
    ) -> Result<T, CaptureError> {
        let (outer, own) = (self.deadline, Instant::now() + timeout);
        self.deadline = Some(outer.map_or(own, |outer| outer.min(own)));
        let answered = ask(self);
        self.deadline = outer;
        answered
    }

    fn request_tls(&mut self, config: &PostgresConfig, deadline: Instant) -> Result<(), CaptureError> {
        const DURING: &str = "asking for tls";
        frontend::ssl_request(&mut self.out);
        self.send(DURING)?;
        // Exactly one byte: anything behind it was not sent by who will hold the certificate.
        let mut answer = [0];
        while self.transport.try_read(&mut answer).map_err(|error| self.lost(DURING, error))?.is_none() {
            self.wait_for_answer(DURING)?;
        }
        match answer[0] {
            b'S' => self.transport.start_tls(&config.endpoint(), deadline),
            _ => Err(CaptureError::Tls {
                source_id: self.source.clone(),
                address: config.address(),
                reason: "the server has no tls; set ssl = on there, or sslmode=disable in the url".to_owned(),
            }),
        }
    }

    fn start(&mut self, config: &PostgresConfig, purpose: Purpose) -> Result<(), CaptureError> {
        let mut parameters = vec![("user", config.user.as_str()), ("database", config.database.as_str())];
        if purpose == Purpose::Replication {
            parameters.push(("replication", "database"));
        }
        parameters.extend(SESSION);
        frontend::startup_message(parameters, &mut self.out).map_err(|error| CaptureError::Config {
            source_id: self.source.clone(),
            place: "url".to_owned(),
            reason: format!("user or database: {error}"),
        })?;
        self.send("starting the session")
    }

    pub(super) const fn is_protected(&self) -> bool {
        self.transport.is_protected()
    }

    pub(crate) const fn source(&self) -> &SourceId {
        &self.source
    }

    /// Where an outgoing message is put together before [`Connection::send`].
    pub(crate) const fn outbox(&mut self) -> &mut BytesMut {
        &mut self.out
    }

    /// Sends what is in the outbox.
    pub(crate) fn send(&mut self, during: &'static str) -> Result<(), CaptureError> {
        let sent = self.transport.write_all(&self.out);
        self.out.clear();
        sent.map_err(|error| self.lost(during, error))
    }

    /// Waits for the next message that is not about the session itself.
    ///
    /// An error of the server is returned as such. Where one ends a command and not the session, the caller that goes
    /// on must read up to the next `Z` first.
    pub(super) fn receive(&mut self, during: &'static str) -> Result<Packet, CaptureError> {
        loop {
            if let Some(packet) = self.next(during)? {
                return Ok(packet);
            }
            self.ensure_in_time(during)?;
            if self.fill(during)? == Fill::Nothing {
                self.wait_for_answer(during)?;
            }
        }
    }

    /// Takes the next message out of what has arrived.
    pub(super) fn next(&mut self, during: &'static str) -> Result<Option<Packet>, CaptureError> {
        loop {
            let packet = self.inbox.next().map_err(|reason| self.protocol(during, reason))?;
            match packet.as_ref().map(|packet| packet.tag) {
                // Notices and settings that changed.
                Some(b'N' | b'S' | b'K') => {}
                Some(b'E') => {
                    let body = packet.map_or(0..0, |packet| packet.body);
                    return Err(server_error(&self.source, during, self.inbox.body(body)));
                }
                _ => return Ok(packet),
            }
        }
    }

    /// Whether a whole message has arrived.
    pub(super) fn has_message(&self) -> bool {
        self.inbox.has_message()
    }

    pub(crate) fn body(&self, range: Range<usize>) -> &[u8] {
        self.inbox.body(range)
    }

    /// Reads what has arrived, without waiting.
    pub(crate) fn fill(&mut self, during: &'static str) -> Result<Fill, CaptureError> {
        let room = match self.inbox.room() {
            Ok(room) => room,
            Err(reason) => return Err(self.protocol(during, reason)),
        };
        match self.transport.try_read(room) {
            Ok(Some(len)) => {
                self.inbox.arrived(len);
                Ok(Fill::Bytes(len))
            }
            Ok(None) => Ok(Fill::Nothing),
            Err(error) => Err(self.lost(during, error)),
        }
    }

    /// Waits for something to read, at most so long.
    pub(crate) fn wait(&self, during: &'static str, timeout: Duration) -> Result<bool, CaptureError> {
        self.transport.wait(timeout).map_err(|error| self.lost(during, error))
    }

    fn wait_for_answer(&self, during: &'static str) -> Result<(), CaptureError> {
        while !self.wait(during, STOP_CHECK)? {
            if self.stop.is_stopped() {
                return Err(self.lost(during, io::Error::new(io::ErrorKind::Interrupted, "stopped")));
            }
            self.ensure_in_time(during)?;
        }
        Ok(())
    }

    fn ensure_in_time(&self, during: &'static str) -> Result<(), CaptureError> {
        if self.deadline.is_some_and(|deadline| Instant::now() > deadline) {
            let error = io::Error::new(io::ErrorKind::TimedOut, "the server did not answer in time");
            return Err(self.lost(during, error));
        }
        Ok(())
    }

    pub(crate) fn lost(&self, during: &'static str, error: io::Error) -> CaptureError {
        CaptureError::Lost { source_id: self.source.clone(), during, error }
    }

    pub(crate) fn protocol(&self, at: impl Into<String>, reason: impl Into<String>) -> CaptureError {
        CaptureError::Protocol { source_id: self.source.clone(), at: at.into(), reason: reason.into() }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.out.clear();
        frontend::terminate(&mut self.out);
        // The server notices the closed socket all the same.
        let _ = self.transport.write_all(&self.out);
    }
}

/// The fields of an `ErrorResponse`: a type byte and a text each, closed by a zero byte.
///
/// Messages about data (class 22) and constraints (class 23) quote it, so of those only the code is kept.
fn server_error(source: &SourceId, during: &str, body: &[u8]) -> CaptureError {
    let (mut sqlstate, mut message) = (String::new(), String::new());
    let mut rest = body;
    while let Some((&kind, tail)) = rest.split_first() {
        let Some(end) = tail.iter().position(|&byte| byte == 0) else { break };
        let text = String::from_utf8_lossy(&tail[..end]);
        match kind {
            b'C' => sqlstate = text.into_owned(),
            b'M' => message = text.into_owned(),
            _ => {}
        }
        rest = &tail[end + 1..];
    }
    if sqlstate.starts_with("22") || sqlstate.starts_with("23") {
        "not shown, because it may hold a row's value; the server's own log has it".clone_into(&mut message);
    }
    let remedy = remedy_of_sqlstate(&sqlstate);
    CaptureError::Server { source_id: source.clone(), during: during.to_owned(), sqlstate, message, remedy }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;
    use crate::postgres::config::{Columns, Host, LogGap, Mapped, SnapshotMode, SpecialValues, Tls};
    use crate::postgres::pattern::TablePatterns;

    /// A server that sends this to whoever connects, and nothing after it.
    fn falls_silent_after(greeting: &'static [u8]) -> PostgresConfig {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        std::thread::spawn(move || {
            let (mut client, _) = listener.accept().expect("a client");
            client.write_all(greeting).expect("it listens");
            // Reads until the client has given up.
            let _ = client.read_to_end(&mut Vec::new());
        });
        PostgresConfig {
            source: SourceId::new("erp"),
            host: Host::Tcp("127.0.0.1".to_owned()),
            port,
            database: "d".to_owned(),
            user: "u".to_owned(),
            password: None,
            tls: Tls::Disable,
            tables: TablePatterns::parse(&["*.*"]).expect("a pattern"),
            mapped: Mapped::default(),
            columns: Columns::All,
            slot: "s".to_owned(),
            publication: "p".to_owned(),
            snapshot: SnapshotMode::Initial,
            copy_workers: 1,
            drain_to: None,
            truncate: crate::postgres::config::Truncates::Apply,
            messages: None,
            special_values: SpecialValues::Stop,
            keys: std::collections::BTreeMap::new(),
            slot_warn: u64::MAX,
            slot_max: None,
            log_gap: LogGap::Repair,
            spool: None,
        }
    }

    fn is_late(error: &CaptureError) -> bool {
        matches!(error, CaptureError::Lost { error, .. } if error.kind() == io::ErrorKind::TimedOut)
    }

    #[test]
    fn a_server_that_falls_silent_before_or_after_the_start_is_given_up() {
        let (soon, stop) = (Duration::from_millis(50), StopSignal::default());
        let silent = falls_silent_after(b"");
        let error = Connection::open_within(soon, &silent, Purpose::Query, &stop).err().expect("it never answers");
        assert!(is_late(&error), "{error}");

        let greets = falls_silent_after(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05IZ\0\0\0\x05I");
        let mut connection = Connection::open(&greets, Purpose::Query, &stop).expect("it greets");
        let error = connection.within(soon, |connection| connection.receive("waiting")).expect_err("it is silent");
        assert!(is_late(&error), "{error}");
    }
}
