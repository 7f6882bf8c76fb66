//! The parts that a listing walks over, in an order that does not depend on who answers, and where in one of them it is.

use super::Which;
use contract::Fault;
use domain::{IdempotencyKey, LabId, NamePrefix, OwnerId, PoolName, SandboxId, StateName};
use ports::store::index::fnv1a;
use ports::store::{PageCursor, SHARDS_MAX, SortRange, StateQuery, cursor};
use strum::IntoEnumIterator as _;

/// How the parts that are no shards are called in a cursor.
const CLAIMS: &str = "claims";
const LAB: &str = "lab";
const TOMBSTONES: &str = "tombstones";
/// Most digits of a time in a cursor: those of the largest number of 64 bits.
const TIME_DIGITS_MAX: usize = 20;

/// What a walk looks into.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// One shard of `StateIndex`.
    Shard { state: StateName, pool: PoolName, shard: u16 },
    /// What an owner holds, by its claim items.
    Claims,
    /// What a lab holds, by `GroupIndex` or `LabIndex`.
    Lab,
    /// All tombstones, by a scan of the table.
    Tombstones,
}

/// A part, and from where on.
#[derive(Clone, Debug)]
pub(super) struct Place {
    part: Part,
    pub(super) after: Option<PageCursor>,
}

/// Whether a read of a part may bring what is not wanted.
pub(super) enum Loss {
    /// All that it brings is wanted, unless it changes at that moment.
    None,
    /// Some may not be.
    Some,
    /// Some may not be, and each costs a look at the table.
    OfClaims,
}

// === impl Place ===

impl Place {
    /// The state of everything there.
    pub(super) fn state(&self) -> StateName {
        match &self.part {
            Part::Shard { state, .. } => *state,
            Part::Claims | Part::Lab => StateName::Allocated,
            Part::Tombstones => StateName::Deleted,
        }
    }

    pub(super) fn is_of_tombstones(&self) -> bool {
        self.part == Part::Tombstones
    }

    /// The part of `StateIndex`; none if it is another one.
    pub(super) fn query(&self, which: &Which) -> Option<StateQuery> {
        let Part::Shard { state, pool, shard } = &self.part else { return None };
        let range = match &which.prefix {
            Some(prefix) if *state == StateName::Available => SortRange::NamePrefix(prefix.clone()),
            _ => SortRange::All,
        };
        Some(StateQuery { pool: pool.clone(), state: *state, shard: *shard, range })
    }

    pub(super) fn loss(&self, which: &Which) -> Loss {
        let is_exact = match &self.part {
            Part::Claims => return Loss::OfClaims,
            Part::Tombstones => return Loss::Some,
            Part::Lab => which.prefix.is_none() && !which.is_narrowed,
            Part::Shard { state, .. } => {
                let by_name = which.prefix.is_none() || *state == StateName::Available;
                by_name && which.owner.is_none() && which.lab.is_none()
            }
        };
        if is_exact { Loss::None } else { Loss::Some }
    }

    /// The cursor of a page that ended here, for the same listing. Plain text: [`left`] checks all of it.
    pub(super) fn cursor(&self, which: &Which) -> String {
        let (kind, pool, shard) = match &self.part {
            Part::Shard { state, pool, shard } => (state.as_str(), pool.as_str(), shard.to_string()),
            Part::Claims => (CLAIMS, "", String::new()),
            Part::Lab => (LAB, "", String::new()),
            Part::Tombstones => (TOMBSTONES, "", String::new()),
        };
        let (sort, key) = self.after.as_ref().map(|after| (&*after.sort, &*after.key)).unwrap_or_default();
        cursor_of(which, [kind, pool, &shard, sort, key])
    }

    /// The place of a cursor of this listing.
    fn parse(which: &Which, text: &str) -> Option<Self> {
        let [kind, pool, shard, sort, key, filters] = cursor::decode(text)?;
        let part = match (&*kind, &*pool, &*shard) {
            (CLAIMS, "", "") => Part::Claims,
            (LAB, "", "") => Part::Lab,
            (TOMBSTONES, "", "") => Part::Tombstones,
            _ => Part::Shard {
                state: StateName::parse(&kind)?,
                pool: PoolName::parse(&pool).ok()?,
                shard: shard.parse().ok().filter(|shard| *shard < SHARDS_MAX)?,
            },
        };
        let is_start = sort.is_empty() && key.is_empty();
        let place = Self { part, after: (!is_start).then_some(PageCursor { sort, key }) };
        let is_of_listing = filters == fingerprint(which) && place.is_within(which);
        is_of_listing.then_some(place)
    }

