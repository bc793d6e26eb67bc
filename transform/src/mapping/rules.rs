//! What a mapping does about a quality rule, where that is not what its entity says.
//!
//! ```sql
//! -- @rule DQ_REF_ITEM = warn
//! -- @rule DQ_OVERFLOW = fix
//! SELECT ...
//! ```
//!
//! It stands in the mapping, because it belongs to what the rows were computed with: the fold of one log gives one outbox.

use std::collections::BTreeMap;

use syncline_schemas::entity::{self, Entity, Kind};

use crate::error::{MappingFault, Place};

/// Faults of single values, which every mapping can have.
const VALUE_RULES: [&str; 7] =
    ["DQ_ABSENT", "DQ_EXPRESSION", "DQ_OVERFLOW", "DQ_REQUIRED", "DQ_DOMAIN", "DQ_JOIN_AMBIGUOUS", "DQ_RANGE"];
/// Those that leave a value behind which can be put into a field: none, or the field's default.
const FIXABLE: [&str; 3] = ["DQ_OVERFLOW", "DQ_DOMAIN", "DQ_RANGE"];
const MARK: &str = "@rule";

/// What happens to a row that breaks a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// It is held: the last good contribution stays.
    Reject,
    /// It is held until the row that it cites is there.
    Park,
    /// It is delivered and counted.
    Warn,
    /// It is delivered.
    Ignore,
    /// The field is left empty, or takes its default; the row is delivered and counted.
    Fix,
    /// The transform stops.
    Halt,
}

/// What a mapping says of rules, by their ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rules(BTreeMap<String, Action>);

impl Rules {
    /// Reads the `@rule` comments of a mapping's text.
    pub(crate) fn parse(file: &str, text: &str, entity: &Entity) -> Result<Self, MappingFault> {
        let mut rules = BTreeMap::new();
        for (line, content) in text.lines().enumerate() {
            let Some(rule) = content.trim().strip_prefix("--").and_then(|it| it.trim().strip_prefix(MARK)) else {
                continue;
            };
            let column = content.find(MARK).unwrap_or_default();
            let fault = |reason: String| {
                let (line, column) = (line as u64 + 1, column as u64 + 1);
                MappingFault { place: Place { file: file.to_owned(), line, column }, reason }
            };
            let (id, action) = rule
                .split_once('=')
                .map(|(id, action)| (id.trim(), action.trim()))
                .ok_or_else(|| fault("write -- @rule ID = ACTION, as in -- @rule DQ_REF_ITEM = warn".to_owned()))?;
            let action = read(id, action, entity).map_err(fault)?;
            if rules.insert(id.to_owned(), action).is_some() {
                return Err(fault(format!("{id} is set twice")));
            }
        }
        Ok(Self(rules))
    }

    /// What the mapping says of a rule; none where the entity's own word holds.
    pub(crate) fn of(&self, id: &str) -> Option<Action> {
        self.0.get(id).copied()
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

fn read(id: &str, word: &str, entity: &Entity) -> Result<Action, String> {
    let is_reference = entity.references.iter().any(|reference| reference.id == id);
    let is_own = entity.rules.iter().any(|rule| rule.id == id);
    let is_value = VALUE_RULES.contains(&id);
    if !(is_reference || is_own || is_value) {
        let own = entity.rules.iter().map(|rule| rule.id.as_str());
        let mut known: Vec<&str> =
            own.chain(entity.references.iter().map(|it| it.id.as_str())).chain(VALUE_RULES).collect();
        known.sort_unstable();
        known.dedup();
        return Err(format!("{} has no rule {id:?}; there are {}", entity.name, known.join(", ")));
    }
    if is_own && !is_value && entity.kind == Kind::Summed {
        return Err(format!("{id} looks at the sum, to which other mappings may add; no single one can change it"));
    }
    let mut allowed: Vec<(&str, Action)> = Vec::new();
    if is_reference {
        allowed.extend([("park", Action::Park), ("warn", Action::Warn), ("ignore", Action::Ignore)]);
    } else {
        allowed.push(("reject", Action::Reject));
        if is_own && entity.kind != Kind::Summed {
            allowed.extend([("warn", Action::Warn), ("ignore", Action::Ignore)]);
        }
        if FIXABLE.contains(&id) {
            allowed.push(("fix", Action::Fix));
        }
    }
    allowed.push(("halt", Action::Halt));
    let found = allowed.iter().find(|(known, _)| *known == word).map(|(_, action)| *action);
    found.ok_or_else(|| {
        let words: Vec<&str> = allowed.iter().map(|(word, _)| *word).collect();
        format!("{id} cannot be {word:?}; write {}", words.join(", "))
    })
}

/// Rules of an entity that some mapping has its own word for: those are counted where the mapping is. Those of sums are not
/// for one mapping to change.
pub(crate) fn overridden<'m>(entity: &Entity, rules: impl Iterator<Item = (&'m Entity, &'m Rules)>) -> Vec<String> {
    if entity.kind == Kind::Summed {
        return Vec::new();
    }
    let of_entity = rules.filter(|(other, _)| other.name == entity.name);
    of_entity.flat_map(|(_, rules)| rules.ids().map(str::to_owned)).collect()
}

impl From<entity::Action> for Action {
    fn from(action: entity::Action) -> Self {
        match action {
            entity::Action::Reject => Self::Reject,
            entity::Action::Warn => Self::Warn,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(entity: &str, text: &str) -> Result<Rules, String> {
        let entity = entity::get(entity).expect("known");
        Rules::parse("mappings/erp/x.sql", text, entity).map_err(|fault| fault.to_string())
    }

    #[test]
    fn a_mapping_says_what_becomes_of_a_rule() {
        let rules = parse("sales_order_line", "-- @rule DQ_REF_ITEM = warn\n  --  @rule DQ_OVERFLOW=fix\nSELECT 1")
            .expect("reads");
        assert_eq!(rules.of("DQ_REF_ITEM"), Some(Action::Warn));
        assert_eq!(rules.of("DQ_OVERFLOW"), Some(Action::Fix));
        assert_eq!(rules.of("DQ_REF_LOCATION"), None);
    }

    #[test]
    fn a_mistyped_rule_is_refused_with_its_place() {
        for (entity, text, wanted) in [
            (
                "item",
                "SELECT 1\n-- @rule DQ_RANGES = warn",
                "mappings/erp/x.sql:2:4: item has no rule \"DQ_RANGES\"; there are DQ_ABSENT",
            ),
            ("item", "-- @rule DQ_RANGE", "mappings/erp/x.sql:1:4: write -- @rule ID = ACTION"),
            (
                "sales_order_line",
                "-- @rule DQ_REF_ITEM = reject",
                "DQ_REF_ITEM cannot be \"reject\"; write park, warn, ignore, halt",
            ),
            ("item", "-- @rule DQ_REQUIRED = fix", "DQ_REQUIRED cannot be \"fix\"; write reject, halt"),
            (
                "item",
                "-- @rule DQ_RANGE = warn\n-- @rule DQ_RANGE = warn",
                "mappings/erp/x.sql:2:4: DQ_RANGE is set twice",
            ),
            ("inventory_balance", "-- @rule DQ_NEGATIVE_ONHAND = ignore", "DQ_NEGATIVE_ONHAND looks at the sum"),
        ] {
            let fault = parse(entity, text).expect_err(text);
            assert!(fault.contains(wanted), "{fault}");
        }
    }
}
