//! What the user may do, as `SHOW GRANTS` says, and the statements that let it read a source.
//!
//! Only what is certain is a finding: rights that come with a role cannot be seen, so with one nothing is said to lack.

use super::config::{MySqlConfig, SnapshotMode};
use super::wire::Connection;
use crate::CaptureError;
use crate::endpoint::Host;
use crate::finding::{Finding, Remedy, Script, Severity};
use crate::pattern::glob;

const DURING: &str = "looking at the rights of the user";
const SELECT: &str = "SELECT";
/// Has the log sent.
const REPLICATION: &str = "REPLICATION SLAVE";
/// Has a copy told where the log of a MariaDB ends, and a reader how much of it there is.
const MONITOR: &str = "BINLOG MONITOR";
/// As that of a MySQL is called, which says to everybody where its log ends.
const CLIENT: &str = "REPLICATION CLIENT";
/// What both servers call the last two.
const BOTH: &str = "REPLICATION SLAVE, REPLICATION CLIENT";

/// What somebody may do, and where.
#[derive(Debug, PartialEq, Eq)]
struct Grant {
    privileges: Vec<String>,
    /// A pattern with `*` and `?`; of all databases where there is none.
    database: Option<String>,
    /// Of all tables where there is none.
    table: Option<String>,
}

impl Grant {
    /// Reads ``GRANT SELECT, INSERT ON `shop`.* TO `syncline`@`%` ``; nothing of what is for no tables.
    fn parse(line: &str) -> Option<Self> {
        let (privileges, rest) = line.strip_prefix("GRANT ")?.split_once(" ON ")?;
        let (database, rest) = named(rest)?;
        let (table, rest) = named(rest.strip_prefix('.')?)?;
        rest.starts_with(" TO ").then(|| Self {
            privileges: privileges.split(',').map(|privilege| privilege.trim().to_uppercase()).collect(),
            database: database.map(|database| as_glob(&database)),
            table,
        })
    }

    fn gives(&self, privilege: &str) -> bool {
        let is = |given: &String| given == privilege || matches!(given.as_str(), "ALL" | "ALL PRIVILEGES");
        self.privileges.iter().any(is)
    }

    /// True where it may be about a table that patterns of database and name select.
    fn may_be_about(&self, database: &str, name: &str) -> bool {
        self.database.as_deref().is_none_or(|granted| may_meet(granted, database))
            && self.table.as_deref().is_none_or(|granted| glob(name.as_bytes(), granted.as_bytes()))
    }
}

/// A name in backticks, or none for `*`; and what follows.
fn named(text: &str) -> Option<(Option<String>, &str)> {
    if let Some(rest) = text.strip_prefix('*') {
        return Some((None, rest));
    }
    let (mut name, mut rest) = (String::new(), text.strip_prefix('`')?);
    loop {
        let (part, behind) = rest.split_once('`')?;
        name.push_str(part);
        match behind.strip_prefix('`') {
            Some(more) => {
                name.push('`');
                rest = more;
            }
            None => return Some((Some(name), behind)),
        }
    }
}

/// A server's pattern of databases as one of ours.
fn as_glob(pattern: &str) -> String {
    let mut glob = String::new();
    let mut chars = pattern.chars();
    while let Some(char) = chars.next() {
        glob.push(match char {
            '\\' => chars.next().unwrap_or('\\'),
            '%' => '*',
            '_' => '?',
            other => other,
        });
    }
    glob
}

/// Our pattern of databases as one of the server's.
fn as_like(pattern: &str) -> String {
    let mut like = String::new();
    for char in pattern.chars() {
        match char {
            '*' => like.push('%'),
            '?' => like.push('_'),
            '%' | '_' => like.extend(['\\', char]),
            other => like.push(other),
        }
    }
    like
}

fn is_literal(pattern: &str) -> bool {
    !pattern.contains(['*', '?'])
}

/// False where nothing can match both patterns; of two with wildcards that is not said.
fn may_meet(left: &str, right: &str) -> bool {
    match (is_literal(left), is_literal(right)) {
        (true, _) => glob(right.as_bytes(), left.as_bytes()),
        (_, true) => glob(left.as_bytes(), right.as_bytes()),
        _ => true,
    }
}

fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// An account as statements name it.
fn account(user: &str, host: &str) -> String {
    format!("{}@{}", quoted(user), quoted(host))
}

/// The tables that a pattern selects, as `GRANT` names them: one, or all of the databases.
fn granted_on(database: &str, name: &str) -> String {
    match (database, is_literal(database) && is_literal(name)) {
        (_, true) => format!("{}.{}", quoted(database), quoted(name)),
        ("*", _) => "*.*".to_owned(),
        _ => format!("{}.*", quoted(&as_like(database))),
    }
}

