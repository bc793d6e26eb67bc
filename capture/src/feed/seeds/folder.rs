//! The operator's folder as it stands, and when it has come to rest.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How often the folder is looked at, and how long it must not have changed before it is loaded.
pub(super) const POLL: Duration = Duration::from_secs(1);

/// What tells one state of a file from another without reading it. A copy may set the modification time back; the change
/// time it cannot set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    inode: u64,
}

/// The folder at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Listing {
    /// Files by table, which is the name without `.csv`.
    pub(super) files: BTreeMap<String, Stat>,
    /// Files that look like a table and cannot be one, with the reason.
    pub(super) odd: BTreeMap<PathBuf, &'static str>,
    /// When a name came or went last.
    renamed: (i64, i64),
}

/// Looks at the folder. Hidden files and those of other kinds do not count; links are followed.
pub(super) fn list(dir: &Path) -> io::Result<Listing> {
    let folder = fs::metadata(dir)?;
    let mut listing = Listing { renamed: (folder.mtime(), folder.mtime_nsec()), ..Listing::default() };
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if !extension.eq_ignore_ascii_case("csv") {
            continue;
        }
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        if stem.is_some_and(|stem| stem.starts_with('.')) {
            continue;
        }
        let Some(stem) = stem else {
            listing.odd.insert(path, "has a name that is not UTF-8; rename it");
            continue;
        };
        if extension != "csv" {
            listing.odd.insert(path, "is not read; let its name end in .csv");
        } else if let Some(stat) = stat(&path)? {
            listing.files.insert(stem.to_owned(), stat);
        }
    }
    Ok(listing)
}

fn stat(path: &Path) -> io::Result<Option<Stat>> {
    let metadata = match fs::metadata(path) {
        // Gone since the folder was read, or a link to nowhere.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        metadata => metadata?,
    };
    Ok(metadata.is_file().then(|| Stat {
        len: metadata.len(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
        inode: metadata.ino(),
    }))
}

/// Decides when a listing is to be loaded: once, and not while somebody still writes.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// The last look.
    seen: Option<Listing>,
    /// The listing that was loaded or refused last.
    judged: Option<Listing>,
}

impl Watch {
    /// Takes note of a look and says whether it is to be loaded: it is not the one judged last, and has not changed for
    /// the time between two looks. At the first look the times of folder and files must say so.
    pub(super) fn is_due(&mut self, listing: &Listing, now: SystemTime) -> bool {
        let rests = match self.seen.replace(listing.clone()) {
            Some(before) => before == *listing,
            None => is_old(listing, now),
        };
        rests && self.judged.as_ref() != Some(listing)
    }

    /// A listing was loaded or refused; it is not due again before it changes.
    pub(super) fn judged(&mut self, listing: Listing) {
        self.judged = Some(listing);
    }

    /// The folder could not be looked at: what it shows next is judged anew.
    pub(super) fn lost(&mut self) {
        *self = Self::default();
    }
}

/// True where all was left alone for the time between two looks. A clock that is behind never says so.
fn is_old(listing: &Listing, now: SystemTime) -> bool {
    let limit = now.checked_sub(POLL).and_then(|limit| limit.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let limit = (i64::try_from(limit.as_secs()).unwrap_or(i64::MAX), i64::from(limit.subsec_nanos()));
    listing.renamed < limit && listing.files.values().all(|stat| stat.modified < limit && stat.changed < limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(files: &[(&str, u64, i64)]) -> Listing {
        let stat = |len, second| Stat { len, modified: (second, 0), changed: (second, 0), inode: 1 };
        let files = files.iter().map(|(name, len, second)| ((*name).to_owned(), stat(*len, *second))).collect();
        Listing { files, ..Listing::default() }
    }

    fn at(second: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(second)
    }

    #[test]
    fn a_file_that_still_grows_is_not_loaded_before_it_rests_for_a_poll() {
        let mut watch = Watch::default();
        assert!(!watch.is_due(&listing(&[("uom", 10, 100)]), at(100)), "written this second");
        assert!(!watch.is_due(&listing(&[("uom", 20, 101)]), at(101)), "it grew");
        let whole = listing(&[("uom", 30, 102)]);
        assert!(!watch.is_due(&whole, at(102)), "it grew again");
        assert!(watch.is_due(&whole, at(103)), "it rests");
        assert!(watch.is_due(&whole, at(104)), "due until it is judged");
        watch.judged(whole.clone());
        assert!(!watch.is_due(&whole, at(105)), "judged");
        assert!(!watch.is_due(&listing(&[("uom", 30, 106)]), at(106)), "of the same length, but written again");
    }

    #[test]
    fn files_that_nobody_touched_lately_are_loaded_at_the_first_look() {
        let mut watch = Watch::default();
        assert!(watch.is_due(&listing(&[("uom", 10, 97), ("region", 5, 98)]), at(100)));
        assert!(Watch::default().is_due(&Listing::default(), at(100)), "an empty folder says that there is nothing");
        assert!(!Watch::default().is_due(&listing(&[("uom", 10, 200)]), at(100)), "a clock ahead of ours is no proof");
    }

    #[test]
    fn a_file_that_is_gone_for_a_moment_is_not_taken_for_removed() {
        let mut watch = Watch::default();
        let (whole, without) = (listing(&[("region", 5, 1), ("uom", 10, 1)]), listing(&[("region", 5, 1)]));
        assert!(watch.is_due(&whole, at(100)));
        watch.judged(whole.clone());
        assert!(!watch.is_due(&without, at(101)), "an editor may write it anew");
        assert!(!watch.is_due(&whole, at(102)));
        let just_now = Listing { renamed: (100, 0), ..without };
        assert!(!Watch::default().is_due(&just_now, at(100)), "nor at the first look");
    }

    #[test]
    fn a_folder_that_was_away_is_judged_anew() {
        let (mut watch, files) = (Watch::default(), listing(&[("uom", 10, 1)]));
        assert!(watch.is_due(&files, at(100)));
        watch.judged(files.clone());
        watch.lost();
        assert!(watch.is_due(&files, at(101)));
    }

    #[test]
    fn only_what_can_be_a_table_is_listed() {
        let dir = tempfile::tempdir().expect("a folder");
        for name in ["uom.csv", "region codes.csv", ".hidden.csv", "uom.csv.bak", "UPPER.CSV", "readme.md"] {
            fs::write(dir.path().join(name), "code\n").expect("write");
        }
        fs::create_dir(dir.path().join("folder.csv")).expect("make");
        std::os::unix::fs::symlink("nowhere.csv", dir.path().join("link.csv")).expect("link");
        let listing = list(dir.path()).expect("lists");
        assert_eq!(listing.files.keys().collect::<Vec<_>>(), ["region codes", "uom"]);
        assert_eq!(listing.odd.keys().collect::<Vec<_>>(), [&dir.path().join("UPPER.CSV")]);
    }
}
