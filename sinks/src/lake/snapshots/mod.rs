//! Snapshots: all current tables of one cut as plain Parquet, which nothing changes any more.
//!
//! ```text
//! snapshots/<entity>/at=<time>/*.parquet            the rows                                   copy
//! _syncline/snapshots/<name>/manifest.json          what belongs to it; last, by one put       manifest
//!
//! 1 claim    _syncline/snapshots/at=<time>/begun.json   the time is ours and nobody else's
//! 2 copy     every current table in the version that the cut names
//! 3 verify   that all files are there
//! 4 commit   the manifest                               before this there is no snapshot, behind it there is one
//! ```
//!
//! Invariants: a folder `at=<time>` belongs to one attempt, whatever the clock says; a manifest is only there while all files
//! are that it names, since it is put last and taken away first; what has begun and has no manifest is garbage, and the next
//! snapshot removes it.
//!
//! Flushes go on meanwhile: a snapshot reads versions, which never change. Vacuums of this process wait for it; where
//! somebody else removed the files of a version, the snapshot begins again with the newer cut.
//!
//! One process takes snapshots of a lake: the daemon, or a command that has the daemon's data folder for itself.

mod copy;
mod keep;
mod manifest;

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use futures::FutureExt;
use futures::stream::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};
use syncline_schemas::entity::{self, Entity};
use syncline_schemas::ident::LogOffset;
use tokio::sync::Mutex;
use tracing::{info, warn};
use uuid::Uuid;

pub use self::manifest::{File, Manifest, Part, Reached};
use super::catalog::{self, Catalog};
use super::config::LakeConfig;
use super::cut::Cut;
use super::fault;
use super::store::Place;
use crate::SinkError;

/// How often a snapshot begins again because files of its versions were removed.
const STARTS_MAX: usize = 5;
/// So many times in a row may be taken by others before something is wrong.
const CLAIMS_MAX: i64 = 1_000;
/// Tables copied side by side: one reads or uploads while another computes.
const COPIED_AT_ONCE: usize = 2;

/// Says how far each source was at a log offset of the state of an epoch, or refuses one that is not at hand.
pub type Sources<'a> = &'a (dyn Fn(u32, LogOffset) -> Result<BTreeMap<String, Reached>, SinkError> + Send + Sync);

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The name of the snapshot; without one it is called by its time, and goes when it is old.
    pub tag: Option<String>,
    /// The same for every repeat of the order, and for nothing else.
    pub id: String,
}

impl Order {
    /// One of the schedule.
    #[must_use]
    pub fn scheduled() -> Self {
        Self { tag: None, id: Uuid::new_v4().to_string() }
    }

    /// One of somebody who gives it a name, and perhaps a word of his own by which it is the same when he repeats it.
    #[must_use]
    pub fn tagged(tag: &str, id: Option<&str>) -> Self {
        let id = id.map_or_else(|| Uuid::new_v4().to_string(), str::to_owned);
        Self { tag: Some(tag.to_owned()), id }
    }
}

/// The snapshots of one lake.
#[derive(Debug)]
pub struct Snapshots {
    config: LakeConfig,
    place: Place,
    one_at_a_time: Mutex<()>,
}

impl Snapshots {
    /// Those of a lake; nothing is contacted yet.
    ///
    /// # Errors
    /// [`SinkError::Setting`] for a URL that is not a lake's place.
    pub fn new(config: LakeConfig) -> Result<Self, SinkError> {
        config.limits.check()?;
        let place = Place::open(&config.url, &config.store)?;
        Ok(Self::beside(config, place))
    }

    /// Those of a lake whose sink is at work in this process.
    pub(super) fn beside(config: LakeConfig, place: Place) -> Self {
        Self { config, place, one_at_a_time: Mutex::new(()) }
    }

    /// Takes a snapshot of the last cut. A repeat of an order gives what the first one gave.
    ///
    /// # Errors
    /// [`SinkError::Setting`] for a tag that is no name, [`SinkError::Refused`] where the tag has another snapshot, where
    /// nothing was flushed yet, and where a table is not what the cut says.
    pub async fn take(&self, order: &Order, now: SystemTime, sources: Sources<'_>) -> Result<Manifest, SinkError> {
        order.tag.as_deref().map_or(Ok(()), manifest::check_tag)?;
        let _one = self.one_at_a_time.lock().await;
        if let Some(tag) = &order.tag
            && let Some(found) = manifest::read(&self.place, tag).await?
        {
            return self.same_order(order, found);
        }
        self.sweep().await?;
        let manifest = self.copied(order, now, sources).boxed().await?;
        self.finish(order, manifest).boxed().await
    }

