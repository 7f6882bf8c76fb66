//! Pages and counts of the index.

use crate::fixtures::{
    KEEP_UNTIL, LATER, LEASE_END, NOW, PAGE_OF_ALL, added, claim_key, done, grant_of, id, in_state, listed,
    new_sandbox, owner, pool, query, record, several_added,
};
use domain::{LabId, NamePrefix, Sandbox, SandboxName, StateName, UnixSeconds};
use ports::store::index::scan_cursor;
use ports::store::{Insert, PageCursor, SortRange, StateQuery, Store};
use std::collections::BTreeMap;
use std::sync::Arc;
use strum::{EnumCount as _, IntoEnumIterator as _};

fn prefix(text: &str) -> SortRange {
    SortRange::NamePrefix(NamePrefix::parse(text).unwrap())
}

fn names(sandboxes: &[Sandbox]) -> Vec<&str> {
    sandboxes.iter().map(|sandbox| sandbox.name.as_str()).collect()
}

async fn named(store: &dyn Store, number: u32, name: &str) -> Sandbox {
    let mut sandbox = new_sandbox(number);
    sandbox.name = SandboxName::parse(name).unwrap();
    match store.insert(&sandbox, NOW).await.unwrap() {
        Insert::Inserted(sandbox) => *sandbox,
        found => panic!("there is already {found:?}"),
    }
}

