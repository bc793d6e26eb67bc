//! The copy of tables beside the stream: it goes on where the stream waits, between two transactions.

use std::time::Instant;

use syncline_schemas::frame::LogEntry;
use tracing::info;

use super::{CONFIRM_EVERY, DURING, STATUS_EVERY, Stream};
use crate::postgres::copy::{Copied, Copying};
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
        if copying.is_read() {
            let end = copying.end(self.session, self.decoder.end())?;
            self.copying = None;
            self.decoder.note_none();
            self.hand_over_with(end)?;
            info!(source = %self.session.config.source, at = %self.appended, "copied the tables");
            self.progress().enter(State::Streaming);
            return Ok(());
        }
        if !self.may_copy()? {
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
        self.hand_over()
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
