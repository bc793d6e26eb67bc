//! Gaps in the server's log behind what the journal holds, and how they are closed.
//!
//! ```text
//! slot gone            dropped by somebody, or left behind on the old primary
//! slot invalidated     the server needed the disk: max_slot_wal_keep_size, idle_replication_slot_timeout
//! slot moved on        somebody else read it, or it was made again
//! timeline left        a new primary lacks changes that were read
//! ```
//!
//! What happened in between nobody will tell any more, but the tables tell what came of it. So they are read anew beside the
//! stream, which goes on from where the slot is now, and compared with what is held (see [`super::copy`]): only rows
//! that differ are told, and those that are gone are taken back. All of it is one unit, up to where every table was read:
//! before, rows of both sides of the gap stand side by side, and targets see none of that.

use tracing::{info, warn};

use super::copy::Ledger;
use super::lsn::Lsn;
use super::position::PgPosition;
use super::preflight::{Inspection, Slot};
use super::session::{Identity, Session, create_slot, is_readable};
use super::wire::{Connection, quote_literal};
use crate::CaptureError;

/// Why the log cannot be followed from where the journal ends.
pub(super) struct Gap {
    reason: String,
    remedy: &'static str,
}

/// Where a session begins behind a gap.
pub(super) struct Closing {
    pub(super) start: Lsn,
    pub(super) ledger: Ledger,
    /// Tables that the stream tells of as they are now.
    pub(super) trusted: Vec<u32>,
}

impl Gap {
    /// Looks for one between what the journal holds and what the server can tell.
    pub(super) fn find(
        session: &Session<'_>,
        stream: &mut Connection,
        held: &PgPosition,
        identity: Identity,
        inspection: &Inspection,
    ) -> Result<Option<Self>, CaptureError> {
        let name = &session.config.slot;
        let gap = |reason: String, remedy| Ok(Some(Self { reason, remedy }));
        let Some(slot) = &inspection.slot else {
            return gap(format!("the slot {name:?} is gone"), "have `syncline replay --reread` copy the tables again");
        };
        if slot.is_lost() {
            let reason = format!("the slot {name:?} was invalidated: the server removed log that it still needed");
            return gap(reason, "drop it, then have `syncline replay --reread` copy the tables again");
        }
        if identity.timeline < held.timeline {
            let reason =
                format!("it is of timeline {}, the server is still on timeline {}", held.timeline, identity.timeline);
            // An old primary that somebody started again: what it has is older than what was delivered.
            return Err(session.misfit(reason, "point the url at the primary"));
        }
        if held.timeline != identity.timeline
            && let Some(reason) = timeline_left(stream, held, identity)?
        {
            return gap(
                reason,
                "the new primary lacks changes that were read; have `syncline replay --reread` copy its tables",
            );
        }
        if held.timeline == identity.timeline && identity.log_end < held.told() {
            let reason = format!("it is {}, the server's log ends at {}", held.told(), identity.log_end);
            return gap(reason, "the server was restored; have `syncline replay --reread` copy its tables");
        }
        if slot.confirmed > held.end {
            let reason = format!(
                "the slot {name:?} was confirmed up to {}, the journal ends at {}: the changes between are lost to it",
                slot.confirmed, held.end
            );
            return gap(reason, "somebody else read the slot; have `syncline replay --reread` copy the tables again");
        }
        Ok(None)
    }

    /// The error of a source that is not to close it by itself.
    pub(super) fn refuse(&self, session: &Session<'_>) -> CaptureError {
        CaptureError::Unfit {
            source_id: session.config.source.clone(),
            object: "the server's log".to_owned(),
            reason: self.reason.clone(),
            remedy: self.remedy.to_owned(),
        }
    }

    /// The error of one that cannot be closed.
    pub(super) fn remains(&self, error: CaptureError) -> CaptureError {
        match error {
            CaptureError::Unfit { source_id, object, reason, remedy } => CaptureError::Unfit {
                source_id,
                object,
                reason: format!("{reason}; it is to be read anew, because {}", self.reason),
                remedy,
            },
            other => other,
        }
    }

