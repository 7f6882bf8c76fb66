//! Ids as types. They are parsed once on entry, are never empty, and fit into the table and into a subject.

use std::fmt;

/// Longest owner, lab or idempotency key, in bytes (`http-api.md`: header values up to 256 bytes).
pub const HEADER_ID_BYTES_MAX: usize = 256;
/// Longest sandbox id, in bytes. CSP ids are short decimal numbers, so there is room for other providers.
pub const SANDBOX_ID_BYTES_MAX: usize = 128;
/// Longest pool name, in bytes; it is part of NATS subjects and of every index key.
pub const POOL_NAME_BYTES_MAX: usize = 64;
/// Longest name of a tenant, in bytes.
pub const TENANT_BYTES_MAX: usize = 64;
/// Longest sandbox name, in bytes; it is a DynamoDB sort key, which may hold 1,024.
pub const SANDBOX_NAME_BYTES_MAX: usize = 256;
/// Longest reason that an operator may give, in bytes; every later write of the sandbox pays for it.
pub const REASON_BYTES_MAX: usize = 256;
/// Longest key of a request, in bytes. A UUID has 36, and every write of a claim item pays for each key that it keeps.
pub const REQUEST_KEY_BYTES_MAX: usize = 64;
/// Longest version of a template, in bytes.
pub const TEMPLATE_VERSION_BYTES_MAX: usize = 128;
/// Longest fingerprint of a request, in bytes: room for SHA-256 in hexadecimal.
pub const FINGERPRINT_BYTES_MAX: usize = 64;
/// Longest id of a template, in bytes; with a version it is part of records and claims.
pub const TEMPLATE_ID_BYTES_MAX: usize = 64;
/// Longest name of a node, in bytes: that of a host, without dots.
pub const NODE_ID_BYTES_MAX: usize = 63;
/// Longest id at the provider, in bytes.
pub const EXTERNAL_ID_BYTES_MAX: usize = 512;

/// Why a text is not a valid id. It contains no part of the text, which may be hostile or secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// The text is empty or blank.
    #[error("must not be empty")]
    Empty,
    /// More bytes than allowed.
    #[error("must be at most {max_bytes} bytes, not {bytes}")]
    TooLong {
        /// Bytes found.
        bytes: usize,
        /// Bytes allowed.
        max_bytes: usize,
    },
    /// A character outside the allowed set.
    #[error("may hold only {allowed}")]
    Charset {
        /// The allowed set, in words.
        allowed: &'static str,
    },
}

/// Name of the first provider.
const CSP: &str = "csp";
/// Name of the provider that all nodes are together.
const NODES: &str = "nodes";

const VISIBLE_ASCII: &str = "visible ASCII characters";
const TOKEN: &str = "ASCII letters, digits, '-' and '_'";
const PROVIDER_NAME: &str = "ASCII letters, digits and '-'";
const PRINTABLE: &str = "visible characters and blanks (no control, bidirectional or zero-width characters)";

fn is_visible_ascii(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn is_token(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

fn is_provider_name(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn is_printable(text: &str) -> bool {
    !text.chars().any(|char| char.is_control() || is_invisible(char))
}

/// The check of older builds, so that their stored values can still be read.
fn is_without_control(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

/// Characters that are invisible or change how a text is displayed. They can make one name look like another.
const fn is_invisible(char: char) -> bool {
    matches!(
        char,
        // Soft hyphen, and blank letters of some scripts.
        '\u{ad}' | '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{3164}' | '\u{ffa0}'
        // Marks for the direction of writing.
        | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        // Zero-width characters, and separators of lines and paragraphs.
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200d}' | '\u{2028}' | '\u{2029}'
        | '\u{2060}'..='\u{2065}' | '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        // Tags.
        | '\u{e0000}'..='\u{e0fff}'
    )
}

fn check(
    text: &str,
    max_bytes: usize,
    allowed: &'static str,
    is_allowed: fn(&str) -> bool,
) -> Result<(), InvalidId> {
    if text.is_empty() {
        return Err(InvalidId::Empty);
    }
    if text.len() > max_bytes {
        return Err(InvalidId::TooLong { bytes: text.len(), max_bytes });
    }
    if !is_allowed(text) {
        return Err(InvalidId::Charset { allowed });
    }
    Ok(())
}

/// Checks a text without control and invisible characters.
pub(crate) fn check_printable(text: &str, max_bytes: usize) -> Result<(), InvalidId> {
    check(text, max_bytes, PRINTABLE, is_printable)
}

/// As [`check_printable`], but invisible characters are accepted.
pub(crate) fn check_without_control(text: &str, max_bytes: usize) -> Result<(), InvalidId> {
    check(text, max_bytes, PRINTABLE, is_without_control)
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $max_bytes:expr, $allowed:expr, $is_allowed:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Trims the text and checks the rest.
            ///
            /// # Errors
            /// [`InvalidId`] when the trimmed text is empty, too long, or contains a character that is not allowed.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                let text = text.trim();
                check(text, $max_bytes, $allowed, $is_allowed)?;
                Ok(Self(text.to_owned()))
            }

            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(formatter)
            }
        }
    };
}

