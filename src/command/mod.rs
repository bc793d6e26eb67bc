//! The commands: each a function from arguments to an exit code.

pub(crate) mod check;
mod client;
pub(crate) mod letters;
mod orders;
pub(crate) mod planner;
pub(crate) mod query;
pub(crate) mod replay;
pub(crate) mod rows;
pub(crate) mod run;
pub(crate) mod schemas;
mod signals;
pub(crate) mod snapshot;
pub(crate) mod status;
pub(crate) mod tables;
mod verify;

use syncline_journal::JournalError;
use thiserror::Error;

use crate::api::ListenError;
use crate::config::ConfigFaults;
use crate::pipeline::PipelineError;
use crate::pipeline::accept::AcceptError;
use crate::pipeline::rehearse::RehearsalError;

/// Why a command failed; printed once, exit code 1.
#[derive(Debug, Error)]
pub(crate) enum CommandError {
    /// The configuration has faults.
    #[error(transparent)]
    Config(#[from] ConfigFaults),
    /// An argument cannot be used.
    #[error("{0}")]
    Usage(String),
    /// The daemon did not start or ended.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// The data folder cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Changed mappings cannot be accepted.
    #[error(transparent)]
    Accept(#[from] AcceptError),
    /// Changed mappings cannot be shown.
    #[error(transparent)]
    Rehearsal(#[from] RehearsalError),
    /// A drain was told to stop.
    #[error("interrupted before everything was confirmed; what is left is delivered after the next start")]
    Interrupted,
    /// Findings that keep the daemon from working.
    #[error("{0}")]
    Unfit(String),
    /// The control API has no address.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Nobody answers where the daemon should listen.
    #[error("no daemon answers at {url}: {reason}; start it with `syncline run`")]
    NoDaemon {
        /// Where it was asked.
        url: String,
        /// What the system said.
        reason: String,
    },
    /// The daemon takes too long.
    #[error("the daemon at {url} has not answered within {seconds} s; ask for less, or again when it is less busy")]
    Slow {
        /// Where it was asked.
        url: String,
        /// How long.
        seconds: u64,
    },
    /// Somebody else answers where the daemon should listen.
    #[error("what answers at {url} is no daemon of this version: {reason}; check listen in [daemon]")]
    NotADaemon {
        /// Where it was asked.
        url: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// A sink or the receiver failed.
    #[error(transparent)]
    Sink(#[from] syncline_sinks::SinkError),
    /// A question to a lake cannot be answered.
    #[error("{0}")]
    Query(Box<datafusion::error::DataFusionError>),
    /// The demo failed.
    #[error(transparent)]
    Demo(#[from] crate::demo::DemoError),
    /// The system refused something.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl From<datafusion::error::DataFusionError> for CommandError {
    fn from(error: datafusion::error::DataFusionError) -> Self {
        Self::Query(Box::new(error))
    }
}
