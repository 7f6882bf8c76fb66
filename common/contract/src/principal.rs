//! The principal of a request: who asks, for which tenant, with which rights, about which pools.

use super::headers::{PRINCIPAL, SCOPE};
use super::scope::{NotUnderstood, Scope};
use domain::ids::{HEADER_ID_BYTES_MAX, TENANT_BYTES_MAX};
use domain::{Actor, TenantName};
use std::str::FromStr as _;

/// Longest value of the header [`PRINCIPAL`], in bytes: every name, person and tenant together with all roles has room.
pub const PRINCIPAL_BYTES_MAX: usize = 512;

/// What a principal is, and so what it may do ([`Action::roles`](crate::Action::roles)).
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    strum::IntoStaticStr,
    strum::EnumString,
    strum::EnumIter,
)]
#[strum(serialize_all = "kebab-case")]
pub enum Role {
    /// A lab, which claims for any owner.
    Lab,
    /// A user, who claims for itself.
    User,
    /// Operates the fleet.
    Operator,
    /// Operates the fleet and changes what it consists of.
    Admin,
    /// Looks at what operators see.
    ReadOnly,
}

/// What decides what a principal may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rights {
    /// The permissions of its NATS user, by which the request arrived: a direct caller, without the header.
    Nats,
    /// Its roles, sorted; at least one.
    Roles(Vec<Role>),
}

/// Who asks. It travels in the headers [`PRINCIPAL`] and [`SCOPE`]; what was authenticated is the name, not the person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The name of its token; without `/`.
    pub name: Actor,
    /// The person who uses a shared token, as the caller says.
    pub person: Option<Actor>,
    /// The tenant that it belongs to.
    pub tenant: TenantName,
    /// What it may do.
    pub rights: Rights,
    /// The only pools that it may do it in.
    pub scope: Scope,
}

/// Beginning of the header in this version.
const VERSION: &str = "v1 ";
/// Between two roles.
const SEPARATOR: &str = ",";
/// Between the name and the person of an actor.
const OF_PERSON: char = '/';

// === impl Role ===

impl Role {
    /// Its name in headers, in token files and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The role of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::from_str(name).ok()
    }
}

// === impl Rights ===

impl Rights {
    /// The rights of these roles.
    #[must_use]
    pub fn of(roles: &[Role]) -> Self {
        let mut roles = roles.to_vec();
        roles.sort_unstable();
        roles.dedup();
        Self::Roles(roles)
    }

    /// The roles; none of a direct caller.
    #[must_use]
    pub fn roles(&self) -> &[Role] {
        match self {
            Self::Nats => &[],
            Self::Roles(roles) => roles,
        }
    }
}

// === impl Principal ===

impl Default for Principal {
    /// A direct caller: NATS let its request pass, and knows who it is.
    fn default() -> Self {
        Self {
            name: Actor::nats(),
            person: None,
            tenant: TenantName::default(),
            rights: Rights::Nats,
            scope: Scope::Every,
        }
    }
}

impl Principal {
    /// The holder of a token with these roles, of the default tenant and for every pool.
    #[must_use]
    pub fn of(name: Actor, roles: &[Role]) -> Self {
        Self { name, rights: Rights::of(roles), ..Self::default() }
    }

    /// Whether it has a name that was authenticated.
    #[must_use]
    pub fn is_named(&self) -> bool {
        self.rights != Rights::Nats
    }

    /// The actor of what it does, for the history: its name, and the person if the caller says; none of a direct caller.
    #[must_use]
    pub fn actor(&self) -> Option<Actor> {
        let whole = match &self.person {
            Some(person) => Actor::parse(&format!("{}{OF_PERSON}{person}", self.name)).ok()?,
            None => self.name.clone(),
        };
        self.is_named().then_some(whole)
    }

    /// The values of its headers; none of those that are left out.
    #[must_use]
    pub fn headers(&self) -> [(&'static str, Option<String>); 2] {
        [(PRINCIPAL, self.is_named().then(|| self.header())), (SCOPE, self.scope.header())]
    }

    fn header(&self) -> String {
        let Self { name, person, tenant, rights, scope: _ } = self;
        let roles: Vec<_> = rights.roles().iter().map(|role| role.as_str()).collect();
        let person = person.as_ref().map(|person| format!(" person={person}")).unwrap_or_default();
        format!("{VERSION}name={name} tenant={tenant} roles={}{person}", roles.join(SEPARATOR))
    }

    /// Reads the values of the two headers of one request.
    ///
    /// # Errors
    /// If one of them is there several times, or says what this build does not understand.
    pub fn read<'a>(
        mut principals: impl Iterator<Item = &'a str>,
        scopes: impl Iterator<Item = &'a str>,
    ) -> Result<Self, NotUnderstood> {
        let scope = Scope::read(scopes)?;
        let principal = match (principals.next(), principals.next()) {
            (None, _) => Self::default(),
            (Some(value), None) => Self::parse(value).ok_or(NotUnderstood::PRINCIPAL)?,
            (Some(_), Some(_)) => return Err(NotUnderstood::PRINCIPAL),
        };
        Ok(Self { scope, ..principal })
    }

