//! What the containers of a node may use, and what of it is promised to work that may arrive.
//!
//! What is in use is the sum over the containers that the node has, so a container that is gone cannot leave anything behind.
//! Beside that there are reservations: one for each place that the queue was admitted. Work exchanges its reservation for a
//! container; the place is released when the work has ended.

use contract::ProvisionLane;
use domain::TemplateSpec;
use std::collections::BTreeMap;

/// What containers use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Processor time, in thousandths of a processor.
    pub cpu_milli: u64,
    /// Memory, in MiB.
    pub memory_mb: u64,
    /// Containers.
    pub sandboxes: u64,
}

/// The places that the queue was admitted.
#[derive(Debug, Default)]
pub(crate) struct Reservations {
    lanes: BTreeMap<ProvisionLane, Lane>,
}

/// The places of a lane.
#[derive(Debug, Default)]
struct Lane {
    /// What places without a container yet are promised.
    open: Vec<Demand>,
    /// Places whose reservation became a container.
    spent: usize,
}

// === impl Demand ===

impl Demand {
    /// What one container of a template uses.
    #[must_use]
    pub fn of(spec: &TemplateSpec) -> Self {
        Self { cpu_milli: spec.cpu_milli.into(), memory_mb: spec.memory_mb.into(), sandboxes: 1 }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            cpu_milli: self.cpu_milli.saturating_add(other.cpu_milli),
            memory_mb: self.memory_mb.saturating_add(other.memory_mb),
            sandboxes: self.sandboxes.saturating_add(other.sandboxes),
        }
    }

    /// Whether it has room in `offered`.
    #[must_use]
    pub fn fits(self, offered: Self) -> bool {
        self.cpu_milli <= offered.cpu_milli
            && self.memory_mb <= offered.memory_mb
            && self.sandboxes <= offered.sandboxes
    }

    /// The largest part of `offered` that it takes of anything, in thousandths.
    #[must_use]
    pub fn share_milli(self, offered: Self) -> u64 {
        let share = |used: u64, all: u64| used.saturating_mul(1_000) / all.max(1);
        share(self.cpu_milli, offered.cpu_milli)
            .max(share(self.memory_mb, offered.memory_mb))
            .max(share(self.sandboxes, offered.sandboxes))
            .min(1_000)
    }
}

impl std::iter::Sum for Demand {
    fn sum<I: Iterator<Item = Self>>(demands: I) -> Self {
        demands.fold(Self::default(), Self::plus)
    }
}

// === impl Reservations ===

impl Reservations {
    /// What is promised.
    pub(crate) fn promised(&self) -> Demand {
        self.lanes.values().flat_map(|lane| &lane.open).copied().sum()
    }

    /// Reserves as many places as fit beside what is `used`, at most `places`.
    pub(crate) fn reserve(
        &mut self,
        lane: &ProvisionLane,
        one: Demand,
        places: usize,
        used: Demand,
        offered: Demand,
    ) -> usize {
        let mut taken = used.plus(self.promised());
        let mut count = 0;
        while count < places && taken.plus(one).fits(offered) {
            taken = taken.plus(one);
            count += 1;
        }
        if count > 0 {
            self.lanes.entry(lane.clone()).or_default().open.extend(std::iter::repeat_n(one, count));
        }
        count
    }

    /// Exchanges the reservation of a place of `lane` for a container that uses `demand`; false if the container does not fit,
    /// which can happen after its template has changed.
    pub(crate) fn exchange(
        &mut self,
        lane: &ProvisionLane,
        demand: Demand,
        used: Demand,
        offered: Demand,
    ) -> bool {
        let mut open = self.lanes.get(lane).map(|lane| lane.open.clone()).unwrap_or_default();
        let at = open.iter().position(|reserved| *reserved == demand).unwrap_or(0);
        let had_place = at < open.len();
        if had_place {
            open.remove(at);
        }
        let others = self.lanes.iter().filter(|(other, _)| *other != lane);
        let promised: Demand = others.flat_map(|(_, lane)| &lane.open).chain(&open).copied().sum();
        if !used.plus(promised).plus(demand).fits(offered) {
            return false;
        }
        if had_place && let Some(lane) = self.lanes.get_mut(lane) {
            lane.open = open;
            lane.spent += 1;
        }
        true
    }

