//! What the server's disk pays for our slot: log that it keeps until we have confirmed it.
//!
//! A source that is parked confirms nothing, and the server keeps its log until the disk is full: then nobody works with that
//! database any more. So the amount is looked at once a minute, also while the source is parked ([`guard`]). It is
//! warned of, and from `slot_max` on the slot is dropped: the database is worth more than our place in its log, which
//! reading the tables again makes up for. A session that catches up has it become less, and is let.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use syncline_schemas::ident::Position;
use tracing::{error, warn};

use super::config::PostgresConfig;
use super::position::PgPosition;
use super::wire::{Connection, Purpose, quote_literal};
use crate::{CaptureError, Progress, StopSignal};

const DURING: &str = "looking how much log the slot keeps";
/// How often it is looked at while the source is parked.
const EVERY: Duration = Duration::from_secs(60);
/// After the session that held the slot may still be on its way out.
const AGAIN: Duration = Duration::from_millis(200);
/// A session that holds the slot for longer is another's.
const HELD_MAX: Duration = Duration::from_secs(30);
/// How often the stop signal is looked at.
const POLL: Duration = Duration::from_millis(50);
const GIB: u64 = 1 << 30;

/// What the server keeps for a slot.
pub(super) struct Kept {
    pub(super) bytes: u64,
    is_active: bool,
}

/// Looks how much log the server keeps for the source; none without a slot, or with one that cannot be ours.
pub(super) fn look(
    queries: &mut Connection,
    config: &PostgresConfig,
    progress: &Progress,
) -> Result<Option<Kept>, CaptureError> {
    let sql = format!(
        "SELECT greatest(0, pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), restart_lsn))::bigint, active \
         FROM pg_catalog.pg_replication_slots WHERE slot_name = {} AND restart_lsn IS NOT NULL \
         AND plugin = 'pgoutput' AND database = pg_catalog.current_database()",
        quote_literal(&config.slot)
    );
    let rows = queries.query(DURING, &sql)?;
    let kept = rows.first().and_then(|row| Some(Kept { bytes: row.parsed(0)?, is_active: row.is_true(1) }));
    progress.kept_bytes.store(kept.as_ref().map_or(0, |kept| kept.bytes), Ordering::Relaxed);
    Ok(kept)
}

impl Kept {
    /// True where it is worth a warning.
    pub(super) const fn is_much(&self, config: &PostgresConfig) -> bool {
        self.bytes >= config.slot_warn
    }

    /// Refuses more than the operator allows.
    pub(super) fn ensure_allowed(&self, config: &PostgresConfig) -> Result<(), CaptureError> {
        match config.slot_max {
            Some(max) if self.bytes > max => Err(CaptureError::Unfit {
                source_id: config.source.clone(),
                object: format!("slot {}", config.slot),
                reason: format!("makes the server keep {} of log, more than slot_max", size(self.bytes)),
                remedy: "it is dropped so that the server's disk does not fill; mend what held the source up, then restart: the \
                         tables are read anew"
                    .to_owned(),
            }),
            _ => Ok(()),
        }
    }

    pub(super) fn warn(&self, config: &PostgresConfig) {
        warn!(
            source = %config.source, slot = config.slot, kept = size(self.bytes),
            "the server keeps much log for the slot: look at what holds the source up, before the server's disk is full"
        );
    }
}

/// Looks after the slot of a source that is parked, until it is stopped, the slot is gone, or `until`, where there is one.
///
/// The slot must be known to be the source's own: [`reads_slot`].
pub fn guard(config: &PostgresConfig, progress: &Progress, stop: &StopSignal, until: Option<Instant>) {
    let mut held_since = None;
    while !stop.is_stopped() && until.is_none_or(|until| Instant::now() < until) {
        let pause = match attend(config, progress, stop) {
            Ok(Next::Done) => return,
            // Whoever looks for a while only waits for what is to be dropped.
            Ok(Next::Later) | Err(_) if until.is_some() => return,
            Ok(Next::Later) => EVERY,
            Ok(Next::Held) if held_since.get_or_insert_with(Instant::now).elapsed() < HELD_MAX => AGAIN,
            Ok(Next::Held) => {
                warn!(source = %config.source, slot = config.slot, "another reader holds the slot; it is not looked after any more");
                return;
            }
            // That the source is parked is known, and why.
            Err(_) => EVERY,
        };
        let next = Instant::now() + pause;
        let next = until.map_or(next, |until| next.min(until));
        while !stop.is_stopped() && Instant::now() < next {
            thread::sleep(POLL);
        }
    }
}

/// Whether a position was read from the configured slot: a name alone may be another's.
#[must_use]
pub fn reads_slot(config: &PostgresConfig, position: &Position) -> bool {
    PgPosition::decode(position).is_ok_and(|held| held.slot == config.slot)
}

/// What there is to do for a slot.
enum Next {
    Done,
    Later,
    /// More is kept than is allowed, and a session holds the slot.
    Held,
}

/// Looks once.
fn attend(config: &PostgresConfig, progress: &Progress, stop: &StopSignal) -> Result<Next, CaptureError> {
    let mut queries = Connection::open(config, Purpose::Query, stop)?;
    let Some(kept) = look(&mut queries, config, progress)? else { return Ok(Next::Done) };
    if kept.ensure_allowed(config).is_ok() {
        if kept.is_much(config) {
            kept.warn(config);
        }
        return Ok(Next::Later);
    }
    if kept.is_active {
        return Ok(Next::Held);
    }
    let sql = format!("SELECT pg_catalog.pg_drop_replication_slot({})", quote_literal(&config.slot));
    queries.query("dropping the slot", &sql)?;
    progress.kept_bytes.store(0, Ordering::Relaxed);
    error!(
        source = %config.source, slot = config.slot, kept = size(kept.bytes),
        "dropped the slot, because it made the server keep more log than slot_max; mend what held the source up, then restart: the tables are read anew"
    );
    Ok(Next::Done)
}

fn size(bytes: u64) -> String {
    if bytes >= GIB { format!("{} GiB", bytes / GIB) } else { format!("{} MiB", bytes >> 20) }
}
