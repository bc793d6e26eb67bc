//! Readers of other makers, which Python lends.

use std::io::Write;
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

/// Compares a lake with the model through delta-rs, DuckDB and, on a server, Polars; then lets delta-rs compact it.
/// `options` say how a server is reached.
pub(crate) fn compare(lake: &str, model: &Model, optimize: bool, options: Value) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, value: Value| {
        let path = folder.path().join(name);
        let mut file = std::fs::File::create(&path).expect("a file");
        file.write_all(value.to_string().as_bytes()).expect("written");
        path
    };
    let wanted = write("wanted.json", serde_json::json!(read::wanted(model)));
    let options = write("options.json", options);
    let mut command = Command::new(program("python-env", "bin/python"));
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lake/compare.py"));
    command.args([lake.as_ref(), wanted.as_os_str(), options.as_os_str()]);
    if optimize {
        command.arg("optimize");
    }
    let output = command.output().expect("python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
