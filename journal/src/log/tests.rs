//! The log with its thread: order, groups, limits, failure, reading, trimming.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use syncline_schemas::ident::{LogOffset, Position, SourceId};

use super::sim::{Fault, SimDisk};
use super::{Log, LogReader, Record, segment};
use crate::error::JournalError;
use crate::limits::Limits;

/// Long enough for any disk; a test that needs it has failed.
const PATIENCE: Duration = Duration::from_secs(60);

fn small() -> Limits {
    Limits { segment_bytes: 4096, queue_bytes: 2048, ..Limits::default() }
}

fn sim(limits: Limits) -> (SimDisk, Log) {
    let disk = SimDisk::new(1);
    let log = Log::open_on(Arc::new(disk.clone()), "/log".as_ref(), limits).unwrap();
    (disk, log)
}

fn append(log: &Log, source: &str, n: u64) -> Result<LogOffset, JournalError> {
    log.append(&SourceId::new(source), &Position::new(n.to_be_bytes().to_vec()), n.is_multiple_of(2), vec![7; 100])
}

fn fill(log: &Log, source: &str, count: u64) -> LogOffset {
    let last = (0..count).fold(LogOffset::START, |_, n| append(log, source, n).unwrap());
    assert!(log.wait_durable(last, PATIENCE).unwrap() >= last);
    last
}

fn read_all(reader: &mut LogReader) -> Vec<Record> {
    std::iter::from_fn(|| reader.next().unwrap()).collect()
}

#[test]
fn reopened_log_goes_on_where_each_source_was_even_a_quiet_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = Log::open(&path, small()).unwrap();
    assert_eq!((log.first(), log.durable()), (LogOffset(1), LogOffset(0)));
    append(&log, "quiet", 4).unwrap();
    fill(&log, "busy", 200);
    log.close().unwrap();
    assert!(fs::read_dir(&path).unwrap().count() > 3, "several segments");

    let log = Log::open(&path, small()).unwrap();
    assert_eq!((log.first(), log.durable()), (LogOffset(1), LogOffset(201)));
    let quiet = log.resume(&SourceId::new("quiet")).unwrap();
    assert_eq!((quiet.offset, quiet.txn_end), (LogOffset(1), true));
    let busy = log.resume(&SourceId::new("busy")).unwrap();
    assert_eq!((busy.offset, busy.position.as_bytes()), (LogOffset(201), &199_u64.to_be_bytes()[..]));
    assert_eq!(log.resume(&SourceId::new("unknown")), None);
    assert_eq!(append(&log, "busy", 200).unwrap(), LogOffset(202));
    let files: u64 = fs::read_dir(&path).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
    log.close().unwrap();
    assert!(files <= log.bytes_on_disk() && log.bytes_on_disk() < 202 * 200);
}

#[test]
fn reader_sees_every_entry_once_while_the_log_grows() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), small()).unwrap();
    let writers = ["erp", "wms"].map(|source| {
        let log = log.clone();
        std::thread::spawn(move || fill(&log, source, 500))
    });
    let mut reader = log.reader(LogOffset::START).unwrap();
    for offset in 1..=1000 {
        let record = loop {
            if let Some(record) = reader.next().unwrap() {
                break record;
            }
            log.wait_durable(LogOffset(offset), PATIENCE).unwrap();
        };
        assert_eq!((record.offset, record.payload.len()), (LogOffset(offset), 100));
    }
    assert_eq!(reader.next().unwrap(), None);
    for writer in writers {
        writer.join().unwrap();
    }
    assert_eq!(read_all(&mut log.reader(LogOffset(990)).unwrap()).len(), 10);
}

