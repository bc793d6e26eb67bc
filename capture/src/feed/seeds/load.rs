//! The folder as a whole becomes a manifest, or every fault in it.

use std::fs;
use std::path::Path;

use super::config::{SeedsConfig, TableSpec};
use super::content::{self, Read};
use super::fault::FileFault;
use super::folder::Listing;
use super::kept;
use super::position::{Entry, MANIFEST_BYTES_MAX, Manifest, encode_manifest};
use super::table::Table;

/// The largest file: while its changes are found, a table is in memory twice, each time with its rows as columns and as
/// bytes.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// A file that has no fault.
pub(super) struct Loaded {
    pub(super) bytes: Vec<u8>,
    pub(super) entry: Entry,
    pub(super) table: Table,
}

/// Reads one file of a listing.
pub(super) fn file(config: &SeedsConfig, name: &str, len: u64) -> Result<Loaded, Vec<FileFault>> {
    let path = config.file(name);
    if len > FILE_BYTES_MAX {
        let reason = format!("is larger than {} MiB; keep such a table in a database", FILE_BYTES_MAX >> 20);
        return Err(vec![FileFault::of_file(&path, reason)]);
    }
    let bytes = fs::read(&path).map_err(|error| vec![unreadable(&path, &error)])?;
    let nothing_said = TableSpec::default();
    let spec = config.tables.get(name).unwrap_or(&nothing_said);
    let (table, layout) = content::table(&path, name, &bytes, Read::Declared(spec))?;
    Ok(Loaded { entry: Entry { hash: kept::hash(&bytes), layout }, bytes, table })
}

fn unreadable(path: &Path, error: &std::io::Error) -> FileFault {
    FileFault::of_file(path, format!("{error}; let this user read it"))
}

/// The fault of a folder that cannot be looked at.
pub(super) fn no_folder(config: &SeedsConfig, error: &std::io::Error) -> FileFault {
    FileFault::of_file(&config.dir, format!("{error}; make the folder, or set dir in [seeds]"))
}

/// What is wrong with a listing before any file is read.
pub(super) fn listing_faults(config: &SeedsConfig, listing: &Listing) -> Vec<FileFault> {
    let odd = listing.odd.iter().map(|(path, reason)| FileFault::of_file(path, *reason));
    let missing = config.tables.keys().filter(|name| !listing.files.contains_key(*name)).map(|name| {
        FileFault::of_file(&config.file(name), format!("is not there; add the file, or remove [seeds.{name}]"))
    });
    odd.chain(missing).collect()
}

/// The fault of more files than a position can name.
pub(super) fn manifest_fault(config: &SeedsConfig, manifest: &Manifest) -> Option<FileFault> {
    let is_too_large = encode_manifest(manifest).len() > MANIFEST_BYTES_MAX;
    is_too_large.then(|| {
        let reason = format!("holds too many files for one log position ({}); keep some in a database", manifest.len());
        FileFault::of_file(&config.dir, reason)
    })
}
