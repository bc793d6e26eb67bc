//! Rules and derived fields as the definitions write them, each on one row that is sound but for one value.

use crate::frames::{Change, Value, frame, table};
use crate::memory::Daemon;

/// What becomes of one row: the rule that holds it, `warned` or `sound`.
fn outcome(entity: &str, row: &str) -> String {
    outcome_under("", entity, row)
}

/// The same under a mapping with comments of its own.
fn outcome_under(comments: &str, entity: &str, row: &str) -> String {
    let source = table("source", &[("id", "bigint")]);
    let (file, text) = (format!("erp/{entity}.sql"), format!("{comments}\nSELECT {row} FROM source"));
    let mut daemon = Daemon::new(&[(&file, &text)]);
    daemon.log.push(frame(&[(&source, Change::insert([1.into()]))], true));
    let stats = daemon.run();
    match daemon.held().first().and_then(|held| held.split('\n').next()) {
        Some(rule) => rule.to_owned(),
        None if stats.warnings > 0 => "warned".to_owned(),
        None => "sound".to_owned(),
    }
}

/// An entity, a sound row of it, and what changes of it come to.
type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str, &'a str)]);

const MASTERS: &[Case<'static>] = &[
    ("uom", "'EA' AS uom_code, 'count' AS dimension, 0 AS decimals", &[("0 AS", "10 AS", "DQ_RANGE")]),
    (
        "calendar",
        "'DE' AS calendar_id, DATE '2026-03-02' AS date, true AS is_working, 0.5 AS capacity, 360 AS open_minute, \
         1560 AS close_minute",
        &[
            ("0.5 AS", "-0.5 AS", "DQ_RANGE"),
            ("360 AS", "1440 AS", "DQ_RANGE"),
            ("1560 AS", "2881 AS", "DQ_RANGE"),
            ("1560 AS", "360 AS", "warned"),
        ],
    ),
    (
        "exchange_rate",
        "'spot' AS rate_type, 'EUR' AS from_ccy, 'USD' AS to_ccy, DATE '2026-03-02' AS valid_from, 1.0834 AS rate",
        &[("1.0834", "0", "DQ_RANGE"), ("1.0834", "-1", "DQ_RANGE"), ("'USD'", "'EUR'", "DQ_DOMAIN")],
    ),
    (
        "item_hierarchy",
        "'C1' AS company_id, 'product' AS hierarchy_type, 'N2' AS node_id, 'N1' AS parent_node_id, 1 AS level",
        &[
            ("'N1'", "'N2'", "warned"),
            ("'N1'", "''", "warned"),
            ("'N1'", "NULL", "warned"),
            ("1 AS level", "0 AS level", "warned"),
            ("'N1' AS parent_node_id, 1 AS", "NULL AS parent_node_id, 0 AS", "sound"),
            (", 1 AS level", "", "sound"),
        ],
    ),
    (
        "item_location",
        "'C1' AS company_id, 'A' AS item_id, 'W1' AS location_id, 4 AS reorder_point, 9 AS max_qty, 'W2' AS sourcing_location_id",
        &[("4 AS", "-1 AS", "DQ_RANGE"), ("9 AS", "3 AS", "warned"), ("'W2'", "'W1'", "warned")],
    ),
    (
        "price",
        "'C1' AS company_id, 'retail' AS price_list, 'A' AS item_id, 'EA' AS uom, 'EUR' AS currency, 9.99 AS unit_price, \
         DATE '2026-03-02' AS valid_from, DATE '2026-03-02' AS valid_to",
        &[("9.99", "-1", "DQ_RANGE"), ("02' AS valid_to", "01' AS valid_to", "warned")],
    ),
    (
        "promotion",
        "'C1' AS company_id, 'P1' AS promo_id, 'A' AS item_id, DATE '2026-03-02' AS start_date, DATE '2026-03-09' AS end_date, \
         20 AS discount_pct, 0.3 AS expected_uplift, 'planned' AS status",
        &[
            ("20 AS", "101 AS", "DQ_RANGE"),
            ("0.3", "-1.1", "DQ_RANGE"),
            ("03-09", "03-01", "warned"),
            ("'planned'", "'perhaps'", "DQ_DOMAIN"),
        ],
    ),
];

