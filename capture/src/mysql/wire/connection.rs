//! One session with the server: start-up, then packets one at a time, and queries.
//!
//! Everything that shapes the text of a value is fixed at start-up, so that a copy prints one value the same way
//! whatever the user's or the server's defaults are.

use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use syncline_schemas::ident::SourceId;
use syncline_schemas::secret::Secret;

use super::auth::{Method, sealed};
use super::greeting::{Greeting, capability, put_head, put_login, text};
use super::inbox::{Inbox, Packet};
use crate::endpoint::Endpoint;
use crate::mysql::bytes::Cursor;
use crate::mysql::row::{Cell, RowView};
use crate::transport::Transport;
use crate::{CaptureError, StopSignal};

/// How often a wait looks at the stop signal.
const STOP_CHECK: Duration = Duration::from_millis(100);
/// How long a connected server may take to open a session.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the server may take for a query: all of ours are small.
const QUERY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long it may take until the first row of a copy comes, and then from one to the next.
const READ_TIMEOUT: Duration = Duration::from_secs(600);
const STARTING: &str = "starting the session";

/// Settings of every session: text in UTF-8, moments in UTC, names as they are, and no patience of the server's with a
/// stream that is silent because we are busy.
const SESSION: &str = "SET NAMES utf8mb4, time_zone = '+00:00', sql_mode = 'NO_BACKSLASH_ESCAPES', \
                       net_write_timeout = 3600, wait_timeout = 28800, sql_select_limit = 18446744073709551615";

/// Who connects where.
pub(crate) struct Login<'c> {
    pub(crate) endpoint: Endpoint<'c>,
    pub(crate) user: &'c str,
    pub(crate) password: Option<&'c Secret>,
}

/// A row of a query: every column as the server's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row(Vec<Option<String>>);

impl Row {
    /// Column `i`, if it is not NULL.
    pub(crate) fn get(&self, i: usize) -> Option<&str> {
        self.0.get(i)?.as_deref()
    }

    /// Column `i`; empty where it is NULL or not there.
    pub(crate) fn text(&self, i: usize) -> &str {
        self.get(i).unwrap_or_default()
    }
}

/// A session with the server.
pub(crate) struct Connection {
    source: SourceId,
    pub(super) transport: Transport,
    pub(super) inbox: Inbox,
    out: Vec<u8>,
    stop: StopSignal,
    /// When the answer that is waited for comes too late.
    deadline: Option<Instant>,
    version: String,
}

impl Connection {
    /// Connects, protects and authenticates.
    pub(crate) fn open(login: &Login<'_>, stop: &StopSignal) -> Result<Self, CaptureError> {
        let endpoint = &login.endpoint;
        let transport = Transport::connect(endpoint).map_err(|error| CaptureError::Unreachable {
            source_id: endpoint.source.clone(),
            address: endpoint.address(),
            error,
        })?;
        let mut connection = Self {
            source: endpoint.source.clone(),
            transport,
            inbox: Inbox::new(),
            out: Vec::new(),
            stop: stop.clone(),
            deadline: Some(Instant::now() + START_TIMEOUT),
            version: String::new(),
        };
        connection.start(login)?;
        connection.deadline = None;
        connection.query(STARTING, SESSION)?;
        let without_limit =
            if connection.version.contains("MariaDB") { "max_statement_time" } else { "max_execution_time" };
        connection.query(STARTING, &format!("SET SESSION {without_limit} = 0"))?;
        Ok(connection)
    }

