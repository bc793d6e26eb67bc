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
use super::transport::{HANDSHAKE_TIMEOUT, Transport};
use crate::error::remedy_of_sqlstate;
use crate::postgres::config::{Host, PostgresConfig, Tls};
use crate::{CaptureError, StopSignal};

/// How often a wait looks at the stop signal.
const STOP_CHECK: Duration = Duration::from_millis(100);

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
}

impl Connection {
    /// Connects, protects and authenticates.
    pub(crate) fn open(config: &PostgresConfig, purpose: Purpose, stop: &StopSignal) -> Result<Self, CaptureError> {
        let transport = Transport::connect(config).map_err(|error| CaptureError::Unreachable {
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
        };
        if matches!((&config.tls, &config.host), (Tls::VerifyFull { .. }, Host::Tcp(_))) {
            connection.request_tls(config)?;
        }
        connection.start(config, purpose)?;
        auth::authenticate(&mut connection, config.password.as_ref())?;
        while connection.receive("starting the session")?.tag != b'Z' {}
        Ok(connection)
    }

    fn request_tls(&mut self, config: &PostgresConfig) -> Result<(), CaptureError> {
        const DURING: &str = "asking for tls";
        frontend::ssl_request(&mut self.out);
        self.send(DURING)?;
        // Exactly one byte: anything behind it was not sent by who will hold the certificate.
        let mut answer = [0];
        let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
        while self.transport.try_read(&mut answer).map_err(|error| self.lost(DURING, error))?.is_none() {
            self.wait_until(DURING, Some(deadline))?;
        }
        match answer[0] {
            b'S' => self.transport.start_tls(config),
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
            if self.fill(during)? == Fill::Nothing {
                self.wait_until(during, None)?;
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

    fn wait_until(&self, during: &'static str, deadline: Option<Instant>) -> Result<(), CaptureError> {
        while !self.wait(during, STOP_CHECK)? {
            if self.stop.is_stopped() {
                return Err(self.lost(during, io::Error::new(io::ErrorKind::Interrupted, "stopped")));
            }
            if deadline.is_some_and(|deadline| Instant::now() > deadline) {
                return Err(self.lost(during, io::Error::new(io::ErrorKind::TimedOut, "the server did not answer")));
            }
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
    let remedy = remedy_of_sqlstate(&sqlstate);
    CaptureError::Server { source_id: source.clone(), during: during.to_owned(), sqlstate, message, remedy }
}
