//! The warehouse of Meridian's West: its tables, its opening books, its working day, and the mappings by which it and the
//! ERP share a balance.
//!
//! Who knows what is there? Of the West's sites the warehouse, of all others the ERP; what is reserved or on order the ERP
//! knows everywhere. So the ERP's mapping of stock gives way here to two: one without the West, and one of what is
//! reserved there. An ERP without a warehouse beside it, as in most tests, is believed everywhere.

use std::fs;
use std::path::Path;

use super::drive::Worker;
use super::erp::{self, Scale};
use super::error::DemoError;
use super::expected::Foreign;
use super::mariadb::{MariaDb, Session};
use super::traffic::{ATTEMPTS_MAX, Counts, Random};

/// The source's name.
pub(crate) const SOURCE: &str = "west";
/// The database it lives in.
pub(crate) const DATABASE: &str = "wms";
/// The user Syncline reads with.
pub(crate) const READER: &str = "syncline";
/// How many people work there, each on a connection.
const WORKERS: u64 = 2;

const TABLES: &str = include_str!("warehouse/tables.sql");
const DATA: &str = include_str!("warehouse/data.sql");
const STEPS: &str = include_str!("warehouse/steps.sql");
const ON_HAND: &str = include_str!("warehouse/on_hand.sql");

/// The mapping of the ERP's that gives way.
const STOCK: &str = "inventory_balance.stock.sql";
/// What it gives way to: file names and texts.
const ERP_MAPPINGS: [(&str, &str); 2] = [
    (STOCK, include_str!("warehouse/mappings/erp/inventory_balance.stock.sql")),
    ("inventory_balance.reserved.sql", include_str!("warehouse/mappings/erp/inventory_balance.reserved.sql")),
];
const OWN_MAPPING: (&str, &str) =
    ("inventory_balance.sql", include_str!("warehouse/mappings/west/inventory_balance.sql"));

/// The ERP's mappings beside a warehouse: file names and texts.
pub(crate) fn erp_mappings() -> Vec<(&'static str, &'static str)> {
    let others = erp::MAPPINGS.iter().copied().filter(|(file, _)| *file != STOCK);
    others.chain(ERP_MAPPINGS).collect()
}

/// Writes the mappings where the daemon looks for them, over those of an ERP that is alone.
///
/// # Errors
/// [`DemoError::File`] naming the path.
pub(crate) fn write_mappings(folder: &Path) -> Result<(), DemoError> {
    let own = folder.join(SOURCE);
    fs::create_dir_all(&own).map_err(DemoError::file("make", &own))?;
    let paths = ERP_MAPPINGS.map(|(name, text)| (folder.join("erp").join(name), text));
    for (path, text) in paths.into_iter().chain([(own.join(OWN_MAPPING.0), OWN_MAPPING.1)]) {
        fs::write(&path, text).map_err(DemoError::file("write", &path))?;
    }
    Ok(())
}

/// Makes the database, loads the opening books for an ERP of that scale, and gives [`READER`] the least that it needs.
///
/// # Errors
/// [`DemoError::Warehouse`] naming what the server refused.
pub(crate) async fn load(server: &MariaDb, scale: Scale, reader_password: &str) -> Result<(), DemoError> {
    let inside = |sql: &str| format!("USE {DATABASE};\n{sql}");
    let run = async |what: &str, sql: &str| server.run(what, sql).await.map(drop);
    run("make the warehouse's tables", &format!("CREATE DATABASE {DATABASE};\n{}", inside(TABLES))).await?;
    run("load the opening books", &inside(&format!("SET @items = {};\n{DATA}", scale.items))).await?;
    run("make the business steps", &inside(STEPS)).await?;
    run("let Syncline read", &grants(reader_password)).await
}

/// What `syncline check --sql` would print, for a reader on this machine.
fn grants(password: &str) -> String {
    format!(
        "CREATE USER {READER}@127.0.0.1 IDENTIFIED BY '{password}';
         GRANT SELECT ON {DATABASE}.* TO {READER}@127.0.0.1;
         GRANT REPLICATION SLAVE, BINLOG MONITOR ON *.* TO {READER}@127.0.0.1;"
    )
}

