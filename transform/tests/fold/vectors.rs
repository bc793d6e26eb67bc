//! Golden vectors of the domain, as far as mappings over one table can show them. Numbers in the names are theirs.

use syncline_schemas::frame::Op;
use syncline_schemas::table::TableSchema;

use crate::frames::{Change, Value, table};
use crate::memory::Daemon;
use crate::outbox::Delta;

fn units(units: i64) -> Value {
    Value::Decimal(i128::from(units) * 1_000)
}

fn balances(deltas: &[Delta], field: &str) -> Vec<String> {
    deltas.iter().map(|delta| delta.quantity(field).to_owned()).collect()
}

fn quants() -> (TableSchema, Daemon) {
    let quant = table("quant", &[("id", "bigint"), ("qty", "numeric(14,3)"), ("res", "numeric(14,3)")]);
    let sql =
        "SELECT 'C1' AS company_id, 'A' AS item_id, 'W1' AS location_id, qty AS on_hand, res AS reserved FROM quant";
    (quant, Daemon::new(&[("erp/inventory_balance.sql", sql)]))
}

fn quant(id: i64, quantity: i64, reserved: i64) -> [Value; 3] {
    [id.into(), units(quantity), units(reserved)]
}

#[test]
fn v1_on_hand_of_d365_is_computed_from_its_five_columns() {
    let names = ["recid", "postedqty", "received", "deducted", "registered", "picked", "reservphysical"];
    let columns: Vec<_> =
        names.iter().enumerate().map(|(i, name)| (*name, if i == 0 { "bigint" } else { "numeric(14,3)" })).collect();
    let inventsum = table("inventsum", &columns);
    let sql = "SELECT 'C1' AS company_id, 'A' AS item_id, 'W1' AS location_id, reservphysical AS reserved, picked AS picked, \
               postedqty + received - deducted + registered - picked AS on_hand FROM inventsum";
    let mut daemon = Daemon::new(&[("erp/inventory_balance.sql", sql)]);
    let row = [1.into(), units(100), units(20), units(5), units(3), units(8), units(10)];
    let deltas = daemon.commit(&[(&inventsum, Change::insert(row))]);
    for (field, wanted) in [("on_hand", "110"), ("picked", "8"), ("reserved", "10"), ("available", "100")] {
        assert_eq!(balances(&deltas, field), [wanted], "{field}");
    }
}

#[test]
fn v2_stock_types_of_s4_land_in_their_own_measures() {
    let matdoc = table("matdoc", &[("id", "bigint"), ("lbbsa", "text"), ("qty", "numeric(14,3)")]);
    let resb = table("resb", &[("id", "bigint"), ("qty", "numeric(14,3)")]);
    let stock = "SELECT 'C1' AS company_id, 'A' AS item_id, 'W1' AS location_id, qty AS on_hand, \
                 CASE WHEN lbbsa = '02' THEN qty ELSE 0 END AS quality_hold, CASE WHEN lbbsa = '07' THEN qty ELSE 0 END AS blocked \
                 FROM matdoc";
    let open = "SELECT 'C1' AS company_id, 'A' AS item_id, 'W1' AS location_id, qty AS reserved FROM resb";
    let mut daemon =
        Daemon::new(&[("erp/inventory_balance.stock.sql", stock), ("erp/inventory_balance.open.sql", open)]);
    let document =
        |id: i64, kind: &str, quantity: i64| (&matdoc, Change::insert([id.into(), kind.into(), units(quantity)]));
    let deltas = daemon.commit(&[
        document(1, "01", 50),
        document(2, "01", -10),
        document(3, "02", 5),
        document(4, "07", 2),
        (&resb, Change::insert([1.into(), units(6)])),
    ]);
    let wanted = [("on_hand", "47"), ("quality_hold", "5"), ("blocked", "2"), ("reserved", "6"), ("available", "34")];
    for (field, wanted) in wanted {
        assert_eq!(balances(&deltas, field), [wanted], "{field}");
    }
}

