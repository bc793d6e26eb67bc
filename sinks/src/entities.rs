//! Which entities a sink delivers: names or patterns with `*`, as in `entities = ["item", "sales_*"]`.

use syncline_schemas::entity::{self, Entity};

use crate::SinkError;

/// A checked list of entity patterns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntityPatterns {
    patterns: Vec<String>,
    /// Names that are left out whatever the patterns say.
    but: Vec<String>,
}

impl EntityPatterns {
    /// Checks that every pattern names at least one canonical entity.
    ///
    /// # Errors
    /// [`SinkError::Setting`] for an empty list and for a pattern that matches nothing, which is a typing error.
    pub fn new<P: Into<String>>(patterns: impl IntoIterator<Item = P>) -> Result<Self, SinkError> {
        let patterns: Vec<String> = patterns.into_iter().map(Into::into).collect();
        let fault = |reason| Err(SinkError::Setting { setting: "entities", reason });
        if patterns.is_empty() {
            return fault("is empty; name entities, or \"*\" for all".into());
        }
        for pattern in &patterns {
            if !entity::all().iter().any(|entity| matches(pattern, &entity.name)) {
                let known: Vec<&str> = entity::all().iter().map(|entity| entity.name.as_str()).collect();
                return fault(format!("{pattern:?} matches no entity; there are {}", known.join(", ")));
            }
        }
        Ok(Self { patterns, but: Vec::new() })
    }

    /// These entities and no other, also none at all.
    pub(crate) const fn exactly(names: Vec<String>) -> Self {
        Self { patterns: names, but: Vec::new() }
    }

    /// The same without some entities.
    pub(crate) fn without(&self, names: Vec<String>) -> Self {
        Self { patterns: self.patterns.clone(), but: [self.but.clone(), names].concat() }
    }

    /// Every entity.
    #[must_use]
    pub fn all() -> Self {
        Self { patterns: vec!["*".to_owned()], but: Vec::new() }
    }

    /// True where a pattern names the entity.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.patterns.iter().any(|pattern| matches(pattern, name)) && !self.but.iter().any(|but| but == name)
    }

    /// The entities named, masters before the facts that cite them.
    pub fn entities(&self) -> impl Iterator<Item = &'static Entity> + '_ {
        entity::all().iter().filter(|entity| self.contains(&entity.name))
    }

    /// Their names.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.entities().map(|entity| entity.name.clone()).collect()
    }
}

/// Matches `*` as any run of characters.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, tail)) => name
            .strip_prefix(head)
            .is_some_and(|rest| (0..=rest.len()).any(|at| rest.get(at..).is_some_and(|rest| matches(tail, rest)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_entity_is_refused_instead_of_never_delivered() {
        let error = EntityPatterns::new(["inventry_*"]).expect_err("no such entity").to_string();
        assert!(error.contains("inventry_*") && error.contains("inventory_balance"), "{error}");
        EntityPatterns::new(Vec::<String>::new()).expect_err("empty");
    }

    #[test]
    fn a_star_stands_for_any_run_of_characters() {
        let patterns = EntityPatterns::new(["inv*_bal*"]).expect("matches inventory_balance");
        assert!(patterns.contains("inventory_balance") && !patterns.contains("inventory_movement"));
        assert!(EntityPatterns::all().contains("item"));
        assert!(!matches("item", "item_identifier"));
    }
}