    /// What the server calls itself: `10.11.19-MariaDB-...`, `9.7.0`.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    fn start(&mut self, login: &Login<'_>) -> Result<(), CaptureError> {
        let packet = self.receive(STARTING)?;
        let greeting = Greeting::parse(self.body(packet.body)).map_err(|reason| self.protocol(STARTING, reason))?;
        self.version.clone_from(&greeting.version);
        let mut sequence = packet.sequence.wrapping_add(1);
        let mut capabilities = capability::OURS;
        if login.endpoint.wants_tls() {
            if greeting.capabilities & capability::TLS == 0 {
                return Err(CaptureError::Tls {
                    source_id: self.source.clone(),
                    address: login.endpoint.address(),
                    reason: "the server has no tls; give it a certificate, or write sslmode=disable in the url"
                        .to_owned(),
                });
            }
            capabilities |= capability::TLS;
            let mut body = Vec::new();
            put_head(&mut body, capabilities);
            self.send(sequence, &body, STARTING)?;
            let deadline = self.deadline.unwrap_or_else(Instant::now);
            self.transport.start_tls(&login.endpoint, deadline)?;
            sequence = sequence.wrapping_add(1);
        }
        let password = login.password.map_or("", |password| password.reveal());
        // Of a method that nobody knows the server is told at once that another one would do.
        let method =
            Method::of(&greeting.plugin).filter(|method| *method != Method::ClearText).unwrap_or(Method::Native);
        let mut body = Vec::new();
        put_head(&mut body, capabilities);
        put_login(&mut body, login.user, &method.proof(password, &greeting.challenge), method.plugin());
        self.send(sequence, &body, STARTING)?;
        self.authenticate(login, method, greeting.challenge)
    }

    fn authenticate(&mut self, login: &Login<'_>, method: Method, challenge: Vec<u8>) -> Result<(), CaptureError> {
        let (mut method, mut challenge) = (method, challenge);
        let password = login.password.map_or("", |password| password.reveal());
        loop {
            let packet = self.receive(STARTING)?;
            let reply = packet.sequence.wrapping_add(1);
            let body = self.body(packet.body).to_vec();
            match body.as_slice() {
                [0, ..] => return Ok(()),
                // Another method, with a challenge of its own.
                [254, rest @ ..] => {
                    let mut cursor = Cursor::new(rest);
                    let plugin = text(&mut cursor).map_err(|reason| self.protocol(STARTING, reason))?;
                    method = Method::of(&plugin).ok_or_else(|| self.refuse(login, unknown_method(&plugin)))?;
                    challenge = cursor.rest().to_vec();
                    challenge.truncate(20);
                    if method == Method::ClearText && !self.transport.is_protected() {
                        let reason = "the server wants the password in clear text over a connection that anybody can \
                                      read; write sslmode=verify-full in the url";
                        return Err(self.refuse(login, reason.to_owned()));
                    }
                    let proof = method.proof(password, &challenge);
                    self.send(reply, &proof, STARTING)?;
                }
                // The server knows the proof.
                [1, 3] if method == Method::CachingSha2 => {}
                // It does not, and wants the password.
                [1, 4] if method == Method::CachingSha2 && self.transport.is_protected() => {
                    self.send(reply, &Method::ClearText.proof(password, &[]), STARTING)?;
                }
                [1, 4] if method == Method::CachingSha2 => self.send(reply, &[2], STARTING)?,
                [1, key @ ..] if method == Method::CachingSha2 => {
                    let sealed =
                        sealed(password, &challenge, key).map_err(|reason| self.refuse(login, reason.to_owned()))?;
                    self.send(reply, &sealed, STARTING)?;
                }
                _ => return Err(self.protocol(STARTING, "the server goes on in a way that is not known")),
            }
        }
    }

    fn refuse(&self, login: &Login<'_>, reason: String) -> CaptureError {
        CaptureError::Authentication { source_id: self.source.clone(), user: login.user.to_owned(), reason }
    }

    /// Runs a statement of a copy: `each` gets its rows one by one, as they arrive, each with so many columns.
    pub(crate) fn each_row(
        &mut self,
        during: &'static str,
        sql: &str,
        columns: usize,
        mut each: impl FnMut(RowView<'_>) -> Result<(), CaptureError>,
    ) -> Result<(), CaptureError> {
        self.deadline = Some(Instant::now() + READ_TIMEOUT);
        let told = self.start_query(during, sql)?;
        if told != columns {
            return Err(self.protocol(during, "the server answers with another number of columns"));
        }
        let mut cells = Vec::with_capacity(columns);
        while let Some(packet) = self.next_row(during)? {
            let bytes = self.inbox.body(packet.body);
            find_cells(bytes, columns, &mut cells).map_err(|reason| self.protocol(during, reason))?;
            each(RowView { cells: &cells, bytes })?;
            self.deadline = Some(Instant::now() + READ_TIMEOUT);
        }
        self.deadline = None;
        Ok(())
    }

    /// Waits a moment for what no message tells of.
    pub(crate) fn pause(&self, during: &'static str) -> Result<(), CaptureError> {
        const MOMENT: Duration = Duration::from_millis(1);
        self.wait(during, MOMENT).map(drop)
    }

    /// Runs a statement and gives its rows.
    pub(crate) fn query(&mut self, during: &'static str, sql: &str) -> Result<Vec<Row>, CaptureError> {
        self.deadline = Some(Instant::now() + QUERY_TIMEOUT);
        let answered = self.ask(during, sql);
        self.deadline = None;
        answered
    }

    fn ask(&mut self, during: &'static str, sql: &str) -> Result<Vec<Row>, CaptureError> {
        let columns = self.start_query(during, sql)?;
        let mut rows = Vec::new();
        if columns > 0 {
            while let Some(packet) = self.next_row(during)? {
                rows.push(row(self.body(packet.body), columns).map_err(|reason| self.protocol(during, reason))?);
            }
        }
        Ok(rows)
    }

    /// Waits for the first body of what may take the server long to look for.
    pub(super) fn receive_first(&mut self, during: &'static str) -> Result<Packet, CaptureError> {
        self.deadline = Some(Instant::now() + READ_TIMEOUT);
        let packet = self.receive(during);
        self.deadline = None;
        packet
    }

    /// Sends a statement; gives how many columns its rows have, and none where there are no rows.
    fn start_query(&mut self, during: &'static str, sql: &str) -> Result<usize, CaptureError> {
        const QUERY: u8 = 3;
        self.send(0, &[&[QUERY], sql.as_bytes()].concat(), during)?;
        let packet = self.receive(during)?;
        let columns = match self.body(packet.body) {
            [0, ..] => return Ok(0),
            [251, ..] => return Err(self.protocol(during, "the server asks for a file")),
            body => Cursor::new(body).count().map_err(|reason| self.protocol(during, reason))?,
        };
        for _ in 0..columns {
            self.receive(during)?;
        }
        // One end stands behind the columns, one behind the rows.
        match self.next_row(during)? {
            None => Ok(columns),
            Some(_) => Err(self.protocol(during, "a row comes before the end of the columns")),
        }
    }

    /// The next row, if there is one.
    fn next_row(&mut self, during: &'static str) -> Result<Option<Packet>, CaptureError> {
        let packet = self.receive(during)?;
        let is_end = matches!(self.body(packet.body.clone()), [254, rest @ ..] if rest.len() < 8);
        Ok((!is_end).then_some(packet))
    }

    /// Sends a body as packets.
    pub(super) fn send(&mut self, sequence: u8, body: &[u8], during: &'static str) -> Result<(), CaptureError> {
        const FULL: usize = 0xff_ffff;
        self.out.clear();
        let mut sequence = sequence;
        let mut rest = body;
        loop {
            let (part, behind) = rest.split_at(rest.len().min(FULL));
            let len = u32::try_from(part.len()).expect("a part has 24 bits").to_le_bytes();
            self.out.extend_from_slice(&[len[0], len[1], len[2], sequence]);
            self.out.extend_from_slice(part);
            (rest, sequence) = (behind, sequence.wrapping_add(1));
            if part.len() < FULL {
                break;
            }
        }
        self.transport.write_all(&self.out).map_err(|error| self.lost(during, error))
    }

    /// Waits for the next body. An error of the server is returned as such.
    pub(super) fn receive(&mut self, during: &'static str) -> Result<Packet, CaptureError> {
        loop {
            if let Some(packet) = self.next(during)? {
                return Ok(packet);
            }
            if self.fill(during)?.is_none() {
                self.wait_for_answer(during)?;
            }
        }
    }

    /// Takes the next body out of what has arrived.
    pub(super) fn next(&mut self, during: &'static str) -> Result<Option<Packet>, CaptureError> {
        let packet = self.inbox.next().map_err(|reason| self.protocol(during, reason))?;
        if let Some(packet) = &packet
            && let Some((255, error)) = self.inbox.body(packet.body.clone()).split_first()
        {
            return Err(self.server_error(during, error));
        }
        Ok(packet)
    }

    pub(super) fn body(&self, range: Range<usize>) -> &[u8] {
        self.inbox.body(range)
    }

    /// Reads what has arrived, without waiting; gives how many bytes that were, if any.
    pub(super) fn fill(&mut self, during: &'static str) -> Result<Option<usize>, CaptureError> {
        let room = match self.inbox.room() {
            Ok(room) => room,
            Err(reason) => return Err(self.protocol(during, reason)),
        };
        let read = self.transport.try_read(room).map_err(|error| self.lost(during, error))?;
        if let Some(len) = read {
            self.inbox.arrived(len);
        }
        Ok(read)
    }

    /// Waits for something to read, at most so long.
    pub(super) fn wait(&self, during: &'static str, timeout: Duration) -> Result<bool, CaptureError> {
        self.transport.wait(timeout).map_err(|error| self.lost(during, error))
    }

    fn wait_for_answer(&self, during: &'static str) -> Result<(), CaptureError> {
        while !self.wait(during, STOP_CHECK)? {
            if self.stop.is_stopped() {
                return Err(self.lost(during, io::Error::new(io::ErrorKind::Interrupted, "stopped")));
            }
            if self.deadline.is_some_and(|deadline| Instant::now() > deadline) {
                let error = io::Error::new(io::ErrorKind::TimedOut, "the server did not answer in time");
                return Err(self.lost(during, error));
            }
        }
        Ok(())
    }

    /// `code u16 | # | state 5 | message`; before the session has begun without the state.
    fn server_error(&self, during: &'static str, body: &[u8]) -> CaptureError {
        let (code, rest) =
            body.split_first_chunk::<2>().map_or((0, body), |(code, rest)| (u16::from_le_bytes(*code), rest));
        let (state, text) = match rest.split_first_chunk::<6>() {
            Some(([b'#', state @ ..], rest)) => (String::from_utf8_lossy(state).into_owned(), rest),
            _ => ("HY000".to_owned(), rest),
        };
        let mut message = format!("error {code}: {}", String::from_utf8_lossy(text));
        if is_weather(code) {
            return self.lost(during, io::Error::other(message));
        }
        if state.starts_with("22") || state.starts_with("23") {
            message = format!("error {code}, not shown, because it may hold a row's value");
        }
        CaptureError::Server {
            source_id: self.source.clone(),
            during: during.to_owned(),
            sqlstate: state,
            remedy: remedy(code, &message),
            message,
        }
    }

    pub(super) fn lost(&self, during: &'static str, error: io::Error) -> CaptureError {
        CaptureError::Lost { source_id: self.source.clone(), during, error }
    }

    pub(crate) fn protocol(&self, at: &str, reason: impl Into<String>) -> CaptureError {
        CaptureError::Protocol { source_id: self.source.clone(), at: at.to_owned(), reason: reason.into() }
    }
}

