//! The AsyncAPI 3.0 description: what is said without being asked for.
//!
//! Two kinds of messages. The webhook `outputs.available`, by which a planning platform points at a cycle, is spoken today. The
//! deltas as CloudEvents are the form that a record of PDX/1 has as an event of its own: Syncline sends batches over HTTP
//! (`openapi.json`), and a gateway that puts them on a broker finds here what to call them.

use std::fmt::Write as _;

use super::Entity;
use super::documents::quoted;
use crate::outputs::{AVAILABLE, OUTPUTS};

/// What happens to a row, as the record's `op` and in the type of the event.
const OPS: [&str; 2] = ["upsert", "delete"];

/// The document. It refers to the JSON Schemas of records as files in the folder `json` beside it.
#[must_use]
pub fn asyncapi() -> String {
    let all = |part: fn(&mut String, &Entity)| {
        super::all().iter().fold(String::new(), |mut out, entity| {
            part(&mut out, entity);
            out
        })
    };
    include_str!("asyncapi.template.json")
        .replace("[OUTPUTS]", &format!("[{}]", OUTPUTS.map(quoted).join(", ")))
        .replace("[AVAILABLE]", &quoted(AVAILABLE))
        .replace("[CHANNELS]", &all(channel))
        .replace("[OPERATIONS]", &all(operation))
        .replace("[MESSAGES]", &all(messages))
}

/// `pdx.forecast.upsert.v1`: the major version of the schema, since minors only add.
fn event_type(entity: &Entity, op: &str) -> String {
    format!("pdx.{}.{op}.v{}", entity.name, entity.version.0)
}

fn channel(out: &mut String, entity: &Entity) {
    let name = &entity.name;
    let messages = OPS.map(|op| format!(r##""{op}": {{ "$ref": "#/components/messages/{name}.{op}" }}"##)).join(", ");
    let _ = write!(
        out,
        ",\n    \"deltas.{name}\": {{\n      \"address\": \"pdx.{name}\",\n      \"description\": {},\n      \"messages\": {{ {messages} }}\n    }}",
        quoted(&entity.doc),
    );
}

fn operation(out: &mut String, entity: &Entity) {
    let name = &entity.name;
    let _ = write!(
        out,
        ",\n    \"send.{name}\": {{ \"action\": \"send\", \"channel\": {{ \"$ref\": \"#/channels/deltas.{name}\" }} }}",
    );
}

fn messages(out: &mut String, entity: &Entity) {
    let name = &entity.name;
    for op in OPS {
        let event_type = quoted(&event_type(entity, op));
        let _ = write!(
            out,
            r##",
      "{name}.{op}": {{
        "name": {event_type},
        "contentType": "application/cloudevents+json",
        "payload": {{
          "allOf": [
            {{ "$ref": "#/components/schemas/CloudEvent" }},
            {{
              "type": "object",
              "properties": {{
                "type": {{ "const": {event_type} }},
                "data": {{ "allOf": [{{ "$ref": "json/{name}.schema.json" }}, {{ "properties": {{ "op": {{ "const": "{op}" }} }} }}] }}
              }}
            }}
          ]
        }}
      }}"##,
        );
    }
}
