//! The decoder on logs that are put together byte by byte.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int32Type, UInt8Type};
use proptest::prelude::*;
use syncline_schemas::frame::{ABSENT, OP, ORD, Op, POS};
use syncline_schemas::ident::SourceId;

use super::{Cut, Decoder, Piece, Policies, Replaced, Step};
use crate::CaptureError;
use crate::mysql::event::table_map::code;
use crate::mysql::event::tests_of_events::{compressed, event, format_event, map_body};
use crate::mysql::fuzz;
use crate::mysql::gtid::{Gtid, GtidSet, MariaDbSet};
use crate::mysql::scope::Scope;
use crate::pattern::TablePatterns;
use crate::policy::{SpecialValues, Truncates};

const INSERT: u8 = 30;
const UPDATE: u8 = 31;
const DELETE: u8 = 32;

fn scope() -> Scope {
    Scope { patterns: TablePatterns::parse(&["shop.*"]).unwrap(), keys: BTreeMap::new(), ignores_case: false }
}

fn set(text: &str) -> GtidSet {
    GtidSet::MariaDb(text.parse::<MariaDbSet>().unwrap())
}

fn gtid_of(sequence: u64) -> Gtid {
    Gtid::MariaDb(format!("0-7-{sequence}").parse().unwrap())
}

fn decoder_with(policies: Policies, end: &str, cut: Option<Cut>) -> Decoder {
    Decoder::new(SourceId::new("erp"), scope(), policies, set(end), cut)
}

fn decoder() -> Decoder {
    decoder_with(Policies::default(), "", None)
}

/// Decodes events as a session does; whatever else a step asks for ends the test.
fn feed(decoder: &mut Decoder, events: &[Vec<u8>]) -> Result<Vec<Piece>, CaptureError> {
    let mut pieces = Vec::new();
    for event in events {
        let step = decoder.decode(event)?;
        take(decoder, step, &mut pieces)?;
    }
    Ok(pieces)
}

fn take(decoder: &mut Decoder, step: Step<'_>, pieces: &mut Vec<Piece>) -> Result<(), CaptureError> {
    match step {
        Step::Continue => {}
        Step::Full => pieces.push(decoder.take()?),
        Step::Refused(error) | Step::Replaced(Replaced { error, .. }) => return Err(*error),
        Step::Unsaid(table) => {
            let step = decoder.say(table, BTreeMap::new())?;
            take(decoder, step, pieces)?;
        }
        Step::Shape(shape) => {
            if decoder.must_cut_for(&shape) {
                pieces.push(decoder.take()?);
            }
            decoder.define(Arc::clone(&shape));
        }
        Step::Payload(mut payload) => {
            while let Some(event) = payload.next().unwrap() {
                let step = decoder.decode_inner(event)?;
                take(decoder, step, pieces)?;
            }
        }
    }
    Ok(())
}

/// A transaction begins.
fn gtid(sequence: u64, flags: u8) -> Vec<u8> {
    let mut body = sequence.to_le_bytes().to_vec();
    body.extend_from_slice(&[0; 4]);
    body.push(flags);
    event(162, &body, false)
}

fn query(text: &str) -> Vec<u8> {
    let mut body = vec![0; 8];
    body.extend_from_slice(&[4, 0, 0, 0, 0]);
    body.extend_from_slice(b"shop\0");
    body.extend_from_slice(text.as_bytes());
    event(2, &body, false)
}

fn xid() -> Vec<u8> {
    event(16, &[0; 8], false)
}

/// `shop.stock (id int primary key, qty int, note varchar(40))`.
fn map() -> Vec<u8> {
    let fields: [(u8, &[u8]); 4] = [(1, &[0]), (2, &[45]), (4, b"\x02id\x03qty\x04note"), (8, &[0])];
    event(19, &map_body(&[code::LONG, code::LONG, code::VARCHAR], &[40, 0], &fields), false)
}

/// Rows with these columns of each image, and their bytes.
fn rows(code: u8, came: &[u8], rows: &[u8]) -> Vec<u8> {
    let mut body = vec![9, 0, 0, 0, 0, 0, 1, 0, 2, 0, 3];
    body.extend_from_slice(came);
    body.extend_from_slice(rows);
    event(code, &body, false)
}

