//! Who we are, proved to the target with every request.
//!
//! Secrets are read where the configuration says that they are kept. A target that answers 401 has them read again, and a new
//! token asked for, once per answer; where a secret lies in a file, which its owner may be about to replace, that goes on as with a
//! target that is down. So a secret that was replaced in its file needs no restart, whoever changed first. Requests that are under way
//! at that time share one renewal, which [`Proof::edition`] tells apart.
//!
//! A signature (Standard Webhooks) can stand beside any of the others: `v1,` and the HMAC-SHA256 of `id.timestamp.body`.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue};
use reqwest::{Request, StatusCode};
use serde::Deserialize;
use syncline_schemas::secret::{Secret, SecretRef};
use tokio::sync::Mutex;
use url::Url;

use super::client::{bounded, unanswered};
use super::contract;
use super::verdict::{Failure, Verdict, judge, retry_after};

/// A token is replaced so long before it ends, so that none ends on its way.
const TOKEN_MARGIN: Duration = Duration::from_secs(30);
/// How long a token lasts whose giver does not say (RFC 6749 section 5.1 recommends that it does).
const TOKEN_LIFETIME: Duration = Duration::from_secs(300);
/// A token that never ends is replaced as well.
const TOKEN_LIFETIME_MAX: Duration = Duration::from_secs(86_400);

/// How to prove who we are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Auth {
    /// No proof asked.
    #[default]
    None,
    /// `Authorization: Bearer`.
    Bearer(SecretRef),
    /// `Authorization: Basic` (RFC 7617).
    Basic {
        /// The user, without a colon.
        user: String,
        /// The password.
        password: SecretRef,
    },
    /// A header of the target's own.
    Header {
        /// Its name, as in `x-api-key`.
        name: String,
        /// The key.
        key: SecretRef,
    },
    /// A bearer token from an authorization server (RFC 6749 section 4.4), renewed before it ends.
    ClientCredentials {
        /// The token endpoint.
        token_url: Url,
        /// Our name there.
        client_id: String,
        /// Our secret there.
        client_secret: SecretRef,
        /// What the token is to allow, where that has to be said.
        scope: Option<String>,
    },
}

impl Auth {
    fn secret(&self) -> Option<&SecretRef> {
        match self {
            Self::None => None,
            Self::Bearer(secret)
            | Self::Basic { password: secret, .. }
            | Self::Header { key: secret, .. }
            | Self::ClientCredentials { client_secret: secret, .. } => Some(secret),
        }
    }
}

/// A header that proves who we are.
#[derive(Clone)]
struct Proof {
    header: (HeaderName, HeaderValue),
    /// When it ends.
    until: Option<Instant>,
    edition: u64,
}

/// The answer of a token endpoint.
#[derive(Deserialize)]
struct Token {
    access_token: String,
    /// Seconds; some servers give them as text.
    #[serde(default)]
    expires_in: serde_json::Value,
}

impl Token {
    fn lifetime(&self) -> Duration {
        let told = self.expires_in.as_u64().or_else(|| self.expires_in.as_str()?.parse().ok());
        told.map_or(TOKEN_LIFETIME, Duration::from_secs).min(TOKEN_LIFETIME_MAX)
    }
}

/// Proves who we are.
pub(super) struct Prover {
    auth: Auth,
    signing_key: Option<SecretRef>,
    held: Mutex<Option<Proof>>,
}

impl Prover {
    pub(super) fn new(auth: Auth, signing_key: Option<SecretRef>) -> Self {
        Self { auth, signing_key, held: Mutex::new(None) }
    }

    /// Puts the proof into a request; gives its edition.
    pub(super) async fn prove(&self, http: &reqwest::Client, request: &mut Request) -> Result<u64, Failure> {
        if let Some(key) = &self.signing_key {
            sign(key, request)?;
        }
        if self.auth == Auth::None {
            return Ok(0);
        }
        let mut held = self.held.lock().await;
        let is_good = |proof: &Proof| proof.until.is_none_or(|until| Instant::now() < until);
        let edition = held.as_ref().map_or(0, |proof| proof.edition);
        let proof = match held.take_if(|proof| is_good(proof)) {
            Some(proof) => proof,
            None => match self.make(http, edition + 1).await? {
                Some(proof) => proof,
                None => return Ok(0),
            },
        };
        let (name, value) = proof.header.clone();
        request.headers_mut().insert(name, value);
        let edition = proof.edition;
        *held = Some(proof);
        Ok(edition)
    }

    /// True where somebody may put another secret in the place of the one that was refused.
    pub(super) fn may_be_replaced(&self) -> bool {
        [self.auth.secret(), self.signing_key.as_ref()].into_iter().flatten().any(SecretRef::may_change)
    }

    /// Forgets a proof that was refused, unless another request has replaced it; false where the next one would be no other.
    pub(super) async fn renew(&self, refused: u64) -> bool {
        let may_change = matches!(self.auth, Auth::ClientCredentials { .. }) || self.may_be_replaced();
        if may_change && let Some(proof) = self.held.lock().await.as_mut().filter(|proof| proof.edition == refused) {
            proof.until = Some(Instant::now());
        }
        may_change
    }

