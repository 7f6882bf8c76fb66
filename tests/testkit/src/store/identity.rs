//! Identities in memory.

use super::MemoryStore;
use async_trait::async_trait;
use domain::{ExternalId, NewSandbox, ProviderName, Sandbox, SandboxId, UnixSeconds};
use ports::store::index::identity_shard;
use ports::store::{IDENTITY_DUPLICATES_MAX, Identities, Identity, IdentityPage};
use ports::store::{Insert, PageCursor, StoreError};
use std::ops::Bound;

#[async_trait]
impl Identities for MemoryStore {
    async fn identity(&self, external_id: &ExternalId) -> Result<Option<Identity>, StoreError> {
        Ok(self.tables().identities.get(&place(external_id)).cloned())
    }

    async fn name_identity(&self, external_id: &ExternalId, id: &SandboxId) -> Result<Identity, StoreError> {
        let mut tables = self.tables();
        let fresh = || Identity::new(external_id.clone(), id.clone());
        let identity = tables.identities.entry(place(external_id)).or_insert_with(fresh);
        if !identity.names(id) && identity.duplicates.len() < IDENTITY_DUPLICATES_MAX {
            identity.duplicates.push(id.clone());
            identity.duplicates.sort_unstable();
        }
        Ok(identity.clone())
    }

    async fn identities(
        &self,
        provider: &ProviderName,
        shard: u16,
        after: Option<&PageCursor>,
        limit: u16,
    ) -> Result<IdentityPage, StoreError> {
        let tables = self.tables();
        let limit = usize::from(limit.max(1));
        let after = after.map(|cursor| cursor.key.clone());
        let start = (provider.clone(), shard, after.unwrap_or_default());
        let from_here = tables.identities.range((Bound::Excluded(start), Bound::Unbounded));
        let of_shard = from_here.take_while(|((of, at, _), _)| of == provider && *at == shard).take(limit);
        let identities: Vec<Identity> = of_shard.map(|(_, identity)| identity.clone()).collect();
        let last = identities.last().filter(|_| identities.len() == limit);
        let next = last.map(|last| PageCursor { sort: String::new(), key: last.external_id.to_string() });
        Ok(IdentityPage { identities, next })
    }

    async fn note_absences(&self, seen: &Identity, absences: u32) -> Result<bool, StoreError> {
        let mut tables = self.tables();
        match tables.identities.get_mut(&place(&seen.external_id)) {
            Some(identity) if identity == seen => {
                identity.absences = absences;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    async fn drop_identity(&self, seen: &Identity) -> Result<bool, StoreError> {
        let mut tables = self.tables();
        let place = place(&seen.external_id);
        let is_same = tables.identities.get(&place) == Some(seen);
        if is_same {
            tables.identities.remove(&place);
        }
        Ok(is_same)
    }

    async fn reidentify(
        &self,
        seen: &Sandbox,
        listed: &NewSandbox,
        now: UnixSeconds,
    ) -> Result<Insert, StoreError> {
        let mut tables = self.tables();
        let Some(there) = tables.sandboxes.get(&seen.id).cloned() else {
            return Ok(Insert::Taken(seen.id.clone()));
        };
        let renewed = match there.reidentify(seen.version, listed.clone(), now) {
            Ok(renewed) => renewed,
            Err(refused) => return Ok(Insert::Exists(refused.sandbox)),
        };
        if let Some(identity) = tables.identities.get(&place(&listed.external_id)) {
            return Ok(Insert::Taken(identity.sandbox_id.clone()));
        }
        let shards = tables.shards(self.shards_set).write;
        tables.put_with_identity(renewed.clone(), shards);
        Ok(Insert::Inserted(Box::new(renewed)))
    }
}

/// The key of an identity: provider and shard first, so that a page of a shard is a range.
pub(super) fn place(external_id: &ExternalId) -> (ProviderName, u16, String) {
    (external_id.provider(), identity_shard(external_id), external_id.as_str().to_owned())
}
