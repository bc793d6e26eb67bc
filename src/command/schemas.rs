//! `syncline schemas`: the contract as files for whoever builds a receiver, and what has become of it since.
//!
//! Minor versions only add: a consumer ignores fields that it does not know. Everything that could make an older consumer
//! misread a row (a field that is gone, of another type, newly nullable or with fewer values, another key) needs a new major version.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

use serde_json::Value;
use syncline_schemas::entity::{self, documents};

use super::CommandError;
use crate::cli::{ContractFormat, SchemasArgs, SchemasCommand};

/// The folder of JSON Schemas, as the OpenAPI description refers to it.
const FOLDER: &str = "json";
const ENDING: &str = ".schema.json";

/// Writes the contract, or compares it with an older one.
pub(crate) fn run(args: &SchemasArgs) -> Result<(), CommandError> {
    match &args.command {
        SchemasCommand::Export { format, dir } => {
            let files = export(dir, *format).map_err(|error| named(dir, &error))?;
            println!("wrote {} and {} schemas to {}", files.join(", "), entity::all().len(), dir.display());
            Ok(())
        }
        SchemasCommand::Check { against } => {
            let older = read(against).map_err(|error| named(against, &error))?;
            if older.is_empty() {
                let reason =
                    format!("{}: no *{ENDING} in it; give a folder that `schemas export` wrote", against.display());
                return Err(CommandError::Usage(reason));
            }
            let newer = entity::all().iter().map(|entity| (entity.name.clone(), documents::json_schema(entity)));
            let newer: BTreeMap<String, Value> =
                newer.map(|(name, text)| Ok((name, serde_json::from_str(&text)?))).collect::<io::Result<_>>()?;
            let faults = compare(&older, &newer);
            if faults.is_empty() {
                println!("{} schemas: whoever reads the older ones can read these", older.len());
                return Ok(());
            }
            Err(CommandError::Unfit(faults.join("\n")))
        }
    }
}

fn named(path: &Path, error: &io::Error) -> CommandError {
    CommandError::Usage(format!("{}: {error}", path.display()))
}

/// Writes one description or both; gives their names.
fn export(dir: &Path, format: Option<ContractFormat>) -> io::Result<Vec<&'static str>> {
    let mut files = Vec::new();
    fs::create_dir_all(dir.join(FOLDER))?;
    let descriptions: [(_, _, fn() -> String); 2] = [
        (ContractFormat::Openapi, "openapi.json", documents::openapi),
        (ContractFormat::Asyncapi, "asyncapi.json", documents::asyncapi),
    ];
    for (_, name, text) in descriptions.into_iter().filter(|(of, ..)| format.is_none_or(|format| format == *of)) {
        fs::write(dir.join(name), text())?;
        files.push(name);
    }
    for entity in entity::all() {
        fs::write(dir.join(FOLDER).join(format!("{}{ENDING}", entity.name)), documents::json_schema(entity))?;
    }
    Ok(files)
}

/// The schemas of a folder by entity: in it, or in its folder [`FOLDER`].
fn read(dir: &Path) -> io::Result<BTreeMap<String, Value>> {
    let inner = dir.join(FOLDER);
    let mut schemas = BTreeMap::new();
    for entry in fs::read_dir(if inner.is_dir() { &inner } else { dir })? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(ENDING));
        if let Some(name) = name {
            schemas.insert(name.to_owned(), serde_json::from_str(&fs::read_to_string(&path)?)?);
        }
    }
    Ok(schemas)
}

/// How much a change asks of the version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    Minor,
    Major,
}

fn compare(older: &BTreeMap<String, Value>, newer: &BTreeMap<String, Value>) -> Vec<String> {
    let mut faults = Vec::new();
    for (name, old) in older {
        let Some(new) = newer.get(name) else {
            faults.push(format!("{name}: is gone; whoever receives it waits for ever"));
            continue;
        };
        let (was, is) = (version(old), version(new));
        for (weight, what) in changes(old, new) {
            let is_told = match weight {
                Weight::Major => is.0 > was.0,
                Weight::Minor => is > was,
            };
            if !is_told {
                let wanted = match weight {
                    Weight::Major => (was.0 + 1, 0),
                    Weight::Minor => (was.0, was.1 + 1),
                };
                let (major, minor) = wanted;
                faults.push(format!("{name}: {what}: that needs version {major}.{minor}, it has {}.{}", is.0, is.1));
            }
        }
        if is < was {
            faults.push(format!("{name}: the version fell from {}.{} to {}.{}", was.0, was.1, is.0, is.1));
        }
    }
    faults
}

/// Major and minor of a schema's title, as in `item/1.2`.
fn version(schema: &Value) -> (u32, u32) {
    let title = schema["title"].as_str().unwrap_or_default();
    let version = title.rsplit('/').next().and_then(|version| version.split_once('.'));
    version.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?))).unwrap_or_default()
}

