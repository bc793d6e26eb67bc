//! The copy of tables beside the log: it goes on where the stream stands between two transactions.

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use syncline_schemas::frame::Op;
use syncline_schemas::ident::TableId;
use tracing::info;

use super::Stream;
use crate::mysql::catalog::{self, CatalogTable};
use crate::mysql::config::{MySqlConfig, SnapshotMode};
use crate::mysql::copy::{Copied, Copying, Ledger};
use crate::mysql::decoder::Replaced;
use crate::mysql::position::MyPosition;
use crate::mysql::scope::Scope;
use crate::mysql::site::Site;
use crate::mysql::wire::Connection;
use crate::progress::OpCounts;
use crate::requests::Request;
use crate::{CaptureError, Requests, State};

const DURING: &str = "copying the tables";
/// How long after a table was dropped it may take until it is made again.
const MADE_AGAIN: Duration = Duration::from_secs(3);

impl Stream<'_> {
    /// Of a table that was not there when the session began, or that nobody could see, rows may be missing: the next session
    /// copies it.
    pub(super) fn ensure_known(&self, table: &TableId) -> Result<(), CaptureError> {
        if self.config.snapshot == SnapshotMode::Never || self.known.contains(table) {
            return Ok(());
        }
        if !self.comes(table)? {
            return Err(CaptureError::Unfit {
                source_id: self.config.source.clone(),
                object: format!("table {table}"),
                reason: "has rows in the log, and is gone by now or is not shown to the user".to_owned(),
                remedy: format!("GRANT SELECT ON it to the user, or exclude it with \"!{table}\" in tables"),
            });
        }
        Err(self.begins_again(format!("table {table} is new, and is copied first")))
    }

    /// Tables that are others now are copied anew, where they are there, as after an online change of their columns: a copy was
    /// filled beside the old one and given its name.
    pub(super) fn replaced(&mut self, Replaced { tables, error }: Replaced) -> Result<(), CaptureError> {
        if self.config.snapshot == SnapshotMode::Never {
            return self.refuse(*error);
        }
        // Names that a tool gives its own tables for a while are none of those that are held.
        let held: Vec<&TableId> = tables.iter().filter(|table| self.known.contains(*table)).collect();
        let mut are_there = true;
        for table in &held {
            are_there &= self.comes(table)?;
        }
        if !are_there {
            return self.refuse(*error);
        }
        let mut connection = self.site.open(self.config, self.stop)?;
        let mut are_new = false;
        for table in tables.iter().filter(|table| !self.known.contains(*table)) {
            are_new |= catalog::is_there(&mut connection, table)?;
        }
        self.decoder.pass()?;
        if held.is_empty() && !are_new {
            return Ok(());
        }
        // Rows that follow in the same transaction (CREATE OR REPLACE ... SELECT) leave no place to go on from.
        if self.decoder.is_in_transaction() {
            return self.refuse(*error);
        }
        for table in &held {
            self.known.remove(*table);
        }
        self.hand_over()?;
        let names: Vec<String> = tables.iter().map(ToString::to_string).collect();
        Err(self.begins_again(format!("{} was replaced, and is copied anew", names.join(", "))))
    }

    /// Whether the server has a table now, and shows it; or soon, where one is dropped to be made again.
    fn comes(&self, table: &TableId) -> Result<bool, CaptureError> {
        let mut connection = self.site.open(self.config, self.stop)?;
        let began = Instant::now();
        loop {
            if catalog::is_there(&mut connection, table)? {
                return Ok(true);
            }
            if began.elapsed() > MADE_AGAIN || self.stop.is_stopped() {
                return Ok(false);
            }
            connection.pause(DURING)?;
        }
    }

    /// Has another session look at the tables.
    fn begins_again(&self, reason: String) -> CaptureError {
        let error = io::Error::other(reason);
        CaptureError::Lost { source_id: self.config.source.clone(), during: DURING, error }
    }

    /// Whether somebody waits for a table to be read anew that can be, and nothing breaks off that would have to be gone through again.
    pub(super) fn is_asked(&self) -> bool {
        if self.decoder.is_in_transaction() || self.decoder.is_resuming() || !self.requests.is_waiting() {
            return false;
        }
        if let Some(copying) = &self.copying {
            // Another session would say the same.
            let ledger = copying.ledger();
            let known = |table: &TableId| self.known.contains(table);
            self.requests.refuse(|table| ledger.under_way(table).filter(|_| known(table)));
        }
        self.requests.is_waiting()
    }

    /// Tells those who wait that reading has begun: once it would go on after a crash.
    pub(super) fn answer(&self, taken: Vec<Request>) -> Result<(), CaptureError> {
        if taken.is_empty() || !self.settle()? {
            return Ok(());
        }
        for request in taken {
            info!(source = %self.config.source, table = %request.table, "reading a table anew");
            request.answer(Ok(()));
        }
        Ok(())
    }

    /// Says what the tables look like that are copied, and that what the log holds of them is void where they are copied anew.
    pub(super) fn begin_copy(&mut self) -> Result<(), CaptureError> {
        let Some(copying) = &self.copying else { return Ok(()) };
        let shapes: Vec<_> = copying.shapes().cloned().collect();
        let beginning = copying.beginning(self.decoder.end())?;
        self.known.extend(shapes.iter().map(|shape| shape.schema.table.clone()));
        shapes.into_iter().try_for_each(|shape| self.define(shape))?;
        if beginning.is_empty() { Ok(()) } else { self.hand_over_with(beginning) }
    }

    /// Goes on with the copy where the stream has come as far as what was read may have seen, or ends it.
    pub(super) fn copy(&mut self) -> Result<(), CaptureError> {
        if self.copying.is_none() || self.decoder.is_in_transaction() || self.decoder.is_resuming() {
            return Ok(());
        }
        self.begin_altered_again()?;
        let Some(copying) = self.copying.take_if(|copying| copying.is_reached(self.decoder.end())) else {
            return Ok(());
        };
        if copying.is_read() {
            self.hand_over()?;
            // Whoever sees that it streams finds in the log what was copied.
            self.log.settle()?;
            info!(source = %self.config.source, at = %self.decoder.end(), "copied the tables");
            self.progress.enter(State::Streaming);
            return Ok(());
        }
        let waiting = self.decoder.has_rows();
        self.copying = Some(copying);
        if waiting {
            self.hand_over()?;
        }
        self.round()
    }

    fn round(&mut self) -> Result<(), CaptureError> {
        let Some(copying) = self.copying.take() else { return Ok(()) };
        let (at, stop) = (self.decoder.end().clone(), self.stop.clone());
        let read = copying.round(&at, &stop, &mut |Copied { batch, rows }| {
            let known = self.known.clone();
            let position = MyPosition { end: at.clone(), cut: None, known, server: None, copy: Some(copying.ledger()) };
            self.append_frame(position, false, vec![batch])?;
            let mut counts = OpCounts::default();
            (0..rows).for_each(|_| counts.add(Op::Read));
            self.progress.observe_frame(&counts);
            Ok(())
        });
        self.copying = Some(copying);
        // The server may have waited for us to read.
        self.heard_at = Instant::now();
        read?;
        self.hand_over()
    }

    /// What a statement made of rows that were read before is not in the log: they are read again, with the table as it is now.
    fn begin_altered_again(&mut self) -> Result<(), CaptureError> {
        let altered = self.decoder.take_altered();
        let (Some(copying), Some(table)) = (&self.copying, altered.first()) else { return Ok(()) };
        let error = self.begins_again(format!("table {table} was changed while it was copied; looking at it again"));
        altered.iter().for_each(|table| copying.begin_again(table));
        self.hand_over()?;
        Err(error)
    }
}

