//! Proofs of who we are, as targets ask for them, and secrets that are replaced while rows are on their way.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use syncline_schemas::secret::{Secret, SecretRef};
use syncline_sinks::planner::{Access, Faults};
use syncline_sinks::planning::{Auth, PlanningConfig, PlanningSink, Rate, TlsFiles};
use syncline_sinks::{Class, Sink as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::outbox::Outbox;
use crate::scripted;
use crate::target::Target;

const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn given(text: &str) -> SecretRef {
    SecretRef::Given(Secret::new(text))
}

fn outbox(rows: u32) -> Outbox {
    let mut outbox = Outbox::default();
    let changes: Vec<_> = (0..rows).map(|row| ("inventory_balance", row, Some(1))).collect();
    outbox.push(1, &changes);
    outbox
}

fn client_credentials(target: &Target, secret: SecretRef) -> Auth {
    Auth::ClientCredentials {
        token_url: format!("http://{}/oauth2/token", target.running.addr).parse().expect("a URL"),
        client_id: "sync line".to_owned(),
        client_secret: secret,
        scope: Some("deltas".to_owned()),
    }
}

#[tokio::test]
async fn whoever_cannot_prove_who_he_is_delivers_nothing_and_no_message_shows_the_secret() {
    let secret = || Some(Secret::new("hunter2"));
    let header = |key| Auth::Header { name: "X-Api-Key".to_owned(), key };
    let basic = |password| Auth::Basic { user: "me".to_owned(), password };
    let asked = [
        Access { token: secret(), ..Access::default() },
        Access { api_key: secret(), ..Access::default() },
        Access { basic: Some(Secret::new("me:hunter2")), ..Access::default() },
        Access { client: Some(Secret::new("sync+line:hunter2")), ..Access::default() },
        Access { signing_key: Some(Secret::new(KEY)), ..Access::default() },
    ];
    for (way, access) in asked.into_iter().enumerate() {
        let target = Target::start(Faults::default()).await;
        target.running.require(access);
        let config = |secret: &str| {
            let mut config = target.config();
            match way {
                0 => config.auth = Auth::Bearer(given(secret)),
                1 => config.auth = header(given(secret)),
                2 => config.auth = basic(given(secret)),
                3 => config.auth = client_credentials(&target, given(secret)),
                _ => config.signing_key = Some(given(if secret == "hunter2" { KEY } else { "whsec_aHVudGVyMw==" })),
            }
            config
        };
        let outbox = outbox(100);
        let mut wrong = PlanningSink::new(config("hunter3")).expect("sound");
        let error = wrong.write(outbox.span(), &outbox).await.expect_err("refused");
        assert_eq!(error.class(), Class::Definite, "{way}: {error}");
        assert!(error.to_string().contains("check the sink's credentials"), "{way}: {error}");
        assert!(!error.to_string().contains("hunter"), "{way}: {error}");
        assert_eq!(target.stat("records").await, 0);
        let mut right = PlanningSink::new(config("hunter2")).expect("sound");
        right.check().await.expect("let in");
        right.write(outbox.span(), &outbox).await.expect("let in");
        target.assert_holds(&outbox).await;
    }
}

#[tokio::test]
async fn a_secret_that_is_replaced_in_its_file_and_a_token_that_ends_need_no_restart() {
    let target = Target::start(Faults::default()).await;
    let file = target.folder.path().join("secret");
    let replace = |text: &str| std::fs::write(&file, text).expect("written");
    let token = |text: &str| Access { token: Some(Secret::new(text)), ..Access::default() };
    let client = |text: &str| Access { client: Some(Secret::new(format!("sync+line:{text}"))), ..Access::default() };
    for (auth, access) in [
        (Auth::Bearer(SecretRef::File(file.clone())), &token as &dyn Fn(&str) -> Access),
        (client_credentials(&target, SecretRef::File(file.clone())), &client),
    ] {
        let mut config = target.config();
        config.auth = auth;
        let mut sink = PlanningSink::new(config).expect("sound");
        let outbox = outbox(100);
        for text in ["old", "new\n", "new\n"] {
            replace(text);
            target.running.require(access(text.trim()));
            sink.write(outbox.span(), &outbox).await.expect("let in");
        }
        replace("stale");
        target.running.require(access("newer"));
        sink.check().await.expect_err("it is asked twice and no more");
    }
}

#[tokio::test]
async fn a_target_that_bears_few_requests_never_sees_more_in_any_window() {
    const RATE: Rate = Rate { count: 5, per: Duration::from_millis(200) };
    let arrivals: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let mut config = scripted::target({
        let arrivals = Arc::clone(&arrivals);
        move |_| {
            arrivals.lock().expect("no panic").push(Instant::now());
            (StatusCode::INTERNAL_SERVER_ERROR, "down").into_response()
        }
    })
    .await;
    // Retries are requests, too.
    (config.rate, config.partitions, config.patience) = (Some(RATE), 16, Duration::from_millis(700));
    let outbox = outbox(200);
    let mut sink = PlanningSink::new(config).expect("sound");
    sink.write(outbox.span(), &outbox).await.expect_err("it is down");
    let arrivals = arrivals.lock().expect("no panic");
    assert!(arrivals.len() > RATE.count, "{} requests", arrivals.len());
    for window in arrivals.windows(RATE.count + 1) {
        let within = window[RATE.count] - window[0];
        assert!(within >= RATE.per, "{} requests within {within:?}", window.len());
    }
}

/// Files of an authority, a server and a client that it knows, and one that it does not.
fn certificates(folder: &Path) {
    let openssl = |arguments: &str| {
        let output = Command::new("openssl").current_dir(folder).args(arguments.split(' ')).output().expect("openssl");
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&format!("req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=authority -days 2"));
    std::fs::write(folder.join("names"), "subjectAltName=DNS:localhost\n").expect("written");
    for name in ["server", "client"] {
        openssl(&format!("req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        let signed = "-CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names";
        openssl(&format!("x509 -req -in {name}.csr -out {name}.pem {signed}"));
    }
    openssl(&format!("req -x509 {key} -keyout other.key -out other.pem -subj /CN=other -days 2"));
}

/// Lets those in whom the authority knows, and hands their bytes on.
async fn terminate_tls(folder: &Path, to: SocketAddr) -> u16 {
    let certificate = CertificateDer::from_pem_file(folder.join("server.pem")).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(folder.join("server.key")).expect("a key");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.join("ca.pem")).expect("a certificate")).expect("an authority");
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().expect("a verifier");
    let config = ServerConfig::builder().with_client_cert_verifier(verifier).with_single_cert(vec![certificate], key);
    let acceptor = TlsAcceptor::from(Arc::new(config.expect("a pair")));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut planner = TcpStream::connect(to).await.expect("the planner listens");
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut planner).await;
            });
        }
    });
    port
}

