//! The copy of tables beside the stream: it goes on where the stream waits, between two transactions.

use std::time::Instant;

use syncline_schemas::frame::LogEntry;
use tracing::info;

use super::{CONFIRM_EVERY, DURING, STATUS_EVERY, Stream};
use crate::postgres::copy::{Copied, Copying, Ledger};
use crate::postgres::session::under_way;
use crate::{CaptureError, State};

impl Stream<'_> {
    /// Goes on with the copy where the stream has come as far as what was copied, or ends it.
    pub(super) fn copy(&mut self) -> Result<(), CaptureError> {
        let Some(copying) = self.copying.clone() else { return Ok(()) };
        let is_between = !self.decoder.is_in_transaction() && !self.decoder.is_resuming();
        if !is_between || self.decoder.end() < copying.target() {
            return Ok(());
        }
        if self.has_news() {
            // Among it may be rows that are to be read once more.
            self.hand_over()?;
        }
        self.settle(&copying)?;
        if copying.is_read() {
            let end = copying.end(self.session, self.decoder.end())?;
            self.copying = None;
            self.decoder.note_none();
            self.hand_over_with(end)?;
            info!(source = %self.session.config.source, at = %self.appended, "copied the tables");
            self.progress().enter(State::Streaming);
            return Ok(());
        }
        // Of a table that has another shape now the next session reads the rows.
        if self.is_outdated || copying.waits_for_locks() || !self.may_copy()? {
            return Ok(());
        }
        let again = copying.beginning_again(self.session, self.decoder.end())?;
        if !again.is_empty() {
            self.hand_over_with(again)?;
        }
        copying.round(self.session, self.decoder.end(), &mut |copied| {
            if let Some(copied) = copied {
                self.append_copied(&copying, copied)?;
            }
            if self.status_at.elapsed() >= STATUS_EVERY {
                self.learn_durable()?;
                self.tell(false)?;
            }
            Ok(())
        })?;
        // The server may have waited for us to read.
        self.heard_at = Instant::now();
        for (table, version, snapshot) in copying.take_seen() {
            self.decoder.counted().count(table, version, Some(snapshot));
        }
        self.hand_over()
    }

    /// Whoever asks for a table that is being read is told so at once: another session would say the same, and begin with it from its
    /// beginning where it has no key.
    pub(super) fn refuse_requests(&self) {
        let Some(copying) = self.copying.as_ref().filter(|_| self.session.requests.is_waiting()) else { return };
        let (ledger, scope) = (copying.ledger(), self.watch.scope());
        self.session.requests.refuse(|table| scope.named(table).and_then(|table| under_way(&ledger, table)));
    }

    /// What of the tables without a key counts as the session begins.
    pub(super) fn begin_to_count(&mut self) {
        for table in self.watch.scope().tables().filter(|table| table.is_multiset()) {
            let is_void = self.copying.as_ref().is_some_and(|copying| copying.passes_over(table.oid));
            match self.watch.scope().shape_of(table.oid).filter(|_| !is_void) {
                Some(version) => self.decoder.counted().count(table.oid, version, None),
                None if is_void => self.decoder.counted().make_void(table.oid),
                None => {}
            }
        }
    }

    /// From here on tables without a key that were read count: the stream has told all that the reads have seen.
    fn settle(&mut self, copying: &Copying) -> Result<(), CaptureError> {
        let settled = copying.settle();
        for (table, version) in &settled {
            self.decoder.counted().count(*table, *version, None);
            self.watch.hold_shape(*table, *version);
        }
        let ends = copying.ends_of(self.session, self.decoder.end(), &settled)?;
        if ends.is_empty() { Ok(()) } else { self.hand_over_with(ends) }
    }

    /// The rows of a table without a key have another shape than when they were counted: as soon as the transaction is over, it is read
    /// anew, and nothing counts before that.
    pub(super) fn outdate(&mut self, table: u32) {
        info!(source = %self.session.config.source, table, "the columns of a table without a key have changed: it is read anew");
        self.is_outdated = true;
        match &self.copying {
            Some(copying) => copying.make_void(table),
            None => self.outdated.get_or_insert_with(Ledger::beside).make_void(table),
        }
    }

    /// Whether a read sees all that the stream has told of.
    fn may_copy(&mut self) -> Result<bool, CaptureError> {
        if self.asked_at.is_some_and(|asked| asked.elapsed() < CONFIRM_EVERY) {
            return Ok(false);
        }
        self.asked_at = Some(Instant::now());
        let rows = self.watch.ask("looking which transactions are open", self.gate.sql())?;
        let told = self.decoder.told();
        let opens = rows.first().and_then(|row| self.gate.opens(row, told.unwrap_or(&mut Vec::new())));
        let opens = opens.ok_or_else(|| self.connection.protocol(DURING, "the server has no snapshot"))?;
        if opens {
            self.decoder.forget_told();
            self.asked_at = None;
        }
        Ok(opens)
    }

    /// Hands rows that were copied to the log, at the place where the stream waits.
    fn append_copied(&mut self, copying: &Copying, copied: Copied) -> Result<(), CaptureError> {
        let Copied { batch, counts, bytes } = copied;
        copying.take_given_up().into_iter().for_each(|table| self.watch.distrust(table));
        let frame = self.frame(self.decoder.end(), None, Some(copying), vec![batch]);
        self.last_offset = self.session.log.append(LogEntry::Frame(frame))?;
        self.progress().observe_frame(&counts);
        self.progress().observe_message(bytes);
        Ok(())
    }
}
