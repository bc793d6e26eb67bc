//! What a frame may hold and when it is cut, whichever reader cuts it.

use std::time::Duration;

/// A frame never holds more rows than this by more than one message. 12 Ki: the cost of a batch has long vanished there,
/// and one row costs the fold some 2 KB while its frame is folded.
pub(crate) const FRAME_ROWS_MAX: u32 = 12 << 10;
/// As [`FRAME_ROWS_MAX`], in bytes as received.
pub(crate) const FRAME_BYTES_MAX: usize = 3 << 19;
/// How long after a frame the next one is cut at the earliest, unless it is full: a frame costs whoever takes it the same whether one
/// row is in it or fifty, and a change that comes alone does not wait.
pub(crate) const FRAME_GAP: Duration = Duration::from_millis(5);
