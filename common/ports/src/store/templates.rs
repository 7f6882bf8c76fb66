//! The items of templates: a head for each, and one item for each version, which is never changed.

use super::StoreError;
use async_trait::async_trait;
use domain::{Template, TemplateHead, TemplateId, UnixSeconds};

/// One page of a listing of templates, their versions, or nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryPage<T, C> {
    /// What is on it.
    pub entries: Vec<T>,
    /// Where the next page goes on; none on the last page.
    pub next: Option<C>,
}

/// Stores templates. Part of every store.
#[async_trait]
pub trait TemplateItems: Send + Sync {
    /// The head, by a strongly consistent read; it may be removed.
    async fn template_head(&self, id: &TemplateId) -> Result<Option<TemplateHead>, StoreError>;

    /// A version, by a strongly consistent read. The versions of a removed template stay.
    async fn template(&self, id: &TemplateId, version: u64) -> Result<Option<Template>, StoreError>;

    /// Stores a further version and makes it the current one, in one transaction, if the head is still `seen` (none: if
    /// there is none) and there is no such version; false if not.
    async fn write_template(&self, seen: Option<&TemplateHead>, next: &Template) -> Result<bool, StoreError>;

    /// Marks the template as removed, or takes the mark away, if the head is still `seen`; false if not.
    async fn mark_template(
        &self,
        seen: &TemplateHead,
        removed_at: Option<UnixSeconds>,
    ) -> Result<bool, StoreError>;

    /// One page of the heads that are not removed, at most `limit`, by id. It comes from an index, which may lag behind.
    async fn templates(
        &self,
        after: Option<&TemplateId>,
        limit: u16,
    ) -> Result<EntryPage<TemplateHead, TemplateId>, StoreError>;

    /// One page of the versions of a template, at most `limit`, the newest first and below `before`.
    async fn template_versions(
        &self,
        id: &TemplateId,
        before: Option<u64>,
        limit: u16,
    ) -> Result<EntryPage<Template, u64>, StoreError>;
}
