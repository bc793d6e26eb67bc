//! What the receiver must answer, asked without our sink.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use syncline_sinks::planner::Faults;

use crate::target::Target;

/// A batch with one record.
fn body(version: &str) -> String {
    json!({
        "batch": {"id": "b", "source": "other", "count": 1},
        "records": [{
            "op": "delete", "version": version, "commit_ts": "2026-05-26T10:00:01Z",
            "key": {"company_id": "1", "item_id": "2", "location_id": "3", "owner_id": "", "stock_class": ""},
        }],
    })
    .to_string()
}

/// Sends a batch; returns the status and the answer.
async fn post(target: &Target, key: &str, sequence: &str, digest_of: &str, body: &str) -> (StatusCode, Value) {
    use base64::Engine as _;
    let digest = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(digest_of));
    let response = target
        .request(Method::POST, "/pdx/v1/flows/inventory_balance/deltas")
        .header("content-type", "application/vnd.pdx.delta+json;v=1")
        .header("idempotency-key", format!("\"{key}\""))
        .header("content-digest", format!("sha-256=:{digest}:"))
        .header("pdx-partition", "0")
        .header("pdx-sequence", sequence)
        .header("pdx-schema", "inventory_balance/1.0")
        .body(body.to_owned())
        .send()
        .await
        .expect("an answer");
    let status = response.status();
    (status, serde_json::from_slice(&response.bytes().await.expect("a body")).expect("JSON"))
}

fn version(number: u8) -> String {
    format!("{number:032x}")
}

#[tokio::test]
async fn the_receiver_answers_repeats_gaps_and_old_epochs_as_the_contract_says() {
    let target = Target::start(Faults::default()).await;
    let (second, third) = (body(&version(2)), body(&version(3)));
    let (status, first) = post(&target, "a", "epoch=2; batch=1", &second, &second).await;
    assert_eq!((status, &first["applied"]), (StatusCode::OK, &json!(1)));
    assert_eq!(first["watermark"]["last_version"], version(2));

    let (status, again) = post(&target, "a", "epoch=2; batch=1", &second, &second).await;
    assert_eq!((status, again), (StatusCode::OK, first), "the same request gets its first answer");
    let (status, problem) = post(&target, "a", "epoch=2; batch=2", &third, &third).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(problem["type"].as_str().expect("a type").ends_with("/idempotency-key-reused"));

    let (status, problem) = post(&target, "b", "epoch=2; batch=3", &third, &third).await;
    assert_eq!((status, &problem["expected"]), (StatusCode::CONFLICT, &json!(2)));
    assert!(problem["type"].as_str().expect("a type").ends_with("/sequence-gap"));
    let (status, problem) = post(&target, "c", "epoch=1; batch=1", &third, &third).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(problem["type"].as_str().expect("a type").ends_with("/fenced-epoch"));

    let (status, problem) = post(&target, "d", "epoch=2; batch=2", &second, &third).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(problem["type"].as_str().expect("a type").ends_with("/digest-mismatch"));

    // An old batch under a new key is a repeat; a new batch with an old version is a broken sender.
    let older = body(&version(1));
    let (status, repeat) = post(&target, "e", "epoch=2; batch=1", &older, &older).await;
    assert_eq!((status, &repeat["stale"]), (StatusCode::OK, &json!(1)));
    assert_eq!(target.stat("went_backwards").await, 0);
    let (status, backwards) = post(&target, "f", "epoch=2; batch=2", &older, &older).await;
    assert_eq!((status, &backwards["stale"]), (StatusCode::OK, &json!(1)));
    assert_eq!(target.stat("went_backwards").await, 1);
    let (_, unchanged) = post(&target, "g", "epoch=3; batch=1", &second, &second).await;
    assert_eq!(unchanged["unchanged"], 1, "a new epoch counts from 1");
    let watermark = target.get("/pdx/v1/flows/inventory_balance/watermark?partition=0").await;
    assert_eq!((&watermark["epoch"], &watermark["last_batch"]), (&json!(3), &json!(1)));

    // What was received counts, whatever became of it: a record that was refused, and one in a repeat.
    let refused = body(&version(8)).replace("delete", "merge");
    let (_, receipt) = post(&target, "h", "epoch=3; batch=2", &refused, &refused).await;
    assert_eq!((&receipt["rejected"], &receipt["watermark"]["last_version"]), (&json!(1), &json!(version(8))));
    let late = body(&version(9));
    let (_, receipt) = post(&target, "i", "epoch=3; batch=1", &late, &late).await;
    assert_eq!((&receipt["applied"], &receipt["watermark"]["last_version"]), (&json!(1), &json!(version(9))));
    assert_eq!(receipt["watermark"]["last_batch"], 2);
}

#[tokio::test]
async fn what_is_held_can_be_paged_through_and_survives_a_restart() {
    let target = Target::start(Faults::default()).await;
    let one = body(&version(1));
    post(&target, "a", "epoch=1; batch=1", &one, &one).await;
    let target = target.restart(async || ()).await;
    let page = target.get("/entities/inventory_balance?limit=1&tombstones=true").await;
    assert_eq!(page["rows"][0]["key"]["item_id"], "2");
    let after = page["next"].as_str().expect("a full page has a next");
    let query = url::form_urlencoded::Serializer::new(String::new()).append_pair("after", after).finish();
    assert_eq!(target.get(&format!("/entities/inventory_balance?{query}")).await["rows"], json!([]));
    assert_eq!(target.get("/entities/inventory_balance/1/2/3").await["deleted"], true);
    assert_eq!(target.get("/pdx/v1/capabilities").await["flows"]["item"]["delete"], true);
    let (status, _) = post(&target, "b", "epoch=1; batch=3", &one, &one).await;
    assert_eq!(status, StatusCode::CONFLICT, "the watermark was kept");
    let page = target.request(Method::GET, "/").send().await.expect("an answer");
    assert!(page.text().await.expect("text").contains("<title>Planner"));
}
