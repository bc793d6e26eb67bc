//! The published description of the contract is what the reference receiver does.

use serde_json::{Value, json};
use syncline_sinks::Sink as _;
use syncline_sinks::planner::Faults;

use crate::outbox::Outbox;
use crate::target::Target;

pub(crate) fn document() -> Value {
    serde_json::from_str(include_str!("../../../schemas/openapi.json")).expect("JSON")
}

/// What a value lacks of a schema of the document, or has beyond it; the few words that the document uses.
fn faults(document: &Value, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    if let Some(name) = schema["$ref"].as_str() {
        if name.ends_with(".schema.json") {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas").join(name);
            let schema = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{name}: {error}"));
            let schema: Value = serde_json::from_str(&schema).expect("JSON");
            return faults(&schema, &schema, value, at, found);
        }
        let schema = document.pointer(name.trim_start_matches('#')).unwrap_or_else(|| panic!("{name} is not there"));
        return faults(document, schema, value, at, found);
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let fits = |schema: &Value| {
            let mut found = Vec::new();
            faults(document, schema, value, at, &mut found);
            found.is_empty()
        };
        if !any.iter().any(fits) {
            found.push(format!("{at} fits none"));
        }
    }
    assert!(schema.get("oneOf").is_none(), "records of several entities can look alike");
    let kinds: Vec<&str> = match &schema["type"] {
        Value::String(kind) => vec![kind],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    if !kinds.is_empty() && !kinds.contains(&kind) {
        found.push(format!("{at} is {kind}"));
    }
    if let Some(words) = schema["enum"].as_array()
        && !words.contains(value)
    {
        found.push(format!("{at} is {value}"));
    }
    if let Some(word) = schema.get("const")
        && word != value
    {
        found.push(format!("{at} is {value}"));
    }
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if value.get(name).is_none() {
            found.push(format!("{at}.{name} is missing"));
        }
    }
    for (name, member) in value.as_object().into_iter().flatten() {
        match schema["properties"].get(name).or_else(|| schema.get("additionalProperties")) {
            Some(schema) => faults(document, schema, member, &format!("{at}.{name}"), found),
            None if schema["properties"].is_object() => found.push(format!("{at}.{name} is not described")),
            None => {}
        }
    }
    for item in value.as_array().into_iter().flatten() {
        faults(document, &schema["items"], item, &format!("{at}[]"), found);
    }
}

pub(crate) fn assert_described(document: &Value, schema: &str, value: &Value) {
    let mut found = Vec::new();
    faults(document, &document["components"]["schemas"][schema], value, schema, &mut found);
    assert!(found.is_empty(), "{found:?}: {value}");
}

#[tokio::test]
async fn an_integrator_who_builds_by_the_description_builds_what_is_spoken() {
    let document = document();
    let target = Target::start(Faults { defer_rate: 1.0, defer_ms: 1, ..Faults::default() }).await;
    let mut outbox = Outbox::default();
    outbox.push(1, &[("inventory_balance", 1, Some(1))]);
    target.sink().write(outbox.span(), &outbox).await.expect("delivered");

    let paths: Vec<&str> = document["paths"].as_object().expect("paths").keys().map(String::as_str).collect();
    // The pages of planning outputs are looked at in `outputs`.
    let asked = [
        "/capabilities",
        "/flows/{flow}/deltas",
        "/flows/{flow}/digest",
        "/flows/{flow}/snapshots",
        "/flows/{flow}/snapshots/{id}/parts/{number}",
        "/flows/{flow}/snapshots/{id}:abort",
        "/flows/{flow}/snapshots/{id}:commit",
        "/flows/{flow}/watermark",
        "/jobs/{id}",
        "/jobs/{id}/rejects",
        "/outputs/{output}",
    ];
    assert_eq!(paths, asked, "a path without a test here");
    assert_described(&document, "Capabilities", &target.get("/pdx/v1/capabilities").await);
    for partition in 0..4 {
        let path = format!("/pdx/v1/flows/inventory_balance/watermark?partition={partition}");
        assert_described(&document, "Watermark", &target.get(&path).await);
    }
    for path in ["/pdx/v1/jobs/none", "/pdx/v1/jobs/none/rejects", "/pdx/v1/flows/none/watermark?partition=0"] {
        assert_described(&document, "Problem", &target.get(path).await);
    }

    // A batch as the description has it, once processed at once and once later.
    let key = json!({ "company_id": "DE01", "item_id": "1", "location_id": "BER", "owner_id": "", "stock_class": "" });
    let record = json!({ "op": "delete", "key": key, "version": "0".repeat(32), "commit_ts": "2026-05-26T10:00:01Z" });
    let refused = json!({ "op": "upsert", "key": key, "version": "0".repeat(32), "commit_ts": "2026-05-26T10:00:01Z", "data": {} });
    let batch = json!({ "batch": { "id": "b", "count": 2 }, "records": [record, refused] });
    let described = json!({ "batch": { "id": "b", "count": 1 }, "records": [batch["records"][0]] });
    assert_described(&document, "Batch", &described);
    let mut found = Vec::new();
    faults(&document, &document["components"]["schemas"]["Batch"], &batch, "Batch", &mut found);
    assert_eq!(found, ["Batch.records[] fits none"], "its data lacks what is required");
    let send = async |number: u32| {
        let body = batch.to_string();
        let request = target
            .request(reqwest::Method::POST, "/pdx/v1/flows/inventory_balance/deltas")
            .header("content-type", "application/vnd.pdx.delta+json; v=1")
            .header("idempotency-key", format!("\"{number}\""))
            .header("content-digest", super::formats::digest(body.as_bytes()))
            .header("pdx-partition", "9")
            .header("pdx-sequence", format!("epoch=1; batch={number}"))
            .header("pdx-schema", crate::outbox::canonical("inventory_balance").schema_id());
        request.body(body).send().await.expect("an answer")
    };
    let accepted = send(1).await;
    assert_eq!(accepted.status().as_u16(), 202);
    let job = accepted.headers()["location"].to_str().expect("a path").to_owned();
    crate::target::eventually(|| async { target.get(&job).await["state"] != "running" }).await;
    assert_described(&document, "Job", &target.get(&job).await);
    let page = target.get(&format!("{job}/rejects")).await;
    assert_eq!(page["rejects"].as_array().map(Vec::len), Some(1), "{page}");
    assert_described(&document, "RejectPage", &page);
    target.set_faults(&Faults::default()).await;
    let receipt: Value = send(2).await.json().await.expect("a receipt");
    assert_described(&document, "Receipt", &receipt);
    let gap: Value = send(9).await.json().await.expect("a problem");
    assert_eq!(gap["expected"], 3);
    assert_described(&document, "Problem", &gap);
}

