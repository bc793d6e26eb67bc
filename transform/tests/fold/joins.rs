//! Random mappings with joins over random histories of two sources, cut into any frames and crashed at any commit: what the
//! fold makes of them is what DataFusion makes of the same SQL over the final tables, and SQLite at every boundary before.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use proptest::prelude::*;
use rusqlite::Connection;
use syncline_schemas::frame::{LogEntry, Op};
use syncline_schemas::ident::{LogOffset, SourceId};
use syncline_schemas::table::TableSchema;
use syncline_transform::state::Space;

use crate::datafusion;
use crate::frames::{Change, Value, frame, table};
use crate::memory::{Crash, Daemon};
use crate::outbox::{Current, Rows};

/// Order lines, orders, articles, and stock units that another source keeps.
const TABLES: usize = 4;
pub(crate) const COLUMNS: [&[(&str, &str)]; TABLES] = [
    &[("id", "bigint"), ("ord", "bigint"), ("art", "text"), ("qty", "bigint"), ("note", "text?")],
    &[("id", "bigint"), ("code", "text"), ("art", "text"), ("qty", "bigint"), ("note", "text?")],
    &[("id", "bigint"), ("code", "text"), ("art", "text"), ("qty", "bigint"), ("note", "text?")],
    &[("id", "bigint"), ("code", "text"), ("art", "text"), ("qty", "bigint"), ("note", "text?")],
];
pub(crate) const NAMES: [&str; TABLES] = ["line", "head", "art", "unit"];
const LONG: &str = "a note long enough to be stored out of line";

fn schemas() -> Vec<TableSchema> {
    let mut schemas: Vec<TableSchema> = NAMES.iter().zip(COLUMNS).map(|(name, columns)| table(name, columns)).collect();
    schemas[3].source = SourceId::new("wms");
    schemas
}

/// One join of a random mapping: what is joined, and on what.
#[derive(Debug, Clone, Copy)]
struct JoinPlan {
    table: usize,
    left: bool,
    on: u8,
}

/// A random mapping of the supported shape.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    joins: Vec<JoinPlan>,
    filter: u8,
    item: u8,
}

pub(crate) fn plans() -> impl Strategy<Value = Plan> {
    let join = (1..TABLES, any::<bool>(), any::<u8>()).prop_map(|(table, left, on)| JoinPlan { table, left, on });
    (prop::collection::vec(join, 1..4), any::<u8>(), any::<u8>()).prop_map(|(joins, filter, item)| Plan {
        joins,
        filter,
        item,
    })
}

impl Plan {
    /// `unit` says how the other source's table is called: SQLite knows no sources.
    pub(crate) fn sql(&self, unit: &str, quantity: &str) -> String {
        let last = self.joins.len();
        let alias = |i: usize| if i == 0 { "l".to_owned() } else { format!("j{i}") };
        let item = match self.item % 4 {
            0 => "coalesce(l.art, '-')".to_owned(),
            1 => format!("coalesce({}.note, '-')", alias(last)),
            2 => format!("coalesce({}.art, l.note, '-')", alias(1)),
            _ => "'A'".to_owned(),
        };
        let place = format!("CASE WHEN {}.id IS NULL THEN 'none' ELSE 'some' END", alias(last));
        let mut sql =
            format!("SELECT 'C1' AS company_id, {item} AS item_id, {place} AS location_id, {quantity} FROM line l");
        for (i, join) in self.joins.iter().enumerate() {
            let (own, before) = (alias(i + 1), alias(if join.on & 1 == 0 { 0 } else { i }));
            let kind = if join.left { "LEFT JOIN" } else { "JOIN" };
            let name = if join.table == 3 { unit } else { NAMES[join.table] };
            let number = if before == "l" { "l.ord".to_owned() } else { format!("{before}.qty") };
            let on = match join.on >> 1 & 3 {
                0 => format!("{own}.id = {number}"),
                1 => format!("{own}.code = {before}.art"),
                2 => format!("{before}.art = {own}.code AND {own}.id = {number}"),
                _ => format!("{own}.id = {number} + 1"),
            };
            let _ = write!(sql, " {kind} {name} {own} ON {on}");
        }
        let filter = match self.filter % 5 {
            0 => String::new(),
            1 => " WHERE l.qty > 2".to_owned(),
            2 => format!(" WHERE {}.id IS NULL", alias(last)),
            3 => format!(" WHERE l.qty <> 3 AND coalesce({}.qty, 1) < 5", alias(1)),
            _ => format!(" WHERE coalesce(l.note, '') NOT LIKE 'skip%' AND ({}.qty = l.qty OR l.qty > 1)", alias(last)),
        };
        sql + &filter
    }