#[test]
fn what_is_not_synced_is_neither_durable_nor_read() {
    let (disk, log) = sim(Limits::default());
    disk.hold_syncs(true);
    append(&log, "erp", 0).unwrap();
    assert_eq!(log.wait_durable(LogOffset(1), Duration::ZERO).unwrap(), LogOffset::START);
    assert_eq!(log.reader(LogOffset::START).unwrap().next().unwrap(), None);
    disk.hold_syncs(false);
    assert_eq!(log.wait_durable(LogOffset(1), PATIENCE).unwrap(), LogOffset(1));
    assert_eq!(log.resume(&SourceId::new("erp")).unwrap().offset, LogOffset(1));
}

#[test]
fn whoever_waits_when_the_daemon_stops_need_not_wait_for_the_time() {
    let (_disk, log) = sim(Limits::default());
    let waiting = std::thread::spawn({
        let log = log.clone();
        move || log.wait_durable(LogOffset(1), PATIENCE)
    });
    let began = std::time::Instant::now();
    while !waiting.is_finished() {
        // It may not wait yet.
        log.wake();
        std::thread::yield_now();
    }
    assert_eq!(waiting.join().unwrap().unwrap(), LogOffset::START);
    assert!(began.elapsed() < PATIENCE);
}

#[test]
fn entries_that_arrive_during_a_sync_share_the_next_one() {
    let (disk, log) = sim(Limits::default());
    disk.hold_syncs(true);
    let before = disk.syncs();
    append(&log, "erp", 50).unwrap();
    // The writer has it and waits for the disk.
    while log.inner.shared.lock().queued_bytes > 0 {
        std::thread::yield_now();
    }
    for n in 0..50 {
        append(&log, "erp", n).unwrap();
    }
    disk.hold_syncs(false);
    log.wait_durable(LogOffset(51), PATIENCE).unwrap();
    assert_eq!(disk.syncs() - before, 2);
}

#[test]
fn slow_disk_blocks_appends_instead_of_filling_memory() {
    let (disk, log) = sim(small());
    disk.hold_syncs(true);
    let writer = std::thread::spawn({
        let log = log.clone();
        move || fill(&log, "erp", 200)
    });
    // One group of at most the queue waits for the disk, and one full queue behind it.
    let bytes = |log: &Log| log.inner.shared.lock().queued_bytes;
    while bytes(&log) + 200 <= 2048 {
        std::thread::yield_now();
    }
    let last = log.inner.shared.lock().last;
    assert!(bytes(&log) <= 2048 && last < LogOffset(40), "{last}");
    assert!(!writer.is_finished());
    disk.hold_syncs(false);
    assert_eq!(writer.join().unwrap(), LogOffset(200));
}

#[test]
fn failed_log_refuses_everything_and_promises_nothing_more() {
    for fault in [Fault::NoSpace, Fault::SyncFails] {
        let (disk, log) = sim(small());
        let durable = fill(&log, "erp", 3);
        disk.fail_at(u64::from(fault == Fault::SyncFails), fault);
        append(&log, "erp", 3).unwrap();
        let refused = |result: Result<LogOffset, JournalError>| {
            let error = result.unwrap_err();
            assert!(matches!(error, JournalError::LogFailed { durable: at, .. } if at == durable), "{error}");
        };
        refused(log.wait_durable(LogOffset(4), PATIENCE));
        refused(append(&log, "erp", 4));
        refused(log.wait_durable(LogOffset(1), PATIENCE));
        assert_eq!(log.durable(), durable);
        assert_eq!(read_all(&mut log.reader(LogOffset::START).unwrap()).len(), 3);
        assert!(log.close().is_err());
        drop(log);
        disk.restart(super::sim::End::Kill);
        let log = Log::open_on(Arc::new(disk), "/log".as_ref(), small()).unwrap();
        assert!(log.durable() >= durable);
        fill(&log, "erp", 3);
    }
}

#[test]
fn closing_writes_what_is_queued_and_then_refuses() {
    let (_, log) = sim(small());
    for n in 0..100 {
        append(&log, "erp", n).unwrap();
    }
    log.close().unwrap();
    assert_eq!(log.durable(), LogOffset(100));
    assert!(matches!(append(&log, "erp", 0), Err(JournalError::LogClosed)));
    assert!(matches!(log.wait_durable(LogOffset(101), PATIENCE), Err(JournalError::LogClosed)));
}

