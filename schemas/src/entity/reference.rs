//! The `[[reference]]` tables of a definition: read with their entity, checked against the entities before it.
//!
//! ```toml
//! [[reference]]
//! id = "DQ_REF_ITEM"
//! entity = "item"
//! fields = ["company_id", "item_id"]     # ours, in the order of the other entity's key
//! doc = "The item that was ordered."
//! ```
//!
//! A reference leads to an entity earlier in the order of delivery. That one rule keeps masters before the facts that
//! cite them, and no two rows can wait for each other. It also forbids an entity to refer to itself: which parent a node
//! has, and whether parents go in circles, are questions about many rows.

use serde::Deserialize;

use super::{Entity, Field, Reference};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReferenceToml {
    id: String,
    entity: String,
    fields: Vec<String>,
    doc: String,
}

/// Finds the fields of a reference among those of its entity.
pub(super) fn read(toml: ReferenceToml, own: &[Field]) -> Result<Reference, String> {
    let ReferenceToml { id, entity, fields, doc } = toml;
    let fault = |reason: String| format!("reference {id}: {reason}");
    if doc.trim().is_empty() {
        return Err(fault("doc must say something".into()));
    }
    let wanted = format!("DQ_REF_{}", entity.to_uppercase());
    if id != wanted {
        return Err(fault(format!("the id of a reference to {entity} is {wanted}")));
    }
    let index = |name: &String| match own.iter().position(|field| field.name == *name) {
        None => Err(fault(format!("there is no field {name:?}"))),
        Some(at) if own[at].is_computed() => {
            Err(fault(format!("{name} is computed; a reference is made of what mappings give")))
        }
        Some(at) => Ok(at),
    };
    let fields = fields.iter().map(index).collect::<Result<_, _>>()?;
    Ok(Reference { id, entity, fields, doc })
}

/// Checks that every reference of an entity gives the whole key of one of the entities before it.
pub(super) fn check(entity: &Entity, before: &[Entity]) -> Result<(), String> {
    for (i, reference) in entity.references.iter().enumerate() {
        let twice = |other: &Reference| other.entity == reference.entity && other.fields == reference.fields;
        let checked = if entity.references[..i].iter().any(twice) {
            Err("is defined twice".into())
        } else {
            check_key(entity, reference, before)
        };
        checked.map_err(|reason: String| format!("reference {}: {reason}", reference.id))?;
    }
    Ok(())
}

