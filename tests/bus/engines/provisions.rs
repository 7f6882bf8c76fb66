//! What an operator could see of the work that creates sandboxes.

use super::{Inside, World};
use bytes::Bytes;
use contract::{ProvisionWork, headers};
use harness::wait::{TIMEOUT, eventually};
use ports::bus::{ProvisionQueue, Provisions};
use std::sync::Arc;

/// The ports of work that creates sandboxes.
pub(crate) trait ProvisionBus: Provisions + ProvisionQueue {}

impl<B> ProvisionBus for B where B: Provisions + ProvisionQueue {}

/// A parked copy: reason, attempts and payload.
pub(crate) type Parked = (String, Option<u32>, Bytes);

impl World {
    /// A connection of its own to the same bus.
    pub(crate) async fn connect_provisions(&self) -> Arc<dyn ProvisionBus> {
        match &self.inside {
            Inside::Memory(bus) => Arc::new(bus.clone()),
            Inside::Nats(nats) => Arc::new(nats.connect().await),
        }
    }

    /// Messages in the queue, and how many of them are scheduled retries.
    pub(crate) async fn provisions_queued(&self) -> (usize, usize) {
        let nats = match &self.inside {
            Inside::Memory(bus) => {
                let (work, retries) = bus.provisions_queued();
                return (work + retries, retries);
            }
            Inside::Nats(nats) => nats,
        };
        let subjects = &nats.config.subjects;
        let stream = nats.stream(subjects.provisions_stream()).await;
        let count = async |subject: String| {
            use futures_util::TryStreamExt as _;
            let found = stream.info_with_subjects(subject).await.expect("stream info");
            found.try_collect::<Vec<_>>().await.expect("stream info").len()
        };
        (count(subjects.provision_every()).await, count(subjects.provision_retry_all()).await)
    }

    /// Waits until there are as many messages, and as many of them retries.
    pub(crate) async fn until_provisions(&self, messages: usize, retries: usize) {
        eventually("the queue", TIMEOUT, || async {
            let found = self.provisions_queued().await;
            if found == (messages, retries) { Ok(()) } else { Err(found) }
        })
        .await;
    }

    /// Every parked copy.
    pub(crate) async fn parked_provisions(&self) -> Vec<Parked> {
        let nats = match &self.inside {
            Inside::Memory(bus) => {
                let copies = bus.parked_provisions().into_iter();
                return copies.map(|copy| (copy.reason, copy.attempts, copy.payload)).collect();
            }
            Inside::Nats(nats) => nats,
        };
        let stream = nats.parked().await;
        let state = &stream.cached_info().state;
        let mut copies = Vec::new();
        for sequence in state.first_sequence.max(1)..=state.last_sequence {
            let message = stream.get_raw_message(sequence).await.expect("a copy");
            assert!(message.subject.contains(".provisions.parked."), "{}", message.subject);
            let header = |name: &str| message.headers.get(name).map(|value| value.as_str().to_owned());
            assert!(header(headers::PARKED_AT).expect("a time").starts_with("20"));
            let attempts = header(headers::ATTEMPTS).map(|attempts| attempts.parse().expect("a number"));
            copies.push((
                header(headers::PARKED_REASON).expect("a reason"),
                attempts,
                message.payload.clone(),
            ));
        }
        copies
    }

    /// Publishes a message where `place` would wait, as a foreign publisher might.
    pub(crate) async fn publish_raw_provision(&self, place: &ProvisionWork, payload: &str) {
        let (id, pool, _, _) = place.parts().expect("a sandbox");
        match &self.inside {
            Inside::Memory(bus) => bus.publish_raw_provision(&pool, &id, payload.to_owned()),
            Inside::Nats(nats) => {
                let lane = contract::ProvisionLane { priority: place.priority(), pool };
                let subject = nats.config.subjects.provision_work(&lane, &id);
                let published = nats.streams.publish(subject, payload.to_owned().into()).await;
                published.expect("published").await.expect("stored");
            }
        }
    }
}
