//! `[sources.<name>]` with `type = "planning_outputs"`: what a planning platform computed, read back.

use std::path::Path;
use std::time::Duration;

use syncline_capture::feed::outputs::Bell;
use syncline_schemas::ident::SourceId;
use syncline_schemas::outputs::OUTPUTS;
use syncline_schemas::secret::SecretRef;
use syncline_sinks::SinkError;
use syncline_sinks::planning::{PlanningConfig, webhook};

use super::Faults;
use super::section::Section;
use super::sinks;

/// How often a platform is asked unless told otherwise: a webhook is faster, and a plan is no stock.
const POLL_EVERY: Duration = Duration::from_secs(60);

/// A source of planning outputs.
#[derive(Debug, Clone)]
pub(crate) struct OutputsSource {
    pub(crate) id: SourceId,
    /// How the platform is reached and what proves to it who we are.
    pub(crate) platform: PlanningConfig,
    pub(crate) outputs: Vec<&'static str>,
    pub(crate) poll_every: Duration,
    /// The key of the platform's signatures; without one there is no webhook.
    pub(crate) webhook_key: Option<SecretRef>,
    /// Rung by the webhook.
    pub(crate) bell: Bell,
    pub(crate) drain: bool,
}

pub(super) fn read(name: &str, section: &mut Section<'_>, folder: &Path, faults: &mut Faults) -> Option<OutputsSource> {
    let url = sinks::url(section, "url", true, faults);
    let outputs = outputs(section, faults);
    let poll_every = section.duration("poll_every", faults).unwrap_or(POLL_EVERY);
    if poll_every < Duration::from_millis(100) {
        section.fault_of("poll_every", faults, "is less than 100ms; a webhook says sooner that something is new");
    }
    let timeout = section.duration("timeout", faults);
    let auth = sinks::auth(section, folder, faults);
    let signing_key = section.secret_ref("signing_key", folder, faults);
    let tls = sinks::tls(section, folder, faults);
    let rate = sinks::rate(section, faults);
    let webhook_key = webhook_key(section, folder, faults);
    let mut platform = PlanningConfig::new(url?.value, name);
    (platform.auth, platform.signing_key, platform.tls, platform.rate) = (auth, signing_key, tls, rate);
    platform.timeout = timeout.unwrap_or(platform.timeout);
    platform.in_flight = Some(1);
    match platform.check() {
        Ok(()) => {}
        Err(SinkError::Setting { setting, reason }) => section.fault_of(setting, faults, &reason),
        Err(error) => section.fault(faults, error.to_string()),
    }
    let (id, bell) = (SourceId::new(name), Bell::default());
    Some(OutputsSource { id, platform, outputs: outputs?, poll_every, webhook_key, bell, drain: false })
}

/// Which outputs: all where nothing is said.
fn outputs(section: &mut Section<'_>, faults: &mut Faults) -> Option<Vec<&'static str>> {
    let Some(found) = section.texts("outputs", faults) else { return Some(OUTPUTS.to_vec()) };
    let known = |name: &String| OUTPUTS.into_iter().find(|output| output == name);
    if let Some(unknown) = found.value.iter().find(|name| known(name).is_none()) {
        found.fault(faults, format!("has \"{unknown}\"; outputs are {}", OUTPUTS.join(", ")));
        return None;
    }
    if found.value.is_empty() {
        found.fault(faults, "is empty; leave it out to read them all");
        return None;
    }
    // In our order, each once.
    Some(OUTPUTS.into_iter().filter(|output| found.value.iter().any(|name| name == output)).collect())
}

/// `webhook = { signing_key = { file = "hook.key" } }`.
fn webhook_key(section: &mut Section<'_>, folder: &Path, faults: &mut Faults) -> Option<SecretRef> {
    let mut hook = section.section("webhook", faults)?;
    let key = hook.required_secret("signing_key", folder, faults);
    hook.finish(faults);
    let key = key?;
    if !key.read().is_ok_and(|key| webhook::is_key(key.reveal())) {
        section.fault_of("webhook", faults, "has a signing_key that is no key; it is whsec_ followed by base64");
        return None;
    }
    Some(key)
}
