//! Work that asks a node to create a sandbox.

use domain::{Descriptor, Epoch, InvalidId, PoolName, Sandbox, SandboxId, State, TemplateVersion};
use serde::{Deserialize, Serialize};
use strum::IntoEnumIterator as _;
use utoipa::ToSchema;

/// Version of [`ProvisionWork`] that this build writes and reads.
pub const PROVISION_WORK_VERSION: u32 = 1;

/// One sandbox that should be created. The table decides whether it still should: the epoch fences.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProvisionWork {
    /// Version of this shape; a reader parks what it does not know.
    pub version: u32,
    /// The sandbox.
    pub sandbox_id: String,
    /// Its pool.
    pub pool: String,
    /// The epoch that it is created for.
    pub epoch: u64,
    /// The version of the template, as `<template>@<number>`.
    pub template: String,
    /// Whether a claim waits for it; such work comes before that of free sandboxes.
    pub is_leased: bool,
    /// When it was asked for, Unix seconds.
    pub requested_at: u64,
}

/// The parked creation to try again: `replay-provision`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplayProvisionRequest {
    /// The sandbox.
    pub sandbox_id: String,
    /// Who asks, for the history; the principal if there is one, else `operator` if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// Replays parked creations, one page: `replay-provisions`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplayProvisionsRequest {
    /// Only those of this pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Only those whose last error contains this text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Where the page before ended, with the same filters; none for the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Most creations to look at, 1 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Who asks, for the history; the principal if there is one, else `operator` if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// What a page of replayed creations did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ReplayProvisionsReply {
    /// Tried again from now on.
    pub replayed: u64,
    /// On their way already.
    pub already_on_the_way: u64,
    /// Not parked any more, or their lease is over.
    pub gone: u64,
    /// Could not be replayed now, because table or queue did not answer.
    pub failed: u64,
    /// Where the next page begins; none after the last.
    pub cursor: Option<String>,
}

/// Which work of a pool a runner does first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, strum::IntoStaticStr, strum::EnumIter)]
#[strum(serialize_all = "snake_case")]
pub enum ProvisionPriority {
    /// A claim waits for the sandbox.
    Lease,
    /// The sandbox is to be free.
    Fill,
}

/// The work of one pool with one priority; it has a consumer of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProvisionLane {
    /// The priority.
    pub priority: ProvisionPriority,
    /// The pool.
    pub pool: PoolName,
}

// === impl ReplayProvisionsReply ===

impl ReplayProvisionsReply {
    /// Adds the counts of a further page, and goes on where that ended.
    pub fn add(&mut self, page: Self) {
        let Self { replayed, already_on_the_way, gone, failed, cursor } = page;
        self.replayed += replayed;
        self.already_on_the_way += already_on_the_way;
        self.gone += gone;
        self.failed += failed;
        self.cursor = cursor;
    }
}

// === impl ProvisionPriority ===

impl ProvisionPriority {
    /// Its token in subjects and names.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

// === impl ProvisionLane ===

impl ProvisionLane {
    /// Both lanes of a pool, the more urgent one first.
    pub fn both(pool: &PoolName) -> impl Iterator<Item = Self> {
        ProvisionPriority::iter().map(|priority| Self { priority, pool: pool.clone() })
    }
}

// === impl ProvisionWork ===

impl ProvisionWork {
    /// The work that creates `sandbox`; none unless its creation is wanted.
    #[must_use]
    pub fn of(sandbox: &Sandbox) -> Option<Self> {
        let State::Provisioning(provision) = &sandbox.state else { return None };
        Some(Self {
            version: PROVISION_WORK_VERSION,
            sandbox_id: sandbox.id.to_string(),
            pool: sandbox.pool.to_string(),
            epoch: sandbox.epoch.get(),
            template: sandbox.descriptor.get(Descriptor::TEMPLATE)?.to_owned(),
            is_leased: provision.lease.is_some(),
            requested_at: provision.requested_at.get(),
        })
    }

    /// Its priority.
    #[must_use]
    pub const fn priority(&self) -> ProvisionPriority {
        if self.is_leased { ProvisionPriority::Lease } else { ProvisionPriority::Fill }
    }

    /// The sandbox, its pool, the epoch and the version of the template, as checked ids.
    ///
    /// # Errors
    /// [`InvalidId`] when one of them is no such id.
    pub fn parts(&self) -> Result<(SandboxId, PoolName, Epoch, TemplateVersion), InvalidId> {
        Ok((
            SandboxId::parse(&self.sandbox_id)?,
            PoolName::parse(&self.pool)?,
            Epoch::new(self.epoch),
            TemplateVersion::parse(&self.template)?,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::{ExternalId, NewSandbox, ProviderName, SandboxName, Transition, UnixSeconds};

    #[test]
    fn work_is_of_what_is_being_created() {
        let new = NewSandbox {
            id: SandboxId::parse("ctr_1").unwrap(),
            name: SandboxName::parse("ctr_1").unwrap(),
            external_id: ExternalId::of(&ProviderName::parse("nodes").unwrap(), "ctr_1").unwrap(),
            pool: PoolName::parse("shells").unwrap(),
            descriptor: Descriptor::parse([(Descriptor::TEMPLATE, "shell@3")]).unwrap(),
        };
        let wanted = new.provision(None, UnixSeconds::new(7));
        let work = ProvisionWork::of(&wanted).unwrap();
        assert_eq!((work.template.as_str(), work.is_leased, work.requested_at), ("shell@3", false, 7));
        let (id, pool, epoch, template) = work.parts().unwrap();
        assert_eq!((id, pool, epoch), (wanted.id.clone(), wanted.pool.clone(), wanted.epoch));
        assert_eq!(template.as_str(), "shell@3");
        let parked = wanted.clone().apply(&Transition::park_provision(&wanted, UnixSeconds::new(8))).unwrap();
        assert_eq!(ProvisionWork::of(&parked), None);
    }
}