/// A row of all columns.
fn row(id: i32, qty: i32, note: Option<&str>) -> Vec<u8> {
    let mut row = vec![if note.is_none() { 0b100 } else { 0 }];
    row.extend_from_slice(&id.to_le_bytes());
    row.extend_from_slice(&qty.to_le_bytes());
    if let Some(note) = note {
        row.push(u8::try_from(note.len()).unwrap());
        row.extend_from_slice(note.as_bytes());
    }
    row
}

fn start() -> Vec<Vec<u8>> {
    vec![event(4, b"\x04\0\0\0\0\0\0\0bin.000001", false), format_event(false)]
}

fn insert(sequence: u64, id: i32) -> Vec<Vec<u8>> {
    vec![gtid(sequence, 0), map(), rows(INSERT, &[7], &row(id, 1, Some("a"))), xid()]
}

/// Operation, id, quantity (if there is one) and what is absent.
type Content = (u8, Option<i32>, Option<i32>, Option<Vec<u8>>);

/// The rows of the only batch.
fn content(piece: &Piece) -> Vec<Content> {
    let [batch] = piece.batches.as_slice() else { panic!("{} batches", piece.batches.len()) };
    let rows = &batch.rows;
    let column = |name: &str| Arc::clone(rows.column_by_name(name).expect("a column"));
    let int = |name: &str, row: usize| {
        let column = column(name);
        column.is_valid(row).then(|| column.as_primitive::<Int32Type>().value(row))
    };
    let (ops, absent) = (column(OP), column(ABSENT));
    (0..rows.num_rows())
        .map(|i| {
            let mask = absent.is_valid(i).then(|| absent.as_binary::<i32>().value(i).to_vec());
            (ops.as_primitive::<UInt8Type>().value(i), int("id", i), int("qty", i), mask)
        })
        .collect()
}

#[test]
fn rows_of_a_transaction_come_with_their_gtid_and_in_order() {
    let mut decoder = decoder();
    let mut events = start();
    events.extend(insert(1, 5));
    events.extend([
        gtid(2, 0),
        map(),
        rows(UPDATE, &[7, 7], &[row(5, 1, Some("a")), row(5, 2, None)].concat()),
        rows(UPDATE, &[7, 7], &[row(5, 2, None), row(6, 2, None)].concat()),
        rows(DELETE, &[7], &row(6, 2, None)),
        xid(),
    ]);
    assert!(feed(&mut decoder, &events).unwrap().is_empty());
    let piece = decoder.take().unwrap();
    let ops = [Op::Insert, Op::Update, Op::MoveOut, Op::MoveIn, Op::Delete].map(|op| op as u8);
    let ids = [5, 5, 5, 6, 6];
    let wanted: Vec<_> =
        ops.iter().zip(ids).map(|(op, id)| (*op, Some(id), Some(if *op == 2 { 1 } else { 2 }), None)).collect();
    assert_eq!(content(&piece), wanted);
    assert_eq!((piece.end, piece.cut), (set("0-7-2"), None));
    let rows = &piece.batches[0].rows;
    let positions = arrow::compute::cast(rows.column_by_name(POS).unwrap(), &arrow::datatypes::DataType::Utf8).unwrap();
    assert_eq!(
        positions.as_string::<i32>().iter().flatten().collect::<Vec<_>>(),
        ["0-7-1", "0-7-2", "0-7-2", "0-7-2", "0-7-2"]
    );
    let ords = rows.column_by_name(ORD).unwrap().as_primitive::<arrow::datatypes::UInt32Type>().values().to_vec();
    assert_eq!(ords, [0, 1, 2, 3, 4]);
}

#[test]
fn what_a_minimal_image_leaves_out_is_absent_and_its_key_is_the_old_one() {
    let mut decoder = decoder();
    let mut events = start();
    // Before: id. After: qty = 9.
    let update = [&[0][..], &5_i32.to_le_bytes(), &[0], &9_i32.to_le_bytes()].concat();
    events.extend([gtid(1, 0), map(), rows(UPDATE, &[0b001, 0b010], &update), xid()]);
    // A key that changes: before id, after id alone.
    let moved = [&[0][..], &5_i32.to_le_bytes(), &[0], &6_i32.to_le_bytes()].concat();
    events.extend([gtid(2, 0), map(), rows(UPDATE, &[0b001, 0b001], &moved), xid()]);
    feed(&mut decoder, &events).unwrap();
    let content = content(&decoder.take().unwrap());
    assert_eq!(content[0], (Op::Update as u8, Some(5), Some(9), Some(vec![0b100])));
    assert_eq!(content[1], (Op::MoveOut as u8, Some(5), None, Some(vec![0b110])));
    assert_eq!(content[2], (Op::MoveIn as u8, Some(6), None, Some(vec![0b110])));
}

