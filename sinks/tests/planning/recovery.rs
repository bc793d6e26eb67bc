//! One trouble at a time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arrow::array::new_null_array;
use axum::Json;
use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use serde_json::{Value, json};
use syncline_schemas::delta::{DeltaBatch, SYSTEM_COLUMNS};
use syncline_schemas::ident::{LogOffset, Version};
use syncline_sinks::planner::Faults;
use syncline_sinks::planning::{PlanningSink, Windows};
use syncline_sinks::{Class, Known, Recalled, Sink as _, SinkError, Span};

use crate::outbox::{Change, Outbox, canonical, rows};
use crate::scripted;
use crate::target::Target;

const BALANCE: &str = "inventory_balance";

/// Entries of so many balances each, all keys different.
fn balances(entries: u32, each: u32) -> Outbox {
    let mut outbox = Outbox::default();
    for entry in 0..entries {
        let changes: Vec<_> = (0..each).map(|i| (BALANCE, entry * each + i, Some(i64::from(i)))).collect();
        outbox.push(1, &changes);
    }
    outbox
}

#[tokio::test]
async fn a_reply_lost_after_the_batch_was_applied_applies_nothing_twice() {
    let target = Target::start(Faults { drop_reply_rate: 0.5, seed: 3, ..Faults::default() }).await;
    let outbox = balances(10, 60);
    let mut sink = target.sink();
    sink.write(outbox.span(), &outbox).await.expect("lost replies are asked again");
    assert!(target.stat("replays").await > 0, "the seed loses replies");
    assert_eq!(target.stat("applied").await, 600);
    assert_eq!((target.stat("unchanged").await, target.stat("stale").await), (0, 0));
    target.assert_holds(&outbox).await;
}

#[tokio::test]
async fn a_new_sink_that_writes_a_span_again_sends_nothing_again() {
    let target = Target::start(Faults::default()).await;
    let outbox = balances(4, 100);
    target.sink().write(outbox.span(), &outbox).await.expect("delivered");
    let mut again = target.sink();
    let written = again.write(outbox.span(), &outbox).await.expect("nothing to do");
    assert_eq!((written.rows, written.bytes), (400, 0));
    assert_eq!(again.stats().read().already_there, 400);
    assert_eq!(target.stat("records").await, 400);
}

#[tokio::test]
async fn a_hot_key_is_sent_once_and_an_event_every_time() {
    let target = Target::start(Faults::default()).await;
    let mut outbox = Outbox::default();
    for i in 0..50 {
        outbox.push(1, &[(BALANCE, 1, Some(i)), ("inventory_movement", 1, Some(i))]);
    }
    let mut sink = target.sink();
    sink.write(outbox.span(), &outbox).await.expect("delivered");
    assert_eq!(sink.stats().read().coalesced, 49);
    assert_eq!(target.stat("records").await, 51);
    target.assert_holds(&outbox).await;
}

#[tokio::test]
async fn a_target_that_asks_for_a_pause_gets_it() {
    let target = Target::start(Faults { throttle_rate: 1.0, retry_after_s: 1, ..Faults::default() }).await;
    let outbox = balances(1, 1);
    let mut sink = PlanningSink::new({
        let mut config = target.config();
        // Throttling is no failure: it must not use up patience.
        config.patience = Duration::ZERO;
        config
    })
    .expect("a sink");
    let stats = sink.stats();
    let begun = Instant::now();
    let relent = async {
        while stats.read().throttled == 0 {
            tokio::task::yield_now().await;
        }
        target.set_faults(&Faults::default()).await;
    };
    let (written, ()) = tokio::join!(sink.write(outbox.span(), &outbox), relent);
    written.expect("delivered after the pause");
    assert!(begun.elapsed() >= Duration::from_secs(1), "came back after {:?}", begun.elapsed());
    assert_eq!(stats.read().throttled, 1);
}

#[tokio::test]
async fn a_dead_target_is_reported_and_delivered_to_once_it_is_back() {
    let target = Target::start(Faults::default()).await;
    let outbox = balances(3, 20);
    let mut config = target.config();
    config.patience = Duration::from_millis(200);
    let mut sink = PlanningSink::new(config).expect("a sink");
    let first = Span { after: LogOffset::START, upto: LogOffset(1) };
    sink.write(first, &outbox).await.expect("delivered");
    let rest = Span { after: LogOffset(1), upto: LogOffset(3) };
    let target = target
        .restart(async || {
            let error = sink.write(rest, &outbox).await.expect_err("nobody listens");
            assert_eq!(error.class(), Class::Transient, "{error}");
            assert!(error.to_string().contains("/pdx/v1/flows/inventory_balance"), "{error}");
        })
        .await;
    sink.write(rest, &outbox).await.expect("it is back");
    target.assert_holds(&outbox).await;
}

