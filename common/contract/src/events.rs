//! What happened to a sandbox, for accounting: one event for each state change.
//!
//! The shape is that of CloudEvents 1.0 in JSON. An event is made from the history of the sandbox, so a later reader
//! of the sandbox can make the same one.

use super::named::{ChangeCause, SandboxStatus};
use domain::{Cause, HistoryEntry, Sandbox, SandboxId, UnixSeconds, Version};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use utoipa::ToSchema;

/// Version of CloudEvents.
const SPEC_VERSION: &str = "1.0";
/// Where every event comes from.
const SOURCE: &str = "/sandbox-broker";
/// What the data of an event is.
const DATA_CONTENT_TYPE: &str = "application/json";
/// Beginning of every type.
const TYPE_PREFIX: &str = "sandbox.";

/// One state change of a sandbox, in the shape of CloudEvents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Always `1.0`.
    pub specversion: String,
    /// `<sandbox id>:<version>`: the same for every copy of the event.
    pub id: String,
    /// Who tells.
    pub source: String,
    /// What happened, as in the history; on the wire after `sandbox.`.
    #[serde(rename = "type", with = "event_type")]
    #[schema(schema_with = event_type::schema)]
    pub kind: ChangeCause,
    /// The sandbox.
    pub subject: String,
    /// When it happened, RFC 3339.
    pub time: String,
    /// Always `application/json`.
    pub datacontenttype: String,
    /// The rest.
    pub data: EventData,
}

/// What an event tells beside what happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventData {
    /// The pool.
    pub pool: String,
    /// The state before; none for a sandbox that is new, or whose history was cut there.
    pub from: Option<SandboxStatus>,
    /// The state after.
    pub to: SandboxStatus,
    /// The version that the change made.
    pub version: u64,
    /// The epoch after the change.
    pub epoch: u64,
    /// Who held the sandbox at that epoch.
    pub owner: Option<String>,
    /// For which lab.
    pub lab: Option<String>,
    /// Who made the change: the caller (the name of a token, a service or an operator), else the owner, else the
    /// part of the broker that did it.
    pub by: String,
    /// Why, if it was ordered with a reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The request that made it, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

// === impl Event ===

impl Event {
    /// The event of one entry in the sandbox's history.
    #[must_use]
    pub fn of(sandbox: &Sandbox, entry: &HistoryEntry, request_id: Option<&str>) -> Self {
        let HistoryEntry { version, epoch, state, cause, at, by, reason } = entry;
        let before = sandbox.history.iter().find(|before| before.version.next() == *version);
        let lease = sandbox.last_lease().filter(|lease| lease.epoch == *epoch);
        let owner = lease.map(|lease| lease.claim.owner.to_string());
        let by = match by {
            Some(actor) => actor.to_string(),
            None => maker_of(*cause, owner.as_deref()).to_owned(),
        };
        Self {
            specversion: SPEC_VERSION.to_owned(),
            id: Self::id_of(&sandbox.id, *version),
            source: SOURCE.to_owned(),
            kind: (*cause).into(),
            subject: sandbox.id.to_string(),
            time: rfc3339(*at),
            datacontenttype: DATA_CONTENT_TYPE.to_owned(),
            data: EventData {
                pool: sandbox.pool.to_string(),
                from: before.map(|before| before.state.into()),
                to: (*state).into(),
                version: version.get(),
                epoch: epoch.get(),
                owner,
                lab: lease.and_then(|lease| lease.lab.as_ref()).map(ToString::to_string),
                by,
                reason: reason.as_ref().map(ToString::to_string),
                request_id: request_id.map(ToOwned::to_owned),
            },
        }
    }

    /// The id of the event that describes that version.
    #[must_use]
    pub fn id_of(id: &SandboxId, version: Version) -> String {
        format!("{id}:{version}")
    }

    /// The version in the id of an event.
    #[must_use]
    pub fn version_in(event_id: &str) -> Option<Version> {
        event_id.rsplit_once(':')?.1.parse().ok().map(Version::new)
    }
}

