//! Keeping in touch with the server: what is durable is confirmed, silence is noticed, and the end is in order.

use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{CONFIRM_EVERY, DURING, STATUS_EVERY, Stream};
use crate::postgres::copy::Copying;
use crate::postgres::lsn::Lsn;
use crate::postgres::spool::Spool;
use crate::postgres::wire::status_update;
use crate::progress::now_us;
use crate::{CaptureError, Outcome, Resume};

/// How often an idle source's position moves in the journal.
const ADVANCE_EVERY: Duration = Duration::from_secs(1);
/// A wait never lasts longer, so that the stop signal is seen.
const WAIT_MAX: Duration = Duration::from_millis(100);
/// While something waits to become durable: about the time of a few fsyncs.
const WAIT_UNCONFIRMED: Duration = Duration::from_millis(5);
/// A transaction takes its time just before it writes its commit into the log, so one of the last second may be behind what was seen.
const COMMITTING_US: i64 = 1_000_000;
/// After this silence a sign of life is asked for.
const SILENCE: Duration = Duration::from_secs(10);
/// After this one the connection counts as lost, or later where the server is that patient.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How long an orderly end may take.
const FAREWELL: Duration = Duration::from_secs(5);

/// How long the server may be silent. It answers only between two pieces of work, and decoding a large transaction that
/// holds nothing for us is one: its own patience with us says how long it thinks that this may take. Without such a
/// limit the silence has none either; a machine that is gone is found out by the keepalives of TCP.
fn silence_max(wal_sender_timeout: Duration) -> Option<Duration> {
    (!wal_sender_timeout.is_zero()).then(|| SILENCE_MAX.max(wal_sender_timeout * 2))
}

