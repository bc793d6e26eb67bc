//! Rows that do not go together: the trees that items lie in (domain 2.5, H1 to H6) and the conversions of an item (V18).

use std::collections::BTreeSet;

use syncline_schemas::frame::Op;
use syncline_schemas::table::TableSchema;
use syncline_transform::fold::{Exception, exceptions, held_now};

use crate::frames::{Change, Value, table};
use crate::memory::Daemon;

/// Rule and the last value of the key of what is listed.
fn listed(daemon: &Daemon) -> BTreeSet<(String, String)> {
    all(daemon)
        .into_iter()
        .map(|it| (it.rule, it.key.into_iter().nth(2).and_then(|(_, value)| value).unwrap_or_default()))
        .collect()
}

fn all(daemon: &Daemon) -> Vec<Exception> {
    let mut found = Vec::new();
    exceptions(&daemon.memory, &mut |exception| {
        found.push(exception);
        true
    })
    .expect("state can be read");
    found
}

fn pairs(wanted: &[(&str, &str)]) -> BTreeSet<(String, String)> {
    wanted.iter().map(|(rule, key)| ((*rule).to_owned(), (*key).to_owned())).collect()
}

fn nodes() -> (TableSchema, Daemon) {
    let columns = [("id", "bigint"), ("node", "text"), ("parent", "text"), ("level", "integer"), ("name", "text")];
    let sql = "SELECT 'C1' AS company_id, 'product' AS hierarchy_type, node AS node_id, parent AS parent_node_id, \
               level, name FROM knoten";
    (table("knoten", &columns), Daemon::new(&[("pim/item_hierarchy.sql", sql), ("erp/item_hierarchy.sql", sql)][1..]))
}

fn node(id: i64, name: &str, parent: &str, level: i64, title: &str) -> [Value; 5] {
    let parent = if parent.is_empty() { Value::Null } else { parent.into() };
    [id.into(), name.into(), parent, level.into(), title.into()]
}

#[test]
fn a_tree_with_every_defect_is_delivered_and_each_defect_is_listed_once() {
    let (knoten, mut daemon) = nodes();
    let good = [
        node(1, "A", "", 0, "All"),
        node(2, "B", "A", 1, "Hand tools"),
        node(3, "C", "A", 1, "Power tools"),
        node(4, "D", "B", 2, "Hammers"),
    ];
    let deltas = daemon.commit(&good.map(|row| (&knoten, Change::insert(row))));
    assert_eq!((deltas.len(), listed(&daemon)), (4, BTreeSet::new()));
    let bad = [
        node(5, "E", "A", 1, "HAND  TOOLS"),
        node(6, "F", "nowhere", 2, "Saws"),
        node(7, "G", "B", 3, "Files"),
        node(8, "H", "I", 2, "Drills"),
        node(9, "I", "H", 3, "Bits"),
    ];
    let deltas = daemon.commit(&bad.map(|row| (&knoten, Change::insert(row))));
    assert_eq!(deltas.len(), 5, "they are delivered as they are");
    let wanted = [("H2", "E"), ("H4", "F"), ("H5", "G"), ("H5", "H"), ("H3", "H")];
    assert_eq!(listed(&daemon), pairs(&wanted));
    assert!(held_now(&daemon.memory, 100).expect("state can be read").by.is_empty(), "nothing is held");
    let cycle = all(&daemon).into_iter().find(|it| it.rule == "H3").expect("listed");
    assert_eq!((cycle.reason.as_str(), cycle.entity.as_str()), ("it lies below itself: H below I", "item_hierarchy"));

    // What is mended closes by itself; what is not keeps its beginning.
    daemon.commit(&[
        (&knoten, Change::update(node(5, "E", "A", 1, "Gauges"))),
        (&knoten, Change::update(node(8, "H", "A", 1, "Drills"))),
        (&knoten, Change::update(node(9, "I", "H", 2, "Bits"))),
    ]);
    assert_eq!(listed(&daemon), pairs(&[("H4", "F"), ("H5", "G")]));
    let orphan = all(&daemon).into_iter().find(|it| it.rule == "H4").expect("listed");
    assert!(orphan.first.offset < orphan.last.offset, "{orphan:?}");
    daemon.commit(&[(&knoten, Change::removal(Op::Delete, 2, 5))]);
    assert_eq!(listed(&daemon), pairs(&[("H4", "D"), ("H4", "F"), ("H4", "G")]), "its children have lost their parent");
    daemon.commit(&[(&knoten, Change::truncate(5))]);
    assert_eq!(listed(&daemon), BTreeSet::new());
}

#[test]
fn an_item_under_two_nodes_at_once_is_listed_until_one_of_them_ends() {
    let columns = [("id", "bigint"), ("item", "text"), ("node", "text"), ("late", "integer"), ("ends", "integer")];
    let lage = table("lage", &columns);
    let sql = "SELECT 'C1' AS company_id, 'product' AS hierarchy_type, item AS item_id, node AS node_id, \
               CASE WHEN late = 1 THEN DATE '2026-06-01' ELSE DATE '2026-01-01' END AS valid_from, \
               CASE WHEN ends = 1 THEN DATE '2026-05-31' END AS valid_to FROM lage";
    let mut daemon = Daemon::new(&[("erp/item_hierarchy_member.sql", sql)]);
    let row = |id: i64, item: &str, node: &str, late: i64, ends: i64| {
        [id.into(), item.into(), node.into(), late.into(), ends.into()]
    };
    daemon.commit(&[
        (&lage, Change::insert(row(1, "X", "A", 0, 0))),
        (&lage, Change::insert(row(2, "X", "B", 1, 0))),
        (&lage, Change::insert(row(3, "Y", "A", 0, 1))),
        (&lage, Change::insert(row(4, "Y", "B", 1, 0))),
    ]);
    assert_eq!(listed(&daemon), pairs(&[("H1", "X")]));
    daemon.commit(&[(&lage, Change::update(row(1, "X", "A", 0, 1)))]);
    assert_eq!(listed(&daemon), BTreeSet::new());
}

