//! Whether mappings fit the tables that they read, found out before the first row of a source is captured.
//!
//! A mapping that does not fit is parked, and a corrected one is refused once rows were folded beside it: a
//! typing error would cost a whole copy. So a source of which the log holds nothing yet is not begun with one. From its
//! first entry on it is the other way round: a mapping that stopped fitting must not keep capture from going on, because
//! the source's log would be lost or fill its disk. It is parked with the same fault then.

use syncline_capture::feed::seeds::ShapeJudge;
use syncline_capture::{CaptureError, Class, Severity, StopSignal};
use syncline_journal::Store;
use syncline_schemas::table::TableSchema;
use syncline_transform::MappingFault;
use syncline_transform::mapping::Mapping;
use tracing::warn;

use super::transform;
use crate::config::SourceConfig;

/// The mappings of one source until its tables have been seen.
pub(super) struct Fit {
    mappings: Vec<Mapping>,
    /// The tables were seen, or there is nothing to look at.
    settled: bool,
}

impl Fit {
    pub(super) fn new(mappings: Vec<Mapping>) -> Self {
        Self { settled: mappings.is_empty(), mappings }
    }

    /// Refuses to begin a source whose mappings do not fit; says so of one that goes on. Blocks for some round trips.
    pub(super) fn check(&mut self, config: &SourceConfig, begins: bool, stop: &StopSignal) -> Result<(), CaptureError> {
        if self.settled {
            return Ok(());
        }
        // One that goes on may be about to read all of its tables again.
        let tables = match config.table_schemas(config.copies(), stop) {
            Ok(tables) => tables,
            Err(error) if error.class() == Class::Transient => return Err(error),
            // The reader meets it again and says so with the remedy.
            Err(_) => return Ok(()),
        };
        let faults = misfits(&self.mappings, &tables);
        if begins && !faults.is_empty() {
            let is_readable = config.findings().iter().all(|finding| finding.severity != Severity::Error);
            // Of a source that cannot be read that is the better reason, and the reader gives it.
            return if is_readable { Err(refusal(config, &faults)) } else { Ok(()) };
        }
        self.settled = true;
        for fault in &faults {
            warn!(%fault, "mapping does not fit its table; capture goes on, and the mapping stops where the log says so");
        }
        Ok(())
    }
}

/// Has seeds refused in a shape that the mappings cannot go on with: in the log it could not be taken back.
pub(super) fn guard(source: &mut SourceConfig, mappings: &[Mapping], store: &Store) {
    if let SourceConfig::Seeds(seeds) = source {
        let (mappings, store) = (mappings.to_vec(), store.clone());
        seeds.judge = ShapeJudge::new(move |before, shape| transform::foresee(&store, mappings.clone(), before, shape));
    }
}

fn refusal(config: &SourceConfig, faults: &[MappingFault]) -> CaptureError {
    let texts: Vec<String> = faults.iter().map(ToString::to_string).collect();
    CaptureError::Config {
        source_id: config.id().clone(),
        place: "mappings".to_owned(),
        reason: format!("do not fit, and nothing is captured yet: mend them and start again\n{}", texts.join("\n")),
    }
}

fn misfits(mappings: &[Mapping], tables: &[TableSchema]) -> Vec<MappingFault> {
    // What it reads of another source is looked at when that source's shapes are in the log.
    let here = mappings.iter().filter(|mapping| !mapping.reads_elsewhere(tables));
    here.filter_map(|mapping| mapping.check(tables).err()).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use arrow::datatypes::DataType;
    use syncline_capture::feed::seeds::{self, SeedsConfig};
    use syncline_capture::{LogSink, Outcome, Progress};
    use syncline_journal::{Journal, Limits};
    use syncline_schemas::frame::LogEntry;
    use syncline_schemas::ident::{LogOffset, SourceId, TableId};
    use syncline_schemas::table::Column;

    use super::*;

    fn mapping(sql: &str) -> Mapping {
        Mapping::parse("erp/supplier.sql", "mappings/erp/supplier.sql", sql).expect("parses")
    }

    fn table(columns: &[&str]) -> TableSchema {
        let column = |(i, name): (usize, &&str)| Column {
            name: (*name).to_owned(),
            data_type: DataType::Utf8,
            source_type: "text".to_owned(),
            key_ordinal: (i == 0).then_some(0),
            can_be_absent: false,
        };
        let columns = columns.iter().enumerate().map(column).collect();
        TableSchema { source: SourceId::new("erp"), table: TableId::new("m", "lieferant"), version: 1, columns }
    }

    #[test]
    fn a_source_is_not_begun_with_a_mapping_that_does_not_fit_its_tables() {
        let tables = [table(&["nr", "name"])];
        let fits = mapping("SELECT 'C1' AS company_id, nr AS supplier_id, name AS name FROM lieferant");
        let column = mapping("SELECT 'C1' AS company_id, nummer AS supplier_id, name FROM m.lieferant");
        let table = mapping("SELECT 'C1' AS company_id, nr AS supplier_id, name FROM lieferanten");
        let other =
            "SELECT 'C1' AS company_id, l.nr AS supplier_id, k.name FROM lieferant l JOIN seeds.kurz k ON k.nr = l.nr";
        let elsewhere = mapping(other);
        assert_eq!(misfits(&[fits, column, table, elsewhere], &tables).len(), 2);
    }

    /// A log that takes everything.
    struct Nowhere;

    impl LogSink for Nowhere {
        fn append(&self, _entry: LogEntry) -> Result<LogOffset, CaptureError> {
            Ok(LogOffset(1))
        }

        fn durable(&self) -> Result<LogOffset, CaptureError> {
            Ok(LogOffset(1))
        }

        fn wait_durable(&self, _offset: LogOffset, _timeout: Duration) -> Result<LogOffset, CaptureError> {
            Ok(LogOffset(1))
        }
    }

    #[test]
    fn a_file_that_a_mapping_cannot_take_never_reaches_the_log() {
        let dir = tempfile::tempdir().expect("a folder");
        let journal = Journal::open(&dir.path().join("data"), Limits::default()).expect("opens");
        std::fs::create_dir(dir.path().join("seeds")).expect("made");
        let mut seeds = SeedsConfig::new(dir.path().join("seeds"), dir.path().join("data/seeds"));
        seeds.drain = true;
        let sql = "SELECT 'C1' AS company_id, nr AS supplier_id, name FROM lieferant";
        let mapping = Mapping::parse("seeds/supplier.sql", "mappings/seeds/supplier.sql", sql).expect("parses");
        let mut source = SourceConfig::Seeds(seeds);
        guard(&mut source, &[mapping], &journal.store);
        let SourceConfig::Seeds(seeds) = source else { panic!("they stay seeds") };
        let run = |text: &str| {
            std::fs::write(dir.path().join("seeds/lieferant.csv"), text).expect("written");
            seeds::run(&seeds, None, &Nowhere, &Progress::default(), &StopSignal::default())
        };
        let fault = run("nr,nam\n1,A\n").expect_err("no such column").to_string();
        let wanted = "lieferant.csv: a mapping could not take it: mappings/seeds/supplier.sql:1:";
        assert!(fault.contains(wanted) && fault.contains("name"), "{fault}");
        assert_eq!(run("nr,name\n1,A\n").expect("fits"), Outcome::Drained);
    }
}