/// What a session begins with.
#[derive(Default)]
pub(super) struct Standing {
    /// Of these tables all rows are in the log.
    pub(super) known: BTreeSet<TableId>,
    pub(super) copying: Option<Copying>,
    /// Tables that somebody wants read anew, and that are.
    pub(super) taken: Vec<Request>,
}

/// What is known of the tables, and what of them is to be copied: those that a copy has left, those that came into the configuration,
/// or into being, since the position was reached, and those that somebody wants read anew.
pub(super) fn standing(
    connection: &mut Connection,
    config: &MySqlConfig,
    site: &Site,
    scope: &Scope,
    held: MyPosition,
    requests: &Requests,
) -> Result<Standing, CaptureError> {
    let begins = held.begins_again();
    // Whoever asks while all tables are copied is told so by the stream.
    let asked = if begins { Vec::new() } else { requests.take() };
    let is_never = config.snapshot == SnapshotMode::Never && !begins;
    if is_never && held.copy.is_none() && asked.is_empty() {
        // Whatever is missing is copied if that is ever wanted.
        return Ok(Standing::default());
    }
    // One that is not read now has to be copied if it ever is again. One that is gone stays known until the log says so.
    let mut known: BTreeSet<_> = held.known.into_iter().filter(|table| scope.reads(table)).collect();
    if is_never && held.copy.is_none() {
        known.clear();
    }
    let mut tables = catalog::look_up(connection, config, scope, is_never.then_some(&known))?;
    if begins {
        ensure_there(config, &known, &tables)?;
    }
    let mut taken: Vec<Request> = Vec::new();
    for request in asked {
        let is_twice = taken.iter().any(|other| other.table == request.table);
        let is_under_way = held.copy.as_ref().and_then(|ledger| ledger.under_way(&request.table));
        let table = &request.table;
        let reason = is_under_way.or_else(|| is_twice.then(|| format!("{table} is being read already")));
        match reason.map_or_else(|| admit(connection, config, scope, table, &mut tables), |reason| Ok(Some(reason)))? {
            Some(reason) => request.answer(Err(reason)),
            None => {
                known.remove(table);
                taken.push(request);
            }
        }
    }
    let ids = tables.iter().map(|table| &table.shape.schema.table);
    let newcomers: Vec<_> = ids.filter(|table| !known.contains(*table)).cloned().collect();
    let ledger = match held.copy {
        Some(ledger) => ledger,
        None if newcomers.is_empty() => return Ok(Standing { known, copying: None, taken }),
        None => Ledger::of_newcomers(held.end),
    };
    let copying = Copying::new(connection, config, site, tables, ledger, newcomers)?;
    Ok(Standing { known, copying: Some(copying), taken })
}

