//! A refused row, as it is shown and as it is stored: what is said of it, and the encoded delta.

use serde::{Deserialize, Serialize};

/// A refused row as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RefusedRow {
    pub(crate) entity: String,
    /// The key's values, JSON.
    pub(crate) key: String,
    /// 32 hex digits.
    pub(crate) version: String,
    /// The target's word for the reason.
    pub(crate) code: String,
    /// The field at fault, where the target names one.
    pub(crate) field: Option<String>,
    /// True where the target says that a later attempt can succeed: it is sent again.
    pub(crate) retryable: bool,
    /// How often it was refused.
    pub(crate) attempts: u32,
    /// When it was refused first, milliseconds since 1970.
    pub(crate) since_ms: u64,
    /// True where an operator wants it to be sent again, whatever the target said.
    #[serde(default)]
    pub(crate) asked: bool,
    /// True where it was sent again for as long as rows are: it is no more, unless an operator wants it.
    #[serde(default)]
    pub(crate) expired: bool,
    /// False where it is too large to be kept: it is listed and cannot be sent again.
    #[serde(default = "kept")]
    pub(crate) kept: bool,
}

/// Rows of older versions say nothing of it; of those that were not kept the place is empty.
const fn kept() -> bool {
    true
}

/// Head and encoded row of a stored value.
pub(super) fn parse(value: &[u8]) -> Option<(RefusedRow, &[u8])> {
    let (length, rest) = value.split_first_chunk()?;
    let (head, row) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    Some((serde_json::from_slice(head).ok()?, row))
}

pub(super) fn compose(head: &RefusedRow, row: &[u8]) -> Vec<u8> {
    let head = serde_json::to_vec(head).expect("a head is plain data");
    let length = u32::try_from(head.len()).expect("a head is small");
    [&length.to_be_bytes(), head.as_slice(), row].concat()
}
