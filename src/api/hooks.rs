//! `POST /hooks/outputs/SOURCE`: a planning platform says that it has published something.
//!
//! The message is a pointer signed as Standard Webhooks say, and all that comes of it is that the source asks its platform
//! now and not at the next poll: no row and no address is taken from it. So one that comes twice, late or not at all does no
//! harm, and its id need not be remembered. It is the one thing here that others may post from anywhere.
//!
//! ```text
//! 204  taken: the platform is asked; also for what is no concern of the source's
//! 400  signed, but no message of this contract
//! 401  not signed by the platform's key, or at another time than now
//! 404  no such source, or it has no webhook
//! ```

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use syncline_capture::feed::outputs::Bell;
use syncline_schemas::outputs::{AVAILABLE, OutputsAvailable};
use syncline_schemas::secret::SecretRef;
use syncline_sinks::planning::webhook::{self, SignedHeaders};
use tracing::{debug, warn};

use super::Facts;
use crate::config::{Config, SourceConfig};

/// A pointer is some hundred bytes.
const BODY_BYTES_MAX: usize = 16 << 10;

/// The webhook of a source.
pub(crate) struct Hook {
    pub(crate) source: String,
    outputs: Vec<&'static str>,
    key: SecretRef,
    bell: Bell,
}

/// The webhooks of all sources that have one.
pub(crate) fn of(config: &Config) -> Vec<Hook> {
    let hook = |source: &SourceConfig| match source {
        SourceConfig::Outputs(source) => Some(Hook {
            source: source.id.to_string(),
            outputs: source.outputs.clone(),
            key: source.webhook_key.clone()?,
            bell: source.bell.clone(),
        }),
        _ => None,
    };
    config.sources.iter().filter_map(hook).collect()
}

pub(super) fn routes() -> Router<Arc<Facts>> {
    Router::new().route("/hooks/outputs/{source}", post(outputs)).layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}

async fn outputs(
    State(facts): State<Arc<Facts>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    let Some(hook) = facts.hooks.iter().find(|hook| hook.source == name) else { return StatusCode::NOT_FOUND };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    hook.take(&headers, &body, now)
}

impl Hook {
    fn take(&self, headers: &HeaderMap, body: &[u8], now_s: u64) -> StatusCode {
        let source = &self.source;
        // Read each time, so that a replaced key needs no restart.
        let key = match self.key.read() {
            Ok(key) => key,
            Err(error) => {
                warn!(source, %error, "a webhook cannot be looked at: its signing_key cannot be read");
                return StatusCode::SERVICE_UNAVAILABLE;
            }
        };
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let [id, timestamp, signature] = webhook::HEADERS.map(text);
        if !webhook::is_genuine(key.reveal(), SignedHeaders { id, timestamp, signature }, body, now_s) {
            debug!(source, "a webhook was not signed by the platform's key, or at another time than now");
            return StatusCode::UNAUTHORIZED;
        }
        let Ok(event) = serde_json::from_slice::<OutputsAvailable>(body) else { return StatusCode::BAD_REQUEST };
        if event.kind == AVAILABLE && self.outputs.iter().any(|output| *output == event.data.output) {
            debug!(source, output = event.data.output, "a webhook has the platform asked");
            self.bell.ring();
        }
        StatusCode::NO_CONTENT
    }
}
