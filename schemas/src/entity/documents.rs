//! What is derived from the entities for people and other programs: the JSON Schema of a PDX/1 record, the OpenAPI
//! and AsyncAPI descriptions of the contract and the documentation page.
//!
//! All are committed (`schemas/json/<entity>.schema.json`, `schemas/{openapi,asyncapi}.json`, `docs/entities.md`) so that a reader needs no build; a test
//! compares them with the definitions, and `UPDATE_GENERATED=1 cargo test -p syncline-schemas` writes them anew.
//!
//! The JSON is written by hand: two levels of known shape do not need a serializer, and the order of fields stays ours.

use std::fmt::Write as _;

pub use super::asyncapi::asyncapi;
use super::{Action, Criticality, Entity, Field, FieldType, Kind, Merge};
use crate::outputs::OUTPUTS;

/// Exact decimals travel as strings, so that no reader makes a float of them; the digits are those of `Decimal(28, s)`.
fn decimal_pattern(scale: usize) -> String {
    format!("^-?[0-9]{{1,{}}}(\\.[0-9]{{1,{scale}}})?$", 28 - scale)
}

/// The JSON Schema (2020-12) of one record of the entity in a PDX/1 batch: `op`, `key`, `version` and `data`.
///
/// An upsert carries `data`, a delete only its key. Fields that the schema does not know are to be ignored, since minor
/// versions add fields; therefore `additionalProperties` stays open.
#[must_use]
pub fn json_schema(entity: &Entity) -> String {
    let (keys, data) = entity.fields.split_at(entity.key_len());
    let mut out = String::new();
    let doc = quoted(&entity.doc);
    let title = quoted(&entity.schema_id());
    let _ = write!(
        out,
        r#"{{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "title": {title},
  "description": {doc},
  "type": "object",
  "required": ["op", "key", "version", "commit_ts"],
  "properties": {{
    "op": {{ "enum": ["upsert", "delete"] }},
    "version": {{ "type": "string", "pattern": "^[0-9a-f]{{32}}$", "description": "Text order is apply order." }},
    "commit_ts": {{ "type": "string", "format": "date-time", "description": "Commit at the source." }},
    "key": {},
    "data": {}
  }},
  "if": {{ "properties": {{ "op": {{ "const": "upsert" }} }} }},
  "then": {{ "required": ["data"] }}
}}
"#,
        object(keys),
        object(data),
    );
    out
}

fn object(fields: &[Field]) -> String {
    let required: Vec<String> = fields.iter().filter(|field| field.required).map(|field| quoted(&field.name)).collect();
    let properties: Vec<String> =
        fields.iter().map(|field| format!("        {}: {}", quoted(&field.name), property(field))).collect();
    format!(
        "{{\n      \"type\": \"object\",\n      \"required\": [{}],\n      \"properties\": {{\n{}\n      }}\n    }}",
        required.join(", "),
        properties.join(",\n"),
    )
}

