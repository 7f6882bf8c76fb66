//! The plan of a sync, case by case.

use super::{plan as plan_with, *};
use domain::{LeasePolicy, Transition, UnixSeconds};

const LIMITS: Limits = Limits { stale_percent_max: 20, stale_count_always: 5 };
const NOW: UnixSeconds = UnixSeconds::new(1_000);

fn pools() -> Pools {
    Pools::new(Pools::parse("main").unwrap(), LeasePolicy::default())
}

fn account(number: usize) -> Account {
    Account {
        id: number.to_string(),
        external_id: format!("identity/accounts/u-{number}"),
        name: format!("lab-{number}"),
        descriptor: Vec::new(),
    }
}

fn listing(accounts: impl IntoIterator<Item = Account>) -> Listed {
    let mut listed = Listed::default();
    for account in accounts {
        listed.take(account, &pools());
    }
    listed
}

fn stored(number: usize) -> Sandbox {
    listing([account(number)]).usable.into_values().next().unwrap().enter(NOW)
}

/// The plan of a sync that is not forced.
fn plan(listed: &Listed, stored: &[Sandbox], limits: Limits) -> Result<Plan, Refusal> {
    plan_with(listed.clone(), stored, limits, Belief::Careful)
}

fn sighted(accounts: impl IntoIterator<Item = Account>) -> Sighted {
    let mut sighted = Sighted::default();
    accounts.into_iter().for_each(|account| sighted.take(&account));
    sighted
}

fn all_stored(count: usize) -> Vec<Sandbox> {
    (0..count).map(stored).collect()
}

#[test]
fn unchanged_records_are_left_alone() {
    let plan = plan(&listing((0..50).map(account)), &all_stored(50), LIMITS).unwrap();
    assert_eq!(plan, Plan { unchanged: 50, ..Plan::default() });
}

#[test]
fn new_renamed_missing_and_restored_sandboxes_are_distinguished() {
    let mut known = all_stored(10);
    known[3] = known[3].clone().apply(&Transition::mark_missing(&known[3], NOW)).unwrap();
    let renamed = Account { name: "lab-new-name".to_owned(), ..account(1) };
    let listed = listing([0, 2, 3, 5, 6, 7, 8, 9, 10].map(account).into_iter().chain([renamed]));
    let plan = plan(&listed, &known, LIMITS).unwrap();
    let ids = |sandboxes: &[Candidate]| sandboxes.iter().map(|one| one.id.to_string()).collect::<Vec<_>>();
    assert_eq!(plan.insert.iter().map(|one| one.id.to_string()).collect::<Vec<_>>(), ["10"]);
    assert_eq!(ids(&plan.restore), ["3"]);
    assert_eq!(ids(&plan.missing), ["4"]);
    assert_eq!(plan.describe.len(), 1);
    assert_eq!(plan.describe[0].2.name.as_str(), "lab-new-name");
}

#[test]
fn an_empty_listing_is_refused() {
    assert_eq!(plan(&listing([]), &all_stored(3), LIMITS), Err(Refusal::Empty));
}

#[test]
fn listing_without_too_many_sandboxes_is_refused() {
    let refused = plan(&listing((0..79).map(account)), &all_stored(100), LIMITS).unwrap_err();
    assert_eq!(refused, Refusal::TooManyMissing { missing: 21, free: 100, allowed: 20 });
    assert_eq!(plan(&listing((0..80).map(account)), &all_stored(100), LIMITS).unwrap().missing.len(), 20);
    // A small pool may lose a few, whatever share that is.
    assert_eq!(plan(&listing((0..5).map(account)), &all_stored(10), LIMITS).unwrap().missing.len(), 5);
    assert!(plan(&listing((0..4).map(account)), &all_stored(10), LIMITS).is_err());
}

#[test]
fn unusable_entry_is_neither_added_nor_marked_stale() {
    for name in ["lab\n4", "lab-\u{202e}4", "lab-4\u{200b}"] {
        let broken = Account { name: name.to_owned(), ..account(4) };
        let listed = listing((0..4).map(account).chain([broken]));
        assert_eq!(listed.skipped(), 1);
        let plan = plan(&listed, &all_stored(5), LIMITS).unwrap();
        assert_eq!(plan, Plan { unchanged: 4, ..Plan::default() });
    }
}

#[test]
fn id_listed_for_two_accounts_is_skipped() {
    let twin = Account { external_id: "identity/accounts/other".to_owned(), ..account(1) };
    let listed = listing([account(0), account(1), twin]);
    assert_eq!((listed.usable.len(), listed.present.len()), (1, 1));
    // The same account on two pages: the listing shifted while it was read.
    assert_eq!(listing([account(0), account(1), account(1)]).usable.len(), 2);
}

#[test]
fn unidentifiable_entry_prevents_marking_stale() {
    let mut listed = listing((0..9).map(account));
    listed.skip_unknown("no id");
    assert!(plan(&listed, &all_stored(10), LIMITS).unwrap().missing.is_empty());
    let twin = Account { external_id: "identity/accounts/other".to_owned(), ..account(1) };
    let listed = listing((0..9).map(account).chain([twin]));
    assert!(plan(&listed, &all_stored(10), LIMITS).unwrap().missing.is_empty());
}

#[test]
fn second_listing_clears_missing_sandboxes() {
    let mut first = plan(&listing((0..8).map(account)), &all_stored(10), LIMITS).unwrap();
    assert_eq!(first.missing.len(), 2);
    first.confirm_missing(&sighted((0..9).map(account)));
    assert_eq!(first.missing.len(), 1);
    // One of its entries may be the missing sandbox.
    let mut second = sighted((0..9).map(account));
    second.take_malformed(&Malformed::default());
    first.confirm_missing(&second);
    assert_eq!(first.missing, []);
}

#[test]
fn forced_plan_overrides_and_reports_only_the_refusal() {
    let forced = |listed: Listed| plan_with(listed, &all_stored(100), LIMITS, Belief::Forced).unwrap();
    let emptied = forced(listing([]));
    assert_eq!((emptied.missing.len(), emptied.overridden), (100, Some(Refusal::Empty)));
    let short = forced(listing((0..50).map(account)));
    let refusal = Refusal::TooManyMissing { missing: 50, free: 100, allowed: 20 };
    assert_eq!((short.missing.len(), short.overridden), (50, Some(refusal)));
    assert_eq!(forced(listing((0..90).map(account))).overridden, None, "nothing had to be forced");
    let mut unclear = listing((0..50).map(account));
    unclear.skip_unknown("no id");
    assert_eq!(forced(unclear).missing, [], "what may be listed is not gone");
}

#[test]
fn sandbox_read_twice_from_the_index_is_counted_once() {
    let twice = [stored(0), stored(0), stored(1)];
    let planned = plan(&listing((0..2).map(account)), &twice, LIMITS).unwrap();
    assert_eq!(planned, Plan { unchanged: 2, ..Plan::default() });
    let planned = plan(&listing([account(1)]), &twice, LIMITS).unwrap();
    assert_eq!(planned.missing.len(), 1);
}

#[test]
fn padded_id_is_not_another_sandbox() {
    let padded =
        Account { id: " 1 ".to_owned(), external_id: "identity/accounts/other".to_owned(), ..account(1) };
    let listed = listing([account(1), padded]);
    assert_eq!((listed.usable.len(), listed.present.len(), listed.unclear), (0, 1, true));
}
