//! Passwords and certificates.

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, OnceLock};

use syncline_capture::Class;
use syncline_capture::postgres::{PostgresConfig, Tls};
use syncline_schemas::secret::Secret;

use crate::log::{MemoryLog, Reader};
use crate::server::{Database, Server, run};

/// A server that asks for passwords over TCP and has a certificate for `localhost`.
fn guarded() -> (Database, std::path::PathBuf) {
    let authority = OnceLock::new();
    let server = Server::start(&[("wal_level", "logical"), ("ssl", "on")], |data| {
        certificates(data);
        std::fs::write(
            data.join("pg_hba.conf"),
            "local all all trust\nhostssl all scrammed 127.0.0.1/32 scram-sha-256\nhost all hashed 127.0.0.1/32 md5\nhost all plain 127.0.0.1/32 password\n",
        )
        .unwrap();
        authority.set(data.join("ca.pem")).unwrap();
    });
    let database = Arc::new(server).database(
        "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1); CREATE PUBLICATION syncline FOR TABLE t;
         CREATE ROLE scrammed LOGIN REPLICATION SUPERUSER PASSWORD 'right';
         CREATE ROLE plain LOGIN REPLICATION SUPERUSER PASSWORD 'right';
         SET password_encryption = 'md5'; CREATE ROLE hashed LOGIN REPLICATION SUPERUSER PASSWORD 'right'",
    );
    (database, authority.into_inner().unwrap())
}

fn certificates(data: &Path) {
    let openssl = |arguments: &str| run(Command::new("openssl").current_dir(data).args(arguments.split(' ')));
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&format!("req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=test-authority -days 2"));
    openssl(&format!(
        "req {key} -keyout server.key -out server.csr -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    ));
    openssl(
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.crt -days 2 -copy_extensions copy",
    );
    run(Command::new("chmod").current_dir(data).args(["600", "server.key"]));
}

fn as_user(database: &Database, host: &str, user: &str, password: &str, ca_file: Option<&Path>) -> PostgresConfig {
    PostgresConfig {
        user: user.to_owned(),
        password: Some(Secret::new(password.to_owned())),
        tls: ca_file.map_or(Tls::Disable, |path| Tls::VerifyFull { ca_file: Some(path.to_owned()) }),
        ..database.over_tcp(host)
    }
}

fn reads(config: &PostgresConfig) {
    let log = Arc::new(MemoryLog::default());
    let reader = Reader::start(config, &log);
    log.wait_for_rows(1);
    reader.stop();
}

fn refusal(config: &PostgresConfig) -> String {
    let error = Reader::start(config, &Arc::new(MemoryLog::default())).end().unwrap_err();
    assert_eq!(error.class(), Class::Definite, "{error}");
    error.to_string()
}

#[test]
fn a_server_that_cannot_prove_its_name_gets_no_password() {
    let (database, authority) = guarded();
    reads(&as_user(&database, "localhost", "scrammed", "right", Some(&authority)));

    let wrong_host = refusal(&as_user(&database, "127.0.0.1", "scrammed", "right", Some(&authority)));
    assert!(wrong_host.contains("tls with 127.0.0.1") && wrong_host.contains("host in the url"), "{wrong_host}");
    let unknown_authority = PostgresConfig {
        tls: Tls::VerifyFull { ca_file: None },
        ..as_user(&database, "localhost", "scrammed", "right", None)
    };
    assert!(refusal(&unknown_authority).contains("tls with localhost"));
    let unprotected = refusal(&as_user(&database, "127.0.0.1", "scrammed", "right", None));
    assert!(unprotected.contains("pg_hba.conf"), "{unprotected}");
}

#[test]
fn a_wrong_password_is_told_and_not_tried_again() {
    let (database, authority) = guarded();
    reads(&as_user(&database, "127.0.0.1", "hashed", "right", None));
    for (host, user, ca_file) in [("localhost", "scrammed", Some(authority.as_path())), ("127.0.0.1", "hashed", None)] {
        let error = refusal(&as_user(&database, host, user, "wrong", ca_file));
        assert!(error.contains("28P01") && error.contains(user) && error.contains("password setting"), "{error}");
    }
    let none = PostgresConfig { password: None, ..as_user(&database, "127.0.0.1", "hashed", "", None) };
    assert!(refusal(&none).contains("set password"));
    let clear_text = refusal(&as_user(&database, "127.0.0.1", "plain", "right", None));
    assert!(clear_text.contains("clear text"), "{clear_text}");
    reads(&as_user(&database, "localhost", "plain", "right", Some(&authority)));
}

#[test]
fn a_statement_larger_than_a_tls_buffer_is_sent_whole() {
    let (database, authority) = guarded();
    if !database.has_row_filters() {
        return;
    }
    // The copy repeats the row filter in its statement.
    let filter = format!("ALTER PUBLICATION syncline SET TABLE t WHERE (id <> length('{}'))", "x".repeat(70_000));
    database.sql(&filter);
    reads(&as_user(&database, "localhost", "scrammed", "right", Some(&authority)));
}

#[test]
fn a_message_of_the_server_that_quotes_a_row_is_not_repeated() {
    let database = Server::shared().database("CREATE TABLE t (id int PRIMARY KEY, year int, month int)");
    if !database.has_row_filters() {
        return;
    }
    database.sql("INSERT INTO t VALUES (1, 4711, 99)");
    database.sql("CREATE PUBLICATION syncline FOR TABLE t WHERE (make_date(year, month, 1) > '2000-01-01')");
    let error = refusal(&database.config);
    assert!(error.contains("22008") && !error.contains("4711"), "{error}");
}
