//! Values of closed sets: on the wire each is its name.

use domain::{Cause, PreparationResult, RuntimeState, StateName};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use strum::IntoEnumIterator;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::census::{CountedBy, Violation};
use super::pools::PoolStatus;
use super::throttle::{BreakerState, DeletionsState};

/// A closed set whose values have names.
pub trait Name: Copy + Into<&'static str> + FromStr + IntoEnumIterator {
    /// What the documents call the set.
    const SET: &'static str;
}

/// A value of a closed set. The name of a later build is kept as it is, because during a rolling restart a reader may be
/// older than the writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named<T> {
    /// A value of the set.
    Known(T),
    /// A name that this build does not know.
    Unknown(String),
}

/// The state of a sandbox.
pub type SandboxStatus = Named<StateName>;
/// What a container does.
pub type RuntimeName = Named<RuntimeState>;
/// What made a state change.
pub type ChangeCause = Named<Cause>;
/// What clearing a sandbox came to.
pub type PreCleanOutcome = Named<PreparationResult>;
/// The state of a pool.
pub type PoolStatusName = Named<PoolStatus>;
/// A promise that can be broken.
pub type ViolationName = Named<Violation>;
/// What counted.
pub type CounterName = Named<CountedBy>;
/// What the deletions as a whole do.
pub type DeletionsStateName = Named<DeletionsState>;
/// The state of the breaker.
pub type BreakerStateName = Named<BreakerState>;

impl Name for StateName {
    const SET: &'static str = "SandboxStatus";
}

impl Name for RuntimeState {
    const SET: &'static str = "RuntimeState";
}

impl Name for Cause {
    const SET: &'static str = "ChangeCause";
}

impl Name for PreparationResult {
    const SET: &'static str = "PreCleanOutcome";
}

impl Name for PoolStatus {
    const SET: &'static str = "PoolStatus";
}

impl Name for Violation {
    const SET: &'static str = "Violation";
}

impl Name for CountedBy {
    const SET: &'static str = "CountedBy";
}

impl Name for DeletionsState {
    const SET: &'static str = "DeletionsState";
}

impl Name for BreakerState {
    const SET: &'static str = "BreakerState";
}

// === impl Named ===

impl<T: Name> Named<T> {
    /// The value; none if this build does not know the name.
    #[must_use]
    pub fn known(&self) -> Option<T> {
        match self {
            Self::Known(value) => Some(*value),
            Self::Unknown(_) => None,
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Known(value) => (*value).into(),
            Self::Unknown(name) => name,
        }
    }
}

impl<T> Default for Named<T> {
    /// The empty name, as in a message without the field.
    fn default() -> Self {
        Self::Unknown(String::new())
    }
}

impl<T: Name> From<T> for Named<T> {
    fn from(value: T) -> Self {
        Self::Known(value)
    }
}

impl<T: Name> From<String> for Named<T> {
    fn from(name: String) -> Self {
        name.parse().map_or(Self::Unknown(name), Self::Known)
    }
}

impl<T: Name + Eq> Ord for Named<T> {
    /// In the order of the names, as other keys of a message.
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl<T: Name + Eq> PartialOrd for Named<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: Name> fmt::Display for Named<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

impl<T: Name> Serialize for Named<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de, T: Name> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

impl<T: Name> PartialSchema for Named<T> {
    fn schema() -> RefOr<Schema> {
        let names = T::iter().map(Into::<&'static str>::into);
        ObjectBuilder::new().schema_type(Type::String).enum_values(Some(names)).into()
    }
}

impl<T: Name> ToSchema for Named<T> {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed(T::SET)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::collections::BTreeMap;

    #[test]
    fn name_of_a_later_build_is_kept() {
        for (name, known) in [("stale", Some(StateName::Stale)), ("hibernating", None), ("", None)] {
            let read: SandboxStatus = serde_json::from_value(json!(name)).unwrap();
            assert_eq!((read.known(), read.as_str()), (known, name));
            assert_eq!(serde_json::to_value(&read).unwrap(), name);
        }
        assert!(serde_json::from_value::<SandboxStatus>(json!(7)).is_err());
        let counts: BTreeMap<Named<Violation>, u64> =
            serde_json::from_value(json!({"held_twice": 1, "lost": 2})).unwrap();
        assert_eq!(counts[&Violation::HeldTwice.into()], 1);
        assert_eq!(serde_json::to_value(&counts).unwrap(), json!({"held_twice": 1, "lost": 2}));
    }

    #[test]
    fn schema_lists_every_name_of_the_set() {
        let schema = serde_json::to_value(PreCleanOutcome::schema()).unwrap();
        assert_eq!(schema, json!({"type": "string", "enum": ["skipped", "cleaned", "shadowed", "failed"]}));
        assert_eq!(PreCleanOutcome::name(), "PreCleanOutcome");
    }
}
