//! The ERP of Meridian, a fictional wholesaler: its tables, its opening books, and the mappings that read them.

use std::fs;
use std::path::Path;

use syncline_schemas::entity::{self, Entity};

use super::error::DemoError;
use super::server;

/// The database it lives in.
pub(crate) const DATABASE: &str = "erp";
/// The role Syncline reads with.
pub(crate) const READER: &str = "syncline";
/// The slot and the publication.
pub(crate) const SLOT: &str = "syncline_erp";

const TABLES: &str = include_str!("erp/tables.sql");
const DATA: &str = include_str!("erp/data.sql");
const STEPS: &str = include_str!("erp/steps.sql");

macro_rules! mappings {
    ($($file:literal),* $(,)?) => {
        &[$(($file, include_str!(concat!("mappings/erp/", $file)))),*]
    };
}

/// Every mapping: its file name, `<entity>[.<part>].sql`, and its text.
pub(crate) const MAPPINGS: &[(&str, &str)] = mappings![
    "item.sql",
    "item_identifier.sql",
    "uom_conversion.sql",
    "location.sql",
    "supplier.sql",
    "supplier_item.sql",
    "customer.sql",
    "inventory_balance.stock.sql",
    "inventory_balance.on_order.sql",
    "inventory_movement.sql",
    "sales_order.sql",
    "sales_order_line.sql",
    "purchase_order.sql",
    "purchase_order_line.sql",
];

/// The name of the entity that a mapping's file fills.
pub(crate) fn entity_of(file: &str) -> &str {
    file.split('.').next().expect("split gives one part at least")
}

/// The entities that the mappings fill, masters first; a wholesaler's ERP keeps no forecasts, to name one of the others.
pub(crate) fn mapped() -> impl Iterator<Item = &'static Entity> {
    entity::all().iter().filter(|entity| MAPPINGS.iter().any(|(file, _)| entity_of(file) == entity.name))
}

/// How large the opening books are; there are always 40 sites in 4 regions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scale {
    /// Articles; stock rows are about 7.6 times as many.
    pub(crate) items: u32,
    /// Customers' accounts.
    pub(crate) customers: u32,
    /// Vendors, at least 2.
    pub(crate) suppliers: u32,
    /// Sales orders, of 3 lines on average.
    pub(crate) orders: u32,
    /// Purchase orders, of 3 lines on average.
    pub(crate) purchases: u32,
    /// Stock postings of the past.
    pub(crate) postings: u32,
}

impl Scale {
    /// A distributor of middling size: about 390,000 rows.
    pub(crate) const DISTRIBUTOR: Self =
        Self { items: 20_000, customers: 3_000, suppliers: 500, orders: 20_000, purchases: 4_000, postings: 40_000 };
    /// The same in small, for tests: about 10,000 rows.
    pub(crate) const SHOP: Self =
        Self { items: 500, customers: 80, suppliers: 20, orders: 400, purchases: 100, postings: 800 };

    fn settings(self) -> String {
        [
            ("items", self.items),
            ("customers", self.customers),
            ("suppliers", self.suppliers),
            ("orders", self.orders),
            ("purchases", self.purchases),
            ("postings", self.postings),
        ]
        .map(|(name, value)| format!("SET meridian.{name} = {value};"))
        .concat()
    }
}

/// Makes the database, loads the opening books, and gives [`READER`] the least that it needs: replication, SELECT, and a
/// publication that the owner made, since only an owner may make one.
///
/// `connection` gives the owner's connection to a database of the server.
///
/// # Errors
/// [`DemoError::Database`] naming what the server refused.
pub(crate) async fn load(
    connection: impl Fn(&str) -> String,
    scale: Scale,
    reader_password: &str,
) -> Result<(), DemoError> {
    let session = server::connect(&connection("postgres")).await.map_err(DemoError::database("log in"))?;
    let create = format!("CREATE DATABASE {DATABASE}");
    session.client.batch_execute(&create).await.map_err(DemoError::database("make the ERP's database"))?;
    let session = server::connect(&connection(DATABASE)).await.map_err(DemoError::database("log in"))?;
    let run = async |what: &str, sql: &str| session.client.batch_execute(sql).await.map_err(DemoError::database(what));
    run("make the ERP's tables", TABLES).await?;
    run("load the opening books", &format!("{}{DATA}", scale.settings())).await?;
    run("make the business steps", STEPS).await?;
    run("let Syncline read", &grants(reader_password)).await
}

fn grants(password: &str) -> String {
    format!(
        "CREATE ROLE {READER} LOGIN REPLICATION PASSWORD '{password}';
         GRANT USAGE ON SCHEMA meridian TO {READER};
         GRANT SELECT ON ALL TABLES IN SCHEMA meridian TO {READER};
         DO $$ BEGIN
             EXECUTE (SELECT 'CREATE PUBLICATION {SLOT} FOR TABLE ' || string_agg(format('%I.%I', schemaname, tablename), ', ' ORDER BY tablename)
                             || ' WITH (publish_via_partition_root = true)'
                      FROM pg_tables WHERE schemaname = 'meridian');
         END $$;"
    )
}

/// Writes the mappings where the daemon looks for them: `<folder>/erp/*.sql`.
///
/// # Errors
/// [`DemoError::File`] naming the path.
pub(crate) fn write_mappings(folder: &Path) -> Result<(), DemoError> {
    let folder = folder.join("erp");
    fs::create_dir_all(&folder).map_err(DemoError::file("make", &folder))?;
    for (name, text) in MAPPINGS {
        let path = folder.join(name);
        fs::write(&path, text).map_err(DemoError::file("write", &path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use syncline_transform::mapping::Mapping;

    #[test]
    fn every_mapping_is_listed_and_fills_an_entity() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/demo/mappings/erp");
        assert_eq!(fs::read_dir(folder).expect("the folder is committed").count(), MAPPINGS.len());
        for (file, _) in MAPPINGS {
            assert!(entity::get(entity_of(file)).is_some(), "{file} maps nothing");
        }
    }

    #[test]
    fn every_mapping_is_one_that_the_daemon_reads() {
        for (file, text) in MAPPINGS {
            Mapping::parse(&format!("erp/{file}"), file, text).unwrap_or_else(|fault| panic!("{fault}"));
        }
    }

    /// A demo of mappings has to map: had the ERP our names, there would be nothing to see.
    #[test]
    fn no_table_of_the_erp_is_named_like_an_entity() {
        for entity in entity::all() {
            assert!(!TABLES.contains(&format!("meridian.{} ", entity.name)), "{}", entity.name);
        }
    }
}
