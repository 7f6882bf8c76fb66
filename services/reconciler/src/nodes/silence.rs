//! How long nodes have not answered this process, and when they count as lost.

use contract::nodes::HeldContainer;
use domain::{NodeId, RuntimeState};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Silence after which a node is lost.
const LOST_AFTER: Duration = Duration::from_secs(30);
/// The same if more than one node, and more than a third of all, are silent at once: then the cause is more likely between
/// them and this process.
const MANY_LOST_AFTER: Duration = Duration::from_secs(5 * 60);

/// Longest pause between two looks of this process. After a longer one, such as an outage or turns of another process, it does
/// not know whether a node was silent all the time.
const LOOKS_PAUSE_MAX: Duration = Duration::from_secs(10);

/// What this process knows of the nodes.
#[derive(Debug, Default)]
pub(crate) struct Silence(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// When this process last looked, on its monotonic clock.
    looked_at: Option<Duration>,
    /// When each silent node was first found silent.
    silent_since: BTreeMap<NodeId, Duration>,
    inventory_at: Option<Duration>,
    /// The nodes that were drained at the last look.
    drained: BTreeSet<NodeId>,
    doubts: Doubts,
}

/// Containers that did something else than their records say at the last inventory, and what.
pub(super) type Doubts = BTreeSet<(HeldContainer, RuntimeState)>;

/// What a node is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// This process has no connection.
    Unknown,
    /// It answers.
    Present,
    /// It has not answered for that long.
    Silent(Duration),
    /// It has not answered for so long that it is lost.
    Lost,
}

// === impl Silence ===

impl Silence {
    /// Notes which nodes have answered.
    pub(super) fn note(
        &self,
        nodes: BTreeMap<NodeId, bool>,
        is_connected: bool,
        now: Duration,
    ) -> BTreeMap<NodeId, Verdict> {
        let mut known = self.0.lock();
        let has_paused = known.looked_at.is_some_and(|at| now.saturating_sub(at) > LOOKS_PAUSE_MAX);
        known.looked_at = Some(now);
        if !is_connected || has_paused {
            // What happened meanwhile is not known: all silence is counted anew, from the next look on.
            known.silent_since.clear();
        }
        if !is_connected {
            return nodes.into_keys().map(|node| (node, Verdict::Unknown)).collect();
        }
        known.silent_since.retain(|node, _| nodes.get(node) == Some(&false));
        for (node, _) in nodes.iter().filter(|(_, has_answered)| !**has_answered) {
            known.silent_since.entry(node.clone()).or_insert(now);
        }
        let silent = known.silent_since.len();
        let are_many = silent > 1 && silent * 3 > nodes.len();
        let lost_after = if are_many { MANY_LOST_AFTER } else { LOST_AFTER };
        let verdict = |node: &NodeId| match known.silent_since.get(node) {
            None => Verdict::Present,
            Some(since) if now.saturating_sub(*since) >= lost_after => Verdict::Lost,
            Some(since) => Verdict::Silent(now.saturating_sub(*since)),
        };
        nodes.keys().map(|node| (node.clone(), verdict(node))).collect()
    }

    /// Notes which nodes are drained; whether one of them was not at the last look.
    pub(super) fn note_drained(&self, drained: BTreeSet<NodeId>) -> bool {
        let mut known = self.0.lock();
        let has_new = !drained.is_subset(&known.drained);
        known.drained = drained;
        has_new
    }

    /// What the last inventory found.
    pub(super) fn doubts(&self) -> Doubts {
        self.0.lock().doubts.clone()
    }

    /// Keeps what an inventory found for the next one.
    pub(super) fn set_doubts(&self, doubts: Doubts) {
        self.0.lock().doubts = doubts;
    }

    /// Whether `period` has passed since the last inventory, which is taken now.
    pub(super) fn is_inventory_due(&self, now: Duration, period: Duration) -> bool {
        let mut known = self.0.lock();
        let is_due = known.inventory_at.is_none_or(|at| now.saturating_sub(at) >= period);
        if is_due {
            known.inventory_at = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ops::RangeInclusive;

    fn look(silence: &Silence, seconds: u64, nodes: &[(&str, bool)]) -> Vec<Verdict> {
        let nodes = nodes.iter().map(|(name, answers)| (NodeId::parse(name).unwrap(), *answers));
        silence.note(nodes.collect(), true, Duration::from_secs(seconds)).into_values().collect()
    }

    /// Looks every two seconds at one silent node; the last verdict.
    fn every_two_seconds(silence: &Silence, seconds: RangeInclusive<u64>, node: &str) -> Verdict {
        seconds.step_by(2).map(|at| look(silence, at, &[(node, false)])[0]).last().unwrap()
    }

    #[test]
    fn node_is_lost_after_half_a_minute_of_silence() {
        let silence = Silence::default();
        let others = |answers| [("a", answers), ("b", true), ("c", true), ("d", true)];
        for at in (100..130).step_by(2) {
            assert_eq!(look(&silence, at, &others(false))[0], Verdict::Silent(Duration::from_secs(at - 100)));
        }
        let all = [Verdict::Lost, Verdict::Present, Verdict::Present, Verdict::Present];
        assert_eq!(look(&silence, 130, &others(false)), all);
        assert_eq!(look(&silence, 132, &others(true))[0], Verdict::Present);
        assert_eq!(look(&silence, 134, &others(false))[0], Verdict::Silent(Duration::ZERO), "it begins anew");
    }

    #[test]
    fn only_node_of_a_fleet_is_lost_as_well() {
        assert_eq!(every_two_seconds(&Silence::default(), 0..=30, "a"), Verdict::Lost);
    }

    #[test]
    fn many_silent_nodes_are_lost_only_after_minutes() {
        let silence = Silence::default();
        let nodes = [("a", false), ("b", false), ("c", true)];
        for at in (0..300).step_by(2) {
            let still = Verdict::Silent(Duration::from_secs(at));
            assert_eq!(look(&silence, at, &nodes), [still, still, Verdict::Present]);
        }
        assert_eq!(look(&silence, 300, &nodes), [Verdict::Lost, Verdict::Lost, Verdict::Present]);
    }

    #[test]
    fn silence_during_a_lost_connection_does_not_count() {
        let silence = Silence::default();
        look(&silence, 0, &[("a", false)]);
        let all = BTreeMap::from([(NodeId::parse("a").unwrap(), false)]);
        let unknown = silence.note(all, false, Duration::from_secs(8));
        assert_eq!(unknown.into_values().collect::<Vec<_>>(), [Verdict::Unknown]);
        assert_eq!(look(&silence, 10, &[("a", false)]), [Verdict::Silent(Duration::ZERO)]);
        assert_eq!(every_two_seconds(&silence, 12..=38, "a"), Verdict::Silent(Duration::from_secs(28)));
        assert_eq!(look(&silence, 40, &[("a", false)]), [Verdict::Lost]);
    }

    #[test]
    fn silence_before_a_pause_does_not_count() {
        let silence = Silence::default();
        look(&silence, 0, &[("a", false)]);
        // No ticks during an outage, or another process took them.
        assert_eq!(look(&silence, 300, &[("a", false)]), [Verdict::Silent(Duration::ZERO)]);
        assert_eq!(every_two_seconds(&silence, 302..=330, "a"), Verdict::Lost);
    }

    #[test]
    fn inventory_is_taken_once_in_a_period() {
        let (silence, period) = (Silence::default(), Duration::from_secs(30));
        let due = [0, 10, 29, 30, 45, 60].map(|at| silence.is_inventory_due(Duration::from_secs(at), period));
        assert_eq!(due, [true, false, false, true, false, true]);
    }
}
