//! The reader against a log that forgets what was not durable: every change in it, whatever breaks off where.

mod edits;
mod world;

use std::fs;

use syncline_schemas::frame::{Frame, LogEntry};
use syncline_schemas::ident::{LogOffset, Position};

use self::world::{NARROW, WIDE, World, later, rested};
use super::config::ShapeJudge;
use super::session::{Session, Step, run};
use crate::{LogSink, Outcome, Progress, Resume, StopSignal};

#[test]
fn only_the_difference_reaches_the_log_and_what_changed_together_is_one_frame() {
    let world = World::new();
    world.write("uom", "code,num\nKG,1\nLB,2\nT,3\n");
    world.write("region", "code,name\nN,North\n");
    world.load();
    assert_eq!(
        world.log.rows_since(0),
        ["Read seeds.region N", "Read seeds.uom KG", "Read seeds.uom LB", "Read seeds.uom T"]
    );
    assert!(world.log.frames().len() == 1 && world.log.frames()[0].txn_end);

    let before = world.log.len();
    world.write("uom", "code,num\nNEW,9\nT,3\nKG,1.0\n");
    world.write("region", "code,name\nN,North\nS,\n");
    world.load();
    assert_eq!(
        world.log.rows_since(before),
        ["Insert seeds.region S", "Delete seeds.uom LB", "Insert seeds.uom NEW", "Update seeds.uom KG"]
    );
    assert_eq!(world.log.frames().len(), 2, "one frame for both files");
    assert_eq!(world.log.states().pop(), Some(world.folder()));

    let before = world.log.len();
    world.write("uom", "code,num\nNEW,9\nT,3\nKG,1.0\n");
    world.load();
    assert_eq!(world.log.len(), before, "written again with the same content");
    world.write("uom", "\u{feff}code,\"num\"\r\nT,3\r\nKG,1.0\r\nNEW,9\r\n");
    world.load();
    assert_eq!(world.log.rows_since(before), Vec::<String>::new(), "the same rows in another form");
    assert_eq!(world.kept_files(), 2, "what nothing names any longer is gone");

    let before = world.log.len();
    fs::remove_file(world.config.file("uom")).unwrap();
    world.load();
    assert_eq!(
        world.log.rows_since(before),
        ["Delete seeds.uom T", "Delete seeds.uom KG", "Delete seeds.uom NEW"],
        "a file that is gone takes its rows along"
    );
    assert_eq!(world.log.states().pop(), Some(world.folder()));
}

#[test]
fn a_large_file_takes_several_frames_of_one_transaction() {
    let world = World::new();
    let rows: String = (0..8).map(|i| format!("{i},x\n")).collect();
    world.write("big", &format!("code,text\n{rows}"));
    assert_eq!(world.live(NARROW).unwrap(), Step::Loaded);
    let frames = world.log.frames();
    assert_eq!(frames.iter().map(Frame::row_count).collect::<Vec<_>>(), [3, 3, 2]);
    assert_eq!(frames.iter().map(|frame| frame.txn_end).collect::<Vec<_>>(), [false, false, true]);
    assert_eq!(world.log.states(), [world.folder()]);
}

#[test]
fn another_type_brings_a_new_shape_and_every_row_again() {
    let mut world = World::new();
    world.write("uom", "code,num\nKG,1\nLB,2\n");
    world.load();
    let before = world.log.len();
    world.declare("uom", &[], &[("num", "decimal(28,9)")]);
    world.load();
    assert_eq!(world.log.rows_since(before), ["Update seeds.uom KG", "Update seeds.uom LB"]);
    let LogEntry::Schema(shape) = &world.log.entries()[before] else { panic!("the shape precedes its rows") };
    assert_eq!(shape.columns[1].source_type, "decimal(28,9)");
    assert_eq!(world.log.states().pop(), Some(world.folder()));

    let before = world.log.frames().len();
    world.declare("uom", &["num"], &[("num", "decimal(28,9)")]);
    world.load();
    let ends: Vec<bool> = world.log.frames()[before..].iter().map(|frame| frame.txn_end).collect();
    assert_eq!(ends, [false, true], "rows under another key: the old ones go, in one transaction with the new ones");
    assert_eq!(world.log.states().pop(), Some(world.folder()));
}

