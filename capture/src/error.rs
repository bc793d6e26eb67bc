//! What can go wrong while a source is read, and whether trying again can help.
//!
//! Facts about configuration, rights or data are *definite*: a retry meets them again, so the source is parked with
//! the remedy. Weather (connections, restarts, a slot still held by a dying process) is *transient*. No message holds
//! a row's value or a secret.

use std::fmt;
use std::io;
use std::path::PathBuf;

use syncline_schemas::ident::{SourceId, TableId};
use thiserror::Error;

use crate::feed::seeds::FileFault;

/// Whether a retry can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The outside world; the supervisor tries again from the journal's position.
    Transient,
    /// A fact about configuration, rights or data; somebody has to act.
    Definite,
}

/// A fault of a source; every message names the source, the object and what to do.
#[derive(Debug, Error)]
pub enum CaptureError {
    /// A setting cannot be read or contradicts another.
    #[error("source {source_id}: {place}: {reason}")]
    Config {
        /// The source.
        source_id: SourceId,
        /// The part of the setting, as in `url port`.
        place: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// No connection could be made.
    #[error("source {source_id}: cannot reach {address}: {error}; check that the server runs and accepts connections")]
    Unreachable {
        /// The source.
        source_id: SourceId,
        /// Host and port, or socket path.
        address: String,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// The connection broke.
    #[error("source {source_id}: connection lost while {during}: {error}")]
    Lost {
        /// The source.
        source_id: SourceId,
        /// What was going on.
        during: &'static str,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// The server replays another one's log: nothing can be read from it before it is promoted.
    #[error(
        "source {source_id}: {address} is a standby in recovery; wait until it is promoted, or point the url at the primary"
    )]
    Standby {
        /// The source.
        source_id: SourceId,
        /// Host and port, or socket path.
        address: String,
    },
    /// The server lacks transactions that were read from another one, and may get them yet.
    #[error(
        "source {source_id}: {address} lacks {missing}, which was read, and is a replica that may still apply it; waiting for that"
    )]
    Behind {
        /// The source.
        source_id: SourceId,
        /// Host and port, or socket path.
        address: String,
        /// The transactions, as the server writes them.
        missing: String,
    },
    /// What was read in part came from another server, which may come back.
    #[error(
        "source {source_id}: {what} came from another server than {address}; waiting for that one before all tables are copied anew"
    )]
    Elsewhere {
        /// The source.
        source_id: SourceId,
        /// Host and port, or socket path.
        address: String,
        /// What was read in part.
        what: String,
    },
    /// What follows is in the log of the server no more, or what was read is lost to it.
    #[error("{error}; a server that has it is waited for before all tables are copied anew")]
    Gap {
        /// What is missing.
        error: Box<CaptureError>,
    },
    /// None of the servers that a source may be read from can be.
    #[error("source {source_id}: none of its {} servers can be read:{}", faults.len(), Each(faults))]
    NoServer {
        /// The source.
        source_id: SourceId,
        /// Each of them, by host and port or socket path, and why not.
        faults: Vec<(String, CaptureError)>,
    },
    /// TLS could not be agreed on, or the server's certificate does not prove who it is.
    #[error("source {source_id}: tls with {address}: {reason}")]
    Tls {
        /// The source.
        source_id: SourceId,
        /// Host and port.
        address: String,
        /// What failed and the remedy.
        reason: String,
    },
    /// The server asks for an authentication that cannot or must not be given.
    #[error("source {source_id}: authentication as {user}: {reason}")]
    Authentication {
        /// The source.
        source_id: SourceId,
        /// The configured user.
        user: String,
        /// What failed and the remedy.
        reason: String,
    },
    /// The server refused a statement or ended the session.
    #[error("source {source_id}: while {during} the server said {sqlstate}: {message}{}", remedy.map(|text| format!("; {text}")).unwrap_or_default())]
    Server {
        /// The source.
        source_id: SourceId,
        /// What was asked of it.
        during: String,
        /// The SQLSTATE code.
        sqlstate: String,
        /// Its primary message.
        message: String,
        /// What usually helps.
        remedy: Option<&'static str>,
    },
    /// A condition for reading this source does not hold.
    #[error("source {source_id}: {object}: {reason}; {remedy}")]
    Unfit {
        /// The source.
        source_id: SourceId,
        /// The object: a table, a slot, a server setting.
        object: String,
        /// What is wrong.
        reason: String,
        /// What to do, often as SQL.
        remedy: String,
    },
    /// The journal's position does not fit the server.
    #[error("source {source_id}: the journal's position does not fit the server: {reason}; {remedy}")]
    Position {
        /// The source.
        source_id: SourceId,
        /// Both sides of the contradiction.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The server sent bytes that this reader does not understand; it stops rather than skip them.
    #[error("source {source_id}: at {at}: {reason}; stopped rather than skip it, a newer Syncline may know it")]
    Protocol {
        /// The source.
        source_id: SourceId,
        /// Where in the log or which exchange.
        at: String,
        /// What was found and what was expected.
        reason: String,
    },
    /// A value that its column's type cannot hold.
    #[error("source {source_id}: at {at}: table {table} column {column}: {problem}; {}", value_remedy(*is_key))]
    Value {
        /// The source.
        source_id: SourceId,
        /// Where in the log.
        at: String,
        /// The table.
        table: TableId,
        /// The column.
        column: String,
        /// What kind of value it is, never the value.
        problem: &'static str,
        /// Whether the column is a part of the key.
        is_key: bool,
    },
    /// Seed files that cannot be loaded.
    #[error("source {source_id}: {}", Listed(faults))]
    Files {
        /// The source.
        source_id: SourceId,
        /// All that is wrong with them.
        faults: Vec<FileFault>,
    },
    /// What a planning platform published cannot be read as the contract has it.
    #[error(
        "source {source_id}: output {output}: {place}: {reason}; have the platform publish a cycle that keeps to PDX/1, then start the daemon again"
    )]
    Output {
        /// The source.
        source_id: SourceId,
        /// The entity.
        output: String,
        /// Which cycle, page or row.
        place: String,
        /// What is wrong with it, never a value.
        reason: String,
    },
    /// A transaction was being received while it was in progress, and cannot be. It comes again.
    #[error(
        "source {source_id}: a transaction cannot be received while it is in progress: {reason}; for an hour they come when they are committed"
    )]
    InProgress {
        /// The source.
        source_id: SourceId,
        /// Why not.
        reason: String,
    },
    /// What the reader keeps in the data folder cannot be read or written.
    #[error("source {source_id}: cannot {verb} {}: {error}; check the disk and the rights of this user", path.display())]
    Kept {
        /// The source.
        source_id: SourceId,
        /// What was tried.
        verb: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// There is no room for what the source says; it is read once there is.
    #[error("source {source_id}: paused, because the data folder is nearly full; its database keeps its log")]
    NoRoom {
        /// The source.
        source_id: SourceId,
    },
    /// The log behind the reader failed or stopped.
    #[error("log: {reason}")]
    Log {
        /// What the log said.
        reason: String,
    },
    /// Arrow refused a batch, which our own checks should have prevented.
    #[error("source {source_id}: table {table}: {error}")]
    Batch {
        /// The source.
        source_id: SourceId,
        /// The table.
        table: TableId,
        /// What Arrow said.
        #[source]
        error: arrow::error::ArrowError,
    },
}

