//! The lake on servers: the same tables in a bucket of S3 or Google and in a container of Azure, read back by others;
//! crashes, replies that are lost, places and keys that are wrong.

use std::sync::{Arc, Mutex};

use syncline_schemas::ident::LogOffset;
use syncline_schemas::secret::Secret;
use syncline_sinks::lake::{LakeConfig, LakeSink, StoreOptions};
use syncline_sinks::{Class, Sink, SinkError, Span};
use url::Url;

use super::crash::Killer;
use super::model::{Model, Random};
use super::proxy::Proxy;
use super::servers::{KINDS, Kind, Server, sas};
use super::{config, python, reached, write_all};

fn at(url: Url, store: StoreOptions, scratch: &std::path::Path) -> LakeConfig {
    LakeConfig { store, ..config(url, scratch) }
}

/// Fills a lake while writes are killed at any step, and has others read it.
async fn killed_and_read_back(kind: Kind, seed: u64) {
    println!("{kind:?}, seed {seed}");
    let server = Server::start(kind).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = server.url("lake", "below/here");
    let config = at(url.clone(), server.options(), &folder.path().join("scratch"));
    let mut random = Random::new(seed);
    let mut model = Model::default();
    let mut sink = LakeSink::new(config.clone()).expect("opens");
    let mut done = reached(&mut sink).await;
    let mut killer = Killer::new();
    for _ in 0..10 {
        (0..3).for_each(|_| model.entry(&mut random, 40));
        let span = Span { after: done, upto: model.last() };
        if let Some(written) = killer.run(&mut random, sink.write(span, &model)).await {
            written.expect("write");
            done = span.upto;
        } else {
            sink = LakeSink::new(config.clone()).expect("opens");
            done = reached(&mut sink).await;
        }
    }
    sink.write(Span { after: done, upto: model.last() }, &model).await.expect("write");
    python::compare(url.as_str(), &model, false, &server.readers());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_s3_server_gets_the_same_lake_and_a_killed_write_is_resumed() {
    killed_and_read_back(Kind::S3, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azure_gets_the_same_lake_and_a_killed_write_is_resumed() {
    killed_and_read_back(Kind::Azure, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn google_gets_the_same_lake_and_a_killed_write_is_resumed() {
    killed_and_read_back(Kind::Google, 3).await;
}

/// Writes as the pump does: what is only unavailable is tried again.
async fn persist(sink: &mut LakeSink, span: Span, model: &Model) {
    for _ in 0..50 {
        match sink.write(span, model).await {
            Ok(_) => return,
            Err(error) => assert!(matches!(error, SinkError::Unavailable { .. }), "{error}"),
        }
    }
    panic!("{span:?} is not written after 50 times");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_reply_is_lost_is_known_for_our_own_and_not_written_twice() {
    for kind in KINDS {
        let seed = 5;
        println!("{kind:?}, seed {seed}");
        let server = Server::start(kind).await;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let dice = Arc::new(Mutex::new(Random::new(seed)));
        let proxy = Proxy::start(server.address, move |line| {
            let commits = line.starts_with("PUT") && (line.contains("delta") || line.contains("syncline"));
            let deletes = line.starts_with("DELETE") || line.starts_with("POST") && !line.contains("upload");
            (commits || deletes) && dice.lock().expect("whole").below(3) == 0
        });
        let proxy = proxy.await;
        let url = server.url("lake", "lossy");
        let config = at(url.clone(), server.options_at(proxy.address), &folder.path().join("scratch"));
        let mut random = Random::new(seed);
        let mut model = Model::default();
        let mut sink = LakeSink::new(config).expect("opens");
        let mut after = LogOffset::START;
        for _ in 0..6 {
            (0..3).for_each(|_| model.entry(&mut random, 30));
            persist(&mut sink, Span { after, upto: model.last() }, &model).await;
            after = model.last();
        }
        println!("{} replies lost", proxy.lost());
        assert!(proxy.lost() > 5, "{} replies lost", proxy.lost());
        python::compare(url.as_str(), &model, false, &server.readers());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_with_blanks_and_signs_is_one_place_with_and_without_a_slash_at_its_end() {
    for kind in KINDS {
        let server = Server::start(kind).await;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut model = Model::default();
        model.upserts("item", 0..50);
        let open = |path: &str| {
            let config = at(server.url("lake", path), server.options(), folder.path());
            LakeSink::new(config).expect("opens")
        };
        write_all(&mut open("a b/c%23d/ü+e%25/"), &model).await;
        assert_eq!(reached(&mut open("a%20b/c%23d/%C3%BC+e%25")).await, model.last(), "{kind:?}");
        assert_eq!(reached(&mut open("a b/c%23d/ü+e%25/below")).await, LogOffset::START, "{kind:?}");
    }
}

#[tokio::test]
async fn a_bucket_or_container_that_does_not_exist_is_named_with_its_remedy() {
    for kind in KINDS {
        let server = Server::start(kind).await;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let url = server.url("no-such-bucket", "lake");
        let config = at(url.clone(), server.options(), folder.path());
        assert!(!format!("{config:?}").contains("hidden-key"));
        let error = LakeSink::new(config).expect("opens").check().await.expect_err("no bucket");
        assert_eq!(error.class(), Class::Definite);
        assert!(error.to_string().contains(url.as_str()) && error.to_string().contains("bucket exists"), "{error}");
    }
}

/// The lake in Azurite, as whom `change` says.
fn azure(server: &Server, url: &str, change: impl FnOnce(&mut StoreOptions)) -> LakeSink {
    let mut store = server.options();
    change(&mut store);
    let scratch = std::env::temp_dir();
    LakeSink::new(at(Url::parse(url).expect("a URL"), store, &scratch)).expect("opens")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sas_token_opens_the_lake_that_a_key_filled_under_both_forms_of_its_url() {
    let server = Server::start(Kind::Azure).await;
    let mut model = Model::default();
    model.upserts("item", 0..50);
    write_all(&mut azure(&server, "az://lake/shared", |_| {}), &model).await;
    let with_sas = |store: &mut StoreOptions| {
        (store.account, store.account_key) = (None, None);
        store.sas_token = Some(Secret::new(format!("?{}", sas("racwdl"))));
    };
    let mut sink = azure(&server, "abfss://lake@devstoreaccount1.dfs.core.windows.net/shared/", with_sas);
    assert_eq!(reached(&mut sink).await, model.last());
    let after = model.last();
    model.upserts("item", 20..90);
    sink.write(Span { after, upto: model.last() }, &model).await.expect("write");
    drop(sink);
    python::compare("az://lake/shared", &model, false, &server.readers());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_azure_refuses_is_told_without_the_token_that_it_was_asked_with() {
    let server = Server::start(Kind::Azure).await;
    let check = async |token: String| {
        let set = |store: &mut StoreOptions| {
            store.account_key = None;
            store.sas_token = Some(Secret::new(token.clone()));
        };
        let error = azure(&server, "az://lake/here", set).check().await.expect_err("refused");
        let (_, signature) = token.split_once("sig=").expect("signed");
        let text = format!("{error} {error:?}");
        assert!(!text.contains("sig=") && !text.contains(signature), "{text}");
        error
    };
    let forged = check(sas("racwdl").replace("sig=", "sig=AAAA")).await;
    assert_eq!(forged.class(), Class::Definite);
    assert!(forged.to_string().contains("check the credentials"), "{forged}");
    // The token is part of the URL by which files are deleted.
    let bound = check(sas("racwl")).await;
    assert!(bound.to_string().contains("delete a probe") && bound.class() == Class::Definite, "{bound}");
    let mut wrong_key = azure(&server, "az://lake/here", |store| {
        store.account_key = Some(Secret::new("bm90IHRoZSBrZXk="));
    });
    let error = wrong_key.recall(&syncline_sinks::Known::default()).await.expect_err("another key");
    assert_eq!(error.class(), Class::Definite, "{error}");
}
