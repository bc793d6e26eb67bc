//! The store: atomic, ordered, bounded; and log against store.

use syncline_schemas::ident::{LogOffset, Position, SourceId};

use super::{Commit, Durability, Space, Store};
use crate::journal::{Journal, OpenLog, TRANSFORM_CURSOR};
use crate::{JournalError, Limits, Log};

fn keys(store: &Store, space: Space) -> Vec<Vec<u8>> {
    store.scan(space, ..).map(|entry| entry.unwrap().0.to_vec()).collect()
}

#[test]
fn a_commit_over_all_spaces_is_read_back_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    for durability in [Durability::Buffered, Durability::Synced] {
        let store = Store::open(dir.path(), Limits::default()).unwrap();
        let mut commit = Commit::new();
        Space::ALL.iter().for_each(|space| commit.put(*space, "key", vec![*space as u8; 5000]));
        commit.put_cursor(TRANSFORM_CURSOR, 42);
        store.commit(commit, durability).unwrap();
        drop(store);
        let store = Store::open(dir.path(), Limits::default()).unwrap();
        for space in Space::ALL {
            assert_eq!(*store.get(space, b"key").unwrap().unwrap(), vec![space as u8; 5000]);
        }
        assert_eq!(store.cursor(TRANSFORM_CURSOR).unwrap(), Some(42));
        assert_eq!(store.cursor("planning").unwrap(), None);
        let mut commit = Commit::new();
        Space::ALL.iter().for_each(|space| commit.delete(*space, "key"));
        store.commit(commit, durability).unwrap();
        assert!(Space::ALL.iter().all(|space| store.get(*space, b"key").unwrap().is_none()));
    }
}

#[test]
fn the_last_change_to_a_key_in_a_commit_counts_also_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Limits::default()).unwrap();
    let mut commit = Commit::new();
    commit.put(Space::Entities, "gone", "1");
    commit.delete(Space::Entities, "gone");
    commit.delete(Space::Entities, "back");
    commit.put(Space::Entities, "back", "1");
    commit.put(Space::Entities, "back", "2");
    store.commit(commit, Durability::Synced).unwrap();
    let check = |store: &Store| {
        assert!(store.get(Space::Entities, b"gone").unwrap().is_none());
        assert_eq!(*store.get(Space::Entities, b"back").unwrap().unwrap(), *b"2");
        assert_eq!(keys(store, Space::Entities), [b"back"]);
    };
    check(&store);
    drop(store);
    check(&Store::open(dir.path(), Limits::default()).unwrap());
}

#[test]
fn a_scan_is_ordered_and_does_not_see_later_commits() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Limits::default()).unwrap();
    let put = |n: u64| {
        let mut commit = Commit::new();
        commit.put(Space::Outbox, n.to_be_bytes(), vec![0; 2000]);
        store.commit(commit, Durability::Buffered).unwrap();
    };
    (0..10).rev().for_each(put);
    let from = 4_u64.to_be_bytes();
    let scan = store.scan(Space::Outbox, from.as_slice()..);
    put(10);
    let seen: Vec<_> = scan.map(|entry| entry.unwrap().0.to_vec()).collect();
    assert_eq!(seen, (4..10_u64).map(|n| n.to_be_bytes().to_vec()).collect::<Vec<_>>());
    let newest = store.scan(Space::Outbox, ..).next_back().unwrap().unwrap();
    assert_eq!((&*newest.0, newest.1.len()), (10_u64.to_be_bytes().as_slice(), 2000));
    assert_eq!(store.scan_prefix(Space::Outbox, &[0; 7]).count(), 11);
}

#[test]
fn a_key_that_the_store_would_panic_on_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Limits::default()).unwrap();
    for key in [Vec::new(), vec![1; 70_000]] {
        let mut commit = Commit::new();
        commit.put(Space::Held, "fine", "1");
        commit.put(Space::Held, key, "1");
        let refused = store.commit(commit, Durability::Buffered).unwrap_err();
        assert!(matches!(refused, JournalError::StateTooLarge { what: "a key", space: Space::Held, .. }), "{refused}");
    }
    assert!(keys(&store, Space::Held).is_empty());
}

#[test]
fn more_state_than_its_buffers_is_written_out_and_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Limits { cache_bytes: 1 << 20, ..Limits::default() }).unwrap();
    for n in 0..200_u8 {
        let mut commit = Commit::new();
        for i in 0..500_u32 {
            commit.put(Space::Contributions, [&i.to_be_bytes()[..], &[n]].concat(), vec![n; 150]);
        }
        store.commit(commit, Durability::Buffered).unwrap();
    }
    for n in (0..200_u8).step_by(7) {
        let value = store.get(Space::Contributions, &[&123_u32.to_be_bytes()[..], &[n]].concat()).unwrap();
        assert_eq!(*value.unwrap(), [n; 150]);
    }
    assert_eq!(store.scan(Space::Contributions, ..).count(), 100_000);
}

