//! A sink's pump: cuts spans from the outbox, has the sink write them, remembers how far it got.
//!
//! Each sink goes at its own pace. A slow or dead one costs disk, because the outbox keeps what it has not confirmed; it
//! never holds back capture, the transform or another sink.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use syncline_journal::{Log, Store};
use syncline_schemas::ident::LogOffset;
use syncline_sinks::{Class, Sink, SinkError, Written};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tracing::{debug, error, warn};

use super::backoff::Backoff;
use super::claim::Claim;
use super::defect;
use super::load::{self, Loader};
use super::memory::Memory;
use super::observed::{Counted, Observed};
use super::outbox::{Cut, Cutter, Outbox, unreadable};
use super::redeliver::Redelivery;
use super::refused::{Again, Refused};
use super::status::{SinkStatus, Status};

/// Added to that of a thread that works in bulk; see nice(1). A tenth of the weight of the others, so that it never stands still.
const NICENESS: i32 = 10;

/// What the pump is asked to do beside its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Cut spans as the sink likes them.
    Steady,
    /// Deliver what is folded at once: the daemon drains.
    Flush,
    /// Start no further write.
    Stop,
    /// Give up the write under way; it is begun again after the next start.
    Abandon,
}

impl Mode {
    pub(super) const fn ends(self) -> bool {
        matches!(self, Self::Stop | Self::Abandon)
    }
}

/// One sink at work.
pub(super) struct Pump {
    pub(super) sink: Box<dyn Sink>,
    pub(super) log: Log,
    pub(super) store: Store,
    /// Where the log ended before this process appended anything.
    pub(super) log_end: LogOffset,
    pub(super) status: Arc<Status>,
    /// Entities that some mapping fills.
    pub(super) mapped: Arc<BTreeSet<String>>,
    /// Place of the sink in the status.
    pub(super) index: usize,
    pub(super) mode: watch::Receiver<Mode>,
    pub(super) counted: Counted,
    /// How long rows that the target refused are sent again.
    pub(super) retry_for: Duration,
}

