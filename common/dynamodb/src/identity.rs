//! Identities of accounts, and the two transactions that write an identity together with a sandbox.
//!
//! Transactions are for syncs only: a claim stays two conditional writes
//! (`docs/decisions/0002-two-writes-not-a-transaction.md`).

use super::attributes::{
    ABSENCES, DUPLICATES, Fields, Item, PK, SANDBOX_ID, SK, STATE_SHARD, STATE_SORT, VERSION, key_text,
    number, text,
};
use super::expression::Update;
use super::listing::cursor_of;
use super::{DynamoStore, item, table, unavailable};
use async_trait::async_trait;
use aws_sdk_dynamodb::error::BuildError;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::builders::PutBuilder;
use aws_sdk_dynamodb::types::{
    AttributeValue, CancellationReason, Put, ReturnValue, ReturnValuesOnConditionCheckFailure,
    TransactWriteItem,
};
use domain::{ExternalId, InvalidId, NewSandbox, ProviderName, Sandbox, SandboxId, UnixSeconds};
use ports::store::index::identity_shard;
use ports::store::{IDENTITY_DUPLICATES_MAX, Identities, Identity, IdentityPage};
use ports::store::{Insert, PageCursor, StoreError};

/// Prefix of the partition key of an identity and of its index key, followed by the provider. An index key of a pool
/// begins with its name and has a state after it, which no shard is, so the two cannot collide.
const IDENTITY_PREFIX: &str = "EXT#";
/// Sort key of an identity.
const IDENTITY_SORT: &str = "META";
/// Attempts of a transaction that conflicts with another one.
const CONFLICT_TRIES_MAX: usize = 4;
/// DynamoDB's code for a condition of a transaction that does not hold.
pub(super) const CONDITION_FAILED: &str = "ConditionalCheckFailed";
/// DynamoDB's code for a conflict with another transaction.
pub(super) const CONFLICT: &str = "TransactionConflict";

/// The result of a transaction that writes a sandbox and its identity.
enum Entered {
    Done,
    /// The sandbox's condition does not hold.
    SandboxRefused(Box<Sandbox>),
    /// There is no such sandbox, though its condition wants one.
    SandboxAbsent,
    /// The account has an identity already.
    IdentityRefused(Identity),
    Conflict,
}

#[async_trait]
impl Identities for DynamoStore {
    async fn identity(&self, external_id: &ExternalId) -> Result<Option<Identity>, StoreError> {
        let request = self.client.get_item().table_name(&self.table).set_key(Some(key(external_id)));
        let sent = request.consistent_read(true).send().await;
        let found = sent.map_err(|error| unavailable("identity", error))?;
        found.item().map(decode).transpose()
    }

    async fn name_identity(&self, external_id: &ExternalId, id: &SandboxId) -> Result<Identity, StoreError> {
        let fresh = Identity::new(external_id.clone(), id.clone());
        let Some(found) = self.put_if_absent("name_identity", encode(&fresh)).await? else {
            return Ok(fresh);
        };
        let held = decode(&found)?;
        if held.names(id) || held.duplicates.len() >= IDENTITY_DUPLICATES_MAX {
            return Ok(held);
        }
        let added = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(external_id)))
            .update_expression("ADD #duplicates :id")
            .condition_expression("#sandbox_id = :sandbox_id")
            .expression_attribute_names("#duplicates", DUPLICATES)
            .expression_attribute_names("#sandbox_id", SANDBOX_ID)
            .expression_attribute_values(":id", AttributeValue::Ss(vec![id.to_string()]))
            .expression_attribute_values(":sandbox_id", text(held.sandbox_id.as_str()))
            .return_values(ReturnValue::AllNew)
            .send()
            .await
            // The identity was removed in between: the caller repeats, as after any failure.
            .map_err(|error| unavailable("name_identity", error))?;
        decode(&added.attributes.unwrap_or_default())
    }

    async fn identities(
        &self,
        provider: &ProviderName,
        shard: u16,
        after: Option<&PageCursor>,
        limit: u16,
    ) -> Result<IdentityPage, StoreError> {
        let (hash, start) = (index_key(provider, shard), after.map(|after| start(provider, shard, after)));
        let found = self.query_hash("identities", table::STATE_INDEX, &hash, start, limit).await?;
        let mut identities = Vec::new();
        for item in found.items() {
            match decode(item) {
                Ok(identity) => identities.push(identity),
                Err(error) => tracing::error!(%error, "an identity cannot be read and is skipped"),
            }
        }
        let next = found
            .last_evaluated_key()
            .map(|key| cursor_of(key, Some(STATE_SORT), (PK, &prefix_of(provider))));
        let next = next.transpose()?;
        Ok(IdentityPage { identities, next })
    }

    async fn note_absences(&self, seen: &Identity, absences: u32) -> Result<bool, StoreError> {
        let change = still(seen).set(ABSENCES, number(absences));
        let request = self.client.update_item().table_name(&self.table).set_key(Some(key(&seen.external_id)));
        let Err(error) = change.apply(request).send().await else { return Ok(true) };
        match error.as_service_error() {
            Some(UpdateItemError::ConditionalCheckFailedException(_)) => Ok(false),
            _ => Err(unavailable("note_absences", error)),
        }
    }

    async fn drop_identity(&self, seen: &Identity) -> Result<bool, StoreError> {
        let request = self.client.delete_item().table_name(&self.table).set_key(Some(key(&seen.external_id)));
        let Err(error) = still(seen).apply_to_delete(request).send().await else { return Ok(true) };
        match error.as_service_error() {
            Some(DeleteItemError::ConditionalCheckFailedException(_)) => Ok(false),
            _ => Err(unavailable("drop_identity", error)),
        }
    }

    async fn reidentify(
        &self,
        seen: &Sandbox,
        listed: &NewSandbox,
        now: UnixSeconds,
    ) -> Result<Insert, StoreError> {
        let Ok(renewed) = seen.clone().reidentify(seen.version, listed.clone(), now) else {
            return Ok(match self.read_sandbox(&seen.id).await? {
                Some(found) => Insert::Exists(Box::new(found)),
                None => Insert::Taken(seen.id.clone()),
            });
        };
        // The version implies the state. The whole item is replaced, so that nothing of the old account remains.
        let condition = |put: PutBuilder| {
            put.condition_expression("#version = :seen")
                .expression_attribute_names("#version", VERSION)
                .expression_attribute_values(":seen", number(seen.version.get()))
        };
        self.enter("reidentify", renewed, condition).await
    }
}

