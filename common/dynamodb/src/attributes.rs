//! Names of attributes, and how single attributes are written and read.

use aws_sdk_dynamodb::types::AttributeValue;
use domain::{Descriptor, InvalidId, RequestKey, UnixSeconds};
use ports::store::StoreError;
use std::collections::{BTreeMap, HashMap};

/// Partition key of the table.
pub(super) const PK: &str = "PK";
/// Sort key of the table.
pub(super) const SK: &str = "SK";
/// Hash key of `StateIndex`: `<pool>#<state>#<shard>`; absent on tombstones.
pub(super) const STATE_SHARD: &str = "state_shard";
/// Range key of `StateIndex`: the name of a free sandbox, the due time of any other.
pub(super) const STATE_SORT: &str = "state_sort";
/// Value of `state_shard` after a deletion is requested. It is on the item from the beginning, because an update
/// expression can copy an attribute but not build one, and a release does not know the pool.
pub(super) const DELETION_SHARD: &str = "deletion_shard";
/// Value of `state_shard` after a deletion is parked; stored for the same reason.
pub(super) const PARKED_SHARD: &str = "parked_shard";
/// Hash key of `LabIndex`: the lab, while the sandbox is held for one.
pub(super) const HELD_LAB: &str = "held_lab";
/// Range key of `LabIndex`, and the start of the lease.
pub(super) const GRANTED_AT: &str = "granted_at";
/// Hash key of `GroupIndex`: the group of the lab, while the sandbox is held for one. Builds before that index neither
/// write nor remove it.
pub(super) const GROUP: &str = "group";
/// Range key of `GroupIndex`: the start of the lease as a due time.
pub(super) const GROUP_SORT: &str = "group_sort";
/// When DynamoDB may remove the item, in seconds: `purge_at` of a tombstone, `keep_until` of a claim item.
pub(super) const TTL: &str = "ttl";

pub(super) const NAME: &str = "name";
pub(super) const EXTERNAL_ID: &str = "external_id";
/// The provider of the account; absent means the first one.
pub(super) const PROVIDER: &str = "provider";
/// The id of the account at a further provider, in place of `external_id`. Older builds know one provider: without
/// `external_id` the record is unreadable for them, and they leave it alone.
pub(super) const PROVIDER_ACCOUNT: &str = "provider_account";
pub(super) const POOL: &str = "pool";
/// On a pool: the prefix of the names that it selects; absent means all others.
pub(super) const NAME_PREFIX: &str = "name_prefix";
/// The one entry of a descriptor that is an attribute, as in older builds.
pub(super) const SFDC_ACCOUNT_ID: &str = Descriptor::SFDC_ACCOUNT_ID;
/// The other entries: a map, absent if there are none.
pub(super) const DESCRIPTOR: &str = "descriptor";
pub(super) const EPOCH: &str = "epoch";
pub(super) const VERSION: &str = "version";
pub(super) const STATE: &str = "state";
pub(super) const HISTORY: &str = "history";
pub(super) const OWNER: &str = "owner";
pub(super) const CLAIM_KEY: &str = "claim_key";
pub(super) const LAB: &str = "lab";
pub(super) const LEASE_EPOCH: &str = "lease_epoch";
pub(super) const CLAIMED_VERSION: &str = "claimed_version";
pub(super) const EXPIRES_AT: &str = "expires_at";
/// The request that created the lease; absent if its caller sent no id, and on items of former builds.
pub(super) const LEASE_REQUEST: &str = "lease_request";
/// What the claim says about its sandbox: maps of texts, absent while there are none. The first ends with the lease.
pub(super) const LEASE_ENV: &str = "lease_env";
pub(super) const LEASE_LABELS: &str = "lease_labels";
/// Further requests that the lease was the answer to: a list of texts, absent while there are none.
pub(super) const LEASE_ANSWERED: &str = "lease_answered";
pub(super) const DELETION_CAUSE: &str = "deletion_cause";
pub(super) const REQUESTED_AT: &str = "requested_at";
pub(super) const DELETION_ATTEMPTS: &str = "deletion_attempts";
pub(super) const LAST_ERROR: &str = "last_error";
/// Result of the pre-clean: a map; absent before the first attempt and on items of older builds.
pub(super) const PRE_CLEAN: &str = "pre_clean";
/// Parts of that map.
pub(super) const RESULT: &str = "result";
pub(super) const SERVICES: &str = "services";
pub(super) const REASON: &str = "reason";
pub(super) const WENT_ON: &str = "went_on";
/// How often the provider still listed a deleted account; absent means zero.
pub(super) const RELISTS: &str = "relists";
/// Other records of the account of an identity; absent means none.
pub(super) const DUPLICATES: &str = "duplicates";
/// Complete listings in a row without the account of an identity; absent means zero.
pub(super) const ABSENCES: &str = "absences";
pub(super) const DELETED_AT: &str = "deleted_at";
pub(super) const SINCE: &str = "since";
pub(super) const QUARANTINE_REASON: &str = "quarantine_reason";
/// The sandbox that a claim item names.
pub(super) const SANDBOX_ID: &str = "sandbox_id";
/// The version of that sandbox when it was chosen.
pub(super) const SEEN_VERSION: &str = "seen_version";
/// On a claim item: the candidate whose lease has ended, as one text. The item is closed only while this equals the
/// candidate that it names, because older builds move the item on and leave this attribute unchanged.
pub(super) const CLOSED: &str = "closed";
/// On a claim item: the version of the template that is created if nothing is free; absent for kinds that are not
/// created.
pub(super) const TEMPLATE_VERSION: &str = "template_version";
/// On a claim item: the fingerprint of the request, with [`TEMPLATE_VERSION`].
pub(super) const FINGERPRINT: &str = "fingerprint";
/// Failed attempts at the creation of a sandbox.
pub(super) const PROVISION_ATTEMPTS: &str = "provision_attempts";
/// The error of the last one; absent before the first.
pub(super) const PROVISION_ERROR: &str = "provision_error";
/// On a claim item: requests that were answered by leases of this key which have ended since; absent means none.
pub(super) const ANSWERED: &str = "answered";
/// Parts of a history entry.
pub(super) const CAUSE: &str = "cause";
pub(super) const AT: &str = "at";
pub(super) const BY: &str = "by";

