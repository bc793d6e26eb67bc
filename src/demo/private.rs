//! A private database server: made in a folder of its own, gone with the demo.
//!
//! It is a child process: stopped by its own pid, and in a process group of its own, so that Ctrl-C at the terminal
//! reaches us first and the order of stopping stays ours. No server agrees to run as root, therefore a root caller lends
//! it to a user who is made for it, or to `nobody`.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Signal, getuid};
use tokio::process::{Child, Command};

use super::error::DemoError;
use super::process::{signal, tail};

/// A cold start on a slow disk takes a few seconds; more means that it will not start.
const START_MAX: Duration = Duration::from_secs(60);
/// An orderly stop writes what is in memory.
const STOP_MAX: Duration = Duration::from_secs(60);
/// How often a starting server is asked whether it is there.
const POLL_EVERY: Duration = Duration::from_millis(50);

/// The folder of a server, and whom it runs as.
#[derive(Debug)]
pub(crate) struct Room {
    /// The folder.
    pub(crate) folder: PathBuf,
    log: PathBuf,
    /// (uid, gid); `None` keeps the caller.
    user: Option<(u32, u32)>,
}

impl Room {
    /// Makes `folder`, which must not exist, for a server that messages call `server`; root lends it to `user`, or to
    /// `nobody`.
    ///
    /// # Errors
    /// [`DemoError`] naming the folder, or the user that is missing.
    pub(crate) fn make(server: &'static str, user: &'static str, folder: &Path) -> Result<Self, DemoError> {
        let user = unprivileged_user(server, user)?;
        fs::create_dir_all(folder).map_err(DemoError::file("make", folder))?;
        if let Some(user) = user {
            ensure_enterable(server, folder, user)?;
        }
        let room = Self { folder: folder.to_owned(), log: folder.join("server.log"), user };
        room.lend(folder)?;
        Ok(room)
    }

    fn lend(&self, path: &Path) -> Result<(), DemoError> {
        let Some((uid, gid)) = self.user else { return Ok(()) };
        chown(path, Some(uid), Some(gid)).map_err(DemoError::file("hand over", path))
    }