#[tokio::test]
async fn a_target_that_asks_for_a_certificate_gets_ours_also_after_it_was_replaced() {
    let target = Target::start(Faults::default()).await;
    let folder = tempfile::tempdir().expect("a folder");
    certificates(folder.path());
    let port = terminate_tls(folder.path(), target.running.addr).await;
    let file = |name: &str| folder.path().join(name);
    let config = |tls: TlsFiles| PlanningConfig {
        url: format!("https://localhost:{port}/pdx/v1").parse().expect("a URL"),
        tls,
        patience: Duration::ZERO,
        ..target.config()
    };
    let stranger = TlsFiles { ca: Some(file("ca.pem")), identity: None };
    let sink = PlanningSink::new(config(stranger)).expect("sound");
    sink.check().await.expect_err("it has no certificate");
    let mistrusting = PlanningSink::new(config(TlsFiles::default())).expect("sound");
    let error = mistrusting.check().await.expect_err("nobody knows the authority");
    assert_eq!(error.class(), Class::Definite, "{error}");

    let copy = |from: &str, to: &str| assert!(std::fs::copy(file(from), file(to)).expect("copied") > 0);
    copy("other.pem", "our.pem");
    copy("other.key", "our.key");
    let known = TlsFiles { ca: Some(file("ca.pem")), identity: Some((file("our.pem"), file("our.key"))) };
    let mut sink = PlanningSink::new(config(known)).expect("sound");
    sink.check().await.expect_err("the authority does not know this one");
    copy("client.pem", "our.pem");
    copy("client.key", "our.key");
    let outbox = outbox(100);
    sink.write(outbox.span(), &outbox).await.expect("let in");
    target.assert_holds(&outbox).await;

    let missing = TlsFiles { ca: Some(file("none.pem")), identity: None };
    let error = PlanningSink::new(config(missing)).map(drop).expect_err("no such file");
    assert!(error.to_string().contains("none.pem"), "{error}");
}
