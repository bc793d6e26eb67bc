//! Planning outputs as the reference receiver publishes them: whole, unchanging, and told of by a signed pointer.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use reqwest::Method;
use serde_json::{Value, json};
use syncline_schemas::outputs::{OutputsAvailable, PageOf};
use syncline_schemas::secret::{Secret, SecretRef};
use syncline_sinks::SinkError;
use syncline_sinks::planner::{Access, Faults, OutputsHook};
use syncline_sinks::planning::webhook::{self, SignedHeaders};
use syncline_sinks::planning::{Auth, NoPage, OutputsClient};

use crate::openapi::{assert_described, document};
use crate::target::{Target, eventually};

const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn forecast(item: usize, qty: &str) -> Value {
    json!({ "company_id": "DE01", "item_id": item.to_string(), "location_id": "BER", "channel": "",
            "bucket_start": "2026-06-01", "bucket_type": "week", "forecast_version": "", "qty": qty })
}

async fn post_rows(target: &Target, query: &str, rows: &[Value]) -> (u16, Value) {
    let request = target.request(Method::POST, &format!("/outputs/forecast?{query}"));
    let answer = request.json(&json!({ "rows": rows })).send().await.expect("an answer");
    let status = answer.status().as_u16();
    (status, serde_json::from_slice(&answer.bytes().await.expect("a body")).expect("JSON"))
}

async fn pulled(target: &Target, cycle: &str, limit: u32) -> Vec<Value> {
    let (mut rows, mut next) = (Vec::new(), String::new());
    loop {
        let path = format!("/pdx/v1/outputs/forecast?cycle={cycle}&limit={limit}{next}");
        let page = target.get(&path).await;
        assert_described(&document(), "OutputPage", &page);
        rows.extend(page["rows"].as_array().expect("rows").iter().cloned());
        match page["next"].as_str() {
            Some(cursor) => next = format!("&cursor={cursor}"),
            None => {
                assert_eq!(page["row_count"], rows.len());
                return rows;
            }
        }
    }
}

#[tokio::test]
async fn a_published_cycle_never_changes_and_half_of_one_is_seen_by_nobody() {
    let target = Target::start(Faults::default()).await;
    let newest = target.get("/pdx/v1/outputs/forecast").await;
    assert_described(&document(), "OutputPage", &newest);
    assert!(newest["cycle_id"].is_null() && newest["rows"] == json!([]));

    let rows: Vec<Value> = (0..25).map(|item| forecast(item, "1.5")).collect();
    assert_eq!(post_rows(&target, "cycle=w1&more=true", &rows[..10]).await.0, 200);
    assert!(target.get("/pdx/v1/outputs/forecast").await["cycle_id"].is_null(), "more is to come");
    assert_described(&document(), "Problem", &target.get("/pdx/v1/outputs/forecast?cycle=w1").await);
    let (status, published) = post_rows(&target, "cycle=w1", &rows[10..]).await;
    assert_eq!((status, &published["rows"]), (200, &json!(25)), "{published}");
    assert_eq!(pulled(&target, "w1", 7).await, rows);

    let (status, problem) = post_rows(&target, "cycle=w1", &rows[..1]).await;
    assert_eq!((status, problem["title"].as_str()), (409, Some("cycle published")));
    assert_eq!(post_rows(&target, "cycle=w2", &[]).await.0, 200, "nothing is wanted any more");
    assert_eq!(target.get("/pdx/v1/outputs/forecast").await["cycle_id"], "w2");
    assert_eq!(pulled(&target, "w1", 1_000).await.len(), 25, "whoever is late can still end his pull");
    for path in ["forecast?cycle=w3", "item", "forecast?cursor=1", "forecast?cycle=w1&cursor=x"] {
        assert!(target.get(&format!("/pdx/v1/outputs/{path}")).await["type"].is_string(), "{path}");
    }
    for cycle in 3..12 {
        post_rows(&target, &format!("cycle=w{cycle}"), &[]).await;
    }
    assert!(target.get("/pdx/v1/outputs/forecast?cycle=w1").await["type"].is_string(), "it is not kept for ever");
}

#[tokio::test]
async fn a_row_that_breaks_the_contract_is_never_published_but_on_purpose() {
    let target = Target::start(Faults::default()).await;
    let with = |name: &str, value: Value| {
        let mut row = forecast(1, "1");
        row[name] = value;
        row
    };
    for (row, reason) in [
        (with("qty", json!(4711)), "row 1: qty: wanted a decimal string"),
        (with("qty", Value::Null), "row 1: qty is missing"),
        (with("bucket_type", json!("year")), "row 1: bucket_type: wanted one of day, week, month"),
        (json!(4711), "row 1: is no object"),
    ] {
        let (status, problem) = post_rows(&target, "cycle=w1", &[row]).await;
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(status == 422 && detail.starts_with(reason) && !detail.contains("4711"), "{problem}");
    }
    let (status, problem) = post_rows(&target, "cycle=w1", &[forecast(1, "1"), forecast(1, "2")]).await;
    assert_eq!((status, problem["title"].as_str()), (422, Some("key twice")), "{problem}");
    assert_eq!(post_rows(&target, "cycle=two%20words", &[]).await.0, 400);
    assert!(target.get("/pdx/v1/outputs/forecast").await["cycle_id"].is_null(), "nothing of it is there");
    assert_eq!(post_rows(&target, "cycle=w1", &[with("new", json!({"a": 1}))]).await.0, 200, "minors only add");
    assert_eq!(post_rows(&target, "cycle=w2&unchecked=true", &[with("qty", json!(1))]).await.0, 200);
}

