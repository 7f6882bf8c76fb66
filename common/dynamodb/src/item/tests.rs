//! A sandbox round-trips through its item, and a corrupt item is reported with the attribute.

use super::super::attributes::{REASON, RESULT, SERVICES};
use super::*;
use domain::{
    Actor, Candidate, ClaimOptions, Descriptor, Grant, NewSandbox, Order, Preparation, Skip, Transition,
    UnixSeconds,
};

const SHARDS: u16 = 8;

fn free() -> Sandbox {
    NewSandbox {
        id: SandboxId::parse("2019842").unwrap(),
        name: SandboxName::parse("lab-7").unwrap(),
        external_id: ExternalId::parse("identity/accounts/u-7").unwrap(),
        pool: PoolName::parse("main").unwrap(),
        descriptor: Descriptor::parse([("sfdc_account_id", "SF 1"), ("node", "n-1")]).unwrap(),
    }
    .enter(UnixSeconds::new(100))
}

fn held(lab: Option<&str>) -> Sandbox {
    let owner = OwnerId::parse("p-1").unwrap();
    let grant = Grant {
        claim: ClaimKey { key: IdempotencyKey::parse("k-1").unwrap(), owner },
        candidate: Candidate { version: Version::new(1), ..free().candidate() },
        lab: lab.map(|lab| LabId::parse(lab).unwrap()),
        by: None,
        request: None,
        granted_at: UnixSeconds::new(200),
        expires_at: UnixSeconds::new(300),
        options: lab.and_then(|_| options()),
    };
    free().apply(&Transition::grant(&grant)).unwrap()
}

fn options() -> Option<Box<ClaimOptions>> {
    let one = |name: &str| [(name.to_owned(), "1".to_owned())].into();
    ClaimOptions { env: one("A"), labels: one("team") }.boxed()
}

fn ending() -> Sandbox {
    let owner = OwnerId::parse("p-1").unwrap();
    let released =
        held(Some("lab-a")).apply(&Transition::release(&owner, None, None, UnixSeconds::new(250))).unwrap();
    released.clone().apply(&Transition::note_attempt(Epoch::new(1), 0, "no such luck", None)).unwrap()
}

fn smoke() -> Order {
    Order { by: Actor::parse("alice").unwrap(), reason: Reason::parse("smoke in it").unwrap() }
}

fn deleted() -> Sandbox {
    ending()
        .apply(&Transition::finish_deletion(
            Epoch::new(1),
            UnixSeconds::new(260),
            UnixSeconds::new(999),
            None,
        ))
        .unwrap()
}

fn cleared(preparation: Preparation) -> Sandbox {
    let (at, purge_at) = (UnixSeconds::new(260), UnixSeconds::new(999));
    ending().apply(&Transition::finish_deletion(Epoch::new(1), at, purge_at, Some(&preparation))).unwrap()
}

/// One sandbox of every state, and of every shape that a state may have.
fn every_shape() -> Vec<Sandbox> {
    let since = UnixSeconds::new(400);
    let forgotten = Tombstone { deletion: None, deleted_at: since, purge_at: UnixSeconds::new(500) };
    let ordered = Deletion {
        lease: None,
        cause: DeletionCause::Operator,
        requested_at: since,
        attempts: 0,
        last_error: None,
        preparation: None,
        relists: 0,
    };
    vec![
        free(),
        Sandbox { descriptor: domain::Descriptor::default(), ..free() },
        held(None),
        held(Some("lab-a")),
        ending(),
        ending().apply(&Transition::park_deletion(Epoch::new(1), since)).unwrap(),
        Sandbox { state: State::PendingDeletion(ordered), ..free() },
        free().apply(&Transition::mark_missing(&free(), since)).unwrap(),
        free().apply(&Transition::quarantine(&free().candidate(), &smoke(), since)).unwrap(),
        held(Some("lab-a"))
            .apply(&Transition::quarantine(&held(Some("lab-a")).candidate(), &smoke(), since))
            .unwrap(),
        deleted(),
        cleared(Preparation::Done { count: 2 }),
        cleared(Preparation::Shadowed { count: 1 }),
        cleared(Preparation::Skipped(Skip::SwitchedOff)),
        cleared(Preparation::Skipped(Skip::NothingInside)),
        cleared(Preparation::failed("status 500", true)),
        ending()
            .apply(&Transition::note_attempt(Epoch::new(1), 1, "no", Some(&Preparation::failed("", false))))
            .unwrap(),
        Sandbox { state: State::Deleted(forgotten), ..free() },
    ]
}

