//! Gaps between what the journal holds and what the server can tell, and how they are closed.
//!
//! ```text
//! the server has purged what follows     the log went by its age, or by hand, before it was read
//! the server lacks what was read         it was reset or restored, or is a new primary that had not got it
//! ```
//!
//! What happened in between nobody will tell any more, but the tables tell what came of it. So all of them are copied anew as one unit,
//! which begins with taking back what is held of them, and the stream goes on from what the server has logged by now; targets are told
//! only what differs at the end.
//!
//! Invariant: nothing is taken back for a server that may be another one. One that lacks what was read counts as of the same history only
//! where it knows of every server whose transactions were read (of a MariaDB: of every domain the last), and somebody writes to it: an
//! old primary knows nothing of whoever took over, a server that was just set up knows of nobody, and a replica that is late gets
//! what it lacks.

use tracing::warn;

use super::beginning;
use crate::CaptureError;
use crate::finding::COPY_AGAIN;
use crate::mysql::config::MySqlConfig;
use crate::mysql::position::MyPosition;
use crate::mysql::server::Server;
use crate::mysql::wire::Dump;

const OTHER_SERVER: &str = "point the url at the server that was read or one that has all its transactions, or have \
     `syncline replay --reread` copy this one's tables";

/// In what words servers say that their log lacks what follows: MySQL twice, then MariaDB.
const WITHOUT_IT: [&str; 4] =
    ["purged required binary logs", "has more GTIDs than", "have been purged", "is not in the master's binlog"];

/// Why the log cannot be followed from where the journal ends.
pub(super) struct Gap {
    /// What a source stops with that is not to close it by itself.
    error: CaptureError,
}

impl Gap {
    /// Asks for the log behind what is held; an error where there is none to be had and the gap must not be closed either.
    pub(super) fn find(
        config: &MySqlConfig,
        server: &Server,
        held: &MyPosition,
        ask: impl FnOnce() -> Result<Dump, CaptureError>,
    ) -> Result<Result<Dump, Self>, CaptureError> {
        let misfit = |reason, remedy| CaptureError::Position { source_id: config.source.clone(), reason, remedy };
        let is_of_one_history = held.end.writers().is_subset(&server.writers);
        if !server.executed.contains(&held.end) {
            let reason = format!("the server has executed {}, and {} was read", server.executed, held.end);
            let error = misfit(reason, OTHER_SERVER);
            return if is_of_one_history && !server.is_read_only { Ok(Err(Self { error })) } else { Err(error) };
        }
        if let Some(purged) = server.purged.as_ref().filter(|purged| !held.end.contains(purged)) {
            let reason = format!("the server has purged its log up to {purged}, and only {} was read", held.end);
            return Ok(Err(Self { error: misfit(reason, COPY_AGAIN) }));
        }
        match ask() {
            // A MariaDB says it only then.
            Err(error) if is_of_one_history && is_told(&error) => Ok(Err(Self { error })),
            asked => asked.map(Ok),
        }
    }

    /// Where the source goes on, with all tables to be copied anew; the error where it is to stop instead.
    pub(super) fn close(
        self,
        config: &MySqlConfig,
        server: &Server,
        held: MyPosition,
    ) -> Result<MyPosition, CaptureError> {
        if !config.closes_gaps() {
            return Err(self.error);
        }
        warn!(
            source = %config.source, reason = self.reason(), from = %held.end, to = %server.logged,
            "changes are lost to the log: reading the tables anew to find out what they were"
        );
        Ok(MyPosition { known: held.known, ..beginning(server, true) })
    }

    fn reason(&self) -> String {
        match &self.error {
            CaptureError::Position { reason, .. } => reason.clone(),
            CaptureError::Server { message, .. } => message.clone(),
            other => other.to_string(),
        }
    }
}

fn is_told(error: &CaptureError) -> bool {
    matches!(error, CaptureError::Server { message, .. } if WITHOUT_IT.iter().any(|words| message.contains(words)))
}
