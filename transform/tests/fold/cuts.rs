//! Where a reader cuts a transaction into frames is its own affair: what sinks see afterwards, and which rows are held, is
//! the same as if it had come in one.

use std::collections::BTreeMap;

use proptest::prelude::*;
use syncline_schemas::frame::Op;
use syncline_schemas::table::TableSchema;
use syncline_transform::state::Space;

use crate::frames::{Change, Value, frame, table};
use crate::memory::Daemon;
use crate::outbox::{Current, Delta, deltas};

const ITEM: &str = "SELECT 'C1' AS company_id, code AS item_id, descr AS description, uom AS base_uom FROM artikel";
const STOCK: &str = "-- @rule DQ_REF_ITEM = ignore\nSELECT 'C1' AS company_id, a.code AS item_id, g.name AS location_id, \
                     CAST(a.qty AS DECIMAL(14, 3)) AS on_hand FROM artikel a LEFT JOIN gruppe g ON g.id = a.grp";

pub(crate) const MAPPINGS: [(&str, &str); 2] = [("erp/item.sql", ITEM), ("erp/inventory_balance.sql", STOCK)];

pub(crate) fn tables() -> [TableSchema; 2] {
    let columns =
        [("id", "bigint"), ("code", "text"), ("descr", "text?"), ("uom", "text"), ("qty", "text"), ("grp", "bigint")];
    [table("artikel", &columns), table("gruppe", &[("id", "bigint"), ("name", "text")])]
}

/// One change: of which row, what becomes of it, and whether a frame ends behind it.
pub(crate) type Move = (u8, u8, u32, bool);

/// What the moves make of the tables.
#[derive(Default)]
pub(crate) struct Source {
    /// Of both tables.
    pub(crate) rows: [BTreeMap<i64, Vec<Value>>; 2],
    pub(crate) is_clean: bool,
    pub(crate) serial: u32,
}

impl Source {
    /// A change, and the table that it is of.
    pub(crate) fn change(&mut self, (pick, kind, dice, _): Move) -> Vec<(usize, Change)> {
        if kind == 9 {
            let key = i64::from(pick % 3);
            if self.is_clean && dice.is_multiple_of(3) && self.rows[1].remove(&key).is_some() {
                return vec![(1, Change::removal(Op::Delete, key, 2))];
            }
            let group = vec![key.into(), format!("W{}", dice % 4).as_str().into()];
            self.rows[1].insert(key, group.clone());
            return vec![(1, Change::new(Op::Update, group))];
        }
        let keys: Vec<i64> = self.rows[0].keys().copied().collect();
        let picked = (!keys.is_empty()).then(|| keys[usize::from(pick) % keys.len()]);
        let changes = match picked.filter(|_| kind > 2) {
            None => {
                self.serial += 1;
                let key = (0..).find(|key| !self.rows[0].contains_key(key)).expect("a free key");
                let mut code = format!("A{}", self.serial);
                if dice.is_multiple_of(5) && !self.is_clean {
                    code = shared(dice);
                }
                let row = self.row(key, &code, dice);
                vec![Change::new(Op::Insert, row)]
            }
            Some(key) if kind < 7 => {
                let code = if kind == 6 && !self.is_clean { shared(dice) } else { text(&self.rows[0][&key][1]) };
                let row = self.row(key, &code, dice);
                vec![Change::new(Op::Update, row)]
            }
            Some(key) if kind == 7 => {
                self.rows[0].remove(&key);
                vec![Change::removal(Op::Delete, key, 6)]
            }
            Some(key) => {
                let to = (i64::from(pick % 4)..).find(|key| !self.rows[0].contains_key(key)).expect("a free key");
                let code = text(&self.rows[0].remove(&key).expect("it is there")[1]);
                let row = self.row(to, &code, dice);
                vec![Change::removal(Op::MoveOut, key, 6), Change::new(Op::MoveIn, row)]
            }
        };
        changes.into_iter().map(|change| (0, change)).collect()
    }

    /// A row, often with something wrong with it.
    fn row(&mut self, key: i64, code: &str, dice: u32) -> Vec<Value> {
        let uom = if dice.is_multiple_of(3) && !self.is_clean { Value::Null } else { "EA".into() };
        let quantity = if (dice / 3).is_multiple_of(3) && !self.is_clean {
            "many".to_owned()
        } else {
            (dice / 9 % 50).to_string()
        };
        let row = vec![
            key.into(),
            code.into(),
            format!("text {}", dice % 5).as_str().into(),
            uom,
            quantity.as_str().into(),
            i64::from(dice / 7 % 4).into(),
        ];
        self.rows[0].insert(key, row.clone());
        row
    }
}

