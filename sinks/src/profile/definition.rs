//! A profile: which dialect a platform speaks, and per entity what becomes of a row there.
//!
//! Everything is checked when it is read, against the canonical entities, so that no row finds a mistake of the profile:
//! - a key reads key fields only, because a deleted row carries nothing else;
//! - a key tells apart all rows that the entity does: a key field that it leaves out is named in `constant`, or pinned by
//!   `where` to one value. Two rows that met in one place there would take turns for ever.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use syncline_schemas::entity::{self, Entity};

use super::dialect::{self, Speech};
use super::document::{Document, Faults, ProfileFaults, Table};
use super::expr::{Expr, Kind, Scope, TextTable};
use super::flow;
use crate::planning::{MAX_BYTES, MAX_RECORDS, Rate};

/// 4 MiB: a cross reference of 100,000 entries. What is larger belongs into a mapping's join.
const FILE_MAX: u64 = 4 << 20;

/// How decimals stand in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Decimals {
    /// `"12.5"`: exact with every reader.
    #[default]
    Text,
    /// `12.5`: exact on the wire.
    Number,
}

/// What becomes of a deleted row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Delete {
    /// It is deleted there.
    Remove,
    /// These of its fields become zero.
    SetZero(Vec<usize>),
    /// It stays as it is.
    Keep,
}

/// A field of a row there.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) expr: Expr,
}

/// What becomes of the rows of an entity.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Flow {
    pub(super) entity: &'static Entity,
    /// Where they go, below the sink's url.
    pub(super) path: String,
    pub(super) members: Vec<Member>,
    /// The members that tell rows apart there.
    pub(super) key: Vec<usize>,
    /// Of `where` what key fields alone decide: rows for which it does not hold are none of this flow.
    pub(super) own: Option<Expr>,
    /// The rest of it: rows for which it does not hold are not there.
    pub(super) keep: Option<Expr>,
    /// Columns of the batch, of texts, that hold one value in all rows.
    pub(super) constant: Vec<usize>,
    pub(super) delete: Delete,
    pub(super) max_records: usize,
    pub(super) max_bytes: usize,
    /// What only the dialect knows.
    pub(super) words: BTreeMap<&'static str, String>,
}

/// A profile that was read and found sound.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// Where it was read, for messages.
    pub(super) file: String,
    pub(super) speech: Speech,
    pub(super) rate: Option<Rate>,
    pub(super) decimals: Decimals,
    pub(super) flows: Vec<Flow>,
}

impl Profile {
    /// Takes a shipped profile by its name, or reads the file at a path that ends in `.toml`.
    ///
    /// # Errors
    /// [`ProfileFaults`] with every fault and its line.
    pub fn open(name: &str, folder: &Path) -> Result<Self, ProfileFaults> {
        if let Some((_, text)) = dialect::SHIPPED.iter().find(|(shipped, _)| *shipped == name) {
            return Self::parse(name, folder, text);
        }
        let fault = |file: String, fault: String| Err(ProfileFaults { file, faults: vec![(1, fault)] });
        if Path::new(name).extension().is_none_or(|extension| extension != "toml") {
            let shipped: Vec<&str> = dialect::SHIPPED.iter().map(|(name, _)| *name).collect();
            return fault(
                name.to_owned(),
                format!("is no profile; write one of {}, or a path that ends in .toml", shipped.join(", ")),
            );
        }
        let path = folder.join(name);
        let file = path.display().to_string();
        match read_bounded(&path) {
            Ok(text) => Self::parse(&file, path.parent().unwrap_or(folder), &text),
            Err(reason) => fault(file, reason),
        }
    }

    /// Reads the text of a profile; files that it names lie beside it.
    ///
    /// # Errors
    /// [`ProfileFaults`] with every fault and its line.
    pub fn parse(file: &str, folder: &Path, text: &str) -> Result<Self, ProfileFaults> {
        let mut faults = Faults::new();
        let read = Document::parse(text, &mut faults).and_then(|document| read(file, folder, &document, &mut faults));
        match read {
            Some(profile) if faults.is_empty() => Ok(profile),
            _ => {
                faults.sort();
                Err(ProfileFaults { file: file.to_owned(), faults })
            }
        }
    }

    /// Names of the entities that it has a place for.
    #[must_use]
    pub fn entities(&self) -> Vec<String> {
        self.flows.iter().map(|flow| flow.entity.name.clone()).collect()
    }

    /// True where rows go to a folder or a bucket and not to a service.
    #[must_use]
    pub fn writes_files(&self) -> bool {
        self.speech.writes_files()
    }

    pub(super) fn flow(&self, entity: &Entity) -> Option<&Flow> {
        self.flows.iter().find(|flow| flow.entity.name == entity.name)
    }
}

fn read_bounded(path: &Path) -> Result<String, String> {
    let told = |error: std::io::Error| format!("{error}; name a profile that is shipped, or the path of a file");
    if std::fs::metadata(path).map_err(told)?.len() > FILE_MAX {
        return Err(format!("is larger than {FILE_MAX} bytes; join what is large in a mapping"));
    }
    std::fs::read_to_string(path).map_err(told)
}

