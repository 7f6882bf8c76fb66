//! Token → caller. The first check of every route that has a role.

use aws_lc_rs::digest::{SHA256, digest};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;
use common::clock::Clock;
use common::contract::{Fault, FaultCode};
use common::runtime::settings::Secret;
use std::sync::Arc;
use subtle::{Choice, ConstantTimeEq as _};

use crate::error::Failure;
use crate::limits;

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everybody.
    None,
    /// Holders of a lab token.
    Lab,
    /// Holders of an admin token.
    Admin,
}

/// What the holder of a good token may do. A token that is in both lists has both rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Caller {
    is_lab: bool,
    is_admin: bool,
}

/// The tokens that are good, as digests: they are compared at one length, and a core dump shows none.
#[derive(Clone)]
pub(crate) struct Tokens {
    lab: Arc<[[u8; DIGEST_BYTES]]>,
    admin: Arc<[[u8; DIGEST_BYTES]]>,
}

/// What stands before one route.
#[derive(Clone)]
pub(crate) struct Gate {
    pub(crate) role: Role,
    pub(crate) tokens: Tokens,
    pub(crate) clock: Arc<dyn Clock>,
}

const DIGEST_BYTES: usize = 32;
const SCHEME: &[u8] = b"bearer";

/// Lets a request pass if its caller has the role and its body is within bounds, in this order.
pub(crate) async fn admit(
    State(gate): State<Gate>,
    request: Request,
    next: Next,
) -> Result<Response, Failure> {
    gate.tokens.authorize(request.headers(), gate.role)?;
    let (parts, body) = request.into_parts();
    // Only operators' routes read a body.
    let is_kept = gate.role == Role::Admin;
    let body = limits::take_in(&parts.headers, body, is_kept, &*gate.clock).await?;
    Ok(next.run(Request::from_parts(parts, body.into())).await)
}

// === impl Role ===

impl Role {
    fn is_held_by(self, caller: Caller) -> bool {
        match self {
            Self::None => true,
            Self::Lab => caller.is_lab,
            Self::Admin => caller.is_admin,
        }
    }
}

// === impl Tokens ===

impl Tokens {
    pub(crate) fn new(lab: &[Secret], admin: &[Secret]) -> Self {
        let digests = |secrets: &[Secret]| {
            secrets.iter().map(|secret| fingerprint(secret.expose().as_bytes())).collect()
        };
        Self { lab: digests(lab), admin: digests(admin) }
    }

    fn authorize(&self, headers: &HeaderMap, role: Role) -> Result<(), Fault> {
        if role == Role::None {
            return Ok(());
        }
        let caller = bearer_token(headers).and_then(|token| self.caller(token)).ok_or_else(|| {
            Fault::new(FaultCode::Unauthorized, "a valid token is needed: `Authorization: Bearer <token>`")
        })?;
        if role.is_held_by(caller) {
            Ok(())
        } else {
            Err(Fault::new(FaultCode::Forbidden, "this token does not give the right to do this"))
        }
    }

    // Takes the same time for every token of one length, whether and where it matches.
    fn caller(&self, token: &[u8]) -> Option<Caller> {
        let presented = fingerprint(token);
        let is_among = |digests: &[[u8; DIGEST_BYTES]]| {
            let found =
                digests.iter().fold(Choice::from(0), |found, digest| found | digest.ct_eq(&presented));
            bool::from(found)
        };
        let caller = Caller { is_lab: is_among(&self.lab), is_admin: is_among(&self.admin) };
        (caller.is_lab || caller.is_admin).then_some(caller)
    }
}

fn fingerprint(token: &[u8]) -> [u8; DIGEST_BYTES] {
    let mut bytes = [0; DIGEST_BYTES];
    for (byte, digested) in bytes.iter_mut().zip(digest(&SHA256, token).as_ref()) {
        *byte = *digested;
    }
    bytes
}

// Two `Authorization` headers are a smuggling attempt or a mistake; neither is taken.
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
    fn the_scheme_may_be_written_in_any_case() {
        for good in ["Bearer t", "bearer t", "BEARER   t", "Bearer\tt"] {
            assert_eq!(bearer_token(&headers(&[good])), Some(b"t".as_slice()), "{good}");
        }
        for bad in ["t", "Bearer", "Bearer ", "Bearert", "Basic t", ""] {
            assert_eq!(bearer_token(&headers(&[bad])), None, "{bad}");
        }
        assert_eq!(bearer_token(&headers(&["Bearer t", "Bearer t"])), None);
    }

    #[test]
    fn every_token_of_a_list_is_good_and_no_other() {
        let secrets = |texts: &[&str]| texts.iter().map(|text| Secret::new(*text)).collect::<Vec<_>>();
        let tokens = Tokens::new(&secrets(&["old", "new", "both"]), &secrets(&["root", "both"]));
        let rights = |token: &str| tokens.caller(token.as_bytes()).map(|one| (one.is_lab, one.is_admin));
        assert_eq!(rights("old"), Some((true, false)));
        assert_eq!(rights("new"), Some((true, false)));
        assert_eq!(rights("root"), Some((false, true)));
        assert_eq!(rights("both"), Some((true, true)));
        for wrong in ["", "ol", "oldx", "OLD", "old,new"] {
            assert_eq!(rights(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_fingerprint_is_sha_256() {
        let expected = [0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea];
        assert_eq!(fingerprint(b"abc")[..8], expected);
    }
}
