//! One session: connect, inspect, create what is missing, copy or check the position, then follow the log.
//!
//! ```text
//! journal holds      slot     what happens
//! nothing            any      start at the slot's position and copy (with snapshot = "never" only start)
//! copy begins anew   any      the same; the first frame empties every table of what the log holds
//! position           exists   same server, history and tables, slot not ahead: continue right behind the position, and
//!                             with what is left of an unfinished copy
//! position           gone     the same, with every table read anew: what changed in between is found by comparing ([`Gap`]);
//!                             with log_gap = "stop" a definite error
//! ```
//!
//! No slot that is of use is ever dropped here, whoever created it.

use std::io;
use std::time::Duration;

use syncline_schemas::frame::LogEntry;
use syncline_schemas::table::TableSchema;
use tracing::{info, warn};

use super::check::relations;
use super::config::{DrainTo, PostgresConfig, SnapshotMode};
use super::copy::{Copying, Ledger};
use super::finding::{Severity, ensure_fit};
use super::gap::{Closing, Gap};
use super::lsn::Lsn;
use super::mark::Mark;
use super::messages;
use super::position::PgPosition;
use super::preflight::{self, Inspection, Intent};
use super::publish;
use super::scope::ReadTable;
use super::stream::{Ended, Stream, StreamStart};
use super::watch::Watch;
use super::wire::{Connection, Purpose, quote_identifier};
use crate::requests::Request;
use crate::{CaptureError, LogSink, Outcome, Progress, Requests, Resume, State, StopSignal};

/// Reads a PostgreSQL source for one session, until it is stopped, has drained or fails.
///
/// Blocks; give it a thread. After an error of class `Transient` the caller starts it again with the newest position
/// that was appended for the source, and not before that is durable: an older position would read rows a second time
/// that are still on their way. Nothing is confirmed to the server before [`LogSink::durable`] covers it.
///
/// # Errors
/// [`CaptureError`]; its class says whether another session can help.
pub fn run(
    config: &PostgresConfig,
    resume: Option<Resume>,
    log: &dyn LogSink,
    progress: &Progress,
    requests: &Requests,
    stop: &StopSignal,
) -> Result<Outcome, CaptureError> {
    progress.enter(State::Connecting);
    let session = Session { config, log, progress, requests, stop };
    let mut resume = resume;
    let outcome = loop {
        match session.run(resume.as_ref()) {
            Ok(Ended::ToBeginAgain(stands)) => resume = Some(stands),
            Ok(Ended::For(outcome)) => break Ok(outcome),
            Err(error) => break Err(error),
        }
    };
    progress.enter(State::Idle);
    progress.spooled_bytes.store(0, std::sync::atomic::Ordering::Relaxed);
    match outcome {
        Err(CaptureError::Lost { error, .. }) if stop.is_stopped() && error.kind() == io::ErrorKind::Interrupted => {
            Ok(Outcome::Stopped)
        }
        outcome => outcome,
    }
}

/// When a table whose partitions came or went is asked for again, after it could not be read.
const DOUBT_AGAIN: Duration = Duration::from_secs(60);

/// Who answers at the other end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Identity {
    pub(crate) system_id: u64,
    pub(crate) timeline: u32,
    pub(crate) log_end: Lsn,
    /// How long the server bears silence; zero where it bears any.
    pub(crate) wal_sender_timeout: Duration,
}

pub(crate) struct Session<'a> {
    pub(crate) config: &'a PostgresConfig,
    pub(crate) log: &'a dyn LogSink,
    pub(crate) progress: &'a Progress,
    pub(crate) requests: &'a Requests,
    pub(crate) stop: &'a StopSignal,
}

