//! The parts that a listing walks over, in an order that does not depend on who answers, and where in one of them it is.

use super::Which;
use contract::Fault;
use domain::{PoolName, StateName};
use ports::store::{PageCursor, SHARDS_MAX, SortRange, StateQuery};
use strum::IntoEnumIterator as _;

/// Between the parts of a cursor's text; none of them holds it.
const END: char = '.';
/// How the parts that are no shards are called in a cursor.
const CLAIMS: &str = "claims";
const LAB: &str = "lab";

/// What a walk looks into.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// One shard of `StateIndex`.
    Shard { state: StateName, pool: PoolName, shard: u16 },
    /// What an owner holds, by its claim items.
    Claims,
    /// What a lab holds, by `LabIndex`.
    Lab,
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
        }
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
            Part::Lab => which.prefix.is_none() && !which.is_narrowed,
            Part::Shard { state, .. } => {
                let by_name = which.prefix.is_none() || *state == StateName::Available;
                by_name && which.owner.is_none() && which.lab.is_none()
            }
        };
        if is_exact { Loss::None } else { Loss::Some }
    }

    /// The place as a text that [`left`] reads.
    pub(super) fn to_text(&self) -> String {
        let after = self.after.as_ref().map(PageCursor::to_text).unwrap_or_default();
        match &self.part {
            Part::Shard { state, pool, shard } => format!("{state}{END}{pool}{END}{shard}{END}{after}"),
            Part::Claims => format!("{CLAIMS}{END}{END}{END}{after}"),
            Part::Lab => format!("{LAB}{END}{END}{END}{after}"),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(END);
        let (kind, pool, shard, after) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let part = match (kind, pool, shard) {
            (CLAIMS, "", "") => Part::Claims,
            (LAB, "", "") => Part::Lab,
            _ => Part::Shard {
                state: StateName::parse(kind)?,
                pool: PoolName::parse(pool).ok()?,
                shard: shard.parse().ok().filter(|shard| *shard < SHARDS_MAX)?,
            },
        };
        let after = if after.is_empty() { None } else { Some(PageCursor::parse(after)?) };
        parts.next().is_none().then_some(Self { part, after })
    }
}

/// The places of a listing that are left from `began` on; all of them without it.
///
/// The number of shards that this process knows may be older than the one that the cursor was made with; the worker
/// that made the cursor has looked into as many as it says.
pub(super) fn left(which: &Which, shards: u16, began: Option<&str>) -> Result<Vec<Place>, Fault> {
    let began = began.map(|text| Place::parse(text).ok_or_else(not_of_this_listing)).transpose()?;
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
        StateName::Deleted => false,
        // These never had a holder.
        StateName::Available | StateName::Stale if asks_for_holder => false,
        state => which.status.is_none_or(|status| status == *state),
    };
    StateName::iter().filter(is_asked_for).flat_map(move |state| {
        let instead = match state {
            StateName::Allocated if which.owner.is_some() => Some(Part::Claims),
            StateName::Allocated if which.lab.is_some() => Some(Part::Lab),
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
pub(super) fn not_of_this_listing() -> Fault {
    Fault::invalid("cursor", "is not one of this listing with these filters; start again without a cursor")
}
