//! Which edition of the mappings a state was computed with.
//!
//! State holds what mappings made of rows, so it is only good for the very mappings that made it. Their fingerprints are
//! kept beside it; a daemon that is started with others stops before it mixes two truths.

use xxhash_rust::xxh3::xxh3_64;

use super::catalog;
use crate::TransformError;
use crate::mapping::Mapping;
use crate::state::State;

/// One number for a set of mappings.
#[must_use]
pub fn fingerprint(mappings: &[Mapping]) -> u64 {
    let mut parts: Vec<(&str, u64)> = mappings.iter().map(|it| (it.name.as_str(), it.fingerprint)).collect();
    parts.sort_unstable();
    let parts = parts
        .into_iter()
        .flat_map(|(name, fingerprint)| [name.as_bytes().to_vec(), fingerprint.to_be_bytes().to_vec()]);
    xxh3_64(&parts.collect::<Vec<_>>().join(&0))
}

/// How a mapping differs from what the state was computed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappingChange {
    /// Its file; of one that was removed its name.
    pub mapping: String,
    /// `added`, `changed` or `removed`.
    pub how: &'static str,
}

/// How a set of mappings differs from those that the state was computed with.
///
/// # Errors
/// [`TransformError::State`] where the state cannot be read.
pub fn changes(mappings: &[Mapping], state: &dyn State) -> Result<Vec<MappingChange>, TransformError> {
    catalog::refuse_other_format(state, &mut Vec::new())?;
    let known = catalog::known_mappings(state)?;
    let mut changes = Vec::new();
    for mapping in mappings {
        let how = match known.get(&mapping.name) {
            None => "added",
            Some((_, fingerprint)) if *fingerprint != mapping.fingerprint => "changed",
            Some(_) => continue,
        };
        changes.push(MappingChange { mapping: mapping.file.clone(), how });
    }
    let removed = known.into_keys().filter(|name| mappings.iter().all(|mapping| mapping.name != *name));
    changes.extend(removed.map(|mapping| MappingChange { mapping, how: "removed" }));
    changes.sort_by(|one, other| one.mapping.cmp(&other.mapping));
    Ok(changes)
}

pub(super) fn refuse_changes(mappings: &[Mapping], state: &dyn State) -> Result<(), TransformError> {
    const REMEDY: &str = "the rows delivered so far were computed without this change; `syncline replay --dry-run` shows \
                          what it would change, `syncline replay` applies it, or undo it; after an upgrade it may be what its entity means";
    changes(mappings, state)?.into_iter().next().map_or(Ok(()), |MappingChange { mapping, how }| {
        Err(TransformError::MappingsChanged { mapping, reason: format!("was {how}: {REMEDY}") })
    })
}