impl Stream<'_> {
    /// Nothing has arrived: hands over what is whole, then waits.
    pub(super) fn idle(&mut self) -> Result<(), CaptureError> {
        if !self.decoder.is_in_transaction() {
            if self.wanted().is_some_and(|target| self.decoder.end() < target && self.sent >= target) {
                self.decoder.advance(self.sent);
            }
            if self.has_news() {
                self.hand_over()?;
            }
        }
        if self.wanted().is_some_and(|target| self.decoder.end() < target) && self.status_at.elapsed() >= WAIT_MAX {
            self.tell(true)?;
        }
        self.ensure_alive()?;
        let wait = if self.unconfirmed.is_empty() { WAIT_MAX } else { WAIT_UNCONFIRMED };
        self.connection.wait(DURING, wait)?;
        Ok(())
    }

    fn ensure_alive(&mut self) -> Result<(), CaptureError> {
        let silence = self.heard_at.elapsed();
        if silence_max(self.identity.wal_sender_timeout).is_some_and(|most| silence > most) {
            let reason = format!("the server has been silent for {} s", silence.as_secs());
            return Err(self.connection.lost(DURING, io::Error::new(io::ErrorKind::TimedOut, reason)));
        }
        if silence > SILENCE && self.status_at.elapsed() >= STATUS_EVERY {
            self.tell(true)?;
        }
        Ok(())
    }

    /// Looks after the tables, moves an idle position, learns what is durable and tells the server, each where that is due.
    pub(super) fn keep_in_touch(&mut self) -> Result<(), CaptureError> {
        let is_proof_of_use = self.copying.is_none() && self.proof.is_none() && !self.watch.has_doubts();
        self.watch.look(is_proof_of_use)?;
        self.prove();
        self.progress().spooled_bytes.store(self.spool.as_ref().map_or(0, Spool::bytes), Ordering::Relaxed);
        // A server that shuts down asks again as soon as it is answered, until all that it has sent is confirmed: it never falls
        // silent.
        if self.advanced_at.elapsed() >= ADVANCE_EVERY && !self.decoder.is_in_transaction() {
            self.advanced_at = Instant::now();
            self.decoder.advance(self.sent);
            if self.has_news() && !self.decoder.has_rows() {
                self.hand_over()?;
            }
        }
        let since = self.status_at.elapsed();
        if since >= STATUS_EVERY || (since >= CONFIRM_EVERY && !self.unconfirmed.is_empty()) {
            self.learn_durable()?;
            if since >= STATUS_EVERY || self.confirmed > self.told {
                self.tell(false)?;
            }
        }
        Ok(())
    }

    /// Finds out up to which moment of the source's clock everything is in the log: the last look at the tables says when it began
    /// and where the server's log ended then, and the stream has to come that far. A frame that ends inside a transaction does
    /// not count: what it holds waits for the rest.
    fn prove(&mut self) {
        if self.copying.is_some() || self.watch.has_doubts() {
            self.proof = None;
            return;
        }
        let reached = |(_, upto): &mut (i64, Lsn)| self.whole.is_some_and(|(end, _)| end >= *upto);
        if let Some(((at_us, _), (_, offset))) = self.proof.take_if(reached).zip(self.whole) {
            self.session.progress.prove(at_us - COMMITTING_US, offset);
        }
        // One that is not reached yet stands before those that are newer.
        if self.proof.is_none() {
            self.proof = self.watch.take_seen();
        }
    }

    pub(super) fn learn_durable(&mut self) -> Result<(), CaptureError> {
        let durable = self.session.log.durable()?;
        while let Some(&(offset, end)) = self.unconfirmed.front() {
            if offset > durable {
                break;
            }
            self.confirmed = self.confirmed.max(end);
            self.unconfirmed.pop_front();
        }
        Ok(())
    }

    pub(super) fn tell(&mut self, want_reply: bool) -> Result<(), CaptureError> {
        status_update(self.connection.outbox(), self.confirmed, now_us(), want_reply);
        self.connection.send(DURING)?;
        self.status_at = Instant::now();
        self.told = self.confirmed;
        self.progress().confirmed_lsn.store(self.confirmed.0, Ordering::Relaxed);
        Ok(())
    }

    /// The position that somebody waits for.
    pub(super) fn wanted(&self) -> Option<Lsn> {
        let proof = self.proof.map(|(_, upto)| upto);
        self.copying.as_deref().map(Copying::target).max(self.drain_to).max(self.watch.doubts_upto()).max(proof)
    }

    pub(super) fn has_drained(&self) -> bool {
        self.copying.is_none()
            && !self.is_outdated
            && self.watch.doubts_upto().is_none()
            && !self.session.requests.is_waiting()
            && self.drain_to.is_some_and(|target| self.decoder.end() >= target && !self.decoder.is_in_transaction())
    }

    /// Ends in order; gives where the next session begins, where all is durable up to there.
    pub(super) fn leave(mut self) -> Result<Option<Resume>, CaptureError> {
        if self.has_news() {
            self.hand_over()?;
        }
        let (log, stop, last) = (self.session.log, self.session.stop, self.last_offset);
        let stands = self.stands.take();
        let source = self.session.config.source.clone();
        self.end(Outcome::Stopped)?;
        if stop.is_stopped() {
            return Ok(None);
        }
        if stands.is_some() && log.durable()? >= last {
            return Ok(stands);
        }
        // Whoever begins a session waits for that.
        let error = io::Error::other("the session begins again, and the log is not durable yet");
        Err(CaptureError::Lost { source_id: source, during: DURING, error })
    }

    /// Ends in order: what is whole becomes durable and is confirmed, then the server is told goodbye.
    pub(super) fn end(mut self, outcome: Outcome) -> Result<Outcome, CaptureError> {
        if self.has_news() && !self.decoder.is_in_transaction() {
            self.hand_over()?;
        }
        let deadline = Instant::now() + FAREWELL;
        loop {
            self.session.log.wait_durable(self.last_offset, STATUS_EVERY)?;
            self.learn_durable()?;
            self.tell(false)?;
            let may_leave =
                Instant::now() > deadline && (outcome == Outcome::Stopped || self.session.stop.is_stopped());
            if self.unconfirmed.is_empty() || may_leave {
                break;
            }
        }
        let all_confirmed = self.unconfirmed.is_empty();
        let farewell = self.connection.end_stream(FAREWELL);
        match farewell {
            Err(error) if outcome == Outcome::Drained => Err(error),
            _ if outcome == Outcome::Drained && all_confirmed => Ok(Outcome::Drained),
            _ => Ok(Outcome::Stopped),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_takes_its_time_is_not_given_up_sooner_than_it_gives_up_on_us() {
        assert_eq!(silence_max(Duration::from_secs(60)), Some(Duration::from_secs(120)));
        assert_eq!(silence_max(Duration::from_millis(500)), Some(Duration::from_secs(30)));
        assert_eq!(silence_max(Duration::ZERO), None);
    }
}
