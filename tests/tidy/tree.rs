//! The files of the project: everything that is text and not a product of a build.

use std::fs;
use std::path::{Path, PathBuf};

/// A text file.
pub(crate) struct File {
    /// Relative to the root, with `/` between the parts.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl File {
    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Lines that hold what is looked for, as `path:line`.
    pub(crate) fn places<'f>(&'f self, holds: impl Fn(&str) -> bool + 'f) -> impl Iterator<Item = String> + 'f {
        let lines = self.text.lines().enumerate().filter(move |(_, line)| holds(line));
        lines.map(|(index, _)| format!("{}:{}", self.path, index + 1))
    }
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every text file, in order of path.
pub(crate) fn files() -> Vec<File> {
    let mut paths = Vec::new();
    collect(root(), &mut paths);
    paths.sort();
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).ok()?;
        let path = path.strip_prefix(root()).expect("collected under the root");
        Some(File { path: path.to_string_lossy().replace('\\', "/"), text })
    };
    let files: Vec<File> = paths.into_iter().filter_map(read).collect();
    assert!(files.iter().any(|file| file.path == "src/main.rs"), "the walk must see the tree");
    files
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let path = entry.expect("an entry of the folder").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Products of builds and of fuzzing, and what belongs to version control itself.
        let is_foreign = matches!(&*name, ".git" | "target" | "corpus" | "artifacts" | "__pycache__");
        if is_foreign || path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            collect(&path, paths);
        } else {
            paths.push(path);
        }
    }
}
