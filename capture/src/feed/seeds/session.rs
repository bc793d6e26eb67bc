//! One session: finish what the log holds half of, then follow the folder.
//!
//! ```text
//! log holds      folder                         what happens
//! half a change  any                            the rest of it first, from the kept contents
//! contents       the same                       nothing
//! contents       others, without a fault        kept, then the difference, then the old ones removed
//! contents       with a fault, or gone          nothing; `Progress::problem` says why, and the folder is looked at again
//! ```
//!
//! Order that a crash anywhere leaves whole: a content is durable before a frame names it, and a frame is durable before
//! the contents that it no longer names are removed. Nothing here waits for the operator: only a fault of our own files
//! ends the session, and with `drain` one of the folder does.

use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use syncline_schemas::ident::LogOffset;
use tracing::{info, warn};

use super::append::{Appender, FrameLimits};
use super::config::SeedsConfig;
use super::fault::FileFault;
use super::folder::{self, Listing, POLL, Watch};
use super::kept::{Kept, misfit};
use super::load::{self, Loaded};
use super::position::{Cut, Manifest, SeedsPosition};
use crate::error::Listed;
use crate::limits::{FRAME_BYTES_MAX, FRAME_ROWS_MAX};
use crate::progress::now_us;
use crate::{CaptureError, LogSink, Outcome, Progress, Resume, State, StopSignal};

/// How long one wait lasts before the reader looks whether it should stop.
const STOP_POLL: Duration = Duration::from_millis(50);
/// How often a frame that is not durable is asked about.
const DURABLE_POLL: Duration = Duration::from_millis(100);

/// Reads the seeds until it is stopped, has drained or fails.
///
/// Blocks; give it a thread. No error is of class `Transient`: what can mend by itself is waited for inside.
///
/// # Errors
/// [`CaptureError`]: the kept contents, the position or the log cannot be used; with `drain` also faults of the folder.
pub fn run(
    config: &SeedsConfig,
    resume: Option<Resume>,
    log: &dyn LogSink,
    progress: &Progress,
    stop: &StopSignal,
) -> Result<Outcome, CaptureError> {
    progress.enter(State::Snapshot);
    let limits = FrameLimits { rows: FRAME_ROWS_MAX, bytes: FRAME_BYTES_MAX };
    let outcome = Session::new(config, log, progress, stop, limits).run(resume.as_ref());
    progress.enter(State::Idle);
    outcome
}

/// A session between two looks at the folder.
pub(super) struct Session<'a> {
    config: &'a SeedsConfig,
    log: &'a dyn LogSink,
    progress: &'a Progress,
    stop: &'a StopSignal,
    limits: FrameLimits,
    kept: Kept,
    watch: Watch,
    /// The listing that `held` was loaded from; files that are as they were then are not read again.
    loaded: Listing,
    /// What the log holds, durably.
    held: Manifest,
}

