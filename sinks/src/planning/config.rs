//! How to reach a planning platform and how much to send at a time.

use std::time::Duration;

use reqwest::header::HeaderName;
use syncline_schemas::entity::{self, Criticality, Entity};
use syncline_schemas::secret::SecretRef;
use url::Url;

use super::auth::Auth;
use super::connect::TlsFiles;
use super::contract;
use super::gate::Rate;
use super::windows::Windows;
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

/// Per cent of the requests that rows of noncritical entities have while critical ones wait.
pub const NONCRITICAL_SHARE: u32 = 10;

/// In which form batches travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// One JSON object.
    #[default]
    Json,
    /// A line of JSON for the batch and one for each record.
    Ndjson,
    /// An Arrow stream, its columns as in the outbox.
    Arrow,
}

impl Format {
    pub(crate) const fn media_type(self) -> &'static str {
        match self {
            Self::Json => contract::DELTA_JSON,
            Self::Ndjson => contract::DELTA_NDJSON,
            Self::Arrow => contract::DELTA_ARROW,
        }
    }

    /// What stands between two records.
    pub(super) const fn separator(self) -> u8 {
        match self {
            Self::Ndjson => b'\n',
            Self::Json | Self::Arrow => b',',
        }
    }
}

/// How bodies are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Compression {
    /// The `Content-Encoding`.
    pub(crate) const fn encoding(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Gzip => Some("gzip"),
            Self::Zstd => Some("zstd"),
        }
    }
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
    /// Which of them go first, in place of those that their definitions call critical.
    pub critical: Option<EntityPatterns>,
    /// Per cent of the requests that the others have while critical ones wait.
    pub noncritical_share: u32,
    /// Over how many partitions the rows of a flow are dealt; fixed once the target has seen rows.
    pub partitions: u32,
    /// Most records in a batch.
    pub max_records: usize,
    /// Most bytes in a batch; a single larger record still travels, alone.
    pub max_bytes: usize,
    /// In which form batches travel.
    pub format: Format,
    /// How they are compressed.
    pub compression: Compression,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// How long a batch is tried before the pump hears of it. Waiting that the target asked for does not count.
    pub patience: Duration,
    /// When the target is left alone.
    pub maintenance: Option<Windows>,
    /// How to prove who we are.
    pub auth: Auth,
    /// The key with which requests are signed, beside that.
    pub signing_key: Option<SecretRef>,
    /// Whom TLS trusts, and who we are to it.
    pub tls: TlsFiles,
    /// How many requests the target bears.
    pub rate: Option<Rate>,
    /// Requests side by side at most; as many as there are partitions where it is not said.
    pub in_flight: Option<usize>,
}

