//! The lake as an independent reader sees it, beside what the planner holds.

use std::path::Path;
use std::process::Command;

use super::world::World;

/// Compares every `current` table with the planner's rows and looks for versions that stand twice in `history`.
pub(crate) fn assert_lake_equals_planner(world: &World) {
    let (lake, planner) = (world.setup.dir.join("lake"), world.setup.dir.join("planner.sqlite"));
    compare_python("compare_lake.py", &[&lake, &planner]);
}

/// Runs a script that compares and says what differs.
pub(crate) fn compare_python(script: &str, arguments: &[&Path]) {
    let root = env!("CARGO_MANIFEST_DIR");
    let environment = Command::new(format!("{root}/deploy/python-env")).output().expect("deploy/python-env runs");
    assert!(environment.status.success(), "{}", String::from_utf8_lossy(&environment.stderr));
    let environment = String::from_utf8_lossy(&environment.stdout).trim().to_owned();
    let output = Command::new(format!("{environment}/bin/python"))
        .arg(format!("{root}/tests/daemon/{script}"))
        .args(arguments)
        .output()
        .expect("python runs");
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
}
