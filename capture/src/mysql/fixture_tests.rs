//! The decoder on logs that real servers wrote: what comes of them is what the servers' tables held.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{
    DataType, Date32Type, Float32Type, Float64Type, Int16Type, TimestampMicrosecondType, UInt8Type, UInt32Type,
};
use arrow::util::display::array_value_to_string;
use syncline_schemas::frame::{ABSENT, META_COLUMNS, OP, ORD, Op};
use syncline_schemas::ident::SourceId;

use super::decoder::{Decoder, Piece, Policies, Replaced, Step};
use super::event::code::known;
use super::fuzz;
use super::gtid::{GtidSet, MariaDbSet, MySqlSet};
use super::scope::Scope;
use crate::CaptureError;
use crate::pattern::TablePatterns;

/// Events of a log file, which begins with four bytes of its own.
fn events(file: &[u8]) -> Vec<&[u8]> {
    let (mut rest, mut events) = (file.strip_prefix(b"\xfebin").expect("a log"), Vec::new());
    while !rest.is_empty() {
        let size = u32::from_le_bytes(rest[9..13].try_into().unwrap());
        let (event, behind) = rest.split_at(usize::try_from(size).unwrap());
        events.push(event);
        rest = behind;
    }
    events
}

fn mysql() -> GtidSet {
    GtidSet::MySql(MySqlSet::default())
}

fn mariadb() -> GtidSet {
    GtidSet::MariaDb(MariaDbSet::default())
}

/// The tables as the rows in the frames leave them: values by table and key, both as text.
#[derive(Default)]
struct World {
    tables: BTreeMap<String, BTreeMap<String, BTreeMap<String, String>>>,
    /// Codes of the events that came.
    codes: BTreeSet<u8>,
    ops: BTreeSet<u8>,
    absent: bool,
    /// The values of a row whose key changes.
    moved: BTreeMap<String, String>,
}

impl World {
    fn take(&mut self, piece: &Piece) {
        // Rows of all tables in their order.
        let mut order = Vec::new();
        for (b, batch) in piece.batches.iter().enumerate() {
            let ords = batch.rows.column_by_name(ORD).unwrap().as_primitive::<UInt32Type>();
            order.extend((0..batch.rows.num_rows()).map(|row| (ords.value(row), b, row)));
        }
        order.sort_unstable();
        for (_, b, row) in order {
            self.apply(&piece.batches[b], row);
        }
    }

    fn apply(&mut self, batch: &syncline_schemas::frame::TableBatch, row: usize) {
        let rows = &batch.rows;
        let op = rows.column_by_name(OP).unwrap().as_primitive::<UInt8Type>().value(row);
        let op = Op::from_u8(op).unwrap();
        self.ops.insert(op as u8);
        let absent = rows.column_by_name(ABSENT).unwrap();
        let mask = if absent.is_valid(row) { absent.as_binary::<i32>().value(row) } else { &[] };
        self.absent |= !mask.is_empty();
        let table = self.tables.entry(batch.table.name.to_string()).or_default();
        if op == Op::Truncate {
            return table.clear();
        }
        let (mut values, mut key) = (BTreeMap::new(), String::new());
        for (i, field) in rows.schema().fields().iter().take(rows.num_columns() - META_COLUMNS).enumerate() {
            let text = text(rows.column(i), row);
            if field.metadata().contains_key(syncline_schemas::table::KEY_ORDINAL) {
                write!(key, "{text}/").unwrap();
            }
            if mask.get(i / 8).is_none_or(|byte| byte >> (i % 8) & 1 == 0) {
                values.insert(field.name().clone(), text);
            }
        }
        if op.removes() {
            self.moved = table.remove(&key).unwrap_or_default();
        } else {
            // What did not come with a changed key stays what it was.
            let kept = if op == Op::MoveIn { std::mem::take(&mut self.moved) } else { BTreeMap::new() };
            table.entry(key).or_insert(kept).extend(values);
        }
    }
}

