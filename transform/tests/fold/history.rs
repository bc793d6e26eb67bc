//! Random histories, random frame cuts, random crashes: the outbox is the oracle's rows, always and byte for byte.

use std::collections::BTreeMap;

use proptest::prelude::*;
use syncline_schemas::frame::LogEntry;
use syncline_schemas::ident::LogOffset;
use syncline_transform::state::Space;

use crate::frames::{Change, Value, frame, table};
use crate::memory::{Crash, Daemon};
use crate::oracle::{self, MAPPINGS, Source, TABLES, compare};
use crate::outbox::{Current, Rows};

/// One thing that happens at the source, and where the reader cuts.
#[derive(Debug, Clone)]
pub(crate) struct Move {
    table: usize,
    kind: u8,
    pick: u8,
    dice: u32,
    cut: Cut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// The frame goes on.
    No,
    /// The frame ends inside the transaction.
    Inside,
    /// Transaction and frame end.
    Commit,
}

pub(crate) fn moves() -> impl Strategy<Value = Vec<Move>> {
    let cut = prop_oneof![6 => Just(Cut::No), 2 => Just(Cut::Inside), 3 => Just(Cut::Commit)];
    let one = (0..TABLES, 0_u8..17, any::<u8>(), any::<u32>(), cut);
    let one = one.prop_map(|(table, kind, pick, dice, cut)| Move { table, kind, pick, dice, cut });
    prop::collection::vec(one, 1..80)
}

fn crashes() -> impl Strategy<Value = Vec<Option<Crash>>> {
    let crash = prop_oneof![3 => Just(None), 1 => Just(Some(Crash::Before)), 1 => Just(Some(Crash::After))];
    prop::collection::vec(crash, 0..60)
}

/// The log of a history, and the canonical rows at each of its transaction boundaries.
pub(crate) fn log(moves: &[Move]) -> (Vec<LogEntry>, BTreeMap<LogOffset, Rows>) {
    let schemas = oracle::schemas();
    let mut log: Vec<LogEntry> = schemas.iter().cloned().map(LogEntry::Schema).collect();
    let mut boundaries = BTreeMap::new();
    let mut source = Source::default();
    let mut pending: Vec<(usize, Change)> = Vec::new();
    for (i, step) in moves.iter().enumerate() {
        let changes = source.change(step.table, step.kind, step.pick, step.dice);
        pending.extend(changes.into_iter().map(|change| (step.table, change)));
        let cut = if i + 1 == moves.len() { Cut::Commit } else { step.cut };
        if cut != Cut::No {
            let changes: Vec<_> = pending.drain(..).map(|(table, change)| (&schemas[table], change)).collect();
            log.push(frame(&changes, cut == Cut::Commit));
        }
        if cut == Cut::Commit {
            boundaries.insert(LogOffset(log.len() as u64), source.canonical());
        }
    }
    (log, boundaries)
}

/// Runs a log to its end and checks every state that a sink may see on the way.
fn check(log: &[LogEntry], boundaries: &BTreeMap<LogOffset, Rows>, crashes: &[Option<Crash>]) -> Daemon {
    let mut daemon = Daemon::new(&MAPPINGS);
    daemon.memory.crashes.borrow_mut().extend(crashes);
    let (mut current, mut seen) = (Current::default(), 0);
    for entry in log {
        daemon.log.push(entry.clone());
        daemon.run();
        let visible = daemon.visible();
        let outbox = daemon.memory.outbox.borrow();
        while let Some(step) = outbox.get(seen).filter(|step| step.offset <= visible) {
            current.apply(step);
            seen += 1;
        }
        if let Some((_, wanted)) = boundaries.range(..=visible).next_back() {
            compare(&current.rows, wanted);
        }
    }
    assert_eq!(daemon.visible(), LogOffset(log.len() as u64), "all of the log is visible at its end");
    assert_eq!(daemon.memory.outbox.borrow().len(), seen, "all of the outbox is visible at the log's end");
    daemon
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_history_and_no_crash_makes_the_outbox_differ_from_the_source(moves in moves(), crashes in crashes()) {
        let (log, boundaries) = log(&moves);
        let calm = check(&log, &boundaries, &[]);
        let crashed = check(&log, &boundaries, &crashes);
        let steps = |daemon: &Daemon| -> Vec<(u64, u32, u32)> {
            daemon.memory.outbox.borrow().iter().map(|step| (step.offset.0, step.step, step.rows)).collect()
        };
        prop_assert_eq!(steps(&calm), steps(&crashed), "the outbox has the same steps");
        prop_assert!(*calm.memory.outbox.borrow() == *crashed.memory.outbox.borrow(), "the outbox is the same byte for byte");
        for space in Space::ALL {
            prop_assert_eq!(calm.memory.pairs(space), crashed.memory.pairs(space));
        }
        prop_assert!(calm.held().is_empty(), "no row of these histories is faulty: {:?}", calm.held());
    }

    #[test]
    fn a_transfer_never_shows_more_or_less_than_the_total(
        transfers in prop::collection::vec((0_i64..4, 0_i64..4, 1_i128..5_000, any::<bool>()), 1..40),
        crashes in crashes(),
    ) {
        let stock = table("lager", &[("id", "bigint"), ("loc", "text"), ("qty", "numeric(14,3)")]);
        let sql = "SELECT 'C1' AS company_id, 'A' AS item_id, loc AS location_id, qty AS on_hand FROM lager";
        let mut daemon = Daemon::new(&[("erp/inventory_balance.sql", sql)]);
        daemon.memory.crashes.borrow_mut().extend(crashes);
        let mut held = [1_000_000_i128; 4];
        let row = |at: i64, quantity: i128| [Value::Int(at), Value::Text(format!("W{at}")), Value::Decimal(quantity)];
        let first: Vec<_> = (0..4).map(|at| (&stock, Change::insert(row(at, 1_000_000)))).collect();
        let (mut current, mut seen) = (Current::default(), 0);
        let mut logs = vec![frame(&first, true)];
        for (from, to, quantity, cut) in transfers {
            let (a, b) = (usize::try_from(from).expect("small"), usize::try_from(to).expect("small"));
            held[a] -= quantity;
            let out = (&stock, Change::update(row(from, held[a])));
            held[b] += quantity;
            let back = (&stock, Change::update(row(to, held[b])));
            if cut {
                logs.extend([frame(&[out], false), frame(&[back], true)]);
            } else {
                logs.push(frame(&[out, back], true));
            }
        }
        for entry in logs {
            daemon.log.push(entry);
            daemon.run();
            let outbox = daemon.memory.outbox.borrow();
            while let Some(step) = outbox.get(seen).filter(|step| step.offset <= daemon.visible()) {
                current.apply(step);
                seen += 1;
            }
            let total: f64 = current
                .rows
                .values()
                .map(|row| row["on_hand"].as_deref().expect("a sum").parse::<f64>().expect("a number"))
                .sum();
            prop_assert_eq!(total.round(), 4_000.0, "at {}", daemon.visible());
        }
    }
}
