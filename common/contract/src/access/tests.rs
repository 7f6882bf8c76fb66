use super::*;
use domain::Actor;

fn principal(roles: &[Role], pools: &[&str]) -> Principal {
    let pools: Vec<_> = pools.iter().map(|pool| PoolName::parse(pool).unwrap()).collect();
    Principal { scope: Scope::of(&pools), ..Principal::of(Actor::parse("alice").unwrap(), roles) }
}

fn refusal(principal: &Principal, action: Action, pool: Option<&str>, owner: Option<&str>) -> Option<Fault> {
    let pool = pool.map(|pool| PoolName::parse(pool).unwrap());
    let owner = owner.map(|owner| OwnerId::parse(owner).unwrap());
    authorize(principal, action, Target { pool: pool.as_ref(), owner: owner.as_ref() }).err()
}

/// The rights of each role over each action, written a second time: the letters are those of the roles in their order,
/// and `*` says that the action can be limited to pools.
const TABLE: &[(&str, &str)] = &[
    ("allocate", "lu*"),
    ("release", "lu*"),
    ("get", "lu*"),
    ("stats", "oar"),
    ("health", "luoar*"),
    ("deletions", "oar"),
    ("parked", "oar"),
    ("deletion", "oar*"),
    ("replay", "oa"),
    ("replay-all", "oa"),
    ("remove", "oa"),
    ("replay-provision", "oa"),
    ("replay-provisions", "oa"),
    ("extend", "lu*"),
    ("quarantine", "oa*"),
    ("unquarantine", "oa*"),
    ("force-release", "oa*"),
    ("sandboxes", "oar*"),
    ("sandbox", "oar*"),
    ("bulk-delete", "a*"),
    ("pools", "oar"),
    ("pool", "oar"),
    ("put-pool", "a"),
    ("drain-pool", "oa"),
    ("remove-pool", "a"),
    ("templates", "luoar"),
    ("template", "luoar"),
    ("put-template", "oa"),
    ("remove-template", "oa"),
    ("template-versions", "luoar"),
    ("execute", "lu*"),
    ("claim", "lu*"),
    ("claims", "lu*"),
    ("show-claim", "lu*"),
    ("runtime", "lu*"),
    ("nodes", "oar"),
    ("node", "oar"),
    ("drain-node", "oa"),
    ("activate-node", "oa"),
    ("register-node", ""),
    ("node-pools", ""),
    ("provision-wanted", ""),
    ("provisioned", ""),
    ("provision-failed", ""),
    ("held", ""),
    ("pause", "oa"),
    ("resume", "oa"),
    ("run", "oa"),
    ("report", "oar"),
    ("events", "oar"),
    ("fleet", "oar"),
];

#[test]
fn every_role_may_do_exactly_what_the_table_says() {
    let actions: Vec<_> = Action::all().map(Action::as_str).collect();
    assert_eq!(actions, TABLE.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    for (name, rights) in TABLE {
        let action = Action::parse(name).unwrap();
        for (role, letter) in Role::iter().zip("luoar".chars()) {
            let code = |pools: &[&str], pool| {
                refusal(&principal(&[role], pools), action, pool, None).map(|fault| fault.code)
            };
            let refused = Some(FaultCode::Forbidden);
            let is_admitted = rights.contains(letter);
            let unless = |is_allowed: bool| if is_allowed { None } else { refused };
            assert_eq!(code(&[], Some("dns")), unless(is_admitted), "{role:?} {name}");
            let is_limited = is_admitted && rights.contains('*');
            assert_eq!(code(&["dns", "main"], Some("main")), unless(is_limited), "{role:?} {name} inside");
            assert_eq!(
                code(&["dns"], None),
                unless(is_limited),
                "{role:?} {name} in a pool that is not known"
            );
            assert_eq!(code(&["dns"], Some("main")), refused, "{role:?} {name} outside");
        }
        assert_eq!(refusal(&Principal::default(), action, Some("dns"), Some("b")), None, "{name} over NATS");
    }
}

#[test]
fn two_roles_may_do_what_either_may() {
    let both = principal(&[Role::ReadOnly, Role::Lab], &[]);
    for action in Action::all() {
        let is_allowed = [Role::ReadOnly, Role::Lab]
            .iter()
            .any(|role| refusal(&principal(&[*role], &[]), action, None, None).is_none());
        assert_eq!(refusal(&both, action, None, None).is_none(), is_allowed, "{action:?}");
    }
}

#[test]
fn user_acts_for_itself_and_lab_for_any_owner() {
    let claim = Action::Ask(Verb::Allocate);
    let code = |roles: &[Role], owner| {
        refusal(&principal(roles, &[]), claim, None, Some(owner)).map(|fault| fault.code)
    };
    assert_eq!(code(&[Role::User], "alice"), None);
    assert_eq!(code(&[Role::User], "bob"), Some(FaultCode::Forbidden));
    // Only the roles that give the right count.
    assert_eq!(code(&[Role::User, Role::Admin], "bob"), Some(FaultCode::Forbidden));
    assert_eq!(code(&[Role::Lab], "bob"), None);
    assert_eq!(code(&[Role::User, Role::Lab], "bob"), None);
}

#[test]
fn scope_of_an_older_ingress_holds_without_a_name() {
    let direct = Principal { scope: principal(&[], &["dns"]).scope, ..Principal::default() };
    let claim = Action::Ask(Verb::Allocate);
    assert_eq!(refusal(&direct, claim, Some("dns"), Some("b")), None);
    assert_eq!(refusal(&direct, claim, Some("main"), None).unwrap().code, FaultCode::Forbidden);
    assert!(refusal(&direct, Action::Ask(Verb::Stats), None, None).is_some());
}