#[test]
fn an_event_that_is_not_known_stops_the_source_wherever_it_comes() {
    for (code, said) in
        [(43, "event number 43"), (200, "not known"), (26, "INCIDENT"), (172, "PARTIAL_ROW_DATA"), (34, "gtid_mode")]
    {
        let mut decoder = decoder();
        let mut events = start();
        events.extend([gtid(1, 0), event(code, &[0; 20], false)]);
        let error = feed(&mut decoder, &events).map(drop).unwrap_err();
        assert!(matches!(error, CaptureError::Protocol { .. }), "{error}");
        assert!(error.to_string().contains(said) && error.to_string().contains("0-7-1"), "{error}");
    }
}

#[test]
fn rows_that_do_not_fit_their_table_are_never_shifted() {
    let mut decoder = decoder();
    let mut events = start();
    let mut wide = rows(INSERT, &[15], &row(5, 1, None));
    wide[19 + 10] = 4;
    events.extend([gtid(1, 0), map(), wide]);
    let error = feed(&mut decoder, &events).map(drop).unwrap_err();
    assert!(error.to_string().contains("another number of columns"), "{error}");
    let mut cut_short = start();
    cut_short.extend([gtid(1, 0), map(), rows(INSERT, &[7], &row(5, 1, Some("a"))[..6])]);
    let error = feed(&mut self::decoder(), &cut_short).map(drop).unwrap_err();
    assert!(error.to_string().contains("cut short"), "{error}");
    let mut unknown = start();
    unknown.extend([gtid(1, 0), rows(INSERT, &[7], &row(5, 1, None))]);
    let error = feed(&mut self::decoder(), &unknown).map(drop).unwrap_err();
    assert!(error.to_string().contains("not described"), "{error}");
}

#[test]
fn a_compressed_transaction_is_the_same_as_one_that_is_not() {
    let inner = [map(), rows(INSERT, &[7], &row(5, 1, Some("a"))), xid()].concat();
    let mut decoder = decoder();
    let mut events = start();
    events.extend([gtid(1, 0), event(40, &compressed(&inner), false)]);
    feed(&mut decoder, &events).unwrap();
    let piece = decoder.take().unwrap();
    assert_eq!(content(&piece), [(Op::Insert as u8, Some(5), Some(1), None)]);
    assert_eq!(piece.end, set("0-7-1"));
    let nested = event(40, &compressed(&event(40, &compressed(&inner), false)), false);
    let error = feed(&mut self::decoder(), &[gtid(1, 0), nested]).map(drop).unwrap_err();
    assert!(error.to_string().contains("lies in another"), "{error}");
}

#[test]
fn a_transaction_that_was_cut_goes_on_exactly_behind_what_is_held() {
    let parts: Vec<Vec<u8>> = (0..4).map(|id| rows(INSERT, &[7], &row(id, 1, None))).collect();
    let whole = |parts: &[Vec<u8>]| {
        let mut events = start();
        events.extend([gtid(8, 0), map()]);
        events.extend_from_slice(parts);
        events
    };
    let mut first = decoder_with(Policies::default(), "0-7-7", None);
    feed(&mut first, &whole(&parts[..2])).unwrap();
    let piece = first.take().unwrap();
    let cut = Cut { gtid: gtid_of(8), changes: 2 };
    assert_eq!((piece.end, piece.cut.as_ref()), (set("0-7-7"), Some(&cut)));
    let mut second = decoder_with(Policies::default(), "0-7-7", Some(cut.clone()));
    let mut events = whole(&parts);
    events.push(xid());
    feed(&mut second, &events).unwrap();
    let piece = second.take().unwrap();
    assert_eq!(content(&piece).iter().map(|row| row.1).collect::<Vec<_>>(), [Some(2), Some(3)]);
    assert_eq!((piece.end, piece.cut), (set("0-7-8"), None));
    let mut other = decoder_with(Policies::default(), "0-7-7", Some(cut));
    let error = feed(&mut other, &insert(9, 1)).map(drop).unwrap_err();
    assert!(matches!(error, CaptureError::Position { .. }), "{error}");
}

