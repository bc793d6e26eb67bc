//! How to reach a planning platform and how much to send at a time.

use std::time::Duration;

use syncline_schemas::secret::Secret;
use url::Url;

use crate::{EntityPatterns, SinkError};

/// Partitions of a flow where the configuration names none: enough to hide a round trip of some ms from 50,000 rows/s.
pub const PARTITIONS: u32 = 8;
/// Records in a batch: half of the smallest limit seen at real platforms (2,000).
pub const MAX_RECORDS: usize = 1_000;
/// Bytes in a batch: under the 1 MB that several platforms allow, with room for headers.
pub const MAX_BYTES: usize = 950_000;
/// How long one attempt may take.
pub const TIMEOUT: Duration = Duration::from_secs(30);
/// How long a batch is tried before the write is given back to the pump, which tells the operator and goes on.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How to prove who we are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Auth {
    /// No proof asked.
    #[default]
    None,
    /// `Authorization: Bearer`.
    Bearer(Secret),
}

/// Settings of a planning sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanningConfig {
    /// The base, as in `http://127.0.0.1:7080/pdx/v1`.
    pub url: Url,
    /// This pipeline's name: it tells our batches from others' and must stay the same over restarts.
    pub pipeline: String,
    /// What to deliver.
    pub entities: EntityPatterns,
    /// Over how many partitions the rows of a flow are dealt; fixed once the target has seen rows.
    pub partitions: u32,
    /// Most records in a batch.
    pub max_records: usize,
    /// Most bytes in a batch; a single larger record still travels, alone.
    pub max_bytes: usize,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// How long a batch is tried before the pump hears of it. Waiting that the target asked for does not count.
    pub patience: Duration,
    /// How to prove who we are.
    pub auth: Auth,
}

impl PlanningConfig {
    /// Everything of a pipeline to a URL, with the defaults above.
    #[must_use]
    pub fn new(url: Url, pipeline: impl Into<String>) -> Self {
        Self {
            url,
            pipeline: pipeline.into(),
            entities: EntityPatterns::all(),
            partitions: PARTITIONS,
            max_records: MAX_RECORDS,
            max_bytes: MAX_BYTES,
            timeout: TIMEOUT,
            patience: PATIENCE,
            auth: Auth::None,
        }
    }

    /// Checks what types cannot.
    ///
    /// # Errors
    /// [`SinkError::Setting`] with the setting's name and what it should be.
    pub fn check(&self) -> Result<(), SinkError> {
        let fault = |setting, reason: String| Err(SinkError::Setting { setting, reason });
        if !matches!(self.url.scheme(), "http" | "https") || self.url.cannot_be_a_base() {
            return fault("url", format!("has the scheme {}; must be http or https", self.url.scheme()));
        }
        if !self.url.username().is_empty() || self.url.password().is_some() {
            return fault("url", "holds a user name or password; give them as a secret instead".into());
        }
        if self.url.query().is_some() || self.url.fragment().is_some() {
            return fault("url", "holds a query or a fragment; give the base of the service alone".into());
        }
        if self.pipeline.is_empty() {
            return fault("pipeline", "is empty; name the pipeline".into());
        }
        for (setting, value) in
            [("partitions", self.partitions as usize), ("max_records", self.max_records), ("max_bytes", self.max_bytes)]
        {
            if value == 0 {
                return fault(setting, "is 0; must be at least 1".into());
            }
        }
        if self.partitions > 1_024 {
            return fault("partitions", format!("is {}; must be at most 1024", self.partitions));
        }
        Ok(())
    }

    /// The URL of a path under the base.
    pub(super) fn endpoint(&self, segments: &[&str]) -> Url {
        let mut url = self.url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_nowhere_and_a_url_holds_none() {
        let mut config = PlanningConfig::new("http://host/pdx/v1/".parse().expect("url"), "erp");
        config.auth = Auth::Bearer(Secret::new("hunter2"));
        assert!(!format!("{config:?}").contains("hunter2"));
        config.check().expect("sound");
        assert_eq!(config.endpoint(&["flows", "item"]).as_str(), "http://host/pdx/v1/flows/item");
        for url in ["http://me:hunter2@host/pdx/v1", "http://host/pdx/v1?key=hunter2", "http://host/pdx/v1#hunter2"] {
            config.url = url.parse().expect("url");
            assert!(!config.check().expect_err("refused").to_string().contains("hunter2"));
        }
    }
}
