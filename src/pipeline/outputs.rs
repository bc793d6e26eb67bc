//! The way from the reader of planning outputs to a planning platform: capture knows cycles, sinks know HTTP and secrets.

use std::sync::Arc;
use std::time::Duration;

use syncline_capture::StopSignal;
use syncline_capture::feed::outputs::{self, OutputsApi, OutputsConfig, Pages};
use syncline_schemas::outputs::PageOf;
use syncline_sinks::SinkError;
use syncline_sinks::planning::{NoPage, OutputsClient, PlanningConfig};
use tokio::runtime::{Builder, Runtime};

use crate::config::OutputsSource;

/// How often a question under way looks whether it should stop.
const STOP_POLL: Duration = Duration::from_millis(50);

/// What the reader needs of a configured source.
pub(crate) fn reader(source: &OutputsSource) -> OutputsConfig {
    OutputsConfig {
        source: source.id.clone(),
        url: source.platform.url.to_string(),
        outputs: source.outputs.clone(),
        poll_every: source.poll_every,
        api: Arc::new(Api(source.platform.clone())),
        bell: source.bell.clone(),
        drain: source.drain,
    }
}

struct Api(PlanningConfig);

impl OutputsApi for Api {
    fn connect(&self) -> Result<Box<dyn Pages>, outputs::NoPage> {
        let unusable = |reason| outputs::NoPage::Refused { reason, remedy: String::new() };
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| unusable(error.to_string()))?;
        let client = OutputsClient::new(self.0.clone()).map_err(|error| unusable(error.to_string()))?;
        Ok(Box::new(Connected { runtime, client }))
    }
}

/// A session's connections, with the runtime that drives them while a question is under way.
struct Connected {
    runtime: Runtime,
    client: OutputsClient,
}

impl Pages for Connected {
    fn page(&mut self, of: PageOf<'_>, stop: &StopSignal) -> Result<Vec<u8>, outputs::NoPage> {
        self.runtime.block_on(async {
            tokio::select! {
                page = self.client.page(of) => page.map(Vec::from).map_err(in_words_of_capture),
                () = stopped(stop) => Err(outputs::NoPage::Stopped),
            }
        })
    }
}

async fn stopped(stop: &StopSignal) {
    let mut beats = tokio::time::interval(STOP_POLL);
    while !stop.is_stopped() {
        beats.tick().await;
    }
}

fn in_words_of_capture(fault: NoPage) -> outputs::NoPage {
    let (error, is_gone) = match fault {
        NoPage::Gone(error) => (error, true),
        NoPage::Failed(error) => (error, false),
    };
    match error {
        SinkError::Unavailable { reason, .. } => outputs::NoPage::Away { reason },
        SinkError::Refused { reason, remedy, .. } => {
            // Whoever reads it looks for the section of a source.
            let remedy = remedy.replace("sink's", "source's");
            if is_gone { outputs::NoPage::Gone { reason, remedy } } else { outputs::NoPage::Refused { reason, remedy } }
        }
        other => {
            outputs::NoPage::Refused { reason: other.to_string(), remedy: "check the source's settings".to_owned() }
        }
    }
}
