//! A profile: which dialect a platform speaks, and per entity what becomes of a row there.
//!
//! Everything is checked when it is read, against the canonical entities, so that no row finds a mistake of the profile:
//! - a key reads key fields only, because a deleted row carries nothing else;
//! - a key tells apart all rows that the entity does: a key field that it leaves out is named in `constant`, or pinned by
//!   `where`. Two rows that met in one place there would take turns for ever.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use syncline_schemas::delta::SYSTEM_COLUMNS;
use syncline_schemas::entity::{self, Entity};

use super::dialect::{self, Speech};
use super::document::{Document, Faults, Found, ProfileFaults, Table};
use super::expr::{self, Expr, Kind, Scope, TextTable};
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
    /// Rows for which it does not hold are not there.
    pub(super) keep: Option<Expr>,
    /// True where key fields alone decide that.
    pub(super) keep_by_key: bool,
    /// Columns of the batch that hold one value in all rows.
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
    let mut read = Vec::new();
    for (name, table) in flows {
        let Some(entity) = entity::get(&name) else {
            let known: Vec<&str> = entity::all().iter().map(|entity| entity.name.as_str()).collect();
            table.fault(faults, format!("is no entity; there are {}", known.join(", ")));
            continue;
        };
        let scope = Scope { entity, tables: &tables, schemes: &schemes };
        read.extend(flow(table, &scope, &speech, limits, faults));
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
            for (line, pair) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
                match pair.split(',').map(str::trim).collect::<Vec<_>>()[..] {
                    [ours, theirs] if !ours.is_empty() && !theirs.is_empty() => {
                        texts.entries.insert(ours.to_owned(), theirs.to_owned());
                    }
                    _ => file.fault(faults, format!("names {}, whose line {line} is not ours,theirs", file.value)),
                }
            }
        }
    }
    Arc::new(texts)
}

fn flow(
    mut table: Table<'_>,
    scope: &Scope<'_>,
    speech: &Speech,
    (max_records, max_bytes): (usize, usize),
    faults: &mut Faults,
) -> Option<Flow> {
    let entity = scope.entity;
    let before = faults.len();
    let members = members(&mut table, scope, speech, faults);
    let key = key(&mut table, entity, &members, faults);
    let keep = table.text("where", faults).and_then(|text| condition(&text, scope, faults));
    let constant = constant(&mut table, entity, faults);
    let delete = delete(&mut table, &members, &key, speech, faults);
    let mut words = BTreeMap::new();
    let path = speech.read_flow(&mut table, entity, &mut words, faults);
    let flow = Flow {
        entity,
        path: path.unwrap_or_default(),
        keep_by_key: keep.as_ref().is_some_and(|keep| !keep.names(&|at| !is_key(entity, at))),
        members,
        key,
        keep,
        constant,
        delete,
        max_records: table.count("max_records", faults).unwrap_or(max_records),
        max_bytes: table.count("max_bytes", faults).unwrap_or(max_bytes),
        words,
    };
    if faults.len() == before {
        tells_rows_apart(&table, &flow, faults);
    }
    table.finish(faults);
    (faults.len() == before).then_some(flow)
}

/// `row = { name = "expression" }`; all fields of the entity where a dialect does without.
fn members(table: &mut Table<'_>, scope: &Scope<'_>, speech: &Speech, faults: &mut Faults) -> Vec<Member> {
    if !table.has("row") && speech.takes_all_fields() {
        let field = |name: &String| {
            let (expr, kind) = expr::compile(&expr::Node::Field(name.clone()), scope).expect("a field of the entity");
            Member { name: name.clone(), kind, expr }
        };
        return scope.entity.fields.iter().map(|it| field(&it.name)).collect();
    }
    let Some(mut row) = table.table("row", faults) else {
        table.fault(faults, "needs row = { <field there> = \"<expression>\" }");
        return Vec::new();
    };
    let mut members = Vec::new();
    for name in row.keys() {
        let Some(text) = row.text(&name, faults) else { continue };
        match expr::parse(&text.value).and_then(|node| expr::compile(&node, scope)) {
            Ok((expr, kind)) => members.push(Member { name, kind, expr }),
            Err(reason) => text.fault(faults, reason),
        }
    }
    members
}

