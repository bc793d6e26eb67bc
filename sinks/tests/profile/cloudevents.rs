//! Events as CloudEvents 1.0 wants them, and what a receiver that follows the rules ends with.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Map, Value, json};
use syncline_schemas::ident::LogOffset;
use syncline_sinks::profile::{Profile, ProfileConfig, ProfileSink};
use syncline_sinks::{Class, Sink as _, Span};

use crate::outbox::{Change, Outbox, delete, upsert};
use crate::server::{Asked, Choices, Faults, Platform, Server};

/// A receiver: drops what it has seen, keeps the highest sequence of each subject.
#[derive(Default)]
struct Receiver {
    seen: BTreeMap<(String, String), Map<String, Value>>,
    newest: BTreeMap<(String, String), (String, Value)>,
    /// Subjects whose sequence fell, repeats aside.
    fell: Vec<String>,
    repeats: usize,
    poison: BTreeSet<String>,
    at_once_max: usize,
    /// Requests that it is too busy with its plan for.
    busy: usize,
    /// Where it was told last.
    path: String,
}

/// What the specification asks of an event.
fn check(event: &Map<String, Value>) -> Result<(), String> {
    let text = |name: &str| event.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    for name in
        ["id", "source", "type", "subject", "time", "sequence", "partitionkey", "traceparent", "datacontenttype"]
    {
        text(name).ok_or_else(|| format!("{name} is missing"))?;
    }
    if text("specversion") != Some("1.0") || !text("source").is_some_and(|it| it.starts_with("/pdx/test/")) {
        return Err("the version or the source is another".to_owned());
    }
    // Names of attributes are lower-case letters and digits.
    if let Some(name) = event.keys().find(|name| !name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())) {
        return Err(format!("{name} is no name of an attribute"));
    }
    let (time, trace) = (text("time").unwrap_or_default(), text("traceparent").unwrap_or_default());
    if !(time.ends_with('Z') && time.len() == 27 && trace.len() == 55 && trace.starts_with("00-")) {
        return Err("time or traceparent has another form".to_owned());
    }
    Ok(())
}

impl Platform for Receiver {
    fn answer(&mut self, asked: &Asked) -> Response {
        if asked.method == Method::OPTIONS {
            return StatusCode::METHOD_NOT_ALLOWED.into_response();
        }
        asked.uri.path().clone_into(&mut self.path);
        let is_batch = asked.headers.get("content-type").is_some_and(|it| it == "application/cloudevents-batch+json");
        if asked.method != Method::POST || !is_batch {
            return StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response();
        }
        if self.busy > 0 {
            self.busy -= 1;
            let problem = json!({"type": "https://example.com/problems/plan_run_in_progress"});
            return (StatusCode::UNPROCESSABLE_ENTITY, problem.to_string()).into_response();
        }
        let Ok(events) = serde_json::from_slice::<Vec<Map<String, Value>>>(&asked.body) else {
            return StatusCode::BAD_REQUEST.into_response();
        };
        if self.at_once_max > 0 && events.len() > self.at_once_max {
            return StatusCode::PAYLOAD_TOO_LARGE.into_response();
        }
        let is_poison =
            |event: &Map<String, Value>| self.poison.iter().any(|it| event["subject"].to_string().contains(it));
        if events.iter().any(|event| check(event).is_err() || is_poison(event)) {
            return (StatusCode::BAD_REQUEST, events.iter().find_map(|event| check(event).err()).unwrap_or_default())
                .into_response();
        }
        for event in events {
            let text = |name: &str| event[name].as_str().expect("checked").to_owned();
            let (kind, sequence) = (text("type"), text("sequence"));
            let flow = kind.split('.').nth(1).unwrap_or_default().to_owned();
            if self.seen.insert((text("source"), text("id")), event.clone()).is_some() {
                self.repeats += 1;
                continue;
            }
            let newest = self.newest.entry((flow, text("subject"))).or_default();
            if sequence < newest.0 {
                self.fell.push(text("subject"));
                continue;
            }
            let data = if kind.contains(".delete.") { Value::Null } else { event["data"].clone() };
            *newest = (sequence, data);
        }
        StatusCode::NO_CONTENT.into_response()
    }
}

