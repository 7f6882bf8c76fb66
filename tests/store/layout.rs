//! The table's record of its own settings: processes with different settings agree on the number of shards, and a
//! change of that number hides no sandbox from any of them.

use crate::engines::{Set, Shared};
use crate::fixtures::{NOW, added, claim_key, done, grant_of, listed, pool, several_added};
use domain::{DeletionSwitch, StateName, UnixSeconds};
use ports::store::layout::SANDBOXES_PER_SHARD;
use ports::store::{Agreed, SortRange, Store, TableMark};
use std::time::Duration;

/// Longer than any process keeps using an old number, plus any clock error.
const LATER: Duration = Duration::from_secs(120);

fn set(shards: u16) -> Set {
    Set { shards, index_lag_seconds: 0 }
}

/// All free sandboxes, as a newly started process sees them.
async fn free(table: &Shared) -> usize {
    let fresh = table.process(set(1)).await;
    listed(&*fresh, StateName::Available, SortRange::All).await.len()
}

/// Changes the number of shards; each call goes as far as is safe at that time.
async fn change(store: &dyn Store, now: UnixSeconds) {
    store.follow_size(0, now).await.unwrap();
    store.follow_size(0, now.after(LATER)).await.unwrap();
}

pub(crate) async fn processes_agree_on_the_number_of_shards(table: Shared) {
    let (one, other) = (table.process(set(4)).await, table.process(set(9)).await);
    assert_eq!(one.shards().await.unwrap(), 4);
    assert_eq!(other.shards().await.unwrap(), 4, "the table decides, not the setting of a later process");
    several_added(&*other, 1..21).await;
    assert_eq!(listed(&*one, StateName::Available, SortRange::All).await.len(), 20);
}

pub(crate) async fn growing_shard_count_hides_nothing(table: Shared) {
    let old = table.process(set(2)).await;
    several_added(&*old, 1..21).await;
    let new = table.process(set(16)).await;
    let raised = new.follow_size(0, NOW).await.unwrap();
    assert_eq!((raised.write, raised.read), (2, 16), "first everybody has to look further");
    several_added(&*new, 21..41).await;
    assert_eq!(new.follow_size(0, NOW).await.unwrap(), raised, "too early for the other half");
    assert_eq!(free(&table).await, 40);

    let settled = new.follow_size(0, NOW.after(LATER)).await.unwrap();
    assert_eq!((settled.write, settled.read), (16, 16));
    several_added(&*new, 41..81).await;
    // The old process still writes with its old number.
    several_added(&*old, 81..101).await;
    assert_eq!(free(&table).await, 100);
    assert_eq!(old.supply(&pool("main")).await.unwrap().shards, 16, "a strong look finds the new number");
    assert_eq!(listed(&*old, StateName::Available, SortRange::All).await.len(), 100);

    // A sandbox in an old shard is found in each of its states, and leaves that shard with its next state change.
    for sandbox in listed(&*new, StateName::Available, SortRange::All).await {
        done(
            new.grant(&grant_of(&sandbox.candidate(), &claim_key("owner-1", sandbox.id.as_str())))
                .await
                .unwrap(),
        );
    }
    assert_eq!(free(&table).await, 0);
    assert_eq!(listed(&*old, StateName::Allocated, SortRange::All).await.len(), 100);
}

pub(crate) async fn shrinking_shard_count_hides_nothing(table: Shared) {
    let old = table.process(set(16)).await;
    several_added(&*old, 1..41).await;
    let new = table.process(set(2)).await;
    let fallen = new.follow_size(0, NOW).await.unwrap();
    assert_eq!((fallen.write, fallen.read), (2, 16), "what lies there is still looked for");
    several_added(&*new, 41..61).await;
    several_added(&*old, 61..81).await;
    assert_eq!(free(&table).await, 80);
}

pub(crate) async fn growing_pool_gets_more_shards(table: Shared) {
    let store = table.process(set(8)).await;
    let small = store.follow_size(8 * SANDBOXES_PER_SHARD, NOW).await.unwrap();
    assert_eq!((small.write, small.read), (8, 8));
    let large = 8 * SANDBOXES_PER_SHARD + 1;
    store.follow_size(large, NOW).await.unwrap();
    let grown = store.follow_size(large, NOW.after(LATER)).await.unwrap();
    assert_eq!((grown.write, grown.read), (16, 16));
    assert_eq!(table.process(set(8)).await.shards().await.unwrap(), 16);
}

pub(crate) async fn concurrent_shard_changes_converge(table: Shared) {
    let one = table.process(set(4)).await;
    several_added(&*one, 1..11).await;
    let (few, many) = (table.process(set(2)).await, table.process(set(32)).await);
    for round in 0..4 {
        let now = NOW.after(LATER * 2 * round);
        tokio::join!(change(&*few, now), change(&*many, now));
    }
    several_added(&*one, 11..21).await;
    let shards = one.follow_size(0, NOW).await.unwrap();
    assert!(shards.write <= shards.read && shards.read == 32, "{shards:?}");
    assert_eq!(free(&table).await, 20);
}