#[test]
fn a_fault_leaves_all_rows_in_force_until_the_folder_is_mended() {
    let world = World::new();
    world.write("uom", "code,num\nKG,1\n");
    world.write("region", "code,name\nN,North\n");
    let (progress, stop) = (Progress::default(), StopSignal::default());
    let mut session = Session::new(&world.config, &world.log, &progress, &stop, WIDE);
    assert_eq!(session.resume(None).unwrap(), Step::Waiting);
    assert_eq!(session.look(later()).unwrap(), Step::Loaded);
    let loaded = (world.log.len(), world.folder());

    world.write("uom", "code,num\nKG,2\nKG,3\n");
    world.write("region", "code,name\nN,Nord\n");
    assert_eq!(rested(&mut session), Step::Refused);
    let problem = progress.problem().expect("a problem");
    assert!(problem.contains("uom.csv:3: column code: has the key of line 2"), "{problem}");
    assert_eq!(session.look(later()).unwrap(), Step::Waiting, "not again before it changes");
    assert_eq!(world.log.len(), loaded.0, "the good file of the two waits, too");

    fs::rename(&world.config.dir, world.config.dir.with_extension("away")).unwrap();
    assert_eq!(session.look(later()).unwrap(), Step::Refused, "a folder that is gone is no folder that is empty");
    assert!(progress.problem().expect("a problem").contains("make the folder"));
    fs::rename(world.config.dir.with_extension("away"), &world.config.dir).unwrap();
    assert_eq!(session.look(later()).unwrap(), Step::Refused);
    assert!(progress.problem().expect("a problem").contains("uom.csv:3"));
    assert_eq!(world.log.states().pop(), Some(loaded.1));

    world.write("uom", "code,num\nKG,2\n");
    assert_eq!(rested(&mut session), Step::Loaded);
    assert_eq!(progress.problem(), None);
    assert_eq!(world.log.states().pop(), Some(world.folder()));
}

#[test]
fn a_position_or_a_kept_content_that_cannot_be_used_stops_the_source_with_its_name() {
    let world = World::new();
    world.write("uom", "code,num\nKG,1\n");
    world.load();
    let refused = |resume: Resume| {
        let (progress, stop) = (Progress::default(), StopSignal::default());
        let mut session = Session::new(&world.config, &world.log, &progress, &stop, WIDE);
        session.resume(Some(&resume)).and_then(|_| session.look(later())).expect_err("refused").to_string()
    };
    let good = world.log.resume().unwrap();
    for bytes in [vec![9, 1, 0, 0], vec![1, 7, 0, 0], vec![1], [good.position.as_bytes(), &[0]].concat()] {
        let text = refused(Resume { position: Position::new(bytes), txn_end: true });
        assert!(text.starts_with("source seeds: the journal's position: "), "{text}");
    }
    assert!(refused(Resume { txn_end: false, ..good.clone() }).contains("contradicts its frame"));
    // The old content is needed as soon as the file is another one.
    world.write("uom", "code,num\nKG,2\n");
    for entry in fs::read_dir(&world.config.kept).unwrap() {
        fs::write(entry.unwrap().path(), "code,num\nKG,7\n").unwrap();
    }
    let text = refused(good.clone());
    assert!(text.contains("is damaged"), "{text}");
}

#[test]
fn a_drain_ends_once_everything_is_durable_and_fails_on_a_fault() {
    let mut world = World::new();
    world.config.drain = true;
    world.write("uom", "code,num\nKG,1\n");
    let (progress, stop) = (Progress::default(), StopSignal::default());
    let drained = run(&world.config, None, &world.log, &progress, &stop).unwrap();
    assert_eq!(drained, Outcome::Drained);
    assert_eq!(world.log.durable().unwrap(), LogOffset(world.log.len() as u64));
    world.write("uom", "code,num\nKG\n");
    let error = run(&world.config, world.log.resume(), &world.log, &progress, &stop).expect_err("a fault").to_string();
    assert!(error.contains("uom.csv:2: has 1 cells"), "{error}");
    stop.stop();
    let stopped = run(&world.config, world.log.resume(), &world.log, &progress, &stop).unwrap();
    assert_eq!(stopped, Outcome::Stopped);
}

#[test]
fn a_shape_that_nobody_can_take_is_refused_before_it_is_in_the_log() {
    let mut world = World::new();
    world.write("uom", "code,num\nKG,1\n");
    world.load();
    let before = world.log.len();
    world.config.judge = ShapeJudge::new(|before, shape| {
        assert_eq!(before.expect("the shape in the log").columns[1].name, "num");
        shape.columns.iter().all(|column| column.name != "num").then(|| "a mapping needs num".to_owned())
    });
    world.write("uom", "code,number\nKG,1\n");
    assert_eq!(world.live(WIDE).unwrap(), Step::Refused);
    assert_eq!(world.log.len(), before);
    world.write("uom", "code,num,more\nKG,1,x\n");
    world.load();
    assert_eq!(world.log.states().pop(), Some(world.folder()));
}
