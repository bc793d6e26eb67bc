//! The TOML of an entity: parsed, checked against the invariants of [`super`], with every fault naming file and field.

use serde::Deserialize;

use super::{Action, Criticality, Entity, Field, FieldType, Kind, Merge, Rule};
use crate::SchemaError;

/// One line per definition; the order is the order of delivery, masters first.
macro_rules! embedded {
    ($($name:literal),* $(,)?) => {
        &[$((concat!("canonical/", $name, ".toml"), include_str!(concat!("../../canonical/", $name, ".toml")))),*]
    };
}

/// Every definition: file name and text.
pub(super) const EMBEDDED: &[(&str, &str)] = embedded!["inventory_balance",];

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

/// Reads and checks one definition.
pub(super) fn parse(file: &str, text: &str) -> Result<Entity, SchemaError> {
    let fault = |reason: String| SchemaError::Definition { file: file.to_owned(), reason };
    let toml: EntityToml = toml::from_str(text).map_err(|error| fault(error.to_string()))?;
    let version = toml
        .version
        .split_once('.')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))
        .ok_or_else(|| fault(format!("version {:?} is not major.minor", toml.version)))?;
    let fields = toml.fields.into_iter().map(field).collect();
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
    };
    check(&entity).map_err(fault)?;
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
        default: toml.default,
        unit: toml.unit,
        values: toml.values,
        doc: toml.doc,
    }
}

fn check(entity: &Entity) -> Result<(), String> {
    let key_len = entity.key_len();
    if key_len == 0 {
        return Err("no field has key = true".into());
    }
    if entity.partition_fields == 0 || entity.partition_fields > key_len {
        return Err(format!("partition_fields is {}, must be 1 to {key_len}", entity.partition_fields));
    }
    for (i, field) in entity.fields.iter().enumerate() {
        let name = &field.name;
        let numeric = matches!(field.field_type, FieldType::Quantity | FieldType::Money);
        if field.key && i >= key_len {
            return Err(format!("field {name}: key fields come first"));
        }
        if field.key && (field.derived.is_some() || field.stamp) {
            return Err(format!("field {name}: a key can be neither derived nor a stamp"));
        }
        if field.merge == Merge::Sum && (entity.kind != Kind::Summed || !numeric) {
            return Err(format!("field {name}: merge = \"sum\" needs a summed entity and a quantity or money"));
        }
        if field.stamp && field.field_type != FieldType::Instant {
            return Err(format!("field {name}: a stamp is an instant"));
        }
        if !field.values.is_empty() && field.field_type != FieldType::Code {
            return Err(format!("field {name}: only a code has values"));
        }
        if entity.fields[..i].iter().any(|other| other.name == *name) {
            return Err(format!("field {name} is defined twice"));
        }
    }
    Ok(())
}