text_id!(
    /// The broker's id of a sandbox: a table key, a path segment and a token of NATS subjects.
    SandboxId, SANDBOX_ID_BYTES_MAX, TOKEN, is_token
);
text_id!(
    /// The name of a pool; a token of NATS subjects and part of every index key.
    PoolName, POOL_NAME_BYTES_MAX, TOKEN, is_token
);
text_id!(
    /// The name of a provider; a token of NATS keys and part of every identity. It has no `_`, which ends it in the ids of
    /// sandboxes.
    ProviderName, POOL_NAME_BYTES_MAX, PROVIDER_NAME, is_provider_name
);
text_id!(
    /// The holder of a sandbox: one student's run of a lab (Instruqt participant id).
    OwnerId, HEADER_ID_BYTES_MAX, PRINTABLE, is_printable
);
text_id!(
    /// The lab that the owner takes (Instruqt track slug).
    LabId, HEADER_ID_BYTES_MAX, PRINTABLE, is_printable
);
text_id!(
    /// Identifies repeated claims of one owner. Two owners may use the same key.
    IdempotencyKey, HEADER_ID_BYTES_MAX, PRINTABLE, is_printable
);
text_id!(
    /// Identifies one request: all attempts at the request have the same key, and no other request has it. The process
    /// that receives the request generates it. It is not the `X-Request-ID`, which callers may choose and use again.
    RequestKey, REQUEST_KEY_BYTES_MAX, VISIBLE_ASCII, is_visible_ascii
);
text_id!(
    /// Identifies what a request asks for: two requests of a key with the same one ask for the same.
    Fingerprint, FINGERPRINT_BYTES_MAX, TOKEN, is_token
);
text_id!(
    /// One version of a template, as `<template>@<number>`.
    TemplateVersion, TEMPLATE_VERSION_BYTES_MAX, VISIBLE_ASCII, is_visible_ascii
);
text_id!(
    /// The id of a template: a table key and a path segment.
    TemplateId, TEMPLATE_ID_BYTES_MAX, TOKEN, is_token
);
text_id!(
    /// The name of a node: a table key and a token of NATS subjects.
    NodeId, NODE_ID_BYTES_MAX, TOKEN, is_token
);
text_id!(
    /// The displayed name. It is the sort key of a free sandbox, so that a name prefix is a key condition.
    SandboxName, SANDBOX_NAME_BYTES_MAX, PRINTABLE, is_printable
);
text_id!(
    /// The prefix of the sandbox names that a claim accepts. It is case-sensitive.
    NamePrefix, SANDBOX_NAME_BYTES_MAX, PRINTABLE, is_printable
);
text_id!(
    /// The actor of an operator action: the operator's name, as far as it is known.
    Actor, HEADER_ID_BYTES_MAX, VISIBLE_ASCII, is_visible_ascii
);
text_id!(
    /// A tenant: a group of principals. It is a token of NATS subjects, like a pool.
    TenantName, TENANT_BYTES_MAX, TOKEN, is_token
);

text_id!(
    /// The reason of an operator action, in one line.
    Reason, REASON_BYTES_MAX, PRINTABLE, is_printable
);

macro_rules! stored_text {
    ($($name:ident, $max_bytes:expr;)+) => {
        $(impl $name {
            /// Parses a value that an older build may have stored: invisible characters are accepted.
            ///
            /// # Errors
            /// [`InvalidId`] as [`Self::parse`], except for invisible characters.
            pub fn stored(text: &str) -> Result<Self, InvalidId> {
                let text = text.trim();
                check(text, $max_bytes, PRINTABLE, is_without_control)?;
                Ok(Self(text.to_owned()))
            }
        })+
    };
}

stored_text! {
    SandboxName, SANDBOX_NAME_BYTES_MAX;
    Reason, REASON_BYTES_MAX;
}

