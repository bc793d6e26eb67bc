//! Which tables are read, and how statements name them.

use std::collections::BTreeMap;

use syncline_schemas::ident::TableId;

use super::event::statement::Name;
use crate::pattern::TablePatterns;

/// Databases of the server itself.
const SYSTEM: [&str; 4] = ["mysql", "information_schema", "performance_schema", "sys"];

/// Which tables are read.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    pub(crate) patterns: TablePatterns,
    /// Columns that tell the rows of a table apart, where the server knows no key of it.
    pub(crate) keys: BTreeMap<TableId, Vec<String>>,
    /// The server keeps names of tables in small letters, whatever a statement writes (`lower_case_table_names` is 1).
    pub(crate) ignores_case: bool,
}

impl Scope {
    pub(crate) fn reads(&self, table: &TableId) -> bool {
        !SYSTEM.contains(&&*table.schema) && self.patterns.select(table)
    }

    pub(crate) fn declared(&self, table: &TableId) -> Option<&[String]> {
        self.keys.get(table).map(Vec::as_slice)
    }

    /// The table that a statement names, as the log names it, where it is read; `database` is that of the statement.
    pub(crate) fn named(&self, name: &Name, database: &str) -> Option<TableId> {
        let stored = |name: &str| if self.ignores_case { name.to_lowercase() } else { name.to_owned() };
        let database = name.database.as_deref().unwrap_or(database);
        let table = TableId::new(&stored(database), &stored(&name.table));
        self.reads(&table).then_some(table)
    }

    /// Whether tables of a database may be read.
    pub(crate) fn reads_some_of(&self, database: &str) -> bool {
        !SYSTEM.contains(&database) && self.patterns.select_some_of(database)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_names_a_table_in_the_case_that_the_server_allows() {
        let mut scope = Scope {
            patterns: TablePatterns::parse(&["shop.*", "mysql.*"]).unwrap(),
            keys: BTreeMap::new(),
            ignores_case: false,
        };
        let name = |database: Option<&str>| Name { database: database.map(str::to_owned), table: "Stock".to_owned() };
        assert_eq!(scope.named(&name(None), "shop"), Some(TableId::new("shop", "Stock")));
        assert_eq!(scope.named(&name(Some("SHOP")), "shop"), None);
        scope.ignores_case = true;
        assert_eq!(scope.named(&name(Some("SHOP")), "x"), Some(TableId::new("shop", "stock")));
        assert_eq!(scope.named(&name(None), "shop"), Some(TableId::new("shop", "stock")), "rows come under this name");
        assert_eq!(scope.named(&name(Some("mysql")), "shop"), None, "the server's own");
        assert!(scope.reads_some_of("shop") && !scope.reads_some_of("mysql") && !scope.reads_some_of("other"));
    }
}
