//! `[seeds]` and `[seeds.<file>]`.

use std::collections::BTreeMap;
use std::path::Path;

use syncline_capture::feed::seeds::{self, CellType, SeedsConfig, TableSpec};

use super::Faults;
use super::section::Section;

/// Where the CSV files are unless told otherwise.
const DIR: &str = "seeds";

pub(super) fn read(mut section: Section<'_>, folder: &Path, data_dir: &Path, faults: &mut Faults) -> SeedsConfig {
    let dir = section.text("dir", faults).map_or_else(|| DIR.to_owned(), |dir| dir.value);
    let mut config = SeedsConfig::new(folder.join(dir), data_dir.join("seeds"));
    for (file, section) in section.tables() {
        config.tables.insert(file, table(section, faults));
    }
    section.finish(faults);
    config
}

fn table(mut section: Section<'_>, faults: &mut Faults) -> TableSpec {
    let key = section.texts("key", faults).map_or_else(Vec::new, |key| {
        if key.value.is_empty() {
            key.fault(faults, "names no column; without it the first column is the key");
        }
        for (i, name) in key.value.iter().enumerate().filter(|(i, name)| key.value[..*i].contains(name)) {
            key.fault(faults, format!("names the column {name} again at place {}; name it once", i + 1));
        }
        key.value
    });
    let types = section.section("types", faults).map_or_else(BTreeMap::new, |types| cell_types(types, faults));
    section.finish(faults);
    TableSpec { key, types }
}

fn cell_types(mut section: Section<'_>, faults: &mut Faults) -> BTreeMap<String, CellType> {
    let mut types = BTreeMap::new();
    for column in section.keys() {
        let Some(text) = section.text(&column, faults) else { continue };
        match text.value.parse() {
            Ok(cell_type) => {
                types.insert(column, cell_type);
            }
            Err(error) => text.fault(faults, format!("is \"{}\"; {error}", text.value)),
        }
    }
    types
}

/// Every fault of the files themselves.
pub(super) fn read_files(config: &SeedsConfig, faults: &mut Faults) {
    let (_, found) = seeds::check(config);
    found.iter().for_each(|fault| faults.add(0, fault.to_string()));
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::{Config, SourceConfig};

    const SINK: &str = "[sinks.null]\ntype = \"discard\"\n";

    /// Reads a configuration beside a folder with one file.
    fn read(text: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().expect("a folder");
        fs::create_dir(dir.path().join("seeds")).expect("make");
        fs::write(dir.path().join("seeds/uom.csv"), "code,num\nKG,1\n").expect("write");
        let file = dir.path().join("syncline.toml");
        fs::write(&file, format!("{text}{SINK}")).expect("write");
        Config::read(&file).map_err(|faults| faults.to_string())
    }

    #[test]
    fn seeds_alone_are_a_source_and_their_files_need_no_word() {
        let config = read("[seeds]\n").expect("reads");
        assert!(matches!(config.sources.as_slice(), [SourceConfig::Seeds(seeds)] if seeds.tables.is_empty()));
        let config =
            read("[seeds.uom]\nkey = [\"code\", \"num\"]\ntypes = { num = \"decimal(28,9)\" }\n").expect("reads");
        let [SourceConfig::Seeds(seeds)] = config.sources.as_slice() else { panic!("one source") };
        assert_eq!(seeds.tables["uom"].key, ["code", "num"]);
        assert_eq!(seeds.tables["uom"].types["num"].to_string(), "decimal(28,9)");
    }

    #[test]
    fn every_fault_of_section_and_files_is_told_at_once() {
        let text = "[seeds]\ndri = \"x\"\n[seeds.uom]\nkey = [\"code\", \"code\"]\ntyps = {}\n\
                    [seeds.uom.types]\nnum = \"decimel\"\nden = \"date\"\n[seeds.alias]\nkey = []\n";
        let faults = read(text).expect_err("faults");
        for wanted in [
            ":2: seeds.dri: unknown key; did you mean dir?",
            ":4: seeds.uom.key names the column code again at place 2",
            ":5: seeds.uom.typs: unknown key; did you mean types?",
            ":7: seeds.uom.types.num is \"decimel\"; it is one of text, integer",
            ":10: seeds.alias.key names no column",
            "uom.csv:1: column den: is named by types in [seeds.uom] and not there; the file has code, num",
            "alias.csv: is not there; add the file, or remove [seeds.alias]",
        ] {
            assert!(faults.contains(wanted), "no {wanted:?} in:\n{faults}");
        }
        assert!(faults.starts_with("7 faults"), "{faults}");
    }

    #[test]
    fn the_name_of_the_seeds_is_no_name_for_a_database() {
        let faults = read("[sources.seeds]\ntype = \"postgres\"\nurl = \"postgres://a@b/c\"\n").expect_err("reserved");
        assert!(faults.contains(":1: sources.seeds has the name of the CSV files of [seeds]"), "{faults}");
        let faults = read("").expect_err("nothing to read");
        assert!(faults.contains("no [sources.<name>] or [seeds] section"), "{faults}");
    }
}
