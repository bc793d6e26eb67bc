//! Stores on servers of our own, which end with their value: moto for S3, Azurite for Azure Blob storage, and for Google,
//! of whose stand-ins none keeps two writers apart, the few requests that matter as its manual has them (`google`).

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use syncline_schemas::secret::Secret;
use syncline_sinks::lake::StoreOptions;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use url::{Url, form_urlencoded};

use super::google::Google;
use super::python::program;

/// The only account of Azurite, and its key, which are public.
const ACCOUNT: &str = "devstoreaccount1";
const ACCOUNT_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Whose interface a server has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    S3,
    Azure,
    Google,
}

/// All of them, for tests of what they have in common.
pub(crate) const KINDS: [Kind; 3] = [Kind::S3, Kind::Azure, Kind::Google];

/// What serves until it is dropped.
enum Running {
    Process(Child),
    Here(Google),
}

/// A private server with the bucket or container `lake`.
pub(crate) struct Server {
    kind: Kind,
    running: Running,
    pub(crate) address: SocketAddr,
    _folder: TempDir,
}

/// The address in the line in which a server says where it listens; what follows is read, or the server blocks when the
/// pipe is full.
fn announced(output: impl Read + Send + 'static) -> SocketAddr {
    let mut lines = BufReader::new(output).lines();
    let address = lines
        .by_ref()
        .map(|line| line.expect("text"))
        .find_map(|line| {
            let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
            let port = line.split_once("http://127.0.0.1:")?.1;
            port[..digits(port)].parse::<u16>().ok()
        })
        .expect("the server says where it listens");
    std::thread::spawn(move || lines.for_each(drop));
    SocketAddr::from(([127, 0, 0, 1], address))
}

const SAS_VERSION: &str = "2019-12-12";
const SAS_EXPIRY: &str = "2099-01-01T00:00:00Z";

fn signed(text: &str, pairs: &[(&str, &str)]) -> String {
    let key = STANDARD.decode(ACCOUNT_KEY).expect("base64");
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("any length");
    mac.update(text.as_bytes());
    form_urlencoded::Serializer::new(String::new())
        .extend_pairs([("sv", SAS_VERSION), ("se", SAS_EXPIRY), ("spr", "https,http")])
        .extend_pairs(pairs)
        .append_pair("sig", &STANDARD.encode(mac.finalize().into_bytes()))
        .finish()
}

/// A shared access signature for Azurite's account.
fn account_sas() -> String {
    let text = format!("{ACCOUNT}\nrwdlac\nb\nsco\n\n{SAS_EXPIRY}\n\nhttps,http\n{SAS_VERSION}\n");
    signed(&text, &[("ss", "b"), ("srt", "sco"), ("sp", "rwdlac")])
}

/// A shared access signature for the container `lake`, for what `permissions` say.
pub(crate) fn sas(permissions: &str) -> String {
    let text =
        format!("{permissions}\n\n{SAS_EXPIRY}\n/blob/{ACCOUNT}/lake\n\n\nhttps,http\n{SAS_VERSION}\nc\n\n\n\n\n\n");
    signed(&text, &[("sr", "c"), ("sp", permissions)])
}

