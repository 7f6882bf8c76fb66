//! A pool with three sandboxes for every name prefix that a caller asks for.

use async_trait::async_trait;
use domain::{ExternalId, NewSandbox, SandboxId, SandboxName, StateName};
use ports::store::{Page, PageCursor, SortRange, StateQuery, Store, StoreError};
use std::sync::Arc;
use testkit::interposed::{Call, InterposedStore, Interposer};

/// Sandboxes of one prefix.
const EACH: usize = 3;

/// Creates them when a page of the index is read.
#[derive(Debug)]
pub(crate) struct Endless;

// === impl Endless ===

impl Endless {
    pub(crate) fn over(self: &Arc<Self>, inner: Arc<dyn Store>) -> Arc<dyn Store> {
        Arc::new(InterposedStore::over(inner, Arc::clone(self)))
    }
}

#[async_trait]
impl Interposer for Endless {
    async fn before(&self, _call: Call) -> Result<(), StoreError> {
        Ok(())
    }

    async fn after(&self, _call: Call) -> Result<(), StoreError> {
        Ok(())
    }

    async fn page(
        &self,
        inner: &dyn Store,
        query: &StateQuery,
        _after: Option<&PageCursor>,
        _limit: u16,
    ) -> Result<Page, StoreError> {
        let SortRange::NamePrefix(prefix) = &query.range else { panic!("not asked for in this test") };
        let mut page = Page::default();
        // Each sandbox is in one shard only: here the first.
        for number in (0..EACH).filter(|_| query.shard == 0) {
            let name = format!("{}{number}", prefix.as_str());
            let id = SandboxId::parse(&name).unwrap();
            let found = match inner.sandbox(&id).await? {
                Some(found) => Some(found),
                None => {
                    let new = NewSandbox {
                        name: SandboxName::parse(&name).unwrap(),
                        ..NewSandbox {
                            id: id.clone(),
                            pool: query.pool.clone(),
                            // Each is a separate account.
                            external_id: ExternalId::parse(&name).unwrap(),
                            ..crate::world::new_sandbox(1)
                        }
                    };
                    inner.insert(&new, crate::world::START).await?;
                    inner.sandbox(&id).await?
                }
            };
            page.sandboxes.extend(found.filter(|sandbox| sandbox.state.name() == StateName::Available));
        }
        Ok(page)
    }
}
