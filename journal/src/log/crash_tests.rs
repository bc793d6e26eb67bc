//! The log on a disk that fails at every operation: whatever happens, what was durable is there, whole and in order.
//!
//! The writer is driven without its thread, so a seed decides everything. A world is a script of groups and trims. It is
//! run once to count the disk's operations and then once for each of them, with the fault exactly there; each time the
//! log is opened again, compared with the model, written on, and opened once more after a second fault.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use syncline_schemas::ident::{LogOffset, Position, SourceId};

use super::reader::{LogReader, Record};
use super::record::Pending;
use super::recovery::{Recovered, recover};
use super::shared::{Shared, State};
use super::sim::{End, Fault, Random, SimDisk};
use super::writer::Writer;
use crate::error::JournalError;
use crate::limits::Limits;

const DIR: &str = "/log";

fn limits() -> Limits {
    Limits { segment_bytes: 700, ..Limits::default() }
}

/// The log as it should be.
struct Model {
    random: Random,
    /// Every entry by offset, as it was last written.
    entries: BTreeMap<u64, Pending>,
    /// Promised to callers.
    durable: u64,
    /// Asked to be trimmed.
    trimmed: u64,
}

impl Model {
    fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), entries: BTreeMap::new(), durable: 0, trimmed: 0 }
    }

    fn group(&mut self) -> VecDeque<Pending> {
        let first = self.durable + 1;
        let group: VecDeque<_> = (first..=first + self.random.below(4)).map(|offset| self.entry(offset)).collect();
        self.entries.extend(group.iter().map(|entry| (entry.offset.0, entry.clone())));
        group
    }

    fn entry(&mut self, offset: u64) -> Pending {
        let source = SourceId::new(
            ["erp", "wms", "a source that is rarely heard of"][match self.random.below(20) {
                0 => 2,
                1..8 => 1,
                _ => 0,
            }],
        );
        let bytes = if self.random.below(15) == 0 { 900 } else { self.random.below(120) };
        let payload = (0..bytes).map(|_| u8::try_from(self.random.below(256)).unwrap()).collect();
        let position = Position::new(offset.to_be_bytes().to_vec());
        Pending { offset: LogOffset(offset), source, position, txn_end: self.random.below(2) == 0, payload }
    }
}

fn open(disk: &SimDisk) -> Result<(Writer, Arc<Shared>), JournalError> {
    let Recovered { writer, durable, segments } = recover(Arc::new(disk.clone()), Path::new(DIR), limits())?;
    let shared = Arc::new(Shared::new(&writer, State::new(durable, writer.checkpoint.clone(), segments)));
    Ok((writer, shared))
}