impl CaptureError {
    /// Whether trying again from the journal's position can help.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Unreachable { .. }
            | Self::Lost { .. }
            | Self::Standby { .. }
            | Self::Behind { .. }
            | Self::Elsewhere { .. }
            | Self::Gap { .. }
            | Self::InProgress { .. }
            | Self::NoRoom { .. } => Class::Transient,
            Self::Server { sqlstate, .. } => class_of_sqlstate(sqlstate),
            // One that may be read later is enough to try again.
            Self::NoServer { faults, .. } if faults.iter().any(|(_, fault)| fault.class() == Class::Transient) => {
                Class::Transient
            }
            // Somebody will make room.
            Self::Kept { error, .. } if error.kind() == io::ErrorKind::StorageFull => Class::Transient,
            _ => Class::Definite,
        }
    }
}

/// Faults of files, a line each under their number.
pub(crate) struct Listed<'a>(pub(crate) &'a [FileFault]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "{count} fault{} in the seeds:", if count == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

/// What is wrong with each of several servers, a line each.
struct Each<'a>(&'a [(String, CaptureError)]);

impl fmt::Display for Each<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(address, fault)| write!(f, "\n  {address}: {fault}"))
    }
}

/// The one table that decides which of the server's answers are weather.
fn class_of_sqlstate(sqlstate: &str) -> Class {
    match sqlstate {
        // 58P01, 58P02: files of the log are gone. 57P04: the database was dropped.
        "58P01" | "58P02" | "57P04" => Class::Definite,
        // 55006, 55P03: in use by another session. 40xxx: a conflict. XX000: internal, often a crash next door.
        // 25P03, 25P04: a transaction took longer than the server allows.
        "55006" | "55P03" | "40001" | "40P01" | "XX000" | "25P03" | "25P04" => Class::Transient,
        _ => match sqlstate.get(..2) {
            // Connection exceptions, too few resources, operator intervention (shutdown, start-up), system errors.
            Some("08" | "53" | "57" | "58") => Class::Transient,
            _ => Class::Definite,
        },
    }
}

