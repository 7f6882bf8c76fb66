//! The claim item: the sandbox that an owner's key tries to get or holds. It decides nothing by itself.

use super::attributes::{
    ANSWERED, CLOSED, FINGERPRINT, Fields, Item, PK, POOL, SANDBOX_ID, SEEN_VERSION, SK, TEMPLATE_VERSION,
    TTL, key_text, number, requests, seconds, text,
};
use super::expression::Update;
use super::listing::cursor_of;
use super::{DynamoStore, unavailable};
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use domain::{
    Candidate, ClaimKey, ClaimRecord, Creation, Fingerprint, IdempotencyKey, OwnerId, PoolName, SandboxId,
    TemplateVersion, UnixSeconds, Version,
};
use ports::store::{ClaimPage, MoveClaim, OpenClaim, PageCursor, StoreError};

/// Prefix of the partition key of a claim item.
const OWNER_PREFIX: &str = "OWNER#";
/// Prefix of the sort key of a claim item.
const CLAIM_PREFIX: &str = "CLAIM#";

impl DynamoStore {
    /// An existing claim item that equals ours counts as opened, whichever process wrote it: an earlier attempt whose
    /// reply was lost, or a concurrent attempt that continues exactly like this one.
    pub(super) async fn put_claim(
        &self,
        record: &ClaimRecord,
        keep_until: UnixSeconds,
    ) -> Result<OpenClaim, StoreError> {
        let Some(found) = self.put_if_absent("open_claim", encode(record, keep_until)).await? else {
            return Ok(OpenClaim::Opened);
        };
        let held = decode(&found)?;
        Ok(if held == *record { OpenClaim::Opened } else { OpenClaim::Held(held) })
    }

    /// As with [`Self::put_claim`], an item that already equals `to` counts as moved.
    pub(super) async fn swap_claim(
        &self,
        from: &ClaimRecord,
        to: &ClaimRecord,
        keep_until: UnixSeconds,
    ) -> Result<MoveClaim, StoreError> {
        let ClaimRecord { claim: _, candidate, is_closed: _, answered, creation } = to;
        let Candidate { id, pool, version } = candidate;
        let mark = closed_mark(&from.candidate);
        let change = names(Update::default(), &from.candidate)
            .set(SANDBOX_ID, text(id.as_str()))
            .set(POOL, text(pool.as_str()))
            .set(SEEN_VERSION, number(version.get()))
            .set(TTL, seconds(keep_until))
            .set_requests(ANSWERED, answered)
            .remove(CLOSED)
            .only_if_requests(ANSWERED, &from.answered);
        let change = match &from.creation {
            Some(Creation { template, fingerprint }) => change
                .only_if(TEMPLATE_VERSION, text(template.as_str()))
                .only_if(FINGERPRINT, text(fingerprint.as_str())),
            None => change.only_if_absent(TEMPLATE_VERSION),
        };
        let change = match creation {
            Some(Creation { template, fingerprint }) => change
                .set(TEMPLATE_VERSION, text(template.as_str()))
                .set(FINGERPRINT, text(fingerprint.as_str())),
            None if from.creation.is_some() => change.remove(TEMPLATE_VERSION).remove(FINGERPRINT),
            None => change,
        };
        let change =
            if from.is_closed { change.only_if(CLOSED, mark) } else { change.only_if_not(CLOSED, mark) };
        let request = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(&from.claim)))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let Err(error) = change.apply(request).send().await else { return Ok(MoveClaim::Moved) };
        match error.as_service_error() {
            Some(UpdateItemError::ConditionalCheckFailedException(refused)) => {
                let Some(found) = refused.item().filter(|found| !found.is_empty()) else {
                    return Ok(MoveClaim::Absent);
                };
                let held = decode(found)?;
                Ok(if held == *to { MoveClaim::Moved } else { MoveClaim::Held(held) })
            }
            _ => Err(unavailable("move_claim", error)),
        }
    }

    /// Written once: a repeat finds the mark and changes nothing.
    pub(super) async fn mark_closed(
        &self,
        record: &ClaimRecord,
        keep_until: UnixSeconds,
    ) -> Result<(), StoreError> {
        let mark = closed_mark(&record.candidate);
        let change = names(Update::default(), &record.candidate)
            .set(CLOSED, mark.clone())
            .set(TTL, seconds(keep_until))
            .only_if_not(CLOSED, mark);
        let change = if record.answered.is_empty() {
            change
        } else {
            change.append_all(ANSWERED, requests(&record.answered))
        };
        let request = self.client.update_item().table_name(&self.table).set_key(Some(key(&record.claim)));
        let Err(error) = change.apply(request).send().await else { return Ok(()) };
        match error.as_service_error() {
            Some(UpdateItemError::ConditionalCheckFailedException(_)) => Ok(()),
            _ => Err(unavailable("close_claim", error)),
        }
    }

    pub(super) async fn read_claims(
        &self,
        owner: &OwnerId,
        after: Option<&PageCursor>,
        limit: u16,
    ) -> Result<ClaimPage, StoreError> {
        let found = self
            .client
            .query()
            .table_name(&self.table)
            .consistent_read(true)
            .key_condition_expression("#pk = :owner AND begins_with(#sk, :claim)")
            .expression_attribute_names("#pk", PK)
            .expression_attribute_names("#sk", SK)
            .expression_attribute_values(":owner", text(format!("{OWNER_PREFIX}{owner}")))
            .expression_attribute_values(":claim", text(CLAIM_PREFIX))
            .set_exclusive_start_key(after.map(|after| key_of(owner, &after.key)))
            .limit(i32::from(limit.max(1)))
            .send()
            .await
            .map_err(|error| unavailable("claims_of", error))?;
        let (claims, unreadable) = self.sort_out(found.items(), decode)?;
        let next = found.last_evaluated_key().map(|key| cursor_of(key, None, (SK, CLAIM_PREFIX)));
        let next = next.transpose()?;
        Ok(ClaimPage { claims, unreadable, next })
    }

    pub(super) async fn read_claim(&self, claim: &ClaimKey) -> Result<Option<ClaimRecord>, StoreError> {
        let found = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(key(claim)))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| unavailable("find_claim", error))?;
        found.item().map(decode).transpose()
    }
}

