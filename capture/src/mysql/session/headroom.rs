//! How much of the server's log is not read yet, and how long that will be there: nothing at the server keeps it for us.
//!
//! A file goes once so long has passed since it was last written to, and what we have read of it is no younger than that: so what
//! follows is there for as long as the log is kept, less the age of what was read last. The file that is written to now never goes, so
//! whoever reads that one has all of the time. The end of it is told to whoever watches as a moment: it comes nearer by
//! itself while the server cannot be reached.

use std::time::{Duration, Instant};

use tracing::warn;

use super::Stream;
use crate::CaptureError;
use crate::mysql::place::Place;
use crate::mysql::retention;
use crate::progress::now_us;

const DURING: &str = "looking how much of the log is not read";
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Where less than this part of the time is left, it is time to wake somebody.
const SHORT: u32 = 4;

#[derive(Default)]
pub(super) struct Headroom {
    looked_at: Option<Instant>,
    /// The user may not look.
    is_blind: bool,
    /// It was said that the time is short.
    is_short: bool,
}

impl Stream<'_> {
    /// Looks at the server's files where it is time to.
    pub(super) fn look_behind(&mut self) -> Result<(), CaptureError> {
        let is_due = self.headroom.looked_at.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY);
        if !is_due || self.headroom.is_blind {
            return Ok(());
        }
        let Some((read, written_at)) = self.decoder.place() else { return Ok(()) };
        self.headroom.looked_at = Some(Instant::now());
        let connection = &mut self.proof.connection;
        let files = match connection.query(DURING, "SHOW BINARY LOGS") {
            Err(CaptureError::Server { .. }) => {
                self.headroom.is_blind = true;
                return Ok(());
            }
            files => files?,
        };
        let files: Vec<Place> = files.iter().filter_map(|row| Place::of(row.text(0), row.text(1))).collect();
        let Some((behind, is_last)) = behind(&files, read) else { return Ok(()) };
        let kept = retention::ask(connection)?;
        let now = connection.query(DURING, "SELECT UNIX_TIMESTAMP()")?;
        let now: u64 = now.first().and_then(|row| row.text(0).parse().ok()).unwrap_or_default();
        let left = kept.map(|kept| left(kept, is_last, now, u64::from(written_at)));
        self.progress.observe_log(behind, left.map(|left| now_us().saturating_add_unsigned(micros(left))));
        let is_short = left.zip(kept).is_some_and(|(left, kept)| left < kept / SHORT);
        if is_short && !self.headroom.is_short {
            warn!(
                source = %self.config.source, behind_bytes = behind, left_s = left.map(|left| left.as_secs()),
                "the server will soon remove log that is not read: find out what holds the source up, or have it keep more"
            );
        }
        self.headroom.is_short = is_short;
        Ok(())
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Bytes of log behind a place, and whether it lies in the file that is written to now; none where its file is not there any more.
fn behind(files: &[Place], read: &Place) -> Option<(u64, bool)> {
    let place = files.iter().position(|known| known.file == read.file)?;
    let (first, rest) = files[place..].split_first()?;
    let bytes = first.at.saturating_sub(read.at) + rest.iter().map(|known| known.at).sum::<u64>();
    Some((bytes, rest.is_empty()))
}

/// How long what follows is there yet, by the server's clock in seconds.
fn left(kept: Duration, is_last: bool, now: u64, written_at: u64) -> Duration {
    let age = if is_last { 0 } else { now.saturating_sub(written_at) };
    kept.saturating_sub(Duration::from_secs(age))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_is_as_old_as_the_file_that_it_lies_in_may_be() {
        let left = |is_last, written_at| left(Duration::from_secs(3_600), is_last, 10_000, written_at).as_secs();
        assert_eq!(left(false, 7_000), 600);
        assert_eq!(left(true, 7_000), 3_600, "the file that is written to does not go");
        assert_eq!(left(false, 5_000), 0, "it may be gone at any moment");
        assert_eq!(left(false, 10_007), 3_600, "another clock");
    }

    #[test]
    fn what_is_not_read_is_the_rest_of_a_file_and_all_that_come_after_it() {
        let place = |file: &str, at| Place { file: file.to_owned(), at };
        let files = [place("bin.000001", 100), place("bin.000002", 50), place("bin.000003", 20)];
        assert_eq!(behind(&files, &place("bin.000001", 30)), Some((140, false)));
        assert_eq!(behind(&files, &place("bin.000003", 20)), Some((0, true)));
        assert_eq!(behind(&files, &place("bin.000003", 25)), Some((0, true)), "it has grown since");
        assert_eq!(behind(&files, &place("bin.000000", 30)), None, "it was purged");
    }
}
