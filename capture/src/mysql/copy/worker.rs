//! One connection that reads pieces, each as of one moment of which it is known what it sees.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use syncline_schemas::frame::Op;
use syncline_schemas::ident::TableId;

use super::ledger::{Key, Piece};
use super::plan::{ROWS, Table};
use super::view::View;
use super::{Copied, Copying, DURING, Message, Reading, take};
use crate::CaptureError;
use crate::limits::{FRAME_BYTES_MAX, FRAME_ROWS_MAX};
use crate::mysql::catalog::signature_of;
use crate::mysql::row::{RowView, Stamp, TableBuilder};
use crate::mysql::wire::Connection;
use crate::policy::SpecialValues;
use crate::progress::now_us;
use crate::round::Round;

/// Text as its column has it; one moment per transaction; and no queue behind a table that somebody wants to change.
const SESSION: [&str; 2] = [
    "SET character_set_results = NULL, lock_wait_timeout = 5",
    "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
];
/// How long a read waits for what the stream has told of to be seen.
const UNSEEN_MAX: Duration = Duration::from_secs(60);

pub(super) struct Worker<'a> {
    copying: &'a Copying,
    reading: &'a Reading<'a>,
    sender: &'a Sender<Message>,
    connection: Connection,
}

impl<'a> Worker<'a> {
    /// Reads pieces until there is none left or the round is over.
    pub(super) fn run(
        copying: &'a Copying,
        reading: &'a Reading<'a>,
        sender: &'a Sender<Message>,
    ) -> Result<(), CaptureError> {
        let mut connection = copying.site.open(&copying.config, reading.round.stop())?;
        for statement in SESSION {
            connection.query(DURING, statement)?;
        }
        let mut worker = Self { copying, reading, sender, connection };
        let round = &reading.round;
        // None comes back from a round without a piece, however long the connection took.
        let mut is_first = true;
        while (is_first || !round.is_over()) && !round.is_given_up() {
            let Some((table, piece)) = copying.next() else { return Ok(()) };
            let mut next = Some(piece);
            while let Some(piece) = next.take() {
                let rest = worker.read(table, piece)?;
                if round.is_over() {
                    break;
                }
                next = rest;
            }
            is_first = false;
        }
        Ok(())
    }

    /// Reads a piece; gives what is left of it.
    fn read(&mut self, table: &Table, piece: Piece) -> Result<Option<Piece>, CaptureError> {
        let view = self.open()?;
        // Nobody changes the table from here on to the end of the transaction.
        let lock = format!("SELECT 1 FROM {} LIMIT 0", table.quoted());
        self.connection.query(DURING, &lock).map_err(|error| self.judged(table, error))?;
        if signature_of(&mut self.connection, &table.id)? != table.signature {
            return Err(self.changed(&table.id));
        }
        let last = self.copy(table, &piece)?;
        self.connection.query(DURING, "COMMIT")?;
        let rest = last.map(|last| Piece { after: Some(last), upto: piece.upto.clone() });
        let message = Message::Read { table: table.id.clone(), piece, rest: rest.clone(), reached: view.reached };
        self.send(message)?;
        Ok(rest)
    }

    /// Begins a transaction that sees all that the stream has told of.
    fn open(&mut self) -> Result<View, CaptureError> {
        let began = Instant::now();
        let Reading { at, is_mariadb, ref round } = *self.reading;
        let gives_up = || round.is_given_up() || began.elapsed() > UNSEEN_MAX;
        loop {
            if let Some(view) = View::open(&mut self.connection, at, is_mariadb, &gives_up)? {
                return Ok(view);
            }
            if round.is_given_up() {
                return Err(self.lost(io::ErrorKind::Interrupted, "stopped".to_owned()));
            }
            if began.elapsed() > UNSEEN_MAX {
                let seconds = UNSEEN_MAX.as_secs();
                let reason =
                    format!("after {seconds} s a transaction is still under way that a read at {at} may have seen");
                return Err(self.lost(io::ErrorKind::TimedOut, reason));
            }
        }
    }

    /// Copies a piece out; gives the key of the last row where there may be more behind it.
    fn copy(&mut self, table: &Table, piece: &Piece) -> Result<Option<Key>, CaptureError> {
        let Reading { at, ref round, .. } = *self.reading;
        let sender = self.sender;
        let at = Arc::<str>::from(at.to_string());
        let place = || format!("the copy at {at}");
        let nulls = self.copying.config.special_values == SpecialValues::Null;
        let mut builder = TableBuilder::new(Arc::clone(&table.shape), nulls);
        let copied_at = now_us();
        let (mut ord, mut bytes, mut total, mut last) = (0_u32, 0, 0, None);
        let columns = table.shape.kinds.len();
        self.connection.each_row(DURING, &table.sql(piece), columns, |row: RowView<'_>| {
            let stamp = Stamp { ord, commit_us: copied_at, at: &at };
            builder.append_written(Op::Read, stamp, row).map_err(|fault| table.shape.error(&place(), fault))?;
            bytes += row.bytes.len();
            (ord, total) = (ord + 1, total + 1);
            if total == ROWS && table.has_order() {
                last = table.key_of(row);
            }
            if ord >= FRAME_ROWS_MAX || bytes >= FRAME_BYTES_MAX {
                send(round, sender, Message::Rows(Copied { batch: take(&mut builder)?, rows: ord }))?;
                (ord, bytes) = (0, 0);
            }
            Ok(())
        })?;
        if ord > 0 {
            self.send(Message::Rows(Copied { batch: take(&mut builder)?, rows: ord }))?;
        }
        Ok(last)
    }

    /// An error of a table that is gone or has another shape than it had a moment ago is none of the source.
    fn judged(&self, table: &Table, error: CaptureError) -> CaptureError {
        /// SQLSTATEs: no such table, no such column, no such database.
        const CHANGED: [&str; 3] = ["42S02", "42S22", "42000"];
        match error {
            CaptureError::Server { sqlstate, remedy: None, .. } if CHANGED.contains(&sqlstate.as_str()) => {
                self.changed(&table.id)
            }
            error => error,
        }
    }

    /// The session begins again with the table as it is now.
    fn changed(&self, table: &TableId) -> CaptureError {
        self.lost(io::ErrorKind::Other, format!("table {table} was changed; looking at it again"))
    }

    fn lost(&self, kind: io::ErrorKind, reason: String) -> CaptureError {
        let source_id = self.copying.config.source.clone();
        CaptureError::Lost { source_id, during: DURING, error: io::Error::new(kind, reason) }
    }

    fn send(&self, message: Message) -> Result<(), CaptureError> {
        send(&self.reading.round, self.sender, message)
    }
}

/// Tells what was read; an error where the copy is given up.
fn send(round: &Round<'_>, sender: &Sender<Message>, message: Message) -> Result<(), CaptureError> {
    if round.is_given_up() || sender.send(message).is_err() {
        return Err(round.given_up(DURING));
    }
    Ok(())
}
