//! Snapshots against the model: killed at every step, beside flushes and vacuums, twice at once, under clocks that lie.

use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, poll_fn};
use std::path::Path;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use deltalake_core::DeltaTable;
use syncline_schemas::ident::LogOffset;
use syncline_sinks::lake::{LakeConfig, LakeSink, Manifest, Order, Reached, Snapshots};
use syncline_sinks::{Class, Known, Sink, SinkError, Span};
use url::Url;

use super::crash::Killer;
use super::model::{ENTITIES, Model, Random};
use super::servers::{Kind, Server};
use super::{config, file_url, read, write_all};

/// A lake with some rows.
struct Lake {
    folder: tempfile::TempDir,
    config: LakeConfig,
    model: Model,
    random: Random,
    sink: LakeSink,
}

impl Lake {
    async fn new(seed: u64) -> Self {
        println!("seed {seed}");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = config(file_url(folder.path()), &folder.path().join("scratch"));
        let sink = LakeSink::new(config.clone()).expect("opens");
        let mut lake = Self { folder, config, model: Model::default(), random: Random::new(seed), sink };
        lake.flush(6).await;
        lake
    }

    async fn flush(&mut self, entries: u64) {
        let after = self.model.last();
        (0..entries).for_each(|_| self.model.entry(&mut self.random, 60));
        self.sink.write(Span { after, upto: self.model.last() }, &self.model).await.expect("write");
    }

    fn root(&self) -> std::path::PathBuf {
        self.folder.path().join("lake")
    }

    /// Those that a process of its own would take.
    fn elsewhere(&self) -> Snapshots {
        Snapshots::new(self.config.clone()).expect("opens")
    }

    fn check(&self, manifest: &Manifest) {
        check(&self.root(), &self.model, manifest);
    }

    /// Manifests that are there, read as anybody would.
    fn manifests(&self) -> Vec<Manifest> {
        let Ok(names) = std::fs::read_dir(self.root().join("_syncline/snapshots")) else { return Vec::new() };
        let texts = names.filter_map(|name| std::fs::read(name.expect("an entry").path().join("manifest.json")).ok());
        texts.map(|text| serde_json::from_slice(&text).expect("whole")).collect()
    }

    /// Times of which an entity has files.
    fn times(&self, entity: &str) -> BTreeSet<String> {
        let Ok(folders) = std::fs::read_dir(self.root().join("snapshots").join(entity)) else { return BTreeSet::new() };
        let folders = folders.map(|folder| folder.expect("an entry").path());
        let filled = folders.filter(|folder| std::fs::read_dir(folder).expect("a folder").count() > 0);
        filled.map(|folder| folder.file_name().expect("a name").to_string_lossy().into_owned()).collect()
    }
}

/// Rows, counts and files of a snapshot are those of the model at its offset.
fn check(root: &Path, model: &Model, manifest: &Manifest) {
    for entity in ENTITIES {
        let wanted = model.current_at(entity, LogOffset(manifest.offset));
        let Some(part) = manifest.entities.get(entity) else {
            assert_eq!(wanted.len(), 0, "{entity} is left out");
            continue;
        };
        let files: BTreeSet<String> =
            part.files.iter().map(|file| root.join(&file.path).display().to_string()).collect();
        let found = read::rows_of(entity, files);
        assert_eq!(part.rows, found.len() as u64);
        assert_eq!(found, wanted, "{entity} as of {}", manifest.offset);
    }
    assert_eq!(manifest.sources["erp"].entry, Some(manifest.offset));
}

fn sources(_: u32, offset: LogOffset) -> Result<BTreeMap<String, Reached>, SinkError> {
    let reached = Reached { entry: Some(offset.0), position: Some("00".to_owned()), lsn: None };
    Ok(BTreeMap::from([("erp".to_owned(), reached)]))
}

async fn take(snapshots: &Snapshots, order: &Order) -> Result<Manifest, SinkError> {
    snapshots.take(order, SystemTime::now(), &sources).await
}

