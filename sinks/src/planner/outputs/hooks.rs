//! Tells readers that a cycle is there: a pointer, signed as Standard Webhooks say, some attempts each.
//!
//! A message that does not arrive costs time and nothing else, since readers ask at times anyway.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use syncline_schemas::outputs::{AVAILABLE, OutputsAvailable, Pointer};
use syncline_schemas::secret::Secret;
use url::Url;

use crate::planning::webhook;

/// How long a reader may take to say that it was told.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Attempts of a message: with pauses that double from a second they go on for half a minute. Whoever is down for
/// longer asks by himself when he is back.
const ATTEMPTS: u32 = 6;

/// Who is told.
#[derive(Debug, Clone)]
pub struct OutputsHook {
    /// Where, as in `http://127.0.0.1:7070/hooks/outputs/plan`.
    pub url: Url,
    /// The key of signatures, `whsec_` and base64.
    pub key: Secret,
}

/// Those who are told.
#[derive(Debug)]
pub(in crate::planner) struct Hooks {
    /// Where cycles are pulled, for the pointer.
    addr: SocketAddr,
    hooks: Mutex<Vec<OutputsHook>>,
    /// Made when first needed: most receivers tell nobody.
    http: OnceLock<reqwest::Client>,
}

impl Hooks {
    pub(in crate::planner) fn new(addr: SocketAddr) -> Arc<Self> {
        Arc::new(Self { addr, hooks: Mutex::default(), http: OnceLock::new() })
    }

    pub(in crate::planner) fn replace(&self, hooks: Vec<OutputsHook>) {
        *self.hooks.lock().unwrap_or_else(PoisonError::into_inner) = hooks;
    }

    /// Begins to tell everybody of a cycle.
    pub(super) fn announce(&self, output: &str, cycle: &str, published_at: &str) {
        let hooks = self.hooks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if hooks.is_empty() {
            return;
        }
        let mut url = Url::parse(&format!("http://{}/pdx/v1/outputs/{output}", self.addr))
            .expect("an address and the name of an entity make a URL");
        url.query_pairs_mut().append_pair("cycle", cycle);
        let pointer = Pointer { output: output.to_owned(), cycle_id: cycle.to_owned(), url: url.into() };
        let event = OutputsAvailable { kind: AVAILABLE.to_owned(), timestamp: published_at.to_owned(), data: pointer };
        let body = Bytes::from(serde_json::to_vec(&event).expect("an event has no map with other than string keys"));
        let http = self.http.get_or_init(|| {
            let client = reqwest::Client::builder().timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none());
            client.no_proxy().build().expect("nothing in these settings can be refused")
        });
        for hook in hooks {
            tokio::spawn(tell(http.clone(), hook, body.clone()));
        }
    }
}

/// Sends one message until it is taken or its attempts are used up. Its id stays, its time is that of the attempt.
async fn tell(http: reqwest::Client, hook: OutputsHook, body: Bytes) {
    let id = format!("msg_{}", uuid::Uuid::new_v4().simple());
    let mut pause = Duration::from_secs(1);
    for _ in 0..ATTEMPTS {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let Some(signature) = webhook::sign(hook.key.reveal(), &id, now, &body) else { break };
        let [id_header, timestamp, signature_header] = webhook::HEADERS;
        let sent = http
            .post(hook.url.clone())
            .header("content-type", "application/json")
            .header(id_header, &id)
            .header(timestamp, now)
            .header(signature_header, signature)
            .body(body.clone());
        if sent.send().await.is_ok_and(|answer| answer.status().is_success()) {
            return;
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    tracing::warn!(url = %hook.url, "a reader of planning outputs was not told; it finds out when it asks");
}
