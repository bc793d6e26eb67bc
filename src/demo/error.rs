//! What can go wrong while the demo runs, each with its place and remedy.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

/// A fault of the demo itself or of something it started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    /// A database server is not installed.
    #[error(
        "no {server} server programs ({programs}) under {searched}; \
         install them, as with `apt-get install {package}`, or put their folder into PATH"
    )]
    NoServer {
        /// Which one, as in `PostgreSQL`.
        server: &'static str,
        /// What was looked for.
        programs: &'static str,
        /// What Debian calls the package.
        package: &'static str,
        /// The folders that were looked at.
        searched: String,
    },
    /// The folder given for the demo holds something already.
    #[error("{} is not empty; the demo makes its folder itself: give another --dir, or remove it", path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// We are root and no other user can run the server.
    #[error(
        "{server} refuses to run as root and /etc/passwd has neither {user} nor nobody; start the demo as an ordinary user"
    )]
    NoUnprivilegedUser {
        /// The server.
        server: &'static str,
        /// The user that its package makes.
        user: &'static str,
    },
    /// We are root, and the user who runs the server cannot get to its folder.
    #[error(
        "{server} refuses to run as root, and the user with uid {uid} who runs it cannot enter {place}; give another \
         --dir, such as one under /tmp, or let that user through: `chmod o+x {place}`",
        place = path.display()
    )]
    Closed {
        /// The server.
        server: &'static str,
        /// The folder that is closed.
        path: PathBuf,
        /// The user.
        uid: u32,
    },
    /// A file or folder could not be worked with.
    #[error("could not {what} {}: {source}", path.display())]
    File {
        /// What was tried, as in `write`.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// No free port could be had.
    #[error("could not find a free port on 127.0.0.1: {0}")]
    NoPort(#[source] io::Error),
    /// A program could not be started or waited for.
    #[error("could not run {program}: {source}")]
    Spawn {
        /// The program.
        program: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A program ended that should not have, or ended badly.
    #[error("{program} ended with {status}; the end of {}:\n{tail}", log.display())]
    Ended {
        /// The program.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// Where it wrote its messages.
        log: PathBuf,
        /// The last of them.
        tail: String,
    },
    /// A program was given up on.
    #[error("{program} did not {what} within {seconds} s; see {}", log.display())]
    TooSlow {
        /// The program.
        program: String,
        /// What was waited for, as in `stop`.
        what: &'static str,
        /// How long.
        seconds: u64,
        /// Where it wrote its messages.
        log: PathBuf,
    },
    /// The demo's own database refused a statement.
    #[error("the demo's database refused to {what}: {}", reason(source))]
    Database {
        /// What was tried, as in `load the opening books`.
        what: String,
        /// The server's reason.
        source: tokio_postgres::Error,
    },
    /// The warehouse's database refused a statement.
    #[error("the warehouse's database refused to {what}: {reason}")]
    Warehouse {
        /// What was tried, as in `load the opening books`.
        what: String,
        /// What the server or its client said.
        reason: String,
    },
    /// A step loses one deadlock after the other.
    #[error("{function} lost {attempts} deadlocks in a row; something holds a lock on the demo's tables")]
    Stuck {
        /// The function of the ERP, or the procedure of the warehouse.
        function: &'static str,
        /// How often it was tried.
        attempts: u32,
    },
    /// The planner did not answer as agreed.
    #[error("the planner did not answer {url}: {}", root(source))]
    Planner {
        /// What was asked.
        url: String,
        /// Why there is no answer.
        source: reqwest::Error,
    },
    /// The planner answered, but not in the agreed shape.
    #[error("the planner's answer to {url} is not understood: {reason}")]
    Answer {
        /// What was asked.
        url: String,
        /// What is missing.
        reason: String,
    },
    /// Somebody stopped a demo that was to drain.
    #[error("stopped before everything was delivered and compared")]
    Interrupted,
    /// Sources and planner differ after everything was delivered.
    #[error("sources and planner differ in {}; see the table above and {}", entities.join(", "), log.display())]
    Mismatch {
        /// The entities that differ.
        entities: Vec<String>,
        /// The daemon's messages.
        log: PathBuf,
    },
}

impl DemoError {
    /// Wraps a database fault.
    pub(crate) fn database(what: impl Into<String>) -> impl FnOnce(tokio_postgres::Error) -> Self {
        let what = what.into();
        |source| Self::Database { what, source }
    }

    /// Wraps a fault of the file system.
    pub(crate) fn file(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source }
    }
}

/// tokio-postgres prints `db error` alone; what the server said stands one level deeper.
fn reason(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| root(error), ToString::to_string)
}

/// Libraries say only what they were about to do; what the system said stands at the end of the chain.
fn root(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_said_is_in_the_message() {
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        let reason = denied().to_string();
        let errors = [
            DemoError::file("write", "demo/daemon.log")(denied()),
            DemoError::NoPort(denied()),
            DemoError::Spawn { program: "initdb".to_owned(), source: denied() },
        ];
        for error in errors {
            assert!(error.to_string().ends_with(&format!(": {reason}")), "{error}");
        }
    }
}
