//! Faults on demand: what a planning platform does on a bad day, reproducible by a seed.

use std::sync::Mutex;
use std::time::Duration;

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::SinkError;
use crate::random::Random;

/// How often what goes wrong; every rate is from 0.0 (never) to 1.0 (always). All zero: nothing does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Faults {
    /// Share of requests answered with 500, 502, 503 or 504 and not looked at.
    pub error_rate: f64,
    /// Milliseconds that every request waits before it is looked at.
    pub latency_ms: u64,
    /// Share of requests answered with 429.
    pub throttle_rate: f64,
    /// Seconds in the `Retry-After` of a 429.
    pub retry_after_s: u64,
    /// Share of batches that are applied and whose reply is lost.
    pub drop_reply_rate: f64,
    /// Share of batches that are accepted and processed later.
    pub defer_rate: f64,
    /// Milliseconds until they are.
    pub defer_ms: u64,
    /// Rows that are refused one by one.
    pub poison: Vec<Poison>,
    /// Whether a poisoned row has its whole batch refused, without a word on which row it was.
    pub all_or_nothing: bool,
    /// Whether rows are checked and counted, and not kept: to measure a sender. Arrow is not taken apart either.
    pub forgets: bool,
    /// Start of the random sequence: the same requests meet the same faults.
    pub seed: u64,
}

/// Rows that are refused: those that have a value in a field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Poison {
    /// The field, of the key or not.
    pub field: String,
    /// Its value, as the text that it is sent as.
    pub value: String,
    /// The reason to be given, as in `unknown_item`.
    pub code: String,
    /// Whether a later attempt is said to be able to succeed.
    #[serde(default)]
    pub retryable: bool,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            error_rate: 0.0,
            latency_ms: 0,
            throttle_rate: 0.0,
            retry_after_s: 1,
            drop_reply_rate: 0.0,
            defer_rate: 0.0,
            defer_ms: 0,
            poison: Vec::new(),
            all_or_nothing: false,
            forgets: false,
            seed: 0,
        }
    }
}

impl Faults {
    /// Checks the rates.
    ///
    /// # Errors
    /// [`SinkError::Setting`] for a rate outside 0 to 1.
    pub fn check(&self) -> Result<(), SinkError> {
        for (setting, rate) in [
            ("error_rate", self.error_rate),
            ("throttle_rate", self.throttle_rate),
            ("drop_reply_rate", self.drop_reply_rate),
            ("defer_rate", self.defer_rate),
        ] {
            if !(0.0..=1.0).contains(&rate) {
                return Err(SinkError::Setting { setting, reason: format!("is {rate}; must be from 0 to 1") });
            }
        }
        Ok(())
    }
}

/// What a request meets before it is looked at.
pub(super) enum Fate {
    /// Nothing.
    Spared,
    /// An error of the server.
    Error(StatusCode),
    /// The wish that it came later.
    Throttled { retry_after_s: u64 },
}

/// The faults in force and their random sequence.
pub(super) struct Dice(Mutex<(Faults, Random)>);

impl Dice {
    pub(super) fn new(faults: Faults) -> Self {
        let random = Random::seeded(faults.seed);
        Self(Mutex::new((faults, random)))
    }

    /// Puts other faults in force and starts their sequence.
    pub(super) fn set(&self, faults: Faults) {
        let random = Random::seeded(faults.seed);
        *self.lock() = (faults, random);
    }

    /// The faults in force.
    pub(super) fn faults(&self) -> Faults {
        self.lock().0.clone()
    }

    /// How long a request waits, and what it meets then.
    pub(super) fn roll(&self) -> (Duration, Fate) {
        const ERRORS: [StatusCode; 4] = [
            StatusCode::INTERNAL_SERVER_ERROR,
            StatusCode::BAD_GATEWAY,
            StatusCode::SERVICE_UNAVAILABLE,
            StatusCode::GATEWAY_TIMEOUT,
        ];
        let (faults, random) = &mut *self.lock();
        let fate = if random.chance(faults.error_rate) {
            let which = usize::try_from(random.below(ERRORS.len() as u64)).expect("below four");
            Fate::Error(ERRORS[which])
        } else if random.chance(faults.throttle_rate) {
            Fate::Throttled { retry_after_s: faults.retry_after_s }
        } else {
            Fate::Spared
        };
        (Duration::from_millis(faults.latency_ms), fate)
    }

    /// True where the reply of an applied batch is to be lost.
    pub(super) fn loses_reply(&self) -> bool {
        let (faults, random) = &mut *self.lock();
        random.chance(faults.drop_reply_rate)
    }

    /// How long a batch is to wait after it was accepted; none where it is processed at once.
    pub(super) fn defers(&self) -> Option<Duration> {
        let (faults, random) = &mut *self.lock();
        // Without such a fault the sequence of the others stays what it was.
        (faults.defer_rate > 0.0 && random.chance(faults.defer_rate)).then(|| Duration::from_millis(faults.defer_ms))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (Faults, Random)> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
