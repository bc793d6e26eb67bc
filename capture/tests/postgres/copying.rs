//! A copy under random traffic, broken off again and again: what the log says in the end is what the tables hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use syncline_capture::postgres::DrainTo;
use syncline_capture::{CaptureError, Outcome};

use crate::log::{MemoryLog, Reader};
use crate::server::{Database, Server};

/// Rows of each table at the beginning.
const ROWS: u64 = 20_000;
const TABLES: &str = "
    CREATE TABLE plain (id int PRIMARY KEY, v text, n int NOT NULL);
    CREATE TABLE docs (id int, site text, doc text, n int NOT NULL, PRIMARY KEY (docs_key));
    ALTER TABLE docs ALTER doc SET STORAGE EXTERNAL;
    CREATE TABLE parts (id int PRIMARY KEY, v text, n int NOT NULL) PARTITION BY RANGE (id);
    CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (MINVALUE) TO (9000);
    CREATE TABLE parts_2 (n int NOT NULL, v text, id int NOT NULL PRIMARY KEY);
    ALTER TABLE parts ATTACH PARTITION parts_2 FOR VALUES FROM (9000) TO (MAXVALUE);";

/// A small generator, so that a seed repeats a run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        // Vigna's xorshift64*.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % end
    }

    fn statement(&mut self) -> String {
        let (id, len) = (self.below(ROWS + 2_000), 1 + self.below(40));
        let ids = format!("id BETWEEN {id} AND {}", id + len);
        match self.below(13) {
            0 => format!("UPDATE plain SET n = n + 1 WHERE {ids}"),
            1 => format!("DELETE FROM plain WHERE {ids}"),
            2 => format!("INSERT INTO plain VALUES ({id}, 'new', 1) ON CONFLICT (id) DO UPDATE SET v = plain.v || '!'"),
            3 => format!(
                "UPDATE plain SET id = id + 100000 WHERE {ids} AND NOT EXISTS (SELECT FROM plain p WHERE p.id = plain.id + 100000)"
            ),
            4 | 5 => format!("UPDATE docs SET n = n + 1 WHERE {ids}"),
            6 => format!(
                "UPDATE docs SET site = CASE site WHEN 'a' THEN 'z' ELSE 'a' END WHERE {ids} AND NOT EXISTS (SELECT FROM docs d WHERE d.id = docs.id AND d.site <> docs.site)"
            ),
            7 => format!("INSERT INTO docs VALUES ({id}, 'm', repeat('m', 3000), 1) ON CONFLICT DO NOTHING"),
            8 => format!("DELETE FROM docs WHERE {ids}"),
            9 => format!("UPDATE parts SET n = n + 1 WHERE {ids}"),
            10 => format!(
                "UPDATE docs SET id = id + 40000 WHERE {ids} AND NOT EXISTS (SELECT FROM docs d WHERE d.id = docs.id + 40000)"
            ),
            11 => format!(
                "UPDATE parts SET id = id + 9000 WHERE {ids} AND id < 9000 AND NOT EXISTS (SELECT FROM parts p WHERE p.id = parts.id + 9000)"
            ),
            _ => format!("DELETE FROM parts WHERE {ids}"),
        }
    }

    /// Some statements as one transaction, of which a part or all may be taken back.
    fn transaction(&mut self) -> String {
        let mut sql = "BEGIN; ".to_owned();
        for _ in 0..=self.below(4) {
            sql.push_str(&self.statement());
            sql.push_str("; ");
            if self.below(6) == 0 {
                sql.push_str(&format!("SAVEPOINT s; {}; ROLLBACK TO s; ", self.statement()));
            }
        }
        sql.push_str(if self.below(8) == 0 { "ROLLBACK" } else { "COMMIT" });
        sql
    }
}

