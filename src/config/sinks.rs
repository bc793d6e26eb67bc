//! `[sinks.<name>]`.

use std::path::{Path, PathBuf};

use reqwest::Url;
use syncline_schemas::secret::Secret;
use syncline_sinks::lake::{LakeConfig, S3Options};
use syncline_sinks::planning::{Auth, PlanningConfig};
use syncline_sinks::{EntityPatterns, SinkError};

use super::Faults;
use super::section::{Found, Section};

/// A target and how to reach it.
#[derive(Debug)]
pub(crate) struct SinkConfig {
    pub(crate) name: String,
    pub(crate) kind: SinkKind,
}

/// The kinds of targets.
#[derive(Debug)]
pub(crate) enum SinkKind {
    Planning(Box<PlanningConfig>),
    Lake(Box<LakeConfig>),
    Discard,
}

#[derive(Clone, Copy)]
enum Kind {
    Planning,
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
        section.fault(faults, "needs type: \"planning\", \"lake\" or \"discard\"");
        return None;
    }
    let kinds = [("planning", Kind::Planning), ("lake", Kind::Lake), ("discard", Kind::Discard)];
    let kind = section.choice("type", &kinds, faults)?;
    let kind = match kind {
        Kind::Planning => planning(&mut section, folder, pipeline, faults),
        Kind::Lake => lake(&mut section, folder, &data_dir.join("scratch").join(name), pipeline, faults),
        Kind::Discard => Some(SinkKind::Discard),
    };
    section.finish(faults);
    Some(SinkConfig { name: name.to_owned(), kind: kind? })
}

fn planning(section: &mut Section<'_>, folder: &Path, pipeline: &str, faults: &mut Faults) -> Option<SinkKind> {
    let url = url(section, "url", true, faults);
    let entities = entities(section, faults);
    let partitions = section.count("partitions", faults);
    let max_records = section.count("max_records", faults);
    let max_bytes = section.count("max_bytes", faults);
    let timeout = section.duration("timeout", faults);
    let token = section.secret("token", folder, faults);
    let mut config = PlanningConfig::new(url?.value, pipeline);
    config.entities = entities?;
    config.partitions =
        partitions.map_or(config.partitions, |partitions| u32::try_from(partitions).unwrap_or(u32::MAX));
    config.max_records = max_records.unwrap_or(config.max_records);
    config.max_bytes = max_bytes.unwrap_or(config.max_bytes);
    config.timeout = timeout.unwrap_or(config.timeout);
    if let Some(token) = token {
        config.auth = Auth::Bearer(Secret::new(token));
    }
    // What the sink would refuse at its start is refused here, with its line and beside the other faults.
    match config.check() {
        Ok(()) => {}
        Err(SinkError::Setting { setting, reason }) => section.fault_of(setting, faults, &reason),
        Err(error) => section.fault(faults, error.to_string()),
    }
    Some(SinkKind::Planning(Box::new(config)))
}

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
    let s3 = S3Options {
        endpoint: self::url(section, "endpoint", false, faults).map(|found| found.value),
        region: section.text("region", faults).map(|found| found.value),
        allow_http: section.flag("allow_http", faults).unwrap_or(false),
        access_key_id: section.secret("access_key_id", folder, faults).map(Secret::new),
        secret_access_key: section.secret("secret_access_key", folder, faults).map(Secret::new),
        session_token: section.secret("session_token", folder, faults).map(Secret::new),
    };
    let mut config = LakeConfig::new(url?, pipeline, PathBuf::from(scratch));
    config.entities = entities?;
    config.flush_every = flush_every.unwrap_or(config.flush_every);
    config.flush_rows = flush_rows.unwrap_or(config.flush_rows);
    config.s3 = s3;
    Some(SinkKind::Lake(Box::new(config)))
}

/// A lake's URL; a plain path means a local folder, relative to the configuration file.
fn lake_url(section: &mut Section<'_>, folder: &Path, faults: &mut Faults) -> Option<Url> {
    let text = section.required_text("url", faults)?;
    if text.value.contains("://") {
        return match Url::parse(&text.value) {
            Ok(url) if matches!(url.scheme(), "file" | "s3") => Some(url),
            Ok(url) => {
                text.fault(faults, format!("has the scheme {}; a lake is file:// or s3://", url.scheme()));
                None
            }
            Err(error) => {
                text.fault(faults, format!("is no url: {error}"));
                None
            }
        };
    }
    let path = std::path::absolute(folder.join(&text.value)).ok()?;
    Url::from_directory_path(path).ok()
}

fn url(section: &mut Section<'_>, key: &str, required: bool, faults: &mut Faults) -> Option<Found<Url>> {
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
    let Some(found) = section.texts("entities", faults) else { return Some(EntityPatterns::all()) };
    EntityPatterns::new(found.value.clone())
        .map_err(|error| found.fault(faults, format!("cannot be used: {error}")))
        .ok()
}
