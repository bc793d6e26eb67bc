//! The contents that the log's rows were computed from: `<hash>.csv`, immutable, each fsynced with its name before a frame
//! names it, and removed only once no durable position does.
//!
//! They are data, not a second position: which of them count is said by the log alone, and one that nothing names is left
//! over from a load that did not come to a frame.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use syncline_schemas::ident::SourceId;
use syncline_schemas::table::TableSchema;
use xxhash_rust::xxh3::xxh3_128;

use super::content::{self, Read};
use super::position::{Entry, Manifest};
use super::table::Table;
use crate::CaptureError;
use crate::error::Listed;

/// The folder of kept contents.
pub(super) struct Kept {
    source: SourceId,
    dir: PathBuf,
}

/// What a content is called.
pub(super) fn hash(bytes: &[u8]) -> u128 {
    xxh3_128(bytes)
}

/// A hash as rows carry it for lineage: enough to find the kept file.
pub(super) fn short(hash: u128) -> String {
    format!("{hash:032x}").chars().take(12).collect()
}

impl Kept {
    pub(super) fn new(source: SourceId, dir: PathBuf) -> Self {
        Self { source, dir }
    }

    pub(super) fn path(&self, hash: u128) -> PathBuf {
        self.dir.join(format!("{hash:032x}.csv"))
    }

    /// Keeps a content; durable together with its name once this returns.
    pub(super) fn keep(&self, hash: u128, bytes: &[u8]) -> Result<(), CaptureError> {
        let path = self.path(hash);
        if self.holds(hash) {
            return Ok(());
        }
        self.make_dir()?;
        let draft = path.with_extension("draft");
        let written = File::create(&draft).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        written.and_then(|()| fs::rename(&draft, &path)).map_err(|error| self.fault("write", &path, error))?;
        sync_dir(&self.dir).map_err(|error| self.fault("sync", &self.dir, error))
    }

    /// The bytes of a content that the log names.
    pub(super) fn read(&self, hash: u128) -> Result<Vec<u8>, CaptureError> {
        let path = self.path(hash);
        match fs::read(&path) {
            Ok(bytes) if self::hash(&bytes) == hash => Ok(bytes),
            Ok(_) => Err(self.lost(&path, "is damaged: its bytes are not those of its name")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(self.lost(&path, "is gone")),
            Err(error) => Err(self.fault("read", &path, error)),
        }
    }

    /// The table of a content, read as it was when it was put into the log; a fault in it means that it is not that one.
    pub(super) fn table(&self, name: &str, entry: &Entry) -> Result<Table, CaptureError> {
        let (path, bytes) = (self.path(entry.hash), self.read(entry.hash)?);
        let read = content::table(&path, name, &bytes, Read::AsBefore(&entry.layout));
        read.map(|(table, _)| table).map_err(|faults| misfit(&self.source, Listed(&faults).to_string()))
    }

    /// The shape of a content, as [`Kept::table`] reads it.
    pub(super) fn schema(&self, name: &str, entry: &Entry) -> Result<TableSchema, CaptureError> {
        let (path, bytes) = (self.path(entry.hash), self.read(entry.hash)?);
        let read = content::schema(&path, name, &bytes, &entry.layout);
        read.map_err(|faults| misfit(&self.source, Listed(&faults).to_string()))
    }

    /// Whether a content is there whole.
    pub(super) fn holds(&self, hash: u128) -> bool {
        fs::read(self.path(hash)).is_ok_and(|bytes| self::hash(&bytes) == hash)
    }

    /// Removes whatever the manifest does not name.
    pub(super) fn remove_others(&self, manifest: &Manifest) -> Result<(), CaptureError> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(self.fault("read", &self.dir, error)),
        };
        let named: Vec<PathBuf> = manifest.values().map(|entry| self.path(entry.hash)).collect();
        for entry in entries {
            let path = entry.map_err(|error| self.fault("read", &self.dir, error))?.path();
            if !named.contains(&path) {
                fs::remove_file(&path).map_err(|error| self.fault("remove", &path, error))?;
            }
        }
        Ok(())
    }

    fn make_dir(&self) -> Result<(), CaptureError> {
        if self.dir.is_dir() {
            return Ok(());
        }
        let made = fs::create_dir_all(&self.dir).and_then(|()| self.dir.parent().map_or(Ok(()), sync_dir));
        made.map_err(|error| self.fault("make", &self.dir, error))
    }

    fn fault(&self, verb: &'static str, path: &Path, error: io::Error) -> CaptureError {
        CaptureError::Kept { source_id: self.source.clone(), verb, path: path.to_owned(), error }
    }

    fn lost(&self, path: &Path, reason: &str) -> CaptureError {
        CaptureError::Unfit {
            source_id: self.source.clone(),
            object: format!("the kept content {}", path.display()),
            reason: format!("{reason}, and the log's rows were computed from it"),
            remedy: "restore the whole data_dir from one backup, or start over".to_owned(),
        }
    }
}

/// The journal's position is not what this reader writes.
pub(super) fn misfit(source: &SourceId, reason: String) -> CaptureError {
    CaptureError::Unfit {
        source_id: source.clone(),
        object: "the journal's position".to_owned(),
        reason,
        remedy: "run the Syncline that wrote it; else restore the whole data_dir from one backup".to_owned(),
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    // A relative path of one part has an empty parent.
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use syncline_schemas::ident::SEEDS;

    use super::super::table::Layout;
    use super::*;

    fn kept() -> (tempfile::TempDir, Kept) {
        let dir = tempfile::tempdir().expect("a folder");
        let kept = Kept::new(SourceId::new(SEEDS), dir.path().join("seeds"));
        (dir, kept)
    }

    #[test]
    fn a_content_reads_back_and_a_damaged_or_missing_one_is_refused_by_name() {
        let (_dir, kept) = kept();
        let hash = hash(b"code\nKG\n");
        let gone = kept.read(hash).expect_err("not there yet").to_string();
        assert!(gone.contains("is gone") && gone.contains("restore the whole data_dir"), "{gone}");
        kept.keep(hash, b"code\nKG\n").expect("kept");
        assert_eq!(kept.read(hash).expect("reads"), b"code\nKG\n");
        fs::write(kept.path(hash), b"code\nKX\n").expect("write");
        let damaged = kept.read(hash).expect_err("damaged").to_string();
        assert!(damaged.contains("is damaged") && damaged.contains(&short(hash)), "{damaged}");
        kept.keep(hash, b"code\nKG\n").expect("a content that came back mends it");
        assert_eq!(kept.read(hash).expect("reads"), b"code\nKG\n");
    }

    #[test]
    fn what_nothing_names_goes_and_the_rest_stays() {
        let (_dir, kept) = kept();
        kept.remove_others(&Manifest::new()).expect("a folder that was never made");
        let (one, other) = (hash(b"a"), hash(b"b"));
        kept.keep(one, b"a").expect("kept");
        kept.keep(other, b"b").expect("kept");
        fs::write(kept.path(one).with_extension("draft"), b"half").expect("write");
        let manifest = Manifest::from([("a".to_owned(), Entry { hash: one, layout: Layout::default() })]);
        kept.remove_others(&manifest).expect("removed");
        assert!(kept.holds(one) && !kept.holds(other));
        assert_eq!(fs::read_dir(&kept.dir).expect("reads").count(), 1);
    }
}
