//! One check, and how it is run.

use futures::future::BoxFuture;

use super::report::{Check, Failure, Grade, Outcome, Stop, Verdict};
use super::session::Session;

/// A check.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) grade: Grade,
    pub(super) section: &'static str,
    pub(super) asks: &'static str,
    pub(super) run: for<'s> fn(&'s mut Session<'_>) -> BoxFuture<'s, Verdict>,
}

impl Case {
    /// Runs it where the target is now; what it leaves is no concern of the next.
    pub(super) async fn run(&self, session: &mut Session<'_>) -> Check {
        let verdict = match session.resume().await {
            Ok(()) => (self.run)(session).await,
            Err(stop) => Err(stop),
        };
        self.check(&session.entity().name, verdict)
    }

    /// What a verdict is called.
    pub(super) fn check(&self, entity: &str, verdict: Verdict) -> Check {
        let outcome = match verdict {
            Ok(()) => Outcome::Passed,
            Err(Stop::Failed(Failure { sent, got })) => Outcome::Failed(Failure { sent, got }),
            Err(Stop::Skipped(why)) => Outcome::Skipped { why },
        };
        let Self { name, grade, section, asks, .. } = *self;
        Check { name, entity: entity.to_owned(), grade, asks, section, outcome }
    }
}