fn unknown_method(plugin: &str) -> String {
    format!(
        "the server wants {plugin}, which this version does not know; check the user name, as MySQL asks so of users that are \
         not there, or give the user mysql_native_password (MariaDB) or caching_sha2_password (MySQL)"
    )
}

/// What passes by itself: too many connections, a shutdown, a broken network, locks, somebody who ended the session, a table
/// that was changed since a transaction began, a limit of time.
const fn is_weather(code: u16) -> bool {
    matches!(
        code,
        1040 | 1053 | 1077 | 1079 | 1152
            ..=1161 | 1184 | 1203 | 1205 | 1213 | 1226 | 1317 | 1412 | 1969 | 3024 | 1927 | 4031
    )
}

fn remedy(code: u16, message: &str) -> Option<&'static str> {
    Some(match code {
        1045 => "check the user name, the password setting and the host that the user may connect from",
        1130 => "let the user connect from this host: CREATE USER 'name'@'host'",
        1142 | 1143 | 1227 | 1044 => {
            "GRANT SELECT, REPLICATION SLAVE, REPLICATION CLIENT to the user (MariaDB: BINLOG MONITOR)"
        }
        // Of one number it lets the newer session live, whatever its own words for the two are.
        1236 | 4052 if message.contains("server_uuid/server_id") => {
            "another reader or a replica has the same number: set server_id of the source to one that nobody has"
        }
        1236 => {
            "the server no longer has what follows: have `syncline replay --reread` copy the tables again, and keep the log longer"
        }
        _ => return None,
    })
}

