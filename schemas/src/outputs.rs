//! Planning outputs as PDX/1 carries them: what planning computed, pulled page by page, and the webhook that points at it.
//!
//! An output is an entity that planning is the source of. It is published as a whole, as a *cycle*: the complete set of its
//! rows as one planning run left them. A published cycle never changes, so its pages can be asked for in any number of
//! attempts and mean the same; the next cycle replaces it as a whole, and a row that it lacks is gone.
//!
//! ```text
//! GET /outputs/{output}                          a page of the newest cycle; cycle_id null where none was published yet
//! GET /outputs/{output}?cycle=ID                 the first page of that one; 404 where it is not kept
//! GET /outputs/{output}?cycle=ID&cursor=NEXT     the page behind another one
//! webhook outputs.available                      there is a cycle; a pointer and no rows, so whoever forges it gains nothing
//! ```

use serde::{Deserialize, Serialize};

/// The entities that are outputs of planning, in the order in which they are pulled.
pub const OUTPUTS: [&str; 3] = ["forecast", "safety_stock", "replenishment_recommendation"];

/// The type of the webhook.
pub const AVAILABLE: &str = "outputs.available";

/// The longest `cycle_id`: it travels in positions and messages, so it is a name and no document.
pub const CYCLE_ID_BYTES_MAX: usize = 200;

/// The field that says which cycle a row is of. A row may carry it; otherwise the page's goes for it.
pub const CYCLE_ID: &str = "cycle_id";
/// The field that says when that was published, as above.
pub const PUBLISHED_TS: &str = "published_ts";

/// True for a name that a cycle can have: short, printable, without spaces.
#[must_use]
pub fn is_cycle_id(text: &str) -> bool {
    (1..=CYCLE_ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Which page is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageOf<'a> {
    /// The entity.
    pub output: &'a str,
    /// The cycle; the newest where there is none.
    pub cycle: Option<&'a str>,
    /// The `next` of the page before.
    pub cursor: Option<&'a str>,
    /// Rows at most; a platform may give fewer, or not know the word.
    pub limit: Option<u32>,
}

/// Some rows of a cycle. Members that a reader does not know are ignored, in rows as well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputPage<R> {
    /// The entity.
    pub output: String,
    /// The cycle; none where nothing was published yet.
    #[serde(default)]
    pub cycle_id: Option<String>,
    /// When it was published, as an instant.
    #[serde(default)]
    pub published_at: Option<String>,
    /// Rows of the whole cycle: whoever has read another number has not read it whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row_count: Option<u64>,
    /// Rows in the entity's own fields, key fields beside the others.
    pub rows: Vec<R>,
    /// The `cursor` of the next page; none at the end.
    #[serde(default)]
    pub next: Option<String>,
}

/// The body of the webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputsAvailable {
    /// [`AVAILABLE`].
    #[serde(rename = "type")]
    pub kind: String,
    /// When it was published, as an instant.
    pub timestamp: String,
    /// What is there.
    pub data: Pointer,
}

/// Where a cycle is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pointer {
    /// The entity.
    pub output: String,
    /// The cycle.
    pub cycle_id: String,
    /// Where it can be pulled. For people: a reader pulls from the base that it is configured with.
    pub url: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entity;

    #[test]
    fn every_output_is_an_entity_and_its_cycle_fields_have_the_types_that_pages_fill_in() {
        for output in OUTPUTS {
            let entity = entity::get(output).expect("canonical");
            assert!(entity.fields.iter().all(|field| !field.is_computed()), "{output} is told by planning alone");
            for (name, wanted) in [(CYCLE_ID, entity::FieldType::String), (PUBLISHED_TS, entity::FieldType::Instant)] {
                assert!(entity.field(name).is_none_or(|(_, field)| field.field_type == wanted && !field.key), "{name}");
            }
        }
    }

    #[test]
    fn a_cycle_is_named_by_what_can_stand_in_a_log_line() {
        assert!(is_cycle_id("2026-W22/run-7"));
        let long = "x".repeat(CYCLE_ID_BYTES_MAX + 1);
        for name in ["", "two words", "a\nb", "é", &long] {
            assert!(!is_cycle_id(name), "{name:?}");
        }
    }
}
