//! What a snapshot is: its manifest says so, and without one there is none.
//!
//! ```text
//! _syncline/snapshots/<tag>/manifest.json           a snapshot that somebody asked for by a name
//! _syncline/snapshots/at=<time>/manifest.json       one that the schedule asked for
//! _syncline/snapshots/at=<time>/begun.json          whose folders at=<time> are; there before any of them
//! ```
//!
//! A manifest is put in place by one conditional put after all files that it names. So there is one per tag, whoever else
//! tries at the same time, and a crash leaves none.

use std::collections::BTreeMap;

use arrow::temporal_conversions::timestamp_ms_to_datetime;
use futures::stream::{self, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutMode};
use serde::{Deserialize, Serialize};

use crate::SinkError;
use crate::lake::fault;
use crate::lake::store::Place;

pub(super) const FORMAT: u32 = 1;
/// Where all of them lie.
const FOLDER: &str = "_syncline/snapshots";
const MANIFEST: &str = "manifest.json";
const BEGUN: &str = "begun.json";
/// Manifests read side by side.
const READ_AT_ONCE: usize = 16;
/// Longer names fit no folder of some file systems.
const TAG_CHARS: usize = 100;

/// A snapshot: all current tables of one cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub(super) format: u32,
    /// The name that it was asked for by; none of one that the schedule asked for.
    pub tag: Option<String>,
    /// What its folders are called: the time in UTC as in `20260526T101500.123Z`, which no reader takes for anything but text.
    pub at: String,
    /// The same time as others write it.
    pub taken_at: String,
    /// Tells a repeat of the order from another one with the same tag.
    pub order: String,
    /// Who writes the lake.
    pub pipeline: String,
    /// The state whose log offsets are meant.
    pub epoch: u32,
    /// The log offset of the cut: every change up to it is there, and none behind it.
    pub offset: u64,
    /// When the cut was made.
    pub cut_at: String,
    /// Delta version by table path, of all tables of the cut.
    pub tables: BTreeMap<String, u64>,
    /// How far each source was at that offset.
    pub sources: BTreeMap<String, Reached>,
    /// What is there of each entity.
    pub entities: BTreeMap<String, Part>,
}

/// How far a source was: the last of its entries in the log that end a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// The entry; none where it is in the log no more.
    pub entry: Option<u64>,
    /// Its position as the reader's own bytes, in hexadecimal digits.
    pub position: Option<String>,
    /// The same as the server writes it, where it is a database's: an LSN, or a set of GTIDs.
    pub lsn: Option<String>,
}

/// One entity of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// As in `item/1.0`.
    pub schema: String,
    /// The version of `current/<entity>` that it was read from.
    pub version: u64,
    /// Rows that are there.
    pub rows: u64,
    /// The digest of level 0 of PDX/1, as a planning platform gives it of the same rows.
    pub digest: String,
    /// Which columns were hidden when it was taken, in words of our own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden: Option<String>,
    /// Size of the files.
    pub bytes: u64,
    /// The files.
    pub files: Vec<File>,
}

/// One file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Below the lake.
    pub path: String,
    /// Rows in it.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
}

impl Manifest {
    /// The name of its folder.
    pub(super) fn name(&self) -> String {
        name(self.tag.as_deref(), &self.at)
    }
}

/// How a snapshot is called: by its tag or, without one, by its time; no tag looks like that.
pub(super) fn name(tag: Option<&str>, at: &str) -> String {
    tag.map_or_else(|| folder(at), str::to_owned)
}

/// The folder of a time, below that of an entity.
pub(super) fn folder(at: &str) -> String {
    format!("at={at}")
}

/// Refuses a tag that is no name of a folder on every store.
pub(super) fn check_tag(tag: &str) -> Result<(), SinkError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let is_sound = tag.len() <= TAG_CHARS
        && tag.chars().all(plain)
        && tag.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !tag.ends_with('.');
    if is_sound {
        return Ok(());
    }
    let reason = format!(
        "{tag:?} names no snapshot; a tag has up to {TAG_CHARS} of A-Z a-z 0-9 - _ . and begins with a letter or a digit"
    );
    Err(SinkError::Setting { setting: "tag", reason })
}

/// A time in milliseconds since 1970 as folders are called by it, and as people write it.
pub(super) fn time_texts(ms: i64) -> Option<(String, String)> {
    let time = timestamp_ms_to_datetime(ms)?.and_utc();
    Some((time.format("%Y%m%dT%H%M%S%.3fZ").to_string(), time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)))
}

/// Milliseconds since 1970 of a time that [`time_texts`] wrote.
pub(super) fn time_ms(at: &str) -> Option<i64> {
    let time = chrono::NaiveDateTime::parse_from_str(at, "%Y%m%dT%H%M%S%.3fZ").ok()?;
    Some(time.and_utc().timestamp_millis())
}

fn manifest_path(name: &str) -> Path {
    Path::from(FOLDER).join(name).join(MANIFEST)
}

fn begun_path(at: &str) -> Path {
    Path::from(FOLDER).join(folder(at)).join(BEGUN)
}

/// True where a name that must be new was taken.
fn is_taken(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. })
}

async fn create(place: &Place, path: &Path, value: &impl Serialize) -> Result<bool, SinkError> {
    let text = serde_json::to_vec_pretty(value).expect("plain data");
    match place.files().put_opts(path, text.into(), PutMode::Create.into()).await {
        Ok(_) => Ok(true),
        Err(error) if is_taken(&error) => Ok(false),
        Err(error) => Err(fault::store(place.target(), &format!("write {path}"), &error)),
    }
}

