//! A platform over HTTP that fails as it is told: before it has done anything, after it, or by taking its time.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use syncline_sinks::planning::PlanningConfig;
use tokio::net::TcpListener;

/// A request.
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// What a platform does with a request.
pub(crate) trait Platform: Send + 'static {
    fn answer(&mut self, asked: &Asked) -> Response;
}

/// Shares, in percent of all requests, of those that fail.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    /// Answered with 503 before anything was done.
    pub(crate) unavailable: u64,
    /// Answered with 429 and `Retry-After`.
    pub(crate) throttled: u64,
    /// Done, and the answer breaks off.
    pub(crate) lost: u64,
    /// How long each takes.
    pub(crate) latency: Duration,
}

/// A sequence from a seed, enough for choosing.
pub(crate) struct Choices(pub(crate) u64);

impl Choices {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

struct State<P> {
    platform: P,
    faults: Faults,
    choices: Choices,
    requests: u64,
}

/// A running platform.
pub(crate) struct Server<P> {
    state: Arc<Mutex<State<P>>>,
    address: SocketAddr,
}

impl<P: Platform> Server<P> {
    pub(crate) async fn start(platform: P) -> Self {
        // Fails where another test of this binary was first.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let state = State { platform, faults: Faults::default(), choices: Choices(7), requests: 0 };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        let app = Router::new().fallback(move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
            let shared = Arc::clone(&shared);
            async move { answer(&shared, &Asked { method, uri, headers, body }).await }
        });
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { state, address }
    }

    fn state(&self) -> MutexGuard<'_, State<P>> {
        self.state.lock().expect("sound")
    }

    /// Looks at the platform, or does something to it behind our back.
    pub(crate) fn platform<T>(&self, look: impl FnOnce(&mut P) -> T) -> T {
        look(&mut self.state().platform)
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// Requests since this was asked last.
    pub(crate) fn requests(&self) -> u64 {
        std::mem::take(&mut self.state().requests)
    }

    /// Settings that are quick to fail.
    pub(crate) fn config(&self) -> PlanningConfig {
        let url = format!("http://{}", self.address).parse().expect("a URL");
        let mut config = PlanningConfig::new(url, "test");
        config.partitions = 4;
        config.patience = Duration::from_secs(60);
        config
    }
}

async fn answer<P: Platform>(state: &Mutex<State<P>>, asked: &Asked) -> Response {
    let (faults, [unavailable, throttled, lost]) = {
        let mut state = state.lock().expect("sound");
        state.requests += 1;
        let faults = state.faults;
        let shares = [faults.unavailable, faults.throttled, faults.lost];
        (faults, shares.map(|share| state.choices.below(100) < share))
    };
    if !faults.latency.is_zero() {
        let _ = tokio::time::timeout(faults.latency, std::future::pending::<()>()).await;
    }
    if unavailable {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    if throttled {
        return (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "0")]).into_response();
    }
    let answered = state.lock().expect("sound").platform.answer(asked);
    if lost {
        let broken = futures::stream::iter([Err::<Bytes, _>(std::io::Error::other("the line is cut"))]);
        return (answered.status(), Body::from_stream(broken)).into_response();
    }
    answered
}