pub(crate) async fn latest_supply_note_counts(table: Shared) {
    let store = table.process(Set { shards: 3, index_lag_seconds: 5 }).await;
    let main = pool("main");
    assert_eq!(store.supply(&main).await.unwrap().settles_at, None, "there never was one");
    store.note_supply(&main, NOW).await.unwrap();
    let settles_at = store.supply(&main).await.unwrap().settles_at.expect("there was one");
    for earlier in [NOW, NOW.before(Duration::from_secs(60))] {
        store.note_supply(&main, earlier).await.unwrap();
        assert_eq!(store.supply(&main).await.unwrap().settles_at, Some(settles_at));
    }
    let later = Duration::from_secs(60);
    store.note_supply(&main, NOW.after(later)).await.unwrap();
    assert_eq!(store.supply(&main).await.unwrap().settles_at, Some(settles_at.after(later)));
    assert_eq!(store.supply(&pool("other")).await.unwrap().settles_at, None, "each pool has its own");
    added(&*store, 1).await;
    assert_eq!(free(&table).await, 1, "the notes are no sandboxes");
}

pub(crate) async fn supply_settles_after_the_index_lag(table: Shared) {
    let main = pool("main");
    let at_once = table.process(set(3)).await;
    at_once.note_supply(&main, NOW).await.unwrap();
    assert_eq!(at_once.supply(&main).await.unwrap().settles_at, None, "the index is written with the table");
    let lagging = table.process(Set { shards: 3, index_lag_seconds: 30 }).await;
    let settles_at = lagging.supply(&main).await.unwrap().settles_at.expect("there was one");
    assert!(settles_at > NOW.after(Duration::from_secs(30)), "{settles_at}");
    assert!(settles_at <= NOW.after(LATER), "{settles_at}");
}

pub(crate) async fn deletion_switch_changes_are_conditional(table: Shared) {
    let turned = |version, by: &str, until, reason: Option<&str>| DeletionSwitch {
        version,
        is_paused: until != Some(UnixSeconds::new(0)),
        by: by.to_owned(),
        since: NOW,
        until,
        reason: reason.map(str::to_owned),
    };
    let (one, two) = (table.process(set(3)).await, table.process(set(3)).await);
    assert_eq!(one.deletion_switch().await.unwrap(), None, "it was never set");
    let rivals = [turned(1, "alice", None, Some("maintenance")), turned(1, "bob", None, None)];
    let won = tokio::try_join!(one.set_deletion_switch(&rivals[0]), two.set_deletion_switch(&rivals[1]));
    let (first, second) = won.unwrap();
    assert!(first != second, "one of two turns of the same version is the first");
    let winner = if first { &rivals[0] } else { &rivals[1] };
    assert_eq!(two.deletion_switch().await.unwrap().as_ref(), Some(winner));
    assert!(two.set_deletion_switch(winner).await.unwrap(), "a repeat finds itself");
    for next in [turned(2, "carol", Some(NOW), Some("")), turned(3, "", Some(UnixSeconds::new(0)), None)] {
        assert!(one.set_deletion_switch(&next).await.unwrap());
        assert_eq!(two.deletion_switch().await.unwrap().as_ref(), Some(&next));
    }
    assert!(!two.set_deletion_switch(&turned(2, "late", None, None)).await.unwrap());
    assert_eq!(one.deletion_switch().await.unwrap().map(|kept| kept.version), Some(3));
    assert_eq!(free(&table).await, 0, "the switch is no sandbox");
}

pub(crate) async fn processes_agree_on_settings_and_keep_those_of_others(table: Shared) {
    let agreed = |settings: &[(&str, &str)]| -> Agreed {
        settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let (one, two) = (table.process(set(3)).await, table.process(set(3)).await);
    assert_eq!(one.agreed().await.unwrap(), Agreed::new(), "no process has started yet");
    let rivals = [agreed(&[("DAYS", "30"), ("PREFIX", "a")]), agreed(&[("DAYS", "7"), ("PREFIX", "b")])];
    let (first, second) = tokio::join!(one.agree(&rivals[0], false), two.agree(&rivals[1], false));
    let kept = first.unwrap();
    assert_eq!(second.unwrap(), kept);
    assert!(rivals.contains(&kept), "the settings of one process, and not some of each: {kept:?}");
    // A newer build has one more setting and ignores settings that it does not know.
    let newer = agreed(&[("DAYS", "1"), ("GENERATION", "2")]);
    let mut wanted = kept.clone();
    wanted.insert("GENERATION".to_owned(), "2".to_owned());
    assert_eq!(two.agree(&newer, false).await.unwrap(), wanted);
    wanted.extend(newer.clone());
    assert_eq!(one.agree(&newer, true).await.unwrap(), wanted, "it replaces what it names, and only that");
    assert_eq!(two.agreed().await.unwrap(), wanted);
    assert_eq!(free(&table).await, 0, "the settings are no sandbox");
}

pub(crate) async fn mark_is_advanced_conditionally(table: Shared) {
    let mark = |number, accepted_event| TableMark { number, at: NOW, accepted_event };
    let (one, two) = (table.process(set(3)).await, table.process(set(3)).await);
    let none = TableMark::default();
    assert_eq!(one.mark().await.unwrap(), none);
    let rivals = [mark(1, 0), mark(1, 9)];
    let (first, second) =
        tokio::join!(one.advance_mark(&none, &rivals[0]), two.advance_mark(&none, &rivals[1]));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert!(first != second, "one of two is the first");
    let kept = two.mark().await.unwrap();
    assert_eq!(kept, rivals[usize::from(!first)]);
    assert!(!one.advance_mark(&none, &mark(2, 0)).await.unwrap(), "there is a mark already");
    assert!(two.advance_mark(&kept, &mark(2, 7)).await.unwrap());
    assert!(!one.advance_mark(&kept, &mark(3, 0)).await.unwrap(), "it is another one by now");
    assert_eq!(one.mark().await.unwrap(), mark(2, 7));
    assert_eq!(free(&table).await, 0, "the mark is no sandbox");
}
