//! JSON as MySQL stores it to the text that the server writes for it: `{"a": [1, 2.5], "b": null}`.
//!
//! ```text
//! value   type u8 | content
//! object  count, size | (key's place, its length u16)* | (type u8, place or what fits into it)* | keys | values
//! array   count, size | (type u8, place or what fits into it)* | values
//! ```
//! Places count from behind the type; in small ones they have two bytes, in large ones four. Places could lead in
//! circles or to one value many times: a value may be as deep as the server allows, and have as many parts as bytes.
//!
//! ```text
//! diff  what was changed in a value, where the log has no more of it
//! ```

mod diff;

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

pub(super) use self::diff::put_changed;
use super::{decimal, moment};
use crate::mysql::bytes::{Cursor, little_endian};
use crate::value::ValueFault;

const FAULT: ValueFault = ValueFault::Malformed("a JSON value has another form");
/// The server's own limit.
const DEPTH_MAX: u8 = 101;

/// Writes a value's text.
pub(super) fn put_text(bytes: &[u8], out: &mut String) -> Result<(), ValueFault> {
    let Some((kind, content)) = bytes.split_first() else {
        // The server's own reading of no bytes at all.
        out.push_str("null");
        return Ok(());
    };
    let mut writer = Writer { out, parts_left: bytes.len() };
    writer.value(*kind, content, DEPTH_MAX)
}

struct Writer<'o> {
    out: &'o mut String,
    parts_left: usize,
}

/// How many bytes counts and places have.
#[derive(Clone, Copy)]
struct Width(usize);

const SMALL: Width = Width(2);
const LARGE: Width = Width(4);

impl Width {
    fn read(self, bytes: &[u8], at: usize) -> Result<usize, ValueFault> {
        let end = at.checked_add(self.0).ok_or(FAULT)?;
        usize::try_from(little_endian(bytes.get(at..end).ok_or(FAULT)?)).map_err(|_| FAULT)
    }
}

/// An object or an array as it lies among the bytes.
struct Container<'a> {
    content: &'a [u8],
    width: Width,
    is_object: bool,
    count: usize,
    /// Where its entries of values begin.
    values_at: usize,
}

impl<'a> Container<'a> {
    fn open(kind: u8, content: &'a [u8]) -> Result<Self, ValueFault> {
        let (width, is_object) = (if kind & 1 == 0 { SMALL } else { LARGE }, kind < 2);
        let count = width.read(content, 0)?;
        let size = width.read(content, width.0)?;
        let content = content.get(..size).ok_or(FAULT)?;
        let keys_len = if is_object { count.checked_mul(width.0 + 2).ok_or(FAULT)? } else { 0 };
        let values_at = keys_len.checked_add(2 * width.0).ok_or(FAULT)?;
        if count.checked_mul(width.0 + 1).is_none_or(|len| len > content.len()) {
            return Err(FAULT);
        }
        Ok(Self { content, width, is_object, count, values_at })
    }

    fn key(&self, i: usize) -> Result<&'a str, ValueFault> {
        let entry = 2 * self.width.0 + i * (self.width.0 + 2);
        let (at, len) = (self.width.read(self.content, entry)?, SMALL.read(self.content, entry + self.width.0)?);
        let key = at.checked_add(len).and_then(|end| self.content.get(at..end)).ok_or(FAULT)?;
        std::str::from_utf8(key).map_err(|_| FAULT)
    }

    /// What the value is, and the bytes that it begins.
    fn value(&self, i: usize) -> Result<(u8, &'a [u8]), ValueFault> {
        let entry = self.values_at + i * (self.width.0 + 1);
        let kind = *self.content.get(entry).ok_or(FAULT)?;
        let is_inside = matches!(kind, 4..=6) || (self.width.0 == LARGE.0 && matches!(kind, 7 | 8));
        let at = if is_inside { entry + 1 } else { self.width.read(self.content, entry + 1)? };
        Ok((kind, self.content.get(at..).ok_or(FAULT)?))
    }
}

