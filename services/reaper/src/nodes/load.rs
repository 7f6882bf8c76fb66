//! How many removals each node is asked for at once, and which nodes do not answer.

use domain::NodeId;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::Duration;

/// Removals that a process asks one node for at once: half of what a node accepts by default, so that two reapers fill it.
const IN_FLIGHT_MAX: usize = 32;
/// Wait for a node that has as many. A removal takes milliseconds.
const BUSY_WAIT: Duration = Duration::from_millis(250);
/// Time after a removal without an answer in which a node is not asked again. Then one removal tries it.
const SILENT_WAIT: Duration = Duration::from_secs(5);

/// The nodes that are asked, or that did not answer.
#[derive(Debug, Default)]
pub(super) struct Loads(Mutex<BTreeMap<NodeId, Load>>);

#[derive(Debug, Default)]
struct Load {
    in_flight: usize,
    /// When it may be asked again, on the monotonic clock; none of one that answers.
    silent_until: Option<Duration>,
}

/// A removal in progress.
pub(super) struct Place<'a> {
    loads: &'a Loads,
    node: NodeId,
    /// When the node did not answer.
    silent_at: Option<Duration>,
    has_ended: bool,
}

// === impl Loads ===

impl Loads {
    /// A place for a removal on `node`.
    ///
    /// # Errors
    /// How long to wait for one.
    pub(super) fn enter(&self, node: &NodeId, now: Duration) -> Result<Place<'_>, Duration> {
        let mut loads = self.0.lock();
        let load = loads.entry(node.clone()).or_default();
        let most = match load.silent_until {
            Some(until) if now < until => return Err(until.saturating_sub(now)),
            Some(_) => 1,
            None => IN_FLIGHT_MAX,
        };
        if load.in_flight >= most {
            return Err(BUSY_WAIT);
        }
        load.in_flight += 1;
        Ok(Place { loads: self, node: node.clone(), silent_at: None, has_ended: false })
    }
}

// === impl Place ===

impl Place<'_> {
    /// Ends the removal. `silent_at` is when the node did not answer; none if it did.
    pub(super) fn leave(mut self, silent_at: Option<Duration>) {
        (self.silent_at, self.has_ended) = (silent_at, true);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut loads = self.loads.0.lock();
        let Some(load) = loads.get_mut(&self.node) else { return };
        load.in_flight = load.in_flight.saturating_sub(1);
        // One that was given up says nothing about the node.
        if self.has_ended {
            load.silent_until = self.silent_at.map(|at| at + SILENT_WAIT);
        }
        if load.in_flight == 0 && load.silent_until.is_none() {
            loads.remove(&self.node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn node(name: &str) -> NodeId {
        NodeId::parse(name).unwrap()
    }

    #[test]
    fn node_is_asked_for_a_few_removals_at_once() {
        let loads = Loads::default();
        let mut places: Vec<_> =
            (0..IN_FLIGHT_MAX).map(|_| loads.enter(&node("a"), NOW).ok().unwrap()).collect();
        assert_eq!(loads.enter(&node("a"), NOW).err(), Some(BUSY_WAIT));
        assert!(loads.enter(&node("b"), NOW).is_ok(), "another node");
        places.pop().unwrap().leave(None);
        assert!(loads.enter(&node("a"), NOW).is_ok());
        drop(places);
        assert!(loads.0.lock().is_empty(), "nothing is kept of nodes that answer");
    }

    #[test]
    fn silent_node_is_tried_by_one_removal_at_a_time() {
        let loads = Loads::default();
        loads.enter(&node("a"), NOW).ok().unwrap().leave(Some(NOW));
        assert_eq!(loads.enter(&node("a"), NOW + Duration::from_secs(1)).err(), Some(Duration::from_secs(4)));
        let probe = loads.enter(&node("a"), NOW + SILENT_WAIT).ok().unwrap();
        assert_eq!(loads.enter(&node("a"), NOW + SILENT_WAIT).err(), Some(BUSY_WAIT));
        drop(probe);
        let probe = loads.enter(&node("a"), NOW + SILENT_WAIT).ok().unwrap();
        probe.leave(None);
        let both = (loads.enter(&node("a"), NOW), loads.enter(&node("a"), NOW));
        assert!(both.0.is_ok() && both.1.is_ok(), "it answers again");
    }
}
