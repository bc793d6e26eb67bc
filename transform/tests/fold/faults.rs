//! Mappings that do not fit: each refused with file, line, column and what would be right.

use syncline_schemas::frame::{LogEntry, Op};
use syncline_schemas::table::TableSchema;
use syncline_transform::TransformError;
use syncline_transform::fold::{Fold, foresee};
use syncline_transform::mapping::Mapping;

use crate::frames::{Change, Value, table};
use crate::memory::{Daemon, Memory, parse};

fn articles() -> TableSchema {
    let columns =
        [("id", "bigint"), ("code", "text"), ("uom", "text"), ("price", "numeric(14,3)"), ("since", "timestamp")];
    table("artikel", &columns)
}

fn refusal(sql: &str) -> String {
    let mapping = Mapping::parse("erp/item.sql", "mappings/erp/item.sql", sql);
    mapping.and_then(|mapping| mapping.check(&[articles()]).map(|_| ())).expect_err("must be refused").to_string()
}

#[test]
fn a_mapping_that_does_not_fit_its_table_is_refused_with_its_place() {
    let wanted = [
        ("uom AS base_uom,\n       colour AS abc_class", "mappings/erp/item.sql:2:8: "),
        (
            "uom AS base_uom,\n       code AS colour",
            "mappings/erp/item.sql:2:16: item has no field \"colour\"; it has company_id, ",
        ),
        (
            "uom AS base_uom, code AS lifecycle_from",
            "mappings/erp/item.sql:1:70: lifecycle_from: a Utf8 is no Date; write CAST(... AS DATE)",
        ),
        ("code AS abc_class", "mappings/erp/item.sql:1:1: item needs the field base_uom"),
        (
            "uom AS base_uom,\n  CAST(now() AS DATE) AS lifecycle_from",
            "mappings/erp/item.sql:2:26: now() gives another result at another time; a mapping may only use what the row holds",
        ),
        ("uom AS base_uom, uom AS base_uom", "mappings/erp/item.sql:1:69: base_uom is mapped twice"),
        ("uom AS base_uom, nosuch(code) AS abc_class", "mappings/erp/item.sql:1:"),
    ];
    for (items, start) in wanted {
        let refusal = refusal(&format!("SELECT 'C1' AS company_id, code AS item_id, {items} FROM artikel"));
        assert!(refusal.starts_with(start), "wanted {start:?}, got {refusal:?}");
    }
    let unknown = refusal("SELECT 'C1' AS company_id, code AS item_id, colour AS base_uom FROM artikel");
    assert!(unknown.contains("colour") && unknown.contains("uom"), "names the column and its like: {unknown}");
    let filter = refusal("SELECT 'C1' AS company_id, code AS item_id, uom AS base_uom FROM artikel\nWHERE colour = 1");
    assert!(filter.starts_with("mappings/erp/item.sql:2:7: "), "{filter}");
    let filter = refusal("SELECT 'C1' AS company_id, code AS item_id, uom AS base_uom FROM artikel\nWHERE price");
    assert!(filter.starts_with("mappings/erp/item.sql:2:7: WHERE gives Decimal128(14, 3)"), "{filter}");
}

#[test]
fn a_table_without_a_key_drives_a_mapping_and_is_not_joined() {
    let mut keyless = articles();
    keyless.columns[0].key_ordinal = None;
    let checked = |sql: &str| {
        let mapping = Mapping::parse("erp/item.sql", "mappings/erp/item.sql", sql).expect("a sound text");
        let tables = [keyless.clone(), table("bewegung", &[("id", "bigint"), ("code", "text")])];
        mapping.check(&tables).map(drop).map_err(|refusal| refusal.to_string())
    };
    assert_eq!(checked("SELECT 'C1' AS company_id, code AS item_id, uom AS base_uom FROM artikel"), Ok(()));
    let joined = "SELECT 'C1' AS company_id, a.code AS item_id, a.uom AS base_uom\nFROM bewegung b\nJOIN artikel a ON a.code = b.code";
    let refusal = checked(joined).expect_err("its rows are not told apart");
    assert!(refusal.starts_with("mappings/erp/item.sql:3:6: public.artikel has no key"), "{refusal}");
}

#[test]
fn one_mapping_never_mixes_two_tables_of_one_name() {
    let sql = "SELECT 'C1' AS company_id, code AS item_id, uom AS base_uom FROM artikel";
    let mut daemon = Daemon::new(&[("erp/item.sql", sql)]);
    let mut archive = articles();
    archive.table = syncline_schemas::ident::TableId::new("archive", "artikel");
    daemon.push(LogEntry::Schema(articles()));
    daemon.log.push(LogEntry::Schema(archive));
    let refusal = daemon.try_run().expect_err("two tables").to_string();
    assert!(
        refusal.starts_with("mappings/erp/item.sql:1:66: artikel is both public.artikel and archive.artikel"),
        "{refusal}"
    );
}

