//! Who answers at the other end, whether its log can be followed, and whether it has all that was read from another one.

use std::collections::BTreeSet;

use super::config::{Address, MySqlConfig};
use super::gtid::{Gtid, GtidSet, MariaDbHistory, Writer};
use super::wire::{Connection, Row};
use super::{grants, retention};
use crate::finding::{COPY_AGAIN, Finding, Remedy, Severity};
use crate::{CaptureError, StopSignal};

const DURING: &str = "looking at the server";
const OTHER_SERVER: &str = "have the url lead to the server that was read or to one that has all its transactions, or have \
     `syncline replay --reread` copy this one's tables";

/// What is to be known of a server before its log is read.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) is_mariadb: bool,
    /// What no other server says of itself.
    pub(super) identity: String,
    /// Nobody writes to it but whom it replicates from.
    pub(super) is_read_only: bool,
    /// What of each server's transactions it has; of a MariaDB.
    history: MariaDbHistory,
    /// Whose transactions it has executed or has in its log, and itself.
    writers: BTreeSet<Writer>,
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
pub(super) struct Settings(Vec<(String, String)>);

impl Settings {
    pub(super) fn ask(connection: &mut Connection, sql: &str) -> Result<Self, CaptureError> {
        let pair = |row: &Row| (row.text(0).to_lowercase(), row.text(1).to_owned());
        Ok(Self(connection.query(DURING, sql)?.iter().map(pair).collect()))
    }

    #[cfg(test)]
    pub(super) fn of(settings: &[(&str, &str)]) -> Self {
        Self(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    fn identity(&self) -> String {
        let uuid = self.get("server_uuid");
        if !uuid.is_empty() {
            return uuid.to_owned();
        }
        ["server_id", "hostname", "port", "datadir", "server_uid"].map(|name| self.get(name)).join(" ")
    }

    pub(super) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value.as_str())
    }
}

/// What no other server says of itself, and the same one says again after a restart. A MariaDB has no number that is its own: the
/// hash `server_uid`, which newer ones have, is of the machine and the port.
pub(super) fn identity(connection: &mut Connection) -> Result<String, CaptureError> {
    let sql = "SHOW GLOBAL VARIABLES WHERE Variable_name IN \
               ('server_uuid', 'server_id', 'hostname', 'port', 'datadir', 'server_uid')";
    Ok(Settings::ask(connection, sql)?.identity())
}

impl Server {
    /// Looks at a server; changes nothing.
    pub(super) fn look(connection: &mut Connection) -> Result<Self, CaptureError> {
        let is_mariadb = connection.version().contains("MariaDB");
        let sql = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('log_bin', 'binlog_format', 'binlog_row_image', \
                   'binlog_row_metadata', 'binlog_row_value_options', 'gtid_mode', 'gtid_strict_mode', \
                   'gtid_slave_pos', 'log_slave_updates', 'log_replica_updates', 'lower_case_table_names', 'read_only', \
                   'server_uuid', 'server_id', 'hostname', 'port', 'datadir', 'server_uid', 'binlog_expire_logs_seconds', \
                   'binlog_expire_logs_auto_purge', 'expire_logs_days')";
        let settings = Settings::ask(connection, sql)?;
        // The list of variables cuts long ones.
        let sql = if is_mariadb {
            "SELECT @@GLOBAL.gtid_binlog_pos, @@GLOBAL.gtid_current_pos, @@GLOBAL.gtid_binlog_state, \
             CONCAT(@@GLOBAL.gtid_domain_id, '-', @@GLOBAL.server_id, '-0')"
        } else {
            "SELECT @@GLOBAL.gtid_executed, @@GLOBAL.gtid_purged, '', CONCAT(@@GLOBAL.server_uuid, ':1')"
        };
        let rows = connection.query(DURING, sql)?;
        let sets = rows.first().map(|row| [0, 1, 2, 3].map(|i| row.text(i).to_owned())).unwrap_or_default();
        let set = |text: &str| {
            let set = if is_mariadb { text.parse().map(GtidSet::MariaDb) } else { text.parse().map(GtidSet::MySql) };
            set.map_err(|reason: &str| connection.protocol(DURING, reason))
        };
        let (executed, logged, purged) = if is_mariadb {
            let logged = set(&sets[0])?;
            let mut executed = logged.clone();
            executed.unite(&set(&sets[1])?).map_err(|reason| connection.protocol(DURING, reason))?;
            (executed, logged, None)
        } else {
            let executed = set(&sets[0])?;
            (executed.clone(), executed, Some(set(&sets[1])?))
        };
        let mut history = MariaDbHistory::default();
        if let GtidSet::MariaDb(executed) = &executed {
            history = sets[2].parse().map_err(|reason: &str| connection.protocol(DURING, reason))?;
            history.unite(executed);
        }
        let own = [sets[2].split(','), sets[3].split(',')].into_iter().flatten().filter(|gtid| !gtid.is_empty());
        let gtid = |text: &str| {
            let gtid = if is_mariadb { text.parse().map(Gtid::MariaDb) } else { text.parse().map(Gtid::MySql) };
            gtid.map_err(|reason: &str| connection.protocol(DURING, reason))
        };
        let mut writers = executed.writers();
        for text in own {
            writers.insert(gtid(text)?.writer());
        }
        let is_read_only = !matches!(settings.get("read_only"), "OFF" | "0");
        let identity = settings.identity();
        let ignores_case = settings.get("lower_case_table_names") == "1";
        let mut findings = findings(&settings, is_mariadb);
        findings.extend(unlogged(&settings, is_mariadb));
        findings.extend(retention::finding(&settings, is_mariadb));
        findings.extend(filtered(connection)?);
        Ok(Self {
            is_mariadb,
            identity,
            is_read_only,
            history,
            writers,
            executed,
            logged,
            purged,
            ignores_case,
            findings,
        })
    }