impl Server {
    pub(crate) async fn start(kind: Kind) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // Port 0: the server picks a free one and says which.
        let (mut command, says_on_stdout) = match kind {
            Kind::S3 => {
                let mut command = Command::new(program("python-env", "bin/moto_server"));
                command.args(["-H", "127.0.0.1", "-p", "0"]).env("PYTHONUNBUFFERED", "1");
                (command, false)
            }
            Kind::Azure => {
                let mut command = Command::new(program("azurite", "azurite-blob"));
                command.args(["--blobHost", "127.0.0.1", "--blobPort", "0", "--disableTelemetry", "--location"]);
                command.arg(folder.path());
                (command, true)
            }
            Kind::Google => {
                let google = Google::start().await;
                let address = google.address;
                return Self { kind, running: Running::Here(google), address, _folder: folder };
            }
        };
        let (says, is_mute) = (Stdio::piped(), Stdio::null());
        let (stdout, stderr) = if says_on_stdout { (says, is_mute) } else { (is_mute, says) };
        let mut process = command.stdout(stdout).stderr(stderr).spawn().expect("the server starts");
        let address = match (process.stdout.take(), process.stderr.take()) {
            (Some(stdout), _) => announced(stdout),
            (None, stderr) => announced(stderr.expect("piped")),
        };
        let server = Self { kind, running: Running::Process(process), address, _folder: folder };
        server.make_bucket().await;
        server
    }

    async fn make_bucket(&self) {
        let path = match self.kind {
            Kind::S3 | Kind::Google => "/lake".to_owned(),
            Kind::Azure => format!("/{ACCOUNT}/lake?restype=container&{}", account_sas()),
        };
        let mut stream = TcpStream::connect(self.address).await.expect("it listens");
        let request = format!(
            "PUT {path} HTTP/1.1\r\nHost: localhost\r\nx-ms-version: 2023-11-03\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.expect("a reply");
        assert!(reply.starts_with("HTTP/1.1 20"), "{reply}");
    }

    /// A place in a bucket or container.
    pub(crate) fn url(&self, bucket: &str, path: &str) -> Url {
        let scheme = match self.kind {
            Kind::S3 => "s3",
            Kind::Azure => "az",
            Kind::Google => "gs",
        };
        Url::parse(&format!("{scheme}://{bucket}/{path}")).expect("a URL")
    }

    fn endpoint(&self, address: SocketAddr) -> String {
        match self.kind {
            Kind::S3 | Kind::Google => format!("http://{address}"),
            Kind::Azure => format!("http://{address}/{ACCOUNT}"),
        }
    }

    /// How a lake reaches it.
    pub(crate) fn options(&self) -> StoreOptions {
        self.options_at(self.address)
    }

    /// How a lake reaches it through a proxy.
    pub(crate) fn options_at(&self, address: SocketAddr) -> StoreOptions {
        let endpoint = Some(Url::parse(&self.endpoint(address)).expect("a URL"));
        let common = StoreOptions { endpoint, allow_http: true, ..StoreOptions::default() };
        match self.kind {
            Kind::S3 => StoreOptions {
                region: Some("us-east-1".into()),
                access_key_id: Some(Secret::new("test")),
                secret_access_key: Some(Secret::new("hidden-key")),
                ..common
            },
            Kind::Azure => {
                StoreOptions { account: Some(ACCOUNT.into()), account_key: Some(Secret::new(ACCOUNT_KEY)), ..common }
            }
            Kind::Google => StoreOptions { service_account: Some(Secret::new(self.service_account())), ..common },
        }
    }

    /// A key file as stand-ins have it: nobody is asked for a token.
    fn service_account(&self) -> String {
        let key = json!({
            "client_email": "", "private_key": "hidden-key", "private_key_id": "", "disable_oauth": true,
            "gcs_base_url": self.endpoint(self.address),
        });
        key.to_string()
    }

    /// How readers of other makers reach it: `storage` for delta-rs and Polars, `extension` and `secret` for DuckDB.
    pub(crate) fn readers(&self) -> Value {
        let endpoint = self.endpoint(self.address);
        match self.kind {
            // DuckDB speaks to Google as to S3, with keys that this stand-in does not know.
            Kind::Google => json!({ "storage": { "google_service_account_key": self.service_account() } }),
            Kind::S3 => json!({
                "storage": {
                    "aws_endpoint_url": endpoint, "aws_access_key_id": "test", "aws_secret_access_key": "hidden-key",
                    "aws_region": "us-east-1", "aws_allow_http": "true",
                },
                "extension": "httpfs",
                "secret": format!(
                    "TYPE s3, KEY_ID 'test', SECRET 'hidden-key', REGION 'us-east-1', ENDPOINT '{}', URL_STYLE 'path', USE_SSL false",
                    self.address
                ),
            }),
            Kind::Azure => json!({
                "storage": {
                    "azure_storage_account_name": ACCOUNT, "azure_storage_account_key": ACCOUNT_KEY,
                    "azure_storage_use_emulator": "true",
                },
                // Where the readers' own library looks for an emulator.
                "environment": { "AZURITE_BLOB_STORAGE_URL": format!("http://{}", self.address) },
                "extension": "azure",
                "secret": format!(
                    "TYPE azure, CONNECTION_STRING 'DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY};BlobEndpoint={endpoint};'"
                ),
            }),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        match &mut self.running {
            Running::Process(process) => {
                let _ = process.kill();
                let _ = process.wait();
            }
            Running::Here(google) => google.stop(),
        }
    }
}
