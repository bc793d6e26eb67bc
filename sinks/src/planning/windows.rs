//! Times at which a target is not to be spoken to: its nightly plan run, its maintenance.
//!
//! They are told by the clock of the place where the target is run, so that they move with its summer time. What waits meanwhile is
//! coalesced as under any backlog.

use std::str::FromStr;

use chrono::{DateTime, Datelike as _, Days, NaiveDateTime, NaiveTime, TimeDelta, TimeZone as _, Utc, Weekday};
use chrono_tz::Tz;

/// Windows that follow each other for longer leave a target no time at all.
const LONGEST: TimeDelta = TimeDelta::days(8);

/// A window that comes again every week or every day.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Window {
    /// Days on which it begins, Monday first.
    days: [bool; 7],
    from: NaiveTime,
    /// Not later than `from` where it ends on the next day.
    to: NaiveTime,
}

/// All windows of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Windows {
    zone: Tz,
    windows: Vec<Window>,
}

impl Windows {
    /// Reads a zone, as in `Europe/Berlin`, and windows, as in `Mon-Fri 22:00-23:30`, `Sun 02:00-06:00` or `23:00-01:00`.
    ///
    /// # Errors
    /// What is wrong with which of them.
    pub fn parse(zone: &str, windows: &[String]) -> Result<Self, String> {
        let zone =
            zone.parse().map_err(|_| format!("{zone} is no time zone; write one as in Europe/Berlin, or UTC"))?;
        let windows = windows.iter().map(|window| window.parse()).collect::<Result<Vec<Window>, String>>()?;
        let all = Self { zone, windows };
        match all.end(Utc::now()) {
            Some(end) if end - Utc::now() > LONGEST => Err("they leave no time for deliveries".to_owned()),
            _ => Ok(all),
        }
    }

    /// When the windows that a moment is in are over; none where it is in none.
    pub(super) fn end(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut at = now;
        while let Some(end) = self.windows.iter().filter_map(|window| window.end(self.zone, at)).max() {
            at = end;
            if end - now > LONGEST {
                break;
            }
        }
        (at > now).then_some(at)
    }
}

impl Window {
    /// When it is over, of a moment that it holds.
    fn end(&self, zone: Tz, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let today = now.with_timezone(&zone).date_naive();
        let yesterday = today.checked_sub_days(Days::new(1))?;
        [yesterday, today].into_iter().find_map(|day| {
            if !self.days[day.weekday().num_days_from_monday() as usize] {
                return None;
            }
            let last = if self.to <= self.from { day.checked_add_days(Days::new(1))? } else { day };
            let (begin, end) = (utc(zone, day.and_time(self.from))?, utc(zone, last.and_time(self.to))?);
            (begin <= now && now < end).then_some(end)
        })
    }
}

/// A local time as an instant: of one that comes twice the later, of one that a clock skips the moment that it skips to.
fn utc(zone: Tz, local: NaiveDateTime) -> Option<DateTime<Utc>> {
    let there = zone.from_local_datetime(&local).latest();
    let there = there.or_else(|| zone.from_local_datetime(&(local + TimeDelta::hours(1))).latest());
    there.map(|there| there.with_timezone(&Utc))
}

impl FromStr for Window {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fault = || format!("\"{text}\" is no window; write one as in \"Mon-Fri 22:00-23:30\" or \"23:00-01:00\"");
        let (days, times) = match text.trim().rsplit_once(' ') {
            Some((days, times)) => (days.trim(), times),
            None => ("Mon-Sun", text.trim()),
        };
        let (from, to) = times.split_once('-').ok_or_else(fault)?;
        let time = |text: &str| NaiveTime::parse_from_str(text.trim(), "%H:%M").map_err(|_| fault());
        let (first, last) = days.split_once('-').unwrap_or((days, days));
        let day = |text: &str| text.trim().parse::<Weekday>().map_err(|_| fault());
        let (mut day, last) = (day(first)?, day(last)?);
        let mut on = [false; 7];
        on[day.num_days_from_monday() as usize] = true;
        while day != last {
            day = day.succ();
            on[day.num_days_from_monday() as usize] = true;
        }
        Ok(Self { days: on, from: time(from)?, to: time(to)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(windows: &[&str]) -> Result<Windows, String> {
        Windows::parse("Europe/Berlin", &windows.iter().map(|window| (*window).to_owned()).collect::<Vec<_>>())
    }

    fn end(of: &Windows, now: &str) -> Option<String> {
        of.end(now.parse().expect("an instant")).map(|end| end.to_rfc3339())
    }

    #[test]
    fn nothing_is_sent_into_a_plan_run_whatever_the_season_and_across_midnight() {
        let nightly = windows(&["Mon-Fri 22:00-23:30", "23:00-01:00"]).expect("windows");
        // A Thursday in winter: Berlin is an hour ahead.
        assert_eq!(end(&nightly, "2026-01-15T20:59:59Z"), None);
        assert_eq!(
            end(&nightly, "2026-01-15T21:00:00Z").as_deref(),
            Some("2026-01-16T00:00:00+00:00"),
            "one after the other"
        );
        assert_eq!(end(&nightly, "2026-01-15T23:59:59Z").as_deref(), Some("2026-01-16T00:00:00+00:00"));
        assert_eq!(end(&nightly, "2026-01-16T00:00:00Z"), None);
        assert_eq!(end(&nightly, "2026-07-16T20:30:00Z").as_deref(), Some("2026-07-16T23:00:00+00:00"), "in summer");
        assert_eq!(end(&nightly, "2026-01-17T21:30:00Z"), None, "a Saturday before eleven");
        let skipped = windows(&["Sun 02:30-04:00"]).expect("windows");
        assert_eq!(
            end(&skipped, "2026-03-29T01:45:00Z").as_deref(),
            Some("2026-03-29T02:00:00+00:00"),
            "02:30 is not that night"
        );
    }

    #[test]
    fn a_window_that_cannot_be_meant_is_refused() {
        for wrong in ["22:00", "Mon 22-23", "Someday 22:00-23:00", "25:00-26:00", ""] {
            assert!(windows(&[wrong]).is_err_and(|why| why.contains("is no window")), "{wrong}");
        }
        assert!(windows(&["00:00-12:00", "12:00-00:00"]).is_err_and(|why| why.contains("leave no time")));
        assert!(Windows::parse("Mars/Base", &[]).is_err_and(|why| why.contains("Mars/Base is no time zone")));
    }
}
