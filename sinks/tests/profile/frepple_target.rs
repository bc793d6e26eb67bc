//! A strict frePPLe: models with their natural keys, arrays taken as a whole or not at all, references that must lead somewhere.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Map, Value, json};

use crate::server::{Asked, Platform};

/// A model: its name in paths, its natural key, the field by which `PATCH` finds it, and its other fields.
struct Model {
    name: &'static str,
    key: &'static [&'static str],
    lookup: &'static str,
    fields: &'static [(&'static str, Type)],
}

#[derive(Clone, Copy)]
enum Type {
    Text,
    Decimal,
    Integer,
    Days,
    Moment,
    Cites(&'static str),
    OneOf(&'static [&'static str]),
}

const MASTER: &[(&str, Type)] = &[
    ("name", Type::Text),
    ("description", Type::Text),
    ("category", Type::Text),
    ("subcategory", Type::Text),
    ("uom", Type::Text),
    ("cost", Type::Decimal),
    ("source", Type::Text),
];

const MODELS: &[Model] = &[
    Model { name: "item", key: &["name"], lookup: "name", fields: MASTER },
    Model { name: "location", key: &["name"], lookup: "name", fields: MASTER },
    Model { name: "supplier", key: &["name"], lookup: "name", fields: MASTER },
    Model { name: "customer", key: &["name"], lookup: "name", fields: MASTER },
    Model {
        name: "itemsupplier",
        key: &["item", "supplier", "location", "effective_start"],
        lookup: "id",
        fields: &[
            ("item", Type::Cites("item")),
            ("supplier", Type::Cites("supplier")),
            ("location", Type::Cites("location")),
            ("effective_start", Type::Moment),
            ("effective_end", Type::Moment),
            ("leadtime", Type::Days),
            ("sizeminimum", Type::Decimal),
            ("sizemultiple", Type::Decimal),
            ("sizemaximum", Type::Decimal),
            ("cost", Type::Decimal),
            ("priority", Type::Integer),
            ("source", Type::Text),
        ],
    },
    Model {
        name: "buffer",
        key: &["item", "location"],
        lookup: "id",
        fields: &[
            ("item", Type::Cites("item")),
            ("location", Type::Cites("location")),
            ("onhand", Type::Decimal),
            ("minimum", Type::Decimal),
            ("source", Type::Text),
        ],
    },
    Model {
        name: "demand",
        key: &["name"],
        lookup: "name",
        fields: &[
            ("name", Type::Text),
            ("item", Type::Cites("item")),
            ("location", Type::Cites("location")),
            ("quantity", Type::Decimal),
            ("due", Type::Moment),
            ("status", Type::OneOf(&["inquiry", "quote", "open", "closed", "canceled"])),
            ("source", Type::Text),
        ],
    },
    Model {
        name: "purchaseorder",
        key: &["reference"],
        lookup: "reference",
        fields: &[
            ("reference", Type::Text),
            ("item", Type::Cites("item")),
            ("location", Type::Cites("location")),
            ("supplier", Type::Cites("supplier")),
            ("quantity", Type::Decimal),
            ("enddate", Type::Moment),
            ("status", Type::OneOf(&["proposed", "approved", "confirmed", "completed", "closed"])),
            ("source", Type::Text),
        ],
    },
];

type Row = Map<String, Value>;

/// The platform.
#[derive(Default)]
pub(crate) struct Frepple {
    /// By model and natural key.
    pub(crate) rows: BTreeMap<&'static str, BTreeMap<String, Row>>,
    /// True where `POST` updates what is there, as newer versions do.
    pub(crate) post_updates: bool,
    /// True where a bad row is not said to be it.
    pub(crate) is_mute: bool,
    /// Values of key fields that are refused for no reason that we could know.
    pub(crate) poison: BTreeSet<String>,
    pub(crate) at_once_max: Option<usize>,
}

fn refused(status: StatusCode, body: &Value) -> Response {
    (status, [("content-type", "application/json")], body.to_string()).into_response()
}

/// The text under which a row is kept.
fn key_of(model: &Model, row: &Row) -> String {
    let part = |field: &&str| row.get(*field).and_then(Value::as_str).unwrap_or_default().to_owned();
    model.key.iter().map(part).collect::<Vec<_>>().join(" @ ")
}

impl Frepple {
    /// Values of a row.
    pub(crate) fn value(&self, model: &str, key: &str, field: &str) -> Value {
        self.rows.get(model).and_then(|rows| rows.get(key)?.get(field)).cloned().unwrap_or(Value::Null)
    }

    pub(crate) fn keys(&self, model: &str) -> Vec<String> {
        self.rows.get(model).map(|rows| rows.keys().cloned().collect()).unwrap_or_default()
    }

    fn check(&self, model: &Model, row: &Row) -> Row {
        let mut faults = Row::new();
        for (name, value) in row {
            let Some((_, kind)) = model.fields.iter().find(|(field, _)| field == name) else {
                faults.insert(name.clone(), json!(["Unexpected field."]));
                continue;
            };
            if let Some(fault) = self.fault(*kind, value) {
                faults.insert(name.clone(), json!([fault]));
            }
        }
        let is_poison =
            |field: &&str| row.get(*field).and_then(Value::as_str).is_some_and(|it| self.poison.contains(it));
        if let Some(field) = model.key.iter().find(|field| is_poison(field)) {
            faults.insert((*field).to_owned(), json!(["This row is not liked."]));
        }
        faults
    }

