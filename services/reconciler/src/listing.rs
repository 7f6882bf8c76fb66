//! Reads the whole listing of the provider, and whole pools from the index.

use crate::Reconciler;
use crate::plan::{Listed, Sighted, mark_of};
use domain::{PoolName, ProviderName, Sandbox, SandboxId, StateName};
use ports::provider::{Listing, Provider, ProviderError};
use ports::store::{Page, PageCursor, SortRange, StateQuery, StoreError, Unreadable};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Most accounts of one listing; a longer listing is rejected.
pub(crate) const LISTING_MAX: usize = 500_000;
/// Attempts to read a listing without repeated accounts: accounts that are created meanwhile shift the pages.
const LISTING_TRIES_MAX: usize = 3;
/// Sandboxes in one page of the index.
pub(crate) const PAGE_LIMIT: u16 = 500;

/// Why a listing could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListingError {
    #[error("the provider's listing could not be read")]
    Provider(#[source] ProviderError),
    #[error("the provider's listing does not end")]
    Endless,
    #[error("the pages of the provider's listing overlap: an account came twice, so others may be left out")]
    Overlapping,
}

/// Items that a run could not read, each once. The store has logged them.
#[derive(Debug, Default)]
pub(crate) struct Skipped {
    items: BTreeMap<String, Option<SandboxId>>,
}

/// A provider, and its name.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) name: &'a ProviderName,
    pub(crate) provider: &'a dyn Provider,
}

/// One part of the index, read page by page.
pub(crate) struct Walk<'a> {
    reconciler: &'a Reconciler,
    queries: Vec<StateQuery>,
    after: Option<PageCursor>,
}

// === impl Reconciler ===

impl Reconciler {
    /// The whole listing of a provider, validated entry by entry.
    pub(crate) async fn list(&self, source: &Source<'_>) -> Result<Listed, ListingError> {
        let pools = self.ports.pools.current();
        source
            .list_whole(
                || Listed::of(source.name.clone()),
                |listed, page| {
                    for entry in page.malformed {
                        listed.take_malformed(entry);
                    }
                    for account in page.accounts {
                        listed.take(account, &pools);
                    }
                },
            )
            .await
    }

    /// The ids of a second listing.
    pub(crate) async fn list_again(&self, source: &Source<'_>) -> Result<Sighted, ListingError> {
        source
            .list_whole(
                || Sighted::of(source.name.clone()),
                |sighted, page| {
                    page.malformed.iter().for_each(|entry| sighted.take_malformed(entry));
                    page.accounts.iter().for_each(|account| sighted.take(account));
                },
            )
            .await
    }

    /// Every pool that may have sandboxes: those that have an item, and those that had one.
    pub(crate) async fn every_pool(&self) -> Result<BTreeSet<PoolName>, StoreError> {
        let known = self.ports.pools.current().names().cloned().collect();
        self.ports.store.pools_with(&known).await
    }

    /// A walk over all shards of all pools in one state.
    pub(crate) async fn walk(&self, state: StateName, range: &SortRange) -> Result<Walk<'_>, StoreError> {
        self.walk_ranges(&[state], |_, _| range.clone()).await
    }

    /// A walk over all shards of one pool in some states.
    pub(crate) async fn walk_pool(
        &self,
        pool: &PoolName,
        states: &[StateName],
    ) -> Result<Walk<'_>, StoreError> {
        let shards = self.ports.store.shards().await?;
        let range = SortRange::All;
        let of_state = |state: &StateName| {
            let (state, range) = (*state, range.clone());
            (0..shards).map(move |shard| StateQuery {
                pool: pool.clone(),
                state,
                shard,
                range: range.clone(),
            })
        };
        let queries = states.iter().rev().flat_map(of_state).collect();
        Ok(Walk { reconciler: self, queries, after: None })
    }

    /// A walk over all shards of all pools in some states, one after the other, each pool and state in its own range.
    pub(crate) async fn walk_ranges(
        &self,
        states: &[StateName],
        range_of: impl Fn(StateName, &PoolName) -> SortRange + Send,
    ) -> Result<Walk<'_>, StoreError> {
        let known = self.ports.pools.current();
        let pools = self.every_pool().await?;
        let shards = self.ports.store.shards().await?;
        let mut queries = Vec::new();
        // Taken from the end.
        for &state in states.iter().rev() {
            for pool in pools.iter().filter(|pool| StateName::indexed(known.kind_of(pool)).contains(&state)) {
                let range = range_of(state, pool);
                let of_shard = |shard| StateQuery { pool: pool.clone(), state, shard, range: range.clone() };
                queries.extend((0..shards).map(of_shard));
            }
        }
        Ok(Walk { reconciler: self, queries, after: None })
    }
}

