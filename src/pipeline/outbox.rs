//! The outbox in the state store: what the transform emitted and no sink needs any longer is removed.
//!
//! ```text
//! i | offset u64 | step u32  ->  rows u32 | boundary u8      index: spans are cut without reading deltas
//! d | offset u64 | step u32  ->  encoded delta batches
//! ```
//!
//! A boundary is an offset at which no source transaction is half applied: only there may a span end.

use std::collections::VecDeque;
use std::ops::Bound;

use syncline_journal::{Bytes, Commit, Durability, JournalError, Space, Store};
use syncline_schemas::delta;
use syncline_schemas::ident::LogOffset;
use syncline_sinks::{OutboxEntry, OutboxIter, SinkError, Span};
use syncline_transform::state::OutboxStep;

const INDEX: u8 = b'i';
const DATA: u8 = b'd';
/// Cursor up to which entries have been removed.
const TRIMMED: &str = "outbox.trimmed";
/// Entries removed in one commit.
const TRIM_STEP: usize = 4096;
/// What a sink reads at once, see [`Pages`].
const PAGE_BYTES: usize = 256 * 1024;
const PAGE_ENTRIES: usize = 256;

fn key(kind: u8, offset: LogOffset, step: u32) -> Vec<u8> {
    let mut key = vec![kind];
    key.extend_from_slice(&offset.0.to_be_bytes());
    key.extend_from_slice(&step.to_be_bytes());
    key
}

/// Offset and step of an index or data key.
fn parse_key(key: &[u8]) -> Option<(LogOffset, u32)> {
    let offset = u64::from_be_bytes(key.get(1..9)?.try_into().ok()?);
    Some((LogOffset(offset), u32::from_be_bytes(key.get(9..13)?.try_into().ok()?)))
}

/// Adds a step's deltas to a commit.
pub(super) fn put(commit: &mut Commit, step: OutboxStep, boundary: bool) {
    let mut index = step.rows.to_be_bytes().to_vec();
    index.push(u8::from(boundary));
    commit.put(Space::Outbox, key(INDEX, step.offset, step.step), index);
    commit.put(Space::Outbox, key(DATA, step.offset, step.step), step.bytes);
}

/// Cuts spans for one sink, looking at each index entry once.
pub(super) struct Cutter {
    store: Store,
    after: LogOffset,
    scanned: LogOffset,
    rows: usize,
    boundary: Option<(LogOffset, usize)>,
}

/// A span and how many rows it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) span: Span,
    pub(super) rows: usize,
}

impl Cutter {
    pub(super) fn new(store: Store, after: LogOffset) -> Self {
        Self { store, after, scanned: after, rows: 0, boundary: None }
    }

    /// Looks at what became visible; stops at a boundary once `max_rows` are reached.
    pub(super) fn look(&mut self, visible: LogOffset, max_rows: usize) -> Result<Cut, JournalError> {
        let (from, to) = (key(INDEX, self.scanned.next(), 0), key(INDEX, visible.next(), 0));
        if self.scanned < visible && self.rows < max_rows {
            for pair in self.store.scan(Space::Outbox, from.as_slice()..to.as_slice()) {
                let (key, value) = pair?;
                let Some((offset, _)) = parse_key(&key) else { continue };
                let rows = value.get(..4).and_then(|rows| rows.try_into().ok()).map_or(0, u32::from_be_bytes);
                self.rows += rows as usize;
                self.scanned = offset;
                if value.get(4) == Some(&1) {
                    self.boundary = Some((offset, self.rows));
                    if self.rows >= max_rows {
                        break;
                    }
                }
            }
            if self.rows < max_rows {
                self.scanned = visible;
            }
        }
        Ok(match self.boundary {
            Some((upto, rows)) if rows >= max_rows => Cut { span: Span { after: self.after, upto }, rows },
            // Everything up to the visible end is a state that was.
            _ => Cut { span: Span { after: self.after, upto: visible }, rows: self.rows },
        })
    }

    /// A span was delivered: the next one begins behind it.
    pub(super) fn delivered(&mut self, upto: LogOffset) {
        *self = Self::new(self.store.clone(), upto);
    }
}

/// The outbox as sinks read it.
pub(crate) struct Outbox {
    store: Store,
}

impl Outbox {
    pub(crate) const fn new(store: Store) -> Self {
        Self { store }
    }

    /// The offset up to which entries are gone.
    pub(crate) fn trimmed(&self) -> Result<LogOffset, JournalError> {
        Ok(LogOffset(self.store.cursor(TRIMMED)?.unwrap_or_default()))
    }