fn property(field: &Field) -> String {
    let (base, rest) = match field.field_type {
        FieldType::String | FieldType::Code => ("string", String::new()),
        FieldType::Quantity | FieldType::UnitPrice => ("string", pattern(9)),
        FieldType::Money => ("string", pattern(6)),
        FieldType::Rate => ("string", pattern(12)),
        FieldType::Date => ("string", r#", "format": "date""#.to_owned()),
        FieldType::Instant => ("string", r#", "format": "date-time""#.to_owned()),
        FieldType::Boolean => ("boolean", String::new()),
        FieldType::Integer => ("integer", format!(r#", "minimum": {}, "maximum": {}"#, i32::MIN, i32::MAX)),
    };
    let kind = if field.required { quoted(base) } else { format!(r#"["{base}", "null"]"#) };
    let mut values: Vec<String> = field.values.iter().map(|value| quoted(value)).collect();
    if !field.required {
        values.push("null".to_owned());
    }
    let allowed = if field.values.is_empty() { String::new() } else { format!(r#", "enum": [{}]"#, values.join(", ")) };
    format!(r#"{{ "type": {kind}{rest}{allowed}, "description": {} }}"#, quoted(&meaning(field)))
}

fn pattern(scale: usize) -> String {
    format!(r#", "pattern": {}"#, quoted(&decimal_pattern(scale)))
}

/// The field's meaning with its unit.
fn meaning(field: &Field) -> String {
    match &field.unit {
        Some(unit) => format!("{} Unit: {unit}.", field.doc),
        None => field.doc.clone(),
    }
}

/// A JSON string.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The OpenAPI 3.1 description of PDX/1 for these entities. It refers to their JSON Schemas as files in the folder `json` beside it.
#[must_use]
pub fn openapi() -> String {
    let list = |item: fn(&Entity) -> String| super::all().iter().map(item).collect::<Vec<_>>().join(", ");
    include_str!("openapi.template.json")
        .replace("[FLOWS]", &format!("[{}]", list(|entity| quoted(&entity.name))))
        .replace(
            "[RECORDS]",
            &format!("[{}]", list(|entity| format!("{{ \"$ref\": \"json/{}.schema.json\" }}", entity.name))),
        )
        .replace("[OUTPUTS]", &format!("[{}]", OUTPUTS.map(quoted).join(", ")))
        .replace("[OUTPUT_ROWS]", &format!("[{}]", OUTPUTS.map(output_row).join(", ")))
}

/// A row of an output: all fields of its entity side by side.
fn output_row(output: &str) -> String {
    object(&super::get(output).expect("a test holds that every output is an entity").fields)
}

/// The documentation page of all entities, in Markdown.
#[must_use]
pub fn docs_table() -> String {
    let mut out = String::from(
        "# Canonical entities\n\n\
         Generated from `schemas/canonical/*.toml`; change it there.\n\n\
         Types: `quantity` and `unit_price` are Decimal(28,9), `money` Decimal(28,6), `rate` Decimal(28,12), `instant` \
         microseconds in UTC,\n`code` text from a small set. Every row also carries the system columns of `schemas/src/delta.rs`. \
         The JSON Schema of each is in `schemas/json/`.\n\n\
         A reference names fields that hold the key of another entity's row; where one of them is null or the last is empty, \
         there is none.\n\n\
         | entity | key | kind | flow |\n|---|---|---|---|\n",
    );
    for entity in super::all() {
        let keys: Vec<&str> = entity.fields[..entity.key_len()].iter().map(|field| field.name.as_str()).collect();
        let _ = writeln!(
            out,
            "| [{0}](#{0}) | {1} | {2} | {3} |",
            entity.name,
            keys.join(", "),
            kind(entity.kind),
            criticality(entity.criticality),
        );
    }
    for entity in super::all() {
        section(&mut out, entity);
    }
    out
}

fn section(out: &mut String, entity: &Entity) {
    let _ = write!(
        out,
        "\n## {}\n\n{} Schema `{}`; ordered by {}.\n\n| field | type | meaning |\n|---|---|---|\n",
        entity.name,
        entity.doc,
        entity.schema_id(),
        entity.fields[..entity.partition_fields].iter().map(|field| field.name.as_str()).collect::<Vec<_>>().join(", "),
    );
    for field in &entity.fields {
        let mark = match (field.key, field.required) {
            (true, _) => " (key)",
            (false, true) => "",
            (false, false) => "?",
        };
        let _ =
            writeln!(out, "| `{}` | {}{mark} | {} |", field.name, type_name(field.field_type), cell(&details(field)));
    }
    rules(out, entity);
    references(out, entity);
    group_rules(out, entity);
}

fn group_rules(out: &mut String, entity: &Entity) {
    if entity.group_rules.is_empty() {
        return;
    }
    let fields: Vec<&str> = entity.fields[..entity.group_fields].iter().map(|field| field.name.as_str()).collect();
    let _ = writeln!(out, "\n| rule over rows with the same {} | holds where |\n|---|---|", fields.join(", "));
    for rule in &entity.group_rules {
        let _ = writeln!(out, "| {} | {} |", rule.id, cell(&rule.doc));
    }
}

fn rules(out: &mut String, entity: &Entity) {
    if !entity.rules.is_empty() {
        out.push_str("\n| rule | violated where | then |\n|---|---|---|\n");
    }
    for rule in &entity.rules {
        let action = match rule.action {
            Action::Reject => "held",
            Action::Warn => "delivered with a warning",
        };
        let _ = writeln!(out, "| {} | `{}` | {action}: {} |", rule.id, cell(&rule.when), cell(&rule.doc));
    }
}

fn references(out: &mut String, entity: &Entity) {
    if !entity.references.is_empty() {
        out.push_str("\n| reference | fields | to |\n|---|---|---|\n");
    }
    for reference in &entity.references {
        let fields: Vec<&str> = reference.fields.iter().map(|&at| entity.fields[at].name.as_str()).collect();
        let _ = writeln!(
            out,
            "| {} | {} | [{2}](#{2}): {3} |",
            reference.id,
            fields.join(", "),
            reference.entity,
            cell(&reference.doc)
        );
    }
}

fn details(field: &Field) -> String {
    let mut out = meaning(field);
    if !field.values.is_empty() {
        let _ = write!(out, " One of `{}`.", field.values.join("`, `"));
    }
    if field.merge == Merge::Sum {
        out.push_str(" Summed over all contributions.");
    }
    if let Some(sql) = &field.derived {
        let _ = write!(out, " Derived: `{sql}`.");
    }
    if field.revision {
        out.push_str(" Counted by Syncline.");
    }
    if let Some(default) = &field.default {
        let shown = if default.is_empty() { "empty" } else { default };
        let _ = write!(out, " Default: {shown}.");
    }
    out
}

/// Text that fits one cell of a Markdown table.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Plain => "plain",
        Kind::Summed => "summed",
        Kind::Event => "event",
    }
}

fn criticality(criticality: Criticality) -> &'static str {
    match criticality {
        Criticality::Critical => "critical",
        Criticality::Noncritical => "noncritical",
    }
}

fn type_name(field_type: FieldType) -> &'static str {
    match field_type {
        FieldType::String => "string",
        FieldType::Code => "code",
        FieldType::Quantity => "quantity",
        FieldType::Money => "money",
        FieldType::UnitPrice => "unit_price",
        FieldType::Rate => "rate",
        FieldType::Date => "date",
        FieldType::Instant => "instant",
        FieldType::Boolean => "boolean",
        FieldType::Integer => "integer",
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    fn generated() -> Vec<(PathBuf, String)> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut files = vec![
            (root.join("../docs/entities.md"), docs_table()),
            (root.join("openapi.json"), openapi()),
            (root.join("asyncapi.json"), asyncapi()),
        ];
        for entity in super::super::all() {
            files.push((root.join(format!("json/{}.schema.json", entity.name)), json_schema(entity)));
        }
        files
    }

    #[test]
    fn generated_documents_are_current() {
        let update = std::env::var_os("UPDATE_GENERATED").is_some();
        for (path, wanted) in generated() {
            if update {
                std::fs::create_dir_all(path.parent().expect("it lies in a folder")).expect("make the folder");
                std::fs::write(&path, &wanted).expect("write the document");
            }
            let found = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(found == wanted, "{} is stale: run with UPDATE_GENERATED=1", path.display());
        }
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("json");
        let documents = std::fs::read_dir(folder).expect("the folder is committed").count();
        assert_eq!(documents, super::super::all().len(), "schemas/json holds a document of an entity that is gone");
    }

    #[test]
    fn json_strings_escape_what_json_forbids() {
        assert_eq!(quoted("a\"b\\c\nd\u{1}é"), "\"a\\\"b\\\\c\\nd\\u0001é\"");
    }
}
