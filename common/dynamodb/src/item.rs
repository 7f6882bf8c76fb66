//! The sandbox item: the only place that encodes and decodes sandboxes.
//!
//! A history entry stores neither version nor epoch, because the update that appends it may know neither. Both follow
//! from the position of the entry: every state change adds one to the version and appends one entry, and only a claim,
//! and a listing after the first, add one to the epoch. New transitions have to preserve that.

use super::attributes::{
    AT, BY, CAUSE, CLAIM_KEY, CLAIMED_VERSION, DELETED_AT, DELETION_ATTEMPTS, DELETION_CAUSE, DELETION_SHARD,
    DESCRIPTOR, EPOCH, EXPIRES_AT, EXTERNAL_ID, Fields, GRANTED_AT, GROUP, GROUP_SORT, HELD_LAB, HISTORY,
    Item, LAB, LAST_ERROR, LEASE_ANSWERED, LEASE_ENV, LEASE_EPOCH, LEASE_LABELS, LEASE_REQUEST, NAME, OWNER,
    PARKED_SHARD, PK, POOL, PRE_CLEAN, PROVIDER, PROVIDER_ACCOUNT, PROVISION_ATTEMPTS, PROVISION_ERROR,
    QUARANTINE_REASON, REASON, RELISTS, REQUESTED_AT, SFDC_ACCOUNT_ID, SINCE, SK, STATE, STATE_SHARD,
    STATE_SORT, TTL, VERSION, key_text, number, requests, seconds, text,
};
use aws_sdk_dynamodb::types::AttributeValue;
use domain::{
    Actor, Cause, ClaimKey, ClaimOptions, Deletion, DeletionCause, Descriptor, Entry, Epoch, ExternalId,
    Grant, HISTORY_ENTRIES_MAX, HistoryEntry, IdempotencyKey, InvalidDescriptor, LabId, Lease, OwnerId,
    PoolName, ProviderName, Provision, Reason, RequestKey, Sandbox, SandboxId, SandboxName, State, StateName,
    Tombstone, Version,
};
use ports::store::StoreError;
use ports::store::index::{
    SANDBOX_PREFIX, SANDBOX_SORT, due_sort, lab_group, shard_of, state_shard, state_sort,
};

pub(super) mod preparation;

/// The key of a sandbox item.
pub(super) fn key(id: &SandboxId) -> Item {
    Item::from([(PK.to_owned(), text(format!("{SANDBOX_PREFIX}{id}"))), (SK.to_owned(), text(SANDBOX_SORT))])
}

/// A history entry of a transition, as it is stored.
pub(super) fn history_entry(state: StateName, entry: &Entry) -> AttributeValue {
    let Entry { cause, at, by, reason } = entry;
    let mut stored = Item::from([
        (STATE.to_owned(), text(state.as_str())),
        (CAUSE.to_owned(), text(cause.as_str())),
        (AT.to_owned(), seconds(*at)),
    ]);
    if let Some(by) = by {
        stored.insert(BY.to_owned(), text(by.as_str()));
    }
    if let Some(reason) = reason {
        stored.insert(REASON.to_owned(), text(reason.as_str()));
    }
    AttributeValue::M(stored)
}

/// An entry of a history as it is stored.
pub(super) fn stored_entry(entry: &HistoryEntry) -> AttributeValue {
    let HistoryEntry { version: _, epoch: _, state, cause, at, by, reason } = entry;
    history_entry(*state, &Entry { cause: *cause, at: *at, by: by.clone(), reason: reason.clone() })
}

/// A whole history as it is stored.
fn history(entries: &[HistoryEntry]) -> AttributeValue {
    AttributeValue::L(entries.iter().map(stored_entry).collect())
}

/// The stored name of the cause of a deletion.
pub(super) const fn deletion_cause(cause: DeletionCause) -> &'static str {
    match cause {
        DeletionCause::Released => "released",
        DeletionCause::Expired => "expired",
        DeletionCause::Operator => "operator",
        DeletionCause::Retired => "retired",
    }
}