#[test]
fn a_transaction_that_comes_behind_its_successors_is_neither_taken_nor_passed_over() {
    let mut decoder = decoder_with(Policies::default(), "0-7-7", None);
    let error = feed(&mut decoder, &insert(6, 1)).map(drop).unwrap_err();
    assert!(
        matches!(error, CaptureError::Position { .. }) && error.to_string().contains("gtid_strict_mode"),
        "{error}"
    );
}

#[test]
fn a_table_that_is_emptied_is_emptied_or_stops_the_source() {
    const STANDALONE: u8 = 1;
    let mut events = start();
    events.extend(insert(1, 5));
    events.extend([
        gtid(2, STANDALONE),
        query("TRUNCATE TABLE stock"),
        gtid(3, STANDALONE),
        query("TRUNCATE other.stock"),
    ]);
    let mut decoder = decoder();
    feed(&mut decoder, &events).unwrap();
    let piece = decoder.take().unwrap();
    assert_eq!(content(&piece)[1], (Op::Truncate as u8, None, None, None));
    assert_eq!((content(&piece).len(), piece.end), (2, set("0-7-3")));
    let policies = Policies { truncates: Truncates::Stop, ..Policies::default() };
    let error = feed(&mut decoder_with(policies, "", None), &events).map(drop).unwrap_err();
    assert!(error.to_string().contains("was truncated by 0-7-2"), "{error}");
}

#[test]
fn statements_that_change_rows_without_saying_which_stop_the_source() {
    for (text, said) in [
        ("INSERT INTO stock VALUES (1)", "logged as a statement"),
        ("DROP TABLE stock", "dropped"),
        ("DROP DATABASE shop", "dropped with its database"),
        ("RENAME TABLE stock TO old, new TO stock", "renamed"),
        ("ALTER TABLE stock DROP PARTITION p", "partition"),
        ("HANDLER stock OPEN", "not known"),
    ] {
        let error = feed(&mut decoder(), &[gtid(1, 1), query(text)]).map(drop).unwrap_err();
        assert!(error.to_string().contains(said), "{text}: {error}");
    }
    for text in
        ["DROP TABLE other.stock", "ALTER TABLE stock ADD x int", "CREATE TABLE x (id int)", "GRANT SELECT ON x TO y"]
    {
        let mut decoder = decoder();
        feed(&mut decoder, &[gtid(1, 1), query(text)]).unwrap();
        assert!(!decoder.is_in_transaction(), "{text}");
        assert_eq!(decoder.end(), &set("0-7-1"));
    }
    let rolled_back = [gtid(1, 0), map(), rows(INSERT, &[7], &row(1, 1, None)), query("ROLLBACK")];
    let error = feed(&mut decoder(), &rolled_back).map(drop).unwrap_err();
    assert!(error.to_string().contains("rolled back"), "{error}");
}

#[test]
fn rows_of_a_two_phase_commit_are_not_taken_for_committed_ones() {
    const PREPARED: u8 = 64;
    let events = [gtid(1, PREPARED), map(), rows(INSERT, &[7], &row(1, 1, None))];
    let error = feed(&mut decoder(), &events).map(drop).unwrap_err();
    assert!(error.to_string().contains("XA"), "{error}");
    // Those of tables that are not read stop nothing.
    let mut other = decoder();
    let foreign = event(
        19,
        &map_body(&[code::LONG], &[], &[])
            .iter()
            .map(|byte| if *byte == b'p' { b't' } else { *byte })
            .collect::<Vec<_>>(),
        false,
    );
    feed(
        &mut other,
        &[
            gtid(1, PREPARED),
            foreign,
            rows(INSERT, &[7], &[]),
            event(38, &[0; 13], false),
            gtid(2, 1),
            query("XA COMMIT X'31',X'',1"),
        ],
    )
    .unwrap();
    assert_eq!(other.end(), &set("0-7-2"));
    // As MySQL frames them.
    let mut framed = decoder();
    feed(
        &mut framed,
        &[gtid(1, 1), query("XA START X'31',X'',1"), query("XA END X'31',X'',1"), event(38, &[0; 13], false)],
    )
    .unwrap();
    assert_eq!(framed.end(), &set("0-7-1"));
    let events = [gtid(1, 1), query("XA START X'31',X'',1"), map(), rows(INSERT, &[7], &row(1, 1, None))];
    let error = feed(&mut decoder(), &events).map(drop).unwrap_err();
    assert!(error.to_string().contains("XA"), "{error}");
}