    /// Whether the position may be one of an item of this part.
    fn is_within(&self, which: &Which) -> bool {
        let Some(after) = &self.after else { return true };
        let PageCursor { sort, key } = after;
        let is_sandbox = || SandboxId::parse(key).is_ok_and(|id| id.as_str() == key);
        after.is_bounded()
            && match self.query(which) {
                Some(query) => !sort.is_empty() && query.range.contains(sort) && is_sandbox(),
                // A scan may have ended at an item of any kind.
                None if self.part == Part::Tombstones => !sort.is_empty(),
                None if self.part == Part::Lab => {
                    (1..=TIME_DIGITS_MAX).contains(&sort.len())
                        && sort.bytes().all(|byte| byte.is_ascii_digit())
                        && is_sandbox()
                }
                None => {
                    sort.is_empty() && IdempotencyKey::parse(key).is_ok_and(|parsed| parsed.as_str() == key)
                }
            }
    }
}

pub(super) fn cursor_of(which: &Which, [kind, pool, shard, sort, key]: [&str; 5]) -> String {
    cursor::encode(&[kind, pool, shard, sort, key, &fingerprint(which)])
}

/// What tells the listings of different filters apart. It guards nothing: it only keeps a caller that changes its filters
/// from skipping entries without notice.
fn fingerprint(which: &Which) -> String {
    let Which { purpose, states, pools, is_narrowed, lab, owner, prefix, cursor: _, limit: _ } = which;
    let states: Vec<_> = states.iter().map(|state| state.as_str()).collect();
    // A listing of all pools stays the same one when a pool is added.
    let pools: Vec<_> = pools.iter().filter(|_| *is_narrowed).map(PoolName::as_str).collect();
    let filters = cursor::encode(&[
        purpose,
        &states.join(","),
        if *is_narrowed { "some" } else { "all" },
        &pools.join(","),
        lab.as_ref().map(LabId::as_str).unwrap_or_default(),
        owner.as_ref().map(OwnerId::as_str).unwrap_or_default(),
        prefix.as_ref().map(NamePrefix::as_str).unwrap_or_default(),
    ]);
    format!("{:016x}", fnv1a(filters.as_bytes()))
}

/// The places of a listing that are left from its cursor on; all of them without one.
///
/// The number of shards that this process knows may be older than the one that the cursor was made with; the worker
/// that made the cursor has looked into as many as it says.
pub(super) fn left(which: &Which, shards: u16) -> Result<Vec<Place>, Fault> {
    let began = which.cursor.as_deref().map(|text| Place::parse(which, text).ok_or_else(not_of_this_listing));
    let began = began.transpose()?;
    let shards = match began.as_ref().map(|place| &place.part) {
        Some(Part::Shard { shard, .. }) => shards.max(shard.saturating_add(1)),
        _ => shards,
    };
    let mut places: Vec<_> = parts(which, shards).map(|part| Place { part, after: None }).collect();
    let Some(began) = began else { return Ok(places) };
    // A pool that the cursor is in and this process does not have: the walk could not go on without a gap.
    let at = places.iter().position(|place| place.part == began.part).ok_or_else(not_of_this_listing)?;
    let mut left = places.split_off(at);
    if let Some(first) = left.first_mut() {
        first.after = began.after;
    }
    Ok(left)
}

fn parts(which: &Which, shards: u16) -> impl Iterator<Item = Part> {
    let asks_for_holder = which.owner.is_some() || which.lab.is_some();
    let is_asked_for = move |state: &StateName| match state {
        // These never had a holder.
        StateName::Available | StateName::Stale if asks_for_holder => false,
        state => which.states.contains(state),
    };
    StateName::iter().filter(is_asked_for).flat_map(move |state| {
        let instead = match state {
            StateName::Allocated if which.owner.is_some() => Some(Part::Claims),
            StateName::Allocated if which.lab.is_some() => Some(Part::Lab),
            StateName::Deleted => Some(Part::Tombstones),
            _ => None,
        };
        let pools = if instead.is_some() { &[][..] } else { &which.pools[..] };
        let of_pool = move |pool: &PoolName| {
            let pool = pool.clone();
            (0..shards).map(move |shard| Part::Shard { state, pool: pool.clone(), shard })
        };
        instead.into_iter().chain(pools.iter().flat_map(of_pool))
    })
}

/// A cursor that cannot be used, whatever is wrong with it.
fn not_of_this_listing() -> Fault {
    Fault::invalid("cursor", "is not one of this listing with these filters; start again without a cursor")
}
