//! The query of an operator's request. A word that there is not is refused: a filter with a letter wrong would be none,
//! and an order would be about more than was meant.

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use contract::Fault;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::Failure;

/// What was asked for. `T` has to deny fields that it does not know; only readers of events may send words of their own,
/// as some libraries do.
pub(crate) struct Asked<T>(pub(crate) T);

/// The query of a route that has none.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

/// The query of a route that has none.
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
            // The words of the query library, with the name of the field in them.
            Fault::invalid("the query", problem.body_text()).into()
        })
    }
}
