//! What a frame may hold, whichever reader cuts it.

/// A frame never holds more rows than this by more than one message. 12 Ki: the cost of a batch has long vanished there,
/// and one row costs the fold some 2 KB while its frame is folded.
pub(crate) const FRAME_ROWS_MAX: u32 = 12 << 10;
/// As [`FRAME_ROWS_MAX`], in bytes as received.
pub(crate) const FRAME_BYTES_MAX: usize = 3 << 19;
