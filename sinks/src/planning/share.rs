//! Who of a sink's lanes goes next: those of critical flows, and of the others so many that they never starve.
//!
//! A critical lane is *busy* from its first batch to its last, also while it prepares the next one: the place that it leaves
//! for that moment is kept for it, or priority would be no more than taking turns. While nothing of that kind is to be kept
//! the others go freely, so no request is ever held back for nobody. Beside busy lanes they go by credit: each critical request
//! earns them a part of one, so that of all requests they have their share, and whoever has earned one goes before the next critical
//! one. A lane that only waits for its target, in a pause after a failure or while a job runs, is not busy.
//!
//! Nobody waits for ever: where there is room a critical request is held back only for one that may go now, and another one
//! only while a critical lane is busy, which goes, ends or pauses.

use syncline_schemas::entity::Criticality;

/// Whole requests in the unit of credit.
const WHOLE: u32 = 100;

/// The room of a gate at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    /// Requests side by side that may be more than there are.
    pub(super) places: usize,
    /// Requests that the rate still allows now.
    pub(super) tokens: Option<usize>,
}

/// How places are shared.
#[derive(Debug)]
pub(super) struct Shares {
    /// Per cent of the requests that are not critical where both wait.
    share: u32,
    credit: u32,
    /// Critical lanes with batches to send, and those of them that only wait for the target.
    lanes: usize,
    asleep: usize,
    /// Critical requests under way.
    under_way: usize,
    /// Requests of the others at the gate.
    waiting: usize,
}

impl Shares {
    /// With so many per cent for what is not critical.
    pub(super) const fn new(share: u32) -> Self {
        Self { share, credit: 0, lanes: 0, asleep: 0, under_way: 0, waiting: 0 }
    }

    /// Whether a request may take a place, of which there is one at least.
    pub(super) fn may_go(&self, class: Criticality, room: Room) -> bool {
        match class {
            Criticality::Critical => {
                let left = room.tokens.map_or(room.places, |tokens| tokens.min(room.places));
                left > 1 || self.waiting == 0 || !self.is_due()
            }
            Criticality::Noncritical => self.is_spare(room) || self.is_due(),
        }
    }

    /// A request takes a place that it may take.
    pub(super) fn go(&mut self, class: Criticality, room: Room) {
        match class {
            Criticality::Critical => {
                self.under_way += 1;
                self.credit = (self.credit + self.share).min(WHOLE);
            }
            Criticality::Noncritical if self.is_spare(room) => {}
            Criticality::Noncritical => self.credit = self.credit.saturating_sub(WHOLE - self.share),
        }
    }

    /// A request has ended.
    pub(super) const fn end(&mut self, class: Criticality) {
        if matches!(class, Criticality::Critical) {
            self.under_way -= 1;
        }
    }

    /// A request comes to the gate.
    pub(super) const fn wait(&mut self, class: Criticality) {
        if matches!(class, Criticality::Noncritical) {
            self.waiting += 1;
        }
    }

    /// It has gone, or was given up.
    pub(super) const fn wait_no_more(&mut self, class: Criticality) {
        if matches!(class, Criticality::Noncritical) {
            self.waiting -= 1;
        }
    }

    /// A critical lane begins to send.
    pub(super) const fn begin_lane(&mut self) {
        self.lanes += 1;
    }

    /// It has sent all it had.
    pub(super) const fn end_lane(&mut self) {
        self.lanes -= 1;
    }

    /// A critical request waits for its target.
    pub(super) const fn pause(&mut self) {
        self.asleep += 1;
    }

    /// It goes on.
    pub(super) const fn resume(&mut self) {
        self.asleep -= 1;
    }

    /// True where a place is left beside those that are kept: one for each busy lane that is between two requests, and of a rate,
    /// of which a place is used up, one for the next request of each.
    fn is_spare(&self, room: Room) -> bool {
        let busy = self.lanes.saturating_sub(self.asleep);
        room.places > busy.saturating_sub(self.under_way) && room.tokens.is_none_or(|tokens| tokens > busy)
    }

    const fn is_due(&self) -> bool {
        self.credit >= WHOLE - self.share
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CRITICAL: Criticality = Criticality::Critical;
    const OTHER: Criticality = Criticality::Noncritical;

    const fn room(places: usize) -> Room {
        Room { places, tokens: None }
    }

    #[test]
    fn a_place_that_a_critical_lane_leaves_between_two_batches_is_kept_for_it() {
        let mut shares = Shares::new(10);
        shares.begin_lane();
        assert!(!shares.may_go(OTHER, room(1)), "the lane is about to send");
        assert!(shares.may_go(OTHER, room(2)), "nobody needs the second");
        shares.go(CRITICAL, room(1));
        assert!(shares.may_go(OTHER, room(1)), "it is under way");
        shares.end(CRITICAL);
        shares.pause();
        assert!(shares.may_go(OTHER, room(1)), "it waits for its target");
        shares.resume();
        assert!(!shares.may_go(OTHER, room(1)));
        shares.end_lane();
        assert!(shares.may_go(OTHER, room(1)));
    }

    #[test]
    fn of_a_rate_the_next_request_of_each_critical_lane_is_kept() {
        let mut shares = Shares::new(10);
        shares.begin_lane();
        shares.go(CRITICAL, room(8));
        let tokens = |tokens| Room { places: 7, tokens: Some(tokens) };
        assert!(!shares.may_go(OTHER, tokens(1)), "the critical lane will want it");
        assert!(shares.may_go(OTHER, tokens(2)));
    }

    proptest! {
        #[test]
        fn critical_requests_go_first_and_the_others_have_their_share_however_many_of_both_wait(
            share in 10_u32..=90, lanes in 1_usize..12, limit in 1_usize..12,
            ends in proptest::collection::vec(any::<u8>(), 400..800),
        ) {
            // Both classes always want to send; who ends is random.
            let mut shares = Shares::new(share);
            (0..lanes).for_each(|_| shares.begin_lane());
            (0..lanes).for_each(|_| shares.wait(OTHER));
            let mut under_way: Vec<Criticality> = Vec::new();
            let mut gone = [0_u32; 2];
            for end in ends {
                loop {
                    let room = room(limit - under_way.len());
                    let of = |class| under_way.iter().filter(|other| **other == class).count();
                    let may = |class| room.places > 0 && of(class) < lanes && shares.may_go(class, room);
                    let Some(class) = [CRITICAL, OTHER].into_iter().find(|class| may(*class)) else { break };
                    shares.go(class, room);
                    under_way.push(class);
                    gone[usize::from(class == OTHER)] += 1;
                }
                prop_assert!(!under_way.is_empty(), "nobody goes although all want to");
                let class = under_way.swap_remove(usize::from(end) % under_way.len());
                shares.end(class);
            }
            let [critical, others] = gone.map(f64::from);
            let part = 100.0 * others / (critical + others);
            // With more places than critical lanes the others have what is left.
            if limit <= lanes {
                prop_assert!((part - f64::from(share)).abs() < 3.0, "{part} of {share} per cent");
            }
        }
    }
}