/// `key = ["item", "location"]`, names of members.
fn key(table: &mut Table<'_>, entity: &Entity, members: &[Member], faults: &mut Faults) -> Vec<usize> {
    let Some(names) = table.texts("key", faults) else {
        if table.has("row") {
            table.fault(faults, "needs key = [...]: which fields of row tell rows apart there");
        }
        return (0..entity.key_len().min(members.len())).collect();
    };
    let mut key = Vec::new();
    for name in &names.value {
        let Some(at) = members.iter().position(|member| member.name == *name) else {
            names.fault(faults, format!("has {name}, which row does not give"));
            continue;
        };
        if members[at].expr.names(&|at| !is_key(entity, at)) {
            let fields: Vec<&str> = entity.fields[..entity.key_len()].iter().map(|it| it.name.as_str()).collect();
            let (name, fields) = (&entity.name, fields.join(", "));
            names.fault(
                faults,
                format!(
                    "has {}, which reads more than the key of {name} ({fields}); a deleted row carries nothing else",
                    members[at].name
                ),
            );
        }
        key.push(at);
    }
    if names.value.is_empty() {
        names.fault(faults, "is empty; name the fields of row that tell rows apart there");
    }
    key
}

fn is_key(entity: &Entity, at: usize) -> bool {
    (SYSTEM_COLUMNS..SYSTEM_COLUMNS + entity.key_len()).contains(&at)
}

fn condition(text: &Found<String>, scope: &Scope<'_>, faults: &mut Faults) -> Option<Expr> {
    match expr::parse(&text.value).and_then(|node| expr::compile(&node, scope)) {
        Ok((expr, Kind::Boolean)) => Some(expr),
        Ok((_, other)) => {
            text.fault(faults, format!("is a {other}; it is a condition, as in status = 'open'"));
            None
        }
        Err(reason) => {
            text.fault(faults, reason);
            None
        }
    }
}

/// `constant = ["company_id"]`.
fn constant(table: &mut Table<'_>, entity: &Entity, faults: &mut Faults) -> Vec<usize> {
    let Some(names) = table.texts("constant", faults) else { return Vec::new() };
    let mut constant = Vec::new();
    for name in &names.value {
        match entity.field(name).filter(|(_, field)| field.key) {
            Some((at, _)) => constant.push(SYSTEM_COLUMNS + at),
            None => names.fault(faults, format!("has {name}, which is no field of the key of {}", entity.name)),
        }
    }
    constant
}

fn delete(table: &mut Table<'_>, members: &[Member], key: &[usize], speech: &Speech, faults: &mut Faults) -> Delete {
    let Some(mut delete) = table.table("delete", faults) else {
        return speech.delete_by_itself().unwrap_or_else(|| {
            table.fault(faults, "needs delete = { strategy = \"...\" }: what becomes of a row that is deleted here");
            Delete::Keep
        });
    };
    let ways = speech.deletes();
    let strategy = delete.required("strategy", faults);
    let fields = delete.texts("fields", faults);
    delete.finish(faults);
    let Some(strategy) = strategy else { return Delete::Keep };
    if !ways.contains(&strategy.value.as_str()) {
        strategy.fault(faults, format!("is \"{}\"; this dialect has {}", strategy.value, ways.join(", ")));
    }
    match (strategy.value.as_str(), fields) {
        ("delete", None) => Delete::Remove,
        ("set_zero", Some(fields)) => {
            let mut zeros = Vec::new();
            for name in &fields.value {
                let place = members.iter().position(|member| member.name == *name);
                let numeric = place.filter(|at| matches!(members[*at].kind, Kind::Decimal(_) | Kind::Integer));
                match numeric.filter(|at| !key.contains(at)) {
                    Some(at) => zeros.push(at),
                    None => fields.fault(faults, format!("has {name}, which is no number of row beside its key")),
                }
            }
            Delete::SetZero(zeros)
        }
        ("set_zero", None) => {
            strategy.fault(faults, "needs fields = [...] beside it: the numbers of row that become 0");
            Delete::Keep
        }
        (_, Some(fields)) => {
            fields.fault(faults, "has no effect without strategy = \"set_zero\"");
            Delete::Keep
        }
        _ => Delete::Keep,
    }
}

/// Refuses a key under which several rows of ours would meet.
fn tells_rows_apart(table: &Table<'_>, flow: &Flow, faults: &mut Faults) {
    let lost: Vec<&str> = (0..flow.entity.key_len())
        .filter(|at| {
            let at = SYSTEM_COLUMNS + at;
            let is_named = |expr: &Expr| expr.names(&|named| named == at);
            !flow.constant.contains(&at)
                && !flow.key.iter().any(|member| is_named(&flow.members[*member].expr))
                && !flow.keep.as_ref().is_some_and(is_named)
        })
        .map(|at| flow.entity.fields[at].name.as_str())
        .collect();
    if !lost.is_empty() {
        let fields = lost.join(", ");
        table.fault(
            faults,
            format!(
                "has a key without {fields}: rows that differ in nothing else would overwrite each other there; take \
                 {fields} into the key, pin it with where, or name it in constant where it is always the same"
            ),
        );
    }
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
        let text = faults(&flow("constant = [\"on_hand\"]\n"));
        assert!(text.contains("has on_hand, which is no field of the key"), "{text}");
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
    }
}
