//! Which tables are read, and whether the server still gives of them what it gave.
//!
//! What a publication holds can change without a word in the log: a table is taken out and put back, a row filter or a
//! key is changed, a partition is detached. Rows would be missing or stay for ever, and nobody would know. So every
//! position carries a [`Mark`] of what was read up to there, and each session, and every minute of one, compares it
//! with the server. A table is its number in the catalog here: a name can be given to another.

use std::collections::{BTreeMap, HashMap, HashSet};

use syncline_schemas::ident::TableId;
use xxhash_rust::xxh3::xxh3_64;

use super::candidates::{self, Candidate};
use super::catalog::{Catalog, CatalogTable};
use super::config::{PostgresConfig, SnapshotMode};
use super::finding::{COPY_AGAIN, Finding, Remedy, Severity};
use super::mark::Mark;
use super::wire::{Connection, quote_literal};
use crate::CaptureError;
use crate::requests::Doubt;

pub(super) const DURING: &str = "comparing the publication";

/// The tables that are read.
#[derive(Debug, Default)]
pub(crate) struct Scope {
    publication: u32,
    patterns: u32,
    tables: Vec<ReadTable>,
    /// Numbers of those that the mark did not hold.
    newcomers: Vec<u32>,
    /// Numbers of those that are selected and not in the publication.
    unpublished: Vec<u32>,
    /// The shape in which rows of tables without a key are held, by number.
    shapes: BTreeMap<u32, u32>,
    /// A partition with another file is another one: where that has the table read anew, and does not stop the source.
    with_files: bool,
}

/// One of them.
#[derive(Debug, Clone)]
pub(crate) struct ReadTable {
    pub(crate) oid: u32,
    pub(crate) id: TableId,
    /// As [`Shape::key`](super::decode::Shape::key) says it.
    pub(crate) key: String,
    pub(super) terms: u32,
    /// Of a partitioned table, by number.
    pub(super) leaves: Option<Vec<Leaf>>,
    /// Partitions have come or gone with rows, of which the log says nothing: until the table is read anew.
    pub(super) is_doubted: bool,
}

/// What a mark says of a table that is doubted: no partitions have this hash, so it stays so.
const DOUBTED: [u32; 2] = [0, 0];

#[derive(Debug, Clone)]
pub(super) struct Leaf {
    pub(super) oid: u32,
    /// Was a table of its own before.
    pub(super) was_attached: bool,
    /// Transactions that made it a partition: others, where it left meanwhile and came back.
    pub(super) links: String,
    /// Its file, which TRUNCATE exchanges without a word in the log. So does whatever writes a table anew.
    pub(super) file: String,
}

impl Scope {
    /// The table of this number, if it is read.
    pub(crate) fn table(&self, oid: u32) -> Option<&ReadTable> {
        self.tables.iter().find(|table| table.oid == oid)
    }

    /// The table of this name, if it is read.
    pub(crate) fn named(&self, id: &TableId) -> Option<&ReadTable> {
        self.tables.iter().find(|table| table.id == *id)
    }

    /// All of them.
    pub(crate) fn tables(&self) -> impl Iterator<Item = &ReadTable> {
        self.tables.iter()
    }

    /// Numbers of those that came since the mark was made.
    pub(crate) fn newcomers(&self) -> &[u32] {
        &self.newcomers
    }

    /// Numbers of those that came and are not in the publication.
    pub(crate) fn unpublished(&self) -> &[u32] {
        &self.unpublished
    }

    /// Tables of which partitions have come or gone with rows.
    pub(crate) fn doubted(&self) -> impl Iterator<Item = &ReadTable> {
        self.tables.iter().filter(|table| table.is_doubted)
    }

    /// What is doubted.
    pub(crate) fn doubts(&self) -> Vec<Doubt> {
        self.doubted().map(ReadTable::doubt).collect()
    }

    /// Nobody knows any more which rows of a table's partitions are held; one without is not doubted.
    pub(crate) fn distrust(&mut self, oid: u32) {
        let table = self.tables.iter_mut().find(|table| table.oid == oid && table.leaves.is_some());
        table.into_iter().for_each(|table| table.is_doubted = true);
    }

