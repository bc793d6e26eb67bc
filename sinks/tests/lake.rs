//! The lake against a model: random spans, crashes at every step, other writers, independent readers.

#[path = "lake/crash.rs"]
mod crash;
#[path = "lake/google.rs"]
mod google;
#[path = "lake/hidden.rs"]
mod hidden;
#[path = "lake/model.rs"]
mod model;
#[path = "lake/proxy.rs"]
mod proxy;
#[path = "lake/python.rs"]
mod python;
#[path = "lake/query.rs"]
mod query;
#[path = "lake/read.rs"]
mod read;
#[path = "lake/servers.rs"]
mod servers;
#[path = "lake/snapshots.rs"]
mod snapshots;
#[path = "lake/stores.rs"]
mod stores;

use std::time::Duration;

use crash::Killer;
use model::{Model, Random};
use serde_json::Value;
use syncline_schemas::ident::LogOffset;
use syncline_sinks::lake::{LakeConfig, LakeLimits, LakeSink};
use syncline_sinks::{Class, EntityPatterns, Known, Recalled, Sink, SinkError, Span};
use url::Url;

/// So small that a few hundred rows split leaves, spill runs, fold history and pass checkpoints.
const TINY: LakeLimits =
    LakeLimits { file_rows: 40, group_rows: 16, buffer_bytes: 64 * 1024, fold_files: 4, vacuum_versions: 7 };

fn config(url: Url, scratch: &std::path::Path) -> LakeConfig {
    LakeConfig {
        entities: EntityPatterns::new(model::ENTITIES).expect("known entities"),
        limits: TINY,
        flush_every: Duration::ZERO,
        ..LakeConfig::new(url, "test", scratch.to_owned())
    }
}

fn file_url(folder: &std::path::Path) -> Url {
    Url::from_directory_path(folder).expect("absolute").join("lake").expect("a folder name")
}

/// Where the lake says it is.
async fn reached(sink: &mut LakeSink) -> LogOffset {
    match sink.recall(&Known::default()).await.expect("recall") {
        Recalled::Upto(offset) => offset,
        recalled => {
            assert_eq!(recalled, Recalled::Nothing);
            LogOffset::START
        }
    }
}

