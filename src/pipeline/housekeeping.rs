//! Removes what nobody needs any longer: deltas that every sink has, log segments that are folded and old enough. Counts
//! what is held on the way.
//!
//! Where the data folder [fills](super::pressure), what could be kept goes sooner.
//!
//! How old a segment is says its file. A clock of this process would start anew with it, and a daemon that is restarted
//! once a day would keep its log for ever.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use syncline_journal::{JournalError, Log, Space, Store};
use syncline_schemas::ident::LogOffset;
use tracing::{error, warn};

use super::held;
use super::outbox::Outbox;
use super::pressure::Stage;
use super::status::Status;

/// Small enough that a drained backlog gives its disk back at once, large enough to cost nothing.
const EVERY: Duration = Duration::from_secs(2);

/// Of so many looks at a folder that is tight one has removed deltas merged away, if there are new ones: it costs about as
/// much as what is left is large.
const GIVEN_BACK_EVERY: u32 = 10;

/// How long what is done with is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept {
    /// Log entries that are folded.
    pub(super) log: Duration,
    /// Deltas that every sink has; no longer than the log.
    pub(super) deltas: Duration,
}

/// The data folder and how much it may hold.
pub(super) struct Folder {
    pub(super) path: PathBuf,
    /// Bytes, before sources are paused.
    pub(super) budget: Option<u64>,
}

impl Kept {
    /// The same while room is tight: half as long with each look, and as configured once there is room.
    fn under(self, now: Self, stage: Stage) -> Self {
        match stage {
            Stage::Roomy => self,
            _ => Self { log: now.log / 2, deltas: now.deltas / 2 },
        }
    }
}

/// Runs until aborted.
pub(super) async fn run(log: Log, store: Store, status: Arc<Status>, configured: Kept, folder: Folder) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut looked_at = None;
    let (folder, mut kept, mut tight_for) = (Arc::new(folder), configured, 0_u32);
    let mut given_back = LogOffset::START;
    loop {
        ticks.tick().await;
        let stage = status.pressure.stage();
        kept = configured.under(kept, stage);
        tight_for = if stage > Stage::Roomy { tight_for + 1 } else { 0 };
        // Of removed deltas the store gives back the disk when it merges, which may be much later.
        let given_back_to = (tight_for % GIVEN_BACK_EVERY == 1).then_some(given_back);
        let delivered = delivered(&status);
        // Rows are held and let go by the fold alone.
        let (folded, needs) = (status.folded(), LogOffset(status.transform.needs.load(Ordering::Acquire)));
        let looks = looked_at.replace(folded) != Some(folded);
        let (log, store, status, folder) = (log.clone(), store.clone(), Arc::clone(&status), Arc::clone(&folder));
        let cleaned = tokio::task::spawn_blocking(move || {
            if looks {
                held::look(&store.current(), &status);
            }
            clean(&log, &store, delivered, needs, kept)?;
            let trimmed = Outbox::new(store.clone()).trimmed()?;
            let gives_back = given_back_to.is_some_and(|before| trimmed > before);
            if gives_back {
                store.give_back(Space::Outbox)?;
            }
            status.pressure.look(&folder.path, folder.budget);
            Ok::<_, JournalError>(gives_back.then_some(trimmed))
        });
        match cleaned.await {
            Ok(Ok(trimmed)) => given_back = trimmed.unwrap_or(given_back),
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

fn clean(log: &Log, store: &Store, delivered: LogOffset, folded: LogOffset, kept: Kept) -> Result<(), JournalError> {
    // Of deltas the age is that of the entries that they came of.
    let aged = if kept.deltas.is_zero() { delivered } else { log.aged(delivered, kept.deltas)? };
    // The log may be gone beyond what a sink has: it is trimmed by what is folded.
    let unwanted = aged.min(delivered);
    Outbox::new(store.clone()).trim(unwanted)?;
    let aged = log.aged(folded, kept.log)?;
    if aged >= log.first() {
        // A power failure must not take back a fold whose input is gone.
        store.sync()?;
        log.trim(aged)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::SystemTime;

    use syncline_journal::{Journal, Limits};
    use syncline_schemas::ident::{Position, SourceId};

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);
    const KEPT: Kept = Kept { log: DAY, deltas: Duration::ZERO };

    /// A journal of small segments; what is appended is durable.
    fn journal(folder: &Path, entries: u64) -> Journal {
        let journal = Journal::open(folder, Limits { segment_bytes: 4096, ..Limits::default() }).expect("opens");
        let append = |n: u64| {
            let position = Position::new(n.to_be_bytes().to_vec());
            journal.log.append(&SourceId::new("erp"), &position, true, vec![0; 1000]).expect("appended")
        };
        if let Some(last) = (0..entries).map(append).reduce(|_, last| last) {
            journal.log.wait_durable(last, Duration::from_secs(60)).expect("durable");
        }
        journal
    }

    #[test]
    fn deltas_that_a_sink_lacks_stay_however_far_the_log_is_trimmed() {
        let folder = tempfile::tempdir().expect("a folder");
        let journal = journal(folder.path(), 20);
        journal.log.trim(LogOffset(15)).expect("trims");
        assert!(journal.log.first() > LogOffset(5));
        for deltas in [Duration::ZERO, DAY] {
            let kept = Kept { deltas, ..KEPT };
            clean(&journal.log, &journal.store, LogOffset(4), LogOffset(20), kept).expect("cleans");
            assert!(Outbox::new(journal.store.clone()).trimmed().expect("reads") <= LogOffset(4), "{deltas:?}");
        }
    }

    #[test]
    fn what_is_done_with_goes_sooner_while_room_is_tight_and_is_kept_again_afterwards() {
        let under = |now, stage| KEPT.under(now, stage).log;
        assert_eq!(under(KEPT, Stage::Tight), DAY / 2);
        assert_eq!(under(Kept { log: DAY / 4, ..KEPT }, Stage::Full), DAY / 8);
        assert_eq!(under(Kept { log: DAY / 4, ..KEPT }, Stage::Roomy), DAY);
    }

    #[test]
    fn a_restart_does_not_make_old_entries_young() {
        let folder = tempfile::tempdir().expect("a folder");
        let clean = |journal: &Journal, folded| {
            clean(&journal.log, &journal.store, LogOffset::START, LogOffset(folded), KEPT).expect("cleans");
            journal.log.first().0
        };
        assert_eq!(clean(&journal(folder.path(), 20), 20), 1, "written just now");
        for segment in std::fs::read_dir(folder.path().join("log")).expect("the log's folder") {
            let file = std::fs::File::options().write(true).open(segment.expect("an entry").path()).expect("opens");
            file.set_modified(SystemTime::now() - 2 * DAY).expect("is two days old");
        }
        let journal = journal(folder.path(), 0);
        assert_eq!(clean(&journal, 2), 1, "what is not folded stays, however old");
        assert!(clean(&journal, 20) > 12, "the first clean of a new process removes what is old");
        assert_eq!(journal.log.durable(), LogOffset(20));
    }
}