    /// A place is free again. Which one is not known, so one whose reservation was exchanged is taken first: work that has
    /// not begun never loses its reservation.
    pub(crate) fn release(&mut self, name: &ProvisionLane) {
        let Some(lane) = self.lanes.get_mut(name) else { return };
        if lane.spent > 0 {
            lane.spent -= 1;
        } else {
            lane.open.pop();
        }
        if lane.spent == 0 && lane.open.is_empty() {
            self.lanes.remove(name);
        }
    }

    /// Whether no place is admitted.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::ProvisionPriority;
    use domain::PoolName;

    const OFFERED: Demand = Demand { cpu_milli: 4_000, memory_mb: 1_024, sandboxes: 5 };
    const SMALL: Demand = Demand { cpu_milli: 500, memory_mb: 256, sandboxes: 1 };
    const LARGE: Demand = Demand { cpu_milli: 500, memory_mb: 512, sandboxes: 1 };
    const NOTHING: Demand = Demand { cpu_milli: 0, memory_mb: 0, sandboxes: 0 };

    fn lane(pool: &str) -> ProvisionLane {
        ProvisionLane { priority: ProvisionPriority::Fill, pool: PoolName::parse(pool).unwrap() }
    }

    #[test]
    fn places_are_admitted_up_to_what_is_free() {
        let mut reservations = Reservations::default();
        assert_eq!(reservations.reserve(&lane("a"), SMALL, 9, NOTHING, OFFERED), 4, "of memory");
        assert_eq!(reservations.reserve(&lane("b"), SMALL, 9, NOTHING, OFFERED), 0);
        reservations.release(&lane("a"));
        assert_eq!(reservations.reserve(&lane("b"), SMALL, 9, SMALL, OFFERED), 0, "a container uses it");
        assert_eq!(reservations.reserve(&lane("b"), SMALL, 9, NOTHING, OFFERED), 1);
        let many = Demand { cpu_milli: 1, memory_mb: 1, sandboxes: 1 };
        assert_eq!(Reservations::default().reserve(&lane("a"), many, 9, NOTHING, OFFERED), 5, "of number");
    }

    #[test]
    fn work_that_has_not_begun_keeps_its_reservation() {
        let mut reservations = Reservations::default();
        assert_eq!(reservations.reserve(&lane("a"), SMALL, 2, NOTHING, OFFERED), 2);
        assert!(reservations.exchange(&lane("a"), SMALL, NOTHING, OFFERED));
        assert_eq!(reservations.promised(), SMALL);
        reservations.release(&lane("a"));
        assert_eq!(reservations.promised(), SMALL, "that of the other work");
        reservations.release(&lane("a"));
        assert!(reservations.is_empty());
    }

    #[test]
    fn container_that_grew_is_refused_unless_it_fits() {
        let mut reservations = Reservations::default();
        assert_eq!(reservations.reserve(&lane("a"), SMALL, 4, NOTHING, OFFERED), 4);
        assert!(!reservations.exchange(&lane("a"), LARGE, NOTHING, OFFERED));
        assert_eq!(reservations.promised().sandboxes, 4, "nothing was exchanged");
        reservations.release(&lane("a"));
        assert!(reservations.exchange(&lane("a"), LARGE, NOTHING, OFFERED));
        assert_eq!(reservations.promised().sandboxes, 2);
        assert!(!reservations.exchange(&lane("b"), LARGE, LARGE, OFFERED), "without a place");
    }

    #[test]
    fn load_is_that_of_the_scarcest() {
        assert_eq!(NOTHING.share_milli(OFFERED), 0);
        assert_eq!(SMALL.share_milli(OFFERED), 250);
        assert_eq!(LARGE.plus(LARGE).plus(LARGE).share_milli(OFFERED), 1_000);
        assert_eq!(SMALL.share_milli(NOTHING), 1_000);
    }
}