async fn write_all(sink: &mut LakeSink, model: &Model) {
    let span = Span { after: LogOffset::START, upto: model.last() };
    sink.write(span, model).await.expect("write");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_step_and_resumed_with_other_spans_the_lake_equals_the_model() {
    for seed in 1..=6 {
        println!("seed {seed}");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let url = file_url(folder.path());
        let config = config(url.clone(), &folder.path().join("scratch"));
        let mut random = Random::new(seed);
        let mut model = Model::default();
        let mut sink = LakeSink::new(config.clone()).expect("opens");
        let mut done = reached(&mut sink).await;
        assert_eq!(done, LogOffset::START);
        let mut killer = Killer::new();
        for _ in 0..24 {
            for _ in 0..random.below(6) {
                model.entry(&mut random, 60);
            }
            let room = model.last().0 - done.0;
            let span = Span { after: done, upto: LogOffset(done.0 + random.below(room + 1)) };
            if span.after == span.upto {
                continue;
            }
            match killer.run(&mut random, sink.write(span, &model)).await {
                Some(written) => {
                    written.expect("write");
                    done = span.upto;
                }
                None if random.below(2) == 0 => {}
                None => {
                    sink = LakeSink::new(config.clone()).expect("opens");
                    done = reached(&mut sink).await;
                }
            }
            read::check_readable(&url, &model).await;
            read::check_cut(&url, &model).await;
        }
        let span = Span { after: done, upto: model.last() };
        sink.write(span, &model).await.expect("write");
        read::check_equal(&url, &model).await;
        read::check_cut(&url, &model).await;
        assert_eq!(reached(&mut sink).await, model.last());
        println!("{} kills, {} whole writes", killer.kills, killer.whole);
        assert!(killer.kills > 2 && killer.whole > 2, "the kills are spread over the steps");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_span_written_again_whole_or_in_parts_changes_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = file_url(folder.path());
    let mut random = Random::new(7);
    let mut model = Model::default();
    (0..10).for_each(|_| model.entry(&mut random, 30));
    let config = config(url.clone(), &folder.path().join("scratch"));
    let mut sink = LakeSink::new(config.clone()).expect("opens");
    write_all(&mut sink, &model).await;
    for (after, upto) in [(0, 10), (0, 3), (3, 10)] {
        let span = Span { after: LogOffset(after), upto: LogOffset(upto) };
        let mut again = LakeSink::new(config.clone()).expect("opens");
        assert_eq!(again.write(span, &model).await.expect("write").rows, 0, "({after}, {upto}]");
    }
    read::check_equal(&url, &model).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_in_ascending_order_touch_one_file_and_leave_the_others_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = file_url(folder.path());
    let mut model = Model::default();
    let mut sink = LakeSink::new(config(url.clone(), &folder.path().join("scratch"))).expect("opens");
    model.upserts("item", 0..400);
    write_all(&mut sink, &model).await;
    let before = read::files(&url, "current/item").await;
    assert!(before.len() >= 10, "400 rows at 40 a file: {}", before.len());
    let after = model.last();
    model.upserts("item", 400..410);
    sink.write(Span { after, upto: model.last() }, &model).await.expect("write");
    let now = read::files(&url, "current/item").await;
    assert_eq!(before.difference(&now).count(), 1, "only the last leaf was replaced");
    read::check_equal(&url, &model).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_pipeline_cannot_mix_its_rows_into_a_lake() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut model = Model::default();
    model.upserts("item", 0..5);
    let ours = config(file_url(folder.path()), folder.path());
    write_all(&mut LakeSink::new(ours.clone()).expect("opens"), &model).await;
    let mut other = LakeSink::new(LakeConfig { pipeline: "other".into(), ..ours }).expect("opens");
    let error = other.recall(&Known::default()).await.expect_err("belongs to somebody");
    assert_eq!(error.class(), Class::Definite);
    assert!(error.to_string().contains("\"test\"") && error.to_string().contains("\"other\""), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_data_folder_never_takes_the_tables_of_one_for_its_own() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = file_url(folder.path());
    let config = config(url.clone(), folder.path());
    let (first, second) = (Known { epoch: 1, ..Known::default() }, Known { epoch: 2, ..Known::default() });
    let mut model = Model::default();
    model.upserts("item", 0..5);
    let mut sink = LakeSink::new(config.clone()).expect("opens");
    assert_eq!(sink.recall(&first).await.expect("a new lake"), Recalled::Nothing);
    let mut killer = Killer::new();
    let mut random = Random::new(1);
    while killer
        .run(&mut random, sink.write(Span { after: LogOffset::START, upto: model.last() }, &model))
        .await
        .is_none()
    {
        let claimed = folder.path().join("lake/_syncline/cut.json").exists();
        let tables = read::files(&url, "current/item").await.len() + read::files(&url, "history/item").await.len();
        assert!(claimed || tables == 0, "a table before the cut that says whose it is");
    }
    let error = LakeSink::new(config.clone()).expect("opens").recall(&second).await.expect_err("another's");
    assert_eq!(error.class(), Class::Definite);
    assert!(error.to_string().contains("of epoch 1, ours is of epoch 2"), "{error}");
    // Also where somebody took the cut away.
    std::fs::remove_file(folder.path().join("lake/_syncline/cut.json")).expect("the cut is removed");
    let error = LakeSink::new(config.clone()).expect("opens").recall(&second).await.expect_err("another's");
    assert!(error.to_string().contains("/item: it holds rows up to 1 of the data_dir of epoch 1"), "{error}");
    LakeSink::new(config).expect("opens").recall(&first).await.expect("its own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_lost_versions_is_not_silently_continued() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut model = Model::default();
    model.upserts("item", 0..5);
    let config = config(file_url(folder.path()), folder.path());
    write_all(&mut LakeSink::new(config.clone()).expect("opens"), &model).await;
    std::fs::remove_dir_all(folder.path().join("lake/history/item")).expect("delete a table");
    let error = LakeSink::new(config).expect("opens").recall(&Known::default()).await.expect_err("a table is gone");
    assert!(error.to_string().contains("history/item") && error.to_string().contains("start over"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_compacted_by_another_engine_and_its_readers_agree_on_every_value() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = file_url(folder.path());
    let mut random = Random::new(11);
    let mut model = Model::default();
    let mut sink = LakeSink::new(config(url.clone(), &folder.path().join("scratch"))).expect("opens");
    let mut after = LogOffset::START;
    for round in 0..3 {
        (0..6).for_each(|_| model.entry(&mut random, 60));
        sink.write(Span { after, upto: model.last() }, &model).await.expect("write");
        after = model.last();
        read::check_equal(&url, &model).await;
        python::compare(url.to_file_path().expect("a path").to_str().expect("UTF-8"), &model, round < 2, &Value::Null);
        read::check_equal(&url, &model).await;
    }
}

#[test]
fn a_place_that_is_no_lake_is_refused_when_the_daemon_starts() {
    for url in [
        "http://example.com/lake",
        "s3://user:secret@bucket/lake",
        "az://secret@container/lake",
        "abfss://container:secret@account.dfs.core.windows.net/lake",
        "az://container/lake?sv=2024-11-04&sig=secret",
        "gs://bucket/lake#secret",
        "file:///tmp/lake?secret",
    ] {
        let error = LakeSink::new(config(Url::parse(url).expect("a URL"), std::path::Path::new("/tmp")));
        let error = error.err().expect("refused");
        assert!(matches!(error, SinkError::Setting { setting: "url", .. }), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
