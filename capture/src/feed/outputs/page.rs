//! A page as bytes becomes rows in builders. What it does not know it passes over, what it does not understand it refuses with
//! the place and never with the value.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use syncline_schemas::outputs::{CYCLE_ID, OutputPage, PUBLISHED_TS, is_cycle_id};

use super::column::{self, Column, Wanted};
use super::table::{Field, Table};

/// A longer cursor would be a document.
const CURSOR_BYTES_MAX: usize = 4 << 10;

/// A page of a cycle.
#[derive(Debug)]
pub(super) struct Page<'a> {
    /// None where nothing was published yet.
    pub(super) cycle: Option<Cycle>,
    pub(super) rows: Vec<&'a RawValue>,
    pub(super) next: Option<String>,
}

/// What every page says of its cycle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cycle {
    pub(super) id: String,
    /// As the platform wrote it, and in microseconds since 1970.
    pub(super) published_at: String,
    pub(super) published_us: i64,
    pub(super) row_count: u64,
}

/// Reads a page of an output.
pub(super) fn read<'a>(output: &str, bytes: &'a [u8]) -> Result<Page<'a>, String> {
    let page: OutputPage<&RawValue> = serde_json::from_slice(bytes).map_err(|error| {
        // Never the error itself: it repeats the value that it did not like.
        let (class, line, column) = (error.classify(), error.line(), error.column());
        format!("is no page of an output: {class:?} error in line {line}, column {column}")
    })?;
    if page.output != output {
        return Err("is a page of another output".to_owned());
    }
    if page.next.as_ref().is_some_and(|next| next.is_empty() || next.len() > CURSOR_BYTES_MAX) {
        return Err(format!("has a next that is empty or longer than {CURSOR_BYTES_MAX} bytes"));
    }
    if page.next.is_some() && page.rows.is_empty() {
        return Err("has no rows, but a next page".to_owned());
    }
    let cycle = match (page.cycle_id, page.published_at) {
        (None, _) if page.rows.is_empty() => None,
        (Some(id), Some(published_at)) if is_cycle_id(&id) => {
            let published_us = column::instant(&published_at)
                .map_err(|Wanted(what)| format!("has a published_at that is wanted as {what}"))?;
            // Without it an empty page would say that every row is gone.
            let row_count = page.row_count.ok_or_else(|| "lacks row_count".to_owned())?;
            Some(Cycle { id, published_at, published_us, row_count })
        }
        (Some(_), None) => return Err("lacks published_at".to_owned()),
        (Some(_), Some(_)) => {
            return Err("has a cycle_id that is longer than 200 bytes, or has other than printable signs".to_owned());
        }
        (None, _) => return Err("has rows, but no cycle_id".to_owned()),
    };
    Ok(Page { cycle, rows: page.rows, next: page.next })
}

/// Appends a row of a cycle to the columns of its table.
pub(super) fn append(table: &Table, columns: &mut [Column], cycle: &Cycle, row: &RawValue) -> Result<(), String> {
    let mut values = vec![None; table.fields.len()];
    let mut json = serde_json::Deserializer::from_str(row.get());
    let members = Members { fields: &table.fields, values: &mut values };
    members.deserialize(&mut json).map_err(|_| "is no object".to_owned())?;
    for ((field, column), value) in table.fields.iter().zip(columns).zip(values) {
        let name = field.name.as_str();
        let appended = match value.filter(|json| *json != "null") {
            Some(json) => column.append(json),
            None if name == CYCLE_ID => column.append_text(&cycle.id),
            None if name == PUBLISHED_TS => column.append_text(&cycle.published_at),
            None => match &field.default {
                Some(default) => column.append_text(default),
                None if field.required => return Err(format!("field {name} is missing")),
                None => {
                    column.append_null();
                    Ok(())
                }
            },
        };
        appended.map_err(|Wanted(what)| format!("field {name} is of another type; wanted {what}"))?;
    }
    Ok(())
}

/// Puts the members of an object where the fields of their names are.
struct Members<'t, 'v, 'a> {
    fields: &'t [Field],
    values: &'v mut [Option<&'a str>],
}