#[tokio::test]
async fn a_target_that_lost_acknowledged_rows_is_never_continued_silently_also_not_after_a_restart() {
    let target = Target::start(Faults::default()).await;
    let outbox = balances(2, 20);
    let (first, second) =
        (Span { after: LogOffset::START, upto: LogOffset(1) }, Span { after: LogOffset(1), upto: LogOffset(2) });
    let mut sink = target.sink();
    let notes = sink.write(first, &outbox).await.expect("delivered").notes.into_iter().collect();
    let known = Known { notes, ..Known::default() };
    assert!(!known.notes.is_empty(), "one of each lane that took rows");
    let (db, copy) = (target.db(), target.folder.path().join("backup.db"));
    // What comes after the backup is what a restored target lacks.
    let target = target.restart(async || _ = std::fs::copy(&db, &copy).expect("a backup")).await;
    let mut notes = known.notes.clone();
    notes.extend(sink.write(second, &outbox).await.expect("delivered").notes);
    let later = Known { notes, ..Known::default() };
    assert_eq!(target.sink().recall(&later).await.expect("it answers"), Recalled::Everything);

    let target = target.restart(async || _ = std::fs::copy(&copy, &db).expect("restored")).await;
    target.sink().recall(&known).await.expect("as far as an older state knows");
    for error in [
        target.sink().recall(&later).await.expect_err("a hole"),
        sink.write(Span { after: LogOffset(2), upto: LogOffset(3) }, &balances(3, 20)).await.expect_err("a hole"),
    ] {
        assert_eq!(error.class(), Class::Definite);
        assert!(error.to_string().contains("has lost rows that it acknowledged"), "{error}");
    }

    let target = target.restart(async || std::fs::remove_file(&db).expect("emptied")).await;
    let error = target.sink().recall(&known).await.expect_err("nothing is there");
    assert!(error.to_string().contains("it is at the start, was at batch 1 of epoch 1"), "{error}");
}

#[tokio::test]
async fn a_daemon_with_an_older_state_is_stopped_not_ignored() {
    let target = Target::start(Faults::default()).await;
    let (mut new, mut old) = (Outbox::default(), Outbox::default());
    new.push(1, &[(BALANCE, 1, Some(1))]);
    new.push(2, &[(BALANCE, 1, Some(2))]);
    old.push(1, &[(BALANCE, 1, Some(3))]);
    target.sink().write(new.span(), &new).await.expect("delivered over the change of the epoch");
    target.sink().write(new.span(), &new).await.expect("a resumed write over the change is no older state");
    let error = target.sink().write(old.span(), &old).await.expect_err("fenced");
    assert_eq!(error.class(), Class::Definite);
    assert!(error.to_string().contains("epoch 2"), "{error}");
    target.assert_holds(&new).await;
}

#[tokio::test]
async fn rows_that_an_older_copy_of_the_data_folder_never_sent_are_not_taken_for_its_own() {
    let target = Target::start(Faults::default()).await;
    let outbox = balances(2, 20);
    let mut newer = target.sink();
    newer.recall(&Known { epoch: 1, ..Known::default() }).await.expect("nothing to ask for");
    newer.write(outbox.span(), &outbox).await.expect("delivered");
    let older = |epoch, end| Known { epoch, end: LogOffset(end), ..Known::default() };
    for (known, fits) in [(older(1, 2), true), (older(2, 1), true), (older(1, 1), false)] {
        let mut sink = target.sink();
        assert_eq!(sink.recall(&known).await.expect("nobody is asked"), Recalled::Unknown);
        let written = sink.write(outbox.span(), &outbox).await;
        assert_eq!(written.is_ok(), fits, "{known:?}");
        if let Err(error) = written {
            assert_eq!(error.class(), Class::Definite);
            assert!(
                error.to_string().contains("it stands at 2, and this data_dir had got no further than 1"),
                "{error}"
            );
        }
    }
}