fn sink(server: &Server<Receiver>) -> ProfileSink {
    let profile = Profile::open("cloudevents", Path::new("")).expect("shipped");
    ProfileSink::new(ProfileConfig::new(server.config(), profile).expect("entities")).expect("a sink")
}

fn items(range: std::ops::Range<usize>) -> Vec<Change> {
    range.map(|i| upsert("item", &[("item_id", &format!("i{i}"))])).collect()
}

#[tokio::test]
async fn a_platform_that_takes_no_row_at_all_stops_the_sink_and_one_that_is_busy_is_waited_for() {
    let server = Server::start(Receiver { busy: 1, ..Receiver::default() }).await;
    let mut outbox = Outbox::default();
    outbox.push(&items(0..30));
    let mut sink = sink(&server);
    let written = sink.write(outbox.span(), &outbox).await.expect("waited for");
    assert_eq!((written.rows, written.rejected), (30, 0));
    server.platform(|receiver| receiver.poison.insert("item_id".to_owned()));
    for range in [30..42, 42..60] {
        outbox.push(&items(range));
        let result = sink.write(outbox.last(), &outbox).await;
        let told = outbox.refused().len();
        match result {
            Ok(written) => assert_eq!((written.rejected, told), (12, 12), "they may be bad by themselves"),
            Err(error) => {
                assert!(error.class() == Class::Definite && error.to_string().contains("20 rows of item"), "{error}");
                assert_eq!(told, 20);
            }
        }
    }
    assert_eq!(outbox.refused().len(), 20);
}

#[tokio::test]
async fn a_webhook_is_called_where_it_listens_to_the_last_slash() {
    let server = Server::start(Receiver::default()).await;
    for path in ["/hooks/", "/hooks"] {
        let profile = Profile::open("cloudevents", Path::new("")).expect("shipped");
        let mut config = server.config();
        config.url.set_path(path);
        let mut sink = ProfileSink::new(ProfileConfig::new(config, profile).expect("entities")).expect("a sink");
        let mut outbox = Outbox::default();
        outbox.push(&items(0..1));
        sink.write(outbox.span(), &outbox).await.expect("delivered");
        assert_eq!(server.platform(|receiver| receiver.path.clone()), path);
    }
}

fn movement(id: &str, quantity: &str) -> Change {
    upsert("inventory_movement", &[("movement_id", id), ("item_id", "4711"), ("qty_delta", quantity)])
}

