//! Rows that cannot be delivered: held with their reason, the last good contribution stays, they come back by themselves.

use syncline_schemas::frame::Op;
use syncline_schemas::table::TableSchema;

use syncline_transform::fold::{HeldRows, held_now};

use crate::frames::{Change, Value, table};
use crate::memory::Daemon;

const ITEM: &str = "SELECT 'C1' AS company_id, code AS item_id, descr AS description, uom AS base_uom, \
                    state AS status, cost / lot AS unit_cost FROM artikel";

fn articles() -> TableSchema {
    let columns = [
        ("id", "bigint"),
        ("code", "text"),
        ("descr", "text?"),
        ("uom", "text"),
        ("state", "text"),
        ("cost", "numeric(38,3)"),
        ("lot", "bigint"),
    ];
    table("artikel", &columns)
}

fn article(id: i64, code: &str) -> [Value; 7] {
    [id.into(), code.into(), "drill".into(), "EA".into(), "active".into(), Value::Decimal(12_000), 4.into()]
}

fn daemon() -> Daemon {
    Daemon::new(&[("erp/item.sql", ITEM)])
}

#[test]
fn two_rows_of_one_key_never_flap_and_the_second_takes_over() {
    let (artikel, mut daemon) = (articles(), daemon());
    let mut second = article(2, "A");
    second[2] = "saw".into();
    let deltas = daemon.commit(&[(&artikel, Change::insert(article(1, "A")))]);
    assert_eq!(deltas[0].get("description"), Some("drill"));
    assert_eq!(daemon.commit(&[(&artikel, Change::insert(second.clone()))]), [], "the first stands");
    assert_eq!(daemon.held().len(), 1);
    assert!(daemon.held()[0].starts_with("DQ_ID_AMBIGUOUS\n"), "{:?}", daemon.held());
    second[2] = "big saw".into();
    assert_eq!(daemon.commit(&[(&artikel, Change::update(second.clone()))]), [], "the second still waits");
    let mut first = article(1, "A");
    (first[2], second[2]) = ("fine drill".into(), "bigger saw".into());
    let both = [second, first].map(|row| (&artikel, Change::update(row)));
    let deltas = daemon.commit(&both);
    assert_eq!(deltas.iter().map(|delta| delta.get("description")).collect::<Vec<_>>(), [Some("fine drill")]);
    let deltas = daemon.commit(&[(&artikel, Change::removal(Op::Delete, 1, 7))]);
    assert_eq!(deltas.iter().map(|delta| delta.get("description")).collect::<Vec<_>>(), [Some("bigger saw")]);
    assert_eq!(daemon.held(), Vec::<String>::new());
    let deltas = daemon.commit(&[(&artikel, Change::removal(Op::Delete, 2, 7))]);
    assert_eq!(deltas.iter().map(|delta| delta.row.clone()).collect::<Vec<_>>(), [None]);
}

#[test]
fn a_faulty_row_keeps_its_last_good_image_until_it_is_good_again() {
    let artikel = articles();
    let faults = [
        (3, Value::Null, "DQ_REQUIRED\nbase_uom\nbase_uom has no value"),
        (4, "asleep".into(), "DQ_DOMAIN\nstatus\nstatus is none of active, blocked_sales"),
        (5, Value::Decimal(10_i128.pow(30)), "DQ_OVERFLOW\nunit_cost\nunit_cost has more digits"),
        (5, Value::Decimal(10_i128.pow(37)), "DQ_EXPRESSION\nunit_cost\nunit_cost: a number grew out of its type"),
        (6, 0.into(), "DQ_EXPRESSION\nunit_cost\nunit_cost: division by zero"),
    ];
    for (column, value, wanted) in faults {
        let mut daemon = daemon();
        daemon.commit(&[(&artikel, Change::insert(article(1, "A")))]);
        let mut bad = article(1, "A");
        bad[2] = "hammer".into();
        bad[column] = value;
        for _ in 0..2 {
            assert_eq!(daemon.commit(&[(&artikel, Change::update(bad.clone()))]), [], "{wanted}");
            assert_eq!(daemon.held().len(), 1, "one record for one row");
            assert!(daemon.held()[0].starts_with(wanted), "{:?}", daemon.held());
        }
        let mut good = article(1, "A");
        good[2] = "hammer".into();
        let deltas = daemon.commit(&[(&artikel, Change::update(good))]);
        assert_eq!(deltas.iter().map(|delta| delta.get("description")).collect::<Vec<_>>(), [Some("hammer")]);
        assert_eq!(daemon.held(), Vec::<String>::new());
    }
}