#[tokio::test]
async fn another_pipeline_or_another_number_of_partitions_is_refused_by_name() {
    let target = Target::start(Faults::default()).await;
    let outbox = balances(1, 40);
    target.sink().write(outbox.span(), &outbox).await.expect("delivered");
    let refused = async |change: fn(&mut syncline_sinks::planning::PlanningConfig)| -> SinkError {
        let mut config = target.config();
        change(&mut config);
        let mut sink = PlanningSink::new(config).expect("a sink");
        sink.write(outbox.span(), &outbox).await.expect_err("refused")
    };
    let error = refused(|config| config.pipeline = "other".into()).await.to_string();
    assert!(error.contains("\"test\"") && error.contains("\"other\""), "{error}");
    let error = refused(|config| config.partitions = 3).await.to_string();
    assert!(error.contains("over 4 partitions") && error.contains("set to 3"), "{error}");
}

#[tokio::test]
async fn a_refused_row_is_told_with_its_key_and_the_others_go_on() {
    let target = Target::start(Faults::default()).await;
    let entity = canonical(BALANCE);
    let changes: Vec<Change> =
        (0..3).map(|key| Change { key, value: Some(1), version: Version::new(1, LogOffset(1), key) }).collect();
    let whole = rows(entity, &changes[..2]);
    let broken = rows(entity, &changes[2..]);
    let (on_hand, field) = entity.field("on_hand").expect("a field");
    let mut columns = broken.columns().to_vec();
    columns[SYSTEM_COLUMNS + on_hand] = new_null_array(&field.field_type.arrow(), 1);
    let broken = arrow::array::RecordBatch::try_new(broken.schema(), columns).expect("nullable");
    let mut outbox = Outbox::default();
    let delta = |rows| DeltaBatch { entity: BALANCE.to_owned(), rows };
    outbox.push_raw(vec![delta(whole), delta(broken)]);
    let mut sink = target.sink();
    let written = sink.write(outbox.span(), &outbox).await.expect("delivered but one");
    assert_eq!((written.rows, written.rejected), (2, 1));
    let reject = outbox.refused.lock().expect("sound").pop().expect("told");
    assert_eq!(reject.code, "schema_violation");
    assert_eq!(reject.field.as_deref(), Some("on_hand"));
    assert!(reject.key.contains(r#""stock_class":"k\"2""#), "{}", reject.key);
    assert_eq!(reject.version, changes[2].version.to_string());
    assert_eq!(target.stat("rejected").await, 1);

    // After a broken write the lane asks again: a refused row has arrived, and nothing is missing.
    outbox.push(1, &[(BALANCE, 9, Some(1))]);
    tokio::select! {
        biased;
        _ = sink.write(outbox.span(), &outbox) => panic!("one look at it sees no reply yet"),
        () = std::future::ready(()) => {}
    }
    assert_eq!(sink.write(outbox.span(), &outbox).await.expect("no row is missing").rows, 4);
}

#[tokio::test]
async fn a_row_that_the_target_may_take_later_is_sent_again_behind_newer_ones() {
    let mended = Arc::new(AtomicBool::new(false));
    let (is_mended, held) = (Arc::clone(&mended), Arc::new(Mutex::new(Vec::new())));
    let into = Arc::clone(&held);
    let config = scripted::target(move |asked| {
        if asked.method == "GET" {
            return Json(json!({"partition": 0, "epoch": 0, "last_batch": 0})).into_response();
        }
        let body: Value = serde_json::from_slice(&asked.body).expect("JSON");
        let records = body["records"].as_array().expect("records");
        let (mut rejects, mut into) = (Vec::new(), into.lock().expect("sound"));
        for (index, record) in records.iter().enumerate() {
            if record["key"]["stock_class"] == "k\"1" && !is_mended.load(Ordering::Relaxed) {
                let odd = "unknown item 4711 of ACME, which is far too much to be the name of a reason \n and more";
                rejects.push(json!({"index": index, "code": odd, "field": "ACME", "retryable": true}));
            } else {
                into.push(record["version"].to_string());
            }
        }
        let batch: u64 = asked.headers["pdx-sequence"].to_str().expect("ASCII")[15..].parse().expect("a number");
        Json(json!({"batch_id": "b", "received": records.len(), "applied": 0, "unchanged": 0, "stale": 0,
                    "rejected": rejects.len(), "rejects": rejects,
                    "watermark": {"partition": 0, "epoch": 1, "last_batch": batch}}))
        .into_response()
    })
    .await;
    let outbox = balances(2, 2);
    let mut sink = PlanningSink::new(config).expect("a sink");
    assert_eq!(sink.write(outbox.span(), &outbox).await.expect("delivered but one").rejected, 1);
    let reject = outbox.refused.lock().expect("sound").pop().expect("told");
    assert!(reject.retryable && reject.code.len() <= 80 && !reject.code.contains('\n'), "{}", reject.code);
    assert_eq!((reject.row.num_rows(), reject.field), (1, None), "only a field of ours is repeated");
    let mut again = Outbox::default();
    again.push_raw(vec![DeltaBatch { entity: reject.entity, rows: reject.row }]);
    assert_eq!(sink.retry(&again).await.expect("refused once more").rejected, 1);
    mended.store(true, Ordering::Relaxed);
    assert_eq!(sink.retry(&again).await.expect("delivered").rejected, 0);
    let held = held.lock().expect("sound");
    assert_eq!(held.len(), 4);
    assert!(held[3] < held[2], "an older version travels in a later batch");
}

#[tokio::test]
async fn a_batch_too_large_for_the_target_is_halved_down_to_the_row_that_does_not_fit() {
    const TAKES: usize = 2_500;
    let (held, sizes) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
    let (into, seen) = (Arc::clone(&held), Arc::clone(&sizes));
    let mut config = scripted::target(move |asked| {
        if asked.method == "GET" {
            return Json(json!({"partition": 0, "epoch": 0, "last_batch": 0})).into_response();
        }
        seen.lock().expect("sound").push(asked.body.len());
        let body: Value = serde_json::from_slice(&asked.body).expect("JSON");
        let records = body["records"].as_array().expect("records");
        let poisoned = records.iter().any(|record| record["key"]["stock_class"] == "k\"7");
        if asked.body.len() > TAKES || poisoned {
            return StatusCode::PAYLOAD_TOO_LARGE.into_response();
        }
        into.lock().expect("sound").extend(records.iter().map(|record| record["version"].to_string()));
        let batch: u64 = asked.headers["pdx-sequence"].to_str().expect("ASCII")[15..].parse().expect("a number");
        Json(json!({"batch_id": "b", "received": records.len(), "applied": records.len(), "unchanged": 0, "stale": 0,
                    "rejected": 0, "watermark": {"partition": 0, "epoch": 1, "last_batch": batch}}))
        .into_response()
    })
    .await;
    config.max_bytes = 4_000;
    let outbox = balances(1, 40);
    let mut sink = PlanningSink::new(config).expect("a sink");
    let written = sink.write(outbox.span(), &outbox).await.expect("delivered but one");
    assert_eq!((written.rows, written.rejected), (39, 1));
    let reject = outbox.refused.lock().expect("sound").pop().expect("told");
    assert_eq!(reject.code, "payload_too_large");
    assert!(reject.key.contains("k\\\"7"), "{}", reject.key);
    let held = held.lock().expect("sound");
    assert_eq!((held.len(), held.is_sorted()), (39, true), "every other row once and in order");
    let largest = *sizes.lock().expect("sound").iter().max().expect("some");
    assert!((TAKES..=4_000).contains(&largest), "max_bytes is the size of the body: {largest}");
}

#[tokio::test]
async fn a_span_larger_than_memory_is_read_only_as_fast_as_it_is_delivered() {
    let target = Target::start(Faults { error_rate: 1.0, ..Faults::default() }).await;
    let outbox = balances(100, 1_000);
    let mut config = target.config();
    config.patience = Duration::ZERO;
    let mut sink = PlanningSink::new(config).expect("a sink");
    sink.write(outbox.span(), &outbox).await.expect_err("a target that always fails");
    let read = outbox.read.load(Ordering::Relaxed);
    assert!(read <= 20, "{read} of 100 entries were read before the first was delivered");
}

#[tokio::test]
async fn nothing_is_sent_while_the_target_is_in_maintenance() {
    let target = Target::start(Faults::default()).await;
    let outbox = balances(1, 10);
    let mut config = target.config();
    // Twelve hours around now, in whole hours.
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let hour = since.as_secs() / 3_600 % 24;
    let window = format!("{:02}:00-{:02}:00", (hour + 18) % 24, (hour + 6) % 24);
    config.maintenance = Some(Windows::parse("UTC", &[window]).expect("a window"));
    let mut sink = PlanningSink::new(config).expect("a sink");
    let stats = sink.stats();
    let written = tokio::select! {
        written = sink.write(outbox.span(), &outbox) => Some(written),
        () = crate::target::eventually(|| async { stats.read().in_maintenance }) => None,
    };
    assert!(written.is_none() && stats.read().requests == 0);
    assert_eq!(target.stat("requests").await, 0);
    sink.check().await.expect("it can be asked by hand");
}
