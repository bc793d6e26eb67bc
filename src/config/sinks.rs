//! `[sinks.<name>]`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use syncline_schemas::secret::Secret;
use syncline_sinks::lake::{Hidden, LakeConfig, StoreOptions};
use syncline_sinks::planning::{Auth, Compression, Format, PlanningConfig, Rate, TlsFiles, Windows};
use syncline_sinks::profile::{Profile, ProfileConfig};
use syncline_sinks::{EntityPatterns, SinkError};

use super::Faults;
use super::section::{Found, Section};

/// Whatever a row misses at its target has come within a week, or does not come by itself.
const RETRY_ROWS_FOR: Duration = Duration::from_secs(7 * 24 * 3600);

/// A target and how to reach it.
#[derive(Debug)]
pub(crate) struct SinkConfig {
    pub(crate) name: String,
    /// How long rows that the target refused and may take later are sent again.
    pub(crate) retry_rows_for: Duration,
    pub(crate) kind: SinkKind,
}

/// The kinds of targets.
#[derive(Debug)]
pub(crate) enum SinkKind {
    Planning(Box<PlanningConfig>),
    Profile(Box<ProfileConfig>),
    Lake(Box<LakeConfig>),
    Discard,
}

#[derive(Clone, Copy)]
enum Kind {
    Planning,
    Profile,
    Lake,
    Discard,
}

pub(super) fn read(
    name: &str,
    mut section: Section<'_>,
    folder: &Path,
    data_dir: &Path,
    pipeline: &str,
    faults: &mut Faults,
) -> Option<SinkConfig> {
    if !section.has("type") {
        section.fault(faults, "needs type: \"planning\", \"profile\", \"lake\" or \"discard\"");
        return None;
    }
    let kinds =
        [("planning", Kind::Planning), ("profile", Kind::Profile), ("lake", Kind::Lake), ("discard", Kind::Discard)];
    let kind = section.choice("type", &kinds, faults)?;
    let refuses_rows = matches!(kind, Kind::Planning | Kind::Profile);
    let retry_rows_for = refuses_rows.then(|| section.duration("retry_rows_for", faults)).flatten();
    let kind = match kind {
        Kind::Planning => planning(&mut section, folder, pipeline, faults),
        Kind::Profile => profile(&mut section, folder, pipeline, faults),
        Kind::Lake => lake(&mut section, folder, &data_dir.join("scratch").join(name), pipeline, faults),
        Kind::Discard => Some(SinkKind::Discard),
    };
    section.finish(faults);
    Some(SinkConfig { name: name.to_owned(), retry_rows_for: retry_rows_for.unwrap_or(RETRY_ROWS_FOR), kind: kind? })
}

fn planning(section: &mut Section<'_>, folder: &Path, pipeline: &str, faults: &mut Faults) -> Option<SinkKind> {
    let service = service(section, folder, pipeline, faults);
    let entities = entities(section, faults);
    let partitions = section.count("partitions", faults);
    let max_records = section.count("max_records", faults);
    let max_bytes = section.count("max_bytes", faults);
    let formats = [("json", Format::Json), ("ndjson", Format::Ndjson), ("arrow", Format::Arrow)];
    let format = section.choice("format", &formats, faults);
    let compressions = [("none", Compression::None), ("gzip", Compression::Gzip), ("zstd", Compression::Zstd)];
    let compression = section.choice("compression", &compressions, faults);
    let critical = patterns(section, "critical", faults);
    let share = section.count("noncritical_share", faults);
    let mut config = service?;
    config.entities = entities?;
    config.critical = critical;
    config.noncritical_share = share.map_or(config.noncritical_share, |share| u32::try_from(share).unwrap_or(u32::MAX));
    config.partitions =
        partitions.map_or(config.partitions, |partitions| u32::try_from(partitions).unwrap_or(u32::MAX));
    config.max_records = max_records.unwrap_or(config.max_records);
    config.max_bytes = max_bytes.unwrap_or(config.max_bytes);
    (config.format, config.compression) = (format.unwrap_or_default(), compression.unwrap_or_default());
    // What the sink would refuse at its start is refused here, with its line and beside the other faults.
    match config.check() {
        Ok(()) => {}
        Err(SinkError::Setting { setting, reason }) => section.fault_of(setting, faults, &reason),
        Err(error) => section.fault(faults, error.to_string()),
    }
    Some(SinkKind::Planning(Box::new(config)))
}