#[test]
fn a_changed_table_ends_the_frame_and_its_rows_are_read_as_they_were_written() {
    let mut decoder = decoder();
    let mut events = start();
    events.extend(insert(1, 5));
    let fields: [(u8, &[u8]); 3] = [(1, &[0]), (4, b"\x02id\x03qty"), (8, &[0])];
    let narrower = event(19, &map_body(&[code::LONG, code::LONG], &[], &fields), false);
    let mut two = rows(INSERT, &[3], &[&[0][..], &6_i32.to_le_bytes(), &7_i32.to_le_bytes()].concat());
    two[19 + 10] = 2;
    events.extend([gtid(2, 1), query("ALTER TABLE stock DROP note"), gtid(3, 0), narrower, two, xid()]);
    let pieces = feed(&mut decoder, &events).unwrap();
    assert_eq!(content(&pieces[0]), [(Op::Insert as u8, Some(5), Some(1), None)]);
    let piece = decoder.take().unwrap();
    assert_eq!(content(&piece), [(Op::Insert as u8, Some(6), Some(7), None)]);
    assert_ne!(piece.batches[0].schema_version, pieces[0].batches[0].schema_version);
}

#[test]
fn a_table_without_names_or_without_a_key_says_what_to_do() {
    let (lengths, no_key): ([u8; 0], [(u8, &[u8]); 1]) = ([], [(4, b"\x02id")]);
    for (fields, said) in [(&[][..], "binlog_row_metadata"), (&no_key[..], "ADD PRIMARY KEY")] {
        let map = event(19, &map_body(&[code::LONG], &lengths, fields), false);
        let error = feed(&mut decoder(), &[gtid(1, 0), map]).map(drop).unwrap_err();
        assert!(matches!(error, CaptureError::Unfit { .. }) && error.to_string().contains(said), "{error}");
    }
}

#[test]
fn a_zero_date_stops_the_source_or_is_null_as_the_operator_says() {
    let fields: [(u8, &[u8]); 3] = [(1, &[0]), (4, b"\x02id\x03qty"), (8, &[0])];
    let map = event(19, &map_body(&[code::LONG, code::DATE], &[], &fields), false);
    let mut zero = rows(INSERT, &[3], &[0, 5, 0, 0, 0, 0, 0, 0]);
    zero[19 + 10] = 2;
    let events = [gtid(1, 0), map, zero, xid()];
    let error = feed(&mut decoder(), &events).map(drop).unwrap_err();
    assert!(error.to_string().contains("column qty") && error.to_string().contains("special_values"), "{error}");
    let policies = Policies { special_values: SpecialValues::Null, ..Policies::default() };
    let mut lenient = decoder_with(policies, "", None);
    feed(&mut lenient, &events).unwrap();
    assert!(lenient.take().unwrap().batches[0].rows.column(1).is_null(0));
}

/// Events of which most are sound, so that what is behind the first one is reached, too.
fn any_event() -> impl Strategy<Value = Vec<u8>> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..30);
    prop_oneof![
        any::<(u64, u8)>().prop_map(|(sequence, flags)| gtid(sequence, flags)),
        Just(map()),
        Just(xid()),
        (23_u8..33, any::<[u8; 2]>(), bytes()).prop_map(|(code, came, content)| rows(code, &came, &content)),
        (any::<u8>(), bytes()).prop_map(|(code, body)| event(code, &body, false)),
        bytes().prop_map(|inner| event(40, &compressed(&[map(), inner].concat()), false)),
        "(TRUNCATE |DROP TABLE |stock|XA ){1,3}".prop_map(|text| query(&text)),
        bytes(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_log_makes_the_decoder_panic(kind in any::<u8>(), events in proptest::collection::vec(any_event(), 0..12)) {
        let mut bytes = vec![kind];
        for event in events {
            bytes.extend_from_slice(&u16::try_from(event.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(&event);
        }
        fuzz::decode(&bytes);
    }
}