    /// Tables begin to be read anew, as they are now.
    pub(crate) fn trust(&mut self, read_anew: &[u32]) {
        let trusted = self.tables.iter_mut().filter(|table| read_anew.contains(&table.oid));
        trusted.for_each(|table| table.is_doubted = false);
    }

    /// The version of the shape in which a table's rows were counted.
    pub(crate) fn shape_of(&self, table: u32) -> Option<u32> {
        self.shapes.get(&table).copied()
    }

    /// The rows of a table without a key were counted in a shape.
    pub(crate) fn hold_shape(&mut self, table: u32, version: u32) {
        self.shapes.insert(table, version);
    }

    pub(crate) fn mark(&self) -> Mark {
        let tables = self.tables.iter().map(|table| [table.oid, hash(&table.id.to_string()), table.terms]);
        let partitioned = self.tables.iter().filter_map(|table| {
            let last = table.leaves.as_ref()?.iter().map(|leaf| leaf.oid).max().unwrap_or(0);
            let [last, leaves] =
                if table.is_doubted { DOUBTED } else { [last, table.leaves_upto(last, self.with_files)] };
            Some([table.oid, last, leaves])
        });
        Mark {
            publication: self.publication,
            patterns: self.patterns,
            tables: tables.collect(),
            partitioned: partitioned.collect(),
            multisets: self.shapes.iter().map(|(table, version)| [*table, *version, 0]).collect(),
        }
    }
}

impl ReadTable {
    /// True where it has no key: equal rows of it are counted.
    pub(crate) const fn is_multiset(&self) -> bool {
        self.key.is_empty()
    }

    /// A doubt about it as it is now.
    pub(crate) fn doubt(&self) -> Doubt {
        Doubt { table: self.oid, seen: self.leaves_upto(u32::MAX, true) }
    }

    /// Whether it has a partition of this number.
    pub(crate) fn has_leaf(&self, oid: u32) -> bool {
        self.leaves.iter().flatten().any(|leaf| leaf.oid == oid)
    }

    pub(crate) const fn is_partitioned(&self) -> bool {
        self.leaves.is_some()
    }

    fn leaves_upto(&self, last: u32, with_files: bool) -> u32 {
        let known = self.leaves.iter().flatten().filter(|leaf| leaf.oid <= last);
        let text = |leaf: &Leaf| {
            let file = if with_files { format!(" {}", leaf.file) } else { String::new() };
            format!("{}{}{file}", leaf.oid, leaf.links)
        };
        hash(&known.map(text).collect::<Vec<_>>().join(" "))
    }
}

pub(super) fn hash(text: &str) -> u32 {
    u32::try_from(xxh3_64(text.as_bytes()) >> 32).expect("32 bits are left")
}

/// Finds what is read, and what of it is not as the mark says; without a mark everything selected and published is.
///
/// `before` gives names to tables that the catalog does not know any more.
pub(crate) fn compare(
    connection: &mut Connection,
    catalog: &Catalog,
    config: &PostgresConfig,
    held: Option<&Mark>,
    before: Option<&Scope>,
) -> Result<(Scope, Vec<Finding>), CaptureError> {
    let patterns = hash(&config.tables.to_string());
    let mut comparison =
        Comparison { config, before, candidates: Vec::new(), unpublished: Vec::new(), findings: Vec::new() };
    let Some(publication) = load_publication(connection, &config.publication)? else {
        if held.is_some() {
            comparison.publication("is gone, so changes since then are lost to the source");
        }
        return Ok((Scope { patterns, ..Scope::default() }, comparison.findings));
    };
    comparison.candidates = candidates::load(connection, catalog, config)?;
    let mut newcomers = Vec::new();
    let tables = match held {
        None => {
            let all = comparison.candidates.iter().filter(|it| it.is_selected && it.is_published);
            all.map(|candidate| candidate.table.clone()).collect()
        }
        Some(held) => {
            if held.publication != publication {
                comparison.publication(
                    "was made anew, or its options, owner or name were changed, while it was read: changes may be missing",
                );
            }
            let come = comparison.newcomers(held, catalog);
            newcomers.extend(come.iter().map(|table| table.oid));
            let mut tables = comparison.held_tables(held);
            tables.extend(come);
            tables.sort_by_key(|table| table.oid);
            tables
        }
    };
    comparison.limit(&tables);
    let unpublished = comparison.unpublished;
    let with_files = config.closes_gaps();
    let mut shapes: BTreeMap<u32, u32> =
        held.iter().flat_map(|held| &held.multisets).map(|[table, version, _]| (*table, *version)).collect();
    shapes.retain(|oid, _| tables.iter().any(|table| table.oid == *oid));
    Ok((Scope { publication, patterns, tables, newcomers, unpublished, shapes, with_files }, comparison.findings))
}

