//! The file of tokens: one on a line, as `broker token` prints it.
//!
//! ```text
//! # name      roles             digest            the pools that it is for; every pool without this
//! lab-2026    lab               sha256:9f86d0…    pools=events,main
//! alice       admin             sha256:60303a…
//! dashboard   read-only         sha256:fd61a0…    tenant=acme
//! ```

use contract::{Principal, Role, Scope};
use domain::{PoolName, TenantName};
use std::fmt::Write as _;
use std::sync::Arc;

use super::{DIGEST_BYTES, Digest, Entry, parse_name};

/// Longest file, in bytes: every token with a long name and some pools has room.
pub const FILE_BYTES_MAX: usize = 256 * 1_024;

const DIGEST_PREFIX: &str = "sha256:";
const POOLS_PREFIX: &str = "pools=";
const TENANT_PREFIX: &str = "tenant=";

/// The tokens of a file.
///
/// # Errors
/// The first line that cannot be read, and why. What stands there is not shown: it may be a token.
pub fn parse(bytes: &[u8]) -> Result<Vec<Entry>, String> {
    if bytes.len() > FILE_BYTES_MAX {
        return Err(format!("more than {FILE_BYTES_MAX} bytes"));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "no text in UTF-8".to_owned())?;
    let mut entries: Vec<Entry> = Vec::new();
    for (line, number) in text.lines().zip(1_usize..) {
        let line = line.split('#').next().unwrap_or_default();
        if line.trim().is_empty() {
            continue;
        }
        let entry = parse_line(line).map_err(|problem| format!("line {number}: {problem}"))?;
        if entries.iter().any(|known| known.digest == entry.digest) {
            return Err(format!("line {number}: this token has a line already"));
        }
        entries.push(entry);
    }
    // A file that was cut off or emptied by mistake must not lock all callers out.
    if entries.is_empty() { Err("it holds no token".to_owned()) } else { Ok(entries) }
}

/// The line of a token.
///
/// # Errors
/// Pools for a token with another role than those for leases.
pub fn line(holder: &Principal, digest: &Digest) -> Result<String, String> {
    check_pools(holder)?;
    let roles: Vec<_> = holder.rights.roles().iter().map(|role| role.as_str()).collect();
    let mut line = format!("{} {} {DIGEST_PREFIX}", holder.name, roles.join(","));
    for byte in digest {
        // Writing into a String cannot fail.
        let _ = write!(line, "{byte:02x}");
    }
    if holder.scope != Scope::Every {
        let pools: Vec<_> = holder.scope.pools().iter().map(PoolName::as_str).collect();
        let _ = write!(line, " {POOLS_PREFIX}{}", pools.join(","));
    }
    if holder.tenant != TenantName::default() {
        let _ = write!(line, " {TENANT_PREFIX}{}", holder.tenant);
    }
    Ok(line)
}

fn parse_line(line: &str) -> Result<Entry, String> {
    let mut words = line.split_ascii_whitespace();
    let (Some(name), Some(roles), Some(digest)) = (words.next(), words.next(), words.next()) else {
        return Err("a line has a name, roles and a digest".to_owned());
    };
    let roles = roles.split(',').map(parse_role).collect::<Result<Vec<_>, _>>()?;
    let digest = parse_digest(digest)
        .ok_or_else(|| format!("the third word must be {DIGEST_PREFIX} and 64 hexadecimal digits"))?;
    let (mut pools, mut tenant) = (None, None);
    for word in words {
        if let Some(names) = word.strip_prefix(POOLS_PREFIX).filter(|_| pools.is_none()) {
            pools = Some(parse_pools(names)?);
        } else if let Some(name) = word.strip_prefix(TENANT_PREFIX).filter(|_| tenant.is_none()) {
            let name = TenantName::parse(name);
            tenant = Some(name.map_err(|problem| format!("the name of a tenant {problem}"))?);
        } else {
            return Err(format!("behind the digest may stand {POOLS_PREFIX} and {TENANT_PREFIX}, each once"));
        }
    }
    let caller = Principal {
        tenant: tenant.unwrap_or_default(),
        scope: pools.unwrap_or_default(),
        ..Principal::of(parse_name(name)?, &roles)
    };
    check_pools(&caller)?;
    Ok(Entry { digest, caller: Arc::new(caller) })
}

fn parse_role(name: &str) -> Result<Role, String> {
    Role::parse(name).ok_or_else(|| {
        let names = contract::names::<Role>();
        format!("roles are {names}, separated by commas without blanks")
    })
}