/// A stored item.
pub(super) type Item = HashMap<String, AttributeValue>;

/// A text as an attribute.
pub(super) fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

/// A number as an attribute.
pub(super) fn number(value: impl Into<u64>) -> AttributeValue {
    AttributeValue::N(value.into().to_string())
}

/// Requests as an attribute.
pub(super) fn requests(ids: &[RequestKey]) -> AttributeValue {
    AttributeValue::L(ids.iter().map(|id| text(id.as_str())).collect())
}

/// A moment as an attribute, in seconds.
pub(super) fn seconds(at: UnixSeconds) -> AttributeValue {
    number(at.get())
}

/// Reads the attributes of one item. An error names the item and the attribute.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    attributes: &'a Item,
    item: &'a str,
}

impl<'a> Fields<'a> {
    /// A reader of `attributes`; `item` is the key of the item.
    pub(super) fn new(attributes: &'a Item, item: &'a str) -> Self {
        Self { attributes, item }
    }

    /// The same reader for a map inside the item.
    pub(super) fn within(self, attributes: &'a Item) -> Self {
        Self { attributes, item: self.item }
    }

    /// The error for one attribute.
    pub(super) fn corrupt(self, attribute: &'static str, problem: impl Into<String>) -> StoreError {
        StoreError::Corrupt { item: self.item.to_owned(), attribute, problem: problem.into() }
    }

    /// Whether the attribute is there.
    pub(super) fn has(self, attribute: &'static str) -> bool {
        self.attributes.contains_key(attribute)
    }

