//! Who takes a lake's snapshots: one thread beside its sink, at the times of the schedule and when it is ordered to.
//!
//! A slot of the schedule is a multiple of `snapshot_every` since 1970, in UTC, so that a restart neither repeats nor shifts
//! one; a slot that went by while nobody was there is made up for once. A snapshot that fails is begun again, and until it
//! goes well the status says why not. Ending the thread in the middle is a crash, which snapshots are made for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use syncline_journal::{Log, Store};
use syncline_schemas::ident::SourceId;
use syncline_sinks::SinkError;
use syncline_sinks::lake::{LakeConfig, Manifest, Order, Snapshots};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::warn;

use super::deliver::{Mode, give_way};
use super::status::Status;
use super::{defect, memory, reached};
use crate::config::SourceKind;

/// Orders that may wait; people give them.
const ORDERS_MAX: usize = 16;
/// After a failure, and while there is nothing to take a snapshot of.
const AGAIN: Duration = Duration::from_secs(10);
/// The clock may be set meanwhile.
const LONGEST: Duration = Duration::from_secs(600);

/// What is asked of the thread.
type Asked = (Order, oneshot::Sender<Result<Manifest, String>>);

/// Where snapshots of a lake are ordered, and what became of them.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) snapshots: Snapshots,
    every: Option<Duration>,
    retention: Duration,
    orders: mpsc::Sender<Asked>,
    waiting: Mutex<Option<mpsc::Receiver<Asked>>>,
    pub(crate) taken: AtomicU64,
    pub(crate) failed: AtomicU64,
    /// When the last one was taken by this process, in milliseconds since 1970.
    pub(crate) last_ms: AtomicU64,
    problem: Mutex<Option<String>>,
}

impl Desk {
    pub(crate) fn new(config: &LakeConfig, snapshots: Snapshots) -> Self {
        let (orders, waiting) = mpsc::channel(ORDERS_MAX);
        Self {
            snapshots,
            every: config.snapshot_every,
            retention: config.snapshot_retention,
            orders,
            waiting: Mutex::new(Some(waiting)),
            taken: AtomicU64::default(),
            failed: AtomicU64::default(),
            last_ms: AtomicU64::default(),
            problem: Mutex::default(),
        }
    }

    /// Why the last scheduled snapshot was not taken.
    pub(crate) fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_problem(&self, problem: Option<String>) {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }

    /// Has a snapshot taken, and waits for it.
    pub(crate) async fn order(&self, order: Order) -> Result<Manifest, String> {
        let (reply, answer) = oneshot::channel();
        self.orders.try_send((order, reply)).map_err(|_| "no snapshot can be ordered now; ask again".to_owned())?;
        answer.await.unwrap_or_else(|_| Err("the daemon ends; order it again".to_owned()))
    }