fn parse_digest(text: &str) -> Option<Digest> {
    let digits = text.strip_prefix(DIGEST_PREFIX)?;
    if digits.len() != DIGEST_BYTES * 2 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut digest = [0; DIGEST_BYTES];
    for (byte, at) in digest.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(digits.get(at..at + 2)?, 16).ok()?;
    }
    Some(digest)
}

fn parse_pools(names: &str) -> Result<Scope, String> {
    let pools = names
        .split(',')
        .map(|name| PoolName::parse(name).map_err(|problem| format!("the name of a pool {problem}")));
    Ok(Scope::of(&pools.collect::<Result<Vec<_>, _>>()?))
}

// Much of what operators do concerns the whole fleet and is refused to a principal with pools: such a token is a mistake.
fn check_pools(holder: &Principal) -> Result<(), String> {
    let holds = |role: &Role| matches!(role, Role::Lab | Role::User);
    if holder.scope != Scope::Every && !holder.rights.roles().iter().all(holds) {
        return Err("only lab and user tokens can be for some pools".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::fingerprint;
    use strum::IntoEnumIterator as _;

    const DIGEST: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn token_entry_round_trips() {
        let holder = |name: &str, roles: &[Role]| Principal::of(parse_name(name).unwrap(), roles);
        let bound = Principal {
            scope: Scope::of(&[PoolName::parse("events").unwrap()]),
            tenant: TenantName::parse("acme").unwrap(),
            ..holder("lab-2026", &[Role::Lab])
        };
        let written = line(&bound, &fingerprint(b"abc")).unwrap();
        assert_eq!(written, format!("lab-2026 lab sha256:{DIGEST} pools=events tenant=acme"));
        let every = holder("b", &Role::iter().collect::<Vec<_>>());
        let all = line(&every, &fingerprint(b"b")).unwrap();
        let text = format!("# ours\r\n\n{written}  # since May\n\t{all}\n");
        let read = parse(text.as_bytes()).unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].digest, &*read[0].caller), (fingerprint(b"abc"), &bound));
        assert_eq!(&*read[1].caller, &every, "of the default tenant");
        let admin = Principal { scope: bound.scope, ..holder("a", &[Role::Lab, Role::Admin]) };
        assert!(line(&admin, &fingerprint(b"abc")).is_err());
    }

    #[test]
    fn file_with_a_bad_entry_is_rejected_without_leaking_it() {
        let good = format!("a lab sha256:{DIGEST}");
        let cases = [
            ("", "it holds no token"),
            ("# a lab\n\n", "it holds no token"),
            ("s3cret", "line 1: a line has a name, roles and a digest"),
            ("a lab s3cret", "line 1: the third word must be sha256: and 64 hexadecimal digits"),
            (
                "a s3cret sha256:00",
                "line 1: roles are lab, user, operator, admin, read-only, separated by commas without blanks",
            ),
            (&format!("{good}0"), "line 1: the third word must be sha256: and 64 hexadecimal digits"),
            (&format!("{good} s3cret"), "line 1: behind the digest may stand pools= and tenant=, each once"),
            (
                &format!("{good} pools=a s3cret"),
                "line 1: behind the digest may stand pools= and tenant=, each once",
            ),
            (
                &format!("{good} tenant=a tenant=a"),
                "line 1: behind the digest may stand pools= and tenant=, each once",
            ),
            (&format!("{good} pools="), "line 1: the name of a pool must not be empty"),
            (&format!("{good} tenant="), "line 1: the name of a tenant must not be empty"),
            (
                &format!("s3/cret lab sha256:{DIGEST}"),
                "line 1: a name has 1 to 64 ASCII letters, digits, '-', '_' and '.'",
            ),
            (
                &format!("{good}\nb admin sha256:{DIGEST} pools=a"),
                "line 2: only lab and user tokens can be for some pools",
            ),
            (&format!("{good}\nb lab sha256:{DIGEST}"), "line 2: this token has a line already"),
        ];
        for (text, problem) in cases {
            assert_eq!(parse(text.as_bytes()).unwrap_err(), problem);
        }
        assert_eq!(parse(b"\xff").unwrap_err(), "no text in UTF-8");
        assert_eq!(parse(&vec![b'#'; FILE_BYTES_MAX + 1]).unwrap_err(), "more than 262144 bytes");
    }
}
