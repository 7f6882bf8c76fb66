//! A store with an interposer, which may delay a call, make it fail, or answer for the index.

use async_trait::async_trait;
use domain::{
    ClaimKey, ClaimRecord, DeletionSwitch, ExternalId, LabId, NewSandbox, Node, NodeId, OwnerId, PoolName,
    PoolSpec, ProviderName, Sandbox, SandboxId, Template, TemplateHead, TemplateId, Transition, UnixSeconds,
};
use ports::store::{
    Agreed, ClaimPage, EntryPage, Identities, Identity, IdentityPage, Insert, Layout, MoveClaim, NodeItems,
    OpenClaim, Page, PageCursor, PoolItems, Shards, StateQuery, Store, StoreError, Supply, TableMark,
    TemplateItems, Write,
};
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A call of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// The method.
    pub operation: &'static str,
    /// Its number, from zero over all methods.
    pub number: usize,
}

/// Intercepts the calls of a store.
#[async_trait]
pub trait Interposer: Send + Sync + Debug {
    /// Before the call: an error prevents it.
    async fn before(&self, call: Call) -> Result<(), StoreError>;

    /// After the call: an error loses its answer.
    async fn after(&self, call: Call) -> Result<(), StoreError>;

    /// A sandbox was written; this is its new state.
    fn written(&self, _sandbox: &Sandbox) {}

    /// What the index shows.
    async fn page(
        &self,
        inner: &dyn Store,
        query: &StateQuery,
        after: Option<&PageCursor>,
        limit: u16,
    ) -> Result<Page, StoreError> {
        inner.page(query, after, limit).await
    }
}

/// A store and its interposer.
#[derive(Debug)]
pub struct InterposedStore<I> {
    inner: Arc<dyn Store>,
    between: Arc<I>,
    begun: AtomicUsize,
}

// === impl InterposedStore ===

impl<I: Interposer> InterposedStore<I> {
    /// Puts `between` in front of `inner`.
    #[must_use]
    pub fn over(inner: Arc<dyn Store>, between: Arc<I>) -> Self {
        Self { inner, between, begun: AtomicUsize::new(0) }
    }

    /// The interposer.
    pub(super) fn between(&self) -> &I {
        &self.between
    }

    async fn pass<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let this = Call { operation, number: self.begun.fetch_add(1, Ordering::SeqCst) };
        self.between.before(this).await?;
        let answer = call.await;
        self.between.after(this).await?;
        answer
    }

    async fn enter(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<Insert, StoreError>> + Send,
    ) -> Result<Insert, StoreError> {
        let noted = async {
            let answer = call.await?;
            if let Insert::Inserted(entered) = &answer {
                self.between.written(entered);
            }
            Ok(answer)
        };
        self.pass(operation, noted).await
    }
}

#[async_trait]
impl<I: Interposer> PoolItems for InterposedStore<I> {
    async fn pool_spec(&self, pool: &PoolName) -> Result<Option<PoolSpec>, StoreError> {
        self.pass("pool_spec", self.inner.pool_spec(pool)).await
    }

    async fn write_pool(&self, seen: Option<u64>, next: &PoolSpec) -> Result<bool, StoreError> {
        self.pass("write_pool", self.inner.write_pool(seen, next)).await
    }

    async fn remove_pool(&self, pool: &PoolName, seen: u64) -> Result<bool, StoreError> {
        self.pass("remove_pool", self.inner.remove_pool(pool, seen)).await
    }
}

#[async_trait]
impl<I: Interposer> TemplateItems for InterposedStore<I> {
    async fn template_head(&self, id: &TemplateId) -> Result<Option<TemplateHead>, StoreError> {
        self.pass("template_head", self.inner.template_head(id)).await
    }

    async fn template(&self, id: &TemplateId, version: u64) -> Result<Option<Template>, StoreError> {
        self.pass("template", self.inner.template(id, version)).await
    }

    async fn write_template(&self, seen: Option<&TemplateHead>, next: &Template) -> Result<bool, StoreError> {
        self.pass("write_template", self.inner.write_template(seen, next)).await
    }

