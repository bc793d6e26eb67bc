//! Changed mappings: what the fold of the same log under them says otherwise, told to sinks that hold what was said before.

use proptest::prelude::*;
use syncline_schemas::delta;
use syncline_schemas::frame::LogEntry;
use syncline_schemas::ident::LogOffset;
use syncline_transform::fold::{Difference, Stamp, Tally};
use syncline_transform::state::{OutboxStep, Space};

use crate::frames::{Change, Value, frame, table};
use crate::history::{Move, log, moves};
use crate::memory::{Daemon, EPOCH};
use crate::oracle::{MAPPINGS, compare};
use crate::outbox::Current;

/// What the same source was mapped to before: other keys, other filters, other factors, a part that is gone and one that
/// there was not yet.
const BEFORE: [(&str, &str); 4] = [
    (
        "erp/item.sql",
        "SELECT 'C1' AS company_id, a.code AS item_id, 'EA' AS base_uom, 'old' AS description FROM artikel a WHERE a.active = 0",
    ),
    (
        "erp/inventory_balance.stock.sql",
        "-- @rule DQ_REF_ITEM = ignore\nSELECT 'C1' AS company_id, item AS item_id, loc || 'x' AS location_id, qty * 3 AS on_hand \
         FROM public.bestand",
    ),
    (
        "erp/inventory_balance.other.sql",
        "-- @rule DQ_REF_ITEM = ignore\nSELECT 'C1' AS company_id, item AS item_id, loc AS location_id, qty AS on_hand FROM transit",
    ),
    (
        "erp/supplier.sql",
        "SELECT 'C1' AS company_id, cast(id AS VARCHAR) AS supplier_id, doc AS name FROM buchung WHERE doc IS NOT NULL",
    ),
];

/// Tells a sink what differs, and the newer state what it lacks; gives the numbers of rows.
fn tell(older: &Daemon, newer: &Daemon, at: LogOffset, page: usize, current: &mut Current) -> Tally {
    let difference = Difference::new(&older.memory, &newer.memory).expect("both can be read");
    let (mut place, mut rows, mut step, mut sum) = (Vec::new(), 0, 0, Tally::default());
    while let Some(page) = difference.page(&place, page).expect("both can be read") {
        place = page.place().to_vec();
        let mut tally = Tally::default();
        page.count(&mut tally).expect("rows decode");
        let samples = page.samples(usize::MAX).expect("rows decode");
        assert_eq!(samples.len() as u64, tally.added + tally.changed + tally.removed);
        sum = Tally {
            before: sum.before + tally.before,
            after: sum.after + tally.after,
            added: sum.added + tally.added,
            changed: sum.changed + tally.changed,
            removed: sum.removed + tally.removed,
            totals: Vec::new(),
        };
        let stamp = Stamp { epoch: EPOCH, offset: at, at: 0, rows };
        let (batch, writes) = page.deltas(stamp).expect("rows decode");
        newer.memory.write(writes);
        if let Some(batch) = batch {
            let count = u32::try_from(batch.rows.num_rows()).expect("small");
            let bytes = delta::encode(&[batch]).expect("encodes");
            current.apply(&OutboxStep { offset: at, step, rows: count, bytes });
            (rows, step) = (rows + count, step + 1);
        }
    }
    sum
}

fn fold(mappings: &[(&str, &str)], log: &[LogEntry]) -> Daemon {
    let mut daemon = Daemon::new(mappings);
    daemon.log.extend_from_slice(log);
    daemon.run();
    daemon
}

