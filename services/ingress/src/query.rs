//! The query and the body of an operator's request. Unknown parameters are refused: a misspelled filter would be ignored, and an
//! action would affect more than intended.

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use contract::Fault;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::Failure;

/// A parsed query. `T` has to deny unknown fields; only event readers may send additional parameters, because some
/// libraries do.
pub(crate) struct Asked<T>(pub(crate) T);

/// An empty query.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

/// An empty query.
pub(crate) type NoQuery = Asked<Nothing>;

impl<S, T> FromRequestParts<S> for Asked<T>
where
    S: Send + Sync,
    T: DeserializeOwned,
{
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let asked = Query::<T>::from_request_parts(parts, state).await;
        asked.map(|Query(asked)| Self(asked)).map_err(|problem| {
            // The message of the query parser, which contains the name of the field.
            Fault::invalid("the query", problem.body_text()).into()
        })
    }
}

/// The settings in a body, which is a JSON object.
pub(crate) fn json_object<T: DeserializeOwned>(body: &[u8]) -> Result<T, Fault> {
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(Fault::invalid("the body", "is no JSON object"));
    }
    serde_json::from_slice(body)
        .map_err(|error| Fault::invalid("the body", format!("is not the expected JSON object: {error}")))
}
