//! Mappings that lose a column: they are put aside, and nothing else takes notice.

use std::sync::Arc;

use arrow::array::{RecordBatch, StringArray};
use proptest::prelude::*;
use syncline_schemas::frame::{LogEntry, META_COLUMNS, Op, TableBatch};
use syncline_schemas::ident::TableId;
use syncline_schemas::table::{Column, TableSchema};
use syncline_transform::fold::{ShapeChange, ShapePolicy};
use syncline_transform::state::Space;

use crate::frames::{Change, table};
use crate::joins::{self, COLUMNS, NAMES};
use crate::memory::{Crash, Daemon};
use crate::outbox::{Current, Rows};

const STOCK: &str = "SELECT 'C1' AS company_id, code AS item_id, 'W' AS location_id, qty AS on_hand FROM stock";
const NAME: &str = "SELECT 'C1' AS company_id, code AS supplier_id, name FROM stock";

fn stock() -> TableSchema {
    table("stock", &[("id", "bigint"), ("code", "text"), ("qty", "bigint"), ("name", "text")])
}

fn nameless() -> TableSchema {
    let mut shape = table("stock", &[("id", "bigint"), ("code", "text"), ("qty", "bigint")]);
    shape.version = 2;
    shape
}

fn rows(daemon: &Daemon) -> Rows {
    let mut current = Current::default();
    daemon.memory.outbox.borrow().iter().for_each(|step| current.apply(step));
    current.rows
}

fn of(rows: &Rows, entity: &str) -> Rows {
    rows.iter().filter(|((name, _), _)| name == entity).map(|(key, row)| (key.clone(), row.clone())).collect()
}

#[test]
fn a_dropped_column_stops_the_mapping_that_reads_it_and_no_other() {
    let mut daemon =
        Daemon::new(&[("erp/inventory_balance.sql", STOCK), ("erp/supplier.sql", NAME)]).with_misfits_aside();
    daemon.commit(&[(&stock(), Change::insert([1.into(), "A".into(), 5.into(), "Anna".into()]))]);
    daemon.push(LogEntry::Schema(nameless()));
    assert_eq!(daemon.misfits().len(), 1, "{:?}", daemon.misfits());
    let fault = daemon.misfits().remove(0);
    assert!(fault.starts_with("mappings/erp/supplier.sql:1:49: ") && fault.contains("name"), "{fault}");
    let deltas = daemon.commit(&[(&nameless(), Change::update([1.into(), "A".into(), 7.into()]))]);
    assert_eq!((deltas.len(), deltas[0].quantity("on_hand")), (1, "7"));

    // What it gave stays, whatever becomes of the table.
    let deltas = daemon.commit(&[(&nameless(), Change::truncate(3))]);
    assert_eq!((deltas.len(), deltas[0].quantity("on_hand")), (1, "0"), "the supplier is not taken back");
    // So it does after a restart, and where the column comes back: of the rows between nobody knows.
    daemon.restart();
    assert_eq!(daemon.misfits(), std::slice::from_ref(&fault));
    let deltas = daemon.commit(&[(&stock(), Change::insert([2.into(), "B".into(), 1.into(), "Ben".into()]))]);
    assert_eq!(deltas.iter().map(|delta| delta.entity.as_str()).collect::<Vec<_>>(), ["inventory_balance"]);
    assert_eq!(daemon.misfits(), [fault]);
}

#[test]
fn a_change_that_somebody_wants_to_see_first_is_stopped_at_also_after_a_restart() {
    let mut longer = stock();
    longer.version = 2;
    "character varying(40)".clone_into(&mut longer.columns[3].source_type);
    let mut wider =
        table("stock", &[("id", "bigint"), ("code", "text"), ("qty", "bigint"), ("name", "text"), ("n", "text")]);
    wider.version = 2;
    for (change, shape, said) in [
        (ShapeChange::DroppedColumn, nameless(), "erp.public.stock lost column name, and dropped_column is in stop_at"),
        (ShapeChange::ChangedType, longer, "has column name as character varying(40), which was text"),
        (ShapeChange::AddedColumn, wider, "has a new column n"),
    ] {
        let stops = |stop_at| ShapePolicy { misfits_aside: true, stop_at };
        let others = ShapeChange::ALL.into_iter().filter(|other| *other != change).collect();
        let mut cautious = Daemon::new(&[("erp/inventory_balance.sql", STOCK)]).with_policy(stops([change].into()));
        let mut calm = Daemon::new(&[("erp/inventory_balance.sql", STOCK)]).with_policy(stops(others));
        for daemon in [&mut cautious, &mut calm] {
            daemon.commit(&[(&stock(), Change::insert([1.into(), "A".into(), 5.into(), "Anna".into()]))]);
            daemon.log.push(LogEntry::Schema(shape.clone()));
        }
        calm.run();
        for _ in 0..2 {
            let refusal = cautious.try_run().expect_err("stopped").to_string();
            assert!(refusal.contains(said), "{refusal}");
        }
        // Nothing of it is taken, and once it may be all goes on.
        let mut admitted = cautious.with_policy(stops([].into()));
        admitted.run();
        assert_eq!(admitted.memory.cursor().folded, calm.memory.cursor().folded);
    }
}