#[test]
fn a_faulty_row_that_goes_takes_its_last_good_image_with_it() {
    let (artikel, mut daemon) = (articles(), daemon());
    let mut bad = article(1, "A");
    bad[3] = Value::Null;
    daemon.commit(&[(&artikel, Change::insert(article(1, "A")))]);
    daemon.commit(&[(&artikel, Change::update(bad))]);
    let deltas = daemon.commit(&[(&artikel, Change::removal(Op::Delete, 1, 7))]);
    assert_eq!(deltas.iter().map(|delta| delta.row.is_none()).collect::<Vec<_>>(), [true]);
    assert_eq!(daemon.held(), Vec::<String>::new());
}

#[test]
fn a_row_that_turns_faulty_with_its_key_change_keeps_its_last_good_image() {
    let (artikel, mut daemon) = (articles(), daemon());
    daemon.commit(&[(&artikel, Change::insert(article(1, "A")))]);
    let mut bad = article(9, "A");
    bad[3] = Value::Null;
    let change = [(&artikel, Change::removal(Op::MoveOut, 1, 7)), (&artikel, Change::new(Op::MoveIn, bad.to_vec()))];
    assert_eq!(daemon.commit(&change), [], "the good image stays");
    assert_eq!(daemon.held().len(), 1);
    let deltas = daemon.commit(&[(&artikel, Change::removal(Op::Delete, 9, 7))]);
    assert_eq!(deltas.iter().map(|delta| delta.row.is_none()).collect::<Vec<_>>(), [true]);
    assert_eq!(daemon.held(), Vec::<String>::new());
}

#[test]
fn one_division_by_zero_in_ten_thousand_rows_costs_one_row() {
    let (artikel, mut daemon) = (articles(), daemon());
    let rows: Vec<_> = (0..10_000)
        .map(|id| {
            let mut row = article(id, &format!("A{id}"));
            row[6] = Value::Int(if id == 6_174 { 0 } else { 4 });
            (&artikel, Change::insert(row))
        })
        .collect();
    let deltas = daemon.commit(&rows);
    assert_eq!(deltas.len(), 9_999);
    assert!(deltas.iter().all(|delta| delta.key[1] != "A6174"));
    assert_eq!(daemon.held().len(), 1);
}

#[test]
fn a_sum_too_large_for_its_field_is_held_and_never_stops_the_fold() {
    let lager = table("lager", &[("id", "bigint"), ("loc", "text"), ("qty", "numeric(38,3)")]);
    let sql = "SELECT 'C1' AS company_id, 'A' AS item_id, loc AS location_id, qty AS on_hand FROM lager";
    let mut daemon = Daemon::new(&[("erp/inventory_balance.sql", sql)]);
    let nearly = || Value::Decimal(9 * 10_i128.pow(21));
    let deltas = daemon.commit(&[(&lager, Change::insert([1.into(), "W1".into(), nearly()]))]);
    assert_eq!(deltas[0].quantity("on_hand"), "9000000000000000000");
    let deltas = daemon.commit(&[
        (&lager, Change::insert([2.into(), "W1".into(), nearly()])),
        (&lager, Change::insert([3.into(), "W2".into(), Value::Decimal(5_000)])),
    ]);
    assert_eq!(deltas.iter().map(|delta| delta.key[2].as_str()).collect::<Vec<_>>(), ["W2"]);
    assert_eq!(daemon.held().len(), 1);
    assert!(daemon.held()[0].starts_with("DQ_OVERFLOW\non_hand\n"), "{:?}", daemon.held());
    let deltas = daemon.commit(&[(&lager, Change::update([1.into(), "W1".into(), Value::Decimal(1_000)]))]);
    assert_eq!(deltas.iter().map(|delta| delta.quantity("on_hand")).collect::<Vec<_>>(), ["9000000000000000001"]);
    assert_eq!(daemon.held(), Vec::<String>::new());
}

#[test]
fn a_value_that_the_log_left_out_and_nobody_ever_saw_is_held_and_not_taken_for_null() {
    let (artikel, mut daemon) = (articles(), daemon());
    let mut row = article(1, "A");
    row[2] = Value::Null;
    let change = Change { op: Op::Update, values: row.to_vec(), absent: vec![2] };
    assert_eq!(daemon.commit(&[(&artikel, change)]), []);
    assert!(daemon.held()[0].starts_with("DQ_ABSENT\ndescr\n"), "{:?}", daemon.held());
}

