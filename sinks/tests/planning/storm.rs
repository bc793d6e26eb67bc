//! Everything at once: faults of every kind, and a sink that is killed at random moments.

use std::time::Duration;

use syncline_schemas::ident::LogOffset;
use syncline_sinks::planner::Faults;
use syncline_sinks::{Sink as _, Span};

use crate::growing::Growing;
use crate::outbox::{Outbox, is_event};
use crate::target::Target;

/// A sequence from a seed, enough for choosing.
struct Choices(u64);

impl Choices {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

fn random_outbox(choices: &mut Choices) -> Outbox {
    let mut outbox = Outbox::default();
    let mut movement = 0;
    for _ in 0..60 {
        let changes: Vec<(&str, u32, Option<i64>)> = (0..=choices.below(40))
            .map(|_| {
                let key = u32::try_from(choices.below(60)).expect("small");
                let value = i64::try_from(choices.below(2_000)).expect("small") - 1_000;
                match choices.below(6) {
                    0 => {
                        movement += 1;
                        ("inventory_movement", movement, Some(value))
                    }
                    1 | 2 => ("inventory_balance", key, Some(value)),
                    3 => ("shipment", key, Some(value)),
                    4 => ("sales_order_line", key, Some(value)),
                    _ => ("sales_order_line", key, None),
                }
            })
            .collect();
        outbox.push(1, &changes);
    }
    assert!(is_event("inventory_movement"));
    outbox
}

async fn storm(seed: u64) {
    println!("seed {seed}");
    let mut choices = Choices(seed);
    let outbox = random_outbox(&mut choices);
    let faults = Faults {
        error_rate: 0.1,
        latency_ms: 1,
        throttle_rate: 0.05,
        retry_after_s: 0,
        drop_reply_rate: 0.1,
        defer_rate: 0.2,
        defer_ms: 3,
        seed,
        ..Faults::default()
    };
    let target = Target::start(faults).await;
    let (mut sink, mut kills) = (target.sink(), 0);
    let (mut after, end) = (LogOffset::START, outbox.span().upto);
    let growing = Growing::new(&outbox, after);
    while after < end {
        // After a kill the span may be cut elsewhere.
        let upto = LogOffset((after.0 + 1 + choices.below(15)).min(end.0));
        // Urgent rows run ahead of the span, as far as that.
        growing
            .visible
            .send_modify(|visible| *visible = (*visible).max(LogOffset((upto.0 + choices.below(30)).min(end.0))));
        let patience = Duration::from_micros(500 + choices.below(if kills < 25 { 120_000 } else { 60_000_000 }));
        match tokio::time::timeout(patience, sink.write(Span { after, upto }, &growing)).await {
            Ok(written) => {
                assert_eq!(written.expect("faults are retried").rejected, 0);
                after = upto;
            }
            Err(_) => {
                kills += 1;
                // Half of the time the same sink goes on: a dropped future must not confuse it.
                if choices.below(2) == 0 {
                    sink = target.sink();
                }
            }
        }
    }
    target.set_faults(&Faults::default()).await;
    target.assert_holds(&outbox).await;
    let counts = sink.stats().read();
    assert_eq!(target.stat("rejected").await, 0);
    println!("{kills} kills, {counts:?}, {}", target.get("/stats").await);
    target.running.shutdown().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_storm_of_faults_and_kills_loses_doubles_or_reorders_a_row() {
    for seed in [1, 20_260_526, 77] {
        storm(seed).await;
    }
}
