//! The journal on a real disk: its process is killed, or its disk is full, while it writes.
//!
//! Each test starts this test binary again as a child that runs one `child_*` test with a folder in its environment. The
//! child prints what it was promised; the parent kills it in the middle and holds the journal to that.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its children share")]

use std::env;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use syncline_journal::{Commit, Durability, Journal, JournalError, Limits, Log, SPOOL_DIR, Space, Store};
use syncline_schemas::ident::{LogOffset, Position, SourceId};

const FOLDER: &str = "SYNCLINE_JOURNAL_TEST_FOLDER";
const PATIENCE: Duration = Duration::from_secs(60);

fn folder() -> Option<PathBuf> {
    env::var_os(FOLDER).map(PathBuf::from)
}

/// Runs one `child_*` test on a folder; with a limit in 512-byte blocks, no file of it may grow beyond.
fn child(name: &str, folder: &Path, file_blocks: Option<u64>) -> Child {
    let limit = file_blocks.map_or(String::new(), |blocks| format!("trap '' XFSZ; ulimit -f {blocks};"));
    Command::new("sh")
        .args(["-c", &format!("{limit} exec \"$0\" --exact {name} --nocapture --test-threads 1")])
        .arg(env::current_exe().unwrap())
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The numbers that a child prints after a word.
fn promises(child: &mut Child, word: &'static str) -> impl Iterator<Item = u64> + use<> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.filter_map(move |line| line.ok()?.rsplit_once(word)?.1.trim().parse().ok())
}

/// Lets a child promise `count` times, kills it, and returns its last promise.
fn kill_after(mut child: Child, count: usize) -> u64 {
    let mut promises = promises(&mut child, "promised ");
    let seen = promises.by_ref().take(count).last().expect("the child promises something");
    child.kill().unwrap();
    child.wait().unwrap();
    promises.last().unwrap_or(seen)
}

fn payload(offset: u64) -> Vec<u8> {
    let bytes = usize::try_from(offset * 7919 % 20_000).unwrap();
    (0..bytes).map(|i| u8::try_from((offset + i as u64) % 251).unwrap()).collect()
}

fn small() -> Limits {
    Limits { segment_bytes: 1 << 20, ..Limits::default() }
}

#[test]
fn child_appends() {
    let Some(folder) = folder() else { return };
    let log = Log::open(&folder, small()).unwrap();
    let mut offset = log.durable();
    loop {
        let mut append = || {
            let next = offset.next();
            offset = log.append(
                &SourceId::new("erp"),
                &Position::new(next.0.to_be_bytes().to_vec()),
                true,
                payload(next.0),
            )?;
            if offset.0.is_multiple_of(8) { log.wait_durable(offset, PATIENCE) } else { Ok(log.durable()) }
        };
        match append() {
            Ok(durable) => println!("promised {durable}"),
            Err(JournalError::LogFailed { durable, .. }) => return println!("failed {durable}"),
            Err(error) => panic!("{error}"),
        }
    }
}

fn check_log(folder: &Path, promised: u64) {
    let log = Log::open(folder, small()).unwrap();
    assert!(log.durable().0 >= promised, "promised {promised}, has {}", log.durable());
    let mut reader = log.reader(LogOffset::START).unwrap();
    for offset in 1..=log.durable().0 {
        let record = reader.next().unwrap().expect("no gap");
        assert_eq!((record.offset.0, record.payload), (offset, payload(offset)));
    }
    assert_eq!(reader.next().unwrap(), None);
    let resume = log.resume(&SourceId::new("erp")).unwrap();
    assert_eq!(resume.position.as_bytes(), log.durable().0.to_be_bytes());
}

#[test]
fn log_of_a_daemon_killed_again_and_again_keeps_what_it_promised() {
    let folder = tempfile::tempdir().unwrap();
    for round in 1..=8 {
        let promised = kill_after(child("child_appends", folder.path(), None), 37 * round);
        check_log(folder.path(), promised);
    }
}

#[test]
fn log_on_a_full_disk_fails_by_name_and_goes_on_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut full = child("child_appends", folder.path(), Some(1000));
    let durable = promises(&mut full, "failed ").last().expect("the child reports the failure");
    assert!(full.wait().unwrap().success() && durable > 0);
    check_log(folder.path(), durable);
    kill_after(child("child_appends", folder.path(), None), 20);
    check_log(folder.path(), durable + 1);
}

