//! References between entities: a fact waits for the master that it cites, in any history and over any crash.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use syncline_schemas::frame::{LogEntry, Op};
use syncline_schemas::ident::LogOffset;
use syncline_schemas::table::TableSchema;
use syncline_transform::fold::{Exception, exceptions};
use syncline_transform::state::Space;

use crate::frames::{Change, Value, frame, table};
use crate::memory::{Crash, Daemon};
use crate::outbox::{Current, deltas};

const ITEM: &str = "SELECT 'C1' AS company_id, code AS item_id, 'EA' AS base_uom FROM artikel";
const MOVEMENT: &str = "SELECT 'C1' AS company_id, CAST(b.id AS VARCHAR) AS movement_id, b.item AS item_id, 'W1' AS location_id, \
    'adjust_gain' AS movement_type, b.qty AS qty_delta, DATE '2026-01-31' AS posting_date FROM buchung b";
/// The same, kept for a join as well.
const JOINED: &str = "SELECT 'C1' AS company_id, CAST(b.id AS VARCHAR) AS movement_id, b.item AS item_id, 'W1' AS location_id, \
    'adjust_gain' AS movement_type, b.qty AS qty_delta, DATE '2026-01-31' AS posting_date FROM buchung b \
    LEFT JOIN artikel a ON a.id = b.id";

fn articles() -> TableSchema {
    table("artikel", &[("id", "bigint"), ("code", "text")])
}

fn postings() -> TableSchema {
    table("buchung", &[("id", "bigint"), ("item", "text"), ("qty", "numeric(14,3)")])
}

fn article(id: i64) -> [Value; 2] {
    [id.into(), Value::Text(code(id))]
}

fn code(item: i64) -> String {
    format!("A{item}")
}

fn posting(id: i64, item: i64, quantity: i128) -> [Value; 3] {
    [id.into(), Value::Text(code(item)), Value::Decimal(quantity)]
}

fn daemon(movement: &str) -> Daemon {
    Daemon::new(&[("erp/item.sql", ITEM), ("erp/inventory_movement.sql", movement)])
}

fn held(daemon: &Daemon) -> Vec<Exception> {
    let mut all = Vec::new();
    let mut take = |exception| {
        all.push(exception);
        true
    };
    exceptions(&daemon.memory, &mut take).expect("state reads");
    all
}

#[test]
fn a_fact_that_came_before_its_master_is_delivered_when_the_master_comes() {
    let (artikel, buchung) = (articles(), postings());
    for movement in [MOVEMENT, JOINED] {
        let mut daemon = daemon(movement);
        assert_eq!(daemon.commit(&[(&artikel, Change::insert(article(8)))]).len(), 1);
        assert_eq!(daemon.commit(&[(&buchung, Change::insert(posting(1, 7, 5_000)))]), [], "it waits");
        let [waits] = held(&daemon).try_into().expect("one is held");
        assert_eq!((waits.rule.as_str(), waits.field.as_str()), ("DQ_REF_ITEM", "item_id"));
        assert_eq!(waits.reason, "there is no item with the key in company_id, item_id; waits for it");
        assert_eq!(waits.key, [("id".to_owned(), Some("1".to_owned()))]);
        assert_eq!(
            (waits.mapping.as_deref(), waits.table.as_str()),
            (Some("erp/inventory_movement"), "erp.public.buchung")
        );
        assert_eq!(daemon.commit(&[(&artikel, Change::insert(article(9)))]).len(), 1, "another article is not it");
        let deltas = daemon.commit(&[(&artikel, Change::insert(article(7)))]);
        let entities: Vec<&str> = deltas.iter().map(|delta| delta.entity.as_str()).collect();
        assert_eq!(entities, ["item", "inventory_movement"], "the master goes first");
        assert_eq!(deltas[1].quantity("qty_delta"), "5");
        assert_eq!(held(&daemon), []);
        let index = daemon.memory.pairs(Space::Index);
        assert!(index.iter().all(|(key, _)| key[0] != b'R'), "nothing waits any longer");
    }
}

#[test]
fn a_master_and_its_fact_may_come_in_one_transaction_in_any_order() {
    let (artikel, buchung) = (articles(), postings());
    let (fact, master) = ((&buchung, Change::insert(posting(1, 7, 5_000))), (&artikel, Change::insert(article(7))));
    for whole in [true, false] {
        let mut daemon = daemon(MOVEMENT);
        let deltas = if whole {
            daemon.commit(&[fact.clone(), master.clone()])
        } else {
            daemon.push(frame(std::slice::from_ref(&fact), false));
            daemon.push(frame(std::slice::from_ref(&master), true))
        };
        assert_eq!(deltas.len(), 2, "{deltas:?}");
        assert_eq!(held(&daemon), []);
    }
}

