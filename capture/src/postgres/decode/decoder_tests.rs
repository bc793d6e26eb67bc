//! The decoder against streams that are made here, byte by byte, whole, cut and damaged.

use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Int32Type, UInt8Type};
use proptest::prelude::*;
use syncline_schemas::frame::Op;
use syncline_schemas::ident::{SourceId, TableId};
use syncline_schemas::table::{Column, TableSchema};

use super::{Decoder, Kind, Shape, Step};
use crate::CaptureError;
use crate::limits::FRAME_BYTES_MAX;
use crate::postgres::config::SpecialValues;
use crate::postgres::fuzz;
use crate::postgres::lsn::Lsn;
use crate::postgres::pattern::Prefixes;
use crate::postgres::position::Cut;

const RELATION: u32 = 7;

fn shape() -> Arc<Shape> {
    shape_of("v")
}

/// With a second column of this name.
fn shape_of(second: &str) -> Arc<Shape> {
    let column = |name: &str, data_type, key_ordinal| Column {
        name: name.to_owned(),
        data_type,
        source_type: String::new(),
        key_ordinal,
        can_be_absent: key_ordinal.is_none(),
    };
    let columns = vec![column("id", DataType::Int32, Some(0)), column(second, DataType::Utf8, None)];
    let schema = TableSchema { source: SourceId::new("s"), table: TableId::new("public", "t"), version: 1, columns };
    Arc::new(Shape::new(schema, vec![Kind::Int4, Kind::Text]))
}

fn decoder(resume: Option<Cut>) -> Decoder {
    let mut decoder = Decoder::new(SourceId::new("s"), SpecialValues::Stop, Lsn(10), resume);
    decoder.define(RELATION, Some(shape()));
    decoder
}

fn begin(final_lsn: u64, xid: u32) -> Vec<u8> {
    [&b"B"[..], &final_lsn.to_be_bytes(), &5_i64.to_be_bytes(), &xid.to_be_bytes()].concat()
}

fn commit(lsn: u64) -> Vec<u8> {
    [&b"C\0"[..], &lsn.to_be_bytes(), &(lsn + 8).to_be_bytes(), &5_i64.to_be_bytes()].concat()
}

fn message(is_transactional: bool, lsn: u64, prefix: &[u8], content: &[u8]) -> Vec<u8> {
    let len = u32::try_from(content.len()).expect("short").to_be_bytes();
    [&[b'M', u8::from(is_transactional)], &lsn.to_be_bytes()[..], prefix, b"\0", &len, content].concat()
}

/// A row as it stands in a message: `-` is NULL, `~` an unchanged value.
fn tuple(values: &[&str]) -> Vec<u8> {
    let mut bytes = u16::try_from(values.len()).expect("few").to_be_bytes().to_vec();
    for value in values {
        match *value {
            "-" => bytes.push(b'n'),
            "~" => bytes.push(b'u'),
            text => {
                bytes.push(b't');
                bytes.extend_from_slice(&u32::try_from(text.len()).expect("short").to_be_bytes());
                bytes.extend_from_slice(text.as_bytes());
            }
        }
    }
    bytes
}

fn change(tag: u8, parts: &[(u8, &[&str])]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend_from_slice(&RELATION.to_be_bytes());
    for (kind, values) in parts {
        bytes.push(*kind);
        bytes.extend_from_slice(&tuple(values));
    }
    bytes
}

fn insert(id: usize) -> Vec<u8> {
    change(b'I', &[(b'N', &[&id.to_string(), "v"])])
}

fn feed(decoder: &mut Decoder, message: &[u8]) -> Result<Step, CaptureError> {
    decoder.decode(Lsn(77), message)
}

/// The rows that wait, as operation and key.
fn rows(decoder: &mut Decoder) -> (Vec<(Op, Option<i32>)>, Option<Cut>) {
    let piece = decoder.take().expect("our own batches");
    let mut rows = Vec::new();
    for batch in &piece.batches {
        let ids = batch.rows.column(0).as_primitive::<Int32Type>();
        let ops = batch.rows.column(2).as_primitive::<UInt8Type>();
        rows.extend(
            (0..ids.len())
                .map(|i| (Op::from_u8(ops.value(i)).expect("our own"), ids.is_valid(i).then(|| ids.value(i)))),
        );
    }
    (rows, piece.cut)
}

/// The places in the log of the messages that wait.
fn places(decoder: &mut Decoder) -> (Vec<String>, Option<Cut>) {
    let piece = decoder.take().expect("our own batches");
    let places = piece.batches.iter().filter(|batch| &*batch.table.name == "messages").flat_map(|batch| {
        let places = batch.rows.column(0).as_string::<i32>();
        places.iter().map(|place| place.expect("a key").to_owned()).collect::<Vec<_>>()
    });
    (places.collect(), piece.cut)
}

