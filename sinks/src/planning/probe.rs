//! Single requests with the connections and proofs of a sink, and their answers as they are: for whoever judges a target
//! instead of delivering to it.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Request, RequestBuilder};
use url::Url;

use super::auth::Prover;
use super::client::{bounded, unanswered};
use super::config::PlanningConfig;
use super::connect::connections;
use super::verdict::retry_after;
use crate::SinkError;

/// Asks a target.
pub(crate) struct Probe {
    http: reqwest::Client,
    prover: Prover,
    config: PlanningConfig,
}

/// What came back.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    /// Empty where there was more of it than of any answer that we could use.
    pub(crate) body: Bytes,
}

impl Probe {
    /// Prepares connections; none is made yet.
    ///
    /// # Errors
    /// [`SinkError::Setting`] for a setting that cannot be used.
    pub(crate) fn new(config: PlanningConfig) -> Result<Self, SinkError> {
        config.check()?;
        let held = config.tls.read();
        let http = held.and_then(|held| connections(&config, &held));
        let http = http.map_err(|(setting, reason)| SinkError::Setting { setting, reason })?;
        Ok(Self { http, prover: Prover::new(config.auth.clone(), config.signing_key.clone()), config })
    }

    /// The URL of a path under the base.
    pub(crate) fn endpoint(&self, segments: &[&str]) -> Url {
        self.config.endpoint(segments)
    }

    /// Begins a request.
    pub(crate) fn request(&self, method: reqwest::Method, url: Url) -> RequestBuilder {
        self.http.request(method, url)
    }

    /// Asks once.
    ///
    /// # Errors
    /// Why there is no answer.
    pub(crate) async fn ask(&self, request: RequestBuilder, proved: bool) -> Result<Answer, String> {
        let mut request: Request = request.build().map_err(|error| unanswered(&error).reason)?;
        if proved {
            self.prover.prove(&self.http, &mut request).await.map_err(|failure| failure.reason)?;
        }
        let response = self.http.execute(request).await.map_err(|error| unanswered(&error).reason)?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = bounded(response).await.map_err(|error| unanswered(&error).reason)?.unwrap_or_default();
        Ok(Answer { status, headers, body })
    }
}

impl Answer {
    /// How long it asks to wait.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        retry_after(self.headers.get(RETRY_AFTER)?.to_str().ok()?, SystemTime::now())
    }
}