    fn note(&self, taken: &Result<Manifest, SinkError>) {
        match taken {
            Ok(_) => {
                self.last_ms.store(millis(SystemTime::now()), Ordering::Relaxed);
                self.taken.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

fn millis(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// True where a slot of the schedule has begun since the last snapshot.
fn is_due(now_ms: u64, last_ms: Option<u64>, every: Duration) -> bool {
    let every = u64::try_from(every.as_millis()).unwrap_or(u64::MAX).max(1);
    last_ms.is_none_or(|last| now_ms / every > last / every)
}

/// How long until the next slot begins.
fn until_next(now_ms: u64, every: Duration) -> Duration {
    let every = u64::try_from(every.as_millis()).unwrap_or(u64::MAX).max(1);
    Duration::from_millis(every - now_ms % every)
}

/// Takes a snapshot of what a state has delivered.
pub(crate) async fn take(
    snapshots: &Snapshots,
    order: &Order,
    log: &Log,
    store: &Store,
    sources: &[(SourceId, SourceKind)],
) -> Result<Manifest, SinkError> {
    let ours = memory::epoch(store)?;
    let reached = |epoch: u32, offset| {
        if epoch != ours {
            return Err(SinkError::Refused {
                target: "the lake".to_owned(),
                reason: format!("it was filled from the data_dir of epoch {epoch}, ours is of epoch {ours}"),
                remedy: "take snapshots with the data_dir that fills the lake".to_owned(),
            });
        }
        reached::at(log, sources, offset).map_err(|error| SinkError::Local {
            place: "the log".to_owned(),
            reason: format!("it cannot be asked how far the sources were: {error}"),
        })
    };
    snapshots.take(order, SystemTime::now(), &reached).await
}

/// The thread beside a lake's sink.
pub(super) struct Worker {
    pub(super) desk: Arc<Desk>,
    pub(super) log: Log,
    pub(super) store: Store,
    pub(super) sources: Vec<(SourceId, SourceKind)>,
    pub(super) status: Arc<Status>,
    pub(super) mode: watch::Receiver<Mode>,
}

impl Worker {
    pub(super) fn start(self, name: &str) -> std::io::Result<JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name(format!("snapshots-{name}")).spawn(move || {
            give_way("snapshots");
            let (status, desk) = (Arc::clone(&self.status), Arc::clone(&self.desk));
            let mut mode = self.mode.clone();
            defect::watched(
                &status,
                |why| desk.set_problem(Some(why)),
                || {
                    runtime.block_on(async {
                        tokio::select! {
                            () = self.run() => {}
                            _ = mode.wait_for(|mode| mode.ends()) => {}
                        }
                    });
                },
            );
        })
    }

    async fn run(self) {
        let waiting = self.desk.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut orders) = waiting else { return };
        let mut last = None;
        let mut next = Instant::now() + self.look(&mut last).await;
        loop {
            tokio::select! {
                asked = orders.recv() => {
                    let Some((order, reply)) = asked else { return };
                    // Who asked may be gone; the order stands.
                    let _ = reply.send(self.take(&order).await.map_err(|error| error.to_string()));
                }
                () = tokio::time::sleep_until(next) => next = Instant::now() + self.look(&mut last).await,
            }
        }
    }

    async fn take(&self, order: &Order) -> Result<Manifest, SinkError> {
        let taken = take(&self.desk.snapshots, order, &self.log, &self.store, &self.sources).await;
        self.desk.note(&taken);
        taken
    }

    /// Does what the schedule wants, and says when to look again.
    async fn look(&self, last: &mut Option<u64>) -> Duration {
        match self.scheduled(last).await {
            Ok(pause) => {
                self.desk.set_problem(None);
                pause
            }
            Err(error) => {
                warn!(%error, "no snapshot was taken, trying again");
                self.desk.set_problem(Some(error.to_string()));
                AGAIN
            }
        }
    }

    /// `last` is when the last scheduled one was taken, where that is known.
    async fn scheduled(&self, last: &mut Option<u64>) -> Result<Duration, SinkError> {
        let Some(every) = self.desk.every else { return Ok(LONGEST) };
        let now = SystemTime::now();
        if last.is_none() {
            *last = self.desk.snapshots.last_scheduled(now).await?;
        }
        if is_due(millis(now), *last, every) {
            if self.desk.snapshots.cut_offset().await?.is_none() {
                return Ok(AGAIN);
            }
            self.take(&Order::scheduled()).await?;
            *last = Some(millis(now));
            self.desk.snapshots.retain(self.desk.retention, now).await?;
        }
        Ok(until_next(millis(SystemTime::now()), every).min(LONGEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_taken_once_whatever_restarts_and_made_up_for_where_nobody_was_there() {
        let day = Duration::from_secs(86_400);
        let at = |days: u64, hours: u64| (days * 24 + hours) * 3_600_000;
        assert!(is_due(at(10, 2), None, day), "there is none yet");
        assert!(!is_due(at(10, 22), Some(at(10, 2)), day), "a restart on the same day");
        assert!(is_due(at(11, 0), Some(at(10, 2)), day));
        assert!(is_due(at(17, 7), Some(at(10, 2)), day));
        assert!(!is_due(at(9, 22), Some(at(10, 2)), day), "the clock was set back");
        assert_eq!(until_next(at(10, 12), day), day / 2);
        assert_eq!(until_next(at(10, 0), day), day);
    }
}
