//! What must not be seen of people, looked for in every file of a lake.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use syncline_schemas::secret::Secret;
use syncline_sinks::lake::{Hidden, LakeConfig, LakeSink, Order, Snapshots};
use syncline_sinks::{Class, Known, Sink};

use super::model::{Model, Random, Row};
use super::{config, file_url, read, write_all};

fn hidden(key: &str) -> Arc<Hidden> {
    let hidden = Hidden::new(vec!["item.description".into()], vec!["item.superseded_*".into()], Some(Secret::new(key)));
    Arc::new(hidden.expect("names columns"))
}

fn parquet_files(folder: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("listed") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            parquet_files(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "parquet") {
            found.insert(path);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_file_of_a_lake_holds_what_is_hidden_and_masks_tell_equal_values() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = file_url(folder.path());
    let config = LakeConfig { hidden: hidden("0123456789abcdef"), ..config(url, &folder.path().join("scratch")) };
    let mut random = Random::new(11);
    let mut model = Model::default();
    (0..10).for_each(|_| model.entry(&mut random, 60));
    write_all(&mut LakeSink::new(config.clone()).expect("opens"), &model).await;
    let snapshots = Snapshots::new(config.clone()).expect("opens");
    let manifest = snapshots
        .take(&Order::tagged("kept", None), SystemTime::now(), &|_, _| Ok(BTreeMap::new()))
        .await
        .expect("taken");
    assert_eq!(manifest.entities["item"].rows, model.current_at("item", model.last()).len() as u64);

    let plain: BTreeMap<&str, &Row> = model.history["item"].iter().map(|row| (row["_version"].as_str(), row)).collect();
    let mut masks: BTreeMap<String, String> = BTreeMap::new();
    for part in ["current/item", "history/item", "snapshots/item"] {
        let mut files = BTreeSet::new();
        parquet_files(&folder.path().join("lake").join(part), &mut files);
        let files = files.iter().map(|path| path.display().to_string()).collect();
        let rows = read::rows_of("", files);
        assert!(!rows.is_empty(), "{part}");
        for row in rows {
            let was = plain[row["_version"].as_str()];
            assert!(!row.contains_key("description"), "{part}");
            let (mask, value) = (row.get("superseded_by"), was.get("superseded_by"));
            assert_eq!(mask.is_some(), value.is_some(), "{part}");
            if let Some((mask, value)) = mask.zip(value) {
                assert!(mask != value && mask.len() == 32, "{part}: {mask}");
                assert_eq!(masks.entry(value.clone()).or_insert_with(|| mask.clone()), mask, "{part}");
            }
            assert_eq!(row.get("item_no"), was.get("item_no"), "{part}");
        }
    }
    assert!(masks.len() > 20 && masks.values().collect::<BTreeSet<_>>().len() == masks.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lake_that_holds_values_as_they_were_is_refused_once_they_are_to_be_hidden() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let plain = config(file_url(folder.path()), &folder.path().join("scratch"));
    let mut model = Model::default();
    model.upserts("item", 0..5);
    write_all(&mut LakeSink::new(plain.clone()).expect("opens"), &model).await;
    let masked = LakeConfig { hidden: hidden("0123456789abcdef"), ..plain.clone() };
    let error = LakeSink::new(masked.clone()).expect("opens").recall(&Known::default()).await.expect_err("refused");
    assert_eq!(error.class(), Class::Definite);
    assert!(error.to_string().contains("made with nothing hidden"), "{error}");

    let other = tempfile::tempdir().expect("a temporary folder");
    let masked = LakeConfig { url: file_url(other.path()), ..masked };
    write_all(&mut LakeSink::new(masked.clone()).expect("opens"), &model).await;
    LakeSink::new(masked.clone()).expect("opens").recall(&Known::default()).await.expect("as it was");
    for changed in [hidden("fedcba9876543210"), Arc::default()] {
        let changed = LakeConfig { hidden: changed, ..masked.clone() };
        let error = LakeSink::new(changed).expect("opens").recall(&Known::default()).await.expect_err("refused");
        assert!(error.to_string().contains("set them as they were"), "{error}");
    }
}
