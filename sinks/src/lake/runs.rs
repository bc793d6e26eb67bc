//! Sorting more rows than memory holds: sorted runs in unnamed scratch files, merged on the way out.
//!
//! Rows arrive in version order, leave in key order, and of one key only the row that came last. A run is an Arrow IPC
//! stream with zstd; its file has no name, so that no crash can leave it behind.
//!
//! Runs are merged as soon as [`FAN`] neighbours have one level, so however much is spilled only a few dozen files are open,
//! each with one batch in memory at the end, and a row is rewritten once per level.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::{BatchCoalescer, interleave_record_batch};
use arrow::datatypes::SchemaRef;
use arrow::ipc::CompressionType;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use syncline_schemas::keycode;
use syncline_schemas::rowcode::Rows;

use crate::SinkError;

/// Rows of a batch: large enough that the cost per batch vanishes, small enough that a coalescer per table is cheap.
pub(super) const BATCH_ROWS: usize = 2_048;

/// So many runs of a level become one of the next: 16 MB runs make 256 MB, then 4 GB, then 64 GB.
const FAN: usize = 16;

/// Rows with their keys as bytes.
pub(super) struct Keyed {
    pub(super) batch: RecordBatch,
    pub(super) keys: Rows,
}

impl Keyed {
    pub(super) fn new(batch: RecordBatch, key: &[usize]) -> Result<Self, SinkError> {
        let columns: Vec<_> = key.iter().map(|&column| Arc::clone(batch.column(column))).collect();
        Ok(Self { keys: keycode::encode(&columns)?, batch })
    }

    pub(super) fn len(&self) -> usize {
        self.batch.num_rows()
    }
}

/// Collects rows in the order of their versions.
pub(super) struct Sorter {
    key: Vec<usize>,
    scratch: PathBuf,
    coalescer: BatchCoalescer,
    held: Vec<Keyed>,
    held_bytes: usize,
    /// Level and file, in the order of their rows; levels only fall.
    runs: Vec<(u32, File)>,
    rows: usize,
}

impl Sorter {
    pub(super) fn new(schema: SchemaRef, key: Vec<usize>, scratch: &Path) -> Self {
        Self {
            key,
            scratch: scratch.to_owned(),
            coalescer: BatchCoalescer::new(schema, BATCH_ROWS).with_biggest_coalesce_batch_size(Some(BATCH_ROWS / 2)),
            held: Vec::new(),
            held_bytes: 0,
            runs: Vec::new(),
            rows: 0,
        }
    }

    /// Bytes held in memory.
    pub(super) fn bytes(&self) -> usize {
        self.held_bytes + self.coalescer.size()
    }

    /// How many rows came, an upper bound of how many leave.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn push(&mut self, batch: RecordBatch) -> Result<(), SinkError> {
        self.rows += batch.num_rows();
        self.coalescer.push_batch(batch)?;
        self.take_completed()
    }

    fn take_completed(&mut self) -> Result<(), SinkError> {
        while let Some(batch) = self.coalescer.next_completed_batch() {
            let keyed = Keyed::new(batch, &self.key)?;
            self.held_bytes += keyed.batch.get_array_memory_size() + keyed.keys.bytes();
            self.held.push(keyed);
        }
        Ok(())
    }

    fn sorted_held(&mut self) -> Result<Sorted, SinkError> {
        self.coalescer.finish_buffered_batch()?;
        self.take_completed()?;
        self.held_bytes = 0;
        Ok(Sorted::new(std::mem::take(&mut self.held)))
    }

    /// Moves what is held in memory to a scratch file.
    pub(super) fn spill(&mut self) -> Result<(), SinkError> {
        let mut sorted = self.sorted_held()?;
        let file = self.write_run(|| sorted.next().transpose())?;
        self.runs.push((0, file));
        while let Some((level, _)) = self.runs.last() {
            let level = *level;
            let first = self.runs.partition_point(|(other, _)| *other > level);
            if self.runs.len() - first < FAN {
                break;
            }
            let mut merger = Merger::new(open(self.runs.drain(first..))?, self.key.clone())?;
            let file = self.write_run(|| Ok(merger.next()?.map(|keyed| keyed.batch)))?;
            self.runs.push((level + 1, file));
        }
        Ok(())
    }

    /// Writes batches to a file without a name and goes back to its start.
    fn write_run(&self, mut next: impl FnMut() -> Result<Option<RecordBatch>, SinkError>) -> Result<File, SinkError> {
        let place = &self.scratch;
        let local = |doing: &str, reason: String| SinkError::Local {
            place: place.display().to_string(),
            reason: format!("{doing} a sorted run: {reason}"),
        };
        std::fs::create_dir_all(place).map_err(|error| local("make a folder for", error.to_string()))?;
        let file = tempfile::tempfile_in(place).map_err(|error| local("create", error.to_string()))?;
        let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::ZSTD))?;
        let mut writer = StreamWriter::try_new_with_options(BufWriter::new(file), &self.coalescer.schema(), options)?;
        while let Some(batch) = next()? {
            writer.write(&batch).map_err(|error| local("write", error.to_string()))?;
        }
        writer.finish().map_err(|error| local("write", error.to_string()))?;
        let mut buffer = writer.into_inner()?;
        buffer.flush().map_err(|error| local("write", error.to_string()))?;
        let mut file = buffer.into_inner().map_err(|error| local("write", error.to_string()))?;
        file.seek(SeekFrom::Start(0)).map_err(|error| local("rewind", error.to_string()))?;
        Ok(file)
    }

    /// Ends the intake; the rows come out in key order, one per key.
    pub(super) fn finish(mut self) -> Result<Merger, SinkError> {
        let last = Run::Memory(self.sorted_held()?);
        let mut runs = open(self.runs)?;
        runs.push(last);
        Merger::new(runs, self.key)
    }
}