fn read(file: &str, folder: &Path, document: &Document<'_>, faults: &mut Faults) -> Option<Profile> {
    let mut root = document.root();
    let speech = Speech::read(&mut root, faults);
    let rate = root.rate("rate", faults);
    let decimals = root.choice("decimals", &[("text", Decimals::Text), ("number", Decimals::Number)], faults);
    let limits = (
        root.count("max_records", faults).unwrap_or(MAX_RECORDS),
        root.count("max_bytes", faults).unwrap_or(MAX_BYTES),
    );
    let tables: BTreeMap<_, _> =
        root.tables("tables", faults).into_iter().map(|(name, table)| (name, text_table(table, faults))).collect();
    let schemes: BTreeMap<_, _> =
        root.tables("xref", faults).into_iter().map(|(name, table)| (name, scheme(table, folder, faults))).collect();
    let flows = root.tables("flow", faults);
    if flows.is_empty() {
        root.fault(faults, "has no [flow.<entity>]: nothing would ever be delivered");
    }
    root.finish(faults);
    let speech = speech?;
    let mut read: Vec<Flow> = Vec::new();
    for (name, table) in flows {
        let Some(entity) = entity::get(&name) else {
            let known: Vec<&str> = entity::all().iter().map(|entity| entity.name.as_str()).collect();
            table.fault(faults, format!("is no entity; there are {}", known.join(", ")));
            continue;
        };
        let scope = Scope { entity, tables: &tables, schemes: &schemes };
        let (line, place) = table.place();
        let Some(flow) = flow::read(table, &scope, &speech, limits, faults) else { continue };
        // Some stores do not tell upper and lower case apart.
        let same = read.iter().find(|other| other.path.eq_ignore_ascii_case(&flow.path));
        if let Some(other) = same.filter(|_| speech.writes_files()) {
            let other = &other.entity.name;
            faults.push((line, format!("{place} has the folder of flow.{other}, and would overwrite its files")));
        }
        read.push(flow);
    }
    // Masters before the facts that cite them.
    read.sort_by_key(|flow| entity::all().iter().position(|entity| entity.name == flow.entity.name));
    Some(Profile { file: file.to_owned(), speech, rate, decimals: decimals.unwrap_or_default(), flows: read })
}

/// A table of texts; `"*"` stands for whatever has no entry.
fn text_table(mut table: Table<'_>, faults: &mut Faults) -> Arc<TextTable> {
    let mut texts = TextTable::default();
    for key in table.keys() {
        let Some(text) = table.text(&key, faults) else { continue };
        if key == "*" {
            texts.otherwise = Some(text.value);
        } else {
            texts.entries.insert(key, text.value);
        }
    }
    table.finish(faults);
    Arc::new(texts)
}

