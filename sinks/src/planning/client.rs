//! The HTTP side: one attempt, and the loop that repeats attempts until the target has answered for good.

use std::error::Error as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use chrono::Utc;
use reqwest::header::HeaderMap;
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use syncline_schemas::entity::{Criticality, Entity};

use super::auth::Prover;
use super::backoff::Backoff;
use super::config::PlanningConfig;
use super::connect::{Held, connections};
use super::contract::{self, Capabilities, Problem, Receipt, Watermark};
use super::gate::{During, Gate, Outcome};
use super::stats::PlanningStats;
use super::verdict::{Failure, NOT_PDX, Verdict, judge, retry_after};
use crate::SinkError;

/// 8 MiB: a receipt that refuses every row of the largest batch, a sentence each. An answer without an end must not take
/// the daemon's memory.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// How often it is looked whether a time to wait is over.
const CLOCK_LOOKED_AT: Duration = Duration::from_secs(5);

/// Jobs of one batch of which the target knows nothing when it is asked.
const JOBS_LOST_MAX: usize = 5;

/// Why a delivery stopped.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The target expects another batch: begin again from its watermark.
    Rewind,
    /// The target takes less at once; the error is for where nothing smaller can be sent.
    TooLarge(SinkError),
    /// What was asked for is not there; the error is for where it should be.
    Gone(SinkError),
    /// The target refuses the batch as a whole, for a reason in one word; the error is for where it is no batch.
    Refused(SinkError, String),
    /// The write fails.
    Failed(SinkError),
}

impl Stop {
    /// The error for whoever cannot do anything about it.
    pub(crate) fn into_error(self) -> SinkError {
        match self {
            Self::TooLarge(error) | Self::Gone(error) | Self::Refused(error, _) | Self::Failed(error) => error,
            Self::Rewind => SinkError::Refused {
                target: "target".to_owned(),
                reason: "named a batch where there was none".to_owned(),
                remedy: NOT_PDX.to_owned(),
            },
        }
    }
}

impl From<SinkError> for Stop {
    fn from(error: SinkError) -> Self {
        Self::Failed(error)
    }
}

/// A batch ready to be sent: the same bytes and headers at every attempt.
pub(super) struct Batch {
    pub(super) partition: u32,
    pub(super) epoch: u32,
    pub(super) number: u64,
    pub(super) id: String,
    pub(super) body: Bytes,
}

/// What a target has answered for good.
pub(super) enum Answer {
    Body(Bytes),
    /// It works on what it was sent; where to ask for that.
    Job(String),
}

/// An answer as it came, whatever its status.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Statuses that a caller reads itself; every other one is judged.
pub(crate) type Takes = fn(StatusCode) -> bool;

/// Made anew where the files of TLS were replaced.
struct Connections {
    http: reqwest::Client,
    /// What those files held.
    held: Held,
    /// How often that was.
    edition: u64,
}

/// Which proof and which connections a request had.
#[derive(Clone, Copy, Default)]
struct Had {
    proof: u64,
    connections: u64,
}

/// A connection pool to one target; clones share all of it.
#[derive(Clone)]
pub(crate) struct Client {
    http: Arc<RwLock<Connections>>,
    config: Arc<PlanningConfig>,
    prover: Arc<Prover>,
    gate: Arc<Gate>,
    /// Maintenance windows that requests have waited out.
    windows: Arc<AtomicU64>,
    /// Whose requests these are.
    class: Criticality,
}

impl Client {
    /// Prepares connections; none is made yet.
    ///
    /// # Errors
    /// [`SinkError::Setting`] where TLS cannot start.
    pub(crate) fn new(config: PlanningConfig) -> Result<Self, SinkError> {
        let held = config.tls.read();
        let connected = held.and_then(|held| Ok(Connections { http: connections(&config, &held)?, held, edition: 0 }));
        let connected = connected.map_err(|(setting, reason)| SinkError::Setting { setting, reason })?;
        let in_flight = config.in_flight.unwrap_or(config.partitions as usize);
        Ok(Self {
            http: Arc::new(RwLock::new(connected)),
            prover: Arc::new(Prover::new(config.auth.clone(), config.signing_key.clone())),
            gate: Arc::new(Gate::new(in_flight, config.rate, config.noncritical_share)),
            config: Arc::new(config),
            windows: Arc::default(),
            class: Criticality::Critical,
        })
    }

