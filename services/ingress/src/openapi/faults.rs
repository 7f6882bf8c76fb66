//! The failures of each route, by status, with an example of every code.

use contract::{Fault, FaultBody, FaultCode, Verb};
use std::collections::BTreeMap;
use utoipa::openapi::example::ExampleBuilder;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::{ContentBuilder, Ref, RefOr};
use utoipa::{IntoResponses, ToSchema};

/// What the gate says before any handler of a route that needs a token.
const GATE: &[FaultCode] = &[
    FaultCode::InvalidRequest,
    FaultCode::Unauthorized,
    FaultCode::Forbidden,
    FaultCode::RequestTimeout,
    FaultCode::BodyTooLarge,
    FaultCode::RateLimitExceeded,
];
/// What may become of a request that is passed on to the workers.
const RELAY: &[FaultCode] = &[
    FaultCode::InternalError,
    FaultCode::NoWorkers,
    FaultCode::StoreUnavailable,
    FaultCode::StoreThrottled,
    FaultCode::UpstreamUnavailable,
    FaultCode::Timeout,
];
/// What the gate says on an open route.
const OPEN: &[FaultCode] = &[FaultCode::BodyTooLarge];

/// Failures of a route, for its description.
macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident: $($group:expr),+ $(=> $($code:ident),+)?;)+) => {
        $(
            $(#[$doc])*
            pub(crate) enum $name {}

            impl IntoResponses for $name {
                fn responses() -> BTreeMap<String, RefOr<Response>> {
                    described(&[$($group,)+ &[$($(FaultCode::$code),+)?]].concat())
                }
            }
        )+
    };
}

faults! {
    /// Of what load balancers ask, which is never refused for coming too often.
    OfProbe: OPEN;
    /// Of any other open route.
    OfOpen: OPEN => RateLimitExceeded;
    /// Of an open route that has a name in its path.
    OfOpenFile: OPEN => NotFound, RateLimitExceeded;
    /// Of a claim.
    OfClaim: GATE, RELAY, Verb::Allocate.own_faults();
    /// Of a look at one's own sandbox.
    OwnReadFaults: GATE, RELAY, Verb::Get.own_faults();
    /// Of giving back.
    OfRelease: GATE, RELAY, Verb::Release.own_faults();
    /// Of asking for more time.
    OfExtend: GATE, RELAY, Verb::Extend.own_faults();
    /// Of an operator's look at many things.
    ReadFaults: GATE, RELAY;
    /// Of an operator's look at one thing.
    ReadOneFaults: GATE, RELAY, Verb::Deletion.own_faults();
    /// Of an operator's order about one thing.
    OfOrder: GATE, RELAY, Verb::Replay.own_faults();
    /// Of the removal of records.
    OfBulkDelete: GATE, RELAY, Verb::BulkDelete.own_faults();
    /// Of a run on demand.
    OfRun: GATE => NoWorkers, UpstreamUnavailable;
    /// Of a run that may be forced.
    OfForcedRun: GATE => NoWorkers, UpstreamUnavailable, Contended;
    /// Of a look at a run's report.
    OfReport: GATE => NotFound, UpstreamUnavailable;
    /// Of following the events.
    OfEvents: GATE => NoWorkers, UpstreamUnavailable;
    /// Of the switch of all deletions.
    OfSwitch: GATE => UpstreamUnavailable;
}

fn described(codes: &[FaultCode]) -> BTreeMap<String, RefOr<Response>> {
    let mut by_status: BTreeMap<u16, Vec<FaultCode>> = BTreeMap::new();
    for code in FaultCode::ALL.into_iter().filter(|code| codes.contains(code)) {
        by_status.entry(code.status()).or_default().push(code);
    }
    by_status.into_iter().map(|(status, codes)| (status.to_string(), response(&codes).into())).collect()
}

fn response(codes: &[FaultCode]) -> Response {
    let names: Vec<_> = codes.iter().map(|code| code.as_str()).collect();
    let examples = codes.iter().map(|code| {
        let body = Fault::new(*code, message(*code)).body("01a1fbf8-5833-72d7-9905-4df296534c67");
        let example = ExampleBuilder::new().value(serde_json::to_value(body).ok()).build();
        (code.as_str(), RefOr::T(example))
    });
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name(FaultBody::name())))
        .examples_from_iter(examples)
        .build();
    let mut response =
        ResponseBuilder::new().description(names.join(", ")).content("application/json", content);
    if codes.iter().any(|code| Fault::new(*code, "").retry_after_seconds.is_some()) {
        let header =
            HeaderBuilder::new().description(Some("seconds after which a retry makes sense")).build();
        response = response.header("Retry-After", header);
    }
    response.build()
}

/// What a code may say; the words may be others.
const fn message(code: FaultCode) -> &'static str {
    match code {
        FaultCode::MissingSandboxId => {
            "X-Instruqt-Sandbox-ID (or the older X-Track-ID) has to name the owner"
        }
        FaultCode::InvalidRequest => {
            "X-Lab-Duration must be whole hours (4 or 4h), minutes (90m) or both (1h30m), at least one minute"
        }
        FaultCode::Unauthorized => "a valid token is needed: `Authorization: Bearer <token>`",
        FaultCode::Forbidden => "this token does not give the right to do this",
        FaultCode::NotSandboxOwner => "this sandbox is not allocated to you",
        FaultCode::NotFound => "there is no such sandbox",
        FaultCode::MethodNotAllowed => "this path does not know this method; see `Allow`",
        FaultCode::RequestTimeout => "the body did not arrive within 15000 ms",
        FaultCode::HeadTooLarge => "the head of a request may have at most 16384 bytes and 64 headers",
        FaultCode::BodyTooLarge => "the body may have at most 65536 bytes",
        FaultCode::PoolExhausted => "there is no free sandbox for this pool and prefix",
        FaultCode::InvalidState => "this sandbox cannot be given back as it is",
        FaultCode::AllocationExpired => "the lease is over",
        FaultCode::RateLimitExceeded => "too many requests of this owner; wait and repeat",
        FaultCode::Contended => "others were faster for every free sandbox; repeat with the same key",
        FaultCode::NoWorkers => "no worker took the request; try again shortly",
        FaultCode::NotHere => "no worker that was asked serves pool old; it is being added, or was removed",
        FaultCode::StoreUnavailable => "the table does not answer; repeat with the same key",
        FaultCode::StoreThrottled => {
            "the table has more to do than it is provisioned for; repeat with the same key"
        }
        FaultCode::UpstreamUnavailable => "the broker cannot reach its workers; try again shortly",
        FaultCode::Timeout => {
            "no answer in time; repeat the same request, it is safe and leads to the same result"
        }
        FaultCode::InternalError => "the broker made a mistake; it has been logged",
    }
}
