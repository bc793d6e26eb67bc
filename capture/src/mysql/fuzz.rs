//! The decoder fed with anything, for fuzzing and property tests; not part of any other build.

use std::collections::BTreeMap;
use std::sync::Arc;

use syncline_schemas::ident::SourceId;

use super::decoder::{Decoder, Policies, Step};
use super::gtid::{GtidSet, MariaDbSet, MySqlSet};
use super::scope::Scope;
use crate::pattern::TablePatterns;
use crate::policy::{SpecialValues, Truncates};

/// Takes bytes for events of a log, each with its length (`u16`, big-endian) in front, and decodes them; the first byte says of
/// which kind of server. Heads are given the size that the event has: anything else ends at once.
pub fn decode(bytes: &[u8]) {
    let Some((kind, mut bytes)) = bytes.split_first() else { return };
    let Ok(patterns) = TablePatterns::parse(&["*.*"]) else { return };
    let scope = Scope { patterns, keys: BTreeMap::new(), ignores_case: true };
    let end = if kind & 1 == 0 { GtidSet::MySql(MySqlSet::default()) } else { GtidSet::MariaDb(MariaDbSet::default()) };
    let policies = Policies { special_values: SpecialValues::Null, truncates: Truncates::Apply };
    let mut decoder = Decoder::new(SourceId::new("fuzz"), scope, policies, end, None);
    while let Some((len, rest)) = bytes.split_first_chunk::<2>() {
        let len = usize::from(u16::from_be_bytes(*len)).min(rest.len());
        let (event, rest) = rest.split_at(len);
        bytes = rest;
        let mut event = event.to_vec();
        if let (Some(size), Ok(len)) = (event.get_mut(9..13), u32::try_from(len)) {
            size.copy_from_slice(&len.to_le_bytes());
        }
        // A session ends at its first error.
        let Ok(step) = decoder.decode(&event) else { return };
        if !follow(&mut decoder, step) {
            return;
        }
    }
    let _ = decoder.take();
}

/// Does what a step asks for; false where a session ends.
fn follow(decoder: &mut Decoder, step: Step<'_>) -> bool {
    match step {
        Step::Continue => true,
        Step::Refused(_) => false,
        Step::Replaced(_) => decoder.pass().is_ok(),
        Step::Full => decoder.take().is_ok(),
        Step::Unsaid(table) => {
            let Ok(step) = decoder.say(table, BTreeMap::new()) else { return false };
            follow(decoder, step)
        }
        Step::Shape(shape) => {
            if decoder.must_cut_for(&shape) && decoder.take().is_err() {
                return false;
            }
            decoder.define(Arc::clone(&shape));
            true
        }
        Step::Payload(mut payload) => {
            while let Ok(Some(event)) = payload.next() {
                let Ok(step) = decoder.decode_inner(event) else { return false };
                if !follow(decoder, step) {
                    return false;
                }
            }
            true
        }
    }
}