    pub(crate) fn quantity(&self) -> String {
        format!("l.qty * 2 + coalesce(j{}.qty, 0)", self.joins.len())
    }
}

/// The tables as their sources have committed them, or are about to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tables([BTreeMap<i64, Vec<Value>>; TABLES]);

#[derive(Debug, Clone)]
pub(crate) struct Move {
    table: usize,
    kind: u8,
    pick: u8,
    dice: u32,
    cut: Cut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    No,
    Inside,
    Commit,
}

pub(crate) fn moves() -> impl Strategy<Value = Vec<Move>> {
    let cut = prop_oneof![6 => Just(Cut::No), 2 => Just(Cut::Inside), 3 => Just(Cut::Commit)];
    let one = (0..TABLES, 0_u8..19, any::<u8>(), any::<u32>(), cut);
    let one = one.prop_map(|(table, kind, pick, dice, cut)| Move { table, kind, pick, dice, cut });
    prop::collection::vec(one, 1..60)
}

impl Tables {
    pub(crate) fn rows(&self, table: usize) -> impl Iterator<Item = &Vec<Value>> {
        self.0[table].values()
    }

    fn change(&mut self, index: usize, kind: u8, pick: u8, dice: u32) -> Vec<Change> {
        let keys: Vec<i64> = self.0[index].keys().copied().collect();
        let picked = (!keys.is_empty()).then(|| keys[usize::from(pick) % keys.len()]);
        let Some(key) = picked.filter(|_| kind > 4) else {
            let key = (0..).find(|key| !self.0[index].contains_key(key)).expect("a free key");
            let row = self.row(index, key, dice, None);
            self.0[index].insert(key, row.clone());
            return vec![Change::new(if kind == 0 { Op::Read } else { Op::Insert }, row)];
        };
        let before = self.0[index][&key].clone();
        match kind {
            5..=11 => {
                let row = self.row(index, key, dice, Some(&before));
                self.0[index].insert(key, row.clone());
                vec![sent(Op::Update, &before, row)]
            }
            12..=13 => {
                self.0[index].remove(&key);
                vec![Change::removal(Op::Delete, key, 5)]
            }
            14..=15 => {
                let to = (i64::from(pick % 5)..).find(|key| !self.0[index].contains_key(key)).expect("a free key");
                self.0[index].remove(&key);
                let row = self.row(index, to, dice, Some(&before));
                self.0[index].insert(to, row.clone());
                vec![Change::removal(Op::MoveOut, key, 5), sent(Op::MoveIn, &before, row)]
            }
            16..=17 => self.swap_codes(index, &keys, pick),
            _ if pick < 40 => {
                self.0[index].clear();
                vec![Change::truncate(5)]
            }
            _ => vec![Change::new(Op::Read, before)],
        }
    }

    /// Two rows change codes, so that between the two changes both have the same one.
    fn swap_codes(&mut self, index: usize, keys: &[i64], pick: u8) -> Vec<Change> {
        let (one, other) = (keys[usize::from(pick) % keys.len()], keys[usize::from(pick / 7) % keys.len()]);
        if index == 0 || one == other {
            return vec![Change::new(Op::Update, self.0[index][&one].clone())];
        }
        let codes = [self.0[index][&one][1].clone(), self.0[index][&other][1].clone()];
        let mut changes = Vec::new();
        for (key, code) in [(one, &codes[1]), (other, &codes[0])] {
            let row = self.0[index].get_mut(&key).expect("a row");
            row[1] = code.clone();
            changes.push(Change::new(Op::Update, row.clone()));
        }
        changes
    }

    fn row(&self, index: usize, key: i64, dice: u32, old: Option<&Vec<Value>>) -> Vec<Value> {
        let d = i64::from(dice);
        let keep = |column: usize| old.is_some() && dice >> (20 + column) & 1 == 0;
        let text = |n: i64| if n == 0 { Value::Null } else { Value::Text(format!("A{n}")) };
        let second = if index == 0 {
            if d % 7 == 0 { Value::Null } else { Value::Int(d % 6) }
        } else {
            self.code(index, key, d)
        };
        let note = match d / 3 % 4 {
            0 => Value::Null,
            1 => Value::Text(format!("skip {LONG}")),
            2 => LONG.into(),
            _ => "short".into(),
        };
        let fresh = [Value::Int(key), second, text(d / 11 % 5), Value::Int(d / 13 % 7), note];
        fresh
            .into_iter()
            .enumerate()
            .map(|(c, fresh)| match old {
                Some(old) if c > 0 && keep(c) => old[c].clone(),
                _ => fresh,
            })
            .collect()
    }