    /// Refuses a server that lacks some of what was read. One that may get it yet is waited for.
    pub(super) fn ensure_has(
        &self,
        connection: &mut Connection,
        config: &MySqlConfig,
        address: &Address,
        read: &GtidSet,
    ) -> Result<(), CaptureError> {
        let source_id = config.source.clone();
        let misfit = |reason| CaptureError::Position { source_id: source_id.clone(), reason, remedy: OTHER_SERVER };
        let (missing, may_come) = match (read, &self.executed) {
            (GtidSet::MySql(read), GtidSet::MySql(executed)) => (GtidSet::MySql(read.without(executed)), true),
            (GtidSet::MariaDb(read), GtidSet::MariaDb(executed)) => {
                let missing = read.without(&self.history);
                let may_come = !missing.is_passed(executed);
                (GtidSet::MariaDb(missing), may_come)
            }
            (GtidSet::MySql(_), _) => return Err(misfit("it is a MariaDB, and a MySQL was read".to_owned())),
            (GtidSet::MariaDb(_), _) => return Err(misfit("it is a MySQL, and a MariaDB was read".to_owned())),
        };
        if missing.is_empty() {
            return Ok(());
        }
        if may_come && self.may_apply(connection)? {
            let address = config.endpoint(address).address();
            return Err(CaptureError::Behind { source_id, address, missing: missing.to_string() });
        }
        Err(misfit(format!("the server lacks {missing}, which was read; it has executed {}", self.executed)))
    }

    /// Refuses a server that does not have in its log what follows.
    pub(super) fn ensure_keeps(&self, config: &MySqlConfig, read: &GtidSet) -> Result<(), CaptureError> {
        let Some(purged) = self.purged.as_ref().filter(|purged| !read.contains(purged)) else { return Ok(()) };
        let reason = format!("the server has purged its log up to {purged}, and only {read} was read");
        Err(CaptureError::Position { source_id: config.source.clone(), reason, remedy: COPY_AGAIN })
    }

    /// Whether it knows of everybody whose transactions were read: an old primary knows nothing of whoever took over, and a server
    /// that was just set up of nobody.
    pub(super) fn knows_writers_of(&self, read: &GtidSet) -> bool {
        read.writers().is_subset(&self.writers)
    }

    /// Whether it is a replica that applies what comes, or has come, from another server.
    fn may_apply(&self, connection: &mut Connection) -> Result<bool, CaptureError> {
        /// The place of `Replica_SQL_Running`, whatever it is called.
        const APPLIES: usize = 11;
        if self.is_mariadb {
            // How many threads apply, which everybody is told.
            let rows = connection.query(DURING, "SHOW GLOBAL STATUS LIKE 'Slaves_running'")?;
            return Ok(rows.first().is_some_and(|row| !matches!(row.text(1), "" | "0")));
        }
        let mut rows = connection.query(DURING, "SHOW REPLICA STATUS");
        if matches!(rows, Err(CaptureError::Server { .. })) {
            // As it was called before 8.0.22.
            rows = connection.query(DURING, "SHOW SLAVE STATUS");
        }
        Ok(match rows {
            // A member of a group is no replica of anybody.
            Ok(rows) if rows.is_empty() => self.is_read_only,
            Ok(rows) => rows.iter().any(|row| row.text(APPLIES) == "Yes"),
            Err(CaptureError::Server { .. }) => self.is_read_only,
            Err(error) => return Err(error),
        })
    }
}

