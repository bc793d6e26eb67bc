//! What is wrong with a seed file: its place and the remedy, never a cell's content.

use std::fmt;
use std::path::{Path, PathBuf};

/// So many faults of one file are told one by one: enough to mend a file at one go, not enough to fill a screen with one
/// mistake that every row repeats.
const FAULTS_MAX: usize = 20;

/// One thing that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFault {
    /// The file, or the folder of all.
    pub file: PathBuf,
    /// The line, from 1; 0 where the file as a whole is meant.
    pub line: usize,
    /// The column's name, or its place from 1 where the name is what is wrong; empty where the row is meant.
    pub column: String,
    /// What is wrong and what to do.
    pub reason: String,
}

impl FileFault {
    /// A fault of a file as a whole.
    pub(super) fn of_file(file: &Path, reason: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: 0, column: String::new(), reason: reason.into() }
    }
}

impl fmt::Display for FileFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if !self.column.is_empty() {
            write!(f, ": column {}", self.column)?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// The faults of one file as they are found.
#[derive(Debug)]
pub(super) struct Faults {
    file: PathBuf,
    found: Vec<FileFault>,
    more: usize,
}

impl Faults {
    pub(super) fn new(file: &Path) -> Self {
        Self { file: file.to_owned(), found: Vec::new(), more: 0 }
    }

    pub(super) fn add(&mut self, line: usize, column: impl Into<String>, reason: impl Into<String>) {
        if self.found.len() < FAULTS_MAX {
            let (column, reason) = (column.into(), reason.into());
            self.found.push(FileFault { file: self.file.clone(), line, column, reason });
        } else {
            self.more += 1;
        }
    }

    /// What was made, where nothing is wrong with it; else all faults in the order of their lines.
    pub(super) fn or<T>(mut self, made: Option<T>) -> Result<T, Vec<FileFault>> {
        match made {
            Some(made) if self.found.is_empty() => Ok(made),
            _ => {
                self.found.sort_by_key(|fault| fault.line);
                if self.more > 0 {
                    let reason = format!("{} more faults; mend these first", self.more);
                    self.found.push(FileFault::of_file(&self.file, reason));
                }
                Err(self.found)
            }
        }
    }
}