impl<'a> DeserializeSeed<'a> for Members<'_, '_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for Members<'_, '_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        let mut likely = 0;
        while let Some(Name(name)) = map.next_key()? {
            // Platforms keep an order, so the next field is nearly always the right one.
            let place = match self.fields.get(likely) {
                Some(field) if field.name == name => Some(likely),
                _ => self.fields.iter().position(|field| field.name == name),
            };
            let Some(place) = place else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            likely = place + 1;
            self.values[place] = Some(map.next_value::<&'a RawValue>()?.get());
        }
        Ok(())
    }
}

/// A member's name, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use arrow::array::{Array as _, AsArray as _};
    use arrow::datatypes::{Decimal128Type, TimestampMicrosecondType};
    use syncline_schemas::ident::SourceId;

    use super::*;

    fn cycle() -> Cycle {
        let published_at = "1970-01-01T00:00:01Z".to_owned();
        Cycle { id: "c1".to_owned(), published_at, published_us: 1_000_000, row_count: 1 }
    }

    fn appended(output: &'static str, row: &str) -> Result<Vec<arrow::array::ArrayRef>, String> {
        let table = Table::new(&SourceId::new("plan"), output);
        let mut columns = table.columns();
        append(&table, &mut columns, &cycle(), &RawValue::from_string(row.to_owned()).expect("JSON"))?;
        Ok(columns.iter_mut().map(Column::finish).collect())
    }

    #[test]
    fn a_row_says_itself_which_cycle_it_is_of_or_its_page_does() {
        let row = r#"{"new": {"a": [1]}, "company_id": "DE01", "item_id": "1", "location_id": "BER", "qty": "1.5"}"#;
        let columns = appended("safety_stock", row).expect("sound");
        assert_eq!(columns[3].len(), 1, "valid_from has a default");
        assert_eq!(columns[4].as_primitive::<Decimal128Type>().value(0), 1_500_000_000);
        assert_eq!(columns[7].as_string::<i32>().value(0), "c1");
        assert_eq!(columns[8].as_primitive::<TimestampMicrosecondType>().value(0), 1_000_000);
        let row = r#"{"company_id": "DE01", "recommendation_id": "r", "type": "purchase", "item_id": "1", "location_id": "B",
            "qty": "1", "due_date": "2026-06-01", "status": "proposed", "cycle_id": "c0"}"#;
        let columns = appended("replenishment_recommendation", row).expect("sound");
        assert_eq!(columns[14].as_string::<i32>().value(0), "c0", "it was proposed in an earlier one");
    }

    #[test]
    fn a_row_that_breaks_the_contract_is_refused_by_the_name_of_its_field_and_not_by_its_value() {
        let refused = |row: &str| appended("safety_stock", row).expect_err("refused");
        let text = refused(r#"{"company_id": "DE01", "item_id": "1", "location_id": "BER", "qty": 4711}"#);
        assert!(text.starts_with("field qty is of another type; wanted a decimal string") && !text.contains("4711"));
        assert_eq!(refused(r#"{"company_id": "DE01", "item_id": null, "qty": "1"}"#), "field item_id is missing");
        assert_eq!(refused("[4711]"), "is no object");
    }

    #[test]
    fn a_page_that_contradicts_itself_is_refused() {
        let fault = |page: &str| read("forecast", page.as_bytes()).expect_err("refused");
        let page = r#"{"output": "forecast", "cycle_id": "c1", "published_at": "2026-05-26T10:00:01Z", "row_count": 0, "rows": []"#;
        assert!(read("forecast", format!("{page}, \"new\": 1}}").as_bytes()).is_ok());
        assert!(read("forecast", br#"{"output": "forecast", "rows": []}"#).expect("sound").cycle.is_none());
        assert_eq!(fault(&format!("{}}}", page.replace("forecast", "item"))), "is a page of another output");
        assert_eq!(fault(&format!("{page}, \"next\": \"7\"}}")), "has no rows, but a next page");
        assert_eq!(fault(r#"{"output": "forecast", "rows": [1]}"#), "has rows, but no cycle_id");
        assert_eq!(fault(r#"{"output": "forecast", "cycle_id": "c1", "rows": []}"#), "lacks published_at");
        let text = fault(r#"{"output": "forecast", "rows": "4711"}"#);
        assert!(text.contains("Data error in line 1") && !text.contains("4711"), "{text}");
    }
}
