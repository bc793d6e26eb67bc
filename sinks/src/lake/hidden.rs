//! What readers of a lake must not see of people: columns that are left out of its tables, or masked.
//!
//! A masked value is a keyed hash (HMAC-SHA256, RFC 2104) of what was there: the same for the same text in every table, so that
//! rows can still be counted and joined by it, and telling nothing to whoever lacks the key. Null stays null.
//!
//! Invariant: a table holds what is hidden in no file. What is hidden of it is written into the table when it is made, and one
//! that was made otherwise is refused, since files that it has already hold values as they were.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringBuilder};
use arrow::datatypes::DataType;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use syncline_schemas::entity::{self, Entity, Field};
use syncline_schemas::secret::Secret;

use crate::SinkError;
use crate::entities::matches;

/// The first 16 bytes of a hash, as hexadecimal digits: no two of a billion values meet.
const MASK_BYTES: usize = 16;
/// So much of a hash tells one key from another.
const KEY_BYTES: usize = 4;

/// Columns that readers of a lake must not see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hidden {
    left_out: Vec<String>,
    masked: Vec<String>,
    key: Option<Secret>,
}

/// What becomes of one column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Shown,
    LeftOut,
    Masked,
}

impl Hidden {
    /// Columns as in `customer.name` or `*.approved_by`, and the key of the masks.
    ///
    /// # Errors
    /// [`SinkError::Setting`] for a pattern that names no column, for one that names a part of a key, for one of another type
    /// than text that is to be masked, and for masks without a key or a key without masks.
    pub fn new(left_out: Vec<String>, masked: Vec<String>, key: Option<Secret>) -> Result<Self, SinkError> {
        let fault = |setting, reason: String| Err(SinkError::Setting { setting, reason });
        for (setting, patterns) in [("leave_out", &left_out), ("mask", &masked)] {
            for pattern in patterns {
                let mut named = columns(pattern).peekable();
                if named.peek().is_none() {
                    return fault(setting, format!("{pattern:?} names no column; one is written customer.name"));
                }
                for (entity, place, field) in named {
                    let name = format!("{}.{}", entity.name, field.name);
                    if place < entity.key_len() {
                        return fault(setting, format!("{pattern:?} names {name}, which is a part of the key"));
                    }
                    if setting == "mask" && field.field_type.arrow() != DataType::Utf8 {
                        let reason = format!("{pattern:?} names {name}, which is no text; leave it out instead");
                        return fault(setting, reason);
                    }
                }
            }
        }
        match (masked.is_empty(), &key) {
            (false, None) => fault("mask", "needs mask_key, as in mask_key = { file = \"mask.key\" }".to_owned()),
            (false, Some(key)) if key.reveal().len() < 16 => {
                fault("mask_key", "is shorter than 16 characters: its masks could be guessed".to_owned())
            }
            (true, Some(_)) => fault("mask_key", "is the key of masks; say of which columns with mask".to_owned()),
            _ => Ok(Self { left_out, masked, key }),
        }
    }

    /// What becomes of a column.
    pub(super) fn fate(&self, entity: &str, field: &str) -> Fate {
        let named = |patterns: &[String]| patterns.iter().any(|pattern| names(pattern, entity, field));
        if named(&self.left_out) {
            Fate::LeftOut
        } else if named(&self.masked) {
            Fate::Masked
        } else {
            Fate::Shown
        }
    }

    /// What is said of an entity's tables in their properties; none where nothing of it is hidden.
    pub(super) fn mark(&self, entity: &Entity) -> Option<String> {
        let of = |wanted: Fate| {
            let fields = entity.fields.iter().filter(move |field| self.fate(&entity.name, &field.name) == wanted);
            fields.map(|field| field.name.as_str()).collect::<Vec<_>>().join(",")
        };
        let (left_out, masked) = (of(Fate::LeftOut), of(Fate::Masked));
        let key = if masked.is_empty() { String::new() } else { self.mask("syncline", KEY_BYTES) };
        let is_any = !(left_out.is_empty() && masked.is_empty());
        is_any.then(|| format!("left_out={left_out};masked={masked};key={key}"))
    }