pub(crate) async fn pages_have_no_gaps_or_repeats(store: Arc<dyn Store>) {
    let total = 40;
    several_added(&*store, 1..1 + total).await;
    let mut seen = BTreeMap::new();
    for shard in 0..store.shards().await.unwrap() {
        let query = query(StateName::Available, shard, SortRange::All);
        let whole = store.page(&query, None, PAGE_OF_ALL).await.unwrap();
        assert_eq!(whole.next, None);
        assert!(whole.sandboxes.len() > 4, "a shard of {} says little", whole.sandboxes.len());
        assert!(names(&whole.sandboxes).is_sorted());
        for limit in [1, 3, 4] {
            let (mut pages, mut after) = (Vec::new(), None);
            loop {
                let page = store.page(&query, after.as_ref(), limit).await.unwrap();
                let full = page.sandboxes.len() == usize::from(limit);
                assert_eq!(page.next.is_some(), full, "only a full page says where to go on");
                pages.extend(page.sandboxes);
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(pages, whole.sandboxes, "limit {limit}");
        }
        for sandbox in whole.sandboxes {
            let stored = store.sandbox(&sandbox.id).await.unwrap();
            assert_eq!(stored.as_ref(), Some(&sandbox));
            assert_eq!(seen.insert(sandbox.id.clone(), shard), None, "in two shards");
        }
    }
    assert_eq!(seen.len(), total as usize);
    let beyond = query(StateName::Available, store.shards().await.unwrap(), SortRange::All);
    assert_eq!(store.page(&beyond, None, PAGE_OF_ALL).await.unwrap().sandboxes, []);
}

pub(crate) async fn a_prefix_narrows_a_page(store: Arc<dyn Store>) {
    for (number, name) in (1..).zip(["lab-a-1", "lab-a-2", "lab-b-1", "LAB-a-3", "lab", "zürich lab-a", "la"])
    {
        named(&*store, number, name).await;
    }
    for (text, expected) in [
        ("lab-a", vec!["lab-a-1", "lab-a-2"]),
        ("lab", vec!["lab", "lab-a-1", "lab-a-2", "lab-b-1"]),
        ("LAB", vec!["LAB-a-3"]),
        ("z", vec!["zürich lab-a"]),
        ("lab-a-1x", vec![]),
    ] {
        let found = listed(&*store, StateName::Available, prefix(text)).await;
        let mut found = names(&found);
        found.sort_unstable();
        assert_eq!(found, expected, "{text}");
    }
}

pub(crate) async fn listing_can_start_at_any_name_and_continue(store: Arc<dyn Store>) {
    let mut all = Vec::new();
    for (number, name) in (1..).zip(["alpha", "lab-a", "lab-b", "lab-c", "lab-ü", "labor", "omega"]) {
        all.push(named(&*store, number, name).await);
    }
    for prefixed in [None, Some(NamePrefix::parse("lab-").unwrap())] {
        let whole = match &prefixed {
            None => SortRange::All,
            Some(prefix) => SortRange::NamePrefix(prefix.clone()),
        };
        for from in ["lab-", "lab-b", "lab-bb", "lab-ü", "lab-z"] {
            let from = SandboxName::parse(from).unwrap();
            let expected: Vec<_> = all
                .iter()
                .filter(|sandbox| sandbox.name >= from)
                .filter(|sandbox| prefixed.as_ref().is_none_or(|_| sandbox.name.as_str().starts_with("lab-")))
                .cloned()
                .collect();
            let mut found = Vec::new();
            for shard in 0..store.shards().await.unwrap() {
                let range = SortRange::NamesFrom { from: from.clone(), prefix: prefixed.clone() };
                let mut page = store.page(&query(StateName::Available, shard, range), None, 1).await.unwrap();
                while let Some(cursor) = page.next.take() {
                    found.append(&mut page.sandboxes);
                    let rest = query(StateName::Available, shard, whole.clone());
                    page = store.page(&rest, Some(&cursor), 2).await.unwrap();
                }
                found.append(&mut page.sandboxes);
            }
            found.sort_by(|one, other| one.name.cmp(&other.name));
            assert_eq!(names(&found), names(&expected), "from {from} with {prefixed:?}");
        }
    }
}

pub(crate) async fn last_entry_of_a_range_matches_its_listing(store: Arc<dyn Store>) {
    several_added(&*store, 1..31).await;
    for shard in 0..store.shards().await.unwrap() {
        for range in [SortRange::All, prefix("lab-001"), prefix("nothing")] {
            let query = query(StateName::Available, shard, range);
            let whole = store.page(&query, None, PAGE_OF_ALL).await.unwrap().sandboxes;
            assert_eq!(store.last(&query).await.unwrap().as_ref(), whole.last(), "{query:?}");
        }
    }
}

pub(crate) async fn due_times_narrow_a_page(store: Arc<dyn Store>) {
    let start = LEASE_END.get();
    for number in 1..11 {
        let sandbox = added(&*store, number).await;
        let mut grant = grant_of(&sandbox.candidate(), &claim_key("owner-1", &format!("key-{number}")));
        grant.expires_at = UnixSeconds::new(start + u64::from(number));
        done(store.grant(&grant).await.unwrap());
    }
    for due in [0, 1, 5, 10, 11] {
        let range = SortRange::DueBy(UnixSeconds::new(start + due));
        let mut found: Vec<_> = listed(&*store, StateName::Allocated, range)
            .await
            .iter()
            .map(|sandbox| sandbox.lease().unwrap().expires_at.get() - start)
            .collect();
        found.sort_unstable();
        assert_eq!(found, (1..=due.min(10)).collect::<Vec<_>>());
    }
    // Deletions are ordered by the time of their request, also while they are parked.
    for (number, at) in [(1, 30), (2, 10), (3, 20)] {
        done(store.release(&id(number), &owner("owner-1"), None, None, UnixSeconds::new(at)).await.unwrap());
    }
    let parked = store.sandbox(&id(2)).await.unwrap().unwrap();
    done(store.park_deletion(&parked.id, parked.epoch, NOW).await.unwrap());
    let by = |at| SortRange::DueBy(UnixSeconds::new(at));
    assert_eq!(listed(&*store, StateName::PendingDeletion, by(19)).await, []);
    assert_eq!(listed(&*store, StateName::PendingDeletion, by(20)).await[0].id, id(3));
    assert_eq!(listed(&*store, StateName::DeletionFailed, by(9)).await, []);
    assert_eq!(listed(&*store, StateName::DeletionFailed, by(10)).await[0].id, id(2));
}

pub(crate) async fn every_state_has_its_own_index_partition(store: Arc<dyn Store>) {
    let mut expected: BTreeMap<StateName, Vec<Sandbox>> = BTreeMap::new();
    for (number, state) in (1..).zip(StateName::iter().cycle().take(3 * StateName::COUNT)) {
        let sandbox = in_state(&*store, state, number).await;
        if state != StateName::Deleted {
            expected.entry(state).or_default().push(sandbox);
        }
    }
    for state in StateName::iter() {
        let mut found = listed(&*store, state, SortRange::All).await;
        let mut expected = expected.remove(&state).unwrap_or_default();
        found.sort_by(|one, other| one.id.cmp(&other.id));
        expected.sort_by(|one, other| one.id.cmp(&other.id));
        assert_eq!(found, expected, "{state}");
    }
}

pub(crate) async fn pools_do_not_mix(store: Arc<dyn Store>) {
    let ours = added(&*store, 1).await;
    let mut other = new_sandbox(2);
    other.pool = pool("main-2");
    store.insert(&other, NOW).await.unwrap();
    assert_eq!(listed(&*store, StateName::Available, SortRange::All).await, [ours]);
    let mut count = 0;
    for shard in 0..store.shards().await.unwrap() {
        let range = SortRange::All;
        let query = StateQuery { pool: pool("main-2"), state: StateName::Available, shard, range };
        count += store.count(&query).await.unwrap();
    }
    assert_eq!(count, 1);
}

pub(crate) async fn counts_agree_with_pages(store: Arc<dyn Store>) {
    let sandboxes = several_added(&*store, 1..21).await;
    for (sandbox, key) in sandboxes.iter().zip(0..12) {
        let key = claim_key("owner-1", &format!("key-{key}"));
        done(store.grant(&grant_of(&sandbox.candidate(), &key)).await.unwrap());
    }
    let ranges = [
        (StateName::Available, SortRange::All, 8),
        (StateName::Available, prefix("lab-002"), 1),
        (StateName::Allocated, SortRange::All, 12),
        (StateName::Allocated, SortRange::DueBy(LEASE_END), 12),
        (StateName::Allocated, SortRange::DueBy(NOW), 0),
        (StateName::Stale, SortRange::All, 0),
    ];
    for (state, range, expected) in ranges {
        let mut count = 0;
        for shard in 0..store.shards().await.unwrap() {
            count += store.count(&query(state, shard, range.clone())).await.unwrap();
        }
        assert_eq!(count, expected, "{state} {range:?}");
        let paged = listed(&*store, state, range.clone()).await.len();
        assert_eq!(paged as u64, expected, "{state} {range:?}");
    }
}

pub(crate) async fn sandboxes_of_a_lab_are_listed_in_pages(store: Arc<dyn Store>) {
    let lab = |name: &str| LabId::parse(name).unwrap();
    let mut held = Vec::new();
    for number in 1..24 {
        let candidate = added(&*store, number).await.candidate();
        let mut grant = grant_of(&candidate, &claim_key("owner-1", &format!("key-{number}")));
        // Several leases begin in one second, and two labs alternate.
        grant.granted_at = UnixSeconds::new(NOW.get() + u64::from(number / 4));
        grant.lab = Some(lab(if number.is_multiple_of(3) { "lab-b" } else { "lab-a" }));
        held.push(done(store.grant(&grant).await.unwrap()));
    }
    let gone = done(store.release(&id(5), &owner("owner-1"), None, None, LATER).await.unwrap());
    for name in ["lab-a", "lab-b", "lab-c"] {
        for limit in [1, 2, 5, 100] {
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let page = store.held_by_lab(&lab(name), after.as_ref(), limit).await.unwrap();
                assert!(page.sandboxes.len() <= usize::from(limit));
                found.extend(page.sandboxes);
                // The cursor in its text form, as a caller sends it back.
                after = page.next.map(|next| PageCursor::parse(&next.to_text()).unwrap());
                if after.is_none() {
                    break;
                }
            }
            let begun = |sandbox: &Sandbox| sandbox.lease().unwrap().granted_at;
            assert!(found.is_sorted_by_key(begun), "by the start of the leases");
            let is_meant = |one: &&Sandbox| one.id != gone.id && one.lease().unwrap().lab == Some(lab(name));
            let mut expected: Vec<_> = held.iter().filter(is_meant).cloned().collect();
            found.sort_by(|one, other| one.id.cmp(&other.id));
            expected.sort_by(|one, other| one.id.cmp(&other.id));
            assert_eq!(found, expected, "{name} by {limit}");
        }
    }
}

