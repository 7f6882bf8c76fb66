//! Tokens: who holds one, what it gives the right to, and which of them are good at this moment.
//!
//! Only digests are kept. A token is long and random, so one SHA-256 of it can be neither turned back nor guessed,
//! and a check costs a microsecond (`docs/decisions/0028-tokens-are-kept-as-plain-digests.md`).

use aws_lc_rs::digest::{SHA256, digest};
use contract::{Principal, Rights, Role, Scope};
use domain::Actor;
use parking_lot::RwLock;
use std::sync::Arc;
use subtle::{ConditionallySelectable as _, ConstantTimeEq as _};

pub mod file;
pub(crate) mod refresher;
mod settings;

pub(crate) use refresher::TokenRefresher;
pub use settings::{BadTokens, ListSource, TokenConfig, TokenList};

/// Bytes of the digest of a token.
pub const DIGEST_BYTES: usize = 32;
/// Longest name of a token, in bytes.
pub const TOKEN_NAME_BYTES_MAX: usize = 64;
/// Tokens that may be good at once; each costs every request a comparison.
pub const TOKENS_MAX: usize = 512;

/// What is kept of a token.
pub type Digest = [u8; DIGEST_BYTES];

/// A token that is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its digest.
    pub digest: Digest,
    /// Its holder; the name is that of the token.
    pub caller: Arc<Principal>,
}

/// All tokens that are good at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct TokenSet(pub(crate) Vec<Entry>);

/// All tokens that are good now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tokens(Arc<RwLock<Arc<TokenSet>>>);

/// The digest of a token.
#[must_use]
pub fn fingerprint(token: &[u8]) -> Digest {
    let mut bytes = [0; DIGEST_BYTES];
    for (byte, digested) in bytes.iter_mut().zip(digest(&SHA256, token).as_ref()) {
        *byte = *digested;
    }
    bytes
}

/// A token's name of this text.
///
/// # Errors
/// What is wrong with it, in words; the text itself may be a misplaced secret and is not shown.
pub fn parse_name(text: &str) -> Result<Actor, String> {
    let is_fit = (1..=TOKEN_NAME_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if !is_fit {
        return Err(format!(
            "a name has 1 to {TOKEN_NAME_BYTES_MAX} ASCII letters, digits, '-', '_' and '.'"
        ));
    }
    Actor::parse(text).map_err(|problem| format!("the name {problem}"))
}

// === impl TokenSet ===

impl TokenSet {
    /// The set of these. The same token twice has the rights of both, as for one that is in both variables.
    ///
    /// # Errors
    /// Two tokens of one name, or too many: what is wrong, in words.
    pub(crate) fn new(entries: impl IntoIterator<Item = Entry>) -> Result<Self, String> {
        let mut set: Vec<Entry> = Vec::new();
        for entry in entries {
            if let Some(known) = set.iter_mut().find(|known| known.digest == entry.digest) {
                known.caller = Arc::new(both(&known.caller, &entry.caller));
            } else if set.iter().any(|known| known.caller.name == entry.caller.name) {
                return Err(format!("two tokens are called {}", entry.caller.name));
            } else {
                set.push(entry);
            }
        }
        if set.len() > TOKENS_MAX {
            return Err(format!("there may be {TOKENS_MAX} tokens, not {}", set.len()));
        }
        Ok(Self(set))
    }

    /// The holder of this token. Takes the same time for every token of one length, whether and where it matches.
    pub(crate) fn find(&self, token: &[u8]) -> Option<Arc<Principal>> {
        let presented = fingerprint(token);
        let mut place = 0_u32;
        for (entry, here) in self.0.iter().zip(1_u32..) {
            place.conditional_assign(&here, entry.digest.ct_eq(&presented));
        }
        let index = usize::try_from(place.checked_sub(1)?).ok()?;
        self.0.get(index).map(|entry| Arc::clone(&entry.caller))
    }

    /// How many have this role.
    pub(crate) fn count(&self, role: Role) -> usize {
        self.0.iter().filter(|entry| entry.caller.rights.roles().contains(&role)).count()
    }
}

// === impl Tokens ===

impl Tokens {
    pub(crate) fn new(set: TokenSet) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(set))))
    }

    /// Those of this moment.
    pub(crate) fn now(&self) -> Arc<TokenSet> {
        Arc::clone(&self.0.read())
    }

    /// Makes these the good ones. Requests that are under way keep what they were let in with.
    pub(crate) fn replace(&self, set: TokenSet) {
        *self.0.write() = Arc::new(set);
    }
}

fn both(one: &Principal, other: &Principal) -> Principal {
    let rights = Rights::of(&[one.rights.roles(), other.rights.roles()].concat());
    let scope = match (&one.scope, &other.scope) {
        (Scope::Pools(one), Scope::Pools(other)) => Scope::Pools([one.as_slice(), other].concat()),
        // A caller that may use every pool by one entry may do so.
        _ => Scope::Every,
    };
    Principal { rights, scope, ..one.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::PoolName;

    fn entry(name: &str, token: &str, role: Role, pools: &[&str]) -> Entry {
        let pools: Vec<_> = pools.iter().map(|pool| PoolName::parse(pool).unwrap()).collect();
        let caller = Principal::of(parse_name(name).unwrap(), &[role]);
        let caller = Principal { scope: Scope::of(&pools), ..caller };
        Entry { digest: fingerprint(token.as_bytes()), caller: Arc::new(caller) }
    }

    #[test]
    fn only_tokens_of_the_set_are_accepted() {
        let set = TokenSet::new([
            entry("a", "old", Role::Lab, &[]),
            entry("b", "new", Role::Lab, &[]),
            entry("c", "root", Role::Admin, &[]),
        ])
        .unwrap();
        let name = |token: &str| set.find(token.as_bytes()).map(|caller| caller.name.to_string());
        assert_eq!(name("old").as_deref(), Some("a"));
        assert_eq!(name("new").as_deref(), Some("b"));
        assert_eq!(name("root").as_deref(), Some("c"));
        for wrong in ["", "ol", "oldx", "OLD", "old,new"] {
            assert_eq!(name(wrong), None, "{wrong}");
        }
        assert_eq!((set.count(Role::Lab), set.count(Role::Admin), set.count(Role::ReadOnly)), (2, 1, 0));
    }

    #[test]
    fn duplicate_token_has_the_union_of_its_scopes() {
        let set = TokenSet::new([
            entry("lab", "both", Role::Lab, &["a"]),
            entry("admin", "both", Role::Admin, &[]),
        ])
        .unwrap();
        let caller = set.find(b"both").unwrap();
        assert_eq!(
            (caller.name.as_str(), caller.rights.roles()),
            ("lab", [Role::Lab, Role::Admin].as_slice())
        );
        assert_eq!(caller.scope, Scope::Every, "one of the two is good for every pool");
    }

    #[test]
    fn duplicate_token_name_is_rejected() {
        let set = TokenSet::new([entry("a", "1", Role::Lab, &[]), entry("a", "2", Role::Lab, &[])]);
        assert_eq!(set.unwrap_err(), "two tokens are called a");
        let many = (0..=TOKENS_MAX).map(|one| entry(&format!("t{one}"), &one.to_string(), Role::Lab, &[]));
        assert_eq!(TokenSet::new(many).unwrap_err(), "there may be 512 tokens, not 513");
    }

    #[test]
    fn a_fingerprint_is_sha_256() {
        let expected = [0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea];
        assert_eq!(fingerprint(b"abc")[..8], expected);
    }
}
