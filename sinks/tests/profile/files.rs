//! Files that a consumer can trust: whole, told once, in order, with totals that add up.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::task::Poll;

use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use reqwest::Url;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use syncline_schemas::ident::LogOffset;
use syncline_sinks::planning::PlanningConfig;
use syncline_sinks::profile::{Profile, ProfileConfig, ProfileSink};
use syncline_sinks::{Class, Known, Recalled, Sink as _, Span};

use crate::outbox::{Change, Outbox, delete, upsert};
use crate::server::Choices;

const PROFILE: &str = r#"
dialect = "file_drop"
every = "1ms"
[flow.item]
folder = "Part"
key = ["PartName"]
row = { PartName = "item_id", Description = "description", Cost = "dec(unit_cost, 4, 'half_even')", Days = "shelf_life_days" }
constant = ["company_id"]
[flow.inventory_movement]
"#;

fn sink(folder: &Path, text: &str) -> ProfileSink {
    let url = Url::from_directory_path(folder).expect("absolute");
    let profile = Profile::parse("kinaxis.toml", Path::new(""), text).expect("sound");
    ProfileSink::new(ProfileConfig::new(PlanningConfig::new(url, "test"), profile).expect("entities")).expect("a sink")
}

/// Every file under a folder with its bytes.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(root: &Path, folder: PathBuf, found: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(root, path, found);
            } else {
                let name = path.strip_prefix(root).expect("below").display().to_string();
                found.insert(name, fs::read(path).expect("readable"));
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(folder, folder.to_owned(), &mut found);
    found
}

fn item(id: &str, description: &str, cost: &str) -> Change {
    upsert("item", &[("item_id", id), ("description", description), ("unit_cost", cost), ("shelf_life_days", "7")])
}

const SPAN: &str = "00000000000000000000-00000000000000000002";

fn two_entries() -> Outbox {
    let mut outbox = Outbox::default();
    outbox.push(&[item("4711", "a \"b\", c", "1.00005"), item("4712", "", "2.5")]);
    outbox.push(&[delete("item", &[("item_id", "0815")]), item("4711", "new\nline", "-0.5")]);
    outbox
}

#[tokio::test]
async fn a_span_is_a_file_a_manifest_that_adds_up_and_a_trigger_and_twice_is_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let outbox = two_entries();
    let mut first = sink(folder.path(), PROFILE);
    first.check().await.expect("it can be written");
    assert_eq!(first.recall(&Known::default()).await.expect("empty"), Recalled::Nothing);
    let written = first.write(outbox.span(), &outbox).await.expect("written");
    assert_eq!((written.rows, written.rejected), (3, 0));
    let held = files(folder.path());
    let names: Vec<&str> = held.keys().map(String::as_str).collect();
    let (part, manifest) = (format!("Part/{SPAN}.csv"), format!("manifests/{SPAN}.json"));
    let trigger = format!("{SPAN}.trigger");
    let mut wanted = vec![trigger.as_str(), part.as_str(), "_syncline/state.json", manifest.as_str()];
    wanted.sort_unstable();
    assert_eq!(names, wanted);
    let text = String::from_utf8(held[&part].clone()).expect("UTF-8");
    let version = |offset: u64, row: u32| format!("00000001{offset:016x}{row:08x}");
    let lines = [
        "_op,_version,PartName,Description,Cost,Days\r\n".to_owned(),
        format!("upsert,{},4712,\"\",2.5,7\r\n", version(1, 1)),
        format!("delete,{},0815,,,\r\n", version(2, 0)),
        format!("upsert,{},4711,\"new\nline\",-0.5,7\r\n", version(2, 1)),
    ];
    assert_eq!(text, lines.concat());
    let told: Value = serde_json::from_slice(&held[&manifest]).expect("JSON");
    let sha256: String = Sha256::digest(&held[&part]).iter().map(|byte| format!("{byte:02x}")).collect();
    let file = json!({
        "flow": "item", "path": part, "upserts": 2, "deletes": 1, "bytes": text.len(), "sha256": sha256,
        "first_version": version(1, 1), "last_version": version(2, 1), "sums": {"Cost": "2", "Days": "14"},
    });
    let wanted = json!({"pipeline": "test", "epoch": 0, "load": "delta", "after": 0, "upto": 2, "files": [file]});
    assert_eq!(told, wanted);
    first.write(outbox.span(), &outbox).await.expect("written again");
    sink(folder.path(), PROFILE).write(outbox.span(), &outbox).await.expect("written again by another process");
    assert_eq!(files(folder.path()), held, "the same names and the same bytes");
}

