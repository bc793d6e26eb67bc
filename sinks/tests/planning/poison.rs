//! Rows that make a target refuse whatever they travel with.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt8Array};
use syncline_schemas::delta::{DeltaBatch, KEEP, UPSERT};
use syncline_schemas::ident::{LogOffset, Version};
use syncline_sinks::planner::{Faults, Poison};
use syncline_sinks::planning::{PlanningConfig, PlanningSink};
use syncline_sinks::{Class, Image, Sink as _};

use crate::outbox::{Change, Outbox, canonical, key_text, rows};
use crate::target::Target;

const BALANCE: &str = "inventory_balance";

/// A row that has a key's text in its last key field.
fn poison(key: u32) -> Poison {
    let entity = canonical(BALANCE);
    let last = entity.key_len() - 1;
    Poison {
        field: entity.fields[last].name.clone(),
        value: key_text(entity, last, key),
        code: "forbidden_company".to_owned(),
        retryable: false,
    }
}

fn all_or_nothing(keys: &[u32]) -> Faults {
    Faults { poison: keys.iter().map(|key| poison(*key)).collect(), all_or_nothing: true, ..Faults::default() }
}

fn balances(count: u32) -> Outbox {
    let mut outbox = Outbox::default();
    let all: Vec<_> = (0..count).map(|key| (BALANCE, key, Some(i64::from(key)))).collect();
    for entry in all.chunks(5_000) {
        outbox.push(1, entry);
    }
    outbox
}

fn refused(outbox: &Outbox) -> BTreeSet<String> {
    outbox.refused.lock().expect("sound").iter().map(|reject| reject.key.clone()).collect()
}

#[tokio::test]
async fn one_poison_row_among_a_hundred_thousand_costs_one_dead_letter_and_few_requests() {
    let target = Target::start(all_or_nothing(&[61_234])).await;
    let outbox = balances(100_000);
    let config = PlanningConfig { max_records: 5_000, max_bytes: 8 << 20, ..target.config() };
    let clean = Target::start(Faults::default()).await;
    let other = PlanningConfig { url: clean.config().url, ..config.clone() };
    let mut sink = PlanningSink::new(other).expect("a sink");
    sink.write(outbox.span(), &outbox).await.expect("nothing is refused");
    let needed = sink.stats().read().requests;

    let mut sink = PlanningSink::new(config).expect("a sink");
    let written = sink.write(outbox.span(), &outbox).await.expect("the others go on");
    assert_eq!((written.rows, written.rejected), (99_999, 1));
    assert_eq!(refused(&outbox).len(), 1);
    let extra = sink.stats().read().requests - needed;
    // 2 log2 of the 5,000 rows that travel together.
    assert!(extra <= 26, "{extra} requests beyond {needed}");
    assert_eq!(target.stat("applied").await, 99_999);
}

#[tokio::test]
async fn several_poison_rows_side_by_side_are_all_found_and_no_other_row_with_them() {
    let target = Target::start(all_or_nothing(&[0, 1, 2, 500, 501, 998, 999])).await;
    let outbox = balances(1_000);
    let mut sink = target.sink();
    sink.write(outbox.span(), &outbox).await.expect("the others go on");
    assert_eq!(refused(&outbox).len(), 7);
    assert_eq!(target.stat("applied").await, 993);
    let codes: BTreeSet<String> = outbox.refused.lock().expect("sound").iter().map(|it| it.code.clone()).collect();
    assert_eq!(codes, BTreeSet::from(["batch-refused".to_owned()]), "the target's own word");
}

#[tokio::test]
async fn a_target_that_refuses_everything_parks_the_sink_and_makes_no_dead_letter_of_every_row() {
    let every: Vec<u32> = (0..200).collect();
    let target = Target::start(all_or_nothing(&every)).await;
    let outbox = balances(200);
    let error = target.sink().write(outbox.span(), &outbox).await.expect_err("it is not about single rows");
    assert_eq!(error.class(), Class::Definite);
    assert!(error.to_string().contains("compare the target's schema"), "{error}");
    assert!(refused(&outbox).len() <= 80, "twenty in each lane");
}

