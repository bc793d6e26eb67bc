//! A truncate larger than one step, with a crash around every one of its commits.

use syncline_schemas::frame::Op;

use crate::frames::{Change, Value, frame, table};
use crate::memory::{Crash, Daemon};
use crate::outbox::Current;

#[test]
fn a_crash_inside_a_large_truncate_goes_on_with_what_is_left() {
    let lager = table("lager", &[("id", "bigint"), ("loc", "text"), ("qty", "numeric(14,3)")]);
    let sql = "SELECT 'C1' AS company_id, loc AS location_id, 'A' || CAST(id AS VARCHAR) AS item_id, qty AS on_hand \
               FROM lager";
    let item = "SELECT 'C1' AS company_id, 'A' || CAST(id AS VARCHAR) AS item_id, loc AS base_uom FROM lager";
    let rows: Vec<_> = (0..17_000)
        .map(|id| (&lager, Change::insert([id.into(), Value::Text(format!("W{}", id % 3)), Value::Decimal(1_000)])))
        .collect();
    let again = (&lager, Change::insert([7.into(), "W1".into(), Value::Decimal(2_000)]));
    let outcome = |crashes: &[Option<Crash>]| {
        let mut daemon = Daemon::new(&[("erp/inventory_balance.sql", sql), ("erp/item.sql", item)]);
        daemon.commit(&rows);
        let before = daemon.visible();
        daemon.memory.crashes.borrow_mut().extend(crashes);
        daemon.commit(&[(&lager, Change::truncate(3)), again.clone()]);
        assert!(daemon.visible() > before);
        daemon.memory.outbox.take()
    };
    let calm = outcome(&[]);
    assert_eq!(calm.len(), 1 + 2 * 2, "the rows, and two steps in which each entity is told at the end");
    let mut current = Current::default();
    calm.iter().for_each(|step| current.apply(step));
    let stocked: Vec<_> = current
        .rows
        .iter()
        .filter(|(key, row)| key.0 == "item" || row["on_hand"].as_deref() != Some("0.000000000"))
        .map(|(key, _)| (key.0.as_str(), key.1[1].as_str()))
        .collect();
    assert_eq!(stocked, [("inventory_balance", "A7"), ("item", "A7")]);
    let around = |at: usize, crash| [vec![None; at], vec![Some(crash)]].concat();
    for at in 0..12 {
        for crash in [Crash::Before, Crash::After] {
            assert!(calm == outcome(&around(at, crash)), "{crash:?} commit {at}");
        }
    }
}

#[test]
fn a_copy_that_broke_off_and_began_anew_is_folded_once() {
    let lager = table("lager", &[("id", "bigint"), ("loc", "text"), ("qty", "numeric(14,3)")]);
    let other = table("other", &[("id", "bigint")]);
    let sql = "SELECT 'C1' AS company_id, 'A' AS item_id, loc AS location_id, qty AS on_hand FROM lager";
    let mut daemon = Daemon::new(&[("erp/inventory_balance.sql", sql)]);
    let row = |id: i64, quantity: i128| {
        let values = vec![id.into(), Value::Text(format!("W{id}")), Value::Decimal(quantity)];
        (&lager, Change::new(Op::Read, values))
    };
    let begin = || frame(&[(&lager, Change::truncate(3)), (&other, Change::truncate(1))], false);
    for attempt in 1..=3 {
        daemon.push(begin());
        daemon.push(frame(&[row(attempt, 1_000), (&other, Change::new(Op::Read, vec![1.into()]))], false));
        daemon.push(frame(&[row(attempt + 1, 1_000)], false));
    }
    // One that empties only some of the tables makes nothing void.
    daemon.push(frame(&[(&other, Change::truncate(1))], false));
    let deltas = daemon.push(frame(&[], true));
    let places: Vec<&str> = deltas.iter().map(|delta| delta.key[2].as_str()).collect();
    assert_eq!(places, ["W3", "W4"], "rows of the attempts before were never there");
}