/// A value as `content.sql` has the server write it.
fn text(column: &ArrayRef, row: usize) -> String {
    if column.is_null(row) {
        return "NULL".to_owned();
    }
    match column.data_type() {
        DataType::Timestamp(_, _) => column.as_primitive::<TimestampMicrosecondType>().value(row).to_string(),
        DataType::Date32 => column.as_primitive::<Date32Type>().value(row).to_string(),
        DataType::Int16 => column.as_primitive::<Int16Type>().value(row).to_string(),
        DataType::Boolean => u8::from(column.as_boolean().value(row)).to_string(),
        DataType::Float32 => format!("{:e}", f64::from(column.as_primitive::<Float32Type>().value(row))),
        DataType::Float64 => format!("{:e}", column.as_primitive::<Float64Type>().value(row)),
        DataType::Binary => {
            let bytes = column.as_binary::<i32>().value(row).iter();
            bytes.map(|byte| format!("{byte:02X}")).collect()
        }
        DataType::Utf8 => column.as_string::<i32>().value(row).replace('\\', "\\\\").replace('\n', "\\n"),
        _ => array_value_to_string(column, row).unwrap(),
    }
}

fn decode(file: &[u8], end: GtidSet, pieces: &mut dyn FnMut(&Piece)) -> Result<(BTreeSet<u8>, GtidSet), CaptureError> {
    let scope = Scope {
        patterns: TablePatterns::parse(&["shop.*", "!shop.copied", "!shop.numbers"]).unwrap(),
        keys: BTreeMap::new(),
        ignores_case: false,
    };
    let mut decoder = Decoder::new(SourceId::new("erp"), scope, Policies::default(), end, None);
    let mut codes = BTreeSet::new();
    for event in events(file) {
        codes.insert(event[4]);
        let step = decoder.decode(event)?;
        follow(&mut decoder, step, pieces, &mut codes)?;
    }
    pieces(&decoder.take()?);
    Ok((codes, decoder.end().clone()))
}

fn follow(
    decoder: &mut Decoder,
    step: Step<'_>,
    pieces: &mut dyn FnMut(&Piece),
    codes: &mut BTreeSet<u8>,
) -> Result<(), CaptureError> {
    match step {
        Step::Continue => {}
        Step::Full => pieces(&decoder.take()?),
        Step::Refused(error) | Step::Replaced(Replaced { error, .. }) => return Err(*error),
        Step::Unsaid(table) => {
            let step = decoder.say(table, BTreeMap::new())?;
            follow(decoder, step, pieces, codes)?;
        }
        Step::Shape(shape) => {
            if decoder.must_cut_for(&shape) {
                pieces(&decoder.take()?);
            }
            decoder.define(Arc::clone(&shape));
        }
        Step::Payload(mut payload) => {
            while let Some(event) = payload.next().unwrap() {
                codes.insert(event[4]);
                let step = decoder.decode_inner(event)?;
                follow(decoder, step, pieces, codes)?;
            }
        }
    }
    Ok(())
}

/// Columns of the tables as `content.sql` names them.
fn columns(table: &str) -> Vec<&'static str> {
    match table {
        "types" => "id ti tu si su mi mu i iu bi bu d1 d2 d3 f db b1 b20 b64 y da t0 t3 t6 dt0 dt6 ts0 ts4 c vc vg v16 cz bn vb tx mt \
                    bl e s g j",
        "stock" => "site lot item qty body",
        "emptied" => "id",
        _ => "id j v",
    }
    .split_whitespace()
    .collect()
}

