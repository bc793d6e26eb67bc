//! Removes what nobody needs any longer: deltas that every sink has, log segments that are folded and old enough.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use syncline_journal::{JournalError, Log, Store};
use syncline_schemas::ident::LogOffset;
use tracing::{error, warn};

use super::outbox::Outbox;
use super::status::Status;

/// Small enough that a drained backlog gives its disk back at once, large enough to cost nothing.
const EVERY: Duration = Duration::from_secs(2);
/// How finely the age of log entries is known.
const MARK_EVERY: Duration = Duration::from_secs(60);

/// Runs until aborted.
pub(super) async fn run(log: Log, store: Store, status: Arc<Status>, retention: Duration) {
    let mut marks: VecDeque<(Instant, LogOffset)> = VecDeque::new();
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if marks.back().is_none_or(|(at, _)| at.elapsed() >= MARK_EVERY) {
            marks.push_back((Instant::now(), log.durable()));
        }
        let mut old = None;
        while marks.front().is_some_and(|(at, _)| at.elapsed() >= retention) {
            old = marks.pop_front().map(|(_, offset)| offset);
        }
        let (log, store, delivered) = (log.clone(), store.clone(), delivered(&status));
        let folded = status.folded();
        let cleaned =
            tokio::task::spawn_blocking(move || clean(&log, &store, delivered, old.map(|old| old.min(folded))));
        match cleaned.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "cannot remove what is no longer needed; the disk fills until it can be"),
            Err(error) => {
                error!(%error, "removing what is no longer needed met a defect in Syncline: please report it")
            }
        }
    }
}

/// What every sink has confirmed.
fn delivered(status: &Status) -> LogOffset {
    let confirmed = status.sinks.iter().map(|sink| sink.cursor.load(Ordering::Acquire));
    LogOffset(confirmed.min().unwrap_or_default())
}

fn clean(log: &Log, store: &Store, delivered: LogOffset, folded: Option<LogOffset>) -> Result<(), JournalError> {
    Outbox::new(store.clone()).trim(delivered)?;
    if let Some(folded) = folded {
        // A power failure must not take back a fold whose input is gone.
        store.sync()?;
        log.trim(folded)?;
    }
    Ok(())
}
