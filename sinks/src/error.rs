//! What can keep a sink from delivering.

use syncline_schemas::SchemaError;
use thiserror::Error;

/// A failed delivery; says which target, what happened and, where waiting does not help, what does.
#[derive(Debug, Error)]
pub enum SinkError {
    /// The target cannot be reached, is overloaded or failed inside; the same write can succeed later.
    #[error("{target}: {reason}")]
    Unavailable {
        /// The target, as a URL without secrets.
        target: String,
        /// What was tried and what came back.
        reason: String,
    },
    /// The target understood and refused, or is not what it should be; the same write fails again.
    #[error("{target}: {reason}; {remedy}")]
    Refused {
        /// The target, as a URL without secrets.
        target: String,
        /// What was tried and what came back.
        reason: String,
        /// What an operator should do.
        remedy: String,
    },
    /// The outbox cannot give what it should hold.
    #[error("outbox: {reason}")]
    Outbox {
        /// Which offsets were asked for and what is wrong with them.
        reason: String,
    },
    /// Deltas are not shaped as their entity says.
    #[error("entity {entity}: {reason}")]
    Shape {
        /// The entity named by the deltas.
        entity: String,
        /// Wanted and found.
        reason: String,
    },
    /// A setting cannot be used.
    #[error("{setting}: {reason}")]
    Setting {
        /// The setting's name, as in `entities`.
        setting: &'static str,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// Local files failed: scratch space or a receiver's database.
    #[error("{place}: {reason}")]
    Local {
        /// The file or address.
        place: String,
        /// What was tried and what came back.
        reason: String,
    },
    /// Rows do not encode or decode.
    #[error(transparent)]
    Schema(#[from] SchemaError),
}

/// What to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Write the span again, after a pause.
    Transient,
    /// Stop this sink and tell an operator; no other sink is concerned.
    Definite,
}

impl SinkError {
    /// What to do about it.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::Unavailable { .. } => Class::Transient,
            // A full scratch disk is emptied by somebody, and then work goes on by itself.
            Self::Local { .. } => Class::Transient,
            Self::Refused { .. }
            | Self::Outbox { .. }
            | Self::Shape { .. }
            | Self::Setting { .. }
            | Self::Schema(_) => Class::Definite,
        }
    }
}

impl From<arrow::error::ArrowError> for SinkError {
    fn from(error: arrow::error::ArrowError) -> Self {
        Self::Schema(SchemaError::Arrow(error))
    }
}