impl Session<'_> {
    fn run(&self, resume: Option<&Resume>) -> Result<Ended, CaptureError> {
        let held = self.held_position(resume)?;
        let mark = held.as_ref().map(|held| Mark::decode(&held.mark)).transpose();
        let mark = mark.map_err(|reason| self.misfit(reason.to_owned(), KEEP_DATA))?;
        let intent = match (&held, &mark) {
            (Some(held), Some(_)) if held.copy.as_ref().is_some_and(|ledger| ledger.anew) => Intent::BeginAgain,
            (Some(_), Some(mark)) => Intent::Continue(mark),
            _ => Intent::Begin,
        };
        let mut queries = Connection::open(self.config, Purpose::Query, self.stop)?;
        let mut inspection = self.inspect(&mut queries, intent)?;
        let mut stream = Connection::open(self.config, Purpose::Replication, self.stop)?;
        let identity = identify(&mut stream)?;
        let drain_to = self.config.drain_to.map(|target| match target {
            DrainTo::CurrentEnd => identity.log_end,
            DrainTo::Lsn(lsn) => lsn,
        });
        let mut gap = None;
        if let (Some(held), Intent::Continue(mark)) = (&held, intent) {
            gap = self.find_gap(&mut queries, &mut stream, held, mark, identity, &mut inspection)?;
        }
        let (mut taken, mut trusted) = (Vec::new(), Vec::new());
        let start = match (&held, gap, intent) {
            (Some(held), Some(gap), _) => {
                let Closing { start, ledger, trusted: all } = gap
                    .close(&mut queries, &mut stream, held, &inspection, &self.config.slot)
                    .map_err(|error| gap.remains(error))?;
                self.log_shapes(&inspection)?;
                trusted = all;
                (start, None, Some(ledger))
            }
            (Some(held), None, Intent::Continue(_)) => {
                self.log_shapes(&inspection)?;
                let mut ledger = held.copy.clone();
                if !inspection.scope.newcomers().is_empty() {
                    let ledger = ledger.get_or_insert_with(Ledger::beside);
                    ledger.want(inspection.scope.newcomers().iter().copied());
                    // From where the server is now it tells of their changes.
                    ledger.target = ledger.target.max(identity.log_end);
                }
                (taken, trusted) = self.take_requests(&mut queries, &inspection, &mut ledger)?;
                (held.end, held.cut, ledger)
            }
            _ => {
                let copies = intent == Intent::BeginAgain || self.config.snapshot == SnapshotMode::Initial;
                let start = self.begin(&mut stream, &inspection)?;
                let mut ledger = if intent == Intent::BeginAgain { Ledger::anew() } else { Ledger::default() };
                ledger.want(inspection.scope.tables().map(|table| table.oid));
                (start, None, copies.then_some(ledger))
            }
        };
        let (start, cut, ledger) = start;
        let copying = ledger.map(|ledger| Copying::new(self, &inspection, ledger)).transpose()?;
        inspection.scope.trust(&trusted);
        info!(source = %self.config.source, slot = self.config.slot, from = %start, "following the log");
        self.progress.enter(if copying.is_some() { State::Snapshot } else { State::Streaming });
        let fits_binary = self.fits_binary(&inspection)?;
        let watch = Watch::new(self, queries, inspection)?;
        let start_of = StreamStart { identity, drain_to, start, cut, copying, fits_binary };
        let mut stream = Stream::start(self, stream, watch, start_of)?;
        stream.ensure_starts_at(start)?;
        for request in taken {
            info!(source = %self.config.source, table = %request.table, "reading a table anew");
            request.answer(Ok(()));
        }
        stream.follow()
    }

    /// Takes up what somebody asked for; gives the tables that the reader itself asked for, once the stream was behind what made them
    /// doubted, and of which no partition has come or gone since.
    fn take_requests(
        &self,
        queries: &mut Connection,
        inspection: &Inspection,
        ledger: &mut Option<Ledger>,
    ) -> Result<(Vec<Request>, Vec<u32>), CaptureError> {
        let (mut taken, mut trusted) = (Vec::new(), Vec::new());
        for request in self.requests.take() {
            match admit(queries, &request, inspection, ledger.as_ref())? {
                Ok(table) => {
                    let ledger = ledger.get_or_insert_with(Ledger::beside);
                    ledger.want([table]);
                    ledger.sweeps.insert(table);
                    let now = inspection.scope.table(table).map(ReadTable::doubt);
                    trusted.extend(request.own().filter(|doubt| Some(*doubt) == now).map(|_| table));
                    taken.push(request);
                }
                Err(reason) => {
                    if let Some(doubt) = request.own() {
                        self.requests.hold_back(doubt.table, DOUBT_AGAIN);
                        warn!(source = %self.config.source, table = %request.table, reason, "a table is doubted and not read anew");
                    }
                    request.answer(Err(reason));
                }
            }
        }
        Ok((taken, trusted))
    }

    /// Looks for a gap; where it is to be closed, all tables are looked at as ones that are copied.
    fn find_gap(
        &self,
        queries: &mut Connection,
        stream: &mut Connection,
        held: &PgPosition,
        mark: &Mark,
        identity: Identity,
        inspection: &mut Inspection,
    ) -> Result<Option<Gap>, CaptureError> {
        self.ensure_same_system(held, identity)?;
        let Some(gap) = Gap::find(self, stream, held, identity, inspection)? else { return Ok(None) };
        self.progress.forget_proofs();
        if !self.config.closes_gaps() {
            return Err(gap.refuse(self));
        }
        *inspection = self.inspect(queries, Intent::Mend(mark)).map_err(|error| gap.remains(error))?;
        Ok(Some(gap))
    }

    /// Looks at the server, says what is not as expected, and makes the publication where there is none.
    fn inspect(&self, queries: &mut Connection, intent: Intent<'_>) -> Result<Inspection, CaptureError> {
        let mut inspection = preflight::inspect(queries, self.config, intent)?;
        ensure_fit(&self.config.source, &inspection.findings)?;
        if publish::publish(self, queries, &inspection, intent)? {
            inspection = preflight::inspect(queries, self.config, intent)?;
            ensure_fit(&self.config.source, &inspection.findings)?;
        }
        if inspection.slot.as_ref().is_some_and(preflight::Slot::is_being_made) {
            let error = io::Error::other("the slot is still being made, which waits for transactions that are open");
            return Err(queries.lost("looking at the slot", error));
        }
        for finding in inspection.findings.iter().filter(|finding| finding.severity == Severity::Warning) {
            warn!(source = %self.config.source, object = finding.object, remedy = %finding.remedy, "{}", finding.message);
        }
        Ok(inspection)
    }

    fn held_position(&self, resume: Option<&Resume>) -> Result<Option<PgPosition>, CaptureError> {
        let Some(resume) = resume.filter(|resume| !resume.position.is_start()) else { return Ok(None) };
        let held = PgPosition::decode(&resume.position).map_err(|reason| self.misfit(reason, KEEP_DATA))?;
        if held.slot != self.config.slot {
            let reason = format!("it belongs to the slot {:?}, configured is {:?}", held.slot, self.config.slot);
            return Err(self.misfit(reason, "configure the slot that was read, or copy again into an empty data_dir"));
        }
        if resume.txn_end != held.is_whole() {
            return Err(self.misfit("it contradicts its frame about the end of a transaction".to_owned(), KEEP_DATA));
        }
        Ok(Some(held))
    }

    /// Starts from nothing, at the position of the slot, which is created where there is none.
    fn begin(&self, stream: &mut Connection, inspection: &Inspection) -> Result<Lsn, CaptureError> {
        let confirmed = match &inspection.slot {
            Some(slot) => slot.confirmed,
            None => create_slot(stream, &self.config.slot, inspection.catalog.server_version())?,
        };
        self.log_shapes(inspection)?;
        Ok(confirmed)
    }

    /// Puts the shape of every table that is read before the session's first frame: whoever joins tables needs those of
    /// empty ones, too. Equal shapes are repeated once in a process; a shape does not move the source.
    fn log_shapes(&self, inspection: &Inspection) -> Result<(), CaptureError> {
        let Inspection { catalog, publication, scope, .. } = inspection;
        let read = relations(catalog, publication.as_ref()).filter(|relation| scope.table(relation.id).is_some());
        for relation in read {
            self.log_shape(&catalog.shape(&self.config.source, &relation)?.schema)?;
        }
        if self.config.messages.is_some() {
            self.log_shape(&messages::shape(&self.config.source).schema)?;
        }
        Ok(())
    }

    /// Whether every value of the tables has a binary form that is read.
    fn fits_binary(&self, inspection: &Inspection) -> Result<bool, CaptureError> {
        let Inspection { catalog, publication, scope, .. } = inspection;
        let mut read = relations(catalog, publication.as_ref()).filter(|relation| scope.table(relation.id).is_some());
        read.try_fold(true, |fits, relation| Ok(fits && catalog.shape(&self.config.source, &relation)?.has_binary()))
    }

    /// Puts a shape into the log, unless it is the last one there of its table.
    pub(crate) fn log_shape(&self, shape: &TableSchema) -> Result<(), CaptureError> {
        if !self.progress.has_logged(shape) {
            self.log.append(LogEntry::Schema(shape.clone()))?;
            self.progress.observe_shape(shape);
        }
        Ok(())
    }

    /// The journal's position must be one of this server.
    fn ensure_same_system(&self, held: &PgPosition, identity: Identity) -> Result<(), CaptureError> {
        if held.system_id == identity.system_id {
            return Ok(());
        }
        Err(self.misfit(
            format!("it is of system {}, the server is system {}", held.system_id, identity.system_id),
            "point the url at the server that was read, or have `syncline replay --reread` copy this one's tables",
        ))
    }

    pub(super) fn misfit(&self, reason: String, remedy: &'static str) -> CaptureError {
        CaptureError::Position { source_id: self.config.source.clone(), reason, remedy }
    }
}