fn changes(old: &Value, new: &Value) -> Vec<(Weight, String)> {
    let mut changes = Vec::new();
    let part = |schema: &Value, part: &str| schema["properties"][part].clone();
    let (old_key, new_key) = (part(old, "key"), part(new, "key"));
    if old_key["required"] != new_key["required"] {
        changes.push((Weight::Major, "has another key".to_owned()));
    }
    members(&old_key, &new_key, &mut changes);
    members(&part(old, "data"), &part(new, "data"), &mut changes);
    changes
}

fn members(old: &Value, new: &Value, changes: &mut Vec<(Weight, String)>) {
    let fields = |part: &Value| part["properties"].as_object().cloned().unwrap_or_default();
    let (old, new) = (fields(old), fields(new));
    for (name, was) in &old {
        let Some(is) = new.get(name) else {
            changes.push((Weight::Major, format!("field {name} is gone")));
            continue;
        };
        if let Some(word) =
            ["type", "pattern", "format", "minimum", "maximum"].iter().find(|word| was[**word] != is[**word])
        {
            changes.push((Weight::Major, format!("field {name} has another {word}")));
        }
        let values = |field: &Value| field["enum"].as_array().cloned();
        match (values(was), values(is)) {
            (Some(was), Some(is)) => {
                if let Some(value) = was.iter().find(|value| !is.contains(value)) {
                    changes.push((Weight::Major, format!("field {name} is {value} no more")));
                }
                if let Some(value) = is.iter().find(|value| !was.contains(value)) {
                    changes.push((Weight::Minor, format!("field {name} may be {value}")));
                }
            }
            (None, Some(_)) => changes.push((Weight::Major, format!("field {name} has few values"))),
            (Some(_), None) => changes.push((Weight::Major, format!("field {name} has any value"))),
            (None, None) => {}
        }
    }
    let added = new.keys().filter(|name| !old.contains_key(*name));
    changes.extend(added.map(|name| (Weight::Minor, format!("field {name} is new"))));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schemas() -> BTreeMap<String, Value> {
        let text = |entity| serde_json::from_str(&documents::json_schema(entity)).expect("JSON");
        entity::all().iter().map(|entity| (entity.name.clone(), text(entity))).collect()
    }

    #[test]
    fn what_an_older_consumer_would_misread_needs_a_major_version_and_what_he_ignores_a_minor_one() {
        let older = schemas();
        assert_eq!(compare(&older, &older), Vec::<String>::new());
        let with = |change: &dyn Fn(&mut Value), version: &str| {
            let mut newer = older.clone();
            let item = newer.get_mut("item").expect("canonical");
            change(item);
            item["title"] = format!("item/{version}").into();
            compare(&older, &newer)
        };
        let (major, minor) = version(&older["item"]);
        let (same, next_minor, next_major) =
            (format!("{major}.{minor}"), format!("{major}.{}", minor + 1), format!("{}.0", major + 1));
        let breaking: [&dyn Fn(&mut Value); 4] = [
            &|item| drop(item["properties"]["data"]["properties"].as_object_mut().expect("fields").remove("base_uom")),
            &|item| item["properties"]["data"]["properties"]["base_uom"]["type"] = "integer".into(),
            &|item| item["properties"]["key"]["required"] = serde_json::json!(["item_id"]),
            &|item| item["properties"]["data"]["properties"]["base_uom"]["enum"] = serde_json::json!(["a"]),
        ];
        for change in breaking {
            assert_eq!(with(change, &next_minor).len(), 1, "{:?}", with(change, &next_minor));
            assert_eq!(with(change, &next_major), Vec::<String>::new());
        }
        let additive = |item: &mut Value| item["properties"]["data"]["properties"]["new"] = serde_json::json!({});
        assert_eq!(
            with(&additive, &same),
            [format!("item: field new is new: that needs version {next_minor}, it has {same}")]
        );
        assert_eq!(with(&additive, &next_minor), Vec::<String>::new());
        assert!(with(&|_| (), "0.9")[0].contains("the version fell"));
        let mut fewer = older.clone();
        fewer.remove("item");
        assert!(compare(&older, &fewer)[0].starts_with("item: is gone"));
    }

    #[test]
    fn what_is_exported_reads_back_and_a_folder_without_schemas_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(export(folder.path(), Some(ContractFormat::Asyncapi)).expect("written"), ["asyncapi.json"]);
        assert!(!folder.path().join("openapi.json").exists());
        assert_eq!(export(folder.path(), None).expect("written"), ["openapi.json", "asyncapi.json"]);
        assert_eq!(read(folder.path()).expect("read"), schemas());
        assert_eq!(read(&folder.path().join(FOLDER)).expect("read"), schemas());
        let against = tempfile::tempdir().expect("a folder").path().join("none");
        let refused = run(&SchemasArgs { command: SchemasCommand::Check { against } }).expect_err("nothing there");
        assert!(refused.to_string().contains("none: "), "{refused}");
    }
}
