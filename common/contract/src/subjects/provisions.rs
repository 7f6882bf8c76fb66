//! The names of the work that creates sandboxes.

use super::{Subjects, UNREADABLE, pool};
use crate::provisions::{ProvisionLane, ProvisionPriority};
use domain::{PoolName, SandboxId};
use strum::IntoEnumIterator as _;

impl Subjects {
    /// Where the creation of a sandbox waits for a runner.
    #[must_use]
    pub fn provision_work(&self, lane: &ProvisionLane, id: &SandboxId) -> String {
        let ProvisionLane { priority, pool } = lane;
        format!("{}.provisions.{}.{pool}.{id}", self.prefix, priority.as_str())
    }

    /// Where the creation of a sandbox waits for its next attempt.
    #[must_use]
    pub fn provision_retry(&self, pool: &PoolName, id: &SandboxId) -> String {
        format!("{}.provisions.retry.{pool}.{id}", self.prefix)
    }

    /// All of the above: at most one message of a sandbox may be in any.
    #[must_use]
    pub fn provision_any(&self, pool: &PoolName, id: &SandboxId) -> String {
        format!("{}.provisions.*.{pool}.{id}", self.prefix)
    }

    /// Where a creation that was given up is parked.
    #[must_use]
    pub fn provision_parked(&self, pool: &PoolName, id: &SandboxId) -> String {
        format!("{}.provisions.parked.{pool}.{id}", self.prefix)
    }

    /// Where a message that no runner can read is parked.
    #[must_use]
    pub fn provision_unreadable(&self, sequence: u64) -> String {
        format!("{}.provisions.parked.{UNREADABLE}.{sequence}", self.prefix)
    }

    /// The waiting work of one lane.
    #[must_use]
    pub fn provision_work_of(&self, lane: &ProvisionLane) -> String {
        let ProvisionLane { priority, pool } = lane;
        format!("{}.provisions.{}.{pool}.*", self.prefix, priority.as_str())
    }

    /// All waiting work of one priority.
    #[must_use]
    pub fn provision_work_all(&self, priority: ProvisionPriority) -> String {
        format!("{}.provisions.{}.*.*", self.prefix, priority.as_str())
    }

    /// All scheduled retries.
    #[must_use]
    pub fn provision_retry_all(&self) -> String {
        format!("{}.provisions.retry.*.*", self.prefix)
    }

    /// Everything that is parked.
    #[must_use]
    pub fn provision_parked_all(&self) -> String {
        format!("{}.provisions.parked.*.*", self.prefix)
    }

    /// All work, waiting or scheduled for a retry, and everything that is parked.
    #[must_use]
    pub fn provision_every(&self) -> String {
        format!("{}.provisions.*.*.*", self.prefix)
    }

    /// The lane of a subject of waiting work; none if it is no such subject.
    #[must_use]
    pub fn lane_of_provision(&self, subject: &str) -> Option<ProvisionLane> {
        let rest = subject.strip_prefix(&self.prefix)?.strip_prefix(".provisions.")?;
        let (priority, rest) = rest.split_once('.')?;
        let priority = ProvisionPriority::iter().find(|one| one.as_str() == priority)?;
        Some(ProvisionLane { priority, pool: pool(rest.split_once('.')?.0)? })
    }

    /// Stream of the work and its retries.
    #[must_use]
    pub fn provisions_stream(&self) -> String {
        self.asset("PROVISIONS")
    }

    /// Durable consumer of one lane.
    #[must_use]
    pub fn runner_consumer(&self, lane: &ProvisionLane) -> String {
        format!("runner-{}-{}", lane.priority.as_str(), lane.pool)
    }

    /// The lane of such a consumer; none if it is another one.
    #[must_use]
    pub fn lane_of_consumer(&self, name: &str) -> Option<ProvisionLane> {
        let (priority, rest) = name.strip_prefix("runner-")?.split_once('-')?;
        let priority = ProvisionPriority::iter().find(|one| one.as_str() == priority)?;
        Some(ProvisionLane { priority, pool: pool(rest)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lane_is_parsed_from_subject_and_consumer() {
        let (subjects, id) = (Subjects::default(), SandboxId::parse("ctr_1").unwrap());
        let name = PoolName::parse("a-b_c").unwrap();
        for lane in ProvisionLane::both(&name) {
            let subject = subjects.provision_work(&lane, &id);
            assert_eq!(subjects.lane_of_provision(&subject), Some(lane.clone()), "{subject}");
            let consumer = subjects.runner_consumer(&lane);
            assert_eq!(subjects.lane_of_consumer(&consumer), Some(lane), "{consumer}");
            assert_eq!(subjects.pool_of_consumer(&consumer), None, "{consumer}");
        }
        let others = [subjects.provision_retry(&name, &id), subjects.provision_parked(&name, &id)];
        for other in others
            .iter()
            .map(String::as_str)
            .chain(["sandbox2.provisions.fill.a.1", "sandbox.provisions.fill.a"])
        {
            assert_eq!(subjects.lane_of_provision(other), None, "{other}");
        }
        for other in ["runner-fill-", "runner-retry-a", "reaper-fill-a", "runner-fill"] {
            assert_eq!(subjects.lane_of_consumer(other), None, "{other}");
        }
    }
}
