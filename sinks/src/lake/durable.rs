//! The local file system as an object store whose puts survive a power cut.
//!
//! `LocalFileSystem` renames a file into place but never fsyncs it: after a power cut the name can be there with an empty
//! file behind it, and an empty commit breaks a Delta table for every reader. Here a put returns when the bytes, the name
//! and every new folder above it are on disk. The order is: content, name, folder.
//!
//! A crash leaves what it was writing under a staged name, which no listing shows and so no vacuum removes: [`sweep`] does.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};
use uuid::Uuid;

const STORE: &str = "local file system";

/// A staged file that nobody has written to for so long is nobody's: one file of a flush takes seconds.
const STAGED_MAX: Duration = Duration::from_secs(3_600);

/// [`LocalFileSystem`] with durable puts; paths are absolute.
#[derive(Debug)]
pub(super) struct DurableLocal {
    files: Arc<LocalFileSystem>,
}

impl DurableLocal {
    pub(super) fn new() -> Self {
        Self { files: Arc::new(LocalFileSystem::new()) }
    }
}

impl fmt::Display for DurableLocal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(STORE)
    }
}

fn failed(path: &FsPath, doing: &str, error: io::Error) -> Error {
    let source = io::Error::new(error.kind(), format!("{doing} {}: {error}", path.display()));
    Error::Generic { store: STORE, source: source.into() }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}

fn sync_folder(folder: &FsPath) -> Result<()> {
    File::open(folder).and_then(|file| file.sync_all()).map_err(|error| failed(folder, "sync folder", error))
}

/// Creates a folder and those above it, each durable before the next.
fn create_folder(folder: &FsPath) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        create_folder(parent)?;
        match fs::create_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed(folder, "create folder", error));
            }
            _ => sync_folder(parent)?,
        }
    }
    Ok(())
}

fn parent(path: &FsPath) -> &FsPath {
    path.parent().unwrap_or(FsPath::new("/"))
}

/// A name that listings leave out: `#` and digits, as `LocalFileSystem` itself stages uploads.
fn staged(path: &FsPath) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!("#{}", Uuid::new_v4().as_u128()));
    PathBuf::from(name)
}

/// Reads back what [`staged`] and `LocalFileSystem` call a file that is not in place yet.
fn is_staged(name: &str) -> bool {
    name.rsplit_once('#').is_some_and(|(_, digits)| !digits.is_empty() && digits.bytes().all(|it| it.is_ascii_digit()))
}

/// Removes what crashes left half written in a folder and below it; says how many files. What cannot be read or removed
/// is left: it costs space and nothing else.
pub(super) async fn sweep(folder: PathBuf) -> usize {
    tokio::task::spawn_blocking(move || sweep_folder(&folder)).await.unwrap_or_default()
}

fn sweep_folder(folder: &FsPath) -> usize {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let mut removed = 0;
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            removed += sweep_folder(&entry.path());
        } else if kind.is_file() && is_staged(&entry.file_name().to_string_lossy()) {
            let changed = entry.metadata().and_then(|metadata| metadata.modified());
            let age = changed.ok().and_then(|changed| SystemTime::now().duration_since(changed).ok());
            if age.is_some_and(|age| age > STAGED_MAX) && fs::remove_file(entry.path()).is_ok() {
                removed += 1;
            }
        }
    }
    removed
}

fn write_staged(path: &FsPath, payload: &PutPayload) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    payload.iter().try_for_each(|bytes| file.write_all(bytes))?;
    file.sync_all()
}

fn put(path: &FsPath, payload: &PutPayload, mode: &PutMode) -> Result<()> {
    create_folder(parent(path))?;
    let staged = staged(path);
    let placed = write_staged(&staged, payload).and_then(|()| match mode {
        PutMode::Create => fs::hard_link(&staged, path),
        PutMode::Overwrite | PutMode::Update(_) => fs::rename(&staged, path),
    });
    if placed.is_err() || *mode == PutMode::Create {
        // A leftover is invisible to every reader, so failing to remove it is no fault of the put.
        let _ = fs::remove_file(&staged);
    }
    match placed {
        Ok(()) => sync_folder(parent(path)),
        Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {
            Err(Error::AlreadyExists { path: path.display().to_string(), source: source.into() })
        }
        Err(error) => Err(failed(path, "write", error)),
    }
}