#[tokio::test]
async fn outputs_are_read_with_the_proof_that_batches_are_sent_with_and_through_the_same_weather() {
    let target = Target::start(Faults::default()).await;
    post_rows(&target, "cycle=w1", &(0..40).map(|item| forecast(item, "1")).collect::<Vec<_>>()).await;
    target.set_faults(&Faults { error_rate: 0.3, drop_reply_rate: 0.3, seed: 5, ..Faults::default() }).await;
    target.running.require(Access { token: Some(Secret::new("hunter2")), ..Access::default() });
    let mut config = target.config();
    config.auth = Auth::Bearer(SecretRef::Given(Secret::new("hunter2")));
    let client = OutputsClient::new(config).expect("a client");
    let (mut cursor, mut items) = (None::<String>, BTreeSet::new());
    loop {
        let of = PageOf { output: "forecast", cycle: Some("w1"), cursor: cursor.as_deref(), limit: Some(9) };
        let page: Value = serde_json::from_slice(&client.page(of).await.expect("a page")).expect("JSON");
        items.extend(page["rows"].as_array().expect("rows").iter().map(|row| row["item_id"].to_string()));
        cursor = page["next"].as_str().map(str::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(items.len(), 40);
    let of = PageOf { output: "forecast", cycle: Some("w0"), cursor: None, limit: None };
    assert!(matches!(client.page(of).await, Err(NoPage::Gone(_))));
    target.running.require(Access { token: Some(Secret::new("hunter3")), ..Access::default() });
    target.set_faults(&Faults::default()).await;
    let refused = client.page(of).await.expect_err("another token is wanted");
    assert!(matches!(refused, NoPage::Failed(SinkError::Refused { .. })), "{refused:?}");
}

/// What a reader was sent.
type Messages = Arc<Mutex<Vec<(HeaderMap, Bytes)>>>;

/// A reader that answers 500 to the first message.
async fn reader(messages: &Messages) -> reqwest::Url {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/hooks/outputs/plan", listener.local_addr().expect("bound"));
    let messages = Arc::clone(messages);
    let take = move |headers: HeaderMap, body: Bytes| async move {
        let mut messages = messages.lock().expect("sound");
        messages.push((headers, body));
        if messages.len() == 1 { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::NO_CONTENT }
    };
    let router = Router::new().route("/hooks/outputs/plan", post(take));
    tokio::spawn(async move { axum::serve(listener, router).await });
    url.parse().expect("a URL")
}

#[tokio::test]
async fn a_reader_is_told_of_a_cycle_until_he_has_heard_and_can_see_who_told_him() {
    let target = Target::start(Faults::default()).await;
    let messages = Messages::default();
    let url = reader(&messages).await;
    target.running.announce_outputs_to(vec![OutputsHook { url, key: Secret::new(KEY) }]);
    post_rows(&target, "cycle=w1&more=true", &[forecast(1, "1")]).await;
    post_rows(&target, "cycle=w1", &[forecast(2, "4711")]).await;
    eventually(|| async { messages.lock().expect("sound").len() >= 2 }).await;
    let messages = messages.lock().expect("sound").clone();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let mut ids = BTreeSet::new();
    let described = events();
    for (headers, body) in &messages {
        assert_described(&described, "OutputsAvailable", &serde_json::from_slice(body).expect("JSON"));
        let named = webhook::HEADERS.map(|name| (name.to_owned(), headers[name].to_str().expect("text").into()));
        assert_described(&described, "Signature", &Value::Object(named.into_iter().collect()));
        let [id, timestamp, signature] = webhook::HEADERS.map(|name| headers[name].to_str().expect("text"));
        ids.insert(id);
        let headers = SignedHeaders { id, timestamp, signature };
        assert!(webhook::is_genuine(KEY, headers, body, now));
        let event: OutputsAvailable = serde_json::from_slice(body).expect("an event");
        assert_eq!((event.kind.as_str(), event.data.output.as_str()), ("outputs.available", "forecast"));
        assert_eq!(event.data.cycle_id, "w1");
        assert!(event.data.url.ends_with("/pdx/v1/outputs/forecast?cycle=w1"), "{}", event.data.url);
        assert!(!String::from_utf8_lossy(body).contains("4711"), "a pointer holds no rows");
    }
    assert_eq!((messages.len(), ids.len()), (2, 1), "once for the draft and its end, and the same at each attempt");
}

fn events() -> Value {
    serde_json::from_str(include_str!("../../../schemas/asyncapi.json")).expect("JSON")
}

/// Every `$ref` in a value.
fn references<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get("$ref").and_then(Value::as_str));
            members.values().for_each(|member| references(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[test]
fn a_gateway_finds_every_message_that_the_description_of_events_names() {
    let events = events();
    let mut found = Vec::new();
    references(&events, &mut found);
    for reference in found {
        let is_there = match reference.strip_prefix('#') {
            Some(pointer) => events.pointer(pointer).is_some(),
            None => std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas").join(reference).is_file(),
        };
        assert!(is_there, "{reference}");
    }
    let entities = syncline_schemas::entity::all();
    let messages = events["components"]["messages"].as_object().expect("messages");
    assert_eq!(messages.len(), 1 + 2 * entities.len());
    for entity in entities {
        for op in ["upsert", "delete"] {
            let wanted = format!("pdx.{}.{op}.v{}", entity.name, entity.version.0);
            assert_eq!(messages[&format!("{}.{op}", entity.name)]["name"], wanted);
        }
    }
}
