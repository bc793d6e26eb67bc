//! How long a server keeps its log, and what is found of that.
//!
//! ```text
//! binlog_expire_logs_seconds      MySQL, MariaDB from 10.6; 0 is for ever
//! expire_logs_days                what MySQL 8.0 goes by where the other is 0
//! binlog_expire_logs_auto_purge   off (MySQL): nothing goes by itself
//! ```
//! A file goes once so long has passed since it was last written to, and never the one that is written to now. Servers can be told to
//! remove their log by other measures as well, and by hand: of that nothing is known beforehand.

use std::time::Duration;

use super::server::Settings;
use super::wire::Connection;
use crate::CaptureError;
use crate::finding::{Finding, Remedy, Severity};

const SECONDS: &str = "binlog_expire_logs_seconds";
const DAYS: &str = "expire_logs_days";
const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;
/// A daemon that is down over night is no reason to read everything anew.
const KEPT_MIN: Duration = Duration::from_secs(DAY);
/// A weekend, and somebody to look at it on Monday.
const KEPT_WANTED: u64 = 3 * DAY;

/// How long the server keeps its log; none where nothing goes by its age.
fn kept(settings: &Settings) -> Option<Duration> {
    if settings.get("binlog_expire_logs_auto_purge") == "OFF" {
        return None;
    }
    let number = |name: &str| settings.get(name).parse::<u64>().ok().filter(|number| *number > 0);
    let seconds = number(SECONDS).or_else(|| number(DAYS).map(|days| days.saturating_mul(DAY)));
    seconds.map(Duration::from_secs)
}

/// As the server has it now.
pub(super) fn ask(connection: &mut Connection) -> Result<Option<Duration>, CaptureError> {
    let sql = format!(
        "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('{SECONDS}', '{DAYS}', 'binlog_expire_logs_auto_purge')"
    );
    Ok(kept(&Settings::ask(connection, &sql)?))
}

/// A log that is kept for less than a day.
pub(super) fn finding(settings: &Settings, is_mariadb: bool) -> Option<Finding> {
    let kept = kept(settings).filter(|kept| *kept < KEPT_MIN)?;
    let is = settings.get(SECONDS);
    let (verb, then) =
        if is_mariadb { ("SET GLOBAL", "then write it into the server's configuration") } else { ("SET PERSIST", "") };
    Some(Finding {
        severity: Severity::Warning,
        object: format!("setting {SECONDS}"),
        message: format!(
            "is {is}, so that the log goes after {} h {} min: where the daemon is down for longer, changes are lost to it",
            kept.as_secs() / HOUR,
            kept.as_secs() % HOUR / 60
        ),
        remedy: Remedy::Sql {
            apply: format!("{verb} {SECONDS} = {KEPT_WANTED};"),
            undo: format!("{verb} {SECONDS} = {is};"),
            then,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_goes_within_a_night_is_found_and_one_that_stays_is_not() {
        let of = |settings: &[(&str, &str)]| finding(&Settings::of(settings), false);
        let found = of(&[(SECONDS, "5430")]).unwrap();
        assert!(found.severity == Severity::Warning && found.message.contains("after 1 h 30 min"), "{found:?}");
        assert_eq!(found.remedy.to_string(), "SET PERSIST binlog_expire_logs_seconds = 259200;");
        for kept in [
            &[(SECONDS, "86400")][..],
            &[(SECONDS, "0")],
            &[(SECONDS, "0"), (DAYS, "1")],
            &[(SECONDS, "0"), (DAYS, "0.000000")],
            &[(SECONDS, "60"), ("binlog_expire_logs_auto_purge", "OFF")],
            &[],
        ] {
            assert_eq!(of(kept), None, "{kept:?}");
        }
    }

    #[test]
    fn days_count_where_there_are_no_seconds() {
        let days = |days: &str| kept(&Settings::of(&[(SECONDS, "0"), (DAYS, days)]));
        assert_eq!(days("7"), Some(Duration::from_secs(7 * DAY)));
        assert_eq!(days("0"), None);
    }
}