impl Pump {
    /// Starts its thread. Each sink has one of its own, with a runtime of its own: the lake computes for seconds, and the
    /// planning sink answers within milliseconds. One that lets rows gather leaves the cores to whoever does not.
    pub(super) fn start(self, name: &str) -> std::io::Result<JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name(format!("sink-{name}")).spawn(move || {
            if !self.sink.batching().linger.is_zero() {
                give_way(self.sink.identity().kind);
            }
            let (status, index) = (Arc::clone(&self.status), self.index);
            let mut mode = self.mode.clone();
            let park = |why| status.sinks[index].parked.park(why);
            defect::watched(&status, park, || {
                runtime.block_on(async {
                    tokio::select! {
                        () = self.run() => {}
                        _ = mode.wait_for(|mode| *mode == Mode::Abandon) => {}
                    }
                });
            });
        })
    }

    /// Runs until stopped or parked.
    async fn run(mut self) {
        let status = Arc::clone(&self.status);
        let sink = &status.sinks[self.index];
        if self.sink.filler().is_some() {
            let _ = sink.loadable.set(Claim::new(self.sink.identity(), &self.mapped).mapped());
        }
        let mut backoff = Backoff::new();
        let mut memory = None;
        loop {
            match self.deliver(sink, &mut memory, &mut backoff).await {
                Ok(()) => break,
                Err(error) if error.class() == Class::Transient => {
                    let pause = backoff.pause();
                    sink.retries.fetch_add(1, Ordering::Relaxed);
                    warn!(sink = sink.name, %error, pause_ms = pause.as_millis(), "delivery interrupted, trying again");
                    status.pulse();
                    if self.stopped_within(pause).await {
                        break;
                    }
                }
                Err(error) => {
                    error!(sink = sink.name, %error, "sink parked");
                    sink.parked.park(error.to_string());
                    break;
                }
            }
        }
    }

    async fn stopped_within(&mut self, pause: Duration) -> bool {
        tokio::time::timeout(pause, self.mode.wait_for(|mode| mode.ends())).await.is_ok()
    }

    /// Delivers span after span, and at times what was refused; returns when asked to stop.
    async fn deliver(
        &mut self,
        sink: &SinkStatus,
        memory: &mut Option<Memory>,
        backoff: &mut Backoff,
    ) -> Result<(), SinkError> {
        let memory = match memory {
            Some(memory) => memory,
            none => none.insert(Memory::open(&self.store, &sink.name, self.retry_for)?),
        };
        let refused = memory.refused();
        sink.refused.store(refused.count(), Ordering::Relaxed);
        // Of a sink that begins again it is the same.
        let _ = sink.letters.set(Arc::clone(&refused));
        let at = self.begin(sink, memory).await?;
        refused.confirm(at);
        let mut cutter = Cutter::new(self.store.clone(), at);
        let mut loads = self.load(&refused);
        self.redeliver(memory, &refused, sink).await?;
        loop {
            let cut = tokio::select! {
                cut = self.next_cut(&mut cutter, sink) => cut?,
                () = refused.due() => {
                    refused.expire()?;
                    refused.begin(true);
                    memory.retried(self.sink.retry(&Again(&refused)).await?)?;
                    sink.refused.store(refused.count(), Ordering::Relaxed);
                    self.status.pulse();
                    continue;
                }
                () = sink.once_more.notified() => {
                    self.redeliver(memory, &refused, sink).await?;
                    continue;
                }
                failed = loads.join_next(), if !loads.is_empty() => return Err(loading_ended(failed)),
            };
            let Some(cut) = cut else { return Ok(()) };
            let written = if cut.rows > 0 { Some(self.write(cut, &refused, sink).await?) } else { None };
            if written.is_some() {
                backoff.reset();
            }
            memory.confirm(cut.span.upto, written)?;
            sink.refused.store(refused.count(), Ordering::Relaxed);
            refused.confirm(cut.span.upto);
            self.confirm(cut.span.upto, sink);
            cutter.delivered(cut.span.upto);
        }
    }

    /// Where to go on: what the target says outranks what we remember, if it was us who filled it.
    async fn begin(&mut self, sink: &SinkStatus, memory: &mut Memory) -> Result<LogOffset, SinkError> {
        let remembered = memory.read(self.log_end, self.log.durable())?;
        // Before it is asked: of a target that does not answer, what waits for it must not look level.
        sink.set_behind(self.status.folded() > remembered.cursor.unwrap_or_default());
        let recalled = self.sink.recall(&remembered.known).await?;
        let claim = Claim::new(self.sink.identity(), &self.mapped);
        let trimmed = Outbox::new(self.store.clone()).trimmed().map_err(|error| unreadable(&error))?;
        let loadable = self.sink.filler().is_some().then(|| self.status.folded());
        let resumed = remembered.resume(&sink.name, &claim, recalled, trimmed, loadable)?;
        memory.begin(&resumed, &claim)?;
        let (at, loads) = (resumed.at, load::orders(&self.store, &sink.name)?.len());
        sink.loads.store(loads as u64, Ordering::Release);
        sink.cursor.store(at.0, Ordering::Release);
        self.status.pulse();
        Ok(at)
    }

    /// Has what is ordered loaded beside the deltas, for as long as the answer lives.
    fn load(&self, refused: &Arc<Refused>) -> JoinSet<SinkError> {
        let mut loads = JoinSet::new();
        if let Some(filler) = self.sink.filler() {
            let (store, status) = (self.store.clone(), Arc::clone(&self.status));
            let log = self.log.clone();
            loads.spawn(Loader { log, store, status, index: self.index, refused: Arc::clone(refused), filler }.run());
        }
        loads
    }

    /// Sends deltas once more where that is ordered.
    async fn redeliver(&mut self, memory: &Memory, refused: &Refused, sink: &SinkStatus) -> Result<(), SinkError> {
        for order in load::orders(&self.store, &sink.name)? {
            let Some(deltas) = Redelivery::of(&order, &self.store, refused) else { continue };
            refused.begin_once_more();
            let outcome = if deltas.is_gone()? {
                Err("its deltas are gone since".to_owned())
            } else {
                match self.sink.retry(&deltas).await {
                    Ok(written) => {
                        let counts = (deltas.rows.load(Ordering::Relaxed), written.rejected);
                        memory.retried(written)?;
                        Ok(counts)
                    }
                    // They were confirmed long ago, so they may go while they are read.
                    Err(SinkError::Outbox { .. }) if deltas.is_gone()? => {
                        refused.begin(false);
                        Err("its deltas are gone since".to_owned())
                    }
                    Err(error) => return Err(error),
                }
            };
            order.carried(&sink.name, outcome, &self.store)?;
            sink.refused.store(refused.count(), Ordering::Relaxed);
        }
        let left = load::orders(&self.store, &sink.name)?.len();
        sink.loads.store(left as u64, Ordering::Release);
        self.status.pulse();
        Ok(())
    }

    /// Waits until there is a span to deliver; none when asked to stop.
    async fn next_cut(&mut self, cutter: &mut Cutter, sink: &SinkStatus) -> Result<Option<Cut>, SinkError> {
        let batching = self.sink.batching();
        let mut waiting_since: Option<Instant> = None;
        let mut pulses = self.status.subscribe();
        loop {
            let mode = *self.mode.borrow_and_update();
            if mode.ends() {
                return Ok(None);
            }
            let cut = cutter.look(self.status.folded(), batching.max_rows).map_err(|error| unreadable(&error))?;
            sink.set_behind(cut.rows > 0);
            let linger = if mode == Mode::Flush { Duration::ZERO } else { batching.linger };
            let mut timeout = None;
            if cut.span.upto > cut.span.after {
                if cut.rows == 0 || cut.rows >= batching.max_rows {
                    return Ok(Some(cut));
                }
                let waited = waiting_since.get_or_insert_with(Instant::now).elapsed();
                match linger.checked_sub(waited).filter(|left| !left.is_zero()) {
                    None => return Ok(Some(cut)),
                    left => timeout = left,
                }
            }
            tokio::select! {
                _ = pulses.changed() => {}
                _ = self.mode.changed() => {}
                () = tokio::time::sleep(timeout.unwrap_or(Duration::from_secs(60))) => {}
            }
        }
    }

    async fn write(&mut self, cut: Cut, refused: &Refused, sink: &SinkStatus) -> Result<Written, SinkError> {
        refused.begin(false);
        let deltas = Observed::new(Outbox::new(self.store.clone()), refused, &self.status, sink, &self.counted);
        let began = Instant::now();
        let written = self.sink.write(cut.span, &deltas).await?;
        deltas.record_all();
        self.note(cut, &written, sink, began.elapsed());
        Ok(written)
    }

    fn note(&self, cut: Cut, written: &Written, sink: &SinkStatus, took: Duration) {
        sink.rows.fetch_add(written.rows, Ordering::Relaxed);
        sink.bytes.fetch_add(written.bytes, Ordering::Relaxed);
        sink.rejected.fetch_add(written.rejected, Ordering::Relaxed);
        sink.writes.fetch_add(1, Ordering::Relaxed);
        debug!(sink = sink.name, upto = %cut.span.upto, rows = cut.rows, took_ms = took.as_millis(), "delivered");
    }

    fn confirm(&self, upto: LogOffset, sink: &SinkStatus) {
        sink.cursor.store(upto.0, Ordering::Release);
        sink.reset_behind(self.status.folded() > upto);
        self.status.pulse();
    }
}

/// Why loads have ended, which they do only when they fail.
fn loading_ended(ended: Option<Result<SinkError, JoinError>>) -> SinkError {
    match ended {
        Some(Ok(error)) => error,
        // As if it had happened here: the sink is parked with it.
        Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        _ => SinkError::Local { place: "loading whole entities".to_owned(), reason: "was given up".to_owned() },
    }
}

/// Has the calling thread, and those that it starts, take a tenth of a contended core. On two cores a flush of the lake
/// would otherwise hold back what goes to the planner at the same time.
pub(super) fn give_way(kind: &str) {
    // Of this thread alone, as Linux keeps priorities by thread; and beside what the whole daemon was started with.
    if let Err(error) = rustix::process::nice(NICENESS) {
        warn!(sink = kind, %error, "its priority cannot be lowered: its flushes compete with prompt deliveries");
    }
}

#[cfg(test)]
#[path = "deliver_tests.rs"]
pub(super) mod tests;