#[test]
fn messages_in_a_transaction_that_is_cut_are_taken_again_as_the_rows_that_they_were() {
    let prefixes = Prefixes::parse(&["*"]).ok();
    let with_messages = |resume| decoder(resume).with_messages(prefixes.as_ref());
    let stream =
        [begin(100, 1), message(true, 90, b"p", b"one"), insert(1), message(true, 95, b"p", b"two"), insert(2)];
    for cut_after in 2..stream.len() {
        let mut first = with_messages(None);
        stream[..cut_after].iter().for_each(|message| drop(feed(&mut first, message).expect("well formed")));
        let (mut seen, cut) = places(&mut first);
        let cut = cut.expect("inside the transaction");
        assert_eq!(cut.changes, u64::from(cut_after > 2) + u64::from(cut_after > 4));
        let mut second = with_messages(Some(cut));
        for message in stream.iter().chain([&commit(100)]) {
            feed(&mut second, message).expect("well formed");
        }
        let (again, none) = places(&mut second);
        seen.extend(again);
        seen.sort();
        seen.dedup();
        assert_eq!((seen.as_slice(), none), (&["0/5A".to_owned(), "0/5F".to_owned()][..], None));
    }
    // Nobody asks for messages any more: the server does not tell of a transaction that has nothing else.
    let cut = Cut { xid: 1, final_lsn: Lsn(100), changes: 0 };
    let mut third = decoder(Some(cut));
    [begin(200, 2), insert(7), commit(200)]
        .iter()
        .for_each(|message| drop(feed(&mut third, message).expect("goes on")));
    assert_eq!(rows(&mut third), (vec![(Op::Insert, Some(7))], None));
    let mut idle = decoder(Some(cut));
    idle.advance(Lsn(300));
    assert_eq!((idle.end(), idle.is_resuming()), (Lsn(300), false));
}

#[test]
fn a_frame_stays_within_its_bytes_whatever_numerics_become() {
    let column = |name: &str, data_type, key_ordinal| Column {
        name: name.to_owned(),
        data_type,
        source_type: String::new(),
        key_ordinal,
        can_be_absent: false,
    };
    let columns = vec![column("id", DataType::Int32, Some(0)), column("n", DataType::Utf8, None)];
    let schema = TableSchema { source: SourceId::new("s"), table: TableId::new("public", "t"), version: 2, columns };
    let mut decoder = decoder(None);
    decoder.define(RELATION, Some(Arc::new(Shape::new(schema, vec![Kind::Int4, Kind::Numeric]))));
    feed(&mut decoder, &begin(100, 1)).expect("begin");
    // Ten bytes that are 131,069 digits.
    let numeric = [&[0, 1][..], &i16::MAX.to_be_bytes(), &[0; 4], &[0, 1]].concat();
    let row = [&b"N\0\x02b\0\0\0\x04\0\0\0\x01b\0\0\0\x0a"[..], &numeric].concat();
    let insert = [&b"I"[..], &RELATION.to_be_bytes(), &row].concat();
    let fits = FRAME_BYTES_MAX / 131_069 + 1;
    let full = (0..fits).position(|_| matches!(feed(&mut decoder, &insert).expect("a row"), Step::Full));
    assert!(full.is_some(), "{fits} rows of 131,069 digits are no frame yet");
}

#[test]
fn a_move_is_two_rows_and_an_unchanged_key_in_the_old_row_is_none() {
    let mut decoder = decoder(None);
    feed(&mut decoder, &begin(100, 1)).expect("begin");
    feed(&mut decoder, &change(b'U', &[(b'K', &["1", "-"]), (b'N', &["2", "~"])])).expect("move");
    feed(&mut decoder, &change(b'U', &[(b'K', &["2", "-"]), (b'N', &["2", "x"])])).expect("update");
    feed(&mut decoder, &change(b'D', &[(b'K', &["2", "-"])])).expect("delete");
    feed(&mut decoder, &commit(100)).expect("commit");
    let wanted = vec![(Op::MoveOut, Some(1)), (Op::MoveIn, Some(2)), (Op::Update, Some(2)), (Op::Delete, Some(2))];
    assert_eq!(rows(&mut decoder), (wanted, None));
    assert_eq!(decoder.end(), Lsn(108));
}

#[test]
fn rows_that_wait_are_not_lost_when_a_relation_of_another_number_takes_the_name() {
    let mut decoder = decoder(None);
    feed(&mut decoder, &begin(100, 1)).expect("begin");
    feed(&mut decoder, &insert(1)).expect("insert");
    let (same, other) = (shape(), shape_of("w"));
    assert!(!decoder.must_cut_for(&same) && decoder.must_cut_for(&other));
    decoder.define(RELATION + 1, Some(same));
    assert!(decoder.must_cut_for(&other));
    assert_eq!(rows(&mut decoder).0, [(Op::Insert, Some(1))]);
    assert!(!decoder.must_cut_for(&other), "nothing waits any more");
}

