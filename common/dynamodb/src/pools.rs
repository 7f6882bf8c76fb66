//! The items of pools.

use super::attributes::{Fields, Item, NAME_PREFIX, PROVIDER, STATE, VERSION, key_text, number, text};
use super::expression::Update;
use super::layout::{POOL_PREFIX, item_key};
use super::{DynamoStore, unavailable};
use async_trait::async_trait;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::AttributeValue;
use domain::{
    AllowedImages, ImagePolicy, LeaseOverrides, NamePrefix, PoolKind, PoolName, PoolSpec, PoolState,
    ProviderName, WarmSizes,
};
use ports::store::{Layout as _, PoolItems, StoreError};
use std::collections::BTreeSet;
use std::time::Duration;

/// Sort key of the item.
const META: &str = "META";
const KIND: &str = "kind";
const TEMPLATE: &str = "template";
const LEASE_S: &str = "lease_s";
const LEASE_S_MAX: &str = "lease_s_max";
const LEASE_TOTAL_S_MAX: &str = "lease_total_s_max";
const LEASE_GRACE_S: &str = "lease_grace_s";
const LEASE_IDLE_S: &str = "lease_idle_s";
const WARM_MIN: &str = "warm_min";
const WARM_MAX: &str = "warm_max";
const DELETIONS_IN_FLIGHT_MAX: &str = "deletions_in_flight_max";
const SYNC_S: &str = "sync_s";
/// A list of texts, absent if every image is allowed.
const IMAGES_ALLOWED: &str = "images_allowed";
/// This and `untrusted` are absent if they are false.
const IMAGES_DIGEST: &str = "images_digest";
const RUNTIME: &str = "runtime";
const UNTRUSTED: &str = "untrusted";

#[async_trait]
impl PoolItems for DynamoStore {
    async fn pool_spec(&self, pool: &PoolName) -> Result<Option<PoolSpec>, StoreError> {
        let found = self.read_item("pool_spec", key(pool)).await?;
        found.as_ref().map(|item| decode(pool, item)).transpose()
    }

    async fn write_pool(&self, seen: Option<u64>, next: &PoolSpec) -> Result<bool, StoreError> {
        // First the name, so that no item is without it.
        self.note_pools(&BTreeSet::from([next.name.clone()])).await?;
        let change = match seen {
            Some(version) => change_to(next).only_if(VERSION, number(version)),
            None => change_to(next).only_if_absent(VERSION),
        };
        let request = self.client.update_item().table_name(&self.table).set_key(Some(key(&next.name)));
        let Err(error) = change.apply(request).send().await else { return Ok(true) };
        match error.as_service_error() {
            Some(UpdateItemError::ConditionalCheckFailedException(_)) => Ok(false),
            _ => Err(unavailable("write_pool", error)),
        }
    }

    async fn remove_pool(&self, pool: &PoolName, seen: u64) -> Result<bool, StoreError> {
        let request = self.client.delete_item().table_name(&self.table).set_key(Some(key(pool)));
        let condition = Update::default().only_if(VERSION, number(seen));
        let Err(error) = condition.apply_to_delete(request).send().await else { return Ok(true) };
        match error.as_service_error() {
            Some(DeleteItemError::ConditionalCheckFailedException(_)) => Ok(false),
            _ => Err(unavailable("remove_pool", error)),
        }
    }
}

fn key(pool: &PoolName) -> Item {
    item_key((&format!("{POOL_PREFIX}{pool}"), META))
}

