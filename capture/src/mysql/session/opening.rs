//! What a session needs of a server before it writes anything: that it is the right one, and where to go on there.
//!
//! ```text
//! what the server lacks of the position                what happens
//! a transaction                                        waits for a replica that may still apply it; else a gap, or not this one
//! what follows in its log                              a gap
//! nothing; the rest of a transaction, or a copy, was
//! ... begun on the same server                         goes on
//! ... begun on another one                             all tables are copied anew, which takes back what is there, once that one
//!                                                      does not come back within a minute, or all answer and none is it
//! ```
//! Over a [gap](super::gap) all tables are copied anew as well, where the configuration lets us, once no server is left that may have what
//! follows. The rows of half a transaction are part of a unit that has not ended, and so is all of a copy: what is copied anew ends it, and
//! nobody has seen anything of it before that.

use std::collections::BTreeSet;
use std::time::Duration;

use tracing::{info, warn};

use super::copying::{Standing, standing};
use super::{KEEP_DATA, gap};
use crate::finding::{COPY_AGAIN, Severity, ensure_fit};
use crate::mysql::config::{Address, MySqlConfig, SnapshotMode};
use crate::mysql::copy::Ledger;
use crate::mysql::decoder::Cut;
use crate::mysql::gtid::GtidSet;
use crate::mysql::position::MyPosition;
use crate::mysql::scope::Scope;
use crate::mysql::server::Server;
use crate::mysql::site::{self, Site};
use crate::mysql::wire::{Connection, Dump};
use crate::{CaptureError, Class, Progress, Requests, Resume, StopSignal};

/// How long a server is waited for that restarts, or is out of reach, before all that it began is done again on another one.
const COMES_BACK: Duration = Duration::from_secs(60);

/// A server that is fit, and all that was asked of it.
pub(super) struct Opened {
    /// Beside the log.
    pub(super) connection: Connection,
    pub(super) site: Site,
    pub(super) scope: Scope,
    /// All that it has executed.
    pub(super) executed: GtidSet,
    pub(super) end: GtidSet,
    pub(super) cut: Option<Cut>,
    pub(super) standing: Standing,
    pub(super) dump: Dump,
}