pub(crate) async fn claims_of_an_owner_are_listed_in_pages(store: Arc<dyn Store>) {
    let mut records = Vec::new();
    for number in 1..12 {
        let candidate = added(&*store, number).await.candidate();
        // Owners whose names share a prefix are unrelated.
        for name in ["p", "p-1", "p-1#x"] {
            let record = record(&claim_key(name, &format!("key-{number:02}#")), &candidate);
            store.open_claim(&record, KEEP_UNTIL).await.unwrap();
            records.push(record);
        }
    }
    for name in ["p", "p-1", "p-1#x", "p-"] {
        let expected: Vec<_> = records.iter().filter(|one| one.claim.owner == owner(name)).cloned().collect();
        for limit in [1, 4, 100] {
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let page = store.claims_of(&owner(name), after.as_ref(), limit).await.unwrap();
                assert!(page.claims.len() <= usize::from(limit));
                found.extend(page.claims);
                after = page.next.map(|next| PageCursor::parse(&next.to_text()).unwrap());
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(found, expected, "{name} by {limit}, in the order of the keys");
        }
    }
}

pub(crate) async fn tombstones_are_listed_in_pages(store: Arc<dyn Store>) {
    for number in 1..=9 {
        let state = if number % 3 == 0 { StateName::Deleted } else { StateName::Available };
        in_state(&*store, state, number).await;
    }
    in_state(&*store, StateName::Allocated, 10).await;
    for limit in [1, 2, PAGE_OF_ALL] {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = store.tombstones(after.as_ref(), limit).await.unwrap();
            assert!(page.sandboxes.len() <= usize::from(limit));
            found.extend(page.sandboxes.into_iter().map(|tombstone| tombstone.id));
            // The cursor is kept as text between two runs.
            after = page.next.map(|next| PageCursor::parse(&next.to_text()).unwrap());
            if after.is_none() {
                break;
            }
        }
        found.sort_unstable();
        assert_eq!(found, [id(3), id(6), id(9)], "limit {limit}");
    }
    // A scan goes on after any sandbox.
    let every = store.tombstones(None, PAGE_OF_ALL).await.unwrap().sandboxes;
    for (at, tombstone) in every.iter().enumerate() {
        let page = store.tombstones(Some(&scan_cursor(&tombstone.id)), PAGE_OF_ALL).await.unwrap();
        assert_eq!(page.sandboxes, every[at + 1..]);
    }
}
