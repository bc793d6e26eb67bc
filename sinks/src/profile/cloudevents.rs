//! CloudEvents 1.0 in batches over HTTP (`application/cloudevents-batch+json`): one event for each changed row.
//!
//! An event is told at least once and always under the same id, so a receiver that has seen `source` and `id` drops the repeat;
//! one that compares `sequence` per `subject` (the version, whose text orders like it) keeps the newest row whatever happens.
//! Deletes are events of their own type with the key as their data.
//!
//! A receiver takes a batch as a whole. Where it refuses one, the batch is halved down to the row that it does not take.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray};
use arrow::datatypes::TimestampMicrosecondType;
use async_trait::async_trait;
use futures::future::try_join_all;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};
use syncline_schemas::delta::SYSTEM_COLUMNS;
use syncline_schemas::entity::Entity;
use uuid::Uuid;

use super::definition::Flow;
use super::dialect::Voice;
use super::document::{Faults, Table};
use super::sheet::{Row, Sheet};
use super::wire::{self, Item, TOO_LARGE, Wire};
use crate::planning::client::Stop;
use crate::planning::contract::{IDEMPOTENCY_KEY, sha256, traceparent};
use crate::planning::json::{put_instant, put_text};
use crate::{Known, Recalled, SinkError, Written};

const BATCH: &str = "application/cloudevents-batch+json";
const REFUSED: &str = "refused";

/// What a profile says about its events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Events {
    /// What stands before the entity in `type`.
    prefix: String,
    /// What stands before `entity/1.0` in `dataschema`.
    schemas: Option<String>,
}

impl Events {
    pub(super) fn read(root: &mut Table<'_>, faults: &mut Faults) -> Self {
        let prefix = root.text("type_prefix", faults).map_or_else(|| "pdx".to_owned(), |text| text.value);
        let schemas = root.text("schemas", faults);
        if let Some(text) = schemas.as_ref().filter(|text| reqwest::Url::parse(&text.value).is_err()) {
            text.fault(faults, "is no url, to which /entity/version is added as dataschema");
        }
        Self { prefix, schemas: schemas.map(|text| text.value.trim_end_matches('/').to_owned()) }
    }
}

/// Reads what a flow says to this dialect; events go to the sink's url unless it says otherwise.
pub(super) fn read_flow(
    table: &mut Table<'_>,
    _: &Entity,
    _: &mut BTreeMap<&'static str, String>,
    faults: &mut Faults,
) -> Option<String> {
    if table.has("path") { super::dialect::path(table, faults) } else { Some(String::new()) }
}

/// The dialect at work.
pub(super) struct CloudEvents {
    wire: Wire,
    events: Events,
    pipeline: String,
}

impl CloudEvents {
    pub(super) const fn new(wire: Wire, events: Events, pipeline: String) -> Self {
        Self { wire, events, pipeline }
    }