/// A stock table whose quantity is computed by `on_hand`, which holds one row of `values` after its id.
fn computed(columns: &[(&str, &str)], on_hand: &str, values: Vec<Value>) -> Vec<String> {
    let mut with_id = vec![("id", "bigint")];
    with_id.extend(columns);
    let stock = table("stock", &with_id);
    let sql =
        format!("SELECT 'C1' AS company_id, 'A' AS item_id, 'W1' AS location_id, {on_hand} AS on_hand FROM stock s");
    let mut daemon = Daemon::new(&[("erp/inventory_balance.sql", &sql)]);
    let row: Vec<Value> = [1.into()].into_iter().chain(values).collect();
    let deltas = daemon.commit(&[(&stock, Change::new(Op::Insert, row))]);
    if deltas.is_empty() { daemon.held() } else { balances(&deltas, "on_hand") }
}

#[test]
fn v3_alternative_units_of_sap_times_numerator_by_denominator() {
    let columns = [("menge", "numeric(14,3)"), ("umrez", "integer"), ("umren", "integer")];
    let pieces =
        |umren: i64| computed(&columns, "convert(s.menge, s.umrez, s.umren)", vec![units(5), 3.into(), umren.into()]);
    assert_eq!(pieces(5), ["3"]);
    let held = "DQ_RANGE\non_hand\non_hand: no unit conversion: the denominator is zero\n";
    assert!(pieces(0)[0].starts_with(held), "{:?}", pieces(0));
}

#[test]
fn v4_and_v5_a_dozen_of_odoo_is_twelve_whatever_its_column_means() {
    let columns = [("qty", "numeric(14,3)"), ("factor", "double precision")];
    let before_19 = vec![units(3), "0.08333333333333333".into()];
    assert_eq!(computed(&columns, "divide_exact(s.qty, s.factor)", before_19), ["36"]);
    let from_19 = vec![units(3), "12".into()];
    assert_eq!(computed(&columns, "multiply_exact(s.qty, s.factor)", from_19), ["36"]);
}

#[test]
fn v6_quants_merged_in_one_transaction_show_no_change() {
    let (table, mut daemon) = quants();
    let deltas = daemon.commit(&[(&table, Change::insert(quant(1, 10, 2))), (&table, Change::insert(quant(2, 5, 1)))]);
    assert_eq!((balances(&deltas, "on_hand"), balances(&deltas, "reserved")), (vec!["15".into()], vec!["3".into()]));
    let merge = [(&table, Change::update(quant(1, 15, 3))), (&table, Change::removal(Op::Delete, 2, 3))];
    assert_eq!(daemon.commit(&merge), []);
}

#[test]
fn v7_an_issue_that_eats_up_a_stack_row_is_one_record() {
    let (table, mut daemon) = quants();
    daemon.commit(&[(&table, Change::insert(quant(1, 30, 0))), (&table, Change::insert(quant(2, 20, 0)))]);
    let deltas =
        daemon.commit(&[(&table, Change::removal(Op::Delete, 1, 3)), (&table, Change::update(quant(2, 15, 0)))]);
    assert_eq!(balances(&deltas, "on_hand"), ["15"]);
}

#[test]
fn v8_compensated_reservations_vanish_without_a_change() {
    let reservation = table("reservation", &[("id", "bigint"), ("qty", "numeric(14,3)")]);
    let sql = "SELECT 'C1' AS company_id, 'A' AS item_id, 'W1' AS location_id, -qty AS reserved FROM reservation";
    let mut daemon = Daemon::new(&[("erp/inventory_balance.sql", sql)]);
    for (id, quantity, wanted) in [(1, -25, "25"), (2, 5, "20"), (3, 20, "0")] {
        let deltas = daemon.commit(&[(&reservation, Change::insert([id.into(), units(quantity)]))]);
        assert_eq!(balances(&deltas, "reserved"), [wanted]);
    }
    let clean: Vec<_> = (1..4).map(|id| (&reservation, Change::removal(Op::Delete, id, 2))).collect();
    assert_eq!(daemon.commit(&clean), []);
}

