//! The kinds of work that the queues hold, by their names on the server.

use super::NatsConfig;
use async_nats::jetstream::consumer::pull;
use contract::{DeletionWork, ProvisionLane, ProvisionWork, Subjects};
use domain::{InvalidId, PoolKind, PoolName, PoolSpec};
use ports::bus::Work;
use serde::Serialize;
use std::time::Duration;

/// The subjects of one message.
pub(super) struct Places {
    /// Where it waits for a worker.
    pub(super) work: String,
    /// Where it waits for its next attempt.
    pub(super) retry: String,
    /// All subjects of which at most one has a message of the sandbox.
    pub(super) any: String,
    /// Where the queue parks it.
    pub(super) parked: String,
}

/// A kind of work on NATS.
pub(super) trait Kind: Work + Serialize {
    /// The stream.
    fn stream(subjects: &Subjects) -> String;

    /// All subjects that [`Kind::lane_of_subject`] knows, and perhaps others.
    fn filter(subjects: &Subjects) -> String;

    /// Where an unreadable message with that sequence is parked.
    fn unreadable(subjects: &Subjects, sequence: u64) -> String;

    /// The lane of waiting work with that subject.
    fn lane_of_subject(subjects: &Subjects, subject: &str) -> Option<Self::Lane>;

    /// The lane of a consumer with that name.
    fn lane_of_consumer(subjects: &Subjects, name: &str) -> Option<Self::Lane>;

    /// The name of a lane's consumer.
    fn consumer(subjects: &Subjects, lane: &Self::Lane) -> String;

    /// The settings of a lane's consumer; `spec` is its pool, if that is known.
    fn consumer_config(config: &NatsConfig, lane: &Self::Lane, spec: Option<&PoolSpec>) -> pull::Config;

    /// The pool of a lane.
    fn pool(lane: &Self::Lane) -> &PoolName;

    /// The lanes that a pool always has.
    fn lanes(pool: &PoolSpec) -> Vec<Self::Lane>;

    /// The lane of a message.
    fn lane(&self) -> Result<Self::Lane, InvalidId>;

    /// The subjects of a message.
    fn places(&self, subjects: &Subjects) -> Result<Places, InvalidId>;

    /// Silence of a worker after which its work is given to another one.
    fn ack_wait(config: &NatsConfig) -> Duration;
}

impl Kind for DeletionWork {
    fn stream(subjects: &Subjects) -> String {
        subjects.deletions_stream()
    }

    fn filter(subjects: &Subjects) -> String {
        subjects.deletion_work_all()
    }

    fn unreadable(subjects: &Subjects, sequence: u64) -> String {
        subjects.parked_unreadable(sequence)
    }

    fn lane_of_subject(subjects: &Subjects, subject: &str) -> Option<PoolName> {
        subjects.pool_of_work(subject)
    }

    fn lane_of_consumer(subjects: &Subjects, name: &str) -> Option<PoolName> {
        subjects.pool_of_consumer(name)
    }

    fn consumer(subjects: &Subjects, pool: &PoolName) -> String {
        subjects.reaper_consumer(pool)
    }

    fn consumer_config(config: &NatsConfig, pool: &PoolName, spec: Option<&PoolSpec>) -> pull::Config {
        config.reaper_config(pool, spec.and_then(|spec| spec.deletions_in_flight_max))
    }

    fn pool(pool: &PoolName) -> &PoolName {
        pool
    }

    fn lanes(pool: &PoolSpec) -> Vec<PoolName> {
        vec![pool.name.clone()]
    }

    fn lane(&self) -> Result<PoolName, InvalidId> {
        self.parts().map(|(_, pool, _)| pool)
    }

    fn places(&self, subjects: &Subjects) -> Result<Places, InvalidId> {
        let (id, pool, _) = self.parts()?;
        Ok(Places {
            work: subjects.deletion_work(&pool, &id),
            retry: subjects.deletion_retry(&pool, &id),
            any: subjects.deletion_any(&pool, &id),
            parked: subjects.parked(&pool, &id),
        })
    }

    fn ack_wait(config: &NatsConfig) -> Duration {
        config.deletion_ack_wait
    }
}

impl Kind for ProvisionWork {
    fn stream(subjects: &Subjects) -> String {
        subjects.provisions_stream()
    }

    fn filter(subjects: &Subjects) -> String {
        subjects.provision_every()
    }

    fn unreadable(subjects: &Subjects, sequence: u64) -> String {
        subjects.provision_unreadable(sequence)
    }

    fn lane_of_subject(subjects: &Subjects, subject: &str) -> Option<ProvisionLane> {
        subjects.lane_of_provision(subject)
    }

    fn lane_of_consumer(subjects: &Subjects, name: &str) -> Option<ProvisionLane> {
        subjects.lane_of_consumer(name)
    }

    fn consumer(subjects: &Subjects, lane: &ProvisionLane) -> String {
        subjects.runner_consumer(lane)
    }

    fn consumer_config(config: &NatsConfig, lane: &ProvisionLane, _spec: Option<&PoolSpec>) -> pull::Config {
        config.runner_config(lane)
    }

    fn pool(lane: &ProvisionLane) -> &PoolName {
        &lane.pool
    }

    fn lanes(pool: &PoolSpec) -> Vec<ProvisionLane> {
        match pool.kind {
            PoolKind::Account => Vec::new(),
            PoolKind::Container | PoolKind::Stack => ProvisionLane::both(&pool.name).collect(),
        }
    }

    fn lane(&self) -> Result<ProvisionLane, InvalidId> {
        let (_, pool, _, _) = self.parts()?;
        Ok(ProvisionLane { priority: self.priority(), pool })
    }

    fn places(&self, subjects: &Subjects) -> Result<Places, InvalidId> {
        let (id, pool, _, _) = self.parts()?;
        Ok(Places {
            work: subjects.provision_work(&self.lane()?, &id),
            retry: subjects.provision_retry(&pool, &id),
            any: subjects.provision_any(&pool, &id),
            parked: subjects.provision_parked(&pool, &id),
        })
    }

    fn ack_wait(config: &NatsConfig) -> Duration {
        config.provision_ack_wait
    }
}