/// What keeps changes out of the log, or says in it of other tables than there are.
fn unlogged(settings: &Settings, is_mariadb: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut error = |object: &str, message: &str, advice: &'static str| {
        findings.push(Finding {
            severity: Severity::Error,
            object: format!("setting {object}"),
            message: message.to_owned(),
            remedy: Remedy::advice(advice),
        });
    };
    let (name, is_replica) = if is_mariadb {
        ("log_slave_updates", !settings.get("gtid_slave_pos").is_empty())
    } else {
        ("log_replica_updates", true)
    };
    let is = if settings.get(name).is_empty() { settings.get("log_slave_updates") } else { settings.get(name) };
    if is_replica && is.eq_ignore_ascii_case("OFF") {
        let message = "is off, so what the server applies as a replica is not in its log";
        error(name, message, "switch it on in the server's configuration and restart it, or read the primary");
    }
    if settings.get("lower_case_table_names") == "2" {
        let message = "is 2, so statements name tables in another way than rows do";
        error("lower_case_table_names", message, "read a server on a file system that tells names by case");
    }
    findings
}

/// Databases that the server leaves out of its log. Whoever may not look is told so when the log is asked for.
fn filtered(connection: &mut Connection) -> Result<Option<Finding>, CaptureError> {
    let mut rows = connection.query(DURING, "SHOW BINARY LOG STATUS");
    if matches!(rows, Err(CaptureError::Server { .. })) {
        // As it is called on MariaDB and on MySQL before 8.4.
        rows = connection.query(DURING, "SHOW MASTER STATUS");
    }
    let rows = match rows {
        Err(CaptureError::Server { .. }) => return Ok(None),
        rows => rows?,
    };
    let filters: Vec<String> =
        rows.first().map(|row| [row.text(2), row.text(3)].map(str::to_owned)).into_iter().flatten().collect();
    Ok(filters.iter().any(|filter| !filter.is_empty()).then(|| Finding {
        severity: Severity::Error,
        object: "settings binlog_do_db and binlog_ignore_db".to_owned(),
        message: format!(
            "keep changes out of the log (only {:?}, not {:?}): they would be missed without a word",
            filters[0], filters[1]
        ),
        remedy: Remedy::advice("take them out of the server's configuration and restart it, or read another server"),
    }))
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
        if settings.get("binlog_row_image") != "FULL" {
            demand(
                Severity::Error,
                "binlog_row_value_options",
                "",
                "of JSON values parts are logged, and not what they are parts of",
            );
        }
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
/// A server that cannot be reached is a finding, too. Of several servers each is looked at; what is wrong with one is a warning
/// while another is without fault.
#[must_use]
pub fn check(config: &MySqlConfig) -> Vec<Finding> {
    let mut found: Vec<_> = config.hosts.iter().map(|address| check_at(config, address)).collect();
    let is_fit = |findings: &Vec<Finding>| !findings.iter().any(|finding| finding.severity == Severity::Error);
    let is_one_fit = found.iter().any(is_fit);
    if found.len() > 1 {
        for (address, findings) in config.hosts.iter().zip(&mut found) {
            let address = config.endpoint(address).address();
            for finding in findings {
                finding.object = format!("{address}: {}", finding.object);
                if is_one_fit {
                    finding.severity = finding.severity.min(Severity::Warning);
                }
            }
        }
    }
    found.into_iter().flatten().collect()
}

fn check_at(config: &MySqlConfig, address: &Address) -> Vec<Finding> {
    let looked = Connection::open(&config.login(address), &StopSignal::default()).and_then(|mut connection| {
        let Server { is_mariadb, findings, .. } = Server::look(&mut connection)?;
        Ok(grants::findings(&mut connection, config, is_mariadb)?.into_iter().chain(findings).collect())
    });
    match looked {
        Ok(findings) => findings,
        Err(error) => vec![Finding {
            severity: Severity::Error,
            object: format!("server {}", config.endpoint(address).address()),
            message: error.to_string(),
            remedy: Remedy::None,
        }],
    }
}