    /// A code that no other row of the table has.
    fn code(&self, index: usize, key: i64, dice: i64) -> Value {
        let free = |code: &Value| !self.0[index].iter().any(|(other, row)| *other != key && row[1] == *code);
        (0..).map(|n| Value::Text(format!("A{}", dice % 4 + n))).find(free).expect("a free code")
    }

    fn sqlite(&self) -> Connection {
        let database = Connection::open_in_memory().expect("a database");
        for (i, rows) in self.0.iter().enumerate() {
            let second = COLUMNS[i][1].0;
            let create = format!("CREATE TABLE {} (id INTEGER, {second}, art TEXT, qty INTEGER, note TEXT)", NAMES[i]);
            database.execute_batch(&create).expect("a table");
            for row in rows.values() {
                let values: Vec<rusqlite::types::Value> = row.iter().map(sqlite_value).collect();
                let insert = format!("INSERT INTO {} VALUES (?, ?, ?, ?, ?)", NAMES[i]);
                database.execute(&insert, rusqlite::params_from_iter(values)).expect("a row");
            }
        }
        database
    }

    /// On hand by item and place, as SQLite sees it.
    fn oracle(&self, plan: &Plan) -> BTreeMap<(String, String), i64> {
        let inner = plan.sql("unit", &format!("{} AS on_hand", plan.quantity()));
        let sql = format!("SELECT item_id, location_id, sum(on_hand) FROM ({inner}) GROUP BY 1, 2");
        let database = self.sqlite();
        let mut statement = database.prepare(&sql).expect("the mapping's own SQL");
        let rows = statement.query_map([], |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?))).expect("rows");
        rows.collect::<Result<_, _>>().expect("rows")
    }
}

fn sqlite_value(value: &Value) -> rusqlite::types::Value {
    match value {
        Value::Null => rusqlite::types::Value::Null,
        Value::Int(value) => (*value).into(),
        Value::Text(value) => value.clone().into(),
        Value::Decimal(_) => panic!("no decimals here"),
    }
}

/// The change as PostgreSQL sends it: an unchanged value that may lie out of line is left out.
fn sent(op: Op, before: &[Value], mut after: Vec<Value>) -> Change {
    let unchanged = before[4] == after[4] && matches!(&after[4], Value::Text(text) if text.len() > 20);
    let absent = if unchanged { vec![4] } else { Vec::new() };
    if unchanged {
        after[4] = Value::Null;
    }
    Change { op, values: after, absent }
}

/// The log of a history, and the committed tables at each of its transaction boundaries. Shapes come late: each before the
/// first row of its table, those of empty tables at the end.
pub(crate) fn log(moves: &[Move]) -> (Vec<LogEntry>, BTreeMap<LogOffset, Tables>) {
    let schemas = schemas();
    let (mut log, mut boundaries) = (Vec::new(), BTreeMap::new());
    let (mut now, mut committed) = (Tables::default(), Tables::default());
    let mut pending: [Vec<(usize, Change)>; 2] = Default::default();
    let mut shown = [false; TABLES];
    let source = |table: usize| usize::from(table == 3);
    let mut cut =
        |log: &mut Vec<LogEntry>, now: &Tables, side: usize, end: bool, pending: &mut Vec<(usize, Change)>| {
            for (table, _) in pending.iter() {
                if !std::mem::replace(&mut shown[*table], true) {
                    log.push(LogEntry::Schema(schemas[*table].clone()));
                }
            }
            let changes: Vec<_> = pending.drain(..).map(|(table, change)| (&schemas[table], change)).collect();
            let mut entry = frame(&changes, end);
            if let LogEntry::Frame(frame) = &mut entry {
                frame.source = schemas[if side == 1 { 3 } else { 0 }].source.clone();
            }
            log.push(entry);
            if end {
                (0..TABLES)
                    .filter(|&table| source(table) == side)
                    .for_each(|table| committed.0[table] = now.0[table].clone());
                boundaries.insert(LogOffset(log.len() as u64), committed.clone());
            }
        };
    for step in moves {
        let changes = now.change(step.table, step.kind, step.pick, step.dice);
        let side = source(step.table);
        pending[side].extend(changes.into_iter().map(|change| (step.table, change)));
        if step.cut != Cut::No {
            cut(&mut log, &now, side, step.cut == Cut::Commit, &mut pending[side]);
        }
    }
    for (side, pending) in pending.iter_mut().enumerate() {
        cut(&mut log, &now, side, true, pending);
    }
    for (table, _) in shown.iter().enumerate().filter(|(_, shown)| !**shown) {
        log.push(LogEntry::Schema(schemas[table].clone()));
    }
    let mut last = frame(&[], true);
    if let LogEntry::Frame(frame) = &mut last {
        frame.source = schemas[0].source.clone();
    }
    log.push(last);
    boundaries.insert(LogOffset(log.len() as u64), committed.clone());
    (log, boundaries)
}