fn move_cursor(journal: &Journal, at: u64) {
    let mut commit = Commit::new();
    commit.put_cursor(TRANSFORM_CURSOR, at);
    journal.store.commit(commit, Durability::Synced).unwrap();
}

fn filled(dir: &std::path::Path) -> Journal {
    let journal = Journal::open(dir, Limits { segment_bytes: 4096, ..Limits::default() }).unwrap();
    append(&journal.log, 100);
    journal
}

fn append(log: &Log, entries: u64) {
    let mut last = LogOffset(0);
    for _ in 0..entries {
        last = log.append(&SourceId::new("erp"), &Position::default(), true, vec![0; 200]).unwrap();
    }
    log.wait_durable(last, std::time::Duration::from_secs(60)).unwrap();
}

#[test]
fn a_second_daemon_on_the_folder_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let journal = filled(dir.path());
    let refused = Journal::open(dir.path(), Limits::default()).err().unwrap();
    assert!(matches!(&refused, JournalError::Locked { path } if path.ends_with("lock")), "{refused}");
    drop(journal);
    assert!(Journal::open(dir.path(), Limits::default()).is_ok());
}

#[test]
fn a_lost_log_under_a_newer_state_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let journal = filled(dir.path());
    move_cursor(&journal, 100);
    drop(journal);
    std::fs::remove_dir_all(dir.path().join("log")).unwrap();
    let refused = Journal::open(dir.path(), Limits::default()).err().unwrap();
    let JournalError::StateAheadOfLog { applied, last, .. } = refused else { panic!("{refused}") };
    assert_eq!((applied, last), (LogOffset(100), LogOffset(0)));
}

/// What a source sends while the state is being opened.
fn append_while_opening(data_dir: &std::path::Path, entries: u64) {
    let opening = OpenLog::open(data_dir, Limits::default()).unwrap();
    append(&opening.log, entries);
}

#[test]
fn entries_captured_before_the_state_was_open_do_not_hide_that_the_log_was_lost() {
    let dir = tempfile::tempdir().unwrap();
    let journal = filled(dir.path());
    move_cursor(&journal, 100);
    drop(journal);
    std::fs::remove_dir_all(dir.path().join("log")).unwrap();
    append_while_opening(dir.path(), 150);
    append_while_opening(dir.path(), 150);
    let refused = Journal::open(dir.path(), Limits::default()).err().unwrap();
    let JournalError::StateAheadOfLog { applied, last, .. } = refused else { panic!("{refused}") };
    assert_eq!((applied, last), (LogOffset(100), LogOffset(0)));
}

#[test]
fn a_note_of_the_logs_end_that_was_torn_refuses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let journal = filled(dir.path());
    move_cursor(&journal, 100);
    drop(journal);
    for torn in ["", "1", "10", "\0\0"] {
        std::fs::write(dir.path().join("log-end"), torn).unwrap();
        assert!(Journal::open(dir.path(), Limits::default()).is_ok(), "{torn:?}");
    }
}

#[test]
fn a_kill_while_the_state_is_being_opened_leaves_a_folder_that_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let journal = filled(dir.path());
    move_cursor(&journal, 100);
    drop(journal);
    append_while_opening(dir.path(), 50);
    let journal = Journal::open(dir.path(), Limits::default()).unwrap();
    assert_eq!(journal.log.durable(), LogOffset(150));
    move_cursor(&journal, 150);
    drop(journal);
    assert!(Journal::open(dir.path(), Limits::default()).is_ok(), "what was noted is forgotten");
}

#[test]
fn a_lost_state_under_a_trimmed_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let journal = filled(dir.path());
    move_cursor(&journal, 60);
    journal.trim(LogOffset(100)).unwrap();
    let first = journal.log.first();
    assert!(first > LogOffset(1) && first <= LogOffset(61), "nothing is trimmed that the state needs: {first}");
    drop(journal);
    std::fs::remove_dir_all(dir.path().join("state")).unwrap();
    let refused = Journal::open(dir.path(), Limits::default()).err().unwrap();
    assert!(matches!(refused, JournalError::StateBehindLog { applied: LogOffset(0), .. }), "{refused}");
}