    /// Takes back what lies behind the steps of an entry and was never shown to anyone, as part of a commit.
    pub(super) fn take_back(&self, offset: LogOffset, steps: u32, commit: &mut Commit) -> Result<(), JournalError> {
        let (from, to) = (key(INDEX, offset, steps), [INDEX + 1]);
        for pair in self.store.scan(Space::Outbox, from.as_slice()..to.as_slice()) {
            let (index, _) = pair?;
            let Some((offset, step)) = parse_key(&index) else { continue };
            commit.delete(Space::Outbox, index.to_vec());
            commit.delete(Space::Outbox, key(DATA, offset, step));
        }
        Ok(())
    }

    /// Says of a step that it ends a span, as part of a commit.
    pub(super) fn bound(&self, offset: LogOffset, step: u32, commit: &mut Commit) -> Result<(), JournalError> {
        let place = key(INDEX, offset, step);
        if let Some(index) = self.store.get(Space::Outbox, &place)? {
            let rows = &index[..size_of::<u32>()];
            commit.put(Space::Outbox, place, [rows, &[1]].concat());
        }
        Ok(())
    }

    /// Removes entries up to an offset.
    pub(super) fn trim(&self, upto: LogOffset) -> Result<(), JournalError> {
        loop {
            let after = self.trimmed()?;
            let (from, to) = (key(INDEX, after.next(), 0), key(INDEX, upto.next(), 0));
            let mut commit = Commit::new();
            let mut reached = upto;
            for (count, pair) in self.store.scan(Space::Outbox, from.as_slice()..to.as_slice()).enumerate() {
                let (index, _) = pair?;
                let Some((offset, step)) = parse_key(&index) else { continue };
                if count >= TRIM_STEP {
                    // The entry at this offset may have more steps: it is removed whole the next time.
                    reached = LogOffset(offset.0 - 1);
                    break;
                }
                commit.delete(Space::Outbox, index.to_vec());
                commit.delete(Space::Outbox, key(DATA, offset, step));
            }
            if commit.is_empty() && reached <= after {
                return Ok(());
            }
            commit.put_cursor(TRIMMED, reached.0);
            self.store.commit(commit, Durability::Buffered)?;
            if reached >= upto {
                return Ok(());
            }
        }
    }
}

/// A store that cannot be read is an outbox that cannot be.
pub(super) fn unreadable(error: &JournalError) -> SinkError {
    SinkError::Outbox { reason: error.to_string() }
}

impl Outbox {
    fn ensure_kept(&self, span: Span) -> Result<(), SinkError> {
        let trimmed = self.trimmed().map_err(|error| unreadable(&error))?;
        if span.after < trimmed {
            let reason = format!("entries after {} were asked for, those up to {trimmed} are removed", span.after);
            return Err(SinkError::Outbox { reason });
        }
        Ok(())
    }

    /// The entries of a span.
    pub(super) fn read(&self, span: Span) -> Result<OutboxIter<'_>, SinkError> {
        self.read_of(span, |_| true)
    }

    /// What the entries of a span have of some entities.
    pub(super) fn read_of<'o>(
        &'o self,
        span: Span,
        wanted: impl Fn(&str) -> bool + Send + 'o,
    ) -> Result<OutboxIter<'o>, SinkError> {
        self.ensure_kept(span)?;
        let (from, to) = (key(DATA, span.after.next(), 0), key(DATA, span.upto.next(), 0));
        let pairs = Pages { outbox: self, span, from: Bound::Included(from), to, page: VecDeque::new() };
        Ok(Box::new(pairs.map(move |pair| {
            let (key, value) = pair?;
            let malformed = || SinkError::Outbox { reason: "an entry's key does not decode".to_owned() };
            let (offset, _) = parse_key(&key).ok_or_else(malformed)?;
            Ok(OutboxEntry { offset, deltas: delta::decode_of(&value, &wanted)? })
        })))
    }
}

/// Entries of a span, which nobody changes, a page at a time. One scan would keep the store's buffers of all that is written
/// while a sink is at its work, which may be minutes.
struct Pages<'o> {
    outbox: &'o Outbox,
    span: Span,
    from: Bound<Vec<u8>>,
    to: Vec<u8>,
    page: VecDeque<(Bytes, Bytes)>,
}

