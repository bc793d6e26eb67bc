//! Pulls planning outputs: one page at a time, over the connections and with the proofs of a planning sink.
//!
//! A question is repeated as a batch is, with pauses, until patience ends. What a page says is for whoever asked: the bytes
//! are handed on as they came, at most as many as an answer may have.

use bytes::Bytes;
use syncline_schemas::outputs::PageOf;

use super::client::{Client, Stop};
use super::config::PlanningConfig;
use super::stats::PlanningStats;
use crate::SinkError;

/// Why there is no page.
#[derive(Debug)]
pub enum NoPage {
    /// The platform does not have what was asked for, or not any more.
    Gone(SinkError),
    /// No answer, or one that nobody can use.
    Failed(SinkError),
}

/// Asks a planning platform for what it computed.
pub struct OutputsClient {
    config: PlanningConfig,
    client: Client,
    stats: PlanningStats,
}

impl OutputsClient {
    /// Prepares connections; none is made yet. What is said of batches in the settings has no meaning here.
    ///
    /// # Errors
    /// [`SinkError::Setting`] for a setting that cannot be used.
    pub fn new(config: PlanningConfig) -> Result<Self, SinkError> {
        config.check()?;
        Ok(Self { client: Client::new(config.clone())?, config, stats: PlanningStats::default() })
    }

    /// A page, as JSON.
    ///
    /// # Errors
    /// [`NoPage`]; its error is [`SinkError::Unavailable`] where patience ended, [`SinkError::Refused`] with the remedy
    /// where waiting does not help.
    pub async fn page(&self, of: PageOf<'_>) -> Result<Bytes, NoPage> {
        let mut url = self.config.endpoint(&["outputs", of.output]);
        let limit = of.limit.map(|limit| limit.to_string());
        let words = [("cycle", of.cycle), ("cursor", of.cursor), ("limit", limit.as_deref())];
        for (name, value) in words.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            url.query_pairs_mut().append_pair(name, value);
        }
        self.client.ask(&url, &self.stats).await.map_err(|stop| match stop {
            Stop::Gone(error) => NoPage::Gone(error),
            stop => NoPage::Failed(stop.into_error()),
        })
    }
}
