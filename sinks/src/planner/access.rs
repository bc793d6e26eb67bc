//! Who may write: what a request must prove before it is looked at, so that senders can be tried against each way.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::http::{HeaderMap, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use syncline_schemas::secret::Secret;

use super::problem::Refusal;
use crate::planning::webhook::{self, SignedHeaders};

/// How long a token lasts.
const TOKEN_LIFETIME: Duration = Duration::from_secs(60);

/// What is asked of a sender; all that is set.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// `Authorization: Bearer`.
    pub token: Option<Secret>,
    /// `Authorization: Basic` with `user:password`.
    pub basic: Option<Secret>,
    /// `X-Api-Key`.
    pub api_key: Option<Secret>,
    /// Client and secret with a colon between, for `POST /oauth2/token`; tokens from there are asked for then.
    pub client: Option<Secret>,
    /// The key of signatures, `whsec_` and base64.
    pub signing_key: Option<Secret>,
}

/// Access and the tokens that were given.
#[derive(Debug, Default)]
pub(super) struct Guard {
    access: Mutex<Access>,
    tokens: Mutex<HashMap<String, Instant>>,
}

impl Guard {
    pub(super) fn new(access: Access) -> Self {
        Self { access: Mutex::new(access), tokens: Mutex::default() }
    }

    fn access(&self) -> Access {
        self.access.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets a request in.
    pub(super) fn admit(&self, headers: &HeaderMap, body: &[u8]) -> Result<(), Refusal> {
        let access = self.access();
        let refuse = |what: &str| Err(Refusal::new(StatusCode::UNAUTHORIZED, "unauthorized", format!("wanted {what}")));
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let authorization = text("authorization");
        if let Some(token) = &access.token
            && authorization.strip_prefix("Bearer ") != Some(token.reveal())
        {
            return refuse("another bearer token");
        }
        if let Some(basic) = &access.basic
            && authorization != format!("Basic {}", STANDARD.encode(basic.reveal()))
        {
            return refuse("another user or password");
        }
        if let Some(key) = &access.api_key
            && text("x-api-key") != key.reveal()
        {
            return refuse("another x-api-key");
        }
        if access.client.is_some() && !self.is_given(authorization.strip_prefix("Bearer ").unwrap_or_default()) {
            return refuse("a token of /oauth2/token that has not ended");
        }
        if let Some(key) = &access.signing_key {
            let [id, timestamp, signature] = webhook::HEADERS.map(text);
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            if !webhook::is_genuine(key.reveal(), SignedHeaders { id, timestamp, signature }, body, now) {
                return refuse("a signature of now by our key");
            }
        }
        Ok(())
    }

    /// Gives a token for client credentials (RFC 6749 section 4.4).
    pub(super) fn token(&self, headers: &HeaderMap, body: &[u8]) -> Result<serde_json::Value, StatusCode> {
        let client = self.access().client.ok_or(StatusCode::NOT_FOUND)?;
        let authorization = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        if authorization != format!("Basic {}", STANDARD.encode(client.reveal())) {
            return Err(StatusCode::UNAUTHORIZED);
        }
        let mut form = url::form_urlencoded::parse(body);
        if !form.any(|(name, value)| name == "grant_type" && value == "client_credentials") {
            return Err(StatusCode::BAD_REQUEST);
        }
        let token = uuid::Uuid::new_v4().to_string();
        let until = Instant::now() + TOKEN_LIFETIME;
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).insert(token.clone(), until);
        Ok(serde_json::json!({
            "access_token": token, "token_type": "Bearer", "expires_in": TOKEN_LIFETIME.as_secs()
        }))
    }

    fn is_given(&self, token: &str) -> bool {
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.get(token).is_some_and(|until| Instant::now() < *until)
    }

    /// Asks for something else from now on; tokens that were given count no more.
    pub(super) fn replace(&self, access: Access) {
        *self.access.lock().unwrap_or_else(PoisonError::into_inner) = access;
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
