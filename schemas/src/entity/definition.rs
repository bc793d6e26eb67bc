//! The TOML of an entity: parsed, checked against the invariants of [`super`], with every fault naming file and field.

use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use arrow::compute::{CastOptions, cast_with_options};
use serde::Deserialize;

use super::reference::{self, ReferenceToml};
use super::{Action, Criticality, Entity, Field, FieldType, GroupRule, Kind, Merge, Rule};
use crate::SchemaError;

/// One line per definition; the order is the order of delivery, masters first.
macro_rules! embedded {
    ($($name:literal),* $(,)?) => {
        &[$((concat!("canonical/", $name, ".toml"), include_str!(concat!("../../canonical/", $name, ".toml")))),*]
    };
}

/// Every definition: file name and text.
pub(super) const EMBEDDED: &[(&str, &str)] = embedded![
    "uom",
    "calendar",
    "exchange_rate",
    "item",
    "item_identifier",
    "item_hierarchy",
    "item_hierarchy_member",
    "uom_conversion",
    "location",
    "location_identifier",
    "item_location",
    "supplier",
    "supplier_item",
    "customer",
    "price",
    "promotion",
    "inventory_balance",
    "inventory_movement",
    "sales_order",
    "sales_order_line",
    "demand_signal",
    "purchase_order",
    "purchase_order_line",
    "supplier_confirmation",
    "transfer_order",
    "transfer_order_line",
    "shipment",
    "forecast",
    "safety_stock",
    "replenishment_recommendation",
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EntityToml {
    entity: String,
    version: String,
    kind: Kind,
    criticality: Criticality,
    partition_fields: usize,
    doc: String,
    #[serde(rename = "field")]
    fields: Vec<FieldToml>,
    #[serde(rename = "rule", default)]
    rules: Vec<RuleToml>,
    #[serde(rename = "reference", default)]
    references: Vec<ReferenceToml>,
    #[serde(default)]
    group_fields: usize,
    #[serde(rename = "group_rule", default)]
    group_rules: Vec<GroupRuleToml>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupRuleToml {
    id: String,
    doc: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FieldToml {
    name: String,
    #[serde(rename = "type")]
    field_type: FieldType,
    #[serde(default)]
    key: bool,
    #[serde(default)]
    required: bool,
    #[serde(default)]
    merge: Merge,
    derived: Option<String>,
    #[serde(default)]
    stamp: bool,
    #[serde(default)]
    revision: bool,
    default: Option<String>,
    unit: Option<String>,
    #[serde(default)]
    values: Vec<String>,
    doc: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleToml {
    id: String,
    when: String,
    action: Action,
    doc: String,
}

/// Reads the definitions in their order and checks each by itself and against those before it.
pub(super) fn parse_all(definitions: &[(&str, &str)]) -> Result<Vec<Entity>, SchemaError> {
    let mut entities = Vec::with_capacity(definitions.len());
    for (file, text) in definitions {
        let entity = parse(file, text)?;
        reference::check(&entity, &entities)
            .map_err(|reason| SchemaError::Definition { file: (*file).to_owned(), reason })?;
        entities.push(entity);
    }
    Ok(entities)
}

/// Reads one definition and checks what can be seen in it alone.
fn parse(file: &str, text: &str) -> Result<Entity, SchemaError> {
    let fault = |reason: String| SchemaError::Definition { file: file.to_owned(), reason };
    let toml: EntityToml = toml::from_str(text).map_err(|error| fault(error.to_string()))?;
    let version = toml
        .version
        .split_once('.')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))
        .ok_or_else(|| fault(format!("version {:?} is not major.minor", toml.version)))?;
    let fields: Vec<Field> = toml.fields.into_iter().map(field).collect();
    let references = toml.references.into_iter().map(|reference| reference::read(reference, &fields));
    let references = references.collect::<Result<_, _>>().map_err(fault)?;
    let rules = toml
        .rules
        .into_iter()
        .map(|rule| Rule { id: rule.id, when: rule.when, action: rule.action, doc: rule.doc })
        .collect();
    let entity = Entity {
        name: toml.entity,
        version,
        kind: toml.kind,
        criticality: toml.criticality,
        partition_fields: toml.partition_fields,
        doc: toml.doc,
        fields,
        rules,
        references,
        group_fields: toml.group_fields,
        group_rules: toml.group_rules.into_iter().map(|rule| GroupRule { id: rule.id, doc: rule.doc }).collect(),
    };
    check(file, &entity).map_err(fault)?;
    Ok(entity)
}

fn field(toml: FieldToml) -> Field {
    Field {
        name: toml.name,
        field_type: toml.field_type,
        key: toml.key,
        required: toml.required || toml.key,
        merge: toml.merge,
        derived: toml.derived,
        stamp: toml.stamp,
        revision: toml.revision,
        default: toml.default,
        unit: toml.unit,
        values: toml.values,
        doc: toml.doc,
    }
}

fn check(file: &str, entity: &Entity) -> Result<(), String> {
    let name = &entity.name;
    if !is_snake_case(name) || !file.ends_with(&format!("/{name}.toml")) {
        return Err(format!("entity {name:?} is not the file's name in snake_case"));
    }
    let key_len = entity.key_len();
    if key_len == 0 {
        return Err("no field has key = true".into());
    }
    if entity.partition_fields == 0 || entity.partition_fields > key_len {
        return Err(format!("partition_fields is {}, must be 1 to {key_len}", entity.partition_fields));
    }
    let grouped = (1..key_len).contains(&entity.group_fields) && entity.kind != Kind::Summed;
    if grouped == entity.group_rules.is_empty() {
        return Err(format!(
            "group_fields is {}; rules over rows need 1 to {}, and no sums",
            entity.group_fields,
            key_len - 1
        ));
    }
    for (i, field) in entity.fields.iter().enumerate() {
        let checked = if field.key && i >= key_len {
            Err("key fields come first".into())
        } else if entity.fields[..i].iter().any(|other| other.name == field.name) {
            Err("is defined twice".into())
        } else {
            check_field(entity.kind, field)
        };
        checked.map_err(|reason: String| format!("field {}: {reason}", field.name))?;
    }
    for (i, rule) in entity.rules.iter().enumerate() {
        if entity.rules[..i].iter().any(|other| other.id == rule.id) {
            return Err(format!("rule {}: is defined twice; join the conditions with OR", rule.id));
        }
        if rule.when.trim().is_empty() || rule.doc.trim().is_empty() {
            return Err(format!("rule {}: when and doc must say something", rule.id));
        }
    }
    Ok(())
}

fn check_field(kind: Kind, field: &Field) -> Result<(), String> {
    let summable = matches!(field.field_type, FieldType::Quantity | FieldType::Money);
    if !is_snake_case(&field.name) {
        return Err("a name is snake_case".into());
    }
    if field.doc.trim().is_empty() {
        return Err("doc must say something".into());
    }
    if field.key && field.is_computed() {
        return Err("a key is mapped: neither derived nor a stamp nor a revision".into());
    }
    if field.default.is_some() && field.is_computed() {
        return Err("a derived field, stamp or revision is never mapped, so it has no default".into());
    }
    if field.merge == Merge::Sum && (kind != Kind::Summed || !summable) {
        return Err("merge = \"sum\" needs a summed entity and a quantity or money".into());
    }
    if field.stamp && field.field_type != FieldType::Instant {
        return Err("a stamp is an instant".into());
    }
    if field.revision && (kind != Kind::Summed || field.field_type != FieldType::Integer || field.required) {
        return Err("a revision is an integer of a summed entity, and not required".into());
    }
    if !field.values.is_empty() && field.field_type != FieldType::Code {
        return Err("only a code has values".into());
    }
    field.default.as_deref().map_or(Ok(()), |default| check_default(field, default))
}

/// A default must be a value of its field, read as a mapping's text would be.
fn check_default(field: &Field, default: &str) -> Result<(), String> {
    if !field.values.is_empty() && !field.values.iter().any(|value| value == default) {
        return Err(format!("default {default:?} is not one of its values: {}", field.values.join(", ")));
    }
    let text: ArrayRef = Arc::new(StringArray::from(vec![default]));
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(&text, &field.field_type.arrow(), &strict)
        .map_err(|error| format!("default {default:?} is not a value of its type: {error}"))?;
    Ok(())
}

fn is_snake_case(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
entity = "bin"
version = "1.0"
kind = "summed"
criticality = "critical"
partition_fields = 1
doc = "A bin."

[[field]]
name = "bin_id"
type = "string"
key = true
doc = "The bin."

[[field]]
name = "qty"
type = "quantity"
merge = "sum"
default = "0"
doc = "What lies in it."

[[field]]
name = "state"
type = "code"
default = "open"
values = ["open", "shut"]
doc = "Whether it takes more."

[[field]]
name = "as_of"
type = "instant"
stamp = true
doc = "When."

[[rule]]
id = "DQ_RANGE"
when = "qty < 0"
action = "warn"
doc = "Less than nothing."
"#;

    #[test]
    fn every_embedded_definition_is_sound() {
        let entities = parse_all(EMBEDDED).unwrap_or_else(|fault| panic!("{fault}"));
        for entity in &entities {
            assert!(entity.fields.iter().all(|field| field.key <= field.required), "{}", entity.name);
        }
        assert_eq!(entities.len(), 30);
    }

    #[test]
    fn a_broken_definition_is_refused_with_its_file_and_field() {
        assert!(parse("canonical/bin.toml", GOOD).is_ok());
        let broken = [
            ("version = \"1.0\"", "version = \"1\"", "version \"1\" is not major.minor"),
            ("entity = \"bin\"", "entity = \"box\"", "entity \"box\" is not the file's name"),
            ("key = true", "required = true", "no field has key = true"),
            ("partition_fields = 1", "partition_fields = 2", "partition_fields is 2, must be 1 to 1"),
            ("partition_fields = 1", "partition_fields = 0", "partition_fields is 0, must be 1 to 1"),
            ("kind = \"summed\"", "kind = \"plain\"", "field qty: merge = \"sum\" needs a summed entity"),
            ("type = \"quantity\"", "type = \"code\"", "field qty: merge = \"sum\" needs a summed entity"),
            ("default = \"0\"", "default = \"zero\"", "field qty: default \"zero\" is not a value of its type"),
            (
                "default = \"open\"",
                "default = \"ajar\"",
                "field state: default \"ajar\" is not one of its values: open, shut",
            ),
            ("type = \"code\"", "type = \"string\"", "field state: only a code has values"),
            ("type = \"instant\"", "type = \"date\"", "field as_of: a stamp is an instant"),
            ("stamp = true", "stamp = true\nkey = true", "field as_of: key fields come first"),
            ("key = true", "key = true\nderived = \"qty\"", "field bin_id: a key is mapped: neither derived"),
            (
                "stamp = true",
                "stamp = true\ndefault = \"0\"",
                "field as_of: a derived field, stamp or revision is never",
            ),
            ("stamp = true", "revision = true", "field as_of: a revision is an integer of a summed entity"),
            ("name = \"state\"", "name = \"qty\"", "field qty: is defined twice"),
            ("name = \"state\"", "name = \"The State\"", "field The State: a name is snake_case"),
            ("doc = \"When.\"", "doc = \"\"", "field as_of: doc must say something"),
            ("name = \"state\"", "name = \"state\"\nlength = 3", "unknown field `length`"),
            ("type = \"code\"", "type = \"colour\"", "unknown variant `colour`"),
            ("doc = \"Less than nothing.\"", "doc = \"\"", "rule DQ_RANGE: when and doc must say something"),
        ];
        for (good, bad, wanted) in broken {
            assert!(GOOD.contains(good), "{good}");
            let fault = parse("canonical/bin.toml", &GOOD.replacen(good, bad, 1)).expect_err(bad).to_string();
            assert!(fault.starts_with("canonical/bin.toml: "), "{fault}");
            assert!(fault.contains(wanted), "{bad}: wanted {wanted:?}, got {fault:?}");
        }
    }

    #[test]
    fn a_rule_defined_twice_is_refused() {
        let rule = &GOOD[GOOD.find("[[rule]]").expect("it has a rule")..];
        let fault = parse("canonical/bin.toml", &format!("{GOOD}{rule}")).expect_err("twice").to_string();
        assert!(fault.contains("rule DQ_RANGE: is defined twice"), "{fault}");
    }
}
