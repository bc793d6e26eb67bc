//! Pumps over a real journal and real sinks, over restarts.

use arrow::array::{
    ArrayRef, AsArray, FixedSizeBinaryArray, RecordBatch, StringArray, TimestampMicrosecondArray, UInt8Array,
    new_null_array,
};
use syncline_journal::{Commit, Durability, Journal, Limits};
use syncline_schemas::delta::{DeltaBatch, UPSERT};
use syncline_schemas::entity;
use syncline_schemas::ident::{Position, SourceId, Version};
use syncline_sinks::lake::{LakeConfig, LakeSink};
use syncline_sinks::{Batching, DeltaSource, EntityPatterns, Identity, Known, Recalled, Reject, Span};
use syncline_transform::state::OutboxStep;

use super::super::{outbox, refused};
use super::*;

const EPOCH: u32 = 3;
const SINK: &str = "target";

/// A data folder and what the daemon would do with it.
struct Daemon {
    folder: tempfile::TempDir,
    journal: Journal,
    end: u64,
}

impl Daemon {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let journal = Journal::open(&folder.path().join("data"), Limits::default()).expect("opens");
        let mut commit = Commit::new();
        commit.put_cursor("epoch", u64::from(EPOCH));
        journal.store.commit(commit, Durability::Synced).expect("commits");
        Self { folder, journal, end: 0 }
    }

    fn lake(&self) -> LakeSink {
        self.lake_at("lake", &["item"])
    }

    fn lake_at(&self, name: &str, entities: &[&str]) -> LakeSink {
        let url = reqwest::Url::from_directory_path(self.folder.path().join(name)).expect("absolute");
        let mut config = LakeConfig::new(url, "test", self.folder.path().join("scratch"));
        config.flush_every = Duration::ZERO;
        config.entities = EntityPatterns::new(entities.iter().copied()).expect("canonical");
        LakeSink::new(config).expect("opens")
    }

    /// Adds an entry that makes an item of each number.
    fn items(&mut self, numbers: &[u32]) {
        let offset = self.entry();
        let deltas = [items(offset, numbers)];
        let step = OutboxStep {
            offset,
            step: 0,
            rows: u32::try_from(numbers.len()).expect("few"),
            bytes: syncline_schemas::delta::encode(&deltas).expect("encodes"),
        };
        let mut commit = Commit::new();
        outbox::put(&mut commit, step, true);
        self.journal.store.commit(commit, Durability::Synced).expect("commits");
    }

    /// Adds an entry that changes nothing canonical.
    fn entry(&mut self) -> LogOffset {
        let log = &self.journal.log;
        let offset = log.append(&SourceId::new("erp"), &Position::default(), true, vec![0; 8]).expect("appended");
        log.wait_durable(offset, Duration::from_secs(60)).expect("durable");
        self.end = offset.0;
        offset
    }

    /// Runs a pump until it has confirmed everything or is parked; its status.
    async fn run(&self, sink: impl Sink + 'static) -> Arc<Status> {
        self.run_until(sink, |_| true).await
    }

    /// Runs a pump that also waits for something else.
    async fn run_until(&self, sink: impl Sink + 'static, holds: impl Fn(&Status) -> bool + Send + Sync) -> Arc<Status> {
        let status = Arc::new(Status::new(Instant::now(), &[], &[SINK.to_owned()]));
        status.transform.folded.store(self.end, Ordering::Release);
        let mode = watch::Sender::new(Mode::Flush);
        let pump = Pump {
            sink: Box::new(sink),
            log: self.journal.log.clone(),
            store: self.journal.store.clone(),
            log_end: self.journal.log.durable(),
            status: Arc::clone(&status),
            mapped: Arc::new(["item", "supplier"].map(ToOwned::to_owned).into()),
            index: 0,
            mode: mode.subscribe(),
            counted: Default::default(),
            retry_for: Duration::MAX,
        };
        let thread = pump.start(SINK).expect("a thread");
        let done = |status: &Status| {
            let sink = &status.sinks[0];
            (sink.cursor.load(Ordering::Acquire) >= self.end && holds(status)) || sink.parked.is_parked()
        };
        tokio::time::timeout(Duration::from_secs(60), status.wait_for(done)).await.expect("within a minute");
        mode.send_replace(Mode::Stop);
        tokio::task::spawn_blocking(move || thread.join()).await.expect("not aborted").expect("no panic");
        status
    }

    /// Runs a pump that must get everything across.
    async fn deliver(&self, sink: impl Sink + 'static) {
        let status = self.run(sink).await;
        assert_eq!(status.sinks[0].parked.reason(), None);
    }

    /// Runs a pump that must park; why it did.
    async fn refusal(&self, sink: impl Sink + 'static) -> String {
        let status = self.run(sink).await;
        status.sinks[0].parked.reason().expect("refused")
    }

    /// What housekeeping does once every sink has everything.
    fn trim(&self) {
        Outbox::new(self.journal.store.clone()).trim(LogOffset(self.end)).expect("trims");
    }
}

