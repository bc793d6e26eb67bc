//! The reference receiver behind a layer that makes one mistake: what integrators get wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::Response;
use serde_json::{Value, json};

use crate::formats::digest;

/// One mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mistake {
    None,
    AppliesLowerVersions,
    ForgetsTombstones,
    ForgetsKeys,
    AcceptsReusedKeys,
    AcceptsGaps,
    ExpectsNothing,
    AcceptsOldEpochs,
    IgnoresContentDigest,
    LosesDecimals,
    FoldsCase,
    TrimsKeys,
    RefusesWholeBatches,
    RefusesUnknownFields,
    CountsWrong,
    LagsBehind,
    CallsProblemsJson,
    TakesEveryone,
    SwallowsLargeBodies,
    RefusesWhatItAnnounces,
    SweepsYounger,
    IgnoresScope,
    ForgetsKeep,
    CommitsWithoutParts,
    CommitsAnything,
    SweepsUnasked,
    AbortsNothing,
    DigestsNothing,
    NamesNoPause,
    FailsJobs,
}

/// What a mistake remembers.
#[derive(Default)]
struct Memory {
    deleted: BTreeSet<String>,
    /// Parts that came, by load.
    parts: BTreeMap<String, u64>,
    count: u64,
}

struct Mangler {
    mistake: Mistake,
    target: String,
    token: Option<String>,
    http: reqwest::Client,
    memory: Mutex<Memory>,
}

/// A request under way.
struct Passed {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Vec<u8>,
}