#[test]
fn v9_a_renamed_posting_stays_one_movement() {
    let names = table("sle", &[("name", "text"), ("creation_id", "text"), ("qty", "numeric(14,3)")]);
    let sql = "SELECT 'C1' AS company_id, creation_id AS movement_id, 'A' AS item_id, 'W1' AS location_id, \
               'adjust_gain' AS movement_type, qty AS qty_delta, DATE '2026-03-01' AS posting_date FROM sle";
    let mut daemon = Daemon::new(&[("erp/inventory_movement.sql", sql)]);
    let row = |name: &str| vec![name.into(), "m-1".into(), units(3)];
    assert_eq!(daemon.commit(&[(&names, Change::new(Op::Insert, row("a8f3")))]).len(), 1);
    let old = Change::new(Op::MoveOut, vec!["a8f3".into(), Value::Null, Value::Null]);
    assert_eq!(daemon.commit(&[(&names, old), (&names, Change::new(Op::MoveIn, row("SLE-0001")))]), []);
}

#[test]
fn v11_an_order_handed_over_from_shop_to_erp_counts_once() {
    let shop = table("shop_line", &[("ref", "bigint"), ("qty", "numeric(14,3)")]);
    let columns = [("id", "bigint"), ("ext_ref", "bigint"), ("qty", "numeric(14,3)"), ("cancelled", "numeric(14,3)")];
    let erp = table("erp_line", &columns);
    let demand = |qty: &str, from: &str| {
        format!(
            "SELECT 'C1' AS company_id, 'A' AS item_id, 'W1' AS location_id, 'web' AS channel, {qty} AS qty, \
             DATE '2026-03-02' AS bucket_date, 'order' AS demand_type FROM {from}"
        )
    };
    let unclaimed = demand("s.qty", "shop_line s LEFT JOIN erp_line e ON e.ext_ref = s.ref WHERE e.id IS NULL");
    let own = demand("e.qty - e.cancelled", "erp_line e");
    let line = "SELECT 'C1' AS company_id, cast(e.id AS VARCHAR) AS order_id, '1' AS line_id, 'A' AS item_id, \
                'W1' AS location_id, e.qty AS qty_ordered, e.cancelled AS qty_cancelled, \
                CASE WHEN e.qty = e.cancelled THEN 'cancelled' ELSE 'open' END AS status FROM erp_line e";
    let mut daemon = Daemon::new(&[
        ("erp/demand_signal.shop.sql", unclaimed.as_str()),
        ("erp/demand_signal.erp.sql", own.as_str()),
        ("erp/sales_order_line.sql", line),
    ]);
    let of = |deltas: &[Delta], entity: &str, field: &str| -> Vec<String> {
        let of_entity: Vec<Delta> = deltas.iter().filter(|delta| delta.entity == entity).cloned().collect();
        balances(&of_entity, field)
    };
    let row = |quantity: i64, cancelled: i64| [7.into(), 1001.into(), units(quantity), units(cancelled)];
    // A mapping gives nothing before each of its tables has been seen.
    daemon.commit(&[(&erp, Change::insert([6.into(), 1000.into(), units(0), units(0)]))]);
    daemon.commit(&[(&erp, Change::removal(Op::Delete, 6, 4))]);
    let ordered = daemon.commit(&[(&shop, Change::insert([1001.into(), units(5)]))]);
    assert_eq!(of(&ordered, "demand_signal", "qty"), ["5"]);
    let claimed = daemon.commit(&[(&erp, Change::insert(row(5, 0)))]);
    assert!(of(&claimed, "demand_signal", "qty").is_empty(), "the claim and the end of the shop's count are one");
    let changed = daemon.commit(&[(&erp, Change::update(row(4, 0)))]);
    assert_eq!(of(&changed, "demand_signal", "qty"), ["4"]);
    let cancelled = daemon.commit(&[(&erp, Change::update(row(4, 4)))]);
    assert_eq!(of(&cancelled, "demand_signal", "qty"), ["0"]);
    assert_eq!(of(&cancelled, "sales_order_line", "qty_cancelled"), ["4"]);
    let unclaimed = daemon.commit(&[(&erp, Change::removal(Op::Delete, 7, 4))]);
    assert_eq!(of(&unclaimed, "demand_signal", "qty"), ["5"], "an ERP that forgets the order leaves it to the shop");
}

