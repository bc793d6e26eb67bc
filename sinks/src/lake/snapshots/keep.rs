//! Which snapshots stay: those with a tag until somebody gives them up, the others for a time.
//!
//! The manifest goes first, by which there is no snapshot any more, then the files, then the claim on their time: a crash in
//! between leaves what [`Snapshots::sweep`] takes for what it is.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};
use tracing::info;

use super::Snapshots;
use super::manifest::{self, Manifest};
use crate::SinkError;
use crate::lake::fault;
use crate::lake::store::Place;

const FOLDER: &str = "snapshots";

impl Snapshots {
    /// Removes what began to be a snapshot and is none; nobody else is taking one. Folders that nobody claims are of a put that
    /// was under way when its process ended.
    pub(super) async fn sweep(&self) -> Result<(), SinkError> {
        // In this order: what is finished in between is in the second list.
        let mut begun: BTreeSet<String> = manifest::begun(&self.place).await?.into_iter().collect();
        begun.extend(times(&self.place).await?);
        let known = manifest::all(&self.place).await?;
        for at in begun.iter().filter(|at| known.iter().all(|manifest| manifest.at != **at)) {
            info!(lake = self.place.target(), at, "removing what is left of a snapshot that was not finished");
            remove(&self.place, at).await?;
        }
        Ok(())
    }

    /// Removes snapshots without a tag that are older than a time; the newest of them stays. Says how many.
    ///
    /// # Errors
    /// Where the lake cannot be read or written.
    pub async fn retain(&self, age: Duration, now: SystemTime) -> Result<usize, SinkError> {
        let _one = self.one_at_a_time.lock().await;
        let known = manifest::all(&self.place).await?;
        let old = expired(&known, age, now);
        for manifest in &old {
            info!(lake = self.place.target(), at = manifest.at, "removing a snapshot that is old enough");
            self.withdraw(manifest).await?;
        }
        Ok(old.len())
    }

    /// Gives up a snapshot; false where there is none of that tag.
    ///
    /// # Errors
    /// Where the lake cannot be read or written.
    pub async fn give_up_tag(&self, tag: &str) -> Result<bool, SinkError> {
        manifest::check_tag(tag)?;
        let _one = self.one_at_a_time.lock().await;
        let Some(found) = manifest::read(&self.place, tag).await? else { return Ok(false) };
        self.withdraw(&found).await?;
        Ok(true)
    }

    /// When the last snapshot without a tag was taken, in milliseconds since 1970; of those that the clock has not been
    /// set back behind.
    ///
    /// # Errors
    /// Where the lake cannot be read.
    pub async fn last_scheduled(&self, now: SystemTime) -> Result<Option<u64>, SinkError> {
        let known = manifest::all(&self.place).await?;
        let now = millis(now);
        let times = known.iter().filter(|manifest| manifest.tag.is_none()).filter_map(taken);
        Ok(times.filter(|at| *at <= now).max())
    }

    async fn withdraw(&self, manifest: &Manifest) -> Result<(), SinkError> {
        manifest::withdraw(&self.place, &manifest.name()).await?;
        remove(&self.place, &manifest.at).await
    }
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn taken(manifest: &Manifest) -> Option<u64> {
    manifest::time_ms(&manifest.at).and_then(|ms| u64::try_from(ms).ok())
}

fn expired(known: &[Manifest], age: Duration, now: SystemTime) -> Vec<&Manifest> {
    let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    let oldest = millis(now).saturating_sub(age);
    let mut scheduled: Vec<&Manifest> = known.iter().filter(|manifest| manifest.tag.is_none()).collect();
    scheduled.sort_by(|left, right| left.at.cmp(&right.at));
    // Whatever the clock says, one stays.
    scheduled.pop();
    scheduled.retain(|manifest| taken(manifest).is_some_and(|at| at < oldest));
    scheduled
}

/// The times of which some entity has a folder.
async fn times(place: &Place) -> Result<Vec<String>, SinkError> {
    let mut found = Vec::new();
    for entity in below(place, &Path::from(FOLDER)).await? {
        let folders = below(place, &entity).await?.into_iter();
        found.extend(folders.filter_map(|folder| Some(folder.filename()?.strip_prefix("at=")?.to_owned())));
    }
    Ok(found)
}

async fn below(place: &Place, folder: &Path) -> Result<Vec<Path>, SinkError> {
    let listed = place.files().list_with_delimiter(Some(folder)).await;
    let listed = listed.map_err(|error| fault::store(place.target(), &format!("list {folder}"), &error))?;
    Ok(listed.common_prefixes)
}

/// Removes the folders of a time, and then gives the time back.
pub(super) async fn remove(place: &Place, at: &str) -> Result<(), SinkError> {
    for entity in below(place, &Path::from(FOLDER)).await? {
        let folder = entity.join(manifest::folder(at));
        let listed: Vec<ObjectMeta> = place
            .files()
            .list(Some(&folder))
            .try_collect()
            .await
            .map_err(|error| fault::store(place.target(), &format!("list {folder}"), &error))?;
        for file in listed {
            manifest::delete(place, &file.location).await?;
        }
        place.remove_empty(&folder).await;
    }
    manifest::release(place, at).await
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn snapshot(ms: i64, tag: Option<&str>) -> Manifest {
        let (at, taken_at) = manifest::time_texts(ms).expect("a time");
        Manifest {
            format: manifest::FORMAT,
            tag: tag.map(str::to_owned),
            at,
            taken_at,
            order: String::new(),
            pipeline: String::new(),
            epoch: 1,
            offset: 1,
            cut_at: String::new(),
            tables: BTreeMap::new(),
            sources: BTreeMap::new(),
            entities: BTreeMap::new(),
        }
    }

    #[test]
    fn age_takes_neither_a_tag_nor_the_last_snapshot_that_there_is() {
        let day = 86_400_000;
        let known = [snapshot(day, None), snapshot(2 * day, Some("kept")), snapshot(3 * day, None)];
        let now = |days: u64| UNIX_EPOCH + Duration::from_secs(days * 86_400);
        let gone = |known: &[Manifest], now| expired(known, Duration::from_secs(86_400), now).len();
        assert_eq!(gone(&known, now(2)), 0, "as old as it may be");
        assert_eq!(gone(&known, now(4)), 1);
        assert_eq!(gone(&known, now(4_000)), 1, "the newest stays, and the tag");
        assert_eq!(gone(&known, now(0)), 0, "the clock was set back");
        assert_eq!(gone(&known[..2], now(4_000)), 0, "the only one without a tag");
    }
}
