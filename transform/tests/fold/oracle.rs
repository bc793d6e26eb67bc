//! The source's tables as plain Rust, and what the test's mappings make of them, written down without SQL.

use std::collections::BTreeMap;

use syncline_schemas::frame::Op;
use syncline_schemas::table::TableSchema;

use crate::frames::{Change, Value, table};
use crate::outbox::{Row, Rows};

/// The mappings that [`Source::canonical`] evaluates by hand.
pub(crate) const MAPPINGS: [(&str, &str); 4] = [
    (
        "erp/item.sql",
        "SELECT 'C1' AS company_id, a.code AS item_id, a.descr AS description, 'EA' AS base_uom, a.price AS unit_cost, \
         a.days AS shelf_life_days FROM artikel a WHERE a.active = 1",
    ),
    (
        "erp/inventory_balance.stock.sql",
        "-- @rule DQ_REF_ITEM = ignore\nSELECT 'C1' AS company_id, item AS item_id, loc AS location_id, qty AS on_hand, res AS reserved \
         FROM public.bestand WHERE coalesce(note, '') NOT LIKE 'skip%'",
    ),
    (
        "erp/inventory_balance.transit.sql",
        "-- @rule DQ_REF_ITEM = ignore\nSELECT 'C1' AS company_id, item AS item_id, loc AS location_id, qty * 2 AS in_transit_in, note AS currency \
         FROM transit WHERE res <> 0",
    ),
    (
        "erp/inventory_movement.sql",
        "-- @rule DQ_REF_ITEM = ignore\nSELECT 'C1' AS company_id, doc AS movement_id, item AS item_id, loc AS location_id, \
         CASE WHEN qty < 0 THEN 'adjust_loss' ELSE 'adjust_gain' END AS movement_type, qty AS qty_delta, \
         note AS reference_id, DATE '2026-01-31' AS posting_date FROM buchung",
    ),
];

/// Tables of the source by index.
pub(crate) const TABLES: usize = 4;
const ITEM: usize = 0;
const STOCK: usize = 1;
const TRANSIT: usize = 2;
const POSTING: usize = 3;

/// A text that PostgreSQL may store out of line.
const LONG: &str = "a description long enough to be stored out of line";

pub(crate) fn schemas() -> Vec<TableSchema> {
    let stock = [
        ("id", "bigint"),
        ("item", "text"),
        ("loc", "text"),
        ("qty", "numeric(14,3)?"),
        ("res", "numeric(14,3)"),
        ("note", "text?"),
    ];
    vec![
        table(
            "artikel",
            &[
                ("id", "bigint"),
                ("code", "character varying(20)"),
                ("descr", "text?"),
                ("price", "numeric(14,3)?"),
                ("active", "integer"),
                ("days", "integer"),
            ],
        ),
        table("bestand", &stock),
        table("transit", &stock),
        table(
            "buchung",
            &[
                ("id", "bigint"),
                ("doc", "text?"),
                ("item", "text"),
                ("loc", "text"),
                ("qty", "numeric(14,3)"),
                ("note", "text?"),
            ],
        ),
    ]
}

/// The source's tables: rows by key.
#[derive(Debug, Clone, Default)]
pub(crate) struct Source {
    tables: [BTreeMap<i64, Vec<Value>>; TABLES],
    serial: i64,
}

impl Source {
    /// Lets something happen to a table; `pick` chooses the row, `dice` the values.
    pub(crate) fn change(&mut self, index: usize, kind: u8, pick: u8, dice: u32) -> Vec<Change> {
        let keys: Vec<i64> = self.tables[index].keys().copied().collect();
        let picked = (!keys.is_empty()).then(|| keys[usize::from(pick) % keys.len()]);
        let Some(key) = picked.filter(|_| kind > 3) else { return vec![self.insert(index, kind, dice)] };
        match kind {
            4..=9 => vec![self.update(index, key, dice)],
            10..=11 => {
                self.tables[index].remove(&key);
                vec![Change::removal(Op::Delete, key, 6)]
            }
            12..=14 => self.move_key(index, key, pick, dice),
            _ if pick < 20 => {
                self.tables[index].clear();
                vec![Change::truncate(6)]
            }
            _ => vec![Change::new(Op::Read, self.tables[index][&key].clone())],
        }
    }

