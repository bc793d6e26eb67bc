//! Targets that accept batches and process them later: delivered is what is processed.

use std::collections::BTreeSet;

use axum::http::{StatusCode, header};
use axum::response::IntoResponse as _;
use serde_json::json;
use syncline_sinks::planner::{Faults, Poison};
use syncline_sinks::planning::PlanningSink;
use syncline_sinks::{Class, Sink as _};

use crate::outbox::Outbox;
use crate::scripted;
use crate::target::Target;

const MOVEMENT: &str = "inventory_movement";

fn outbox(rows: u32) -> Outbox {
    let mut outbox = Outbox::default();
    let changes: Vec<_> = (0..rows).map(|row| (MOVEMENT, row, Some(1))).collect();
    outbox.push(1, &changes);
    outbox
}

fn later() -> Faults {
    Faults { defer_rate: 1.0, defer_ms: 20, ..Faults::default() }
}

#[tokio::test]
async fn a_batch_that_is_only_accepted_is_not_taken_for_delivered_and_each_refused_row_is_told() {
    let clean = Target::start(later()).await;
    let outbox = outbox(400);
    clean.sink().write(outbox.span(), &outbox).await.expect("processed");
    clean.assert_holds(&outbox).await;
    // All of them, which takes several pages of each job's answer.
    let poison = poison_for_all("unknown_uom").await;
    let target = Target::start(Faults { poison: vec![poison], ..later() }).await;
    let written = target.sink().write(outbox.span(), &outbox).await.expect("processed");
    assert_eq!((written.rows, written.rejected), (0, 400));
    let told = outbox.refused.lock().expect("sound");
    let keys: BTreeSet<&str> = told.iter().map(|reject| reject.key.as_str()).collect();
    assert_eq!((told.len(), keys.len()), (400, 400), "each once");
    assert!(told.iter().all(|reject| reject.code == "unknown_uom" && reject.retryable));
}

#[tokio::test]
async fn rows_refused_after_the_write_broke_off_are_told_all_the_same() {
    let outbox = outbox(400);
    let poison = poison_for_all("closed").await;
    let target = Target::start(Faults { poison: vec![poison], ..later() }).await;
    let mut sink = target.sink();
    tokio::select! {
        _ = sink.write(outbox.span(), &outbox) => panic!("it takes several jobs"),
        () = crate::target::eventually(|| async { target.stat("rejected").await > 0 }) => {}
    }
    sink.write(outbox.span(), &outbox).await.expect("processed");
    let told = outbox.refused.lock().expect("sound");
    let keys: BTreeSet<&str> = told.iter().map(|reject| reject.key.as_str()).collect();
    assert_eq!(keys.len(), 400, "those of the first write, too");
}

/// What refuses all rows.
async fn poison_for_all(code: &str) -> Poison {
    let target = Target::start(Faults::default()).await;
    let outbox = outbox(1);
    target.sink().write(outbox.span(), &outbox).await.expect("delivered");
    let page = target.get(&format!("/entities/{MOVEMENT}?limit=1")).await;
    let data = page["rows"][0]["data"].as_object().expect("fields");
    let (field, value) = data.iter().find_map(|(name, value)| Some((name, value.as_str()?))).expect("a text");
    Poison { field: field.clone(), value: value.to_owned(), code: code.to_owned(), retryable: true }
}

#[tokio::test]
async fn a_target_that_forgets_its_jobs_gets_the_same_batches_again() {
    let target = Target::start(Faults { defer_rate: 1.0, defer_ms: 60_000, ..Faults::default() }).await;
    let outbox = outbox(100);
    let mut sink = target.sink();
    let write = sink.write(outbox.span(), &outbox);
    let restarted = async {
        crate::target::eventually(|| async { target.stat("deferred").await > 0 }).await;
        target.restart(async || ()).await
    };
    let (written, target) = tokio::join!(write, restarted);
    assert_eq!(written.expect("processed by whom came after").rows, 100);
    target.assert_holds(&outbox).await;
}

#[tokio::test]
async fn whoever_says_that_the_job_is_elsewhere_is_not_shown_who_we_are() {
    for (location, reason) in [
        ("http://127.0.0.2:1/pdx/v1/jobs/1", "a job elsewhere"),
        ("/pdx/v1/jobs/1", "in the state sideways"),
        ("", "have the target say in Location"),
    ] {
        let config = scripted::target(move |asked| match asked.headers.get("pdx-sequence") {
            Some(_) if location.is_empty() => StatusCode::ACCEPTED.into_response(),
            Some(_) => (StatusCode::ACCEPTED, [(header::LOCATION, location)]).into_response(),
            None => {
                let answer = json!({ "partition": 0, "epoch": 0, "last_batch": 0, "state": "sideways" });
                axum::Json(answer).into_response()
            }
        })
        .await;
        let outbox = outbox(1);
        let mut sink = PlanningSink::new(config).expect("sound");
        let error = sink.write(outbox.span(), &outbox).await.expect_err("no receipt");
        assert_eq!(error.class(), Class::Definite, "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    }
}