#[test]
fn every_item_shape_round_trips() {
    for sandbox in every_shape() {
        assert_eq!(decode(&encode(&sandbox, SHARDS)).unwrap(), sandbox);
    }
}

#[test]
fn index_keys_follow_the_state() {
    let string = |item: &Item, name: &str| item.get(name).map(|value| value.as_s().unwrap().clone());
    for sandbox in every_shape() {
        let item = encode(&sandbox, SHARDS);
        let state = sandbox.state.name();
        let listed = state != StateName::Deleted;
        let shard = listed.then(|| format!("main#{state}#{}", shard_of(&sandbox.id, SHARDS)));
        assert_eq!(string(&item, STATE_SHARD), shard);
        assert_eq!(string(&item, STATE_SORT), state_sort(&sandbox));
        assert_eq!(item.contains_key(DELETION_SHARD), listed);
        assert_eq!(item.contains_key(PARKED_SHARD), listed);
        assert_eq!(item.contains_key(TTL), !listed, "only tombstones are purged");
        let lab = sandbox.lease().and_then(|lease| lease.lab.as_ref());
        assert_eq!(string(&item, HELD_LAB).as_deref(), lab.map(LabId::as_str));
        assert_eq!(string(&item, GROUP), lab.map(|lab| format!("LAB#{lab}")));
        assert_eq!(item.contains_key(GROUP_SORT), lab.is_some());
    }
}

#[test]
fn sort_keys_are_name_or_due_time() {
    assert_eq!(state_sort(&free()).as_deref(), Some("lab-7"));
    assert_eq!(state_sort(&held(None)).as_deref(), Some("000000000300"));
    assert_eq!(state_sort(&ending()).as_deref(), Some("000000000250"));
    assert_eq!(state_sort(&deleted()), None);
}

#[test]
fn overlong_history_is_truncated_to_its_latest_entries() {
    let mut sandbox = free();
    for round in 0..HISTORY_ENTRIES_MAX {
        let at = UnixSeconds::new(500 + u64::try_from(round).unwrap());
        sandbox = match sandbox.state {
            State::Available => sandbox.clone().apply(&Transition::mark_missing(&sandbox, at)).unwrap(),
            _ => sandbox.clone().apply(&Transition::mark_found(&sandbox, at)).unwrap(),
        };
    }
    let whole = encode(&sandbox, SHARDS);
    let mut longer = whole.clone();
    let Some(AttributeValue::L(entries)) = longer.get_mut(HISTORY) else { panic!("no history") };
    entries.insert(0, history_entry(StateName::Available, &Entry::new(Cause::Listed, UnixSeconds::new(100))));
    assert_eq!(decode(&longer).unwrap(), sandbox);
    assert_eq!(sandbox.history.len(), HISTORY_ENTRIES_MAX);
}

#[test]
fn item_without_a_pre_clean_result_is_decoded() {
    let cleared = cleared(Preparation::Done { count: 2 });
    let mut older = encode(&cleared, SHARDS);
    assert!(older.remove(PRE_CLEAN).is_some());
    let read = decode(&older).unwrap();
    assert_eq!(read.deletion().unwrap().preparation, None);
    assert_eq!(read.deletion().unwrap().last_error, cleared.deletion().unwrap().last_error);
}

#[test]
fn corrupt_pre_clean_result_is_reported_with_its_attribute() {
    let spoil = |parts: &[(&str, AttributeValue)]| {
        let mut item = encode(&ending(), SHARDS);
        let map = parts.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        item.insert(PRE_CLEAN.to_owned(), AttributeValue::M(map));
        decode(&item).unwrap_err().to_string()
    };
    let begin = "item SBX#2019842/META: attribute ";
    assert_eq!(spoil(&[]), format!("{begin}result: is missing"));
    assert_eq!(spoil(&[(RESULT, text("maybe"))]), format!("{begin}pre_clean: is no result of clearing"));
    assert_eq!(spoil(&[(RESULT, text("cleaned"))]), format!("{begin}services: is missing"));
    let whim = [(RESULT, text("skipped")), (REASON, text("whim"))];
    assert_eq!(spoil(&whim), format!("{begin}pre_clean: was skipped for a reason that there is not"));
    let failed = [(RESULT, text("failed")), (REASON, text("status 500"))];
    assert_eq!(spoil(&failed), format!("{begin}went_on: is missing"));
    let many = [(RESULT, text("shadowed")), (SERVICES, number(u64::MAX))];
    assert_eq!(spoil(&many), format!("{begin}pre_clean: counts too many services"));
}

