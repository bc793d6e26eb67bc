//! Gaps between what the journal holds and what a server can tell.
//!
//! ```text
//! the server has purged what follows     the log went by its age, or by hand, before it was read
//! the server lacks what was read         it was reset or restored, or is a new primary that had not got it
//! ```
//!
//! What happened in between nobody will tell any more, but the tables tell what came of it. So where no server of the source has what
//! follows, all of them are copied anew as one unit, which begins with taking back what is held of them, and the stream goes on from
//! what the server has logged by now; targets are told only what differs at the end.
//!
//! Invariant: nothing is taken back for a server that may be another one. One that lacks what was read counts as of the same history only
//! where it knows of every server whose transactions were read (of a MariaDB: of every domain the last), and somebody writes to it: an
//! old primary knows nothing of whoever took over, a server that was just set up knows of nobody, and a replica that is late gets
//! what it lacks.

use crate::mysql::config::{Address, MySqlConfig};
use crate::mysql::gtid::GtidSet;
use crate::mysql::server::Server;
use crate::mysql::wire::{Connection, Dump};
use crate::{CaptureError, Class};

/// In what words servers say that their log lacks what follows: MySQL twice, then MariaDB.
const WITHOUT_IT: [&str; 4] =
    ["purged required binary logs", "has more GTIDs than", "have been purged", "is not in the master's binlog"];

/// Refuses a server that lacks some of what was read; a gap where it is lost for good.
pub(super) fn ensure_has(
    server: &Server,
    connection: &mut Connection,
    config: &MySqlConfig,
    address: &Address,
    read: &GtidSet,
) -> Result<(), CaptureError> {
    server.ensure_has(connection, config, address, read).map_err(|error| {
        let is_lost = error.class() == Class::Definite && !server.is_read_only && server.knows_writers_of(read);
        if is_lost { gap(config, error) } else { error }
    })
}

/// Asks for the log behind what was read; a gap where the server does not have it any more.
pub(super) fn ask(
    server: &Server,
    config: &MySqlConfig,
    read: &GtidSet,
    ask: impl FnOnce(&GtidSet) -> Result<Dump, CaptureError>,
) -> Result<Dump, CaptureError> {
    server.ensure_keeps(config, read).map_err(|error| gap(config, error))?;
    // A MariaDB says it only then.
    ask(read).map_err(|error| if server.knows_writers_of(read) && is_told(&error) { gap(config, error) } else { error })
}

/// The error itself where the source is to stop with it.
fn gap(config: &MySqlConfig, error: CaptureError) -> CaptureError {
    if config.closes_gaps() { CaptureError::Gap { error: Box::new(error) } } else { error }
}

fn is_told(error: &CaptureError) -> bool {
    matches!(error, CaptureError::Server { message, .. } if WITHOUT_IT.iter().any(|words| message.contains(words)))
}
