//! What can be wrong with a definition or with bytes that claim to be ours.

use thiserror::Error;

/// A fault in a definition, a row or its bytes; always names the place.
#[derive(Debug, Error)]
pub enum SchemaError {
    /// An entity definition file does not say what it must.
    #[error("{file}: {reason}")]
    Definition {
        /// The definition file, as in `canonical/item.toml`.
        file: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// Bytes do not decode: they are cut short or of another format.
    #[error("{what} does not decode at byte {at}: {reason}")]
    Malformed {
        /// What the bytes were taken for.
        what: &'static str,
        /// Where in the bytes it stopped making sense.
        at: usize,
        /// Why.
        reason: String,
    },
    /// A column has a type that rows and keys cannot hold.
    #[error("{what} cannot hold the type {data_type}")]
    UnsupportedType {
        /// `a key` or `a row`.
        what: &'static str,
        /// The Arrow type.
        data_type: String,
    },
    /// Arrow refused a batch.
    #[error("arrow: {0}")]
    Arrow(#[from] arrow::error::ArrowError),
}
