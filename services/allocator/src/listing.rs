//! All sandboxes, page by page, and one with everything.
//!
//! A listing walks over parts of the index, one after the other (`places`), and its cursor says in which part it is and
//! where there. So every page works with every filter, and a sandbox that stays as it is lies in one part only and is
//! shown once. Tombstones are in no index; their list is a scan. What one request may read is bounded; then it answers
//! with what it found, and where to go on.

use crate::{Allocator, decode, page_limit, store_fault};
use contract::{
    Fault, RecordRequest, RecordView, SandboxEntry, SandboxStatus, SandboxesReply, SandboxesRequest, Scope,
};
use domain::{LabId, NamePrefix, OwnerId, PoolKind, PoolName, Pools, Sandbox, StateName};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use ports::bus::Request;
use ports::store::index::scan_cursor;
use ports::store::{PageCursor, StoreError, unless_unreadable};
use std::time::{Duration, Instant};
use strum::IntoEnumIterator as _;

mod places;

use places::Place;

/// Reads of one request: more than a few pools have parts, so that a small fleet is shown at once.
const READS_OF_REQUEST_MAX: usize = 256;
/// Sandboxes that one request reads, wanted or not. Beyond it a filter that fits few of a large pool takes more pages.
const SANDBOXES_OF_REQUEST_MAX: usize = 5_000;
/// Longest that one request reads; less than an ingress waits for one attempt, so that it does not ask anew meanwhile.
const WALK_TIME_MAX: Duration = Duration::from_secs(3);
/// Sandboxes of one read where a filter may throw some away.
const SANDBOXES_OF_READ: u16 = 250;
/// Claim items of one read; each is followed by a look at its sandbox.
const CLAIMS_OF_READ: u16 = 25;
/// Looks at sandboxes that are under way at once.
const READS_AT_ONCE_MAX: usize = 8;

/// Which page of which sandboxes.
#[derive(Debug)]
pub(crate) struct Which {
    /// What the walk is for; a cursor of one is none of another.
    pub(crate) purpose: &'static str,
    /// The states, in the order of the listing.
    pub(crate) states: Vec<StateName>,
    /// The pools, in the order of their names.
    pub(crate) pools: Vec<PoolName>,
    /// Whether these are fewer than all.
    pub(crate) is_narrowed: bool,
    pub(crate) lab: Option<LabId>,
    pub(crate) owner: Option<OwnerId>,
    pub(crate) prefix: Option<NamePrefix>,
    pub(crate) cursor: Option<String>,
    pub(crate) limit: u16,
}

/// What one request has read, and how much it may.
struct Budget {
    reads: usize,
    sandboxes: usize,
    until: Instant,
}

/// What a read of a part came to; none in the place of what the part holds but does not show.
#[derive(Default)]
struct Read {
    sandboxes: Vec<Option<Sandbox>>,
    next: Option<PageCursor>,
}

// === impl Budget ===

impl Budget {
    fn is_spent(&self) -> bool {
        // The first read is always made, or a walk would not move on.
        self.reads > 0
            && (self.reads >= READS_OF_REQUEST_MAX
                || self.sandboxes >= SANDBOXES_OF_REQUEST_MAX
                || Instant::now() >= self.until)
    }
}

// === impl Which ===

impl Which {
    fn parse(request: SandboxesRequest, pools: (Vec<PoolName>, bool), known: &Pools) -> Result<Self, Fault> {
        let SandboxesRequest { status, pool: _, lab, owner, name_prefix, cursor, limit } = request;
        let (pools, is_narrowed) = pools;
        let kinds: Vec<_> = pools.iter().map(|pool| known.kind_of(pool)).collect();
        Ok(Self {
            purpose: "sandboxes",
            states: listed_states(status.as_ref(), &kinds)?,
            pools,
            is_narrowed,
            lab: parsed("lab", lab.as_deref(), LabId::parse)?,
            owner: parsed("owner", owner.as_deref(), OwnerId::parse)?,
            prefix: parsed("name_prefix", name_prefix.as_deref(), NamePrefix::parse)?,
            cursor,
            limit: page_limit(limit)?,
        })
    }

    fn is_wanted(&self, sandbox: &Sandbox, place: &Place) -> bool {
        let lease = sandbox.last_lease();
        sandbox.state.name() == place.state()
            && self.pools.contains(&sandbox.pool)
            && self.owner.as_ref().is_none_or(|owner| sandbox.belongs_to(owner))
            && self.lab.as_ref().is_none_or(|lab| lease.is_some_and(|lease| lease.lab.as_ref() == Some(lab)))
            && self.prefix.as_ref().is_none_or(|prefix| sandbox.name.as_str().starts_with(prefix.as_str()))
    }