    /// The same for requests of a class.
    pub(super) fn of(&self, class: Criticality) -> Self {
        Self { class, ..self.clone() }
    }

    /// A lane has batches to send, for as long as the answer lives.
    pub(super) fn busy(&self) -> Option<During<'_>> {
        (self.class == Criticality::Critical).then(|| self.gate.busy())
    }

    /// How many maintenance windows have ended while requests waited for it.
    pub(super) fn windows_ended(&self) -> u64 {
        self.windows.load(Ordering::Relaxed)
    }

    /// Waits for the target.
    pub(super) async fn pause(&self, time: Duration) {
        let _asleep = (self.class == Criticality::Critical).then(|| self.gate.asleep());
        tokio::time::sleep(time).await;
    }

    pub(crate) fn http(&self) -> reqwest::Client {
        self.http.read().unwrap_or_else(PoisonError::into_inner).http.clone()
    }

    /// Delivers a batch; `accepted` is true from when the target has accepted it for later.
    ///
    /// # Errors
    /// [`Stop`] where the target wants another batch, refuses this one, or cannot be reached for too long.
    pub(super) async fn deliver(
        &self,
        entity: &Entity,
        batch: &Batch,
        accepted: &AtomicBool,
        stats: &PlanningStats,
    ) -> Result<Receipt, Stop> {
        let url = self.config.endpoint(&["flows", &entity.name, "deltas"]);
        let sha256 = contract::sha256(&batch.body);
        let key = self.idempotency_key(entity, batch, &sha256);
        let request = || {
            let mut request = self.http().post(url.clone());
            if let Some(encoding) = self.config.compression.encoding() {
                request = request.header("content-encoding", encoding);
            }
            request
                .header("content-type", self.config.format.media_type())
                .header(contract::IDEMPOTENCY_KEY, format!("\"{key}\""))
                .header(contract::CONTENT_DIGEST, contract::content_digest(&sha256))
                .header(contract::PARTITION, batch.partition)
                .header(contract::SEQUENCE, contract::sequence(batch.epoch, batch.number))
                .header(contract::SCHEMA, entity.schema_id())
                .header(contract::CRITICALITY, criticality(self.config.criticality(entity)))
                .header(contract::CORRELATION_ID, &batch.id)
                .header(contract::TRACEPARENT, contract::traceparent(&batch.id, &key))
                .body(batch.body.clone())
        };
        for _ in 0..JOBS_LOST_MAX {
            let location = match self.persist(&url, stats, request).await? {
                Answer::Job(location) => location,
                Answer::Body(body) => {
                    return serde_json::from_slice(&body)
                        .map_err(|error| Stop::Failed(not_pdx(&url, "a receipt", &error)));
                }
            };
            accepted.store(true, Ordering::Relaxed);
            if let Some(receipt) = self.follow(&url, &location, &batch.id, stats).await? {
                return Ok(receipt);
            }
        }
        let reason = format!("accepted a batch {JOBS_LOST_MAX} times and then did not know of it");
        Err(SinkError::Unavailable { target: url.to_string(), reason }.into())
    }

    /// As [`Self::persist`], of a question that is answered at once.
    pub(super) async fn ask(&self, url: &Url, stats: &PlanningStats) -> Result<Bytes, Stop> {
        match self.persist(url, stats, || self.http().get(url.clone())).await? {
            Answer::Body(body) => Ok(body),
            Answer::Job(_) => {
                let (reason, remedy) = ("answered a question with a job".to_owned(), NOT_PDX.to_owned());
                Err(SinkError::Refused { target: url.to_string(), reason, remedy }.into())
            }
        }
    }

    /// Asks how far a partition is.
    ///
    /// # Errors
    /// [`Stop`] as for a batch.
    pub(super) async fn watermark(
        &self,
        entity: &Entity,
        partition: u32,
        stats: &PlanningStats,
    ) -> Result<Watermark, Stop> {
        let mut url = self.config.endpoint(&["flows", &entity.name, "watermark"]);
        url.query_pairs_mut().append_pair("partition", &partition.to_string());
        let body = self.ask(&url, stats).await?;
        serde_json::from_slice(&body).map_err(|error| Stop::Failed(not_pdx(&url, "a watermark", &error)))
    }

    /// Asks once what the target takes.
    ///
    /// # Errors
    /// [`SinkError::Unavailable`] without an answer, [`SinkError::Refused`] where waiting does not help.
    pub(super) async fn capabilities(&self) -> Result<Capabilities, SinkError> {
        let url = self.config.endpoint(&["capabilities"]);
        let target = url.to_string();
        let body = self.attempt(&|| self.http().get(url.clone()), is_ok).await.map_err(
            |Failure { verdict, reason, .. }| match verdict.remedy() {
                Some(remedy) => SinkError::Refused { target, reason, remedy: remedy.to_owned() },
                None => SinkError::Unavailable { target, reason },
            },
        )?;
        serde_json::from_slice(&body.body).map_err(|error| not_pdx(&url, "capabilities", &error))
    }

    /// UUIDv5 over everything that makes a batch this batch.
    fn idempotency_key(&self, entity: &Entity, batch: &Batch, sha256: &[u8; 32]) -> uuid::Uuid {
        let mut name = format!(
            "{}\n{}\n{}\n{}\n{}\n",
            self.config.pipeline, entity.name, batch.partition, batch.epoch, batch.number
        )
        .into_bytes();
        name.extend_from_slice(sha256);
        uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, &name)
    }

    /// Repeats a request until it is answered for good or patience ends.
    pub(super) async fn persist(
        &self,
        url: &Url,
        stats: &PlanningStats,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<Answer, Stop> {
        let answered = self.repeat(url, stats, request, is_ok).await?;
        Ok(answered.map_or_else(Answer::Job, |reply| Answer::Body(reply.body)))
    }

    /// As [`Self::persist`], for a target that says more with its statuses: those that the caller takes are its own to read.
    ///
    /// # Errors
    /// [`Stop`] as for a batch.
    pub(crate) async fn call(
        &self,
        url: &Url,
        stats: &PlanningStats,
        request: impl Fn() -> RequestBuilder,
        takes: Takes,
    ) -> Result<Reply, Stop> {
        self.repeat(url, stats, request, takes).await?.map_err(|_| {
            let target = url.to_string();
            let (reason, remedy) =
                ("accepted a request for later".to_owned(), "use a profile that follows it".to_owned());
            Stop::Failed(SinkError::Refused { target, reason, remedy })
        })
    }

    /// Gives the answer, or where to ask for what the target works on.
    async fn repeat(
        &self,
        url: &Url,
        stats: &PlanningStats,
        request: impl Fn() -> RequestBuilder,
        takes: Takes,
    ) -> Result<Result<Reply, String>, Stop> {
        let mut backoff = Backoff::new();
        let mut failing_since: Option<Instant> = None;
        loop {
            self.keep_out_of_maintenance(stats).await;
            stats.requests(1);
            let answered = self.attempt(&request, takes).await;
            let (limit, is_open) = self.gate.stands();
            stats.observe_gate(limit, is_open);
            let failure = match answered {
                Ok(reply) => return Ok(Ok(reply)),
                Err(Failure { job: Some(location), .. }) => return Ok(Err(location)),
                Err(failure) => failure,
            };
            if let Some(remedy) = failure.verdict.remedy() {
                let (reason, remedy) = (failure.reason, remedy.to_owned());
                let refused = SinkError::Refused { target: url.to_string(), reason, remedy };
                return Err(match failure.verdict {
                    Verdict::TooLarge => Stop::TooLarge(refused),
                    Verdict::Gone => Stop::Gone(refused),
                    Verdict::BatchRefused => Stop::Refused(refused, failure.problem),
                    _ => Stop::Failed(refused),
                });
            }
            match failure.verdict {
                Verdict::Rewind => return Err(Stop::Rewind),
                Verdict::Throttle => {
                    stats.throttled(1);
                    failing_since = None;
                }
                _ => {
                    let since = *failing_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= self.config.patience {
                        let reason = format!("{}; tried for {} s", failure.reason, since.elapsed().as_secs());
                        return Err(SinkError::Unavailable { target: url.to_string(), reason }.into());
                    }
                }
            }
            let pause = pause(failure.wait, backoff.pause());
            tracing::debug!(url = %url, reason = %failure.reason, pause_ms = pause.as_millis(), "asking again");
            self.pause(pause).await;
            stats.retries(1);
        }
    }

    /// Waits while the target is to be left alone.
    async fn keep_out_of_maintenance(&self, stats: &PlanningStats) {
        let Some(windows) = &self.config.maintenance else { return };
        let mut is_told = false;
        while let Some(end) = windows.end(Utc::now()) {
            if !std::mem::replace(&mut is_told, true) {
                tracing::debug!(url = %self.config.url, until = %end, "in maintenance, nothing is sent");
                stats.observe_maintenance(true);
            }
            // Whoever sets the clock sets it for us as well.
            let left = (end - Utc::now()).to_std().unwrap_or_default();
            tokio::time::sleep(left.min(CLOCK_LOOKED_AT)).await;
        }
        if is_told {
            self.windows.fetch_add(1, Ordering::Relaxed);
            stats.observe_maintenance(false);
        }
    }

    /// Sends a request, and once more where other credentials may be at hand by now.
    async fn attempt(&self, request: &impl Fn() -> RequestBuilder, takes: Takes) -> Result<Reply, Failure> {
        match self.send(request(), takes).await {
            (had, Err(Failure { verdict: Verdict::Unauthorized, .. })) if self.prover.renew(had.proof).await => {}
            (had, Err(Failure { verdict: Verdict::Tls | Verdict::RetryTransient, .. }))
                if self.connect_again(had.connections) => {}
            (_, answered) => return answered.map_err(|failure| self.that_may_mend(failure)),
        }
        self.send(request(), takes).await.1.map_err(|failure| self.that_may_mend(failure))
    }

    /// Where secrets lie in files, one that is refused may be about to be replaced: it is waited for, as for a target that is down.
    fn that_may_mend(&self, failure: Failure) -> Failure {
        let waits = match failure.verdict {
            Verdict::Unauthorized => self.prover.may_be_replaced(),
            Verdict::Tls => self.config.tls.identity.is_some(),
            _ => false,
        };
        if !waits {
            return failure;
        }
        let reason = format!("{}; it is asked again, with the secrets that its files hold then", failure.reason);
        Failure { verdict: Verdict::RetryTransient, reason, ..failure }
    }

    /// Sends a request when its turn comes; says what it had.
    async fn send(&self, request: RequestBuilder, takes: Takes) -> (Had, Result<Reply, Failure>) {
        let pass = self.gate.enter(self.class).await;
        let mut had = Had::default();
        let answered = self.exchange(request, &mut had, takes).await;
        pass.end(match &answered {
            Ok(_) => Outcome::Answered,
            Err(Failure { verdict: Verdict::Throttle, wait, .. }) => Outcome::Throttled(*wait),
            Err(Failure { verdict: Verdict::RetryTransient, .. }) => Outcome::Failed,
            Err(_) => Outcome::Answered,
        });
        (had, answered)
    }

    /// Reads the files of TLS again; false where they are what the refused request had. One that is being replaced is read later.
    fn connect_again(&self, refused: u64) -> bool {
        let Ok(held) = self.config.tls.read() else { return false };
        let mut now = self.http.write().unwrap_or_else(PoisonError::into_inner);
        if now.edition != refused || now.held == held {
            // Another request may have been quicker.
            return now.edition != refused;
        }
        let Ok(http) = connections(&self.config, &held) else { return false };
        *now = Connections { http, held, edition: refused + 1 };
        true
    }

    async fn exchange(&self, request: RequestBuilder, had: &mut Had, takes: Takes) -> Result<Reply, Failure> {
        let http = {
            let now = self.http.read().unwrap_or_else(PoisonError::into_inner);
            had.connections = now.edition;
            now.http.clone()
        };
        let mut request = request.build().map_err(|error| unanswered(&error))?;
        had.proof = self.prover.prove(&http, &mut request).await?;
        let response = http.execute(request).await.map_err(|error| unanswered(&error))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let wait = headers
            .get(reqwest::header::RETRY_AFTER)
            .and_then(|value| retry_after(value.to_str().ok()?, SystemTime::now()));
        let location = headers.get(reqwest::header::LOCATION).and_then(|value| value.to_str().ok());
        let job = location.filter(|_| status == StatusCode::ACCEPTED).map(str::to_owned);
        // A body that breaks off is a lost reply, whatever its status was.
        let Some(body) = bounded(response).await.map_err(|error| unanswered(&error))? else {
            let reason = format!("answered {status} with more than {ANSWER_BYTES_MAX} bytes");
            // Of a failure the status says enough.
            let verdict = if takes(status) { Verdict::Endless } else { judge(status.as_u16(), "", wait) };
            return Err(Failure { reason, wait, ..Failure::of(verdict) });
        };
        if takes(status) && status.is_success() {
            return Ok(Reply { status, headers, body });
        }
        let problem: Problem = serde_json::from_slice(&body).unwrap_or_default();
        let verdict = judge(status.as_u16(), problem.name(), wait);
        // A target that is busy with itself says nothing about the rows, whoever reads the status.
        if takes(status) && verdict != Verdict::Throttle {
            return Ok(Reply { status, headers, body });
        }
        Err(Failure { verdict, reason: told(status, &problem), wait, job, problem: contract::word(problem.name()) })
    }
}

