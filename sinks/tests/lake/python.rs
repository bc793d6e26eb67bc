//! What Python lends: readers of other makers, and an S3 server.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use syncline_schemas::secret::Secret;
use syncline_sinks::lake::S3Options;
use url::Url;

use super::model::Model;
use super::read;

/// The environment's folder, made when it is not there.
fn environment() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/python-env");
    let output = Command::new(&script).stderr(Stdio::inherit()).output().expect("deploy/python-env starts");
    assert!(output.status.success(), "{} failed", script.display());
    PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim())
}

/// Writes what a script is given.
fn given(folder: &Path, name: &str, value: &serde_json::Value) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, value.to_string()).expect("written");
    path
}

/// Runs a script of this folder, which must go well.
fn run(script: &str, arguments: &[&OsStr]) {
    let mut command = Command::new(environment().join("bin/python"));
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lake").join(script)).args(arguments);
    let output = command.env("PYTHONDONTWRITEBYTECODE", "1").output().expect("python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Compares a lake with the model through delta-rs and, on a local folder, DuckDB; then lets delta-rs compact it.
pub(crate) fn compare(lake: &str, model: &Model, optimize: bool, options: &[(&str, String)]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let wanted = given(folder.path(), "wanted.json", &serde_json::json!(read::wanted(model)));
    let options: serde_json::Map<_, _> =
        options.iter().map(|(key, value)| ((*key).to_owned(), value.clone().into())).collect();
    let options = given(folder.path(), "options.json", &options.into());
    let mut arguments = vec![lake.as_ref(), wanted.as_os_str(), options.as_os_str()];
    arguments.extend(optimize.then_some(OsStr::new("optimize")));
    run("compare.py", &arguments);
}

/// Runs the recipes of a page on a lake and compares their answers with what is wanted, by name.
pub(crate) fn ask(page: &Path, lake: &Path, wanted: &serde_json::Value) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let wanted = given(folder.path(), "wanted.json", wanted);
    run("query.py", &[page.as_os_str(), lake.as_os_str(), wanted.as_os_str()]);
}

/// A private moto server with the bucket `lake`; stopped when dropped.
pub(crate) struct S3Server {
    process: Child,
    endpoint: Url,
}

impl S3Server {
    pub(crate) async fn start() -> Self {
        // Port 0: the server picks a free one and says which on stderr.
        let mut process = Command::new(environment().join("bin/moto_server"))
            .args(["-H", "127.0.0.1", "-p", "0"])
            .env("PYTHONUNBUFFERED", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("moto_server starts");
        let mut lines = BufReader::new(process.stderr.take().expect("piped")).lines();
        let line = lines
            .by_ref()
            .map(|line| line.expect("text"))
            .find(|line| line.contains("Running on http://"))
            .expect("the server says where it listens");
        // Read on, or the server blocks when the pipe is full.
        std::thread::spawn(move || lines.for_each(drop));
        let address = line.split("http://").nth(1).expect("an address").split_whitespace().next().expect("an address");
        let server = Self {
            process,
            endpoint: Url::parse(&format!("http://{}", address.trim_matches('\u{1b}'))).expect("a URL"),
        };
        server.make_bucket().await;
        server
    }

    async fn make_bucket(&self) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let address = format!("127.0.0.1:{}", self.endpoint.port().expect("a port"));
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut stream = loop {
            match tokio::net::TcpStream::connect(&address).await {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < deadline, "moto at {address}: {error}"),
            }
        };
        let request = "PUT /lake HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.expect("a reply");
        assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    }

    pub(crate) fn endpoint(&self) -> Url {
        self.endpoint.clone()
    }

    /// How a lake reaches it.
    pub(crate) fn settings(&self) -> S3Options {
        S3Options {
            endpoint: Some(self.endpoint()),
            region: Some("us-east-1".into()),
            allow_http: true,
            access_key_id: Some(Secret::new("test")),
            secret_access_key: Some(Secret::new("test")),
            session_token: None,
        }
    }

    /// How delta-rs in Python reaches it.
    pub(crate) fn options(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL", self.endpoint.as_str().trim_end_matches('/').to_owned()),
            ("AWS_ACCESS_KEY_ID", "test".into()),
            ("AWS_SECRET_ACCESS_KEY", "test".into()),
            ("AWS_REGION", "us-east-1".into()),
            ("AWS_ALLOW_HTTP", "true".into()),
        ]
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
