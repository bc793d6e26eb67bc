//! What was changed in a JSON value (`binlog_row_value_options = PARTIAL_JSON`), applied to what it was before.
//!
//! ```text
//! (what u8: 0 replace, 1 insert, 2 remove | length, path | but for remove: length, value)*
//! path   $ (.name | ."name as JSON writes it" | [number])+
//! ```
//! Each is applied to what those before it have made. The value before is taken apart as far as paths lead; all else stays the
//! bytes that it is. No path may be deeper than a value may be, so no bytes make a tree that is.

use super::{Container, DEPTH_MAX, FAULT, Writer};
use crate::mysql::bytes::Cursor;
use crate::value::ValueFault;

const MISSED: ValueFault = ValueFault::Malformed(
    "what is said to be changed in a JSON value is not there; have `syncline replay --reread` copy the tables again",
);
const PATH: ValueFault = ValueFault::Malformed("a path into a JSON value has another form");

/// A value, taken apart as far as needed.
enum Node<'a> {
    Stored(u8, &'a [u8]),
    Array(Vec<Self>),
    /// Keys as the server orders them: by their length, then by their bytes.
    Object(Vec<(String, Self)>),
}

enum Leg {
    Member(String),
    Cell(usize),
}

/// Writes the text of a value of which it is known what it was before and what was changed in it.
pub(in super::super) fn put_changed(before: &[u8], changes: &[u8], out: &mut String) -> Result<(), ValueFault> {
    let mut root = stored(before);
    let mut cursor = Cursor::new(changes);
    let mut parts_left = before.len() + changes.len();
    while !cursor.is_at_end() {
        apply(&mut root, &mut cursor, &mut parts_left)?;
    }
    let mut writer = Writer { out, parts_left: before.len() + changes.len() };
    root.write(&mut writer, DEPTH_MAX)
}

/// A value with its type in front. The server reads no bytes at all as null.
fn stored(bytes: &[u8]) -> Node<'_> {
    bytes.split_first().map_or(Node::Stored(4, &[0]), |(kind, content)| Node::Stored(*kind, content))
}

fn apply<'a>(root: &mut Node<'a>, cursor: &mut Cursor<'a>, parts_left: &mut usize) -> Result<(), ValueFault> {
    const REPLACE: u8 = 0;
    const INSERT: u8 = 1;
    const REMOVE: u8 = 2;
    let what = cursor.u8().map_err(|_| FAULT)?;
    let path = cursor.lenenc_bytes().map_err(|_| FAULT)?;
    let legs = legs(std::str::from_utf8(path).map_err(|_| PATH)?)?;
    let (last, parents) = legs.split_last().ok_or(PATH)?;
    let mut parent = root;
    for leg in parents {
        parent = parent.open(parts_left)?.child(leg)?;
    }
    parent.open(parts_left)?;
    if what == REMOVE {
        return parent.remove(last);
    }
    let value = stored(cursor.lenenc_bytes().map_err(|_| FAULT)?);
    match what {
        REPLACE => *parent.child(last)? = value,
        INSERT => parent.insert(last, value)?,
        _ => return Err(ValueFault::Malformed("a JSON value is changed in a way that is not known")),
    }
    Ok(())
}

impl<'a> Node<'a> {
    /// Takes it apart, one level.
    fn open(&mut self, parts_left: &mut usize) -> Result<&mut Self, ValueFault> {
        if let Self::Stored(kind @ 0..=3, content) = *self {
            let container = Container::open(kind, content)?;
            *parts_left = parts_left.checked_sub(container.count).ok_or(FAULT)?;
            let value = |i| container.value(i).map(|(kind, content)| Self::Stored(kind, content));
            *self = if container.is_object {
                let member = |i| Ok((container.key(i)?.to_owned(), value(i)?));
                Self::Object((0..container.count).map(member).collect::<Result<_, ValueFault>>()?)
            } else {
                Self::Array((0..container.count).map(value).collect::<Result<_, _>>()?)
            };
        }
        Ok(self)
    }

    fn child(&mut self, leg: &Leg) -> Result<&mut Self, ValueFault> {
        match (self, leg) {
            (Self::Object(members), Leg::Member(name)) => {
                members.iter_mut().find(|(key, _)| key == name).map(|(_, value)| value)
            }
            (Self::Array(cells), Leg::Cell(index)) => cells.get_mut(*index),
            _ => None,
        }
        .ok_or(MISSED)
    }

    fn insert(&mut self, leg: &Leg, value: Self) -> Result<(), ValueFault> {
        match (self, leg) {
            (Self::Object(members), Leg::Member(name)) => {
                let order = |key: &str| (key.len(), key.as_bytes().to_vec());
                match members.binary_search_by_key(&order(name), |(key, _)| order(key)) {
                    Ok(_) => return Err(MISSED),
                    Err(place) => members.insert(place, (name.clone(), value)),
                }
            }
            // Behind the end is at the end, as in the server.
            (Self::Array(cells), Leg::Cell(index)) => cells.insert((*index).min(cells.len()), value),
            _ => return Err(MISSED),
        }
        Ok(())
    }