#[test]
fn corrupt_item_is_reported_with_its_attribute() {
    let spoil = |attribute: &str, value: Option<AttributeValue>| {
        let mut item = encode(&ending(), SHARDS);
        match value {
            Some(value) => item.insert(attribute.to_owned(), value),
            None => item.remove(attribute),
        };
        match decode(&item) {
            Err(StoreError::Corrupt { item, attribute, problem }) => format!("{item} {attribute} {problem}"),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(spoil(NAME, None), "SBX#2019842/META name is missing");
    assert_eq!(spoil(STATE, Some(text("gone"))), "SBX#2019842/META state is no state of a sandbox");
    assert_eq!(spoil(EPOCH, Some(text("1"))), "SBX#2019842/META epoch is not a number");
    assert_eq!(
        spoil(VERSION, Some(AttributeValue::N("-1".to_owned()))),
        "SBX#2019842/META version is not a whole number"
    );
    assert_eq!(
        spoil(POOL, Some(text("a b"))),
        "SBX#2019842/META pool may hold only ASCII letters, digits, '-' and '_'"
    );
    assert_eq!(
        spoil(DELETION_CAUSE, Some(text("whim"))),
        "SBX#2019842/META deletion_cause is no cause of a deletion"
    );
    assert_eq!(spoil(HISTORY, Some(text("x"))), "SBX#2019842/META history is not a list");
    assert_eq!(
        spoil(VERSION, Some(number(1_u64))),
        "SBX#2019842/META history has more entries than the version or epoch allows"
    );
    assert_eq!(spoil(PK, Some(text("OWNER#1"))), "OWNER#1/META PK does not begin with SBX#");
}

/// The size of a value in bytes, by the rules in the DynamoDB manual.
fn bytes_of(value: &AttributeValue) -> usize {
    match value {
        AttributeValue::S(text) => text.len(),
        // One byte for two digits, and one more.
        AttributeValue::N(number) => number.len().div_ceil(2) + 1,
        AttributeValue::L(entries) => 3 + entries.iter().map(|entry| 1 + bytes_of(entry)).sum::<usize>(),
        AttributeValue::M(map) => {
            3 + map.iter().map(|(name, value)| 1 + name.len() + bytes_of(value)).sum::<usize>()
        }
        other => panic!("no item of ours holds {other:?}"),
    }
}

#[test]
fn item_sizes_match_the_census_cost_estimate() {
    // With ids as they occur in production.
    let at = UnixSeconds::new(1_763_683_200);
    let owner = OwnerId::parse("instruqt-8f2c1d3e4b5a6978").unwrap();
    let free = NewSandbox {
        id: SandboxId::parse("2019842").unwrap(),
        name: SandboxName::parse("instruqt-lab-00042").unwrap(),
        external_id: ExternalId::parse("identity/accounts/a90deeed-f0ec-4c4f-9897-a469083a0485").unwrap(),
        pool: PoolName::parse("main").unwrap(),
        descriptor: Descriptor::parse([("sfdc_account_id", "0013000001ABCDEFGH")]).unwrap(),
    }
    .enter(at);
    let grant = Grant {
        claim: ClaimKey { key: IdempotencyKey::from(&owner), owner: owner.clone() },
        candidate: free.candidate(),
        lab: Some(LabId::parse("dns-security-basics").unwrap()),
        by: None,
        request: None,
        granted_at: at,
        expires_at: at,
        options: None,
    };
    let held = free.clone().apply(&Transition::grant(&grant)).unwrap();
    let ending = held.clone().apply(&Transition::release(&owner, None, None, at)).unwrap();
    let stale = free.clone().apply(&Transition::mark_missing(&free, at)).unwrap();
    let size = |sandbox| -> usize {
        encode(sandbox, SHARDS).iter().map(|(name, value)| name.len() + bytes_of(value)).sum()
    };
    let sizes = [&free, &held, &ending, &stale].map(size);
    // docs/decisions/0024 uses these numbers.
    assert_eq!(sizes, [353, 613, 658, 387]);
}

#[test]
fn record_of_a_further_provider_has_nothing_that_an_older_build_takes_for_its_account() {
    let provider = ProviderName::parse("csp-eu").unwrap();
    let sandbox = Sandbox { external_id: ExternalId::of(&provider, "u-7").unwrap(), ..free() };
    let item = encode(&sandbox, SHARDS);
    assert_eq!(decode(&item).unwrap(), sandbox);
    assert!(!item.contains_key(EXTERNAL_ID), "without it, that build skips the record");
    assert!(encode(&free(), SHARDS).contains_key(EXTERNAL_ID));
    assert!(!encode(&free(), SHARDS).contains_key(PROVIDER), "records of the first one are as before");
}
