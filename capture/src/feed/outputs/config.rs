//! What the operator says, and the seams of the reader: the platform is asked by somebody who knows HTTP and secrets.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use syncline_schemas::ident::SourceId;
use syncline_schemas::outputs::PageOf;

use crate::StopSignal;

/// Why there is no page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoPage {
    /// The stop signal was given while the answer was waited for.
    Stopped,
    /// The platform does not have what was asked for, or not any more.
    Gone {
        /// What it said.
        reason: String,
        /// What to do where it should have it.
        remedy: String,
    },
    /// It did not answer for a while; it may later.
    Away {
        /// What was tried.
        reason: String,
    },
    /// Waiting does not help.
    Refused {
        /// What it said.
        reason: String,
        /// What to do.
        remedy: String,
    },
}

/// A way to a planning platform.
pub trait OutputsApi: Send + Sync {
    /// Prepares connections for one session, on the thread that will use them.
    ///
    /// # Errors
    /// [`NoPage::Refused`] for settings that cannot be used.
    fn connect(&self) -> Result<Box<dyn Pages>, NoPage>;
}

/// The pages of a planning platform.
pub trait Pages {
    /// One page as JSON. Blocks, repeats what may mend for a while, and returns soon after the stop signal.
    ///
    /// # Errors
    /// [`NoPage`].
    fn page(&mut self, of: PageOf<'_>, stop: &StopSignal) -> Result<Vec<u8>, NoPage>;
}

/// Has a reader ask at once; clones are the same bell. However often it is rung, the reader asks once.
#[derive(Debug, Clone, Default)]
pub struct Bell(Arc<AtomicBool>);

impl Bell {
    /// There may be something new.
    pub fn ring(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it was rung since this was asked last.
    pub(super) fn take(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }
}

/// A source of planning outputs.
#[derive(Clone)]
pub struct OutputsConfig {
    /// Its name.
    pub source: SourceId,
    /// The platform, for messages.
    pub url: String,
    /// Which outputs, of [`OUTPUTS`](syncline_schemas::outputs::OUTPUTS).
    pub outputs: Vec<&'static str>,
    /// How often the platform is asked whether there is something new.
    pub poll_every: Duration,
    /// Who asks it.
    pub api: Arc<dyn OutputsApi>,
    /// Who says that there is something new.
    pub bell: Bell,
    /// End by itself once every newest cycle is durable.
    pub drain: bool,
}

impl fmt::Debug for OutputsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, url, outputs, poll_every, drain, .. } = self;
        f.debug_struct("OutputsConfig")
            .field("source", source)
            .field("url", url)
            .field("outputs", outputs)
            .field("poll_every", poll_every)
            .field("drain", drain)
            .finish_non_exhaustive()
    }
}