    fn remove(&mut self, leg: &Leg) -> Result<(), ValueFault> {
        match (self, leg) {
            (Self::Object(members), Leg::Member(name)) => {
                let place = members.iter().position(|(key, _)| key == name).ok_or(MISSED)?;
                members.remove(place);
            }
            (Self::Array(cells), Leg::Cell(index)) if *index < cells.len() => drop(cells.remove(*index)),
            _ => return Err(MISSED),
        }
        Ok(())
    }

    fn write(&self, writer: &mut Writer<'_>, depth: u8) -> Result<(), ValueFault> {
        if let Self::Stored(kind, content) = self {
            return writer.value(*kind, content, depth);
        }
        let depth = depth.checked_sub(1).ok_or(FAULT)?;
        let (open, close) = if matches!(self, Self::Object(_)) { ('{', '}') } else { ('[', ']') };
        writer.out.push(open);
        match self {
            Self::Object(members) => {
                for (i, (key, value)) in members.iter().enumerate() {
                    writer.separate(i);
                    writer.key(key);
                    value.write(writer, depth)?;
                }
            }
            Self::Array(cells) => {
                for (i, value) in cells.iter().enumerate() {
                    writer.separate(i);
                    value.write(writer, depth)?;
                }
            }
            Self::Stored(..) => {}
        }
        writer.out.push(close);
        Ok(())
    }
}

/// Takes a path apart.
fn legs(path: &str) -> Result<Vec<Leg>, ValueFault> {
    let mut rest = path.strip_prefix('$').ok_or(PATH)?;
    let mut legs = Vec::new();
    while !rest.is_empty() {
        if legs.len() >= usize::from(DEPTH_MAX) {
            return Err(PATH);
        }
        let (leg, behind) = if let Some(number) = rest.strip_prefix('[') {
            let (number, behind) = number.split_once(']').ok_or(PATH)?;
            let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
            let number = number.parse().ok().filter(|_| is_number).ok_or(PATH)?;
            (Leg::Cell(number), behind)
        } else {
            let name = rest.strip_prefix('.').ok_or(PATH)?;
            member(name)?
        };
        legs.push(leg);
        rest = behind;
    }
    Ok(legs)
}