/// Why a table is not to be read anew, if there is a reason. One that is not among the tables, as they are not copied, is put there.
fn admit(
    connection: &mut Connection,
    config: &MySqlConfig,
    scope: &Scope,
    table: &TableId,
    tables: &mut Vec<CatalogTable>,
) -> Result<Option<String>, CaptureError> {
    let mut found = Vec::new();
    if !tables.iter().any(|known| known.shape.schema.table == *table) {
        found = match catalog::look_up(connection, config, scope, Some(&BTreeSet::from([table.clone()]))) {
            Err(CaptureError::Unfit { object, reason, remedy, .. }) => {
                return Ok(Some(format!("{object} {reason}; {remedy}")));
            }
            found => found?,
        };
        if found.is_empty() {
            return Ok(Some(format!("{table} is not read: tables are named with their schema, as in shop.orders")));
        }
    }
    if !catalog::may_read(connection, table)? {
        return Ok(Some(format!("the user may not read all of {table}: GRANT SELECT ON it")));
    }
    if !catalog::may_copy(connection)? {
        return Ok(Some("the user is not told where the log ends: GRANT BINLOG MONITOR ON *.*".to_owned()));
    }
    tables.extend(found);
    Ok(None)
}

/// Where all is copied anew nobody says any more that a table is gone, and its rows would stay.
fn ensure_there(config: &MySqlConfig, known: &BTreeSet<TableId>, tables: &[CatalogTable]) -> Result<(), CaptureError> {
    let is_there = |known: &&TableId| tables.iter().any(|table| table.shape.schema.table == **known);
    let Some(gone) = known.iter().find(|table| !is_there(table)) else { return Ok(()) };
    Err(CaptureError::Unfit {
        source_id: config.source.clone(),
        object: format!("table {gone}"),
        reason: "was read before all was to be copied anew, and is not there or is not shown to the user".to_owned(),
        remedy: format!("GRANT SELECT ON it to the user, or exclude it with \"!{gone}\" in tables"),
    })
}
