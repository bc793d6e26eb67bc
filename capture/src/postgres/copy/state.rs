//! What the stream and the workers of a copy share: the ledger, and what is known beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tracing::warn;

use super::gate::Snapshot;
use super::ledger::{Ledger, Piece};
use super::{Copied, Session};
use crate::CaptureError;
use crate::postgres::lsn::Lsn;

/// When a table that somebody has locked is tried again. Each try holds the stream, and so whoever waits for a round to end, for as
/// long as a read waits for the lock.
const LOCKED_AGAIN: Duration = Duration::from_secs(10);

/// What a worker has to tell; in this order per worker.
pub(super) enum Message {
    /// Rows that were read; with the number of a table without a key, of which they are the first.
    Rows { copied: Copied, pours: Option<u32> },
    /// What is read of a table without a key sees these transactions.
    Seen { table: u32, snapshot: Snapshot },
    /// A piece was read whole, but for what is left of it; all that it saw was committed before a position.
    Read { table: u32, piece: Piece, rest: Option<Piece>, reached: Lsn },
    /// A table's rows lie elsewhere now: it is read from the beginning.
    Moved { table: u32, pieces: Vec<Piece>, reached: Lsn },
    /// A table cannot be read, which is no reason to stop the source: it was only to be read anew.
    GivenUp { table: u32, error: CaptureError },
}

pub(super) struct State {
    pub(super) ledger: Ledger,
    /// Pieces in the hands of workers.
    pub(super) busy: Vec<(u32, Piece)>,
    /// Something was read in this round, whole or in part.
    pub(super) has_read: bool,
    pub(super) has_rows: bool,
    /// Tables that are read anew once more, from the beginning, as soon as nobody reads them.
    pub(super) again: BTreeSet<u32>,
    /// Tables that are not read anew after all, of which nobody was told.
    pub(super) given_up: Vec<u32>,
    /// Which transactions the reads of tables without a key have seen.
    pub(super) seen: Vec<(u32, Snapshot)>,
    /// Tables that somebody has locked: not tried before.
    put_off: BTreeMap<u32, Instant>,
}

impl State {
    pub(super) const fn new(ledger: Ledger) -> Self {
        Self {
            ledger,
            busy: Vec::new(),
            has_read: false,
            has_rows: false,
            again: BTreeSet::new(),
            given_up: Vec::new(),
            seen: Vec::new(),
            put_off: BTreeMap::new(),
        }
    }

    /// True where a table is left alone for a while.
    pub(super) fn is_put_off(&self, table: u32) -> bool {
        self.put_off.get(&table).is_some_and(|until| Instant::now() < *until)
    }

    /// Leaves a table alone for a while; what was being read of it is left to read.
    pub(super) fn put_off(&mut self, table: u32, piece: Option<Piece>) {
        if let Some(piece) = piece {
            self.busy.retain(|taken| *taken != (table, piece.clone()));
        }
        self.put_off.insert(table, Instant::now() + LOCKED_AGAIN);
    }

    /// True where nobody has begun with a table, and somebody may.
    pub(super) fn is_free(&self, table: u32) -> bool {
        self.ledger.is_wanted(table) && !self.again.contains(&table) && !self.is_put_off(table)
    }

    /// Takes a message into the ledger: after the rows before it.
    pub(super) fn note(&mut self, session: &Session<'_>, message: Message) -> Option<Copied> {
        match message {
            Message::Rows { copied, pours } => {
                self.has_rows = true;
                if let Some(table) = pours {
                    self.ledger.pour(table);
                }
                return Some(copied);
            }
            Message::Seen { table, snapshot } => self.seen.push((table, snapshot)),
            Message::Read { table, piece, rest, reached } => {
                self.busy.retain(|taken| *taken != (table, piece.clone()));
                // Whoever read the piece goes on with the rest.
                self.busy.extend(rest.clone().map(|rest| (table, rest)));
                self.ledger.finish(table, &piece, rest);
                self.has_read = true;
                self.ledger.target = self.ledger.target.max(reached);
            }
            Message::Moved { table, pieces, reached } => {
                // Another worker may have given it up.
                if !self.ledger.is_left(table) {
                    return None;
                }
                self.ledger.target = self.ledger.target.max(reached);
                if self.ledger.sweeps.contains(&table) {
                    // What was read of it may have gone with its old place, and would pass for compared.
                    self.ledger.begin(table, Vec::new());
                    self.ledger.want([table]);
                    self.again.insert(table);
                } else {
                    self.ledger.begin(table, pieces);
                }
            }
            Message::GivenUp { table, error } => {
                self.ledger.give_up(table);
                self.again.remove(&table);
                self.given_up.push(table);
                let source = &session.config.source;
                warn!(%source, %error, "a table is not read anew after all; what was delivered of it stays as it is");
            }
        }
        None
    }
}