#[tokio::test]
async fn rows_that_are_sent_again_lie_behind_what_was_told_and_overwrite_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let outbox = two_entries();
    let mut sink = sink(folder.path(), PROFILE);
    sink.write(outbox.span(), &outbox).await.expect("written");
    let before = files(folder.path());
    for _ in 0..2 {
        sink.retry(&outbox).await.expect("written again");
    }
    let after = files(folder.path());
    assert!(before.iter().all(|(name, bytes)| name.ends_with("state.json") || after[name] == *bytes));
    let told: Vec<&str> = after.keys().filter_map(|name| name.strip_prefix("manifests/")).collect();
    let upto = "00000000000000000002-00000000000000000002-again";
    let wanted = [format!("{SPAN}.json"), format!("{upto}-0000000001.json"), format!("{upto}-0000000002.json")];
    assert_eq!(told, wanted, "in the order in which they are loaded");
    assert_eq!(after[&format!("Part/{upto}-0000000002.csv")], before[&format!("Part/{SPAN}.csv")]);
    let recalled = sink.recall(&Known::default()).await.expect("ours");
    assert_eq!(recalled, Recalled::Upto(LogOffset(2)), "they move nothing");
}

#[tokio::test]
async fn a_folder_of_another_writer_or_of_a_newer_state_is_not_written_to() {
    let folder = tempfile::tempdir().expect("a folder");
    let outbox = two_entries();
    sink(folder.path(), PROFILE).write(outbox.span(), &outbox).await.expect("written");
    let recall = async |known: &Known| sink(folder.path(), PROFILE).recall(known).await;
    assert_eq!(recall(&Known::default()).await.expect("ours"), Recalled::Upto(LogOffset(2)));
    let older = Known { end: LogOffset(1), ..Known::default() };
    assert!(recall(&older).await.expect_err("an older copy").to_string().contains("this data_dir is an older copy"));
    let other = Known { epoch: 9, ..Known::default() };
    let error = recall(&other).await.expect_err("another state").to_string();
    assert!(error.contains("was filled from the data_dir of epoch 0, ours is of epoch 9"), "{error}");
    let state = folder.path().join("_syncline/state.json");
    fs::write(&state, "{\"pipeline\":\"theirs\",\"epoch\":0,\"upto\":1}").expect("written");
    assert!(
        recall(&Known::default()).await.expect_err("theirs").to_string().contains("written by pipeline \"theirs\"")
    );
    fs::write(&state, "no JSON").expect("written");
    let error = recall(&Known::default()).await.expect_err("nobody's");
    assert!(error.class() == Class::Definite && error.to_string().contains("that is not ours"), "{error}");
}

#[tokio::test]
async fn a_trigger_that_a_crash_kept_back_is_given_at_the_next_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = PROFILE.replace("every", "trigger = \"load.trg\"\nevery");
    let outbox = two_entries();
    sink(folder.path(), &text).write(outbox.span(), &outbox).await.expect("written");
    let (trigger, state) = (folder.path().join("load.trg"), folder.path().join("_syncline/state.json"));
    fs::remove_file(&trigger).expect("the consumer took it");
    sink(folder.path(), &text).recall(&Known::default()).await.expect("ours");
    assert!(!trigger.exists(), "what was told once is not told again");
    let path = format!("manifests/{SPAN}.json");
    let manifest: Value = serde_json::from_slice(&files(folder.path())[&path]).expect("JSON");
    fs::remove_file(folder.path().join(&path)).expect("removed");
    let pending = json!({"path": path, "manifest": manifest, "trigger": "load.trg"});
    let left = json!({"pipeline": "test", "epoch": 0, "upto": 2, "pending": pending});
    fs::write(&state, left.to_string()).expect("as a crash leaves it");
    assert_eq!(sink(folder.path(), &text).recall(&Known::default()).await.expect("ours"), Recalled::Upto(LogOffset(2)));
    assert!(trigger.exists() && folder.path().join(&path).exists());
}

