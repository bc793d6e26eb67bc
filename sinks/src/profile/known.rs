//! Which keys a platform is known to have, for those whose create and update are different requests.
//!
//! It is a guess that saves requests, never a truth: the platform's own users add and delete rows, and a crash can lose what
//! was learned last. So a hash of 64 bits per key suffices, and whoever asks must be ready for a wrong answer.
//!
//! Hashes lie in buckets, each a note of its own: a write remembers the buckets that changed.
//! Note `known/<flow>/<bucket>`: hashes, 8 bytes each, big-endian.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use xxhash_rust::xxh3::xxh3_64;

/// Buckets of a flow: with a million keys, a new one rewrites 32 KB.
const BUCKETS: u64 = 256;
/// Keys of a flow that are remembered, 16 MB of memory; the others are tried as if they were new.
const KEYS_MAX: usize = 2_000_000;

/// The keys of all flows.
#[derive(Debug, Default)]
pub(super) struct KnownKeys {
    flows: HashMap<&'static str, Keys>,
}

#[derive(Debug, Default)]
struct Keys {
    hashes: HashSet<u64>,
    changed: BTreeSet<u64>,
}

fn hash(key: &str) -> u64 {
    xxh3_64(key.as_bytes())
}

impl KnownKeys {
    /// Takes up what an earlier process has learned about some flows.
    pub(super) fn recall(&mut self, flows: impl Iterator<Item = &'static str>, notes: &BTreeMap<String, Vec<u8>>) {
        for flow in flows {
            let prefix = format!("known/{flow}/");
            let of_flow = notes.iter().filter(|(name, _)| name.starts_with(&prefix));
            let hashes = of_flow.flat_map(|(_, note)| note.as_chunks::<8>().0).map(|bytes| u64::from_be_bytes(*bytes));
            // What this process has learned since is newer.
            self.flows.entry(flow).or_insert_with(|| Keys { hashes: hashes.collect(), changed: BTreeSet::new() });
        }
    }

    pub(super) fn has(&self, flow: &str, key: &str) -> bool {
        self.flows.get(flow).is_some_and(|keys| keys.hashes.contains(&hash(key)))
    }

    pub(super) fn learn(&mut self, flow: &'static str, key: &str) {
        let keys = self.flows.entry(flow).or_default();
        if keys.hashes.len() < KEYS_MAX && keys.hashes.insert(hash(key)) {
            keys.changed.insert(hash(key) % BUCKETS);
        }
    }

    pub(super) fn forget(&mut self, flow: &'static str, key: &str) {
        let keys = self.flows.entry(flow).or_default();
        if keys.hashes.remove(&hash(key)) {
            keys.changed.insert(hash(key) % BUCKETS);
        }
    }

    /// What is to be remembered and is not yet.
    pub(super) fn notes(&mut self) -> Vec<(String, Vec<u8>)> {
        let mut notes = Vec::new();
        for (flow, keys) in &mut self.flows {
            let changed = std::mem::take(&mut keys.changed);
            if changed.is_empty() {
                continue;
            }
            let mut buckets: BTreeMap<u64, Vec<u8>> = changed.into_iter().map(|bucket| (bucket, Vec::new())).collect();
            for hash in &keys.hashes {
                if let Some(note) = buckets.get_mut(&(hash % BUCKETS)) {
                    note.extend_from_slice(&hash.to_be_bytes());
                }
            }
            notes.extend(buckets.into_iter().map(|(bucket, note)| (format!("known/{flow}/{bucket:02x}"), note)));
        }
        notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_process_learned_the_next_one_knows_and_only_changed_buckets_are_written() {
        let mut keys = KnownKeys::default();
        for key in 0..1_000 {
            keys.learn("item", &key.to_string());
        }
        let mut notes: BTreeMap<String, Vec<u8>> = keys.notes().into_iter().collect();
        assert!(keys.notes().is_empty(), "nothing has changed since");
        keys.learn("item", "7");
        assert!(keys.notes().is_empty(), "it was known");
        keys.forget("item", "7");
        let changed = keys.notes();
        assert_eq!(changed.len(), 1);
        notes.extend(changed);
        let mut next = KnownKeys::default();
        next.recall(["item", "location"].into_iter(), &notes);
        assert!(next.has("item", "8") && !next.has("item", "7") && !next.has("location", "8"));
    }
}
