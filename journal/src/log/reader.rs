//! Reading the log in order, behind its durable end.
//!
//! A reader keeps the segment's file open and its place in it; a record costs two positioned reads. It owns no thread
//! and holds nothing back: what it has not read may be trimmed, which it then reports.

use std::sync::Arc;

use syncline_schemas::ident::{LogOffset, Position, SourceId};

use super::record::{self, Fault};
use super::segment::{self, Segment};
use super::shared::{Held, Shared};
use crate::error::JournalError;

/// An entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its number.
    pub offset: LogOffset,
    /// Where it came from.
    pub source: SourceId,
    /// How far the source is with it.
    pub position: Position,
    /// False while a transaction of the source goes on in its next entry.
    pub txn_end: bool,
    /// What was appended.
    pub payload: Vec<u8>,
}

/// A place in the log.
pub struct LogReader {
    shared: Arc<Shared>,
    after: LogOffset,
    place: Option<Place>,
    /// The source of the last record: most have the same, and share its name.
    source: SourceId,
}

/// An open segment and where in it the next record begins.
struct Place {
    segment: Segment,
    first: LogOffset,
    at: u64,
}

impl LogReader {
    pub(super) fn new(shared: Arc<Shared>, after: LogOffset) -> Self {
        Self { shared, after, place: None, source: SourceId::new("") }
    }

    /// The next durable record, or `None` where the reader has caught up; then wait with [`super::Log::wait_durable`].
    ///
    /// # Errors
    /// [`JournalError::Trimmed`] where it is no longer held; [`JournalError::Corrupt`] where its checksum does not
    /// match; [`JournalError::Io`].
    // Not an `Iterator`: `None` is not the end, and an error is no reason to go on.
    #[expect(clippy::should_implement_trait, reason = "see the comment above")]
    pub fn next(&mut self) -> Result<Option<Record>, JournalError> {
        let wanted = self.after.next();
        let Some(held) = self.shared.held(wanted)? else {
            return Ok(None);
        };
        let place = match self.place.take() {
            Some(place) if place.first == held.first => place,
            _ => self.seek(held, wanted)?,
        };
        let read = record::read(&*place.segment.file, place.at, held.bytes, wanted)
            .and_then(|(head, body)| self.record(wanted, &head, body).map(|record| (record, head.record_bytes())));
        match read {
            Ok((record, bytes)) => {
                self.place = Some(Place { at: place.at + bytes, ..place });
                self.after = wanted;
                Ok(Some(record))
            }
            Err(fault) => Err(report(fault, &place, wanted)),
        }
    }

    /// The offset of the last record that was read.
    #[must_use]
    pub const fn after(&self) -> LogOffset {
        self.after
    }

    /// Opens the segment that holds a record and steps over those before it.
    fn seek(&self, held: Held, wanted: LogOffset) -> Result<Place, JournalError> {
        let (segment, _) = segment::open(&*self.shared.disk, &self.shared.dir, held.first)?;
        let mut place = Place { at: segment.records_at, segment, first: held.first };
        let mut offset = held.first;
        while offset < wanted {
            match record::read_head(&*place.segment.file, place.at, held.bytes, offset) {
                Ok(head) => place.at += head.record_bytes(),
                Err(fault) => return Err(report(fault, &place, offset)),
            }
            offset = offset.next();
        }
        Ok(place)
    }

    fn record(&mut self, offset: LogOffset, head: &record::Head, mut body: Vec<u8>) -> Result<Record, Fault> {
        let (source, position) = head.origin(&body).map_err(Fault::Invalid)?;
        if self.source.as_str() != source {
            self.source = SourceId::new(source);
        }
        let position = Position::new(position.to_vec());
        body.truncate(head.payload_bytes());
        Ok(Record { offset, source: self.source.clone(), position, txn_end: head.txn_end(), payload: body })
    }
}

fn report(fault: Fault, place: &Place, offset: LogOffset) -> JournalError {
    let path = place.segment.path.clone();
    match fault {
        Fault::Invalid(reason) => JournalError::Corrupt { path, byte: place.at, offset, reason },
        Fault::Io(source) => JournalError::Io { action: "read", path, source },
    }
}
