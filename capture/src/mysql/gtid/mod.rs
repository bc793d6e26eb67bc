//! Which transactions: one by its global identifier, and all that were seen, as MySQL and MariaDB write them.
//!
//! ```text
//! MySQL    source uuid[:tag]:number       sets of intervals: any transaction can be missing
//! MariaDB  domain-server-sequence         the last of each domain: within a domain they come in order
//! ```
//! A set is the truth about where a source stands; names of files and places in them differ from server to server.

mod mariadb;
mod mysql;

use std::collections::BTreeSet;
use std::fmt;

pub(crate) use mariadb::{MariaDbGtid, MariaDbHistory, MariaDbSet};
use mysql::Source;
pub(crate) use mysql::{MySqlGtid, MySqlSet, is_tag};

/// A transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Gtid {
    MySql(MySqlGtid),
    MariaDb(MariaDbGtid),
}

impl fmt::Display for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MySql(gtid) => gtid.fmt(f),
            Self::MariaDb(gtid) => gtid.fmt(f),
        }
    }
}

/// Whoever gave transactions their numbers: a server, of MariaDB as one of a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Writer {
    MySql(Source),
    MariaDb { domain: u32, server: u32 },
}

impl Gtid {
    pub(crate) const fn writer(&self) -> Writer {
        match self {
            Self::MySql(gtid) => Writer::MySql(gtid.source),
            Self::MariaDb(gtid) => Writer::MariaDb { domain: gtid.domain, server: gtid.server },
        }
    }
}

/// All transactions up to a place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GtidSet {
    MySql(MySqlSet),
    MariaDb(MariaDbSet),
}

impl fmt::Display for GtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MySql(set) => set.fmt(f),
            Self::MariaDb(set) => set.fmt(f),
        }
    }
}

const OTHER_KIND: &str = "MySQL and MariaDB number transactions in ways that say nothing of each other";

impl GtidSet {
    /// Takes a transaction in.
    pub(crate) fn add(&mut self, gtid: &Gtid) -> Result<(), &'static str> {
        match (self, gtid) {
            (Self::MySql(set), Gtid::MySql(gtid)) => set.add(gtid),
            (Self::MariaDb(set), Gtid::MariaDb(gtid)) => set.add(*gtid),
            _ => return Err(OTHER_KIND),
        }
        Ok(())
    }

    /// True where a transaction is among them.
    pub(crate) fn holds(&self, gtid: &Gtid) -> bool {
        match (self, gtid) {
            (Self::MySql(set), Gtid::MySql(gtid)) => set.holds(gtid),
            (Self::MariaDb(set), Gtid::MariaDb(gtid)) => set.holds(*gtid),
            _ => false,
        }
    }

    /// True where all of another set are among them.
    pub(crate) fn contains(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::MySql(set), Self::MySql(other)) => set.contains(other),
            (Self::MariaDb(set), Self::MariaDb(other)) => set.contains(other),
            _ => false,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::MySql(set) => *set == MySqlSet::default(),
            Self::MariaDb(set) => *set == MariaDbSet::default(),
        }
    }

    /// Who wrote the last of each kind of them.
    pub(crate) fn writers(&self) -> BTreeSet<Writer> {
        match self {
            Self::MySql(set) => set.sources().map(Writer::MySql).collect(),
            Self::MariaDb(set) => set.servers().map(|(domain, server)| Writer::MariaDb { domain, server }).collect(),
        }
    }

    /// Takes another set in.
    pub(crate) fn unite(&mut self, other: &Self) -> Result<(), &'static str> {
        match (self, other) {
            (Self::MySql(set), Self::MySql(other)) => set.unite(other),
            (Self::MariaDb(set), Self::MariaDb(other)) => set.unite(other),
            _ => return Err(OTHER_KIND),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_one_kind_of_server_say_nothing_of_the_other() {
        let mysql: MySqlSet = "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5".parse().unwrap();
        let mariadb: MariaDbSet = "0-1-5".parse().unwrap();
        let (mut mysql, mariadb) = (GtidSet::MySql(mysql), GtidSet::MariaDb(mariadb));
        assert!(!mysql.contains(&mariadb) && !mariadb.contains(&mysql));
        assert!(mysql.unite(&mariadb).is_err());
        let gtid = Gtid::MariaDb(MariaDbGtid { domain: 0, server: 1, sequence: 3 });
        assert!(mysql.add(&gtid).is_err() && !mysql.holds(&gtid) && mariadb.holds(&gtid));
    }
}
