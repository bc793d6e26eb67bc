//! The place of a lake: one object store for all its tables, opened by URL and tried before it is trusted.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use deltalake_core::logstore::{LogStoreRef, StorageConfig, default_logstore};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use tokio::sync::RwLock;
use tracing::info;
use url::Url;
use uuid::Uuid;

use super::config::StoreOptions;
use super::durable::{self, DurableLocal};
use super::remote::Remote;
use super::{cloud, fault};
use crate::SinkError;

/// Held for reading by whoever reads files that a newer version may have replaced, and for writing by who removes those.
pub(super) type Readers = Arc<RwLock<()>>;

/// An opened lake; clones are the same lake.
#[derive(Clone)]
pub(crate) struct Place {
    url: Url,
    root: Arc<dyn ObjectStore>,
    folder: Path,
    readers: Readers,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Place({})", self.url)
    }
}

impl Place {
    /// Opens the store of a URL; nothing is contacted yet.
    ///
    /// # Errors
    /// [`SinkError::Setting`] for a URL that is not a lake's place, and for settings that cannot be used with it.
    pub(crate) fn open(url: &Url, options: &StoreOptions) -> Result<Self, SinkError> {
        let setting = |reason: String| SinkError::Setting { setting: "url", reason };
        // First, as every later message shows the URL.
        let user_allowed = url.scheme() == "abfss";
        if url.password().is_some() || !(user_allowed || url.username().is_empty()) {
            return Err(setting("holds credentials; they have settings of their own".to_owned()));
        }
        if url.query().is_some() || url.fragment().is_some() {
            let reason = "holds ? or #, which in a name are written %3F and %23; a SAS token is set as sas_token";
            return Err(setting(reason.to_owned()));
        }
        let url = folder_url(url);
        if !matches!(url.scheme(), "file" | "s3" | "az" | "abfss" | "gs") {
            return Err(setting(format!(
                "{url} has the scheme {:?}; a lake lies under file://, s3://, az://, abfss:// or gs://",
                url.scheme()
            )));
        }
        options.check(url.scheme())?;
        let root: Arc<dyn ObjectStore> = match url.scheme() {
            "file" => Arc::new(DurableLocal::new()),
            _ => Arc::new(Remote::new(cloud::open(&url, options)?)),
        };
        let folder = Path::from_url_path(url.path()).map_err(|error| setting(format!("{url}: {error}")))?;
        Ok(Self { url, root, folder, readers: Readers::default() })
    }

    /// The lake's URL, for messages.
    pub(crate) fn target(&self) -> &str {
        self.url.as_str()
    }

    /// The URL of something below the lake.
    pub(super) fn url_of(&self, below: &str) -> Url {
        self.url.join(below).expect("names of entities are URL paths")
    }

    /// The lake's own files.
    pub(crate) fn files(&self) -> Arc<dyn ObjectStore> {
        self.below("")
    }

    pub(super) fn readers(&self) -> Readers {
        Arc::clone(&self.readers)
    }

    /// The files below a path.
    pub(super) fn below(&self, path: &str) -> Arc<dyn ObjectStore> {
        let folder = path.split('/').filter(|part| !part.is_empty()).fold(self.folder.clone(), Path::join);
        Arc::new(PrefixStore::new(Arc::clone(&self.root), folder))
    }

    /// The log of the table at a path below the lake.
    pub(super) fn log_store(&self, path: &str) -> LogStoreRef {
        default_logstore(
            self.below(path),
            Arc::clone(&self.root),
            &self.url_of(&format!("{path}/")),
            &StorageConfig::default(),
        )
    }

    /// Removes what earlier processes left half written in a local folder. A bucket has a lifecycle rule for that.
    pub(crate) async fn sweep(&self) {
        if let Some(folder) = self.local() {
            let files = durable::sweep(folder).await;
            if files > 0 {
                info!(lake = %self.url, files, "removed half-written files of an earlier crash");
            }
        }
    }

    /// The folder of a lake that is one.
    fn local(&self) -> Option<PathBuf> {
        if self.url.scheme() == "file" { self.url.to_file_path().ok() } else { None }
    }

