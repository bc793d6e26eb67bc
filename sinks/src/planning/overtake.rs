//! Critical rows overtake the others: a span is written on two tracks side by side, each at its own pace.
//!
//! ```text
//! outbox   |<------- span ------->|<--------- visible --------->|
//! urgent   ..........delivered..............>                        goes on beyond the span while the others are under way
//! others   ....delivered...>                                         never beyond what is urgent
//! ```
//!
//! What is urgent are critical entities and, so that no fact waits for its master, the masters that they cite, whatever those
//! are by themselves. So nothing that is urgent ever cites anything that is not, and the tracks need each other in one
//! direction only: the others come behind the urgent rows that lie before them in the outbox, which they may cite. The
//! urgent track waits for nobody: there is no deadlock. Where both have rows the [gate](super::gate) shares requests out, and gives the others
//! enough not to starve; and a span ends with its last row of either, so it is never held up by urgent rows behind it.
//!
//! An entity has one track, and a lane one entity: order per key, batch numbers and watermarks know nothing of this. How far
//! the urgent track is beyond the confirmed span is remembered in memory alone and after a good write alone. Whoever begins
//! again, in this process or another one, reads from the cursor, and lanes pass over what their watermarks cover: so
//! another choice of what is critical needs no care, and no data folder has to be told of this.
//!
//! After a maintenance window the others wait until the urgent rows that had gathered by its end are through.

use syncline_schemas::ident::LogOffset;
use tokio::sync::watch;

use super::chunk::Chunk;
use super::client::Stop;
use super::track::{Epochs, Shared, Track};
use crate::{DeltaSource, Span, Written};

/// A write on two tracks.
pub(super) struct Write<'w> {
    pub(super) shared: Shared<'w>,
    pub(super) span: Span,
    pub(super) deltas: &'w dyn DeltaSource,
    /// Up to here everything urgent has arrived.
    reached: watch::Sender<LogOffset>,
    /// True once the others of the span have arrived.
    done: watch::Sender<bool>,
}

impl<'w> Write<'w> {
    /// A write of a span, of which what is urgent has arrived up to `ahead`.
    pub(super) fn new(shared: Shared<'w>, span: Span, deltas: &'w dyn DeltaSource, ahead: LogOffset) -> Self {
        let reached = watch::Sender::new(ahead.max(span.after));
        Self { shared, span, deltas, reached, done: watch::Sender::new(false) }
    }

    /// Delivers the span, and of what is urgent as much as possible meanwhile; says up to where.
    pub(super) async fn run(
        self,
        urgent: &mut Track,
        others: &mut Track,
    ) -> Result<(Written, Epochs, LogOffset), Stop> {
        // The first is asked first, always.
        let ((mut written, epochs), (more, of_others)) =
            futures::try_join!(self.deliver_urgent(urgent), self.deliver_others(others))?;
        written.absorb(more);
        let reached = *self.reached.borrow();
        Ok((written, epochs.and(of_others), reached))
    }

    async fn deliver_urgent(&self, track: &mut Track) -> Result<(Written, Epochs), Stop> {
        let (mut written, mut epochs) = (Written::default(), Epochs::default());
        while let Some(upto) = self.next_urgent().await {
            let reads = track.reads.clone();
            let mut entries = self.deltas.read_of(Span { after: self.at(), upto }, &reads)?;
            while let Some(chunk) = Chunk::read(&mut entries, &reads).await? {
                let sent = track.deliver(self.shared, &chunk, self.deltas, &mut epochs).await?;
                self.deltas.arrived(&reads);
                if chunk.last > self.span.upto {
                    self.shared.stats.ahead(sent.rows);
                }
                written.absorb(sent);
                // The last entry may have more rows in the next chunk.
                let whole = LogOffset(chunk.last.0.saturating_sub(1));
                self.reached.send_replace(whole.max(self.at()));
                if self.at() >= self.span.upto && *self.done.borrow() {
                    return Ok((written, epochs));
                }
            }
            self.reached.send_replace(upto);
        }
        Ok((written, epochs))
    }

    fn at(&self) -> LogOffset {
        *self.reached.borrow()
    }

    /// Up to where what is urgent is delivered next: to the end of the span, and then whatever becomes visible while the
    /// others are under way.
    async fn next_urgent(&self) -> Option<LogOffset> {
        let at = self.at();
        if at < self.span.upto {
            return Some(self.span.upto);
        }
        let mut done = self.done.subscribe();
        loop {
            if *done.borrow_and_update() {
                return None;
            }
            if let Some(visible) = self.deltas.visible().filter(|visible| *visible > at) {
                return Some(visible);
            }
            tokio::select! {
                _ = done.changed() => {}
                () = self.deltas.visible_behind(at) => {}
            }
        }
    }

    async fn deliver_others(&self, track: &mut Track) -> Result<(Written, Epochs), Stop> {
        let (mut written, mut epochs) = (Written::default(), Epochs::default());
        let mut at = self.span.after;
        let mut windows = track.client.windows_ended();
        while at < self.span.upto {
            let upto = self.urgent_behind(at).await.min(self.span.upto);
            let reads = track.reads.clone();
            let mut entries = self.deltas.read_of(Span { after: at, upto }, &reads)?;
            while let Some(chunk) = Chunk::read(&mut entries, &self.shared.config.entities).await? {
                if std::mem::replace(&mut windows, track.client.windows_ended()) != windows {
                    self.catch_up().await;
                }
                written.absorb(track.deliver(self.shared, &chunk, self.deltas, &mut epochs).await?);
                self.deltas.arrived(&reads);
            }
            at = upto;
        }
        self.done.send_replace(true);
        Ok((written, epochs))
    }

    /// Waits until what is urgent has arrived beyond an offset; says up to where.
    async fn urgent_behind(&self, offset: LogOffset) -> LogOffset {
        let mut reached = self.reached.subscribe();
        // The sender lives in self, so it cannot be gone.
        let _ = reached.wait_for(|reached| *reached > offset).await;
        self.at()
    }

    /// Waits until all that is urgent and visible now has arrived.
    async fn catch_up(&self) {
        if let Some(visible) = self.deltas.visible() {
            let _ = self.reached.subscribe().wait_for(|reached| *reached >= visible).await;
        }
    }
}