fn profile(section: &mut Section<'_>, folder: &Path, pipeline: &str, faults: &mut Faults) -> Option<SinkKind> {
    let profile = section.required_text("profile", faults).and_then(|name| open_profile(&name, folder, faults));
    let entities = entities(section, faults);
    let is_files = profile.as_ref().map(Profile::writes_files);
    // Of a profile that cannot be read nobody knows which settings it takes: none is called unknown or wrong then.
    let store = match is_files {
        Some(true) => store(section, folder, faults),
        Some(false) => StoreOptions::default(),
        None => store(section, folder, &mut Faults::default()),
    };
    let target = match is_files {
        Some(true) => lake_url(section, folder, faults).map(|url| PlanningConfig::new(url, pipeline)),
        Some(false) => service(section, folder, pipeline, faults),
        None => {
            service(section, folder, pipeline, &mut Faults::default());
            None
        }
    };
    let mut target = target?;
    target.entities = entities?;
    let config = ProfileConfig::new(target, profile?).and_then(|mut config| {
        config.store = store;
        config.check().map(|()| config)
    });
    match config {
        Ok(config) => Some(SinkKind::Profile(Box::new(config))),
        Err(SinkError::Setting { setting, reason }) => {
            section.fault_of(setting, faults, &reason);
            None
        }
        Err(error) => {
            section.fault(faults, error.to_string());
            None
        }
    }
}

/// How a service is reached, whatever is spoken to it.
fn service(section: &mut Section<'_>, folder: &Path, pipeline: &str, faults: &mut Faults) -> Option<PlanningConfig> {
    let url = url(section, "url", true, faults);
    let timeout = section.duration("timeout", faults);
    let patience = section.duration("patience", faults);
    let auth = auth(section, folder, faults);
    let signing_key = section.secret_ref("signing_key", folder, faults);
    let tls = tls(section, folder, faults);
    let rate = rate(section, faults);
    let in_flight = section.count("in_flight", faults);
    let maintenance = maintenance(section, faults);
    let mut target = PlanningConfig::new(url?.value, pipeline);
    target.timeout = timeout.unwrap_or(target.timeout);
    target.patience = patience.unwrap_or(target.patience);
    (target.auth, target.signing_key, target.tls) = (auth, signing_key, tls);
    (target.rate, target.in_flight, target.maintenance) = (rate, in_flight, maintenance);
    Some(target)
}

/// The faults of a profile have places of their own.
fn open_profile(name: &Found<String>, folder: &Path, faults: &mut Faults) -> Option<Profile> {
    let found = Profile::open(&name.value, folder).map_err(|found| {
        if !name.value.ends_with(".toml") {
            return found.faults.iter().for_each(|(_, fault)| name.fault(faults, fault));
        }
        for (line, fault) in &found.faults {
            faults.add(0, format!("{}:{line}: {fault}", found.file));
        }
    });
    found.ok()
}

/// One of the ways to prove who we are.
pub(super) fn auth(section: &mut Section<'_>, folder: &Path, faults: &mut Faults) -> Auth {
    let ways: Vec<&str> = ["token", "basic", "api_key", "oauth2"].into_iter().filter(|way| section.has(way)).collect();
    if let [_, second, ..] = ways[..] {
        section.fault_of(second, faults, &format!("stands beside {}; a target is told once who we are", ways[0]));
    }
    let mut found = Auth::None;
    if let Some(token) = section.secret_ref("token", folder, faults) {
        found = Auth::Bearer(token);
    }
    if let Some(mut basic) = section.section("basic", faults) {
        let (user, password) = (basic.required_text("user", faults), basic.required_secret("password", folder, faults));
        basic.finish(faults);
        if let Some((user, password)) = user.zip(password) {
            found = Auth::Basic { user: user.value, password };
        }
    }
    if let Some(mut api_key) = section.section("api_key", faults) {
        let (name, key) = (api_key.required_text("header", faults), api_key.required_secret("key", folder, faults));
        api_key.finish(faults);
        if let Some((name, key)) = name.zip(key) {
            found = Auth::Header { name: name.value, key };
        }
    }
    if let Some(mut oauth2) = section.section("oauth2", faults) {
        let token_url = url(&mut oauth2, "token_url", true, faults);
        let client_id = oauth2.required_text("client_id", faults);
        let client_secret = oauth2.required_secret("client_secret", folder, faults);
        let scope = oauth2.text("scope", faults).map(|scope| scope.value);
        oauth2.finish(faults);
        if let (Some(token_url), Some(client_id), Some(client_secret)) = (token_url, client_id, client_secret) {
            let (token_url, client_id) = (token_url.value, client_id.value);
            found = Auth::ClientCredentials { token_url, client_id, client_secret, scope };
        }
    }
    found
}

