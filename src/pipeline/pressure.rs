//! How full the data folder is, and what is done about it in stages, so that a target that is down for long never fills the
//! disk and never costs a row.
//!
//! ```text
//! from 70 %   tight    what is done with is kept for a shorter time, and the outbox gives back its disk at once
//! from 85 %   scarce   sources that feed nothing critical are paused
//! from 95 %   full     all sources are paused; deliveries go on and make room
//! ```
//!
//! A paused source is a session that has ended, as after a lost connection: its database keeps its log, nothing is passed over, and it
//! goes on where it was. It is paused as a whole, because a reader that left single tables out of a stream could not come back to
//! what it left out. The last part of the room is for what is in the log already and is still to be folded.
//!
//! Each stage is left five points below where it is entered, so that nothing swings. The budget is what is configured, and never more than
//! the disk has. Without one there are no stages: whoever drains once wants an error of a full disk and not to wait.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use rustix::fs::statvfs;
use serde::{Deserialize, Serialize};
use tracing::{error, info, warn};

/// Bytes of a block as the system counts them, whatever those of the file system are.
const BLOCK: u64 = 512;

/// How much of the budget is used, in steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    /// There is room.
    #[default]
    Roomy,
    /// What is done with goes sooner.
    Tight,
    /// What feeds nothing critical is paused.
    Scarce,
    /// All sources are paused.
    Full,
}

impl Stage {
    const ALL: [Self; 4] = [Self::Roomy, Self::Tight, Self::Scarce, Self::Full];

    /// Per cent of the budget from which it holds.
    const fn from(self) -> u64 {
        match self {
            Self::Roomy => 0,
            Self::Tight => 70,
            Self::Scarce => 85,
            Self::Full => 95,
        }
    }

    /// Per cent below which it ends.
    const fn until(self) -> u64 {
        self.from().saturating_sub(5)
    }

    /// The stage that follows, where so much is used.
    fn next(self, used: u64, budget: u64) -> Self {
        let holds = |percent: u64| u128::from(used) * 100 >= u128::from(budget) * u128::from(percent);
        let entered = Self::ALL.into_iter().rev().find(|stage| holds(stage.from())).unwrap_or_default();
        let kept = Self::ALL.into_iter().rev().find(|stage| *stage <= self && holds(stage.until())).unwrap_or_default();
        entered.max(kept)
    }

    fn of(number: u8) -> Self {
        Self::ALL.get(usize::from(number)).copied().unwrap_or_default()
    }
}

/// The room of the data folder.
#[derive(Debug, Default)]
pub(crate) struct Pressure {
    used: AtomicU64,
    budget: AtomicU64,
    stage: AtomicU8,
}

impl Pressure {
    pub(crate) fn stage(&self) -> Stage {
        Stage::of(self.stage.load(Ordering::Acquire))
    }

    /// Bytes that are used, and that may be.
    pub(crate) fn room(&self) -> (u64, u64) {
        (self.used.load(Ordering::Relaxed), self.budget.load(Ordering::Relaxed))
    }

    /// Whether a source is to be paused.
    pub(super) fn holds(&self, feeds_critical: bool) -> bool {
        match self.stage() {
            Stage::Roomy | Stage::Tight => false,
            Stage::Scarce => !feeds_critical,
            Stage::Full => true,
        }
    }

    /// Looks how full the folder is, and says so where that has come to mean something else.
    pub(super) fn look(&self, folder: &Path, budget: Option<u64>) {
        let seen = bytes_of(folder).and_then(|used| Ok((used, statvfs(folder)?)));
        match seen {
            Ok((used, disk)) => {
                let most = used.saturating_add(disk.f_bavail.saturating_mul(disk.f_frsize));
                match budget {
                    Some(budget) => self.note(used, budget.min(most)),
                    None => self.show(used, most),
                }
            }
            Err(error) => {
                let path = folder.display();
                warn!(%path, %error, "cannot see how full the data folder is, so no source is paused before the disk is full");
            }
        }
    }

    fn show(&self, used: u64, budget: u64) {
        self.used.store(used, Ordering::Relaxed);
        self.budget.store(budget, Ordering::Relaxed);
    }

    fn note(&self, used: u64, budget: u64) {
        self.show(used, budget);
        let (before, now) = (self.stage(), self.stage().next(used, budget));
        self.stage.store(now as u8, Ordering::Release);
        if now > before {
            tell(now, used, budget);
        } else if now < before {
            info!(stage = ?now, used, budget, "the data folder has more room again");
        }
    }
}

/// Says what a stage does and what helps.
fn tell(stage: Stage, used: u64, budget: u64) {
    match stage {
        Stage::Roomy => {}
        Stage::Tight => warn!(
            used,
            budget,
            "the data folder is 70 % full: what is done with is kept for a shorter time; bring back the target that is behind, or raise disk_budget"
        ),
        Stage::Scarce => warn!(
            used,
            budget,
            "the data folder is 85 % full: sources that feed nothing critical are paused; bring back the target that is behind, or raise disk_budget"
        ),
        Stage::Full => error!(
            used,
            budget,
            "the data folder is 95 % full: all sources are paused and their databases keep their logs; bring back the target that is behind, or raise disk_budget"
        ),
    }
}

/// Bytes that the files of a folder take on the disk. Some are larger than that, and some go while this looks.
fn bytes_of(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let found = entry.metadata().and_then(|metadata| {
            if metadata.is_dir() { bytes_of(&entry.path()) } else { Ok(metadata.blocks().saturating_mul(BLOCK)) }
        });
        match found {
            Ok(found) => bytes += found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_entered_at_its_mark_and_left_only_well_below_it() {
        let pressure = Pressure::default();
        let at = |percent| {
            pressure.note(percent, 100);
            pressure.stage()
        };
        assert_eq!([69, 70, 66, 64].map(at), [Stage::Roomy, Stage::Tight, Stage::Tight, Stage::Roomy]);
        assert_eq!([86, 81, 79, 66].map(at), [Stage::Scarce, Stage::Scarce, Stage::Tight, Stage::Tight]);
        assert_eq!([100, 91, 89, 20].map(at), [Stage::Full, Stage::Full, Stage::Scarce, Stage::Roomy]);
        assert_eq!(at(120), Stage::Full, "more is used than may be");
    }

    #[test]
    fn what_feeds_nothing_critical_is_paused_first() {
        let pressure = Pressure::default();
        let paused = |used| {
            pressure.note(used, 100);
            [false, true].map(|critical| pressure.holds(critical))
        };
        assert_eq!([84, 85, 95].map(paused), [[false, false], [true, false], [true, true]]);
    }

    #[test]
    fn the_disk_is_the_budget_where_it_has_less_and_files_count_as_the_disk_holds_them() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("log")).expect("a folder in it");
        fs::write(folder.path().join("log/1"), vec![1; 1 << 20]).expect("written");
        fs::File::create(folder.path().join("hole")).and_then(|file| file.set_len(1 << 40)).expect("a hole");
        let pressure = Pressure::default();
        pressure.look(folder.path(), None);
        let (used, most) = pressure.room();
        assert!((1 << 20..1 << 24).contains(&used) && most > used, "{used} of {most}");
        pressure.look(folder.path(), Some(u64::MAX));
        assert!(pressure.room().1 < u64::MAX);
        pressure.look(folder.path(), Some(used));
        assert_eq!(pressure.stage(), Stage::Full);
    }
}