#[test]
fn an_unknown_message_or_a_row_of_another_width_stops_the_source_and_says_where() {
    for (message, reason) in [
        (b"S\0\0".to_vec(), "is not known"),
        (change(b'I', &[(b'N', &["1"])]), "has 1 values where 2 columns are known"),
        (change(b'I', &[(b'N', &["x", "v"])]), "column id"),
        (begin(200, 2), "inside another"),
        (vec![b'I', 0, 0, 0, 9, b'N', 0, 0], "undescribed relation 9"),
    ] {
        let mut decoder = decoder(None);
        feed(&mut decoder, &begin(100, 1)).expect("begin");
        let error = feed(&mut decoder, &message).expect_err(reason).to_string();
        assert!(error.contains(reason) && error.contains("0/4D"), "{error}");
    }
}

#[test]
fn a_cut_transaction_that_comes_back_as_another_is_refused() {
    let cut = Cut { xid: 1, final_lsn: Lsn(100), changes: 2 };
    let mut other = decoder(Some(cut));
    assert!(matches!(feed(&mut other, &begin(100, 2)), Err(CaptureError::Position { .. })));
    let mut later = decoder(Some(cut));
    assert!(matches!(feed(&mut later, &begin(300, 3)), Err(CaptureError::Position { .. })));
    let mut shorter = decoder(Some(cut));
    for message in [begin(100, 1), insert(1)] {
        feed(&mut shorter, &message).expect("the same so far");
    }
    assert!(matches!(feed(&mut shorter, &commit(100)), Err(CaptureError::Position { .. })));
    // Earlier transactions are empty (PostgreSQL 14 sends those) or not what was read.
    let mut earlier = decoder(Some(cut));
    for message in [begin(50, 9), commit(50), begin(60, 10)] {
        feed(&mut earlier, &message).expect("empty");
    }
    assert!(matches!(feed(&mut earlier, &insert(1)), Err(CaptureError::Position { .. })));
}

proptest! {
    #[test]
    fn a_stream_cut_anywhere_and_continued_is_the_same_stream(
        sizes in proptest::collection::vec(0_usize..6, 1..6), cut_after in 0_usize..30,
    ) {
        let mut messages = Vec::new();
        let mut id = 0;
        for (i, size) in sizes.iter().enumerate() {
            let lsn = 100 + i as u64 * 100;
            messages.push(begin(lsn, u32::try_from(i).expect("few")));
            for _ in 0..*size {
                id += 1;
                messages.push(insert(id));
            }
            messages.push(commit(lsn));
        }
        let mut whole = decoder(None);
        for message in &messages {
            feed(&mut whole, message).expect("well formed");
        }
        let (wanted, _) = rows(&mut whole);

        let mut first = decoder(None);
        for message in messages.iter().take(cut_after) {
            feed(&mut first, message).expect("well formed");
        }
        let end = first.end();
        let (mut got, resume) = rows(&mut first);
        let mut second = Decoder::new(SourceId::new("s"), SpecialValues::Stop, end, resume);
        second.define(RELATION, Some(shape()));
        // The server sends again every transaction that ends behind the position.
        let mut skipping = false;
        for message in &messages {
            if message[0] == b'B' {
                let final_lsn = u64::from_be_bytes(message[1..9].try_into().expect("8 bytes"));
                skipping = final_lsn < end.0;
            }
            if !skipping {
                feed(&mut second, message).expect("well formed");
            }
        }
        got.extend(rows(&mut second).0);
        prop_assert_eq!(got, wanted);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        fuzz::decode(&bytes);
    }

    #[test]
    fn no_damage_to_a_stream_makes_the_decoder_panic(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut relation = vec![b'R'];
        relation.extend_from_slice(&RELATION.to_be_bytes());
        relation.extend_from_slice(b"public\0t\0d\0\x03");
        for (flag, name, oid) in [(1_u8, "id", 23_u32), (0, "amount", 1700), (0, "at", 1184)] {
            relation.push(flag);
            relation.extend_from_slice(name.as_bytes());
            relation.push(0);
            relation.extend_from_slice(&oid.to_be_bytes());
            relation.extend_from_slice(&786_438_i32.to_be_bytes());
        }
        let row: &[&str] = &["12", "-5.25", "2024-02-29 10:11:12.5+00"];
        let stream = [
            begin(100, 1), relation, change(b'I', &[(b'N', row)]), change(b'U', &[(b'K', row), (b'N', row)]),
            change(b'D', &[(b'O', row)]), [&b"T\0\0\0\x01\0"[..], &RELATION.to_be_bytes()].concat(), message(true, 90, b"p", b"text"), commit(100),
            message(false, 120, b"p", b"\xff"),
        ];
        let mut bytes = Vec::new();
        for message in stream {
            bytes.extend_from_slice(&u16::try_from(message.len()).expect("short").to_be_bytes());
            bytes.extend_from_slice(&message);
        }
        for (place, byte) in damage {
            let at = place.index(bytes.len());
            bytes[at] = byte;
        }
        fuzz::decode(&bytes);
    }
}