#[test]
fn v18_conversions_that_contradict_each_other_are_named() {
    let columns = [("id", "bigint"), ("item", "text"), ("one", "text"), ("other", "text"), ("num", "numeric(14,3)")];
    let conversions = table("umr", &columns);
    let sql = "SELECT 'C1' AS company_id, item AS item_id, one AS from_uom, other AS to_uom, num FROM umr";
    let mut daemon = Daemon::new(&[("erp/uom_conversion.sql", sql)]);
    let row = |id: i64, item: &str, one: &str, other: &str, num: i64| {
        [id.into(), item.into(), one.into(), other.into(), Value::Decimal(i128::from(num) * 1_000)]
    };
    let insert = |row| (&conversions, Change::insert(row));
    daemon.commit(&[
        insert(row(1, "A", "BX", "EA", 12)),
        insert(row(2, "A", "CS", "BX", 4)),
        insert(row(3, "A", "CS", "EA", 50)),
        insert(row(4, "B", "CS", "EA", 50)),
        insert(row(5, "B", "BX", "EA", 10)),
    ]);
    let found = all(&daemon);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].rule.as_str(), found[0].key[1].1.as_deref()), ("DQ_UOM_CYCLE", Some("A")));
    assert_eq!(found[0].reason, "the other conversions from CS to EA give another number");
    daemon.commit(&[(&conversions, Change::update(row(3, "A", "CS", "EA", 48)))]);
    assert_eq!(all(&daemon), []);
}

#[test]
fn nodes_that_hold_the_same_items_are_listed_while_they_do() {
    let columns = [("id", "bigint"), ("item", "text"), ("node", "text"), ("since", "text"), ("ends", "integer")];
    let (lage, knoten) = (table("lage", &columns), table("knoten", &[("id", "bigint"), ("node", "text")]));
    let members = "SELECT 'C1' AS company_id, 'product' AS hierarchy_type, item AS item_id, node AS node_id, \
                   cast(since AS DATE) AS valid_from, CASE WHEN ends = 1 THEN DATE '2026-12-31' END AS valid_to FROM lage";
    let tree =
        "SELECT 'C1' AS company_id, 'product' AS hierarchy_type, node AS node_id, 0 AS level, node AS name FROM knoten";
    let mut daemon = Daemon::new(&[("erp/item_hierarchy_member.sql", members), ("erp/item_hierarchy.sql", tree)]);
    let row = |id: i64, item: i64, node: &str, ends: i64| {
        let since = if node == "A" { "2026-01-01" } else { "2026-02-01" };
        [id.into(), format!("X{item}").as_str().into(), node.into(), since.into(), ends.into()]
    };
    daemon.commit(&[
        (&knoten, Change::insert([1.into(), "A".into()])),
        (&knoten, Change::insert([2.into(), "B".into()])),
    ]);
    let twins = |daemon: &Daemon| -> Vec<(String, String)> {
        let found = all(daemon).into_iter().filter(|it| it.rule == "H6");
        found.map(|it| (it.key[2].1.clone().unwrap_or_default(), it.reason)).collect()
    };
    // Two items are no set, and those of one node alone share with nobody.
    let under = |node: &str, first: i64, items: std::ops::RangeInclusive<i64>| {
        items
            .map(|item| Change::insert(row(first + item, item, node, 0)))
            .map(|change| (&lage, change))
            .collect::<Vec<_>>()
    };
    daemon.commit(&under("A", 0, 1..=2));
    daemon.commit(&under("B", 1_000, 1..=2));
    assert_eq!(twins(&daemon), []);
    daemon.commit(&under("A", 0, 3..=19));
    daemon.commit(&under("B", 1_000, 3..=18));
    assert_eq!(twins(&daemon), [], "18 of 19 are 94.7 of a hundred");
    daemon.commit(&under("B", 1_000, 19..=19));
    let wanted = |reason: &str| vec![("B".to_owned(), reason.to_owned())];
    assert_eq!(twins(&daemon), wanted("it holds the items of A: 19 of 19 lie under both"));
    daemon.commit(&under("A", 0, 20..=20));
    assert_eq!(twins(&daemon), wanted("it holds the items of A: 19 of 20 lie under both"));
    daemon.commit(&[(&lage, Change::update(row(1, 1, "A", 1)))]);
    assert_eq!(twins(&daemon), [], "18 of 20: what has an end does not count");
    daemon.commit(&[(&lage, Change::update(row(1, 1, "A", 0)))]);
    assert_eq!(twins(&daemon).len(), 1);
    daemon.commit(&[(&knoten, Change::update([2.into(), "B".into()])), (&lage, Change::truncate(5))]);
    assert_eq!((twins(&daemon), all(&daemon).len()), (vec![], 0));
    let left = daemon.memory.pairs(syncline_transform::state::Space::Index);
    assert!(left.iter().all(|(key, _)| key[0] != b'N'), "no number is left of what is gone: {left:?}");
}