#[test]
fn trimming_removes_whole_segments_and_readers_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), small()).unwrap();
    fill(&log, "erp", 200);
    let mut behind = log.reader(LogOffset(2)).unwrap();
    log.trim(LogOffset(100)).unwrap();
    let first = log.first();
    assert!(first > LogOffset(60) && first <= LogOffset(101), "{first}");
    assert!(matches!(behind.next(), Err(JournalError::Trimmed { wanted: LogOffset(3), first: at }) if at == first));
    assert!(matches!(log.reader(LogOffset(0)), Err(JournalError::Trimmed { wanted: LogOffset(1), .. })));
    assert!(matches!(log.reader(LogOffset(201)), Err(JournalError::BeyondEnd { last: LogOffset(200), .. })));
    assert_eq!(read_all(&mut log.reader(LogOffset(first.0 - 1)).unwrap()).last().unwrap().offset, LogOffset(200));
    log.trim(LogOffset(u64::MAX - 1)).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "the last segment stays");
    drop(log);
    assert_eq!(Log::open(dir.path(), small()).unwrap().durable(), LogOffset(200));
}

#[test]
fn the_age_of_entries_outlives_the_process() {
    const HOUR: Duration = Duration::from_secs(3600);
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), small()).unwrap();
    fill(&log, "erp", 200);
    assert_eq!(log.aged(LogOffset(200), HOUR).unwrap(), LogOffset(0), "nothing is an hour old");
    log.close().unwrap();
    drop(log);
    let mut segments: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path()).collect();
    segments.sort();
    // The second one claims to be of the future, as after a change of the clock.
    for (segment, written) in segments.iter().zip([SystemTime::now() - 2 * HOUR, SystemTime::now() + HOUR]) {
        fs::File::options().write(true).open(segment).unwrap().set_modified(written).unwrap();
    }
    let log = Log::open(dir.path(), small()).unwrap();
    let second = segment::first_of_name(segments[1].file_name().unwrap().to_str().unwrap()).unwrap();
    assert_eq!(log.aged(LogOffset(200), HOUR).unwrap().next(), second);
    assert_eq!(log.aged(LogOffset(3), HOUR).unwrap(), LogOffset(0), "the first segment ends behind what is folded");
    log.trim(log.aged(LogOffset(200), HOUR).unwrap()).unwrap();
    assert_eq!(log.first(), second);
    assert_eq!(log.aged(LogOffset(200), HOUR).unwrap().next(), second, "nothing more");
}

#[test]
fn damage_in_an_old_segment_stops_the_reader_at_the_record() {
    let (disk, log) = sim(small());
    fill(&log, "erp", 200);
    let path = segment::path("/log".as_ref(), LogOffset(1));
    disk.damage(&path, |bytes| bytes[1000] ^= 1);
    let mut reader = log.reader(LogOffset::START).unwrap();
    let error = (0..200).find_map(|_| reader.next().err()).unwrap();
    assert!(matches!(&error, JournalError::Corrupt { path: at, .. } if *at == path), "{error}");
    assert!(reader.next().is_err(), "it does not step over the damage");
}

#[test]
fn an_entry_beyond_the_limits_is_refused_by_name() {
    let (_, log) = sim(Limits { entry_bytes: 10, ..small() });
    let refused = append(&log, "erp", 0).unwrap_err();
    assert!(matches!(refused, JournalError::EntryTooLarge { what: "the payload", bytes: 100, max: 10, .. }));
    let name = SourceId::new(&"n".repeat(2000));
    let refused = log.append(&name, &Position::default(), true, Vec::new()).unwrap_err();
    assert!(matches!(refused, JournalError::EntryTooLarge { what: "the name", .. }));
}
