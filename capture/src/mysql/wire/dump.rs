//! The log as the server sends it: the request, then events as they arrive, each with its frame.
//!
//! Both kinds of servers are asked by GTID: MySQL gets the set of all that was executed and finds out what is missing;
//! MariaDB gets the last transaction of each domain. Heartbeats come while there is nothing to say.

use std::ops::Range;
use std::time::Duration;

use super::connection::Connection;
use super::inbox::Packet;
use crate::CaptureError;
use crate::mysql::gtid::{GtidSet, MySqlSet};

const STARTING: &str = "asking for the log";
const DURING: &str = "following the log";
/// While the server has nothing to say it says so as often.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// The log.
pub(crate) struct Dump {
    connection: Connection,
    /// What came first and was not taken yet.
    first: Option<Packet>,
}

/// What a look at the log brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fill {
    /// So many bytes arrived.
    Bytes(usize),
    /// Nothing has arrived.
    Nothing,
}

impl Dump {
    /// Asks for all behind `end`, and waits until the server begins to send it or says why it does not. `server_id` must be no other
    /// reader's: the server ends the session of the older one.
    pub(crate) fn start(mut connection: Connection, server_id: u32, end: &GtidSet) -> Result<Self, CaptureError> {
        let ns = HEARTBEAT.as_nanos();
        // Servers before and after the renaming look at one name each; the other is a variable like any.
        for name in ["master", "source"] {
            let sql = format!("SET @{name}_heartbeat_period = {ns}, @{name}_binlog_checksum = 'CRC32'");
            connection.query(STARTING, &sql)?;
        }
        let request = match end {
            GtidSet::MySql(set) => by_set(server_id, set),
            GtidSet::MariaDb(set) => {
                // 4 is what knows all of MariaDB's events. Without strictness a place that is gone would be passed over.
                let sql = format!(
                    "SET @mariadb_slave_capability = 4, @slave_connect_state = '{set}', @slave_gtid_strict_mode = 1, \
                     @slave_gtid_ignore_duplicates = 0"
                );
                connection.query(STARTING, &sql)?;
                by_state(server_id)
            }
        };
        connection.send(0, &register(server_id), STARTING)?;
        connection.receive(STARTING)?;
        connection.send(0, &request, STARTING)?;
        let first = Some(connection.receive_first(STARTING)?);
        Ok(Self { connection, first })
    }

    /// Takes the next event out of what has arrived.
    pub(crate) fn next(&mut self) -> Result<Option<Range<usize>>, CaptureError> {
        let packet = match self.first.take() {
            Some(packet) => packet,
            None => match self.connection.next(DURING)? {
                Some(packet) => packet,
                None => return Ok(None),
            },
        };
        match self.connection.body(packet.body.clone()) {
            [0, ..] => Ok(Some(packet.body.start + 1..packet.body.end)),
            [254, rest @ ..] if rest.len() < 8 => {
                let error = std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the server ended the log");
                Err(self.connection.lost(DURING, error))
            }
            _ => Err(self.connection.protocol(DURING, "what the server sends is no event")),
        }
    }

    /// An event's bytes, until the next read.
    pub(crate) fn event(&self, range: Range<usize>) -> &[u8] {
        self.connection.body(range)
    }

    /// Reads what has arrived, without waiting.
    pub(crate) fn fill(&mut self) -> Result<Fill, CaptureError> {
        Ok(self.connection.fill(DURING)?.map_or(Fill::Nothing, Fill::Bytes))
    }

    /// Waits for something to read, at most so long.
    pub(crate) fn wait(&self, timeout: Duration) -> Result<bool, CaptureError> {
        self.connection.wait(DURING, timeout)
    }
}

/// Tells who reads, for the server's list of its readers.
fn register(server_id: u32) -> Vec<u8> {
    const REGISTER: u8 = 0x15;
    const NAME: &[u8] = b"syncline";
    let mut out = vec![REGISTER];
    out.extend_from_slice(&server_id.to_le_bytes());
    out.push(u8::try_from(NAME.len()).expect("a short name"));
    out.extend_from_slice(NAME);
    // User, password, port, rank, and whose it is.
    out.extend_from_slice(&[0; 12]);
    out
}

/// From MariaDB: from the state on that the session has set.
fn by_state(server_id: u32) -> Vec<u8> {
    const DUMP: u8 = 0x12;
    const FIRST_PLACE: u32 = 4;
    let mut out = vec![DUMP];
    out.extend_from_slice(&FIRST_PLACE.to_le_bytes());
    out.extend_from_slice(&0_u16.to_le_bytes());
    out.extend_from_slice(&server_id.to_le_bytes());
    out
}

/// From MySQL: all but a set.
fn by_set(server_id: u32, set: &MySqlSet) -> Vec<u8> {
    const DUMP_GTID: u8 = 0x1e;
    const BY_GTID: u16 = 4;
    const FIRST_PLACE: u64 = 4;
    let mut out = vec![DUMP_GTID];
    out.extend_from_slice(&BY_GTID.to_le_bytes());
    out.extend_from_slice(&server_id.to_le_bytes());
    out.extend_from_slice(&0_u32.to_le_bytes());
    out.extend_from_slice(&FIRST_PLACE.to_le_bytes());
    let set = set.encode();
    out.extend_from_slice(&u32::try_from(set.len()).expect("a set is far smaller than 4 GiB").to_le_bytes());
    out.extend_from_slice(&set);
    out
}