fn check(moves: &[Move], split: usize, page: usize) {
    let (log, boundaries) = log(moves);
    // Behind a whole transaction, so that the daemon that is stopped there stands at a state that was.
    let Some((&at, wanted)) = boundaries.iter().nth(split % boundaries.len()) else { return };
    let (before, behind) = log.split_at(usize::try_from(at.0).expect("short"));
    let older = fold(&BEFORE, before);
    let mut newer = Daemon::new(&MAPPINGS).beside(&older);
    newer.log.extend_from_slice(before);
    // What differs is told at an entry of its own, behind all that was delivered.
    newer.push(frame(&[], true));
    let mut current = Current::default();
    older.memory.outbox.borrow().iter().for_each(|step| current.apply(step));
    newer.memory.outbox.borrow_mut().clear();
    let told = tell(&older, &newer, at.next(), page, &mut current);
    compare(&current.rows, wanted);
    assert_eq!(told.after, current.rows.len() as u64, "the numbers are those of the rows");
    let again = tell(&older, &fold(&BEFORE, before), at, page, &mut Current::default());
    assert_eq!((again.added, again.changed, again.removed), (0, 0, 0), "the same mappings differ in nothing");
    newer.log.extend_from_slice(behind);
    newer.run();
    newer.memory.outbox.borrow().iter().for_each(|step| current.apply(step));
    compare(&current.rows, boundaries.values().next_back().expect("a boundary"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_mappings_leave_no_row_of_the_old_ones_at_a_sink(
        moves in moves(), split in any::<usize>(), page in 1_usize..9,
    ) {
        check(&moves, split, page);
    }
}

#[test]
fn a_mapping_that_breaks_every_row_takes_none_of_them_back() {
    let stock = table("lager", &[("id", "bigint"), ("code", "text"), ("name", "text")]);
    let good = "SELECT 'C1' AS company_id, code AS item_id, 'EA' AS base_uom, name AS description FROM lager";
    let bad =
        "SELECT 'C1' AS company_id, code AS item_id, nullif('EA', 'EA') AS base_uom, name AS description FROM lager";
    let mut older = Daemon::new(&[("erp/item.sql", good)]);
    let row = |id: i64, name: &str| [Value::Int(id), Value::Text(format!("A{id}")), name.into()];
    older.commit(&[(&stock, Change::insert(row(1, "one"))), (&stock, Change::insert(row(2, "two")))]);
    older.commit(&[(&stock, Change::update(row(2, "zwei")))]);
    let mut current = Current::default();
    older.memory.outbox.borrow().iter().for_each(|step| current.apply(step));
    let mut newer = Daemon::new(&[("erp/item.sql", bad)]).beside(&older);
    newer.log.clone_from(&older.log);
    newer.push(frame(&[], true));
    let told = tell(&older, &newer, LogOffset(3), 4, &mut current);
    assert_eq!((told.before, told.after, told.changed, told.removed), (2, 2, 0, 0));
    assert_eq!(newer.held().len(), 2, "they are held instead");
    // And the newer state knows them: a row that goes now is taken back.
    let gone = newer.commit(&[(&stock, Change::removal(syncline_schemas::frame::Op::Delete, 2, 3))]);
    assert_eq!(
        gone.iter().map(|delta| (delta.key[1].as_str(), delta.row.is_none())).collect::<Vec<_>>(),
        [("A2", true)]
    );
    assert_eq!(newer.memory.pairs(Space::Held).len(), 1);
}

#[test]
fn a_changed_mapping_counts_revisions_on_from_what_was_delivered() {
    let sales = table("sales", &[("id", "bigint"), ("day", "text"), ("qty", "bigint")]);
    let demand = |factor: &str| {
        format!(
            "SELECT 'C1' AS company_id, 'A' AS item_id, 'W1' AS location_id, 'pos' AS demand_type, qty * {factor} AS qty, \
             CASE WHEN day = 'first' THEN DATE '2026-03-01' ELSE DATE '2026-03-02' END AS bucket_date FROM sales"
        )
    };
    let plain = demand("1");
    let mut older = Daemon::new(&[("erp/demand_signal.sql", plain.as_str())]);
    let row = |id: i64, day: &str, qty: i64| [id.into(), day.into(), qty.into()];
    older.commit(&[(&sales, Change::insert(row(1, "first", 4))), (&sales, Change::insert(row(2, "second", 0)))]);
    for qty in [5, 6] {
        older.commit(&[(&sales, Change::update(row(1, "first", qty)))]);
    }
    let mut current = Current::default();
    older.memory.outbox.borrow().iter().for_each(|step| current.apply(step));
    let revisions = |current: &Current| -> Vec<String> {
        current.rows.values().map(|row| row["revision"].clone().expect("counted")).collect()
    };
    assert_eq!(revisions(&current), ["2", "0"]);
    let twice = demand("2");
    let mut newer = Daemon::new(&[("erp/demand_signal.sql", twice.as_str())]).beside(&older);
    newer.log.clone_from(&older.log);
    newer.push(frame(&[], true));
    let folded = newer.memory.outbox.borrow().len();
    let told = tell(&older, &newer, LogOffset(4), 9, &mut current);
    assert_eq!((told.changed, revisions(&current)), (1, vec!["3".into(), "0".into()]), "twice nothing is nothing");
    newer.commit(&[(&sales, Change::update(row(1, "first", 1))), (&sales, Change::update(row(2, "second", 1)))]);
    newer.memory.outbox.borrow().iter().skip(folded).for_each(|step| current.apply(step));
    assert_eq!(revisions(&current), ["4", "1"]);
}

#[test]
fn a_sum_that_waits_for_the_end_of_a_transaction_is_told_when_the_mappings_are_mended_in_the_middle() {
    let stock = table("lager", &[("id", "bigint"), ("loc", "text"), ("qty", "text")]);
    let sql = "-- @rule DQ_REF_ITEM = ignore\n-- @rule DQ_EXPRESSION = halt\nSELECT 'C1' AS company_id, 'A' AS item_id, \
               loc AS location_id, CAST(qty AS DECIMAL(14, 3)) AS on_hand FROM lager";
    let row = |id: i64, loc: &str, qty: &str| [id.into(), loc.into(), qty.into()];
    let mut older = Daemon::new(&[("erp/inventory_balance.sql", sql)]);
    older.commit(&[(&stock, Change::insert(row(1, "W1", "5")))]);
    older.log.push(frame(&[(&stock, Change::update(row(1, "W1", "9")))], false));
    older.log.push(frame(&[(&stock, Change::insert(row(2, "W2", "many")))], true));
    older.try_run().map(|_| ()).expect_err("the rule stops at the second row");
    let mut current = Current::default();
    older.memory.outbox.borrow().iter().for_each(|step| current.apply(step));
    let sums = |current: &Current| -> Vec<String> {
        current.rows.values().map(|row| row["on_hand"].clone().expect("a sum")).collect()
    };
    assert_eq!(sums(&current), ["5.000000000"]);
    let mended = sql.replace("DQ_EXPRESSION = halt", "DQ_EXPRESSION = reject");
    let mut newer = Daemon::new(&[("erp/inventory_balance.sql", mended.as_str())]).beside(&older);
    newer.log.clone_from(&older.log);
    newer.push(frame(&[], true));
    tell(&older, &newer, LogOffset(4), 9, &mut current);
    assert_eq!(sums(&current), ["9.000000000"]);
}
