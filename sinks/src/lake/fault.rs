//! From the errors of the object store, Parquet and Delta to [`SinkError`]: one place decides what waiting can heal.

use std::error::Error;
use std::io;

use deltalake_core::DeltaTableError;
use parquet::errors::ParquetError;

use crate::SinkError;

/// The first error of a type in a chain of causes.
fn cause<'e, T: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// The whole chain in one line, as the outermost error rarely says why.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let inner = error.to_string();
        if !text.contains(&inner) {
            text.push_str(": ");
            text.push_str(&inner);
        }
        next = error.source();
    }
    text
}

fn remedy(error: &(dyn Error + 'static)) -> Option<&'static str> {
    use object_store::Error as Store;
    match cause::<Store>(error) {
        Some(Store::PermissionDenied { .. } | Store::Unauthenticated { .. }) => {
            return Some("check the credentials; they need to list, read, write and delete under the lake's URL");
        }
        Some(Store::NotSupported { .. } | Store::NotImplemented { .. }) => {
            return Some("use a store that can do this");
        }
        Some(Store::NotFound { .. }) => {
            return Some(
                "check that the bucket exists, or the container; if a table's file was deleted, restore it, or delete the whole lake folder and replay",
            );
        }
        _ => {}
    }
    match cause::<io::Error>(error).map(io::Error::kind) {
        Some(io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
            Some("give the daemon's user write access to the lake's folder")
        }
        Some(io::ErrorKind::NotADirectory) => Some("the lake's URL must name a folder"),
        _ => None,
    }
}

/// Where a machine of a provider is told who it is. Nobody else asks there, so an error that names one of these says that
/// no credentials are set, in words that do not.
const IDENTITY: [&str; 3] = ["169.254.169.254", "169.254.170.2", "metadata.google.internal"];

fn fault(target: &str, doing: &str, error: &(dyn Error + 'static)) -> SinkError {
    let (target, mut reason) = (target.to_owned(), format!("{doing}: {}", chain(error)));
    if let Some(remedy) = remedy(error) {
        return SinkError::Refused { target, reason, remedy: remedy.to_owned() };
    }
    if IDENTITY.iter().any(|host| reason.contains(host)) {
        reason.push_str("; no credentials are set, so the identity of this machine was asked for");
    }
    SinkError::Unavailable { target, reason }
}

/// A failed request to the store.
pub(crate) fn store(target: &str, doing: &str, error: &object_store::Error) -> SinkError {
    fault(target, doing, error)
}

/// A failed read or write of a Parquet file: broken content is definite, the rest is the store's.
pub(crate) fn parquet(target: &str, doing: &str, error: &ParquetError) -> SinkError {
    match error {
        ParquetError::External(_) => fault(target, doing, error),
        _ => SinkError::Refused {
            target: target.to_owned(),
            reason: format!("{doing}: {}", chain(error)),
            remedy: "restore the file from a backup, or delete the table's folder and replay".to_owned(),
        },
    }
}

/// A failed operation on a table's log.
pub(super) fn delta(target: &str, doing: &str, error: &DeltaTableError) -> SinkError {
    fault(target, doing, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Class;

    #[test]
    fn a_refused_login_is_definite_and_a_lost_connection_is_not() {
        let denied =
            object_store::Error::PermissionDenied { path: "current/item".into(), source: "403 Forbidden".into() };
        let fault = delta("s3://lake", "commit", &DeltaTableError::ObjectStore { source: denied });
        assert_eq!(fault.class(), Class::Definite);
        assert!(fault.to_string().contains("403 Forbidden") && fault.to_string().contains("credentials"), "{fault}");
        let reset = object_store::Error::Generic { store: "S3", source: io::Error::other("connection reset").into() };
        assert_eq!(parquet("s3://lake", "read", &ParquetError::External(reset.into())).class(), Class::Transient);
    }

    #[test]
    fn a_machine_without_an_identity_is_told_that_no_credentials_are_set() {
        let asked =
            io::Error::other("error sending request for url (http://169.254.169.254/metadata/identity/oauth2/token)");
        let error = object_store::Error::Generic { store: "MicrosoftAzure", source: asked.into() };
        let fault = store("az://lake/erp", "create a probe", &error);
        assert_eq!(fault.class(), Class::Transient, "it may answer later");
        assert!(fault.to_string().contains("no credentials are set, so the identity of this machine"), "{fault}");
    }

    #[test]
    fn a_full_disk_waits_for_space_and_a_read_only_one_asks_for_help() {
        let generic =
            |kind: io::ErrorKind| object_store::Error::Generic { store: "file", source: io::Error::from(kind).into() };
        assert_eq!(store("file:///lake", "put", &generic(io::ErrorKind::StorageFull)).class(), Class::Transient);
        assert_eq!(store("file:///lake", "put", &generic(io::ErrorKind::ReadOnlyFilesystem)).class(), Class::Definite);
    }
}
