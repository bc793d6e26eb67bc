//! Merging sorted deltas into the leaves of a current table.
//!
//! ```text
//! deltas      b   d     x y z
//! leaves   [a b c d] [f g] [p q x]      ->  [a b' c d'] (kept: [f g]) [p q x' y z]
//! ```
//!
//! Only leaves that a delta falls into are read and written; a key between two leaves belongs to the left one. A leaf
//! that outgrows one and a half times its target is split evenly, a small one takes its right neighbour along. Reading,
//! merging and writing stream, so memory holds a few batches and one row group, however large the leaf.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::interleave_record_batch;
use deltalake_core::kernel::Action;
use futures::stream::{BoxStream, TryStreamExt};

use super::config::LakeLimits;
use super::datafile::{DataFile, KeyRange, Written};
use super::leaf::{self, Leaf};
use super::runs::{Keyed, Merger, Sorter};
use super::shape::is_upsert;
use super::table::Table;
use crate::SinkError;

/// Files that wait for their commit.
#[derive(Default)]
pub(super) struct Prepared {
    pub(super) actions: Vec<Action>,
    pub(super) ranges: Vec<(String, KeyRange)>,
    pub(super) bytes: u64,
}

impl Prepared {
    pub(super) fn add(&mut self, written: Written) {
        self.bytes += u64::try_from(written.add.size).unwrap_or(0);
        if let Some(range) = written.range {
            self.ranges.push((written.add.path.clone(), range));
        }
        self.actions.push(Action::Add(written.add));
    }
}

/// Writes the leaves that result from a table's leaves and deltas.
pub(super) async fn merge(
    table: &Table,
    leaves: &[Leaf],
    deltas: Sorter,
    limits: &LakeLimits,
    scratch: &Path,
) -> Result<Prepared, SinkError> {
    let mut deltas = Deltas { left: deltas.rows(), merger: deltas.finish()?, table, head: None };
    let mut prepared = Prepared::default();
    while let Some(key) = deltas.key()? {
        let (group, bound) = group(leaves, key, limits.file_rows);
        let rows = group.iter().map(Leaf::rows).sum::<usize>() + deltas.left;
        let mut base = Base::new(table, group, limits, scratch);
        let mut output = Output::new(table, limits, rows);
        merge_group(&mut base, &mut deltas, bound, &mut output).await?;
        for written in output.finish().await? {
            prepared.add(written);
        }
        prepared
            .actions
            .extend(group.iter().flat_map(|leaf| &leaf.files).map(|file| Action::Remove(file.remove.clone())));
    }
    Ok(prepared)
}

/// The leaves to rewrite for a key, and the first key that is no longer theirs.
fn group<'l>(leaves: &'l [Leaf], key: &[u8], file_rows: usize) -> (&'l [Leaf], Option<&'l [u8]>) {
    if leaves.is_empty() {
        return (&[], None);
    }
    let first = leaves.partition_point(|leaf| leaf.range.min.as_slice() <= key).saturating_sub(1);
    let mut end = first + 1;
    let mut rows = leaves[first].rows();
    while let Some(next) = leaves.get(end)
        && rows < file_rows / 4
        && rows + next.rows() <= file_rows
    {
        rows += next.rows();
        end += 1;
    }
    (&leaves[first..end], leaves.get(end).map(|leaf| leaf.range.min.as_slice()))
}