impl DynamoStore {
    pub(super) async fn write_insert(
        &self,
        sandbox: &NewSandbox,
        now: UnixSeconds,
    ) -> Result<Insert, StoreError> {
        let condition = |put: PutBuilder| {
            put.condition_expression("attribute_not_exists(#pk)").expression_attribute_names("#pk", PK)
        };
        self.enter("insert", sandbox.clone().enter(now), condition).await
    }

    /// Writes a free sandbox under `condition`, and the identity of its account if there is none.
    async fn enter(
        &self,
        operation: &'static str,
        sandbox: Sandbox,
        condition: impl Fn(PutBuilder) -> PutBuilder,
    ) -> Result<Insert, StoreError> {
        for _ in 0..CONFLICT_TRIES_MAX {
            match self.enter_once(operation, &sandbox, &condition).await? {
                Entered::Done => return Ok(Insert::Inserted(Box::new(sandbox))),
                Entered::SandboxRefused(found) => return Ok(Insert::Exists(found)),
                Entered::SandboxAbsent => return Ok(Insert::Taken(sandbox.id)),
                Entered::IdentityRefused(held) => return Ok(Insert::Taken(held.sandbox_id)),
                // A concurrent process is writing the same; the next attempt sees it.
                Entered::Conflict => {}
            }
        }
        Err(StoreError::Unavailable { operation, source: "other transactions stand in the way".into() })
    }

    async fn enter_once(
        &self,
        operation: &'static str,
        sandbox: &Sandbox,
        condition: impl Fn(PutBuilder) -> PutBuilder,
    ) -> Result<Entered, StoreError> {
        let incomplete = |error: BuildError| StoreError::Unavailable { operation, source: Box::new(error) };
        let put = |item: Item| {
            Put::builder()
                .table_name(&self.table)
                .set_item(Some(item))
                .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
        };
        let record = condition(put(item::encode(sandbox, self.write_shards().await?)));
        let identity = put(encode(&Identity::new(sandbox.external_id.clone(), sandbox.id.clone())))
            .condition_expression("attribute_not_exists(#pk)")
            .expression_attribute_names("#pk", PK);
        let record = TransactWriteItem::builder().put(record.build().map_err(incomplete)?).build();
        let identity = TransactWriteItem::builder().put(identity.build().map_err(incomplete)?).build();
        let transaction = self.client.transact_write_items().transact_items(record).transact_items(identity);
        let Err(error) = transaction.send().await else { return Ok(Entered::Done) };
        let Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) = error.as_service_error()
        else {
            return Err(unavailable(operation, error));
        };
        let reasons = cancelled.cancellation_reasons();
        let failed = |at: usize| reasons.get(at).filter(|reason| reason.code() == Some(CONDITION_FAILED));
        let item_of = |reason: &CancellationReason| reason.item().filter(|item| !item.is_empty()).cloned();
        if let Some(reason) = failed(0) {
            return Ok(match item_of(reason) {
                Some(found) => Entered::SandboxRefused(Box::new(self.decode(&found)?)),
                None => Entered::SandboxAbsent,
            });
        }
        if let Some(found) = failed(1).and_then(item_of) {
            return Ok(Entered::IdentityRefused(decode(&found)?));
        }
        if reasons.iter().any(|reason| reason.code() == Some(CONFLICT)) {
            return Ok(Entered::Conflict);
        }
        Err(unavailable(operation, error))
    }
}

