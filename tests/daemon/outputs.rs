//! Planning outputs from the planner through the daemon to a target, without any database: cycles come whole and once, whoever is
//! killed or forges what.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use reqwest::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::demo::process::Process;
use super::demo::setup::{Setup, http};
use super::disasters::kill;
use super::world::{SYNCLINE, eventually, get};

const MAPPING: &str = "SELECT company_id, item_id, location_id, channel, bucket_start, bucket_type, forecast_version,
       qty, cycle_id, published_ts
FROM   outputs.forecast
";
const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A planner that runs, publishes and receives, and a daemon that has nothing but what planning computed.
struct PlanWorld {
    setup: Setup,
    planner: Process,
    _dir: TempDir,
}

impl PlanWorld {
    async fn new(poll_every: &str) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let dir = tempfile::tempdir().expect("a temporary folder");
        let setup = Setup::new(Some(dir.path().join("plan")), PathBuf::from(SYNCLINE)).expect("an empty folder");
        fs::create_dir_all(setup.dir.join("mappings/plan")).expect("make a folder");
        let config = format!(
            r#"[daemon]
listen = "{listen}"

[sources.plan]
type = "planning_outputs"
url = "{planner}/pdx/v1"
outputs = ["forecast"]
poll_every = "{poll_every}"
webhook = {{ signing_key = {{ file = "hook.key" }} }}

[mappings]
dir = "mappings"

[sinks.planning]
type = "planning"
url  = "{planner}/pdx/v1"
"#,
            listen = setup.listen(),
            planner = setup.planner_url()
        );
        fs::write(setup.config(), config).expect("write the configuration");
        fs::write(setup.dir.join("mappings/plan/forecast.sql"), MAPPING).expect("write the mapping");
        let key = setup.dir.join("hook.key");
        fs::write(&key, KEY).expect("write the key");
        let mut planner = setup.planner();
        let hook = format!("http://{}/hooks/outputs/plan", setup.listen());
        planner.arguments.extend(["--outputs-hook".to_owned(), hook, "--outputs-hook-key".to_owned()]);
        planner.arguments.push(key.display().to_string());
        let planner = planner.start().expect("the planner starts");
        let world = Self { setup, planner, _dir: dir };
        eventually("the planner answers", || async { get(&world.at_planner("/stats")).await.is_ok() }).await;
        world
    }

    fn at_planner(&self, path: &str) -> String {
        format!("{}{path}", self.setup.planner_url())
    }

    fn daemon(&self) -> Process {
        self.setup.daemon("none").start().expect("the daemon starts")
    }

    async fn publish(&self, query: &str, rows: &[Value]) {
        let url = self.at_planner(&format!("/outputs/forecast?{query}"));
        let answer = http().post(url).json(&json!({ "rows": rows })).send().await.expect("an answer");
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap_or_default());
    }

    async fn stat(&self, name: &str) -> u64 {
        let stats: Value = get(&self.at_planner("/stats")).await.expect("it answers").json().await.expect("JSON");
        stats[name].as_u64().unwrap_or_else(|| panic!("{name}: {stats}"))
    }

    async fn set_faults(&self, faults: &Value) {
        let answer = http().post(self.at_planner("/faults")).json(faults).send().await.expect("an answer");
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap_or_default());
    }

    /// What the daemon says of the source.
    async fn source(&self) -> Value {
        let Ok(answer) = get(&format!("http://{}/status", self.setup.listen())).await else { return Value::Null };
        answer.json::<Value>().await.unwrap_or_default()["sources"]["plan"].take()
    }

    /// Quantities and cycles that the target holds, by item.
    async fn delivered(&self) -> BTreeMap<String, (String, String)> {
        let mut held = BTreeMap::new();
        let mut after = String::new();
        loop {
            let mut url = reqwest::Url::parse(&self.at_planner("/entities/forecast")).expect("a url");
            url.query_pairs_mut().append_pair("limit", "10000").append_pair("after", &after);
            let page: Value = get(url.as_str()).await.expect("it answers").json().await.expect("JSON");
            for row in page["rows"].as_array().expect("rows") {
                let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{row}")).to_owned();
                let value = (text(&row["data"]["qty"]), text(&row["data"]["cycle_id"]));
                assert_eq!(held.insert(text(&row["key"]["item_id"]), value), None, "twice: {row}");
            }
            match page["next"].as_str() {
                Some(next) => after = next.to_owned(),
                None => return held,
            }
        }
    }

    async fn holds(&self, items: std::ops::Range<usize>, cycle: &str) -> bool {
        let held = self.delivered().await;
        held.len() == items.len()
            && items.clone().all(|item| held.get(&item.to_string()).is_some_and(|(_, is)| is == cycle))
    }

    /// Posts a webhook to the daemon.
    async fn tell(&self, headers: &[(&str, &str)], body: &str) -> StatusCode {
        let mut request = http().post(format!("http://{}/hooks/outputs/plan", self.setup.listen()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(body.to_owned()).send().await.expect("an answer").status()
    }

    /// Runs a command to its end: whether it went well, and all that it said.
    async fn command(&self, arguments: &[&str]) -> (bool, String) {
        let output = tokio::process::Command::new(SYNCLINE)
            .args(arguments)
            .arg("--config")
            .arg(self.setup.config())
            .kill_on_drop(true)
            .output()
            .await
            .expect("the command runs");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }
}

fn rows(items: std::ops::Range<usize>) -> Vec<Value> {
    let row = |item: usize| {
        json!({ "company_id": "DE01", "item_id": item.to_string(), "location_id": "BER", "channel": "", "qty": "1.5",
                "bucket_start": "2026-06-01", "bucket_type": "week", "forecast_version": "", "not_of_this_version": [1] })
    };
    items.map(row).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_brings_a_cycle_at_once_and_what_the_next_one_lacks_is_gone_at_the_target() {
    // Without webhooks nothing would come before the test is over.
    let world = PlanWorld::new("1h").await;
    let (ok, text) = world.command(&["check"]).await;
    assert!(ok && text.contains("output forecast: nothing is published yet"), "{text}");
    assert!(text.contains("mapping plan/forecast: fits outputs.forecast"), "{text}");
    let daemon = world.daemon();
    eventually("the source is followed", || async { world.source().await["state"] == "streaming" }).await;
    world.publish("cycle=w1", &rows(0..50)).await;
    eventually("the cycle arrives", || async { world.holds(0..50, "w1").await }).await;
    world.publish("cycle=w2", &rows(20..60)).await;
    eventually("the next one replaces it", || async { world.holds(20..60, "w2").await }).await;
    let ready: Value =
        get(&format!("http://{}/ready", world.setup.listen())).await.expect("an answer").json().await.expect("JSON");
    assert!(ready["complete_through"]["plan"].is_string(), "{ready}");
    daemon.stop().await.expect("SIGTERM ends the daemon with code 0");

    let pulled = world.stat("output_pages").await;
    let (ok, text) = world.command(&["run", "--drain", "--summary", "json"]).await;
    assert!(ok && text.contains("\"rows\":0"), "{text}");
    assert_eq!(world.stat("output_pages").await, pulled, "a restart pulls nothing again");
    let (ok, text) = world.command(&["check"]).await;
    assert!(ok && text.contains("output forecast: cycle w2, 40 rows"), "{text}");
    assert_eq!(world.stat("went_backwards").await, 0);
    world.planner.stop().await.expect("the planner stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_or_old_webhook_has_nobody_asked_and_a_repeated_one_does_no_harm() {
    let world = PlanWorld::new("1h").await;
    world.publish("cycle=w1", &rows(0..3)).await;
    let daemon = world.daemon();
    eventually("the first cycle arrives", || async { world.holds(0..3, "w1").await }).await;
    let (body, now) = (
        json!({ "type": "outputs.available", "timestamp": "2026-05-26T10:00:01Z",
                "data": { "output": "forecast", "cycle_id": "w2", "url": "http://192.0.2.1/elsewhere" } })
        .to_string(),
        SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs(),
    );
    let signed = |key: &str, at: u64| {
        let key = syncline_sinks::planning::webhook::sign(key, "msg_1", at, body.as_bytes()).expect("a key");
        [("webhook-id", "msg_1".to_owned()), ("webhook-timestamp", at.to_string()), ("webhook-signature", key)]
    };
    let told = async |headers: [(&'static str, String); 3], body: &str| {
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        world.tell(&headers, body).await
    };
    let polls = async || world.source().await["frames"].as_u64();
    let frames = polls().await;
    assert_eq!(world.tell(&[], &body).await, StatusCode::UNAUTHORIZED);
    assert_eq!(told(signed("whsec_AAAA", now), &body).await, StatusCode::UNAUTHORIZED, "by another key");
    assert_eq!(told(signed(KEY, now - 301), &body).await, StatusCode::UNAUTHORIZED, "somebody caught it");
    assert_eq!(told(signed(KEY, now), &body.replace("w2", "w3")).await, StatusCode::UNAUTHORIZED, "it was changed");
    for _ in 0..3 {
        assert_eq!(told(signed(KEY, now), &body).await, StatusCode::NO_CONTENT, "as often as it comes");
    }
    let other = format!("http://{}/hooks/outputs/erp", world.setup.listen());
    assert_eq!(http().post(other).send().await.expect("an answer").status(), StatusCode::NOT_FOUND);
    // It is behind all of these, and comes by its own webhook.
    world.publish("cycle=w9", &rows(0..4)).await;
    eventually("the next cycle arrives", || async { world.holds(0..4, "w9").await }).await;
    assert_eq!(polls().await, frames.map(|frames| frames + 3), "one cycle and no more: a beginning, rows, an end");
    daemon.stop().await.expect("SIGTERM ends the daemon with code 0");
    world.planner.stop().await.expect("the planner stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cycle_is_delivered_whole_and_once_though_the_daemon_is_killed_while_it_pulls() {
    const ROWS: usize = 24_000;
    let world = PlanWorld::new("1s").await;
    world.publish("cycle=w1", &rows(0..10)).await;
    let (ok, text) = world.command(&["run", "--drain"]).await;
    assert!(ok, "{text}");
    assert!(world.holds(0..10, "w1").await);
    world.publish("cycle=w2&more=true", &rows(5..ROWS / 2)).await;
    world.publish("cycle=w2", &rows(ROWS / 2..ROWS)).await;
    // A page has a tenth of a second, so that each life ends somewhere among them.
    world.set_faults(&json!({ "latency_ms": 100, "seed": 7 })).await;
    for frames in 1..3 {
        let mut daemon = world.daemon();
        eventually("the pull is under way", || async { world.source().await["frames"].as_u64() >= Some(frames) }).await;
        kill(&mut daemon).await;
        assert!(world.holds(0..10, "w1").await, "nobody sees half of a cycle");
    }
    world.set_faults(&json!({ "error_rate": 0.2, "drop_reply_rate": 0.2, "seed": 7 })).await;
    let (ok, text) = world.command(&["run", "--drain", "--summary", "json"]).await;
    assert!(ok, "{text}");
    assert!(world.holds(5..ROWS, "w2").await);
    world.set_faults(&json!({})).await;
    assert_eq!(world.stat("went_backwards").await, 0);
    // 10 rows of the first cycle, 23,995 of the second, 5 that it lacks.
    assert_eq!(world.stat("applied").await, 10 + ROWS as u64 - 5 + 5, "each change is delivered once");
    world.planner.stop().await.expect("the planner stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_of_a_wrong_type_stops_the_source_by_the_name_of_its_field() {
    let world = PlanWorld::new("1s").await;
    world.publish("cycle=w1", &rows(0..3)).await;
    let (ok, text) = world.command(&["run", "--drain"]).await;
    assert!(ok && world.holds(0..3, "w1").await, "members that are not known are passed over: {text}");
    let mut wrong = rows(0..3);
    wrong[1]["qty"] = json!(4711);
    world.publish("cycle=w2&unchecked=true", &wrong).await;
    let (ok, text) = world.command(&["run", "--drain"]).await;
    let wanted =
        "source plan: output forecast: row 2 of cycle w2: field qty is of another type; wanted a decimal string";
    assert!(!ok && text.contains(wanted) && !text.contains("4711"), "{text}");
    assert!(world.holds(0..3, "w1").await, "what was published before stays in force");
    // A daemon that stays is told of it, and goes on by itself once there is another.
    let daemon = world.daemon();
    let problem = || async { world.source().await["problem"].as_str().is_some_and(|it| it.contains("cycle w2")) };
    eventually("it is said what is wrong", problem).await;
    world.publish("cycle=w3", &rows(1..3)).await;
    eventually("the next cycle arrives", || async { world.holds(1..3, "w3").await }).await;
    eventually("nothing is wrong any more", || async { world.source().await["problem"].is_null() }).await;
    daemon.stop().await.expect("the daemon stops");
    world.planner.stop().await.expect("the planner stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_are_read_again_for_changed_mappings_and_only_what_differs_is_delivered() {
    let world = PlanWorld::new("1s").await;
    world.publish("cycle=w1", &rows(0..20)).await;
    let (ok, text) = world.command(&["run", "--drain"]).await;
    assert!(ok && world.holds(0..20, "w1").await, "{text}");
    let applied = world.stat("applied").await;
    let mapping = world.setup.dir.join("mappings/plan/forecast.sql");
    fs::write(&mapping, format!("{MAPPING}WHERE  item_id <> '7'\n")).expect("write the mapping");
    let (ok, text) = world.command(&["replay", "--reread"]).await;
    assert!(ok, "{text}");
    let (ok, text) = world.command(&["run", "--drain"]).await;
    assert!(ok, "{text}");
    let held = world.delivered().await;
    assert!(held.len() == 19 && !held.contains_key("7"), "{held:?}");
    assert_eq!(world.stat("applied").await, applied + 1, "one row is gone, and no other was told again");
    world.publish("cycle=w2", &rows(10..12)).await;
    let (ok, text) = world.command(&["run", "--drain"]).await;
    assert!(ok && world.holds(10..12, "w2").await, "{text}");
    world.planner.stop().await.expect("the planner stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_cycle_that_is_gone_before_it_was_pulled_whole_reach_no_target() {
    let world = PlanWorld::new("1s").await;
    world.publish("cycle=w1", &rows(0..10)).await;
    let (ok, text) = world.command(&["run", "--drain"]).await;
    assert!(ok, "{text}");
    world.publish("cycle=w2&more=true", &rows(5..12_000)).await;
    world.publish("cycle=w2", &rows(12_000..40_000)).await;
    world.set_faults(&json!({ "latency_ms": 100 })).await;
    let mut daemon = world.daemon();
    eventually("a part of it is in the log", || async { world.source().await["reads"].as_u64() > Some(0) }).await;
    kill(&mut daemon).await;
    world.set_faults(&json!({})).await;
    // More than the planner keeps.
    for cycle in 3..12 {
        world.publish(&format!("cycle=w{cycle}"), &rows(5..20)).await;
    }
    let (ok, text) = world.command(&["run", "--drain"]).await;
    assert!(ok && world.holds(5..20, "w11").await, "{text}");
    assert_eq!(world.stat("applied").await, 10 + 15 + 5, "what was half there was told to nobody");
    world.planner.stop().await.expect("the planner stops");
}