/// `tls = { ca = "ca.pem", certificate = "client.pem", key = "client.key" }`.
pub(super) fn tls(section: &mut Section<'_>, folder: &Path, faults: &mut Faults) -> TlsFiles {
    let Some(mut tls) = section.section("tls", faults) else { return TlsFiles::default() };
    let [ca, certificate, key] = ["ca", "certificate", "key"].map(|name| tls.text(name, faults));
    tls.finish(faults);
    let file = |found: Found<String>| folder.join(found.value);
    if certificate.is_some() != key.is_some() {
        section.fault_of("tls", faults, "needs certificate and key, or neither");
    }
    TlsFiles { ca: ca.map(file), identity: certificate.map(file).zip(key.map(file)) }
}

/// `maintenance = { zone = "Europe/Berlin", windows = ["Mon-Fri 22:00-23:30"] }`.
fn maintenance(section: &mut Section<'_>, faults: &mut Faults) -> Option<Windows> {
    let mut found = section.section("maintenance", faults)?;
    let zone = found.text("zone", faults).map_or_else(|| "UTC".to_owned(), |zone| zone.value);
    let windows = found.texts("windows", faults).map(|windows| windows.value).unwrap_or_default();
    found.finish(faults);
    match Windows::parse(&zone, &windows) {
        Ok(windows) => Some(windows),
        Err(reason) => {
            section.fault_of("maintenance", faults, &reason);
            None
        }
    }
}

/// `rate = "5/s"`.
pub(super) fn rate(section: &mut Section<'_>, faults: &mut Faults) -> Option<Rate> {
    let text = section.text("rate", faults)?;
    let rate = text.value.parse().ok();
    if rate.is_none() {
        text.fault(faults, format!("is \"{}\"; it is requests per s, min or h, as in \"5/s\"", text.value));
    }
    rate
}

/// Below that, a lake would hold little else.
const SNAPSHOT_EVERY_MIN: Duration = Duration::from_secs(60);

fn lake(
    section: &mut Section<'_>,
    folder: &Path,
    scratch: &Path,
    pipeline: &str,
    faults: &mut Faults,
) -> Option<SinkKind> {
    let url = lake_url(section, folder, faults);
    let entities = entities(section, faults);
    let flush_every = section.duration("flush_every", faults);
    let flush_rows = section.count("flush_rows", faults);
    let known = faults.0.len();
    let snapshot_every = section.duration("snapshot_every", faults);
    if snapshot_every.is_some_and(|every| every < SNAPSHOT_EVERY_MIN) {
        section.fault_of("snapshot_every", faults, "is less than a minute; a snapshot is a copy of all rows");
    }
    let snapshot_retention = section.duration("snapshot_retention", faults);
    if snapshot_retention.is_some() && snapshot_every.is_none() {
        section.fault_of("snapshot_retention", faults, "needs snapshot_every; snapshots with a tag stay");
    }
    let operations_every = section.duration("operations_every", faults);
    let hidden = hidden(section, folder, faults);
    let store = store(section, folder, faults);
    let is_whole = faults.0.len() == known;
    let mut config = LakeConfig::new(url?, pipeline, PathBuf::from(scratch));
    config.entities = entities?;
    config.flush_every = flush_every.unwrap_or(config.flush_every);
    config.flush_rows = flush_rows.unwrap_or(config.flush_rows);
    config.snapshot_every = snapshot_every;
    config.snapshot_retention = snapshot_retention.unwrap_or(config.snapshot_retention);
    config.operations_every = operations_every.unwrap_or(config.operations_every);
    config.hidden = Arc::new(hidden);
    config.store = store;
    // As with planning: what the sink would refuse at its start. Without a setting that has a fault it may refuse others.
    match config.check() {
        Ok(()) => {}
        Err(_) if !is_whole => {}
        Err(SinkError::Setting { setting, reason }) => section.fault_of(setting, faults, &reason),
        Err(error) => section.fault(faults, error.to_string()),
    }
    Some(SinkKind::Lake(Box::new(config)))
}

