//! Authentication and authorisation: the first check of every route with a role.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use contract::{Action, Fault, FaultCode, Principal, Target, Verb, authorize};
use ports::clock::Clock;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Failure;
use crate::limits;
use crate::rates::{RateStatus, Rates};
use crate::request_id::Facts;
use crate::sandboxes;
use crate::tokens::Tokens;

/// The checks in front of one route.
#[derive(Clone)]
pub(crate) struct Gate {
    /// What the route does; none of a route that is open to any caller.
    pub(crate) action: Option<Action>,
    pub(crate) tokens: Tokens,
    pub(crate) rates: Rates,
    pub(crate) body_patience: Duration,
    pub(crate) clock: Arc<dyn Clock>,
}

/// Marks an answer to an authenticated caller.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known;

const SCHEME: &[u8] = b"bearer";

/// Passes a request on if its caller has the role, is within its rate limits, and the body is within its limit, in this
/// order.
pub(crate) async fn admit(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    let mut rate_status = None;
    let mut response = match gate.check(request, &mut rate_status).await {
        Ok(request) => {
            let mut response = next.run(request).await;
            if gate.action.is_some() {
                response.extensions_mut().insert(Known);
            }
            response
        }
        Err(fault) => Failure::from(fault).into_response(),
    };
    if let Some(rate_status) = rate_status {
        rate_status.write(response.headers_mut());
    }
    response
}

// === impl Gate ===

impl Gate {
    async fn check(&self, request: Request, rate_status: &mut Option<RateStatus>) -> Result<Request, Fault> {
        let Some(action) = self.action else {
            // Does not wait for the body of an unauthenticated caller: by withholding one byte, the caller could occupy
            // a connection that cannot be closed to make room.
            limits::refuse_too_large(request.headers())?;
            return Ok(request);
        };
        let caller = self.identify(request.headers())?;
        if let Some(facts) = request.extensions().get::<Facts>() {
            facts.note_caller(&caller);
        }
        count(self.rates.count_token(&caller.name), rate_status)?;
        // An invalid owner is refused by the handler.
        let owner = action.is_for_owner().then(|| sandboxes::owner_in(request.headers()).ok()).flatten();
        authorize(&caller, action, Target { pool: None, owner: owner.as_ref() })?;
        // Only after that, so that a caller cannot use up the rate limit of an owner for whom it may not act.
        if let Some(owner) = owner {
            count(self.rates.count_owner(&caller.name, &owner), rate_status)?;
        }
        let (parts, body) = request.into_parts();
        // Of the owners' routes, few read a body.
        let keeps_body = !action.is_for_owner() || matches!(action, Action::Ask(Verb::Execute | Verb::Claim));
        let body =
            limits::take_in(&parts.headers, body, keeps_body, self.body_patience, &*self.clock).await?;
        Ok(Request::from_parts(parts, body.into()))
    }

    fn identify(&self, headers: &HeaderMap) -> Result<Arc<Principal>, Fault> {
        bearer_token(headers).and_then(|token| self.tokens.now().find(token)).ok_or_else(|| {
            Fault::new(FaultCode::Unauthorized, "a valid token is needed: `Authorization: Bearer <token>`")
        })
    }
}

/// Records the rate limit; the answer shows the last one, which is the narrowest.
fn count(
    counted: Result<Option<RateStatus>, (Fault, RateStatus)>,
    rate_status: &mut Option<RateStatus>,
) -> Result<(), Fault> {
    match counted {
        Ok(here) => {
            *rate_status = here.or(*rate_status);
            Ok(())
        }
        Err((fault, here)) => {
            *rate_status = Some(here);
            Err(fault)
        }
    }
}

// Two `Authorization` headers are a smuggling attempt or a mistake, so neither is used.
fn bearer_token(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, rest) = value.as_bytes().split_at_checked(SCHEME.len())?;
    let token = rest.trim_ascii();
    let is_separated = rest.first().is_some_and(u8::is_ascii_whitespace);
    (scheme.eq_ignore_ascii_case(SCHEME) && is_separated && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn headers(values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (header::AUTHORIZATION, HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn bearer_scheme_is_case_insensitive() {
        for good in ["Bearer t", "bearer t", "BEARER   t", "Bearer\tt"] {
            assert_eq!(bearer_token(&headers(&[good])), Some(b"t".as_slice()), "{good}");
        }
        for bad in ["t", "Bearer", "Bearer ", "Bearert", "Basic t", ""] {
            assert_eq!(bearer_token(&headers(&[bad])), None, "{bad}");
        }
        assert_eq!(bearer_token(&headers(&["Bearer t", "Bearer t"])), None);
    }
}
