//! What was found, check by check.

use serde::Serialize;

/// How much a check weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// Rows get lost, stay where they should not or are wrong where it fails.
    Must,
    /// It costs repeats, time or somebody's attention where it fails.
    Should,
}

/// What a check came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Outcome {
    /// As the contract says.
    Passed,
    /// Otherwise.
    Failed(Failure),
    /// Not tried.
    Skipped {
        /// Why, as in a capability that is not announced.
        why: String,
    },
}

/// What was otherwise; neither text holds a proof of who we are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// What was sent.
    pub sent: String,
    /// What came back.
    pub got: String,
}

/// One check of one entity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its name, the same in every version.
    pub name: &'static str,
    /// The entity with whose rows it was tried; empty where it needs none.
    pub entity: String,
    /// How much it weighs.
    pub grade: Grade,
    /// What the contract asks.
    pub asks: &'static str,
    /// Where that stands in `docs/targets.md`.
    pub section: &'static str,
    /// What it came to.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// Everything that was found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The target.
    pub url: String,
    /// The company of all rows.
    pub company: String,
    /// In the order in which they were tried.
    pub checks: Vec<Check>,
    /// What is left at the target, a line each.
    pub left: Vec<String>,
}

impl Report {
    /// True where no check that a target must pass has failed.
    #[must_use]
    pub fn is_conformant(&self) -> bool {
        let fails = |check: &Check| check.grade == Grade::Must && matches!(check.outcome, Outcome::Failed(_));
        !self.checks.iter().any(fails)
    }

    /// The checks that failed.
    pub fn failed(&self) -> impl Iterator<Item = (&Check, &Failure)> {
        self.checks.iter().filter_map(|check| match &check.outcome {
            Outcome::Failed(failure) => Some((check, failure)),
            Outcome::Passed | Outcome::Skipped { .. } => None,
        })
    }
}

/// Why a check is not passed.
pub(super) enum Stop {
    Failed(Failure),
    Skipped(String),
}

/// What a check comes to.
pub(super) type Verdict = Result<(), Stop>;

/// A check that is not tried.
pub(super) fn skip<T>(why: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Skipped(why.into()))
}

/// A check that is failed.
pub(super) fn fail<T>(sent: impl Into<String>, got: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Failed(Failure { sent: sent.into(), got: got.into() }))
}