#[test]
fn v12_the_last_quant_gone_is_an_upsert_of_zero() {
    let (table, mut daemon) = quants();
    let first = daemon.commit(&[(&table, Change::insert(quant(1, 10, 2)))]);
    let last = daemon.commit(&[(&table, Change::removal(Op::Delete, 1, 3))]);
    assert_eq!((balances(&last, "on_hand"), balances(&last, "available")), (vec!["0".into()], vec!["0".into()]));
    assert!(last[0].version > first[0].version);
}

#[test]
fn v14_a_local_time_that_comes_twice_is_the_first_of_the_two() {
    let postings = table("postings", &[("id", "text"), ("booked", "timestamp"), ("zone", "text")]);
    let sql = "SELECT 'C1' AS company_id, id AS movement_id, 'A' AS item_id, 'W1' AS location_id, \
               CASE WHEN is_ambiguous_local(booked, zone) THEN 'adjust_loss' ELSE 'adjust_gain' END AS movement_type, \
               CASE WHEN is_ambiguous_local(booked, zone) THEN -1 ELSE 1 END AS qty_delta, \
               CAST(booked AS DATE) AS posting_date, local_to_utc(booked, zone) AS event_ts FROM postings";
    let mut daemon = Daemon::new(&[("erp/inventory_movement.sql", sql)]);
    let posting = |id: &str, zone: &str| {
        (&postings, Change::new(Op::Insert, vec![id.into(), 1_792_895_400_000_000.into(), zone.into()]))
    };
    let deltas = daemon.commit(&[posting("a", "Europe/Berlin"), posting("b", "UTC"), posting("c", "Berlin")]);
    let seen: Vec<_> = deltas.iter().map(|delta| (delta.get("movement_type"), delta.get("event_ts"))).collect();
    let wanted =
        [(Some("adjust_loss"), Some("2026-10-25T00:30:00Z")), (Some("adjust_gain"), Some("2026-10-25T02:30:00Z"))];
    assert_eq!(seen, wanted);
    assert_eq!(daemon.held().len(), 1, "{:?}", daemon.held());
    assert!(
        daemon.held()[0].starts_with("DQ_DOMAIN\n") && !daemon.held()[0].contains("'Berlin'"),
        "{:?}",
        daemon.held()
    );
}

#[test]
fn v16_a_converted_quantity_beyond_the_field_is_held_too() {
    let held = computed(&[("qty", "text")], "convert(s.qty, 1, 1)", vec!["1e20".into()]);
    assert!(held[0].starts_with("DQ_OVERFLOW\non_hand\n"), "{held:?}");
    assert!(!held[0].contains("1e20"), "{held:?}");
}

#[test]
fn v17_a_wrong_check_digit_holds_its_row_alone() {
    let codes = table("codes", &[("id", "bigint"), ("ean", "text")]);
    let sql = "SELECT 'C1' AS company_id, 'A' AS item_id, 'GTIN' AS scheme, gtin14(ean) AS value FROM codes";
    let mut daemon = Daemon::new(&[("erp/item_identifier.sql", sql)]);
    let code = |id: i64, ean: &str| (&codes, Change::insert([id.into(), ean.into()]));
    let deltas = daemon.commit(&[code(1, "6291041500214"), code(2, "6291041500213")]);
    assert_eq!(deltas.iter().map(|delta| delta.get("value")).collect::<Vec<_>>(), [Some("06291041500213")]);
    assert!(daemon.held()[0].starts_with("DQ_GTIN_CHECK\nvalue\nvalue: no valid GTIN"), "{:?}", daemon.held());
}

