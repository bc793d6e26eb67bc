//! The decoder fed with anything, for fuzzing and property tests; not part of any other build.

use std::sync::Arc;

use syncline_schemas::ident::SourceId;

use super::catalog::Catalog;
use super::config::SpecialValues;
use super::decode::{Decoder, Step};
use super::lsn::Lsn;
use super::pattern::Prefixes;
use super::wire::StreamMessage;

/// Takes bytes for messages of a log stream, each with its length (`u16`, big-endian) in front, and decodes them.
pub fn decode(mut bytes: &[u8]) {
    let source = SourceId::new("fuzz");
    let catalog = Catalog::default();
    let prefixes = Prefixes::parse(&["*"]).ok();
    let mut decoder = Decoder::new(source.clone(), SpecialValues::Null, Lsn(0), None).with_messages(prefixes.as_ref());
    while let Some((len, rest)) = bytes.split_first_chunk::<2>() {
        let len = usize::from(u16::from_be_bytes(*len)).min(rest.len());
        let (message, rest) = rest.split_at(len);
        bytes = rest;
        let _ = StreamMessage::parse(message);
        match decoder.decode(Lsn(1), message) {
            Ok(Step::Relation(relation)) => {
                let Ok(shape) = catalog.shape(&source, &relation) else { continue };
                if decoder.must_cut_for(&shape) {
                    let _ = decoder.take();
                }
                decoder.define(relation.id, Some(Arc::new(shape)));
            }
            Ok(Step::Continue | Step::Full | Step::Outdated(_) | Step::Refused(_)) => {}
            // A session ends at its first error.
            Err(_) => return,
        }
    }
    let _ = decoder.take();
}