    /// A required text.
    pub(super) fn text(self, attribute: &'static str) -> Result<&'a str, StoreError> {
        self.optional_text(attribute)?.ok_or_else(|| self.missing(attribute))
    }

    /// An optional text.
    pub(super) fn optional_text(self, attribute: &'static str) -> Result<Option<&'a str>, StoreError> {
        match self.attributes.get(attribute) {
            None => Ok(None),
            Some(AttributeValue::S(value)) => Ok(Some(value)),
            Some(_) => Err(self.corrupt(attribute, "is not a string")),
        }
    }

    /// A required whole number.
    pub(super) fn number(self, attribute: &'static str) -> Result<u64, StoreError> {
        match self.attributes.get(attribute) {
            None => Err(self.missing(attribute)),
            Some(AttributeValue::N(value)) => {
                value.parse().map_err(|_| self.corrupt(attribute, "is not a whole number"))
            }
            Some(_) => Err(self.corrupt(attribute, "is not a number")),
        }
    }

    /// A whole number; absent means zero.
    pub(super) fn count(self, attribute: &'static str) -> Result<u32, StoreError> {
        if !self.has(attribute) {
            return Ok(0);
        }
        u32::try_from(self.number(attribute)?).map_err(|_| self.corrupt(attribute, "is too large"))
    }

    /// A required moment.
    pub(super) fn seconds(self, attribute: &'static str) -> Result<UnixSeconds, StoreError> {
        self.number(attribute).map(UnixSeconds::new)
    }

    /// A required boolean.
    pub(super) fn switch(self, attribute: &'static str) -> Result<bool, StoreError> {
        match self.attributes.get(attribute) {
            None => Err(self.missing(attribute)),
            Some(AttributeValue::Bool(value)) => Ok(*value),
            Some(_) => Err(self.corrupt(attribute, "is neither true nor false")),
        }
    }

    /// An optional map.
    pub(super) fn optional_map(self, attribute: &'static str) -> Result<Option<&'a Item>, StoreError> {
        match self.attributes.get(attribute) {
            None => Ok(None),
            Some(AttributeValue::M(map)) => Ok(Some(map)),
            Some(_) => Err(self.corrupt(attribute, "is not a map")),
        }
    }

    /// A required list of maps.
    pub(super) fn maps(self, attribute: &'static str) -> Result<Vec<&'a Item>, StoreError> {
        let Some(AttributeValue::L(entries)) = self.attributes.get(attribute) else {
            return Err(self.corrupt(attribute, "is not a list"));
        };
        let maps = entries.iter().map(AttributeValue::as_m).collect::<Result<_, _>>();
        maps.map_err(|_| self.corrupt(attribute, "holds an entry that is not a map"))
    }

    /// A list of requests; absent means none.
    pub(super) fn requests(self, attribute: &'static str) -> Result<Vec<RequestKey>, StoreError> {
        let parse =
            |id| RequestKey::parse(id).map_err(|problem| self.corrupt(attribute, problem.to_string()));
        self.words(attribute)?.into_iter().map(parse).collect()
    }

    /// A list of texts; absent means none.
    pub(super) fn words(self, attribute: &'static str) -> Result<Vec<&'a str>, StoreError> {
        let words = self.list(attribute)?.iter().map(|entry| match entry {
            AttributeValue::S(word) => Ok(word.as_str()),
            _ => Err(self.corrupt(attribute, "holds an entry that is not a string")),
        });
        words.collect()
    }

    /// A map of texts; absent means an empty one.
    pub(super) fn text_map(self, attribute: &'static str) -> Result<BTreeMap<String, String>, StoreError> {
        let texts = self.optional_map(attribute)?.into_iter().flatten().map(|(name, value)| match value {
            AttributeValue::S(value) => Ok((name.clone(), value.clone())),
            _ => Err(self.corrupt(attribute, "holds an entry that is not a string")),
        });
        texts.collect()
    }

    /// A list of small numbers; absent means none.
    pub(super) fn numbers(self, attribute: &'static str) -> Result<Vec<u16>, StoreError> {
        let numbers = self.list(attribute)?.iter().map(|entry| {
            let number = entry.as_n().ok().and_then(|number| number.parse().ok());
            number.ok_or_else(|| self.corrupt(attribute, "holds an entry that is not a small number"))
        });
        numbers.collect()
    }

    fn list(self, attribute: &'static str) -> Result<&'a [AttributeValue], StoreError> {
        match self.attributes.get(attribute) {
            None => Ok(&[]),
            Some(AttributeValue::L(entries)) => Ok(entries),
            Some(_) => Err(self.corrupt(attribute, "is not a list")),
        }
    }

    /// A set of texts; absent means empty.
    pub(super) fn texts(self, attribute: &'static str) -> Result<&'a [String], StoreError> {
        match self.attributes.get(attribute) {
            None => Ok(&[]),
            Some(AttributeValue::Ss(texts)) => Ok(texts),
            Some(_) => Err(self.corrupt(attribute, "is not a set of strings")),
        }
    }

    /// A required id.
    pub(super) fn id<T>(
        self,
        attribute: &'static str,
        parse: impl FnOnce(&str) -> Result<T, InvalidId>,
    ) -> Result<T, StoreError> {
        let value = self.text(attribute)?;
        parse(value).map_err(|problem| self.corrupt(attribute, problem.to_string()))
    }

    /// An optional id.
    pub(super) fn optional_id<T>(
        self,
        attribute: &'static str,
        parse: impl FnOnce(&str) -> Result<T, InvalidId>,
    ) -> Result<Option<T>, StoreError> {
        if self.has(attribute) { self.id(attribute, parse).map(Some) } else { Ok(None) }
    }

    /// An id that follows `prefix` in a key.
    pub(super) fn key_id<T>(
        self,
        attribute: &'static str,
        prefix: &str,
        parse: impl FnOnce(&str) -> Result<T, InvalidId>,
    ) -> Result<T, StoreError> {
        let Some(value) = self.text(attribute)?.strip_prefix(prefix) else {
            return Err(self.corrupt(attribute, format!("does not begin with {prefix}")));
        };
        parse(value).map_err(|problem| self.corrupt(attribute, problem.to_string()))
    }

    fn missing(self, attribute: &'static str) -> StoreError {
        self.corrupt(attribute, "is missing")
    }
}

/// The key of an item as one text, for error messages.
pub(super) fn key_text(item: &Item) -> String {
    let part = |name| item.get(name).and_then(|value| value.as_s().ok()).map_or("?", String::as_str);
    format!("{}/{}", part(PK), part(SK))
}