    /// The event of a row.
    fn event(&self, sheet: &Sheet<'_>, row: &Row) -> Vec<u8> {
        let (entity, batch) = (sheet.entity, sheet.batch);
        let text = |column: usize| batch.column(column).as_string::<i32>().value(row.at);
        let (system, position) = (text(2), text(4));
        let version = row.version;
        let place = u32::from_be_bytes([12, 13, 14, 15].map(|byte| version.as_bytes()[byte]));
        let id = format!("{system}:{}:{}:{place}", version.epoch(), version.offset());
        let verb = if row.deleted { "delete" } else { "upsert" };
        let trace = Uuid::new_v5(&Uuid::new_v5(&Uuid::NAMESPACE_OID, system.as_bytes()), position.as_bytes());
        let span = Uuid::new_v5(&trace, id.as_bytes());
        let partition: Vec<&str> = (SYSTEM_COLUMNS..SYSTEM_COLUMNS + entity.partition_fields)
            .filter_map(|column| batch.column(column).as_string_opt::<i32>())
            .filter(|texts| texts.is_valid(row.at))
            .map(|texts| texts.value(row.at))
            .collect();
        let mut out = br#"{"specversion":"1.0""#.to_vec();
        let mut put = |name: &str, value: &str| {
            out.extend_from_slice(format!(",\"{name}\":").as_bytes());
            put_text(value, &mut out);
        };
        put("id", &id);
        put("source", &format!("/pdx/{}/{system}", self.pipeline));
        put("type", &format!("{}.{}.{verb}.v{}", self.events.prefix, entity.name, entity.version.0));
        put("subject", &row.key);
        put("sequence", &version.to_string());
        put("partitionkey", &partition.join("/"));
        put("traceparent", &traceparent(&trace.to_string(), &span));
        if let Some(schemas) = &self.events.schemas {
            put("dataschema", &format!("{schemas}/{}", entity.schema_id()));
        }
        out.extend_from_slice(br#","time":"#);
        put_instant(batch.column(5).as_primitive::<TimestampMicrosecondType>().value(row.at), &mut out);
        out.extend_from_slice(br#","datacontenttype":"application/json","data":"#);
        out.extend_from_slice(&sheet.json(row));
        out.push(b'}');
        out
    }

    async fn lane(&self, sheet: &Sheet<'_>, lane: Vec<Row>) -> Result<Written, Stop> {
        let items: Vec<Item> = lane.into_iter().map(|row| Item { json: self.event(sheet, &row), row }).collect();
        let all: Vec<&Item> = items.iter().collect();
        let mut written = Written::default();
        for batch in wire::cut(&all, sheet.flow.max_records, sheet.flow.max_bytes) {
            // The first part first: nothing of a key overtakes what came before it.
            let mut open = vec![batch];
            while let Some(part) = open.pop() {
                let is_refused = match self.send(sheet, part).await {
                    Ok(true) => {
                        written.absorb(self.wire.book(
                            sheet,
                            part.len(),
                            part.iter().map(|item| item.json.len()).sum(),
                        ));
                        continue;
                    }
                    Ok(false) => true,
                    Err(Stop::TooLarge(_)) => false,
                    Err(stop) => return Err(stop),
                };
                if let [only] = part {
                    written.absorb(match is_refused {
                        true => self.wire.refuse_alone(sheet, &only.row, REFUSED)?,
                        false => self.wire.refuse(sheet, &only.row, TOO_LARGE, None, true)?,
                    });
                } else {
                    let (left, right) = part.split_at(part.len() / 2);
                    open.extend([right, left]);
                }
            }
        }
        Ok(written)
    }

    /// True where the receiver took the batch, false where it refused it.
    async fn send(&self, sheet: &Sheet<'_>, part: &[&Item]) -> Result<bool, Stop> {
        let url = self.wire.url(&sheet.flow.path)?;
        let body = wire::array(part);
        let key = Uuid::new_v5(&Uuid::NAMESPACE_OID, &sha256(&body));
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(BATCH));
        // Also what a signature calls the message, so that a repeat is signed as one.
        let key = HeaderValue::from_str(&format!("\"{key}\"")).expect("a uuid is plain text");
        headers.insert(HeaderName::from_static(IDEMPOTENCY_KEY), key);
        let takes = |status: StatusCode| status.is_success() || matches!(status.as_u16(), 400 | 422);
        Ok(self.wire.send(Method::POST, &url, &headers, Some(body.into()), takes).await?.status.is_success())
    }
}

#[async_trait]
impl Voice for CloudEvents {
    async fn recall(&mut self, _: &Known) -> Result<Recalled, SinkError> {
        Ok(Recalled::Unknown)
    }

    async fn deliver(&mut self, sheet: &Sheet<'_>, lanes: Vec<Vec<Row>>) -> Result<Written, SinkError> {
        let this = &*self;
        let busy = lanes.into_iter().filter(|lane| !lane.is_empty());
        let parts = try_join_all(busy.map(|lane| this.lane(sheet, lane))).await.map_err(Stop::into_error)?;
        Ok(wire::sum(parts))
    }

    async fn end(&mut self) -> Result<Written, SinkError> {
        Ok(Written::default())
    }

    /// The handshake of webhooks: `OPTIONS`, to which a receiver answers whether it wants to hear of us. One that does not know it
    /// is there nonetheless.
    async fn check(&self, flows: &[Flow]) -> Result<(), SinkError> {
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static("webhook-request-origin"), HeaderValue::from_static("syncline"));
        for flow in flows {
            let url = self.wire.url(&flow.path)?;
            let takes = |status: StatusCode| status.is_success() || status == StatusCode::METHOD_NOT_ALLOWED;
            self.wire.send(Method::OPTIONS, &url, &headers, None, takes).await.map_err(Stop::into_error)?;
        }
        Ok(())
    }
}
