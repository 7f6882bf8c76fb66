//! The contents of a candidate buffer.

use domain::{Candidate, SandboxId};
use std::collections::{HashSet, VecDeque};

/// Losses in a row after which the rest of a buffer counts as outdated: other processes have tried them, and each
/// further attempt costs two writes, while reading again costs a few reads.
const LOSSES_IN_A_ROW_MAX: u32 = 8;
/// Below this number of candidates, the buffer is refilled in the background: what a busy process uses during a round.
const LOW: usize = 48;

/// The result of trying a candidate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Unused,
    Won,
    Lost,
}

/// The buffered candidates of one selector.
#[derive(Default)]
pub(super) struct Ready {
    candidates: VecDeque<Candidate>,
    /// Their ids, so that a round does not add them twice.
    ids: HashSet<SandboxId>,
    lost_in_a_row: u32,
    /// Below this number, the buffer is refilled in the background.
    low: usize,
    filling_up: bool,
}

// === impl Ready ===

impl Ready {
    /// Removes the next candidate.
    pub(super) fn pop(&mut self) -> Option<Candidate> {
        let candidate = self.candidates.pop_front()?;
        self.ids.remove(&candidate.id);
        Some(candidate)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.candidates.is_empty()
    }

    pub(super) fn holds(&self, id: &SandboxId) -> bool {
        self.ids.contains(id)
    }

    /// Adds the candidates of a round; returns whether the buffer has any now.
    pub(super) fn add(&mut self, fresh: Vec<Candidate>) -> bool {
        for candidate in fresh {
            self.put_back(candidate);
        }
        // So that a small pool is not read again and again as it runs out.
        self.low = LOW.min(self.candidates.len() / 2);
        !self.is_empty()
    }

    /// Whether the caller should refill the buffer in the background and report when it is done.
    pub(super) fn begins_to_fill_up(&mut self) -> bool {
        let begins = self.candidates.len() < self.low && !self.filling_up;
        self.filling_up |= begins;
        begins
    }

    pub(super) fn ends_to_fill_up(&mut self) {
        self.filling_up = false;
    }

    /// Records the result of a candidate that was taken from the buffer.
    pub(super) fn note(&mut self, outcome: Outcome, candidate: &Candidate) {
        match outcome {
            Outcome::Unused => self.put_back(candidate.clone()),
            Outcome::Won => self.lost_in_a_row = 0,
            Outcome::Lost => {
                self.lost_in_a_row += 1;
                if self.lost_in_a_row >= LOSSES_IN_A_ROW_MAX {
                    *self = Self { filling_up: self.filling_up, ..Self::default() };
                }
            }
        }
    }

    fn put_back(&mut self, candidate: Candidate) {
        if self.ids.insert(candidate.id.clone()) {
            self.candidates.push_back(candidate);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::{PoolName, Version};

    fn candidate(number: usize) -> Candidate {
        Candidate {
            id: SandboxId::parse(&number.to_string()).unwrap(),
            pool: PoolName::parse("main").unwrap(),
            version: Version::new(1),
        }
    }

    fn buffer(count: usize) -> Ready {
        let mut ready = Ready::default();
        assert_eq!(ready.add((0..count).map(candidate).collect()), count > 0);
        ready
    }

    #[test]
    fn candidates_are_deduplicated() {
        let mut ready = buffer(2);
        ready.add(vec![candidate(0), candidate(2)]);
        let ids: Vec<_> =
            std::iter::from_fn(|| ready.pop()).map(|candidate| candidate.id.to_string()).collect();
        assert_eq!(ids, ["0", "1", "2"]);
        assert!(!ready.holds(&candidate(0).id));
    }

    #[test]
    fn only_one_caller_refills_a_low_buffer() {
        let mut ready = buffer(LOW * 2);
        assert!(!ready.begins_to_fill_up());
        for _ in 0..=LOW {
            ready.pop();
        }
        assert!(ready.begins_to_fill_up() && !ready.begins_to_fill_up());
        ready.ends_to_fill_up();
        assert!(ready.begins_to_fill_up());
    }

    #[test]
    fn small_pool_is_refilled_at_half_and_when_empty() {
        let mut ready = buffer(8);
        let mut looks = 0;
        while ready.pop().is_some() {
            if ready.begins_to_fill_up() {
                looks += 1;
                ready.add(Vec::new());
                ready.ends_to_fill_up();
            }
        }
        assert_eq!(looks, 2, "at three, and at none");
    }

    #[test]
    fn outdated_candidates_are_discarded() {
        let mut ready = buffer(20);
        for number in 0..LOSSES_IN_A_ROW_MAX {
            if number == LOSSES_IN_A_ROW_MAX - 1 {
                assert!(!ready.is_empty());
            }
            let next = ready.pop().unwrap();
            ready.note(Outcome::Lost, &next);
        }
        assert!(ready.is_empty());
        assert!(ready.add(vec![candidate(19)]), "what was thrown away may come again");
    }

    #[test]
    fn won_race_resets_the_count_of_lost_ones() {
        let mut ready = buffer(40);
        for _ in 0..LOSSES_IN_A_ROW_MAX {
            for outcome in [Outcome::Lost, Outcome::Lost, Outcome::Won] {
                let next = ready.pop().unwrap();
                ready.note(outcome, &next);
            }
        }
        assert!(!ready.is_empty());
    }
}
