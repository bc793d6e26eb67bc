//! How long rows took from their commit at the source to a point of the data path, by row.
//!
//! Both clocks are wall clocks, the source's and ours: what is shown includes how far they are apart, and a source whose
//! clock is ahead shows 0.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{TimestampMicrosecondType, UInt8Type};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use syncline_schemas::frame::{COMMIT_TS, Frame, OP, Op};
use syncline_schemas::ident::LogOffset;

/// Upper bounds of the buckets that Prometheus is shown, milliseconds.
pub(crate) const BUCKETS_MS: [u64; 14] = [2, 4, 5, 10, 15, 25, 50, 100, 250, 500, 1_000, 5_000, 30_000, 300_000];

/// Two digits: a quantile is right to a hundredth, for some 20 KiB.
const DIGITS: u8 = 2;

/// Commit time (microseconds since 1970) and the number of neighbouring rows that share it.
pub(crate) type Run = (i64, u64);

/// The times of all rows so far.
#[derive(Debug)]
pub(crate) struct Lag(Mutex<Histogram<u64>>);

/// What a [`Lag`] comes to. Microseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Quantiles {
    pub(crate) rows: u64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) max_us: u64,
}

impl Default for Lag {
    fn default() -> Self {
        Self(Mutex::new(Histogram::new(DIGITS).expect("two digits are within the histogram's range")))
    }
}

impl Lag {
    fn lock(&self) -> MutexGuard<'_, Histogram<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts rows that took so many microseconds.
    #[cfg(test)]
    pub(crate) fn observe(&self, us: u64, rows: u64) {
        // The histogram grows with its largest value, so nothing is refused.
        let _ = self.lock().record_n(us, rows);
    }

    /// Counts rows that arrive now.
    pub(crate) fn observe_runs(&self, runs: &[Run]) {
        let now = now_us();
        let mut histogram = self.lock();
        for &(at, rows) in runs {
            let _ = histogram.record_n(age_us(now, at), rows);
        }
    }

    pub(crate) fn quantiles(&self) -> Quantiles {
        let histogram = self.lock();
        Quantiles {
            rows: histogram.len(),
            p50_us: histogram.value_at_quantile(0.5),
            p99_us: histogram.value_at_quantile(0.99),
            max_us: histogram.max(),
        }
    }

    /// Rows up to each of [`BUCKETS_MS`], all rows, and the sum of their times in seconds, of one moment.
    pub(crate) fn buckets(&self) -> ([u64; BUCKETS_MS.len()], u64, f64) {
        let histogram = self.lock();
        let counts = BUCKETS_MS.map(|ms| histogram.count_between(0, ms * 1_000));
        (counts, histogram.len(), histogram.mean() * histogram.len() as f64 / 1e6)
    }
}

/// Microseconds since 1970 by our clock.
pub(crate) fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// From one moment to a later one.
pub(crate) const fn age_us(now: i64, at: i64) -> u64 {
    if now > at { now.abs_diff(at) } else { 0 }
}

/// The commit times of a batch's rows.
pub(crate) fn runs(rows: &RecordBatch, column: &str) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let Some(times) = rows.column_by_name(column) else { return runs };
    for &at in times.as_primitive::<TimestampMicrosecondType>().values() {
        match runs.last_mut() {
            Some((last, count)) if *last == at => *count += 1,
            _ => runs.push((at, 1)),
        }
    }
    runs
}

/// Rows of one source on their way to the disk.
#[derive(Debug, Default)]
pub(crate) struct OnTheWay(Mutex<VecDeque<(LogOffset, Vec<Run>)>>);

impl OnTheWay {
    /// Takes note of a frame that was appended. Copied rows do not count: nobody committed them just now.
    pub(crate) fn note(&self, offset: LogOffset, runs: Vec<Run>) {
        if !runs.is_empty() {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back((offset, runs));
        }
    }

    /// Counts what is durable now.
    pub(crate) fn arrived(&self, durable: LogOffset, lag: &Lag) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((_, runs)) = waiting.pop_front_if(|(offset, _)| *offset <= durable) {
            lag.observe_runs(&runs);
        }
    }
}

/// The commit times of a frame's streamed rows.
pub(crate) fn streamed_runs(frame: &Frame) -> Vec<Run> {
    let is_copied = |rows: &RecordBatch| {
        let ops = rows.column_by_name(OP).map(|ops| ops.as_primitive::<UInt8Type>());
        ops.is_some_and(|ops| !ops.is_empty() && ops.value(0) == Op::Read as u8)
    };
    let streamed = frame.batches.iter().filter(|batch| !is_copied(&batch.rows));
    streamed.flat_map(|batch| runs(&batch.rows, COMMIT_TS)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_row_shows_in_the_tail_and_not_in_the_middle() {
        let lag = Lag::default();
        lag.observe(2_000, 990);
        lag.observe(80_000, 10);
        let quantiles = lag.quantiles();
        assert_eq!(quantiles.rows, 1_000);
        assert!((1_950..2_050).contains(&quantiles.p50_us), "{quantiles:?}");
        assert!((79_000..81_000).contains(&quantiles.max_us), "{quantiles:?}");
        let (buckets, rows, seconds) = lag.buckets();
        assert_eq!((buckets[1], buckets[6], buckets[7], rows), (990, 990, 1_000, 1_000));
        assert!((2.7..2.9).contains(&seconds), "{seconds}");
    }

    #[test]
    fn a_source_whose_clock_is_ahead_does_not_show_half_a_million_years() {
        assert_eq!(age_us(5, 9), 0);
        assert_eq!(age_us(9, 5), 4);
    }

    #[test]
    fn rows_count_once_they_are_durable() {
        let (lag, on_the_way) = (Lag::default(), OnTheWay::default());
        on_the_way.note(LogOffset(1), vec![(now_us(), 3)]);
        on_the_way.note(LogOffset(2), vec![(now_us(), 4)]);
        on_the_way.arrived(LogOffset(1), &lag);
        assert_eq!(lag.quantiles().rows, 3);
        on_the_way.arrived(LogOffset(9), &lag);
        assert_eq!(lag.quantiles().rows, 7);
    }
}