#[test]
fn a_generation_counts_from_its_switch_on_and_leaves_nothing_of_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let put = |store: &Store, value: &str| {
        let mut commit = Commit::new();
        commit.put(Space::Entities, "row", value);
        commit.put(Space::Outbox, value, value);
        store.commit(commit, Durability::Synced).unwrap();
    };
    let read = |store: &Store| store.get(Space::Entities, b"row").unwrap().map(|value| value.to_vec());
    let store = Store::open(dir.path(), Limits::default()).unwrap();
    put(&store, "older");
    let moment = store.snapshot();
    let newer = store.rebuilt().unwrap();
    assert_eq!(read(&newer), None, "it begins with nothing");
    put(&newer, "newer");
    assert_eq!(read(&store.current()), Some(b"older".to_vec()));
    assert_eq!(keys(&store, Space::Outbox), [b"newer", b"older"], "the outbox is of no generation");
    drop((store, newer, moment));

    let store = Store::open(dir.path(), Limits::default()).unwrap();
    assert_eq!(read(&store), Some(b"older".to_vec()), "a killed process goes on where it was");
    let newer = store.rebuilt().unwrap();
    assert_eq!(read(&newer), Some(b"newer".to_vec()));
    store.remove_other_generations().unwrap();
    let newer = store.rebuilt().unwrap();
    assert_eq!(read(&newer), None, "what was given up does not come back");
    put(&newer, "newest");
    let moment = store.snapshot();
    newer.switch(Commit::new()).unwrap();
    assert_eq!(read(&store.current()), Some(b"newest".to_vec()));
    assert_eq!(moment.get(Space::Entities, b"row").unwrap().unwrap().to_vec(), b"older", "a moment stays what it was");
}

#[test]
fn a_log_that_was_not_mounted_once_refuses_nothing_later() {
    let dir = tempfile::tempdir().unwrap();
    let journal = filled(dir.path());
    move_cursor(&journal, 100);
    drop(journal);
    let aside = dir.path().join("aside");
    std::fs::rename(dir.path().join("log"), &aside).unwrap();
    assert!(matches!(Journal::open(dir.path(), Limits::default()), Err(JournalError::StateAheadOfLog { .. })));
    std::fs::remove_dir_all(dir.path().join("log")).unwrap();
    std::fs::rename(&aside, dir.path().join("log")).unwrap();
    assert!(Journal::open(dir.path(), Limits::default()).is_ok());
}

#[test]
fn nobody_opens_a_folder_that_an_older_handle_may_still_write_to() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), Limits::default()).unwrap();
    let Journal { log, store, .. } = journal;
    drop(log);
    assert!(matches!(Journal::open(dir.path(), Limits::default()), Err(JournalError::Locked { .. })));
    drop(store);
    assert!(Journal::open(dir.path(), Limits::default()).is_ok());
}

#[test]
fn a_long_merge_lets_no_buffer_grow_in_memory() {
    use fjall::AbstractTree as _;

    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Limits::default()).unwrap();
    for round in 0_u32..200 {
        let mut commit = Commit::new();
        for row in 0_u32..1_000 {
            let key = (row.wrapping_mul(2_654_435_761) ^ round).to_be_bytes();
            commit.put(Space::Entities, key, vec![7; 200]);
        }
        store.commit(commit, Durability::Buffered).unwrap();
        for space in Space::ALL {
            let bytes = store.space(space).tree.active_memtable().size();
            assert!(bytes <= space.write_buffer_bytes(), "{space:?} holds {bytes} bytes after commit {round}");
        }
    }
}

#[test]
fn what_was_removed_gives_its_disk_back_when_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Limits::default()).unwrap();
    for n in 0..40_u64 {
        let mut commit = Commit::new();
        commit.put(Space::Outbox, n.to_be_bytes(), vec![1; 1 << 20]);
        store.commit(commit, Durability::Buffered).unwrap();
    }
    let mut commit = Commit::new();
    (0..39_u64).for_each(|n| commit.delete(Space::Outbox, n.to_be_bytes()));
    store.commit(commit, Durability::Buffered).unwrap();
    store.give_back(Space::Outbox).unwrap();
    let bytes = |folder: &str| -> u64 {
        let files = walk(&dir.path().join(folder));
        files.iter().map(|file| std::fs::metadata(file).map_or(0, |file| file.len())).sum()
    };
    assert!(bytes("keyspaces") < 8 << 20, "{} bytes are left of 40 MiB", bytes("keyspaces"));
    assert_eq!(keys(&store, Space::Outbox), [39_u64.to_be_bytes()]);
    store.give_back(Space::Outbox).unwrap();
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
