//! Google Cloud Storage as far as a lake needs it, after the manual of its XML interface: conditional creates
//! (`x-goog-if-generation-match`), listings in pages, ranges, uploads in parts.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::Response;
use tokio::task::JoinHandle;
use url::form_urlencoded;

const BUCKET: &str = "lake";

/// So few that listings take several requests.
const PAGE: usize = 5;

const DATE: &str = "2024-05-17T09:30:00.000Z";
const HTTP_DATE: &str = "Fri, 17 May 2024 09:30:00 GMT";

#[derive(Default)]
struct Bucket {
    objects: BTreeMap<String, (Bytes, u64)>,
    uploads: HashMap<String, BTreeMap<u32, Bytes>>,
    generation: u64,
}

/// Serves until it is stopped.
pub(crate) struct Google {
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Google {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let router = Router::new().fallback(answer).with_state(Arc::<Mutex<Bucket>>::default());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.expect("serves") });
        Self { address, task }
    }

    pub(crate) fn stop(&self) {
        self.task.abort();
    }
}

fn reply(status: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response
}

fn with_headers(mut response: Response, generation: u64) -> Response {
    let headers = response.headers_mut();
    headers.insert("etag", format!("\"{generation}\"").parse().expect("ASCII"));
    headers.insert("x-goog-generation", generation.into());
    headers.insert("last-modified", HTTP_DATE.parse().expect("ASCII"));
    response
}

/// Undoes percent encoding, which leaves `+` as it is.
fn decoded(text: &str) -> String {
    form_urlencoded::parse(text.replace('+', "%2B").as_bytes()).map(|(name, _)| name.into_owned()).collect()
}

async fn answer(
    State(bucket): State<Arc<Mutex<Bucket>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut bucket = bucket.lock().expect("whole");
    let (name, object) = uri.path()[1..].split_once('/').unwrap_or((&uri.path()[1..], ""));
    if name != BUCKET {
        return reply(StatusCode::NOT_FOUND, "<Error><Code>NoSuchBucket</Code></Error>");
    }
    let object = decoded(object);
    let query: HashMap<String, String> =
        form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    match method {
        Method::GET if object.is_empty() => bucket.list(&query),
        Method::GET | Method::HEAD => bucket.get(&object, &headers),
        Method::PUT => match query.get("uploadId") {
            Some(upload) => bucket.part(upload, &query["partNumber"], body),
            None => bucket.put(object, &headers, body),
        },
        Method::POST if query.contains_key("uploads") => bucket.begin(),
        Method::POST => bucket.complete(&query["uploadId"], object),
        Method::DELETE if query.contains_key("uploadId") => {
            bucket.uploads.remove(&query["uploadId"]);
            reply(StatusCode::NO_CONTENT, "")
        }
        Method::DELETE => match bucket.objects.remove(&object) {
            Some(_) => reply(StatusCode::NO_CONTENT, ""),
            None => reply(StatusCode::NOT_FOUND, "<Error><Code>NoSuchKey</Code></Error>"),
        },
        _ => reply(StatusCode::METHOD_NOT_ALLOWED, ""),
    }
}

impl Bucket {
    fn list(&self, query: &HashMap<String, String>) -> Response {
        let of = |name: &str| query.get(name).cloned().unwrap_or_default();
        let (prefix, delimiter) = (of("prefix"), of("delimiter"));
        let after = of("continuation-token").max(of("start-after"));
        let (mut found, mut folders) = (String::new(), BTreeSet::new());
        let mut left = self.objects.iter().filter(|(key, _)| key.starts_with(&prefix) && **key > after).peekable();
        let mut last = "";
        // A folder is told once, whatever number of pages: those with a delimiter are whole.
        let page = if delimiter.is_empty() { PAGE } else { usize::MAX };
        for (key, (bytes, generation)) in left.by_ref().take(page) {
            last = key;
            let rest = &key[prefix.len()..];
            match rest.find(&delimiter).filter(|_| !delimiter.is_empty()) {
                Some(end) => drop(folders.insert(format!("{prefix}{}", &rest[..end + delimiter.len()]))),
                None => write!(
                    found,
                    "<Contents><Key>{}</Key><Size>{}</Size><LastModified>{DATE}</LastModified><ETag>\"{generation}\"</ETag></Contents>",
                    escaped(key),
                    bytes.len()
                )
                .expect("written"),
            }
        }
        let next = left.peek().map(|_| format!("<NextContinuationToken>{}</NextContinuationToken>", escaped(last)));
        let folders: String = folders
            .iter()
            .map(|folder| format!("<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>", escaped(folder)))
            .collect();
        reply(
            StatusCode::OK,
            format!("<ListBucketResult>{found}{folders}{}</ListBucketResult>", next.unwrap_or_default()),
        )
    }

    fn get(&self, object: &str, headers: &HeaderMap) -> Response {
        let Some((bytes, generation)) = self.objects.get(object) else {
            return reply(StatusCode::NOT_FOUND, "<Error><Code>NoSuchKey</Code></Error>");
        };
        let range = headers.get("range").and_then(|range| range.to_str().ok()?.strip_prefix("bytes="));
        let Some((first, last)) = range.and_then(|range| range.split_once('-')) else {
            return with_headers(reply(StatusCode::OK, bytes.clone()), *generation);
        };
        let number = |text: &str| text.parse::<usize>().ok();
        let (from, to) = match (number(first), number(last)) {
            (Some(from), to) => (from, to.map_or(bytes.len(), |to| (to + 1).min(bytes.len()))),
            (None, count) => (bytes.len().saturating_sub(count.unwrap_or(0)), bytes.len()),
        };
        let mut response = with_headers(reply(StatusCode::PARTIAL_CONTENT, bytes.slice(from..to)), *generation);
        let range = format!("bytes {from}-{}/{}", to.saturating_sub(1), bytes.len());
        response.headers_mut().insert("content-range", range.parse().expect("ASCII"));
        response
    }

    fn put(&mut self, object: String, headers: &HeaderMap, body: Bytes) -> Response {
        let creates = headers.get("x-goog-if-generation-match").is_some_and(|wanted| wanted == "0");
        if creates && self.objects.contains_key(&object) {
            return reply(StatusCode::PRECONDITION_FAILED, "<Error><Code>PreconditionFailed</Code></Error>");
        }
        self.generation += 1;
        self.objects.insert(object, (body, self.generation));
        with_headers(reply(StatusCode::OK, ""), self.generation)
    }

    fn begin(&mut self) -> Response {
        self.generation += 1;
        let id = self.generation.to_string();
        self.uploads.insert(id.clone(), BTreeMap::new());
        reply(
            StatusCode::OK,
            format!("<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"),
        )
    }

    fn part(&mut self, upload: &str, number: &str, body: Bytes) -> Response {
        let Some(parts) = self.uploads.get_mut(upload) else { return reply(StatusCode::NOT_FOUND, "") };
        parts.insert(number.parse().expect("a number"), body);
        with_headers(reply(StatusCode::OK, ""), 1)
    }

    fn complete(&mut self, upload: &str, object: String) -> Response {
        let Some(parts) = self.uploads.remove(upload) else { return reply(StatusCode::NOT_FOUND, "") };
        let whole: Vec<u8> = parts.into_values().flatten().collect();
        self.generation += 1;
        let generation = self.generation;
        self.objects.insert(object, (whole.into(), generation));
        let body =
            format!("<CompleteMultipartUploadResult><ETag>\"{generation}\"</ETag></CompleteMultipartUploadResult>");
        with_headers(reply(StatusCode::OK, body), generation)
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
