//! What is remembered of a sink between two processes, and where the sink goes on.
//!
//! ```text
//! cursor sink/<name>           everything up to here is confirmed
//! cursor sink.rows/<name>      the end of the last confirmed span that had rows
//! cursor sink.end/<name>       the log's end when a process that asks the target was started, until it has answered
//! sinks  <name> 0 c            what the target is claimed to hold, JSON      claim
//! sinks  <name> 0 n <note>     what the sink wants to be told again, as it was at the cursor
//! sinks  <name> 0 r ...        rows that the target refused                 refused
//! sinks  <name> 0 f ...        what is still to be loaded whole             load
//! ```
//!
//! The first two differ because a target is not told of spans without rows: it stands at the second, we at the first.
//!
//! The third finds out an older copy of the data folder. Its target stands beyond the log's end; but capture goes on while
//! the sink is parked, so after some time and a restart the log would have grown past it with other rows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use syncline_journal::{Commit, Durability, JournalError, Space, Store};
use syncline_schemas::ident::LogOffset;
use syncline_sinks::{Known, Recalled, SinkError, Written};

use super::claim::Claim;
use super::load::{self, Order};
use super::outbox::unreadable;
use super::refused::Refused;
use super::transform::EPOCH;

/// The memory of one sink.
pub(super) struct Memory {
    store: Store,
    sink: String,
    /// True after the target has answered this process and was found to fit.
    answered: bool,
    refused: Arc<Refused>,
}

/// What it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remembered {
    /// Everything up to here is confirmed; none before the sink began for the first time.
    pub(super) cursor: Option<LogOffset>,
    /// The end of the last confirmed span that had rows.
    pub(super) delivered: LogOffset,
    pub(super) known: Known,
    /// What the target was claimed to hold at the last start.
    pub(super) claim: Option<Claim>,
    /// Entities that are ordered to be loaded whole.
    pub(super) ordered: BTreeSet<String>,
}

/// Where a sink goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resumed {
    /// From where deltas are delivered.
    pub(super) at: LogOffset,
    /// What is to be remembered as confirmed.
    cursor: LogOffset,
    /// What its target lacks and deltas no longer bring.
    load: Vec<Order>,
    /// True where the target counts as having everything from here on, since all of it is loaded.
    anew: bool,
}

/// Kinds of keys in [`Space::Sinks`].
const CLAIM: u8 = b'c';
const NOTE: u8 = b'n';

/// A key of a sink in [`Space::Sinks`].
pub(super) fn place(sink: &str, kind: u8, name: &[u8]) -> Vec<u8> {
    [sink.as_bytes(), &[0, kind], name].concat()
}

fn cursor_name(sink: &str) -> String {
    format!("sink/{sink}")
}

fn delivered_name(sink: &str) -> String {
    format!("sink.rows/{sink}")
}

/// Everything up to there is confirmed by a sink; none before it began for the first time.
pub(crate) fn cursor(store: &Store, sink: &str) -> Result<Option<LogOffset>, JournalError> {
    Ok(store.cursor(&cursor_name(sink))?.map(LogOffset))
}

/// Tells this state from that of every other data folder; 0 before its transform has begun.
pub(crate) fn epoch(store: &Store) -> Result<u32, SinkError> {
    let epoch = store.cursor(EPOCH).map_err(|error| unreadable(&error))?;
    Ok(epoch.and_then(|epoch| u32::try_from(epoch).ok()).unwrap_or_default())
}

/// Forgets what a sink's target was thought to hold, so that it begins like a new one; no daemon may run.
pub(crate) fn forget(store: &Store, sink: &str, commit: &mut Commit) -> Result<(), JournalError> {
    for name in [cursor_name(sink), delivered_name(sink)] {
        commit.delete(Space::Cursors, name.into_bytes());
    }
    for kind in [CLAIM, NOTE] {
        for pair in store.scan_prefix(Space::Sinks, &place(sink, kind, b"")) {
            commit.delete(Space::Sinks, pair?.0.to_vec());
        }
    }
    Ok(())
}