#[tokio::test]
async fn two_daemons_on_copies_of_one_state_are_told_apart_by_the_epoch() {
    let target = Target::start(Faults::default()).await;
    let mut older = Outbox::default();
    older.push(1, &(0..4).map(|key| (BALANCE, key, Some(1))).collect::<Vec<_>>());
    let mut first = target.sink();
    first.write(older.span(), &older).await.expect("delivered");
    // The copy was given an epoch of its own when it was begun anew.
    let mut newer = Outbox::default();
    newer.push(2, &(0..4).map(|key| (BALANCE, key, Some(2))).collect::<Vec<_>>());
    let mut second = target.sink();
    second.write(newer.span(), &newer).await.expect("the newer one goes on");
    let more = older.push(1, &[(BALANCE, 1, Some(3))]);
    let span = syncline_sinks::Span { after: LogOffset(more.0 - 1), upto: more };
    let error = first.write(span, &older).await.expect_err("the older one is fenced");
    assert_eq!(error.class(), Class::Definite);
    assert!(error.to_string().contains("a daemon with a newer state writes to this target"), "{error}");
    let image = Image { entity: BALANCE.to_owned(), cut: Version::new(1, more, u32::MAX), sweep: true };
    let error = first.filler().expect("it loads").fill(&image, &older).await.expect_err("and so is its load");
    assert!(error.to_string().contains("a daemon with a newer state writes to this target"), "{error}");
    target.assert_holds(&newer).await;
}

/// Rows of a load: all upserts of one version, but for keys that are kept.
fn image(cut: Version, present: &[u32], kept: &[u32]) -> Outbox {
    let keys = present.iter().chain(kept);
    let changes: Vec<Change> = keys.map(|key| Change { key: *key, value: Some(7), version: cut }).collect();
    let batch = rows(canonical(BALANCE), &changes);
    let ops = (0..changes.len()).map(|row| if row < present.len() { UPSERT } else { KEEP });
    let mut columns = batch.columns().to_vec();
    columns[0] = Arc::new(UInt8Array::from_iter_values(ops));
    let rows = RecordBatch::try_new(batch.schema(), columns).expect("canonical");
    let mut outbox = Outbox::default();
    outbox.push_raw(vec![DeltaBatch { entity: BALANCE.to_owned(), rows }]);
    outbox
}

#[tokio::test]
async fn a_load_takes_away_what_is_gone_and_leaves_what_is_newer_kept_or_refused() {
    load_and_sweep(Faults { all_or_nothing: false, ..all_or_nothing(&[3]) }).await;
}

#[tokio::test]
async fn a_row_that_has_a_whole_part_of_a_load_refused_is_not_swept_away() {
    load_and_sweep(all_or_nothing(&[3])).await;
}

async fn load_and_sweep(faults: Faults) {
    let target = Target::start(Faults { drop_reply_rate: 0.3, seed: 5, ..Faults::default() }).await;
    let mut outbox = Outbox::default();
    outbox.push(1, &(0..6).map(|key| (BALANCE, key, Some(1))).collect::<Vec<_>>());
    let newer = outbox.push(1, &[(BALANCE, 4, Some(2))]);
    let mut sink = target.sink();
    sink.write(outbox.span(), &outbox).await.expect("delivered");
    target.set_faults(&faults).await;
    // Of the moment before the newer one: 0 and 1 are there, 2 is kept, 3 will be refused, 4 came later, 5 is gone.
    let cut = Version::new(1, LogOffset(newer.0 - 1), u32::MAX);
    let order = Image { entity: BALANCE.to_owned(), cut, sweep: true };
    let rows = image(cut, &[0, 1, 3], &[2]);
    let written = sink.filler().expect("it loads").fill(&order, &rows).await.expect("loaded");
    assert_eq!((written.rows, written.rejected), (2, 1));
    assert_eq!(target.stat("swept").await, 1);
    let page = target.get(&format!("/entities/{BALANCE}")).await;
    assert_eq!(page["rows"].as_array().expect("rows").len(), 5, "only 5 went");
    assert_eq!(refused(&rows).len(), 1);

    // The same without a sweep adds and takes nothing away.
    let order = Image { sweep: false, cut: Version::new(1, LogOffset(9), 0), ..order };
    let rows = image(order.cut, &[5], &[]);
    sink.filler().expect("it loads").fill(&order, &rows).await.expect("loaded");
    let digest = target.get(&format!("/pdx/v1/flows/{BALANCE}/digest")).await;
    assert_eq!(digest["count"], 6, "{digest}");
}