/// Every row of the source as table, key, length and begin of its text, and number.
fn source(database: &Database) -> Vec<String> {
    let sql = "SELECT concat_ws('|', t, k, length(v), left(v, 9), n) FROM (
         SELECT 'plain', id::text, v, n FROM plain UNION ALL SELECT 'docs', site || ',' || id, doc, n FROM docs
         UNION ALL SELECT 'parts', id::text, v, n FROM parts) AS rows(t, k, v, n)";
    let mut rows: Vec<String> = database.sql(sql).lines().map(str::to_owned).collect();
    rows.sort();
    rows
}

/// The same of the log.
fn logged(log: &MemoryLog) -> Vec<String> {
    let mut rows = Vec::new();
    for ((table, _), row) in log.state() {
        let value = |column: &str| row.get(column).and_then(Clone::clone).unwrap_or_else(|| "nothing".to_owned());
        let table = table.strip_prefix("public.").expect("a table of the test");
        let text = value(if table == "docs" { "doc" } else { "v" });
        let begin: String = text.chars().take(9).collect();
        let key = if table == "docs" { format!("{},{}", value("site"), value("id")) } else { value("id") };
        rows.push(format!("{table}|{key}|{}|{begin}|{}", text.len(), value("n")));
    }
    rows.sort();
    rows
}

#[test]
fn a_copy_under_traffic_that_breaks_off_again_and_again_ends_with_what_the_tables_hold() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").subsec_nanos();
    let seed = std::env::var("SYNCLINE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(u64::from(now)) | 1;
    println!("SYNCLINE_SEED={seed}");
    let mut random = Random(seed);
    // By the id and with statistics the table is read in ranges.
    let (key, then) =
        [("site, id", ""), ("id, site", "; ANALYZE docs")][usize::try_from(random.below(2)).expect("small")];
    let tables = TABLES.replace("docs_key", key);
    let mut database = Server::shared().database(&format!(
        "{tables} INSERT INTO plain SELECT i, 'v', 0 FROM generate_series(1, {ROWS}) i;
         INSERT INTO docs SELECT i, CASE WHEN i % 2 = 0 THEN 'a' ELSE 'z' END, repeat(i::text || ' ', 500), 0 FROM generate_series(1, {ROWS}) i;
         INSERT INTO parts SELECT i, 'v', 0 FROM generate_series(1, {ROWS}, 3) i{then}"
    ));
    let log = Arc::new(MemoryLog::default());
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let traffic = [random.below(u64::MAX >> 33), random.below(u64::MAX >> 33)].map(|seed| {
            let (database, is_over) = (&database, &is_over);
            let mut random = Random(seed | 1);
            // A deadlock takes one of the two back, as in life.
            move || {
                while !is_over.load(Ordering::Acquire) {
                    let _ = database.try_sql(&random.transaction());
                }
            }
        });
        traffic.into_iter().for_each(|traffic| drop(scope.spawn(traffic)));
        let mut config = database.config.clone();
        config.drain_to = Some(DrainTo::CurrentEnd);
        let mut appends = 4;
        for _ in 0..12 {
            appends += usize::try_from(random.below(9)).expect("small");
            log.fail_at(Some(log.len() + appends));
            match Reader::start(&config, &log).end() {
                Ok(outcome) => assert_eq!(outcome, Outcome::Drained),
                Err(error) => assert!(matches!(error, CaptureError::Log { .. }), "{error}"),
            }
        }
        is_over.store(true, Ordering::Release);
    });
    log.fail_at(None);
    database.config.drain_to = Some(DrainTo::CurrentEnd);
    assert_eq!(Reader::start(&database.config, &log).end().expect("it drains"), Outcome::Drained);
    let (is, wanted) = (logged(&log), source(&database));
    let wrong: Vec<&String> = is.iter().filter(|row| wanted.binary_search(row).is_err()).take(5).collect();
    let missing: Vec<&String> = wanted.iter().filter(|row| is.binary_search(row).is_err()).take(5).collect();
    assert!(
        wrong.is_empty() && missing.is_empty(),
        "seed {seed}: the log says {wrong:.100?}, the tables {missing:.100?}"
    );
}