#[test]
fn a_second_table_of_the_same_name_stops_only_the_mapping_that_could_mean_either() {
    let exact = STOCK.replace("FROM stock", "FROM erp.public.stock");
    let mut daemon =
        Daemon::new(&[("erp/inventory_balance.sql", &exact), ("erp/supplier.sql", NAME)]).with_misfits_aside();
    daemon.commit(&[(&stock(), Change::insert([1.into(), "A".into(), 5.into(), "Anna".into()]))]);
    let mut archive = stock();
    archive.table = TableId::new("archive", "stock");
    daemon.push(LogEntry::Schema(archive));
    assert!(daemon.misfits()[0].contains("stock is both public.stock and archive.stock"), "{:?}", daemon.misfits());
    let deltas = daemon.commit(&[(&stock(), Change::update([1.into(), "A".into(), 7.into(), "Bea".into()]))]);
    assert_eq!((deltas.len(), deltas[0].quantity("on_hand")), (1, "7"));
}

#[test]
fn a_column_by_which_rows_are_found_changes_its_type_and_no_stale_row_is_found() {
    let names = "SELECT 'C1' AS company_id, s.code AS supplier_id, coalesce(o.name, '-') AS name \
                 FROM stock s LEFT JOIN owner o ON o.number = s.qty";
    let stocks = "SELECT 'C1' AS company_id, s.code AS item_id, 'W' AS location_id, o.id AS on_hand \
                  FROM stock s JOIN owner o ON o.name = s.name";
    let owner = |number: &str, version: u32| {
        let mut shape = table("owner", &[("id", "bigint"), ("number", number), ("name", "text")]);
        shape.version = version;
        shape
    };
    let (before, after) = (owner("bigint", 1), owner("numeric(14,3)", 2));
    let mut daemon =
        Daemon::new(&[("erp/inventory_balance.sql", stocks), ("erp/supplier.sql", names)]).with_misfits_aside();
    daemon.commit(&[(&before, Change::insert([4.into(), 5.into(), "Anna".into()]))]);
    daemon.commit(&[(&stock(), Change::insert([1.into(), "A".into(), 5.into(), "Anna".into()]))]);
    daemon.push(LogEntry::Schema(after.clone()));
    assert!(daemon.misfits()[0].contains("column number of public.owner"), "{:?}", daemon.misfits());
    let number = crate::frames::Value::Decimal(6_000);
    for restarts in [false, true] {
        if restarts {
            daemon.restart();
        }
        let name = if restarts { "Anna" } else { "Bea" };
        let deltas = daemon.commit(&[(&after, Change::update([4.into(), number.clone(), name.into()]))]);
        assert_eq!((deltas.len(), deltas[0].quantity("on_hand")), (1, if restarts { "4" } else { "0" }));
    }
}

#[test]
fn a_number_by_which_rows_are_found_can_become_larger_than_its_type_was() {
    let names = "SELECT 'C1' AS company_id, s.code AS supplier_id, coalesce(o.name, '-') AS name \
                 FROM stock s LEFT JOIN owner o ON o.number = s.qty";
    let owner = |number: &str, version: u32| {
        let mut shape = table("owner", &[("id", "bigint"), ("number", number), ("name", "text")]);
        shape.version = version;
        shape
    };
    let (before, after) = (owner("integer", 1), owner("bigint", 2));
    for restarts in [false, true] {
        let mut daemon = Daemon::new(&[("erp/supplier.sql", names)]).with_misfits_aside();
        daemon.commit(&[(&before, Change::insert([4.into(), 5.into(), "Anna".into()]))]);
        daemon.commit(&[(&stock(), Change::insert([1.into(), "A".into(), 3_000_000_000.into(), "-".into()]))]);
        daemon.push(LogEntry::Schema(after.clone()));
        if restarts {
            daemon.restart();
        }
        let deltas = daemon.commit(&[(&after, Change::update([4.into(), 3_000_000_000.into(), "Bea".into()]))]);
        assert_eq!(deltas.iter().map(|delta| delta.get("name")).collect::<Vec<_>>(), [Some("Bea")], "{restarts}");
    }
}

