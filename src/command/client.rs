//! The running daemon as the other commands ask it.
//!
//! Only the daemon's address is read from the configuration: whoever looks needs none of its secrets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use reqwest::{Method, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::CommandError;
use crate::config::Config;

/// Where a daemon answers.
pub(super) struct Daemon {
    base: String,
}

impl Daemon {
    /// The daemon of a configuration.
    pub(super) fn of(config: &Path) -> Result<Self, CommandError> {
        Ok(Self { base: base(Config::read_listen(config)?) })
    }

    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// Its answer to a question, within a time.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        within: Duration,
    ) -> Result<T, CommandError> {
        self.ask(Method::GET, path, query, None::<&()>, within).await
    }

    /// Its answer to something that it is told.
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &[&str],
        body: &impl Serialize,
        within: Duration,
    ) -> Result<T, CommandError> {
        self.ask(Method::POST, path, &[], Some(body), within).await
    }

    /// A path of its parts, whatever is in them.
    fn url(&self, path: &[&str]) -> Url {
        let mut url = Url::parse(&self.base).expect("made of an address");
        url.path_segments_mut().expect("http has a path").extend(path);
        url
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, String)],
        body: Option<&impl Serialize>,
        within: Duration,
    ) -> Result<T, CommandError> {
        let silent = |error: reqwest::Error| {
            if error.is_timeout() && !error.is_connect() {
                return CommandError::Slow { url: self.base.clone(), seconds: within.as_secs() };
            }
            let mut cause: &dyn std::error::Error = &error;
            while let Some(inner) = cause.source() {
                cause = inner;
            }
            CommandError::NoDaemon { url: self.base.clone(), reason: cause.to_string() }
        };
        let foreign = |reason: String| CommandError::NotADaemon { url: self.base.clone(), reason };
        // The daemon's address is of this network: a proxy of the environment is for others.
        let client = reqwest::Client::builder().no_proxy().timeout(within).build().map_err(silent)?;
        let mut request = client.request(method, self.url(path)).query(query);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(silent)?;
        let status = answer.status();
        let text = answer.text().await.map_err(silent)?;
        if !status.is_success() {
            // Who gives a reason is ours.
            let refused = reason(&text).map(CommandError::Usage);
            return Err(refused.unwrap_or_else(|| foreign(format!("it answers {status}"))));
        }
        serde_json::from_str(&text).map_err(|error| foreign(error.to_string()))
    }
}

/// What the daemon says is wrong.
fn reason(text: &str) -> Option<String> {
    let answer: serde_json::Value = serde_json::from_str(text).ok()?;
    answer["error"].as_str().map(str::to_owned)
}

/// Where to ask a daemon that listens at an address, which may be "everywhere".
fn base(listen: SocketAddr) -> String {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, listen.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_listens_everywhere_is_asked_here() {
        for (listen, wanted) in [
            ("0.0.0.0:7070", "http://127.0.0.1:7070"),
            ("[::]:7070", "http://[::1]:7070"),
            ("10.1.2.3:80", "http://10.1.2.3:80"),
        ] {
            assert_eq!(base(listen.parse().expect("an address")), wanted);
        }
    }

    #[tokio::test]
    async fn a_daemon_that_is_not_there_is_said_to_be_so_with_the_remedy() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        // A port that was just given back: nobody listens there.
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port").port();
        let daemon = Daemon { base: format!("http://127.0.0.1:{port}") };
        let asked = daemon.get::<serde_json::Value>(&["status"], &[], Duration::from_secs(5)).await;
        let error = asked.expect_err("nobody").to_string();
        assert!(error.starts_with(&format!("no daemon answers at http://127.0.0.1:{port}: ")), "{error}");
        assert!(error.ends_with("start it with `syncline run`"), "{error}");
    }
}