fn parse_deletion_cause(name: &str) -> Option<DeletionCause> {
    [DeletionCause::Released, DeletionCause::Expired, DeletionCause::Operator, DeletionCause::Retired]
        .into_iter()
        .find(|cause| deletion_cause(*cause) == name)
}

/// The whole item of a sandbox, with its index keys.
pub(super) fn encode(sandbox: &Sandbox, shards: u16) -> Item {
    let Sandbox { id, name, external_id, pool, descriptor, epoch, version, state, history: entries } =
        sandbox;
    let mut item = key(id);
    let mut put = |attribute: &str, value| item.insert(attribute.to_owned(), value);
    put(NAME, text(name.as_str()));
    match external_id.further_provider() {
        None => put(EXTERNAL_ID, text(external_id.as_str())),
        Some(provider) => {
            put(PROVIDER, text(provider.as_str()));
            put(PROVIDER_ACCOUNT, text(external_id.as_str()))
        }
    };
    put(POOL, text(pool.as_str()));
    put(EPOCH, number(epoch.get()));
    put(VERSION, number(version.get()));
    put(STATE, text(state.name().as_str()));
    put(HISTORY, history(entries));
    let (account, others) = descriptor_attributes(descriptor);
    if let Some(account) = account {
        put(SFDC_ACCOUNT_ID, account);
    }
    if let Some(others) = others {
        put(DESCRIPTOR, others);
    }
    if let Some(sort) = state_sort(sandbox) {
        let shard = shard_of(id, shards);
        put(STATE_SHARD, text(state_shard(pool, state.name(), shard)));
        put(STATE_SORT, text(sort));
        put(DELETION_SHARD, text(state_shard(pool, StateName::PendingDeletion, shard)));
        put(PARKED_SHARD, text(state_shard(pool, StateName::DeletionFailed, shard)));
    }
    encode_state(&mut item, state);
    item
}

fn encode_state(item: &mut Item, state: &State) {
    let mut put = |attribute: &str, value| item.insert(attribute.to_owned(), value);
    match state {
        State::Available => {}
        State::Allocated(lease) => encode_live_lease(item, lease),
        State::Provisioning(provision) | State::ProvisionFailed(provision) => {
            let Provision { lease, requested_at, attempts, last_error } = provision;
            put(REQUESTED_AT, seconds(*requested_at));
            put(PROVISION_ATTEMPTS, number(*attempts));
            if let Some(last_error) = last_error {
                put(PROVISION_ERROR, text(last_error));
            }
            if let Some(lease) = lease {
                encode_live_lease(item, lease);
            }
        }
        State::PendingDeletion(deletion) | State::DeletionFailed(deletion) => {
            encode_deletion(item, deletion);
        }
        State::Stale { since } => {
            put(SINCE, seconds(*since));
        }
        State::Quarantined { since, reason, lease } => {
            put(SINCE, seconds(*since));
            put(QUARANTINE_REASON, text(reason.as_str()));
            if let Some(lease) = lease {
                encode_lease(item, lease);
            }
        }
        State::Deleted(Tombstone { deletion, deleted_at, purge_at }) => {
            put(DELETED_AT, seconds(*deleted_at));
            put(TTL, seconds(*purge_at));
            if let Some(deletion) = deletion {
                encode_deletion(item, deletion);
            }
        }
    }
}

fn encode_live_lease(item: &mut Item, lease: &Lease) {
    if let Some(lab) = &lease.lab {
        item.insert(HELD_LAB.to_owned(), text(lab.as_str()));
        item.insert(GROUP.to_owned(), text(lab_group(lab)));
        item.insert(GROUP_SORT.to_owned(), text(due_sort(lease.granted_at)));
    }
    encode_lease(item, lease);
}