/// What the planner should hold of the warehouse's stock, as the warehouse's own server computes it.
///
/// # Errors
/// [`DemoError::Warehouse`] with the server's reason.
pub(crate) async fn on_hand(server: &MariaDb) -> Result<Foreign, DemoError> {
    let rows = server.run("add up its stock", &format!("USE {DATABASE};\n{ON_HAND}")).await?;
    let fields = &["company_id", "item_id", "location_id", "on_hand", "quality_hold", "blocked"];
    Ok(Foreign { entity: "inventory_balance", fields, rows })
}

/// People at work, who draw their steps from a seed.
///
/// # Errors
/// [`DemoError::Spawn`] where a connection cannot be made.
pub(crate) fn staff(server: &MariaDb, seed: u64) -> Result<Vec<Floor>, DemoError> {
    (0..WORKERS).map(|worker| Floor::new(server, seed + worker)).collect()
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Floor {
    session: Session,
    random: Random,
    counts: Counts,
}

impl Floor {
    fn new(server: &MariaDb, seed: u64) -> Result<Self, DemoError> {
        Ok(Self { session: server.session(DATABASE)?, random: Random(seed), counts: Counts::default() })
    }
}

impl Worker for Floor {
    /// One of the steps of `steps.sql`, which draws itself which.
    async fn step(&mut self) -> Result<(), DemoError> {
        let statement = format!("CALL step({})", self.random.choices());
        for _ in 0..ATTEMPTS_MAX {
            let row = self.session.row("make a step", &statement).await?;
            match row.parse::<u64>() {
                Ok(rows) => {
                    self.counts.steps += 1;
                    self.counts.rows += rows;
                    return Ok(());
                }
                // -1 where it lost a deadlock.
                Err(_) => self.counts.conflicts += 1,
            }
        }
        Err(DemoError::Stuck { function: "step", attempts: ATTEMPTS_MAX })
    }

    fn counts(&self) -> Counts {
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use syncline_transform::mapping::Mapping;

    use super::super::server::tests::open_folder;
    use super::*;

    #[test]
    fn every_mapping_beside_a_warehouse_is_one_that_the_daemon_reads() {
        let erp = erp_mappings();
        assert_eq!(erp.len(), erp::MAPPINGS.len() + 1);
        let all = erp.into_iter().map(|mapping| ("erp", mapping)).chain([(SOURCE, OWN_MAPPING)]);
        for (source, (file, text)) in all {
            Mapping::parse(&format!("{source}/{file}"), file, text).unwrap_or_else(|fault| panic!("{fault}"));
        }
    }

    #[tokio::test]
    async fn after_a_day_in_the_warehouse_every_pack_that_lies_there_is_explained_by_a_movement() {
        const UNEXPLAINED: &str = "SELECT COUNT(*) FROM (
                SELECT site_cd, sku, lot, status, packs FROM stock UNION ALL
                SELECT site_cd, sku, lot, status, -packs FROM movement) AS both_sides
             GROUP BY site_cd, sku, lot, status HAVING SUM(packs) <> 0";
        let dir = open_folder();
        let server = MariaDb::start(&dir.path().join("mariadb")).await.expect("start");
        load(&server, Scale::SHOP, "secret").await.expect("load");
        let mut staff = staff(&server, 42).expect("log in");
        for _ in 0..200 {
            for floor in &mut staff {
                floor.step().await.expect("step");
            }
        }
        assert!(staff.iter().all(|floor| floor.counts().steps == 200 && floor.counts().rows > 300), "{staff:?}");
        let asked = async |sql: &str| server.run("answer", &format!("USE {DATABASE};\n{sql}")).await.expect("answered");
        assert_eq!(asked("SELECT COUNT(DISTINCT kind) FROM movement").await.trim(), "6", "every kind of step was made");
        assert_eq!(asked(UNEXPLAINED).await, "");
        let sums = on_hand(&server).await.expect("summed");
        assert!(sums.rows.lines().count() > 500 && sums.rows.lines().all(|row| row.split('\t').count() == 6));

        let refused = server.run("make a mess", "SELECT 1; SELEC 2").await.expect_err("no statement").to_string();
        assert!(refused.contains("refused to make a mess") && refused.contains("SELEC 2"), "{refused}");
        let gone = staff[0].session.row("make a step", "CALL steps(1)").await.expect_err("no procedure").to_string();
        assert!(gone.contains("steps does not exist"), "{gone}");
        drop(staff);
        server.stop().await.expect("stop");
    }
}
