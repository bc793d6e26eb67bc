//! Readers of other makers, which Python lends.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::model::Model;
use super::read;

/// A program in the folder that a script of `deploy` makes when it is not there.
pub(crate) fn program(script: &str, below: &str) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(script);
    let output = Command::new(&script).stderr(Stdio::inherit()).output().expect("the script starts");
    assert!(output.status.success(), "{} failed", script.display());
    Path::new(String::from_utf8(output.stdout).expect("a path").trim()).join(below)
}

/// Writes what a script is given.
fn given(folder: &Path, name: &str, value: &Value) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, value.to_string()).expect("written");
    path
}

/// Runs a script of this folder, which must go well.
fn run(script: &str, arguments: &[&OsStr]) {
    let mut command = Command::new(program("python-env", "bin/python"));
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lake").join(script)).args(arguments);
    let output = command.env("PYTHONDONTWRITEBYTECODE", "1").output().expect("python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Compares a lake with the model through delta-rs, DuckDB and, on a server, Polars; then lets delta-rs compact it.
/// `options` say how a server is reached.
pub(crate) fn compare(lake: &str, model: &Model, optimize: bool, options: &Value) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let wanted = given(folder.path(), "wanted.json", &serde_json::json!(read::wanted(model)));
    let options = given(folder.path(), "options.json", options);
    let mut arguments = vec![lake.as_ref(), wanted.as_os_str(), options.as_os_str()];
    arguments.extend(optimize.then_some(OsStr::new("optimize")));
    run("compare.py", &arguments);
}

/// Runs the recipes of a page on a lake and compares their answers with what is wanted, by name.
pub(crate) fn ask(page: &Path, lake: &Path, wanted: &Value) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let wanted = given(folder.path(), "wanted.json", wanted);
    run("query.py", &[page.as_os_str(), lake.as_os_str(), wanted.as_os_str()]);
}