fn key(external_id: &ExternalId) -> Item {
    key_of(&external_id.provider(), external_id.as_str())
}

fn key_of(provider: &ProviderName, id: &str) -> Item {
    Item::from([
        (PK.to_owned(), text(format!("{}{id}", prefix_of(provider)))),
        (SK.to_owned(), text(IDENTITY_SORT)),
    ])
}

fn prefix_of(provider: &ProviderName) -> String {
    format!("{IDENTITY_PREFIX}{provider}#")
}

fn index_key(provider: &ProviderName, shard: u16) -> String {
    format!("{}{shard}", prefix_of(provider))
}

/// The position at which the next page of a shard begins.
fn start(provider: &ProviderName, shard: u16, after: &PageCursor) -> Item {
    let mut start = key_of(provider, &after.key);
    start.insert(STATE_SHARD.to_owned(), text(index_key(provider, shard)));
    start.insert(STATE_SORT.to_owned(), text(&after.sort));
    start
}

/// The condition that the identity equals `seen`.
fn still(seen: &Identity) -> Update {
    let Identity { external_id: _, sandbox_id, duplicates, absences } = seen;
    let change =
        Update::default().only_if(SANDBOX_ID, text(sandbox_id.as_str())).only_if(ABSENCES, number(*absences));
    if duplicates.is_empty() {
        change.only_if_absent(DUPLICATES)
    } else {
        let duplicates = duplicates.iter().map(ToString::to_string).collect();
        change.only_if(DUPLICATES, AttributeValue::Ss(duplicates))
    }
}

fn encode(identity: &Identity) -> Item {
    let Identity { external_id, sandbox_id, duplicates, absences } = identity;
    let mut item = key(external_id);
    item.insert(SANDBOX_ID.to_owned(), text(sandbox_id.as_str()));
    item.insert(ABSENCES.to_owned(), number(*absences));
    item.insert(
        STATE_SHARD.to_owned(),
        text(index_key(&external_id.provider(), identity_shard(external_id))),
    );
    item.insert(STATE_SORT.to_owned(), text(external_id.as_str()));
    if !duplicates.is_empty() {
        let duplicates = duplicates.iter().map(ToString::to_string).collect();
        item.insert(DUPLICATES.to_owned(), AttributeValue::Ss(duplicates));
    }
    item
}

fn decode(item: &Item) -> Result<Identity, StoreError> {
    let key = key_text(item);
    let fields = Fields::new(item, &key);
    let mut duplicates = Vec::new();
    for id in fields.texts(DUPLICATES)? {
        let id = SandboxId::parse(id).map_err(|problem| fields.corrupt(DUPLICATES, problem.to_string()))?;
        duplicates.push(id);
    }
    duplicates.sort_unstable();
    Ok(Identity {
        external_id: fields.key_id(PK, IDENTITY_PREFIX, account_in_key)?,
        sandbox_id: fields.id(SANDBOX_ID, SandboxId::parse)?,
        duplicates,
        absences: fields.count(ABSENCES)?,
    })
}

/// The account in the rest of a key, which is `<provider>#<id>`.
fn account_in_key(rest: &str) -> Result<ExternalId, InvalidId> {
    let (provider, id) = rest.split_once('#').unwrap_or_default();
    ExternalId::of(&ProviderName::parse(provider)?, id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_item_round_trips() {
        let id = |text| SandboxId::parse(text).unwrap();
        let mut identity = Identity::new(ExternalId::parse("identity/accounts/u#1").unwrap(), id("7"));
        assert_eq!(decode(&encode(&identity)).unwrap(), identity);
        identity.duplicates = vec![id("8"), id("u-1")];
        identity.absences = 2;
        assert_eq!(decode(&encode(&identity)).unwrap(), identity);
        let elsewhere = ExternalId::of(&ProviderName::parse("csp-eu").unwrap(), "u#1").unwrap();
        let elsewhere = Identity::new(elsewhere, id("csp-eu_7"));
        assert_eq!(decode(&encode(&elsewhere)).unwrap(), elsewhere);
        let mut item = encode(&identity);
        item.remove(SANDBOX_ID);
        let error = decode(&item).unwrap_err().to_string();
        assert_eq!(error, "item EXT#csp#identity/accounts/u#1/META: attribute sandbox_id: is missing");
    }
}