#[tokio::test]
async fn every_event_is_one_and_events_of_a_history_are_never_left_out() {
    let server = Server::start(Receiver { at_once_max: 3, ..Receiver::default() }).await;
    let mut outbox = Outbox::default();
    outbox.push(&[upsert("item", &[("item_id", "4711"), ("description", "first")]), movement("m1", "5")]);
    outbox.push(&[upsert("item", &[("item_id", "4711"), ("description", "second")]), movement("m1", "6")]);
    outbox.push(&[delete("item", &[("item_id", "0815")])]);
    outbox.push(&(2..9).map(|i| movement(&format!("m{i}"), "1")).collect::<Vec<_>>());
    let mut sink = sink(&server);
    sink.check().await.expect("it is there");
    let written = sink.write(outbox.span(), &outbox).await.expect("delivered");
    assert_eq!((written.rows, written.rejected), (11, 0));
    assert_eq!(sink.stats().read().coalesced, 1, "of a state the newest suffices");
    server.platform(|receiver| {
        assert_eq!(receiver.seen.len(), 11);
        let item = &receiver.seen[&("/pdx/test/erp".to_owned(), "erp:1:2:0".to_owned())];
        assert_eq!(item["type"], "pdx.item.upsert.v1");
        assert_eq!(item["subject"], r#"{"company_id":"C1","item_id":"4711"}"#);
        assert_eq!(item["sequence"], "00000001000000000000000200000000");
        assert_eq!(item["time"], "2026-05-26T10:00:01.120000Z");
        assert_eq!(item["data"]["description"], "second");
        let deleted = &receiver.seen[&("/pdx/test/erp".to_owned(), "erp:1:3:0".to_owned())];
        assert_eq!(
            (&deleted["type"], &deleted["data"]),
            (&json!("pdx.item.delete.v1"), &json!({"company_id": "C1", "item_id": "0815"}))
        );
        assert!(receiver.fell.is_empty());
    });
}

#[tokio::test]
async fn an_event_that_is_refused_holds_up_no_other() {
    let server = Server::start(Receiver::default()).await;
    server.platform(|receiver| receiver.poison.insert("m5".to_owned()));
    let mut outbox = Outbox::default();
    outbox.push(&(0..9).map(|i| movement(&format!("m{i}"), "1")).collect::<Vec<_>>());
    let written = sink(&server).write(outbox.span(), &outbox).await.expect("delivered");
    assert_eq!((written.rows, written.rejected), (8, 1));
    assert_eq!(outbox.refused()[r#"{"company_id":"C1","movement_id":"m5"}"#].0, "refused");
}

#[tokio::test]
async fn a_receiver_that_is_not_there_is_found_by_a_check() {
    let server = Server::start(Receiver::default()).await;
    let mut config = server.config();
    config.url = "http://127.0.0.1:1".parse().expect("a URL");
    config.patience = Duration::ZERO;
    let profile = Profile::open("cloudevents", Path::new("")).expect("shipped");
    let down = ProfileSink::new(ProfileConfig::new(config, profile).expect("entities")).expect("a sink");
    assert_eq!(down.check().await.expect_err("nobody answers").class(), Class::Transient);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_storm_of_faults_and_kills_loses_an_event_and_repeats_carry_the_same_id() {
    let mut choices = Choices(77);
    let mut outbox = Outbox::default();
    for round in 0..60_u64 {
        let changes: Vec<Change> = (0..=choices.below(20))
            .map(|row| match choices.below(3) {
                0 => movement(&format!("m{round}-{row}"), "1"),
                1 => delete("item", &[("item_id", &format!("i{}", choices.below(9)))]),
                _ => upsert(
                    "item",
                    &[("item_id", &format!("i{}", choices.below(9))), ("description", &round.to_string())],
                ),
            })
            .collect();
        outbox.push(&changes);
    }
    let quiet = Server::start(Receiver::default()).await;
    sink(&quiet).write(outbox.span(), &outbox).await.expect("delivered");
    let server = Server::start(Receiver::default()).await;
    server.set_faults(Faults { unavailable: 10, throttled: 5, lost: 10, latency: Duration::from_millis(1) });
    let (mut sink, mut kills) = (sink(&server), 0);
    let (mut after, end) = (LogOffset::START, outbox.span().upto);
    while after < end {
        let upto = LogOffset((after.0 + 1 + choices.below(15)).min(end.0));
        let patience = Duration::from_micros(500 + choices.below(if kills < 25 { 100_000 } else { 60_000_000 }));
        match tokio::time::timeout(patience, sink.write(Span { after, upto }, &outbox)).await {
            Ok(written) => {
                assert_eq!(written.unwrap_or_else(|error| panic!("{error}")).rejected, 0);
                after = upto;
            }
            Err(_) => {
                kills += 1;
                if choices.below(2) == 0 {
                    sink = self::sink(&server);
                }
            }
        }
    }
    let (held, wanted) = (server.platform(|it| it.newest.clone()), quiet.platform(|it| it.newest.clone()));
    assert_eq!(held, wanted);
    server.platform(|receiver| println!("{kills} kills, {} repeats, {} fell", receiver.repeats, receiver.fell.len()));
}