fn is_ok(status: StatusCode) -> bool {
    status == StatusCode::OK
}

/// Reads an answer; none where there is more of it than of any receipt.
pub(super) async fn bounded(mut response: Response) -> Result<Option<Bytes>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body.into()))
}

/// A target that asks for no time at all, or for a moment that is over, would otherwise be asked in a hot loop.
fn pause(asked: Option<Duration>, ours: Duration) -> Duration {
    asked.map_or(ours, |asked| asked.max(ours))
}

/// The status and the problem's name, or else its title. What else the target says may repeat a value of a row, and no
/// log line holds one.
fn told(status: StatusCode, problem: &Problem) -> String {
    match contract::word(Some(problem.name()).filter(|name| *name != "about:blank").unwrap_or(&problem.title)).as_str()
    {
        "" => format!("answered {status}"),
        word => format!("answered {status}, {word}"),
    }
}

/// A request without an answer: a certificate never mends by itself, everything else may.
pub(super) fn unanswered(error: &reqwest::Error) -> Failure {
    let mut reason = "no answer".to_owned();
    let mut verdict = Verdict::RetryTransient;
    let mut cause = error.source();
    while let Some(inner) = cause {
        reason = format!("no answer: {inner}");
        if is_of_tls(inner) {
            verdict = Verdict::Tls;
        }
        cause = inner.source();
    }
    if error.is_timeout() {
        reason = "no answer in time".to_owned();
    }
    Failure { reason, ..Failure::of(verdict) }
}