    /// The first wanted tombstones of a read, at most `left`, and where to go on: a scan may go on after any sandbox, so
    /// nothing is read twice.
    fn first_tombstones(
        &self,
        read: Vec<Option<Sandbox>>,
        place: &Place,
        left: u16,
        next: Option<PageCursor>,
    ) -> (Vec<Sandbox>, Option<PageCursor>) {
        let wanted = read.into_iter().flatten().filter(|sandbox| self.is_wanted(sandbox, place));
        let mut wanted: Vec<_> = wanted.collect();
        if wanted.len() <= usize::from(left) {
            return (wanted, next);
        }
        wanted.truncate(usize::from(left));
        let next = wanted.last().map(|last| scan_cursor(&last.id));
        (wanted, next)
    }
}

// === impl Allocator ===

impl Allocator {
    pub(crate) async fn sandboxes(&self, scope: &Scope, request: &Request) -> Result<SandboxesReply, Fault> {
        let asked: SandboxesRequest = decode(&request.body)?;
        let pools = self.pools_of(request, asked.pool.as_deref(), scope).await?;
        let which = Which::parse(asked, pools, &self.ports.pools.current())?;
        let (sandboxes, cursor) = self.page_of_sandboxes(&which, request).await?;
        let sandboxes: Vec<_> = sandboxes.iter().map(SandboxEntry::of).collect();
        Ok(SandboxesReply { count: u64::try_from(sandboxes.len()).unwrap_or(u64::MAX), sandboxes, cursor })
    }

    /// By a strongly consistent read, and from the table alone, so that it works while the queue does not.
    pub(crate) async fn record(&self, request: &Request) -> Result<RecordView, Fault> {
        let RecordRequest { sandbox_id } = decode(&request.body)?;
        Ok(RecordView::of(&self.sandbox_of(request, &sandbox_id).await?))
    }

    /// The pools of a request in the order of their names, and whether they are fewer than all.
    pub(crate) async fn pools_of(
        &self,
        request: &Request,
        pool: Option<&str>,
        scope: &Scope,
    ) -> Result<(Vec<PoolName>, bool), Fault> {
        if let Some(pool) = parsed("pool", pool, PoolName::parse)? {
            return Ok((vec![pool], true));
        }
        let every = self.every_pool().await.map_err(|error| store_fault(request, &error))?;
        let pools = every.into_iter().filter(|pool| scope.admits(pool)).collect();
        Ok((pools, *scope != Scope::Every))
    }

    /// One page of these sandboxes, and the cursor of the next.
    pub(crate) async fn page_of_sandboxes(
        &self,
        which: &Which,
        request: &Request,
    ) -> Result<(Vec<Sandbox>, Option<String>), Fault> {
        let store = self.ports.store.as_ref();
        let shards = store.shards().await.map_err(|error| store_fault(request, &error))?;
        let places = places::left(which, shards)?;
        let walked = self.walk(which, places, self.walk_ends(request)).await;
        let (sandboxes, place) = walked.map_err(|error| store_fault(request, &error))?;
        Ok((sandboxes, place.map(|place| place.cursor(which))))
    }

    /// Until when a request reads: half of the time that is left for it, because the last read and the reply take time too.
    fn walk_ends(&self, request: &Request) -> Instant {
        let now = Instant::now();
        now + (self.deadline_of(request).at().saturating_duration_since(now) / 2).min(WALK_TIME_MAX)
    }

    /// At most a page of these places, and where to go on.
    async fn walk(
        &self,
        which: &Which,
        places: Vec<Place>,
        until: Instant,
    ) -> Result<(Vec<Sandbox>, Option<Place>), StoreError> {
        let mut budget = Budget { reads: 0, sandboxes: 0, until };
        let mut found = Vec::new();
        for mut place in places {
            // Ends by itself: every read moves on within one part, and the budget ends.
            loop {
                let left = which.limit.saturating_sub(u16::try_from(found.len()).unwrap_or(u16::MAX));
                if left == 0 || budget.is_spent() {
                    return Ok((found, Some(place)));
                }
                let (wanted, next) = self.next_of(which, &place, left, &mut budget).await?;
                found.extend(wanted);
                match next {
                    Some(next) => place.after = Some(next),
                    None => break,
                }
            }
        }
        Ok((found, None))
    }

