use super::*;
use runtime::settings::Secret;

fn world(accounts: usize) -> World {
    World::open(&Config { accounts, ..Config::local(Secret::new("t")) }, 1_000).unwrap()
}

fn page(limit: u64, offset: u64) -> Paging {
    Paging { limit: Some(limit), offset }
}

fn results(body: &Value) -> &Vec<Value> {
    body["results"].as_array().unwrap()
}

#[test]
fn pages_add_up_to_the_whole_listing() {
    let world = world(10);
    let whole = world.list(Paging::default(), None, 0, 0);
    assert_eq!(results(&whole).len(), 14);
    assert_eq!(whole["page"], json!({"offset": 0, "size": 14, "total": 14}));
    let mut together = Vec::new();
    for offset in [0, 3, 6, 9, 12, 15] {
        together.extend(results(&world.list(page(3, offset), None, 0, 0)).clone());
    }
    assert_eq!(&together, results(&whole));
}

#[test]
fn a_listing_can_be_empty_short_or_broken() {
    let world = world(10);
    let list = |offset, fault| world.list(page(4, offset), Some(&fault), 0, 0);
    let empty = list(0, FaultKind::EmptyList);
    assert_eq!((results(&empty).len(), &empty["page"]["total"]), (0, &json!(0)));
    let short = |offset| list(offset, FaultKind::ShortList { pages: 2 });
    assert_eq!((results(&short(4)).len(), &short(4)["page"]["total"]), (4, &json!(8)));
    assert_eq!(results(&short(8)).len(), 0);
    let broken = |entry| list(4, FaultKind::MalformedEntry(entry));
    assert!(broken(BrokenEntry::NoId)["results"][0].get("id").is_none());
    assert!(broken(BrokenEntry::NullCspId)["results"][0]["csp_id"].is_null());
    let twins = broken(BrokenEntry::DuplicateCspId);
    assert_eq!(results(&twins).len(), 4);
    assert_eq!(twins["results"][0]["csp_id"], twins["results"][1]["csp_id"]);
    assert_ne!(twins["results"][0]["id"], twins["results"][1]["id"]);
    let name = broken(BrokenEntry::NameWithLineBreak)["results"][0]["name"].clone();
    assert!(name.as_str().unwrap().contains('\n'));
}

#[test]
fn pages_can_overlap_and_omit_accounts() {
    let world = world(10);
    let list = |offset| world.list(page(4, offset), Some(&FaultKind::OverlappingPages), 0, 0);
    assert_eq!(results(&list(0)), results(&world.list(page(4, 0), None, 0, 0)));
    for offset in [4, 8] {
        let (faulty, whole) = (list(offset), world.list(page(4, offset), None, 0, 0));
        assert_eq!(faulty["results"][0], list(0)["results"][0]);
        assert_eq!(results(&faulty)[1..], results(&whole)[1..]);
        assert_eq!(faulty["page"], whole["page"]);
    }
}

#[test]
fn account_can_be_recreated_under_its_number() {
    let mut world = world(3);
    let before = world.accounts.live().nth(1).unwrap().clone();
    let again = world.recreate(before.uuid, 2_000).unwrap().unwrap();
    assert_eq!((again.csp_id, again.name.as_str()), (before.csp_id, before.name.as_str()));
    assert_ne!(again.id, before.external_id());
    assert!(!world.exists(before.uuid));
    assert_eq!(world.census().live, 3);
    assert!(world.recreate(before.uuid, 2_000).unwrap().is_none());
}

#[test]
fn deleting_an_account_orphans_its_remaining_services() {
    let mut world = world(6);
    let with_both: Vec<Uuid> = (world.accounts.live())
        .filter(|account| account.csp_id.is_multiple_of(6))
        .map(|account| account.uuid)
        .collect();
    let account = with_both[0];
    let services = world.services(account);
    assert_eq!(services.len(), 2);
    assert!(world.delete_service(account, services[0].id));
    assert!(!world.delete_service(account, services[0].id));
    assert!(matches!(world.delete(account, 2_000), Deletion::Done));
    assert!(matches!(world.delete(account, 2_000), Deletion::NoSuchAccount));
    assert!(!world.set_services(account, &[]));
    assert_eq!(world.census(), Census { live: 5, deleted: 1, orphaned_services: 1 });
    let parent = accounts::seeded_uuid(1, PARENT);
    assert!(matches!(world.delete(parent, 2_000), Deletion::NoSandbox));
}
