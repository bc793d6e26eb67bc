//! `syncline demo`: a distributor's ERP on a PostgreSQL of its own and its regional warehouse on a MariaDB, flowing into a
//! planning platform and a lake.
//!
//! ```text
//! server    the ERP's PostgreSQL    } each private, in a       process   `syncline planner` and `syncline run` as children
//! mariadb   the warehouse's MariaDB } folder of its own        live      one line a second from the daemon's /status
//! erp       tables, opening books, mappings (SQL)              traffic   the ERP's business steps; drive paces them
//! warehouse the same of the warehouse, and its steps           compare   sources against planner, value by value
//! ```
//!
//! Everything is the real thing: the daemon is this executable started with a configuration file that one could have
//! written by hand, and it may be killed at any time; the demo starts it again and nothing else.

mod compare;
mod drive;
mod erp;
mod error;
mod expected;
mod live;
mod lives;
mod mariadb;
mod private;
mod process;
mod server;
mod setup;
mod traffic;
mod warehouse;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use self::compare::Comparison;
use self::drive::{Drive, Pace};
use self::erp::Scale;
use self::expected::Expected;
use self::live::Live;
use self::lives::Daemon;
use self::mariadb::MariaDb;
use self::process::{Process, Program};
use self::server::Server;
use self::setup::Setup;
use crate::figures::{self, grouped};

pub(crate) use self::error::DemoError;
pub(crate) use self::process::end_with_parent;

/// How long the daemon and the planner may take until they answer.
const READY_MAX: Duration = Duration::from_secs(60);

/// What is asked of the demo.
#[derive(Debug, Clone)]
pub(crate) struct DemoOptions {
    /// A bounded day, then drain, compare and exit.
    pub(crate) drain: bool,
    /// Where everything is kept; `None` is a temporary folder that goes with the demo.
    pub(crate) dir: Option<PathBuf>,
    /// From which all traffic follows.
    pub(crate) seed: u64,
    /// Business steps per second that the traffic aims at.
    pub(crate) rate: u32,
    /// Opening books and a day in small, for tests.
    pub(crate) small: bool,
}

impl Default for DemoOptions {
    fn default() -> Self {
        Self { drain: false, dir: None, seed: 1, rate: 300, small: false }
    }
}

impl DemoOptions {
    fn scale(&self) -> Scale {
        if self.small { Scale::SHOP } else { Scale::DISTRIBUTOR }
    }

    /// Business steps of a day with `drain`.
    fn steps(&self) -> u64 {
        if self.small { 600 } else { 3_000 }
    }

    fn pace(&self) -> Pace {
        Pace {
            seed: self.seed,
            connections: 4,
            rate: self.rate,
            steps_max: self.drain.then_some(self.steps()),
            mass_rows: if self.small { 1_000 } else { 50_000 },
            mass_every: Duration::from_secs(60),
        }
    }
}

/// Runs the demo until it is told to stop, or with `drain` until all is delivered and compared.
///
/// # Errors
/// [`DemoError`]: something could not be started, did not stay up, or sources and planner differ at the end.
pub(crate) async fn run(options: DemoOptions) -> Result<(), DemoError> {
    // The daemon may have installed it already, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let executable = std::env::current_exe().map_err(DemoError::file("find", "syncline itself"))?;
    let mut setup = Setup::new(options.dir.clone(), executable)?;
    println!("folder     {}", setup.dir.display());
    let outcome = with_sources(&options, &mut setup).await;
    match &outcome {
        Ok(()) | Err(DemoError::Interrupted) => setup.clean_up()?,
        Err(_) => setup::tell(&format!("kept       {}: what went wrong stands in its logs", setup.dir.display())),
    }
    outcome
}

/// Both databases.
struct Sources {
    erp: Server,
    west: MariaDb,
}

impl Sources {
    /// Makes and starts both at once.
    async fn start(setup: &Setup) -> Result<Self, DemoError> {
        let [erp, west] = setup.servers();
        // One that fails does not keep the other from being there, and so from being stopped.
        let (erp, west) = tokio::join!(Server::start(&erp, &[]), MariaDb::start(&west));
        let (erp, west) = (erp?, west?);
        println!("sources    postgres on 127.0.0.1:{}, mariadb on 127.0.0.1:{}", erp.port(), west.port());
        Ok(Self { erp, west })
    }

