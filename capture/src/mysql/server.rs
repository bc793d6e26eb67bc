//! Who answers at the other end, and whether its log can be followed.

use super::config::MySqlConfig;
use super::grants;
use super::gtid::GtidSet;
use super::wire::{Connection, Row};
use crate::finding::{Finding, Remedy, Severity};
use crate::{CaptureError, StopSignal};

const DURING: &str = "looking at the server";

/// What is to be known of a server before its log is read.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) is_mariadb: bool,
    /// All that it has executed, or has in its log.
    pub(super) executed: GtidSet,
    /// What of that its log tells, so that a copy may begin behind it.
    pub(super) logged: GtidSet,
    /// Of those what is no longer in its log; MariaDB does not say.
    pub(super) purged: Option<GtidSet>,
    pub(super) ignores_case: bool,
    pub(super) findings: Vec<Finding>,
}

/// Settings that matter, by name and value; those that a server does not have are not there.
struct Settings(Vec<(String, String)>);

impl Settings {
    fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value.as_str())
    }
}

impl Server {
    /// Looks at a server; changes nothing.
    pub(super) fn look(connection: &mut Connection) -> Result<Self, CaptureError> {
        let is_mariadb = connection.version().contains("MariaDB");
        let sql = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('log_bin', 'binlog_format', 'binlog_row_image', \
                   'binlog_row_metadata', 'binlog_row_value_options', 'gtid_mode', 'gtid_strict_mode', 'gtid_executed', \
                   'gtid_purged', 'gtid_binlog_pos', 'gtid_current_pos', 'lower_case_table_names')";
        let rows = connection.query(DURING, sql)?;
        let pair = |row: &Row| (row.text(0).to_lowercase(), row.text(1).to_owned());
        let settings = Settings(rows.iter().map(pair).collect());
        let set = |text: &str| {
            let set = if is_mariadb { text.parse().map(GtidSet::MariaDb) } else { text.parse().map(GtidSet::MySql) };
            set.map_err(|reason: &str| connection.protocol(DURING, reason))
        };
        let (executed, logged, purged) = if is_mariadb {
            let logged = set(settings.get("gtid_binlog_pos"))?;
            let mut executed = logged.clone();
            executed
                .unite(&set(settings.get("gtid_current_pos"))?)
                .map_err(|reason| connection.protocol(DURING, reason))?;
            (executed, logged, None)
        } else {
            let executed = set(settings.get("gtid_executed"))?;
            (executed.clone(), executed, Some(set(settings.get("gtid_purged"))?))
        };
        let ignores_case = settings.get("lower_case_table_names") != "0";
        Ok(Self { is_mariadb, executed, logged, purged, ignores_case, findings: findings(&settings, is_mariadb) })
    }
}

/// Settings that every session has for itself from its beginning on.
const OF_SESSIONS: [&str; 3] = ["binlog_format", "binlog_row_image", "binlog_row_value_options"];

/// The statement that sets it for good, as far as a server can do that by itself.
fn setting(is_mariadb: bool, name: &str, is: &str, needed: &str) -> Remedy {
    let verb = if is_mariadb { "SET GLOBAL" } else { "SET PERSIST" };
    let then = match (is_mariadb, OF_SESSIONS.contains(&name)) {
        (true, true) => "then write it into the server's configuration, and have applications connect anew",
        (true, false) => "then write it into the server's configuration",
        (false, true) => "then have applications connect anew",
        (false, false) => "",
    };
    Remedy::Sql { apply: format!("{verb} {name} = '{needed}';"), undo: format!("{verb} {name} = '{is}';"), then }
}

fn findings(settings: &Settings, is_mariadb: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    if settings.get("log_bin") != "ON" {
        findings.push(Finding {
            severity: Severity::Error,
            object: "setting log_bin".to_owned(),
            message: "is off, so the server keeps no log of changes".to_owned(),
            remedy: Remedy::advice("write log_bin into the server's configuration, and restart it"),
        });
    }
    let mut demand = |severity, name: &str, needed: &str, why: &str| {
        let is = settings.get(name);
        if !is.eq_ignore_ascii_case(needed) {
            findings.push(Finding {
                severity,
                object: format!("setting {name}"),
                message: format!("is {is:?}; {why}"),
                remedy: setting(is_mariadb, name, is, needed),
            });
        }
    };
    demand(Severity::Error, "binlog_format", "ROW", "changes that are logged as statements cannot be followed");
    demand(
        Severity::Error,
        "binlog_row_metadata",
        "FULL",
        "the log does not say what columns are called, whether they have a sign, and in which character set they are",
    );
    demand(
        Severity::Warning,
        "binlog_row_image",
        "FULL",
        "what a change does not touch is left out of the log, so mappings may have to wait for it",
    );
    if is_mariadb {
        demand(
            Severity::Warning,
            "gtid_strict_mode",
            "ON",
            "transactions of a domain may come out of order, which stops the source",
        );
    } else {
        demand(
            Severity::Error,
            "binlog_row_value_options",
            "",
            "parts of JSON values are logged, which are not put together",
        );
        if settings.get("gtid_mode") != "ON" {
            findings.push(Finding {
                severity: Severity::Error,
                object: "setting gtid_mode".to_owned(),
                message: "is not ON, so nobody could go on behind a transaction after a failover".to_owned(),
                remedy: Remedy::advice(
                    "set enforce_gtid_consistency = ON, then gtid_mode = OFF_PERMISSIVE, ON_PERMISSIVE and ON, one after the other",
                ),
            });
        }
    }
    findings
}

/// Looks at everything that reading the source depends on, changing nothing. Blocks for some round trips.
///
/// A server that cannot be reached is a finding, too.
#[must_use]
pub fn check(config: &MySqlConfig) -> Vec<Finding> {
    let looked = Connection::open(&config.login(), &StopSignal::default()).and_then(|mut connection| {
        let Server { is_mariadb, findings, .. } = Server::look(&mut connection)?;
        Ok(grants::findings(&mut connection, config, is_mariadb)?.into_iter().chain(findings).collect())
    });
    match looked {
        Ok(findings) => findings,
        Err(error) => vec![Finding {
            severity: Severity::Error,
            object: format!("server {}", config.address()),
            message: error.to_string(),
            remedy: Remedy::None,
        }],
    }
}
