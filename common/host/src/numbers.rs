//! Numbers that sandboxes have for themselves, such as ports of the node.

use parking_lot::Mutex;
use ports::engine::Incarnation;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::RangeInclusive;

/// A range of numbers, and who has which.
#[derive(Debug)]
pub struct Numbers {
    range: RangeInclusive<u16>,
    taken: Mutex<BTreeMap<u16, Incarnation>>,
}

// === impl Numbers ===

impl Numbers {
    /// A range of which no sandbox has any.
    pub fn new(range: RangeInclusive<u16>) -> Self {
        Self { range, taken: Mutex::default() }
    }

    /// Gives a sandbox a further number; none if no one is left that is free outside as well.
    pub fn reserve(&self, incarnation: &Incarnation, is_free: impl Fn(u16) -> bool) -> Option<u16> {
        let (first, count) = (u64::from(*self.range.start()), self.range.len() as u64);
        // Engines that share a range begin at different places, so that they do not try the same number at once.
        let mut hasher = DefaultHasher::new();
        incarnation.hash(&mut hasher);
        let begin = hasher.finish() % count.max(1);
        let mut taken = self.taken.lock();
        let mut all = (0..count).filter_map(|step| u16::try_from(first + (begin + step) % count).ok());
        let number = all.find(|number| !taken.contains_key(number) && is_free(*number))?;
        taken.insert(number, *incarnation);
        Some(number)
    }

    /// Gives a sandbox this number; false if another one has it.
    pub fn take(&self, incarnation: &Incarnation, number: u16) -> bool {
        *self.taken.lock().entry(number).or_insert(*incarnation) == *incarnation
    }

    /// Takes back what a sandbox has.
    pub fn release(&self, incarnation: &Incarnation) {
        self.taken.lock().retain(|_, owner| owner != incarnation);
    }

    /// Whether no sandbox has one.
    pub fn is_unused(&self) -> bool {
        self.taken.lock().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn incarnation(id: u128) -> Incarnation {
        Incarnation::new(uuid::Uuid::from_u128(id))
    }

    #[test]
    fn every_number_is_given_once_until_it_comes_back() {
        let numbers = Numbers::new(7..=9);
        let found: BTreeSet<_> =
            (0..3).filter_map(|id| numbers.reserve(&incarnation(id), |_| true)).collect();
        assert_eq!(found, [7, 8, 9].into());
        assert_eq!(numbers.reserve(&incarnation(3), |_| true), None);
        numbers.release(&incarnation(1));
        assert!(numbers.reserve(&incarnation(3), |_| true).is_some());
        [0, 2, 3].into_iter().for_each(|id| numbers.release(&incarnation(id)));
        assert!(numbers.is_unused());
    }

    #[test]
    fn what_is_in_use_outside_is_passed_over() {
        let numbers = Numbers::new(u16::MAX - 2..=u16::MAX);
        assert_eq!(numbers.reserve(&incarnation(1), |number| number == u16::MAX), Some(u16::MAX));
        assert_eq!(numbers.reserve(&incarnation(2), |number| number == u16::MAX), None);
        assert!(numbers.take(&incarnation(1), u16::MAX) && !numbers.take(&incarnation(2), u16::MAX));
    }
}