impl PlanningConfig {
    /// Everything of a pipeline to a URL, with the defaults above.
    #[must_use]
    pub fn new(url: Url, pipeline: impl Into<String>) -> Self {
        Self {
            url,
            pipeline: pipeline.into(),
            entities: EntityPatterns::all(),
            critical: None,
            noncritical_share: NONCRITICAL_SHARE,
            partitions: PARTITIONS,
            max_records: MAX_RECORDS,
            max_bytes: MAX_BYTES,
            format: Format::default(),
            compression: Compression::default(),
            timeout: TIMEOUT,
            patience: PATIENCE,
            maintenance: None,
            auth: Auth::None,
            signing_key: None,
            tls: TlsFiles::default(),
            rate: None,
            in_flight: None,
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
        if self.in_flight == Some(0) {
            return fault("in_flight", "is 0; must be at least 1".into());
        }
        if self.rate.is_some_and(|rate| rate.count == 0 || rate.per.is_zero()) {
            return fault("rate", "lets nothing out; it is like 5/s or 600/min".into());
        }
        if !(10..=90).contains(&self.noncritical_share) {
            return fault(
                "noncritical_share",
                format!("is {}; must be from 10 to 90 per cent", self.noncritical_share),
            );
        }
        self.check_auth()?;
        if self.partitions > 1_024 {
            return fault("partitions", format!("is {}; must be at most 1024", self.partitions));
        }
        Ok(())
    }

    /// Checks that secrets are there and have a form in which they can be sent.
    fn check_auth(&self) -> Result<(), SinkError> {
        let fault = |setting, reason: String| Err(SinkError::Setting { setting, reason });
        match &self.auth {
            Auth::Basic { user, .. } if user.contains(':') => {
                return fault("basic", "has a user with a colon, which ends the user in this scheme".into());
            }
            Auth::Header { name, .. } if HeaderName::from_bytes(name.as_bytes()).is_err() => {
                return fault("api_key", format!("has the header {name:?}, which is no name of one"));
            }
            Auth::ClientCredentials { token_url, .. } if !is_plain(token_url) => {
                return fault(
                    "oauth2",
                    "has a token_url that is not http:// or https://, or that holds a user or a query".into(),
                );
            }
            _ => {}
        }
        let Some(key) = &self.signing_key else { return Ok(()) };
        match key.read() {
            Ok(key) if contract::signing_key(key.reveal()).is_some() => Ok(()),
            Ok(_) => fault("signing_key", "is no key; it is whsec_ followed by base64".into()),
            Err(error) => fault("signing_key", format!("cannot be read: {error}")),
        }
    }

    /// Whether an entity is critical by itself.
    pub(super) fn criticality(&self, entity: &Entity) -> Criticality {
        match &self.critical {
            None => entity.criticality,
            Some(critical) if critical.contains(&entity.name) => Criticality::Critical,
            Some(_) => Criticality::Noncritical,
        }
    }

    /// The entities that go first: the critical ones, and what they cite.
    #[must_use]
    pub fn urgent(&self) -> Vec<String> {
        urgent(&self.entities, |entity| self.criticality(entity))
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

/// Of some entities those that are critical, and what they cite.
#[must_use]
pub fn urgent(entities: &EntityPatterns, criticality: impl Fn(&Entity) -> Criticality) -> Vec<String> {
    let mut urgent: Vec<String> = Vec::new();
    // Masters come before what cites them, so from the end each is met after all that cite it.
    for entity in entities.entities().collect::<Vec<_>>().into_iter().rev() {
        let cites = |name: &String| entity::get(name).is_some_and(|it| it.cites(&entity.name));
        if criticality(entity) == Criticality::Critical || urgent.iter().any(cites) {
            urgent.push(entity.name.clone());
        }
    }
    urgent
}

/// True for a URL that can stand in a message.
fn is_plain(url: &Url) -> bool {
    let is_http = matches!(url.scheme(), "http" | "https");
    is_http && url.username().is_empty() && url.password().is_none() && url.query().is_none()
}

#[cfg(test)]
mod tests {
    use syncline_schemas::secret::Secret;

    use super::*;

    #[test]
    fn a_master_goes_before_the_critical_fact_that_cites_it_whatever_it_is_by_itself() {
        let mut config = PlanningConfig::new("http://host/pdx/v1".parse().expect("a URL"), "test");
        let of = |config: &PlanningConfig, name: &str| config.urgent().iter().any(|urgent| urgent == name);
        for first in ["item", "inventory_movement", "sales_order_line", "customer", "supplier", "uom"] {
            assert!(of(&config, first), "{first}");
        }
        for later in ["forecast", "price", "shipment", "item_hierarchy_member", "exchange_rate"] {
            assert!(!of(&config, later), "{later}");
        }
        config.entities = EntityPatterns::new(["customer", "item"]).expect("entities");
        assert!(!of(&config, "customer"), "nothing that cites it is delivered");
        config.critical = Some(EntityPatterns::new(["forecast"]).expect("an entity"));
        assert!(config.urgent().is_empty());
        config.entities = EntityPatterns::all();
        for name in config.urgent() {
            let cited = entity::get(&name).expect("canonical").references.iter().map(|it| &it.entity);
            cited.for_each(|cited| assert!(of(&config, cited), "{name} cites {cited}"));
        }
        assert!(of(&config, "uom"), "forecast, item, uom");
    }

    #[test]
    fn a_secret_shows_nowhere_and_a_url_holds_none() {
        let mut config = PlanningConfig::new("http://host/pdx/v1/".parse().expect("url"), "erp");
        config.auth = Auth::Bearer(SecretRef::Given(Secret::new("hunter2")));
        assert!(!format!("{config:?}").contains("hunter2"));
        config.check().expect("sound");
        assert_eq!(config.endpoint(&["flows", "item"]).as_str(), "http://host/pdx/v1/flows/item");
        for url in ["http://me:hunter2@host/pdx/v1", "http://host/pdx/v1?key=hunter2", "http://host/pdx/v1#hunter2"] {
            config.url = url.parse().expect("url");
            assert!(!config.check().expect_err("refused").to_string().contains("hunter2"));
        }
    }
}
