//! A session of somebody else, which stays open as long as a test likes.

use std::io::Write;
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::server::{Database, installed};

/// A session of somebody else that stays open.
pub(crate) struct Other {
    process: Child,
    input: Option<ChildStdin>,
}

impl Other {
    /// Begins a transaction.
    pub(crate) fn begin(database: &Database) -> Self {
        let mut process = Command::new(installed().join("psql"))
            .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", &database.config.database])
            .arg("-h")
            .arg(database.server.folder())
            .arg("-p")
            .arg(database.server.port().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let input = process.stdin.take();
        let mut other = Self { process, input };
        other.say("BEGIN;");
        other
    }

    /// Has it do something, some time.
    pub(crate) fn say(&mut self, sql: &str) {
        writeln!(self.input.as_mut().unwrap(), "{sql}").unwrap();
    }

    /// Has it do the last thing, and waits until it has.
    pub(crate) fn end(mut self, sql: &str) {
        self.say(sql);
        drop(self.input.take());
        assert!(self.process.wait().unwrap().success());
    }
}