impl Memory {
    pub(super) fn open(store: &Store, sink: &str, retry_for: Duration) -> Result<Self, SinkError> {
        let refused = Arc::new(Refused::open(store, sink, retry_for)?);
        Ok(Self { store: store.clone(), sink: sink.to_owned(), answered: false, refused })
    }

    pub(super) fn refused(&self) -> Arc<Refused> {
        Arc::clone(&self.refused)
    }

    fn end_name(&self) -> String {
        format!("sink.end/{}", self.sink)
    }

    fn commit(&self, commit: Commit, durability: Durability) -> Result<(), SinkError> {
        self.store.commit(commit, durability).map_err(|error| unreadable(&error))
    }

    fn key(&self, kind: u8, name: &[u8]) -> Vec<u8> {
        place(&self.sink, kind, name)
    }

    fn notes(&self) -> Result<BTreeMap<String, Vec<u8>>, SinkError> {
        let prefix = self.key(NOTE, b"");
        let pairs = self.store.scan_prefix(Space::Sinks, &prefix);
        let notes = pairs.map(|pair| {
            let (key, value) = pair.map_err(|error| unreadable(&error))?;
            Ok((String::from_utf8_lossy(&key[prefix.len()..]).into_owned(), value.to_vec()))
        });
        notes.collect()
    }

    fn claim(&self) -> Result<Option<Claim>, SinkError> {
        let found = self.store.get(Space::Sinks, &self.key(CLAIM, b"")).map_err(|error| unreadable(&error))?;
        let claim = found.map(|claim| serde_json::from_slice(&claim)).transpose();
        claim.map_err(|error| SinkError::Outbox { reason: format!("what sink {} delivered: {error}", self.sink) })
    }

    fn cursor(&self, name: &str) -> Result<Option<u64>, SinkError> {
        self.store.cursor(name).map_err(|error| unreadable(&error))
    }

    /// The offset beyond which nothing was delivered by this state; its log ended at `began` before this process appended
    /// anything, and ends at `now`.
    fn end(&self, began: LogOffset, now: LogOffset) -> Result<LogOffset, SinkError> {
        if self.answered {
            return Ok(now);
        }
        if let Some(end) = self.cursor(&self.end_name())? {
            return Ok(LogOffset(end));
        }
        let mut commit = Commit::new();
        commit.put_cursor(&self.end_name(), began.0);
        self.commit(commit, Durability::Synced)?;
        Ok(began)
    }

    pub(super) fn read(&self, began: LogOffset, now: LogOffset) -> Result<Remembered, SinkError> {
        Ok(Remembered {
            cursor: self.cursor(&cursor_name(&self.sink))?.map(LogOffset),
            delivered: LogOffset(self.cursor(&delivered_name(&self.sink))?.unwrap_or_default()),
            known: Known { epoch: epoch(&self.store)?, end: self.end(began, now)?, notes: self.notes()? },
            claim: self.claim()?,
            ordered: load::ordered_whole(&self.store, &self.sink)?,
        })
    }

    /// Remembers, before anything is written, that the target was asked and fits.
    pub(super) fn begin(&mut self, resumed: &Resumed, claim: &Claim) -> Result<(), SinkError> {
        if !self.answered {
            let mut commit = Commit::new();
            commit.put_cursor(&cursor_name(&self.sink), resumed.cursor.0);
            resumed.load.iter().for_each(|order| order.put(&self.sink, &mut commit));
            if resumed.anew {
                commit.put_cursor(&delivered_name(&self.sink), resumed.at.0);
            }
            commit.delete(Space::Cursors, self.end_name());
            commit.put(Space::Sinks, self.key(CLAIM, b""), serde_json::to_vec(claim).expect("a claim is plain data"));
            self.commit(commit, Durability::Synced)?;
            self.answered = true;
        }
        Ok(())
    }

    /// Remembers a confirmed span, and what its write said where it had rows.
    pub(super) fn confirm(&self, upto: LogOffset, written: Option<Written>) -> Result<(), SinkError> {
        let mut commit = Commit::new();
        commit.put_cursor(&cursor_name(&self.sink), upto.0);
        if let Some(written) = written {
            commit.put_cursor(&delivered_name(&self.sink), upto.0);
            self.settle(written, &mut commit);
        }
        // A power failure may take it back; the span is then written again, which changes nothing.
        self.commit(commit, Durability::Buffered)
    }