    async fn mark_template(
        &self,
        seen: &TemplateHead,
        removed_at: Option<UnixSeconds>,
    ) -> Result<bool, StoreError> {
        self.pass("mark_template", self.inner.mark_template(seen, removed_at)).await
    }

    async fn templates(
        &self,
        after: Option<&TemplateId>,
        limit: u16,
    ) -> Result<EntryPage<TemplateHead, TemplateId>, StoreError> {
        self.pass("templates", self.inner.templates(after, limit)).await
    }

    async fn template_versions(
        &self,
        id: &TemplateId,
        before: Option<u64>,
        limit: u16,
    ) -> Result<EntryPage<Template, u64>, StoreError> {
        self.pass("template_versions", self.inner.template_versions(id, before, limit)).await
    }
}

#[async_trait]
impl<I: Interposer> NodeItems for InterposedStore<I> {
    async fn node(&self, id: &NodeId) -> Result<Option<Node>, StoreError> {
        self.pass("node", self.inner.node(id)).await
    }

    async fn write_node(&self, seen: Option<&Node>, next: &Node) -> Result<bool, StoreError> {
        self.pass("write_node", self.inner.write_node(seen, next)).await
    }

    async fn nodes(&self, after: Option<&NodeId>, limit: u16) -> Result<EntryPage<Node, NodeId>, StoreError> {
        self.pass("nodes", self.inner.nodes(after, limit)).await
    }
}

#[async_trait]
impl<I: Interposer> Identities for InterposedStore<I> {
    async fn identity(&self, external_id: &ExternalId) -> Result<Option<Identity>, StoreError> {
        self.pass("identity", self.inner.identity(external_id)).await
    }

    async fn name_identity(&self, external_id: &ExternalId, id: &SandboxId) -> Result<Identity, StoreError> {
        self.pass("name_identity", self.inner.name_identity(external_id, id)).await
    }

    async fn identities(
        &self,
        provider: &ProviderName,
        shard: u16,
        after: Option<&PageCursor>,
        limit: u16,
    ) -> Result<IdentityPage, StoreError> {
        self.pass("identities", self.inner.identities(provider, shard, after, limit)).await
    }

    async fn note_absences(&self, seen: &Identity, absences: u32) -> Result<bool, StoreError> {
        self.pass("note_absences", self.inner.note_absences(seen, absences)).await
    }

    async fn drop_identity(&self, seen: &Identity) -> Result<bool, StoreError> {
        self.pass("drop_identity", self.inner.drop_identity(seen)).await
    }

    async fn reidentify(
        &self,
        seen: &Sandbox,
        listed: &NewSandbox,
        now: UnixSeconds,
    ) -> Result<Insert, StoreError> {
        self.enter("reidentify", self.inner.reidentify(seen, listed, now)).await
    }
}

#[async_trait]
impl<I: Interposer> Layout for InterposedStore<I> {
    // Not intercepted: it is nearly always answered from memory.
    async fn shards(&self) -> Result<u16, StoreError> {
        self.inner.shards().await
    }

    async fn follow_size(&self, sandboxes: u64, now: UnixSeconds) -> Result<Shards, StoreError> {
        self.pass("follow_size", self.inner.follow_size(sandboxes, now)).await
    }

    async fn note_supply(&self, pool: &PoolName, now: UnixSeconds) -> Result<(), StoreError> {
        self.pass("note_supply", self.inner.note_supply(pool, now)).await
    }

    async fn supply(&self, pool: &PoolName) -> Result<Supply, StoreError> {
        self.pass("supply", self.inner.supply(pool)).await
    }

    // Not intercepted: every run begins with it, and no test is about it.
    async fn pools(&self) -> Result<BTreeSet<PoolName>, StoreError> {
        self.inner.pools().await
    }

    async fn note_pools(&self, pools: &BTreeSet<PoolName>) -> Result<(), StoreError> {
        self.inner.note_pools(pools).await
    }

    // Not intercepted: every sweep begins with it.
    async fn deletion_switch(&self) -> Result<Option<DeletionSwitch>, StoreError> {
        self.inner.deletion_switch().await
    }