/// Takes a time for a snapshot; false where another one has it.
pub(super) async fn claim(place: &Place, at: &str, order: &str) -> Result<bool, SinkError> {
    create(place, &begun_path(at), &serde_json::json!({ "order": order, "at": at })).await
}

/// Makes a snapshot be; false where there is one of its name.
pub(super) async fn commit(place: &Place, manifest: &Manifest) -> Result<bool, SinkError> {
    create(place, &manifest_path(&manifest.name()), manifest).await
}

/// Takes a manifest away: from then on there is no snapshot of its name.
pub(super) async fn withdraw(place: &Place, name: &str) -> Result<(), SinkError> {
    delete(place, &manifest_path(name)).await?;
    place.remove_empty(&Path::from(FOLDER).join(name)).await;
    Ok(())
}

/// Gives a time back whose files are gone.
pub(super) async fn release(place: &Place, at: &str) -> Result<(), SinkError> {
    delete(place, &begun_path(at)).await?;
    place.remove_empty(&Path::from(FOLDER).join(folder(at))).await;
    Ok(())
}

pub(super) async fn delete(place: &Place, path: &Path) -> Result<(), SinkError> {
    match place.files().delete(path).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(fault::store(place.target(), &format!("delete {path}"), &error)),
    }
}

/// True while a time is still ours.
pub(super) async fn is_claimed(place: &Place, at: &str) -> Result<bool, SinkError> {
    let path = begun_path(at);
    match place.files().head(&path).await {
        Ok(_) => Ok(true),
        Err(object_store::Error::NotFound { .. }) => Ok(false),
        Err(error) => Err(fault::store(place.target(), &format!("look for {path}"), &error)),
    }
}

/// The times that were taken, of snapshots and of what only began to be one.
pub(super) async fn begun(place: &Place) -> Result<Vec<String>, SinkError> {
    let folders = names_with(place, BEGUN).await?;
    Ok(folders.iter().filter_map(|name| name.strip_prefix("at=")).map(str::to_owned).collect())
}

/// Folders that hold a file of a name.
async fn names_with(place: &Place, file: &str) -> Result<Vec<String>, SinkError> {
    let files = place.files();
    let listed: Vec<ObjectMeta> = files
        .list(Some(&Path::from(FOLDER)))
        .try_collect()
        .await
        .map_err(|error| fault::store(place.target(), &format!("list {FOLDER}"), &error))?;
    let names = listed.into_iter().filter_map(|found| {
        let parts: Vec<_> = found.location.parts().map(|part| part.as_ref().to_owned()).collect();
        let [.., name, last] = parts.as_slice() else { return None };
        (last == file).then(|| name.clone())
    });
    Ok(names.collect())
}

/// A snapshot by its name.
pub(super) async fn read(place: &Place, name: &str) -> Result<Option<Manifest>, SinkError> {
    let path = manifest_path(name);
    let found = match place.files().get(&path).await {
        Ok(found) => found.bytes().await,
        Err(error) => Err(error),
    };
    let bytes = match found {
        Ok(bytes) => bytes,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(fault::store(place.target(), &format!("read {path}"), &error)),
    };
    let refused = |reason: String| SinkError::Refused {
        target: place.url_of(path.as_ref()).to_string(),
        reason,
        remedy: "restore the file, or delete the folder that it is in and take another snapshot".to_owned(),
    };
    let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|error| refused(error.to_string()))?;
    if manifest.format != FORMAT {
        let reason = format!("format {} is not {FORMAT}; a newer Syncline wrote it", manifest.format);
        return Err(refused(reason));
    }
    Ok(Some(manifest))
}

/// All snapshots, the oldest first.
pub(super) async fn all(place: &Place) -> Result<Vec<Manifest>, SinkError> {
    let names = names_with(place, MANIFEST).await?;
    let reads = names.into_iter().map(|name| async move { read(place, &name).await });
    let mut found: Vec<Manifest> = stream::iter(reads)
        .buffer_unordered(READ_AT_ONCE)
        .try_filter_map(|found| std::future::ready(Ok(found)))
        .try_collect()
        .await?;
    found.sort_by(|left, right| (&left.at, &left.tag).cmp(&(&right.at, &right.tag)));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_that_could_leave_its_folder_or_pass_for_a_time_is_refused() {
        for tag in ["cycle-31", "2026-W22", "a", "v1.2_final", &"x".repeat(100)] {
            check_tag(tag).expect(tag);
        }
        for tag in
            ["", "..", ".hidden", "a/b", "../cut", "a\\b", "at=20260526T101500.123Z", "ä", "a b", "-x", "a%2fb", "x."]
        {
            let error = check_tag(tag).expect_err(tag).to_string();
            assert!(error.contains("names no snapshot"), "{error}");
        }
        check_tag(&"x".repeat(101)).expect_err("too long");
    }

    #[test]
    fn times_are_written_so_that_their_order_is_that_of_their_texts() {
        let (at, people) = time_texts(1_790_000_000_123).expect("a time");
        assert_eq!((at.as_str(), people.as_str()), ("20260921T141320.123Z", "2026-09-21T14:13:20.123Z"));
        assert_eq!(time_ms(&at), Some(1_790_000_000_123));
        assert_eq!(time_ms("yesterday"), None);
        let (later, _) = time_texts(1_790_000_000_124).expect("a time");
        assert!(later > at);
        assert_eq!(Path::from(FOLDER).join(folder(&at)).as_ref(), format!("_syncline/snapshots/at={at}"), "as it is");
    }
}
