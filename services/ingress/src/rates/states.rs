//! The state of each key, within a fixed size.

use governor::nanos::Nanos;
use governor::state::StateStore;
use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// The state of recently seen keys, up to a maximum number.
///
/// A state is the moment at which the burst of the key is complete again. After that moment it can be dropped without
/// effect, which happens when there is no room left. If there still is no room, a new key passes without being
/// remembered: other limits apply behind this one, and refusing new keys would let a caller that fills the table lock
/// out all others.
///
/// Clones share the table.
#[derive(Clone, Debug)]
pub(super) struct States {
    keys_max: usize,
    /// The time that one request costs.
    cell: Duration,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    states: HashMap<u64, Nanos>,
    /// Before this moment, searching for states to drop is useless, because a recent search found none.
    look_again_at: Option<Nanos>,
}

/// Pause after a search that made no room, so that a flood of keys does not cause a search each.
const SEARCH_PAUSE: Duration = Duration::from_millis(100);

// === impl States ===

impl States {
    pub(super) fn new(keys_max: usize, cell: Duration) -> Self {
        Self { keys_max, cell, kept: Arc::default() }
    }

    /// The number of remembered keys.
    pub(super) fn len(&self) -> usize {
        self.kept().states.len()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock()
    }

    /// Whether there is room for a new key with this state.
    fn make_room(&self, kept: &mut Kept, state: Nanos) -> bool {
        if kept.states.len() < self.keys_max {
            return true;
        }
        if kept.look_again_at.is_some_and(|moment| state < moment) {
            return false;
        }
        // The first state of a key is one or two requests ahead of now.
        let now = u64::from(state).saturating_sub(u64::from(Nanos::from(self.cell * 2)));
        kept.states.retain(|_, due| u64::from(*due) > now);
        let is_room = kept.states.len() < self.keys_max;
        kept.look_again_at = (!is_room).then(|| state + SEARCH_PAUSE);
        is_room
    }
}

impl StateStore for States {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, key: &u64, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut kept = self.kept();
        if let Some(known) = kept.states.get_mut(key) {
            let (outcome, state) = measure(Some(*known))?;
            *known = state;
            return Ok(outcome);
        }
        let (outcome, state) = measure(None)?;
        if self.make_room(&mut kept, state) {
            kept.states.insert(*key, state);
        }
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CELL: Duration = Duration::from_millis(10);

    /// Counts one request of `key` at `now_ms`, without a limit.
    fn count(states: &States, key: u64, now_ms: u64) {
        let now = Nanos::from(Duration::from_millis(now_ms));
        let counted: Result<(), ()> = states.measure_and_replace(&key, |_| Ok(((), now + CELL)));
        counted.unwrap();
    }

    #[test]
    fn states_are_bounded_and_expired_ones_are_evicted() {
        let states = States::new(3, CELL);
        for key in 0..3 {
            count(&states, key, 0);
        }
        count(&states, 3, 0);
        assert_eq!(states.len(), 3, "all of them still count, so the fourth passes unremembered");
        count(&states, 4, 50);
        assert_eq!(states.len(), 3, "the last search found nothing a moment ago");
        count(&states, 5, 150);
        assert_eq!(states.len(), 1, "what was over has gone");
    }

    #[test]
    fn a_refusal_changes_nothing() {
        let states = States::new(3, CELL);
        let refused: Result<(), &str> = states.measure_and_replace(&1, |_| Err("no"));
        assert_eq!((refused, states.len()), (Err("no"), 0));
        count(&states, 1, 7);
        let seen: Result<(), Option<Nanos>> = states.measure_and_replace(&1, Err);
        assert_eq!(seen, Err(Some(Nanos::from(Duration::from_millis(7)) + CELL)));
        let again: Result<(), Option<Nanos>> = states.measure_and_replace(&1, Err);
        assert_eq!(again, seen);
    }
}
