//! One table for what an answer means (domain 4.4), and what the sink then does.

use std::time::Duration;

use super::contract::{
    DIGEST_MISMATCH, FENCED_EPOCH, KEY_REUSED, REQUEST_IN_PROGRESS, SEQUENCE_GAP, SNAPSHOT_INCOMPLETE,
};

/// Asked-for waits are honoured up to this; a mistyped `Retry-After` must not silence a flow for years.
pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_secs(3_600);

/// What to do about answers that no PDX/1 service gives.
pub(super) const NOT_PDX: &str = "check that the sink's url is the base of a PDX/1 service, ending in /pdx/v1";

/// The meaning of an answer that is not the receipt of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Overload or an accident: the same bytes again, after jitter; patience runs out.
    RetryTransient,
    /// The target asks to wait: no failure, patience does not run.
    Throttle,
    /// The same request is still being worked on: ask again.
    Wait,
    /// The target expects another batch number: begin again from its watermark.
    Rewind,
    /// We are not known: our proof may be an old one.
    Unauthorized,
    /// We are not who we should be.
    Auth,
    /// One of us does not trust the other's certificate.
    Tls,
    /// The target cannot take batches of this size.
    TooLarge,
    /// The target refuses the batch as a whole.
    BatchRefused,
    /// Another daemon with a newer state writes this flow.
    Fenced,
    /// The target is not what the configuration says.
    FatalConfig,
    /// The target accepts for later and does not say where to ask for that.
    Asynchronous,
    /// What was asked for is not there.
    Gone,
    /// The answer is longer than any that we could use.
    Endless,
}

/// An attempt that brought no answer of use.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) verdict: Verdict,
    pub(super) reason: String,
    /// How long the target asks to wait.
    pub(super) wait: Option<Duration>,
    /// Where to ask for what it works on.
    pub(super) job: Option<String>,
    /// The target's word for it; empty where it has none.
    pub(super) problem: String,
}

impl Failure {
    /// One of which nothing more is known.
    pub(super) const fn of(verdict: Verdict) -> Self {
        Self { verdict, reason: String::new(), wait: None, job: None, problem: String::new() }
    }
}

/// Judges a status with the name of its problem.
pub(super) fn judge(status: u16, problem: &str, retry_after: Option<Duration>) -> Verdict {
    match (status, problem) {
        (202, _) => Verdict::Asynchronous,
        (409, SEQUENCE_GAP) => Verdict::Rewind,
        (409, REQUEST_IN_PROGRESS) => Verdict::Wait,
        (409, FENCED_EPOCH) => Verdict::Fenced,
        (422, KEY_REUSED) => Verdict::FatalConfig,
        // The body was damaged on its way.
        (400, DIGEST_MISMATCH) => Verdict::RetryTransient,
        (429 | 423, _) => Verdict::Throttle,
        // The target is busy with itself and says so in its own way.
        (409 | 422, "plan-run-in-progress" | "plan_run_in_progress" | "period-locked" | "period_locked") => {
            Verdict::Throttle
        }
        (503, _) if retry_after.is_some() => Verdict::Throttle,
        // What the method or the protocol lacks does not come by waiting; every other failure inside may pass, also the
        // 520s of proxies, 507 of a full disk and 529 of an overloaded service.
        (501 | 505, _) => Verdict::FatalConfig,
        (408 | 425 | 500..=599, _) => Verdict::RetryTransient,
        (401, _) => Verdict::Unauthorized,
        (403, _) => Verdict::Auth,
        (413, _) => Verdict::TooLarge,
        (404 | 410, _) | (409, SNAPSHOT_INCOMPLETE) => Verdict::Gone,
        // It is about the request, and every other would be refused as well.
        (400 | 422, "bad-header" | "unsupported-schema" | "malformed-batch" | "malformed-snapshot") => {
            Verdict::FatalConfig
        }
        (400 | 422, _) => Verdict::BatchRefused,
        _ => Verdict::FatalConfig,
    }
}

impl Verdict {
    /// What an operator should do, where nothing else helps.
    pub(super) const fn remedy(self) -> Option<&'static str> {
        match self {
            Self::RetryTransient | Self::Throttle | Self::Wait | Self::Rewind => None,
            Self::Unauthorized | Self::Auth => Some("check the sink's credentials and what they may write"),
            Self::Tls => Some("check whom the sink's tls trusts, the names in the target's certificate, and our own"),
            Self::TooLarge => Some("lower max_records or max_bytes of the sink"),
            Self::BatchRefused => Some("compare the target's schema of this entity with ours"),
            Self::Fenced => {
                Some("a daemon with a newer state writes to this target; stop this one, or rebuild its state")
            }
            Self::FatalConfig | Self::Gone => Some(NOT_PDX),
            Self::Endless => {
                Some("lower max_records, so that the answer to a batch is smaller; or look who answers there")
            }
            Self::Asynchronous => {
                Some("have the target say in Location where a batch that it accepts can be asked for")
            }
        }
    }
}

/// Reads a `Retry-After`: seconds, or an HTTP date seen from `now`.
pub(super) fn retry_after(text: &str, now: std::time::SystemTime) -> Option<Duration> {
    let wait = match text.trim().parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text.trim()).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    #[test]
    fn every_class_of_the_taxonomy_leads_to_its_action() {
        let wait = Some(Duration::from_secs(1));
        for (status, problem, retry_after, verdict) in [
            (503, "", None, Verdict::RetryTransient),
            (503, "", wait, Verdict::Throttle),
            (504, "", None, Verdict::RetryTransient),
            (507, "", None, Verdict::RetryTransient),
            (522, "", None, Verdict::RetryTransient),
            (529, "", wait, Verdict::RetryTransient),
            (501, "", None, Verdict::FatalConfig),
            (505, "", None, Verdict::FatalConfig),
            (429, "", None, Verdict::Throttle),
            (401, "", None, Verdict::Unauthorized),
            (403, "", None, Verdict::Auth),
            (404, "", None, Verdict::Gone),
            (405, "", None, Verdict::FatalConfig),
            (301, "", None, Verdict::FatalConfig),
            (413, "", None, Verdict::TooLarge),
            (422, "", None, Verdict::BatchRefused),
            (422, KEY_REUSED, None, Verdict::FatalConfig),
            (422, "unsupported-schema", None, Verdict::FatalConfig),
            (409, "plan_run_in_progress", None, Verdict::Throttle),
            (409, "", None, Verdict::FatalConfig),
            (409, SEQUENCE_GAP, None, Verdict::Rewind),
            (409, REQUEST_IN_PROGRESS, None, Verdict::Wait),
            (409, FENCED_EPOCH, None, Verdict::Fenced),
            (409, SNAPSHOT_INCOMPLETE, None, Verdict::Gone),
            (202, "", None, Verdict::Asynchronous),
        ] {
            assert_eq!(judge(status, problem, retry_after), verdict, "{status} {problem}");
        }
    }

    #[test]
    fn retry_after_is_read_in_both_forms_and_never_waits_for_years() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(retry_after("7", now), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:39 GMT", now), Some(Duration::from_secs(2)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:30 GMT", now), Some(Duration::ZERO));
        assert_eq!(retry_after("99999999999", now), Some(RETRY_AFTER_MAX));
        assert_eq!(retry_after("soon", now), None);
    }
}
