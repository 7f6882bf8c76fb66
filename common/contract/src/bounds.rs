//! Requests on behalf of a caller that may use some pools only.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A request, and the only pools that it may have to do with. A worker refuses what lies outside of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Bounded<T> {
    /// The request.
    #[serde(flatten)]
    pub request: T,
    /// The pools; none at all means every pool, as in a request without the field.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<String>,
}

/// What a request is about, whatever else it says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The sandbox; absent where it is about none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox_id: Option<String>,
    /// The pool that is asked for by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
}

// === impl Bounded ===

impl<T> Bounded<T> {
    /// The name of the field; no other field of a request has it.
    pub const FIELD: &'static str = "pools";

    /// Whether a body may have the field, without parsing it.
    #[must_use]
    pub fn may_bound(body: &[u8]) -> bool {
        let quoted = b"\"pools\"";
        body.windows(quoted.len()).any(|window| window == quoted)
    }
}