/// What came of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing to do, or nothing that can be done yet.
    Waiting,
    /// The folder is in the log, durably.
    Loaded,
    /// The folder has faults; the rows stay as they are.
    Refused,
    /// The stop signal was given on the way.
    Stopped,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        config: &'a SeedsConfig,
        log: &'a dyn LogSink,
        progress: &'a Progress,
        stop: &'a StopSignal,
        limits: FrameLimits,
    ) -> Self {
        let kept = Kept::new(config.source.clone(), config.kept.clone());
        let (watch, loaded, held) = (Watch::default(), Listing::default(), Manifest::new());
        Self { config, log, progress, stop, limits, kept, watch, loaded, held }
    }

    fn run(mut self, resume: Option<&Resume>) -> Result<Outcome, CaptureError> {
        if self.resume(resume)? == Step::Stopped {
            return Ok(Outcome::Stopped);
        }
        if !self.held.is_empty() {
            self.progress.enter(State::Streaming);
        }
        while !self.stop.is_stopped() {
            match self.look(SystemTime::now())? {
                Step::Stopped => break,
                Step::Loaded if self.config.drain => return Ok(Outcome::Drained),
                Step::Loaded => self.progress.enter(State::Streaming),
                Step::Waiting | Step::Refused => {}
            }
            self.pause();
        }
        Ok(Outcome::Stopped)
    }

    /// Takes up where the log stands; finishes a change that is half in it.
    pub(super) fn resume(&mut self, resume: Option<&Resume>) -> Result<Step, CaptureError> {
        if let Some(resume) = resume.filter(|resume| !resume.position.is_start()) {
            let position =
                SeedsPosition::decode(&resume.position).map_err(|reason| misfit(&self.config.source, reason))?;
            if resume.txn_end != matches!(position, SeedsPosition::Whole(_)) {
                let reason = "it contradicts its frame about the end of a transaction".to_owned();
                return Err(misfit(&self.config.source, reason));
            }
            match position {
                SeedsPosition::Whole(manifest) => self.held = manifest,
                SeedsPosition::Cut(cut) => {
                    info!(source = %self.config.source, rows = cut.rows, "finishing a change of the seeds");
                    if self.append(&cut)? == Step::Stopped {
                        return Ok(Step::Stopped);
                    }
                }
            }
        }
        self.tidy();
        Ok(Step::Waiting)
    }

    /// Looks at the folder and puts what it says into the log, where it is to be loaded.
    pub(super) fn look(&mut self, now: SystemTime) -> Result<Step, CaptureError> {
        let listing = match folder::list(&self.config.dir) {
            Ok(listing) => listing,
            Err(error) => {
                self.watch.lost();
                return self.refuse(vec![load::no_folder(self.config, &error)]);
            }
        };
        self.progress.observe_message(0);
        if !self.watch.is_due(&listing, now) {
            if listing == self.loaded {
                // As of before it was listed.
                let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
                let at_us = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
                self.progress.prove(at_us, self.log.durable()?);
            }
            return Ok(Step::Waiting);
        }
        let read = self.read(&listing)?;
        if folder::list(&self.config.dir).ok().as_ref() != Some(&listing) {
            // It changed while it was read: what was read may be half of it.
            return Ok(Step::Waiting);
        }
        self.watch.judged(listing.clone());
        let manifest = match read {
            Ok(manifest) => manifest,
            Err(faults) => return self.refuse(faults),
        };
        self.progress.set_problem(None);
        if manifest != self.held {
            let from = std::mem::take(&mut self.held);
            let cut = Cut { from, to: manifest, rows: 0, loaded_us: now_us() };
            if self.append(&cut)? == Step::Stopped {
                return Ok(Step::Stopped);
            }
            self.tidy();
            info!(source = %self.config.source, files = self.held.len(), "loaded the seeds");
        }
        self.loaded = listing;
        Ok(Step::Loaded)
    }

    /// Keeps the content of every file that is not the one loaded; the folder as a manifest, or all its faults.
    fn read(&self, listing: &Listing) -> Result<Result<Manifest, Vec<FileFault>>, CaptureError> {
        let mut faults = load::listing_faults(self.config, listing);
        let mut manifest = Manifest::new();
        for (name, stat) in &listing.files {
            let known = self.held.get(name).filter(|_| self.loaded.files.get(name) == Some(stat));
            if let Some(known) = known {
                manifest.insert(name.clone(), known.clone());
                continue;
            }
            match load::file(self.config, name, stat.len) {
                Ok(loaded) => {
                    faults.extend(self.shape_fault(name, &loaded)?);
                    self.progress.observe_message(loaded.bytes.len());
                    self.kept.keep(loaded.entry.hash, &loaded.bytes)?;
                    manifest.insert(name.clone(), loaded.entry);
                }
                Err(found) => faults.extend(found),
            }
        }
        faults.extend(load::manifest_fault(self.config, &manifest));
        Ok(if faults.is_empty() { Ok(manifest) } else { Err(faults) })
    }

    /// Asks whoever reads the log whether it can take a content that is not in it.
    fn shape_fault(&self, name: &str, loaded: &Loaded) -> Result<Option<FileFault>, CaptureError> {
        let before = match self.held.get(name) {
            Some(before) if *before == loaded.entry => return Ok(None),
            Some(before) => Some(self.kept.schema(name, before)?),
            None => None,
        };
        let shape = &loaded.table.schema;
        let asked = before.as_ref() != Some(shape);
        let fault = if asked { self.config.judge.fault(before.as_ref(), shape) } else { None };
        Ok(fault.map(|reason| FileFault::of_file(&self.config.file(name), reason)))
    }

    /// The rows stay as they are, and the operator is told why, once per state of the folder.
    fn refuse(&self, faults: Vec<FileFault>) -> Result<Step, CaptureError> {
        if self.config.drain {
            return Err(CaptureError::Files { source_id: self.config.source.clone(), faults });
        }
        let problem = Listed(&faults).to_string();
        if self.progress.problem().as_ref() != Some(&problem) {
            warn!(source = %self.config.source, "the seeds stay as they were loaded last: {problem}");
            self.progress.set_problem(Some(problem));
        }
        Ok(Step::Refused)
    }

    /// Puts a change into the log and waits until it is durable.
    fn append(&mut self, cut: &Cut) -> Result<Step, CaptureError> {
        let appender = Appender {
            source: &self.config.source,
            kept: &self.kept,
            log: self.log,
            progress: self.progress,
            stop: self.stop,
            limits: self.limits,
        };
        let Some(offset) = appender.append(cut)? else { return Ok(Step::Stopped) };
        if !self.wait_durable(offset)? {
            return Ok(Step::Stopped);
        }
        self.held.clone_from(&cut.to);
        Ok(Step::Loaded)
    }

    /// False where it was stopped before.
    fn wait_durable(&self, offset: LogOffset) -> Result<bool, CaptureError> {
        loop {
            if self.log.wait_durable(offset, DURABLE_POLL)? >= offset {
                return Ok(true);
            }
            if self.stop.is_stopped() {
                return Ok(false);
            }
        }
    }

    /// Removes contents that nothing durable names. One that stays costs disk and nothing else.
    fn tidy(&self) {
        if let Err(error) = self.kept.remove_others(&self.held) {
            warn!(source = %self.config.source, %error, "a content that is no longer needed stays");
        }
    }

    fn pause(&self) {
        let until = Instant::now() + POLL;
        while !self.stop.is_stopped() && Instant::now() < until {
            thread::sleep(STOP_POLL);
        }
    }
}