    fn fault(&self, kind: Type, value: &Value) -> Option<String> {
        let text = match value {
            Value::Null => return None,
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let is_moment = || {
            let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
            shape == "0000-00-00T00:00:00"
        };
        match kind {
            Type::Text if value.is_string() => None,
            Type::Decimal => {
                let (whole, fraction) = text.strip_prefix('-').unwrap_or(&text).split_once('.').unwrap_or((&text, ""));
                let digits = |text: &str| text.trim_start_matches('-').chars().all(|c| c.is_ascii_digit());
                let fits = whole.len() <= 13 && fraction.len() <= 8;
                (!(fits && digits(whole) && digits(fraction))).then(|| "A valid number is required.".to_owned())
            }
            Type::Integer => (!value.is_i64()).then(|| "A valid integer is required.".to_owned()),
            Type::Days => {
                let is_duration =
                    text.split_once(' ').is_some_and(|(days, rest)| days.parse::<u32>().is_ok() && rest == "00:00:00");
                (!is_duration).then(|| "Duration has wrong format.".to_owned())
            }
            Type::Moment => (!is_moment()).then(|| "Datetime has wrong format.".to_owned()),
            Type::Cites(model) => {
                let is_there = self.rows.get(model).is_some_and(|rows| rows.contains_key(&text));
                (!is_there).then(|| format!("Invalid pk \"{text}\" - object does not exist."))
            }
            Type::OneOf(words) => {
                (!words.contains(&text.as_str())).then(|| format!("\"{text}\" is not a valid choice."))
            }
            Type::Text => Some("Not a valid string.".to_owned()),
        }
    }

    fn put(&mut self, model: &'static Model, creates: bool, body: &[u8]) -> Response {
        let Ok(Value::Array(sent)) = serde_json::from_slice::<Value>(body) else {
            return refused(StatusCode::BAD_REQUEST, &json!({"detail": "JSON parse error"}));
        };
        if self.at_once_max.is_some_and(|most| sent.len() > most) {
            return refused(StatusCode::PAYLOAD_TOO_LARGE, &json!({"detail": "too large"}));
        }
        let sent: Vec<Row> = sent.into_iter().map(|row| row.as_object().cloned().unwrap_or_default()).collect();
        let mut faults: Vec<Row> = sent.iter().map(|row| self.check(model, row)).collect();
        let held = self.rows.entry(model.name).or_default();
        let keys: Vec<String> = sent.iter().map(|row| key_of(model, row)).collect();
        let twice = keys.iter().collect::<BTreeSet<_>>().len() < keys.len();
        // Rows with a number of its own are found by their natural key, whatever the version.
        if creates && !self.post_updates && model.lookup != "id" {
            for (key, fault) in keys.iter().zip(&mut faults).filter(|(key, _)| held.contains_key(*key)) {
                let what = format!("{} with this name already exists.", model.name);
                fault.insert(model.key[0].to_owned(), json!([what, key]));
            }
        }
        if faults.iter().any(|fault| !fault.is_empty()) {
            let said = if self.is_mute { json!({"detail": "Bad request"}) } else { json!(faults) };
            return refused(StatusCode::BAD_REQUEST, &said);
        }
        let has_lookup = sent.iter().all(|row| row.contains_key(model.lookup));
        let all_there = keys.iter().all(|key| held.contains_key(key));
        let finds_all = creates || (has_lookup && all_there);
        if twice || !finds_all {
            return refused(StatusCode::BAD_REQUEST, &json!(["Could not find all objects to update."]));
        }
        for (key, row) in keys.into_iter().zip(sent) {
            held.entry(key).or_default().extend(row);
        }
        refused(if creates { StatusCode::CREATED } else { StatusCode::OK }, &json!([]))
    }
}

impl Platform for Frepple {
    fn answer(&mut self, asked: &Asked) -> Response {
        let path = asked.uri.path();
        let Some(rest) = path.strip_prefix("/api/input/") else { return StatusCode::NOT_FOUND.into_response() };
        let Some(rest) = rest.strip_suffix('/') else { return StatusCode::MOVED_PERMANENTLY.into_response() };
        let (name, key) = rest.split_once('/').map_or((rest, None), |(name, key)| (name, Some(key)));
        let Some(model) = MODELS.iter().find(|model| model.name == name) else {
            return StatusCode::NOT_FOUND.into_response();
        };
        let is_json = asked.headers.get("content-type").is_some_and(|kind| kind == "application/json");
        match (&asked.method, key) {
            (&Method::OPTIONS, None) => StatusCode::OK.into_response(),
            (&Method::POST | &Method::PATCH, None) if !is_json => StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response(),
            (&Method::POST, None) => self.put(model, true, &asked.body),
            (&Method::PATCH, None) => self.put(model, false, &asked.body),
            (method @ (&Method::GET | &Method::DELETE), Some(key)) if model.lookup != "id" => {
                let key = key.replace("%20", " ").replace("%22", "\"");
                let rows = self.rows.entry(model.name).or_default();
                let there = if *method == Method::GET { rows.contains_key(&key) } else { rows.remove(&key).is_some() };
                match there {
                    true if *method == Method::GET => StatusCode::OK.into_response(),
                    true => StatusCode::NO_CONTENT.into_response(),
                    false => StatusCode::NOT_FOUND.into_response(),
                }
            }
            _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
        }
    }
}