#[test]
fn a_mapping_file_changed_under_existing_state_stops_the_start() {
    let sql = "SELECT 'C1' AS company_id, code AS item_id, uom AS base_uom FROM artikel";
    let mut daemon = Daemon::new(&[("erp/item.sql", sql)]);
    let row = Change::insert([1.into(), "A".into(), "EA".into(), Value::Null, Value::Null]);
    daemon.commit(&[(&articles(), row)]);
    let open = |memory: &Memory, mappings: &[(&str, String)]| {
        let mappings: Vec<_> = mappings.iter().map(|(path, text)| ((*path).to_owned(), text.clone())).collect();
        Fold::open(7, parse(&mappings), memory.cursor(), memory).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(open(&daemon.memory, &[("erp/item.sql", sql.to_owned())]), Ok(()));
    let changed = open(&daemon.memory, &[("erp/item.sql", format!("{sql} WHERE id > 0"))]).expect_err("changed");
    assert!(changed.starts_with("mappings/erp/item.sql: was changed: the rows delivered so far"), "{changed}");
    let added = open(&daemon.memory, &[("erp/item.sql", sql.to_owned()), ("erp/item.b.sql", sql.to_owned())]);
    assert!(added.expect_err("added").starts_with("mappings/erp/item.b.sql: was added: "));
    assert!(open(&daemon.memory, &[]).expect_err("removed").starts_with("erp/item: was removed: "));
}

#[test]
fn an_open_end_far_in_the_future_is_a_value_like_any_other() {
    let sql = "SELECT 'C1' AS company_id, code AS movement_id, 'A' AS item_id, 'W1' AS location_id, 'count' AS movement_type, \
               price AS qty_delta, CAST(since AS DATE) AS posting_date, since AS event_ts FROM artikel";
    let mut daemon = Daemon::new(&[("erp/inventory_movement.sql", sql)]);
    let end = 253_402_214_400_000_000_i64;
    let row = [1.into(), "m".into(), "EA".into(), Value::Decimal(1_000), end.into()];
    let deltas = daemon.commit(&[(&articles(), Change::insert(row))]);
    assert_eq!(deltas[0].get("posting_date"), Some("9999-12-31"));
    assert_eq!(deltas[0].get("event_ts"), Some("9999-12-31T00:00:00Z"));
}

#[test]
fn a_batch_that_contradicts_itself_is_an_error_and_never_a_panic() {
    let sql = "SELECT 'C1' AS company_id, code AS item_id, uom AS base_uom FROM artikel";
    let artikel = articles();
    let torn = [
        Change::removal(Op::MoveOut, 1, 5),
        Change::truncate(5),
        Change { absent: vec![1], ..Change::removal(Op::MoveIn, 2, 5) },
    ];
    let mut daemon = Daemon::new(&[("erp/item.sql", sql)]);
    let changes: Vec<_> = torn.into_iter().map(|change| (&artikel, change)).collect();
    assert_eq!(daemon.commit(&changes), []);
    assert!(daemon.held()[0].starts_with("DQ_ABSENT\n"), "{:?}", daemon.held());
}

#[test]
fn a_shape_that_the_mappings_cannot_go_on_with_is_foreseen() {
    let sql = "SELECT 'C1' AS company_id, code AS item_id, uom AS base_uom FROM artikel";
    let mut daemon = Daemon::new(&[("erp/item.sql", sql)]);
    let mappings = || parse(&[("erp/item.sql".to_owned(), sql.to_owned())]);
    let shape = |columns: &[(&str, &str)]| table("artikel", columns);
    let wider = shape(&[("id", "bigint"), ("code", "text"), ("uom", "text"), ("more", "text")]);
    let narrower = shape(&[("id", "bigint"), ("code", "text")]);
    let other_key = shape(&[("code", "text"), ("id", "bigint"), ("uom", "text")]);
    // Nothing is folded yet, but the log may hold a shape already.
    assert!(foresee(mappings(), Some(&articles()), &wider, &daemon.memory).is_ok());
    let fault = foresee(mappings(), Some(&articles()), &other_key, &daemon.memory);
    assert!(matches!(fault, Err(TransformError::KeyChanged { .. })), "{fault:?}");
    assert!(foresee(mappings(), None, &other_key, &daemon.memory).is_ok());
    daemon.push(LogEntry::Schema(articles()));
    let (cursor, catalog) = (daemon.memory.cursor(), daemon.memory.pairs(syncline_transform::state::Space::Catalog));
    assert!(foresee(mappings(), None, &wider, &daemon.memory).is_ok());
    assert!(matches!(foresee(mappings(), None, &narrower, &daemon.memory), Err(TransformError::Mapping(_))));
    let fault = foresee(mappings(), None, &other_key, &daemon.memory).expect_err("another key").to_string();
    assert!(fault.contains("its key (id) is another one now (code)"), "{fault}");
    assert!(foresee(mappings(), None, &table("other", &[("x", "text")]), &daemon.memory).is_ok());
    assert_eq!(daemon.memory.cursor(), cursor);
    assert_eq!(daemon.memory.pairs(syncline_transform::state::Space::Catalog), catalog);
}
