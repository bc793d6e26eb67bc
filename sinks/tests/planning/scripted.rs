//! A target that answers what a test says, for what the reference receiver never does.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use bytes::Bytes;
use syncline_sinks::planning::PlanningConfig;
use tokio::net::TcpListener;

/// A request.
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Serves until the runtime ends; the settings of a sink for it.
pub(crate) async fn target(answer: impl Fn(Asked) -> Response + Clone + Send + Sync + 'static) -> PlanningConfig {
    // Fails where another test of this binary was first.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let app = Router::new().fallback(move |method: Method, headers: HeaderMap, body: Bytes| {
        std::future::ready(answer(Asked { method, headers, body }))
    });
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a free port");
    let url = format!("http://{}/pdx/v1", listener.local_addr().expect("bound"));
    tokio::spawn(async move { axum::serve(listener, app).await });
    let mut config = PlanningConfig::new(url.parse().expect("a URL"), "test");
    config.partitions = 1;
    config.patience = Duration::ZERO;
    config
}
