//! A table without a key: equal rows count as often as they are there, however they came, went, were read anew or broke off.

use proptest::prelude::*;
use syncline_schemas::frame::Op;
use syncline_schemas::table::TableSchema;
use syncline_transform::fold::{self, Given};
use syncline_transform::state::Space;

use crate::frames::{Change, Value, frame, table};
use crate::memory::{Crash, Daemon};
use crate::outbox::{Current, Rows};

const ITEM: &str = "SELECT 'C1' AS company_id, b.code || coalesce(CAST(b.qty AS VARCHAR), '') AS item_id, b.code AS base_uom FROM bewegung b";
/// Cites the items, so it is folded behind them.
const STOCK: &str = "SELECT 'C1' AS company_id, b.code || coalesce(CAST(b.qty AS VARCHAR), '') AS item_id, \
                     coalesce(g.name, '-') AS location_id, CAST(b.qty AS DECIMAL(14, 3)) AS on_hand \
                     FROM bewegung b LEFT JOIN gruppe g ON g.id = b.grp WHERE b.code <> 'C'";
const MAPPINGS: [(&str, &str); 2] = [("erp/item.sql", ITEM), ("erp/inventory_balance.sql", STOCK)];
const WIDTH: usize = 3;

fn tables() -> [TableSchema; 2] {
    let mut moves = table("bewegung", &[("code", "text"), ("qty", "bigint"), ("grp", "bigint")]);
    moves.columns[0].key_ordinal = None;
    [moves, table("gruppe", &[("id", "bigint"), ("name", "text")])]
}

fn row(dice: u32) -> Vec<Value> {
    let quantity = if dice.is_multiple_of(4) { Value::Null } else { i64::from(dice % 4).into() };
    vec![["A", "B", "C"][(dice / 4 % 3) as usize].into(), quantity, i64::from(dice / 12 % 3).into()]
}

/// What is done: which row, what, with which dice, and whether a frame ends behind it; then whether a transaction does.
type Move = (u8, u8, u32, bool, bool);

fn moves(most: usize) -> impl Strategy<Value = Vec<Move>> {
    prop::collection::vec((any::<u8>(), 0_u8..16, any::<u32>(), any::<bool>(), any::<bool>()), 0..most)
}

/// A source, and the frame that is being made of its changes.
struct Source {
    shapes: [TableSchema; 2],
    rows: Vec<Vec<Value>>,
    groups: std::collections::BTreeMap<i64, Vec<Value>>,
    frame: Vec<(usize, Change)>,
}

impl Source {
    fn new() -> Self {
        Self { shapes: tables(), rows: Vec::new(), groups: Default::default(), frame: Vec::new() }
    }

    fn change(&mut self, (pick, kind, dice, ..): Move) -> Vec<(usize, Change)> {
        let picked = (!self.rows.is_empty()).then(|| usize::from(pick) % self.rows.len().max(1));
        match (kind, picked) {
            (0..=2, Some(picked)) => vec![(0, Change::new(Op::Delete, self.rows.swap_remove(picked)))],
            (3..=6, Some(picked)) => {
                let old = std::mem::replace(&mut self.rows[picked], row(dice));
                vec![(0, Change::new(Op::Delete, old)), (0, Change::new(Op::Insert, row(dice)))]
            }
            (7, _) if dice.is_multiple_of(5) => {
                self.rows.clear();
                vec![(0, Change::truncate(WIDTH))]
            }
            (8..=9, _) => {
                let key = i64::from(pick % 3);
                let group = vec![key.into(), format!("W{}", dice % 3).as_str().into()];
                self.groups.insert(key, group.clone());
                vec![(1, Change::new(Op::Update, group))]
            }
            _ => {
                self.rows.push(row(dice));
                vec![(0, Change::new(Op::Insert, row(dice)))]
            }
        }
    }

    fn push(&mut self, txn_end: bool, daemon: &mut Daemon) {
        let changes: Vec<_> = self.frame.drain(..).map(|(at, change)| (&self.shapes[at], change)).collect();
        daemon.push(frame(&changes, txn_end));
    }

    fn play(&mut self, moves: &[Move], daemon: &mut Daemon) {
        for &step in moves {
            let changes = self.change(step);
            self.frame.extend(changes);
            if step.3 || step.1 == 9 {
                self.push(step.4, daemon);
            }
        }
        self.push(true, daemon);
    }

    /// Reads the table anew in one transaction, as often as it breaks off in the middle.
    fn read_anew(&mut self, breaks: usize, daemon: &mut Daemon) {
        let mark = |op| (0, Change::new(op, vec![Value::Null; WIDTH]));
        for attempt in 0..=breaks {
            self.frame.push(mark(Op::SweepBegin));
            let rows = if attempt == breaks { self.rows.len() } else { self.rows.len() / (attempt + 2) };
            for piece in self.rows[..rows].to_vec().chunks(3) {
                self.frame.extend(piece.iter().map(|row| (0, Change::new(Op::Read, row.clone()))));
                self.push(false, daemon);
            }
            self.push(false, daemon);
        }
        self.frame.push(mark(Op::SweepEnd));
        self.push(true, daemon);
    }
}

fn current(daemon: &Daemon) -> Rows {
    let mut current = Current::default();
    daemon.memory.outbox.borrow().iter().for_each(|step| current.apply(step));
    // The last contribution leaves a zero behind, and a master stays that was withdrawn.
    current.rows.retain(|_, row| row.get("on_hand").is_none_or(|sum| sum.as_deref() != Some("0.000000000")));
    current.rows
}