#[test]
fn what_a_mapping_put_aside_gave_outlives_a_reading_of_its_table_anew() {
    let mut daemon =
        Daemon::new(&[("erp/inventory_balance.sql", STOCK), ("erp/supplier.sql", NAME)]).with_misfits_aside();
    for (id, code) in [(1, "A"), (2, "B")] {
        daemon.commit(&[(&stock(), Change::insert([id.into(), code.into(), 5.into(), "Anna".into()]))]);
    }
    daemon.push(LogEntry::Schema(nameless()));
    let mark = |op| Change::new(op, vec![crate::frames::Value::Null; 3]);
    daemon.commit(&[(&nameless(), mark(Op::SweepBegin))]);
    daemon.commit(&[(&nameless(), Change::new(Op::Read, vec![1.into(), "A".into(), 5.into()]))]);
    let deltas = daemon.commit(&[(&nameless(), mark(Op::SweepEnd))]);
    let told: Vec<_> = deltas.iter().map(|delta| (delta.entity.as_str(), delta.key[1].as_str())).collect();
    assert_eq!(told, [("inventory_balance", "B")], "of the parked one nothing is taken back");
}

/// Gives a table a text column more, in all entries before one, and says at that one that it has it no more.
fn with_column_until(log: &[LogEntry], shape: &TableSchema, until: usize) -> Vec<LogEntry> {
    let extra = Column {
        name: "extra".to_owned(),
        data_type: arrow::datatypes::DataType::Utf8,
        source_type: "text".to_owned(),
        key_ordinal: None,
        can_be_absent: false,
    };
    let mut wide = shape.clone();
    (wide.version, wide.columns) = (9, [&shape.columns[..], &[extra]].concat());
    let widen = |batch: &TableBatch| {
        let own = batch.rows.num_columns() - META_COLUMNS;
        let mut columns = batch.rows.columns().to_vec();
        columns.insert(own, Arc::new(StringArray::from(vec!["x"; batch.rows.num_rows()])));
        let rows = RecordBatch::try_new(wide.batch_schema(), columns).expect("a column more");
        TableBatch { table: batch.table.clone(), schema_version: wide.version, rows }
    };
    let mut entries = Vec::new();
    for (place, entry) in log.iter().enumerate() {
        if place == until {
            entries.push(LogEntry::Schema(shape.clone()));
        }
        entries.push(match entry {
            LogEntry::Schema(known) if place < until && known.table == shape.table => LogEntry::Schema(wide.clone()),
            LogEntry::Frame(frame) if place < until => {
                let mut frame = frame.clone();
                frame.batches.iter_mut().filter(|it| it.table == shape.table).for_each(|it| *it = widen(it));
                LogEntry::Frame(frame)
            }
            other => other.clone(),
        });
    }
    entries
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_a_mapping_put_aside_gave_stays_and_the_others_go_on_as_without_it(
        plan in joins::plans(), moves in joins::moves(), loses_driving in any::<bool>(), cut in any::<prop::sample::Index>(),
        crashes in prop::collection::vec(
            prop_oneof![3 => Just(None), 1 => Just(Some(Crash::Before)), 1 => Just(Some(Crash::After))], 0..80),
    ) {
        let (log, _) = joins::log(&moves);
        let (lost, until) = (if loses_driving { 0 } else { 2 }, cut.index(log.len()));
        let log = with_column_until(&log, &table(NAMES[lost], COLUMNS[lost]), until);
        let alias = if loses_driving { "l" } else { "a" };
        let named = format!(
            "SELECT 'C1' AS company_id, CAST(l.id AS VARCHAR) AS supplier_id, coalesce({alias}.extra, 'none') AS name \
             FROM line l LEFT JOIN art a ON a.code = l.art LEFT JOIN head h ON h.art = a.note"
        );
        let summed = plan.sql("wms.unit", &format!("{} AS on_hand", plan.quantity()));
        let (summed, named) = (("erp/inventory_balance.sql", summed.as_str()), ("erp/supplier.sql", named.as_str()));
        let run = |mappings: &[(&str, &str)], log: &[LogEntry], crashes: &[Option<Crash>]| {
            let mut daemon = Daemon::new(mappings).with_chunk(3).with_misfits_aside();
            daemon.memory.crashes.borrow_mut().extend(crashes);
            daemon.log.extend_from_slice(log);
            daemon.run();
            daemon
        };
        let both = run(&[summed, named], &log, &[]);
        prop_assert_eq!(of(&rows(&both), "inventory_balance"), rows(&run(&[summed], &log, &[])));
        // One that never had all its tables cannot be judged before it has.
        let shown = |name: &str| log[..until].iter().any(|it| matches!(it, LogEntry::Schema(shape) if &*shape.table.name == name));
        if ["line", "art", "head"].into_iter().all(shown) {
            prop_assert_eq!(of(&rows(&both), "supplier"), rows(&run(&[named], &log[..until], &[])));
        }
        let crashed = run(&[summed, named], &log, &crashes);
        prop_assert!(*both.memory.outbox.borrow() == *crashed.memory.outbox.borrow(), "the outbox is the same byte for byte");
        for space in Space::ALL {
            prop_assert_eq!(both.memory.pairs(space), crashed.memory.pairs(space));
        }
    }
}