    async fn make(&self, http: &reqwest::Client, edition: u64) -> Result<Option<Proof>, Failure> {
        let Some(secret) = self.auth.secret() else { return Ok(None) };
        let secret = read(secret, "the secret")?;
        let mut until = None;
        let (name, text) = match &self.auth {
            Auth::None => return Ok(None),
            Auth::Bearer(_) => (AUTHORIZATION, format!("Bearer {}", secret.reveal())),
            Auth::Basic { user, .. } => (AUTHORIZATION, basic(user, secret.reveal())),
            Auth::Header { name, .. } => {
                let name = HeaderName::from_bytes(name.as_bytes());
                (name.map_err(|_| unusable("the header's name is none".to_owned()))?, secret.reveal().to_owned())
            }
            Auth::ClientCredentials { token_url, client_id, scope, .. } => {
                let token = token(http, token_url, client_id, secret.reveal(), scope.as_deref()).await?;
                let lifetime = token.lifetime();
                until = Some(Instant::now() + lifetime.saturating_sub(TOKEN_MARGIN.min(lifetime / 2)));
                (AUTHORIZATION, format!("Bearer {}", token.access_token))
            }
        };
        let value = HeaderValue::from_str(&text);
        let mut value = value.map_err(|_| unusable("the secret has signs that no header can carry".to_owned()))?;
        value.set_sensitive(true);
        Ok(Some(Proof { header: (name, value), until, edition }))
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// Reads a secret; one that is being replaced may be missing or empty for a moment.
fn read(secret: &SecretRef, name: &str) -> Result<Secret, Failure> {
    match secret.read() {
        Ok(secret) if secret.reveal().is_empty() => Err(unusable(format!("{name} is empty"))),
        Ok(secret) => Ok(secret),
        Err(error) => Err(unusable(format!("{name} cannot be read: {error}"))),
    }
}

fn unusable(reason: String) -> Failure {
    Failure { reason, ..Failure::of(Verdict::Unauthorized) }
}

/// Asks for a token. Client and secret go as HTTP Basic, which every server of RFC 6749 has to take (section 2.3.1).
async fn token(
    http: &reqwest::Client,
    url: &Url,
    client_id: &str,
    secret: &str,
    scope: Option<&str>,
) -> Result<Token, Failure> {
    let encoded = |text: &str| -> String { url::form_urlencoded::byte_serialize(text.as_bytes()).collect() };
    let scope = scope.map(|scope| format!("&scope={}", encoded(scope))).unwrap_or_default();
    let request = http
        .post(url.clone())
        .header(AUTHORIZATION, basic(&encoded(client_id), &encoded(secret)))
        .header("content-type", "application/x-www-form-urlencoded")
        .body(format!("grant_type=client_credentials{scope}"));
    let told = |failure: Failure| Failure { reason: format!("{url}: {}", failure.reason), ..failure };
    let response = request.send().await.map_err(|error| told(unanswered(&error)))?;
    let status = response.status();
    let wait = response.headers().get(reqwest::header::RETRY_AFTER);
    let wait = wait.and_then(|value| retry_after(value.to_str().ok()?, SystemTime::now()));
    let body = bounded(response).await.map_err(|error| told(unanswered(&error)))?.unwrap_or_default();
    if status != StatusCode::OK {
        let verdict = match judge(status.as_u16(), "", wait) {
            waits @ (Verdict::RetryTransient | Verdict::Throttle) => waits,
            // It says 400 as well where the client or the scope is not to its liking (section 5.2).
            _ => Verdict::Unauthorized,
        };
        let reason = format!("answered {status}, no token");
        return Err(told(Failure { reason, wait, ..Failure::of(verdict) }));
    }
    serde_json::from_slice(&body).map_err(|_| told(unusable("answered with something that is no token".to_owned())))
}

/// Signs a request as it is.
fn sign(key: &SecretRef, request: &mut Request) -> Result<(), Failure> {
    let key = read(key, "the signing key")?;
    let key = contract::signing_key(key.reveal()).ok_or_else(|| unusable("the signing key is no base64".to_owned()))?;
    let id = request.headers().get(contract::IDEMPOTENCY_KEY).and_then(|id| id.to_str().ok());
    let id = id.map_or_else(|| uuid::Uuid::new_v4().to_string(), |id| id.trim_matches('"').to_owned());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let body = request.body().and_then(reqwest::Body::as_bytes).unwrap_or_default();
    let signature = contract::signature(&key, &id, now, body);
    let headers = [
        (contract::WEBHOOK_ID, id),
        (contract::WEBHOOK_TIMESTAMP, now.to_string()),
        (contract::WEBHOOK_SIGNATURE, signature),
    ];
    for (name, value) in headers {
        let value = HeaderValue::from_str(&value).map_err(|_| unusable("the signature is no header".to_owned()))?;
        request.headers_mut().insert(HeaderName::from_static(name), value);
    }
    Ok(())
}
