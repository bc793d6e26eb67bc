//! A server's URL in parts, whichever database it is of: what `postgres::url` and `mysql::url` have in common.
//!
//! Without `sslmode` the connection is in clear text on Unix sockets and loopback and `verify-full` anywhere else.
//! Modes that encrypt without checking who answers (`allow`, `prefer`, `require`, `verify-ca`) are refused.

use std::net::IpAddr;
use std::path::PathBuf;

use syncline_schemas::secret::Secret;
use url::Url;

use crate::endpoint::{Host, Tls};

/// The part of a URL that is wrong, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("url {part}: {reason}")]
pub struct UrlError {
    /// The part: `scheme`, `host`, `port`, `user`, `database` or a parameter's name.
    pub part: String,
    /// What is wrong and what would be right.
    pub reason: String,
}

pub(crate) fn fault(part: &str, reason: impl Into<String>) -> UrlError {
    UrlError { part: part.to_owned(), reason: reason.into() }
}

/// How a kind of server writes its URL.
pub(crate) struct Grammar {
    /// The first is the one that messages show.
    pub(crate) schemes: &'static [&'static str],
    /// The parameter that leads to a Unix socket.
    pub(crate) socket: &'static str,
    /// Its value, for messages.
    pub(crate) socket_example: &'static str,
    /// What stands behind the host, for messages.
    pub(crate) tail: &'static str,
    pub(crate) port: u16,
}

/// What every URL says.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) host: Host,
    pub(crate) port: u16,
    pub(crate) user: String,
    pub(crate) password: Option<Secret>,
    pub(crate) tls: Tls,
    /// What stands behind the host, without slashes in front.
    pub(crate) database: String,
}

impl Grammar {
    /// Takes a URL apart; the error names the part that is wrong and never repeats the password.
    pub(crate) fn parse(&self, text: &str) -> Result<Parts, UrlError> {
        let Self { schemes, tail, .. } = self;
        let url = Url::parse(text).map_err(|error| fault("as a whole", error.to_string()))?;
        if !schemes.contains(&url.scheme()) {
            return Err(fault("scheme", format!("{:?} is not {}", url.scheme(), schemes[0])));
        }
        let mut parameters = self.parameters(&url)?;
        let host = self.host(&url, parameters.socket.take())?;
        let user = decoded("user", url.username())?;
        if user.is_empty() {
            return Err(fault("user", format!("is missing; write {}://USER@host{tail}", schemes[0])));
        }
        let database = decoded("database", url.path().trim_start_matches('/'))?;
        let password = url.password().map(|text| decoded("password", text)).transpose()?.map(Secret::new);
        let tls = parameters.tls(&host)?;
        Ok(Parts { host, port: url.port().unwrap_or(self.port), user, password, tls, database })
    }

    fn host(&self, url: &Url, socket: Option<String>) -> Result<Host, UrlError> {
        let name = match (socket, url.host_str()) {
            (Some(name), _) => name,
            (None, Some(name)) if !name.is_empty() => decoded("host", name)?,
            _ => {
                let Self { schemes, tail, socket, socket_example, .. } = self;
                let scheme = schemes[0];
                let reason = format!("is missing; write {scheme}://user@HOST{tail} or ?{socket}={socket_example}");
                return Err(fault("host", reason));
            }
        };
        if name.starts_with('/') {
            return Ok(Host::Unix(PathBuf::from(name)));
        }
        Ok(Host::Tcp(name.trim_start_matches('[').trim_end_matches(']').to_owned()))
    }

    fn parameters(&self, url: &Url) -> Result<Parameters, UrlError> {
        let mut read = Parameters::default();
        for (name, value) in url.query_pairs() {
            match &*name {
                socket if socket == self.socket => read.socket = Some(value.into_owned()),
                "sslmode" => read.sslmode = Some(value.into_owned()),
                "sslrootcert" => read.sslrootcert = Some(PathBuf::from(value.into_owned())),
                other => {
                    return Err(fault(other, format!("is not known; known are {}, sslmode, sslrootcert", self.socket)));
                }
            }
        }
        Ok(read)
    }
}

#[derive(Default)]
struct Parameters {
    socket: Option<String>,
    sslmode: Option<String>,
    sslrootcert: Option<PathBuf>,
}

impl Parameters {
    fn tls(self, host: &Host) -> Result<Tls, UrlError> {
        let mode = match self.sslmode.as_deref() {
            Some(mode) => mode,
            None if self.sslrootcert.is_none() && is_local(host) => "disable",
            None => "verify-full",
        };
        match (mode, host) {
            ("disable", _) if self.sslrootcert.is_some() => {
                Err(fault("sslrootcert", "has no effect with sslmode=disable; write sslmode=verify-full"))
            }
            ("disable", _) => Ok(Tls::Disable),
            ("verify-full", Host::Unix(_)) => Err(fault("sslmode", "a unix socket has no tls; write sslmode=disable")),
            ("verify-full", Host::Tcp(_)) => Ok(Tls::VerifyFull { ca_file: self.sslrootcert }),
            (other, _) => Err(fault(
                "sslmode",
                format!("{other:?} would not check who answers; write verify-full (with sslrootcert) or disable"),
            )),
        }
    }
}

fn is_local(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()),
    }
}

/// Undoes percent-encoding.
fn decoded(part: &str, text: &str) -> Result<String, UrlError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'%' {
            let digits = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
            let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
            bytes.push(byte.ok_or_else(|| fault(part, "has a % without two hexadecimal digits"))?);
            rest = &tail[2..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).map_err(|_| fault(part, "is not UTF-8"))
}