/// What the rows of the mappings give, without where they are from.
fn shares(daemon: &Daemon) -> Vec<String> {
    let mut shares = Vec::new();
    for (path, _) in MAPPINGS {
        let name = path.trim_end_matches(".sql");
        let mut visit = |Given { source_row, row, .. }: Given| {
            shares.push(format!("{name} {:?} {row:?}", source_row.key));
            true
        };
        assert!(fold::given(&daemon.memory, name, &mut visit).expect("state reads"));
    }
    shares.sort();
    shares
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn equal_rows_count_as_often_as_they_are_there_whatever_came_in_between(
        before in moves(40), lost in moves(6), breaks in 0_usize..3, after in moves(12),
        crashes in prop::collection::vec(
            prop_oneof![3 => Just(None), 1 => Just(Some(Crash::Before)), 1 => Just(Some(Crash::After))], 0..120),
    ) {
        let mut outboxes = Vec::new();
        for crashes in [&[], crashes.as_slice()] {
            let mut daemon = Daemon::new(&MAPPINGS).with_chunk(3);
            daemon.memory.crashes.borrow_mut().extend(crashes);
            let mut source = Source::new();
            source.groups.insert(7, vec![7.into(), "W9".into()]);
            source.frame.push((1, Change::insert([7.into(), "W9".into()])));
            source.play(&before, &mut daemon);
            for step in &lost {
                // Of the groups the log tells everything.
                source.change(*step).into_iter().filter(|(at, _)| *at == 1).for_each(|change| source.frame.push(change));
            }
            source.push(true, &mut daemon);
            source.read_anew(breaks, &mut daemon);
            source.play(&after, &mut daemon);

            let mut fresh = Daemon::new(&MAPPINGS);
            let mut copy = Source::new();
            copy.frame.extend(source.groups.values().map(|row| (1, Change::new(Op::Read, row.clone()))));
            copy.push(true, &mut fresh);
            copy.rows.clone_from(&source.rows);
            copy.read_anew(0, &mut fresh);
            prop_assert_eq!(current(&daemon), current(&fresh));
            prop_assert_eq!(shares(&daemon), shares(&fresh));
            for space in [Space::Contributions, Space::Rows] {
                prop_assert_eq!(daemon.memory.pairs(space).len(), fresh.memory.pairs(space).len());
            }
            outboxes.push(daemon.memory.outbox.borrow().clone());
        }
        prop_assert!(outboxes[0] == outboxes[1], "the outbox is the same byte for byte");
    }
}

#[test]
fn a_row_that_comes_and_goes_and_comes_within_a_transaction_is_there_once() {
    let [moves, _] = tables();
    let mut daemon = Daemon::new(&[(
        "erp/inventory_balance.sql",
        "-- @rule DQ_REF_ITEM = ignore\nSELECT 'C1' AS company_id, code AS item_id, 'W' AS location_id, CAST(qty AS DECIMAL(14, 3)) AS on_hand FROM bewegung",
    )]);
    let change = |op: Op| (&moves, Change::new(op, vec!["A".into(), 5.into(), 1.into()]));
    let sums = |daemon: &mut Daemon, ops: &[Op]| {
        let deltas = daemon.commit(&ops.iter().map(|op| change(*op)).collect::<Vec<_>>());
        deltas.iter().map(|delta| delta.get("on_hand").map(str::to_owned)).collect::<Vec<_>>()
    };
    let sum = |text: &str| vec![Some(text.to_owned())];
    assert_eq!(sums(&mut daemon, &[Op::Insert, Op::Delete, Op::Insert]), sum("5.000000000"));
    assert_eq!(sums(&mut daemon, &[Op::Insert, Op::Insert]), sum("15.000000000"));
    assert_eq!(sums(&mut daemon, &[Op::Delete, Op::Insert]), Vec::<Option<String>>::new());
    assert_eq!(sums(&mut daemon, &[Op::Delete, Op::Delete]), sum("5.000000000"));
    assert_eq!(sums(&mut daemon, &[Op::Delete]), sum("0.000000000"));
    assert_eq!(daemon.memory.pairs(Space::Rows), Vec::new(), "nothing is left of what is gone");
}

#[test]
fn a_row_that_is_taken_away_and_was_never_there_stops_the_fold_by_name() {
    let [moves, _] = tables();
    let mut daemon =
        Daemon::new(&[("erp/item.sql", "SELECT 'C1' AS company_id, code AS item_id, code AS base_uom FROM bewegung")]);
    daemon.log.push(frame(&[(&moves, Change::new(Op::Delete, row(5)))], true));
    let error = daemon.try_run().expect_err("it contradicts the log").to_string();
    assert!(error.contains("bewegung") && error.contains("syncline replay --reread"), "{error}");
}

#[test]
fn a_table_without_a_key_is_not_joined() {
    let [moves, groups] = tables();
    let sql = "SELECT 'C1' AS company_id, b.code AS item_id FROM gruppe g JOIN bewegung b ON b.grp = g.id";
    let mut daemon = Daemon::new(&[("erp/item.sql", sql)]);
    daemon.log.push(frame(&[(&groups, Change::insert([1.into(), "W".into()]))], true));
    daemon.log.push(frame(&[(&moves, Change::new(Op::Insert, row(5)))], true));
    let error = daemon.try_run().expect_err("its rows are not told apart").to_string();
    assert!(error.contains("bewegung has no key") && error.contains("PRIMARY KEY"), "{error}");
}
