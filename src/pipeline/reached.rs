//! How far each source was at a log offset, for whoever keeps what was true then.
//!
//! The log knows how far a source is by its last entry. Of a source that went on since, the last entry before the offset is
//! looked for backwards in growing steps: those that are busy have one close by.

use std::collections::BTreeMap;

use syncline_journal::{JournalError, Log};
use syncline_schemas::ident::{LogOffset, Position, SourceId};
use syncline_sinks::lake::Reached;

use crate::config::SourceKind;

/// Entries of the first step back.
const STEP: u64 = 256;

/// Of each source that the log knows: its last entry up to an offset that ends a transaction.
pub(crate) fn at(
    log: &Log,
    sources: &[(SourceId, SourceKind)],
    offset: LogOffset,
) -> Result<BTreeMap<String, Reached>, JournalError> {
    let mut found: BTreeMap<&(SourceId, SourceKind), Option<(LogOffset, Position)>> = BTreeMap::new();
    for known in sources {
        let Some(resume) = log.resume(&known.0) else { continue };
        let is_last = resume.txn_end && resume.offset <= offset;
        found.insert(known, is_last.then_some((resume.offset, resume.position)));
    }
    let (mut upto, mut step) = (offset.0.min(log.durable().0), STEP);
    while found.values().any(Option::is_none) && upto >= log.first().0 {
        let after = upto.saturating_sub(step).max(log.first().0.saturating_sub(1));
        match entries(log, LogOffset(after), LogOffset(upto)) {
            Ok(entries) => {
                for ((source, _), entry) in found.iter_mut().filter(|(_, entry)| entry.is_none()) {
                    *entry = entries.get(source.as_str()).cloned();
                }
            }
            // The oldest entries go at any moment; what is gone nobody can tell.
            Err(JournalError::Trimmed { .. }) => break,
            Err(error) => return Err(error),
        }
        (upto, step) = (after, step.saturating_mul(4));
    }
    Ok(found.into_iter().map(|((source, kind), entry)| (source.to_string(), reached(*kind, entry))).collect())
}

/// The last entry of each source in a run of the log that ends a transaction.
fn entries(
    log: &Log,
    after: LogOffset,
    upto: LogOffset,
) -> Result<BTreeMap<String, (LogOffset, Position)>, JournalError> {
    let mut reader = log.reader(after)?;
    let mut last = BTreeMap::new();
    while reader.after() < upto
        && let Some(record) = reader.next()?
    {
        if record.txn_end {
            last.insert(record.source.to_string(), (record.offset, record.position));
        }
    }
    Ok(last)
}

fn reached(kind: SourceKind, entry: Option<(LogOffset, Position)>) -> Reached {
    let hex = |position: &Position| position.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    Reached {
        entry: entry.as_ref().map(|(offset, _)| offset.0),
        position: entry.as_ref().map(|(_, position)| hex(position)),
        lsn: entry.and_then(|(_, position)| kind.describe(&position)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use syncline_journal::{Journal, Limits};

    use super::*;

    #[test]
    fn of_every_source_the_last_whole_transaction_before_the_offset_is_told_and_none_behind_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let journal = Journal::open(folder.path(), Limits::default()).expect("opens");
        let append = |source: &str, n: u64, ends: bool| {
            let position = Position::new(n.to_be_bytes().to_vec());
            journal.log.append(&SourceId::new(source), &position, ends, vec![0; 8]).expect("appended")
        };
        let idle = append("idle", 1, true);
        let mut busy = Vec::new();
        for n in 0..700 {
            busy.push(append("busy", n, true));
        }
        let open = append("busy", 700, false);
        let last = append("idle", 2, true);
        journal.log.wait_durable(last, Duration::from_secs(60)).expect("durable");
        let sources = ["busy", "idle", "never"].map(|name| (SourceId::new(name), SourceKind::Seeds));
        let entries = |offset| {
            let found = at(&journal.log, &sources, offset).expect("reads");
            ["busy", "idle", "never"].map(|name| found.get(name).map(|reached| reached.entry))
        };
        let entry = |offset: LogOffset| Some(Some(offset.0));
        assert_eq!(entries(last), [entry(busy[699]), entry(last), None]);
        assert_eq!(entries(open), [entry(busy[699]), entry(idle), None], "the transaction has not ended");
        assert_eq!(entries(busy[3]), [entry(busy[3]), entry(idle), None]);
        assert_eq!(entries(idle), [Some(None), entry(idle), None], "nothing of it was there yet");
        let found = at(&journal.log, &sources, busy[3]).expect("reads");
        assert_eq!(found["busy"].position.as_deref(), Some("0000000000000003"));
        assert_eq!(found["busy"].lsn, None, "no position of a database");
    }
}
