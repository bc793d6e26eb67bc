//! What of the planning outputs is in the log, as bytes in a frame.
//!
//! ```text
//! version u8 = 1 | kind u8 | count u8, then by rising name: name, cycle        the cycles that the log holds whole
//! kind 1  whole                                                                and nothing else
//! kind 2  cut: name, cycle                                                     and a part of this one
//! kind 3  again                                                                of outputs that are all read again; those
//!                                                                              that are not named have yet to be
//! ```
//! Names and cycles are texts: length u8, bytes.

use std::collections::BTreeMap;

use syncline_schemas::ident::Position;

const VERSION: u8 = 1;
const WHOLE: u8 = 1;
const CUT: u8 = 2;
const AGAIN: u8 = 3;

/// The cycles that the log holds whole, by output.
pub(super) type Done = BTreeMap<String, String>;

/// What the log holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum OutputsPosition {
    /// Exactly these cycles.
    Whole(Done),
    /// These, and a part of a cycle of an output.
    Cut { done: Done, output: String, cycle: String },
    /// These, in a transaction that ends once there is one of every output.
    Again(Done),
}

/// The position of outputs whose newest cycles are to be put into the log again, as if none were there.
///
/// # Errors
/// What is wrong with the position.
pub fn begin_again(position: &Position) -> Result<Position, String> {
    if position.is_start() {
        return Ok(OutputsPosition::Again(Done::new()).encode());
    }
    match OutputsPosition::decode(position)? {
        OutputsPosition::Whole(_) | OutputsPosition::Again(_) => Ok(OutputsPosition::Again(Done::new()).encode()),
        OutputsPosition::Cut { output, .. } => {
            Err(format!("a cycle of {output} is half in the log; let the daemon finish it first"))
        }
    }
}

impl OutputsPosition {
    pub(super) fn encode(&self) -> Position {
        let (kind, done, cut) = match self {
            Self::Whole(done) => (WHOLE, done, None),
            Self::Cut { done, output, cycle } => (CUT, done, Some((output, cycle))),
            Self::Again(done) => (AGAIN, done, None),
        };
        let mut out = vec![VERSION, kind, u8::try_from(done.len()).expect("there are three outputs")];
        for (output, cycle) in done.iter().chain(cut) {
            put_text(&mut out, output);
            put_text(&mut out, cycle);
        }
        Position::new(out)
    }

    /// Reads what [`OutputsPosition::encode`] wrote; the error says what is wrong.
    pub(super) fn decode(position: &Position) -> Result<Self, String> {
        let mut rest = position.as_bytes();
        let [version, kind, count] = take(&mut rest)?;
        if version != VERSION {
            return Err(format!("its format {version} is not {VERSION}; a newer Syncline wrote it"));
        }
        let mut done = Done::new();
        for _ in 0..count {
            let output = text(&mut rest)?;
            if done.last_key_value().is_some_and(|(last, _)| *last >= output) {
                return Err("its outputs are not in order".to_owned());
            }
            done.insert(output, text(&mut rest)?);
        }
        let decoded = match kind {
            WHOLE => Self::Whole(done),
            CUT => Self::Cut { done, output: text(&mut rest)?, cycle: text(&mut rest)? },
            AGAIN => Self::Again(done),
            other => return Err(format!("its kind {other} is not known")),
        };
        if rest.is_empty() { Ok(decoded) } else { Err("bytes are left over".to_owned()) }
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.push(u8::try_from(text.len()).expect("outputs have short names, and cycles were looked at when they came"));
    out.extend_from_slice(text.as_bytes());
}

fn text(rest: &mut &[u8]) -> Result<String, String> {
    let [len] = take(rest)?;
    let (text, tail) = rest.split_at_checked(usize::from(len)).ok_or("it is cut short")?;
    *rest = tail;
    std::str::from_utf8(text).map(str::to_owned).map_err(|_| "a text is not UTF-8".to_owned())
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], String> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or("it is cut short")?;
    *rest = tail;
    Ok(*head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn positions() -> impl Strategy<Value = OutputsPosition> {
        let done = || proptest::collection::btree_map("[a-z_]{0,12}", "[!-~]{1,40}", 0..4);
        let cut = (done(), "[a-z_]{1,12}", "[!-~]{1,40}").prop_map(|(done, output, cycle)| OutputsPosition::Cut {
            done,
            output,
            cycle,
        });
        prop_oneof![done().prop_map(OutputsPosition::Whole), cut, done().prop_map(OutputsPosition::Again)]
    }

    proptest! {
        #[test]
        fn positions_read_back_and_cut_or_longer_ones_are_refused(position in positions()) {
            let encoded = position.encode();
            prop_assert_eq!(OutputsPosition::decode(&encoded), Ok(position));
            for len in 0..encoded.as_bytes().len() {
                prop_assert!(OutputsPosition::decode(&Position::new(encoded.as_bytes()[..len].to_vec())).is_err());
            }
            let longer = [encoded.as_bytes(), &[0]].concat();
            prop_assert!(OutputsPosition::decode(&Position::new(longer)).is_err());
        }

        #[test]
        fn no_bytes_make_the_decoder_panic_and_what_it_takes_it_writes(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(decoded) = OutputsPosition::decode(&Position::new(bytes.clone())) {
                prop_assert_eq!(decoded.encode(), Position::new(bytes));
            }
        }
    }

    #[test]
    fn the_bytes_of_this_release_stay_readable_and_beginning_again_forgets_every_cycle() {
        let done = Done::from([("forecast".to_owned(), "c1".to_owned())]);
        let whole = OutputsPosition::Whole(done.clone());
        assert_eq!(whole.encode().as_bytes(), b"\x01\x01\x01\x08forecast\x02c1");
        let again = begin_again(&whole.encode()).expect("whole");
        assert_eq!(OutputsPosition::decode(&again), Ok(OutputsPosition::Again(Done::new())));
        assert_eq!(begin_again(&again), Ok(again), "asked for twice");
        let cut = OutputsPosition::Cut { done, output: "forecast".to_owned(), cycle: "c2".to_owned() };
        assert_eq!(cut.encode().as_bytes(), b"\x01\x02\x01\x08forecast\x02c1\x08forecast\x02c2");
        assert!(begin_again(&cut.encode()).expect_err("half").contains("forecast"));
    }
}
