//! Templates in memory.

use super::MemoryStore;
use async_trait::async_trait;
use domain::{Template, TemplateHead, TemplateId, UnixSeconds};
use ports::store::{EntryPage, StoreError, TemplateItems};

#[async_trait]
impl TemplateItems for MemoryStore {
    async fn template_head(&self, id: &TemplateId) -> Result<Option<TemplateHead>, StoreError> {
        Ok(self.tables().template_heads.get(id).cloned())
    }

    async fn template(&self, id: &TemplateId, version: u64) -> Result<Option<Template>, StoreError> {
        Ok(self.tables().templates.get(&(id.clone(), version)).cloned())
    }

    async fn write_template(&self, seen: Option<&TemplateHead>, next: &Template) -> Result<bool, StoreError> {
        let mut tables = self.tables();
        let place = (next.id.clone(), next.version);
        let is_as_seen =
            tables.template_heads.get(&next.id) == seen && !tables.templates.contains_key(&place);
        if is_as_seen {
            tables.templates.insert(place, next.clone());
            tables.template_heads.insert(next.id.clone(), TemplateHead::with(seen, next));
        }
        Ok(is_as_seen)
    }

    async fn mark_template(
        &self,
        seen: &TemplateHead,
        removed_at: Option<UnixSeconds>,
    ) -> Result<bool, StoreError> {
        let mut tables = self.tables();
        let is_as_seen = tables.template_heads.get(&seen.id) == Some(seen);
        if is_as_seen {
            tables.template_heads.insert(seen.id.clone(), TemplateHead { removed_at, ..seen.clone() });
        }
        Ok(is_as_seen)
    }

    async fn templates(
        &self,
        after: Option<&TemplateId>,
        limit: u16,
    ) -> Result<EntryPage<TemplateHead, TemplateId>, StoreError> {
        let tables = self.tables();
        let live = tables.template_heads.values().filter(|head| head.is_live());
        let rest = live.filter(|head| after.is_none_or(|after| head.id > *after));
        let entries: Vec<_> = rest.take(limit.max(1).into()).cloned().collect();
        let next = full(&entries, limit).map(|last| last.id.clone());
        Ok(EntryPage { entries, next })
    }

    async fn template_versions(
        &self,
        id: &TemplateId,
        before: Option<u64>,
        limit: u16,
    ) -> Result<EntryPage<Template, u64>, StoreError> {
        let tables = self.tables();
        let newest_first = tables.templates.values().rev().filter(|template| template.id == *id);
        let rest = newest_first.filter(|template| before.is_none_or(|before| template.version < before));
        let entries: Vec<_> = rest.take(limit.max(1).into()).cloned().collect();
        let next = full(&entries, limit).map(|last| last.version);
        Ok(EntryPage { entries, next })
    }
}

/// The last entry of a full page. As in DynamoDB, nothing may follow it.
pub(super) fn full<T>(entries: &[T], limit: u16) -> Option<&T> {
    entries.last().filter(|_| entries.len() == usize::from(limit.max(1)))
}