fn open(runs: impl IntoIterator<Item = (u32, File)>) -> Result<Vec<Run>, SinkError> {
    runs.into_iter().map(|(_, file)| Ok(Run::File(StreamReader::try_new(BufReader::new(file), None)?))).collect()
}

/// Batches of one run in key order, one row per key.
struct Sorted {
    held: Vec<Keyed>,
    order: std::vec::IntoIter<(usize, usize)>,
}

impl Sorted {
    fn new(held: Vec<Keyed>) -> Self {
        let mut order: Vec<(usize, usize)> =
            held.iter().enumerate().flat_map(|(b, keyed)| (0..keyed.len()).map(move |row| (b, row))).collect();
        let key = |&(b, row): &(usize, usize)| held[b].keys.row(row);
        // Stable: rows of one key stay in the order they came; then the last of them is kept.
        order.sort_by(|left, right| key(left).cmp(key(right)));
        order.reverse();
        order.dedup_by(|later, kept| key(later) == key(kept));
        order.reverse();
        Self { held, order: order.into_iter() }
    }
}

impl Iterator for Sorted {
    type Item = Result<RecordBatch, SinkError>;

    fn next(&mut self) -> Option<Self::Item> {
        let picks: Vec<_> = self.order.by_ref().take(BATCH_ROWS).collect();
        if picks.is_empty() {
            return None;
        }
        let batches: Vec<_> = self.held.iter().map(|keyed| &keyed.batch).collect();
        Some(interleave_record_batch(&batches, &picks).map_err(SinkError::from))
    }
}

enum Run {
    File(StreamReader<BufReader<File>>),
    Memory(Sorted),
}

impl Run {
    fn next(&mut self, key: &[usize]) -> Result<Option<Keyed>, SinkError> {
        let batch = match self {
            Self::File(reader) => reader.next().transpose()?,
            Self::Memory(sorted) => sorted.next().transpose()?,
        };
        batch.map(|batch| Keyed::new(batch, key)).transpose()
    }
}

/// The smallest key on top; of equal keys the one of the latest run.
type Head = Reverse<(Vec<u8>, Reverse<usize>)>;

/// Merges runs, of which later ones win.
pub(super) struct Merger {
    key: Vec<usize>,
    runs: Vec<Run>,
    /// Per run the batch being read and the next row.
    open: Vec<Option<(Keyed, usize)>>,
    heads: BinaryHeap<Head>,
}

impl Merger {
    fn new(runs: Vec<Run>, key: Vec<usize>) -> Result<Self, SinkError> {
        let mut merger = Self { key, open: runs.iter().map(|_| None).collect(), runs, heads: BinaryHeap::new() };
        if merger.runs.len() > 1 {
            for run in 0..merger.runs.len() {
                merger.open_next(run)?;
            }
        }
        Ok(merger)
    }

    fn open_next(&mut self, run: usize) -> Result<(), SinkError> {
        self.open[run] = self.runs[run].next(&self.key)?.map(|keyed| (keyed, 0));
        if let Some((keyed, row)) = &self.open[run] {
            self.heads.push(Reverse((keyed.keys.row(*row).to_vec(), Reverse(run))));
        }
        Ok(())
    }