impl Writer<'_> {
    fn value(&mut self, kind: u8, content: &[u8], depth: u8) -> Result<(), ValueFault> {
        let depth = depth.checked_sub(1).ok_or(FAULT)?;
        self.parts_left = self.parts_left.checked_sub(1).ok_or(FAULT)?;
        let mut cursor = Cursor::new(content);
        match kind {
            0..=3 => return self.container(&Container::open(kind, content)?, depth),
            4 => self.out.push_str(match cursor.u8() {
                Ok(0) => "null",
                Ok(1) => "true",
                Ok(2) => "false",
                _ => return Err(FAULT),
            }),
            5 => self.number(i16::from_le_bytes(cursor.array().map_err(|_| FAULT)?)),
            6 => self.number(u16::from_le_bytes(cursor.array().map_err(|_| FAULT)?)),
            7 => self.number(i32::from_le_bytes(cursor.array().map_err(|_| FAULT)?)),
            8 => self.number(u32::from_le_bytes(cursor.array().map_err(|_| FAULT)?)),
            9 => self.number(i64::from_le_bytes(cursor.array().map_err(|_| FAULT)?)),
            10 => self.number(u64::from_le_bytes(cursor.array().map_err(|_| FAULT)?)),
            11 => {
                self.double(f64::from_le_bytes(cursor.array().map_err(|_| FAULT)?));
            }
            12 => {
                let text = sized(&mut cursor)?;
                self.text(std::str::from_utf8(text).map_err(|_| FAULT)?);
            }
            15 => {
                let kind = cursor.u8().map_err(|_| FAULT)?;
                self.opaque(kind, sized(&mut cursor)?)?;
            }
            _ => return Err(ValueFault::Malformed("a JSON value is of a kind that is not known")),
        }
        Ok(())
    }

    fn number(&mut self, number: impl std::fmt::Display) {
        write!(self.out, "{number}").expect("a String takes every text");
    }

    /// As the server: in full up to 15 digits on either side of the point, with an exponent beyond.
    fn double(&mut self, double: f64) {
        let exponential = format!("{double:e}");
        let exponent = exponential.split_once('e').and_then(|(_, exponent)| exponent.parse::<i32>().ok());
        if exponent.is_some_and(|exponent| (-15..15).contains(&exponent)) {
            self.number(double);
            if double.fract() == 0.0 {
                self.out.push_str(".0");
            }
        } else {
            self.out.push_str(&exponential);
        }
    }

    fn container(&mut self, container: &Container<'_>, depth: u8) -> Result<(), ValueFault> {
        self.out.push(if container.is_object { '{' } else { '[' });
        for i in 0..container.count {
            self.separate(i);
            if container.is_object {
                self.key(container.key(i)?);
            }
            let (kind, content) = container.value(i)?;
            self.value(kind, content, depth)?;
        }
        self.out.push(if container.is_object { '}' } else { ']' });
        Ok(())
    }

    fn separate(&mut self, i: usize) {
        if i > 0 {
            self.out.push_str(", ");
        }
    }

    fn key(&mut self, key: &str) {
        self.text(key);
        self.out.push_str(": ");
    }

    fn text(&mut self, text: &str) {
        self.out.push('"');
        for char in text.chars() {
            match char {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                control if u32::from(control) < 32 => {
                    write!(self.out, "\\u{:04x}", u32::from(control)).expect("a String takes every text");
                }
                other => self.out.push(other),
            }
        }
        self.out.push('"');
    }

    /// A value of a column's type inside JSON.
    fn opaque(&mut self, kind: u8, bytes: &[u8]) -> Result<(), ValueFault> {
        let form = match kind {
            246 => {
                let ([precision, scale], rest) = bytes.split_first_chunk().ok_or(FAULT)?;
                return decimal::put_text(rest, *precision, *scale, self.out);
            }
            7 | 12 => moment::Form::DateTime,
            10 => moment::Form::Date,
            11 => moment::Form::Time,
            other => {
                write!(self.out, "\"base64:type{other}:{}\"", STANDARD.encode(bytes)).map_err(|_| FAULT)?;
                return Ok(());
            }
        };
        let packed = i64::from_le_bytes(bytes.try_into().map_err(|_| FAULT)?);
        self.out.push('"');
        moment::put_json(packed, form, self.out)?;
        self.out.push('"');
        Ok(())
    }
}

