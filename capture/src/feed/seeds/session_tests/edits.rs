//! Random edits of the folder and deaths of the reader, wherever they fall.

use std::collections::BTreeSet;
use std::fs;

use proptest::prelude::*;

use super::super::session::Step;
use super::world::{NARROW, State, World};
use crate::CaptureError;

/// A step of the operator, and how the reader fares at it.
#[derive(Debug, Clone)]
struct Edit {
    table: usize,
    /// Shape and rows; none removes the file.
    content: Option<(u8, Vec<(u8, u8)>)>,
    /// Calls of the log before each death; the reader comes through at the end where `recovers`.
    deaths: Vec<u32>,
    survivors: usize,
    recovers: bool,
}

const TABLES: [&str; 3] = ["alias", "region", "uom"];

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let rows = proptest::collection::vec((0..12_u8, 0..3_u8), 0..12);
    let content = prop_oneof![1 => Just(None), 6 => (0..4_u8, rows).prop_map(Some)];
    let deaths = proptest::collection::vec(0..14_u32, 0..3);
    let edit = (0..TABLES.len(), content, deaths, 0..6_usize, any::<bool>())
        .prop_map(|(table, content, deaths, survivors, recovers)| Edit { table, content, deaths, survivors, recovers });
    proptest::collection::vec(edit, 1..7)
}

impl World {
    fn edit(&mut self, table: &str, content: Option<&(u8, Vec<(u8, u8)>)>) {
        self.config.tables.remove(table);
        let Some((shape, rows)) = content else {
            let _ = fs::remove_file(self.config.file(table));
            return;
        };
        let header = match shape {
            1 => {
                self.declare(table, &[], &[("num", "integer")]);
                "code,num"
            }
            2 => {
                self.declare(table, &["code", "num"], &[("num", "decimal(9,2)")]);
                "code,num"
            }
            3 => "num,code,more",
            _ => "code,num",
        };
        let mut text = format!("{header}\n");
        let mut codes = BTreeSet::new();
        for (code, num) in rows.iter().filter(|(code, _)| codes.insert(*code)) {
            let line = if *shape == 3 { format!("{code},{num},x\n") } else { format!("{code},{num}\n") };
            text.push_str(&line);
        }
        self.write(table, &text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_edited_and_wherever_it_dies_the_log_folds_to_the_folder(edits in edits()) {
        let mut world = World::new();
        let mut meant = vec![State::new()];
        for edit in &edits {
            world.edit(TABLES[edit.table], edit.content.as_ref());
            meant.push(world.folder());
            for calls in &edit.deaths {
                world.log.die_after(*calls);
                let lived = world.live(NARROW);
                prop_assert!(lived.is_ok() || matches!(lived, Err(CaptureError::Log { .. })), "{:?}", lived);
                world.log.crash(edit.survivors);
            }
            if edit.recovers {
                prop_assert_eq!(world.live(NARROW).unwrap(), Step::Loaded);
                let states = world.log.states();
                prop_assert_eq!(states.last().cloned().unwrap_or_default(), world.folder());
                let entries = world.log.len();
                prop_assert_eq!(world.live(NARROW).unwrap(), Step::Loaded);
                prop_assert_eq!(world.log.len(), entries, "an unchanged folder says nothing");
            }
            for state in world.log.states() {
                prop_assert!(meant.contains(&state), "a state that the folder never was in");
            }
        }
    }
}
