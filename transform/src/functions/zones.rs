//! Local time and instants, by the rules of the IANA database that chrono-tz carries (domain 2.4, vector V14).
//!
//! A local time that the clock shows twice is taken as the first of the two; one that it skips moves forward by what it
//! skips. Nothing depends on the machine: neither its zone nor its copy of the database is asked.

use std::sync::Arc;

use arrow::array::{ArrayRef, Date32Array, TimestampMicrosecondArray};
use arrow::datatypes::DataType;
use chrono::{DateTime, LocalResult, NaiveDateTime, Offset, TimeZone};
use chrono_tz::{GapInfo, Tz};

use super::arguments::Arguments;
use super::fault::Fault;
use super::function::{Definition, Gives, Takes};

const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;

pub(super) static DEFINITIONS: [Definition; 3] = [
    Definition {
        name: "local_to_utc",
        takes: &[("ts", Takes::LocalTime), ("zone", Takes::Zone)],
        required: 2,
        repeats: false,
        gives: Gives::Type(super::instant),
        run: local_to_utc,
    },
    Definition {
        name: "is_ambiguous_local",
        takes: &[("ts", Takes::LocalTime), ("zone", Takes::Zone)],
        required: 2,
        repeats: false,
        gives: Gives::Type(|| DataType::Boolean),
        run: is_ambiguous_local,
    },
    Definition {
        name: "local_date",
        takes: &[("ts", Takes::Instant), ("zone", Takes::Zone)],
        required: 2,
        repeats: false,
        gives: Gives::Type(|| DataType::Date32),
        run: local_date,
    },
];

/// The zone of a name.
pub(super) fn parse(name: &str) -> Result<Tz, Fault> {
    name.trim().parse().map_err(|_| Fault::ZoneUnknown)
}

/// An instant, and whether it had to be chosen.
struct Resolved {
    micros: i64,
    is_chosen: bool,
}

fn resolve(local: i64, zone: Tz) -> Result<Resolved, Fault> {
    let clock = calendar(local)?;
    let seconds = |offset: chrono_tz::TzOffset| i64::from(offset.fix().local_minus_utc());
    let (offset, is_chosen) = match zone.offset_from_local_datetime(&clock) {
        LocalResult::Single(offset) => (seconds(offset), false),
        // The greater offset is the earlier instant.
        LocalResult::Ambiguous(one, other) => (seconds(one).max(seconds(other)), true),
        LocalResult::None => {
            // The offset before the gap, by which the instant lies behind it as far as the clock was moved.
            let gap = GapInfo::new(&clock, &zone).and_then(|gap| gap.begin).ok_or(Fault::TimeOutOfRange)?;
            (seconds(gap.1), true)
        }
    };
    let micros = local.checked_sub(offset * SECOND).ok_or(Fault::TimeOutOfRange)?;
    Ok(Resolved { micros, is_chosen })
}

fn calendar(micros: i64) -> Result<NaiveDateTime, Fault> {
    Ok(DateTime::from_timestamp_micros(micros).ok_or(Fault::TimeOutOfRange)?.naive_utc())
}

fn local_to_utc(arguments: &Arguments) -> Result<ArrayRef, Fault> {
    let (local, zone) = (arguments.micros(0), arguments.named(1, parse));
    let instants: TimestampMicrosecondArray =
        arguments.rows(|row| Ok(Some(resolve(local(row)?, zone(row)?)?.micros)))?;
    Ok(Arc::new(instants.with_data_type(super::instant())))
}

fn is_ambiguous_local(arguments: &Arguments) -> Result<ArrayRef, Fault> {
    let (local, zone) = (arguments.micros(0), arguments.named(1, parse));
    arguments.booleans(|row| Ok(resolve(local(row)?, zone(row)?)?.is_chosen))
}

fn local_date(arguments: &Arguments) -> Result<ArrayRef, Fault> {
    let (instant, zone) = (arguments.micros(0), arguments.named(1, parse));
    let days: Date32Array = arguments.rows(|row| {
        let instant = instant(row)?;
        let offset = zone(row)?.offset_from_utc_datetime(&calendar(instant)?).fix().local_minus_utc();
        let local = instant.checked_add(i64::from(offset) * SECOND).ok_or(Fault::TimeOutOfRange)?;
        Ok(Some(i32::try_from(local.div_euclid(DAY)).map_err(|_| Fault::TimeOutOfRange)?))
    })?;
    Ok(Arc::new(days))
}

#[cfg(test)]
mod tests {
    use chrono::Duration;
    use chrono_tz::TZ_VARIANTS;
    use proptest::prelude::*;

    use super::*;

    fn offset_at(zone: Tz, micros: i64) -> Duration {
        let utc = calendar(micros).expect("in range");
        Duration::seconds(i64::from(zone.offset_from_utc_datetime(&utc).fix().local_minus_utc()))
    }

    /// The first minute after `from` at which another offset holds, if one comes within two years.
    fn next_change(zone: Tz, from: i64) -> Option<i64> {
        let old = offset_at(zone, from);
        let mut after = (1..730).map(|day| from + day * DAY).find(|&at| offset_at(zone, at) != old)?;
        let mut before = after - DAY;
        while after - before > 60 * SECOND {
            let middle = before + (after - before) / 2;
            if offset_at(zone, middle) == old { before = middle } else { after = middle }
        }
        Some(after)
    }

    proptest! {
        /// Around changes of the clock, over all zones and two centuries: the earliest instant that shows the clock is taken,
        /// and a clock that never was leads to the instant by which it had been moved on.
        #[test]
        fn every_clock_has_the_instant_that_shows_it(
            zone in 0..TZ_VARIANTS.len(), minutes in -31_000_000_i64..67_000_000, around in -180_i64..180,
        ) {
            let (zone, from) = (TZ_VARIANTS[zone], minutes * 60 * SECOND);
            let local = match next_change(zone, from) {
                Some(change) => change + offset_at(zone, from).num_seconds() * SECOND + around * 60 * SECOND,
                None => from,
            };
            let resolved = resolve(local, zone).expect("in range");
            let clock = calendar(local).expect("in range");
            let shown = |micros: i64| calendar(micros).expect("in range") + offset_at(zone, micros);
            // An instant that shows the clock has an offset of the days around it.
            let shows: Vec<i64> = (-27 * 60..27 * 60)
                .map(|minute| local - offset_at(zone, local + minute * 60 * SECOND).num_seconds() * SECOND)
                .filter(|&micros| shown(micros) == clock)
                .collect();
            match shows.iter().min() {
                Some(&earliest) => {
                    prop_assert_eq!(resolved.micros, earliest);
                    prop_assert_eq!(resolved.is_chosen, shows.iter().any(|&other| other != earliest));
                }
                None => {
                    prop_assert!(resolved.is_chosen);
                    let moved = shown(resolved.micros) - clock;
                    prop_assert!(moved > Duration::zero() && moved <= Duration::hours(24), "{}", moved);
                    // Before it was moved on, the clock went by the offset that was applied.
                    let applied = Duration::microseconds(local - resolved.micros);
                    prop_assert_eq!(offset_at(zone, resolved.micros - moved.num_seconds() * SECOND), applied);
                }
            }
        }
    }
}