fn check_key(entity: &Entity, reference: &Reference, before: &[Entity]) -> Result<(), String> {
    let target = before
        .iter()
        .find(|other| other.name == reference.entity)
        .ok_or_else(|| format!("no entity before {} is named {:?}", entity.name, reference.entity))?;
    let key = &target.fields[..target.key_len()];
    if key.len() != reference.fields.len() {
        let names: Vec<&str> = key.iter().map(|field| field.name.as_str()).collect();
        let given = reference.fields.len();
        return Err(format!("gives {given} fields, the key of {} is {}", target.name, names.join(", ")));
    }
    let own = reference.fields.iter().map(|&at| &entity.fields[at]);
    match own.zip(key).find(|(own, key)| own.field_type != key.field_type) {
        None => Ok(()),
        Some((own, key)) => Err(format!(
            "{} is {:?}, {} of {} is {:?}",
            own.name, own.field_type, key.name, target.name, key.field_type
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::super::definition::parse_all;

    const BIN: &str = r#"
entity = "bin"
version = "1.0"
kind = "plain"
criticality = "critical"
partition_fields = 1
doc = "A bin."

[[field]]
name = "hall_id"
type = "string"
key = true
doc = "The hall."

[[field]]
name = "bin_no"
type = "integer"
key = true
doc = "Its number in the hall."
"#;

    const LOT: &str = r#"
entity = "lot"
version = "1.0"
kind = "plain"
criticality = "critical"
partition_fields = 1
doc = "What lies in a bin."

[[field]]
name = "lot_id"
type = "string"
key = true
doc = "The lot."

[[field]]
name = "hall"
type = "string"
doc = "Where it lies."

[[field]]
name = "bin"
type = "integer"
doc = "The bin it lies in."

[[field]]
name = "next_bin"
type = "integer"
derived = "bin + 1"
doc = "The bin beside it."

[[reference]]
id = "DQ_REF_BIN"
entity = "bin"
fields = ["hall", "bin"]
doc = "The bin it lies in."
"#;

    const FILES: [&str; 2] = ["canonical/bin.toml", "canonical/lot.toml"];

    #[test]
    fn a_reference_knows_the_fields_it_is_made_of() {
        let entities = parse_all(&[(FILES[0], BIN), (FILES[1], LOT)]).expect("both are sound");
        let [reference] = entities[1].references.as_slice() else { panic!("{:?}", entities[1].references) };
        assert_eq!((reference.entity.as_str(), reference.fields.as_slice()), ("bin", &[1, 2][..]));
    }

    #[test]
    fn a_reference_that_can_never_be_kept_is_refused_with_its_file() {
        let broken = [
            ("\"hall\", \"bin\"]", "\"hall\"]", "gives 1 fields, the key of bin is hall_id, bin_no"),
            ("\"hall\", \"bin\"]", "\"bin\", \"hall\"]", "bin is Integer, hall_id of bin is String"),
            ("\"hall\", \"bin\"]", "\"hall\", \"shelf\"]", "there is no field \"shelf\""),
            ("\"hall\", \"bin\"]", "\"hall\", \"next_bin\"]", "next_bin is computed"),
            ("id = \"DQ_REF_BIN\"", "id = \"DQ_BIN\"", "the id of a reference to bin is DQ_REF_BIN"),
            ("doc = \"The bin it lies in.\"\n", "doc = \"\"\n", "doc must say something"),
        ];
        let at = LOT.find("[[reference]]").expect("it has one");
        for (good, bad, wanted) in broken {
            assert!(LOT[at..].contains(good), "{good}");
            let lot = format!("{}{}", &LOT[..at], LOT[at..].replacen(good, bad, 1));
            let fault = parse_all(&[(FILES[0], BIN), (FILES[1], &lot)]).expect_err(bad).to_string();
            assert!(fault.starts_with("canonical/lot.toml: reference DQ_"), "{fault}");
            assert!(fault.contains(wanted), "{bad}: wanted {wanted:?}, got {fault:?}");
        }
        let twice = format!("{LOT}{}", &LOT[at..]);
        let fault = parse_all(&[(FILES[0], BIN), (FILES[1], &twice)]).expect_err("twice").to_string();
        assert!(fault.contains("reference DQ_REF_BIN: is defined twice"), "{fault}");
    }

    #[test]
    fn whatever_names_an_item_or_a_location_refers_to_it() {
        for entity in super::super::all() {
            for master in ["item", "location"].into_iter().filter(|master| *master != entity.name) {
                let names = entity.field(&format!("{master}_id")).is_some();
                let refers = entity.references.iter().any(|reference| reference.entity == master);
                assert!(refers || !names, "{} names an {master} and does not refer to it", entity.name);
            }
        }
    }

    /// Were two entities to refer to each other, one of them would have to come first.
    #[test]
    fn a_reference_forward_to_itself_or_to_nothing_is_refused() {
        let lot_first = parse_all(&[(FILES[1], LOT), (FILES[0], BIN)]).expect_err("forward").to_string();
        assert!(lot_first.contains("reference DQ_REF_BIN: no entity before lot is named \"bin\""), "{lot_first}");
        let own = LOT.replace("DQ_REF_BIN", "DQ_REF_LOT").replace("entity = \"bin\"", "entity = \"lot\"");
        let to_itself = parse_all(&[(FILES[0], BIN), (FILES[1], &own)]).expect_err("itself").to_string();
        assert!(to_itself.contains("reference DQ_REF_LOT: no entity before lot is named \"lot\""), "{to_itself}");
    }
}