/// Its answer.
struct Answered {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

/// Starts the layer; gives its base.
pub(crate) async fn serve(mistake: Mistake, target: std::net::SocketAddr, token: Option<&str>) -> String {
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let target = format!("http://{target}");
    let mangler = Mangler { mistake, target, token: token.map(str::to_owned), http, memory: Mutex::default() };
    let router = Router::new().fallback(pass).with_state(Arc::new(mangler));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let base = format!("http://{}/pdx/v1", listener.local_addr().expect("bound"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    base
}

async fn pass(State(mangler): State<Arc<Mangler>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, 100 << 20).await.expect("a body").to_vec();
    let path = parts.uri.path_and_query().expect("a path").to_string();
    let mut passed = Passed { method: parts.method, path, headers: parts.headers, body };
    let at_once =
        if passed.path.contains("/snapshots") { mangler.before_load(&mut passed) } else { mangler.before(&mut passed) };
    let answered = match at_once {
        Some(answered) => answered,
        None => {
            let mut answered = mangler.forward(&passed).await;
            mangler.after(&passed, &mut answered);
            answered
        }
    };
    let mut response = Response::new(Body::from(answered.body));
    *response.status_mut() = answered.status;
    for name in ["content-type", "location", "retry-after"] {
        if let Some(value) = answered.headers.get(name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

impl Passed {
    fn is_deltas(&self) -> bool {
        self.path.ends_with("/deltas")
    }

    fn is_json(&self) -> bool {
        !self.headers.contains_key("content-encoding")
            && self.headers.get("content-type").is_some_and(|it| it.to_str().is_ok_and(|it| it.contains("json")))
    }

    fn header(&self, name: &str) -> String {
        self.headers.get(name).and_then(|it| it.to_str().ok()).unwrap_or_default().to_owned()
    }

    fn set(&mut self, name: &'static str, value: &str) {
        self.headers.insert(name, value.parse().expect("a header"));
    }

    /// Changes a JSON body; the digest stays as right or wrong as it was.
    fn edit(&mut self, change: impl FnOnce(&mut Value)) {
        let was_right = self.header("content-digest") == digest(&self.body);
        let Ok(mut body) = serde_json::from_slice(&self.body) else { return };
        change(&mut body);
        self.body = body.to_string().into_bytes();
        if was_right {
            let digest = digest(&self.body);
            self.set("content-digest", &digest);
        }
    }

    fn records(&mut self, mut change: impl FnMut(&mut Value)) {
        if self.is_json() && (self.is_deltas() || self.path.contains("/parts/")) {
            self.edit(|body| body["records"].as_array_mut().into_iter().flatten().for_each(&mut change));
        }
    }

    fn batch(&self) -> (u64, u64) {
        let text = self.header("pdx-sequence");
        let (epoch, batch) = text.split_once("; ").expect("a sequence");
        let number = |text: &str| text.split_once('=').expect("a number").1.parse().expect("a number");
        (number(epoch), number(batch))
    }
}

const HIGHEST: &str = "00000001f00000000000000000000000";

impl Mangler {
    /// Changes a request, or answers it at once.
    fn before(&self, passed: &mut Passed) -> Option<Answered> {
        let memory = &mut *self.memory.lock().expect("no panic");
        match self.mistake {
            Mistake::AppliesLowerVersions => passed.records(|record| {
                memory.count += 1;
                if record["key"]["item_id"] == "version" {
                    record["version"] = format!("0000000100f0000000000000{:08x}", memory.count).into();
                }
            }),
            Mistake::ForgetsTombstones => passed.records(|record| {
                let key = record["key"].to_string();
                if record["op"] == "delete" {
                    memory.deleted.insert(key);
                } else if memory.deleted.remove(&key) {
                    record["version"] = HIGHEST.into();
                }
            }),
            Mistake::ForgetsKeys | Mistake::AcceptsReusedKeys if passed.is_deltas() => {
                let body =
                    if self.mistake == Mistake::AcceptsReusedKeys { digest(&passed.body) } else { String::new() };
                memory.count += u64::from(body.is_empty());
                let key = format!("\"{}{}{}\"", passed.header("idempotency-key").trim_matches('"'), body, memory.count);
                passed.set("idempotency-key", &key);
            }
            Mistake::AcceptsGaps if passed.is_deltas() => {
                let (epoch, batch) = passed.batch();
                if epoch == 1 && batch > memory.count + 1 {
                    passed.set("pdx-sequence", &format!("epoch=1; batch={}", memory.count + 1));
                }
            }
            Mistake::AcceptsOldEpochs if passed.is_deltas() && passed.batch().0 == 0 => {
                passed.set("pdx-sequence", "epoch=1; batch=1");
            }
            Mistake::IgnoresContentDigest if passed.is_deltas() => {
                let digest = digest(&passed.body);
                passed.set("content-digest", &digest);
            }
            Mistake::LosesDecimals => passed.records(|record| {
                if let Some(text) = record["data"]["weight_kg"].as_str() {
                    let lossy: f64 = text.parse().expect("a number");
                    record["data"]["weight_kg"] = format!("{lossy:.9}").into();
                }
            }),
            Mistake::FoldsCase => passed.records(|record| change_key(record, str::to_lowercase)),
            Mistake::TrimsKeys => passed.records(|record| change_key(record, |text| text.trim().to_owned())),
            Mistake::RefusesUnknownFields if passed.body.windows(23).any(|it| it == b"syncline_verify_unknown") => {
                return Some(problem(400, "malformed-batch"));
            }
            Mistake::TakesEveryone => {
                let token = format!("Bearer {}", self.token.as_deref().expect("a token"));
                passed.set("authorization", &token);
            }
            Mistake::SwallowsLargeBodies if passed.is_json() => {
                passed.edit(|_| ());
            }
            Mistake::RefusesWhatItAnnounces if passed.header("content-encoding") == "zstd" => {
                return Some(problem(415, "unsupported-encoding"));
            }
            Mistake::NamesNoPause if passed.is_deltas() => {
                memory.count += 1;
                return (memory.count == 2).then(|| problem(429, "slow-down"));
            }
            Mistake::FailsJobs if passed.is_deltas() && passed.headers.contains_key("prefer") => {
                let mut accepted = good(&Value::Null);
                accepted.status = StatusCode::ACCEPTED;
                return Some(accepted);
            }
            _ => {}
        }
        None
    }

    /// The same for requests of a load.
    fn before_load(&self, passed: &mut Passed) -> Option<Answered> {
        let memory = &mut *self.memory.lock().expect("no panic");
        match self.mistake {
            Mistake::SweepsYounger if passed.path.ends_with("/snapshots") => {
                passed.edit(|body| body["cut"] = HIGHEST.into());
            }
            Mistake::IgnoresScope if passed.path.ends_with("/snapshots") => {
                passed.edit(|body| drop(body.as_object_mut().expect("an object").remove("scope")));
            }
            Mistake::SweepsUnasked if passed.path.ends_with("/snapshots") => {
                passed.edit(|body| body["sweep"] = true.into());
            }
            Mistake::ForgetsKeep if passed.path.contains("/parts/") => passed.edit(|body| {
                let records = body["records"].as_array_mut().expect("records");
                records.retain(|record| record["op"] != "keep");
                let count = records.len();
                body["batch"]["count"] = count.into();
            }),
            Mistake::CommitsWithoutParts if passed.path.contains("/parts/") => {
                // Parts are numbered as they come.
                let (load, _) = passed.path.split_once("/parts/").expect("a part");
                let (load, part) = (load.to_owned(), memory.parts.entry(load.to_owned()).or_default());
                *part += 1;
                passed.path = format!("{load}/parts/{part}");
            }
            Mistake::CommitsWithoutParts if passed.path.ends_with(":commit") => {
                let parts = memory.parts.get(passed.path.trim_end_matches(":commit")).copied().unwrap_or_default();
                passed.edit(|body| body["parts"] = parts.into());
            }
            Mistake::AbortsNothing if passed.path.ends_with(":abort") => return Some(good(&Value::Null)),
            _ => {}
        }
        None
    }

    async fn forward(&self, passed: &Passed) -> Answered {
        let mut request = self.http.request(passed.method.clone(), format!("{}{}", self.target, passed.path));
        for (name, value) in &passed.headers {
            if !matches!(name.as_str(), "host" | "content-length" | "transfer-encoding" | "connection") {
                request = request.header(name, value);
            }
        }
        let response = request.body(passed.body.clone()).send().await.expect("the receiver answers");
        let (status, headers) = (response.status(), response.headers().clone());
        Answered { status, headers, body: response.bytes().await.expect("a body").to_vec() }
    }

    fn after(&self, passed: &Passed, answered: &mut Answered) {
        if passed.path.ends_with("/capabilities") {
            // Smaller, so that a try takes no longer than it must.
            answered.edit(|body| {
                for (_, flow) in body["flows"].as_object_mut().expect("flows") {
                    flow["max_records"] = 50.into();
                    if self.mistake != Mistake::SwallowsLargeBodies {
                        flow["max_bytes"] = Value::Null;
                    }
                }
            });
        }
        let is_receipt = passed.is_deltas() && answered.status == StatusCode::OK;
        match self.mistake {
            Mistake::AcceptsGaps if is_receipt => {
                let receipt: Value = serde_json::from_slice(&answered.body).expect("a receipt");
                self.memory.lock().expect("no panic").count =
                    receipt["watermark"]["last_batch"].as_u64().expect("a batch");
            }
            Mistake::ExpectsNothing if answered.status == StatusCode::CONFLICT => {
                answered.edit(|body| drop(body.as_object_mut().expect("a problem").remove("expected")));
            }
            Mistake::RefusesWholeBatches if is_receipt => {
                let receipt: Value = serde_json::from_slice(&answered.body).expect("a receipt");
                if receipt["rejected"] != 0 {
                    *answered = problem(422, "malformed-batch");
                }
            }
            Mistake::CountsWrong if is_receipt => answered.edit(|body| body["applied"] = body["received"].clone()),
            Mistake::LagsBehind if passed.path.contains("/watermark") => answered.edit(|body| {
                let last = body["last_batch"].as_u64().expect("a batch");
                body["last_batch"] = last.saturating_sub(1).into();
            }),
            Mistake::CallsProblemsJson if answered.status.is_client_error() => {
                answered.headers.insert("content-type", "application/json".parse().expect("a header"));
            }
            Mistake::CommitsAnything if passed.path.ends_with(":commit") && answered.status == StatusCode::CONFLICT => {
                *answered = good(&json!({ "records": 1, "swept": 0 }));
            }
            Mistake::DigestsNothing if passed.path.contains("level=0") => {
                answered.edit(|body| body["digest"] = "0".repeat(32).into());
            }
            _ => {}
        }
    }
}

fn change_key(record: &mut Value, change: impl Fn(&str) -> String) {
    let text = record["key"]["item_id"].as_str().expect("a key").to_owned();
    record["key"]["item_id"] = change(&text).into();
}

impl Answered {
    fn edit(&mut self, change: impl FnOnce(&mut Value)) {
        let mut body = serde_json::from_slice(&self.body).expect("JSON");
        change(&mut body);
        self.body = body.to_string().into_bytes();
    }
}

fn good(body: &Value) -> Answered {
    Answered { status: StatusCode::OK, headers: HeaderMap::new(), body: body.to_string().into_bytes() }
}

fn problem(status: u16, name: &str) -> Answered {
    let body = json!({ "type": format!("https://example.org/{name}"), "title": name, "status": status });
    let mut headers = HeaderMap::new();
    headers.insert("content-type", "application/problem+json".parse().expect("a header"));
    Answered { status: StatusCode::from_u16(status).expect("a status"), headers, body: body.to_string().into_bytes() }
}