#[test]
fn a_fact_that_turns_to_a_missing_master_keeps_its_last_good_image_and_says_since_when() {
    let (artikel, buchung) = (articles(), postings());
    let mut daemon = daemon(MOVEMENT);
    daemon.commit(&[(&artikel, Change::insert(article(7))), (&buchung, Change::insert(posting(1, 7, 5_000)))]);
    assert_eq!(daemon.commit(&[(&buchung, Change::update(posting(1, 9, 6_000)))]), [], "the good image stays");
    assert_eq!(daemon.commit(&[(&buchung, Change::update(posting(1, 9, 8_000)))]), []);
    let [waits] = held(&daemon).try_into().expect("one record for one row");
    assert_eq!((waits.first.offset, waits.last.offset), (LogOffset(2), LogOffset(3)));
    let deltas = daemon.commit(&[(&artikel, Change::insert(article(9)))]);
    assert_eq!((deltas.len(), deltas[1].get("item_id"), deltas[1].quantity("qty_delta")), (2, Some("A9"), "8"));
    assert_eq!(daemon.commit(&[(&artikel, Change::removal(Op::Delete, 9, 2))]).len(), 1, "what was said stays said");
    assert_eq!(held(&daemon), []);
}

#[test]
fn a_fact_that_waits_is_forgotten_with_its_row_and_with_its_table() {
    let (artikel, buchung) = (articles(), postings());
    for gone in [Change::removal(Op::Delete, 1, 3), Change::truncate(3)] {
        let mut daemon = daemon(MOVEMENT);
        daemon.commit(&[(&buchung, Change::insert(posting(1, 7, 5_000)))]);
        daemon.commit(&[(&buchung, gone)]);
        assert_eq!(held(&daemon), []);
        assert_eq!(daemon.commit(&[(&artikel, Change::insert(article(7)))]).len(), 1, "only the article");
        assert_eq!(daemon.memory.pairs(Space::Contributions).len(), 1);
    }
}

#[test]
fn a_reference_counts_as_its_mapping_says() {
    let (artikel, buchung) = (articles(), postings());
    for (word, delivered, warned, stops) in
        [("warn", 1, 1, false), ("ignore", 1, 0, false), ("park", 0, 0, false), ("halt", 0, 0, true)]
    {
        let sql = format!("-- @rule DQ_REF_ITEM = {word}\n{MOVEMENT}");
        let mut daemon = daemon(&sql);
        daemon.commit(&[(&artikel, Change::insert(article(1)))]);
        daemon.log.push(frame(&[(&buchung, Change::insert(posting(1, 7, 5_000)))], true));
        let ran = daemon.try_run();
        assert_eq!(ran.is_err(), stops, "{word}");
        match ran {
            Ok(stats) => assert_eq!((stats.deltas, stats.warnings), (delivered, warned), "{word}"),
            Err(error) => assert!(error.to_string().contains("breaks DQ_REF_ITEM, which is to halt"), "{error}"),
        }
    }
}

/// One thing that happens at the source.
#[derive(Debug, Clone)]
struct Move {
    row: i64,
    item: i64,
    quantity: i128,
    kind: u8,
    /// The frame ends inside the transaction, or with it.
    cut: Option<bool>,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let cut = prop_oneof![4 => Just(None), 1 => Just(Some(false)), 3 => Just(Some(true))];
    let one = (0_i64..6, 0_i64..4, 1_i128..9, 0_u8..10, cut);
    let one = one.prop_map(|(row, item, quantity, kind, cut)| Move { row, item, quantity, kind, cut });
    prop::collection::vec(one, 1..60)
}

/// What planning should know, computed transaction by transaction.
#[derive(Default)]
struct Model {
    items: BTreeSet<i64>,
    facts: Facts,
    delivered: Facts,
    held: BTreeSet<i64>,
    touched: BTreeSet<i64>,
}

impl Model {
    /// A transaction ends.
    fn commit(&mut self) {
        for id in std::mem::take(&mut self.touched).union(&self.held.clone()) {
            match self.facts.get(id) {
                None => {
                    self.delivered.remove(id);
                    self.held.remove(id);
                }
                Some(fact) if self.items.contains(&fact.0) => {
                    self.delivered.insert(*id, *fact);
                    self.held.remove(id);
                }
                Some(_) => {
                    self.held.insert(*id);
                }
            }
        }
    }
}

/// Item and quantity by the number of the fact.
type Facts = BTreeMap<i64, (i64, i128)>;