#[test]
fn v15_a_late_posting_changes_the_day_it_belongs_to() {
    let sales = table("sales", &[("id", "bigint"), ("qty", "numeric(14,3)"), ("late", "bigint")]);
    let sql = "SELECT 'C1' AS company_id, 'A' AS item_id, 'W1' AS location_id, 'pos' AS demand_type, qty, \
               CASE WHEN late = 3 THEN DATE '2026-02-27' ELSE DATE '2026-03-02' END AS bucket_date FROM sales";
    let mut daemon = Daemon::new(&[("erp/demand_signal.sql", sql)]);
    let sale = |id: i64, quantity: i64, late: i64| (&sales, Change::insert([id.into(), units(quantity), late.into()]));
    let first = daemon.commit(&[sale(1, 8, 3), sale(2, 6, 0)]);
    assert_eq!(first.iter().map(|delta| delta.get("revision")).collect::<Vec<_>>(), [Some("0"), Some("0")]);
    let deltas = daemon.commit(&[sale(3, 2, 3)]);
    assert_eq!((deltas[0].key[4].as_str(), balances(&deltas, "qty")), ("2026-02-27", vec!["10".into()]));
    assert_eq!((deltas.len(), deltas[0].get("revision")), (1, Some("1")));
    let again = daemon.commit(&[(&sales, Change::update([3.into(), units(2), 3.into()]))]);
    assert_eq!(again, [], "a row that says nothing new is no revision");
}

#[test]
fn v16_a_quantity_beyond_the_field_is_held() {
    let stock = table("stock", &[("id", "bigint"), ("qty", "numeric(38,3)")]);
    let sql = "SELECT 'C1' AS company_id, 'A' AS item_id, 'W1' AS location_id, qty AS on_hand FROM stock";
    let mut daemon = Daemon::new(&[("erp/inventory_balance.sql", sql)]);
    assert_eq!(daemon.commit(&[(&stock, Change::insert([1.into(), Value::Decimal(10_i128.pow(23))]))]), []);
    assert!(daemon.held()[0].starts_with("DQ_OVERFLOW\non_hand\n"), "{:?}", daemon.held());
}

#[test]
fn v17_a_gtin_with_a_wrong_check_digit_is_named() {
    let codes = table("codes", &[("id", "bigint"), ("gtin", "text")]);
    let sql = "SELECT 'C1' AS company_id, 'A' AS item_id, 'GTIN' AS scheme, lpad(gtin, 14, '0') AS value FROM codes";
    let mut daemon = Daemon::new(&[("erp/item_identifier.sql", sql)]);
    assert_eq!(daemon.commit(&[(&codes, Change::insert([1.into(), "6291041500213".into()]))]).len(), 1);
    let before = daemon.held().len();
    daemon.log.push(crate::frames::frame(&[(&codes, Change::insert([2.into(), "6291041500214".into()]))], true));
    let stats = daemon.run();
    assert_eq!((before, daemon.held().len() as u64 + stats.warnings), (0, 1), "{:?}", daemon.held());
}

#[test]
fn v19_ledger_entries_add_up_per_location() {
    let entries = table("ile", &[("id", "bigint"), ("loc", "text"), ("qty", "numeric(14,3)")]);
    let sql = "SELECT 'C1' AS company_id, 'A' AS item_id, loc AS location_id, qty AS on_hand FROM ile";
    let mut daemon = Daemon::new(&[("erp/inventory_balance.sql", sql)]);
    let entry =
        |id: i64, loc: &str, quantity: i64| (&entries, Change::insert([id.into(), loc.into(), units(quantity)]));
    daemon.commit(&[entry(1, "W1", 100)]);
    assert_eq!(balances(&daemon.commit(&[entry(2, "W1", -30), entry(3, "W2", 30)]), "on_hand"), ["70", "30"]);
    assert_eq!(balances(&daemon.commit(&[entry(4, "W1", -10)]), "on_hand"), ["60"]);
}