fn ensure_same(file: &[u8], content: &str, end: GtidSet) -> (World, GtidSet) {
    let mut world = World::default();
    let (codes, end) = decode(file, end, &mut |piece| world.take(piece)).unwrap_or_else(|error| panic!("{error}"));
    world.codes = codes;
    let mut rows = BTreeMap::<String, usize>::new();
    for line in content.lines() {
        let (table, values) = line.split_once('\t').unwrap();
        let (names, values): (Vec<_>, Vec<_>) = (columns(table), values.split('\t').collect());
        assert_eq!(names.len(), values.len(), "{line}");
        *rows.entry(table.to_owned()).or_default() += 1;
        let keys: &[&str] = if table == "stock" { &["site", "item"] } else { &["id"] };
        let value = |name: &&str| values[names.iter().position(|it| it == name).unwrap()];
        // The log has no order of the key's columns but the table's.
        let key: String = keys.iter().map(|name| format!("{}/", value(name))).collect();
        let ours = world.tables.get(table).and_then(|table| table.get(&key)).unwrap_or_else(|| panic!("{table} {key}"));
        for (name, wanted) in names.iter().zip(&values) {
            // Rows from before the column came have no word of it.
            let ours = ours.get(*name).map_or("NULL", String::as_str);
            let is_number = matches!((table, *name), ("types", "f" | "db")) && ours != "NULL";
            let wanted = if is_number { format!("{:e}", wanted.parse::<f64>().unwrap()) } else { (*wanted).to_owned() };
            assert_eq!(ours, wanted, "{table} {key} {name}");
        }
    }
    let ours: BTreeMap<_, _> = world.tables.iter().map(|(name, table)| (name.clone(), table.len())).collect();
    assert_eq!(ours, rows, "rows that the server has not, or the other way round");
    (world, end)
}

#[test]
fn what_mariadb_logged_is_what_its_tables_held_to_the_last_digit() {
    let file = include_bytes!("../../fixtures/mysql/mariadb-10.11.bin");
    let (world, end) = ensure_same(file, include_str!("../../fixtures/mysql/mariadb-10.11.tsv"), mariadb());
    // Compressed statements and rows, two domains.
    for code in [2, 15, 16, 19, 23, 24, 25, 160, 161, 162, 163, 165, 166, 167, 168] {
        assert!(world.codes.contains(&code), "{:?} is not in the log", known(code));
    }
    assert!(end.to_string().contains(",3-7-"), "{end}");
    assert_eq!(world.ops, [2, 3, 4, 5, 6, 7].into());
    assert!(world.absent);
}

#[test]
fn what_mysql_logged_is_what_its_tables_held_to_the_last_digit() {
    let file = include_bytes!("../../fixtures/mysql/mysql-9.7.bin");
    let (world, end) = ensure_same(file, include_str!("../../fixtures/mysql/mysql-9.7.tsv"), mysql());
    // A compressed transaction, a tagged one, texts of statements, parts of JSON.
    for code in [2, 15, 16, 19, 29, 30, 31, 32, 33, 35, 39, 40, 42] {
        assert!(world.codes.contains(&code), "{:?} is not in the log", known(code));
    }
    assert!(end.to_string().contains(":load:"), "{end}");
    assert_eq!(world.ops, [2, 3, 4, 5, 6, 7].into());
    assert!(world.absent);
}

/// Events without checksums, which would find out everything before the decoder does.
fn without_checksums(file: &[u8]) -> Vec<Vec<u8>> {
    let strip = |event: &[u8]| {
        let mut event = event[..event.len() - 4].to_vec();
        if event[4] == 15 {
            *event.last_mut().unwrap() = 0;
            event.extend_from_slice(&[0; 4]);
        }
        let size = u32::try_from(event.len()).unwrap();
        event[9..13].copy_from_slice(&size.to_le_bytes());
        event
    };
    events(file).into_iter().filter(|event| event.len() < 2_000).map(strip).collect()
}

#[test]
fn a_log_of_which_any_byte_is_another_never_makes_the_decoder_panic() {
    for (file, kind) in [
        (&include_bytes!("../../fixtures/mysql/mariadb-10.11.bin")[..], 1),
        (&include_bytes!("../../fixtures/mysql/mysql-9.7.bin")[..], 0),
    ] {
        let events = without_checksums(file);
        let mut bytes = vec![kind];
        for event in &events {
            bytes.extend_from_slice(&u16::try_from(event.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(event);
        }
        fuzz::decode(&bytes);
        for place in 1..bytes.len() {
            let kept = bytes[place];
            bytes[place] = if place % 3 == 0 { 0xff } else { kept ^ 1 << (place % 8) };
            // What comes behind the place by some events is not reached by what it says.
            fuzz::decode(&bytes[..bytes.len().min(place + 2_000)]);
            bytes[place] = kept;
        }
    }
}
