//! One session: finish the cycle that the log holds half of, then ask the platform at times whether there is another one.
//!
//! ```text
//! log holds        platform's newest        what happens
//! all, half        any                      first the rest, as after `syncline replay --reread`
//! half a cycle     any                      first the rest: the same cycle from its start, or the newest where it is gone or broken
//! a cycle          the same                 nothing; all that was published before the question is in the log
//! a cycle          another one              it is pulled, whole
//! a cycle          none                     nothing: what was published last stays in force
//! anything         one that breaks rules    nothing more: the next one is waited for, and what is wrong is a problem of the source
//! ```
//!
//! It asks every `poll_every`, and at once when the bell rings or somebody waits for a proof, but never in a hot loop.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use syncline_schemas::frame::{Frame, LogEntry};
use syncline_schemas::ident::LogOffset;
use syncline_schemas::outputs::{OUTPUTS, PageOf};
use tracing::info;

use super::config::{NoPage, OutputsConfig, Pages};
use super::page::{self, Cycle};
use super::position::{Done, OutputsPosition};
use super::pull::{FrameLimits, Puller, Unpulled, ask, away, broken};
use super::table::Table;
use crate::limits::{FRAME_BYTES_MAX, FRAME_ROWS_MAX};
use crate::progress::now_us;
use crate::requests::Request;
use crate::{CaptureError, LogSink, Outcome, Progress, Requests, Resume, State, StopSignal};

/// How long one wait lasts before the reader looks whether it should stop.
const STOP_POLL: Duration = Duration::from_millis(50);
/// How often a frame that is not durable is asked about.
const DURABLE_POLL: Duration = Duration::from_millis(100);
/// However often the bell rings, so much lies between two questions: a webhook may come many times.
const POLL_GAP: Duration = Duration::from_secs(1);

/// Reads planning outputs until it is stopped, has drained or fails.
///
/// Blocks; give it a thread.
///
/// # Errors
/// [`CaptureError`]: the platform does not answer or breaks the contract, the position or the log cannot be used.
pub fn run(
    config: &OutputsConfig,
    resume: Option<Resume>,
    log: &dyn LogSink,
    progress: &Progress,
    requests: &Requests,
    stop: &StopSignal,
) -> Result<Outcome, CaptureError> {
    progress.enter(State::Connecting);
    let limits = FrameLimits { rows: FRAME_ROWS_MAX, bytes: FRAME_BYTES_MAX };
    let outcome = connect(config)
        .and_then(|pages| Session::new(config, pages, log, progress, requests, stop, limits).run(resume.as_ref()));
    progress.enter(State::Idle);
    outcome
}

/// The newest cycle of an output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Newest {
    /// The entity.
    pub output: &'static str,
    /// Its cycle and how many rows that has; none where nothing was published yet.
    pub cycle: Option<(String, u64)>,
}

/// Asks for the newest cycle of every output; reads one row of each and puts nothing anywhere.
///
/// # Errors
/// [`CaptureError`]: the platform does not answer or breaks the contract.
pub fn check(config: &OutputsConfig, stop: &StopSignal) -> Result<Vec<Newest>, CaptureError> {
    let mut pages = connect(config)?;
    let mut found = Vec::new();
    for output in &config.outputs {
        match newest(config, pages.as_mut(), output, stop) {
            Ok(cycle) => found.push(Newest { output, cycle: cycle.map(|cycle| (cycle.id, cycle.row_count)) }),
            Err(Unpulled::Stopped) => break,
            Err(Unpulled::Gone(error) | Unpulled::Failed(error)) => return Err(error),
        }
    }
    Ok(found)
}

fn connect(config: &OutputsConfig) -> Result<Box<dyn Pages>, CaptureError> {
    config.api.connect().map_err(|fault| match fault {
        NoPage::Refused { reason, .. } | NoPage::Gone { reason, .. } | NoPage::Away { reason } => {
            let place = "connection".to_owned();
            CaptureError::Config { source_id: config.source.clone(), place, reason }
        }
        NoPage::Stopped => away(config, "stopped".to_owned()),
    })
}

/// What the platform says of the newest cycle of an output.
fn newest(
    config: &OutputsConfig,
    pages: &mut dyn Pages,
    output: &str,
    stop: &StopSignal,
) -> Result<Option<Cycle>, Unpulled> {
    let of = PageOf { output, cycle: None, cursor: None, limit: Some(1) };
    let bytes = ask(config, pages, of, stop)?;
    let page = page::read(output, &bytes)
        .map_err(|reason| broken(&config.source, output, "the newest page".to_owned(), reason))?;
    Ok(page.cycle)
}

