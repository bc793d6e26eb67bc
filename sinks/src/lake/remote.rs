//! A store behind HTTP, with what its library leaves open closed.
//!
//! - Listings from an offset: Azure is asked for them by a parameter that some servers do not know (Azurite, appliances), and
//!   then list everything. A Delta log that is read on from its last checkpoint would begin with older versions.
//! - Deletes: what is not there is deleted, as with S3 and on disk. One that is sent again after a lost reply finds nothing.
//! - Errors: a SAS token is a part of the URL, which the library quotes where several files are deleted at once.
//! - `{:?}`: of some stores it shows their keys.
//!
//! A put that must create its name is left as the library does it. It sends one again after a reply that was lost or a 5xx,
//! so "already there" can mean ourselves: who creates looks at what is there before drawing a conclusion (`table`, `cut`).

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, future};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

/// A bucket or container.
pub(super) struct Remote {
    store: Arc<dyn ObjectStore>,
}

impl Remote {
    pub(super) fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store }
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Remote({})", self.store)
    }
}

fn deleted(done: Result<Path>) -> Result<Path> {
    match done {
        Err(Error::NotFound { path, .. }) => Ok(Path::parse(path)?),
        done => done.map_err(discreet),
    }
}

/// How the library quotes that a delete was refused. Of a batch it does not say so by kind, as of every other request.
const REFUSED: [&str; 2] = ["code: 403", "code: AccessDenied"];

/// The error without what stands behind the `?` of URLs in its text.
fn discreet(error: Error) -> Error {
    let Error::Generic { store, source } = error else { return error };
    let text = without_queries(&source.to_string());
    if REFUSED.iter().any(|code| text.contains(code)) {
        return Error::PermissionDenied { path: "what was to be deleted".to_owned(), source: text.into() };
    }
    Error::Generic { store, source: text.into() }
}

fn without_queries(text: &str) -> String {
    let words = text.split_inclusive(char::is_whitespace).map(|word| match word.split_once('?') {
        Some((place, query)) if place.contains("://") => {
            let end = &query[query.trim_end().len()..];
            format!("{place}?...{end}")
        }
        _ => word.to_owned(),
    });
    words.collect()
}

#[async_trait]
impl ObjectStore for Remote {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.store.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.store.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.store.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.store.delete_stream(locations).map(deleted).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let after = offset.clone();
        let listed = self.store.list_with_offset(prefix, offset);
        listed.try_filter(move |found| future::ready(found.location > after)).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.store.rename_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;
    use object_store::local::LocalFileSystem;

    use super::*;

    #[test]
    fn a_token_in_a_url_is_not_quoted_by_an_error() {
        let text = "Error performing POST https://a.net/lake?restype=container&sig=hunter2 in 1ms - 500: why? see (http://b/?x)";
        let error = discreet(Error::Generic { store: "MicrosoftAzure", source: text.into() });
        let text = error.to_string();
        assert!(text.contains("POST https://a.net/lake?... in 1ms - 500: why? see (http://b/?..."), "{text}");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }

    #[tokio::test]
    async fn a_delete_that_is_sent_again_finds_nothing_and_has_succeeded() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let strict = LocalFileSystem::new_with_prefix(folder.path()).expect("opens");
        let store = Remote::new(Arc::new(strict));
        let name = Path::from("a b");
        store.put(&name, "text".into()).await.expect("put");
        store.delete(&name).await.expect("deleted");
        store.delete(&name).await.expect("still deleted");
    }
}