// === impl Source ===

impl Source<'_> {
    /// Builds a `T` from all pages. A repeated account shows that pages overlap and accounts may be missing: then it
    /// starts again, up to [`LISTING_TRIES_MAX`] times.
    async fn list_whole<T>(
        &self,
        empty: impl Fn() -> T,
        mut take: impl FnMut(&mut T, Listing),
    ) -> Result<T, ListingError> {
        for _ in 0..LISTING_TRIES_MAX {
            let mut whole = empty();
            match self.each_page(|page| take(&mut whole, page)).await {
                Err(ListingError::Overlapping) => tracing::warn!("the pages of the listing overlap"),
                ended => return ended.map(|()| whole),
            }
        }
        Err(ListingError::Overlapping)
    }

    /// Passes every page to `take` and keeps none.
    async fn each_page(&self, mut take: impl FnMut(Listing)) -> Result<(), ListingError> {
        let mut offset = 0;
        let mut received = 0_usize;
        let mut marks = HashSet::new();
        loop {
            let page = self.provider.list(offset).await.map_err(ListingError::Provider)?;
            received = received.saturating_add(page.accounts.len() + page.ignored + page.malformed.len());
            if received > LISTING_MAX {
                return Err(ListingError::Endless);
            }
            if !ids_of(&page).all(|id| marks.insert(mark_of(id))) {
                return Err(ListingError::Overlapping);
            }
            let next = page.next;
            take(page);
            match next {
                // A provider that repeats an offset would be listed for ever.
                Some(next) if next > offset => offset = next,
                Some(_) => return Err(ListingError::Endless),
                None => return Ok(()),
            }
        }
    }
}

// === impl Skipped ===

impl Skipped {
    /// Adds the unreadable items of a page.
    pub(crate) fn take(&mut self, unreadable: Vec<Unreadable>) {
        self.items.extend(unreadable.into_iter().map(|unreadable| (unreadable.item, unreadable.sandbox)));
    }

    /// The answer of the store; none if the item cannot be read, which is recorded.
    pub(crate) fn unless_unreadable<T>(
        &mut self,
        answer: Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        match answer.map_err(StoreError::into_unreadable) {
            Ok(found) => Ok(Some(found)),
            Err(Ok(unreadable)) => {
                self.take(vec![unreadable]);
                Ok(None)
            }
            Err(Err(failure)) => Err(failure),
        }
    }

    /// The sandboxes among them.
    pub(crate) fn sandboxes(&self) -> impl Iterator<Item = &SandboxId> {
        self.items.values().flatten()
    }

    /// Their number.
    pub(crate) fn count(&self) -> u64 {
        u64::try_from(self.items.len()).unwrap_or(u64::MAX)
    }
}

// === impl Walk ===

impl Walk<'_> {
    /// The next page, without unreadable items; none at the end.
    pub(crate) async fn next(&mut self, skipped: &mut Skipped) -> Result<Option<Vec<Sandbox>>, StoreError> {
        let Some(query) = self.queries.last() else { return Ok(None) };
        let Page { sandboxes, unreadable, next } =
            self.reconciler.ports.store.page(query, self.after.as_ref(), PAGE_LIMIT).await?;
        skipped.take(unreadable);
        self.after = next;
        if self.after.is_none() {
            self.queries.pop();
        }
        Ok(Some(sandboxes))
    }
}

/// The provider's ids of all entries of a page that have one.
fn ids_of(page: &Listing) -> impl Iterator<Item = &str> {
    let malformed = page.malformed.iter().filter_map(|entry| entry.external_id.as_deref());
    let accounts = page.accounts.iter().map(|account| account.external_id.as_str());
    accounts.chain(page.ignored_ids.iter().map(String::as_str)).chain(malformed)
}