const fn value_remedy(is_key: bool) -> &'static str {
    if is_key {
        "a key cannot be NULL, whatever special_values says: change the value, or exclude the table"
    } else {
        "set special_values = \"null\" to take such values as NULL, or exclude the table"
    }
}

/// What usually helps against an answer of the server.
pub(crate) fn remedy_of_sqlstate(sqlstate: &str) -> Option<&'static str> {
    Some(match sqlstate {
        "28P01" => "check the user name and the password setting",
        "28000" => {
            "allow the user in pg_hba.conf; replication connections need the database's own entry, not `replication`"
        }
        "3D000" => "check the database name in the url",
        "42501" => "run the script of `syncline check --sql` as a superuser",
        "42704" => "check the slot and publication names",
        "53300" => "raise max_connections or max_wal_senders",
        "53400" => "raise max_replication_slots or max_wal_senders, or drop slots that nobody reads",
        "55006" => "another reader holds the slot: give each daemon its own slot",
        "58P01" => {
            "the server removed log that was still needed: drop the slot, and have `syncline replay --reread` copy the tables again"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_waited_for_and_a_folder_without_rights_is_not() {
        let kept = |kind: io::ErrorKind| CaptureError::Kept {
            source_id: SourceId::new("erp"),
            verb: "write",
            path: PathBuf::from("seeds/7"),
            error: kind.into(),
        };
        assert_eq!(kept(io::ErrorKind::StorageFull).class(), Class::Transient);
        assert_eq!(kept(io::ErrorKind::PermissionDenied).class(), Class::Definite);
    }

    #[test]
    fn one_server_that_may_come_back_is_enough_to_try_again_and_each_is_named_with_its_reason() {
        let of = |kinds: &[bool]| {
            let source_id = SourceId::new("erp");
            let fault = |(at, is_weather): (usize, &bool)| {
                let source_id = source_id.clone();
                let fault = if *is_weather {
                    CaptureError::Behind { source_id, address: "x:1".to_owned(), missing: "0-1-5".to_owned() }
                } else {
                    CaptureError::Position { source_id, reason: "another history".to_owned(), remedy: "look" }
                };
                (format!("host{at}:3306"), fault)
            };
            CaptureError::NoServer {
                source_id: source_id.clone(),
                faults: kinds.iter().enumerate().map(fault).collect(),
            }
        };
        assert_eq!(of(&[false, true]).class(), Class::Transient);
        assert_eq!(of(&[false, false]).class(), Class::Definite);
        let text = of(&[false, true]).to_string();
        assert!(
            text.contains("host0:3306: ") && text.contains("another history") && text.contains("lacks 0-1-5"),
            "{text}"
        );
    }

    #[test]
    fn a_restarting_server_is_tried_again_and_a_wrong_password_is_not() {
        assert_eq!(class_of_sqlstate("57P01"), Class::Transient);
        assert_eq!(class_of_sqlstate("57P03"), Class::Transient);
        assert_eq!(class_of_sqlstate("55006"), Class::Transient);
        assert_eq!(class_of_sqlstate("25P04"), Class::Transient);
        assert_eq!(class_of_sqlstate("28P01"), Class::Definite);
        assert_eq!(class_of_sqlstate("55000"), Class::Definite);
        assert_eq!(class_of_sqlstate(""), Class::Definite);
    }
}
