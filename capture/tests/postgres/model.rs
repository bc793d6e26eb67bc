//! Anything that a database can do to a table, in any order, while tables are copied and read anew, the reader is killed and the
//! server restarts: what the log says in the end is what the source has, and every whole frame is a state that it had.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use syncline_schemas::frame::Op;
use syncline_schemas::ident::TableId;

use crate::log::{MemoryLog, Reader};
use crate::server::{Database, PATIENCE, Server, eventually};

const TABLES: &str = "
    CREATE TABLE t (id int PRIMARY KEY, code text, fill text, n numeric(12,2));
    ALTER TABLE t ALTER COLUMN fill SET STORAGE EXTERNAL;
    CREATE TABLE account (id int PRIMARY KEY, amount int NOT NULL);
    CREATE TABLE lot (place int, amount int, fill text);
    ALTER TABLE lot REPLICA IDENTITY FULL, ALTER COLUMN fill SET STORAGE EXTERNAL;
    INSERT INTO lot SELECT i % 4, s * (i % 5), repeat('x', i % 3 * 3000) FROM generate_series(1, 300) i, (VALUES (1), (-1)) AS v(s);
    INSERT INTO account SELECT i, 1000 FROM generate_series(1, 10) i;
    INSERT INTO t SELECT i, 'c' || i, repeat(md5(i::text), i % 200), i FROM generate_series(1, 3000) i";
const TOTAL: i64 = 10_000;
const TRANSACTIONS: usize = 120;

/// A small generator, so that a seed says everything.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn statement(&mut self) -> String {
        let (id, modulus) = (self.roll(4000), self.roll(40) + 20);
        let rest = self.roll(modulus);
        match self.roll(18) {
            14..=17 => self.lot(),
            0..=2 => format!(
                "INSERT INTO t SELECT i, 'c' || i, repeat(md5(i::text), {}), {id} FROM generate_series({id}, {}) i \
                 ON CONFLICT DO NOTHING;",
                self.roll(150),
                id + self.roll(60)
            ),
            3..=4 => format!("UPDATE t SET n = n + 1 WHERE id % {modulus} = {rest};"),
            5 => format!("UPDATE t SET fill = repeat(md5('{id}'), {}) WHERE id % {modulus} = {rest};", self.roll(300)),
            6 => format!("DELETE FROM t WHERE id % {} = {rest};", modulus * 7),
            7 => format!(
                "UPDATE t SET id = id + 100000 WHERE id = {id} AND NOT EXISTS (SELECT FROM t WHERE id = {id} + 100000);"
            ),
            8 => format!(
                "UPDATE t SET id = -1 WHERE id = {id}; UPDATE t SET id = {id} WHERE id = {} AND NOT EXISTS (SELECT FROM t WHERE id = {id}); \
                 DELETE FROM t WHERE id = -1;",
                id + 1
            ),
            9 => format!("ALTER TABLE t ADD COLUMN IF NOT EXISTS more_{} int;", rest % 3),
            10 => format!("ALTER TABLE t DROP COLUMN IF EXISTS more_{};", rest % 3),
            11 if rest == 0 => "TRUNCATE t;".to_owned(),
            _ => {
                let (from, to, amount) = (self.roll(10) + 1, self.roll(10) + 1, self.roll(90));
                format!(
                    "UPDATE account SET amount = amount - {amount} WHERE id = {from}; \
                     UPDATE account SET amount = amount + {amount} WHERE id = {to};"
                )
            }
        }
    }

    /// A change of a table without a key, in which all amounts together are nothing.
    fn lot(&mut self) -> String {
        let (amount, place, more) = (self.roll(5), self.roll(4), self.roll(3));
        match self.roll(14) {
            0..=3 => format!(
                "INSERT INTO lot SELECT {place}, s * {amount}, repeat('x', {more} * 3000) FROM generate_series(1, {}), (VALUES (1), (-1)) AS v(s);",
                self.roll(9) + 1
            ),
            4..=5 => format!("UPDATE lot SET place = (place + 1) % 4 WHERE abs(amount) = {amount};"),
            6..=7 => format!("UPDATE lot SET fill = repeat('x', {more} * 3000) WHERE place = {place};"),
            8..=9 => format!(
                "DELETE FROM lot WHERE ctid IN (SELECT max(ctid) FROM lot WHERE abs(amount) = {} GROUP BY amount);",
                amount + 1
            ),
            10 => format!("DELETE FROM lot WHERE abs(amount) = {amount};"),
            11 => format!("ALTER TABLE lot ADD COLUMN IF NOT EXISTS more_{more} text DEFAULT 'm';"),
            12 => format!("ALTER TABLE lot DROP COLUMN IF EXISTS more_{more};"),
            _ if place + more == 0 => "TRUNCATE lot;".to_owned(),
            _ => "UPDATE lot SET amount = amount WHERE place = 1;".to_owned(),
        }
    }

    /// Statements, some of them taken back.
    fn statements(&mut self) -> String {
        let mut sql = String::new();
        for i in 0..=self.roll(5) {
            match self.roll(4) {
                0 => {
                    let end = if self.roll(2) == 0 { "ROLLBACK TO" } else { "RELEASE" };
                    let _ = write!(sql, "SAVEPOINT s{i}; {} {end} s{i}; ", self.statement());
                }
                _ => sql += &self.statement(),
            }
        }
        sql
    }

    /// A transaction in one or two calls: its locks would make whatever comes between wait.
    fn transaction(&mut self, number: usize) -> Vec<String> {
        let statements = self.statements();
        let prepared = format!("BEGIN; {statements} PREPARE TRANSACTION 'p{number}'");
        match self.roll(10) {
            0 => vec![format!("BEGIN; {statements} ROLLBACK")],
            1..=2 => vec![prepared, format!("COMMIT PREPARED 'p{number}'")],
            3 => vec![prepared, format!("ROLLBACK PREPARED 'p{number}'")],
            _ => vec![format!("BEGIN; {statements} COMMIT")],
        }
    }
}