#[tokio::test]
async fn a_full_load_and_its_digest_are_as_they_are_described() {
    let target = Target::start(Faults::default()).await;
    let document = document();
    let schema = crate::outbox::canonical("uom").schema_id();
    let ask = async |method: reqwest::Method, path: &str, body: Value| -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = target
            .request(method, &format!("/pdx/v1/flows/uom/{path}"))
            .header("content-type", "application/vnd.pdx.delta+json; v=1")
            .header("idempotency-key", "\"load\"")
            .header("content-digest", super::formats::digest(body.as_bytes()))
            .header("pdx-schema", &schema);
        request.body(body).send().await.expect("an answer").json().await.expect("JSON")
    };
    let (post, put) = (reqwest::Method::POST, reqwest::Method::PUT);
    let cut = format!("00000001{}ffffffff", "0".repeat(16));
    let begin = json!({ "cut": cut, "source": "test", "sweep": true });
    assert_described(&document, "SnapshotBegin", &begin);
    let open = ask(post.clone(), "snapshots", begin.clone()).await;
    assert_described(&document, "Snapshot", &open);
    assert_eq!(ask(post.clone(), "snapshots", begin).await, open, "asked again");
    let id = open["id"].as_str().expect("an id");
    let mut key = serde_json::Map::new();
    for field in crate::outbox::canonical("uom").fields.iter().filter(|field| field.key) {
        key.insert(field.name.clone(), json!("x"));
    }
    let keep = json!({ "op": "keep", "key": key });
    let part = json!({ "batch": { "id": "p", "count": 1 }, "records": [keep] });
    assert_described(&document, "Part", &part);
    assert_described(
        &document,
        "PartReceipt",
        &ask(put.clone(), &format!("snapshots/{id}/parts/2"), part.clone()).await,
    );
    let commit = json!({ "parts": 2, "records": 0, "digest": "0".repeat(32) });
    assert_described(&document, "SnapshotCommit", &commit);
    let refused = ask(post.clone(), &format!("snapshots/{id}:commit"), commit.clone()).await;
    assert_described(&document, "Problem", &refused);
    assert!(refused["type"].as_str().is_some_and(|kind| kind.ends_with("/snapshot-incomplete")), "{refused}");
    ask(put.clone(), &format!("snapshots/{id}/parts/1"), part.clone()).await;
    let other = json!({ "batch": { "id": "q", "count": 1 }, "records": part["records"] });
    let reused = ask(put, &format!("snapshots/{id}/parts/1"), other).await;
    assert!(reused["type"].as_str().is_some_and(|kind| kind.ends_with("/idempotency-key-reused")), "{reused}");
    let ended = ask(post.clone(), &format!("snapshots/{id}:commit"), commit.clone()).await;
    assert_described(&document, "SnapshotReceipt", &ended);
    assert_eq!(ask(post.clone(), &format!("snapshots/{id}:commit"), commit).await, ended, "asked again");
    ask(post, &format!("snapshots/{id}:abort"), Value::Null).await;
    for query in ["", "?level=1", "?level=2&bucket=7"] {
        assert_described(&document, "Digest", &target.get(&format!("/pdx/v1/flows/uom/digest{query}")).await);
    }
    for query in ["?level=2", "?level=2&bucket=4096", "?as_of=x"] {
        assert_described(&document, "Problem", &target.get(&format!("/pdx/v1/flows/uom/digest{query}")).await);
    }
}
