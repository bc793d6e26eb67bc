//! The demo as somebody runs it who kills whatever they like.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::demo::server::tests::open_folder;
use super::world::{SYNCLINE, eventually};

/// A demo in small that runs until it is stopped.
struct Show {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Show {
    fn start(dir: &Path) -> Self {
        let mut child = Command::new(SYNCLINE)
            .args(["demo", "--small", "--dir"])
            .arg(dir)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the demo starts");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Self { child, lines }
    }

    /// Reads on to the next life of the daemon.
    async fn daemon(&mut self) -> Pid {
        let next = async {
            while let Some(line) = self.lines.next_line().await.expect("text") {
                let pid = line.strip_prefix("daemon ").and_then(|rest| rest.split_once("pid ")).map(|(_, rest)| rest);
                let digits = pid.map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default());
                if let Some(pid) = digits.and_then(|digits| digits.parse().ok()).and_then(Pid::from_raw) {
                    return pid;
                }
            }
            panic!("the demo ended before its daemon lived again");
        };
        tokio::time::timeout(Duration::from_secs(120), next).await.expect("the daemon lives within two minutes")
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        kill_process(pid.expect("it runs"), signal).expect("signalled");
    }
}

/// Command lines of processes that name a folder.
fn processes_in(folder: &Path) -> Vec<String> {
    let folder = folder.display().to_string();
    let lines = std::fs::read_dir("/proc").expect("the kernel's list").flatten().filter_map(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    lines.filter(|line| line.contains(&folder)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_bears_being_killed_at_and_leaves_no_process_behind() {
    let folder = open_folder();
    let mut show = Show::start(&folder.path().join("one"));
    let mut daemon = show.daemon().await;
    for _ in 0..5 {
        kill_process(daemon, Signal::KILL).expect("it lives");
        daemon = show.daemon().await;
    }
    // The terminal goes before anybody has noticed that the daemon is dead.
    kill_process(daemon, Signal::KILL).expect("it lives");
    show.signal(Signal::HUP);
    assert_eq!(show.child.wait().await.expect("it ends").code(), Some(0));
    assert_eq!(processes_in(folder.path()), Vec::<String>::new());

    let mut show = Show::start(&folder.path().join("two"));
    show.daemon().await;
    assert!(processes_in(folder.path()).len() >= 5, "demo, both servers, planner and daemon");
    show.signal(Signal::KILL);
    show.child.wait().await.expect("it ends");
    eventually("what it started ends with it", || std::future::ready(processes_in(folder.path()).is_empty())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_that_drains_agrees_and_takes_its_temporary_folder_with_it() {
    let folder = open_folder();
    let output = Command::new(SYNCLINE)
        .args(["demo", "--drain", "--small"])
        .env("TMPDIR", folder.path())
        .kill_on_drop(true)
        .output()
        .await
        .expect("the demo runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("sources and planner agree key by key and value by value"), "{text}");
    assert_eq!(std::fs::read_dir(folder.path()).expect("it is there").count(), 0, "{text}");
}