/// Every whole frame has all the money.
fn assert_cuts_existed(log: &MemoryLog) {
    let mut amounts: BTreeMap<String, i64> = BTreeMap::new();
    for (whole, rows) in log.rows_by_frame() {
        for row in rows.into_iter().filter(|row| row.table == "public.account") {
            let id = row.key[0].clone().unwrap_or_default();
            match row.op {
                Op::Delete | Op::MoveOut => drop(amounts.remove(&id)),
                Op::Truncate => amounts.clear(),
                Op::SweepBegin | Op::SweepEnd => {}
                Op::Read | Op::Insert | Op::Update | Op::MoveIn => {
                    amounts.insert(id, row.value("amount").unwrap().parse().unwrap());
                }
            }
        }
        assert!(!whole || amounts.values().sum::<i64>() == TOTAL, "{amounts:?}");
    }
}

#[test]
fn whatever_happens_to_the_tables_the_log_ends_as_they_do() {
    let seed = std::env::var("SYNCLINE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("SYNCLINE_SEED={seed}");
    let mut dice = Dice(seed);
    let settings = [("wal_level", "logical"), ("max_prepared_transactions", "10")];
    let server = Arc::new(Server::start(&settings, |_| {}));
    let mut database = server.database(TABLES);
    if dice.roll(4) == 0 {
        // Transactions come when they are committed.
        database.config.spool = None;
    }
    let log = Arc::new(MemoryLog::default());
    let mut reader = Reader::start(&database.config, &log);
    for number in 0..TRANSACTIONS {
        let event = dice.roll(30);
        if event <= 1 {
            // Killed at whatever entry comes of what follows.
            log.fail_at(Some(log.len() + usize::try_from(dice.roll(3)).unwrap()));
        }
        dice.transaction(number).iter().for_each(|sql| drop(database.sql(sql)));
        match event {
            0..=1 => {
                log.fail_at(Some(0));
                database.sql("UPDATE account SET amount = amount WHERE id = 1");
                let error = reader.end().unwrap_err().to_string();
                assert!(error.contains("the test ends the log here"), "{error}");
                log.fail_at(None);
                reader = Reader::start(&database.config, &log);
            }
            2 => server.restart(|_| {}),
            3..=4 => {
                let table = ["t", "account", "lot"][usize::try_from(dice.roll(3)).unwrap()];
                // That it is being read already is a fair answer.
                let _ = reader.requests.read_anew(TableId::new("public", table), PATIENCE);
            }
            _ => {}
        }
    }
    // A column that came or went is noticed with the next row.
    database.sql("INSERT INTO lot (place, amount) VALUES (0, 5), (0, -5)");
    database.sql("INSERT INTO t VALUES (-7, 'last', '', 0)");
    eventually("the last row", || log.rows().iter().any(|row| row.value_of("code") == Some("last")));
    eventually("the end of every sweep", || {
        // One may begin again before it ends.
        let mut open = std::collections::BTreeSet::new();
        for row in log.rows() {
            match row.op {
                Op::SweepBegin => drop(open.insert(row.table)),
                Op::SweepEnd => drop(open.remove(&row.table)),
                _ => {}
            }
        }
        open.is_empty() && log.frames().last().is_some_and(|frame| frame.txn_end)
    });
    reader.stop();

    let state = log.state_beside();
    let held = state.iter().filter(|((table, _), _)| table == "public.t");
    let mut held: Vec<String> = held
        .map(|(_, row)| ["id", "code", "fill", "n"].map(|column| row[column].clone().unwrap_or_default()).join("|"))
        .collect();
    held.sort();
    let wanted = database.sql("SELECT id || '|' || code || '|' || fill || '|' || n FROM t");
    let mut wanted: Vec<&str> = wanted.lines().collect();
    wanted.sort_unstable();
    assert_eq!(held.len(), wanted.len());
    for (held, wanted) in held.iter().zip(wanted) {
        assert_eq!(held, wanted);
    }
    assert_cuts_existed(&log);
    assert_equal_rows_count(&log, &database);
}

/// The table without a key is what it is at the source, and at the end of each transaction it was some state of it.
fn assert_equal_rows_count(log: &MemoryLog, database: &Database) {
    let columns = database.sql(
        "SELECT string_agg(format('coalesce(%I::text, ''NULL'')', attname), ' || ''|'' || ' ORDER BY attname COLLATE \"C\") \
         FROM pg_attribute WHERE attrelid = 'lot'::regclass AND attnum > 0 AND NOT attisdropped",
    );
    let there = database.sql(&format!("SELECT count(*) || ' ' || ({columns}) FROM lot GROUP BY ({columns})"));
    let split = |line: &str| line.split_once(' ').map(|(count, row)| (row.to_owned(), count.parse().unwrap()));
    let there: BTreeMap<String, usize> = there.lines().filter_map(split).collect();
    let (counts, sums) = log.counted("public.lot");
    assert!(sums.iter().all(|sum| sum % 2 == 0), "each has its opposite: {sums:?}");
    assert_eq!(counts, there);
}
