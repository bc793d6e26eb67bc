//! Refused rows as a source of deltas: those that are due, or asked for.

use syncline_journal::Space;
use syncline_schemas::delta;
use syncline_schemas::ident::Version;
use syncline_sinks::{DeltaSource, OutboxEntry, OutboxIter, Reject, SinkError, Span};

use super::row::parse;
use super::{Refused, malformed};
use crate::pipeline::outbox::unreadable;

/// The rows that are to be sent again, whatever span is asked for.
pub(in crate::pipeline) struct Again<'r>(pub(in crate::pipeline) &'r Refused);

impl DeltaSource for Again<'_> {
    fn read(&self, _: Span) -> Result<OutboxIter<'_>, SinkError> {
        let Self(refused) = self;
        let (timed, confirmed) = {
            let state = refused.lock();
            (state.pass.timed, state.confirmed)
        };
        let pairs = refused.store.scan_prefix(Space::Sinks, &refused.prefix());
        let entries = pairs.map(move |pair| {
            let (_, value) = pair.map_err(|error| unreadable(&error))?;
            let (head, row) = parse(&value).ok_or_else(|| malformed(&refused.sink))?;
            let version: Version = head.version.parse()?;
            let may_go = version.offset() <= confirmed;
            let is_wanted = may_go && !row.is_empty() && (head.asked || head.retryable && timed);
            let deltas = if is_wanted { delta::decode(row)? } else { Vec::new() };
            deltas.iter().try_for_each(|batch| refused.observe(batch))?;
            Ok(OutboxEntry { offset: version.offset(), deltas })
        });
        Ok(Box::new(entries))
    }

    fn refused(&self, rejects: Vec<Reject>) -> Result<(), SinkError> {
        self.0.keep(rejects)
    }
}
