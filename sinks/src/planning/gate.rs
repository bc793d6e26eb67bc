//! How many requests go out: no more than the target says it bears, and fewer where it shows that it bears less.
//!
//! All lanes of a sink share one gate, because what a target bears it bears from all of them:
//! - **Rate**: at most `count` requests in any window. A request counts from its start until one window after its answer, so
//!   however long each was on its way, the target never sees more.
//! - **Pause**: what the target asks for with `Retry-After` holds for every lane.
//! - **Concurrency**: halved by each sign of overload, one more after as many good answers as may be under way (AIMD).
//! - **Priority**: critical requests first, the others by their [share](super::share);
//! - **Circuit**: after [`FAILURES_MAX`] failures in a row one request at a time asks whether the target is back.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use syncline_schemas::entity::Criticality;
use tokio::sync::Notify;

use super::share::{Room, Shares};

/// Failures in a row after which requests go out one by one.
const FAILURES_MAX: u32 = 5;

/// So many requests in a window at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Requests; at least one.
    pub count: usize,
    /// The window; longer than nothing.
    pub per: Duration,
}

impl std::str::FromStr for Rate {
    type Err = ();

    /// `5/s`, `600/min` or `1000/h`.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (count, per) = text.split_once('/').ok_or(())?;
        let per = match per.trim() {
            "s" => 1,
            "min" => 60,
            "h" => 3_600,
            _ => return Err(()),
        };
        let count = count.trim().parse().ok().filter(|count| *count > 0).ok_or(())?;
        Ok(Self { count, per: Duration::from_secs(per) })
    }
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The target answered, whatever it said about the request.
    Answered,
    /// It asks to come later.
    Throttled(Option<Duration>),
    /// It did not answer, or failed inside.
    Failed,
}

/// Why a request has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    Until(Instant),
    /// Until another one ends.
    Turn,
}

struct State {
    rate: Option<Rate>,
    /// Requests side by side at most, while all is well.
    most: usize,
    limit: usize,
    under_way: usize,
    /// When requests ended that still count.
    ended: VecDeque<Instant>,
    paused_until: Option<Instant>,
    good: usize,
    failures: u32,
    shares: Shares,
}

impl State {
    fn try_enter(&mut self, now: Instant, class: Criticality) -> Result<(), Wait> {
        if let Some(until) = self.paused_until.filter(|until| *until > now) {
            return Err(Wait::Until(until));
        }
        let limit = if self.is_open() { 1 } else { self.limit };
        if self.under_way >= limit {
            return Err(Wait::Turn);
        }
        let mut room = Room { places: limit - self.under_way, tokens: None };
        let mut later = Wait::Turn;
        if let Some(Rate { count, per }) = self.rate {
            while self.ended.front().is_some_and(|ended| *ended + per <= now) {
                self.ended.pop_front();
            }
            later = self.ended.front().map_or(Wait::Turn, |ended| Wait::Until(*ended + per));
            let tokens = count.saturating_sub(self.under_way + self.ended.len());
            if tokens == 0 {
                return Err(later);
            }
            room.tokens = Some(tokens);
        }
        if !self.shares.may_go(class, room) {
            return Err(later);
        }
        self.shares.go(class, room);
        self.under_way += 1;
        Ok(())
    }

    fn leave(&mut self, now: Instant, outcome: Option<Outcome>, class: Criticality) {
        self.under_way -= 1;
        self.shares.end(class);
        if self.rate.is_some() {
            self.ended.push_back(now);
        }
        match outcome {
            None => {}
            Some(Outcome::Answered) => {
                self.failures = 0;
                self.good += 1;
                if self.good >= self.limit {
                    (self.good, self.limit) = (0, (self.limit + 1).min(self.most));
                }
            }
            Some(Outcome::Throttled(pause)) => {
                self.halve();
                let until = pause.map(|pause| now + pause);
                self.paused_until = self.paused_until.max(until);
            }
            Some(Outcome::Failed) => {
                self.halve();
                self.failures += 1;
            }
        }
    }

    fn halve(&mut self) {
        (self.good, self.limit) = (0, (self.limit / 2).max(1));
    }

    const fn is_open(&self) -> bool {
        self.failures >= FAILURES_MAX
    }
}

/// The gate of one target.
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Notify,
}

impl Gate {
    /// Lets so many requests out side by side, and no more than a rate; of those that wait, so many per cent that are not critical.
    pub(super) fn new(most: usize, rate: Option<Rate>, share: u32) -> Self {
        let state = State {
            rate,
            most,
            limit: most,
            under_way: 0,
            ended: VecDeque::new(),
            paused_until: None,
            good: 0,
            failures: 0,
            shares: Shares::new(share),
        };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }

