//! `postgres://user:password@host:port/database?sslmode=verify-full&sslrootcert=ca.pem` as settings.
//!
//! The host may be percent-encoded (`%2Frun%2Fpostgresql`) or given as `?host=/run/postgresql` for a Unix socket.

use syncline_schemas::secret::Secret;

use super::config::{Host, Tls};
use crate::endpoint::Address;
pub use crate::server_url::UrlError;
use crate::server_url::{Grammar, Parts, fault};

const GRAMMAR: Grammar = Grammar {
    schemes: &["postgres", "postgresql"],
    socket: "host",
    socket_example: "/socket/directory",
    tail: "/database",
    port: 5432,
};

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

/// Reads a URL.
///
/// # Errors
/// [`UrlError`] names the part that is wrong; it never repeats the password.
pub fn parse(text: &str) -> Result<Server, UrlError> {
    let Parts { mut hosts, user, password, tls, database } = GRAMMAR.parse(text)?;
    if database.is_empty() {
        return Err(fault("database", "is missing; write postgres://user@host/DATABASE"));
    }
    let Some(Address { host, port }) = hosts.pop().filter(|_| hosts.is_empty()) else {
        return Err(fault("host", "is a list, which only mysql takes; write one that moves with the primary"));
    };
    Ok(Server { host, port, database, user, password, tls })
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
            ("postgres://u:hunter2@a,b:6432/d", "host"),
        ] {
            let error = parse(url).expect_err(url);
            assert_eq!(error.part, part, "{url}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
