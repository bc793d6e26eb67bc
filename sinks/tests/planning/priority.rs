//! Critical rows overtake a backlog of others, which go on all the same.

use std::time::Duration;

use syncline_schemas::ident::LogOffset;
use syncline_sinks::planner::Faults;
use syncline_sinks::planning::{PlanningConfig, PlanningSink};
use syncline_sinks::{Sink as _, Span};

use crate::growing::Growing;
use crate::outbox::Outbox;
use crate::target::{Target, eventually};

const BALANCE: &str = "inventory_balance";
const SHIPMENT: &str = "shipment";

/// A target that takes its time for each request, and few of them side by side.
async fn slow(in_flight: usize) -> (Target, PlanningConfig) {
    let target = Target::start(Faults { latency_ms: 5, ..Faults::default() }).await;
    let mut config = target.config();
    (config.in_flight, config.max_records) = (Some(in_flight), 20);
    (target, config)
}

/// Entries of one entity, a run of keys each.
fn push(outbox: &mut Outbox, entity: &str, entries: u32, each: u32) -> LogOffset {
    let mut last = LogOffset::START;
    for entry in 0..entries {
        let changes: Vec<_> = (0..each).map(|i| (entity, entry * each + i, Some(i64::from(i)))).collect();
        last = outbox.push(1, &changes);
    }
    last
}

async fn held(target: &Target, entity: &str) -> u64 {
    let counts = target.get("/entities").await;
    let count = counts.as_array().expect("a list").iter().find(|count| count["entity"] == entity);
    count.map_or(0, |count| count["rows"].as_u64().expect("a number"))
}

#[tokio::test]
async fn stock_that_changes_behind_a_mountain_of_shipments_is_there_before_the_mountain_is() {
    let (target, config) = slow(2).await;
    let mut outbox = Outbox::default();
    let mountain = push(&mut outbox, SHIPMENT, 40, 100);
    let end = push(&mut outbox, BALANCE, 5, 20);
    let growing = Growing::new(&outbox, mountain);
    let mut sink = PlanningSink::new(config).expect("a sink");
    let stats = sink.stats();
    let span = Span { after: LogOffset::START, upto: mountain };
    let (written, shipments_then) = tokio::join!(sink.write(span, &growing), async {
        eventually(|| async { held(&target, SHIPMENT).await > 0 }).await;
        growing.visible.send_replace(end);
        eventually(|| async { held(&target, BALANCE).await == 100 }).await;
        held(&target, SHIPMENT).await
    });
    written.expect("delivered");
    assert!(shipments_then < 2_000, "{shipments_then} of 4000 shipments came first");
    assert_eq!((held(&target, SHIPMENT).await, stats.read().ahead), (4_000, 100));
    let requests = stats.read().requests;
    sink.write(Span { after: mountain, upto: end }, &growing).await.expect("delivered");
    assert_eq!(stats.read().requests, requests, "nothing is sent twice");
    target.assert_holds(&outbox).await;
}

#[tokio::test]
async fn a_mountain_of_stock_never_starves_the_shipments_before_it() {
    let (target, config) = slow(1).await;
    let mut outbox = Outbox::default();
    let shipments = push(&mut outbox, SHIPMENT, 1, 400);
    let end = push(&mut outbox, BALANCE, 40, 200);
    let growing = Growing::new(&outbox, end);
    let mut sink = PlanningSink::new(config).expect("a sink");
    let span = Span { after: LogOffset::START, upto: shipments };
    let (written, balances_then) = tokio::join!(sink.write(span, &growing), async {
        eventually(|| async { held(&target, SHIPMENT).await == 400 }).await;
        held(&target, BALANCE).await
    });
    written.expect("delivered");
    assert!(
        (1_000..7_000).contains(&balances_then),
        "of ten requests one is theirs, so some 4000, not {balances_then}"
    );
    sink.write(Span { after: shipments, upto: end }, &growing).await.expect("delivered");
    target.assert_holds(&outbox).await;
}

#[tokio::test]
async fn what_went_ahead_of_a_killed_daemon_is_neither_sent_again_nor_lost() {
    let (target, config) = slow(2).await;
    let mut outbox = Outbox::default();
    let shipments = push(&mut outbox, SHIPMENT, 10, 100);
    let end = push(&mut outbox, "inventory_movement", 5, 40);
    let growing = Growing::new(&outbox, end);
    let mut killed = PlanningSink::new(config.clone()).expect("a sink");
    let span = Span { after: LogOffset::START, upto: shipments };
    tokio::select! {
        written = killed.write(span, &growing) => panic!("too quick to be killed: {written:?}"),
        () = eventually(|| async { held(&target, "inventory_movement").await == 200 }) => {}
    }
    // Another choice of what goes first, in another process, while the cursor stands at the start.
    let mut config = config;
    config.critical = Some(syncline_sinks::EntityPatterns::new([SHIPMENT]).expect("an entity"));
    let mut sink = PlanningSink::new(config).expect("a sink");
    sink.write(Span { after: LogOffset::START, upto: end }, &growing).await.expect("delivered");
    let stats = target.get("/stats").await;
    assert_eq!((stats["unchanged"].as_u64(), stats["stale"].as_u64()), (Some(0), Some(0)), "{stats}");
    target.assert_holds(&outbox).await;
}

#[tokio::test]
async fn a_retry_of_refused_rows_beside_a_backlog_waits_for_nobody() {
    let (target, config) = slow(1).await;
    let mut outbox = Outbox::default();
    push(&mut outbox, SHIPMENT, 2, 30);
    push(&mut outbox, BALANCE, 2, 30);
    let mut sink = PlanningSink::new(config).expect("a sink");
    let again = tokio::time::timeout(Duration::from_secs(60), sink.retry(&outbox)).await;
    assert_eq!(again.expect("not within a minute").expect("delivered").rows, 120);
    target.assert_holds(&outbox).await;
}
