//! A file's first line: the columns' names, and what is declared about them as places among them.

use super::config::{CellType, TableSpec};
use super::fault::Faults;
use super::table::Layout;
use syncline_schemas::frame;

/// More columns are no code table; a place in a layout is 16 bits.
const COLUMNS_MAX: usize = 1_000;

/// The columns' names; faults name the column by its place where its name is what is wrong.
pub(super) fn names(record: &csv::ByteRecord, line: usize, faults: &mut Faults) -> Vec<String> {
    let mut names: Vec<String> = Vec::with_capacity(record.len());
    for (i, bytes) in record.iter().enumerate() {
        let name = String::from_utf8_lossy(bytes).into_owned();
        let reason = match names.iter().position(|other| *other == name) {
            _ if std::str::from_utf8(bytes).is_err() => Some(NOT_UTF8.to_owned()),
            _ if name.is_empty() => Some("has no name; write one into the first line".to_owned()),
            _ if name.trim() != name => Some("has a name with blanks around it; remove them".to_owned()),
            _ if is_meta(&name) => Some(format!("is named {name}, which Syncline keeps for itself; rename it")),
            Some(other) => Some(format!("is named {name} like column {}; rename one of them", other + 1)),
            None => None,
        };
        if let Some(reason) = reason {
            faults.add(line, (i + 1).to_string(), reason);
        }
        names.push(name);
    }
    if let [only] = names.as_slice()
        && only.contains([';', '\t'])
    {
        faults.add(line, "", "separates its columns with something else; save it as CSV with commas");
    }
    if names.len() > COLUMNS_MAX {
        faults.add(line, "", format!("has {} columns, at most {COLUMNS_MAX}; leave some out", names.len()));
    }
    names
}

/// What to say of bytes in another encoding.
pub(super) const NOT_UTF8: &str = "is not UTF-8; save the file as CSV in UTF-8";

fn is_meta(name: &str) -> bool {
    [frame::OP, frame::ORD, frame::COMMIT_TS, frame::POS, frame::ABSENT].contains(&name)
}

/// Looks up what is declared; what cannot be found is a fault and left out.
pub(super) fn layout(names: &[String], table: &str, spec: &TableSpec, faults: &mut Faults) -> Layout {
    let mut find = |wanted: &str, setting: &str| {
        let place = names.iter().position(|name| name == wanted);
        if place.is_none() {
            let there = names.join(", ");
            let reason = format!(
                "is named by {setting} in [seeds.{table}] and not there; the file has {there}: correct one of them"
            );
            faults.add(1, wanted, reason);
        }
        place.and_then(|place| u16::try_from(place).ok())
    };
    let mut keys: Vec<u16> = spec.key.iter().filter_map(|name| find(name, "key")).collect();
    let types = spec.types.iter().filter(|(_, cell_type)| **cell_type != CellType::Text);
    let types = types.filter_map(|(name, cell_type)| Some((find(name, "types")?, *cell_type))).collect();
    for name in spec.types.iter().filter(|(_, cell_type)| **cell_type == CellType::Text).map(|(name, _)| name) {
        find(name, "types");
    }
    if spec.key.is_empty() {
        keys.push(0);
    }
    Layout { keys, types }
}

/// True where a layout that was kept can be one of so many columns.
pub(super) fn fits(layout: &Layout, columns: usize) -> bool {
    let is_there = |place: &u16| usize::from(*place) < columns;
    !layout.keys.is_empty() && layout.keys.iter().all(is_there) && layout.types.keys().all(is_there)
}