#[test]
fn v20_a_planned_move_counts_only_when_it_is_done() {
    let moves = table("move", &[("id", "bigint"), ("qty", "numeric(14,3)"), ("state", "text")]);
    let sql =
        "SELECT 'C1' AS company_id, 'A' AS item_id, 'W1' AS location_id, qty AS on_hand FROM move WHERE state = 'done'";
    let mut daemon = Daemon::new(&[("erp/inventory_balance.sql", sql)]);
    let row = |state: &str| [1.into(), units(7), state.into()];
    assert_eq!(daemon.commit(&[(&moves, Change::insert(row("draft")))]), []);
    assert_eq!(daemon.commit(&[(&moves, Change::update(row("assigned")))]), []);
    assert_eq!(balances(&daemon.commit(&[(&moves, Change::update(row("done")))]), "on_hand"), ["7"]);
    assert_eq!(balances(&daemon.commit(&[(&moves, Change::update(row("draft")))]), "on_hand"), ["0"]);
}

#[test]
fn v10_a_count_is_the_difference_to_what_was_there() {
    let columns = [("name", "text"), ("voucher_type", "text"), ("detail", "text"), ("qty", "numeric(14,3)")];
    let ledger = table("sle", &[&columns[..], &[("qty_after", "numeric(14,3)")]].concat());
    let counted = table("reconciliation_item", &[("name", "text"), ("current_qty", "numeric(14,3)")]);
    let bin = table("bin", &[("name", "text"), ("qty", "numeric(14,3)")]);
    let movement = "SELECT 'C1' AS company_id, s.name AS movement_id, 'A' AS item_id, 'W1' AS location_id, \
                    CASE WHEN s.voucher_type = 'Stock Reconciliation' THEN 'count' ELSE 'adjust_gain' END AS movement_type, \
                    CASE WHEN s.voucher_type = 'Stock Reconciliation' THEN s.qty_after - r.current_qty ELSE s.qty END AS qty_delta, \
                    DATE '2026-03-01' AS posting_date FROM sle s LEFT JOIN reconciliation_item r ON r.name = s.detail";
    let balance = "SELECT 'C1' AS company_id, 'A' AS item_id, 'W1' AS location_id, qty AS on_hand FROM bin";
    let mut daemon = Daemon::new(&[("erp/inventory_movement.sql", movement), ("erp/inventory_balance.sql", balance)]);
    daemon.commit(&[(&bin, Change::new(Op::Insert, vec!["A-W1".into(), units(40)]))]);
    let deltas = daemon.commit(&[
        (
            &ledger,
            Change::new(
                Op::Insert,
                vec!["SLE-1".into(), "Stock Reconciliation".into(), "D1".into(), units(0), units(42)],
            ),
        ),
        (&bin, Change::new(Op::Update, vec!["A-W1".into(), units(42)])),
        (&counted, Change::new(Op::Insert, vec!["D1".into(), units(40)])),
    ]);
    let of = |entity: &str| deltas.iter().filter(|delta| delta.entity == entity).collect::<Vec<_>>();
    let (movements, balances) = (of("inventory_movement"), of("inventory_balance"));
    assert_eq!(
        (movements.len(), movements[0].get("movement_type"), movements[0].quantity("qty_delta")),
        (1, Some("count"), "2")
    );
    assert_eq!((balances.len(), balances[0].quantity("on_hand")), (1, "42"));
}

#[test]
fn v13_a_move_between_warehouses_has_two_legs_of_one_group() {
    let moves = table(
        "stock_move",
        &[("id", "bigint"), ("qty", "numeric(14,3)"), ("source", "text"), ("target", "text"), ("state", "text")],
    );
    let leg = |name: &str, location: &str, counter: &str, kind: &str, sign: &str| {
        format!(
            "SELECT 'C1' AS company_id, concat(id, '-{name}') AS movement_id, 'A' AS item_id, {location} AS location_id, \
             {counter} AS counter_location_id, '{kind}' AS movement_type, {sign}qty AS qty_delta, \
             cast(id AS VARCHAR) AS movement_group_id, DATE '2026-03-01' AS posting_date FROM stock_move WHERE state = 'done'"
        )
    };
    let (out, into) =
        (leg("out", "source", "target", "transfer_out", "-"), leg("in", "target", "source", "transfer_in", ""));
    let mut daemon = Daemon::new(&[("erp/inventory_movement.out.sql", &out), ("erp/inventory_movement.in.sql", &into)]);
    let row = |state: &str| [9.into(), units(7), "WH1".into(), "WH2".into(), state.into()];
    assert_eq!(daemon.commit(&[(&moves, Change::insert(row("assigned")))]), []);
    let deltas = daemon.commit(&[(&moves, Change::update(row("done")))]);
    let mut legs: Vec<_> = deltas
        .iter()
        .map(|leg| {
            (leg.get("location_id"), leg.quantity("qty_delta"), leg.get("movement_group_id"), leg.get("movement_type"))
        })
        .collect();
    legs.sort_unstable();
    let wanted =
        [(Some("WH1"), "-7", Some("9"), Some("transfer_out")), (Some("WH2"), "7", Some("9"), Some("transfer_in"))];
    assert_eq!(legs, wanted);
}