#[tokio::test]
async fn parquet_files_hold_exact_values_and_of_a_deleted_row_its_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let outbox = two_entries();
    let text = PROFILE.replace("every", "format = \"parquet\"\nevery");
    sink(folder.path(), &text).write(outbox.span(), &outbox).await.expect("written");
    let file = fs::File::open(folder.path().join(format!("Part/{SPAN}.parquet"))).expect("there");
    let batches: Vec<_> =
        ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet").build().expect("a reader").collect();
    let batch = batches.into_iter().next().expect("one batch").expect("readable");
    let text = |column: &str, row: usize| {
        let array = batch.column_by_name(column).expect("there");
        let text = arrow::compute::cast(array, &arrow::datatypes::DataType::Utf8).expect("a text");
        let text = arrow::array::AsArray::as_string::<i32>(&text);
        arrow::array::Array::is_valid(text, row).then(|| text.value(row).to_owned())
    };
    let row = |row| ["_op", "PartName", "Cost", "Days"].map(|column| text(column, row).unwrap_or_default());
    assert_eq!(row(0), ["upsert", "4712", "2.5000", "7"]);
    assert_eq!(row(1), ["delete", "0815", "", ""]);
    assert_eq!(row(2), ["upsert", "4711", "-0.5000", "7"]);
}

/// What a consumer holds that loads every file of every manifest, in their order.
fn loaded(folder: &Path) -> (BTreeMap<String, String>, Vec<String>) {
    let held = files(folder);
    let (mut items, mut movements) = (BTreeMap::new(), Vec::new());
    for (_, manifest) in held.iter().filter(|(name, _)| name.starts_with("manifests/")) {
        let manifest: Value = serde_json::from_slice(manifest).expect("JSON");
        for file in manifest["files"].as_array().expect("a list") {
            let path = file["path"].as_str().expect("a path");
            let text = String::from_utf8(held[path].clone()).expect("UTF-8");
            for line in text.lines().skip(1) {
                let cells: Vec<&str> = line.split(',').collect();
                if file["flow"] == "inventory_movement" {
                    movements.push(cells[3].to_owned());
                } else if cells[0] == "delete" {
                    items.remove(cells[2]);
                } else {
                    items.insert(cells[2].to_owned(), cells[3].to_owned());
                }
            }
        }
    }
    (items, movements)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_at_any_moment_neither_lose_nor_double_a_row() {
    let mut choices = Choices(5);
    let mut outbox = Outbox::default();
    let (mut items, mut movements) = (BTreeMap::new(), Vec::new());
    for round in 0..300 {
        let mut changes = Vec::new();
        for row in 0..=choices.below(20) {
            let id = format!("i{}", choices.below(12));
            match choices.below(3) {
                0 => {
                    changes.push(upsert("inventory_movement", &[("movement_id", &format!("m{round}-{row}"))]));
                    movements.push(format!("m{round}-{row}"));
                }
                1 => {
                    changes.push(delete("item", &[("item_id", &id)]));
                    items.remove(&id);
                }
                _ => {
                    changes.push(item(&id, &round.to_string(), "1"));
                    items.insert(id, round.to_string());
                }
            }
        }
        outbox.push(&changes);
    }
    let folder = tempfile::tempdir().expect("a folder");
    let (mut sink, mut kills) = (sink(folder.path(), PROFILE), 0);
    let (mut after, end) = (LogOffset::START, outbox.span().upto);
    while after < end {
        let upto = LogOffset((after.0 + 1 + choices.below(15)).min(end.0));
        // By how often it had to wait, so that it is killed on a quick disk as well.
        let mut waits = if kills < 40 { choices.below(8) } else { u64::MAX };
        let span = Span { after, upto };
        let mut write = sink.write(span, &outbox);
        let ended = std::future::poll_fn(|context| match write.as_mut().poll(context) {
            Poll::Pending if waits > 0 => {
                waits -= 1;
                Poll::Pending
            }
            Poll::Pending => Poll::Ready(false),
            Poll::Ready(_) => Poll::Ready(true),
        });
        let is_killed = !ended.await;
        drop(write);
        if is_killed {
            kills += 1;
            if choices.below(2) == 0 {
                sink = self::sink(folder.path(), PROFILE);
            }
        }
        // As after every failure, and after a good write it says the same.
        after = match sink.recall(&Known::default()).await.expect("ours") {
            Recalled::Upto(upto) => upto,
            _ => LogOffset::START,
        };
    }
    assert!(kills > 5, "{kills} kills");
    assert_eq!(loaded(folder.path()), (items, movements));
}