/// A member's name, and what follows it.
fn member(text: &str) -> Result<(Leg, &str), ValueFault> {
    if !text.starts_with('"') {
        let len = text.find(['.', '[', '*', '"', ' ']).unwrap_or(text.len());
        let (name, behind) = text.split_at(len);
        return if name.is_empty() { Err(PATH) } else { Ok((Leg::Member(name.to_owned()), behind)) };
    }
    let mut names = serde_json::Deserializer::from_str(text).into_iter::<String>();
    let name = names.next().ok_or(PATH)?.map_err(|_| PATH)?;
    Ok((Leg::Member(name), text.get(names.byte_offset()..).ok_or(PATH)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::super::tests::{any_value, pack};
    use super::*;

    fn packed(value: &Value, width: usize) -> Vec<u8> {
        let (kind, bytes) = pack(value, width);
        [&[kind][..], &bytes].concat()
    }

    fn put_sized(out: &mut Vec<u8>, bytes: &[u8]) {
        out.push(252);
        out.extend_from_slice(&u16::try_from(bytes.len()).unwrap().to_le_bytes());
        out.extend_from_slice(bytes);
    }

    /// One change as the server writes it.
    fn change(what: u8, path: &str, value: Option<&Value>) -> Vec<u8> {
        let mut out = vec![what];
        put_sized(&mut out, path.as_bytes());
        if let Some(value) = value {
            put_sized(&mut out, &packed(value, 2));
        }
        out
    }

    fn changed(before: &Value, changes: &[u8]) -> Result<String, ValueFault> {
        let mut out = String::new();
        put_changed(&packed(before, 2), changes, &mut out).map(|()| out)
    }

    #[test]
    fn changes_are_made_one_after_the_other_and_keys_stay_in_the_servers_order() {
        let before = json!({"a": [1, {"b": 2}], "bb": "x"});
        let changes = [
            change(1, "$.c", Some(&json!(null))),
            change(1, "$.a[1].\"k \\\"ä\"", Some(&json!([1]))),
            change(0, "$.a[1].\"k \\\"ä\"[0]", Some(&json!(7))),
            change(1, "$.a[9]", Some(&json!("end"))),
            change(2, "$.a[0]", None),
            change(2, "$.bb", None),
        ]
        .concat();
        assert_eq!(changed(&before, &changes).unwrap(), r#"{"a": [{"b": 2, "k \"ä": [7]}, "end"], "c": null}"#);
        assert_eq!(changed(&before, &[]).unwrap(), r#"{"a": [1, {"b": 2}], "bb": "x"}"#, "nothing was changed");
    }

    #[test]
    fn a_change_that_fits_nowhere_is_never_passed_over() {
        let before = json!({"a": [1]});
        for (what, path) in
            [(0, "$.b"), (2, "$.b"), (2, "$.a[1]"), (1, "$.a"), (1, "$.a.b"), (1, "$.a[0][0]"), (0, "$[0]")]
        {
            let value = json!(1);
            let value = Some(&value).filter(|_| what != 2);
            assert_eq!(changed(&before, &change(what, path, value)), Err(MISSED), "{what} {path}");
        }
        for path in [
            "$",
            "",
            "a",
            "$.",
            "$a",
            "$[",
            "$[]",
            "$[-1]",
            "$[last]",
            "$[+1]",
            "$.*",
            "$**.a",
            "$.\"a",
            "$[99999999999999999999]",
        ] {
            assert!(changed(&before, &change(0, path, Some(&json!(1)))).is_err(), "{path}");
        }
        assert!(changed(&before, &change(3, "$.a", Some(&json!(1)))).is_err(), "a way that is not known");
        let deep = format!("${}", "[0]".repeat(102));
        assert_eq!(changed(&before, &change(2, &deep, None)), Err(PATH));
    }

    /// Some place in a value: the path to it as the server writes it, and as a list.
    fn places(value: &Value, path: &str, out: &mut Vec<(String, Vec<Value>)>, legs: &[Value]) {
        if !legs.is_empty() {
            out.push((path.to_owned(), legs.to_vec()));
        }
        let with = |leg: Value| [legs, &[leg]].concat();
        match value {
            Value::Array(values) => values.iter().enumerate().for_each(|(i, value)| {
                places(value, &format!("{path}[{i}]"), out, &with(json!(i)));
            }),
            Value::Object(members) => members.iter().for_each(|(key, value)| {
                places(value, &format!("{path}.{}", json!(key)), out, &with(json!(key)));
            }),
            _ => {}
        }
    }

    fn at<'v>(value: &'v mut Value, legs: &[Value]) -> &'v mut Value {
        legs.iter().fold(value, |value, leg| match leg {
            Value::String(key) => value.get_mut(key).unwrap(),
            index => value.get_mut(usize::try_from(index.as_u64().unwrap()).unwrap()).unwrap(),
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_value_that_was_changed_in_parts_is_the_value_that_it_became(
            before in any_value(), acts in proptest::collection::vec((0_u8..3, any::<prop::sample::Index>(), any_value()), 0..6),
            width in prop_oneof![Just(2_usize), Just(4_usize)],
        ) {
            let (mut after, mut changes) = (before.clone(), Vec::new());
            for (what, place, value) in acts {
                let mut all = Vec::new();
                places(&after, "$", &mut all, &[]);
                if all.is_empty() {
                    break;
                }
                let (path, legs) = place.get(&all);
                let (last, parents) = legs.split_last().unwrap();
                match (what, at(&mut after, parents)) {
                    (0, parent) => *at(parent, std::slice::from_ref(last)) = value.clone(),
                    (1, Value::Array(cells)) => cells.insert(usize::try_from(last.as_u64().unwrap()).unwrap(), value.clone()),
                    (2, Value::Array(cells)) => drop(cells.remove(usize::try_from(last.as_u64().unwrap()).unwrap())),
                    (2, Value::Object(members)) => drop(Map::remove(members, last.as_str().unwrap())),
                    // A key that is there cannot come.
                    _ => continue,
                }
                changes.extend(change(what, path, Some(&value).filter(|_| what != 2)));
            }
            let mut out = String::new();
            put_changed(&packed(&before, width), &changes, &mut out).unwrap();
            prop_assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), after);
        }

        #[test]
        fn no_bytes_make_it_panic(before in any_value(), cut in 0_usize..40, changes in proptest::collection::vec(any::<u8>(), 0..60), path in "\\$([.\\[\\]\"*a0-9]|\\[[0-9]\\]|\\.[a-z]){0,6}", what in 0_u8..4) {
            let mut bytes = packed(&before, 2);
            bytes.truncate(cut);
            let mut changes = changes;
            let path = change(what, &path, Some(&before));
            let _ = put_changed(&bytes, &changes, &mut String::new());
            changes.splice(0..0, path);
            let _ = put_changed(&bytes, &changes, &mut String::new());
            let _ = put_changed(&packed(&before, 4), &changes, &mut String::new());
        }
    }
}
