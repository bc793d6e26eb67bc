//! The rules of the house, as a test: prose rules rot, failing ones do not.
//!
//! Every rule looks at the whole tree and reports every breach with its place and what to do, so that one run shows all
//! there is to mend. Nothing is started and nothing is built: the suite takes a fraction of a second.

#[path = "tidy/documents.rs"]
mod documents;
#[path = "tidy/manifests.rs"]
mod manifests;
#[path = "tidy/sources.rs"]
mod sources;
#[path = "tidy/tree.rs"]
mod tree;

/// Fails with everything that was found.
fn refuse(breaches: &[String]) {
    assert!(breaches.is_empty(), "{} breach(es):\n  {}", breaches.len(), breaches.join("\n  "));
}