    /// Loads both, and lets the readers with those passwords in.
    async fn load(&self, scale: Scale, erp_password: &str, west_password: &str) -> Result<(), DemoError> {
        let erp = erp::load(|database| self.erp.connection(database), scale, erp_password);
        tokio::try_join!(erp, warehouse::load(&self.west, scale, west_password)).map(drop)
    }

    /// Traffic on both.
    async fn drive(&self, pace: Pace) -> Result<Drive, DemoError> {
        let mut drive = Drive::start(&self.erp.connection(erp::DATABASE), pace).await?;
        drive.join(warehouse::staff(&self.west, pace.seed)?);
        Ok(drive)
    }

    /// How the planner compares with what both hold now.
    async fn compare(&self, planner: &str) -> Result<Vec<Comparison>, DemoError> {
        let (mappings, foreign) = (warehouse::erp_mappings(), [warehouse::on_hand(&self.west).await?]);
        let expected = Expected { mappings: &mappings, foreign: &foreign };
        compare::compare(&self.erp.connection(erp::DATABASE), planner, expected).await
    }

    async fn stop(self) -> Result<(), DemoError> {
        let (erp, west) = tokio::join!(self.erp.stop(), self.west.stop());
        erp.and(west)
    }
}

async fn with_sources(options: &DemoOptions, setup: &mut Setup) -> Result<(), DemoError> {
    let stop = Stop::listen()?;
    let begun = Instant::now();
    let sources = Sources::start(setup).await?;
    let outcome = with_books(options, setup, &sources, begun, stop).await;
    let stopped = sources.stop().await;
    outcome.and(stopped)
}

/// Loads the ERP and the warehouse and lets them flow. What is dropped when somebody asks to stop too early takes its
/// children with it.
async fn with_books(
    options: &DemoOptions,
    setup: &mut Setup,
    sources: &Sources,
    begun: Instant,
    mut stop: Stop,
) -> Result<(), DemoError> {
    let (password, west_password) = (server::random_password()?, server::random_password()?);
    setup.add_warehouse(sources.west.port(), west_password.clone());
    let setup = &*setup;
    let prepared = async {
        sources.load(options.scale(), &password, &west_password).await?;
        println!("books      loaded after {:.1} s; seed {}", begun.elapsed().as_secs_f64(), options.seed);
        setup.write_files(sources.erp.port())?;
        let planner = setup.planner().start()?;
        let mut demo = Demo { setup, planner, daemon: Daemon::start(setup.daemon(&password))?, live: setup.live() };
        demo.wait_until_ready().await?;
        demo.introduce();
        Ok::<_, DemoError>((demo, sources.drive(options.pace()).await?))
    };
    let (demo, drive) = tokio::select! {
        prepared = prepared => prepared?,
        () = stop.asked() => return if options.drain { Err(DemoError::Interrupted) } else { Ok(()) },
    };
    if !options.drain {
        return demo.watch(drive, stop).await;
    }
    tokio::select! {
        drained = demo.drain(drive, options, sources, &password) => drained,
        () = stop.asked() => Err(DemoError::Interrupted),
    }
}

struct Demo<'s> {
    setup: &'s Setup,
    planner: Process,
    daemon: Daemon,
    live: Live,
}