async fn merge_group(
    base: &mut Base<'_>,
    deltas: &mut Deltas<'_>,
    bound: Option<&[u8]>,
    output: &mut Output<'_>,
) -> Result<(), SinkError> {
    loop {
        base.fill().await?;
        deltas.key()?;
        let delta_end = deltas.head.as_ref().map_or(0, |head| head.end(bound));
        let delta = deltas.head.as_mut().filter(|head| head.at < delta_end);
        match (&mut base.head, delta) {
            (None, None) => return Ok(()),
            (Some(base), None) => {
                let (from, len) = (base.at, base.keyed.len() - base.at);
                base.at = base.keyed.len();
                output.write(&base.keyed.batch.slice(from, len), |row| base.keyed.keys.row(from + row)).await?;
            }
            (None, Some(delta)) => {
                let picks: Vec<_> =
                    (delta.at..delta_end).filter(|&row| delta.upsert[row]).map(|row| (0, row)).collect();
                deltas.left = deltas.left.saturating_sub(delta_end - delta.at);
                delta.at = delta_end;
                let batch = interleave_record_batch(&[&delta.keyed.batch], &picks)?;
                output.write(&batch, |row| delta.keyed.keys.row(picks[row].1)).await?;
            }
            (Some(base), Some(delta)) => {
                let before = delta.at;
                let picks = walk(base, delta, delta_end);
                deltas.left = deltas.left.saturating_sub(delta.at - before);
                let sides = [&base.keyed, &delta.keyed];
                let batch = interleave_record_batch(&[&sides[0].batch, &sides[1].batch], &picks)?;
                output.write(&batch, |row| sides[picks[row].0].keys.row(picks[row].1)).await?;
            }
        }
    }
}

/// Picks rows of base (0) and deltas (1) in key order until one side is exhausted.
fn walk(base: &mut Side, delta: &mut Side, delta_end: usize) -> Vec<(usize, usize)> {
    let mut picks = Vec::with_capacity(base.keyed.len() - base.at);
    while base.at < base.keyed.len() && delta.at < delta_end {
        let order = base.keyed.keys.row(base.at).cmp(delta.keyed.keys.row(delta.at));
        if order == Ordering::Less {
            picks.push((0, base.at));
            base.at += 1;
            continue;
        }
        if delta.upsert[delta.at] {
            picks.push((1, delta.at));
        }
        delta.at += 1;
        base.at += usize::from(order == Ordering::Equal);
    }
    picks
}

/// Rows being merged.
struct Side {
    keyed: Keyed,
    /// Per row of deltas: false for a delete. Empty for a base.
    upsert: Vec<bool>,
    at: usize,
}

impl Side {
    /// The first row that is not below a key.
    fn end(&self, bound: Option<&[u8]>) -> usize {
        let Some(bound) = bound else { return self.keyed.len() };
        let (mut low, mut high) = (self.at, self.keyed.len());
        while low < high {
            let middle = low.midpoint(high);
            if self.keyed.keys.row(middle) < bound {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

/// The newest delta of each key, in key order, as rows of the table.
struct Deltas<'t> {
    table: &'t Table,
    merger: Merger,
    head: Option<Side>,
    /// At most so many rows are still to come.
    left: usize,
}

impl Deltas<'_> {
    /// The next key.
    fn key(&mut self) -> Result<Option<&[u8]>, SinkError> {
        while self.head.as_ref().is_none_or(|head| head.at == head.keyed.len()) {
            let Some(raw) = self.merger.next()? else {
                self.head = None;
                return Ok(None);
            };
            let upsert = (0..raw.len()).map(|row| is_upsert(&raw.batch, row)).collect();
            let batch = self.table.shape.rows(&raw.batch)?;
            self.head = Some(Side { keyed: Keyed { batch, keys: raw.keys }, upsert, at: 0 });
        }
        Ok(self.head.as_ref().map(|head| head.keyed.keys.row(head.at)))
    }
}

enum Rows<'t> {
    Stream(BoxStream<'t, Result<RecordBatch, SinkError>>),
    Sorted(Merger),
}

/// The rows of neighbouring leaves, in key order.
struct Base<'t> {
    table: &'t Table,
    leaves: VecDeque<&'t Leaf>,
    limits: &'t LakeLimits,
    scratch: &'t Path,
    key: Vec<usize>,
    rows: Option<Rows<'t>>,
    head: Option<Side>,
}

impl<'t> Base<'t> {
    fn new(table: &'t Table, leaves: &'t [Leaf], limits: &'t LakeLimits, scratch: &'t Path) -> Self {
        let key = (0..table.shape.key_len).collect();
        Self { table, leaves: leaves.iter().collect(), limits, scratch, key, rows: None, head: None }
    }

