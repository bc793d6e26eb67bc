//! GTIDs of MariaDB: within a domain transactions come in one order, so the last one stands for all before it.
//!
//! Invariant: one place per domain. The server's number is no part of the order: after a failover another server goes on
//! with the sequence of the domain.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// `domain-server-sequence`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MariaDbGtid {
    pub(crate) domain: u32,
    pub(crate) server: u32,
    pub(crate) sequence: u64,
}

impl fmt::Display for MariaDbGtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.domain, self.server, self.sequence)
    }
}

impl FromStr for MariaDbGtid {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FAULT: &str = "a GTID of MariaDB has another form than domain-server-sequence";
        let mut parts = text.trim().split('-');
        let mut part = || parts.next().filter(|part| part.bytes().all(|byte| byte.is_ascii_digit())).ok_or(FAULT);
        let gtid = Self {
            domain: part()?.parse().map_err(|_| FAULT)?,
            server: part()?.parse().map_err(|_| FAULT)?,
            sequence: part()?.parse().map_err(|_| FAULT)?,
        };
        if parts.next().is_some() { Err(FAULT) } else { Ok(gtid) }
    }
}

/// The last transaction of each domain, as in `gtid_binlog_pos` and `gtid_slave_pos`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct MariaDbSet(BTreeMap<u32, (u32, u64)>);

impl fmt::Display for MariaDbSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (domain, (server, sequence))) in self.0.iter().enumerate() {
            write!(f, "{}{domain}-{server}-{sequence}", if i > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl FromStr for MariaDbSet {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut set = Self::default();
        for part in text.split(',').filter(|part| !part.trim().is_empty()) {
            let gtid: MariaDbGtid = part.parse()?;
            if set.0.insert(gtid.domain, (gtid.server, gtid.sequence)).is_some() {
                return Err("a domain stands twice in one list of GTIDs");
            }
        }
        Ok(set)
    }
}

impl MariaDbSet {
    /// A transaction stands for all before it in its domain; one from before moves nothing back.
    pub(crate) fn add(&mut self, gtid: MariaDbGtid) {
        let place = self.0.entry(gtid.domain).or_insert((gtid.server, gtid.sequence));
        if gtid.sequence > place.1 {
            *place = (gtid.server, gtid.sequence);
        }
    }

    pub(crate) fn holds(&self, gtid: MariaDbGtid) -> bool {
        self.0.get(&gtid.domain).is_some_and(|(_, sequence)| *sequence >= gtid.sequence)
    }

    /// True where each domain of the other has come at least as far here.
    pub(crate) fn contains(&self, other: &Self) -> bool {
        other.gtids().all(|gtid| self.holds(gtid))
    }

    fn gtids(&self) -> impl Iterator<Item = MariaDbGtid> {
        self.0.iter().map(|(&domain, &(server, sequence))| MariaDbGtid { domain, server, sequence })
    }

    /// Those that neither the log of a server holds nor its replication has come to.
    pub(crate) fn without(&self, history: &MariaDbHistory) -> Self {
        Self(
            self.gtids().filter(|gtid| !history.holds(*gtid)).map(|it| (it.domain, (it.server, it.sequence))).collect(),
        )
    }

    /// True where a domain has come at least as far as one of these: what is missing then will not come any more.
    pub(crate) fn is_passed(&self, executed: &Self) -> bool {
        self.gtids().any(|gtid| executed.holds(gtid))
    }

    /// Of each domain, with its number, the server that wrote the last transaction.
    pub(crate) fn servers(&self) -> impl Iterator<Item = (u32, u32)> {
        self.0.iter().map(|(domain, (server, _))| (*domain, *server))
    }

    pub(crate) fn unite(&mut self, other: &Self) {
        other.gtids().for_each(|gtid| self.add(gtid));
    }
}

/// Of each server in each domain the last transaction, as in `gtid_binlog_state`.
///
/// Where a domain has come further by other servers' transactions than one of a server's that was read, and does not have that, the
/// server has another history: a primary that died had logged more than it handed on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct MariaDbHistory(BTreeMap<(u32, u32), u64>);

impl FromStr for MariaDbHistory {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut history = Self::default();
        for part in text.split(',').filter(|part| !part.trim().is_empty()) {
            history.add(part.parse()?);
        }
        Ok(history)
    }
}

impl MariaDbHistory {
    fn add(&mut self, MariaDbGtid { domain, server, sequence }: MariaDbGtid) {
        let place = self.0.entry((domain, server)).or_insert(sequence);
        *place = sequence.max(*place);
    }

    /// Takes in what replication has come to, which is not in the log of a server that was filled from a copy.
    pub(crate) fn unite(&mut self, set: &MariaDbSet) {
        set.gtids().for_each(|gtid| self.add(gtid));
    }

    fn holds(&self, gtid: MariaDbGtid) -> bool {
        self.0.get(&(gtid.domain, gtid.server)).is_some_and(|sequence| *sequence >= gtid.sequence)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(text: &str) -> MariaDbSet {
        text.parse().unwrap()
    }

    #[test]
    fn a_failover_to_another_server_goes_on_in_the_domain() {
        let mut held = set("0-1-100,7-2-5");
        held.add("0-3-101".parse().unwrap());
        assert_eq!(held.to_string(), "0-3-101,7-2-5");
        assert!(held.contains(&set("0-1-100")) && !set("0-1-100").contains(&held));
        held.add("0-1-50".parse().unwrap());
        assert_eq!(held, set("0-3-101,7-2-5"), "what is older moves nothing back");
    }

    #[test]
    fn a_server_that_went_on_without_what_was_read_lacks_it_however_far_it_came() {
        let mut history: MariaDbHistory = "0-1-99,0-2-105,3-1-7".parse().unwrap();
        assert_eq!(set("0-1-99,3-1-5").without(&history), set(""));
        assert_eq!(set("0-1-100,3-1-7").without(&history), set("0-1-100"), "the numbers from 100 on are others' there");
        assert_eq!(set("0-2-106,7-1-1").without(&history), set("0-2-106,7-1-1"));
        history.unite(&set("7-1-3"));
        assert_eq!(set("7-1-1").without(&history), set(""));
    }

    #[test]
    fn what_is_no_list_of_gtids_is_refused() {
        for text in ["0-1", "0-1-2-3", "a-1-2", "0-+1-2", "4294967296-1-1", "0-1-1,0-2-2", "-1-1-1"] {
            assert!(text.parse::<MariaDbSet>().is_err(), "{text}");
        }
        assert_eq!(set(""), MariaDbSet::default());
        assert_eq!(set(" 0-1-2 , 1-1-1\n"), set("0-1-2,1-1-1"));
    }

    fn any_set() -> impl Strategy<Value = MariaDbSet> {
        proptest::collection::btree_map(0_u32..4, (1_u32..3, 1_u64..9), 0..4).prop_map(MariaDbSet)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn sets_read_back_and_a_union_holds_both(a in any_set(), b in any_set()) {
            prop_assert_eq!(&set(&a.to_string()), &a);
            let mut both = a.clone();
            both.unite(&b);
            prop_assert!(both.contains(&a) && both.contains(&b));
            prop_assert_eq!(a.contains(&b), both.to_string().split(',').count() == a.0.len()
                && b.0.iter().all(|(domain, (_, sequence))| a.0.get(domain).is_some_and(|it| it.1 >= *sequence)) || both == a && b.0.is_empty());
        }
    }
}
