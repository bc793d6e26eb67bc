//! The tables while the log is followed: what its descriptions of them mean, and whether they are still what is read.
//!
//! A description names a table by number. One of the session's [`Scope`] is read; any other is not: it is excluded, or
//! came later, or is a partition, which the server describes beside its root. A table that is read and comes with
//! another name or key, or whose name comes with another number, ends the session: rows that are in the log already
//! would stay under what was theirs.
//!
//! Where partitions have come or gone with rows, their table is doubted, and asked to be read anew once the stream is behind
//! that: what it says before is of the partitions as they were.
//!
//! What the log does not tell is looked up once a minute, and soon after the server describes a table again, which it
//! does when a table or the publication has changed, and in each transaction that it streams while it is in progress, which is no
//! hint; and while somebody waits for the proof that everything is here. That the server is too busy to answer is no reason to end.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use syncline_schemas::ident::TableId;
use tracing::warn;

use super::catalog::Catalog;
use super::config::{PostgresConfig, SnapshotMode};
use super::copy::with_epoch;
use super::decode::{Relation, Shape};
use super::finding::{Finding, Severity, ensure_fit};
use super::guard;
use super::log_end::{LOG_END, log_end};
use super::lsn::Lsn;
use super::preflight::{self, Inspection, Slot};
use super::publication::Publication;
use super::scope::{self, ANOTHER_TABLE, ReadTable, Scope, WITHOUT_IT};
use super::session::Session;
use super::wire::{Connection, Purpose, Row};
use crate::requests::Doubt;
use crate::{CaptureError, Class, Requests};