fn encode_deletion(item: &mut Item, deletion: &Deletion) {
    let Deletion { lease, cause, requested_at, attempts, last_error, preparation, relists } = deletion;
    let mut put = |attribute: &str, value| item.insert(attribute.to_owned(), value);
    put(DELETION_CAUSE, text(deletion_cause(*cause)));
    put(REQUESTED_AT, seconds(*requested_at));
    put(DELETION_ATTEMPTS, number(*attempts));
    if *relists > 0 {
        put(RELISTS, number(*relists));
    }
    if let Some(last_error) = last_error {
        put(LAST_ERROR, text(last_error));
    }
    if let Some(preparation) = preparation {
        put(PRE_CLEAN, preparation::encode(preparation));
    }
    if let Some(lease) = lease {
        encode_lease(item, lease);
    }
}

fn encode_lease(item: &mut Item, lease: &Lease) {
    let Lease {
        claim: ClaimKey { owner, key },
        lab,
        epoch,
        claimed_version,
        granted_at,
        expires_at,
        request,
        answered,
        options,
    } = lease;
    let mut put = |attribute: &str, value| item.insert(attribute.to_owned(), value);
    put(OWNER, text(owner.as_str()));
    put(CLAIM_KEY, text(key.as_str()));
    put(LEASE_EPOCH, number(epoch.get()));
    put(CLAIMED_VERSION, number(claimed_version.get()));
    put(GRANTED_AT, seconds(*granted_at));
    put(EXPIRES_AT, seconds(*expires_at));
    if let Some(lab) = lab {
        put(LAB, text(lab.as_str()));
    }
    if let Some(request) = request {
        put(LEASE_REQUEST, text(request.as_str()));
    }
    if !answered.is_empty() {
        put(LEASE_ANSWERED, requests(answered));
    }
    for (attribute, value) in options.iter().flat_map(|options| option_attributes(options)) {
        put(attribute, value);
    }
}

/// What a claim says about its sandbox, as it is stored.
pub(super) fn option_attributes(
    options: &ClaimOptions,
) -> impl Iterator<Item = (&'static str, AttributeValue)> {
    let ClaimOptions { env, labels } = options;
    let stored = |(name, value): (&String, &String)| (name.clone(), text(value));
    [(LEASE_ENV, env), (LEASE_LABELS, labels)]
        .into_iter()
        .filter(|(_, entries)| !entries.is_empty())
        .map(move |(attribute, entries)| (attribute, AttributeValue::M(entries.iter().map(stored).collect())))
}

/// The sandbox of an item.
pub(super) fn decode(item: &Item) -> Result<Sandbox, StoreError> {
    let key = key_text(item);
    let fields = Fields::new(item, &key);
    let state = decode_state(fields)?;
    let epoch = Epoch::new(fields.number(EPOCH)?);
    let version = Version::new(fields.number(VERSION)?);
    Ok(Sandbox {
        id: fields.key_id(PK, SANDBOX_PREFIX, SandboxId::parse)?,
        name: fields.id(NAME, SandboxName::stored)?,
        external_id: decode_external_id(fields)?,
        pool: fields.id(POOL, PoolName::parse)?,
        descriptor: decode_descriptor(fields)?,
        epoch,
        version,
        state,
        history: decode_history(fields, version, epoch)?,
    })
}

/// The attributes of a descriptor, if they are there: the Salesforce account, and the map of all other entries.
pub(super) fn descriptor_attributes(
    descriptor: &Descriptor,
) -> (Option<AttributeValue>, Option<AttributeValue>) {
    let is_account = |(key, _): &(&str, &str)| *key == Descriptor::SFDC_ACCOUNT_ID;
    let others: Item = descriptor
        .iter()
        .filter(|entry| !is_account(entry))
        .map(|(key, value)| (key.to_owned(), text(value)))
        .collect();
    let account = descriptor.get(Descriptor::SFDC_ACCOUNT_ID).map(text);
    (account, (!others.is_empty()).then_some(AttributeValue::M(others)))
}

