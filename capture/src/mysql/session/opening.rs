//! What a session needs of a server before it writes anything: that it is the right one, and where to go on there.
//!
//! ```text
//! what the server lacks of the position                what happens
//! a transaction                                        waits for a replica that may still apply it; else it is not this one
//! what follows in its log                              it is not this one
//! nothing; the rest of a transaction, or a copy, was
//! ... begun on the same server                         goes on
//! ... begun on another one                             all tables are copied anew, which takes back what is there, once that one
//!                                                      does not come back within a minute, or all answer and none is it
//! ```
//! The rows of half a transaction are part of a unit that has not ended, and so is all of a copy: what is copied anew ends it, and
//! nobody has seen anything of it before that.

use std::collections::BTreeSet;
use std::time::Duration;

use syncline_schemas::ident::TableId;
use tracing::{info, warn};

use super::KEEP_DATA;
use super::copying::standing;
use crate::finding::{COPY_AGAIN, Severity, ensure_fit};
use crate::mysql::config::{Address, MySqlConfig, SnapshotMode};
use crate::mysql::copy::{Copying, Ledger};
use crate::mysql::decoder::Cut;
use crate::mysql::gtid::GtidSet;
use crate::mysql::position::MyPosition;
use crate::mysql::scope::Scope;
use crate::mysql::server::Server;
use crate::mysql::site::{self, Site};
use crate::mysql::wire::{Connection, Dump};
use crate::{CaptureError, Class, Progress, Resume, StopSignal};

/// How long a server is waited for that restarts, or is out of reach, before all that it began is done again on another one.
const COMES_BACK: Duration = Duration::from_secs(60);

/// A server that is fit, and all that was asked of it.
pub(super) struct Opened {
    pub(super) site: Site,
    pub(super) scope: Scope,
    /// All that it has executed.
    pub(super) executed: GtidSet,
    pub(super) end: GtidSet,
    pub(super) cut: Option<Cut>,
    pub(super) known: BTreeSet<TableId>,
    pub(super) copying: Option<Copying>,
    pub(super) dump: Dump,
}

impl Opened {
    /// Opens the first server that is fit.
    pub(super) fn first(
        config: &MySqlConfig,
        resume: Option<&Resume>,
        progress: &Progress,
        stop: &StopSignal,
    ) -> Result<Self, CaptureError> {
        let held = resume.filter(|resume| !resume.position.is_start());
        let held = held.map(|resume| MyPosition::decode(&resume.position)).transpose();
        let misfit = |reason| CaptureError::Position { source_id: config.source.clone(), reason, remedy: KEEP_DATA };
        let held = held.map_err(misfit)?;
        let open = |begins_anew| {
            site::first(config, progress.server().as_deref(), stop, |address| {
                let opened = Self::at(config, address, held.clone(), begins_anew, stop)?;
                progress.set_server(config.endpoint(address).address());
                Ok(opened)
            })
        };
        match open(false) {
            Err(error) if is_given_up(&error, progress) => open(true),
            opened => opened,
        }
    }

    fn at(
        config: &MySqlConfig,
        address: &Address,
        held: Option<MyPosition>,
        begins_anew: bool,
        stop: &StopSignal,
    ) -> Result<Self, CaptureError> {
        let mut connection = Connection::open(&config.login(address), stop)?;
        let server = Server::look(&mut connection)?;
        ensure_fit(&config.source, &server.findings)?;
        for finding in server.findings.iter().filter(|finding| finding.severity == Severity::Warning) {
            warn!(source = %config.source, object = finding.object, remedy = %finding.remedy, "{}", finding.message);
        }
        let held = match held {
            Some(held) if held.begins_again() => beginning(&server, true),
            Some(held) => {
                server.ensure_has(&mut connection, config, address, &held.end)?;
                going_on(config, address, &server, held, begins_anew)?
            }
            None => beginning(&server, config.snapshot == SnapshotMode::Initial),
        };
        let site = Site { address: address.clone(), identity: server.identity };
        let scope = config.scope(server.ignores_case);
        let (end, cut) = (held.end.clone(), held.cut.clone());
        let (known, copying) = standing(&mut connection, config, &site, &scope, held)?;
        let dump = Dump::start(connection, config.server_id, &end)?;
        let kind = if server.is_mariadb { "MariaDB" } else { "MySQL" };
        let at = config.endpoint(address).address();
        info!(source = %config.source, server = at, kind, from = %end, "following the log");
        Ok(Self { site, scope, executed: server.executed, end, cut, known, copying, dump })
    }
}

