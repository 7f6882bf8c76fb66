//! The query and the body of an operator's request. Unknown parameters are refused: a misspelled filter would be
//! ignored, and an action would affect more than intended.

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use contract::Fault;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::error::Error as _;

use crate::error::Failure;

/// What the query parser says, and what callers read instead.
const WORDS: [(&str, &str); 7] = [
    ("unknown field", "unknown parameter"),
    ("duplicate field", "repeated parameter"),
    ("there are no fields", "this request takes none"),
    ("invalid digit found in string", "must be a whole number"),
    ("cannot parse integer from empty string", "must be a whole number"),
    ("number too large to fit in target type", "is too large"),
    ("provided string was not `true` or `false`", "must be true or false"),
];

/// A parsed query. `T` has to deny unknown fields; only event readers may send additional parameters, because some
/// libraries do.
pub(crate) struct Asked<T>(pub(crate) T);

/// A page of a list.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Paged {
    pub(crate) cursor: Option<String>,
    pub(crate) limit: Option<u32>,
}

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
        asked.map(|Query(asked)| Self(asked)).map_err(|rejection| {
            let problem = rejection.source().map_or_else(|| rejection.body_text(), ToString::to_string);
            invalid_query(&problem).into()
        })
    }
}

/// A body that has to be a JSON object.
pub(crate) fn json_object<T: DeserializeOwned>(body: &[u8]) -> Result<T, Fault> {
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(Fault::invalid("the body", "is no JSON object"));
    }
    serde_json::from_slice(body)
        .map_err(|error| Fault::invalid("the body", format!("is not the expected JSON object: {error}")))
}

/// The fault for a problem of the query parser: `<parameter>: <problem>`, or a problem that names the parameter itself.
fn invalid_query(problem: &str) -> Fault {
    let words = WORDS.iter().fold(problem.to_owned(), |text, (theirs, ours)| text.replace(theirs, ours));
    match words.split_once(": ") {
        Some((_, text)) if text.contains(" parameter `") => Fault::invalid("the query:", text),
        Some((name, text)) => Fault::invalid(name, text),
        None => Fault::invalid("the query:", words),
    }
}
