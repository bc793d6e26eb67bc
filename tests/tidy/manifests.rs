//! Rules for the workspace: stages do not know each other, and every dependency has one version and a reason.

use std::collections::BTreeSet;
use std::fs;

use toml::Table;

use crate::refuse;
use crate::tree::{File, files, root};

/// Each crate with those of ours that it may use. The root package may use all.
const LAYERS: [(&str, &[&str]); 5] = [
    ("schemas", &[]),
    ("capture", &["syncline-schemas"]),
    ("journal", &["syncline-schemas"]),
    ("transform", &["syncline-schemas"]),
    ("sinks", &["syncline-schemas"]),
];
const DEPENDENCY_TABLES: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];

/// The manifest of a crate; the root's for `""`.
fn manifest(folder: &str) -> Table {
    let path = root().join(folder).join("Cargo.toml");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Names of a manifest's dependencies of every kind, with what it says about each.
fn dependencies(manifest: &Table) -> Vec<(&String, &toml::Value)> {
    let tables = DEPENDENCY_TABLES.iter().filter_map(|kind| manifest.get(*kind)?.as_table());
    tables.flatten().collect()
}

fn workspace(root: &Table) -> &Table {
    root["workspace"].as_table().expect("the root manifest is a workspace")
}

/// True where code of a crate names a dependency as a path.
fn is_named(dependency: &str, folder: &str, files: &[File]) -> bool {
    let path = format!("{}::", dependency.replace('-', "_"));
    let alone = format!("use {};", dependency.replace('-', "_"));
    let own = |file: &&File| match folder {
        "" => file.path.starts_with("src/") || file.path.starts_with("tests/"),
        _ => file.path.starts_with(&format!("{folder}/")),
    };
    files
        .iter()
        .filter(|file| file.is_rust())
        .filter(own)
        .any(|file| file.text.contains(&path) || file.text.contains(&alone))
}

#[test]
fn no_stage_knows_another() {
    let root = manifest("");
    let members: BTreeSet<&str> =
        workspace(&root)["members"].as_array().into_iter().flatten().filter_map(|it| it.as_str()).collect();
    assert_eq!(members, LAYERS.map(|(folder, _)| folder).into(), "a new crate needs its place among the layers");
    let mut breaches = Vec::new();
    for (folder, allowed) in LAYERS {
        let manifest = manifest(folder);
        assert!(manifest.get("target").is_none(), "{folder}/Cargo.toml: dependencies by target are not looked at here");
        for (name, _) in dependencies(&manifest) {
            if name.starts_with("syncline") && !allowed.contains(&name.as_str()) {
                breaches.push(format!(
                    "{folder}/Cargo.toml: {name}: only src/ sees two stages; put what both need into schemas"
                ));
            }
        }
    }
    refuse(&breaches);
}

#[test]
fn every_dependency_has_one_version_and_a_reason() {
    let root_manifest = manifest("");
    let table = workspace(&root_manifest)["dependencies"].as_table().expect("dependencies of the workspace");
    let reasons = fs::read_to_string(root().join("docs/dependencies.md")).expect("docs/dependencies.md is there");
    let files = files();
    let mut breaches = Vec::new();
    let mut used = BTreeSet::new();
    for folder in LAYERS.map(|(folder, _)| folder).into_iter().chain([""]) {
        let manifest = manifest(folder);
        for (name, value) in dependencies(&manifest) {
            used.insert(name.clone());
            if !is_named(name, folder, &files) {
                breaches.push(format!("{folder}/Cargo.toml: {name}: none of its code names it; remove it"));
            }
            if value.get("workspace").is_none() {
                breaches.push(format!(
                    "{folder}/Cargo.toml: {name}: take it from the workspace, which holds its one version"
                ));
            }
        }
        if manifest.get("lints").and_then(|lints| lints.get("workspace")).is_none() {
            breaches.push(format!("{folder}/Cargo.toml: needs [lints] workspace = true"));
        }
    }
    for (name, value) in table {
        if !used.contains(name) {
            breaches.push(format!("Cargo.toml: {name}: no crate uses it; remove it"));
        }
        if value.get("path").is_some() {
            continue;
        }
        if value.get("default-features").and_then(toml::Value::as_bool) != Some(false) {
            breaches.push(format!("Cargo.toml: {name}: name the features that are used: default-features = false"));
        }
        if !reasons.contains(&format!("| `{name}` |")) {
            breaches.push(format!("docs/dependencies.md: {name}: say in its table why it is here"));
        }
    }
    refuse(&breaches);
}