/// Where a source begins of which the journal holds nothing that counts.
fn beginning(server: &Server, copies: bool) -> MyPosition {
    let end = server.logged.clone();
    let copy = copies.then(|| Ledger::anew(end.clone()));
    MyPosition { end, cut: None, known: BTreeSet::new(), server: None, copy }
}

/// Where a source goes on, on a server that has executed all that is held.
fn going_on(
    config: &MySqlConfig,
    address: &Address,
    server: &Server,
    held: MyPosition,
    begins_anew: bool,
) -> Result<MyPosition, CaptureError> {
    if !held.is_bound() || held.server.as_ref() == Some(&server.identity) {
        server.ensure_keeps(config, &held.end)?;
        return Ok(held);
    }
    let what = match &held.cut {
        Some(Cut { gtid, changes }) => format!("{changes} changes of {gtid}"),
        None => "a part of the tables".to_owned(),
    };
    if held.copy.is_none() && config.snapshot == SnapshotMode::Never {
        let reason = format!("{what} came from another server, and this one may divide the transaction in another way");
        return Err(CaptureError::Position { source_id: config.source.clone(), reason, remedy: COPY_AGAIN });
    }
    if !begins_anew {
        let address = config.endpoint(address).address();
        return Err(CaptureError::Elsewhere { source_id: config.source.clone(), address, what });
    }
    warn!(source = %config.source, "{what} came from another server, and is good for that one only: copying all tables anew");
    Ok(MyPosition { known: held.known, ..beginning(server, true) })
}

/// True where the server that a position is good on is not waited for any longer.
fn is_given_up(error: &CaptureError, progress: &Progress) -> bool {
    match error {
        CaptureError::Elsewhere { .. } => true,
        CaptureError::NoServer { faults, .. } => {
            let is_elsewhere = |fault: &CaptureError| matches!(fault, CaptureError::Elsewhere { .. });
            // Whoever lacks transactions is none that gave them.
            let may_be_it = |fault: &CaptureError| {
                !is_elsewhere(fault)
                    && !matches!(fault, CaptureError::Behind { .. })
                    && fault.class() == Class::Transient
            };
            faults.iter().any(|(_, fault)| is_elsewhere(fault))
                && (!faults.iter().any(|(_, fault)| may_be_it(fault)) || progress.without_server() >= COMES_BACK)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Instant;

    use syncline_schemas::ident::SourceId;

    use super::*;

    #[test]
    fn a_server_that_restarts_is_waited_for_before_hours_of_copying_are_done_again() {
        let source_id = SourceId::new("erp");
        let at = |address: &str| (source_id.clone(), address.to_owned());
        let elsewhere = || {
            let (source_id, address) = at("b");
            CaptureError::Elsewhere { source_id, address, what: "half".to_owned() }
        };
        let down = || {
            let (source_id, address) = at("a");
            CaptureError::Unreachable { source_id, address, error: io::ErrorKind::ConnectionRefused.into() }
        };
        let behind = || {
            let (source_id, address) = at("c");
            CaptureError::Behind { source_id, address, missing: "0-1-5".to_owned() }
        };
        let of = |faults: Vec<CaptureError>| CaptureError::NoServer {
            source_id: source_id.clone(),
            faults: faults.into_iter().map(|fault| ("x".to_owned(), fault)).collect(),
        };
        let progress = Progress::default();
        assert!(!is_given_up(&of(vec![down(), elsewhere()]), &progress), "it may come back");
        assert!(is_given_up(&of(vec![behind(), elsewhere()]), &progress), "all answer, and none is it");
        assert!(is_given_up(&elsewhere(), &progress), "another one has its address");
        assert!(!is_given_up(&of(vec![down(), behind()]), &progress), "there is none to begin anew on");
        assert!(progress.without_server() < COMES_BACK);
        progress
            .set_without_server_since(Instant::now().checked_sub(COMES_BACK).expect("the machine runs for a minute"));
        assert!(is_given_up(&of(vec![down(), elsewhere()]), &progress), "it did not come back");
        progress.set_server("a".to_owned());
        assert!(!is_given_up(&of(vec![down(), elsewhere()]), &progress), "and another time it is waited for again");
    }
}