#[async_trait]
impl ObjectStore for DurableLocal {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        if matches!(opts.mode, PutMode::Update(_)) || !opts.attributes.is_empty() {
            return Err(Error::NotImplemented {
                operation: "a put with a version or attributes".into(),
                implementer: STORE.into(),
            });
        }
        let path = self.files.path_to_filesystem(location)?;
        blocking(move || put(&path, &payload, &opts.mode)).await?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let path = self.files.path_to_filesystem(location)?;
        let folder = parent(&path).to_owned();
        blocking(move || create_folder(&folder)).await?;
        Ok(Box::new(DurableUpload { upload: self.files.put_multipart_opts(location, opts).await?, path }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.files.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.files.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.files.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.files.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.files.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.files.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.files.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.files.rename_opts(from, to, options).await
    }
}

/// An upload in parts: a rename puts it in place, after which content and name are synced. Nothing refers to the file
/// before `complete` returns, so the short time between is harmless.
#[derive(Debug)]
struct DurableUpload {
    upload: Box<dyn MultipartUpload>,
    path: PathBuf,
}

#[async_trait]
impl MultipartUpload for DurableUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.upload.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let result = self.upload.complete().await?;
        let path = self.path.clone();
        blocking(move || {
            File::open(&path).and_then(|file| file.sync_all()).map_err(|error| failed(&path, "sync", error))?;
            sync_folder(parent(&path))
        })
        .await?;
        Ok(result)
    }

    async fn abort(&mut self) -> Result<()> {
        self.upload.abort().await
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;
    use object_store::ObjectStoreExt;

    use super::*;

    #[tokio::test]
    async fn of_two_commits_with_one_number_the_second_is_told_so_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = DurableLocal::new();
        let root = Path::from_absolute_path(folder.path()).expect("absolute");
        let name = root.clone().join("new").join("folder").join("0.json");
        store.put_opts(&name, "first".into(), PutMode::Create.into()).await.expect("free name");
        let again = store.put_opts(&name, "second".into(), PutMode::Create.into()).await;
        assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");
        let read = store.get(&name).await.expect("exists").bytes().await.expect("readable");
        assert_eq!(&read[..], b"first");
        store.put(&name, "third".into()).await.expect("overwrite");
        let listed: Vec<_> = store.list(Some(&root)).try_collect().await.expect("list");
        assert_eq!(listed.len(), 1);
        let left = fs::read_dir(folder.path().join("new/folder")).expect("folder").count();
        assert_eq!(left, 1, "staged files are removed");
    }

    #[tokio::test]
    async fn what_a_crash_left_half_written_goes_after_an_hour_and_nothing_else_does() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let table = folder.path().join("current/item");
        fs::create_dir_all(&table).expect("folders");
        let two_hours_ago = SystemTime::now() - Duration::from_secs(7_200);
        for (name, old) in [
            ("part-1.parquet#7", true),
            ("part-2.parquet#123", false),
            ("part-3.parquet", true),
            ("item#x", true),
            ("#", true),
        ] {
            let file = File::create(table.join(name)).expect("a file");
            if old {
                file.set_modified(two_hours_ago).expect("its time is set");
            }
        }
        assert_eq!(sweep(folder.path().to_owned()).await, 1);
        let mut left: Vec<_> =
            fs::read_dir(&table).expect("read").map(|it| it.expect("an entry").file_name()).collect();
        left.sort();
        assert_eq!(left, ["#", "item#x", "part-2.parquet#123", "part-3.parquet"]);
        assert!(is_staged(&staged(FsPath::new("/lake/0.json")).to_string_lossy()));
    }
}