struct Comparison<'a> {
    config: &'a PostgresConfig,
    before: Option<&'a Scope>,
    /// By number.
    candidates: Vec<Candidate>,
    unpublished: Vec<u32>,
    findings: Vec<Finding>,
}

impl Comparison<'_> {
    fn add(&mut self, severity: Severity, object: String, message: impl Into<String>, remedy: Remedy) {
        self.findings.push(Finding { severity, object, message: message.into(), remedy });
    }

    fn publication(&mut self, message: &str) {
        let object = format!("publication {}", self.config.publication);
        self.add(Severity::Error, object, message, Remedy::advice(COPY_AGAIN));
    }

    fn limit(&mut self, tables: &[ReadTable]) {
        let takes_two = |table: &&ReadTable| table.is_partitioned() || table.is_multiset();
        let entries = tables.len() + tables.iter().filter(takes_two).count();
        if entries > Mark::ENTRIES_MAX {
            let object = format!("tables = {}", self.config.tables);
            let message = format!("selects {} tables, a source has room for {}", tables.len(), Mark::ENTRIES_MAX);
            self.add(Severity::Error, object, message, Remedy::advice("divide them among several sources"));
        }
    }

    /// Selected tables that the mark does not hold: those that can be read from now on.
    fn newcomers(&mut self, held: &Mark, catalog: &Catalog) -> Vec<ReadTable> {
        let excluded = self.excluded();
        let known = held.tables.iter().filter(|[_, name, _]| !excluded.contains(name));
        let (numbers, names): (HashSet<u32>, HashSet<u32>) = known.map(|[number, name, _]| (*number, *name)).unzip();
        let (mut come, mut found) = (Vec::new(), Vec::new());
        for candidate in self.candidates.iter().filter(|it| it.is_selected && !numbers.contains(&it.table.oid)) {
            let id = &candidate.table.id;
            if names.contains(&hash(&id.to_string())) {
                continue;
            }
            let table = catalog.table(candidate.table.oid);
            let fault = table.and_then(CatalogTable::key_fault).map(|(fault, _)| fault);
            let message = match (candidate.is_published, fault) {
                (false, _) => {
                    if self.config.mapped.reads(id) {
                        self.unpublished.push(candidate.table.oid);
                    }
                    "is selected but not in the publication, and is not read".to_owned()
                }
                (true, Some(fault)) => format!("came after the tables were copied and is not read: it {fault}"),
                (true, None) if table.is_none_or(|table| !table.is_readable) => {
                    "came after the tables were copied and is not read: the role may not".to_owned()
                }
                (true, None) if self.config.snapshot == SnapshotMode::Never => {
                    "came after the source was begun and is not read, because snapshot is \"never\"".to_owned()
                }
                (true, None) => {
                    come.push(candidate.table.clone());
                    continue;
                }
            };
            found.push((id.clone(), message));
        }
        for (id, message) in found {
            let remedy = format!("exclude it with \"!{id}\" in tables, or mend that to have it read");
            self.add(Severity::Warning, format!("table {id}"), message, Remedy::Advice(remedy));
        }
        come
    }

    /// Hashes of the names that the operator does not want read.
    fn excluded(&self) -> HashSet<u32> {
        self.config.tables.excluded_by_name().map(hash).collect()
    }

    /// The tables of the mark that can be read on.
    fn held_tables(&mut self, held: &Mark) -> Vec<ReadTable> {
        let leaves: HashMap<u32, [u32; 2]> =
            held.partitioned.iter().map(|[oid, last, hash]| (*oid, [*last, *hash])).collect();
        let excluded = self.excluded();
        let mut tables = Vec::new();
        for [oid, name, terms] in &held.tables {
            // Whoever names a table with ! goes on without it, whatever became of it.
            if excluded.contains(name) {
                continue;
            }
            match self.held_table(*oid, *name, *terms, leaves.get(oid)) {
                Ok(table) => tables.extend(table),
                Err((object, message)) => {
                    self.add(Severity::Error, format!("table {object}"), message, Remedy::advice(WITHOUT_IT));
                }
            }
        }
        tables
    }

    /// A table of the mark, `None` where the operator does not want it any more, or its name and what is wrong with it.
    fn held_table(
        &mut self,
        oid: u32,
        name: u32,
        terms: u32,
        leaves: Option<&[u32; 2]>,
    ) -> Result<Option<ReadTable>, (String, String)> {
        let fault = |object: &dyn ToString, message: &str| Err((object.to_string(), message.to_owned()));
        let place = self.candidates.binary_search_by_key(&oid, |candidate| candidate.table.oid);
        let Some(now) = place.ok().map(|place| &self.candidates[place]) else {
            if let Some(other) = self.candidates.iter().find(|it| hash(&it.table.id.to_string()) == name) {
                return if other.is_selected { fault(&other.table.id, ANOTHER_TABLE) } else { Ok(None) };
            }
            let known = self.before.and_then(|before| before.table(oid));
            let object = known.map_or_else(|| format!("number {oid}"), |table| table.id.to_string());
            return fault(&object, "was dropped while it was read, so its rows are never taken back");
        };
        let id = now.table.id.clone();
        if hash(&id.to_string()) != name {
            return fault(&id, RENAMED);
        }
        if !now.is_selected {
            let message = "is no longer selected: it is not read any more, and what was delivered of it stays";
            self.add(Severity::Warning, format!("table {id}"), message, Remedy::None);
            return Ok(None);
        }
        if !now.is_published {
            return fault(&id, "is no longer in the publication, so changes since then are lost to the source");
        }
        if now.table.terms != terms {
            let message = "has another key, row filter, column list or entry in the publication than when it was read";
            return fault(&id, message);
        }
        let mut table = now.table.clone();
        if let Some([last, leaves]) = leaves {
            let is_as_before = |with_files| table.leaves_upto(*last, with_files) == *leaves;
            let has_changed = !is_as_before(true) && (self.config.closes_gaps() || !is_as_before(false));
            // One that was made as a partition has the file that it began with, unless it was truncated since.
            let is_another =
                |leaf: &Leaf| leaf.was_attached || self.config.closes_gaps() && leaf.file != leaf.oid.to_string();
            let was_joined = table.leaves.iter().flatten().any(|leaf| leaf.oid > *last && is_another(leaf));
            if (has_changed || was_joined) && self.config.closes_gaps() {
                // It stays so where they are as they were again: of the rows between nobody knows.
                table.is_doubted = true;
                let message = "lost a partition, took a table in as one, or had one truncated or written anew, of whose rows the log \
                               says nothing: it is read anew";
                self.add(Severity::Warning, format!("table {id}"), message, Remedy::None);
            } else if has_changed || was_joined {
                let message = "lost a partition or took a table in as one, which the log does not hold: rows stay that are gone, \
                               or are missing";
                return fault(&id, message);
            }
        }
        Ok(Some(table))
    }
}

/// What to do about a table that cannot be read on.
pub(crate) const WITHOUT_IT: &str = "to go on without it, exclude it by the name that it was read under, as in \
                                     \"!public.orders\" in tables; or have `syncline replay --reread` copy the tables again";
/// What is wrong with a name that leads to another table.
pub(crate) const ANOTHER_TABLE: &str = "is another table than was read under this name: it was dropped and made anew, or \
                                        swapped by renaming, and the rows of the old one are never taken back";
/// What is wrong with a table under another name.
const RENAMED: &str = "had another name when it was read, and its rows belong to that";

/// A hash of what identifies the publication and its options; its row is written anew when one of them changes.
fn load_publication(connection: &mut Connection, name: &str) -> Result<Option<u32>, CaptureError> {
    let name = quote_literal(name);
    let sql = format!("SELECT oid, xmin FROM pg_catalog.pg_publication WHERE pubname = {name}");
    let rows = connection.query(DURING, &sql)?;
    Ok(rows.first().map(|row| hash(&format!("{} {}", row.text(0), row.text(1)))))
}