pub(in crate::pipeline) fn items(offset: LogOffset, numbers: &[u32]) -> DeltaBatch {
    let (entity, count) = (entity::get("item").expect("canonical"), numbers.len());
    let text = |text: &str| Arc::new(StringArray::from(vec![text; count])) as ArrayRef;
    let instant = || {
        Arc::new(TimestampMicrosecondArray::from(vec![1_779_789_601_120_000; count]).with_timezone("UTC")) as ArrayRef
    };
    let versions = (0..).zip(numbers).map(|(row, _)| *Version::new(EPOCH, offset, row).as_bytes());
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(UInt8Array::from(vec![UPSERT; count])),
        Arc::new(FixedSizeBinaryArray::try_from_iter(versions).expect("16 bytes each")),
        text("erp"),
        text("public.item"),
        text("0/16B3748"),
        instant(),
        instant(),
    ];
    for field in &entity.fields {
        columns.push(match field.name.as_str() {
            "item_id" => Arc::new(StringArray::from_iter_values(numbers.iter().map(ToString::to_string))),
            _ if field.key => text("DE01"),
            _ => new_null_array(&field.field_type.arrow(), count),
        });
    }
    let rows = RecordBatch::try_new(entity.delta_schema(), columns).expect("canonical shape");
    DeltaBatch { entity: entity.name.clone(), rows }
}

#[tokio::test]
async fn spans_without_rows_that_a_lake_never_heard_of_do_not_part_it_from_its_outbox() {
    let mut daemon = Daemon::new();
    daemon.items(&[1, 2]);
    daemon.deliver(daemon.lake()).await;
    for _ in 0..3 {
        daemon.entry();
        daemon.deliver(daemon.lake()).await;
        daemon.trim();
    }
    daemon.items(&[3]);
    daemon.deliver(daemon.lake()).await;
}

#[tokio::test]
async fn a_lake_that_does_not_hold_what_was_delivered_is_never_continued_with_a_hole() {
    let mut daemon = Daemon::new();
    daemon.items(&[1, 2]);
    daemon.deliver(daemon.lake()).await;
    daemon.items(&[3]);
    let wider = daemon.refusal(daemon.lake_at("lake", &["item", "supplier"])).await;
    assert!(wider.contains("takes supplier along, whose rows up to 1 went by"), "{wider}");
    daemon.deliver(daemon.lake_at("lake", &["item", "location"])).await;
    let elsewhere = daemon.refusal(daemon.lake_at("elsewhere", &["item"])).await;
    assert!(elsewhere.contains("/elsewhere does not hold"), "{elsewhere}");

    let folder = daemon.folder.path();
    std::fs::rename(folder.join("lake"), folder.join("moved")).expect("moved");
    daemon.items(&[4]);
    let empty = daemon.refusal(daemon.lake()).await;
    assert!(empty.contains("/lake is empty, but rows up to 2 were delivered to it"), "{empty}");
    daemon.deliver(daemon.lake_at("moved", &["item"])).await;
}

/// A target that refuses some items, the first of them for good.
struct Choosy {
    refuses: &'static [&'static str],
}

impl Choosy {
    fn take(&self, span: Span, deltas: &dyn DeltaSource) -> Result<Written, SinkError> {
        let mut written = Written::default();
        for entry in deltas.read(span)? {
            for batch in entry?.deltas {
                let items = batch.rows.column_by_name("item_id").expect("items").as_string::<i32>().clone();
                for (row, item) in items.iter().enumerate() {
                    let item = item.expect("a key");
                    let Some(place) = self.refuses.iter().position(|refused| *refused == item) else {
                        written.rows += 1;
                        continue;
                    };
                    written.rejected += 1;
                    let version = batch.rows.column(1).as_fixed_size_binary().value(row).try_into().expect("16 bytes");
                    deltas.refused(vec![Reject {
                        entity: batch.entity.clone(),
                        row: batch.rows.slice(row, 1),
                        key: format!("{{\"item_id\":{item:?}}}"),
                        version: Version::from_bytes(version).to_string(),
                        code: "unknown_item".to_owned(),
                        field: None,
                        retryable: place > 0,
                    }])?;
                }
            }
        }
        Ok(written)
    }
}

#[async_trait::async_trait]
impl Sink for Choosy {
    fn identity(&self) -> Identity {
        Identity { kind: "choosy", target: String::new(), entities: vec!["item".to_owned()] }
    }

    async fn recall(&mut self, _: &Known) -> Result<Recalled, SinkError> {
        Ok(Recalled::Everything)
    }

    async fn write(&mut self, span: Span, deltas: &dyn DeltaSource) -> Result<Written, SinkError> {
        self.take(span, deltas)
    }

    async fn retry(&mut self, rows: &dyn DeltaSource) -> Result<Written, SinkError> {
        self.take(Span { after: LogOffset::START, upto: LogOffset::START }, rows)
    }

    fn batching(&self) -> Batching {
        Batching { max_rows: 100, linger: Duration::ZERO }
    }
}