const DOCUMENTS: &[Case<'static>] = &[
    (
        "demand_signal",
        "'C1' AS company_id, 'A' AS item_id, 'W1' AS location_id, DATE '2026-03-02' AS bucket_date, 'return' AS demand_type, 5 AS qty",
        &[("5 AS", "-5 AS", "warned"), ("'return'", "'refund'", "DQ_DOMAIN")],
    ),
    (
        "supplier_confirmation",
        "'C1' AS company_id, '1' AS po_id, '1' AS line_id, '1' AS confirmation_id, 5 AS qty_confirmed, \
         'substituted' AS code, 'B' AS substitute_item_id",
        &[("5 AS", "-5 AS", "DQ_RANGE"), ("'B'", "NULL", "warned"), ("'B'", "''", "warned")],
    ),
    (
        "transfer_order",
        "'C1' AS company_id, '1' AS transfer_id, 'W1' AS from_location_id, 'W2' AS to_location_id, 'open' AS status, \
         DATE '2026-03-02' AS ship_date, DATE '2026-03-04' AS receipt_date",
        &[("'W2'", "'W1'", "warned"), ("03-04", "03-01", "warned")],
    ),
    (
        "transfer_order_line",
        "'C1' AS company_id, '1' AS transfer_id, '1' AS line_id, 'A' AS item_id, 'W1' AS from_location_id, \
         'W2' AS to_location_id, 9 AS qty_ordered, 7 AS qty_shipped, 4 AS qty_received, 'partial' AS status",
        &[("7 AS", "-7 AS", "DQ_RANGE"), ("9 AS", "6 AS", "warned"), ("4 AS", "8 AS", "warned")],
    ),
    (
        "shipment",
        "'C1' AS company_id, '1' AS shipment_id, 'out' AS direction, 'packed' AS status, 5 AS qty, \
         TIMESTAMP '2026-03-02 08:00:00' AS etd, TIMESTAMP '2026-03-03 08:00:00' AS eta",
        &[("5 AS", "-5 AS", "DQ_RANGE"), ("03-03", "03-01", "warned")],
    ),
    (
        "forecast",
        "'C1' AS company_id, 'A' AS item_id, 'W1' AS location_id, DATE '2026-03-02' AS bucket_start, 'week' AS bucket_type, \
         50 AS qty, 40 AS qty_low, 60 AS qty_high",
        &[("50 AS", "-50 AS", "warned"), ("40 AS", "51 AS", "warned"), ("60 AS", "49 AS", "warned")],
    ),
    (
        "safety_stock",
        "'C1' AS company_id, 'A' AS item_id, 'W1' AS location_id, 5 AS qty, 0.95 AS service_level",
        &[("5 AS qty", "-5 AS qty", "DQ_RANGE"), ("0.95", "95", "DQ_RANGE")],
    ),
    (
        "replenishment_recommendation",
        "'C1' AS company_id, '1' AS recommendation_id, 'transfer' AS type, 'A' AS item_id, 'W1' AS location_id, \
         'W2' AS source_location_id, 5 AS qty, DATE '2026-03-09' AS due_date, 'approved' AS status, \
         TIMESTAMP '2026-03-02 08:00:00' AS recommended_at, TIMESTAMP '2026-03-03 08:00:00' AS approved_at",
        &[("5 AS", "-5 AS", "DQ_RANGE"), ("'W2'", "'W1'", "warned"), ("03-03", "03-01", "warned")],
    ),
];

