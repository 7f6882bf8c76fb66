//! The headers that say who asks: each line of the input is a value, `scope:` before those of the scope. What a worker reads
//! in them is written back byte for byte, admits no more than its roles and pools say, and can stand in the history.

use contract::{Action, FaultCode, PRINCIPAL_BYTES_MAX, Principal, Rights, Role, Scope, Target, authorize};
use domain::{OwnerId, PoolName};
use strum::IntoEnumIterator as _;

/// Before a value of the scope.
const OF_SCOPE: &str = "scope:";

/// The property.
pub fn hold(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (scopes, principals): (Vec<&str>, Vec<&str>) =
        text.split('\n').partition(|line| line.starts_with(OF_SCOPE));
    let scopes: Vec<_> = scopes.iter().map(|line| line.trim_start_matches(OF_SCOPE)).collect();
    let principals: Vec<_> = principals.into_iter().filter(|line| !line.is_empty()).collect();
    let read = Principal::read(principals.iter().copied(), scopes.iter().copied());
    let Ok(principal) = read else { return };
    assert!(principals.len() <= 1 && scopes.len() <= 1, "which one holds?");
    let [name, scope] = principal.headers().map(|(_, value)| value);
    assert_eq!(name.as_deref(), principals.first().copied(), "one principal has one header");
    let written = Scope::read(scope.as_deref().into_iter());
    assert_eq!(written, Ok(principal.scope.clone()), "another scope");
    assert_eq!(principal.scope == Scope::Every, scopes.is_empty(), "a header limits");
    match &principal.rights {
        Rights::Nats => assert_eq!((principals.len(), principal.actor()), (0, None), "trusted with a header"),
        Rights::Roles(roles) => {
            assert!(!roles.is_empty() && name.is_some_and(|name| name.len() <= PRINCIPAL_BYTES_MAX));
            let actor = principal.actor().expect("a name for the history");
            assert!(actor.as_str().starts_with(principal.name.as_str()), "{actor}");
            OwnerId::parse(principal.name.as_str()).expect("the owner of its claims");
            judge(&principal, roles);
        }
    }
}

/// The decisions about the principal agree with its roles and its pools.
fn judge(principal: &Principal, roles: &[Role]) {
    let elsewhere = PoolName::parse("elsewhere").expect("a name of a pool");
    for action in Action::all() {
        let has_role = Role::iter().any(|role| roles.contains(&role) && action.roles().contains(&role));
        let is_inside = principal.scope.admits(&elsewhere);
        let is_limited = principal.scope == Scope::Every || action.can_be_limited();
        let target = Target { pool: Some(&elsewhere), owner: None };
        let decided = authorize(principal, action, target).map_err(|fault| fault.code);
        let expected = if has_role && is_limited && is_inside { Ok(()) } else { Err(FaultCode::Forbidden) };
        assert_eq!(decided, expected, "{action:?}");
    }
}
