//! The failures of each route, by status, with an example of every code.

use contract::{Fault, FaultBody, FaultCode, Verb};
use std::collections::BTreeMap;
use strum::IntoEnumIterator as _;
use utoipa::openapi::example::ExampleBuilder;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::{ContentBuilder, Ref, RefOr};
use utoipa::{IntoResponses, ToSchema};

/// Failures of the checks in front of a route with a role.
const GATE: &[FaultCode] = &[
    FaultCode::InvalidRequest,
    FaultCode::Unauthorized,
    FaultCode::Forbidden,
    FaultCode::RequestTimeout,
    FaultCode::BodyTooLarge,
    FaultCode::RateLimitExceeded,
];
/// Failures of relaying a request to the workers.
const RELAY: &[FaultCode] = &[
    FaultCode::InternalError,
    FaultCode::NoWorkers,
    FaultCode::StoreUnavailable,
    FaultCode::StoreThrottled,
    FaultCode::UpstreamUnavailable,
    FaultCode::Timeout,
];
/// Failures of the checks in front of an open route.
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
    /// For probes of load balancers, which have no rate limit.
    OfProbe: OPEN;
    /// For any other open route.
    OfOpen: OPEN => RateLimitExceeded;
    /// For an open route with a name in its path.
    OfOpenFile: OPEN => NotFound, RateLimitExceeded;
    /// For a claim.
    OfClaim: GATE, RELAY, Verb::Allocate.own_faults();
    /// For reading one's own sandbox.
    OwnReadFaults: GATE, RELAY, Verb::Get.own_faults();
    /// For a release.
    OfRelease: GATE, RELAY, Verb::Release.own_faults();
    /// For an extension.
    OfExtend: GATE, RELAY, Verb::Extend.own_faults();
    /// For a command.
    OfExecute: GATE, RELAY, Verb::Execute.own_faults();
    /// For the list of one's own claims.
    OfOwnList: GATE, RELAY, Verb::Claims.own_faults();
    /// For a change of what a container does.
    OfRuntime: GATE, RELAY, Verb::Runtime.own_faults();
    /// For draining or activating a node.
    OfNodeOrder: GATE, RELAY, Verb::DrainNode.own_faults();
    /// For an operator's list.
    ReadFaults: GATE, RELAY;
    /// For an operator's view of one item.
    ReadOneFaults: GATE, RELAY, Verb::Deletion.own_faults();
    /// For an operator's action on one item.
    OfOrder: GATE, RELAY, Verb::Replay.own_faults();
    /// For making or changing a pool.
    OfPutPool: GATE, RELAY, Verb::PutPool.own_faults();
    /// For draining or removing a pool.
    OfPoolOrder: GATE, RELAY, Verb::DrainPool.own_faults();
    /// For writing a template.
    OfPutTemplate: GATE, RELAY, Verb::PutTemplate.own_faults();
    /// For removing a template.
    OfTemplateOrder: GATE, RELAY, Verb::RemoveTemplate.own_faults();
    /// For the bulk removal of records.
    OfBulkDelete: GATE, RELAY, Verb::BulkDelete.own_faults();
    /// For a run on demand.
    OfRun: GATE => NoWorkers, UpstreamUnavailable;
    /// For a run that may be forced.
    OfForcedRun: GATE => NoWorkers, UpstreamUnavailable, Contended;
    /// For reading the report of a run.
    OfReport: GATE => NotFound, UpstreamUnavailable;
    /// For following events.
    OfEvents: GATE => NoWorkers, UpstreamUnavailable;
    /// For the switch of all deletions.
    OfSwitch: GATE => UpstreamUnavailable;
}

fn described(codes: &[FaultCode]) -> BTreeMap<String, RefOr<Response>> {
    let mut by_status: BTreeMap<u16, Vec<FaultCode>> = BTreeMap::new();
    for code in FaultCode::iter().filter(|code| codes.contains(code)) {
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

/// An example message of a code; real messages may differ.
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
        FaultCode::PoolExhausted => {
            "there is no free sandbox in pool main whose name begins with `lab-dns-`; the last census counted 12 in labs free"
        }
        FaultCode::KeyInUse => "the key belongs to a request that asked for something else; use another key",
        FaultCode::InvalidState => "a sandbox in this state cannot be released",
        FaultCode::AllocationExpired => "the lease has expired",
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