#[test]
fn one_wrong_value_breaks_the_rule_that_is_about_it() {
    for (entity, row, changes) in MASTERS.iter().chain(DOCUMENTS) {
        assert_eq!(outcome(entity, row), "sound", "{entity}: {row}");
        for (from, to, wanted) in *changes {
            assert!(row.contains(from), "{entity}: {from}");
            assert_eq!(outcome(entity, &row.replacen(from, to, 1)), *wanted, "{entity}: {to} instead of {from}");
        }
    }
}

#[test]
fn what_was_shipped_and_not_received_is_in_transit() {
    let source = table("source", &[("id", "bigint"), ("shipped", "bigint"), ("received", "bigint")]);
    let sql = "SELECT 'C1' AS company_id, '1' AS transfer_id, '1' AS line_id, 'A' AS item_id, 'W1' AS from_location_id, \
               'W2' AS to_location_id, 9 AS qty_ordered, shipped AS qty_shipped, received AS qty_received, \
               'partial' AS status FROM source";
    let mut daemon = Daemon::new(&[("erp/transfer_order_line.sql", sql)]);
    daemon.commit(&[(&source, Change::insert([1.into(), 0.into(), 0.into()]))]);
    for (shipped, received, wanted) in [(7, 0, "7"), (7, 4, "3"), (7, 8, "0")] {
        let deltas = daemon.commit(&[(&source, Change::update([1.into(), shipped.into(), received.into()]))]);
        let in_transit: Vec<&str> = deltas.iter().map(|delta| delta.quantity("qty_in_transit")).collect();
        assert_eq!(in_transit, [wanted], "{shipped} shipped, {received} received");
    }
}

#[test]
fn a_rule_does_what_its_mapping_says_and_not_what_its_entity_says() {
    let item = "'C1' AS company_id, 'A' AS item_id, 'EA' AS base_uom";
    let (range, domain) = (format!("{item}, -1 AS shelf_life_days"), format!("{item}, 'A' AS superseded_by"));
    let large = format!("{item}, CAST(12345678901234567890123 AS DECIMAL(38, 0)) AS unit_cost");
    for (row, rule, word, wanted) in [
        (&range, "DQ_RANGE", "reject", "DQ_RANGE"),
        (&range, "DQ_RANGE", "warn", "warned"),
        (&range, "DQ_RANGE", "ignore", "sound"),
        (&range, "DQ_RANGE", "fix", "DQ_RANGE"),
        (&domain, "DQ_DOMAIN", "warn", "warned"),
        (&domain, "DQ_DOMAIN", "reject", "DQ_DOMAIN"),
        (&domain, "DQ_DOMAIN", "ignore", "sound"),
        (&domain, "DQ_DOMAIN", "fix", "warned"),
        (&large, "DQ_OVERFLOW", "reject", "DQ_OVERFLOW"),
        (&large, "DQ_OVERFLOW", "fix", "warned"),
    ] {
        assert_eq!(outcome_under(&format!("-- @rule {rule} = {word}"), "item", row), wanted, "{rule} {word}");
    }
}

#[test]
fn a_value_that_is_put_right_does_not_hide_one_that_is_missing() {
    let artikel = table("artikel", &[("id", "bigint"), ("code", "text"), ("kind", "text"), ("uom", "text")]);
    let sql = "-- @rule DQ_DOMAIN = fix\n\
               SELECT 'C1' AS company_id, code AS item_id, kind AS item_type, uom AS base_uom FROM artikel";
    let mut daemon = Daemon::new(&[("erp/item.sql", sql)]);
    let row = |id: i64, uom: Value| [id.into(), Value::Text(format!("A{id}")), "weird".into(), uom];
    let deltas = daemon
        .commit(&[(&artikel, Change::insert(row(1, Value::Null))), (&artikel, Change::insert(row(2, "EA".into())))]);
    assert_eq!(deltas.iter().map(|delta| delta.get("item_type")).collect::<Vec<_>>(), [Some("stock")]);
    assert_eq!(daemon.held().len(), 1, "{:?}", daemon.held());
    assert!(daemon.held()[0].starts_with("DQ_REQUIRED\nbase_uom\n"), "{:?}", daemon.held());
}