    async fn set_deletion_switch(&self, next: &DeletionSwitch) -> Result<bool, StoreError> {
        self.inner.set_deletion_switch(next).await
    }

    // Not intercepted: roles do this at their start, before the tests begin.
    async fn agreed(&self) -> Result<Agreed, StoreError> {
        self.inner.agreed().await
    }

    async fn agree(&self, own: &Agreed, replaces: bool) -> Result<Agreed, StoreError> {
        self.inner.agree(own, replaces).await
    }

    async fn mark(&self) -> Result<TableMark, StoreError> {
        self.inner.mark().await
    }

    async fn advance_mark(&self, seen: &TableMark, next: &TableMark) -> Result<bool, StoreError> {
        self.inner.advance_mark(seen, next).await
    }
}

#[async_trait]
impl<I: Interposer> Store for InterposedStore<I> {
    // Not intercepted: every sweep of a new event log begins with it.
    async fn tombstones(&self, after: Option<&PageCursor>, limit: u16) -> Result<Page, StoreError> {
        self.inner.tombstones(after, limit).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.pass("ping", self.inner.ping()).await
    }

    async fn open_claim(
        &self,
        record: &ClaimRecord,
        keep_until: UnixSeconds,
    ) -> Result<OpenClaim, StoreError> {
        self.pass("open_claim", self.inner.open_claim(record, keep_until)).await
    }

    async fn move_claim(
        &self,
        from: &ClaimRecord,
        to: &ClaimRecord,
        keep_until: UnixSeconds,
    ) -> Result<MoveClaim, StoreError> {
        self.pass("move_claim", self.inner.move_claim(from, to, keep_until)).await
    }

    async fn close_claim(&self, record: &ClaimRecord, keep_until: UnixSeconds) -> Result<(), StoreError> {
        self.pass("close_claim", self.inner.close_claim(record, keep_until)).await
    }

    async fn find_claim(&self, claim: &ClaimKey) -> Result<Option<ClaimRecord>, StoreError> {
        self.pass("find_claim", self.inner.find_claim(claim)).await
    }

    async fn apply(&self, id: &SandboxId, transition: &Transition) -> Result<Write, StoreError> {
        let noted = async {
            let answer = self.inner.apply(id, transition).await?;
            if let Write::Done(sandbox) = &answer {
                self.between.written(sandbox);
            }
            Ok(answer)
        };
        self.pass(transition.name, noted).await
    }

    async fn insert(&self, sandbox: &NewSandbox, now: UnixSeconds) -> Result<Insert, StoreError> {
        self.enter("insert", self.inner.insert(sandbox, now)).await
    }

    async fn create(&self, sandbox: &Sandbox) -> Result<Insert, StoreError> {
        self.enter("create", self.inner.create(sandbox)).await
    }

    async fn sandbox(&self, id: &SandboxId) -> Result<Option<Sandbox>, StoreError> {
        self.pass("sandbox", self.inner.sandbox(id)).await
    }

    async fn page(
        &self,
        query: &StateQuery,
        after: Option<&PageCursor>,
        limit: u16,
    ) -> Result<Page, StoreError> {
        self.pass("page", self.between.page(&*self.inner, query, after, limit)).await
    }

    async fn held_by_lab(
        &self,
        lab: &LabId,
        after: Option<&PageCursor>,
        limit: u16,
    ) -> Result<Page, StoreError> {
        self.pass("held_by_lab", self.inner.held_by_lab(lab, after, limit)).await
    }

    async fn claims_of(
        &self,
        owner: &OwnerId,
        after: Option<&PageCursor>,
        limit: u16,
    ) -> Result<ClaimPage, StoreError> {
        self.pass("claims_of", self.inner.claims_of(owner, after, limit)).await
    }

    async fn last(&self, query: &StateQuery) -> Result<Option<Sandbox>, StoreError> {
        self.pass("last", self.inner.last(query)).await
    }

    async fn count(&self, query: &StateQuery) -> Result<u64, StoreError> {
        self.pass("count", self.inner.count(query)).await
    }
}
