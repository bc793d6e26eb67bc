//! What a sink is asked to do, and what it is given for it.

use std::collections::BTreeMap;
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use syncline_schemas::delta::DeltaBatch;
use syncline_schemas::ident::{LogOffset, Version};

use crate::{EntityPatterns, SinkError};

/// A half-open run of log offsets, `(after, upto]`; always ends where a source transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The last offset that is not part of it.
    pub after: LogOffset,
    /// The last offset that is.
    pub upto: LogOffset,
}

/// The deltas of one log entry.
#[derive(Debug, Clone)]
pub struct OutboxEntry {
    /// The log entry that caused them.
    pub offset: LogOffset,
    /// At most a few batches, each of one entity and in version order.
    pub deltas: Vec<DeltaBatch>,
}

/// The entries of a span in offset order; offsets without deltas may be left out.
pub type OutboxIter<'a> = Box<dyn Iterator<Item = Result<OutboxEntry, SinkError>> + Send + 'a>;

/// The outbox as a sink sees it.
///
/// Reading is lazy, as a span can be larger than memory, and repeatable: the same span gives the same deltas as often as
/// it is asked, also after a restart. `next` blocks on local storage only and for one entry at a time.
///
/// A sink may deliver some entities ahead of the others of a span, also from behind the span as far as that is
/// [`visible`](Self::visible). It then reads each entity by itself and never reads a row twice in a write.
#[async_trait]
pub trait DeltaSource: Send + Sync {
    /// Starts reading a span.
    ///
    /// # Errors
    /// [`SinkError::Outbox`] where the outbox no longer holds the span or cannot be read.
    fn read(&self, span: Span) -> Result<OutboxIter<'_>, SinkError>;

    /// Starts reading what a span has of some entities.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn read_of<'s>(&'s self, span: Span, wanted: &'s EntityPatterns) -> Result<OutboxIter<'s>, SinkError> {
        Ok(Box::new(self.read(span)?.map(|entry| {
            let OutboxEntry { offset, mut deltas } = entry?;
            deltas.retain(|batch| wanted.contains(&batch.entity));
            Ok(OutboxEntry { offset, deltas })
        })))
    }

    /// Up to where deltas can be read; none where there are those of the span and no others.
    fn visible(&self) -> Option<LogOffset> {
        None
    }

    /// Waits until deltas behind an offset can be read; for ever where there are those of the span and no others.
    async fn visible_behind(&self, offset: LogOffset) {
        let _ = offset;
        std::future::pending().await
    }

    /// All that was read of some entities has arrived or was told to be refused; the write goes on with what follows.
    fn arrived(&self, entities: &EntityPatterns) {
        let _ = entities;
    }

    /// Takes the rows that the target refused. They are told as soon as that is known, before the write goes on: whatever
    /// was read and not told is taken for delivered once the write returns.
    ///
    /// # Errors
    /// [`SinkError::Outbox`] where they cannot be written down; the write must fail with it.
    fn refused(&self, rejects: Vec<Reject>) -> Result<(), SinkError>;
}

/// What is remembered of a target over restarts, for [`Sink::recall`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Tells this state from that of every other data folder, whose offsets mean other rows.
    pub epoch: u32,
    /// No process of this state has delivered anything beyond it; what is there comes from a newer copy of the state.
    pub end: LogOffset,
    /// The last note of each name in [`Written::notes`] of writes that were confirmed.
    pub notes: BTreeMap<String, Vec<u8>>,
}

/// What a sink is to deliver, and where to. A target that does not hold what another one was given is not a continuation
/// of it, and neither are entities that were left out so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The kind of target, as in `lake`.
    pub kind: &'static str,
    /// Its place, without secrets.
    pub target: String,
    /// Every entity that is delivered.
    pub entities: Vec<String>,
}

/// What a target says about what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recalled {
    /// There is nothing to ask it for.
    Unknown,
    /// It remembers how far it is, and holds nothing of ours.
    Nothing,
    /// It holds whatever it acknowledged, and has no single offset for that.
    Everything,
    /// It holds everything up to here. That outranks our cursor.
    Upto(LogOffset),
}

impl Default for Known {
    /// Nothing is remembered and nothing ruled out.
    fn default() -> Self {
        Self { epoch: 0, end: LogOffset(u64::MAX), notes: BTreeMap::new() }
    }
}

impl Known {
    /// Refuses a target that has rows of ours that we never delivered.
    ///
    /// # Errors
    /// [`SinkError::Refused`] where `at` is beyond [`Known::end`].
    pub fn refuse_beyond(&self, target: &str, at: LogOffset) -> Result<(), SinkError> {
        if at <= self.end {
            return Ok(());
        }
        Err(SinkError::Refused {
            target: target.to_owned(),
            reason: format!(
                "it stands at {at}, and this data_dir had got no further than {} when it started",
                self.end
            ),
            remedy: "this data_dir is an older copy: go on with the newer one, or start over".to_owned(),
        })
    }
}

