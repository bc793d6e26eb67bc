//! How late the log is by the server's clock, which its events do not say: a moment is asked for, then what was executed by then;
//! once all of that is in the log, everything that was committed before the moment is.

use std::time::{Duration, Instant};

use super::Stream;
use crate::CaptureError;
use crate::mysql::gtid::GtidSet;
use crate::mysql::wire::Connection;

const DURING: &str = "asking how late the log is";
/// How often that is asked while the answer before has been reached.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// A transaction is executed just before its number is among those that are, so one of the last second may be behind what was seen.
const COMMITTING_US: i64 = 1_000_000;
const MOMENT: &str = "SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)";

/// What is known of the server's clock.
pub(super) struct Proof {
    /// A connection beside the stream's.
    pub(super) connection: Connection,
    asked_at: Option<Instant>,
    /// A moment, microseconds since 1970, and what was executed by then.
    open: Option<(i64, GtidSet)>,
}

impl Proof {
    pub(super) const fn new(connection: Connection) -> Self {
        Self { connection, asked_at: None, open: None }
    }
}

impl Stream<'_> {
    /// Proves that the log is complete up to a moment, and asks for the next one where it is time.
    pub(super) fn prove(&mut self) -> Result<(), CaptureError> {
        if self.copying.is_some() {
            return Ok(());
        }
        // Of a frame that ends within a transaction nothing counts before the rest has come.
        let is_whole = self.stands.as_ref().is_some_and(|stands| stands.txn_end);
        let is_reached = |(_, executed): &mut (i64, GtidSet)| is_whole && self.appended.contains(executed);
        if let Some((at_us, _)) = self.proof.open.take_if(is_reached) {
            self.progress.prove(at_us - COMMITTING_US, self.log.settle()?);
        }
        let is_due = self.proof.asked_at.is_none_or(|asked| asked.elapsed() >= ASK_EVERY);
        if self.proof.open.is_none() && (is_due || self.progress.take_wish()) {
            self.proof.open = Some(self.ask()?);
            self.proof.asked_at = Some(Instant::now());
        }
        Ok(())
    }

    fn ask(&mut self) -> Result<(i64, GtidSet), CaptureError> {
        let connection = &mut self.proof.connection;
        let mut value = |sql: &str| {
            let rows = connection.query(DURING, sql)?;
            Ok::<_, CaptureError>(rows.first().map(|row| row.text(0).to_owned()).unwrap_or_default())
        };
        let moment = value(MOMENT)?;
        let set = match self.appended {
            GtidSet::MariaDb(_) => value("SELECT @@GLOBAL.gtid_binlog_pos")?.parse().map(GtidSet::MariaDb),
            GtidSet::MySql(_) => value("SELECT @@GLOBAL.gtid_executed")?.parse().map(GtidSet::MySql),
        };
        let malformed = |reason: &str| CaptureError::Protocol {
            source_id: self.config.source.clone(),
            at: DURING.to_owned(),
            reason: reason.to_owned(),
        };
        let at_us = moment.parse().map_err(|_| malformed("the server's time is no number"))?;
        Ok((at_us, set.map_err(malformed)?))
    }
}