/// Runs a script of groups and trims until the disk fails.
fn write(disk: &SimDisk, model: &mut Model, groups: u64) -> Result<(), String> {
    let (mut writer, shared) = open(disk).map_err(|error| error.to_string())?;
    settle(&shared, model);
    for _ in 0..groups {
        let mut queue = model.group();
        while !queue.is_empty() {
            let written = writer.write_group(&mut queue).map_err(|(path, error)| format!("{path:?}: {error}"))?;
            model.durable = written.upto.0;
            shared.publish(written);
        }
        if model.random.below(4) == 0 {
            let upto = model.random.below(model.durable + 1);
            model.trimmed = model.trimmed.max(upto);
            shared.trim(LogOffset(upto)).map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

/// What a freshly opened log holds is what was promised, and becomes the model.
fn settle(shared: &Arc<Shared>, model: &mut Model) {
    let (first, durable, checkpoint) = {
        let state = shared.lock();
        (state.first().0, state.durable.0, state.checkpoint.clone())
    };
    assert!(durable >= model.durable, "durable was {}, is {durable}", model.durable);
    assert!(first <= model.trimmed + 1, "begins at {first}, only {} was trimmed", model.trimmed);
    let mut reader = LogReader::new(Arc::clone(shared), LogOffset(first - 1));
    for offset in first..=durable {
        let record = reader.next().expect("every record reads").expect("no gap");
        let wanted = model.entries[&offset].clone();
        let wanted = Record {
            offset: wanted.offset,
            source: wanted.source,
            position: wanted.position,
            txn_end: wanted.txn_end,
            payload: wanted.payload,
        };
        assert_eq!(record, wanted);
    }
    assert_eq!(reader.next().expect("the end is no error"), None);
    model.durable = durable;
    model.entries.split_off(&(durable + 1));
    let mut reached = BTreeMap::new();
    reached.extend(model.entries.values().map(|entry| (entry.source.clone(), entry.offset)));
    assert_eq!(
        checkpoint.into_iter().map(|(source, resume)| (source, resume.offset)).collect::<BTreeMap<_, _>>(),
        reached
    );
}

/// Every operation of a script fails once; returns the files at the end of each run.
fn fail_everywhere(seed: u64, fault: Fault, end: End) -> Vec<BTreeMap<std::path::PathBuf, Vec<u8>>> {
    const GROUPS: u64 = 9;
    let disk = SimDisk::new(seed);
    write(&disk, &mut Model::new(seed), GROUPS).expect("nothing fails yet");
    (0..disk.operations())
        .map(|operation| {
            let disk = SimDisk::new(seed + operation);
            let mut model = Model::new(seed);
            disk.fail_at(operation, fault);
            drop(write(&disk, &mut model, GROUPS));
            disk.restart(end);
            // A second fault may strike the recovery itself.
            disk.fail_at(model.random.below(12), fault);
            drop(write(&disk, &mut model, 3));
            disk.restart(End::Kill);
            write(&disk, &mut model, 1).expect("the log opens and goes on");
            // What the last process promised holds without its page cache.
            disk.restart(End::PowerFailure);
            write(&disk, &mut model, 1).expect("the log opens and goes on");
            disk.files()
        })
        .collect()
}

fn with_seeds(seeds: u64, fault: Fault, end: End) {
    for seed in 0..seeds {
        if let Err(panic) = std::panic::catch_unwind(|| fail_everywhere(seed * 1000, fault, end)) {
            eprintln!("seed {}, {fault:?}, {end:?}", seed * 1000);
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn power_failure_at_any_operation_loses_nothing_durable() {
    with_seeds(150, Fault::Crash, End::PowerFailure);
}

#[test]
fn kill_at_any_operation_loses_nothing_durable() {
    with_seeds(60, Fault::Crash, End::Kill);
}

#[test]
fn full_disk_at_any_write_loses_nothing_durable() {
    with_seeds(60, Fault::NoSpace, End::Kill);
    with_seeds(30, Fault::NoSpace, End::PowerFailure);
}

#[test]
fn failed_sync_is_not_believed_after_a_restart() {
    with_seeds(60, Fault::SyncFails, End::Kill);
    with_seeds(30, Fault::SyncFails, End::PowerFailure);
}

#[test]
fn one_seed_gives_one_history() {
    assert_eq!(
        fail_everywhere(7, Fault::Crash, End::PowerFailure),
        fail_everywhere(7, Fault::Crash, End::PowerFailure)
    );
}

/// A log of one segment with three groups of two records; the byte ranges of the records.
fn three_groups(disk: &SimDisk) -> Vec<std::ops::Range<usize>> {
    let big = Limits::default();
    let Recovered { mut writer, .. } = recover(Arc::new(disk.clone()), Path::new(DIR), big).unwrap();
    let mut at = usize::try_from(writer.segment_bytes).unwrap();
    let mut model = Model::new(1);
    let mut ranges = Vec::new();
    for group in 0..3 {
        let mut queue: VecDeque<_> = (1..=2).map(|i| model.entry(group * 2 + i)).collect();
        for entry in &queue {
            let bytes = usize::try_from(entry.record_bytes()).unwrap();
            ranges.push(at..at + bytes);
            at += bytes;
        }
        writer.write_group(&mut queue).unwrap();
    }
    ranges
}

fn segment() -> std::path::PathBuf {
    super::segment::path(Path::new(DIR), LogOffset(1))
}

#[test]
fn torn_tail_is_cut_at_any_byte() {
    let disk = SimDisk::new(1);
    let ranges = three_groups(&disk);
    let whole = disk.files()[&segment()].clone();
    for len in ranges[4].start..whole.len() {
        disk.damage(&segment(), |bytes| *bytes = whole[..len].to_vec());
        let recovered = recover(Arc::new(disk.clone()), Path::new(DIR), Limits::default()).unwrap();
        assert_eq!(recovered.durable.0, 4 + u64::from(len >= ranges[4].end));
    }
}

#[test]
fn torn_middle_is_refused_and_names_the_byte() {
    let disk = SimDisk::new(1);
    let ranges = three_groups(&disk);
    let whole = disk.files()[&segment()].clone();
    for (i, range) in ranges[..4].iter().enumerate() {
        for at in range.clone() {
            disk.damage(&segment(), |bytes| {
                bytes.clone_from(&whole);
                bytes[at] ^= 0x10;
            });
            let error = recover(Arc::new(disk.clone()), Path::new(DIR), Limits::default()).err().unwrap();
            let JournalError::Corrupt { path, byte, offset, .. } = error else { panic!("{error}") };
            assert_eq!((path, byte, offset), (segment(), range.start as u64, LogOffset(i as u64 + 1)));
        }
    }
}

#[test]
fn damaged_head_of_a_segment_is_refused() {
    let disk = SimDisk::new(1);
    let start = three_groups(&disk)[0].start;
    let whole = disk.files()[&segment()].clone();
    for at in 0..start {
        disk.damage(&segment(), |bytes| {
            bytes.clone_from(&whole);
            bytes[at] ^= 0x10;
        });
        let error = recover(Arc::new(disk.clone()), Path::new(DIR), Limits::default()).err().unwrap();
        assert!(matches!(error, JournalError::Corrupt { .. } | JournalError::Format { .. }), "{error}");
    }
}