    fn insert(&mut self, index: usize, kind: u8, dice: u32) -> Change {
        self.serial += 1;
        // Keys come back after a delete.
        let key = (0..).find(|key| !self.tables[index].contains_key(key)).expect("a free key");
        let mut row = row(index, self.serial, dice);
        row[0] = Value::Int(key);
        self.tables[index].insert(key, row.clone());
        Change::new(if kind == 0 { Op::Read } else { Op::Insert }, row)
    }

    fn update(&mut self, index: usize, key: i64, dice: u32) -> Change {
        let row = self.altered(index, key, dice);
        let before = self.tables[index].insert(key, row.clone()).expect("the row is there");
        sent(index, Op::Update, &before, row)
    }

    fn move_key(&mut self, index: usize, from: i64, pick: u8, dice: u32) -> Vec<Change> {
        let to = (i64::from(pick % 5)..).find(|key| !self.tables[index].contains_key(key)).expect("a free key");
        let mut row = self.altered(index, from, dice);
        row[0] = Value::Int(to);
        let before = self.tables[index].remove(&from).expect("the row is there");
        self.tables[index].insert(to, row.clone());
        vec![Change::removal(Op::MoveOut, from, 6), sent(index, Op::MoveIn, &before, row)]
    }

    /// The row with some of its values drawn again; the serial in its code stays, so codes stay unique.
    fn altered(&self, index: usize, key: i64, dice: u32) -> Vec<Value> {
        let old = &self.tables[index][&key];
        let serial = match &old[1] {
            Value::Text(code) => code.split('-').nth(1).and_then(|serial| serial.parse().ok()).unwrap_or_default(),
            _ => 0,
        };
        let fresh = row(index, serial, dice.rotate_left(7));
        let keep = |column: usize| dice >> column & 1 == 0;
        old.iter()
            .zip(fresh)
            .enumerate()
            .map(|(c, (old, fresh))| if c == 0 || keep(c) { old.clone() } else { fresh })
            .collect()
    }

    /// What the mappings make of the tables; keys whose last contribution vanished are not in it.
    pub(crate) fn canonical(&self) -> Rows {
        let mut rows = Rows::new();
        for row in self.tables[ITEM].values().filter(|row| row[4] == Value::Int(1)) {
            let fields =
                [("description", text(&row[2])), ("unit_cost", scaled(&row[3])), ("shelf_life_days", text(&row[5]))];
            rows.insert(("item".to_owned(), vec!["C1".to_owned(), plain(&row[1])]), named(fields));
        }
        let mut sums: BTreeMap<(String, String), [Option<i128>; 3]> = BTreeMap::new();
        for row in self.tables[STOCK].values().filter(|row| !plain(&row[5]).starts_with("skip")) {
            let sum = sums.entry((plain(&row[1]), plain(&row[2]))).or_default();
            sum[0] = Some(sum[0].unwrap_or(0) + decimal(&row[3]));
            sum[1] = Some(sum[1].unwrap_or(0) + decimal(&row[4]));
        }
        for row in self.tables[TRANSIT].values().filter(|row| decimal(&row[4]) != 0) {
            let sum = sums.entry((plain(&row[1]), plain(&row[2]))).or_default();
            sum[2] = Some(sum[2].unwrap_or(0) + 2 * decimal(&row[3]));
        }
        for ((item, loc), [on_hand, reserved, transit]) in sums {
            let (on_hand, reserved, transit) = (on_hand.unwrap_or(0), reserved.unwrap_or(0), transit.unwrap_or(0));
            let key = vec!["C1".to_owned(), item, loc, String::new(), String::new()];
            rows.insert(("inventory_balance".to_owned(), key), balance(on_hand, reserved, transit));
        }
        for row in self.tables[POSTING].values() {
            let loss = decimal(&row[4]) < 0;
            let fields = [
                ("item_id", text(&row[2])),
                ("qty_delta", scaled(&row[4])),
                ("movement_type", Some(if loss { "adjust_loss" } else { "adjust_gain" }.to_owned())),
                ("reference_id", text(&row[5])),
                ("posting_date", Some("2026-01-31".to_owned())),
            ];
            rows.insert(("inventory_movement".to_owned(), vec!["C1".to_owned(), plain(&row[1])]), named(fields));
        }
        rows
    }
}