#[tokio::test]
async fn a_refused_row_is_listed_until_it_or_a_newer_version_is_taken() {
    let mut daemon = Daemon::new();
    let keys = |daemon: &Daemon| {
        let rows = refused::list(&daemon.journal.store, SINK, 10);
        rows.into_iter().map(|row| (row.key, row.attempts)).collect::<Vec<_>>()
    };
    let key = |item: &str, attempts| (format!("{{\"item_id\":\"{item}\"}}"), attempts);
    daemon.items(&[1, 2, 3, 4]);
    let status = daemon.run(Choosy { refuses: &["2", "3", "4"] }).await;
    assert_eq!(status.sinks[0].refused.load(Ordering::Relaxed), 3);
    assert_eq!(keys(&daemon)[0], key("2", 1));
    // After a restart the target takes 3, and still neither 2, which it refuses for good, nor 4.
    daemon
        .run_until(Choosy { refuses: &["2", "4"] }, |status| status.sinks[0].refused.load(Ordering::Relaxed) == 2)
        .await;
    let listed = keys(&daemon);
    assert_eq!((listed.len(), &listed[0]), (2, &key("2", 1)), "what is refused for good is not sent again");
    assert!(listed[1].1 > 1, "4 was sent again and refused again: {listed:?}");
    // Both are corrected at the source.
    daemon.items(&[2, 4]);
    daemon.deliver(Choosy { refuses: &["2"] }).await;
    assert_eq!(keys(&daemon), [key("2", 1)], "the newer version was refused, too");
    daemon.items(&[2]);
    daemon.deliver(Choosy { refuses: &[] }).await;
    assert_eq!(keys(&daemon), []);
}

type Answer = fn() -> Result<Recalled, SinkError>;

/// A target that is asked how far it has got, and for nothing else.
struct Asked(Answer);

#[async_trait::async_trait]
impl Sink for Asked {
    fn identity(&self) -> Identity {
        Identity { kind: "asked", target: String::new(), entities: Vec::new() }
    }

    async fn recall(&mut self, _: &Known) -> Result<Recalled, SinkError> {
        (self.0)()
    }

    async fn write(&mut self, _: Span, _: &dyn DeltaSource) -> Result<Written, SinkError> {
        unreachable!("there is nothing to write")
    }

    fn batching(&self) -> Batching {
        Batching { max_rows: 1, linger: Duration::ZERO }
    }
}

/// A pump over an outbox that is visible up to an offset, and what stops it.
fn asked(daemon: &Daemon, visible: u64, answer: Answer) -> (Arc<Status>, watch::Sender<Mode>, JoinHandle<()>) {
    let status = Arc::new(Status::new(Instant::now(), &[], &[SINK.to_owned()]));
    status.transform.folded.store(visible, Ordering::Release);
    let mode = watch::Sender::new(Mode::Steady);
    let pump = Pump {
        sink: Box::new(Asked(answer)),
        log: daemon.journal.log.clone(),
        store: daemon.journal.store.clone(),
        log_end: LogOffset::START,
        status: Arc::clone(&status),
        mapped: Arc::default(),
        index: 0,
        mode: mode.subscribe(),
        counted: Default::default(),
        retry_for: Duration::MAX,
    };
    let thread = pump.start(SINK).expect("a thread");
    (status, mode, thread)
}

#[test]
fn a_sink_that_panics_is_parked_like_one_that_is_refused() {
    let daemon = Daemon::new();
    let (status, _mode, pump) = asked(&daemon, 0, || std::panic::resume_unwind(Box::new(())));
    pump.join().expect_err("it panicked");
    let reason = status.sinks[0].parked.reason().expect("parked");
    assert!(reason.contains("defect in Syncline") && reason.ends_with("(thread sink-target)"), "{reason}");
}

#[tokio::test]
async fn what_waits_for_a_target_that_is_down_from_the_start_is_seen_to_wait() {
    let down = || {
        let (target, reason) = (SINK.to_owned(), "connection refused".to_owned());
        Err(SinkError::Unavailable { target, reason })
    };
    for (visible, waits) in [(9, true), (0, false)] {
        let daemon = Daemon::new();
        let (status, mode, pump) = asked(&daemon, visible, down);
        status.wait_for(|status| status.sinks[0].retries.load(Ordering::Relaxed) > 0).await;
        assert_eq!(status.sinks[0].waiting() > Duration::ZERO, waits, "of {visible} entries");
        mode.send_replace(Mode::Stop);
        pump.join().expect("it ends");
    }
}

#[test]
fn a_sink_that_gives_way_does_not_slow_the_rest_of_the_daemon_down() {
    let niceness = || rustix::process::getpriority_process(None).expect("its own");
    let before = niceness();
    let given_way = std::thread::spawn(move || {
        super::give_way("lake");
        niceness()
    });
    assert_eq!(given_way.join().expect("no panic"), (before + super::NICENESS).min(19));
    assert_eq!(niceness(), before);
}