fn decode_descriptor(fields: Fields<'_>) -> Result<Descriptor, StoreError> {
    let account = fields.optional_text(SFDC_ACCOUNT_ID)?.map(|id| (Descriptor::SFDC_ACCOUNT_ID, id));
    let mut entries: Vec<(&str, &str)> = account.into_iter().collect();
    for (key, value) in fields.optional_map(DESCRIPTOR)?.into_iter().flatten() {
        let value =
            value.as_s().map_err(|_| fields.corrupt(DESCRIPTOR, "holds an entry that is not a string"))?;
        entries.push((key, value));
    }
    Descriptor::stored(entries).map_err(|problem| match problem {
        InvalidDescriptor::Value { key, problem } if key == SFDC_ACCOUNT_ID => {
            fields.corrupt(SFDC_ACCOUNT_ID, problem.to_string())
        }
        problem => fields.corrupt(DESCRIPTOR, problem.to_string()),
    })
}

fn decode_external_id(fields: Fields<'_>) -> Result<ExternalId, StoreError> {
    match fields.optional_id(PROVIDER, ProviderName::parse)? {
        None => fields.id(EXTERNAL_ID, ExternalId::parse),
        Some(provider) => fields.id(PROVIDER_ACCOUNT, |id| ExternalId::of(&provider, id)),
    }
}

fn decode_state(fields: Fields<'_>) -> Result<State, StoreError> {
    let state = decode_state_name(fields)?;
    Ok(match state {
        StateName::Available => State::Available,
        StateName::Allocated => State::Allocated(decode_lease(fields)?),
        StateName::PendingDeletion => State::PendingDeletion(decode_deletion(fields)?),
        StateName::DeletionFailed => State::DeletionFailed(decode_deletion(fields)?),
        StateName::Stale => State::Stale { since: fields.seconds(SINCE)? },
        StateName::Quarantined => State::Quarantined {
            since: fields.seconds(SINCE)?,
            reason: fields.id(QUARANTINE_REASON, Reason::stored)?,
            lease: decode_last_lease(fields)?,
        },
        StateName::Deleted => State::Deleted(Tombstone {
            deletion: if fields.has(DELETION_CAUSE) { Some(decode_deletion(fields)?) } else { None },
            deleted_at: fields.seconds(DELETED_AT)?,
            purge_at: fields.seconds(TTL)?,
        }),
        StateName::Provisioning => State::Provisioning(decode_provision(fields)?),
        StateName::ProvisionFailed => State::ProvisionFailed(decode_provision(fields)?),
    })
}

fn decode_provision(fields: Fields<'_>) -> Result<Provision, StoreError> {
    Ok(Provision {
        lease: decode_last_lease(fields)?,
        requested_at: fields.seconds(REQUESTED_AT)?,
        attempts: fields.count(PROVISION_ATTEMPTS)?,
        last_error: fields.optional_text(PROVISION_ERROR)?.map(str::to_owned),
    })
}

fn decode_last_lease(fields: Fields<'_>) -> Result<Option<Lease>, StoreError> {
    if fields.has(OWNER) { decode_lease(fields).map(Some) } else { Ok(None) }
}

fn decode_state_name(fields: Fields<'_>) -> Result<StateName, StoreError> {
    StateName::parse(fields.text(STATE)?).ok_or_else(|| fields.corrupt(STATE, "is no state of a sandbox"))
}

fn decode_deletion(fields: Fields<'_>) -> Result<Deletion, StoreError> {
    let cause = parse_deletion_cause(fields.text(DELETION_CAUSE)?)
        .ok_or_else(|| fields.corrupt(DELETION_CAUSE, "is no cause of a deletion"))?;
    let attempts = u32::try_from(fields.number(DELETION_ATTEMPTS)?)
        .map_err(|_| fields.corrupt(DELETION_ATTEMPTS, "is too large"))?;
    Ok(Deletion {
        lease: decode_last_lease(fields)?,
        cause,
        requested_at: fields.seconds(REQUESTED_AT)?,
        attempts,
        last_error: fields.optional_text(LAST_ERROR)?.map(str::to_owned),
        preparation: preparation::decode(fields)?,
        relists: fields.count(RELISTS)?,
    })
}