    /// What there is in the lake: tables, cut and snapshots.
    ///
    /// # Errors
    /// Where the lake cannot be read.
    pub async fn catalog(&self) -> Result<Catalog, SinkError> {
        catalog::read(&self.place, &self.config.hidden).boxed().await
    }

    /// The offset of the last cut that has tables.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub async fn cut_offset(&self) -> Result<Option<LogOffset>, SinkError> {
        let cut = Cut::read(&self.place).await?;
        Ok(cut.filter(|cut| entities(cut).next().is_some()).map(|cut| LogOffset(cut.offset)))
    }

    /// The snapshot that an order finds under its tag.
    fn same_order(&self, order: &Order, found: Manifest) -> Result<Manifest, SinkError> {
        if found.order == order.id {
            return Ok(found);
        }
        let name = found.name();
        Err(SinkError::Refused {
            target: self.place.target().to_owned(),
            reason: format!("there is a snapshot {name} already, taken {}", found.taken_at),
            remedy: format!("choose another tag, or give that one up with --drop {name}"),
        })
    }

    async fn cut(&self) -> Result<Cut, SinkError> {
        let refused = |reason: String, remedy: &str| SinkError::Refused {
            target: self.place.target().to_owned(),
            reason,
            remedy: remedy.to_owned(),
        };
        let Some(cut) = Cut::read(&self.place).await?.filter(|cut| entities(cut).next().is_some()) else {
            return Err(refused(
                "nothing was flushed into the lake yet".to_owned(),
                "ask again once `syncline status` shows rows of this sink",
            ));
        };
        if cut.pipeline != self.config.pipeline {
            return Err(refused(
                format!("the lake belongs to the pipeline {:?}, this one is {:?}", cut.pipeline, self.config.pipeline),
                "take snapshots with the configuration that fills the lake",
            ));
        }
        Ok(cut)
    }

    /// Steps 1 and 2. Where files of a version were removed while they were read, a flush has brought others in their place
    /// and made another cut, with which it begins again.
    async fn copied(&self, order: &Order, now: SystemTime, sources: Sources<'_>) -> Result<Manifest, SinkError> {
        for _ in 0..STARTS_MAX {
            let readers = self.place.readers();
            let _reading = readers.read().await;
            let cut = self.cut().await?;
            let sources = sources(cut.epoch, LogOffset(cut.offset))?;
            let (at, taken_at) = self.claim(order, now).await?;
            let error = match self.copy(&cut, &at).await {
                Ok(entities) => {
                    let (format, tag, order) = (manifest::FORMAT, order.tag.clone(), order.id.clone());
                    let Cut { pipeline, epoch, offset, at: cut_at, tables, .. } = cut;
                    return Ok(Manifest {
                        format,
                        tag,
                        at,
                        taken_at,
                        order,
                        pipeline,
                        epoch,
                        offset,
                        cut_at,
                        tables,
                        sources,
                        entities,
                    });
                }
                Err(error) => error,
            };
            self.give_up(&at).await;
            match Cut::read(&self.place).await {
                Ok(Some(now)) if now != cut => {
                    warn!(lake = self.place.target(), %error, "tables moved on while they were read, starting over");
                }
                _ => return Err(error),
            }
        }
        Err(SinkError::Unavailable {
            target: self.place.target().to_owned(),
            reason: format!("tables moved on while they were read, {STARTS_MAX} times in a row"),
        })
    }

    /// Steps 3 and 4.
    async fn finish(&self, order: &Order, manifest: Manifest) -> Result<Manifest, SinkError> {
        self.verify(&manifest).await?;
        let name = manifest.name();
        // Where the answer is lost nobody knows whether it is there, so nothing is removed; the next sweep finds out.
        if manifest::commit(&self.place, &manifest).await? {
            let rows = manifest.entities.values().map(|part| part.rows).sum::<u64>();
            info!(lake = self.place.target(), name, offset = manifest.offset, rows, "took a snapshot");
            return Ok(manifest);
        }
        match manifest::read(&self.place, &name).await? {
            // A put whose answer was lost is repeated by the client, and finds itself.
            Some(found) if found == manifest => Ok(found),
            found => {
                self.give_up(&manifest.at).await;
                found.map_or_else(
                    || {
                        Err(SinkError::Unavailable {
                            target: self.place.target().to_owned(),
                            reason: format!("the snapshot {name} was taken and given up at the same time"),
                        })
                    },
                    |found| self.same_order(order, found),
                )
            }
        }
    }

    /// Takes a time that no snapshot has: now, or the next millisecond that is free.
    async fn claim(&self, order: &Order, now: SystemTime) -> Result<(String, String), SinkError> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(now.as_millis()).unwrap_or_default();
        for (at, taken_at) in (now..now.saturating_add(CLAIMS_MAX)).filter_map(manifest::time_texts) {
            if manifest::claim(&self.place, &at, &order.id).await? {
                return Ok((at, taken_at));
            }
        }
        Err(SinkError::Refused {
            target: self.place.target().to_owned(),
            reason: "no time of this second is left for a snapshot".to_owned(),
            remedy: "set this machine's clock".to_owned(),
        })
    }

    async fn copy(&self, cut: &Cut, at: &str) -> Result<BTreeMap<String, Part>, SinkError> {
        let copies: Vec<_> = entities(cut)
            .map(|(name, version)| {
                async move {
                    let entity = self.entity(name)?;
                    let part = copy::copy(&self.place, cut, (entity, version), at, &self.config).await?;
                    Ok((name.to_owned(), part))
                }
                .boxed()
            })
            .collect();
        futures::stream::iter(copies).buffer_unordered(COPIED_AT_ONCE).try_collect().await
    }

    fn entity(&self, name: &str) -> Result<&'static Entity, SinkError> {
        entity::get(name).ok_or_else(|| SinkError::Refused {
            target: self.place.target().to_owned(),
            reason: format!("current/{name} is of no entity of this release"),
            remedy: "take the snapshot with the release that wrote the table".to_owned(),
        })
    }

    /// Looks that all files are there as they were written, and that the time is still ours: nobody may have taken them for
    /// garbage.
    async fn verify(&self, manifest: &Manifest) -> Result<(), SinkError> {
        let files = self.place.files();
        for (entity, part) in &manifest.entities {
            let below = format!("snapshots/{entity}/{}", manifest::folder(&manifest.at));
            let listed: Vec<ObjectMeta> = files
                .list(Some(&Path::from(below.as_str())))
                .try_collect()
                .await
                .map_err(|error| fault::store(self.place.target(), &format!("list {below}"), &error))?;
            let is_there =
                |file: &File| listed.iter().any(|it| it.location.as_ref() == file.path && it.size == file.bytes);
            if !part.files.iter().all(is_there) {
                return Err(self.cleaned());
            }
        }
        if manifest::is_claimed(&self.place, &manifest.at).await? { Ok(()) } else { Err(self.cleaned()) }
    }

    fn cleaned(&self) -> SinkError {
        SinkError::Unavailable {
            target: self.place.target().to_owned(),
            reason: "files of a snapshot that were just written are gone: another process takes snapshots of this lake"
                .to_owned(),
        }
    }

    /// Removes what an attempt has written. What cannot be removed the next sweep removes.
    async fn give_up(&self, at: &str) {
        if let Err(error) = keep::remove(&self.place, at).await {
            warn!(lake = self.place.target(), %error, "what is left of a snapshot stays until the next one");
        }
    }
}

/// A snapshot by its tag, or by the time that its folders are called by.
pub(super) async fn snapshot_named(place: &Place, name: &str) -> Result<Option<Manifest>, SinkError> {
    if manifest::time_ms(name).is_some() {
        return manifest::read(place, &manifest::folder(name)).await;
    }
    manifest::check_tag(name)?;
    manifest::read(place, name).await
}

/// All snapshots of a lake, the oldest first.
pub(super) async fn all_snapshots(place: &Place) -> Result<Vec<Manifest>, SinkError> {
    manifest::all(place).await
}

/// Entities that have a current table in a cut, with its version.
fn entities(cut: &Cut) -> impl Iterator<Item = (&str, u64)> {
    cut.tables.iter().filter_map(|(path, version)| Some((path.strip_prefix("current/")?, *version)))
}
