//! What lies on a shelf: candidates that are ready to be tried.

use domain::{Candidate, SandboxId};
use std::collections::{HashSet, VecDeque};

/// Losses in a row after which the rest of a shelf counts as out of date: other processes have been there, and
/// trying on costs two writes for each candidate, looking anew a few reads.
const LOSSES_IN_A_ROW_MAX: u32 = 8;
/// Candidates left on a shelf from which on more are looked for in the background: what a busy process uses up
/// while a round is under way.
const LOW: usize = 48;

/// What became of a candidate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Unused,
    Won,
    Lost,
}

/// The candidates of one selector that are ready.
#[derive(Default)]
pub(super) struct Ready {
    candidates: VecDeque<Candidate>,
    /// Their ids, so that a round that meets them again leaves them where they are.
    ids: HashSet<SandboxId>,
    lost_in_a_row: u32,
    /// With fewer candidates than this, more are looked for in the background.
    low: usize,
    filling_up: bool,
}

// === impl Ready ===

impl Ready {
    /// Takes the next one off the shelf.
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

    /// Puts what a round found onto the shelf, and says whether there is anything on it now.
    pub(super) fn add(&mut self, fresh: Vec<Candidate>) -> bool {
        for candidate in fresh {
            self.put_back(candidate);
        }
        // A pool that holds no more than this is not read again and again as it runs out.
        self.low = LOW.min(self.candidates.len() / 2);
        !self.is_empty()
    }

    /// Whether more is to be looked for in the background, by the one who asks; it says so when it has.
    pub(super) fn begins_to_fill_up(&mut self) -> bool {
        let begins = self.candidates.len() < self.low && !self.filling_up;
        self.filling_up |= begins;
        begins
    }

    pub(super) fn ends_to_fill_up(&mut self) {
        self.filling_up = false;
    }

    /// Learns from what became of one that was taken off the shelf.
    pub(super) fn note(&mut self, fate: Fate, candidate: &Candidate) {
        match fate {
            Fate::Unused => self.put_back(candidate.clone()),
            Fate::Won => self.lost_in_a_row = 0,
            Fate::Lost => {
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

    fn shelf(count: usize) -> Ready {
        let mut ready = Ready::default();
        assert_eq!(ready.add((0..count).map(candidate).collect()), count > 0);
        ready
    }

    #[test]
    fn a_candidate_lies_there_once() {
        let mut ready = shelf(2);
        ready.add(vec![candidate(0), candidate(2)]);
        let ids: Vec<_> =
            std::iter::from_fn(|| ready.pop()).map(|candidate| candidate.id.to_string()).collect();
        assert_eq!(ids, ["0", "1", "2"]);
        assert!(!ready.holds(&candidate(0).id));
    }

    #[test]
    fn one_at_a_time_fills_a_shelf_that_is_low() {
        let mut ready = shelf(LOW * 2);
        assert!(!ready.begins_to_fill_up());
        for _ in 0..=LOW {
            ready.pop();
        }
        assert!(ready.begins_to_fill_up() && !ready.begins_to_fill_up());
        ready.ends_to_fill_up();
        assert!(ready.begins_to_fill_up());
    }

    #[test]
    fn a_small_pool_is_low_at_half_and_half_of_that() {
        let mut ready = shelf(8);
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
    fn what_is_out_of_date_is_thrown_away() {
        let mut ready = shelf(20);
        for number in 0..LOSSES_IN_A_ROW_MAX {
            if number == LOSSES_IN_A_ROW_MAX - 1 {
                assert!(!ready.is_empty());
            }
            let next = ready.pop().unwrap();
            ready.note(Fate::Lost, &next);
        }
        assert!(ready.is_empty());
        assert!(ready.add(vec![candidate(19)]), "what was thrown away may come again");
    }

    #[test]
    fn a_race_that_is_won_in_between_says_that_the_shelf_is_good() {
        let mut ready = shelf(40);
        for _ in 0..LOSSES_IN_A_ROW_MAX {
            for fate in [Fate::Lost, Fate::Lost, Fate::Won] {
                let next = ready.pop().unwrap();
                ready.note(fate, &next);
            }
        }
        assert!(!ready.is_empty());
    }
}