/// Bytes with their length in front: seven bits in each of its bytes, the highest says that another follows.
fn sized<'a>(cursor: &mut Cursor<'a>) -> Result<&'a [u8], ValueFault> {
    let mut len = 0_u64;
    for shift in [0, 7, 14, 21, 28] {
        let byte = cursor.u8().map_err(|_| FAULT)?;
        len |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            let len = usize::try_from(len).map_err(|_| FAULT)?;
            return cursor.take(len).map_err(|_| FAULT);
        }
    }
    Err(FAULT)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::*;

    /// As MySQL stores it, written independently: each value with its type in front, places of 4 bytes in large ones.
    pub(super) fn pack(value: &Value, width: usize) -> (u8, Vec<u8>) {
        let put =
            |out: &mut Vec<u8>, number: usize, width: usize| out.extend_from_slice(&number.to_le_bytes()[..width]);
        match value {
            Value::Null => (4, vec![0]),
            Value::Bool(value) => (4, vec![if *value { 1 } else { 2 }]),
            Value::Number(number) if number.is_i64() => (9, number.as_i64().unwrap().to_le_bytes().to_vec()),
            Value::Number(number) if number.is_u64() => (10, number.as_u64().unwrap().to_le_bytes().to_vec()),
            Value::Number(number) => (11, number.as_f64().unwrap().to_le_bytes().to_vec()),
            Value::String(text) => {
                let mut out =
                    vec![u8::try_from(text.len() % 128).unwrap() | 0x80, u8::try_from(text.len() / 128).unwrap()];
                out.extend_from_slice(text.as_bytes());
                (12, out)
            }
            Value::Array(_) | Value::Object(_) => {
                let no_keys = Map::new();
                let (keys, values): (Vec<&String>, Vec<&Value>) = match value {
                    Value::Object(map) => map.iter().unzip(),
                    Value::Array(values) => (no_keys.keys().collect(), values.iter().collect()),
                    _ => unreachable!("only containers"),
                };
                let mut at = 2 * width + keys.len() * (width + 2) + values.len() * (width + 1);
                let (mut head, mut tail) = (Vec::new(), Vec::new());
                for key in &keys {
                    put(&mut head, at, width);
                    put(&mut head, key.len(), 2);
                    tail.extend_from_slice(key.as_bytes());
                    at += key.len();
                }
                for value in &values {
                    let (kind, bytes) = pack(value, width);
                    head.push(kind);
                    if kind == 4 {
                        put(&mut head, usize::from(bytes[0]), width);
                    } else {
                        put(&mut head, at, width);
                        at += bytes.len();
                        tail.extend(bytes);
                    }
                }
                let mut out = Vec::new();
                put(&mut out, values.len(), width);
                put(&mut out, at, width);
                out.extend(head);
                out.extend(tail);
                let base = if value.is_object() { 0 } else { 2 };
                (base + u8::from(width == 4), out)
            }
        }
    }

    pub(super) fn text(bytes: &[u8]) -> Result<String, ValueFault> {
        let mut out = String::new();
        put_text(bytes, &mut out).map(|()| out)
    }

    pub(super) fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            // Such as every reader of decimals gets back exactly.
            any::<i32>().prop_map(|eighths| Value::from(f64::from(eighths) / 8.0)),
            "[a-zé\"\\\\\n\u{1}]{0,5}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-zé\"]{0,3}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    #[test]
    fn json_is_written_as_the_server_does() {
        let value: Value = serde_json::from_str(r#"{"a": [1, "x\"y", null], "b": {}, "c": 1.0}"#).unwrap();
        let (kind, bytes) = pack(&value, 2);
        assert_eq!(text(&[&[kind][..], &bytes].concat()).unwrap(), r#"{"a": [1, "x\"y", null], "b": {}, "c": 1.0}"#);
        assert_eq!(text(&[]).unwrap(), "null");
        assert_eq!(text(&[2, 1, 0, 7, 0, 5, 0xfe, 0xff]).unwrap(), "[-2]", "a small number lies in its place");
        assert_eq!(text(&[15, 246, 4, 3, 2, 0x81, 0x2d]).unwrap(), "1.45");
        let packed = ((((2015 * 13 + 1) << 5 | 15) << 17 | 23 << 12 | 24 << 6 | 25) << 24_i64) | 120_000;
        let moment = [&[15, 12, 8][..], &i64::to_le_bytes(packed)].concat();
        assert_eq!(text(&moment).unwrap(), "\"2015-01-15 23:24:25.120000\"");
        assert_eq!(text(&[15, 252, 2, 1, 2]).unwrap(), "\"base64:type252:AQI=\"");
    }

    #[test]
    fn a_value_that_leads_in_circles_ends_in_an_error() {
        // An array whose element is the array itself, and one that has one element many times over, level by level.
        assert!(text(&[2, 1, 0, 7, 0, 2, 0, 0]).is_err());
        let mut nested = vec![2, 2, 0, 250, 0, 2, 10, 0, 2, 10, 0];
        nested.resize(251, 0);
        assert!(text(&nested).is_ok() || text(&nested).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_value_is_the_same_as_text(value in any_value(), width in prop_oneof![Just(2_usize), Just(4_usize)]) {
            let (kind, bytes) = pack(&value, width);
            let text = text(&[&[kind][..], &bytes].concat()).unwrap();
            prop_assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60), kind in 0_u8..16) {
            let _ = text(&[&[kind][..], &bytes].concat());
        }
    }
}