    /// The masks of a column of text.
    pub(super) fn masks(&self, column: &ArrayRef) -> ArrayRef {
        let values = column.as_string::<i32>();
        let mut masks = StringBuilder::with_capacity(values.len(), values.len() * MASK_BYTES * 2);
        for value in values {
            masks.append_option(value.map(|value| self.mask(value, MASK_BYTES)));
        }
        Arc::new(masks.finish())
    }

    fn mask(&self, value: &str, bytes: usize) -> String {
        let key = self.key.as_ref().map_or("", Secret::reveal);
        let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("HMAC takes keys of every length");
        mac.update(value.as_bytes());
        mac.finalize().into_bytes().iter().take(bytes).map(|byte| format!("{byte:02x}")).collect()
    }
}

fn names(pattern: &str, entity: &str, field: &str) -> bool {
    pattern.split_once('.').is_some_and(|(of, name)| matches(of, entity) && matches(name, field))
}

/// The columns that a pattern names, with their places.
fn columns(pattern: &str) -> impl Iterator<Item = (&'static Entity, usize, &'static Field)> {
    let all = entity::all()
        .iter()
        .flat_map(|entity| entity.fields.iter().enumerate().map(move |(place, field)| (entity, place, field)));
    all.filter(move |(entity, _, field)| names(pattern, &entity.name, &field.name))
}

#[cfg(test)]
mod tests {
    use arrow::array::StringArray;

    use super::*;

    fn hidden(left_out: &[&str], masked: &[&str], key: Option<&str>) -> Result<Hidden, SinkError> {
        let owned = |patterns: &[&str]| patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        Hidden::new(owned(left_out), owned(masked), key.map(Secret::new))
    }

    #[test]
    fn a_column_that_cannot_be_hidden_is_refused_instead_of_shown() {
        const KEY: Option<&str> = Some("0123456789abcdef");
        for (left_out, masked, key, wanted) in [
            (&["customer.nmae"] as &[&str], &[] as &[&str], None, "names no column"),
            (&["customer"], &[], None, "names no column"),
            (&["customer.customer_id"], &[], None, "a part of the key"),
            (&["customer.*"], &[], None, "a part of the key"),
            (&[], &["inventory_balance.on_hand"], KEY, "is no text"),
            (&[], &["customer.name"], None, "needs mask_key"),
            (&[], &["customer.name"], Some("short"), "shorter than 16"),
            (&["customer.name"], &[], KEY, "say of which columns"),
        ] {
            let error = hidden(left_out, masked, key).expect_err(wanted).to_string();
            assert!(error.contains(wanted), "{error}");
        }
        hidden(&["*.approved_by"], &["customer.na*"], KEY).expect("names columns");
    }

    #[test]
    fn a_mask_is_the_same_for_the_same_text_and_another_under_another_key() {
        let of = |key: &str| hidden(&[], &["customer.name"], Some(key)).expect("masks");
        let (one, two) = (of("0123456789abcdef"), of("fedcba9876543210"));
        let column: ArrayRef = Arc::new(StringArray::from(vec![Some("Ada"), None, Some("Ada"), Some("Bob")]));
        let masks = one.masks(&column);
        let masks = masks.as_string::<i32>();
        assert!(masks.is_null(1) && masks.value(0) == masks.value(2) && masks.value(0) != masks.value(3));
        // RFC 2104 by another implementation: python3 -c "import hmac;
        // print(hmac.new(b'0123456789abcdef', b'Ada', 'sha256').hexdigest()[:32])"
        assert_eq!(masks.value(0), "9bc245ae8032d0b6c5fca2e91bbe8268");
        assert_ne!(two.masks(&column).as_string::<i32>().value(0), masks.value(0));
        let customer = entity::get("customer").expect("known");
        assert_ne!(one.mark(customer), two.mark(customer));
        assert_eq!(one.mark(entity::get("item").expect("known")), None);
    }
}