impl Reason {
    /// Makes a valid reason of any text: cuts it to one line of at most [`REASON_BYTES_MAX`] bytes.
    #[must_use]
    pub fn cut(text: &str) -> Self {
        let line: String = text
            .chars()
            .map(|char| if char.is_control() || is_invisible(char) { ' ' } else { char })
            .collect();
        let line = line.trim();
        let kept = line.get(..line.floor_char_boundary(REASON_BYTES_MAX)).unwrap_or_default().trim();
        Self(if kept.is_empty() { "no reason was given".to_owned() } else { kept.to_owned() })
    }
}

impl Default for ProviderName {
    fn default() -> Self {
        Self::csp()
    }
}

impl ProviderName {
    /// The provider of records and pools that name none: the CSP of the process's own settings.
    #[must_use]
    pub fn csp() -> Self {
        Self(CSP.to_owned())
    }

    /// The provider of the sandboxes that nodes create.
    #[must_use]
    pub fn nodes() -> Self {
        Self(NODES.to_owned())
    }

    /// Whether it is [`ProviderName::csp`].
    #[must_use]
    pub fn is_csp(&self) -> bool {
        self.0 == CSP
    }

    /// The broker's id of the account that this provider names `id`, unchecked. Two providers may use the same
    /// numbers, so only the ids of the first one stay as they are.
    #[must_use]
    pub fn sandbox_id_of(&self, id: &str) -> String {
        if self.is_csp() { id.to_owned() } else { format!("{}_{id}", self.0) }
    }
}

impl From<&OwnerId> for IdempotencyKey {
    /// The idempotency key of a claim that brings none: its owner.
    fn from(owner: &OwnerId) -> Self {
        Self(owner.0.clone())
    }
}

impl Actor {
    /// The actor of a request whose caller only NATS knows.
    #[must_use]
    pub fn nats() -> Self {
        Self("nats".to_owned())
    }
}

impl TemplateVersion {
    /// The template and the number; none if it names no version, which no build writes.
    #[must_use]
    pub fn parts(&self) -> Option<(TemplateId, u64)> {
        let (template, number) = self.0.rsplit_once('@')?;
        Some((TemplateId::parse(template).ok()?, number.parse().ok()?))
    }

    /// The version of that number.
    #[must_use]
    pub fn of(template: &TemplateId, number: u64) -> Self {
        Self(format!("{template}@{number}"))
    }
}

impl Default for TenantName {
    /// The tenant of a principal for which none is configured.
    fn default() -> Self {
        Self("default".to_owned())
    }
}

/// The identity of an account: its provider, and the id under which that provider lists it (CSP:
/// `identity/accounts/<uuid>`). Two providers may use the same id for different accounts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExternalId {
    /// None for the first provider, which most records have.
    provider: Option<ProviderName>,
    id: String,
}

// === impl ExternalId ===

impl ExternalId {
    /// The account of the first provider with that id.
    ///
    /// # Errors
    /// [`InvalidId`] as for every other id.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        Self::of(&ProviderName::csp(), text)
    }

    /// The account of `provider` with that id.
    ///
    /// # Errors
    /// [`InvalidId`] as for every other id.
    pub fn of(provider: &ProviderName, text: &str) -> Result<Self, InvalidId> {
        let text = text.trim();
        check(text, EXTERNAL_ID_BYTES_MAX, VISIBLE_ASCII, is_visible_ascii)?;
        Ok(Self { provider: (!provider.is_csp()).then(|| provider.clone()), id: text.to_owned() })
    }

    /// The provider's id, without its provider.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.id
    }

    /// Whether the fleet creates the sandbox `id`, whose external id this is: then it is the sandbox's own. No listing
    /// shows such a sandbox, so it has no identity item.
    #[must_use]
    pub fn is_own_of(&self, id: &SandboxId) -> bool {
        self.id == id.0
    }

    /// The provider.
    #[must_use]
    pub fn provider(&self) -> ProviderName {
        self.provider.clone().unwrap_or_else(ProviderName::csp)
    }

    /// Whether it is an account of `provider`.
    #[must_use]
    pub fn is_of(&self, provider: &ProviderName) -> bool {
        self.provider.as_ref().map_or_else(|| provider.is_csp(), |own| own == provider)
    }

    /// The provider, unless it is the first one.
    #[must_use]
    pub const fn further_provider(&self) -> Option<&ProviderName> {
        self.provider.as_ref()
    }

    /// The last segment: the bare UUID that calls to the CSP and lab scripts use.
    #[must_use]
    pub fn bare(&self) -> &str {
        self.id.rsplit('/').next().unwrap_or(&self.id)
    }
}

impl fmt::Display for ExternalId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(formatter)
    }
}

/// Grows with every lease of a sandbox. It is the fencing token of all later work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(u64);

/// Grows with every state change of a sandbox, but not when its description is refreshed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u64);

