//! `postgres://user:password@host:port/database?sslmode=verify-full&sslrootcert=ca.pem` as settings.
//!
//! The host may be percent-encoded (`%2Frun%2Fpostgresql`) or given as `?host=/run/postgresql` for a Unix socket.
//! Without `sslmode` the connection is in clear text on Unix sockets and loopback and `verify-full` anywhere else.
//! Modes that encrypt without checking who answers (`allow`, `prefer`, `require`, `verify-ca`) are refused.

use std::net::IpAddr;
use std::path::PathBuf;

use syncline_schemas::secret::Secret;
use url::Url;

use super::config::{Host, Tls};

/// The part of a URL that is wrong, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("url {part}: {reason}")]
pub struct UrlError {
    /// The part: `scheme`, `host`, `port`, `user`, `database` or a parameter's name.
    pub part: String,
    /// What is wrong and what would be right.
    pub reason: String,
}

/// What a URL says about a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Where it listens.
    pub host: Host,
    /// The port, 5432 unless told.
    pub port: u16,
    /// The database.
    pub database: String,
    /// The role.
    pub user: String,
    /// The password, where the URL holds one.
    pub password: Option<Secret>,
    /// How the connection is protected.
    pub tls: Tls,
}

fn fault(part: &str, reason: impl Into<String>) -> UrlError {
    UrlError { part: part.to_owned(), reason: reason.into() }
}

/// Reads a URL.
///
/// # Errors
/// [`UrlError`] names the part that is wrong; it never repeats the password.
pub fn parse(text: &str) -> Result<Server, UrlError> {
    let url = Url::parse(text).map_err(|error| fault("as a whole", error.to_string()))?;
    if !matches!(url.scheme(), "postgres" | "postgresql") {
        return Err(fault("scheme", format!("{:?} is not postgres", url.scheme())));
    }
    let mut parameters = Parameters::read(&url)?;
    let host = host(&url, parameters.host.take())?;
    let user = decoded("user", url.username())?;
    if user.is_empty() {
        return Err(fault("user", "is missing; write postgres://USER@host/database"));
    }
    let database = decoded("database", url.path().trim_start_matches('/'))?;
    if database.is_empty() {
        return Err(fault("database", "is missing; write postgres://user@host/DATABASE"));
    }
    let password = url.password().map(|text| decoded("password", text)).transpose()?.map(Secret::new);
    let tls = parameters.tls(&host)?;
    Ok(Server { host, port: url.port().unwrap_or(5432), database, user, password, tls })
}

fn host(url: &Url, parameter: Option<String>) -> Result<Host, UrlError> {
    let name = match (parameter, url.host_str()) {
        (Some(name), _) => name,
        (None, Some(name)) if !name.is_empty() => decoded("host", name)?,
        _ => return Err(fault("host", "is missing; write postgres://user@HOST/database or ?host=/socket/directory")),
    };
    if name.starts_with('/') {
        return Ok(Host::Unix(PathBuf::from(name)));
    }
    Ok(Host::Tcp(name.trim_start_matches('[').trim_end_matches(']').to_owned()))
}

#[derive(Default)]
struct Parameters {
    host: Option<String>,
    sslmode: Option<String>,
    sslrootcert: Option<PathBuf>,
}

impl Parameters {
    fn read(url: &Url) -> Result<Self, UrlError> {
        let mut read = Self::default();
        for (name, value) in url.query_pairs() {
            match &*name {
                "host" => read.host = Some(value.into_owned()),
                "sslmode" => read.sslmode = Some(value.into_owned()),
                "sslrootcert" => read.sslrootcert = Some(PathBuf::from(value.into_owned())),
                other => return Err(fault(other, "is not known; known are host, sslmode, sslrootcert")),
            }
        }
        Ok(read)
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_full_url_is_read() {
        let server = parse("postgres://sync%40line:p%2Fw@db.example:6432/erp?sslmode=verify-full&sslrootcert=/ca.pem");
        let expected = Server {
            host: Host::Tcp("db.example".into()),
            port: 6432,
            database: "erp".into(),
            user: "sync@line".into(),
            password: Some(Secret::new("p/w")),
            tls: Tls::VerifyFull { ca_file: Some("/ca.pem".into()) },
        };
        assert_eq!(server, Ok(expected));
    }

    #[test]
    fn a_remote_server_is_never_talked_to_in_clear_text_by_default() {
        let tls = |url| parse(url).map(|server| server.tls);
        assert_eq!(tls("postgres://u@127.0.0.1/d"), Ok(Tls::Disable));
        assert_eq!(tls("postgres://u@[::1]/d"), Ok(Tls::Disable));
        assert_eq!(tls("postgres://u@%2Frun%2Fpg/d"), Ok(Tls::Disable));
        assert_eq!(tls("postgres://u@db.example/d"), Ok(Tls::VerifyFull { ca_file: None }));
        assert!(tls("postgres://u@db.example/d?sslmode=prefer").is_err());
    }

    #[test]
    fn a_fault_names_its_part_and_never_the_password() {
        for (url, part) in [
            ("mysql://u:hunter2@h/d", "scheme"),
            ("postgres://:hunter2@h/d", "user"),
            ("postgres://u:hunter2@h", "database"),
            ("postgres://u:hunter2@h/d?sslmod=disable", "sslmod"),
            ("postgres://u:hunter2@h/d?sslmode=require", "sslmode"),
            ("postgres://u:hunter2@h:99999/d", "as a whole"),
        ] {
            let error = parse(url).expect_err(url);
            assert_eq!(error.part, part, "{url}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