    /// Remembers what became of refused rows that were sent again.
    pub(super) fn retried(&self, written: Written) -> Result<(), SinkError> {
        let mut commit = Commit::new();
        self.settle(written, &mut commit);
        self.commit(commit, Durability::Buffered)
    }

    fn settle(&self, written: Written, commit: &mut Commit) {
        for (name, note) in written.notes {
            commit.put(Space::Sinks, self.key(NOTE, name.as_bytes()), note);
        }
        self.refused.settle(written.rejected, commit);
    }
}

impl Remembered {
    /// Where to go on: what the target says outranks what we remember. One that has all rows also has the spans without
    /// any that we confirmed since.
    ///
    /// # Errors
    /// [`SinkError::Refused`] where the target is not ours or not the one that we filled, and where it needs deltas up to
    /// `trimmed`, which are gone. One that takes loads of whole entities is `loadable` up to what is folded: it is not
    /// refused for what such a load brings.
    pub(super) fn resume(
        &self,
        sink: &str,
        claim: &Claim,
        recalled: Recalled,
        trimmed: LogOffset,
        loadable: Option<LogOffset>,
    ) -> Result<Resumed, SinkError> {
        let target = format!("sink {sink}");
        let refused = |reason: String, remedy: &str| {
            Err(SinkError::Refused { target: target.clone(), reason, remedy: remedy.to_owned() })
        };
        let ours = self.cursor.unwrap_or_default();
        let at = match recalled {
            Recalled::Upto(theirs) => {
                self.known.refuse_beyond(&target, theirs)?;
                if theirs >= self.delivered { theirs.max(ours) } else { theirs }
            }
            Recalled::Unknown | Recalled::Nothing | Recalled::Everything => ours,
        };
        let mut load = Vec::new();
        if self.delivered > LogOffset::START
            && let Some(was) = &self.claim
        {
            load = was.continues(claim, sink, recalled, self.delivered, loadable.is_some())?;
        }
        if self.cursor.is_none() && at > LogOffset::START {
            return refused(
                format!("it stands at {at}, but nothing was ever delivered to it from this data_dir"),
                "another data_dir filled it: use that one, or give this sink an empty target",
            );
        }
        if let (None, LogOffset::START, Some(folded)) = (self.cursor, at, loadable)
            && (trimmed > LogOffset::START || !self.ordered.is_empty())
        {
            // Nothing of it was ever delivered, and deltas alone no longer bring all of it.
            let load = claim.mapped().into_iter().filter(|entity| !self.ordered.contains(entity)).collect();
            return Ok(Resumed { at: folded, cursor: folded, load: orders(load), anew: true });
        }
        if at < trimmed {
            return refused(
                format!("it stands at {at}, and deltas up to {trimmed} were delivered elsewhere and removed"),
                match loadable {
                    Some(_) => {
                        "stop the daemon and have `syncline replay SINK --full` send it everything, or restore it to what it was"
                    }
                    None => {
                        "restore the target to what it was, or start with an empty data_dir to fill it from a snapshot"
                    }
                },
            );
        }
        Ok(Resumed { at, cursor: ours, load: orders(load), anew: false })
    }
}

fn orders(entities: Vec<String>) -> Vec<Order> {
    entities.iter().map(|entity| Order::whole(entity)).collect()
}

#[cfg(test)]
mod tests {
    use syncline_journal::Limits;
    use syncline_sinks::Identity;

    use super::*;

    fn remembered(cursor: Option<u64>) -> Remembered {
        let cursor = cursor.map(LogOffset);
        Remembered { cursor, delivered: LogOffset(100), known: Known::default(), claim: None, ordered: BTreeSet::new() }
    }

    fn claim() -> Claim {
        let identity = Identity { kind: "lake", target: "file:///lake".to_owned(), entities: Vec::new() };
        Claim::new(identity, &BTreeSet::new())
    }