fn tagged(tag: &str, id: &str) -> Order {
    Order::tagged(tag, Some(id))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_killed_at_any_step_is_whole_or_not_there_and_leaves_nothing_behind() {
    for seed in 1..=3 {
        let mut lake = Lake::new(seed).await;
        let mut killer = Killer::new();
        for n in 0..20 {
            let order = tagged(&format!("cycle-{n}"), "the same");
            let mut snapshots = lake.elsewhere();
            while killer.run(&mut lake.random, take(&snapshots, &order)).await.is_none() {
                snapshots = lake.elsewhere();
                for manifest in lake.manifests() {
                    lake.check(&manifest);
                }
            }
            if n % 3 == 0 {
                lake.flush(1).await;
            }
        }
        // What a kill left to other threads may still be on its way when the next one begins, and is found by the one after.
        take(&lake.elsewhere(), &tagged("last", "1")).await.expect("taken");
        take(&lake.elsewhere(), &tagged("very-last", "1")).await.expect("taken");
        let manifests = lake.manifests();
        assert_eq!(manifests.len(), 22);
        manifests.iter().for_each(|manifest| lake.check(manifest));
        let known: BTreeSet<String> = manifests.iter().map(|manifest| format!("at={}", manifest.at)).collect();
        for entity in ENTITIES {
            assert_eq!(lake.times(entity).difference(&known).count(), 0, "{entity} has files of no snapshot");
        }
        println!("{} kills, {} whole", killer.kills, killer.whole);
        assert!(killer.kills > 5);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_has_one_snapshot_and_a_repeated_order_gets_that_one() {
    let mut lake = Lake::new(4).await;
    let snapshots = lake.sink.snapshots();
    let first = take(&snapshots, &tagged("cycle-31", "a")).await.expect("taken");
    lake.flush(2).await;
    assert_eq!(take(&snapshots, &tagged("cycle-31", "a")).await.expect("the same"), first);
    let error = take(&snapshots, &tagged("cycle-31", "b")).await.expect_err("another order");
    assert_eq!(error.class(), Class::Definite);
    let text = error.to_string();
    assert!(text.contains("snapshot cycle-31 already") && text.contains("--drop cycle-31"), "{text}");
    lake.check(&first);
    // Two at once, of one process and of two that ought not to be.
    let orders = [tagged("cycle-32", "a"), tagged("cycle-32", "b")];
    let (one, other) = tokio::join!(take(&snapshots, &orders[0]), take(&snapshots, &orders[1]));
    assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
    let (here, there) = (lake.elsewhere(), lake.elsewhere());
    let orders = [tagged("cycle-33", "a"), tagged("cycle-33", "b")];
    let both = tokio::join!(take(&here, &orders[0]), take(&there, &orders[1]));
    assert!(!(both.0.is_ok() && both.1.is_ok()));
    for manifest in lake.manifests() {
        lake.check(&manifest);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_that_names_a_place_elsewhere_reaches_nothing() {
    let lake = Lake::new(5).await;
    for tag in ["../../current/item", "..", "at=20260526T101500.123Z", "a/b", ""] {
        let error = take(&lake.sink.snapshots(), &tagged(tag, "a")).await.expect_err(tag);
        assert!(matches!(error, SinkError::Setting { setting: "tag", .. }), "{error}");
        lake.elsewhere().give_up_tag(tag).await.expect_err(tag);
    }
    assert!(lake.manifests().is_empty() && lake.times("item").is_empty());
    read::check_equal(&lake.config.url, &lake.model).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_lake_has_no_snapshot_and_says_why() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = config(file_url(folder.path()), folder.path());
    let snapshots = Snapshots::new(config.clone()).expect("opens");
    let error = take(&snapshots, &tagged("a", "a")).await.expect_err("nothing there").to_string();
    assert!(error.contains("nothing was flushed into the lake yet"), "{error}");
    assert_eq!(snapshots.cut_offset().await.expect("reads"), None);
    assert_eq!(snapshots.catalog().await.expect("reads").cut, None);
    let mut model = Model::default();
    model.upserts("item", 0..5);
    write_all(&mut LakeSink::new(config.clone()).expect("opens"), &model).await;
    let other = Snapshots::new(LakeConfig { pipeline: "other".into(), ..config }).expect("opens");
    let error = take(&other, &tagged("a", "a")).await.expect_err("another's").to_string();
    assert!(error.contains("belongs to the pipeline \"test\", this one is \"other\""), "{error}");
}

/// Runs a future for some steps, then something else to its end, then the rest.
async fn interrupted<F: Future>(steps: u64, future: F, meanwhile: impl Future<Output = ()>) -> F::Output {
    let mut future = pin!(future);
    let mut left = steps;
    let early = poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(context).map(Some)
    })
    .await;
    meanwhile.await;
    match early {
        Some(output) => output,
        None => future.await,
    }
}

/// Has a table's replaced files removed by the next vacuum, however young they are.
async fn keep_nothing(lake: &Url, path: &str) {
    let url = Url::parse(&format!("{lake}/{path}/")).expect("a URL");
    let table = DeltaTable::try_from_url(url).await.expect("opens");
    let properties = std::collections::HashMap::from([(
        "delta.deletedFileRetentionDuration".to_owned(),
        "interval 0 seconds".to_owned(),
    )]);
    table.set_tbl_properties().with_properties(properties).await.expect("set");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushes_and_vacuums_in_the_middle_take_nothing_from_a_snapshot() {
    let mut lake = Lake::new(6).await;
    for entity in ENTITIES {
        keep_nothing(&lake.config.url, &format!("current/{entity}")).await;
    }
    lake.config.limits.vacuum_versions = 1;
    lake.sink = LakeSink::new(lake.config.clone()).expect("opens");
    lake.flush(1).await;
    let mut restarts = 0;
    for round in 0..30 {
        let of_the_sink = round % 2 == 0;
        let snapshots = if of_the_sink { lake.sink.snapshots() } else { lake.elsewhere() };
        let cut = lake.model.last();
        let order = tagged(&format!("r{round}"), "a");
        let steps = lake.random.below(60);
        let manifest = interrupted(steps, take(&snapshots, &order), lake.flush(2)).await.expect("taken");
        lake.check(&manifest);
        restarts += usize::from(!of_the_sink && manifest.offset != cut.0);
    }
    println!("{restarts} began again with a newer cut");
    read::check_equal(&lake.config.url, &lake.model).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_stands_or_goes_back_mixes_no_two_snapshots() {
    let mut lake = Lake::new(7).await;
    let snapshots = lake.sink.snapshots();
    let noon = UNIX_EPOCH + Duration::from_secs(1_790_000_000);
    let mut manifests = Vec::new();
    for now in [noon, noon, noon - Duration::from_secs(3_600), noon, UNIX_EPOCH] {
        manifests.push(snapshots.take(&Order::scheduled(), now, &sources).await.expect("taken"));
        lake.flush(1).await;
    }
    let times: BTreeSet<&str> = manifests.iter().map(|manifest| manifest.at.as_str()).collect();
    assert_eq!(times.len(), manifests.len());
    manifests.iter().for_each(|manifest| lake.check(manifest));
    assert_eq!(snapshots.last_scheduled(noon).await.expect("reads"), Some(1_790_000_000_000));
    let before = noon - Duration::from_secs(60);
    assert_eq!(snapshots.last_scheduled(before).await.expect("reads"), Some(1_789_996_400_000), "of its future none");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_snapshots_go_and_those_with_a_tag_stay_until_they_are_given_up() {
    let mut lake = Lake::new(8).await;
    let snapshots = lake.sink.snapshots();
    let day = Duration::from_secs(86_400);
    let start = UNIX_EPOCH + Duration::from_secs(1_790_000_000);
    for days in 0..4 {
        let order = if days == 1 { tagged("cycle-31", "a") } else { Order::scheduled() };
        snapshots.take(&order, start + day * days, &sources).await.expect("taken");
        lake.flush(1).await;
    }
    assert_eq!(snapshots.retain(day, start + day * 4).await.expect("removes"), 2);
    assert_eq!(lake.times("item").len(), 2);
    assert_eq!(snapshots.retain(day, start + day * 4_000).await.expect("removes"), 0, "the last one stays");
    lake.manifests().iter().for_each(|manifest| lake.check(manifest));
    assert_eq!(lake.manifests().len(), 2);
    let catalog = snapshots.catalog().await.expect("reads");
    let tags: Vec<_> = catalog.snapshots.iter().map(|snapshot| snapshot.tag.as_deref()).collect();
    assert_eq!(tags, [Some("cycle-31"), None]);
    assert!(snapshots.give_up_tag("cycle-31").await.expect("removes"));
    assert!(!snapshots.give_up_tag("cycle-31").await.expect("nothing to remove"));
    assert_eq!((lake.times("item").len(), lake.manifests().len()), (1, 1));
    take(&snapshots, &tagged("cycle-31", "b")).await.expect("the name is free again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_catalog_says_of_every_table_what_its_files_hold() {
    let lake = Lake::new(9).await;
    let catalog = lake.elsewhere().catalog().await.expect("reads");
    assert_eq!(catalog.cut.expect("flushed").offset, lake.model.last().0);
    for (path, wanted) in read::wanted(&lake.model) {
        let table = &catalog.tables[&path];
        assert_eq!((table.rows, Some(table.version)), (wanted.len() as u64, table.cut), "{path}");
        assert_eq!(table.files, read::files(&lake.config.url, &path).await.len() as u64, "{path}");
        assert!(table.bytes > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_keeps_snapshots_as_a_folder_does() {
    let server = Server::start(Kind::S3).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = server.url("lake", "below/here");
    let config = LakeConfig { store: server.options(), ..config(url, &folder.path().join("scratch")) };
    let mut sink = LakeSink::new(config.clone()).expect("opens");
    sink.recall(&Known::default()).await.expect("a new lake");
    let (mut model, mut random) = (Model::default(), Random::new(10));
    (0..3).for_each(|_| model.entry(&mut random, 60));
    write_all(&mut sink, &model).await;
    let mut killer = Killer::new();
    let order = tagged("cycle-31", "a");
    let manifest = loop {
        if let Some(taken) = killer.run(&mut random, take(&sink.snapshots(), &order)).await {
            break taken.expect("taken");
        }
    };
    let elsewhere = Snapshots::new(config).expect("opens");
    assert_eq!(take(&elsewhere, &order).await.expect("is there"), manifest);
    take(&elsewhere, &tagged("cycle-31", "b")).await.expect_err("taken");
    for entity in ENTITIES {
        let rows = model.current_at(entity, model.last()).len() as u64;
        assert_eq!(manifest.entities.get(entity).map_or(0, |part| part.rows), rows, "{entity}");
    }
    assert_eq!(elsewhere.catalog().await.expect("reads").snapshots.len(), 1);
    assert!(elsewhere.give_up_tag("cycle-31").await.expect("removes"));
    assert!(elsewhere.catalog().await.expect("reads").snapshots.is_empty());
}