/// What the session's user lacks to be a reader of the source. Blocks for two round trips.
pub(super) fn findings(
    connection: &mut Connection,
    config: &MySqlConfig,
    is_mariadb: bool,
) -> Result<Vec<Finding>, CaptureError> {
    let user = connection.query(DURING, "SELECT CURRENT_USER()")?;
    let user = user.first().map_or("", |row| row.text(0));
    let (name, host) = user.rsplit_once('@').unwrap_or((user, "%"));
    let lines = connection.query(DURING, "SHOW GRANTS")?;
    let lines: Vec<&str> = lines.iter().map(|row| row.text(0)).collect();
    Ok(lacking(&lines, &account(name, host), config, is_mariadb))
}

/// What lines of `SHOW GRANTS` do not give.
fn lacking(lines: &[&str], account: &str, config: &MySqlConfig, is_mariadb: bool) -> Vec<Finding> {
    // A role is granted to somebody, and on nothing.
    if lines.iter().any(|line| line.starts_with("GRANT `") && !line.contains(" ON ")) {
        return Vec::new();
    }
    let grants: Vec<Grant> = lines.iter().filter_map(|line| Grant::parse(line)).collect();
    let lack = |severity, privilege: &str, on: &str, reason: &str| Finding {
        severity,
        object: format!("user {account}"),
        message: format!("lacks the right {privilege}, {reason}"),
        remedy: Remedy::sql(
            format!("GRANT {privilege} ON {on} TO {account};"),
            format!("REVOKE {privilege} ON {on} FROM {account};"),
        ),
    };
    let gives = |privilege| grants.iter().any(|grant| grant.database.is_none() && grant.gives(privilege));
    let mut findings = Vec::new();
    if !gives(REPLICATION) {
        findings.push(lack(Severity::Error, REPLICATION, "*.*", "without which the log is not sent to it"));
    }
    let monitor = if is_mariadb { MONITOR } else { CLIENT };
    if !gives(monitor) && !gives("SUPER") {
        findings.push(if is_mariadb && config.snapshot == SnapshotMode::Initial {
            lack(Severity::Error, monitor, "*.*", "without which a copy is not told where the log ends")
        } else {
            lack(Severity::Warning, monitor, "*.*", "without which nobody sees how much of the log is not read")
        });
    }
    for (database, name) in config.tables.included() {
        if !grants.iter().any(|grant| grant.gives(SELECT) && grant.may_be_about(database, name)) {
            let reason = format!("so it can see no table that {database}.{name} selects");
            findings.push(lack(Severity::Error, SELECT, &granted_on(database, name), &reason));
        }
    }
    findings
}