/// The condition that the item names that sandbox at that version.
fn names(change: Update, candidate: &Candidate) -> Update {
    change
        .only_if(SANDBOX_ID, text(candidate.id.as_str()))
        .only_if(SEEN_VERSION, number(candidate.version.get()))
}

/// The mark on a claim item that the lease of this candidate has ended.
fn closed_mark(candidate: &Candidate) -> AttributeValue {
    text(format!("{}@{}", candidate.id, candidate.version.get()))
}

fn key(claim: &ClaimKey) -> Item {
    key_of(&claim.owner, claim.key.as_str())
}

fn key_of(owner: &OwnerId, key: &str) -> Item {
    Item::from([
        (PK.to_owned(), text(format!("{OWNER_PREFIX}{owner}"))),
        (SK.to_owned(), text(format!("{CLAIM_PREFIX}{key}"))),
    ])
}

/// The whole claim item.
pub(super) fn encode(record: &ClaimRecord, keep_until: UnixSeconds) -> Item {
    let ClaimRecord { claim, candidate, is_closed, answered, creation } = record;
    let Candidate { id, pool, version } = candidate;
    let mut item = key(claim);
    if *is_closed {
        item.insert(CLOSED.to_owned(), closed_mark(candidate));
    }
    if !answered.is_empty() {
        item.insert(ANSWERED.to_owned(), requests(answered));
    }
    if let Some(Creation { template, fingerprint }) = creation {
        item.insert(TEMPLATE_VERSION.to_owned(), text(template.as_str()));
        item.insert(FINGERPRINT.to_owned(), text(fingerprint.as_str()));
    }
    item.insert(SANDBOX_ID.to_owned(), text(id.as_str()));
    item.insert(POOL.to_owned(), text(pool.as_str()));
    item.insert(SEEN_VERSION.to_owned(), number(version.get()));
    item.insert(TTL.to_owned(), seconds(keep_until));
    item
}

fn decode(item: &Item) -> Result<ClaimRecord, StoreError> {
    let key = key_text(item);
    let fields = Fields::new(item, &key);
    let candidate = Candidate {
        id: fields.id(SANDBOX_ID, SandboxId::parse)?,
        pool: fields.id(POOL, PoolName::parse)?,
        version: Version::new(fields.number(SEEN_VERSION)?),
    };
    Ok(ClaimRecord {
        claim: ClaimKey {
            owner: fields.key_id(PK, OWNER_PREFIX, OwnerId::parse)?,
            key: fields.key_id(SK, CLAIM_PREFIX, IdempotencyKey::parse)?,
        },
        is_closed: item.get(CLOSED) == Some(&closed_mark(&candidate)),
        answered: fields.requests(ANSWERED)?,
        creation: match fields.optional_id(TEMPLATE_VERSION, TemplateVersion::parse)? {
            Some(template) => {
                Some(Creation { template, fingerprint: fields.id(FINGERPRINT, Fingerprint::parse)? })
            }
            None => None,
        },
        candidate,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::RequestKey;

    fn record() -> ClaimRecord {
        // Owner and key may contain the separator: each takes the whole rest of its attribute.
        let owner = OwnerId::parse("p#1#CLAIM#2").unwrap();
        let candidate = Candidate {
            id: SandboxId::parse("7").unwrap(),
            pool: PoolName::parse("main").unwrap(),
            version: Version::new(3),
        };
        ClaimRecord::new(ClaimKey { owner, key: IdempotencyKey::parse("#k").unwrap() }, candidate)
    }

    fn request(name: &str) -> RequestKey {
        RequestKey::parse(name).unwrap()
    }

    #[test]
    fn moved_item_is_no_longer_closed() {
        let closed = record().closed(&[request("r-1"), request("r-2")]);
        let mut item = encode(&closed, UnixSeconds::new(99));
        assert_eq!(decode(&item).unwrap(), closed);
        // An older build moves the item on without knowing the mark.
        item.insert(SANDBOX_ID.to_owned(), text("8"));
        let moved = decode(&item).unwrap();
        assert_eq!((moved.is_closed, moved.answered), (false, closed.answered));
    }

    #[test]
    fn claim_item_round_trips() {
        let item = encode(&record(), UnixSeconds::new(99));
        assert_eq!(decode(&item).unwrap(), record());
        assert_eq!(item.get(TTL), Some(&number(99_u64)));
    }

    #[test]
    fn corrupt_claim_item_is_reported_with_its_attribute() {
        let mut item = encode(&record(), UnixSeconds::new(99));
        item.remove(SEEN_VERSION);
        let error = decode(&item).unwrap_err().to_string();
        assert_eq!(error, "item OWNER#p#1#CLAIM#2/CLAIM##k: attribute seen_version: is missing");
    }
}