    /// Leaves `head` with a row to give, or none at the end.
    async fn fill(&mut self) -> Result<(), SinkError> {
        while self.head.as_ref().is_none_or(|head| head.at == head.keyed.len()) {
            self.head = None;
            let next = match &mut self.rows {
                None => None,
                Some(Rows::Stream(stream)) => match stream.try_next().await? {
                    Some(batch) => Some(Keyed::new(batch, &self.key)?),
                    None => None,
                },
                Some(Rows::Sorted(merger)) => merger.next()?,
            };
            match next {
                Some(keyed) => self.head = Some(Side { keyed, upsert: Vec::new(), at: 0 }),
                None => {
                    self.rows = None;
                    let Some(leaf) = self.leaves.pop_front() else { return Ok(()) };
                    self.rows = Some(open(self.table, leaf, self.limits, self.scratch).await?);
                }
            }
        }
        Ok(())
    }
}

async fn open<'t>(
    table: &'t Table,
    leaf: &'t Leaf,
    limits: &LakeLimits,
    scratch: &Path,
) -> Result<Rows<'t>, SinkError> {
    if let ([file], true) = (leaf.files.as_slice(), leaf.sorted) {
        return Ok(Rows::Stream(leaf::rows(table, file).await?));
    }
    let key = (0..table.shape.key_len).collect();
    let mut sorter = Sorter::new(Arc::clone(&table.shape.schema), key, scratch);
    for file in &leaf.files {
        let mut rows = leaf::rows(table, file).await?;
        while let Some(batch) = rows.try_next().await? {
            sorter.push(batch)?;
            if sorter.bytes() > limits.buffer_bytes / 2 {
                sorter.spill()?;
            }
        }
    }
    Ok(Rows::Sorted(sorter.finish()?))
}

/// Files of about equal size that hold rows in key order.
struct Output<'t> {
    table: &'t Table,
    limits: &'t LakeLimits,
    cut_rows: usize,
    file: Option<(DataFile, KeyRange)>,
    done: Vec<Written>,
}

impl<'t> Output<'t> {
    /// `rows` is an upper bound of what will be written.
    fn new(table: &'t Table, limits: &'t LakeLimits, rows: usize) -> Self {
        let most = limits.file_rows + limits.file_rows / 2;
        let cut_rows = if rows > most { rows.div_ceil(rows.div_ceil(limits.file_rows)) } else { most };
        Self { table, limits, cut_rows, file: None, done: Vec::new() }
    }

    async fn write<'k>(&mut self, batch: &RecordBatch, key: impl Fn(usize) -> &'k [u8]) -> Result<(), SinkError> {
        let mut at = 0;
        while at < batch.num_rows() {
            let (file, range) = match &mut self.file {
                Some(open) => open,
                none => {
                    let schema = &self.table.shape.schema;
                    let file =
                        DataFile::create(&self.table.url, &self.table.files_store(), schema, self.limits.group_rows)?;
                    let first = key(at).to_vec();
                    none.insert((file, KeyRange { min: first.clone(), max: first }))
                }
            };
            let len = (batch.num_rows() - at).min(self.cut_rows - file.rows());
            file.write(&batch.slice(at, len)).await?;
            at += len;
            key(at - 1).clone_into(&mut range.max);
            if file.rows() >= self.cut_rows {
                self.close().await?;
            }
        }
        Ok(())
    }

    async fn close(&mut self) -> Result<(), SinkError> {
        if let Some((file, range)) = self.file.take() {
            self.done.push(file.finish(Some((range, self.table.shape.key_len))).await?);
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<Vec<Written>, SinkError> {
        self.close().await?;
        Ok(self.done)
    }
}