/// The number of a table that is to be read anew, or why it is not.
fn admit(
    queries: &mut Connection,
    request: &Request,
    inspection: &Inspection,
    ledger: Option<&Ledger>,
) -> Result<Result<u32, String>, CaptureError> {
    let Some(table) = inspection.scope.named(&request.table) else {
        let reason = format!("{} is not read: tables are named with their schema, as in public.orders", request.table);
        return Ok(Err(reason));
    };
    if let Some(reason) = ledger.and_then(|ledger| under_way(ledger, table)) {
        return Ok(Err(reason));
    }
    if is_readable(queries, table.oid)? {
        return Ok(Ok(table.oid));
    }
    let table = &request.table;
    let reason =
        format!("the role may not read all of {table}: GRANT SELECT ON it and its partitions, without row security");
    Ok(Err(reason))
}

/// Why a table is not to be read anew now: it is being read.
pub(super) fn under_way(ledger: &Ledger, table: &ReadTable) -> Option<String> {
    if !ledger.is_beside {
        return Some("the tables of the source are being copied already".to_owned());
    }
    let is_read = ledger.sweeps.contains(&table.oid) || ledger.is_wanted(table.oid);
    is_read.then(|| format!("{} is being read already", table.id))
}

/// Whether all rows of a table can be read. Partitions are read by themselves, and rights on them are their own.
pub(super) fn is_readable(queries: &mut Connection, table: u32) -> Result<bool, CaptureError> {
    let sql = format!(
        "SELECT bool_and(pg_catalog.has_table_privilege(c.oid, 'SELECT')), bool_or(pg_catalog.row_security_active(c.oid)) \
         FROM pg_catalog.pg_class c WHERE c.oid = {table} OR c.oid IN (SELECT relid FROM pg_catalog.pg_partition_tree({table}))"
    );
    let rights = queries.query("looking at the rights on a table", &sql)?;
    Ok(rights.first().is_some_and(|row| row.is_true(0) && !row.is_true(1)))
}

