//! How many rows are held now, by mapping and rule: read from the state from time to time, as the fold counts only what it
//! meets, and a row that was held a year ago still waits.

use std::collections::BTreeSet;

use syncline_journal::Store;
use syncline_transform::fold::HeldNow;
use tracing::warn;

use super::status::Status;
use super::transform;

/// Rows of a mapping that one look reads at most: some milliseconds, and more than anybody would mend one by one.
const LIMIT: usize = 10_000;

/// Puts what is held now into the status. The first row that a mapping holds is worth a warning: it is where a rule was
/// misread or the source went wrong, and thousands may follow.
pub(crate) fn look(store: &Store, status: &Status) {
    let Ok(now) = transform::held_now(store, LIMIT) else {
        // Whoever needs the state meets the same error and says it.
        return;
    };
    let before = status.transform.held.replace(now.clone()).unwrap_or_default();
    let known: BTreeSet<_> = before.by.iter().map(|held| (&held.mapping, &held.entity)).collect();
    for held in now.by.iter().filter(|held| !known.contains(&(&held.mapping, &held.entity))) {
        let mapping = held.mapping.as_deref().unwrap_or("");
        warn!(
            mapping,
            entity = held.entity,
            rule = held.rule,
            rows = held.rows,
            "rows break a rule and are held; /status counts them"
        );
    }
}

/// The newest look, if there was one.
#[derive(Debug, Default)]
pub(crate) struct Held(std::sync::Mutex<Option<HeldNow>>);

impl Held {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<HeldNow>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn replace(&self, now: HeldNow) -> Option<HeldNow> {
        self.lock().replace(now)
    }

    pub(crate) fn now(&self) -> Option<HeldNow> {
        self.lock().clone()
    }
}
