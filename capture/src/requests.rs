//! What an operator asks of a running reader, taken up between two transactions.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use syncline_schemas::ident::TableId;

/// Requests to one source; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Requests(Arc<Shared>);

/// A table that a reader doubts, with a hash of how it was when it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Doubt {
    pub(crate) table: u32,
    pub(crate) seen: u32,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Vec<Request>>,
    /// By number of a table: before it the reader does not try again by itself what it could not do with it.
    not_before: Mutex<HashMap<u32, Instant>>,
    /// Before it no transaction is received while it is in progress.
    whole_until: Mutex<Option<Instant>>,
    /// Values are received as text.
    as_text: AtomicBool,
}

/// A table is to be read anew.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) table: TableId,
    answer: Arc<Answer>,
    /// Why the reader asks itself, and nobody waits.
    own: Option<Doubt>,
}

/// What becomes of a request; whoever waits for it may give up.
#[derive(Debug, Default)]
struct Answer {
    given: Mutex<Option<Result<(), String>>>,
    changed: Condvar,
}

impl Requests {
    /// Asks to have a table read anew beside the stream, and waits until that has begun. What was read of it is compared with
    /// the rows as they come; rows of which nothing comes are taken back at the end.
    ///
    /// # Errors
    /// Why it has not begun.
    pub fn read_anew(&self, table: TableId, patience: Duration) -> Result<(), String> {
        let answer = Arc::new(Answer::default());
        self.waiting().push(Request { table, answer: Arc::clone(&answer), own: None });
        let given = answer.given.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut given, _) = answer
            .changed
            .wait_timeout_while(given, patience, |given| given.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        given.take().unwrap_or_else(|| {
            let seconds = patience.as_secs();
            Err(format!("the source has not come to the end of a transaction within {seconds} s; ask again later"))
        })
    }

    /// A reader asks itself to read a table anew that it doubts.
    pub(crate) fn doubt(&self, table: TableId, doubt: Doubt) {
        self.waiting().push(Request { table, answer: Arc::default(), own: Some(doubt) });
    }

    /// True where somebody waits.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting().iter().any(Request::is_wanted)
    }

    /// Those that somebody waits for.
    pub(crate) fn take(&self) -> Vec<Request> {
        let mut requests = std::mem::take(&mut *self.waiting());
        requests.retain(Request::is_wanted);
        requests
    }

    /// Answers those of somebody who waits for which there is a reason not to begin, and leaves the others.
    pub(crate) fn refuse(&self, reason: impl Fn(&TableId) -> Option<String>) {
        let waiting = std::mem::take(&mut *self.waiting());
        for request in waiting {
            match reason(&request.table).filter(|_| request.own.is_none()) {
                Some(reason) => request.answer(Err(reason)),
                None => self.waiting().push(request),
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Request>> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the reader wanted to do with a table by itself could not be done: a while passes before it tries again.
    pub(crate) fn hold_back(&self, table: u32, pause: Duration) {
        let mut not_before = self.0.not_before.lock().unwrap_or_else(PoisonError::into_inner);
        let (until, now) = (Instant::now() + pause, Instant::now());
        not_before.retain(|_, until| *until > now);
        let kept = not_before.entry(table).or_insert(until);
        *kept = (*kept).max(until);
    }

    /// Has sessions receive transactions when they are committed, for a while.
    pub(crate) fn receive_whole(&self, pause: Duration) {
        *self.0.whole_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + pause);
    }

    /// True where transactions may be received while they are in progress.
    pub(crate) fn may_stream(&self) -> bool {
        let whole_until = self.0.whole_until.lock().unwrap_or_else(PoisonError::into_inner);
        whole_until.is_none_or(|whole_until| Instant::now() >= whole_until)
    }

    /// Has sessions receive values as text from here on.
    pub(crate) fn receive_text(&self) {
        self.0.as_text.store(true, Ordering::Release);
    }

    /// True where values may be received in binary form.
    pub(crate) fn may_receive_binary(&self) -> bool {
        !self.0.as_text.load(Ordering::Acquire)
    }

    /// True where the reader may do something with a table by itself.
    pub(crate) fn may_try(&self, table: u32) -> bool {
        let not_before = self.0.not_before.lock().unwrap_or_else(PoisonError::into_inner);
        not_before.get(&table).is_none_or(|not_before| Instant::now() >= *not_before)
    }
}

impl Request {
    fn is_wanted(&self) -> bool {
        self.own.is_some() || Arc::strong_count(&self.answer) > 1
    }

    /// Why the reader asks itself, where it does.
    pub(crate) const fn own(&self) -> Option<Doubt> {
        self.own
    }

    pub(crate) fn answer(self, given: Result<(), String>) {
        *self.answer.given.lock().unwrap_or_else(PoisonError::into_inner) = Some(given);
        self.answer.changed.notify_all();
    }
}

impl Drop for Request {
    /// Whoever waits does not wait for a session that has ended.
    fn drop(&mut self) {
        let mut given = self.answer.given.lock().unwrap_or_else(PoisonError::into_inner);
        given.get_or_insert_with(|| Err("the source was interrupted; ask again".to_owned()));
        self.answer.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_given_up_has_nothing_done_behind_his_back() {
        let requests = Requests::default();
        let error = requests.read_anew(TableId::new("s", "t"), Duration::ZERO).expect_err("nobody answers");
        assert!(error.contains("ask again"), "{error}");
        assert!(!requests.is_waiting());
        assert!(requests.take().is_empty());
    }

    #[test]
    fn whoever_is_refused_hears_why_and_the_others_wait_on() {
        let requests = Requests::default();
        requests.doubt(TableId::new("s", "t"), Doubt { table: 1, seen: 0 });
        std::thread::scope(|scope| {
            let requests = &requests;
            let ask = |name| move || requests.read_anew(TableId::new("s", name), Duration::from_secs(60));
            let (refused, left) = (scope.spawn(ask("t")), scope.spawn(ask("u")));
            while !refused.is_finished() {
                requests.refuse(|table| (&*table.name == "t").then(|| "busy".to_owned()));
                std::thread::yield_now();
            }
            assert_eq!(refused.join().expect("no panic"), Err("busy".to_owned()));
            while !requests.waiting().iter().any(|request| &*request.table.name == "u") {
                std::thread::yield_now();
            }
            let taken = requests.take();
            assert_eq!(taken.iter().filter(|request| request.own.is_some()).count(), 1);
            taken.into_iter().for_each(|request| request.answer(Ok(())));
            assert_eq!(left.join().expect("no panic"), Ok(()));
        });
    }

    #[test]
    fn a_session_that_breaks_off_leaves_nobody_waiting() {
        let requests = Requests::default();
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| requests.read_anew(TableId::new("s", "t"), Duration::from_secs(60)));
            while !requests.is_waiting() {
                std::thread::yield_now();
            }
            drop(requests.take());
            assert!(asked.join().expect("no panic").expect_err("interrupted").contains("interrupted"));
        });
    }
}
