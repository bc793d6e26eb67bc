//! What a sink claims that its target holds: which entities it has delivered, and where to.
//!
//! It is kept beside the cursor, because a cursor says how far and not of what: with another url or with entities that were
//! left out so far, the same cursor would pass over rows that the target never got. A claim that does not hold is refused.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use syncline_schemas::ident::LogOffset;
use syncline_sinks::{Identity, Recalled, SinkError};

/// A claim, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claim {
    kind: String,
    /// Without secrets.
    target: String,
    /// Entities that are delivered.
    entities: BTreeSet<String>,
    /// Entities that a mapping fills: of every other there are no rows to miss.
    mapped: BTreeSet<String>,
}

impl Claim {
    pub(super) fn new(identity: Identity, mapped: &BTreeSet<String>) -> Self {
        let Identity { kind, target, entities } = identity;
        Self { kind: kind.to_owned(), target, entities: entities.into_iter().collect(), mapped: mapped.clone() }
    }

    /// Refuses a sink that is not the continuation of this one, which has delivered rows up to `delivered`. Gives the
    /// entities that are new and whose rows went by without it, where they can be loaded.
    ///
    /// # Errors
    /// [`SinkError::Refused`] with what has changed.
    pub(super) fn continues(
        &self,
        now: &Self,
        sink: &str,
        recalled: Recalled,
        delivered: LogOffset,
        loads: bool,
    ) -> Result<Vec<String>, SinkError> {
        let refused = |reason: String, remedy: &str| {
            Err(SinkError::Refused { target: format!("sink {sink}"), reason, remedy: remedy.to_owned() })
        };
        let holds = matches!(recalled, Recalled::Everything | Recalled::Upto(_));
        // Of one kind to the other it cannot be told whether all is there: notes of an earlier time would vouch for it.
        if self.kind != now.kind || (self.target != now.target && !holds) {
            return refused(
                format!(
                    "rows up to {delivered} went to {} {}, which {} {} does not hold",
                    self.kind, self.target, now.kind, now.target
                ),
                "set type and url back, or move the target with everything in it, or start over with an empty data_dir",
            );
        }
        let missing: Vec<&str> = now
            .entities
            .difference(&self.entities)
            .filter(|it| self.mapped.contains(*it))
            .map(String::as_str)
            .collect();
        if !missing.is_empty() && !loads {
            return refused(
                format!(
                    "entities now takes {} along, whose rows up to {delivered} went by without it",
                    missing.join(", ")
                ),
                "leave them out again, or start over with an empty data_dir and empty targets",
            );
        }
        if recalled == Recalled::Nothing {
            return refused(
                format!("its target {} is empty, but rows up to {delivered} were delivered to it", self.target),
                "restore the target, or start over with an empty data_dir",
            );
        }
        Ok(missing.into_iter().map(str::to_owned).collect())
    }

    /// Every entity of which there can be rows.
    pub(super) fn mapped(&self) -> Vec<String> {
        self.entities.intersection(&self.mapped).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(kind: &'static str, target: &str, entities: &[&str], mapped: &[&str]) -> Claim {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let identity = Identity { kind, target: target.to_owned(), entities: names(entities) };
        Claim::new(identity, &names(mapped).into_iter().collect())
    }

    #[test]
    fn only_what_holds_the_same_rows_goes_on_with_a_cursor() {
        let was = claim("lake", "file:///a", &["item", "supplier"], &["item", "location"]);
        let judge = |now: &Claim, recalled| {
            was.continues(now, "lake", recalled, LogOffset(7), false).map_err(|error| error.to_string()).err()
        };
        let here = Recalled::Upto(LogOffset(7));
        assert_eq!(judge(&was, here), None);
        assert_eq!(judge(&was, Recalled::Unknown), None);
        assert!(judge(&was, Recalled::Nothing).is_some_and(|why| why.contains("file:///a is empty, but rows up to 7")));

        let moved = claim("lake", "file:///b", &["item"], &["item", "location"]);
        assert_eq!(judge(&moved, here), None, "fewer entities, and a target that was moved with its rows");
        assert!(judge(&moved, Recalled::Unknown).is_some_and(|why| why.contains("file:///b does not hold")));
        let other = claim("planning", "http://a", &["item"], &["item"]);
        assert!(judge(&other, Recalled::Everything).is_some_and(|why| why.contains("which planning http://a")));

        let wider = claim("lake", "file:///a", &["item", "location"], &["item", "location"]);
        assert!(judge(&wider, here).is_some_and(|why| why.contains("takes location along")));
        let newer = claim("lake", "file:///a", &["item", "kit"], &["item", "kit"]);
        assert_eq!(judge(&newer, here), None, "all rows of an entity that was not mapped so far come from here on");
    }
}
