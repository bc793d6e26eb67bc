//! Connections to a target: timeouts, proxies, and whom TLS trusts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::{Certificate, Identity};
use url::Url;

use super::config::PlanningConfig;

/// Files in PEM form that TLS needs beyond what the system knows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsFiles {
    /// Authorities that are trusted instead of the system's.
    pub ca: Option<PathBuf>,
    /// Our certificate, with the chain behind it, and its key: the target asks who we are.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// A setting and what is wrong with it.
type Fault = (&'static str, String);

/// What those files held when they were read.
#[derive(Default, PartialEq, Eq)]
pub(super) struct Held {
    ca: Option<Vec<u8>>,
    identity: Option<Vec<u8>>,
}

impl TlsFiles {
    pub(super) fn read(&self) -> Result<Held, Fault> {
        let identity = |(certificate, key): &(PathBuf, PathBuf)| Ok([read(certificate)?, read(key)?].join(&b'\n'));
        Ok(Held {
            ca: self.ca.as_deref().map(read).transpose()?,
            identity: self.identity.as_ref().map(identity).transpose()?,
        })
    }
}

/// Prepares connections; none is made yet.
///
/// # Errors
/// The setting at fault and what is wrong with it.
pub(super) fn connections(config: &PlanningConfig, held: &Held) -> Result<reqwest::Client, Fault> {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        return Err(("url", "no TLS provider is installed in this process; install one before making a sink".into()));
    }
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("syncline/", env!("CARGO_PKG_VERSION")))
        .timeout(config.timeout)
        .connect_timeout(config.timeout.min(Duration::from_secs(10)))
        .redirect(reqwest::redirect::Policy::none());
    if is_loopback(&config.url) {
        // A proxy of the environment is for other machines.
        builder = builder.no_proxy();
    }
    let unusable = |file: &str, error: &reqwest::Error| ("tls", format!("has a {file} that cannot be used: {error}"));
    if let Some(pem) = &held.ca {
        let trusted = Certificate::from_pem_bundle(pem).map_err(|error| unusable("ca", &error))?;
        if trusted.is_empty() {
            return Err(("tls", "has a ca that holds no certificate in PEM form".to_owned()));
        }
        builder = builder.tls_certs_only(trusted);
    }
    if let Some(pem) = &held.identity {
        builder = builder.identity(Identity::from_pem(pem).map_err(|error| unusable("certificate or key", &error))?);
    }
    builder.build().map_err(|error| ("tls", format!("cannot be used: {error}")))
}

fn read(path: &Path) -> Result<Vec<u8>, Fault> {
    std::fs::read(path).map_err(|error| ("tls", format!("names {}: {error}", path.display())))
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}