macro_rules! counter {
    ($name:ident) => {
        impl $name {
            /// The counter at `value`.
            #[must_use]
            pub const fn new(value: u64) -> Self {
                Self(value)
            }

            /// The counter's value.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The value after this one.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(formatter)
            }
        }
    };
}

counter!(Epoch);
counter!(Version);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whitespace_around_an_id_is_trimmed() {
        assert_eq!(OwnerId::parse("  p-1 ").unwrap().as_str(), "p-1");
        assert_eq!(OwnerId::parse(" \t "), Err(InvalidId::Empty));
    }

    #[test]
    fn length_and_characters_are_checked() {
        let longest = "x".repeat(HEADER_ID_BYTES_MAX);
        assert!(OwnerId::parse(&longest).is_ok());
        let too_long = format!("{longest}x");
        assert_eq!(OwnerId::parse(&too_long), Err(InvalidId::TooLong { bytes: 257, max_bytes: 256 }));
        for bad in ["a\nb", "a\u{7f}b", "a\u{200b}b"] {
            assert!(matches!(OwnerId::parse(bad), Err(InvalidId::Charset { .. })), "{bad:?}");
        }
        for name in ["a b", "größe", "学生 1"] {
            assert_eq!(OwnerId::parse(name).unwrap().as_str(), name);
            assert!(matches!(RequestKey::parse(name), Err(InvalidId::Charset { .. })), "{name:?}");
        }
    }

    #[test]
    fn ids_used_in_subjects_reject_subject_characters() {
        for bad in ["a.b", "a*", ">", "a b", "a#b", "a/b"] {
            assert!(SandboxId::parse(bad).is_err(), "{bad}");
            assert!(PoolName::parse(bad).is_err(), "{bad}");
        }
        assert!(SandboxId::parse("2019842").is_ok());
    }

    #[test]
    fn ids_of_two_providers_never_meet() {
        assert!(ProviderName::parse("a_b").is_err(), "its `_` would end the name in an id");
        let provider = ProviderName::parse("csp-eu").unwrap();
        assert_eq!(provider.sandbox_id_of("b_1"), "csp-eu_b_1");
        assert_eq!(ProviderName::csp().sandbox_id_of("7"), "7");
        let (own, other) = (ExternalId::parse("u-1").unwrap(), ExternalId::of(&provider, "u-1").unwrap());
        assert!(own != other && own.as_str() == other.as_str());
        assert!(
            own.is_of(&ProviderName::csp()) && other.is_of(&provider) && !other.is_of(&ProviderName::csp())
        );
    }

    #[test]
    fn name_allows_spaces_but_no_newline() {
        assert!(SandboxName::parse("lab 7 – Zürich").is_ok());
        assert!(SandboxName::parse("lab\n7").is_err());
    }

    #[test]
    fn invisible_characters_are_rejected() {
        for hidden in
            ['\u{202e}', '\u{2066}', '\u{200b}', '\u{200d}', '\u{feff}', '\u{ad}', '\u{2028}', '\u{e0041}']
        {
            for text in [format!("lab{hidden}7"), format!("a{hidden}{hidden}b")] {
                assert!(matches!(SandboxName::parse(&text), Err(InvalidId::Charset { .. })), "{text:?}");
                assert!(Reason::parse(&text).is_err(), "{text:?}");
                assert_eq!(Reason::parse(Reason::cut(&text).as_str()), Ok(Reason::cut(&text)));
                // A former build let it pass.
                assert_eq!(SandboxName::stored(&text).unwrap().as_str(), text);
            }
        }
        assert!(SandboxName::stored("lab\n7").is_err());
        for seen in ["lab 7 – Zürich", "実験室", "مختبر", "🧪", "e\u{301}"] {
            assert_eq!(SandboxName::parse(seen).unwrap().as_str(), seen);
        }
    }

    #[test]
    fn foreign_reason_is_truncated_to_one_line() {
        assert_eq!(Reason::cut(" status 500\r\n<html> ").as_str(), "status 500  <html>");
        assert_eq!(Reason::cut(" \n").as_str(), "no reason was given");
        let long = Reason::cut(&"ü".repeat(REASON_BYTES_MAX));
        assert_eq!(long.as_str().len(), REASON_BYTES_MAX);
        assert_eq!(Reason::parse(long.as_str()), Ok(long));
    }

    #[test]
    fn bare_external_id_is_the_last_segment() {
        assert_eq!(ExternalId::parse("identity/accounts/u-1").unwrap().bare(), "u-1");
        assert_eq!(ExternalId::parse("u-1").unwrap().bare(), "u-1");
    }
}
