//! What a tick may say beyond "look now": nearly always nothing.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Who asks, where an order does not say.
const ANYBODY: &str = "operator";

/// The body of a tick. One without a body is the default: look, and be careful.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TickOrder {
    /// Whether a sync follows a listing that is empty or would cost too much of the pool. Nothing else is forced by it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub force: bool,
    /// Who asks, for log and report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

// === impl TickOrder ===

impl TickOrder {
    /// The order of `by` to follow the listing.
    #[must_use]
    pub fn forced(by: &str) -> Self {
        Self { force: true, by: Some(by.to_owned()) }
    }

    /// Who forces it; none if nobody does.
    #[must_use]
    pub fn forced_by(&self) -> Option<&str> {
        self.force.then(|| self.by.as_deref().unwrap_or(ANYBODY))
    }

    /// The order in the body of a tick. What cannot be read orders nothing.
    #[must_use]
    pub fn read(body: &[u8]) -> Self {
        if body.is_empty() {
            return Self::default();
        }
        serde_json::from_slice(body).unwrap_or_else(|error| {
            tracing::warn!(%error, "the body of a tick cannot be read; it counts as an ordinary one");
            Self::default()
        })
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_says_so_is_forced() {
        assert_eq!(TickOrder::read(br#"{"force":true,"by":"alice"}"#).forced_by(), Some("alice"));
        assert_eq!(TickOrder::read(br#"{"force":true}"#).forced_by(), Some("operator"));
        for body in ["", "{}", r#"{"by":"alice"}"#, r#"{"force":"yes"}"#, "now", "[]", r#"{"force":false}"#] {
            assert_eq!(TickOrder::read(body.as_bytes()).forced_by(), None, "{body}");
        }
    }
}
