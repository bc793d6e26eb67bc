//! A server's URL in parts, whichever database it is of: what `postgres::url` and `mysql::url` have in common.
//!
//! In the host's place may stand several, each with its port, as in `a:3306,b`; which kinds of servers take more than one they say
//! themselves.
//!
//! Without `sslmode` the connection is in clear text on Unix sockets and loopback and `verify-full` anywhere else.
//! Modes that encrypt without checking who answers (`allow`, `prefer`, `require`, `verify-ca`) are refused.

use std::net::IpAddr;
use std::path::PathBuf;

use syncline_schemas::secret::Secret;
use url::Url;

use crate::endpoint::{Address, Host, Tls};

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
    /// At least one, in the order in which they stand.
    pub(crate) hosts: Vec<Address>,
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
        let (first, others) = split(text);
        let url = parsed("as a whole", &first)?;
        if !schemes.contains(&url.scheme()) {
            return Err(fault("scheme", format!("{:?} is not {}", url.scheme(), schemes[0])));
        }
        let mut parameters = self.parameters(&url)?;
        let hosts = self.hosts(&url, &others, parameters.socket.take())?;
        let user = decoded("user", url.username())?;
        if user.is_empty() {
            return Err(fault("user", format!("is missing; write {}://USER@host{tail}", schemes[0])));
        }
        let database = decoded("database", url.path().trim_start_matches('/'))?;
        let password = url.password().map(|text| decoded("password", text)).transpose()?.map(Secret::new);
        let tls = parameters.tls(&hosts)?;
        Ok(Parts { hosts, user, password, tls, database })
    }

    fn hosts(&self, url: &Url, others: &[&str], socket: Option<String>) -> Result<Vec<Address>, UrlError> {
        if socket.is_some() && !others.is_empty() {
            let reason = format!(
                "leads to one server; write {}://user@HOST{}, or a list without it",
                self.schemes[0], self.tail
            );
            return Err(fault(self.socket, reason));
        }
        let mut hosts = vec![Address { host: self.host(url, socket)?, port: url.port().unwrap_or(self.port) }];
        for other in others {
            let url = parsed("host", &format!("{}://{other}", url.scheme()))?;
            hosts.push(Address { host: self.host(&url, None)?, port: url.port().unwrap_or(self.port) });
        }
        Ok(hosts)
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
    fn tls(self, hosts: &[Address]) -> Result<Tls, UrlError> {
        let mode = match self.sslmode.as_deref() {
            Some(mode) => mode,
            None if self.sslrootcert.is_none() && hosts.iter().all(|address| is_local(&address.host)) => "disable",
            None => "verify-full",
        };
        let has_socket = hosts.iter().any(|address| matches!(address.host, Host::Unix(_)));
        match mode {
            "disable" if self.sslrootcert.is_some() => {
                Err(fault("sslrootcert", "has no effect with sslmode=disable; write sslmode=verify-full"))
            }
            "disable" => Ok(Tls::Disable),
            "verify-full" if has_socket => Err(fault("sslmode", "a unix socket has no tls; write sslmode=disable")),
            "verify-full" => Ok(Tls::VerifyFull { ca_file: self.sslrootcert }),
            other => Err(fault(
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

fn parsed(part: &str, text: &str) -> Result<Url, UrlError> {
    Url::parse(text).map_err(|error| fault(part, error.to_string()))
}

/// A URL with the first of its hosts, and the others: a list is none of what a URL may hold.
fn split(text: &str) -> (String, Vec<&str>) {
    let begin = text.find("://").map_or(text.len(), |at| at + "://".len());
    let end = text[begin..].find(['/', '?', '#']).map_or(text.len(), |at| begin + at);
    // A user's name or password may hold a comma.
    let begin = text[begin..end].rfind('@').map_or(begin, |at| begin + at + 1);
    let mut hosts = text[begin..end].split(',');
    let first = hosts.next().unwrap_or_default();
    (format!("{}{first}{}", &text[..begin], &text[end..]), hosts.collect())
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