fn compare(current: &Rows, wanted: &BTreeMap<(String, String), i64>, sql: &str) {
    let held: BTreeMap<(String, String), i64> = current
        .iter()
        .filter_map(|(key, row)| {
            let value: i64 = row["on_hand"].as_deref()?.split('.').next()?.parse().ok()?;
            Some(((key.1[1].clone(), key.1[2].clone()), value))
        })
        .collect();
    for (key, value) in wanted {
        assert_eq!(held.get(key).copied().unwrap_or(0), *value, "{key:?} of {sql}");
    }
    for (key, value) in held.iter().filter(|(key, _)| !wanted.contains_key(key)) {
        assert_eq!(*value, 0, "{key:?} has no source row: {sql}");
    }
}

/// Runs a log to its end. Once every table is known, every state that a sink may see is SQLite's, and the last DataFusion's.
pub(crate) fn check(
    plan: &Plan,
    log: &[LogEntry],
    boundaries: &BTreeMap<LogOffset, Tables>,
    crashes: &[Option<Crash>],
) -> Daemon {
    let sql = plan.sql("wms.unit", &format!("{} AS on_hand", plan.quantity()));
    let mut daemon = Daemon::new(&[("erp/inventory_balance.sql", &sql)]).with_chunk(3);
    daemon.memory.crashes.borrow_mut().extend(crashes);
    let (mut current, mut seen) = (Current::default(), 0);
    let end = LogOffset(log.len() as u64);
    let (mut missing, schemas) = (plan.joins.iter().map(|join| join.table).chain([0]).collect::<Vec<_>>(), schemas());
    for (entry, offset) in log.iter().zip(1..) {
        if let LogEntry::Schema(shape) = entry {
            missing.retain(|&table| schemas[table].table != shape.table);
        }
        daemon.log.push(entry.clone());
        daemon.run();
        let outbox = daemon.memory.outbox.borrow();
        while let Some(step) = outbox.get(seen) {
            current.apply(step);
            seen += 1;
        }
        let known = missing.is_empty() && matches!(entry, LogEntry::Frame(frame) if frame.txn_end);
        if let Some(tables) = boundaries.get(&LogOffset(offset)).filter(|_| known) {
            compare(&current.rows, &tables.oracle(plan), &sql);
            if LogOffset(offset) == end {
                compare(&current.rows, &datafusion::sums(tables, plan), &sql);
            }
        }
    }
    daemon
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn joined_rows_that_come_late_change_or_go_leave_what_sql_makes_of_the_tables(
        plan in plans(), moves in moves(), crashes in prop::collection::vec(
            prop_oneof![3 => Just(None), 1 => Just(Some(Crash::Before)), 1 => Just(Some(Crash::After))], 0..80),
    ) {
        let (log, boundaries) = log(&moves);
        let calm = check(&plan, &log, &boundaries, &[]);
        let crashed = check(&plan, &log, &boundaries, &crashes);
        prop_assert!(*calm.memory.outbox.borrow() == *crashed.memory.outbox.borrow(), "the outbox is the same byte for byte");
        for space in Space::ALL {
            prop_assert_eq!(calm.memory.pairs(space), crashed.memory.pairs(space));
        }
        prop_assert!(calm.held().is_empty(), "no row of these histories is faulty: {:?}", calm.held());
        let tasks = calm.memory.pairs(Space::Index).into_iter().filter(|(key, _)| key[0] == b'T').count();
        prop_assert_eq!(tasks, 0, "nothing is left to be done");
    }
}