    /// Has every table read anew; makes the slot where there is none to be used.
    pub(super) fn close(
        &self,
        queries: &mut Connection,
        stream: &mut Connection,
        held: &PgPosition,
        inspection: &Inspection,
        slot_name: &str,
    ) -> Result<Closing, CaptureError> {
        warn!(
            source = %stream.source(), reason = self.reason, from = %held.end,
            "changes are lost to the log: reading the tables anew to find out what they were"
        );
        // A slot that is made and not read would have the server keep its log for nothing.
        for table in inspection.scope.tables() {
            if !is_readable(queries, table.oid)? {
                return Err(CaptureError::Unfit {
                    source_id: stream.source().clone(),
                    object: format!("table {}", table.id),
                    reason: "or a partition of it cannot be read by the role".to_owned(),
                    remedy: "GRANT SELECT ON it and its partitions, without row security".to_owned(),
                });
            }
        }
        let is_made = inspection.slot.as_ref().is_none_or(Slot::is_lost);
        let start = match &inspection.slot {
            Some(slot) if !slot.is_lost() => slot.confirmed,
            found => {
                if found.is_some() {
                    // It keeps nothing and tells nothing any more.
                    let sql = format!("SELECT pg_catalog.pg_drop_replication_slot({})", quote_literal(slot_name));
                    queries.query("dropping the invalidated slot", &sql)?;
                    info!(source = %stream.source(), slot = slot_name, "dropped the invalidated slot");
                }
                create_slot(stream, slot_name, inspection.catalog.server_version())?
            }
        };
        let all: Vec<u32> = inspection.scope.tables().map(|table| table.oid).collect();
        // Of a first copy that was not finished nothing was told: it begins again.
        let is_first = held.copy.as_ref().is_some_and(|ledger| !ledger.is_beside && ledger.sweeps.is_empty());
        let mut ledger = if is_first { Ledger::anew() } else { Ledger::default() };
        ledger.want(all.iter().copied());
        if !is_first {
            let newcomers = inspection.scope.newcomers();
            ledger.sweeps.extend(all.into_iter().filter(|table| !newcomers.contains(table)));
            // What is deleted behind the gap may have come within it.
            let multisets = inspection.scope.tables().filter(|table| table.is_multiset());
            multisets.filter(|table| !newcomers.contains(&table.oid)).for_each(|table| ledger.make_void(table.oid));
        }
        let trusted = if is_made { ledger.sweeps.iter().copied().collect() } else { Vec::new() };
        Ok(Closing { start, ledger, trusted })
    }
}

/// After a failover: why the position does not lie before the place where the server's timeline left ours.
fn timeline_left(
    stream: &mut Connection,
    held: &PgPosition,
    identity: Identity,
) -> Result<Option<String>, CaptureError> {
    if held.copy.is_some() {
        // What was read may have been committed behind the place where the timelines part.
        return Ok(Some("another server became the primary while tables were read".to_owned()));
    }
    let sql = format!("TIMELINE_HISTORY {}", identity.timeline);
    let rows = stream.query("reading the timeline's history", &sql)?;
    let history = rows.first().map(|row| row.text(1).to_owned()).unwrap_or_default();
    let left_at = history.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        let timeline: u32 = fields.next()?.parse().ok()?;
        (timeline == held.timeline).then(|| fields.next()?.parse::<Lsn>().ok())?
    });
    if left_at.is_some_and(|left_at| held.told() <= left_at) {
        return Ok(None);
    }
    Ok(Some(format!(
        "it is {} on timeline {}, the server is on timeline {} which left that one {}",
        held.told(),
        held.timeline,
        identity.timeline,
        left_at.map_or("never".to_owned(), |lsn| format!("at {lsn}")),
    )))
}