/// A code that several rows may have.
fn shared(dice: u32) -> String {
    format!("B{}", dice / 5 % 3)
}

fn text(value: &Value) -> String {
    if let Value::Text(text) = value { text.clone() } else { String::new() }
}

/// What sinks were told in steps behind `from`, in no order: each row once.
fn told(daemon: &Daemon, from: usize) -> Vec<String> {
    let outbox = daemon.memory.outbox.borrow();
    let deltas = outbox[from..].iter().flat_map(deltas);
    let mut told: Vec<String> =
        deltas.map(|Delta { entity, key, row, .. }| format!("{entity} {key:?} {row:?}")).collect();
    told.sort();
    told
}

/// What sinks have, and what is held, without when it was found out.
pub(crate) fn seen(daemon: &Daemon, current: &mut Current, steps: &mut usize) -> (String, Vec<String>) {
    let outbox = daemon.memory.outbox.borrow();
    outbox[*steps..].iter().for_each(|step| current.apply(step));
    *steps = outbox.len();
    let mut held: Vec<String> =
        daemon.held().iter().map(|held| held.lines().take(3).collect::<Vec<_>>().join(" ")).collect();
    held.sort();
    (format!("{:#?}", current.rows), held)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_row_that_turns_faulty_late_in_a_transaction_never_leaves_what_it_was_within(
        transactions in prop::collection::vec(prop::collection::vec((any::<u8>(), 0_u8..10, any::<u32>(), any::<bool>()), 1..8), 1..8),
    ) {
        let tables = tables();
        let (mut whole, mut cut) = (Daemon::new(&MAPPINGS), Daemon::new(&MAPPINGS).with_chunk(2));
        let (mut source, mut wholes, mut cuts) = (Source::default(), (Current::default(), 0), (Current::default(), 0));
        for daemon in [&mut whole, &mut cut] {
            let group = |key: i64| (&tables[1], Change::insert([key.into(), "W0".into()]));
            daemon.push(frame(&[group(0), group(1), group(2)], true));
        }
        for moves in &transactions {
            let (mut all, mut part) = (Vec::new(), Vec::new());
            for &step in moves {
                let changes: Vec<_> = source.change(step).into_iter().map(|(at, change)| (&tables[at], change)).collect();
                all.extend(changes.iter().cloned());
                part.extend(changes);
                if step.3 {
                    cut.push(frame(&part, false));
                    part.clear();
                }
            }
            whole.push(frame(&all, true));
            cut.push(frame(&part, true));
            prop_assert_eq!(told(&cut, cuts.1), told(&whole, wholes.1), "the same is told");
            let wanted = seen(&whole, &mut wholes.0, &mut wholes.1);
            prop_assert_eq!(seen(&cut, &mut cuts.0, &mut cuts.1), wanted);
        }
        let marks = cut.memory.pairs(Space::Index).into_iter().filter(|(key, _)| key.first() == Some(&b'U')).count();
        prop_assert_eq!(marks, 0, "nothing is left of what only the transaction needed");
        let records = |daemon: &Daemon| daemon.memory.pairs(Space::Contributions).len();
        prop_assert_eq!(records(&cut), records(&whole));
    }
}

#[test]
fn a_currency_that_only_a_row_within_the_transaction_had_is_not_that_of_the_sum() {
    let stock = table("lager", &[("id", "bigint"), ("qty", "bigint"), ("money", "text")]);
    let sql = "-- @rule DQ_REF_ITEM = ignore\nSELECT 'C1' AS company_id, 'A' AS item_id, 'W' AS location_id, \
               qty AS on_hand, money AS currency FROM lager";
    let mut daemon = Daemon::new(&[("erp/inventory_balance.sql", sql)]);
    let row = |id: i64, money: &str| (&stock, Change::insert([id.into(), 5.into(), money.into()]));
    daemon.commit(&[row(1, "EUR")]);
    daemon.push(frame(&[row(9, "CHF")], false));
    let deltas = daemon.push(frame(&[(&stock, Change::removal(Op::Delete, 9, 3)), row(2, "EUR")], true));
    assert_eq!(deltas.iter().map(|delta| delta.get("currency")).collect::<Vec<_>>(), [Some("EUR")]);
    daemon.push(frame(&[row(9, "CHF")], false));
    let deltas = daemon.push(frame(&[(&stock, Change::removal(Op::Delete, 1, 3))], true));
    assert_eq!(deltas.iter().map(|delta| delta.get("currency")).collect::<Vec<_>>(), [Some("CHF")]);
}