/// What an I/O error holds is not among its sources, and one can hold another.
fn is_of_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        Some(held) => is_of_tls(held),
        None => error.is::<rustls::Error>(),
    }
}

pub(super) fn not_pdx(url: &Url, wanted: &str, error: &serde_json::Error) -> SinkError {
    SinkError::Refused {
        target: url.to_string(),
        // Never the error itself: it repeats the value that it did not like.
        reason: format!(
            "answered 200 with something that is not {wanted}: {:?} error in line {}, column {}",
            error.classify(),
            error.line(),
            error.column()
        ),
        remedy: NOT_PDX.into(),
    }
}

const fn criticality(criticality: Criticality) -> &'static str {
    match criticality {
        Criticality::Critical => "critical",
        Criticality::Noncritical => "noncritical",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_that_asks_to_come_back_at_once_is_not_asked_in_a_hot_loop() {
        let ours = Duration::from_millis(80);
        assert_eq!(pause(Some(Duration::ZERO), ours), ours);
        assert_eq!(pause(None, ours), ours);
        assert_eq!(pause(Some(Duration::from_secs(7)), ours), Duration::from_secs(7));
    }

    #[test]
    fn what_a_target_says_about_a_row_never_reaches_a_message() {
        let problem = |text| serde_json::from_str::<Problem>(text).expect("a problem");
        let said = told(
            StatusCode::BAD_REQUEST,
            &problem(r#"{"type":"https://x/bad-header","detail":"4711 of ACME is 12.50"}"#),
        );
        assert_eq!(said, "answered 400 Bad Request, bad-header");
        let said = told(StatusCode::CONFLICT, &problem(r#"{"type":"about:blank","title":"Closed\n\u001b[2J period"}"#));
        assert_eq!(said, "answered 409 Conflict, Closed2J period");
        let error = serde_json::from_str::<Watermark>(r#"{"partition":"4711","epoch":1}"#).expect_err("no number");
        let said = not_pdx(&Url::parse("http://host/pdx/v1").expect("a URL"), "a watermark", &error).to_string();
        assert!(!said.contains("4711") && said.contains("Data error in line 1"), "{said}");
    }
}
