//! Looking at the seeds from outside a session: what a load would say, changing nothing.

use std::path::PathBuf;

use syncline_schemas::table::TableSchema;

use super::config::SeedsConfig;
use super::fault::FileFault;
use super::position::Manifest;
use super::{folder, load};
use crate::CaptureError;

/// A file that can be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeedFile {
    /// Where it is.
    pub file: PathBuf,
    /// Its shape.
    pub schema: TableSchema,
    /// How many rows it has.
    pub rows: usize,
}

/// Reads every file: those that can be loaded, and all faults. Without a fault a reader loads them.
#[must_use]
pub fn check(config: &SeedsConfig) -> (Vec<SeedFile>, Vec<FileFault>) {
    let listing = match folder::list(&config.dir) {
        Ok(listing) => listing,
        Err(error) => return (Vec::new(), vec![load::no_folder(config, &error)]),
    };
    let mut faults = load::listing_faults(config, &listing);
    let (mut files, mut manifest) = (Vec::new(), Manifest::new());
    for (name, stat) in &listing.files {
        match load::file(config, name, stat.len) {
            Ok(loaded) => {
                let rows = loaded.table.len();
                files.push(SeedFile { file: config.file(name), schema: loaded.table.schema, rows });
                manifest.insert(name.clone(), loaded.entry);
            }
            Err(found) => faults.extend(found),
        }
    }
    faults.extend(load::manifest_fault(config, &manifest));
    (files, faults)
}

/// The shapes of the tables.
///
/// # Errors
/// [`CaptureError::Files`] with every fault.
pub fn table_schemas(config: &SeedsConfig) -> Result<Vec<TableSchema>, CaptureError> {
    match check(config) {
        (files, faults) if faults.is_empty() => Ok(files.into_iter().map(|file| file.schema).collect()),
        (_, faults) => Err(CaptureError::Files { source_id: config.source.clone(), faults }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::config::TableSpec;
    use super::*;

    #[test]
    fn every_file_is_looked_at_and_a_named_one_must_be_there() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut config = SeedsConfig::new(dir.path().join("seeds"), dir.path().join("data/seeds"));
        let texts = |faults: &[FileFault]| faults.iter().map(ToString::to_string).collect::<Vec<_>>();
        let place = dir.path().join("seeds").display().to_string();
        let (_, faults) = check(&config);
        assert!(
            texts(&faults)[0].starts_with(&place) && texts(&faults)[0].contains("set dir in [seeds]"),
            "{faults:?}"
        );

        fs::create_dir(&config.dir).expect("make");
        fs::write(config.file("uom"), "code,num\nKG,1\nLB,2\n").expect("write");
        fs::write(config.file("region"), "code,name\nN,North\nN,South\n").expect("write");
        fs::write(config.dir.join("OLD.CSV"), "code\n").expect("write");
        config.tables.insert("alias".to_owned(), TableSpec::default());
        let (files, faults) = check(&config);
        assert_eq!((files.len(), files[0].rows, files[0].schema.table.to_string()), (1, 2, "seeds.uom".to_owned()));
        let wanted = [
            format!("{place}/OLD.CSV: is not read; let its name end in .csv"),
            format!("{place}/alias.csv: is not there; add the file, or remove [seeds.alias]"),
            format!("{place}/region.csv:3: column code: has the key of line 2; remove one of the two"),
        ];
        assert_eq!(faults.len(), wanted.len(), "{faults:?}");
        for (fault, wanted) in texts(&faults).iter().zip(wanted) {
            assert!(fault.starts_with(&wanted), "{fault}");
        }
        let refused = table_schemas(&config).expect_err("faults").to_string();
        assert!(refused.starts_with("source seeds: 3 faults in the seeds:\n"), "{refused}");
        assert!(!dir.path().join("data").exists(), "a check changes nothing");
    }
}