    /// The next rows in key order.
    pub(super) fn next(&mut self) -> Result<Option<Keyed>, SinkError> {
        if let [only] = self.runs.as_mut_slice() {
            return only.next(&self.key);
        }
        let mut used: Vec<RecordBatch> = Vec::new();
        let mut place: Vec<Option<usize>> = vec![None; self.runs.len()];
        let mut picks = Vec::with_capacity(BATCH_ROWS);
        let mut last: Option<Vec<u8>> = None;
        while picks.len() < BATCH_ROWS || self.continues(last.as_deref()) {
            let Some(Reverse((key, Reverse(run)))) = self.heads.pop() else { break };
            let (keyed, row) = self.open[run].as_mut().expect("a head belongs to an open batch");
            if last.as_ref() != Some(&key) {
                let at = *place[run].get_or_insert_with(|| {
                    used.push(keyed.batch.clone());
                    used.len() - 1
                });
                picks.push((at, *row));
                last = Some(key);
            }
            *row += 1;
            if *row < keyed.len() {
                self.heads.push(Reverse((keyed.keys.row(*row).to_vec(), Reverse(run))));
            } else {
                place[run] = None;
                self.open_next(run)?;
            }
        }
        if picks.is_empty() {
            return Ok(None);
        }
        let used: Vec<_> = used.iter().collect();
        Keyed::new(interleave_record_batch(&used, &picks)?, &self.key).map(Some)
    }

    /// True where the next row has the key of the last one, so that it must be dropped here.
    fn continues(&self, last: Option<&[u8]>) -> bool {
        matches!((self.heads.peek(), last), (Some(Reverse((key, _))), Some(last)) if key == last)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray};
    use arrow::datatypes::Int64Type;
    use proptest::prelude::*;

    use super::*;

    fn batch(rows: &[(u8, i64)]) -> RecordBatch {
        let keys: StringArray = rows.iter().map(|(key, _)| Some(format!("{key:03}"))).collect();
        let values: Int64Array = rows.iter().map(|(_, value)| Some(*value)).collect();
        RecordBatch::try_from_iter([("key", Arc::new(keys) as ArrayRef), ("value", Arc::new(values) as ArrayRef)])
            .expect("equal lengths")
    }

    proptest! {
        #[test]
        fn however_often_it_spills_every_key_leaves_once_with_its_last_value(
            batches in proptest::collection::vec(
                (proptest::collection::vec((any::<u8>(), any::<i64>()), 1..60), any::<bool>()), 1..20),
        ) {
            let scratch = tempfile::tempdir().expect("a temporary folder");
            let schema = batch(&[]).schema();
            let mut sorter = Sorter::new(schema, vec![0], scratch.path());
            let mut oracle = BTreeMap::new();
            for (rows, spill) in &batches {
                sorter.push(batch(rows)).expect("push");
                oracle.extend(rows.iter().copied());
                if *spill {
                    sorter.spill().expect("spill");
                }
            }
            let mut merger = sorter.finish().expect("finish");
            let mut found = Vec::new();
            while let Some(keyed) = merger.next().expect("next") {
                let keys = keyed.batch.column(0).as_string::<i32>();
                let values = keyed.batch.column(1).as_primitive::<Int64Type>();
                found.extend((0..keyed.len()).map(|i| (keys.value(i).parse::<u8>().expect("a number"), values.value(i))));
            }
            prop_assert_eq!(found, oracle.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(std::fs::read_dir(scratch.path()).expect("scratch").count(), 0);
        }
    }

    #[test]
    fn however_much_is_spilled_only_a_few_files_are_open() {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let mut sorter = Sorter::new(batch(&[]).schema(), vec![0], scratch.path());
        let spills = i64::try_from(FAN * FAN + FAN + 1).expect("small");
        for value in 0..spills {
            sorter.push(batch(&[(7, value), (u8::try_from(value % 256).expect("a byte"), value)])).expect("push");
            sorter.spill().expect("spill");
            assert!(sorter.runs.len() < 3 * FAN, "{} files after {value} spills", sorter.runs.len());
        }
        assert_eq!(sorter.runs.iter().map(|(level, _)| *level).collect::<Vec<_>>(), [2, 1, 0]);
        let mut merger = sorter.finish().expect("finish");
        let mut rows = 0;
        while let Some(keyed) = merger.next().expect("next") {
            let values = keyed.batch.column(1).as_primitive::<Int64Type>();
            assert!(values.iter().flatten().all(|value| value > spills - 257), "the last row of each key");
            rows += keyed.len();
        }
        assert_eq!(rows, 256);
    }
}