/// What readers of a lake must not see.
fn hidden(section: &mut Section<'_>, folder: &Path, faults: &mut Faults) -> Hidden {
    let mut patterns = |key: &str, faults: &mut Faults| section.texts(key, faults).map(|found| found.value);
    let (left_out, masked) = (patterns("leave_out", faults), patterns("mask", faults));
    let known = faults.0.len();
    let key = section.secret("mask_key", folder, faults).map(Secret::new);
    match Hidden::new(left_out.unwrap_or_default(), masked.unwrap_or_default(), key) {
        Ok(hidden) => return hidden,
        // A key that cannot be read is a fault of its own.
        Err(_) if faults.0.len() > known => {}
        Err(SinkError::Setting { setting, reason }) => section.fault_of(setting, faults, &reason),
        Err(error) => section.fault(faults, error.to_string()),
    }
    Hidden::default()
}

/// How a bucket or container is reached.
fn store(section: &mut Section<'_>, folder: &Path, faults: &mut Faults) -> StoreOptions {
    let mut ca = None;
    if let Some(mut tls) = section.section("tls", faults) {
        ca = tls.required_text("ca", faults).map(|found| folder.join(found.value));
        tls.finish(faults);
    }
    StoreOptions {
        endpoint: self::url(section, "endpoint", false, faults).map(|found| found.value),
        allow_http: section.flag("allow_http", faults).unwrap_or(false),
        ca,
        timeout: section.duration("timeout", faults),
        region: section.text("region", faults).map(|found| found.value),
        access_key_id: section.secret("access_key_id", folder, faults).map(Secret::new),
        secret_access_key: section.secret("secret_access_key", folder, faults).map(Secret::new),
        session_token: section.secret("session_token", folder, faults).map(Secret::new),
        account: section.text("account", faults).map(|found| found.value),
        account_key: section.secret("account_key", folder, faults).map(Secret::new),
        sas_token: section.secret("sas_token", folder, faults).map(Secret::new),
        service_account: section.secret("service_account", folder, faults).map(Secret::new),
    }
}

/// A lake's URL; a plain path means a local folder, relative to the configuration file.
fn lake_url(section: &mut Section<'_>, folder: &Path, faults: &mut Faults) -> Option<Url> {
    let text = section.required_text("url", faults)?;
    if text.value.contains("://") {
        return match Url::parse(&text.value) {
            Ok(url) => Some(url),
            Err(error) => {
                text.fault(faults, format!("is no url: {error}"));
                None
            }
        };
    }
    let path = std::path::absolute(folder.join(&text.value)).ok()?;
    Url::from_directory_path(path).ok()
}

pub(super) fn url(section: &mut Section<'_>, key: &str, required: bool, faults: &mut Faults) -> Option<Found<Url>> {
    let text = if required { section.required_text(key, faults)? } else { section.text(key, faults)? };
    match Url::parse(&text.value) {
        Ok(url) => Some(text.map(url)),
        Err(error) => {
            text.fault(faults, format!("is no url: {error}"));
            None
        }
    }
}

fn entities(section: &mut Section<'_>, faults: &mut Faults) -> Option<EntityPatterns> {
    if section.has("entities") { patterns(section, "entities", faults) } else { Some(EntityPatterns::all()) }
}

fn patterns(section: &mut Section<'_>, key: &str, faults: &mut Faults) -> Option<EntityPatterns> {
    let found = section.texts(key, faults)?;
    let patterns = EntityPatterns::new(found.value.clone());
    let told = |error| match error {
        // It names the setting that most patterns are for.
        SinkError::Setting { reason, .. } => found.fault(faults, reason),
        error => found.fault(faults, format!("cannot be used: {error}")),
    };
    patterns.map_err(told).ok()
}