impl Demo<'_> {
    async fn wait_until_ready(&mut self) -> Result<(), DemoError> {
        let too_slow = |program: &Program| DemoError::TooSlow {
            program: program.name.to_owned(),
            what: "answer",
            seconds: READY_MAX.as_secs(),
            log: program.log.clone(),
        };
        let ready = async {
            let mut beats = interval(Duration::from_millis(50));
            while self.live.ask().await.is_none() {
                beats.tick().await;
                // Before it has answered once, death means a fault, not a game.
                if let Some(status) = self.daemon.process.ended()? {
                    return Err(self.daemon.process.fault(status));
                }
                self.check_planner_process()?;
            }
            Ok(())
        };
        match tokio::time::timeout(READY_MAX, ready).await {
            Ok(outcome) => outcome,
            Err(_) => Err(too_slow(&self.daemon.program)),
        }
    }

    fn check_planner_process(&mut self) -> Result<(), DemoError> {
        match self.planner.ended()? {
            Some(status) => Err(self.planner.fault(status)),
            None => Ok(()),
        }
    }

    fn introduce(&self) {
        let pid = self.daemon.process.pid().unwrap_or_default();
        println!("planner    {}", self.setup.planner_url());
        println!("daemon     pid {pid}, http://{}; `kill -9 {pid}` and watch it recover", self.setup.listen());
        println!("lake       {}", self.setup.duckdb_query());
        println!();
    }

    /// Shows the flow until somebody asks to stop or something breaks; then everything stops in the order of the flow.
    async fn watch(mut self, mut drive: Drive, mut stop: Stop) -> Result<(), DemoError> {
        let mut seconds = interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                ended = drive.finished() => return ended,
                () = stop.asked() => break,
                _ = seconds.tick() => self.beat(&drive).await?,
            }
        }
        // Where the terminal is gone, nobody reads it, and everything is stopped all the same.
        let _ = self.live.say("stopping");
        drive.stop().await?;
        self.daemon.stop().await?;
        self.planner.stop().await
    }

    async fn beat(&mut self, drive: &Drive) -> Result<(), DemoError> {
        self.check_planner_process()?;
        if self.daemon.revive()? {
            let pid = self.daemon.process.pid().unwrap_or_default();
            self.live.say(&format!("daemon     had died; started again with pid {pid}")).map_err(stdout_fault)?;
        }
        self.live.show(drive.counts(), self.daemon.process.pid()).await.map_err(stdout_fault)
    }

    /// A bounded day with one power cut in the middle, then everything delivered and compared.
    async fn drain(
        mut self,
        mut drive: Drive,
        options: &DemoOptions,
        sources: &Sources,
        password: &str,
    ) -> Result<(), DemoError> {
        let mut seconds = interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut killed = false;
        loop {
            tokio::select! {
                ended = drive.finished() => break ended?,
                _ = seconds.tick() => {
                    if !killed && drive.counts().steps >= options.steps() / 2 {
                        killed = true;
                        self.daemon.process.kill();
                        self.live.say("daemon     killed with SIGKILL half way").map_err(stdout_fault)?;
                    }
                    self.beat(&drive).await?;
                }
            }
        }
        let counts = drive.counts();
        self.daemon.revive()?;
        let stopped = Instant::now();
        self.daemon.stop().await?;
        let summary = self.setup.drain(password).output().await?;
        let summary = summary.lines().last().unwrap_or_default();
        println!();
        println!(
            "traffic    {} steps, {} rows, {} deadlocks tried again",
            grouped(counts.steps),
            grouped(counts.rows),
            grouped(counts.conflicts)
        );
        println!("drained    after {:.1} s; {summary}", stopped.elapsed().as_secs_f64());
        let comparisons = sources.compare(&self.setup.planner_url()).await?;
        self.planner.stop().await?;
        println!("\n{}", compare::HEADING);
        for comparison in &comparisons {
            println!("{comparison}");
        }
        let differ: Vec<String> =
            comparisons.iter().filter(|found| !found.agrees()).map(|found| found.entity.to_owned()).collect();
        if differ.is_empty() {
            println!("\nsources and planner agree key by key and value by value");
            return Ok(());
        }
        Err(DemoError::Mismatch { entities: differ, log: self.setup.daemon_log() })
    }
}

fn stdout_fault(source: std::io::Error) -> DemoError {
    DemoError::File { what: "write to", path: PathBuf::from("standard output"), source }
}

/// Ctrl-C, SIGTERM, and the end of the terminal, after which nobody would be there to stop what the demo started.
struct Stop {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Stop {
    fn listen() -> Result<Self, DemoError> {
        let fault = |source| DemoError::Spawn { program: "a signal handler".into(), source };
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(fault)?,
            terminate: signal(SignalKind::terminate()).map_err(fault)?,
            hangup: signal(SignalKind::hangup()).map_err(fault)?,
        })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