fn log(moves: &[Move]) -> (Vec<LogEntry>, BTreeMap<LogOffset, Facts>) {
    let (artikel, buchung) = (articles(), postings());
    let mut log = vec![LogEntry::Schema(articles()), LogEntry::Schema(postings())];
    let (mut model, mut boundaries, mut pending) = (Model::default(), BTreeMap::new(), Vec::new());
    let end = |pending: &mut Vec<_>,
               whole: bool,
               log: &mut Vec<LogEntry>,
               model: &mut Model,
               boundaries: &mut BTreeMap<_, _>| {
        log.push(frame(&std::mem::take(pending), whole));
        if whole {
            model.commit();
            boundaries.insert(LogOffset(log.len() as u64), model.delivered.clone());
        }
    };
    let mut before: BTreeSet<i64> = BTreeSet::new();
    for (i, Move { row, item, quantity, kind, cut }) in moves.iter().enumerate() {
        // A master that goes does so alone: of rows that a long transaction took before, it takes nothing back.
        let goes = *kind == 0 && model.items.contains(item);
        if goes && (!pending.is_empty() || !model.touched.is_empty()) {
            end(&mut pending, true, &mut log, &mut model, &mut boundaries);
            before.clear();
        }
        match kind {
            0 if goes => {
                model.items.remove(item);
                pending.push((&artikel, Change::removal(Op::Delete, *item, 2)));
            }
            0..=3 => {
                if model.items.insert(*item) {
                    pending.push((&artikel, Change::insert(article(*item))));
                }
            }
            // Nor is a row changed in two frames of one transaction: the first image could stay as the last good one.
            4.. if before.contains(row) => {}
            4 => {
                if model.facts.remove(row).is_some() {
                    model.touched.insert(*row);
                    pending.push((&buchung, Change::removal(Op::Delete, *row, 3)));
                }
            }
            _ => {
                let op = if model.facts.insert(*row, (*item, *quantity)).is_some() { Op::Update } else { Op::Insert };
                model.touched.insert(*row);
                pending.push((&buchung, Change::new(op, posting(*row, *item, *quantity).to_vec())));
            }
        }
        let last = i + 1 == moves.len();
        if let Some(whole) = if goes || last { Some(true) } else { *cut } {
            end(&mut pending, whole, &mut log, &mut model, &mut boundaries);
            before = if whole { BTreeSet::new() } else { model.touched.clone() };
        }
    }
    (log, boundaries)
}

fn check(movement: &str, moves: &[Move], crashes: &[Option<Crash>]) -> Daemon {
    let (log, boundaries) = log(moves);
    let mut daemon = daemon(movement).with_chunk(3);
    daemon.memory.crashes.borrow_mut().extend(crashes);
    let (mut current, mut seen) = (Current::default(), 0);
    for entry in log {
        daemon.log.push(entry);
        daemon.run();
        let outbox = daemon.memory.outbox.borrow();
        outbox[seen..].iter().for_each(|step| current.apply(step));
        seen = outbox.len();
        if let Some(wanted) = boundaries.get(&daemon.visible()) {
            let facts = current.rows.iter().filter(|((entity, _), _)| entity == "inventory_movement");
            let facts: Facts = facts
                .map(|((_, key), row)| {
                    let text = |field: &str| row[field].clone().expect("a value");
                    let quantity = text("qty_delta").replace('.', "").parse::<i128>().expect("a number") / 1_000_000;
                    let id = key.last().expect("a key").parse().expect("its number");
                    (id, (text("item_id")[1..].parse().expect("a number"), quantity))
                })
                .collect();
            assert_eq!(&facts, wanted, "at {}", daemon.visible());
        }
    }
    daemon
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_history_and_no_crash_loses_a_fact_that_waits_for_its_master(
        moves in moves(),
        crashes in prop::collection::vec(prop_oneof![3 => Just(None), 1 => Just(Some(Crash::Before)), 1 => Just(Some(Crash::After))], 0..60),
        joined: bool,
    ) {
        let movement = if joined { JOINED } else { MOVEMENT };
        let calm = check(movement, &moves, &[]);
        let crashed = check(movement, &moves, &crashes);
        let outbox = |daemon: &Daemon| -> Vec<_> { daemon.memory.outbox.borrow().iter().flat_map(deltas).collect() };
        prop_assert_eq!(outbox(&calm), outbox(&crashed));
        prop_assert!(*calm.memory.outbox.borrow() == *crashed.memory.outbox.borrow(), "the outbox is the same byte for byte");
        for space in Space::ALL {
            prop_assert_eq!(calm.memory.pairs(space), crashed.memory.pairs(space));
        }
    }
}

#[test]
fn a_row_is_not_evaluated_before_the_index_that_it_needs_is_filled() {
    let line = table("line", &[("id", "bigint"), ("art", "text")]);
    let head = table("head", &[("id", "bigint"), ("code", "text"), ("name", "text")]);
    let sql = "SELECT 'C1' AS company_id, l.art AS item_id, 'EA' AS base_uom, h.name AS description \
               FROM line l LEFT JOIN head h ON h.code = l.art";
    let mut daemon = Daemon::new(&[("erp/item.sql", sql)]);
    daemon.push(LogEntry::Schema(head.clone()));
    let heads = [[1.into(), "X".into(), "one".into()], [2.into(), "Y".into(), "two".into()]];
    daemon.commit(&heads.map(|row: [Value; 3]| (&head, Change::insert(row))));
    daemon.push(LogEntry::Schema(line.clone()));
    let deltas = daemon.commit(&[(&line, Change::insert([1.into(), "X".into()]))]);
    assert_eq!(deltas.iter().map(|delta| delta.get("description")).collect::<Vec<_>>(), [Some("one")]);
}