#[test]
fn v21_an_order_that_is_deleted_when_it_is_posted_is_closed_and_stays() {
    let columns = [("key", "text"), ("qty", "numeric(14,3)"), ("shipped", "numeric(14,3)")];
    let (open, posted) = (table("sales_line", &columns), table("sales_shipment_line", &columns));
    let line = |table: &str, status: &str| {
        format!(
            "SELECT 'C1' AS company_id, '1001' AS order_id, key AS line_id, 'A' AS item_id, 'W1' AS location_id, \
             qty AS qty_ordered, shipped AS qty_shipped, {status} AS status FROM {table}"
        )
    };
    let demand = |table: &str| {
        format!(
            "SELECT 'C1' AS company_id, 'A' AS item_id, 'W1' AS location_id, qty, DATE '2026-03-02' AS bucket_date, \
             'order' AS demand_type FROM {table}"
        )
    };
    let is_open = "CASE WHEN shipped < qty THEN 'open' ELSE 'shipped' END";
    let texts = [
        ("erp/sales_order_line.open.sql", line("sales_line", is_open)),
        ("erp/sales_order_line.posted.sql", line("sales_shipment_line", "'closed'")),
        ("erp/demand_signal.open.sql", demand("sales_line")),
        ("erp/demand_signal.posted.sql", demand("sales_shipment_line")),
    ];
    let mut daemon = Daemon::new(&texts.iter().map(|(path, text)| (*path, text.as_str())).collect::<Vec<_>>());
    let row = |shipped: i64| vec![Value::from("10000"), units(10), units(shipped)];
    daemon.commit(&[(&open, Change::new(Op::Insert, row(0)))]);
    daemon.commit(&[(&open, Change::new(Op::Update, row(10)))]);
    let gone = Change::new(Op::Delete, vec!["10000".into(), Value::Null, Value::Null]);
    let deltas = daemon.commit(&[(&open, gone), (&posted, Change::new(Op::Insert, row(10)))]);
    assert_eq!(deltas.len(), 1, "one upsert of the line; demand has not changed: {deltas:?}");
    assert_eq!((deltas[0].get("status"), deltas[0].quantity("qty_open")), (Some("closed"), "0"));
}

#[test]
fn v22_a_deletion_with_nothing_but_its_key_takes_its_share_back() {
    let inventsum = table("inventsum", &[("id", "bigint"), ("item", "text"), ("qty", "numeric(14,3)")]);
    let sql = "SELECT 'C1' AS company_id, item AS item_id, 'W1' AS location_id, qty AS on_hand FROM inventsum";
    let mut daemon = Daemon::new(&[("erp/inventory_balance.sql", sql)]);
    let row = |id: i64, quantity: i64| (&inventsum, Change::insert([id.into(), "A".into(), units(quantity)]));
    daemon.commit(&[row(1, 8), row(2, 5)]);
    let deltas = daemon.commit(&[(&inventsum, Change::removal(Op::Delete, 1, 3))]);
    assert_eq!(balances(&deltas, "on_hand"), ["5"]);
    assert!(daemon.held().is_empty(), "an empty column of a deletion is no fault: {:?}", daemon.held());
}