/// A balance of thousandths.
fn balance(on_hand: i128, reserved: i128, transit: i128) -> Row {
    named([
        ("on_hand", Some(nine_digits(on_hand))),
        ("reserved", Some(nine_digits(reserved))),
        ("in_transit_in", Some(nine_digits(transit))),
        ("available", Some(nine_digits(on_hand - reserved))),
        ("picked", None),
    ])
}

/// The fields that the oracle computes; a vanished balance counts as one of zero.
pub(crate) fn compare(current: &Rows, wanted: &Rows) {
    let project =
        |row: &Row, like: &Row| -> Row { like.keys().map(|field| (field.clone(), row[field].clone())).collect() };
    for (key, row) in wanted {
        let held = current.get(key).unwrap_or_else(|| panic!("{key:?} is missing"));
        assert_eq!(&project(held, row), row, "{key:?}");
    }
    let zero = balance(0, 0, 0);
    for (key, row) in current.iter().filter(|(key, _)| !wanted.contains_key(key)) {
        assert_eq!(key.0, "inventory_balance", "{key:?} has no source row");
        assert_eq!(project(row, &zero), zero, "{key:?} has no source row");
    }
}

/// The change as PostgreSQL sends it: an unchanged value that may lie out of line is left out.
fn sent(index: usize, op: Op, before: &[Value], mut after: Vec<Value>) -> Change {
    let schema = &schemas()[index];
    let mut absent = Vec::new();
    for (c, column) in schema.columns.iter().enumerate() {
        let unchanged = before[c] == after[c] && matches!(&after[c], Value::Text(text) if text.len() > 20);
        if column.can_be_absent && unchanged {
            after[c] = Value::Null;
            absent.push(c);
        }
    }
    Change { op, values: after, absent }
}

fn row(index: usize, serial: i64, dice: u32) -> Vec<Value> {
    let d = i64::from(dice);
    let note = match dice % 5 {
        0 => Value::Null,
        1 => "short".into(),
        2 => Value::Text(format!("skip {LONG}")),
        3 => Value::Text(format!("{LONG} {}", d % 7)),
        _ => LONG.into(),
    };
    let code = if index == POSTING && serial % 2 == 0 {
        Value::Text(format!("{}-{serial}-{LONG}", d % 3))
    } else {
        Value::Text(format!("{}-{serial}", d % 3))
    };
    let quantity = |seed: i64| Value::Decimal(i128::from((seed % 40 - 20) * 125));
    match index {
        ITEM => {
            let days = if dice.is_multiple_of(3) { Value::Null } else { Value::Int(d % 400) };
            let price = if dice.is_multiple_of(11) { Value::Null } else { quantity(d / 3) };
            vec![Value::Int(0), code, note, price, Value::Int(i64::from(!dice.is_multiple_of(4))), days]
        }
        POSTING => {
            vec![Value::Int(0), code, Value::Text(format!("A{}", d % 4)), "W1".into(), quantity(d / 5), note]
        }
        _ => {
            let item = Value::Text(format!("A{}", d % 3));
            let loc = Value::Text(format!("W{}", d / 3 % 2));
            vec![Value::Int(0), item, loc, quantity(d / 7), quantity(d / 11 % 7 + 20), note]
        }
    }
}

fn named<const N: usize>(fields: [(&str, Option<String>); N]) -> Row {
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::Int(value) => Some(value.to_string()),
        Value::Text(value) => Some(value.clone()),
        Value::Decimal(_) => panic!("not a text"),
    }
}

fn plain(value: &Value) -> String {
    text(value).unwrap_or_default()
}

fn decimal(value: &Value) -> i128 {
    if let Value::Decimal(value) = value { *value } else { 0 }
}

fn scaled(value: &Value) -> Option<String> {
    (*value != Value::Null).then(|| nine_digits(decimal(value)))
}

/// Thousandths as a quantity prints.
fn nine_digits(thousandths: i128) -> String {
    let sign = if thousandths < 0 { "-" } else { "" };
    let digits = thousandths.unsigned_abs();
    format!("{sign}{}.{:03}000000", digits / 1000, digits % 1000)
}