#[test]
fn child_commits() {
    let Some(folder) = folder() else { return };
    let store = Store::open(&folder, Limits::default()).unwrap();
    let mut at = store.cursor("transform").unwrap().unwrap_or_default();
    loop {
        at += 1;
        let mut commit = Commit::new();
        for space in [Space::Contributions, Space::Entities, Space::Rows, Space::Outbox] {
            commit.put(space, at.to_be_bytes(), payload(at));
        }
        commit.put_cursor("transform", at);
        let durability = if at.is_multiple_of(5) { Durability::Synced } else { Durability::Buffered };
        match store.commit(commit, durability) {
            Ok(()) => println!("promised {at}"),
            Err(JournalError::StateFailed { .. }) => return println!("failed {}", at - 1),
            Err(error) => panic!("{error}"),
        }
    }
}

fn check_store(folder: &Path, promised: u64) {
    let store = Store::open(folder, Limits::default()).unwrap();
    let at = store.cursor("transform").unwrap().unwrap();
    assert!(at >= promised, "promised {promised}, has {at}");
    for space in [Space::Contributions, Space::Entities, Space::Rows, Space::Outbox] {
        let mut keys = 0;
        for entry in store.scan(space, ..) {
            let (key, value) = entry.unwrap();
            keys += 1;
            assert_eq!((*key).to_vec(), u64::to_be_bytes(keys), "{space:?}");
            assert_eq!(*value, payload(keys), "{space:?}");
        }
        assert_eq!(keys, at, "{space:?} has all commits and no other");
    }
}

#[test]
fn commits_of_a_killed_daemon_are_in_every_space_or_in_none() {
    let folder = tempfile::tempdir().unwrap();
    for round in 1..=6 {
        let promised = kill_after(child("child_commits", folder.path(), None), 131 * round);
        check_store(folder.path(), promised);
    }
}

#[test]
fn state_on_a_full_disk_fails_by_name_and_does_not_hang() {
    let folder = tempfile::tempdir().unwrap();
    drop(Store::open(folder.path(), Limits::default()).unwrap());
    // The store's own journal begins with 64 MiB; a little more than that is the disk.
    let mut full = child("child_commits", folder.path(), Some(66 * 2048));
    let committed = promises(&mut full, "failed ").last().expect("the child reports the failure");
    assert!(full.wait().unwrap().success() && committed > 0);
    check_store(folder.path(), committed);
}

#[test]
fn child_switches_generations() {
    let Some(folder) = folder() else { return };
    let mut store = Store::open(&folder, Limits::default()).unwrap();
    for generation in 1..=3_u64 {
        let newer = store.rebuilt().unwrap();
        let mut commit = Commit::new();
        commit.put(Space::Entities, "row", generation.to_be_bytes());
        newer.commit(commit, Durability::Buffered).unwrap();
        newer.switch(Commit::new()).unwrap();
        store = newer;
        println!("promised {generation}");
    }
    // One that is given up on the way.
    let mut commit = Commit::new();
    commit.put(Space::Entities, "row", 9_u64.to_be_bytes());
    store.rebuilt().unwrap().commit(commit, Durability::Synced).unwrap();
    println!("promised 4");
    std::thread::park();
}

#[test]
fn generations_of_a_killed_daemon_leave_the_one_that_counts_and_no_disk_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = child("child_switches_generations", folder.path(), None);
    assert_eq!(promises(&mut child, "promised ").nth(3), Some(4));
    child.kill().unwrap();
    child.wait().unwrap();
    let store = Store::open(folder.path(), Limits::default()).unwrap();
    assert_eq!(*store.get(Space::Entities, b"row").unwrap().unwrap(), 3_u64.to_be_bytes());
    let given_up = store.rebuilt().unwrap();
    assert_eq!(*given_up.get(Space::Entities, b"row").unwrap().unwrap(), 9_u64.to_be_bytes(), "it could go on");
    let spaces = || std::fs::read_dir(folder.path().join("keyspaces")).unwrap().count();
    // The store's own space beside ours.
    assert_eq!(spaces(), 1 + Space::ALL.len() + 6, "those of two generations");
}

#[test]
fn child_holds_the_journal() {
    let Some(folder) = folder() else { return };
    let _journal = Journal::open(&folder, Limits::default()).unwrap();
    println!("promised 1");
    std::thread::park();
}

#[test]
fn lock_of_a_killed_daemon_does_not_keep_the_next_one_out_nor_does_what_it_left() {
    let folder = tempfile::tempdir().unwrap();
    let mut holder = child("child_holds_the_journal", folder.path(), None);
    promises(&mut holder, "promised ").next().unwrap();
    let spooled = folder.path().join(SPOOL_DIR).join("erp");
    std::fs::create_dir_all(&spooled).unwrap();
    std::fs::write(spooled.join("742"), "a transaction in progress").unwrap();
    let refused = Journal::open(folder.path(), Limits::default()).err().unwrap();
    assert!(matches!(refused, JournalError::Locked { .. }), "{refused}");
    assert!(spooled.exists(), "it is in use");
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert!(Journal::open(folder.path(), Limits::default()).is_ok());
    assert!(!spooled.exists(), "nobody has use for it");
}
