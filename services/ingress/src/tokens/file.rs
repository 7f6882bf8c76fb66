//! The file of tokens: one on a line, as `broker token` prints it.
//!
//! ```text
//! # name      rights            digest            the pools that it is for; every pool without this
//! lab-2026    lab               sha256:9f86d0…    pools=events,main
//! alice       admin             sha256:60303a…
//! dashboard   read-only         sha256:fd61a0…
//! ```

use domain::{Actor, PoolName};
use std::fmt::Write as _;
use std::sync::Arc;

use super::{Caller, DIGEST_BYTES, Digest, Entry, Scope, parse_name};

/// Longest file, in bytes: every token with a long name and some pools has room.
pub const FILE_BYTES_MAX: usize = 256 * 1_024;

const DIGEST_PREFIX: &str = "sha256:";
const POOLS_PREFIX: &str = "pools=";

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
/// Pools for a token that is not of a lab.
pub fn line(name: &Actor, scopes: &[Scope], digest: &Digest, pools: &[PoolName]) -> Result<String, String> {
    check_pools(scopes, pools)?;
    let scopes: Vec<_> = scopes.iter().map(|scope| scope.as_str()).collect();
    let mut line = format!("{name} {} {DIGEST_PREFIX}", scopes.join(","));
    for byte in digest {
        // Writing into a String cannot fail.
        let _ = write!(line, "{byte:02x}");
    }
    if !pools.is_empty() {
        let pools: Vec<_> = pools.iter().map(PoolName::as_str).collect();
        let _ = write!(line, " {POOLS_PREFIX}{}", pools.join(","));
    }
    Ok(line)
}

fn parse_line(line: &str) -> Result<Entry, String> {
    let mut words = line.split_ascii_whitespace();
    let (Some(name), Some(scopes), Some(digest)) = (words.next(), words.next(), words.next()) else {
        return Err("a line has a name, rights and a digest".to_owned());
    };
    let pools = words.next();
    if words.next().is_some() {
        return Err("nothing may stand behind the pools".to_owned());
    }
    let scopes = scopes.split(',').map(parse_scope).collect::<Result<Vec<_>, _>>()?;
    let digest = parse_digest(digest)
        .ok_or_else(|| format!("the third word must be {DIGEST_PREFIX} and 64 hexadecimal digits"))?;
    let pools = pools.map(parse_pools).transpose()?.unwrap_or_default();
    check_pools(&scopes, &pools)?;
    Ok(Entry { digest, caller: Arc::new(Caller { name: parse_name(name)?, scopes, pools }) })
}

fn parse_scope(name: &str) -> Result<Scope, String> {
    Scope::parse(name).ok_or_else(|| {
        let names = contract::names::<Scope>();
        format!("rights are {names}, separated by commas without blanks")
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

fn parse_pools(text: &str) -> Result<Vec<PoolName>, String> {
    let names = text
        .strip_prefix(POOLS_PREFIX)
        .ok_or_else(|| format!("the fourth word must be {POOLS_PREFIX} and names of pools"))?;
    names
        .split(',')
        .map(|name| PoolName::parse(name).map_err(|problem| format!("the name of a pool {problem}")))
        .collect()
}

// The operators' routes act on the whole fleet: a token for some pools only could not be held to them there.
fn check_pools(scopes: &[Scope], pools: &[PoolName]) -> Result<(), String> {
    if !pools.is_empty() && scopes.iter().any(|scope| *scope != Scope::Lab) {
        return Err("only lab tokens can be for some pools".to_owned());
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
        let (name, pools) = (parse_name("lab-2026").unwrap(), [PoolName::parse("events").unwrap()]);
        let written = line(&name, &[Scope::Lab], &fingerprint(b"abc"), &pools).unwrap();
        assert_eq!(written, format!("lab-2026 lab sha256:{DIGEST} pools=events"));
        let all =
            line(&parse_name("b").unwrap(), &Scope::iter().collect::<Vec<_>>(), &fingerprint(b"b"), &[])
                .unwrap();
        let text = format!("# ours\r\n\n{written}  # since May\n\t{all}\n");
        let read = parse(text.as_bytes()).unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!(
            (read[0].digest, read[0].caller.pools.as_slice()),
            (fingerprint(b"abc"), pools.as_slice())
        );
        assert_eq!(
            (read[1].caller.name.as_str(), read[1].caller.scopes.as_slice()),
            ("b", Scope::iter().collect::<Vec<_>>().as_slice())
        );
        assert!(line(&name, &[Scope::Admin], &fingerprint(b"abc"), &pools).is_err());
    }

    #[test]
    fn file_with_a_bad_entry_is_rejected_without_leaking_it() {
        let good = format!("a lab sha256:{DIGEST}");
        let cases = [
            ("", "it holds no token"),
            ("# a lab\n\n", "it holds no token"),
            ("s3cret", "line 1: a line has a name, rights and a digest"),
            ("a lab s3cret", "line 1: the third word must be sha256: and 64 hexadecimal digits"),
            (
                "a s3cret sha256:00",
                "line 1: rights are lab, admin, read-only, separated by commas without blanks",
            ),
            (&format!("{good}0"), "line 1: the third word must be sha256: and 64 hexadecimal digits"),
            (&format!("{good} s3cret"), "line 1: the fourth word must be pools= and names of pools"),
            (&format!("{good} pools=a s3cret"), "line 1: nothing may stand behind the pools"),
            (&format!("{good} pools="), "line 1: the name of a pool must not be empty"),
            (
                &format!("s3/cret lab sha256:{DIGEST}"),
                "line 1: a name has 1 to 64 ASCII letters, digits, '-', '_' and '.'",
            ),
            (
                &format!("{good}\nb admin sha256:{DIGEST} pools=a"),
                "line 2: only lab tokens can be for some pools",
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
