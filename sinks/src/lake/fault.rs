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
                "check that the bucket exists; if a table's file was deleted, restore it, or delete the whole lake folder and replay",
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

fn fault(target: &str, doing: &str, error: &(dyn Error + 'static)) -> SinkError {
    let (target, reason) = (target.to_owned(), format!("{doing}: {}", chain(error)));
    match remedy(error) {
        Some(remedy) => SinkError::Refused { target, reason, remedy: remedy.to_owned() },
        None => SinkError::Unavailable { target, reason },
    }
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
    fn a_full_disk_waits_for_space_and_a_read_only_one_asks_for_help() {
        let generic =
            |kind: io::ErrorKind| object_store::Error::Generic { store: "file", source: io::Error::from(kind).into() };
        assert_eq!(store("file:///lake", "put", &generic(io::ErrorKind::StorageFull)).class(), Class::Transient);
        assert_eq!(store("file:///lake", "put", &generic(io::ErrorKind::ReadOnlyFilesystem)).class(), Class::Definite);
    }
}