    /// The next wanted sandboxes of a place, at most `left`, and where to go on there.
    async fn next_of(
        &self,
        which: &Which,
        place: &Place,
        left: u16,
        budget: &mut Budget,
    ) -> Result<(Vec<Sandbox>, Option<PageCursor>), StoreError> {
        let mut size = match place.loss(which) {
            places::Loss::None => left,
            places::Loss::Some => SANDBOXES_OF_READ,
            places::Loss::OfClaims => CLAIMS_OF_READ,
        };
        if place.is_of_tombstones() {
            let Read { sandboxes, next } = self.read(which, place, size, budget).await?;
            return Ok(which.first_tombstones(sandboxes, place, left, next));
        }
        loop {
            let Read { sandboxes, next } = self.read(which, place, size, budget).await?;
            let is_wanted = |sandbox: &Option<Sandbox>| {
                sandbox.as_ref().is_some_and(|sandbox| which.is_wanted(sandbox, place))
            };
            let beyond = sandboxes.iter().enumerate().filter(|(_, sandbox)| is_wanted(sandbox));
            let Some((last_that_fits, _)) = beyond
                .clone()
                .nth(usize::from(left))
                .and_then(|_| beyond.clone().nth(usize::from(left.saturating_sub(1))))
            else {
                let wanted = sandboxes.into_iter().filter(is_wanted).flatten().collect();
                return Ok((wanted, next));
            };
            // Only a read that ends with the last one that fits has a cursor for what comes behind it. Should the part
            // have changed in between, the size goes down until no more than `left` can be wanted.
            let shorter = u16::try_from(last_that_fits + 1).unwrap_or(u16::MAX);
            size = if shorter < size { shorter } else { left };
        }
    }

    async fn read(
        &self,
        which: &Which,
        place: &Place,
        size: u16,
        budget: &mut Budget,
    ) -> Result<Read, StoreError> {
        let (store, after) = (&self.ports.store, place.after.as_ref());
        let read = match (place.query(which), &which.owner, &which.lab) {
            _ if place.is_of_tombstones() => Read::of(store.tombstones(after, size).await?),
            (Some(query), _, _) => Read::of(store.page(&query, after, size).await?),
            (None, Some(owner), _) => {
                let (sandboxes, next) = self.claim_items_of(owner, after, size).await?;
                Read { sandboxes, next }
            }
            (None, None, Some(lab)) => Read::of(store.held_by_lab(lab, after, size).await?),
            (None, None, None) => Read::default(),
        };
        budget.reads += 1;
        budget.sandboxes += read.sandboxes.len();
        Ok(read)
    }

    /// A page of what an owner holds.
    pub(crate) async fn held_by(
        &self,
        owner: &OwnerId,
        after: Option<&PageCursor>,
        size: u16,
    ) -> Result<(Vec<Sandbox>, Option<PageCursor>), StoreError> {
        let (sandboxes, next) = self.claim_items_of(owner, after, size).await?;
        Ok((sandboxes.into_iter().flatten().collect(), next))
    }

    /// What an owner holds, by its claim items. One of a claim that was lost names a sandbox that others hold, or that
    /// the owner holds by another key; only the item of the live lease itself counts, so nothing is shown twice.
    async fn claim_items_of(
        &self,
        owner: &OwnerId,
        after: Option<&PageCursor>,
        size: u16,
    ) -> Result<(Vec<Option<Sandbox>>, Option<PageCursor>), StoreError> {
        let store = &self.ports.store;
        let page = store.claims_of(owner, after, size).await?;
        let looks = page.claims.into_iter().map(|record| async move {
            let found = unless_unreadable(store.sandbox(&record.candidate.id).await)?;
            let is_live = |sandbox: &Sandbox| {
                sandbox.lease().is_some_and(|lease| {
                    lease.claim == record.claim
                        && sandbox.id == record.candidate.id
                        && lease.claimed_version == record.candidate.version
                })
            };
            Ok::<_, StoreError>(found.filter(is_live))
        });
        let looks: Vec<_> = looks.collect();
        let sandboxes = stream::iter(looks).buffered(READS_AT_ONCE_MAX).try_collect().await?;
        Ok((sandboxes, page.next))
    }
}

// === impl Read ===

impl Read {
    fn of(page: ports::store::Page) -> Self {
        let ports::store::Page { sandboxes, unreadable, next } = page;
        // Not in their places; a read that is cut short for it only shows fewer.
        let skipped = unreadable.iter().map(|_| None);
        Self { sandboxes: sandboxes.into_iter().map(Some).chain(skipped).collect(), next }
    }
}

/// The states of a filter; without one all that the pools of these kinds have, except for deleted, whose list has to
/// read the whole table.
fn listed_states(
    status: Option<&SandboxStatus>,
    kinds: &[Option<PoolKind>],
) -> Result<Vec<StateName>, Fault> {
    let Some(status) = status else {
        let is_listed =
            |state: &StateName| kinds.iter().any(|kind| StateName::indexed(*kind).contains(state));
        return Ok(StateName::iter().filter(is_listed).collect());
    };
    match status.known() {
        Some(state) => Ok(vec![state]),
        None => Err(Fault::invalid("status", format!("must be one of {}", contract::names::<StateName>()))),
    }
}

fn parsed<T, E: std::fmt::Display>(
    field: &'static str,
    text: Option<&str>,
    parse: fn(&str) -> Result<T, E>,
) -> Result<Option<T>, Fault> {
    text.map(parse).transpose().map_err(|problem| Fault::invalid(field, problem))
}

#[cfg(test)]
mod tests;