/// The DBA's script for what a check found. Where the user could not look, all that it needs is in it.
#[must_use]
pub fn dba_script(config: &MySqlConfig, findings: &[Finding]) -> Script {
    let place = format!("run as an administrator of the server {}", config.address());
    let mut script = Script::of(&config.source, &place, findings);
    let is_unseen = |finding: &Finding| finding.severity == Severity::Error && finding.remedy == Remedy::None;
    if findings.iter().any(is_unseen) {
        let is_local = config.hosts.iter().all(|address| matches!(address.host, Host::Unix(_)));
        let host = if is_local { "localhost" } else { "%" };
        let account = account(&config.user, host);
        script.apply.push_str(&format!(
            "-- where the user is not there yet, with its password in place of the dots:\n\
             -- CREATE USER {account} IDENTIFIED BY '...';\n"
        ));
        let tables = config.tables.included().map(|(database, name)| (SELECT, granted_on(database, name)));
        for (privileges, on) in tables.chain([(BOTH, "*.*".to_owned())]) {
            script.apply.push_str(&format!("GRANT {privileges} ON {on} TO {account};\n"));
            script.undo.push_str(&format!("REVOKE {privileges} ON {on} FROM {account};\n"));
        }
        script.apply.push_str("-- then run `syncline check --sql` again: it sees the settings then\n");
        script.undo.push_str(&format!("-- DROP USER {account};\n"));
    }
    script
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use syncline_schemas::ident::SourceId;

    use super::*;
    use crate::endpoint::{Address, Tls};
    use crate::mysql::{LogGap, SpecialValues, TablePatterns, Truncates};

    fn config(tables: &[&str]) -> MySqlConfig {
        MySqlConfig {
            source: SourceId::new("shop"),
            hosts: vec![Address { host: Host::Tcp("db".to_owned()), port: 3306 }],
            user: "sync`line".to_owned(),
            password: None,
            tls: Tls::Disable,
            tables: TablePatterns::parse(tables).unwrap(),
            keys: BTreeMap::new(),
            server_id: 7,
            snapshot: SnapshotMode::Initial,
            copy_workers: 1,
            special_values: SpecialValues::Stop,
            truncate: Truncates::Apply,
            log_gap: LogGap::Repair,
            drain: false,
        }
    }

    fn remedies(tables: &[&str], lines: &[&str], is_mariadb: bool) -> Vec<String> {
        let found = lacking(lines, "`s`@`%`", &config(tables), is_mariadb);
        found.iter().map(|finding| finding.remedy.to_string()).collect()
    }

    #[test]
    fn rights_that_are_there_under_any_name_are_not_asked_for_again() {
        for (line, is_mariadb) in [
            ("GRANT ALL PRIVILEGES ON *.* TO `s`@`%` IDENTIFIED BY PASSWORD '*5' WITH GRANT OPTION", true),
            ("GRANT SELECT, REPLICATION SLAVE, BINLOG MONITOR ON *.* TO `s`@`%`", true),
            ("GRANT SELECT, REPLICATION SLAVE, SUPER ON *.* TO `s`@`%`", true),
            ("GRANT SELECT, REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO `s`@`%`", false),
            // What the role may is not in sight.
            ("GRANT `reader`@`%` TO `s`@`%`", true),
        ] {
            assert_eq!(remedies(&["shop.*", "a_b.orders"], &[line], is_mariadb), [""; 0], "{line}");
        }
        let all = "GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO `s`@`%`";
        for (pattern, line) in [
            ("my_shop.*", "GRANT SELECT ON `my\\_shop`.* TO `s`@`%`"),
            ("my_shop.*", "GRANT SELECT, LOCK TABLES ON `my%`.* TO `s`@`%`"),
            ("shop?.*", "GRANT SELECT ON `shop1`.* TO `s`@`%`"),
            ("shop.ord*", "GRANT SELECT ON `shop`.`orders` TO `s`@`%`"),
            ("odd`name.*", "GRANT SELECT ON `odd``name`.* TO `s`@`%`"),
        ] {
            assert_eq!(remedies(&[pattern], &[all, line], false), [""; 0], "{pattern} {line}");
        }
    }

    #[test]
    fn a_right_that_is_missing_is_named_with_the_least_that_gives_it() {
        let poor = ["GRANT USAGE ON *.* TO `s`@`%`", "GRANT SELECT (`id`) ON `shop`.`orders` TO `s`@`%`"];
        let found = remedies(&["my_shop.*", "shop.orders", "*.log?", "w?s.*"], &poor, true);
        let wanted = [
            "GRANT REPLICATION SLAVE ON *.* TO `s`@`%`;",
            "GRANT BINLOG MONITOR ON *.* TO `s`@`%`;",
            "GRANT SELECT ON `my\\_shop`.* TO `s`@`%`;",
            "GRANT SELECT ON `shop`.`orders` TO `s`@`%`;",
            "GRANT SELECT ON *.* TO `s`@`%`;",
            "GRANT SELECT ON `w_s`.* TO `s`@`%`;",
        ];
        assert_eq!(found, wanted);
        let other = ["GRANT REPLICATION SLAVE ON *.* TO `s`@`%`", "GRANT SELECT ON `my\\_shop`.* TO `s`@`%`"];
        let wanted = ["GRANT REPLICATION CLIENT ON *.* TO `s`@`%`;", "GRANT SELECT ON `myXshop`.* TO `s`@`%`;"];
        assert_eq!(remedies(&["myXshop.*"], &other, false), wanted);
    }

    #[test]
    fn whoever_cannot_log_in_yet_finds_his_user_and_all_its_rights_in_the_script() {
        let blind = Finding {
            severity: Severity::Error,
            object: "server db:3306".to_owned(),
            message: "error 1045:\nno".to_owned(),
            remedy: Remedy::None,
        };
        let Script { apply, undo } = dba_script(&config(&["shop.*", "!shop.log"]), &[blind]);
        for line in [
            "-- Syncline, source shop: run as an administrator of the server db:3306",
            "-- CREATE USER `sync``line`@`%` IDENTIFIED BY '...';",
            "GRANT SELECT ON `shop`.* TO `sync``line`@`%`;",
            "GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO `sync``line`@`%`;",
        ] {
            assert!(apply.lines().any(|it| it == line), "{line}\n{apply}");
        }
        assert!(undo.contains("REVOKE SELECT ON `shop`.* FROM `sync``line`@`%`;\n"), "{undo}");
        let seen = dba_script(&config(&["shop.*"]), &[]);
        assert!(!seen.apply.contains("CREATE USER") && !seen.undo.contains("DROP USER"), "{seen:?}");
    }
}
