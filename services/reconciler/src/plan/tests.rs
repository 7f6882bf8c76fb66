//! The plan of a sync, case by case.

use super::*;
use common::domain::UnixSeconds;

const LIMITS: Limits = Limits { stale_percent_max: 20, stale_count_always: 5 };
const NOW: UnixSeconds = UnixSeconds::new(1_000);

fn pools() -> PoolRules {
    PoolRules::parse("main").unwrap()
}

fn account(number: usize) -> Account {
    Account {
        id: number.to_string(),
        external_id: format!("identity/accounts/u-{number}"),
        name: format!("lab-{number}"),
        sfdc_account_id: None,
    }
}

fn listing(accounts: impl IntoIterator<Item = Account>) -> Listed {
    let mut listed = Listed::default();
    let mut seen = std::collections::HashSet::new();
    for account in accounts {
        let first = seen.insert(account.id.clone());
        listed.take(account, first, &pools());
    }
    listed
}

fn stored(number: usize) -> Sandbox {
    listing([account(number)]).usable.into_values().next().unwrap().enter(NOW)
}

fn all_stored(count: usize) -> Vec<Sandbox> {
    (0..count).map(stored).collect()
}

#[test]
fn what_is_as_listed_is_left_alone() {
    let plan = plan(&listing((0..50).map(account)), &all_stored(50), LIMITS).unwrap();
    assert_eq!(plan, Plan { unchanged: 50, ..Plan::default() });
}

#[test]
fn new_renamed_missing_and_restored_sandboxes_are_told_apart() {
    let mut known = all_stored(10);
    let version = known[3].version;
    known[3] = known[3].clone().go_missing(version, NOW).unwrap();
    let renamed = Account { name: "lab-new-name".to_owned(), ..account(1) };
    let listed = listing([0, 2, 3, 5, 6, 7, 8, 9, 10].map(account).into_iter().chain([renamed]));
    let plan = plan(&listed, &known, LIMITS).unwrap();
    let ids = |sandboxes: &[Sandbox]| sandboxes.iter().map(|one| one.id.to_string()).collect::<Vec<_>>();
    assert_eq!(plan.insert.iter().map(|one| one.id.to_string()).collect::<Vec<_>>(), ["10"]);
    assert_eq!(ids(&plan.restore), ["3"]);
    assert_eq!(ids(&plan.missing), ["4"]);
    assert_eq!(plan.describe.len(), 1);
    assert_eq!(plan.describe[0].1.name.as_str(), "lab-new-name");
}

#[test]
fn an_empty_listing_is_refused() {
    assert_eq!(plan(&listing([]), &all_stored(3), LIMITS), Err(Refusal::Empty));
}

#[test]
fn a_listing_that_would_cost_too_much_of_the_pool_is_refused() {
    let refused = plan(&listing((0..79).map(account)), &all_stored(100), LIMITS).unwrap_err();
    assert_eq!(refused, Refusal::TooManyMissing { missing: 21, free: 100, allowed: 20 });
    assert_eq!(plan(&listing((0..80).map(account)), &all_stored(100), LIMITS).unwrap().missing.len(), 20);
    // A small pool may lose a few whatever share that is.
    assert_eq!(plan(&listing((0..5).map(account)), &all_stored(10), LIMITS).unwrap().missing.len(), 5);
    assert!(plan(&listing((0..4).map(account)), &all_stored(10), LIMITS).is_err());
}

#[test]
fn an_entry_that_cannot_be_used_is_neither_added_nor_marked_stale() {
    let broken = Account { name: "lab\n4".to_owned(), ..account(4) };
    let listed = listing((0..4).map(account).chain([broken]));
    assert_eq!(listed.skipped(), 1);
    let plan = plan(&listed, &all_stored(5), LIMITS).unwrap();
    assert_eq!(plan, Plan { unchanged: 4, ..Plan::default() });
}

#[test]
fn an_id_that_is_listed_twice_for_different_accounts_is_not_used() {
    let twin = Account { external_id: "identity/accounts/other".to_owned(), ..account(1) };
    let listed = listing([account(0), account(1), twin]);
    assert_eq!((listed.usable.len(), listed.present.len()), (1, 1));
    // The same account on two pages is only a listing that moved while it was read.
    assert_eq!(listing([account(0), account(1), account(1)]).usable.len(), 2);
}

#[test]
fn an_entry_that_may_be_any_sandbox_keeps_everything_from_being_marked_stale() {
    let mut listed = listing((0..9).map(account));
    listed.skip_unknown("no id");
    assert!(plan(&listed, &all_stored(10), LIMITS).unwrap().missing.is_empty());
    let twin = Account { external_id: "identity/accounts/other".to_owned(), ..account(1) };
    let listed = listing((0..9).map(account).chain([twin]));
    assert!(plan(&listed, &all_stored(10), LIMITS).unwrap().missing.is_empty());
}

#[test]
fn a_second_listing_clears_what_the_first_one_missed() {
    let mut first = plan(&listing((0..8).map(account)), &all_stored(10), LIMITS).unwrap();
    assert_eq!(first.missing.len(), 2);
    first.confirm_missing(&listing((0..9).map(account)));
    assert_eq!(first.missing.len(), 1);
}