const KEEP_DATA: &str = "run the Syncline that wrote it; keep the data_dir";

fn identify(stream: &mut Connection) -> Result<Identity, CaptureError> {
    const DURING: &str = "identifying the server";
    let rows = stream.query(DURING, "IDENTIFY_SYSTEM")?;
    let sql = "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'";
    let patience = stream.query(DURING, sql)?;
    let identity = rows.first().zip(patience.first()).and_then(|(row, patience)| {
        Some(Identity {
            system_id: row.parsed(0)?,
            timeline: row.parsed(1)?,
            log_end: row.parsed(2)?,
            wal_sender_timeout: Duration::from_millis(patience.parsed(0)?),
        })
    });
    identity.ok_or_else(|| stream.protocol(DURING, "the answer has another form"))
}

/// Creates the slot and gives its position. Where the server can, its standbys have the slot too, so that a promoted one goes on
/// with it.
pub(super) fn create_slot(stream: &mut Connection, slot: &str, server_version: u32) -> Result<Lsn, CaptureError> {
    const DURING: &str = "creating the slot";
    let options = if server_version >= 170_000 { "(SNAPSHOT 'nothing', FAILOVER)" } else { "NOEXPORT_SNAPSHOT" };
    let sql = format!("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput {options}", quote_identifier(slot));
    let rows = stream.command(DURING, &sql)?;
    let consistent_point = rows.first().and_then(|row| row.parsed(1));
    info!(source = %stream.source(), slot, "created the slot");
    consistent_point.ok_or_else(|| stream.protocol(DURING, "the answer has no consistent point"))
}
