//! The readiness checks of a process of workers: a role that does not work is not ready, and says why.

use async_trait::async_trait;
use futures_util::future::try_join_all;
use nats::NatsBus;
use parking_lot::Mutex;
use ports::bus::DeletionControl;
use ports::store::{Store, StoreError};
use runtime::check::Check;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What each role of this process waits for; empty when all of them work.
#[derive(Clone, Default)]
pub(crate) struct RoleReadiness(Arc<Mutex<BTreeMap<&'static str, &'static str>>>);

/// Ready when NATS answers on every connection.
pub(crate) struct NatsAnswers(pub(crate) Vec<NatsBus>);

/// Ready when every stream, consumer and bucket exists that a role of this process needs.
pub(crate) struct StreamsThere {
    /// Roles that do nothing without them.
    pub(crate) needed_by: Vec<NatsBus>,
    /// Roles that continue without them.
    pub(crate) noted_by: Vec<NatsBus>,
}

/// Ready when the table answers and accepts writes.
pub(crate) struct TableAnswers(pub(crate) Arc<dyn Store>);

/// Always ready; reports why deletions wait.
pub(crate) struct DeletionsNote(pub(crate) Arc<dyn DeletionControl>);

// === impl RoleReadiness ===

impl RoleReadiness {
    /// The role waits for `what`.
    pub(crate) fn waits(&self, role: &'static str, what: &'static str) {
        self.0.lock().insert(role, what);
    }

    /// The role works.
    pub(crate) fn works(&self, role: &'static str) {
        self.0.lock().remove(role);
    }
}

#[async_trait]
impl Check for RoleReadiness {
    fn name(&self) -> &'static str {
        "roles"
    }

    async fn check(&self) -> Result<(), String> {
        let waiting = self.0.lock();
        if waiting.is_empty() {
            return Ok(());
        }
        let words: Vec<_> =
            waiting.iter().map(|(role, what)| format!("the {role} does not work yet: no {what}")).collect();
        Err(words.join("; "))
    }
}

#[async_trait]
impl Check for NatsAnswers {
    fn name(&self) -> &'static str {
        "nats"
    }

    async fn check(&self) -> Result<(), String> {
        try_join_all(self.0.iter().map(NatsBus::round_trip)).await.map(|_| ())
    }
}

#[async_trait]
impl Check for StreamsThere {
    fn name(&self) -> &'static str {
        "streams"
    }

    async fn check(&self) -> Result<(), String> {
        self.needed_by.iter().try_for_each(NatsBus::is_whole)
    }

    async fn note(&self) -> Option<String> {
        self.noted_by.iter().find_map(|bus| bus.is_whole().err())
    }
}

#[async_trait]
impl Check for TableAnswers {
    fn name(&self) -> &'static str {
        "store"
    }

    async fn check(&self) -> Result<(), String> {
        self.0.ping().await.map_err(|error| match error {
            StoreError::Disk { .. } => "the table takes no writes: its disk is full or fails".to_owned(),
            _ => "the table does not answer".to_owned(),
        })
    }
}

#[async_trait]
impl Check for DeletionsNote {
    fn name(&self) -> &'static str {
        "deletions"
    }

    async fn check(&self) -> Result<(), String> {
        Ok(())
    }

    async fn note(&self) -> Option<String> {
        let status = self.0.status().await.ok()?;
        crate::deletions::control::note(&status)
    }
}