impl Pages<'_> {
    fn fill(&mut self) -> Result<(), SinkError> {
        let range = (self.from.as_ref().map(Vec::as_slice), Bound::Excluded(self.to.as_slice()));
        let (mut page, mut bytes) = (VecDeque::new(), 0);
        for pair in self.outbox.store.scan(Space::Outbox, range) {
            let (key, value) = pair.map_err(|error| unreadable(&error))?;
            bytes += value.len();
            page.push_back((key, value));
            if bytes >= PAGE_BYTES || page.len() >= PAGE_ENTRIES {
                break;
            }
        }
        // Nobody may have removed what lies between two pages.
        self.outbox.ensure_kept(self.span)?;
        if let Some((last, _)) = page.back() {
            self.from = Bound::Excluded(last.to_vec());
        }
        self.page = page;
        Ok(())
    }
}

impl Iterator for Pages<'_> {
    type Item = Result<(Bytes, Bytes), SinkError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.page.is_empty()
            && let Err(error) = self.fill()
        {
            return Some(Err(error));
        }
        self.page.pop_front().map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use syncline_journal::Limits;

    use super::*;

    fn fill(store: &Store, entries: &[(u64, u32, u32, bool)]) {
        let mut commit = Commit::new();
        for &(offset, step, rows, boundary) in entries {
            let bytes = delta::encode(&[]).expect("no batches");
            put(&mut commit, OutboxStep { offset: LogOffset(offset), step, rows, bytes }, boundary);
        }
        store.commit(commit, Durability::Buffered).expect("commits");
    }

    fn cut(after: u64, upto: u64, rows: usize) -> Cut {
        Cut { span: Span { after: LogOffset(after), upto: LogOffset(upto) }, rows }
    }

    #[test]
    fn a_span_never_ends_inside_a_source_transaction() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(dir.path(), Limits::default()).expect("opens");
        fill(&store, &[(3, 0, 10, true), (5, 0, 10, false), (6, 0, 10, false), (7, 0, 10, true), (9, 0, 1, true)]);
        let mut cutter = Cutter::new(store.clone(), LogOffset(0));
        assert_eq!(cutter.look(LogOffset(9), 15).expect("reads"), cut(0, 7, 40));
        cutter.delivered(LogOffset(7));
        assert_eq!(cutter.look(LogOffset(8), 15).expect("reads"), cut(7, 8, 0));
        assert_eq!(cutter.look(LogOffset(12), 15).expect("reads"), cut(7, 12, 1));
    }

    #[test]
    fn what_was_never_shown_is_taken_back_and_a_step_can_become_a_boundary() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(dir.path(), Limits::default()).expect("opens");
        fill(&store, &[(1, 0, 1, true), (2, 0, 1, false), (2, 1, 5, false), (7, 0, 9, false)]);
        let outbox = Outbox::new(store.clone());
        let mut commit = Commit::new();
        outbox.take_back(LogOffset(2), 1, &mut commit).expect("reads");
        outbox.bound(LogOffset(2), 0, &mut commit).expect("reads");
        store.commit(commit, Durability::Buffered).expect("commits");
        let mut cutter = Cutter::new(store.clone(), LogOffset(0));
        assert_eq!(cutter.look(LogOffset(9), 2).expect("reads"), cut(0, 2, 2), "a span may end at it");
        assert_eq!(store.scan_prefix(Space::Outbox, &[DATA]).count(), 2);
    }

    #[test]
    fn a_span_of_many_pages_is_read_once_and_in_order() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(dir.path(), Limits::default()).expect("opens");
        let last = PAGE_ENTRIES as u64 * 2 + 1;
        fill(&store, &(1..=last + 1).map(|offset| (offset, 0, 1, true)).collect::<Vec<_>>());
        let outbox = Outbox::new(store);
        let read = outbox.read(Span { after: LogOffset(1), upto: LogOffset(last) }).expect("held");
        let offsets: Vec<u64> = read.map(|entry| entry.expect("decodes").offset.0).collect();
        assert_eq!(offsets, (2..=last).collect::<Vec<_>>());
    }

    #[test]
    fn what_every_sink_has_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(dir.path(), Limits::default()).expect("opens");
        fill(&store, &[(1, 0, 1, false), (1, 1, 1, true), (2, 0, 1, true), (3, 0, 1, true)]);
        let outbox = Outbox::new(store);
        outbox.trim(LogOffset(2)).expect("trims");
        let read = |after| outbox.read(Span { after: LogOffset(after), upto: LogOffset(3) });
        assert!(read(1).is_err(), "what is gone is not read as empty");
        let offsets: Vec<u64> = read(2).expect("held").map(|entry| entry.expect("decodes").offset.0).collect();
        assert_eq!(offsets, [3]);
        outbox.trim(LogOffset(2)).expect("trimming again is nothing");
    }
}