/// A cross reference: `file = "pln.csv"` of lines `ours,theirs`, or a table of them.
fn scheme(mut table: Table<'_>, folder: &Path, faults: &mut Faults) -> Arc<TextTable> {
    if table.keys() != ["file"] {
        return text_table(table, faults);
    }
    let Some(file) = table.text("file", faults) else { return Arc::default() };
    let path: PathBuf = folder.join(&file.value);
    let mut texts = TextTable::default();
    match read_bounded(&path) {
        Err(reason) => file.fault(faults, format!("names {}: {reason}", file.value)),
        Ok(text) => {
            let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
            for (line, pair) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
                match pair.split(',').map(str::trim).collect::<Vec<_>>()[..] {
                    [ours, theirs] if !ours.is_empty() && !theirs.is_empty() => {
                        if texts.entries.insert(ours.to_owned(), theirs.to_owned()).is_some() {
                            file.fault(
                                faults,
                                format!("names {}, whose line {line} repeats an identifier", file.value),
                            );
                        }
                    }
                    _ => file.fault(faults, format!("names {}, whose line {line} is not ours,theirs", file.value)),
                }
            }
        }
    }
    Arc::new(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> String {
        Profile::parse("p.toml", Path::new(""), text).expect_err("it has faults").to_string()
    }

    #[test]
    fn every_shipped_profile_is_sound() {
        for (name, _) in dialect::SHIPPED {
            let profile = Profile::open(name, Path::new("")).unwrap_or_else(|faults| panic!("{faults}"));
            assert!(!profile.flows.is_empty(), "{name}");
        }
        let text = Profile::open("freple", Path::new("")).expect_err("no such profile").to_string();
        assert!(text.starts_with("freple:1: is no profile; write one of frepple"), "{text}");
        let text = Profile::open("missing.toml", Path::new("/nowhere")).expect_err("no such file").to_string();
        assert!(text.starts_with("/nowhere/missing.toml:1: "), "{text}");
    }

    #[test]
    fn all_faults_of_a_profile_are_told_at_once_with_file_line_flow_and_field() {
        let text = faults(concat!(
            "dialect = \"frepple\"\nrate = \"often\"\nretries = 3\n",
            "[flow.item]\npath = \"/api/input/item/\"\nkey = [\"name\"]\n",
            "row = { name = \"item_id\", cost = \"dec(unit_cst, 8, 'half_even')\" }\n",
            "constant = [\"company_id\"]\ndelete = { strategy = \"vanish\" }\n",
            "[flow.itm]\npath = \"/x/\"\n",
            "[flow.inventory_movement]\npath = \"x\"\nkey = [\"id\"]\nrow = { id = \"qty_delta\" }\ndelete = { strategy = \"keep\" }\n",
        ));
        for part in [
            "p.toml:2: rate is a string; write requests per s, min or h",
            "p.toml:3: retries: unknown key; known here: ",
            "p.toml:7: flow.item.row.cost names unit_cst, which item has not",
            "p.toml:9: flow.item.delete.strategy is \"vanish\"; this dialect has delete, set_zero, keep",
            "p.toml:10: flow.itm is no entity; there are uom, ",
            "p.toml:12: flow.inventory_movement is a flow of events",
            "p.toml:13: flow.inventory_movement.path is no path below the sink's url",
            "p.toml:14: flow.inventory_movement.key has id, which reads more than the key of inventory_movement",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn a_key_under_which_rows_of_ours_would_meet_is_refused() {
        let flow = |rest: &str| {
            format!(
                "dialect = \"frepple\"\n[flow.inventory_balance]\npath = \"/b/\"\nkey = [\"i\", \"l\"]\n\
                 row = {{ i = \"item_id\", l = \"location_id\", q = \"on_hand\" }}\n\
                 delete = {{ strategy = \"set_zero\", fields = [\"q\"] }}\n{rest}"
            )
        };
        let text = faults(&flow("constant = [\"company_id\"]\n"));
        assert!(text.contains("has a key without owner_id, stock_class: rows that differ in nothing else"), "{text}");
        let sound = flow("constant = [\"company_id\"]\nwhere = \"owner_id = '' and stock_class = ''\"\n");
        Profile::parse("p.toml", Path::new(""), &sound).expect("both are pinned");
        // Where another field decides as well, a row of any class may be meant.
        for loose in ["stock_class = '' or on_hand > 0", "stock_class >= ''"] {
            let loose = format!("constant = [\"company_id\"]\nwhere = \"owner_id = '' and ({loose})\"\n");
            let text = faults(&flow(&loose));
            assert!(text.contains("has a key without stock_class: rows that differ"), "{text}");
        }
        let text = faults(&flow("constant = [\"on_hand\"]\n"));
        assert!(text.contains("has on_hand, which is no field of the key"), "{text}");
        let text = faults(
            "dialect = \"frepple\"\n[flow.supplier_item]\npath = \"/t/\"\nkey = [\"i\"]\nrow = { i = \"item_id\" }\n\
             constant = [\"company_id\", \"valid_from\"]\ndelete = { strategy = \"keep\" }\n",
        );
        assert!(text.contains("p.toml:6: flow.supplier_item.constant has valid_from, which is no text"), "{text}");
    }

    #[test]
    fn a_row_that_is_deleted_by_its_path_has_a_key_of_one_field() {
        let text = faults(concat!(
            "dialect = \"frepple\"\n[flow.location]\npath = \"/l/\"\nkey = [\"c\", \"n\"]\n",
            "row = { c = \"company_id\", n = \"location_id\" }\ndelete = { strategy = \"delete\" }\n",
        ));
        assert!(text.contains("p.toml:6: flow.location.delete.strategy needs a key of one field"), "{text}");
    }

    #[test]
    fn a_cross_reference_of_a_file_is_read_once_and_told_with_its_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let profile = "dialect = \"frepple\"\n[xref.PLN]\nfile = \"pln.csv\"\n[flow.supplier]\npath = \"/s/\"\nkey = [\"n\"]\n\
                       row = { n = \"xref('PLN', supplier_id)\" }\nconstant = [\"company_id\"]\ndelete = { strategy = \"keep\" }\n";
        std::fs::write(folder.path().join("pln.csv"), "4711,P1\n\n4712,P2\n").expect("written");
        Profile::parse("p.toml", folder.path(), profile).expect("sound");
        std::fs::write(folder.path().join("pln.csv"), "4711,P1\n4712\n").expect("written");
        let text = Profile::parse("p.toml", folder.path(), profile).expect_err("half a line").to_string();
        assert!(text.contains("p.toml:3: xref.PLN.file names pln.csv, whose line 2 is not ours,theirs"), "{text}");
        std::fs::write(folder.path().join("pln.csv"), "\u{feff}4711,P1\n4711,P2\n").expect("written");
        let text = Profile::parse("p.toml", folder.path(), profile).expect_err("twice").to_string();
        assert!(text.contains("pln.csv, whose line 2 repeats an identifier"), "{text}");
    }

    #[test]
    fn flows_that_would_overwrite_each_others_files_are_refused() {
        let text = faults("dialect = \"file_drop\"\n[flow.item]\n[flow.location]\nfolder = \"Item\"\n");
        assert!(text.contains("p.toml:3: flow.location has the folder of flow.item"), "{text}");
    }
}