/// How long a change that nothing hints at can go on unseen.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Vacuuming makes the server describe tables again, too: not more often than this.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// While somebody waits for the proof that everything is here.
const LOOK_WANTED: Duration = Duration::from_secs(5);
/// When a table that could not be read anew is asked for again.
const GIVEN_UP_AGAIN: Duration = Duration::from_secs(3600);
/// What is wrong with a table, where it is not read anew by itself.
const LEFT_AGAIN: &str = "had a partition that left again: the log holds rows of it that are gone";
/// The log waits meanwhile, and the server for us.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) struct Watch<'a> {
    session: &'a Session<'a>,
    catalog: Catalog,
    scope: Scope,
    mark: Arc<[u8]>,
    /// Kept between two looks; opened anew after it broke.
    queries: Option<Connection>,
    described: HashSet<u32>,
    /// The one that was described last: where it has partitions, one of them may follow.
    last: Option<u32>,
    looked_at: Instant,
    is_hinted: bool,
    has_newcomers: bool,
    found: Vec<Finding>,
    /// Where the server's log ended when tables were found to be doubted; none without one.
    doubts_upto: Option<Lsn>,
    /// What was doubted then.
    doubts: Vec<Doubt>,
    /// Bytes of log that the server kept for the slot when that was looked at last.
    kept: Option<u64>,
    /// When the last look began by the server's clock, and where its log ended then; it found nothing that the log does not tell.
    seen: Option<(i64, Lsn)>,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(
        session: &'a Session<'a>,
        mut queries: Connection,
        inspection: Inspection,
    ) -> Result<Self, CaptureError> {
        let Inspection { catalog, scope, findings, .. } = inspection;
        let doubts_upto = doubts_upto(&scope, session.requests, &mut queries)?;
        let doubts = scope.doubts();
        Ok(Self {
            session,
            catalog,
            mark: Arc::from(scope.mark().encode()),
            scope,
            queries: Some(queries),
            described: HashSet::new(),
            last: None,
            looked_at: Instant::now(),
            // The first proof comes from the first look.
            is_hinted: true,
            has_newcomers: false,
            found: findings,
            doubts_upto,
            doubts,
            kept: None,
            seen: None,
        })
    }

    /// Where the stream has to come before doubted tables can be read anew; none without one.
    pub(crate) const fn doubts_upto(&self) -> Option<Lsn> {
        self.doubts_upto
    }

    /// A table was to be read anew, and is not.
    pub(crate) fn distrust(&mut self, table: u32) {
        // What cannot be read now will hardly be so in a minute, and all before it is read again.
        self.session.requests.hold_back(table, GIVEN_UP_AGAIN);
        if self.session.config.closes_gaps() {
            self.doubt(table);
        }
    }

    fn doubt(&mut self, table: u32) {
        self.scope.distrust(table);
        self.mark = Arc::from(self.scope.mark().encode());
    }

    /// What is read.
    pub(crate) const fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The rows of a table without a key were counted in a shape.
    pub(crate) fn hold_shape(&mut self, table: u32, version: u32) {
        self.scope.hold_shape(table, version);
        self.mark = Arc::from(self.scope.mark().encode());
    }

    /// Asks to have doubted tables read anew, where the stream has come that far.
    pub(crate) fn ask_for_doubted(&mut self, reached: Lsn) {
        if self.doubts_upto.is_some_and(|upto| reached >= upto) {
            self.doubts_upto = None;
            let asked = self.scope.doubted().filter(|table| self.session.requests.may_try(table.oid));
            asked.for_each(|table| self.session.requests.doubt(table.id.clone(), table.doubt()));
        }
    }

    /// True where tables came that another session would read.
    pub(crate) const fn has_newcomers(&self) -> bool {
        self.has_newcomers
    }

    /// What is read, for a position.
    pub(crate) fn mark(&self) -> Arc<[u8]> {
        Arc::clone(&self.mark)
    }

    /// The shape of a table as the log describes it, `None` where the table is not read. That it is described at all is news
    /// where the server had no other reason than a change.
    pub(crate) fn shape(&mut self, relation: &Relation, is_news: bool) -> Result<Option<Shape>, CaptureError> {
        let is_first = self.described.insert(relation.id);
        self.is_hinted |= is_news && !is_first;
        let id = TableId::new(&relation.schema, &relation.name);
        let last = self.last.replace(relation.id);
        let Some(read) = self.scope.table(relation.id) else {
            if let Some(root) = last {
                self.see_partition(root, relation.id)?;
            }
            // It may be one that came.
            self.is_hinted |= is_news || is_first;
            return match self.scope.named(&id) {
                Some(_) => Err(self.unfit(&id, ANOTHER_TABLE)),
                None => Ok(None),
            };
        };
        if read.id != id {
            return Err(self.unfit(&read.id, &format!("was renamed to {id}, and its rows belong to the old name")));
        }
        let key = read.key.clone();
        if !self.catalog.agrees_with(relation) {
            self.reload()?;
            if !self.catalog.agrees_with(relation) {
                self.with_queries(|catalog, queries| catalog.load_type_names(queries, relation))?;
            }
        } else if relation.replica_identity == b'f' {
            // A full identity does not say which columns the key is made of.
            let keys = &self.session.config.keys;
            self.with_queries(|catalog, queries| catalog.reload_key(queries, relation.id, keys))?;
        }
        let shape = self.catalog.shape(&self.session.config.source, relation)?;
        if shape.key() != key {
            let reason = format!("had the key ({key}) when it was read and has ({}) now", shape.key());
            return Err(self.unfit(&id, &reason));
        }
        Ok(Some(shape))
    }

    /// Sees a partition before the rows of it: one that leaves again before the next look would leave them here for ever.
    ///
    /// The server describes one right behind its root, and other tables wherever they come.
    fn see_partition(&mut self, root: u32, partition: u32) -> Result<(), CaptureError> {
        let is_of_root = |scope: &Scope| scope.table(root).is_some_and(|table| table.has_leaf(partition));
        if !self.scope.table(root).is_some_and(ReadTable::is_partitioned) || is_of_root(&self.scope) {
            return Ok(());
        }
        let is_there = match self.compare()? {
            Some(of_next_session) => is_of_root(&of_next_session),
            None => is_of_root(&self.scope),
        };
        if !is_there {
            if !self.session.config.closes_gaps() {
                let table = self.scope.table(root).map(|table| table.id.clone());
                return table.map_or(Ok(()), |table| Err(self.unfit(&table, LEFT_AGAIN)));
            }
            warn!(source = %self.session.config.source, root, partition, "a partition came and left again: its table is read anew");
            self.doubt(root);
        }
        Ok(())
    }

    /// Compares the tables with the server where that is due, or wanted while a proof is of use.
    pub(crate) fn look(&mut self, is_proof_of_use: bool) -> Result<(), CaptureError> {
        let since = self.looked_at.elapsed();
        let is_due = self.is_hinted && since >= LOOK_AGAIN
            || is_proof_of_use && since >= LOOK_WANTED && self.session.progress.take_wish();
        if since < LOOK_EVERY && !is_due {
            return Ok(());
        }
        (self.looked_at, self.is_hinted) = (Instant::now(), false);
        // Before anything is looked at: what happens meanwhile is of a later moment.
        let began = self.now();
        match began.and_then(|began| Ok((began, self.compare()?))) {
            Ok((began, None)) if !self.has_doubts() => {
                self.seen = began;
                Ok(())
            }
            Err(error) if error.class() == Class::Transient => {
                let source = &self.session.config.source;
                warn!(%source, %error, "cannot see whether the tables are still published as they were; trying again");
                Ok(())
            }
            compared => compared.map(drop),
        }
    }

    /// True where what is held of some table is not known to be what the server has.
    pub(crate) fn has_doubts(&self) -> bool {
        self.doubts_upto.is_some() || self.has_newcomers || self.scope.doubted().next().is_some()
    }

    /// What the last look found out, once.
    pub(crate) const fn take_seen(&mut self) -> Option<(i64, Lsn)> {
        self.seen.take()
    }

    /// Compares what is read with the server; gives what another session would read, where that is more.
    fn compare(&mut self) -> Result<Option<Scope>, CaptureError> {
        let config = self.session.config;
        let held = self.scope.mark();
        let before = std::mem::take(&mut self.scope);
        let requests = self.session.requests;
        let (progress, mut kept, mut upto, mut is_awaited) = (self.session.progress, None, None, false);
        let compared = self.with_queries(|catalog, queries| {
            queries.within(LOOK_TIMEOUT, |queries| {
                kept = guard::look(queries, config, progress)?;
                *catalog = Catalog::load(queries, config, catalog.server_version())?;
                let compared = scope::compare(queries, catalog, config, Some(&held), Some(&before))?;
                upto = doubts_upto(&compared.0, requests, queries)?;
                is_awaited = takes_more(&compared.0, requests, catalog, config, queries)?;
                Ok(compared)
            })
        });
        let (scope, found) = match compared {
            Ok(compared) => compared,
            Err(error) => {
                self.scope = before;
                return Err(error);
            }
        };
        if let Some(kept) = kept {
            let last = self.kept.replace(kept.bytes);
            if last.is_some_and(|last| kept.bytes >= last) {
                kept.ensure_allowed(config)?;
            }
            if kept.is_much(config) && last.is_none_or(|last| last < config.slot_warn) {
                kept.warn(config);
            }
        }
        ensure_fit(&config.source, &found)?;
        let warnings = found.iter().filter(|finding| finding.severity == Severity::Warning);
        for finding in warnings.filter(|finding| !self.found.contains(finding)) {
            warn!(source = %config.source, object = finding.object, remedy = %finding.remedy, "{}", finding.message);
        }
        self.has_newcomers = is_awaited || !scope.newcomers().is_empty();
        if self.has_newcomers {
            // They are read from the next session on.
            self.scope = before;
            return Ok(Some(scope));
        }
        self.mark = Arc::from(scope.mark().encode());
        let doubts = scope.doubts();
        // A stream that is always behind comes there some time.
        if self.doubts != doubts || self.doubts_upto.is_none() {
            self.doubts_upto = upto;
        }
        (self.scope, self.found, self.doubts) = (scope, found, doubts);
        Ok(None)
    }

    fn reload(&mut self) -> Result<(), CaptureError> {
        let config = self.session.config;
        self.with_queries(|catalog, queries| {
            *catalog = Catalog::load(queries, config, catalog.server_version())?;
            Ok(())
        })
    }

    /// Asks over the connection for queries; after an error it is not used again.
    fn with_queries<T>(
        &mut self,
        ask: impl FnOnce(&mut Catalog, &mut Connection) -> Result<T, CaptureError>,
    ) -> Result<T, CaptureError> {
        let Session { config, stop, .. } = self.session;
        let opened = match self.queries.take() {
            Some(queries) => Ok(queries),
            None => Connection::open(config, Purpose::Query, stop),
        };
        let mut queries = opened?;
        let answer = ask(&mut self.catalog, &mut queries)?;
        self.queries = Some(queries);
        Ok(answer)
    }

    /// Whether none of these parts of a transaction that is committed was rolled back.
    pub(crate) fn counts(&mut self, parts: &[u32]) -> Result<bool, CaptureError> {
        const DURING: &str = "looking what became of the parts of a transaction";
        let next = self.ask(DURING, "SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())")?;
        let next = next.first().and_then(|row| row.parsed(0));
        let next = next.ok_or_else(|| CaptureError::Protocol {
            source_id: self.session.config.source.clone(),
            at: DURING.to_owned(),
            reason: "the answer has no number".to_owned(),
        })?;
        let parts: Vec<String> = parts.iter().map(|part| with_epoch(*part, next).to_string()).collect();
        // In progress: it is committed, and others do not see it yet. None: the server does not know any more.
        let sql = format!(
            "SELECT pg_catalog.bool_and(coalesce(pg_catalog.pg_xact_status(x::text::pg_catalog.xid8), 'unknown') IN ('committed', 'in progress')) \
             FROM pg_catalog.unnest(ARRAY[{}]::bigint[]) AS x",
            parts.join(", ")
        );
        Ok(self.ask(DURING, &sql)?.first().is_some_and(|row| row.is_true(0)))
    }

    /// The server's clock, microseconds since 1970, and where its log ended not before that; none where it is too busy to answer.
    fn now(&mut self) -> Result<Option<(i64, Lsn)>, CaptureError> {
        let sql = format!(
            "SELECT {LOG_END}, (extract(epoch FROM at) * 1000000)::bigint FROM (SELECT pg_catalog.clock_timestamp() AS at OFFSET 0) AS clock"
        );
        let during = "looking how late it is";
        let answer =
            self.with_queries(|_, queries| queries.within(LOOK_TIMEOUT, |queries| queries.query(during, &sql)));
        match answer {
            Err(error) if error.class() == Class::Transient => Ok(None),
            answer => Ok(answer?.first().and_then(|row| Some((row.parsed(3)?, log_end(row)?)))),
        }
    }

    /// Asks the server something.
    pub(crate) fn ask(&mut self, during: &'static str, sql: &str) -> Result<Vec<Row>, CaptureError> {
        self.with_queries(|_, queries| queries.query(during, sql))
    }

    /// An error of the server to whoever starts the stream. Since the session looked at it the slot may have been dropped, or the server
    /// have removed log that it needed: what is to be done about that, the next session knows.
    pub(crate) fn judged(&mut self, during: &'static str, error: CaptureError) -> CaptureError {
        let message = match &error {
            CaptureError::Server { message, .. } if error.class() == Class::Definite => message.clone(),
            _ => return error,
        };
        let config = self.session.config;
        match self.with_queries(|_, queries| preflight::load_slot(queries, &config.slot)) {
            Ok(slot) if slot.as_ref().is_none_or(Slot::is_lost) => {
                let reason = format!("the slot {:?} was lost since it was looked at: {message}", config.slot);
                CaptureError::Lost { source_id: config.source.clone(), during, error: io::Error::other(reason) }
            }
            _ => error,
        }
    }

    fn unfit(&self, table: &TableId, reason: &str) -> CaptureError {
        CaptureError::Unfit {
            source_id: self.session.config.source.clone(),
            object: format!("table {table}"),
            reason: reason.to_owned(),
            remedy: WITHOUT_IT.to_owned(),
        }
    }
}

