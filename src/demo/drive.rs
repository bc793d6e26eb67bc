//! Traffic at a rate: several connections, each making steps on a beat of its own, until a budget is used up or
//! somebody says stop.
//!
//! The rate adapts itself downwards: a connection that cannot keep the beat makes its next step when the last is done
//! and never catches up in a burst.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, interval_at};

use super::error::DemoError;
use super::traffic::{Counts, Mix, Traffic};

/// What kind of day it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// From which every choice follows.
    pub(crate) seed: u64,
    /// Connections at work.
    pub(crate) connections: u32,
    /// Steps per second that all of them aim at together; who joins adds to it.
    pub(crate) rate: u32,
    /// Ends after so many steps; `None` goes on until stopped.
    pub(crate) steps_max: Option<u64>,
    /// A mass update of so many rows, first when the day begins.
    pub(crate) mass_rows: i32,
    /// How long from one mass update to the next.
    pub(crate) mass_every: Duration,
}

impl Pace {
    /// From one step of a connection to the next.
    fn beat(&self) -> Duration {
        Duration::from_secs(1) * self.connections.max(1) / self.rate.max(1)
    }
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// Steps handed out, not all of them done.
    taken: AtomicU64,
    steps: AtomicU64,
    rows: AtomicU64,
    conflicts: AtomicU64,
}

impl Shared {
    fn take(&self, steps_max: Option<u64>) -> bool {
        !self.stop.load(Ordering::Relaxed) && self.taken.fetch_add(1, Ordering::Relaxed) < steps_max.unwrap_or(u64::MAX)
    }

    fn add(&self, before: Counts, after: Counts) {
        self.steps.fetch_add(after.steps - before.steps, Ordering::Relaxed);
        self.rows.fetch_add(after.rows - before.rows, Ordering::Relaxed);
        self.conflicts.fetch_add(after.conflicts - before.conflicts, Ordering::Relaxed);
    }
}

/// Somebody who makes business steps on a connection of their own.
pub(super) trait Worker: Send + 'static {
    /// Makes the next step, committed when this returns.
    fn step(&mut self) -> impl Future<Output = Result<(), DemoError>> + Send;

    /// What was done so far.
    fn counts(&self) -> Counts;
}

impl Worker for Traffic {
    async fn step(&mut self) -> Result<(), DemoError> {
        Traffic::step(self).await.map(drop)
    }

    fn counts(&self) -> Counts {
        Traffic::counts(self)
    }
}

/// Traffic that runs.
#[derive(Debug)]
pub(crate) struct Drive {
    pace: Pace,
    workers: JoinSet<Result<(), DemoError>>,
    shared: Arc<Shared>,
}

impl Drive {
    /// Logs in and begins.
    ///
    /// # Errors
    /// [`DemoError::Database`] where the ERP is not there.
    pub(crate) async fn start(connection: &str, pace: Pace) -> Result<Self, DemoError> {
        let shared = Arc::new(Shared::default());
        let mut workers = JoinSet::new();
        let beat = pace.beat();
        for worker in 0..pace.connections.max(1) {
            let traffic = Traffic::new(connection, pace.seed + u64::from(worker), Mix::DAY).await?;
            workers.spawn(work(traffic, Arc::clone(&shared), pace.steps_max, beat));
        }
        let mass = Traffic::new(connection, pace.seed, Mix::DAY).await?;
        workers.spawn(mass_updates(mass, Arc::clone(&shared), pace));
        Ok(Self { pace, workers, shared })
    }

    /// Has others make steps beside, each at the beat of the ERP's connections and out of the same budget.
    pub(super) fn join(&mut self, others: Vec<impl Worker>) {
        let beat = self.pace.beat();
        for other in others {
            self.workers.spawn(work(other, Arc::clone(&self.shared), self.pace.steps_max, beat));
        }
    }

    /// What all connections have done so far.
    pub(crate) fn counts(&self) -> Counts {
        Counts {
            steps: self.shared.steps.load(Ordering::Relaxed),
            rows: self.shared.rows.load(Ordering::Relaxed),
            conflicts: self.shared.conflicts.load(Ordering::Relaxed),
        }
    }

    /// Waits until the budget of steps is used up, or the first connection fails. Cancel-safe.
    ///
    /// # Errors
    /// What the connection met.
    pub(crate) async fn finished(&mut self) -> Result<(), DemoError> {
        while let Some(joined) = self.workers.join_next().await {
            joined.expect("a worker of the traffic panics only on our own fault")?;
        }
        Ok(())
    }

    /// Lets every step that is under way commit, and stops.
    ///
    /// # Errors
    /// What a connection met.
    pub(crate) async fn stop(mut self) -> Result<(), DemoError> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.finished().await
    }
}

async fn work(
    mut worker: impl Worker,
    shared: Arc<Shared>,
    steps_max: Option<u64>,
    beat: Duration,
) -> Result<(), DemoError> {
    let mut beats = interval(beat);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while shared.take(steps_max) {
        beats.tick().await;
        let before = worker.counts();
        worker.step().await?;
        shared.add(before, worker.counts());
    }
    Ok(())
}

/// One at once, then one per `mass_every`, for as long as the others have steps to make.
async fn mass_updates(mut traffic: Traffic, shared: Arc<Shared>, pace: Pace) -> Result<(), DemoError> {
    /// How soon it notices that the day is over.
    const LOOK_EVERY: Duration = Duration::from_millis(100);
    let mut looks = interval(LOOK_EVERY);
    let mut due = interval_at(tokio::time::Instant::now(), pace.mass_every);
    loop {
        tokio::select! {
            _ = looks.tick() => {
                let over = shared.taken.load(Ordering::Relaxed) >= pace.steps_max.unwrap_or(u64::MAX);
                if over || shared.stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
            }
            _ = due.tick() => {
                let before = traffic.counts();
                traffic.mass_update(pace.mass_rows).await?;
                shared.add(before, traffic.counts());
            }
        }
    }
}
