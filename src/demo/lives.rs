//! The daemon over all its lives: whoever watches the demo may kill it at will, and it is started again.
//!
//! A death that somebody else caused is the game that the demo invites to and never a fault, however often it comes. A
//! death of its own may come once; one after the other means that something is broken.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::error::DemoError;
use super::process::{Process, Program};

/// A daemon that dies again by itself sooner than this after its start does not get anywhere.
const LIFE_MIN: Duration = Duration::from_secs(3);
/// So many short lives in a row, and the demo gives up.
const SHORT_LIVES_MAX: u32 = 5;

/// The daemon, whichever of its lives it is in.
pub(super) struct Daemon {
    pub(super) program: Program,
    pub(super) process: Process,
    born: Instant,
    short_lives: u32,
}

impl Daemon {
    pub(super) fn start(program: Program) -> Result<Self, DemoError> {
        let process = program.start()?;
        Ok(Self { program, process, born: Instant::now(), short_lives: 0 })
    }

    /// Starts it again where it has died; true where it had.
    pub(super) fn revive(&mut self) -> Result<bool, DemoError> {
        let Some(status) = self.process.ended()? else { return Ok(false) };
        if !was_told_to(status) {
            self.short_lives = if self.born.elapsed() < LIFE_MIN { self.short_lives + 1 } else { 0 };
            if self.short_lives >= SHORT_LIVES_MAX {
                return Err(self.process.fault(status));
            }
        }
        self.process = self.program.start()?;
        self.born = Instant::now();
        Ok(true)
    }

    /// Asks it to stop and waits. One that was killed a moment ago, or is too young to hear the question, is as stopped
    /// as it can be: the next life goes on where it was.
    pub(super) async fn stop(self) -> Result<(), DemoError> {
        match self.process.stop().await {
            Err(DemoError::Ended { status, .. }) if was_told_to(status) => Ok(()),
            stopped => stopped,
        }
    }
}

/// It ended because somebody wanted it to.
fn was_told_to(status: ExitStatus) -> bool {
    const ORDERS: [Signal; 4] = [Signal::KILL, Signal::TERM, Signal::INT, Signal::HUP];
    status.success() || ORDERS.iter().any(|order| status.signal() == Some(order.as_raw()))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A daemon that does what a line of shell does.
    fn daemon(folder: &tempfile::TempDir, script: &str) -> Daemon {
        let program = Program {
            executable: PathBuf::from("/bin/sh"),
            name: "syncline run",
            arguments: vec!["-c".to_owned(), script.to_owned()],
            environment: Vec::new(),
            log: folder.path().join("daemon.log"),
        };
        Daemon::start(program).expect("it starts")
    }

    /// Waits for the end of this life and begins the next one.
    async fn next_life(daemon: &mut Daemon) -> Result<bool, DemoError> {
        let mut beats = tokio::time::interval(Duration::from_millis(2));
        while daemon.process.ended()?.is_none() {
            beats.tick().await;
        }
        daemon.revive()
    }

    #[tokio::test]
    async fn a_daemon_may_be_killed_at_will_and_not_die_by_itself() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut killed = daemon(&folder, "kill -KILL $$");
        for _ in 0..2 * SHORT_LIVES_MAX {
            assert!(next_life(&mut killed).await.expect("being killed is no fault"));
        }
        killed.stop().await.expect("killed is stopped");
        let mut broken = daemon(&folder, "echo no disk >&2; exit 3");
        for _ in 1..SHORT_LIVES_MAX {
            assert!(next_life(&mut broken).await.expect("once is no pattern"));
        }
        let text = next_life(&mut broken).await.expect_err("it does not get anywhere").to_string();
        assert!(text.contains("exit status: 3") && text.contains("no disk"), "{text}");
        broken.stop().await.expect_err("a fault of its own is told at the end, too");
    }
}