#[test]
fn what_is_held_now_is_counted_by_mapping_and_rule() {
    let (artikel, lager) = (articles(), table("lager", &[("id", "bigint"), ("qty", "numeric(38,3)")]));
    let stock = "-- @rule DQ_REF_ITEM = ignore\n\
        SELECT 'C1' AS company_id, 'A' AS item_id, 'W1' AS location_id, qty AS on_hand FROM lager";
    let mut daemon = Daemon::new(&[("erp/item.sql", ITEM), ("erp/inventory_balance.shop.sql", stock)]);
    let nothing = |daemon: &Daemon| held_now(&daemon.memory, 10).expect("state reads").by.is_empty();
    assert!(nothing(&daemon), "before anything");
    let nameless = |id: i64, code: &str| {
        let mut row = article(id, code);
        row[3] = Value::Null;
        (&artikel, Change::insert(row))
    };
    daemon.commit(&[nameless(1, "A"), nameless(2, "B"), (&artikel, Change::insert(article(3, "C")))]);
    daemon.commit(&[(&artikel, Change::insert(article(4, "C")))]);
    let nearly = || Value::Decimal(9 * 10_i128.pow(21));
    daemon.commit(&[(&lager, Change::insert([1.into(), nearly()])), (&lager, Change::insert([2.into(), nearly()]))]);
    let row = |mapping: Option<&str>, entity: &str, rule: &str, rows| {
        let mapping = mapping.map(str::to_owned);
        HeldRows { mapping, entity: entity.to_owned(), rule: rule.to_owned(), rows }
    };
    let now = held_now(&daemon.memory, 10).expect("state reads");
    let item = Some("erp/item");
    let wanted = [
        row(item, "item", "DQ_ID_AMBIGUOUS", 1),
        row(item, "item", "DQ_REQUIRED", 2),
        row(None, "inventory_balance", "DQ_OVERFLOW", 1),
    ];
    assert_eq!((now.by.as_slice(), now.complete), (wanted.as_slice(), true));
    assert!(!held_now(&daemon.memory, 2).expect("state reads").complete, "there may be more than were looked at");
    daemon.commit(&[1, 2, 4].map(|id| (&artikel, Change::removal(Op::Delete, id, 7))));
    daemon.commit(&[(&lager, Change::removal(Op::Delete, 2, 2))]);
    assert!(nothing(&daemon), "{:?}", daemon.held());
}

#[test]
fn a_row_that_lets_go_of_one_key_and_waits_for_another_is_held_whatever_comes_first() {
    for first in [1, 3] {
        let (artikel, mut daemon) = (articles(), daemon());
        let (owner, other) = (first, 4 - first);
        daemon.commit(&[
            (&artikel, Change::insert(article(owner, "A"))),
            (&artikel, Change::insert(article(2, "A"))),
            (&artikel, Change::insert(article(other, "B"))),
        ]);
        let mut touched = article(other, "B");
        touched[2] = "saw".into();
        // The key that it waits for is touched before the one that it leaves.
        daemon.commit(&[(&artikel, Change::update(touched)), (&artikel, Change::update(article(2, "B")))]);
        assert_eq!(daemon.held().len(), 1, "{:?}", daemon.held());
        let deltas = daemon.commit(&[(&artikel, Change::removal(Op::Delete, other, 7))]);
        assert_eq!(deltas.len(), 1, "it takes over what it waited for");
        assert_eq!(daemon.held(), Vec::<String>::new());
    }
}

#[test]
fn a_text_of_a_megabyte_in_a_key_holds_its_row_and_stops_nothing() {
    let (artikel, mut daemon) = (articles(), daemon());
    let mut long = article(1, &"x".repeat(1 << 20));
    let deltas =
        daemon.commit(&[(&artikel, Change::insert(long.clone())), (&artikel, Change::insert(article(2, "B")))]);
    assert_eq!(deltas.len(), 1);
    assert!(
        daemon.held()[0].starts_with("DQ_RANGE\nitem_id\nitem_id is longer than the 4096 bytes of a key"),
        "{:?}",
        daemon.held()
    );
    long[1] = "A".into();
    assert_eq!(daemon.commit(&[(&artikel, Change::update(long))]).len(), 1);
    assert_eq!(daemon.held(), Vec::<String>::new());
}

#[test]
fn an_expression_that_never_can_be_computed_holds_every_row_and_stops_nothing() {
    let artikel = articles();
    let sql = "SELECT 'C1' AS company_id, code AS item_id, 1 / 0 AS shelf_life_days, uom AS base_uom FROM artikel";
    let mut daemon = Daemon::new(&[("erp/item.sql", sql)]);
    let rows = [article(1, "A"), article(2, "B")].map(|row| (&artikel, Change::insert(row)));
    assert_eq!(daemon.commit(&rows), []);
    assert_eq!(daemon.held().len(), 2);
    assert!(daemon.held()[0].starts_with("DQ_EXPRESSION\nshelf_life_days\n"), "{:?}", daemon.held());
}
