//! Changes that the log lost: a table that is read anew beside the changes that go on is what the source has, down to rows that
//! are gone.

use proptest::prelude::*;
use syncline_schemas::frame::Op;
use syncline_transform::state::Space;

use crate::cuts::{self, Move, Source, tables};
use crate::frames::{Change, Value, frame};
use crate::memory::{Crash, Daemon};
use crate::outbox::{Current, Rows};

/// No row of these is ever faulty, so what is held from before is no matter.
const MAPPINGS: [(&str, &str); 2] = [
    ("erp/item.sql", "SELECT 'C1' AS company_id, code AS item_id, descr AS description, uom AS base_uom FROM artikel"),
    (
        "erp/inventory_balance.sql",
        "-- @rule DQ_REF_ITEM = ignore\nSELECT 'C1' AS company_id, a.code AS item_id, coalesce(g.name, '-') AS location_id, \
         CAST(a.qty AS DECIMAL(14, 3)) AS on_hand FROM artikel a LEFT JOIN gruppe g ON g.id = a.grp",
    ),
];

fn current(daemon: &Daemon) -> Rows {
    let mut current = Current::default();
    daemon.memory.outbox.borrow().iter().for_each(|step| current.apply(step));
    // The last contribution leaves a zero behind.
    current.rows.retain(|_, row| row.get("on_hand").is_none_or(|sum| sum.as_deref() != Some("0.000000000")));
    current.rows
}

fn mark(op: Op, width: usize) -> Change {
    Change::new(op, vec![Value::Null; width])
}

/// Moves in a transaction of their own each; of some the log says nothing.
fn play(source: &mut Source, moves: &[Move], loses: bool, daemon: &mut Daemon) {
    let tables = tables();
    for &step in moves {
        let changes: Vec<_> = source.change(step).into_iter().map(|(at, change)| (&tables[at], change)).collect();
        if !(loses && step.3) {
            daemon.push(frame(&changes, true));
        }
    }
}

/// Reads tables anew in pieces of two rows; what goes on meanwhile comes between them. Gives how much of that came.
fn read_anew(read: &[usize], source: &mut Source, meanwhile: &[Move], cut: bool, daemon: &mut Daemon) -> usize {
    let shapes = tables();
    let marks = |op: Op| -> Vec<_> {
        read.iter().map(|&table| (&shapes[table], mark(op, shapes[table].columns.len()))).collect()
    };
    daemon.push(frame(&marks(Op::SweepBegin), !cut));
    let mut moves = meanwhile.iter();
    for &table in read {
        let mut after = -1;
        loop {
            let piece: Vec<i64> = source.rows[table].range(after + 1..).map(|(key, _)| *key).take(2).collect();
            let Some(last) = piece.last() else { break };
            let rows = piece.iter().map(|key| (&shapes[table], Change::new(Op::Read, source.rows[table][key].clone())));
            daemon.push(frame(&rows.collect::<Vec<_>>(), !cut));
            after = *last;
            if let Some(step) = moves.next() {
                play(source, &[*step], false, daemon);
            }
        }
    }
    daemon.push(frame(&marks(Op::SweepEnd), true));
    meanwhile.len() - moves.len()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_row_that_was_deleted_while_nobody_looked_is_gone_once_its_table_was_read_anew(
        before in prop::collection::vec((any::<u8>(), 0_u8..10, any::<u32>(), any::<bool>()), 1..30),
        meanwhile in prop::collection::vec((any::<u8>(), 0_u8..10, any::<u32>(), any::<bool>()), 0..12),
        after in prop::collection::vec((any::<u8>(), 0_u8..10, any::<u32>(), any::<bool>()), 0..6),
        cut: bool,
        together: bool,
        crashes in prop::collection::vec(
            prop_oneof![3 => Just(None), 1 => Just(Some(Crash::Before)), 1 => Just(Some(Crash::After))], 0..80),
    ) {
        let shapes = tables();
        let mut outboxes = Vec::new();
        for crashes in [&[], crashes.as_slice()] {
            let mut daemon = Daemon::new(&MAPPINGS).with_chunk(3);
            daemon.memory.crashes.borrow_mut().extend(crashes);
            let mut source = Source { is_clean: true, ..Source::default() };
            let first = (&shapes[1], Change::insert([7.into(), "W9".into()]));
            source.rows[1].insert(7, first.1.values.clone());
            daemon.push(frame(&[first], true));
            play(&mut source, &before, true, &mut daemon);
            // As where the log has a gap, or where somebody doubts one table.
            for read in if together { vec![vec![0, 1]] } else { vec![vec![0], vec![1]] } {
                read_anew(&read, &mut source, &meanwhile, cut, &mut daemon);
            }
            play(&mut source, &after, false, &mut daemon);

            let mut fresh = Daemon::new(&MAPPINGS);
            for table in [1, 0] {
                let rows = source.rows[table].values().map(|row| (&shapes[table], Change::new(Op::Read, row.clone())));
                fresh.push(frame(&rows.collect::<Vec<_>>(), true));
            }
            prop_assert_eq!(current(&daemon), current(&fresh));
            for space in [Space::Contributions, Space::Rows] {
                prop_assert_eq!(daemon.memory.pairs(space).len(), fresh.memory.pairs(space).len());
            }
            outboxes.push(daemon.memory.outbox.borrow().clone());
        }
        prop_assert!(outboxes[0] == outboxes[1], "the outbox is the same byte for byte");
    }

    #[test]
    fn a_sweep_takes_nothing_back_of_what_is_there_nor_of_what_is_held(
        before in prop::collection::vec((any::<u8>(), 0_u8..10, any::<u32>(), any::<bool>()), 1..30),
        meanwhile in prop::collection::vec((any::<u8>(), 0_u8..10, any::<u32>(), any::<bool>()), 0..12),
        cut: bool,
    ) {
        let shapes = tables();
        let (mut swept, mut calm) = (Daemon::new(&cuts::MAPPINGS), Daemon::new(&cuts::MAPPINGS));
        let (mut source, mut same) = (Source::default(), Source::default());
        for (daemon, source) in [(&mut swept, &mut source), (&mut calm, &mut same)] {
            let groups = [0, 1, 2].map(|key: i64| (&shapes[1], Change::insert([key.into(), "W0".into()])));
            for (key, (_, group)) in (0..).zip(&groups) {
                source.rows[1].insert(key, group.values.clone());
            }
            daemon.push(frame(&groups, true));
            play(source, &before, false, daemon);
        }
        for table in [0, 1] {
            let came = read_anew(&[table], &mut source, &meanwhile, cut, &mut swept);
            play(&mut same, &meanwhile[..came], false, &mut calm);
        }
        let look = |daemon: &Daemon| cuts::seen(daemon, &mut Current::default(), &mut 0);
        prop_assert_eq!(look(&swept), look(&calm));
    }
}
