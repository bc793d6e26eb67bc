//! What statements do to the tables that are read: followed where the log says enough, refused where it does not.

use syncline_schemas::frame::Op;
use syncline_schemas::ident::TableId;

use super::{Decoder, Replaced, Step, Stop};
use crate::CaptureError;
use crate::mysql::event::query::query;
use crate::mysql::event::statement::{self, Name, Statement};
use crate::mysql::row::Stamp;
use crate::policy::Truncates;

const ROLLED_BACK: &str = "changes are rolled back that stand in the log before it, as happens where tables without \
     transactions take part; have `syncline replay --reread` copy the tables again";
const AS_STATEMENT: &str = "a change is logged as a statement, of which the rows are not known; \
     SET GLOBAL binlog_format = 'ROW', and have `syncline replay --reread` copy the tables again";
const UNKNOWN_STATEMENT: &str = "a statement begins in a way that is not known, so it may change rows";

impl Decoder {
    /// Follows a statement, which may be the end of its transaction.
    pub(super) fn statement(&mut self, body: &[u8], is_compressed: bool) -> Result<Step<'static>, Stop> {
        let mut room = std::mem::take(&mut self.room);
        let read = query(body, is_compressed, &mut room).map(|query| {
            let database = String::from_utf8_lossy(query.database).into_owned();
            (database, statement::read(query.text))
        });
        self.room = room;
        let (database, statement) = read?;
        let open = self.transaction.as_mut().ok_or("a statement without a transaction")?;
        match statement {
            Statement::Begin => {
                open.is_open = true;
                Ok(Step::Continue)
            }
            Statement::Commit => self.commit(),
            Statement::Rollback if open.changes == 0 => self.commit(),
            Statement::RollbackTo if open.changes == 0 => Ok(Step::Continue),
            Statement::Rollback | Statement::RollbackTo => Err(ROLLED_BACK.into()),
            Statement::Savepoint => Ok(Step::Continue),
            // Rows of tables that are read are refused where they come.
            Statement::XaBegin => {
                (open.is_open, open.is_xa) = (true, true);
                Ok(Step::Continue)
            }
            Statement::XaEnd => self.commit(),
            Statement::Rows => Err(AS_STATEMENT.into()),
            Statement::Unknown => Err(UNKNOWN_STATEMENT.into()),
            Statement::Harmless => self.end_statement(),
            Statement::Truncate(name) => self.truncate(&name, &database),
            Statement::Drop(names) => {
                let dropped = names.iter().filter_map(|name| self.scope.named(name, &database)).collect();
                self.end_unless(dropped, "is dropped or replaced")
            }
            Statement::DropDatabase(name) => {
                let has_tables = self.scope.reads_some_of(&name);
                let whole = has_tables.then(|| TableId::new(&name, "*")).into_iter().collect();
                // Which tables it had nobody says.
                Ok(match self.end_unless(whole, "is dropped with its database")? {
                    Step::Replaced(Replaced { error, .. }) => Step::Refused(error),
                    step => step,
                })
            }
            Statement::Rename(names) => {
                let names = names.iter().flat_map(|(from, to)| [from, to]);
                let renamed = names.filter_map(|name| self.scope.named(name, &database)).collect();
                self.end_unless(renamed, "is renamed, or another one is given its name")
            }
            Statement::Alter { table, others, moves_rows } => {
                let table = self.scope.named(&table, &database);
                let others = others.iter().filter_map(|other| self.scope.named(other, &database));
                let moved = table.clone().filter(|_| moves_rows).into_iter().chain(others).collect();
                if let Some(table) = table {
                    self.besides.remove(&table);
                    self.numbered.clear();
                    self.altered.push(table);
                }
                self.end_unless(moved, "has rows brought in or taken out with a partition or a file")
            }
        }
    }

    /// A statement that nothing frames is a transaction.
    pub(super) fn end_statement(&mut self) -> Result<Step<'static>, Stop> {
        let is_open = self.transaction.as_ref().is_some_and(|open| open.is_open);
        if is_open { Ok(Step::Continue) } else { self.commit() }
    }

    /// The end of a statement that makes none of the tables that are read another one.
    fn end_unless(&mut self, tables: Vec<TableId>, what: &str) -> Result<Step<'static>, Stop> {
        let Some(first) = tables.first() else { return self.end_statement() };
        let gtid = self.transaction.as_ref().map(|open| open.gtid.to_string()).unwrap_or_default();
        let error = Box::new(CaptureError::Unfit {
            source_id: self.source.clone(),
            object: format!("table {first}"),
            reason: format!("{what} by {gtid}, which is not followed"),
            remedy: "exclude the table, or have `syncline replay --reread` copy the tables again".to_owned(),
        });
        Ok(Step::Replaced(Replaced { tables, error }))
    }

    fn truncate(&mut self, name: &Name, database: &str) -> Result<Step<'static>, Stop> {
        let Some(table) = self.scope.named(name, database) else { return self.end_statement() };
        let Some(open) = &mut self.transaction else { return Err("a statement without a transaction".into()) };
        open.changes += 1;
        if self.policies.truncates == Truncates::Stop {
            let gtid = open.gtid.to_string();
            return Ok(Step::Refused(Box::new(CaptureError::Unfit {
                source_id: self.source.clone(),
                object: format!("table {table}"),
                reason: format!("was truncated by {gtid}, and truncate is \"stop\""),
                remedy: "set truncate = \"apply\" and restart to have its rows taken back".to_owned(),
            })));
        }
        if open.changes <= open.skip {
            return self.end_statement();
        }
        let Some(place) = self.place_of(&table) else {
            return self.end_unless(vec![table], "is emptied before anything says what its columns are");
        };
        if let Some(open) = &self.transaction {
            let stamp = Stamp { ord: self.rows, commit_us: open.commit_us, at: &open.gtid };
            self.tables[place].append_whole(Op::Truncate, stamp);
            self.counts.add(Op::Truncate);
            self.rows += 1;
        }
        self.end_statement()
    }
}