/// Sets every attribute of the pool. Attributes of other builds stay.
fn change_to(spec: &PoolSpec) -> Update {
    let PoolSpec {
        name: _,
        kind,
        provider,
        template,
        name_prefix,
        leases,
        warm,
        deletions_in_flight_max,
        sync_period,
        images: ImagePolicy { allowed, is_digest_required },
        runtime,
        is_untrusted,
        state,
        version,
    } = spec;
    let LeaseOverrides { duration, duration_max, total_max, grace, idle } = leases;
    let span = |span: &Option<Duration>| span.map(|span| number(span.as_secs()));
    let images: Vec<_> = allowed.iter().map(|entry| text(entry.to_string())).collect();
    let switch = |is_on: bool| is_on.then_some(AttributeValue::Bool(true));
    let optional = [
        (TEMPLATE, template.as_ref().map(text)),
        (NAME_PREFIX, name_prefix.as_ref().map(|prefix| text(prefix.as_str()))),
        (LEASE_S, span(duration)),
        (LEASE_S_MAX, span(duration_max)),
        (LEASE_TOTAL_S_MAX, span(total_max)),
        (LEASE_GRACE_S, span(grace)),
        (LEASE_IDLE_S, span(idle)),
        (WARM_MIN, warm.map(|warm| number(warm.min))),
        (WARM_MAX, warm.map(|warm| number(warm.max))),
        (DELETIONS_IN_FLIGHT_MAX, deletions_in_flight_max.map(number)),
        (SYNC_S, span(sync_period)),
        (IMAGES_ALLOWED, (!images.is_empty()).then_some(AttributeValue::L(images))),
        (IMAGES_DIGEST, switch(*is_digest_required)),
        (RUNTIME, runtime.map(|runtime| text(<&str>::from(runtime)))),
        (UNTRUSTED, switch(*is_untrusted)),
    ];
    let change = Update::default()
        .set(KIND, text(kind.as_str()))
        .set(PROVIDER, text(provider.as_str()))
        .set(STATE, text(state.as_str()))
        .set(VERSION, number(*version));
    optional.into_iter().fold(change, |change, (attribute, value): (_, Option<AttributeValue>)| match value {
        Some(value) => change.set(attribute, value),
        None => change.remove(attribute),
    })
}

fn decode(pool: &PoolName, item: &Item) -> Result<PoolSpec, StoreError> {
    let key = key_text(item);
    let fields = Fields::new(item, &key);
    let unknown = |attribute| move || fields.corrupt(attribute, "is unknown to this build");
    let span = |attribute| -> Result<Option<Duration>, StoreError> {
        let seconds = fields.has(attribute).then(|| fields.number(attribute)).transpose()?;
        Ok(seconds.map(Duration::from_secs))
    };
    let size = |attribute| fields.has(attribute).then(|| fields.count(attribute)).transpose();
    let warm = match (size(WARM_MIN)?, size(WARM_MAX)?) {
        (None, None) => None,
        (min, max) => {
            let max = max.or(min).unwrap_or_default();
            Some(WarmSizes { min: min.unwrap_or_default(), max })
        }
    };
    let switch = |attribute| -> Result<bool, StoreError> {
        Ok(fields.has(attribute).then(|| fields.switch(attribute)).transpose()?.unwrap_or_default())
    };
    let allowed = fields
        .words(IMAGES_ALLOWED)?
        .into_iter()
        .map(|entry| AllowedImages::parse(entry).map_err(|problem| fields.corrupt(IMAGES_ALLOWED, problem)));
    let runtime = fields.optional_text(RUNTIME)?.map(|name| name.parse().map_err(|_| unknown(RUNTIME)()));
    Ok(PoolSpec {
        name: pool.clone(),
        kind: PoolKind::parse(fields.text(KIND)?).ok_or_else(unknown(KIND))?,
        provider: fields.id(PROVIDER, ProviderName::parse)?,
        template: fields.optional_text(TEMPLATE)?.map(str::to_owned),
        name_prefix: fields.optional_id(NAME_PREFIX, NamePrefix::parse)?,
        leases: LeaseOverrides {
            duration: span(LEASE_S)?,
            duration_max: span(LEASE_S_MAX)?,
            total_max: span(LEASE_TOTAL_S_MAX)?,
            grace: span(LEASE_GRACE_S)?,
            idle: span(LEASE_IDLE_S)?,
        },
        warm,
        deletions_in_flight_max: size(DELETIONS_IN_FLIGHT_MAX)?,
        sync_period: span(SYNC_S)?,
        images: ImagePolicy {
            allowed: allowed.collect::<Result<_, _>>()?,
            is_digest_required: switch(IMAGES_DIGEST)?,
        },
        runtime: runtime.transpose()?,
        is_untrusted: switch(UNTRUSTED)?,
        state: PoolState::parse(fields.text(STATE)?).ok_or_else(unknown(STATE))?,
        version: fields.number(VERSION)?,
    })
}
