//! Where a canonical row is from: its driving row, what was joined to it, and the log entries of both.

use syncline_schemas::frame::{LogEntry, Op};
use syncline_schemas::ident::LogOffset;
use syncline_schemas::table::TableSchema;
use syncline_transform::TransformError;
use syncline_transform::fold::{Fold, Found, Given, Lookup, SourceRow, Sources, given, positions};
use syncline_transform::state::{Cursor, Space};

use crate::frames::{Change, table};
use crate::memory::{Daemon, EPOCH, parse};

const BALANCE: &str = "SELECT 'C1' AS company_id, a.code AS item_id, coalesce(p.town, '-') AS location_id, \
                       u.qty AS on_hand FROM unit u JOIN art a ON a.id = u.art LEFT JOIN place p ON p.code = u.place";

fn tables() -> [TableSchema; 3] {
    [
        table("unit", &[("id", "bigint"), ("art", "bigint"), ("place", "text"), ("qty", "bigint"), ("seen", "bigint")]),
        table("art", &[("id", "bigint"), ("code", "text"), ("seen", "bigint")]),
        table("place", &[("id", "bigint"), ("code", "text"), ("town", "text")]),
    ]
}

fn only(daemon: &Daemon) -> (Given, Vec<Lookup>) {
    let mut all = Vec::new();
    let known = given(&daemon.memory, "erp/inventory_balance", &mut |row| {
        all.push(row);
        true
    });
    assert!(known.expect("state reads"));
    let row = all.pop().expect("a row");
    let sources = Sources::read(&daemon.memory).expect("state reads");
    let lookups = sources.lookups(&row.mapping, &row.source_row).expect("state reads");
    (row, lookups)
}

fn text(row: &SourceRow) -> String {
    let key: Vec<String> =
        row.key.iter().map(|(name, value)| format!("{name}={}", value.as_deref().unwrap_or("null"))).collect();
    format!("{}.{} {} @{}", row.source, row.table, key.join(" "), row.at.0)
}

#[test]
fn a_row_is_traced_to_its_source_rows_and_never_to_an_entry_that_changed_nothing_of_them() {
    let [unit, art, place] = tables();
    let mut daemon = Daemon::new(&[("erp/inventory_balance.sql", BALANCE)]);
    daemon.commit(&[(&art, Change::insert([7.into(), "A".into(), 0.into()]))]);
    daemon.commit(&[(&place, Change::insert([1.into(), "north".into(), "Oslo".into()]))]);
    daemon.commit(&[(&unit, Change::insert([5.into(), 7.into(), "north".into(), 3.into(), 0.into()]))]);
    // What no mapping reads.
    daemon.commit(&[(&unit, Change::update([5.into(), 7.into(), "north".into(), 3.into(), 1.into()]))]);
    daemon.commit(&[(&art, Change::update([7.into(), "A".into(), 1.into()]))]);
    let (row, found) = only(&daemon);
    assert_eq!(text(&row.source_row), "erp.public.unit id=5 @3");
    let [item, town] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(item.table, "erp.public.art");
    assert_eq!(item.wanted, [("id".to_owned(), Some("7".to_owned()))]);
    let Found::Row(from, values) = &item.found else { panic!("{item:?}") };
    assert_eq!(text(from), "erp.public.art id=7 @1");
    assert!(values.contains(&("code".to_owned(), Some("A".to_owned()))), "{values:?}");
    assert_eq!(town.wanted, [("code".to_owned(), Some("north".to_owned()))]);
    assert!(matches!(&town.found, Found::Row(from, _) if text(from) == "erp.public.place id=1 @2"), "{town:?}");
    let LogEntry::Frame(frame) = &daemon.log[2] else { panic!("no frame") };
    let found = |frame| positions(frame, [row.source_row.clone()].into()).expect("it reads");
    assert!(!found(frame)[&row.source_row].position.is_empty());
    let LogEntry::Frame(frame) = &daemon.log[1] else { panic!("no frame") };
    assert!(found(frame).is_empty(), "another table's frame");

    daemon.commit(&[(&place, Change::update([1.into(), "north".into(), "Bergen".into()]))]);
    let (row, found) = only(&daemon);
    assert_eq!(text(&row.source_row), "erp.public.unit id=5 @3", "a joined row changed, not this one");
    assert!(matches!(&found[1].found, Found::Row(from, _) if from.at == LogOffset(6)), "{found:?}");
    daemon.commit(&[(&place, Change::insert([2.into(), "north".into(), "Narvik".into()]))]);
    assert_eq!(only(&daemon).1[1].found, Found::Several, "none of them is joined");
    daemon.commit(&[(&place, Change::removal(Op::Delete, 2, 3))]);
    daemon.commit(&[(&place, Change::removal(Op::Delete, 1, 3))]);
    let (_, found) = only(&daemon);
    assert_eq!(found[1].found, Found::Nothing, "looked for and not there");
    assert_eq!(found[1].wanted, [("code".to_owned(), Some("north".to_owned()))]);
}

#[test]
fn a_state_that_another_version_wrote_is_never_read_as_our_own() {
    let [unit, ..] = tables();
    let mapping = "SELECT 'C1' AS company_id, place AS item_id, 'X' AS location_id, qty AS on_hand FROM unit";
    let mut daemon = Daemon::new(&[("erp/inventory_balance.sql", mapping)]);
    daemon.commit(&[(&unit, Change::insert([5.into(), 7.into(), "north".into(), 3.into(), 0.into()]))]);
    let open = |daemon: &Daemon, cursor: Cursor| {
        let mappings = parse(&[("erp/inventory_balance.sql".to_owned(), mapping.to_owned())]);
        Fold::open(EPOCH, mappings, cursor, &daemon.memory).map(|_| ())
    };
    assert!(open(&daemon, daemon.memory.cursor()).is_ok());
    for other in [None, Some(vec![0; 12])] {
        daemon.memory.write(vec![(Space::Catalog, b"format".to_vec(), other)]);
        let refused = open(&daemon, daemon.memory.cursor());
        assert!(matches!(refused, Err(TransformError::OtherFormat)), "{refused:?}");
    }
}