impl Opened {
    /// Opens the first server that is fit.
    pub(super) fn first(
        config: &MySqlConfig,
        resume: Option<&Resume>,
        progress: &Progress,
        requests: &Requests,
        stop: &StopSignal,
    ) -> Result<Self, CaptureError> {
        let held = resume.filter(|resume| !resume.position.is_start());
        let held = held.map(|resume| MyPosition::decode(&resume.position)).transpose();
        let misfit = |reason| CaptureError::Position { source_id: config.source.clone(), reason, remedy: KEEP_DATA };
        let held = held.map_err(misfit)?;
        let open = |begins_anew| {
            site::first(config, progress.server().as_deref(), stop, |address| {
                let opened = Self::at(config, address, held.clone(), begins_anew, requests, stop)?;
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
        requests: &Requests,
        stop: &StopSignal,
    ) -> Result<Self, CaptureError> {
        let mut connection = Connection::open(&config.login(address), stop)?;
        let server = Server::look(&mut connection)?;
        ensure_fit(&config.source, &server.findings)?;
        for finding in server.findings.iter().filter(|finding| finding.severity == Severity::Warning) {
            warn!(source = %config.source, object = finding.object, remedy = %finding.remedy, "{}", finding.message);
        }
        let site = Site { address: address.clone(), identity: server.identity.clone() };
        let ask = |end: &GtidSet| Dump::start(site.open(config, stop)?, config.server_id, end);
        let (held, dump) = match held {
            Some(held) if !held.begins_again() => match going_on(config, &site, &server, &mut connection, &held, ask) {
                Err(error) if begins_anew && is_reason(&error) => {
                    warn_of(config, &error);
                    let held = MyPosition { known: held.known, ..beginning(&server, true) };
                    let dump = ask(&held.end)?;
                    (held, dump)
                }
                asked => (held, asked?),
            },
            held => {
                let held = beginning(&server, held.is_some() || config.snapshot == SnapshotMode::Initial);
                let dump = ask(&held.end)?;
                (held, dump)
            }
        };
        let scope = config.scope(server.ignores_case);
        let (end, cut) = (held.end.clone(), held.cut.clone());
        let standing = standing(&mut connection, config, &site, &scope, held, requests)?;
        let kind = if server.is_mariadb { "MariaDB" } else { "MySQL" };
        let at = config.endpoint(address).address();
        info!(source = %config.source, server = at, kind, from = %end, "following the log");
        Ok(Self { connection, site, scope, executed: server.executed, end, cut, standing, dump })
    }
}

/// Where a source begins of which the journal holds nothing that counts.
fn beginning(server: &Server, copies: bool) -> MyPosition {
    let end = server.logged.clone();
    let copy = copies.then(|| Ledger::anew(end.clone()));
    MyPosition { end, cut: None, known: BTreeSet::new(), server: None, copy }
}

/// The log from where a source stands, of a server that it is good on.
fn going_on(
    config: &MySqlConfig,
    site: &Site,
    server: &Server,
    connection: &mut Connection,
    held: &MyPosition,
    ask: impl FnOnce(&GtidSet) -> Result<Dump, CaptureError>,
) -> Result<Dump, CaptureError> {
    gap::ensure_has(server, connection, config, &site.address, &held.end)?;
    if !held.is_bound() || held.server.as_ref() == Some(&server.identity) {
        return gap::ask(server, config, &held.end, ask);
    }
    let what = match &held.cut {
        Some(Cut { gtid, changes }) => format!("{changes} changes of {gtid}"),
        None => "a part of the tables".to_owned(),
    };
    let source_id = config.source.clone();
    if held.copy.is_none() && config.snapshot == SnapshotMode::Never {
        let reason = format!("{what} came from another server, and this one may divide the transaction in another way");
        return Err(CaptureError::Position { source_id, reason, remedy: COPY_AGAIN });
    }
    Err(CaptureError::Elsewhere { source_id, address: config.endpoint(&site.address).address(), what })
}

/// True of what all tables are copied anew for, if there is nothing better.
const fn is_reason(error: &CaptureError) -> bool {
    matches!(error, CaptureError::Elsewhere { .. } | CaptureError::Gap { .. })
}

fn warn_of(config: &MySqlConfig, error: &CaptureError) {
    match error {
        CaptureError::Gap { error } => warn!(
            source = %config.source, reason = %error,
            "changes are lost to the log: reading the tables anew to find out what they were"
        ),
        other => warn!(source = %config.source, "{other}: copying all tables anew"),
    }
}

/// True where a server that has what follows, or that a position is good on, is not waited for any longer.
fn is_given_up(error: &CaptureError, progress: &Progress) -> bool {
    let CaptureError::NoServer { faults, .. } = error else { return is_reason(error) };
    let has_gap = faults.iter().any(|(_, fault)| matches!(fault, CaptureError::Gap { .. }));
    // Whoever lacks transactions is none that gave a part of one, but may have what follows once it has got them.
    let may_be_it = |fault: &CaptureError| {
        !is_reason(fault)
            && (has_gap || !matches!(fault, CaptureError::Behind { .. }))
            && fault.class() == Class::Transient
    };
    faults.iter().any(|(_, fault)| is_reason(fault))
        && (!faults.iter().any(|(_, fault)| may_be_it(fault)) || progress.without_server() >= COMES_BACK)
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
        let gap = || CaptureError::Gap { error: Box::new(elsewhere()) };
        assert!(is_given_up(&of(vec![down(), gap()]), &progress), "the log will not come back either");
        progress.set_server("a".to_owned());
        assert!(is_given_up(&gap(), &progress) && is_given_up(&of(vec![gap(), gap()]), &progress), "nobody has it");
        assert!(!is_given_up(&of(vec![gap(), behind()]), &progress), "it may have what follows");
        assert!(!is_given_up(&of(vec![down(), elsewhere()]), &progress), "and another time it is waited for again");
    }
}