fn row(body: &[u8], columns: usize) -> Result<Row, &'static str> {
    let mut cursor = Cursor::new(body);
    let mut values = Vec::with_capacity(columns);
    for _ in 0..columns {
        if cursor.rest().first() == Some(&251) {
            cursor.u8()?;
            values.push(None);
        } else {
            values.push(Some(String::from_utf8_lossy(cursor.lenenc_bytes()?).into_owned()));
        }
    }
    if cursor.is_at_end() { Ok(Row(values)) } else { Err("a row has more values than columns") }
}

/// Finds the values of a row among its bytes.
fn find_cells(body: &[u8], columns: usize, cells: &mut Vec<Cell>) -> Result<(), &'static str> {
    let mut cursor = Cursor::new(body);
    cells.clear();
    for _ in 0..columns {
        if cursor.rest().first() == Some(&251) {
            cursor.u8()?;
            cells.push(Cell::Null);
        } else {
            let len = cursor.lenenc_bytes()?.len();
            let end = body.len() - cursor.rest().len();
            cells.push(Cell::Value { start: end - len, end });
        }
    }
    if cursor.is_at_end() { Ok(()) } else { Err("a row has more values than columns") }
}

impl Drop for Connection {
    fn drop(&mut self) {
        const QUIT: [u8; 5] = [1, 0, 0, 0, 1];
        // The server notices the closed socket all the same.
        let _ = self.transport.write_all(&QUIT);
    }
}