    /// Removes a local folder that is empty; a bucket has none. One that is not, or cannot be removed, does no harm.
    pub(super) async fn remove_empty(&self, folder: &Path) {
        let Some(root) = self.local() else { return };
        let folder = root.join(folder.as_ref());
        let _ = tokio::task::spawn_blocking(move || std::fs::remove_dir(folder)).await;
    }

    /// Tries what exactly-once stands on: of two puts that must create one name, the second has to fail.
    ///
    /// Some servers accept the header that asks for it and ignore it; two writers would then overwrite each other's commits.
    pub(crate) async fn try_conditional_put(&self) -> Result<(), SinkError> {
        let files = self.files();
        let name = Path::from(format!("_syncline/probe-{}", Uuid::new_v4()));
        let create = |text: &'static str| {
            files.put_opts(&name, PutPayload::from_static(text.as_bytes()), PutMode::Create.into())
        };
        create("first").await.map_err(|error| fault::store(self.target(), "create a probe", &error))?;
        let second = create("second").await;
        files.delete(&name).await.map_err(|error| fault::store(self.target(), "delete a probe", &error))?;
        match second {
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(()),
            Err(error) => Err(fault::store(self.target(), "create a probe again", &error)),
            Ok(_) => Err(self.careless()),
        }
    }

    fn careless(&self) -> SinkError {
        let (header, remedy) = match self.url.scheme() {
            "gs" => (
                "x-goog-if-generation-match",
                "use Google Cloud Storage itself: what answers at the endpoint, as an emulator, lacks conditional writes",
            ),
            "az" | "abfss" => (
                "If-None-Match",
                "use Azure Blob storage itself, or Azurite: what answers at the endpoint lacks conditional writes",
            ),
            _ => (
                "If-None-Match",
                "use a store with conditional writes (AWS S3, MinIO from 2024-08, Ceph from Squid), or switch them on",
            ),
        };
        SinkError::Refused {
            target: self.target().to_owned(),
            reason: format!("the store ignores {header}: it let a second writer replace what must be created once"),
            remedy: remedy.to_owned(),
        }
    }
}

/// A URL to which table paths can be joined.
fn folder_url(url: &Url) -> Url {
    let mut url = url.clone();
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    url
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use async_trait::async_trait;
    use futures::stream::BoxStream;
    use object_store::memory::InMemory;
    use object_store::{
        CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, PutMultipartOptions, PutOptions,
        PutResult, Result,
    };

    use super::*;
    use crate::Class;

    /// A store that takes every put for an overwrite, as some S3 servers do.
    #[derive(Debug)]
    struct Careless(InMemory);

    impl fmt::Display for Careless {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("careless")
        }
    }

    #[async_trait]
    impl ObjectStore for Careless {
        async fn put_opts(&self, location: &Path, payload: PutPayload, _: PutOptions) -> Result<PutResult> {
            self.0.put(location, payload).await
        }

        async fn put_multipart_opts(&self, at: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
            self.0.put_multipart_opts(at, opts).await
        }

        async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
            self.0.get_opts(location, options).await
        }

        fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
            self.0.delete_stream(locations)
        }

        fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
            self.0.list(prefix)
        }

        async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
            self.0.list_with_delimiter(prefix).await
        }

        async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
            self.0.copy_opts(from, to, options).await
        }
    }

    fn place(scheme: &str, root: Arc<dyn ObjectStore>) -> Place {
        let url = Url::parse(&format!("{scheme}://bucket/lake/")).expect("a URL");
        Place { url, root, folder: Path::from("lake"), readers: Readers::default() }
    }

    #[tokio::test]
    async fn a_store_that_would_let_two_writers_overwrite_each_other_is_refused() {
        let wanted = [
            ("s3", "If-None-Match", "MinIO"),
            ("az", "If-None-Match", "Azurite"),
            ("gs", "x-goog-if-generation-match", "Google Cloud Storage itself"),
        ];
        for (scheme, header, remedy) in wanted {
            let careless = place(scheme, Arc::new(Careless(InMemory::new())));
            let error = careless.try_conditional_put().await.expect_err("careless");
            assert_eq!(error.class(), Class::Definite);
            let text = error.to_string();
            assert!(text.contains(header) && text.contains(remedy) && text.contains("://bucket/lake"), "{text}");
        }
        place("s3", Arc::new(InMemory::new())).try_conditional_put().await.expect("a store that keeps its word");
    }
}