/// Where the server's log ends, behind all that made tables doubted; none where nothing is to be done about any now.
fn doubts_upto(scope: &Scope, requests: &Requests, queries: &mut Connection) -> Result<Option<Lsn>, CaptureError> {
    const DURING: &str = "looking where the log ends";
    if !scope.doubted().any(|table| requests.may_try(table.oid)) {
        return Ok(None);
    }
    let rows = queries.query(DURING, &format!("SELECT {LOG_END}"))?;
    let end = rows.first().and_then(log_end);
    end.map(Some).ok_or_else(|| queries.protocol(DURING, "the server has no position"))
}

/// True where tables came that another session would put into the publication.
fn takes_more(
    scope: &Scope,
    requests: &Requests,
    catalog: &Catalog,
    config: &PostgresConfig,
    queries: &mut Connection,
) -> Result<bool, CaptureError> {
    if scope.unpublished().is_empty() || config.snapshot == SnapshotMode::Never {
        return Ok(false);
    }
    let publication = Publication::load(queries, config, catalog.server_version())?;
    let tried = scope.unpublished().iter().filter(|table| requests.may_try(**table));
    let mut came = tried.filter_map(|oid| catalog.table(*oid));
    Ok(publication.is_some_and(|publication| came.any(|table| publication.takes(table))))
}
