//! What a provider says about a sandbox beside its name and its id.

use super::ids::{InvalidId, check_printable, check_without_control};

/// Most entries of a descriptor; each write of a whole record pays for them.
pub const DESCRIPTOR_ENTRIES_MAX: usize = 24;
/// Longest key of an entry, in bytes.
const KEY_BYTES_MAX: usize = 64;
/// Longest value of an entry, in bytes; older builds read no longer ones.
const VALUE_BYTES_MAX: usize = 256;

/// A small map of facts that matter to the holder of a sandbox or to its provider: a Salesforce account, later a node, an
/// endpoint, a stack. The broker stores and shows them and decides nothing by them.
///
/// A sorted list, because most have one entry and a sync keeps tens of thousands of them: a `BTreeMap` would reserve room for
/// eleven entries in each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Descriptor(Box<[(Box<str>, Box<str>)]>);

/// Why an entry is not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDescriptor {
    /// An unusable key.
    #[error("a key of its descriptor must be 1 to {KEY_BYTES_MAX} lower-case letters, digits or '_'")]
    Key,
    /// An unusable value.
    #[error("its {key} {problem}")]
    Value {
        /// The key.
        key: String,
        /// What is wrong with the value.
        problem: InvalidId,
    },
    /// Too many entries.
    #[error("its descriptor has more than {DESCRIPTOR_ENTRIES_MAX} entries")]
    TooMany,
}

// === impl Descriptor ===

impl Descriptor {
    /// Key of the Salesforce account that a sandbox belongs to.
    pub const SFDC_ACCOUNT_ID: &'static str = "sfdc_account_id";
    /// Key of the version of the template that a sandbox is created from.
    pub const TEMPLATE: &'static str = "template";
    /// Key of the node that has the container of a sandbox.
    pub const NODE: &'static str = "node";
    /// Key of the attempt that created the container of a sandbox.
    pub const INCARNATION: &'static str = "incarnation";
    /// Key of what the container of a sandbox does, unless it runs: [`RuntimeState`](crate::RuntimeState).
    pub const RUNTIME: &'static str = "runtime";
    /// Key of why it is lost: [`RuntimeFailure`](crate::RuntimeFailure).
    pub const RUNTIME_REASON: &'static str = "runtime_reason";
    /// Key of what the container of a sandbox may reach, unless that is nothing: [`Network`](crate::template::Network).
    pub const NETWORK: &'static str = "network";
    /// What the key of a published port begins with; the port inside follows.
    pub const PORT_PREFIX: &'static str = "port_";

    /// Checks entries that a provider lists.
    ///
    /// # Errors
    /// [`InvalidDescriptor`] with the first mistake.
    pub fn parse<'a>(
        entries: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, InvalidDescriptor> {
        Self::with(entries, check_printable)
    }

    /// Entries that an older build may have stored: invisible characters are accepted.
    ///
    /// # Errors
    /// [`InvalidDescriptor`] as [`Self::parse`], except for invisible characters.
    pub fn stored<'a>(
        entries: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, InvalidDescriptor> {
        Self::with(entries, check_without_control)
    }

    fn with<'a>(
        entries: impl IntoIterator<Item = (&'a str, &'a str)>,
        check: fn(&str, usize) -> Result<(), InvalidId>,
    ) -> Result<Self, InvalidDescriptor> {
        let mut list: Vec<(Box<str>, Box<str>)> = Vec::new();
        for (key, value) in entries {
            let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
            if !(1..=KEY_BYTES_MAX).contains(&key.len()) || !key.bytes().all(is_letter) {
                return Err(InvalidDescriptor::Key);
            }
            let value = value.trim();
            check(value, VALUE_BYTES_MAX)
                .map_err(|problem| InvalidDescriptor::Value { key: key.to_owned(), problem })?;
            list.retain(|(known, _)| **known != *key);
            list.push((key.into(), value.into()));
        }
        if list.len() > DESCRIPTOR_ENTRIES_MAX {
            return Err(InvalidDescriptor::TooMany);
        }
        list.sort_unstable();
        Ok(Self(list.into_boxed_slice()))
    }

    /// The entries of both; `others` win.
    #[must_use]
    pub fn with_entries(&self, others: &Self) -> Self {
        let own = self.iter().filter(|(key, _)| others.get(key).is_none());
        let mut list: Vec<_> =
            own.chain(others.iter()).map(|(key, value)| (key.into(), value.into())).collect();
        list.sort_unstable();
        Self(list.into_boxed_slice())
    }

    /// The entries but for these.
    #[must_use]
    pub fn without(&self, keys: &[&str]) -> Self {
        let kept = self.iter().filter(|(key, _)| !keys.contains(key));
        Self(kept.map(|(key, value)| (key.into(), value.into())).collect())
    }

    /// With entries of this build, which are valid.
    pub(crate) fn with_known<'a>(&self, entries: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let mut others: Vec<_> = entries.map(|(key, value)| (key.into(), value.into())).collect();
        others.sort_unstable();
        self.with_entries(&Self(others.into_boxed_slice()))
    }

    /// The value of an entry.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter().find(|(known, _)| *known == key).map(|(_, value)| value)
    }

    /// Every entry, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_ref(), value.as_ref()))
    }

    /// Whether it has no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_checked_and_trimmed() {
        let descriptor = Descriptor::parse([("sfdc_account_id", " 001 ")]).unwrap();
        assert_eq!(descriptor.get(Descriptor::SFDC_ACCOUNT_ID), Some("001"));
        assert_eq!(descriptor.iter().collect::<Vec<_>>(), [("sfdc_account_id", "001")]);
        for key in ["", "Node", "a b", "a-b", &"k".repeat(KEY_BYTES_MAX + 1)] {
            assert_eq!(Descriptor::parse([(key, "x")]), Err(InvalidDescriptor::Key), "{key}");
        }
        for value in ["", "a\nb", "a\u{202e}b", &"v".repeat(VALUE_BYTES_MAX + 1)] {
            let refused = Descriptor::parse([("node", value)]);
            assert!(matches!(refused, Err(InvalidDescriptor::Value { .. })), "{value:?}");
        }
        assert!(Descriptor::stored([("node", "a\u{202e}b")]).is_ok(), "an older build let it pass");
        let many: Vec<_> = (0..=DESCRIPTOR_ENTRIES_MAX).map(|number| format!("k{number}")).collect();
        let refused = Descriptor::parse(many.iter().map(|key| (key.as_str(), "x")));
        assert_eq!(refused, Err(InvalidDescriptor::TooMany));
    }
}