    fn parse(value: &str) -> Option<Self> {
        let mut fields =
            value.strip_prefix(VERSION).filter(|_| value.len() <= PRINCIPAL_BYTES_MAX)?.split(' ');
        let mut field = |name: &str| fields.next()?.strip_prefix(name)?.strip_prefix('=');
        let name = Actor::parse(field("name")?).ok().filter(|name| !name.as_str().contains(OF_PERSON))?;
        let tenant = TenantName::parse(field("tenant")?).ok()?;
        let roles = field("roles")?.split(SEPARATOR).map(Role::parse).collect::<Option<Vec<_>>>()?;
        let person = match field("person") {
            Some(person) => Some(Actor::parse(person).ok()?),
            None => None,
        };
        let read = Self { name, person, tenant, rights: Rights::of(&roles), scope: Scope::Every };
        // Each principal has one header: what is left over, repeated or in another order is not understood.
        (read.header() == value && read.actor().is_some()).then_some(read)
    }
}

/// Bytes of the header beside actor and tenant: names of its fields and of all roles.
const OTHER_BYTES: usize = 96;
const _: () = assert!(PRINCIPAL_BYTES_MAX >= HEADER_ID_BYTES_MAX + TENANT_BYTES_MAX + OTHER_BYTES);

#[cfg(test)]
mod tests {
    use super::*;
    use domain::PoolName;
    use strum::IntoEnumIterator as _;

    fn read(value: &str) -> Result<Principal, NotUnderstood> {
        Principal::read([value].into_iter(), [].into_iter())
    }

    #[test]
    fn principal_round_trips_through_its_headers() {
        let named = |person: Option<&str>, roles: &[Role], pools: &[PoolName]| Principal {
            person: person.map(|person| Actor::parse(person).unwrap()),
            tenant: TenantName::parse("acme").unwrap(),
            scope: Scope::of(pools),
            ..Principal::of(Actor::parse("lab-2026").unwrap(), roles)
        };
        let every: Vec<_> = Role::iter().collect();
        let pool = PoolName::parse("dns").unwrap();
        for (principal, expected) in [
            (named(None, &[Role::Lab], &[pool]), Some("v1 name=lab-2026 tenant=acme roles=lab")),
            (
                named(Some("a=b"), &every, &[]),
                Some("v1 name=lab-2026 tenant=acme roles=lab,user,operator,admin,read-only person=a=b"),
            ),
            (Principal::default(), None),
        ] {
            let headers = principal.headers();
            assert_eq!(headers[0], (PRINCIPAL, expected.map(ToOwned::to_owned)));
            let [principals, scopes] = headers.map(|(_, value)| value);
            assert_eq!(
                Principal::read(principals.as_deref().into_iter(), scopes.as_deref().into_iter()),
                Ok(principal)
            );
        }
    }

    #[test]
    fn actor_is_the_name_and_the_person_that_is_stated() {
        let actor = |value: &str| read(value).unwrap().actor().unwrap().to_string();
        assert_eq!(actor("v1 name=on-call tenant=default roles=admin"), "on-call");
        assert_eq!(actor("v1 name=on-call tenant=default roles=admin person=alice"), "on-call/alice");
        assert_eq!(Principal::default().actor(), None);
    }

    #[test]
    fn what_is_not_understood_is_no_principal() {
        let long = "x".repeat(HEADER_ID_BYTES_MAX + 1);
        for unknown in [
            "",
            "v1",
            "v1 name=a",
            "v1 name=a tenant=b",
            "v1 name=a tenant=b roles=",
            "v1 name=a tenant=b roles=root",
            "v1 name=a tenant=b roles=lab,lab",
            "v1 name=a tenant=b roles=user,lab",
            "v1 name=a tenant=b roles=lab ",
            "v1 name=a tenant=b roles=lab person=",
            "v1 name=a tenant=b roles=lab key=c",
            "v1 name=a tenant=b roles=lab person=c key=d",
            "v1 name= tenant=b roles=lab",
            "v1 name=a/b tenant=b roles=lab",
            "v1 name=\ta tenant=b roles=lab",
            "v1 name=a tenant=b.c roles=lab",
            "v1 tenant=b name=a roles=lab",
            "v2 name=a tenant=b roles=lab",
            &format!("v1 name={long} tenant=b roles=lab"),
            // Each of them is short enough, and the actor is not.
            &format!("v1 name={0} tenant=b roles=lab person={0}", &long[..200]),
        ] {
            assert_eq!(read(unknown), Err(NotUnderstood::PRINCIPAL), "{unknown:?}");
        }
        let good = "v1 name=a tenant=b roles=lab";
        assert_eq!(Principal::read([good, good].into_iter(), [].into_iter()), Err(NotUnderstood::PRINCIPAL));
        assert_eq!(Principal::read([good].into_iter(), ["v2"].into_iter()), Err(NotUnderstood::SCOPE));
    }
}