/// A target.
///
/// - **Durable**: [`Sink::write`] returns when everything in the span is durable at the target.
/// - **Repeatable**: writing a span twice, or again with other bounds after a crash, equals writing it once.
/// - **Ordered**: per key, the target sees versions in rising order, always.
/// - **Cancel-safe**: dropping the future at any point is a crash at that point; the next call repairs it.
/// - Spans come in order and without gaps, starting at what [`Sink::recall`] said or else at our cursor. The sink
///   retries what is worth retrying for a while; the pump repeats the span after [`Class::Transient`](crate::Class) and
///   parks the sink after [`Class::Definite`](crate::Class).
#[async_trait]
pub trait Sink: Send {
    /// What it delivers and where to; asks nobody.
    fn identity(&self) -> Identity;

    /// Asks the target what it holds: before the first write, and again after one that failed.
    ///
    /// # Errors
    /// Where the target cannot be asked, and where it does not hold what is known to be there: going on would leave a hole.
    async fn recall(&mut self, known: &Known) -> Result<Recalled, SinkError>;

    /// Makes a span durable at the target.
    ///
    /// # Errors
    /// Nothing is known about the span then, except that writing it again is safe.
    async fn write(&mut self, span: Span, deltas: &dyn DeltaSource) -> Result<Written, SinkError>;

    /// Sends rows again that the target refused as retryable, whatever their versions; `rows` gives all of them for any
    /// span. Those that are refused once more are told as in a write. A target that never refuses single rows needs none.
    ///
    /// # Errors
    /// As [`Sink::write`].
    async fn retry(&mut self, rows: &dyn DeltaSource) -> Result<Written, SinkError> {
        let _ = rows;
        Ok(Written::default())
    }

    /// What loads whole entities into the target beside the spans; none where the target is filled by deltas alone.
    fn filler(&self) -> Option<Box<dyn Filler>> {
        None
    }

    /// How the pump should cut spans.
    fn batching(&self) -> Batching;
}

/// All rows of an entity as of one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The entity.
    pub entity: String,
    /// The version of every row: behind all deltas up to that moment, before all later ones.
    pub cut: Version,
    /// Whether rows of versions up to the cut that are not among them are to go.
    pub sweep: bool,
}

/// Loads whole entities into a target while its sink delivers deltas to it; the version of a row decides, whatever comes
/// first. Dropping the future is a crash; the load is then begun again.
#[async_trait]
pub trait Filler: Send + Sync {
    /// Loads an entity; `rows` gives all of it for any span: upserts, and [`KEEP`](syncline_schemas::delta::KEEP) for keys
    /// whose row is not known and is to stay. Refused rows are told as in a write.
    ///
    /// # Errors
    /// As [`Sink::write`].
    async fn fill(&mut self, image: &Image, rows: &dyn DeltaSource) -> Result<Written, SinkError>;
}

/// How large a span should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batching {
    /// Enough rows to stop waiting for more. A span can be larger: it ends at a transaction's end.
    pub max_rows: usize,
    /// How long to wait for more rows after the first; zero delivers at once.
    pub linger: Duration,
}

/// What a write did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// Rows that the target now has because of this write.
    pub rows: u64,
    /// Bytes sent to it, before compression by a transport.
    pub bytes: u64,
    /// Rows that the target refused one by one; the others of their batch went through.
    pub rejected: u64,
    /// What to remember by name, together with the confirmation of the span: see [`Known::notes`].
    pub notes: Vec<(String, Vec<u8>)>,
}

impl Written {
    /// Adds up what parts of a write did.
    pub fn absorb(&mut self, part: Self) {
        self.rows += part.rows;
        self.bytes += part.bytes;
        self.rejected += part.rejected;
        self.notes.extend(part.notes);
    }
}

/// A row that the target refused.
#[derive(Debug, Clone, PartialEq)]
pub struct Reject {
    /// The entity.
    pub entity: String,
    /// The row itself, in the shape of its entity's deltas.
    pub row: RecordBatch,
    /// The key as the target was given it, JSON.
    pub key: String,
    /// The version as 32 hex digits.
    pub version: String,
    /// The target's word for the reason, as in `unknown_item`.
    pub code: String,
    /// The field at fault, where the target names one.
    pub field: Option<String>,
    /// True where the target says that a later attempt can succeed.
    pub retryable: bool,
}
