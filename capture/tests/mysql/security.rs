//! Passwords and certificates.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use syncline_capture::mysql::{Address, Host, MySqlConfig, SnapshotMode, Tls};
use syncline_capture::{Class, Outcome};
use syncline_schemas::secret::Secret;

use crate::log::{MemoryLog, drain_with};
use crate::server::{Database, Server, mysql, newer_mariadb};

const PASSWORD: &str = "right ä' pass";

/// A server that listens on TCP and has a certificate for `localhost`, and a user who may do no more than a reader needs.
struct Guarded {
    database: Database,
    certificates: tempfile::TempDir,
    port: u16,
}

impl Guarded {
    fn start(methods: &[&str]) -> Self {
        let certificates = tempfile::Builder::new().prefix("syncline-tls").tempdir().unwrap();
        std::fs::set_permissions(certificates.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        make_certificates(certificates.path());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let file = |name: &str| certificates.path().join(name).display().to_string();
        let settings = [
            "--skip-networking=0".to_owned(),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--port={port}"),
            format!("--ssl-ca={}", file("ca.pem")),
            format!("--ssl-cert={}", file("server.crt")),
            format!("--ssl-key={}", file("server.key")),
        ];
        let plugins = methods.iter().map(|method| format!("--plugin-load-add=auth_{method}"));
        let settings: Vec<String> = settings.into_iter().chain(plugins).collect();
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let database = Arc::new(Server::start(&settings))
            .database("CREATE TABLE stock (id int PRIMARY KEY, note varchar(9)); INSERT INTO stock VALUES (1, 'ä')");
        database.sql(&format!(
            "CREATE USER reader@'%' IDENTIFIED BY {};
             GRANT SELECT ON {}.* TO reader@'%'; GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO reader@'%'",
            quoted(PASSWORD),
            database.name,
        ));
        Self { database, certificates, port }
    }

    fn config(&self, host: &str, password: &str, tls: Tls) -> MySqlConfig {
        MySqlConfig {
            hosts: vec![Address { host: Host::Tcp(host.to_owned()), port: self.port }],
            user: "reader".to_owned(),
            password: Some(Secret::new(password)),
            tls,
            snapshot: SnapshotMode::Initial,
            ..self.database.config.clone()
        }
    }

    fn verified(&self) -> Tls {
        Tls::VerifyFull { ca_file: Some(self.certificates.path().join("ca.pem")) }
    }
}

fn quoted(password: &str) -> String {
    format!("'{}'", password.replace('\'', "''"))
}

fn make_certificates(folder: &Path) {
    let openssl = |arguments: &str| {
        let made = Command::new("openssl").current_dir(folder).args(arguments.split(' ')).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&format!("req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=test-authority -days 2"));
    openssl(&format!(
        "req {key} -keyout server.key -out server.csr -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    ));
    openssl(
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.crt -days 2 -copy_extensions copy",
    );
    // Of the test only, and read by the user of the server.
    std::fs::set_permissions(folder.join("server.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
}

fn reads(config: &MySqlConfig) {
    let log = MemoryLog::default();
    assert_eq!(drain_with(config, &log).unwrap(), Outcome::Drained);
    assert_eq!(log.fold().1.len(), 1);
}

fn refusal(config: &MySqlConfig) -> String {
    let error = drain_with(config, &MemoryLog::default()).unwrap_err();
    assert_eq!(error.class(), Class::Definite, "{error}");
    error.to_string()
}

#[test]
fn a_reader_with_the_least_rights_gets_in_with_its_password_however_the_server_asks() {
    let guarded = Guarded::start(&[]);
    // MySQL has not seen the password yet: it travels under the server's key, then as a proof.
    reads(&guarded.config("127.0.0.1", PASSWORD, Tls::Disable));
    reads(&guarded.config("127.0.0.1", PASSWORD, Tls::Disable));
    reads(&guarded.config("localhost", PASSWORD, guarded.verified()));
    // It has forgotten it: the password travels in the protected connection.
    guarded.database.sql("FLUSH PRIVILEGES");
    reads(&guarded.config("localhost", PASSWORD, guarded.verified()));
}

#[test]
fn a_server_that_cannot_prove_its_name_and_a_wrong_password_are_told_and_not_tried_again() {
    let guarded = Guarded::start(&[]);
    let wrong_host = refusal(&guarded.config("127.0.0.1", PASSWORD, guarded.verified()));
    assert!(wrong_host.contains("tls with 127.0.0.1") && wrong_host.contains("host in the url"), "{wrong_host}");
    let unknown = refusal(&guarded.config("localhost", PASSWORD, Tls::VerifyFull { ca_file: None }));
    assert!(unknown.contains("tls with localhost"), "{unknown}");
    for tls in [Tls::Disable, guarded.verified()] {
        let wrong = refusal(&guarded.config("localhost", "wrong", tls));
        assert!(wrong.contains("1045") && wrong.contains("password setting"), "{wrong}");
    }
}

#[test]
fn a_user_of_mariadb_who_signs_gets_in_with_the_password_and_not_with_another_one() {
    if mysql().is_some() {
        return;
    }
    let methods: &[&str] = if newer_mariadb().is_some() { &["ed25519", "parsec"] } else { &["ed25519"] };
    let guarded = Guarded::start(methods);
    let identify = |by: String| guarded.database.sql(&format!("ALTER USER reader@'%' IDENTIFIED {by}"));
    for method in methods {
        for password in [PASSWORD, "x", &"more than 32 bytes, ".repeat(9)] {
            let by = format!("VIA {method} USING PASSWORD({})", quoted(password));
            identify(by.clone());
            reads(&guarded.config("127.0.0.1", password, Tls::Disable));
            reads(&guarded.config("127.0.0.1", password, Tls::Disable));
            reads(&guarded.config("localhost", password, guarded.verified()));
            for wrong in ["wrong", "", &format!("{password} ")] {
                let wrong = refusal(&guarded.config("127.0.0.1", wrong, Tls::Disable));
                assert!(wrong.contains("1045") && wrong.contains("password setting"), "{method}: {wrong}");
            }
            // Asked for once the first proof was none.
            identify(format!("VIA mysql_native_password USING PASSWORD('another') OR {}", &by[4..]));
            reads(&guarded.config("127.0.0.1", password, Tls::Disable));
            reads(&guarded.config("127.0.0.1", "another", Tls::Disable));
            let wrong = refusal(&guarded.config("127.0.0.1", "wrong", Tls::Disable));
            assert!(wrong.contains("1045"), "{method}: {wrong}");
        }
    }
}
