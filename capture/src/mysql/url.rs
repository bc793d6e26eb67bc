//! `mysql://user:password@host:port/?sslmode=verify-full&sslrootcert=ca.pem` as settings; `mariadb://` says the same.
//!
//! The path of a Unix socket is given as `?socket=/run/mysqld/mysqld.sock`, whatever the host is then, or
//! percent-encoded in the host's place. Of the servers of a group several may stand there, as in `mysql://user@a:3306,b,c/`.
//! A URL names no database: a source reads those that its `tables` select.

use syncline_schemas::secret::Secret;

use super::config::{Address, Tls};
pub use crate::server_url::UrlError;
use crate::server_url::{Grammar, Parts, fault};

const GRAMMAR: Grammar = Grammar {
    schemes: &["mysql", "mariadb"],
    socket: "socket",
    socket_example: "/path/of/the/socket",
    tail: "/",
    port: 3306,
};

/// What a URL says about a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Where it listens, or may after a failover: one or more; a Unix socket by its own path, a port is 3306 unless told.
    pub hosts: Vec<Address>,
    /// The user.
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
    let Parts { hosts, user, password, tls, database } = GRAMMAR.parse(text)?;
    if !database.is_empty() {
        let reason =
            format!("{database:?} stands in tables, as in tables = [\"{database}.*\"]; write mysql://user@host/");
        return Err(fault("database", reason));
    }
    Ok(Server { hosts, user, password, tls })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mysql::Host;

    fn tcp(host: &str, port: u16) -> Address {
        Address { host: Host::Tcp(host.to_owned()), port }
    }

    #[test]
    fn a_url_of_either_server_is_read_with_every_part() {
        let expected = Server {
            hosts: vec![tcp("db.example", 3307)],
            user: "sync@line".into(),
            password: Some(Secret::new("p/w")),
            tls: Tls::VerifyFull { ca_file: Some("/ca.pem".into()) },
        };
        for scheme in ["mysql", "mariadb"] {
            let url = format!("{scheme}://sync%40line:p%2Fw@db.example:3307/?sslrootcert=/ca.pem");
            assert_eq!(parse(&url), Ok(expected.clone()));
        }
        let bare = parse("mysql://syncline@db.example").expect("a path may be left out");
        assert_eq!((bare.hosts, bare.tls), (vec![tcp("db.example", 3306)], Tls::VerifyFull { ca_file: None }));
    }

    #[test]
    fn a_list_of_hosts_is_read_in_its_order_whatever_the_password_holds() {
        let list = parse("mysql://u:a%2Cb,c@a.example:3307,[2001:db8::1]:3308,c.example/").expect("a list");
        assert_eq!(list.hosts, [tcp("a.example", 3307), tcp("2001:db8::1", 3308), tcp("c.example", 3306)]);
        assert_eq!(list.password, Some(Secret::new("a,b,c")));
        assert_eq!(list.tls, Tls::VerifyFull { ca_file: None });
        // One that is not of this machine is enough to have all of them prove who they are.
        let tls = |url| parse(url).map(|server| server.tls);
        assert_eq!(tls("mysql://u@127.0.0.1,b.example"), Ok(Tls::VerifyFull { ca_file: None }));
        assert_eq!(tls("mysql://u@127.0.0.1,localhost:3307,%2Frun%2Fb.sock"), Ok(Tls::Disable));
    }

    #[test]
    fn a_socket_outweighs_the_host_and_is_in_clear_text() {
        for url in [
            "mysql://u@localhost/?socket=/run/mysqld/mysqld.sock",
            "mysql://u@%2Frun%2Fmysqld%2Fmysqld.sock/",
            "mariadb://u@db.example?sslmode=disable&socket=/run/mysqld/mysqld.sock",
        ] {
            let server = parse(url).expect(url);
            let socket = Address { host: Host::Unix("/run/mysqld/mysqld.sock".into()), port: 3306 };
            assert_eq!((server.hosts, server.tls), (vec![socket], Tls::Disable), "{url}");
        }
        assert_eq!(parse("mysql://u@localhost/").map(|server| server.hosts), Ok(vec![tcp("localhost", 3306)]));
    }

    #[test]
    fn a_fault_names_its_part_and_never_the_password() {
        for (url, part, wanted) in [
            ("postgres://u:hunter2@h/", "scheme", "is not mysql"),
            ("mysql://:hunter2@h/", "user", "mysql://USER@host/"),
            ("mysql://u:hunter2@h/shop", "database", "tables = [\"shop.*\"]"),
            ("mysql://u:hunter2@h/?host=/run/x", "host", "known are socket, sslmode, sslrootcert"),
            ("mysql://u:hunter2@h/?sslmode=required", "sslmode", "would not check who answers"),
            ("mysql://u:hunter2@h/?socket=/s&sslmode=verify-full", "sslmode", "a unix socket has no tls"),
            ("mysql://u:hunter2@h:99999/", "as a whole", "port"),
            ("mysql://u:hunter2@a,b:99999/", "host", "port"),
            ("mysql://u:hunter2@a,,c/", "host", "is missing"),
            ("mysql://u:hunter2@a,/", "host", "is missing"),
            ("mysql://u:hunter2@a,b/?socket=/s", "socket", "leads to one server"),
            ("mysql://u:hunter2@a,%2Fs/", "sslmode", "a unix socket has no tls"),
        ] {
            let error = parse(url).expect_err(url);
            assert_eq!(error.part, part, "{url}");
            assert!(error.to_string().contains(wanted) && !error.to_string().contains("hunter2"), "{error}");
        }
    }
}
