//! How far a lane is: by its batches, which every target counts, and by the version in it, where the target says one.
//!
//! As a note it is what the sink remembers over restarts: `epoch u32 . batch u64 . version 16 bytes`, big-endian, and
//! without the version where the target said none.

use std::fmt;

use syncline_schemas::ident::Version;

use super::contract::Watermark;
use crate::SinkError;

/// A place in a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Reached {
    pub(super) epoch: u32,
    pub(super) batch: u64,
    /// Rows up to it have arrived; none where the target does not say.
    pub(super) version: Option<Version>,
}

impl Reached {
    /// What a target says.
    ///
    /// # Errors
    /// [`SinkError::Schema`] for a version that is none.
    pub(super) fn read(watermark: &Watermark) -> Result<Self, SinkError> {
        let version = watermark.last_version.as_ref().map(|text| text.parse::<Version>()).transpose()?;
        Ok(Self { epoch: watermark.epoch, batch: watermark.last_batch, version })
    }

    /// True where this lacks something that the other has.
    pub(super) fn is_behind(&self, other: &Self) -> bool {
        let versions = self.version.zip(other.version);
        (self.epoch, self.batch) < (other.epoch, other.batch) || versions.is_some_and(|(ours, theirs)| ours < theirs)
    }

    pub(super) fn to_note(self) -> Vec<u8> {
        let mut note = self.epoch.to_be_bytes().to_vec();
        note.extend_from_slice(&self.batch.to_be_bytes());
        note.extend(self.version.iter().flat_map(|version| version.as_bytes()));
        note
    }

    pub(super) fn from_note(note: &[u8]) -> Option<Self> {
        let (epoch, rest) = note.split_first_chunk()?;
        let (batch, rest) = rest.split_first_chunk()?;
        let version = match rest {
            [] => None,
            rest => Some(Version::from_bytes(rest.try_into().ok()?)),
        };
        Some(Self { epoch: u32::from_be_bytes(*epoch), batch: u64::from_be_bytes(*batch), version })
    }
}

impl fmt::Display for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.batch, self.version) {
            (0, None) => f.write_str("the start"),
            (batch, None) => write!(f, "batch {batch} of epoch {}", self.epoch),
            (batch, Some(version)) => write!(f, "batch {batch} of epoch {} and version {version}", self.epoch),
        }
    }
}

#[cfg(test)]
mod tests {
    use syncline_schemas::ident::LogOffset;

    use super::*;

    #[test]
    fn a_note_reads_back_and_a_lane_that_lost_a_batch_or_a_version_is_behind() {
        let at = |batch, offset: Option<u64>| Reached {
            epoch: 7,
            batch,
            version: offset.map(|offset| Version::new(7, LogOffset(offset), 1)),
        };
        for reached in [at(5, Some(9)), at(u64::MAX, None), Reached::default()] {
            assert_eq!(Reached::from_note(&reached.to_note()), Some(reached));
        }
        assert_eq!(Reached::from_note(&[0; 11]), None);
        assert!(at(4, Some(9)).is_behind(&at(5, Some(9))));
        assert!(at(4, None).is_behind(&at(5, Some(9))), "batches count where no version is said");
        assert!(at(6, Some(8)).is_behind(&at(5, Some(9))), "a version cannot fall");
        assert!(!at(5, None).is_behind(&at(5, Some(9))) && !at(6, Some(9)).is_behind(&at(5, Some(9))));
    }
}