    /// Writes a file that nobody but the server's user can read.
    ///
    /// # Errors
    /// [`DemoError::File`].
    pub(crate) fn secret(&self, name: &str, text: &str) -> Result<PathBuf, DemoError> {
        let path = self.folder.join(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(DemoError::file("write", &path))?;
        self.lend(&path)?;
        Ok(path)
    }

    /// A program of the server's, run as its user, whose messages go to its log.
    ///
    /// # Errors
    /// [`DemoError::File`] where the log cannot be written.
    pub(crate) fn command(&self, program: &Path) -> Result<Command, DemoError> {
        let mut command = Command::new(program);
        command.current_dir(&self.folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(self.open_log()?);
        command.process_group(0);
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        Ok(command)
    }

    fn open_log(&self) -> Result<File, DemoError> {
        OpenOptions::new().create(true).append(true).open(&self.log).map_err(DemoError::file("write", &self.log))
    }

    /// Runs a program to its end.
    ///
    /// # Errors
    /// [`DemoError::Ended`] where it fails.
    pub(crate) async fn run(&self, name: &'static str, mut command: Command) -> Result<(), DemoError> {
        let status = command.status().await.map_err(spawn(name))?;
        if status.success() {
            return Ok(());
        }
        Err(DemoError::Ended { program: name.into(), status, tail: tail(&self.log), log: self.log.clone() })
    }

    /// Starts the server itself, which `stop` has stop in order.
    ///
    /// # Errors
    /// [`DemoError::Spawn`].
    pub(crate) fn start(self, name: &'static str, stop: Signal, mut command: Command) -> Result<Private, DemoError> {
        let child = command.spawn().map_err(spawn(name))?;
        let guard = guard(&child).map_err(spawn("sh"))?;
        Ok(Private { child, guard, name, stop, log: self.log })
    }
}

/// A server that runs.
#[derive(Debug)]
pub(crate) struct Private {
    child: Child,
    guard: Child,
    name: &'static str,
    stop: Signal,
    log: PathBuf,
}

impl Private {
    /// Waits until the server answers.
    ///
    /// # Errors
    /// [`DemoError`] with the end of its log where it ends instead, or does not answer in time.
    pub(crate) async fn wait_until(&mut self, answers: impl AsyncFn() -> bool) -> Result<(), DemoError> {
        let ready = async {
            let mut poll = tokio::time::interval(POLL_EVERY);
            loop {
                poll.tick().await;
                if let Some(status) = self.child.try_wait().map_err(spawn(self.name))? {
                    let (log, tail) = (self.log.clone(), tail(&self.log));
                    return Err(DemoError::Ended { program: self.name.into(), status, tail, log });
                }
                if answers().await {
                    return Ok(());
                }
            }
        };
        match tokio::time::timeout(START_MAX, ready).await {
            Ok(outcome) => outcome,
            Err(_) => Err(self.too_slow("start", START_MAX)),
        }
    }

    /// Stops it in order and waits.
    ///
    /// # Errors
    /// [`DemoError::TooSlow`] where it does not stop; it is then told to quit at once.
    pub(crate) async fn stop(mut self) -> Result<(), DemoError> {
        signal(&self.child, self.stop);
        match tokio::time::timeout(STOP_MAX, self.child.wait()).await {
            Ok(waited) => {
                // Its pid is free for another process now, which is none of the guard's business.
                let _ = self.guard.start_kill();
                waited.map(drop).map_err(spawn(self.name))
            }
            Err(_) => Err(self.too_slow("stop", STOP_MAX)),
        }
    }

    fn too_slow(&self, what: &'static str, limit: Duration) -> DemoError {
        DemoError::TooSlow { program: self.name.into(), what, seconds: limit.as_secs(), log: self.log.clone() }
    }
}

/// A server that nobody stopped in order is told to quit at once; it recovers from its log, should anyone care.
impl Drop for Private {
    fn drop(&mut self) {
        signal(&self.child, Signal::QUIT);
    }
}

/// A shell that tells a server to quit when this process is gone, however it went: the server is not ours to teach, and
/// may run as a user who cannot even see our executable.
fn guard(server: &Child) -> std::io::Result<Child> {
    let pid = server.id().unwrap_or_default().to_string();
    // The read ends with the pipe, whose other end nobody but us holds.
    Command::new("sh")
        .args(["-c", "read -r _; kill -QUIT \"$1\"", "sh", &pid])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

/// Wraps the fault of not getting a program to run.
pub(crate) fn spawn(program: &str) -> impl FnOnce(std::io::Error) -> DemoError {
    let program = program.to_owned();
    |source| DemoError::Spawn { program, source }
}

/// Whom to run as, as (uid, gid); `None` keeps the caller.
fn unprivileged_user(server: &'static str, user: &'static str) -> Result<Option<(u32, u32)>, DemoError> {
    if !getuid().is_root() {
        return Ok(None);
    }
    let path = Path::new("/etc/passwd");
    let users = fs::read_to_string(path).map_err(DemoError::file("read", path))?;
    let ids = |wanted: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(wanted))?;
        let mut ids = line.split(':').skip(2).map(str::parse);
        Some((ids.next()?.ok()?, ids.next()?.ok()?))
    };
    ids(user).or_else(|| ids("nobody")).map(Some).ok_or(DemoError::NoUnprivilegedUser { server, user })
}

/// The server's user must be able to enter its folder, and with it every folder above.
fn ensure_enterable(server: &'static str, folder: &Path, (uid, gid): (u32, u32)) -> Result<(), DemoError> {
    let mut above: Vec<&Path> = folder.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()).collect();
    above.reverse();
    for path in above {
        // Asked of the system in that user's name, since modes alone do not say all of it.
        let entered = std::process::Command::new("true").current_dir(path).uid(uid).gid(gid).status();
        match entered {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                return Err(DemoError::Closed { server, path: path.to_owned(), uid });
            }
            Err(error) => return Err(spawn("true")(error)),
        }
    }
    Ok(())
}