/// The type of an event: [`TYPE_PREFIX`] and the cause.
mod event_type {
    use super::{Cause, ChangeCause, TYPE_PREFIX};
    use serde::{Deserialize as _, Deserializer, Serializer};
    use strum::IntoEnumIterator as _;
    use utoipa::openapi::schema::{Object, ObjectBuilder, Type};

    pub(super) fn serialize<S: Serializer>(kind: &ChangeCause, serializer: S) -> Result<S::Ok, S::Error> {
        match kind {
            ChangeCause::Known(cause) => {
                serializer.collect_str(&format_args!("{TYPE_PREFIX}{}", cause.as_str()))
            }
            ChangeCause::Unknown(whole) => serializer.serialize_str(whole),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ChangeCause, D::Error> {
        let whole = String::deserialize(deserializer)?;
        let cause = whole.strip_prefix(TYPE_PREFIX).and_then(Cause::parse);
        Ok(cause.map_or(ChangeCause::Unknown(whole), ChangeCause::Known))
    }

    pub(super) fn schema() -> Object {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("`sandbox.` and what happened, as in the history."))
            .enum_values(Some(Cause::iter().map(|cause| format!("{TYPE_PREFIX}{}", cause.as_str()))))
            .build()
    }
}

/// Who makes changes of that kind when the history names no actor.
fn maker_of(cause: Cause, owner: Option<&str>) -> &str {
    match (cause, owner) {
        (
            Cause::Claimed
            | Cause::Released
            | Cause::Extended
            | Cause::Started
            | Cause::Stopped
            | Cause::Restarted
            | Cause::Paused
            | Cause::Resumed,
            owner,
        ) => owner.unwrap_or("owner"),
        (Cause::Listed | Cause::Missing | Cause::Found, _) => "sync",
        (Cause::Exited | Cause::Failed, _) => "nodes",
        (Cause::Expired, _) => "expiry",
        (Cause::Forgotten, _) => "stale",
        (Cause::Deleted | Cause::Parked, _) => "reaper",
        (Cause::Filled | Cause::Retired, _) => "fill",
        (Cause::Provisioned | Cause::ProvisionFailed, _) => "runner",
        (Cause::Abandoned, _) => "allocator",
        (Cause::Ordered | Cause::Replayed | Cause::Quarantined | Cause::Unquarantined, _) => "operator",
    }
}

/// The moment as RFC 3339 text.
#[must_use]
pub fn rfc3339(moment: UnixSeconds) -> String {
    i64::try_from(moment.get())
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|moment| moment.format(&Rfc3339).ok())
        .unwrap_or_else(|| "9999-12-31T23:59:59Z".to_owned())
}

/// The moment that such a text says; none if it is no such text, or before 1970.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<UnixSeconds> {
    let moment = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    u64::try_from(moment.unix_timestamp()).ok().map(UnixSeconds::new)
}

/// The same in milliseconds.
#[must_use]
pub fn parse_rfc3339_ms(text: &str) -> Option<u64> {
    let moment = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    u64::try_from(moment.unix_timestamp_nanos() / 1_000_000).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamp_is_formatted_as_rfc_3339() {
        assert_eq!(rfc3339(UnixSeconds::new(1_763_683_200)), "2025-11-21T00:00:00Z");
        assert_eq!(rfc3339(UnixSeconds::new(u64::MAX)), "9999-12-31T23:59:59Z");
        let moment = UnixSeconds::new(1_763_683_200);
        assert_eq!(parse_rfc3339(&rfc3339(moment)), Some(moment));
        assert_eq!((parse_rfc3339("tomorrow"), parse_rfc3339("1969-12-31T00:00:00Z")), (None, None));
        assert_eq!(parse_rfc3339_ms("2025-11-21T00:00:00.123456789Z"), Some(1_763_683_200_123));
    }

    #[test]
    fn version_is_parsed_from_the_event_id() {
        let id = SandboxId::parse("2000000").unwrap();
        assert_eq!(Event::version_in(&Event::id_of(&id, Version::new(4))), Some(Version::new(4)));
        for other in ["", "4", "7:", "7:x"] {
            assert_eq!(Event::version_in(other), None, "{other:?}");
        }
    }
}
