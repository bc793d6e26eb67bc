//! An outbox of which more becomes visible while a sink is at work.

use syncline_schemas::ident::LogOffset;
use syncline_sinks::{DeltaSource, OutboxIter, Reject, SinkError, Span};
use tokio::sync::watch;

use crate::outbox::Outbox;

/// An outbox that is visible up to an entry.
pub(crate) struct Growing<'o> {
    pub(crate) outbox: &'o Outbox,
    pub(crate) visible: watch::Sender<LogOffset>,
}

impl<'o> Growing<'o> {
    pub(crate) fn new(outbox: &'o Outbox, visible: LogOffset) -> Self {
        Self { outbox, visible: watch::Sender::new(visible) }
    }
}

#[async_trait::async_trait]
impl DeltaSource for Growing<'_> {
    fn read(&self, span: Span) -> Result<OutboxIter<'_>, SinkError> {
        assert!(span.upto <= *self.visible.borrow(), "what is not visible may still be taken back");
        self.outbox.read(span)
    }

    fn visible(&self) -> Option<LogOffset> {
        Some(*self.visible.borrow())
    }

    async fn visible_behind(&self, offset: LogOffset) {
        self.visible.subscribe().wait_for(|visible| *visible > offset).await.expect("the sender lives here");
    }

    fn refused(&self, rejects: Vec<Reject>) -> Result<(), SinkError> {
        self.outbox.refused(rejects)
    }
}