fn decode_lease(fields: Fields<'_>) -> Result<Lease, StoreError> {
    Ok(Lease {
        claim: ClaimKey {
            owner: fields.id(OWNER, OwnerId::parse)?,
            key: fields.id(CLAIM_KEY, IdempotencyKey::parse)?,
        },
        lab: fields.optional_id(LAB, LabId::parse)?,
        epoch: Epoch::new(fields.number(LEASE_EPOCH)?),
        claimed_version: Version::new(fields.number(CLAIMED_VERSION)?),
        granted_at: fields.seconds(GRANTED_AT)?,
        expires_at: fields.seconds(EXPIRES_AT)?,
        request: fields.optional_id(LEASE_REQUEST, RequestKey::parse)?,
        answered: fields.requests(LEASE_ANSWERED)?,
        options: ClaimOptions { env: fields.text_map(LEASE_ENV)?, labels: fields.text_map(LEASE_LABELS)? }
            .boxed(),
    })
}

/// Whether the lease on this item may be the one that `grant` makes, as far as the item can be read: it names the claim
/// at the version of the candidate, and its state does not end leases.
pub(super) fn may_be_held_by(item: &Item, grant: &Grant) -> bool {
    let is = |attribute, value: &AttributeValue| item.get(attribute) == Some(value);
    let state = item.get(STATE).and_then(|state| state.as_s().ok()).and_then(|state| StateName::parse(state));
    is(OWNER, &text(grant.claim.owner.as_str()))
        && is(CLAIM_KEY, &text(grant.claim.key.as_str()))
        && is(CLAIMED_VERSION, &number(grant.candidate.version.get()))
        && matches!(state, None | Some(StateName::Allocated))
}

/// The latest entries, with the version and the epoch that follow from their positions. Entries with a cause or state
/// unknown to this build are left out but keep their positions.
fn decode_history(
    fields: Fields<'_>,
    version: Version,
    epoch: Epoch,
) -> Result<Vec<HistoryEntry>, StoreError> {
    let (mut version, mut epoch) = (version.get(), epoch.get());
    let (mut entries, mut knows_all) = (Vec::new(), true);
    // An update cannot cut the list while it appends, so an item may have a few entries too many.
    for map in fields.maps(HISTORY)?.into_iter().rev().take(HISTORY_ENTRIES_MAX) {
        let within = fields.within(map);
        let (cause, state) = (Cause::parse(within.text(CAUSE)?), StateName::parse(within.text(STATE)?));
        match cause.zip(state) {
            Some((cause, state)) => entries.push(HistoryEntry {
                version: Version::new(version),
                epoch: Epoch::new(epoch),
                state,
                cause,
                at: within.seconds(AT)?,
                by: within.optional_id(BY, Actor::parse)?,
                reason: within.optional_id(REASON, Reason::stored)?,
            }),
            None => knows_all = false,
        }
        // Listed again as another account. Before the very first listing there may be entries of a newer build.
        let is_another = cause == Some(Cause::Listed) && version > 1 && epoch > 0;
        let begins_epoch = cause == Some(Cause::Claimed) || is_another;
        let epoch_before = if begins_epoch { epoch.checked_sub(1) } else { Some(epoch) };
        match version.checked_sub(1).zip(epoch_before) {
            Some(before) => (version, epoch) = before,
            // The effect of an unknown cause on version and epoch is unknown.
            None if !knows_all => break,
            None => return Err(fields.corrupt(HISTORY, "has more entries than the version or epoch allows")),
        }
    }
    entries.reverse();
    Ok(entries)
}

#[cfg(test)]
mod tests;