    #[test]
    fn a_target_with_all_rows_goes_on_where_we_are_and_one_that_lost_some_where_it_is() {
        let upto = |offset| Recalled::Upto(LogOffset(offset));
        let resume = |recalled, trimmed| {
            let resumed = remembered(Some(5_000)).resume("lake", &claim(), recalled, LogOffset(trimmed), None);
            resumed.ok().map(|resumed| resumed.at)
        };
        assert_eq!(resume(Recalled::Unknown, 5_000), Some(LogOffset(5_000)));
        assert_eq!(resume(upto(100), 5_000), Some(LogOffset(5_000)));
        assert_eq!(resume(upto(6_000), 5_000), Some(LogOffset(6_000)), "confirmed there, not yet here");
        assert_eq!(resume(upto(99), 90), Some(LogOffset(99)));
        assert_eq!(resume(upto(99), 100), None, "what it lacks is gone");
        let new = |recalled| remembered(None).resume("lake", &claim(), recalled, LogOffset::START, None);
        assert_eq!(new(Recalled::Nothing).map(|new| new.at).ok(), Some(LogOffset::START));
        let foreign = new(upto(7));
        assert!(foreign.expect_err("another's").to_string().contains("another data_dir filled it"));
    }

    #[test]
    fn a_target_that_begins_where_deltas_are_gone_is_loaded_whole_and_not_given_half() {
        let claim = {
            let entities = vec!["item".to_owned(), "kit".to_owned()];
            let identity = Identity { kind: "planning", target: "http://a".to_owned(), entities };
            Claim::new(identity, &BTreeSet::from(["item".to_owned()]))
        };
        let begin = |ordered: &[&str], trimmed, loadable: Option<u64>| {
            let ordered = ordered.iter().map(|entity| (*entity).to_owned()).collect();
            let began = Remembered { ordered, ..remembered(None) };
            began.resume("planning", &claim, Recalled::Unknown, LogOffset(trimmed), loadable.map(LogOffset))
        };
        let resumed = begin(&[], 70, Some(90)).expect("is loaded");
        assert_eq!((resumed.at, resumed.load), (LogOffset(90), vec![Order::whole("item")]));
        assert_eq!(begin(&[], 0, Some(90)).expect("all deltas are there").at, LogOffset::START);
        let asked = begin(&["item"], 0, Some(90)).expect("is loaded");
        assert_eq!((asked.at, asked.load), (LogOffset(90), Vec::new()), "what was asked for is written down already");
        let other = begin(&["kit"], 0, Some(90)).expect("is loaded");
        assert_eq!(other.load, vec![Order::whole("item")], "nobody asked for it, and deltas do not bring it");
        assert!(begin(&[], 70, None).is_err(), "a lake has no loads");
    }

    #[test]
    fn an_older_copy_of_the_state_is_found_out_however_far_its_log_has_grown_since() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(folder.path(), Limits::default()).expect("opens");
        let memory = || Memory::open(&store, "lake", Duration::MAX).expect("reads");
        let beyond = |remembered: &Remembered, at| remembered.known.refuse_beyond("lake", LogOffset(at)).is_err();
        assert!(beyond(&memory().read(LogOffset(4_000), LogOffset(4_000)).expect("reads"), 5_000));
        assert!(
            beyond(&memory().read(LogOffset(6_000), LogOffset(6_000)).expect("reads"), 5_000),
            "no process has asked it yet"
        );
        // The target was brought back to where this copy was.
        let mut answered = memory();
        let known = answered.read(LogOffset(7_000), LogOffset(7_000)).expect("reads");
        assert!(!beyond(&known, 4_000));
        let resumed = known.resume("lake", &claim(), Recalled::Nothing, LogOffset::START, None).expect("goes on");
        answered.begin(&resumed, &claim()).expect("commits");
        assert!(!beyond(&answered.read(LogOffset(8_000), LogOffset(8_000)).expect("reads"), 8_000));
        assert!(!beyond(&memory().read(LogOffset(8_000), LogOffset(8_000)).expect("reads"), 8_000));
    }
}