    /// Waits until a request may go out. Whoever drops the pass has no answer.
    pub(super) async fn enter(&self, class: Criticality) -> Pass<'_> {
        let _waiting = self.during(move |shares| shares.wait(class), move |shares| shares.wait_no_more(class));
        loop {
            // Asked for before looking, so that no change between is missed.
            let changed = self.changed.notified();
            let entered = self.state().try_enter(Instant::now(), class);
            match entered {
                Ok(()) => return Pass { gate: self, outcome: None, class },
                Err(Wait::Turn) => changed.await,
                Err(Wait::Until(until)) => {
                    // What keeps it now may have ended before.
                    let _ = tokio::time::timeout_at(until.into(), changed).await;
                }
            }
        }
    }

    /// A critical lane has batches to send, for as long as the answer lives.
    pub(super) fn busy(&self) -> During<'_> {
        self.during(Shares::begin_lane, Shares::end_lane)
    }

    /// A critical request only waits for its target, for as long as the answer lives.
    pub(super) fn asleep(&self) -> During<'_> {
        self.during(Shares::pause, Shares::resume)
    }

    /// Who waits at the gate looks again at both ends, as who may go depends on it.
    fn during(&self, begin: impl FnOnce(&mut Shares), end: impl FnOnce(&mut Shares) + Send + 'static) -> During<'_> {
        begin(&mut self.state().shares);
        self.changed.notify_waiters();
        During { gate: self, end: Some(Box::new(end)) }
    }

    /// Requests that may be side by side now, and whether the target has failed so often that one at a time asks for it.
    pub(super) fn stands(&self) -> (usize, bool) {
        let state = self.state();
        (state.limit, state.is_open())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is to be done at the end of something.
type End = Box<dyn FnOnce(&mut Shares) + Send>;

/// Something that counts for as long as this lives.
pub(super) struct During<'g> {
    gate: &'g Gate,
    end: Option<End>,
}

impl Drop for During<'_> {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            end(&mut self.gate.state().shares);
        }
        self.gate.changed.notify_waiters();
    }
}

/// One request's leave to be on its way.
pub(super) struct Pass<'g> {
    gate: &'g Gate,
    outcome: Option<Outcome>,
    class: Criticality,
}

impl Pass<'_> {
    /// It has ended so.
    pub(super) fn end(mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.gate.state().leave(Instant::now(), self.outcome, self.class);
        self.gate.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(1);

    fn state(most: usize, rate: Option<usize>) -> State {
        let gate = Gate::new(most, rate.map(|count| Rate { count, per: WINDOW }), 10);
        gate.state.into_inner().expect("no panic")
    }

    proptest! {
        #[test]
        fn a_target_of_a_rate_never_sees_more_in_any_window(
            count in 1_usize..8, steps in proptest::collection::vec((0_u64..400, 0_u64..600, any::<bool>()), 1..200),
        ) {
            let mut state = state(64, Some(count));
            let began = Instant::now();
            let (mut now, mut under_way, mut arrived) = (began, Vec::new(), Vec::new());
            for (pause, way, ends) in steps {
                now += Duration::from_millis(pause);
                if ends && !under_way.is_empty() {
                    // It arrives some time before its answer does.
                    let sent: Instant = under_way.remove(0);
                    arrived.push(sent + (now - sent).min(Duration::from_millis(way)));
                    state.leave(now, Some(Outcome::Answered), Criticality::Critical);
                } else if state.try_enter(now, Criticality::Critical).is_ok() {
                    under_way.push(now);
                }
            }
            arrived.sort_unstable();
            for window in arrived.windows(count + 1) {
                prop_assert!(window[count] - window[0] >= WINDOW, "{count} a second: {:?}", window[count] - window[0]);
            }
        }
    }

    #[test]
    fn overload_halves_what_goes_out_and_good_answers_bring_it_back_one_by_one() {
        let (mut state, now) = (state(8, None), Instant::now());
        let one = |state: &mut State, outcome| {
            state.try_enter(now, Criticality::Critical).expect("free");
            state.leave(now, Some(outcome), Criticality::Critical);
        };
        for limit in [4, 2, 1, 1] {
            one(&mut state, Outcome::Throttled(None));
            assert_eq!(state.limit, limit);
        }
        assert!(!state.is_open(), "a target that asks for a pause is there");
        for (answers, limit) in [(1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 7), (7, 8), (8, 8)] {
            (0..answers).for_each(|_| one(&mut state, Outcome::Answered));
            assert_eq!(state.limit, limit);
        }
    }

    #[test]
    fn a_target_that_is_down_is_asked_by_one_request_at_a_time_until_it_answers() {
        let (mut state, now) = (state(64, None), Instant::now());
        for _ in 0..FAILURES_MAX {
            state.try_enter(now, Criticality::Critical).expect("free");
            state.leave(now, Some(Outcome::Failed), Criticality::Critical);
        }
        state.try_enter(now, Criticality::Critical).expect("one asks");
        assert_eq!(state.try_enter(now, Criticality::Critical), Err(Wait::Turn));
        state.leave(now, Some(Outcome::Answered), Criticality::Critical);
        state.try_enter(now, Criticality::Critical).expect("free");
        state.try_enter(now, Criticality::Critical).expect("it is back");
    }

    #[test]
    fn a_pause_that_one_lane_is_asked_for_holds_for_all() {
        let (mut state, now) = (state(8, None), Instant::now());
        state.try_enter(now, Criticality::Critical).expect("free");
        state.leave(now, Some(Outcome::Throttled(Some(Duration::from_secs(7)))), Criticality::Critical);
        assert_eq!(state.try_enter(now, Criticality::Critical), Err(Wait::Until(now + Duration::from_secs(7))));
        state.try_enter(now + Duration::from_secs(7), Criticality::Critical).expect("over");
    }
}