/// A session between two looks at the platform.
pub(super) struct Session<'a> {
    config: &'a OutputsConfig,
    pages: Box<dyn Pages>,
    log: &'a dyn LogSink,
    progress: &'a Progress,
    requests: &'a Requests,
    stop: &'a StopSignal,
    limits: FrameLimits,
    tables: Vec<Table>,
    /// The cycles that the log holds, durably.
    done: Done,
    /// Readings that somebody waits for.
    wanted: Vec<Request>,
    /// All outputs are being read again, in one transaction.
    again: bool,
    /// A cycle of which the log holds a part: no other output may come before its end.
    cut: Option<(String, String)>,
    /// A cycle that breaks the contract, and how: it is not pulled again.
    broken: Option<(usize, String, String)>,
    /// When the cycles that this session pulled were published.
    published: BTreeMap<&'static str, i64>,
    /// An older cycle is given out as the newest.
    backwards: Option<String>,
    /// The log has a frame of this source.
    has_frames: bool,
}

/// A transaction that the log holds a part of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Open {
    /// This cycle of this output.
    Cycle { output: String, cycle: String },
    /// The newest cycles of all outputs.
    All,
}

/// What came of a round over all outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Round {
    /// The log had every newest cycle.
    Nothing,
    /// Some were put into it, durably.
    Pulled,
    Stopped,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        config: &'a OutputsConfig,
        pages: Box<dyn Pages>,
        log: &'a dyn LogSink,
        progress: &'a Progress,
        requests: &'a Requests,
        stop: &'a StopSignal,
        limits: FrameLimits,
    ) -> Self {
        let tables = config.outputs.iter().map(|output| Table::new(&config.source, output)).collect();
        Self {
            config,
            pages,
            log,
            progress,
            requests,
            stop,
            limits,
            tables,
            done: Done::new(),
            wanted: Vec::new(),
            again: false,
            cut: None,
            broken: None,
            published: BTreeMap::new(),
            backwards: None,
            has_frames: false,
        }
    }

    pub(super) fn run(mut self, resume: Option<&Resume>) -> Result<Outcome, CaptureError> {
        match self.resume(resume)? {
            Some(Open::Cycle { output, cycle }) => self.cut = Some((output, cycle)),
            Some(Open::All) => self.again = true,
            None => {}
        }
        self.progress.enter(if self.done.is_empty() { State::Snapshot } else { State::Streaming });
        while !self.stop.is_stopped() {
            let asked = (Instant::now(), now_us());
            let step = if self.again {
                self.read_again()
            } else if let Some((output, cycle)) = self.cut.clone() {
                self.finish(&output, &cycle)
            } else {
                self.round()
            };
            match step {
                // The next cycle may be sound, and what was published last stays in force until then.
                Err(error @ CaptureError::Output { .. }) if !self.config.drain => {
                    self.progress.set_problem(Some(error.to_string()));
                    self.pause(asked.0);
                    continue;
                }
                Err(error) => return Err(error),
                Ok(Round::Stopped) => break,
                Ok(Round::Pulled) => {
                    self.progress.set_problem(None);
                    // What was published meanwhile is asked for before anything is proved.
                    self.pause_until(asked.0 + self.gap());
                    continue;
                }
                Ok(Round::Nothing) => {}
            }
            self.progress.set_problem(self.backwards.take());
            self.begin_with_nothing()?;
            self.progress.enter(State::Streaming);
            self.progress.prove(asked.1, self.log.durable()?);
            if self.config.drain {
                return Ok(Outcome::Drained);
            }
            self.pause(asked.0);
        }
        Ok(Outcome::Stopped)
    }

    /// Says in the log that nothing was published yet: others wait until a source has been read whole.
    fn begin_with_nothing(&mut self) -> Result<(), CaptureError> {
        if !std::mem::replace(&mut self.has_frames, true) {
            let end = self.end_transaction()?;
            self.wait_durable(end)?;
        }
        Ok(())
    }

    /// A frame without rows, which ends whatever is open.
    fn end_transaction(&self) -> Result<LogOffset, CaptureError> {
        let frame = Frame {
            source: self.config.source.clone(),
            position: OutputsPosition::Whole(self.done.clone()).encode(),
            captured_at: now_us(),
            txn_end: true,
            batches: Vec::new(),
        };
        self.log.append(LogEntry::Frame(frame))
    }

    /// Takes up where the log stands, and puts the shapes of all tables there; what is half in the log.
    pub(super) fn resume(&mut self, resume: Option<&Resume>) -> Result<Option<Open>, CaptureError> {
        let mut open = None;
        if let Some(resume) = resume.filter(|resume| !resume.position.is_start()) {
            self.has_frames = true;
            let position = OutputsPosition::decode(&resume.position).map_err(|reason| self.misfit(reason))?;
            (self.done, open) = match position {
                OutputsPosition::Whole(done) => (done, None),
                OutputsPosition::Cut { done, output, cycle } => (done, Some(Open::Cycle { output, cycle })),
                OutputsPosition::Again(done) => (done, Some(Open::All)),
            };
            if resume.txn_end != open.is_none() {
                return Err(self.misfit("it contradicts its frame about the end of a transaction".to_owned()));
            }
        }
        if let Some(Open::Cycle { output, .. }) = &open
            && !self.tables.iter().any(|table| table.output == output)
        {
            // It was taken out of the configuration since; what is half there is finished all the same.
            let known = OUTPUTS.into_iter().find(|known| known == output);
            let known = known.ok_or_else(|| self.misfit("it names an output that is not known".to_owned()))?;
            self.tables.push(Table::new(&self.config.source, known));
        }
        for table in &self.tables {
            if !self.progress.has_logged(&table.schema) {
                self.log.append(LogEntry::Schema(table.schema.clone()))?;
                self.progress.observe_shape(&table.schema);
            }
        }
        Ok(open)
    }

    fn misfit(&self, reason: String) -> CaptureError {
        CaptureError::Position {
            source_id: self.config.source.clone(),
            reason,
            remedy: "give data_dir back the content that it had with this log, or begin with an empty one",
        }
    }

    /// Ends the transaction that a cycle began which was cut.
    pub(super) fn finish(&mut self, output: &str, cycle: &str) -> Result<Round, CaptureError> {
        let Some(at) = self.tables.iter().position(|table| table.output == output) else { return Ok(Round::Nothing) };
        info!(source = %self.config.source, output, cycle, "finishing a cycle that is half in the log");
        let mut ended = self.pull(at, cycle);
        // What cannot be ended with its own cycle is ended with the next one, which makes up for what came of it.
        if matches!(ended, Err(Unpulled::Gone(_) | Unpulled::Failed(CaptureError::Output { .. }))) {
            ended = match newest(self.config, self.pages.as_mut(), self.tables[at].output, self.stop) {
                Ok(Some(newest)) if newest.id != cycle => self.pull(at, &newest.id),
                Ok(None) => {
                    let reason =
                        format!("cycle {cycle} of {output} is half in the log, and the platform has none any more");
                    Err(away(self.config, reason).into())
                }
                Ok(Some(_)) => ended,
                Err(unpulled) => Err(unpulled),
            };
        }
        let outputs = &self.config.outputs;
        self.tables.retain(|table| outputs.contains(&table.output));
        self.ended(ended)
    }

    /// Puts the newest cycle of every output into the log that is not there, as one transaction.
    fn read_again(&mut self) -> Result<Round, CaptureError> {
        self.again = true;
        for at in 0..self.tables.len() {
            let output = self.tables[at].output;
            if self.done.contains_key(output) {
                continue;
            }
            let ended = match newest(self.config, self.pages.as_mut(), output, self.stop) {
                Ok(Some(newest)) => self.pull(at, &newest.id),
                Ok(None) => Ok(()),
                Err(unpulled) => Err(unpulled),
            };
            if self.ended(ended)? == Round::Stopped {
                return Ok(Round::Stopped);
            }
        }
        self.again = false;
        let end = self.end_transaction()?;
        Ok(if self.wait_durable(end)? { Round::Pulled } else { Round::Stopped })
    }

    /// Nobody is told that a cycle is gone by a platform that had it a moment ago: it is asked again.
    fn ended(&self, ended: Result<(), Unpulled>) -> Result<Round, CaptureError> {
        match ended {
            Ok(()) => Ok(Round::Pulled),
            Err(Unpulled::Stopped) => Ok(Round::Stopped),
            Err(Unpulled::Gone(error)) => Err(away(self.config, error.to_string())),
            Err(Unpulled::Failed(error)) => Err(error),
        }
    }

    /// Asks for the newest cycle of every output, and pulls those that the log does not hold.
    pub(super) fn round(&mut self) -> Result<Round, CaptureError> {
        self.wanted.extend(self.requests.take());
        let mut came = Round::Nothing;
        for at in 0..self.tables.len() {
            let output = self.tables[at].output;
            let newest = match newest(self.config, self.pages.as_mut(), output, self.stop) {
                Ok(newest) => newest,
                Err(Unpulled::Stopped) => return Ok(Round::Stopped),
                // Without a cycle named nothing can be gone but the service.
                Err(Unpulled::Gone(error) | Unpulled::Failed(error)) => return Err(error),
            };
            self.progress.observe_message(0);
            let Some(newest) = newest else { continue };
            let is_wanted = self.wanted.iter().any(|request| request.table == self.tables[at].schema.table);
            if self.done.get(output) == Some(&newest.id) && !is_wanted {
                continue;
            }
            if self.published.get(output).is_some_and(|held| newest.published_us < *held) {
                let (id, at) = (&newest.id, &newest.published_at);
                self.backwards =
                    Some(format!("{output}: cycle {id} of {at} is given out as the newest, and a later one was"));
                continue;
            }
            let ended = self.pull(at, &newest.id);
            match self.ended(ended)? {
                Round::Stopped => return Ok(Round::Stopped),
                other => came = other,
            }
            self.published.insert(output, newest.published_us);
        }
        for request in std::mem::take(&mut self.wanted) {
            let known: Vec<String> = self.tables.iter().map(|table| table.schema.table.to_string()).collect();
            request.answer(Err(format!("of this table nothing is published; the source has {}", known.join(", "))));
        }
        Ok(came)
    }

    /// Puts a cycle into the log and waits until it is durable.
    fn pull(&mut self, at: usize, cycle: &str) -> Result<(), Unpulled> {
        if let Some((_, _, reason)) = self.broken.as_ref().filter(|(of, id, _)| *of == at && id == cycle) {
            let output = self.tables[at].output;
            return Err(broken(&self.config.source, output, format!("cycle {cycle}"), reason.clone()).into());
        }
        let pulled = self.put(at, cycle);
        if let Err(Unpulled::Failed(CaptureError::Output { reason, .. })) = &pulled {
            self.broken = Some((at, cycle.to_owned(), reason.clone()));
        }
        let end = pulled?;
        if !self.wait_durable(end)? {
            return Err(Unpulled::Stopped);
        }
        self.cut = None;
        let output = self.tables[at].output;
        self.done.insert(output.to_owned(), cycle.to_owned());
        info!(source = %self.config.source, output, cycle, "a cycle of planning is in the log");
        Ok(())
    }

    fn put(&mut self, at: usize, cycle: &str) -> Result<LogOffset, Unpulled> {
        let Self { config, log, progress, stop, limits, again, .. } = *self;
        let table = &self.tables[at];
        let puller = Puller { config, log, progress, stop, limits, table, done: &self.done, again };
        let (wanted, cut, has_frames) = (&mut self.wanted, &mut self.cut, &mut self.has_frames);
        let mut begun = || {
            *has_frames = true;
            if !again {
                *cut = Some((table.output.to_owned(), cycle.to_owned()));
            }
            for request in wanted.extract_if(.., |request| request.table == table.schema.table) {
                request.answer(Ok(()));
            }
        };
        puller.pull(self.pages.as_mut(), cycle, &mut begun)
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

    /// What lies between two questions at least.
    fn gap(&self) -> Duration {
        POLL_GAP.min(self.config.poll_every)
    }

    fn pause_until(&self, until: Instant) {
        while !self.stop.is_stopped() && Instant::now() < until {
            thread::sleep(STOP_POLL.min(self.config.poll_every));
        }
    }

    /// Waits until it is time to ask again.
    fn pause(&self, asked: Instant) {
        let (earliest, until) = (asked + self.gap(), asked + self.config.poll_every);
        while !self.stop.is_stopped() {
            let now = Instant::now();
            let is_called = || self.config.bell.take() || self.progress.take_wish() || self.requests.is_waiting();
            if now >= until || (now >= earliest && is_called()) {
                return;
            }
            thread::sleep(STOP_POLL.min(self.config.poll_every));
        }
    }
}
