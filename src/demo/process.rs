//! `syncline` itself as a child process: what the demo shows is the daemon as anyone would run it, and a process can be
//! killed.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use tokio::process::{Child, Command};

use super::error::DemoError;

/// A daemon that stops in order drains what it holds; a minute is far more than it should need.
const STOP_MAX: Duration = Duration::from_secs(60);

/// The environment variable by which one of our children knows whose child it is, and that it must not outlive that one.
const PARENT_VARIABLE: &str = "SYNCLINE_PARENT";

/// Ties the life of this process to the one that started it, where that one asked for it: the demo's children are in
/// process groups of their own, and a demo that is killed cannot stop them any more.
///
/// # Errors
/// Where the system refuses.
pub(crate) fn end_with_parent() -> io::Result<()> {
    let Ok(parent) = std::env::var(PARENT_VARIABLE) else { return Ok(()) };
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have been gone before.
    let is_there = getppid().is_some_and(|pid| pid.as_raw_nonzero().to_string() == parent);
    if is_there { Ok(()) } else { Err(io::Error::other("the process that started this one is gone")) }
}

/// How one of our programs is started, as often as needed.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// The executable file.
    pub(crate) executable: PathBuf,
    /// What messages call it.
    pub(crate) name: &'static str,
    /// The subcommand and its options.
    pub(crate) arguments: Vec<String>,
    /// Environment on top of ours; holds secrets.
    pub(crate) environment: Vec<(&'static str, String)>,
    /// Where its messages go, over all its lives.
    pub(crate) log: PathBuf,
}

impl Program {
    /// Starts it; its standard output goes to the log too.
    ///
    /// # Errors
    /// [`DemoError`] where the log or the program cannot be opened.
    pub(crate) fn start(&self) -> Result<Process, DemoError> {
        let log = self.open_log()?;
        let child = self.command(log).stdout(self.open_log()?).spawn().map_err(|source| self.spawn_fault(source))?;
        Ok(Process { program: self.clone(), child })
    }

    /// Runs it to its end and gives what it wrote to standard output.
    ///
    /// # Errors
    /// [`DemoError::Ended`] with the end of its log where it fails.
    pub(crate) async fn output(&self) -> Result<String, DemoError> {
        let child =
            self.command(self.open_log()?).stdout(Stdio::piped()).spawn().map_err(|source| self.spawn_fault(source))?;
        let output = child.wait_with_output().await.map_err(|source| self.spawn_fault(source))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(self.ended(output.status))
    }

    fn command(&self, log: File) -> Command {
        let mut command = Command::new(&self.executable);
        command
            .args(self.arguments.iter().map(OsStr::new))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env(PARENT_VARIABLE, std::process::id().to_string())
            .stdin(Stdio::null())
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true);
        command
    }

    fn open_log(&self) -> Result<File, DemoError> {
        OpenOptions::new().create(true).append(true).open(&self.log).map_err(DemoError::file("write", &self.log))
    }

    fn spawn_fault(&self, source: io::Error) -> DemoError {
        DemoError::Spawn { program: self.name.to_owned(), source }
    }

    fn ended(&self, status: ExitStatus) -> DemoError {
        DemoError::Ended { program: self.name.to_owned(), status, log: self.log.clone(), tail: tail(&self.log) }
    }
}

/// A program that runs.
#[derive(Debug)]
pub(crate) struct Process {
    program: Program,
    child: Child,
}

impl Process {
    /// Its pid; `None` once it has been seen to end.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(&self) {
        signal(&self.child, Signal::KILL);
    }

    /// How it ended, where it has.
    ///
    /// # Errors
    /// [`DemoError::Spawn`] where the system cannot tell.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>, DemoError> {
        self.child.try_wait().map_err(|source| self.program.spawn_fault(source))
    }

    /// The fault of having ended.
    pub(crate) fn fault(&self, status: ExitStatus) -> DemoError {
        self.program.ended(status)
    }

    /// Asks it to stop and waits until it has.
    ///
    /// # Errors
    /// [`DemoError::TooSlow`] where it does not, [`DemoError::Ended`] where it ends badly.
    pub(crate) async fn stop(mut self) -> Result<(), DemoError> {
        signal(&self.child, Signal::TERM);
        let Ok(waited) = tokio::time::timeout(STOP_MAX, self.child.wait()).await else {
            return Err(DemoError::TooSlow {
                program: self.program.name.to_owned(),
                what: "stop",
                seconds: STOP_MAX.as_secs(),
                log: self.program.log.clone(),
            });
        };
        let status = waited.map_err(|source| self.program.spawn_fault(source))?;
        if status.success() { Ok(()) } else { Err(self.program.ended(status)) }
    }
}

/// Signals a child that has not been waited for yet; one that has is left alone, its pid may be another's by now.
pub(crate) fn signal(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended in this moment; whoever waits for it learns how.
        let _ = kill_process(pid, signal);
    }
}

/// The last lines of a log, for a message.
pub(crate) fn tail(log: &Path) -> String {
    const LINES: usize = 12;
    let text = std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}
